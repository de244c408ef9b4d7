package gate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func newStep(t interface {
	Helper()
	Fatal(...any)
}, p Policy, terms Terms, b Boundary) *Step {
	t.Helper()
	s, err := NewStep(p, terms, paris, b, func(Rule, []Result) (bool, error) { return false, nil })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seen is a row of sessions or marks as a step takes it.
func (r row) seen() Seen {
	out := Seen{Source: "vendor", Seq: r.seq, Session: r.session}
	if r.session == nil {
		out.Mark = &r.mark
		out.Arrived = r.mark.CompleteUntil
	}
	return out
}

func seenOf(s stream) []Seen {
	var out []Seen
	for _, batch := range s {
		for _, r := range batch {
			out = append(out, r.seen())
		}
	}
	return out
}

// demanding are terms of a policy that has a name.
func demanding(demands map[CheckName]Demand) Terms {
	s := Stage{Checks: map[CheckName]CheckPolicy{}, Deadline: time.Hour}
	for check, demand := range demands {
		s.Checks[check] = CheckPolicy{Demand: demand}
	}
	return Terms{Policy: "named", Mode: Act, Stage: s, Expected: Expectation{
		Versions: fleet.VersionSet{fleet.LineSRA: "2.0.0"}, Complete: true, Window: 10 * time.Minute, Silence: time.Minute,
		Checks: []ConfiguredCheck{{"login", fleet.CheckSSH}, {"canary", fleet.CheckStorage}, {"syslog", fleet.CheckForwarding}, {"upload", fleet.CheckRecording}},
		Risks:  []catalog.Assessment{{Risk: catalog.RiskLegacySSH, Condition: catalog.ConditionMatch, Detail: "targets are old", Remedy: "renew them"}}, RisksAt: noon,
	}}
}

// everything demands something of every check.
func everything() Terms {
	t := demanding(nil)
	for _, check := range CheckNames() {
		t.Stage.Checks[check] = CheckPolicy{Demand: DemandNoFail, Sustain: Sustain{For: 10 * time.Second, Looks: 2}}
	}
	t.Stage.Checks[CheckSessions] = CheckPolicy{Demand: DemandPass}
	return t
}

// crowd draws more sessions than people does, of which so many fail before the step
// and after it that every verdict is reached.
func crowd() *rapid.Generator[[]person] {
	return rapid.Custom(func(t *rapid.T) []person {
		chance := rand.New(rand.NewPCG(3, rapid.Uint64().Draw(t, "seed")))
		rates := []float64{0, 0.02, 0.1, 0.3, 0.9}
		before, since := rates[chance.IntN(len(rates))], rates[chance.IntN(len(rates))]
		all := make([]person, 200)
		for i := range all {
			start, rate := noon.Add(time.Duration(chance.IntN(210_000)-90_000)*time.Millisecond), before
			if start.After(noon) {
				rate = since
			}
			all[i] = person{status: fleet.SessionConnected, after: time.Duration(chance.IntN(5000)) * time.Millisecond}
			if chance.Float64() < rate {
				all[i].status = fleet.SessionFailed
			}
			all[i].session = fleet.Session{ID: fleet.SessionID(fmt.Sprintf("s%03d", i)), Cluster: paris, Status: fleet.SessionConnecting, User: fmt.Sprint(i), Target: "db", Start: start}
		}
		return all
	})
}

// mix draws rows of every kind beside those of a stream, in the stream's order, and
// marks about some.
func mix(about ...fleet.Kind) *rapid.Generator[[]Seen] {
	return rapid.Custom(func(t *rapid.T) []Seen {
		sessions := people(-90*time.Second, 120*time.Second)
		if rapid.Bool().Draw(t, "crowded") {
			sessions = crowd()
		}
		all := sessions.Draw(t, "all")
		for i := range all {
			all[i].session.Failure = rapid.SampledFrom([]fleet.Failure{"", fleet.FailureLegacySSH}).Draw(t, "class")
		}
		rows := seenOf(observed(all, polls().Draw(t, "polls")))
		for range rapid.IntRange(0, 60).Draw(t, "more") {
			i := rapid.IntRange(0, len(rows)).Draw(t, "where")
			rows = slices.Insert(rows, i, other(about).Draw(t, "other"))
		}
		for i := range rows {
			rows[i].Seq = uint64(i + 1)
		}
		return rows
	})
}

// other draws a row that is no session.
func other(about []fleet.Kind) *rapid.Generator[Seen] {
	return rapid.Custom(func(t *rapid.T) Seen {
		at := noon.Add(time.Duration(rapid.IntRange(-100, 1500).Draw(t, "at")) * time.Second)
		seen := Seen{Source: rapid.SampledFrom([]fleet.SourceID{"a", "b"}).Draw(t, "source"), Arrived: at}
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			i := sight(at, rapid.SliceOfN(rapid.SampledFrom([]string{"1.0.0", "2.0.0"}), 0, 3).Draw(t, "versions")...)
			seen.Inventory = &i
		case 1:
			r := fleet.Registration{Cluster: paris, ObservedAt: at, Bastions: make([]fleet.Bastion, rapid.IntRange(0, 2).Draw(t, "bastions"))}
			seen.Registration = &r
		case 2:
			m := fleet.Mark{Cluster: paris, CompleteUntil: at, About: rapid.SampledFrom(about).Draw(t, "about"),
				Blind: rapid.IntRange(0, 5).Draw(t, "blind") == 0}
			m.Lost = m.Blind && rapid.IntRange(0, 3).Draw(t, "lost") == 0
			seen.Mark = &m
		default:
			c := fleet.Check{Cluster: paris, Name: rapid.SampledFrom([]string{"login", "canary", "syslog", "upload", "web"}).Draw(t, "name"), At: at, OK: rapid.IntRange(0, 2).Draw(t, "ok") > 0}
			c.Kind = map[string]fleet.CheckKind{"login": fleet.CheckSSH, "canary": fleet.CheckStorage, "syslog": fleet.CheckForwarding, "upload": fleet.CheckRecording, "web": fleet.CheckHTTPS}[c.Name]
			if !c.OK {
				c.Failure = rapid.SampledFrom([]fleet.Failure{fleet.FailureSetup, fleet.FailureTimeout}).Draw(t, "failure")
			}
			seen.Check = &c
		}
		return seen
	})
}

