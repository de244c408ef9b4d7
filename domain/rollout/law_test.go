package rollout_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// moment is one decision of a walk.
type moment struct {
	before rollout.State
	input  rollout.Input
	now    time.Time
	rollout.Decision
}

func (m moment) String() string {
	return fmt.Sprintf("%s %T%+v: %s", m.now.Format(time.TimeOnly), m.input, m.input, describeState(m.Next))
}

// walk starts a random plan and lets random things happen to it: most of them
// what the rollout waits for, some late, repeated or unknown.
func walk(t *rapid.T) []moment {
	plan := rollout.Plan{
		Release: "v2", Gate: gate.DefaultPolicy(), Lookback: time.Hour,
		Window: rapid.Custom(func(t *rapid.T) time.Duration {
			return time.Duration(rapid.IntRange(1, 8).Draw(t, "hours")) * time.Hour
		}).Draw(t, "window"),
		Clusters: clusterPlans(
			[]string{"bern", "oslo", "paris", "rome"}[:rapid.IntRange(1, 4).Draw(t, "clusters")],
			[]string{"gateway", "sra", "ztwa"}[:rapid.IntRange(1, 3).Draw(t, "steps")],
		),
	}
	if mode := rapid.SampledFrom(append([]gate.Mode{""}, gate.Modes()...)).Draw(t, "mode"); mode != "" {
		plan.Policy = judgedBy(mode)
		if rapid.Bool().Draw(t, "waves are judged") {
			plan.Policy.Wave = gate.Stage{Checks: map[gate.CheckName]gate.CheckPolicy{gate.CheckSessions: {Demand: gate.DemandPass}}, Deadline: time.Hour}
		}
	}
	if rapid.Bool().Draw(t, "waves") {
		for left := len(plan.Clusters); left > 0; {
			n := rapid.IntRange(1, left).Draw(t, "wave")
			left -= n
			plan.Waves = append(plan.Waves, rollout.Wave{Name: fmt.Sprint("wave ", len(plan.Waves)+1), Clusters: n, Soak: time.Duration(rapid.IntRange(0, 2).Draw(t, "soak")) * time.Hour})
		}
		plan.MaxConcurrent = rapid.IntRange(0, 3).Draw(t, "concurrent")
		plan.MaxFailures = rapid.IntRange(0, 2).Draw(t, "failures")
	}
	w := &walker{state: rollout.State{ID: "r1"}, now: noon, plan: plan}
	w.take(rollout.Start{Plan: plan, RequestID: "first"})
	for range rapid.IntRange(0, 60).Draw(t, "inputs") {
		w.now = w.now.Add(time.Duration(rapid.IntRange(0, 1800).Draw(t, "seconds")) * time.Second)
		w.take(w.draw(t))
	}
	return w.moments
}

type walker struct {
	state   rollout.State
	now     time.Time
	plan    rollout.Plan
	keys    []string // of every command asked so far
	moments []moment
}

func (w *walker) take(in rollout.Input) {
	d := rollout.Decide(w.state, in, w.now)
	w.moments = append(w.moments, moment{before: w.state, input: in, now: w.now, Decision: d})
	w.state = d.Next
	for _, c := range d.Next.Commands() {
		if !slices.Contains(w.keys, c.Key) {
			w.keys = append(w.keys, c.Key)
		}
	}
}

