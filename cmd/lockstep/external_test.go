package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
)

// externalNATS is a NATS server that listens, as one elsewhere does.
func externalNATS(t *testing.T) (url string) {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the NATS server is not ready")
	}
	return s.ClientURL()
}

// With a bus and a store elsewhere the same server does the same work, and keeps
// nothing but its lock, its mark and its token in the data directory.
func TestTheSameServerOnABusAndAStoreElsewhere(t *testing.T) {
	dir := folder(t)
	vendor := newVendor(t)
	opts := withVendor(t, options(dir), vendor)
	opts.Config.Bus.URL, opts.ClickHouse = externalNATS(t), "http://"+clickhouseServer(t)+"/lockstep"

	changes := func(dryRun bool) []cli.Change {
		t.Helper()
		found, err := migrate(t.Context(), opts, dryRun)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	planned := changes(true)
	if len(planned) < 8 || len(changes(true)) != len(planned) {
		t.Errorf("a dry run is to change nothing and to name all: %v", planned)
	}
	if done := changes(false); len(done) != len(planned) {
		t.Errorf("planned %v, done %v", planned, done)
	}
	if left := changes(false); len(left) != 0 {
		t.Errorf("left to do after it: %v", left)
	}
	r := start(t, opts)
	want := "berlin/bastion-1 3.1.0"
	if got := r.waitBastions(); got != want {
		t.Errorf("bastions: %s", got)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	again := start(t, opts)
	if got, err := again.bastions(again.token); err != nil || got != want {
		t.Errorf("bastions after a restart: %s, %v", got, err)
	}
	for _, name := range []string{"bus", "store"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is kept in the data directory: %v", name, err)
		}
	}
	if entries, err := fs.Glob(os.DirFS(dir), "*"); err != nil || len(entries) > 5 {
		t.Errorf("the data directory holds %v, %v", entries, err)
	}
}

func TestABusElsewhereThatDoesNotAnswerIsNamed(t *testing.T) {
	t.Parallel()
	l := listen(t)
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	opts := options(folder(t))
	opts.Config.Bus.URL = "nats://user:hunter2@" + address
	text := refused(t, opts)
	mentions(t, text, address, "LS-BUS-")
	if strings.Contains(text, "hunter2") {
		t.Errorf("the password is told: %s", text)
	}
}
