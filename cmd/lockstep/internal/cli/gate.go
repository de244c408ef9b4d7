package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

func (s *shell) gateCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "gate",
		Aliases: []string{"gates"},
		Short:   "See how steps were judged, and why",
		Long: `See how steps were judged, and why. A gate opens when a step was applied. It asks
checks whether what should run does, and compares the sessions that people start from
then on with those of before.`,
	}, s.gateListCommand(), s.gateExplainCommand(), s.gateAttributeCommand(), s.gateBacktestCommand(), s.gateVerifyCommand(), s.gatePolicyCommand())
}

func (s *shell) gateListCommand() *cobra.Command {
	var out, rollout string
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List gates, newest first",
		Long: `List gates, newest first: the verdict of each, how many of its checks passed and
which others decided, and how many sessions failed, in the new arm and in the baseline.

Use it to find the gate behind a rollout's reason, or to see how an upgrade went
cluster by cluster.`,
		Example: `  lockstep gate list --rollout r33b518cc90
  lockstep gate list -o json | jq '.[] | select(.decision.verdict == "inconclusive").id'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			all, err := cl.gatesOf(c.Context(), named(rollout, "rollout"))
			if err != nil {
				return err
			}
			return s.printGates(all, out)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVar(&rollout, "rollout", "", "only the gates of this `rollout`")
	s.completeFlag(c, "rollout", rolloutIDs)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

// gatesOf fetches every gate of a rollout, or of all.
func (c *client) gatesOf(ctx context.Context, rollout string) ([]*gatev1.Gate, error) {
	var all []*gatev1.Gate
	for token := ""; ; {
		res, err := c.gates.ListGates(ctx, &gatev1.ListGatesRequest{Rollout: rollout, PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, c.failed("list gates", err)
		}
		all = append(all, res.GetGates()...)
		if token = res.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

func (s *shell) printGates(list []*gatev1.Gate, out string) error {
	switch out {
	case "json", "yaml":
		return objects(s, list, out)
	case "name":
		for _, g := range list {
			if err := s.print("gate/" + clean(g.GetId()) + "\n"); err != nil {
				return err
			}
		}
		return nil
	}
	if len(list) == 0 {
		s.talk("There are no gates; a rollout opens one after every step.")
		return nil
	}
	return s.print(s.gateTable(list, out == "wide").render(s.colour))
}

// gateTable has a row for each gate. Columns that only checks fill are left out
// where no gate of the list has any.
func (s *shell) gateTable(list []*gatev1.Gate, wide bool) *table {
	checked := slices.ContainsFunc(list, staged)
	columns := []struct {
		name string
		here bool
		cell func(*gatev1.Gate) string
	}{
		{"GATE", true, (*gatev1.Gate).GetId},
		{"ROLLOUT", wide, (*gatev1.Gate).GetRollout},
		{"CLUSTER", true, (*gatev1.Gate).GetCluster},
		{"STEP", true, (*gatev1.Gate).GetStep},
		{"VERDICT", true, func(g *gatev1.Gate) string { return g.GetDecision().GetVerdict() }},
		{"FOLLOWS", wide && checked, func(g *gatev1.Gate) string { return g.GetDecision().GetConsequence() }},
		{"MODE", wide && checked, func(g *gatev1.Gate) string { return g.GetTerms().GetMode() }},
		{"CHECKS", checked, passedWords},
		{"NEW", true, func(g *gatev1.Gate) string {
			e := g.GetDecision().GetEvidence()
			return share(e.GetNewFailed(), e.GetNewSucceeded())
		}},
		{"BASELINE", true, func(g *gatev1.Gate) string {
			e := g.GetDecision().GetEvidence()
			return share(e.GetBaselineFailed(), e.GetBaselineSucceeded())
		}},
		{"AGE", !wide, func(g *gatev1.Gate) string { return s.age(g.GetOpenedAt()) }},
		{"OPENED", wide, func(g *gatev1.Gate) string { return s.instant(g.GetOpenedAt()) }},
		{"DECIDED", wide, func(g *gatev1.Gate) string { return s.instant(g.GetDecision().GetDecidedAt()) }},
		{"SUMMARY", true, func(g *gatev1.Gate) string { return g.GetDecision().GetSummary() }},
	}
	t := &table{}
	for _, c := range columns {
		if c.here {
			t.header = append(t.header, c.name)
		}
	}
	for _, g := range list {
		var row []string
		for _, c := range columns {
			if c.here {
				row = append(row, c.cell(g))
			}
		}
		t.add(row...)
	}
	return t
}

// passedWords says how many of a gate's checks passed, and names those that its
// verdict rests on otherwise.
func passedWords(g *gatev1.Gate) string {
	if !staged(g) {
		return ""
	}
	passed := 0
	var names, decide []string
	for _, c := range g.GetDecision().GetChecks() {
		names = append(names, c.GetCheck())
		if c.GetVerdict() == "pass" {
			passed++
		}
	}
	for _, c := range silent(g) {
		names = append(names, c.GetCheck())
	}
	for _, name := range names {
		if slices.ContainsFunc(g.GetDecision().GetReasons(), func(r *gatev1.Reason) bool { return tells(name, r) }) {
			decide = append(decide, name)
		}
	}
	text := fmt.Sprintf("%d/%d", passed, len(names))
	if len(decide) > 0 {
		text += ": " + strings.Join(decide, ", ")
	}
	return text
}

// share is how many failed of how many.
func share(failed, succeeded int64) string { return fmt.Sprintf("%d/%d", failed, failed+succeeded) }

func (s *shell) gateExplainCommand() *cobra.Command {
	var out string
	var watch bool
	c := &cobra.Command{
		Use:   "explain GATE",
		Short: "Give an account of a gate: what follows, what each check found, what decided",
		Long: `Give an account of a gate: its verdict and what follows from it, what each check
says and what is demanded of it, the counts of sessions and probes before and after,
how sure the evidence is, and what is still needed.

With --watch it goes on until the gate is decided and prints, with the time, each
line that has changed since, and what its verdict was before; with -o json one
object a line. The exit code is 0 whatever the verdict.

Use it when a rollout holds or went back, and to show afterwards what a decision
stood on.`,
		Example: `  lockstep gate explain r33b518cc90-berlin-sra
  lockstep gate explain r33b518cc90-berlin-sra --watch
  lockstep gate explain r33b518cc90-berlin-sra -o json | jq '.decision.checks[] | {check, verdict}'`,
		Args:              exactly("GATE"),
		ValidArgsFunction: s.first(gateIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if watch && out == "yaml" {
				return usage("--watch prints text or one JSON object a line; use it with -o table or json")
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			id := named(args[0], "gate")
			if watch {
				return s.watchGate(c.Context(), cl, id, out)
			}
			res, err := cl.gates.GetGate(c.Context(), &gatev1.GetGateRequest{Id: id})
			if err != nil {
				return cl.failed("get gate "+id, err)
			}
			if out == "table" {
				return s.print(s.gateText(res.GetGate()))
			}
			return s.object(res.GetGate(), out)
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "json", "yaml")
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on and print every change until it is decided")
	return c
}

func (s *shell) gateVerifyCommand() *cobra.Command {
	var out, rollout string
	c := &cobra.Command{
		Use:   "verify [GATE...]",
		Short: "Take decisions again from stored rows, and say whether they are the same",
		Long: `Take the decisions of gates, or of all gates of a rollout, again from the stored
rows: the same policy over the same rows must give the same verdict from the same
integers, to the last bit, and each check the same verdict and figures. STAGE says
whether the checks' hash agrees, and the last column names the checks that were
taken again. What differs is told below.

Each decision also holds a hash over itself and the one before it of its cluster; a
decision that was changed or taken out breaks the chain. A gate that has not decided
yet is refused by name and passed over with --rollout. The command exits with 1 when
anything differs.

Use it in an audit, or after a restore.`,
		Example: `  lockstep gate verify r33b518cc90-berlin-sra
  lockstep gate verify --rollout r33b518cc90 -o json`,
		ValidArgsFunction: s.every(gateIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 0) == (rollout == "") {
				return usage("name gates, or a rollout with --rollout")
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			var ids []string
			for _, arg := range args {
				ids = append(ids, named(arg, "gate"))
			}
			if rollout != "" {
				gates, err := cl.gatesOf(c.Context(), named(rollout, "rollout"))
				if err != nil {
					return err
				}
				for _, g := range gates {
					if g.GetDecision().GetDecidedAt() != nil {
						ids = append(ids, g.GetId())
					}
				}
			}
			return s.verify(c.Context(), cl, ids, out)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVar(&rollout, "rollout", "", "every gate of this `rollout` that has decided")
	s.completeFlag(c, "rollout", rolloutIDs)
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

// verify takes the decisions of gates again and tells of each.
func (s *shell) verify(ctx context.Context, cl *client, ids []string, out string) error {
	var list []*gatev1.ReplayGateResponse
	var accounts strings.Builder
	differ := 0
	for _, id := range unique(ids) {
		res, err := cl.gates.ReplayGate(ctx, &gatev1.ReplayGateRequest{Id: id})
		if err != nil {
			return cl.failed("take gate "+id+" again", err)
		}
		list = append(list, res)
		if !res.GetSame() {
			accounts.WriteString("\n" + replayText(res))
		}
		if !res.GetSame() || !res.GetChained() {
			differ++
		}
	}
	var err error
	switch {
	case out != "table":
		err = objects(s, list, out)
	case len(list) == 0:
		s.talk("No gate of this rollout has decided yet.")
	default:
		err = s.print(replayTable(list).render(s.colour) + accounts.String())
	}
	if err == nil && differ > 0 {
		err = fmt.Errorf("%d of %d %s did not come out as recorded", differ, len(list), plural(int64(len(list)), "decision"))
	}
	return err
}

// replayTable has a row for each decision that was taken again. Columns that only
// checks fill are left out where no decision has any.
func replayTable(list []*gatev1.ReplayGateResponse) *table {
	checked := slices.ContainsFunc(list, func(res *gatev1.ReplayGateResponse) bool {
		return res.GetGate().GetDecision().GetStageHash() != ""
	})
	t := &table{header: []string{"GATE", "VERDICT", "FROM ROWS", "CHAIN", "EVIDENCE"}}
	if checked {
		t.header = append(t.header, "STAGE", "CHECKS TAKEN AGAIN")
	}
	for _, res := range list {
		was, now := res.GetGate().GetDecision(), res.GetReplayed()
		rows, chain := "same", "whole"
		if !res.GetSame() {
			rows = "DIFFERS"
		}
		if !res.GetChained() {
			chain = "BROKEN"
		}
		row := []string{res.GetGate().GetId(), was.GetVerdict(), rows, chain, was.GetEvidenceHash()}
		if checked {
			row = append(row, stageAgrees(was, now), strings.Join(checksOf(now), ", "))
		}
		t.add(row...)
	}
	return t
}

// stageAgrees says whether two decisions agree on what the checks say, "" when the
// recorded one has none.
func stageAgrees(was, now *gatev1.Decision) string {
	switch was.GetStageHash() {
	case "":
		return ""
	case now.GetStageHash():
		return "same"
	}
	return "DIFFERS"
}

// checksOf names the checks of a decision, in its order.
func checksOf(d *gatev1.Decision) []string {
	var names []string
	for _, c := range d.GetChecks() {
		names = append(names, c.GetCheck())
	}
	return names
}

// replayText says in what a decision differs from the one that was taken again.
func replayText(res *gatev1.ReplayGateResponse) string {
	was, now := res.GetGate().GetDecision(), res.GetReplayed()
	var b strings.Builder
	fmt.Fprintf(&b, "%s, recorded and taken again:\n", clean(res.GetGate().GetId()))
	t := &table{header: []string{"", "RECORDED", "TAKEN AGAIN"}}
	differ := func(what, a, b string) {
		if a != b {
			t.add(what, a, b)
		}
	}
	differ("verdict", was.GetVerdict(), now.GetVerdict())
	evidence := func(prefix string, a, z *gatev1.Evidence) {
		differ(prefix+"new, failed of all", share(a.GetNewFailed(), a.GetNewSucceeded()), share(z.GetNewFailed(), z.GetNewSucceeded()))
		differ(prefix+"baseline, failed of all", share(a.GetBaselineFailed(), a.GetBaselineSucceeded()), share(z.GetBaselineFailed(), z.GetBaselineSucceeded()))
		differ(prefix+"late", strconv.FormatInt(a.GetLate(), 10), strconv.FormatInt(z.GetLate(), 10))
	}
	evidence("", was.GetEvidence(), now.GetEvidence())
	if was.GetStageHash() != "" {
		evidence("probes, ", was.GetProbes(), now.GetProbes())
		for _, name := range unique(slices.Concat(checksOf(was), checksOf(now))) {
			differCheck(differ, name, resultOf(was, name), resultOf(now, name))
		}
		differ("stage hash", was.GetStageHash(), now.GetStageHash())
	}
	differ("policy hash", was.GetPolicyHash(), now.GetPolicyHash())
	differ("evidence hash", was.GetEvidenceHash(), now.GetEvidenceHash())
	for line := range strings.Lines(t.render(false)) {
		b.WriteString("  " + line)
	}
	return b.String()
}

// differCheck tells in what a check differs: its verdict, and each figure.
func differCheck(differ func(what, a, b string), name string, was, now *gatev1.CheckResult) {
	differ(name, was.GetVerdict(), now.GetVerdict())
	if was == nil || now == nil {
		return
	}
	figures := maps.Clone(was.GetFigures())
	if figures == nil {
		figures = make(map[string]int64)
	}
	maps.Copy(figures, now.GetFigures())
	for _, figure := range slices.Sorted(maps.Keys(figures)) {
		differ(name+"."+figure, figureWords(was, figure), figureWords(now, figure))
	}
}

// figureWords is a figure of a check, "" when it has none of the name.
func figureWords(c *gatev1.CheckResult, name string) string {
	n, has := c.GetFigures()[name]
	if !has {
		return ""
	}
	return strconv.FormatInt(n, 10)
}
