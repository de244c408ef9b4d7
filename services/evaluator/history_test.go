//go:build linux && amd64

package evaluator_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	"github.com/lockstep-fleet/lockstep/topology"
)

// sees is the next message of a source, and returns once it was handled.
func (s *source) sees(observations ...codec.Observation) {
	s.w.t.Helper()
	s.w.awaitHandled(s.send(observations...))
}

func TestClustersAsTheyWere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome", "late")
	w.config.Clusters[0].Labels = map[string]string{"env": "prod"}
	w.config.Limits = quick()
	l := w.start()
	// What is known of an instant was recorded by then: the bus must not be ahead.
	w.advance(5 * time.Minute)
	began := w.now()
	paris, rome := w.source("paris"), w.source("rome")
	paris.sees(w.inventory("paris", "1", "1"))
	rome.sees(w.inventory("rome", "1", "1"))
	w.advance(time.Minute)
	paris.sees(w.inventory("paris", "3", "1"))
	w.advance(time.Minute)
	paris.sees(w.inventory("paris", "1", "1"))
	rome.sees(w.inventory("rome", "1", "1"))
	w.awaitStates("paris", "locked", "drifted", "locked")
	w.awaitStates("rome", "locked")
	w.awaitHistory("paris", "rome")
	for name, c := range map[string]struct {
		after time.Duration
		req   *fleetv1.ListClustersRequest
		want  string
	}{
		"before the first":    {-time.Second, &fleetv1.ListClustersRequest{}, ""},
		"at the first":        {0, &fleetv1.ListClustersRequest{}, "paris locked, rome locked"},
		"before the change":   {time.Minute - time.Millisecond, &fleetv1.ListClustersRequest{}, "paris locked, rome locked"},
		"at the change":       {time.Minute, &fleetv1.ListClustersRequest{}, "paris drifted, rome locked"},
		"in the middle":       {90 * time.Second, &fleetv1.ListClustersRequest{}, "paris drifted, rome locked"},
		"now":                 {2 * time.Minute, &fleetv1.ListClustersRequest{}, "paris locked, rome locked"},
		"by state":            {90 * time.Second, &fleetv1.ListClustersRequest{States: []string{"drifted"}}, "paris drifted"},
		"by version":          {90 * time.Second, &fleetv1.ListClustersRequest{Versions: []string{"gateway=1"}}, "rome locked"},
		"by id":               {90 * time.Second, &fleetv1.ListClustersRequest{Ids: []string{"rome", "nowhere"}}, "rome locked"},
		"by label":            {90 * time.Second, &fleetv1.ListClustersRequest{LabelSelector: "env"}, "paris drifted"},
		"by release":          {90 * time.Second, &fleetv1.ListClustersRequest{Release: "winter"}, "paris drifted, rome locked"},
		"by another release":  {90 * time.Second, &fleetv1.ListClustersRequest{Release: "spring"}, ""},
		"by state of another": {90 * time.Second, &fleetv1.ListClustersRequest{States: []string{"dark"}}, ""},
	} {
		c.req.AsOf = timestamppb.New(began.Add(c.after))
		var got []string
		for _, m := range l.clusters(c.req).GetClusters() {
			got = append(got, m.GetId()+" "+m.GetState())
		}
		same(t, name, c.want, strings.Join(got, ", "))
	}
	page := l.clusters(&fleetv1.ListClustersRequest{AsOf: timestamppb.New(began), PageSize: 1})
	same(t, "the first page", "paris", ids(page.GetClusters()))
	same(t, "the second page", "rome", ids(l.clusters(&fleetv1.ListClustersRequest{AsOf: timestamppb.New(began), PageSize: 1, PageToken: page.GetNextPageToken()}).GetClusters()))
	same(t, "instances of one that is named", 2, len(l.clusters(&fleetv1.ListClustersRequest{AsOf: timestamppb.New(w.now()), Ids: []string{"paris"}}).GetClusters()[0].GetInstances()))
	_, err := l.fleet.ListClusters(t.Context(), &fleetv1.ListClustersRequest{AsOf: timestamppb.New(w.now().Add(time.Second))})
	refused(t, err, "LS-FLT-007", "future")
	_, err = l.fleet.ListClusters(t.Context(), &fleetv1.ListClustersRequest{LabelSelector: "env in prod"})
	refused(t, err, "LS-FLT-006")
}

func TestClustersAreChosenByLabelAndVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome", "oslo")
	for i, labels := range []map[string]string{{"env": "prod", "tier": "1"}, {"env": "prod"}, {"env": "test"}} {
		w.config.Clusters[i].Labels = labels
	}
	l := w.start()
	for cluster, version := range map[fleet.ClusterID]string{"paris": "1", "rome": "3", "oslo": "3"} {
		w.source(cluster).sees(w.inventory(cluster, version, "1"))
	}
	for name, c := range map[string]struct {
		req  *fleetv1.ListClustersRequest
		want string
	}{
		"equal":          {&fleetv1.ListClustersRequest{LabelSelector: "env=prod"}, "paris rome"},
		"several":        {&fleetv1.ListClustersRequest{LabelSelector: "env in (prod, test),!tier"}, "oslo rome"},
		"unequal":        {&fleetv1.ListClustersRequest{LabelSelector: "env!=prod"}, "oslo"},
		"version":        {&fleetv1.ListClustersRequest{Versions: []string{"3"}}, "oslo rome"},
		"line's version": {&fleetv1.ListClustersRequest{Versions: []string{"sra=3", "gateway=1"}}, "paris"},
		"all of it":      {&fleetv1.ListClustersRequest{LabelSelector: "env=prod", Versions: []string{"gateway=3"}, States: []string{"drifted"}, Release: "winter"}, "rome"},
	} {
		same(t, name, c.want, ids(l.clusters(c.req).GetClusters()))
	}
	client, ended := l.serve()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := fleetv1connect.NewFleetServiceClient(client).WatchClusters(ctx, &fleetv1.WatchClustersRequest{LabelSelector: "env=prod", Versions: []string{"gateway=3"}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Receive()
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the watch", "rome", ids(m.GetClusters()))
	w.advance(time.Second)
	other := w.source("rome")
	other.incarnation = "other"
	other.sees(w.inventory("rome", "1", "1"))
	if m, err = stream.Receive(); err != nil {
		t.Fatal(err)
	}
	same(t, "what is gone", []string{"rome"}, m.GetGone())
	cancel()
	awaitEnd(t, ended)
}

// eight is a world with a cluster in each of the eight states, named for it.
func eight(t *testing.T) (w *world, l *life, sources map[fleet.ClusterID]*source) {
	t.Helper()
	var clusters []fleet.ClusterID
	for _, state := range drift.States() {
		clusters = append(clusters, fleet.ClusterID(state))
	}
	w = newWorld(t, clusters...)
	w.config.Limits = quick()
	w.config.Releases = append(w.config.Releases, spring())
	l = w.start()
	sources = make(map[fleet.ClusterID]*source)
	for _, cluster := range clusters {
		sources[cluster] = w.source(cluster)
		if cluster != "unknown" {
			sources[cluster].sees(w.inventory(cluster, "1", "1"))
			w.awaitStates(cluster, "locked")
		}
	}
	w.advance(20 * time.Minute)
	l.mustImport(false, chart("1.0.0", "5.0.0", "3.0.0"), chart("1.1.0", "5.0.0", "3.1.0"), chart("1.2.0", "5.0.0", "3.0.0"))
	for _, cluster := range []fleet.ClusterID{"locked", "stepping", "drifted"} {
		sources[cluster].sees(w.inventory(cluster, "1", "1"))
	}
	sources["withdrawn"].sees(w.inventory("withdrawn", "5.0.0", "3.1.0"))
	sources["overdue"].sees(w.inventory("overdue", "2", "1"))
	sources["split"].sees(w.inventory("split", "1", "1"), w.helm("split", "3", "3"))
	w.advance(10 * time.Minute)
	sources["overdue"].sees(w.holds("overdue", fleet.KindInventory))
	sources["split"].sees(w.holds("split", fleet.KindInventory), w.holds("split", fleet.KindPackage))
	sources["stepping"].sees(w.inventory("stepping", "1", "2"))
	sources["drifted"].sees(w.inventory("drifted", "3", "1"))
	w.awaitStates("overdue", "locked", "stepping", "overdue")
	w.awaitStates("dark", "locked", "dark")
	// A moment later than what was silent for as long as may be.
	for _, c := range l.clusters(&fleetv1.ListClustersRequest{}).GetClusters() {
		same(t, "state", c.GetId(), c.GetState())
	}
	return w, l, sources
}

func TestEveryStateIsExplained(t *testing.T) {
	t.Parallel()
	w, l, _ := eight(t)
	for _, state := range drift.States() {
		resp, err := l.drift.ExplainDrift(t.Context(), &driftv1.ExplainDriftRequest{Cluster: string(state)})
		if err != nil {
			t.Fatal(err)
		}
		lines := resp.GetLines()
		if len(lines) == 0 || len(lines) > 10 {
			t.Fatalf("%s is explained in %d lines", state, len(lines))
		}
		for _, line := range lines {
			if strings.TrimSpace(line.GetText()) == "" || line.GetAbout() == "" || strings.Contains(line.GetText(), "\n") {
				t.Errorf("%s: a line about %q says %q", state, line.GetAbout(), line.GetText())
			}
		}
		if first, last := lines[0], lines[len(lines)-1]; !strings.HasPrefix(first.GetText(), fmt.Sprintf("%s is %s", state, state)) || last.GetAbout() != "next" {
			t.Errorf("%s begins with %q and ends with %q", state, first.GetText(), last.GetText())
		}
		same(t, "the cluster", string(state), resp.GetCluster().GetState())
	}
	_, err := l.drift.ExplainDrift(t.Context(), &driftv1.ExplainDriftRequest{Cluster: "atlantis"})
	refused(t, err, "LS-FLT-001", "atlantis")
	w.awaitBeats()
}

func TestListDrifts(t *testing.T) {
	t.Parallel()
	w, l, sources := eight(t)
	list := func(req *driftv1.ListDriftsRequest) (string, string) {
		t.Helper()
		resp, err := l.drift.ListDrifts(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, d := range resp.GetDrifts() {
			text := d.GetCluster() + " " + strings.Join(d.GetStates(), "→")
			if d.GetClosedAt() != nil {
				text += fmt.Sprint(" for ", d.GetClosedAt().AsTime().Sub(d.GetOpenedAt().AsTime()))
			}
			if len(d.GetReasons()) == 0 || d.GetAssignedRelease() != "winter" {
				t.Errorf("an episode without its reasons or its release: %v", d)
			}
			out = append(out, text)
		}
		return strings.Join(out, ", "), resp.GetNextPageToken()
	}
	check := func(what, want string, req *driftv1.ListDriftsRequest) {
		t.Helper()
		got, _ := list(req)
		same(t, what, want, got)
	}
	for range 2 {
		check("open ones", "dark dark, drifted drifted, overdue overdue, split split, withdrawn withdrawn", &driftv1.ListDriftsRequest{})
		check("of states", "drifted drifted, overdue overdue", &driftv1.ListDriftsRequest{States: []string{"overdue", "drifted"}})
		check("of clusters", "dark dark", &driftv1.ListDriftsRequest{Clusters: []string{"dark", "locked"}})
		check("of no label", "", &driftv1.ListDriftsRequest{LabelSelector: "env"})
		l.stop()
		l = w.start()
	}
	w.awaitHistory("drifted", "overdue", "split", "dark", "withdrawn")
	w.advance(time.Minute)
	sources["drifted"].sees(w.inventory("drifted", "1", "1"))
	sources["overdue"].sees(w.inventory("overdue", "2", "2"))
	w.awaitStates("drifted", "locked", "drifted", "locked")
	w.awaitStates("overdue", "locked", "stepping", "overdue", "drifted")
	closed := w.now()
	check("what is over, at once", "dark dark, drifted drifted for 1m0s, split split, withdrawn withdrawn", &driftv1.ListDriftsRequest{
		Since: timestamppb.New(closed.Add(-time.Minute)), Clusters: []string{"dark", "drifted", "split", "withdrawn"},
	})
	w.awaitHistory("drifted", "overdue", "split", "dark", "withdrawn")
	w.advance(time.Second)
	check("open ones after that", "dark dark, overdue drifted, split split, withdrawn withdrawn", &driftv1.ListDriftsRequest{})
	all := &driftv1.ListDriftsRequest{Since: timestamppb.New(w.step)}
	want := "dark dark, drifted drifted for 1m0s, overdue overdue→drifted, split split, withdrawn withdrawn"
	check("all", want, all)
	check("those since they were over", "dark dark, overdue overdue→drifted, split split, withdrawn withdrawn", &driftv1.ListDriftsRequest{Since: timestamppb.New(closed.Add(time.Millisecond))})
	var pages []string
	for {
		all.PageSize = 2
		page, next := list(all)
		pages = append(pages, page)
		if all.PageToken = next; next == "" {
			break
		}
	}
	same(t, "all, in pages", want, strings.Join(pages, ", "))
	same(t, "pages", 3, len(pages))
	_, err := l.drift.ListDrifts(t.Context(), &driftv1.ListDriftsRequest{Since: timestamppb.New(w.now().Add(time.Hour))})
	refused(t, err, "LS-DRF-001")

	periods := func(req *driftv1.ListPeriodsRequest) string {
		t.Helper()
		req.Cluster = "overdue"
		resp, err := l.drift.ListPeriods(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range resp.GetPeriods() {
			out = append(out, p.GetState())
		}
		return strings.Join(out, " ")
	}
	same(t, "periods", "drifted overdue stepping locked", periods(&driftv1.ListPeriodsRequest{}))
	same(t, "the newest", "drifted overdue", periods(&driftv1.ListPeriodsRequest{PageSize: 2}))
	same(t, "those of a span", "overdue stepping", periods(&driftv1.ListPeriodsRequest{From: timestamppb.New(closed.Add(-6 * time.Minute)), To: timestamppb.New(closed)}))
	_, err = l.drift.ListPeriods(t.Context(), &driftv1.ListPeriodsRequest{Cluster: "atlantis"})
	refused(t, err, "LS-FLT-001")
}

// What a small history adds up to, as the API tells it.
func TestFigures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	w.config.Releases = append(w.config.Releases, spring())
	l := w.start()
	noon := w.step.Add(-48 * time.Hour).Truncate(24 * time.Hour).Add(12 * time.Hour)
	one, two := fleet.VersionSet{fleet.LineGateway: "1"}, fleet.VersionSet{fleet.LineGateway: "2"}
	var sequence uint64
	period := func(cluster fleet.ClusterID, from, to time.Duration, state drift.State, release fleet.ReleaseID, versions ...string) codec.Period {
		sequence++
		p := codec.Period{StreamSequence: sequence, RecordedAt: w.step, Period: drift.Period{
			Cluster: cluster, Began: noon.Add(from), State: state, Assigned: release, Running: map[fleet.Line][]string{fleet.LineGateway: versions},
		}}
		if to > 0 {
			p.Ended = noon.Add(to)
		}
		if p.Mixed() {
			p.Edge = drift.Edge{From: one, To: two}
		}
		return p
	}
	const minute = time.Minute
	if err := w.store.Store.InsertPeriods(t.Context(), fleet.DefaultTenant, []codec.Period{
		period("paris", -60*minute, 0*minute+1, drift.Locked, "winter", "1"),
		period("paris", 0, 10*minute, drift.Stepping, "spring", "1", "2"),
		period("paris", 10*minute, 30*minute, drift.Overdue, "spring", "1", "2"),
		period("paris", 30*minute, 0, drift.Locked, "spring", "2"),
		period("rome", -60*minute, 60*minute, drift.Locked, "winter", "1"),
		period("rome", 60*minute, 65*minute, drift.Stepping, "spring", "1", "2"),
		period("rome", 65*minute, 0, drift.Locked, "spring", "2"),
	}); err != nil {
		t.Fatal(err)
	}
	from, to := timestamppb.New(noon.Add(-30*minute)), timestamppb.New(noon.Add(90*minute))
	mixed := func(req *driftv1.SumMixedTimeRequest) []string {
		t.Helper()
		resp, err := l.drift.SumMixedTime(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range resp.GetRows() {
			out = append(out, fmt.Sprintf("%s %s %s %d %s", r.GetKey(), r.GetInside().AsDuration(), r.GetOutside().AsDuration(), r.GetMixes(), r.GetLongest().AsDuration()))
		}
		return out
	}
	same(t, "by cluster", []string{"paris 10m0s 20m0s 1 30m0s", "rome 5m0s 0s 1 5m0s"}, mixed(&driftv1.SumMixedTimeRequest{}))
	same(t, "the first", []string{"paris 10m0s 20m0s 1 30m0s"}, mixed(&driftv1.SumMixedTimeRequest{Limit: 1}))
	same(t, "of all", []string{" 15m0s 20m0s 2 30m0s"}, mixed(&driftv1.SumMixedTimeRequest{Group: "all"}))
	same(t, "by edge", []string{"gateway=1 → gateway=2 15m0s 20m0s 2 30m0s"}, mixed(&driftv1.SumMixedTimeRequest{Group: "edge"}))
	same(t, "of a span", []string{"paris 0s 10m0s 1 10m0s"}, mixed(&driftv1.SumMixedTimeRequest{From: timestamppb.New(noon.Add(20 * minute)), To: timestamppb.New(noon.Add(50 * minute))}))
	_, err := l.drift.SumMixedTime(t.Context(), &driftv1.SumMixedTimeRequest{From: to, To: from})
	refused(t, err, "LS-DRF-001")

	adoption, err := l.drift.SumAdoption(t.Context(), &driftv1.SumAdoptionRequest{Line: "gateway", From: from, To: to, Step: durationpb.New(30 * minute)})
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]string)
	for _, r := range adoption.GetRows() {
		at := r.GetAt().AsTime().Sub(noon).String()
		counts[at] += fmt.Sprintf("%s: %d and %d mixed; ", r.GetVersion(), r.GetClusters(), r.GetMixed())
	}
	same(t, "adoption", map[string]string{
		"-30m0s":  "1: 2 and 0 mixed; ",
		"0s":      "1: 1 and 1 mixed; 2: 0 and 1 mixed; ",
		"30m0s":   "1: 1 and 0 mixed; 2: 1 and 0 mixed; ",
		"1h0m0s":  "1: 0 and 1 mixed; 2: 1 and 1 mixed; ",
		"1h30m0s": "2: 2 and 0 mixed; ",
	}, counts)
	_, err = l.drift.SumAdoption(t.Context(), &driftv1.SumAdoptionRequest{Line: "gateway", Step: durationpb.New(time.Minute)})
	refused(t, err, "LS-DRF-002")

	convergence, err := l.drift.SumConvergence(t.Context(), &driftv1.SumConvergenceRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var came []string
	for _, r := range convergence.GetRows() {
		came = append(came, fmt.Sprintf("%s %d of %d, at most %s", r.GetRelease(), r.GetConverged(), r.GetClusters(), r.GetLongest().AsDuration()))
	}
	if !slices.Contains(came, "spring 2 of 2, at most 30m0s") {
		t.Errorf("convergence: %q", came)
	}

	// Of each hour some sessions fail.
	w.step = noon
	for cluster, starts := range map[fleet.ClusterID][]time.Duration{"paris": {-5 * minute, 5 * minute, 15 * minute, 20 * minute, 40 * minute}, "rome": {5 * minute, 62 * minute}} {
		var all []codec.Observation
		for i, at := range starts {
			o := w.session(cluster, fmt.Sprint("s", i), at, fleet.SessionCompleted)
			if at > 15*minute {
				o.Session.Status = fleet.SessionFailed
			}
			all = append(all, o)
		}
		w.source(cluster).sees(all...)
	}
	if err := w.store.RollUp(t.Context(), fleet.DefaultTenant); err != nil {
		t.Fatal(err)
	}
	impact := func(group string) []string {
		t.Helper()
		resp, err := l.drift.SumImpact(t.Context(), &driftv1.SumImpactRequest{Group: group})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range resp.GetRows() {
			fared := func(f *driftv1.Fared) string { return fmt.Sprintf("%d/%d", f.GetFailed(), f.GetSessions()) }
			out = append(out, fmt.Sprintf("%s %s %s %s", r.GetKey(), fared(r.GetWhole()), fared(r.GetInside()), fared(r.GetOutside())))
		}
		return out
	}
	same(t, "what it cost", []string{" 1/3 1/2 1/2"}, impact(""))
	same(t, "what it cost each", []string{"paris 1/2 0/1 1/2", "rome 0/1 1/1 0/0"}, impact("cluster"))
}

func TestBaselines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	// It is over when it is told, so that what was seen counts by when it was seen.
	w.step = w.step.Add(-6 * time.Hour)
	w.clock = w.step
	l := w.start()
	paris, rome := w.source("paris"), w.source("rome")
	paris.sees(append(w.sessions("paris", "s", -time.Minute, 10, 5), w.inventory("paris", "1", "1"), w.helm("paris", "1", "1"))...)
	rome.sees(w.inventory("rome", "1", "1"))
	w.advance(time.Minute)
	capture := func(name string, clusters ...string) ([]*driftv1.Baseline, error) {
		resp, err := l.drift.CaptureBaseline(t.Context(), &driftv1.CaptureBaselineRequest{Name: name, Clusters: clusters})
		return resp.GetBaselines(), err
	}
	compare := func(id, with string) *driftv1.CompareBaselineResponse {
		t.Helper()
		resp, err := l.drift.CompareBaseline(t.Context(), &driftv1.CompareBaselineRequest{Id: id, With: with})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	captured, err := capture("before")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "captured", "before/paris before/rome", ids(captured))
	if s := captured[0].GetSessions(); s.GetFailed() != 2 || s.GetSucceeded()+s.GetOpen() != 8 {
		t.Errorf("the sessions of the day before are %v", s)
	}
	_, err = capture("before", "rome")
	refused(t, err, "LS-DRF-003", "before/rome")
	_, err = capture("other", "rome", "atlantis")
	refused(t, err, "LS-FLT-001", "atlantis")
	nameless, err := capture("", "rome")
	if err != nil || len(nameless) != 1 || nameless[0].GetName() != w.now().Format("2006-01-02t15-04-05") {
		t.Errorf("without a name: %v, %v", nameless, err)
	}
	if !compare("before/paris", "").GetSame() {
		t.Errorf("nothing changed, and %v", compare("before/paris", "").GetDifferences())
	}

	// A rollout keeps what it finds, once, whatever is read again afterwards.
	id, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	w.advance(time.Minute)
	paris.sees(w.inventory("paris", "2", "1"), w.helm("paris", "2", "2"))
	l.stop()
	w.forget(topology.EvaluatorRollouts())
	l = w.start()
	_, gateID = w.apply("rome") // Events come in order: those of before were handled again.
	w.awaitOpen(gateID)
	found, err := l.drift.GetBaseline(t.Context(), &driftv1.GetBaselineRequest{Id: string(id) + "/paris"})
	if err != nil {
		t.Fatal(err)
	}
	kept := found.GetBaseline()
	same(t, "by whom", string(id), kept.GetRollout())
	same(t, "what ran before the rollout", []string{"1"}, kept.GetCluster().GetLines()[0].GetRunning())
	same(t, "instances", 2, len(kept.GetCluster().GetInstances()))
	same(t, "what was declared before the rollout", "1", kept.GetCluster().GetDeclared().GetHelm()[0].GetVersions()["gateway"])

	changed := compare(string(id)+"/paris", "")
	if changed.GetSame() {
		t.Error("another gateway runs, and nothing is said to be different")
	}
	var told []string
	for _, d := range changed.GetDifferences() {
		told = append(told, d.GetText())
	}
	if !slices.Contains(told, "gateway ran 1 and runs 2") {
		t.Errorf("what is different is %q", told)
	}
	if !compare("before/paris", string(id)+"/paris").GetSame() {
		t.Error("two of before are different")
	}
	_, err = l.drift.CompareBaseline(t.Context(), &driftv1.CompareBaselineRequest{Id: "before/paris", With: "before/rome"})
	refused(t, err, "LS-DRF-005")
	_, err = l.drift.GetBaseline(t.Context(), &driftv1.GetBaselineRequest{Id: "never/paris"})
	refused(t, err, "LS-DRF-004", "never/paris")
	_, err = l.drift.CompareBaseline(t.Context(), &driftv1.CompareBaselineRequest{Id: "before/paris", With: "never/paris"})
	refused(t, err, "LS-DRF-004", "never/paris")
	for name, c := range map[string]struct {
		req  *driftv1.ListBaselinesRequest
		want []string
	}{
		"of a cluster": {&driftv1.ListBaselinesRequest{Cluster: "paris"}, []string{"before/paris", "r-paris/paris"}},
		"of a name":    {&driftv1.ListBaselinesRequest{Name: "before"}, []string{"before/paris", "before/rome"}},
		"of a rollout": {&driftv1.ListBaselinesRequest{Rollout: "r-rome"}, []string{"r-rome/rome"}},
		"newest":       {&driftv1.ListBaselinesRequest{PageSize: 1}, []string{"r-rome/rome"}},
	} {
		resp, err := l.drift.ListBaselines(t.Context(), c.req)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Fields(ids(resp.GetBaselines()))
		slices.Sort(got)
		same(t, name, c.want, got)
	}
}
