package codec

import (
	"time"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Period is a period on its way to or from the history. Of two with one beginning
// the one with the higher sequence is right: it knows the end.
type Period struct {
	drift.Period
	StreamSequence uint64
	RecordedAt     time.Time
}

// Span is from an instant up to before another.
type Span struct{ From, To time.Time }

// Group is what a figure of history is told for.
type Group string

// Every value Group takes.
const (
	ByAll     Group = "all"
	ByCluster Group = "cluster"
	ByEdge    Group = "edge"
	ByWeek    Group = "week" // that begins on a Monday, UTC
)

// Mix is one unbroken mix of a cluster that is over.
type Mix struct {
	Cluster fleet.ClusterID
	Edge    drift.Edge
	Began   time.Time
	Took    time.Duration
}

// MixedTime is how long clusters were mixed within a span.
type MixedTime struct {
	// Key is the cluster, the edge as "gateway=1 sra=2 → gateway=2 sra=2" with a ?
	// for where it led while that is not clear, the week's Monday as 2006-01-02, or
	// empty for all.
	Key string
	// Inside is mixed time within windows, Outside past them.
	Inside, Outside time.Duration
	// Mixes is how many unbroken mixes there were, Longest the longest of them.
	Mixes   uint64
	Longest time.Duration
}

// Adoption is how many clusters ran a version of a line at an instant.
type Adoption struct {
	At      time.Time
	Version string
	// Clusters that ran it alone, and Mixed those that ran it beside another.
	Clusters, Mixed uint64
}

// Convergence is how fast clusters came to run a release that they were meant to.
type Convergence struct {
	Release fleet.ReleaseID
	// Began is when the first cluster was to run it, Ended when the last did, the
	// zero time while one does not.
	Began, Ended time.Time
	// Clusters were to run it, Converged of them came to.
	Clusters, Converged uint64
	// P50, P90 and Longest are from when a cluster was to run it until it was locked
	// on it, among those that converged.
	P50, P90, Longest time.Duration
}

// Impact is how people's sessions fared by the state of their cluster at their
// start. Sessions that are open, or vanished without an end, are not counted.
type Impact struct {
	// Key is the cluster, the week's Monday as 2006-01-02, or empty for all.
	Key string
	// Each of sessions that ended or failed; Inside and Outside a mix's window, and
	// Whole while the cluster was not mixed.
	Whole, Inside, Outside Fared
}

// Fared counts sessions and those among them that failed.
type Fared struct{ Sessions, Failed uint64 }

// BaselineFilter narrows a list of baselines; an empty field lets every value pass.
type BaselineFilter struct {
	Cluster fleet.ClusterID
	Name    string
	Rollout string
}
