package gate

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Verdict is a gate's answer. Only Pass and Fail are final.
type Verdict string

// Every value Verdict takes on the wire.
const (
	Pending      Verdict = "pending"      // evidence is still coming in
	Pass         Verdict = "pass"         // new sessions work well enough
	Fail         Verdict = "fail"         // new sessions fail more than the baseline did
	Hold         Verdict = "hold"         // a regression, but below the rate worth a rollback: a person decides
	Inconclusive Verdict = "inconclusive" // no answer can be given as things stand
)

// Final reports whether the verdict stays what it is whatever comes later.
func (v Verdict) Final() bool { return v == Pass || v == Fail }

// Code says why a verdict is what it is. Codes are API; texts are not.
type Code string

// Every value Code takes on the wire.
const (
	Regression      Code = "regression"       // ROLLBACK evidence reached its threshold
	BelowFloor      Code = "below_floor"      // … while the failure rate stays below the policy's floor
	NoWorse         Code = "no_worse"         // PROMOTE by the relative route
	AcceptableRate  Code = "acceptable_rate"  // PROMOTE by the absolute route
	Blind           Code = "blind"            // a source cannot see every session
	TooManyLate     Code = "too_many_late"    // more rows came late than the policy allows
	ManyUnresolved  Code = "many_unresolved"  // too many new sessions without an outcome to promote
	DeadlinePassed  Code = "deadline_passed"  // undecided by the deadline
	NoData          Code = "no_data"          // no new session has an outcome yet
	Collecting      Code = "collecting"       // undecided, and there is time
	NoBaseline      Code = "no_baseline"      // nothing to compare with: only the absolute route is open
	PartnersUsed    Code = "partners_used"    // the baseline is used up: only the absolute route goes on
	RegressionLater Code = "regression_later" // ROLLBACK evidence reached its threshold after the gate had passed
)

// Reason is one cause of a verdict with a sentence for people.
type Reason struct {
	Code Code
	Text string
}

// Watermark is how much a decision had seen.
type Watermark struct {
	CompleteUntil time.Time // every session that started before was known; the zero time before the first mark
	Seq           uint64    // the highest stream sequence taken in
}

// Decision is a verdict with all that it rests on. Once the verdict is final
// it repeats bit for bit; Hash covers Evidence, PolicyHash and Verdict.
type Decision struct {
	Cluster    fleet.ClusterID
	Verdict    Verdict
	Reasons    []Reason // the deciding one first
	Summary    string   // one paragraph for people
	Evidence   Evidence
	Trials     int // new trials with an outcome at which the verdict was reached, or so far
	Watermark  Watermark
	PolicyHash string
	Hash       string

	// Derived from Evidence for people; never hashed.
	Odds   OddsRatio
	Luck   float64 // a release within Tol looks this bad at most 1 time in Luck; below 1 it says nothing
	Needed int     // estimate of new trials still to come before a promotion; −1 when no number is enough
}

// Judge returns the verdict that the evidence alone supports, and why. It is
// what a fold asks after every trial, and what re-executes a decision from its
// integers. ROLLBACK is looked at before PROMOTE.
func (e Evidence) Judge(p Policy) (Verdict, Code) {
	return e.judge(p, e.LogRollback(p), e.LogPromoteRelative(p), e.LogPromoteAbsolute(p))
}

func (e Evidence) judge(p Policy, rollback, relative, absolute float64) (Verdict, Code) {
	switch {
	case e.New.Total() == 0:
		return Pending, NoData
	case e.tooManyLate(p):
		return Inconclusive, TooManyLate
	case rollback >= p.LogRollbackAt() && e.New.Rate() < p.FloorRate:
		return Hold, BelowFloor
	case rollback >= p.LogRollbackAt():
		return Fail, Regression
	case e.manyUnresolved(p):
		return Pending, ManyUnresolved
	case relative >= p.LogPromoteAt():
		return Pass, NoWorse
	case absolute >= p.LogPromoteAt():
		return Pass, AcceptableRate
	}
	return Pending, Collecting
}

// tooManyLate looks at each arm by itself: a long baseline must not hide the
// late rows of a few new sessions.
func (e Evidence) tooManyLate(p Policy) bool {
	excess := func(late, known int) bool { return float64(late) > p.MaxLate*float64(late+known) }
	return excess(e.Late.Baseline, e.Baseline.Total()+e.Unresolved.Baseline) ||
		excess(e.Late.New, e.New.Total()+e.Unresolved.New)
}

// manyUnresolved keeps a release whose sessions hang, rather than fail, from
// passing on the few that work: it withholds a promotion while the new arm's
// share without outcome is above the baseline's by AcceptableRate or more.
// Withholding can only make a promotion rarer, so Beta stands.
func (e Evidence) manyUnresolved(p Policy) bool {
	share := func(unresolved int, t Trials) float64 {
		if unresolved == 0 {
			return 0
		}
		return float64(unresolved) / float64(unresolved+t.Total())
	}
	return share(e.Unresolved.New, e.New) >= p.AcceptableRate+share(e.Unresolved.Baseline, e.Baseline)
}

