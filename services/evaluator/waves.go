package evaluator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

const (
	// waveStep is the step that a wave's gate is of.
	waveStep = "wave"
	// waveSoonest is how long after a look at a wave the next comes at the soonest. One
	// reads the rows of all its clusters anew, whoever judges those, so that the next
	// also leaves the engine to others for waveRest times as long as it took, up to
	// waveLatest.
	waveSoonest, waveLatest, waveRest = 5 * time.Second, 5 * time.Minute, 20
	// waveAtOnce is how many clusters of a wave are read at the same time.
	waveAtOnce = 2
)

// waveWatch is what a gate of a wave has besides that of a step.
type waveWatch struct {
	next  time.Time        // when it is looked at again
	soFar *gatev1.Decision // what the last look found
}

// openWave opens the gate of the wave that a rollout waits for, if it does and there is
// none yet.
func (w *watch) openWave(ctx context.Context, id rollout.ID) error {
	state := w.rollouts[id].state
	if state.WaveGate == "" || w.gates[state.WaveGate] != nil || state.Plan.Policy == nil {
		return nil
	}
	plan := state.Plan.Policy
	wave := &gate.WaveTerms{Number: state.Wave + 1, Begun: state.WaveGatedAt, Limits: gate.DefaultWaveLimits()}
	wave.Limits.MaxFailures = state.Plan.MaxFailures
	for _, run := range state.Clusters {
		if state.Plan.WaveOf(run.Plan.Cluster) != state.Wave {
			continue
		}
		if m, moved := w.member(ctx, id, run); moved {
			wave.Members = append(wave.Members, m)
		}
	}
	slices.SortFunc(wave.Members, func(a, b gate.WaveMember) int { return cmp.Compare(a.Cluster, b.Cluster) })
	g := codec.Gate{
		ID: state.WaveGate, Rollout: string(id), Step: waveStep, Policy: plan.Statistics, Boundary: wave.Boundary(), OpenedAt: w.deps.Now(), Wave: wave,
		Terms: gate.Terms{Policy: plan.Name, Mode: plan.Mode, Stage: plan.Wave},
	}
	if len(wave.Members) > 0 {
		g.Terms.Controls = w.controlsOf(id, g.Boundary)
	}
	opened := codec.GateOpenedToProto(g)
	event := &gatev1.Event{Gate: g.ID, Facts: []*gatev1.Fact{{Kind: &gatev1.Fact_GateOpened{GateOpened: opened}}}}
	revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounGate, g.ID), event, 0)
	if err != nil {
		return err
	}
	w.keep(&gateWatch{Gate: codec.GateOpenedFromProto(g.ID, opened), revision: revision})
	w.deps.Log.Info("gate opened", "gate", g.ID, "wave", wave.Number, "clusters", len(wave.Members))
	return nil
}

// member is what a wave knows of one of its clusters; false of one that took no step, or
// that is not declared any more. Of one that went back only what its gate has seen is
// of the release; where that was not decided, nobody can say what is.
func (w *watch) member(ctx context.Context, id rollout.ID, run rollout.ClusterRun) (gate.WaveMember, bool) {
	cluster := run.Plan.Cluster
	f, known := w.rollouts[id].applied[cluster]
	applied, _ := f.Kind.(rollout.StepApplied)
	if !known || w.clusters[cluster] == nil {
		return gate.WaveMember{}, false
	}
	m := gate.WaveMember{
		Cluster: cluster, Boundary: applied.Boundary, Expected: w.expectation(ctx, w.rollouts[id].state, cluster, applied), StepsPassed: true,
	}
	for _, step := range run.Plan.Steps {
		g := w.gates[rollout.GateID(id, cluster, step.Name)]
		m.StepsPassed = m.StepsPassed && g != nil && g.decision.GetVerdict() == string(gate.Pass)
	}
	switch run.Phase {
	case rollout.ClusterSucceeded:
		return m, true
	case rollout.ClusterRolledBack, rollout.ClusterFailed:
		g := w.gates[applied.Gate]
		if g == nil || g.decision.GetStreamSequence() == 0 {
			return gate.WaveMember{}, false
		}
		m.RolledBack, m.UpTo = true, g.decision.GetStreamSequence()
		return m, true
	}
	return gate.WaveMember{}, false
}

// leads says whether this evaluator judges a wave: who judges its first cluster does.
func (w *watch) leads(g *gateWatch) bool {
	if len(g.Wave.Members) == 0 {
		return w.judges("")
	}
	return w.judges(g.Wave.Members[0].Cluster)
}

