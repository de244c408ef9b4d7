package gate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// sessionsOf is evidence of new trials, of which every nth failed, each beside ten
// partners of which one in five blocks failed.
func sessionsOf(total, every int) Evidence {
	e := Evidence{Partners: 10, Baseline: Trials{Failed: 200, Succeeded: 9800}}
	for i := range total {
		s := Shape{NA: 10, NB: 1}
		if i%5 == 4 {
			s.Y = 1
		}
		if every > 0 && i%every == every-1 {
			s.Y, s.YB = s.Y+1, 1
			e.New.Failed++
		} else {
			e.New.Succeeded++
		}
		e.Blocks.Add(s, 1)
	}
	return e
}

// wave is a wave of clusters of which every step gate passed.
func wave(of ...Evidence) (w Wave) {
	for i, e := range of {
		w.Clusters = append(w.Clusters, ClusterEvidence{Cluster: fleet.ClusterID(fmt.Sprintf("c%d", i)), Evidence: e, StepsPassed: true})
	}
	return w
}

// beside adds controls to a wave.
func (w Wave) beside(of ...Evidence) Wave {
	for i, e := range of {
		w.Controls = append(w.Controls, ControlEvidence{Cluster: fleet.ClusterID(fmt.Sprintf("k%d", i)), Evidence: e})
	}
	return w
}

// controlled gives every cluster, and the wave, the same controlled block n times.
func (w Wave) controlled(s ControlShape, n int) Wave {
	w.Clusters = slices.Clone(w.Clusters)
	for i := range w.Clusters {
		w.Clusters[i].Control = nil
		w.Clusters[i].Control.Add(s, n)
	}
	w.Control = nil
	w.Control.Add(s, n*len(w.Clusters))
	return w
}

