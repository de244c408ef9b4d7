package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
)

// Trials counts outcomes. A trial is one person's try at one target; its
// retries within the burst window are part of it.
type Trials struct {
	Failed, Succeeded int
}

// Total returns how many trials have an outcome.
func (t Trials) Total() int { return t.Failed + t.Succeeded }

// Rate returns the share that failed, 0 when there are none.
func (t Trials) Rate() float64 {
	if t.Total() == 0 {
		return 0
	}
	return float64(t.Failed) / float64(t.Total())
}

// Arms counts one thing on either side of the step.
type Arms struct {
	Baseline, New int
}

// Evidence is everything a verdict rests on, in integers. The same trials
// give the same evidence on any machine.
type Evidence struct {
	Blocks     Table  // new trials beside their partners, for the relative routes
	Partners   int    // baseline trials in each block, fixed at the first new trial; 0 until then or without baseline
	New        Trials // trials that started after the step, for the absolute route
	Baseline   Trials // trials that started before the step
	Cut        int    // trials that started while the step ran; in no arm
	Unresolved Arms   // trials without an outcome by the horizon; in no arm's Trials
	Late       Arms   // sessions first heard of after their bucket had closed; never folded
}

// rollbackGrid lists the odds ratios, in units of Tol, that a rollback bets on.
func rollbackGrid() [5]float64 { return [...]float64{1.5, 2, 3, 5, 10} }

// promoteGrid lists the odds ratios that a relative promotion bets on.
func promoteGrid() [3]float64 { return [...]float64{0.7, 1, 1.25} }

// absoluteGrid lists the failure rates, in units of AcceptableRate, that an
// absolute promotion bets on.
func absoluteGrid() [4]float64 { return [...]float64{0, 0.1, 0.3, 0.6} }

// LogRollback returns the natural logarithm of the e-value against "the odds
// ratio is at most Tol". A rollback is reached at LogRollbackAt.
func (e Evidence) LogRollback(p Policy) float64 {
	sums := e.rollbackSums(p.Tol)
	return logMeanExp(sums[:])
}

// LogPromoteRelative returns the natural logarithm of the e-value against
// "the odds ratio is at least Margin". A promotion is reached at LogPromoteAt.
func (e Evidence) LogPromoteRelative(p Policy) float64 {
	sums := e.promoteSums(p.Margin)
	return logMeanExp(sums[:])
}

// LogPromoteAbsolute returns the natural logarithm of the e-value against
// "new trials fail at AcceptableRate or more". A promotion is reached at
// LogPromoteAt.
func (e Evidence) LogPromoteAbsolute(p Policy) float64 {
	sums := absoluteSums(e.New, p.AcceptableRate)
	return logMeanExp(sums[:])
}

// LogRollbackAt returns the threshold of LogRollback, log(1/Alpha): by Ville's
// inequality a harmless release ever reaches it with chance Alpha at most.
func (p Policy) LogRollbackAt() float64 { return -math.Log(p.Alpha) }

// LogPromoteAt returns the threshold of either promotion, log(2/Beta): two
// routes share Beta.
func (p Policy) LogPromoteAt() float64 { return math.Log(2) - math.Log(p.Beta) }

func (e Evidence) rollbackSums(tol float64) (sums [5]float64) {
	for _, r := range e.Blocks {
		for k, g := range rollbackGrid() {
			sums[k] += float64(float64(r.Count) * LogE(r.Shape, g*tol, tol))
		}
	}
	return sums
}

func (e Evidence) promoteSums(margin float64) (sums [3]float64) {
	for _, r := range e.Blocks {
		for j, h := range promoteGrid() {
			sums[j] += float64(float64(r.Count) * LogE(r.Shape, h, margin))
		}
	}
	return sums
}

func absoluteSums(t Trials, acceptable float64) (sums [4]float64) {
	for i, g := range absoluteGrid() {
		failed, succeeded := absoluteSteps(g, acceptable)
		if t.Failed > 0 { // a failure at q = 0 is −∞, which zero failures must not touch
			sums[i] += float64(float64(t.Failed) * failed)
		}
		sums[i] += float64(float64(t.Succeeded) * succeeded)
	}
	return sums
}

