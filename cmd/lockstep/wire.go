package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/obs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1/catalogv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1/driftv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1/observationv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/services/executor"
	"github.com/lockstep-fleet/lockstep/services/notifier"
	"github.com/lockstep-fleet/lockstep/sources"
	"github.com/lockstep-fleet/lockstep/topology"
)

// How the all-in-one lives.
const (
	// drain bounds how long all roles have to stop.
	drain = 30 * time.Second
	// requestDrain bounds how long requests under way have to end within drain.
	requestDrain = 5 * time.Second
	// engineDrain bounds how long the engine may take to end after them.
	engineDrain = 10 * time.Second
	// storeLimit bounds how long a ClickHouse has to answer at the start.
	storeLimit = 10 * time.Second
	// beat is how often time alone is considered; windows and deadlines are
	// minutes, so a second is fine grain.
	beat = time.Second
)

// server is everything in one process.
type server struct {
	app *app.App
	// closers undo what wiring opened, last first.
	closers []func() error
	log     *slog.Logger
	// opening names what the start is waiting for.
	opening atomic.Pointer[string]
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
func wire(ctx context.Context, opts cli.ServerOptions, tel *obs.Telemetry, began time.Time) (_ *server, err error) {
	s := &server{log: tel.Log}
	s.opens("configuration")
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
	public, err := s.open(opts.Config.Server.Listen, "--listen")
	if err != nil {
		return nil, err
	}
	fronts, adminURL := []app.Role{public.role("api")}, fleetfile.Off
	var private *front
	if address := opts.Config.Server.AdminListen; address != fleetfile.Off {
		if private, err = s.open(address, "--admin-listen"); err != nil {
			return nil, err
		}
		fronts, adminURL = append(fronts, private.role("admin")), private.url()
	}
	tel.Log.Info("starting", "version", version, "listen", public.url(), "admin_listen", adminURL,
		"data_dir", dir.path, "token_file", opts.Config.Server.TokenFile(), "config", opts.ConfigPath, "clusters", len(opts.Config.Clusters))
	api, err := s.api(opts.Config, tel)
	if err != nil {
		return nil, err
	}
	m, err := metersFor(tel.Meters, buildVersion())
	if err != nil {
		return nil, err
	}
	compose.RedirectLogs(tel.Log.With("part", "compose"))
	// What the configuration names is looked at before anything big starts.
	looks, err := sources.Open(opts.Config, tel.Log, time.Now)
	if err != nil {
		return nil, err
	}
	keeper := newKeeper(opts.Config, looks, tel.Log)
	s.onClose(keeper.close)
	sinks, err := sinks(opts.Config.Notify)
	if err != nil {
		return nil, err
	}
	s.opens("spool")
	spool, err := collector.OpenSpool(opts.Config.Spool(), int64(opts.Config.Collector.SpoolMB)<<20)
	if err != nil {
		return nil, err
	}
	s.onClose(spool.Close)
	s.opens("store")
	store, storeRole, err := s.openStore(ctx, opts.ClickHouse, dir.store())
	if err != nil {
		return nil, err
	}
	if _, err := migrateStore(ctx, store, false); err != nil {
		return nil, err
	}
	s.opens("bus")
	events, busRole, err := s.openBus(opts.Config.Bus, dir.bus(), tel)
	if err != nil {
		return nil, err
	}
	if _, err := migrateBus(ctx, events, opts.Config.Bus.Replicas, false); err != nil {
		return nil, err
	}

	log := func(service string) *slog.Logger { return tel.Log.With("service", service) }
	eval := evaluator.New(evaluatorConfig(opts.Config), evaluator.Deps{
		Bus: events, Store: store, Documents: documents{fleet: keeper.effective, env: os.Getenv}, Log: log(topology.Evaluator), Meter: evaluatorMeter{m}, Now: time.Now,
	})
	exec := executor.New(executorConfig(opts.Config), executor.Deps{
		Bus: events, Fleet: keeper.fleet, Log: log(topology.Executor), Meter: executorMeter{m}, Now: time.Now,
	})
	counts, err := collector.NewMeter(tel.Meters)
	if err != nil {
		return nil, err
	}
	keeper.bus, keeper.collect = events, func(schedules []collector.Schedule) *collector.Service {
		return collector.New(collector.Config{Tenant: fleet.DefaultTenant, ID: opts.Config.Collector.ID, FullEvery: opts.Config.Collector.FullEvery}, schedules,
			collector.Deps{Bus: events, Spool: spool, Log: log(topology.Collector), Meter: counts, Now: time.Now, Chance: rand.Float64})
	}
	tell := notifier.New(sinks, notifier.Deps{Bus: events, Log: log(topology.Notifier), Meter: m, Since: began})

	served := eval.Handlers()
	fleetv1connect.RegisterFleetServiceHandler(api.Server, served.Fleet)
	driftv1connect.RegisterDriftServiceHandler(api.Server, served.Drift)
	catalogv1connect.RegisterCatalogServiceHandler(api.Server, served.Catalog)
	gatev1connect.RegisterGateServiceHandler(api.Server, served.Gate)
	observationv1connect.RegisterObservationServiceHandler(api.Server, served.Observations)
	rolloutv1connect.RegisterRolloutServiceHandler(api.Server, exec.Handler())

	// What people and machines ask comes first and goes last, so that it can say what
	// is not ready.
	s.app = app.New(tel.Log, drain, append(fronts,
		storeRole,
		busRole,
		app.Role{Name: "fleet", Run: keeper.follow, Ready: keeper.ready},
		app.Role{Name: topology.Evaluator, Run: eval.Run, Ready: eval.Ready()},
		app.Role{Name: topology.Executor, Run: exec.Run, Ready: exec.Ready()},
		app.Role{Name: topology.Notifier, Run: tell.Run},
		app.Role{Name: topology.Collector, Run: keeper.work},
	)...)
	s.app.Began = began
	public.show(s.served(api))
	if private != nil {
		private.show(s.administered(tel.MetricsHandler()))
	}
	return s, nil
}

// api prepares the API without its services, for the administrator and those whom
// the configuration names.
func (s *server) api(file fleetfile.File, tel *obs.Telemetry) (*rpc.Server, error) {
	admin, err := adminToken(file.Server.TokenFile())
	if err != nil {
		return nil, err
	}
	known := []rpc.Token{{Hash: rpc.HashToken(admin), Principal: rpc.Principal{Name: "admin", Role: rpc.Admin, Tenant: string(fleet.DefaultTenant)}}}
	for _, t := range file.Access.Tokens {
		role, err := rpc.ParseRole(t.Role)
		if err != nil {
			return nil, fmt.Errorf("access.tokens: %s: %w", t.Name, err)
		}
		known = append(known, rpc.Token{Hash: t.Hash(), Principal: rpc.Principal{Name: t.Name, Role: role, Tenant: string(t.Tenant)}})
	}
	tokens, err := rpc.NewTokens(known...)
	if err != nil {
		return nil, err
	}
	return rpc.NewServer(rpc.Options{
		Log: tel.Log, Auth: tokens, Needs: needs, Admit: s.admit, Health: map[string]func() error{"": s.ready},
		TracerProvider: tel.Traces, MeterProvider: tel.Meters,
	})
}

// admit lets calls in once every role is ready and until the first is to stop.
func (s *server) admit() error {
	if !s.app.Serving() {
		return errStarting()
	}
	return nil
}

func errStarting() error {
	return errs.New(errs.Unavailable, "LS-API-005", "the server is starting or stopping; try again in a moment (/readyz?verbose says what is not ready)")
}

// opens notes what the start waits for from now.
func (s *server) opens(what string) { s.opening.Store(&what) }
