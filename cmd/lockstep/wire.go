package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/services/executor"
	"github.com/lockstep-fleet/lockstep/services/notifier"
	"github.com/lockstep-fleet/lockstep/topology"
)

// How the all-in-one lives.
const (
	// drain bounds how long all roles have to stop.
	drain = 30 * time.Second
	// requestDrain bounds how long requests under way have to end within drain.
	requestDrain = 5 * time.Second
	// storeLimit bounds how long a ClickHouse has to answer at the start.
	storeLimit = 10 * time.Second
	// beat is how often time alone is considered; windows and deadlines are
	// minutes, so a second is fine grain.
	beat = time.Second
	// maxBatch is how many observations travel in one message.
	maxBatch = 500
)

// server is everything in one process.
type server struct {
	app *app.App
	// closers undo what wiring opened, last first.
	closers []func() error
	log     *slog.Logger
}

// Run runs the roles until ctx ends and gives back what wiring took.
func (s *server) Run(ctx context.Context) error { return errors.Join(s.app.Run(ctx), s.close()) }

func (s *server) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	return errors.Join(errs...)
}

func (s *server) onClose(fn func() error) { s.closers = append(s.closers, fn) }

// wire opens what the roles need, in the order in which a mistake is cheapest to
// find, and ties them together.
func wire(ctx context.Context, opts cli.ServerOptions, log *slog.Logger) (_ *server, err error) {
	s, began := &server{log: log}, time.Now()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	dir, err := openDataDir(string(opts.Config.Server.DataDir))
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { dir.release(); return nil })
	listener, err := net.Listen("tcp", opts.Config.Server.Listen)
	if err != nil {
		return nil, errs.New(errs.Conflict, "LS-SRV-003", "listening on %s: %w; choose another address with --listen", opts.Config.Server.Listen, err)
	}
	s.onClose(func() error {
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	token, err := adminToken(opts.Config.Server.TokenFile())
	if err != nil {
		return nil, err
	}
	// What the configuration names is looked at before anything big starts.
	deployments, err := s.deployments(opts.Config.Clusters)
	if err != nil {
		return nil, err
	}
	sources, err := s.sources(opts.Config, deployments)
	if err != nil {
		return nil, err
	}
	sinks, err := sinks(opts.Config.Notify)
	if err != nil {
		return nil, err
	}
	store, engineRole, err := s.openStore(ctx, opts, dir.store())
	if err != nil {
		return nil, err
	}
	nats, err := startNATS(dir.bus(), log)
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { nats.Shutdown(); nats.WaitForShutdown(); return nil })
	events, err := natsbus.Open(natsbus.Options{InProcess: nats, Name: "lockstep", Log: log})
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { events.Close(); return nil })
	if err := events.Ensure(ctx, topology.Streams(), topology.KeyValues(), topology.Blobs()); err != nil {
		return nil, err
	}

	m := newMeters()
	eval := evaluator.New(evaluatorConfig(opts.Config), evaluator.Deps{
		Bus: events, Store: store, Log: log.With("service", topology.Evaluator), Meter: evaluatorMeter{m}, Now: time.Now,
	})
	exec := executor.New(executorConfig(opts.Config), executor.Deps{
		Bus: events, Deployments: asDeployments(deployments), Log: log.With("service", topology.Executor), Meter: executorMeter{m}, Now: time.Now,
	})
	incarnation := make([]byte, 6)
	if _, err := rand.Read(incarnation); err != nil {
		return nil, fmt.Errorf("making an incarnation: %w", err)
	}
	coll := collector.New(collector.Config{Tenant: fleet.DefaultTenant, Incarnation: hex.EncodeToString(incarnation), MaxBatch: maxBatch}, sources,
		collector.Deps{Bus: events, Log: log.With("service", topology.Collector), Meter: m, Now: time.Now})
	tell := notifier.New(sinks, notifier.Deps{Bus: events, Log: log.With("service", topology.Notifier), Meter: m, Since: began})

	api := rpc.NewServer(log, s.admit)
	fleetAPI, gateAPI := eval.Handlers()
	fleetv1connect.RegisterFleetServiceHandler(api, fleetAPI)
	gatev1connect.RegisterGateServiceHandler(api, gateAPI)
	rolloutv1connect.RegisterRolloutServiceHandler(api, exec.Handler())

	// The API comes first and goes last, so that it can say what is not ready.
	s.app = app.New(log, drain,
		app.Role{Name: "api", Run: func(ctx context.Context) error { return s.serveHTTP(ctx, listener, api, token, m) }},
		engineRole,
		app.Role{Name: "bus", Run: func(ctx context.Context) error { return watchNATS(ctx, nats, dir.bus()) }, Check: func() error {
			if !events.Connected() {
				return errors.New("the connection to the bus is down")
			}
			return nil
		}},
		app.Role{Name: topology.Evaluator, Run: eval.Run, Ready: eval.Ready()},
		app.Role{Name: topology.Executor, Run: exec.Run, Ready: exec.Ready()},
		app.Role{Name: topology.Notifier, Run: tell.Run},
		app.Role{Name: topology.Collector, Run: coll.Run},
	)
	log.Info("starting", "listen", "http://"+listener.Addr().String(), "data_dir", dir.path, "token_file", opts.Config.Server.TokenFile(),
		"config", opts.ConfigPath, "clusters", len(opts.Config.Clusters))
	return s, nil
}

// admit lets calls in once every role is ready and until the first is to stop.
func (s *server) admit() error {
	if !s.app.Serving() {
		return errs.New(errs.Unavailable, "LS-API-005", "the server is starting or stopping; try again in a moment (/readyz?verbose says what is not ready)")
	}
	return nil
}
