package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// backtestAsk is what a backtest is asked for, as it is typed.
type backtestAsk struct {
	path, only, against, since, selector, lookback string
	clusters                                       []string
	seed                                           int64
	steps                                          int32
	inject                                         []float64
	calibrate                                      bool
}

func (s *shell) gateBacktestCommand() *cobra.Command {
	var out string
	var ask backtestAsk
	c := &cobra.Command{
		Use:     "backtest -f FILE",
		Aliases: []string{"try"},
		Short:   "Try a gate policy on what has been, before trusting it",
		Long: `Try the numbers of a gate policy on what has been. Two kinds of steps are judged over
stored history by the code that judges gates: real ones, whose end is known, and fake
ones, at instants when nothing was changed, so that every rollback is a false one.

With --inject, shares of the new sessions are made failures, which gives a power
curve: how many of such regressions the policy catches, how soon, and how many
sessions it takes. With --against, a second policy is tried on the same steps. With
--calibrate, tolerances are tried on the fake steps, and the smallest is proposed that
rolls back falsely no more often than alpha allows.

FILE is a document of gate policies, or careful, standard or fast. Interrupted, it
prints what it knows so far, marked as incomplete.

Use it before a policy is given to rollouts, and when a gate was wrong.`,
		Example: `  lockstep gate backtest -f policies.yaml --policy house --since 90d
  lockstep gate backtest -f fast --against careful --inject 1,2,5,10
  lockstep gate backtest -f standard --calibrate -o json | jq .calibration.tolerance`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := s.backtestRequest(ask)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			report, err := s.backtest(c.Context(), cl, req)
			if report == nil {
				return err
			}
			if out == "table" {
				err = errors.Join(s.print(backtestText(report)), err)
			} else {
				err = errors.Join(s.object(report, out), err)
			}
			return err
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVarP(&ask.path, "file", "f", "", "`file` that holds the policy, - for standard input, or a built-in policy (required)")
	c.Flags().StringVar(&ask.only, "policy", "", "the policy of this `name`, where a file holds several")
	c.Flags().StringVar(&ask.against, "against", "", "`file` or built-in policy to set it against")
	c.Flags().StringVar(&ask.since, "since", "180d", "from when, "+momentWords)
	c.Flags().StringSliceVar(&ask.clusters, "cluster", nil, "only this `cluster`; repeat for several")
	selectorFlag(c, &ask.selector)
	c.Flags().Int32Var(&ask.steps, "steps", 20, "fake steps of each cluster, at most this `number`, up to 500")
	c.Flags().StringVar(&ask.lookback, "lookback", "1d", "`length` of each fake step's baseline; rollout.lookback is that of real ones")
	c.Flags().Float64SliceVar(&ask.inject, "inject", nil, "`percent` of new sessions to make failures, such as 1,2,5,10")
	c.Flags().Lookup("inject").DefValue = "" // no list is no default worth a word
	c.Flags().BoolVar(&ask.calibrate, "calibrate", false, "propose a tolerance")
	c.Flags().Int64Var(&ask.seed, "seed", 1, "`number` that fake steps and injected failures are drawn with")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) backtestRequest(ask backtestAsk) (*gatev1.BacktestPolicyRequest, error) {
	if ask.path == "" {
		return nil, usage("say which policy: -f FILE, -f - for standard input, or -f careful, standard or fast")
	}
	if ask.path == "-" && ask.against == "-" {
		return nil, usage("standard input can be read once; name a file for one of the two")
	}
	lookback, ok := parseLength(ask.lookback)
	if !ok || lookback < time.Hour || lookback > 90*day {
		return nil, usage("--lookback %q is not a length of time from 1h to 90d; write for example 36h or 28d", ask.lookback)
	}
	if ask.steps < 1 || ask.steps > 500 {
		return nil, usage("--steps %d is not from 1 to 500", ask.steps)
	}
	if ask.seed < 0 {
		return nil, usage("--seed %d is below 0", ask.seed)
	}
	from, err := s.moment("since", ask.since)
	if err != nil {
		return nil, err
	}
	clusters, err := clusterArgs(ask.clusters)
	if err != nil {
		return nil, err
	}
	policy, err := s.backtestPolicy(ask.path, ask.only)
	if err != nil {
		return nil, err
	}
	req := &gatev1.BacktestPolicyRequest{
		Policy: codec.PolicyToProto(policy), From: from, Clusters: clusters, LabelSelector: ask.selector, Steps: ask.steps, Seed: ask.seed,
		Calibrate: ask.calibrate, Lookback: durationpb.New(lookback),
	}
	if ask.against != "" {
		against, err := s.backtestPolicy(ask.against, ask.only)
		if err != nil {
			return nil, err
		}
		req.Against = codec.PolicyToProto(against)
	}
	for _, percent := range ask.inject {
		if !(percent > 0 && percent <= 100) {
			return nil, usage("--inject %g is not a percentage above 0 and at most 100", percent)
		}
		req.Inject = append(req.Inject, percent/100)
	}
	return req, nil
}

// backtestPolicy reads the numbers of one policy.
func (s *shell) backtestPolicy(name, only string) (gate.Policy, error) {
	list, _, err := s.operand(name, only)
	if err != nil {
		return gate.Policy{}, err
	}
	if len(list) != 1 {
		return gate.Policy{}, usage("%s has %d policies; say which to try: --policy NAME", clean(name), len(list))
	}
	return list[0].Statistics, nil
}

// backtest returns the newest report and, where it is not complete, an error as well.
func (s *shell) backtest(ctx context.Context, cl *client, req *gatev1.BacktestPolicyRequest) (*gatev1.BacktestReport, error) {
	const doing = "try the policy on history"
	stream, err := cl.gates.BacktestPolicy(ctx, req)
	if err != nil {
		return nil, cl.failed(doing, err)
	}
	defer func() {
		// What matters was received; a stream that is given up may fail to close.
		_ = stream.Close()
	}()
	var report *gatev1.BacktestReport
	progress := s.backtestProgress()
	for {
		res, err := stream.Receive()
		switch {
		case errors.Is(err, io.EOF) && report.GetComplete():
			progress(nil)
			return report, nil
		case errors.Is(err, io.EOF):
			progress(nil)
			return report, fmt.Errorf("%s: the server ended before all was replayed", doing)
		case err != nil:
			progress(nil)
			return report, cl.failed(doing, err)
		}
		if res.GetReport() != nil {
			report = res.GetReport()
		}
		progress(res.GetProgress())
	}
}

// backtestProgress returns a function that shows how far a backtest is: as a bar on a
// terminal, else in ten lines at the most. It is called with nil in the end.
func (s *shell) backtestProgress() func(*gatev1.BacktestProgress) {
	bar, began := terminal(s.Err), s.Now()
	told := int64(0)
	return func(p *gatev1.BacktestProgress) {
		if p == nil {
			if bar {
				_, _ = fmt.Fprint(s.Err, "\r\x1b[K") // talk that cannot be said is no error
			}
			return
		}
		done, all := p.GetClustersDone(), max(p.GetClusters(), 1)
		text := fmt.Sprintf("%d of %s replayed, %s rows, %s", done, count(all, "cluster"), thousands(float64(p.GetRows())), short(s.Now().Sub(began)))
		if bar {
			const width = 30
			full := int(done * width / all)
			_, _ = fmt.Fprintf(s.Err, "\r\x1b[K[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", width-full), text)
			return
		}
		if tenth := done * 10 / all; tenth > told {
			told = tenth
			s.talk("%s", text)
		}
	}
}

