package gate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// fate is one attempt of a person: when, and whether it worked.
type fate struct {
	user  string
	start time.Time
	bad   bool
}

// session returns the attempt as a row.
func (a fate) session(id string) fleet.Session {
	s := fleet.Session{ID: fleet.SessionID(id), Cluster: paris, Status: fleet.SessionConnected, User: a.user, Target: "db", Start: a.start}
	if a.bad {
		s.Status = fleet.SessionFailed
	}
	return s
}

// retrying draws people who each want one session, one every ten seconds from the
// given time on. Who fails tries again until ten attempts, three seconds apart, have
// failed.
func retrying(rng *rand.Rand, who string, from time.Time, count int, rate float64) []fate {
	var all []fate
	for i := range count {
		person := fate{user: fmt.Sprintf("%s%d", who, i), start: from.Add(time.Duration(i) * 10 * time.Second), bad: rng.Float64() < rate}
		attempts := 1
		if person.bad {
			attempts = 10
		}
		for range attempts {
			all = append(all, person)
			person.start = person.start.Add(3 * time.Second)
		}
	}
	return all
}

// People who cannot log in try again. Counted singly, ten attempts of one person
// look like ten people, and a harmless release like a harmful one.
func TestSuiteBursts(t *testing.T) {
	t.Parallel()
	count := suiteCount(t, 240)
	p := DefaultPolicy()
	p.Tol = 1
	people := p.Partners * p.PlannedTrials
	b := Boundary{BaselineFrom: noon.Add(-time.Duration(people) * 10 * time.Second), Start: noon, End: noon.Add(time.Minute)}
	var shares [2]float64
	t.Run("plays", func(t *testing.T) {
		for k, window := range []time.Duration{0, time.Minute} {
			t.Run(window.String(), func(t *testing.T) {
				t.Parallel()
				once := p
				once.BurstWindow = window
				failed := 0
				for i := range count {
					rng := rand.New(rand.NewPCG(51, uint64(i)))
					f := newFold(t, once, b)
					all := append(retrying(rng, "before", b.BaselineFrom, people, 0.02), retrying(rng, "after", b.End, p.PlannedTrials, 0.02)...)
					for n, a := range all {
						f.Session(a.session(fmt.Sprintf("s%06d", n)), uint64(n))
					}
					f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon.Add(24 * time.Hour)}, uint64(len(all)))
					if _, revoked := f.Revocation(); revoked || f.Verdict(true).Verdict == Fail {
						failed++
					}
				}
				shares[k] = float64(failed) / float64(count)
			})
		}
	})
	t.Logf("2 %% of people fail ten times, before and after the step; %d runs of %d people: %.1f %% rolled back counted singly, %.1f %% counted once",
		count, p.PlannedTrials, 100*shares[0], 100*shares[1])
	if limit := p.Alpha + 3*sampling(p.Alpha, count); shares[1] > limit {
		t.Errorf("counted once: %.2f %% of harmless releases rolled back, want at most %.2f %%", 100*shares[1], 100*limit)
	}
	if shares[0] < 0.3 {
		t.Errorf("counted singly: %.1f %% of harmless releases rolled back; bursts are no longer what this tries", 100*shares[0])
	}
}

// silence is a way in which a gate hears too little to promote.
type silence struct {
	name    string
	fresh   int           // new sessions, one a second from the step's end on; every one works
	sighted time.Duration // marks promise nothing that is later after the step's start
	blind   bool          // and say so
	want    Verdict       // what is recorded
}

// recorded plays one gate with a look every ten minutes, until half an hour past its
// deadline, and returns what is recorded of it: the first final verdict, else what
// stands at the deadline. What any look says otherwise is an error.
func (c silence) recorded(t *testing.T, p Policy, rng *rand.Rand) Verdict {
	t.Helper()
	const every = 10 * time.Minute
	history, rate := rng.IntN(3000), []float64{0, 0.02, 0.1}[rng.IntN(3)]
	b := Boundary{BaselineFrom: noon.Add(-10 * time.Hour), Start: noon, End: noon.Add(time.Minute)}
	f := newFold(t, p, b)
	seq := uint64(0)
	for i := range history {
		seq++
		a := fate{user: fmt.Sprint(i), start: b.BaselineFrom.Add(time.Duration(i) * 10 * time.Second), bad: rng.Float64() < rate}
		f.Session(a.session(fmt.Sprintf("b%d", i)), seq)
	}
	var told Verdict
	fed := 0
	for now := noon; now.Before(b.End.Add(p.Deadline + 3*every)); now = now.Add(every) {
		for ; fed < c.fresh && b.End.Add(time.Duration(fed)*time.Second).Before(now); fed++ {
			seq++
			a := fate{user: fmt.Sprint("n", fed), start: b.End.Add(time.Duration(fed) * time.Second)}
			f.Session(a.session(fmt.Sprintf("n%d", fed)), seq)
		}
		seq++
		until := noon.Add(min(now.Sub(noon), c.sighted))
		f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: until, Blind: c.blind && now.Sub(noon) > c.sighted, BlindReason: "no permission"}, seq)
		late := !now.Before(b.End.Add(p.Deadline))
		d := f.Verdict(late)
		switch {
		case told != "":
			if d.Verdict != told {
				t.Errorf("recorded %s, and says %s later", told, d.Verdict)
			}
		case d.Verdict.Final() || late:
			told = d.Verdict
		case d.Verdict != Pending && !c.blind:
			t.Errorf("%s before the deadline: %s", d.Verdict, d.Summary)
		}
	}
	return told
}

func TestSuiteNoDataNeverPromotes(t *testing.T) {
	t.Parallel()
	busy := DefaultPolicy()
	quiet := DefaultPolicy()
	quiet.AcceptableRate, quiet.Margin, quiet.PlannedTrials = 0.05, 5, 20
	const always = 1000 * time.Hour
	count := suiteCount(t, 24)
	for _, c := range []silence{
		{"nobody comes", 0, always, false, Inconclusive},
		{"one session", 1, always, false, Inconclusive},
		{"five sessions", 5, always, false, Inconclusive},
		{"marks stop in the step", 1000, 30 * time.Second, false, Inconclusive},
		{"marks stop after five sessions", 1000, 65 * time.Second, false, Inconclusive},
		{"blind in the step", 1000, 30 * time.Second, true, Inconclusive},
		{"blind after five sessions", 1000, 65 * time.Second, true, Inconclusive},
		{"all is seen", 1000, always, false, Pass},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			found := map[Verdict]int{}
			for _, p := range []Policy{busy, quiet} {
				for i := range count {
					found[c.recorded(t, p, rand.New(rand.NewPCG(61, uint64(i))))]++
				}
			}
			t.Logf("%d gates: %v", 2*count, found)
			if found[c.want] != 2*count {
				t.Errorf("%d gates were recorded as %v, want all %s", 2*count, found, c.want)
			}
		})
	}
}
