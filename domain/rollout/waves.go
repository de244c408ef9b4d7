package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Strategy says how far and how fast a rollout goes by itself. The zero Strategy takes
// all clusters as one wave, one after another, and stops at the first that goes back.
type Strategy struct {
	Waves         []WaveSize
	MaxConcurrent int
	MaxFailures   int
	// Soak is how long each wave is watched before the next begins.
	Soak time.Duration
}

// WaveSize says which clusters a wave holds; one of its fields is set.
type WaveSize struct {
	// Clusters is so many, in the order of the plan.
	Clusters int
	// Percent is as many as make this share of all, with those of the waves before.
	Percent int
	// Labels are those that match and are in no wave before.
	Labels fleet.Selector
	// Text is how people wrote the selector.
	Text string
}

func (w WaveSize) name() string {
	switch {
	case w.Text != "":
		return w.Text
	case w.Percent > 0:
		return fmt.Sprintf("%d%%", w.Percent)
	case w.Clusters == 1:
		return "1 cluster"
	}
	return fmt.Sprintf("%d clusters", w.Clusters)
}

// arrange puts the plan's clusters into waves. What no wave holds is a last one; a wave
// whose share the ones before have reached already is left out.
func (p *Plan) arrange(s Strategy, labels map[fleet.ClusterID]map[string]string) (problems []Problem) {
	p.MaxConcurrent, p.MaxFailures = s.MaxConcurrent, s.MaxFailures
	if len(s.Waves) == 0 {
		return nil
	}
	left, all := p.Clusters, len(p.Clusters)
	p.Clusters = make([]ClusterPlan, 0, all)
	wave := func(name string, clusters []ClusterPlan) {
		if len(clusters) > 0 {
			p.Waves = append(p.Waves, Wave{Name: name, Clusters: len(clusters), Soak: s.Soak})
			p.Clusters = append(p.Clusters, clusters...)
		}
	}
	for _, size := range s.Waves {
		var in, out []ClusterPlan
		switch {
		case size.Text != "":
			for _, c := range left {
				if size.Labels.Matches(labels[c.Cluster]) {
					in = append(in, c)
				} else {
					out = append(out, c)
				}
			}
			if len(in) == 0 {
				problems = append(problems, Problem{ID: ProblemWave, Text: fmt.Sprintf(
					"no cluster of the plan that is in no wave before matches %s; `lockstep clusters -l '%s'` shows those that match at all", size.Text, size.Text)})
			}
		default:
			n := size.Clusters
			if size.Percent > 0 {
				n = (all*size.Percent+99)/100 - len(p.Clusters)
			}
			n = min(max(n, 0), len(left))
			in, out = left[:n], left[n:]
		}
		wave(size.name(), in)
		left = out
	}
	wave(restOfWaves, left)
	return problems
}

// Makes says whether a plan of this strategy may look like p. Of a plan's waves the names
// are those that were asked for, but for a last one and for those that had become empty.
func (s Strategy) Makes(p Plan) bool {
	if p.MaxConcurrent != s.MaxConcurrent || p.MaxFailures != s.MaxFailures || (len(p.Waves) > 0) != (len(s.Waves) > 0) {
		return false
	}
	asked := s.Waves
	for i, w := range p.Waves {
		if w.Soak != s.Soak {
			return false
		}
		at := slices.IndexFunc(asked, func(size WaveSize) bool { return size.name() == w.Name })
		if at < 0 {
			return i == len(p.Waves)-1 && w.Name == restOfWaves
		}
		asked = asked[at+1:]
	}
	return true
}

// restOfWaves is the last wave, of what no other holds.
const restOfWaves = "rest"

// waveOf returns which wave a cluster of the plan is in, by its place.
func (p Plan) waveOf(place int) int {
	for i, wave := range p.Waves {
		if place < wave.Clusters {
			return i
		}
		place -= wave.Clusters
	}
	return max(len(p.Waves)-1, 0)
}

