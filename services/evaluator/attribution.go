package evaluator

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// attributed is whose sessions are looked at, and when they started.
type attributed struct {
	clusters []fleet.ClusterID
	boundary gate.Boundary
	until    time.Time
	policy   gate.Policy
}

// usualBaseline is how long a baseline is when nobody says it, as a gate's is.
const usualBaseline = 28 * day

func (a gateAPI) GetAttribution(ctx context.Context, req *gatev1.GetAttributionRequest) (*gatev1.GetAttributionResponse, error) {
	of, err := a.watch.attributed(req)
	if err != nil {
		return nil, err
	}
	cells, err := a.watch.deps.Store.Cells(ctx, a.watch.config.Tenant, of.clusters, of.boundary, of.until, of.policy.BurstWindow)
	if err != nil {
		return nil, err
	}
	found := gate.Attribute(cells, of.policy)
	m := &gatev1.Attribution{
		Gate: req.GetGate(), BaselineFrom: timestamppb.New(of.boundary.BaselineFrom), Start: timestamppb.New(of.boundary.Start),
		End: timestamppb.New(of.boundary.End), Until: timestamppb.New(of.until),
		BurstWindow: durationpb.New(of.policy.BurstWindow), Tolerance: of.policy.Tol,
		Baseline: tally(found.Baseline), Between: tally(found.Between), New: tally(found.New), Odds: odds(found.Odds),
		Excess: found.Excess, Shown: found.Shown, Compared: int32(found.Compared), Summary: found.Summary,
	}
	for _, id := range of.clusters {
		m.Clusters = append(m.Clusters, string(id))
	}
	for _, f := range found.Findings {
		m.Findings = append(m.Findings, &gatev1.AttributionFinding{
			Factor: string(f.Factor), Value: f.Value, New: tally(f.New), Baseline: tally(f.Baseline), Odds: odds(f.Odds),
			LogE: f.LogE, Named: f.Named, Share: f.Share, Text: f.Text,
		})
	}
	return &gatev1.GetAttributionResponse{Attribution: m}, nil
}

func tally(t gate.Trials) *gatev1.Tally {
	return &gatev1.Tally{Failed: int64(t.Failed), Succeeded: int64(t.Succeeded)}
}

func odds(o gate.OddsRatio) *gatev1.Odds {
	return &gatev1.Odds{Ratio: o.Estimate, Low: o.Low, High: o.High}
}

// attributed reads a request.
func (w *watch) attributed(req *gatev1.GetAttributionRequest) (attributed, error) {
	timed := req.GetBaselineFrom() != nil || req.GetStart() != nil || req.GetEnd() != nil || req.GetUntil() != nil
	now := w.deps.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if req.GetGate() != "" && len(req.GetClusters()) == 0 && !timed {
		return w.attributedGate(req.GetGate(), now)
	}
	if req.GetGate() != "" || len(req.GetClusters()) == 0 || req.GetStart() == nil {
		return attributed{}, errs.New(errs.Invalid, "LS-GAT-020", "name a gate and nothing else, or clusters with the time at which their step began")
	}
	known, err := w.known(req.GetClusters())
	if err != nil {
		return attributed{}, err
	}
	out := attributed{
		boundary: gate.Boundary{BaselineFrom: codec.Instant(req.GetBaselineFrom()), Start: codec.Instant(req.GetStart()), End: codec.Instant(req.GetEnd())},
		until:    codec.Instant(req.GetUntil()), policy: gate.DefaultPolicy(),
	}
	for _, c := range known {
		out.clusters = append(out.clusters, c.drift.ID)
	}
	b := &out.boundary
	if b.BaselineFrom.IsZero() {
		b.BaselineFrom = b.Start.Add(-usualBaseline)
	}
	if b.End.IsZero() {
		b.End = b.Start
	}
	if out.until.IsZero() {
		out.until = now
	}
	if !b.BaselineFrom.Before(b.Start) || b.End.Before(b.Start) || !b.End.Before(out.until) {
		return attributed{}, errs.New(errs.Invalid, "LS-GAT-021",
			"the baseline begins at %s, the step at %s, new sessions at %s, and they end at %s; give times in this order, none of the future",
			b.BaselineFrom.Format(time.RFC3339), b.Start.Format(time.RFC3339), b.End.Format(time.RFC3339), out.until.Format(time.RFC3339))
	}
	return out, nil
}

// attributedGate is a gate's; what followed its decision, such as the way back, is
// not.
func (w *watch) attributedGate(id string, now time.Time) (attributed, error) {
	g := w.gates[id]
	if g == nil {
		return attributed{}, unknownGate(id)
	}
	out := attributed{clusters: g.clusters(), boundary: g.Boundary, until: now, policy: g.Policy}
	if at := codec.Instant(g.decision.GetDecidedAt()); !at.IsZero() {
		out.until = at
	}
	return out, nil
}
