package gate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// shock is what happens to a whole fleet at the time of a step.
type shock struct {
	name     string
	odds     float64 // times which everybody's odds of failing rise with the step
	release  float64 // times which those of the stepped cluster rise besides, by the release
	controls []float64
}

const (
	shockTreated   = 0.02 // how often the stepped cluster fails before
	shockBusy      = 10   // sessions of each cluster in an interval
	shockIntervals = 100  // after the step, with a look after each
)

// draw returns one interval after the step with the ten before it that are its
// partners.
func (s shock) draw(rng *rand.Rand, k int) (before []Interval, after Interval) {
	trials := func(rate float64) (t Trials) {
		for range shockBusy {
			if rng.Float64() < rate {
				t.Failed++
			} else {
				t.Succeeded++
			}
		}
		return t
	}
	interval := func(start time.Time, odds, release float64) Interval {
		i := Interval{Start: start, Treated: trials(shifted(shockTreated, odds*release))}
		for _, rate := range s.controls {
			i.Control = sumTrials(i.Control, trials(shifted(rate, odds)))
		}
		return i
	}
	m := DefaultPolicy().Partners
	for j := range m {
		before = append(before, interval(noon.Add(time.Duration(k*m+j-shockIntervals*m)*5*time.Minute), 1, 1))
	}
	return before, interval(noon.Add(time.Duration(k)*5*time.Minute), s.odds, s.release)
}

// controlBets are the logarithms of what the rollback's five bets have paid.
type controlBets [5]float64

func (b *controlBets) add(logE func(w1, w0 float64) float64, p Policy) {
	for k, g := range rollbackGrid() {
		b[k] += logE(g*p.Tol, p.Tol)
	}
}

func (b *controlBets) reached(p Policy) bool { return logMeanExp(b[:]) >= p.LogRollbackAt() }

// play returns after how many sessions of the stepped cluster it was rolled back
// with controls, and by before and after alone; 0 for never.
func (s shock) play(t *testing.T, p Policy, seed uint64, i int) (controlled, alone int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, uint64(i)))
	var with, without controlBets
	var past, since []Interval
	for k := range shockIntervals {
		before, after := s.draw(rng, k)
		past, since = append(past, before...), append(since, after)
		for _, r := range Pair(p, before, []Interval{after}) {
			with.add(r.LogE, p)
			block := Shape{NA: r.NA, NB: r.NB, Y: r.Y, YB: r.YB}
			without.add(func(w1, w0 float64) float64 { return LogE(block, w1, w0) }, p)
		}
		if controlled == 0 && with.reached(p) {
			controlled = (k + 1) * shockBusy
		}
		if alone == 0 && without.reached(p) {
			alone = (k + 1) * shockBusy
		}
		if controlled > 0 && alone > 0 {
			break
		}
	}
	if i%100 == 0 { // what was added up look by look is what the whole says
		whole := Pair(p, past, since)
		near(t, "the e-value of all blocks", whole.LogRollback(p), logMeanExp(with[:]), 1e-9)
		back := slices.Clone(past)
		slices.Reverse(back)
		if diff := cmp.Diff(whole, Pair(p, back, since)); diff != "" {
			t.Errorf("blocks depend on the order of intervals:\n%s", diff)
		}
	}
	return controlled, alone
}

// A shock that the whole fleet has at the time of a step is blamed on the release
// by before and after alone, and not where clusters that were not stepped are set
// beside it. A bad release is found in spite of it.
func TestSuiteShock(t *testing.T) {
	t.Parallel()
	alike := []float64{0.02, 0.02, 0.02, 0.02, 0.02}
	unlike := []float64{0.01, 0.01, 0.02, 0.03, 0.03}
	p := DefaultPolicy()
	p.PlannedTrials = shockBusy // ten intervals before one are enough for ten partners of each of its sessions
	strict := p
	strict.Tol = 1
	cases := []struct {
		shock
		p      Policy
		usual  int
		caught bool
	}{
		{shock{"3x, innocent, Tol 1", 3, 1, alike}, strict, 1200, false},
		{shock{"10x, innocent, Tol 1", 10, 1, alike}, strict, 1200, false},
		{shock{"3x, innocent, controls unlike", 3, 1, unlike}, p, 600, false},
		{shock{"10x, innocent, controls unlike", 10, 1, unlike}, p, 600, false},
		{shock{"3x, release 5x", 3, 5, alike}, p, 200, true},
		{shock{"none, release 5x", 1, 5, alike}, p, 200, true},
	}
	lines := make([]string, len(cases))
	t.Run("plays", func(t *testing.T) {
		for k, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				count := suiteCount(t, c.usual)
				var with, without []int
				for i := range count {
					controlled, alone := c.play(t, c.p, uint64(81+k), i)
					if controlled > 0 {
						with = append(with, controlled)
					}
					if alone > 0 {
						without = append(without, alone)
					}
				}
				got, alone := tally(with, count), tally(without, count)
				lines[k] = fmt.Sprintf("  %-32s %5d runs   with controls %v   before and after alone %v\n", c.name, count, got, alone)
				const limit = 0.015 // alpha, and less than twice the error of 1,200 runs at it
				switch {
				case c.caught && got.share < 0.95:
					t.Errorf("a release that is bad was found in %.1f %% of runs", 100*got.share)
				case !c.caught && got.share > limit:
					t.Errorf("an innocent release was rolled back in %.2f %% of runs, want at most %.2f %%", 100*got.share, 100*limit)
				case !c.caught && alone.share < 0.9:
					t.Errorf("before and after alone blames it in %.1f %% of runs only: the shock is no longer what this tries", 100*alone.share)
				}
			})
		}
	})
	t.Logf("rolled back, median / 90th percentile of the sessions until then; up to %d sessions, alpha %g\n%s",
		shockIntervals*shockBusy, p.Alpha, strings.Join(lines, ""))
}
