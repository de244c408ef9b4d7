package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	var which selection
	order := "id"
	c := &cobra.Command{
		Use:     "status [CLUSTER...]",
		Aliases: []string{"st"},
		Short:   "Show what runs where, and whether it belongs together",
		Long: `Show every cluster, or those named that match: its lockstep state, what runs on
each version line, the release it is expected to run, and why it is in that state.
How many are in which state goes to standard error, the worst first.

States: locked (all instances run one intended set), stepping (mixed inside a
window), overdue (mixed past it), drifted (differs from the assigned release and no
rollout explains it), split (what is declared, running and reported disagree),
withdrawn (runs a version that the vendor took back), dark (reports have stopped),
unknown (nothing was reported, or no release is assigned).

With --watch, clusters that change are printed again, as one JSON object a line
with -o json, until interrupted. One that is gone or matches no longer is told as
gone, in JSON as {"id": ID, "gone": true}. With --as-of the fleet is shown as it was
known then, and lengths of time count up to then.

Use it first of all, whatever the question is.`,
		Example: `  lockstep status
  lockstep status berlin paris -o wide
  lockstep status -l env=prod --state overdue,drifted --sort state
  lockstep status --version sra=3.0.3 --as-of 36h
  lockstep status --watch -o json | jq -c '{id, state}'`,
		ValidArgsFunction: s.every(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if watch && (out == "yaml" || out == "name") {
				return usage("--watch prints a table or one JSON object a line; use it with -o table, wide or json")
			}
			if watch && which.asOf != "" {
				return usage("--watch shows what comes and --as-of what was; give one of them")
			}
			ask, err := which.request(s, args)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			if watch {
				return s.watchStatus(c.Context(), cl, ask, out, order)
			}
			if out == "table" || out == "name" {
				ask.View = fleetv1.ClusterView_CLUSTER_VIEW_BASIC
			}
			clusters, err := cl.clusters(c.Context(), ask)
			if err != nil {
				return err
			}
			arrange(clusters, order)
			return s.printStatus(clusters, out, s.then(ask), which.narrowed(), which.asOf != "")
		},
	}
	s.connectionFlags(c)
	which.flags(s, c)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	orders := []string{"id", "state", "since"}
	c.Flags().Var(choice{&order, orders}, "sort", "`order`: id, state (the worst first) or since (the newest first)")
	offer(c, "sort", orders...)
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on and print every change")
	return c
}

// then is the time that an answer is about.
func (s *shell) then(ask *fleetv1.ListClustersRequest) time.Time {
	if ask.GetAsOf() != nil {
		return ask.GetAsOf().AsTime()
	}
	return s.Now()
}

func (s *shell) printStatus(clusters []*fleetv1.Cluster, out string, now time.Time, narrowed, past bool) error {
	switch out {
	case "json", "yaml":
		return objects(s, clusters, out)
	case "name":
		return s.names("cluster", idsOf(clusters))
	}
	if len(clusters) == 0 {
		s.noClusters(narrowed, past)
		return nil
	}
	if err := s.print(statusTable(clusters, out == "wide", now).render(s.colour)); err != nil {
		return err
	}
	s.talk("%s", totals(clusters))
	return nil
}

// idsOf lists the ids of clusters.
func idsOf(clusters []*fleetv1.Cluster) []string {
	list := make([]string, len(clusters))
	for i, c := range clusters {
		list[i] = c.GetId()
	}
	return list
}

