package cli_test

import (
	"context"
	"encoding/json"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
)

func failedGate() *gatev1.Gate {
	return &gatev1.Gate{
		Id: "g1", Rollout: "r1", Cluster: "berlin", Step: "gateway", Policy: policy(), OpenedAt: at(20 * time.Minute),
		Boundary: &gatev1.Boundary{
			BaselineFrom: at(24 * time.Hour), Start: at(21 * time.Minute), End: at(20 * time.Minute),
			Aside: []*gatev1.Span{{From: at(5 * time.Hour), To: at(4 * time.Hour)}},
		},
		Decision: &gatev1.Decision{
			Verdict: "fail", Summary: "14 of 61 new sessions failed (23 %), 9 of 610 before (1.5 %).",
			Reasons: []*gatev1.Reason{{Code: "rollback_evidence", Text: "the evidence passed 1 in 100"}, {Code: "above_floor", Text: "23 % is above the floor of 2 %"}},
			Evidence: &gatev1.Evidence{
				NewFailed: 14, NewSucceeded: 47, BaselineFailed: 9, BaselineSucceeded: 12601, NewUnresolved: 2, Cut: 3, Late: 1,
				LogERollback: math.Log(2345), LogEPromoteRelative: math.Log(0.01), LogEPromoteAbsolute: math.Inf(-1),
				OddsRatio: 18.87, OddsRatioLow: 6.2, OddsRatioHigh: math.Inf(1),
			},
			CompleteUntil: at(18 * time.Minute), StreamSequence: 1234567, PolicyHash: "p0", EvidenceHash: "e0", DecidedAt: at(17*time.Minute + 30*time.Second),
		},
	}
}

func pendingGate() *gatev1.Gate {
	g := failedGate()
	g.Id, g.Cluster = "g2", "paris"
	g.Decision = &gatev1.Decision{
		Verdict: "pending", Summary: "1 of 3 new sessions failed.",
		Evidence: &gatev1.Evidence{NewFailed: 1, NewSucceeded: 2, LogERollback: math.Log(1.3), LogEPromoteRelative: math.NaN(), LogEPromoteAbsolute: 40, SessionsNeeded: 25},
	}
	return g
}

// says is what one check says; reasons are those besides the sentence.
func says(check, demand, verdict, text string, seen time.Duration, reasons ...string) *gatev1.CheckResult {
	r := &gatev1.CheckResult{Check: check, Demand: demand, Verdict: verdict, Text: text, Reasons: []*gatev1.Reason{{Code: "first", Text: text}}}
	if seen > 0 {
		r.At = at(seen)
	}
	for _, text := range reasons {
		r.Reasons = append(r.Reasons, &gatev1.Reason{Code: "more", Text: text})
	}
	return r
}

