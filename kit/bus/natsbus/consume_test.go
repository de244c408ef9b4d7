package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// shortly is an AckWait that a test can sit out.
const shortly = 400 * time.Millisecond

func testConsumeDeliversInOrderAndOnce(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1", "2")
	publish(t, w.Bus, "log.b", "other")
	seen := make(chan bus.Delivery, 10)
	c := worker(time.Minute)
	c.Filters = []string{"log.a"}
	stop := consume(t, w.Bus, c, func(_ context.Context, d bus.Delivery) error { seen <- d; return nil })
	publish(t, w.Bus, "log.a", "3")
	for i, want := range []string{"1", "2", "3"} {
		d := next(t, want, seen)
		expect(t, "data", string(d.Data), want)
		expect(t, "subject", d.Subject, "log.a")
		expect(t, "type", d.Type, "test.Text")
		expect(t, "deliveries", d.Deliveries, 1)
		expect(t, "sequence", d.Sequence, []uint64{1, 2, 4}[i])
		expect(t, "time", d.Time.IsZero(), false)
	}
	settled(t, w, "worker")
	expect(t, "end", stop(), nil)
	expect(t, "more", len(seen), 0)
}

func testConsumeRepeatsAFailedMessageBeforeTheNext(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1", "2", "3")
	type seen struct {
		text       string
		deliveries int
		at         time.Time
	}
	came := make(chan seen, 10)
	consume(t, w.Bus, worker(time.Minute), func(_ context.Context, d bus.Delivery) error {
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

func testConsumeMovesAPermanentFailureToTheDeadLetters(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "bad", "good")
	seen := make(chan bus.Delivery, 10)
	consume(t, w.Bus, worker(time.Minute), func(_ context.Context, d bus.Delivery) error {
		seen <- d
		if string(d.Data) == "bad" {
			return fmt.Errorf("reading: %w", bus.Permanent(errors.New("no such field\r\nNats-Rollup: all")))
		}
		return nil
	})
	expect(t, "first", string(next(t, "bad", seen).Data), "bad")
	expect(t, "second", string(next(t, "good", seen).Data), "good")
	settled(t, w, "worker")
	expect(t, "more deliveries", len(seen), 0)

	s, err := w.js.Stream(limited(t), letters)
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
	expect(t, "letters", load(t, w.Bus, letters, ">"), "bad")
}

func testConsumeKeepsAMessageWhoseDeadLetterCannotBeWritten(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "bad")
	seen := make(chan int, 10)
	c := worker(time.Minute)
	c.DeadLetter = "nowhere.worker"
	consume(t, w.Bus, c, func(_ context.Context, d bus.Delivery) error {
		seen <- d.Deliveries
		if d.Deliveries == 1 {
			return bus.Permanent(errors.New("no"))
		}
		return nil
	})
	expect(t, "first", next(t, "the message", seen), 1)
	expect(t, "again", next(t, "the message again", seen), 2)
}

func testConsumeBringsAnUnansweredMessageAgainAtOnceAfterAStop(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1", "2", "3")
	began := make(chan string, 1)
	stop := consume(t, w.Bus, worker(time.Hour), func(ctx context.Context, d bus.Delivery) error {
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
	consume(t, w.Bus, worker(time.Hour), func(_ context.Context, d bus.Delivery) error { seen <- string(d.Data); return nil })
	expect(t, "again", next(t, "the second again", seen), "2")
	expect(t, "then", next(t, "the third", seen), "3")
	settled(t, w, "worker")
	expect(t, "more", len(seen), 0)
}

// testConsumeHandsBackWhatIsUnderWayAtAStop stops again and again while messages
// flow. One that went to nobody comes after AckWait; there is no time for many.
func testConsumeHandsBackWhatIsUnderWayAtAStop(t *testing.T, w *world) {
	const n = 30
	fill(t, w.Bus, "log.a", 0, n)
	seen := make(chan string, n)
	for len(seen) < n {
		before := len(seen)
		stop := consume(t, w.Bus, worker(patience/3), func(_ context.Context, d bus.Delivery) error { seen <- string(d.Data); return nil })
		eventually(t, "one more message", func() bool { return len(seen) > before })
		expect(t, "end", stop(), nil)
	}
	for want := range n {
		expect(t, "message", <-seen, strconv.Itoa(want))
	}
}

func testConsumeBringsAMessageAgainWhenItsConsumerDied(t *testing.T, w *world) {
	mortal := w.open(t)
	publish(t, mortal, "log.a", "1")
	began := make(chan bool, 1)
	release := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- mortal.Consume(t.Context(), worker(shortly), func(context.Context, bus.Delivery) error {
			began <- true
			<-release
			return nil
		})
	}()
	next(t, "the message", began)
	// Without its connection a consumer is as good as dead.
	mortal.Close()
	seen := make(chan int, 1)
	consume(t, w.Bus, worker(shortly), func(_ context.Context, d bus.Delivery) error { seen <- d.Deliveries; return nil })
	expect(t, "deliveries", next(t, "the message again", seen), 2)
	close(release)
	if err := next(t, "the end of the dead consumer", done); err == nil || !strings.Contains(err.Error(), "worker") {
		t.Errorf("a consumer whose connection was closed returned %v", err)
	}
}

func testConsumeDoesNotRepeatWhatIsBeingHandled(t *testing.T, w *world) {
	seen := make(chan string, 10)
	began := make(chan bool, 1)
	publish(t, w.Bus, "log.a", "1", "2", "3")
	stopSlow := consume(t, w.Bus, worker(shortly), func(_ context.Context, d bus.Delivery) error {
		began <- true
		<-time.After(3 * shortly)
		seen <- fmt.Sprintf("slow %s/%d", d.Data, d.Deliveries)
		return nil
	})
	next(t, "the first message", began)
	// A second process is on the same position and would take it up.
	consume(t, w.open(t), worker(shortly), func(_ context.Context, d bus.Delivery) error {
		seen <- fmt.Sprintf("idle %s/%d", d.Data, d.Deliveries)
		return nil
	})
	expect(t, "first", next(t, "1", seen), "slow 1/1")
	expect(t, "end", stopSlow(), nil)
}

func testConsumeEndsWithItsContext(t *testing.T, w *world) {
	t.Run("while idle", func(t *testing.T) {
		stop := consume(t, w.Bus, worker(time.Minute), func(context.Context, bus.Delivery) error { return nil })
		expect(t, "end", stop(), nil)
	})
	t.Run("before it began", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		expect(t, "end", w.Consume(ctx, worker(time.Minute), func(context.Context, bus.Delivery) error { return nil }), nil)
	})
}

func testConsumeOfAnUnknownStreamNamesIt(t *testing.T, w *world) {
	c := worker(time.Minute)
	c.Stream = "NOWHERE"
	err := w.Consume(limited(t), c, func(context.Context, bus.Delivery) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "worker of NOWHERE") {
		t.Errorf("got %v", err)
	}
}

func testConsumeBeginsAnewWhenItsPositionWasDeleted(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1")
	for name, busy := range map[string]bool{"while it waits": false, "while it works": true} {
		t.Run(name, func(t *testing.T) {
			c := worker(time.Minute)
			c.Durable = fmt.Sprintf("busy-%t", busy)
			seen, release := make(chan bool, 10), make(chan struct{})
			stop := consume(t, w.Bus, c, func(context.Context, bus.Delivery) error {
				seen <- true
				<-release
				return nil
			})
			next(t, "the message", seen)
			if !busy {
				close(release)
				settled(t, w, c.Durable)
			}
			if err := w.DeleteConsumer(limited(t), stream, c.Durable); err != nil {
				t.Fatal(err)
			}
			if busy {
				close(release)
			}
			next(t, "the message from the beginning", seen)
			expect(t, "end", stop(), nil)
			for range 2 {
				if err := w.DeleteConsumer(limited(t), stream, c.Durable); err != nil {
					t.Errorf("deleting it once more: %v", err)
				}
			}
		})
	}
}

func testConsumeEndsWhenItsStreamIsGone(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1")
	seen, done := make(chan bool, 1), make(chan error, 1)
	go func() {
		done <- w.Consume(t.Context(), worker(time.Minute), func(context.Context, bus.Delivery) error { seen <- true; return nil })
	}()
	next(t, "the message", seen)
	if err := w.js.DeleteStream(limited(t), stream); err != nil {
		t.Fatal(err)
	}
	if err := next(t, "the end", done); err == nil || !strings.Contains(err.Error(), "worker of LOG") {
		t.Errorf("got %v", err)
	}
}

// testConsumeWithSinceSkipsWhatWasBefore also consumes a second time with another
// Since: a position that exists goes on where it was.
func testConsumeWithSinceSkipsWhatWasBefore(t *testing.T, w *world) {
	first := func(since time.Time) string {
		t.Helper()
		c := worker(time.Minute)
		c.Since = since
		seen := make(chan string, 10)
		stop := consume(t, w.Bus, c, func(ctx context.Context, d bus.Delivery) error {
			if len(seen) > 0 {
				<-ctx.Done()
				return ctx.Err()
			}
			seen <- string(d.Data)
			return nil
		})
		defer func() { expect(t, "end", stop(), nil) }()
		got := next(t, "a message", seen)
		settled(t, w, c.Durable)
		return got
	}
	publish(t, w.Bus, "log.a", "old", "old too")
	since := time.Now()
	publish(t, w.Bus, "log.a", "new")
	expect(t, "the first message", first(since), "new")
	publish(t, w.Bus, "log.a", "newer")
	expect(t, "the position goes on", first(time.Now().Add(time.Hour)), "newer")
}
