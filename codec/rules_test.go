package codec_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	commandv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/command/v1"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// broken lists the fields of a message whose rules it breaks.
func broken(t *testing.T, m proto.Message) []string {
	t.Helper()
	err := protovalidate.Validate(m)
	var violations *protovalidate.ValidationError
	if err != nil && !errors.As(err, &violations) {
		t.Fatalf("the rules of %T cannot be asked: %v", m, err)
	}
	if err == nil {
		return nil
	}
	var out []string
	for _, v := range violations.Violations {
		out = append(out, protovalidate.FieldPathString(v.Proto.GetField()))
	}
	return out
}

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("cluster-%d", i)
	}
	return out
}

func TestWhatMayBeAsked(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 63)
	var states []string
	for _, state := range drift.States() {
		states = append(states, string(state))
	}
	phases := []string{
		string(rollout.PhaseRunning), string(rollout.PhaseHeld), string(rollout.PhaseSucceeded), string(rollout.PhaseRollingBack),
		string(rollout.PhaseRolledBack), string(rollout.PhaseFailed),
	}
	requests := []proto.Message{
		&fleetv1.ListClustersRequest{},
		&fleetv1.ListClustersRequest{PageSize: 1001, PageToken: strings.Repeat("x", 512), States: states, Ids: many(5000), Release: "4.53.0-rc_1"},
		&fleetv1.WatchClustersRequest{},
		&fleetv1.WatchClustersRequest{States: states, Ids: many(5000), Release: long},
		&rolloutv1.PlanRolloutRequest{Release: "5.1.0"},
		&rolloutv1.StartRolloutRequest{Release: long, RequestId: "ZKWN4T7OGMV5JQXC2RBIEDYFHU", Clusters: many(5000)},
		&rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "ci/nightly:2026-03-04T12:00:00Z/" + long},
		&rolloutv1.GetRolloutRequest{Id: "r33b518cc90"},
		&rolloutv1.WatchRolloutRequest{Id: "r33b518cc90"},
		&rolloutv1.ListRolloutsRequest{PageSize: math.MaxInt32},
		&rolloutv1.ListRolloutsRequest{Phases: phases, Cluster: "berlin", Release: "5.1.0"},
		// That it needs a reason is said by an error with an id.
		&rolloutv1.RollbackRolloutRequest{Id: "r33b518cc90", RequestId: "1"},
		&rolloutv1.RollbackRolloutRequest{Id: "r33b518cc90", RequestId: "1", Reason: strings.Repeat("é", 1000)},
		&gatev1.ListGatesRequest{PageSize: 1001},
		&rolloutv1.PlanRolloutRequest{Release: "5.1.0", Policy: long},
		&rolloutv1.StartRolloutRequest{Release: "5.1.0", RequestId: "1", Policy: "careful"},
		&gatev1.ListPoliciesRequest{Names: []string{"careful", long}, PageSize: 1001},
		&gatev1.ApplyPoliciesRequest{Document: "policies: []"},
		&gatev1.GetGateRequest{Id: rollout.GateID(rollout.ID(long), fleet.ClusterID(long), "gateway")},
		&gatev1.WatchGateRequest{Id: "r33b518cc90-berlin-sra"},
		&gatev1.ReplayGateRequest{Id: "r33b518cc90-berlin-sra"},
		&gatev1.GetGateRequest{Id: rollout.WaveGateID("r33b518cc90", 0)},
	}
	for _, verdict := range []gate.Verdict{gate.Pending, gate.Pass, gate.Fail, gate.Hold, gate.Inconclusive} {
		requests = append(requests, &gatev1.ListGatesRequest{Rollout: "r33b518cc90", Cluster: "berlin", Verdict: string(verdict)})
	}
	for _, m := range requests {
		if fields := broken(t, m); fields != nil {
			t.Errorf("%T is refused for %v", m, fields)
		}
	}
}

