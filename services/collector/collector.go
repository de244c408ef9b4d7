// Package collector asks sources what they see and hands it on as observation
// batches. It owns the observation subjects, their sequences and incarnations.
// It judges nothing and keeps no history.
package collector

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// Source is one place to look at. Poll returns what is new, in the order in
// which it was seen; observations that were returned are not returned again
// unless they changed, so the collector must not lose them.
type Source struct {
	ID fleet.SourceID
	// Kind is the last token of the subject: inventory, session or registration.
	Kind  string
	Every time.Duration
	Poll  func(ctx context.Context) ([]codec.Observation, error)
}

// Config is what an operator chooses.
type Config struct {
	Tenant fleet.TenantID
	// Incarnation is another one at every start.
	Incarnation string
	// MaxBatch bounds the observations of one message.
	MaxBatch int
}

// Publisher is what the collector needs of the bus.
type Publisher interface {
	Publish(ctx context.Context, m bus.Message) (uint64, error)
}

// Meter counts what the collector does.
type Meter interface {
	Polled(kind string, failed bool, took time.Duration)
	Published(kind string, observations int)
}

// Deps are what the collector works with.
type Deps struct {
	Bus   Publisher
	Log   *slog.Logger
	Meter Meter
	Now   func() time.Time
}

// Service is the collector.
type Service struct {
	config  Config
	sources []Source
	deps    Deps
}

// New returns a collector of the given sources that has not started.
func New(config Config, sources []Source, deps Deps) *Service {
	return &Service{config: config, sources: sources, deps: deps}
}

// Run polls every source on its own schedule until ctx ends, then returns nil.
func (s *Service) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, source := range s.sources {
		running.Go(func() {
			p := poller{Service: s, source: source, sequences: make(map[uint32]uint64)}
			p.run(ctx)
		})
	}
	running.Wait()
	<-ctx.Done() // A collector of nothing is not done either.
	return nil
}

// poller works one source.
type poller struct {
	*Service
	source    Source
	sequences map[uint32]uint64
	failing   bool
}

func (p *poller) run(ctx context.Context) {
	for range rtime.Every(ctx, p.source.Every) {
		p.poll(ctx)
	}
}

// poll asks once. A source that fails is logged when it starts failing and when
// it works again, not at every turn; its silence makes its clusters dark.
func (p *poller) poll(ctx context.Context) {
	began := p.deps.Now()
	observations, err := p.source.Poll(ctx)
	if ctx.Err() != nil {
		return
	}
	p.deps.Meter.Polled(p.source.Kind, err != nil, p.deps.Now().Sub(began))
	switch {
	case err != nil && !p.failing:
		p.deps.Log.Error("a source cannot be read; it is asked again", "source", p.source.ID, "every", p.source.Every, "error", err)
	case err == nil && p.failing:
		p.deps.Log.Info("a source can be read again", "source", p.source.ID)
	}
	p.failing = err != nil
	if err != nil {
		return
	}
	for _, batch := range p.batches(observations, began) {
		if !p.publish(ctx, batch) {
			return
		}
	}
}

// maxBatchBytes bounds the encoded observations of one message, far below what
// the bus accepts: a message that is refused for its size would be tried for ever.
const maxBatchBytes = 1 << 20

// batches packs observations, keeping their order within each part.
func (p *poller) batches(observations []codec.Observation, at time.Time) []*observationv1.Batch {
	open := make(map[uint32]*observationv1.Batch)
	sizes := make(map[uint32]int)
	var out []*observationv1.Batch
	for _, o := range observations {
		part := topology.Part(o.Cluster())
		batch := open[part]
		m := codec.ObservationToProto(o, at)
		size := proto.Size(m)
		if batch == nil || len(batch.Observations) >= p.config.MaxBatch || sizes[part]+size > maxBatchBytes {
			p.sequences[part]++
			batch = &observationv1.Batch{
				Source: string(p.source.ID), Incarnation: p.config.Incarnation, Sequence: p.sequences[part], Part: part,
			}
			open[part], sizes[part] = batch, 0
			out = append(out, batch)
		}
		batch.Observations = append(batch.Observations, m)
		sizes[part] += size
	}
	return out
}

