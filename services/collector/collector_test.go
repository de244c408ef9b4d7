package collector_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// station is a bus that keeps what is published to it.
type station struct {
	mu      sync.Mutex
	down    bool
	deaf    int                      // so many times it stores, and its answer is lost
	refuse  func(m bus.Message) bool // for good
	tries   int
	batches []*observationv1.Batch
	subject []string
	sizes   []int
}

var errDown = errs.New(errs.Unavailable, "LS-BUS-006", "no responders")

func (s *station) Publish(ctx context.Context, m bus.Message) (uint64, error) {
	return s.PublishBatch(ctx, []bus.Message{m})
}

func (s *station) PublishBatch(ctx context.Context, messages []bus.Message) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries++
	switch {
	case ctx.Err() != nil:
		return 0, ctx.Err()
	case s.down:
		return 0, errDown
	case s.refuse != nil && slices.ContainsFunc(messages, s.refuse):
		return 0, errs.New(errs.Exhausted, "LS-BUS-005", "too large")
	}
	for _, m := range messages {
		var batch observationv1.Batch
		if err := proto.Unmarshal(m.Data, &batch); err != nil {
			return 0, err
		}
		s.batches, s.subject, s.sizes = append(s.batches, &batch), append(s.subject, m.Subject), append(s.sizes, len(m.Data))
	}
	if s.deaf > 0 {
		s.deaf--
		return 0, errDown
	}
	return uint64(len(s.batches)), nil
}

func (s *station) set(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

func (s *station) published() []*observationv1.Batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.batches)
}

// observations lists what was published of a cluster and kind, repeats of messages
// left out.
func (s *station) observations(cluster fleet.ClusterID, kind fleet.Kind) []*observationv1.Observation {
	seen := make(map[string]bool)
	var out []*observationv1.Observation
	for _, b := range s.published() {
		if key := fmt.Sprint(b.GetSource(), b.GetIncarnation(), b.GetPart(), b.GetSequence()); !seen[key] && strings.HasSuffix(b.GetSource(), "-"+string(kind)) {
			seen[key] = true
			for _, o := range b.GetObservations() {
				if o.GetCluster() == string(cluster) {
					out = append(out, o)
				}
			}
		}
	}
	return out
}

// sessions lists the session ids published for a cluster, in order.
func (s *station) sessions(cluster fleet.ClusterID) []string {
	var out []string
	for _, o := range s.observations(cluster, fleet.KindSession) {
		if o.GetSession() != nil {
			out = append(out, o.GetSession().GetId())
		}
	}
	return out
}

// marks lists the marks published for a cluster about a kind, in order.
func (s *station) marks(cluster fleet.ClusterID, kind fleet.Kind) []*observationv1.Mark {
	var out []*observationv1.Mark
	for _, o := range s.observations(cluster, kind) {
		if o.GetMark() != nil {
			out = append(out, o.GetMark())
		}
	}
	return out
}

// sequences lists those published of each source, incarnation and part, in order.
func (s *station) sequences() map[codec.Position][]uint64 {
	out := make(map[codec.Position][]uint64)
	for _, b := range s.published() {
		at := codec.Position{Source: fleet.SourceID(b.GetSource()), Incarnation: b.GetIncarnation(), Part: b.GetPart()}
		out[at] = append(out[at], b.GetSequence())
	}
	return out
}

// unbroken checks that no sequence is left out; a message may be repeated.
func (s *station) unbroken(t *testing.T) {
	t.Helper()
	for at, sequences := range s.sequences() {
		last := uint64(0)
		for _, n := range sequences {
			if n > last+1 {
				t.Errorf("%v: message %d came after %d", at, n, last)
			}
			last = max(last, n)
		}
	}
}

// tally counts what the collector tells its meter.
type tally struct {
	mu        sync.Mutex
	published map[string]int
	dropped   map[string]int
	waiting   uint64
	broken    int
}

func (c *tally) Polled(string, bool, time.Duration) {}

func (c *tally) Published(kind string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.published[kind] += n
}

func (c *tally) Dropped(kind, why string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped[kind+" "+why] += n
}

func (c *tally) lost(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped[what]
}

func (c *tally) Spooled(messages uint64, _ int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = messages
}

func (c *tally) Broken(_ string, broken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken--; broken {
		c.broken += 2
	}
}

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

// world is a collector with its bus and its spool, inside a bubble of its own time.
type world struct {
	*testing.T
	bus    *station
	dir    string
	size   int64
	config collector.Config
	log    *book
	meter  *tally
	now    func() time.Time
	chance float64 // one half is the middle: every interval as long as it is said
	stop   func()
}

func newWorld(t *testing.T) *world {
	return &world{
		T: t, bus: &station{}, dir: t.TempDir(), size: 64 << 20, config: collector.Config{Tenant: fleet.DefaultTenant, ID: "hub", MaxBatch: 3},
		log: &book{}, meter: &tally{published: make(map[string]int), dropped: make(map[string]int)}, now: time.Now, chance: 0.5,
	}
}

// run starts a collector; stop ends it, which takes no time at all.
func (w *world) run(schedules ...collector.Schedule) {
	w.Helper()
	spool, err := collector.OpenSpool(w.dir, w.size)
	if err != nil {
		w.Fatal(err)
	}
	s := collector.New(w.config, schedules, collector.Deps{
		Bus: w.bus, Spool: spool, Log: slog.New(slog.NewTextHandler(w.log, nil)), Meter: w.meter,
		Now: func() time.Time { return w.now() }, Chance: func() float64 { return w.chance },
	})
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.stop = func() {
		w.Helper()
		cancel()
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				w.Errorf("stopping: %v", err)
			}
		default:
			w.Error("the collector did not stop at once")
			<-done
		}
		if err := spool.Close(); err != nil {
			w.Error(err)
		}
	}
}

// letTimePass waits in the bubble's own time.
func letTimePass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// bubble runs a test in a time of its own.
func bubble(t *testing.T, test func(w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(newWorld(t)) })
}

func session(cluster fleet.ClusterID, id string) codec.Observation {
	return codec.Observation{Session: &fleet.Session{ID: fleet.SessionID(id), Cluster: cluster, Status: fleet.SessionConnected, Start: time.Now()}}
}

// polled is a source of sessions every second.
func polled(poll collector.SourceFunc, clusters ...fleet.ClusterID) collector.Schedule {
	return collector.Schedule{Kind: fleet.KindSession, Name: "sessions", Clusters: clusters, Source: poll, Every: time.Second}
}

