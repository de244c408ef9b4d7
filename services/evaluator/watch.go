package evaluator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// watch is the evaluator's state: a cache of facts and rows. Delete it and
// rebuild yields the same.
type watch struct {
	config Config
	deps   Deps

	mu       sync.Mutex
	clusters map[fleet.ClusterID]*clusterWatch
	gates    map[string]*gateWatch
	rollouts map[rollout.ID]*rolloutWatch
	arrivals arrivals
	// recalled is what was stored before the start, of positions that nothing newer
	// has come of.
	recalled arrivals
	// deaf is set while reports cannot be stored.
	deaf bool
}

// clusterWatch is one cluster with the state last recorded of it.
type clusterWatch struct {
	drift        drift.Cluster
	registration fleet.Registration
	state        drift.State
	since        time.Time
	revision     uint64
	// before holds, per rollout, the assignment it found, so that a rollback can
	// return to it.
	before map[rollout.ID]*drift.Assignment
}

// gateWatch is one gate; fold is nil once it is decided.
type gateWatch struct {
	codec.Gate
	fold     *gate.Fold
	decision *gatev1.Decision
	revision uint64
}

// rolloutWatch is a rollout as far as its facts were read.
type rolloutWatch struct {
	state    rollout.State
	revision uint64
	// applied holds each cluster's newest StepApplied, which asks for a gate.
	applied map[fleet.ClusterID]rollout.Fact
}

func newWatch(config Config, deps Deps) *watch {
	w := &watch{
		config: config, deps: deps,
		clusters: make(map[fleet.ClusterID]*clusterWatch), gates: make(map[string]*gateWatch),
		rollouts: make(map[rollout.ID]*rolloutWatch), arrivals: make(arrivals),
	}
	for _, c := range config.Clusters {
		w.clusters[c.ID] = &clusterWatch{
			drift: drift.Cluster{ID: c.ID, Assigned: c.Assigned}, state: drift.Unknown,
			before: make(map[rollout.ID]*drift.Assignment),
		}
	}
	return w
}

// rebuild reads facts from the event stream and evidence from rows.
func (w *watch) rebuild(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.deps.Now()
	load := func(noun string, fn func(id string, m bus.Message) error) error {
		return w.deps.Bus.Load(ctx, topology.StreamEvents, topology.EventFilter(noun), func(m bus.Message) error {
			_, id, _ := topology.EventNoun(m.Subject)
			return fn(id, m)
		})
	}
	if err := load(topology.NounDrift, w.recallDrift); err != nil {
		return err
	}
	if err := load(topology.NounGate, w.recallGate); err != nil {
		return err
	}
	if err := load(topology.NounRollout, func(id string, m bus.Message) error {
		_, err := w.recallRollout(id, m)
		return err
	}); err != nil {
		return err
	}
	positions, err := w.deps.Store.Positions(ctx, w.config.Tenant)
	if err != nil {
		return err
	}
	w.arrivals, w.recalled = positions, maps.Clone(positions)
	for id, c := range w.clusters {
		inventories, err := w.deps.Store.Inventories(ctx, w.config.Tenant, id, now.Add(-w.config.Limits.MixedWindow-w.config.Limits.DarkAfter))
		if err != nil {
			return err
		}
		for _, inventory := range inventories {
			inventory.ObservedAt = notAfter(inventory.ObservedAt, now)
			c.drift = c.drift.Observe(inventory)
		}
		if c.registration, err = w.deps.Store.Registration(ctx, w.config.Tenant, id); err != nil {
			return err
		}
		// What was dark before the start stays so until it reports.
		if c.state != drift.Dark {
			c.drift.WatchedSince = now
		}
	}
	for _, g := range w.gates {
		if g.decision == nil {
			if err := w.fold(ctx, g); err != nil {
				return err
			}
		}
	}
	return w.openMissing(ctx)
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
	}
	return nil
}

func (w *watch) recallDrift(id string, m bus.Message) error {
	var event driftv1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	c, known := w.clusters[fleet.ClusterID(id)]
	if !known {
		return nil
	}
	c.revision = m.Sequence
	for _, f := range event.GetFacts() {
		if changed := f.GetStateChanged(); changed != nil {
			c.state, c.since = drift.State(changed.GetTo()), changed.GetAt().AsTime()
		}
	}
	return nil
}

