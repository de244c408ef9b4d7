package evaluator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/backtest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

const (
	// replayed is how many clusters of one backtest are replayed at a time.
	replayed = 2
	// folded is how many sessions of baselines one replay keeps in memory at a time,
	// some hundred bytes each; a step that alone needs more than mostFolded of them is
	// not replayed.
	folded     = 2_000_000
	mostFolded = 8 * folded
	// toldSteps is how many steps a report lists.
	toldSteps = 1000
	// reports is how many times progress is told for each time that what is known so
	// far is summed.
	reports = 2
)

func (a gateAPI) BacktestPolicy(ctx context.Context, req *gatev1.BacktestPolicyRequest, stream gatev1connect.GateServiceBacktestPolicyServerStream) error {
	b, err := a.watch.newBacktest(req)
	if err != nil {
		return err
	}
	if err := b.learn(ctx); err != nil {
		return err
	}
	return b.run(ctx, stream.Send)
}

// backtestRun is one backtest on its way. Clusters are replayed beside each other;
// what became of them is taken in by one goroutine.
type backtestRun struct {
	watch    *watch
	span     codec.Span
	seed     uint64
	steps    int
	lookback time.Duration
	// cases are named after whose policy they try.
	cases    []backtest.Case
	names    []string
	untried  []float64
	clusters []fleet.ClusterID
	real     map[fleet.ClusterID][]backtest.Step
	moves    map[fleet.ClusterID][]gate.Span

	rows atomic.Int64

	runs    []backtest.Run
	skipped []*gatev1.BacktestSkip
	done    int
}

// The names of cases.
const (
	caseOf      = "policy"
	caseAgainst = "against"
	caseTried   = "tolerance"
)

