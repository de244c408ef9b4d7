package gate

import (
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Codes of the lifecycle check, besides NoData, NoBaseline and Collecting.
const (
	LikeBefore Code = "like_before" // sessions begin, go on and end as they did
	Stuck      Code = "stuck"       // too many sessions neither connect nor fail
	Overlong   Code = "overlong"    // too many sessions go on past their time to live
	Brief      Code = "brief"       // too many sessions end as soon as they began
	Vanished   Code = "vanished"    // too many sessions are listed no more, without an end
)

// A release is odd in a way when so many of its sessions are, at least, and their
// share is above twice the baseline's by so much. Before so many sessions have begun
// it is not known to be like the baseline.
const (
	oddAtLeast  = 5
	oddPerMille = 50
	enough      = 20
	briefEnd    = time.Second
)

// Lifecycle counts how sessions of one arm went. Each session counts once, in the
// state in which it was seen last.
type Lifecycle struct {
	Sessions int
	Stuck    int // connecting for longer than the maturation horizon
	Overlong int // open for longer than their time to live and the horizon
	Brief    int // ended within a second of their beginning, without a failure
	Vanished int // listed no more, without an end
}

// Count counts a session as it was seen last, when sessions were complete until an
// instant. Probes do not count, nor does a session that may still connect in time. A
// time to live of zero is not known, and nothing is longer than it.
func (l *Lifecycle) Count(s fleet.Session, maturation, ttl time.Duration, until time.Time) {
	age := until.Sub(s.Start)
	if s.Probe || s.Status == fleet.SessionConnecting && age <= maturation {
		return
	}
	l.Sessions++
	switch s.Status {
	case fleet.SessionConnecting:
		l.Stuck++
	case fleet.SessionConnected:
		if ttl > 0 && age > ttl+maturation {
			l.Overlong++
		}
	case fleet.SessionCompleted, fleet.SessionTerminated:
		if !s.End.IsZero() && s.End.Sub(s.Start) < briefEnd {
			l.Brief++
		}
	case fleet.SessionVanished:
		l.Vanished++
	case fleet.SessionFailed: // other checks count failures
	}
}

// LifecycleFacts are what the lifecycle check looks at.
type LifecycleFacts struct {
	// Baseline counts sessions that started before the step, New those after it.
	Baseline, New Lifecycle
	// At is until when sessions were complete.
	At time.Time
}

// Judge passes when new sessions are stuck, overlong, brief or gone without an end in
// about the share in which they were before. It holds and never fails: how a session
// should go is for people to say.
func (f LifecycleFacts) Judge() Result {
	var found findings
	n, b := f.New, f.Baseline
	switch {
	case n.Sessions == 0:
		found.add(Inconclusive, NoData, "No session has begun since the step.")
	case b.Sessions == 0:
		found.add(Inconclusive, NoBaseline, "There are no sessions of before the step to compare with.")
	default:
		for _, way := range []struct {
			code        Code
			now, before int
			how         string
		}{
			{Stuck, n.Stuck, b.Stuck, "neither connected nor failed"},
			{Overlong, n.Overlong, b.Overlong, "went on past their time to live"},
			{Brief, n.Brief, b.Brief, "ended within a second"},
			{Vanished, n.Vanished, b.Vanished, "are listed no more, without an end"},
		} {
			if odd(way.now, n.Sessions, way.before, b.Sessions) {
				found.add(Hold, way.code, "%d of %s since the step %s, %d of %d before it.", way.now, several(int64(n.Sessions), "session"), way.how, way.before, b.Sessions)
			}
		}
		if n.Sessions < enough {
			found.add(Pending, Collecting, "It takes %d sessions since the step to tell how they go, and there are %d.", enough, n.Sessions)
		}
	}
	return found.result(CheckLifecycle, f.At, map[string]int64{
		"new": int64(n.Sessions), "new_stuck": int64(n.Stuck), "new_overlong": int64(n.Overlong), "new_brief": int64(n.Brief), "new_vanished": int64(n.Vanished),
		"baseline": int64(b.Sessions), "baseline_stuck": int64(b.Stuck), "baseline_overlong": int64(b.Overlong), "baseline_brief": int64(b.Brief), "baseline_vanished": int64(b.Vanished),
	}, Reason{LikeBefore, several(int64(n.Sessions), "session") + " since the step began, went on and ended as sessions did before it."})
}

// odd compares shares without dividing:
// now/of > 2·before/ofBefore + oddPerMille/1000.
func odd(now, of, before, ofBefore int) bool {
	return now >= oddAtLeast && 1000*int64(now)*int64(ofBefore) > (2000*int64(before)+oddPerMille*int64(ofBefore))*int64(of)
}
