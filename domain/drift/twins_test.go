package drift_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestTwins(t *testing.T) {
	t.Parallel()
	pod := func(id fleet.InstanceID, started time.Time) fleet.Instance {
		return fleet.Instance{ID: id, Component: fleet.Gateway, Version: "5.0.1", StartedAt: started}
	}
	named := func(id fleet.ClusterID, c drift.Cluster) drift.Cluster {
		c.ID = id
		return c
	}
	a := named("a", seen(drift.Cluster{}, at(minute(0), pod("1", noon), pod("2", noon)), at(minute(9), pod("1", noon), pod("2", noon))))
	apart := named("b", seen(drift.Cluster{}, at(minute(0), pod("1", minute(1)), pod("3", noon)), at(minute(9), pod("1", minute(1)))))
	both := named("b", seen(drift.Cluster{}, at(minute(3), pod("2", noon)), at(minute(8), pod("2", noon))))
	after := named("c", seen(drift.Cluster{}, at(minute(10), pod("1", noon))))
	nameless := func(id fleet.ClusterID) drift.Cluster {
		return named(id, seen(drift.Cluster{}, at(minute(1), pod("", noon), pod("7", time.Time{}))))
	}
	twice := func(id fleet.ClusterID) string {
		return fmt.Sprintf("the same instances report as cluster %s too: one place is configured twice", id)
	}
	renamed := func(id fleet.ClusterID) string {
		return fmt.Sprintf("its instances now report as cluster %s: it was probably renamed", id)
	}
	for _, test := range []struct {
		name     string
		clusters []drift.Cluster
		want     map[fleet.ClusterID]string
	}{
		{"none", nil, map[fleet.ClusterID]string{}},
		{"apart, with one id in both", []drift.Cluster{a, apart}, map[fleet.ClusterID]string{}},
		{"one place twice", []drift.Cluster{a, both}, map[fleet.ClusterID]string{"a": twice("b"), "b": twice("a")}},
		{"in another order", []drift.Cluster{both, a}, map[fleet.ClusterID]string{"a": twice("b"), "b": twice("a")}},
		{"renamed", []drift.Cluster{a, after}, map[fleet.ClusterID]string{"a": renamed("c")}},
		{"an instance listed twice", []drift.Cluster{named("a", seen(drift.Cluster{}, at(noon, pod("1", noon), pod("1", noon))))}, map[fleet.ClusterID]string{}},
		{"renamed, and back again", []drift.Cluster{a.Observe(at(minute(12), pod("1", noon))), after}, map[fleet.ClusterID]string{"a": twice("c"), "c": twice("a")}},
		{"what has no name or no beginning proves nothing", []drift.Cluster{nameless("a"), nameless("b"), {ID: "c"}}, map[fleet.ClusterID]string{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, drift.Twins(test.clusters)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
