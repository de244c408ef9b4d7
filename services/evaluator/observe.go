package evaluator

import (
	"context"
	"fmt"
	"maps"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// arrival is one message of observations in the evaluator's hands.
type arrival struct {
	position codec.Position
	sequence uint64
	at       time.Time
	records  []codec.Record
	place
}

// place is where a message stands among those of its position.
type place struct {
	repeat bool
	// missing counts the messages between it and the one before it.
	missing uint64
	reason  string
}

// observe handles messages of observations: their rows first, then the fold, then
// decisions, so that every decision stands on durable rows. Decisions are taken
// after each message, as if the messages had come one by one. It returns how many
// were handled before an error.
func (w *watch) observe(ctx context.Context, deliveries []bus.Delivery) (handled int, err error) {
	var (
		came    []*arrival
		records []codec.Record
		unread  error
	)
	for _, d := range deliveries {
		a, err := w.read(d)
		if err != nil {
			unread = bus.Permanent(err)
			break
		}
		came = append(came, a)
		records = append(records, a.records...)
	}
	w.mu.Lock()
	next := w.arrivals.follow(came, w.clusters)
	w.mu.Unlock()
	err = w.deps.Store.InsertRecords(ctx, records)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf = err != nil; w.deaf {
		return 0, fmt.Errorf("storing observations: %w", err)
	}
	w.arrivals.accept(next)
	for i, a := range came {
		if err := w.arrived(ctx, a); err != nil {
			// The rest is stored and remembered, so it would not be folded when it comes
			// again; its rows are folded now and judged then.
			for _, later := range came[i+1:] {
				w.takeAll(later)
			}
			return i, err
		}
	}
	return len(came), unread
}

// read decodes a message and drops observations that have no place here.
func (w *watch) read(d bus.Delivery) (*arrival, error) {
	var batch observationv1.Batch
	if err := proto.Unmarshal(d.Data, &batch); err != nil {
		return nil, fmt.Errorf("decoding a batch: %w", err)
	}
	a := &arrival{
		position: codec.Position{Source: fleet.SourceID(batch.GetSource()), Incarnation: batch.GetIncarnation(), Part: batch.GetPart()},
		sequence: batch.GetSequence(), at: d.Time,
	}
	for i, m := range batch.GetObservations() {
		o, err := codec.ObservationFromProto(m)
		if err != nil {
			return nil, fmt.Errorf("decoding observation %d of source %q: %w", i, batch.GetSource(), err)
		}
		r := codec.Record{
			Observation: o, Tenant: w.config.Tenant, ObservedAt: m.GetObservedAt().AsTime(), RecordedAt: d.Time,
			Source: a.position.Source, Incarnation: a.position.Incarnation, Part: a.position.Part, SourceSequence: a.sequence,
			StreamSequence: d.Sequence, Index: uint32(i),
		}
		if _, known := w.clusters[o.Cluster()]; !known {
			w.deps.Meter.Observed("unknown_cluster", 1)
			continue
		}
		if !plausible(r) {
			w.deps.Meter.Observed("implausible_time", 1)
			continue
		}
		a.records = append(a.records, r)
	}
	return a, nil
}

// arrived folds a stored message and judges the clusters it speaks of.
func (w *watch) arrived(ctx context.Context, a *arrival) error {
	w.takeAll(a)
	judged := make(map[fleet.ClusterID]bool)
	for _, r := range a.records {
		if judged[r.Cluster()] {
			continue
		}
		judged[r.Cluster()] = true
		if err := w.judge(ctx, r.Cluster()); err != nil {
			return err
		}
	}
	w.deps.Meter.DecisionLatency(w.deps.Now().Sub(a.at))
	return nil
}

// takeAll folds a message. The rows of a repeat are collapsed into the first, so
// the fold must not see it either.
func (w *watch) takeAll(a *arrival) {
	if a.repeat {
		return
	}
	if a.missing > 0 {
		w.deps.Log.Warn("a hole in a source's messages", "source", a.position.Source, "part", a.position.Part, "before", a.sequence, "missing", a.missing)
		w.deps.Meter.Observed("missing_message", int(a.missing))
	}
	for _, r := range a.records {
		w.take(r)
	}
}

// How far the times of an observation may be from its arrival. What lies outside
// comes from a broken clock, has no place in a table and would promise too much
// as a mark.
const (
	maxPast   = 400 * 24 * time.Hour
	maxFuture = 24 * time.Hour
)

func plausible(r codec.Record) bool {
	within := func(times ...time.Time) bool {
		for _, t := range times {
			if !t.IsZero() && (t.Before(r.RecordedAt.Add(-maxPast)) || t.After(r.RecordedAt.Add(maxFuture))) {
				return false
			}
		}
		return true
	}
	switch {
	case r.Session != nil:
		return within(r.ObservedAt, r.Session.Start, r.Session.End)
	case r.Mark != nil:
		return within(r.ObservedAt, r.Mark.CompleteUntil)
	}
	return within(r.ObservedAt)
}

// arrivals knows which messages of each position are stored, and which holes
// among them no stored mark tells of yet.
type arrivals struct {
	last map[codec.Position]uint64
	// untold holds, per position, the clusters of its part whose next mark must say
	// what is missing.
	untold map[codec.Position]map[fleet.ClusterID]string
}

func newArrivals() arrivals {
	return arrivals{last: make(map[codec.Position]uint64), untold: make(map[codec.Position]map[fleet.ClusterID]string)}
}

// follow finds the place of each message, makes marks say what is missing before
// them (it may be sessions), and returns what is known once all are stored. It
// changes nothing itself, because the messages may come again until they are.
func (k arrivals) follow(came []*arrival, clusters map[fleet.ClusterID]*clusterWatch) arrivals {
	next := newArrivals()
	for _, a := range came {
		if _, looked := next.last[a.position]; !looked {
			next.last[a.position] = k.last[a.position]
			next.untold[a.position] = maps.Clone(k.untold[a.position])
		}
		next.place(a, clusters)
	}
	return next
}

// accept takes over what follow returned.
func (k arrivals) accept(next arrivals) {
	maps.Copy(k.last, next.last)
	for position, clusters := range next.untold {
		if len(clusters) == 0 {
			delete(k.untold, position)
			continue
		}
		k.untold[position] = clusters
	}
}

// place finds where a message stands. A hole concerns every cluster of the part
// and stays untold until a mark of the cluster is stored.
func (k arrivals) place(a *arrival, clusters map[fleet.ClusterID]*clusterWatch) {
	last := k.last[a.position]
	a.place = place{repeat: a.sequence <= last}
	if a.repeat {
		return
	}
	k.last[a.position] = a.sequence
	if a.missing = a.sequence - last - 1; a.missing > 0 {
		a.reason = fmt.Sprintf("messages %d to %d of source %s are missing", last+1, a.sequence-1, a.position.Source)
		untold := make(map[fleet.ClusterID]string)
		for id := range clusters {
			if topology.Part(id) == a.position.Part {
				untold[id] = a.reason
			}
		}
		k.untold[a.position] = untold
	}
	told := make(map[fleet.ClusterID]bool)
	for _, r := range a.records {
		if r.Mark == nil {
			continue
		}
		if reason := k.untold[a.position][r.Cluster()]; reason != "" {
			r.Mark.Blind, r.Mark.Lost, r.Mark.BlindReason = true, true, reason
			told[r.Cluster()] = true
		}
	}
	maps.DeleteFunc(k.untold[a.position], func(id fleet.ClusterID, _ string) bool { return told[id] })
}
