//go:build linux && amd64

package evaluator_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// driftEvents calls fn with every event of a cluster's drift, oldest first.
func (w *world) driftEvents(cluster fleet.ClusterID, fn func(m bus.Message, event *driftv1.Event)) {
	w.t.Helper()
	if err := w.bus.Load(w.t.Context(), topology.StreamEvents, topology.EventSubject(fleet.DefaultTenant, topology.NounDrift, string(cluster)), func(m bus.Message) error {
		var event driftv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return err
		}
		fn(m, &event)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
}

// after is how long after the first instant of a world something was, to read.
func (w *world) after(at time.Time) string { return at.Sub(w.step).String() }

// episodes tells the facts about episodes of drift of a cluster.
func (w *world) episodes(cluster fleet.ClusterID) []string {
	w.t.Helper()
	var out []string
	w.driftEvents(cluster, func(_ bus.Message, event *driftv1.Event) {
		for _, f := range event.GetFacts() {
			switch k := f.GetKind().(type) {
			case *driftv1.Fact_DriftOpened:
				out = append(out, fmt.Sprintf("%s opened %s", w.after(k.DriftOpened.GetAt().AsTime()), k.DriftOpened.GetState()))
			case *driftv1.Fact_DriftChanged:
				out = append(out, fmt.Sprintf("%s changed %s since %s", w.after(k.DriftChanged.GetAt().AsTime()), k.DriftChanged.GetState(), w.after(k.DriftChanged.GetOpenedAt().AsTime())))
			case *driftv1.Fact_DriftClosed:
				out = append(out, fmt.Sprintf("%s closed %s since %s", w.after(k.DriftClosed.GetAt().AsTime()), k.DriftClosed.GetState(), w.after(k.DriftClosed.GetOpenedAt().AsTime())))
			}
		}
	})
	return out
}

// told are the periods that a cluster's events tell, in order.
func (w *world) told(cluster fleet.ClusterID) []drift.Period {
	w.t.Helper()
	var out []drift.Period
	w.driftEvents(cluster, func(m bus.Message, event *driftv1.Event) {
		for _, f := range event.GetFacts() {
			if ended := f.GetPeriodEnded().GetPeriod(); ended != nil {
				if len(out) == 0 || !out[len(out)-1].Same(codec.PeriodFromProto(ended)) {
					w.t.Errorf("%s: the event at %d ends a period that did not begin", cluster, m.Sequence)
					continue
				}
				out[len(out)-1] = codec.PeriodFromProto(ended)
			}
			if began := f.GetPeriodBegan().GetPeriod(); began != nil {
				out = append(out, codec.PeriodFromProto(began))
			}
		}
	})
	for i := range out {
		out[i].Cluster = cluster
	}
	return out
}

// periods are those in the history of a cluster, in order.
func (w *world) periods(cluster fleet.ClusterID) []codec.Period {
	w.t.Helper()
	periods, err := w.store.Periods(w.t.Context(), fleet.DefaultTenant, []fleet.ClusterID{cluster}, codec.Span{}, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return periods
}

// awaitHistory waits until the history has taken in every event of some clusters.
func (w *world) awaitHistory(clusters ...fleet.ClusterID) {
	w.t.Helper()
	last := make(map[fleet.ClusterID]uint64)
	if err := w.bus.Load(w.t.Context(), topology.StreamEvents, topology.EventFilter(topology.NounDrift), func(m bus.Message) error {
		var event driftv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return err
		}
		for _, f := range event.GetFacts() {
			if f.GetPeriodBegan() != nil || f.GetPeriodEnded() != nil {
				last[fleet.ClusterID(event.GetCluster())] = m.Sequence
			}
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	for _, cluster := range clusters {
		await(w.t, "the history of "+string(cluster), func() bool { return w.store.stored(cluster) >= last[cluster] })
	}
}

// checkPeriods sees that the history of a cluster has no gap and no overlap and is
// what the events tell. Periods without length are in no history.
func (w *world) checkPeriods(cluster fleet.ClusterID) []codec.Period {
	w.t.Helper()
	w.awaitHistory(cluster)
	var want []string
	for _, p := range w.told(cluster) {
		if !p.Ended.Equal(p.Began) {
			want = append(want, w.period(p))
		}
	}
	var got []string
	rows := w.periods(cluster)
	for i, p := range rows {
		got = append(got, w.period(p.Period))
		switch last := i == len(rows)-1; {
		case last != p.Ended.IsZero():
			w.t.Errorf("%s: period %d of %d ends at %s", cluster, i+1, len(rows), p.Ended)
		case !last && !p.Ended.Equal(rows[i+1].Began):
			w.t.Errorf("%s: between %s and %s is a gap or an overlap", cluster, p.Ended, rows[i+1].Began)
		}
	}
	same(w.t, "the history of "+string(cluster), want, got)
	return rows
}

// period is one to read; times in a table are of milliseconds.
func (w *world) period(p drift.Period) string {
	ended := "on"
	if !p.Ended.IsZero() {
		ended = w.after(p.Ended.Truncate(time.Millisecond))
	}
	return fmt.Sprintf("%s–%s %s runs %s, is to run %q, %q takes it to %q, on the way %s → %s, because %q",
		w.after(p.Began.Truncate(time.Millisecond)), ended, p.State, drift.Describe(p.Running), p.Assigned, p.Rollout, p.Target, p.Edge.From, p.Edge.To, p.Reasons)
}

// forget deletes how far evaluators have come.
func (w *world) forget(consumers ...bus.Consumer) {
	w.t.Helper()
	for _, c := range consumers {
		if err := w.bus.DeleteConsumer(w.t.Context(), c.Stream, c.Durable); err != nil {
			w.t.Fatal(err)
		}
	}
}

// helm is what Helm declares of a cluster, as read now.
func (w *world) helm(cluster fleet.ClusterID, gateway, sra string) codec.Observation {
	return codec.Observation{Package: &fleet.Package{Cluster: cluster, ObservedAt: w.now(), Helm: []fleet.HelmRelease{{
		Name: "gw", Namespace: "akeyless", Chart: catalog.GatewayChart, ChartVersion: "1.0.0", Revision: 1, Status: "deployed",
		Versions: fleet.VersionSet{fleet.LineGateway: gateway, fleet.LineSRA: sra},
	}}}}
}

// holds is a mark that what was seen last still holds.
func (w *world) holds(cluster fleet.ClusterID, about fleet.Kind) codec.Observation {
	return codec.Observation{Mark: &fleet.Mark{Cluster: cluster, About: about, CompleteUntil: w.now()}}
}

// spring is a release that moves both lines.
func spring() catalog.Release {
	return catalog.Release{ID: "spring", Versions: fleet.VersionSet{fleet.LineGateway: "2", fleet.LineSRA: "2"}}
}

// quick are limits that a test can wait for.
func quick() drift.Limits {
	return drift.Limits{MixedWindow: 10 * time.Minute, DarkAfter: 30 * time.Minute, SplitAfter: 10 * time.Minute}
}

// Every episode is told once, and at its time, whatever happens to the evaluator
// between and while it is told.
func TestDriftIsToldOnce(t *testing.T) {
	t.Parallel()
	type step struct {
		after time.Duration
		see   func(w *world) []codec.Observation
		state string
	}
	run := func(gateway, sra string) func(w *world) []codec.Observation {
		return func(w *world) []codec.Observation { return []codec.Observation{w.inventory("paris", gateway, sra)} }
	}
	declare := func(gateway, sra, declared string) func(w *world) []codec.Observation {
		return func(w *world) []codec.Observation {
			return []codec.Observation{w.inventory("paris", gateway, sra), w.helm("paris", declared, declared)}
		}
	}
	marks := func(w *world) []codec.Observation {
		return []codec.Observation{w.holds("paris", fleet.KindInventory), w.holds("paris", fleet.KindPackage)}
	}
	steps := []step{
		{0, run("1", "1"), "locked"},
		{time.Minute, run("2", "1"), "stepping"},
		{10 * time.Minute, marks, "overdue"},
		{time.Minute, run("1", "1"), "locked"},
		{time.Minute, run("3", "3"), "drifted"},
		{time.Minute, declare("3", "3", "1"), ""},
		{10 * time.Minute, marks, "split"},
		{30 * time.Minute, nil, "dark"},
		{time.Minute, marks, "split"},
		{time.Minute, declare("2", "1", "1"), "stepping"},
		{time.Minute, run("2", "2"), "drifted"},
		{time.Minute, declare("1", "1", "1"), "locked"},
	}
	episodes := []string{
		"11m11s opened overdue", "12m11s closed locked since 11m11s",
		"13m11s opened drifted", "24m11s changed split since 13m11s", "54m11s changed dark since 13m11s", "55m11s changed split since 13m11s",
		"56m11s closed stepping since 13m11s",
		"57m11s opened drifted", "58m11s closed locked since 57m11s",
	}
	for name, way := range map[string]struct {
		// before and during happen at every step, during behind its message.
		before, during func(w *world, l *life) *life
		thrice         bool
		losesAcks      bool
	}{
		"undisturbed": {},
		"restarted before every step": {before: func(w *world, l *life) *life {
			l.stop()
			return w.start()
		}},
		"restarted in the middle of every step": {during: func(w *world, l *life) *life {
			l.stop()
			return w.start()
		}},
		"every position forgotten": {before: func(w *world, l *life) *life {
			l.stop()
			w.forget(consumers()...)
			return w.start()
		}},
		"every message thrice, every acknowledgement lost": {thrice: true, losesAcks: true},
		"another one at every step":                        {before: func(w *world, l *life) *life { w.start(); return l }},
		"taken over by one that stood by": {before: func() func(w *world, l *life) *life {
			// Who stands by has started a step ago and has got no observations since.
			var next *life
			return func(w *world, l *life) *life {
				if next == nil {
					next = w.start()
					return l
				}
				l.stop()
				l, next = next, nil
				await(w.t, "the take-over", func() bool { return l.meter.judged() == 1 })
				return l
			}
		}()},
		"restarted, acknowledgements": {losesAcks: true, during: func(w *world, l *life) *life { l.stop(); return w.start() }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "paris")
			w.config.Limits = quick()
			w.config.Releases = append(w.config.Releases, spring())
			if way.losesAcks {
				w.appended = func(bus.Message) error { return errors.New("the acknowledgement was lost") }
			}
			l := w.start()
			s := w.source("paris")
			want := []string{}
			for _, step := range steps {
				if way.before != nil {
					l = way.before(w, l)
				}
				w.advance(step.after)
				if step.see != nil {
					b := s.batch(step.see(w)...)
					w.awaitHandled(w.publish(b))
					if way.thrice {
						w.publish(b)
						w.awaitHandled(w.publish(b))
					}
				}
				// Who is away takes its absence for nobody's: what is dark now would be so later.
				if way.during != nil && step.see != nil {
					l = way.during(w, l)
				}
				if step.state != "" {
					want = append(want, step.state)
				}
				w.awaitStates("paris", want...)
			}
			w.awaitBeats()
			same(t, "states", want, w.states("paris"))
			same(t, "episodes", episodes, w.episodes("paris"))
			rows := w.checkPeriods("paris")

			// The history is a function of the events.
			l.stop()
			if err := w.store.Conn().Exec(t.Context(), "TRUNCATE TABLE drift_periods"); err != nil {
				t.Fatal(err)
			}
			w.store.lose()
			w.forget(topology.EvaluatorArchive())
			w.start()
			w.awaitHistory("paris")
			same(t, "the history told anew", rows, w.periods("paris"))
		})
	}
}

// awaitHandled waits until the messages up to these of the observation stream were
// handled, each by the evaluator of its partition.
func (w *world) awaitHandled(sequences ...uint64) {
	w.t.Helper()
	last := make(map[int]uint64)
	w.mu.Lock()
	for _, sequence := range sequences {
		partition := int(w.sent[sequence] % topology.Partitions)
		last[partition] = max(last[partition], sequence)
	}
	w.mu.Unlock()
	for partition, sequence := range last {
		c := topology.EvaluatorObservations(partition)
		await(w.t, fmt.Sprintf("the handling of message %d", sequence), func() bool {
			entry, err := w.bus.GetEntry(w.t.Context(), bus.Positions, c.Stream+"."+c.Durable)
			if err != nil {
				return false // nobody has handled anything yet
			}
			var at struct{ Sequence uint64 }
			if err := json.Unmarshal(entry.Value, &at); err != nil {
				w.t.Fatal(err)
			}
			return at.Sequence >= sequence
		})
	}
}

// Two changes at one instant leave a history without the period between them.
func TestChangesOfOneInstant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	w.start()
	s := w.source("paris")
	s.send(w.inventory("paris", "1", "1"))
	w.awaitStates("paris", "locked")
	w.advance(time.Minute)
	three, four := w.inventory("paris", "3", "3"), w.inventory("paris", "4", "4")
	four.Inventory.ObservedAt = three.Inventory.ObservedAt.Add(-time.Second)
	// The later one arrives first.
	s.send(four)
	w.awaitStates("paris", "locked", "drifted")
	s.send(three)
	await(t, "another period", func() bool { return len(w.told("paris")) == 3 })
	rows := w.checkPeriods("paris")
	same(t, "periods", 2, len(rows))
	same(t, "what runs at last", []string{"3"}, rows[1].Running[fleet.LineGateway])
}

// Clusters of every partition are watched. One whose rows cannot be stored does not
// make the others dark, and nor does it become so.
func TestAPartitionThatCannotBeStoredIsDarkForNobody(t *testing.T) {
	t.Parallel()
	var clusters []fleet.ClusterID
	for partition := range topology.Partitions {
		id := fleet.ClusterID("c-0")
		for i := 1; topology.Partition(id) != partition; i++ {
			id = fleet.ClusterID(fmt.Sprint("c-", i))
		}
		clusters = append(clusters, id)
	}
	w := newWorld(t, clusters...)
	w.start()
	sources := make(map[fleet.ClusterID]*source)
	for _, cluster := range clusters {
		sources[cluster] = w.source(cluster)
		sources[cluster].send(w.inventory(cluster, "1", "1"))
	}
	for _, cluster := range clusters {
		w.awaitStates(cluster, "locked")
	}
	bad := clusters[2]
	tries := make(chan struct{}, 1000)
	w.store.script(func(when string, records []codec.Record) error {
		if when == "before" && slices.ContainsFunc(records, func(r codec.Record) bool { return r.Cluster() == bad }) {
			tries <- struct{}{}
			return errors.New("disk full")
		}
		return nil
	})
	sources[bad].send(w.inventory(bad, "2", "2"))
	<-tries
	<-tries
	for range 3 {
		w.advance(90 * time.Second)
		for _, cluster := range clusters {
			if cluster != bad {
				w.awaitHandled(sources[cluster].send(w.inventory(cluster, "1", "1")))
			}
		}
		w.awaitBeats()
	}
	for _, cluster := range clusters {
		want := []string{"locked"}
		if cluster == bad { // What it reports is told all the same.
			want = append(want, "drifted")
		}
		same(t, "states of "+string(cluster), want, w.states(cluster))
	}
	// A neighbour that falls silent is dark all the same.
	w.advance(2 * time.Minute)
	w.awaitStates(clusters[0], "locked", "dark")
	w.store.script(nil)
	w.awaitHandled(sources[bad].send(w.holds(bad, fleet.KindInventory)))
	w.awaitBeats()
	same(t, "states of the one whose rows waited", []string{"locked", "drifted"}, w.states(bad))
}

// A state is told and a step is stopped before the rows are stored that say so. Who
// is killed in between has not told too much: the next one looks ahead before it
// judges, changes nothing back, and the decision comes out the same from the rows.
func TestWhatIsToldBeforeItsRowsStands(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	l := w.start()
	s, rome := w.source("paris"), w.source("rome")
	s.send(append(w.sessions("paris", "old", -500*time.Second, 100, 20), w.mark("paris", 0))...)
	rome.send(w.inventory("rome", "1", "1"))
	w.awaitStates("rome", "locked")
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	l.awaitBatches(2)
	refuse := func(when string, _ []codec.Record) error {
		if when == "before" {
			return errors.New("connection refused")
		}
		return nil
	}
	w.store.script(refuse)
	w.advance(time.Second)
	s.send(append(w.sessions("paris", "new", 10*time.Second, 30, 2), w.mark("paris", 300*time.Second))...)
	rome.send(w.inventory("rome", "2", "2"))
	w.awaitStates("rome", "locked", "drifted")
	same(t, "verdict", "fail", w.awaitDecision(gateID).GetVerdict())
	_, err := l.gates.ReplayGate(t.Context(), &gatev1.ReplayGateRequest{Id: gateID})
	refused(t, err, "LS-GAT-003", gateID, "try again")
	for range 2 {
		l.stop()
		l = w.start()
		w.awaitBeats()
	}
	same(t, "sessions stored so far", 100, w.store.count(t, "SELECT count() FROM session_events FINAL"))
	w.store.script(nil)
	l.replay(gateID)
	w.awaitBeats()
	same(t, "states", []string{"locked", "drifted"}, w.states("rome"))
	_, decisions := w.gateFacts(gateID)
	same(t, "decisions", 1, len(decisions))
	same(t, "sessions stored", 130, w.store.count(t, "SELECT count() FROM session_events FINAL"))
}

// Messages that come three times, the repeats with later sequences, leave the
// tables and the facts as they are.
func TestRepeatsLeaveNoTrace(t *testing.T) {
	t.Parallel()
	step := time.Now().UTC().Truncate(time.Minute)
	rows := make(map[bool]map[string][]string)
	var mu sync.Mutex
	t.Run("worlds", func(t *testing.T) {
		for _, thrice := range []bool{false, true} {
			t.Run(fmt.Sprint(thrice), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, "paris", "rome")
				w.step, w.clock = step, step.Add(11*time.Second)
				w.start()
				var sent []*observationv1.Batch
				sources := map[fleet.ClusterID]*source{"paris": w.source("paris"), "rome": w.source("rome")}
				for i, version := range []string{"1", "2", "1", "3"} {
					w.advance(time.Minute)
					for _, cluster := range []fleet.ClusterID{"paris", "rome"} {
						observations := []codec.Observation{
							w.inventory(cluster, version, version), w.helm(cluster, version, "1"), w.holds(cluster, fleet.KindPackage), w.mark(cluster, time.Duration(i)*time.Minute),
							{Registration: &fleet.Registration{Cluster: cluster, ObservedAt: w.now(), Bastions: []fleet.Bastion{{ID: "b", Version: version}}}},
							{Check: &fleet.Check{Cluster: cluster, At: w.now(), Name: "look", Kind: fleet.CheckEndpoint, OK: true}},
						}
						b := sources[cluster].batch(append(observations, w.sessions(cluster, fmt.Sprint("s", i, "-"), time.Duration(i)*time.Minute, 5, 2)...)...)
						sent = append(sent, b)
						last := w.publish(b)
						if thrice {
							w.publish(b)
							w.publish(sent[0])
							last = w.publish(b)
						}
						w.awaitHandled(last)
					}
				}
				w.awaitHistory("paris")
				w.awaitHistory("rome")
				tables := make(map[string][]string)
				for _, table := range []string{"inventory_instances", "session_events", "progress_marks", "packages", "checks", "registrations", "drift_periods"} {
					tables[table] = w.rows(table)
				}
				mu.Lock()
				defer mu.Unlock()
				rows[thrice] = tables
			})
		}
	})
	for table, want := range rows[false] {
		if len(want) == 0 {
			t.Errorf("there is nothing in %s", table)
		}
		same(t, table, want, rows[true][table])
	}
}

