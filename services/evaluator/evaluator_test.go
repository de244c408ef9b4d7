//go:build linux && amd64

package evaluator_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

func TestFromObservationToDecision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "good", "bad")
	l := w.start()
	for _, cluster := range []fleet.ClusterID{"good", "bad"} {
		s := w.source(cluster)
		s.send(w.inventory(cluster, "1", "1"), codec.Observation{Registration: &fleet.Registration{
			Cluster: cluster, LastReport: w.step, Bastions: []fleet.Bastion{{ID: "b1", Version: "1"}},
		}})
		s.send(append(w.sessions(cluster, "old", -500*time.Second, 100, 20), w.mark(cluster, 0))...)
		w.awaitStates(cluster, "locked")
		_, gateID := w.apply(cluster)
		w.awaitOpen(gateID)
		w.advance(time.Second)
		s.send(w.inventory(cluster, "2", "1"))
		w.awaitStates(cluster, "locked", "stepping")
		k := map[fleet.ClusterID]int{"good": 0, "bad": 2}[cluster]
		s.send(append(w.sessions(cluster, "new", 10*time.Second, 20, k), w.mark(cluster, 40*time.Second))...)
	}

	good, bad := w.awaitDecision("r-good-good-gateway"), w.awaitDecision("r-bad-bad-gateway")
	same(t, "verdict of the good gate", "pass", good.GetVerdict())
	same(t, "verdict of the bad gate", "fail", bad.GetVerdict())
	if e := bad.GetEvidence(); e.GetBaselineFailed() != 5 || e.GetBaselineSucceeded() != 95 || e.GetNewFailed() == 0 {
		t.Errorf("the bad gate counts %v", e)
	}
	for _, id := range []string{"r-good-good-gateway", "r-bad-bad-gateway"} {
		l.replay(id)
		if opened, decisions := w.gateFacts(id); opened != 1 || len(decisions) != 1 {
			t.Errorf("gate %s: opened %d times, decided %d times", id, opened, len(decisions))
		}
	}

	// The good one goes on to the end of its rollout, the bad one goes back.
	good2 := w.source("good-2") // Another source may speak of the same cluster.
	good2.cluster = "good"
	good2.incarnation = "other"
	w.record("r-good", "good", rollout.StepPassed{Step: "gateway"}, rollout.StepStarted{Step: "sra"})
	w.advance(time.Second)
	good2.send(w.inventory("good", "2", "2"))
	w.awaitStates("good", "locked", "stepping", "locked")
	w.record("r-good", "good", rollout.ClusterDone{Release: "spring", Package: "p2"})
	w.record("r-bad", "bad", rollout.RollbackStarted{Reason: "gate"}, rollout.ClusterRestored{})
	await(t, "the assignment of spring", func() bool {
		return l.clusters(&fleetv1.ListClustersRequest{}).GetClusters()[1].GetAssignedRelease() == "spring"
	})
	// Restored, as far as the record goes; what runs is still something else.
	w.awaitStates("bad", "locked", "stepping", "drifted")

	await(t, "the archive", func() bool {
		events := 0
		if err := w.bus.Load(t.Context(), topology.StreamEvents, "lockstep.evt.v1.>", func(bus.Message) error { events++; return nil }); err != nil {
			t.Fatal(err)
		}
		return w.store.count(t, "SELECT count() FROM facts FINAL") == events
	})
	for table, want := range map[string]int{"session_events": 240, "progress_marks": 4, "registrations": 2, "inventory_instances": 10} {
		same(t, table, want, w.store.count(t, "SELECT count() FROM "+table+" FINAL"))
	}
	same(t, "archived decisions", 2, w.store.count(t, "SELECT count() FROM facts FINAL WHERE noun = 'gate' AND position(json, 'gate_decided') > 0"))
}

// story is what a source says of one cluster across a step that makes sessions
// fail, poll by poll: sessions connect or fail one poll after they began, one
// never ends, one is heard of too late.
func (w *world) story(cluster fleet.ClusterID) [][]codec.Observation {
	var polls [][]codec.Observation
	for i := range 4 {
		at := -500*time.Second + time.Duration(i)*100*time.Second
		poll := w.sessions(cluster, fmt.Sprintf("old%d-", i), at, 50, 20)
		polls = append(polls, append(poll, w.mark(cluster, at+90*time.Second)))
	}
	var begun []codec.Observation
	for i := range 10 {
		at := 10*time.Second + time.Duration(i)*5*time.Second
		var poll []codec.Observation
		for j, o := range begun {
			later := *o.Session
			later.Status = fleet.SessionConnected
			if (i+j)%2 == 0 {
				later.Status = fleet.SessionFailed
			}
			if i == 3 && j == 0 {
				continue // It hangs.
			}
			poll = append(poll, codec.Observation{Session: &later})
		}
		begun = nil
		for j := range 3 {
			begun = append(begun, w.session(cluster, fmt.Sprintf("new%d-%d", i, j), at+time.Duration(j)*time.Second, fleet.SessionConnecting))
		}
		poll = append(poll, begun...)
		if i == 2 {
			poll = append(poll, w.session(cluster, "forgotten", -495*time.Second, fleet.SessionConnected))
		}
		polls = append(polls, append(poll, w.mark(cluster, at+4*time.Second)))
	}
	return append(polls, []codec.Observation{w.mark(cluster, 5*time.Minute)})
}

