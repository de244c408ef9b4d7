package gate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Boundary places one step in time. A session belongs where it started:
// [BaselineFrom, Start) is the baseline, [Start, End) is cut, from End on it
// is new. What started before BaselineFrom is not looked at.
//
// Start is when the cluster was first touched, not when the last step began:
// every step is judged against what people had before, so that neither the
// restarts nor the worsening of an earlier step become the measure of the next.
type Boundary struct {
	BaselineFrom, Start, End time.Time
	// Aside holds times at which earlier moves made this cluster unlike itself;
	// sessions that started in them are not looked at either.
	Aside []Span
}

// Span is the time from From until before To.
type Span struct{ From, To time.Time }

func (b Boundary) setsAside(start time.Time) bool {
	return slices.ContainsFunc(b.Aside, func(s Span) bool { return !start.Before(s.From) && start.Before(s.To) })
}

// phase is where a session belongs.
type phase int

const (
	baseline phase = iota
	cut
	after
)

// Fold turns one cluster's sessions and marks, in stream order, into evidence
// and a verdict. It is a function of that input alone: the same rows again
// give the same integers, and a repeated row changes nothing. Between two
// marks the order of rows does not matter either, because Session only
// records; Mark closes buckets, settles trials, enters them and judges.
//
// A Fold is not safe for concurrent use.
type Fold struct {
	policy     Policy
	policyHash string
	cluster    fleet.ClusterID
	boundary   Boundary
	probes     bool // it is over probes instead of people's sessions
	listed     bool // some were told as sessions, so that marks about those count for probes

	attempts map[fleet.SessionID]*attempt // nil for a session that is entered, or late
	before   map[fleet.SessionID]*attempt // of the fold that this one was forked from, never written
	buckets  []bucket                     // not closed yet, by start
	bursts   map[burst]*trial             // the newest trial of each burst whose window is open
	swept    time.Time                    // bursts whose window ended before are removed
	queue    []*trial                     // of closed buckets, in order, not entered yet

	closed  time.Time // no bucket that ends at or before this takes a new session
	mark    fleet.Mark
	lost    bool // a hole after the step began; nothing enters any more
	markSeq uint64
	seq     uint64
	clocks  clocks

	pool     pool
	scorer   scorer
	bounds   bounds
	evidence Evidence
	// intervals are the trials by their phase, whether it is the one after, and when they
	// began; nil where nobody asks.
	intervals map[bool]map[time.Time]Trials

	reached    *reached // the final verdict, once there is one
	revocation *reached // ROLLBACK evidence after a pass
}

// attempt is one session.
type attempt struct {
	id           fleet.SessionID
	start        time.Time
	user, target string
	succeeded    bool
	failed       bool
	trial        *trial
}

// bucket is the attempts that started within one bucket.
type bucket struct {
	start    time.Time
	attempts []*attempt
}

// burst is whose attempts are one trial, within one phase: what a person does
// after a step is judged as after the step.
type burst struct {
	phase        phase
	user, target string
}

// trial is a burst of attempts, anchored at the first.
type trial struct {
	id        fleet.SessionID // of the first attempt
	start     time.Time       // of the first attempt
	windowEnd time.Time
	phase     phase
	attempts  []*attempt
	one       [1]*attempt // room for the first, mostly the only one
	outcome   outcome
}

type outcome int

const (
	open outcome = iota
	succeeded
	failed
	unresolved
)

// reached is a final verdict with what it rested on.
type reached struct {
	verdict   Verdict
	code      Code
	evidence  Evidence
	watermark Watermark
}

// NewFold returns an empty fold, or an error that says what is wrong with the
// policy or the boundary.
func NewFold(p Policy, c fleet.ClusterID, b Boundary) (*Fold, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if c == "" {
		return nil, errors.New("gate: fold sessions: the cluster is empty; name the one the step runs in")
	}
	if b.BaselineFrom.After(b.Start) || b.Start.After(b.End) || b.End.IsZero() {
		return nil, fmt.Errorf("gate: fold sessions of cluster %s: baseline from %s, step %s to %s: give three times in this order",
			c, b.BaselineFrom.Format(time.RFC3339), b.Start.Format(time.RFC3339), b.End.Format(time.RFC3339))
	}
	return &Fold{
		policy:     p,
		policyHash: p.Hash(),
		cluster:    c,
		boundary:   Boundary{BaselineFrom: wall(b.BaselineFrom), Start: wall(b.Start), End: wall(b.End), Aside: b.Aside},
		attempts:   map[fleet.SessionID]*attempt{},
		bursts:     map[burst]*trial{},
		scorer:     scorer{policy: p},
	}, nil
}