func (w *watch) recallGate(id string, m bus.Message) error {
	var event gatev1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	for _, f := range event.GetFacts() {
		switch k := f.GetKind().(type) {
		case *gatev1.Fact_GateOpened:
			if w.gates[id] == nil {
				w.gates[id] = &gateWatch{Gate: codec.GateOpenedFromProto(id, k.GateOpened)}
			}
		case *gatev1.Fact_GateDecided:
			if g := w.gates[id]; g != nil {
				g.decision, g.fold = k.GateDecided.GetDecision(), nil
			}
		}
	}
	if g := w.gates[id]; g != nil {
		g.revision = m.Sequence
	}
	return nil
}

// recallRollout applies one event of a rollout and returns its facts; a repeat
// yields none.
func (w *watch) recallRollout(id string, m bus.Message) ([]rollout.Fact, error) {
	var event rolloutv1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return nil, fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	r := w.rollouts[rollout.ID(id)]
	if r == nil {
		r = &rolloutWatch{state: rollout.State{ID: rollout.ID(id)}, applied: make(map[fleet.ClusterID]rollout.Fact)}
		w.rollouts[rollout.ID(id)] = r
	}
	if m.Sequence <= r.revision {
		return nil, nil
	}
	r.revision = m.Sequence
	var facts []rollout.Fact
	for _, p := range event.GetFacts() {
		f, err := codec.RolloutFactFromProto(p)
		if err != nil {
			// A newer version wrote it; what this one knows of the rollout stays true.
			w.deps.Log.Warn("skipping a fact", "rollout", id, "sequence", m.Sequence, "error", err)
			continue
		}
		r.state = r.state.Apply(f)
		if _, ok := f.Kind.(rollout.StepApplied); ok {
			r.applied[f.Cluster] = f
		}
		facts = append(facts, f)
		w.follow(r.state, f)
	}
	return facts, nil
}

// follow keeps the moves and assignments of clusters in step with a rollout.
func (w *watch) follow(state rollout.State, f rollout.Fact) {
	c, known := w.clusters[f.Cluster]
	run, part := state.Find(f.Cluster)
	if !known || !part {
		return
	}
	target := &drift.Assignment{Release: state.Plan.Release, Versions: make(fleet.VersionSet)}
	if c.drift.Assigned != nil {
		for line, version := range c.drift.Assigned.Versions {
			target.Versions[line] = version
		}
	}
	for _, step := range run.Plan.Steps {
		target.Versions[step.Line] = step.ToVersion
	}
	switch f.Kind.(type) {
	case rollout.ClusterStarted:
		c.before[state.ID] = c.drift.Assigned
	case rollout.ClusterDone:
		c.drift.Assigned = target
	case rollout.ClusterRestored:
		c.drift.Assigned = c.before[state.ID]
	}
	c.drift.Move = nil
	if run.Phase.Busy() {
		c.drift.Move = &drift.Move{Rollout: string(state.ID), Target: *target, Ends: run.WindowEnds}
	}
}

// take folds one record into what is known.
func (w *watch) take(r codec.Record) {
	c := w.clusters[r.Cluster()]
	switch {
	case r.Inventory != nil:
		inventory := *r.Inventory
		inventory.ObservedAt = notAfter(inventory.ObservedAt, w.deps.Now())
		c.drift = c.drift.Observe(inventory)
		w.deps.Meter.Observed("inventory", 1)
		return
	case r.Registration != nil:
		if !r.Registration.ObservedAt.Before(c.registration.ObservedAt) {
			c.registration = *r.Registration
		}
		w.deps.Meter.Observed("registration", 1)
		return
	case r.Package != nil, r.Check != nil:
		w.deps.Meter.Observed(string(r.Kind()), 1)
		return
	case r.Mark != nil && r.Mark.About != fleet.KindSession:
		w.deps.Meter.Observed("mark", 1)
		if r.Mark.About == fleet.KindInventory {
			mark := *r.Mark
			mark.CompleteUntil = notAfter(mark.CompleteUntil, w.deps.Now())
			c.drift = c.drift.Confirm(mark)
		}
		return
	case r.Session != nil:
		w.deps.Meter.Observed("session", 1)
	}
	for _, g := range w.gates {
		if g.fold != nil && g.Cluster == r.Cluster() {
			feed(g.fold, r)
		}
	}
}

// notAfter is when something was seen, and not after it is taken in: a source
// whose clock is ahead would else be taken for one that reports long after it fell
// silent.
func notAfter(seen, now time.Time) time.Time {
	if seen.After(now) {
		return now
	}
	return seen
}

func feed(fold *gate.Fold, r codec.Record) {
	switch {
	case r.Session != nil:
		fold.Session(*r.Session, r.StreamSequence)
	case r.Mark != nil:
		fold.Mark(*r.Mark, r.StreamSequence)
	}
}

