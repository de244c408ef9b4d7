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
	// ClusterSkipped: a person left the cluster out.
	ClusterSkipped struct{ Reason string }
	// WaveStarted: the clusters of a wave may start.
	WaveStarted struct{ Wave int }
	// WaveSoaking: every cluster of the wave is through, and it is watched.
	WaveSoaking struct {
		Wave int
		Ends time.Time
	}
	// WaveGated: every cluster of the wave is through, and the wave's gate is asked for.
	WaveGated struct {
		Wave int
		Gate string
	}
	// WavePassed: the wave's gate passed, its policy lets the rollout go on without, or a
	// person does.
	WavePassed struct{ Wave int }
	// WaveFailed: the wave's gate failed. Nothing starts until a person decides.
	WaveFailed struct {
		Wave   int
		Reason string
	}
	// RolloutPaused: a person had it stop before its next step.
	RolloutPaused struct{ Reason, RequestID string }
	// RolloutResumed: a person has it go on, past what has failed or is held.
	RolloutResumed struct{ Reason, RequestID string }
	// RolloutHolding: no further cluster starts, and those that move are finished first.
	RolloutHolding struct{ Reason string }
	// RolloutContinued: what went back is within the failures that may be.
	RolloutContinued struct{}
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
	// AbortRequested: a person ends the rollout.
	AbortRequested struct{ Reason string }
	// RolloutAborted: nothing of it moves any more.
	RolloutAborted struct{}
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
func (ClusterSkipped) kind()    {}
func (WaveStarted) kind()       {}
func (WaveSoaking) kind()       {}
func (WaveGated) kind()         {}
func (WavePassed) kind()        {}
func (WaveFailed) kind()        {}
func (RolloutPaused) kind()     {}
func (RolloutResumed) kind()    {}
func (RolloutHolding) kind()    {}
func (RolloutContinued) kind()  {}
func (RolloutHeld) kind()       {}
func (RolloutSucceeded) kind()  {}
func (RollbackRequested) kind() {}
func (RolloutRolledBack) kind() {}
func (AbortRequested) kind()    {}
func (RolloutAborted) kind()    {}
func (RolloutFailed) kind()     {}

// Kinds lists the zero value of every kind of fact, in the order of their
// declaration, for whoever must know them all.
func Kinds() []Kind {
	return []Kind{
		RolloutStarted{}, ClusterStarted{}, PackageCaptured{}, StepStarted{}, StepApplied{}, StepPassed{}, ClusterHeldBack{},
		RollbackStarted{}, ClusterDone{}, ClusterRestored{}, ClusterLost{}, ClusterSkipped{}, WaveStarted{}, WaveSoaking{},
		WaveGated{}, WavePassed{}, WaveFailed{},
		RolloutPaused{}, RolloutResumed{}, RolloutHolding{}, RolloutContinued{}, RolloutHeld{}, RolloutSucceeded{},
		RollbackRequested{}, RolloutRolledBack{}, AbortRequested{}, RolloutAborted{}, RolloutFailed{},
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
	if f.Cluster == "" {
		return s.applyWhole(f)
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
		c.Phase, c.BasePackage = ClusterReady, k.Package
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
	case StepPassed:
		c.Phase, c.Reason = ClusterReady, ""
	case ClusterSkipped:
		c.Phase, c.Reason = ClusterLeftOut, k.Reason
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

// applyWhole returns the state after a fact of the whole rollout.
func (s State) applyWhole(f Fact) State {
	rests := func(phase Phase, reason string) { s.Phase, s.Reason, s.EndedAt, s.Paused = phase, reason, f.At, false }
	goes := func(phase Phase, reason string) { s.Phase, s.Reason, s.EndedAt = phase, reason, time.Time{} }
	switch k := f.Kind.(type) {
	case WaveStarted:
		s.Wave, s.SoakEnds = k.Wave, time.Time{}
	case WaveSoaking:
		s.SoakEnds = k.Ends
	case WaveGated:
		s.WaveGate, s.WaveGatedAt = k.Gate, f.At
	case WavePassed:
		s.WaveGate, s.judged = "", k.Wave+1
	case WaveFailed:
		s.WaveGate, s.judged, s.waveFailed = "", k.Wave+1, true
	case RolloutPaused:
		s.Paused, s.requests = true, append(slices.Clip(s.requests), k.RequestID)
		if s.Phase == PhaseRunning {
			goes(PhasePaused, k.Reason)
		}
	case RolloutResumed:
		s.Paused, s.requests = false, append(slices.Clip(s.requests), k.RequestID)
		if s.Phase == PhaseHeld || s.Phase == PhaseHolding {
			s.accepted, s.waveFailed = s.failures(), false
		}
		if s.Phase != PhaseRollingBack {
			goes(PhaseRunning, "")
		}
	case RolloutHolding:
		goes(PhaseHolding, k.Reason)
	case RolloutContinued:
		goes(PhaseRunning, "")
		if s.Paused {
			goes(PhasePaused, "a person paused it")
		}
	case RolloutHeld:
		rests(PhaseHeld, k.Reason)
	case RolloutSucceeded:
		rests(PhaseSucceeded, "")
	case RollbackRequested:
		goes(PhaseRollingBack, k.Reason)
		s.rollbackRequested, s.rollbackRequest, s.Paused, s.WaveGate = true, k.RequestID, false, ""
	case RolloutRolledBack:
		rests(PhaseRolledBack, s.Reason)
	case AbortRequested:
		goes(PhaseRollingBack, k.Reason)
		s.abortRequested, s.Paused, s.WaveGate = true, false, ""
	case RolloutAborted:
		rests(PhaseAborted, s.Reason)
	case RolloutFailed:
		rests(PhaseFailed, k.Reason)
	}
	return s
}