// advance starts every cluster that may start now, and ends a wave or the rollout that
// is through. Nothing starts unless the rollout runs.
func (d *decider) advance() {
	for d.state.Phase == PhaseRunning {
		d.startWave()
		if d.state.busy() > 0 {
			return
		}
		wave := d.state.Wave
		last := wave >= len(d.state.Plan.Waves)-1
		if !last {
			soak := d.state.Plan.Waves[wave].Soak
			if soak > 0 && d.state.SoakEnds.IsZero() && d.state.reached(wave) {
				d.record("", WaveSoaking{Wave: wave, Ends: d.now.Add(soak)})
			}
		}
		if d.state.asksWaveGate() && d.state.WaveGate == "" {
			d.record("", WaveGated{Wave: wave, Gate: WaveGateID(d.state.ID, wave)})
		}
		switch {
		case d.state.WaveGate != "" || d.now.Before(d.state.SoakEnds):
			return
		case last:
			d.finish()
			return
		}
		d.record("", WaveStarted{Wave: wave + 1})
	}
}

// asksWaveGate says whether the present wave has to pass a gate and has not yet. A wave
// of which no cluster runs the release has nothing to judge.
func (s State) asksWaveGate() bool {
	policy := s.Plan.Policy
	return policy != nil && policy.Wave.Demands() && s.judged <= s.Wave && s.reached(s.Wave)
}

// Judges says whether a cluster runs the release as part of a wave whose gate is open:
// whoever moved it then would be judged, too.
func (s State) Judges(cluster fleet.ClusterID) bool {
	run, part := s.Find(cluster)
	return part && s.WaveGate != "" && !s.Phase.Resting() && run.Phase == ClusterSucceeded && s.Plan.WaveOf(cluster) == s.Wave
}

// waveJudged lets follow what the verdict on a wave leads to. Which clusters go back
// when it fails is the gate's to say; the rest of the wave stays, and so do the waves
// before it, which passed.
func (d *decider) waveJudged(in GateDecided) {
	if d.state.Phase != PhaseRunning && d.state.Phase != PhasePaused {
		return // a person has to decide already
	}
	wave := d.state.Wave
	judge := fmt.Sprintf("the gate of wave %d by policy %s", wave+1, d.state.Plan.Policy.Name)
	switch in.consequence() {
	case gate.Wait:
	case gate.GoOn, gate.Tell:
		d.record("", WavePassed{Wave: wave})
		d.advance()
	case gate.RollBack:
		reason := fmt.Sprintf("%s failed: %s", judge, in.Summary)
		d.record("", WaveFailed{Wave: wave, Reason: reason})
		for place, c := range d.state.Clusters {
			if c.Phase == ClusterSucceeded && d.state.Plan.waveOf(place) == wave && slices.Contains(in.Back, c.Plan.Cluster) {
				d.record(c.Plan.Cluster, RollbackStarted{Reason: reason})
			}
		}
		d.conclude(reason)
	default:
		d.record("", RolloutHeld{Reason: fmt.Sprintf("%s says %s: %s", judge, in.Verdict, in.Summary)})
	}
}

// startWave starts clusters of the present wave, as many as may move at once.
func (d *decider) startWave() {
	for place, c := range d.state.Clusters {
		if d.state.busy() >= max(d.state.Plan.MaxConcurrent, 1) {
			return
		}
		if c.Phase == ClusterWaiting && d.state.Plan.waveOf(place) == d.state.Wave {
			d.record(c.Plan.Cluster, ClusterStarted{WindowEnds: d.now.Add(d.state.Plan.Window)})
		}
	}
}

// finish ends a rollout of which every cluster is through. Where some of them do not
// run the release and nobody has accepted that, a person decides.
func (d *decider) finish() {
	if d.state.failures() <= d.state.accepted {
		d.record("", RolloutSucceeded{})
		return
	}
	var without []string
	for _, c := range d.state.Clusters {
		if c.Phase == ClusterRolledBack || c.Phase == ClusterFailed {
			without = append(without, string(c.Plan.Cluster))
		}
	}
	d.record("", RolloutHeld{Reason: fmt.Sprintf("every cluster is through, and %d of %d did not get to release %s: %s; resume to accept that, or roll back",
		len(without), len(d.state.Clusters), d.state.Plan.Release, strings.Join(without, ", "))})
}

