package evaluator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// learnFrom is how far back windows are learned from.
const learnFrom = 180 * 24 * time.Hour

// clusterWatch is one cluster with what was last recorded of it.
type clusterWatch struct {
	drift  drift.Cluster
	labels map[string]string
	// checks are those that its configuration asks for.
	checks []gate.ConfiguredCheck
	// configured is the release it is expected to run until one is assigned.
	configured fleet.ReleaseID
	// assigned is what was assigned last, nil while nothing was; recorded is what
	// the log has of it.
	assigned, recorded *assignment
	// period is the one that goes on, its zero value before the first; since is when
	// its state began, which may be periods ago.
	period drift.Period
	since  time.Time
	// opened is when the episode of drift that goes on began, zero while none does.
	opened   time.Time
	revision uint64
	// moved is the rollout that began to move it last, with what it found.
	moved *move
}

// move is a rollout's taking hold of a cluster.
type move struct {
	rollout rollout.ID
	at      time.Time
	before  assignment
}

// assignment is what a cluster is expected to run, and who said so.
type assignment struct {
	Release  fleet.ReleaseID // empty: nothing any more
	Versions fleet.VersionSet
	Rollout  string
	At       time.Time
	By       string
	Reason   string
}

func newCluster(c ClusterConfig) *clusterWatch {
	return &clusterWatch{
		drift: drift.Cluster{ID: c.ID, Window: c.Window}, labels: c.Labels, checks: c.Checks, configured: c.Release,
		period: drift.Period{State: drift.Unknown},
	}
}

// expected is what a cluster is to run by what is known of releases now, nil for
// nothing.
func (w *watch) expected(c *clusterWatch) *drift.Assignment {
	release, versions := c.configured, fleet.VersionSet(nil)
	if c.assigned != nil {
		release, versions = c.assigned.Release, c.assigned.Versions
	}
	if release == "" {
		return nil
	}
	if entry, known := w.catalog.index.Release(release); known && (c.assigned.byPerson() || len(versions) == 0) {
		versions = entry.Release.Versions
	}
	if len(versions) == 0 {
		return nil
	}
	expected := &drift.Assignment{Release: release, Versions: versions}
	if c.assigned != nil {
		expected.Rollout = c.assigned.Rollout
	}
	return expected
}

// byPerson says whether it is the catalogue that knows the versions: a rollout
// leaves the lines alone that its release does not carry, and says so.
func (a *assignment) byPerson() bool { return a == nil || a.Rollout == "" }

// reassign has every cluster expect what is known now.
func (w *watch) reassign() {
	for _, c := range w.clusters {
		c.drift.Assigned = w.expected(c)
	}
}

// assign has a cluster expect something else; the next judgement records it.
func (w *watch) assign(c *clusterWatch, a *assignment) {
	if c.assigned != nil && a.At.Before(c.assigned.At) {
		return // an older event is read again
	}
	c.assigned = a
	c.drift.Assigned = w.expected(c)
}

// learnWindows has the limits know what moves took, as far as history tells.
func (w *watch) learnWindows(ctx context.Context, now time.Time) error {
	if w.limits.Learned == nil {
		w.unlearned = false
		return nil
	}
	w.unlearned = true
	mixes, err := w.deps.Store.Mixes(ctx, w.config.Tenant, now.Add(-learnFrom))
	if err != nil {
		return err
	}
	w.limits.Learned, w.learned = &drift.Windows{Cap: w.limits.Learned.Cap}, make(map[fleet.ClusterID]time.Time)
	for _, m := range mixes {
		w.learnMix(m)
	}
	w.unlearned = false
	return nil
}

// learnMix takes in a mix that is over, once: a cluster's mixes come in order.
func (w *watch) learnMix(m codec.Mix) {
	ended := m.Began.Add(m.Took)
	if ended.After(w.learned[m.Cluster]) {
		w.learned[m.Cluster] = ended
		w.limits.Learned.Learn(m.Edge, ended, m.Took)
	}
}

// pairEvery is how often clusters are compared with one another.
const pairEvery = 30 * time.Second

// pair finds clusters that report one place.
func (w *watch) pair(now time.Time) {
	if now.Sub(w.paired) < pairEvery {
		return
	}
	clusters := make([]drift.Cluster, 0, len(w.clusters))
	for _, c := range w.clusters {
		clusters = append(clusters, c.drift)
	}
	w.twins, w.paired = drift.Twins(clusters), now
}

// judged is the judgement of a cluster with what only a look at the others tells.
func (w *watch) judged(c *clusterWatch, now time.Time) drift.Judgement {
	j := drift.Judge(c.drift, w.limits, w.catalog.index, now)
	if p := c.period; !w.judges(c.drift.ID) && !p.Began.IsZero() {
		j.State, j.Reasons, j.Running = p.State, p.Reasons, p.Running
		j.Notes = []string{"another evaluator judges this cluster; what is told of its instances here may be from before"}
		return j
	}
	if twin := w.twins[c.drift.ID]; twin != "" {
		// What a judgement holds is shared.
		if j.State.Settled() {
			j.Notes = append(slices.Clone(j.Notes), twin)
		} else {
			j.Reasons = append(slices.Clone(j.Reasons), twin)
		}
	}
	if release := c.expects(); release != "" && c.drift.Assigned == nil && !c.drift.Seen().IsZero() {
		unknown := fmt.Sprintf("release %s, which it is to run, is not in the catalogue; take it in with `lockstep releases import`", release)
		if j.State == drift.Unknown {
			j.Reasons = []string{unknown, "it runs " + drift.Describe(j.Running)}
		} else {
			j.Notes = append(slices.Clone(j.Notes), unknown)
		}
	}
	return j
}

