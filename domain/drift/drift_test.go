package drift_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// limits are what every test judges by.
func limits() drift.Limits {
	return drift.Limits{MixedWindow: 10 * time.Minute, DarkAfter: 5 * time.Minute}
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

func release(id fleet.ReleaseID, gateway, sra string) *drift.Assignment {
	return &drift.Assignment{Release: id, Versions: fleet.VersionSet{fleet.LineGateway: gateway, fleet.LineSRA: sra}}
}

// towards is a move to release new, which ends an hour after noon.
func towards() *drift.Move {
	return &drift.Move{Rollout: "r1", Target: *release("new", "5.0.1", "3.1.0"), Ends: noon.Add(time.Hour)}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	old := []fleet.Instance{runs(fleet.Gateway, "4.52.0"), runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.0.3")}
	half := []fleet.Instance{runs(fleet.Gateway, "5.0.1"), runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.0.3")}
	mix := []fleet.Instance{runs(fleet.Gateway, "4.52.0"), runs(fleet.SRAWeb, "3.0.3"), runs(fleet.SRASSH, "3.1.0")}
	updated := []fleet.Instance{runs(fleet.Gateway, "5.0.1"), runs(fleet.SRAWeb, "3.1.0"), runs(fleet.SRASSH, "3.1.0")}
	assigned := release("old", "4.52.0", "3.0.3")
	dark := noon.Add(5 * time.Minute)
	for _, test := range []struct {
		name    string
		cluster drift.Cluster
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
			name: "no release assigned", cluster: drift.Cluster{Inventory: at(noon, old...)},
			state: drift.Unknown, reasons: []string{"no release is assigned to this cluster; it runs gateway 4.52.0, sra 3.0.3"}, wake: dark,
		},
		{
			name: "no release assigned and nothing runs", cluster: drift.Cluster{Inventory: at(noon)},
			state: drift.Unknown, reasons: []string{"no release is assigned to this cluster; it runs nothing"}, wake: dark,
		},
		{
			name: "as assigned", cluster: drift.Cluster{Inventory: at(noon, old...), Assigned: assigned},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "a stopped instance does not count",
			cluster: drift.Cluster{
				Inventory: at(noon, append([]fleet.Instance{stopped(runs(fleet.SRAWeb, "2.9.9"))}, old...)...), Assigned: assigned,
			},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "a component of no known line does not count",
			cluster: drift.Cluster{
				Inventory: at(noon, append([]fleet.Instance{runs("cache", "7"), runs("cache", "8")}, old...)...), Assigned: assigned,
			},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "a line that the release leaves open may run any one version",
			cluster: drift.Cluster{
				Inventory: at(noon, append([]fleet.Instance{runs(fleet.Dispatcher, "1.7.0"), runs(fleet.Worker, "1.7.0")}, old...)...), Assigned: assigned,
			},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "a line that the release leaves open runs two versions",
			cluster: drift.Cluster{
				Inventory: at(noon, append([]fleet.Instance{runs(fleet.Dispatcher, "1.7.0"), runs(fleet.Worker, "1.8.0")}, old...)...), Assigned: assigned,
			},
			state: drift.Drifted, reasons: []string{"ztwa should run one version but runs 1.7.0 and 1.8.0"}, wake: dark,
		},
		{
			name: "every difference is told", cluster: drift.Cluster{Inventory: at(noon, updated[1:]...), Assigned: assigned},
			state: drift.Drifted, wake: dark,
			reasons: []string{"gateway should run 4.52.0 but nothing of it runs", "sra should run 3.0.3 but runs 3.1.0"},
		},
		{
			name: "everything stopped",
			cluster: drift.Cluster{
				Inventory: at(noon, stopped(old[0]), stopped(old[1]), stopped(old[2])), Assigned: assigned,
			},
			state: drift.Drifted, wake: dark,
			reasons: []string{"gateway should run 4.52.0 but nothing of it runs", "sra should run 3.0.3 but nothing of it runs"},
		},
		{
			name: "an image that tells no version", cluster: drift.Cluster{Inventory: at(noon, runs(fleet.Gateway, ""), old[1], old[2]), Assigned: assigned},
			state: drift.Drifted, reasons: []string{"gateway should run 4.52.0 but runs an unknown version"}, wake: dark,
		},
		{
			name: "mixed and within the window", now: noon,
			cluster: drift.Cluster{Inventory: at(noon, mix...), Assigned: assigned, MixedSince: noon.Add(-10*time.Minute + 1)},
			state:   drift.Drifted, reasons: []string{"sra should run 3.0.3 but runs 3.0.3 and 3.1.0"}, wake: noon.Add(1),
		},
		{
			name: "mixed at the window's end", now: noon,
			cluster: drift.Cluster{Inventory: at(noon, mix...), Assigned: assigned, MixedSince: noon.Add(-10 * time.Minute)},
			state:   drift.Overdue, wake: dark,
			reasons: []string{"mixed since 2026-03-04T11:50:00Z, longer than 10m0s", "sra should run 3.0.3 but runs 3.0.3 and 3.1.0"},
		},
		{
			name: "mixed, and dark before the window ends", now: noon,
			cluster: drift.Cluster{Inventory: at(noon, mix...), Assigned: assigned, MixedSince: noon},
			state:   drift.Drifted, reasons: []string{"sra should run 3.0.3 but runs 3.0.3 and 3.1.0"}, wake: dark,
		},
		{
			name: "a move, not begun", cluster: drift.Cluster{Inventory: at(noon, old...), Assigned: assigned, Move: towards()},
			state: drift.Locked, reasons: []string{"still runs old; rollout r1 moves it to new"}, wake: dark,
		},
		{
			name: "a move, done", cluster: drift.Cluster{Inventory: at(noon, updated...), Assigned: assigned, Move: towards()},
			state: drift.Locked, reasons: []string{"runs new, where rollout r1 takes it"}, wake: dark,
		},
		{
			name: "a move between its steps", cluster: drift.Cluster{Inventory: at(noon, half...), Assigned: assigned, Move: towards()},
			state: drift.Stepping, reasons: []string{"rollout r1 moves it to new: gateway 5.0.1, sra 3.0.3"}, wake: dark,
		},
		{
			name: "a move within a step, however long mixed", cluster: drift.Cluster{Inventory: at(noon, mix...), Assigned: assigned, Move: towards(), MixedSince: noon.Add(-24 * time.Hour)},
			state: drift.Stepping, reasons: []string{"rollout r1 moves it to new: gateway 4.52.0, sra 3.0.3 and 3.1.0"}, wake: dark,
		},
		{
			name: "a move of a cluster without a release", cluster: drift.Cluster{Inventory: at(noon, half...), Move: towards()},
			state: drift.Stepping, reasons: []string{"rollout r1 moves it to new: gateway 5.0.1, sra 3.0.3"}, wake: dark,
		},
		{
			name: "a move before its end", now: noon.Add(time.Hour - 1),
			cluster: drift.Cluster{Inventory: at(noon.Add(time.Hour-1), half...), Assigned: assigned, Move: towards()},
			state:   drift.Stepping, reasons: []string{"rollout r1 moves it to new: gateway 5.0.1, sra 3.0.3"}, wake: noon.Add(time.Hour),
		},
		{
			name: "a move at its end", now: noon.Add(time.Hour),
			cluster: drift.Cluster{Inventory: at(noon.Add(time.Hour), half...), Assigned: assigned, Move: towards()},
			state:   drift.Overdue, wake: noon.Add(time.Hour + 5*time.Minute),
			reasons: []string{"mixed past the window of rollout r1, which ended at 2026-03-04T13:00:00Z: gateway 5.0.1, sra 3.0.3"},
		},
		{
			name: "a move past its end that is where it was", now: noon.Add(2 * time.Hour),
			cluster: drift.Cluster{Inventory: at(noon.Add(2*time.Hour), old...), Assigned: assigned, Move: towards()},
			state:   drift.Locked, reasons: []string{"still runs old; rollout r1 moves it to new"}, wake: noon.Add(2*time.Hour + 5*time.Minute),
		},
		{
			name: "before it is dark", now: dark.Add(-1), cluster: drift.Cluster{Inventory: at(noon, old...), Assigned: assigned},
			state: drift.Locked, reasons: []string{"runs release old"}, wake: dark,
		},
		{
			name: "dark", now: dark, cluster: drift.Cluster{Inventory: at(noon, old...), Assigned: assigned},
			state: drift.Dark, reasons: []string{"no report since 2026-03-04T12:00:00Z"},
		},
		{
			name: "dark, whatever moves it", now: dark.Add(24 * time.Hour), cluster: drift.Cluster{Inventory: at(noon, half...), Assigned: assigned, Move: towards()},
			state: drift.Dark, reasons: []string{"no report since 2026-03-04T12:00:00Z"},
		},
		{
			name: "not dark while the watcher was away", now: noon.Add(time.Hour + 5*time.Minute - 1),
			cluster: drift.Cluster{Inventory: at(noon, old...), Assigned: assigned, WatchedSince: noon.Add(time.Hour)},
			state:   drift.Locked, reasons: []string{"runs release old"}, wake: noon.Add(time.Hour + 5*time.Minute),
		},
		{
			name: "dark since the last report once watched long enough", now: noon.Add(time.Hour + 5*time.Minute),
			cluster: drift.Cluster{Inventory: at(noon, old...), Assigned: assigned, WatchedSince: noon.Add(time.Hour)},
			state:   drift.Dark, reasons: []string{"no report since 2026-03-04T12:00:00Z"},
		},
		{
			name: "watched since before the last report", now: dark,
			cluster: drift.Cluster{Inventory: at(noon, old...), Assigned: assigned, WatchedSince: noon.Add(-1)},
			state:   drift.Dark, reasons: []string{"no report since 2026-03-04T12:00:00Z"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.cluster.ID = "oslo"
			if test.now.IsZero() {
				test.now = noon
			}
			got := drift.Judge(test.cluster, limits(), test.now)
			want := drift.Judgement{State: test.state, Reasons: test.reasons, Running: drift.Running(test.cluster.Inventory), WakeAt: test.wake}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
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

func TestObserveKeepsWhenAMixBegan(t *testing.T) {
	t.Parallel()
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
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
		{"a mix begins", at(minute(1), two...), minute(1), minute(1)},
		{"and goes on", at(minute(2), two...), minute(2), minute(1)},
		{"an older report is no news", at(minute(0), one...), minute(2), minute(1)},
		{"one of the same instant is", at(minute(2), one...), minute(2), time.Time{}},
		{"another mix begins", at(minute(3), two...), minute(3), minute(3)},
		{"and another line mixes as well", at(minute(4), append(two, runs(fleet.Worker, "1"), runs(fleet.Worker, "2"))...), minute(4), minute(3)},
		{"nothing runs", at(minute(5)), minute(5), time.Time{}},
		{"two versions, one of them stopped", at(minute(6), one[0], stopped(two[1])), minute(6), time.Time{}},
		{"two lines are no mix", at(minute(7), one[0], runs(fleet.Gateway, "5.0.1")), minute(7), time.Time{}},
	} {
		c = c.Observe(step.seen)
		if !c.MixedSince.Equal(step.want) || !c.Inventory.ObservedAt.Equal(step.last) {
			t.Fatalf("%s: mixed since %s, last seen %s; want %s and %s", step.name, c.MixedSince, c.Inventory.ObservedAt, step.want, step.last)
		}
	}
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
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
	if !c.MixedSince.Equal(minute(2)) {
		t.Errorf("mixed since %s; a mark moved it from %s", c.MixedSince, minute(2))
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
	j := drift.Judge(c.Confirm(fleet.Mark{Blind: true, BlindReason: "timeout"}), drift.Limits{MixedWindow: time.Hour, DarkAfter: time.Minute}, minute(6))
	if j.State != drift.Dark || len(j.Reasons) != 2 || j.Reasons[1] != "timeout" {
		t.Errorf("a blind source leaves it %s because of %q", j.State, j.Reasons)
	}
}

func TestSettled(t *testing.T) {
	t.Parallel()
	for state, want := range map[drift.State]bool{
		drift.Unknown: false, drift.Locked: true, drift.Stepping: true, drift.Overdue: false, drift.Drifted: false, drift.Dark: false,
	} {
		if state.Settled() != want {
			t.Errorf("%s settled: %t", state, !want)
		}
	}
}