// absoluteSteps returns how much one failed and one succeeded trial move the
// logarithm of the bet on rate g·acceptable against acceptable.
func absoluteSteps(g, acceptable float64) (failed, succeeded float64) {
	return math.Log(g), math.Log1p(-g*acceptable) - math.Log1p(-acceptable)
}

// OddsRatio is how much larger the odds of failing are for new trials than for
// baseline trials of the same block.
type OddsRatio struct {
	Estimate float64 // conditional maximum likelihood; may be 0 or +Inf; 1 when nothing is known
	Low      float64 // holds at any stopping time with confidence 1 − Alpha; 0 when unbounded
	High     float64 // likewise, +Inf when unbounded
	Blocks   int     // blocks that say anything about it; 0 means nothing is known
}

// The interval is searched in this range of log odds ratios; what lies
// outside is reported as unbounded.
const oddsRange = 14.0

// OddsRatio estimates the odds ratio from the blocks. Its bounds invert the
// e-values: Low is the smallest w0 for which "at most w0" is not rejected with
// the rollback grid, so that Low reaches Tol exactly when ROLLBACK is reached;
// High is the largest w0 for which "at least w0" is not rejected with the
// grid's reciprocals. Both ends together hold with confidence 1 − 2·Alpha.
func (e Evidence) OddsRatio(p Policy) OddsRatio {
	or := OddsRatio{Estimate: 1, Low: 0, High: math.Inf(1)}
	seen, least, most := 0, 0, 0
	for _, r := range e.Blocks {
		if !r.informative() {
			continue
		}
		lo, hi := r.support()
		or.Blocks += r.Count
		seen += r.Count * r.YB
		least += r.Count * lo
		most += r.Count * hi
	}
	if or.Blocks == 0 {
		return or
	}
	switch seen {
	case least:
		or.Estimate = 0
	case most:
		or.Estimate = math.Inf(1)
	default:
		or.Estimate = math.Exp(bisect(func(x float64) bool { return e.expectedFailures(math.Exp(x)) < float64(seen) }))
	}
	atLeast := func(x float64) bool { // "at most exp(x)" is rejected
		sums := e.rollbackSums(math.Exp(x))
		return logMeanExp(sums[:]) >= p.LogRollbackAt()
	}
	atMost := func(x float64) bool { // "at least exp(−x)" is rejected
		w0 := math.Exp(-x)
		var sums [5]float64
		for _, r := range e.Blocks {
			for k, g := range rollbackGrid() {
				sums[k] += float64(float64(r.Count) * LogE(r.Shape, w0/g, w0))
			}
		}
		return logMeanExp(sums[:]) >= p.LogRollbackAt()
	}
	// Both tests are monotone: a bet's expected gain falls as its null moves
	// towards it.
	if atLeast(-oddsRange) {
		or.Low = math.Exp(bisect(atLeast))
	}
	if atMost(-oddsRange) {
		or.High = math.Exp(-bisect(atMost))
	}
	return or
}

// expectedFailures is the expected number of new failures in informative
// blocks when the odds ratio is w.
func (e Evidence) expectedFailures(w float64) float64 {
	sum := 0.0
	for _, r := range e.Blocks {
		if !r.informative() {
			continue
		}
		lo, probabilities := Fisher(r.NA, r.NB, r.Y, w)
		for i, pr := range probabilities {
			sum += float64(r.Count) * float64(lo+i) * pr
		}
	}
	return sum
}

