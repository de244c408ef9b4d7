package natsbus_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

func TestPositionSurvivesARestartOfTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, 0)
	b := newWorld(t, natsbus.Options{InProcess: s}, 0).withBlobs(t)
	publish(t, b.Bus, "log.a", "1", "2")
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
	stop := consume(t, b.Bus, worker(time.Minute), handle)
	next(t, "1", seen)
	next(t, "2", seen)
	expect(t, "end", stop(), nil)
	b.Close()
	stopServer(s)

	b = newWorld(t, natsbus.Options{InProcess: startServer(t, dir, 0)}, 0)
	publish(t, b.Bus, "log.a", "3")
	consume(t, b.Bus, worker(time.Minute), handle)
	expect(t, "after the restart", next(t, "3", seen), "3/3")
	expect(t, "stream", load(t, b.Bus, stream, "log.>"), "1 2 3")
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
	b := newWorld(t, natsbus.Options{URL: s.ClientURL()}, 0)
	seen := make(chan string, 100)
	stop := consume(t, b.Bus, worker(100*time.Millisecond), func(_ context.Context, d bus.Delivery) error { seen <- string(d.Data); return nil })
	publish(t, b.Bus, "log.a", "1")
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
	b := newWorld(t, natsbus.Options{URL: s.ClientURL()}, 0)
	seen := make(chan bool, 1)
	stop := consume(t, b.Bus, worker(time.Minute), func(context.Context, bus.Delivery) error { seen <- true; return nil })
	publish(t, b.Bus, "log.a", "1")
	next(t, "the message", seen)
	stopServer(s)
	expect(t, "end", stop(), nil)
}

// persist publishes until the bus takes it.
func persist(t *testing.T, b *natsbus.Bus, m bus.Message) {
	t.Helper()
	ctx := limited(t)
	for {
		_, err := b.Publish(ctx, m)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// TestBatchesAndWatchesGoOnAfterARestartOfTheServers restarts the server while a
// batch is in hand and nothing is to be seen by a watch.
func TestBatchesAndWatchesGoOnAfterARestartOfTheServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, natsserver.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	w := newWorld(t, natsbus.Options{URL: s.ClientURL()}, 0)
	if err := w.PutKey(limited(t), bucket, "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	values, stopWatch := watch(t, w, "a")
	values.await(t, "what is there", map[string]string{"a": "1"})
	const n = 100
	fill(t, w.Bus, "log.a", 0, n)
	var took journal
	c := worker(shortly)
	c.Batch = 10
	began, release := make(chan bool, 1), make(chan struct{})
	stop := consumeBatch(t, w.Bus, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
		if took.len() == 0 {
			began <- true
			<-release
		}
		took.take(batch)
		return len(batch), nil
	})
	next(t, "the first batch", began)
	stopServer(s)
	startServer(t, dir, port)
	close(release)
	for i := range n {
		persist(t, w.Bus, bus.Message{Subject: "log.a", ID: fmt.Sprint(n + i), Data: fmt.Append(nil, n+i)})
	}
	if err := w.PutKey(limited(t), bucket, "a", []byte("2")); err != nil {
		t.Fatal(err)
	}
	values.await(t, "the newest value", map[string]string{"a": "2"})
	eventually(t, "the last message", func() bool {
		took.mu.Lock()
		defer took.mu.Unlock()
		return len(took.took) > 0 && took.took[len(took.took)-1] == 2*n-1
	})
	expect(t, "end", stop(), nil)
	expect(t, "end of the watch", stopWatch(), nil)
	took.inOrder(t, 2*n, true)
}

// TestAWatchTellsWhatWasWrittenWhileItWasAway writes to the server while the watch
// cannot reach it.
func TestAWatchTellsWhatWasWrittenWhileItWasAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, natsserver.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	w := newWorld(t, natsbus.Options{URL: s.ClientURL()}, 0)
	put := func(b *natsbus.Bus, key, value string) {
		t.Helper()
		if err := b.PutKey(limited(t), bucket, key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	put(w.Bus, "a", "1")
	put(w.Bus, "b", "1")
	values, stop := watch(t, w, ">")
	values.await(t, "what is there", map[string]string{"a": "1", "b": "1"})
	stopServer(s)

	alone := startServer(t, dir, 0)
	other := newWorld(t, natsbus.Options{InProcess: alone}, 0)
	put(other.Bus, "a", "2")
	put(other.Bus, "a", "3")
	if err := other.DeleteKey(limited(t), bucket, "b"); err != nil {
		t.Fatal(err)
	}
	other.Close()
	stopServer(alone)

	startServer(t, dir, port)
	values.await(t, "what was written meanwhile", map[string]string{"a": "3"})
	expect(t, "end", stop(), nil)
}

// TestBatchesBeginAnewInAStreamOfTheSameName replaces the stream below a position.
func TestBatchesBeginAnewInAStreamOfTheSameName(t *testing.T) {
	t.Parallel()
	w := inProcess(t)(t)
	fill(t, w.Bus, "log.a", 0, 10)
	run := func() (seen chan string, stop func() error) {
		seen = make(chan string, 100)
		return seen, consumeBatch(t, w.Bus, worker(shortly), func(_ context.Context, batch []bus.Delivery) (int, error) {
			for _, d := range batch {
				seen <- string(d.Data)
			}
			return len(batch), nil
		})
	}
	seen, stop := run()
	for range 10 {
		next(t, "a message", seen)
	}
	expect(t, "end", stop(), nil)
	if err := w.js.DeleteStream(limited(t), stream); err != nil {
		t.Fatal(err)
	}
	streams, _ := w.wanted()
	if err := w.Ensure(limited(t), streams, nil, nil); err != nil {
		t.Fatal(err)
	}
	publish(t, w.Bus, "log.a", "new")
	seen, stop = run()
	expect(t, "the first of the new stream", next(t, "a message", seen), "new")
	publish(t, w.Bus, "log.a", "newer")
	expect(t, "the next", next(t, "a message", seen), "newer")
	expect(t, "end", stop(), nil)
}