// Fork returns a fold that has taken in what f has and goes on by another policy,
// so that a baseline is read once for many ways of judging what follows. f must not
// be used any more but to fork it again. It is an error when the step is already
// being judged, or when p makes other trials of the same sessions.
func (f *Fold) Fork(p Policy) (*Fold, error) {
	switch q := f.policy; {
	case p.Maturation != q.Maturation || p.BurstWindow != q.BurstWindow || p.Bucket != q.Bucket:
		return nil, errors.New("gate: fork a fold: maturation, burst_window and bucket say what a trial is; give the same")
	case f.evidence.New.Total()+f.evidence.Unresolved.New > 0 || f.before != nil:
		return nil, errors.New("gate: fork a fold: new sessions are already judged, or it is a fork itself; fork before the step")
	}
	c, err := NewFold(p, f.cluster, f.boundary)
	if err != nil {
		return nil, err
	}
	c.probes, c.listed = f.probes, f.listed
	trials := make(map[*trial]*trial)
	copied := func(t *trial) *trial {
		if t == nil {
			return nil
		}
		if trials[t] == nil {
			u := *t
			u.attempts = nil
			if t.attempts != nil {
				u.attempts = make([]*attempt, 0, len(t.attempts))
			}
			trials[t] = &u
		}
		return trials[t]
	}
	for _, t := range f.queue {
		c.queue = append(c.queue, copied(t))
	}
	for k, t := range f.bursts {
		c.bursts[k] = copied(t)
	}
	attempts := make(map[*attempt]*attempt)
	twin := func(a *attempt) *attempt {
		if attempts[a] == nil {
			b := *a
			b.trial = copied(a.trial)
			attempts[a], c.attempts[a.id] = &b, &b
		}
		return attempts[a]
	}
	for old, t := range trials {
		for _, a := range old.attempts {
			t.attempts = append(t.attempts, twin(a))
		}
	}
	for _, b := range f.buckets {
		d := bucket{start: b.start}
		for _, a := range b.attempts {
			d.attempts = append(d.attempts, twin(a))
		}
		c.buckets = append(c.buckets, d)
	}
	c.before, c.swept = f.attempts, f.swept
	c.closed, c.mark, c.lost, c.markSeq, c.seq = f.closed, f.mark, f.lost, f.markSeq, f.seq
	c.clocks = f.clocks
	c.pool, c.evidence = f.pool.clone(), f.Evidence()
	return c, nil
}

// Session takes in one row of a session with its stream sequence. The first
// row of an id says who, where and when; later ones only add an outcome.
// Probes, other clusters, sessions before the baseline or set aside, and rows
// without an id are not this gate's and change nothing.
func (f *Fold) Session(s fleet.Session, seq uint64) {
	if s.Cluster != f.cluster || s.Probe != f.probes || s.ID == "" || s.Start.Before(f.boundary.BaselineFrom) || f.boundary.setsAside(s.Start) {
		return
	}
	f.seq = max(f.seq, seq)
	f.listed = true
	a, known := f.attempts[s.ID]
	if !known {
		_, known = f.before[s.ID] // one that was not entered then is among this fold's own
	}
	if known && a == nil {
		return
	}
	if !known {
		start := wall(s.Start)
		if start.Before(f.closed) {
			f.late(s.ID, start)
			return
		}
		a = &attempt{id: s.ID, start: start, user: s.User, target: s.Target}
		f.attempts[s.ID] = a
		f.place(a)
	}
	switch s.Status {
	case fleet.SessionConnected, fleet.SessionCompleted, fleet.SessionTerminated:
		a.succeeded = true // what connected was created, however it ended
	case fleet.SessionFailed:
		a.failed = true
	case fleet.SessionConnecting: // no outcome yet
	}
}

// late counts a session whose bucket had closed without it.
func (f *Fold) late(id fleet.SessionID, start time.Time) {
	f.attempts[id] = nil
	switch f.phaseOf(start) {
	case baseline:
		f.evidence.Late.Baseline++
	case after:
		f.evidence.Late.New++
	case cut: // in no arm, so no verdict misses it
	}
}

