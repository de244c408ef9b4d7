package gatefile_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/gatefile"
)

func lint(t *testing.T, text string, perHour float64) gatefile.Problems {
	t.Helper()
	problems, err := gatefile.Lint([]byte(text), "p.yaml", perHour)
	if err != nil {
		t.Fatal(err)
	}
	return problems
}

func worded(problems gatefile.Problems) string {
	var b strings.Builder
	for _, p := range problems {
		b.WriteString(p.String() + "\n")
	}
	return b.String()
}

// TestLint names one mistake each, and all that is said about it, behind the name
// of the document.
func TestLint(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"nothing":              {"", "1:1: error: it holds no policy; write policies: and below it a list, each item with a name"},
		"only a comment":       {"# policies\n", "1:1: error: it holds no policy; write policies: and below it a list, each item with a name"},
		"no policies":          {"policies: []", "1:11: error: policies: there is none; add an item with a name"},
		"no YAML":              {"policies:\n  - {name: a\n", "1: error: it is not YAML: did not find expected ',' or '}'; look at this line and the one before it"},
		"a tab":                {"policies:\n\t- name: a\n", "2: error: it is not YAML: found character that cannot start any token; look at this line and the one before it"},
		"two documents":        {"policies: [{name: a}]\n---\npolicies: []\n", "2:1: error: a second document begins here; keep one document in the file"},
		"a list":               {"- name: a\n", "1:1: error: expected keys with values, found a list"},
		"a word":               {"standard\n", `1:1: error: expected keys with values, found "standard"`},
		"another key":          {"policy: [{name: a}]\n", "1:1: error: policy: unknown key; did you mean policies?"},
		"one key twice":        {"policies: [{name: a}]\npolicies: [{name: b}]\n", "2:1: error: policies: the key is already set in line 1; keep one of them"},
		"no list":              {"policies: {name: a}\n", "1:11: error: policies: expected a list, found keys with values"},
		"no policy":            {"policies: [a]\n", `1:12: error: policies[0]: expected a policy with a name, found "a"`},
		"no name":              {"policies: [{mode: act}]", "1:12: error: policies[0].name: the policy has no name; add one, by which rollouts can call it"},
		"no good name":         {"policies: [{name: My House}]", `1:19: error: policies[0].name: "My House" is no name; use 1 to 63 of a to z, 0 to 9, - and _`},
		"a built-in name":      {"policies: [{name: fast}]", "1:19: error: policies[0].name: fast is built in; choose another name and write extends: fast"},
		"a name twice":         {"policies:\n- name: a\n- name: b\n- name: a\n", "4:9: error: policies[2].name: policy a is already in line 2; keep one of them or rename it"},
		"unknown parent":       {"policies: [{name: a, extends: standrad}]", `1:31: error: policies[0].extends: there is no policy "standrad"; did you mean standard?`},
		"unknown among others": {"policies: [{name: a, extends: x9x}, {name: b}]", `1:31: error: policies[0].extends: there is no policy "x9x"; known here: careful, standard, fast, b`},
		"itself":               {"policies: [{name: a, extends: a}]", "1:31: error: policies[0].extends: a policy cannot extend itself, and here a extends a; end the circle with careful, standard or fast"},
		"a circle":             {"policies:\n- {name: a, extends: b}\n- {name: b, extends: c}\n- {name: c, extends: a}\n", "4:22: error: policies[2].extends: a policy cannot extend itself, and here a extends b extends c extends a; end the circle with careful, standard or fast"},
		"into a circle":        {"policies:\n- {name: x, extends: a}\n- {name: a, extends: b}\n- {name: b, extends: a}\n", "4:22: error: policies[2].extends: a policy cannot extend itself, and here a extends b extends a; end the circle with careful, standard or fast"},
		"unknown key":          {"policies: [{name: a, statistic: {}}]", "1:22: error: policies[0].statistic: unknown key; did you mean statistics?"},
		"unknown check":        {"policies: [{name: a, step: {checks: {session: {demand: pass}}}}]", "1:38: error: policies[0].step.checks.session: unknown key; did you mean sessions?"},
		"merged by YAML":       {"policies: [{name: a, step: {<<: {soak: 1m}}}]", "1:29: error: policies[0].step.<<: unknown key; known here: checks, deadline, soak, rules"},
		"a key of no word":     {"policies: [{name: a, step: {[a]: 1}}]", "1:29: error: policies[0].step: expected a key, found a list"},
		"a key twice":          {"policies:\n- name: a\n  mode: act\n  mode: hold\n", "4:3: error: policies[0].mode: the key is already set in line 3; keep one of them"},
		"another mode":         {"policies: [{name: a, mode: shadwo}]", `1:28: error: policies[0].mode: "shadwo" is none of shadow, advise, hold, act; did you mean shadow?`},
		"another demand":       {"policies: [{name: a, step: {checks: {open: {demand: [pass]}}}}]", "1:53: error: policies[0].step.checks.open.demand: expected one of pass, no_fail, advisory, off, found a list"},
		"no number":            {"policies: [{name: a, statistics: {alpha: few}}]", `1:42: error: policies[0].statistics.alpha: expected a number, found "few"`},
		"no whole number":      {"policies: [{name: a, statistics: {partners: 2.5}}]", "1:45: error: policies[0].statistics.partners: expected a whole number, found the number 2.5"},
		"a huge number":        {"policies: [{name: a, statistics: {partners: 99999999999999999999}}]", "1:45: error: policies[0].statistics.partners: expected a whole number, found the number 99999999999999999999"},
		"no unit":              {"policies: [{name: a, wave: {soak: 10}}]", `1:35: error: policies[0].wave.soak: "10" is not a duration; write a number with a unit, such as "30s", "10m" or "24h"`},
		"no truth":             {"policies: [{name: a, step: {rules: [{name: x, when: \"1 > 2\", verdict: fail, reason: X, off: no}]}}]", `1:93: error: policies[0].step.rules[x].off: expected true or false, found "no"`},
		"stage of no keys":     {"policies: [{name: a, step: 30m}]", `1:28: error: policies[0].step: expected keys with values, found "30m"`},

		"out of bounds":    {"policies: [{name: a, statistics: {beta: 0.6}}]", "1:41: error: policies[0].statistics.beta: 0.6 is out of range; it must be above 0 and at most 0.5"},
		"not a number":     {"policies: [{name: a, statistics: {tolerance: .nan}}]", "1:46: error: policies[0].statistics.tolerance: NaN is out of range; it must be from 1 to 10"},
		"a wide alpha":     {"policies: [{name: a, statistics: {alpha: 0.1}}]", "1:42: warning: policies[0].statistics.alpha: 0.1 rolls back one of 10 harmless releases at each gate; 0.01 is usual, 0.05 the most that is"},
		"a usual alpha":    {"policies: [{name: a, statistics: {alpha: 0.05}}]", ""},
		"margin tolerated": {"policies: [{name: a, statistics: {tolerance: 3}}]", "1:46: error: policies[0].statistics.margin: 2 is out of range; it must be above tolerance (3)"},
		"a mistake taken over is told once": {"policies:\n- {name: a, extends: b}\n- {name: b, statistics: {alpha: 2}}\n- {name: c, extends: b}\n",
			"3:33: error: policies[0].statistics.alpha: 2 is out of range; it must be above 0 and at most 0.5"},
		"a mistake of two": {"policies:\n- {name: a, extends: b, statistics: {tolerance: 4}}\n- {name: b, statistics: {margin: 3}}\n",
			"3:34: error: policies[0].statistics.margin: 3 is out of range; it must be above tolerance (4)"},
		"sessions that ripen too late": {"policies: [{name: a, statistics: {deadline: 2m}}]",
			"1:12: warning: policies[0].step.deadline: 30m is longer than statistics.deadline (2m), from which on sessions are inconclusive; raise that or lower this\n" +
				"1:12: warning: policies[0].wave.deadline: 24h is longer than statistics.deadline (2m), from which on sessions are inconclusive; raise that or lower this\n" +
				"1:45: error: policies[0].statistics.deadline: 2m is not longer than maturation (2m), so no session could be judged in time; raise it"},
		"a step that waits for people": {"policies: [{name: a, step: {deadline: 2m, checks: {sessions: {demand: pass}, lifecycle: {sustain: {for: 1m}}, inventory: {sustain: {for: 1m}}, recording: {sustain: {for: 1m}}, forwarding: {sustain: {for: 1m}}}}}]",
			"1:39: error: policies[0].step.deadline: 2m is not longer than statistics.maturation (2m), so no session could be judged in time; raise it"},

		"a time backwards": {"policies: [{name: a, step: {soak: -1m}}]", "1:35: error: policies[0].step.soak: -1m is out of range; it must be from 0s to 720h"},
		"a long stage":     {"policies: [{name: a, statistics: {deadline: 700h}, wave: {deadline: 721h}}]", "1:69: error: policies[0].wave.deadline: 721h is out of range; it must be from 0s to 720h\n1:69: warning: policies[0].wave.deadline: 721h is longer than statistics.deadline (700h), from which on sessions are inconclusive; raise that or lower this"},
		"time alone":       {"policies: [{name: a, step: {checks: {probes: {sustain: {looks: 0}}}}}]", "1:64: error: policies[0].step.checks.probes.sustain.looks: without looks, for (1m) counts time in which nobody looked; write 1 at least, such as looks: 3"},
		"looks backwards":  {"policies: [{name: a, step: {checks: {probes: {sustain: {looks: -1}}}}}]", "1:64: error: policies[0].step.checks.probes.sustain.looks: -1 is out of range; it must be from 0 to 1000"},
		"never sustained":  {"policies: [{name: a, step: {checks: {probes: {sustain: {for: 30m}}}}}]", "1:62: warning: policies[0].step.checks.probes.sustain.for: 30m is not shorter than the step itself (30m), so probes cannot fail in it; shorten it"},
		"never mind":       {"policies: [{name: a, step: {checks: {probes: {demand: advisory, sustain: {for: 30m}}}}}]", ""},
		"soak and deadline": {"policies: [{name: a, wave: {soak: 25h}}]",
			"1:22: warning: policies[0].wave.deadline: 24h is within the soak (25h), so it comes with the soak's end; raise it or shorten the soak"},
		"soak without an end": {"policies: [{name: a, wave: {soak: 25h, deadline: 0}}]", ""},
		"telemetry": {"policies: [{name: a, step: {checks: {telemetry: {demand: off}}}}]",
			"1:58: warning: policies[0].step.checks.telemetry.demand: off changes nothing: telemetry always has to pass, or the other checks would judge what nobody saw; write pass"},
		"nothing to pass": {"policies: [{name: a, step: {checks: {inventory: {demand: no_fail}, probes: {demand: no_fail}}}}]",
			"1:29: warning: policies[0].step.checks: nothing has to pass, so it passes as long as nothing fails, whatever was seen; write demand: pass for one check at least"},
		"nothing demanded": {"policies: [{name: a, step: {checks: " + nothing + "}}]",
			"1:29: error: policies[0].step.checks: nothing is demanded, so no evidence can let it pass; write demand: pass for one check at least, such as inventory"},
		"a wave without people": {"policies: [{name: a, wave: {checks: {sessions: {demand: no_fail}}}}]",
			"1:57: warning: policies[0].wave.checks.sessions.demand: no_fail lets a wave pass without people's sessions; write pass, or know that probes alone decide"},

		"no list of rules":     {"policies: [{name: a, step: {rules: {x: 1}}}]", "1:36: error: policies[0].step.rules: expected a list, found keys with values"},
		"no rule":              {"policies: [{name: a, step: {rules: [x]}}]", `1:37: error: policies[0].step.rules[0]: expected a rule with a name, found "x"`},
		"a rule twice":         {rules("{name: x, when: 1 > 2, verdict: fail, reason: X}", "{name: x}"), "4:7: error: policies[0].step.rules[x]: the rule is already in line 3; keep one of them or rename it"},
		"a rule of no name":    {rules("{when: 1 > 2, verdict: fail, reason: X}"), "3:7: error: policies[0].step.rules[0]: the rule has no name; add one, by which decisions can call it"},
		"a rule's bad name":    {rules("{name: x y, when: 1 > 2, verdict: fail, reason: X}"), `3:14: error: policies[0].step.rules[x y].name: "x y" is no name; use 1 to 63 of a to z, 0 to 9, - and _`},
		"a rule of a name":     {rules("{name: x}"), "3:7: error: policies[0].step.rules[x].verdict: what follows is not said; write fail or hold\n3:7: error: policies[0].step.rules[x].reason: the reason is missing; say what people are to know where it holds\n3:7: error: policies[0].step.rules[x].when: the condition is missing; write one, such as sessions.new_failed > 3"},
		"a passing rule":       {rules("{name: x, when: 1 > 2, verdict: pass, reason: X}"), `3:39: error: policies[0].step.rules[x].verdict: "pass" is none of fail, hold`},
		"a list to ask":        {rules("{name: x, when: [1 > 2], verdict: fail, reason: X}"), "3:23: error: policies[0].step.rules[x].when: expected text, found a list"},
		"a rule's unknown key": {rules("{name: x, when: 1 > 2, verdict: fail, reason: X, why: X}"), "3:56: error: policies[0].step.rules[x].why: unknown key; did you mean when?"},
		"off without":          {rules("{name: x, off: true}"), "3:7: error: policies[0].step.rules[x]: there is no rule x to remove; the policy takes over none"},
		"off another": {"policies:\n- {name: a, step: {rules: [{name: burst, when: 1 > 2, verdict: fail, reason: X}]}}\n- {name: b, extends: a, step: {rules: [{name: brust, off: true}]}}\n",
			"3:40: error: policies[1].step.rules[brust]: there is no rule brust to remove; did you mean burst?"},
		"asks what is off": {"policies:\n- name: a\n  step:\n    checks: {recording: {demand: off}}\n    rules:\n    - {name: x, when: 1 > 2 || recording.failing > 0, verdict: fail, reason: X}\n",
			"6:32: error: policies[0].step.rules[x].when: recording is off here, so the rule could not be asked; write demand: advisory to look at it without demanding anything"},
		"a rule taken over asks what is off": {"policies:\n- {name: a, step: {rules: [{name: x, when: recording.failing > 0, verdict: fail, reason: X}]}}\n- {name: b, extends: a, step: {checks: {recording: {demand: off}}}}\n",
			"2:44: error: policies[1].step.rules[x].when: recording is off here, so the rule could not be asked; write demand: advisory to look at it without demanding anything"},
		"too many rules": {rules(many(101)...), "2:20: error: policies[0].step.rules: there are 101 and may be 100; a few that people understand are better"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var want strings.Builder
			for line := range strings.Lines(tc.want) {
				fmt.Fprintf(&want, "p.yaml:%s\n", strings.TrimSuffix(line, "\n"))
			}
			if diff := cmp.Diff(want.String(), worded(lint(t, tc.text, 0))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// nothing demands nothing of any check.
const nothing = "{inventory: {demand: advisory}, probes: {demand: off}, sessions: {demand: off}, open: {demand: off}, lifecycle: {demand: off}, recording: {demand: off}, forwarding: {demand: off}, risks: {demand: advisory}}"

func rules(items ...string) string {
	return "policies:\n- {name: a, step: {rules: [\n      " + strings.Join(items, ",\n      ") + "]}}\n"
}

func many(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("{name: x%d, when: 1 > 2, verdict: fail, reason: X}", i))
	}
	return out
}

func TestActNeedsSomethingToActOn(t *testing.T) {
	t.Parallel()
	const act = "error: policies[0].mode: act rolls back what fails, and no check is demanded that could; demand some, or use shadow"
	text := func(mode, wave string) string {
		return "policies: [{name: a, mode: " + mode + ", step: {checks: " + nothing + "}, wave: {checks: " + wave + "}}]"
	}
	if got := worded(lint(t, text("act", nothing), 0)); !strings.Contains(got, "p.yaml:1:28: "+act) {
		t.Errorf("act: %s", got)
	}
	for _, harmless := range []string{text("hold", nothing), text("act", "{}")} {
		if got := worded(lint(t, harmless, 0)); strings.Contains(got, act) {
			t.Errorf("%s: %s", harmless, got)
		}
	}
}

// TestWhereInACondition points at the same word of one condition however it is
// written.
func TestWhereInACondition(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]string{
		"plain":                 "when: probes.failed > 1 && HERE.x > 0",
		"single quotes":         "when: 'probes.verdict == \"fail\" || HERE.x > 0'",
		"doubled single quotes": "when: 'probes.verdict == ''fail'' || HERE.x > 0'",
		"double quotes":         `when: "probes.verdict == \"fail\" || HERE.x > 0"`,
		"on the next line":      "when:\n            probes.failed > 1 && HERE.x > 0",
		"plain over lines":      "when: probes.failed > 1 &&\n            HERE.x > 0",
		"quoted over lines":     "when: \"probes.failed > 1 &&\n\n            HERE.x > 0\"",
		"literal":               "when: |\n            probes.failed > 1\n            && HERE.x > 0",
		"literal, deeper":       "when: |-\n              probes.failed > 1\n                && HERE.x > 0",
		"with a comment":        "when: |\n            // the probes\n            probes.failed > 1 && HERE.x > 0",
		"folded":                "when: >\n            probes.failed > 1 &&\n            HERE.x > 0",
		"folded, empty lines":   "when: >+\n\n            probes.failed > 1 &&\n\n            HERE.x > 0\n\n",
		"letters of two bytes":  "when: probes.verdict != \"fail\" /*no*/",
		"wide letters":          "when: '\"äöü€\" == \"ä\" || HERE.x > 0'",
		"the first word":        "when: HERE.x > 0",
		"the first of a block":  "when: |\n            HERE.x > 0",
		"anchored":              "when: &why 1 > 2 || HERE.x > 0",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "policies:\n  - name: a\n    step:\n      rules:\n        - name: x\n          " + when + "\n          verdict: fail\n          reason: X\n"
			problems := lint(t, text, 0)
			if len(problems) != 1 || problems[0].Key != "policies[0].step.rules[x].when" {
				t.Fatal(worded(problems))
			}
			if !strings.Contains(text, "HERE") {
				return
			}
			lines := strings.Split(text, "\n")
			p := problems[0]
			if got := string([]rune(lines[p.Line-1])[p.Column-1:]); !strings.HasPrefix(got, "HERE") {
				t.Errorf("%s points at %q", p, got)
			}
		})
	}
}