func TestWaveVerdicts(t *testing.T) {
	t.Parallel()
	good, bad, doubtful, quiet := sessionsOf(300, 0), sessionsOf(60, 4), sessionsOf(10, 8), sessionsOf(30, 0)
	// From none in twenty thousand to one in a hundred.
	rare := Evidence{Partners: 10, Baseline: Trials{Succeeded: 20_000}, New: Trials{Failed: 20, Succeeded: 1980}}
	rare.Blocks.Add(Shape{NA: 10, NB: 1}, 1980)
	rare.Blocks.Add(Shape{NA: 10, NB: 1, Y: 1, YB: 1}, 20)
	change := func(w Wave, f func(*Wave)) Wave {
		w.Clusters = slices.Clone(w.Clusters)
		f(&w)
		return w
	}
	many := []Evidence{bad, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good, good}
	rise := ControlShape{NA: 100, NB: 10, CA: 4000, CB: 400, Y: 6, Z: 88, S: 12, YB: 4} // controls as before
	mild := ControlShape{NA: 100, NB: 10, CA: 4000, CB: 400, Y: 3, Z: 88, S: 10, YB: 2}
	same := ControlShape{NA: 100, NB: 10, CA: 4000, CB: 400, Y: 6, Z: 160, S: 84, YB: 4} // controls fail ten times as often, too
	for _, c := range []struct {
		name     string
		wave     Wave
		limits   func(*WaveLimits)
		deadline bool
		verdict  Verdict
		codes    []Code
		named    int
	}{
		{"no clusters", Wave{}, nil, false, Pending, []Code{NoData, NoControls}, 0},
		{"no data never promotes", wave(Evidence{Baseline: Trials{Succeeded: 1e6}}), nil, true, Inconclusive, []Code{NoData, NoControls}, 0},
		{"good", wave(good, good, good), nil, false, Pass, []Code{PassedAsWave, NoControls}, 0},
		{"none alone but all together", wave(quiet, quiet, quiet, quiet, quiet, quiet, quiet, quiet), nil, false, Pass, []Code{PassedAsWave, NoControls}, 0},
		{"too few", wave(quiet, quiet), nil, false, Pending, []Code{Collecting, NoControls}, 0},
		{"too few by the deadline", wave(quiet, quiet), nil, true, Inconclusive, []Code{DeadlinePassed, Collecting, NoControls}, 0},
		{"one in doubt is not outvoted", wave(good, good, doubtful), nil, false, Pending, []Code{InDoubt, NoControls}, 0},
		{"a step gate is missing", change(wave(good, good), func(w *Wave) { w.Clusters[1].StepsPassed = false }), nil, false, Pending, []Code{StepsNotPassed, NoControls}, 0},
		{"late", change(wave(good, good), func(w *Wave) { w.Clusters[1].Evidence.Late.New = 20 }), nil, false, Inconclusive, []Code{TooManyLate, NoControls}, 0},
		{"hanging", change(wave(good, good), func(w *Wave) { w.Clusters[1].Evidence.Unresolved.New = 100 }), nil, false, Pending, []Code{ManyUnresolved, NoControls}, 0},
		{"a check failed", change(wave(good, good), func(w *Wave) { w.Clusters[1].Failed = []CheckName{CheckInventory} }), nil, false, Fail, []Code{CheckFailed, NoControls}, 0},
		{"all bad", wave(bad, bad, bad), nil, false, Fail, []Code{WaveRegression, ManyBad, NoControls}, 3},
		{"one surely bad of many stops all", wave(many...), nil, false, Fail, []Code{WaveRegression, ManyBad, NoControls}, 1},
		{"one alarms, not surely one of many", wave(append([]Evidence{sessionsOf(24, 4)}, many[1:]...)...), nil, false, Hold, []Code{ClusterFailed, NoControls}, 0},
		{"one may fail", wave(append([]Evidence{sessionsOf(24, 4)}, many[1:]...)...), func(l *WaveLimits) { l.MaxFailures = 1 }, false, Pending, []Code{ClusterFailed, InDoubt, NoControls}, 0},
		{"one may fail and went back", change(wave(append([]Evidence{sessionsOf(24, 4)}, many[1:]...)...), func(w *Wave) { w.Clusters[0].RolledBack = true }),
			func(l *WaveLimits) { l.MaxFailures = 1 }, false, Pass, []Code{PassedAsWave, NoControls}, 0},
		{"none may fail and one went back", change(wave(append([]Evidence{sessionsOf(24, 4)}, many[1:]...)...), func(w *Wave) { w.Clusters[0].RolledBack = true }),
			nil, false, Hold, []Code{ClusterFailed, NoControls}, 0},
		{"controls alarm too", wave(bad, bad).beside(bad, bad), nil, false, Hold, []Code{CommonCause}, 0},
		{"controls do not tell yet", wave(bad, bad).beside(quiet), nil, false, Hold, []Code{NotToldApart}, 0},
		{"controls work though they say little", wave(bad, bad).beside(good, good), nil, false, Fail, []Code{WaveRegression, ManyBad}, 2},
		{"controls work but for one", wave(bad, bad).beside(good, good, sessionsOf(20, 4)), nil, false, Hold, []Code{NotToldApart}, 0},
		{"below the floor", wave(rare, rare), nil, false, Hold, []Code{BelowFloor, BelowFloor, NoControls}, 2},
		{"it rose more than with the controls", wave(bad, bad).beside(quiet).controlled(rise, 5), nil, false, Fail, []Code{WaveRegression, ManyBad}, 2},
		{"none rose surely but all together", change(wave(bad, bad).beside(quiet), func(w *Wave) { w.Control.Add(rise, 10) }), nil, false, Fail, []Code{WaveRegression}, 0},
		{"it rose as much as with the controls", wave(bad, bad).beside(bad).controlled(same, 5), nil, false, Hold, []Code{CommonCause}, 0},
		{"controls tell of a regression that hides", wave(good, good).beside(quiet).controlled(mild, 1), nil, false, Pending, []Code{InDoubt}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			limits := DefaultWaveLimits()
			if c.limits != nil {
				c.limits(&limits)
			}
			d := c.wave.Judge(DefaultPolicy(), limits, c.deadline)
			got := make([]Code, len(d.Reasons))
			for i, r := range d.Reasons {
				got[i] = r.Code
			}
			if d.Verdict != c.verdict || !slices.Equal(got, c.codes) || len(d.Named) != c.named {
				t.Errorf("%s by %v, %d named, want %s by %v, %d named: %s (log e %.3g)", d.Verdict, got, len(d.Named), c.verdict, c.codes, c.named, d.Summary, d.LogE)
			}
			if d.Verdict == Pass && !strings.Contains(d.Summary, "romoted as a wave") {
				t.Errorf("it does not say that it was promoted as a wave: %s", d.Summary)
			}
		})
	}
}

