package cli_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{})
	got := f.run(t, "rollout", "plan", "--release", "5.1.0", "--cluster", "berlin", "--cluster", "paris,rome")
	got.wants(t, 0, "")
	golden(t, "plan.txt", got.out)
	if diff := cmp.Diff([]string{"berlin", "paris", "rome"}, f.planned[0].GetClusters()); diff != "" {
		t.Errorf("clusters asked for (-want +got):\n%s", diff)
	}

	f = serve(t, &fake{problems: []*rolloutv1.Problem{
		{Id: "LS-ROL-003", Cluster: "berlin", Text: "another rollout, r0, moves it"},
		{Text: "the release is withdrawn"},
	}})
	got = f.run(t, "rollout", "plan", "-r", "5.1.0")
	got.wants(t, 1, "lockstep: the plan has 2 problems and does not start\n")
	golden(t, "plan-problems.txt", got.out)
	got = f.run(t, "rollout", "plan", "-r", "5.1.0", "-o", "json")
	got.wants(t, 1, "")
	var doc struct {
		Problems []struct{ ID, Cluster string }
		Plan     struct{ Window string }
	}
	if err := json.Unmarshal([]byte(got.out), &doc); err != nil || doc.Problems[0].ID != "LS-ROL-003" || doc.Plan.Window != "1800s" {
		t.Errorf("%v: %+v in %s", err, doc, got.out)
	}
}

// judge is a gate policy in a mode.
func judge(name, mode string) *gatev1.Plan {
	step := &gatev1.Stage{Deadline: durationpb.New(30 * time.Minute), Soak: durationpb.New(5 * time.Minute)}
	for _, c := range [][2]string{{"telemetry", "pass"}, {"probes", "pass"}, {"sessions", "no_fail"}, {"risks", "advisory"}, {"recording", "off"}} {
		step.Checks = append(step.Checks, &gatev1.CheckDemand{Check: c[0], Demand: c[1]})
	}
	step.Rules = []*gatev1.HouseRule{{Name: "many", When: "sessions.new_failed > 3", Verdict: "hold", Reason: "too many"}}
	return &gatev1.Plan{Name: name, Mode: mode, Statistics: policy(), Step: step, Wave: &gatev1.Stage{
		Checks: []*gatev1.CheckDemand{{Check: "sessions", Demand: "pass"}}, Soak: durationpb.New(time.Hour), Deadline: durationpb.New(24 * time.Hour),
	}}
}

func TestPlanByAPolicy(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{})
	got := f.run(t, "rollout", "plan", "--release", "5.1.0", "--policy", "house")
	got.wants(t, 0, "")
	golden(t, "plan-policy.txt", got.out)
	got = f.run(t, "rollout", "plan", "-r", "5.1.0", "--policy", "house", "-o", "json")
	got.wants(t, 0, "")
	var doc struct {
		Plan struct{ Policy struct{ Name, Mode string } }
	}
	if err := json.Unmarshal([]byte(got.out), &doc); err != nil || doc.Plan.Policy.Name != "house" || doc.Plan.Policy.Mode != "act" {
		t.Errorf("%v: %+v in %s", err, doc, got.out)
	}

	got = f.run(t, "rollout", "start", "-r", "5.1.0", "--policy", "house", "--yes")
	got.wants(t, 0, "Policy  house, in mode act: what fails is rolled back")
	for what, asked := range map[string]string{"planned": f.planned[2].GetPolicy(), "started": f.started[0].GetPolicy()} {
		if asked != "house" {
			t.Errorf("%s by policy %q", what, asked)
		}
	}
}

func TestPolicyOfARolloutIsCompleted(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{policies: []*gatev1.NamedPolicy{{Plan: judge("fast", "act"), BuiltIn: true}, {Plan: judge("house", "shadow")}}})
	o := cli.Options{Env: env("LOCKSTEP_SERVER_URL", f.url, "LOCKSTEP_TOKEN_FILE", f.token)}
	for _, verb := range []string{"plan", "start"} {
		got := execute(t.Context(), o, "__complete", "rollout", verb, "--policy", "")
		if want := "fast\tact, built in|house\tshadow"; offered(got) != want {
			t.Errorf("%s offers %q, want %q\n%s", verb, offered(got), want, got.err)
		}
	}
}

