package rollout

import (
	"fmt"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Input is something that happened: Start, CommandFinished, GateDecided, what a
// person wants (Pause, Resume, LeaveOut, Abort, Rollback) or Tick.
type Input interface{ input() }

type (
	// Start begins an approved plan.
	Start struct {
		Plan      Plan
		RequestID string
	}
	// CommandFinished is a driver's answer.
	CommandFinished struct {
		Key string
		// Error is empty on success.
		Error string
		// Package is what the cluster runs after the command.
		Package string
		// BeganAt and FinishedAt enclose every touch of the cluster.
		BeganAt, FinishedAt time.Time
	}
	// GateDecided is a gate's verdict.
	GateDecided struct {
		Gate    string
		Verdict gate.Verdict
		// Consequence is what follows from the verdict by the policy's mode. It is
		// empty where a gate was decided before policies had modes: then a failure
		// rolls back and what else does not pass holds.
		Consequence gate.Consequence
		Summary     string
		// Back are the clusters that go back by the verdict on a wave.
		Back []fleet.ClusterID
	}
	// Pause is a person's wish that no cluster and no step begins. What is being done is
	// finished, and what must go back does.
	Pause struct{ Reason, RequestID string }
	// Resume is a person's wish that it goes on: after a pause, or past what has failed
	// or is held.
	Resume struct{ Reason, RequestID string }
	// LeaveOut is a person's wish to leave out a cluster that waits.
	LeaveOut struct {
		Cluster fleet.ClusterID
		Reason  string
	}
	// Abort is a person's wish to end it: what is on its way goes back, what is through
	// stays.
	Abort struct{ Reason string }
	// Rollback is a person's wish to have every touched cluster back.
	Rollback struct{ Reason, RequestID string }
	// Tick says that time has passed.
	Tick struct{}
)

func (Start) input()           {}
func (CommandFinished) input() {}
func (GateDecided) input()     {}
func (Pause) input()           {}
func (Resume) input()          {}
func (LeaveOut) input()        {}
func (Abort) input()           {}
func (Rollback) input()        {}
func (Tick) input()            {}

// Catalogue ids of reasons that a person may have to do something about. A
// gate's verdict has none: it explains itself.
const (
	reasonUnrestored = "LS-ROL-016"
	reasonUnrecorded = "LS-ROL-017"
	reasonUnapplied  = "LS-ROL-018"
	reasonWindow     = "LS-ROL-019"
)

// Decision is what follows from an input: the facts to record in one message and
// the state after them. What drivers shall do and when to wake follow from that
// state: Commands and WakeAt.
type Decision struct {
	Facts []Fact
	Next  State
}

// Decide returns what follows from an input. Late, repeated or unknown inputs
// yield a Decision without facts.
func Decide(s State, in Input, now time.Time) Decision {
	d := decider{state: s, now: now}
	switch in := in.(type) {
	case Start:
		d.start(in)
	case CommandFinished:
		d.finished(in)
	case GateDecided:
		d.gateDecided(in)
	case Pause:
		d.pause(in)
	case Resume:
		d.resume(in)
	case LeaveOut:
		d.skip(in)
	case Abort:
		d.abort(in)
	case Rollback:
		d.rollback(in)
	case Tick:
		d.tick()
	}
	return Decision{Facts: d.facts, Next: d.state}
}

// decider applies each fact as it is decided, so that later rules of one
// decision see what earlier ones did.
type decider struct {
	state State
	now   time.Time
	facts []Fact
}

func (d *decider) record(cluster fleet.ClusterID, kind Kind) {
	f := Fact{At: d.now, Cluster: cluster, Kind: kind}
	d.facts = append(d.facts, f)
	d.state = d.state.Apply(f)
}

func (d *decider) start(in Start) {
	if d.state.Exists() {
		return
	}
	d.record("", RolloutStarted(in))
	if len(in.Plan.Waves) > 0 {
		d.record("", WaveStarted{})
	}
	d.advance()
}

func (d *decider) finished(in CommandFinished) {
	for _, command := range d.state.Commands() {
		if command.Key != in.Key {
			continue
		}
		c, _ := d.state.Find(command.Cluster)
		switch command.Action.(type) {
		case Capture:
			d.captured(c, in)
		case Apply:
			d.applied(c, in)
		case Restore:
			d.restored(c, in)
		}
		return
	}
}

func (d *decider) captured(c ClusterRun, in CommandFinished) {
	cluster := c.Plan.Cluster
	if in.Error == "" && in.Package == "" {
		// Without a package there is no way back.
		in.Error = "the driver recorded nothing"
	}
	if in.Error != "" {
		reason := fmt.Sprintf("%s: %s was not touched: recording what it runs failed: %s", reasonUnrecorded, cluster, in.Error)
		d.record(cluster, ClusterLost{Reason: reason})
		d.conclude(reason)
		return
	}
	d.record(cluster, PackageCaptured{Package: in.Package})
	d.step(cluster)
}

func (d *decider) applied(c ClusterRun, in CommandFinished) {
	cluster, step := c.Plan.Cluster, c.Plan.Steps[c.Step].Name
	if in.Error != "" {
		d.record(cluster, RollbackStarted{Reason: fmt.Sprintf("%s: applying step %s to %s failed: %s", reasonUnapplied, step, cluster, in.Error)})
		return
	}
	moved := c.MovedAt
	if c.Step == 0 {
		moved = in.BeganAt
	}
	d.record(cluster, StepApplied{
		Step: step, Gate: GateID(d.state.ID, cluster, step), Package: in.Package, Policy: d.state.Plan.Gate,
		Boundary: gate.Boundary{
			BaselineFrom: moved.Add(-d.state.Plan.Lookback), Start: moved, End: in.FinishedAt, Aside: c.Plan.Aside,
		},
	})
}

func (d *decider) restored(c ClusterRun, in CommandFinished) {
	cluster := c.Plan.Cluster
	if in.Error != "" {
		d.record(cluster, ClusterLost{Reason: fmt.Sprintf("%s: %s could not be restored to its recorded package: %s", reasonUnrestored, cluster, in.Error)})
	} else {
		d.record(cluster, ClusterRestored{})
	}
	d.conclude(c.Reason)
}

func (d *decider) gateDecided(in GateDecided) {
	if in.Gate != "" && in.Gate == d.state.WaveGate {
		d.waveJudged(in)
		return
	}
	for _, c := range d.state.Clusters {
		if c.Phase != ClusterGating || c.Gate != in.Gate {
			continue
		}
		d.judged(c, in)
		return
	}
}

// judged lets follow what a verdict leads to. A consequence that this build does
// not know holds: a person decides.
func (d *decider) judged(c ClusterRun, in GateDecided) {
	cluster, step := c.Plan.Cluster, c.Plan.Steps[c.Step].Name
	judge := "the gate of step " + step
	if policy := d.state.Plan.Policy; policy != nil {
		judge = fmt.Sprintf("the gate of step %s by policy %s", step, policy.Name)
	}
	switch in.consequence() {
	case gate.Wait:
	case gate.GoOn, gate.Tell:
		d.passed(c)
	case gate.RollBack:
		d.record(cluster, RollbackStarted{Reason: fmt.Sprintf("%s failed on %s: %s", judge, cluster, in.Summary)})
	default:
		reason := fmt.Sprintf("%s on %s says %s: %s", judge, cluster, in.Verdict, in.Summary)
		d.record(cluster, ClusterHeldBack{Reason: reason})
		d.conclude(reason)
	}
}

// consequence is what follows from a decision, which those of before modes leave to
// their verdict. A verdict alone that this build does not know is waited past.
func (in GateDecided) consequence() gate.Consequence {
	if in.Consequence != "" {
		return in.Consequence
	}
	switch in.Verdict {
	case gate.Pass, gate.Fail, gate.Hold, gate.Inconclusive:
		return gate.Act.Consequence(in.Verdict)
	}
	return gate.Wait
}

func (d *decider) passed(c ClusterRun) {
	d.record(c.Plan.Cluster, StepPassed{Step: c.Plan.Steps[c.Step].Name})
	d.step(c.Plan.Cluster)
}

// step begins the next step of a cluster that is ready, or ends its part.
func (d *decider) step(cluster fleet.ClusterID) {
	c, _ := d.state.Find(cluster)
	next := c.Step + 1
	if c.MovedAt.IsZero() {
		next = 0
	}
	switch {
	case next >= len(c.Plan.Steps):
		d.record(cluster, ClusterDone{Release: d.state.Plan.Release, Package: c.LastPackage})
		d.advance()
		if d.state.Phase == PhaseHolding {
			d.conclude(d.state.Reason)
		}
	case !d.state.Paused:
		d.record(cluster, StepStarted{Step: c.Plan.Steps[next].Name})
	}
}

func (d *decider) rollback(in Rollback) {
	if !d.state.Exists() {
		return
	}
	// One request is enough, unless the way back failed and someone asks anew.
	if d.state.rollbackRequested && (d.state.Phase != PhaseFailed || in.RequestID == d.state.rollbackRequest) {
		return
	}
	d.record("", RollbackRequested(in))
	for _, c := range d.state.Clusters {
		switch {
		case c.untouched():
			// Nothing of it was changed yet, so it is where it was.
			d.record(c.Plan.Cluster, ClusterRestored{})
		case c.BasePackage != "" && c.Phase != ClusterRollingBack && c.Phase != ClusterRolledBack:
			d.record(c.Plan.Cluster, RollbackStarted{Reason: in.Reason})
		}
	}
	d.conclude(in.Reason)
}

// tick brings back what is still mixed when its window ends, and ends soaks.
func (d *decider) tick() {
	for _, c := range d.state.Clusters {
		if c.mixed() && !d.now.Before(c.WindowEnds) {
			d.record(c.Plan.Cluster, RollbackStarted{Reason: fmt.Sprintf(
				"%s: %s was still mixed in step %s when its window of %s ended", reasonWindow, c.Plan.Cluster, c.StepName(), d.state.Plan.Window)})
		}
	}
	if !d.state.SoakEnds.IsZero() && !d.now.Before(d.state.SoakEnds) {
		d.advance()
	}
}
