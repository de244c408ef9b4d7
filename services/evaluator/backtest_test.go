//go:build linux && amd64

package evaluator_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
)

// past stores what a source told between two times, from the step on: so many
// sessions an hour of which a share fails, and a mark every ten minutes.
func (w *world) past(cluster fleet.ClusterID, from, to time.Duration, perHour int, failing float64) {
	w.t.Helper()
	chance := rand.New(rand.NewPCG(uint64(perHour), uint64(from)))
	var records []codec.Record
	for sequence, at := uint64(from/time.Second+1<<30), from; at < to; at += 10 * time.Minute {
		tell := func(o codec.Observation) {
			records = append(records, codec.Record{
				Observation: o, Tenant: fleet.DefaultTenant, ObservedAt: w.step.Add(at + 10*time.Minute), RecordedAt: w.step.Add(at + 10*time.Minute),
				Source: "vendor", Incarnation: "past", SourceSequence: sequence, StreamSequence: sequence, Index: uint32(len(records)),
			})
		}
		for i := range max(1, perHour/6) {
			status := fleet.SessionConnected
			if chance.Float64() < failing {
				status = fleet.SessionFailed
			}
			tell(w.session(cluster, fmt.Sprintf("past-%d-%d", at, i), at+time.Duration(chance.Int64N(int64(10*time.Minute))), status))
		}
		tell(w.mark(cluster, at+10*time.Minute))
		sequence++
	}
	if err := w.store.InsertRecords(w.t.Context(), records); err != nil {
		w.t.Fatal(err)
	}
}

// backtest asks for one and returns what the server told, the last message last.
func (l *life) backtest(req *gatev1.BacktestPolicyRequest) (all []*gatev1.BacktestPolicyResponse, err error) {
	l.w.t.Helper()
	client, ended := l.serve()
	ctx, cancel := context.WithTimeout(l.w.t.Context(), patience)
	defer cancel()
	stream, err := gatev1connect.NewGateServiceClient(client).BacktestPolicy(ctx, req)
	if err != nil {
		return nil, err
	}
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			awaitEnd(l.w.t, ended)
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
}

