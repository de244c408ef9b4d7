package codec_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	commandv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/command/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// An absent list and an empty one are the same in a message.
func sameEmpty() cmp.Option { return cmpopts.EquateEmpty() }

func TestObservationsRoundTrip(t *testing.T) {
	t.Parallel()
	text := rapid.StringN(1, 20, -1)
	sometime := rapid.Custom(instant).Filter(func(t time.Time) bool { return !t.IsZero() })
	rapid.Check(t, func(t *rapid.T) {
		cluster, at := fleet.ClusterID(text.Draw(t, "cluster")), sometime.Draw(t, "observed at")
		var o codec.Observation
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			inventory := anyOf[fleet.Inventory]().Draw(t, "inventory")
			inventory.Cluster, inventory.ObservedAt = cluster, at
			o.Inventory = &inventory
		case 1:
			session := anyOf[fleet.Session]().Draw(t, "session")
			session.Cluster, session.ID, session.Start = cluster, fleet.SessionID(text.Draw(t, "id")), sometime.Draw(t, "start")
			o.Session = &session
		case 2:
			mark := anyOf[fleet.Mark]().Draw(t, "mark")
			mark.Cluster = cluster
			mark.Blind = mark.Blind || mark.CompleteUntil.IsZero()
			mark.About = fleet.Kind(text.Draw(t, "about"))
			o.Mark = &mark
		case 3:
			registration := anyOf[fleet.Registration]().Draw(t, "registration")
			registration.Cluster, registration.ObservedAt = cluster, at
			o.Registration = &registration
		case 4:
			declared := anyOf[fleet.Package]().Draw(t, "package")
			declared.Cluster, declared.ObservedAt = cluster, at
			o.Package = &declared
		case 5:
			check := anyOf[fleet.Check]().Draw(t, "check")
			check.Cluster, check.Name, check.At = cluster, text.Draw(t, "name"), sometime.Draw(t, "check at")
			check.Kind = fleet.CheckKind(text.Draw(t, "check kind"))
			maps.DeleteFunc(check.Readings, func(_ string, v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
			o.Check = &check
		}
		m := wire(t, codec.ObservationToProto(o, at))
		if !m.GetObservedAt().AsTime().Equal(at) {
			t.Fatalf("observed at %s, encoded as %s", at, m.GetObservedAt().AsTime())
		}
		got, err := codec.ObservationFromProto(m)
		if err != nil {
			t.Fatal(err)
		}
		same(t, o, got, sameEmpty())
		if got.Cluster() != cluster {
			t.Fatalf("of %q, decoded as of %q", cluster, got.Cluster())
		}
	})
}

// An id is the same for the same thing seen, and another one for anything else.
func TestObservationIDs(t *testing.T) {
	t.Parallel()
	session := fleet.Session{ID: "s1", Cluster: "oslo", Status: fleet.SessionConnected, Start: noon}
	check := fleet.Check{Cluster: "oslo", Name: "login", Kind: fleet.CheckSSH, At: noon, OK: true}
	mark := fleet.Mark{Cluster: "oslo", About: fleet.KindSession, CompleteUntil: noon}
	inventory := fleet.Inventory{Cluster: "oslo", ObservedAt: noon}
	id := codec.ObservationID

	later := session
	later.User, later.Error = "somebody", "more is known"
	if id("hub", codec.Observation{Session: &session}, noon) != id("hub", codec.Observation{Session: &later}, noon.Add(time.Hour)) {
		t.Error("a session that is told again in the same state has another id")
	}
	if id("hub", codec.Observation{Check: &check}, noon) != id("hub", codec.Observation{Check: &check}, noon.Add(time.Hour)) {
		t.Error("a check that is told again has another id")
	}
	ended, elsewhere, blind := session, session, mark
	ended.Status, elsewhere.Cluster, blind.Blind = fleet.SessionCompleted, "rome", true
	seen := make(map[string]int)
	for i, o := range []codec.Observation{
		{Session: &session}, {Session: &ended}, {Session: &elsewhere}, {Check: &check}, {Mark: &mark}, {Mark: &blind}, {Inventory: &inventory},
	} {
		for j, at := range []time.Time{noon, noon.Add(time.Second)} {
			if j == 1 && (o.Session != nil || o.Check != nil) {
				continue
			}
			for _, source := range []fleet.SourceID{"hub", "agent"} {
				got := id(source, o, at)
				if len(got) != 32 {
					t.Errorf("id %q is not 16 bytes", got)
				}
				if other, taken := seen[got]; taken {
					t.Errorf("observations %d and %d have one id", other, i)
				}
				seen[got] = i
			}
		}
	}
}

func TestAnObservationOfNothingHasNoCluster(t *testing.T) {
	t.Parallel()
	if c := (codec.Observation{}).Cluster(); c != "" {
		t.Errorf("cluster %q", c)
	}
}

func TestRolloutFactsRoundTrip(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	rapid.Check(t, func(t *rapid.T) {
		f := anyOf[rollout.Fact]().Draw(t, "fact")
		seen[fmt.Sprintf("%T", f.Kind)] = true
		got, err := codec.RolloutFactFromProto(wire(t, codec.RolloutFactToProto(f)))
		if err != nil {
			t.Fatal(err)
		}
		same(t, f, got, sameEmpty())
	})
}

// A kind of fact that is not encoded would be lost on its way to the log, and
// the rollout with it.
func TestEveryKindOfFactIsEncoded(t *testing.T) {
	t.Parallel()
	oneof := (&rolloutv1.Fact{}).ProtoReflect().Descriptor().Oneofs().ByName("kind")
	encoded := make(map[protoreflect.Name]string)
	for _, k := range rollout.Kinds() {
		m := wire(t, codec.RolloutFactToProto(rollout.Fact{At: noon, Cluster: "oslo", Kind: k})).ProtoReflect()
		field := m.WhichOneof(oneof)
		if field == nil {
			t.Errorf("%T is not encoded", k)
			continue
		}
		if other := encoded[field.Name()]; other != "" {
			t.Errorf("%T and %s are both encoded as %s", k, other, field.Name())
		}
		encoded[field.Name()] = fmt.Sprintf("%T", k)
		got, err := codec.RolloutFactFromProto(m.Interface().(*rolloutv1.Fact))
		if err != nil || fmt.Sprintf("%T", got.Kind) != fmt.Sprintf("%T", k) {
			t.Errorf("%T comes back as %T: %v", k, got.Kind, err)
		}
	}
	for i := range oneof.Fields().Len() {
		if name := oneof.Fields().Get(i).Name(); encoded[name] == "" {
			t.Errorf("no kind of fact is encoded as %s", name)
		}
	}
	generated := make(map[string]bool)
	for _, g := range kinds() {
		generated[fmt.Sprintf("%T", g.Example(1))] = true
	}
	for _, k := range rollout.Kinds() {
		if !generated[fmt.Sprintf("%T", k)] {
			t.Errorf("no round trip takes a %T; add it to kinds", k)
		}
	}
}

func TestPlansRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := anyOf[rollout.Plan]().Draw(t, "plan")
		same(t, p, codec.PlanFromProto(wire(t, codec.PlanToProto(p))), sameEmpty())
	})
}

func TestPoliciesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := anyOf[gate.Policy]().Draw(t, "policy")
		got := codec.PolicyFromProto(wire(t, codec.PolicyToProto(p)))
		same(t, p, got)
		if p.Hash() != got.Hash() {
			t.Fatalf("the hash of %+v changed", p)
		}
	})
}

func TestGatesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		g := anyOf[codec.Gate]().Draw(t, "gate")
		same(t, g, codec.GateOpenedFromProto(g.ID, wire(t, codec.GateOpenedToProto(g))), sameEmpty())
	})
}

func TestGatePlansRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := anyOf[gate.Plan]().Draw(t, "plan")
		got := codec.GatePlanFromProto(wire(t, codec.GatePlanToProto(p)))
		same(t, p, got, sameEmpty())
		if p.Hash() != got.Hash() {
			t.Fatalf("the hash of %+v changed", p)
		}
	})
}

func TestTermsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		terms := anyOf[gate.Terms]().Draw(t, "terms")
		same(t, terms, codec.TermsFromProto(wire(t, codec.TermsToProto(terms)), gate.DefaultPolicy()), sameEmpty())
	})
}

// A gate that an older build opened is judged as that build judged it.
func TestAGateWithoutTermsHasThoseOfItsPolicy(t *testing.T) {
	t.Parallel()
	opened := codec.Gate{ID: "g1", Policy: gate.DefaultPolicy()}
	opened.Policy.Deadline = 7 * time.Hour
	m := codec.GateOpenedToProto(opened)
	m.Terms = nil
	opened.Terms = gate.DefaultTerms(opened.Policy)
	same(t, opened, codec.GateOpenedFromProto("g1", wire(t, m)), sameEmpty())
	same(t, opened.Terms, codec.TermsFromProto(wire(t, codec.TermsToProto(opened.Terms)), gate.Policy{}), sameEmpty())
}

