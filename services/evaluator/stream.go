package evaluator

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
)

// A watch looks instead of being told: states change by time alone, and a reader
// who is slow then misses what came and went, and holds up nobody.
const (
	// look is how often.
	look = time.Second
	// glance is how many clusters are looked at under one lock and travel in one
	// message.
	glance = 100
)

func (a fleetAPI) WatchClusters(ctx context.Context, req *fleetv1.WatchClustersRequest, stream fleetv1connect.FleetServiceWatchClustersServerStream) error {
	f, err := choose(req)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	told := make(map[string]*fleetv1.Cluster)
	for first := true; ; first = false {
		// Clusters are declared and removed while somebody watches.
		glances := a.watch.glances(req.GetIds(), told)
		for i, some := range glances {
			m := a.watch.news(some, f, told)
			ends := first && i == len(glances)-1
			m.Complete = ends || !first
			if len(m.GetClusters())+len(m.GetGone()) == 0 && !ends {
				continue
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// glances are the ids to look at, in order: those of some clusters, or of all, and
// those that were told of, which may be gone.
func (w *watch) glances(ids []string, told map[string]*fleetv1.Cluster) [][]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.Collect(maps.Keys(told))
	for _, c := range w.named(ids) {
		all = append(all, string(c.drift.ID))
	}
	slices.Sort(all)
	glances := slices.Collect(slices.Chunk(slices.Compact(all), glance))
	if len(glances) == 0 {
		glances = [][]string{nil} // That there is none is told once, too.
	}
	return glances
}

// news returns what is different of some clusters from what was told of them,
// and notes it as told.
func (w *watch) news(some []string, f choice, told map[string]*fleetv1.Cluster) *fleetv1.WatchClustersResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, now := &fleetv1.WatchClustersResponse{}, w.deps.Now()
	for _, id := range some {
		c := w.clusters[fleet.ClusterID(id)]
		var outline *fleetv1.Cluster
		if c != nil {
			outline = w.outline(c, now)
		}
		switch before := told[id]; {
		case c == nil || !f.matches(outline):
			if before != nil {
				m.Gone = append(m.Gone, id)
				delete(told, id)
			}
		case !proto.Equal(before, outline):
			m.Clusters = append(m.Clusters, w.describe(c, now))
			told[id] = outline
		}
	}
	return m
}