// backtestText is a report for people.
func backtestText(r *gatev1.BacktestReport) string {
	var b strings.Builder
	if !r.GetComplete() {
		b.WriteString("INCOMPLETE: not every cluster was replayed.\n\n")
	}
	fmt.Fprintf(&b, "%s, history from %s to %s, seed %d, baselines of %s.\n", count(r.GetClusters(), "cluster"),
		r.GetFrom().AsTime().Format(time.DateOnly), r.GetTo().AsTime().Format(time.DateOnly), r.GetSeed(), length(r.GetLookback()))
	for _, skip := range r.GetSkipped() {
		fmt.Fprintf(&b, "Left out: %s: %s.\n", clean(skip.GetCluster()), clean(skip.GetReason()))
	}

	b.WriteString("\nFake steps: nothing was changed, so every rollback is a false one.\n")
	t := &table{header: []string{"POLICY", "STEPS", "PASS", "FAIL", "HOLD", "INCONCLUSIVE", "FALSE ROLLBACKS", "DECIDED", "HELD P50", "P90", "EXPOSED P50", "P90"}}
	for _, c := range r.GetCases() {
		if c.GetInjected() == 0 {
			backtestRow(t, caseWords(c), c.GetFake(), c.GetFake().GetHeld(), c.GetFake().GetExposed())
		}
	}
	b.WriteString(t.render(false))
	backtestAside(&b, r)

	t = &table{header: []string{"INJECTED", "POLICY", "STEPS", "PASS", "FAIL", "HOLD", "INCONCLUSIVE", "CAUGHT", "DECIDED", "TO FAIL P50", "P90", "EXPOSED P50", "P90"}}
	for _, c := range r.GetCases() {
		if c.GetInjected() > 0 {
			one := &table{}
			backtestRow(one, caseWords(c), c.GetFake(), c.GetFake().GetToFail(), c.GetFake().GetToFailExposed())
			t.rows = append(t.rows, append([]string{percent(c.GetInjected())}, one.rows[0]...))
		}
	}
	if len(t.rows) > 0 {
		b.WriteString("\nThe same steps with failures among the new sessions that worked: what is not caught is missed.\n")
		b.WriteString(t.render(false))
	}

	t = &table{header: []string{"OUTCOME", "POLICY", "STEPS", "PASS", "FAIL", "HOLD", "INCONCLUSIVE", "FAILED", "DECIDED", "HELD P50", "P90", "EXPOSED P50", "P90"}}
	for _, outcome := range []struct {
		words string
		of    func(*gatev1.BacktestCase) *gatev1.BacktestSum
	}{{"rolled back", (*gatev1.BacktestCase).GetRolledBack}, {"stayed", (*gatev1.BacktestCase).GetStayed}, {"unsettled", (*gatev1.BacktestCase).GetUnsettled}} {
		for _, c := range r.GetCases() {
			sum := outcome.of(c)
			if sum == nil || c.GetName() == "tolerance" || judged(sum)+sum.GetEmpty()+sum.GetUnfinished() == 0 {
				continue
			}
			one := &table{}
			backtestRow(one, caseWords(c), sum, sum.GetHeld(), sum.GetExposed())
			t.rows = append(t.rows, append([]string{outcome.words}, one.rows[0]...))
		}
	}
	if len(t.rows) > 0 {
		b.WriteString("\nReal steps, by what became of them.\n")
		b.WriteString(t.render(false))
	} else {
		b.WriteString("\nNo real step was made in that time.\n")
	}

	backtestDiffers(&b, r)
	if c := r.GetCalibration(); c != nil {
		b.WriteString("\n" + calibrationWords(c) + "\n")
	}
	return b.String()
}