// stream is a source of sessions of one cluster, n a poll, which are numbered.
func stream(cluster fleet.ClusterID, n int) (collector.Schedule, *atomic.Int64) {
	next := &atomic.Int64{}
	return polled(func(context.Context) ([]codec.Observation, error) {
		var out []codec.Observation
		for range n {
			out = append(out, session(cluster, fmt.Sprint(next.Add(1))))
		}
		return out, nil
	}, cluster), next
}

// upTo lists the ids that a stream gave.
func upTo(n int64) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprint(i+1))
	}
	return out
}

func TestOrderAndSequences(t *testing.T) {
	bubble(t, func(w *world) {
		if topology.Part("paris") == topology.Part("rome") {
			w.Fatal("the two clusters of this test must be of two parts")
		}
		polls := 0
		w.run(polled(func(context.Context) ([]codec.Observation, error) {
			polls++
			var out []codec.Observation
			for i := range 5 {
				out = append(out, session("paris", fmt.Sprintf("p%d-%d", polls, i)), session("rome", fmt.Sprintf("r%d-%d", polls, i)))
			}
			return out, nil
		}))
		letTimePass(1500 * time.Millisecond) // two polls
		w.stop()
		for _, cluster := range []fleet.ClusterID{"paris", "rome"} {
			var want []string
			for poll := range 2 {
				for i := range 5 {
					want = append(want, fmt.Sprintf("%c%d-%d", cluster[0], poll+1, i))
				}
			}
			if diff := cmp.Diff(want, w.bus.sessions(cluster)); diff != "" {
				w.Errorf("%s: %s", cluster, diff)
			}
		}
		for at, got := range w.bus.sequences() {
			if want := []uint64{1, 2, 3, 4}; !slices.Equal(got, want) {
				w.Errorf("%v: sequences %d, want %d", at, got, want)
			}
		}
		for i, b := range w.bus.batches {
			if len(b.GetObservations()) > 3 || len(b.GetIncarnation()) != 16 || b.GetSource() != "hub-session" {
				w.Errorf("batch %d of source %s, incarnation %s has %d observations", i, b.GetSource(), b.GetIncarnation(), len(b.GetObservations()))
			}
			if want := topology.ObservationSubject(fleet.DefaultTenant, "hub-session", b.GetPart(), fleet.KindSession); w.bus.subject[i] != want {
				w.Errorf("batch %d went to %s, want %s", i, w.bus.subject[i], want)
			}
			for _, o := range b.GetObservations() {
				if topology.Part(fleet.ClusterID(o.GetCluster())) != b.GetPart() {
					w.Errorf("batch of part %d holds cluster %s", b.GetPart(), o.GetCluster())
				}
				if _, err := codec.ObservationFromProto(o); err != nil || len(o.GetId()) != 32 {
					w.Errorf("observation %q: %v", o.GetId(), err)
				}
			}
		}
		if w.meter.published["session"] != 20 || w.meter.waiting != 0 {
			w.Errorf("%d published, %d waiting", w.meter.published["session"], w.meter.waiting)
		}
	})
}

func TestResultsThatComeTogetherShareMessages(t *testing.T) {
	bubble(t, func(w *world) {
		w.config.MaxBatch = 100
		var schedules []collector.Schedule
		for i := range 5 {
			s, _ := stream("paris", 2)
			s.Jitter = time.Duration(i)
			schedules = append(schedules, s)
		}
		late, _ := stream("paris", 2)
		late.Every = time.Hour
		late.Source = collector.SourceFunc(func(ctx context.Context) ([]codec.Observation, error) { <-ctx.Done(); return nil, ctx.Err() })
		w.run(append(schedules, late)...)
		letTimePass(40 * time.Millisecond)
		if n := len(w.bus.published()); n != 0 {
			w.Errorf("%d messages before the linger time is over", n)
		}
		letTimePass(20 * time.Millisecond)
		if b := w.bus.published(); len(b) != 1 || len(b[0].GetObservations()) != 10 {
			w.Errorf("%d messages, want one with all ten", len(b))
		}
		w.stop()
	})
}

func TestAMessageStaysFarBelowTheBusLimit(t *testing.T) {
	bubble(t, func(w *world) {
		w.run(polled(func(context.Context) ([]codec.Observation, error) {
			var out []codec.Observation
			for i := range 3 {
				o := session("paris", fmt.Sprint(i))
				o.Session.Error = strings.Repeat("x", 340<<10)
				out = append(out, o)
			}
			return out, nil
		}))
		synctest.Wait()
		w.stop()
		if len(w.bus.sizes) != 2 || slices.Max(w.bus.sizes) > 950<<10 {
			w.Errorf("messages of %d bytes, want two that leave room for an envelope below 1 MiB", w.bus.sizes)
		}
	})
}

func TestFailureAndRecoveryAreLoggedOnce(t *testing.T) {
	bubble(t, func(w *world) {
		var working atomic.Bool
		w.run(polled(func(context.Context) ([]codec.Observation, error) {
			if !working.Load() {
				return nil, errors.New("503")
			}
			return []codec.Observation{session("paris", "a")}, nil
		}))
		letTimePass(10 * time.Second)
		if n := w.log.count("a source cannot be read"); n != 1 {
			w.Errorf("after many failures the log has %d lines, want 1", n)
		}
		if n := w.log.count("asked less often"); n != 1 || w.meter.broken != 1 {
			w.Errorf("that it is asked less often is said %d times and counted %d times, want 1", n, w.meter.broken)
		}
		if len(w.bus.published()) != 0 {
			w.Error("a failed poll of no cluster published something")
		}
		working.Store(true)
		letTimePass(time.Minute)
		if n := w.log.count("can be read again"); n != 1 || w.meter.broken != 0 {
			w.Errorf("the recovery has %d lines, want 1; %d are counted as broken", n, w.meter.broken)
		}
		working.Store(false)
		letTimePass(2 * time.Second)
		if n := w.log.count("a source cannot be read"); n != 2 {
			w.Errorf("the second failure is not logged: %d lines", n)
		}
		w.stop()
		w.bus.unbroken(w.T)
	})
}

