package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// texts joins what a batch holds.
func texts(batch []bus.Delivery) string {
	var out []string
	for _, d := range batch {
		out = append(out, string(d.Data))
	}
	return strings.Join(out, " ")
}

// fill publishes the numbers from..to-1.
func fill(t *testing.T, b *natsbus.Bus, subject string, from, to int) {
	t.Helper()
	for m := numbered(subject, to)[from:]; len(m) > 0; {
		n := min(len(m), bus.MaxBatch)
		if _, err := b.PublishBatch(limited(t), m[:n]); err != nil {
			t.Fatal(err)
		}
		m = m[n:]
	}
}

// journal keeps what handlers took, and finds what is not in order.
type journal struct {
	mu   sync.Mutex
	took []int
}

func (j *journal) take(batch []bus.Delivery) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, d := range batch {
		n, _ := strconv.Atoi(string(d.Data))
		j.took = append(j.took, n)
	}
}

func (j *journal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.took)
}

// inOrder checks that 0..n-1 were taken in order; where a process died, it may go
// back, but never leave one out.
func (j *journal) inOrder(t *testing.T, n int, repeats bool) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	highest := -1
	for i, got := range j.took {
		switch {
		case got == highest+1:
			highest = got
		case repeats && got <= highest && got <= j.took[i-1]+1:
		default:
			t.Fatalf("%d came after %d with %d the highest", got, j.took[max(i-1, 0)], highest)
		}
	}
	expect(t, "the last", highest, n-1)
}

func testBatchesBringEverythingInOrderAndOnce(t *testing.T, w *world) {
	const n = 2500
	fill(t, w.Bus, "log.a", 0, n/2)
	publish(t, w.Bus, "log.b", "other")
	c := worker(time.Minute)
	c.Filters = []string{"log.a"}
	var took journal
	stop := consumeBatch(t, w.Bus, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
		for _, d := range batch {
			if d.Subject != "log.a" || d.Type != "test.Text" || d.Deliveries != 1 || d.Time.IsZero() || d.SentAt.IsZero() {
				t.Errorf("%+v", d)
			}
		}
		took.take(batch)
		return len(batch), nil
	})
	fill(t, w.Bus, "log.a", n/2, n)
	eventually(t, "all taken", func() bool { return took.len() >= n })
	expect(t, "end", stop(), nil)
	took.inOrder(t, n, false)
}

func testABatchKeepsToItsLimits(t *testing.T, w *world) {
	messages := numbered("log.a", 100)
	for i := range messages[50:] {
		messages[50+i].Data = make([]byte, 1000)
	}
	if _, err := w.PublishBatch(limited(t), messages); err != nil {
		t.Fatal(err)
	}
	c := worker(time.Minute)
	c.Batch, c.BatchBytes = 20, 5000
	sizes, total, widest := make(chan int, 200), 0, 0
	stop := consumeBatch(t, w.Bus, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
		bytes := 0
		for _, d := range batch[:len(batch)-1] {
			bytes += len(d.Data)
		}
		if len(batch) > 20 || bytes >= 5000 {
			t.Errorf("a batch of %d with %d bytes before the last", len(batch), bytes)
		}
		sizes <- len(batch)
		return len(batch), nil
	})
	for total < 100 {
		size := next(t, "a batch", sizes)
		total, widest = total+size, max(widest, size)
	}
	expect(t, "end", stop(), nil)
	expect(t, "messages", total, 100)
	expect(t, "there are batches at all", widest > 1, true)
}

func testABatchRepeatsFromTheMessageThatFailed(t *testing.T, w *world) {
	fill(t, w.Bus, "log.a", 0, 5)
	type call struct {
		texts      string
		deliveries int
		at         time.Time
	}
	calls := make(chan call, 20)
	tries, gathered := 0, ""
	stop := consumeBatch(t, w.Bus, worker(time.Minute), func(_ context.Context, batch []bus.Delivery) (int, error) {
		first, _ := strconv.Atoi(string(batch[0].Data))
		calls <- call{texts(batch), batch[0].Deliveries, time.Now()}
		handled := 0
		for handled < len(batch) {
			if n := first + handled; n == 2 && tries < 3 {
				if tries++; handled == 0 || tries > 1 {
					return handled, errors.New("not now")
				}
				// The rest comes again at once.
				tries = 1
				return handled, nil
			}
			gathered += string(batch[handled].Data)
			handled++
		}
		return handled, nil
	})
	var before call
	waits := 0
	eventually(t, "all handled", func() bool {
		select {
		case c := <-calls:
			if strings.HasPrefix(c.texts, "2") && strings.HasPrefix(before.texts, "2") {
				expect(t, "deliveries", c.deliveries, before.deliveries+1)
				if c.at.Sub(before.at) < 240*time.Millisecond {
					t.Errorf("it came again after %s", c.at.Sub(before.at))
				}
				waits++
			}
			before = c
		default:
		}
		cons, err := w.GetEntry(limited(t), bus.Positions, "LOG.worker")
		return err == nil && strings.Contains(string(cons.Value), `"sequence":5`)
	})
	expect(t, "end", stop(), nil)
	expect(t, "handled", gathered, "01234")
	expect(t, "there were waits", waits > 0, true)
}

