package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/bustest"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// newest gives what the newest messages hold by their subjects, and fails where one
// comes twice or out of order.
func newest(t *testing.T, b *natsbus.Bus, subject string) map[string]string {
	t.Helper()
	texts, last := map[string]string{}, uint64(0)
	if err := b.LoadLast(limited(t), stream, subject, func(m bus.Message) error {
		if _, twice := texts[m.Subject]; twice || m.Sequence <= last {
			return fmt.Errorf("%d of %s came after %d", m.Sequence, m.Subject, last)
		}
		texts[m.Subject], last = string(m.Data), m.Sequence
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return texts
}

// newestInOrder joins what the newest messages hold.
func newestInOrder(t *testing.T, b *natsbus.Bus, subject string) string {
	t.Helper()
	var texts []string
	if err := b.LoadLast(limited(t), stream, subject, func(m bus.Message) error {
		texts = append(texts, string(m.Data))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(texts, " ")
}

// rounds publishes a message on each of so many subjects, as often as said.
func rounds(t *testing.T, b *natsbus.Bus, subjects, times int) {
	t.Helper()
	messages := make([]bus.Message, 0, bus.MaxBatch)
	flush := func() {
		if _, err := b.PublishBatch(limited(t), messages); err != nil {
			t.Fatal(err)
		}
		messages = messages[:0]
	}
	for round := range times {
		for i := range subjects {
			if messages = append(messages, text(fmt.Sprintf("log.%d", i), strconv.Itoa(round))); len(messages) == bus.MaxBatch {
				flush()
			}
		}
	}
	flush()
}

func stored(t *testing.T, w *world) jetstream.Stream {
	t.Helper()
	s, err := w.js.Stream(limited(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testLoadLastGivesTheNewestOfEachSubject(t *testing.T, w *world) {
	expect(t, "of an empty stream", newestInOrder(t, w.Bus, "log.>"), "")
	publish(t, w.Bus, "log.rollout.a", "a1", "a2")
	publish(t, w.Bus, "log.rollout.b", "b1")
	publish(t, w.Bus, "log.gate.a", "g1", "g2")
	publish(t, w.Bus, "log.rollout.a", "a3")

	for subject, want := range map[string]string{
		"log.>":         "b1 g2 a3",
		">":             "b1 g2 a3",
		"log.rollout.a": "a3",
		"log.rollout.>": "b1 a3",
		"log.*.a":       "g2 a3",
		"log.nobody":    "",
		"log.nobody.>":  "",
	} {
		expect(t, subject, newestInOrder(t, w.Bus, subject), want)
	}
	before := time.Now().Add(-time.Hour)
	if err := w.LoadLast(limited(t), stream, "log.gate.*", func(m bus.Message) error {
		expect(t, "subject", m.Subject, "log.gate.a")
		expect(t, "type", m.Type, "test.Text")
		expect(t, "sequence", m.Sequence, 5)
		expect(t, "a sensible time", m.Time.After(before), true)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func testLoadLastEndsWithItsCallersError(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1")
	publish(t, w.Bus, "log.b", "2")
	// Not even one that reads like the bus's own makes it ask again.
	for _, enough := range []error{errors.New("enough"), nats.ErrTimeout} {
		calls := 0
		err := w.LoadLast(limited(t), stream, "log.>", func(bus.Message) error { calls++; return enough })
		expect(t, "error", errors.Is(err, enough), true)
		expect(t, "calls", calls, 1)
	}
}

func testLoadLastEndsWithItsContext(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1")
	publish(t, w.Bus, "log.b", "2")
	ctx, cancel := context.WithCancel(limited(t))
	calls := 0
	load := func() error {
		return w.LoadLast(ctx, stream, "log.>", func(bus.Message) error { calls++; cancel(); return nil })
	}
	expect(t, "cancelled at the first message", errors.Is(load(), context.Canceled), true)
	expect(t, "cancelled before", errors.Is(load(), context.Canceled), true)
	expect(t, "calls", calls, 1)
}

func testLoadLastOfAnUnknownStreamNamesIt(t *testing.T, w *world) {
	err := w.LoadLast(limited(t), "NOWHERE", ">", func(bus.Message) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "NOWHERE") {
		t.Errorf("got %v", err)
	}
}

func testLoadLastStepsOverDeletedMessages(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1", "2", "3")
	publish(t, w.Bus, "log.b", "4", "5")
	publish(t, w.Bus, "log.c", "6")
	s := stored(t, w)
	for _, sequence := range []uint64{2, 3, 5} {
		if err := s.DeleteMsg(limited(t), sequence); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "without the newest", newestInOrder(t, w.Bus, "log.>"), "1 4 6")
	if err := s.DeleteMsg(limited(t), 6); err != nil {
		t.Fatal(err)
	}
	expect(t, "without a subject", newestInOrder(t, w.Bus, "log.>"), "1 4")
	if err := s.Purge(limited(t), jetstream.WithPurgeSubject("log.a")); err != nil {
		t.Fatal(err)
	}
	expect(t, "without another", newestInOrder(t, w.Bus, "log.>"), "4")
	if err := s.Purge(limited(t)); err != nil {
		t.Fatal(err)
	}
	expect(t, "without all", newestInOrder(t, w.Bus, "log.>"), "")
	publish(t, w.Bus, "log.b", "7")
	expect(t, "with a new one", newestInOrder(t, w.Bus, "log.>"), "7")
}

func testLoadLastGivesMoreThanAPortion(t *testing.T, w *world) {
	const subjects, times = 2500, 3
	rounds(t, w.Bus, subjects, times)
	publish(t, w.Bus, "log.7", "newer")
	got := newest(t, w.Bus, "log.*")
	expect(t, "subjects", len(got), subjects)
	expect(t, "the one that is newer", got["log.7"], "newer")
	delete(got, "log.7")
	for subject, data := range got {
		expect(t, subject, data, strconv.Itoa(times-1))
	}
	info, err := stored(t, w).Info(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "consumers left behind", info.State.Consumers, 0)
}

// testLoadLastGivesWhatIsLargeInParts loads more than the server gives at once for
// its size.
func testLoadLastGivesWhatIsLargeInParts(t *testing.T, w *world) {
	const subjects = 12
	large := strings.Repeat("x", 900_000)
	for i := range subjects {
		publish(t, w.Bus, fmt.Sprintf("log.%d", i), large+strconv.Itoa(i))
	}
	got := newest(t, w.Bus, "log.*")
	expect(t, "subjects", len(got), subjects)
	for i := range subjects {
		expect(t, fmt.Sprintf("whether message %d is right", i), got[fmt.Sprintf("log.%d", i)] == large+strconv.Itoa(i), true)
	}
}

// testLoadLastMissesNothingWhileOthersWriteAndDelete loads while others publish and
// delete: each subject that stays is given each time, once, and never older than
// before.
func testLoadLastMissesNothingWhileOthersWriteAndDelete(t *testing.T, w *world) {
	const subjects = 1500
	rounds(t, w.Bus, subjects, 2)
	s := stored(t, w)
	stop := background(t, func(ctx context.Context) error {
		for i := 0; ctx.Err() == nil; i++ {
			// Of every third subject the newest message goes, and the one before is left;
			// another subject comes and goes.
			if sequence := uint64(subjects + 1 + 3*i); sequence <= 2*subjects {
				if err := s.DeleteMsg(ctx, sequence); err != nil && ctx.Err() == nil {
					return err
				}
			}
			last, err := w.Publish(ctx, text("log.fleeting", "x"))
			if err == nil {
				err = s.DeleteMsg(ctx, last)
			}
			if err == nil {
				_, err = w.Publish(ctx, text(fmt.Sprintf("log.%d", 1+3*(i%(subjects/3))), strconv.Itoa(2+i)))
			}
			if err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
	before := map[string]string{}
	for range 5 {
		got := newest(t, w.Bus, "log.*")
		delete(got, "log.fleeting")
		expect(t, "subjects", len(got), subjects)
		for i := range subjects {
			subject := fmt.Sprintf("log.%d", i)
			is, err := strconv.Atoi(got[subject])
			if err != nil {
				t.Fatalf("%s: %v", subject, err)
			}
			was, _ := strconv.Atoi(before[subject])
			if i%3 != 0 && (is < 1 || is < was) {
				t.Fatalf("%s is %d after %d", subject, is, was)
			}
		}
		before = got
	}
	expect(t, "writing and deleting", stop(), nil)
}

// testLoadLastSeesWhatWasJustAppended loads after every append, on a subject that
// is there and on one that is new: a replica that is behind must not answer for the
// stream.
func testLoadLastSeesWhatWasJustAppended(t *testing.T, w *world) {
	for turn := range 20 {
		fresh, round := fmt.Sprintf("log.fresh%d", turn), strconv.Itoa(turn)
		publish(t, w.Bus, "log.a", round)
		got := newest(t, w.Bus, "log.*")
		expect(t, "the one that was there", got["log.a"], round)
		publish(t, w.Bus, fresh, round)
		got = newest(t, w.Bus, "log.*")
		expect(t, "the new one", got[fresh], round)
		expect(t, "subjects", len(got), turn+2)
		expect(t, "one alone", newest(t, w.Bus, fresh)[fresh], round)
	}
}

// testLoadLastBelievesTheServerAndNotTheSender reads a message whose sender uses the
// server's own words.
func testLoadLastBelievesTheServerAndNotTheSender(t *testing.T, w *world) {
	m := nats.NewMsg("log.a")
	m.Header = nats.Header{
		"Nats-Sequence": {"7"}, "Nats-Last-Sequence": {"99"}, "Nats-Subject": {"log.forged"}, "Nats-Time-Stamp": {"never"},
		"Nats-Num-Pending": {"0"}, "Nats-UpTo-Sequence": {"0"}, "Status": {"404"}, "Description": {"No Results"}, "Lockstep-Time": {"yesterday"},
	}
	if _, err := w.js.PublishMsg(limited(t), m); err != nil {
		t.Fatal(err)
	}
	publish(t, w.Bus, "log.b", "2")
	var got []string
	if err := w.LoadLast(limited(t), stream, "log.>", func(m bus.Message) error {
		got = append(got, fmt.Sprintf("%s/%d/%t", m.Subject, m.Sequence, m.SentAt.IsZero()))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, "messages", strings.Join(got, " "), "log.a/1/true log.b/2/false")
}

func TestWhatALoadOfTheNewestLosesIsReadAgain(t *testing.T) {
	t.Parallel()
	for what, header := range map[string]string{
		"the first message": "\r\nNats-Sequence: 2\r\n",
		"one in the middle": "\r\nNats-Sequence: 3\r\n",
		"the last message":  "\r\nNats-Sequence: 4\r\n",
		"the end":           "\r\nNats-UpTo-Sequence: 4",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			gone := 0
			w := lossyWorld(t, func(_ string, _ int, headers string) bool {
				lose := gone == 0 && strings.Contains(headers, header)
				if lose {
					gone++
				}
				return lose
			})
			publish(t, w.Bus, "log.a", "1", "2")
			publish(t, w.Bus, "log.b", "3")
			publish(t, w.Bus, "log.c", "4")
			expect(t, "messages", newestInOrder(t, w.open(t), "log.*"), "2 3 4")
			expect(t, "lost", gone, 1)
		})
	}
}

// TestLoadLastGivesWhatTheAnswersDidNotHave publishes right after a server has
// answered. To the reader this is a replica that was behind.
func TestLoadLastGivesWhatTheAnswersDidNotHave(t *testing.T) {
	t.Parallel()
	for what, mark := range map[string]string{
		"the list of subjects": "stream_info_response",
		"the newest messages":  "\r\nNats-UpTo-Sequence: ",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			var w *world
			published := false
			w = lossyWorld(t, func(_ string, _ int, headers string) bool {
				if !published && strings.Contains(headers, mark) {
					published = true
					for _, subject := range []string{"log.a", "log.new"} {
						if _, err := w.Publish(t.Context(), text(subject, "later")); err != nil {
							t.Error(err)
						}
					}
				}
				return false
			})
			publish(t, w.Bus, "log.a", "1")
			publish(t, w.Bus, "log.b", "2")
			expect(t, "messages", newestInOrder(t, w.open(t), "log.*"), "2 later later")
		})
	}
}

func TestLoadLastWaitsForABusThatIsAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, natsserver.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	w := newWorld(t, natsbus.Options{URL: s.ClientURL()}, 0)
	publish(t, w.Bus, "log.a", "1", "2")
	stopServer(s)
	texts := make(chan string, 1)
	stop := background(t, func(ctx context.Context) error {
		return w.LoadLast(ctx, stream, "log.*", func(m bus.Message) error { texts <- string(m.Data); return nil })
	})
	startServer(t, dir, port)
	expect(t, "the newest", next(t, "it", texts), "2")
	expect(t, "end", stop(), nil)
}

func TestLoadLastEndsWithItsContextWhileTheServersAreDown(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), natsserver.RANDOM_PORT)
	w := newWorld(t, natsbus.Options{URL: s.ClientURL()}, 0)
	stopServer(s)
	stop := background(t, func(ctx context.Context) error {
		return w.LoadLast(ctx, stream, "log.*", func(bus.Message) error { return nil })
	})
	expect(t, "it ends because it was asked to", errors.Is(stop(), context.Canceled), true)
}

// TestTheNewestIsReadWhileALeaderGoes takes the server away that leads the stream
// and asks at once.
func TestTheNewestIsReadWhileALeaderGoes(t *testing.T) {
	t.Parallel()
	streams, keyValues := (&world{}).wanted()
	cluster := bustest.StartCluster(t, streams, keyValues, nil)
	b := cluster.Open(t)
	const subjects, times = 1500, 2
	rounds(t, b, subjects, times)
	whole := func(when string) {
		got := newest(t, b, "log.*")
		expect(t, "subjects "+when, len(got), subjects)
		for subject, data := range got {
			expect(t, subject+" "+when, data, strconv.Itoa(times-1))
		}
	}
	restart := cluster.StopLeader(t, stream)
	whole("without the old leader")
	restart()
	whole("with it again")
}
