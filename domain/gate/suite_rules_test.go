package gate

import (
	"math"
	"slices"
)

// What is in use to decide when to roll a release back, each from its definition.
// All are told more than they would know, or are tuned to what they are to find,
// where the definition leaves it open.

// windowRule rolls back when more than twice the baseline's share of the last 100
// new sessions failed: the alert that most dashboards have, and the one looked at
// most often. It is told the true rate.
type windowRule struct {
	rate float64
	ring [100]bool
	n    int
	bad  int
}

func (r *windowRule) look(t suiteTrial) bool {
	at := r.n % len(r.ring)
	if r.ring[at] {
		r.bad--
	}
	r.ring[at] = t.failed
	if t.failed {
		r.bad++
	}
	r.n++
	return r.n >= len(r.ring) && float64(r.bad)/float64(len(r.ring)) > 2*r.rate
}

// limitRule takes that measurement every 20 sessions and rolls back at the third
// that fails: metrics with an interval and a limit of failures, as in Flagger
// (analysis.threshold: "max number of failed metric checks before rollback").
type limitRule struct {
	window   windowRule
	failures int
}

func (r *limitRule) look(t suiteTrial) bool {
	above := r.window.look(t)
	if r.window.n%20 == 0 && above {
		r.failures++
	}
	return r.failures >= 3
}

// suiteArms counts what a test of two shares needs: the new sessions, and all of their
// partners.
type suiteArms struct{ n, bad, partnersBad int }

func (a *suiteArms) add(t suiteTrial) {
	a.n++
	a.partnersBad += t.partners
	if t.failed {
		a.bad++
	}
}

// z is the statistic of the pooled z-test of two shares.
func (a *suiteArms) z() float64 {
	n, m := float64(a.n), float64(DefaultPolicy().Partners)
	pooled := float64(a.bad+a.partnersBad) / (n * (m + 1))
	if pooled == 0 || pooled == 1 {
		return 0
	}
	return (float64(a.bad)/n - float64(a.partnersBad)/(n*m)) / math.Sqrt(pooled*(1-pooled)*(1/n+1/(n*m)))
}

// quantile is the value that a standard Normal exceeds with chance alpha.
func quantile(alpha float64) float64 { return math.Sqrt2 * math.Erfinv(1-2*alpha) }

// zRule is the one-sided z-test of two shares (Pearson 1900, in any textbook),
// asked again after each session from the 30th on, as a dashboard with a p-value is.
type zRule struct {
	arms suiteArms
	at   float64
}

func (r *zRule) look(t suiteTrial) bool {
	r.arms.add(t)
	return r.arms.n >= 30 && r.arms.z() >= r.at
}

// pocockRule is the z-test at ten looks, one every 200 sessions, with the one
// bound for all of them (Pocock, Biometrika 64, 1977). It keeps its level for these
// ten looks and no others.
type pocockRule struct {
	arms suiteArms
	at   float64
}

// pocockAt is the one-sided bound of ten equally spaced looks for a level, by the
// recursion of Armitage, McPherson and Rowe (JRSS A 132, 1969). The first is in
// Jennison and Turnbull, Group Sequential Methods, table 2.1.
var pocockAt = map[float64]float64{0.05: 2.270, 0.01: 2.889}

func (r *pocockRule) look(t suiteTrial) bool {
	r.arms.add(t)
	return r.arms.n%200 == 0 && r.arms.z() >= r.at
}

// msprtRule is the mixture sequential probability ratio test of two means with a
// Normal mixture, from two streams of equal size (Johari, Pekelis, Walsh, arXiv
// 1512.04922), its variance estimated. The mixture is as wide as the difference
// that is to be found, 4 points. Only a worse release counts. That a mean is Normal
// is assumed from the first session on.
type msprtRule struct {
	n, now, baseline float64 // sessions in either arm, failures
	at               float64
}

func (r *msprtRule) look(t suiteTrial) bool {
	r.n++
	if t.failed {
		r.now++
	}
	if t.first {
		r.baseline++
	}
	if r.now <= r.baseline {
		return false
	}
	const tau = 0.04
	delta, pooled := (r.now-r.baseline)/r.n, (r.now+r.baseline)/(2*r.n)
	v := 2 * pooled * (1 - pooled)
	wide := v + r.n*tau*tau
	return 0.5*math.Log(v/wide)+r.n*r.n*tau*tau*delta*delta/(2*v*wide) >= r.at
}

// ranksRule is canary analysis as Kayenta's judge has it, one look after horizon
// sessions: both arms' failure rates in 50 buckets of time, as many sessions in
// either arm; the Mann-Whitney interval of their shift at 98 %; high when its lower
// end is above a quarter of the Hodges-Lehmann estimate.
type ranksRule struct {
	horizon, n    int
	now, baseline [50]int // failures; buckets are equally large, so rates differ as these do
}

func newRanksRule(horizon int) *ranksRule { return &ranksRule{horizon: horizon} }

func (r *ranksRule) look(t suiteTrial) bool {
	if r.n >= r.horizon {
		return false
	}
	at := r.n * len(r.now) / r.horizon
	if t.failed {
		r.now[at]++
	}
	if t.first {
		r.baseline[at]++
	}
	r.n++
	if r.n < r.horizon {
		return false
	}
	var shifts []int
	for _, x := range r.now {
		for _, y := range r.baseline {
			shifts = append(shifts, x-y)
		}
	}
	slices.Sort(shifts)
	pairs, size := float64(len(shifts)), float64(len(r.now))
	lower := shifts[int(pairs/2-quantile(0.01)*math.Sqrt(pairs*(2*size+1)/12))-1]
	estimate := shifts[len(shifts)/2]
	return float64(lower) > 0.25*math.Abs(float64(estimate))
}