// The e-value against a wave, from its definition.
func TestWaveEValue(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Map(tables(), func(b Table) Evidence { return Evidence{Blocks: b} }), 1, 4).Draw(t, "clusters")
		products, mean := [5]float64{}, 0.0
		for i, e := range list {
			for k, g := range rollbackGrid() {
				if i == 0 {
					products[k] = 1
				}
				for _, r := range e.Blocks {
					products[k] *= math.Pow(math.Exp(LogE(r.Shape, g*p.Tol, p.Tol)), float64(r.Count))
				}
			}
			mean += math.Exp(e.LogRollback(p)) / float64(len(list))
		}
		want := mean / 2
		for _, product := range products {
			want += product / 10
		}
		got := wave(list...).Judge(p, DefaultWaveLimits(), false).LogE
		if math.Abs(got-math.Log(want)) > 1e-9*(1+math.Abs(got)) {
			t.Fatalf("log e is %g, want %g", got, math.Log(want))
		}
	})
}

func waves() *rapid.Generator[Wave] {
	evidence := rapid.Custom(func(t *rapid.T) Evidence {
		e := sessionsOf(rapid.IntRange(0, 80).Draw(t, "sessions"), rapid.IntRange(0, 30).Draw(t, "every"))
		e.Late.New = rapid.IntRange(0, 1).Draw(t, "late")
		return e
	})
	return rapid.Custom(func(t *rapid.T) Wave {
		w := wave(rapid.SliceOfN(evidence, 0, 5).Draw(t, "clusters")...).beside(rapid.SliceOfN(evidence, 0, 3).Draw(t, "controls")...)
		for i := range w.Clusters {
			w.Clusters[i].Control = controlTable(rapid.SliceOfN(controlRows(), 0, 3).Draw(t, "beside controls"))
			w.Clusters[i].StepsPassed = rapid.Bool().Draw(t, "steps")
			w.Clusters[i].RolledBack = rapid.IntRange(0, 4).Draw(t, "back") == 0
			w.Control = w.Control.Merge(w.Clusters[i].Control)
		}
		return w
	})
}

func TestOrderOfClustersChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := waves().Draw(t, "wave")
		shuffled := w
		shuffled.Clusters = rapid.Permutation(w.Clusters).Draw(t, "clusters")
		shuffled.Controls = rapid.Permutation(w.Controls).Draw(t, "controls")
		deadline := rapid.Bool().Draw(t, "deadline")
		a, b := w.Judge(DefaultPolicy(), DefaultWaveLimits(), deadline), shuffled.Judge(DefaultPolicy(), DefaultWaveLimits(), deadline)
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatalf("decisions differ:\n%s", diff)
		}
	})
}

// A pass stands on all that it takes, and a deadline leaves nothing pending.
func TestWaveLaws(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	rapid.Check(t, func(t *rapid.T) {
		w := waves().Draw(t, "wave")
		d := w.Judge(p, DefaultWaveLimits(), rapid.Bool().Draw(t, "deadline"))
		if d.Verdict == Pass {
			for i, c := range w.sorted().Clusters {
				if v := d.Clusters[i]; !c.RolledBack && (!c.StepsPassed || v.LogBefore > 0 || v.LogControl > 0) {
					t.Fatalf("passed with %+v of %+v", v, c)
				}
			}
			if d.Evidence.New.Total() == 0 || len(d.Named) > 0 || max(d.LogRelative, d.LogAbsolute) < p.LogPromoteAt() {
				t.Fatalf("passed on %+v", d)
			}
		}
		late := w.Judge(p, DefaultWaveLimits(), true)
		if d.Verdict == "" || late.Verdict == Pending || len(late.Reasons) == 0 || late.Summary == "" {
			t.Fatalf("%q by the deadline: %s", late.Verdict, late.Summary)
		}
		if d.Verdict != Pending && d.Verdict != Inconclusive && late.Verdict != d.Verdict {
			t.Fatalf("%s becomes %s by the deadline", d.Verdict, late.Verdict)
		}
	})
}