// judgeWaves looks at open gates of waves, one after another, until ctx ends.
func (w *watch) judgeWaves(ctx context.Context) error {
	for range rtime.Every(ctx, w.config.Beat) {
		for _, g := range w.dueWaves() {
			if err := w.judgeWave(ctx, g); err != nil && ctx.Err() == nil {
				w.deps.Log.Warn("judging a wave failed; it is tried again", "gate", g.ID, "error", err)
			}
		}
	}
	return nil
}

// dueWaves are the gates to be looked at. One that its rollout has gone past without, as
// a person ended it or took it back, is not.
func (w *watch) dueWaves() []*gateWatch {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waves) == 0 {
		return nil
	}
	now := w.deps.Now()
	var due []*gateWatch
	for _, id := range slices.Sorted(maps.Keys(w.waves)) {
		g := w.waves[id]
		r := w.rollouts[rollout.ID(g.Rollout)]
		if r != nil && r.state.WaveGate == id && w.leads(g) && !now.Before(g.wave.next) {
			g.wave.next = now.Add(waveSoonest) // also where it fails
			due = append(due, g)
		}
	}
	return due
}

// judgeWave looks at one wave: it reads the rows of its clusters and controls, and
// records what is final. What it says is of rows alone, so that it can be said again.
func (w *watch) judgeWave(ctx context.Context, g *gateWatch) error {
	w.mu.Lock()
	opened := g.Gate
	asked := w.asked(opened)
	w.mu.Unlock()
	began := time.Now()
	positions, err := w.stored(ctx)
	if err != nil {
		return err
	}
	upTo := func(cluster fleet.ClusterID) uint64 { return positions[topology.Partition(cluster)] }
	stage, err := w.replayWave(ctx, opened, asked, upTo)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.deps.Now()
	g.wave.next = now.Add(min(max(waveSoonest, waveRest*time.Since(began)), waveLatest))
	if g.decision != nil || !w.leads(g) {
		return nil
	}
	passed := w.waveDeadlinePassed(g, now)
	decision := stage.Decide(now, passed)
	if !decision.Verdict.Final() && !passed {
		g.wave.soFar = codec.WaveDecisionToProto(decision, opened.Terms.Stage, opened.Policy, time.Time{}, false)
		return nil
	}
	return w.decided(ctx, g, codec.WaveDecisionToProto(decision, opened.Terms.Stage, opened.Policy, now, passed))
}

// waveDeadlinePassed is deadlinePassed of a wave: each of its clusters was heard for
// long enough.
func (w *watch) waveDeadlinePassed(g *gateWatch, now time.Time) bool {
	stage := g.Terms.Stage
	if stage.Deadline == 0 || now.Before(g.Wave.Begun.Add(max(stage.Deadline, stage.Soak))) {
		return false
	}
	for _, m := range g.Wave.Members {
		if c := w.clusters[m.Cluster]; c != nil && now.Before(c.drift.WatchedSince.Add(w.limits.DarkAfter)) {
			return false
		}
	}
	return true
}

