package gate

import (
	"math"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s is %.15g, want %.15g within %g", what, got, want, tolerance)
	}
}

// exactFisher is the law in rational arithmetic, straight from its definition.
func exactFisher(nA, nB, y int, w *big.Rat) (lo int, law []*big.Rat) {
	lo = max(0, y-nA)
	total := new(big.Rat)
	power := big.NewRat(1, 1)
	for range lo {
		power.Mul(power, w)
	}
	for x := lo; x <= min(nB, y); x++ {
		ways := new(big.Int).Mul(new(big.Int).Binomial(int64(nB), int64(x)), new(big.Int).Binomial(int64(nA), int64(y-x)))
		term := new(big.Rat).Mul(new(big.Rat).SetInt(ways), power)
		law = append(law, term)
		total.Add(total, term)
		power = new(big.Rat).Mul(power, w)
	}
	for _, p := range law {
		p.Quo(p, total)
	}
	return lo, law
}

func TestFisherPublishedLaw(t *testing.T) {
	t.Parallel()
	lo, law := Fisher(2, 2, 2, 2)
	want := []float64{1. / 13, 8. / 13, 4. / 13}
	if diff := cmp.Diff(want, law, cmpopts.EquateApprox(0, 1e-14)); lo != 0 || diff != "" {
		t.Errorf("law from %d (-want +got):\n%s", lo, diff)
	}
	if _, law := Fisher(2, 2, 5, 2); law != nil {
		t.Errorf("5 failures among 4 trials have law %v, want none", law)
	}
	if _, law := Fisher(2, 2, 2, math.NaN()); law != nil {
		t.Errorf("odds ratio NaN has law %v, want none", law)
	}
}

func TestFisherAgainstRationals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nA, nB := rapid.IntRange(0, 30).Draw(t, "nA"), rapid.IntRange(0, 30).Draw(t, "nB")
		y := rapid.IntRange(0, nA+nB).Draw(t, "y")
		w := big.NewRat(rapid.Int64Range(1, 200).Draw(t, "num"), rapid.Int64Range(1, 200).Draw(t, "den"))
		f, _ := w.Float64()
		lo, law := Fisher(nA, nB, y, f)
		wantLo, want := exactFisher(nA, nB, y, w)
		if lo != wantLo || len(law) != len(want) {
			t.Fatalf("law has %d values from %d, want %d from %d", len(law), lo, len(want), wantLo)
		}
		for i := range want {
			exact, _ := want[i].Float64()
			if math.Abs(law[i]-exact) > 1e-12 {
				t.Fatalf("P(%d) = %.17g, want %.17g", lo+i, law[i], exact)
			}
		}
	})
}

func TestFiveOneToOneBlocks(t *testing.T) {
	t.Parallel()
	block := Shape{NA: 1, NB: 1, Y: 1, YB: 1}
	sum := 0.0
	for n := 1; n <= 5; n++ {
		sum += LogE(block, 3, 1)
		near(t, "e-value", math.Exp(sum), math.Pow(1.5, float64(n)), 1e-13)
	}
}

// A standard Normal mixture over the log odds ratio, on 161 points from −8 to
// 8: the values published with safestats.
func TestNormalMixture(t *testing.T) {
	t.Parallel()
	block := Shape{NA: 1, NB: 1, Y: 1, YB: 1}
	want := []float64{1, 1.173516143432372, 1.520548430297116, 2.105509009062085, 3.057222176662974}
	for n := 1; n <= 5; n++ {
		e, norm := 0.0, 0.0
		for i := range 161 {
			theta := -8 + float64(i)/10
			weight := math.Exp(-theta * theta / 2)
			e += weight * math.Exp(float64(n)*LogE(block, math.Exp(theta), 1))
			norm += weight
		}
		near(t, "mixture", e/norm, want[n-1], 1e-12)
	}
}

func TestSingleBlocksExact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		yA, yB int
		want   float64
	}{
		{0, 1, 33. / 13}, {1, 0, 11. / 13}, {1, 1, 11. / 5}, {2, 0, 11. / 15}, {2, 1, 33. / 17},
		{0, 0, 1}, {10, 1, 1},
	} {
		s := Shape{NA: 10, NB: 1, Y: c.yA + c.yB, YB: c.yB}
		near(t, "e-value", math.Exp(LogE(s, 3, 1)), c.want, 1e-14)
	}
}

func TestClosedFormIsTheBlockForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Shape{NA: rapid.IntRange(1, 100).Draw(t, "m"), NB: 1, YB: rapid.IntRange(0, 1).Draw(t, "yB")}
		s.Y = rapid.IntRange(0, s.NA).Draw(t, "yA") + s.YB
		w1 := rapid.Float64Range(0.05, 100).Draw(t, "w1")
		w0 := rapid.Float64Range(0.05, 100).Draw(t, "w0")
		closed, block := LogE(s, w1, w0), logEBlock(s, w1, w0)
		if math.Abs(closed-block) > 1e-12 {
			t.Fatalf("closed form %.17g, block form %.17g", closed, block)
		}
	})
}

