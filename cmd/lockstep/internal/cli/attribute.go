package cli

import (
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// around is which sessions an attribution is about.
type around struct {
	clusters                       []string
	stepAt, since, until, baseline string
}

func (s *shell) gateAttributeCommand() *cobra.Command {
	var out string
	var of around
	c := &cobra.Command{
		Use:   "attribute [GATE]",
		Short: "Say where the failures sit that came with a step",
		Long: `Say where the failures sit that came with a step: with the move of the gateway, of
the SRA or of both, in one protocol, type of target, folder of targets or instance,
or in one class of failure. What is named is shown by the evidence, as of this one
look; what is not is only where most of the excess is.

Give a gate, or clusters and when their step began. Sessions that started from then
until --since are used only to tell moves apart that came one after another.

Use it when a gate failed, to know whom to call.`,
		Example: `  lockstep gate attribute r33b518cc90-berlin-sra
  lockstep gate attribute --cluster berlin --step-at "2026-03-04 12:00" --since "2026-03-04 12:20"
  lockstep gate attribute --cluster berlin --step-at 6h --baseline 7d -o json | jq -r '.findings[0].text'`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s takes one GATE or none, got %s\nRun '%s --help' for usage.", c.CommandPath(), count(int64(len(args)), "argument"), c.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: s.first(gateIDs),
		RunE: func(c *cobra.Command, args []string) error {
			ask, err := of.request(s, args)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.gates.GetAttribution(c.Context(), ask)
			if err != nil {
				return cl.failed("attribute failures", err)
			}
			if out == "table" {
				return s.print(s.attributionText(res.GetAttribution(), terminalWidth(s.Out)))
			}
			return s.object(res.GetAttribution(), out)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringSliceVar(&of.clusters, "cluster", nil, "the `cluster` that took the step, instead of a gate; repeat for several that took it at one time")
	s.completeFlag(c, "cluster", clusterIDs)
	c.Flags().StringVar(&of.stepAt, "step-at", "", "when the step of --cluster began, "+momentWords)
	c.Flags().StringVar(&of.since, "since", "", "from when sessions are new, a `time` written as --step-at (default: --step-at)")
	c.Flags().StringVar(&of.until, "until", "", "up to when sessions are looked at, a `time` written as --step-at (default: now)")
	c.Flags().StringVar(&of.baseline, "baseline", "", "the `length` of time before the step that is compared with (default: 28d)")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (a *around) request(s *shell, gates []string) (*gatev1.GetAttributionRequest, error) {
	timed := a.stepAt != "" || a.since != "" || a.until != "" || a.baseline != ""
	switch {
	case len(gates) == 1 && (timed || len(a.clusters) > 0):
		return nil, usage("a gate knows its cluster and times; give GATE alone, or --cluster with --step-at")
	case len(gates) == 1:
		return &gatev1.GetAttributionRequest{Gate: named(gates[0], "gate")}, nil
	case len(a.clusters) == 0 || a.stepAt == "":
		return nil, usage("give a GATE, or --cluster with --step-at, when its step began; `lockstep gate list` shows the gates there are")
	}
	clusters, err := clusterArgs(a.clusters)
	if err != nil {
		return nil, err
	}
	ask := &gatev1.GetAttributionRequest{Clusters: clusters}
	if ask.Start, err = s.moment("step-at", a.stepAt); err != nil {
		return nil, err
	}
	if ask.End, err = s.moment("since", a.since); err != nil {
		return nil, err
	}
	if ask.Until, err = s.moment("until", a.until); err != nil {
		return nil, err
	}
	if a.baseline != "" {
		long, ok := parseLength(a.baseline)
		if !ok {
			return nil, usage("--baseline %q is not a length of time; write for example 36h or 28d", a.baseline)
		}
		ask.BaselineFrom = timestamppb.New(ask.GetStart().AsTime().Add(-long))
	}
	return ask, nil
}

// attributionText is what was found: what was compared, the summary, the findings
// as a table, and a line for each.
func (s *shell) attributionText(a *gatev1.Attribution, width int) string {
	var b strings.Builder
	of := strings.Join(a.GetClusters(), ", ")
	if a.GetGate() != "" {
		of += " (gate " + a.GetGate() + ")"
	}
	fmt.Fprintf(&b, "Failures in %s\n\n", clean(of))
	fmt.Fprintf(&b, "New       %s until %s: %s failed\n", s.instant(a.GetEnd()), s.instant(a.GetUntil()), tallied(a.GetNew()))
	fmt.Fprintf(&b, "Baseline  %s until %s: %s failed\n\n", s.instant(a.GetBaselineFrom()), s.instant(a.GetStart()), tallied(a.GetBaseline()))
	for _, line := range wrap(clean(a.GetSummary()), width) {
		b.WriteString(line + "\n")
	}
	if len(a.GetFindings()) == 0 {
		return b.String()
	}
	t := &table{header: []string{"", "FACTOR", "VALUE", "NEW", "BASELINE", "ODDS", "INTERVAL", "EXCESS", "EVIDENCE"}}
	for i, f := range a.GetFindings() {
		evidence := "too little"
		if f.GetNamed() {
			evidence = luck(f.GetLogE())
		}
		low, high := figure(f.GetOdds().GetLow()), figure(f.GetOdds().GetHigh())
		if math.IsInf(f.GetOdds().GetHigh(), 1) {
			high = "no limit"
		}
		ratio := figure(f.GetOdds().GetRatio())
		if math.IsInf(f.GetOdds().GetRatio(), 1) {
			ratio = "beyond measure"
		}
		t.add(fmt.Sprint(i+1), strings.ReplaceAll(f.GetFactor(), "_", " "), f.GetValue(), tallied(f.GetNew()), tallied(f.GetBaseline()),
			ratio, low+" to "+high, fmt.Sprintf("%.0f %%", 100*f.GetShare()), evidence)
	}
	b.WriteString("\n" + t.render(s.colour) + "\n")
	for i, f := range a.GetFindings() {
		for k, line := range wrap(clean(f.GetText()), width-3) {
			label := "   "
			if k == 0 {
				label = fmt.Sprintf("%d. ", i+1)
			}
			b.WriteString(label + line + "\n")
		}
	}
	return b.String()
}

// tallied is how many failed of how many.
func tallied(t *gatev1.Tally) string { return share(t.GetFailed(), t.GetSucceeded()) }
