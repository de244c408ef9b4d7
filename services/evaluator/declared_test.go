//go:build linux && amd64

package evaluator_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

func (l *life) apply(req *fleetv1.ApplyFleetRequest) ([]string, error) {
	resp, err := l.fleet.ApplyFleet(l.w.t.Context(), req)
	var out []string
	for _, c := range resp.GetChanges() {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", c.GetKind(), c.GetId(), c.GetAction(), strings.Join(c.GetLines(), ", "))))
	}
	return out, err
}

func (l *life) mustApply(req *fleetv1.ApplyFleetRequest) []string {
	l.w.t.Helper()
	changes, err := l.apply(req)
	if err != nil {
		l.w.t.Fatal(err)
	}
	return changes
}

// export is the document that declares the fleet as it is.
func (l *life) export() string {
	l.w.t.Helper()
	resp, err := l.fleet.ExportFleet(l.w.t.Context(), &fleetv1.ExportFleetRequest{})
	if err != nil {
		l.w.t.Fatal(err)
	}
	return resp.GetDocument()
}

// names are the clusters there are.
func (l *life) names() string {
	return ids(l.clusters(&fleetv1.ListClustersRequest{}).GetClusters())
}

const limits = "limits dark=2m0s mixed=1h0m0s split=1h0m0s"

// declaring is a world whose configuration has definitions.
func declaring(t *testing.T, clusters ...fleet.ClusterID) *world {
	t.Helper()
	w := newWorld(t, clusters...)
	for i, c := range w.config.Clusters {
		w.config.Clusters[i].Definition = "cluster " + string(c.ID)
	}
	w.config.LimitsDefinition = limits
	return w
}

