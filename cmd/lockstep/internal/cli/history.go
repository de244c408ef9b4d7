package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

func (s *shell) historyCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "history",
		Short: "Sum up how long the fleet was mixed, what it cost, and what ran when",
		Long: `Sum up the fleet's history: how long clusters were mixed, inside and outside their
windows, how people's sessions fared meanwhile, which versions ran when, and how fast
releases came to run everywhere. With -o json lengths of time are in seconds, as
"11520s".`,
	}, s.mixedCommand(), s.offendersCommand(), s.adoptionCommand(), s.convergenceCommand(), s.sessionsCommand())
}

// monthBack and quarterBack say which span the server takes without --from.
const monthBack, quarterBack = "default: 30 days before --to", "default: 90 days before --to"

func (s *shell) mixedCommand() *cobra.Command {
	var out string
	var when span
	by, limit := "cluster", 0
	c := &cobra.Command{
		Use:   "mixed",
		Short: "Sum up how long clusters were mixed, inside and outside windows",
		Long: `Sum up how long clusters were mixed: outside windows, which is what burns the
budget, and inside them, which is planned. The longest come first, weeks in order; an
edge is a move from one version set to another.

Use it to answer how long you ran mixed last quarter, and which moves take long.`,
		Example: `  lockstep history mixed
  lockstep history mixed --by week --from 2026-01-01 --to 2026-04-01
  lockstep history mixed --by edge --last 90d -o json | jq '.[] | {key, outside}'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.mixed(c, &when, by, limit, out)
		},
	}
	s.connectionFlags(c)
	when.flags(c, monthBack)
	byFlag(c, &by, "cluster", "edge", "week", "all")
	limitFlag(c, &limit, "rows")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) offendersCommand() *cobra.Command {
	var out string
	var when span
	limit := 10
	c := &cobra.Command{
		Use:   "offenders",
		Short: "List the clusters that were mixed longest past their windows",
		Long: `List the clusters that were mixed longest past their windows, the worst first: the
first ten of 'lockstep history mixed'.

Use it to choose where to look first.`,
		Example: `  lockstep history offenders
  lockstep history offenders --last 90d -n 3`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			return s.mixed(c, &when, "cluster", limit, out)
		},
	}
	s.connectionFlags(c)
	when.flags(c, monthBack)
	limitFlag(c, &limit, "clusters")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

// byFlag adds --by; the first word is the default.
func byFlag(c *cobra.Command, into *string, words ...string) {
	*into = words[0]
	c.Flags().Var(choice{into, words}, "by", "what makes a `row`: "+strings.Join(words, ", "))
	offer(c, "by", words...)
}

func (s *shell) mixed(c *cobra.Command, when *span, by string, limit int, out string) error {
	from, to, err := when.read(s)
	if err != nil {
		return err
	}
	if err := checkLimit(limit); err != nil {
		return err
	}
	cl, err := s.dial()
	if err != nil {
		return err
	}
	defer cl.close()
	res, err := cl.drift.SumMixedTime(c.Context(), &driftv1.SumMixedTimeRequest{From: from, To: to, Group: by, Limit: int32(limit)})
	if err != nil {
		return cl.failed("sum up mixed time", err)
	}
	if out != "table" {
		return objects(s, res.GetRows(), out)
	}
	if len(res.GetRows()) == 0 {
		s.talk("Nothing was mixed from %s until %s.", s.instant(res.GetFrom()), s.instant(res.GetTo()))
		return nil
	}
	t := &table{header: []string{strings.ToUpper(by), "OUTSIDE", "INSIDE", "MIXES", "LONGEST"}}
	for _, r := range res.GetRows() {
		t.add(cmp.Or(r.GetKey(), "all"), length(r.GetOutside()), length(r.GetInside()), strconv.FormatInt(r.GetMixes(), 10), length(r.GetLongest()))
	}
	if err := s.print(t.render(s.colour)); err != nil {
		return err
	}
	s.summed(res.GetFrom(), res.GetTo())
	s.cut(len(res.GetRows()), limit)
	return nil
}

// summed tells the span of a sum.
func (s *shell) summed(from, to *timestamppb.Timestamp) {
	s.talk("From %s until %s.", s.instant(from), s.instant(to))
}

func (s *shell) adoptionCommand() *cobra.Command {
	var out, step string
	var when span
	name := "gateway"
	c := &cobra.Command{
		Use:   "adoption",
		Short: "Count the clusters that ran each version over time",
		Long: `Count the clusters that ran each version of a line, from one instant to the next.
"12 + 3" are 12 clusters that ran it alone and 3 that ran it beside another.

Use it to see how a version came into the fleet, and how long an old one stays.`,
		Example: `  lockstep history adoption
  lockstep history adoption --line sra --last 90d --step 1w
  lockstep history adoption -o json | jq '.[] | [.at, .version, .clusters]'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			from, to, err := when.read(s)
			if err != nil {
				return err
			}
			ask := &driftv1.SumAdoptionRequest{Line: name, From: from, To: to}
			if step != "" {
				long, ok := parseLength(step)
				if !ok || long < time.Minute {
					return usage("--step %q is not a length of time of a minute or more; write for example 6h or 1d", step)
				}
				ask.Step = durationpb.New(long)
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.SumAdoption(c.Context(), ask)
			if err != nil {
				return cl.failed("count the versions of "+name, err)
			}
			return s.printAdoption(res.GetRows(), out)
		},
	}
	s.connectionFlags(c)
	when.flags(c, monthBack)
	c.Flags().StringVar(&name, "line", name, "version `line`: gateway, sra or ztwa")
	offer(c, "line", "gateway", "sra", "ztwa")
	c.Flags().StringVar(&step, "step", "", "the `length` of time from one instant to the next, at least 1m (default: 1d)")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

// printAdoption shows an instant a row and a version a column.
func (s *shell) printAdoption(list []*driftv1.Adoption, out string) error {
	if out != "table" {
		return objects(s, list, out)
	}
	if len(list) == 0 {
		s.talk("Nothing ran in that time.")
		return nil
	}
	var versions []string
	for _, r := range list {
		versions = append(versions, r.GetVersion())
	}
	versions = unique(versions)
	t := &table{header: []string{"AT"}}
	for _, version := range versions {
		t.header = append(t.header, clean(version))
	}
	var at time.Time
	for _, r := range list {
		if len(t.rows) == 0 || !r.GetAt().AsTime().Equal(at) {
			at = r.GetAt().AsTime()
			row := make([]string, len(t.header))
			row[0] = s.instant(r.GetAt())
			t.add(row...)
		}
		cell := strconv.FormatInt(r.GetClusters(), 10)
		if r.GetMixed() > 0 {
			cell += fmt.Sprintf(" + %d", r.GetMixed())
		}
		t.rows[len(t.rows)-1][1+slices.Index(versions, r.GetVersion())] = cell
	}
	return s.print(t.render(s.colour))
}

func (s *shell) convergenceCommand() *cobra.Command {
	var out string
	var when span
	c := &cobra.Command{
		Use:   "convergence",
		Short: "Tell how fast clusters came to run releases",
		Long: `Tell how fast clusters came to run each release that was assigned or rolled out in
that time: how many of those that were to run it came to, and how long that took
half of them, nine in ten, and the slowest.

Use it to plan a maintenance window, and to see which release is stuck.`,
		Example: `  lockstep history convergence
  lockstep history convergence --last 180d -o json | jq '.[] | select(.converged < .clusters)'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			from, to, err := when.read(s)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.SumConvergence(c.Context(), &driftv1.SumConvergenceRequest{From: from, To: to})
			if err != nil {
				return cl.failed("list how fast releases came to run", err)
			}
			return s.printConvergence(res.GetRows(), out)
		},
	}
	s.connectionFlags(c)
	when.flags(c, quarterBack)
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) printConvergence(list []*driftv1.Convergence, out string) error {
	if out != "table" {
		return objects(s, list, out)
	}
	if len(list) == 0 {
		s.talk("No release was assigned or rolled out in that time.")
		return nil
	}
	known := func(d *durationpb.Duration) string {
		if d == nil {
			return ""
		}
		return length(d)
	}
	t := &table{header: []string{"RELEASE", "BEGAN", "ENDED", "CLUSTERS", "HALF", "9 IN 10", "SLOWEST"}}
	for _, r := range list {
		t.add(r.GetRelease(), s.instant(r.GetBeganAt()), s.instant(r.GetEndedAt()), fmt.Sprintf("%d/%d", r.GetConverged(), r.GetClusters()),
			known(r.GetP50()), known(r.GetP90()), known(r.GetLongest()))
	}
	return s.print(t.render(s.colour))
}

func (s *shell) sessionsCommand() *cobra.Command {
	var out string
	var when span
	by, limit := "", 0
	c := &cobra.Command{
		Use:   "sessions",
		Short: "Count failed sessions by whether their cluster was mixed",
		Long: `Count people's sessions, and the failed ones among them, by whether their cluster
was whole, mixed inside a window or mixed past it when they began: "3/120" are 3
failed of 120. Sessions that are open still are not counted.

Use it to tell what drift costs the people who work through the fleet.`,
		Example: `  lockstep history sessions
  lockstep history sessions --by cluster --last 7d
  lockstep history sessions --by week -o json | jq '.[] | [.key, .outside.failed]'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			from, to, err := when.read(s)
			if err != nil {
				return err
			}
			if err := checkLimit(limit); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.SumImpact(c.Context(), &driftv1.SumImpactRequest{From: from, To: to, Group: by, Limit: int32(limit)})
			if err != nil {
				return cl.failed("count sessions", err)
			}
			if out != "table" {
				return objects(s, res.GetRows(), out)
			}
			return s.printImpact(res, by, limit)
		},
	}
	s.connectionFlags(c)
	when.flags(c, monthBack)
	byFlag(c, &by, "all", "cluster", "week")
	limitFlag(c, &limit, "rows")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) printImpact(res *driftv1.SumImpactResponse, by string, limit int) error {
	if len(res.GetRows()) == 0 {
		s.talk("There were no sessions from %s until %s.", s.instant(res.GetFrom()), s.instant(res.GetTo()))
		return nil
	}
	rate := func(f *driftv1.Fared) string {
		if f.GetSessions() == 0 {
			return ""
		}
		return percent(float64(f.GetFailed()) / float64(f.GetSessions()))
	}
	failed := func(f *driftv1.Fared) string { return share(f.GetFailed(), f.GetSessions()-f.GetFailed()) }
	t := &table{header: []string{strings.ToUpper(by), "WHOLE", "RATE", "INSIDE", "RATE", "OUTSIDE", "RATE"}}
	for _, r := range res.GetRows() {
		t.add(cmp.Or(r.GetKey(), "all"), failed(r.GetWhole()), rate(r.GetWhole()), failed(r.GetInside()), rate(r.GetInside()), failed(r.GetOutside()), rate(r.GetOutside()))
	}
	if err := s.print(t.render(s.colour)); err != nil {
		return err
	}
	s.summed(res.GetFrom(), res.GetTo())
	s.cut(len(res.GetRows()), limit)
	return nil
}