// learn handles one event: it is archived, and a rollout's facts open gates and
// move assignments.
func (w *watch) learn(ctx context.Context, d bus.Delivery) error {
	noun, id, ok := topology.EventNoun(d.Subject)
	if !ok {
		return bus.Permanent(fmt.Errorf("subject %s names no event", d.Subject))
	}
	text, err := eventJSON(d.Message)
	if err != nil {
		return bus.Permanent(err)
	}
	if err := w.deps.Store.InsertFact(ctx, codec.Fact{
		Tenant: w.config.Tenant, Noun: noun, ID: id, StreamSequence: d.Sequence, Type: d.Type, RecordedAt: d.Time, JSON: text,
	}); err != nil {
		return fmt.Errorf("archiving %s at %d: %w", d.Subject, d.Sequence, err)
	}
	if noun != topology.NounRollout {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.recallRollout(id, d.Message); err != nil {
		return bus.Permanent(err)
	}
	// Judged by the message and not by what was new in it: a repeat after a crash
	// must still open the gate that the crash prevented.
	var event rolloutv1.Event
	if err := proto.Unmarshal(d.Data, &event); err != nil {
		return bus.Permanent(err)
	}
	for _, p := range event.GetFacts() {
		f, err := codec.RolloutFactFromProto(p)
		if err != nil {
			continue
		}
		if applied, ok := f.Kind.(rollout.StepApplied); ok {
			if err := w.openGate(ctx, rollout.ID(id), f, applied); err != nil {
				return err
			}
		}
		if f.Cluster != "" && w.clusters[f.Cluster] != nil {
			if err := w.judge(ctx, f.Cluster); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watch) openGate(ctx context.Context, id rollout.ID, f rollout.Fact, applied rollout.StepApplied) error {
	if w.gates[applied.Gate] != nil || w.clusters[f.Cluster] == nil {
		return nil
	}
	g := &gateWatch{Gate: codec.Gate{
		ID: applied.Gate, Rollout: string(id), Cluster: f.Cluster, Step: applied.Step,
		Policy: applied.Policy, Boundary: applied.Boundary, OpenedAt: w.deps.Now(),
	}}
	if err := w.fold(ctx, g); err != nil {
		return err
	}
	event := &gatev1.Event{Gate: g.ID, Facts: []*gatev1.Fact{{Kind: &gatev1.Fact_GateOpened{GateOpened: codec.GateOpenedToProto(g.Gate)}}}}
	revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounGate, g.ID), event, 0)
	if err != nil {
		return err
	}
	g.revision = revision
	w.gates[g.ID] = g
	w.deps.Log.Info("gate opened", "gate", g.ID, "cluster", g.Cluster, "step", g.Step)
	return nil
}

// fold builds a gate's evidence anew from rows.
func (w *watch) fold(ctx context.Context, g *gateWatch) error {
	fold, err := w.replay(ctx, g.Gate, math.MaxInt64)
	if err != nil {
		return err
	}
	g.fold = fold
	return nil
}

// replay folds what is stored up to a sequence of the observation stream. A
// decision that saw nothing has sequence 0, and so does its replay.
func (w *watch) replay(ctx context.Context, g codec.Gate, upTo uint64) (*gate.Fold, error) {
	fold, err := gate.NewFold(g.Policy, g.Cluster, g.Boundary)
	if err != nil {
		return nil, bus.Permanent(fmt.Errorf("gate %s: %w", g.ID, err))
	}
	if upTo == 0 {
		return fold, nil
	}
	err = w.deps.Store.Evidence(ctx, w.config.Tenant, g.Cluster, g.Boundary.BaselineFrom, upTo, func(r codec.Record) { feed(fold, r) })
	if err != nil {
		return nil, fmt.Errorf("reading the evidence of gate %s: %w", g.ID, err)
	}
	return fold, nil
}

// pass judges everything because time has passed.
func (w *watch) pass(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs []error
	for id := range w.clusters {
		errs = append(errs, w.judge(ctx, id))
	}
	return errors.Join(errs...)
}

// judge records what follows for one cluster now.
func (w *watch) judge(ctx context.Context, id fleet.ClusterID) error {
	if err := w.judgeState(ctx, w.clusters[id]); err != nil {
		return err
	}
	for _, g := range w.gates {
		if g.Cluster == id && g.decision == nil {
			if err := w.judgeGate(ctx, g); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watch) judgeState(ctx context.Context, c *clusterWatch) error {
	now := w.deps.Now()
	if w.deaf {
		// Every report waits behind the one that cannot be stored: the silence is
		// the evaluator's own.
		c.drift.WatchedSince = now
	}
	j := drift.Judge(c.drift, w.config.Limits, now)
	if j.State == c.state {
		return nil
	}
	changed := &driftv1.StateChanged{
		From: string(c.state), To: string(j.State), Reasons: j.Reasons, At: timestamppb.New(now), Running: make(map[string]string),
	}
	for line, versions := range j.Running {
		changed.Running[string(line)] = strings.Join(versions, ", ")
	}
	event := &driftv1.Event{Cluster: string(c.drift.ID), Facts: []*driftv1.Fact{{Kind: &driftv1.Fact_StateChanged{StateChanged: changed}}}}
	revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounDrift, string(c.drift.ID)), event, c.revision)
	if err != nil {
		return err
	}
	w.deps.Log.Info("lockstep state changed", "cluster", c.drift.ID, "from", c.state, "to", j.State, "reasons", strings.Join(j.Reasons, "; "))
	w.deps.Meter.Decided(topology.NounDrift, string(j.State))
	c.revision, c.state, c.since = revision, j.State, now
	return nil
}

// judgeGate records a verdict as soon as one is final, and at the deadline
// whatever there is.
func (w *watch) judgeGate(ctx context.Context, g *gateWatch) error {
	if g.fold == nil {
		if err := w.fold(ctx, g); err != nil {
			return err
		}
	}
	now := w.deps.Now()
	passed := w.deadlinePassed(g, now)
	decision := g.fold.Verdict(passed)
	if !decision.Verdict.Final() && !passed {
		return nil
	}
	m := codec.DecisionToProto(decision, g.Policy, now, passed)
	event := &gatev1.Event{Gate: g.ID, Facts: []*gatev1.Fact{{Kind: &gatev1.Fact_GateDecided{GateDecided: &gatev1.GateDecided{
		Rollout: g.Rollout, Cluster: string(g.Cluster), Step: g.Step, Decision: m,
	}}}}}
	revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounGate, g.ID), event, g.revision)
	if err != nil {
		return err
	}
	g.revision, g.decision, g.fold = revision, m, nil
	w.deps.Log.Info("gate decided", "gate", g.ID, "verdict", decision.Verdict, "summary", decision.Summary)
	w.deps.Meter.Decided(topology.NounGate, string(decision.Verdict))
	return nil
}