// stagedGate is an open gate whose checks differ in all that they can differ in.
func stagedGate() *gatev1.Gate {
	return &gatev1.Gate{
		Id: "g3", Rollout: "r1", Cluster: "berlin", Step: "sra", Policy: policy(), OpenedAt: at(10 * time.Minute),
		Boundary: &gatev1.Boundary{BaselineFrom: at(24 * time.Hour), Start: at(11 * time.Minute), End: at(10 * time.Minute)},
		Terms: &gatev1.Terms{
			Policy: "standard", Mode: "act",
			Stage: &gatev1.Stage{
				Checks: []*gatev1.CheckDemand{
					{Check: "telemetry", Demand: "pass"}, {Check: "inventory", Demand: "pass"}, {Check: "probes", Demand: "pass"},
					{Check: "sessions", Demand: "no_fail"}, {Check: "open", Demand: "no_fail"}, {Check: "lifecycle", Demand: "off"},
					{Check: "recording", Demand: "no_fail"}, {Check: "risks", Demand: "advisory"},
				},
				Rules:    []*gatev1.HouseRule{{Name: "digest", When: "inventory.wrong_digest > 0", Verdict: "fail", Reason: "Only reviewed images may run."}},
				Deadline: durationpb.New(30 * time.Minute), Soak: durationpb.New(5 * time.Minute),
			},
			Expected: &gatev1.Expectation{
				Versions: map[string]string{"sra": "3.2.0", "gateway": "5.1.0"}, Complete: true, Window: durationpb.New(45 * time.Minute),
			},
		},
		Decision: &gatev1.Decision{
			Verdict: "pending", Summary: "Two checks are waited for.", Consequence: "wait",
			Reasons: []*gatev1.Reason{
				{Code: "starting", Text: "inventory: sra-web: berlin-sra-web-2 starting."},
				{Code: "collecting", Text: "probes: Collecting evidence: no outcome after the step, 2 of 300 failed before (0.667 %)."},
				{Code: "check_missing", Text: "recording: no result yet."},
			},
			Checks: []*gatev1.CheckResult{
				says("telemetry", "pass", "pass", "4 sources saw everything within the last 1m0s.", 3*time.Second),
				says("inventory", "pass", "pending", "sra-web: berlin-sra-web-2 starting.", 8*time.Second, "1 of 2 bastions are registered again."),
				says("probes", "pass", "pending", "Collecting evidence: 0 of 24 failed after the step (0 %), 2 of 300 failed before (0.667 %).", 5*time.Second),
				says("sessions", "no_fail", "pending", "Collecting evidence: 1 of 31 failed after the step (3.23 %), 20 of 900 failed before (2.22 %).", 5*time.Second),
				says("open", "no_fail", "inconclusive", "No session was open across the step.", 0),
				says("risks", "advisory", "hold", "legacy_ssh: 2 targets take only what the new version has switched off. To go on, upgrade them, or acknowledge it.", 2*time.Hour),
			},
			Evidence: &gatev1.Evidence{
				NewFailed: 1, NewSucceeded: 30, BaselineFailed: 20, BaselineSucceeded: 880, NewUnresolved: 1, Cut: 4,
				LogERollback: math.Log(0.8), LogEPromoteRelative: math.Log(1.2), LogEPromoteAbsolute: math.Log(1.1),
				OddsRatio: 1.46, OddsRatioLow: 0, OddsRatioHigh: math.Inf(1), SessionsNeeded: 688,
			},
			Probes: &gatev1.Evidence{
				NewSucceeded: 24, BaselineFailed: 2, BaselineSucceeded: 298,
				LogERollback: math.Log(0.9), LogEPromoteRelative: math.Log(1.1), LogEPromoteAbsolute: math.Log(1.6),
				OddsRatio: 0, OddsRatioLow: 0, OddsRatioHigh: 41.3, SessionsNeeded: 194,
			},
			CompleteUntil: at(5 * time.Second), StreamSequence: 88, PolicyHash: "p1", EvidenceHash: "e1", StageHash: "s1",
		},
	}
}

// decide turns the gate into one with a recorded decision.
func decide(g *gatev1.Gate, verdict, consequence string, reasons ...string) *gatev1.Gate {
	d := g.GetDecision()
	d.Verdict, d.Consequence, d.DecidedAt, d.Reasons = verdict, consequence, at(2*time.Minute), nil
	d.Summary = strings.Join(reasons, " ")
	for _, text := range reasons {
		d.Reasons = append(d.Reasons, &gatev1.Reason{Code: "code", Text: text})
	}
	for _, c := range d.GetChecks() {
		if c.GetAt() != nil {
			c.At = at(2*time.Minute + noon().Sub(c.GetAt().AsTime()))
		}
	}
	return g
}

// fastGate passed under a policy that asks little.
func fastGate() *gatev1.Gate {
	g := stagedGate()
	g.Id, g.Terms.Policy, g.Terms.Expected.Complete = "g4", "fast", false
	g.Terms.Stage = &gatev1.Stage{
		Checks: []*gatev1.CheckDemand{
			{Check: "telemetry", Demand: "pass"}, {Check: "inventory", Demand: "pass"}, {Check: "probes", Demand: "pass"}, {Check: "sessions", Demand: "no_fail"},
		},
		Deadline: durationpb.New(10 * time.Minute),
	}
	g.Decision.Checks = g.GetDecision().GetChecks()[:4]
	checks := g.GetDecision().GetChecks()
	checks[1] = says("inventory", "pass", "pass", "6 instances run as planned (gateway 5.1.0, sra 3.2.0), 2 bastions registered.", 8*time.Second)
	checks[2] = says("probes", "pass", "pass", "New sessions fail less often than the acceptable 5 %: 0 of 90 failed after the step (0 %).", 5*time.Second, "a second reason of what passed")
	g.Decision.Probes.NewSucceeded, g.Decision.Probes.SessionsNeeded, g.Decision.Probes.LogEPromoteAbsolute = 90, 0, math.Log(45)
	return decide(g, "pass", "go_on", "Everything that is demanded is there: telemetry, inventory, probes, sessions.")
}

