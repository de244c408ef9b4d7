package sources

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/services/collector"
)

// declared adds what is declared to run in a cluster: what its engine knows of, and
// what its gateway was told about remote access where that can be asked. It is one
// source, as a cluster has one package and the marks about it are one promise.
func (s *Set) declared(file fleetfile.File, c fleetfile.Cluster, engine func(context.Context) (fleet.Package, error)) error {
	schedule := collector.Package(c.ID, packageEvery, engine)
	if c.GatewayURL != "" && file.Vendor != nil && len(file.Vendor.Command) == 0 {
		client, err := s.client(*file.Vendor, c.GatewayURL)
		if err != nil {
			return err
		}
		// One request within its own limit, and some to be authenticated and to try again.
		limit := max(packageEvery, 2*file.Vendor.Timeout)
		g := &gateway{cluster: c.ID, engine: schedule.Source, remoteAccess: client.RemoteAccess, limit: limit, log: s.log, now: s.now}
		schedule.Source = g
		schedule.Timeout = packageEvery + limit + spare
	}
	s.add(source{Schedule: schedule})
	return nil
}

// gateway puts a gateway's settings into the package that an engine tells of. It is
// asked by one at a time.
type gateway struct {
	cluster      fleet.ClusterID
	engine       collector.Source
	remoteAccess func(context.Context) (fleet.RemoteAccess, error)
	limit        time.Duration
	log          *slog.Logger
	now          func() time.Time

	whole   time.Time // when both were read last
	failing bool
}

// Poll fails when the engine does not answer. When the gateway alone does not, what
// the engine told is still sent, without remote access, and a blind mark of its own
// says what is missing from it: the collector adds none to that, so nothing promises
// that the settings sent before still hold.
func (g *gateway) Poll(ctx context.Context) ([]codec.Observation, error) {
	began := g.now()
	asking, cancel := context.WithTimeout(ctx, packageEvery)
	defer cancel()
	seen, err := g.engine.Poll(asking)
	if err != nil {
		return nil, err
	}
	asking, cancel = context.WithTimeout(ctx, g.limit)
	defer cancel()
	access, err := g.remoteAccess(asking)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("reading the remote access settings of %s: %w", g.cluster, err)
	}
	g.tell(err)
	if err != nil {
		return append(seen, codec.Observation{Mark: &fleet.Mark{
			Cluster: g.cluster, About: fleet.KindPackage, CompleteUntil: g.whole, Blind: true,
			BlindReason: fmt.Sprintf("the remote access settings of %s cannot be read: %v", g.cluster, err),
		}}), nil
	}
	for _, o := range seen {
		o.Package.RemoteAccess = &access
	}
	g.whole = began
	return seen, nil
}

// tell says when the gateway begins and ceases to fail.
func (g *gateway) tell(err error) {
	if failing := err != nil; failing != g.failing {
		g.failing = failing
		if failing {
			g.log.Warn("the remote access settings of a gateway cannot be read; the rest of its package is", "cluster", g.cluster, "error", err)
		} else {
			g.log.Info("the remote access settings of a gateway can be read again", "cluster", g.cluster)
		}
	}
}