func TestWhatMayNotBeAsked(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for _, test := range []struct {
		request proto.Message
		field   string
	}{
		{&fleetv1.ListClustersRequest{PageSize: -1}, "page_size"},
		{&fleetv1.ListClustersRequest{PageToken: strings.Repeat("x", 513)}, "page_token"},
		{&fleetv1.ListClustersRequest{States: []string{"lost"}}, "states[0]"},
		{&fleetv1.ListClustersRequest{States: []string{"dark", "dark"}}, "states"},
		{&fleetv1.ListClustersRequest{Ids: []string{"Berlin"}}, "ids[0]"},
		{&fleetv1.ListClustersRequest{Ids: many(5001)}, "ids"},
		{&fleetv1.ListClustersRequest{Release: "5.1.0 "}, "release"},
		{&fleetv1.WatchClustersRequest{Ids: []string{""}}, "ids[0]"},
		{&fleetv1.WatchClustersRequest{States: []string{"locked\n"}}, "states[0]"},
		{&rolloutv1.PlanRolloutRequest{}, "release"},
		{&rolloutv1.PlanRolloutRequest{Release: "spring", Clusters: []string{"a", "a"}}, "clusters"},
		{&rolloutv1.PlanRolloutRequest{Release: "spring", Clusters: []string{"a.b"}}, "clusters[0]"},
		{&rolloutv1.StartRolloutRequest{Release: "spring"}, "request_id"},
		{&rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "two words"}, "request_id"},
		{&rolloutv1.StartRolloutRequest{Release: "spring", RequestId: strings.Repeat("x", 129)}, "request_id"},
		{&rolloutv1.StartRolloutRequest{Release: long, RequestId: "1"}, "release"},
		{&rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "1", Clusters: many(5001)}, "clusters"},
		{&rolloutv1.GetRolloutRequest{}, "id"},
		{&rolloutv1.WatchRolloutRequest{Id: "rollout/r1"}, "id"},
		{&rolloutv1.ListRolloutsRequest{PageSize: -1}, "page_size"},
		{&rolloutv1.ListRolloutsRequest{Phases: []string{""}}, "phases[0]"},
		{&rolloutv1.ListRolloutsRequest{Cluster: long}, "cluster"},
		{&rolloutv1.RollbackRolloutRequest{Id: "r1", Reason: "why"}, "request_id"},
		{&rolloutv1.RollbackRolloutRequest{Id: "r1", RequestId: "1", Reason: strings.Repeat("x", 1001)}, "reason"},
		{&gatev1.ListGatesRequest{PageSize: -1}, "page_size"},
		{&gatev1.ListGatesRequest{Verdict: "perhaps"}, "verdict"},
		{&gatev1.ListGatesRequest{Rollout: "r1;"}, "rollout"},
		{&rolloutv1.PlanRolloutRequest{Release: "spring", Policy: "two words"}, "policy"},
		{&rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "1", Policy: long}, "policy"},
		{&gatev1.ListPoliciesRequest{Names: []string{"a", "a"}}, "names"},
		{&gatev1.ApplyPoliciesRequest{}, "document"},
		{&gatev1.GetGateRequest{}, "id"},
		{&gatev1.WatchGateRequest{Id: strings.Repeat("x", 161)}, "id"},
		{&gatev1.ReplayGateRequest{Id: "gate/r1"}, "id"},
	} {
		if fields := broken(t, test.request); len(fields) != 1 || fields[0] != test.field {
			t.Errorf("%T{%v} is refused for %v, want %s", test.request, test.request, fields, test.field)
		}
	}
}

// A caller that leaves its request id out learns what one looks like.
func TestARequestIDIsAskedForInWords(t *testing.T) {
	t.Parallel()
	for _, m := range []proto.Message{
		&rolloutv1.StartRolloutRequest{Release: "spring"},
		&rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "a\n"},
		&rolloutv1.RollbackRolloutRequest{Id: "r1", RequestId: "é"},
	} {
		const want = "request_id: must be set: 1 to 128 characters of A-Za-z0-9._:/-"
		if err := protovalidate.Validate(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: %v, want %s", m, err, want)
		}
	}
}

// carefulPlan is a gate policy that asks for something of every kind.
func carefulPlan() gate.Plan {
	stage := gate.Stage{
		Checks: map[gate.CheckName]gate.CheckPolicy{gate.CheckInventory: {Demand: gate.DemandPass, Sustain: gate.Sustain{For: time.Minute, Looks: 3}}},
		Rules:  []gate.Rule{{Name: "probes", When: "probes.failed > 0", Verdict: gate.Hold, Reason: "probes fail"}}, Deadline: time.Hour, Soak: time.Minute,
	}
	return gate.Plan{Name: "careful", Mode: gate.Act, Statistics: gate.DefaultPolicy(), Step: stage, Wave: stage}
}

