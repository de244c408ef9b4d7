package cli

import (
	"cmp"
	"context"
	"fmt"
	"math"
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
		Long: `See how steps were judged, and why. A gate opens when a step was applied and compares
the sessions that people start from then on with those of before.`,
	}, s.gateListCommand(), s.gateExplainCommand(), s.gateAttributeCommand(), s.gateBacktestCommand(), s.gateVerifyCommand(), s.gatePolicyCommand())
}

func (s *shell) gateListCommand() *cobra.Command {
	var out, rollout string
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List gates, newest first",
		Long: `List gates, newest first: the verdict of each and how many sessions failed, in the
new arm and in the baseline.

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
	t := &table{header: []string{"GATE", "CLUSTER", "STEP", "VERDICT", "NEW", "BASELINE", "AGE", "SUMMARY"}}
	if out == "wide" {
		t.header = []string{"GATE", "ROLLOUT", "CLUSTER", "STEP", "VERDICT", "NEW", "BASELINE", "OPENED", "DECIDED", "SUMMARY"}
	}
	for _, g := range list {
		d, e := g.GetDecision(), g.GetDecision().GetEvidence()
		fresh := share(e.GetNewFailed(), e.GetNewSucceeded())
		before := share(e.GetBaselineFailed(), e.GetBaselineSucceeded())
		if out == "wide" {
			t.add(g.GetId(), g.GetRollout(), g.GetCluster(), g.GetStep(), d.GetVerdict(), fresh, before, s.instant(g.GetOpenedAt()), s.instant(d.GetDecidedAt()), d.GetSummary())
		} else {
			t.add(g.GetId(), g.GetCluster(), g.GetStep(), d.GetVerdict(), fresh, before, s.age(g.GetOpenedAt()), d.GetSummary())
		}
	}
	return s.print(t.render(s.colour))
}

// share is how many failed of how many.
func share(failed, succeeded int64) string { return fmt.Sprintf("%d/%d", failed, failed+succeeded) }

func (s *shell) gateExplainCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "explain GATE",
		Short: "Give an account of a gate: what was compared, what was found, what decided",
		Long: `Give an account of a gate: what was compared, the counts in both arms, how
sure the evidence is, and the rule that decided.

Use it when a rollout holds or went back, and to show afterwards what a decision
stood on.`,
		Example: `  lockstep gate explain r33b518cc90-berlin-sra
  lockstep gate explain r33b518cc90-berlin-sra -o json`,
		Args:              exactly("GATE"),
		ValidArgsFunction: s.first(gateIDs),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			id := named(args[0], "gate")
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
	return c
}

// gateText is the account of one gate.
func (s *shell) gateText(g *gatev1.Gate) string {
	d, e, p, at := g.GetDecision(), g.GetDecision().GetEvidence(), g.GetPolicy(), g.GetBoundary()
	var b strings.Builder
	say := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-10s  %s\n", label, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&b, "Gate %s: step %s of cluster %s, rollout %s\n\n", clean(g.GetId()), clean(g.GetStep()), clean(g.GetCluster()), clean(g.GetRollout()))
	say("Verdict", "%s", paint(clean(cmp.Or(d.GetVerdict(), "pending")), s.colour))
	if d.GetSummary() != "" {
		say("", "%s", clean(d.GetSummary()))
	}
	for i, r := range d.GetReasons() {
		label := ""
		if i == 0 {
			label = "Decided by"
		}
		say(label, "%s: %s", clean(r.GetCode()), clean(r.GetText()))
	}

	b.WriteByte('\n')
	say("Compared", "sessions that started from %s on", s.instant(at.GetEnd()))
	say("", "with those that started from %s until %s;", s.instant(at.GetBaselineFrom()), s.instant(at.GetStart()))
	say("", "those in between are cut, as the move itself may have ended them")
	for _, span := range at.GetAside() {
		say("", "set aside, because an earlier rollout moved the cluster: %s until %s", s.instant(span.GetFrom()), s.instant(span.GetTo()))
	}
	b.WriteByte('\n')
	t := &table{header: []string{"", "FAILED", "SUCCEEDED", "RATE", "UNRESOLVED"}}
	arm := func(name string, failed, succeeded, unresolved int64) {
		rate := "-"
		if n := failed + succeeded; n > 0 {
			rate = percent(float64(failed) / float64(n))
		}
		t.add(name, thousands(float64(failed)), thousands(float64(succeeded)), rate, thousands(float64(unresolved)))
	}
	arm("new", e.GetNewFailed(), e.GetNewSucceeded(), e.GetNewUnresolved())
	arm("baseline", e.GetBaselineFailed(), e.GetBaselineSucceeded(), e.GetBaselineUnresolved())
	for line := range strings.Lines(t.render(false)) {
		b.WriteString(strings.Repeat(" ", 12) + line)
	}
	say("", "%s cut, %s late", thousands(float64(e.GetCut())), thousands(float64(e.GetLate())))

	b.WriteByte('\n')
	say("Odds ratio", "%s", oddsWords(e))
	say("Worse", "%s; rolls back at 1 in %s", luck(e.GetLogERollback()), thousands(1/p.GetAlpha()))
	say("No worse", "against the baseline: %s", luck(e.GetLogEPromoteRelative()))
	say("", "by its own rate:      %s; either passes at 1 in %s", luck(e.GetLogEPromoteAbsolute()), thousands(2/p.GetBeta()))
	switch n := e.GetSessionsNeeded(); {
	case n > 0:
		say("To pass", "about %s more %s", thousands(float64(n)), plural(n, "session"))
	case d.GetVerdict() != "pass" && d.GetVerdict() != "fail":
		say("To pass", "the number of sessions still needed is not known")
	}

	b.WriteByte('\n')
	if d.GetCompleteUntil() == nil {
		say("Evidence", "no source has said yet that it has sent every session")
	} else {
		say("Evidence", "complete for sessions that started before %s", s.instant(d.GetCompleteUntil()))
	}
	say("", "as of message %s of the observation stream, hash %s", strconv.FormatUint(d.GetStreamSequence(), 10), cmp.Or(clean(d.GetEvidenceHash()), "none yet"))
	say("Opened", "%s", s.instant(g.GetOpenedAt()))
	if d.GetDecidedAt() != nil {
		late := ""
		if d.GetDeadlinePassed() {
			late = ", the deadline had passed"
		}
		say("Decided", "%s, %s after opening%s", s.instant(d.GetDecidedAt()), short(d.GetDecidedAt().AsTime().Sub(g.GetOpenedAt().AsTime())), late)
	}
	if p != nil {
		for i, sentence := range policyWords(p) {
			label := ""
			if i == 0 {
				label = "Policy"
			}
			say(label, "%s", sentence)
		}
		say("", "hash %s", cmp.Or(clean(d.GetPolicyHash()), "none yet"))
	}
	return b.String()
}

func oddsWords(e *gatev1.Evidence) string {
	if e.GetNewFailed()+e.GetNewSucceeded() == 0 || e.GetBaselineFailed()+e.GetBaselineSucceeded() == 0 {
		return "not known yet: one of the two has no sessions"
	}
	high := figure(e.GetOddsRatioHigh())
	if bound := e.GetOddsRatioHigh(); math.IsInf(bound, 1) || math.IsNaN(bound) {
		high = "no upper limit"
	}
	point := figure(e.GetOddsRatio())
	if v := e.GetOddsRatio(); math.IsInf(v, 0) || math.IsNaN(v) {
		point = "beyond measure (no failure in the baseline)"
	}
	return fmt.Sprintf("%s, new against baseline; anytime interval %s to %s (1 is no difference)", point, figure(e.GetOddsRatioLow()), high)
}

// luck words an e-value given as its logarithm: evidence of E or more arises at
// most once in E times by luck (Ville's inequality).
func luck(logE float64) string {
	switch e := math.Exp(logE); {
	case math.IsNaN(e):
		return "not known"
	case e < 1.05:
		return "no evidence"
	case e > 1e9:
		return "less than 1 in 1,000,000,000 by luck"
	default:
		return "1 in " + thousands(e) + " by luck"
	}
}

// thousands is a number of things: whole and in groups of three, with one
// decimal below ten where it matters.
func thousands(v float64) string {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return "unknown"
	}
	if v < 10 && v != math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	digits := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

func (s *shell) gateVerifyCommand() *cobra.Command {
	var out, rollout string
	c := &cobra.Command{
		Use:   "verify [GATE...]",
		Short: "Take decisions again from stored rows, and say whether they are the same",
		Long: `Take the decisions of gates, or of all gates of a rollout, again from the stored
rows: the same policy over the same sessions must give the same verdict from the
same integers, to the last bit. Each decision also holds a hash over itself and the
one before it of its cluster; a decision that was changed or taken out breaks the
chain. A gate that has not decided yet is refused by name and passed over with
--rollout. The command exits with 1 when anything differs.

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
	t := &table{header: []string{"GATE", "VERDICT", "FROM ROWS", "CHAIN", "EVIDENCE"}}
	var accounts strings.Builder
	differ := 0
	for _, id := range unique(ids) {
		res, err := cl.gates.ReplayGate(ctx, &gatev1.ReplayGateRequest{Id: id})
		if err != nil {
			return cl.failed("take gate "+id+" again", err)
		}
		d := res.GetGate().GetDecision()
		list = append(list, res)
		rows, chain := "same", "whole"
		if !res.GetSame() {
			rows = "DIFFERS"
			accounts.WriteString("\n" + replayText(res))
		}
		if !res.GetChained() {
			chain = "BROKEN"
		}
		if !res.GetSame() || !res.GetChained() {
			differ++
		}
		t.add(id, d.GetVerdict(), rows, chain, d.GetEvidenceHash())
	}
	var err error
	switch {
	case out != "table":
		err = objects(s, list, out)
	case len(list) == 0:
		s.talk("No gate of this rollout has decided yet.")
	default:
		err = s.print(t.render(s.colour) + accounts.String())
	}
	if err == nil && differ > 0 {
		err = fmt.Errorf("%d of %d %s did not come out as recorded", differ, len(list), plural(int64(len(list)), "decision"))
	}
	return err
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
	a, z := was.GetEvidence(), now.GetEvidence()
	differ("verdict", was.GetVerdict(), now.GetVerdict())
	differ("new, failed of all", share(a.GetNewFailed(), a.GetNewSucceeded()), share(z.GetNewFailed(), z.GetNewSucceeded()))
	differ("baseline, failed of all", share(a.GetBaselineFailed(), a.GetBaselineSucceeded()), share(z.GetBaselineFailed(), z.GetBaselineSucceeded()))
	differ("late", strconv.FormatInt(a.GetLate(), 10), strconv.FormatInt(z.GetLate(), 10))
	differ("policy hash", was.GetPolicyHash(), now.GetPolicyHash())
	differ("evidence hash", was.GetEvidenceHash(), now.GetEvidenceHash())
	for line := range strings.Lines(t.render(false)) {
		b.WriteString("  " + line)
	}
	return b.String()
}
