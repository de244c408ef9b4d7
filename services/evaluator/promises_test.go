//go:build linux && amd64

package evaluator_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/topology"
)

// What the stream loses is seen as soon as something comes behind it, and lets nothing
// pass: a message that is deleted, one that has rotted on disk, and a stream that was
// made anew.
func TestWhatTheStreamLosesIsSeen(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, w *world, second uint64){
		"a message is deleted": func(t *testing.T, w *world, second uint64) {
			if err := w.server.Stream(t, topology.StreamObservations).DeleteMsg(t.Context(), second); err != nil {
				t.Fatal(err)
			}
		},
		"a bit of a block is flipped": func(t *testing.T, w *world, _ uint64) {
			w.server.Restart(t, func(dir string) { rot(t, dir, "rotten") })
			w.bus = w.server.Open(t)
		},
		"the stream is purged": func(t *testing.T, w *world, _ uint64) {
			if err := w.server.Stream(t, topology.StreamObservations).Purge(t.Context()); err != nil {
				t.Fatal(err)
			}
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
			l.stop()
			s.send(append(w.sessions("paris", "new", 10*time.Second, 5, 0), w.mark("paris", 15*time.Second))...)
			second := s.send(w.session("paris", "rotten", 16*time.Second, fleet.SessionFailed))
			lose(t, w, second)
			l = w.start()
			s.send(append(w.sessions("paris", "newer", 20*time.Second, 30, 0), w.mark("paris", 90*time.Second))...)
			await(t, "a blind gate", func() bool {
				d := l.gate(gateID).GetDecision()
				return d.GetVerdict() == "inconclusive" && d.GetReasons()[0].GetCode() == "blind"
			})
			w.advance(2 * time.Hour)
			d := w.awaitDecision(gateID)
			same(t, "verdict", "inconclusive", d.GetVerdict())
			same(t, "what follows", "hold", d.GetConsequence())
			l.replay(gateID)
		})
	}
}

// rot flips a bit where a text is stored in the blocks of a stream.
func rot(t *testing.T, dir, text string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", topology.StreamObservations, "msgs", "*.blk"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(data, []byte(text)); at >= 0 {
			data[at] ^= 1
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("%q stands in none of %v", text, files)
}

// crashes is of how many stored messages the acknowledgement is lost.
const crashes = 200

// A session counts once, however often the evaluator is cut off between storing a batch
// and acknowledging it.
func TestASessionCountsOnceThroughEveryCrash(t *testing.T) {
	t.Parallel()
	step := time.Now().UTC().Truncate(time.Minute)
	var mu sync.Mutex
	hashes := make(map[bool]map[fleet.ClusterID]string)
	t.Run("worlds", func(t *testing.T) {
		for _, cut := range []bool{false, true} {
			t.Run(fmt.Sprint("cut off ", cut), func(t *testing.T) {
				t.Parallel()
				found := countThrough(t, step, cut)
				mu.Lock()
				defer mu.Unlock()
				hashes[cut] = found
			})
		}
	})
	same(t, "the evidence of each cluster", hashes[false], hashes[true])
}

// undecided is a policy that some dozens of sessions cannot answer.
func undecided() *gate.Plan {
	plan := brisk()
	plan.Statistics.AcceptableRate, plan.Statistics.Margin = 0.001, 1.26
	plan.Step.Checks = map[gate.CheckName]gate.CheckPolicy{gate.CheckSessions: {Demand: gate.DemandPass}}
	return plan
}

// countThrough has one cluster of each partition tell of sessions in many messages and
// returns the hash of each one's evidence.
func countThrough(t *testing.T, step time.Time, cut bool) map[fleet.ClusterID]string {
	t.Helper()
	var clusters []fleet.ClusterID
	taken := make(map[int]bool)
	for i := 0; len(taken) < topology.Partitions; i++ {
		id := fleet.ClusterID(fmt.Sprint("c", i))
		if p := topology.Partition(id); !taken[p] {
			taken[p] = true
			clusters = append(clusters, id)
		}
	}
	w := newWorld(t, clusters...)
	w.step, w.clock = step, step.Add(11*time.Second)
	var mu sync.Mutex
	known := make(map[uint64]bool)
	lost := 0
	w.store.script(func(when string, records []codec.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if when == "before" || !cut {
			return nil
		}
		before := lost
		for _, r := range records { // partitions that store at once share an insert
			if !known[r.StreamSequence] {
				known[r.StreamSequence] = true
				lost++
			}
		}
		if lost == before {
			return nil
		}
		return errors.New("connection reset")
	})
	l := w.start()
	var sources sync.WaitGroup
	gates := make(map[fleet.ClusterID]string)
	for _, cluster := range clusters {
		s := w.source(cluster)
		w.awaitHandled(s.send(append(w.sessions(cluster, "old", -500*time.Second, 300, 20), w.mark(cluster, 0))...))
		_, gates[cluster] = w.applyBy(cluster, undecided())
		w.awaitOpen(gates[cluster])
		sources.Go(func() {
			for i := range crashes / topology.Partitions {
				at := time.Duration(10+i) * time.Second
				id := fmt.Sprint("new", i)
				status := fleet.SessionConnected
				if i%10 == 0 {
					status = fleet.SessionFailed
				}
				w.awaitHandled(s.send(w.session(cluster, id, at, fleet.SessionConnecting), w.session(cluster, id, at, status), w.mark(cluster, at-20*time.Second)))
			}
			w.awaitHandled(s.send(w.mark(cluster, time.Hour)))
		})
	}
	sources.Wait()
	found := make(map[fleet.ClusterID]string)
	for cluster, id := range gates {
		d := l.gate(id).GetDecision()
		if e := d.GetEvidence(); e.GetNewSucceeded()+e.GetNewFailed() != crashes/topology.Partitions {
			t.Errorf("%s: %d and %d sessions are counted", cluster, e.GetNewSucceeded(), e.GetNewFailed())
		}
		found[cluster] = d.GetEvidenceHash()
	}
	if cut && lost < crashes {
		t.Errorf("the acknowledgements of %d messages were lost, want %d", lost, crashes)
	}
	return found
}