func statusTable(clusters []*fleetv1.Cluster, wide bool, now time.Time) *table {
	t := &table{header: []string{"CLUSTER", "STATE", "SINCE", "GATEWAY", "SRA", "ASSIGNED", "ROLLOUT", "REASON"}}
	if wide {
		t.header = []string{"CLUSTER", "STATE", "SINCE", "GATEWAY", "WANTED", "SRA", "WANTED", "ASSIGNED", "ROLLOUT", "HEALTHY", "SEEN", "BASTIONS", "REPORTED", "REASON"}
	}
	for _, c := range clusters {
		gateway, sra := line(c, "gateway"), line(c, "sra")
		since := ago(now, c.GetSince())
		if !wide {
			t.add(c.GetId(), c.GetState(), since, running(gateway), running(sra), c.GetAssignedRelease(), c.GetRollout(), firstReason(c.GetReasons()))
			continue
		}
		t.add(c.GetId(), c.GetState(), since, running(gateway), gateway.GetAssigned(), running(sra), sra.GetAssigned(), c.GetAssignedRelease(), c.GetRollout(),
			healthy(c), ago(now, c.GetLastSeen()), bastions(c.GetBastions()), ago(now, c.GetLastReport()), strings.Join(c.GetReasons(), "; "))
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
func healthy(c *fleetv1.Cluster) string {
	instances := c.GetInstances()
	if len(instances) == 0 && c.GetLastSeen() == nil {
		return "" // nobody told, or not of that time
	}
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

// watchStatus prints every cluster that matches once and afterwards those that
// changed. A connection that is lost is taken up again.
func (s *shell) watchStatus(ctx context.Context, cl *client, ask *fleetv1.ListClustersRequest, out, order string) error {
	req := &fleetv1.WatchClustersRequest{
		States: ask.GetStates(), Ids: ask.GetIds(), Release: ask.GetRelease(), LabelSelector: ask.GetLabelSelector(), Versions: ask.GetVersions(),
	}
	w := fleetWatch{shell: s, out: out, order: order, printed: make(map[string]*fleetv1.Cluster)}
	ever, lost := false, false
	for {
		w.looking, w.look = true, nil
		err := cl.watchClusters(ctx, req, func(res *fleetv1.WatchClustersResponse) error {
			if lost {
				s.talk("The server answers again.")
			}
			ever, lost = true, false
			return w.take(res)
		})
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // interrupted, which is how a watch ends
		case err != nil && (!ever || !passing(err)):
			return err
		case !lost:
			lost = true
			s.talk("The server does not answer; trying again.")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// watchClusters calls each with every message until the stream ends.
func (c *client) watchClusters(ctx context.Context, req *fleetv1.WatchClustersRequest, each func(*fleetv1.WatchClustersResponse) error) error {
	const doing = "watch clusters"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.fleet.WatchClusters(ctx, req)
	if err != nil {
		return c.failed(doing, err)
	}
	for {
		res, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.failed(doing, err)
		}
		if err := each(res); err != nil {
			return err
		}
	}
}

// fleetWatch is what a person who watches the fleet has seen of it.
type fleetWatch struct {
	*shell
	out, order string
	printed    map[string]*fleetv1.Cluster
	// looking is set until the first look of a connection is complete; look is what
	// has come of it.
	looking bool
	look    []*fleetv1.Cluster
	widths  []int
}

// take prints what one message says that was not printed before.
func (w *fleetWatch) take(res *fleetv1.WatchClustersResponse) error {
	if !w.looking {
		return w.show(res.GetClusters(), res.GetGone())
	}
	w.look = append(w.look, res.GetClusters()...)
	if !res.GetComplete() {
		return nil
	}
	w.looking = false
	arrange(w.look, w.order)
	var gone []string
	for _, id := range slices.Sorted(maps.Keys(w.printed)) {
		if !slices.ContainsFunc(w.look, func(c *fleetv1.Cluster) bool { return c.GetId() == id }) {
			gone = append(gone, id)
		}
	}
	return w.show(w.look, gone)
}

// show prints the clusters that differ from what was printed of them, and those
// that are gone.
func (w *fleetWatch) show(clusters []*fleetv1.Cluster, gone []string) error {
	var changed []*fleetv1.Cluster
	for _, c := range clusters {
		if before, known := w.printed[c.GetId()]; !known || !proto.Equal(lasting(before), lasting(c)) {
			changed = append(changed, c)
			w.printed[c.GetId()] = c
		}
	}
	for _, id := range gone {
		delete(w.printed, id)
	}
	if w.out == "json" {
		return w.showLines(changed, gone)
	}
	if len(changed)+len(gone) == 0 {
		return nil
	}
	t := statusTable(changed, w.out == "wide", w.Now())
	for _, id := range gone {
		row := make([]string, len(t.header))
		row[0], row[1] = id, "gone"
		t.add(row...)
	}
	if w.widths == nil {
		w.widths = t.widths()
		return w.print(t.render(w.colour))
	}
	var b strings.Builder
	for _, row := range t.rows {
		writeRow(&b, row, w.widths, w.colour)
	}
	return w.print(b.String())
}

func (w *fleetWatch) showLines(changed []*fleetv1.Cluster, gone []string) error {
	for _, c := range changed {
		if err := w.line(c); err != nil {
			return err
		}
	}
	for _, id := range gone {
		raw, err := json.Marshal(struct {
			ID   string `json:"id"`
			Gone bool   `json:"gone"`
		}{id, true})
		if err != nil {
			return fmt.Errorf("encode that %s is gone: %w", clean(id), err)
		}
		if err := w.print(string(raw) + "\n"); err != nil {
			return err
		}
	}
	return nil
}

// lasting is the cluster without what a watch takes for no change.
func lasting(c *fleetv1.Cluster) *fleetv1.Cluster {
	c = proto.CloneOf(c)
	c.LastSeen, c.LastReport, c.Instances, c.Bastions = nil, nil, nil, nil
	return c
}