// deadlinePassed reports whether a gate has waited long enough. An evaluator that
// was away when the deadline came may have the deciding sessions still before it,
// so it gives them as long to arrive as a cluster may be silent.
func (w *watch) deadlinePassed(g *gateWatch, now time.Time) bool {
	deadline := g.Boundary.End.Add(g.Policy.Deadline)
	if now.Before(deadline) {
		return false
	}
	heard := w.clusters[g.Cluster].drift.WatchedSince.Add(w.config.Limits.DarkAfter)
	return !now.Before(heard) || !g.fold.Watermark().CompleteUntil.Before(deadline)
}

func (w *watch) append(ctx context.Context, subject string, event proto.Message, expected uint64) (uint64, error) {
	data, err := proto.Marshal(event)
	if err != nil {
		return 0, bus.Permanent(fmt.Errorf("encoding a fact for %s: %w", subject, err))
	}
	revision, err := w.deps.Bus.Append(ctx, bus.Message{Subject: subject, Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data}, expected)
	if errors.Is(err, bus.ErrConflict) {
		// An append whose acknowledgement was lost looks like this too. What stands
		// in the log is the truth; the caller's input comes again.
		if err := w.recall(ctx, subject); err != nil {
			return 0, err
		}
	}
	return revision, err
}

// recall reads one aggregate's facts again.
func (w *watch) recall(ctx context.Context, subject string) error {
	return w.deps.Bus.Load(ctx, topology.StreamEvents, subject, func(m bus.Message) error {
		noun, id, _ := topology.EventNoun(m.Subject)
		switch noun {
		case topology.NounDrift:
			return w.recallDrift(id, m)
		case topology.NounGate:
			return w.recallGate(id, m)
		}
		return nil
	})
}

// eventJSON renders an event of any known type for the archive.
func eventJSON(m bus.Message) (string, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByURL(m.Type)
	if err != nil {
		return "", fmt.Errorf("event type %q is not known: %w", m.Type, err)
	}
	event := kind.New().Interface()
	if err := proto.Unmarshal(m.Data, event); err != nil {
		return "", fmt.Errorf("decoding %s: %w", m.Type, err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(event)
	if err != nil {
		return "", fmt.Errorf("rendering %s: %w", m.Type, err)
	}
	return string(text), nil
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
