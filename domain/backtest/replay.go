package backtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Case is one way in which steps are judged. Real steps are judged by the cases
// without injected failures alone.
type Case struct {
	Policy gate.Policy
	// Inject is the share, from 0 to 1, of people's new sessions that worked and are
	// made failures.
	Inject float64
}

// Run is one step judged by one case.
type Run struct {
	Step *Step
	Case int // as in the cases of the replay
	// Verdict is pending when the history, or the time until the cluster was touched
	// again, ended before the deadline with no final verdict.
	Verdict gate.Verdict
	// At is up to when sessions were known when the verdict was reached; for one that
	// is not final, the deadline.
	At      time.Time
	Trials  int // new ones with an outcome that the verdict rests on
	Exposed int // people's sessions that started after the step and before At
}

// Held is how long after the step's end the verdict came.
func (r Run) Held() time.Duration { return r.At.Sub(r.Step.Boundary.End) }

// Replay judges steps of one cluster in one pass over its history. Sessions and
// marks are given in stream order, from the first step's BaselineFrom at the
// latest. It is not safe for concurrent use.
type Replay struct {
	cases []Case
	seed  uint64

	waiting []*track // by BaselineFrom
	active  []*track
	runs    []Run

	// held is the mark seen last while nothing has followed it.
	held    fleet.Mark
	heldSeq uint64
	holding bool
}

// track is one step on its way.
type track struct {
	step  Step
	limit time.Time // the last deadline of its folds
	stems []stem    // until the step
	folds []fold
	// known are people's sessions since the step's end, which come once for each
	// status.
	known  map[fleet.SessionID]struct{}
	starts []time.Time
}

// stem takes in the baseline for every case that makes the same trials of it.
type stem struct {
	gate  *gate.Fold
	folds []int // of the track
}

// fold is a step judged by one case.
type fold struct {
	of     int // the case
	policy gate.Policy
	inject float64
	limit  time.Time
	whole  bool       // limit is the deadline
	gate   *gate.Fold // nil before the step and once it is done
	done   bool
}

// NewReplay returns one that has seen nothing, or an error that says what is wrong
// with a policy or a step.
func NewReplay(cases []Case, seed uint64, steps []Step) (*Replay, error) {
	r := &Replay{cases: cases, seed: seed}
	for _, s := range steps {
		t := &track{step: s}
		for i, c := range cases {
			if c.Inject > 0 && s.Outcome != Fake {
				continue
			}
			limit := s.limit(c.Policy.Deadline)
			t.folds = append(t.folds, fold{of: i, policy: c.Policy, inject: c.Inject, limit: limit, whole: limit.Equal(s.Boundary.End.Add(c.Policy.Deadline))})
			if err := t.grow(c.Policy); err != nil {
				return nil, fmt.Errorf("replay the step of cluster %s that ended at %s: %w", s.Cluster, s.Boundary.End.Format(time.RFC3339), err)
			}
			if limit.After(t.limit) {
				t.limit = limit
			}
		}
		r.waiting = append(r.waiting, t)
	}
	slices.SortStableFunc(r.waiting, func(a, b *track) int { return a.step.Boundary.BaselineFrom.Compare(b.step.Boundary.BaselineFrom) })
	return r, nil
}

// grow gives the newest fold of a track a stem.
func (t *track) grow(p gate.Policy) error {
	if err := p.Validate(); err != nil {
		return err
	}
	n := len(t.folds) - 1
	for i := range t.stems {
		if q := t.folds[t.stems[i].folds[0]].policy; q.Maturation == p.Maturation && q.BurstWindow == p.BurstWindow && q.Bucket == p.Bucket {
			t.stems[i].folds = append(t.stems[i].folds, n)
			return nil
		}
	}
	g, err := gate.NewFold(p, t.step.Cluster, t.step.Boundary)
	t.stems = append(t.stems, stem{gate: g, folds: []int{n}})
	return err
}

// part lets every case go its own way. What a stem was given came before the step.
func (t *track) part() {
	for _, s := range t.stems {
		for _, n := range s.folds {
			if len(s.folds) == 1 {
				t.folds[n].gate = s.gate
				continue
			}
			g, err := s.gate.Fork(t.folds[n].policy)
			if err != nil {
				panic(err) // the policies were chosen for it
			}
			t.folds[n].gate = g
		}
	}
	t.stems = nil
}

// Session takes in one row of a session, as gate.Fold does.
func (r *Replay) Session(s fleet.Session, seq uint64) {
	r.flush(nil)
	r.begin(s.Start)
	if s.Probe || s.ID == "" {
		return
	}
	for _, t := range r.active {
		t.session(s, seq, r.seed)
	}
}

