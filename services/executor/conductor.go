package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	commandv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/command/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// conductor holds every rollout as its facts say. Its state is a cache of the
// event stream.
type conductor struct {
	config Config
	deps   Deps

	mu       sync.Mutex
	rollouts map[rollout.ID]*conducted
}

type conducted struct {
	state rollout.State
	// began is the sequence of the first event: the order in which rollouts
	// started, whatever clocks said.
	began    uint64
	revision uint64
	// unsure is set when an append was not acknowledged: it may stand in the
	// stream all the same.
	unsure bool
	// sent holds the keys of commands known to be in the command stream.
	sent map[string]bool
	// changed is closed and replaced at every change.
	changed chan struct{}
}

func newConductor(config Config, deps Deps) *conductor {
	return &conductor{config: config, deps: deps, rollouts: make(map[rollout.ID]*conducted)}
}

func (c *conductor) rebuild(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.load(ctx, topology.EventFilter(topology.NounRollout))
}

// load applies the facts of matching rollouts that are not applied yet.
func (c *conductor) load(ctx context.Context, subject string) error {
	return c.deps.Bus.Load(ctx, topology.StreamEvents, subject, func(m bus.Message) error {
		_, id, _ := topology.EventNoun(m.Subject)
		r := c.get(rollout.ID(id))
		if m.Sequence <= r.revision {
			return nil
		}
		var event rolloutv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
		}
		for _, p := range event.GetFacts() {
			f, err := codec.RolloutFactFromProto(p)
			if err != nil {
				return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
			}
			r.state = r.state.Apply(f)
		}
		r.reach(m.Sequence)
		return nil
	})
}

// reach notes up to where the facts are applied and wakes whoever watches.
func (r *conducted) reach(revision uint64) {
	if r.began == 0 {
		r.began = revision
	}
	r.revision = revision
	close(r.changed)
	r.changed = make(chan struct{})
}

func (c *conductor) get(id rollout.ID) *conducted {
	r := c.rollouts[id]
	if r == nil {
		r = &conducted{state: rollout.State{ID: id}, sent: make(map[string]bool), changed: make(chan struct{})}
		c.rollouts[id] = r
	}
	return r
}

// hear turns gate decisions and driver answers into inputs.
func (c *conductor) hear(ctx context.Context, d bus.Delivery) error {
	noun, _, _ := topology.EventNoun(d.Subject)
	switch noun {
	case topology.NounGate:
		var event gatev1.Event
		if err := proto.Unmarshal(d.Data, &event); err != nil {
			return bus.Permanent(fmt.Errorf("decoding a gate event: %w", err))
		}
		for _, f := range event.GetFacts() {
			decided := f.GetGateDecided()
			if decided == nil {
				continue
			}
			var back []fleet.ClusterID
			for _, m := range decided.GetDecision().GetMembers() {
				if m.GetBack() {
					back = append(back, fleet.ClusterID(m.GetCluster()))
				}
			}
			if err := c.input(ctx, rollout.ID(decided.GetRollout()), rollout.GateDecided{
				Back: back, Gate: event.GetGate(), Verdict: gate.Verdict(decided.GetDecision().GetVerdict()),
				Consequence: gate.Consequence(decided.GetDecision().GetConsequence()), Summary: decided.GetDecision().GetSummary(),
			}); err != nil {
				return err
			}
		}
	case topology.NounStep:
		var event commandv1.Event
		if err := proto.Unmarshal(d.Data, &event); err != nil {
			return bus.Permanent(fmt.Errorf("decoding a step event: %w", err))
		}
		if finished, ok := codec.CommandFinishedFromProto(&event); ok {
			return c.input(ctx, rollout.ID(event.GetRollout()), finished)
		}
	}
	return nil
}

// input decides what follows for a rollout; of one that never started nothing
// does.
func (c *conductor) input(ctx context.Context, id rollout.ID, in rollout.Input) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.rollouts[id]; !known {
		// Another conductor may have started it.
		if err := c.load(ctx, c.subject(id)); err != nil {
			return err
		}
	}
	if _, known := c.rollouts[id]; !known {
		return nil
	}
	if err := c.settle(ctx, id); err != nil {
		return err
	}
	return c.decide(ctx, id, in)
}

// settle reads a rollout again whose last append may or may not have been stored.
func (c *conductor) settle(ctx context.Context, id rollout.ID) error {
	r := c.rollouts[id]
	if r == nil || !r.unsure {
		return nil
	}
	if err := c.load(ctx, c.subject(id)); err != nil {
		return err
	}
	r.unsure = false
	return nil
}

func (c *conductor) subject(id rollout.ID) string {
	return topology.EventSubject(c.config.Tenant, topology.NounRollout, string(id))
}

// decide records what follows from an input, then asks for what the new state
// wants done. It decides anew when someone else appended in between.
func (c *conductor) decide(ctx context.Context, id rollout.ID, in rollout.Input) error {
	r := c.get(id)
	for {
		decision := rollout.Decide(r.state, in, c.deps.Now())
		if len(decision.Facts) == 0 {
			return nil
		}
		event := &rolloutv1.Event{Rollout: string(id)}
		for _, f := range decision.Facts {
			event.Facts = append(event.Facts, codec.RolloutFactToProto(f))
		}
		data, err := proto.Marshal(event)
		if err != nil {
			return bus.Permanent(fmt.Errorf("encoding facts of rollout %s: %w", id, err))
		}
		revision, err := c.deps.Bus.Append(ctx, bus.Message{Subject: c.subject(id), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data}, r.revision)
		if errors.Is(err, bus.ErrConflict) {
			if err := c.load(ctx, c.subject(id)); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			r.unsure = true
			return err
		}
		r.state = decision.Next
		r.reach(revision)
		for _, f := range decision.Facts {
			name := strings.TrimPrefix(fmt.Sprintf("%T", f.Kind), "rollout.")
			c.deps.Log.Info("rollout decided", "rollout", id, "cluster", f.Cluster, "fact", name)
			c.deps.Meter.Decided(name)
		}
		c.send(ctx, r)
		return nil
	}
}

