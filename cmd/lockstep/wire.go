package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/chdb"
	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/adapters/webhook"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/fleetfile"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/dirlock"
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
	dir := string(opts.Config.Server.DataDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w; choose another folder with --data-dir", err)
	}
	release, err := dirlock.Lock(dir)
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { release(); return nil })
	listener, err := net.Listen("tcp", opts.Config.Server.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w; choose another address with --listen", opts.Config.Server.Listen, err)
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
	store, engineRole, err := s.openStore(ctx, opts, dir)
	if err != nil {
		return nil, err
	}
	busDir := filepath.Join(dir, "bus")
	nats, err := startNATS(busDir, log)
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
		app.Role{Name: "bus", Run: func(ctx context.Context) error { return watchNATS(ctx, nats, busDir) }, Check: func() error {
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
	log.Info("starting", "listen", "http://"+listener.Addr().String(), "data_dir", dir, "token_file", opts.Config.Server.TokenFile(),
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

// openStore opens the ClickHouse server that was named or the embedded engine,
// and brings its tables up to date.
func (s *server) openStore(ctx context.Context, opts cli.ServerOptions, dir string) (*clickhouse.Store, app.Role, error) {
	role := app.Role{Name: "store", Run: func(ctx context.Context) error { <-ctx.Done(); return nil }}
	options := clickhouse.Options{DSN: opts.ClickHouse, Log: s.log}
	if opts.ClickHouse == "" {
		library, err := chdb.FindLibrary(chdb.LibraryOptions{Path: os.Getenv("LOCKSTEP_ENGINE_LIBRARY")})
		if err != nil {
			return nil, role, err
		}
		engine, err := chdb.Start(ctx, chdb.Options{
			Args: []string{engineCommandName}, Library: library, DataDir: filepath.Join(dir, "store"), Log: s.log.With("part", "engine"),
		})
		if err != nil {
			return nil, role, fmt.Errorf("starting the embedded ClickHouse engine: %w", err)
		}
		s.onClose(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), drain)
			defer cancel()
			return engine.Stop(ctx)
		})
		options.Dial = engine.DialContext
		role.Run = func(ctx context.Context) error {
			select {
			case <-ctx.Done():
				return nil
			case <-engine.Done():
				return fmt.Errorf("the embedded ClickHouse engine ended: %w", engine.Err())
			}
		}
	}
	openCtx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	store, err := clickhouse.Open(openCtx, options)
	if err != nil {
		if opts.ClickHouse != "" {
			err = fmt.Errorf("%w; check --clickhouse (or LOCKSTEP_SERVER_CLICKHOUSE) and that this server answers there", err)
		}
		return nil, role, err
	}
	s.onClose(store.Close)
	role.Check = func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return store.Ping(ctx)
	}
	files, err := clickhouse.Migrations()
	if err != nil {
		return nil, role, err
	}
	if _, err := store.Migrate(ctx, files); err != nil {
		return nil, role, err
	}
	return store, role, nil
}

// deployments prepares every cluster's project; nothing connects yet.
func (s *server) deployments(clusters []fleetfile.Cluster) (map[fleet.ClusterID]*compose.Deployment, error) {
	compose.RedirectLogs(s.log.With("part", "compose"))
	engines := make(map[string]*compose.Engine)
	out := make(map[fleet.ClusterID]*compose.Deployment, len(clusters))
	for _, c := range clusters {
		if c.Compose == nil {
			continue
		}
		engine := engines[c.Compose.Engine]
		if engine == nil {
			var err error
			engine, err = compose.New(compose.Options{Host: c.Compose.Engine, Logger: s.log.With("part", "compose")})
			if err != nil {
				return nil, fmt.Errorf("cluster %s: %w", c.ID, err)
			}
			s.onClose(engine.Close)
			engines[c.Compose.Engine] = engine
		}
		out[c.ID] = compose.NewDeployment(engine, c.ID, compose.Target{
			Project: c.Compose.Project, Files: c.Compose.Files, EnvFiles: c.Compose.EnvFiles, Profiles: c.Compose.Profiles,
			Dir: string(c.Compose.Dir), Host: c.Compose.Engine, Components: c.Compose.Services,
		}, time.Now)
	}
	return out, nil
}

func asDeployments(in map[fleet.ClusterID]*compose.Deployment) map[fleet.ClusterID]executor.Deployment {
	out := make(map[fleet.ClusterID]executor.Deployment, len(in))
	for id, d := range in {
		out[id] = d
	}
	return out
}

func releases(file fleetfile.File) []rollout.Release {
	out := make([]rollout.Release, 0, len(file.Releases))
	for _, r := range file.Releases {
		release := rollout.Release{ID: r.ID, Lines: make(map[fleet.Line]rollout.ReleaseImage)}
		for line, image := range r.Lines() {
			release.Lines[line] = rollout.ReleaseImage{Version: image.Version, Ref: image.Image}
		}
		out = append(out, release)
	}
	return out
}

func evaluatorConfig(file fleetfile.File) evaluator.Config {
	config := evaluator.Config{
		Tenant: fleet.DefaultTenant, Beat: beat,
		Limits: drift.Limits{MixedWindow: file.Drift.MixedWindow, DarkAfter: file.Drift.DarkAfter},
	}
	for _, c := range file.Clusters {
		cluster := evaluator.ClusterConfig{ID: c.ID}
		for _, r := range releases(file) {
			if r.ID == c.Release {
				cluster.Assigned = &drift.Assignment{Release: r.ID, Versions: r.Versions()}
			}
		}
		config.Clusters = append(config.Clusters, cluster)
	}
	return config
}

