package evaluator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
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
	// ids are those of clusters, nil when they have to be collected anew; what was
	// handed out is not changed.
	ids   map[fleet.ClusterID]bool
	gates map[string]*gateWatch
	// open are the gates without a decision, by cluster.
	open map[fleet.ClusterID]map[string]*gateWatch
	// waves are those of waves, and waving how many of them each cluster is in.
	waves    map[string]*gateWatch
	waving   map[fleet.ClusterID]int
	rollouts map[rollout.ID]*rolloutWatch
	catalog  catalogWatch
	declared declaredWatch
	policyWatch
	// limits are those that hold: the configuration's or the declared ones, and what
	// moves took in this fleet.
	limits drift.Limits
	// unlearned says that what moves took has still to be read.
	unlearned bool
	// orphans are clusters of the log that a start did not find declared.
	orphans []*clusterWatch
	// learned is the end of the last mix of each cluster that they know of.
	learned map[fleet.ClusterID]time.Time
	// twins says of clusters what follows from their reporting the place of another,
	// as found at paired.
	twins    map[fleet.ClusterID]string
	paired   time.Time
	commits  *commits
	arrivals arrivals
	// recalled is what was stored before the start, of positions that nothing newer
	// has come of.
	recalled arrivals
	// recalledSince is since when it was read then what ran.
	recalledSince time.Time
	// held are the partitions that this evaluator judges, each as long as its context
	// lasts. Of the others it knows what the log tells.
	held [topology.Partitions]context.Context
	// handled is the last message of each partition's observations that is known.
	handled [topology.Partitions]uint64
	// ahead are the messages of each partition that are folded and whose rows are not
	// stored yet, by their place in the stream.
	ahead    [topology.Partitions]map[uint64]*arrival
	controls controls
	// rests is the last message of observations that a decision of each cluster rests on.
	rests map[fleet.ClusterID]uint64
	// heard is the last event that the rebuild is sure to have read.
	heard uint64
	// deaf are the partitions whose reports cannot be stored at present.
	deaf [topology.Partitions]bool
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
		clusters: make(map[fleet.ClusterID]*clusterWatch), gates: make(map[string]*gateWatch), open: make(map[fleet.ClusterID]map[string]*gateWatch),
		waves: make(map[string]*gateWatch), waving: make(map[fleet.ClusterID]int),
		rests: make(map[fleet.ClusterID]uint64), rollouts: make(map[rollout.ID]*rolloutWatch), arrivals: make(arrivals), recalled: make(arrivals), limits: config.Limits, learned: make(map[fleet.ClusterID]time.Time),
		controls: controls{wake: make(chan struct{}, 1)},
		commits:  &commits{insert: func(ctx context.Context, records []codec.Record) error { return deps.Store.InsertRecords(ctx, records) }},
		catalog:  catalogWatch{configured: config.Releases}, declared: declaredWatch{clusters: make(map[fleet.ClusterID]DeclaredCluster)},
	}
	for _, c := range config.Clusters {
		w.clusters[c.ID] = newCluster(c.ClusterConfig)
	}
	w.catalog.refresh(deps.Now())
	w.reassign()
	return w
}

