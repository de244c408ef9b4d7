package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/bustest"
)

// TestNothingIsLostWhenALeaderGoes takes the server away that leads the stream,
// while messages are appended, consumed one by one and in batches, and keys are
// watched. Then it comes back.
func TestNothingIsLostWhenALeaderGoes(t *testing.T) {
	t.Parallel()
	streams, keyValues := (&world{}).wanted()
	cluster := bustest.StartCluster(t, streams, keyValues, nil)
	b := cluster.Open(t)
	w := &world{Bus: b, replicas: 3}

	const n, third = 300, 100
	single := make(chan int, 10*n)
	stopSingle := consume(t, cluster.Open(t), bus.Consumer{Stream: stream, Durable: "single", AckWait: 2 * time.Second}, func(_ context.Context, d bus.Delivery) error {
		at, err := strconv.Atoi(string(d.Data))
		single <- at
		return err
	})
	var took journal
	c := worker(2 * time.Second)
	c.Batch = 7
	stopBatches := consumeBatch(t, cluster.Open(t), c, func(_ context.Context, batch []bus.Delivery) (int, error) {
		took.take(batch)
		return len(batch), nil
	})
	values, stopWatch := watch(t, w, "a")

	restart := func() {}
	for i := range n {
		switch i {
		case third:
			restart = cluster.StopLeader(t, stream)
		case 2 * third:
			restart()
		}
		appendNext(t, w, i)
	}
	ctx := limited(t)
	for err := errors.New("not yet"); err != nil; {
		if err = w.PutKey(ctx, bucket, "a", []byte("done")); ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	values.await(t, "the newest value", map[string]string{"a": "done"})

	at := 0
	if err := w.Load(limited(t), stream, "log.a", func(m bus.Message) error {
		if string(m.Data) != strconv.Itoa(at) {
			return fmt.Errorf("message %d is %s", at, m.Data)
		}
		at++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "messages", at, n)
	for want := 0; want < n; {
		switch got := next(t, "a single message", single); {
		case got == want:
			want++
		case got > want:
			t.Fatalf("%d came before %d", got, want)
		}
	}
	eventually(t, "the last batch", func() bool {
		took.mu.Lock()
		defer took.mu.Unlock()
		return len(took.took) > 0 && took.took[len(took.took)-1] == n-1
	})
	expect(t, "end", stopSingle(), nil)
	expect(t, "end of the batches", stopBatches(), nil)
	expect(t, "end of the watch", stopWatch(), nil)
	took.inOrder(t, n, true)
}

// appendNext appends a number as the services do: load, decide, append, and all
// over again when that fails.
func appendNext(t *testing.T, w *world, number int) {
	t.Helper()
	ctx := limited(t)
	for {
		there, last := 0, uint64(0)
		err := w.Load(ctx, stream, "log.a", func(m bus.Message) error { there, last = there+1, m.Sequence; return nil })
		if err == nil && there > number {
			// An attempt before was stored though it was not acknowledged.
			return
		}
		if err == nil {
			_, err = w.Append(ctx, text("log.a", strconv.Itoa(number)), last)
		}
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}
