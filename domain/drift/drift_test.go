package drift_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func minute(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }

// limits are what every test judges by.
func limits() drift.Limits {
	return drift.Limits{MixedWindow: 10 * time.Minute, DarkAfter: 5 * time.Minute, SplitAfter: 3 * time.Minute}
}

// at returns an inventory of oslo.
func at(when time.Time, instances ...fleet.Instance) fleet.Inventory {
	return fleet.Inventory{Cluster: "oslo", ObservedAt: when, Instances: instances}
}

func runs(component fleet.Component, version string) fleet.Instance {
	return fleet.Instance{Component: component, Version: version, Health: fleet.HealthHealthy}
}

func stopped(i fleet.Instance) fleet.Instance {
	i.Health = fleet.HealthStopped
	return i
}

// pair runs a gateway and both bastions.
func pair(gateway, sra string) []fleet.Instance {
	return []fleet.Instance{runs(fleet.Gateway, gateway), runs(fleet.SRAWeb, sra), runs(fleet.SRASSH, sra)}
}

func set(gateway, sra string) fleet.VersionSet {
	return fleet.VersionSet{fleet.LineGateway: gateway, fleet.LineSRA: sra}
}

func release(id fleet.ReleaseID, gateway, sra string) *drift.Assignment {
	return &drift.Assignment{Release: id, Versions: set(gateway, sra)}
}

// towards is a move to release new, which ends an hour after noon.
func towards() *drift.Move {
	return &drift.Move{Rollout: "r1", Target: *release("new", "5.0.1", "3.1.0"), Ends: noon.Add(time.Hour)}
}

// seen is a cluster after inventories.
func seen(c drift.Cluster, inventories ...fleet.Inventory) drift.Cluster {
	c.ID = "oslo"
	for _, inventory := range inventories {
		c = c.Observe(inventory)
	}
	return c
}

// known is a catalogue: three pairs, the middle one withdrawn, a release of each
// line alone as legacy charts have them, and one of a third line.
func known() *catalog.Index {
	gone := catalog.Withdrawal{Line: fleet.LineSRA, Version: "3.0.9", Reason: "chart 1.1.0 went back to 3.0.3"}
	alone := func(id fleet.ReleaseID, line fleet.Line, version string) catalog.Entry {
		return catalog.Entry{Release: catalog.Release{ID: id, Chart: "legacy-" + string(line), Versions: fleet.VersionSet{line: version}}}
	}
	paired := func(id fleet.ReleaseID, gateway, sra string) catalog.Entry {
		return catalog.Entry{Release: catalog.Release{ID: id, Chart: catalog.GatewayChart, Versions: set(gateway, sra)}}
	}
	withdrawn := paired("bad", "4.52.0", "3.0.9")
	withdrawn.Withdrawals = []catalog.Withdrawal{gone}
	return catalog.NewIndex([]catalog.Entry{
		paired("old", "4.52.0", "3.0.3"), withdrawn, paired("new", "5.0.1", "3.1.0"), paired("newest", "5.0.2", "3.2.0"),
		alone("gateway-3.0.0", fleet.LineGateway, "3.0.0"), alone("sra-2.0.0", fleet.LineSRA, "2.0.0"), alone("ztwa-1.7.0", fleet.LineZTWA, "1.7.0"),
	})
}

