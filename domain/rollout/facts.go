package rollout

import (
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Fact is one thing that was decided, at an instant, of the whole rollout or of
// one cluster of it.
type Fact struct {
	At      time.Time
	Cluster fleet.ClusterID
	Kind    Kind
}

// Kind is what a fact says; the types below are all there are.
type Kind interface{ kind() }

type (
	// RolloutStarted: the plan was approved and begins.
	RolloutStarted struct {
		Plan      Plan
		RequestID string
	}
	// ClusterStarted: the cluster's turn has come.
	ClusterStarted struct{ WindowEnds time.Time }
	// PackageCaptured: what the cluster runs is recorded.
	PackageCaptured struct{ Package string }
	// StepStarted: the step is being applied.
	StepStarted struct{ Step string }
	// StepApplied: the step is applied; its gate is asked for.
	StepApplied struct {
		Step     string
		Gate     string
		Package  string
		Boundary gate.Boundary
		Policy   gate.Policy
	}
	// StepPassed: the step's gate passed, or its policy lets the rollout go on without.
	StepPassed struct{ Step string }
	// ClusterHeldBack: a gate did not pass, and its policy wants a person to decide.
	ClusterHeldBack struct{ Reason string }
	// RollbackStarted: the recorded package is being restored.
	RollbackStarted struct{ Reason string }
	// ClusterDone: every step of the cluster passed.
	ClusterDone struct {
		Release fleet.ReleaseID
		Package string
	}
	// ClusterRestored: the cluster runs the recorded package again.
	ClusterRestored struct{}
	// ClusterLost: the cluster is in no known good place, or never left it.
	ClusterLost struct{ Reason string }
	// RolloutHeld: no further cluster starts.
	RolloutHeld struct{ Reason string }
	// RolloutSucceeded: every cluster is done.
	RolloutSucceeded struct{}
	// RollbackRequested: a person asked for the way back.
	RollbackRequested struct {
		Reason    string
		RequestID string
	}
	// RolloutRolledBack: every touched cluster is restored.
	RolloutRolledBack struct{}
	// RolloutFailed: a person must look.
	RolloutFailed struct{ Reason string }
)

func (RolloutStarted) kind()    {}
func (ClusterStarted) kind()    {}
func (PackageCaptured) kind()   {}
func (StepStarted) kind()       {}
func (StepApplied) kind()       {}
func (StepPassed) kind()        {}
func (ClusterHeldBack) kind()   {}
func (RollbackStarted) kind()   {}
func (ClusterDone) kind()       {}
func (ClusterRestored) kind()   {}
func (ClusterLost) kind()       {}
func (RolloutHeld) kind()       {}
func (RolloutSucceeded) kind()  {}
func (RollbackRequested) kind() {}
func (RolloutRolledBack) kind() {}
func (RolloutFailed) kind()     {}

// Kinds lists the zero value of every kind of fact, in the order of their
// declaration, for whoever must know them all.
func Kinds() []Kind {
	return []Kind{
		RolloutStarted{}, ClusterStarted{}, PackageCaptured{}, StepStarted{}, StepApplied{}, StepPassed{}, ClusterHeldBack{},
		RollbackStarted{}, ClusterDone{}, ClusterRestored{}, ClusterLost{}, RolloutHeld{}, RolloutSucceeded{},
		RollbackRequested{}, RolloutRolledBack{}, RolloutFailed{},
	}
}

// Apply returns the state after one more fact. It is the only place where a
// state changes; facts of clusters that the plan does not hold change nothing.
func (s State) Apply(f Fact) State {
	if started, ok := f.Kind.(RolloutStarted); ok {
		s.Phase, s.Plan, s.RequestID, s.StartedAt = PhaseRunning, started.Plan, started.RequestID, f.At
		s.Clusters = nil
		for _, plan := range started.Plan.Clusters {
			s.Clusters = append(s.Clusters, ClusterRun{Plan: plan, Phase: ClusterWaiting})
		}
		return s
	}
	s.Clusters = slices.Clone(s.Clusters)
	switch k := f.Kind.(type) {
	case RolloutHeld:
		s.Phase, s.Reason, s.EndedAt = PhaseHeld, k.Reason, f.At
		return s
	case RolloutSucceeded:
		s.Phase, s.Reason, s.EndedAt = PhaseSucceeded, "", f.At
		return s
	case RollbackRequested:
		s.Phase, s.Reason, s.EndedAt = PhaseRollingBack, k.Reason, time.Time{}
		s.rollbackRequested, s.rollbackRequest = true, k.RequestID
		return s
	case RolloutRolledBack:
		s.Phase, s.EndedAt = PhaseRolledBack, f.At
		return s
	case RolloutFailed:
		s.Phase, s.Reason, s.EndedAt = PhaseFailed, k.Reason, f.At
		return s
	}
	i := s.index(f.Cluster)
	if i < 0 {
		return s
	}
	c := &s.Clusters[i]
	switch k := f.Kind.(type) {
	case ClusterStarted:
		c.Phase, c.WindowEnds = ClusterCapturing, k.WindowEnds
	case PackageCaptured:
		c.BasePackage = k.Package
	case StepStarted:
		if c.MovedAt.IsZero() {
			// Recording what runs mixes nothing, however long it took.
			c.WindowEnds = f.At.Add(s.Plan.Window)
		}
		c.Phase = ClusterApplying
		c.Step = slices.IndexFunc(c.Plan.Steps, func(p StepPlan) bool { return p.Name == k.Step })
		if c.MovedAt.IsZero() {
			// Until the driver says when it began: a step that fails has touched the
			// cluster all the same.
			c.MovedAt = f.At
		}
	case StepApplied:
		c.MovedAt = k.Boundary.Start
		c.Phase, c.Gate, c.LastPackage = ClusterGating, k.Gate, k.Package
	case ClusterHeldBack:
		c.Phase, c.Reason = ClusterHeld, k.Reason
	case RollbackStarted:
		if c.Phase == ClusterSucceeded {
			// Its window is long over; the way back may be mixed as the way there.
			c.WindowEnds = f.At.Add(s.Plan.Window)
		}
		c.Phase, c.Reason, c.SettledAt = ClusterRollingBack, k.Reason, time.Time{}
		c.Restores++
		s.Phase, s.Reason, s.EndedAt = PhaseRollingBack, k.Reason, time.Time{}
	case ClusterDone:
		c.Phase, c.Reason, c.SettledAt = ClusterSucceeded, "", f.At
	case ClusterRestored:
		c.Phase, c.SettledAt = ClusterRolledBack, f.At
	case ClusterLost:
		c.Phase, c.Reason = ClusterFailed, k.Reason
	}
	return s
}
