package cli_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
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
