package executor_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// rollWith starts a rollout of spring on both clusters.
func (l *life) rollWith(strategy *rolloutv1.Strategy) string {
	l.w.t.Helper()
	resp, err := l.api.StartRollout(l.w.t.Context(), &rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "waves", Strategy: strategy})
	if err != nil {
		l.w.t.Fatal(err)
	}
	return resp.GetRollout().GetId()
}

func phases(r *rolloutv1.Rollout) string {
	out := []string{r.GetPhase()}
	for _, c := range r.GetClusters() {
		out = append(out, c.GetCluster()+" "+c.GetPhase())
	}
	return strings.Join(out, ", ")
}

func refusedFor(t *testing.T, err error, id string, says ...string) {
	t.Helper()
	if err == nil || errs.IDOf(err) != id {
		t.Fatalf("refused with %v, want %s", err, id)
	}
	for _, part := range says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %q", err, part)
		}
	}
}

// A person pauses a rollout between two steps, the process dies, and another lets it go
// on: nothing begins in between, and nothing twice.
func TestAPauseOutlivesARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	id := l.rollWith(&rolloutv1.Strategy{Waves: []*rolloutv1.WaveSize{{By: &rolloutv1.WaveSize_Clusters{Clusters: 1}}}})
	l.awaitGate(id, "paris", "gateway")
	if _, err := l.api.PauseRollout(t.Context(), &rolloutv1.PauseRolloutRequest{Id: id, RequestId: "p", Reason: "lunch"}); err != nil {
		t.Fatal(err)
	}
	l.judge(id, "paris", "gateway", gate.Pass)
	await(t, "the step's pass", func() bool { return strings.Contains(phases(l.get(id)), "paris ready") })
	l.stop()
	l = w.start(nil)
	if got := phases(l.get(id)); got != "paused, paris ready, rome waiting" {
		t.Errorf("after a restart: %s", got)
	}
	before := strings.Count(strings.Join(w.steps(), "\n"), "apply")
	for range 2 { // a repeat is heard once
		if _, err := l.api.ResumeRollout(t.Context(), &rolloutv1.ResumeRolloutRequest{Id: id, RequestId: "r"}); err != nil {
			t.Fatal(err)
		}
	}
	l.judge(id, "paris", "sra", gate.Pass)
	l.judge(id, "rome", "gateway", gate.Pass)
	l.judge(id, "rome", "sra", gate.Pass)
	l.awaitPhase(id, rollout.PhaseSucceeded)
	if r := l.get(id); r.GetWave() != 1 || len(r.GetPlan().GetWaves()) != 2 {
		t.Errorf("it ended in wave %d of %v", r.GetWave(), r.GetPlan().GetWaves())
	}
	if after := strings.Count(strings.Join(w.steps(), "\n"), "apply"); after <= before {
		t.Errorf("%d applies before the resume and %d after", before, after)
	}
}

// Both clusters move at once; one goes back, and the other is finished before the rollout
// holds. A person accepts that.
func TestAFailureHoldsWhatIsBesideIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	id := l.rollWith(&rolloutv1.Strategy{MaxConcurrent: 2})
	l.awaitGate(id, "rome", "gateway")
	l.judge(id, "paris", "gateway", gate.Fail)
	await(t, "the way back of paris", func() bool { return phases(l.get(id)) == "holding, paris rolled_back, rome gating" })
	l.judge(id, "rome", "gateway", gate.Pass)
	l.judge(id, "rome", "sra", gate.Pass)
	l.awaitPhase(id, rollout.PhaseHeld)
	_, err := l.api.ResumeRollout(t.Context(), &rolloutv1.ResumeRolloutRequest{Id: id, RequestId: "r"})
	refusedFor(t, err, "LS-ROL-014", "needs a reason")
	resp, err := l.api.ResumeRollout(t.Context(), &rolloutv1.ResumeRolloutRequest{Id: id, RequestId: "r", Reason: "paris is moved by hand"})
	if err != nil || phases(resp.GetRollout()) != "succeeded, paris rolled_back, rome succeeded" {
		t.Errorf("resumed: %s, %v", phases(resp.GetRollout()), err)
	}
	_, err = l.api.PauseRollout(t.Context(), &rolloutv1.PauseRolloutRequest{Id: id, RequestId: "p"})
	refusedFor(t, err, "LS-ROL-030", "is succeeded and cannot be paused")
}

