package gatefile_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// results are what the checks of a gate said.
func results() []gate.Result {
	return []gate.Result{
		{Check: gate.CheckSessions, Verdict: gate.Pending, Figures: map[string]int64{"new_failed": 4, "new_succeeded": 0, "blocks": 1 << 62}},
		{Check: gate.CheckProbes, Verdict: gate.Pass, Figures: map[string]int64{"failed": 1, "succeeded": 9}},
	}
}

func compile(t *testing.T, when string) gatefile.Condition {
	t.Helper()
	c, err := gatefile.Compile(gate.Rule{Name: "x", When: when})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConditions(t *testing.T) {
	t.Parallel()
	for when, want := range map[string]bool{
		"sessions.new_failed > 3":                                                               true,
		"sessions.new_failed > 4":                                                               false,
		"sessions.new_failed == 4":                                                              true,
		"sessions.new_failed > 3 && probes.failed > 0":                                          true,
		"sessions.new_failed > 9 || probes.failed > 9":                                          false,
		"!(probes.failed > 1)":                                                                  true,
		"100 * probes.failed >= 10 * (probes.failed + probes.succeeded)":                        true,
		"100 * probes.failed > 10 * (probes.failed + probes.succeeded)":                         false,
		"sessions.new_failed % 3 == 1 && -probes.failed < 0 && 7 / 2 == 3":                      true,
		`sessions.verdict == "pending"`:                                                         true,
		`sessions.verdict in ["fail", "hold"]`:                                                  false,
		"probes.failed in [1, 3]":                                                               true,
		`probes.verdict != "pass" ? true : sessions.new_failed == 4`:                            true,
		"has(probes.failed) && !has(recording.failing) && !has(recording.verdict)":              true,
		"sessions.new_failed < 4 && recording.failing > 0":                                      false, // decided without what is not known
		"recording.failing > 0 || sessions.new_failed == 4":                                     true,
		"has(recording.failing) && recording.failing > 0":                                       false,
		"sessions.new_failed > 3 // a comment":                                                  true,
		"true":                                                                                  true,
		"probes.failed > 0 && probes.failed < 2 && probes.succeeded > 8 && probes.succeeded<10": true,
	} {
		got, err := compile(t, when)(results())
		if err != nil || got != want {
			t.Errorf("%s is %v, %v", when, got, err)
		}
	}
}

func TestConditionsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	for when, want := range map[string]string{
		"recording.failing > 0":                            "LS-GAT-014: house rule x cannot be asked: recording.failing is not known",
		`recording.verdict == "fail"`:                      "recording.verdict is not known",
		"sessions.cut > 0":                                 "sessions.cut is not known",
		"recording.failing > 0 && sessions.new_failed > 3": "recording.failing is not known",
		"sessions.new_failed / sessions.new_succeeded > 1": "division by zero",
		"sessions.blocks * 4 > 0":                          "overflow",
	} {
		got, err := compile(t, when)(results())
		if err == nil || got || !strings.Contains(err.Error(), want) || errs.IDOf(err) != "LS-GAT-014" {
			t.Errorf("%s is %v, %v; want %s", when, got, err, want)
		}
	}
}