// What follows from a verdict is said of every mode, and nothing of one that only a
// newer server knows.
func TestGetTellsTheMode(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		"shadow": "Policy   house, in mode shadow: verdicts are recorded, and the rollout goes on whatever they are\n",
		"advise": "Policy   house, in mode advise: people are told what does not pass, and the rollout goes on\n",
		"hold":   "Policy   house, in mode hold: what does not pass holds the rollout, and nothing goes back by itself\n",
		"act":    "Policy   house, in mode act: what fails is rolled back, and what else does not pass holds the rollout\n",
		"newer":  "Policy   house, in mode newer\n",
	} {
		r := rollout("running", "", "gating")
		r.Plan.Policy = judge("house", mode)
		got := serve(t, &fake{rollouts: []*rolloutv1.Rollout{r}}).run(t, "rollout", "get", "r1")
		got.wants(t, 0, "")
		if !strings.Contains(got.out, want) {
			t.Errorf("%s: no %q in\n%s", mode, want, got.out)
		}
	}
}

func TestStartAsks(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in    string
		args  []string
		code  int
		talk  string
		out   string
		start bool
	}{
		"yes":               {"yes\n", nil, 0, "Start this rollout? [y/N]", "r1\n", true},
		"y without a line":  {"y", nil, 0, "Start this rollout? [y/N]", "r1\n", true},
		"no":                {"n\n", nil, 1, "not confirmed, so nothing was done", "", false},
		"silence":           {"", nil, 1, "there was no answer, so nothing was done; --yes", "", false},
		"not asked":         {"", []string{"--yes"}, 0, "Release 5.1.0 on 3 clusters", "r1\n", true},
		"no input, no yes":  {"y\n", []string{"--no-input"}, 2, "--no-input forbids asking", "", false},
		"no input with yes": {"", []string{"--no-input", "-y", "-o", "name"}, 0, "", "rollout/r1\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, &fake{})
			got := f.answer(t, tc.in, append([]string{"rollout", "start", "-r", "5.1.0", "-c", "berlin"}, tc.args...)...)
			got.wants(t, tc.code, tc.talk)
			if got.out != tc.out {
				t.Errorf("printed %q, want %q", got.out, tc.out)
			}
			if (len(f.started) == 1) != tc.start {
				t.Errorf("starts: %v", f.started)
			}
			if tc.start && (f.started[0].GetRequestId() != "fresh" || f.started[0].GetRelease() != "5.1.0") {
				t.Errorf("asked for %v", f.started[0])
			}
		})
	}
}

// What is started is the plan that was shown, or the one that was looked at before.
func TestStartIsOfThePlanThatWasLookedAt(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{planChanges: []*rolloutv1.ClusterChanges{{Cluster: "berlin", Lines: []string{"chart of gw: akeyless-gateway 3.3.0 → 3.4.0"}}}})
	shown, earlier := "sha256:"+strings.Repeat("5", 64), "sha256:"+strings.Repeat("4", 64)
	f.run(t, "rollout", "start", "-r", "5.1.0", "--yes").wants(t, 0, "Plan    "+shown)
	f.run(t, "rollout", "start", "-r", "5.1.0", "--yes", "--plan", earlier).wants(t, 0, "  chart of gw: akeyless-gateway 3.3.0 → 3.4.0\n")
	if got := [2]string{f.started[0].GetPlanHash(), f.started[1].GetPlanHash()}; got != [2]string{shown, earlier} {
		t.Errorf("started the plans %q", got)
	}
}

func TestStartRefusesAPlanWithProblems(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{problems: []*rolloutv1.Problem{{Id: "LS-ROL-003", Text: "no"}}})
	f.run(t, "rollout", "start", "-r", "5.1.0", "--yes").wants(t, 1, "the plan has a problem and does not start")
	f.idle = true
	got := f.run(t, "rollout", "start", "-r", "5.1.0", "--yes")
	if want := "Problem:\n  LS-ROL-003: no\nlockstep: the plan has a problem and does not start\n"; got.err != want {
		t.Errorf("said %s\nwant %s", got.err, want)
	}
	if len(f.started) != 0 {
		t.Error("it was started")
	}
}

