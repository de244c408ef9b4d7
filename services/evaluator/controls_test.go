//go:build linux && amd64

package evaluator_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// stepOneOf applies the first step of a rollout of one cluster, with the others of the
// fleet untouched, after all of them have had sessions that mostly worked.
func (w *world) stepOneOf(stepped fleet.ClusterID, all ...fleet.ClusterID) (gateID string, sources map[fleet.ClusterID]*source) {
	w.t.Helper()
	sources = make(map[fleet.ClusterID]*source)
	for _, cluster := range all {
		s := w.source(cluster)
		sources[cluster] = s
		s.send(w.ran(cluster))
		s.send(append(w.sessions(cluster, "old", -500*time.Second, 300, 50), w.mark(cluster, 0))...)
		w.awaitStates(cluster, "locked")
	}
	_, gateID = w.apply(stepped)
	w.awaitOpen(gateID)
	w.advance(2 * time.Minute)
	return gateID, sources
}

// What breaks sessions in clusters that were not stepped, too, is not blamed on the
// step: the gate holds, and a person decides.
func TestWhatAllClustersHaveIsNotTheSteps(t *testing.T) {
	t.Parallel()
	all := []fleet.ClusterID{"east", "north", "south", "west"}
	w := newWorld(t, all...)
	l := w.start()
	gateID, sources := w.stepOneOf("east", all...)
	for _, cluster := range []fleet.ClusterID{"west", "north", "south", "east"} {
		sources[cluster].send(append(w.sessions(cluster, "new", 11*time.Second, 40, 2), w.mark(cluster, 61*time.Second))...)
	}
	await(t, "a hold beside all", func() bool {
		w.advance(time.Second) // the controls are asked again as time goes by
		d := l.gate(gateID).GetDecision()
		failed := int64(0)
		for _, c := range d.GetControls().GetClusters() {
			failed += c.GetNewFailed()
		}
		return d.GetVerdict() == "hold" && failed == 60
	})
	if opened, decisions := w.gateFacts(gateID); opened != 1 || len(decisions) != 0 {
		t.Fatalf("opened %d times and decided %v before the deadline", opened, decisions)
	}
	w.advance(2 * time.Hour)
	d := w.awaitDecision(gateID)
	same(t, "the verdict", "hold", d.GetVerdict())
	same(t, "the first reason", "common_cause", d.GetReasons()[0].GetCode())
	same(t, "what follows", "hold", d.GetConsequence())
	same(t, "how many were asked", 3, len(d.GetControls().GetClusters()))
	for _, c := range d.GetControls().GetClusters() {
		if c.GetNewFailed() != 20 || c.GetBaselineSucceeded() != 294 {
			t.Errorf("the control says %v", c)
		}
	}
	l.replay(gateID)
	l.stop()
	w.start().replay(gateID)
}

// A step that breaks sessions in its own cluster alone goes back, and the decision
// tells what it was set beside.
func TestWhatOnlyTheSteppedHasIsTheSteps(t *testing.T) {
	t.Parallel()
	all := []fleet.ClusterID{"east", "north", "south", "west"}
	w := newWorld(t, all...)
	l := w.start()
	gateID, sources := w.stepOneOf("east", all...)
	// One of the others is moved meanwhile, and is no control any more.
	w.record("r-south", "south", rollout.RolloutStarted{Plan: w.plan("south", nil)}, rollout.ClusterStarted{WindowEnds: w.step.Add(24 * time.Hour)})
	for _, cluster := range []fleet.ClusterID{"west", "north", "south", "east"} {
		broken := 0
		if cluster == "east" || cluster == "south" {
			broken = 2
		}
		sources[cluster].send(append(w.sessions(cluster, "new", 11*time.Second, 40, broken), w.mark(cluster, 60*time.Second))...)
	}
	await(t, "a decision", func() bool {
		w.advance(time.Second)
		_, decisions := w.gateFacts(gateID)
		return len(decisions) > 0
	})
	d := w.awaitDecision(gateID)
	same(t, "the verdict", "fail", d.GetVerdict())
	same(t, "what follows", "rollback", d.GetConsequence())
	same(t, "the first reason", "regression", d.GetReasons()[0].GetCode())
	if !strings.Contains(d.GetSummary(), "do not fail more: 0 of ") {
		t.Errorf("the summary does not tell of the controls: %s", d.GetSummary())
	}
	l.replay(gateID)
}