// sight is an inventory with one instance of each version.
func sight(at time.Time, versions ...string) fleet.Inventory {
	i := fleet.Inventory{Cluster: paris, ObservedAt: at}
	for n, version := range versions {
		i.Instances = append(i.Instances, fleet.Instance{ID: fleet.InstanceID(fmt.Sprint("web-", n)), Component: fleet.SRAWeb, Version: version, Health: fleet.HealthHealthy})
	}
	return i
}

func (s *Step) takeAll(rows []Seen) *Step {
	for _, r := range rows {
		s.Take(r)
	}
	return s
}

// termsDrawn are those that a law is tried with.
func termsDrawn(t *rapid.T) Terms {
	if rapid.Bool().Draw(t, "named") {
		return everything()
	}
	terms := DefaultTerms(quick())
	terms.Expected = everything().Expected
	return terms
}

// However often one looks, and whatever is repeated, the same rows come to the same
// decision, texts included.
func TestStepIsAFunctionOfItsRows(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		terms := termsDrawn(t)
		rows := mix(fleet.KindInventory, fleet.KindRegistration, fleet.KindProbe, fleet.KindSession).Draw(t, "rows")
		now, late := noon.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "now"))*time.Second), rapid.Bool().Draw(t, "late")
		want := newStep(t, quick(), terms, around(noon)).takeAll(rows).Decide(now, late)
		looked, repeated := newStep(t, quick(), terms, around(noon)), newStep(t, quick(), terms, around(noon))
		for i, r := range rows {
			looked.Take(r)
			if rapid.IntRange(0, 9).Draw(t, "look") == 0 {
				looked.Decide(noon.Add(time.Duration(i)*time.Minute), rapid.Bool().Draw(t, "late then"))
			}
			repeated.Take(r)
			for range rapid.IntRange(0, 2).Draw(t, "repeats") {
				repeated.Take(rows[rapid.IntRange(0, i).Draw(t, "again")])
			}
		}
		if diff := cmp.Diff(want, looked.Decide(now, late)); diff != "" {
			t.Fatalf("looking changed the decision:\n%s", diff)
		}
		if diff := cmp.Diff(want, repeated.Decide(now, late)); diff != "" {
			t.Fatalf("repeats changed the decision:\n%s", diff)
		}
		if diff := cmp.Diff(want, newStep(t, quick(), terms, around(noon)).takeAll(rows).takeAll(rows).Decide(now, late)); diff != "" {
			t.Fatalf("all again changed the decision:\n%s", diff)
		}
		for _, r := range want.Results {
			for _, name := range Figures()[r.Check] {
				if _, has := r.Figures[name]; !has {
					t.Fatalf("%s lacks %s", r.Check, name)
				}
			}
		}
	})
}