func testABatchGoesOnBehindAMessageGivenUp(t *testing.T, w *world) {
	fill(t, w.Bus, "log.a", 0, 6)
	var took journal
	stop := consumeBatch(t, w.Bus, worker(time.Minute), func(_ context.Context, batch []bus.Delivery) (int, error) {
		for i, d := range batch {
			if d.Sequence == 1 || d.Sequence == 4 || d.Sequence == 6 {
				return i, fmt.Errorf("reading: %w", bus.Permanent(errors.New("no such field")))
			}
			took.take(batch[i : i+1])
		}
		return len(batch), nil
	})
	eventually(t, "three letters", func() bool { return load(t, w.Bus, letters, ">") == "0 3 5" })
	eventually(t, "the others handled", func() bool { return took.len() == 3 })
	expect(t, "end", stop(), nil)
	expect(t, "handled", fmt.Sprint(took.took), "[1 2 4]")
	if err := w.LoadAfter(limited(t), letters, ">", 2, func(m bus.Message) error {
		expect(t, "cause of a letter", m.Cause, "LOG/6")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func testBatchesGoOnWhereAStopLeftThem(t *testing.T, w *world) {
	fill(t, w.Bus, "log.a", 0, 100)
	began := make(chan bool, 10)
	stop := consumeBatch(t, w.Bus, worker(time.Hour), func(ctx context.Context, batch []bus.Delivery) (int, error) {
		began <- true
		<-ctx.Done()
		return min(len(batch), 7), ctx.Err()
	})
	next(t, "the batch", began)
	expect(t, "end", stop(), nil)

	// At once, though AckWait is an hour.
	firsts := make(chan string, 10)
	stop = consumeBatch(t, w.open(t), worker(time.Hour), func(_ context.Context, batch []bus.Delivery) (int, error) {
		firsts <- string(batch[0].Data)
		return len(batch), nil
	})
	// The batch may have held one message only.
	if first := next(t, "the rest", firsts); first != "7" && first != "0" {
		t.Errorf("it goes on at %s", first)
	}
	expect(t, "end", stop(), nil)
}

// testBatchesGoOnWhereADeadProcessLeftThem cuts the connection of a process that
// has messages in its hands, again and again.
func testBatchesGoOnWhereADeadProcessLeftThem(t *testing.T, w *world) {
	const n = 600
	fill(t, w.Bus, "log.a", 0, n)
	c := worker(shortly)
	c.Batch = 50
	var took journal
	for range 2 {
		mortal := w.open(t)
		enough := took.len() + 120
		reached, release := make(chan bool), make(chan struct{})
		stop := background(t, func(ctx context.Context) error {
			return mortal.ConsumeBatch(ctx, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
				took.take(batch)
				if took.len() >= enough {
					reached <- true
					<-release
				}
				return len(batch), nil
			})
		})
		next(t, "half of it", reached)
		mortal.Close()
		close(release)
		if err := stop(); err != nil && !strings.Contains(err.Error(), "worker of LOG") {
			t.Errorf("a consumer whose connection was closed returned %v", err)
		}
	}
	stop := consumeBatch(t, w.Bus, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
		took.take(batch)
		return len(batch), nil
	})
	eventually(t, "the last", func() bool {
		took.mu.Lock()
		defer took.mu.Unlock()
		return took.took[len(took.took)-1] == n-1
	})
	expect(t, "end", stop(), nil)
	took.inOrder(t, n, true)
}

// testBatchesAreWorkedOffByOneProcessAtATime lets three processes have one position
// and ends whoever works.
func testBatchesAreWorkedOffByOneProcessAtATime(t *testing.T, w *world) {
	const n = 3000
	c := worker(2 * time.Second)
	c.Batch = 10
	var took journal
	var one sync.Mutex
	workers := make(chan int, 1000)
	stops := make([]func() error, 3)
	holders := make([]context.Context, 3)
	for i := range stops {
		c.Taken = func(held context.Context, at bus.Place) error {
			one.Lock()
			defer one.Unlock()
			for other, ctx := range holders {
				if ctx != nil && ctx.Err() == nil {
					t.Errorf("%d takes over while %d has its place", i, other)
				}
			}
			holders[i] = held //nolint:fatcontext // to be asked later whether it has ended
			if got := took.len(); int(at.After) != got {
				t.Errorf("%d takes over from %d, where %d were taken", i, at.After, got)
			}
			if first := at.After == 0; at.Waited == first {
				t.Errorf("%d takes over from %d and is told that it waited: %t", i, at.After, at.Waited)
			}
			return nil
		}
		stops[i] = consumeBatch(t, w.open(t), c, func(_ context.Context, batch []bus.Delivery) (int, error) {
			if !one.TryLock() {
				t.Error("two handlers at once")
				return 0, errors.New("two handlers at once")
			}
			defer one.Unlock()
			if held := holders[i]; held == nil || held.Err() != nil {
				t.Errorf("%d works without having been told that it may", i)
			}
			took.take(batch)
			select {
			case workers <- i:
			default:
			}
			return len(batch), nil
		})
	}
	for turn := range stops {
		fill(t, w.Bus, "log.a", turn*n/3, (turn+1)*n/3)
		who := next(t, "somebody who works", workers)
		for len(workers) > 0 {
			who = <-workers
		}
		if turn < len(stops)-1 {
			expect(t, "end", stops[who](), nil)
		}
	}
	eventually(t, "all taken", func() bool { return took.len() >= n })
	took.inOrder(t, n, false)
}

// testMessagesAreSeenBeforeTheirBatch has a handler that is at work while more
// arrives, and dies in the end.
func testMessagesAreSeenBeforeTheirBatch(t *testing.T, w *world) {
	const n = 100
	c := worker(time.Minute)
	c.Batch = 10
	var seen journal
	c.Seen = func(_ context.Context, m bus.Message) { seen.take([]bus.Delivery{{Message: m}}) }
	var took journal
	turn := make(chan bool)
	stop := consumeBatch(t, w.Bus, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
		if got, most := seen.len(), took.len()+2*c.Batch+1; got < took.len()+len(batch) || got > most {
			t.Errorf("%d were seen when %d were to be taken behind %d, at most %d should be", got, len(batch), took.len(), most)
		}
		took.take(batch)
		<-turn
		return len(batch), nil
	})
	fill(t, w.Bus, "log.a", 0, n)
	eventually(t, "the first batch", func() bool { return took.len() > 0 })
	eventually(t, "what is behind it", func() bool { return seen.len() >= took.len()+c.Batch })
	close(turn)
	eventually(t, "all taken", func() bool { return took.len() >= n })
	expect(t, "end", stop(), nil)
	took.inOrder(t, n, false)
	seen.inOrder(t, n, false)
}

