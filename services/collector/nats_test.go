package collector_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/topology"
)

// house is where one server after another is reached at the same place.
type house struct {
	mu     sync.Mutex
	server *natsserver.Server // nil when nobody is there
}

func (h *house) InProcessConn() (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server == nil {
		return nil, errors.New("nobody is there")
	}
	return h.server.InProcessConn()
}

// move ends the server that is there and lets another in.
func (h *house) move(s *natsserver.Server) {
	h.mu.Lock()
	old := h.server
	h.server = s
	h.mu.Unlock()
	if old != nil {
		stopNATS(old)
	}
}

// waits is a meter that tells how much waits for the bus.
type waits struct {
	arrivals
	waiting chan uint64
}

func (w *waits) Published(string, int) {}
func (w *waits) Spooled(messages uint64, _ int64) {
	select {
	case <-w.waiting:
	default:
	}
	w.waiting <- messages
}

// until waits until as much waits as is asked for.
func (w *waits) until(t *testing.T, enough func(uint64) bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case n := <-w.waiting:
			if enough(n) {
				return
			}
		case <-limit:
			t.Fatal("it did not come to that within 30 s")
		}
	}
}

// A real server goes away and comes back, with what it had on disk.
func TestARealBusGoesAwayAndComesBack(t *testing.T) {
	t.Parallel()
	dir, place := t.TempDir(), &house{}
	place.move(newNATS(t, dir))
	t.Cleanup(func() { place.move(nil) })
	events, err := natsbus.Open(natsbus.Options{InProcess: place, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := events.Ensure(t.Context(), []bus.Stream{{Name: topology.StreamObservations, Subjects: []string{"lockstep.obs.v1.>"}}}, nil, nil); err != nil {
		t.Fatal(err)
	}
	spool, err := collector.OpenSpool(t.TempDir(), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	schedule, next := stream("paris", 10)
	schedule.Every = time.Millisecond
	meter := &waits{waiting: make(chan uint64, 1)}
	c := collector.New(collector.Config{Tenant: fleet.DefaultTenant, ID: "hub", MaxBatch: 3}, []collector.Schedule{schedule}, collector.Deps{
		Bus: events, Spool: spool, Log: slog.New(slog.DiscardHandler), Meter: meter, Now: time.Now, Chance: func() float64 { return 0 },
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for range 3 {
		meter.until(t, func(n uint64) bool { return n == 0 })
		place.move(nil)
		meter.until(t, func(n uint64) bool { return n > 100 })
		place.move(newNATS(t, dir))
		meter.until(t, func(n uint64) bool { return n < 50 })
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := spool.Stats().Records; n > 0 {
		t.Fatalf("%d messages still wait", n)
	}
	got := &station{}
	if err := events.Load(t.Context(), topology.StreamObservations, "lockstep.obs.v1.>", func(m bus.Message) error {
		var batch observationv1.Batch
		if err := proto.Unmarshal(m.Data, &batch); err != nil {
			return err
		}
		got.batches = append(got.batches, &batch)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	got.unbroken(t)
	if diff := cmp.Diff(upTo(next.Load()), got.sessions("paris")); diff != "" {
		t.Error(diff)
	}
}