// story leads one rollout through everything a rollout can go through, and
// returns what would be written of it.
func story(t *testing.T, verdicts ...gate.Verdict) (facts []rollout.Fact, commands []rollout.Command) {
	t.Helper()
	now := noon
	var state rollout.State
	state.ID = "r33b518cc90"
	input := func(in rollout.Input) {
		now = now.Add(time.Minute)
		d := rollout.Decide(state, in, now)
		state, facts = d.Next, append(facts, d.Facts...)
		commands = append(commands, state.Commands()...)
	}
	step := func(line fleet.Line, components ...fleet.Component) rollout.StepPlan {
		return rollout.StepPlan{Name: string(line), Line: line, FromVersion: "1", ToVersion: "2", Image: "example.org/x:2@sha256:ab", Components: components}
	}
	policy := carefulPlan()
	input(rollout.Start{RequestID: "one", Plan: rollout.Plan{
		Release: "5.1.0", Gate: policy.Statistics, Policy: &policy, Window: 24 * time.Hour, Lookback: time.Hour,
		Clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{step(fleet.LineGateway, fleet.Gateway), step(fleet.LineSRA, fleet.SRAWeb, fleet.SRASSH)}}},
	}})
	for range 10 {
		for _, c := range state.Commands() {
			input(rollout.CommandFinished{Key: c.Key, Package: "p" + c.Key, BeganAt: now, FinishedAt: now.Add(time.Second)})
		}
		if run := state.Clusters[0]; run.Phase == rollout.ClusterGating && len(verdicts) > 0 {
			input(rollout.GateDecided{Gate: run.Gate, Verdict: verdicts[0], Summary: "as told"})
			verdicts = verdicts[1:]
		}
		if state.WaveGate != "" && len(verdicts) > 0 {
			input(rollout.GateDecided{Gate: state.WaveGate, Verdict: verdicts[0], Summary: "as told", Back: []fleet.ClusterID{"oslo"}})
			verdicts = verdicts[1:]
		}
	}
	input(rollout.Rollback{Reason: "people cannot log in", RequestID: "two"})
	for range 2 {
		for _, c := range state.Commands() {
			input(rollout.CommandFinished{Key: c.Key, Error: "the engine is gone", BeganAt: now, FinishedAt: now.Add(time.Second)})
		}
	}
	return facts, commands
}

// What Lockstep itself writes keeps the rules, or a reader that asks them would
// refuse history.
func TestWhatIsWrittenKeepsTheRules(t *testing.T) {
	t.Parallel()
	keep := func(m proto.Message) {
		t.Helper()
		if fields := broken(t, m); fields != nil {
			t.Errorf("%T breaks the rules of %v: %v", m, fields, m)
		}
	}
	kinds := make(map[string]bool)
	for _, verdicts := range [][]gate.Verdict{{gate.Pass, gate.Pass, gate.Pass}, {gate.Fail}, {gate.Pass, gate.Hold}, {gate.Pass, gate.Pass, gate.Fail}} {
		facts, commands := story(t, verdicts...)
		for _, f := range facts {
			kinds[fmt.Sprintf("%T", f.Kind)] = true
			keep(&rolloutv1.Event{Rollout: "r33b518cc90", Facts: []*rolloutv1.Fact{codec.RolloutFactToProto(f)}})
		}
		for _, c := range commands {
			kinds[fmt.Sprintf("%T", c.Action)] = true
			keep(codec.CommandToProto(c))
			keep(codec.CommandFinishedToProto(c, rollout.CommandFinished{Key: c.Key, Error: "no"}))
			keep(&commandv1.Event{Key: c.Key, Rollout: string(c.Rollout), Cluster: string(c.Cluster), Kind: &commandv1.Event_Begun{Begun: &commandv1.Begun{At: timestamppb.New(noon)}}})
		}
	}
	for _, want := range []string{
		"rollout.RolloutStarted", "rollout.WaveGated", "rollout.WavePassed", "rollout.WaveFailed", "rollout.StepApplied", "rollout.ClusterHeldBack", "rollout.ClusterDone", "rollout.ClusterRestored", "rollout.ClusterLost",
		"rollout.RolloutHeld", "rollout.RolloutSucceeded", "rollout.RollbackRequested", "rollout.RolloutFailed",
		"rollout.Capture", "rollout.Apply", "rollout.Restore",
	} {
		if !kinds[want] {
			t.Errorf("the stories tell of no %s", want)
		}
	}

	opened := codec.Gate{
		ID: "r1-oslo-sra", Rollout: "r1", Cluster: "oslo", Step: "sra", Policy: gate.DefaultPolicy(), OpenedAt: noon,
		Boundary: gate.Boundary{BaselineFrom: noon.Add(-time.Hour), Start: noon, End: noon}, Terms: gate.Terms{Policy: "careful", Mode: gate.Act, Stage: carefulPlan().Step},
	}
	fold, err := gate.NewFold(opened.Policy, opened.Cluster, opened.Boundary)
	if err != nil {
		t.Fatal(err)
	}
	decision := gate.StepDecision{
		StageDecision: gate.Combine(opened.Terms.Stage, opened.Terms.Mode, noon, noon, nil, func(gate.Rule) (bool, error) { return false, nil }),
		Sessions:      fold.Verdict(true), Probes: fold.Verdict(true),
	}
	keep(&gatev1.Event{Gate: opened.ID, Facts: []*gatev1.Fact{
		{Kind: &gatev1.Fact_GateOpened{GateOpened: codec.GateOpenedToProto(opened)}},
		{Kind: &gatev1.Fact_GateDecided{GateDecided: &gatev1.GateDecided{
			Rollout: opened.Rollout, Cluster: string(opened.Cluster), Step: opened.Step, Decision: codec.StepDecisionToProto(decision, opened.Terms.Stage, opened.Policy, noon, true),
		}}},
	}})
	for _, mode := range gate.Modes() {
		policy := carefulPlan()
		policy.Mode = mode
		keep(&gatev1.PolicyEvent{Plan: codec.GatePlanToProto(policy)})
	}
	keep(&driftv1.Event{Cluster: "oslo", Facts: []*driftv1.Fact{
		{Kind: &driftv1.Fact_StateChanged{StateChanged: &driftv1.StateChanged{From: "unknown", To: "locked", At: timestamppb.New(noon)}}},
		{}, // A kind that a newer build wrote.
	}})

	batch := &observationv1.Batch{Source: "vendor", Incarnation: "0a1b", Sequence: 1, Part: 63}
	keep(batch)
	for _, o := range []codec.Observation{
		{Inventory: &fleet.Inventory{Cluster: "oslo"}},
		{Session: &fleet.Session{Cluster: "oslo", ID: "s1", Status: "paused", Start: noon}},
		{Mark: &fleet.Mark{Cluster: "oslo", CompleteUntil: noon}},
		{Mark: &fleet.Mark{Cluster: "oslo", Blind: true, BlindReason: "the log is full"}},
		{Registration: &fleet.Registration{Cluster: "oslo"}},
	} {
		batch.Observations = append(batch.Observations, codec.ObservationToProto(o, noon))
	}
	keep(batch)
}

