package collector_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/services/collector"
)

// Whatever the sources, the bus and the restarts do: sequences have no holes, no
// session is lost, those of one source keep their order, and a mark comes behind
// what it promises.
func TestNothingIsLostAndOrderIsKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		plan := drawPlan(r)
		// A bubble wants a test of its own, and rapid has none to give.
		failed := make(chan []string, 1)
		t.Run("", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { failed <- plan.run(newWorld(t)) })
		})
		if broken := <-failed; len(broken) > 0 {
			r.Fatal(broken)
		}
	})
}

// plan is what happens in one run of the law.
type plan struct {
	sources  []planned
	maxBatch int
	turns    []turn
}

// planned is a source that brings sessions and a mark behind them, or fails.
type planned struct {
	clusters []fleet.ClusterID
	every    time.Duration
	polls    []int // how many sessions each poll brings, −1 for a failure; over again
}

// turn is a while, and what becomes of the bus and the collector after it.
type turn struct {
	after         time.Duration
	down, restart bool
	deaf          int
}

func drawPlan(r *rapid.T) plan {
	cluster := rapid.SampledFrom([]fleet.ClusterID{"paris", "rome", "berlin", "tokyo", "oslo"})
	source := rapid.Custom(func(r *rapid.T) planned {
		return planned{
			clusters: rapid.SliceOfNDistinct(cluster, 1, 3, rapid.ID).Draw(r, "clusters"),
			every:    time.Duration(rapid.IntRange(900, 3000).Draw(r, "every")) * time.Millisecond,
			polls:    rapid.SliceOfN(rapid.IntRange(-1, 9), 1, 5).Draw(r, "polls"),
		}
	})
	while := rapid.Custom(func(r *rapid.T) turn {
		return turn{
			after: time.Duration(rapid.IntRange(0, 4000).Draw(r, "after")) * time.Millisecond,
			down:  rapid.Bool().Draw(r, "down"), restart: rapid.Bool().Draw(r, "restart"), deaf: rapid.IntRange(0, 2).Draw(r, "deaf"),
		}
	})
	return plan{
		sources: rapid.SliceOfN(source, 1, 3).Draw(r, "sources"), maxBatch: rapid.IntRange(1, 20).Draw(r, "max_batch"),
		turns: rapid.SliceOfN(while, 1, 4).Draw(r, "turns"),
	}
}

// run does what is planned and returns what was broken.
func (p plan) run(w *world) (broken []string) {
	w.config.MaxBatch = p.maxBatch
	var schedules []collector.Schedule
	made := make([]atomic.Int64, len(p.sources))
	for i, source := range p.sources {
		turn := 0
		s := polled(func(context.Context) ([]codec.Observation, error) {
			n := source.polls[turn%len(source.polls)]
			turn++
			if n < 0 {
				return nil, errors.New("503")
			}
			var out []codec.Observation
			for range n {
				out = append(out, session(source.clusters[len(out)%len(source.clusters)], fmt.Sprintf("%d-%d", i, made[i].Add(1))))
			}
			for _, cluster := range source.clusters {
				// The mark says how many sessions of the source were sent before it.
				out = append(out, codec.Observation{Mark: &fleet.Mark{Cluster: cluster, About: fleet.KindSession, CompleteUntil: time.Unix(made[i].Load()*10+int64(i), 0)}})
			}
			return out, nil
		}, source.clusters...)
		s.Every = source.every
		schedules = append(schedules, s)
	}
	w.run(schedules...)
	for _, turn := range p.turns {
		letTimePass(turn.after)
		w.bus.mu.Lock()
		w.bus.down, w.bus.deaf = turn.down, turn.deaf
		w.bus.mu.Unlock()
		if turn.restart {
			w.stop()
			w.run(schedules...)
		}
	}
	w.bus.mu.Lock()
	w.bus.down, w.bus.deaf = false, 0
	w.bus.mu.Unlock()
	letTimePass(6 * time.Second)
	w.stop()

	w.bus.unbroken(w.T)
	for i, source := range p.sources {
		var got []string
		last := make(map[fleet.ClusterID]int64)
		for _, cluster := range source.clusters {
			number := int64(0)
			for _, o := range w.bus.observations(cluster, fleet.KindSession) {
				var of int
				if s := o.GetSession(); s != nil {
					if fmt.Sscanf(s.GetId(), "%d-%d", &of, &number); of == i {
						if number <= last[cluster] {
							broken = append(broken, fmt.Sprintf("%s came after %d", s.GetId(), last[cluster]))
						}
						last[cluster] = number
						got = append(got, s.GetId())
					}
				}
				if m := o.GetMark(); m != nil && !m.GetBlind() {
					until := m.GetCompleteUntil().AsTime().Unix()
					if until%10 != int64(i) {
						continue
					}
					// The newest session of this cluster before that mark.
					promised := int64(0)
					for n := int64(1); n <= until/10; n++ {
						if p.clusterOf(i, n) == cluster {
							promised = n
						}
					}
					if promised > last[cluster] {
						broken = append(broken, fmt.Sprintf("a mark of %s promises %d-%d, and %d was the last", cluster, i, promised, last[cluster]))
					}
				}
			}
		}
		slices.Sort(got)
		want := make([]string, 0, made[i].Load())
		for n := range made[i].Load() {
			want = append(want, fmt.Sprintf("%d-%d", i, n+1))
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			broken = append(broken, fmt.Sprintf("source %d gave %d sessions and %d came", i, len(want), len(got)))
		}
	}
	return broken
}

// clusterOf is the cluster of a source's session by its number.
func (p plan) clusterOf(i int, number int64) fleet.ClusterID {
	source := p.sources[i]
	for turn := 0; ; turn++ {
		n := int64(max(source.polls[turn%len(source.polls)], 0))
		if number <= n {
			return source.clusters[int(number-1)%len(source.clusters)]
		}
		number -= n
	}
}
