package gatefile_test

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func house(t *testing.T) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/house.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func read(t *testing.T, text string) []gate.Plan {
	t.Helper()
	plans, err := gatefile.Read([]byte(text), "p.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return plans
}

func preset(t *testing.T, name string) gate.Plan {
	t.Helper()
	for _, p := range gatefile.Presets() {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("no preset %s", name)
	return gate.Plan{}
}

func TestPresets(t *testing.T) {
	t.Parallel()
	golden(t, "presets.yaml", gatefile.Marshal(gatefile.Presets()...))
	hashes := make(map[string]string)
	for _, p := range gatefile.Presets() {
		if err := p.Statistics.Validate(); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
		if other := hashes[p.Hash()]; other != "" {
			t.Errorf("%s demands what %s does", p.Name, other)
		}
		hashes[p.Hash()] = p.Name
		for name, s := range map[string]gate.Stage{"step": p.Step, "wave": p.Wave} {
			if got := slices.Sorted(maps.Keys(s.Checks)); len(got) != len(gate.CheckNames()) {
				t.Errorf("%s.%s looks at %v only", p.Name, name, got)
			}
		}
		// People's sessions are not waited for while the cluster is mixed, and never passed
		// over at the end of the wave.
		if got := p.Step.Checks[gate.CheckSessions].Demand; got != gate.DemandNoFail {
			t.Errorf("%s.step demands %s of sessions", p.Name, got)
		}
		if got := p.Wave.Checks[gate.CheckSessions].Demand; got != gate.DemandPass {
			t.Errorf("%s.wave demands %s of sessions", p.Name, got)
		}
	}
	// A policy that extends one and says nothing is without a problem, warnings included.
	problems, err := gatefile.Lint([]byte("policies: [{name: a, extends: careful}, {name: b, extends: standard}, {name: c, extends: fast}, {name: d}]"), "p.yaml", 0)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// TestPresetsAreDecidedInTime recomputes the figures with which preset.go argues.
func TestPresetsAreDecidedInTime(t *testing.T) {
	t.Parallel()
	const perHour = 720 // what a cluster's probes may make
	for name, within := range map[string]time.Duration{"careful": 26 * time.Minute, "standard": 19 * time.Minute, "fast": 8 * time.Minute} {
		p := preset(t, name)
		n, ok := gate.Evidence{}.SessionsNeeded(p.Statistics)
		took := time.Duration(n) * time.Hour / perHour
		if !ok || took > within || took < within-time.Minute || p.Step.Deadline < took {
			t.Errorf("%s: %d probes without a failure take %s, of a step's %s", name, n, took, p.Step.Deadline)
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	plans, err := gatefile.Read(house(t), "house.yaml")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "house.resolved.yaml", gatefile.Marshal(plans...))
	if problems, err := gatefile.Lint(house(t), "house.yaml", 0); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestInheritance(t *testing.T) {
	t.Parallel()
	standard := preset(t, "standard")
	for name, tc := range map[string]struct {
		text string
		want func(*gate.Plan)
	}{
		"nothing said is standard": {"policies: [{name: a}]", func(*gate.Plan) {}},
		"by name":                  {"policies: [{name: a, extends: standard}]", func(*gate.Plan) {}},
		"an empty key is not said": {"policies: [{name: a, extends: , mode: , statistics: {alpha: }, step: }]", func(*gate.Plan) {}},
		"sections are merged": {"policies: [{name: a, statistics: {margin: 3}, wave: {soak: 2h}}]", func(p *gate.Plan) {
			p.Statistics.Margin, p.Wave.Soak = 3, 2*time.Hour
		}},
		"checks are merged": {"policies: [{name: a, step: {checks: {probes: {sustain: {looks: 7}}}}}]", func(p *gate.Plan) {
			p.Step.Checks[gate.CheckProbes] = gate.CheckPolicy{Demand: gate.DemandPass, Sustain: gate.Sustain{For: time.Minute, Looks: 7}}
		}},
		"a check that is off is not there": {"policies: [{name: a, step: {checks: {open: {demand: off}}}}]", func(p *gate.Plan) {
			delete(p.Step.Checks, gate.CheckOpen)
		}},
		"over several, declared later": {"policies: [{name: a, extends: b, statistics: {beta: 0.02}}, {name: b, extends: c, statistics: {margin: 3}}, {name: c, statistics: {margin: 4, tolerance: 1.5}}]", func(p *gate.Plan) {
			p.Statistics.Beta, p.Statistics.Margin, p.Statistics.Tol = 0.02, 3, 1.5
		}},
		"zero is said": {"policies: [{name: a, extends: b, wave: {soak: 0}}, {name: b, wave: {soak: 9h}}]", func(p *gate.Plan) {
			p.Wave.Soak = 0
		}},
		"rules are merged by name": {`policies:
  - {name: a, extends: b, step: {rules: [{name: y, verdict: fail}, {name: z, when: "probes.failed>1", verdict: hold, reason: Z}, {name: x, off: true}]}}
  - {name: b, step: {rules: [{name: x, when: "1 > 2", verdict: hold, reason: X}, {name: y, when: "2 > 3", verdict: hold, reason: Y}]}}
`, func(p *gate.Plan) {
			p.Step.Rules = []gate.Rule{{Name: "y", When: "2 > 3", Verdict: gate.Fail, Reason: "Y"}, {Name: "z", When: "probes.failed > 1", Verdict: gate.Hold, Reason: "Z"}}
		}},
		"aliases": {"policies: [{name: a, step: &s {soak: 3m}, wave: *s}]", func(p *gate.Plan) {
			p.Step.Soak, p.Wave.Soak = 3*time.Minute, 3*time.Minute
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := gatefile.Presets()[1]
			tc.want(&want)
			want.Name = "a"
			if diff := cmp.Diff(want, read(t, tc.text)[0], cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	// What one policy changes, no other sees.
	read(t, "policies: [{name: a, step: {checks: {risks: {demand: off}}}}]")
	if diff := cmp.Diff(standard, preset(t, "standard")); diff != "" {
		t.Errorf("the preset was changed (-before +after):\n%s", diff)
	}
	plans := read(t, `policies:
  - {name: b, step: {rules: [{name: x, when: "1 > 2", verdict: hold, reason: X}, {name: y, when: "1 > 2", verdict: hold, reason: Y}]}}
  - {name: a, extends: b, step: {rules: [{name: x, off: true}, {name: y, reason: A}]}}
`)
	if got := plans[0].Step.Rules; len(got) != 2 || got[0].Name != "x" || got[1].Reason != "Y" {
		t.Errorf("the policy that is extended has the rules %+v", got)
	}
}

// TestTheStatisticsAreThoseOfTheConfiguration compares keys and their meanings with
// the gate section of fleet.yaml.
func TestTheStatisticsAreThoseOfTheConfiguration(t *testing.T) {
	t.Parallel()
	want := make(map[string]string)
	for _, key := range fleetfile.Keys() {
		if name, ok := strings.CutPrefix(key.Name, "gate."); ok {
			want[name] = key.Comment
		}
	}
	properties := schemaOf(t).property("policies").items().property("statistics")["properties"]
	got := make(map[string]string)
	for name, property := range properties.(map[string]any) {
		got[name], _ = property.(map[string]any)["description"].(string)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 13 {
		t.Errorf("keys of statistics (-fleet.yaml +policies):\n%s", diff)
	}
}

// TestEveryCheckHasAKey notices a check that the domain has and policies lack.
func TestEveryCheckHasAKey(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"step", "wave"} {
		properties := schemaOf(t).property("policies").items().property(stage).property("checks")["properties"].(map[string]any)
		if len(properties) != len(gate.CheckNames()) {
			t.Errorf("%s has %d keys for %d checks", stage, len(properties), len(gate.CheckNames()))
		}
	}
	for _, check := range gate.CheckNames() {
		p := read(t, "policies: [{name: a, step: {checks: {"+string(check)+": {demand: advisory}}}}]")[0]
		if got := p.Step.Checks[check].Demand; got != gate.DemandAdvisory {
			t.Errorf("%s demands %q", check, got)
		}
	}
}

// TestMarshalIsReadBack writes what rapid makes up and reads it again.
func TestMarshalIsReadBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := plans().Draw(t, "plan")
		text := gatefile.Marshal(want)
		got, err := gatefile.Read([]byte(text), "p.yaml")
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if diff := cmp.Diff([]gate.Plan{want}, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("(-want +got):\n%s\nfrom\n%s", diff, text)
		}
		if got[0].Hash() != want.Hash() || len(gatefile.Diff(want, got[0])) != 0 {
			t.Fatal("hash or difference of the same plan")
		}
	})
}

// plans are acceptable ones.
func plans() *rapid.Generator[gate.Plan] {
	stages := rapid.Custom(func(t *rapid.T) gate.Stage {
		s := gate.Stage{
			Checks: make(map[gate.CheckName]gate.CheckPolicy), Deadline: time.Duration(rapid.IntRange(0, 48).Draw(t, "deadline")) * time.Hour,
			Soak: time.Duration(rapid.IntRange(0, 100).Draw(t, "soak")) * time.Minute,
		}
		for _, name := range gate.CheckNames() {
			demand := rapid.SampledFrom(gate.Demands()).Draw(t, string(name))
			if name == gate.CheckInventory {
				demand = gate.DemandPass
			}
			if demand != gate.DemandOff {
				s.Checks[name] = gate.CheckPolicy{Demand: demand, Sustain: gate.Sustain{For: time.Duration(rapid.IntRange(0, 90).Draw(t, "for")) * time.Second, Looks: rapid.IntRange(1, 9).Draw(t, "looks")}}
			}
		}
		for _, name := range rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9_-]{1,9}`), 0, 3, rapid.ID).Draw(t, "rules") {
			s.Rules = append(s.Rules, gate.Rule{
				Name: name, When: rapid.SampledFrom([]string{"inventory.missing > 3", `inventory.verdict == "fail" || 1 > 2`, "!(1 > 2)"}).Draw(t, "when"),
				Verdict: rapid.SampledFrom([]gate.Verdict{gate.Fail, gate.Hold}).Draw(t, "verdict"), Reason: rapid.StringMatching(`[A-Za-z:#' ]{0,20}!`).Draw(t, "reason"),
			})
		}
		return s
	})
	return rapid.Custom(func(t *rapid.T) gate.Plan {
		p := gate.Plan{
			Name: rapid.StringMatching(`x[a-z0-9_-]{0,20}`).Draw(t, "name"), Mode: rapid.SampledFrom(gate.Modes()).Draw(t, "mode"),
			Statistics: gate.DefaultPolicy(), Step: stages.Draw(t, "step"), Wave: stages.Draw(t, "wave"),
		}
		// A session of the wave has to be judged in time, and its deadline has to leave that.
		if p.Step.Deadline+p.Wave.Deadline >= 0 && rapid.Bool().Draw(t, "other numbers") {
			p.Statistics.Alpha = rapid.Float64Range(1e-6, 0.5).Draw(t, "alpha")
			p.Statistics.Partners = rapid.IntRange(2, 100).Draw(t, "partners")
		}
		return p
	})
}

func TestDiff(t *testing.T) {
	t.Parallel()
	before := read(t, `policies: [{name: a, step: {rules: [{name: x, when: "1 > 2", verdict: hold, reason: X}, {name: y, when: "1 > 2", verdict: hold, reason: Y}]}}]`)[0]
	after := read(t, `policies: [{name: b, mode: hold, statistics: {alpha: 0.02}, wave: {soak: 2h}, step: {checks: {risks: {demand: off}}, rules: [{name: x, when: "1 > 2", verdict: fail, reason: X}, {name: z, when: "1 > 2", verdict: hold, reason: "Z: the last"}]}}]`)[0]
	want := []gatefile.Change{
		{Key: "mode", Before: "act", After: "hold"},
		{Key: "statistics.alpha", Before: "0.01", After: "0.02"},
		{Key: "step.checks.risks.demand", Before: "no_fail", After: "off"},
		{Key: "step.rules[x].verdict", Before: "hold", After: "fail"},
		{Key: "step.rules[y].when", Before: "1 > 2"},
		{Key: "step.rules[y].verdict", Before: "hold"},
		{Key: "step.rules[y].reason", Before: "Y"},
		{Key: "step.rules[z].when", After: "1 > 2"},
		{Key: "step.rules[z].verdict", After: "hold"},
		{Key: "step.rules[z].reason", After: "'Z: the last'"},
		{Key: "wave.soak", Before: "1h", After: "2h"},
	}
	if diff := cmp.Diff(want, gatefile.Diff(before, after)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := gatefile.Diff(before, before); len(got) != 0 {
		t.Errorf("of itself it is different in %v", got)
	}
}

func TestProblemsAreAnError(t *testing.T) {
	t.Parallel()
	_, err := gatefile.Read([]byte("policies: [{name: a, mod: act, statistics: {alpha: 0.2}}]"), "p.yaml")
	if got, want := err.Error(), "LS-GAT-010: the policies are not acceptable: p.yaml:1:22: error: policies[0].mod: unknown key; did you mean mode?"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if errs.IDOf(err) != "LS-GAT-010" || errs.KindOf(err) != errs.Invalid {
		t.Errorf("id %q, kind %q", errs.IDOf(err), errs.KindOf(err))
	}
	_, err = gatefile.Read([]byte("policies: ["+strings.Repeat("{nme: a}, ", 120)+"]"), "p.yaml")
	problems, ok := errors.AsType[gatefile.Problems](err)
	if !ok || len(problems) != 240 || !strings.HasSuffix(err.Error(), "\n  and 140 more") || !strings.Contains(err.Error(), "the policies have 240 problems:\n  p.yaml:1:") {
		t.Errorf("%d problems: %v", len(problems), err)
	}
}
