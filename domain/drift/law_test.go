package drift_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// near draws an instant around noon, often the same as another one.
func near(t *rapid.T, label string) time.Time {
	return noon.Add(time.Duration(rapid.IntRange(-30, 30).Draw(t, label)) * time.Minute)
}

func version(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "1.0", "2.0", "3.0", "v2", "latest", "2.0_1.0"}).Draw(t, "version")
}

func instance(t *rapid.T) fleet.Instance {
	image := func(label string) string {
		return rapid.SampledFrom([]string{"", "a:1.0", "a:2.0", "b/a:2.0@sha256:x", "latest"}).Draw(t, label)
	}
	return fleet.Instance{
		ID:        fleet.InstanceID(rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "id")),
		Component: rapid.SampledFrom([]fleet.Component{fleet.Gateway, fleet.SRAWeb, fleet.SRASSH, fleet.Dispatcher, fleet.Worker, "cache"}).Draw(t, "component"),
		Version:   version(t), Tag: version(t), Digest: version(t), Image: image("image"), Declared: image("declared"), Labelled: version(t), StartedAt: near(t, "started"),
		Health: rapid.SampledFrom([]fleet.Health{fleet.HealthNone, fleet.HealthStarting, fleet.HealthHealthy, fleet.HealthUnhealthy, fleet.HealthStopped}).Draw(t, "health"),
	}
}

// whole draws instances that run one version of each line; most clusters do.
func whole(t *rapid.T) []fleet.Instance {
	return pair(rapid.SampledFrom([]string{"1.0", "2.0"}).Draw(t, "gateway"), rapid.SampledFrom([]string{"1.0", "2.0"}).Draw(t, "sra"))
}

func instances(t *rapid.T) []fleet.Instance {
	if rapid.Bool().Draw(t, "whole") {
		return whole(t)
	}
	return rapid.SliceOfN(rapid.Custom(instance), 0, 5).Draw(t, "instances")
}

func inventory(t *rapid.T) fleet.Inventory { return at(near(t, "observed"), instances(t)...) }

func versions(t *rapid.T) fleet.VersionSet {
	return rapid.MapOf(rapid.SampledFrom([]fleet.Line{fleet.LineGateway, fleet.LineSRA, fleet.LineZTWA}),
		rapid.SampledFrom([]string{"1.0", "2.0", "3.0"})).Draw(t, "versions")
}

func assignment(t *rapid.T) drift.Assignment {
	return drift.Assignment{
		Release: fleet.ReleaseID(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "release")), Versions: versions(t),
		Rollout: rapid.SampledFrom([]string{"", "r0"}).Draw(t, "by"),
	}
}

func declares(t *rapid.T) fleet.Package {
	p := fleet.Package{ObservedAt: near(t, "package")}
	if rapid.Bool().Draw(t, "helm") {
		status := rapid.SampledFrom([]string{"deployed", "failed", "pending-upgrade", "superseded"}).Draw(t, "status")
		p.Helm = []fleet.HelmRelease{{Name: "gw", Status: status, Versions: versions(t)}}
		if rapid.Bool().Draw(t, "dated") {
			p.Helm[0].UpdatedAt = near(t, "updated")
		}
	}
	if rapid.Bool().Draw(t, "compose") {
		p.Compose = []fleet.ComposeService{{Project: "p", Service: "ssh", Image: "i", State: rapid.SampledFrom([]fleet.ComposeState{fleet.ComposeSame, fleet.ComposeChanged, fleet.ComposeMissing}).Draw(t, "state")}}
	}
	return p
}

func registration(t *rapid.T) fleet.Registration {
	r := fleet.Registration{ObservedAt: near(t, "registration")}
	if rapid.Bool().Draw(t, "reported") {
		r.LastReport = near(t, "last report")
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "bastions") {
		r.Bastions = append(r.Bastions, fleet.Bastion{ID: fleet.InstanceID(fmt.Sprint(i)), Version: version(t)})
	}
	return r
}