func TestStartWaits(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{watches: [][]*rolloutv1.Rollout{{rollout("running", "", "waiting"), rollout("succeeded", "", "succeeded")}}})
	got := f.run(t, "rollout", "start", "-r", "5.1.0", "--yes", "--wait", "--request-id", "mine")
	got.wants(t, 0, "12:00:00  berlin                succeeded")
	if got.out != "r1\n" || f.started[0].GetRequestId() != "mine" {
		t.Errorf("printed %q, asked for %v", got.out, f.started)
	}
	f = serve(t, &fake{watches: [][]*rolloutv1.Rollout{{rollout("succeeded", "")}}})
	got = f.run(t, "rollout", "start", "-r", "5.1.0", "--yes", "--wait", "-o", "json")
	if lines := strings.Count(got.out, "\n"); lines != 1 || !strings.HasPrefix(got.out, `{"id":"r1"`) {
		t.Errorf("printed %s", got.out)
	}
}

func stopped() *rolloutv1.Rollout {
	return rollout("held", "gate r1-berlin-gateway failed on berlin", "rolled_back", "waiting")
}

func TestWatchTellsEachChangeOnce(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{watches: [][]*rolloutv1.Rollout{{
		rollout("running", "", "waiting", "waiting"),
		rollout("running", "", "applying", "waiting"),
		rollout("running", "", "applying", "waiting"),
		rollout("running", "", "gating", "waiting"),
		rollout("running", "", "rolling_back", "waiting"),
		stopped(),
	}}})
	got := f.run(t, "rollout", "watch", "rollout/r1")
	got.wants(t, 4, "lockstep: rollout r1 is held: gate r1-berlin-gateway failed on berlin\n")
	golden(t, "watch.txt", got.out)
}

func TestWatchExitCodes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		last *rolloutv1.Rollout
		code int
	}{
		"succeeded":        {rollout("succeeded", "", "succeeded"), 0},
		"held":             {rollout("held", "too few sessions", "held"), 3},
		"held, gate bad":   {stopped(), 4},
		"held, one failed": {rollout("held", "", "succeeded", "failed"), 4},
		"rolled back":      {rollout("rolled_back", "", "rolled_back"), 4},
		"failed":           {rollout("failed", "", "failed"), 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, &fake{watches: [][]*rolloutv1.Rollout{{tc.last}}})
			f.run(t, "rollout", "watch", "r1").wants(t, tc.code, "")
		})
	}
}

func TestWatchJSON(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{watches: [][]*rolloutv1.Rollout{{rollout("running", "", "waiting"), rollout("succeeded", "", "succeeded")}}})
	got := f.run(t, "rollout", "watch", "r1", "-o", "json")
	got.wants(t, 0, "")
	var phases []string
	for text := range strings.Lines(got.out) {
		var r struct {
			Phase     string
			StartedAt string `json:"started_at"`
		}
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.StartedAt == "" {
			t.Fatalf("%v in %s", err, text)
		}
		phases = append(phases, r.Phase)
	}
	if diff := cmp.Diff([]string{"running", "succeeded"}, phases); diff != "" {
		t.Errorf("phases (-want +got):\n%s", diff)
	}
}

func TestWatchTakesALostConnectionUpAgain(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{
		watches: [][]*rolloutv1.Rollout{
			{rollout("running", "", "applying")},
			{}, // it does not know the rollout yet
			{rollout("running", "", "applying"), rollout("running", "", "gating")},
			{rollout("succeeded", "", "succeeded")},
		},
		after: []string{"drop", "unknown", ""}, // the last but one ends without the rollout resting
	})
	got := f.run(t, "rollout", "watch", "r1")
	got.wants(t, 0, "is lost; trying again.\nThe server answers again.\n")
	golden(t, "watch-again.txt", got.out)
}