func caseWords(c *gatev1.BacktestCase) string {
	if c.GetName() == "tolerance" {
		return "tolerance " + figure(c.GetTolerance())
	}
	return c.GetName()
}

func judged(m *gatev1.BacktestSum) int64 {
	return m.GetPass() + m.GetFail() + m.GetHold() + m.GetInconclusive()
}

func backtestRow(t *table, name string, m *gatev1.BacktestSum, held *gatev1.BacktestTimes, exposed *gatev1.BacktestCounts) {
	number := func(n int64) string { return thousands(float64(n)) }
	cells := []string{name, number(judged(m)), number(m.GetPass()), number(m.GetFail()), number(m.GetHold()), number(m.GetInconclusive())}
	if judged(m) == 0 {
		t.add(append(cells, "", "", "", "", "", "")...)
		return
	}
	cells = append(cells, fmt.Sprintf("%s (%s to %s)", percent(m.GetFailedShare()), percent(m.GetFailedLow()), percent(m.GetFailedHigh())), percent(m.GetDecidedShare()))
	// Nothing took no time at all.
	if held.GetTotal().AsDuration() == 0 && exposed.GetTotal() == 0 {
		t.add(append(cells, "", "", "", "")...)
		return
	}
	t.add(append(cells, length(held.GetMedian()), length(held.GetP90()), number(exposed.GetMedian()), number(exposed.GetP90()))...)
}

