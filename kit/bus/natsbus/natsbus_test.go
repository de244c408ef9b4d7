package natsbus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

func TestMain(m *testing.M) {
	// nats.go 1.55 starts this goroutine for every blob that is stored; one that
	// gets its turn only after the store was done waits for ever. It is small.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = 30 * time.Second

const (
	stream     = "LOG"
	letters    = "LETTERS"
	deadLetter = "letters.worker"
	bucket     = "control"
	blobs      = "blobs"
)

// startServer runs a real server on a folder. Port 0 means no socket.
func startServer(t *testing.T, dir string, port int) *natsserver.Server {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "test", JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true,
		DontListen: port == 0, Host: "127.0.0.1", Port: port,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { stopServer(s) })
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server did not get ready")
	}
	return s
}

func stopServer(s *natsserver.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

func open(t *testing.T, opts natsbus.Options) *natsbus.Bus {
	t.Helper()
	opts.Name = t.Name()
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	b, err := natsbus.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	err = b.Ensure(limited(t),
		[]bus.Stream{{Name: stream, Subjects: []string{"log.>"}}, {Name: letters, Subjects: []string{"letters.>"}, MaxAge: time.Hour}},
		[]bus.Bucket{{Name: bucket}}, []bus.Bucket{{Name: blobs}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fresh is a bus on a server of its own, with a client that looks past it.
func fresh(t *testing.T) (*natsbus.Bus, jetstream.JetStream) {
	t.Helper()
	s := startServer(t, t.TempDir(), 0)
	b := open(t, natsbus.Options{InProcess: s})
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return b, js
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func publish(t *testing.T, b *natsbus.Bus, subject string, texts ...string) (last uint64) {
	t.Helper()
	for _, text := range texts {
		var err error
		if last, err = b.Publish(limited(t), bus.Message{Subject: subject, Type: "test.Text", Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// load joins what a stream holds on a subject.
func load(t *testing.T, b *natsbus.Bus, stream, subject string) string {
	t.Helper()
	var texts []string
	if err := b.Load(limited(t), stream, subject, func(m bus.Message) error {
		texts = append(texts, string(m.Data))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(texts, " ")
}

func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// next waits for one value.
func next[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

func worker(ackWait time.Duration) bus.Consumer {
	return bus.Consumer{Stream: stream, Durable: "worker", AckWait: ackWait, DeadLetter: deadLetter}
}

// consume runs a consumer; the returned function ends it and gives its error.
func consume(t *testing.T, b *natsbus.Bus, c bus.Consumer, handle bus.Handler) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Consume(ctx, c, handle) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return next(t, "the end of the consumer", done)
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// settled waits until the consumer has nothing left to deliver or to hear of.
func settled(t *testing.T, js jetstream.JetStream, durable string) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		cons, err := js.Consumer(limited(t), stream, durable)
		if err == nil {
			if info := cons.CachedInfo(); info.NumPending == 0 && info.NumAckPending == 0 {
				return
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("consumer %s is not settled (%v)", durable, err)
		}
	}
}

func TestLoadGivesMatchingMessagesInOrder(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	publish(t, b, "log.rollout.a", "a1")
	publish(t, b, "log.rollout.b", "b1")
	publish(t, b, "log.gate.a", "g1")
	publish(t, b, "log.rollout.a", "a2")

	for subject, want := range map[string]string{
		"log.>":         "a1 b1 g1 a2",
		"log.rollout.a": "a1 a2",
		"log.rollout.>": "a1 b1 a2",
		"log.*.a":       "a1 g1 a2",
		"log.nobody":    "",
	} {
		expect(t, subject, load(t, b, stream, subject), want)
	}
	before := time.Now().Add(-time.Hour)
	if err := b.Load(limited(t), stream, "log.gate.a", func(m bus.Message) error {
		expect(t, "subject", m.Subject, "log.gate.a")
		expect(t, "type", m.Type, "test.Text")
		expect(t, "sequence", m.Sequence, 3)
		expect(t, "a sensible time", m.Time.After(before), true)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestLoadEndsWithItsCallersError(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	publish(t, b, "log.a", "1", "2")
	enough, calls := errors.New("enough"), 0
	err := b.Load(limited(t), stream, "log.>", func(bus.Message) error { calls++; return enough })
	expect(t, "error", errors.Is(err, enough), true)
	expect(t, "calls", calls, 1)
}

func TestLoadOfAnUnknownStreamNamesIt(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	err := b.Load(limited(t), "NOWHERE", ">", func(bus.Message) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "NOWHERE") {
		t.Errorf("got %v", err)
	}
}

func TestLoadStepsOverDeletedMessages(t *testing.T) {
	t.Parallel()
	b, js := fresh(t)
	publish(t, b, "log.a", "1", "2", "3", "4")
	publish(t, b, "log.b", "5")
	s, err := js.Stream(limited(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	for _, sequence := range []uint64{1, 3} {
		if err := s.DeleteMsg(limited(t), sequence); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "all", load(t, b, stream, "log.>"), "2 4 5")
	expect(t, "one subject", load(t, b, stream, "log.a"), "2 4")
	if err := s.DeleteMsg(limited(t), 4); err != nil {
		t.Fatal(err)
	}
	expect(t, "without the last of the subject", load(t, b, stream, "log.a"), "2")
}

func TestPublishDropsARepeatedID(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	m := bus.Message{Subject: "log.a", ID: "once", Data: []byte("1")}
	first, err := b.Publish(limited(t), m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Publish(limited(t), m)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "sequence of the repeat", again, first)
	m.ID = "twice"
	if _, err := b.Publish(limited(t), m); err != nil {
		t.Fatal(err)
	}
	expect(t, "stream", load(t, b, stream, "log.>"), "1 1")
}

func TestPublishOutsideAnyStreamFails(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	_, err := b.Publish(limited(t), bus.Message{Subject: "elsewhere.a", Type: "test.Text"})
	if err == nil || !strings.Contains(err.Error(), "test.Text on elsewhere.a") {
		t.Errorf("got %v", err)
	}
}

func TestAppendExpectsTheLastSequenceOfItsSubject(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	message := func(subject string) bus.Message {
		return bus.Message{Subject: subject, Type: "test.Text", Data: []byte("x")}
	}
	appended := func(subject string, expected uint64) uint64 {
		t.Helper()
		sequence, err := b.Append(limited(t), message(subject), expected)
		if err != nil {
			t.Fatal(err)
		}
		return sequence
	}
	conflict := func(subject string, expected uint64) {
		t.Helper()
		if _, err := b.Append(limited(t), message(subject), expected); !errors.Is(err, bus.ErrConflict) {
			t.Errorf("append on %s after %d: got %v, want a conflict", subject, expected, err)
		}
	}
	one := appended("log.a", 0)
	other := appended("log.b", 0)
	conflict("log.a", 0)
	two := appended("log.a", one)
	conflict("log.a", one)
	conflict("log.a", two+7)
	conflict("log.b", two)
	conflict("log.c", 1)
	appended("log.b", other)
	expect(t, "messages", load(t, b, stream, "log.>"), "x x x x")
}

func TestAppendLetsExactlyOneWinEachTurn(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	const writers, turns = 8, 20
	var last uint64
	for turn := range turns {
		var running sync.WaitGroup
		var won atomic.Int32
		var sequence atomic.Uint64
		for writer := range writers {
			running.Go(func() {
				s, err := b.Append(limited(t), bus.Message{Subject: "log.a", Data: fmt.Append(nil, writer)}, last)
				switch {
				case err == nil:
					won.Add(1)
					sequence.Store(s)
				case !errors.Is(err, bus.ErrConflict):
					t.Errorf("turn %d: %v", turn, err)
				}
			})
		}
		running.Wait()
		expect(t, fmt.Sprintf("winners of turn %d", turn), won.Load(), 1)
		last = sequence.Load()
	}
	expect(t, "messages", len(strings.Fields(load(t, b, stream, "log.a"))), turns)
}

func TestConsumeDeliversInOrderAndOnce(t *testing.T) {
	t.Parallel()
	b, js := fresh(t)
	publish(t, b, "log.a", "1", "2")
	publish(t, b, "log.b", "other")
	seen := make(chan bus.Delivery, 10)
	c := worker(time.Minute)
	c.Filters = []string{"log.a"}
	stop := consume(t, b, c, func(_ context.Context, d bus.Delivery) error { seen <- d; return nil })
	publish(t, b, "log.a", "3")
	for i, want := range []string{"1", "2", "3"} {
		d := next(t, want, seen)
		expect(t, "data", string(d.Data), want)
		expect(t, "subject", d.Subject, "log.a")
		expect(t, "type", d.Type, "test.Text")
		expect(t, "deliveries", d.Deliveries, 1)
		expect(t, "sequence", d.Sequence, []uint64{1, 2, 4}[i])
		expect(t, "time", d.Time.IsZero(), false)
	}
	settled(t, js, "worker")
	expect(t, "end", stop(), nil)
	expect(t, "more", len(seen), 0)
}

func TestConsumeRepeatsAFailedMessageBeforeTheNext(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	publish(t, b, "log.a", "1", "2", "3")
	type seen struct {
		text       string
		deliveries int
		at         time.Time
	}
	came := make(chan seen, 10)
	consume(t, b, worker(time.Minute), func(_ context.Context, d bus.Delivery) error {
		came <- seen{string(d.Data), d.Deliveries, time.Now()}
		if string(d.Data) == "2" && d.Deliveries < 3 {
			return errors.New("not now")
		}
		return nil
	})
	var order []string
	var before time.Time
	for range 5 {
		s := next(t, "a delivery", came)
		order = append(order, fmt.Sprintf("%s/%d", s.text, s.deliveries))
		if wait := time.Duration(s.deliveries-1) * 240 * time.Millisecond; s.deliveries > 1 && s.at.Sub(before) < wait {
			t.Errorf("delivery %d came after %s, want at least %s", s.deliveries, s.at.Sub(before), wait)
		}
		before = s.at
	}
	expect(t, "order", strings.Join(order, " "), "1/1 2/1 2/2 2/3 3/1")
}

func TestConsumeMovesAPermanentFailureToTheDeadLetters(t *testing.T) {
	t.Parallel()
	b, js := fresh(t)
	publish(t, b, "log.a", "bad", "good")
	seen := make(chan bus.Delivery, 10)
	consume(t, b, worker(time.Minute), func(_ context.Context, d bus.Delivery) error {
		seen <- d
		if string(d.Data) == "bad" {
			return fmt.Errorf("reading: %w", bus.Permanent(errors.New("no such field\r\nNats-Rollup: all")))
		}
		return nil
	})
	expect(t, "first", string(next(t, "bad", seen).Data), "bad")
	expect(t, "second", string(next(t, "good", seen).Data), "good")
	settled(t, js, "worker")
	expect(t, "more deliveries", len(seen), 0)

	s, err := js.Stream(limited(t), letters)
	if err != nil {
		t.Fatal(err)
	}
	letter, err := s.GetLastMsgForSubject(limited(t), deadLetter)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "data", string(letter.Data), "bad")
	expect(t, "type", letter.Header.Get("Lockstep-Type"), "test.Text")
	expect(t, "origin", letter.Header.Get("Lockstep-Origin"), "LOG/1")
	expect(t, "reason", strings.HasPrefix(letter.Header.Get("Lockstep-Reason"), "reading: no such field"), true)
	expect(t, "a header of the reason's own", letter.Header.Get("Nats-Rollup"), "")
	expect(t, "letters", load(t, b, letters, ">"), "bad")
}

func TestConsumeKeepsAMessageWhoseDeadLetterCannotBeWritten(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	publish(t, b, "log.a", "bad")
	seen := make(chan int, 10)
	c := worker(time.Minute)
	c.DeadLetter = "nowhere.worker"
	consume(t, b, c, func(_ context.Context, d bus.Delivery) error {
		seen <- d.Deliveries
		if d.Deliveries == 1 {
			return bus.Permanent(errors.New("no"))
		}
		return nil
	})
	expect(t, "first", next(t, "the message", seen), 1)
	expect(t, "again", next(t, "the message again", seen), 2)
}

func TestConsumeBringsAnUnansweredMessageAgainAtOnceAfterAStop(t *testing.T) {
	t.Parallel()
	b, js := fresh(t)
	publish(t, b, "log.a", "1", "2", "3")
	began := make(chan string, 1)
	stop := consume(t, b, worker(time.Hour), func(ctx context.Context, d bus.Delivery) error {
		if string(d.Data) == "1" {
			return nil
		}
		began <- string(d.Data)
		<-ctx.Done()
		return ctx.Err()
	})
	expect(t, "in hand", next(t, "the second", began), "2")
	expect(t, "end", stop(), nil)

	seen := make(chan string, 10)
	consume(t, b, worker(time.Hour), func(_ context.Context, d bus.Delivery) error { seen <- string(d.Data); return nil })
	expect(t, "again", next(t, "the second again", seen), "2")
	expect(t, "then", next(t, "the third", seen), "3")
	settled(t, js, "worker")
	expect(t, "more", len(seen), 0)
}

func TestConsumeBringsAMessageAgainWhenItsConsumerDied(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), 0)
	mortal := open(t, natsbus.Options{InProcess: s})
	publish(t, mortal, "log.a", "1")
	began := make(chan bool, 1)
	release := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- mortal.Consume(t.Context(), worker(300*time.Millisecond), func(context.Context, bus.Delivery) error {
			began <- true
			<-release
			return nil
		})
	}()
	next(t, "the message", began)
	// Without its connection a consumer is as good as dead.
	mortal.Close()
	survivor := open(t, natsbus.Options{InProcess: s})
	seen := make(chan int, 1)
	consume(t, survivor, worker(300*time.Millisecond), func(_ context.Context, d bus.Delivery) error { seen <- d.Deliveries; return nil })
	expect(t, "deliveries", next(t, "the message again", seen), 2)
	close(release)
	if err := next(t, "the end of the dead consumer", done); err == nil || !strings.Contains(err.Error(), "worker") {
		t.Errorf("a consumer whose connection was closed returned %v", err)
	}
}

func TestConsumeDoesNotRepeatWhatIsBeingHandled(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), 0)
	const ackWait = 300 * time.Millisecond
	seen := make(chan string, 10)
	began := make(chan bool, 1)
	slow := open(t, natsbus.Options{InProcess: s})
	publish(t, slow, "log.a", "1", "2", "3")
	stopSlow := consume(t, slow, worker(ackWait), func(_ context.Context, d bus.Delivery) error {
		began <- true
		<-time.After(4 * ackWait)
		seen <- fmt.Sprintf("slow %s/%d", d.Data, d.Deliveries)
		return nil
	})
	next(t, "the first message", began)
	// A second process is on the same position and would take it up.
	idle := open(t, natsbus.Options{InProcess: s})
	consume(t, idle, worker(ackWait), func(_ context.Context, d bus.Delivery) error {
		seen <- fmt.Sprintf("idle %s/%d", d.Data, d.Deliveries)
		return nil
	})
	expect(t, "first", next(t, "1", seen), "slow 1/1")
	expect(t, "end", stopSlow(), nil)
}

func TestConsumeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	t.Run("while idle", func(t *testing.T) {
		stop := consume(t, b, worker(time.Minute), func(context.Context, bus.Delivery) error { return nil })
		expect(t, "end", stop(), nil)
	})
	t.Run("before it began", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		expect(t, "end", b.Consume(ctx, worker(time.Minute), func(context.Context, bus.Delivery) error { return nil }), nil)
	})
}

func TestConsumeOfAnUnknownStreamNamesIt(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	c := worker(time.Minute)
	c.Stream = "NOWHERE"
	err := b.Consume(limited(t), c, func(context.Context, bus.Delivery) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "worker of NOWHERE") {
		t.Errorf("got %v", err)
	}
}

func TestConsumeBeginsAnewWhenItsPositionWasDeleted(t *testing.T) {
	t.Parallel()
	for name, busy := range map[string]bool{"while it waits": false, "while it works": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, js := fresh(t)
			publish(t, b, "log.a", "1")
			seen, release := make(chan bool, 10), make(chan struct{})
			stop := consume(t, b, worker(time.Minute), func(context.Context, bus.Delivery) error {
				seen <- true
				<-release
				return nil
			})
			next(t, "the message", seen)
			if !busy {
				close(release)
				settled(t, js, "worker")
			}
			if err := b.DeleteConsumer(limited(t), stream, "worker"); err != nil {
				t.Fatal(err)
			}
			if err := b.DeleteConsumer(limited(t), stream, "worker"); err != nil {
				t.Errorf("deleting it again: %v", err)
			}
			if busy {
				close(release)
			}
			next(t, "the message from the beginning", seen)
			expect(t, "end", stop(), nil)
		})
	}
}

func TestConsumeEndsWhenItsStreamIsGone(t *testing.T) {
	t.Parallel()
	b, js := fresh(t)
	publish(t, b, "log.a", "1")
	seen, done := make(chan bool, 1), make(chan error, 1)
	go func() {
		done <- b.Consume(t.Context(), worker(time.Minute), func(context.Context, bus.Delivery) error { seen <- true; return nil })
	}()
	next(t, "the message", seen)
	if err := js.DeleteStream(limited(t), stream); err != nil {
		t.Fatal(err)
	}
	if err := next(t, "the end", done); err == nil || !strings.Contains(err.Error(), "worker of LOG") {
		t.Errorf("got %v", err)
	}
}

func TestPositionSurvivesARestartOfTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, 0)
	b := open(t, natsbus.Options{InProcess: s})
	publish(t, b, "log.a", "1", "2")
	if err := b.PutKey(limited(t), bucket, "rollout.r1.berlin", []byte("abort")); err != nil {
		t.Fatal(err)
	}
	name, err := b.PutBlob(limited(t), blobs, []byte("package"))
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 10)
	handle := func(_ context.Context, d bus.Delivery) error {
		seen <- fmt.Sprintf("%s/%d", d.Data, d.Sequence)
		return nil
	}
	stop := consume(t, b, worker(time.Minute), handle)
	next(t, "1", seen)
	next(t, "2", seen)
	expect(t, "end", stop(), nil)
	b.Close()
	stopServer(s)

	b = open(t, natsbus.Options{InProcess: startServer(t, dir, 0)})
	publish(t, b, "log.a", "3")
	consume(t, b, worker(time.Minute), handle)
	expect(t, "after the restart", next(t, "3", seen), "3/3")
	expect(t, "stream", load(t, b, stream, "log.>"), "1 2 3")
	value, err := b.GetKey(limited(t), bucket, "rollout.r1.berlin")
	expect(t, "key", string(value), "abort")
	expect(t, "error", err, nil)
	data, err := b.GetBlob(limited(t), blobs, name)
	expect(t, "blob", string(data), "package")
	expect(t, "error", err, nil)
}

func TestConsumeGoesOnAfterARestartOfTheServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, natsserver.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	b := open(t, natsbus.Options{URL: s.ClientURL()})
	seen := make(chan string, 100)
	stop := consume(t, b, worker(100*time.Millisecond), func(_ context.Context, d bus.Delivery) error { seen <- string(d.Data); return nil })
	publish(t, b, "log.a", "1")
	expect(t, "before", next(t, "1", seen), "1")
	stopServer(s)
	startServer(t, dir, port)
	m := bus.Message{Subject: "log.a", ID: "second", Data: []byte("2")}
	for _, err := b.Publish(limited(t), m); err != nil; _, err = b.Publish(limited(t), m) {
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	// The server may have stopped before it heard that the first was handled.
	for got := next(t, "2", seen); got != "2"; got = next(t, "2", seen) {
		expect(t, "before the second", got, "1")
	}
	expect(t, "connected", b.Connected(), true)
	expect(t, "end", stop(), nil)
}

func TestConsumeEndsWithItsContextWhileTheServersAreDown(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), natsserver.RANDOM_PORT)
	b := open(t, natsbus.Options{URL: s.ClientURL()})
	seen := make(chan bool, 1)
	stop := consume(t, b, worker(time.Minute), func(context.Context, bus.Delivery) error { seen <- true; return nil })
	publish(t, b, "log.a", "1")
	next(t, "the message", seen)
	stopServer(s)
	expect(t, "end", stop(), nil)
}

func TestOpenNamesTheAddressThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	_, err := natsbus.Open(natsbus.Options{URL: "nats://127.0.0.1:1", Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "nats://127.0.0.1:1") {
		t.Errorf("got %v", err)
	}
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	b, js := fresh(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 40_000) // several chunks
	put := func(data []byte) string {
		t.Helper()
		name, err := b.PutBlob(limited(t), blobs, data)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	large, empty := put(data), put(nil)
	expect(t, "the name of nothing", empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	s, err := js.Stream(limited(t), "OBJ_"+blobs)
	if err != nil {
		t.Fatal(err)
	}
	size := func() uint64 {
		info, err := s.Info(limited(t))
		if err != nil {
			t.Fatal(err)
		}
		return info.State.LastSeq
	}
	before := size()
	expect(t, "name of a repeat", put(data), large)
	expect(t, "messages after a repeat", size(), before)
	for want, name := range map[string]string{string(data): large, "": empty} {
		got, err := b.GetBlob(limited(t), blobs, name)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "data", string(got) == want, true)
	}

	if _, err := b.GetBlob(limited(t), blobs, strings.Repeat("0", 64)); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a blob that was never stored: %v", err)
	}
}

// damage deletes the chunks of the only blob: all of them, or the one in the
// middle.
func damage(t *testing.T, js jetstream.JetStream, all bool) {
	t.Helper()
	s, err := js.Stream(limited(t), "OBJ_"+blobs)
	if err != nil {
		t.Fatal(err)
	}
	if all {
		err = s.Purge(limited(t), jetstream.WithPurgeSubject("$O."+blobs+".C.>"))
	} else {
		err = s.DeleteMsg(limited(t), 2)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestADamagedBlobIsToldAndMendedByStoringItAgain(t *testing.T) {
	t.Parallel()
	for name, all := range map[string]bool{"a chunk is gone": false, "all chunks are gone": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, js := fresh(t)
			data := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
			name, err := b.PutBlob(limited(t), blobs, data)
			if err != nil {
				t.Fatal(err)
			}
			damage(t, js, all)
			ctx := limited(t)
			if _, err := b.GetBlob(ctx, blobs, name); err == nil || errors.Is(err, bus.ErrNotFound) || !strings.Contains(err.Error(), name) {
				t.Errorf("reading it: %v", err)
			}
			if ctx.Err() != nil {
				t.Fatal("reading it did not end by itself")
			}
			if _, err := b.PutBlob(limited(t), blobs, data); err != nil {
				t.Fatal(err)
			}
			got, err := b.GetBlob(limited(t), blobs, name)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "mended", bytes.Equal(got, data), true)
		})
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	if _, err := b.GetKey(limited(t), bucket, "rollout.r1.berlin"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a key that was never stored: %v", err)
	}
	for _, value := range []string{"run", "abort"} {
		if err := b.PutKey(limited(t), bucket, "rollout.r1.berlin", []byte(value)); err != nil {
			t.Fatal(err)
		}
		got, err := b.GetKey(limited(t), bucket, "rollout.r1.berlin")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "value", string(got), value)
	}
	if err := b.PutKey(limited(t), bucket, "not a key", nil); err == nil || !strings.Contains(err.Error(), "not a key") {
		t.Errorf("a key that cannot be: %v", err)
	}
	_, err := b.GetKey(limited(t), "nowhere", "a")
	if err == nil || errors.Is(err, bus.ErrNotFound) || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a bucket that does not exist: %v", err)
	}
}

func TestEnsureMayBeRepeated(t *testing.T) {
	t.Parallel()
	b, _ := fresh(t)
	publish(t, b, "log.a", "1")
	err := b.Ensure(limited(t), []bus.Stream{{Name: stream, Subjects: []string{"log.>", "more.>"}, MaxAge: time.Minute, MaxBytes: 1 << 20}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	publish(t, b, "more.a", "2")
	expect(t, "stream", load(t, b, stream, ">"), "1 2")
}
