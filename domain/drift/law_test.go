package drift_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// near draws an instant around noon, often the same as another one.
func near(t *rapid.T, label string) time.Time {
	return noon.Add(time.Duration(rapid.IntRange(-30, 30).Draw(t, label)) * time.Minute)
}

func version(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(t, "version")
}

func instance(t *rapid.T) fleet.Instance {
	return fleet.Instance{
		Component: rapid.SampledFrom([]fleet.Component{fleet.Gateway, fleet.SRAWeb, fleet.SRASSH, fleet.Dispatcher, fleet.Worker, "cache"}).Draw(t, "component"),
		Version:   version(t), Tag: version(t), Digest: version(t),
		Health: rapid.SampledFrom([]fleet.Health{fleet.HealthNone, fleet.HealthStarting, fleet.HealthHealthy, fleet.HealthUnhealthy, fleet.HealthStopped}).Draw(t, "health"),
	}
}

func assignment(t *rapid.T) drift.Assignment {
	return drift.Assignment{
		Release: fleet.ReleaseID(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "release")),
		Versions: rapid.MapOf(rapid.SampledFrom([]fleet.Line{fleet.LineGateway, fleet.LineSRA, fleet.LineZTWA}),
			rapid.SampledFrom([]string{"1", "2", "3"})).Draw(t, "versions"),
	}
}

// anyCluster draws a cluster after some inventories, in any order.
func anyCluster(t *rapid.T) drift.Cluster {
	c := drift.Cluster{ID: "oslo"}
	for range rapid.IntRange(0, 3).Draw(t, "inventories") {
		c = c.Observe(at(near(t, "observed"), rapid.SliceOfN(rapid.Custom(instance), 0, 5).Draw(t, "instances")...))
	}
	if rapid.Bool().Draw(t, "assigned") {
		a := assignment(t)
		c.Assigned = &a
	}
	if rapid.Bool().Draw(t, "moves") {
		c.Move = &drift.Move{Rollout: "r1", Target: assignment(t), Ends: near(t, "ends")}
	}
	if rapid.Bool().Draw(t, "watched") {
		c.WatchedSince = near(t, "watched since")
	}
	return c
}

func TestLaws(t *testing.T) {
	t.Parallel()
	for name, law := range map[string]func(*rapid.T, drift.Cluster, time.Time){
		"judging is a function of its inputs and leaves them as they were": func(t *rapid.T, c drift.Cluster, now time.Time) {
			snapshot := c
			snapshot.Inventory.Instances = slices.Clone(c.Inventory.Instances)
			first, second := drift.Judge(c, limits(), now), drift.Judge(c, limits(), now)
			if !reflect.DeepEqual(first, second) || !reflect.DeepEqual(snapshot, c) {
				t.Fatalf("first %+v\nthen %+v\nof %+v, which was %+v", first, second, c, snapshot)
			}
		},
		"time alone changes the state at WakeAt, and not before": func(t *rapid.T, c drift.Cluster, now time.Time) {
			j := drift.Judge(c, limits(), now)
			until := j.WakeAt
			if until.IsZero() {
				until = now.Add(1000 * time.Hour)
			} else if after := drift.Judge(c, limits(), until); after.State == j.State || !until.After(now) {
				t.Fatalf("at %s %+v, and %+v when it wakes", now, j, after)
			}
			between := now.Add(time.Duration(rapid.Int64Range(0, int64(until.Sub(now))-1).Draw(t, "between")))
			if later := drift.Judge(c, limits(), between); !reflect.DeepEqual(later, j) {
				t.Fatalf("at %s %+v, and at %s %+v", now, j, between, later)
			}
		},
		"locked is one version of every line, each as intended": func(t *rapid.T, c drift.Cluster, now time.Time) {
			j := drift.Judge(c, limits(), now)
			if j.State != drift.Locked {
				return
			}
			for line, versions := range j.Running {
				if len(versions) != 1 {
					t.Fatalf("locked, and %s runs %v", line, versions)
				}
			}
			intended := func(a *drift.Assignment) bool {
				for line, want := range a.Versions {
					if !slices.Equal(j.Running[line], []string{want}) {
						return false
					}
				}
				return true
			}
			if !(c.Assigned != nil && intended(c.Assigned)) && !(c.Move != nil && intended(&c.Move.Target)) {
				t.Fatalf("locked on %v, which nobody intends: %+v", j.Running, c)
			}
		},
		"each state has its cause": func(t *rapid.T, c drift.Cluster, now time.Time) {
			j := drift.Judge(c, limits(), now)
			fine := map[drift.State]bool{
				drift.Unknown:  c.Inventory.ObservedAt.IsZero() || c.Assigned == nil && c.Move == nil,
				drift.Locked:   c.Assigned != nil || c.Move != nil,
				drift.Stepping: c.Move != nil && now.Before(c.Move.Ends),
				drift.Overdue:  c.Move != nil && !now.Before(c.Move.Ends) || !c.MixedSince.IsZero() && now.Sub(c.MixedSince) >= limits().MixedWindow,
				drift.Drifted:  c.Move == nil && c.Assigned != nil,
				drift.Dark:     now.Sub(c.Inventory.ObservedAt) >= limits().DarkAfter && now.Sub(c.WatchedSince) >= limits().DarkAfter,
			}
			if !fine[j.State] {
				t.Fatalf("%s at %s without cause: %+v", j.State, now, c)
			}
			if len(j.Reasons) == 0 || slices.ContainsFunc(j.Reasons, func(r string) bool {
				return r == "" || strings.HasSuffix(r, " ") || strings.Contains(r, "  ") || strings.Contains(r, "\n")
			}) {
				t.Fatalf("%s for %q", j.State, j.Reasons)
			}
		},
		"an inventory seen again, or an older one, changes nothing": func(t *rapid.T, c drift.Cluster, _ time.Time) {
			inventory := at(near(t, "observed"), rapid.SliceOfN(rapid.Custom(instance), 0, 5).Draw(t, "instances")...)
			once := c.Observe(inventory)
			older := at(once.Inventory.ObservedAt.Add(-1), rapid.Custom(instance).Draw(t, "instance"))
			if again := once.Observe(inventory); !reflect.DeepEqual(once, again) || !reflect.DeepEqual(once, once.Observe(older)) {
				t.Fatalf("%+v became %+v", once, again)
			}
			mixed := false
			for _, versions := range drift.Running(once.Inventory) {
				mixed = mixed || len(versions) > 1
			}
			if mixed == once.MixedSince.IsZero() || once.MixedSince.After(once.Inventory.ObservedAt) {
				t.Fatalf("mixed %t since %s: %+v", mixed, once.MixedSince, once)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { law(t, anyCluster(t), near(t, "now")) })
		})
	}
}