// describe writes a decision's derived figures, reasons and summary.
func (d *Decision) describe(p Policy, code Code, blindReason string) {
	e := d.Evidence
	d.Odds = e.OddsRatio(p)
	d.Luck = math.Exp(e.LogRollback(p))
	d.Needed = -1
	if n, ok := e.SessionsNeeded(p); ok {
		d.Needed = n
	}
	add := func(c Code, format string, args ...any) {
		d.Reasons = append(d.Reasons, Reason{Code: c, Text: fmt.Sprintf(format, args...)})
	}
	bad := luck(fmt.Sprintf("within %g times the baseline's odds", p.Tol), "bad", d.Luck)
	switch code {
	case Regression, RegressionLater:
		when := ""
		if code == RegressionLater {
			when = " after the gate had passed"
		}
		add(code, "New sessions fail more than this cluster's baseline%s: %s. %s. %s.", when, e.counts(), d.Odds, bad)
	case BelowFloor:
		add(code, "New sessions fail more than this cluster's baseline, but at %s, below the floor of %s: %s. %s. %s.",
			percent(e.New.Rate()), percent(p.FloorRate), e.counts(), d.Odds, bad)
	case NoWorse:
		add(code, "New sessions do not fail more than this cluster's baseline: %s. %s. %s.", e.counts(), d.Odds,
			luck(fmt.Sprintf("at %g times the baseline's odds or more", p.Margin), "good", math.Exp(e.LogPromoteRelative(p))))
	case AcceptableRate:
		add(code, "New sessions fail less often than the acceptable %s: %s. %s.", percent(p.AcceptableRate), e.counts(),
			luck("that fails so often", "good", math.Exp(e.LogPromoteAbsolute(p))))
	case Blind:
		if blindReason == "" {
			blindReason = "no reason given"
		}
		add(code, "A source cannot see every session of this cluster (%s), so nothing can be concluded: %s.", blindReason, e.counts())
	case TooManyLate:
		add(code, "%d new and %d baseline sessions were first heard of after their turn, more than the allowed %s of trials: %s.",
			e.Late.New, e.Late.Baseline, percent(p.MaxLate), e.counts())
	case DeadlinePassed:
		add(code, "Undecided by the deadline: %s. %s.%s", e.counts(), d.Odds, needs(d.Needed))
	case NoData:
		add(code, "No new session has an outcome yet, and no data never promotes.%s", needs(d.Needed))
	case Collecting, ManyUnresolved:
		add(Collecting, "Collecting evidence: %s. %s.%s", e.counts(), d.Odds, needs(d.Needed))
	}
	if d.Verdict == Pending || d.Verdict == Inconclusive {
		d.limits(p, add)
	}
	d.summarise()
}

// summarise makes one paragraph of the reasons.
func (d *Decision) summarise() {
	texts := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		texts[i] = r.Text
	}
	d.Summary = strings.Join(texts, " ")
}

// limits adds what keeps undecided evidence from growing.
func (d *Decision) limits(p Policy, add func(Code, string, ...any)) {
	e := d.Evidence
	if e.manyUnresolved(p) {
		add(ManyUnresolved, "%d new sessions had no outcome within %s (%d before the step), too many to promote.",
			e.Unresolved.New, p.Maturation, e.Unresolved.Baseline)
	}
	if e.New.Total() == 0 {
		return
	}
	switch left := e.Baseline.Total() - e.Partners*e.Blocks.Blocks(); {
	case e.Partners == 0:
		add(NoBaseline, "There is no baseline to compare with; only the acceptable rate of %s can promote.", percent(p.AcceptableRate))
	case left < e.Partners:
		add(PartnersUsed, "All %d baseline sessions are compared; only the acceptable rate of %s can still promote.",
			e.Baseline.Total(), percent(p.AcceptableRate))
	}
}

// counts is the evidence in one phrase.
func (e Evidence) counts() string {
	arm := func(t Trials, when string) string {
		if t.Total() == 0 {
			return "no outcome " + when
		}
		return fmt.Sprintf("%d of %d failed %s (%s)", t.Failed, t.Total(), when, percent(t.Rate()))
	}
	return arm(e.New, "after the step") + ", " + arm(e.Baseline, "before")
}

// String is the odds ratio in one phrase.
func (o OddsRatio) String() string {
	if o.Blocks == 0 {
		return "Odds ratio not known yet"
	}
	var bounds string
	switch {
	case o.Low == 0 && math.IsInf(o.High, 1):
		bounds = "no bounds yet"
	case o.Low == 0:
		bounds = fmt.Sprintf("at most %.3g at any time", o.High)
	case math.IsInf(o.High, 1):
		bounds = fmt.Sprintf("at least %.3g at any time", o.Low)
	default:
		bounds = fmt.Sprintf("%.3g to %.3g at any time", o.Low, o.High)
	}
	if math.IsInf(o.Estimate, 1) {
		return "Odds ratio beyond measure (" + bounds + ")"
	}
	return fmt.Sprintf("Odds ratio %.3g (%s)", o.Estimate, bounds)
}

// luck says an e-value the way people say chances: how seldom a release of
// some kind looks this bad, or this good.
func luck(kind, looks string, e float64) string {
	if e > 1e6 {
		return fmt.Sprintf("A release %s looks this %s less than 1 time in a million by luck", kind, looks)
	}
	return fmt.Sprintf("A release %s looks this %s at most 1 time in %.0f by luck", kind, looks, math.Floor(e))
}

// needs says how much evidence is missing, with a space before it; nothing
// when more sessions are not what is missing.
func needs(n int) string {
	switch {
	case n == 0:
		return ""
	case n < 0:
		return " With this baseline no number of sessions promotes: give the gate a longer baseline or a higher acceptable rate."
	}
	return fmt.Sprintf(" About %d more sessions are needed if they fail as often as the baseline did.", n)
}

func percent(rate float64) string { return fmt.Sprintf("%.3g %%", 100*rate) }