// What is called quiet is not decided, whatever was seen and asked for.
func TestQuietIsUndecided(t *testing.T) {
	t.Parallel()
	quietly, loud := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		terms := termsDrawn(t)
		if terms.Policy != "" {
			for _, check := range CheckNames() {
				terms.Stage.Checks[check] = CheckPolicy{Demand: rapid.SampledFrom([]Demand{DemandPass, DemandNoFail, DemandAdvisory, DemandOff}).Draw(t, string(check))}
			}
			terms.Stage.Soak = time.Duration(rapid.IntRange(0, 2).Draw(t, "soak")) * time.Minute
		}
		s := newStep(t, quick(), terms, around(noon))
		for _, r := range mix(fleet.KindInventory, fleet.KindRegistration, fleet.KindProbe, fleet.KindSession).Draw(t, "rows") {
			s.Take(r)
			now := noon.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "now")) * time.Second)
			d := s.Decide(now, false)
			if s.Quiet(now) {
				quietly++
				if d.Verdict.Final() {
					t.Fatalf("called quiet and decided %s: %s", d.Verdict, d.Summary())
				}
			} else if d.Verdict.Final() {
				loud++
			}
		}
	})
	if quietly == 0 || loud == 0 {
		t.Errorf("%d looks were quiet, and %d that were not decided", quietly, loud)
	}
}

// Between two marks about sessions the order of sessions means nothing.
func TestStepOrderBetweenMarks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		terms, s := termsDrawn(t), streams().Draw(t, "stream")
		shuffled := make(stream, len(s))
		for i, batch := range s {
			last := len(batch) - 1
			shuffled[i] = append(rapid.Permutation(batch[:last:last]).Draw(t, "batch"), batch[last])
		}
		at := noon.Add(10 * time.Minute)
		want := newStep(t, quick(), terms, around(noon)).takeAll(seenOf(s)).Decide(at, true)
		if diff := cmp.Diff(want, newStep(t, quick(), terms, around(noon)).takeAll(seenOf(shuffled)).Decide(at, true)); diff != "" {
			t.Fatalf("decisions differ:\n%s", diff)
		}
	})
}

// Who names no policy is judged as by a fold alone, whatever else is seen.
func TestDefaultTermsAreTheFold(t *testing.T) {
	t.Parallel()
	found := map[Verdict]int{}
	rapid.Check(t, func(t *rapid.T) {
		about := []fleet.Kind{fleet.KindInventory, fleet.KindRegistration, fleet.KindProbe}
		if rapid.Bool().Draw(t, "disturbed") {
			about = append(about, fleet.KindSession)
		}
		rows := mix(about...).Draw(t, "rows")
		fold, step := newFold(t, quick(), around(noon)), newStep(t, quick(), DefaultTerms(quick()), around(noon))
		for _, r := range rows {
			step.Take(r)
			switch {
			case r.Session != nil:
				fold.Session(*r.Session, r.Seq)
			case r.Mark != nil && (r.Mark.About == fleet.KindSession || r.Mark.About == ""):
				fold.Mark(*r.Mark, r.Seq)
			}
			if r.Session != nil { // nothing moves before the next mark
				continue
			}
			late := rapid.IntRange(0, 9).Draw(t, "late") == 0
			want, got := fold.Verdict(late), step.Decide(noon.Add(time.Hour), late)
			if diff := cmp.Diff(want, got.Sessions); diff != "" {
				t.Fatalf("sessions say otherwise:\n%s", diff)
			}
			if got.Verdict != want.Verdict || got.Summary() != want.Summary || got.Reasons[0].Code != want.Reasons[0].Code {
				t.Fatalf("%s (%s), and the fold says %s (%s)", got.Verdict, got.Summary(), want.Verdict, want.Summary)
			}
			if wait := got.Consequence == Wait; wait != (!want.Verdict.Final() && !late) {
				t.Fatalf("%s leads to %s", got.Verdict, got.Consequence)
			}
			found[got.Verdict]++
		}
	})
	for _, v := range []Verdict{Pending, Pass, Fail, Inconclusive} {
		if found[v] == 0 {
			t.Errorf("no stream came to %s: %v", v, found)
		}
	}
}

