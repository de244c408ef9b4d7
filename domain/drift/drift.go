// Package drift owns the judgement of one cluster: do its instances run what
// belongs together, and what was intended? It yields the lockstep state with
// reasons a person can read. It does not know how anything is observed, and it
// does not decide what to do about it.
package drift

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// State is the lockstep state of a cluster.
type State string

// Every value State takes so far.
const (
	// Unknown: nothing has been reported, or no release is assigned to compare with.
	Unknown State = "unknown"
	// Locked: all instances run one intended version set.
	Locked State = "locked"
	// Stepping: mixed inside the window of a running step.
	Stepping State = "stepping"
	// Overdue: mixed for longer than the window allows.
	Overdue State = "overdue"
	// Drifted: differs from the assigned release with no rollout to explain it.
	Drifted State = "drifted"
	// Dark: reports have stopped.
	Dark State = "dark"
)

// Settled reports whether nothing about the state calls for attention.
func (s State) Settled() bool { return s == Locked || s == Stepping }

// Assignment is the release a cluster is expected to run.
type Assignment struct {
	Release  fleet.ReleaseID
	Versions fleet.VersionSet
}

// Move is a running rollout's claim on a cluster: until Ends it may be mixed on
// its way to Target.
type Move struct {
	Rollout string
	Target  Assignment
	Ends    time.Time
}

// Limits bound what counts as fine.
type Limits struct {
	// MixedWindow is how long a mix may last when no rollout explains it.
	MixedWindow time.Duration
	// DarkAfter is how long after the last report a cluster counts as dark.
	DarkAfter time.Duration
}

// Cluster is what is known of one cluster. Its zero value with an ID is a
// cluster that never reported.
type Cluster struct {
	ID        fleet.ClusterID
	Inventory fleet.Inventory
	// Assigned is nil while no release is assigned.
	Assigned *Assignment
	// Move is nil while no rollout moves the cluster.
	Move *Move
	// MixedSince is when the present mix was first seen, zero while not mixed.
	MixedSince time.Time
	// Confirmed is until when a mark has said that the inventory held.
	Confirmed time.Time
	// Blind is why the source of inventories cannot look at present, empty while it
	// can.
	Blind string
	// Doubtful says that an inventory may be missing since the last one, so that no
	// mark confirms it.
	Doubtful bool
	// WatchedSince is when watching began, at the latest: a watcher that was away
	// must not take its own absence for the cluster's.
	WatchedSince time.Time
}

// Observe returns the cluster after one more inventory. An inventory older than
// the last changes nothing.
func (c Cluster) Observe(inventory fleet.Inventory) Cluster {
	if inventory.ObservedAt.Before(c.Inventory.ObservedAt) {
		return c
	}
	c.Inventory, c.Blind, c.Doubtful = inventory, "", false
	switch {
	case !mixed(Running(inventory)):
		c.MixedSince = time.Time{}
	case c.MixedSince.IsZero():
		c.MixedSince = inventory.ObservedAt
	}
	return c
}

// Confirm returns the cluster after a mark about its inventory: that the last one
// still holds, or that its source cannot look. A mark of before the last inventory
// changes nothing, and without an inventory there is nothing to confirm.
func (c Cluster) Confirm(mark fleet.Mark) Cluster {
	switch {
	case mark.Blind:
		c.Blind = mark.BlindReason
	case c.Doubtful:
	case !mark.CompleteUntil.Before(c.Seen()):
		c.Blind = ""
		if !c.Inventory.ObservedAt.IsZero() && mark.CompleteUntil.After(c.Confirmed) {
			c.Confirmed = mark.CompleteUntil
		}
	}
	return c
}

// Seen is when the cluster was last known to be as its inventory says, the zero
// time when never.
func (c Cluster) Seen() time.Time {
	if c.Confirmed.After(c.Inventory.ObservedAt) {
		return c.Confirmed
	}
	return c.Inventory.ObservedAt
}

// Doubt returns the cluster after something was missing among the messages about
// its inventory: the last one may have been replaced, until the next one comes.
func (c Cluster) Doubt(reason string) Cluster {
	c.Doubtful, c.Blind = true, reason
	return c
}

// Judgement is the state of a cluster at an instant.
type Judgement struct {
	State   State
	Reasons []string
	// Running holds the distinct versions that run of each line, in order.
	Running map[fleet.Line][]string
	// WakeAt is when the state changes without a new report, the zero time for
	// never.
	WakeAt time.Time
}

// Running lists the distinct versions of each line among instances that are not
// stopped. A version is what the process was given, else the image's tag, else
// its digest.
func Running(inventory fleet.Inventory) map[fleet.Line][]string {
	running := make(map[fleet.Line][]string)
	for _, instance := range inventory.Instances {
		line, known := fleet.LineOf(instance.Component)
		if !known || instance.Health == fleet.HealthStopped {
			continue
		}
		if version := instance.RunningVersion(); !slices.Contains(running[line], version) {
			running[line] = append(running[line], version)
		}
	}
	for _, versions := range running {
		slices.Sort(versions)
	}
	return running
}