func (w *walker) draw(t *rapid.T) rollout.Input {
	switch rapid.SampledFrom([]string{"answer", "answer", "answer", "verdict", "verdict", "stray answer", "stray verdict", "rollback", "pause", "resume", "resume", "skip", "abort", "tick", "repeat"}).Draw(t, "input") {
	case "answer":
		if commands := w.state.Commands(); len(commands) > 0 {
			return w.answer(t, rapid.SampledFrom(commands).Draw(t, "command").Key)
		}
	case "verdict":
		if gates := openGates(w.state); len(gates) > 0 {
			return w.verdict(t, rapid.SampledFrom(gates).Draw(t, "gate"))
		}
	case "stray answer":
		return w.answer(t, rapid.SampledFrom(append([]string{"", "rollout/r1/bern", "rollout/r2/bern/capture"}, w.keys...)).Draw(t, "key"))
	case "stray verdict":
		return w.verdict(t, rollout.GateID("r1", rapid.SampledFrom(w.plan.Clusters).Draw(t, "cluster").Cluster, rapid.SampledFrom([]string{"gateway", "sra", "ztwa", ""}).Draw(t, "step")))
	case "rollback":
		// Rare, or few walks would get far.
		if rapid.IntRange(0, 3).Draw(t, "rollback if 0") == 0 {
			return rollout.Rollback{Reason: "a person's", RequestID: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "request")}
		}
	case "pause":
		return rollout.Pause{Reason: "a person looks", RequestID: fmt.Sprint("pause ", rapid.IntRange(0, 9).Draw(t, "request"))}
	case "resume":
		return rollout.Resume{Reason: "a person has looked", RequestID: fmt.Sprint("resume ", rapid.IntRange(0, 9).Draw(t, "request"))}
	case "skip":
		return rollout.LeaveOut{Cluster: rapid.SampledFrom(w.plan.Clusters).Draw(t, "cluster").Cluster, Reason: "not this one"}
	case "abort":
		if rapid.IntRange(0, 3).Draw(t, "abort if 0") == 0 {
			return rollout.Abort{Reason: "not today"}
		}
	case "repeat":
		return rapid.SampledFrom(w.moments).Draw(t, "moment").input
	}
	return rollout.Tick{}
}

func (w *walker) answer(t *rapid.T, key string) rollout.Input {
	in := rollout.CommandFinished{Key: key, BeganAt: w.now.Add(-time.Minute), FinishedAt: w.now}
	switch rapid.IntRange(0, 9).Draw(t, "failed if 0") {
	case 0:
		in.Error = "it did not work"
	case 1:
		in.Package = ""
	default:
		in.Package = "package of " + key
	}
	return in
}

func (w *walker) verdict(t *rapid.T, id string) rollout.Input {
	return w.decided(id, rapid.SampledFrom([]gate.Verdict{
		gate.Pass, gate.Pass, gate.Pass, gate.Pass, gate.Fail, gate.Hold, gate.Inconclusive, gate.Pending,
	}).Draw(t, "verdict"))
}

// decided is a verdict with what follows from it by the plan's policy; without one,
// nothing is said of that.
func (w *walker) decided(id string, v gate.Verdict) rollout.Input {
	in := rollout.GateDecided{Gate: id, Summary: "so the sessions say", Verdict: v}
	if id == w.state.WaveGate && v == gate.Fail {
		for i, c := range w.plan.Clusters {
			if i%2 == 0 {
				in.Back = append(in.Back, c.Cluster)
			}
		}
	}
	if w.plan.Policy != nil {
		in.Consequence = w.plan.Policy.Mode.Consequence(v)
	}
	return in
}

func openGates(s rollout.State) []string {
	var out []string
	for _, c := range s.Clusters {
		if c.Phase == rollout.ClusterGating {
			out = append(out, c.Gate)
		}
	}
	if s.WaveGate != "" && (s.Phase == rollout.PhaseRunning || s.Phase == rollout.PhasePaused) {
		out = append(out, s.WaveGate)
	}
	return out
}

// Each law is judged on whole walks.
func TestLaws(t *testing.T) {
	t.Parallel()
	for name, law := range map[string]func(*rapid.T, []moment){
		"deciding is deterministic and leaves the state as it was": deterministic,
		"replaying the facts gives the next state":                 replayed,
		"a repeated input yields no facts":                         repeated,
		"what nobody waits for yields no facts":                    unasked,
		"no more clusters go forward at once than may":             fewForward,
		"what is paused begins nothing":                            pausedIsStill,
		"no wave begins before the one before is through":          wavesInOrder,
		"a wave that is judged is passed before the next begins":   wavesPassed,
		"past the failures that may be nothing starts":             withinFailures,
		"what is skipped is never touched":                         skippedIsLeft,
		"what was taken back for its gate never succeeds":          failedStaysFailed,
		"what follows from a verdict is what its policy's mode is": followsMode,
		"no step is applied after the way back began":              noApplyAfterRollback,
		"the way back is begun once, unless it failed":             backOnce,
		"a key names one command, and none that was answered":      keys,
		"what is restored is what was recorded":                    restoresWhatWasRecorded,
		"a rollout that rests has nobody at work":                  restingIsStill,
		"a rollout rolled back has every touched cluster back":     rolledBackIsBack,
		"what does not simply go on says why":                      saysWhy,
		"whoever moves has a window, and the way back its own":     windows,
		"time changes something exactly from WakeAt on":            wakes,
		"a cluster was moved from a touch on until it settled":     moves,
		"from anywhere, answers and verdicts bring it to rest":     comesToRest,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { law(t, walk(t)) })
		})
	}
}

