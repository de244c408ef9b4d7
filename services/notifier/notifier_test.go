package notifier_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/notice"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/bustest"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/services/notifier"
	"github.com/lockstep-fleet/lockstep/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = 30 * time.Second

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// message is an event as the bus would bring it.
func message(t *testing.T, noun, id string, event proto.Message) bus.Message {
	t.Helper()
	data, err := proto.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	return bus.Message{
		Subject: topology.EventSubject(fleet.DefaultTenant, noun, id), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data, Sequence: 7,
	}
}

func rolloutEvent(kinds ...rollout.Kind) *rolloutv1.Event {
	event := &rolloutv1.Event{Rollout: "r1"}
	for _, k := range kinds {
		event.Facts = append(event.Facts, codec.RolloutFactToProto(rollout.Fact{At: noon(), Cluster: "paris", Kind: k}))
	}
	return event
}

func TestNotices(t *testing.T) {
	t.Parallel()
	// A fact of a kind that a later build may add is a field this one does not know.
	unknown := &rolloutv1.Fact{At: timestamppb.New(noon()), Cluster: "paris"}
	unknown.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9000, protowire.VarintType), 1))
	newer := rolloutEvent(rollout.StepPassed{Step: "gateway"})
	newer.Facts = slices.Insert(newer.Facts, 0, unknown)

	state := func(from, to string) *driftv1.Event {
		return &driftv1.Event{Cluster: "paris", Facts: []*driftv1.Fact{
			{Kind: &driftv1.Fact_ReleaseAssigned{ReleaseAssigned: &driftv1.ReleaseAssigned{Release: "spring"}}},
			{Kind: &driftv1.Fact_StateChanged{StateChanged: &driftv1.StateChanged{From: from, To: to, Reasons: []string{"sra should run 3"}, At: timestamppb.New(noon())}}},
		}}
	}
	decided := func(verdict, consequence string) bus.Message {
		return message(t, topology.NounGate, "r1-paris-sra", &gatev1.Event{Gate: "r1-paris-sra", Facts: []*gatev1.Fact{{Kind: &gatev1.Fact_GateDecided{
			GateDecided: &gatev1.GateDecided{Rollout: "r1", Cluster: "paris", Step: "sra", Decision: &gatev1.Decision{Verdict: verdict, Consequence: consequence}},
		}}}})
	}
	for name, test := range map[string]struct {
		message bus.Message
		want    []string
	}{
		"rollout": {
			message(t, topology.NounRollout, "r1", rolloutEvent(rollout.StepPassed{Step: "sra"}, rollout.ClusterDone{Release: "spring"}, rollout.RolloutSucceeded{})),
			[]string{"7/0 step_passed info", "7/1 cluster_succeeded info", "7/2 rollout_succeeded info"},
		},
		"facts that are nobody's business are counted all the same": {
			message(t, topology.NounRollout, "r1", rolloutEvent(rollout.PackageCaptured{Package: "p"}, rollout.StepStarted{Step: "sra"}, rollout.RollbackStarted{Reason: "why"})),
			[]string{"7/2 rollback_started alert"},
		},
		"a fact of a kind not known says nothing": {
			message(t, topology.NounRollout, "r1", newer), []string{"7/1 step_passed info"},
		},
		"gate": {
			message(t, topology.NounGate, "r1-paris-sra", &gatev1.Event{Gate: "r1-paris-sra", Facts: []*gatev1.Fact{
				{Kind: &gatev1.Fact_GateOpened{GateOpened: &gatev1.GateOpened{}}},
				{Kind: &gatev1.Fact_GateDecided{GateDecided: &gatev1.GateDecided{Rollout: "r1", Cluster: "paris", Step: "sra", Decision: &gatev1.Decision{Verdict: "fail"}}}},
			}}),
			[]string{"7/1 gate_decided alert"},
		},
		"a gate that goes on whatever it says": {decided("fail", "go_on"), nil},
		"a gate that people are told of":       {decided("inconclusive", "tell"), []string{"7/0 gate_decided warning"}},
		"a gate that passes":                   {decided("pass", "go_on"), []string{"7/0 gate_decided info"}},
		"a state that calls for attention":     {message(t, topology.NounDrift, "paris", state("locked", "dark")), []string{"7/1 drift_opened warning"}},
		"a state that is well again":           {message(t, topology.NounDrift, "paris", state("dark", "locked")), []string{"7/1 drift_closed info"}},
		"a state that is neither":              {message(t, topology.NounDrift, "paris", state("locked", "stepping")), nil},
		"another noun":                         {message(t, topology.NounStep, "r1.paris", &gatev1.Event{}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			notices, err := notifier.Notices(test.message)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range notices {
				id, ours := strings.CutPrefix(n.ID, test.message.Subject+"/")
				if !ours || n.Title == "" {
					t.Errorf("notice %+v", n)
				}
				got = append(got, fmt.Sprintf("%s %s %s", id, n.Kind, n.Severity))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNoticesOfWhatIsNoEvent(t *testing.T) {
	t.Parallel()
	if _, err := notifier.Notices(bus.Message{Subject: "lockstep.cmd.v1.default.paris"}); err == nil {
		t.Error("a command was taken for an event")
	}
	for _, noun := range []string{topology.NounRollout, topology.NounGate, topology.NounDrift} {
		if _, err := notifier.Notices(bus.Message{Subject: topology.EventSubject(fleet.DefaultTenant, noun, "x"), Data: []byte{0xff}}); err == nil {
			t.Errorf("a broken %s event was read", noun)
		}
	}
}

// sink is scripted: it answers each try from its script, then takes everything.
type sink struct {
	mu     sync.Mutex
	script map[notice.Kind][]error
	ids    []string // as they were tried
	told   chan notice.Notice
}

func newSink() *sink {
	return &sink{script: make(map[notice.Kind][]error), told: make(chan notice.Notice, 64)}
}

func (s *sink) Send(_ context.Context, n notice.Notice) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, n.ID)
	if answers := s.script[n.Kind]; len(answers) > 0 {
		s.script[n.Kind] = answers[1:]
		if answers[0] != nil {
			return answers[0]
		}
	}
	s.told <- n
	return nil
}

func (s *sink) await(t *testing.T, kind notice.Kind) notice.Notice {
	t.Helper()
	select {
	case n := <-s.told:
		if n.Kind != kind {
			t.Fatalf("told of %s, want %s", n.Kind, kind)
		}
		return n
	case <-time.After(patience):
		t.Fatalf("nobody was told of %s", kind)
		return notice.Notice{}
	}
}

type meter struct{}

func (meter) Sent(string, string, bool) {}

// start runs a notifier until stop is called or the test ends.
func start(t *testing.T, b *natsbus.Bus, sinks map[string]notifier.Sink) (stop func()) {
	t.Helper()
	s := notifier.New(sinks, notifier.Deps{Bus: b, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Meter: meter{}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("stopping: %v", err)
			}
		case <-time.After(patience):
			t.Error("the notifier did not stop")
		}
	})
	t.Cleanup(stop)
	return stop
}

