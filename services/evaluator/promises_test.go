//go:build linux && amd64

package evaluator_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
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
