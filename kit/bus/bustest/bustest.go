// Package bustest runs a real bus inside a test: one NATS server with a file store
// in a folder of the test, or a cluster of three. It knows no streams; the caller
// creates what it needs.
package bustest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = 30 * time.Second

// maxPayload is what the product's own server allows.
const maxPayload = 4 << 20

// Server is a bus that lives as long as its test.
type Server struct {
	nats *natsserver.Server
	opts natsserver.Options
}

// Start runs a server without a socket on an empty folder and creates streams and
// buckets.
func Start(t testing.TB, streams []bus.Stream, keyValues, blobs []bus.Bucket) *Server {
	t.Helper()
	s := &Server{opts: natsserver.Options{
		ServerName: "test", DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, MaxPayload: maxPayload,
	}}
	s.nats = run(t, s.opts.Clone())
	ensure(t, s.Open(t), streams, keyValues, blobs)
	return s
}

// Restart stops the server, has something happen to its files, and starts it again.
// Connections from before are of no use any more.
func (s *Server) Restart(t testing.TB, meanwhile func(dir string)) {
	t.Helper()
	stop(s.nats)
	meanwhile(s.opts.StoreDir)
	s.nats = run(t, s.opts.Clone())
}

// Stream returns a stream as it is on the server, for what a bus never does.
func (s *Server) Stream(t testing.TB, name string) jetstream.Stream {
	t.Helper()
	conn, err := nats.Connect("", nats.InProcessServer(s.nats))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// Open returns a connection that is closed when the test ends.
func (s *Server) Open(t testing.TB) *natsbus.Bus {
	t.Helper()
	return open(t, natsbus.Options{InProcess: s.nats})
}

// run starts a server that is stopped when the test ends.
func run(t testing.TB, opts *natsserver.Options) *natsserver.Server {
	t.Helper()
	s, err := natsserver.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stop(s) })
	if !s.ReadyForConnections(patience) {
		t.Fatalf("the test's bus was not ready within %s", patience)
	}
	return s
}

func stop(s *natsserver.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func open(t testing.TB, opts natsbus.Options) *natsbus.Bus {
	t.Helper()
	opts.Name, opts.Log = t.Name(), slog.New(slog.NewTextHandler(t.Output(), nil))
	b, err := natsbus.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func ensure(t testing.TB, b *natsbus.Bus, streams []bus.Stream, keyValues, blobs []bus.Bucket) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Ensure(ctx, streams, keyValues, blobs); err != nil {
		t.Fatal(err)
	}
}