func TestStepWithoutDataNeverPasses(t *testing.T) {
	t.Parallel()
	strict := demanding(map[CheckName]Demand{CheckSessions: DemandPass})
	lenient := demanding(map[CheckName]Demand{CheckSessions: DemandNoFail, CheckInventory: DemandNoFail, CheckProbes: DemandNoFail})
	b := Boundary{BaselineFrom: noon.Add(-time.Hour), Start: noon, End: noon.Add(time.Minute)}
	for _, c := range []struct {
		name        string
		fresh       int
		mark, blind bool
	}{
		{"nobody", 0, true, false}, {"one", 1, true, false}, {"five", 5, true, false},
		{"no marks", 1000, false, false}, {"blind marks", 1000, true, true}, {"nothing", 0, false, false},
	} {
		for name, terms := range map[string]Terms{"default": DefaultTerms(DefaultPolicy()), "strict": strict, "lenient": lenient} {
			t.Run(c.name+" "+name, func(t *testing.T) {
				t.Parallel()
				s := newStep(t, DefaultPolicy(), terms, b)
				for i := range 500 {
					one := fate{user: fmt.Sprint(i), start: noon.Add(time.Duration(i-600) * time.Second)}.session(fmt.Sprint("b", i))
					s.Take(Seen{Source: "vendor", Seq: 1, Session: &one})
				}
				for i := range c.fresh {
					one := fate{user: fmt.Sprint(i), start: b.End.Add(time.Duration(i) * time.Second)}.session(fmt.Sprint("n", i))
					s.Take(Seen{Source: "vendor", Seq: 2, Session: &one})
				}
				for i := range 60 {
					until := noon.Add(time.Duration(i) * time.Minute)
					if c.mark {
						s.Take(Seen{Source: "vendor", Seq: uint64(3 + i), Arrived: until, Mark: &fleet.Mark{Cluster: paris, CompleteUntil: until, Blind: c.blind}})
					}
					if d := s.Decide(until, false); d.Verdict == Pass {
						t.Fatalf("after %d minutes it passed: %s", i, d.Summary())
					}
				}
				if d := s.Decide(noon.Add(5*time.Hour), true); d.Verdict != Inconclusive {
					t.Errorf("at the deadline it is %s: %s", d.Verdict, d.Summary())
				}
			})
		}
	}
}

// story feeds a step as sources do, every ten seconds.
type story struct {
	*Step
	seq uint64
	now time.Time
}

func (s *story) take(seen Seen) {
	s.seq++
	seen.Seq, seen.Arrived = s.seq, s.now
	if seen.Source == "" {
		seen.Source = "collector"
	}
	s.Take(seen)
}

func (s *story) mark(about fleet.Kind) {
	s.take(Seen{Mark: &fleet.Mark{Cluster: paris, About: about, CompleteUntil: s.now}})
}

func (s *story) runs(versions ...string) {
	i := sight(s.now, versions...)
	s.take(Seen{Inventory: &i})
	s.mark(fleet.KindInventory)
}

func (s *story) probe(name string, ok bool) {
	c := fleet.Check{Cluster: paris, Name: name, Kind: fleet.CheckSSH, At: s.now, OK: ok}
	if !ok {
		c.Failure = fleet.FailureTimeout
	}
	s.take(Seen{Check: &c})
	s.mark(fleet.KindProbe)
}

func (s *story) person(bad bool) {
	one := fate{user: fmt.Sprint(s.seq), start: s.now.Add(-time.Second), bad: bad}.session(fmt.Sprint("s", s.seq))
	s.take(Seen{Session: &one})
	s.mark(fleet.KindSession)
}

func begin(t *testing.T, terms Terms) *story {
	t.Helper()
	b := Boundary{BaselineFrom: noon.Add(-10 * time.Hour), Start: noon, End: noon.Add(time.Minute)}
	return &story{Step: newStep(t, DefaultPolicy(), terms, b), now: noon.Add(-time.Hour)}
}

func (s *story) want(t *testing.T, v Verdict, check CheckName, says Verdict) {
	t.Helper()
	d := s.Decide(s.now, false)
	if d.Verdict != v {
		t.Fatalf("at %s it is %s, want %s: %s", s.now.Format(time.TimeOnly), d.Verdict, v, d.Summary())
	}
	for _, r := range d.Results {
		if r.Check == check && r.Verdict != says {
			t.Fatalf("at %s %s says %s, want %s: %v", s.now.Format(time.TimeOnly), check, r.Verdict, says, r.Reasons)
		}
	}
}