// testWhoCannotTakeOverGivesThePlaceBack has what is to be done at a take-over fail
// before it goes well.
func testWhoCannotTakeOverGivesThePlaceBack(t *testing.T, w *world) {
	fill(t, w.Bus, "log.a", 0, 3)
	c := worker(time.Hour)
	var took journal
	var tries atomic.Int32
	c.Taken = func(context.Context, bus.Place) error {
		if tries.Add(1) < 3 {
			return errors.New("not now")
		}
		return nil
	}
	stop := consumeBatch(t, w.Bus, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
		if got := tries.Load(); got != 3 {
			t.Errorf("a batch after %d tries", got)
		}
		took.take(batch)
		return len(batch), nil
	})
	eventually(t, "all taken", func() bool { return took.len() >= 3 })
	expect(t, "end", stop(), nil)
	took.inOrder(t, 3, false)
}

// testAProcessThatLostItsPositionWritesNothingDown takes the position away while a
// handler ignores that its context has ended.
func testAProcessThatLostItsPositionWritesNothingDown(t *testing.T, w *world) {
	fill(t, w.Bus, "log.a", 0, 10)
	began, release := make(chan context.Context, 10), make(chan struct{})
	seen := make(chan string, 100)
	c := worker(shortly)
	stop := consumeBatch(t, w.Bus, c, func(ctx context.Context, batch []bus.Delivery) (int, error) {
		if len(seen) == 0 {
			began <- ctx
			<-release
		}
		seen <- texts(batch)
		return len(batch), nil
	})
	held := next(t, "the batch", began)
	if err := w.PutKey(limited(t), bus.Positions, "LOG.worker", []byte(`{"sequence":3,"holder":"another"}`)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.Done():
	case <-time.After(patience):
		t.Fatal("the handler was not told")
	}
	close(release)
	next(t, "what was in hand", seen)
	// The other holder is silent and loses it in turn; its place is what counts.
	if again := next(t, "the messages again", seen); !strings.HasPrefix(again, "3") {
		t.Errorf("it goes on with %q", again)
	}
	expect(t, "end", stop(), nil)
}