// rows are those of a table, without what tells of their arrival.
func (w *world) rows(table string) []string {
	w.t.Helper()
	rows, err := w.store.Conn().Query(w.t.Context(), "SELECT formatRow('JSONEachRow', * EXCEPT (stream_sequence, recorded_at, version)) AS row FROM "+table+" FINAL ORDER BY row")
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() {
		if err := rows.Close(); err != nil {
			w.t.Error(err)
		}
	}()
	var out []string
	for rows.Next() {
		var row string
		if err := rows.Scan(&row); err != nil {
			w.t.Fatal(err)
		}
		out = append(out, row)
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// One place under two names is told of both; one that goes on under another name is
// told to be renamed.
func TestTwins(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "old", "new", "left", "right", "other")
	l := w.start()
	at := func(cluster fleet.ClusterID, place string) codec.Observation {
		o := w.inventory(cluster, "1", "1")
		for i := range o.Inventory.Instances {
			o.Inventory.Instances[i].ID += fleet.InstanceID("-" + place)
			o.Inventory.Instances[i].StartedAt = w.step
		}
		return o
	}
	w.source("other").send(at("other", "elsewhere"))
	w.source("old").send(at("old", "place"))
	w.source("left").send(at("left", "twice"))
	w.source("right").send(at("right", "twice"))
	for _, cluster := range []fleet.ClusterID{"old", "left", "right", "other"} {
		w.awaitStates(cluster, "locked")
	}
	w.advance(time.Minute)
	w.source("new").send(at("new", "place"))
	w.awaitStates("new", "locked")
	w.advance(30 * time.Second) // Clusters are compared from time to time.
	said := func() map[string]string {
		out := make(map[string]string)
		for _, c := range l.clusters(&fleetv1.ListClustersRequest{}).GetClusters() {
			for _, text := range slices.Concat(c.GetReasons(), c.GetNotes()) {
				if strings.Contains(text, "instances") {
					out[c.GetId()] = text
				}
			}
		}
		return out
	}
	want := map[string]string{
		"left":  "the same instances report as cluster right too: one place is configured twice",
		"right": "the same instances report as cluster left too: one place is configured twice",
		"old":   "its instances now report as cluster new: it was probably renamed",
	}
	var got map[string]string
	await(t, "the comparison", func() bool { got = said(); return len(got) == len(want) })
	same(t, "what is said", want, got)
	if notes := l.clusters(&fleetv1.ListClustersRequest{Ids: []string{"left"}}).GetClusters()[0].GetNotes(); len(notes) != 1 {
		t.Errorf("what runs in two places has the notes %q", notes)
	}
	w.advance(time.Minute)
	w.awaitStates("old", "locked", "dark")
	if reasons := l.clusters(&fleetv1.ListClustersRequest{Ids: []string{"old"}}).GetClusters()[0].GetReasons(); len(reasons) < 2 {
		t.Errorf("the old name is dark because of %q alone", reasons)
	}
}

// A mix that ends out of sight led nowhere that is known.
func TestAMixThatGoesDarkLeadsNowhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	w.config.Releases = append(w.config.Releases, spring())
	w.start()
	s := w.source("paris")
	s.sees(w.inventory("paris", "1", "1"))
	w.advance(time.Minute)
	s.sees(w.inventory("paris", "2", "1"))
	w.advance(2 * time.Minute)
	w.awaitStates("paris", "locked", "stepping", "dark")
	edge := w.checkPeriods("paris")[1].Edge
	same(t, "where it came from", running(), edge.From)
	same(t, "where it led", fleet.VersionSet(nil), edge.To)
}

// What is declared is known whole, too, once a message is stored whole of which a
// part was stored when the evaluator died.
func TestAHalfStoredPackageIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	failed := make(chan struct{})
	once := sync.OnceFunc(func() { close(failed) })
	w.store.script(func(when string, records []codec.Record) error {
		if when != "before" {
			return nil
		}
		defer once()
		inventories := slices.DeleteFunc(slices.Clone(records), func(r codec.Record) bool { return r.Inventory == nil })
		return errors.Join(errors.New("connection reset"), w.store.Store.InsertRecords(w.t.Context(), inventories))
	})
	sequence := w.source("paris").send(w.inventory("paris", "1", "1"), w.helm("paris", "1", "1"))
	<-failed
	l.stop()
	// It is stored when the next one has read what there is.
	stored := make(chan struct{})
	w.store.script(func(when string, _ []codec.Record) error {
		if when == "before" {
			<-stored
		}
		return nil
	})
	l = w.start()
	same(t, "what is declared, before it is stored", 0, len(l.cluster("paris").GetDeclared().GetHelm()))
	close(stored)
	w.awaitHandled(sequence)
	same(t, "what is declared", 1, len(l.cluster("paris").GetDeclared().GetHelm()))
}
