package evaluator

import (
	"context"
	"fmt"
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
	stream   uint64 // its sequence in the stream
	at       time.Time
	records  []codec.Record
	// kept are those of the records that history has a use for.
	kept []codec.Record
	// sessions is false when it is of a source that sees no sessions, so that no
	// gate misses what is missing of it; inventories the same for what runs.
	sessions, inventories bool
	// trace is stored and not folded: it keeps the place of a message of which
	// nothing else is kept, or a start would take it for one that is missing.
	trace []codec.Record
	// hole tells every cluster of the part of messages that are missing before it,
	// before the message's records.
	hole []codec.Record
	place
}

// place is where a message stands among those of its position.
type place struct {
	repeat bool
	// missing counts the messages between it and the one before it.
	missing uint64
}

// foresee takes in one message as soon as it is here: drift follows from it, and a
// gate may stop. It is durable in the stream, and its rows come behind it. What they
// have to be there for, a pass, waits for observe.
func (w *watch) foresee(ctx context.Context, partition int, m bus.Message) {
	a, err := w.take(partition, m)
	if err != nil {
		return // observe finds the same
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.judgeAll(ctx, a.records); err != nil && ctx.Err() == nil {
		w.deps.Log.Warn("judging what has arrived failed; it is tried again", "sequence", m.Sequence, "error", err)
	}
}

// take folds a message, once, and keeps it until its rows are stored.
func (w *watch) take(partition int, m bus.Message) (*arrival, error) {
	if a := w.taken(partition, m); a != nil {
		return a, nil
	}
	known := w.clusterIDs()
	a, err := w.read(m, known)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	a.place = w.arrivals.follow(a)
	if a.missing > 0 {
		a.hole = w.hole(a, known)
	}
	a.kept = w.keptOf(a)
	w.takeAll(a)
	if w.ahead[partition] == nil {
		w.ahead[partition] = make(map[uint64]*arrival)
	}
	w.ahead[partition][a.stream] = a
	w.handled[partition] = max(w.handled[partition], a.stream)
	return a, nil
}

// taken returns a message that was folded and whose rows are not stored yet, nil for
// another.
func (w *watch) taken(partition int, m bus.Message) *arrival {
	w.mu.Lock()
	defer w.mu.Unlock()
	// A stream that was made anew numbers its messages from the beginning.
	if a := w.ahead[partition][m.Sequence]; a != nil && a.at.Equal(m.Time) {
		return a
	}
	return nil
}

// unstored says whether rows of a cluster's partition are still on their way to the
// store, up to a place in the stream. Those of a repeat are there.
func (w *watch) unstored(cluster fleet.ClusterID, upTo uint64) bool {
	for sequence, a := range w.ahead[topology.Partition(cluster)] {
		if sequence <= upTo && !a.repeat {
			return true
		}
	}
	return false
}

// observe stores the rows of messages of one partition, and takes what decisions have
// waited for them. Partitions have no part in common, so that one stores while
// another judges. It returns how many were handled before an error.
func (w *watch) observe(ctx context.Context, partition int, deliveries []bus.Delivery) (handled int, err error) {
	var (
		came   []*arrival
		unread error
	)
	for _, d := range deliveries {
		a, err := w.take(partition, d.Message)
		if err != nil {
			unread = bus.Permanent(err)
			break
		}
		came = append(came, a)
	}
	err = w.insert(ctx, came)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf[partition] = err != nil; err != nil {
		return 0, fmt.Errorf("storing observations: %w", err)
	}
	gated := make(map[fleet.ClusterID]bool)
	for _, a := range came {
		delete(w.ahead[partition], a.stream)
		for i := range a.records {
			if id := a.records[i].Cluster(); len(w.open[id]) > 0 {
				gated[id] = true
			}
		}
	}
	w.mend(came)
	for id := range gated {
		if err := w.judge(ctx, id); err != nil && ctx.Err() == nil {
			w.deps.Log.Warn("judging what is stored failed; it is tried again", "cluster", id, "error", err)
		}
	}
	for _, a := range came {
		w.deps.Meter.DecisionLatency(w.deps.Now().Sub(a.at))
	}
	return len(came), unread
}

// clusterIDs are the clusters that there are now. What is read without the lock is
// read by them, so that a message is not torn by a cluster that comes or goes.
func (w *watch) clusterIDs() map[fleet.ClusterID]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ids == nil {
		w.ids = make(map[fleet.ClusterID]bool, len(w.clusters))
		for id := range w.clusters {
			w.ids[id] = true
		}
	}
	return w.ids
}

