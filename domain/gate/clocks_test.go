package gate

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// skewed tells a step of sessions whose true outcome follows from when they truly
// began, by sources whose clocks are wrong: those that began before the step work, those
// that began while it ran fail, and later ones fare as asked. It returns the step and
// whether any session is on the wrong side of a boundary by its date.
func skewed(t *rapid.T, since fleet.SessionStatus, measured bool) (s *Step, misdated bool) {
	p := quickPolicy()
	b := Boundary{BaselineFrom: noon.Add(-2 * time.Hour), Start: noon, End: noon.Add(2 * time.Minute)}
	s = newStep(t, p, DefaultTerms(p), b)
	offset := func(name string) time.Duration {
		return time.Duration(rapid.IntRange(-600_000, 600_000).Draw(t, name)) * time.Millisecond
	}
	// Either the vendor's clock is wrong, or the collector's, which may be set right, or
	// wrong, on the way.
	var vendor time.Duration
	collector := []time.Duration{0, 0, 0}
	if rapid.Bool().Draw(t, "the vendor's") {
		vendor = offset("vendor")
	} else {
		for i := range collector {
			collector[i] = offset("collector")
		}
	}
	seq := uint64(0)
	every := time.Duration(rapid.IntRange(3, 20).Draw(t, "every")) * time.Second
	poll := time.Duration(rapid.IntRange(10, 90).Draw(t, "poll")) * time.Second
	next := b.BaselineFrom.Add(poll)
	side := func(at time.Time) int {
		switch {
		case at.Before(b.Start):
			return 0
		case at.Before(b.End):
			return 1
		}
		return 2
	}
	for at := b.BaselineFrom.Add(15 * time.Minute); at.Before(b.End.Add(time.Hour)); at = at.Add(every) {
		for !next.After(at) {
			seq++
			m := fleet.Mark{Cluster: paris, About: fleet.KindSession, CompleteUntil: next.Add(vendor)}
			if measured {
				phase := min(int(next.Sub(b.BaselineFrom)/time.Hour), len(collector)-1)
				m.Skew = vendor - collector[phase]
			}
			s.Take(Seen{Source: "vendor", Seq: seq, Arrived: next, Mark: &m})
			next = next.Add(poll)
		}
		seq++
		status := [...]fleet.SessionStatus{fleet.SessionConnected, fleet.SessionFailed, since}[side(at)]
		id := fmt.Sprint(seq)
		s.Take(Seen{Source: "vendor", Seq: seq, Arrived: at, Session: &fleet.Session{
			ID: fleet.SessionID(id), Cluster: paris, Status: status, User: id, Target: "db", Start: at.Add(vendor),
		}})
		misdated = misdated || side(at) != side(at.Add(vendor))
	}
	return s, misdated
}

// Clocks may be wrong by ten minutes, and be set on the way: no session counts on the
// wrong side of a step, so that nothing is rolled back or promoted for it.
func TestWrongClocksDecideNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, _ := skewed(t, fleet.SessionConnected, true)
		if e := s.people.Evidence(); e.New.Failed+e.Baseline.Failed > 0 {
			t.Errorf("sessions of the step itself are counted: %+v before, %+v after", e.Baseline, e.New)
		}
		if d := s.Decide(noon.Add(2*time.Hour), false); d.Verdict == Fail {
			t.Errorf("an innocent step fails: %s", d.Summary())
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		s, _ := skewed(t, fleet.SessionFailed, true)
		if e := s.people.Evidence(); e.New.Succeeded > 0 {
			t.Errorf("sessions from before the step are counted as new: %+v", e.New)
		}
		if d := s.Decide(noon.Add(2*time.Hour), false); d.Verdict == Pass {
			t.Errorf("a step after which all fails passes: %s", d.Summary())
		}
	})
}

// What the law above tries is there to be tried: without what the marks measured, the
// same clocks put sessions on the wrong side.
func TestWrongClocksAreTried(t *testing.T) {
	t.Parallel()
	gen := rapid.Custom(func(t *rapid.T) [2]bool {
		s, misdated := skewed(t, fleet.SessionConnected, false)
		e := s.people.Evidence()
		return [2]bool{misdated, e.New.Failed+e.Baseline.Failed > 0}
	})
	misdated, counted := 0, 0
	for seed := range 40 {
		was := gen.Example(seed)
		if was[0] {
			misdated++
		}
		if was[1] {
			counted++
		}
	}
	if misdated < 10 || counted < 10 {
		t.Errorf("of 40 worlds %d have sessions on the wrong side and %d count them", misdated, counted)
	}
}
