package executor_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// rollBy starts a rollout of spring on paris that names a policy.
func (l *life) rollBy(request, policy string) (*rolloutv1.Rollout, error) {
	resp, err := l.api.StartRollout(l.w.t.Context(), &rolloutv1.StartRolloutRequest{
		Release: "spring", Clusters: []string{"paris"}, RequestId: request, Policy: policy,
	})
	return resp.GetRollout(), err
}

// plan plans a rollout of spring on paris that names a policy.
func (l *life) plan(policy string) *rolloutv1.PlanRolloutResponse {
	l.w.t.Helper()
	resp, err := l.api.PlanRollout(l.w.t.Context(), &rolloutv1.PlanRolloutRequest{Release: "spring", Clusters: []string{"paris"}, Policy: policy})
	if err != nil {
		l.w.t.Fatal(err)
	}
	return resp
}

// house is a policy of somebody's own.
func house(mode gate.Mode) gate.Plan {
	p := gatefile.Presets()[2]
	p.Name, p.Mode, p.Wave = "house", mode, gate.Stage{} // only steps are judged by it
	return p
}

func TestARolloutCarriesItsPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	if p := l.plan("").GetPlan(); p.GetPolicy() != nil || p.GetGate().GetMargin() != w.config.Gate.Margin {
		t.Errorf("without a name it is judged by %v and %v", p.GetPolicy(), p.GetGate())
	}
	planned := l.plan("fast")
	if len(planned.GetProblems()) > 0 {
		t.Errorf("problems: %v", planned.GetProblems())
	}
	r, err := l.rollBy("one", "fast")
	if err != nil {
		t.Fatal(err)
	}
	fast := gatefile.Presets()[2]
	for what, p := range map[string]*rolloutv1.Plan{"planned": planned.GetPlan(), "started": r.GetPlan()} {
		if got := p.GetPolicy(); got.GetName() != "fast" || got.GetMode() != string(gate.Act) || got.GetStep().GetDeadline().AsDuration() != fast.Step.Deadline {
			t.Errorf("%s: the policy is %v", what, got)
		}
		if p.GetGate().GetMargin() != fast.Statistics.Margin || !proto.Equal(p.GetGate(), p.GetPolicy().GetStatistics()) {
			t.Errorf("%s: sessions are judged by %v", what, p.GetGate())
		}
	}
	l.judge(r.GetId(), "paris", "gateway", gate.Pass)
	l.awaitGate(r.GetId(), "paris", "sra")
	// Also for a process that knows it from its facts alone.
	l.stop()
	if got := w.start(nil).get(r.GetId()); !proto.Equal(r.GetPlan(), got.GetPlan()) {
		t.Errorf("after a restart the plan is %v, was %v", got.GetPlan(), r.GetPlan())
	}
}

func TestAnAppliedPolicyIsReadAsItIsNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	p := house(gate.Shadow)
	revision := w.apply(p, 0)
	other := house(gate.Act)
	other.Name = "houses"
	w.apply(other, 0)
	r, err := l.rollBy("one", "house")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "mode", string(gate.Shadow), r.GetPlan().GetPolicy().GetMode())
	p.Mode = gate.Advise
	w.apply(p, revision)
	same(t, "mode in a new plan", string(gate.Advise), l.plan("house").GetPlan().GetPolicy().GetMode())
	same(t, "mode of what has begun", string(gate.Shadow), l.get(r.GetId()).GetPlan().GetPolicy().GetMode())

	// Nobody changes what is built in, not even by writing it down.
	p.Name = "fast"
	w.apply(p, 0)
	same(t, "mode of fast", string(gate.Act), l.plan("fast").GetPlan().GetPolicy().GetMode())
}

func TestAnUnknownPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	_, planned := l.api.PlanRollout(t.Context(), &rolloutv1.PlanRolloutRequest{Release: "spring", Policy: "hose"})
	_, started := l.rollBy("one", "hose")
	for _, err := range []error{planned, started} {
		refused(t, err, "LS-ROL-027")
		if errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), `"hose"`) || !strings.Contains(err.Error(), "lockstep gate policy list") {
			t.Errorf("refused with %v", err)
		}
	}
}

// A policy that cannot be read must not be taken for one that is not there.
func TestAPolicyThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	lost := errs.New(errs.Unavailable, "LS-BUS-006", "timeout")
	l := w.start(func(_ *life, when, what string) error {
		if when == "before" && strings.HasPrefix(what, "last ") {
			return lost
		}
		return nil
	})
	w.apply(house(gate.Act), 0)
	if _, err := l.rollBy("one", "house"); !errors.Is(err, lost) || !strings.Contains(err.Error(), "policy house") {
		t.Errorf("refused with %v", err)
	}
}

func TestAPolicyThatIsTooSlowForTheWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	endless := house(gate.Act)
	endless.Step.Deadline = 0
	w.apply(endless, 0)
	w.config.Window = 69 * time.Minute // standard needs two steps of 35 minutes
	l := w.start(nil)
	for policy, want := range map[string]string{"standard": rollout.ProblemPolicyWindow, "house": rollout.ProblemEndless} {
		problems := l.plan(policy).GetProblems()
		if len(problems) != 1 || problems[0].GetId() != want {
			t.Errorf("%s: problems are %v, want %s", policy, problems, want)
		}
		_, err := l.rollBy("with-"+policy, policy)
		refused(t, err, "LS-ROL-012")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: refused with %v, want %s", policy, err, want)
		}
	}
	if problems := l.plan("fast").GetProblems(); len(problems) > 0 {
		t.Errorf("fast: %v", problems)
	}
}

// What follows is the policy's word, whatever the verdict is.
func TestTheConsequenceDecides(t *testing.T) {
	t.Parallel()
	held := slices.Concat(back()[:5], []string{"paris.ClusterHeldBack", "RolloutHeld"})
	for _, test := range []struct {
		mode  gate.Mode
		phase rollout.Phase
		facts []string
	}{
		{gate.Shadow, rollout.PhaseSucceeded, good("paris")},
		{gate.Advise, rollout.PhaseSucceeded, good("paris")},
		{gate.Holds, rollout.PhaseHeld, held},
		{gate.Act, rollout.PhaseHeld, back()},
	} {
		t.Run(string(test.mode), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.apply(house(test.mode), 0)
			l := w.start(nil)
			r, err := l.rollBy("one", "house")
			if err != nil {
				t.Fatal(err)
			}
			id := r.GetId()
			w.conclude(id, "paris", "gateway", l.awaitGate(id, "paris", "gateway"), gate.Fail, test.mode.Consequence(gate.Fail))
			if test.phase == rollout.PhaseSucceeded {
				w.conclude(id, "paris", "sra", l.awaitGate(id, "paris", "sra"), gate.Inconclusive, test.mode.Consequence(gate.Inconclusive))
			}
			l.awaitPhase(id, test.phase)
			same(t, "facts", test.facts, w.facts(id))
		})
	}
}

func TestARepeatedStartKeepsItsPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	revision := w.apply(house(gate.Shadow), 0)
	l := w.start(nil)
	first, err := l.rollBy("one", "house")
	if err != nil {
		t.Fatal(err)
	}
	w.apply(house(gate.Act), revision)
	again, err := l.rollBy("one", "house")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "id", first.GetId(), again.GetId())
	same(t, "mode", string(gate.Shadow), again.GetPlan().GetPolicy().GetMode())
	for _, other := range []string{"", "fast", "hose"} {
		_, err := l.rollBy("one", other)
		refused(t, err, "LS-ROL-022")
		if err == nil || !strings.Contains(err.Error(), "on paris by gate policy house already") {
			t.Errorf("refused with %v", err)
		}
	}
}

// A wave that is judged keeps the next from beginning, and its clusters from other
// rollouts. When it fails the cluster at fault goes back, and a person decides.
func TestAWaveIsJudgedBeforeTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	resp, err := l.api.StartRollout(t.Context(), &rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "judged", Policy: "fast", Strategy: &rolloutv1.Strategy{
		Waves: []*rolloutv1.WaveSize{{By: &rolloutv1.WaveSize_Clusters{Clusters: 1}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	id := resp.GetRollout().GetId()
	pass := func(cluster string) {
		for _, step := range []string{"gateway", "sra"} {
			w.conclude(id, cluster, step, l.awaitGate(id, cluster, step), gate.Pass, gate.GoOn)
		}
	}
	pass("paris")
	first, second := rollout.WaveGateID(rollout.ID(id), 0), rollout.WaveGateID(rollout.ID(id), 1)
	await(t, "the gate of the first wave", func() bool { return l.get(id).GetWaveGate() == first })
	same(t, "while the first wave is judged", "running, paris succeeded, rome waiting", phases(l.get(id)))
	_, err = l.rollBy("another", "fast")
	refusedFor(t, err, "LS-ROL-012", rollout.ProblemBusy+" paris", id)
	l.stop()
	l = w.start(nil)
	w.conclude(id, "", "wave", first, gate.Pass, gate.GoOn)
	pass("rome")
	await(t, "the gate of the second wave", func() bool { return l.get(id).GetWaveGate() == second })
	w.conclude(id, "", "wave", second, gate.Fail, gate.RollBack, "rome")
	l.awaitPhase(id, rollout.PhaseHeld)
	r := l.get(id)
	same(t, "after the second wave failed", "held, paris succeeded, rome rolled_back", phases(r))
	if !strings.Contains(r.GetReason(), "the gate of wave 2 by policy fast failed: as the test says") {
		t.Errorf("it is held because %s", r.GetReason())
	}
}