func TestWaveHashCoversEverything(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	base := func() (Wave, WaveLimits) {
		return wave(sessionsOf(20, 0), sessionsOf(20, 0)).beside(sessionsOf(5, 0)), DefaultWaveLimits()
	}
	s := ControlShape{NA: 2, NB: 1, CA: 2, CB: 1}
	seen := map[string]int{}
	for i, change := range []func(*Wave, *WaveLimits){
		func(*Wave, *WaveLimits) {},
		func(w *Wave, _ *WaveLimits) { w.Clusters[1].Cluster = "other" },
		func(w *Wave, _ *WaveLimits) { w.Clusters[1].Evidence.Cut++ },
		func(w *Wave, _ *WaveLimits) { w.Clusters[1].StepsPassed = false },
		func(w *Wave, _ *WaveLimits) { w.Clusters[1].RolledBack = true },
		func(w *Wave, _ *WaveLimits) { w.Clusters[1].Failed = []CheckName{CheckProbes} },
		func(w *Wave, _ *WaveLimits) { w.Clusters[0].Control.Add(s, 1) },
		func(w *Wave, _ *WaveLimits) { w.Clusters[1].Control.Add(s, 1) },
		func(w *Wave, _ *WaveLimits) { w.Control.Add(s, 1) },
		func(w *Wave, _ *WaveLimits) { w.Controls = nil },
		func(w *Wave, _ *WaveLimits) { w.Controls[0].Evidence.Cut++ },
		func(_ *Wave, l *WaveLimits) { l.Alpha *= 2 },
		func(_ *Wave, l *WaveLimits) { l.Named *= 2 },
		func(_ *Wave, l *WaveLimits) { l.MaxFailures++ },
	} {
		w, l := base()
		change(&w, &l)
		h := w.Judge(p, l, false).Hash
		if j, taken := seen[h]; taken {
			t.Errorf("changes %d and %d share a hash", i, j)
		}
		seen[h] = i
	}
	w, l := base()
	if h := w.Judge(p, l, true).Hash; seen[h] != 0 || len(h) != 64 {
		t.Errorf("hash %s of another verdict is that of change %d", h, seen[h])
	}
}

