package evaluator

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

// fleetAPI answers from what the evaluator watches.
type fleetAPI struct{ watch *watch }

func (a fleetAPI) ListClusters(ctx context.Context, req *fleetv1.ListClustersRequest) (*fleetv1.ListClustersResponse, error) {
	f, err := choose(req)
	if err != nil {
		return nil, err
	}
	if req.GetAsOf() != nil {
		return a.asOf(ctx, req, f)
	}
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	now := a.watch.deps.Now()
	outlines := make(map[fleet.ClusterID]*fleetv1.Cluster)
	clusters, next, err := codec.Page(req, a.watch.named(req.GetIds()), func(c *clusterWatch) string { return string(c.drift.ID) },
		func(c *clusterWatch) bool {
			m := a.watch.outline(c, now)
			outlines[c.drift.ID] = m
			return f.matches(m)
		})
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.ListClustersResponse{NextPageToken: next}
	for _, c := range clusters {
		m := outlines[c.drift.ID]
		if req.GetView() != fleetv1.ClusterView_CLUSTER_VIEW_BASIC {
			c.complete(m)
		}
		resp.Clusters = append(resp.Clusters, m)
	}
	return resp, nil
}

// named returns the clusters of some ids, or all, in order of id. An id that is
// not known is passed over.
func (w *watch) named(ids []string) []*clusterWatch {
	some := slices.Sorted(maps.Keys(w.clusters))
	if len(ids) > 0 {
		some = nil
		for _, id := range slices.Sorted(slices.Values(ids)) {
			some = append(some, fleet.ClusterID(id))
		}
	}
	var out []*clusterWatch
	for _, id := range slices.Compact(some) {
		if c := w.clusters[id]; c != nil {
			out = append(out, c)
		}
	}
	return out
}

// describe judges a cluster now, so that the answer never lags behind the clock;
// since is that of the state last recorded.
func (w *watch) describe(c *clusterWatch, now time.Time) *fleetv1.Cluster {
	m := w.outline(c, now)
	c.complete(m)
	return m
}

// complete adds to an outline what was seen.
func (c *clusterWatch) complete(m *fleetv1.Cluster) {
	if at := c.drift.Seen(); !at.IsZero() {
		m.LastSeen = timestamppb.New(at)
	}
	m.Instances = instances(c.drift.Inventory)
	registered(m, c.drift.Registration)
	m.Declared = declared(c.drift.Package)
}

// instances are those of an inventory.
func instances(inventory fleet.Inventory) []*fleetv1.Instance {
	var out []*fleetv1.Instance
	for _, i := range inventory.Instances {
		instance := &fleetv1.Instance{
			Id: string(i.ID), Component: string(i.Component), Service: i.Service, Image: i.Image, Digest: i.Digest,
			Version: i.RunningVersion(), Health: string(i.Health),
		}
		if !i.StartedAt.IsZero() {
			instance.StartedAt = timestamppb.New(i.StartedAt)
		}
		out = append(out, instance)
	}
	return out
}

// registered adds what the vendor's control plane lists.
func registered(m *fleetv1.Cluster, r fleet.Registration) {
	if !r.LastReport.IsZero() {
		m.LastReport = timestamppb.New(r.LastReport)
	}
	for _, b := range r.Bastions {
		m.Bastions = append(m.Bastions, &fleetv1.Bastion{Id: string(b.ID), Version: b.Version})
	}
}

// declared is what is asked for, nil when nobody told.
func declared(p fleet.Package) *fleetv1.Declared {
	if p.ObservedAt.IsZero() {
		return nil
	}
	m := &fleetv1.Declared{ObservedAt: timestamppb.New(p.ObservedAt)}
	for _, h := range p.Helm {
		m.Helm = append(m.Helm, &fleetv1.HelmRelease{
			Name: h.Name, Namespace: h.Namespace, Chart: h.Chart, ChartVersion: h.ChartVersion, Revision: h.Revision, Status: h.Status,
			Versions: codec.VersionsToProto(h.Versions),
		})
	}
	for _, s := range p.Compose {
		m.Compose = append(m.Compose, &fleetv1.ComposeService{Service: s.Service, Image: s.Image, State: string(s.State), Differences: s.Differences})
	}
	return m
}

// outline is the cluster without what is in it and who reported it.
func (w *watch) outline(c *clusterWatch, now time.Time) *fleetv1.Cluster {
	j := w.judged(c, now)
	m := &fleetv1.Cluster{Id: string(c.drift.ID), State: string(j.State), Reasons: j.Reasons, Notes: j.Notes, Labels: c.labels}
	if !c.period.Began.IsZero() {
		m.Since = timestamppb.New(c.since)
	}
	assigned := fleet.VersionSet{}
	if c.drift.Assigned != nil {
		assigned = c.drift.Assigned.Versions
	}
	m.AssignedRelease = string(c.expects())
	if c.drift.Move != nil {
		m.Rollout, m.TargetRelease = c.drift.Move.Rollout, string(c.drift.Move.Target.Release)
	}
	if !j.MixedSince.IsZero() {
		m.MixedSince, m.Window, m.WindowBasis = timestamppb.New(j.MixedSince), durationpb.New(j.Window), j.WindowBasis
	}
	lines := slices.Collect(maps.Keys(j.Running))
	for line := range assigned {
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	for _, line := range lines {
		m.Lines = append(m.Lines, &fleetv1.Line{Line: string(line), Running: j.Running[line], Assigned: assigned[line]})
	}
	return m
}