// A decision is a function of what was observed, however often and in whatever
// pieces it arrived, and whoever was there to see it.
func TestTheSameSessionsGiveTheSameEvidence(t *testing.T) {
	t.Parallel()
	clusters := []fleet.ClusterID{"plain", "thrice", "again", "pieces", "shuffled", "reread", "afterwards", "failing"}
	w := newWorld(t, clusters...)
	// Some inserts fail first before and then after they were done.
	var mu sync.Mutex
	failures := map[uint64]int{}
	w.store.script(func(when string, records []codec.Record) error {
		mu.Lock()
		defer mu.Unlock()
		for _, r := range records {
			if r.Cluster() != "failing" || r.SourceSequence%7 != 3 {
				continue
			}
			n := failures[r.SourceSequence]
			if n == 0 && when == "before" || n == 1 && when == "after" {
				failures[r.SourceSequence]++
				return errors.New("connection reset")
			}
		}
		return nil
	})
	l := w.start()
	sent := 0
	publish := func(batches ...*observationv1.Batch) {
		for _, b := range batches {
			w.publish(b)
			sent++
		}
	}
	for _, cluster := range clusters {
		s := w.source(cluster)
		polls := w.story(cluster)
		if cluster != "afterwards" {
			_, gateID := w.apply(cluster)
			w.awaitOpen(gateID)
		}
		var earlier []*observationv1.Batch
		if cluster == "pieces" {
			// Never two marks in one message: a source makes one of a cluster a poll.
			for chunk := range slices.Chunk(slices.Concat(polls...), 4) {
				publish(s.batch(chunk...))
			}
			continue
		}
		random := rand.New(rand.NewPCG(1, 2))
		for i, poll := range polls {
			switch cluster {
			case "shuffled":
				rows := poll[:len(poll)-1]
				random.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
			case "reread":
				// The collector starts anew and reads again what it had read.
				if i == len(polls)/2 {
					s.incarnation, s.sequence = "second", 0
					var rows []codec.Observation
					for _, before := range polls[:i] {
						rows = append(rows, before[:len(before)-1]...)
					}
					for chunk := range slices.Chunk(rows, 50) {
						publish(s.batch(chunk...))
					}
				}
			}
			b := s.batch(poll...)
			publish(b)
			earlier = append(earlier, b)
			switch {
			case cluster == "thrice":
				publish(b, b)
			case cluster == "again" && i%6 == 5:
				publish(earlier...)
			}
		}
		if cluster == "afterwards" {
			l.awaitBatches(sent)
			w.apply(cluster)
		}
	}
	want := w.awaitDecision("r-plain-plain-gateway")
	same(t, "verdict", "fail", want.GetVerdict())
	if e := want.GetEvidence(); e.GetLate() != 1 || e.GetNewFailed() == 0 || e.GetBaselineFailed() != 8 {
		t.Fatalf("the story is not the one that was meant: %v", e)
	}
	for _, cluster := range clusters {
		id := rollout.GateID("r-"+rollout.ID(cluster), cluster, "gateway")
		got := w.awaitDecision(id)
		same(t, "evidence hash of "+string(cluster), want.GetEvidenceHash(), got.GetEvidenceHash())
		if _, decisions := w.gateFacts(id); len(decisions) != 1 {
			t.Errorf("gate %s decided %d times", id, len(decisions))
		}
	}
	l.awaitBatches(sent)
	same(t, "failing inserts", map[uint64]int{3: 2, 10: 2}, failures)
	for _, cluster := range clusters {
		l.replay(rollout.GateID("r-"+rollout.ID(cluster), cluster, "gateway"))
	}
	if n := l.meter.observed("missing_message"); n != 0 {
		t.Errorf("%d messages are said to be missing", n)
	}
}