// A stage of probes and inventory needs nobody's session, and passes with the last
// probe that it takes, if telemetry lets it.
func TestProbesAndInventoryPassAlone(t *testing.T) {
	t.Parallel()
	s := begin(t, demanding(map[CheckName]Demand{CheckProbes: DemandPass, CheckInventory: DemandPass, CheckSessions: DemandOff}))
	s.runs("1.0.0", "1.0.0")
	s.now = noon.Add(2 * time.Minute)
	s.runs("2.0.0", "2.0.0")
	for i := range 217 {
		s.now = s.now.Add(5 * time.Second)
		s.probe("login", true)
		s.mark(fleet.KindInventory)
		if i%50 == 0 { // a look that could not begin is no try
			c := fleet.Check{Cluster: paris, Name: "other", Kind: fleet.CheckSSH, At: s.now, Failure: fleet.FailureSetup}
			s.take(Seen{Check: &c})
		}
	}
	s.want(t, Pending, CheckProbes, Pending)
	s.now = s.now.Add(5 * time.Second)
	s.take(Seen{Mark: &fleet.Mark{Cluster: paris, About: fleet.KindProbe, CompleteUntil: s.now, Blind: true, BlindReason: "no route"}})
	c := fleet.Check{Cluster: paris, Name: "web", Kind: fleet.CheckHTTPS, At: s.now, OK: true}
	s.take(Seen{Check: &c})
	s.mark(fleet.KindInventory)
	s.want(t, Pending, CheckProbes, Pass)
	s.want(t, Pending, CheckTelemetry, Inconclusive)
	s.mark(fleet.KindProbe)
	s.want(t, Pass, CheckTelemetry, Pass)
	d := s.Decide(s.now, false)
	if d.Probes.Evidence.New.Total() != 218 || d.Probes.Reasons[0].Code != AcceptableRate || !strings.Contains(d.Probes.Summary, "New probes fail less often") {
		t.Errorf("probes: %+v", d.Probes)
	}
	if got := d.Summary(); got != "Everything that is demanded is there: telemetry, inventory, probes." {
		t.Errorf("the summary is %q", got)
	}
	silent := s.now.Add(time.Minute + 1)
	if d := s.Decide(silent, false); d.Verdict != Pending || !strings.Contains(d.Summary(), "telemetry: ") {
		t.Errorf("when all is silent it is %s: %s", d.Verdict, d.Summary())
	}
}

// People's failures stop a step at once, though its probes are fine.
func TestPeopleFailWhileProbesPass(t *testing.T) {
	t.Parallel()
	for _, demand := range []Demand{DemandPass, DemandNoFail} {
		s := begin(t, demanding(map[CheckName]Demand{CheckProbes: DemandPass, CheckSessions: demand}))
		for range 1000 {
			s.now = s.now.Add(3 * time.Second)
			s.person(false)
		}
		s.now = noon.Add(2 * time.Minute)
		for range 218 {
			s.now = s.now.Add(time.Second)
			s.probe("login", true)
		}
		for s.now = s.now.Add(3 * time.Minute); ; s.now = s.now.Add(3 * time.Second) {
			s.person(true)
			fold := s.people.Verdict(false)
			if fold.Verdict == Fail {
				s.want(t, Fail, CheckProbes, Pass)
				d := s.Decide(s.now, false)
				if d.Consequence != RollBack || d.Summary() != d.Sessions.Summary || d.Summary() != fold.Summary {
					t.Errorf("%s: %s: %q", demand, d.Consequence, d.Summary())
				}
				break
			}
			s.want(t, Pending, CheckSessions, Pending)
			if s.now.After(noon.Add(time.Hour)) {
				t.Fatalf("%s: people's failures never failed the step", demand)
			}
		}
	}
}

// A pass of sessions is taken back as long as the stage waits for something else.
func TestPassIsTakenBackWithinAStage(t *testing.T) {
	t.Parallel()
	s := begin(t, demanding(map[CheckName]Demand{CheckProbes: DemandPass, CheckSessions: DemandPass}))
	for range 3500 {
		s.now = s.now.Add(time.Second)
		s.person(false)
	}
	s.now = noon.Add(2 * time.Minute)
	for range 300 {
		s.now = s.now.Add(time.Second)
		s.person(false)
	}
	s.now = s.now.Add(3 * time.Minute)
	s.person(false)
	s.want(t, Pending, CheckSessions, Pass)
	for i := 0; i < 600 && s.people.revocation == nil; i++ {
		s.now = s.now.Add(time.Second)
		s.person(true)
	}
	s.now = s.now.Add(3 * time.Minute)
	s.person(true)
	s.want(t, Fail, CheckSessions, Fail)
	if d := s.Decide(s.now, false); d.Sessions.Reasons[0].Code != RegressionLater {
		t.Errorf("the reasons are %v", d.Sessions.Reasons)
	}
}

