// Package executor moves clusters. Its conductor decides what happens next in a
// rollout and records it; its driver does to clusters what the record asks for.
// It owns the rollout and step facts, the commands and the control bucket. It
// does not judge sessions: gates do.
package executor

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	rolloutv1connect "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
	"github.com/lockstep-fleet/lockstep/topology"
)

// Config is what an operator chooses.
type Config struct {
	Tenant fleet.TenantID
	// Gate judges rollouts that name no policy.
	Gate gate.Policy
	// Policies are those that a rollout may name besides the ones that were applied.
	Policies []gate.Plan
	Window   time.Duration
	Lookback time.Duration
	// Beat is how often windows and unsent commands are looked at.
	Beat time.Duration
}

// Fleet is what there is to roll out, and where. It changes while the executor
// runs; what it holds does not.
type Fleet struct {
	Releases []rollout.Release
	// Unfit says why a release may not be moved to.
	Unfit map[fleet.ReleaseID]string
	// Clusters in the order in which rollouts take them.
	Clusters []fleet.ClusterID
	// Unseen says why no sessions of a cluster are seen; its gates could never
	// pass.
	Unseen map[fleet.ClusterID]string
	// Labels are those of each cluster.
	Labels map[fleet.ClusterID]map[string]string
	// Deployments are the clusters that can be changed; the others are watched.
	Deployments map[fleet.ClusterID]Deployment
}

// Bus is what the executor needs of the bus.
type Bus interface {
	Publish(ctx context.Context, m bus.Message) (uint64, error)
	Append(ctx context.Context, m bus.Message, expected uint64) (uint64, error)
	Load(ctx context.Context, stream, subject string, fn func(bus.Message) error) error
	LoadLast(ctx context.Context, stream, subject string, fn func(bus.Message) error) error
	Consume(ctx context.Context, c bus.Consumer, handle bus.Handler) error
	PutBlob(ctx context.Context, bucket string, data []byte) (string, error)
	GetBlob(ctx context.Context, bucket, name string) ([]byte, error)
	PutKey(ctx context.Context, bucket, key string, value []byte) error
	GetKey(ctx context.Context, bucket, key string) ([]byte, error)
	WatchKeys(ctx context.Context, bucket, pattern string, fn func(bus.Entry) error) error
}

// Deployment is one cluster as the driver can change it. Packages are opaque
// here; they hold all that a restore needs.
type Deployment interface {
	// Survey says what runs, resolves what the release brings to digests, and lists
	// what stands in the way of a change.
	Survey(ctx context.Context, release rollout.Release) (rollout.Target, error)
	// Capture records what runs as a package.
	Capture(ctx context.Context) ([]byte, error)
	// Retarget returns the package with other images for some components, and with
	// another chart and other values where those are asked for. What is published or
	// written otherwise than when it was planned is refused.
	Retarget(ctx context.Context, pkg []byte, to rollout.Apply) ([]byte, error)
	// Apply makes the cluster run the package and returns when it does. Applying
	// what runs already changes nothing; a cut-off Apply may be repeated.
	Apply(ctx context.Context, pkg []byte) error
}

// Meter counts what the executor does.
type Meter interface {
	Decided(fact string)
	Commanded(action string, failed bool, took time.Duration)
}

// Deps are what the executor works with.
type Deps struct {
	Bus Bus
	// Fleet returns the fleet as it is now.
	Fleet func() Fleet
	Log   *slog.Logger
	Meter Meter
	Now   func() time.Time
}

// Service is the executor.
type Service struct {
	conductor *conductor
	driver    *driver
	deps      Deps
	config    Config
	ready     chan struct{}
}

// New returns an executor that has not started.
func New(config Config, deps Deps) *Service {
	return &Service{
		conductor: newConductor(config, deps), driver: &driver{tenant: config.Tenant, deps: deps},
		deps: deps, config: config, ready: make(chan struct{}),
	}
}

// Handler returns what the executor serves.
func (s *Service) Handler() rolloutv1connect.RolloutServiceHandler {
	return &rolloutAPI{conductor: s.conductor}
}

// Ready is closed once the rollouts are rebuilt.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run rebuilds the rollouts from their facts, then works until ctx ends. It
// returns nil when it was asked to stop.
func (s *Service) Run(ctx context.Context) error {
	if err := s.conductor.rebuild(ctx); err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // being asked to stop is no error
		}
		return fmt.Errorf("rebuilding rollouts: %w", err)
	}
	close(s.ready)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.deps.Bus.Consume(ctx, topology.ConductorEvents(), s.conductor.hear) })
	group.Go(func() error { return s.deps.Bus.Consume(ctx, topology.DriverCommands(), s.driver.handle) })
	group.Go(func() error { return s.beat(ctx) })
	return group.Wait()
}

func (s *Service) beat(ctx context.Context) error {
	for range rtime.Every(ctx, s.config.Beat) {
		s.conductor.beat(ctx)
	}
	return nil
}
