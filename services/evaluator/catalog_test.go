//go:build linux && amd64

package evaluator_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// chart is a release of the vendor's gateway chart.
func chart(version, gateway, sra string) *catalogv1.Release {
	return &catalogv1.Release{
		Id: version, Chart: catalog.GatewayChart, ChartVersion: version, Source: "the vendor",
		Versions: map[string]string{"gateway": gateway, "sra": sra},
	}
}

func (l *life) imports(dry bool, releases ...*catalogv1.Release) (*catalogv1.ImportReleasesResponse, error) {
	return l.catalog.ImportReleases(l.w.t.Context(), &catalogv1.ImportReleasesRequest{Releases: releases, DryRun: dry})
}

// mustImport imports and words the answer.
func (l *life) mustImport(dry bool, releases ...*catalogv1.Release) string {
	l.w.t.Helper()
	resp, err := l.imports(dry, releases...)
	if err != nil {
		l.w.t.Fatal(err)
	}
	return fmt.Sprintf("added %v, updated %v, unchanged %d, withdrawn %v", resp.GetAdded(), resp.GetUpdated(), resp.GetUnchanged(), resp.GetWithdrawn())
}

// releases lists those that match, with their statuses.
func (l *life) releases(req *catalogv1.ListReleasesRequest) []string {
	l.w.t.Helper()
	resp, err := l.catalog.ListReleases(l.w.t.Context(), req)
	if err != nil {
		l.w.t.Fatal(err)
	}
	var out []string
	for _, e := range resp.GetReleases() {
		out = append(out, e.GetRelease().GetId()+" "+e.GetStatus())
	}
	return out
}

// catalogEvents counts the events of the catalogue.
func catalogEvents(t *testing.T, w *world) int {
	t.Helper()
	return len(slices.DeleteFunc(events(t, w), func(s string) bool { return !strings.Contains(s, ".catalog.") }))
}

func TestImportReleases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	w.config.Clusters[0].Release = ""
	l := w.start()
	first := []*catalogv1.Release{chart("1.0.0", "5.0.0", "3.0.0"), chart("1.1.0", "5.0.0", "3.1.0")}
	said := "added [1.0.0 1.1.0], updated [], unchanged 0, withdrawn []"
	same(t, "a dry run", said, l.mustImport(true, first...))
	same(t, "releases after a dry run", []string{"winter available"}, l.releases(&catalogv1.ListReleasesRequest{}))
	same(t, "the import", said, l.mustImport(false, first...))
	same(t, "once more", "added [], updated [], unchanged 2, withdrawn []", l.mustImport(false, first...))
	same(t, "events of two imports", 1, catalogEvents(t, w))

	// Every problem is told, and nothing is taken in.
	_, err := l.imports(false, chart("1.2.0", "5.0.0", "3.2.0"), &catalogv1.Release{Id: "no id", Versions: map[string]string{"sra": "1"}}, &catalogv1.Release{Id: "empty"},
		chart("1.2.0", "5.0.0", "3.3.0"))
	refused(t, err, catalog.ProblemName, "release 2", "no id", "release 3", "empty carries no version", "release 4", "told twice")
	same(t, "releases after that", []string{"1.0.0 available", "1.1.0 available", "winter available"}, l.releases(&catalogv1.ListReleasesRequest{}))

	// What the vendor takes back is withdrawn where it runs, at once and ever after.
	w.source("paris").send(w.inventory("paris", "5.0.0", "3.1.0"))
	await(t, "what runs", func() bool { return len(l.cluster("paris").GetInstances()) == 2 })
	if _, err := l.assign("1.1.0", "paris"); err != nil {
		t.Fatal(err)
	}
	w.awaitStates("paris", "locked")
	back := chart("1.2.0", "5.0.0", "3.0.0")
	same(t, "a dry run of a withdrawal", "added [1.2.0], updated [], unchanged 0, withdrawn [1.1.0]", l.mustImport(true, back))
	same(t, "state after it", "locked", l.cluster("paris").GetState())
	same(t, "a withdrawal", "added [1.2.0], updated [], unchanged 0, withdrawn [1.1.0]", l.mustImport(false, back))
	same(t, "state", "withdrawn", l.cluster("paris").GetState())
	w.awaitStates("paris", "locked", "withdrawn")
	l.stop()
	l = w.start()
	w.awaitBeats()
	same(t, "state after a restart", "withdrawn", l.cluster("paris").GetState())
	same(t, "states", []string{"locked", "withdrawn"}, w.states("paris"))
	same(t, "episodes", 1, len(w.episodes("paris")))
	same(t, "once more after a restart", "added [], updated [], unchanged 1, withdrawn []", l.mustImport(false, back))

	graph, err := l.catalog.GetGraph(t.Context(), &catalogv1.GetGraphRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var nodes []string
	for _, n := range graph.GetNodes() {
		nodes = append(nodes, fmt.Sprint(n.GetReleases(), " ", n.GetStatus()))
	}
	same(t, "version sets", []string{"[1.0.0 1.2.0] available", "[1.1.0] withdrawn"}, nodes)
}