// conclude draws the conclusion when a cluster did not get there. While one is on its
// way back, its end does.
func (d *decider) conclude(reason string) {
	unrestored, back, forward, held := "", false, false, false
	for _, c := range d.state.Clusters {
		switch c.Phase {
		case ClusterRollingBack:
			back = true
		case ClusterCapturing, ClusterReady, ClusterApplying, ClusterGating:
			forward = true
		case ClusterHeld:
			held = true
		case ClusterFailed:
			if c.BasePackage != "" && unrestored == "" {
				unrestored = c.Reason
			}
		}
	}
	over := d.state.waveFailed || unrestored != "" || d.state.rollbackRequested || d.state.abortRequested
	switch {
	case back:
	case !over && !held && d.state.failures()-d.state.accepted <= d.state.Plan.MaxFailures:
		if d.state.Phase != PhaseRunning && d.state.Phase != PhasePaused {
			d.record("", RolloutContinued{})
		}
		d.advance()
	case forward:
		if d.state.Phase != PhaseHolding {
			d.record("", RolloutHolding{Reason: reason})
		}
	case unrestored != "":
		d.record("", RolloutFailed{Reason: unrestored})
	case d.state.rollbackRequested:
		d.record("", RolloutRolledBack{})
	case d.state.abortRequested:
		d.record("", RolloutAborted{})
	default:
		d.record("", RolloutHeld{Reason: reason})
	}
}

func (d *decider) pause(in Pause) {
	switch d.state.Phase {
	case PhaseRunning, PhaseHolding, PhaseRollingBack:
		if !d.state.Paused && !slices.Contains(d.state.requests, in.RequestID) && !d.state.rollbackRequested && !d.state.abortRequested {
			d.record("", RolloutPaused(in))
		}
	}
}

func (d *decider) resume(in Resume) {
	if slices.Contains(d.state.requests, in.RequestID) || !d.state.Paused && d.state.Phase != PhaseHeld && d.state.Phase != PhaseHolding {
		return
	}
	accepts := d.state.Phase == PhaseHeld || d.state.Phase == PhaseHolding
	d.record("", RolloutResumed(in))
	if accepts && d.state.WaveGate != "" {
		d.record("", WavePassed{Wave: d.state.Wave})
	}
	for _, c := range d.state.Clusters {
		switch {
		case c.Phase == ClusterReady:
			d.step(c.Plan.Cluster)
		case c.Phase == ClusterHeld && accepts:
			d.passed(c)
		}
	}
	d.advance()
}

func (d *decider) skip(in LeaveOut) {
	if c, part := d.state.Find(in.Cluster); !part || c.Phase != ClusterWaiting || d.state.Phase.Resting() && d.state.Phase != PhaseHeld {
		return
	}
	d.record(in.Cluster, ClusterSkipped{Reason: in.Reason})
	d.advance()
}

func (d *decider) abort(in Abort) {
	if !d.state.Exists() || d.state.abortRequested || d.state.rollbackRequested || d.state.Phase.Resting() && d.state.Phase != PhaseHeld {
		return
	}
	d.record("", AbortRequested(in))
	for _, c := range d.state.Clusters {
		switch {
		case c.untouched():
			d.record(c.Plan.Cluster, ClusterRestored{})
		case c.mixed():
			d.record(c.Plan.Cluster, RollbackStarted(in))
		}
	}
	d.conclude(in.Reason)
}

// untouched says whether the cluster's turn has come and nothing of it was changed.
func (c ClusterRun) untouched() bool {
	return c.Phase == ClusterCapturing || c.Phase == ClusterReady && c.MovedAt.IsZero()
}

// busy is how many clusters the rollout has to itself.
func (s State) busy() (n int) {
	for _, c := range s.Clusters {
		if c.Phase.Busy() {
			n++
		}
	}
	return n
}

// failures is how many clusters went back or were not reached.
func (s State) failures() (n int) {
	for _, c := range s.Clusters {
		if c.Phase == ClusterRolledBack || c.Phase == ClusterFailed {
			n++
		}
	}
	return n
}

// reached says whether any cluster of a wave runs the release.
func (s State) reached(wave int) bool {
	for place, c := range s.Clusters {
		if c.Phase == ClusterSucceeded && s.Plan.waveOf(place) == wave {
			return true
		}
	}
	return false
}

// WaveOf returns which wave of the plan a cluster is in, counted from 0.
func (p Plan) WaveOf(cluster fleet.ClusterID) int {
	for place, c := range p.Clusters {
		if c.Cluster == cluster {
			return p.waveOf(place)
		}
	}
	return 0
}