func TestConditionsThatCannotBeAsked(t *testing.T) {
	t.Parallel()
	for when, want := range map[string]string{
		"":                                      "line 1, column 1: the condition cannot be read: it ends too early",
		"sessions.new_failed >":                 "line 1, column 22: the condition cannot be read: it ends too early",
		"sessions.new_failed > > 3":             "line 1, column 23: the condition cannot be read: '>' does not belong here",
		"sessions.new_failed > 3 §":             "line 1, column 25: the condition cannot be read: '§' does not belong here",
		"sesions.new_failed > 3":                "line 1, column 1: there is no check sesions; did you mean sessions?",
		"sessions.new_faild > 3":                "line 1, column 9: sessions has no figure new_faild; did you mean new_failed?",
		"1 > 2 ||\n probes.fail > 0":            "line 2, column 8: probes has no figure fail; did you mean failed?",
		"probes.new_failed > 0":                 "line 1, column 7: probes has no figure new_failed",
		"sessions > 3":                          "line 1, column 1: ask something of sessions: sessions.verdict or one of its figures",
		"sessions == sessions":                  "line 1, column 1: ask something of sessions",
		"has(sessions)":                         "line 1, column 5: the condition cannot be read: invalid argument to has() macro",
		"sessions.new_failed":                   "line 1, column 1: the condition is a whole number; it has to be true or false, such as sessions.new_failed > 3",
		`sessions.verdict`:                      "line 1, column 1: the condition is text; it has to be true or false",
		`sessions.verdict == "failed"`:          `line 1, column 21: there is no verdict "failed"; did you mean fail?`,
		`"ok" != sessions.verdict`:              `line 1, column 1: there is no verdict "ok"; known here: pass, fail, hold, inconclusive, pending`,
		`sessions.verdict in ["fail", "holds"]`: `line 1, column 30: there is no verdict "holds"; did you mean hold?`,
		`sessions.verdict == 3`:                 "line 1, column 18: == does not go with text and a whole number",
		`sessions.new_failed > "3"`:             "line 1, column 21: > does not go with a whole number and text",
		"sessions.new_failed > 0.05":            "line 1, column 23: only whole numbers; for more than 5 % write 100 * failed > 5 * all",
		"sessions.new_failed > 3u":              "line 1, column 23: only whole numbers",
		"sessions.new_failed == null":           "line 1, column 24: only whole numbers",
		"sessions.new_failed.x > 0":             "line 1, column 20: only a check has figures, such as inventory.missing",
		"1 ? true : false":                      "line 1, column 3: ? : does not go with a whole number and true or false and true or false",
		"sessions.new_failed && true":           "line 1, column 9: a whole number stands here, where true or false has to",
		"size([1]) > 0":                         "line 1, column 5: there is no size; a rule has comparisons, in, arithmetic, && || ! ?: and has()",
		`timestamp("2026-01-01T00:00:00Z") > timestamp("2026-01-01T00:00:00Z")`: "there is no timestamp",
		"dyn(sessions.new_failed) > 1":                                          "there is no dyn",
		"[1].all(x, x > 0)":                                                     "there is no all",
		`sessions.verdict.matches("(a+)+b")`:                                    "there is no matches",
		"[1][0] > 0":                                                            "there is no [ ] behind a value; a rule has",
		"{1: true}[1]":                                                          "there is no [ ] behind a value",
		"{} == {}":                                                              "a rule has numbers, texts in quotation marks, lists of them, and figures of checks; nothing else",
		"check.sessions{} == check.sessions{}":                                  "a rule has numbers",
		strings.Repeat("1<2&&", 500) + "true":                                   "line 1, column 1: the condition has 2504 letters and may have 2000; part it into several rules",
		strings.Repeat(strings.Repeat("1+", 150)+"1 > 0 && ", 6) + "true":                  "line 1, column 1: the condition takes too long to ask; part it into several rules",
		strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300):                       "the condition cannot be read",
		`sessions.verdict in [` + strings.Repeat(`"fail",`, 270) + `"fail"] && ` + `1 < 2`: "",
	} {
		c, err := gatefile.Compile(gate.Rule{Name: "x", When: when})
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", when, err)
			}
			continue
		}
		if err == nil || c != nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "LS-GAT-013: house rule x cannot be used: line ") {
			t.Errorf("%s: %v\nwant %s", when, err, want)
		}
	}
}

// TestEveryFigureCanBeAsked asks of each check each figure there is.
func TestEveryFigureCanBeAsked(t *testing.T) {
	t.Parallel()
	figures := gate.Figures()
	if got, want := slices.Sorted(maps.Keys(figures)), slices.Sorted(slices.Values(gate.CheckNames())); !slices.Equal(got, want) {
		t.Fatalf("figures of %v, checks %v", got, want)
	}
	for check, names := range figures {
		for i, name := range names {
			r := gate.Result{Check: check, Figures: map[string]int64{name: int64(i + 1)}}
			if holds, err := compile(t, fmt.Sprintf("%s.%s == %d", check, name, i+1))([]gate.Result{r}); !holds || err != nil {
				t.Errorf("%s.%s: %v, %v", check, name, holds, err)
			}
		}
	}
}

func TestAConditionIsAskedAtManyPlacesAtOnce(t *testing.T) {
	t.Parallel()
	c := compile(t, "sessions.new_failed == probes.failed")
	var all sync.WaitGroup
	for i := range int64(8) {
		all.Go(func() {
			for n := range int64(100) {
				got, err := c([]gate.Result{
					{Check: gate.CheckSessions, Figures: map[string]int64{"new_failed": i}}, {Check: gate.CheckProbes, Figures: map[string]int64{"failed": n % 8}},
				})
				if err != nil || got != (i == n%8) {
					t.Errorf("%d == %d is %v, %v", i, n%8, got, err)
				}
			}
		})
	}
	all.Wait()
}

