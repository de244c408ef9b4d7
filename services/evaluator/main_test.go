//go:build linux && amd64

package evaluator_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/chdb"
)

// childCommand makes the test's binary an engine child.
const childCommand = "engine"

// engine is the real one, started once for all tests of the package; each test
// has a database of its own.
var engine *chdb.Engine

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childCommand {
		os.Exit(runChild(os.Args[2:]))
	}
	os.Exit(runAll(m))
}

func runChild(args []string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	if err := chdb.Child(ctx, args, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "engine child:", err)
		return 1
	}
	return 0
}

func runAll(m *testing.M) (code int) {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "the tests' engine or a leak:", err)
		return 1
	}
	library, err := chdb.FindLibrary(chdb.LibraryOptions{})
	if err != nil {
		return fail(err)
	}
	defer func() {
		if code == 0 {
			// Looked for after the engine has stopped: it has goroutines of its own.
			if err := goleak.Find(); err != nil {
				code = fail(err)
			}
		}
	}()
	dir, err := os.MkdirTemp("", "evaluator-engine-")
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			code = fail(err)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	engine, err = chdb.Start(ctx, chdb.Options{Args: []string{childCommand}, Library: library, DataDir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fail(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := engine.Stop(ctx); err != nil {
			code = fail(err)
		}
	}()
	return m.Run()
}
