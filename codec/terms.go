package codec

import (
	"maps"
	"slices"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// TermsToProto encodes what a step is judged by besides the statistics.
func TermsToProto(t gate.Terms) *gatev1.Terms {
	m := &gatev1.Terms{Policy: t.Policy, Mode: string(t.Mode), Stage: StageToProto(t.Stage), Expected: ExpectationToProto(t.Expected)}
	for _, c := range t.Controls {
		m.Controls = append(m.Controls, &gatev1.Control{Cluster: string(c.Cluster), Aside: spansToProto(c.Aside)})
	}
	return m
}

// TermsFromProto decodes what a step is judged by. A gate that was opened without
// terms is judged as policy alone asks.
func TermsFromProto(m *gatev1.Terms, policy gate.Policy) gate.Terms {
	if m == nil {
		return gate.DefaultTerms(policy)
	}
	t := gate.Terms{
		Policy: m.GetPolicy(), Mode: gate.Mode(m.GetMode()), Stage: StageFromProto(m.GetStage()), Expected: ExpectationFromProto(m.GetExpected()),
	}
	for _, c := range m.GetControls() {
		t.Controls = append(t.Controls, gate.Control{Cluster: fleet.ClusterID(c.GetCluster()), Aside: spansFromProto(c.GetAside())})
	}
	return t
}

// GatePlanToProto encodes a gate policy that has a name.
func GatePlanToProto(p gate.Plan) *gatev1.Plan {
	return &gatev1.Plan{
		Name: p.Name, Mode: string(p.Mode), Statistics: PolicyToProto(p.Statistics), Step: StageToProto(p.Step), Wave: StageToProto(p.Wave),
	}
}

// GatePlanFromProto decodes a gate policy that has a name.
func GatePlanFromProto(m *gatev1.Plan) gate.Plan {
	return gate.Plan{
		Name: m.GetName(), Mode: gate.Mode(m.GetMode()), Statistics: PolicyFromProto(m.GetStatistics()),
		Step: StageFromProto(m.GetStep()), Wave: StageFromProto(m.GetWave()),
	}
}

// StageToProto encodes what is asked at one place, checks in the order in which they
// are told.
func StageToProto(s gate.Stage) *gatev1.Stage {
	m := &gatev1.Stage{Deadline: duration(s.Deadline), Soak: duration(s.Soak)}
	for _, check := range listed(s) {
		policy := s.Checks[check]
		m.Checks = append(m.Checks, &gatev1.CheckDemand{
			Check: string(check), Demand: string(policy.Demand), SustainFor: duration(policy.Sustain.For), SustainLooks: int32(policy.Sustain.Looks),
		})
	}
	for _, r := range s.Rules {
		m.Rules = append(m.Rules, &gatev1.HouseRule{Name: r.Name, When: r.When, Verdict: string(r.Verdict), Reason: r.Reason})
	}
	return m
}

// listed are the checks that a stage lists, those that this build does not know
// last.
func listed(s gate.Stage) []gate.CheckName {
	var out []gate.CheckName
	for _, check := range gate.CheckNames() {
		if _, there := s.Checks[check]; there {
			out = append(out, check)
		}
	}
	for _, check := range slices.Sorted(maps.Keys(s.Checks)) {
		if !slices.Contains(gate.CheckNames(), check) {
			out = append(out, check)
		}
	}
	return out
}

// StageFromProto decodes what is asked at one place.
func StageFromProto(m *gatev1.Stage) gate.Stage {
	s := gate.Stage{Checks: make(map[gate.CheckName]gate.CheckPolicy, len(m.GetChecks())), Deadline: m.GetDeadline().AsDuration(), Soak: m.GetSoak().AsDuration()}
	for _, c := range m.GetChecks() {
		s.Checks[gate.CheckName(c.GetCheck())] = gate.CheckPolicy{
			Demand: gate.Demand(c.GetDemand()), Sustain: gate.Sustain{For: c.GetSustainFor().AsDuration(), Looks: int(c.GetSustainLooks())},
		}
	}
	for _, r := range m.GetRules() {
		s.Rules = append(s.Rules, gate.Rule{Name: r.GetName(), When: r.GetWhen(), Verdict: gate.Verdict(r.GetVerdict()), Reason: r.GetReason()})
	}
	return s
}

// ExpectationToProto encodes what a step should be found to have done. Of who took a
// risk the name goes along; why, until when and for what is in the catalogue.
func ExpectationToProto(e gate.Expectation) *gatev1.Expectation {
	m := &gatev1.Expectation{Complete: e.Complete, Window: duration(e.Window), RisksAt: timestamp(e.RisksAt), Silence: duration(e.Silence)}
	for line, version := range e.Versions {
		if m.Versions == nil {
			m.Versions = make(map[string]string, len(e.Versions))
		}
		m.Versions[string(line)] = version
	}
	for _, component := range slices.Sorted(maps.Keys(e.Digests)) {
		m.Images = append(m.Images, &gatev1.PlannedImage{Component: string(component), Digests: e.Digests[component]})
	}
	for _, c := range e.Checks {
		m.Checks = append(m.Checks, &gatev1.ConfiguredCheck{Name: c.Name, Kind: string(c.Kind)})
	}
	for _, a := range e.Risks {
		risk := &gatev1.RiskAssessment{Risk: string(a.Risk), Condition: string(a.Condition), Detail: a.Detail, Remedy: a.Remedy}
		if a.Acknowledged != nil {
			risk.AcknowledgedBy = a.Acknowledged.Owner
		}
		m.Risks = append(m.Risks, risk)
	}
	return m
}

// ExpectationFromProto decodes what a step should be found to have done.
func ExpectationFromProto(m *gatev1.Expectation) gate.Expectation {
	e := gate.Expectation{
		Complete: m.GetComplete(), Window: m.GetWindow().AsDuration(), RisksAt: instant(m.GetRisksAt()), Silence: m.GetSilence().AsDuration(),
	}
	for line, version := range m.GetVersions() {
		if e.Versions == nil {
			e.Versions = make(fleet.VersionSet, len(m.GetVersions()))
		}
		e.Versions[fleet.Line(line)] = version
	}
	for _, image := range m.GetImages() {
		if e.Digests == nil {
			e.Digests = make(map[fleet.Component][]string, len(m.GetImages()))
		}
		e.Digests[fleet.Component(image.GetComponent())] = image.GetDigests()
	}
	for _, c := range m.GetChecks() {
		e.Checks = append(e.Checks, gate.ConfiguredCheck{Name: c.GetName(), Kind: fleet.CheckKind(c.GetKind())})
	}
	for _, a := range m.GetRisks() {
		e.Risks = append(e.Risks, assessmentFromProto(a))
	}
	return e
}

func assessmentFromProto(m *gatev1.RiskAssessment) catalog.Assessment {
	a := catalog.Assessment{
		Risk: catalog.RiskID(m.GetRisk()), Condition: catalog.Condition(m.GetCondition()), Detail: m.GetDetail(), Remedy: m.GetRemedy(),
	}
	if risk, known := catalog.LookupRisk(a.Risk); known {
		a.Title = risk.Title
	}
	if owner := m.GetAcknowledgedBy(); owner != "" {
		a.Acknowledged = &catalog.Acknowledgement{Risk: a.Risk, Owner: owner}
	}
	a.Closed = a.Condition != catalog.ConditionNoMatch && a.Acknowledged == nil
	return a
}

// ResultToProto encodes what a check says and what is demanded of it.
func ResultToProto(r gate.Result, demand gate.Demand) *gatev1.CheckResult {
	return &gatev1.CheckResult{
		Check: string(r.Check), Demand: string(demand), Verdict: string(r.Verdict), Reasons: reasonsToProto(r.Reasons), Text: r.Text,
		At: timestamp(r.At), Figures: r.Figures,
	}
}

// ResultFromProto decodes what a check says and what is demanded of it.
func ResultFromProto(m *gatev1.CheckResult) (gate.Result, gate.Demand) {
	r := gate.Result{
		Check: gate.CheckName(m.GetCheck()), Verdict: gate.Verdict(m.GetVerdict()), Text: m.GetText(), At: instant(m.GetAt()), Figures: m.GetFigures(),
	}
	for _, reason := range m.GetReasons() {
		r.Reasons = append(r.Reasons, gate.Reason{Code: gate.Code(reason.GetCode()), Text: reason.GetText()})
	}
	return r, gate.Demand(m.GetDemand())
}
