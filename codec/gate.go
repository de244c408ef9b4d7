package codec

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// PolicyToProto encodes a gate policy.
func PolicyToProto(p gate.Policy) *gatev1.Policy {
	return &gatev1.Policy{
		Alpha: p.Alpha, Beta: p.Beta, Tolerance: p.Tol, Margin: p.Margin, AcceptableRate: p.AcceptableRate, FloorRate: p.FloorRate,
		Partners: int32(p.Partners), PlannedTrials: int32(p.PlannedTrials), Maturation: durationpb.New(p.Maturation),
		BurstWindow: durationpb.New(p.BurstWindow), Bucket: durationpb.New(p.Bucket), Deadline: durationpb.New(p.Deadline), MaxLate: p.MaxLate,
	}
}

// PolicyFromProto decodes a gate policy; gate.Policy.Validate judges it.
func PolicyFromProto(m *gatev1.Policy) gate.Policy {
	return gate.Policy{
		Alpha: m.GetAlpha(), Beta: m.GetBeta(), Tol: m.GetTolerance(), Margin: m.GetMargin(), AcceptableRate: m.GetAcceptableRate(),
		FloorRate: m.GetFloorRate(), Partners: int(m.GetPartners()), PlannedTrials: int(m.GetPlannedTrials()),
		Maturation: m.GetMaturation().AsDuration(), BurstWindow: m.GetBurstWindow().AsDuration(),
		Bucket: m.GetBucket().AsDuration(), Deadline: m.GetDeadline().AsDuration(), MaxLate: m.GetMaxLate(),
	}
}

// BoundaryToProto encodes the times that part the arms.
func BoundaryToProto(b gate.Boundary) *gatev1.Boundary {
	return &gatev1.Boundary{
		BaselineFrom: timestamp(b.BaselineFrom), Start: timestamp(b.Start), End: timestamp(b.End), Aside: spansToProto(b.Aside),
	}
}

// BoundaryFromProto decodes the times that part the arms.
func BoundaryFromProto(m *gatev1.Boundary) gate.Boundary {
	return gate.Boundary{
		BaselineFrom: instant(m.GetBaselineFrom()), Start: instant(m.GetStart()), End: instant(m.GetEnd()), Aside: spansFromProto(m.GetAside()),
	}
}

func spansToProto(spans []gate.Span) []*gatev1.Span {
	var out []*gatev1.Span
	for _, s := range spans {
		out = append(out, &gatev1.Span{From: timestamp(s.From), To: timestamp(s.To)})
	}
	return out
}

func spansFromProto(spans []*gatev1.Span) []gate.Span {
	var out []gate.Span
	for _, s := range spans {
		out = append(out, gate.Span{From: instant(s.GetFrom()), To: instant(s.GetTo())})
	}
	return out
}

// StepDecisionToProto encodes what a step's gate says, with the figures people read.
// A decidedAt of zero is a decision not taken yet.
func StepDecisionToProto(d gate.StepDecision, stage gate.Stage, policy gate.Policy, decidedAt time.Time, deadlinePassed bool) *gatev1.Decision {
	m := &gatev1.Decision{
		Verdict: string(d.Verdict), Summary: d.Summary(), Reasons: reasonsToProto(d.Reasons),
		Evidence: evidenceToProto(d.Sessions, policy), Probes: evidenceToProto(d.Probes, policy),
		CompleteUntil: timestamp(d.Watermark.CompleteUntil), StreamSequence: d.Watermark.Seq,
		PolicyHash: d.Sessions.PolicyHash, EvidenceHash: d.Sessions.Hash, DecidedAt: timestamp(decidedAt), DeadlinePassed: deadlinePassed,
		Consequence: string(d.Consequence), StageHash: d.StageDecision.Hash,
	}
	for _, r := range d.Results {
		m.Checks = append(m.Checks, ResultToProto(r, stage.Asks(r.Check)))
	}
	m.Controls = controlsToProto(d.Controls, d.ControlsHash)
	return m
}