func deterministic(t *rapid.T, walk []moment) {
	for _, m := range walk {
		snapshot := m.before
		snapshot.Clusters = slices.Clone(m.before.Clusters)
		if again := rollout.Decide(m.before, m.input, m.now); !reflect.DeepEqual(again, m.Decision) {
			t.Fatalf("%v: decided again: %+v", m, again)
		}
		if !reflect.DeepEqual(snapshot, m.before) {
			t.Fatalf("%v: the state before was changed", m)
		}
	}
}

func replayed(t *rapid.T, walk []moment) {
	whole := rollout.State{ID: "r1"}
	for _, m := range walk {
		state := m.before
		for _, f := range m.Facts {
			if !f.At.Equal(m.now) {
				t.Fatalf("%v: fact %+v has another time", m, f)
			}
			state, whole = state.Apply(f), whole.Apply(f)
		}
		if !reflect.DeepEqual(state, m.Next) || !reflect.DeepEqual(whole, m.Next) {
			t.Fatalf("%v: replayed to %s, all facts to %s", m, describeState(state), describeState(whole))
		}
	}
}

func repeated(t *rapid.T, walk []moment) {
	for _, m := range walk {
		if again := rollout.Decide(m.Next, m.input, m.now); len(again.Facts) != 0 {
			t.Fatalf("%v: once more: %+v", m, again.Facts)
		}
	}
}

func unasked(t *rapid.T, walk []moment) {
	for _, m := range walk {
		waited := true
		switch in := m.input.(type) {
		case rollout.CommandFinished:
			waited = slices.ContainsFunc(m.before.Commands(), func(c rollout.Command) bool { return c.Key == in.Key })
		case rollout.GateDecided:
			waited = slices.Contains(openGates(m.before), in.Gate)
		}
		if !waited && len(m.Facts) != 0 {
			t.Fatalf("%v: %+v", m, m.Facts)
		}
		if len(m.Facts) == 0 && !reflect.DeepEqual(m.before, m.Next) {
			t.Fatalf("%v: the state changed without a fact", m)
		}
	}
}

func fewForward(t *rapid.T, walk []moment) {
	for _, m := range walk {
		forward := 0
		for _, c := range m.Next.Clusters {
			if c.Phase.Busy() && c.Phase != rollout.ClusterRollingBack {
				forward++
			}
		}
		if forward > max(m.Next.Plan.MaxConcurrent, 1) {
			t.Fatalf("%v", m)
		}
	}
}

func pausedIsStill(t *rapid.T, walk []moment) {
	for _, m := range walk {
		for _, f := range m.Facts {
			_, cluster := f.Kind.(rollout.ClusterStarted)
			_, step := f.Kind.(rollout.StepStarted)
			if m.before.Paused && m.Next.Paused && (cluster || step) {
				t.Fatalf("%v: %+v while it is paused", m, f)
			}
		}
	}
}

func wavesInOrder(t *rapid.T, walk []moment) {
	soaks := make(map[int]time.Time)
	for _, m := range walk {
		state := m.before
		for _, f := range m.Facts {
			switch k := f.Kind.(type) {
			case rollout.WaveSoaking:
				soaks[k.Wave] = k.Ends
			case rollout.WaveStarted:
				if m.now.Before(soaks[k.Wave-1]) {
					t.Fatalf("%v: wave %d begins before %s", m, k.Wave, soaks[k.Wave-1])
				}
			case rollout.ClusterStarted:
				wave := state.Plan.WaveOf(f.Cluster)
				for _, c := range state.Clusters {
					if state.Plan.WaveOf(c.Plan.Cluster) < wave && (c.Phase == rollout.ClusterWaiting || c.Phase.Busy()) {
						t.Fatalf("%v: %s of wave %d starts while %s is %s", m, f.Cluster, wave, c.Plan.Cluster, c.Phase)
					}
				}
				if wave != state.Wave {
					t.Fatalf("%v: %s of wave %d starts in wave %d", m, f.Cluster, wave, state.Wave)
				}
			}
			state = state.Apply(f)
		}
	}
}