// bisect returns where holds turns from true to false, within the range in
// which odds ratios are searched.
func bisect(holds func(float64) bool) float64 {
	lo, hi := -oddsRange, oddsRange
	for range 50 {
		if mid := lo + (hi-lo)/2; holds(mid) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo + (hi-lo)/2
}

// SessionsNeeded estimates how many more new trials a promotion takes by its
// faster route, if new sessions fail as often as the baseline did. The second
// result is false when no number is enough: the baseline says too little or
// fails too often, and its partners run out.
func (e Evidence) SessionsNeeded(p Policy) (int, bool) {
	rate := e.Baseline.Rate()
	if e.Baseline.Total() == 0 {
		rate = e.New.Rate()
	}
	at := p.LogPromoteAt()

	absolute := absoluteSums(e.New, p.AcceptableRate)
	var steps [4]float64
	for i, g := range absoluteGrid() {
		failed, succeeded := absoluteSteps(g, p.AcceptableRate)
		steps[i] = (1 - rate) * succeeded
		if rate > 0 {
			steps[i] += rate * failed
		}
	}
	n, ok := needed(absolute[:], steps[:], at)

	m := e.Partners
	if m == 0 {
		m = p.partnersFor(e.Baseline.Total())
	}
	if m == 0 || rate == 0 {
		return n, ok
	}
	relative := e.promoteSums(p.Margin)
	var drifts [3]float64
	for j, h := range promoteGrid() {
		drifts[j] = drift(m, rate, 1, h, p.Margin)
	}
	left := e.Baseline.Total()/m - e.Blocks.Blocks()
	if r, enough := needed(relative[:], drifts[:], at); enough && r <= left && (!ok || r < n) {
		return r, true
	}
	return n, ok
}

// neededLimit is where an estimate stops being a plan.
const neededLimit = 100_000_000

// needed returns the fewest further trials after which the mean of the bets
// reaches the threshold, when every bet grows by its expected step.
func needed(sums, steps []float64, at float64) (int, bool) {
	reached := func(n int) bool {
		grown := make([]float64, len(sums))
		for i := range sums {
			grown[i] = sums[i]
			if n > 0 { // 0 · −∞ is not a number
				grown[i] += float64(n) * steps[i]
			}
		}
		return logMeanExp(grown) >= at
	}
	if reached(0) {
		return 0, true
	}
	// The logarithm of a mean of exponentials is convex in n, so from below
	// the threshold it is crossed once at most.
	hi := 1
	for !reached(hi) {
		if hi *= 2; hi > neededLimit {
			return 0, false
		}
	}
	lo := hi / 2
	for hi-lo > 1 {
		if mid := lo + (hi-lo)/2; reached(mid) {
			hi = mid
		} else {
			lo = mid
		}
	}
	return hi, true
}

// SessionsToRollback estimates for planning how many new trials a rollback
// takes when baseline trials fail at rate and the true odds ratio is odds:
// log(1/Alpha) over the expected gain of the one bet on odds. It is +Inf when
// odds is not above Tol.
func (p Policy) SessionsToRollback(rate, odds float64) float64 {
	return perDrift(p.LogRollbackAt(), drift(p.Partners, rate, odds, odds, p.Tol))
}

// SessionsToPromote estimates for planning how many new trials the relative
// route takes to promote an unchanged release when baseline trials fail at
// rate: log(2/Beta) over the expected gain of the one bet on odds ratio 1.
func (p Policy) SessionsToPromote(rate float64) float64 {
	return perDrift(p.LogPromoteAt(), drift(p.Partners, rate, 1, 1, p.Margin))
}

func perDrift(at, gain float64) float64 {
	if !(gain > 0) {
		return math.Inf(1)
	}
	return at / gain
}

// partnersFor returns how many partners every new trial gets when the
// baseline has n trials; 0 when not even one block can be formed.
func (p Policy) partnersFor(n int) int {
	if n < 2 {
		return 0
	}
	return min(max(n/p.PlannedTrials, 2), p.Partners)
}

// Hash returns the SHA-256, in hex, over the evidence's integers, the policy's
// hash and the verdict drawn from them.
func (e Evidence) Hash(policyHash string, v Verdict) string {
	b := fmt.Appendf(nil, "lockstep gate evidence 1\npolicy %s\nverdict %s\n", policyHash, v)
	b = fmt.Appendf(b, "partners %d\nnew %d %d\nbaseline %d %d\ncut %d\nunresolved %d %d\nlate %d %d\n",
		e.Partners, e.New.Failed, e.New.Succeeded, e.Baseline.Failed, e.Baseline.Succeeded, e.Cut,
		e.Unresolved.Baseline, e.Unresolved.New, e.Late.Baseline, e.Late.New)
	b = e.Blocks.Append(b)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