// rebuild reads facts from the event stream and evidence from rows.
func (w *watch) rebuild(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.deps.Now()
	var err error
	if w.heard, err = w.deps.Bus.End(ctx, topology.StreamEvents); err != nil {
		return err
	}
	load := func(noun string, fn func(id string, m bus.Message) error) error {
		return w.deps.Bus.Load(ctx, topology.StreamEvents, topology.EventFilter(noun), func(m bus.Message) error {
			_, id, _ := topology.EventNoun(m.Subject)
			return fn(id, m)
		})
	}
	// Which clusters there are comes first, then what is known of releases.
	if err := load(topology.NounFleet, func(_ string, m bus.Message) error { return w.recallDeclared(m) }); err != nil {
		return err
	}
	if err := load(topology.NounCatalog, func(_ string, m bus.Message) error { return w.recallCatalog(m) }); err != nil {
		return err
	}
	w.catalog.refresh(now)
	if err := load(topology.NounPolicy, w.recallPolicy); err != nil {
		return err
	}
	if err := w.deps.Bus.LoadLast(ctx, topology.StreamEvents, topology.EventFilter(topology.NounDrift), func(m bus.Message) error {
		_, id, _ := topology.EventNoun(m.Subject)
		return w.recallDrift(id, m)
	}); err != nil {
		return err
	}
	w.reassign()
	if err := load(topology.NounGate, w.recallGate); err != nil {
		return err
	}
	if err := load(topology.NounRollout, func(id string, m bus.Message) error {
		_, err := w.recallRollout(id, m)
		return err
	}); err != nil {
		return err
	}
	if w.handled, err = w.stored(ctx); err != nil {
		return err
	}
	if err := w.recallRows(ctx, now, func(int) bool { return true }); err != nil {
		return err
	}
	for _, g := range w.gates {
		if g.decision == nil && g.Wave == nil {
			if err := w.refold(ctx, g); err != nil {
				return err
			}
		}
	}
	// What was watched before and is declared no more has no state from now.
	for _, c := range w.orphans {
		if err := w.forget(ctx, c, now); err != nil && !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
	w.orphans = nil
	return w.openMissing(ctx)
}

// recallRows reads what was last seen of every cluster of some partitions, and what
// moves took.
func (w *watch) recallRows(ctx context.Context, now time.Time, among func(partition int) bool) error {
	positions, err := w.deps.Store.Positions(ctx, w.config.Tenant)
	if err != nil {
		return err
	}
	for position, sequence := range positions {
		if among(int(position.Part % topology.Partitions)) {
			w.arrivals[position] = max(w.arrivals[position], sequence)
			w.recalled[position] = max(w.recalled[position], sequence)
		}
	}
	find := func(id fleet.ClusterID) *clusterWatch {
		if among(topology.Partition(id)) {
			return w.clusters[id]
		}
		return nil
	}
	w.recalledSince = now.Add(-w.longestWindow() - w.limits.DarkAfter)
	err = w.deps.Store.RecallInventories(ctx, w.config.Tenant, w.recalledSince, func(inventory fleet.Inventory) {
		if c := find(inventory.Cluster); c != nil {
			inventory.ObservedAt = notAfter(inventory.ObservedAt, now)
			c.drift = c.drift.Observe(inventory)
		}
	})
	if err != nil {
		return err
	}
	registrations, err := w.deps.Store.Registrations(ctx, w.config.Tenant)
	if err != nil {
		return err
	}
	for _, r := range registrations {
		if c := find(r.Cluster); c != nil {
			c.drift = c.drift.ObserveRegistration(r)
		}
	}
	packages, err := w.deps.Store.Packages(ctx, w.config.Tenant)
	if err != nil {
		return err
	}
	for _, p := range packages {
		if c := find(p.Cluster); c != nil {
			c.drift = c.drift.ObservePackage(p)
		}
	}
	if err := w.learnWindows(ctx, now); err != nil {
		return err
	}
	for id, c := range w.clusters {
		if !among(topology.Partition(id)) {
			continue
		}
		// What was dark before the start stays so until it reports.
		if c.period.State != drift.Dark {
			c.drift.WatchedSince = now
		}
		c.vouch(w.limits.SplitAfter)
	}
	return nil
}

// takeOver has this evaluator judge the clusters of a partition as long as held
// lasts. Where another has worked since, what it stored is read first, and always
// what may have been judged and not stored.
func (w *watch) takeOver(held context.Context, partition int, at bus.Place) error {
	if err := w.catchUp(held, partition, at); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.deps.Now()
	for id, c := range w.clusters {
		// What came while it waited is not handled yet.
		if at.Waited && topology.Partition(id) == partition && c.period.State != drift.Dark {
			c.drift.WatchedSince = now
		}
	}
	w.held[partition] = held //nolint:fatcontext // it is kept for as long as it lasts, to be asked whether it does
	return nil
}

// errFarEnough ends a tail that could go on.
var errFarEnough = errors.New("no more is wanted")

// catchUp has this evaluator know all that whoever judged the partition before it
// knew. That one has looked ahead of what it stored; nothing is judged until the
// same is seen here, or a state would change back and forth.
func (w *watch) catchUp(ctx context.Context, partition int, at bus.Place) error {
	if err := w.recallStored(ctx, partition, at); err != nil {
		return fmt.Errorf("reading what another evaluator stored of partition %d: %w", partition, err)
	}
	c := topology.EvaluatorObservations(partition)
	left := 2*bus.DefaultBatch + 1
	err := w.deps.Bus.Tail(ctx, bus.Tail{Stream: c.Stream, Filters: c.Filters, After: at.After}, func(m bus.Message) error {
		if left--; left < 0 {
			return errFarEnough
		}
		_, _ = w.take(partition, m) // one that cannot be read is met again
		return nil
	})
	if err != nil && !errors.Is(err, errFarEnough) {
		return fmt.Errorf("looking ahead in partition %d: %w", partition, err)
	}
	return nil
}

// recallStored reads what another has stored of a partition, if any has.
func (w *watch) recallStored(ctx context.Context, partition int, at bus.Place) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for sequence := range w.ahead[partition] {
		if sequence <= at.After {
			delete(w.ahead[partition], sequence)
		}
	}
	if at.After <= w.handled[partition] {
		return nil
	}
	if err := w.recallRows(ctx, w.deps.Now(), func(p int) bool { return p == partition }); err != nil {
		return err
	}
	for _, g := range w.gates {
		if topology.Partition(g.Cluster) == partition {
			g.step = nil
		}
	}
	w.handled[partition] = at.After
	return nil
}

