package gate

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDefaultPolicyIsValid(t *testing.T) {
	t.Parallel()
	if err := DefaultPolicy().Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestPolicyNamesEveryBadField(t *testing.T) {
	t.Parallel()
	bad := Policy{Alpha: math.NaN(), Beta: 0.6, Tol: 0.5, Margin: 1, AcceptableRate: -1, FloorRate: 2, Partners: 1,
		Maturation: -time.Second, BurstWindow: -1, Bucket: time.Millisecond, Deadline: 0, MaxLate: 0.9}
	err := bad.Validate()
	if err == nil {
		t.Fatal("a policy with nothing right in it is valid")
	}
	for _, key := range []string{"alpha", "beta", "tol", "margin", "acceptable_rate", "floor_rate", "partners", "planned_trials",
		"maturation", "burst_window", "bucket", "deadline", "max_late"} {
		if !strings.Contains(err.Error(), key+" is ") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}

func TestMarginMustExceedTol(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	p.Tol, p.Margin = 3, 2
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "above tol (3)") {
		t.Errorf("margin 2 with tol 3: %v", err)
	}
}

// Every field changes the hash, or a policy could change unseen.
func TestPolicyHashCoversEveryField(t *testing.T) {
	t.Parallel()
	changes := []func(*Policy){
		func(p *Policy) { p.Alpha *= 1.5 }, func(p *Policy) { p.Beta *= 1.5 }, func(p *Policy) { p.Tol *= 1.5 },
		func(p *Policy) { p.Margin *= 1.5 }, func(p *Policy) { p.AcceptableRate *= 1.5 }, func(p *Policy) { p.FloorRate *= 1.5 },
		func(p *Policy) { p.Partners++ }, func(p *Policy) { p.PlannedTrials++ }, func(p *Policy) { p.Maturation++ },
		func(p *Policy) { p.BurstWindow++ }, func(p *Policy) { p.Bucket++ }, func(p *Policy) { p.Deadline++ }, func(p *Policy) { p.MaxLate *= 1.5 },
	}
	seen := map[string]int{DefaultPolicy().Hash(): -1}
	for i, change := range changes {
		p := DefaultPolicy()
		change(&p)
		if j, taken := seen[p.Hash()]; taken {
			t.Errorf("changes %d and %d share a hash", i, j)
		}
		seen[p.Hash()] = i
	}
	const pinned = "f39e0949d27b9950f6df99436e594c4db2fbc0b59d42c02648ea6d106893fc68"
	if got := DefaultPolicy().Hash(); got != pinned {
		t.Errorf("the default policy's hash is %s, recorded decisions say %s", got, pinned)
	}
}

func TestAbsoluteRoute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		acceptable float64
		want       int
	}{{0.05, 86}, {0.02, 218}} {
		p := DefaultPolicy()
		p.AcceptableRate = c.acceptable
		if n, ok := (Evidence{}).SessionsNeeded(p); !ok || n != c.want {
			t.Errorf("acceptable rate %g: planned for %d sessions, want %d", c.acceptable, n, c.want)
		}
		for n := 0; ; n++ {
			e := Evidence{New: Trials{Succeeded: n}}
			if v, code := e.Judge(p); v == Pass {
				if n != c.want || code != AcceptableRate {
					t.Errorf("acceptable rate %g: passed after %d sessions by %s, want %d by %s", c.acceptable, n, code, c.want, AcceptableRate)
				}
				break
			} else if n > c.want {
				t.Fatalf("acceptable rate %g: %s after %d sessions", c.acceptable, v, n)
			}
		}
	}
}

func TestNoDataIsNoVerdict(t *testing.T) {
	t.Parallel()
	e := Evidence{Baseline: Trials{Succeeded: 10_000}, Cut: 50}
	if v, code := e.Judge(DefaultPolicy()); v != Pending || code != NoData {
		t.Errorf("without new sessions: %s (%s)", v, code)
	}
}

func TestHangingSessionsWithholdPromotion(t *testing.T) {
	t.Parallel()
	e := Evidence{New: Trials{Succeeded: 300}, Baseline: Trials{Succeeded: 1000}}
	p := DefaultPolicy()
	if v, _ := e.Judge(p); v != Pass {
		t.Fatalf("300 good sessions: %s, want pass", v)
	}
	e.Unresolved.New = 30
	if v, code := e.Judge(p); v != Pending || code != ManyUnresolved {
		t.Errorf("30 of 330 without outcome: %s (%s), want pending", v, code)
	}
	e.Unresolved.Baseline = 100
	if v, _ := e.Judge(p); v != Pass {
		t.Errorf("as many without outcome as before: %s, want pass", v)
	}
}

func TestLateIsJudgedForEachArm(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	e := Evidence{New: Trials{Succeeded: 300}, Baseline: Trials{Succeeded: 100_000}, Late: Arms{New: 4}}
	if v, code := e.Judge(p); v != Inconclusive || code != TooManyLate {
		t.Errorf("4 late beside 300: %s (%s), want inconclusive", v, code)
	}
	e.Late = Arms{New: 3, Baseline: 1000}
	if v, _ := e.Judge(p); v != Pass {
		t.Errorf("3 late beside 300: %s, want pass", v)
	}
}

func TestOddsRatioAgreesWithRollback(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	rapid.Check(t, func(t *rapid.T) {
		e := Evidence{Blocks: tables().Draw(t, "table")}
		or := e.OddsRatio(p)
		logE := e.LogRollback(p)
		if math.Abs(logE-p.LogRollbackAt()) < 1e-6 {
			return // the bound is found by bisection, to about 1e-13
		}
		if above := or.Low > p.Tol; above != (logE > p.LogRollbackAt()) {
			t.Fatalf("interval %v but log e %g against %g", or, logE, p.LogRollbackAt())
		}
		if or.Blocks > 0 && !(or.Low <= or.Estimate && or.Estimate <= or.High) {
			t.Fatalf("estimate outside its interval: %+v", or)
		}
	})
}