func TestInvalidShapeIsNaN(t *testing.T) {
	t.Parallel()
	for _, s := range []Shape{{NA: 2, NB: 1, Y: 4}, {NA: 2, NB: 1, Y: 1, YB: 2}, {NA: -1, NB: 1}, {NA: 2, NB: 1, Y: -1}, {NA: 2, NB: 2, Y: 3, YB: 0}} {
		if got := LogE(s, 2, 1); !math.IsNaN(got) {
			t.Errorf("LogE(%+v) = %v, want NaN", s, got)
		}
	}
}

// expectedE enumerates every outcome of a block.
func expectedE(nA, nB int, rate, truth, w1, w0 float64) float64 {
	newRate := shifted(rate, truth)
	binomial := func(n, k int, p float64) float64 {
		return math.Exp(logChoose(n, k)) * math.Pow(p, float64(k)) * math.Pow(1-p, float64(n-k))
	}
	sum := 0.0
	for yA := 0; yA <= nA; yA++ {
		for yB := 0; yB <= nB; yB++ {
			e := math.Exp(LogE(Shape{NA: nA, NB: nB, Y: yA + yB, YB: yB}, w1, w0))
			sum += binomial(nA, yA, rate) * binomial(nB, yB, newRate) * e
		}
	}
	return sum
}

func TestExpectationByEnumeration(t *testing.T) {
	t.Parallel()
	for _, size := range [][2]int{{10, 1}, {2, 1}, {5, 4}} {
		for _, rate := range []float64{0.01, 0.2, 0.7} {
			for _, g := range rollbackGrid() {
				near(t, "E[e] of rollback at the null", expectedE(size[0], size[1], rate, 1.25, g*1.25, 1.25), 1, 1e-12)
				for _, truth := range []float64{0.2, 0.7, 1, 1.24} {
					if e := expectedE(size[0], size[1], rate, truth, g*1.25, 1.25); e > 1+1e-12 {
						t.Errorf("E[e] of rollback, rate %g, odds ratio %g within tol: %.15g, above 1", rate, truth, e)
					}
				}
			}
			for _, h := range promoteGrid() {
				near(t, "E[e] of promote at the null", expectedE(size[0], size[1], rate, 2, h, 2), 1, 1e-12)
				for _, truth := range []float64{2.01, 3, 10} {
					if e := expectedE(size[0], size[1], rate, truth, h, 2); e > 1+1e-12 {
						t.Errorf("E[e] of promote, rate %g, odds ratio %g past margin: %.15g, above 1", rate, truth, e)
					}
				}
			}
		}
	}
}

func TestAbsoluteExpectation(t *testing.T) {
	t.Parallel()
	const acceptable = 0.05
	for _, g := range absoluteGrid() {
		failed, succeeded := absoluteSteps(g, acceptable)
		at := func(rate float64) float64 { return rate*math.Exp(failed) + (1-rate)*math.Exp(succeeded) }
		near(t, "E[e] at the acceptable rate", at(acceptable), 1, 1e-14)
		if e := at(0.2); e > 1 {
			t.Errorf("E[e] at a worse rate is %g, above 1", e)
		}
	}
}

// What planning says, against the reference implementation's figures
// (baseline 2 %, 10 partners, rollback at 1/0.01, promotion at 1/0.05).
func TestPlanningFigures(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	p.Tol = 1
	for odds, want := range map[float64]float64{2: 703, 3: 219, 5: 76, 10: 25} {
		near(t, "sessions to roll back", p.SessionsToRollback(0.02, odds), want, 1)
	}
	p.Beta = 0.1 // 2/0.1 is the figures' 1/0.05
	for margin, want := range map[float64]float64{1.5: 1839, 2: 584, 3: 210, 5: 87} {
		p.Margin = margin
		near(t, "sessions to promote", p.SessionsToPromote(0.02), want, 1)
	}
	if got := p.SessionsToRollback(0.02, 1); !math.IsInf(got, 1) {
		t.Errorf("a harmless release is rolled back after %g sessions, want never", got)
	}
}

func TestEBH(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		e    []float64
		q    float64
		want []int
	}{
		{"published", []float64{50, 2, 21, 12}, 0.1, []int{0, 2}},
		{"none", []float64{1, 2, 3}, 0.05, []int{}},
		{"later rank carries earlier", []float64{29, 29, 29}, 0.05, []int{0, 1, 2}},
		{"empty", nil, 0.05, []int{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, EBH(c.e, c.q), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("rejected (-want +got):\n%s", diff)
			}
		})
	}
}