const controlAbort = "abort"

func controlKey(id rollout.ID, cluster fleet.ClusterID) string {
	return fmt.Sprintf("rollout.%s.%s", id, cluster)
}

// send puts the commands that the state asks for on the stream, each once a
// process life; the beat tries again what failed, drivers bear repeats.
func (c *conductor) send(ctx context.Context, r *conducted) {
	for _, command := range r.state.Commands() {
		if r.sent[command.Key] {
			continue
		}
		if err := c.sendOne(ctx, command); err != nil {
			c.deps.Log.Warn("sending a command failed; it is tried again", "command", command.Key, "error", err)
			continue
		}
		r.sent[command.Key] = true
	}
}

func (c *conductor) sendOne(ctx context.Context, command rollout.Command) error {
	if _, back := command.Action.(rollout.Restore); back {
		// Stopping is not queued behind what is to be stopped. It is recorded before
		// the restore is asked for, so that a cut-off step which is taken up after
		// the restore finds it.
		if err := c.deps.Bus.PutKey(ctx, topology.BucketControl, controlKey(command.Rollout, command.Cluster), []byte(controlAbort)); err != nil {
			return fmt.Errorf("telling the driver of %s to stop: %w", command.Cluster, err)
		}
	}
	m := codec.CommandToProto(command)
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding the command: %w", err)
	}
	_, err = c.deps.Bus.Publish(ctx, bus.Message{
		Subject: topology.CommandSubject(c.config.Tenant, command.Cluster), ID: command.Key,
		Type: string(m.ProtoReflect().Descriptor().FullName()), Data: data,
	})
	return err
}

// beat lets windows end and sends what could not be sent.
func (c *conductor) beat(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Another process may have been asked for it.
	f, err := c.freeze(ctx)
	if err == nil {
		_, err = c.obey(ctx, f)
	}
	if err != nil && ctx.Err() == nil {
		c.deps.Log.Warn("seeing whether rollouts are frozen failed; it is tried again", "error", err)
	}
	for id, r := range c.rollouts {
		if err := c.settle(ctx, id); err != nil {
			if ctx.Err() == nil {
				c.deps.Log.Warn("reading a rollout again failed; it is tried again", "rollout", id, "error", err)
			}
			continue
		}
		if at := r.state.WakeAt(); !at.IsZero() && !c.deps.Now().Before(at) {
			if err := c.decide(ctx, id, rollout.Tick{}); err != nil && ctx.Err() == nil {
				c.deps.Log.Warn("deciding on the clock failed; it is tried again", "rollout", id, "error", err)
			}
		}
		c.send(ctx, r)
	}
}

// busy returns the rollout that moves a cluster now.
func (c *conductor) busy(cluster fleet.ClusterID) rollout.ID {
	for id, r := range c.rollouts {
		if run, ok := r.state.Find(cluster); ok && (run.Phase.Busy() || run.Phase == rollout.ClusterWaiting && !r.state.Phase.Resting() || r.state.Judges(cluster)) {
			return id
		}
	}
	return ""
}

// unclaimed says whether the clusters that a held rollout would start are still its to
// start: while it rested, another may have taken them.
func (c *conductor) unclaimed(s rollout.State) error {
	for _, run := range s.Clusters {
		if run.Phase != rollout.ClusterWaiting {
			continue
		}
		other := c.busy(run.Plan.Cluster)
		if other == "" || other == s.ID {
			other = c.heldBy(run.Plan.Cluster, c.rollouts[s.ID])
		}
		if other != "" {
			return errs.New(errs.Conflict, rollout.ProblemBusy, "rollout %s has taken %s meanwhile; skip it with `lockstep rollout skip %s %s`, or abort and plan anew",
				other, run.Plan.Cluster, s.ID, run.Plan.Cluster)
		}
	}
	return nil
}

// moved returns when rollouts moved a cluster, within the lookback, oldest first.
func (c *conductor) moved(cluster fleet.ClusterID) []gate.Span {
	now := c.deps.Now()
	var spans []gate.Span
	for _, r := range c.rollouts {
		if run, ok := r.state.Find(cluster); ok {
			if span, touched := run.Moved(now); touched && span.To.After(now.Add(-c.config.Lookback)) {
				spans = append(spans, span)
			}
		}
	}
	slices.SortFunc(spans, func(a, b gate.Span) int { return a.From.Compare(b.From) })
	return spans
}

// heldBy returns the newest rollout that moved a cluster after r did and has not
// brought it back, empty when there is none.
func (c *conductor) heldBy(cluster fleet.ClusterID, r *conducted) rollout.ID {
	var newest *conducted
	for _, other := range c.rollouts {
		run, part := other.state.Find(cluster)
		if part && other.began > r.began && moved(run) && (newest == nil || other.began > newest.began) {
			newest = other
		}
	}
	if newest == nil {
		return ""
	}
	return newest.state.ID
}

// moved reports whether a rollout has changed a cluster and not brought it back.
func moved(run rollout.ClusterRun) bool {
	return run.BasePackage != "" && run.Phase != rollout.ClusterRolledBack
}

// newest returns the rollouts, newest first.
func (c *conductor) newest() []*conducted {
	started := slices.DeleteFunc(slices.Collect(maps.Values(c.rollouts)), func(r *conducted) bool { return !r.state.Exists() })
	slices.SortFunc(started, func(a, b *conducted) int { return cmp.Compare(b.began, a.began) })
	return started
}
