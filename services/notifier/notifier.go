// Package notifier tells people what was decided. Each sink has its own durable
// position in the event stream, so a sink that is down delays nobody else. It
// owns those positions; it decides nothing and writes no facts.
package notifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/notice"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// Sink is where notices go. Send may be called again with a notice that has
// arrived already; the notice's ID tells. An error wrapped by bus.Permanent is
// given up, any other is tried again.
type Sink interface {
	Send(ctx context.Context, n notice.Notice) error
}

// Bus is what the notifier needs of the bus.
type Bus interface {
	Consume(ctx context.Context, c bus.Consumer, handle bus.Handler) error
}

// Meter counts what the notifier does.
type Meter interface {
	Sent(sink, kind string, failed bool)
}

// Deps are what the notifier works with.
type Deps struct {
	Bus   Bus
	Log   *slog.Logger
	Meter Meter
	// Since is from when on a sink that has never been served is told things; zero
	// is from the beginning.
	Since time.Time
}

// maxTries is how often an event is tried at a sink before it goes to the dead
// letters and makes way for what comes after it: with pauses of up to half a
// minute, about a day.
const maxTries = 3000

// Service is the notifier.
type Service struct {
	sinks map[string]Sink
	deps  Deps
}

// New returns a notifier for sinks by name; names are part of durable positions.
func New(sinks map[string]Sink, deps Deps) *Service { return &Service{sinks: sinks, deps: deps} }

// Run works until ctx ends, then returns nil.
func (s *Service) Run(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for name, sink := range s.sinks {
		position := topology.NotifierEvents(name)
		// A sink that is new is not told what happened before it was there.
		position.Since = s.deps.Since
		group.Go(func() error {
			return s.deps.Bus.Consume(groupCtx, position, func(ctx context.Context, d bus.Delivery) error {
				return s.tell(ctx, name, sink, d)
			})
		})
	}
	if len(s.sinks) == 0 {
		<-ctx.Done()
	}
	return group.Wait()
}

func (s *Service) tell(ctx context.Context, name string, sink Sink, d bus.Delivery) error {
	notices, err := Notices(d.Message)
	if err != nil {
		return bus.Permanent(err)
	}
	var givenUp []error
	for _, n := range notices {
		err := sink.Send(ctx, n)
		s.deps.Meter.Sent(name, string(n.Kind), err != nil)
		switch {
		case err == nil:
		case bus.IsPermanent(err):
			// One notice that cannot be told does not silence the rest of the event.
			givenUp = append(givenUp, fmt.Errorf("telling sink %s of %s: %w", name, n.ID, err))
		case d.Deliveries >= maxTries:
			givenUp = append(givenUp, bus.Permanent(fmt.Errorf("telling sink %s of %s failed %d times: %w", name, n.ID, d.Deliveries, err)))
		default:
			return fmt.Errorf("telling sink %s of %s: %w", name, n.ID, err)
		}
	}
	return errors.Join(givenUp...)
}

// Notices returns what to say of one event message, in the order of its facts.
// Facts of kinds that this build does not know say nothing.
func Notices(m bus.Message) ([]notice.Notice, error) {
	noun, id, ok := topology.EventNoun(m.Subject)
	if !ok {
		return nil, fmt.Errorf("subject %s names no event", m.Subject)
	}
	var out []notice.Notice
	add := func(index int, n notice.Notice, tell bool) {
		if tell {
			n.ID = notice.ID(m.Subject, m.Sequence, index)
			out = append(out, n)
		}
	}
	switch noun {
	case topology.NounRollout:
		var event rolloutv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return nil, fmt.Errorf("decoding a rollout event: %w", err)
		}
		for i, p := range event.GetFacts() {
			if f, err := codec.RolloutFactFromProto(p); err == nil {
				n, tell := notice.OfRollout(rollout.ID(id), f)
				add(i, n, tell)
			}
		}
	case topology.NounGate:
		var event gatev1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return nil, fmt.Errorf("decoding a gate event: %w", err)
		}
		for i, f := range event.GetFacts() {
			if k := f.GetGateDecided(); k != nil {
				at := time.Time{}
				if t := k.GetDecision().GetDecidedAt(); t != nil {
					at = t.AsTime()
				}
				verdict, consequence := gate.Verdict(k.GetDecision().GetVerdict()), gate.Consequence(k.GetDecision().GetConsequence())
				// Of a policy in the mode shadow nobody is told.
				tell := verdict == gate.Pass || consequence != gate.GoOn
				add(i, notice.OfGate(rollout.ID(k.GetRollout()), fleet.ClusterID(k.GetCluster()), k.GetStep(),
					verdict, k.GetDecision().GetSummary(), at), tell)
			}
		}
	case topology.NounDrift:
		var event driftv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return nil, fmt.Errorf("decoding a drift event: %w", err)
		}
		for i, f := range event.GetFacts() {
			if k := f.GetStateChanged(); k != nil {
				n, tell := notice.OfState(fleet.ClusterID(id), drift.State(k.GetFrom()), drift.State(k.GetTo()), k.GetReasons(), k.GetAt().AsTime())
				add(i, n, tell)
			}
		}
	}
	return out, nil
}
