package backtest

import (
	"cmp"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// Outcome is what became of a step.
type Outcome string

// Every value Outcome takes on the wire.
const (
	Fake       Outcome = "fake"        // nothing was changed, so a rollback would be false
	Stayed     Outcome = "stayed"      // the cluster went on from it
	RolledBack Outcome = "rolled_back" // people or a gate took the cluster back from it
	Unsettled  Outcome = "unsettled"   // neither yet
)

// Outcomes lists every outcome.
func Outcomes() []Outcome { return []Outcome{Fake, Stayed, RolledBack, Unsettled} }

// Step is one step of one cluster that is replayed.
type Step struct {
	Gate     string // the id of a real step's gate, empty for a fake one
	Cluster  fleet.ClusterID
	Boundary gate.Boundary
	Outcome  Outcome
	// Until is when the cluster was touched next, so that later sessions say nothing
	// of this step; the zero time when it was not.
	Until time.Time
}

// limit is when the replay of a step ends at the latest.
func (s Step) limit(deadline time.Duration) time.Time {
	end := s.Boundary.End.Add(deadline)
	if !s.Until.IsZero() && s.Until.Before(end) {
		return s.Until
	}
	return end
}

// Record is the steps that one rollout made, and when it made clusters unlike
// themselves.
type Record struct {
	Steps []Step
	Moves map[fleet.ClusterID][]gate.Span
}

// RecordOf reads what one rollout did from its facts in their order; a move that
// goes on lasts until now. A way back is laid to the step after which it began: to
// one before it people had said yes by going on. A rollback because the next step
// could not be applied is laid to none.
func RecordOf(id rollout.ID, facts []rollout.Fact, now time.Time) Record {
	state := rollout.State{ID: id}
	newest := make(map[fleet.ClusterID]*Step)
	var order []*Step
	for _, f := range facts {
		state = state.Apply(f)
		last := newest[f.Cluster]
		switch k := f.Kind.(type) {
		case rollout.StepApplied:
			s := &Step{Gate: k.Gate, Cluster: f.Cluster, Boundary: k.Boundary, Outcome: Unsettled}
			newest[f.Cluster] = s
			order = append(order, s)
		case rollout.StepStarted:
			if last != nil {
				last.Outcome, last.Until = Stayed, f.At
				delete(newest, f.Cluster)
			}
		case rollout.ClusterDone:
			if last != nil {
				last.Outcome = Stayed
			}
		case rollout.RollbackStarted:
			if last != nil {
				last.Outcome, last.Until = RolledBack, f.At
				delete(newest, f.Cluster)
			}
		}
	}
	r := Record{Moves: make(map[fleet.ClusterID][]gate.Span)}
	for _, s := range order {
		r.Steps = append(r.Steps, *s)
	}
	for _, run := range state.Clusters {
		if span, touched := run.Moved(now); touched {
			r.Moves[run.Plan.Cluster] = append(r.Moves[run.Plan.Cluster], span)
		}
	}
	return r
}

// Stretch is a part of a cluster's history that is read once, for some steps.
type Stretch struct {
	gate.Span
	Steps []Step
	// Near are the times in which a step is judged, so that no mark may be left out.
	Near []gate.Span
}

// slack is for how long after a step's end rows are still read: what tells that
// everything up to there is known comes later.
const slack = time.Hour

// Stretches parts steps into what is read at once: at most so many steps, for a
// step holds its baseline in memory, and nothing that no step looks at.
func Stretches(steps []Step, deadline time.Duration, most int) []Stretch {
	steps = slices.Clone(steps)
	slices.SortFunc(steps, func(a, b Step) int {
		return cmp.Or(a.Boundary.BaselineFrom.Compare(b.Boundary.BaselineFrom), a.Boundary.End.Compare(b.Boundary.End), cmp.Compare(a.Gate, b.Gate))
	})
	var out []Stretch
	for _, s := range steps {
		near := gate.Span{From: s.Boundary.Start, To: s.limit(deadline).Add(slack)}
		if n := len(out); n == 0 || len(out[n-1].Steps) >= most || out[n-1].To.Before(s.Boundary.BaselineFrom) {
			out = append(out, Stretch{Span: gate.Span{From: s.Boundary.BaselineFrom, To: near.To}})
		}
		last := &out[len(out)-1]
		last.Steps = append(last.Steps, s)
		last.Near = append(last.Near, near)
		if near.To.After(last.To) {
			last.To = near.To
		}
	}
	return out
}
