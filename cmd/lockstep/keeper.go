package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/services/executor"
	"github.com/lockstep-fleet/lockstep/sources"
	"github.com/lockstep-fleet/lockstep/topology"
)

const (
	// settle is how long the declared fleet has to be left alone before it is put to
	// work: a large document comes in several events.
	settle = 200 * time.Millisecond
	// again is when a fleet that could not be opened is tried once more, and what
	// nobody is at work with any more is looked for.
	again = time.Minute
	// outlive is how long what an earlier fleet opened stays open: a driver may be at
	// work with it, for no longer than one command takes.
	outlive = 2 * rollout.StepAllowance
)

// keeper keeps what this process looks at and drives in step with the declared
// fleet: the configuration and what documents have declared since.
type keeper struct {
	base    fleetfile.File
	bus     *natsbus.Bus
	collect func([]collector.Schedule) *collector.Service
	log     *slog.Logger
	now     func() time.Time

	mu       sync.Mutex
	declared map[fleet.ClusterID]fleetfile.Cluster
	drift    *fleetfile.Drift
	catalog  catalog.State
	looks    *sources.Set
	file     fleetfile.File
	// read is the last event of each subject that was taken in.
	read map[string]uint64

	changed chan struct{}
	ready   chan struct{}
	retired []retired
	// owed says that the declared fleet could not be opened when it was tried last.
	owed bool
}

// retired is what an earlier fleet opened.
type retired struct {
	looks *sources.Set
	until time.Time
}

func newKeeper(base fleetfile.File, looks *sources.Set, log *slog.Logger) *keeper {
	return &keeper{
		base: base, file: base, looks: looks, log: log, now: time.Now, declared: make(map[fleet.ClusterID]fleetfile.Cluster),
		read: make(map[string]uint64), changed: make(chan struct{}, 1), ready: make(chan struct{}),
	}
}

// close lets go of everything that is open.
func (k *keeper) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	errs := []error{k.looks.Close()}
	for _, r := range k.retired {
		errs = append(errs, r.looks.Close())
	}
	return errors.Join(errs...)
}

// effective is the configuration with what documents have declared.
func (k *keeper) effective() fleetfile.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fleetfile.Effective(k.base, k.declared, nil, k.drift)
}

// fleet is what the executor may roll out, and where.
func (k *keeper) fleet() executor.Fleet {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := executor.Fleet{
		Deployments: deployments(k.looks), Unseen: make(map[fleet.ClusterID]string), Unfit: make(map[fleet.ReleaseID]string),
		Labels: make(map[fleet.ClusterID]map[string]string),
	}
	for _, c := range k.file.Clusters {
		out.Clusters = append(out.Clusters, c.ID)
		out.Labels[c.ID] = c.Labels
		switch {
		case k.file.Vendor == nil:
			out.Unseen[c.ID] = "the configuration has no vendor section"
		case c.VendorCluster == "":
			out.Unseen[c.ID] = "the configuration gives it no vendor_cluster"
		}
	}
	for _, entry := range k.catalog.Entries(imageSets(k.base.Releases), k.now()) {
		if entry.Status != catalog.Available {
			out.Unfit[entry.Release.ID] = strings.Join(entry.Reasons, "; ")
		}
		from := entry.Release
		release := rollout.Release{ID: from.ID, Lines: make(map[fleet.Line]rollout.ReleaseImage)}
		if from.Chart != "" {
			release.Chart = rollout.Chart{Name: from.Chart, Version: from.ChartVersion, Digest: from.Digest, Source: from.Source}
		}
		for line, version := range from.Versions {
			if image := from.Images[line]; image != "" || from.Chart != "" {
				release.Lines[line] = rollout.ReleaseImage{Version: version, Ref: image}
			}
		}
		if len(release.Lines) > 0 {
			out.Releases = append(out.Releases, release)
		}
	}
	return out
}