// Of who took a risk the name goes along, and the way stays open.
func TestATakenRiskIsToldWithItsOwner(t *testing.T) {
	t.Parallel()
	risk := catalog.Risks()[0]
	taken := catalog.Acknowledgement{Risk: risk.ID, Release: "5.1.0", Owner: "ann", Reason: "seen on staging", At: noon, Expires: noon.Add(time.Hour)}
	was := gate.Expectation{Risks: []catalog.Assessment{{
		Risk: risk.ID, Title: risk.Title, Condition: catalog.ConditionMatch, Detail: "sra moves", Remedy: risk.Remedy, Acknowledged: &taken,
	}}}
	got := codec.ExpectationFromProto(wire(t, codec.ExpectationToProto(was)))
	was.Risks[0].Acknowledged = &catalog.Acknowledgement{Risk: risk.ID, Owner: "ann"}
	same(t, was, got, sameEmpty())
}

// What is demanded is listed in the order in which checks are told, and what this
// build does not know last: a message is the same however a map is gone through.
func TestDemandsAreInOrder(t *testing.T) {
	t.Parallel()
	s := gate.Stage{Checks: map[gate.CheckName]gate.CheckPolicy{"b": {}, "a": {}}}
	for _, check := range gate.CheckNames() {
		s.Checks[check] = gate.CheckPolicy{Demand: gate.DemandPass}
	}
	var got []gate.CheckName
	for _, c := range codec.StageToProto(s).GetChecks() {
		got = append(got, gate.CheckName(c.GetCheck()))
	}
	same(t, append(gate.CheckNames(), "a", "b"), got)
}

func TestResultsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r, demand := anyOf[gate.Result]().Draw(t, "result"), rapid.SampledFrom(gate.Demands()).Draw(t, "demand")
		got, of := codec.ResultFromProto(wire(t, codec.ResultToProto(r, demand)))
		same(t, r, got, sameEmpty())
		same(t, demand, of)
	})
}

