package gate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Codes of the check of open sessions, besides those of sessions.
const (
	NoneOpen   Code = "none_open"   // nobody had a session open when the step began
	OverBudget Code = "over_budget" // the step itself ended more sessions than it may
	NotDecided Code = "not_decided" // sessions were followed for as long as they are, and it is not known
)

// OpenPolicy says for how long sessions are followed that were open when a step
// began.
type OpenPolicy struct {
	Bucket  time.Duration // width of the time buckets in which ends are set against those at risk
	Buckets int           // for so many buckets they are followed
	Budget  int           // sessions that the step itself may end
}

// DefaultOpenPolicy follows sessions for an hour and lets a step end any number.
func DefaultOpenPolicy() OpenPolicy {
	return OpenPolicy{Bucket: 5 * time.Minute, Buckets: 12, Budget: 1_000_000}
}

// Validate returns nil, or one error that names every field out of bounds.
func (p OpenPolicy) Validate() error {
	var bad []string
	if p.Bucket < time.Second || p.Bucket > time.Hour {
		bad = append(bad, fmt.Sprintf("bucket is %v but must be from 1s to 1h", p.Bucket))
	}
	if p.Buckets < 1 || p.Buckets > 1000 {
		bad = append(bad, fmt.Sprintf("buckets is %d but must be from 1 to 1000", p.Buckets))
	}
	if p.Budget < 0 {
		bad = append(bad, fmt.Sprintf("budget is %d but must be 0 or more", p.Budget))
	}
	if len(bad) == 0 {
		return nil
	}
	return errors.New("policy of open sessions: " + strings.Join(bad, "; "))
}

// OpenFold turns one cluster's sessions, marks and planned restarts into the
// evidence on sessions that were already open when a step began: do they end
// abnormally more often than sessions did that were open at earlier instants?
//
// Sessions open at the step's start are followed for a window of Buckets time
// buckets. So are, for the baseline, those open at the start of every whole window
// that fits in between the boundary's BaselineFrom and Start, counted back from
// Start, clear of what it sets aside, as many as a policy's Partners. The j-th
// buckets of all windows are one block in logrank form:
//
//	NB, NA  at risk: open as the window began, and still as the bucket does
//	YB, Y   of these, ended abnormally within the bucket; Y is of both arms
//
// Given Y, the law of YB is Fisher's where both hazards are proportional, and LogE
// the e-value of the exact logrank test, whatever the hazards are at any time.
// safestats' theta bets that the odds of an end are theta times the baseline's in
// its alternative "less", that is w1 = theta and w0 = 1; in "greater" it bets on
// w1 = 1/theta. Rollback bets lie above Tol, promotions below Margin, as for new
// sessions.
//
// An abnormal end is a failure of what had connected, or a session that is listed
// no more without an end. One that completed or was terminated leaves the risk set
// with the bucket it ended in. A session whose instance is restarted on purpose
// leaves it as the bucket of the restart begins, whatever comes of it: when is
// planned, so no outcome decides who is at risk. When it has left, an end that is
// abnormal, or of any kind between the restart and the end of its bucket, is one
// that the step cut: counted apart. Where nobody tells which instances are restarted
// (RestartsUntil), so is any abnormal end while they are, and as near to the step as
// its clock and that of sessions are apart.
//
// As in a Fold, Session and Restart only record and Mark moves: between two marks
// the order of rows means nothing, a repeated row changes nothing, and what is
// first heard of an end after its bucket closed is late: counted, never folded.
// What ends without an instant is taken to have ended at the mark before it was
// heard of.
//
// An OpenFold is not safe for concurrent use.
//
// Source: ter Schure, Pérez-Ortiz, Ly and Grünwald, arXiv 2011.06931.
type OpenFold struct {
	policy  OpenPolicy
	cluster fleet.ClusterID
	step    time.Time
	settled time.Time   // abnormal ends before this may be the step's own doing
	windows []time.Time // where each begins, in order; the last is the step's

	window, bucket int // the next to close
	sessions       map[fleet.SessionID]*openSession
	gone           map[fleet.SessionID]struct{} // ended, and folded or never at risk
	restarts       map[fleet.InstanceID][]time.Time
	baseline       []atRisk // by bucket, of all windows before the step
	mark           fleet.Mark
	markSeq        uint64
	clocks         clocks
	lost           bool
	open           int       // sessions that were open when the step began
	closed         time.Time // the end of the last closed bucket
	evidence       Evidence
}