// events lists all events by subject and sequence.
func events(t *testing.T, w *world) []string {
	t.Helper()
	var out []string
	if err := w.bus.Load(t.Context(), topology.StreamEvents, "lockstep.evt.v1.>", func(m bus.Message) error {
		out = append(out, fmt.Sprint(m.Subject, " ", m.Sequence))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestARestartInTheMiddleChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "plain", "restarted", "forgotten")
	l := w.start()
	polls := len(w.story("plain"))
	sources := map[fleet.ClusterID]*source{}
	for _, cluster := range []fleet.ClusterID{"plain", "restarted", "forgotten"} {
		sources[cluster] = w.source(cluster)
		_, gateID := w.apply(cluster)
		w.awaitOpen(gateID)
	}
	for _, poll := range w.story("plain") {
		sources["plain"].send(poll...)
	}
	want := w.awaitDecision("r-plain-plain-gateway")
	for i := range polls {
		sources["restarted"].send(w.story("restarted")[i]...)
		sources["forgotten"].send(w.story("forgotten")[i]...)
		// Some restarts come while batches are under way, some when all is quiet.
		switch i {
		case 2, 8:
			l.stop()
			l = w.start()
		case 5, 10:
			l.stop()
			sources["restarted"].send()
			sources["forgotten"].send()
			for _, c := range consumers() {
				if err := w.bus.DeleteConsumer(t.Context(), c.Stream, c.Durable); err != nil {
					t.Fatal(err)
				}
			}
			l = w.start()
		}
	}
	for _, id := range []string{"r-restarted-restarted-gateway", "r-forgotten-forgotten-gateway"} {
		got := w.awaitDecision(id)
		same(t, "verdict", want.GetVerdict(), got.GetVerdict())
		same(t, "evidence", want.GetEvidenceHash(), got.GetEvidenceHash())
		l.replay(id)
	}

	// Without its positions in the streams the evaluator reads everything again and
	// decides nothing again.
	l.stop()
	before, batches := events(t, w), 0
	if err := w.bus.Load(t.Context(), topology.StreamObservations, "lockstep.obs.v1.>", func(bus.Message) error { batches++; return nil }); err != nil {
		t.Fatal(err)
	}
	for _, c := range consumers() {
		if err := w.bus.DeleteConsumer(t.Context(), c.Stream, c.Durable); err != nil {
			t.Fatal(err)
		}
	}
	l = w.start()
	l.awaitBatches(batches)
	same(t, "events after reading everything again", before, events(t, w))
}

// The evaluator is away when the deadline comes, and the sessions that decide
// wait for it. It must not say that there are none.
func TestADeadlineWaitsForWhatWasMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "decided", "undecided")
	l := w.start()
	gates := map[fleet.ClusterID]string{}
	for _, cluster := range []fleet.ClusterID{"decided", "undecided"} {
		_, gates[cluster] = w.apply(cluster)
		w.awaitOpen(gates[cluster])
	}
	l.stop()
	w.source("decided").send(append(w.sessions("decided", "new", 10*time.Second, 20, 0), w.mark("decided", time.Minute))...)
	w.advance(2 * time.Hour)
	arrive := make(chan struct{})
	w.store.script(func(when string, _ []codec.Record) error {
		if when == "before" {
			<-arrive
		}
		return nil
	})
	w.start()
	w.awaitBeats()
	for cluster, id := range gates {
		if _, decisions := w.gateFacts(id); len(decisions) != 0 {
			t.Errorf("%s was decided before anything arrived: %v", cluster, decisions[0].GetSummary())
		}
	}
	close(arrive)
	same(t, "verdict", "pass", w.awaitDecision(gates["decided"]).GetVerdict())
	w.advance(2 * time.Minute)
	same(t, "verdict without sessions", "inconclusive", w.awaitDecision(gates["undecided"]).GetVerdict())
}

func TestAStoreThatIsDownOnlyDelays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	s := w.source("paris")
	s.send(append(w.sessions("paris", "old", -500*time.Second, 100, 20), w.mark("paris", 0), w.inventory("paris", "1", "1"))...)
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	w.awaitStates("paris", "locked")
	// The state is recorded a moment before the batch counts as handled.
	await(t, "the first batch", func() bool { return l.meter.batches() == 1 })
	handled := l.meter.batches()

	var tries atomic.Int32
	w.store.script(func(when string, _ []codec.Record) error {
		if when == "before" {
			tries.Add(1)
			return errors.New("connection refused")
		}
		return nil
	})
	s.send(w.sessions("paris", "new", 10*time.Second, 10, 0)...)
	s.send(w.mark("paris", 40*time.Second), w.inventory("paris", "1", "1"))
	await(t, "two tries", func() bool { return tries.Load() >= 2 })
	// Far longer than a cluster may be silent; but this silence is not its own.
	w.advance(3 * time.Minute)
	was := tries.Load()
	await(t, "another try", func() bool { return tries.Load() > was })
	same(t, "handled meanwhile", handled, l.meter.batches())
	if _, decisions := w.gateFacts(gateID); len(decisions) != 0 {
		t.Errorf("decided without rows: %v", decisions)
	}
	w.store.script(nil)
	same(t, "verdict", "pass", w.awaitDecision(gateID).GetVerdict())
	l.replay(gateID)
	same(t, "sessions stored", 110, w.store.count(t, "SELECT count() FROM session_events FINAL"))
	same(t, "states", []string{"locked"}, w.states("paris"))
}

