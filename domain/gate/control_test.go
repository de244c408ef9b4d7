package gate

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// expectedControlE enumerates every outcome of a controlled block: a share of
// treated and of controls fails before, a shock multiplies the odds of both after,
// and the step those of the treated by truth.
func expectedControlE(size ControlShape, treated, control, shock, truth, w1, w0 float64) float64 {
	binomial := func(n, k int, p float64) float64 {
		return math.Exp(logChoose(n, k)) * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
	}
	sum := 0.0
	for yA := range size.NA + 1 {
		for yB := range size.NB + 1 {
			for zA := range size.CA + 1 {
				for zB := range size.CB + 1 {
					s := size
					s.Y, s.Z, s.S, s.YB = yA+yB, zA+zB, yB+zB, yB
					sum += binomial(s.NA, yA, treated) * binomial(s.NB, yB, shifted(treated, shock*truth)) *
						binomial(s.CA, zA, control) * binomial(s.CB, zB, shifted(control, shock)) * math.Exp(s.LogE(w1, w0))
				}
			}
		}
	}
	return sum
}

// At its null no bet gains, whatever the rates and whatever hit both sides.
func TestControlledExpectationByEnumeration(t *testing.T) {
	t.Parallel()
	size := ControlShape{NA: 4, NB: 3, CA: 5, CB: 4}
	for _, treated := range []float64{0.01, 0.2, 0.7} {
		for _, control := range []float64{0.05, 0.5} {
			for _, shock := range []float64{0.1, 1, 10} {
				for _, g := range rollbackGrid() {
					near(t, "E[e] of rollback at the null", expectedControlE(size, treated, control, shock, 1.25, g*1.25, 1.25), 1, 1e-11)
					if e := expectedControlE(size, treated, control, shock, 0.7, g*1.25, 1.25); e > 1+1e-11 {
						t.Errorf("E[e] of rollback within tol is %.15g, above 1", e)
					}
				}
				for _, h := range promoteGrid() {
					near(t, "E[e] of promote at the null", expectedControlE(size, treated, control, shock, 2, h, 2), 1, 1e-11)
					if e := expectedControlE(size, treated, control, shock, 3, h, 2); e > 1+1e-11 {
						t.Errorf("E[e] of promote past margin is %.15g, above 1", e)
					}
				}
			}
		}
	}
}

func TestControlledBlockByHand(t *testing.T) {
	t.Parallel()
	// x is 0 or 1, of weights C(1,0)·C(1,1)·C(2,1)·C(2,1) = 4 and 1·1·1·1·ψ.
	s := ControlShape{NA: 1, NB: 1, CA: 2, CB: 2, Y: 1, Z: 2, S: 1, YB: 1}
	near(t, "e-value", math.Exp(s.LogE(3, 1)), (3./7)/(1./5), 1e-14)
	s.YB = 0
	near(t, "e-value", math.Exp(s.LogE(3, 1)), (4./7)/(4./5), 1e-14)
}

// Where controls say nothing of what is common, the block says nothing; where they
// say surely that nothing is, it says what it says by itself.
func TestControlsThatNeverFailSettleABlock(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Shape{NA: rapid.IntRange(0, 30).Draw(t, "nA"), NB: rapid.IntRange(0, 10).Draw(t, "nB")}
		yA := rapid.IntRange(0, s.NA).Draw(t, "yA")
		s.YB = rapid.IntRange(0, s.NB).Draw(t, "yB")
		s.Y = yA + s.YB
		silent := ControlShape{NA: s.NA, NB: s.NB, CA: 1000, CB: 50, Y: s.Y, S: s.YB, YB: s.YB}
		if got := silent.LogE(5, 1.25); got != 0 {
			t.Fatalf("beside controls that never fail: %g, want 0", got)
		}
		silent.Z, silent.S = 1050, s.YB+50
		if got := silent.LogE(5, 1.25); got != 0 {
			t.Fatalf("beside controls that always fail: %g, want 0", got)
		}
		const many = 40_000_000
		telling := ControlShape{NA: s.NA, NB: s.NB, CA: many, CB: many, Y: s.Y, Z: many / 5, S: s.YB + many/10, YB: s.YB}
		if got, want := telling.LogE(5, 1.25), LogE(s, 5, 1.25); math.Abs(got-want) > 1e-4 {
			t.Fatalf("beside many controls that fail as before: %g, by itself %g", got, want)
		}
	})
}

func TestControlledBlocksOfMillions(t *testing.T) {
	t.Parallel()
	s := ControlShape{NA: 5_000_000, NB: 500_000, CA: 9_000_000, CB: 900_000, Y: 110_000, Z: 198_000, S: 28_000, YB: 10_000}
	for _, w1 := range []float64{1e-6, 0.7, 12.5, 1e6} {
		if got := s.LogE(w1, 1.25); math.IsNaN(got) || math.IsInf(got, 0) {
			t.Errorf("a bet on %g gives %v", w1, got)
		}
	}
	if got := s.LogE(1, 1.25); got < 100 {
		t.Errorf("failures that rose alike at both sides: %g for odds ratio 1 against 1.25, want much", got)
	}
}