// follow takes in what was declared so far, is then ready, and goes on with what
// is declared from then.
func (k *keeper) follow(ctx context.Context) error {
	end, err := k.bus.End(ctx, topology.StreamEvents)
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // being asked to stop is no error
	case err != nil:
		return fmt.Errorf("reading the declared fleet: %w", err)
	}
	filters := []string{topology.EventFilter(topology.NounFleet), topology.EventFilter(topology.NounCatalog)}
	for _, filter := range filters {
		if err := k.bus.Load(ctx, topology.StreamEvents, filter, k.take); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // being asked to stop is no error
			}
			return fmt.Errorf("reading the declared fleet: %w", err)
		}
	}
	if len(k.changed) > 0 {
		k.reopen()
	}
	close(k.ready)
	// What came while the above was read comes again.
	err = k.bus.Tail(ctx, bus.Tail{Stream: topology.StreamEvents, Filters: filters, After: end, Follow: true}, k.take)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // being asked to stop is no error
	}
	return err
}

// take takes in one event of the fleet or the catalogue.
func (k *keeper) take(m bus.Message) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.Sequence <= k.read[m.Subject] {
		return nil
	}
	k.read[m.Subject] = m.Sequence
	if noun, _, _ := topology.EventNoun(m.Subject); noun == topology.NounCatalog {
		return k.takeCatalog(m)
	}
	var event fleetv1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	for _, f := range event.GetFacts() {
		switch kind := f.GetKind().(type) {
		case *fleetv1.Fact_ClusterDeclared:
			c, err := fleetfile.ParseCluster(kind.ClusterDeclared.GetDefinition())
			if err != nil {
				return fmt.Errorf("reading cluster %s at %d: %w", kind.ClusterDeclared.GetId(), m.Sequence, err)
			}
			k.declared[c.ID] = c
		case *fleetv1.Fact_ClusterRemoved:
			delete(k.declared, fleet.ClusterID(kind.ClusterRemoved.GetId()))
		case *fleetv1.Fact_LimitsDeclared:
			d, err := fleetfile.ParseDrift(kind.LimitsDeclared.GetDefinition())
			if err != nil {
				return fmt.Errorf("reading the limits at %d: %w", m.Sequence, err)
			}
			k.drift = &d
		}
	}
	select {
	case k.changed <- struct{}{}:
	default: // it is known already
	}
	return nil
}

func (k *keeper) takeCatalog(m bus.Message) error {
	var event catalogv1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	for _, f := range event.GetFacts() {
		if fact, err := codec.CatalogFactFromProto(f); err == nil {
			k.catalog = k.catalog.Apply(fact)
		}
	}
	return nil
}

// reopen opens what the fleet that is declared now names, and reports whether that
// is something else. What cannot be opened leaves everything as it was.
func (k *keeper) reopen() bool {
	select {
	case <-k.changed:
	default:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	file := fleetfile.Effective(k.base, k.declared, nil, k.drift)
	if slices.EqualFunc(file.Clusters, k.file.Clusters, func(a, b fleetfile.Cluster) bool {
		return a.ID == b.ID && fleetfile.DefineCluster(a) == fleetfile.DefineCluster(b)
	}) {
		return false
	}
	looks, err := sources.Open(file, k.log, k.now)
	if k.owed = err != nil; k.owed {
		k.log.Error("the declared fleet cannot be looked at; what was looked at before still is, and it is tried again", "error", err)
		return false
	}
	k.retired = append(k.retired, retired{k.looks, k.now().Add(outlive)})
	k.looks, k.file = looks, file
	k.log.Info("the declared fleet is looked at", "clusters", len(file.Clusters))
	return true
}

// work has a collector look at the fleet, and another one whenever the fleet is
// another.
func (k *keeper) work(ctx context.Context) error {
	for ctx.Err() == nil {
		k.mu.Lock()
		service := k.collect(k.looks.Schedules())
		k.mu.Unlock()
		if err := k.until(ctx, service); err != nil {
			return err
		}
	}
	return nil
}

// until runs a collector until ctx ends or the fleet is another.
func (k *keeper) until(ctx context.Context, service *collector.Service) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- service.Run(running) }()
	look := time.NewTicker(again)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			return err
		case <-k.changed:
			if rtime.Wait(running, settle) != nil {
				return <-ended
			}
		case <-look.C:
			k.retire()
			if !k.owed {
				continue
			}
		}
		if k.reopen() {
			stop()
			return <-ended
		}
	}
}

// retire closes what earlier fleets opened and nobody can be at work with.
func (k *keeper) retire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retired = slices.DeleteFunc(k.retired, func(r retired) bool {
		if k.now().Before(r.until) {
			return false
		}
		if err := r.looks.Close(); err != nil {
			k.log.Warn("closing what an earlier fleet looked at failed", "error", err)
		}
		return true
	})
}
