// Package evaluator turns observations into rows, rows into lockstep states and
// gate evidence, and evidence into decisions. It owns the drift and gate facts
// and every table of history. It touches no cluster and tells no person.
package evaluator

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	fleetv1connect "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	gatev1connect "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1/observationv1connect"
	"github.com/lockstep-fleet/lockstep/topology"
)

// Config is what an operator chooses.
type Config struct {
	Tenant fleet.TenantID
	// Clusters in the order in which people listed them.
	Clusters []ClusterConfig
	Limits   drift.Limits
	// Beat is how often time alone is considered.
	Beat time.Duration
}

// ClusterConfig names a cluster and what it runs until a rollout moves it.
type ClusterConfig struct {
	ID fleet.ClusterID
	// Assigned is nil when no release is assigned.
	Assigned *drift.Assignment
}

// Bus is what the evaluator needs of the bus.
type Bus interface {
	Append(ctx context.Context, m bus.Message, expected uint64) (uint64, error)
	Load(ctx context.Context, stream, subject string, fn func(bus.Message) error) error
	Consume(ctx context.Context, c bus.Consumer, handle bus.Handler) error
	ConsumeBatch(ctx context.Context, c bus.Consumer, handle bus.BatchHandler) error
	Tail(ctx context.Context, t bus.Tail, fn func(bus.Message) error) error
}

// Store is what the evaluator needs of the history.
type Store interface {
	// InsertRecords returns once the rows are durable. Rows seen before are harmless.
	InsertRecords(ctx context.Context, records []codec.Record) error
	// InsertFact archives one event message.
	InsertFact(ctx context.Context, fact codec.Fact) error
	// Evidence calls fn with the sessions that started at or after from, and the
	// marks received since, of one cluster, in stream order, up to a sequence
	// (0: all).
	Evidence(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, from time.Time, upTo uint64, fn func(codec.Record)) error
	// Inventories returns a cluster's inventories observed at or after since, and
	// the one that held then, oldest first.
	Inventories(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, since time.Time) ([]fleet.Inventory, error)
	// Registration returns the newest registration of a cluster, the zero value
	// when there is none.
	Registration(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID) (fleet.Registration, error)
	// Positions returns the highest sequence stored of each source's part.
	Positions(ctx context.Context, tenant fleet.TenantID) (map[codec.Position]uint64, error)
}

// Meter counts what the evaluator does.
type Meter interface {
	Observed(kind string, n int)
	Decided(noun, what string)
	DecisionLatency(d time.Duration)
}

// Deps are what the evaluator works with.
type Deps struct {
	Bus   Bus
	Store Store
	Log   *slog.Logger
	Meter Meter
	Now   func() time.Time
}

// Service is the evaluator.
type Service struct {
	config Config
	deps   Deps
	watch  *watch
	ready  chan struct{}
}

// New returns an evaluator that has not started.
func New(config Config, deps Deps) *Service {
	return &Service{config: config, deps: deps, watch: newWatch(config, deps), ready: make(chan struct{})}
}

// Handlers returns what the evaluator serves.
func (s *Service) Handlers() (fleetv1connect.FleetServiceHandler, gatev1connect.GateServiceHandler, observationv1connect.ObservationServiceHandler) {
	return fleetAPI{watch: s.watch}, gateAPI{watch: s.watch}, observationAPI{config: s.config, bus: s.deps.Bus}
}

// Ready is closed once state is rebuilt and messages are being consumed.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run rebuilds state from facts and rows, then works until ctx ends. It returns
// nil when it was asked to stop.
func (s *Service) Run(ctx context.Context) error {
	if err := s.watch.rebuild(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // being asked to stop is no error
		}
		return fmt.Errorf("rebuilding the evaluator's state: %w", err)
	}
	close(s.ready)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.deps.Bus.ConsumeBatch(ctx, topology.EvaluatorObservations(), s.watch.observe) })
	group.Go(func() error { return s.deps.Bus.Consume(ctx, topology.EvaluatorEvents(), s.watch.learn) })
	group.Go(func() error { return s.beat(ctx) })
	return group.Wait()
}

// beat lets time pass for states and gates that no message wakes.
func (s *Service) beat(ctx context.Context) error {
	// What arrived while nobody listened is taken in before its absence is judged.
	if rtime.Wait(ctx, s.config.Beat) != nil {
		return nil //nolint:nilerr // being asked to stop is no error
	}
	for range rtime.Every(ctx, s.config.Beat) {
		if err := s.watch.pass(ctx); err != nil && ctx.Err() == nil {
			s.deps.Log.Warn("judging on the clock failed; it is tried again", "error", err)
		}
	}
	return nil
}