// controlsToProto encodes what controls say; nil where none was asked.
func controlsToProto(controls []gate.ControlEvidence, hash string) *gatev1.ControlsHeard {
	if hash == "" {
		return nil
	}
	m := &gatev1.ControlsHeard{Hash: hash}
	for _, c := range controls {
		now, before := c.Evidence.New, c.Evidence.Baseline
		m.Clusters = append(m.Clusters, &gatev1.ControlHeard{
			Cluster: string(c.Cluster), StreamSequence: c.Watermark.Seq, NewFailed: int64(now.Failed), NewSucceeded: int64(now.Succeeded),
			BaselineFailed: int64(before.Failed), BaselineSucceeded: int64(before.Succeeded),
		})
	}
	return m
}

// WaveDecisionToProto encodes what the gate of a wave says, as StepDecisionToProto does
// of a step's.
func WaveDecisionToProto(d gate.WaveStageDecision, stage gate.Stage, policy gate.Policy, decidedAt time.Time, deadlinePassed bool) *gatev1.Decision {
	people := gate.Decision{Evidence: d.Sessions.Evidence, Odds: d.Sessions.Odds, Needed: d.Sessions.Needed}
	m := &gatev1.Decision{
		Verdict: string(d.Verdict), Summary: d.Summary(), Reasons: reasonsToProto(d.Reasons),
		Evidence: evidenceToProto(people, policy), CompleteUntil: timestamp(d.Watermark.CompleteUntil), StreamSequence: d.Watermark.Seq,
		PolicyHash: d.Sessions.PolicyHash, EvidenceHash: d.Sessions.Hash, DecidedAt: timestamp(decidedAt), DeadlinePassed: deadlinePassed,
		Consequence: string(d.Consequence), StageHash: d.StageDecision.Hash, Controls: controlsToProto(d.Controls, d.ControlsHash),
	}
	for _, r := range d.Results {
		m.Checks = append(m.Checks, ResultToProto(r, stage.Asks(r.Check)))
	}
	for _, c := range d.Members {
		now, before := c.Evidence.New, c.Evidence.Baseline
		heard := &gatev1.MemberHeard{
			Cluster: string(c.Cluster), StreamSequence: c.Watermark.Seq, Verdict: string(c.Verdict), Code: string(c.Code), Named: c.Named,
			RolledBack: c.RolledBack, Back: c.Back, NewFailed: int64(now.Failed), NewSucceeded: int64(now.Succeeded),
			BaselineFailed: int64(before.Failed), BaselineSucceeded: int64(before.Succeeded),
		}
		for _, check := range c.Failed {
			heard.Failed = append(heard.Failed, string(check))
		}
		m.Members = append(m.Members, heard)
	}
	return m
}

func waveToProto(w *gate.WaveTerms) *gatev1.Wave {
	if w == nil {
		return nil
	}
	m := &gatev1.Wave{
		Number: int32(w.Number), Begun: timestamp(w.Begun), Alpha: w.Limits.Alpha, Named: w.Limits.Named, MaxFailures: int32(w.Limits.MaxFailures),
	}
	for _, c := range w.Members {
		m.Members = append(m.Members, &gatev1.WaveMember{
			Cluster: string(c.Cluster), Boundary: BoundaryToProto(c.Boundary), Expected: ExpectationToProto(c.Expected),
			StepsPassed: c.StepsPassed, RolledBack: c.RolledBack, UpTo: c.UpTo,
		})
	}
	return m
}

func waveFromProto(m *gatev1.Wave) *gate.WaveTerms {
	if m == nil {
		return nil
	}
	w := &gate.WaveTerms{
		Number: int(m.GetNumber()), Begun: instant(m.GetBegun()),
		Limits: gate.WaveLimits{Alpha: m.GetAlpha(), Named: m.GetNamed(), MaxFailures: int(m.GetMaxFailures())},
	}
	for _, c := range m.GetMembers() {
		w.Members = append(w.Members, gate.WaveMember{
			Cluster: fleet.ClusterID(c.GetCluster()), Boundary: BoundaryFromProto(c.GetBoundary()), Expected: ExpectationFromProto(c.GetExpected()),
			StepsPassed: c.GetStepsPassed(), RolledBack: c.GetRolledBack(), UpTo: c.GetUpTo(),
		})
	}
	return w
}