func publish(t *testing.T, b *natsbus.Bus, m bus.Message) {
	t.Helper()
	if _, err := b.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func TestDelivery(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, topology.Streams(), topology.KeyValues(), topology.Blobs()).Open(t)
	down, up := newSink(), newSink()
	// The second notice of the first event fails once: the first is told again,
	// under the same id.
	down.script["cluster_succeeded"] = []error{errors.New("429")}
	sinks := map[string]notifier.Sink{"down": down, "up": up}
	stop := start(t, b, sinks)
	publish(t, b, message(t, topology.NounRollout, "r1", rolloutEvent(rollout.StepPassed{Step: "sra"}, rollout.ClusterDone{Release: "spring"})))
	for _, s := range []*sink{up, down} {
		s.await(t, "step_passed")
	}
	up.await(t, "cluster_succeeded")
	down.await(t, "step_passed")
	down.await(t, "cluster_succeeded")
	if ids := down.ids; len(ids) != 4 || ids[0] != ids[2] || ids[1] != ids[3] || ids[0] == ids[1] {
		t.Errorf("tries %q, want two ids, each twice", ids)
	}

	// What happens while nobody listens is told after the restart, once.
	stop()
	publish(t, b, message(t, topology.NounRollout, "r1", rolloutEvent(rollout.RolloutSucceeded{})))
	start(t, b, sinks)
	for _, s := range []*sink{up, down} {
		s.await(t, "rollout_succeeded")
	}
}