// What a person ends goes back where it is on its way, and a cluster that is left out is
// not touched.
func TestAbortAndSkip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	id := l.rollWith(nil)
	l.awaitGate(id, "paris", "gateway")
	skip := func(cluster, reason string) error {
		_, err := l.api.SkipCluster(t.Context(), &rolloutv1.SkipClusterRequest{Id: id, Cluster: cluster, Reason: reason})
		return err
	}
	refusedFor(t, skip("rome", ""), "LS-ROL-014")
	refusedFor(t, skip("oslo", "x"), "LS-ROL-011", `no cluster "oslo" in rollout `+id)
	refusedFor(t, skip("paris", "x"), "LS-ROL-030", "paris is gating")
	for range 2 {
		if err := skip("rome", "the site moves house"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := l.api.AbortRollout(t.Context(), &rolloutv1.AbortRolloutRequest{Id: id})
	refusedFor(t, err, "LS-ROL-014")
	for range 2 {
		if _, err := l.api.AbortRollout(t.Context(), &rolloutv1.AbortRolloutRequest{Id: id, Reason: "superseded"}); err != nil {
			t.Fatal(err)
		}
	}
	l.awaitPhase(id, rollout.PhaseAborted)
	if got := phases(l.get(id)); got != "aborted, paris rolled_back, rome skipped" {
		t.Errorf("aborted: %s", got)
	}
	if running, applied := w.rome.now(); running != base || len(applied) > 0 {
		t.Errorf("rome, which was skipped, runs %s after %v", running, applied)
	}
	_, err = l.api.ResumeRollout(t.Context(), &rolloutv1.ResumeRolloutRequest{Id: id, RequestId: "r", Reason: "x"})
	refusedFor(t, err, "LS-ROL-030", "is aborted and cannot be resumed")
}

// A rollout that rested while another took its next cluster does not go on over it.
func TestAResumeYieldsToWhoeverCameMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	id := l.rollWith(nil)
	l.judge(id, "paris", "gateway", gate.Fail)
	l.awaitPhase(id, rollout.PhaseHeld)
	other := l.roll("other", "summer", "rome")
	l.awaitGate(other, "rome", "gateway")
	_, err := l.api.ResumeRollout(t.Context(), &rolloutv1.ResumeRolloutRequest{Id: id, RequestId: "r", Reason: "go on"})
	refusedFor(t, err, rollout.ProblemBusy, "rollout "+other+" has taken rome meanwhile")
	if _, err := l.api.SkipCluster(t.Context(), &rolloutv1.SkipClusterRequest{Id: id, Cluster: "rome", Reason: "another has it"}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.api.ResumeRollout(t.Context(), &rolloutv1.ResumeRolloutRequest{Id: id, RequestId: "r2", Reason: "go on"}); err != nil {
		t.Fatal(err)
	}
	if got := phases(l.get(id)); got != "succeeded, paris rolled_back, rome skipped" {
		t.Errorf("resumed: %s", got)
	}
}

// A start that is repeated answers with what it started, and is refused when it asks for
// other waves.
func TestARepeatedStartIsOfTheSameWaves(t *testing.T) {
	t.Parallel()
	l := newWorld(t).start(nil)
	first := &rolloutv1.Strategy{MaxConcurrent: 2, Waves: []*rolloutv1.WaveSize{
		{By: &rolloutv1.WaveSize_Clusters{Clusters: 1}}, {By: &rolloutv1.WaveSize_Percent{Percent: 50}},
	}}
	id := l.rollWith(first)
	if again := l.rollWith(first); again != id {
		t.Errorf("a repeat started %s, was %s", again, id)
	}
	for what, other := range map[string]*rolloutv1.Strategy{
		"no waves":   {MaxConcurrent: 2},
		"other wave": {MaxConcurrent: 2, Waves: []*rolloutv1.WaveSize{{By: &rolloutv1.WaveSize_Clusters{Clusters: 2}}}},
		"faster":     {MaxConcurrent: 3, Waves: first.GetWaves()},
		"bolder":     {MaxConcurrent: 2, MaxFailures: 1, Waves: first.GetWaves()},
		"watched":    {MaxConcurrent: 2, Soak: durationpb.New(time.Minute), Waves: first.GetWaves()},
	} {
		_, err := l.api.StartRollout(t.Context(), &rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "waves", Strategy: other})
		if errs.IDOf(err) != "LS-ROL-022" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Waves whose labels cannot be read are refused with what is wrong with them.
func TestWavesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	l := newWorld(t).start(nil)
	_, err := l.api.PlanRollout(t.Context(), &rolloutv1.PlanRolloutRequest{Release: "spring", Strategy: &rolloutv1.Strategy{
		Waves: []*rolloutv1.WaveSize{{By: &rolloutv1.WaveSize_LabelSelector{LabelSelector: "tier in ("}}},
	}})
	refusedFor(t, err, "LS-ROL-029", "tier in (")
}

// What is started is the plan that was looked at: a tag that was published anew
// meanwhile makes it another one, and nothing starts.
func TestWhatIsStartedIsWhatWasLookedAt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	plan, err := l.api.PlanRollout(t.Context(), &rolloutv1.PlanRolloutRequest{Release: "spring"})
	if err != nil {
		t.Fatal(err)
	}
	looked := plan.GetPlanHash()
	again, err := l.api.PlanRollout(t.Context(), &rolloutv1.PlanRolloutRequest{Release: "spring"})
	if err != nil || again.GetPlanHash() != looked || !strings.HasPrefix(looked, "sha256:") {
		t.Fatalf("the plan %q is %q when looked at again, %v", looked, again.GetPlanHash(), err)
	}
	start := &rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "looked", PlanHash: looked}
	w.paris.publish("newer")
	_, err = l.api.StartRollout(t.Context(), start)
	refusedFor(t, err, "LS-ROL-031", looked[:19])
	if list, err := l.api.ListRollouts(t.Context(), &rolloutv1.ListRolloutsRequest{}); err != nil || len(list.GetRollouts()) != 0 {
		t.Errorf("rollouts %v, %v", list.GetRollouts(), err)
	}
	w.paris.publish("")
	started, err := l.api.StartRollout(t.Context(), start)
	if err != nil {
		t.Fatal(err)
	}
	// A repeat is answered with what it started, however the world has become.
	w.paris.publish("newest")
	if again, err := l.api.StartRollout(t.Context(), start); err != nil || again.GetRollout().GetId() != started.GetRollout().GetId() {
		t.Errorf("the repeat is answered with %v, %v", again.GetRollout(), err)
	}
	l.stop()
}