// openSession is a session as far as it is known.
type openSession struct {
	start     time.Time
	instance  fleet.InstanceID
	connected bool
	listed    uint64 // the highest stream sequence that listed it as open
	dated     ending // as its source dates it
	undated   ending // at the mark before it was heard of; void when it is listed again
}

// ending is how a session ended.
type ending struct {
	at       time.Time
	abnormal bool
	known    bool
	seq      uint64 // the stream sequence that told of it
}

// ended returns how the session ended, not known while it is open.
func (o *openSession) ended() ending {
	if o.dated.known || o.undated.seq <= o.listed {
		return o.dated
	}
	return o.undated
}

// atRisk counts one arm of one bucket.
type atRisk struct{ n, ended int }

// NewOpenFold returns an empty fold, or an error that says what is wrong with the
// policy or the boundary. Of the gate's policy it needs Partners, the number of
// windows before the step.
func NewOpenFold(p Policy, o OpenPolicy, c fleet.ClusterID, b Boundary) (*OpenFold, error) {
	if err := cmp.Or(p.Validate(), o.Validate()); err != nil {
		return nil, err
	}
	if c == "" {
		return nil, errors.New("gate: follow open sessions: the cluster is empty; name the one the step runs in")
	}
	if b.Start.IsZero() || b.BaselineFrom.After(b.Start) {
		return nil, fmt.Errorf("gate: follow open sessions of cluster %s: baseline from %s, step at %s: give two times in this order",
			c, b.BaselineFrom.Format(time.RFC3339), b.Start.Format(time.RFC3339))
	}
	f := &OpenFold{
		policy: o, cluster: c, step: wall(b.Start),
		sessions: map[fleet.SessionID]*openSession{}, gone: map[fleet.SessionID]struct{}{},
		restarts: map[fleet.InstanceID][]time.Time{}, baseline: make([]atRisk, o.Buckets),
	}
	length := time.Duration(o.Buckets) * o.Bucket
	for to := f.step; len(f.windows) < p.Partners && !to.Add(-length).Before(b.BaselineFrom); to = to.Add(-length) {
		from := to.Add(-length)
		if !slices.ContainsFunc(b.Aside, func(s Span) bool { return s.From.Before(to) && s.To.After(from) }) {
			f.windows = append(f.windows, from)
		}
	}
	slices.Reverse(f.windows)
	f.windows = append(f.windows, f.step)
	return f, nil
}

// Session takes in one row of a session with its stream sequence. Probes, other
// clusters, rows without an id and sessions that start with the step or later
// change nothing.
func (f *OpenFold) Session(s fleet.Session, seq uint64) {
	if s.Cluster != f.cluster || s.Probe || s.ID == "" || !s.Start.Before(f.step) {
		return
	}
	if _, known := f.gone[s.ID]; known {
		return
	}
	o := f.sessions[s.ID]
	if o == nil {
		o = &openSession{start: wall(s.Start)}
		f.sessions[s.ID] = o
	}
	o.instance = cmp.Or(o.instance, s.InstanceID)
	switch s.Status {
	case fleet.SessionConnecting:
	case fleet.SessionConnected:
		o.connected = true
		o.listed = max(o.listed, seq)
	case fleet.SessionCompleted, fleet.SessionTerminated:
		o.connected = true
		f.end(o, s.End, seq, false)
	case fleet.SessionVanished:
		o.connected = true
		f.end(o, s.End, seq, true)
	case fleet.SessionFailed: // what never connected was not open
		f.end(o, s.End, seq, true)
	}
}

// end records an end: the first of those that are dated, the newest of the others.
func (f *OpenFold) end(o *openSession, at time.Time, seq uint64, abnormal bool) {
	e, counts := &o.undated, seq > o.undated.seq
	next := ending{at: f.mark.CompleteUntil, abnormal: abnormal, known: true, seq: seq}
	if !at.IsZero() {
		next.at = wall(at)
		e, counts = &o.dated, next.at.Before(o.dated.at)
	}
	switch {
	case !e.known || counts:
		*e = next
	case next.at.Equal(e.at):
		e.abnormal = e.abnormal || abnormal
	}
}

