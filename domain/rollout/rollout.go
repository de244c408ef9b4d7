// Package rollout owns the rules by which a fleet moves from one release to
// another: what a plan is, in which order a cluster's steps run, what a gate's
// verdict leads to, when a cluster goes back to the package recorded before its
// first step. It decides; it never acts.
package rollout

import (
	"fmt"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// ID names one rollout.
type ID string

// Plan is what was approved. Nothing in it is looked up again while it runs.
type Plan struct {
	Release  fleet.ReleaseID
	Clusters []ClusterPlan
	// Gate holds the numbers of the session evidence; those of Policy where it is set.
	Gate gate.Policy
	// Policy is the gate policy that the rollout is judged by; nil is that of the
	// configuration, which asks for Gate and for nothing else.
	Policy *gate.Plan
	// Window is how long one cluster may be mixed, from its first step on.
	Window time.Duration
	// Lookback is how far before a step baseline sessions are taken.
	Lookback time.Duration
	// Waves part Clusters, in order; none is one wave of all.
	Waves []Wave
	// MaxConcurrent is how many clusters move at the same time; less than one is one.
	MaxConcurrent int
	// MaxFailures is how many clusters may go back, or not be reached, before nothing
	// starts any more.
	MaxFailures int
}

// Wave is a batch of clusters. The next begins when every cluster of it is through
// and has been watched for a while.
type Wave struct {
	Name string
	// Clusters is how many of the plan's it holds, after those of the waves before.
	Clusters int
	// Soak is how long it is watched.
	Soak time.Duration
}

// ClusterPlan is one cluster's way through the plan.
type ClusterPlan struct {
	Cluster fleet.ClusterID
	Steps   []StepPlan
	// Aside holds the times at which earlier rollouts moved the cluster; their
	// sessions are no baseline.
	Aside []gate.Span
	// Chart and Values are what Helm brings; zero where Helm does not drive the cluster.
	Chart  Chart
	Values string
}

// StepPlan moves every component of one line.
type StepPlan struct {
	Name        string
	Line        fleet.Line
	FromVersion string
	ToVersion   string
	// Image is "repository:tag@sha256:…".
	Image      string
	Components []fleet.Component
}

// Phase is where a rollout stands.
type Phase string

// Every value Phase takes.
const (
	// PhaseRunning: clusters are being moved.
	PhaseRunning Phase = "running"
	// PhasePaused: a person had it stop; no cluster and no step begins.
	PhasePaused Phase = "paused"
	// PhaseHolding: no further cluster starts; those that move are finished first.
	PhaseHolding Phase = "holding"
	// PhaseHeld: no further cluster starts; a person decides.
	PhaseHeld Phase = "held"
	// PhaseSucceeded: every cluster of the plan runs the release.
	PhaseSucceeded Phase = "succeeded"
	// PhaseRollingBack: at least one cluster is on its way back.
	PhaseRollingBack Phase = "rolling_back"
	// PhaseRolledBack: every cluster that was touched is back, as asked.
	PhaseRolledBack Phase = "rolled_back"
	// PhaseAborted: a person ended it; what had moved to the end stays.
	PhaseAborted Phase = "aborted"
	// PhaseFailed: a cluster could not be brought to a known package.
	PhaseFailed Phase = "failed"
)

// Resting reports whether the phase changes only by a person's word or the end
// of a window.
func (p Phase) Resting() bool {
	switch p {
	case PhaseHeld, PhaseSucceeded, PhaseRolledBack, PhaseAborted, PhaseFailed:
		return true
	}
	return false
}

// ClusterPhase is where one cluster stands within a rollout.
type ClusterPhase string

// Every value ClusterPhase takes.
const (
	// ClusterWaiting: its turn has not come.
	ClusterWaiting ClusterPhase = "waiting"
	// ClusterCapturing: what it runs is being recorded.
	ClusterCapturing ClusterPhase = "capturing"
	// ClusterReady: it is recorded or a step has passed, and the next has not begun.
	ClusterReady ClusterPhase = "ready"
	// ClusterApplying: a step is being applied.
	ClusterApplying ClusterPhase = "applying"
	// ClusterGating: a step is applied and its gate is open.
	ClusterGating ClusterPhase = "gating"
	// ClusterHeld: a gate did not pass and nothing goes back by itself; the window
	// still runs.
	ClusterHeld ClusterPhase = "held"
	// ClusterSucceeded: every step passed its gate, or its policy let it go on.
	ClusterSucceeded ClusterPhase = "succeeded"
	// ClusterRollingBack: the recorded package is being restored.
	ClusterRollingBack ClusterPhase = "rolling_back"
	// ClusterRolledBack: it runs the recorded package again.
	ClusterRolledBack ClusterPhase = "rolled_back"
	// ClusterFailed: it could not be captured or restored.
	ClusterFailed ClusterPhase = "failed"
	// ClusterLeftOut: a person skipped it.
	ClusterLeftOut ClusterPhase = "skipped"
)

// Busy reports whether a cluster in this phase belongs to its rollout alone.
func (p ClusterPhase) Busy() bool {
	switch p {
	case ClusterCapturing, ClusterReady, ClusterApplying, ClusterGating, ClusterHeld, ClusterRollingBack:
		return true
	}
	return false
}

// ClusterRun is one cluster's part of a rollout, as it stands.
type ClusterRun struct {
	Plan  ClusterPlan
	Phase ClusterPhase
	// Step indexes Plan.Steps.
	Step   int
	Reason string
	// WindowEnds is until when the cluster may be mixed on its way.
	WindowEnds time.Time
	// MovedAt is when the cluster was first touched, SettledAt when it ran one
	// known package again; zero while they are not known.
	MovedAt, SettledAt time.Time
	// BasePackage is the blob hash of what ran before the first step.
	BasePackage string
	// LastPackage is the blob hash of what the last applied step left.
	LastPackage string
	Gate        string
	// Restores counts how often the way back was begun; each is a command of its
	// own, for an answer to one is none to the next.
	Restores int
}

// Moved returns the time in which the rollout made the cluster unlike itself, up
// to now while it still does; false when it never touched it.
func (c ClusterRun) Moved(now time.Time) (gate.Span, bool) {
	if c.MovedAt.IsZero() {
		return gate.Span{}, false
	}
	if !c.SettledAt.IsZero() {
		now = c.SettledAt
	}
	return gate.Span{From: c.MovedAt, To: now}, true
}

// mixed says whether the cluster is on its way forward and may not be so for ever.
func (c ClusterRun) mixed() bool {
	switch c.Phase {
	case ClusterApplying, ClusterGating, ClusterHeld:
		return true
	case ClusterReady:
		return !c.MovedAt.IsZero()
	}
	return false
}

// StepName returns the name of the step the cluster is in, empty before the first.
func (c ClusterRun) StepName() string {
	if c.BasePackage == "" || c.Phase == ClusterCapturing || c.Step >= len(c.Plan.Steps) {
		return ""
	}
	return c.Plan.Steps[c.Step].Name
}

// State is a rollout as its facts so far say. The zero State is a rollout that
// has not started.
type State struct {
	ID        ID
	RequestID string
	Phase     Phase
	Reason    string
	Plan      Plan
	Clusters  []ClusterRun
	StartedAt time.Time
	EndedAt   time.Time
	// Wave indexes the plan's waves. SoakEnds is until when it is watched, zero while it
	// moves.
	Wave     int
	SoakEnds time.Time
	// WaveGate is the gate of that wave from when it is asked for, at WaveGatedAt, until
	// its verdict lets the rollout go on or a person does.
	WaveGate    string
	WaveGatedAt time.Time
	// judged is how many waves are past their gates; waveFailed says that the last of
	// them failed and that nobody has accepted it.
	judged     int
	waveFailed bool
	// Paused says that no cluster and no step begins, whatever the phase.
	Paused bool
	// requests are those to pause and to resume that were heard: a repeat of one must
	// not end what came later.
	requests []string
	// accepted is how many failures a person has let the rollout go on past.
	accepted int
	// abortRequested is set once a person ended it.
	abortRequested bool
	// rollbackRequested is set once a person asked for the way back.
	rollbackRequested bool
	// rollbackRequest is the last such request's id.
	rollbackRequest string
}

// Exists reports whether the rollout has started.
func (s State) Exists() bool { return s.Phase != "" }

// GateID names the gate of one step of one cluster.
func GateID(id ID, cluster fleet.ClusterID, step string) string {
	return fmt.Sprintf("%s-%s-%s", id, cluster, step)
}

// WaveGateID names the gate of a wave, which is counted from 0 here and from 1 there.
func WaveGateID(id ID, wave int) string { return fmt.Sprintf("%s-wave-%d", id, wave+1) }

// PausedBy returns the request that paused the rollout, empty when it is not paused.
func (s State) PausedBy() string {
	if !s.Paused || len(s.requests) == 0 {
		return ""
	}
	return s.requests[len(s.requests)-1]
}

// Command asks a driver to act on one cluster.
type Command struct {
	// Key is the same whenever the same command is asked again.
	Key     string
	Rollout ID
	Cluster fleet.ClusterID
	Action  Action
}

// Action is what a command does: Capture, Apply or Restore.
type Action interface{ action() }

// Capture records what the cluster runs.
type Capture struct{}

// Apply brings the base package to the images of all steps so far.
type Apply struct {
	BasePackage string
	Images      map[fleet.Component]Image
	// Chart and Values are those of the plan; zero where it has none.
	Chart  Chart
	Values string
}

// Image is what a component shall run.
type Image struct {
	Ref     string
	Version string
}

// Restore puts a recorded package back, whole.
type Restore struct{ Package string }

func (Capture) action() {}
func (Apply) action()   {}
func (Restore) action() {}

// Commands returns what the state waits for drivers to do. It is a function of
// the state alone, so asking again after a crash asks for the same.
func (s State) Commands() []Command {
	var out []Command
	for _, c := range s.Clusters {
		command := func(what string, action Action) {
			out = append(out, Command{
				Key:     fmt.Sprintf("rollout/%s/%s/%s", s.ID, c.Plan.Cluster, what),
				Rollout: s.ID, Cluster: c.Plan.Cluster, Action: action,
			})
		}
		switch c.Phase {
		case ClusterCapturing:
			command("capture", Capture{})
		case ClusterApplying:
			images := make(map[fleet.Component]Image)
			for _, step := range c.Plan.Steps[:c.Step+1] {
				for _, component := range step.Components {
					images[component] = Image{Ref: step.Image, Version: step.ToVersion}
				}
			}
			command(c.Plan.Steps[c.Step].Name+"/apply", Apply{BasePackage: c.BasePackage, Images: images, Chart: c.Plan.Chart, Values: c.Plan.Values})
		case ClusterRollingBack:
			what := "restore"
			if c.Restores > 1 {
				what = fmt.Sprintf("restore/%d", c.Restores)
			}
			command(what, Restore{Package: c.BasePackage})
		}
	}
	return out
}

// WakeAt returns when the state wants a Tick, the zero time for never.
func (s State) WakeAt() time.Time {
	var at time.Time
	if s.Phase == PhaseRunning && s.WaveGate == "" {
		at = s.SoakEnds
	}
	for _, c := range s.Clusters {
		if c.mixed() && (at.IsZero() || c.WindowEnds.Before(at)) {
			at = c.WindowEnds
		}
	}
	return at
}

// Find returns the run of a cluster.
func (s State) Find(cluster fleet.ClusterID) (ClusterRun, bool) {
	if i := s.index(cluster); i >= 0 {
		return s.Clusters[i], true
	}
	return ClusterRun{}, false
}

func (s State) index(cluster fleet.ClusterID) int {
	for i, c := range s.Clusters {
		if c.Plan.Cluster == cluster {
			return i
		}
	}
	return -1
}
