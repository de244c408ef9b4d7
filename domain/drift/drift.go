// Package drift owns the judgement of one cluster: do its instances run what
// belongs together, was it intended, do the sources agree, and since when? It
// yields the lockstep state with reasons a person can read, and what history is
// made of. It does not know how anything is observed, and it does not decide what
// to do about it.
package drift

import (
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// State is the lockstep state of a cluster.
type State string

// Every value State takes.
const (
	// Unknown: nothing has been reported, or no release is assigned to compare with.
	Unknown State = "unknown"
	// Locked: all instances run one intended version set.
	Locked State = "locked"
	// Stepping: mixed inside a window.
	Stepping State = "stepping"
	// Overdue: mixed for longer than the window allows.
	Overdue State = "overdue"
	// Drifted: differs from the assigned release with no rollout to explain it.
	Drifted State = "drifted"
	// Split: sources disagree about what runs.
	Split State = "split"
	// Withdrawn: runs a version that the vendor took back.
	Withdrawn State = "withdrawn"
	// Dark: reports have stopped.
	Dark State = "dark"
)

// States lists every state in a fixed order.
func States() []State {
	return []State{Locked, Stepping, Overdue, Drifted, Split, Withdrawn, Dark, Unknown}
}

// Settled reports whether nothing about the state calls for attention.
func (s State) Settled() bool { return s == Locked || s == Stepping }

// Alarming reports whether an episode of drift is open while the state lasts. The
// unknown is neither settled nor alarming.
func (s State) Alarming() bool {
	switch s {
	case Overdue, Drifted, Split, Withdrawn, Dark:
		return true
	}
	return false
}

// Episode is what a change of state does to the episode of drift of a cluster.
type Episode string

// Every value Episode takes.
const (
	NoEpisode Episode = "" // it goes on as it did
	Opened    Episode = "opened"
	Changed   Episode = "changed" // from one alarming state to another
	Closed    Episode = "closed"
)

// EpisodeOf says what the change from one state to another does.
func EpisodeOf(before, after State) Episode {
	switch was, is := before.Alarming(), after.Alarming(); {
	case is && !was:
		return Opened
	case was && !is:
		return Closed
	case is && before != after:
		return Changed
	}
	return NoEpisode
}

// Assignment is the release a cluster is expected to run.
type Assignment struct {
	Release  fleet.ReleaseID
	Versions fleet.VersionSet
	// Rollout is the one that took the cluster there, or back there; empty when a
	// person said so. A rollout leaves people's Compose files alone, so that they
	// differ from what runs ever after.
	Rollout string
}

// Move is a running rollout's claim on a cluster: until Ends it may be mixed on
// its way to Target.
type Move struct {
	Rollout string
	Target  Assignment
	Ends    time.Time
}

// Cluster is what is known of one cluster. Its zero value with an ID is a
// cluster that never reported. It is a value: what takes a report in returns
// another one.
type Cluster struct {
	ID fleet.ClusterID
	// Inventory, Package and Registration are the newest that were observed, as
	// Observe, ObservePackage and ObserveRegistration took them in.
	Inventory    fleet.Inventory
	Package      fleet.Package
	Registration fleet.Registration
	// Assigned is nil while no release is assigned.
	Assigned *Assignment
	// Move is nil while no rollout moves the cluster.
	Move *Move
	// Window replaces Limits.MixedWindow for this cluster, zero for not.
	Window time.Duration
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

	sights       timeline[*sight]
	declarations timeline[*declaration]
	reports      timeline[*report]
	// The same of packages and registrations as of inventories.
	packageConfirmed, registrationConfirmed time.Time
	packageDoubtful, registrationDoubtful   bool
}

// Observe returns the cluster after one more inventory. One that is older than the
// last says what ran then, and is not the last. Of two of one instant that differ
// the same one counts, whichever came first.
func (c Cluster) Observe(inventory fleet.Inventory) Cluster {
	if inventory.ObservedAt.IsZero() {
		return c
	}
	last := c.Inventory.ObservedAt
	says := c.sights.newest()
	same := says != nil && slices.Equal(inventory.Instances, c.Inventory.Instances)
	if !same || says.torn {
		says = look(inventory)
	}
	before := c.sights
	c.sights = before.add(inventory.ObservedAt, says)
	if inventory.ObservedAt.Before(last) {
		return c
	}
	c.Blind, c.Doubtful = "", false
	if !inventory.ObservedAt.Equal(last) || !same && prefer(says, before.newest(), inventory.Instances, c.Inventory.Instances) {
		c.Inventory = inventory
	}
	return c
}

// prefer says whether the first of two different inventories of one instant counts.
func prefer(says, other *sight, instances, others []fleet.Instance) bool {
	if says.key != other.key {
		return says.key > other.key
	}
	return fmt.Sprintf("%+v", instances) > fmt.Sprintf("%+v", others)
}

// ObservePackage returns the cluster after one more package, as Observe does for
// an inventory.
func (c Cluster) ObservePackage(p fleet.Package) Cluster {
	if p.ObservedAt.IsZero() {
		return c
	}
	says, last := readPackage(p), c.Package.ObservedAt
	before := c.declarations.newest()
	c.declarations = c.declarations.add(p.ObservedAt, says)
	if p.ObservedAt.Before(last) {
		return c
	}
	c.packageDoubtful = false
	if !p.ObservedAt.Equal(last) || says.key > before.key || says.key == before.key && packageText(p) > packageText(c.Package) {
		c.Package = p
	}
	return c
}

// ObserveRegistration returns the cluster after one more registration, as Observe
// does for an inventory.
func (c Cluster) ObserveRegistration(r fleet.Registration) Cluster {
	if r.ObservedAt.IsZero() {
		return c
	}
	says, last := readRegistration(r), c.Registration.ObservedAt
	before := c.reports.newest()
	c.reports = c.reports.add(r.ObservedAt, says)
	if r.ObservedAt.Before(last) {
		return c
	}
	c.registrationDoubtful = false
	if !r.ObservedAt.Equal(last) || says.key > before.key || says.key == before.key && fmt.Sprintf("%+v", r) > fmt.Sprintf("%+v", c.Registration) {
		c.Registration = r
	}
	return c
}

// Confirm returns the cluster after a mark about its inventory, package or
// registration: that the last one still holds, or that its source cannot look. A
// mark of before the last inventory changes nothing, and without an inventory there
// is nothing to confirm.
func (c Cluster) Confirm(mark fleet.Mark) Cluster {
	switch mark.About {
	case fleet.KindPackage:
		if !mark.Blind && !c.packageDoubtful && !c.Package.ObservedAt.IsZero() {
			c.packageConfirmed = later(c.packageConfirmed, mark.CompleteUntil)
		}
		return c
	case fleet.KindRegistration:
		if !mark.Blind && !c.registrationDoubtful && !c.Registration.ObservedAt.IsZero() {
			c.registrationConfirmed = later(c.registrationConfirmed, mark.CompleteUntil)
		}
		return c
	}
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
func (c Cluster) Seen() time.Time { return later(c.Inventory.ObservedAt, c.Confirmed) }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Doubt returns the cluster after something was missing among the messages about
// it: the last inventory, package or registration may have been replaced, until the
// next one comes.
func (c Cluster) Doubt(reason string) Cluster {
	c.Doubtful, c.Blind = true, reason
	c.packageDoubtful, c.registrationDoubtful = true, true
	return c
}