// What is missing after the step began may be sessions, and failed ones: the gate
// must not pass, however well the rest does.
func TestAHoleBlindsTheGate(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(w *world, s *source){
		"the message before a mark": func(_ *world, s *source) { s.batch() },
		// The message after the hole has no mark that could tell of it.
		"the message before one without a mark": func(w *world, s *source) {
			s.batch()
			s.send(w.session("paris", "between", 12*time.Second, fleet.SessionConnected))
		},
		"a message that cannot be read": func(w *world, s *source) {
			b := s.batch(w.session("paris", "unreadable", 12*time.Second, fleet.SessionFailed))
			b.Observations[0].Kind = nil
			w.publish(b)
		},
		// The first try to store what follows the hole fails.
		"the message before a failing insert": func(w *world, s *source) {
			s.batch()
			var failed atomic.Bool
			w.store.script(func(when string, _ []codec.Record) error {
				if when == "before" && failed.CompareAndSwap(false, true) {
					return errors.New("connection reset")
				}
				return nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "paris")
			l := w.start()
			s := w.source("paris")
			s.send(append(w.sessions("paris", "old", -500*time.Second, 100, 20), w.mark("paris", 0))...)
			_, gateID := w.apply("paris")
			w.awaitOpen(gateID)
			l.awaitBatches(1)
			lose(w, s)
			first := s.batch(append(w.sessions("paris", "new", 10*time.Second, 10, 0), w.mark("paris", 20*time.Second))...)
			w.publish(first)
			w.publish(first) // A repeat of the message after the hole is no news.
			s.send(append(w.sessions("paris", "newer", 20*time.Second, 20, 0), w.mark("paris", 60*time.Second))...)
			last := s.send(w.mark("paris", 90*time.Second))
			await(t, "the last mark in the evidence", func() bool { return l.gate(gateID).GetDecision().GetStreamSequence() == last })
			w.awaitHandled(last)
			if got := l.gate(gateID).GetDecision(); got.GetVerdict() != "inconclusive" || got.GetReasons()[0].GetCode() != "blind" {
				t.Errorf("after a hole the gate says %s: %s", got.GetVerdict(), got.GetSummary())
			}
			same(t, "missing messages", 1, l.meter.observed("missing_message"))
			w.advance(time.Hour)
			same(t, "verdict", "inconclusive", w.awaitDecision(gateID).GetVerdict())
			l.replay(gateID)
		})
	}
}

// A message whose rows were stored in part when the evaluator died is folded whole
// once it is stored whole.
func TestAHalfStoredMessageIsFoldedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	s := w.source("paris")
	s.send(append(w.sessions("paris", "old", -500*time.Second, 100, 20), w.mark("paris", 0))...)
	_, id := w.apply("paris")
	w.awaitOpen(id)
	l.awaitBatches(1)
	failed := make(chan struct{})
	once := sync.OnceFunc(func() { close(failed) })
	w.store.script(func(when string, records []codec.Record) error {
		if when != "before" {
			return nil
		}
		defer once()
		// The mark goes to another table, after the sessions.
		sessions := slices.DeleteFunc(slices.Clone(records), func(r codec.Record) bool { return r.Session == nil })
		return errors.Join(errors.New("connection reset"), w.store.Store.InsertRecords(w.t.Context(), sessions))
	})
	complete := func() time.Time { return l.gate(id).GetDecision().GetCompleteUntil().AsTime() }
	before := complete()
	s.send(append(w.sessions("paris", "new", 10*time.Second, 20, 0), w.mark("paris", 40*time.Second))...)
	<-failed
	l.stop()
	w.store.script(nil)
	l = w.start()
	await(t, "the mark of the message", func() bool { return complete().Equal(before.Add(40 * time.Second)) })
}

