package recordings_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/services/collector/recordings"
)

// TestEachSessionComesToOneVerdict takes sessions, again and again, in a storage
// that fills late, in no order and not always, and that is now and then away, as a
// whole or for some keys.
func TestEachSessionComesToOneVerdict(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const within, step = 5 * time.Minute, time.Minute
		w := &world{now: noon(), objects: make(map[string]recordings.Object)}
		conf := config()
		conf.PerPoll = rapid.IntRange(1, 12).Draw(t, "per poll")
		conf.Lookback = 240 * time.Hour // nothing is forgotten here
		checker, err := recordings.New(conf, w, func() time.Time { return w.now })
		if err != nil {
			t.Fatal(err)
		}
		away, sick := false, make(map[string]bool)
		w.fails = func(prefix string) error {
			if away || sick[prefix] {
				return refusal{fleet.FailureTimeout}
			}
			return nil
		}
		type story struct {
			heard, filled time.Time     // filled is when content came, zero when none did
			up            time.Duration // how long the storage was there since
			empty         bool          // an object without content came
			verdicts      int
		}
		stories := make(map[fleet.SessionID]*story)
		poll := func() {
			checks, err := checker.Poll(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			storage := 0
			for _, c := range checks {
				if c.Kind == fleet.CheckStorage {
					storage++
					continue
				}
				s := stories[c.Session]
				if s == nil {
					t.Fatalf("a verdict of nobody: %+v", c)
				}
				s.verdicts++
				want := fleet.FailureMissing
				switch {
				case !s.filled.IsZero():
					want = ""
				case s.empty:
					want = fleet.FailureEmpty
				}
				switch {
				case c.Failure != want || c.OK != (want == ""):
					t.Fatalf("%s is judged %q, want %q", c.Session, c.Failure, want)
				case !c.OK && s.up < within:
					t.Fatalf("%s is given up after %s of a storage that was there", c.Session, s.up)
				case away || sick[c.Target]:
					t.Fatalf("%s is judged by a storage that is away", c.Session)
				}
			}
			if storage > 1 {
				t.Fatalf("%d checks of the storage in one poll", storage)
			}
		}
		ids := rapid.SliceOfNDistinct(rapid.IntRange(1, 99), 1, 12, rapid.ID[int]).Draw(t, "sessions")
		one := rapid.SampledFrom(ids)
		tick := func() {
			w.now = w.now.Add(step)
			for _, s := range stories {
				if !away {
					s.up += step
				}
			}
		}
		take := func(t *rapid.T) {
			id := fmt.Sprint("s-", one.Draw(t, "session"))
			ended := session(id)
			ended.End = w.now.Add(-time.Duration(rapid.IntRange(0, 30).Draw(t, "minutes ago")) * time.Minute)
			ended.Start = ended.End.Add(-10 * time.Minute)
			checker.Take(ended)
			if w.now.Sub(ended.End) > within+15*time.Minute {
				return // it ended too long ago, and nothing is heard of it
			}
			if stories[fleet.SessionID(id)] == nil {
				s := &story{heard: w.now}
				stories[fleet.SessionID(id)] = s
				// What came before anyone heard of the session counts.
				if o, ok := w.objects["recordings/"+id]; ok {
					s.empty = o.Size == 0
					if o.Size > 0 {
						s.filled = w.now
					}
				}
			}
		}
		arrive := func(t *rapid.T) {
			id := fmt.Sprint("s-", one.Draw(t, "session"))
			size := rapid.Int64Range(0, 1).Draw(t, "size")
			if w.objects["recordings/"+id].Size > size {
				return // content does not go away
			}
			w.put("recordings/"+id, size)
			if s := stories[fleet.SessionID(id)]; s != nil && s.verdicts == 0 {
				s.empty = true
				if size > 0 {
					s.filled = w.now
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"take": take, "arrive": arrive,
			"poll": func(*rapid.T) { tick(); poll() },
			"away": func(t *rapid.T) { away = rapid.Bool().Draw(t, "away") },
			"sick": func(t *rapid.T) {
				sick[fmt.Sprint("recordings/s-", one.Draw(t, "session"))] = rapid.Bool().Draw(t, "sick")
			},
		})
		away = false
		clear(sick)
		for range 60 {
			tick()
			poll()
		}
		for id, s := range stories {
			if s.verdicts != 1 {
				t.Fatalf("%s came to %d verdicts", id, s.verdicts)
			}
		}
		for _, prefix := range w.asked {
			if stories[fleet.SessionID(strings.TrimPrefix(prefix, "recordings/"))] == nil {
				t.Fatalf("%s was asked of, and nobody was heard of", prefix)
			}
		}
	})
}