func TestSessionsPerHour(t *testing.T) {
	t.Parallel()
	const text = "policies: [{name: a}, {name: b, extends: fast, step: {checks: {sessions: {demand: pass}}}}, {name: c, statistics: {beta: 7}}]"
	for perHour, want := range map[float64]string{
		0: "",
		20: `p.yaml:1:12: warning: policies[0].wave.deadline: it takes about 786 sessions with 2 % of them failing, and 20 an hour make 40h of that, longer than 24h; put more clusters into a wave, raise statistics.margin or acceptable_rate, or the deadline
p.yaml:1:23: warning: policies[1].wave.deadline: it takes about 155 sessions with 2 % of them failing, and 20 an hour make 8h of that, longer than 4h; put more clusters into a wave, raise statistics.margin or acceptable_rate, or the deadline
p.yaml:1:48: warning: policies[1].step.deadline: it takes about 155 sessions with 2 % of them failing, and 20 an hour make 8h of that, longer than 10m; judge it at the end of the wave, raise statistics.margin or acceptable_rate, or the deadline
`,
		100: `p.yaml:1:48: warning: policies[1].step.deadline: it takes about 155 sessions with 2 % of them failing, and 100 an hour make 2h of that, longer than 10m; judge it at the end of the wave, raise statistics.margin or acceptable_rate, or the deadline
`,
	} {
		var got strings.Builder
		for _, p := range lint(t, text, perHour) {
			if p.Severity == gatefile.Warning { // what is out of bounds is not reckoned with
				got.WriteString(p.String() + "\n")
			}
		}
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Errorf("%g an hour (-want +got):\n%s", perHour, diff)
		}
	}
}

