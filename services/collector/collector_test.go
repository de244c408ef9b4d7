package collector_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// publisher keeps what is published; it refuses while failing is above zero.
type publisher struct {
	mu      sync.Mutex
	failing int
	tries   int
	batches []*observationv1.Batch
	subject []string
	sizes   []int
}

func (p *publisher) Publish(ctx context.Context, m bus.Message) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tries++
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if p.failing != 0 {
		p.failing--
		return 0, errors.New("no responders")
	}
	var batch observationv1.Batch
	if err := proto.Unmarshal(m.Data, &batch); err != nil {
		return 0, err
	}
	p.batches, p.subject, p.sizes = append(p.batches, &batch), append(p.subject, m.Subject), append(p.sizes, len(m.Data))
	return uint64(len(p.batches)), nil
}

func (p *publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.batches)
}

// sequences lists the sequences published of each part, in order.
func (p *publisher) sequences() map[uint32][]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[uint32][]uint64)
	for _, b := range p.batches {
		out[b.GetPart()] = append(out[b.GetPart()], b.GetSequence())
	}
	return out
}

// sessions lists the session ids published for a cluster, in order.
func (p *publisher) sessions(cluster fleet.ClusterID) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, b := range p.batches {
		for _, o := range b.GetObservations() {
			if o.GetCluster() == string(cluster) {
				out = append(out, o.GetSession().GetId())
			}
		}
	}
	return out
}

type meter struct{}

func (meter) Polled(string, bool, time.Duration) {}
func (meter) Published(string, int)              {}

// book is a log whose lines can be counted.
type book struct {
	mu    sync.Mutex
	lines strings.Builder
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lines.Write(p)
}

func (b *book) count(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.lines.String(), text)
}

func session(cluster fleet.ClusterID, id string) codec.Observation {
	return codec.Observation{Session: &fleet.Session{ID: fleet.SessionID(id), Cluster: cluster, Status: fleet.SessionConnected, Start: time.Now()}}
}

// run starts a collector inside a synctest bubble.
func run(t *testing.T, bus collector.Publisher, log *book, sources ...collector.Source) (stop func()) {
	t.Helper()
	s := collector.New(collector.Config{Tenant: fleet.DefaultTenant, Incarnation: "first", MaxBatch: 3}, sources,
		collector.Deps{Bus: bus, Log: slog.New(slog.NewTextHandler(log, nil)), Meter: meter{}, Now: time.Now})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("stopping: %v", err)
			}
		default:
			t.Error("the collector did not stop at once")
		}
	}
}

// letTimePass waits in the bubble's own time.
func letTimePass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestOrderAndSequences(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		if topology.Part("paris") == topology.Part("rome") {
			t.Fatal("the two clusters of this test must be of two parts")
		}
		polls := 0
		source := collector.Source{ID: "vendor", Kind: "session", Every: time.Second, Poll: func(context.Context) ([]codec.Observation, error) {
			polls++
			var out []codec.Observation
			for i := range 5 {
				out = append(out, session("paris", fmt.Sprintf("p%d-%d", polls, i)), session("rome", fmt.Sprintf("r%d-%d", polls, i)))
			}
			return out, nil
		}}
		p := &publisher{}
		stop := run(t, p, &book{}, source)
		letTimePass(1500 * time.Millisecond) // two polls
		stop()
		for _, cluster := range []fleet.ClusterID{"paris", "rome"} {
			var want []string
			for poll := range 2 {
				for i := range 5 {
					want = append(want, fmt.Sprintf("%c%d-%d", cluster[0], poll+1, i))
				}
			}
			if diff := cmp.Diff(want, p.sessions(cluster)); diff != "" {
				t.Errorf("%s: %s", cluster, diff)
			}
		}
		want := map[uint32][]uint64{topology.Part("paris"): {1, 2, 3, 4}, topology.Part("rome"): {1, 2, 3, 4}}
		if diff := cmp.Diff(want, p.sequences()); diff != "" {
			t.Errorf("sequences: %s", diff)
		}
		for i, b := range p.batches {
			if len(b.GetObservations()) > 3 || b.GetIncarnation() != "first" || b.GetSource() != "vendor" {
				t.Errorf("batch %d of source %s, incarnation %s has %d observations", i, b.GetSource(), b.GetIncarnation(), len(b.GetObservations()))
			}
			if want := topology.ObservationSubject(fleet.DefaultTenant, "vendor", b.GetPart(), "session"); p.subject[i] != want {
				t.Errorf("batch %d went to %s, want %s", i, p.subject[i], want)
			}
			for _, o := range b.GetObservations() {
				if topology.Part(fleet.ClusterID(o.GetCluster())) != b.GetPart() {
					t.Errorf("batch of part %d holds cluster %s", b.GetPart(), o.GetCluster())
				}
			}
		}
	})
}

func TestAMessageStaysFarBelowTheBusLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := collector.Source{ID: "vendor", Kind: "session", Every: time.Hour, Poll: func(context.Context) ([]codec.Observation, error) {
			var out []codec.Observation
			for i := range 3 {
				o := session("paris", fmt.Sprint(i))
				o.Session.Error = strings.Repeat("x", 700<<10)
				out = append(out, o)
			}
			return out, nil
		}}
		p := &publisher{}
		stop := run(t, p, &book{}, source)
		synctest.Wait()
		stop()
		if len(p.sizes) != 3 || slices.Max(p.sizes) > 1<<20 {
			t.Errorf("messages of %d bytes, want three below 1 MiB", p.sizes)
		}
	})
}

func TestFailureAndRecoveryAreLoggedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var working atomic.Bool
		source := collector.Source{ID: "vendor", Kind: "session", Every: time.Second, Poll: func(context.Context) ([]codec.Observation, error) {
			if !working.Load() {
				return nil, errors.New("503")
			}
			return []codec.Observation{session("paris", "a")}, nil
		}}
		p, log := &publisher{}, &book{}
		stop := run(t, p, log, source)
		letTimePass(4500 * time.Millisecond)
		if n := log.count("a source cannot be read"); n != 1 {
			t.Errorf("after five failures the log has %d lines, want 1", n)
		}
		if p.count() != 0 {
			t.Error("a failed poll published something")
		}
		working.Store(true)
		letTimePass(2 * time.Second)
		if n := log.count("can be read again"); n != 1 {
			t.Errorf("the recovery has %d lines, want 1", n)
		}
		working.Store(false)
		letTimePass(2 * time.Second)
		if n := log.count("a source cannot be read"); n != 2 {
			t.Errorf("the second failure is not logged: %d lines", n)
		}
		stop()
		if want := []uint64{1, 2}; !slices.Equal(p.sequences()[topology.Part("paris")], want) {
			t.Errorf("sequences %d, want %d: failures leave no holes", p.sequences()[topology.Part("paris")], want)
		}
	})
}

func TestPublishingIsTriedUntilItWorks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var polls atomic.Int32
		source := collector.Source{ID: "vendor", Kind: "session", Every: time.Second, Poll: func(context.Context) ([]codec.Observation, error) {
			poll := polls.Add(1)
			var out []codec.Observation
			for i := range 7 {
				out = append(out, session("paris", fmt.Sprintf("%d-%d", poll, i)))
			}
			return out, nil
		}}
		p, log := &publisher{failing: 6}, &book{}
		stop := run(t, p, log, source)
		// 100 ms, doubling: the sixth failure is 3.1 s in, the success 6.3 s.
		letTimePass(6 * time.Second)
		if polls.Load() != 1 || p.count() != 0 {
			t.Errorf("while the bus is down there were %d polls and %d messages, want one poll and no message", polls.Load(), p.count())
		}
		letTimePass(time.Second)
		stop()
		if polls.Load() < 2 {
			t.Error("the source was not asked again")
		}
		if n := log.count("publishing observations failed"); n != 1 {
			t.Errorf("%d log lines for one failing message, want 1", n)
		}
		ids := p.sessions("paris")
		want := []string{"1-0", "1-1", "1-2", "1-3", "1-4", "1-5", "1-6", "2-0"}
		if diff := cmp.Diff(want, ids[:len(want)]); diff != "" {
			t.Error(diff)
		}
		for i, sequence := range p.sequences()[topology.Part("paris")] {
			if sequence != uint64(i+1) {
				t.Errorf("message %d has sequence %d", i+1, sequence)
			}
		}
	})
}