func TestNothingIsLostWhileTheBusIsAway(t *testing.T) {
	bubble(t, func(w *world) {
		paris, parisNext := stream("paris", 7)
		rome, romeNext := stream("rome", 2)
		w.bus.down = true
		w.run(paris, rome)
		letTimePass(30 * time.Minute)
		if n := parisNext.Load(); n < 7*1700 {
			w.Errorf("while the bus was away only %d sessions were read", n)
		}
		if w.bus.tries > 500 {
			w.Errorf("the bus was asked %d times in half an hour", w.bus.tries)
		}
		if len(w.bus.published()) != 0 {
			w.Error("something was published to a bus that is away")
		}
		w.bus.set(false)
		letTimePass(10 * time.Second)
		w.bus.set(true)
		letTimePass(time.Minute)
		w.bus.set(false)
		letTimePass(10 * time.Second)
		w.stop()
		if n := w.log.count("the bus does not take observations"); n != 2 {
			w.Errorf("two outages have %d lines", n)
		}
		if n := w.log.count("takes observations again"); n != 2 {
			w.Errorf("two recoveries have %d lines", n)
		}
		if diff := cmp.Diff(upTo(parisNext.Load()), w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
		if diff := cmp.Diff(upTo(romeNext.Load()), w.bus.sessions("rome")); diff != "" {
			w.Error(diff)
		}
		w.bus.unbroken(w.T)
		if len(w.meter.dropped) != 0 {
			w.Errorf("dropped: %v", w.meter.dropped)
		}
	})
}

func TestAnAnswerThatGotLostRepeatsTheMessage(t *testing.T) {
	bubble(t, func(w *world) {
		s, next := stream("paris", 4)
		w.bus.deaf = 3
		w.run(s)
		letTimePass(10 * time.Second)
		w.stop()
		w.bus.unbroken(w.T)
		first := make(map[uint64]*observationv1.Batch)
		repeats := 0
		for _, b := range w.bus.batches {
			if old := first[b.GetSequence()]; old != nil {
				repeats++
				if !proto.Equal(old, b) {
					w.Errorf("message %d is another the second time", b.GetSequence())
				}
			}
			first[b.GetSequence()] = b
		}
		if repeats < 3 {
			w.Errorf("%d repeats, so nothing was tried", repeats)
		}
		if diff := cmp.Diff(upTo(next.Load()), w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
	})
}

func TestARestartGoesOnWhereItWas(t *testing.T) {
	bubble(t, func(w *world) {
		s, next := stream("paris", 4)
		for run := range 4 {
			w.bus.set(run%2 == 0)
			w.run(s)
			letTimePass(5 * time.Second)
			w.stop()
		}
		if diff := cmp.Diff(upTo(next.Load()), w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
		w.bus.unbroken(w.T)
		if n := len(w.bus.sequences()); n != 1 {
			w.Errorf("%d incarnations, want one over all restarts", n)
		}
	})
}

func TestStopEndsARetryAndAPoll(t *testing.T) {
	bubble(t, func(w *world) {
		s, _ := stream("paris", 1)
		w.bus.down = true
		w.run(s, polled(func(ctx context.Context) ([]codec.Observation, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		letTimePass(20 * time.Second)
		w.stop()
		if w.bus.tries < 3 {
			w.Errorf("%d tries in 20 s", w.bus.tries)
		}
	})
}

func TestABusThatIsBackIsNotKeptWaiting(t *testing.T) {
	bubble(t, func(w *world) {
		s, next := stream("paris", 1)
		w.bus.down = true
		w.run(s)
		letTimePass(time.Minute)
		w.bus.set(false)
		letTimePass(10 * time.Second)
		w.bus.set(true)
		letTimePass(2 * time.Second)
		w.bus.set(false)
		letTimePass(2 * time.Second)
		if got := int64(len(w.bus.sessions("paris"))); got < next.Load()-1 {
			w.Errorf("2 s after a short outage %d of %d sessions came", got, next.Load())
		}
		// And when the collector ends, the bus is tried once more.
		w.bus.set(true)
		letTimePass(time.Minute)
		w.bus.set(false)
		w.stop()
		if diff := cmp.Diff(upTo(next.Load()), w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
	})
}

func TestALossIsToldWithoutWaitingForAPoll(t *testing.T) {
	bubble(t, func(w *world) {
		s, _ := stream("paris", 1)
		s.Every = time.Hour
		w.bus.refuse = func(m bus.Message) bool { return strings.Contains(string(m.Data), "connected") }
		w.run(s)
		letTimePass(time.Second)
		if marks := w.bus.marks("paris", fleet.KindSession); len(marks) != 1 || !marks[0].GetLost() {
			w.Errorf("told: %v", marks)
		}
		w.stop()
	})
}

func TestWhatWasPolledWhenItStopsIsKept(t *testing.T) {
	bubble(t, func(w *world) {
		w.run(polled(func(ctx context.Context) ([]codec.Observation, error) {
			<-ctx.Done()
			return []codec.Observation{session("paris", "last")}, nil
		}))
		letTimePass(time.Second / 2)
		w.stop()
		if diff := cmp.Diff([]string{"last"}, w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
	})
}

func TestOneSourceDelaysNoOther(t *testing.T) {
	bubble(t, func(w *world) {
		hung := polled(func(ctx context.Context) ([]codec.Observation, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		hung.Timeout = time.Hour
		inventory := collector.Inventory("paris", time.Second, func(context.Context) (fleet.Inventory, error) {
			return fleet.Inventory{Cluster: "paris", ObservedAt: time.Now(), Instances: []fleet.Instance{{ID: fleet.InstanceID(fmt.Sprint(time.Now().UnixNano()))}}}, nil
		})
		inventory.Jitter = 0
		w.run(hung, inventory)
		letTimePass(3500 * time.Millisecond)
		w.stop()
		n := 0
		for _, o := range w.bus.observations("paris", fleet.KindInventory) {
			if o.GetInventory() != nil {
				n++
			}
		}
		if n != 4 {
			w.Errorf("%d inventories in 3.5 s, want 4", n)
		}
		if w.log.count("cannot be read") != 0 {
			w.Error("a poll that was ended with the collector is said to have failed")
		}
		if len(w.bus.subject) > 0 && w.bus.subject[0] != topology.ObservationSubject(fleet.DefaultTenant, "hub-inventory", topology.Part("paris"), "inventory") {
			w.Errorf("the inventory went to %s", w.bus.subject[0])
		}
	})
}

func TestAPollIsBounded(t *testing.T) {
	bubble(t, func(w *world) {
		var took []time.Duration
		s := polled(func(ctx context.Context) ([]codec.Observation, error) {
			began := time.Now()
			<-ctx.Done()
			took = append(took, time.Since(began))
			return nil, ctx.Err()
		})
		s.Timeout = 3 * time.Second
		w.run(s)
		letTimePass(7 * time.Second)
		w.stop()
		if len(took) < 2 || took[0] != 3*time.Second || took[1] != 3*time.Second {
			w.Errorf("polls took %v", took)
		}
	})
}

// hung is a source that does not listen to its context until it is let go.
func hung(every, timeout time.Duration, answer func() ([]codec.Observation, error)) (s collector.Schedule, polls *atomic.Int32, letGo func()) {
	gate := make(chan struct{})
	polls = &atomic.Int32{}
	s = polled(func(context.Context) ([]codec.Observation, error) {
		polls.Add(1)
		<-gate
		return answer()
	}, "paris")
	s.Every, s.Timeout = every, timeout
	return s, polls, sync.OnceFunc(func() { close(gate) })
}

func TestASourceThatDoesNotListenIsToldBlindAndNotAskedTwice(t *testing.T) {
	bubble(t, func(w *world) {
		s, polls, letGo := hung(time.Second, 3*time.Second, func() ([]codec.Observation, error) {
			return []codec.Observation{session("paris", "late")}, nil
		})
		defer letGo()
		w.run(s)
		letTimePass(4 * time.Second)
		if marks := w.bus.marks("paris", fleet.KindSession); len(marks) != 0 {
			w.Errorf("told before its time is over: %v", marks)
		}
		letTimePass(time.Minute)
		marks := w.bus.marks("paris", fleet.KindSession)
		// From the fifth second on, one in 5 s.
		if len(marks) != 12 || !marks[0].GetBlind() || marks[0].GetLost() || !strings.Contains(marks[0].GetBlindReason(), "goes on although its time is over") {
			w.Errorf("told %d times: %v", len(marks), marks)
		}
		if polls.Load() != 1 || w.log.count("a source cannot be read") != 1 {
			w.Errorf("%d polls at once, %d lines", polls.Load(), w.log.count("a source cannot be read"))
		}
		letGo()
		letTimePass(time.Second / 2)
		w.stop()
		if diff := cmp.Diff([]string{"late"}, w.bus.sessions("paris")[:1]); diff != "" {
			w.Error(diff)
		}
		if polls.Load() < 2 || w.log.count("can be read again") != 1 {
			w.Errorf("after it answered: %d polls, %d lines", polls.Load(), w.log.count("can be read again"))
		}
	})
}

func TestASourceThatDoesNotListenIsLeftBehind(t *testing.T) {
	bubble(t, func(w *world) {
		s, _, letGo := hung(time.Second, time.Hour, func() ([]codec.Observation, error) { return nil, nil })
		defer letGo()
		spool, err := collector.OpenSpool(w.dir, w.size)
		if err != nil {
			w.Fatal(err)
		}
		c := collector.New(w.config, []collector.Schedule{s}, collector.Deps{
			Bus: w.bus, Spool: spool, Log: slog.New(slog.NewTextHandler(w.log, nil)), Meter: w.meter, Now: time.Now, Chance: func() float64 { return 0.5 },
		})
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := c.Run(ctx); err != nil {
			w.Error(err)
		}
		if took := time.Since(began); took > 5*time.Second || w.log.count("left behind") != 1 {
			w.Errorf("the collector took %s to end, and %d lines tell why", took, w.log.count("left behind"))
		}
		if err := spool.Close(); err != nil {
			w.Error(err)
		}
	})
}

func TestALongLookIsNotSilent(t *testing.T) {
	bubble(t, func(w *world) {
		s := polled(func(ctx context.Context) ([]codec.Observation, error) {
			if err := rtime.Wait(ctx, time.Minute); err != nil {
				return nil, err
			}
			return []codec.Observation{session("paris", "a"), {Mark: &fleet.Mark{Cluster: "paris", About: fleet.KindSession, CompleteUntil: time.Now()}}}, nil
		}, "paris")
		s.Timeout = 10 * time.Minute
		w.run(s)
		letTimePass(61 * time.Second)
		w.stop()
		marks := w.bus.marks("paris", fleet.KindSession)
		// At 30, 35, 40, 45, 50 and 55 s, and when it was done; at 60 s perhaps as well.
		if len(marks) < 7 || len(marks) > 8 {
			w.Fatalf("told %d times: %v", len(marks), marks)
		}
		for _, m := range marks[:6] {
			if !m.GetBlind() || m.GetLost() || m.GetCompleteUntil() != nil || m.GetBlindReason() != "the look has taken more than 30 s and is not done" {
				w.Errorf("while it goes on: %v", m)
			}
		}
		if m := marks[len(marks)-1]; m.GetBlind() || w.log.count("cannot be read") != 0 {
			w.Errorf("what it brought: %v", m)
		}
	})
}

func TestSourcesDoNotStayInStep(t *testing.T) {
	for chance, want := range map[float64]int32{0: 11, 0.5: 10, 0.999: 10} {
		t.Run(fmt.Sprint(chance), func(t *testing.T) {
			bubble(t, func(w *world) {
				var polls atomic.Int32
				w.chance = chance
				w.run(polled(func(context.Context) ([]codec.Observation, error) { polls.Add(1); return nil, nil }))
				letTimePass(9600 * time.Millisecond)
				w.stop()
				if polls.Load() != want {
					w.Errorf("%d polls in 9.6 s, want %d", polls.Load(), want)
				}
			})
		})
	}
}

func TestNothingToCollect(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		letTimePass(time.Hour)
		w.stop()
	})
}

func TestWakeAsksBeforeTheTime(t *testing.T) {
	bubble(t, func(w *world) {
		var failing atomic.Bool
		var polls atomic.Int32
		wake := make(chan struct{})
		s := polled(func(context.Context) ([]codec.Observation, error) {
			polls.Add(1)
			if failing.Load() {
				return nil, errors.New("503")
			}
			return nil, nil
		})
		s.Every, s.Wake = time.Hour, wake
		w.run(s)
		synctest.Wait()
		for want := int32(2); want < 5; want++ {
			wake <- struct{}{}
			synctest.Wait()
			if polls.Load() != want {
				w.Fatalf("%d polls, want %d", polls.Load(), want)
			}
		}
		failing.Store(true)
		wake <- struct{}{}
		wake <- struct{}{}
		wake <- struct{}{}
		synctest.Wait()
		select {
		case wake <- struct{}{}:
			w.Error("a source that keeps failing is woken")
		default:
		}
		failing.Store(false)
		letTimePass(time.Hour)
		wake <- struct{}{}
		close(wake)
		letTimePass(time.Minute)
		w.stop()
		if polls.Load() != 10 {
			w.Errorf("%d polls, want 10: four well, three failed, the trial, one woken and one as it was closed", polls.Load())
		}
	})
}

func TestASourceThatKeepsFailingIsAskedLessOften(t *testing.T) {
	bubble(t, func(w *world) {
		began := time.Now()
		var at []time.Duration
		var failing atomic.Bool
		failing.Store(true)
		w.run(polled(func(context.Context) ([]codec.Observation, error) {
			at = append(at, time.Since(began).Round(time.Millisecond))
			if failing.Load() {
				return nil, errors.New("503")
			}
			return nil, nil
		}))
		letTimePass(130 * time.Second)
		failing.Store(false)
		letTimePass(60 * time.Second)
		w.stop()
		var want []time.Duration
		// From the third on by chance an eighth less than twice the one before.
		for _, s := range []float64{0, 1, 2, 3.75, 7.25, 14.25, 28.25, 56.25, 108.75, 161.25, 162.25, 163.25, 164.25} {
			want = append(want, time.Duration(s*float64(time.Second)))
		}
		if diff := cmp.Diff(want, at[:min(len(at), len(want))]); diff != "" {
			w.Error(diff)
		}
	})
}

func TestWhatASourceReadsFromIsKeptAlive(t *testing.T) {
	bubble(t, func(w *world) {
		var runs atomic.Int32
		s, _ := stream("paris", 1)
		s.Run = func(ctx context.Context) error {
			if runs.Add(1) < 3 {
				return errors.New("the watch broke")
			}
			<-ctx.Done()
			return ctx.Err()
		}
		w.run(s)
		letTimePass(time.Minute)
		w.stop()
		if runs.Load() != 3 || w.log.count("it is begun again") != 2 {
			w.Errorf("it ran %d times and %d lines tell of it", runs.Load(), w.log.count("it is begun again"))
		}
	})
}

func TestWhatWorkedForAWhileIsBegunAgainSoon(t *testing.T) {
	bubble(t, func(w *world) {
		var runs atomic.Int32
		s, _ := stream("paris", 1)
		s.Run = func(ctx context.Context) error {
			if runs.Add(1) < 10 {
				return errors.New("the watch broke")
			}
			if err := rtime.Wait(ctx, 2*time.Minute); err != nil {
				return err
			}
			return errors.New("the watch broke after a while")
		}
		w.run(s)
		letTimePass(5*time.Minute + 30*time.Second) // 9 pauses, up to a minute
		before := runs.Load()
		if before != 10 {
			w.Fatalf("%d runs", before)
		}
		letTimePass(35 * time.Second) // it began at 4:03 and ended at 6:03
		if runs.Load() != 11 {
			w.Errorf("it is not begun again a second after it ended")
		}
		w.stop()
	})
}

// A mark that promises a time stands behind the one that tells of a loss in it.
func TestALossIsToldBeforeThePromise(t *testing.T) {
	bubble(t, func(w *world) {
		polls := 0
		w.run(polled(func(context.Context) ([]codec.Observation, error) {
			if polls++; polls > 1 {
				return nil, nil
			}
			bad := session("paris", "bad")
			bad.Session.Error = "\xff"
			return []codec.Observation{bad, {Mark: &fleet.Mark{Cluster: "paris", About: fleet.KindSession, CompleteUntil: time.Now()}}}, nil
		}, "paris"), inventories("rome", &atomic.Int64{}))
		letTimePass(2 * time.Second)
		w.stop()
		marks := w.bus.marks("paris", fleet.KindSession)
		if len(marks) != 2 || !marks[0].GetLost() || marks[1].GetLost() {
			w.Errorf("told: %v", marks)
		}
	})
}

func TestAMarkFollowsWhatItPromises(t *testing.T) {
	bubble(t, func(w *world) {
		began := time.Now()
		s := collector.Checks(fleet.KindProbe, "probes", []fleet.ClusterID{"paris", "rome"}, 20*time.Second, func(context.Context) ([]fleet.Check, error) {
			<-time.After(3 * time.Second)
			return []fleet.Check{{Cluster: "paris", Name: "ssh", Kind: fleet.CheckSSH, At: time.Now(), OK: true}}, nil
		})
		s.Jitter = 0
		w.run(s)
		letTimePass(30 * time.Second)
		w.stop()
		var order []string
		for _, o := range w.bus.observations("paris", fleet.KindProbe) {
			order = append(order, fmt.Sprintf("%T", o.GetKind()))
		}
		if want := []string{"*observationv1.Observation_Check", "*observationv1.Observation_Mark", "*observationv1.Observation_Check", "*observationv1.Observation_Mark"}; !slices.Equal(order, want) {
			w.Errorf("%v", order)
		}
		for _, cluster := range []fleet.ClusterID{"paris", "rome"} {
			marks := w.bus.marks(cluster, fleet.KindProbe)
			if len(marks) != 2 {
				w.Fatalf("%s: %d marks for two looks", cluster, len(marks))
			}
			for i, m := range marks {
				want := began.Add(time.Duration(i) * 20 * time.Second)
				if !m.GetCompleteUntil().AsTime().Equal(want) || m.GetBlind() || m.GetAbout() != "probe" {
					w.Errorf("%s: mark %d is %v, want one until %s, when the look began", cluster, i, m, want)
				}
			}
		}
	})
}

func TestAFailedPollSaysThatNothingWasSeen(t *testing.T) {
	bubble(t, func(w *world) {
		began := time.Now()
		polls := 0
		s := polled(func(context.Context) ([]codec.Observation, error) {
			if polls++; polls == 1 {
				return []codec.Observation{{Mark: &fleet.Mark{Cluster: "paris", About: fleet.KindSession, CompleteUntil: began.Add(-time.Minute)}}}, nil
			}
			return nil, errors.New("503 \xff" + strings.Repeat("x", 1000))
		}, "paris", "rome")
		w.run(s)
		letTimePass(time.Hour)
		w.stop()
		marks := w.bus.marks("paris", fleet.KindSession)
		for i, m := range marks[1:] {
			if !m.GetBlind() || m.GetLost() || !m.GetCompleteUntil().AsTime().Equal(began.Add(-time.Minute)) {
				w.Fatalf("mark %d after the first failure: %v", i, m)
			}
			if reason := m.GetBlindReason(); !strings.HasPrefix(reason, "503 \uFFFD") || len(reason) > 600 {
				w.Fatalf("mark %d gives as the reason %q", i, reason)
			}
		}
		for i, m := range w.bus.marks("rome", fleet.KindSession) {
			if !m.GetBlind() || m.GetCompleteUntil() != nil {
				w.Fatalf("mark %d of a cluster that was never seen: %v", i, m)
			}
		}
		// The first at once, then no more than one in 5 s, and at last one a minute, by
		// chance an eighth earlier.
		if n := len(marks) - 1; n < 68 || n > 75 {
			w.Errorf("%d marks in an hour of failures", n)
		}
	})
}

// inventories is a source of one cluster's inventory, whose content is a number.
func inventories(cluster fleet.ClusterID, content *atomic.Int64) collector.Schedule {
	s := collector.Inventory(cluster, time.Second, func(context.Context) (fleet.Inventory, error) {
		return fleet.Inventory{Cluster: cluster, ObservedAt: time.Now(), Instances: []fleet.Instance{{ID: "gateway", Version: fmt.Sprint(content.Load())}}}, nil
	})
	s.Jitter = 0
	return s
}

// versions lists the contents of the inventories published.
func (s *station) versions(cluster fleet.ClusterID) []string {
	var out []string
	for _, o := range s.observations(cluster, fleet.KindInventory) {
		for _, i := range o.GetInventory().GetInstances() {
			out = append(out, i.GetVersion())
		}
	}
	return out
}

func TestWhatHasNotChangedIsNotSentAgain(t *testing.T) {
	bubble(t, func(w *world) {
		var content atomic.Int64
		w.run(inventories("paris", &content))
		letTimePass(10 * time.Second)
		content.Store(1)
		letTimePass(10 * time.Second)
		content.Store(0)
		letTimePass(10 * time.Second)
		if want := []string{"0", "1", "0"}; !slices.Equal(w.bus.versions("paris"), want) {
			w.Errorf("sent %v, want %v", w.bus.versions("paris"), want)
		}
		if n := len(w.bus.marks("paris", fleet.KindInventory)); n != 31 {
			w.Errorf("%d marks of 31 looks", n)
		}
		letTimePass(5 * time.Minute)
		if want := []string{"0", "1", "0", "0"}; !slices.Equal(w.bus.versions("paris"), want) {
			w.Errorf("after the time for a full one: %v, want %v", w.bus.versions("paris"), want)
		}
		w.stop()
	})
}

func TestWhatCannotBeSentIsToldAndTheRestGoesOn(t *testing.T) {
	bubble(t, func(w *world) {
		var content atomic.Int64
		bad := session("paris", "bad")
		bad.Session.User = "\xff"
		huge := session("rome", "huge")
		huge.Session.Error = strings.Repeat("x", 5<<20)
		polls := 0
		sessions := polled(func(context.Context) ([]codec.Observation, error) {
			if polls++; polls > 1 {
				return nil, nil
			}
			return []codec.Observation{session("paris", "a"), bad, huge, session("paris", "b")}, nil
		})
		sessions.Jitter = time.Second // half a second after the first inventory, and before the second
		w.run(sessions, inventories("berlin", &content))
		letTimePass(5 * time.Second)
		w.stop()
		if diff := cmp.Diff([]string{"a", "b"}, w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
		for _, cluster := range []fleet.ClusterID{"paris", "rome"} {
			marks := w.bus.marks(cluster, fleet.KindSession)
			if len(marks) != 1 || !marks[0].GetLost() || !marks[0].GetBlind() || marks[0].GetBlindReason() != "an observation could not be sent: 1 observation" {
				w.Errorf("%s is told %v", cluster, marks)
			}
		}
		if w.meter.dropped["session invalid"] != 2 {
			w.Errorf("dropped: %v", w.meter.dropped)
		}
		// What was lost may have been what an unchanged inventory relies on.
		if want := []string{"0", "0"}; !slices.Equal(w.bus.versions("berlin"), want) {
			w.Errorf("inventories: %v, want %v", w.bus.versions("berlin"), want)
		}
	})
}

func TestAMessageRefusedForGoodBlocksNothing(t *testing.T) {
	bubble(t, func(w *world) {
		holds := func(m bus.Message) bool {
			var batch observationv1.Batch
			return proto.Unmarshal(m.Data, &batch) == nil && slices.ContainsFunc(batch.GetObservations(), func(o *observationv1.Observation) bool {
				return o.GetSession().GetId() == "5"
			})
		}
		w.bus.refuse, w.bus.down = holds, true
		s, next := stream("paris", 3)
		w.run(s)
		letTimePass(20 * time.Second)
		w.bus.set(false)
		letTimePass(20 * time.Second)
		w.stop()
		want := slices.DeleteFunc(upTo(next.Load()), func(id string) bool { return id == "4" || id == "5" || id == "6" })
		if diff := cmp.Diff(want, w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
		marks := w.bus.marks("paris", fleet.KindSession)
		if len(marks) != 1 || !marks[0].GetLost() || !strings.HasPrefix(marks[0].GetBlindReason(), "the bus refused a message: 1 message with 3 observations of ") {
			w.Errorf("told: %v", marks)
		}
		if w.meter.dropped["session refused"] != 3 {
			w.Errorf("dropped: %v", w.meter.dropped)
		}
	})
}

func TestAFullSpoolDropsTheOldestAndTells(t *testing.T) {
	bubble(t, func(w *world) {
		w.size, w.config.MaxBatch = 256<<10, 100
		paris, next := stream("paris", 100)
		w.bus.down = true
		w.run(paris)
		letTimePass(2 * time.Minute)
		w.bus.set(false)
		letTimePass(2 * time.Second)
		w.stop()
		got := w.bus.sessions("paris")
		all := upTo(next.Load())
		lost := len(all) - len(got)
		if lost <= 0 || !slices.Equal(all[lost:], got) {
			w.Fatalf("%d of %d sessions came, and not the newest without a gap", len(got), len(all))
		}
		// Marks that told of earlier losses may be among what was lost later.
		if dropped := w.meter.dropped["session full"]; dropped < lost || dropped > lost+100 {
			w.Errorf("%d sessions are lost, and counted with a few marks: %v", lost, w.meter.dropped)
		}
		marks := w.bus.marks("paris", fleet.KindSession)
		if len(marks) == 0 {
			w.Fatal("nobody is told")
		}
		told := 0
		for _, m := range marks {
			var messages, observations int
			if _, err := fmt.Sscanf(m.GetBlindReason(), "the spool was full: %d messages with %d observations of ", &messages, &observations); err != nil || !m.GetLost() || !m.GetBlind() {
				w.Fatalf("%v: %v", m, err)
			}
			told += observations
		}
		if told == 0 || told > lost {
			w.Errorf("%d are told, %d are lost", told, lost)
		}
		for at, sequences := range w.bus.sequences() {
			if sequences[0] == 1 {
				w.Errorf("%v: the hole cannot be seen: %d", at, sequences)
			}
		}
	})
}

// Marks of many clusters are more than a segment holds. While the bus is away each
// would push out others, and those the next.
func TestMarksOfLossesDoNotPushOutEachOther(t *testing.T) {
	bubble(t, func(w *world) {
		w.size, w.config.MaxBatch = 256<<10, 100
		var clusters []fleet.ClusterID
		for i := range 400 {
			clusters = append(clusters, fleet.ClusterID(fmt.Sprintf("cluster-%03d", i)))
		}
		var made atomic.Int64
		w.bus.down = true
		w.run(polled(func(context.Context) ([]codec.Observation, error) {
			var out []codec.Observation
			for _, cluster := range clusters {
				out = append(out, session(cluster, fmt.Sprint(made.Add(1))))
			}
			return out, nil
		}, clusters...))
		letTimePass(15 * time.Second)
		if dropped := w.meter.lost("session full"); dropped == 0 || dropped > int(made.Load()) {
			w.Errorf("%d of %d sessions were dropped", dropped, made.Load())
		}
		w.bus.set(false)
		letTimePass(10 * time.Second)
		w.stop()
		for _, cluster := range clusters {
			lost := 0
			for _, m := range w.bus.marks(cluster, fleet.KindSession) {
				if m.GetLost() {
					lost++
				}
			}
			if lost != 1 {
				w.Fatalf("%s is told %d times", cluster, lost)
			}
		}
	})
}

func TestWhatMadeRoomIsToldAtTheEnd(t *testing.T) {
	bubble(t, func(w *world) {
		w.size, w.config.MaxBatch = 256<<10, 100
		s, _ := stream("paris", 100)
		w.bus.down = true
		w.run(s)
		letTimePass(2 * time.Minute)
		w.stop()
		w.bus.set(false)
		w.run()
		letTimePass(time.Second)
		w.stop()
		if marks := w.bus.marks("paris", fleet.KindSession); len(marks) != 1 || !marks[0].GetLost() {
			w.Errorf("told: %v", marks)
		}
	})
}

func TestANearlyFullSpoolIsLeftToWhatHappensOnce(t *testing.T) {
	bubble(t, func(w *world) {
		w.size = 256 << 10
		var content atomic.Int64
		inventory := inventories("rome", &content)
		asked := 0
		read := inventory.Source
		inventory.Source = collector.SourceFunc(func(ctx context.Context) ([]codec.Observation, error) {
			asked++
			return read.Poll(ctx)
		})
		sessions, next := stream("paris", 50)
		w.bus.down = true
		w.run(sessions, inventory)
		letTimePass(time.Minute)
		if n := w.log.count("the spool is nearly full"); n != 1 {
			w.Errorf("%d lines tell that the spool is nearly full", n)
		}
		before, sessionsBefore := asked, next.Load()
		letTimePass(time.Minute)
		if asked != before {
			w.Errorf("the inventory was read %d times more", asked-before)
		}
		if next.Load()-sessionsBefore < 50*50 {
			w.Errorf("only %d sessions were read", next.Load()-sessionsBefore)
		}
		w.bus.set(false)
		letTimePass(20 * time.Second)
		if asked == before {
			w.Error("the inventory is not read again")
		}
		w.stop()
		if n := w.log.count("has room again"); n != 1 {
			w.Errorf("%d lines tell that it has room", n)
		}
	})
}

func TestDamageIsToldToEveryCluster(t *testing.T) {
	bubble(t, func(w *world) {
		sessions, next := stream("paris", 20)
		w.bus.down = true
		w.run(sessions)
		letTimePass(10 * time.Second)
		w.stop()
		files, err := filepath.Glob(filepath.Join(w.dir, "*.seg"))
		if err != nil || len(files) != 1 {
			w.Fatalf("%v: %v", files, err)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			w.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(files[0], data, 0o600); err != nil {
			w.Fatal(err)
		}
		w.bus.down = false
		var content atomic.Int64
		w.run(sessions, inventories("rome", &content))
		letTimePass(10 * time.Second)
		w.stop()
		if got, all := len(w.bus.sessions("paris")), int(next.Load()); got >= all || got < all-20 {
			w.Errorf("%d of %d sessions came", got, all)
		}
		for topic, marks := range map[string][]*observationv1.Mark{"paris": w.bus.marks("paris", fleet.KindSession), "rome": w.bus.marks("rome", fleet.KindInventory)} {
			if !slices.ContainsFunc(marks, func(m *observationv1.Mark) bool {
				return m.GetLost() && strings.HasPrefix(m.GetBlindReason(), "the spool's files were damaged")
			}) {
				w.Errorf("%s is told: %v", topic, marks)
			}
		}
		if n := len(w.bus.sequences()); n != 3 {
			w.Errorf("%d counts, want an old and a new one of sessions and one of inventories", n)
		}
	})
}

// Damage is found once. The first thing under a new identity tells of it, so that
// what kills the process behind it does not make it forgotten.
func TestDamageIsToldFirst(t *testing.T) {
	bubble(t, func(w *world) {
		sessions, _ := stream("paris", 20)
		w.bus.down = true
		w.run(sessions)
		letTimePass(10 * time.Second)
		w.stop()
		files, err := filepath.Glob(filepath.Join(w.dir, "*.seg"))
		if err != nil || len(files) != 1 {
			w.Fatalf("%v: %v", files, err)
		}
		info, err := os.Stat(files[0])
		if err != nil {
			w.Fatal(err)
		}
		// Zeros behind the last record, as after a power failure.
		if err := os.Truncate(files[0], info.Size()+4096); err != nil {
			w.Fatal(err)
		}
		w.run(sessions)
		letTimePass(5 * time.Second)
		w.bus.set(false)
		letTimePass(10 * time.Second)
		w.stop()
		batches := w.bus.published()
		for _, b := range batches {
			if b.GetIncarnation() == batches[0].GetIncarnation() {
				continue
			}
			if m := b.GetObservations()[0].GetMark(); !m.GetLost() {
				w.Errorf("the new count begins with %v", b.GetObservations()[0])
			}
			return
		}
		w.Error("there is no new count")
	})
}

func TestADiskThatFailsIsNotTakenForTheBus(t *testing.T) {
	bubble(t, func(w *world) {
		w.size, w.config.MaxBatch = 256<<10, 100
		sessions, next := stream("paris", 100)
		w.bus.down = true
		w.run(sessions)
		letTimePass(12 * time.Second)
		files, err := filepath.Glob(filepath.Join(w.dir, "*.seg"))
		if err != nil || len(files) < 3 {
			w.Fatalf("%v: %v", files, err)
		}
		aside := filepath.Join(w.TempDir(), "aside")
		if err := os.Rename(files[1], aside); err != nil {
			w.Fatal(err)
		}
		w.bus.set(false)
		letTimePass(20 * time.Second)
		if n := w.log.count("the spool's disk fails"); n != 1 {
			w.Errorf("%d lines tell of the disk", n)
		}
		if n := w.log.count("the bus does not take observations"); n != 1 {
			w.Errorf("%d lines tell of the bus, which was down once", n)
		}
		if err := os.Rename(aside, files[1]); err != nil {
			w.Fatal(err)
		}
		letTimePass(10 * time.Second)
		w.stop()
		if diff := cmp.Diff(upTo(next.Load()), w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
	})
}

func TestClocksMayStep(t *testing.T) {
	bubble(t, func(w *world) {
		var step atomic.Int64
		w.now = func() time.Time { return time.Now().Round(0).Add(time.Duration(step.Load())) }
		var content atomic.Int64
		inventory := inventories("rome", &content)
		read := inventory.Source
		var back atomic.Bool
		inventory.Source = collector.SourceFunc(func(ctx context.Context) ([]codec.Observation, error) {
			if back.CompareAndSwap(true, false) {
				step.Add(-int64(time.Hour))
			}
			out, err := read.Poll(ctx)
			out[0].Inventory.ObservedAt = w.now()
			return out, err
		})
		sessions, next := stream("paris", 1)
		w.run(sessions, inventory)
		letTimePass(10 * time.Second)
		for _, d := range []time.Duration{10 * time.Minute, -20 * time.Minute, 24 * time.Hour} {
			step.Add(int64(d))
			letTimePass(10 * time.Second)
		}
		back.Store(true)
		before := len(w.bus.marks("rome", fleet.KindInventory))
		letTimePass(3 * time.Second)
		marks := w.bus.marks("rome", fleet.KindInventory)
		if len(marks) == before {
			w.Fatal("no look was taken")
		}
		for _, m := range marks[before:] {
			if m.GetCompleteUntil().AsTime().After(w.now()) {
				w.Errorf("a mark promises up to %s, and it is %s", m.GetCompleteUntil().AsTime(), w.now())
			}
		}
		w.stop()
		if diff := cmp.Diff(upTo(next.Load()), w.bus.sessions("paris")); diff != "" {
			w.Error(diff)
		}
		w.bus.unbroken(w.T)
		// Once at the start, once after each step ahead, and at each of 10 and 3 looks
		// after a step back, whose clock has not caught up.
		if n := len(w.bus.versions("rome")); n != 1+1+10+1+3 {
			w.Errorf("%d inventories were sent, want 16", n)
		}
	})
}

// After a clock was put back, an inventory that changed is as old as one that marks
// have confirmed. It must be sent again once its time is newer than that.
func TestAChangeIsSentUntilTheClockHasCaughtUp(t *testing.T) {
	bubble(t, func(w *world) {
		var step, content atomic.Int64
		now := func() time.Time { return time.Now().Round(0).Add(time.Duration(step.Load())) }
		w.now = now
		inventory := collector.Inventory("rome", time.Second, func(context.Context) (fleet.Inventory, error) {
			return fleet.Inventory{Cluster: "rome", ObservedAt: now(), Instances: []fleet.Instance{{ID: "gateway", Version: fmt.Sprint(content.Load())}}}, nil
		})
		inventory.Jitter = 0
		w.run(inventory)
		letTimePass(10 * time.Second)
		step.Store(-int64(time.Minute))
		content.Store(1)
		letTimePass(2 * time.Minute)
		w.stop()
		// What a reader believes: the newest inventory, confirmed by marks up to then.
		var believed string
		var known time.Time
		sent := 0
		for _, o := range w.bus.observations("rome", fleet.KindInventory) {
			if i := o.GetInventory(); i != nil {
				sent++
				if at := o.GetObservedAt().AsTime(); !at.Before(known) {
					believed, known = i.GetInstances()[0].GetVersion(), at
				}
			}
			if until := o.GetMark().GetCompleteUntil(); until != nil && until.AsTime().After(known) {
				known = until.AsTime()
			}
		}
		if believed != "1" {
			w.Errorf("what is believed is %s, and what runs is 1", believed)
		}
		if sent < 60 || sent > 63 {
			w.Errorf("%d were sent, want one a second for a minute and then none", sent)
		}
	})
}

func TestSessionsAreShownBeside(t *testing.T) {
	t.Parallel()
	failing := true
	var shown []fleet.SessionID
	s := collector.Sessions([]fleet.ClusterID{"paris", "rome"}, time.Second, func(context.Context) ([]fleet.Session, []fleet.Mark, error) {
		if failing {
			return nil, nil, errors.New("down")
		}
		return []fleet.Session{{ID: "a", Cluster: "paris"}, {ID: "b", Cluster: "rome"}}, []fleet.Mark{{Cluster: "paris"}}, nil
	}, func(sessions []fleet.Session) {
		for _, s := range sessions {
			shown = append(shown, s.ID)
		}
	})
	if _, err := s.Source.Poll(t.Context()); err == nil || err.Error() != "reading sessions: down" {
		t.Errorf("a reader that fails: %v", err)
	}
	failing = false
	got, err := s.Source.Poll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []codec.Observation{
		{Session: &fleet.Session{ID: "a", Cluster: "paris"}}, {Session: &fleet.Session{ID: "b", Cluster: "rome"}},
		{Mark: &fleet.Mark{Cluster: "paris", About: fleet.KindSession}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(shown, []fleet.SessionID{"a", "b"}) {
		t.Errorf("shown: %v", shown)
	}
}

func TestSourcesSayWhatTheyRead(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	for want, s := range map[string]collector.Schedule{
		"reading the inventory of paris: down": collector.Inventory("paris", time.Minute, func(context.Context) (fleet.Inventory, error) { return fleet.Inventory{}, down }),
		"reading the package of paris: down":   collector.Package("paris", time.Minute, func(context.Context) (fleet.Package, error) { return fleet.Package{}, down }),
		"reading registrations: down":          collector.Registrations(nil, time.Minute, func(context.Context) ([]fleet.Registration, error) { return nil, down }),
		"reading probes: down":                 collector.Checks(fleet.KindProbe, "probes", nil, time.Minute, func(context.Context) ([]fleet.Check, error) { return nil, down }),
	} {
		if got, err := s.Source.Poll(t.Context()); err == nil || err.Error() != want || !errors.Is(err, down) || got != nil {
			t.Errorf("%v with %v, want %q alone", err, got, want)
		}
		spread := 10 * time.Second
		if s.Kind == fleet.KindProbe {
			spread = time.Minute
		}
		if s.Jitter != spread {
			t.Errorf("%s: the first poll is spread over %s, want %s", want, s.Jitter, spread)
		}
	}
}
