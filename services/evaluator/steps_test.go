//go:build linux && amd64

package evaluator_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// brisk is a policy that a mixed cluster can answer: what runs and probes have to
// pass, and people's sessions must not be worse.
func brisk() *gate.Plan {
	demand := func(d gate.Demand) gate.CheckPolicy {
		return gate.CheckPolicy{Demand: d, Sustain: gate.Sustain{Looks: 1}}
	}
	step := gate.Stage{Deadline: time.Hour, Checks: map[gate.CheckName]gate.CheckPolicy{
		gate.CheckTelemetry: demand(gate.DemandPass), gate.CheckInventory: demand(gate.DemandPass), gate.CheckProbes: demand(gate.DemandPass),
		gate.CheckSessions: demand(gate.DemandNoFail), gate.CheckForwarding: demand(gate.DemandAdvisory),
	}}
	return &gate.Plan{Name: "brisk", Mode: gate.Act, Statistics: policy(), Step: step, Wave: step}
}

// probed has one cluster looked at by a probe.
func probed(w *world) {
	w.config.Clusters[0].Checks = []gate.ConfiguredCheck{{Name: "login", Kind: fleet.CheckSSH}}
}

// ran is what ran a minute before the step.
func (w *world) ran(cluster fleet.ClusterID) codec.Observation {
	o := w.inventory(cluster, "1", "1")
	o.Inventory.ObservedAt = w.step.Add(-time.Minute)
	return o
}

// probes are n logins a second apart, and the word that there were no others.
func (w *world) probes(cluster fleet.ClusterID, from time.Duration, n int, failure fleet.Failure) []codec.Observation {
	var out []codec.Observation
	for i := range n {
		at := w.step.Add(from + time.Duration(i)*time.Second)
		out = append(out, codec.Observation{Check: &fleet.Check{
			Cluster: cluster, Name: "login", Kind: fleet.CheckSSH, At: at, OK: failure == "", Failure: failure,
		}})
	}
	return append(out, codec.Observation{Mark: &fleet.Mark{Cluster: cluster, About: fleet.KindProbe, CompleteUntil: w.step.Add(from + time.Duration(n)*time.Second)}})
}

// verdicts are those of a decision's checks, in their order.
func verdicts(d *gatev1.Decision) string {
	var out []string
	for _, c := range d.GetChecks() {
		out = append(out, fmt.Sprintf("%s %s", c.GetCheck(), c.GetVerdict()))
	}
	return strings.Join(out, ", ")
}

// A step is passed by what runs and by probes where hardly anybody starts a session,
// and by neither alone.
func TestAStepPassesByItsProbes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "quiet")
	probed(w)
	l := w.start()
	s := w.source("quiet")
	s.send(w.ran("quiet"))
	s.send(append(w.sessions("quiet", "old", -500*time.Second, 3, 0), w.mark("quiet", 0))...)
	w.awaitStates("quiet", "locked")
	_, gateID := w.applyBy("quiet", brisk())
	w.awaitOpen(gateID)
	w.advance(30 * time.Second)

	s.send(append(w.probes("quiet", 12*time.Second, 15, ""), w.mark("quiet", 30*time.Second))...)
	w.awaitPasses()
	g := l.gate(gateID)
	same(t, "the verdict before what runs was seen", "pending", g.GetDecision().GetVerdict())
	same(t, "what each check says", "telemetry inconclusive, inventory pending, probes pass, sessions pending, forwarding inconclusive", verdicts(g.GetDecision()))

	s.send(w.inventory("quiet", "2", "1"), w.holds("quiet", fleet.KindInventory))
	d := w.awaitDecision(gateID)
	same(t, "the verdict", "pass", d.GetVerdict())
	same(t, "what follows", "go_on", d.GetConsequence())
	// Seven rule out that half of them fail.
	if n := d.GetProbes().GetNewSucceeded(); n != 7 || d.GetEvidence().GetNewSucceeded() != 0 {
		t.Errorf("%d probes and %d people's sessions are counted", n, d.GetEvidence().GetNewSucceeded())
	}
	l.replay(gateID)
}

