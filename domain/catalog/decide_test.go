package catalog_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// problems are those an error tells, as "ID PLACE".
func problems(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var told catalog.Problems
	if !errors.As(err, &told) {
		t.Fatalf("%v is no list of problems", err)
	}
	var out []string
	for _, p := range told {
		if p.Text == "" || !strings.Contains(err.Error(), p.ID) || !strings.Contains(err.Error(), p.Text) {
			t.Errorf("%+v is not in %q", p, err)
		}
		out = append(out, fmt.Sprint(p.ID, " ", p.Place))
	}
	return out
}

func TestAnImportIsToldAsItChanges(t *testing.T) {
	t.Parallel()
	known := pair(t, "1.0.0 2026-01-02 gateway=4.1.0 sra=3.1.0")
	known.Digest, known.Notes, known.Source = "sha256:aa", []string{"b", "a"}, "charts"
	known.Images = map[fleet.Line]string{"gateway": "akeyless/gateway:4.1.0@sha256:bb"}
	without := func(change func(*catalog.Release)) catalog.Release {
		r := catalog.Release{ID: known.ID, Chart: known.Chart, ChartVersion: known.ChartVersion, Versions: fleet.VersionSet{"gateway": "4.1.0"}}
		change(&r)
		return r
	}
	for name, c := range map[string]struct {
		told   catalog.Release
		change func(*catalog.Release) // nil when nothing changes
		says   []string
	}{
		"the same once more":     {told: known},
		"less":                   {told: without(func(*catalog.Release) {})},
		"another source":         {told: without(func(r *catalog.Release) { r.Source = "file" })},
		"the day alone":          {told: without(func(r *catalog.Release) { r.ReleasedAt = known.ReleasedAt })},
		"an image by tag alone":  {told: without(func(r *catalog.Release) { r.Images = map[fleet.Line]string{"gateway": "akeyless/gateway:4.1.0"} })},
		"empty words":            {told: without(func(r *catalog.Release) { r.Versions["sra"], r.Notes = "", []string{""} })},
		"notes it has":           {told: without(func(r *catalog.Release) { r.Notes = []string{"a", "a"} })},
		"a set of images":        {told: without(func(r *catalog.Release) { r.Chart, r.ChartVersion = "", "" })},
		"a time on the same day": {told: without(func(r *catalog.Release) { r.ReleasedAt = known.ReleasedAt.Add(time.Hour) }), change: func(r *catalog.Release) { r.ReleasedAt = known.ReleasedAt.Add(time.Hour) }},
		"another version": {told: without(func(r *catalog.Release) { r.Versions["gateway"] = "4.1.1" }), change: func(r *catalog.Release) { r.Versions["gateway"] = "4.1.1" },
			says: []string{"1.0.0 carried gateway 4.1.0 and now carries 4.1.1"}},
		"one more line": {told: without(func(r *catalog.Release) { r.Versions["ztwa"] = "1" }), change: func(r *catalog.Release) { r.Versions["ztwa"] = "1" }},
		"another day": {told: without(func(r *catalog.Release) { r.ReleasedAt = known.ReleasedAt.AddDate(0, 0, 1) }), change: func(r *catalog.Release) { r.ReleasedAt = known.ReleasedAt.AddDate(0, 0, 1) },
			says: []string{"1.0.0 was released on 2026-01-02 and now on 2026-01-03"}},
		"another digest":     {told: without(func(r *catalog.Release) { r.Digest = "sha256:cc" }), change: func(r *catalog.Release) { r.Digest = "sha256:cc" }},
		"another appVersion": {told: without(func(r *catalog.Release) { r.AppVersion = "x" }), change: func(r *catalog.Release) { r.AppVersion = "x" }},
		"another image": {told: without(func(r *catalog.Release) { r.Images = map[fleet.Line]string{"gateway": "akeyless/gateway:4.1"} }),
			change: func(r *catalog.Release) { r.Images["gateway"] = "akeyless/gateway:4.1" }},
		"one more image": {told: without(func(r *catalog.Release) { r.Images = map[fleet.Line]string{"sra": "akeyless/sra:3.1.0"} }),
			change: func(r *catalog.Release) { r.Images["sra"] = "akeyless/sra:3.1.0" }},
		"one more note": {told: without(func(r *catalog.Release) { r.Notes = []string{"c"} }), change: func(r *catalog.Release) { r.Notes = append(r.Notes, "c") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := imported(t, catalog.State{}, known)
			want := imported(t, catalog.State{}, known).Releases["1.0.0"]
			if c.change != nil {
				c.change(&want)
			}
			facts, report, err := catalog.Import(s, "again", []catalog.Release{c.told}, "bert", noon.Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			wantReport := catalog.ImportReport{Unchanged: []fleet.ReleaseID{"1.0.0"}, Changes: c.says}
			wantFacts := 0
			if c.change != nil {
				wantReport.Updated, wantReport.Unchanged, wantFacts = wantReport.Unchanged, nil, 1
			}
			if diff := cmp.Diff(wantReport, report); diff != "" {
				t.Error(diff)
			}
			if len(facts) != wantFacts {
				t.Errorf("facts are %+v", facts)
			}
			for _, f := range facts {
				if f.By != "bert" || !f.At.Equal(noon.Add(time.Hour)) || f.Kind.(catalog.ReleasesImported).Source != "again" {
					t.Errorf("the fact is %+v", f)
				}
			}
			after := applied(s, facts)
			if diff := cmp.Diff(want, after.Releases["1.0.0"]); diff != "" {
				t.Error(diff)
			}
			if again, report, err := catalog.Import(after, "again", []catalog.Release{c.told}, "bert", noon); err != nil || len(again) != 0 || len(report.Unchanged) != 1 {
				t.Errorf("once more: %+v, %+v, %v", again, report, err)
			}
		})
	}
}

func TestADayDoesNotTakeAwayATime(t *testing.T) {
	t.Parallel()
	r := pair(t, "1.0.0 2026-01-02 gateway=4.1.0")
	daily := r
	r.ReleasedAt = r.ReleasedAt.Add(10*time.Hour + time.Minute)
	s := imported(t, catalog.State{}, r)
	if facts, _, err := catalog.Import(s, "file", []catalog.Release{daily}, "anna", noon); err != nil || len(facts) != 0 {
		t.Errorf("told the day alone: %+v, %v", facts, err)
	}
}

func TestAnImportReportsInItsOwnOrder(t *testing.T) {
	t.Parallel()
	s := imported(t, catalog.State{}, pair(t, "1.1 - gateway=2"), pair(t, "1.2 - gateway=2"))
	facts, report, err := catalog.Import(s, "vendor", []catalog.Release{
		pair(t, "1.10 - gateway=3"), pair(t, "1.2 - gateway=2 sra=1"), pair(t, "1.9 - gateway=3"), pair(t, "1.1 - gateway=2"), pair(t, "1.9 - gateway=3"),
	}, "anna", noon)
	if err != nil {
		t.Fatal(err)
	}
	want := catalog.ImportReport{Added: []fleet.ReleaseID{"1.10", "1.9"}, Updated: []fleet.ReleaseID{"1.2"}, Unchanged: []fleet.ReleaseID{"1.1"}}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Error(diff)
	}
	var got []fleet.ReleaseID
	for _, r := range facts[0].Kind.(catalog.ReleasesImported).Releases {
		got = append(got, r.ID)
	}
	if !slices.Equal(got, []fleet.ReleaseID{"1.10", "1.2", "1.9"}) || len(facts) != 1 {
		t.Errorf("the facts tell %v", got)
	}
}

func TestAWrongImportIsRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	s := imported(t, catalog.State{}, pair(t, "1.0 - gateway=1"))
	versions := fleet.VersionSet{"gateway": "1"}
	facts, report, err := catalog.Import(s, "vendor", []catalog.Release{
		pair(t, "1.1 - gateway=1"),
		{Versions: versions},
		{ID: "UPPER", Versions: versions},
		{ID: fleet.ReleaseID(strings.Repeat("a", 64)), Versions: versions},
		{ID: "a b\n", Versions: versions},
		{ID: "empty"},
		{ID: "empties", Versions: fleet.VersionSet{"gateway": ""}},
		pair(t, "1.1 - gateway=2"),
		pair(t, "1.1 2026-01-01 gateway=1"),
		{ID: "1.0", Chart: "other", ChartVersion: "1.0", Versions: versions},
		{ID: "1.0", Chart: catalog.GatewayChart, ChartVersion: "1.0.0", Versions: versions},
		{ID: fleet.ReleaseID(strings.Repeat("é", 1<<10)), Versions: versions},
	}, "anna", noon)
	want := []string{
		"LS-CAT-001 1", "LS-CAT-001 2", "LS-CAT-001 3", "LS-CAT-001 4", "LS-CAT-002 5", "LS-CAT-002 6",
		"LS-CAT-003 7", "LS-CAT-003 8", "LS-CAT-003 9", "LS-CAT-003 10", "LS-CAT-003 10", "LS-CAT-001 11",
	}
	if diff := cmp.Diff(want, problems(t, err)); diff != "" {
		t.Error(diff)
	}
	if facts != nil || !cmp.Equal(report, catalog.ImportReport{}) {
		t.Errorf("refused, and told %+v, %+v", facts, report)
	}
	if !strings.Contains(err.Error(), "LS-CAT-002: release 6: empty carries no version") || len(err.Error()) > 2<<10 {
		t.Errorf("the error is %v", err)
	}
}