// Mark takes in one progress mark with its stream sequence. A mark older than
// the newest, by sequence, changes nothing; the watermark never goes back. A
// blind mark moves nothing and keeps the verdict inconclusive until a mark
// with sight.
func (f *Fold) Mark(m fleet.Mark, seq uint64) {
	if m.Cluster != f.cluster || seq < f.markSeq {
		return
	}
	f.seq = max(f.seq, seq)
	f.markSeq = seq
	f.clocks.take(m, seq)
	if m.Lost && m.CompleteUntil.After(f.boundary.Start) {
		// What is lost may be new sessions, and failed ones: nothing that comes
		// later makes up for it.
		f.lost, f.mark.BlindReason = true, m.BlindReason
	}
	if f.lost {
		return
	}
	until := f.mark.CompleteUntil
	if !m.Blind && m.CompleteUntil.After(until) {
		until = wall(m.CompleteUntil)
	}
	f.mark = m
	f.mark.CompleteUntil = until
	if m.Blind {
		return
	}
	f.closeBuckets()
	f.settle()
	f.enter()
}

// wall strips what two equal times may differ in, so that times can be keys.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

// phaseOf says where a session that started then belongs.
func (f *Fold) phaseOf(start time.Time) phase {
	switch {
	case f.clocks.near(start, f.boundary.Start), f.clocks.near(start, f.boundary.End):
		return cut
	case start.Before(f.boundary.Start):
		return baseline
	case start.Before(f.boundary.End):
		return cut
	}
	return after
}

// bucketOf returns the start of the bucket that holds t. The step's two ends
// divide buckets, so that no bucket holds two phases and every baseline trial
// comes before every new one.
func (f *Fold) bucketOf(t time.Time) time.Time {
	b := t.Truncate(f.policy.Bucket)
	for _, edge := range [...]time.Time{f.boundary.Start, f.boundary.End} {
		if !t.Before(edge) && b.Before(edge) {
			b = edge
		}
	}
	return b
}

// closeBuckets turns every bucket that the watermark has completed into
// trials, in order of start bucket and id.
func (f *Fold) closeBuckets() {
	// A bucket ends where the next begins, so those before the watermark's own
	// bucket are complete.
	f.closed = f.bucketOf(f.mark.CompleteUntil)
	n := 0
	for ; n < len(f.buckets) && f.buckets[n].start.Before(f.closed); n++ {
		f.closeBucket(f.buckets[n].attempts)
	}
	f.buckets = slices.Delete(f.buckets, 0, n)
	// One whose window is over takes in nothing; it is only in the way.
	if f.closed.Sub(f.swept) < f.policy.BurstWindow {
		return
	}
	f.swept = f.closed
	for k, t := range f.bursts {
		if !t.windowEnd.After(f.closed) {
			delete(f.bursts, k)
		}
	}
}

// place puts an attempt into its bucket. Sessions come nearly in order, so the
// search begins at the newest.
func (f *Fold) place(a *attempt) {
	start := f.bucketOf(a.start)
	i := len(f.buckets)
	for i > 0 && f.buckets[i-1].start.After(start) {
		i--
	}
	if i == 0 || !f.buckets[i-1].start.Equal(start) {
		f.buckets = slices.Insert(f.buckets, i, bucket{start: start})
		i++
	}
	f.buckets[i-1].attempts = append(f.buckets[i-1].attempts, a)
}

func (f *Fold) closeBucket(attempts []*attempt) {
	slices.SortFunc(attempts, func(a, b *attempt) int {
		return cmp.Or(a.start.Compare(b.start), cmp.Compare(a.id, b.id))
	})
	var begun []*trial
	for _, a := range attempts {
		k := burst{phase: f.phaseOf(a.start), user: a.user, target: a.target}
		if t := f.bursts[k]; t != nil && a.start.Before(t.windowEnd) {
			f.join(t, a)
			continue
		}
		t := &trial{id: a.id, start: a.start, windowEnd: a.start.Add(f.policy.BurstWindow), phase: k.phase}
		t.attempts = t.one[:0]
		f.join(t, a)
		begun = append(begun, t)
		if a.user != "" && a.target != "" { // else nobody knows whether it was the same person
			f.bursts[k] = t
		}
	}
	slices.SortFunc(begun, func(a, b *trial) int { return cmp.Compare(a.id, b.id) })
	f.queue = append(f.queue, begun...)
}

// join makes an attempt part of a trial. A trial that is already entered has
// succeeded, which no further attempt can change.
func (f *Fold) join(t *trial, a *attempt) {
	if t.attempts == nil && t.outcome != open {
		f.forget(a)
		return
	}
	a.trial = t
	t.attempts = append(t.attempts, a)
}

// forget keeps of a session only what recognises its repeats.
func (f *Fold) forget(a *attempt) {
	f.attempts[a.id] = nil
}