// Restart takes in that an instance was restarted on purpose.
func (f *OpenFold) Restart(instance fleet.InstanceID, at time.Time) {
	if at = wall(at); instance != "" && !slices.ContainsFunc(f.restarts[instance], at.Equal) {
		f.restarts[instance] = append(f.restarts[instance], at)
	}
}

// RestartsUntil takes in that the step restarts instances up to an instant, and that
// nobody tells which. To leave out ends by when they were takes evidence from either
// verdict: an alarm is not made likelier by it, and a pass rests on what comes after.
func (f *OpenFold) RestartsUntil(at time.Time) { f.settled = wall(at) }

// Mark takes in one progress mark with its stream sequence: it closes the buckets
// that are complete. A mark older than the newest, by sequence, and a blind one
// move nothing; after a loss past the step's start nothing moves any more.
func (f *OpenFold) Mark(m fleet.Mark, seq uint64) {
	if m.Cluster != f.cluster || seq < f.markSeq {
		return
	}
	f.markSeq = seq
	f.clocks.take(m, seq)
	if m.Lost && m.CompleteUntil.After(f.step) {
		f.lost, f.mark.BlindReason = true, m.BlindReason
	}
	if f.lost {
		return
	}
	until := f.mark.CompleteUntil
	if !m.Blind {
		until = newer(until, wall(m.CompleteUntil))
	}
	f.mark = m
	f.mark.CompleteUntil = until
	if m.Blind {
		return
	}
	for !f.done() {
		from, to := f.span()
		if to.After(until) {
			return
		}
		f.closeBucket(from, to)
		if f.bucket++; f.bucket == f.policy.Buckets {
			f.window, f.bucket = f.window+1, 0
		}
	}
}

// done reports whether every bucket is closed.
func (f *OpenFold) done() bool { return f.window == len(f.windows) }

// span is the time of the next bucket.
func (f *OpenFold) span() (from, to time.Time) {
	from = f.windows[f.window].Add(time.Duration(f.bucket) * f.policy.Bucket)
	return from, from.Add(f.policy.Bucket)
}

// closeBucket counts who was at risk in the next bucket and who of them ended.
func (f *OpenFold) closeBucket(from, to time.Time) {
	after, began := f.window == len(f.windows)-1, f.windows[f.window]
	var arm atRisk
	for id, o := range f.sessions {
		end := o.ended()
		over := end.known && end.at.Before(to)
		switch restart, left := f.restarted(o, began, to); {
		case over && end.at.Before(from):
			f.tooLate(o, end.at)
		case !o.connected || !o.start.Before(began):
			// Not open when the window began.
		case !after && over && end.abnormal && f.clocks.near(end.at, f.step):
			// It may be the step's doing.
		case after && !left && over && end.abnormal && f.byStep(end.at):
			if f.bucket == 0 {
				f.open++
			}
			f.evidence.Cut++
		case after && left:
			if f.bucket == 0 {
				f.open++
			}
			if over && (end.abnormal || !restart.Before(from) && !end.at.Before(restart)) {
				f.evidence.Cut++
			}
		case left:
			// Whoever restarted it then had reasons of their own.
		default:
			arm.n++
			if over {
				f.count(&arm, end, after)
			}
		}
		if over {
			delete(f.sessions, id)
			f.gone[id] = struct{}{}
		}
	}
	f.closed = to
	before := &f.baseline[f.bucket]
	if !after {
		before.n, before.ended = before.n+arm.n, before.ended+arm.ended
		return
	}
	if f.bucket == 0 {
		f.open += arm.n
	}
	if arm.n > 0 {
		f.evidence.Blocks.Add(Shape{NA: before.n, NB: arm.n, Y: before.ended + arm.ended, YB: arm.ended}, 1)
	}
}

// byStep says whether an abnormal end may be the step's own doing.
func (f *OpenFold) byStep(end time.Time) bool {
	return end.Before(f.settled) || f.clocks.near(end, newer(f.step, f.settled))
}

// count counts the end of one that was at risk.
func (f *OpenFold) count(arm *atRisk, end ending, after bool) {
	ends := &f.evidence.Baseline
	if after {
		ends = &f.evidence.New
	}
	if !end.abnormal {
		ends.Succeeded++
		return
	}
	arm.ended++
	ends.Failed++
}