func TestInvalidControlShapeIsNaN(t *testing.T) {
	t.Parallel()
	good := ControlShape{NA: 4, NB: 2, CA: 6, CB: 3, Y: 3, Z: 2, S: 2, YB: 1}
	if got := good.LogE(2, 1); math.IsNaN(got) {
		t.Fatalf("LogE(%+v) is NaN", good)
	}
	for i, spoil := range []func(*ControlShape){
		func(s *ControlShape) { s.NA = 1 }, func(s *ControlShape) { s.NB = 0 }, func(s *ControlShape) { s.CA = 0 }, func(s *ControlShape) { s.CB = 0 },
		func(s *ControlShape) { s.Y = 0 }, func(s *ControlShape) { s.Z = 0 }, func(s *ControlShape) { s.S = 0 }, func(s *ControlShape) { s.YB = -1 },
		func(s *ControlShape) { s.Y = -1 }, func(s *ControlShape) { s.S = math.MinInt }, func(s *ControlShape) { s.Z = math.MaxInt },
	} {
		s := good
		spoil(&s)
		if got := s.LogE(2, 1); !math.IsNaN(got) {
			t.Errorf("%d: LogE(%+v) = %v, want NaN", i, s, got)
		}
	}
}

func controlRows() *rapid.Generator[ControlRow] {
	return rapid.Custom(func(t *rapid.T) ControlRow {
		cell := func(most int, of string) (n, failed int) {
			n = rapid.IntRange(0, most).Draw(t, of)
			return n, rapid.IntRange(0, n).Draw(t, of+" failed")
		}
		nA, yA := cell(8, "treated before")
		nB, yB := cell(3, "treated after")
		cA, zA := cell(8, "controls before")
		cB, zB := cell(4, "controls after")
		return ControlRow{ControlShape{NA: nA, NB: nB, CA: cA, CB: cB, Y: yA + yB, Z: zA + zB, S: yB + zB, YB: yB}, rapid.IntRange(1, 9).Draw(t, "count")}
	})
}

func controlTable(rows []ControlRow) (t ControlTable) {
	for _, r := range rows {
		t.Add(r.ControlShape, r.Count)
	}
	return t
}

func TestControlTableOrderChangesNothing(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(controlRows(), 0, 10).Draw(t, "rows")
		whole := controlTable(in)
		cut := rapid.IntRange(0, len(in)).Draw(t, "cut")
		shuffled := rapid.Permutation(in).Draw(t, "shuffled")
		merged := controlTable(shuffled[:cut]).Merge(controlTable(shuffled[cut:]))
		if diff := cmp.Diff(whole, merged); diff != "" {
			t.Fatalf("tables differ:\n%s", diff)
		}
		if whole.LogRollback(p) != merged.LogRollback(p) || whole.LogPromote(p) != merged.LogPromote(p) {
			t.Fatal("e-values differ")
		}
		backwards := slices.Clone(whole)
		slices.Reverse(backwards)
		if diff := cmp.Diff(string(whole.Append(nil)), string(backwards.Append(nil))); diff != "" {
			t.Fatalf("texts differ:\n%s", diff)
		}
		taken := whole.Merge(nil)
		for _, r := range in {
			taken.Add(r.ControlShape, -r.Count)
		}
		if len(taken) != 0 {
			t.Fatalf("%d rows are left of nothing", len(taken))
		}
	})
}

// One more failure among the treated instead of among the controls is never less
// evidence against the step.
func TestControlledEvidenceGrowsWithFailures(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := controlRows().Draw(t, "row").ControlShape
		more := s
		more.YB++
		if !more.Valid() {
			return
		}
		if a, b := s.LogE(3, 1.25), more.LogE(3, 1.25); a > b+1e-12 {
			t.Fatalf("%+v gives %g, one more failure %g", s, a, b)
		}
	})
}

func hours(first int, counts ...[4]int) (out []Interval) {
	for i, c := range counts {
		out = append(out, Interval{
			Start:   noon.Add(time.Duration(first+i) * time.Hour),
			Treated: Trials{Failed: c[0], Succeeded: c[1] - c[0]}, Control: Trials{Failed: c[2], Succeeded: c[3] - c[2]},
		})
	}
	return out
}

