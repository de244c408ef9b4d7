package collector

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// spread is how long the first poll of a source waits at most. Probes take their whole
// interval: many of them at once are felt by what they look at.
func spread(kind fleet.Kind, every time.Duration) time.Duration {
	if kind == fleet.KindProbe {
		return every
	}
	return min(every, 10*time.Second)
}

// Inventory reads what runs in one cluster.
func Inventory(cluster fleet.ClusterID, every time.Duration, read func(context.Context) (fleet.Inventory, error)) Schedule {
	return schedule(fleet.KindInventory, "the inventory of "+string(cluster), []fleet.ClusterID{cluster}, every,
		func(ctx context.Context) ([]codec.Observation, error) {
			inventory, err := read(ctx)
			return []codec.Observation{{Inventory: &inventory}}, err
		})
}

// Package reads what is declared to run in one cluster.
func Package(cluster fleet.ClusterID, every time.Duration, read func(context.Context) (fleet.Package, error)) Schedule {
	return schedule(fleet.KindPackage, "the package of "+string(cluster), []fleet.ClusterID{cluster}, every,
		func(ctx context.Context) ([]codec.Observation, error) {
			declared, err := read(ctx)
			return []codec.Observation{{Package: &declared}}, err
		})
}

// Sessions reads the sessions of some clusters and the marks that say how far they
// are complete. Each session is shown to tee as well, unless that is nil.
func Sessions(clusters []fleet.ClusterID, every time.Duration, read func(context.Context) ([]fleet.Session, []fleet.Mark, error), tee func([]fleet.Session)) Schedule {
	return schedule(fleet.KindSession, "sessions", clusters, every, func(ctx context.Context) ([]codec.Observation, error) {
		sessions, marks, err := read(ctx)
		if err != nil {
			return nil, err
		}
		if tee != nil {
			tee(sessions)
		}
		out := make([]codec.Observation, 0, len(sessions)+len(marks))
		for i := range sessions {
			out = append(out, codec.Observation{Session: &sessions[i]})
		}
		// Marks last: they promise what stands before them.
		for i := range marks {
			marks[i].About = fleet.KindSession
			out = append(out, codec.Observation{Mark: &marks[i]})
		}
		return out, nil
	})
}

// Registrations reads what the vendor reports of some clusters.
func Registrations(clusters []fleet.ClusterID, every time.Duration, read func(context.Context) ([]fleet.Registration, error)) Schedule {
	return schedule(fleet.KindRegistration, "registrations", clusters, every, func(ctx context.Context) ([]codec.Observation, error) {
		registrations, err := read(ctx)
		out := make([]codec.Observation, 0, len(registrations))
		for i := range registrations {
			out = append(out, codec.Observation{Registration: &registrations[i]})
		}
		return out, err
	})
}

// Checks makes checks of one kind. A check that fails is an outcome; an error is that
// there was none.
func Checks(kind fleet.Kind, name string, clusters []fleet.ClusterID, every time.Duration, look func(context.Context) ([]fleet.Check, error)) Schedule {
	return schedule(kind, name, clusters, every, func(ctx context.Context) ([]codec.Observation, error) {
		checks, err := look(ctx)
		out := make([]codec.Observation, 0, len(checks))
		for i := range checks {
			out = append(out, codec.Observation{Check: &checks[i]})
		}
		return out, err
	})
}

// schedule asks at an interval, the first time within spread of the start.
func schedule(kind fleet.Kind, name string, clusters []fleet.ClusterID, every time.Duration, poll SourceFunc) Schedule {
	named := func(ctx context.Context) ([]codec.Observation, error) {
		observations, err := poll(ctx)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		return observations, nil
	}
	return Schedule{Kind: kind, Name: name, Clusters: clusters, Source: SourceFunc(named), Every: every, Jitter: spread(kind, every)}
}