// inventoryGate failed because an instance did not come back.
func inventoryGate() *gatev1.Gate {
	g := stagedGate()
	g.Id = "g5"
	g.Decision.Checks[1] = says("inventory", "pass", "fail", "sra-web: 1 of 2 instances that ran before the step are back.", 8*time.Second,
		"Mixed since 2026-03-01T11:10:00Z, for 46m0s, past the window of 45m0s.")
	g.Decision.Checks[1].Figures = map[string]int64{"expected": 6, "running": 5, "missing": 1}
	return decide(g, "fail", "rollback",
		"inventory: sra-web: 1 of 2 instances that ran before the step are back.",
		"inventory: Mixed since 2026-03-01T11:10:00Z, for 46m0s, past the window of 45m0s.",
		"Rule digest: Only reviewed images may run.")
}

// shadowGate holds, and nothing follows from it.
func shadowGate() *gatev1.Gate {
	g := stagedGate()
	g.Id, g.Terms.Policy, g.Terms.Mode = "g6", "", "shadow"
	g.Decision.Checks[5].Demand = "pass"
	return decide(g, "hold", "go_on", "risks: legacy_ssh: 2 targets take only what the new version has switched off. To go on, upgrade them, or acknowledge it.")
}

func TestGateExplainTellsChecks(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{gates: []*gatev1.Gate{stagedGate(), fastGate(), inventoryGate(), shadowGate()}})
	for name, id := range map[string]string{"gate-open.txt": "g3", "gate-passed-fast.txt": "g4", "gate-failed-inventory.txt": "g5", "gate-held-shadow.txt": "g6"} {
		got := f.run(t, "gate", "explain", id)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	got := f.run(t, "gate", "explain", "g3", "-o", "json")
	var doc struct {
		Decision struct {
			Checks []struct{ Check, Demand, Verdict string }
		}
	}
	if err := json.Unmarshal([]byte(got.out), &doc); err != nil || len(doc.Decision.Checks) != 6 || doc.Decision.Checks[5].Demand != "advisory" {
		t.Errorf("%v: %s", err, got.out)
	}
}

// TestGateExplainSaysWhatFollows asks each mode what follows from each verdict.
func TestGateExplainSaysWhatFollows(t *testing.T) {
	t.Parallel()
	const holds, back = "the rollout holds until a person decides", "the cluster is rolled back"
	wouldHold, wouldGoBack := "; under act the rollout would hold until a person decides", "; under act the cluster would be rolled back"
	for _, tt := range []struct {
		mode    gate.Mode
		verdict gate.Verdict
		want    string
	}{
		{gate.Act, gate.Pass, "the rollout goes on"},
		{gate.Act, gate.Fail, back},
		{gate.Act, gate.Hold, holds},
		{gate.Act, gate.Inconclusive, holds},
		{gate.Act, gate.Pending, "nothing yet: the rollout waits for this gate"},
		{gate.Holds, gate.Pass, "the rollout goes on"},
		{gate.Holds, gate.Fail, holds + ", as the policy's mode is hold" + wouldGoBack},
		{gate.Holds, gate.Inconclusive, holds},
		{gate.Advise, gate.Pass, "the rollout goes on"},
		{gate.Advise, gate.Fail, "people are told, and the rollout goes on, as the policy's mode is advise" + wouldGoBack},
		{gate.Advise, gate.Hold, "people are told, and the rollout goes on, as the policy's mode is advise" + wouldHold},
		{gate.Shadow, gate.Pass, "the rollout goes on"},
		{gate.Shadow, gate.Fail, "the rollout goes on, as the policy's mode is shadow" + wouldGoBack},
		{gate.Shadow, gate.Inconclusive, "the rollout goes on, as the policy's mode is shadow" + wouldHold},
		{gate.Shadow, gate.Pending, "nothing yet: the rollout waits for this gate"},
	} {
		g := stagedGate()
		g.Terms.Mode = string(tt.mode)
		g.Decision.Verdict, g.Decision.Consequence = string(tt.verdict), string(tt.mode.Consequence(tt.verdict))
		f := serve(t, &fake{gates: []*gatev1.Gate{g}})
		if got := f.run(t, "gate", "explain", "g3").out; !strings.Contains(got, "\nFollows     "+tt.want+"\n") {
			t.Errorf("%s under %s: want %q in:\n%s", tt.verdict, tt.mode, tt.want, got)
		}
	}
	// A server that is newer may know more.
	g := stagedGate()
	g.Decision.Consequence = "ask"
	g.Decision.Verdict = "hold"
	if got := serve(t, &fake{gates: []*gatev1.Gate{g}}).run(t, "gate", "explain", "g3").out; !strings.Contains(got, "\nFollows     ask\n") || !strings.Contains(got, "\nVerdict     hold, not recorded yet\n") {
		t.Errorf("got:\n%s", got)
	}
}