func TestPair(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	p.PlannedTrials = 10 // 26 trials before: 2 partners
	before := hours(-4, [4]int{1, 8, 2, 30}, [4]int{0, 6, 1, 20}, [4]int{2, 10, 0, 40}, [4]int{0, 2, 1, 10})
	for _, c := range []struct {
		name          string
		before, after []Interval
		want          []ControlShape
	}{
		{"whole intervals, oldest first, each once", before, hours(1, [4]int{1, 4, 3, 25}, [4]int{0, 5, 0, 9}),
			[]ControlShape{{NA: 8, NB: 4, CA: 30, CB: 25, Y: 2, Z: 5, S: 4, YB: 1}, {NA: 16, NB: 5, CA: 60, CB: 9, Y: 2, Z: 1}}},
		{"without trials of both sides no block", before, hours(1, [4]int{1, 4, 0, 0}, [4]int{0, 0, 2, 9}, [4]int{1, 4, 0, 9}),
			[]ControlShape{{NA: 8, NB: 4, CA: 30, CB: 9, Y: 2, Z: 2, S: 1, YB: 1}}},
		{"until the baseline runs out", before, hours(1, [4]int{1, 12, 3, 25}, [4]int{0, 5, 0, 9}, [4]int{0, 1, 0, 9}),
			[]ControlShape{{NA: 24, NB: 12, CA: 90, CB: 25, Y: 4, Z: 6, S: 4, YB: 1}}},
		{"an interval after the step is no baseline", slices.Concat(before, hours(1, [4]int{9, 100, 9, 100})), hours(1, [4]int{1, 4, 3, 25}),
			[]ControlShape{{NA: 8, NB: 4, CA: 30, CB: 25, Y: 2, Z: 5, S: 4, YB: 1}}},
		{"controls before the step are waited for", hours(-4, [4]int{1, 20, 0, 0}, [4]int{1, 6, 0, 0}, [4]int{1, 2, 1, 7}), hours(1, [4]int{1, 4, 3, 25}),
			[]ControlShape{{NA: 28, NB: 4, CA: 7, CB: 25, Y: 4, Z: 4, S: 4, YB: 1}}},
		{"no baseline", nil, hours(1, [4]int{1, 4, 3, 25}), nil},
		{"nothing after", before, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var want ControlTable
			for _, s := range c.want {
				want.Add(s, 1)
			}
			if diff := cmp.Diff(want, Pair(p, c.before, c.after)); diff != "" {
				t.Errorf("blocks (-want +got):\n%s", diff)
			}
		})
	}
}

func intervals(first int) *rapid.Generator[[]Interval] {
	one := rapid.Custom(func(t *rapid.T) [4]int {
		n, c := rapid.IntRange(0, 9).Draw(t, "treated"), rapid.IntRange(0, 20).Draw(t, "controls")
		return [4]int{rapid.IntRange(0, n).Draw(t, "treated failed"), n, rapid.IntRange(0, c).Draw(t, "controls failed"), c}
	})
	return rapid.Custom(func(t *rapid.T) []Interval { return hours(first, rapid.SliceOfN(one, 0, 20).Draw(t, "intervals")...) })
}

// sizes are the blocks without their failures.
func sizes(t ControlTable) map[string]int {
	out := map[string]int{}
	for _, r := range t {
		out[fmt.Sprint(r.NA, r.NB, r.CA, r.CB)] += r.Count
	}
	return out
}

func TestPairLaws(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	p.PlannedTrials = 10
	rapid.Check(t, func(t *rapid.T) {
		before, after := intervals(-20).Draw(t, "before"), intervals(1).Draw(t, "after")
		got := Pair(p, before, after)
		var used, there [4]int
		for _, r := range got {
			if !r.Valid() {
				t.Fatalf("a block that cannot be: %+v", r)
			}
			for i, n := range [...]int{r.NA, r.NB, r.CA, r.CB} {
				used[i] += r.Count * n
			}
		}
		for _, i := range before {
			there[0], there[2] = there[0]+i.Treated.Total(), there[2]+i.Control.Total()
		}
		for _, i := range after {
			there[1], there[3] = there[1]+i.Treated.Total(), there[3]+i.Control.Total()
		}
		for i := range used {
			if used[i] > there[i] {
				t.Fatalf("%v trials are used of %v", used, there)
			}
		}
		if diff := cmp.Diff(got, Pair(p, rapid.Permutation(before).Draw(t, "shuffled"), rapid.Permutation(after).Draw(t, "shuffled"))); diff != "" {
			t.Fatalf("the order of intervals changes blocks:\n%s", diff)
		}
		// The same trials, failing otherwise, make the same blocks.
		turned := func(in []Interval) []Interval {
			out := slices.Clone(in)
			for i := range out {
				out[i].Treated = Trials{Failed: out[i].Treated.Succeeded, Succeeded: out[i].Treated.Failed}
				out[i].Control = Trials{Failed: out[i].Control.Succeeded, Succeeded: out[i].Control.Failed}
			}
			return out
		}
		if diff := cmp.Diff(sizes(got), sizes(Pair(p, turned(before), turned(after)))); diff != "" {
			t.Fatalf("failures change blocks:\n%s", diff)
		}
		// More time after the step only adds blocks.
		early := Pair(p, before, after[:rapid.IntRange(0, len(after)).Draw(t, "early")])
		for _, r := range early {
			if i := slices.IndexFunc(got, func(o ControlRow) bool { return o.ControlShape == r.ControlShape }); i < 0 || got[i].Count < r.Count {
				t.Fatalf("block %+v is gone later", r)
			}
		}
	})
}

func BenchmarkControlledBlock(b *testing.B) {
	p := DefaultPolicy()
	var table ControlTable
	table.Add(ControlShape{NA: 200, NB: 20, CA: 8000, CB: 800, Y: 5, Z: 180, S: 18, YB: 1}, 1)
	for b.Loop() {
		table.LogRollback(p)
	}
}