// An evaluator that dies once it has seen a hole, whatever it has stored by then,
// leaves one behind that knows of it, for every cluster that may miss something.
func TestAHoleOutlivesARestart(t *testing.T) {
	t.Parallel()
	down := errors.New("connection reset")
	session := func(r codec.Record) bool { return r.Session != nil }
	for name, fails := range map[string]func(w *world, when string, records []codec.Record) bool{
		"after all was stored and judged": nil,
		"after the hole was stored": func(_ *world, when string, records []codec.Record) bool {
			return when == "before" && slices.ContainsFunc(records, session)
		},
		"after some rows were stored": func(w *world, when string, records []codec.Record) bool {
			if when != "before" || !slices.ContainsFunc(records, session) {
				return false
			}
			if err := w.store.Store.InsertRecords(w.t.Context(), slices.DeleteFunc(slices.Clone(records), func(r codec.Record) bool { return !session(r) })); err != nil {
				w.t.Error(err)
			}
			return true
		},
		"after all was stored": func(_ *world, when string, records []codec.Record) bool {
			return when == "after" && slices.ContainsFunc(records, session)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			neighbour := fleet.ClusterID("paris-0")
			for i := 1; topology.Part(neighbour) != topology.Part("paris"); i++ {
				neighbour = fleet.ClusterID(fmt.Sprint("paris-", i))
			}
			clusters := []fleet.ClusterID{"paris", neighbour}
			w := newWorld(t, clusters...)
			l := w.start()
			s := w.source("paris")
			var old []codec.Observation
			for _, cluster := range clusters {
				old = append(old, append(w.sessions(cluster, "old", -500*time.Second, 100, 20), w.mark(cluster, 0))...)
			}
			s.send(old...)
			gates := make(map[fleet.ClusterID]string)
			for _, cluster := range clusters {
				_, gates[cluster] = w.apply(cluster)
				w.awaitOpen(gates[cluster])
			}
			l.awaitBatches(1)

			failed := make(chan struct{})
			if fails != nil {
				once := sync.OnceFunc(func() { close(failed) })
				w.store.script(func(when string, records []codec.Record) error {
					if !fails(w, when, records) {
						return nil
					}
					once()
					return down
				})
			}
			s.batch() // This one is lost, and the next has no mark of anybody.
			s.send(w.session("paris", "between", 12*time.Second, fleet.SessionConnected))
			if fails == nil {
				l.awaitBatches(2)
			} else {
				<-failed
			}
			l.stop()
			w.store.script(nil)
			l = w.start()

			var last uint64
			for i, until := range []time.Duration{40 * time.Second, 90 * time.Second} {
				var seen []codec.Observation
				for _, cluster := range clusters {
					seen = append(seen, append(w.sessions(cluster, fmt.Sprint("new", i, "-"), until-30*time.Second, 20, 0), w.mark(cluster, until))...)
				}
				last = s.send(seen...)
			}
			for cluster, id := range gates {
				await(t, "the handling of the last mark of "+string(cluster), func() bool { return l.gate(id).GetDecision().GetStreamSequence() == last })
				got := l.gate(id).GetDecision()
				if got.GetVerdict() != "inconclusive" || got.GetReasons()[0].GetCode() != "blind" || !strings.Contains(got.GetSummary(), "messages 2 to 2 of source vendor-paris are missing") {
					t.Errorf("%s: after a hole the gate says %s: %s", cluster, got.GetVerdict(), got.GetSummary())
				}
			}
			w.advance(time.Hour)
			for _, id := range gates {
				same(t, "verdict of "+id, "inconclusive", w.awaitDecision(id).GetVerdict())
				l.replay(id)
			}
			same(t, "rows that tell of the hole", 2, w.store.count(t, "SELECT count() FROM progress_marks FINAL WHERE lost"))
			same(t, "sessions between", 1, w.store.count(t, "SELECT count() FROM session_events FINAL WHERE session_id = 'between'"))
		})
	}
}

// What is missing of a source that sees no sessions is no evidence. Nor is every
// kind of row remembered at a restart, after which one may seem to miss all.
func TestAHoleInWhatIsNoSessionBlindsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	s, engine := w.source("paris"), w.source("paris")
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	engine.batch()
	b := engine.batch(w.inventory("paris", "1", "1"))
	b.Source = "compose-paris"
	w.publish(b)
	s.send(append(w.sessions("paris", "old", -500*time.Second, 100, 20), w.mark("paris", 0))...)
	s.send(append(w.sessions("paris", "new", 10*time.Second, 20, 0), w.mark("paris", 60*time.Second))...)
	same(t, "verdict", "pass", w.awaitDecision(gateID).GetVerdict())
	l.replay(gateID)
	same(t, "missing messages", 1, l.meter.observed("missing_message"))
}

// The rows of a repeat collapse into the first, so nobody else sees it either.
func TestARepeatIsNoNews(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	s := w.source("paris")
	blind := s.batch(codec.Observation{Mark: &fleet.Mark{Cluster: "paris", About: fleet.KindSession, Blind: true, BlindReason: "the log forwarder restarts"}})
	w.publish(blind)
	l.awaitBatches(1)
	same(t, "verdict while blind", "inconclusive", l.gate(gateID).GetDecision().GetVerdict())
	s.send(append(w.sessions("paris", "new", 10*time.Second, 2, 0), w.mark("paris", 20*time.Second))...)
	w.publish(blind)
	l.awaitBatches(3)
	same(t, "verdict with sight", "pending", l.gate(gateID).GetDecision().GetVerdict())
}

