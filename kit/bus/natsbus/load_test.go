package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

func testLoadGivesMatchingMessagesInOrder(t *testing.T, w *world) {
	publish(t, w.Bus, "log.rollout.a", "a1")
	publish(t, w.Bus, "log.rollout.b", "b1")
	publish(t, w.Bus, "log.gate.a", "g1")
	publish(t, w.Bus, "log.rollout.a", "a2")

	for subject, want := range map[string]string{
		"log.>":         "a1 b1 g1 a2",
		"log.rollout.a": "a1 a2",
		"log.rollout.>": "a1 b1 a2",
		"log.*.a":       "a1 g1 a2",
		"log.nobody":    "",
	} {
		expect(t, subject, load(t, w.Bus, stream, subject), want)
	}
	before := time.Now().Add(-time.Hour)
	if err := w.Load(limited(t), stream, "log.gate.a", func(m bus.Message) error {
		expect(t, "subject", m.Subject, "log.gate.a")
		expect(t, "type", m.Type, "test.Text")
		expect(t, "sequence", m.Sequence, 3)
		expect(t, "a sensible time", m.Time.After(before), true)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func testLoadEndsWithItsCallersError(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1", "2")
	enough, calls := errors.New("enough"), 0
	err := w.Load(limited(t), stream, "log.>", func(bus.Message) error { calls++; return enough })
	expect(t, "error", errors.Is(err, enough), true)
	expect(t, "calls", calls, 1)
}

func testLoadOfAnUnknownStreamNamesIt(t *testing.T, w *world) {
	err := w.Load(limited(t), "NOWHERE", ">", func(bus.Message) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "NOWHERE") {
		t.Errorf("got %v", err)
	}
}

func testLoadStepsOverDeletedMessages(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1", "2", "3", "4")
	publish(t, w.Bus, "log.b", "5")
	s, err := w.js.Stream(limited(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	for _, sequence := range []uint64{1, 3} {
		if err := s.DeleteMsg(limited(t), sequence); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "all", load(t, w.Bus, stream, "log.>"), "2 4 5")
	expect(t, "one subject", load(t, w.Bus, stream, "log.a"), "2 4")
	if err := s.DeleteMsg(limited(t), 4); err != nil {
		t.Fatal(err)
	}
	expect(t, "without the last of the subject", load(t, w.Bus, stream, "log.a"), "2")
}

func testLoadAfterBeginsBehindASequence(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1", "2")
	publish(t, w.Bus, "log.b", "3")
	publish(t, w.Bus, "log.a", "4")
	for after, want := range map[uint64]string{0: "1 2 4", 1: "2 4", 2: "4", 3: "4", 4: "", 100: ""} {
		expect(t, fmt.Sprintf("after %d", after), loadAfter(t, w.Bus, stream, "log.a", after), want)
	}
}

// testLoadGivesMoreThanAPortion loads enough for every way there is to read.
func testLoadGivesMoreThanAPortion(t *testing.T, w *world) {
	const batches = 6
	for range batches {
		messages := numbered("log.a", bus.MaxBatch)
		for i := range messages {
			messages[i].Subject = fmt.Sprintf("log.%d", i%10)
		}
		if _, err := w.PublishBatch(limited(t), messages); err != nil {
			t.Fatal(err)
		}
	}
	for subject, want := range map[string]int{"log.>": batches * bus.MaxBatch, "log.3": batches * bus.MaxBatch / 10} {
		got, last := 0, uint64(0)
		if err := w.Load(limited(t), stream, subject, func(m bus.Message) error {
			if got++; m.Sequence <= last {
				return fmt.Errorf("%d came after %d", m.Sequence, last)
			}
			last = m.Sequence
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		expect(t, "messages of "+subject, got, want)
	}
}

// testLoadMissesNothingWhileOthersWriteAndDelete loads while others append and
// delete: what was there before and stays is given each time, in order, once.
func testLoadMissesNothingWhileOthersWriteAndDelete(t *testing.T, w *world) {
	const kept = 1500
	messages := numbered("log.kept", kept)
	for i := range messages[:kept/3] {
		messages[3*i].Subject = "log.gone"
	}
	for at := 0; at < kept; at += 500 {
		if _, err := w.PublishBatch(limited(t), messages[at:at+500]); err != nil {
			t.Fatal(err)
		}
	}
	s, err := w.js.Stream(limited(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	stop := background(t, func(ctx context.Context) error {
		for sequence := uint64(1); ctx.Err() == nil; sequence += 3 {
			if sequence < kept {
				if err := s.DeleteMsg(ctx, sequence); err != nil && ctx.Err() == nil {
					return err
				}
			}
			if _, err := w.Publish(ctx, text("log.new", "x")); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
	for range 10 {
		last, seen := uint64(0), 0
		if err := w.Load(limited(t), stream, "log.>", func(m bus.Message) error {
			if m.Sequence <= last {
				return fmt.Errorf("%d came after %d", m.Sequence, last)
			}
			last = m.Sequence
			if m.Subject == "log.kept" {
				seen++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		expect(t, "messages that stay", seen, kept-kept/3)
	}
	expect(t, "writing and deleting", stop(), nil)
}

// testLoadSeesWhatWasJustAppended loads after every append: a replica that is
// behind must not answer for the stream.
func testLoadSeesWhatWasJustAppended(t *testing.T, w *world) {
	var last uint64
	for turn := range 50 {
		var err error
		if last, err = w.Append(limited(t), text("log.a", "x"), last); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(load(t, w.Bus, stream, "log.a"), "x"); got != turn+1 {
			t.Fatalf("turn %d: %d messages", turn, got)
		}
	}
}

// testLoadBelievesTheServerAndNotTheSender reads a message whose sender uses the
// server's own words.
func testLoadBelievesTheServerAndNotTheSender(t *testing.T, w *world) {
	m := nats.NewMsg("log.a")
	m.Header = nats.Header{
		"Nats-Sequence": {"7"}, "Nats-Last-Sequence": {"99"}, "Nats-Subject": {"log.forged"}, "Nats-Time-Stamp": {"never"},
		"Nats-Num-Pending": {"0"}, "Status": {"404"}, "Lockstep-Time": {"yesterday"}, "traceparent": {"00-zz"},
	}
	if _, err := w.js.PublishMsg(limited(t), m); err != nil {
		t.Fatal(err)
	}
	publish(t, w.Bus, "log.a", "2")
	var got []string
	if err := w.Load(limited(t), stream, "log.>", func(m bus.Message) error {
		got = append(got, fmt.Sprintf("%s/%d/%t", m.Subject, m.Sequence, m.SentAt.IsZero()))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "messages", strings.Join(got, " "), "log.a/1/true log.a/2/false")
}