func executorConfig(file fleetfile.File) executor.Config {
	g := file.Gate
	config := executor.Config{
		Tenant: fleet.DefaultTenant, Releases: releases(file), Window: file.Rollout.Window, Lookback: file.Rollout.Lookback, Beat: beat,
		Unseen: make(map[fleet.ClusterID]string),
		Gate: gate.Policy{
			Alpha: g.Alpha, Beta: g.Beta, Tol: g.Tolerance, Margin: g.Margin, AcceptableRate: g.AcceptableRate, FloorRate: g.FloorRate,
			Partners: g.Partners, PlannedTrials: g.PlannedTrials, Maturation: g.Maturation, BurstWindow: g.BurstWindow, Bucket: g.Bucket,
			Deadline: g.Deadline, MaxLate: g.MaxLate,
		},
	}
	for _, c := range file.Clusters {
		config.Clusters = append(config.Clusters, c.ID)
		switch {
		case file.Vendor == nil:
			config.Unseen[c.ID] = "the configuration has no vendor section"
		case c.VendorCluster == "":
			config.Unseen[c.ID] = "the configuration gives it no vendor_cluster"
		}
	}
	return config
}

// sources lists where the collector looks: every cluster's engine, and the
// vendor when one is configured.
func (s *server) sources(file fleetfile.File, deployments map[fleet.ClusterID]*compose.Deployment) ([]collector.Source, error) {
	var out []collector.Source
	for _, c := range file.Clusters {
		if d := deployments[c.ID]; d != nil {
			out = append(out, collector.InventorySource(c.ID, file.Inventory.PollInterval, d.Inventory))
		}
	}
	if file.Vendor == nil {
		return out, nil
	}
	key, err := os.ReadFile(string(file.Vendor.AccessKeyFile))
	if err != nil {
		return nil, fmt.Errorf("reading vendor.access_key_file: %w", err)
	}
	if len(strings.TrimSpace(string(key))) == 0 {
		return nil, fmt.Errorf("reading vendor.access_key_file: %s is empty; put the vendor's access key there", file.Vendor.AccessKeyFile)
	}
	client, err := akeyless.New(akeyless.Options{
		BaseURL: file.Vendor.URL, AccessID: file.Vendor.AccessID, AccessKey: akeyless.Secret(key), Log: s.log.With("part", "vendor"),
	})
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { client.Close(); return nil })
	clusters := make(map[string]fleet.ClusterID)
	for _, c := range file.Clusters {
		if c.VendorCluster != "" {
			clusters[c.VendorCluster] = c.ID
		}
	}
	if len(clusters) == 0 {
		return out, nil
	}
	reader, err := akeyless.NewSessionReader(akeyless.ReaderOptions{
		Client: client, Clusters: clusters, SourceLag: file.Vendor.SourceLag, Lookback: file.Rollout.Lookback,
	})
	if err != nil {
		return nil, err
	}
	sessions := func(ctx context.Context) ([]fleet.Session, []fleet.Mark, error) {
		page, err := reader.Poll(ctx)
		return page.Sessions, page.Marks, err
	}
	registrations := func(ctx context.Context) ([]fleet.Registration, error) {
		reported, err := client.ListBastions(ctx)
		if err != nil {
			return nil, err
		}
		var found []fleet.Registration
		for _, r := range reported {
			if id, ours := clusters[r.Name]; ours {
				found = append(found, r.Registration(id, time.Now()))
			}
		}
		return found, nil
	}
	return append(out,
		collector.SessionSource("vendor-sessions", file.Vendor.PollInterval, sessions),
		collector.RegistrationSource("vendor-bastions", file.Vendor.PollInterval, registrations)), nil
}

func sinks(notify fleetfile.Notify) (map[string]notifier.Sink, error) {
	out := make(map[string]notifier.Sink, len(notify.Webhooks))
	for _, w := range notify.Webhooks {
		var secret []byte
		if w.SecretFile != "" {
			var err error
			if secret, err = os.ReadFile(string(w.SecretFile)); err != nil {
				return nil, fmt.Errorf("webhook %s: reading secret_file: %w", w.Name, err)
			}
		}
		sink, err := webhook.New(webhook.Options{URL: w.URL, Secret: strings.TrimSpace(string(secret)), Client: &http.Client{}, Now: time.Now})
		if err != nil {
			return nil, fmt.Errorf("webhook %s: %w", w.Name, err)
		}
		out[w.Name] = sink
	}
	return out, nil
}

// adminToken returns the token in a file, making both at the first start.
func adminToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if token := strings.TrimSpace(string(text)); token != "" {
			return token, nil
		}
		return "", fmt.Errorf("the admin token file %s is empty; remove it and start again for a new token", path)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("reading the admin token: %w", err)
	}
	token := "lst_" + rand.Text()
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing the admin token: %w", err)
	}
	return token, nil
}

// serveHTTP serves the API and what machines ask of a process.
func (s *server) serveHTTP(ctx context.Context, listener net.Listener, api *connect.Server, token string, m *meters) error {
	mux := http.NewServeMux()
	rpc.Mount(mux, api, token)
	health(mux, s.app, m)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	// Streams end with the process: without this they would hold up its stop.
	base, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	h := &http.Server{
		Handler: mux, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	endStreams()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestDrain)
	defer cancel()
	if err := h.Shutdown(stopCtx); err != nil {
		s.log.Warn("requests were cut off", "after", requestDrain)
		return h.Close()
	}
	return nil
}