func TestStopEndsARetryAndAPoll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &publisher{failing: -1}
		stop := run(t, p, &book{},
			collector.Source{ID: "vendor", Kind: "session", Every: time.Second, Poll: func(context.Context) ([]codec.Observation, error) {
				return []codec.Observation{session("paris", "a")}, nil
			}},
			collector.Source{ID: "slow", Kind: "session", Every: time.Second, Poll: func(ctx context.Context) ([]codec.Observation, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
		letTimePass(20 * time.Second)
		stop()
		if p.tries < 3 {
			t.Errorf("%d tries in 20 s", p.tries)
		}
	})
}

func TestOneSourceDelaysNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &publisher{}
		stop := run(t, p, &book{},
			collector.Source{ID: "slow", Kind: "session", Every: time.Second, Poll: func(ctx context.Context) ([]codec.Observation, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}},
			collector.InventorySource("paris", time.Second, func(context.Context) (fleet.Inventory, error) {
				return fleet.Inventory{Cluster: "paris", ObservedAt: time.Now()}, nil
			}))
		letTimePass(3500 * time.Millisecond)
		stop()
		if len(p.batches) != 4 {
			t.Errorf("%d inventories in 3.5 s, want 4", len(p.batches))
		}
		if len(p.subject) > 0 && p.subject[0] != topology.ObservationSubject(fleet.DefaultTenant, "compose-paris", topology.Part("paris"), "inventory") {
			t.Errorf("the inventory went to %s", p.subject[0])
		}
	})
}

func TestNothingToCollect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		stop := run(t, &publisher{}, &book{})
		letTimePass(time.Hour)
		stop()
	})
}

// kinds names the observations of one poll.
func kinds(observations []codec.Observation) []string {
	var out []string
	for _, o := range observations {
		switch {
		case o.Session != nil:
			out = append(out, "session")
		case o.Registration != nil:
			out = append(out, "registration")
		case o.Mark != nil:
			out = append(out, "mark")
		}
	}
	return out
}

// polling returns a function that polls a source and compares the kinds.
func polling(t *testing.T, source collector.Source) func(want ...string) {
	return func(want ...string) {
		t.Helper()
		got, err := source.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, kinds(got)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestSessionSourceSendsMarksLast(t *testing.T) {
	t.Parallel()
	failing := true
	source := collector.SessionSource("vendor-sessions", time.Second, func(context.Context) ([]fleet.Session, []fleet.Mark, error) {
		if failing {
			return nil, nil, errors.New("down")
		}
		return []fleet.Session{{ID: "a", Cluster: "paris"}, {ID: "b", Cluster: "rome"}}, []fleet.Mark{{Cluster: "paris"}}, nil
	})
	if _, err := source.Poll(t.Context()); err == nil {
		t.Error("a reader that fails did not fail the poll")
	}
	failing = false
	polling(t, source)("session", "session", "mark")
}

func TestRegistrationSourceSendsChanges(t *testing.T) {
	t.Parallel()
	failing, version := true, "3.0"
	source := collector.RegistrationSource("vendor-bastions", time.Second, func(context.Context) ([]fleet.Registration, error) {
		if failing {
			return nil, errors.New("down")
		}
		return []fleet.Registration{{Cluster: "paris", ObservedAt: time.Now(), Bastions: []fleet.Bastion{{ID: "b", Version: version}}}}, nil
	})
	if _, err := source.Poll(t.Context()); err == nil {
		t.Error("a reader that fails did not fail the poll")
	}
	failing = false
	poll := polling(t, source)
	poll("registration")
	poll()
	version = "3.1"
	poll("registration")
}