// What is missing past its window fails once it has been seen to for long enough,
// by marks that confirm it, and not before.
func TestMissingInstanceFailsAfterItsSustain(t *testing.T) {
	t.Parallel()
	terms := demanding(nil)
	terms.Stage.Checks[CheckInventory] = CheckPolicy{Demand: DemandPass, Sustain: Sustain{For: time.Minute, Looks: 3}}
	s := begin(t, terms)
	s.runs("1.0.0", "1.0.0")
	s.now = noon.Add(2 * time.Minute)
	s.runs("2.0.0", "1.0.0") // mixed since noon and two minutes
	s.now = noon.Add(3 * time.Minute)
	s.runs("2.0.0")
	s.want(t, Pending, CheckInventory, Pending)
	window := noon.Add(time.Minute).Add(10 * time.Minute) // the mix is over, so it is the step's
	for s.now = s.now.Add(30 * time.Second); s.now.Before(window); s.now = s.now.Add(30 * time.Second) {
		s.mark(fleet.KindInventory)
		s.want(t, Pending, CheckInventory, Pending)
	}
	code := func() Code { return s.Decide(s.now, false).Results[1].Reasons[0].Code }
	s.mark(fleet.KindInventory)
	s.want(t, Pending, CheckInventory, Pending)
	if code() != NotSustained {
		t.Errorf("past the window it is %s", code())
	}
	if d := s.Decide(s.now.Add(10*time.Minute), false); d.Results[1].Verdict != Pending {
		t.Errorf("time alone made it %s", d.Results[1].Verdict)
	}
	s.now = s.now.Add(30 * time.Second)
	s.mark(fleet.KindInventory)
	s.want(t, Pending, CheckInventory, Pending)
	s.now = s.now.Add(30 * time.Second)
	s.mark(fleet.KindInventory)
	s.want(t, Fail, CheckInventory, Fail)
	s.now = s.now.Add(time.Second)
	s.runs("2.0.0", "2.0.0")
	s.want(t, Pass, CheckInventory, Pass)
}

func TestMixIsSeenFromTheInventories(t *testing.T) {
	t.Parallel()
	s := begin(t, demanding(map[CheckName]Demand{CheckInventory: DemandPass}))
	since := func(want time.Time) {
		t.Helper()
		if !s.mixedSince.Equal(want) {
			t.Errorf("at %s mixed since %s, want %s", s.now, s.mixedSince, want)
		}
	}
	s.runs("1.0.0", "v1.0.0")
	since(time.Time{})
	s.now = noon.Add(-time.Minute)
	s.runs("1.0.0", "2.0.0")
	since(noon) // what was mixed before is so from the step's beginning
	s.now = noon.Add(2 * time.Minute)
	s.runs("1.0.0", "1.0.0")
	since(time.Time{})
	s.now = noon.Add(3 * time.Minute)
	s.runs("1.0.0", "2.0.0")
	since(s.now)
	began := s.now
	s.now = noon.Add(13 * time.Minute)
	s.mark(fleet.KindInventory)
	since(began)
	if d := s.Decide(s.now, false); d.Verdict != Fail || d.Results[1].Figures["mixed_seconds"] != 600 {
		t.Errorf("past its window the mix is %s, %v", d.Verdict, d.Results[1].Figures)
	}
}

func TestRisksAreSeenInSessions(t *testing.T) {
	t.Parallel()
	s := begin(t, demanding(map[CheckName]Demand{CheckRisks: DemandNoFail, CheckSessions: DemandNoFail}))
	s.now = noon.Add(2 * time.Minute)
	s.mark(fleet.KindSession)
	s.want(t, Hold, CheckRisks, Hold) // it is met
	one := fate{user: "ann", start: s.now, bad: true}.session("one")
	one.Failure = fleet.FailureLegacySSH
	s.take(Seen{Session: &one})
	s.now = s.now.Add(5 * time.Second)
	s.mark(fleet.KindSession)
	s.want(t, Fail, CheckRisks, Fail)
	if d := s.Decide(s.now, false); d.Summary() != "risks: legacy-ssh-algorithms: 1 session since the step failed in its way and none before it; targets are old." {
		t.Errorf("the summary is %q", d.Summary())
	}
}

func TestDeadlineIsTheCallersWord(t *testing.T) {
	t.Parallel()
	for _, soak := range []time.Duration{0, 2 * time.Hour} {
		terms := demanding(map[CheckName]Demand{CheckInventory: DemandPass})
		terms.Stage.Soak = soak
		s := begin(t, terms)
		for _, c := range []struct {
			at   time.Duration
			late bool
			want Verdict
		}{{0, false, Pending}, {100 * time.Hour, false, Pending}, {100 * time.Hour, true, Inconclusive}} {
			if d := s.Decide(noon.Add(c.at), c.late); d.Verdict != c.want {
				t.Errorf("soak %s, after %s, late %t: %s", soak, c.at, c.late, d.Verdict)
			}
		}
		want := Inconclusive // as at the deadline, however early
		if soak > 0 {
			want = Pending
		}
		if d := s.Decide(noon, true); d.Verdict != want {
			t.Errorf("soak %s, told early: %s, want %s", soak, d.Verdict, want)
		}
	}
}