// wavesPassed also asks that a wave that failed is gone past by a person alone, and
// that only clusters of that wave go back by its gate.
func wavesPassed(t *rapid.T, walk []moment) {
	asked, passed, failed := make(map[int]bool), make(map[int]bool), false
	for _, m := range walk {
		state := m.before
		for _, f := range m.Facts {
			switch k := f.Kind.(type) {
			case rollout.WaveGated:
				asked[k.Wave] = true
			case rollout.WavePassed:
				passed[k.Wave] = true
			case rollout.WaveFailed:
				passed[k.Wave], failed = true, true
			case rollout.RolloutResumed:
				failed = failed && state.Phase != rollout.PhaseHeld && state.Phase != rollout.PhaseHolding
			case rollout.RollbackStarted:
				if in, byGate := m.input.(rollout.GateDecided); byGate && in.Gate == m.before.WaveGate && in.Gate != "" && state.Plan.WaveOf(f.Cluster) != m.before.Wave {
					t.Fatalf("%v: %s goes back, which is of another wave", m, f.Cluster)
				}
			case rollout.WaveStarted, rollout.RolloutSucceeded:
				judged := state.Plan.Policy != nil && state.Plan.Policy.Wave.Demands()
				ran := slices.ContainsFunc(state.Clusters, func(c rollout.ClusterRun) bool {
					return c.Phase == rollout.ClusterSucceeded && state.Plan.WaveOf(c.Plan.Cluster) == state.Wave
				})
				if begins, ok := k.(rollout.WaveStarted); (!ok || begins.Wave > 0) && judged && ran && !passed[state.Wave] {
					t.Fatalf("%v: %T past wave %d, which was not judged", m, k, state.Wave)
				}
				if failed {
					t.Fatalf("%v: %T past a wave that failed", m, k)
				}
			case rollout.ClusterStarted:
				if failed {
					t.Fatalf("%v: %s starts past a wave that failed", m, f.Cluster)
				}
			}
			state = state.Apply(f)
		}
	}
	for wave := range passed {
		if !asked[wave] {
			t.Fatalf("wave %d was passed and not judged", wave)
		}
	}
}

func withinFailures(t *rapid.T, walk []moment) {
	accepted := 0
	for _, m := range walk {
		state := m.before
		for _, f := range m.Facts {
			lost := failures(state)
			switch f.Kind.(type) {
			case rollout.RolloutResumed:
				if state.Phase == rollout.PhaseHeld || state.Phase == rollout.PhaseHolding {
					accepted = lost
				}
			case rollout.ClusterStarted:
				if lost-accepted > state.Plan.MaxFailures {
					t.Fatalf("%v: %s starts after %d failures, of which %d were accepted", m, f.Cluster, lost, accepted)
				}
			}
			state = state.Apply(f)
		}
	}
}

func failures(s rollout.State) (n int) {
	for _, c := range s.Clusters {
		if c.Phase == rollout.ClusterRolledBack || c.Phase == rollout.ClusterFailed {
			n++
		}
	}
	return n
}

func skippedIsLeft(t *rapid.T, walk []moment) {
	for _, m := range walk {
		for _, c := range m.Next.Clusters {
			if c.Phase == rollout.ClusterLeftOut && (c.BasePackage != "" || !c.MovedAt.IsZero()) {
				t.Fatalf("%v: %s was skipped and touched", m, c.Plan.Cluster)
			}
		}
	}
}

func failedStaysFailed(t *rapid.T, walk []moment) {
	failed := make(map[fleet.ClusterID]bool)
	accepted := false
	for _, m := range walk {
		accepted = accepted || slices.ContainsFunc(m.Facts, func(f rollout.Fact) bool { _, resumed := f.Kind.(rollout.RolloutResumed); return resumed })
		if in, ok := m.input.(rollout.GateDecided); ok && mode(m.before) == gate.Act && in.Verdict == gate.Fail && len(m.Facts) > 0 {
			failed[m.Facts[0].Cluster] = true
		}
		for _, c := range m.Next.Clusters {
			if failed[c.Plan.Cluster] && c.Phase == rollout.ClusterSucceeded {
				t.Fatalf("%v: %s succeeded after its gate failed", m, c.Plan.Cluster)
			}
		}
		if len(failed) > 0 && !accepted && m.Next.Phase == rollout.PhaseSucceeded {
			t.Fatalf("%v: succeeded after a gate failed", m)
		}
	}
}