func TestAnImportSharesNothingWithItsCaller(t *testing.T) {
	t.Parallel()
	r := pair(t, "1.0 - gateway=1")
	r.Notes, r.Images = []string{"b", "a"}, map[fleet.Line]string{"gateway": "g:1"}
	s := imported(t, catalog.State{}, r)
	r.Versions["gateway"], r.Images["gateway"], r.Notes[0] = "2", "g:2", "c"
	got := s.Releases["1.0"]
	if got.Versions["gateway"] != "1" || got.Images["gateway"] != "g:1" || !slices.Equal(got.Notes, []string{"a", "b"}) {
		t.Errorf("the state follows its caller: %+v", got)
	}
}

func TestTheIDOfARelease(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		chart, version string
		want           fleet.ReleaseID
	}{
		{catalog.GatewayChart, "2.0.9", "2.0.9"},
		{catalog.GatewayChart, "2.0.9-RC.1", "2.0.9-rc.1"},
		{catalog.GatewayChart, "2.0.9+up1", "2.0.9-up1-75731e732de17277"},
		{"akeyless-sra", "1.2.3", "akeyless-sra-1.2.3"},
		{"", "1.2.3", "1.2.3"},
		{"akeyless-sra", "", ""},
	} {
		if got := catalog.ReleaseIDOf(c.chart, c.version); got != c.want {
			t.Errorf("%s %s is called %s, want %s", c.chart, c.version, got, c.want)
		}
	}
}

func TestIDsFitAndDoNotCollide(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.OneOf(rapid.StringMatching(`[0-9]\.[0-9]{1,3}([+~ .-][a-zé]{1,80})?`), rapid.StringMatching(`[0-9][^A-Z\n]{0,100}`))
		a, b := version.Draw(t, "a"), version.Draw(t, "b")
		chart := rapid.SampledFrom([]string{catalog.GatewayChart, "akeyless-sra", strings.Repeat("long", 20)})
		chartA, chartB := chart.Draw(t, "chart a"), chart.Draw(t, "chart b")
		idA, idB := catalog.ReleaseIDOf(chartA, a), catalog.ReleaseIDOf(chartB, b)
		if !regexp.MustCompile(`^[a-z0-9._-]{1,63}$`).MatchString(string(idA)) {
			t.Fatalf("%q %q is called %q", chartA, a, idA)
		}
		if (idA == idB) != (chartA == chartB && a == b) {
			t.Fatalf("%q %q and %q %q are called %q and %q", chartA, a, chartB, b, idA, idB)
		}
	})
}

