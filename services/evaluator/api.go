package evaluator

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// fleetAPI answers from what the evaluator watches.
type fleetAPI struct{ watch *watch }

func (a fleetAPI) ListClusters(_ context.Context, req *fleetv1.ListClustersRequest) (*fleetv1.ListClustersResponse, error) {
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	now := a.watch.deps.Now()
	clusters, next, err := codec.Page(req, a.watch.named(req.GetIds()), func(c *clusterWatch) string { return string(c.drift.ID) },
		func(c *clusterWatch) bool { return matches(a.watch.outline(c, now), req) })
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.ListClustersResponse{NextPageToken: next}
	for _, c := range clusters {
		resp.Clusters = append(resp.Clusters, a.watch.describe(c, now))
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

// clusterFilters are what requests choose clusters by, besides their ids.
type clusterFilters interface {
	GetStates() []string
	GetRelease() string
}

func matches(c *fleetv1.Cluster, filters clusterFilters) bool {
	if states := filters.GetStates(); len(states) > 0 && !slices.Contains(states, c.GetState()) {
		return false
	}
	return filters.GetRelease() == "" || c.GetAssignedRelease() == filters.GetRelease()
}

// describe judges a cluster now, so that the answer never lags behind the clock;
// since is that of the state last recorded.
func (w *watch) describe(c *clusterWatch, now time.Time) *fleetv1.Cluster {
	m := w.outline(c, now)
	if at := c.drift.Seen(); !at.IsZero() {
		m.LastSeen = timestamppb.New(at)
	}
	if at := c.registration.LastReport; !at.IsZero() {
		m.LastReport = timestamppb.New(at)
	}
	for _, i := range c.drift.Inventory.Instances {
		instance := &fleetv1.Instance{
			Id: string(i.ID), Component: string(i.Component), Service: i.Service, Image: i.Image, Digest: i.Digest,
			Version: i.RunningVersion(), Health: string(i.Health),
		}
		if !i.StartedAt.IsZero() {
			instance.StartedAt = timestamppb.New(i.StartedAt)
		}
		m.Instances = append(m.Instances, instance)
	}
	for _, b := range c.registration.Bastions {
		m.Bastions = append(m.Bastions, &fleetv1.Bastion{Id: string(b.ID), Version: b.Version})
	}
	return m
}

// outline is the cluster without what is in it and who reported it.
func (w *watch) outline(c *clusterWatch, now time.Time) *fleetv1.Cluster {
	j := drift.Judge(c.drift, w.config.Limits, now)
	m := &fleetv1.Cluster{Id: string(c.drift.ID), State: string(j.State), Reasons: j.Reasons}
	if !c.since.IsZero() {
		m.Since = timestamppb.New(c.since)
	}
	assigned := fleet.VersionSet{}
	if c.drift.Assigned != nil {
		m.AssignedRelease, assigned = string(c.drift.Assigned.Release), c.drift.Assigned.Versions
	}
	if c.drift.Move != nil {
		m.Rollout = c.drift.Move.Rollout
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

// gateAPI explains gates.
type gateAPI struct{ watch *watch }

func (a gateAPI) ListGates(_ context.Context, req *gatev1.ListGatesRequest) (*gatev1.ListGatesResponse, error) {
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	gates, next, err := codec.Page(req, a.watch.gatesOf(req.GetRollout()), func(g *gateWatch) string { return g.ID },
		func(g *gateWatch) bool { return a.watch.gateMatches(g, req) })
	if err != nil {
		return nil, err
	}
	resp := &gatev1.ListGatesResponse{NextPageToken: next}
	for _, g := range gates {
		resp.Gates = append(resp.Gates, a.watch.describeGate(g))
	}
	return resp, nil
}

// gateMatches does not look at the rollout.
func (w *watch) gateMatches(g *gateWatch, req *gatev1.ListGatesRequest) bool {
	if cluster := req.GetCluster(); cluster != "" && string(g.Cluster) != cluster {
		return false
	}
	return req.GetVerdict() == "" || w.describeGate(g).GetDecision().GetVerdict() == req.GetVerdict()
}

func (a gateAPI) GetGate(_ context.Context, req *gatev1.GetGateRequest) (*gatev1.GetGateResponse, error) {
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	g := a.watch.gates[req.GetId()]
	if g == nil {
		return nil, unknownGate(req.GetId())
	}
	return &gatev1.GetGateResponse{Gate: a.watch.describeGate(g)}, nil
}

func (a gateAPI) ReplayGate(ctx context.Context, req *gatev1.ReplayGateRequest) (*gatev1.ReplayGateResponse, error) {
	a.watch.mu.Lock()
	g := a.watch.gates[req.GetId()]
	if g == nil {
		a.watch.mu.Unlock()
		return nil, unknownGate(req.GetId())
	}
	described, opened, recorded := a.watch.describeGate(g), g.Gate, g.decision
	a.watch.mu.Unlock()
	if recorded == nil {
		return nil, errs.New(errs.Conflict, "LS-GAT-002", "gate %s is still open; there is no decision to take again yet", req.GetId())
	}
	// Rows only: nothing of what is kept in memory takes part.
	fold, err := a.watch.replay(ctx, opened, recorded.GetStreamSequence())
	if err != nil {
		return nil, err
	}
	decision := fold.Verdict(recorded.GetDeadlinePassed())
	replayed := codec.DecisionToProto(decision, opened.Policy, a.watch.deps.Now(), recorded.GetDeadlinePassed())
	return &gatev1.ReplayGateResponse{
		Gate: described, Replayed: replayed,
		Same: replayed.GetVerdict() == recorded.GetVerdict() && replayed.GetEvidenceHash() == recorded.GetEvidenceHash(),
	}, nil
}

// describeGate shows the recorded decision or the evidence so far.
func (w *watch) describeGate(g *gateWatch) *gatev1.Gate {
	decision := g.decision
	if decision == nil && g.fold != nil {
		decision = codec.DecisionToProto(g.fold.Verdict(false), g.Policy, time.Time{}, false)
	}
	return codec.GateToProto(g.Gate, decision)
}

func unknownGate(id string) error {
	return errs.New(errs.NotFound, "LS-GAT-001", "there is no gate %q; `lockstep gate list` shows the gates there are", id)
}
