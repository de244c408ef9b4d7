package evaluator

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

// sessionsOf is how far back a baseline counts sessions.
const sessionsOf = day

// capture is a cluster as it is known now, to be kept under a name.
func (w *watch) capture(ctx context.Context, c *clusterWatch, name, by, rollout string, at time.Time) (drift.Baseline, error) {
	b := drift.Baseline{
		ID: name + "/" + string(c.drift.ID), Name: name, Cluster: c.drift.ID, At: at, By: by, Rollout: rollout,
		State: w.judged(c, at).State, Assigned: c.expects(),
		Inventory: c.drift.Inventory, Registration: c.drift.Registration, Package: c.drift.Package,
	}
	sessions, err := w.deps.Store.SessionsOf(ctx, w.config.Tenant, c.drift.ID, codec.Span{From: at.Add(-sessionsOf), To: at})
	if err != nil {
		return drift.Baseline{}, fmt.Errorf("counting the sessions of %s: %w", c.drift.ID, err)
	}
	b.Sessions = sessions
	return b, nil
}

// captureFor keeps what a rollout finds in a cluster before it touches it. A
// repeat, which may find what the rollout made of it, changes nothing.
func (w *watch) captureFor(ctx context.Context, id rollout.ID, f rollout.Fact) error {
	if _, err := w.deps.Store.Baseline(ctx, w.config.Tenant, string(id)+"/"+string(f.Cluster)); errs.KindOf(err) != errs.NotFound {
		return err
	}
	b, err := w.capture(ctx, w.clusters[f.Cluster], string(id), "", string(id), f.At)
	if err != nil {
		return err
	}
	if err := w.deps.Store.InsertBaseline(ctx, w.config.Tenant, b); err != nil {
		return fmt.Errorf("keeping the baseline of %s: %w", f.Cluster, err)
	}
	return nil
}

func (a driftAPI) CaptureBaseline(ctx context.Context, req *driftv1.CaptureBaselineRequest) (*driftv1.CaptureBaselineResponse, error) {
	w := a.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	clusters, err := w.known(req.GetClusters())
	if err != nil {
		return nil, err
	}
	now := w.deps.Now()
	name := cmp.Or(req.GetName(), now.UTC().Format("2006-01-02t15-04-05"))
	resp := &driftv1.CaptureBaselineResponse{}
	for _, c := range clusters {
		if _, err := w.deps.Store.Baseline(ctx, w.config.Tenant, name+"/"+string(c.drift.ID)); err == nil {
			return nil, errs.New(errs.Conflict, "LS-DRF-003", "there is a baseline %s/%s already; give this one another name", name, c.drift.ID)
		} else if errs.KindOf(err) != errs.NotFound {
			return nil, err
		}
	}
	for _, c := range clusters {
		b, err := w.capture(ctx, c, name, who(ctx), "", now)
		if err != nil {
			return nil, err
		}
		if err := w.deps.Store.InsertBaseline(ctx, w.config.Tenant, b); err != nil {
			return nil, fmt.Errorf("keeping the baseline of %s: %w", c.drift.ID, err)
		}
		resp.Baselines = append(resp.Baselines, baselineToProto(b))
	}
	return resp, nil
}

func (a driftAPI) ListBaselines(ctx context.Context, req *driftv1.ListBaselinesRequest) (*driftv1.ListBaselinesResponse, error) {
	list, err := a.watch.deps.Store.Baselines(ctx, a.watch.config.Tenant, codec.BaselineFilter{
		Cluster: fleet.ClusterID(req.GetCluster()), Name: req.GetName(), Rollout: req.GetRollout(),
	}, limited(req.GetLimit()))
	if err != nil {
		return nil, err
	}
	resp := &driftv1.ListBaselinesResponse{}
	for _, b := range list {
		m := baselineToProto(b)
		m.Cluster.Instances, m.Cluster.Declared, m.Cluster.Bastions = nil, nil, nil
		resp.Baselines = append(resp.Baselines, m)
	}
	return resp, nil
}

// baseline returns one that was kept.
func (a driftAPI) baseline(ctx context.Context, id string) (drift.Baseline, error) {
	b, err := a.watch.deps.Store.Baseline(ctx, a.watch.config.Tenant, id)
	if errs.KindOf(err) == errs.NotFound {
		return b, errs.New(errs.NotFound, "LS-DRF-004", "there is no baseline %q; `lockstep baseline list` shows those there are", id)
	}
	return b, err
}

func (a driftAPI) GetBaseline(ctx context.Context, req *driftv1.GetBaselineRequest) (*driftv1.GetBaselineResponse, error) {
	b, err := a.baseline(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	return &driftv1.GetBaselineResponse{Baseline: baselineToProto(b)}, nil
}

func (a driftAPI) CompareBaseline(ctx context.Context, req *driftv1.CompareBaselineRequest) (*driftv1.CompareBaselineResponse, error) {
	before, err := a.baseline(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	var after drift.Baseline
	if req.GetWith() != "" {
		after, err = a.baseline(ctx, req.GetWith())
	} else {
		after, err = a.present(ctx, before.Cluster)
	}
	if err != nil {
		return nil, err
	}
	if before.Cluster != after.Cluster {
		return nil, errs.New(errs.Invalid, "LS-DRF-005", "%s and %s are of different clusters; compare two of one cluster", req.GetId(), req.GetWith())
	}
	compared := drift.Compare(before, after)
	resp := &driftv1.CompareBaselineResponse{Same: compared.Same(), Before: baselineToProto(before), After: baselineToProto(after)}
	for _, d := range compared.Differences {
		resp.Differences = append(resp.Differences, &driftv1.Difference{About: string(d.About), Subject: d.Subject, Before: d.Before, After: d.After, Text: d.Text})
	}
	return resp, nil
}

// present is a cluster as it is now, in the shape of a baseline.
func (a driftAPI) present(ctx context.Context, id fleet.ClusterID) (drift.Baseline, error) {
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	c := a.watch.clusters[id]
	if c == nil {
		return drift.Baseline{}, unknownClusters([]string{string(id)})
	}
	return a.watch.capture(ctx, c, "now", who(ctx), "", a.watch.deps.Now())
}

func baselineToProto(b drift.Baseline) *driftv1.Baseline {
	cluster := &fleetv1.Cluster{Id: string(b.Cluster), State: string(b.State), AssignedRelease: string(b.Assigned), Instances: instances(b.Inventory), Declared: declared(b.Package)}
	if at := b.Inventory.ObservedAt; !at.IsZero() {
		cluster.LastSeen = timestamppb.New(at)
	}
	registered(cluster, b.Registration)
	running := drift.Running(b.Inventory)
	for line, versions := range running {
		cluster.Lines = append(cluster.Lines, &fleetv1.Line{Line: string(line), Running: versions})
	}
	slices.SortFunc(cluster.GetLines(), func(a, b *fleetv1.Line) int { return cmp.Compare(a.GetLine(), b.GetLine()) })
	s := b.Sessions
	return &driftv1.Baseline{
		Id: b.ID, Name: b.Name, ClusterId: string(b.Cluster), At: timestamppb.New(b.At), By: b.By, Rollout: b.Rollout, Cluster: cluster,
		Sessions: &driftv1.SessionCounts{
			From: timestamppb.New(s.From), To: timestamppb.New(s.To), Succeeded: int64(s.Succeeded), Failed: int64(s.Failed), Open: int64(s.Open),
			Probes: int64(s.Probes), ProbesFailed: int64(s.ProbesFailed),
		},
	}
}
