package drift

import (
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Edge is a move from one version set to another. To is nil while it is not clear
// where a mix leads.
type Edge struct {
	From, To fleet.VersionSet
}

// Period is a stretch of a cluster's history in which its state, what runs, what
// is assigned and what moves it stayed the same.
type Period struct {
	Cluster fleet.ClusterID
	Began   time.Time
	// Ended is the zero time while it goes on.
	Ended time.Time
	State State
	// Reasons are those of its beginning.
	Reasons []string
	// Running holds the distinct versions that run of each line, in order.
	Running map[fleet.Line][]string
	// Assigned is empty while no release is assigned.
	Assigned fleet.ReleaseID
	// Rollout and Target are empty while no rollout moves the cluster.
	Rollout string
	Target  fleet.ReleaseID
	// Edge is the move that a mix is part of, its zero value while not mixed.
	Edge Edge
}

// Mixed says whether the cluster was mixed: stepping is mixed inside a window,
// overdue is mixed past it.
func (p Period) Mixed() bool { return p.State == Stepping || p.State == Overdue }

// Same says whether two periods differ in their times and reasons alone, so that
// the later one is no news.
func (p Period) Same(q Period) bool {
	return p.State == q.State && p.Assigned == q.Assigned && p.Rollout == q.Rollout && p.Target == q.Target && sameRunning(p.Running, q.Running)
}

func sameRunning(a, b map[fleet.Line][]string) bool {
	if len(a) != len(b) {
		return false
	}
	for line, versions := range a {
		other, ok := b[line]
		if !ok || len(other) != len(versions) {
			return false
		}
		for i, v := range versions {
			if other[i] != v {
				return false
			}
		}
	}
	return true
}

// PeriodOf is the period that begins at an instant with a judgement of a cluster.
func PeriodOf(c Cluster, j Judgement, at time.Time) Period {
	p := Period{Cluster: c.ID, Began: at, State: j.State, Reasons: j.Reasons, Running: j.Running, Edge: j.Edge}
	if c.Assigned != nil {
		p.Assigned = c.Assigned.Release
	}
	if c.Move != nil {
		p.Rollout, p.Target = c.Move.Rollout, c.Move.Target.Release
	}
	return p
}