// mode is how far the policy of a rollout is trusted: that of the configuration acts.
func mode(s rollout.State) gate.Mode {
	if s.Plan.Policy == nil {
		return gate.Act
	}
	return s.Plan.Policy.Mode
}

// followsMode looks at verdicts of open gates alone: a policy in shadow, or one that
// advises, neither holds nor rolls back; one that holds never rolls back; one that
// acts rolls back exactly what failed. Whoever is trusted with less is not waited
// for longer.
func followsMode(t *rapid.T, walk []moment) {
	for _, m := range walk {
		in, ok := m.input.(rollout.GateDecided)
		if !ok || !slices.Contains(openGates(m.before), in.Gate) {
			continue
		}
		var passed, held, back bool
		wave := in.Gate == m.before.WaveGate
		for _, f := range m.Facts {
			switch f.Kind.(type) {
			case rollout.StepPassed:
				passed = passed || !wave
			case rollout.WavePassed:
				passed = true
			case rollout.ClusterHeldBack, rollout.RolloutHolding:
				held = true
			case rollout.RolloutHeld:
				held = held || wave && !back
			case rollout.RollbackStarted, rollout.WaveFailed:
				back = true
			}
		}
		if wave && passed {
			held = false // the rollout may end, and not have got everywhere
		}
		mode, v := mode(m.before), in.Verdict
		silent := mode == gate.Shadow || mode == gate.Advise
		wantBack := mode == gate.Act && v == gate.Fail
		wantPassed := v == gate.Pass || silent && v != gate.Pending
		wantHeld := v != gate.Pending && !wantPassed && !wantBack
		if passed != wantPassed || held != wantHeld || back != wantBack {
			t.Fatalf("%v: %s in mode %s: passed %t, held %t, goes back %t", m, v, mode, passed, held, back)
		}
	}
}

func noApplyAfterRollback(t *rapid.T, walk []moment) {
	back := make(map[fleet.ClusterID]bool)
	for _, m := range walk {
		for _, f := range m.Facts {
			if _, ok := f.Kind.(rollout.RollbackStarted); ok {
				back[f.Cluster] = true
			}
		}
		for _, c := range m.Next.Commands() {
			if _, restore := c.Action.(rollout.Restore); !restore && back[c.Cluster] {
				t.Fatalf("%v: asks %s to %T", m, c.Cluster, c.Action)
			}
		}
	}
}

func backOnce(t *rapid.T, walk []moment) {
	for _, m := range walk {
		for _, f := range m.Facts {
			if _, ok := f.Kind.(rollout.RollbackStarted); !ok {
				continue
			}
			switch c, _ := m.before.Find(f.Cluster); {
			case c.Phase == rollout.ClusterRollingBack, c.Phase == rollout.ClusterRolledBack, c.BasePackage == "",
				c.Restores > 0 && c.Phase != rollout.ClusterFailed:
				t.Fatalf("%v: %s is %s on %q and begins its way back", m, f.Cluster, c.Phase, c.BasePackage)
			}
		}
	}
}

func keys(t *rapid.T, walk []moment) {
	known, answered := make(map[string]rollout.Command), make(map[string]bool)
	for _, m := range walk {
		if in, ok := m.input.(rollout.CommandFinished); ok && len(m.Facts) > 0 {
			answered[in.Key] = true
		}
		asked := make(map[string]bool)
		for _, c := range m.Next.Commands() {
			if asked[c.Key] || answered[c.Key] || !strings.HasPrefix(c.Key, "rollout/r1/"+string(c.Cluster)+"/") || c.Rollout != "r1" {
				t.Fatalf("%v: asks for %+v; twice now %t, answered before %t", m, c, asked[c.Key], answered[c.Key])
			}
			if before, ok := known[c.Key]; ok && !reflect.DeepEqual(before, c) {
				t.Fatalf("%v: %s was %+v and is %+v", m, c.Key, before, c)
			}
			asked[c.Key], known[c.Key] = true, c
		}
	}
}