// because is why a cluster is not seen, with what its source says of it.
func (c Cluster) because(reason string) []string {
	if c.Blind == "" {
		return []string{reason}
	}
	return []string{reason, c.Blind}
}

func mixed(running map[fleet.Line][]string) bool {
	for _, versions := range running {
		if len(versions) > 1 {
			return true
		}
	}
	return false
}

// Judge returns the state of a cluster now.
func Judge(c Cluster, limits Limits, now time.Time) Judgement {
	j := Judgement{Running: Running(c.Inventory)}
	seen := c.Seen()
	if seen.IsZero() {
		j.State, j.Reasons = Unknown, c.because("no source has reported this cluster yet")
		return j
	}
	heard := seen
	if c.WatchedSince.After(heard) {
		heard = c.WatchedSince
	}
	dark := heard.Add(limits.DarkAfter)
	if !now.Before(dark) {
		j.State, j.Reasons = Dark, c.because(fmt.Sprintf("no report since %s", seen.UTC().Format(time.RFC3339)))
		return j
	}
	j.WakeAt = dark
	if c.Move != nil {
		j.moving(c, now)
		return j
	}
	j.resting(c, limits, now)
	return j
}

// moving judges a cluster that a rollout moves: it is locked on the old or the
// new version set, or on its way between them.
func (j *Judgement) moving(c Cluster, now time.Time) {
	if len(difference(j.Running, c.Move.Target.Versions)) == 0 {
		j.State = Locked
		j.Reasons = []string{fmt.Sprintf("runs %s, where rollout %s takes it", c.Move.Target.Release, c.Move.Rollout)}
		return
	}
	if c.Assigned != nil && len(difference(j.Running, c.Assigned.Versions)) == 0 {
		j.State = Locked
		j.Reasons = []string{fmt.Sprintf("still runs %s; rollout %s moves it to %s", c.Assigned.Release, c.Move.Rollout, c.Move.Target.Release)}
		return
	}
	if now.Before(c.Move.Ends) {
		j.State = Stepping
		j.Reasons = []string{fmt.Sprintf("rollout %s moves it to %s: %s", c.Move.Rollout, c.Move.Target.Release, describe(j.Running))}
		j.wake(c.Move.Ends)
		return
	}
	j.State = Overdue
	j.Reasons = []string{fmt.Sprintf("mixed past the window of rollout %s, which ended at %s: %s",
		c.Move.Rollout, c.Move.Ends.UTC().Format(time.RFC3339), describe(j.Running))}
}

// resting judges a cluster that no rollout moves.
func (j *Judgement) resting(c Cluster, limits Limits, now time.Time) {
	if c.Assigned == nil {
		j.State, j.Reasons = Unknown, []string{"no release is assigned to this cluster; it runs " + describe(j.Running)}
		return
	}
	differs := difference(j.Running, c.Assigned.Versions)
	switch {
	case len(differs) == 0:
		j.State, j.Reasons = Locked, []string{fmt.Sprintf("runs release %s", c.Assigned.Release)}
	case !c.MixedSince.IsZero() && !now.Before(c.MixedSince.Add(limits.MixedWindow)):
		j.State = Overdue
		j.Reasons = append([]string{fmt.Sprintf("mixed since %s, longer than %s",
			c.MixedSince.UTC().Format(time.RFC3339), limits.MixedWindow)}, differs...)
	default:
		j.State, j.Reasons = Drifted, differs
		if !c.MixedSince.IsZero() {
			j.wake(c.MixedSince.Add(limits.MixedWindow))
		}
	}
}

func (j *Judgement) wake(at time.Time) {
	if at.Before(j.WakeAt) {
		j.WakeAt = at
	}
}

// difference says in sentences where what runs is not the given version set. A
// line that the set leaves open may run any version, but only one.
func difference(running map[fleet.Line][]string, want fleet.VersionSet) []string {
	var out []string
	for _, line := range slices.Sorted(maps.Keys(want)) {
		switch versions := running[line]; {
		case len(versions) == 0:
			out = append(out, fmt.Sprintf("%s should run %s but nothing of it runs", line, want[line]))
		case len(versions) > 1 || versions[0] != want[line]:
			out = append(out, fmt.Sprintf("%s should run %s but runs %s", line, want[line], list(versions)))
		}
	}
	for _, line := range slices.Sorted(maps.Keys(running)) {
		if _, intended := want[line]; !intended && len(running[line]) > 1 {
			out = append(out, fmt.Sprintf("%s should run one version but runs %s", line, list(running[line])))
		}
	}
	return out
}

func describe(running map[fleet.Line][]string) string {
	if len(running) == 0 {
		return "nothing"
	}
	var parts []string
	for _, line := range slices.Sorted(maps.Keys(running)) {
		parts = append(parts, fmt.Sprintf("%s %s", line, list(running[line])))
	}
	return strings.Join(parts, ", ")
}

func list(versions []string) string {
	said := slices.Clone(versions)
	for i, version := range said {
		if version == "" {
			said[i] = "an unknown version"
		}
	}
	return strings.Join(said, " and ")
}
