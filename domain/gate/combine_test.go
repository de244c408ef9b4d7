package gate

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// says is a result with one reason.
func says(check CheckName, v Verdict, code Code) Result {
	return Result{Check: check, Verdict: v, Reasons: []Reason{{code, "so it is"}}, Text: "so it is", At: noon, Figures: noFigures(check)}
}

func noRules(Rule) (bool, error) { return false, nil }

func stage(demands map[CheckName]Demand) Stage {
	s := Stage{Checks: map[CheckName]CheckPolicy{}, Deadline: time.Hour, Soak: 10 * time.Minute}
	for check, demand := range demands {
		s.Checks[check] = CheckPolicy{Demand: demand}
	}
	return s
}

func TestCombine(t *testing.T) {
	t.Parallel()
	sees, runs := says(CheckTelemetry, Pass, UpToDate), says(CheckInventory, Pass, AsPlanned)
	inventory := map[CheckName]Demand{CheckInventory: DemandPass}
	sessions := map[CheckName]Demand{CheckSessions: DemandNoFail}
	for _, tt := range []struct {
		name    string
		demands map[CheckName]Demand
		results []Result
		// at ten minutes the soak is over, and at an hour the deadline.
		soaking, soaked, late Verdict
		code                  Code // at the deadline, the deciding one
	}{
		{"all is there", inventory, []Result{sees, runs}, Pending, Pass, Pass, AllPassed},
		{"a check is missing", inventory, []Result{sees}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"a check that may not fail is missing", sessions, []Result{sees}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"telemetry is missing", inventory, []Result{runs}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"telemetry is missing and nobody asks for it", map[CheckName]Demand{CheckInventory: DemandPass, CheckTelemetry: DemandOff}, []Result{runs}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"telemetry is only advisory", map[CheckName]Demand{CheckInventory: DemandPass, CheckTelemetry: DemandAdvisory}, []Result{runs, says(CheckTelemetry, Inconclusive, Stale)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"telemetry lacks data and may", map[CheckName]Demand{CheckTelemetry: DemandNoFail}, []Result{says(CheckTelemetry, Inconclusive, NoData)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"nothing at all", nil, nil, Pending, Pending, Inconclusive, DeadlinePassed},
		{"a check that nobody knows", map[CheckName]Demand{"weather": DemandPass}, []Result{sees}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"a demand that nobody knows", map[CheckName]Demand{CheckInventory: "perhaps"}, []Result{sees, says(CheckInventory, Pending, Collecting)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"a failure", inventory, []Result{sees, says(CheckInventory, Fail, WrongDigest)}, Fail, Fail, Fail, WrongDigest},
		{"a failure that nobody sees", inventory, []Result{says(CheckTelemetry, Inconclusive, Stale), says(CheckInventory, Fail, WrongDigest)}, Fail, Fail, Fail, WrongDigest},
		{"a failure of what may not fail", sessions, []Result{sees, says(CheckSessions, Fail, Regression)}, Fail, Fail, Fail, Regression},
		{"a hold", inventory, []Result{sees, says(CheckInventory, Hold, ReportedOtherwise)}, Hold, Hold, Hold, ReportedOtherwise},
		{"a hold of what may not fail", sessions, []Result{sees, says(CheckSessions, Hold, BelowFloor)}, Hold, Hold, Hold, BelowFloor},
		{"inconclusive", inventory, []Result{sees, says(CheckInventory, Inconclusive, UnknownImage)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"too little data", sessions, []Result{sees, says(CheckSessions, Pending, Collecting)}, Pending, Pass, Pass, AllPassed},
		{"no data", sessions, []Result{sees, says(CheckSessions, Inconclusive, NoData)}, Pending, Pass, Pass, AllPassed},
		{"no data by the deadline", sessions, []Result{sees, says(CheckSessions, Inconclusive, DeadlinePassed)}, Pending, Pass, Pass, AllPassed},
		{"no data where it is demanded", map[CheckName]Demand{CheckSessions: DemandPass}, []Result{sees, says(CheckSessions, Inconclusive, NoData)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"blind", sessions, []Result{sees, says(CheckSessions, Inconclusive, Blind)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"failing, not sustained", sessions, []Result{sees, says(CheckSessions, Pending, NotSustained)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"nothing is configured", map[CheckName]Demand{CheckRecording: DemandNoFail}, []Result{sees, says(CheckRecording, Inconclusive, NotConfigured)}, Pending, Pass, Pass, AllPassed},
		{"nothing is configured where it is demanded", map[CheckName]Demand{CheckRecording: DemandPass}, []Result{sees, says(CheckRecording, Inconclusive, NotConfigured)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"setup failed", map[CheckName]Demand{CheckRecording: DemandNoFail}, []Result{sees, says(CheckRecording, Inconclusive, SetupFailed)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"a verdict that nobody knows", sessions, []Result{sees, says(CheckSessions, "maybe", NoWorse)}, Pending, Pending, Inconclusive, DeadlinePassed},
		{"what is off is not looked at", map[CheckName]Demand{CheckInventory: DemandPass, CheckRisks: DemandOff}, []Result{sees, runs, says(CheckRisks, Fail, RiskSeen), says(CheckOpen, Fail, Regression)}, Pending, Pass, Pass, AllPassed},
		{"what is advisory decides nothing", map[CheckName]Demand{CheckInventory: DemandPass, CheckRisks: DemandAdvisory}, []Result{sees, runs, says(CheckRisks, Fail, RiskSeen)}, Pending, Pass, Pass, AllPassed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := stage(tt.demands)
			for _, at := range []struct {
				after time.Duration
				want  Verdict
			}{{s.Soak - 1, tt.soaking}, {s.Soak, tt.soaked}, {s.Deadline - 1, tt.soaked}, {s.Deadline, tt.late}} {
				got := Combine(s, Act, noon, noon.Add(at.after), tt.results, noRules)
				if got.Verdict != at.want {
					t.Errorf("after %s it is %s, want %s: %v", at.after, got.Verdict, at.want, got.Reasons)
				}
				if len(got.Reasons) == 0 || at.after == s.Deadline && got.Reasons[0].Code != tt.code {
					t.Errorf("after %s the reasons are %v", at.after, got.Reasons)
				}
			}
		})
	}
}

func TestSoakAndDeadline(t *testing.T) {
	t.Parallel()
	good := []Result{says(CheckTelemetry, Pass, UpToDate)}
	for _, tt := range []struct {
		soak, deadline, after time.Duration
		results               []Result
		want                  Verdict
	}{
		{0, 0, 0, good, Pass},
		{0, 0, 1000 * time.Hour, nil, Pending}, // no deadline
		{time.Hour, 0, time.Hour - 1, good, Pending},
		{time.Hour, 0, time.Hour, good, Pass},
		{time.Hour, time.Minute, time.Minute, good, Pending}, // a deadline within the soak
		{time.Hour, time.Minute, time.Hour - 1, nil, Pending},
		{time.Hour, time.Minute, time.Hour, nil, Inconclusive},
		{time.Hour, time.Minute, time.Hour, good, Pass},
	} {
		s := Stage{Soak: tt.soak, Deadline: tt.deadline}
		if got := Combine(s, Act, noon, noon.Add(tt.after), tt.results, noRules); got.Verdict != tt.want {
			t.Errorf("soak %s, deadline %s, after %s, %d results: %s, want %s: %v", tt.soak, tt.deadline, tt.after, len(tt.results), got.Verdict, tt.want, got.Reasons)
		}
	}
}

func TestHouseRules(t *testing.T) {
	t.Parallel()
	good := []Result{says(CheckTelemetry, Pass, UpToDate), says(CheckInventory, Pass, AsPlanned)}
	fails, stops := Rule{Name: "broken", Verdict: Fail, Reason: "it is broken."}, Rule{Name: "odd", Verdict: Hold, Reason: "it is odd."}
	unclear := Rule{Name: "unclear", Verdict: "maybe", Reason: "who knows."}
	wrong := Rule{Name: "wrong", Verdict: Fail}
	for _, tt := range []struct {
		name    string
		results []Result
		rules   []Rule
		met     []string
		late    bool
		want    Verdict
		reason  string
	}{
		{"none is met", good, []Rule{fails, stops}, nil, false, Pass, "Everything that is demanded is there: telemetry, inventory."},
		{"one holds", good, []Rule{fails, stops}, []string{"odd"}, false, Hold, "Rule odd: it is odd."},
		{"one fails", good, []Rule{stops, fails}, []string{"odd", "broken"}, false, Fail, "Rule broken: it is broken."},
		{"one of another verdict holds", good, []Rule{unclear}, []string{"unclear"}, false, Hold, "Rule unclear: who knows."},
		{"one fails while a check is missing", good[:1], []Rule{fails}, []string{"broken"}, false, Fail, "Rule broken: it is broken."},
		{"one cannot be asked", good, []Rule{wrong}, nil, false, Hold, "Rule wrong cannot be asked: no such figure."},
		{"one cannot be asked while a check is missing", good[:1], []Rule{wrong}, nil, false, Pending, "inventory: no result yet."},
		{"… nor by the deadline", good[:1], []Rule{wrong}, nil, true, Inconclusive, "Not decided within 1h0m0s."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := stage(map[CheckName]Demand{CheckInventory: DemandPass})
			s.Rules, s.Soak = tt.rules, 0
			now := noon
			if tt.late {
				now = noon.Add(s.Deadline)
			}
			got := Combine(s, Act, noon, now, tt.results, func(r Rule) (bool, error) {
				if r.Name == "wrong" {
					return false, errors.New("no such figure")
				}
				return slices.Contains(tt.met, r.Name), nil
			})
			if got.Verdict != tt.want || got.Reasons[0].Text != tt.reason {
				t.Errorf("it is %s, want %s: %v", got.Verdict, tt.want, got.Reasons)
			}
		})
	}
}

func TestConsequences(t *testing.T) {
	t.Parallel()
	verdicts := []Verdict{Pending, Pass, Inconclusive, Hold, Fail}
	want := map[Mode][]Consequence{
		Shadow: {Wait, GoOn, GoOn, GoOn, GoOn},
		Advise: {Wait, GoOn, Tell, Tell, Tell},
		Holds:  {Wait, GoOn, Stop, Stop, Stop},
		Act:    {Wait, GoOn, Stop, Stop, RollBack},
		"":     {Wait, GoOn, Stop, Stop, Stop}, // a mode that nobody knows goes no further, and does nothing
	}
	var seen []Consequence
	for mode, consequences := range want {
		for i, v := range verdicts {
			if got := mode.Consequence(v); got != consequences[i] {
				t.Errorf("%s in mode %q: %s, want %s", v, mode, got, consequences[i])
			}
		}
		seen = append(seen, consequences...)
	}
	for _, m := range Modes() {
		if want[m] == nil {
			t.Errorf("mode %s is not tried", m)
		}
	}
	for _, c := range Consequences() {
		if !slices.Contains(seen, c) {
			t.Errorf("nothing leads to %s", c)
		}
	}
	if got := Combine(stage(nil), Holds, noon, noon.Add(time.Hour), nil, noRules); got.Consequence != Stop {
		t.Errorf("a stage without results by its deadline: %s", got.Consequence)
	}
}

// The decision tells one result of each check that is looked at, in order.
func TestCombineTellsResults(t *testing.T) {
	t.Parallel()
	s := stage(map[CheckName]Demand{CheckInventory: DemandPass, CheckRisks: DemandAdvisory, CheckOpen: DemandOff})
	older := says(CheckInventory, Fail, WrongDigest)
	older.At = noon.Add(-1)
	got := Combine(s, Act, noon, noon.Add(time.Minute), []Result{
		says(CheckRisks, Hold, RiskMet), says(CheckOpen, Pass, NoWorse), says(CheckInventory, Pass, AsPlanned), older, says(CheckInventory, Hold, ReportedOtherwise), says(CheckTelemetry, Pass, UpToDate),
	}, noRules)
	want := []Result{says(CheckTelemetry, Pass, UpToDate), says(CheckInventory, Hold, ReportedOtherwise), says(CheckRisks, Hold, RiskMet)}
	if diff := cmp.Diff(want, got.Results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if got.Reasons[0] != (Reason{ReportedOtherwise, "inventory: so it is"}) {
		t.Errorf("reasons are %v", got.Reasons)
	}
}

// Whatever a decision rests on changes its hash, and what only people read does not.
func TestStageHash(t *testing.T) {
	t.Parallel()
	type input struct {
		stage   Stage
		mode    Mode
		results []Result
	}
	fresh := func() input {
		s := stage(map[CheckName]Demand{CheckInventory: DemandPass, CheckSessions: DemandNoFail})
		s.Checks[CheckInventory] = CheckPolicy{Demand: DemandPass, Sustain: Sustain{For: time.Minute, Looks: 3}}
		s.Rules = []Rule{{Name: "n", When: "w", Verdict: Hold, Reason: "r"}}
		return input{s, Act, []Result{says(CheckTelemetry, Pass, UpToDate), says(CheckInventory, Pass, AsPlanned), says(CheckSessions, Pending, Collecting)}}
	}
	hash := func(i input) string {
		return Combine(i.stage, i.mode, noon, noon.Add(time.Minute), i.results, noRules).Hash
	}
	policy := func(change func(*CheckPolicy)) func(*input) {
		return func(i *input) {
			p := i.stage.Checks[CheckInventory]
			change(&p)
			i.stage.Checks[CheckInventory] = p
		}
	}
	rule := func(change func(*Rule)) func(*input) { return func(i *input) { change(&i.stage.Rules[0]) } }
	changes := []func(*input){
		func(*input) {},
		func(i *input) { i.mode = Holds },
		func(i *input) { i.stage.Deadline++ },
		func(i *input) { i.stage.Soak-- },
		func(i *input) { delete(i.stage.Checks, CheckSessions) },
		func(i *input) { i.stage.Checks[CheckRisks] = CheckPolicy{Demand: DemandAdvisory} },
		policy(func(p *CheckPolicy) { p.Demand = DemandNoFail }),
		policy(func(p *CheckPolicy) { p.Sustain.For++ }),
		policy(func(p *CheckPolicy) { p.Sustain.Looks++ }),
		rule(func(r *Rule) { r.Name = "m" }), rule(func(r *Rule) { r.When = "v" }), rule(func(r *Rule) { r.Verdict = Fail }), rule(func(r *Rule) { r.Reason = "q" }),
		func(i *input) { i.stage.Rules = nil },
		func(i *input) { i.results[2].Verdict = Inconclusive },
		func(i *input) { i.results[1].Verdict = Fail },
		func(i *input) { i.results[1].Figures["running"]++ },
		func(i *input) { i.results[1].Figures["expected"]++ },
		func(i *input) { delete(i.results[1].Figures, "missing") },
		func(i *input) { i.results = i.results[:2] },
	}
	seen := map[string]int{}
	for n, change := range changes {
		i := fresh()
		change(&i)
		if other, taken := seen[hash(i)]; taken {
			t.Errorf("changes %d and %d share a hash", other, n)
		}
		seen[hash(i)] = n
	}
	i := fresh()
	i.results[1].Text, i.results[1].Reasons, i.results[1].At = "else", nil, noon.Add(1)
	slices.Reverse(i.results)
	if hash(i) != hash(fresh()) {
		t.Error("texts, times or the order of results change the hash")
	}
	const pinned = "f63a39be24dfe0135e8c8e1ff2460cca0af535e2e4fe996e24edd7cdf3343e41"
	if got := hash(fresh()); got != pinned {
		t.Errorf("the hash is %s, recorded decisions say %s", got, pinned)
	}
}

// Each check has figures under names that a rule can ask for, each once.
func TestFiguresAreComplete(t *testing.T) {
	t.Parallel()
	names := Figures()
	for _, check := range CheckNames() {
		if len(names[check]) == 0 {
			t.Errorf("%s has no figures", check)
		}
		if unique := slices.Compact(slices.Sorted(slices.Values(names[check]))); len(unique) != len(names[check]) {
			t.Errorf("%s has a figure twice: %v", check, names[check])
		}
		for _, name := range names[check] {
			if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") != "" {
				t.Errorf("%s.%s is no name", check, name)
			}
		}
		delete(names, check)
	}
	if len(names) > 0 {
		t.Errorf("figures of checks that are none: %v", names)
	}
}

func TestEvidenceFigures(t *testing.T) {
	t.Parallel()
	e := Evidence{
		Blocks: TableOf(Row{Shape{NA: 10, NB: 1, Y: 2, YB: 1}, 3}, Row{Shape{NA: 4, NB: 2, Y: 1, YB: 0}, 2}),
		New:    Trials{Failed: 1, Succeeded: 2}, Baseline: Trials{Failed: 3, Succeeded: 4}, Cut: 5,
		Unresolved: Arms{Baseline: 6, New: 7}, Late: Arms{Baseline: 8, New: 9},
	}
	for check, want := range map[CheckName]map[string]int64{
		CheckProbes: {"failed": 1, "succeeded": 2, "unresolved": 7, "late": 9, "baseline_failed": 3, "baseline_succeeded": 4},
		CheckSessions: {
			"new_failed": 1, "new_succeeded": 2, "new_unresolved": 7, "new_late": 9, "baseline_failed": 3, "baseline_succeeded": 4,
			"baseline_unresolved": 6, "baseline_late": 8, "cut": 5, "blocks": 5,
		},
		CheckOpen: {"new_ended": 3, "new_at_risk": 7, "baseline_ended": 5, "baseline_at_risk": 38, "cut": 5},
	} {
		got := e.Figures(check)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", check, diff)
		}
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, slices.Sorted(slices.Values(Figures()[check]))) {
			t.Errorf("%s has figures %v", check, names)
		}
	}
}

// moment is a stage, what its checks say and when.
type moment struct {
	stage   Stage
	now     time.Time
	results []Result
	holds   map[string]string // by rule: met, or wrong
}

func (m moment) decide() StageDecision {
	return Combine(m.stage, Act, noon, m.now, m.results, func(r Rule) (bool, error) {
		if m.holds[r.Name] == "wrong" {
			return false, errors.New("no such figure")
		}
		return m.holds[r.Name] == "met", nil
	})
}

func anyResult(checks ...CheckName) *rapid.Generator[Result] {
	return rapid.Custom(func(t *rapid.T) Result {
		r := says(rapid.SampledFrom(checks).Draw(t, "check"), rapid.SampledFrom([]Verdict{Pass, Pass, Pass, Fail, Hold, Inconclusive, Pending}).Draw(t, "verdict"),
			rapid.SampledFrom([]Code{NoData, Blind, NotSustained, NotConfigured, Collecting}).Draw(t, "code"))
		r.At = noon.Add(time.Duration(rapid.IntRange(0, 2).Draw(t, "at")))
		if names := Figures()[r.Check]; len(names) > 0 {
			r.Figures[names[0]] = rapid.Int64Range(0, 2).Draw(t, "figure")
		}
		return r
	})
}

func moments() *rapid.Generator[moment] {
	return rapid.Custom(func(t *rapid.T) moment {
		minutes := func(label string) time.Duration {
			return time.Duration(rapid.IntRange(0, 4).Draw(t, label)) * time.Minute
		}
		m := moment{now: noon.Add(minutes("now")), holds: map[string]string{}}
		m.stage = Stage{
			Checks: rapid.MapOf(rapid.SampledFrom(CheckNames()), rapid.Map(rapid.SampledFrom(append(Demands(), DemandPass)), func(d Demand) CheckPolicy { return CheckPolicy{Demand: d} })).Draw(t, "checks"),
			Soak:   minutes("soak"), Deadline: minutes("deadline"),
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "rules") {
			name := fmt.Sprint(i)
			m.stage.Rules = append(m.stage.Rules, Rule{Name: name, Verdict: rapid.SampledFrom([]Verdict{Fail, Hold}).Draw(t, "rule")})
			m.holds[name] = rapid.SampledFrom([]string{"", "", "", "met", "wrong"}).Draw(t, "says")
		}
		// Mostly all is well, or nothing would ever pass.
		if rapid.IntRange(0, 3).Draw(t, "well") > 0 {
			for _, check := range CheckNames() {
				m.results = append(m.results, says(check, Pass, AllPassed))
			}
		}
		m.results = append(m.results, rapid.SliceOfN(anyResult(CheckNames()...), 0, 4).Draw(t, "results")...)
		return m
	})
}

func TestAdvisoryChecksDecideNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := moments().Draw(t, "moment")
		check := rapid.SampledFrom(CheckNames()[1:]).Draw(t, "check")
		delete(m.stage.Checks, check)
		before := m.decide()
		m.stage.Checks[check] = CheckPolicy{Demand: DemandAdvisory}
		m.results = append(m.results, rapid.SliceOfN(anyResult(check), 0, 2).Draw(t, "more")...)
		if after := m.decide(); after.Verdict != before.Verdict || after.Consequence != before.Consequence {
			t.Fatalf("with advisory %s it is %s, without %s", check, after.Verdict, before.Verdict)
		}
	})
}

func TestAPassNeedsAllThatIsDemanded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := moments().Draw(t, "moment")
		d := m.decide()
		if d.Verdict != Pass {
			return
		}
		said := map[CheckName]Result{}
		for _, r := range d.Results {
			said[r.Check] = r
		}
		if said[CheckTelemetry].Verdict != Pass {
			t.Fatalf("passed while telemetry is %q", said[CheckTelemetry].Verdict)
		}
		for check, p := range m.stage.Checks {
			r, there := said[check]
			if p.Demand == DemandPass && r.Verdict != Pass || p.Demand == DemandNoFail && (!there || r.Verdict == Fail || r.Verdict == Hold) {
				t.Fatalf("passed while %s, of which %s is demanded, is %q", check, p.Demand, r.Verdict)
			}
		}
		if m.now.Before(noon.Add(m.stage.Soak)) {
			t.Fatal("passed within the soak")
		}
		for _, says := range m.holds {
			if says != "" {
				t.Fatalf("passed over a rule that is %s", says)
			}
		}
	})
}