// publish hands one batch on and does not give up before ctx ends: what a poll
// returned is not returned again.
func (p *poller) publish(ctx context.Context, batch *observationv1.Batch) bool {
	data, err := proto.Marshal(batch)
	if err != nil {
		// Only text that is not UTF-8 gets here; without it the rest still counts.
		p.deps.Log.Error("a batch cannot be encoded and is dropped; its absence is seen as a hole", "source", p.source.ID, "error", err)
		return true
	}
	m := bus.Message{
		Subject: topology.ObservationSubject(p.config.Tenant, p.source.ID, batch.Part, fleet.Kind(p.source.Kind)),
		Type:    string(batch.ProtoReflect().Descriptor().FullName()), Data: data,
	}
	pauses := rtime.Backoff{First: 100 * time.Millisecond, Max: 5 * time.Second}
	for attempt := 1; ; attempt++ {
		_, err := p.deps.Bus.Publish(ctx, m)
		if err == nil {
			p.deps.Meter.Published(p.source.Kind, len(batch.Observations))
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if attempt == 1 {
			p.deps.Log.Error("publishing observations failed; they are kept and tried again", "source", p.source.ID, "error", err)
		}
		if rtime.Wait(ctx, pauses.Next()) != nil {
			return false
		}
	}
}

// InventorySource reads one cluster's instances.
func InventorySource(cluster fleet.ClusterID, every time.Duration, read func(context.Context) (fleet.Inventory, error)) Source {
	return Source{
		ID: fleet.SourceID("compose-" + cluster), Kind: "inventory", Every: every,
		Poll: func(ctx context.Context) ([]codec.Observation, error) {
			inventory, err := read(ctx)
			if err != nil {
				return nil, fmt.Errorf("reading the inventory of %s: %w", cluster, err)
			}
			return []codec.Observation{{Inventory: &inventory}}, nil
		},
	}
}

// SessionSource reads the sessions of a tenant and the marks that say how far
// they are complete.
func SessionSource(id fleet.SourceID, every time.Duration, read func(context.Context) ([]fleet.Session, []fleet.Mark, error)) Source {
	return Source{ID: id, Kind: "session", Every: every, Poll: func(ctx context.Context) ([]codec.Observation, error) {
		sessions, marks, err := read(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading sessions: %w", err)
		}
		out := make([]codec.Observation, 0, len(sessions)+len(marks))
		for _, s := range sessions {
			out = append(out, codec.Observation{Session: clone(s)})
		}
		// Marks last: they promise what stands before them.
		for _, m := range marks {
			out = append(out, codec.Observation{Mark: clone(m)})
		}
		return out, nil
	}}
}

// RegistrationSource reads what the vendor reports of a tenant's bastions. A
// registration that says what the last one said is not sent again.
func RegistrationSource(id fleet.SourceID, every time.Duration, read func(context.Context) ([]fleet.Registration, error)) Source {
	sent := make(map[fleet.ClusterID]fleet.Registration)
	return Source{ID: id, Kind: "registration", Every: every, Poll: func(ctx context.Context) ([]codec.Observation, error) {
		registrations, err := read(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading registrations: %w", err)
		}
		var out []codec.Observation
		for _, r := range registrations {
			if last, ok := sent[r.Cluster]; ok && last.LastReport.Equal(r.LastReport) && slices.Equal(last.Bastions, r.Bastions) {
				continue
			}
			sent[r.Cluster] = r
			out = append(out, codec.Observation{Registration: clone(r)})
		}
		return out, nil
	}}
}

func clone[T any](v T) *T { return &v }