func testBatchesBeginAnewWhenTheirPositionWasDeleted(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1")
	seen := make(chan string, 10)
	stop := consumeBatch(t, w.Bus, worker(shortly), func(_ context.Context, batch []bus.Delivery) (int, error) {
		seen <- texts(batch)
		return len(batch), nil
	})
	expect(t, "first", next(t, "the message", seen), "1")
	eventually(t, "the position", func() bool {
		e, err := w.GetEntry(limited(t), bus.Positions, "LOG.worker")
		return err == nil && strings.Contains(string(e.Value), `"sequence":1`)
	})
	if err := w.DeleteConsumer(limited(t), stream, "worker"); err != nil {
		t.Fatal(err)
	}
	expect(t, "from the beginning", next(t, "the message again", seen), "1")
	expect(t, "end", stop(), nil)
}

func testBatchesWithSinceSkipWhatWasBefore(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "old", "old too")
	since := time.Now()
	seen := make(chan string, 10)
	run := func(since time.Time, durable string) (stop func() error) {
		t.Helper()
		c := worker(time.Minute)
		c.Since, c.Durable = since, durable
		return consumeBatch(t, w.Bus, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
			seen <- texts(batch)
			return len(batch), nil
		})
	}
	stop := run(since, "later")
	eventually(t, "a position behind what was before", func() bool {
		e, err := w.GetEntry(limited(t), bus.Positions, "LOG.later")
		return err == nil && strings.Contains(string(e.Value), `"sequence":2`)
	})
	publish(t, w.Bus, "log.a", "new")
	expect(t, "the first message", next(t, "a message", seen), "new")
	expect(t, "end", stop(), nil)
	stop = run(time.Now().Add(time.Hour), "later")
	publish(t, w.Bus, "log.a", "newer")
	expect(t, "the position goes on", next(t, "a message", seen), "newer")
	expect(t, "end", stop(), nil)
	stop = run(since, "back")
	if first := next(t, "a message", seen); !strings.HasPrefix(first, "new") || strings.HasPrefix(first, "newer") {
		t.Errorf("looking back, the first is %q", first)
	}
	expect(t, "end", stop(), nil)
}

func testBatchesEndWhenTheirStreamIsGone(t *testing.T, w *world) {
	c := worker(time.Minute)
	c.Stream = "NOWHERE"
	err := w.ConsumeBatch(limited(t), c, func(context.Context, []bus.Delivery) (int, error) { return 0, nil })
	if err == nil || !strings.Contains(err.Error(), "worker of NOWHERE") || !strings.Contains(err.Error(), "LS-BUS-003") {
		t.Errorf("of a stream that never was: %v", err)
	}
	publish(t, w.Bus, "log.a", "1")
	seen, done := make(chan bool, 1), make(chan error, 1)
	go func() {
		done <- w.ConsumeBatch(t.Context(), worker(time.Minute), func(_ context.Context, batch []bus.Delivery) (int, error) {
			seen <- true
			return len(batch), nil
		})
	}()
	next(t, "the message", seen)
	if err := w.js.DeleteStream(limited(t), stream); err != nil {
		t.Fatal(err)
	}
	if err := next(t, "the end", done); err == nil || !strings.Contains(err.Error(), "worker of LOG") {
		t.Errorf("of a stream that was deleted: %v", err)
	}
}

// testConsumingBelievesTheServerAndNotTheSender consumes an empty message whose
// sender speaks as the server does: it is a message all the same.
func testConsumingBelievesTheServerAndNotTheSender(t *testing.T, w *world) {
	for _, status := range []string{"100", "404", "409", "503"} {
		m := nats.NewMsg("log.a")
		m.Header = nats.Header{"Status": {status}, "Description": {"Consumer Deleted"}, "Nats-Last-Consumer": {"99"}}
		if _, err := w.js.PublishMsg(limited(t), m); err != nil {
			t.Fatal(err)
		}
	}
	single, batches := make(chan uint64, 10), make(chan uint64, 10)
	stop := consume(t, w.Bus, worker(time.Minute), func(_ context.Context, d bus.Delivery) error { single <- d.Sequence; return nil })
	stopBatches := consumeBatch(t, w.Bus, worker(time.Minute), func(_ context.Context, batch []bus.Delivery) (int, error) {
		for _, d := range batch {
			batches <- d.Sequence
		}
		return len(batch), nil
	})
	for want := range uint64(4) {
		expect(t, "one by one", next(t, "a message", single), want+1)
		expect(t, "in batches", next(t, "a message", batches), want+1)
	}
	expect(t, "end", stop(), nil)
	expect(t, "end of the batches", stopBatches(), nil)
}