// tooLate counts an end that was first heard of after its bucket had closed. What
// ended outside of all windows is missed by none.
func (f *OpenFold) tooLate(o *openSession, end time.Time) {
	switch {
	case !o.connected || !end.Before(f.closed) || end.Before(f.windows[0]):
	case end.Before(f.step):
		f.evidence.Late.Baseline++
	default:
		f.evidence.Late.New++
	}
}

// restarted returns when a session's instance was first restarted on purpose
// within a window, before an instant.
func (f *OpenFold) restarted(o *openSession, began, before time.Time) (first time.Time, restarted bool) {
	for _, at := range f.restarts[o.instance] {
		if at.Before(began) || !at.Before(before) {
			continue
		}
		if !restarted || at.Before(first) {
			first, restarted = at, true
		}
	}
	return first, restarted
}

// Evidence returns a copy of the evidence so far. New and Baseline count ends:
// Failed the abnormal ones, Succeeded the others. Cut are those that the step
// caused.
func (f *OpenFold) Evidence() Evidence {
	e := f.evidence
	e.Blocks = slices.Clone(e.Blocks)
	return e
}

// OverBudget reports whether the step itself ended more sessions than it may.
func (f *OpenFold) OverBudget() bool { return f.evidence.Cut > f.policy.Budget }

// Judge says what the check of open sessions says as things stand. It fails when
// abnormal ends reach ROLLBACK, passes when they reach PROMOTE by the relative
// route, or when nobody had a session open, and is inconclusive when neither is
// so by the end of the last bucket. A step that cut more than its budget holds:
// going back would restart as much again.
func (f *OpenFold) Judge(p Policy) Result {
	e := f.evidence
	var found findings
	if e.LogRollback(p) >= p.LogRollbackAt() {
		found.add(Fail, Regression, "Sessions that were open across the step end abnormally more often than before: %s. %s.", f.counts(), e.OddsRatio(p))
	}
	if f.OverBudget() {
		found.add(Hold, OverBudget, "The step itself ended %s, more than the %d it may.", several(int64(e.Cut), "session"), f.policy.Budget)
	}
	if f.mark.Blind || f.lost {
		found.add(Inconclusive, Blind, "A source cannot see every session of this cluster (%s), so nothing can be concluded: %s.",
			cmp.Or(f.mark.BlindReason, "no reason given"), f.counts())
	}
	if e.openLate(p) {
		found.add(Inconclusive, TooManyLate, "%d ends after the step and %d before it were first heard of too late, more than the allowed %s.",
			e.Late.New, e.Late.Baseline, percent(p.MaxLate))
	}
	fine := Reason{NoWorse, fmt.Sprintf("Sessions that were open across the step end abnormally no more often than before: %s. %s.", f.counts(), e.OddsRatio(p))}
	switch {
	case f.open == 0 && f.done():
		fine = Reason{NoneOpen, "Nobody had a session open when the step began."}
	case e.LogPromoteRelative(p) >= p.LogPromoteAt():
	case f.done() && len(f.windows) == 1:
		found.add(Inconclusive, NoBaseline, "There is no time before the step to compare with: %s.", f.counts())
	case f.done():
		found.add(Inconclusive, NotDecided, "Sessions that were open across the step were followed for %s, and whether they end abnormally more often is not known: %s. %s.",
			time.Duration(f.policy.Buckets)*f.policy.Bucket, f.counts(), e.OddsRatio(p))
	default:
		found.add(Pending, Collecting, "Sessions that were open across the step are followed: %s. %s.", f.counts(), e.OddsRatio(p))
	}
	return found.result(CheckOpen, f.mark.CompleteUntil, e.Figures(CheckOpen), fine)
}

// openLate reports whether too many ends of either arm came too late.
func (e Evidence) openLate(p Policy) bool {
	excess := func(late int, ends Trials) bool { return float64(late) > p.MaxLate*float64(late+ends.Total()) }
	return excess(e.Late.New, e.New) || excess(e.Late.Baseline, e.Baseline)
}

// counts is the evidence in one phrase.
func (f *OpenFold) counts() string {
	figures := f.evidence.Figures(CheckOpen)
	return fmt.Sprintf("%d abnormal ends in %d looks at one open session after the step, %d in %d before, and %d that the step itself caused",
		figures["new_ended"], figures["new_at_risk"], figures["baseline_ended"], figures["baseline_at_risk"], f.evidence.Cut)
}