func TestJudge(t *testing.T) {
	t.Parallel()
	old, half, updated := pair("4.52.0", "3.0.3"), pair("5.0.1", "3.0.3"), pair("5.0.1", "3.1.0")
	mix := []fleet.Instance{runs(fleet.Gateway, "4.52.0"), runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.1.0")}
	assigned := release("old", "4.52.0", "3.0.3")
	dark := noon.Add(5 * time.Minute)
	for _, test := range []struct {
		name    string
		cluster drift.Cluster
		seen    []fleet.Inventory
		unknown bool      // the catalogue is
		now     time.Time // noon when zero
		state   drift.State
		reasons []string
		wake    time.Time
	}{
		{
			name: "never reported", cluster: drift.Cluster{Assigned: assigned, Move: towards(), WatchedSince: noon.Add(-time.Hour)},
			state: drift.Unknown, reasons: []string{"no source has reported this cluster yet"},
		},
		{
			name: "no release assigned", seen: []fleet.Inventory{at(noon, old...)}, unknown: true, state: drift.Unknown, wake: dark,
			reasons: []string{"no release is assigned to this cluster; it runs gateway 4.52.0, sra 3.0.3", "say what it should run with `lockstep assign`"},
		},
		{
			name: "no release assigned to what is one", seen: []fleet.Inventory{at(noon, old...)}, state: drift.Unknown, wake: dark,
			reasons: []string{"no release is assigned to this cluster; it runs gateway 4.52.0, sra 3.0.3, which is release old", "say what it should run with `lockstep assign`"},
		},
		{
			name: "no release assigned and nothing runs", seen: []fleet.Inventory{at(noon)}, state: drift.Unknown, wake: dark,
			reasons: []string{"no release is assigned to this cluster; it runs nothing", "say what it should run with `lockstep assign`"},
		},
		{
			name: "as assigned", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, old...)},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "as assigned, in other writing", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, runs(fleet.Gateway, "v4.52"), runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "v3.0.3"))},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "a stopped instance does not count", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, append(pair("4.52.0", "3.0.3"), stopped(runs(fleet.SRAWeb, "2.9.9")))...)},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "a component of no known line does not count", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, append(pair("4.52.0", "3.0.3"), runs("cache", "7"), runs("cache", "8"))...)},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "a line that the release leaves open may run any one version", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, append(pair("4.52.0", "3.0.3"), runs(fleet.Dispatcher, "1.9.0"), runs(fleet.Worker, "1.9.0"))...)},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "a line that the release leaves open runs two versions", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, append(pair("4.52.0", "3.0.3"), runs(fleet.Dispatcher, "1.7.0"), runs(fleet.Worker, "1.8.0"))...)},
			state: drift.Stepping, wake: dark, reasons: []string{
				"mixed since at least 2026-03-04T12:00:00Z, which may last 10m0s, the default window; no rollout drives it",
				"runs gateway 4.52.0, sra 3.0.3, ztwa 1.7.0 and 1.8.0",
			},
		},
		{
			name: "every difference is told", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, updated[1:]...)},
			state: drift.Drifted, wake: dark,
			reasons: []string{"gateway should run 4.52.0 but nothing of it runs", "sra should run 3.0.3 but runs 3.1.0"},
		},
		{
			name: "another release is named", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, updated...)},
			state: drift.Drifted, wake: dark,
			reasons: []string{"gateway should run 4.52.0 but runs 5.0.1", "sra should run 3.0.3 but runs 3.1.0", "it runs release new"},
		},
		{
			name: "everything stopped", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, stopped(old[0]), stopped(old[1]), stopped(old[2]))},
			state: drift.Drifted, wake: dark,
			reasons: []string{"gateway should run 4.52.0 but nothing of it runs", "sra should run 3.0.3 but nothing of it runs"},
		},
		{
			name: "an image that tells no version", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, runs(fleet.Gateway, ""), old[1], old[2])},
			state: drift.Drifted, reasons: []string{"gateway should run 4.52.0 but runs an unknown version"}, wake: dark,
		},
		{
			name: "a malformed version", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, pair("2.3.2_1.8.0", "3.0.3")...)},
			state: drift.Drifted, reasons: []string{"gateway should run 4.52.0 but runs 2.3.2_1.8.0"}, wake: dark,
		},
		{
			name: "withdrawn", cluster: drift.Cluster{Assigned: release("bad", "4.52.0", "3.0.9")}, seen: []fleet.Inventory{at(noon, pair("4.52.0", "3.0.9")...)},
			state: drift.Withdrawn, reasons: []string{"runs sra 3.0.9, which is withdrawn: chart 1.1.0 went back to 3.0.3"}, wake: dark,
		},
		{
			name: "withdrawn without a release assigned", seen: []fleet.Inventory{at(noon, pair("4.52.0", "3.0.9")...)},
			state: drift.Withdrawn, reasons: []string{"runs sra 3.0.9, which is withdrawn: chart 1.1.0 went back to 3.0.3"}, wake: dark,
		},
		{
			name: "withdrawn and not what is assigned", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, pair("4.52.0", "3.0.9")...)},
			state: drift.Withdrawn, reasons: []string{"runs sra 3.0.9, which is withdrawn: chart 1.1.0 went back to 3.0.3"}, wake: dark,
		},
		{
			name: "mixed and within the window", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(minute(-11), old...), at(minute(-10).Add(1), mix...), at(noon, mix...)},
			state: drift.Stepping, wake: dark, reasons: []string{
				"mixed since 2026-03-04T11:50:00Z, which may last 10m0s, the default window; no rollout drives it",
				"runs gateway 4.52.0, sra 3.0.3 and 3.1.0", "sra should run 3.0.3 but runs 3.0.3 and 3.1.0",
			},
		},
		{
			name: "mixed at the window's end", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(minute(-11), old...), at(minute(-10), mix...), at(noon, mix...)},
			state: drift.Overdue, wake: dark, reasons: []string{
				"mixed since 2026-03-04T11:50:00Z, longer than 10m0s, the default window",
				"runs gateway 4.52.0, sra 3.0.3 and 3.1.0", "sra should run 3.0.3 but runs 3.0.3 and 3.1.0",
			},
		},
		{
			name: "mixed when last seen, and the window's end came since", cluster: drift.Cluster{Assigned: assigned},
			seen: []fleet.Inventory{at(minute(-10), mix...), at(minute(-1), mix...)}, state: drift.Stepping, wake: minute(4), reasons: []string{
				"mixed since at least 2026-03-04T11:50:00Z, which may last 10m0s, the default window; no rollout drives it",
				"runs gateway 4.52.0, sra 3.0.3 and 3.1.0", "sra should run 3.0.3 but runs 3.0.3 and 3.1.0",
			},
		},
		{
			name: "judged for an instant before the last report", cluster: drift.Cluster{Assigned: assigned},
			seen: []fleet.Inventory{at(minute(-9), mix...), at(minute(2), mix...)}, state: drift.Stepping, wake: minute(1), reasons: []string{
				"mixed since at least 2026-03-04T11:51:00Z, which may last 10m0s, the default window; no rollout drives it",
				"runs gateway 4.52.0, sra 3.0.3 and 3.1.0", "sra should run 3.0.3 but runs 3.0.3 and 3.1.0",
			},
		},
		{
			name: "mixed without a release assigned", seen: []fleet.Inventory{at(minute(-10), mix...), at(noon, mix...)},
			state: drift.Overdue, wake: dark, reasons: []string{
				"mixed since at least 2026-03-04T11:50:00Z, longer than 10m0s, the default window", "runs gateway 4.52.0, sra 3.0.3 and 3.1.0",
			},
		},
		{
			name: "the cluster's own window", cluster: drift.Cluster{Window: 20 * time.Minute}, seen: []fleet.Inventory{at(minute(-10), mix...), at(noon, mix...)},
			state: drift.Stepping, wake: dark, reasons: []string{
				"mixed since at least 2026-03-04T11:50:00Z, which may last 20m0s, the window configured for this cluster; no rollout drives it",
				"runs gateway 4.52.0, sra 3.0.3 and 3.1.0",
			},
		},
		{
			name: "half of one release and half of another", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(minute(-10), old...), at(minute(-5), half...), at(noon, half...)},
			state: drift.Stepping, wake: dark, reasons: []string{
				"mixed since 2026-03-04T11:55:00Z, which may last 10m0s, the default window; no rollout drives it",
				"runs gateway 5.0.1, sra 3.0.3", "gateway should run 4.52.0 but runs 5.0.1",
			},
		},
		{
			name: "halves that nobody knows are no mix", cluster: drift.Cluster{Assigned: assigned}, unknown: true, seen: []fleet.Inventory{at(noon, half...)},
			state: drift.Drifted, wake: dark, reasons: []string{"gateway should run 4.52.0 but runs 5.0.1"},
		},
		{
			name: "a version that nobody knows is no half", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, pair("4.52.7", "3.0.3")...)},
			state: drift.Drifted, wake: dark, reasons: []string{"gateway should run 4.52.0 but runs 4.52.7"},
		},
		{
			name: "what is assigned is no mix, whatever releases carry", cluster: drift.Cluster{Assigned: release("own", "5.0.1", "3.0.3")},
			seen: []fleet.Inventory{at(noon, half...)}, state: drift.Locked, wake: dark, reasons: []string{"runs release own"},
		},
		{
			name: "releases of one line each are no halves", seen: []fleet.Inventory{at(noon, pair("3.0.0", "2.0.0")...)}, state: drift.Unknown, wake: dark,
			reasons: []string{
				"no release is assigned to this cluster; it runs gateway 3.0.0, sra 2.0.0, which is what releases gateway-3.0.0 and sra-2.0.0 carry",
				"say what it should run with `lockstep assign`",
			},
		},
		{
			name: "half of a release beside a release of one line", seen: []fleet.Inventory{at(noon, pair("5.0.1", "2.0.0")...)}, state: drift.Stepping, wake: dark,
			reasons: []string{
				"mixed since at least 2026-03-04T12:00:00Z, which may last 10m0s, the default window; no rollout drives it", "runs gateway 5.0.1, sra 2.0.0",
			},
		},
		{
			name: "half of a release alone is no mix", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, runs(fleet.Gateway, "4.52.0"))},
			state: drift.Drifted, wake: dark, reasons: []string{"sra should run 3.0.3 but nothing of it runs"},
		},
		{
			name: "two inventories of one instant", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, updated...), at(noon, old...)},
			state: drift.Drifted, wake: dark, reasons: []string{
				"gateway should run 4.52.0 but runs 5.0.1", "sra should run 3.0.3 but runs 3.1.0", "it runs release new",
				"two inventories of 2026-03-04T12:00:00Z differ; the other one is left out",
			},
		},
		{
			name: "two inventories of one instant, the other way round", cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, old...), at(noon, updated...)},
			state: drift.Drifted, wake: dark, reasons: []string{
				"gateway should run 4.52.0 but runs 5.0.1", "sra should run 3.0.3 but runs 3.1.0", "it runs release new",
				"two inventories of 2026-03-04T12:00:00Z differ; the other one is left out",
			},
		},
		{
			name: "once two inventories of one instant", cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(minute(-1), old...), at(minute(-1), updated...), at(noon, updated...), at(noon, updated...)},
			state: drift.Drifted, wake: dark, reasons: []string{
				"gateway should run 4.52.0 but runs 5.0.1", "sra should run 3.0.3 but runs 3.1.0", "it runs release new",
			},
		},
		{
			name: "a move, not begun", cluster: drift.Cluster{Assigned: assigned, Move: towards()}, seen: []fleet.Inventory{at(noon, old...)},
			state: drift.Locked, reasons: []string{"still runs old; rollout r1 moves it to new"}, wake: dark,
		},
		{
			name: "a move, done", cluster: drift.Cluster{Assigned: assigned, Move: towards()}, seen: []fleet.Inventory{at(noon, updated...)},
			state: drift.Locked, reasons: []string{"runs new, where rollout r1 takes it"}, wake: dark,
		},
		{
			name: "a move between its steps", cluster: drift.Cluster{Assigned: assigned, Move: towards()}, seen: []fleet.Inventory{at(noon, half...)},
			state: drift.Stepping, reasons: []string{"rollout r1 moves it to new: gateway 5.0.1, sra 3.0.3"}, wake: dark,
		},
		{
			name: "a move within a step, however long mixed", cluster: drift.Cluster{Assigned: assigned, Move: towards()},
			seen:  []fleet.Inventory{at(minute(-600), mix...), at(noon, mix...)},
			state: drift.Stepping, reasons: []string{"rollout r1 moves it to new: gateway 4.52.0, sra 3.0.3 and 3.1.0"}, wake: dark,
		},
		{
			name: "a move of a cluster without a release", cluster: drift.Cluster{Move: towards()}, seen: []fleet.Inventory{at(noon, half...)},
			state: drift.Stepping, reasons: []string{"rollout r1 moves it to new: gateway 5.0.1, sra 3.0.3"}, wake: dark,
		},
		{
			name: "a move before its end", now: noon.Add(time.Hour - 1), cluster: drift.Cluster{Assigned: assigned, Move: towards()},
			seen:  []fleet.Inventory{at(noon.Add(time.Hour-1), half...)},
			state: drift.Stepping, reasons: []string{"rollout r1 moves it to new: gateway 5.0.1, sra 3.0.3"}, wake: noon.Add(time.Hour),
		},
		{
			name: "a move at its end", now: noon.Add(time.Hour), cluster: drift.Cluster{Assigned: assigned, Move: towards()},
			seen:  []fleet.Inventory{at(noon.Add(time.Hour), half...)},
			state: drift.Overdue, wake: noon.Add(time.Hour + 5*time.Minute),
			reasons: []string{"mixed past the window of rollout r1, which ended at 2026-03-04T13:00:00Z: gateway 5.0.1, sra 3.0.3"},
		},
		{
			name: "a move past its end that is where it was", now: noon.Add(2 * time.Hour), cluster: drift.Cluster{Assigned: assigned, Move: towards()},
			seen:  []fleet.Inventory{at(noon.Add(2*time.Hour), old...)},
			state: drift.Locked, reasons: []string{"still runs old; rollout r1 moves it to new"}, wake: noon.Add(2*time.Hour + 5*time.Minute),
		},
		{
			name: "before it is dark", now: dark.Add(-1), cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, old...)},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "dark", now: dark, cluster: drift.Cluster{Assigned: assigned}, seen: []fleet.Inventory{at(noon, old...)},
			state: drift.Dark, reasons: []string{"no report since 2026-03-04T12:00:00Z"},
		},
		{
			name: "dark, whatever moves it", now: dark.Add(24 * time.Hour), cluster: drift.Cluster{Assigned: assigned, Move: towards()}, seen: []fleet.Inventory{at(noon, half...)},
			state: drift.Dark, reasons: []string{"no report since 2026-03-04T12:00:00Z"},
		},
		{
			name: "not dark while the watcher was away", now: noon.Add(time.Hour + 5*time.Minute - 1),
			cluster: drift.Cluster{Assigned: assigned, WatchedSince: noon.Add(time.Hour)}, seen: []fleet.Inventory{at(noon, old...)},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: noon.Add(time.Hour + 5*time.Minute),
		},
		{
			name: "dark since the last report once watched long enough", now: noon.Add(time.Hour + 5*time.Minute),
			cluster: drift.Cluster{Assigned: assigned, WatchedSince: noon.Add(time.Hour)}, seen: []fleet.Inventory{at(noon, old...)},
			state: drift.Dark, reasons: []string{"no report since 2026-03-04T12:00:00Z"},
		},
		{
			name: "restarting", now: noon.Add(time.Minute), cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, old...), at(noon.Add(time.Minute), stopped(old[0]), old[1], old[2])},
			state: drift.Locked, wake: noon.Add(6 * time.Minute),
			reasons: []string{"runs release old but for what may be restarting", "gateway should run 4.52.0 but nothing of it runs"},
		},
		{
			name: "gone for longer than a restart takes", now: noon.Add(4 * time.Minute), cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, old...), at(noon.Add(time.Minute), stopped(old[0]), old[1], old[2]), at(noon.Add(3*time.Minute), old[1], old[2])},
			state: drift.Drifted, wake: noon.Add(8 * time.Minute), reasons: []string{"gateway should run 4.52.0 but nothing of it runs"},
		},
		{
			name: "back as another version", now: noon.Add(2 * time.Minute), cluster: drift.Cluster{Assigned: assigned},
			seen:  []fleet.Inventory{at(noon, old...), at(noon.Add(time.Minute), stopped(old[0]), old[1], old[2]), at(noon.Add(2*time.Minute), runs(fleet.Gateway, "9.9.9"), old[1], old[2])},
			state: drift.Drifted, wake: noon.Add(7 * time.Minute), reasons: []string{"gateway should run 4.52.0 but runs 9.9.9"},
		},
		{
			name: "watched since before the last report", now: dark, cluster: drift.Cluster{Assigned: assigned, WatchedSince: noon.Add(-1)},
			seen: []fleet.Inventory{at(noon, old...)}, state: drift.Dark, reasons: []string{"no report since 2026-03-04T12:00:00Z"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.now.IsZero() {
				test.now = noon
			}
			catalogue := known()
			if test.unknown {
				catalogue = nil
			}
			c := seen(test.cluster, test.seen...)
			got := drift.Judge(c, limits(), catalogue, test.now)
			if got.State != test.state || !got.WakeAt.Equal(test.wake) {
				t.Errorf("%s until %s, want %s until %s", got.State, got.WakeAt, test.state, test.wake)
			}
			if diff := cmp.Diff(test.reasons, got.Reasons); diff != "" {
				t.Errorf("reasons (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(drift.Running(c.Inventory), got.Running); len(test.seen) > 0 && diff != "" {
				t.Errorf("running (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunning(t *testing.T) {
	t.Parallel()
	instance := func(change func(*fleet.Instance)) fleet.Instance {
		i := fleet.Instance{Component: fleet.Gateway, Version: "5.0.1", Tag: "latest", Digest: "sha256:abc", Health: fleet.HealthStarting}
		change(&i)
		return i
	}
	for name, test := range map[string]struct {
		instances []fleet.Instance
		want      map[fleet.Line][]string
	}{
		"nothing":                     {nil, map[fleet.Line][]string{}},
		"what the process was given":  {[]fleet.Instance{instance(func(*fleet.Instance) {})}, map[fleet.Line][]string{fleet.LineGateway: {"5.0.1"}}},
		"else the tag":                {[]fleet.Instance{instance(func(i *fleet.Instance) { i.Version = "" })}, map[fleet.Line][]string{fleet.LineGateway: {"latest"}}},
		"else the digest":             {[]fleet.Instance{instance(func(i *fleet.Instance) { i.Version, i.Tag = "", "" })}, map[fleet.Line][]string{fleet.LineGateway: {"sha256:abc"}}},
		"a tag that says the version": {[]fleet.Instance{instance(func(i *fleet.Instance) { i.Version, i.Tag = "", "5.0.1" }), runs(fleet.Gateway, "5.0.1")}, map[fleet.Line][]string{fleet.LineGateway: {"5.0.1"}}},
		"unhealthy counts":            {[]fleet.Instance{instance(func(i *fleet.Instance) { i.Health = fleet.HealthUnhealthy })}, map[fleet.Line][]string{fleet.LineGateway: {"5.0.1"}}},
		"stopped does not":            {[]fleet.Instance{instance(func(i *fleet.Instance) { i.Health = fleet.HealthStopped })}, map[fleet.Line][]string{}},
		"each once, in order, by line": {
			[]fleet.Instance{runs(fleet.SRASSH, "3.1.0"), runs(fleet.Worker, "1"), runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRAWeb, "3.1.0"), runs(fleet.Dispatcher, "1"), runs("cache", "7")},
			map[fleet.Line][]string{fleet.LineSRA: {"3.0.3", "3.1.0"}, fleet.LineZTWA: {"1"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, drift.Running(at(noon, test.instances...))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSinceWhenItIsMixed(t *testing.T) {
	t.Parallel()
	one := []fleet.Instance{runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.0.3")}
	two := []fleet.Instance{runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.1.0")}
	c := drift.Cluster{ID: "oslo"}
	for _, step := range []struct {
		name string
		seen fleet.Inventory
		last time.Time // of the inventory kept
		want time.Time // since when it is mixed
	}{
		{"one version", at(minute(0), one...), minute(0), time.Time{}},
		{"a mix begins", at(minute(10), two...), minute(10), minute(10)},
		{"and goes on", at(minute(20), two...), minute(20), minute(10)},
		{"one of before is no news", at(minute(5), one...), minute(20), minute(10)},
		{"a late one says that it began before", at(minute(8), two...), minute(20), minute(8)},
		{"a late one says that it had ended", at(minute(15), one...), minute(20), minute(20)},
		{"one that nobody dated says nothing", at(time.Time{}, one...), minute(20), minute(20)},
		{"and another line mixes as well", at(minute(24), append(two, runs(fleet.Worker, "1"), runs(fleet.Worker, "2"))...), minute(24), minute(20)},
		{"nothing runs", at(minute(25)), minute(25), time.Time{}},
		{"two versions, one of them stopped", at(minute(26), one[0], stopped(two[1])), minute(26), time.Time{}},
		{"two lines are no mix", at(minute(27), one[0], runs(fleet.Gateway, "5.0.1")), minute(27), time.Time{}},
		{"one version in two ways of writing is no mix", at(minute(28), one[0], runs(fleet.SRASSH, "v3.0.3")), minute(28), time.Time{}},
		{"another mix begins", at(minute(30), two...), minute(30), minute(30)},
		{"and goes on as well", at(minute(40), two...), minute(40), minute(30)},
		{"a day and more of it", at(minute(50+24*60), two...), minute(50 + 24*60), minute(30)},
		{"one that is later than a day says nothing", at(minute(35), one...), minute(50 + 24*60), minute(30)},
	} {
		before := drift.Judge(c, limits(), nil, step.last)
		next := c.Observe(step.seen)
		if again := drift.Judge(c, limits(), nil, step.last); !cmp.Equal(before, again) {
			t.Fatalf("%s: the cluster from before was changed: %s", step.name, cmp.Diff(before, again))
		}
		c = next
		if j := drift.Judge(c, limits(), nil, step.last); !j.MixedSince.Equal(step.want) || !c.Inventory.ObservedAt.Equal(step.last) {
			t.Fatalf("%s: mixed since %s, last seen %s; want %s and %s", step.name, j.MixedSince, c.Inventory.ObservedAt, step.want, step.last)
		}
	}
}

// However often an unchanged mix is reported, its beginning is known for longer
// than its reports are kept.
func TestALongMixKeepsItsBeginning(t *testing.T) {
	t.Parallel()
	mix := []fleet.Instance{runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.1.0")}
	c := seen(drift.Cluster{}, at(noon, runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.0.3")))
	now := noon
	for range 3 * 24 * 12 {
		now = now.Add(5 * time.Minute)
		c = c.Observe(at(now, mix...))
	}
	if j := drift.Judge(c, limits(), nil, now); !j.MixedSince.Equal(minute(5)) {
		t.Errorf("mixed since %s, it began at %s", j.MixedSince, minute(5))
	}
}

// So many reports are kept and no more, whatever a source sends.
func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	mix := []fleet.Instance{runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.1.0")}
	c := drift.Cluster{ID: "oslo"}
	for i := range 5000 {
		c = c.Observe(at(noon.Add(time.Duration(i)*time.Second), mix...))
	}
	if j := drift.Judge(c, limits(), nil, c.Seen()); !j.MixedSince.Equal(noon.Add((5000 - 4096) * time.Second)) {
		t.Errorf("mixed since %s", j.MixedSince)
	}
}

func TestTheEdgeOfAMix(t *testing.T) {
	t.Parallel()
	old := set("4.52.0", "3.0.3")
	within := func(gateway string, versions ...string) []fleet.Instance {
		out := []fleet.Instance{runs(fleet.Gateway, gateway)}
		for _, v := range versions {
			out = append(out, runs(fleet.SRASSH, v))
		}
		return out
	}
	for _, test := range []struct {
		name    string
		cluster drift.Cluster
		seen    []fleet.Inventory
		want    drift.Edge
	}{
		{"not mixed", drift.Cluster{}, []fleet.Inventory{at(noon, pair("4.52.0", "3.0.3")...)}, drift.Edge{}},
		{
			"from what ran whole to the one release that the new version is of", drift.Cluster{},
			[]fleet.Inventory{at(minute(-2), pair("4.52.0", "3.0.3")...), at(noon, within("4.52.0", "3.0.3", "3.1.0")...)},
			drift.Edge{From: old, To: set("5.0.1", "3.1.0")},
		},
		{
			"halves", drift.Cluster{},
			[]fleet.Inventory{at(minute(-2), pair("4.52.0", "3.0.3")...), at(noon, pair("5.0.1", "3.0.3")...)},
			drift.Edge{From: old, To: set("5.0.1", "3.1.0")},
		},
		{
			"to a release that moves one line", drift.Cluster{},
			[]fleet.Inventory{at(minute(-2), pair("4.52.0", "3.0.3")...), at(noon, within("4.52.0", "3.0.3", "3.0.9")...)},
			drift.Edge{From: old, To: set("4.52.0", "3.0.9")},
		},
		{
			"to what was assigned meanwhile", drift.Cluster{Assigned: release("own", "5.0.1", "3.9.9")},
			[]fleet.Inventory{at(minute(-2), pair("4.52.0", "3.0.3")...), at(noon, pair("5.0.1", "3.0.3")...)},
			drift.Edge{From: old, To: set("5.0.1", "3.9.9")},
		},
		{
			"to a version that nobody knows", drift.Cluster{},
			[]fleet.Inventory{at(minute(-2), pair("4.52.0", "3.0.3")...), at(noon, within("4.52.0", "3.0.3", "3.0.4")...)},
			drift.Edge{From: old, To: set("4.52.0", "3.0.4")},
		},
		{
			"to two versions at once", drift.Cluster{},
			[]fleet.Inventory{at(minute(-2), pair("4.52.0", "3.0.3")...), at(noon, within("4.52.0", "3.0.9", "3.1.0")...)},
			drift.Edge{From: old},
		},
		{
			"to two releases at once", drift.Cluster{},
			[]fleet.Inventory{at(minute(-2), pair("4.52.0", "3.0.3")...), at(noon, pair("5.0.1", "3.2.0")...)},
			drift.Edge{From: old},
		},
		{
			"a line that was down when it began", drift.Cluster{},
			[]fleet.Inventory{
				at(minute(-3), pair("4.52.0", "3.0.3")...), at(minute(-2), runs(fleet.SRASSH, "3.0.3")), at(noon, pair("5.0.1", "3.0.3")...),
			},
			drift.Edge{From: old, To: set("5.0.1", "3.1.0")},
		},
		{
			"a line that went down on the way", drift.Cluster{},
			[]fleet.Inventory{
				at(minute(-4), pair("4.52.0", "3.0.3")...), at(minute(-3), pair("5.0.1", "3.0.3")...), at(minute(-2), runs(fleet.SRASSH, "3.0.3")),
				at(noon, pair("5.0.1", "3.0.3")...),
			},
			drift.Edge{From: old, To: set("5.0.1", "3.1.0")},
		},
		{
			"from what is assigned, if it was never seen whole", drift.Cluster{Assigned: release("old", "4.52.0", "3.0.3")},
			[]fleet.Inventory{at(noon, pair("5.0.1", "3.0.3")...)}, drift.Edge{From: old, To: set("5.0.1", "3.1.0")},
		},
		{"from nobody knows where", drift.Cluster{}, []fleet.Inventory{at(noon, pair("5.0.1", "3.0.3")...)}, drift.Edge{}},
		{
			"a rollout's", drift.Cluster{Assigned: release("old", "4.52.0", "3.0.3"), Move: towards()},
			[]fleet.Inventory{at(noon, pair("5.0.1", "3.0.3")...)}, drift.Edge{From: old, To: set("5.0.1", "3.1.0")},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := seen(test.cluster, test.seen...)
			j := drift.Judge(c, limits(), known(), noon)
			if diff := cmp.Diff(test.want, j.Edge); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if p := drift.PeriodOf(c, j, noon); p.Mixed() == j.MixedSince.IsZero() || !cmp.Equal(p.Edge, j.Edge) {
				t.Errorf("its period is %+v, mixed since %s", p, j.MixedSince)
			}
		})
	}
}

func TestPeriodOf(t *testing.T) {
	t.Parallel()
	c := seen(drift.Cluster{Assigned: release("old", "4.52.0", "3.0.3"), Move: towards()}, at(noon, pair("5.0.1", "3.0.3")...))
	want := drift.Period{
		Cluster: "oslo", Began: minute(1), State: drift.Stepping, Reasons: []string{"rollout r1 moves it to new: gateway 5.0.1, sra 3.0.3"},
		Running:  map[fleet.Line][]string{fleet.LineGateway: {"5.0.1"}, fleet.LineSRA: {"3.0.3"}},
		Assigned: "old", Rollout: "r1", Target: "new", Edge: drift.Edge{From: set("4.52.0", "3.0.3"), To: set("5.0.1", "3.1.0")},
	}
	if diff := cmp.Diff(want, drift.PeriodOf(c, drift.Judge(c, limits(), known(), noon), minute(1))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	c = drift.Cluster{ID: "oslo"}
	want = drift.Period{Cluster: "oslo", Began: noon, State: drift.Unknown, Reasons: []string{"no source has reported this cluster yet"}}
	if diff := cmp.Diff(want, drift.PeriodOf(c, drift.Judge(c, limits(), nil, noon), noon)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	mix := []fleet.Instance{runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.1.0")}
	c := drift.Cluster{ID: "oslo"}
	for _, step := range []struct {
		name  string
		mark  fleet.Mark
		last  time.Time // when the cluster was last seen
		blind string
	}{
		{"nothing to confirm", fleet.Mark{CompleteUntil: minute(1)}, time.Time{}, ""},
		{"blind from the start", fleet.Mark{Blind: true, BlindReason: "refused"}, time.Time{}, "refused"},
		{"after an inventory", fleet.Mark{CompleteUntil: minute(3)}, minute(3), ""},
		{"of before", fleet.Mark{CompleteUntil: minute(1)}, minute(3), ""},
		{"blind", fleet.Mark{CompleteUntil: minute(4), Blind: true, BlindReason: "timeout"}, minute(3), "timeout"},
		{"a late one of before", fleet.Mark{CompleteUntil: minute(2)}, minute(3), "timeout"},
		{"sees again", fleet.Mark{CompleteUntil: minute(5)}, minute(5), ""},
	} {
		if step.name == "after an inventory" {
			c = c.Observe(at(minute(2), mix...))
		}
		c = c.Confirm(step.mark)
		if !c.Seen().Equal(step.last) || c.Blind != step.blind {
			t.Errorf("%s: last seen %s, blind %q; want %s and %q", step.name, c.Seen(), c.Blind, step.last, step.blind)
		}
	}
	if j := drift.Judge(c, limits(), nil, minute(5)); !j.MixedSince.Equal(minute(2)) {
		t.Errorf("mixed since %s; a mark moved it from %s", j.MixedSince, minute(2))
	}
	// A source whose clock was put back has seen what it says it has.
	back := c.Observe(at(minute(3), runs(fleet.SRAWeb, "3.1.0")))
	if len(back.Inventory.Instances) != 1 || !back.Seen().Equal(minute(5)) {
		t.Errorf("after the clock was put back it is %+v", back)
	}
	// Nor does a mark confirm what may have been replaced.
	doubtful := c.Doubt("message 7 is missing").Confirm(fleet.Mark{CompleteUntil: minute(9)})
	if !doubtful.Seen().Equal(minute(5)) || doubtful.Blind != "message 7 is missing" {
		t.Errorf("confirmed in doubt: %+v", doubtful)
	}
	if sure := doubtful.Observe(at(minute(9), mix...)); sure.Doubtful || sure.Blind != "" {
		t.Errorf("in doubt after an inventory: %+v", sure)
	}
	j := drift.Judge(c.Confirm(fleet.Mark{Blind: true, BlindReason: "timeout"}), drift.Limits{MixedWindow: time.Hour, DarkAfter: time.Minute}, nil, minute(6))
	if j.State != drift.Dark || len(j.Reasons) != 2 || j.Reasons[1] != "timeout" {
		t.Errorf("a blind source leaves it %s because of %q", j.State, j.Reasons)
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	settled := []drift.State{drift.Locked, drift.Stepping}
	alarming := []drift.State{drift.Overdue, drift.Drifted, drift.Split, drift.Withdrawn, drift.Dark}
	if n := len(drift.States()); n != 8 {
		t.Errorf("%d states", n)
	}
	for _, before := range drift.States() {
		if before.Settled() != slices.Contains(settled, before) || before.Alarming() != slices.Contains(alarming, before) {
			t.Errorf("%s is settled: %t, alarming: %t", before, before.Settled(), before.Alarming())
		}
		for _, after := range drift.States() {
			want := drift.NoEpisode
			switch was, is := slices.Contains(alarming, before), slices.Contains(alarming, after); {
			case !was && is:
				want = drift.Opened
			case was && !is:
				want = drift.Closed
			case was && before != after:
				want = drift.Changed
			}
			if got := drift.EpisodeOf(before, after); got != want {
				t.Errorf("from %s to %s: %q, want %q", before, after, got, want)
			}
		}
	}
}

// BenchmarkJudge is what a second costs that changes nothing.
func BenchmarkJudge(b *testing.B) {
	catalogue := known()
	full := full(10)
	locked := seen(drift.Cluster{Assigned: release("old", "4.52.0", "3.0.3")}, at(noon, full...))
	locked = locked.ObservePackage(fleet.Package{ObservedAt: noon, Helm: []fleet.HelmRelease{{Name: "gw", Status: "deployed", Versions: set("4.52.0", "3.0.3")}}})
	locked = locked.ObserveRegistration(fleet.Registration{ObservedAt: noon, LastReport: noon, Bastions: []fleet.Bastion{{ID: "b", Version: "3.0.3"}}})
	for name, c := range map[string]drift.Cluster{"locked": locked, "unassigned": seen(drift.Cluster{}, at(noon, full...))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				drift.Judge(c, limits(), catalogue, noon)
			}
		})
	}
}

// BenchmarkObserve is what one more inventory costs a cluster with a day of them.
func BenchmarkObserve(b *testing.B) {
	c := seen(drift.Cluster{Assigned: release("old", "4.52.0", "3.0.3")})
	now := noon
	next := func(c drift.Cluster, instances []fleet.Instance) drift.Cluster {
		now = now.Add(30 * time.Second)
		return c.Observe(at(now, instances...))
	}
	for range 4000 {
		c = next(c, full(10))
	}
	for name, change := range map[string]bool{"unchanged": false, "changed": true} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			one, other := full(10), full(10)
			other[3].Restarts++
			for i := 0; b.Loop(); i++ {
				if one, other = other, one; !change {
					c = next(c, one)
					one, other = other, one
					continue
				}
				c = next(c, one)
			}
		})
	}
}

// full is a cluster of some instances on release old.
func full(n int) []fleet.Instance {
	components := []fleet.Component{fleet.Gateway, fleet.SRAWeb, fleet.SRASSH}
	out := make([]fleet.Instance, n)
	for i := range out {
		component := components[i%len(components)]
		version, image := "4.52.0", "akeyless/gateway"
		if component != fleet.Gateway {
			version, image = "3.0.3", "akeyless/zero-trust-bastion"
		}
		out[i] = fleet.Instance{
			ID: fleet.InstanceID(fmt.Sprintf("pod-%d", i)), Component: component, Service: "deployment/" + string(component), Image: image + ":" + version,
			Declared: image + ":" + version, Tag: version, Digest: "sha256:" + version, Version: version, Health: fleet.HealthHealthy, StartedAt: noon.Add(-time.Hour), Labelled: version,
		}
	}
	return out
}
