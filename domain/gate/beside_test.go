package gate

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// besideTerms are those of a step for which nobody named a policy, with controls.
func besideTerms(p Policy, controls ...fleet.ClusterID) Terms {
	t := DefaultTerms(p)
	for _, c := range controls {
		t.Controls = append(t.Controls, Control{Cluster: c})
	}
	return t
}

// controlled is a step whose people's sessions fail more than before: its alarm comes
// at the first mark, a minute after the step.
func controlled(t *testing.T, controls ...fleet.ClusterID) *Step {
	t.Helper()
	p := quickPolicy()
	b := Boundary{BaselineFrom: noon.Add(-time.Hour), Start: noon, End: noon}
	s := newStep(t, p, besideTerms(p, controls...), b)
	seq := uint64(0)
	session := func(id string, at time.Duration, status fleet.SessionStatus) {
		seq++
		s.Take(Seen{Source: "vendor", Seq: seq, Session: &fleet.Session{ID: fleet.SessionID(id), Cluster: paris, Status: status, User: id, Target: "db", Start: noon.Add(at)}})
	}
	for i := range 600 {
		session(fmt.Sprint("old", i), time.Duration(-i-1)*time.Second, fleet.SessionConnected)
	}
	for i := range 30 {
		session(fmt.Sprint("new", i), time.Duration(i)*time.Second, fleet.SessionFailed)
	}
	marked(s, time.Minute)
	if s.Alarmed() != (len(controls) > 0) {
		t.Fatal("the step is not alarmed; its sessions should fail more than before")
	}
	return s
}

// quickPolicy makes every session a trial that is final at once.
func quickPolicy() Policy {
	p := DefaultPolicy()
	p.Bucket, p.BurstWindow, p.Maturation, p.PlannedTrials = time.Second, 0, time.Second, 30
	return p
}

func marked(s *Step, after time.Duration) {
	s.Take(Seen{Source: "vendor", Seq: uint64(10_000 + after/time.Second), Mark: &fleet.Mark{Cluster: s.cluster, About: fleet.KindSession, CompleteUntil: noon.Add(after)}})
}

// fared is a control of which so many of a hundred sessions failed since the step, and
// two in a hundred before.
func fared(cluster fleet.ClusterID, failed, of int, until time.Duration) ControlEvidence {
	e := Evidence{Partners: 10, New: Trials{failed, of - failed}, Baseline: Trials{2 * of / 10, 98 * of / 10}}
	for i := range of {
		s := Shape{NA: 10, NB: 1}
		if i%5 == 0 {
			s.Y = 1
		}
		if i < failed {
			s.Y, s.YB = s.Y+1, 1
		}
		e.Blocks.Add(s, 1)
	}
	return ControlEvidence{Cluster: cluster, Evidence: e, Watermark: Watermark{CompleteUntil: noon.Add(until)}}
}

