// Package collector asks sources what they see and hands it on as observation
// batches, over a spool on disk, so that nothing that was seen is lost while the
// bus is away. It owns the observation subjects, their sequences and incarnations.
// It judges nothing and keeps no history.
package collector

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// Source is something that can be asked what it sees.
type Source interface {
	// Poll returns what is to be seen now, in the order in which it came about. What
	// is new once only, such as a session's end, is not returned again: the collector
	// does not lose it.
	Poll(ctx context.Context) ([]codec.Observation, error)
}

// SourceFunc is a source that is one function.
type SourceFunc func(ctx context.Context) ([]codec.Observation, error)

// Poll calls it.
func (f SourceFunc) Poll(ctx context.Context) ([]codec.Observation, error) { return f(ctx) }

// Schedule is how one source is asked.
type Schedule struct {
	// Kind is of everything the source returns, but for marks of its own.
	Kind fleet.Kind
	// Name is for people, such as "the inventory of berlin".
	Name string
	// Clusters are those the source speaks of. After each poll that succeeds, one mark
	// for each says that it was looked at; after one that fails, that it was not seen.
	// A source of sessions makes the marks that promise something itself.
	Clusters []fleet.ClusterID
	Source   Source
	// Every is from the beginning of one poll to that of the next, by chance up to 5 %
	// less or more.
	Every time.Duration
	// Jitter is how long the first poll waits at most, by chance, so that many
	// sources do not come at once; zero is not at all.
	Jitter time.Duration
	// Timeout bounds one poll; zero is Every, or 10 seconds where that is shorter. A
	// source that goes on is told blind, and not asked again before it is done.
	Timeout time.Duration
	// Wake asks for a poll before its time; nil is never.
	Wake <-chan struct{}
	// Run keeps alive what Poll reads from until ctx ends; nil for what needs none.
	Run func(ctx context.Context) error
}

// Config is what an operator chooses. What is zero has a default.
type Config struct {
	Tenant fleet.TenantID
	// ID tells this collector from others. It speaks as a source for each kind, such
	// as "hub-session".
	ID string
	// MaxBatch bounds the observations of one message; 500.
	MaxBatch int
	// Linger is how long a message waits for more; 50 ms.
	Linger time.Duration
	// FullEvery is when an inventory, registration or package is sent again that has
	// not changed; 5 minutes.
	FullEvery time.Duration
	// MarkEvery is how often at most a source says that it cannot see; 5 seconds.
	MarkEvery time.Duration
}

// Bus is what the collector needs of the bus.
type Bus interface {
	Publish(ctx context.Context, m bus.Message) (uint64, error)
	// PublishBatch stores all or none.
	PublishBatch(ctx context.Context, messages []bus.Message) (uint64, error)
}

// Meter counts what the collector does.
type Meter interface {
	Polled(kind string, failed bool, took time.Duration)
	// Published counts what the bus has acknowledged.
	Published(kind string, observations int)
	// Dropped counts what will never arrive, by why: full, no_space, damaged, refused
	// or invalid. Of what is damaged the kind is unknown, and messages are counted.
	Dropped(kind, why string, observations int)
	// Spooled says how much waits for the bus now.
	Spooled(messages uint64, bytes int64)
	// Broken says that a source of a kind is asked less often because it keeps
	// failing, and then that this is over.
	Broken(kind string, broken bool)
}

// Deps are what the collector works with.
type Deps struct {
	Bus   Bus
	Spool *Spool
	Log   *slog.Logger
	Meter Meter
	Now   func() time.Time
	// Chance returns a number from 0 to below 1, every time another.
	Chance func() float64
}

// Service is the collector.
type Service struct {
	config    Config
	schedules []Schedule
	deps      Deps

	results chan result
	// numbered is the newest sequence of each subject; it belongs to whoever packs.
	numbered map[string]uint64
	// untold is told with the next messages, crowded not while the spool is pressed.
	untold, crowded shortfalls
	// tell is sent when there is something to tell.
	tell chan struct{}
	// losses counts what was lost; whoever sends less because of what was sent before
	// looks whether it grew.
	losses atomic.Uint64
	// pressed is set while the spool is so full that only what happens once goes in.
	pressed atomic.Bool
}

// New returns a collector of what the schedules say that has not started.
func New(config Config, schedules []Schedule, deps Deps) *Service {
	config.MaxBatch = or(config.MaxBatch, 500)
	config.Linger = or(config.Linger, 50*time.Millisecond)
	config.FullEvery = or(config.FullEvery, 5*time.Minute)
	config.MarkEvery = or(config.MarkEvery, 5*time.Second)
	return &Service{config: config, schedules: schedules, deps: deps, results: make(chan result), tell: make(chan struct{}, 1),
		numbered: make(map[string]uint64)}
}

// or returns what was chosen, else the default.
func or[T int | time.Duration](chosen, otherwise T) T {
	if chosen == 0 {
		return otherwise
	}
	return chosen
}

// lastDrain bounds how long what is spooled is still published when the collector
// stops; the rest is published after the next start.
const lastDrain = 2 * time.Second

// Run works until ctx ends, then returns nil: what was polled is in the spool, and
// on the bus if that took it at once.
func (s *Service) Run(ctx context.Context) error {
	// Each of the three ends after those it serves.
	publishing, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	empty := make(chan struct{})
	var polling, packing, draining sync.WaitGroup
	s.pressure()
	// Damage that was found when the spool was opened is told with the first messages:
	// it is found only once.
	s.account()
	draining.Go(func() { s.publish(publishing, empty) })
	packing.Go(func() { s.pack(ctx) })
	for _, schedule := range s.schedules {
		p := newPoller(s, schedule)
		polling.Go(func() { p.run(ctx) })
		if schedule.Run != nil {
			polling.Go(func() { p.keep(ctx) })
		}
	}
	<-ctx.Done()
	polling.Wait()
	close(s.results)
	packing.Wait()
	close(empty)
	limit := time.AfterFunc(lastDrain, giveUp)
	defer limit.Stop()
	draining.Wait()
	return nil
}

// sourceID is as what the collector speaks of a kind.
func (s *Service) sourceID(kind fleet.Kind) fleet.SourceID {
	return fleet.SourceID(s.config.ID + "-" + string(kind))
}