// A collector that was replaced before the step is none of its sources; one that
// falls silent in it is.
func TestSilentSources(t *testing.T) {
	t.Parallel()
	s := begin(t, demanding(map[CheckName]Demand{CheckInventory: DemandPass}))
	s.take(Seen{Source: "old", Mark: &fleet.Mark{Cluster: paris, About: fleet.KindInventory, CompleteUntil: s.now}})
	s.runs("2.0.0")
	s.now = noon.Add(2 * time.Minute)
	s.runs("2.0.0")
	s.want(t, Pass, CheckTelemetry, Pass)
	s.take(Seen{Source: "second", Mark: &fleet.Mark{Cluster: paris, About: fleet.KindInventory, CompleteUntil: s.now}})
	s.now = s.now.Add(2 * time.Minute)
	s.mark(fleet.KindInventory)
	s.want(t, Pending, CheckTelemetry, Inconclusive)
}

// The ledger against a count of all sessions.
func TestLedgerCountsAsLifecycleDoes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := streams().Draw(t, "stream")
		l := newLedger(around(noon), 20*time.Second)
		last := map[fleet.SessionID]*fleet.Session{}
		var until time.Time
		for _, batch := range s {
			// Of one message what happened last is what counts.
			slices.SortStableFunc(batch[:len(batch)-1], func(a, b row) int {
				return int(l.since.stateOf(a.session, 0).status) - int(l.since.stateOf(b.session, 0).status)
			})
			for _, r := range batch {
				switch {
				case r.session == nil:
					until = r.mark.CompleteUntil
				case !r.session.Probe:
					l.session(r.session, r.seq, clocks{})
					last[r.session.ID] = r.session
				}
			}
		}
		var want Lifecycle
		failed := map[fleet.Failure]int{}
		for _, one := range last {
			if one.Start.Before(noon.Add(30 * time.Second)) {
				continue
			}
			want.Count(*one, 20*time.Second, 0, until)
			if one.Status == fleet.SessionFailed {
				failed[one.Failure]++
			}
		}
		if diff := cmp.Diff(want, l.since.lifecycle(20*time.Second, until)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		for class, n := range failed {
			if got := l.since.failures(class); got != n {
				t.Fatalf("%d failed as %q, want %d", got, class, n)
			}
		}
	})
}

func TestLedgerFixesTheBaselineAtTheStep(t *testing.T) {
	t.Parallel()
	l := newLedger(around(noon), 20*time.Second)
	one := func(id string, before time.Duration, status fleet.SessionStatus, seq uint64) {
		l.session(&fleet.Session{ID: fleet.SessionID(id), Start: noon.Add(-before), Status: status}, seq, clocks{})
	}
	one("hung", time.Minute, fleet.SessionConnecting, 1)
	one("open", time.Minute, fleet.SessionConnected, 1)
	one("just", time.Second, fleet.SessionConnecting, 1)
	one("back", time.Minute, fleet.SessionVanished, 1)
	one("back", time.Minute, fleet.SessionConnected, 2)
	l.reach(noon.Add(-time.Second))
	l.reach(noon)
	one("open", time.Minute, fleet.SessionVanished, 3) // the step's doing
	one("late", time.Minute, fleet.SessionVanished, 3)
	if diff := cmp.Diff(Lifecycle{Sessions: 3, Stuck: 1}, l.before.lifecycle(20*time.Second, noon.Add(time.Hour))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Probes that are told as sessions wait for the marks about sessions; those that are
// told as checks do not.
func TestProbesToldAsSessions(t *testing.T) {
	t.Parallel()
	f, err := newProbeFold(quick(), paris, around(noon))
	if err != nil {
		t.Fatal(err)
	}
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon, Blind: true}, 1)
	if d := f.Verdict(false); d.Reasons[0].Code != NoData {
		t.Errorf("blind for sessions, and no probe is one: %v", d.Reasons)
	}
	probe := fleet.Session{ID: "p", Cluster: paris, Probe: true, Status: fleet.SessionFailed, User: "robot", Target: "db", Start: noon.Add(40 * time.Second)}
	f.Session(probe, 2)
	if d := f.Verdict(false); d.Reasons[0].Code != Blind {
		t.Errorf("blind for sessions, and a probe is one: %v", d.Reasons)
	}
	f.Check(fleet.Check{Cluster: paris, Name: "login", Kind: fleet.CheckSSH, At: noon.Add(40 * time.Second), OK: true}, 3)
	if e := f.Evidence(); e.New != (Trials{Succeeded: 1}) {
		t.Errorf("a check waits: %+v", e)
	}
	probe.ID, probe.Start = "q", probe.Start.Add(time.Second)
	f.Session(probe, 4)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon.Add(time.Minute)}, 5)
	if e := f.Evidence(); e.New != (Trials{Failed: 2, Succeeded: 1}) {
		t.Errorf("two probes of one robot are %+v", e)
	}
	probe.ID, probe.Probe = "r", false
	f.Session(probe, 6)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon.Add(2 * time.Minute)}, 7)
	if e := f.Evidence(); e.New.Total() != 3 {
		t.Errorf("a person was taken for a probe: %+v", e)
	}
}