func TestBacktest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	const days = 24 * time.Hour
	if err := w.store.InsertPeriods(t.Context(), fleet.DefaultTenant, []codec.Period{
		{Period: drift.Period{Cluster: "paris", Began: w.step.Add(-15 * days), Ended: w.step.Add(-8 * days), State: drift.Locked}, StreamSequence: 1},
		// Moved by hand, which no rollout tells of.
		{Period: drift.Period{Cluster: "paris", Began: w.step.Add(-8 * days), Ended: w.step.Add(-8*days + time.Hour), State: drift.Overdue}, StreamSequence: 2},
		{Period: drift.Period{Cluster: "paris", Began: w.step.Add(-8*days + time.Hour), Ended: w.step, State: drift.Locked}, StreamSequence: 3},
	}); err != nil {
		t.Fatal(err)
	}
	w.past("paris", -15*days, -10*time.Minute, 60, 0.02)
	w.past("paris", -10*time.Minute, 0, 600, 0.02)
	l := w.start()
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	w.past("paris", 10*time.Minute, 2*time.Hour, 60, 0.9)
	w.advance(2 * time.Hour)
	w.record("r-paris", "paris", rollout.RollbackStarted{Reason: "a person asked"})

	lenient := policy()
	lenient.Alpha = 1e-9
	req := &gatev1.BacktestPolicyRequest{
		Policy: codec.PolicyToProto(policy()), Against: codec.PolicyToProto(lenient), From: timestamppb.New(w.step.Add(-20 * days)), Steps: 12,
		Inject: []float64{0.9, 0.001}, Seed: 7, Calibrate: true, Lookback: durationpb.New(days),
	}
	told, err := l.backtest(req)
	if err != nil {
		t.Fatal(err)
	}
	first, last := told[0], told[len(told)-1]
	if first.GetReport() != nil || first.GetProgress().GetClusters() != 2 || last.GetProgress().GetClustersDone() != 2 || last.GetProgress().GetRows() == 0 {
		t.Errorf("progress began with %v and ended with %v", first, last.GetProgress())
	}
	r := last.GetReport()
	if !r.GetComplete() || r.GetClusters() != 1 || len(r.GetSkipped()) != 1 || r.GetSkipped()[0].GetCluster() != "rome" {
		t.Fatalf("report %v", r)
	}
	var cases []string
	by := make(map[string]*gatev1.BacktestCase)
	for _, c := range r.GetCases() {
		name := fmt.Sprintf("%s %g %g", c.GetName(), c.GetTolerance(), c.GetInjected())
		cases, by[name] = append(cases, name), c
	}
	same(t, "cases", []string{
		"policy 1.25 0", "policy 1.25 0.001", "policy 1.25 0.9", "against 1.25 0", "against 1.25 0.001", "against 1.25 0.9", "tolerance 1 0", "tolerance 1.5 0",
	}, cases)
	innocent, guilty := by["policy 1.25 0"], by["policy 1.25 0.9"]
	if f := innocent.GetFake(); f.GetPass()+f.GetFail()+f.GetHold()+f.GetInconclusive() != 12 || f.GetFail() > 1 || f.GetFailedHigh() < 0.2 || f.GetFailedHigh() > 0.6 {
		t.Errorf("innocent steps: %v", f)
	}
	if f := guilty.GetFake(); f.GetFail() != 12 || f.GetFailedShare() != 1 || f.GetToFail().GetMedian().AsDuration() == 0 || f.GetToFailExposed().GetMedian() == 0 {
		t.Errorf("steps at which nine of ten sessions fail: %v", f)
	}
	if guilty.GetRolledBack() != nil || innocent.GetRolledBack().GetFail() != 1 || innocent.GetStayed().GetFail() != 0 {
		t.Errorf("real steps: %v, %v", innocent.GetRolledBack(), innocent.GetStayed())
	}
	if c := r.GetCalibration(); c.GetAlpha() != policy().Alpha || len(c.GetUntried()) != 1 || c.GetUntried()[0] != 2 {
		t.Errorf("calibration %v", c)
	}
	var moved *gatev1.BacktestStep
	for _, s := range r.GetSteps() {
		if s.GetGate() == gateID {
			moved = s
		} else if s.GetPolicy().GetVerdict() == s.GetAgainst().GetVerdict() {
			t.Errorf("a fake step that both judge alike is listed: %v", s)
		}
	}
	if moved.GetOutcome() != "rolled_back" || moved.GetPolicy().GetVerdict() != "fail" || moved.GetPolicy().GetHeld().AsDuration() > time.Hour {
		t.Errorf("the real step: %v", moved)
	}
	again, err := l.backtest(req)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(again[len(again)-1].GetReport(), r) {
		t.Errorf("again it comes out as\n%v\nand was\n%v", again[len(again)-1].GetReport(), r)
	}
}

func TestABacktestThatCannotBeMade(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	wrong := codec.PolicyToProto(policy())
	wrong.Alpha = 2
	right := codec.PolicyToProto(policy())
	for name, c := range map[string]struct {
		req *gatev1.BacktestPolicyRequest
		id  string
	}{
		"alpha of 2":          {&gatev1.BacktestPolicyRequest{Policy: wrong}, "LS-GAT-030"},
		"against one of 2":    {&gatev1.BacktestPolicyRequest{Policy: right, Against: wrong}, "LS-GAT-030"},
		"no cluster matches":  {&gatev1.BacktestPolicyRequest{Policy: right, LabelSelector: "env=moon"}, "LS-GAT-031"},
		"no such cluster":     {&gatev1.BacktestPolicyRequest{Policy: right, Clusters: []string{"atlantis"}}, "LS-FLT-001"},
		"no selector":         {&gatev1.BacktestPolicyRequest{Policy: right, LabelSelector: "env in ("}, "LS-FLT-006"},
		"a span of nothing":   {&gatev1.BacktestPolicyRequest{Policy: right, From: timestamppb.New(w.now()), To: timestamppb.New(w.now())}, "LS-DRF-001"},
		"a span that is over": {&gatev1.BacktestPolicyRequest{Policy: right, From: timestamppb.New(w.now().Add(time.Hour)), To: timestamppb.New(w.now())}, "LS-DRF-001"},
	} {
		_, err := l.gatesBacktest(c.req)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		refused(t, err, c.id)
	}
}

// gatesBacktest calls the handler itself, whose errors still carry their ids.
func (l *life) gatesBacktest(req *gatev1.BacktestPolicyRequest) ([]*gatev1.BacktestPolicyResponse, error) {
	return nil, l.gates.BacktestPolicy(l.w.t.Context(), req, gatev1connect.GateServiceBacktestPolicyServerStream{})
}