// same says whether nothing has to be recorded to get from one to the other.
func (a *assignment) same(b *assignment) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Release == b.Release && a.At.Equal(b.At) && maps.Equal(a.Versions, b.Versions)
}

func (a *assignment) toProto() *driftv1.ReleaseAssigned {
	if a == nil {
		return nil
	}
	return &driftv1.ReleaseAssigned{
		Release: string(a.Release), Rollout: a.Rollout, At: timestamppb.New(a.At), Versions: codec.VersionsToProto(a.Versions), By: a.By, Reason: a.Reason,
	}
}

func assignmentFromProto(m *driftv1.ReleaseAssigned) *assignment {
	if m == nil {
		return nil
	}
	return &assignment{
		Release: fleet.ReleaseID(m.GetRelease()), Rollout: m.GetRollout(), At: m.GetAt().AsTime(), Versions: codec.VersionsFromProto(m.GetVersions()),
		By: m.GetBy(), Reason: m.GetReason(),
	}
}

// recallDrift takes over where a cluster's newest event says that it stands.
func (w *watch) recallDrift(id string, m bus.Message) error {
	var event driftv1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	c, known := w.clusters[fleet.ClusterID(id)]
	if !known {
		c = newCluster(ClusterConfig{ID: fleet.ClusterID(id)})
		w.orphans = append(w.orphans, c)
	}
	if m.Sequence <= c.revision {
		return nil
	}
	c.revision = m.Sequence
	standing := event.GetStanding()
	if standing == nil {
		// It was written before events told that.
		for _, f := range event.GetFacts() {
			if changed := f.GetStateChanged(); changed != nil {
				c.since = changed.GetAt().AsTime()
				c.period = drift.Period{State: drift.State(changed.GetTo()), Began: c.since, Reasons: changed.GetReasons()}
			}
		}
		if c.period.State.Alarming() {
			c.opened = c.since
		}
		return nil
	}
	c.period, c.since, c.opened = drift.Period{State: drift.Unknown}, time.Time{}, time.Time{}
	if at := standing.GetStateSince(); at != nil {
		c.since = at.AsTime()
	}
	if p := standing.GetPeriod(); p != nil {
		c.period = codec.PeriodFromProto(p)
	}
	if at := standing.GetDriftOpenedAt(); at != nil {
		c.opened = at.AsTime()
	}
	if m := standing.GetMoved(); m != nil {
		c.moved = &move{rollout: rollout.ID(m.GetRollout()), at: m.GetAt().AsTime(), before: *assignmentFromProto(m.GetBefore())}
	}
	c.recorded = assignmentFromProto(standing.GetAssigned())
	if c.recorded != nil && (c.assigned == nil || !c.recorded.At.Before(c.assigned.At)) {
		c.assigned = c.recorded
	}
	c.drift.Assigned = w.expected(c)
	return nil
}

// judgeState records a cluster's state where it is another, in one message with
// all that follows from it.
func (w *watch) judgeState(ctx context.Context, c *clusterWatch) error {
	// To the millisecond, as the history keeps it.
	now := w.deps.Now().Truncate(time.Millisecond)
	if w.deaf[topology.Partition(c.drift.ID)] {
		// Every report waits behind the one that cannot be stored: the silence is
		// the evaluator's own.
		c.drift.WatchedSince = now
	}
	j := w.judged(c, now)
	p := drift.PeriodOf(c.drift, j, now)
	first := c.period.Began.IsZero()
	news := w.judges(c.drift.ID) && !p.Same(c.period) && (!first || j.State != drift.Unknown || !c.drift.Seen().IsZero())
	if !news && c.assigned.same(c.recorded) {
		return nil
	}
	event := &driftv1.Event{Cluster: string(c.drift.ID)}
	since, opened, ended := c.since, c.opened, c.period
	if first || j.State != c.period.State {
		since = now
	}
	if !c.assigned.same(c.recorded) {
		event.Facts = append(event.Facts, &driftv1.Fact{Kind: &driftv1.Fact_ReleaseAssigned{ReleaseAssigned: c.assigned.toProto()}})
	}
	if news {
		if !first {
			ended.Ended = now
			if ended.Mixed() && !p.Mixed() {
				ended.Edge.To = led(p, j)
			}
			event.Facts = append(event.Facts, &driftv1.Fact{Kind: &driftv1.Fact_PeriodEnded{PeriodEnded: &driftv1.PeriodEnded{Period: codec.PeriodToProto(ended)}}})
		}
		event.Facts = append(event.Facts, &driftv1.Fact{Kind: &driftv1.Fact_PeriodBegan{PeriodBegan: &driftv1.PeriodBegan{Period: codec.PeriodToProto(p)}}})
		event.Facts = append(event.Facts, changed(c.period.State, j, now)...)
		var episode []*driftv1.Fact
		episode, opened = episodeOf(c.period.State, j, now, opened)
		event.Facts = append(event.Facts, episode...)
	} else {
		p = c.period
	}
	event.Standing = c.standing(p, since, opened)
	revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounDrift, string(c.drift.ID)), event, c.revision)
	if err != nil {
		return err
	}
	if j.State != c.period.State {
		w.deps.Log.Info("lockstep state changed", "cluster", c.drift.ID, "from", c.period.State, "to", j.State, "reasons", strings.Join(j.Reasons, "; "))
		w.deps.Meter.Decided(topology.NounDrift, string(j.State))
	}
	c.revision, c.period, c.since, c.opened, c.recorded = revision, p, since, opened, c.assigned
	return nil
}