func (w *watch) newBacktest(req *gatev1.BacktestPolicyRequest) (*backtestRun, error) {
	span, err := w.span(codec.Instant(req.GetFrom()), codec.Instant(req.GetTo()), 180*day)
	if err != nil {
		return nil, err
	}
	if now := w.deps.Now(); span.To.After(now) {
		span.To = now
	}
	b := &backtestRun{
		watch: w, span: span, seed: uint64(req.GetSeed()), steps: int(req.GetSteps()), lookback: req.GetLookback().AsDuration(),
		real: make(map[fleet.ClusterID][]backtest.Step), moves: make(map[fleet.ClusterID][]gate.Span),
	}
	if b.steps == 0 {
		b.steps = 20
	}
	if b.lookback == 0 {
		b.lookback = day
	}
	add := func(name string, p gate.Policy, inject float64) {
		b.names, b.cases = append(b.names, name), append(b.cases, backtest.Case{Policy: p, Inject: inject})
	}
	policy := codec.PolicyFromProto(req.GetPolicy())
	policies := map[string]gate.Policy{caseOf: policy}
	if req.GetAgainst() != nil {
		policies[caseAgainst] = codec.PolicyFromProto(req.GetAgainst())
	}
	for _, name := range []string{caseOf, caseAgainst} {
		p, given := policies[name]
		if !given {
			continue
		}
		if err := p.Validate(); err != nil {
			return nil, errs.New(errs.Invalid, "LS-GAT-030", "replay history through a policy: %w", err)
		}
		for _, share := range append([]float64{0}, slices.Sorted(slices.Values(req.GetInject()))...) {
			add(name, p, share)
		}
	}
	if req.GetCalibrate() {
		for _, tol := range backtest.Tolerances() {
			switch p, room := backtest.Tolerant(policy, tol); {
			case !room:
				b.untried = append(b.untried, tol)
			case tol != policy.Tol:
				add(caseTried, p, 0)
			}
		}
	}
	selector, err := fleet.ParseSelector(req.GetLabelSelector())
	if err != nil {
		return nil, badSelector(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var unknown []string
	for _, id := range req.GetClusters() {
		if w.clusters[fleet.ClusterID(id)] == nil {
			unknown = append(unknown, id)
		}
	}
	if len(unknown) > 0 {
		return nil, unknownClusters(unknown)
	}
	for _, c := range w.named(req.GetClusters()) {
		if selector.Matches(c.labels) {
			b.clusters = append(b.clusters, c.drift.ID)
		}
	}
	if len(b.clusters) == 0 {
		return nil, errs.New(errs.NotFound, "LS-GAT-031", "replay history through a policy: no cluster matches %q; `lockstep clusters` lists all", req.GetLabelSelector())
	}
	return b, nil
}

// learn reads from the log which steps were made, and when clusters were moved.
func (b *backtestRun) learn(ctx context.Context) error {
	w := b.watch
	facts := make(map[rollout.ID][]rollout.Fact)
	if err := w.deps.Bus.Load(ctx, topology.StreamEvents, topology.EventFilter(topology.NounRollout), func(m bus.Message) error {
		var event rolloutv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
		}
		_, id, _ := topology.EventNoun(m.Subject)
		for _, p := range event.GetFacts() {
			// What a newer version wrote is passed over, as in all that follows rollouts.
			if f, err := codec.RolloutFactFromProto(p); err == nil {
				facts[rollout.ID(id)] = append(facts[rollout.ID(id)], f)
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("reading which steps were made: %w", err)
	}
	now := w.deps.Now()
	for id, list := range facts {
		record := backtest.RecordOf(id, list, now)
		for _, s := range record.Steps {
			if !s.Boundary.End.Before(b.span.From) && s.Boundary.End.Before(b.span.To) {
				b.real[s.Cluster] = append(b.real[s.Cluster], s)
			}
		}
		for cluster, moves := range record.Moves {
			b.moves[cluster] = append(b.moves[cluster], moves...)
		}
	}
	return nil
}

// outcome is what became of one cluster.
type outcome struct {
	cluster fleet.ClusterID
	runs    []backtest.Run
	skipped string // why it took no part
}

// run replays every cluster and tells how far it is, in the end with the whole
// report. It returns once nothing works for it any more.
func (b *backtestRun) run(ctx context.Context, tell func(*gatev1.BacktestPolicyResponse) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	outcomes := make(chan outcome)
	var (
		next    atomic.Int64
		replays sync.WaitGroup
	)
	for range replayed {
		replays.Go(func() {
			for i := next.Add(1); i <= int64(len(b.clusters)); i = next.Add(1) {
				o, err := b.replay(ctx, b.clusters[i-1])
				if err != nil {
					stop(err)
					return
				}
				select {
				case outcomes <- o:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	err := b.gather(ctx, outcomes, tell)
	stop(err)
	replays.Wait()
	return err
}

// gather takes in what became of clusters, until there is no more.
func (b *backtestRun) gather(ctx context.Context, outcomes <-chan outcome, tell func(*gatev1.BacktestPolicyResponse) error) error {
	progress := func() *gatev1.BacktestPolicyResponse {
		return &gatev1.BacktestPolicyResponse{Progress: &gatev1.BacktestProgress{ClustersDone: int64(b.done), Clusters: int64(len(b.clusters)), Rows: b.rows.Load()}}
	}
	if err := tell(progress()); err != nil {
		return err
	}
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	fresh, ticks := false, 0
	for b.done < len(b.clusters) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case o := <-outcomes:
			b.done++
			if fresh = true; o.skipped != "" {
				b.skipped = append(b.skipped, &gatev1.BacktestSkip{Cluster: string(o.cluster), Reason: o.skipped})
			}
			b.runs = append(b.runs, o.runs...)
		case <-ticker.C:
			m := progress()
			if ticks++; fresh && ticks%reports == 0 {
				m.Report, fresh = b.report(), false
			}
			if err := tell(m); err != nil {
				return err
			}
		}
	}
	m := progress()
	m.Report = b.report()
	return tell(m)
}

// replay judges the steps of one cluster.
func (b *backtestRun) replay(ctx context.Context, cluster fleet.ClusterID) (outcome, error) {
	w, only := b.watch, []fleet.ClusterID{cluster}
	periods, err := w.deps.Store.Periods(ctx, w.config.Tenant, only, b.span, 0)
	if err != nil {
		return outcome{}, fmt.Errorf("reading when %s was moved: %w", cluster, err)
	}
	sessions, err := w.deps.Store.SessionsOf(ctx, w.config.Tenant, only, b.span)
	if err != nil {
		return outcome{}, fmt.Errorf("counting the sessions of %s: %w", cluster, err)
	}
	people := sessions[cluster].Succeeded + sessions[cluster].Failed + sessions[cluster].Open
	if people == 0 {
		return outcome{cluster: cluster, skipped: "no session of it is known from that time"}, nil
	}
	within := gate.Span(b.span)
	if len(periods) > 0 && periods[0].Began.After(within.From) {
		within.From = periods[0].Began // nothing was known of it before
	}
	longest := time.Duration(0)
	for _, c := range b.cases {
		longest = max(longest, c.Policy.Deadline)
	}
	steps := slices.Concat(b.real[cluster], backtest.Fakes(backtest.Choice{
		Cluster: cluster, Seed: b.seed, Within: within, Steps: b.steps, Lookback: b.lookback, Deadline: longest, Moves: slices.Concat(b.moves[cluster], moved(periods)),
	}))
	if len(steps) == 0 {
		return outcome{cluster: cluster, skipped: fmt.Sprintf("no step was made and there is no room for a fake one: it takes %s of history without a move near its end", b.lookback+longest)}, nil
	}
	// How many sessions one step keeps, by how many there were.
	each := float64(people) / within.To.Sub(within.From).Hours() * b.lookback.Hours() * float64(len(b.cases))
	if each > mostFolded {
		return outcome{cluster: cluster, skipped: fmt.Sprintf("a step would keep %.0f sessions in memory, and %d are the most; take a shorter lookback, or fewer injected shares", each, mostFolded)}, nil
	}
	o := outcome{cluster: cluster}
	for _, stretch := range backtest.Stretches(steps, longest, max(1, int(min(folded/max(each, 1), math.MaxInt32)))) {
		replay, err := backtest.NewReplay(b.cases, b.seed, stretch.Steps)
		if err != nil {
			return outcome{}, err
		}
		var rows int64
		near := make([]codec.Span, len(stretch.Near))
		for i, s := range stretch.Near {
			near[i] = codec.Span(s)
		}
		if err := w.deps.Store.Stretch(ctx, w.config.Tenant, cluster, codec.Span(stretch.Span), near, func(r codec.Record) {
			switch {
			case r.Session != nil:
				replay.Session(*r.Session, r.StreamSequence)
			case r.Mark != nil:
				replay.Mark(*r.Mark, r.StreamSequence)
			}
			if rows++; rows%1024 == 0 {
				b.rows.Add(1024)
			}
		}); err != nil {
			return outcome{}, fmt.Errorf("replaying the history of %s: %w", cluster, err)
		}
		b.rows.Add(rows % 1024)
		replay.End(b.span.To)
		o.runs = append(o.runs, replay.Runs()...)
	}
	return o, nil
}

// moved is when periods, oldest first, tell that a cluster was mixed or came to run
// something else, whoever moved it.
func moved(periods []codec.Period) []gate.Span {
	var out []gate.Span
	for i, p := range periods {
		switch {
		case p.Mixed():
			ended := p.Ended
			if ended.IsZero() {
				ended = p.Began.Add(100 * 365 * day) // it goes on
			}
			out = append(out, gate.Span{From: p.Began, To: ended})
		case i > 0 && !periods[i-1].Mixed() && !maps.EqualFunc(periods[i-1].Running, p.Running, slices.Equal[[]string]):
			out = append(out, gate.Span{From: p.Began, To: p.Began})
		}
	}
	return out
}

// report sums what is known so far.
func (b *backtestRun) report() *gatev1.BacktestReport {
	m := &gatev1.BacktestReport{
		Complete: b.done == len(b.clusters), From: timestamppb.New(b.span.From), To: timestamppb.New(b.span.To),
		Clusters: int64(b.done - len(b.skipped)), Skipped: slices.SortedFunc(slices.Values(b.skipped), func(x, y *gatev1.BacktestSkip) int { return strings.Compare(x.GetCluster(), y.GetCluster()) }),
		Seed: int64(b.seed), Lookback: durationpb.New(b.lookback),
	}
	tried := make(map[float64]backtest.Matrix)
	for i, c := range b.cases {
		fake := backtest.SumOf(b.runs, i, backtest.Fake)
		one := &gatev1.BacktestCase{Name: b.names[i], PolicyHash: c.Policy.Hash(), Tolerance: c.Policy.Tol, Injected: c.Inject, Fake: sumToProto(fake)}
		if c.Inject == 0 {
			one.Stayed = sumToProto(backtest.SumOf(b.runs, i, backtest.Stayed))
			one.RolledBack = sumToProto(backtest.SumOf(b.runs, i, backtest.RolledBack))
			one.Unsettled = sumToProto(backtest.SumOf(b.runs, i, backtest.Unsettled))
			if b.names[i] != caseAgainst {
				tried[c.Policy.Tol] = fake.Matrix
			}
		}
		m.Cases = append(m.Cases, one)
	}
	if len(b.untried) > 0 || slices.Contains(b.names, caseTried) {
		m.Calibration = &gatev1.BacktestCalibration{Alpha: b.cases[0].Policy.Alpha, Untried: b.untried}
		m.Calibration.Tolerance, _ = backtest.Propose(b.cases[0].Policy.Alpha, tried)
	}
	m.Steps = b.told()
	if more := len(m.GetSteps()) - toldSteps; more > 0 {
		m.Steps, m.MoreSteps = m.GetSteps()[:toldSteps], int64(more)
	}
	return m
}

// told lists the real steps, and the fake ones that two policies judge differently,
// in the order of time.
func (b *backtestRun) told() []*gatev1.BacktestStep {
	against := slices.Index(b.names, caseAgainst)
	type step struct {
		cluster fleet.ClusterID
		gate    string
		end     int64
	}
	by := make(map[step]*gatev1.BacktestStep)
	for _, r := range b.runs {
		if r.Case != 0 && r.Case != against {
			continue
		}
		key := step{r.Step.Cluster, r.Step.Gate, r.Step.Boundary.End.UnixNano()}
		s := by[key]
		if s == nil {
			s = &gatev1.BacktestStep{Cluster: string(key.cluster), Gate: key.gate, At: timestamppb.New(r.Step.Boundary.End), Outcome: string(r.Step.Outcome)}
			by[key] = s
		}
		v := &gatev1.BacktestVerdict{Verdict: string(r.Verdict), Held: durationpb.New(r.Held()), Exposed: int64(r.Exposed), Trials: int64(r.Trials)}
		if r.Case == 0 {
			s.Policy = v
		} else {
			s.Against = v
		}
	}
	var out []*gatev1.BacktestStep
	for _, s := range by {
		if s.GetOutcome() != string(backtest.Fake) || s.GetAgainst() != nil && s.GetAgainst().GetVerdict() != s.GetPolicy().GetVerdict() {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(x, y *gatev1.BacktestStep) int {
		return cmp.Or(x.GetAt().AsTime().Compare(y.GetAt().AsTime()), strings.Compare(x.GetCluster(), y.GetCluster()), strings.Compare(x.GetGate(), y.GetGate()))
	})
	return out
}

func sumToProto(s backtest.Sum) *gatev1.BacktestSum {
	times := func(t backtest.Spread[time.Duration]) *gatev1.BacktestTimes {
		return &gatev1.BacktestTimes{Total: durationpb.New(t.Total), Median: durationpb.New(t.Median), P90: durationpb.New(t.P90)}
	}
	counts := func(c backtest.Spread[int]) *gatev1.BacktestCounts {
		return &gatev1.BacktestCounts{Total: int64(c.Total), Median: int64(c.Median), P90: int64(c.P90)}
	}
	m := &gatev1.BacktestSum{
		Pass: int64(s.Pass), Fail: int64(s.Fail), Hold: int64(s.Hold), Inconclusive: int64(s.Inconclusive), Empty: int64(s.Empty), Unfinished: int64(s.Unfinished),
		Held: times(s.Held), ToFail: times(s.ToFail), Exposed: counts(s.Exposed), ToFailExposed: counts(s.ToFailExposed), Trials: counts(s.Trials),
	}
	failed := s.Failed()
	m.FailedLow, m.FailedHigh = failed.Low, failed.High
	if n := s.Judged(); n > 0 {
		m.FailedShare, m.DecidedShare = failed.Rate, float64(s.Decided())/float64(n)
	}
	return m
}
