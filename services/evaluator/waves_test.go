//go:build linux && amd64

package evaluator_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// pooled is a policy by which a step passes at once and people's sessions decide on the
// wave.
func pooled() *gate.Plan {
	demand := func(d gate.Demand) gate.CheckPolicy {
		return gate.CheckPolicy{Demand: d, Sustain: gate.Sustain{Looks: 1}}
	}
	return &gate.Plan{
		Name: "pooled", Mode: gate.Act, Statistics: policy(),
		Step: gate.Stage{Deadline: time.Hour, Checks: map[gate.CheckName]gate.CheckPolicy{
			gate.CheckTelemetry: demand(gate.DemandPass), gate.CheckSessions: demand(gate.DemandNoFail),
		}},
		Wave: gate.Stage{Soak: 30 * time.Minute, Deadline: time.Hour, Checks: map[gate.CheckName]gate.CheckPolicy{
			gate.CheckTelemetry: demand(gate.DemandPass), gate.CheckSessions: demand(gate.DemandPass),
		}},
	}
}

// throughWave takes some clusters through the one step of a wave, each of whose gates
// passes, and asks for the gate of the wave. The last clusters of the fleet stay as they
// are.
func (w *world) throughWave(by *gate.Plan, moved ...fleet.ClusterID) (gateID string, sources map[fleet.ClusterID]*source) {
	w.t.Helper()
	sources = make(map[fleet.ClusterID]*source)
	for _, c := range w.config.Clusters {
		s := w.source(c.ID)
		sources[c.ID] = s
		s.send(w.ran(c.ID))
		s.send(append(w.sessions(c.ID, "old", -500*time.Second, 300, 30), w.mark(c.ID, 0))...)
		w.awaitStates(c.ID, "locked")
	}
	const id = rollout.ID("r-wave")
	plan := rollout.Plan{
		Release: "spring", Gate: policy(), Window: 24 * time.Hour, Lookback: 10 * time.Minute, Policy: by, MaxConcurrent: len(moved),
		Waves: []rollout.Wave{{Name: "first", Clusters: len(moved)}},
	}
	for _, cluster := range moved {
		one := w.plan(cluster, by).Clusters[0]
		one.Steps = one.Steps[:1]
		plan.Clusters = append(plan.Clusters, one)
	}
	tell := func(cluster fleet.ClusterID, kinds ...rollout.Kind) {
		event := &rolloutv1.Event{Rollout: string(id)}
		for _, k := range kinds {
			event.Facts = append(event.Facts, codec.RolloutFactToProto(rollout.Fact{At: w.now(), Cluster: cluster, Kind: k}))
		}
		w.event(topology.NounRollout, string(id), event)
	}
	tell("", rollout.RolloutStarted{Plan: plan}, rollout.WaveStarted{})
	for _, cluster := range moved {
		tell(cluster, rollout.ClusterStarted{WindowEnds: w.step.Add(24 * time.Hour)}, rollout.PackageCaptured{Package: "p0"}, rollout.StepStarted{Step: "gateway"},
			rollout.StepApplied{Step: "gateway", Gate: rollout.GateID(id, cluster, "gateway"), Package: "p1", Policy: policy(), Boundary: gate.Boundary{
				BaselineFrom: w.step.Add(-10 * time.Minute), Start: w.step, End: w.step.Add(10 * time.Second),
			}})
	}
	w.advance(30 * time.Second)
	for _, cluster := range moved {
		sources[cluster].send(w.session(cluster, "first", 11*time.Second, fleet.SessionConnected), w.mark(cluster, 30*time.Second))
		d := w.awaitDecision(rollout.GateID(id, cluster, "gateway"))
		same(w.t, "the step's verdict", "pass", d.GetVerdict())
		tell(cluster, rollout.StepPassed{Step: "gateway"}, rollout.ClusterDone{Release: "spring", Package: "p1"})
	}
	gateID = rollout.WaveGateID(id, 0)
	tell("", rollout.WaveGated{Gate: gateID})
	w.awaitOpen(gateID)
	return gateID, sources
}

// since has sessions start in a cluster after the wave was through, one in so
// many of which fails.
func (w *world) since(s *source, cluster fleet.ClusterID, n, failing int) {
	w.t.Helper()
	s.send(append(w.sessions(cluster, "new", 40*time.Second, n, failing), w.mark(cluster, 40*time.Second+time.Duration(n)*time.Second))...)
}