func TestWhatPeopleDecide(t *testing.T) {
	t.Parallel()
	s := imported(t, catalog.State{}, pair(t, "1.0 - gateway=1"), pair(t, "1.1 - gateway=1"), pair(t, "1.2 - gateway=1"))
	configured := []catalog.Release{{ID: "set", Versions: fleet.VersionSet{"gateway": "1"}}}
	later := noon.Add(time.Hour)
	block := catalog.Block{Release: "1.0", Owner: "anna", Reason: "it hangs", Expires: later.Add(time.Hour)}
	yes := catalog.Acknowledgement{Risk: catalog.RiskMetrics, Release: "1.0", Cluster: "oslo", Owner: "anna", Reason: "dashboards are moved"}
	for _, f := range []catalog.FactKind{
		catalog.ReleaseBlocked{Block: block},
		catalog.ReleaseBlocked{Block: catalog.Block{Release: "1.1", Owner: "anna", Reason: "it hung", Expires: noon}},
		catalog.RiskAcknowledged{Acknowledgement: yes},
		catalog.RiskAcknowledged{Acknowledgement: catalog.Acknowledgement{Risk: catalog.RiskNonRoot, Owner: "anna", Reason: "for a day", Expires: noon}},
	} {
		s = s.Apply(catalog.Fact{At: noon, By: "anna", Kind: f})
	}
	blockWith := func(change func(*catalog.Block)) func() ([]catalog.Fact, error) {
		b := block
		change(&b)
		return func() ([]catalog.Fact, error) { return catalog.BlockRelease(s, configured, b, "bert", later) }
	}
	acknowledge := func(change func(*catalog.Acknowledgement)) func() ([]catalog.Fact, error) {
		a := yes
		change(&a)
		return func() ([]catalog.Fact, error) { return catalog.AcknowledgeRisk(s, configured, a, "bert", later) }
	}
	unblock := func(id fleet.ReleaseID, reason string) func() ([]catalog.Fact, error) {
		return func() ([]catalog.Fact, error) { return catalog.UnblockRelease(s, id, reason, "bert", later) }
	}
	revoke := func(risk catalog.RiskID, id fleet.ReleaseID, cluster fleet.ClusterID, reason string) func() ([]catalog.Fact, error) {
		return func() ([]catalog.Fact, error) {
			return catalog.RevokeAcknowledgement(s, risk, id, cluster, reason, "bert", later)
		}
	}
	for name, c := range map[string]struct {
		decide func() ([]catalog.Fact, error)
		want   catalog.FactKind // nil for none
		wrong  []string
	}{
		"block": {decide: blockWith(func(b *catalog.Block) { b.Release, b.Owner, b.Reason = "1.2", " anna ", "\tit hangs\n" }),
			want: catalog.ReleaseBlocked{Block: catalog.Block{Release: "1.2", Owner: "anna", Reason: "it hangs", At: later, Expires: block.Expires}}},
		"block a set of images": {decide: blockWith(func(b *catalog.Block) { b.Release, b.Expires = "set", time.Time{} }),
			want: catalog.ReleaseBlocked{Block: catalog.Block{Release: "set", Owner: "anna", Reason: "it hangs", At: later}}},
		"block once more": {decide: blockWith(func(*catalog.Block) {})},
		"block for longer": {decide: blockWith(func(b *catalog.Block) { b.Expires = time.Time{} }),
			want: catalog.ReleaseBlocked{Block: catalog.Block{Release: "1.0", Owner: "anna", Reason: "it hangs", At: later}}},
		"block after the last ended": {decide: blockWith(func(b *catalog.Block) { b.Release, b.Reason = "1.1", "it hung" }),
			want: catalog.ReleaseBlocked{Block: catalog.Block{Release: "1.1", Owner: "anna", Reason: "it hung", At: later, Expires: block.Expires}}},
		"block what is not known": {decide: blockWith(func(b *catalog.Block) { b.Release = "9.9" }), wrong: []string{"LS-CAT-004 -1"}},
		"block nothing":           {decide: blockWith(func(b *catalog.Block) { b.Release = "" }), wrong: []string{"LS-CAT-004 -1"}},
		"block without a word":    {decide: blockWith(func(b *catalog.Block) { b.Owner, b.Reason = " ", "\n" }), wrong: []string{"LS-CAT-007 -1", "LS-CAT-006 -1"}},
		"block until now":         {decide: blockWith(func(b *catalog.Block) { b.Expires = later }), wrong: []string{"LS-CAT-008 -1"}},

		"unblock":                        {decide: unblock("1.0", " fixed "), want: catalog.ReleaseUnblocked{Release: "1.0", Reason: "fixed"}},
		"unblock what is not blocked":    {decide: unblock("1.2", "fixed"), wrong: []string{"LS-CAT-009 -1"}},
		"unblock what ended by itself":   {decide: unblock("1.1", "fixed"), wrong: []string{"LS-CAT-009 -1"}},
		"unblock without a word":         {decide: unblock("1.0", ""), wrong: []string{"LS-CAT-006 -1"}},
		"unblock nothing without a word": {decide: unblock("", ""), wrong: []string{"LS-CAT-009 -1", "LS-CAT-006 -1"}},

		"acknowledge": {decide: acknowledge(func(a *catalog.Acknowledgement) { a.Release, a.Cluster, a.Owner = "", "", " bert" }),
			want: catalog.RiskAcknowledged{Acknowledgement: catalog.Acknowledgement{Risk: catalog.RiskMetrics, Owner: "bert", Reason: yes.Reason, At: later}}},
		"acknowledge for a set of images": {decide: acknowledge(func(a *catalog.Acknowledgement) { a.Release = "set" }),
			want: catalog.RiskAcknowledged{Acknowledgement: catalog.Acknowledgement{Risk: catalog.RiskMetrics, Release: "set", Cluster: "oslo", Owner: "anna", Reason: yes.Reason, At: later}}},
		"acknowledge once more": {decide: acknowledge(func(*catalog.Acknowledgement) {})},
		"acknowledge with other words": {decide: acknowledge(func(a *catalog.Acknowledgement) { a.Reason = "nobody looks" }),
			want: catalog.RiskAcknowledged{Acknowledgement: catalog.Acknowledgement{Risk: catalog.RiskMetrics, Release: "1.0", Cluster: "oslo", Owner: "anna", Reason: "nobody looks", At: later}}},
		"acknowledge what nobody knows": {decide: acknowledge(func(a *catalog.Acknowledgement) { a.Risk, a.Release = "rust", "9.9" }), wrong: []string{"LS-CAT-005 -1", "LS-CAT-004 -1"}},
		"acknowledge without a word":    {decide: acknowledge(func(a *catalog.Acknowledgement) { a.Owner, a.Reason, a.Expires = "", "", noon }), wrong: []string{"LS-CAT-007 -1", "LS-CAT-006 -1", "LS-CAT-008 -1"}},

		"revoke": {decide: revoke(catalog.RiskMetrics, "1.0", "oslo", " no "),
			want: catalog.AcknowledgementRevoked{Risk: catalog.RiskMetrics, Release: "1.0", Cluster: "oslo", Reason: "no"}},
		"revoke a wider one":          {decide: revoke(catalog.RiskMetrics, "1.0", "", "no"), wrong: []string{"LS-CAT-010 -1"}},
		"revoke what ended by itself": {decide: revoke(catalog.RiskNonRoot, "", "", "no"), wrong: []string{"LS-CAT-010 -1"}},
		"revoke what nobody knows":    {decide: revoke("rust", "", "", ""), wrong: []string{"LS-CAT-005 -1", "LS-CAT-006 -1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			facts, err := c.decide()
			if diff := cmp.Diff(c.wrong, problems(t, err)); diff != "" {
				t.Error(diff)
			}
			var want []catalog.Fact
			if c.want != nil {
				want = []catalog.Fact{{At: later, By: "bert", Kind: c.want}}
			}
			if diff := cmp.Diff(want, facts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// anyFact draws a fact of each kind; few names, so that they meet.
func anyFact(t *rapid.T) catalog.Fact {
	release := rapid.SampledFrom([]fleet.ReleaseID{"", "1.0", "1.1"}).Draw(t, "release")
	cluster := rapid.SampledFrom([]fleet.ClusterID{"", "oslo"}).Draw(t, "cluster")
	risk := rapid.SampledFrom([]catalog.RiskID{catalog.RiskMetrics, catalog.RiskNonRoot}).Draw(t, "risk")
	words := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "words")
	f := catalog.Fact{At: noon, By: words}
	switch rapid.SampledFrom(catalog.FactKinds()).Draw(t, "kind").(type) {
	case catalog.ReleasesImported:
		f.Kind = catalog.ReleasesImported{Source: words, Releases: []catalog.Release{{ID: release, Versions: fleet.VersionSet{"gateway": words}}}}
	case catalog.ReleaseBlocked:
		f.Kind = catalog.ReleaseBlocked{Block: catalog.Block{Release: release, Reason: words}}
	case catalog.ReleaseUnblocked:
		f.Kind = catalog.ReleaseUnblocked{Release: release, Reason: words}
	case catalog.RiskAcknowledged:
		f.Kind = catalog.RiskAcknowledged{Acknowledgement: catalog.Acknowledgement{Risk: risk, Release: release, Cluster: cluster, Reason: words}}
	case catalog.AcknowledgementRevoked:
		f.Kind = catalog.AcknowledgementRevoked{Risk: risk, Release: release, Cluster: cluster, Reason: words}
	}
	return f
}

func TestAFactChangesAStateOnceAndNoOther(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		states := []catalog.State{{}}
		told := []string{fmt.Sprintf("%+v", states[0])}
		for range rapid.IntRange(1, 12).Draw(t, "facts") {
			f := anyFact(t)
			next := rapid.SampledFrom(states).Draw(t, "from").Apply(f)
			if diff := cmp.Diff(next, next.Apply(f), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("%+v twice:\n%s", f, diff)
			}
			if !slices.IsSortedFunc(next.Acknowledgements, func(a, b catalog.Acknowledgement) int {
				return strings.Compare(fmt.Sprint(a.Risk, "/", a.Release, "/", a.Cluster), fmt.Sprint(b.Risk, "/", b.Release, "/", b.Cluster))
			}) {
				t.Fatalf("not in order: %+v", next.Acknowledgements)
			}
			states, told = append(states, next), append(told, fmt.Sprintf("%+v", next))
		}
		for i, s := range states {
			if fmt.Sprintf("%+v", s) != told[i] {
				t.Fatalf("a state was %s and is %+v", told[i], s)
			}
		}
	})
}

func TestAnUnknownFactChangesNothing(t *testing.T) {
	t.Parallel()
	s := imported(t, catalog.State{}, pair(t, "1.0 - gateway=1"))
	for _, kind := range []catalog.FactKind{
		nil, catalog.ReleaseUnblocked{Release: "9.9"}, catalog.AcknowledgementRevoked{Risk: "rust"}, catalog.ReleasesImported{},
	} {
		if diff := cmp.Diff(s, s.Apply(catalog.Fact{Kind: kind}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%+v: %s", kind, diff)
		}
	}
}
