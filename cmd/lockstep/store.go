package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/chdb"
	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/kit/app"
)

// openStore opens the ClickHouse server that was named or the embedded engine,
// as it is.
func (s *server) openStore(ctx context.Context, dsn, dir string) (*clickhouse.Store, app.Role, error) {
	role := app.Role{Name: "store", Run: func(ctx context.Context) error { <-ctx.Done(); return nil }}
	down := func() error { return nil }
	options := clickhouse.Options{DSN: dsn, Log: s.log}
	if dsn == "" {
		library, err := chdb.FindLibrary(chdb.LibraryOptions{Path: os.Getenv("LOCKSTEP_ENGINE_LIBRARY")})
		if err != nil {
			return nil, role, err
		}
		engine, err := chdb.Start(ctx, chdb.Options{
			Args: []string{engineCommandName}, Library: library, DataDir: dir, Log: s.log.With("part", "engine"),
		})
		if err != nil {
			return nil, role, fmt.Errorf("starting the embedded ClickHouse engine: %w", err)
		}
		s.onClose(func() error {
			ctx, cancel := context.WithTimeout(context.Background(), engineDrain)
			defer cancel()
			return engine.Stop(ctx)
		})
		options.Dial, down = engine.DialContext, engine.Err
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
		return nil, role, err
	}
	s.onClose(store.Close)
	role.Check = func() error {
		// Why a child does not serve says more than that it does not answer.
		if err := down(); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return store.Ping(ctx)
	}
	return store, role, nil
}