func TestDocumentsThatAreTooMuch(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"large":         {"policies: [{name: a}]\n#" + strings.Repeat("x", 1<<20), "it has 1048599 bytes and may have 1048576"},
		"many policies": {"policies: [" + strings.Repeat("{name: a}, ", 1001) + "]", "there are 1001 and may be 1000"},
		"many by alias": {"policies: [" + strings.Repeat("{name: a, step: &s {checks: {probes: {sustain: {looks: 3}}}, rules: ["+strings.Repeat("{name: x},", 90)+"]}}, ", 1) +
			strings.Repeat("{name: b, step: *s}, ", 999) + "]", "the document holds too much up to here"},
		"deep": {"policies: " + strings.Repeat("[", 20000), "it is not YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := gatefile.Read([]byte(tc.text), "p.yaml")
			problems, ok := errors.AsType[gatefile.Problems](err)
			if !ok || !strings.Contains(worded(problems), tc.want) {
				t.Errorf("%.300v\nwant %s", err, tc.want)
			}
		})
	}
}

// FuzzRead reads anything. What it accepts it writes so that it reads it again.
func FuzzRead(f *testing.F) {
	text, err := os.ReadFile("testdata/house.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(gatefile.Marshal(gatefile.Presets()...)))
	f.Add([]byte("policies: [{name: a, extends: b}, {name: b, extends: a, step: &x {rules: [{name: x, when: *x}]}}]"))
	f.Add([]byte(rules("{name: x, when: \"\\u00e4 > \\\"\", verdict: fail, reason: X}")))
	f.Fuzz(func(t *testing.T, text []byte) {
		problems, err := gatefile.Lint(text, "p.yaml", 20)
		if err != nil {
			t.Fatal(err)
		}
		lines := 2 // the end of the last one may be missed
		for _, letter := range string(text) {
			if strings.ContainsRune("\n\r\u0085\u2028\u2029", letter) {
				lines++
			}
		}
		for _, p := range problems {
			if p.Text == "" || p.Line < 0 || p.Column < 0 || p.Line > lines {
				t.Errorf("of %d lines: %+v", lines, p)
			}
		}
		plans, err := gatefile.Read(text, "p.yaml")
		if wrong := problems.Errors(); (err == nil) != (len(wrong) == 0) {
			t.Fatalf("read says %v, lint %v", err, wrong)
		}
		for _, p := range plans {
			again, err := gatefile.Read([]byte(gatefile.Marshal(p)), "p.yaml")
			if err != nil {
				t.Fatalf("%v in %s", err, gatefile.Marshal(p))
			}
			if again[0].Hash() != p.Hash() {
				t.Fatalf("read again it differs in %v", gatefile.Diff(p, again[0]))
			}
			for _, rule := range slices.Concat(p.Step.Rules, p.Wave.Rules) {
				if _, err := gatefile.Compile(rule); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
