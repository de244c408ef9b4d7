package story

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/integration/lab"
)

// heartbeat is how often bastions report to the vendor.
const heartbeat = time.Second

// heartbeats tells the fake vendor of the bastions that run, as those tell the real
// one: each by its instance, its version and when it reported last. One that does not
// work is not heard of.
type heartbeats struct {
	vendor   *akeylesstest.Server
	engine   *docker.Engine
	clusters []lab.Cluster
}

func newHeartbeats(vendor *akeylesstest.Server, l *lab.Lab) (*heartbeats, error) {
	engine, err := docker.New(docker.Options{Host: l.Engine.Host()})
	if err != nil {
		return nil, fmt.Errorf("open the engine for the bastions' heartbeats: %w", err)
	}
	return &heartbeats{vendor: vendor, engine: engine, clusters: l.Clusters}, nil
}

// beat has every bastion report once. What cannot be read reports later.
func (h *heartbeats) beat(ctx context.Context) error {
	for _, c := range h.clusters {
		seen, err := h.engine.Inventory(ctx, fleet.ClusterID(c.Name), c.Project.Name, nil, time.Now)
		if err != nil {
			return err
		}
		var up []akeylesstest.Instance
		for _, i := range seen.Instances {
			if slices.Contains([]fleet.Component{fleet.SRASSH, fleet.SRAWeb}, i.Component) && i.Health == fleet.HealthHealthy {
				up = append(up, akeylesstest.Instance{ID: fmt.Sprintf("%s-%s", c.Name, i.Service), Version: i.RunningVersion(), LastReport: seen.ObservedAt})
			}
		}
		if len(up) == 2 { // the vendor forgets nobody within seconds
			h.vendor.SetCluster(akeylesstest.Cluster{Name: vendorCluster(c.Name), DisplayName: c.Name, LastReport: seen.ObservedAt, Instances: up})
		}
	}
	return nil
}

// run reports until ctx ends.
func (h *heartbeats) run(ctx context.Context, failed func(error)) {
	for ctx.Err() == nil {
		if err := h.beat(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(heartbeat):
		}
	}
}
