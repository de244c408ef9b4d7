package backtest_test

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/backtest"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// The bounds of binom.test of R.
func TestTheIntervalIsClopperAndPearsons(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		failed, of int
		low, high  float64
	}{
		{0, 20, 0, 0.1684335}, {1, 10, 0.002528579, 0.4450161}, {5, 10, 0.187086, 0.812914}, {10, 10, 0.6915029, 1}, {3, 1000, 0.0006190, 0.0087410},
		{950, 1000, 0.9346, 0.9627}, {0, 1, 0, 0.975},
	} {
		m := backtest.Matrix{Fail: c.failed, Pass: c.of - c.failed}
		got := m.Failed()
		if math.Abs(got.Low-c.low) > 2e-4 || math.Abs(got.High-c.high) > 2e-4 || got.Rate != float64(c.failed)/float64(c.of) {
			t.Errorf("%d of %d: %+v, want %g to %g", c.failed, c.of, got, c.low, c.high)
		}
	}
	if none := (backtest.Matrix{Empty: 3, Unfinished: 2}).Failed(); !math.IsNaN(none.Rate) || none.Low != 0 || none.High != 1 {
		t.Errorf("of none: %+v", none)
	}
}

func TestSum(t *testing.T) {
	t.Parallel()
	step := func(o backtest.Outcome) *backtest.Step {
		return &backtest.Step{Outcome: o, Boundary: gate.Boundary{End: monday()}}
	}
	run := func(v gate.Verdict, hours, exposed, trials int) backtest.Run {
		return backtest.Run{Step: step(backtest.Fake), Case: 1, Verdict: v, At: monday().Add(time.Duration(hours) * time.Hour), Exposed: exposed, Trials: trials}
	}
	other := run(gate.Fail, 99, 99, 99)
	other.Case = 0
	moved := run(gate.Fail, 99, 99, 99)
	moved.Step = step(backtest.Stayed)
	got := backtest.SumOf([]backtest.Run{
		run(gate.Pass, 1, 10, 9), run(gate.Pass, 2, 20, 19), run(gate.Fail, 3, 30, 29), run(gate.Hold, 4, 40, 39), run(gate.Inconclusive, 4, 50, 49),
		run(gate.Inconclusive, 4, 0, 0), run(gate.Pending, 1, 2, 1), other, moved,
	}, 1, backtest.Fake)
	want := backtest.Sum{
		Matrix:        backtest.Matrix{Pass: 2, Fail: 1, Hold: 1, Inconclusive: 1, Empty: 1, Unfinished: 1},
		Held:          backtest.Spread[time.Duration]{Total: 14 * time.Hour, Median: 3 * time.Hour, P90: 4 * time.Hour},
		ToFail:        backtest.Spread[time.Duration]{Total: 3 * time.Hour, Median: 3 * time.Hour, P90: 3 * time.Hour},
		Exposed:       backtest.Spread[int]{Total: 150, Median: 30, P90: 50},
		ToFailExposed: backtest.Spread[int]{Total: 30, Median: 30, P90: 30},
		Trials:        backtest.Spread[int]{Total: 145, Median: 29, P90: 49},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Judged() != 5 || got.Decided() != 3 {
		t.Errorf("%d judged, %d decided", got.Judged(), got.Decided())
	}
}

func TestProposal(t *testing.T) {
	t.Parallel()
	of := func(failed int) backtest.Matrix { return backtest.Matrix{Fail: failed, Pass: 200 - failed} }
	for name, c := range map[string]struct {
		tried map[float64]backtest.Matrix
		want  float64
	}{
		"the smallest that keeps it": {map[float64]backtest.Matrix{1: of(9), 1.25: of(2), 1.5: of(2), 2: of(0)}, 1.25},
		"the first":                  {map[float64]backtest.Matrix{1: of(0), 1.25: of(0)}, 1},
		"one is missing":             {map[float64]backtest.Matrix{1: of(9), 1.5: of(1)}, 1.5},
		"none":                       {map[float64]backtest.Matrix{1: of(9), 1.25: of(3)}, 0},
		"nothing to tell it from":    {map[float64]backtest.Matrix{1: {Empty: 9}}, 0},
	} {
		got, ok := backtest.Propose(0.01, c.tried)
		if got != c.want || ok != (c.want > 0) {
			t.Errorf("%s: %g, %v", name, got, ok)
		}
	}
	p := gate.DefaultPolicy()
	if _, room := backtest.Tolerant(p, 2); room {
		t.Error("a tolerance of 2 beside a margin of 2 passed")
	}
	if q, room := backtest.Tolerant(p, 1.5); !room || q.Tol != 1.5 {
		t.Errorf("%+v", q)
	}
}