func TestASinkThatHangsDelaysNoOther(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, topology.Streams(), topology.KeyValues(), topology.Blobs()).Open(t)
	hangs, up := make(hanging), newSink()
	start(t, b, map[string]notifier.Sink{"hangs": hangs, "up": up})
	for range 3 {
		publish(t, b, message(t, topology.NounRollout, "r1", rolloutEvent(rollout.RolloutSucceeded{})))
		up.await(t, "rollout_succeeded")
	}
	select {
	case <-hangs:
	case <-time.After(patience):
		t.Error("the other sink was not tried")
	}
}

// hanging never answers before it is stopped.
type hanging chan struct{}

func (h hanging) Send(ctx context.Context, _ notice.Notice) error {
	select {
	case h <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestWhatIsGivenUp(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, topology.Streams(), topology.KeyValues(), topology.Blobs()).Open(t)
	s := newSink()
	s.script["step_passed"] = []error{bus.Permanent(errors.New("410"))}
	start(t, b, map[string]notifier.Sink{"one": s})
	// A notice given up silences neither the rest of its event nor the next event,
	// and neither does a message that cannot be read.
	publish(t, b, message(t, topology.NounRollout, "r1", rolloutEvent(rollout.StepPassed{Step: "sra"}, rollout.ClusterDone{Release: "spring"})))
	s.await(t, "cluster_succeeded")
	publish(t, b, bus.Message{Subject: topology.EventSubject(fleet.DefaultTenant, topology.NounGate, "broken"), Data: []byte{0xff}})
	publish(t, b, message(t, topology.NounRollout, "r1", rolloutEvent(rollout.RolloutSucceeded{})))
	s.await(t, "rollout_succeeded")

	letters := 0
	consumer := topology.NotifierEvents("one")
	if err := b.Load(t.Context(), topology.StreamDeadLetters, consumer.DeadLetter, func(bus.Message) error { letters++; return nil }); err != nil {
		t.Fatal(err)
	}
	if letters != 2 {
		t.Errorf("%d dead letters, want 2", letters)
	}
}

func TestNoSinks(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, topology.Streams(), topology.KeyValues(), topology.Blobs()).Open(t)
	start(t, b, nil)()
}

// oneDelivery is a bus that brings one message, as often tried before as it says.
type oneDelivery struct {
	delivery bus.Delivery
	answer   error
}

func (b *oneDelivery) Consume(ctx context.Context, _ bus.Consumer, handle bus.Handler) error {
	b.answer = handle(ctx, b.delivery)
	return nil
}

type refusing struct{}

func (refusing) Send(context.Context, notice.Notice) error { return errors.New("answered 400") }

func TestANoticeThatNobodyTakesMakesWay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		tries   int
		givenUp bool
	}{{1, false}, {2999, false}, {3000, true}} {
		b := &oneDelivery{delivery: bus.Delivery{Message: message(t, topology.NounRollout, "r1", rolloutEvent(rollout.RolloutHeld{Reason: "x"}))}}
		b.delivery.Deliveries = tt.tries
		s := notifier.New(map[string]notifier.Sink{"ops": refusing{}}, notifier.Deps{Bus: b, Log: slog.New(slog.DiscardHandler), Meter: meter{}})
		if err := s.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b.answer == nil || bus.IsPermanent(b.answer) != tt.givenUp {
			t.Errorf("after %d tries the answer is %v, given up: %v", tt.tries, b.answer, tt.givenUp)
		}
	}
}
