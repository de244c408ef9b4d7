package evaluator

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	"github.com/lockstep-fleet/lockstep/topology"
)

// gateWatch is one gate; step is nil once it is decided, and while its rows are to
// be read anew.
type gateWatch struct {
	codec.Gate
	step     *gate.Step
	decision *gatev1.Decision
	revision uint64
	// alarmedAt is when sessions were found to fail more, askedAt when the controls were
	// asked last. asking says that they are being asked, or are to be.
	alarmedAt, askedAt time.Time
	asking             bool
	wave               waveWatch // of a wave's
}

// openMissing opens the gates that clusters wait for and that were never opened,
// because the cluster was not configured when the step was applied.
func (w *watch) openMissing(ctx context.Context) error {
	for id, r := range w.rollouts {
		for cluster, f := range r.applied {
			run, _ := r.state.Find(cluster)
			applied, _ := f.Kind.(rollout.StepApplied)
			if run.Phase != rollout.ClusterGating || run.Gate != applied.Gate {
				continue
			}
			if err := w.openGate(ctx, id, f, applied); err != nil {
				return err
			}
		}
		if err := w.openWave(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (w *watch) recallGate(id string, m bus.Message) error {
	var event gatev1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	if g := w.gates[id]; g != nil && m.Sequence <= g.revision {
		return nil
	}
	for _, f := range event.GetFacts() {
		switch k := f.GetKind().(type) {
		case *gatev1.Fact_GateOpened:
			if w.gates[id] == nil {
				w.keep(&gateWatch{Gate: codec.GateOpenedFromProto(id, k.GateOpened)})
			}
		case *gatev1.Fact_GateDecided:
			if g := w.gates[id]; g != nil {
				w.close(g, k.GateDecided.GetDecision())
			}
		}
	}
	if g := w.gates[id]; g != nil {
		g.revision = m.Sequence
	}
	return nil
}

// feed gives a step's gate one record, as its row has it.
func feed(step *gate.Step, r codec.Record) { step.Take(seenOf(r)) }

func seenOf(r codec.Record) gate.Seen {
	r = r.AsKept()
	return gate.Seen{
		Source: r.Source, Seq: r.StreamSequence, Arrived: r.RecordedAt,
		Session: r.Session, Mark: r.Mark, Check: r.Check, Inventory: r.Inventory, Registration: r.Registration,
	}
}

func (w *watch) openGate(ctx context.Context, id rollout.ID, f rollout.Fact, applied rollout.StepApplied) error {
	if w.gates[applied.Gate] != nil || w.clusters[f.Cluster] == nil {
		return nil
	}
	g := &gateWatch{Gate: codec.Gate{
		ID: applied.Gate, Rollout: string(id), Cluster: f.Cluster, Step: applied.Step,
		Policy: applied.Policy, Boundary: applied.Boundary, OpenedAt: w.deps.Now(), Terms: w.terms(ctx, id, f.Cluster, applied),
	}}
	opened := codec.GateOpenedToProto(g.Gate)
	g.Gate = codec.GateOpenedFromProto(g.ID, opened) // as a start will read it
	if err := w.refold(ctx, g); err != nil {
		return err
	}
	event := &gatev1.Event{Gate: g.ID, Facts: []*gatev1.Fact{{Kind: &gatev1.Fact_GateOpened{GateOpened: opened}}}}
	revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounGate, g.ID), event, 0)
	if err != nil {
		return err
	}
	g.revision = revision
	w.keep(g)
	w.deps.Log.Info("gate opened", "gate", g.ID, "cluster", g.Cluster, "step", g.Step)
	return nil
}

// terms are what a step is judged by besides the statistics, and what it should be
// found to have done.
func (w *watch) terms(ctx context.Context, id rollout.ID, cluster fleet.ClusterID, applied rollout.StepApplied) gate.Terms {
	state := w.rollouts[id].state
	terms := gate.DefaultTerms(applied.Policy)
	if plan := state.Plan.Policy; plan != nil {
		terms = gate.Terms{Policy: plan.Name, Mode: plan.Mode, Stage: plan.Step}
	}
	terms.Expected = w.expectation(ctx, state, cluster, applied)
	terms.Controls = w.controlsOf(id, applied.Boundary)
	return terms
}

// expectation is what a step, and those before it, should be found to have done.
func (w *watch) expectation(ctx context.Context, state rollout.State, cluster fleet.ClusterID, applied rollout.StepApplied) gate.Expectation {
	c := w.clusters[cluster]
	expected := gate.Expectation{
		Versions: make(fleet.VersionSet), Digests: make(map[fleet.Component][]string), Window: state.Plan.Window, Checks: c.checks, Silence: w.limits.DarkAfter,
	}
	run, _ := state.Find(cluster)
	for i, step := range run.Plan.Steps {
		expected.Versions[step.Line] = step.ToVersion
		if _, digest, pinned := strings.Cut(step.Image, "@"); pinned {
			for _, component := range step.Components {
				expected.Digests[component] = []string{digest}
			}
		}
		if step.Name == applied.Step {
			expected.Complete = i == len(run.Plan.Steps)-1
			break
		}
	}
	if entry, known := w.catalog.index.Release(state.Plan.Release); known {
		now := w.deps.Now()
		move, err := w.moveOf(ctx, c.drift, entry)
		if err != nil {
			w.deps.Log.Warn("the named risks of a move are not judged", "cluster", cluster, "release", state.Plan.Release, "error", err)
		} else {
			expected.Risks, expected.RisksAt = catalog.Assess(move, w.catalog.state.Acknowledgements, now), now
		}
	}
	return expected
}

// keep takes a gate that is open into what is watched.
func (w *watch) keep(g *gateWatch) {
	w.gates[g.ID] = g
	if g.Wave != nil {
		w.waves[g.ID] = g
		for _, cluster := range g.clusters() {
			w.waving[cluster]++
		}
		return
	}
	if w.open[g.Cluster] == nil {
		w.open[g.Cluster] = make(map[string]*gateWatch)
	}
	w.open[g.Cluster][g.ID] = g
}

// close keeps a gate's decision; nothing more is folded for it.
func (w *watch) close(g *gateWatch, decision *gatev1.Decision) {
	g.decision, g.step = decision, nil
	for cluster, sequence := range g.places(decision) {
		w.rests[cluster] = max(w.rests[cluster], sequence)
	}
	delete(w.open[g.Cluster], g.ID)
	if w.waves[g.ID] != nil {
		delete(w.waves, g.ID)
		for _, cluster := range g.clusters() {
			w.waving[cluster]--
		}
	}
}

// refold builds a gate's evidence anew from rows, and from what has arrived and is on
// its way to them.
func (w *watch) refold(ctx context.Context, g *gateWatch) error {
	ahead := maps.Clone(w.ahead[topology.Partition(g.Cluster)])
	maps.DeleteFunc(ahead, func(_ uint64, a *arrival) bool { return a.repeat })
	sequences := slices.Sorted(maps.Keys(ahead))
	upTo := uint64(math.MaxInt64)
	if len(sequences) > 0 {
		upTo = sequences[0] - 1 // its rows are stored one kind after another
	}
	step, err := w.replay(ctx, g.Gate, upTo)
	if err != nil {
		return err
	}
	for _, sequence := range sequences {
		a := ahead[sequence]
		for _, r := range slices.Concat(a.hole, a.kept) {
			if r.Cluster() == g.Cluster {
				feed(step, r)
			}
		}
	}
	g.step = step
	return nil
}

// replay folds what is stored up to a sequence of the observation stream. A
// decision that saw nothing has sequence 0, and so does its replay.
func (w *watch) replay(ctx context.Context, g codec.Gate, upTo uint64) (*gate.Step, error) {
	step, err := gate.NewStep(g.Policy, g.Terms, g.Cluster, g.Boundary, asking())
	if err != nil {
		return nil, bus.Permanent(fmt.Errorf("gate %s: %w", g.ID, err))
	}
	if upTo == 0 {
		return step, nil
	}
	err = w.deps.Store.Evidence(ctx, w.config.Tenant, g.Cluster, g.Boundary.BaselineFrom, upTo, func(r codec.Record) { feed(step, r) })
	if err != nil {
		return nil, fmt.Errorf("reading the evidence of gate %s: %w", g.ID, err)
	}
	return step, nil
}

// asking asks house rules, each compiled when it is asked first.
func asking() func(gate.Rule, []gate.Result) (bool, error) {
	compiled := make(map[gate.Rule]gatefile.Condition)
	return func(r gate.Rule, results []gate.Result) (bool, error) {
		condition := compiled[r]
		if condition == nil {
			var err error
			if condition, err = gatefile.Compile(r); err != nil {
				return false, err
			}
			compiled[r] = condition
		}
		return condition(results)
	}
}

// judgeGate records a verdict as soon as one is final, and at the deadline
// whatever there is.
func (w *watch) judgeGate(ctx context.Context, g *gateWatch) error {
	if g.step == nil {
		if err := w.refold(ctx, g); err != nil {
			return err
		}
	}
	now := w.deps.Now()
	passed := w.deadlinePassed(g, now)
	if !passed && g.step.Quiet(now) {
		return nil
	}
	decision := g.step.Decide(now, passed)
	if !decision.Verdict.Final() && !passed {
		w.wonder(g, now)
		return nil
	}
	if decision.Verdict == gate.Pass && w.unstored(g.Cluster, decision.Watermark.Seq) {
		return nil // A stop does not wait for its rows, a pass does.
	}
	return w.decided(ctx, g, codec.StepDecisionToProto(decision, g.Terms.Stage, g.Policy, now, passed))
}

// deadlinePassed reports whether a gate has waited long enough. An evaluator that
// was away when the deadline came may have the deciding sessions still before it,
// so it gives them as long to arrive as a cluster may be silent.
func (w *watch) deadlinePassed(g *gateWatch, now time.Time) bool {
	stage := g.Terms.Stage
	deadline := g.Boundary.End.Add(max(stage.Deadline, stage.Soak))
	if stage.Deadline == 0 || now.Before(deadline) {
		return false
	}
	heard := w.clusters[g.Cluster].drift.WatchedSince.Add(w.limits.DarkAfter)
	return !now.Before(heard) || !g.step.Watermark().CompleteUntil.Before(deadline)
}

// before is the hash of the last decision on one of some gates that was recorded before
// another, empty when there is none.
func (w *watch) before(among func(*gateWatch) bool, revision uint64) (hash string) {
	last := uint64(0)
	for _, g := range w.gates {
		if g.decision != nil && g.revision > last && g.revision < revision && among(g) {
			last, hash = g.revision, g.decision.GetHash()
		}
	}
	return hash
}

// gatesOf returns gates of one rollout, or of all, newest first.
func (w *watch) gatesOf(id string) []*gateWatch {
	var out []*gateWatch
	for _, g := range w.gates {
		if id == "" || g.Rollout == id {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *gateWatch) int {
		if c := b.OpenedAt.Compare(a.OpenedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// gateAPI explains gates.
type gateAPI struct{ watch *watch }

func (a gateAPI) ListGates(_ context.Context, req *gatev1.ListGatesRequest) (*gatev1.ListGatesResponse, error) {
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	gates, next, err := codec.Page(req, a.watch.gatesOf(req.GetRollout()), func(g *gateWatch) string { return g.ID },
		func(g *gateWatch) bool { return a.watch.gateMatches(g, req) })
	if err != nil {
		return nil, err
	}
	resp := &gatev1.ListGatesResponse{NextPageToken: next}
	for _, g := range gates {
		resp.Gates = append(resp.Gates, a.watch.describeGate(g))
	}
	return resp, nil
}

// gateMatches does not look at the rollout.
func (w *watch) gateMatches(g *gateWatch, req *gatev1.ListGatesRequest) bool {
	if cluster := req.GetCluster(); cluster != "" && !slices.Contains(g.clusters(), fleet.ClusterID(cluster)) {
		return false
	}
	return req.GetVerdict() == "" || w.describeGate(g).GetDecision().GetVerdict() == req.GetVerdict()
}

func (a gateAPI) GetGate(_ context.Context, req *gatev1.GetGateRequest) (*gatev1.GetGateResponse, error) {
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	g := a.watch.gates[req.GetId()]
	if g == nil {
		return nil, unknownGate(req.GetId())
	}
	return &gatev1.GetGateResponse{Gate: a.watch.describeGate(g)}, nil
}

func (a gateAPI) ReplayGate(ctx context.Context, req *gatev1.ReplayGateRequest) (*gatev1.ReplayGateResponse, error) {
	a.watch.mu.Lock()
	g := a.watch.gates[req.GetId()]
	if g == nil {
		a.watch.mu.Unlock()
		return nil, unknownGate(req.GetId())
	}
	described, opened, recorded := a.watch.describeGate(g), g.Gate, g.decision
	previous, places := a.watch.chainOf(g, g.revision), g.places(recorded)
	a.watch.mu.Unlock()
	if recorded == nil {
		return nil, errs.New(errs.Conflict, "LS-GAT-002", "gate %s is still open; there is no decision to take again yet", req.GetId())
	}
	for cluster, sequence := range places {
		stored, err := a.watch.allStored(ctx, cluster, sequence)
		if err != nil {
			return nil, err
		}
		if !stored {
			return nil, errs.New(errs.Unavailable, "LS-GAT-003", "the rows that the decision of gate %s stands on are still on their way to the store; try again in a moment", req.GetId())
		}
	}
	// Rows only: nothing of what is kept in memory takes part.
	replayed, err := a.watch.replayed(ctx, opened, recorded)
	if err != nil {
		return nil, err
	}
	return &gatev1.ReplayGateResponse{
		Gate: described, Replayed: replayed,
		Same: replayed.GetVerdict() == recorded.GetVerdict() && replayed.GetEvidenceHash() == recorded.GetEvidenceHash() &&
			(recorded.GetStageHash() == "" || replayed.GetStageHash() == recorded.GetStageHash()) &&
			replayed.GetControls().GetHash() == recorded.GetControls().GetHash(),
		Chained: recorded.GetPreviousHash() == previous && recorded.GetHash() == codec.LinkFromProto(opened.ID, recorded).Hash(previous),
	}, nil
}

// takeOverPatience is how long a start may take until it judges a partition.
const takeOverPatience = 5 * time.Second

// allStored says whether the rows of a cluster are stored up to a place in the
// stream. Who judges the cluster knows. Right after a start nobody may, so it waits
// a while for that; where another evaluator judges, the position tells.
func (w *watch) allStored(ctx context.Context, cluster fleet.ClusterID, upTo uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, takeOverPatience)
	defer cancel()
	ticker := time.NewTicker(takeOverPatience / 100)
	defer ticker.Stop()
	for {
		w.mu.Lock()
		judges, unstored := w.judges(cluster), w.unstored(cluster, upTo)
		w.mu.Unlock()
		if judges {
			return !unstored, nil
		}
		position, err := w.deps.Bus.Position(ctx, topology.EvaluatorObservations(topology.Partition(cluster)))
		if err == nil && upTo <= position {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-ticker.C:
		}
	}
}

// describeGate shows the recorded decision or the evidence so far.
func (w *watch) describeGate(g *gateWatch) *gatev1.Gate {
	decision := g.decision
	if decision == nil {
		decision = g.wave.soFar
	}
	if decision == nil && g.step != nil {
		decision = codec.StepDecisionToProto(g.step.Decide(w.deps.Now(), false), g.Terms.Stage, g.Policy, time.Time{}, false)
	}
	return codec.GateToProto(g.Gate, decision)
}

func unknownGate(id string) error {
	return errs.New(errs.NotFound, "LS-GAT-001", "there is no gate %q; `lockstep gate list` shows the gates there are", id)
}

func (a gateAPI) WatchGate(ctx context.Context, req *gatev1.WatchGateRequest, stream gatev1connect.GateServiceWatchGateServerStream) error {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	var told *gatev1.Gate
	for {
		a.watch.mu.Lock()
		g := a.watch.gates[req.GetId()]
		if g == nil {
			a.watch.mu.Unlock()
			return unknownGate(req.GetId())
		}
		m, decided := a.watch.describeGate(g), g.decision != nil
		a.watch.mu.Unlock()
		if now := withoutLag(m); !proto.Equal(told, now) {
			if err := stream.Send(&gatev1.WatchGateResponse{Gate: m}); err != nil {
				return err
			}
			told = now
		}
		if decided {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// withoutLag is a gate without what changes as time goes by and nothing is seen.
func withoutLag(m *gatev1.Gate) *gatev1.Gate {
	m = proto.CloneOf(m)
	for _, check := range m.GetDecision().GetChecks() {
		delete(check.GetFigures(), "lag_seconds")
	}
	if d := m.GetDecision(); d != nil {
		d.StageHash = ""
	}
	return m
}