// fleetOf draws one to four instances of each of some lines, all on one version.
func fleetOf(t *rapid.T, versions fleet.VersionSet) []fleet.Instance {
	components := map[fleet.Line][]fleet.Component{
		fleet.LineGateway: {fleet.Gateway}, fleet.LineSRA: {fleet.SRAWeb, fleet.SRASSH}, fleet.LineZTWA: {fleet.Dispatcher, fleet.Worker},
	}
	var out []fleet.Instance
	for _, line := range slices.Sorted(maps.Keys(versions)) {
		for i := range rapid.IntRange(1, 4).Draw(t, "instances of "+string(line)) {
			component := rapid.SampledFrom(components[line]).Draw(t, "component")
			out = append(out, fleet.Instance{ID: fleet.InstanceID(fmt.Sprintf("%s-%d", line, i)), Component: component, Version: versions[line], Health: fleet.HealthHealthy})
		}
	}
	return out
}

func TestARollingUpdateWithinItsWindowIsFineAllAlong(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		old := drift.Assignment{Release: "old", Versions: fleet.VersionSet{fleet.LineGateway: "1", fleet.LineSRA: "1", fleet.LineZTWA: "1"}}
		target := drift.Assignment{Release: "new", Versions: fleet.VersionSet{fleet.LineGateway: "2", fleet.LineSRA: "2", fleet.LineZTWA: "1"}}
		instances := fleetOf(t, old.Versions)
		now := noon
		c := drift.Cluster{ID: "oslo", Assigned: &old}.Observe(at(now, instances...))
		c.Move = &drift.Move{Rollout: "r1", Target: target, Ends: noon.Add(24 * time.Hour)}
		expect := func(states ...drift.State) {
			t.Helper()
			if j := drift.Judge(c, limits(), now); !slices.Contains(states, j.State) {
				t.Fatalf("at %s %s, want %v: %v", now, j.State, states, j.Reasons)
			}
		}
		report := func() {
			now = now.Add(time.Duration(rapid.IntRange(1, 4).Draw(t, "minutes")) * time.Minute)
			c = c.Observe(at(now, slices.Clone(instances)...))
			expect(drift.Locked, drift.Stepping)
		}
		expect(drift.Locked)
		// One line after the other, instance by instance, as in a rollout: the old
		// one stops before the new one starts, or it is the other way round.
		for _, line := range []fleet.Line{fleet.LineGateway, fleet.LineSRA} {
			for i := range instances {
				if l, _ := fleet.LineOf(instances[i].Component); l != line {
					continue
				}
				successor := instances[i]
				successor.Version = target.Versions[line]
				if rapid.Bool().Draw(t, "surge") {
					instances = append(instances, successor)
					report()
					instances = instances[:len(instances)-1]
				} else {
					instances[i].Health = fleet.HealthStopped
					report()
				}
				instances[i] = successor
				report()
			}
		}
		expect(drift.Locked)
		c.Assigned, c.Move = &target, nil
		expect(drift.Locked)
	})
}

// Whatever mix is put into a fleet that is otherwise as assigned, it is found,
// and told which line and which version.
func TestASeededMixIsFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		versions := fleet.VersionSet{fleet.LineGateway: "1.0", fleet.LineSRA: "1.0", fleet.LineZTWA: "1.0"}
		instances := fleetOf(t, versions)
		odd := rapid.IntRange(0, len(instances)-1).Draw(t, "odd one")
		line, _ := fleet.LineOf(instances[odd].Component)
		kept := instances[odd]
		kept.ID += "-kept"
		instances = append(instances, kept) // so that it is a mix and not a move of the whole line
		switch rapid.IntRange(0, 2).Draw(t, "seen by") {
		case 0:
			instances[odd].Version = "1.1"
		case 1:
			instances[odd].Version, instances[odd].Tag = "", "1.1"
		case 2:
			instances[odd].Version, instances[odd].Digest = "", "1.1"
		}
		if rapid.Bool().Draw(t, "open") { // the release may leave the line open
			delete(versions, line)
		}
		c := drift.Cluster{ID: "oslo", Assigned: &drift.Assignment{Release: "a", Versions: versions}}.Observe(at(noon, instances...))
		for after, want := range map[time.Duration]drift.State{0: drift.Drifted, limits().MixedWindow: drift.Overdue} {
			c = c.Observe(at(noon.Add(after), instances...))
			j := drift.Judge(c, limits(), noon.Add(after))
			last := j.Reasons[len(j.Reasons)-1]
			if j.State != want || !strings.HasPrefix(last, string(line)+" ") || !strings.Contains(last, "1.0 and 1.1") {
				t.Fatalf("%s after %s for %q, want %s of %s", j.State, after, j.Reasons, want, line)
			}
		}
	})
}
