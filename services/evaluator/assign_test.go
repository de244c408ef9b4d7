//go:build linux && amd64

package evaluator_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

// refused checks that an error has an id and names some things.
func refused(t *testing.T, err error, id string, names ...string) {
	t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.ID != id {
		t.Errorf("refused with %v, want %s", err, id)
		return
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s does not tell %q: %v", id, name, err)
		}
	}
}

// cluster is one of them, as it is now.
func (l *life) cluster(id string) *fleetv1.Cluster {
	l.w.t.Helper()
	found := l.clusters(&fleetv1.ListClustersRequest{Ids: []string{id}}).GetClusters()
	if len(found) != 1 {
		l.w.t.Fatalf("there are %d clusters %s", len(found), id)
	}
	return found[0]
}

func (l *life) assign(release string, clusters ...string) (*fleetv1.AssignReleaseResponse, error) {
	return l.fleet.AssignRelease(l.w.t.Context(), &fleetv1.AssignReleaseRequest{Clusters: clusters, Release: release, Reason: "it is time"})
}

// assignments are the releases that events say a cluster is to run, in order.
func (w *world) assignments(cluster fleet.ClusterID) []string {
	w.t.Helper()
	var out []string
	w.driftEvents(cluster, func(_ bus.Message, event *driftv1.Event) {
		for _, f := range event.GetFacts() {
			if a := f.GetReleaseAssigned(); a != nil {
				out = append(out, strings.TrimSpace(a.GetRelease()+" "+a.GetRollout()))
			}
		}
	})
	return out
}

func TestAssignRelease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome", "oslo")
	w.config.Releases = append(w.config.Releases, spring())
	l := w.start()
	for _, cluster := range []fleet.ClusterID{"paris", "rome"} {
		w.source(cluster).send(w.inventory(cluster, "1", "1"))
		w.awaitStates(cluster, "locked")
	}
	w.advance(time.Second)
	before := events(t, w)
	_, err := l.assign("autumn", "paris")
	refused(t, err, catalog.ProblemUnknownRelease, "autumn", "lockstep releases")
	_, err = l.assign("spring", "paris", "atlantis", "mu")
	refused(t, err, "LS-FLT-001", "atlantis", "mu")
	same(t, "events of what was refused", before, events(t, w))

	resp, err := l.assign("spring", "paris", "oslo")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the answer", `oslo winter→spring, paris winter→spring`, assigned(resp))
	w.awaitStates("paris", "locked", "drifted")
	same(t, "events of one call", []string{"spring"}, w.assignments("paris"))
	resp, err = l.assign("spring", "paris", "rome")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the answer to what is in part so already", `paris spring→spring, rome winter→spring`, assigned(resp))
	same(t, "events of what is so already", []string{"spring"}, w.assignments("paris"))

	// Nobody but a person takes it back, whatever the configuration says.
	l.stop()
	w.config.Clusters[0].Release = "winter"
	l = w.start()
	for _, cluster := range []string{"paris", "rome", "oslo"} {
		same(t, "release of "+cluster+" after a restart", "spring", l.cluster(cluster).GetAssignedRelease())
	}
	w.advance(time.Second)
	if resp, err = l.assign("", "rome"); err != nil {
		t.Fatal(err)
	}
	same(t, "the answer to none", `rome spring→`, assigned(resp))
	w.awaitStates("rome", "locked", "drifted", "unknown")
	l.stop()
	l = w.start()
	w.awaitBeats()
	same(t, "release of rome after a restart", "", l.cluster("rome").GetAssignedRelease())
	same(t, "states of rome", []string{"locked", "drifted", "unknown"}, w.states("rome"))
	same(t, "assignments of rome", []string{"spring", ""}, w.assignments("rome"))
}

func assigned(resp *fleetv1.AssignReleaseResponse) string {
	var out []string
	for _, c := range resp.GetClusters() {
		out = append(out, c.GetId()+" "+c.GetBefore()+"→"+c.GetRelease())
	}
	return strings.Join(out, ", ")
}

