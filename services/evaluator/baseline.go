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

// capture is a cluster as it is known now, to be kept under a name, without its
// sessions.
func (w *watch) capture(c *clusterWatch, name, by string, at time.Time) drift.Baseline {
	return drift.Baseline{
		ID: name + "/" + string(c.drift.ID), Name: name, Cluster: c.drift.ID, At: at, By: by,
		State: w.judged(c, at).State, Assigned: c.expects(),
		Inventory: c.drift.Inventory, Registration: c.drift.Registration, Package: c.drift.Package,
	}
}

// withSessions adds how sessions fared before, by one look at the store, for which
// nobody waits who judges.
func (w *watch) withSessions(ctx context.Context, list []drift.Baseline) error {
	ids := make([]fleet.ClusterID, len(list))
	for i, b := range list {
		ids[i] = b.Cluster
	}
	if len(list) == 0 {
		return nil
	}
	span := codec.Span{From: list[0].At.Add(-sessionsOf), To: list[0].At}
	counted, err := w.deps.Store.SessionsOf(ctx, w.config.Tenant, ids, span)
	if err != nil {
		return fmt.Errorf("counting sessions: %w", err)
	}
	for i, b := range list {
		sessions := counted[b.Cluster]
		sessions.From, sessions.To = span.From, span.To
		list[i].Sessions = sessions
	}
	return nil
}

// captureFor keeps what a rollout finds in a cluster before it touches it. A
// repeat, which has the time of the first and may know more, changes nothing.
// Whoever was away when the rollout began may have seen already what it made, so
// what held then is asked of the history.
func (w *watch) captureFor(ctx context.Context, id rollout.ID, f rollout.Fact) error {
	if _, err := w.deps.Store.Baseline(ctx, w.config.Tenant, string(id)+"/"+string(f.Cluster)); errs.KindOf(err) != errs.NotFound {
		return err
	}
	w.mu.Lock()
	c := w.clusters[f.Cluster]
	if c == nil {
		w.mu.Unlock()
		return nil
	}
	b := w.capture(c, string(id), "", f.At)
	b.Rollout = string(id)
	w.mu.Unlock()
	if b.Inventory.ObservedAt.After(f.At) {
		clusters := []fleet.ClusterID{f.Cluster}
		inventories, err := w.deps.Store.InventoriesAt(ctx, w.config.Tenant, f.At, clusters)
		if err != nil {
			return fmt.Errorf("reading what ran in %s before rollout %s: %w", f.Cluster, id, err)
		}
		b.Inventory = fleet.Inventory{Cluster: f.Cluster}
		for _, held := range inventories {
			b.Inventory = held
		}
		periods, err := w.deps.Store.PeriodsAt(ctx, w.config.Tenant, f.At, w.deps.Now(), clusters)
		if err != nil {
			return fmt.Errorf("reading the state of %s before rollout %s: %w", f.Cluster, id, err)
		}
		b.State = drift.Unknown
		for _, p := range periods {
			b.State, b.Assigned = p.State, p.Assigned
		}
	}
	list := []drift.Baseline{b}
	if err := w.withSessions(ctx, list); err != nil {
		return err
	}
	if err := w.deps.Store.InsertBaselines(ctx, w.config.Tenant, list); err != nil {
		return fmt.Errorf("keeping the baseline of %s: %w", f.Cluster, err)
	}
	return nil
}

func (a driftAPI) CaptureBaseline(ctx context.Context, req *driftv1.CaptureBaselineRequest) (*driftv1.CaptureBaselineResponse, error) {
	w := a.watch
	now := w.deps.Now()
	name := cmp.Or(req.GetName(), now.UTC().Format("2006-01-02t15-04-05"))
	w.mu.Lock()
	clusters, err := w.known(req.GetClusters())
	list := make([]drift.Baseline, 0, len(clusters))
	for _, c := range clusters {
		list = append(list, w.capture(c, name, who(ctx), now))
	}
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	taken, err := w.deps.Store.Baselines(ctx, w.config.Tenant, codec.BaselineFilter{Name: name}, mostNamed)
	if err != nil {
		return nil, err
	}
	for _, b := range taken {
		if slices.ContainsFunc(list, func(own drift.Baseline) bool { return own.ID == b.ID }) {
			return nil, errs.New(errs.Conflict, "LS-DRF-003", "there is a baseline %s already; give this one another name", b.ID)
		}
	}
	if err := w.withSessions(ctx, list); err != nil {
		return nil, err
	}
	if err := w.deps.Store.InsertBaselines(ctx, w.config.Tenant, list); err != nil {
		return nil, fmt.Errorf("keeping the baselines %s: %w", name, err)
	}
	resp := &driftv1.CaptureBaselineResponse{}
	for _, b := range list {
		resp.Baselines = append(resp.Baselines, baselineToProto(b))
	}
	return resp, nil
}

// mostNamed bounds how many baselines can share a name.
const mostNamed = 100_000

func (a driftAPI) ListBaselines(ctx context.Context, req *driftv1.ListBaselinesRequest) (*driftv1.ListBaselinesResponse, error) {
	list, err := a.watch.deps.Store.Baselines(ctx, a.watch.config.Tenant, codec.BaselineFilter{
		Cluster: fleet.ClusterID(req.GetCluster()), Name: req.GetName(), Rollout: req.GetRollout(),
	}, mostNamed)
	if err != nil {
		return nil, err
	}
	some, next, err := codec.Page(req, list, func(b drift.Baseline) string { return b.ID }, func(drift.Baseline) bool { return true })
	if err != nil {
		return nil, err
	}
	resp := &driftv1.ListBaselinesResponse{NextPageToken: next}
	for _, b := range some {
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
	w := a.watch
	w.mu.Lock()
	c := w.clusters[id]
	if c == nil {
		w.mu.Unlock()
		return drift.Baseline{}, unknownClusters([]string{string(id)})
	}
	list := []drift.Baseline{w.capture(c, "now", who(ctx), w.deps.Now())}
	w.mu.Unlock()
	err := w.withSessions(ctx, list)
	return list[0], err
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
