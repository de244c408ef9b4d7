//go:build linux && amd64

package evaluator_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

func ids[T interface{ GetId() string }](list []T) string {
	out := make([]string, len(list))
	for i, one := range list {
		out[i] = one.GetId()
	}
	return strings.Join(out, " ")
}

func TestListClustersChooses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c", "d")
	l := w.start()
	for cluster, version := range map[fleet.ClusterID]string{"a": "2", "b": "1", "c": "2"} {
		w.source(cluster).send(w.inventory(cluster, version, "1"))
	}
	w.awaitStates("a", "drifted")
	w.awaitStates("b", "locked")
	w.awaitStates("c", "drifted")
	id, _ := w.apply("b")
	w.record(id, "b", rollout.ClusterDone{Release: "spring", Package: "p2"})
	w.awaitStates("b", "locked", "drifted") // It runs what it ran.
	for name, test := range map[string]struct {
		request *fleetv1.ListClustersRequest
		want    string
	}{
		"no filter":    {&fleetv1.ListClustersRequest{}, "a b c d"},
		"states":       {&fleetv1.ListClustersRequest{States: []string{"unknown", "drifted"}}, "a b c d"},
		"new release":  {&fleetv1.ListClustersRequest{Release: "spring"}, "b"},
		"one state":    {&fleetv1.ListClustersRequest{States: []string{"unknown"}}, "d"},
		"ids":          {&fleetv1.ListClustersRequest{Ids: []string{"d", "nowhere", "a", "a"}}, "a d"},
		"release":      {&fleetv1.ListClustersRequest{Release: "winter"}, "a c d"},
		"all together": {&fleetv1.ListClustersRequest{States: []string{"drifted"}, Ids: []string{"a", "b", "d"}, Release: "winter"}, "a"},
		"none match":   {&fleetv1.ListClustersRequest{States: []string{"dark"}}, ""},
	} {
		same(t, name, test.want, ids(l.clusters(test.request).GetClusters()))
	}

	for view, want := range map[fleetv1.ClusterView]int{
		fleetv1.ClusterView_CLUSTER_VIEW_UNSPECIFIED: 2, fleetv1.ClusterView_CLUSTER_VIEW_FULL: 2, fleetv1.ClusterView_CLUSTER_VIEW_BASIC: 0,
	} {
		c := l.clusters(&fleetv1.ListClustersRequest{Ids: []string{"a"}, View: view}).GetClusters()[0]
		same(t, fmt.Sprint("instances of ", view), want, len(c.GetInstances()))
		same(t, fmt.Sprint("state of ", view), "drifted 2", c.GetState()+" "+c.GetLines()[0].GetRunning()[0])
	}

	// A cluster that matches no longer still ends the page it was on.
	drifted := &fleetv1.ListClustersRequest{States: []string{"drifted"}, Release: "winter", PageSize: 1}
	first := l.clusters(drifted)
	same(t, "the first page", "a", ids(first.GetClusters()))
	w.advance(time.Second)
	again := w.source("a")
	again.incarnation = "second"
	again.send(w.inventory("a", "1", "1"))
	w.awaitStates("a", "drifted", "locked")
	drifted.PageToken = first.GetNextPageToken()
	second := l.clusters(drifted)
	same(t, "the second page", "c", ids(second.GetClusters()))
	same(t, "the token after it", "", second.GetNextPageToken())

	_, err := l.fleet.ListClusters(t.Context(), &fleetv1.ListClustersRequest{States: []string{"locked"}, PageToken: first.GetNextPageToken()})
	var e *errs.Error
	if !errors.As(err, &e) || e.ID != "LS-API-002" || !strings.Contains(err.Error(), "other filters") {
		t.Errorf("a token with other filters gave %v", err)
	}
}

func TestListGatesChooses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	l := w.start()
	_, gateA := w.apply("a")
	w.awaitOpen(gateA)
	w.advance(time.Second)
	_, gateB := w.apply("b")
	w.awaitOpen(gateB)
	s := w.source("a")
	s.send(append(w.sessions("a", "new", 10*time.Second, 20, 0), w.mark("a", time.Minute))...)
	same(t, "the verdict in a", "pass", w.awaitDecision(gateA).GetVerdict())
	await(t, "the decision to be known", func() bool { return l.gate(gateA).GetDecision().GetVerdict() == "pass" })
	for name, test := range map[string]struct {
		request *gatev1.ListGatesRequest
		want    string
	}{
		"no filter":    {&gatev1.ListGatesRequest{}, gateB + " " + gateA},
		"rollout":      {&gatev1.ListGatesRequest{Rollout: "r-a"}, gateA},
		"cluster":      {&gatev1.ListGatesRequest{Cluster: "b"}, gateB},
		"decided":      {&gatev1.ListGatesRequest{Verdict: "pass"}, gateA},
		"open":         {&gatev1.ListGatesRequest{Verdict: "pending"}, gateB},
		"all together": {&gatev1.ListGatesRequest{Rollout: "r-a", Cluster: "a", Verdict: "pass"}, gateA},
		"none match":   {&gatev1.ListGatesRequest{Rollout: "r-a", Cluster: "b"}, ""},
	} {
		resp, err := l.gates.ListGates(t.Context(), test.request)
		if err != nil {
			t.Fatal(err)
		}
		same(t, name, test.want, ids(resp.GetGates()))
	}
	resp, err := l.gates.ListGates(t.Context(), &gatev1.ListGatesRequest{PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.gates.ListGates(t.Context(), &gatev1.ListGatesRequest{PageSize: 1, Cluster: "a", PageToken: resp.GetNextPageToken()})
	var e *errs.Error
	if !errors.As(err, &e) || e.ID != "LS-API-002" {
		t.Errorf("a token with other filters gave %v", err)
	}
}