// What a cluster is to run follows from its rollout: while one moves it nobody else
// says so, and afterwards it is where the rollout left it, through every restart.
func TestRolloutsAssign(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]bool{"done": false, "rolled back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "paris", "rome")
			autumn := catalog.Release{ID: "autumn", Versions: running()}
			w.config.Releases = append(w.config.Releases, spring(), autumn)
			l := w.start()
			again := func() {
				l.stop()
				l = w.start()
			}
			s := w.source("paris")
			s.send(w.inventory("paris", "1", "1"))
			w.awaitStates("paris", "locked")
			// Something other than the configuration says, to go back to.
			if _, err := l.assign("autumn", "paris"); err != nil {
				t.Fatal(err)
			}
			w.advance(time.Second)
			again()
			id, gateID := w.apply("paris")
			w.awaitOpen(gateID)
			await(t, "the move", func() bool { return l.cluster("paris").GetRollout() == string(id) })
			for range 2 {
				same(t, "target", "spring", l.cluster("paris").GetTargetRelease())
				same(t, "release during the move", "autumn", l.cluster("paris").GetAssignedRelease())
				before := events(t, w)
				_, err := l.assign("winter", "paris", "rome")
				refused(t, err, "LS-FLT-005", "paris", string(id))
				same(t, "events of what was refused", before, events(t, w))
				again()
			}
			w.advance(time.Second)
			s.send(w.inventory("paris", "2", "1"))
			w.awaitStates("paris", "locked", "stepping")
			again()
			w.advance(time.Second)
			want, gateway := "spring", "2"
			if back {
				want, gateway = "autumn", "1"
				w.record(id, "paris", rollout.RollbackStarted{Reason: "the gate"})
				s.send(w.inventory("paris", "1", "1"))
				w.awaitStates("paris", "locked", "stepping", "locked")
				w.record(id, "paris", rollout.ClusterRestored{})
			} else {
				w.record(id, "paris", rollout.StepPassed{Step: "gateway"}, rollout.StepStarted{Step: "sra"})
				s.send(w.inventory("paris", "2", "2"))
				w.awaitStates("paris", "locked", "stepping", "locked")
				w.record(id, "paris", rollout.ClusterDone{Release: "spring", Package: "p2"})
			}
			await(t, "the end of the move", func() bool { return l.cluster("paris").GetRollout() == "" })
			for range 2 {
				c := l.cluster("paris")
				same(t, "release", want, c.GetAssignedRelease())
				same(t, "version that is assigned", gateway, c.GetLines()[0].GetAssigned())
				same(t, "state", "locked", c.GetState())
				again()
			}
			again()
			w.awaitBeats()
			same(t, "states", []string{"locked", "stepping", "locked"}, w.states("paris"))
			same(t, "assignments", []string{"autumn", want + " " + string(id)}, w.assignments("paris"))

			// Then a person may say otherwise, and the rollout's facts no longer matter.
			w.advance(time.Second)
			if _, err := l.assign("winter", "paris"); err != nil {
				t.Fatal(err)
			}
			l.stop()
			w.forget(consumers()...)
			l = w.start()
			w.awaitBeats()
			same(t, "release at last", "winter", l.cluster("paris").GetAssignedRelease())
		})
	}
}

// A release that is configured and not known says so, and is expected as soon as it
// is known.
func TestAReleaseIsLearnedLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	w.config.Clusters[0].Release = "autumn"
	l := w.start()
	w.source("paris").send(w.inventory("paris", "1", "1"))
	await(t, "what runs", func() bool { return len(l.cluster("paris").GetInstances()) == 2 })
	c := l.cluster("paris")
	same(t, "state", "unknown", c.GetState())
	same(t, "release", "autumn", c.GetAssignedRelease())
	if said := strings.Join(append(c.GetReasons(), c.GetNotes()...), "; "); !strings.Contains(said, "release autumn, which it is to run, is not in the catalogue") {
		t.Errorf("of a release that is not known it says %q", said)
	}
	if _, err := l.catalog.ImportReleases(t.Context(), &catalogv1.ImportReleasesRequest{Releases: []*catalogv1.Release{
		{Id: "autumn", Versions: map[string]string{"gateway": "1", "sra": "1"}},
	}}); err != nil {
		t.Fatal(err)
	}
	same(t, "state once it is known", "locked", l.cluster("paris").GetState())
	await(t, "the record of it", func() bool { s := w.states("paris"); return len(s) > 0 && s[len(s)-1] == "locked" })
	l.stop()
	l = w.start()
	same(t, "state after a restart", "locked", l.cluster("paris").GetState())
}