// insert stores messages. A hole is stored after what came before it and before
// the message behind it: an evaluator that dies in between and starts anew takes
// the newest row for all that is stored, and must forget neither.
func (w *watch) insert(ctx context.Context, came []*arrival) error {
	most := 0
	for _, a := range came {
		most += len(a.records) + len(a.trace)
	}
	records := make([]codec.Record, 0, most)
	for _, a := range came {
		if len(a.hole) > 0 {
			for _, rows := range [][]codec.Record{records, a.hole} {
				if err := w.commits.InsertRecords(ctx, rows); err != nil {
					return err
				}
			}
			records = nil
		}
		records = append(append(records, a.kept...), a.trace...)
	}
	return w.commits.InsertRecords(ctx, records)
}

// keptOf returns the records of a message that history has a use for. That an
// inventory, registration or package still holds is told every few seconds for
// every cluster, and a start does not ask for it: it is kept where a gate's decision
// may rest on it, that of an open one or one that was taken before the rows were
// stored. Of a message that says nothing else one mark is kept, for its place.
func (w *watch) keptOf(a *arrival) []codec.Record {
	kept := make([]codec.Record, 0, len(a.records))
	for i := range a.records {
		m := a.records[i].Mark
		if m == nil || m.About == fleet.KindSession || m.Blind || m.Lost || w.attended(m.Cluster) || a.stream <= w.rests[m.Cluster] {
			kept = append(kept, a.records[i])
		}
	}
	if len(kept) == 0 && len(a.records) > 0 {
		return a.records[:1]
	}
	return kept
}

// hole returns the marks that tell of what is missing before a message, one for
// every cluster of its part. They have the sequence of the last message that is
// missing and stand first among the rows of the one that came. What is missing was
// sent before that one arrived, so it is of sessions that started before.
func (w *watch) hole(a *arrival, known map[fleet.ClusterID]bool) []codec.Record {
	if !a.sessions {
		return nil
	}
	var out []codec.Record
	for id := range known {
		if topology.Part(id) == a.position.Part {
			out = append(out, w.lost(a, id, a.sequence-1, a.missed()))
		}
	}
	return out
}

// lost is the mark that tells a cluster of a loss. It says nothing of what it may
// have been but that it was sent before the message arrived.
func (w *watch) lost(a *arrival, cluster fleet.ClusterID, sequence uint64, reason string) codec.Record {
	return codec.Record{
		Observation: codec.Observation{Mark: &fleet.Mark{
			Cluster: cluster, About: fleet.KindSession, CompleteUntil: a.at, Blind: true, Lost: true, BlindReason: reason,
		}},
		Tenant: w.config.Tenant, ObservedAt: a.at, RecordedAt: a.at,
		Source: a.position.Source, Incarnation: a.position.Incarnation, Part: a.position.Part, SourceSequence: sequence, StreamSequence: a.stream,
	}
}

// missed says for people what is missing before a message.
func (a *arrival) missed() string {
	return fmt.Sprintf("messages %d to %d of source %s are missing", a.sequence-a.missing, a.sequence-1, a.position.Source)
}

// mend has the gates read their rows anew that a message from before the start
// speaks of: it may have been stored in part only, and now it is whole.
func (w *watch) mend(came []*arrival) {
	again := make(map[fleet.ClusterID]bool)
	for _, a := range came {
		last, known := w.recalled[a.position]
		if known && a.sequence > last {
			delete(w.recalled, a.position)
		}
		if known && a.sequence <= last {
			for _, r := range a.records {
				again[r.Cluster()] = true
			}
		}
	}
	for _, g := range w.gates {
		if again[g.Cluster] {
			g.step = nil
		}
	}
}

