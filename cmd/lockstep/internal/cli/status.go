package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

func (s *shell) statusCommand() *cobra.Command {
	var out string
	var watch bool
	var interval time.Duration
	c := &cobra.Command{
		Use:     "status [CLUSTER...]",
		Aliases: []string{"st"},
		Short:   "Show what runs where, and whether it belongs together",
		Long: `Show every cluster, or those named: its lockstep state, what runs on each
version line, the release it is expected to run, and why it is in that state.

States: locked (all on one intended set), stepping (mixed inside a rollout's
window), overdue (mixed past it), drifted (differs from the assigned release
without a rollout), dark (reports stopped), unknown.

With --watch, clusters that change are printed again, as one JSON object a line
with -o json, until interrupted.

Use it first of all, whatever the question is.`,
		Example: `  lockstep status
  lockstep status berlin paris -o wide
  lockstep status --watch -o json | jq -c '{id, state}'`,
		ValidArgsFunction: s.every(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if watch && (out == "yaml" || out == "name") {
				return usage("--watch prints a table or one JSON object a line; use it with -o table, wide or json")
			}
			if interval <= 0 {
				return usage("--interval %s is not a length of time; write for example 2s", interval)
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			if watch {
				return s.watchStatus(c.Context(), cl, args, out, interval)
			}
			clusters, err := cl.clusters(c.Context(), args)
			if err != nil {
				return err
			}
			return s.printStatus(clusters, out)
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on and print every change")
	c.Flags().DurationVar(&interval, "interval", 2*time.Second, "how often --watch asks")
	return c
}

// clusters fetches the clusters named, or all, in order of id.
func (c *client) clusters(ctx context.Context, names []string) ([]*fleetv1.Cluster, error) {
	var all []*fleetv1.Cluster
	for token := ""; ; {
		res, err := c.fleet.ListClusters(ctx, &fleetv1.ListClustersRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, c.failed("list clusters", err)
		}
		all = append(all, res.GetClusters()...)
		if token = res.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	missing := make(map[string]bool, len(names))
	for _, name := range names {
		missing[name] = true
	}
	found := slices.DeleteFunc(all, func(cluster *fleetv1.Cluster) bool {
		if !slices.Contains(names, cluster.GetId()) {
			return true
		}
		delete(missing, cluster.GetId())
		return false
	})
	if len(missing) > 0 {
		return nil, fmt.Errorf("find clusters: there is none named %s; `lockstep status -o name` lists all", strings.Join(slices.Sorted(maps.Keys(missing)), " or "))
	}
	return found, nil
}

func (s *shell) printStatus(clusters []*fleetv1.Cluster, out string) error {
	switch out {
	case "json", "yaml":
		return objects(s, clusters, out)
	case "name":
		for _, c := range clusters {
			if err := s.print("cluster/" + clean(c.GetId()) + "\n"); err != nil {
				return err
			}
		}
		return nil
	}
	if len(clusters) == 0 {
		s.talk("There are no clusters; declare them under clusters: in fleet.yaml.")
		return nil
	}
	t := s.statusTable(clusters, out == "wide")
	return s.print(t.render(s.colour))
}

func (s *shell) statusTable(clusters []*fleetv1.Cluster, wide bool) *table {
	t := &table{header: []string{"CLUSTER", "STATE", "SINCE", "GATEWAY", "SRA", "ASSIGNED", "ROLLOUT", "REASON"}}
	if wide {
		t.header = []string{"CLUSTER", "STATE", "SINCE", "GATEWAY", "WANTED", "SRA", "WANTED", "ASSIGNED", "ROLLOUT", "HEALTHY", "SEEN", "BASTIONS", "REPORTED", "REASON"}
	}
	for _, c := range clusters {
		gateway, sra := line(c, "gateway"), line(c, "sra")
		since := s.age(c.GetSince())
		if !wide {
			t.add(c.GetId(), c.GetState(), since, running(gateway), running(sra), c.GetAssignedRelease(), c.GetRollout(), firstReason(c.GetReasons()))
			continue
		}
		t.add(c.GetId(), c.GetState(), since, running(gateway), gateway.GetAssigned(), running(sra), sra.GetAssigned(), c.GetAssignedRelease(), c.GetRollout(),
			healthy(c.GetInstances()), s.age(c.GetLastSeen()), bastions(c.GetBastions()), s.age(c.GetLastReport()), strings.Join(c.GetReasons(), "; "))
	}
	return t
}

func line(c *fleetv1.Cluster, name string) *fleetv1.Line {
	for _, l := range c.GetLines() {
		if l.GetLine() == name {
			return l
		}
	}
	return nil
}

func running(l *fleetv1.Line) string { return strings.Join(l.GetRunning(), ", ") }

func firstReason(reasons []string) string {
	switch len(reasons) {
	case 0:
		return ""
	case 1:
		return reasons[0]
	}
	return fmt.Sprintf("%s (and %d more)", reasons[0], len(reasons)-1)
}

// healthy counts the instances that no health check speaks against.
func healthy(instances []*fleetv1.Instance) string {
	well := 0
	for _, i := range instances {
		if i.GetHealth() == "healthy" || i.GetHealth() == "none" {
			well++
		}
	}
	return fmt.Sprintf("%d/%d", well, len(instances))
}

// bastions lists the distinct versions that the vendor knows of.
func bastions(list []*fleetv1.Bastion) string {
	if len(list) == 0 {
		return ""
	}
	var versions []string
	for _, b := range list {
		v := b.GetVersion()
		if v == "" {
			v = "unreported"
		}
		if !slices.Contains(versions, v) {
			versions = append(versions, v)
		}
	}
	slices.Sort(versions)
	return fmt.Sprintf("%d (%s)", len(list), strings.Join(versions, ", "))
}

// watchStatus prints every cluster once and afterwards those that changed. It
// asks again and again, as the fleet's answers are a view and not a stream.
func (s *shell) watchStatus(ctx context.Context, cl *client, names []string, out string, interval time.Duration) error {
	printed := map[string]*fleetv1.Cluster{}
	var widths []int
	lost := false
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		clusters, err := cl.clusters(ctx, names)
		switch {
		case ctx.Err() != nil:
			return nil // interrupted, which is how a watch ends
		case err != nil && (len(printed) == 0 || !passing(err)):
			return err
		case err != nil && !lost:
			lost = true
			s.talk("The server does not answer; trying again.")
		case err == nil:
			if lost {
				s.talk("The server answers again.")
			}
			lost = false
			if err := s.printChanged(clusters, printed, &widths, out); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printChanged prints the clusters that differ from what was printed of them.
// Ages alone do not make a difference.
func (s *shell) printChanged(clusters []*fleetv1.Cluster, printed map[string]*fleetv1.Cluster, widths *[]int, out string) error {
	var changed []*fleetv1.Cluster
	for _, c := range clusters {
		if before, known := printed[c.GetId()]; !known || !proto.Equal(lasting(before), lasting(c)) {
			changed = append(changed, c)
			printed[c.GetId()] = c
		}
	}
	if out == "json" {
		for _, c := range changed {
			if err := s.line(c); err != nil {
				return err
			}
		}
		return nil
	}
	if len(changed) == 0 {
		return nil
	}
	t := s.statusTable(changed, out == "wide")
	if *widths == nil {
		*widths = t.widths()
		return s.print(t.render(s.colour))
	}
	var b strings.Builder
	for _, row := range t.rows {
		writeRow(&b, row, *widths, s.colour)
	}
	return s.print(b.String())
}

// lasting is the cluster without what changes at every look.
func lasting(c *fleetv1.Cluster) *fleetv1.Cluster {
	c = proto.CloneOf(c)
	c.LastSeen, c.LastReport = nil, nil
	return c
}
