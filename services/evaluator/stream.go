package evaluator

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

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
	a.watch.mu.Lock()
	glances := slices.Collect(slices.Chunk(a.watch.named(req.GetIds()), glance))
	a.watch.mu.Unlock()
	if len(glances) == 0 {
		glances = [][]*clusterWatch{nil} // That there is none is told once, too.
	}
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	told := make(map[string]*fleetv1.Cluster)
	for first := true; ; first = false {
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

// news returns what is different of some clusters from what was told of them,
// and notes it as told.
func (w *watch) news(some []*clusterWatch, f choice, told map[string]*fleetv1.Cluster) *fleetv1.WatchClustersResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, now := &fleetv1.WatchClustersResponse{}, w.deps.Now()
	for _, c := range some {
		outline := w.outline(c, now)
		id := outline.GetId()
		switch before := told[id]; {
		case !f.matches(outline):
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