// Mark takes in one progress mark, as gate.Fold does.
func (r *Replay) Mark(m fleet.Mark, seq uint64) {
	r.flush(&m)
	r.begin(m.CompleteUntil)
	r.held, r.heldSeq, r.holding = m, seq, true
}

// End says that there is no more history and that it reached until: a step whose
// deadline is not after it is judged by what there is.
func (r *Replay) End(until time.Time) {
	r.flush(nil)
	for _, t := range slices.Concat(r.active, r.waiting) {
		for i := range t.folds {
			r.finish(t, &t.folds[i], !t.folds[i].limit.After(until))
		}
	}
	r.active, r.waiting = nil, nil
}

// Runs returns the runs that are over, in the order in which they ended.
func (r *Replay) Runs() []Run { return r.runs }

// begin takes up every step whose baseline has begun.
func (r *Replay) begin(at time.Time) {
	for len(r.waiting) > 0 && !at.Before(r.waiting[0].step.Boundary.BaselineFrom) {
		r.active = append(r.active, r.waiting[0])
		r.waiting = r.waiting[1:]
	}
}

// flush gives the mark that is held to every step. A step whose baseline still
// lasts does without it where next says the same and more and no row stands
// between: buckets close in the order of time whichever mark closes them, and
// nothing is judged before the step. Sources send a mark every few seconds, far
// more than there are sessions in a small cluster.
func (r *Replay) flush(next *fleet.Mark) {
	if !r.holding {
		return
	}
	r.holding = false
	m, done := r.held, false
	follows := next != nil && !m.Lost && !next.Lost && !next.Blind && !next.CompleteUntil.Before(m.CompleteUntil)
	for _, t := range r.active {
		if follows && !next.CompleteUntil.After(t.step.Boundary.Start) {
			continue
		}
		if m.CompleteUntil.After(t.step.Boundary.Start) {
			t.part()
		}
		for _, s := range t.stems {
			s.gate.Mark(m, r.heldSeq)
		}
		for i := range t.folds {
			f := &t.folds[i]
			if f.gate == nil {
				continue
			}
			over := !m.CompleteUntil.Before(f.limit)
			part := m
			if over {
				// As if the source had been prompt: what started later is not the step's.
				part.CompleteUntil = f.limit
			}
			f.gate.Mark(part, r.heldSeq)
			if over && !m.Blind {
				r.finish(t, f, true)
			}
		}
		done = done || t.over()
	}
	if done {
		r.active = slices.DeleteFunc(r.active, (*track).over)
	}
}

func (t *track) over() bool {
	return !slices.ContainsFunc(t.folds, func(f fold) bool { return !f.done })
}

func (t *track) session(s fleet.Session, seq uint64, seed uint64) {
	b := &t.step.Boundary
	if s.Start.Before(b.BaselineFrom) || !s.Start.Before(t.limit) {
		return
	}
	if !s.Start.Before(b.Start) {
		t.part()
	}
	for _, stem := range t.stems {
		stem.gate.Session(s, seq)
	}
	if t.stems != nil {
		return
	}
	injected := s
	chance := 1.0
	if !s.Start.Before(b.End) {
		t.expose(s)
		switch s.Status {
		case fleet.SessionConnected, fleet.SessionCompleted, fleet.SessionTerminated:
			injected.Status = fleet.SessionFailed
			chance = drawn(s.ID, seed)
		}
	}
	for i := range t.folds {
		f := &t.folds[i]
		switch {
		case f.gate == nil || !s.Start.Before(f.limit):
		case chance < f.inject:
			f.gate.Session(injected, seq)
		default:
			f.gate.Session(s, seq)
		}
	}
}

func (t *track) expose(s fleet.Session) {
	if _, again := t.known[s.ID]; again {
		return
	}
	if t.known == nil {
		t.known = make(map[fleet.SessionID]struct{})
	}
	t.known[s.ID] = struct{}{}
	t.starts = append(t.starts, s.Start)
}

// finish notes how a fold ended. The fold keeps its first final verdict with what
// it rested on, so asking once is enough. reached says that the history went as far
// as the fold may look.
func (r *Replay) finish(t *track, f *fold, reached bool) {
	if f.done {
		return
	}
	t.part()
	d := f.gate.Verdict(reached && f.whole)
	run := Run{Step: &t.step, Case: f.of, Verdict: d.Verdict, At: d.Watermark.CompleteUntil, Trials: d.Trials}
	if !d.Verdict.Final() {
		run.At = f.limit
		if !reached || !f.whole {
			run.Verdict = gate.Pending
		}
	}
	for _, start := range t.starts {
		if start.Before(run.At) {
			run.Exposed++
		}
	}
	r.runs = append(r.runs, run)
	f.gate, f.done = nil, true
}