// settle fixes the outcome of every queued trial that is final by the
// watermark.
func (f *Fold) settle() {
	for _, t := range f.queue {
		if t.outcome == open {
			t.outcome = f.outcomeOf(t)
		}
	}
}

func (f *Fold) outcomeOf(t *trial) outcome {
	hung := false
	final := !t.windowEnd.After(f.closed)
	for _, a := range t.attempts {
		switch {
		case a.succeeded:
			return succeeded
		case a.failed:
		case a.start.Add(f.policy.Maturation).After(f.mark.CompleteUntil):
			final = false
		default:
			hung = true
		}
	}
	switch {
	case !final:
		return open
	case hung:
		return unresolved
	}
	return failed
}

// enter moves settled trials from the head of the queue into the evidence,
// one by one, and judges after each.
func (f *Fold) enter() {
	n := 0
	for ; n < len(f.queue) && f.queue[n].outcome != open; n++ {
		t := f.queue[n]
		for _, a := range t.attempts {
			f.forget(a)
		}
		t.attempts = nil
		f.count(t)
		if t.phase == after {
			f.judge()
		}
	}
	f.queue = slices.Delete(f.queue, 0, n)
}

// count adds one trial to the evidence.
func (f *Fold) count(t *trial) {
	e := &f.evidence
	switch t.phase {
	case cut:
		e.Cut++
	case baseline:
		if t.outcome == unresolved {
			e.Unresolved.Baseline++
			return
		}
		e.Baseline.count(t.outcome)
		f.interval(t)
		f.pool.add(t.start, t.outcome == failed, !t.start.Before(f.boundary.Start.Add(-farBack)))
	case after:
		if e.Partners == 0 {
			// Every baseline trial comes before in order, so their number is final.
			e.Partners = f.policy.partnersFor(e.Baseline.Total())
		}
		if t.outcome == unresolved {
			e.Unresolved.New++
			return
		}
		e.New.count(t.outcome)
		f.interval(t)
		f.bounds.trial(f.policy, t.outcome == failed)
		if yA, ok := f.pool.take(e.Partners, t.start.Hour()); ok {
			s := Shape{NA: e.Partners, NB: 1, Y: yA}
			if t.outcome == failed {
				s.Y, s.YB = yA+1, 1
			}
			e.Blocks.Add(s, 1)
			f.bounds.block(f.scorer.of(s))
		}
	}
}

func (t *Trials) count(o outcome) {
	if o == failed {
		t.Failed++
	} else {
		t.Succeeded++
	}
}

// judge looks at the evidence as it stands; the first final verdict stays.
func (f *Fold) judge() {
	if f.failed() || !f.bounds.near(f.policy, f.reached != nil) {
		return
	}
	v, code := f.weighed()
	switch {
	case f.reached == nil && v.Final():
		f.reached = f.reach(v, code)
	case f.reached != nil && v == Fail:
		f.revocation = f.reach(v, RegressionLater)
	}
}

// weighed returns the verdict that the evidence supports as it stands. Probes pass
// by the absolute route alone: they are asked whether they work, and not only whether
// they work as well as before.
func (f *Fold) weighed() (Verdict, Code) {
	rollback, relative := f.scorer.score(f.evidence.Blocks)
	if f.probes {
		relative = math.Inf(-1)
	}
	return f.evidence.judge(f.policy, rollback, relative, f.evidence.LogPromoteAbsolute(f.policy))
}

func (f *Fold) reach(v Verdict, code Code) *reached {
	return &reached{verdict: v, code: code, evidence: f.Evidence(), watermark: f.Watermark()}
}

// Evidence returns a copy of the evidence so far. It goes on growing after a
// final verdict.
func (f *Fold) Evidence() Evidence {
	e := f.evidence
	e.Blocks = slices.Clone(e.Blocks)
	return e
}

// Watermark returns how much the fold has taken in.
func (f *Fold) Watermark() Watermark {
	return Watermark{CompleteUntil: f.mark.CompleteUntil, Seq: f.seq}
}

// Verdict returns the decision as things stand. deadlinePassed is the
// caller's clock speaking: past it, Pending becomes Inconclusive. A final
// decision is the one of the trial that reached it, and repeats exactly.
func (f *Fold) Verdict(deadlinePassed bool) Decision {
	if f.reached != nil {
		return f.decision(f.reached)
	}
	now := f.reach(f.weighed())
	switch {
	case (f.mark.Blind || f.lost) && (f.listed || !f.probes):
		now.verdict, now.code = Inconclusive, Blind
	case now.verdict == Pending && deadlinePassed:
		now.verdict = Inconclusive
		if now.code != NoData {
			now.code = DeadlinePassed
		}
	}
	return f.decision(now)
}

