package codec

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	commandv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/command/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// PlanToProto encodes a plan.
func PlanToProto(p rollout.Plan) *rolloutv1.Plan {
	m := &rolloutv1.Plan{
		Release: string(p.Release), Gate: PolicyToProto(p.Gate),
		Window: durationpb.New(p.Window), Lookback: durationpb.New(p.Lookback),
	}
	if p.Policy != nil {
		m.Policy = GatePlanToProto(*p.Policy)
	}
	m.MaxConcurrent, m.MaxFailures = int32(p.MaxConcurrent), int32(p.MaxFailures)
	for _, w := range p.Waves {
		m.Waves = append(m.Waves, &rolloutv1.Wave{Name: w.Name, Clusters: int32(w.Clusters), Soak: duration(w.Soak)})
	}
	for _, c := range p.Clusters {
		cluster := &rolloutv1.ClusterPlan{Cluster: string(c.Cluster), Aside: spansToProto(c.Aside), Values: c.Values}
		if c.Chart != (rollout.Chart{}) {
			cluster.Chart = &rolloutv1.Chart{Name: c.Chart.Name, Version: c.Chart.Version, Digest: c.Chart.Digest, Source: c.Chart.Source}
		}
		for _, s := range c.Steps {
			step := &rolloutv1.StepPlan{Name: s.Name, Line: string(s.Line), FromVersion: s.FromVersion, ToVersion: s.ToVersion, Image: s.Image}
			for _, component := range s.Components {
				step.Components = append(step.Components, string(component))
			}
			cluster.Steps = append(cluster.Steps, step)
		}
		m.Clusters = append(m.Clusters, cluster)
	}
	return m
}