// waveGate is the gate of a wave of three clusters, one of which is at fault.
func waveGate() *gatev1.Gate {
	g := decide(stagedGate(), "fail", "rollback", "sessions: 1 of 3 clusters are named bad (rome).")
	g.Id, g.Cluster, g.Step, g.Terms.Expected = "r1-wave-2", "", "wave", nil
	g.Wave = &gatev1.Wave{Number: 2, Begun: at(8 * time.Minute), Members: []*gatev1.WaveMember{{Cluster: "bern"}, {Cluster: "oslo"}, {Cluster: "rome"}}}
	g.Decision.Members = []*gatev1.MemberHeard{
		{Cluster: "bern", Verdict: "pass", NewFailed: 1, NewSucceeded: 59, BaselineFailed: 10, BaselineSucceeded: 290},
		{Cluster: "oslo", Verdict: "fail", RolledBack: true, NewFailed: 9, NewSucceeded: 3, BaselineFailed: 10, BaselineSucceeded: 290},
		{Cluster: "rome", Verdict: "fail", Named: true, Back: true, Failed: []string{"recording"}, NewFailed: 40, NewSucceeded: 20, BaselineFailed: 10, BaselineSucceeded: 290},
	}
	return g
}

func TestGateExplainOfAWave(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{gates: []*gatev1.Gate{waveGate()}})
	golden(t, "gate-explain-wave.txt", f.run(t, "gate", "explain", "r1-wave-2").out)
	golden(t, "gate-list-wave.txt", f.run(t, "gate", "list").out)
}

func TestGateExplainOfAnOverdueGate(t *testing.T) {
	t.Parallel()
	g := stagedGate()
	g.Terms.Stage.Deadline, g.Terms.Stage.Soak = durationpb.New(time.Minute), durationpb.New(9*time.Minute)
	got := serve(t, &fake{gates: []*gatev1.Gate{g}}).run(t, "gate", "explain", "g3").out
	if !strings.Contains(got, "Deadline    2026-03-01 11:59:00 UTC, over: ") {
		t.Errorf("the deadline comes with the end of the soak:\n%s", got)
	}
}

// WatchGate sends the gates of the id asked for in their order. A stream that ends
// with "drop" has sent the first of them, which the next one does not send.
func (f *fake) WatchGate(ctx context.Context, r *gatev1.WatchGateRequest, stream gatev1connect.GateServiceWatchGateServerStream) error {
	f.mu.Lock()
	var looks []*gatev1.Gate
	for _, g := range f.gates {
		if g.GetId() == r.GetId() {
			looks = append(looks, g)
		}
	}
	end := ""
	if len(f.after) > 0 {
		end, f.after = f.after[0], f.after[1:]
	}
	if end == "drop" {
		looks, f.gates = looks[:1], f.gates[1:]
	}
	f.mu.Unlock()
	if len(looks) == 0 || end == "unknown" {
		return catalogued(connect.CodeNotFound, "there is no gate "+r.GetId(), "LS-GAT-001")
	}
	for _, g := range looks {
		if err := stream.Send(&gatev1.WatchGateResponse{Gate: g}); err != nil {
			return err
		}
	}
	switch end {
	case "drop":
		panic(http.ErrAbortHandler)
	case "hang":
		if f.shown != nil {
			f.shown()
		}
		<-ctx.Done()
	}
	return nil
}