// Probes fail against a baseline of probes, and pass by the absolute route alone.
func TestProbesAgainstProbes(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	play := func(before, after float64) Decision {
		chance := rand.New(rand.NewPCG(1, 2))
		f, err := newProbeFold(p, paris, Boundary{BaselineFrom: noon.Add(-10 * time.Hour), Start: noon, End: noon.Add(time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4000 {
			at, rate := noon.Add(time.Duration(i-3500)*5*time.Second), before
			if at.After(noon) {
				rate = after
			}
			f.Check(fleet.Check{Cluster: paris, Name: "login", Kind: fleet.CheckTCP, At: at, OK: chance.Float64() >= rate}, uint64(i))
		}
		return f.Verdict(false)
	}
	if d := play(0.02, 0.4); d.Verdict != Fail || !strings.Contains(d.Summary, "New probes fail more") {
		t.Errorf("probes that fail now: %s: %s", d.Verdict, d.Summary)
	}
	if d := play(0.2, 0.1); d.Verdict != Pending {
		t.Errorf("probes that fail as ever, too often: %s: %s", d.Verdict, d.Summary)
	}
	if d := play(0, 0); d.Verdict != Pass || d.Trials != 218 {
		t.Errorf("probes that work: %s after %d", d.Verdict, d.Trials)
	}
}

func TestNewStepRefuses(t *testing.T) {
	t.Parallel()
	ruled := demanding(nil)
	ruled.Stage.Rules = []Rule{{Name: "odd"}}
	for name, begin := range map[string]func() (*Step, error){
		"policy":    func() (*Step, error) { return NewStep(Policy{}, DefaultTerms(quick()), paris, around(noon), nil) },
		"boundary":  func() (*Step, error) { return NewStep(quick(), DefaultTerms(quick()), paris, Boundary{}, nil) },
		"no start":  func() (*Step, error) { return NewStep(quick(), everything(), paris, Boundary{End: noon}, nil) },
		"rules":     func() (*Step, error) { return NewStep(quick(), ruled, paris, around(noon), nil) },
		"a cluster": func() (*Step, error) { return NewStep(quick(), DefaultTerms(quick()), "", around(noon), nil) },
	} {
		if s, err := begin(); err == nil || s != nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHouseRulesSeeEveryResult(t *testing.T) {
	t.Parallel()
	terms := demanding(map[CheckName]Demand{CheckInventory: DemandPass, CheckProbes: DemandAdvisory})
	terms.Stage.Rules = []Rule{{Name: "quiet", Verdict: Hold, Reason: "nobody probes."}}
	var asked []CheckName
	s, err := NewStep(quick(), terms, paris, around(noon), func(r Rule, results []Result) (bool, error) {
		for _, one := range results {
			asked = append(asked, one.Check)
		}
		return r.Name == "quiet", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := s.Decide(noon, false); d.Verdict != Hold || d.Summary() != "Rule quiet: nobody probes." {
		t.Errorf("%s: %s", d.Verdict, d.Summary())
	}
	if want := []CheckName{CheckTelemetry, CheckInventory, CheckProbes}; !slices.Equal(asked, want) {
		t.Errorf("rules see %v, want %v", asked, want)
	}
}

func BenchmarkStepSession(b *testing.B) {
	const history = 5000
	p := DefaultPolicy()
	bound := Boundary{BaselineFrom: noon.Add(-history * time.Second), Start: noon, End: noon.Add(time.Minute)}
	sessions := make([]fleet.Session, history+1000)
	for i := range sessions {
		sessions[i] = fleet.Session{ID: fleet.SessionID(fmt.Sprintf("session-%07d", i)), Cluster: paris, Status: fleet.SessionConnected,
			User: fmt.Sprintf("user-%d", i%997), Target: "db", Start: bound.BaselineFrom.Add(time.Duration(i) * time.Second)}
		if i%50 == 0 {
			sessions[i].Status = fleet.SessionFailed
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		s := newStep(b, p, DefaultTerms(p), bound)
		for i := range sessions {
			s.Take(Seen{Source: "vendor", Seq: uint64(i), Session: &sessions[i]})
			if i%5 == 4 {
				s.Take(Seen{Source: "vendor", Seq: uint64(i), Mark: &fleet.Mark{Cluster: paris, CompleteUntil: sessions[i].Start}})
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(sessions)), "ns/session")
}
