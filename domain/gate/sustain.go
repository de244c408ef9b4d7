package gate

import (
	"fmt"
	"slices"
	"time"
)

// NotSustained says that a check fails, though not yet for as long or as often as
// its policy asks for.
const NotSustained Code = "not_sustained"

// Streak is how one check has failed since it last did not, look after look. It is
// a function of the looks alone: neither their order nor repeats change it, and the
// same history makes the same streak again. It grows with the looks that failed and
// begins anew with one that did not.
//
// Only what tells something is a look: a pass or a hold ends a streak, a failure
// makes it longer, and pending and inconclusive results change nothing. So do
// results of which nothing was seen, and a further result of a look that is known.
type Streak struct {
	fine    time.Time   // of the newest look that did not fail
	failing []time.Time // of those after it that did, in order
}

// Take takes in one result of the check and returns it as the gate counts it: a
// failure that has not been sustained is pending.
func (s *Streak) Take(r Result, p Sustain) Result {
	if !r.At.IsZero() {
		switch r.Verdict {
		case Pass, Hold:
			s.fine = newer(s.fine, r.At)
			s.failing = slices.DeleteFunc(s.failing, func(at time.Time) bool { return !at.After(s.fine) })
		case Fail:
			if at, known := slices.BinarySearchFunc(s.failing, r.At, time.Time.Compare); !known && r.At.After(s.fine) {
				s.failing = slices.Insert(s.failing, at, r.At)
			}
		case Pending, Inconclusive: // nobody could tell
		}
	}
	if r.Verdict != Fail || s.sustained(p) {
		return r
	}
	why := Reason{NotSustained, fmt.Sprintf("It fails in %s over %s; a failure is %s over %s.",
		several(int64(len(s.failing)), "look"), s.lasted(), several(int64(max(p.Looks, 1)), "look"), p.For)}
	r.Verdict = Pending
	r.Reasons = slices.Insert(slices.Clone(r.Reasons), 0, why)
	r.Text = why.Text
	return r
}

// sustained says whether the failure has lasted as long, and been seen as often, as
// a policy asks for. A policy that asks for nothing takes the first look that fails.
func (s *Streak) sustained(p Sustain) bool {
	return len(s.failing) >= max(p.Looks, 1) && s.lasted() >= p.For
}

// lasted is how long the check was seen to fail.
func (s *Streak) lasted() time.Duration {
	if len(s.failing) == 0 {
		return 0
	}
	return s.failing[len(s.failing)-1].Sub(s.failing[0])
}
