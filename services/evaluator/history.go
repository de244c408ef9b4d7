package evaluator

import (
	"context"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

// driftAPI answers what does not belong together, since when, and what it cost.
type driftAPI struct{ watch *watch }

const day = 24 * time.Hour

// span reads a span of a request: up to now unless it says otherwise, and as long
// as is usual.
func (w *watch) span(from, to time.Time, usual time.Duration) (codec.Span, error) {
	if to.IsZero() {
		to = w.deps.Now()
	}
	if from.IsZero() {
		from = to.Add(-usual)
	}
	if !from.Before(to) {
		return codec.Span{}, errs.New(errs.Invalid, "LS-DRF-001", "the span begins at %s and ends at %s; give an end that is later", from.Format(time.RFC3339), to.Format(time.RFC3339))
	}
	return codec.Span{From: from, To: to}, nil
}

// limited is how many rows a request asks for.
func limited(asked int32) int {
	if asked == 0 {
		return 100
	}
	return int(min(asked, 1000))
}

func group(asked string, otherwise codec.Group) codec.Group {
	if asked == "" {
		return otherwise
	}
	return codec.Group(asked)
}

func (a driftAPI) SumMixedTime(ctx context.Context, req *driftv1.SumMixedTimeRequest) (*driftv1.SumMixedTimeResponse, error) {
	span, err := a.watch.span(codec.Instant(req.GetFrom()), codec.Instant(req.GetTo()), 30*day)
	if err != nil {
		return nil, err
	}
	rows, err := a.watch.deps.Store.MixedTime(ctx, a.watch.config.Tenant, span, group(req.GetGroup(), codec.ByCluster), a.watch.deps.Now())
	if err != nil {
		return nil, err
	}
	resp := &driftv1.SumMixedTimeResponse{From: timestamppb.New(span.From), To: timestamppb.New(span.To)}
	for _, r := range rows[:min(len(rows), limited(req.GetLimit()))] {
		resp.Rows = append(resp.Rows, &driftv1.MixedTime{
			Key: r.Key, Inside: durationpb.New(r.Inside), Outside: durationpb.New(r.Outside), Mixes: int64(r.Mixes), Longest: durationpb.New(r.Longest),
		})
	}
	return resp, nil
}

func (a driftAPI) SumAdoption(ctx context.Context, req *driftv1.SumAdoptionRequest) (*driftv1.SumAdoptionResponse, error) {
	span, err := a.watch.span(codec.Instant(req.GetFrom()), codec.Instant(req.GetTo()), 30*day)
	if err != nil {
		return nil, err
	}
	step := day
	if req.GetStep() != nil {
		step = req.GetStep().AsDuration()
	}
	if steps := span.To.Sub(span.From) / step; steps > mostSteps {
		return nil, errs.New(errs.Invalid, "LS-DRF-002", "a step of %s makes %d instants, and %d are the most; take a longer step or a shorter span", step, steps, mostSteps)
	}
	// The newest instant is the end of the span, which is now unless it was asked for.
	span = codec.Span{From: span.From.Add(span.To.Sub(span.From) % step), To: span.To.Add(time.Millisecond)}
	rows, err := a.watch.deps.Store.Adoption(ctx, a.watch.config.Tenant, fleet.Line(req.GetLine()), span, step)
	if err != nil {
		return nil, err
	}
	resp := &driftv1.SumAdoptionResponse{}
	for _, r := range rows {
		resp.Rows = append(resp.Rows, &driftv1.Adoption{At: timestamppb.New(r.At), Version: r.Version, Clusters: int64(r.Clusters), Mixed: int64(r.Mixed)})
	}
	return resp, nil
}

// mostSteps bounds the instants of one answer.
const mostSteps = 5000

func (a driftAPI) SumConvergence(ctx context.Context, req *driftv1.SumConvergenceRequest) (*driftv1.SumConvergenceResponse, error) {
	span, err := a.watch.span(codec.Instant(req.GetFrom()), codec.Instant(req.GetTo()), 90*day)
	if err != nil {
		return nil, err
	}
	rows, err := a.watch.deps.Store.Convergence(ctx, a.watch.config.Tenant, span)
	if err != nil {
		return nil, err
	}
	resp := &driftv1.SumConvergenceResponse{}
	for _, r := range rows {
		m := &driftv1.Convergence{
			Release: string(r.Release), BeganAt: timestamppb.New(r.Began), Clusters: int64(r.Clusters), Converged: int64(r.Converged),
			P50: durationpb.New(r.P50), P90: durationpb.New(r.P90), Longest: durationpb.New(r.Longest),
		}
		if !r.Ended.IsZero() {
			m.EndedAt = timestamppb.New(r.Ended)
		}
		resp.Rows = append(resp.Rows, m)
	}
	return resp, nil
}

func (a driftAPI) SumImpact(ctx context.Context, req *driftv1.SumImpactRequest) (*driftv1.SumImpactResponse, error) {
	span, err := a.watch.span(codec.Instant(req.GetFrom()), codec.Instant(req.GetTo()), 30*day)
	if err != nil {
		return nil, err
	}
	rows, err := a.watch.deps.Store.Impact(ctx, a.watch.config.Tenant, span, group(req.GetGroup(), codec.ByAll))
	if err != nil {
		return nil, err
	}
	resp := &driftv1.SumImpactResponse{From: timestamppb.New(span.From), To: timestamppb.New(span.To)}
	fared := func(f codec.Fared) *driftv1.Fared {
		return &driftv1.Fared{Sessions: int64(f.Sessions), Failed: int64(f.Failed)}
	}
	for _, r := range rows[:min(len(rows), limited(req.GetLimit()))] {
		resp.Rows = append(resp.Rows, &driftv1.Impact{Key: r.Key, Whole: fared(r.Whole), Inside: fared(r.Inside), Outside: fared(r.Outside)})
	}
	return resp, nil
}

func (a driftAPI) ListPeriods(ctx context.Context, req *driftv1.ListPeriodsRequest) (*driftv1.ListPeriodsResponse, error) {
	a.watch.mu.Lock()
	_, err := a.watch.known([]string{req.GetCluster()})
	a.watch.mu.Unlock()
	if err != nil {
		return nil, err
	}
	span, err := a.watch.span(codec.Instant(req.GetFrom()), codec.Instant(req.GetTo()), 100*365*day)
	if err != nil {
		return nil, err
	}
	periods, err := a.watch.deps.Store.Periods(ctx, a.watch.config.Tenant, []fleet.ClusterID{fleet.ClusterID(req.GetCluster())}, span, mostPeriods)
	if err != nil {
		return nil, err
	}
	slices.Reverse(periods)
	some, next, err := codec.Page(req, periods, func(p codec.Period) string { return strconv.FormatInt(p.Began.UnixMilli(), 10) }, func(codec.Period) bool { return true })
	if err != nil {
		return nil, err
	}
	resp := &driftv1.ListPeriodsResponse{NextPageToken: next}
	for _, p := range some {
		resp.Periods = append(resp.Periods, codec.PeriodToProto(p.Period))
	}
	return resp, nil
}

func (a driftAPI) ListDrifts(ctx context.Context, req *driftv1.ListDriftsRequest) (*driftv1.ListDriftsResponse, error) {
	selector, err := fleet.ParseSelector(req.GetLabelSelector())
	if err != nil {
		return nil, badSelector(err)
	}
	w := a.watch
	w.mu.Lock()
	var ids []fleet.ClusterID
	var drifts []*driftv1.Drift
	over := make(map[fleet.ClusterID]time.Time)
	for _, c := range w.named(req.GetClusters()) {
		if !selector.Matches(c.labels) {
			continue
		}
		ids = append(ids, c.drift.ID)
		if c.opened.IsZero() {
			over[c.drift.ID] = c.since
		} else {
			drifts = append(drifts, &driftv1.Drift{
				Cluster: string(c.drift.ID), State: string(c.period.State), OpenedAt: timestamppb.New(c.opened), Reasons: c.period.Reasons,
				States: []string{string(c.period.State)}, AssignedRelease: string(c.period.Assigned),
			})
		}
	}
	now := w.deps.Now()
	w.mu.Unlock()
	if since := codec.Instant(req.GetSince()); !since.IsZero() && len(ids) > 0 {
		span, err := w.span(since, now, 0)
		if err != nil {
			return nil, err
		}
		// An episode may have begun in another state before.
		span.From = span.From.Add(-episodes)
		periods, err := w.deps.Store.Periods(ctx, w.config.Tenant, ids, span, mostPeriods)
		if err != nil {
			return nil, err
		}
		if len(periods) == mostPeriods {
			return nil, errs.New(errs.Exhausted, "LS-DRF-006", "there are more than %d periods in that time; ask for fewer clusters, or since later", mostPeriods)
		}
		drifts = slices.DeleteFunc(withHistory(drifts, over, periods), func(d *driftv1.Drift) bool {
			return d.GetClosedAt() != nil && d.GetClosedAt().AsTime().Before(since)
		})
	}
	slices.SortStableFunc(drifts, func(a, b *driftv1.Drift) int { return strings.Compare(driftKey(a), driftKey(b)) })
	some, next, err := codec.Page(req, drifts, driftKey, func(d *driftv1.Drift) bool {
		return len(req.GetStates()) == 0 || slices.Contains(req.GetStates(), d.GetState())
	})
	if err != nil {
		return nil, err
	}
	return &driftv1.ListDriftsResponse{Drifts: some, NextPageToken: next}, nil
}

// episodes is how long before the time asked for an episode's beginning is looked
// for.
const episodes = 30 * day

// mostPeriods bounds how much history one list of episodes is made from.
const mostPeriods = 200_000

// driftKey orders as the list is: newest first.
func driftKey(d *driftv1.Drift) string {
	return strconv.FormatUint(math.MaxInt64-uint64(d.GetOpenedAt().AsTime().UnixMilli()), 36) + "/" + d.GetCluster()
}

// withHistory returns open episodes and those that periods tell of, oldest period
// first of each cluster. Over is since when clusters are in their state that have no
// open one.
func withHistory(open []*driftv1.Drift, over map[fleet.ClusterID]time.Time, periods []codec.Period) []*driftv1.Drift {
	var out []*driftv1.Drift
	last := make(map[fleet.ClusterID]*driftv1.Drift)
	told := make(map[string]*driftv1.Drift)
	for _, p := range periods {
		d := last[p.Cluster]
		if !p.State.Alarming() {
			if d != nil {
				d.ClosedAt = timestamppb.New(p.Began)
				delete(last, p.Cluster)
			}
			continue
		}
		if d == nil {
			d = &driftv1.Drift{Cluster: string(p.Cluster), OpenedAt: timestamppb.New(p.Began)}
			last[p.Cluster] = d
			out = append(out, d)
		}
		d.State, d.Reasons, d.AssignedRelease = string(p.State), p.Reasons, string(p.Assigned)
		if len(d.States) == 0 || d.States[len(d.States)-1] != d.State {
			d.States = append(d.States, d.State)
		}
	}
	// What goes on is known best by who watches it; its rows may be a moment behind.
	for cluster, d := range last {
		if at, ended := over[cluster]; ended {
			d.ClosedAt = timestamppb.New(at)
		} else {
			told[d.GetCluster()] = d
		}
	}
	for _, d := range open {
		if known := told[d.GetCluster()]; known != nil {
			known.OpenedAt, known.State, known.Reasons = d.GetOpenedAt(), d.GetState(), d.GetReasons()
		} else {
			out = append(out, d)
		}
	}
	return out
}

func badSelector(err error) error { return errs.New(errs.Invalid, "LS-FLT-006", "reading the %w", err) }
