package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// planText is a plan for people: what stands in its way, then what it would do.
func (s *shell) planText(res *rolloutv1.PlanRolloutResponse) string {
	p := res.GetPlan()
	var b strings.Builder
	if n := int64(len(res.GetProblems())); n > 0 {
		b.WriteString(plural(n, "Problem") + ":\n")
	}
	for _, problem := range res.GetProblems() {
		parts := make([]string, 0, 3)
		for _, part := range []string{problem.GetId(), problem.GetCluster()} {
			if part != "" {
				parts = append(parts, clean(part))
			}
		}
		fmt.Fprintf(&b, "  %s\n", strings.Join(append(parts, clean(problem.GetText())), ": "))
	}
	if len(p.GetClusters()) == 0 {
		return b.String()
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	pace := "one after the other"
	if n := p.GetMaxConcurrent(); n > 1 {
		pace = fmt.Sprintf("%d at a time", n)
	}
	fmt.Fprintf(&b, "Release %s on %s, %s.\n", clean(p.GetRelease()), count(int64(len(p.GetClusters())), "cluster"), pace)
	for _, line := range waveLines(p) {
		b.WriteString(line + ".\n")
	}
	if n := p.GetMaxFailures(); n > 0 {
		fmt.Fprintf(&b, "It goes on by itself while no more than %s went back.\n", count(int64(n), "cluster"))
	}
	b.WriteByte('\n')
	t := &table{header: []string{"CLUSTER", "STEP", "FROM", "TO", "COMPONENTS", "IMAGE"}}
	for _, c := range p.GetClusters() {
		if len(c.GetSteps()) == 0 {
			t.add(c.GetCluster(), "nothing to do", "", "", "", "")
		}
		for i, step := range c.GetSteps() {
			name := c.GetCluster()
			if i > 0 {
				name = " "
			}
			t.add(name, step.GetName(), step.GetFromVersion(), step.GetToVersion(), strings.Join(step.GetComponents(), ", "), step.GetImage())
		}
	}
	b.WriteString(t.render(false) + "\n")
	for _, c := range res.GetChanges() {
		fmt.Fprintf(&b, "What Helm changes in %s; contents of Secrets are not told:\n", clean(c.GetCluster()))
		for _, line := range c.GetLines() {
			b.WriteString("  " + clean(line) + "\n")
		}
		b.WriteByte('\n')
	}
	if p.GetWindow() != nil {
		fmt.Fprintf(&b, "Window  one cluster may be mixed for %s, from its first step to its end.\n", length(p.GetWindow()))
	}
	if p.GetPolicy() != nil {
		fmt.Fprintf(&b, "Policy  %s.\n", modeWords(p.GetPolicy()))
	}
	if p.GetGate() != nil {
		b.WriteString("Gate    after every step:\n")
		sentences := policyWords(p.GetGate())
		if p.GetPolicy() != nil {
			sentences = stageWords(p.GetPolicy().GetStep())
		}
		for _, sentence := range sentences {
			b.WriteString("          " + sentence + "\n")
		}
		fmt.Fprintf(&b, "        The baseline is sessions that started up to %s before the cluster is first touched.\n", length(p.GetLookback()))
	}
	if st := p.GetPolicy().GetWave(); codec.StageFromProto(st).Demands() {
		when := "at the end of every wave, of its clusters together"
		if len(p.GetWaves()) == 0 {
			when = "at the end, of all clusters together"
		}
		b.WriteString("        " + when + ":\n")
		for _, sentence := range stageWords(st) {
			b.WriteString("          " + sentence + "\n")
		}
	}
	if hash := res.GetPlanHash(); hash != "" && len(res.GetProblems()) == 0 {
		fmt.Fprintf(&b, "Plan    %s\n", clean(hash))
	}
	return b.String()
}

// policyWords says what a gate policy does.
func policyWords(p *gatev1.Policy) []string {
	back := "It rolls back when failing has become more likely than tolerated"
	if p.GetTolerance() > 1 {
		back = fmt.Sprintf("It rolls back when the odds of a session failing are more than %s times the baseline's", figure(p.GetTolerance()))
	}
	list := []string{
		fmt.Sprintf("%s and at least %s of new sessions fail; wrong in at most 1 of %s gates.", back, percent(p.GetFloorRate()), thousands(1/p.GetAlpha())),
		fmt.Sprintf("It passes when those odds are shown to be below %s times, or the failure rate below %s; wrong in at most 1 of %s.", figure(p.GetMargin()), percent(p.GetAcceptableRate()), thousands(1/p.GetBeta())),
		fmt.Sprintf("Neither within %s is inconclusive, and the rollout holds. More than %s late sessions are inconclusive too.", length(p.GetDeadline()), percent(p.GetMaxLate())),
		fmt.Sprintf("Each new session is set against up to %d from before. It has %s to come to an outcome; retries within %s count once.", p.GetPartners(), length(p.GetMaturation()), length(p.GetBurstWindow())),
	}
	return list
}

// modeWords names a policy and says what follows from what it says.
func modeWords(p *gatev1.Plan) string {
	words := fmt.Sprintf("%s, in mode %s", clean(p.GetName()), clean(p.GetMode()))
	switch gate.Mode(p.GetMode()) {
	case gate.Shadow:
		return words + ": verdicts are recorded, and the rollout goes on whatever they are"
	case gate.Advise:
		return words + ": people are told what does not pass, and the rollout goes on"
	case gate.Holds:
		return words + ": what does not pass holds the rollout, and nothing goes back by itself"
	case gate.Act:
		return words + ": what fails is rolled back, and what else does not pass holds the rollout"
	}
	return words
}

// stageWords says what a stage of a policy asks.
func stageWords(st *gatev1.Stage) []string {
	demanded := make(map[gate.Demand][]string)
	for _, c := range st.GetChecks() {
		demand := gate.Demand(c.GetDemand())
		demanded[demand] = append(demanded[demand], clean(c.GetCheck()))
	}
	var list []string
	for _, of := range []struct {
		demand gate.Demand
		says   string
	}{
		{gate.DemandPass, "These checks have to pass: %s."},
		{gate.DemandNoFail, "These must not fail: %s."},
		{gate.DemandAdvisory, "These are told and decide nothing: %s."},
	} {
		if checks := demanded[of.demand]; len(checks) > 0 {
			list = append(list, fmt.Sprintf(of.says, strings.Join(checks, ", ")))
		}
	}
	if n := int64(len(st.GetRules())); n > 0 {
		list = append(list, count(n, "house rule")+" may object.")
	}
	if st.GetSoak().AsDuration() > 0 {
		list = append(list, fmt.Sprintf("It passes no earlier than after %s.", length(st.GetSoak())))
	}
	if st.GetDeadline().AsDuration() > 0 {
		list = append(list, fmt.Sprintf("What is not decided within %s is inconclusive.", length(st.GetDeadline())))
	}
	return list
}

// figure is a number with at most three digits that matter.
func figure(v float64) string { return strconv.FormatFloat(v, 'g', 3, 64) }

func percent(v float64) string { return figure(v*100) + " %" }

func count(n int64, noun string) string { return fmt.Sprintf("%d %s", n, plural(n, noun)) }

func plural(n int64, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