func restoresWhatWasRecorded(t *rapid.T, walk []moment) {
	recorded := make(map[fleet.ClusterID]string)
	for _, m := range walk {
		for _, f := range m.Facts {
			if k, ok := f.Kind.(rollout.PackageCaptured); ok {
				recorded[f.Cluster] = k.Package
			}
		}
		for _, c := range m.Next.Commands() {
			base := recorded[c.Cluster]
			switch a := c.Action.(type) {
			case rollout.Apply:
				if base == "" || a.BasePackage != base || len(a.Images) == 0 {
					t.Fatalf("%v: applies %+v on what is recorded as %q", m, a, base)
				}
			case rollout.Restore:
				if base == "" || a.Package != base {
					t.Fatalf("%v: restores %q where %q is recorded", m, a.Package, base)
				}
			}
		}
	}
}

func restingIsStill(t *rapid.T, walk []moment) {
	for _, m := range walk {
		if !m.Next.Phase.Resting() {
			if !m.Next.EndedAt.IsZero() {
				t.Fatalf("%v: goes on, and ended at %s", m, m.Next.EndedAt)
			}
			continue
		}
		if commands, gates := m.Next.Commands(), openGates(m.Next); len(commands)+len(gates) > 0 || m.Next.EndedAt.IsZero() {
			t.Fatalf("%v: rests since %s, waits for %+v and %v", m, m.Next.EndedAt, commands, gates)
		}
	}
}

func rolledBackIsBack(t *rapid.T, walk []moment) {
	for _, m := range walk {
		for _, c := range m.Next.Clusters {
			switch untouched := c.BasePackage == ""; {
			case m.Next.Phase == rollout.PhaseRolledBack && !untouched && c.Phase != rollout.ClusterRolledBack,
				m.Next.Phase == rollout.PhaseSucceeded && (c.Phase == rollout.ClusterWaiting || c.Phase.Busy()),
				m.Next.Phase == rollout.PhaseAborted && c.Phase.Busy(),
				m.Next.Phase != rollout.PhaseFailed && m.Next.Phase.Resting() && !untouched && c.Phase == rollout.ClusterFailed:
				t.Fatalf("%v: %s is %s", m, c.Plan.Cluster, c.Phase)
			}
		}
	}
}

func saysWhy(t *rapid.T, walk []moment) {
	for _, m := range walk {
		s := m.Next
		fine := !s.Exists() || s.Phase == rollout.PhaseRunning || s.Phase == rollout.PhaseSucceeded
		if fine != (s.Reason == "") {
			t.Fatalf("%v: for %q", m, s.Reason)
		}
		for _, c := range s.Clusters {
			switch c.Phase {
			case rollout.ClusterHeld, rollout.ClusterFailed, rollout.ClusterRollingBack:
				if c.Reason == "" {
					t.Fatalf("%v: %s does not say why", m, c.Plan.Cluster)
				}
			}
		}
	}
}

func windows(t *rapid.T, walk []moment) {
	for _, m := range walk {
		for _, after := range m.Next.Clusters {
			before, _ := m.before.Find(after.Plan.Cluster)
			want := before.WindowEnds
			for _, f := range m.Facts {
				if f.Cluster != after.Plan.Cluster {
					continue
				}
				_, started := f.Kind.(rollout.ClusterStarted)
				_, step := f.Kind.(rollout.StepStarted)
				_, back := f.Kind.(rollout.RollbackStarted)
				if started || step && before.MovedAt.IsZero() || back && before.Phase == rollout.ClusterSucceeded {
					want = m.now.Add(m.Next.Plan.Window)
				}
			}
			if !after.WindowEnds.Equal(want) {
				t.Fatalf("%v: the window of %s ends at %s, not %s", m, after.Plan.Cluster, after.WindowEnds, want)
			}
		}
	}
}

func wakes(t *rapid.T, walk []moment) {
	for _, m := range walk {
		at := m.Next.WakeAt()
		if at.IsZero() {
			at = m.now.Add(1000 * time.Hour)
		} else if early := rollout.Decide(m.Next, rollout.Tick{}, at); len(early.Facts) == 0 {
			t.Fatalf("%v: nothing happens at %s", m, at)
		}
		if late := rollout.Decide(m.Next, rollout.Tick{}, at.Add(-1)); len(late.Facts) != 0 {
			t.Fatalf("%v: %+v before %s", m, late.Facts, at)
		}
	}
}