// looks are an open gate, the same a little later, and its decision.
func looks() []*gatev1.Gate {
	first := stagedGate()
	second := proto.CloneOf(first)
	d := second.GetDecision()
	d.Checks[0].At, d.CompleteUntil, d.StreamSequence = at(0), at(0), 99
	d.Checks[1] = says("inventory", "pass", "pass", "6 instances run as planned (gateway 5.1.0, sra 3.2.0), 2 bastions registered.", time.Second)
	d.Probes.LogERollback = math.Log(3)
	d.Checks = append(d.Checks[:5:5], says("recording", "no_fail", "pass", "1 check of recording found all in order when they looked last.", time.Second), d.GetChecks()[5])
	d.Reasons = d.GetReasons()[1:2]
	third := proto.CloneOf(second)
	third.Decision.Checks[2] = says("probes", "pass", "fail", "New sessions fail more than this cluster's baseline: 9 of 40 failed after the step (22.5 %), 2 of 300 failed before (0.667 %).", time.Second)
	third.Decision.Probes.LogERollback = math.Log(412)
	return []*gatev1.Gate{first, second, decide(third, "fail", "rollback", "probes: "+third.GetDecision().GetChecks()[2].GetText())}
}

func TestGateExplainWatches(t *testing.T) {
	t.Parallel()
	got := serve(t, &fake{gates: looks()}).run(t, "gate", "explain", "g3", "--watch")
	got.wants(t, 0, "")
	golden(t, "gate-watch.txt", got.out)

	got = serve(t, &fake{gates: looks()}).run(t, "gate", "explain", "g3", "-w", "-o", "json")
	got.wants(t, 0, "")
	var verdicts []string
	for line := range strings.Lines(got.out) {
		var g struct {
			Decision struct{ Verdict string }
		}
		if err := json.Unmarshal([]byte(line), &g); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		verdicts = append(verdicts, g.Decision.Verdict)
	}
	if strings.Join(verdicts, " ") != "pending pending fail" {
		t.Errorf("the verdicts were %v", verdicts)
	}
	serve(t, &fake{}).run(t, "gate", "explain", "g3", "-w").wants(t, 1, "lockstep: watch gate g3: there is no gate g3 (LS-GAT-001)")
	serve(t, &fake{}).run(t, "gate", "explain", "g3", "-w", "-o", "yaml").wants(t, 2, "use it with -o table or json")
}

// TestGateExplainWatchesOneWithoutChecks has a verdict to tell, and no check.
func TestGateExplainWatchesOneWithoutChecks(t *testing.T) {
	t.Parallel()
	decided := failedGate()
	decided.Id = "g2"
	got := serve(t, &fake{gates: []*gatev1.Gate{pendingGate(), decided}}).run(t, "gate", "explain", "g2", "-w")
	got.wants(t, 0, "")
	want := "12:00:00  gate        fail          14 of 61 new sessions failed (23 %), 9 of 610 before (1.5 %). Worse: 1 in 2,345 by luck. Recorded. (was pending)\n"
	if _, changes, _ := strings.Cut(got.out, "hash none yet\n\n"); changes != want {
		t.Errorf("got %q, want %q", changes, want)
	}
}

// TestGateExplainWatchesOn loses the connection: what was told is not told again,
// and a server that has not read everything again is waited for.
func TestGateExplainWatchesOn(t *testing.T) {
	t.Parallel()
	list := looks()
	f := serve(t, &fake{gates: []*gatev1.Gate{list[0], list[0], list[1], list[2]}, after: []string{"drop", "unknown"}})
	got := f.run(t, "gate", "explain", "g3", "--watch")
	got.wants(t, 0, "The server answers again.")
	golden(t, "gate-watch.txt", got.out)
	if !strings.Contains(got.err, "is lost; trying again.") {
		t.Errorf("nothing is said of the lost connection: %s", got.err)
	}
}

func TestGateExplainWatchesUntilInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	f := serve(t, &fake{gates: looks()[:1], after: []string{"hang"}, shown: cancel})
	got := runWith(t, ctx, "", "gate", "explain", "g3", "--watch", "--server", f.url, "--token-file", f.token)
	got.wants(t, 0, "")
}

