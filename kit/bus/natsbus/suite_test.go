package natsbus_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
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
	"github.com/lockstep-fleet/lockstep/kit/bus/bustest"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

func TestMain(m *testing.M) {
	// These tests wait for servers more than they compute.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	// nats.go 1.55 starts this goroutine for every blob that is stored; one that
	// gets its turn only after the store was done waits for ever. It is small.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// TestBus is what every bus has to keep, asked of each kind of server. What needs a
// server to end or to be set up in its own way is in the other tests.
func TestBus(t *testing.T) {
	t.Parallel()
	for place, prepare := range map[string]func(*testing.T) func(*testing.T) *world{
		"in process":    inProcess,
		"over TCP":      overTCP,
		"three servers": threeServers,
	} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			start := prepare(t)
			for name, test := range suite() {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					test(t, start(t))
				})
			}
		})
	}
}

func suite() map[string]func(*testing.T, *world) {
	return map[string]func(*testing.T, *world){
		"publish drops a repeated id":                                 testPublishDropsARepeatedID,
		"publish outside any stream fails":                            testPublishOutsideAnyStreamFails,
		"a message brings its headers":                                testAMessageBringsItsHeaders,
		"what a handler publishes follows from its message":           testWhatAHandlerPublishesFollowsFromItsMessage,
		"a batch is stored in order with nothing in between":          testABatchIsStoredInOrderWithNothingInBetween,
		"a batch is stored all or none":                               testABatchIsStoredAllOrNone,
		"a batch with a stored id is refused":                         testABatchWithAStoredIDIsRefused,
		"append expects the last sequence of its subject":             testAppendExpectsTheLastSequenceOfItsSubject,
		"append lets exactly one win each turn":                       testAppendLetsExactlyOneWinEachTurn,
		"load gives matching messages in order":                       testLoadGivesMatchingMessagesInOrder,
		"load ends with its caller's error":                           testLoadEndsWithItsCallersError,
		"load of an unknown stream names it":                          testLoadOfAnUnknownStreamNamesIt,
		"load steps over deleted messages":                            testLoadStepsOverDeletedMessages,
		"load gives more than a portion":                              testLoadGivesMoreThanAPortion,
		"load misses nothing while others write and delete":           testLoadMissesNothingWhileOthersWriteAndDelete,
		"load sees what was just appended":                            testLoadSeesWhatWasJustAppended,
		"load after begins behind a sequence":                         testLoadAfterBeginsBehindASequence,
		"load last gives the newest of each subject":                  testLoadLastGivesTheNewestOfEachSubject,
		"load last ends with its caller's error":                      testLoadLastEndsWithItsCallersError,
		"load last ends with its context":                             testLoadLastEndsWithItsContext,
		"load last of an unknown stream names it":                     testLoadLastOfAnUnknownStreamNamesIt,
		"load last steps over deleted messages":                       testLoadLastStepsOverDeletedMessages,
		"load last gives more than a portion":                         testLoadLastGivesMoreThanAPortion,
		"load last gives what is large in parts":                      testLoadLastGivesWhatIsLargeInParts,
		"load last misses nothing while others write and delete":      testLoadLastMissesNothingWhileOthersWriteAndDelete,
		"load last sees what was just appended":                       testLoadLastSeesWhatWasJustAppended,
		"load last believes the server and not the sender":            testLoadLastBelievesTheServerAndNotTheSender,
		"tail ends with what is there":                                testTailEndsWithWhatIsThere,
		"tail follows":                                                testTailFollows,
		"load believes the server and not the sender":                 testLoadBelievesTheServerAndNotTheSender,
		"consume delivers in order and once":                          testConsumeDeliversInOrderAndOnce,
		"consume repeats a failed message before the next":            testConsumeRepeatsAFailedMessageBeforeTheNext,
		"consume moves a permanent failure to the dead letters":       testConsumeMovesAPermanentFailureToTheDeadLetters,
		"consume keeps a message whose dead letter cannot be written": testConsumeKeepsAMessageWhoseDeadLetterCannotBeWritten,
		"consume brings an unanswered message again after a stop":     testConsumeBringsAnUnansweredMessageAgainAtOnceAfterAStop,
		"consume hands back what is under way at a stop":              testConsumeHandsBackWhatIsUnderWayAtAStop,
		"consume brings a message again when its consumer died":       testConsumeBringsAMessageAgainWhenItsConsumerDied,
		"consume does not repeat what is being handled":               testConsumeDoesNotRepeatWhatIsBeingHandled,
		"consume ends with its context":                               testConsumeEndsWithItsContext,
		"consume of an unknown stream names it":                       testConsumeOfAnUnknownStreamNamesIt,
		"consume begins anew when its position was deleted":           testConsumeBeginsAnewWhenItsPositionWasDeleted,
		"consume ends when its stream is gone":                        testConsumeEndsWhenItsStreamIsGone,
		"consume with since skips what was before":                    testConsumeWithSinceSkipsWhatWasBefore,
		"batches bring everything in order and once":                  testBatchesBringEverythingInOrderAndOnce,
		"a batch keeps to its limits":                                 testABatchKeepsToItsLimits,
		"a batch repeats from the message that failed":                testABatchRepeatsFromTheMessageThatFailed,
		"a batch goes on behind a message given up":                   testABatchGoesOnBehindAMessageGivenUp,
		"batches go on where a stop left them":                        testBatchesGoOnWhereAStopLeftThem,
		"batches go on where a dead process left them":                testBatchesGoOnWhereADeadProcessLeftThem,
		"batches are worked off by one process at a time":             testBatchesAreWorkedOffByOneProcessAtATime,
		"messages are seen before their batch":                        testMessagesAreSeenBeforeTheirBatch,
		"who cannot take over gives the place back":                   testWhoCannotTakeOverGivesThePlaceBack,
		"a process that lost its position writes nothing down":        testAProcessThatLostItsPositionWritesNothingDown,
		"batches begin anew when their position was deleted":          testBatchesBeginAnewWhenTheirPositionWasDeleted,
		"batches with since skip what was before":                     testBatchesWithSinceSkipWhatWasBefore,
		"batches end when their stream is gone":                       testBatchesEndWhenTheirStreamIsGone,
		"consuming believes the server and not the sender":            testConsumingBelievesTheServerAndNotTheSender,
		"keys":                                   testKeys,
		"a key is updated at its revision only":  testAKeyIsUpdatedAtItsRevisionOnly,
		"a key is deleted and created again":     testAKeyIsDeletedAndCreatedAgain,
		"what is no key is refused":              testWhatIsNoKeyIsRefused,
		"watch gives what is there and changes":  testWatchGivesWhatIsThereAndChanges,
		"watch ends with its function's error":   testWatchEndsWithItsFunctionsError,
		"a snapshot never goes back":             testASnapshotNeverGoesBack,
		"a snapshot and its tail make the whole": testASnapshotAndItsTailMakeTheWhole,
		"blobs":                                  testBlobs,
		"ensure may be repeated":                 testEnsureMayBeRepeated,
		"ensure does not delete messages":        testEnsureDoesNotDeleteMessages,
		"plan tells what ensure would do":        testPlanTellsWhatEnsureWouldDo,
		"check tells what is missing":            testCheckTellsWhatIsMissing,
		"ensure keeps what was set by hand":      testEnsureKeepsWhatWasSetByHand,
	}
}

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = 30 * time.Second