// PlanHash names a plan by its content, "sha256:…". Two plans of one hash bring the same
// from the same, in the same order, and are judged alike. The times at which earlier
// rollouts moved a cluster are left out: they grow older by themselves.
func PlanHash(p rollout.Plan) (string, error) {
	m := PlanToProto(p)
	for _, c := range m.GetClusters() {
		c.Aside = nil
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "", fmt.Errorf("naming a plan by its content: %w", err)
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// PlanFromProto decodes a plan.
func PlanFromProto(m *rolloutv1.Plan) rollout.Plan {
	p := rollout.Plan{
		Release: fleet.ReleaseID(m.GetRelease()), Gate: PolicyFromProto(m.GetGate()),
		Window: m.GetWindow().AsDuration(), Lookback: m.GetLookback().AsDuration(),
	}
	if m.GetPolicy() != nil {
		policy := GatePlanFromProto(m.GetPolicy())
		p.Policy = &policy
	}
	p.MaxConcurrent, p.MaxFailures = int(m.GetMaxConcurrent()), int(m.GetMaxFailures())
	for _, w := range m.GetWaves() {
		p.Waves = append(p.Waves, rollout.Wave{Name: w.GetName(), Clusters: int(w.GetClusters()), Soak: w.GetSoak().AsDuration()})
	}
	for _, c := range m.GetClusters() {
		cluster := rollout.ClusterPlan{
			Cluster: fleet.ClusterID(c.GetCluster()), Aside: spansFromProto(c.GetAside()), Chart: chartFromProto(c.GetChart()), Values: c.GetValues(),
		}
		for _, s := range c.GetSteps() {
			step := rollout.StepPlan{
				Name: s.GetName(), Line: fleet.Line(s.GetLine()), FromVersion: s.GetFromVersion(), ToVersion: s.GetToVersion(), Image: s.GetImage(),
			}
			for _, component := range s.GetComponents() {
				step.Components = append(step.Components, fleet.Component(component))
			}
			cluster.Steps = append(cluster.Steps, step)
		}
		p.Clusters = append(p.Clusters, cluster)
	}
	return p
}

// chartFromProto decodes a chart, which a plan and a command say alike.
func chartFromProto(m interface {
	GetName() string
	GetVersion() string
	GetDigest() string
	GetSource() string
}) rollout.Chart {
	return rollout.Chart{Name: m.GetName(), Version: m.GetVersion(), Digest: m.GetDigest(), Source: m.GetSource()}
}

// StrategyFromProto decodes how far and how fast a rollout goes by itself. A selector
// that cannot be read is an error.
func StrategyFromProto(m *rolloutv1.Strategy) (rollout.Strategy, error) {
	s := rollout.Strategy{MaxConcurrent: int(m.GetMaxConcurrent()), MaxFailures: int(m.GetMaxFailures()), Soak: m.GetSoak().AsDuration()}
	for _, w := range m.GetWaves() {
		size := rollout.WaveSize{Clusters: int(w.GetClusters()), Percent: int(w.GetPercent()), Text: w.GetLabelSelector()}
		var err error
		if size.Labels, err = fleet.ParseSelector(size.Text); err != nil {
			return rollout.Strategy{}, err
		}
		s.Waves = append(s.Waves, size)
	}
	return s, nil
}

// RolloutFactToProto encodes one fact of a rollout.
func RolloutFactToProto(f rollout.Fact) *rolloutv1.Fact {
	m := &rolloutv1.Fact{At: timestamp(f.At), Cluster: string(f.Cluster)}
	switch k := f.Kind.(type) {
	case rollout.RolloutStarted:
		m.Kind = &rolloutv1.Fact_RolloutStarted{RolloutStarted: &rolloutv1.RolloutStarted{Plan: PlanToProto(k.Plan), RequestId: k.RequestID}}
	case rollout.ClusterStarted:
		m.Kind = &rolloutv1.Fact_ClusterStarted{ClusterStarted: &rolloutv1.ClusterStarted{WindowEnds: timestamp(k.WindowEnds)}}
	case rollout.PackageCaptured:
		m.Kind = &rolloutv1.Fact_PackageCaptured{PackageCaptured: &rolloutv1.PackageCaptured{Package: k.Package}}
	case rollout.StepStarted:
		m.Kind = &rolloutv1.Fact_StepStarted{StepStarted: &rolloutv1.StepStarted{Step: k.Step}}
	case rollout.StepApplied:
		m.Kind = &rolloutv1.Fact_StepApplied{StepApplied: &rolloutv1.StepApplied{
			Step: k.Step, Gate: k.Gate, Package: k.Package, Boundary: BoundaryToProto(k.Boundary), Policy: PolicyToProto(k.Policy),
		}}
	case rollout.StepPassed:
		m.Kind = &rolloutv1.Fact_StepPassed{StepPassed: &rolloutv1.StepPassed{Step: k.Step}}
	case rollout.ClusterHeldBack:
		m.Kind = &rolloutv1.Fact_ClusterHeld{ClusterHeld: &rolloutv1.ClusterHeld{Reason: k.Reason}}
	case rollout.RollbackStarted:
		m.Kind = &rolloutv1.Fact_RollbackStarted{RollbackStarted: &rolloutv1.RollbackStarted{Reason: k.Reason}}
	case rollout.ClusterDone:
		m.Kind = &rolloutv1.Fact_ClusterSucceeded{ClusterSucceeded: &rolloutv1.ClusterSucceeded{Release: string(k.Release), Package: k.Package}}
	case rollout.ClusterRestored:
		m.Kind = &rolloutv1.Fact_ClusterRolledBack{ClusterRolledBack: &rolloutv1.ClusterRolledBack{}}
	case rollout.ClusterLost:
		m.Kind = &rolloutv1.Fact_ClusterFailed{ClusterFailed: &rolloutv1.ClusterFailed{Reason: k.Reason}}
	case rollout.ClusterSkipped:
		m.Kind = &rolloutv1.Fact_ClusterSkipped{ClusterSkipped: &rolloutv1.ClusterSkipped{Reason: k.Reason}}
	case rollout.WaveStarted:
		m.Kind = &rolloutv1.Fact_WaveStarted{WaveStarted: &rolloutv1.WaveStarted{Wave: int32(k.Wave)}}
	case rollout.WaveSoaking:
		m.Kind = &rolloutv1.Fact_WaveSoaking{WaveSoaking: &rolloutv1.WaveSoaking{Wave: int32(k.Wave), Ends: timestamp(k.Ends)}}
	case rollout.WaveGated:
		m.Kind = &rolloutv1.Fact_WaveGated{WaveGated: &rolloutv1.WaveGated{Wave: int32(k.Wave), Gate: k.Gate}}
	case rollout.WavePassed:
		m.Kind = &rolloutv1.Fact_WavePassed{WavePassed: &rolloutv1.WavePassed{Wave: int32(k.Wave)}}
	case rollout.WaveFailed:
		m.Kind = &rolloutv1.Fact_WaveFailed{WaveFailed: &rolloutv1.WaveFailed{Wave: int32(k.Wave), Reason: k.Reason}}
	case rollout.RolloutPaused:
		m.Kind = &rolloutv1.Fact_RolloutPaused{RolloutPaused: &rolloutv1.RolloutPaused{Reason: k.Reason, RequestId: k.RequestID}}
	case rollout.RolloutResumed:
		m.Kind = &rolloutv1.Fact_RolloutResumed{RolloutResumed: &rolloutv1.RolloutResumed{Reason: k.Reason, RequestId: k.RequestID}}
	case rollout.RolloutHolding:
		m.Kind = &rolloutv1.Fact_RolloutHolding{RolloutHolding: &rolloutv1.RolloutHolding{Reason: k.Reason}}
	case rollout.RolloutContinued:
		m.Kind = &rolloutv1.Fact_RolloutContinued{RolloutContinued: &rolloutv1.RolloutContinued{}}
	case rollout.AbortRequested:
		m.Kind = &rolloutv1.Fact_AbortRequested{AbortRequested: &rolloutv1.AbortRequested{Reason: k.Reason}}
	case rollout.RolloutAborted:
		m.Kind = &rolloutv1.Fact_RolloutAborted{RolloutAborted: &rolloutv1.RolloutAborted{}}
	case rollout.RolloutHeld:
		m.Kind = &rolloutv1.Fact_RolloutHeld{RolloutHeld: &rolloutv1.RolloutHeld{Reason: k.Reason}}
	case rollout.RolloutSucceeded:
		m.Kind = &rolloutv1.Fact_RolloutSucceeded{RolloutSucceeded: &rolloutv1.RolloutSucceeded{}}
	case rollout.RollbackRequested:
		m.Kind = &rolloutv1.Fact_RollbackRequested{RollbackRequested: &rolloutv1.RollbackRequested{Reason: k.Reason, RequestId: k.RequestID}}
	case rollout.RolloutRolledBack:
		m.Kind = &rolloutv1.Fact_RolloutRolledBack{RolloutRolledBack: &rolloutv1.RolloutRolledBack{}}
	case rollout.RolloutFailed:
		m.Kind = &rolloutv1.Fact_RolloutFailed{RolloutFailed: &rolloutv1.RolloutFailed{Reason: k.Reason}}
	}
	return m
}

// RolloutFactFromProto decodes one fact; a kind this build does not know is an
// error.
func RolloutFactFromProto(m *rolloutv1.Fact) (rollout.Fact, error) {
	f := rollout.Fact{At: instant(m.GetAt()), Cluster: fleet.ClusterID(m.GetCluster())}
	switch k := m.GetKind().(type) {
	case *rolloutv1.Fact_RolloutStarted:
		f.Kind = rollout.RolloutStarted{Plan: PlanFromProto(k.RolloutStarted.GetPlan()), RequestID: k.RolloutStarted.GetRequestId()}
	case *rolloutv1.Fact_ClusterStarted:
		f.Kind = rollout.ClusterStarted{WindowEnds: instant(k.ClusterStarted.GetWindowEnds())}
	case *rolloutv1.Fact_PackageCaptured:
		f.Kind = rollout.PackageCaptured{Package: k.PackageCaptured.GetPackage()}
	case *rolloutv1.Fact_StepStarted:
		f.Kind = rollout.StepStarted{Step: k.StepStarted.GetStep()}
	case *rolloutv1.Fact_StepApplied:
		s := k.StepApplied
		f.Kind = rollout.StepApplied{
			Step: s.GetStep(), Gate: s.GetGate(), Package: s.GetPackage(), Boundary: BoundaryFromProto(s.GetBoundary()), Policy: PolicyFromProto(s.GetPolicy()),
		}
	case *rolloutv1.Fact_StepPassed:
		f.Kind = rollout.StepPassed{Step: k.StepPassed.GetStep()}
	case *rolloutv1.Fact_ClusterHeld:
		f.Kind = rollout.ClusterHeldBack{Reason: k.ClusterHeld.GetReason()}
	case *rolloutv1.Fact_RollbackStarted:
		f.Kind = rollout.RollbackStarted{Reason: k.RollbackStarted.GetReason()}
	case *rolloutv1.Fact_ClusterSucceeded:
		f.Kind = rollout.ClusterDone{Release: fleet.ReleaseID(k.ClusterSucceeded.GetRelease()), Package: k.ClusterSucceeded.GetPackage()}
	case *rolloutv1.Fact_ClusterRolledBack:
		f.Kind = rollout.ClusterRestored{}
	case *rolloutv1.Fact_ClusterFailed:
		f.Kind = rollout.ClusterLost{Reason: k.ClusterFailed.GetReason()}
	case *rolloutv1.Fact_ClusterSkipped:
		f.Kind = rollout.ClusterSkipped{Reason: k.ClusterSkipped.GetReason()}
	case *rolloutv1.Fact_WaveStarted:
		f.Kind = rollout.WaveStarted{Wave: int(k.WaveStarted.GetWave())}
	case *rolloutv1.Fact_WaveSoaking:
		f.Kind = rollout.WaveSoaking{Wave: int(k.WaveSoaking.GetWave()), Ends: instant(k.WaveSoaking.GetEnds())}
	case *rolloutv1.Fact_WaveGated:
		f.Kind = rollout.WaveGated{Wave: int(k.WaveGated.GetWave()), Gate: k.WaveGated.GetGate()}
	case *rolloutv1.Fact_WavePassed:
		f.Kind = rollout.WavePassed{Wave: int(k.WavePassed.GetWave())}
	case *rolloutv1.Fact_WaveFailed:
		f.Kind = rollout.WaveFailed{Wave: int(k.WaveFailed.GetWave()), Reason: k.WaveFailed.GetReason()}
	case *rolloutv1.Fact_RolloutPaused:
		f.Kind = rollout.RolloutPaused{Reason: k.RolloutPaused.GetReason(), RequestID: k.RolloutPaused.GetRequestId()}
	case *rolloutv1.Fact_RolloutResumed:
		f.Kind = rollout.RolloutResumed{Reason: k.RolloutResumed.GetReason(), RequestID: k.RolloutResumed.GetRequestId()}
	case *rolloutv1.Fact_RolloutHolding:
		f.Kind = rollout.RolloutHolding{Reason: k.RolloutHolding.GetReason()}
	case *rolloutv1.Fact_RolloutContinued:
		f.Kind = rollout.RolloutContinued{}
	case *rolloutv1.Fact_AbortRequested:
		f.Kind = rollout.AbortRequested{Reason: k.AbortRequested.GetReason()}
	case *rolloutv1.Fact_RolloutAborted:
		f.Kind = rollout.RolloutAborted{}
	case *rolloutv1.Fact_RolloutHeld:
		f.Kind = rollout.RolloutHeld{Reason: k.RolloutHeld.GetReason()}
	case *rolloutv1.Fact_RolloutSucceeded:
		f.Kind = rollout.RolloutSucceeded{}
	case *rolloutv1.Fact_RollbackRequested:
		f.Kind = rollout.RollbackRequested{Reason: k.RollbackRequested.GetReason(), RequestID: k.RollbackRequested.GetRequestId()}
	case *rolloutv1.Fact_RolloutRolledBack:
		f.Kind = rollout.RolloutRolledBack{}
	case *rolloutv1.Fact_RolloutFailed:
		f.Kind = rollout.RolloutFailed{Reason: k.RolloutFailed.GetReason()}
	default:
		return rollout.Fact{}, errors.New("decoding a rollout's fact: kind is missing or one that this build does not know")
	}
	return f, nil
}

// RolloutToProto encodes a rollout as it stands.
func RolloutToProto(s rollout.State) *rolloutv1.Rollout {
	m := &rolloutv1.Rollout{
		Id: string(s.ID), Release: string(s.Plan.Release), Phase: string(s.Phase), Reason: s.Reason,
		Plan: PlanToProto(s.Plan), StartedAt: timestamp(s.StartedAt), EndedAt: timestamp(s.EndedAt),
		Wave: int32(s.Wave), SoakEnds: timestamp(s.SoakEnds), Paused: s.Paused, WaveGate: s.WaveGate,
	}
	for _, c := range s.Clusters {
		m.Clusters = append(m.Clusters, &rolloutv1.ClusterRun{
			Cluster: string(c.Plan.Cluster), Phase: string(c.Phase), Step: c.StepName(), Reason: c.Reason,
			WindowEnds: timestamp(c.WindowEnds), BasePackage: c.BasePackage, Gate: c.Gate,
		})
	}
	return m
}

// CommandToProto encodes a command.
func CommandToProto(c rollout.Command) *commandv1.Command {
	m := &commandv1.Command{Key: c.Key, Rollout: string(c.Rollout), Cluster: string(c.Cluster)}
	switch a := c.Action.(type) {
	case rollout.Capture:
		m.Action = &commandv1.Command_Capture{Capture: &commandv1.Capture{}}
	case rollout.Apply:
		apply := &commandv1.Apply{BasePackage: a.BasePackage, Images: make(map[string]*commandv1.Image, len(a.Images)), Values: a.Values}
		if a.Chart != (rollout.Chart{}) {
			apply.Chart = &commandv1.Chart{Name: a.Chart.Name, Version: a.Chart.Version, Digest: a.Chart.Digest, Source: a.Chart.Source}
		}
		for component, image := range a.Images {
			apply.Images[string(component)] = &commandv1.Image{Ref: image.Ref, Version: image.Version}
		}
		m.Action = &commandv1.Command_Apply{Apply: apply}
	case rollout.Restore:
		m.Action = &commandv1.Command_Restore{Restore: &commandv1.Restore{Package: a.Package}}
	}
	return m
}

// CommandFromProto decodes a command; one without a key, a cluster or a known
// action is an error.
func CommandFromProto(m *commandv1.Command) (rollout.Command, error) {
	c := rollout.Command{Key: m.GetKey(), Rollout: rollout.ID(m.GetRollout()), Cluster: fleet.ClusterID(m.GetCluster())}
	switch "" {
	case c.Key:
		return rollout.Command{}, errors.New("decoding a command: key is empty")
	case string(c.Rollout):
		return rollout.Command{}, fmt.Errorf("decoding command %s: rollout is empty", c.Key)
	case string(c.Cluster):
		return rollout.Command{}, fmt.Errorf("decoding command %s: cluster is empty", c.Key)
	}
	switch a := m.GetAction().(type) {
	case *commandv1.Command_Capture:
		c.Action = rollout.Capture{}
	case *commandv1.Command_Apply:
		apply := rollout.Apply{
			BasePackage: a.Apply.GetBasePackage(), Images: make(map[fleet.Component]rollout.Image, len(a.Apply.GetImages())),
			Chart: chartFromProto(a.Apply.GetChart()), Values: a.Apply.GetValues(),
		}
		for component, image := range a.Apply.GetImages() {
			apply.Images[fleet.Component(component)] = rollout.Image{Ref: image.GetRef(), Version: image.GetVersion()}
		}
		c.Action = apply
	case *commandv1.Command_Restore:
		c.Action = rollout.Restore{Package: a.Restore.GetPackage()}
	default:
		return rollout.Command{}, fmt.Errorf("decoding command %s: action is missing or one that this build does not know", c.Key)
	}
	return c, nil
}

// CommandFinishedToProto encodes a driver's answer.
func CommandFinishedToProto(c rollout.Command, f rollout.CommandFinished) *commandv1.Event {
	return &commandv1.Event{
		Key: c.Key, Rollout: string(c.Rollout), Cluster: string(c.Cluster),
		Kind: &commandv1.Event_Finished{Finished: &commandv1.Finished{
			Error: f.Error, Package: f.Package, BeganAt: timestamp(f.BeganAt), FinishedAt: timestamp(f.FinishedAt),
		}},
	}
}

// CommandFinishedFromProto decodes a driver's answer; false when the event is
// not one.
func CommandFinishedFromProto(m *commandv1.Event) (rollout.CommandFinished, bool) {
	f := m.GetFinished()
	if f == nil {
		return rollout.CommandFinished{}, false
	}
	return rollout.CommandFinished{
		Key: m.GetKey(), Error: f.GetError(), Package: f.GetPackage(), BeganAt: instant(f.GetBeganAt()), FinishedAt: instant(f.GetFinishedAt()),
	}, true
}
