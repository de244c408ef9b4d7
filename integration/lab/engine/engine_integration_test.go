//go:build integration

package engine_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/integration/lab/engine"
)

// holdVariable makes this test binary a run that starts an engine on the named
// data folder, says so, and waits to be killed.
const holdVariable = "LAB_ENGINE_HOLD"

func TestMain(m *testing.M) {
	if data := os.Getenv(holdVariable); data != "" {
		e, err := engine.Start(context.Background(), private(data))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(e.Host())
		select {}
	}
	os.Exit(m.Run())
}

func private(data string) engine.Options {
	return engine.Options{
		Getenv:   func(string) string { return "" },
		DataRoot: data,
		Log:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
}

// A killed run must leave nothing that stops the next one, and a live one must
// be waited for.
func TestStartAfterKilledRun(t *testing.T) {
	data := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()

	other := exec.CommandContext(ctx, os.Args[0])
	other.Env = append(os.Environ(), holdVariable+"="+data)
	other.Stderr = os.Stderr
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	host, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the other run did not start an engine: %v", err)
	}

	short, stop := context.WithTimeout(ctx, 300*time.Millisecond)
	defer stop()
	if _, err := engine.Start(short, private(data)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while another run holds the engine: got %v, want a wait until the deadline", err)
	}

	if err := other.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := other.Wait(); err == nil {
		t.Fatal("the killed run ended well")
	}
	// Whatever pid the killed run wrote may belong to anybody by now.
	pidfile := filepath.Join(filepath.Dir(strings.TrimPrefix(strings.TrimSpace(host), "unix://")), "dockerd.pid")

	e, err := engine.Start(ctx, private(data))
	if err != nil {
		t.Fatal(err)
	}
	if !e.Private() {
		t.Error("the engine is not private")
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}

	// A stale pid that now is this test must not be taken for a dockerd.
	if err := os.MkdirAll(filepath.Dir(pidfile), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pidfile, []byte(fmt.Sprint(os.Getpid())), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err = engine.Start(ctx, private(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(pidfile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Close the runtime folder is still there, or cannot be read: %v", err)
	}
	if out, err := exec.Command("sh", "-c", "PATH=$PATH:/usr/sbin:/sbin iptables -w -S FORWARD").Output(); err != nil || strings.Contains(string(out), filepath.Base(filepath.Dir(pidfile))) {
		t.Errorf("after Close the firewall still has our rule, or cannot be read (%v):\n%s", err, out)
	}
}
