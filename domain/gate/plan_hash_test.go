package gate_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// leaves calls fn with every value inside of v that holds no others, by its path.
// The names of checks are leaves, too: fn gets what replaces one.
func leaves(v reflect.Value, path string, fn func(path string, v reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			leaves(v.Field(i), path+"."+v.Type().Field(i).Name, fn)
		}
	case reflect.Slice:
		for i := range v.Len() {
			leaves(v.Index(i), fmt.Sprintf("%s[%d]", path, i), fn)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return slices.Compare([]byte(a.String()), []byte(b.String())) })
		for _, was := range keys {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			key.Set(was)
			value.Set(v.MapIndex(was))
			leaves(key, path+".key", fn)
			leaves(value, fmt.Sprintf("%s[%s]", path, was), fn)
			v.SetMapIndex(was, reflect.Value{})
			v.SetMapIndex(key, value)
		}
	default:
		fn(path, v)
	}
}

// alter makes a leaf another one.
func alter(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	switch {
	case v.Type() == reflect.TypeFor[gate.Demand]():
		v.SetString(string(gate.DemandAdvisory))
	case v.Kind() == reflect.String:
		v.SetString(v.String() + " another")
	case v.CanInt():
		v.SetInt(v.Int() + 1)
	case v.CanFloat():
		v.SetFloat(v.Float() + 0.125)
	default:
		t.Fatalf("nobody taught this test to change %s, a %s", path, v.Type())
	}
}

func asking(demand gate.Demand) gate.Stage {
	return gate.Stage{
		Checks: map[gate.CheckName]gate.CheckPolicy{
			gate.CheckInventory: {Demand: demand, Sustain: gate.Sustain{For: time.Minute, Looks: 3}},
			gate.CheckProbes:    {Demand: demand},
		},
		Rules: []gate.Rule{
			{Name: "one", When: "probes.failed > 0", Verdict: gate.Fail, Reason: "probes fail"},
			{Name: "two", When: "probes.late > 0", Verdict: gate.Hold, Reason: "probes are late"},
		},
		Deadline: time.Hour, Soak: time.Minute,
	}
}

func plan() gate.Plan {
	return gate.Plan{Name: "careful", Mode: gate.Act, Statistics: gate.DefaultPolicy(), Step: asking(gate.DemandPass), Wave: asking(gate.DemandNoFail)}
}

// No two plans that ask different things share a hash, whatever differs.
func TestAPlanHashTellsOfEveryChange(t *testing.T) {
	t.Parallel()
	want := plan().Hash()
	var paths []string
	as := plan()
	leaves(reflect.ValueOf(&as).Elem(), "plan", func(path string, _ reflect.Value) { paths = append(paths, path) })
	if as.Hash() != want {
		t.Fatal("looking at a plan changes its hash")
	}
	if len(paths) < 40 {
		t.Fatalf("a plan has %d leaves: %v", len(paths), paths)
	}
	seen := map[string]string{want: "as it was"}
	for i, path := range paths {
		p, n := plan(), 0
		leaves(reflect.ValueOf(&p).Elem(), "plan", func(path string, v reflect.Value) {
			if n == i {
				alter(t, path, v)
			}
			n++
		})
		hash := p.Hash()
		if path == "plan.Name" {
			if hash != want {
				t.Error("another name is another hash")
			}
			continue
		}
		if other, same := seen[hash]; same {
			t.Errorf("a change of %s and %q have one hash", path, other)
		}
		seen[hash] = path
	}
	for name, change := range map[string]func(p *gate.Plan){
		"no check":                 func(p *gate.Plan) { delete(p.Step.Checks, gate.CheckProbes) },
		"no rule":                  func(p *gate.Plan) { p.Step.Rules = nil },
		"rules in another order":   func(p *gate.Plan) { slices.Reverse(p.Step.Rules) },
		"the stages change places": func(p *gate.Plan) { p.Step, p.Wave = p.Wave, p.Step },
		"a rule is another stage's": func(p *gate.Plan) {
			p.Step.Rules, p.Wave.Rules = p.Step.Rules[:1], append(p.Step.Rules[1:], p.Wave.Rules...)
		},
	} {
		p := plan()
		change(&p)
		if other, same := seen[p.Hash()]; same {
			t.Errorf("%q and %q have one hash", name, other)
		}
		seen[p.Hash()] = name
	}
}

// Two ways to say the same are one plan.
func TestAPlanHashIsOfWhatIsAsked(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(p *gate.Plan){
		"a check that is off": func(p *gate.Plan) { p.Step.Checks[gate.CheckOpen] = gate.CheckPolicy{Demand: gate.DemandOff} },
		"telemetry, which always has to pass": func(p *gate.Plan) {
			p.Step.Checks[gate.CheckTelemetry] = gate.CheckPolicy{Demand: gate.DemandAdvisory}
		},
		"an empty list of rules": func(p *gate.Plan) { p.Wave.Rules = []gate.Rule{} },
	} {
		one, two := plan(), plan()
		one.Wave.Rules, two.Wave.Rules = nil, nil
		change(&two)
		if one.Hash() != two.Hash() {
			t.Errorf("with %s it is another plan", name)
		}
	}
}

func TestThePlanHashStaysWhatItIs(t *testing.T) {
	t.Parallel()
	const pinned = "22f9bf749191990873a44213aeddca566da546cd153e52dd76acd247def612af"
	if got := plan().Hash(); got != pinned {
		t.Errorf("the hash is %s, recorded plans say %s", got, pinned)
	}
}

func TestWhatAStageAsks(t *testing.T) {
	t.Parallel()
	s := asking(gate.DemandNoFail)
	s.Checks[gate.CheckRisks] = gate.CheckPolicy{Demand: "much"}
	for check, want := range map[gate.CheckName]gate.Demand{
		gate.CheckProbes: gate.DemandNoFail, gate.CheckTelemetry: gate.DemandPass, gate.CheckOpen: gate.DemandOff, gate.CheckRisks: gate.DemandPass,
	} {
		if got := s.Asks(check); got != want {
			t.Errorf("%s is asked of %s, want %s", got, check, want)
		}
	}
}