// Revocation returns the decision that takes a pass back: evidence after it
// reached ROLLBACK. The second result is false while there is none.
func (f *Fold) Revocation() (Decision, bool) {
	if f.revocation == nil {
		return Decision{}, false
	}
	return f.decision(f.revocation), true
}

func (f *Fold) decision(r *reached) Decision {
	d := Decision{
		Cluster:    f.cluster,
		Verdict:    r.verdict,
		Evidence:   r.evidence,
		Trials:     r.evidence.New.Total(),
		Watermark:  r.watermark,
		PolicyHash: f.policyHash,
		Hash:       r.evidence.Hash(f.policyHash, r.verdict),
	}
	d.Evidence.Blocks = slices.Clone(d.Evidence.Blocks)
	if f.probes {
		d.describeProbes(f.policy, r.code, f.mark.BlindReason)
	} else {
		d.describe(f.policy, r.code, f.mark.BlindReason)
	}
	return d
}

// scorer computes the two relative e-values of a table, remembering what one
// block of each shape weighs. It adds in the table's order what Evidence's own
// methods add, so both agree to the last bit.
type scorer struct {
	policy  Policy
	weights map[Shape]*weights
	rows    []*weights // of the table's rows at the last score
}

type weights struct {
	shape    Shape
	rollback [5]float64
	promote  [3]float64
}

func (s *scorer) score(t Table) (rollback, relative float64) {
	var r [5]float64
	var p [3]float64
	for i, row := range t {
		w := s.weigh(i, row.Shape)
		for k := range r {
			r[k] += float64(float64(row.Count) * w.rollback[k])
		}
		for j := range p {
			p[j] += float64(float64(row.Count) * w.promote[j])
		}
	}
	return logMeanExp(r[:]), logMeanExp(p[:])
}

// bounds are the bets of all three e-values as they add up, in whatever order. No mean of
// bets is above the largest of them, so that while each is below its threshold nothing
// is final and nothing has to be weighed. They are not the figures of a verdict: those
// are added up in the table's order.
type bounds struct {
	rollback [5]float64
	promote  [3]float64
	absolute [4]float64
	steps    *[4][2]float64 // how much a trial moves each absolute bet: when it works, when it fails
}

func (b *bounds) trial(p Policy, failed bool) {
	if b.steps == nil {
		b.steps = new([4][2]float64)
		for i, g := range absoluteGrid() {
			b.steps[i][1], b.steps[i][0] = absoluteSteps(g, p.AcceptableRate)
		}
	}
	which := 0
	if failed {
		which = 1
	}
	for i := range b.absolute {
		b.absolute[i] += b.steps[i][which]
	}
}

func (b *bounds) block(w *weights) {
	for k := range b.rollback {
		b.rollback[k] += w.rollback[k]
	}
	for j := range b.promote {
		b.promote[j] += w.promote[j]
	}
}

// near says whether a threshold may be reached. Once a pass is, only a rollback matters.
// The margin is far above what adding up in another order changes.
func (b *bounds) near(p Policy, passed bool) bool {
	const margin = 1e-3
	if slices.Max(b.rollback[:]) >= p.LogRollbackAt()-margin {
		return true
	}
	at := p.LogPromoteAt() - margin
	return !passed && (slices.Max(b.promote[:]) >= at || slices.Max(b.absolute[:]) >= at)
}

// weigh returns the weights of row i. A table seldom gains a row, so the row
// mostly has the shape it had before.
func (s *scorer) weigh(i int, shape Shape) *weights {
	if i < len(s.rows) && s.rows[i].shape == shape {
		return s.rows[i]
	}
	w := s.of(shape)
	s.rows = append(s.rows[:min(i, len(s.rows))], w)
	return w
}

// of returns the weights of a shape.
func (s *scorer) of(shape Shape) *weights {
	w := s.weights[shape]
	if w == nil {
		w = &weights{shape: shape}
		for k, g := range rollbackGrid() {
			w.rollback[k] = LogE(shape, g*s.policy.Tol, s.policy.Tol)
		}
		for j, h := range promoteGrid() {
			w.promote[j] = LogE(shape, h, s.policy.Margin)
		}
		if s.weights == nil {
			s.weights = map[Shape]*weights{}
		}
		s.weights[shape] = w
	}
	return w
}