func TestNoDataNeverPasses(t *testing.T) {
	t.Parallel()
	counts := map[fleet.ClusterID]int{"none": -1, "zero": 0, "one": 1, "five": 5}
	w := newWorld(t, "none", "zero", "one", "five")
	l := w.start()
	sources := map[fleet.ClusterID]*source{}
	gates := map[fleet.ClusterID]string{}
	sent := 0
	for cluster, n := range counts {
		_, gates[cluster] = w.apply(cluster)
		w.awaitOpen(gates[cluster])
		sources[cluster] = w.source(cluster)
		if n >= 0 { // Of "none" not even a mark comes.
			sources[cluster].send(append(w.sessions(cluster, "new", 10*time.Second, n, 0), w.mark(cluster, time.Minute))...)
			sent++
		}
	}
	l.awaitBatches(sent)
	w.advance(time.Hour - 2*time.Second)
	w.awaitBeats()
	for cluster, id := range gates {
		if _, decisions := w.gateFacts(id); len(decisions) != 0 {
			t.Errorf("%s decided before its deadline: %v", cluster, decisions)
		}
	}
	w.advance(2 * time.Second)
	for _, id := range gates {
		same(t, "verdict of "+id, "inconclusive", w.awaitDecision(id).GetVerdict())
	}
	// What comes later, and a restart, decide nothing again.
	for cluster, s := range sources {
		s.send(append(w.sessions(cluster, "later", 61*time.Second, 30, 0), w.mark(cluster, 3*time.Minute))...)
		sent++
	}
	l.awaitBatches(sent)
	l.stop()
	l = w.start()
	w.advance(time.Hour)
	w.awaitBeats()
	for cluster, id := range gates {
		l.replay(id)
		if _, decisions := w.gateFacts(id); len(decisions) != 1 {
			t.Errorf("%s decided %d times", cluster, len(decisions))
		}
	}
}

func TestMalformedBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	good := w.session("paris", "a", 0, fleet.SessionConnected)
	nameless, kindless := codec.ObservationToProto(good, w.now()), codec.ObservationToProto(good, w.now())
	nameless.Cluster, kindless.Kind = "", nil
	for _, o := range []*observationv1.Observation{nameless, kindless, {}} {
		b := &observationv1.Batch{Source: "vendor", Incarnation: "x", Sequence: 1, Part: topology.Part("paris"), Observations: []*observationv1.Observation{o}}
		w.publish(b)
	}
	if _, err := w.bus.Publish(t.Context(), bus.Message{
		Subject: topology.ObservationSubject(fleet.DefaultTenant, "vendor", 1, "session"), Data: []byte("\xff not a batch"),
	}); err != nil {
		t.Fatal(err)
	}
	// A wrong type is not a batch either, nor does it do harm where it decodes.
	w.put("vendor", 1, &driftv1.Event{Cluster: "paris"})
	// Clusters that are not configured and times that cannot be are left out, the
	// rest of their batch counts.
	s := w.source("paris")
	stranger, ancient, future := good, w.session("paris", "b", -500*24*time.Hour, fleet.SessionConnected), w.mark("paris", 48*time.Hour)
	stranger.Session = &fleet.Session{ID: "c", Cluster: "nowhere", Start: w.now()}
	s.send(stranger, ancient, future, good, w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked")
	await(t, "the session's row", func() bool { return w.store.count(t, "SELECT count() FROM session_events FINAL") > 0 })
	same(t, "sessions stored", 1, w.store.count(t, "SELECT count() FROM session_events FINAL"))
	same(t, "marks stored", 0, w.store.count(t, "SELECT count() FROM progress_marks FINAL"))
	same(t, "observations of unknown clusters", 1, l.meter.observed("unknown_cluster"))
	same(t, "implausible times", 2, l.meter.observed("implausible_time"))

	letters := 0
	for _, c := range consumers() {
		if err := w.bus.Load(t.Context(), topology.StreamDeadLetters, c.DeadLetter, func(bus.Message) error { letters++; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "dead letters", 4, letters)

	// An event that cannot be read goes the same way and stops nothing.
	if _, err := w.bus.Publish(t.Context(), bus.Message{
		Subject: topology.EventSubject(fleet.DefaultTenant, topology.NounRollout, "broken"), Type: "lockstep.rollout.v1.Event", Data: []byte{0xff},
	}); err != nil {
		t.Fatal(err)
	}
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
}

func TestDark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	s := w.source("paris")
	s.send(w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked")
	// An absence of the evaluator's own, however long, is not the cluster's.
	l.stop()
	w.advance(time.Hour)
	l = w.start()
	w.advance(119 * time.Second)
	w.awaitBeats()
	same(t, "states after an absence", []string{"locked"}, w.states("paris"))
	if got := l.clusters(&fleetv1.ListClustersRequest{}).GetClusters()[0].GetState(); got != "locked" {
		t.Errorf("before the limit the cluster is %s", got)
	}
	w.advance(time.Second)
	w.awaitStates("paris", "locked", "dark")
	s.send(w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked", "dark", "locked")
	w.advance(2 * time.Minute)
	w.awaitStates("paris", "locked", "dark", "locked", "dark")
	// A start makes nobody report.
	l.stop()
	w.start()
	w.awaitBeats()
	same(t, "states after a start in the dark", []string{"locked", "dark", "locked", "dark"}, w.states("paris"))
}

// An inventory that did not change is confirmed by marks alone, and a source that
// cannot look says why.
func TestMarksConfirmAnInventory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	s := w.source("paris")
	s.send(w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked")
	mark := func(m fleet.Mark) {
		m.Cluster, m.About = "paris", fleet.KindInventory
		s.send(codec.Observation{Mark: &m})
	}
	for n := range 3 {
		w.advance(119 * time.Second)
		mark(fleet.Mark{CompleteUntil: w.now()})
		await(t, "the mark is taken in", func() bool { return l.meter.observed("mark") == n+1 })
	}
	same(t, "states while marks come", []string{"locked"}, w.states("paris"))
	mark(fleet.Mark{CompleteUntil: w.now(), Blind: true, BlindReason: "the engine does not answer"})
	await(t, "the blind mark is taken in", func() bool { return l.meter.observed("mark") == 4 })
	w.advance(2 * time.Minute)
	w.awaitStates("paris", "locked", "dark")
	reasons := l.clusters(&fleetv1.ListClustersRequest{}).GetClusters()[0].GetReasons()
	if len(reasons) != 2 || reasons[1] != "the engine does not answer" {
		t.Errorf("dark because of %q", reasons)
	}
	mark(fleet.Mark{CompleteUntil: w.now()})
	w.awaitStates("paris", "locked", "dark", "locked")
}

// A source whose clock is hours ahead is dark as soon as any other once it falls
// silent.
func TestAClockAheadDoesNotKeepAClusterLit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	w.start()
	s := w.source("paris")
	ahead := w.inventory("paris", "1", "1")
	ahead.Inventory.ObservedAt = w.now().Add(20 * time.Hour)
	s.send(ahead, codec.Observation{Mark: &fleet.Mark{Cluster: "paris", About: fleet.KindInventory, CompleteUntil: w.now().Add(20 * time.Hour)}})
	w.awaitStates("paris", "locked")
	w.advance(2 * time.Minute)
	w.awaitStates("paris", "locked", "dark")
	// Set right, the clock's next report counts at once.
	s.send(w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked", "dark", "locked")
}

// Messages of clusters that this server does not know leave no rows, and a start
// takes them for no hole.
func TestUnknownClustersAreNoHole(t *testing.T) {
	t.Parallel()
	foreign := fleet.ClusterID("edge-0")
	for i := 1; topology.Part(foreign) != topology.Part("paris"); i++ {
		foreign = fleet.ClusterID(fmt.Sprint("edge-", i))
	}
	w := newWorld(t, "paris")
	l := w.start()
	s, other := w.source("paris"), w.source(foreign)
	s.send(append(w.sessions("paris", "old", -500*time.Second, 100, 20), w.mark("paris", 0))...)
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	for range 3 {
		other.send(w.mark(foreign, 0))
	}
	await(t, "the messages are handled", func() bool { return l.meter.observed("unknown_cluster") == 3 })
	l.stop()
	l = w.start()
	other.send(w.mark(foreign, 0))
	s.send(append(w.sessions("paris", "new", 10*time.Second, 20, 0), w.mark("paris", 60*time.Second))...)
	same(t, "verdict", "pass", w.awaitDecision(gateID).GetVerdict())
	same(t, "missing messages", 0, l.meter.observed("missing_message"))
}

// A session whose start cannot be is promised by the next mark all the same, so it
// is told as lost.
func TestAnImpossibleStartIsALoss(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	s := w.source("paris")
	s.send(append(w.sessions("paris", "old", -500*time.Second, 100, 20), w.mark("paris", 0))...)
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	s.send(w.session("paris", "bad", 48*time.Hour, fleet.SessionFailed))
	await(t, "it is dropped", func() bool { return l.meter.observed("implausible_time") == 1 })
	last := s.send(append(w.sessions("paris", "new", 30*time.Second, 20, 0), w.mark("paris", 90*time.Second))...)
	await(t, "the handling of the last mark", func() bool { return l.gate(gateID).GetDecision().GetStreamSequence() == last })
	if got := l.gate(gateID).GetDecision(); got.GetVerdict() != "inconclusive" || !strings.Contains(got.GetSummary(), "impossible start") {
		t.Errorf("the gate says %s: %s", got.GetVerdict(), got.GetSummary())
	}
	w.advance(time.Hour)
	same(t, "verdict", "inconclusive", w.awaitDecision(gateID).GetVerdict())
	l.replay(gateID)
}

// A collector whose clock is days off is believed what it saw, and not when.
func TestAWrongClockOfTheCollectorDropsNoSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	w.start()
	s := w.source("paris")
	s.send(append(w.sessions("paris", "old", -500*time.Second, 100, 20), w.mark("paris", 0))...)
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	b := s.batch(w.sessions("paris", "bad", 10*time.Second, 20, 1)...) // all failed
	for _, o := range b.GetObservations() {
		o.ObservedAt = timestamppb.New(w.now().Add(48 * time.Hour))
		o.GetSession().End = timestamppb.New(w.now().Add(2000 * time.Hour))
	}
	w.publish(b)
	s.send(append(w.sessions("paris", "new", 30*time.Second, 20, 0), w.mark("paris", 90*time.Second))...)
	same(t, "verdict", "fail", w.awaitDecision(gateID).GetVerdict())
}

// Behind a hole in the messages about what runs, marks confirm nothing until an
// inventory comes.
func TestMarksConfirmNothingBehindAHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	s := w.source("paris")
	s.send(w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked")
	w.advance(time.Second)
	s.batch(w.inventory("paris", "2", "1")) // never sent
	for n := range 2 {
		w.advance(time.Minute)
		s.send(codec.Observation{Mark: &fleet.Mark{Cluster: "paris", About: fleet.KindInventory, CompleteUntil: w.now()}})
		await(t, "the mark is taken in", func() bool { return l.meter.observed("mark") == n+1 })
	}
	w.awaitStates("paris", "locked", "dark")
	if reasons := l.clusters(&fleetv1.ListClustersRequest{}).GetClusters()[0].GetReasons(); len(reasons) != 2 || !strings.Contains(reasons[1], "missing") {
		t.Errorf("dark because of %q", reasons)
	}
	s.send(w.inventory("paris", "2", "1"))
	w.awaitStates("paris", "locked", "dark", "drifted")
}

func TestAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	l := w.start()
	for _, cluster := range []fleet.ClusterID{"a", "b", "c"} {
		_, gateID := w.apply(cluster)
		w.awaitOpen(gateID)
		w.advance(time.Second)
	}
	var ids []string
	token := ""
	for range 3 {
		resp := l.clusters(&fleetv1.ListClustersRequest{PageSize: 1, PageToken: token})
		for _, c := range resp.GetClusters() {
			ids = append(ids, c.GetId())
		}
		token = resp.GetNextPageToken()
	}
	same(t, "clusters, one a page", []string{"a", "b", "c"}, ids)
	same(t, "token after the last page", "", token)

	ids = nil
	for {
		resp, err := l.gates.ListGates(t.Context(), &gatev1.ListGatesRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range resp.GetGates() {
			ids = append(ids, g.GetCluster())
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	same(t, "gates, newest first", []string{"c", "b", "a"}, ids)
	resp, err := l.gates.ListGates(t.Context(), &gatev1.ListGatesRequest{Rollout: "r-b"})
	if err != nil || len(resp.GetGates()) != 1 || resp.GetGates()[0].GetId() != "r-b-b-gateway" {
		t.Errorf("gates of one rollout: %v, %v", resp, err)
	}
	same(t, "verdict of an open gate", "pending", l.gate("r-a-a-gateway").GetDecision().GetVerdict())

	refused := func(err error, id string) {
		t.Helper()
		var e *errs.Error
		if !errors.As(err, &e) || e.ID != id {
			t.Errorf("refused with %v, want %s", err, id)
		}
	}
	_, err = l.gates.GetGate(t.Context(), &gatev1.GetGateRequest{Id: "r0"})
	refused(err, "LS-GAT-001")
	_, err = l.gates.ReplayGate(t.Context(), &gatev1.ReplayGateRequest{Id: "r0"})
	refused(err, "LS-GAT-001")
	_, err = l.gates.ReplayGate(t.Context(), &gatev1.ReplayGateRequest{Id: "r-a-a-gateway"})
	refused(err, "LS-GAT-002")
	_, err = l.gates.ListGates(t.Context(), &gatev1.ListGatesRequest{PageToken: "%"})
	refused(err, "LS-API-002")
}

func TestAClusterThatComesBackGetsTheGateItWaitsFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "tokyo", "paris")
	both := w.config.Clusters
	w.config.Clusters = both[:1]
	l := w.start()
	_, paris := w.apply("paris")
	_, tokyo := w.apply("tokyo")
	// Events come in order, so the one of paris was handled before.
	w.awaitOpen(tokyo)
	if opened, _ := w.gateFacts(paris); opened != 0 {
		t.Fatal("a gate was opened for a cluster that is not configured")
	}
	l.stop()
	w.config.Clusters = both
	w.start()
	w.awaitOpen(paris)
	if opened, _ := w.gateFacts(tokyo); opened != 1 {
		t.Errorf("the gate of tokyo was opened %d times", opened)
	}
}
