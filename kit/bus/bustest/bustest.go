// Package bustest runs a real bus inside a test: a NATS server with a file store
// in a folder of the test, without a socket. It knows no streams; the caller
// creates what it needs.
package bustest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// Server is a bus that lives as long as its test.
type Server struct {
	nats *natsserver.Server
}

// Start runs a server on an empty folder and creates streams and buckets.
func Start(t testing.TB, streams []bus.Stream, keyValues, blobs []bus.Bucket) *Server {
	t.Helper()
	nats, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "test", DontListen: true, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, MaxPayload: 4 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	t.Cleanup(func() {
		nats.Shutdown()
		nats.WaitForShutdown()
	})
	if !nats.ReadyForConnections(30 * time.Second) {
		t.Fatal("the test's bus was not ready within 30 s")
	}
	s := &Server{nats: nats}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.Open(t).Ensure(ctx, streams, keyValues, blobs); err != nil {
		t.Fatal(err)
	}
	return s
}

// Open returns a connection that is closed when the test ends.
func (s *Server) Open(t testing.TB) *natsbus.Bus {
	t.Helper()
	b, err := natsbus.Open(natsbus.Options{InProcess: s.nats, Name: t.Name(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}