const (
	stream     = "LOG"
	letters    = "LETTERS"
	deadLetter = "letters.worker"
	blobs      = "blobs"
	// Any bucket will do, and this one has to be there.
	bucket = bus.Positions
)

// world is a bus with the streams and buckets of these tests and nothing in them.
type world struct {
	*natsbus.Bus
	opts     natsbus.Options
	replicas int
	js       jetstream.JetStream // looks past the bus
}

// wanted is what is in a world.
func (w *world) wanted() (streams []bus.Stream, keyValues []bus.Bucket) {
	streams = []bus.Stream{
		{Name: stream, Subjects: []string{"log.>"}, Replicas: w.replicas},
		{Name: letters, Subjects: []string{"letters.>"}, MaxAge: time.Hour, Replicas: w.replicas},
	}
	return streams, []bus.Bucket{{Name: bus.Positions, Replicas: w.replicas}}
}

// withBlobs adds the bucket that only blobs need.
func (w *world) withBlobs(t *testing.T) *world {
	t.Helper()
	if err := w.Ensure(limited(t), nil, nil, []bus.Bucket{{Name: blobs, Replicas: w.replicas}}); err != nil {
		t.Fatal(err)
	}
	return w
}

func newWorld(t *testing.T, opts natsbus.Options, replicas int) *world {
	t.Helper()
	w := &world{opts: opts, replicas: replicas}
	w.Bus = w.open(t)
	var connect []nats.Option
	if opts.InProcess != nil {
		connect = append(connect, nats.InProcessServer(opts.InProcess))
	}
	conn, err := nats.Connect(opts.URL, connect...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if w.js, err = jetstream.New(conn); err != nil {
		t.Fatal(err)
	}
	streams, keyValues := w.wanted()
	if err := w.Ensure(limited(t), streams, keyValues, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

// open is another process on the same bus.
func (w *world) open(t *testing.T) *natsbus.Bus {
	t.Helper()
	opts := w.opts
	opts.Name = t.Name()
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	b, err := natsbus.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// inProcess and overTCP give each test a server of its own.
func inProcess(*testing.T) func(*testing.T) *world {
	return func(t *testing.T) *world {
		t.Helper()
		return newWorld(t, natsbus.Options{InProcess: startServer(t, t.TempDir(), 0)}, 0)
	}
}

func overTCP(*testing.T) func(*testing.T) *world {
	return func(t *testing.T) *world {
		t.Helper()
		return newWorld(t, natsbus.Options{URL: startServer(t, t.TempDir(), natsserver.RANDOM_PORT).ClientURL()}, 0)
	}
}

// threeServers gives each test an account of its own on one cluster, whose streams
// are kept three times.
func threeServers(t *testing.T) func(*testing.T) *world {
	t.Helper()
	var accounts []string
	for range suite() {
		accounts = append(accounts, fmt.Sprintf("t%d", len(accounts)))
	}
	cluster := bustest.NewCluster(t, accounts...)
	var given atomic.Int32
	return func(t *testing.T) *world {
		t.Helper()
		account := accounts[given.Add(1)-1]
		w := newWorld(t, natsbus.Options{URL: cluster.URL(account)}, 3)
		// What is left behind costs the other tests time.
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
			defer cancel()
			for name := range w.js.StreamNames(ctx).Name() {
				if err := w.js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
					t.Error(err)
				}
			}
		})
		return w
	}
}

// startServer runs a real server on a folder. Port 0 means no socket.
func startServer(t *testing.T, dir string, port int) *natsserver.Server {
	t.Helper()
	return startServerWith(t, &natsserver.Options{StoreDir: dir, DontListen: port == 0, Port: port})
}

func startServerWith(t *testing.T, opts *natsserver.Options) *natsserver.Server {
	t.Helper()
	opts.ServerName, opts.JetStream, opts.NoSigs, opts.NoLog, opts.Host = "test", true, true, true, "127.0.0.1"
	s, err := natsserver.NewServer(opts)
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

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func text(subject, data string) bus.Message {
	return bus.Message{Subject: subject, Type: "test.Text", Data: []byte(data)}
}

func publish(t *testing.T, b *natsbus.Bus, subject string, texts ...string) (last uint64) {
	t.Helper()
	for _, s := range texts {
		var err error
		if last, err = b.Publish(limited(t), text(subject, s)); err != nil {
			t.Fatal(err)
		}
	}
	return last
}

// load joins what a stream holds on a subject.
func load(t *testing.T, b *natsbus.Bus, stream, subject string) string {
	t.Helper()
	return loadAfter(t, b, stream, subject, 0)
}

func loadAfter(t *testing.T, b *natsbus.Bus, stream, subject string, after uint64) string {
	t.Helper()
	var texts []string
	if err := b.LoadAfter(limited(t), stream, subject, after, func(m bus.Message) error {
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

// eventually waits until something is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s is not so after %s", what, patience)
		}
	}
}

func worker(ackWait time.Duration) bus.Consumer {
	return bus.Consumer{Stream: stream, Durable: "worker", AckWait: ackWait, DeadLetter: deadLetter}
}

// background runs what lasts until its context ends; the returned function ends it
// and gives its error.
func background(t *testing.T, run func(context.Context) error) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return next(t, "the end", done)
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

func consume(t *testing.T, b *natsbus.Bus, c bus.Consumer, handle bus.Handler) (stop func() error) {
	t.Helper()
	return background(t, func(ctx context.Context) error { return b.Consume(ctx, c, handle) })
}

func consumeBatch(t *testing.T, b *natsbus.Bus, c bus.Consumer, handle bus.BatchHandler) (stop func() error) {
	t.Helper()
	return background(t, func(ctx context.Context) error { return b.ConsumeBatch(ctx, c, handle) })
}

// settled waits until the consumer has nothing left to deliver or to hear of.
func settled(t *testing.T, w *world, durable string) {
	t.Helper()
	eventually(t, "a consumer with nothing left", func() bool {
		cons, err := w.js.Consumer(limited(t), stream, durable)
		return err == nil && cons.CachedInfo().NumPending == 0 && cons.CachedInfo().NumAckPending == 0
	})
}