// backtestAside says of fake steps what is in no share.
func backtestAside(b *strings.Builder, r *gatev1.BacktestReport) {
	for _, c := range r.GetCases() {
		if c.GetName() != "policy" || c.GetInjected() != 0 {
			continue
		}
		if n := c.GetFake().GetEmpty(); n > 0 {
			fmt.Fprintf(b, "Not counted: %s without any new session.\n", count(n, "step"))
		}
		if n := c.GetFake().GetUnfinished(); n > 0 {
			fmt.Fprintf(b, "Not counted: %s whose history ends before the deadline.\n", count(n, "step"))
		}
		held := c.GetFake().GetHeld().GetTotal().AsDuration()
		fmt.Fprintf(b, "Rollouts would have waited %s in all, while people started %s sessions.\n", short(held), thousands(float64(c.GetFake().GetExposed().GetTotal())))
	}
}

// backtestDiffers lists the steps that two policies judge differently.
func backtestDiffers(b *strings.Builder, r *gatev1.BacktestReport) {
	compared := false
	t := &table{header: []string{"AT", "CLUSTER", "GATE", "OUTCOME", "POLICY", "AFTER", "AGAINST", "AFTER"}}
	for _, step := range r.GetSteps() {
		if step.GetAgainst() == nil {
			continue
		}
		compared = true
		if one, other := step.GetPolicy(), step.GetAgainst(); one.GetVerdict() != other.GetVerdict() {
			t.add(step.GetAt().AsTime().Format(time.DateTime), step.GetCluster(), step.GetGate(), strings.ReplaceAll(step.GetOutcome(), "_", " "),
				one.GetVerdict(), length(one.GetHeld()), other.GetVerdict(), length(other.GetHeld()))
		}
	}
	for _, c := range r.GetCases() {
		compared = compared || c.GetName() == "against"
	}
	switch {
	case len(t.rows) > 0:
		b.WriteString("\nSteps that the two policies judge differently.\n" + t.render(false))
		if n := r.GetMoreSteps(); n > 0 {
			fmt.Fprintf(b, "%s more are not listed.\n", thousands(float64(n)))
		}
	case compared:
		b.WriteString("\nThe two policies judge every step alike.\n")
	}
}

func calibrationWords(c *gatev1.BacktestCalibration) string {
	words := fmt.Sprintf("No tolerance tried keeps false rollbacks at %s or below; the sessions of these clusters vary more than the policy allows for.", percent(c.GetAlpha()))
	if c.GetTolerance() > 0 {
		words = fmt.Sprintf("Proposed: tolerance %s, the smallest tried at which no more than %s of the fake steps are rolled back.", figure(c.GetTolerance()), percent(c.GetAlpha()))
	}
	for _, tol := range c.GetUntried() {
		words += fmt.Sprintf("\nTolerance %s was not tried: the policy's margin must be above it.", figure(tol))
	}
	return words
}