// around is what is known of a cluster besides its inventories.
func around(t *rapid.T) drift.Cluster {
	c := drift.Cluster{ID: "oslo"}
	for range rapid.IntRange(0, 2).Draw(t, "packages") {
		c = c.ObservePackage(declares(t))
	}
	for range rapid.IntRange(0, 2).Draw(t, "registrations") {
		c = c.ObserveRegistration(registration(t))
	}
	if rapid.Bool().Draw(t, "assigned") {
		a := assignment(t)
		c.Assigned = &a
	}
	if rapid.IntRange(0, 3).Draw(t, "moves") == 0 {
		c.Move = &drift.Move{Rollout: "r1", Target: assignment(t), Ends: near(t, "ends")}
	}
	if rapid.Bool().Draw(t, "watched") {
		c.WatchedSince = near(t, "watched since")
	}
	return c
}

func confirmed(t *rapid.T, c drift.Cluster) drift.Cluster {
	for range rapid.IntRange(0, 3).Draw(t, "marks") {
		about := rapid.SampledFrom([]fleet.Kind{fleet.KindInventory, fleet.KindPackage, fleet.KindRegistration}).Draw(t, "about")
		c = c.Confirm(fleet.Mark{About: about, CompleteUntil: near(t, "complete until"), Blind: rapid.IntRange(0, 5).Draw(t, "blind") == 0, BlindReason: "refused"})
	}
	return c
}

// anyCluster draws a cluster after some reports, in any order.
func anyCluster(t *rapid.T) drift.Cluster {
	c := around(t)
	for range rapid.IntRange(0, 4).Draw(t, "inventories") {
		c = c.Observe(inventory(t))
	}
	return confirmed(t, c)
}

// anyCatalogue draws a catalogue of some releases, one of which may be withdrawn.
func anyCatalogue(t *rapid.T) *catalog.Index {
	if rapid.IntRange(0, 3).Draw(t, "no catalogue") == 0 {
		return nil
	}
	var entries []catalog.Entry
	for i := range rapid.IntRange(0, 4).Draw(t, "releases") {
		e := catalog.Entry{Release: catalog.Release{ID: fleet.ReleaseID(fmt.Sprint("release-", i)), Chart: "gateway", Versions: versions(t)}}
		if rapid.IntRange(0, 3).Draw(t, "withdrawn") == 0 {
			for line, v := range e.Release.Versions {
				e.Withdrawals = append(e.Withdrawals, catalog.Withdrawal{Line: line, Version: v, Reason: "the vendor went back"})
			}
		}
		entries = append(entries, e)
	}
	return catalog.NewIndex(entries)
}

// exported compares clusters by all that is told of them.
var exported = cmpopts.IgnoreUnexported(drift.Cluster{})