// Clusters none of which has had sessions enough pass together, and not before the
// wave has lasted as long as it has to. The decision is taken again from rows alone,
// also by who starts afterwards.
func TestAWavePassesOnTheSessionsOfAllItsClusters(t *testing.T) {
	t.Parallel()
	moved := []fleet.ClusterID{"east", "north", "west"}
	w := newWorld(t, "east", "north", "west", "zero")
	l := w.start()
	gateID, sources := w.throughWave(pooled(), moved...)
	for _, cluster := range moved {
		w.since(sources[cluster], cluster, 60, 30)
	}
	w.since(sources["zero"], "zero", 60, 30)
	w.advance(90 * time.Second)
	await(t, "the evidence of all", func() bool {
		w.advance(time.Second)
		return l.gate(gateID).GetDecision().GetEvidence().GetNewSucceeded() > 150
	})
	if _, decisions := w.gateFacts(gateID); len(decisions) != 0 {
		t.Fatalf("decided before the soak was over: %v", decisions)
	}
	same(t, "the verdict in the soak", "pending", l.gate(gateID).GetDecision().GetVerdict())
	// What starts now reads all of it anew.
	l.stop()
	l = w.start()
	w.advance(30 * time.Minute)
	for _, cluster := range moved {
		sources[cluster].send(w.mark(cluster, w.now().Sub(w.step)+5*time.Minute))
	}
	d := awaitWave(w, gateID)
	same(t, "the verdict", "pass", d.GetVerdict())
	same(t, "what follows", "go_on", d.GetConsequence())
	same(t, "clusters", 3, len(d.GetMembers()))
	if d.GetReasons()[0].GetCode() != "all_passed" || !strings.Contains(d.GetChecks()[1].GetText(), "Promoted as a wave") {
		t.Errorf("it passed because of %v, sessions: %s", d.GetReasons(), d.GetChecks()[1].GetText())
	}
	for _, m := range d.GetMembers() {
		if m.GetBack() || m.GetStreamSequence() == 0 || m.GetNewSucceeded() < 50 {
			t.Errorf("member %v", m)
		}
	}
	l.replay(gateID)
	l.stop()
	w.start().replay(gateID)
}

// One bad cluster of three is named and goes back, and its neighbours do not.
func TestTheBadClusterOfAWaveGoesBack(t *testing.T) {
	t.Parallel()
	moved := []fleet.ClusterID{"east", "north", "west"}
	w := newWorld(t, "east", "north", "west", "zero")
	l := w.start()
	gateID, sources := w.throughWave(pooled(), moved...)
	for _, cluster := range moved {
		failing := 30
		if cluster == "north" {
			failing = 2
		}
		w.since(sources[cluster], cluster, 60, failing)
	}
	w.since(sources["zero"], "zero", 60, 30)
	d := awaitWave(w, gateID)
	same(t, "the verdict", "fail", d.GetVerdict())
	same(t, "what follows", "rollback", d.GetConsequence())
	for _, m := range d.GetMembers() {
		if bad := m.GetCluster() == "north"; m.GetBack() != bad {
			t.Errorf("goes back: %v", m)
		}
	}
	l.replay(gateID)
}

// What all clusters have, those that were not stepped, too, is nobody's fault here: a
// person decides.
func TestWhatAllClustersHaveIsNotTheWaves(t *testing.T) {
	t.Parallel()
	all := []fleet.ClusterID{"east", "north", "west", "zero"}
	w := newWorld(t, all...)
	l := w.start()
	gateID, sources := w.throughWave(pooled(), "east", "north")
	for _, cluster := range all {
		w.since(sources[cluster], cluster, 60, 2)
	}
	await(t, "a hold", func() bool {
		w.advance(time.Second)
		return l.gate(gateID).GetDecision().GetVerdict() == "hold"
	})
	w.advance(2 * time.Hour)
	d := awaitWave(w, gateID)
	same(t, "the verdict", "hold", d.GetVerdict())
	same(t, "what follows", "hold", d.GetConsequence())
	same(t, "the first reason", "common_cause", d.GetReasons()[0].GetCode())
	same(t, "who was asked", 2, len(d.GetControls().GetClusters()))
	l.replay(gateID)
}

// A wave of which nothing is heard is not decided by its deadline, and says so.
func TestAWaveWithoutSessionsIsInconclusive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "east", "zero")
	l := w.start()
	gateID, _ := w.throughWave(pooled(), "east")
	w.advance(2 * time.Hour)
	d := awaitWave(w, gateID)
	same(t, "the verdict", "inconclusive", d.GetVerdict())
	same(t, "what follows", "hold", d.GetConsequence())
	l.replay(gateID)
}

// awaitWave waits for the decision on a wave while time goes by in small steps.
func awaitWave(w *world, gateID string) *gatev1.Decision {
	w.t.Helper()
	await(w.t, "a decision on the wave", func() bool {
		w.advance(100 * time.Millisecond)
		_, decisions := w.gateFacts(gateID)
		return len(decisions) > 0
	})
	return w.awaitDecision(gateID)
}