// Probes that fail stop a step that people have not met yet, and what runs otherwise
// than planned does.
func TestAStepFailsByAnyOfItsChecks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "dead", "wrong", "worse")
	for i := range w.config.Clusters {
		w.config.Clusters[i].Checks = []gate.ConfiguredCheck{{Name: "login", Kind: fleet.CheckSSH}}
	}
	l := w.start()
	for _, cluster := range []fleet.ClusterID{"dead", "wrong", "worse"} {
		s := w.source(cluster)
		s.send(w.ran(cluster))
		s.send(append(w.sessions(cluster, "old", -500*time.Second, 100, 20), w.mark(cluster, 0))...)
		s.send(w.probes(cluster, -300*time.Second, 100, "")...)
		w.awaitStates(cluster, "locked")
		plan := brisk()
		_, gateID := w.applyBy(cluster, plan)
		w.awaitOpen(gateID)
	}
	w.advance(40 * time.Second)
	for cluster, checks := range map[fleet.ClusterID]string{
		"dead":  "probes fail",
		"worse": "sessions fail",
	} {
		s := w.source(cluster)
		s.incarnation = "later"
		s.send(w.inventory(cluster, "2", "1"), w.holds(cluster, fleet.KindInventory))
		failure, every := fleet.Failure(""), 0
		if cluster == "dead" {
			failure = fleet.FailureRefused
		} else {
			every = 2
		}
		s.send(append(w.probes(cluster, 12*time.Second, 25, failure), w.mark(cluster, 12*time.Second))...)
		s.send(append(w.sessions(cluster, "new", 13*time.Second, 20, every), w.mark(cluster, 40*time.Second))...)
		d := w.awaitDecision("r-" + string(cluster) + "-" + string(cluster) + "-gateway")
		same(t, "the verdict of "+string(cluster), "fail", d.GetVerdict())
		same(t, "what follows in "+string(cluster), "rollback", d.GetConsequence())
		if got := verdicts(d); !strings.Contains(got, checks) {
			t.Errorf("%s: %s, want %s", cluster, got, checks)
		}
		l.replay("r-" + string(cluster) + "-" + string(cluster) + "-gateway")
	}
	s := w.source("wrong")
	s.incarnation = "later"
	s.send(w.inventory("wrong", "7", "1"), w.holds("wrong", fleet.KindInventory))
	w.awaitPasses()
	if got := verdicts(l.gate("r-wrong-wrong-gateway").GetDecision()); !strings.Contains(got, "inventory pending") {
		t.Errorf("another version within the window: %s", got)
	}
}

// A policy on trial is judged to the end and holds nobody up.
func TestAPolicyInShadowStopsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "trial")
	probed(w)
	l := w.start()
	s := w.source("trial")
	s.send(w.ran("trial"))
	s.send(append(w.sessions("trial", "old", -500*time.Second, 100, 20), w.mark("trial", 0))...)
	w.awaitStates("trial", "locked")
	plan := brisk()
	plan.Mode = gate.Shadow
	_, gateID := w.applyBy("trial", plan)
	w.awaitOpen(gateID)
	w.advance(40 * time.Second)
	s.send(append(w.sessions("trial", "new", 11*time.Second, 20, 2), w.mark("trial", 40*time.Second))...)
	d := w.awaitDecision(gateID)
	same(t, "the verdict", "fail", d.GetVerdict())
	same(t, "what follows", "go_on", d.GetConsequence())
	same(t, "the mode", "shadow", l.gate(gateID).GetTerms().GetMode())
	l.replay(gateID)
}

// House rules are asked of what the checks found, and what a rule stops says so.
func TestAHouseRuleStopsAStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ruled")
	l := w.start()
	s := w.source("ruled")
	s.send(w.ran("ruled"))
	s.send(append(w.sessions("ruled", "old", -500*time.Second, 100, 20), w.mark("ruled", 0))...)
	w.awaitStates("ruled", "locked")
	plan := brisk()
	plan.Step.Checks = map[gate.CheckName]gate.CheckPolicy{gate.CheckSessions: {Demand: gate.DemandPass}}
	plan.Step.Rules = []gate.Rule{{Name: "any", When: "sessions.new_failed >= 1", Verdict: gate.Fail, Reason: "One failure is one too many."}}
	_, gateID := w.applyBy("ruled", plan)
	w.awaitOpen(gateID)
	w.advance(40 * time.Second)
	s.send(append(w.sessions("ruled", "new", 11*time.Second, 3, 3), w.mark("ruled", 40*time.Second))...)
	d := w.awaitDecision(gateID)
	same(t, "the verdict", "fail", d.GetVerdict())
	if !slices.ContainsFunc(d.GetReasons(), func(r *gatev1.Reason) bool { return strings.Contains(r.GetText(), "One failure is one too many.") }) {
		t.Errorf("the reasons are %v", d.GetReasons())
	}
	l.replay(gateID)
}

// A stop does not wait for its rows. Whoever stores them after a crash keeps what the
// decision rests on, also the marks that are of no use otherwise.
func TestWhatAStopRestsOnIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "dead")
	probed(w)
	l := w.start()
	s := w.source("dead")
	s.send(w.ran("dead"))
	s.send(append(w.sessions("dead", "old", -500*time.Second, 100, 20), w.mark("dead", 0))...)
	s.send(w.probes("dead", -300*time.Second, 100, "")...)
	w.awaitStates("dead", "locked")
	_, gateID := w.applyBy("dead", brisk())
	w.awaitOpen(gateID)
	w.advance(40 * time.Second)
	w.store.script(func(when string, _ []codec.Record) error {
		if when == "before" {
			return errors.New("connection refused")
		}
		return nil
	})
	seen := append(w.probes("dead", 12*time.Second, 25, fleet.FailureRefused), w.holds("dead", fleet.KindInventory), w.mark("dead", 12*time.Second))
	s.send(append(seen, w.inventory("dead", "2", "1"))...)
	d := w.awaitDecision(gateID)
	same(t, "the verdict", "fail", d.GetVerdict())
	if got := verdicts(d); !strings.HasPrefix(got, "telemetry pass, ") {
		t.Errorf("the decision rests on no marks: %s", got)
	}
	l.stop()
	l = w.start()
	w.store.script(nil)
	l.replay(gateID)
}
