package evaluator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// archive keeps events in the store as they are, and the periods that they tell of.
// A repeat writes the same rows.
func (w *watch) archive(ctx context.Context, batch []bus.Delivery) (handled int, err error) {
	var (
		facts   []codec.Fact
		periods []codec.Period
		unread  error
	)
	for _, d := range batch {
		fact, rows, err := w.event(d)
		if err != nil {
			unread = bus.Permanent(err)
			break
		}
		facts = append(facts, fact)
		if mix, ended := mixOf(rows); ended {
			// The mix is read from the rows before this event's: who starts behind these
			// reads it from there.
			if err := w.deps.Store.InsertPeriods(ctx, w.config.Tenant, periods); err != nil {
				return 0, fmt.Errorf("storing periods: %w", err)
			}
			periods = nil
			if err := w.learnEnded(ctx, mix); err != nil {
				return 0, err
			}
		}
		periods = append(periods, rows...)
	}
	if err := w.deps.Store.InsertFacts(ctx, facts); err != nil {
		return 0, fmt.Errorf("archiving %d events: %w", len(facts), err)
	}
	if err := w.deps.Store.InsertPeriods(ctx, w.config.Tenant, periods); err != nil {
		return 0, fmt.Errorf("storing periods: %w", err)
	}
	return len(facts), unread
}

// event reads one event and the periods that it tells of.
func (w *watch) event(d bus.Delivery) (codec.Fact, []codec.Period, error) {
	noun, id, ok := topology.EventNoun(d.Subject)
	if !ok {
		return codec.Fact{}, nil, fmt.Errorf("subject %s names no event", d.Subject)
	}
	text, err := eventJSON(d.Message)
	if err != nil {
		return codec.Fact{}, nil, err
	}
	fact := codec.Fact{Tenant: w.config.Tenant, Noun: noun, ID: id, StreamSequence: d.Sequence, Type: d.Type, RecordedAt: d.Time, JSON: text}
	if noun != topology.NounDrift {
		return fact, nil, nil
	}
	var event driftv1.Event
	if err := proto.Unmarshal(d.Data, &event); err != nil {
		return codec.Fact{}, nil, fmt.Errorf("decoding %s at %d: %w", d.Subject, d.Sequence, err)
	}
	var rows []codec.Period
	for _, f := range event.GetFacts() {
		p := f.GetPeriodEnded().GetPeriod()
		if p == nil {
			p = f.GetPeriodBegan().GetPeriod()
		}
		if p == nil {
			continue
		}
		row := codec.Period{Period: codec.PeriodFromProto(p), StreamSequence: d.Sequence, RecordedAt: d.Time}
		row.Cluster = fleet.ClusterID(id)
		rows = append(rows, row)
	}
	return fact, rows, nil
}

// mixOf is the mixed period that an event ends, if what begins is not mixed.
func mixOf(rows []codec.Period) (drift.Period, bool) {
	var mix drift.Period
	var ended, whole bool
	for _, row := range rows {
		switch {
		case row.Ended.IsZero():
			whole = !row.Mixed()
		case row.Mixed():
			mix, ended = row.Period, true
		}
	}
	return mix, ended && whole
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

// mostOfMix is of how many periods a mix is made at most, to learn from it.
const mostOfMix = 1000

// learnEnded takes in the mix that ended with a period.
func (w *watch) learnEnded(ctx context.Context, last drift.Period) error {
	periods, err := w.deps.Store.Periods(ctx, w.config.Tenant, []fleet.ClusterID{last.Cluster}, codec.Span{To: last.Began}, mostOfMix)
	if err != nil {
		return fmt.Errorf("reading the mix of %s that ended at %s: %w", last.Cluster, last.Ended, err)
	}
	m := codec.Mix{Cluster: last.Cluster, Edge: last.Edge, Began: last.Began.Truncate(time.Millisecond)}
	for _, p := range slices.Backward(periods) {
		if !p.Mixed() || !p.Ended.Equal(m.Began) {
			break
		}
		m.Began, m.Edge.From = p.Began, p.Edge.From
	}
	m.Took = last.Ended.Truncate(time.Millisecond).Sub(m.Began)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limits.Learned != nil {
		w.learnMix(m)
	}
	return nil
}