// The rules refuse what decoding refuses.
func TestWhatIsNeverWritten(t *testing.T) {
	t.Parallel()
	at := timestamppb.New(noon)
	session := func(s *observationv1.Session) proto.Message {
		return &observationv1.Observation{Cluster: "oslo", ObservedAt: at, Kind: &observationv1.Observation_Session{Session: s}}
	}
	mark := func(m *observationv1.Mark) proto.Message {
		return &observationv1.Observation{Cluster: "oslo", ObservedAt: at, Kind: &observationv1.Observation_Mark{Mark: m}}
	}
	for _, test := range []struct {
		message proto.Message
		field   string
	}{
		{&observationv1.Batch{Source: "vendor", Incarnation: "a", Part: 1}, "sequence"},
		{&observationv1.Batch{Source: "vendor", Incarnation: "a", Sequence: 1, Part: 64}, "part"},
		{&observationv1.Batch{Source: "a.b", Incarnation: "a", Sequence: 1}, "source"},
		{&observationv1.Observation{Cluster: "oslo", ObservedAt: at}, "kind"},
		{&observationv1.Observation{Cluster: "oslo", Kind: &observationv1.Observation_Inventory{}}, "observed_at"},
		{session(&observationv1.Session{Start: at}), "session.id"},
		{session(&observationv1.Session{Id: "s1"}), "session.start"},
		{mark(&observationv1.Mark{}), "mark"},
		{&commandv1.Command{Key: "k", Rollout: "r1", Cluster: "oslo"}, "action"},
		{&commandv1.Command{Rollout: "r1", Cluster: "oslo", Action: &commandv1.Command_Capture{Capture: &commandv1.Capture{}}}, "key"},
		{&rolloutv1.Event{Rollout: "r1"}, "facts"},
		{&rolloutv1.Fact{Cluster: "oslo"}, "at"},
		{&gatev1.Boundary{BaselineFrom: at, Start: timestamppb.New(noon.Add(-1)), End: at}, ""},
		{&gatev1.Boundary{BaselineFrom: at, Start: at}, ""},
	} {
		if fields := broken(t, test.message); len(fields) == 0 || fields[0] != test.field {
			t.Errorf("%T{%v} breaks the rules of %q, want %q", test.message, test.message, fields, test.field)
		}
	}
}