func TestMoreDataIsNoMissingCheck(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := moments().Draw(t, "moment")
		check := rapid.SampledFrom(CheckNames()).Draw(t, "check")
		m.stage.Checks[check] = CheckPolicy{Demand: rapid.SampledFrom([]Demand{DemandPass, DemandNoFail}).Draw(t, "demand")}
		others := slices.DeleteFunc(CheckNames(), func(c CheckName) bool { return c == check })
		m.results = append(m.results, rapid.SliceOfN(anyResult(others...), 0, 6).Draw(t, "more")...)
		m.results = slices.DeleteFunc(m.results, func(r Result) bool { return r.Check == check })
		if d := m.decide(); d.Verdict == Pass {
			t.Fatalf("passed without %s: %v", check, d.Reasons)
		}
	})
}

func TestOrderOfResultsChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := moments().Draw(t, "moment")
		before := m.decide()
		m.results = append(rapid.Permutation(m.results).Draw(t, "order"), m.results...)
		if diff := cmp.Diff(before, m.decide()); diff != "" {
			t.Fatalf("another order, and repeats, say something else:\n%s", diff)
		}
	})
}

// What has failed fails whatever else is said, whenever.
func TestFailAbsorbs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := moments().Draw(t, "moment")
		check := rapid.SampledFrom(CheckNames()).Draw(t, "check")
		m.stage.Checks[check] = CheckPolicy{Demand: rapid.SampledFrom([]Demand{DemandPass, DemandNoFail}).Draw(t, "demand")}
		failure := says(check, Fail, Regression)
		failure.At = noon.Add(time.Hour)
		m.results = append(m.results, failure)
		if d := m.decide(); d.Verdict != Fail || d.Consequence != RollBack || d.Reasons[0].Text == "" {
			t.Fatalf("it is %s: %v", d.Verdict, d.Reasons)
		}
	})
}

// As time goes by and nothing else is said, only what is pending changes, and never
// back.
func TestTimeOnlyDecidesWhatIsPending(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := moments().Draw(t, "moment")
		before := m.decide()
		m.now = m.now.Add(time.Duration(rapid.IntRange(0, 5).Draw(t, "later")) * time.Minute)
		after := m.decide()
		if before.Verdict != Pending && after.Verdict != before.Verdict {
			t.Fatalf("it was %s and is %s", before.Verdict, after.Verdict)
		}
		if end := noon.Add(max(m.stage.Deadline, m.stage.Soak)); m.stage.Deadline > 0 && (after.Verdict == Pending) && !m.now.Before(end) {
			t.Fatal("it is pending past the deadline")
		}
		if m.stage.Deadline > 0 && after.Verdict == Inconclusive && m.now.Before(noon.Add(m.stage.Deadline)) {
			t.Fatal("it is inconclusive before the deadline")
		}
	})
}