// An import that is too large for one event is there as a whole after a restart.
func TestALargeImport(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	var many []*catalogv1.Release
	for i := range 1234 {
		r := chart(fmt.Sprintf("1.%d.0", i), "5.0.0", fmt.Sprintf("3.%d.0", i))
		r.Notes = []string{strings.Repeat("a long story ", 50)}
		many = append(many, r)
	}
	resp, err := l.imports(false, many...)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "added", 1234, len(resp.GetAdded()))
	same(t, "events", 3, catalogEvents(t, w))
	l.stop()
	l = w.start()
	same(t, "once more", "added [], updated [], unchanged 1234, withdrawn []", l.mustImport(false, many...))
	var pages []int
	var ids []string
	for token := ""; ; {
		resp, err := l.catalog.ListReleases(t.Context(), &catalogv1.ListReleasesRequest{PageSize: 500, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, len(resp.GetReleases()))
		for _, e := range resp.GetReleases() {
			ids = append(ids, e.GetRelease().GetId())
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	same(t, "pages", []int{500, 500, 235}, pages)
	same(t, "first, last and the set of images", []string{"1.0.0", "1.9.0", "1.1233.0", "winter"}, []string{ids[0], ids[9], ids[1233], ids[1234]})
}

func TestListReleasesChooses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	other := &catalogv1.Release{Id: "sra-2.0.0", Chart: "akeyless-sra", ChartVersion: "2.0.0", Versions: map[string]string{"sra": "3.0.0"}}
	l.mustImport(false, chart("1.0.0", "5.0.0", "3.0.0"), chart("1.1.0", "5.0.0", "3.1.0"), chart("1.2.0", "5.0.1", "3.0.0"), other)
	for name, c := range map[string]struct {
		req  *catalogv1.ListReleasesRequest
		want []string
	}{
		"all":             {&catalogv1.ListReleasesRequest{}, []string{"1.0.0 available", "1.1.0 withdrawn", "1.2.0 available", "sra-2.0.0 available", "winter available"}},
		"status":          {&catalogv1.ListReleasesRequest{Statuses: []string{"withdrawn", "blocked"}}, []string{"1.1.0 withdrawn"}},
		"chart":           {&catalogv1.ListReleasesRequest{Chart: "akeyless-sra"}, []string{"sra-2.0.0 available"}},
		"version":         {&catalogv1.ListReleasesRequest{Versions: []string{"3.0.0"}}, []string{"1.0.0 available", "1.2.0 available", "sra-2.0.0 available"}},
		"line's version":  {&catalogv1.ListReleasesRequest{Versions: []string{"gateway=5.0.1", "sra=1"}}, []string{"1.2.0 available", "winter available"}},
		"another line's":  {&catalogv1.ListReleasesRequest{Versions: []string{"gateway=3.0.0"}}, nil},
		"status of chart": {&catalogv1.ListReleasesRequest{Statuses: []string{"available"}, Chart: catalog.GatewayChart}, []string{"1.0.0 available", "1.2.0 available"}},
	} {
		same(t, name, c.want, l.releases(c.req))
	}
	resp, err := l.catalog.ListReleases(t.Context(), &catalogv1.ListReleasesRequest{PageSize: 1, Versions: []string{"3.0.0"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.catalog.ListReleases(t.Context(), &catalogv1.ListReleasesRequest{PageSize: 1, PageToken: resp.GetNextPageToken()})
	refused(t, err, "LS-API-002")
	same(t, "the second page", []string{"1.2.0 available"}, l.releases(&catalogv1.ListReleasesRequest{PageSize: 1, Versions: []string{"3.0.0"}, PageToken: resp.GetNextPageToken()}))
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	again := func() {
		l.stop()
		l = w.start()
	}
	block := func(release, owner, reason string, expires time.Duration) (*catalogv1.BlockReleaseResponse, error) {
		req := &catalogv1.BlockReleaseRequest{Release: release, Owner: owner, Reason: reason}
		if expires != 0 {
			req.ExpiresAt = timestamppb.New(w.now().Add(expires))
		}
		return l.catalog.BlockRelease(t.Context(), req)
	}
	unblock := func(release string) error {
		_, err := l.catalog.UnblockRelease(t.Context(), &catalogv1.UnblockReleaseRequest{Release: release, Reason: "it is mended"})
		return err
	}
	_, err := block("autumn", "ada", "it fails", 0)
	refused(t, err, catalog.ProblemUnknownRelease)
	_, err = block("winter", "ada", " ", -time.Hour)
	refused(t, err, catalog.ProblemReason, "reason", "ended at")
	_, err = block("winter", "", "it fails", 0)
	refused(t, err, catalog.ProblemOwner)
	refused(t, unblock("winter"), catalog.ProblemNotBlocked)
	same(t, "events of what was refused", 0, catalogEvents(t, w))

	resp, err := block("winter", "ada", "it fails", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if e := resp.GetRelease(); e.GetStatus() != "blocked" || e.GetBlock().GetOwner() != "ada" || !e.GetBlock().GetAt().AsTime().Equal(w.now()) {
		t.Errorf("the blocked release is %v", e)
	}
	if _, err := block("winter", "ada", "it fails", time.Hour); err != nil {
		t.Fatal(err)
	}
	same(t, "events of the same block twice", 1, catalogEvents(t, w))
	again()
	all := &catalogv1.ListReleasesRequest{}
	same(t, "after a restart", []string{"winter blocked"}, l.releases(all))
	w.advance(time.Hour - time.Second)
	same(t, "a second before its end", []string{"winter blocked"}, l.releases(all))
	w.advance(time.Second)
	same(t, "at its end", []string{"winter available"}, l.releases(all))
	refused(t, unblock("winter"), catalog.ProblemNotBlocked)
	again()
	same(t, "after its end and a restart", []string{"winter available"}, l.releases(all))
	if _, err := block("winter", "bob", "it fails again", 0); err != nil {
		t.Fatal(err)
	}
	w.advance(1000 * time.Hour)
	same(t, "without an end", []string{"winter blocked"}, l.releases(all))
	if err := unblock("winter"); err != nil {
		t.Fatal(err)
	}
	again()
	same(t, "unblocked", []string{"winter available"}, l.releases(all))
}

func TestAcknowledgementsAndAssessments(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	w.config.Releases = append(w.config.Releases, catalog.Release{ID: "spring", Versions: fleet.VersionSet{fleet.LineGateway: "5.0.0", fleet.LineSRA: "3.1.0"}})
	l := w.start()
	acknowledge := func(risk, release, cluster string, expires time.Duration) error {
		req := &catalogv1.AcknowledgeRiskRequest{Risk: risk, Release: release, Cluster: cluster, Owner: "ada", Reason: "we looked"}
		if expires > 0 {
			req.ExpiresAt = timestamppb.New(w.now().Add(expires))
		}
		_, err := l.catalog.AcknowledgeRisk(t.Context(), req)
		return err
	}
	revoke := func(risk, release, cluster string) error {
		_, err := l.catalog.RevokeAcknowledgement(t.Context(), &catalogv1.RevokeAcknowledgementRequest{Risk: risk, Release: release, Cluster: cluster, Reason: "we were wrong"})
		return err
	}
	list := func() []string {
		resp, err := l.catalog.GetAcknowledgements(t.Context(), &catalogv1.GetAcknowledgementsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "named risks", len(catalog.Risks()), len(resp.GetRisks()))
		var out []string
		for _, a := range resp.GetAcknowledgements() {
			out = append(out, fmt.Sprintf("%s/%s/%s", a.GetRisk(), a.GetRelease(), a.GetCluster()))
		}
		return out
	}
	assess := func(cluster string) map[string]string {
		resp, err := l.catalog.AssessMove(t.Context(), &catalogv1.AssessMoveRequest{Cluster: cluster, Release: "spring"})
		if err != nil {
			t.Fatal(err)
		}
		out := make(map[string]string)
		for _, a := range resp.GetAssessments() {
			if a.GetDetail() == "" || a.GetRemedy() == "" {
				t.Errorf("%s says nothing: %v", a.GetRisk(), a)
			}
			out[a.GetRisk()] = fmt.Sprintf("%s closed %t", a.GetCondition(), a.GetClosed())
		}
		return out
	}
	_, err := l.catalog.AssessMove(t.Context(), &catalogv1.AssessMoveRequest{Cluster: "atlantis", Release: "spring"})
	refused(t, err, "LS-FLT-001", "atlantis")
	_, err = l.catalog.AssessMove(t.Context(), &catalogv1.AssessMoveRequest{Cluster: "paris", Release: "autumn"})
	refused(t, err, catalog.ProblemUnknownRelease, "autumn")

	const users, metrics = string(catalog.RiskIssuerUsers), string(catalog.RiskMetrics)
	for risk, said := range assess("rome") {
		if said != "unknown closed true" {
			t.Errorf("of a cluster that nobody saw %s is %s", risk, said)
		}
	}
	s := w.source("paris")
	s.send(w.inventory("paris", "4.52.0", "3.0.0"), codec.Observation{Registration: &fleet.Registration{Cluster: "paris", ObservedAt: w.now(), LastReport: w.now()}})
	w.awaitStates("paris", "drifted")
	got := assess("paris")
	same(t, "the metrics of a new gateway", "match closed true", got[metrics])

	refused(t, acknowledge("bad-luck", "", "", 0), catalog.ProblemUnknownRisk, "bad-luck")
	refused(t, acknowledge(metrics, "autumn", "", 0), catalog.ProblemUnknownRelease)
	refused(t, acknowledge(metrics, "", "atlantis", 0), "LS-FLT-001", "atlantis")
	refused(t, revoke(metrics, "", ""), catalog.ProblemNotAcknowledged)
	for _, err := range []error{acknowledge(metrics, "spring", "paris", time.Hour), acknowledge(users, "", "", 0), acknowledge(metrics, "", "rome", 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		same(t, "acknowledgements", []string{users + "//", metrics + "//rome", metrics + "/spring/paris"}, list())
		same(t, "the metrics, acknowledged", "match closed false", assess("paris")[metrics])
		l.stop()
		l = w.start()
	}
	w.advance(time.Hour)
	same(t, "acknowledgements after the end of one", []string{users + "//", metrics + "//rome"}, list())
	same(t, "the metrics after its end", "match closed true", assess("paris")[metrics])
	refused(t, revoke(metrics, "spring", "paris"), catalog.ProblemNotAcknowledged)
	if err := revoke(users, "", ""); err != nil {
		t.Fatal(err)
	}
	same(t, "acknowledgements at last", []string{metrics + "//rome"}, list())
}

// Of two that write to the catalogue at once the second is told to look again, and
// then knows what the first one wrote.
func TestTheCatalogueHasOneWriterAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	w.config.Clusters[0].Release = "1.0.0"
	first := w.start()
	second := w.startBeaten(topology.NounCatalog, func() { first.mustImport(false, chart("1.0.0", "5.0.0", "3.0.0")) })
	_, err := second.imports(false, chart("1.1.0", "5.0.0", "3.1.0"))
	refused(t, err, "LS-CAT-020")
	same(t, "what it knows then", []string{"1.0.0 available", "winter available"}, second.releases(&catalogv1.ListReleasesRequest{}))
	same(t, "what its cluster is to run", "5.0.0", second.cluster("paris").GetLines()[0].GetAssigned())
	same(t, "the second try", "added [1.1.0], updated [], unchanged 0, withdrawn []", second.mustImport(false, chart("1.1.0", "5.0.0", "3.1.0")))
	third := w.startBeaten(topology.NounCatalog, func() { first.mustImport(false, chart("1.2.0", "5.0.0", "3.2.0")) })
	_, err = third.fleet.ApplyFleet(t.Context(), &fleetv1.ApplyFleetRequest{Document: "release autumn sra=7"})
	refused(t, err, "LS-CAT-020")
}

// An event of a newer build is passed over, and what this one knows of it counts.
func TestAnUnknownFactOfTheCatalogue(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	l.mustImport(false, chart("1.0.0", "5.0.0", "3.0.0"))
	l.stop()
	newer := &catalogv1.Event{Facts: []*catalogv1.Fact{
		{At: timestamppb.New(w.now())},
		codec.CatalogFactToProto(catalog.Fact{At: w.now(), Kind: catalog.ReleaseBlocked{Block: catalog.Block{Release: "1.0.0", Owner: "ada", Reason: "no", At: w.now()}}}),
	}}
	w.event(topology.NounCatalog, topology.CatalogReleases, newer)
	l = w.start()
	same(t, "releases", []string{"1.0.0 blocked", "winter available"}, l.releases(&catalogv1.ListReleasesRequest{}))
}