func TestOddsRatioKnownValues(t *testing.T) {
	t.Parallel()
	// One-to-one blocks: the estimate is the ratio of discordant pairs.
	e := Evidence{Blocks: TableOf(Row{Shape{1, 1, 1, 1}, 60}, Row{Shape{1, 1, 1, 0}, 20}, Row{Shape{1, 1, 0, 0}, 500}, Row{Shape{1, 1, 2, 1}, 3})}
	or := e.OddsRatio(DefaultPolicy())
	near(t, "estimate", or.Estimate, 3, 1e-9)
	if or.Blocks != 80 || or.Low < 1.2 || or.Low > 2 || or.High < 4.5 || or.High > 9 {
		t.Errorf("odds ratio %+v", or)
	}
	none := Evidence{}.OddsRatio(DefaultPolicy())
	if none.Blocks != 0 || none.Low != 0 || !math.IsInf(none.High, 1) || none.String() != "Odds ratio not known yet" {
		t.Errorf("odds ratio of nothing: %+v", none)
	}
}

// tables draws canonical tables of blocks with one new trial.
func tables() *rapid.Generator[Table] {
	return rapid.Custom(func(t *rapid.T) Table {
		return TableOf(rapid.SliceOfN(rows(), 0, 12).Draw(t, "rows")...)
	})
}

func rows() *rapid.Generator[Row] {
	return rapid.Custom(func(t *rapid.T) Row {
		s := Shape{NA: rapid.IntRange(2, 10).Draw(t, "m"), NB: 1, YB: rapid.IntRange(0, 1).Draw(t, "yB")}
		s.Y = s.YB + rapid.IntRange(0, s.NA).Draw(t, "yA")
		return Row{Shape: s, Count: rapid.IntRange(1, 50).Draw(t, "count")}
	})
}

func TestMergeCommutes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := tables().Draw(t, "a"), tables().Draw(t, "b"), tables().Draw(t, "c")
		if diff := cmp.Diff(a.Merge(b), b.Merge(a)); diff != "" {
			t.Fatalf("a+b is not b+a:\n%s", diff)
		}
		if diff := cmp.Diff(a.Merge(b).Merge(c), a.Merge(b.Merge(c))); diff != "" {
			t.Fatalf("(a+b)+c is not a+(b+c):\n%s", diff)
		}
		if got := a.Merge(b).Blocks(); got != a.Blocks()+b.Blocks() {
			t.Fatalf("%d blocks after merging %d and %d", got, a.Blocks(), b.Blocks())
		}
	})
}

func TestTableOrderChangesNothing(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rows(), 0, 12).Draw(t, "rows")
		e := Evidence{Blocks: TableOf(in...)}
		shuffled := Evidence{Blocks: TableOf(rapid.Permutation(in).Draw(t, "shuffled")...)}
		if diff := cmp.Diff(e, shuffled); diff != "" {
			t.Fatalf("tables differ:\n%s", diff)
		}
		if e.LogRollback(p) != shuffled.LogRollback(p) || e.LogPromoteRelative(p) != shuffled.LogPromoteRelative(p) {
			t.Fatal("e-values differ")
		}
		backwards := slices.Clone(e.Blocks)
		slices.Reverse(backwards)
		if got := (Evidence{Blocks: backwards}).Hash("", Pass); got != e.Hash("", Pass) {
			t.Fatal("the hash depends on the order of rows")
		}
	})
}

// The fold's remembered weights give what the evidence's own methods give, to
// the last bit.
func TestScorerIsExact(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	rapid.Check(t, func(t *rapid.T) {
		s := scorer{policy: p}
		var table Table
		for _, r := range rapid.SliceOfN(rows(), 1, 20).Draw(t, "rows") {
			table.Add(r.Shape, r.Count)
			rollback, relative := s.score(table)
			e := Evidence{Blocks: table}
			if rollback != e.LogRollback(p) || relative != e.LogPromoteRelative(p) {
				t.Fatalf("scored %v, %v; evidence says %v, %v", rollback, relative, e.LogRollback(p), e.LogPromoteRelative(p))
			}
		}
	})
}

func TestEvidenceHashCoversEveryInteger(t *testing.T) {
	t.Parallel()
	changes := []func(*Evidence){
		func(*Evidence) {},
		func(e *Evidence) { e.Blocks.Add(Shape{10, 1, 1, 1}, 1) }, func(e *Evidence) { e.Blocks.Add(Shape{10, 1, 1, 0}, 1) },
		func(e *Evidence) { e.Partners++ }, func(e *Evidence) { e.New.Failed++ }, func(e *Evidence) { e.New.Succeeded++ },
		func(e *Evidence) { e.Baseline.Failed++ }, func(e *Evidence) { e.Baseline.Succeeded++ }, func(e *Evidence) { e.Cut++ },
		func(e *Evidence) { e.Unresolved.New++ }, func(e *Evidence) { e.Unresolved.Baseline++ },
		func(e *Evidence) { e.Late.New++ }, func(e *Evidence) { e.Late.Baseline++ },
	}
	seen := map[string]int{}
	note := func(h string, i int) {
		if j, taken := seen[h]; taken {
			t.Errorf("changes %d and %d share a hash", i, j)
		}
		seen[h] = i
	}
	for i, change := range changes {
		var e Evidence
		change(&e)
		note(e.Hash("p", Pass), i)
	}
	note(Evidence{}.Hash("q", Pass), 100)
	note(Evidence{}.Hash("p", Fail), 101)
}
