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
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1/catalogv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1/driftv1connect"
	fleetv1connect "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	gatev1connect "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1/observationv1connect"
	"github.com/lockstep-fleet/lockstep/topology"
)

// Config is what an operator chooses.
type Config struct {
	Tenant fleet.TenantID
	// Clusters and Releases are those of the configuration; documents and imports
	// bring more.
	Clusters []DeclaredCluster
	Releases []catalog.Release
	// Limits are those of the configuration, as LimitsDefinition words them.
	Limits           drift.Limits
	LimitsDefinition string
	// Beat is how often time alone is considered.
	Beat time.Duration
}

// ClusterConfig names a cluster and what people say of it.
type ClusterConfig struct {
	ID fleet.ClusterID
	// Release is what it is expected to run until another is assigned, empty for
	// none.
	Release fleet.ReleaseID
	Labels  map[string]string
	// Window is how long it may be mixed, zero for what the limits say.
	Window time.Duration
	// Checks are those that its configuration asks for.
	Checks []gate.ConfiguredCheck
}

// Bus is what the evaluator needs of the bus.
type Bus interface {
	Append(ctx context.Context, m bus.Message, expected uint64) (uint64, error)
	Load(ctx context.Context, stream, subject string, fn func(bus.Message) error) error
	LoadLast(ctx context.Context, stream, subject string, fn func(bus.Message) error) error
	Consume(ctx context.Context, c bus.Consumer, handle bus.Handler) error
	ConsumeBatch(ctx context.Context, c bus.Consumer, handle bus.BatchHandler) error
	Tail(ctx context.Context, t bus.Tail, fn func(bus.Message) error) error
	// End is the last message of a stream, Position the last that a consumer of batches
	// is done with.
	End(ctx context.Context, stream string) (uint64, error)
	Position(ctx context.Context, c bus.Consumer) (uint64, error)
}

// Store is what the evaluator needs of the history.
type Store interface {
	// InsertRecords returns once the rows are durable. Rows seen before are harmless.
	InsertRecords(ctx context.Context, records []codec.Record) error
	// InsertFacts archives event messages.
	InsertFacts(ctx context.Context, facts []codec.Fact) error
	// Evidence calls fn with the sessions that started at or after from, and the
	// marks received since, of one cluster, in stream order, up to a sequence
	// (0: all).
	Evidence(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, from time.Time, upTo uint64, fn func(codec.Record)) error
	// SessionEvidence is Evidence of sessions, their marks and checks alone.
	SessionEvidence(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, from time.Time, upTo uint64, fn func(codec.Record)) error
	// RecallInventories calls fn with the inventories observed at or after since, and
	// of each cluster the one that held then, oldest first of each cluster.
	RecallInventories(ctx context.Context, tenant fleet.TenantID, since time.Time, fn func(fleet.Inventory)) error
	// Registrations and Packages return the newest of each cluster.
	Registrations(ctx context.Context, tenant fleet.TenantID) ([]fleet.Registration, error)
	Packages(ctx context.Context, tenant fleet.TenantID) ([]fleet.Package, error)
	// Positions returns the highest sequence stored of each source's part.
	Positions(ctx context.Context, tenant fleet.TenantID) (map[codec.Position]uint64, error)
	History
}