func TestLaws(t *testing.T) {
	t.Parallel()
	for name, law := range map[string]func(*rapid.T, drift.Cluster, *catalog.Index, time.Time){
		"judging is a function of its inputs and leaves them as they were": func(t *rapid.T, c drift.Cluster, x *catalog.Index, now time.Time) {
			snapshot := c
			snapshot.Inventory.Instances = slices.Clone(c.Inventory.Instances)
			first, second := drift.Judge(c, limits(), x, now), drift.Judge(c, limits(), x, now)
			if !reflect.DeepEqual(first, second) || !reflect.DeepEqual(snapshot, c) {
				t.Fatalf("first %+v\nthen %+v\nof %+v, which was %+v", first, second, c, snapshot)
			}
		},
		"time alone changes the state at WakeAt, and not before": func(t *rapid.T, c drift.Cluster, x *catalog.Index, now time.Time) {
			j := drift.Judge(c, limits(), x, now)
			until := j.WakeAt
			if until.IsZero() {
				until = now.Add(1000 * time.Hour)
			} else if after := drift.Judge(c, limits(), x, until); after.State == j.State || !until.After(now) {
				t.Fatalf("at %s %+v, and %+v when it wakes", now, j, after)
			}
			between := now.Add(time.Duration(rapid.Int64Range(0, int64(until.Sub(now))-1).Draw(t, "between")))
			if later := drift.Judge(c, limits(), x, between); !reflect.DeepEqual(later, j) {
				t.Fatalf("at %s %+v, and at %s %+v", now, j, between, later)
			}
		},
		"locked is one version of every line, each as intended": func(t *rapid.T, c drift.Cluster, x *catalog.Index, now time.Time) {
			j := drift.Judge(c, limits(), x, now)
			if j.State != drift.Locked {
				return
			}
			runs, whole := drift.Whole(j.Running)
			if !whole {
				t.Fatalf("locked, and it runs %v", j.Running)
			}
			// Nothing of a line may run for a moment: it is replaced.
			gap := strings.Contains(j.Reasons[0], "restarting")
			intended := func(a *drift.Assignment) bool {
				for line, want := range a.Versions {
					if runs[line] == "" && gap {
						continue
					}
					if order, ok := catalog.Compare(runs[line], want); !ok || order != 0 {
						return false
					}
				}
				return true
			}
			if !(c.Assigned != nil && intended(c.Assigned)) && !(c.Move != nil && intended(&c.Move.Target)) {
				t.Fatalf("locked on %v, which nobody intends: %+v", j.Running, c)
			}
		},
		"each state has its cause": func(t *rapid.T, c drift.Cluster, x *catalog.Index, now time.Time) {
			j := drift.Judge(c, limits(), x, now)
			never := c.Inventory.ObservedAt.IsZero()
			fine := map[drift.State]bool{
				drift.Unknown:   never || c.Assigned == nil && c.Move == nil,
				drift.Locked:    c.Assigned != nil || c.Move != nil,
				drift.Stepping:  c.Move != nil && now.Before(c.Move.Ends) || c.Move == nil && (now.Before(j.MixedSince.Add(j.Window)) || c.Seen().Before(j.MixedSince.Add(j.Window))),
				drift.Overdue:   c.Move != nil && !now.Before(c.Move.Ends) || c.Move == nil && !now.Before(j.MixedSince.Add(j.Window)) && !c.Seen().Before(j.MixedSince.Add(j.Window)),
				drift.Drifted:   c.Move == nil && c.Assigned != nil,
				drift.Split:     c.Move == nil && !never,
				drift.Withdrawn: c.Move == nil && x != nil,
				drift.Dark:      now.Sub(c.Seen()) >= limits().DarkAfter && now.Sub(c.WatchedSince) >= limits().DarkAfter,
			}
			mixed := j.State == drift.Stepping || j.State == drift.Overdue
			switch {
			case !fine[j.State]:
				t.Fatalf("%s at %s without cause: %+v", j.State, now, c)
			case mixed == j.MixedSince.IsZero(), !mixed && !reflect.DeepEqual(j.Edge, drift.Edge{}), j.MixedSince.After(c.Inventory.ObservedAt), mixed == (j.WindowBasis == ""):
				t.Fatalf("%s, and mixed since %s on %v for %s: %q", j.State, j.MixedSince, j.Edge, j.Window, j.WindowBasis)
			case len(j.Reasons) == 0:
				t.Fatalf("%s for no reason", j.State)
			}
			for _, said := range slices.Concat(j.Reasons, j.Notes) {
				if said == "" || strings.HasSuffix(said, " ") || strings.Contains(said, "  ") || strings.Contains(said, "\n") || strings.Contains(said, "%!") {
					t.Fatalf("%s for %q", j.State, j.Reasons)
				}
			}
		},
		"a state is the first in precedence that holds": func(t *rapid.T, c drift.Cluster, x *catalog.Index, now time.Time) {
			if c.Inventory.ObservedAt.IsZero() {
				return
			}
			// What would be said if nothing before it held.
			with := func(change func(*drift.Cluster, *drift.Limits)) drift.State {
				c, l := c, limits()
				change(&c, &l)
				return drift.Judge(c, l, x, now).State
			}
			got := drift.Judge(c, limits(), x, now).State
			seen := with(func(c *drift.Cluster, _ *drift.Limits) { c.WatchedSince = now })
			resting := with(func(c *drift.Cluster, _ *drift.Limits) { c.WatchedSince, c.Move = now, nil })
			agreed := with(func(c *drift.Cluster, l *drift.Limits) {
				c.WatchedSince, c.Move, l.SplitAfter = now, nil, 1000*time.Hour
			})
			mixed := resting == drift.Overdue || resting == drift.Stepping
			switch {
			case got == drift.Dark && seen == drift.Dark, got != drift.Dark && got != seen:
				t.Fatalf("%s, and %s while it is watched", got, seen)
			case c.Move == nil && seen != resting:
				t.Fatalf("%s, and %s at rest, where it is", seen, resting)
			case c.Move != nil && !slices.Contains([]drift.State{drift.Locked, drift.Stepping, drift.Overdue}, seen):
				t.Fatalf("%s while a rollout moves it", seen)
			case agreed == drift.Split, resting != drift.Split && resting != agreed, mixed && resting != agreed:
				t.Fatalf("%s, and %s if the sources agreed", resting, agreed)
			}
			if _, whole := drift.Whole(drift.Running(c.Inventory)); !whole && !mixed {
				t.Fatalf("%s, and it runs %v", resting, drift.Running(c.Inventory))
			}
		},
		"an inventory seen again changes nothing": func(t *rapid.T, c drift.Cluster, x *catalog.Index, now time.Time) {
			inventory := inventory(t)
			once := c.Observe(inventory)
			again := once.Observe(inventory)
			if diff := cmp.Diff(once, again, exported); diff != "" || !reflect.DeepEqual(drift.Judge(once, limits(), x, now), drift.Judge(again, limits(), x, now)) {
				t.Fatalf("a repeat changed it: %s", diff)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) { law(t, anyCluster(t), anyCatalogue(t), near(t, "now")) })
		})
	}
}

