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

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func testPublishDropsARepeatedID(t *testing.T, w *world) {
	m := bus.Message{Subject: "log.a", ID: "once", Data: []byte("1")}
	first, err := w.Publish(limited(t), m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.Publish(limited(t), m)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "sequence of the repeat", again, first)
	m.ID = "twice"
	if _, err := w.Publish(limited(t), m); err != nil {
		t.Fatal(err)
	}
	expect(t, "stream", load(t, w.Bus, stream, "log.>"), "1 1")
}

func testPublishOutsideAnyStreamFails(t *testing.T, w *world) {
	_, err := w.Publish(limited(t), bus.Message{Subject: "elsewhere.a", Type: "test.Text"})
	if err == nil || !strings.Contains(err.Error(), "test.Text on elsewhere.a") {
		t.Errorf("got %v", err)
	}
}

func testAppendExpectsTheLastSequenceOfItsSubject(t *testing.T, w *world) {
	message := func(subject string) bus.Message {
		return bus.Message{Subject: subject, Type: "test.Text", Data: []byte("x")}
	}
	appended := func(subject string, expected uint64) uint64 {
		t.Helper()
		sequence, err := w.Append(limited(t), message(subject), expected)
		if err != nil {
			t.Fatal(err)
		}
		return sequence
	}
	conflict := func(subject string, expected uint64) {
		t.Helper()
		if _, err := w.Append(limited(t), message(subject), expected); !errors.Is(err, bus.ErrConflict) {
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
	expect(t, "messages", load(t, w.Bus, stream, "log.>"), "x x x x")
}

func testAppendLetsExactlyOneWinEachTurn(t *testing.T, w *world) {
	const writers, turns = 8, 20
	var last uint64
	for turn := range turns {
		var running sync.WaitGroup
		var won atomic.Int32
		var sequence atomic.Uint64
		for writer := range writers {
			running.Go(func() {
				s, err := w.Append(limited(t), bus.Message{Subject: "log.a", Data: fmt.Append(nil, writer)}, last)
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
	expect(t, "messages", len(strings.Fields(load(t, w.Bus, stream, "log.a"))), turns)
}

func testAMessageBringsItsHeaders(t *testing.T, w *world) {
	m := text("log.a", "1")
	m.Cause = "EVT/123"
	before := time.Now()
	if _, err := w.Publish(limited(t), m); err != nil {
		t.Fatal(err)
	}
	if _, err := w.PublishBatch(limited(t), []bus.Message{m}); err != nil {
		t.Fatal(err)
	}
	check := func(where string, got bus.Message) {
		t.Helper()
		expect(t, where+": type", got.Type, "test.Text")
		expect(t, where+": cause", got.Cause, "EVT/123")
		if got.SentAt.Before(before) || got.SentAt.After(time.Now()) {
			t.Errorf("%s: sent at %s, before %s or in the future", where, got.SentAt, before)
		}
		if got.Time.Sub(got.SentAt).Abs() > patience {
			t.Errorf("%s: sent at %s and stored at %s", where, got.SentAt, got.Time)
		}
	}
	if err := w.Load(limited(t), stream, "log.a", func(m bus.Message) error { check("loaded", m); return nil }); err != nil {
		t.Fatal(err)
	}
	seen := make(chan bus.Delivery, 10)
	consume(t, w.Bus, worker(time.Minute), func(_ context.Context, d bus.Delivery) error { seen <- d; return nil })
	check("delivered", next(t, "the message", seen).Message)
	check("delivered of a batch", next(t, "the batch", seen).Message)
}

func testWhatAHandlerPublishesFollowsFromItsMessage(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1")
	c := worker(time.Minute)
	c.Filters = []string{"log.a"}
	done := make(chan error, 1)
	consume(t, w.Bus, c, func(ctx context.Context, _ bus.Delivery) error {
		_, err := w.Publish(ctx, text("log.b", "by itself"))
		if err == nil {
			m := text("log.b", "by word")
			m.Cause = "CMD/7"
			_, err = w.Publish(ctx, m)
		}
		done <- err
		return err
	})
	if err := next(t, "the handler", done); err != nil {
		t.Fatal(err)
	}
	causes := map[string]string{}
	if err := w.Load(limited(t), stream, "log.b", func(m bus.Message) error { causes[string(m.Data)] = m.Cause; return nil }); err != nil {
		t.Fatal(err)
	}
	expect(t, "cause", causes["by itself"], "LOG/1")
	expect(t, "cause that was given", causes["by word"], "CMD/7")
}

// numbered makes n messages.
func numbered(subject string, n int) []bus.Message {
	messages := make([]bus.Message, n)
	for i := range messages {
		messages[i] = text(subject, strconv.Itoa(i))
	}
	return messages
}

func testABatchIsStoredInOrderWithNothingInBetween(t *testing.T, w *world) {
	var writing sync.WaitGroup
	defer writing.Wait()
	for writer := range 2 {
		writing.Go(func() {
			for range 5 {
				if _, err := w.PublishBatch(limited(t), numbered(fmt.Sprintf("log.%d", writer), 50)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		publish(t, w.Bus, "log.single", "x")
	}
	writing.Wait()
	want, total, subject := 0, 0, ""
	if err := w.Load(limited(t), stream, "log.>", func(m bus.Message) error {
		total++
		switch {
		case m.Subject == "log.single" && want == 0:
		case want == 0:
			subject = m.Subject
			fallthrough
		default:
			expect(t, "subject inside a batch", m.Subject, subject)
			expect(t, "place in a batch", string(m.Data), strconv.Itoa(want))
			want = (want + 1) % 50
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "messages", total, 2*5*50+20)
}

func testABatchIsStoredAllOrNone(t *testing.T, w *world) {
	last, err := w.PublishBatch(limited(t), numbered("log.a", bus.MaxBatch))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "sequence of the last", last, bus.MaxBatch)
	if last, err := w.PublishBatch(limited(t), nil); last != 0 || err != nil {
		t.Errorf("a batch of nothing: %d, %v", last, err)
	}

	tooMany := numbered("log.a", bus.MaxBatch+1)
	if _, err := w.PublishBatch(limited(t), tooMany); errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "1001") {
		t.Errorf("a batch that is too long: %v", err)
	}
	tooLarge := numbered("log.a", 3)
	tooLarge[2].Data = make([]byte, 5<<20)
	// More often than the server keeps unfinished batches: none is begun.
	for range 60 {
		if _, err := w.PublishBatch(limited(t), tooLarge); errs.KindOf(err) != errs.Exhausted || !strings.Contains(err.Error(), "LS-BUS-005") {
			t.Fatalf("a batch with a message that is too large: %v", err)
		}
	}
	if last, err = w.PublishBatch(limited(t), numbered("log.a", 2)); err != nil {
		t.Fatal(err)
	}
	expect(t, "sequence of the last", last, bus.MaxBatch+2)
	astray := numbered("log.a", 3)
	astray[1].Subject = "letters.a"
	if _, err := w.PublishBatch(limited(t), astray); err == nil {
		t.Error("a batch across two streams was stored")
	}
	expect(t, "messages after what was refused", publish(t, w.Bus, "log.a", "x"), bus.MaxBatch+3)
	expect(t, "letters", load(t, w.Bus, letters, ">"), "")
}

func testABatchWithAStoredIDIsRefused(t *testing.T, w *world) {
	batch := numbered("log.a", 3)
	for i := range batch {
		batch[i].ID = fmt.Sprintf("id-%d", i)
	}
	if _, err := w.PublishBatch(limited(t), batch); err != nil {
		t.Fatal(err)
	}
	if _, err := w.PublishBatch(limited(t), batch); !errors.Is(err, bus.ErrDuplicate) {
		t.Errorf("a repeat: %v", err)
	}
	mixed := append(numbered("log.a", 1), batch[2])
	if _, err := w.PublishBatch(limited(t), mixed); !errors.Is(err, bus.ErrDuplicate) {
		t.Errorf("a batch with one stored id: %v", err)
	}
	expect(t, "stream", load(t, w.Bus, stream, "log.>"), "0 1 2")
}