// What a step's gate says as a whole is its verdict; people's sessions and probes
// are what it rests on, each in its place.
func TestAStepDecision(t *testing.T) {
	t.Parallel()
	policy := gate.DefaultPolicy()
	stage := gate.Stage{Checks: map[gate.CheckName]gate.CheckPolicy{
		gate.CheckProbes: {Demand: gate.DemandPass}, gate.CheckSessions: {Demand: gate.DemandNoFail}, gate.CheckOpen: {Demand: gate.DemandAdvisory},
	}}
	d := gate.StepDecision{
		StageDecision: gate.StageDecision{
			Verdict: gate.Hold, Consequence: gate.Stop, Hash: "of the stage", Reasons: []gate.Reason{{Code: gate.Unheard, Text: "telemetry: nobody looks"}},
			Results: []gate.Result{
				{Check: gate.CheckTelemetry, Verdict: gate.Hold}, {Check: gate.CheckProbes, Verdict: gate.Pass, At: noon, Figures: map[string]int64{"failed": 2}},
				{Check: gate.CheckSessions, Verdict: gate.Pending}, {Check: gate.CheckOpen, Verdict: gate.Fail},
			},
		},
		Sessions:  gate.Decision{Verdict: gate.Fail, Hash: "of sessions", PolicyHash: policy.Hash(), Evidence: gate.Evidence{New: gate.Trials{Failed: 3}}},
		Probes:    gate.Decision{Verdict: gate.Pass, Hash: "of probes", Evidence: gate.Evidence{New: gate.Trials{Succeeded: 5}}},
		Watermark: gate.Watermark{CompleteUntil: noon, Seq: 9},
	}
	m := codec.StepDecisionToProto(d, stage, policy, noon, true)
	if m.GetVerdict() != "hold" || m.GetConsequence() != "hold" || m.GetStageHash() != "of the stage" || m.GetReasons()[0].GetCode() != "unheard" || m.GetSummary() != d.Summary() {
		t.Errorf("the stage is encoded as %v", m)
	}
	if m.GetEvidenceHash() != "of sessions" || m.GetPolicyHash() != policy.Hash() || m.GetStreamSequence() != 9 || !m.GetCompleteUntil().AsTime().Equal(noon) {
		t.Errorf("what it rests on is encoded as %v", m)
	}
	if m.GetEvidence().GetNewFailed() != 3 || m.GetEvidence().GetNewSucceeded() != 0 || m.GetProbes().GetNewSucceeded() != 5 || m.GetProbes().GetNewFailed() != 0 {
		t.Errorf("sessions are encoded as %v, probes as %v", m.GetEvidence(), m.GetProbes())
	}
	var checks []string
	for i, c := range m.GetChecks() {
		checks = append(checks, c.GetCheck()+" "+c.GetDemand()+" "+c.GetVerdict())
		r, _ := codec.ResultFromProto(c)
		same(t, d.Results[i], r)
	}
	same(t, []string{"telemetry pass hold", "probes pass pass", "sessions no_fail pending", "open advisory fail"}, checks)

	chained := codec.Chain("g1", m, "before")
	if chained.GetHash() != codec.LinkFromProto("g1", m).Hash("before") || codec.LinkFromProto("g1", m).StageHash != "of the stage" {
		t.Errorf("it is chained as %v", chained)
	}
	m.StageHash = "another"
	if chained.GetHash() == codec.LinkFromProto("g1", m).Hash("before") {
		t.Error("another stage has the same place in the chain")
	}
}

// What rows keep is kept by them again, and whoever else holds the record sees no
// change.
func TestRecordsAsKept(t *testing.T) {
	t.Parallel()
	at := noon.Add(1234567 * time.Nanosecond)
	cut := noon.Add(time.Millisecond)
	fine := func(at time.Time, skew, took time.Duration) []codec.Observation {
		return []codec.Observation{
			{Inventory: &fleet.Inventory{ObservedAt: at, Instances: []fleet.Instance{{ID: "i1", StartedAt: at}, {ID: "i2"}}}},
			{Registration: &fleet.Registration{ObservedAt: at, LastReport: at}},
			{Check: &fleet.Check{At: at, CertificateExpires: at, Took: took}},
			{Mark: &fleet.Mark{CompleteUntil: noon.Add(1), Skew: skew}},
			{Session: &fleet.Session{Start: noon.Add(1), End: noon.Add(2)}},
		}
	}
	was, want := fine(at, 1234567, 1234567), fine(cut, 1_000_000, 1_234_000)
	for i, o := range was {
		r := codec.Record{Observation: o, ObservedAt: at, RecordedAt: at, Source: "hub", StreamSequence: 7, Index: 2}
		got := r.AsKept()
		same(t, codec.Record{Observation: want[i], ObservedAt: cut, RecordedAt: cut, Source: "hub", StreamSequence: 7, Index: 2}, got)
		same(t, got, got.AsKept())
	}
	same(t, fine(at, 1234567, 1234567), was)
}

func TestCommandsRoundTrip(t *testing.T) {
	t.Parallel()
	text := rapid.StringN(1, 20, -1)
	rapid.Check(t, func(t *rapid.T) {
		c := anyOf[rollout.Command]().Draw(t, "command")
		c.Key, c.Rollout, c.Cluster = text.Draw(t, "key"), rollout.ID(text.Draw(t, "rollout")), fleet.ClusterID(text.Draw(t, "cluster"))
		got, err := codec.CommandFromProto(wire(t, codec.CommandToProto(c)))
		if err != nil {
			t.Fatal(err)
		}
		same(t, c, got, sameEmpty())
	})
}

func TestAnswersRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := anyOf[rollout.CommandFinished]().Draw(t, "answer")
		c := rollout.Command{Key: f.Key, Rollout: "r1", Cluster: "oslo"}
		m := wire(t, codec.CommandFinishedToProto(c, f))
		got, ok := codec.CommandFinishedFromProto(m)
		if !ok || m.GetRollout() != "r1" || m.GetCluster() != "oslo" {
			t.Fatalf("%t, of rollout %q and cluster %q", ok, m.GetRollout(), m.GetCluster())
		}
		same(t, f, got)
	})
	if f, ok := codec.CommandFinishedFromProto(&commandv1.Event{Key: "k", Kind: &commandv1.Event_Begun{Begun: &commandv1.Begun{}}}); ok {
		t.Errorf("a beginning is read as the answer %+v", f)
	}
}

// What is only encoded, for people to read, cannot be tested by a round trip: no
// field of the message may be left out.
func TestReadingsAreComplete(t *testing.T) {
	t.Parallel()
	policy := filled[gate.Policy](t)
	decision, stage := filled[gate.StepDecision](t), filled[gate.Stage](t)
	for _, d := range []*gate.Decision{&decision.Sessions, &decision.Probes} {
		d.Evidence.Blocks = gate.TableOf(gate.Row{Shape: gate.Shape{NA: 3, NB: 1, Y: 2, YB: 1}, Count: 4})
	}
	wave := filled[gate.WaveStageDecision](t)
	wave.Sessions.Evidence = decision.Sessions.Evidence
	state := filled[rollout.State](t)
	state.Clusters[0].Step = 0
	for name, m := range map[string]proto.Message{
		"decision": codec.Chain("g", codec.StepDecisionToProto(decision, stage, gate.DefaultPolicy(), noon, true), "p"),
		"rollout":  codec.RolloutToProto(state),
		"gate":     codec.GateToProto(filled[codec.Gate](t), codec.Chain("g", codec.StepDecisionToProto(decision, stage, policy, noon, true), "p")),
	} {
		// Clusters of their own have only waves, and probes of its own only a step.
		missing := slices.DeleteFunc(unset(m.ProtoReflect(), ""), func(field string) bool { return strings.HasSuffix(field, "members") })
		if len(missing) > 0 {
			t.Errorf("%s is encoded without %s", name, strings.Join(missing, ", "))
		}
	}
	ofWave := codec.Chain("g", codec.WaveDecisionToProto(wave, stage, gate.DefaultPolicy(), noon, true), "p")
	if missing := unset(ofWave.ProtoReflect(), ""); !slices.Equal(missing, []string{"probes"}) {
		t.Errorf("the decision on a wave is encoded without %s", strings.Join(missing, ", "))
	}
}

// A bound that does not exist is infinite; every other figure is a number, and
// the archive's JSON says them all.
func TestFiguresOfADecision(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(0, 300)
		e := gate.Evidence{
			Partners: 3, New: gate.Trials{Failed: count.Draw(t, "new failed"), Succeeded: count.Draw(t, "new succeeded")},
			Baseline: gate.Trials{Failed: count.Draw(t, "failed before"), Succeeded: count.Draw(t, "succeeded before")},
			Late:     gate.Arms{Baseline: count.Draw(t, "late before"), New: count.Draw(t, "late")}, Cut: count.Draw(t, "cut"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "rows") {
			yb := rapid.IntRange(0, 1).Draw(t, "yb")
			e.Blocks.Add(gate.Shape{NA: 3, NB: 1, Y: yb + rapid.IntRange(0, 3).Draw(t, "ya"), YB: yb}, 1+count.Draw(t, "blocks"))
		}
		policy := gate.DefaultPolicy()
		says := gate.Decision{Evidence: e, Odds: e.OddsRatio(policy), Needed: -1}
		m := codec.StepDecisionToProto(gate.StepDecision{Sessions: says, Probes: says}, gate.Stage{}, policy, noon, false)
		got := m.GetEvidence()
		same(t, got, m.GetProbes(), protocmp.Transform())
		if got.GetNewFailed() != int64(e.New.Failed) || got.GetBaselineSucceeded() != int64(e.Baseline.Succeeded) ||
			got.GetLate() != int64(e.Late.Baseline+e.Late.New) || len(got.GetBlocks()) != len(e.Blocks) || got.GetSessionsNeeded() != 0 {
			t.Fatalf("%+v became %v", e, got)
		}
		got.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			if f.Kind() != protoreflect.DoubleKind {
				return true
			}
			mayBeInfinite := f.Name() == "odds_ratio" || f.Name() == "odds_ratio_high"
			if math.IsNaN(v.Float()) || math.IsInf(v.Float(), -1) || math.IsInf(v.Float(), 1) && !mayBeInfinite {
				t.Fatalf("%s is %v", f.Name(), v.Float())
			}
			return true
		})
		text, err := protojson.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var back gatev1.Decision
		if err := protojson.Unmarshal(text, &back); err != nil || !proto.Equal(m, &back) {
			t.Fatalf("%s says %v: %v", text, &back, err)
		}
	})
}