// Whoever asks reaches whom he reaches: what is recorded through an evaluator that
// stands by is judged by the one that gets the observations, at once.
func TestWhatIsDeclaredThroughAnother(t *testing.T) {
	t.Parallel()
	w := declaring(t, "paris")
	l := w.start()
	await(t, "who judges", func() bool { return l.meter.judged() == 1 })
	other := w.start()
	w.source("paris").send(w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked")
	other.mustApply(&fleetv1.ApplyFleetRequest{Document: `
release spring gateway=2 sra=2
cluster paris
cluster rome release=spring
` + limits})
	w.source("rome").send(w.inventory("rome", "2", "2"))
	w.awaitStates("rome", "locked")
	w.advance(time.Second)
	if _, err := other.assign("spring", "paris"); err != nil {
		t.Fatal(err)
	}
	w.awaitStates("paris", "locked", "drifted")
	for _, one := range []*life{l, other} {
		await(t, "what both know", func() bool {
			c := one.cluster("paris")
			return c.GetState() == "drifted" && c.GetAssignedRelease() == "spring" && one.names() == "paris rome"
		})
	}
}

func TestApplyFleet(t *testing.T) {
	t.Parallel()
	w := declaring(t, "paris")
	l := w.start()
	w.source("paris").send(w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked")
	document := &fleetv1.ApplyFleetRequest{Reason: "we grow", DryRun: true, Document: `
release spring gateway=2 sra=2
server listen=:8080
cluster paris env=prod window=30m0s
cluster rome release=spring env=test
` + limits}
	changes := []string{
		"release spring created + gateway: 2, + sra: 2",
		"cluster paris updated + env=prod, + window=30m0s",
		"cluster rome created + cluster, + rome, + env=test, + release: spring",
		"drift  unchanged",
	}
	before := events(t, w)
	same(t, "a dry run", changes, l.mustApply(document))
	same(t, "events of a dry run", before, events(t, w))
	same(t, "clusters after a dry run", "paris", l.names())
	document.DryRun = false
	same(t, "the document", changes, l.mustApply(document))

	// It is watched at once, and after a restart.
	rome := w.source("rome")
	rome.send(w.inventory("rome", "2", "2"))
	w.awaitStates("rome", "locked")
	check := func(when string) {
		t.Helper()
		same(t, "clusters "+when, "paris rome", l.names())
		same(t, "labels "+when, map[string]string{"env": "prod"}, l.cluster("paris").GetLabels())
		same(t, "release "+when, "spring", l.cluster("rome").GetAssignedRelease())
		same(t, "state "+when, "locked", l.cluster("rome").GetState())
		unchanged := []string{"release spring unchanged", "cluster paris unchanged", "cluster rome unchanged", "drift  unchanged"}
		before := events(t, w)
		same(t, "the document again "+when, unchanged, l.mustApply(document))
		same(t, "the export "+when, `release spring gateway=2 sra=2
release winter gateway=1 sra=1
cluster paris env=prod window=30m0s release=winter
cluster rome env=test release=spring
`+limits+"\n", l.export())
		for _, change := range l.mustApply(&fleetv1.ApplyFleetRequest{Document: l.export(), Prune: true, DryRun: true}) {
			if !strings.HasSuffix(change, "unchanged") {
				t.Errorf("%s, what was exported changes something: %s", when, change)
			}
		}
		same(t, "events "+when, before, events(t, w))
	}
	check("at once")
	l.stop()
	l = w.start()
	check("after a restart")

	// The window is the cluster's own.
	l.stop()
	w.config.Limits.DarkAfter = 3 * time.Hour
	l = w.start()
	paris := w.source("paris")
	paris.sequence = 1
	w.advance(time.Minute)
	paris.send(w.inventory("paris", "2", "1"))
	w.awaitStates("paris", "locked", "stepping")
	same(t, "the window", 30*time.Minute, l.cluster("paris").GetWindow().AsDuration())

	// Other limits change states at once, and after a restart.
	changes = l.mustApply(&fleetv1.ApplyFleetRequest{Document: "limits mixed=1h0m0s dark=10m0s split=1h0m0s cap=1h"})
	same(t, "other limits", []string{"drift  updated - dark=2m0s, + cap=1h, + dark=10m0s"}, changes)
	w.advance(10 * time.Minute)
	w.awaitStates("paris", "locked", "stepping", "dark")
	l.stop()
	l = w.start()
	w.awaitBeats()
	same(t, "states after a restart", []string{"locked", "stepping", "dark"}, w.states("paris"))
}

func TestApplyFleetRefuses(t *testing.T) {
	t.Parallel()
	w := declaring(t, "paris", "rome")
	w.config.Releases = append(w.config.Releases, spring())
	l := w.start()
	l.mustApply(&fleetv1.ApplyFleetRequest{Document: "cluster rome env=test\ncluster oslo"})
	for _, cluster := range []fleet.ClusterID{"paris", "oslo"} {
		_, gateID := w.apply(cluster)
		w.awaitOpen(gateID)
		await(t, "the move of "+string(cluster), func() bool { return l.cluster(string(cluster)).GetRollout() != "" })
	}
	before := events(t, w)
	for name, c := range map[string]struct {
		req   *fleetv1.ApplyFleetRequest
		id    string
		names []string
	}{
		"unknown releases":   {&fleetv1.ApplyFleetRequest{Document: "cluster rome release=autumn\ncluster lima release=fall"}, "LS-FLT-002", []string{"autumn of cluster rome", "fall of cluster lima"}},
		"a busy cluster":     {&fleetv1.ApplyFleetRequest{Document: "cluster paris env=prod\ncluster rome env=prod"}, "LS-FLT-003", []string{"paris (rollout r-paris)"}},
		"a busy release":     {&fleetv1.ApplyFleetRequest{Document: "cluster paris release=spring"}, "LS-FLT-003", []string{"paris"}},
		"pruning a busy one": {&fleetv1.ApplyFleetRequest{Document: "cluster rome env=test", Prune: true}, "LS-FLT-003", []string{"oslo (rollout r-oslo)"}},
		"a bad release":      {&fleetv1.ApplyFleetRequest{Document: "release NO sra=1"}, "LS-CAT-001", []string{"NO"}},
	} {
		for _, dry := range []bool{true, false} {
			c.req.DryRun = dry
			_, err := l.apply(c.req)
			refused(t, err, c.id, c.names...)
		}
		same(t, "events of "+name, before, events(t, w))
	}
	if _, err := l.apply(&fleetv1.ApplyFleetRequest{Document: "nonsense"}); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("nonsense gave %v", err)
	}
	// What is busy and stays as it is stands in nobody's way.
	same(t, "a busy one that stays", []string{"cluster paris unchanged", "cluster rome updated - env=test"},
		l.mustApply(&fleetv1.ApplyFleetRequest{Document: "cluster paris\ncluster rome"}))
}

func TestPrune(t *testing.T) {
	t.Parallel()
	w := declaring(t, "paris")
	l := w.start()
	l.mustApply(&fleetv1.ApplyFleetRequest{Document: "cluster paris env=prod\ncluster rome release=winter\ncluster oslo release=winter"})
	rome, paris := w.source("rome"), w.source("paris")
	rome.send(w.inventory("rome", "3", "3"))
	paris.send(w.inventory("paris", "1", "1"))
	w.awaitStates("rome", "drifted")
	w.awaitStates("paris", "locked")
	w.advance(time.Minute)
	gone := w.now()
	same(t, "without prune", []string{"cluster oslo unchanged"}, l.mustApply(&fleetv1.ApplyFleetRequest{Document: "cluster oslo"}))
	same(t, "with prune", []string{"cluster oslo unchanged", "cluster paris removed - env=prod", "cluster rome removed - cluster, - rome"},
		l.mustApply(&fleetv1.ApplyFleetRequest{Document: "cluster oslo", Prune: true}))
	for range 2 {
		// The configuration's own is as it was, and what was seen of it is known.
		same(t, "clusters", "oslo paris", l.names())
		same(t, "labels", 0, len(l.cluster("paris").GetLabels()))
		same(t, "state", "locked", l.cluster("paris").GetState())
		l.stop()
		l = w.start()
	}
	// What still comes of the removed one is passed over.
	before := w.store.count(t, "SELECT count() FROM inventory_instances FINAL WHERE cluster = 'rome'")
	w.awaitHandled(rome.send(w.inventory("rome", "2", "2")), paris.send(w.inventory("paris", "1", "1")))
	same(t, "rows of what was removed", before, w.store.count(t, "SELECT count() FROM inventory_instances FINAL WHERE cluster = 'rome'"))
	// Its history ended when it was removed.
	same(t, "states of what was removed", []string{"drifted", "unknown"}, w.states("rome"))
	if told := w.episodes("rome"); len(told) != 2 || !strings.HasPrefix(told[1], w.after(gone)+" closed unknown") {
		t.Errorf("the episode of what was removed is told as %q", told)
	}
	await(t, "the end of its history", func() bool {
		return w.store.count(t, "SELECT countIf(ended_at = 0) FROM drift_periods FINAL WHERE cluster = 'rome'") == 0
	})
	_, err := l.assign("winter", "rome")
	refused(t, err, "LS-FLT-001", "rome")

	// Declared again it is watched again, with a release from the first moment on.
	w.advance(time.Minute)
	l.mustApply(&fleetv1.ApplyFleetRequest{Document: "release spring gateway=2 sra=2\ncluster rome release=spring"})
	rome.send(w.inventory("rome", "2", "2"))
	await(t, "the first judgement", func() bool { return len(l.cluster("rome").GetInstances()) == 2 })
	same(t, "its state", "locked", l.cluster("rome").GetState())
	same(t, "its release", "spring", l.cluster("rome").GetAssignedRelease())
	w.awaitStates("rome", "drifted", "unknown", "locked")
	w.awaitHistory("rome")
	rows := w.periods("rome")
	if len(rows) != 2 || !rows[0].Ended.Equal(gone) || !rows[1].Began.Equal(w.now()) || !rows[1].Ended.IsZero() {
		t.Errorf("the history of what was away for a minute is %v", rows)
	}
}

// A start that does not find a cluster declared any more ends its history, and its
// episode.
func TestAClusterThatIsConfiguredNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	l := w.start()
	w.source("rome").send(w.inventory("rome", "9", "9"))
	w.awaitStates("rome", "drifted")
	l.stop()
	w.config.Clusters = w.config.Clusters[:1]
	w.advance(time.Minute)
	l = w.start()
	w.awaitStates("rome", "drifted", "unknown")
	await(t, "the end of its history", func() bool {
		return w.store.count(t, "SELECT countIf(ended_at = 0) FROM drift_periods FINAL WHERE cluster = 'rome'") == 0
	})
	l.stop()
	w.start()
	w.awaitBeats()
	same(t, "states after another start", []string{"drifted", "unknown"}, w.states("rome"))
}