// judges says whether a cluster's state and gates are this evaluator's to judge. Who
// does not get its observations knows of them too late.
func (w *watch) judges(id fleet.ClusterID) bool {
	held := w.held[topology.Partition(id)]
	return held != nil && held.Err() == nil
}

// listen takes in what other evaluators, and people through them, have recorded.
func (w *watch) listen(ctx context.Context) error {
	filters := make([]string, 0, 6)
	for _, noun := range []string{topology.NounFleet, topology.NounCatalog, topology.NounPolicy, topology.NounDrift, topology.NounGate, topology.NounRollout} {
		filters = append(filters, topology.EventFilter(noun))
	}
	return w.deps.Bus.Tail(ctx, bus.Tail{Stream: topology.StreamEvents, Filters: filters, After: w.heard, Follow: true}, func(m bus.Message) error {
		if err := w.hear(ctx, m); err != nil && ctx.Err() == nil {
			w.deps.Log.Warn("an event is not taken in; the next start reads it again", "subject", m.Subject, "sequence", m.Sequence, "error", err)
		}
		return nil
	})
}

// hear takes in one event; one that is known changes nothing.
func (w *watch) hear(ctx context.Context, m bus.Message) error {
	noun, id, ok := topology.EventNoun(m.Subject)
	if !ok {
		return fmt.Errorf("subject %s names no event", m.Subject)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch noun {
	case topology.NounRollout:
		_, err := w.recallRollout(id, m)
		return err
	case topology.NounDrift:
		if w.clusters[fleet.ClusterID(id)] == nil {
			return nil // it was removed
		}
	case topology.NounFleet:
		if m.Sequence <= w.declared.revision {
			return nil
		}
		var event fleetv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return err
		}
		if err := w.recallDeclared(m); err != nil {
			return err
		}
		return w.learnDeclared(ctx, event.GetFacts())
	}
	return w.recallEvent(m)
}

// longestWindow is how long a mix or a disagreement may last at most: what ran
// before that decides nothing.
func (w *watch) longestWindow() time.Duration {
	longest := max(w.limits.MixedWindow, w.limits.SplitAfter)
	for _, window := range w.limits.Steps {
		longest = max(longest, window)
	}
	for _, edge := range w.limits.Edges {
		longest = max(longest, edge.Window)
	}
	if w.limits.Learned != nil {
		longest = max(longest, w.limits.Learned.Cap)
	}
	for _, c := range w.clusters {
		longest = max(longest, c.drift.Window)
	}
	return min(longest, drift.Horizon)
}