func TestDecodingErrorsNameTheField(t *testing.T) {
	t.Parallel()
	at, none := timestamppb.New(noon), &timestamppb.Timestamp{Seconds: 1 << 40}
	observation := func(m *observationv1.Observation) error {
		_, err := codec.ObservationFromProto(m)
		return err
	}
	session := func(s *observationv1.Session) error {
		return observation(&observationv1.Observation{Cluster: "oslo", ObservedAt: at, Kind: &observationv1.Observation_Session{Session: s}})
	}
	mark := func(m *observationv1.Mark) error {
		return observation(&observationv1.Observation{Cluster: "oslo", ObservedAt: at, Kind: &observationv1.Observation_Mark{Mark: m}})
	}
	command := func(m *commandv1.Command) error {
		_, err := codec.CommandFromProto(m)
		return err
	}
	_, factWithoutKind := codec.RolloutFactFromProto(&rolloutv1.Fact{At: at, Cluster: "oslo"})
	capture := &commandv1.Command_Capture{Capture: &commandv1.Capture{}}
	for _, test := range []struct {
		name string
		err  error
		says []string // nothing: no error
	}{
		{"no observation at all", observation(nil), []string{"cluster is empty"}},
		{"no cluster", observation(&observationv1.Observation{ObservedAt: at}), []string{"cluster is empty"}},
		{"no observed_at", observation(&observationv1.Observation{Cluster: "oslo"}), []string{"oslo", "observed_at is missing"}},
		{"observed_at is none", observation(&observationv1.Observation{
			Cluster: "oslo", ObservedAt: none, Kind: &observationv1.Observation_Inventory{},
		}), []string{"oslo", "observed_at is no time"}},
		{"no kind", observation(&observationv1.Observation{Cluster: "oslo", ObservedAt: at}), []string{"oslo", "kind"}},
		{"an empty inventory", observation(&observationv1.Observation{Cluster: "oslo", ObservedAt: at, Kind: &observationv1.Observation_Inventory{}}), nil},
		{"an instance's start is none", observation(&observationv1.Observation{
			Cluster: "oslo", ObservedAt: at, Kind: &observationv1.Observation_Inventory{
				Inventory: &observationv1.Inventory{Instances: []*observationv1.Instance{{}, nil, {StartedAt: none}}},
			},
		}), []string{"oslo", "inventory.instances[2].started_at is no time"}},
		{"no session", session(nil), []string{"oslo", "session.id is empty"}},
		{"a session without an id", session(&observationv1.Session{Start: at}), []string{"oslo", "session.id is empty"}},
		{"a session without a start", session(&observationv1.Session{Id: "s1"}), []string{"oslo", "s1", "session.start"}},
		{"a session's start is none", session(&observationv1.Session{Id: "s1", Start: none}), []string{"oslo", "session.start is no time"}},
		{"a session's end is none", session(&observationv1.Session{Id: "s1", Start: at, End: none}), []string{"oslo", "session.end is no time"}},
		{"a session that goes on", session(&observationv1.Session{Id: "s1", Start: at}), nil},
		{"a mark of nothing", mark(&observationv1.Mark{}), []string{"oslo", "mark.complete_until is missing"}},
		{"a mark's time is none", mark(&observationv1.Mark{CompleteUntil: none}), []string{"oslo", "mark.complete_until is no time"}},
		{"a blind mark", mark(&observationv1.Mark{Blind: true}), nil},
		{"a registration's report is none", observation(&observationv1.Observation{
			Cluster: "oslo", ObservedAt: at, Kind: &observationv1.Observation_Registration{Registration: &observationv1.Registration{LastReport: none}},
		}), []string{"oslo", "registration.last_report is no time"}},
		{"no command at all", command(nil), []string{"key is empty"}},
		{"a command without a rollout", command(&commandv1.Command{Key: "k1", Cluster: "oslo", Action: capture}), []string{"k1", "rollout is empty"}},
		{"a command without a cluster", command(&commandv1.Command{Key: "k1", Rollout: "r1", Action: capture}), []string{"k1", "cluster is empty"}},
		{"a command without an action", command(&commandv1.Command{Key: "k1", Rollout: "r1", Cluster: "oslo"}), []string{"k1", "action"}},
		{"a command", command(&commandv1.Command{Key: "k1", Rollout: "r1", Cluster: "oslo", Action: capture}), nil},
		{"a fact without a kind", factWithoutKind, []string{"kind"}},
	} {
		if (test.err == nil) != (test.says == nil) {
			t.Errorf("%s: %v", test.name, test.err)
			continue
		}
		for _, part := range test.says {
			if !strings.Contains(test.err.Error(), part) {
				t.Errorf("%s: %q does not say %q", test.name, test.err, part)
			}
		}
	}
}

