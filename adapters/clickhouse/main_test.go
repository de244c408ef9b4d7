//go:build linux && amd64

package clickhouse

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/chdb"
)

// childCommand makes the test's binary an engine child.
const childCommand = "engine"

// shared is the engine of all tests that do it no harm; each has a database of its
// own.
var shared *chdb.Engine

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childCommand {
		os.Exit(runChild(os.Args[2:]))
	}
	os.Exit(runAll(m))
}

func runChild(args []string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := chdb.Child(ctx, args, log); err != nil {
		log.Error("engine child failed", "error", err.Error())
		return 1
	}
	return 0
}

// runAll runs the tests. Without the engine's library they fail.
func runAll(m *testing.M) (code int) {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "the tests' engine:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "store-engine-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	if shared, err = start(dir, slog.New(slog.DiscardHandler)); err != nil {
		return fail(err)
	}
	code = m.Run()
	if err := stop(shared); err != nil {
		return fail(err)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		return fail(err)
	}
	return code
}

func start(dir string, log *slog.Logger) (*chdb.Engine, error) {
	library, err := chdb.FindLibrary(chdb.LibraryOptions{})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return chdb.Start(ctx, chdb.Options{Args: []string{childCommand}, Library: library, DataDir: dir, Log: log})
}

func stop(engine *chdb.Engine) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return engine.Stop(ctx)
}

// startEngine starts an engine for a test that kills it.
func startEngine(t testing.TB) *chdb.Engine {
	t.Helper()
	engine, err := start(t.TempDir(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(engine); err != nil {
			t.Error(err)
		}
	})
	return engine
}

// embedded reaches an engine as the server does, in a database of the test's own.
func embedded(engine *chdb.Engine) Options {
	return Options{Dial: engine.DialContext, Database: "t" + strings.ToLower(rand.Text()[:12])}
}

// openStore opens a store with a database that holds no more than the record of
// migrations.
func openStore(t testing.TB, opts Options) *Store {
	t.Helper()
	s := openStoreOnly(t, opts)
	if err := s.prepare(limited(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	return s
}

// openStoreOnly opens a store whose database may be missing.
func openStoreOnly(t testing.TB, opts Options) *Store {
	t.Helper()
	opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := Open(limited(t, time.Minute), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// openHistory opens a store with the product's tables.
func openHistory(t testing.TB, opts Options) *Store {
	t.Helper()
	s := openStore(t, opts)
	files, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Migrate(limited(t, time.Minute), files); err != nil {
		t.Fatal(err)
	}
	return s
}

func limited(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
