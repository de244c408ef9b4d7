package evaluator

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

// clusterFilters are what requests choose clusters by, besides their ids.
type clusterFilters interface {
	GetStates() []string
	GetRelease() string
	GetLabelSelector() string
	GetVersions() []string
}

// choice is what a request chooses clusters by.
type choice struct {
	clusterFilters
	selector fleet.Selector
}

func choose(filters clusterFilters) (choice, error) {
	selector, err := fleet.ParseSelector(filters.GetLabelSelector())
	if err != nil {
		return choice{}, badSelector(err)
	}
	return choice{filters, selector}, nil
}

func (f choice) matches(c *fleetv1.Cluster) bool {
	if states := f.GetStates(); len(states) > 0 && !slices.Contains(states, c.GetState()) {
		return false
	}
	return (f.GetRelease() == "" || c.GetAssignedRelease() == f.GetRelease()) && f.selector.Matches(c.GetLabels()) && runsOne(c.GetLines(), f.GetVersions())
}

// runsOne says whether one of the versions runs, given as "3.0.3" or "sra=3.0.3";
// asked for none it does.
func runsOne(lines []*fleetv1.Line, asked []string) bool {
	for _, version := range asked {
		line, rest, named := strings.Cut(version, "=")
		for _, l := range lines {
			if named && l.GetLine() == line && slices.Contains(l.GetRunning(), rest) || !named && slices.Contains(l.GetRunning(), version) {
				return true
			}
		}
	}
	return len(asked) == 0
}

// asOf answers a list from history.
func (a fleetAPI) asOf(ctx context.Context, req *fleetv1.ListClustersRequest, f choice) (*fleetv1.ListClustersResponse, error) {
	w := a.watch
	at := req.GetAsOf().AsTime()
	if now := w.deps.Now(); at.After(now) {
		return nil, errs.New(errs.Invalid, "LS-FLT-007", "as_of %s lies in the future; it is %s", at.Format("2006-01-02T15:04:05Z"), now.UTC().Format("2006-01-02T15:04:05Z"))
	}
	w.mu.Lock()
	labels := make(map[string]map[string]string)
	for id, c := range w.clusters {
		labels[string(id)] = c.labels
	}
	w.mu.Unlock()
	ids := make([]fleet.ClusterID, len(req.GetIds()))
	for i, id := range req.GetIds() {
		ids[i] = fleet.ClusterID(id)
	}
	periods, err := w.deps.Store.PeriodsAt(ctx, w.config.Tenant, at, w.deps.Now(), ids)
	if err != nil {
		return nil, err
	}
	var all []*fleetv1.Cluster
	for _, p := range periods {
		// A cluster that is no longer declared was there all the same.
		m := pastCluster(p.Period)
		m.Labels = labels[m.GetId()]
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b *fleetv1.Cluster) int { return strings.Compare(a.GetId(), b.GetId()) })
	clusters, next, err := codec.Page(req, all, (*fleetv1.Cluster).GetId, f.matches)
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.ListClustersResponse{Clusters: clusters, NextPageToken: next}
	if len(ids) == 0 {
		return resp, nil
	}
	inventories, err := w.deps.Store.InventoriesAt(ctx, w.config.Tenant, at, ids)
	if err != nil {
		return nil, err
	}
	for _, inventory := range inventories {
		for _, m := range resp.GetClusters() {
			if m.GetId() == string(inventory.Cluster) {
				m.Instances, m.LastSeen = instances(inventory), timestamppb.New(inventory.ObservedAt)
			}
		}
	}
	return resp, nil
}

// pastCluster is a cluster as a period has it.
func pastCluster(p drift.Period) *fleetv1.Cluster {
	m := &fleetv1.Cluster{
		Id: string(p.Cluster), State: string(p.State), Since: timestamppb.New(p.Began), Reasons: p.Reasons,
		AssignedRelease: string(p.Assigned), Rollout: p.Rollout, TargetRelease: string(p.Target),
	}
	if p.Mixed() {
		m.MixedSince = m.GetSince()
	}
	for line, running := range p.Running {
		m.Lines = append(m.Lines, &fleetv1.Line{Line: string(line), Running: running})
	}
	slices.SortFunc(m.GetLines(), func(a, b *fleetv1.Line) int { return strings.Compare(a.GetLine(), b.GetLine()) })
	return m
}