// What a message leaves out must not stop a reader: an older build wrote it.
func TestEmptyMessagesDecode(t *testing.T) {
	t.Parallel()
	same(t, rollout.Plan{}, codec.PlanFromProto(nil), sameEmpty())
	same(t, gate.Policy{}, codec.PolicyFromProto(nil))
	same(t, gate.Boundary{}, codec.BoundaryFromProto(nil))
	same(t, gate.Stage{}, codec.StageFromProto(nil), sameEmpty())
	same(t, gate.Plan{}, codec.GatePlanFromProto(nil), sameEmpty())
	same(t, gate.Expectation{}, codec.ExpectationFromProto(nil))
	same(t, gate.Terms{}, codec.TermsFromProto(&gatev1.Terms{}, gate.DefaultPolicy()), sameEmpty())
	same(t, codec.Gate{ID: "g1", Terms: gate.DefaultTerms(gate.Policy{})}, codec.GateOpenedFromProto("g1", nil), sameEmpty())
	if m := codec.GateToProto(codec.Gate{ID: "g1"}, nil); m.GetDecision() != nil || m.GetOpenedAt() != nil {
		t.Errorf("a gate without a decision is encoded as %v", m)
	}
}

func FuzzObservationFromProto(f *testing.F) {
	start := timestamppb.New(noon)
	for _, m := range []*observationv1.Observation{
		codec.ObservationToProto(codec.Observation{Inventory: &fleet.Inventory{Cluster: "oslo", Instances: []fleet.Instance{{ID: "i1", StartedAt: noon}}}}, noon),
		codec.ObservationToProto(codec.Observation{Session: &fleet.Session{Cluster: "oslo", ID: "s1", Start: noon, End: noon}}, noon),
		codec.ObservationToProto(codec.Observation{Mark: &fleet.Mark{Cluster: "oslo", CompleteUntil: noon}}, noon),
		codec.ObservationToProto(codec.Observation{Registration: &fleet.Registration{Cluster: "oslo", Bastions: []fleet.Bastion{{ID: "b1"}}}}, noon),
		{Cluster: "oslo", ObservedAt: &timestamppb.Timestamp{Seconds: math.MinInt64, Nanos: math.MinInt32}, Kind: &observationv1.Observation_Mark{}},
		{Cluster: "oslo", ObservedAt: start, Kind: &observationv1.Observation_Session{Session: &observationv1.Session{Id: "s1", Start: &timestamppb.Timestamp{Seconds: math.MaxInt64}}}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m observationv1.Observation
		if proto.Unmarshal(data, &m) != nil {
			return
		}
		o, err := codec.ObservationFromProto(&m)
		if err != nil {
			if o != (codec.Observation{}) {
				t.Fatalf("%v, and yet %+v", err, o)
			}
			return
		}
		again, err := codec.ObservationFromProto(wire(t, codec.ObservationToProto(o, m.GetObservedAt().AsTime())))
		if err != nil {
			t.Fatalf("what was decoded is not encoded so that it can be decoded: %v", err)
		}
		same(t, o, again, sameEmpty())
	})
}