func TestConditionsAreWrittenOneWay(t *testing.T) {
	t.Parallel()
	for when, want := range map[string]string{
		"1>2":                                   "1 > 2",
		"((1)) > (2) // why":                    "1 > 2",
		"1 > 2 && (2 > 3 && 3 > 4)":             "1 > 2 && 2 > 3 && 3 > 4",
		"(1 > 2 || 2 > 3) && 3 > 4":             "(1 > 2 || 2 > 3) && 3 > 4",
		"1 > 2 || (2 > 3 && 3 > 4)":             "1 > 2 || 2 > 3 && 3 > 4",
		"1 - (2 - 3) > 4":                       "1 - (2 - 3) > 4",
		"(1 - 2) - 3 > 4":                       "1 - 2 - 3 > 4",
		"(1 + 2) * 3 > 4 % (5 / 6)":             "(1 + 2) * 3 > 4 % (5 / 6)",
		"!(1 > 2)":                              "!(1 > 2)",
		"-(probes.failed) > -3":                 "-probes.failed > -3",
		"-(probes.failed - 1) > 0 - -1":         "-(probes.failed - 1) > 0 - -1",
		"-(0) + -(-2) > -(-probes.failed)":      "-(0) + -(-2) > -(-probes.failed)",
		"!(!(1 > 2))":                           "!(!(1 > 2))",
		"!true":                                 "!(true)",
		"1 > 2 ? true : 2 > 3 ? !true:false":    "1 > 2 ? true : 2 > 3 ? !(true) : false",
		"(1 > 2 ? true : false) ? true : false": "(1 > 2 ? true : false) ? true : false",
		`has(probes.failed)&&probes.verdict in['pass',"fail"]`: `has(probes.failed) && probes.verdict in ["pass", "fail"]`,
		"(1 > 2) == (2 > 3)": "1 > 2 == (2 > 3)",
	} {
		if got := written(t, when); got != want {
			t.Errorf("%s is written %s, want %s", when, got, want)
		}
	}
}

// written is what a condition reads as.
func written(t rapid.TB, when string) string {
	plans, err := gatefile.Read([]byte(gatefile.Marshal(withRule(when))), "p.yaml")
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	return plans[0].Step.Rules[0].When
}

// TestWhatAConditionIsWrittenAs means the same and is written the same again.
func TestWhatAConditionIsWrittenAs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		when := truth(3).Draw(t, "when")
		once := written(t, when)
		if again := written(t, once); again != once {
			t.Fatalf("%s is written %s and then %s", when, once, again)
		}
		r := []gate.Result{{Check: gate.CheckProbes, Verdict: gate.Pass, Figures: map[string]int64{"failed": rapid.Int64Range(-3, 3).Draw(t, "failed")}}}
		type answer struct {
			holds bool
			wrong bool
		}
		ask := func(when string) answer {
			c, err := gatefile.Compile(gate.Rule{Name: "x", When: when})
			if err != nil {
				t.Fatalf("%s: %v", when, err)
			}
			holds, err := c(r)
			return answer{holds, err != nil}
		}
		if diff := cmp.Diff(ask(when), ask(once), cmp.AllowUnexported(answer{})); diff != "" {
			t.Fatalf("%s and %s (-first +second):\n%s", when, once, diff)
		}
	})
}

func withRule(when string) gate.Plan {
	p := gatefile.Presets()[1]
	p.Name = "a"
	p.Step.Rules = []gate.Rule{{Name: "x", When: when, Verdict: gate.Fail, Reason: "X"}}
	return p
}

// truth makes up conditions, and number what they compare.
func truth(depth int) *rapid.Generator[string] {
	if depth == 0 {
		return rapid.SampledFrom([]string{"true", "false", "has(probes.failed)", `probes.verdict == "pass"`})
	}
	return rapid.Custom(func(t *rapid.T) string {
		a, b := func() string { return truth(depth-1).Draw(t, "a") }, func() string { return number(depth-1).Draw(t, "b") }
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			return "(" + a() + ") && (" + a() + ")"
		case 1:
			return "(" + a() + " || " + a() + ")"
		case 2:
			return "!(" + a() + ")"
		case 3:
			return "((" + a() + ") ? (" + a() + ") : (" + a() + "))"
		case 4:
			return "(" + b() + " in [" + b() + ", " + b() + "])"
		}
		return "(" + b() + rapid.SampledFrom([]string{" < ", " <= ", " > ", " >= ", " == ", " != "}).Draw(t, "sign") + b() + ")"
	})
}

func number(depth int) *rapid.Generator[string] {
	if depth == 0 {
		return rapid.SampledFrom([]string{"probes.failed", "0", "1", "-2", "7"})
	}
	return rapid.Custom(func(t *rapid.T) string {
		a := func() string { return number(depth-1).Draw(t, "a") }
		if rapid.Bool().Draw(t, "one") {
			return "-(" + a() + ")"
		}
		return "(" + a() + rapid.SampledFrom([]string{" + ", " - ", " * ", " / ", " % "}).Draw(t, "sign") + a() + ")"
	})
}
