package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/obs"
	"github.com/lockstep-fleet/lockstep/topology"
)

// migrate brings the bus and the store up to date, or says what that would change.
func migrate(ctx context.Context, opts cli.ServerOptions, dryRun bool) (changes []cli.Change, err error) {
	s := &server{log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))}
	defer func() { err = errors.Join(err, s.close()) }()
	dir, err := s.dataFor(opts, dryRun)
	if err != nil {
		return nil, err
	}
	events, _, err := s.openBus(opts.Config.Bus, dir.bus(), &obs.Telemetry{Log: s.log, Traces: tracenoop.NewTracerProvider(), Meters: metricnoop.NewMeterProvider()})
	if err != nil {
		return nil, err
	}
	if changes, err = migrateBus(ctx, events, opts.Config.Bus.Replicas, dryRun); err != nil {
		return changes, err
	}
	store, _, err := s.openStore(ctx, opts.ClickHouse, dir.store())
	if err != nil {
		return changes, err
	}
	tables, err := migrateStore(ctx, store, dryRun)
	return append(changes, tables...), err
}

// dataFor takes the data directory where something is kept in it; a server whose
// bus and store are elsewhere may go on beside this.
func (s *server) dataFor(opts cli.ServerOptions, dryRun bool) (dir *dataDir, err error) {
	path := string(opts.Config.Server.DataDir)
	if opts.Config.Bus.URL != "" && opts.ClickHouse != "" {
		return &dataDir{path: path}, nil
	}
	if _, err := os.Stat(filepath.Join(path, formatFile)); dryRun && errors.Is(err, os.ErrNotExist) {
		// Nothing is there yet: what would be made is found out elsewhere.
		if path, err = os.MkdirTemp("", "lockstep-migrate-"); err != nil {
			return nil, fmt.Errorf("making a folder to try in: %w", err)
		}
		s.onClose(func() error { return os.RemoveAll(path) })
	}
	if dir, err = openDataDir(path); err != nil {
		return nil, err
	}
	s.onClose(func() error { dir.release(); return nil })
	return dir, nil
}

// migrateBus brings streams and buckets up to date.
func migrateBus(ctx context.Context, events *natsbus.Bus, replicas int, dryRun bool) ([]cli.Change, error) {
	streams, keyValues, blobs := topology.Streams(), topology.KeyValues(), topology.Blobs()
	for i := range streams {
		streams[i].Replicas = replicas
	}
	for i := range keyValues {
		keyValues[i].Replicas = replicas
	}
	for i := range blobs {
		blobs[i].Replicas = replicas
	}
	plan, err := events.Plan(ctx, streams, keyValues, blobs)
	if err != nil {
		return nil, err
	}
	var changes []cli.Change
	for _, c := range plan {
		change := cli.Change{Kind: c.Kind, Name: c.Name, Action: c.Action, Detail: c.Detail}
		if c.Loses != "" {
			change.Detail += "; refused, because it would delete " + c.Loses
		}
		changes = append(changes, change)
	}
	if dryRun {
		return changes, nil
	}
	if err := events.Ensure(ctx, streams, keyValues, blobs); err != nil {
		return nil, err
	}
	return changes, nil
}

// migrateStore applies the migrations that the store lacks.
func migrateStore(ctx context.Context, store *clickhouse.Store, dryRun bool) ([]cli.Change, error) {
	files, err := clickhouse.Migrations()
	if err != nil {
		return nil, err
	}
	pending, err := store.Pending(ctx, files)
	if err != nil {
		return nil, err
	}
	if !dryRun {
		applied, err := store.Migrate(ctx, files)
		if err != nil {
			return migrations(pending[:applied]), err
		}
	}
	return migrations(pending), nil
}

func migrations(list []clickhouse.Migration) []cli.Change {
	var changes []cli.Change
	for _, m := range list {
		changes = append(changes, cli.Change{
			Kind: "migration", Name: fmt.Sprintf("%04d_%s", m.Version, m.Name), Action: "apply", Detail: fmt.Sprintf("%d statements", len(m.Statements)),
		})
	}
	return changes
}