// forget ends the history of a cluster that is no longer declared, in one message:
// its period and its episode. What it was to run is kept, should it come back.
func (w *watch) forget(ctx context.Context, c *clusterWatch, now time.Time) error {
	if c.period.Began.IsZero() {
		return nil
	}
	ended := c.period
	ended.Ended = now
	ended.Edge.To = nil // where a mix led nobody will see
	event := &driftv1.Event{
		Cluster: string(c.drift.ID), Standing: c.standing(drift.Period{}, time.Time{}, time.Time{}),
		Facts: []*driftv1.Fact{{Kind: &driftv1.Fact_PeriodEnded{PeriodEnded: &driftv1.PeriodEnded{Period: codec.PeriodToProto(ended)}}}},
	}
	gone := drift.Judgement{State: drift.Unknown, Reasons: []string{"the cluster is no longer declared"}}
	event.Facts = append(event.Facts, changed(c.period.State, gone, now)...)
	episode, _ := episodeOf(c.period.State, gone, now, c.opened)
	event.Facts = append(event.Facts, episode...)
	revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounDrift, string(c.drift.ID)), event, c.revision)
	if err != nil {
		return err
	}
	c.revision, c.period, c.since, c.opened = revision, drift.Period{State: drift.Unknown}, time.Time{}, time.Time{}
	return nil
}

// standing is where a cluster stands with a period that goes on, or with none.
func (c *clusterWatch) standing(p drift.Period, since, opened time.Time) *driftv1.Standing {
	m := &driftv1.Standing{Assigned: c.assigned.toProto()}
	if !p.Began.IsZero() {
		m.Period, m.StateSince = codec.PeriodToProto(p), timestamppb.New(since)
	}
	if !opened.IsZero() {
		m.DriftOpenedAt = timestamppb.New(opened)
	}
	if moved := c.moved; moved != nil {
		m.Moved = &driftv1.MoveBegan{Rollout: string(moved.rollout), At: timestamppb.New(moved.at), Before: moved.before.toProto()}
	}
	return m
}

// led is where a mix led that a period ends, nil for a cluster that nobody sees any
// more: nothing is learned from what it was on its way to.
func led(p drift.Period, j drift.Judgement) fleet.VersionSet {
	if p.State == drift.Dark {
		return nil
	}
	set, _ := drift.Whole(j.Running)
	return set
}

// changed is the fact of another state.
func changed(from drift.State, j drift.Judgement, now time.Time) []*driftv1.Fact {
	if from == j.State {
		return nil
	}
	running := make(map[string]string)
	for line, versions := range j.Running {
		running[string(line)] = strings.Join(versions, ", ")
	}
	return []*driftv1.Fact{{Kind: &driftv1.Fact_StateChanged{StateChanged: &driftv1.StateChanged{
		From: string(from), To: string(j.State), Reasons: j.Reasons, At: timestamppb.New(now), Running: running,
	}}}}
}

// episodeOf is the fact of an episode that opens, changes or closes, and since
// when one is open then.
func episodeOf(from drift.State, j drift.Judgement, now, opened time.Time) ([]*driftv1.Fact, time.Time) {
	switch drift.EpisodeOf(from, j.State) {
	case drift.Opened:
		return []*driftv1.Fact{{Kind: &driftv1.Fact_DriftOpened{DriftOpened: &driftv1.DriftOpened{
			State: string(j.State), Reasons: j.Reasons, At: timestamppb.New(now),
		}}}}, now
	case drift.Changed:
		return []*driftv1.Fact{{Kind: &driftv1.Fact_DriftChanged{DriftChanged: &driftv1.DriftChanged{
			State: string(j.State), Reasons: j.Reasons, At: timestamppb.New(now), OpenedAt: timestamppb.New(opened),
		}}}}, opened
	case drift.Closed:
		return []*driftv1.Fact{{Kind: &driftv1.Fact_DriftClosed{DriftClosed: &driftv1.DriftClosed{
			State: string(j.State), At: timestamppb.New(now), OpenedAt: timestamppb.New(opened),
		}}}}, time.Time{}
	}
	return nil, opened
}