// History is what the evaluator keeps and asks of how things were.
type History interface {
	// InsertPeriods returns once the rows are durable. Of two with one beginning the
	// one with the higher sequence counts.
	InsertPeriods(ctx context.Context, tenant fleet.TenantID, periods []codec.Period) error
	// Periods returns those of some clusters, or of all, that touch a span: the newest
	// up to a limit, oldest first.
	Periods(ctx context.Context, tenant fleet.TenantID, clusters []fleet.ClusterID, span codec.Span, limit int) ([]codec.Period, error)
	// PeriodsAt and InventoriesAt return what held at an instant, as it was known
	// then.
	PeriodsAt(ctx context.Context, tenant fleet.TenantID, at, now time.Time, clusters []fleet.ClusterID) ([]codec.Period, error)
	InventoriesAt(ctx context.Context, tenant fleet.TenantID, at time.Time, clusters []fleet.ClusterID) ([]fleet.Inventory, error)
	// Mixes returns those that ended since, for what moves take.
	Mixes(ctx context.Context, tenant fleet.TenantID, since time.Time) ([]codec.Mix, error)
	MixedTime(ctx context.Context, tenant fleet.TenantID, span codec.Span, group codec.Group, now time.Time) ([]codec.MixedTime, error)
	Adoption(ctx context.Context, tenant fleet.TenantID, line fleet.Line, span codec.Span, step time.Duration) ([]codec.Adoption, error)
	Convergence(ctx context.Context, tenant fleet.TenantID, span codec.Span) ([]codec.Convergence, error)
	// Impact counts whole hours as of the last RollUp, which may be repeated at any
	// time.
	RollUp(ctx context.Context, tenant fleet.TenantID) error
	Impact(ctx context.Context, tenant fleet.TenantID, span codec.Span, group codec.Group) ([]codec.Impact, error)
	// SessionsOf counts the sessions of some clusters, or of all, that began within a
	// span; a cluster without any is left out.
	SessionsOf(ctx context.Context, tenant fleet.TenantID, clusters []fleet.ClusterID, span codec.Span) (map[fleet.ClusterID]drift.Sessions, error)
	// Failures counts people's failed sessions by class, and their open ones over SSH.
	Failures(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, span codec.Span) (byClass map[fleet.Failure]int, openSSH int, err error)
	// InsertBaselines keeps the first of each id. Baseline's error is of the kind not
	// found when there is none.
	InsertBaselines(ctx context.Context, tenant fleet.TenantID, list []drift.Baseline) error
	Baselines(ctx context.Context, tenant fleet.TenantID, filter codec.BaselineFilter, limit int) ([]drift.Baseline, error)
	Baseline(ctx context.Context, tenant fleet.TenantID, id string) (drift.Baseline, error)
	// Stretch calls fn with the sessions of a cluster that started within a span and the
	// marks made then, in stream order. Outside what is near, a mark that another follows
	// with nothing between is left out. fn keeps no pointer of the record.
	Stretch(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, span codec.Span, near []codec.Span, fn func(codec.Record)) error
	// Cells counts people's trials in some clusters, within a boundary and before until,
	// by what ran and what they were.
	Cells(ctx context.Context, tenant fleet.TenantID, clusters []fleet.ClusterID, b gate.Boundary, until time.Time, burst time.Duration) ([]gate.Cell, error)
}

// Meter counts what the evaluator does.
type Meter interface {
	Observed(kind string, n int)
	Decided(noun, what string)
	DecisionLatency(d time.Duration)
	// States tells how many of the clusters that it judges are in each lockstep state,
	// zeros included.
	States(clusters map[string]int)
}

// Deps are what the evaluator works with.
type Deps struct {
	Bus       Bus
	Store     Store
	Documents Documents
	Log       *slog.Logger
	Meter     Meter
	Now       func() time.Time
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

// Handlers are what the evaluator serves.
type Handlers struct {
	Fleet        fleetv1connect.FleetServiceHandler
	Drift        driftv1connect.DriftServiceHandler
	Catalog      catalogv1connect.CatalogServiceHandler
	Gate         gatev1connect.GateServiceHandler
	Observations observationv1connect.ObservationServiceHandler
}

// Handlers returns what the evaluator serves.
func (s *Service) Handlers() Handlers {
	return Handlers{
		Fleet: fleetAPI{watch: s.watch}, Drift: driftAPI{watch: s.watch}, Catalog: catalogAPI{watch: s.watch}, Gate: gateAPI{watch: s.watch},
		Observations: observationAPI{config: s.config, bus: s.deps.Bus},
	}
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
	for partition := range topology.Partitions {
		group.Go(func() error {
			c := topology.EvaluatorObservations(partition)
			c.Taken = func(held context.Context, at bus.Place) error { return s.watch.takeOver(held, partition, at) }
			c.Seen = func(held context.Context, m bus.Message) { s.watch.foresee(held, partition, m) }
			return s.deps.Bus.ConsumeBatch(ctx, c, func(ctx context.Context, batch []bus.Delivery) (int, error) {
				return s.watch.observe(ctx, partition, batch)
			})
		})
	}
	group.Go(func() error { return s.deps.Bus.Consume(ctx, topology.EvaluatorRollouts(), s.watch.learnRollout) })
	group.Go(func() error { return s.deps.Bus.ConsumeBatch(ctx, topology.EvaluatorArchive(), s.watch.archive) })
	group.Go(func() error { return s.watch.listen(ctx) })
	group.Go(func() error { return s.watch.askControls(ctx) })
	group.Go(func() error { return s.watch.judgeWaves(ctx) })
	group.Go(func() error { return s.beat(ctx) })
	group.Go(func() error { return s.rollUp(ctx) })
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

// rollEvery is how often sessions are counted for the history.
const rollEvery = time.Minute

// rollUp keeps the counts of sessions by hour in step with their rows.
func (s *Service) rollUp(ctx context.Context) error {
	for range rtime.Every(ctx, rollEvery) {
		if err := s.deps.Store.RollUp(ctx, s.config.Tenant); err != nil && ctx.Err() == nil {
			s.deps.Log.Warn("counting sessions by hour failed; it is tried again", "error", err)
		}
	}
	return nil
}