// What is common to all clusters is not blamed on a step, and what the step did is not
// excused by clusters that nobody sees.
func TestBesideControls(t *testing.T) {
	t.Parallel()
	const later = 2 * time.Minute // as long again as the alarm took
	for _, c := range []struct {
		name     string
		controls []fleet.ClusterID
		heard    []ControlEvidence
		until    time.Duration // how far the stepped cluster is seen
		deadline bool
		verdict  Verdict
		code     Code // of the first or the last reason
	}{
		{"no controls", nil, nil, time.Minute, false, Fail, Regression},
		{"not asked yet", []fleet.ClusterID{"rome"}, nil, time.Minute, false, Pending, NotToldApart},
		{"never answered", []fleet.ClusterID{"rome"}, nil, later, false, Fail, NotToldApart},
		{"not asked at the deadline", []fleet.ClusterID{"rome"}, nil, time.Minute, true, Fail, NotToldApart},
		{"none is left", []fleet.ClusterID{"rome"}, []ControlEvidence{}, time.Minute, false, Fail, NoControls},
		{"without sessions", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("rome", 0, 0, time.Minute)}, time.Minute, false, Fail, NoControls},
		{"work", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("rome", 2, 100, time.Minute)}, time.Minute, false, Fail, ControlsWork},
		{"fail, too", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("rome", 60, 100, time.Minute)}, time.Minute, false, Hold, CommonCause},
		{"fail, too, past the deadline", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("rome", 60, 100, time.Minute)}, time.Minute, true, Hold, CommonCause},
		{"fail somewhat", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("rome", 8, 100, time.Minute)}, time.Minute, false, Pending, NotToldApart},
		{"fail somewhat for long", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("rome", 8, 100, time.Minute)}, later, false, Fail, NotToldApart},
		{"seen too little", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("rome", 2, 100, time.Second)}, time.Minute, false, Pending, NotToldApart},
		{"one of three is seen", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("a", 2, 100, time.Second), fared("b", 2, 100, time.Second), fared("c", 2, 100, time.Minute)},
			time.Minute, false, Pending, NotToldApart},
		{"two of three are seen", []fleet.ClusterID{"rome"}, []ControlEvidence{fared("a", 2, 100, time.Second), fared("b", 2, 100, time.Minute), fared("c", 2, 100, time.Minute)},
			time.Minute, false, Fail, ControlsWork},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := controlled(t, c.controls...)
			if c.heard != nil {
				s.Beside(c.heard)
			}
			marked(s, c.until)
			d := s.Decide(noon.Add(c.until), c.deadline)
			if d.Verdict != c.verdict || d.Sessions.Verdict != c.verdict {
				t.Fatalf("the verdict is %s, of sessions %s, want %s: %s", d.Verdict, d.Sessions.Verdict, c.verdict, d.Summary())
			}
			reasons := d.Sessions.Reasons
			told := reasons[0]
			if c.verdict == Fail {
				told = reasons[len(reasons)-1]
			}
			if told.Code != c.code {
				t.Errorf("the reasons are %v, want %s to be told", reasons, c.code)
			}
			if !strings.Contains(d.Summary(), told.Text) {
				t.Errorf("the summary does not tell it: %s", d.Summary())
			}
			if rolls := d.Consequence == RollBack; rolls != (c.verdict == Fail) {
				t.Errorf("what follows is %s", d.Consequence)
			}
		})
	}
}

// The hash of a decision covers what the controls said, so that it cannot be taken for
// one that stands beside others.
func TestControlsAreHashed(t *testing.T) {
	t.Parallel()
	hashes := make(map[string]string)
	for name, heard := range map[string][]ControlEvidence{
		"another cluster": {fared("bonn", 2, 100, time.Minute)}, "another count": {fared("rome", 3, 200, time.Minute)}, "one": {fared("rome", 2, 100, time.Minute)}, "none": {},
	} {
		s := controlled(t, "rome")
		s.Beside(heard)
		hash := s.Decide(noon.Add(time.Minute), false).ControlsHash
		if other := hashes[hash]; other != "" {
			t.Errorf("%s and %s have one hash", name, other)
		}
		hashes[hash] = name
	}
}

// A demand that sessions must not fail is not met by a failure that is not told from
// the fleet's yet.
func TestDoubtIsNoLackOfData(t *testing.T) {
	t.Parallel()
	p := quickPolicy()
	terms := demanding(map[CheckName]Demand{CheckSessions: DemandNoFail})
	terms.Controls = []Control{{Cluster: "rome"}}
	b := Boundary{BaselineFrom: noon.Add(-time.Hour), Start: noon, End: noon}
	s := newStep(t, p, terms, b)
	for i := range 660 {
		at, status := time.Duration(i-600)*time.Second, fleet.SessionConnected
		if i >= 600 {
			status = fleet.SessionFailed
		}
		s.Take(Seen{Source: "vendor", Seq: uint64(i + 1), Session: &fleet.Session{ID: fleet.SessionID(fmt.Sprint(i)), Cluster: paris, Status: status, User: fmt.Sprint(i), Target: "db", Start: noon.Add(at)}})
	}
	marked(s, time.Minute)
	if d := s.Decide(noon.Add(time.Minute), false); d.Verdict != Pending {
		t.Errorf("the verdict is %s: %s", d.Verdict, d.Summary())
	}
}