func evidenceToProto(d gate.Decision, policy gate.Policy) *gatev1.Evidence {
	e := d.Evidence
	m := &gatev1.Evidence{
		NewFailed: int64(e.New.Failed), NewSucceeded: int64(e.New.Succeeded),
		BaselineFailed: int64(e.Baseline.Failed), BaselineSucceeded: int64(e.Baseline.Succeeded),
		NewUnresolved: int64(e.Unresolved.New), BaselineUnresolved: int64(e.Unresolved.Baseline),
		Cut: int64(e.Cut), Late: int64(e.Late.New + e.Late.Baseline),
		LogERollback: e.LogRollback(policy), LogEPromoteRelative: e.LogPromoteRelative(policy), LogEPromoteAbsolute: e.LogPromoteAbsolute(policy),
		OddsRatio: d.Odds.Estimate, OddsRatioLow: d.Odds.Low, OddsRatioHigh: d.Odds.High,
		SessionsNeeded: int64(max(d.Needed, 0)),
	}
	for _, r := range e.Blocks {
		m.Blocks = append(m.Blocks, &gatev1.Block{
			Na: int32(r.NA), Nb: int32(r.NB), Y: int32(r.Y), Yb: int32(r.YB), Count: int64(r.Count),
		})
	}
	return m
}

func reasonsToProto(reasons []gate.Reason) []*gatev1.Reason {
	var out []*gatev1.Reason
	for _, r := range reasons {
		out = append(out, &gatev1.Reason{Code: string(r.Code), Text: r.Text})
	}
	return out
}

// Chain puts a decision that is about to be recorded behind the one with a hash.
func Chain(gateID string, m *gatev1.Decision, previous string) *gatev1.Decision {
	m.PreviousHash, m.Hash = previous, LinkFromProto(gateID, m).Hash(previous)
	return m
}

// LinkFromProto is what a recorded decision adds to the chain of its cluster.
func LinkFromProto(gateID string, m *gatev1.Decision) gate.Link {
	return gate.Link{
		Gate: gateID, Verdict: gate.Verdict(m.GetVerdict()), PolicyHash: m.GetPolicyHash(), EvidenceHash: m.GetEvidenceHash(),
		Seq: m.GetStreamSequence(), DeadlinePassed: m.GetDeadlinePassed(), StageHash: m.GetStageHash(),
		ControlsHash: m.GetControls().GetHash(),
	}
}

// Gate is an opened gate as its first fact says. That of a wave has no cluster.
type Gate struct {
	ID       string
	Rollout  string
	Cluster  fleet.ClusterID
	Step     string
	Policy   gate.Policy
	Boundary gate.Boundary
	OpenedAt time.Time
	Terms    gate.Terms
	Wave     *gate.WaveTerms // nil for a step's
}

// GateOpenedToProto encodes the first fact of a gate.
func GateOpenedToProto(g Gate) *gatev1.GateOpened {
	return &gatev1.GateOpened{
		Rollout: g.Rollout, Cluster: string(g.Cluster), Step: g.Step,
		Policy: PolicyToProto(g.Policy), Boundary: BoundaryToProto(g.Boundary), At: timestamp(g.OpenedAt), Terms: TermsToProto(g.Terms),
		Wave: waveToProto(g.Wave),
	}
}

// GateOpenedFromProto decodes the first fact of a gate.
func GateOpenedFromProto(id string, m *gatev1.GateOpened) Gate {
	policy := PolicyFromProto(m.GetPolicy())
	return Gate{
		ID: id, Rollout: m.GetRollout(), Cluster: fleet.ClusterID(m.GetCluster()), Step: m.GetStep(),
		Policy: policy, Boundary: BoundaryFromProto(m.GetBoundary()), OpenedAt: instant(m.GetAt()), Terms: TermsFromProto(m.GetTerms(), policy),
		Wave: waveFromProto(m.GetWave()),
	}
}

// GateToProto encodes a gate with the decision, which may be nil.
func GateToProto(g Gate, decision *gatev1.Decision) *gatev1.Gate {
	return &gatev1.Gate{
		Id: g.ID, Rollout: g.Rollout, Cluster: string(g.Cluster), Step: g.Step,
		Policy: PolicyToProto(g.Policy), Boundary: BoundaryToProto(g.Boundary), OpenedAt: timestamp(g.OpenedAt), Decision: decision,
		Terms: TermsToProto(g.Terms), Wave: waveToProto(g.Wave),
	}
}
