package backtest

import (
	"math"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Matrix counts what became of runs.
type Matrix struct {
	Pass, Fail, Hold, Inconclusive int
	Empty                          int // inconclusive, for no new session had an outcome
	Unfinished                     int // the history ended, or the cluster was touched again, before the deadline
}

// Judged is how many runs had sessions to be judged by, up to a final verdict or
// the deadline. Shares are of these: a cluster at rest is no proof of anything.
func (m Matrix) Judged() int { return m.Pass + m.Fail + m.Hold + m.Inconclusive }

// Decided is how many of them came to pass or fail.
func (m Matrix) Decided() int { return m.Pass + m.Fail }

// Share is a rate with the bounds in which it lies with confidence 95 %, both NaN
// and 0 to 1 where there is nothing to tell it from.
type Share struct{ Rate, Low, High float64 }

// Failed is the share of the judged that failed. For fake steps without injected
// failures it is the rate of false rollbacks, with them the power.
func (m Matrix) Failed() Share { return shareOf(m.Fail, m.Judged()) }

// Spread is how a quantity is spread over runs.
type Spread[T any] struct{ Total, Median, P90 T }

// Sum is what one case did with the steps of one outcome.
type Sum struct {
	Matrix
	// Held is how long after the step the verdict came, over the judged; ToFail the
	// same over those that failed alone.
	Held, ToFail Spread[time.Duration]
	// Exposed are the sessions that people started meanwhile, Trials those that the
	// verdict rests on.
	Exposed, ToFailExposed, Trials Spread[int]
}

// SumOf sums the runs of one case whose steps have one outcome.
func SumOf(runs []Run, c int, o Outcome) Sum {
	var s Sum
	var held, toFail []time.Duration
	var exposed, failExposed, trials []int
	for _, r := range runs {
		if r.Case != c || r.Step.Outcome != o {
			continue
		}
		switch {
		case r.Verdict == gate.Pending:
			s.Unfinished++
			continue
		case r.Trials == 0 && !r.Verdict.Final():
			s.Empty++
			continue
		case r.Verdict == gate.Pass:
			s.Pass++
		case r.Verdict == gate.Fail:
			s.Fail++
			toFail, failExposed = append(toFail, r.Held()), append(failExposed, r.Exposed)
		case r.Verdict == gate.Hold:
			s.Hold++
		case r.Verdict == gate.Inconclusive:
			s.Inconclusive++
		}
		held, exposed, trials = append(held, r.Held()), append(exposed, r.Exposed), append(trials, r.Trials)
	}
	s.Held, s.ToFail = spread(held), spread(toFail)
	s.Exposed, s.ToFailExposed, s.Trials = spread(exposed), spread(failExposed), spread(trials)
	return s
}

func spread[T int | time.Duration](all []T) Spread[T] {
	var s Spread[T]
	if len(all) == 0 {
		return s
	}
	slices.Sort(all)
	for _, v := range all {
		s.Total += v
	}
	// The smallest value that so many are not above.
	s.Median, s.P90 = all[(len(all)+1)/2-1], all[(9*len(all)+9)/10-1]
	return s
}

// shareOf is k of n with the interval of Clopper and Pearson (Biometrika 26, 1934),
// which never promises more than it keeps.
func shareOf(k, n int) Share {
	if n == 0 {
		return Share{Rate: math.NaN(), Low: 0, High: 1}
	}
	return Share{Rate: float64(k) / float64(n), Low: lowest(k, n), High: 1 - lowest(n-k, n)}
}

// lowest is the smallest chance at which k or more of n are not too unlikely, at
// 2.5 %.
func lowest(k, n int) float64 {
	if k == 0 {
		return 0
	}
	low, high := 0.0, 1.0
	for range 60 {
		if p := low + (high-low)/2; atLeast(k, n, p) < 0.025 {
			low = p
		} else {
			high = p
		}
	}
	return low
}

// atLeast is the chance of k or more of n when each has chance p. The shorter side
// is added up.
func atLeast(k, n int, p float64) float64 {
	term := func(i int) float64 {
		all, _ := math.Lgamma(float64(n + 1))
		in, _ := math.Lgamma(float64(i + 1))
		out, _ := math.Lgamma(float64(n - i + 1))
		return math.Exp(all - in - out + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
	}
	sum := 0.0
	if k > n/2 {
		for i := k; i <= n; i++ {
			sum += term(i)
		}
		return sum
	}
	for i := range k {
		sum += term(i)
	}
	return 1 - sum
}

// Tolerances are the values of gate.Policy.Tol that the calibrator tries.
func Tolerances() []float64 { return []float64{1, 1.25, 1.5, 2} }

// Tolerant returns a policy with another Tol, and false when its Margin leaves no
// room for it.
func Tolerant(p gate.Policy, tol float64) (gate.Policy, bool) {
	p.Tol = tol
	return p, p.Validate() == nil
}

// Propose returns the smallest of the tolerances tried whose rate of false
// rollbacks is at most alpha; false when there is none, or nothing to tell it from.
func Propose(alpha float64, tried map[float64]Matrix) (float64, bool) {
	for _, tol := range Tolerances() {
		if m, ok := tried[tol]; ok && m.Failed().Rate <= alpha { // false for NaN
			return tol, true
		}
	}
	return 0, false
}