func TestWaveLimitsNameEveryBadField(t *testing.T) {
	t.Parallel()
	if err := DefaultWaveLimits().Validate(); err != nil {
		t.Fatal(err)
	}
	err := WaveLimits{Alpha: math.NaN(), Named: 1, MaxFailures: -1}.Validate()
	for _, key := range []string{"alpha", "named", "max_failures"} {
		if err == nil || !strings.Contains(err.Error(), key+" is ") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}

// fleetOf is clusters of which the first are stepped, played hour by hour: each
// has its own rate, a shock multiplies the odds of all after the step and the
// release those of the stepped.
type fleetOf struct {
	stepped, others int
	perHour         int
	shock, release  float64
}

// stops plays a week before and some hours after, looks at every hour and returns
// whether the wave ever failed or any of its clusters did.
func (f fleetOf) stops(seed uint64, p Policy, hoursAfter int) bool {
	const week = 7 * 24
	rng := rand.New(rand.NewPCG(seed, 5))
	n := f.stepped + f.others
	before, after := make([][]Trials, n), make([][]Trials, n)
	draw := func(rate float64) (t Trials) {
		for range f.perHour {
			if rng.Float64() < rate {
				t.Failed++
			} else {
				t.Succeeded++
			}
		}
		return t
	}
	for c := range n {
		rate := 0.01 + 0.03*rng.Float64()
		for range week {
			before[c] = append(before[c], draw(rate))
		}
		now := shifted(rate, f.shock)
		if c < f.stepped {
			now = shifted(now, f.release)
		}
		for range hoursAfter {
			after[c] = append(after[c], draw(now))
		}
	}
	played := make([][]Evidence, n)
	for c := range n {
		played[c] = evidences(before[c], after[c])
	}
	// intervals are those of some stepped clusters beside all controls, the first of
	// the week before or of what follows.
	intervals := func(trials [][]Trials, from, until int, stepped ...int) []Interval {
		out := make([]Interval, until)
		for i := range out {
			out[i].Start = noon.Add(time.Duration(from+i) * time.Hour)
			for _, c := range stepped {
				out[i].Treated = sumTrials(out[i].Treated, trials[c][i])
			}
			for c := f.stepped; c < n; c++ {
				out[i].Control = sumTrials(out[i].Control, trials[c][i])
			}
		}
		return out
	}
	for until := 1; until <= hoursAfter; until++ {
		var w Wave
		for c := f.stepped; c < n; c++ {
			w.Controls = append(w.Controls, ControlEvidence{Cluster: fleet.ClusterID(fmt.Sprint("k", c)), Evidence: played[c][until-1]})
		}
		var all []int
		for c := range f.stepped {
			w.Clusters = append(w.Clusters, ClusterEvidence{
				Cluster: fleet.ClusterID(fmt.Sprint("c", c)), Evidence: played[c][until-1],
				Control: Pair(p, intervals(before, 0, week, c), intervals(after, week, until, c)),
			})
			all = append(all, c)
		}
		w.Control = Pair(p, intervals(before, 0, week, all...), intervals(after, week, until, all...))
		d := w.Judge(p, DefaultWaveLimits(), false)
		if d.Verdict == Fail || slices.ContainsFunc(d.Clusters, func(v ClusterVerdict) bool { return v.Verdict == Fail }) {
			return true
		}
	}
	return false
}

// evidences are those of one cluster at the end of every hour: every new trial
// beside ten of before.
func evidences(before, after []Trials) (out []Evidence) {
	e := Evidence{Partners: 10}
	var pool []bool
	for _, t := range before {
		e.Baseline = sumTrials(e.Baseline, t)
		for i := range t.Total() {
			pool = append(pool, i < t.Failed)
		}
	}
	rand.New(rand.NewPCG(3, 5)).Shuffle(len(pool), func(i, j int) { pool[i], pool[j] = pool[j], pool[i] })
	for _, t := range after {
		e.New = sumTrials(e.New, t)
		for i := range min(t.Total(), len(pool)/10) {
			s := Shape{NA: 10, NB: 1}
			if i < t.Failed {
				s.Y, s.YB = 1, 1
			}
			for _, failed := range pool[:10] {
				if failed {
					s.Y++
				}
			}
			pool = pool[10:]
			e.Blocks.Add(s, 1)
		}
		next := e
		next.Blocks = slices.Clone(e.Blocks)
		out = append(out, next)
	}
	return out
}

// What hits all clusters alike rolls none back, however large; what is the
// release's still does.
func TestSharedShocksAreNotTheReleases(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	for _, c := range []struct {
		fleet       fleetOf
		most, least float64
	}{
		{fleetOf{stepped: 3, others: 20, perHour: 20, shock: 1.6, release: 1}, 0.015, 0},
		{fleetOf{stepped: 3, others: 20, perHour: 20, shock: 3, release: 1}, 0.015, 0},
		{fleetOf{stepped: 3, others: 20, perHour: 20, shock: 10, release: 1}, 0.015, 0},
		{fleetOf{stepped: 3, others: 2, perHour: 20, shock: 3, release: 1}, 0.015, 0},
		{fleetOf{stepped: 3, others: 20, perHour: 20, shock: 1, release: 5}, 1, 0.95},
		{fleetOf{stepped: 3, others: 20, perHour: 20, shock: 3, release: 5}, 1, 0.95},
	} {
		count := suiteCount(t, 60)
		stopped := 0
		for i := range count {
			if c.fleet.stops(uint64(i), p, 12) {
				stopped++
			}
		}
		share := float64(stopped) / float64(count)
		t.Logf("%+v: %.2f %% stopped", c.fleet, 100*share)
		// The runs are few: what is promised may be exceeded by their sampling error.
		if share > c.most+2*sampling(c.most, count) || share < c.least-2*sampling(c.least, count) {
			t.Errorf("%+v: stopped in %.4f of runs, want %g to %g", c.fleet, share, c.least, c.most)
		}
	}
}

func BenchmarkWave(b *testing.B) {
	w := wave()
	for range 20 {
		w.Clusters = append(w.Clusters, wave(sessionsOf(300, 40)).Clusters...)
	}
	w = w.beside(sessionsOf(300, 40), sessionsOf(300, 40)).controlled(ControlShape{NA: 200, NB: 20, CA: 8000, CB: 800, Y: 5, Z: 180, S: 18, YB: 1}, 5)
	for b.Loop() {
		w.Judge(DefaultPolicy(), DefaultWaveLimits(), false)
	}
}