// read decodes a message and drops observations that have no place here.
func (w *watch) read(d bus.Message, clusters map[fleet.ClusterID]bool) (*arrival, error) {
	var batch observationv1.Batch
	if err := proto.Unmarshal(d.Data, &batch); err != nil {
		return nil, fmt.Errorf("decoding a batch: %w", err)
	}
	a := &arrival{
		position: codec.Position{Source: fleet.SourceID(batch.GetSource()), Incarnation: batch.GetIncarnation(), Part: batch.GetPart()},
		sequence: batch.GetSequence(), stream: d.Sequence, at: d.Time, sessions: len(batch.GetObservations()) == 0,
	}
	a.records = make([]codec.Record, 0, len(batch.GetObservations()))
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
		a.sessions = a.sessions || o.Kind() == fleet.KindSession
		a.inventories = a.inventories || o.Kind() == fleet.KindInventory
		if !clusters[o.Cluster()] {
			w.deps.Meter.Observed("unknown_cluster", 1)
			continue
		}
		if !plausible(&r) {
			w.deps.Meter.Observed("implausible_time", 1)
			if r.Session != nil && r.Session.Start.After(r.RecordedAt) {
				// Nobody knows when it really began, and the next mark promises it.
				lost := w.lost(a, o.Cluster(), a.sequence, fmt.Sprintf("session %s has an impossible start, %s", r.Session.ID, r.Session.Start.Format(time.RFC3339)))
				lost.Index = r.Index
				a.records = append(a.records, lost)
			}
			continue
		}
		a.records = append(a.records, r)
	}
	if len(a.records) == 0 && len(batch.GetObservations()) > 0 {
		trace := w.lost(a, "", a.sequence, "")
		trace.Mark = &fleet.Mark{CompleteUntil: a.at}
		a.trace = []codec.Record{trace}
	}
	return a, nil
}

// judgeAll judges the clusters that records speak of.
func (w *watch) judgeAll(ctx context.Context, records []codec.Record) error {
	judged := make(map[fleet.ClusterID]bool)
	for i := range records {
		id := records[i].Cluster()
		if judged[id] {
			continue
		}
		judged[id] = true
		if w.clusters[id] == nil {
			continue // it was removed meanwhile
		}
		if err := w.judge(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// takeAll folds a message. The rows of a repeat are collapsed into the first, so
// the fold must not see it either.
func (w *watch) takeAll(a *arrival) {
	if a.repeat {
		// What runs may not have been stored when the start read it; what is newer stays.
		for _, r := range a.records {
			confirms := r.Mark != nil && r.Mark.About != fleet.KindSession && !r.Mark.Blind
			if r.Inventory != nil || r.Registration != nil || r.Package != nil || confirms {
				w.fold(r)
			}
		}
		return
	}
	if a.missing > 0 {
		w.deps.Log.Warn("a hole in a source's messages", "source", a.position.Source, "part", a.position.Part, "before", a.sequence, "missing", a.missing)
		w.deps.Meter.Observed("missing_message", int(min(a.missing, 1<<31)))
		for id, c := range w.clusters {
			if a.inventories && topology.Part(id) == a.position.Part {
				c.drift = c.drift.Doubt(a.missed())
			}
		}
	}
	for _, r := range a.hole {
		w.fold(r)
		w.feedGates(r)
	}
	for _, r := range a.records {
		w.fold(r)
	}
	for _, r := range a.kept {
		w.feedGates(r)
	}
}

// How far the times of an observation may be from its arrival. What lies outside
// comes from a broken clock, has no place in a table and would promise too much
// as a mark.
const (
	maxPast   = 400 * 24 * time.Hour
	maxFuture = 24 * time.Hour
)

// plausible says whether the times of a record can be kept. When something was
// seen is put right where only that is wrong: it was seen, and it has arrived. A
// mark's is not, since it promises.
func plausible(r *codec.Record) bool {
	within := func(t time.Time) bool {
		return t.IsZero() || !t.Before(r.RecordedAt.Add(-maxPast)) && !t.After(r.RecordedAt.Add(maxFuture))
	}
	if r.Mark != nil {
		return within(r.ObservedAt) && within(r.Mark.CompleteUntil)
	}
	if !within(r.ObservedAt) {
		r.ObservedAt = r.RecordedAt
		switch {
		case r.Inventory != nil:
			r.Inventory.ObservedAt = r.RecordedAt
		case r.Registration != nil:
			r.Registration.ObservedAt = r.RecordedAt
		case r.Package != nil:
			r.Package.ObservedAt = r.RecordedAt
		}
	}
	switch {
	case r.Session != nil:
		if !within(r.Session.End) {
			r.Session.End = time.Time{}
		}
		return within(r.Session.Start)
	case r.Check != nil:
		return within(r.Check.At)
	}
	return true
}

// arrivals knows the newest stored message of each position.
type arrivals map[codec.Position]uint64

// follow finds the place of a message, and knows it from now on.
func (k arrivals) follow(a *arrival) place {
	last := k[a.position]
	if a.sequence <= last {
		return place{repeat: true}
	}
	k[a.position] = a.sequence
	return place{missing: a.sequence - last - 1}
}