// vouch has a cluster that was found overdue, drifted or split stay so: marks, and
// all but the newest package and registration, are not read again, and what a
// period rests on had lasted when it began.
func (c *clusterWatch) vouch(splitAfter time.Duration) {
	if !slices.Contains([]drift.State{drift.Overdue, drift.Drifted, drift.Split}, c.period.State) {
		return
	}
	for _, kind := range []fleet.Kind{fleet.KindInventory, fleet.KindPackage, fleet.KindRegistration} {
		c.drift = c.drift.Confirm(fleet.Mark{Cluster: c.drift.ID, About: kind, CompleteUntil: c.period.Began})
	}
	if c.period.State != drift.Split {
		return
	}
	since := c.period.Began.Add(-splitAfter)
	if p := c.drift.Package; p.ObservedAt.After(since) {
		p.ObservedAt = since
		c.drift = c.drift.ObservePackage(p)
	}
	if r := c.drift.Registration; r.ObservedAt.After(since) {
		r.ObservedAt = since
		c.drift = c.drift.ObserveRegistration(r)
	}
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
		maps.Copy(target.Versions, c.drift.Assigned.Versions)
	}
	for _, step := range run.Plan.Steps {
		target.Versions[step.Line] = step.ToVersion
	}
	switch f.Kind.(type) {
	case rollout.ClusterStarted:
		if c.moved == nil || f.At.After(c.moved.at) {
			c.moved = &move{rollout: state.ID, at: f.At, before: assignment{At: f.At}}
			c.moved.before.Release = c.expects()
			if a := c.drift.Assigned; a != nil {
				c.moved.before.Versions = a.Versions
			}
		}
	case rollout.ClusterDone:
		w.assign(c, &assignment{Release: target.Release, Versions: target.Versions, Rollout: string(state.ID), At: f.At})
	case rollout.ClusterRestored:
		if m := c.moved; m != nil && m.rollout == state.ID {
			w.assign(c, &assignment{
				Release: m.before.Release, Versions: m.before.Versions, Rollout: string(state.ID), At: f.At, Reason: "the rollout was rolled back",
			})
		}
	}
	c.drift.Move = nil
	if run.Phase.Busy() {
		c.drift.Move = &drift.Move{Rollout: string(state.ID), Target: *target, Ends: run.WindowEnds}
	}
}

// fold takes one record into what is known of what runs.
func (w *watch) fold(r codec.Record) {
	c := w.clusters[r.Cluster()]
	if c == nil {
		return // it was removed while its rows were stored
	}
	switch {
	case r.Inventory != nil:
		inventory := *r.Inventory
		inventory.ObservedAt = notAfter(inventory.ObservedAt, w.deps.Now())
		// What is older than what the start read would be taken to have held up to
		// there: what was seen in between is not known.
		if !inventory.ObservedAt.Before(w.recalledSince) || inventory.ObservedAt.After(c.drift.Inventory.ObservedAt) {
			c.drift = c.drift.Observe(inventory)
		}
		w.deps.Meter.Observed("inventory", 1)
	case r.Registration != nil:
		registration := *r.Registration
		registration.ObservedAt = notAfter(registration.ObservedAt, w.deps.Now())
		c.drift = c.drift.ObserveRegistration(registration)
		w.deps.Meter.Observed("registration", 1)
	case r.Package != nil:
		declared := *r.Package
		declared.ObservedAt = notAfter(declared.ObservedAt, w.deps.Now())
		c.drift = c.drift.ObservePackage(declared)
		w.deps.Meter.Observed("package", 1)
	case r.Check != nil:
		w.deps.Meter.Observed(string(r.Kind()), 1)
	case r.Mark != nil && r.Mark.About != fleet.KindSession:
		w.deps.Meter.Observed("mark", 1)
		switch r.Mark.About {
		case fleet.KindInventory, fleet.KindPackage, fleet.KindRegistration:
			mark := *r.Mark
			mark.CompleteUntil = notAfter(mark.CompleteUntil, w.deps.Now())
			c.drift = c.drift.Confirm(mark)
		}
	case r.Session != nil:
		w.deps.Meter.Observed("session", 1)
	}
}

