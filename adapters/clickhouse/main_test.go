//go:build linux && amd64

package clickhouse

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/chdb"
)

// childCommand makes the test's binary an engine child.
const childCommand = "engine"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childCommand {
		os.Exit(runChild(os.Args[2:]))
	}
	os.Exit(m.Run())
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

func limited(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// startEngine starts the real engine on a folder of its own. Without the
// engine's library the test fails.
func startEngine(t testing.TB) *chdb.Engine {
	t.Helper()
	library, err := chdb.FindLibrary(chdb.LibraryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := chdb.Start(limited(t, time.Minute), chdb.Options{Args: []string{childCommand}, Library: library, DataDir: t.TempDir(), Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := engine.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return engine
}

func openStore(t testing.TB, engine *chdb.Engine) *Store {
	t.Helper()
	s, err := Open(limited(t, time.Minute), Options{Dial: engine.DialContext, Log: testLog(t)})
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

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
