package cli

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

func (s *shell) baselineCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "baseline",
		Aliases: []string{"baselines"},
		Short:   "Capture what runs now, and compare with it later",
		Long: `Capture what runs, is registered and is declared in clusters now, and how people's
sessions fared in the day before; compare with it later. A baseline is called
NAME/CLUSTER. Rollouts capture one of each cluster before they touch it.`,
	}, s.captureCommand(), s.baselineListCommand(), s.baselineShowCommand(), s.baselineDiffCommand())
}

// baselineName is what a person may call a baseline.
var baselineName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// baselineArg takes the id of a baseline, with or without its kind.
func baselineArg(given string) (string, error) {
	id := given
	if strings.Count(id, "/") == 2 { // a baseline may itself be called baseline
		id = named(id, "baseline")
	}
	name, cluster, found := strings.Cut(id, "/")
	if _, err := clusterArgs([]string{cluster}); !found || err != nil || !baselineName.MatchString(name) {
		return "", usage("%q is not the id of a baseline; write NAME/CLUSTER, as `lockstep baseline list` shows it", given)
	}
	return id, nil
}

func (s *shell) captureCommand() *cobra.Command {
	var out, name string
	c := &cobra.Command{
		Use:   "capture [CLUSTER...]",
		Short: "Capture a baseline of clusters",
		Long: `Capture a baseline of every cluster, or of those named. Nothing is touched in them.
Without --name it is called after the time.

Use it before you change something by hand.`,
		Example: `  lockstep baseline capture
  lockstep baseline capture berlin paris --name before-openssl
  lockstep baseline capture -o name`,
		ValidArgsFunction: s.every(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			clusters, err := clusterArgs(args)
			if err != nil {
				return err
			}
			if name != "" && !baselineName.MatchString(name) {
				return usage("--name %q: begin with one of a-z and 0-9, go on with those, '.', '-' and '_', at most 63 in all", name)
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.CaptureBaseline(c.Context(), &driftv1.CaptureBaselineRequest{Clusters: clusters, Name: name})
			if err != nil {
				return cl.failed("capture a baseline", err)
			}
			return s.printBaselines(res.GetBaselines(), out)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVar(&name, "name", "", "what to call it (default: after the time)")
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func (s *shell) baselineListCommand() *cobra.Command {
	var out, cluster, name, rollout string
	limit := 0
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List baselines, the newest first",
		Long: `List baselines, the newest first: what the state was, how people's sessions had
fared, and who or which rollout captured it.

Use it to find the one from before a change.`,
		Example: `  lockstep baseline list --cluster berlin
  lockstep baseline list --rollout r33b518cc90 -o name`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkLimit(limit); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.ListBaselines(c.Context(), &driftv1.ListBaselinesRequest{
				Cluster: named(cluster, "cluster"), Name: name, Rollout: named(rollout, "rollout"), PageSize: int32(limit),
			})
			if err != nil {
				return cl.failed("list baselines", err)
			}
			if err := s.printBaselines(res.GetBaselines(), out); err != nil || out != "table" && out != "wide" {
				return err
			}
			s.cut(len(res.GetBaselines()), limit)
			return nil
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVarP(&cluster, "cluster", "c", "", "only of this `cluster`")
	c.Flags().StringVar(&name, "name", "", "only those called so")
	c.Flags().StringVar(&rollout, "rollout", "", "only those that this `rollout` captured")
	s.completeFlag(c, "cluster", clusterIDs)
	s.completeFlag(c, "rollout", rolloutIDs)
	limitFlag(c, &limit, "baselines")
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func (s *shell) printBaselines(list []*driftv1.Baseline, out string) error {
	switch out {
	case "json", "yaml":
		return objects(s, list, out)
	case "name":
		names := make([]string, len(list))
		for i, b := range list {
			names[i] = b.GetId()
		}
		return s.names("baseline", names)
	}
	if len(list) == 0 {
		s.talk("There are no baselines; `lockstep baseline capture` makes one.")
		return nil
	}
	t := &table{header: []string{"BASELINE", "AGE", "STATE", "ASSIGNED", "RUNNING", "FAILED"}}
	if out == "wide" {
		t.header = []string{"BASELINE", "CAPTURED", "BY", "ROLLOUT", "STATE", "ASSIGNED", "RUNNING", "FAILED", "OPEN", "PROBES FAILED"}
	}
	for _, b := range list {
		was, n := b.GetCluster(), b.GetSessions()
		runs, failed := linesText(was.GetLines()), share(n.GetFailed(), n.GetSucceeded())
		if out == "wide" {
			t.add(b.GetId(), s.instant(b.GetAt()), b.GetBy(), b.GetRollout(), was.GetState(), was.GetAssignedRelease(), runs, failed,
				fmt.Sprint(n.GetOpen()), share(n.GetProbesFailed(), n.GetProbes()-n.GetProbesFailed()))
		} else {
			t.add(b.GetId(), s.age(b.GetAt()), was.GetState(), was.GetAssignedRelease(), runs, failed)
		}
	}
	return s.print(t.render(s.colour))
}

func (s *shell) baselineShowCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:     "show NAME/CLUSTER",
		Aliases: []string{"get"},
		Short:   "Show one baseline whole",
		Long: `Show one baseline whole: instances with their versions, bastions and their last
report, what was declared, and how sessions had fared.

Use it to see what there was to go back to.`,
		Example: `  lockstep baseline show before-openssl/berlin
  lockstep baseline show before-openssl/berlin -o json | jq '.cluster.instances[] | [.component, .version]'`,
		Args:              exactly("NAME/CLUSTER"),
		ValidArgsFunction: s.first(baselineIDs),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := baselineArg(args[0])
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.GetBaseline(c.Context(), &driftv1.GetBaselineRequest{Id: id})
			if err != nil {
				return cl.failed("get baseline "+id, err)
			}
			switch out {
			case "json", "yaml":
				return s.object(res.GetBaseline(), out)
			case "name":
				return s.names("baseline", []string{id})
			}
			return s.print(s.baselineText(res.GetBaseline(), out == "wide"))
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func (s *shell) baselineText(b *driftv1.Baseline, wide bool) string {
	was, then := b.GetCluster(), b.GetAt().AsTime()
	a := &account{width: len("Captured")}
	fmt.Fprintf(a, "Baseline %s of cluster %s\n", clean(b.GetId()), clean(b.GetClusterId()))
	a.say("Captured", "%s%s", s.whenAndAgo(s.Now(), b.GetAt()), captor(b))
	a.say("State", "%s", paint(clean(was.GetState()), s.colour))
	a.list("Because", was.GetReasons())
	a.say("Assigned", "%s", cmp.Or(clean(was.GetAssignedRelease()), "-"))
	a.say("Reported", "%s", s.instant(was.GetLastReport()))
	if n := b.GetSessions(); n != nil {
		a.say("Sessions", "%s, %d open, from %s until %s", failedOf(n.GetFailed(), n.GetSucceeded()+n.GetFailed()), n.GetOpen(), s.instant(n.GetFrom()), s.instant(n.GetTo()))
		if n.GetProbes() > 0 {
			a.say("Probes", "%s", failedOf(n.GetProbesFailed(), n.GetProbes()))
		}
	}
	s.runsText(a, was, then, wide)
	return a.String()
}

// captor is who captured a baseline, in words.
func captor(b *driftv1.Baseline) string {
	switch {
	case b.GetRollout() != "":
		return " by rollout " + clean(b.GetRollout())
	case b.GetBy() != "":
		return " by " + clean(b.GetBy())
	}
	return ""
}

// failedOf is how many failed of how many, with the rate.
func failedOf(failed, all int64) string {
	if all == 0 {
		return "none ended"
	}
	return fmt.Sprintf("%s of %s failed (%s)", thousands(float64(failed)), thousands(float64(all)), percent(float64(failed)/float64(all)))
}

func (s *shell) baselineDiffCommand() *cobra.Command {
	var out string
	var exitCode bool
	c := &cobra.Command{
		Use:     "diff NAME/CLUSTER [NAME/CLUSTER]",
		Aliases: []string{"compare"},
		Short:   "Tell what is different since a baseline, or between two",
		Long: `Tell what is different since a baseline, or between two of the same cluster, the
earlier one first. The times of reports and the counts of sessions alone are no
difference.

With --exit-code it leaves with 3 when there is one, else with 0.

Use it during an upgrade and after it, to see that what was meant to move has moved
and nothing else.`,
		Example: `  lockstep baseline diff before-openssl/berlin
  lockstep baseline diff monday/berlin tuesday/berlin -o json | jq '.differences[].text'
  lockstep baseline diff before-openssl/berlin --exit-code`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return usage("%s takes NAME/CLUSTER once or twice, got %s\nRun '%s --help' for usage.", c.CommandPath(), count(int64(len(args)), "argument"), c.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: s.every(baselineIDs),
		RunE: func(c *cobra.Command, args []string) error {
			ask := &driftv1.CompareBaselineRequest{}
			var err error
			if ask.Id, err = baselineArg(args[0]); err != nil {
				return err
			}
			if len(args) == 2 {
				if ask.With, err = baselineArg(args[1]); err != nil {
					return err
				}
				if clusterOf(ask.GetId()) != clusterOf(ask.GetWith()) {
					return usage("%s and %s are of two clusters; two baselines of one cluster can be compared", ask.GetId(), ask.GetWith())
				}
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.CompareBaseline(c.Context(), ask)
			if err != nil {
				return cl.failed("compare with baseline "+ask.GetId(), err)
			}
			if out == "table" {
				err = s.printDifferences(res)
			} else {
				err = s.object(res, out)
			}
			if err == nil && exitCode && !res.GetSame() {
				return &exit{codeHeld, fmt.Sprintf("%s is not as it was", clusterOf(ask.GetId()))}
			}
			return err
		},
	}
	s.connectionFlags(c)
	c.Flags().BoolVar(&exitCode, "exit-code", false, "leave with exit code 3 when something is different")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

// clusterOf is the cluster of a baseline's id.
func clusterOf(id string) string {
	_, cluster, _ := strings.Cut(id, "/")
	return cluster
}

func (s *shell) printDifferences(res *driftv1.CompareBaselineResponse) error {
	after := func(at *timestamppb.Timestamp, id string) string {
		if id == "" {
			return "now"
		}
		return fmt.Sprintf("%s of %s", clean(id), s.instant(at))
	}
	a := &account{}
	fmt.Fprintf(a, "Cluster %s, %s compared with %s of %s.\n", clean(res.GetBefore().GetClusterId()),
		after(res.GetAfter().GetAt(), res.GetAfter().GetId()), clean(res.GetBefore().GetId()), s.instant(res.GetBefore().GetAt()))
	if res.GetSame() {
		a.WriteString("It is as it was.\n")
	}
	if len(res.GetDifferences()) == 0 {
		return s.print(a.String())
	}
	a.WriteByte('\n')
	t := &table{header: []string{"ABOUT", "WHAT", "BEFORE", "AFTER"}}
	for _, d := range res.GetDifferences() {
		fmt.Fprintf(a, "  %s\n", clean(d.GetText()))
		t.add(d.GetAbout(), d.GetSubject(), d.GetBefore(), d.GetAfter())
	}
	a.table(t, s.colour)
	return s.print(a.String())
}