// Of two that apply documents at once the second is told; the document is applied
// again, and all is well. What was applied though the acknowledgement was lost is
// known in a moment.
func TestApplyFleetAtOnce(t *testing.T) {
	t.Parallel()
	w := declaring(t, "paris")
	first := w.start()
	second := w.startBeaten(topology.NounFleet, func() { first.mustApply(&fleetv1.ApplyFleetRequest{Document: "cluster rome"}) })
	_, err := second.apply(&fleetv1.ApplyFleetRequest{Document: "cluster oslo"})
	refused(t, err, "LS-FLT-004")
	same(t, "what the second knows then", "paris rome", second.names())
	same(t, "the second try", []string{"cluster oslo created + cluster, + oslo"}, second.mustApply(&fleetv1.ApplyFleetRequest{Document: "cluster oslo"}))
	first.stop()
	second.stop()

	var lost atomic.Bool
	w.appended = func(m bus.Message) error {
		if noun, _, _ := topology.EventNoun(m.Subject); noun == topology.NounFleet && lost.CompareAndSwap(false, true) {
			return errors.New("the acknowledgement was lost")
		}
		return nil
	}
	l := w.start()
	if _, err := l.apply(&fleetv1.ApplyFleetRequest{Document: "cluster lima"}); err == nil {
		t.Error("a lost acknowledgement is no error")
	}
	await(t, "what was applied", func() bool { return l.names() == "lima oslo paris rome" })
	same(t, "the next try", []string{"cluster lima unchanged"}, l.mustApply(&fleetv1.ApplyFleetRequest{Document: "cluster lima"}))
	same(t, "clusters", "lima oslo paris rome", l.names())
}

// A document of more clusters than one event holds is there as a whole after a
// restart.
func TestALargeDocument(t *testing.T) {
	t.Parallel()
	w := declaring(t)
	l := w.start()
	var document strings.Builder
	for i := range 450 {
		fmt.Fprintf(&document, "cluster c-%03d env=e%d\n", i, i%3)
	}
	same(t, "changes", 450, len(l.mustApply(&fleetv1.ApplyFleetRequest{Document: document.String()})))
	l.stop()
	l = w.start()
	same(t, "clusters of one label", 150, len(l.clusters(&fleetv1.ListClustersRequest{LabelSelector: "env=e1", PageSize: 1000}).GetClusters()))
	resp, err := l.fleet.ApplyFleet(t.Context(), &fleetv1.ApplyFleetRequest{Document: "section one\nsecret two\n" + document.String()})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "passed over", []string{"section", "secret"}, resp.GetPassedOver())
}