func moves(t *rapid.T, walk []moment) {
	touched := make(map[fleet.ClusterID]time.Time) // when its first step was asked for
	for _, m := range walk {
		for _, f := range m.Facts {
			if _, ok := f.Kind.(rollout.StepStarted); ok && touched[f.Cluster].IsZero() {
				touched[f.Cluster] = f.At
			}
		}
		for _, c := range m.Next.Clusters {
			asked := touched[c.Plan.Cluster]
			was := !asked.IsZero()
			span, moved := c.Moved(m.now)
			if moved != was {
				t.Fatalf("%v: %s moved %t, touched %t", m, c.Plan.Cluster, moved, was)
			}
			if !moved {
				continue
			}
			// The driver's answer says when it began: here a minute before it came.
			if began := span.From.Sub(asked); began < -time.Minute || c.Phase == rollout.ClusterRollingBack && c.Gate == "" && began > 0 {
				t.Fatalf("%v: %s was asked at %s and moved from %s", m, c.Plan.Cluster, asked, span.From)
			}
			settled := c.Phase == rollout.ClusterSucceeded || c.Phase == rollout.ClusterRolledBack
			if span.To.Before(span.From) || !settled && !span.To.Equal(m.now) {
				t.Fatalf("%v: %s moved %+v", m, c.Plan.Cluster, span)
			}
		}
	}
}

func comesToRest(t *rapid.T, walk []moment) {
	w := &walker{state: walk[len(walk)-1].Next, now: walk[len(walk)-1].now, plan: walk[0].Next.Plan}
	// Four clusters of three steps need three times as many inputs at the most.
	for range 4*3*3*3 + 8 {
		commands, gates := w.state.Commands(), openGates(w.state)
		switch at := w.state.WakeAt(); {
		case len(commands) > 0:
			w.take(w.answer(t, rapid.SampledFrom(commands).Draw(t, "command").Key))
		case len(gates) > 0:
			v := rapid.SampledFrom([]gate.Verdict{gate.Pass, gate.Fail, gate.Hold, gate.Inconclusive}).Draw(t, "verdict")
			w.take(w.decided(gates[0], v))
		case w.state.Paused:
			w.take(rollout.Resume{Reason: "a person has looked", RequestID: "last"})
		case !at.IsZero():
			w.now = at
			w.take(rollout.Tick{})
		case !w.state.Phase.Resting():
			t.Fatalf("nothing is waited for, and it does not rest: %s", describeState(w.state))
		default:
			return
		}
	}
	t.Fatalf("it does not come to rest: %s", describeState(w.state))
}

// Laws over walks that never get anywhere would hold for nothing, so the walks
// themselves are looked at.
func TestWalksGoEverywhere(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	gen := rapid.Custom(walk)
	for seed := range 5000 {
		for _, m := range gen.Example(seed) {
			for _, f := range m.Facts {
				seen[kindName(f.Kind)] = true
			}
			seen[string(m.Next.Phase)] = true
			if in, ok := m.input.(rollout.GateDecided); ok && len(m.Facts) > 0 {
				seen[string(mode(m.before))+" after "+string(in.Verdict)] = true
			}
			for _, c := range m.Next.Clusters {
				seen["cluster "+string(c.Phase)] = true
				if c.Restores > 1 {
					seen["restored anew"] = true
				}
			}
		}
	}
	want := []string{
		"restored anew", "running", "paused", "holding", "held", "succeeded", "rolling_back", "rolled_back", "aborted", "failed", "cluster waiting", "cluster capturing",
		"cluster ready", "cluster skipped", "cluster applying", "cluster gating", "cluster held", "cluster succeeded", "cluster rolling_back", "cluster rolled_back", "cluster failed",
	}
	for _, k := range rollout.Kinds() {
		want = append(want, kindName(k))
	}
	for _, mode := range gate.Modes() {
		for _, v := range []gate.Verdict{gate.Pass, gate.Fail, gate.Hold, gate.Inconclusive} {
			want = append(want, string(mode)+" after "+string(v))
		}
	}
	for _, w := range want {
		if !seen[w] {
			t.Errorf("no walk shows %s; seen: %v", w, slices.Sorted(maps.Keys(seen)))
		}
	}
}