func TestGateExplain(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{gates: []*gatev1.Gate{failedGate(), pendingGate()}})
	for name, id := range map[string]string{"gate-failed.txt": "gate/g1", "gate-pending.txt": "g2"} {
		got := f.run(t, "gate", "explain", id)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f.run(t, "gate", "explain", "g9").wants(t, 1, "lockstep: get gate g9: there is no gate g9 (LS-GAT-001)")
	var doc struct {
		Decision struct {
			Evidence struct {
				NewFailed string `json:"new_failed"`
				Odds      any    `json:"odds_ratio_high"`
			}
		}
	}
	got := f.run(t, "gate", "explain", "g1", "-o", "json")
	if err := json.Unmarshal([]byte(got.out), &doc); err != nil || doc.Decision.Evidence.NewFailed != "14" || doc.Decision.Evidence.Odds != "Infinity" {
		t.Errorf("%v: %+v", err, doc)
	}
}

func TestGateReplay(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{replay: &gatev1.ReplayGateResponse{Gate: failedGate(), Replayed: failedGate().GetDecision(), Same: true, Chained: true}})
	got := f.run(t, "gate", "verify", "g1")
	got.wants(t, 0, "")
	golden(t, "gate-same.txt", got.out)
	f.run(t, "gate", "verify").wants(t, 2, "name gates, or a rollout with --rollout")
	f.run(t, "gate", "verify", "g1", "--rollout", "r1").wants(t, 2, "name gates, or a rollout with --rollout")

	other := failedGate().GetDecision()
	other.Verdict, other.Evidence.NewFailed, other.EvidenceHash = "hold", 12, "e1"
	f.replay = &gatev1.ReplayGateResponse{Gate: failedGate(), Replayed: other}
	got = f.run(t, "gate", "verify", "g1")
	got.wants(t, 1, "lockstep: 1 of 1 decision did not come out as recorded")
	golden(t, "gate-differs.txt", got.out)
	got = f.run(t, "gate", "verify", "g1", "-o", "json")
	got.wants(t, 1, "did not come out as recorded")
	var told []struct {
		Same, Chained bool
	}
	if err := json.Unmarshal([]byte(got.out), &told); err != nil || len(told) != 1 || told[0].Same || told[0].Chained {
		t.Errorf("%v: %s", err, got.out)
	}
}

func TestGateReplayOfChecks(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{replay: &gatev1.ReplayGateResponse{Gate: inventoryGate(), Replayed: inventoryGate().GetDecision(), Same: true, Chained: true}})
	got := f.run(t, "gate", "verify", "g5")
	got.wants(t, 0, "")
	golden(t, "gate-same-checks.txt", got.out)

	other := inventoryGate().GetDecision()
	other.Verdict, other.StageHash, other.Probes.NewFailed = "pass", "s2", 2
	other.Checks[1] = says("inventory", "pass", "pass", "6 instances run as planned.", time.Second)
	other.Checks[1].Figures = map[string]int64{"expected": 6, "running": 6, "bastions": 2}
	other.Checks = other.GetChecks()[:5]
	f.replay = &gatev1.ReplayGateResponse{Gate: inventoryGate(), Replayed: other, Chained: true}
	got = f.run(t, "gate", "verify", "g5")
	got.wants(t, 1, "lockstep: 1 of 1 decision did not come out as recorded")
	golden(t, "gate-differs-checks.txt", got.out)
}

func TestGateListTellsChecks(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{gates: []*gatev1.Gate{stagedGate(), fastGate(), inventoryGate(), shadowGate(), failedGate()}})
	for name, args := range map[string][]string{"gate-list-checks.txt": nil, "gate-list-checks-wide.txt": {"-o", "wide"}} {
		got := f.run(t, append([]string{"gate", "list"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
}

func TestGateList(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{gates: []*gatev1.Gate{pendingGate(), failedGate(), failedGate()}})
	for name, args := range map[string][]string{
		"gate-list.txt":      {"--rollout", "rollout/r1"},
		"gate-list-wide.txt": {"-o", "wide"},
		"gate-list-name.txt": {"-o", "name"},
	} {
		got := f.run(t, append([]string{"gate", "list"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f.gateAsks = nil
	f.run(t, "gates", "ls", "--rollout", "r7")
	if len(f.gateAsks) != 2 || f.gateAsks[1].GetRollout() != "r7" {
		t.Errorf("asked for %v", f.gateAsks)
	}
	serve(t, &fake{}).run(t, "gate", "list").wants(t, 0, "There are no gates")
}