// The order in which reports of one day arrive, and whether they come twice, makes
// no difference to what is known nor to any judgement.
func TestTheOrderOfReportsMakesNoDifference(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		catalogue := anyCatalogue(t)
		begin := around(t)
		begin.Blind, begin.Doubtful = "", false
		reports := rapid.SliceOfN(rapid.Custom(inventory), 1, 12).Draw(t, "reports")
		again := rapid.SliceOfN(rapid.SampledFrom(reports), 0, 6).Draw(t, "again")
		sorted := slices.SortedStableFunc(slices.Values(reports), func(a, b fleet.Inventory) int { return a.ObservedAt.Compare(b.ObservedAt) })
		one, other := begin, begin
		for _, r := range sorted {
			one = one.Observe(r)
		}
		for _, r := range rapid.Permutation(slices.Concat(reports, again)).Draw(t, "in another order") {
			other = other.Observe(r)
		}
		if diff := cmp.Diff(one, other, exported); diff != "" {
			t.Fatalf("in another order it is another cluster (-sorted +shuffled):\n%s", diff)
		}
		for range 5 {
			now := near(t, "now")
			if diff := cmp.Diff(drift.Judge(one, limits(), catalogue, now), drift.Judge(other, limits(), catalogue, now)); diff != "" {
				t.Fatalf("at %s (-sorted +shuffled):\n%s", now, diff)
			}
		}
	})
}

// Taking in a report leaves the cluster as it was, whatever is taken in after.
func TestAClusterIsAValue(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		catalogue := anyCatalogue(t)
		c := anyCluster(t)
		n := rapid.IntRange(0, 200).Draw(t, "reports of a minute each")
		for i := range n {
			c = c.Observe(at(noon.Add(time.Duration(i)*time.Minute), pair("1.0", []string{"1.0", "2.0"}[i%2])...))
		}
		now := noon.Add(time.Duration(n) * time.Minute)
		values := []drift.Cluster{c}
		for range 3 {
			branch := c.Observe(at(now.Add(time.Minute), instances(t)...)).Observe(inventory(t)).ObservePackage(declares(t)).ObserveRegistration(registration(t))
			values = append(values, confirmed(t, branch))
		}
		judged := func() (out []drift.Judgement) {
			for _, c := range values {
				out = append(out, drift.Judge(c, limits(), catalogue, now.Add(time.Hour/2)))
			}
			return out
		}
		before := judged()
		for _, c := range values {
			c.Observe(at(now.Add(2*time.Minute), instances(t)...)).Observe(inventory(t))
		}
		if diff := cmp.Diff(before, judged()); diff != "" {
			t.Fatalf("what was taken into another one changed it:\n%s", diff)
		}
	})
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
			if j := drift.Judge(c, limits(), nil, now); !slices.Contains(states, j.State) {
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
		for _, want := range []drift.State{drift.Stepping, drift.Overdue} {
			after := map[drift.State]time.Duration{drift.Stepping: 0, drift.Overdue: limits().MixedWindow}[want]
			c = c.Observe(at(noon.Add(after), instances...))
			j := drift.Judge(c, limits(), nil, noon.Add(after))
			if j.State != want || !strings.Contains(j.Reasons[1], string(line)+" 1.0 and 1.1") {
				t.Fatalf("%s after %s for %q, want %s of %s", j.State, after, j.Reasons, want, line)
			}
		}
	})
}