func TestWatchGivesUp(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{watches: [][]*rolloutv1.Rollout{{rollout("running", "", "gating")}}, after: []string{"hang"}})
	f.run(t, "rollout", "watch", "r1", "--timeout", "200ms").wants(t, 5, "rollout r1 is still running after 200ms; it goes on")

	serve(t, &fake{}).run(t, "rollout", "watch", "r9").wants(t, 1, "watch rollout r9: there is no rollout r9 (LS-ROL-001)")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f = serve(t, &fake{})
	runWith(t, ctx, "", "rollout", "watch", "r1", "--server", f.url, "--token-file", f.token).wants(t, 1, "interrupted; the rollout goes on")
}

func TestRollback(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{rollouts: []*rolloutv1.Rollout{stopped()}})
	got := f.answer(t, "y\n", "rollout", "rollback", "r1", "--reason", "people cannot log in")
	got.wants(t, 0, "Roll these clusters back to what ran before? [y/N]")
	if want := "Rollout r1 of release 5.1.0"; !strings.Contains(got.err, want) || got.out != "r1\n" {
		t.Errorf("printed %q, said %s", got.out, got.err)
	}
	if r := f.backed[0]; r.GetId() != "r1" || r.GetReason() != "people cannot log in" || r.GetRequestId() != "fresh" {
		t.Errorf("asked for %v", r)
	}
	f.run(t, "rollout", "rollback", "r1", "--yes").wants(t, 2, "say why, for the record: --reason TEXT")
	f.run(t, "rollout", "rollback", "r9", "--reason", "x").wants(t, 1, "there is no rollout r9 (LS-ROL-001)")
	if len(f.backed) != 1 {
		t.Errorf("rolled back %d times", len(f.backed))
	}
}

// TestRollbackWaitsPastTheOldRest watches a rollout that was held before it was
// asked to roll back: the first stream still shows it held.
func TestRollbackWaitsPastTheOldRest(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{watches: [][]*rolloutv1.Rollout{
		{stopped()},
		{rollout("rolling_back", "", "rolling_back"), rollout("rolled_back", "", "rolled_back")},
	}})
	f.run(t, "rollout", "rollback", "r1", "--yes", "--wait", "--reason", "x").wants(t, 0, "rolled_back")
	f.watches = [][]*rolloutv1.Rollout{{rollout("rolling_back", ""), rollout("failed", "no engine")}}
	f.run(t, "rollout", "rollback", "r1", "--yes", "--wait", "--reason", "x").wants(t, 4, "rollout r1 failed: no engine")
	f.watches = [][]*rolloutv1.Rollout{{rollout("rolling_back", ""), rollout("held", "aborted")}}
	f.run(t, "rollout", "rollback", "r1", "--yes", "--wait", "--reason", "x").wants(t, 3, "rollout r1 is held: aborted")
}

func TestRolloutListAndGet(t *testing.T) {
	t.Parallel()
	other := func(id string, r *rolloutv1.Rollout) *rolloutv1.Rollout { r.Id = id; return r }
	f := serve(t, &fake{rollouts: []*rolloutv1.Rollout{
		other("r3", rollout("running", "", "gating", "waiting")),
		stopped(),
		other("r0", rollout("succeeded", "", "succeeded", "succeeded")),
	}})
	for name, args := range map[string][]string{
		"rollout-list.txt":      {"list"},
		"rollout-list-wide.txt": {"list", "-o", "wide"},
		"rollout-list-name.txt": {"ls", "-o", "name"},
		"rollout-get.txt":       {"get", "r1"},
		"rollout-get-wide.txt":  {"get", "r1", "-o", "wide"},
		"rollout-get.yaml":      {"get", "r0", "-o", "yaml"},
	} {
		got := f.run(t, append([]string{"rollout"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f.run(t, "rollout", "get", "r9").wants(t, 1, "lockstep: get rollout r9: there is no rollout r9 (LS-ROL-001)\n")
	serve(t, &fake{}).run(t, "rollout", "list").wants(t, 0, "There are no rollouts yet")
}

func TestPlanOfAnUnknownReleaseSaysSo(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fail: catalogued(connect.CodeNotFound, "there is no release 9", "LS-ROL-002")})
	f.run(t, "rollout", "start", "-r", "9", "--yes").wants(t, 1, "plan a rollout of 9: there is no release 9 (LS-ROL-002)")
	f.run(t, "rollout", "start", "--timeout", time.Minute.String(), "-r", "9").wants(t, 2, "--timeout limits --wait")
}