// feedGates gives the open gates of a record's cluster one record.
func (w *watch) feedGates(r codec.Record) {
	for _, g := range w.open[r.Cluster()] {
		if g.step != nil {
			feed(g.step, r)
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

// learnRollout follows a rollout: its steps open gates, its clusters move.
func (w *watch) learnRollout(ctx context.Context, d bus.Delivery) error {
	_, id, ok := topology.EventNoun(d.Subject)
	if !ok {
		return bus.Permanent(fmt.Errorf("subject %s names no event", d.Subject))
	}
	// Judged by the message and not by what was new in it: a repeat after a crash
	// must still open the gate that the crash prevented.
	var event rolloutv1.Event
	if err := proto.Unmarshal(d.Data, &event); err != nil {
		return bus.Permanent(err)
	}
	var facts []rollout.Fact
	for _, p := range event.GetFacts() {
		f, err := codec.RolloutFactFromProto(p)
		if err != nil {
			continue
		}
		facts = append(facts, f)
		if _, ok := f.Kind.(rollout.ClusterStarted); ok {
			if err := w.captureFor(ctx, rollout.ID(id), f); err != nil {
				return err
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.recallRollout(id, d.Message); err != nil {
		return bus.Permanent(err)
	}
	for _, f := range facts {
		if applied, ok := f.Kind.(rollout.StepApplied); ok {
			if err := w.openGate(ctx, rollout.ID(id), f, applied); err != nil {
				return err
			}
		}
		if _, ok := f.Kind.(rollout.WaveGated); ok {
			if err := w.openWave(ctx, rollout.ID(id)); err != nil {
				return err
			}
		}
		if w.clusters[f.Cluster] == nil {
			continue
		}
		if err := w.judge(ctx, f.Cluster); err != nil {
			return err
		}
	}
	return nil
}

// pass judges everything because time has passed. Between one cluster and the next
// whoever else waits for the state has a turn, as many may change at once.
func (w *watch) pass(ctx context.Context) error {
	states := make(map[string]int)
	for _, state := range drift.States() {
		states[string(state)] = 0
	}
	var errs []error
	for _, id := range w.beat(ctx) {
		state, err := w.passOne(ctx, id)
		if errs = append(errs, err); state != "" {
			states[string(state)]++
		}
	}
	w.deps.Meter.States(states)
	return errors.Join(errs...)
}

// beat brings up to date what all judgements share, and returns the clusters that
// there are.
func (w *watch) beat(ctx context.Context) []fleet.ClusterID {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.deps.Now()
	w.refresh(now)
	w.pair(now)
	if w.unlearned {
		if err := w.learnWindows(ctx, now); err != nil {
			w.deps.Log.Warn("reading what moves took failed; it is tried again", "error", err)
		}
	}
	return slices.Collect(maps.Keys(w.clusters))
}

// passOne judges one cluster and returns its state, none for one that is gone or
// another's to judge.
func (w *watch) passOne(ctx context.Context, id fleet.ClusterID) (drift.State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.clusters[id]
	if c == nil || !w.judges(id) {
		return "", nil
	}
	err := w.judge(ctx, id)
	return c.period.State, err
}

// judge records what follows for one cluster now.
func (w *watch) judge(ctx context.Context, id fleet.ClusterID) error {
	if err := w.judgeState(ctx, w.clusters[id]); err != nil || !w.judges(id) {
		return err
	}
	for _, g := range w.open[id] {
		if err := w.judgeGate(ctx, g); err != nil {
			return err
		}
	}
	return nil
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
	return w.deps.Bus.Load(ctx, topology.StreamEvents, subject, w.recallEvent)
}

// recallEvent applies an event of an aggregate that is the evaluator's own.
func (w *watch) recallEvent(m bus.Message) error {
	noun, id, _ := topology.EventNoun(m.Subject)
	switch noun {
	case topology.NounDrift:
		return w.recallDrift(id, m)
	case topology.NounGate:
		return w.recallGate(id, m)
	case topology.NounCatalog:
		return w.recallCatalog(m)
	case topology.NounFleet:
		return w.recallDeclared(m)
	case topology.NounPolicy:
		return w.recallPolicy(id, m)
	}
	return nil
}