// replayWave folds what is stored of a wave's clusters and of controls, each up to a
// sequence of the observation stream.
func (w *watch) replayWave(ctx context.Context, g codec.Gate, controls []gate.Control, upTo func(fleet.ClusterID) uint64) (*gate.WaveStage, error) {
	stage, err := gate.NewWaveStage(g.Policy, g.Terms, *g.Wave, asking())
	if err != nil {
		return nil, bus.Permanent(fmt.Errorf("gate %s: %w", g.ID, err))
	}
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(waveAtOnce)
	for _, m := range g.Wave.Members {
		last := upTo(m.Cluster)
		if m.RolledBack {
			last = min(last, m.UpTo)
		}
		if last == 0 {
			continue // nothing was seen of it
		}
		group.Go(func() error {
			err := w.deps.Store.Evidence(limited, w.config.Tenant, m.Cluster, m.Boundary.BaselineFrom, last, func(r codec.Record) { stage.Take(seenOf(r)) })
			if err != nil {
				return fmt.Errorf("reading the evidence of %s for gate %s: %w", m.Cluster, g.ID, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if len(controls) > 0 {
		q := []question{{gate: g, asked: controls}}
		if err := w.foldControls(ctx, q, upTo); err != nil {
			return nil, err
		}
		stage.Beside(q[0].folds)
	}
	return stage, nil
}

// replayed takes a recorded decision again, from rows alone.
func (w *watch) replayed(ctx context.Context, g codec.Gate, recorded *gatev1.Decision) (*gatev1.Decision, error) {
	at, passed := recorded.GetDecidedAt().AsTime(), recorded.GetDeadlinePassed()
	if g.Wave == nil {
		step, err := w.replay(ctx, g, recorded.GetStreamSequence())
		if err != nil {
			return nil, err
		}
		if recorded.GetControls() != nil {
			controls, upTo := heard(g, recorded)
			q := []question{{gate: g, asked: controls}}
			if err := w.foldControls(ctx, q, upTo); err != nil {
				return nil, err
			}
			step.Beside(said(q[0].folds))
		}
		// What is still up to date depends on when it is asked.
		return codec.StepDecisionToProto(step.Decide(at, passed), g.Terms.Stage, g.Policy, w.deps.Now(), passed), nil
	}
	controls, upTo := heard(g, recorded)
	stage, err := w.replayWave(ctx, g, controls, upTo)
	if err != nil {
		return nil, err
	}
	if recorded.GetControls() != nil && len(controls) == 0 {
		stage.Beside(nil)
	}
	return codec.WaveDecisionToProto(stage.Decide(at, passed), g.Terms.Stage, g.Policy, w.deps.Now(), passed), nil
}

// heard are the controls that a recorded decision was set beside, and up to where rows
// of each cluster were read for it.
func heard(g codec.Gate, recorded *gatev1.Decision) ([]gate.Control, func(fleet.ClusterID) uint64) {
	upTo := make(map[fleet.ClusterID]uint64)
	var controls []gate.Control
	for _, m := range recorded.GetControls().GetClusters() {
		c := gate.Control{Cluster: fleet.ClusterID(m.GetCluster())}
		for _, known := range g.Terms.Controls {
			if known.Cluster == c.Cluster {
				c = known
			}
		}
		controls, upTo[c.Cluster] = append(controls, c), m.GetStreamSequence()
	}
	for _, m := range recorded.GetMembers() {
		upTo[fleet.ClusterID(m.GetCluster())] = m.GetStreamSequence()
	}
	return controls, func(cluster fleet.ClusterID) uint64 { return upTo[cluster] }
}

// places are the messages of observations that a recorded decision rests on, by cluster.
func (g *gateWatch) places(recorded *gatev1.Decision) map[fleet.ClusterID]uint64 {
	out := make(map[fleet.ClusterID]uint64)
	if g.Wave == nil {
		out[g.Cluster] = recorded.GetStreamSequence()
	}
	for _, m := range recorded.GetMembers() {
		out[fleet.ClusterID(m.GetCluster())] = m.GetStreamSequence()
	}
	return out
}

// clusters are those that a gate judges.
func (g *gateWatch) clusters() []fleet.ClusterID {
	if g.Wave == nil {
		return []fleet.ClusterID{g.Cluster}
	}
	out := make([]fleet.ClusterID, len(g.Wave.Members))
	for i, m := range g.Wave.Members {
		out[i] = m.Cluster
	}
	return out
}

// attended says whether what holds of a cluster may still count for a gate.
func (w *watch) attended(cluster fleet.ClusterID) bool {
	return len(w.open[cluster]) > 0 || w.waving[cluster] > 0
}

// chainOf is the hash of the decision that one follows: of a cluster, or of the waves of
// a rollout, the last that was recorded before.
func (w *watch) chainOf(g *gateWatch, revision uint64) string {
	if g.Wave == nil {
		return w.before(func(other *gateWatch) bool { return other.Wave == nil && other.Cluster == g.Cluster }, revision)
	}
	return w.before(func(other *gateWatch) bool { return other.Wave != nil && other.Rollout == g.Rollout }, revision)
}

// decided records the verdict on a gate.
func (w *watch) decided(ctx context.Context, g *gateWatch, m *gatev1.Decision) error {
	m = codec.Chain(g.ID, m, w.chainOf(g, math.MaxUint64))
	event := &gatev1.Event{Gate: g.ID, Facts: []*gatev1.Fact{{Kind: &gatev1.Fact_GateDecided{GateDecided: &gatev1.GateDecided{
		Rollout: g.Rollout, Cluster: string(g.Cluster), Step: g.Step, Decision: m,
	}}}}}
	revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounGate, g.ID), event, g.revision)
	if err != nil {
		return err
	}
	g.revision = revision
	w.close(g, m)
	w.deps.Log.Info("gate decided", "gate", g.ID, "verdict", m.GetVerdict(), "consequence", m.GetConsequence(), "summary", m.GetSummary())
	w.deps.Meter.Decided(topology.NounGate, m.GetVerdict())
	return nil
}