// besideOutcome is how one run of a shock ended.
type besideOutcome int

const (
	besideNever besideOutcome = iota
	besideFail
	besideHold
)

// playBeside plays sessions of a stepped cluster and of controls as busy as it, until
// the step's failure stands or is held.
func playBeside(p Policy, seed uint64, odds, release float64, controls int) (out besideOutcome, alarm, sessions int) {
	const rate, most = 0.02, 1500
	chance := rand.New(rand.NewPCG(seed, 5))
	block := func(odds float64) (s Shape) {
		s = Shape{NA: p.Partners, NB: 1}
		for range s.NA {
			if chance.Float64() < rate {
				s.Y++
			}
		}
		if chance.Float64() < shifted(rate, odds) {
			s.Y, s.YB = s.Y+1, 1
		}
		return s
	}
	take := func(e *Evidence, s Shape) {
		e.Blocks.Add(s, 1)
		e.New.Failed, e.New.Succeeded = e.New.Failed+s.YB, e.New.Succeeded+1-s.YB
	}
	var stepped Evidence
	heard := make([]ControlEvidence, controls)
	for n := 1; n <= most; n++ {
		take(&stepped, block(odds*release))
		for i := range heard {
			take(&heard[i].Evidence, block(odds))
		}
		if alarm == 0 && stepped.LogRollback(p) >= p.LogRollbackAt() {
			alarm = n
		}
		if alarm == 0 {
			continue
		}
		// One session is one second, so that as long again is as many sessions again.
		arms := Wave{Controls: heard}.controlArms(p)
		switch {
		case arms.alarm:
			return besideHold, alarm, n
		case arms.logE <= 0, n >= 2*alarm:
			return besideFail, alarm, n
		}
	}
	return besideNever, alarm, most
}

// How often a shock that all clusters have is blamed on a step, by how many controls it
// is set beside, and what setting it beside them costs where there is none.
func TestSuiteBeside(t *testing.T) {
	t.Parallel()
	runs := suiteCount(t, 400)
	p := DefaultPolicy()
	var lines strings.Builder
	for _, c := range []struct {
		name          string
		odds, release float64
		limit         map[int]float64 // share of runs that roll back at most, by controls
		caught        bool
	}{
		{"3x, innocent", 3, 1, map[int]float64{1: 0.40, 4: 0.09, MaxControls: 0.03}, false},
		{"10x, innocent", 10, 1, map[int]float64{1: 0.30, 4: 0.03, MaxControls: 0.015}, false},
		{"none, release 5x", 1, 5, map[int]float64{1: 1, 4: 1, MaxControls: 1}, true},
	} {
		for _, controls := range []int{1, 4, MaxControls} {
			failed, late := 0, 0
			for i := range runs {
				out, alarm, n := playBeside(p, uint64(i), c.odds, c.release, controls)
				if out == besideFail {
					failed++
					late += n - alarm
				}
			}
			share := float64(failed) / float64(runs)
			fmt.Fprintf(&lines, "  %-18s %2d controls: rolled back in %.1f %% of %d runs, %.1f sessions after the alarm\n", c.name, controls, 100*share, runs, float64(late)/float64(max(failed, 1)))
			if share > c.limit[controls] {
				t.Errorf("%s with %d controls: rolled back in %.1f %% of runs, want at most %.1f %%", c.name, controls, 100*share, 100*c.limit[controls])
			}
			if c.caught && share < 0.97 {
				t.Errorf("%s with %d controls: rolled back in %.1f %% of runs only", c.name, controls, 100*share)
			}
		}
	}
	t.Logf("a step set beside clusters that were not stepped, alpha %g, tolerance %g\n%s", p.Alpha, p.Tol, lines.String())
}
