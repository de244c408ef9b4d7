package drift

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Twins finds clusters that report one place: an instance has the same id and was
// started at the same instant in both. It returns a sentence for each of them: that
// the place is configured twice, or, for one whose reports ended before those of the
// other began, that it was probably renamed.
func Twins(clusters []Cluster) map[fleet.ClusterID]string {
	type place struct {
		id      fleet.InstanceID
		started int64
	}
	out := make(map[fleet.ClusterID]string)
	first := make(map[place]int)
	order := make([]int, len(clusters))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(clusters[a].ID, clusters[b].ID) })
	for _, i := range order {
		for _, instance := range clusters[i].Inventory.Instances {
			if instance.ID == "" || instance.StartedAt.IsZero() {
				continue
			}
			at := place{instance.ID, instance.StartedAt.UnixNano()}
			other, taken := first[at]
			if !taken || other == i {
				first[at] = i
				continue
			}
			tell(out, clusters[other], clusters[i])
			tell(out, clusters[i], clusters[other])
		}
	}
	return out
}

// tell says of a cluster what follows from its having an instance in common with
// another. The first thing said stays.
func tell(out map[fleet.ClusterID]string, of, other Cluster) {
	if out[of.ID] != "" {
		return
	}
	switch {
	case of.Seen().Before(other.began()):
		out[of.ID] = fmt.Sprintf("its instances now report as cluster %s: it was probably renamed", other.ID)
	case !other.Seen().Before(of.began()):
		out[of.ID] = fmt.Sprintf("the same instances report as cluster %s too: one place is configured twice", other.ID)
	}
}

// began is when the cluster was first seen, as far as that is kept.
func (c Cluster) began() time.Time { return c.sights.began }
