package catalog_test

import (
	"fmt"
	"maps"
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

// long is one chart with as many releases, each with the gateway that version says.
func long(count int, version func(int) int) []catalog.Release {
	var out []catalog.Release
	for i := range count {
		chart := fmt.Sprintf("1.%d.0", i)
		gateway, sra := fmt.Sprintf("4.%d.0", version(i)), fmt.Sprintf("3.%d.0", i/10)
		out = append(out, catalog.Release{
			ID: catalog.ReleaseIDOf(catalog.GatewayChart, chart), Chart: catalog.GatewayChart, ChartVersion: chart,
			ReleasedAt: noon.AddDate(0, 0, i), AppVersion: gateway + "_" + sra,
			Versions: fleet.VersionSet{fleet.LineGateway: gateway, fleet.LineSRA: sra},
			Images:   map[fleet.Line]string{fleet.LineGateway: "akeyless/gateway:" + gateway},
		})
	}
	return out
}

func TestTheRuleOfWithdrawal(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		releases []string
		want     []fleet.ReleaseID
	}{
		"only ever up":                             {[]string{"1.0 - gateway=1", "1.1 - gateway=2", "1.2 - gateway=2"}, nil},
		"down and never back":                      {[]string{"1.0 - gateway=1", "1.1 - gateway=2", "1.2 - gateway=1"}, []fleet.ReleaseID{"1.1"}},
		"down and back":                            {[]string{"1.0 - gateway=2", "1.1 - gateway=1", "1.2 - gateway=2"}, nil},
		"down and back, written otherwise":         {[]string{"1.0 - gateway=2.0", "1.1 - gateway=1", "1.2 - gateway=v2"}, nil},
		"down twice":                               {[]string{"1.0 - gateway=3", "1.1 - gateway=2", "1.2 - gateway=1"}, []fleet.ReleaseID{"1.0", "1.1"}},
		"down, then past it":                       {[]string{"1.0 - gateway=2", "1.1 - gateway=1", "1.2 - gateway=3"}, []fleet.ReleaseID{"1.0"}},
		"every release that carries it":            {[]string{"1.0 - gateway=2", "1.1 - gateway=2 sra=1", "1.2 - gateway=1"}, []fleet.ReleaseID{"1.0", "1.1"}},
		"one line goes back":                       {[]string{"1.0 - gateway=1 sra=2", "1.1 - gateway=2 sra=1"}, []fleet.ReleaseID{"1.0"}},
		"a line that goes is not lower":            {[]string{"1.0 - gateway=1 sra=2", "1.1 - gateway=2"}, nil},
		"from a pre-release":                       {[]string{"1.0 - gateway=2.0-rc", "1.1 - gateway=1"}, []fleet.ReleaseID{"1.0"}},
		"to a pre-release":                         {[]string{"1.0 - gateway=2.0", "1.1 - gateway=2.0-rc"}, []fleet.ReleaseID{"1.0"}},
		"chart versions count as numbers":          {[]string{"1.9 - gateway=1", "1.10 - gateway=2"}, nil},
		"a word is not lower":                      {[]string{"1.0 - gateway=2", "1.1 - gateway=latest"}, nil},
		"a word is not taken back":                 {[]string{"1.0 - gateway=latest", "1.1 - gateway=1"}, nil},
		"an unordered chart is no evidence":        {[]string{"1.0 - gateway=2", "nightly - gateway=1"}, nil},
		"an unordered chart goes with its version": {[]string{"1.0 - gateway=2", "1.1 - gateway=1", "nightly - gateway=2"}, []fleet.ReleaseID{"1.0", "nightly"}},

		// Dates.
		"on one day":                     {[]string{"1.0 2026-01-02 gateway=2", "1.1 2026-01-02 gateway=1"}, []fleet.ReleaseID{"1.0"}},
		"later":                          {[]string{"1.0 2026-01-02 gateway=2", "1.1 2026-01-03 gateway=1"}, []fleet.ReleaseID{"1.0"}},
		"a backport goes further":        {[]string{"1.0 2026-01-01 gateway=1", "1.1 2026-03-01 gateway=3", "2.0 2026-02-01 gateway=2"}, nil},
		"a backport, and then back":      {[]string{"1.1 2026-03-01 gateway=3", "2.0 2026-02-01 gateway=2", "2.1 2026-04-01 gateway=2"}, []fleet.ReleaseID{"1.1"}},
		"a backport to something low":    {[]string{"1.0 2026-01-01 gateway=1", "2.0 2026-02-01 gateway=2", "1.1 2026-03-01 gateway=1.5"}, nil},
		"the last carrier's day":         {[]string{"1.0 2026-03-01 gateway=3", "1.1 2026-01-01 gateway=3", "2.0 2026-02-01 gateway=2"}, []fleet.ReleaseID{"1.0", "1.1"}},
		"its day is not known":           {[]string{"1.1 2026-03-01 gateway=3", "2.0 - gateway=2"}, []fleet.ReleaseID{"1.1"}},
		"the version's is not known":     {[]string{"1.1 - gateway=3", "2.0 2026-02-01 gateway=2"}, []fleet.ReleaseID{"1.1"}},
		"one chart version, two ids":     {[]string{"1.0 2026-01-01 gateway=3", "v1.0 2026-03-01 gateway=3", "2.0 2026-02-01 gateway=2"}, nil},
		"one chart version, up and down": {[]string{"1.0 - gateway=3", "v1.0 - gateway=2"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var releases []catalog.Release
			for _, line := range c.releases {
				releases = append(releases, pair(t, line))
			}
			entries := imported(t, catalog.State{}, releases...).Entries(nil, noon)
			if diff := cmp.Diff(c.want, ids(entries, catalog.Withdrawn)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDaysAreThoseOfUTC(t *testing.T) {
	t.Parallel()
	carries := pair(t, "1.1 - gateway=3")
	carries.ReleasedAt = time.Date(2026, 3, 2, 0, 30, 0, 0, time.FixedZone("", 3600)) // the 1st in UTC
	back := pair(t, "2.0 2026-03-01 gateway=2")
	entries := imported(t, catalog.State{}, carries, back).Entries(nil, noon)
	if got := ids(entries, catalog.Withdrawn); !slices.Equal(got, []fleet.ReleaseID{"1.1"}) {
		t.Errorf("withdrawn are %v", got)
	}
}

// history draws releases of two charts in which versions often go up, down and
// come back.
func history(t *rapid.T) []catalog.Release {
	version := rapid.SampledFrom([]string{"", "1", "v1", "1.0", "2-rc", "2", "2_1", "3", "4", "latest"})
	var out []catalog.Release
	for _, chart := range []string{catalog.GatewayChart, "other"} {
		for _, v := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"1.0", "v1.0", "1.1", "1.2", "1.10", "2.0-rc", "2.0", "2.1", "nightly"}), 0, 6, rapid.ID).Draw(t, "chart versions") {
			r := catalog.Release{ID: catalog.ReleaseIDOf(chart, v), Chart: chart, ChartVersion: v, Versions: fleet.VersionSet{}}
			r.Versions[fleet.LineGateway] = version.Draw(t, "gateway")
			r.Versions[fleet.LineSRA] = version.Draw(t, "sra")
			if r.Versions[fleet.LineGateway] == "" && r.Versions[fleet.LineSRA] == "" {
				continue
			}
			if hours := rapid.IntRange(-1, 96).Draw(t, "released"); hours >= 0 {
				r.ReleasedAt = noon.Add(time.Duration(hours) * time.Hour)
			}
			out = append(out, r)
		}
	}
	return out
}

// The rule once more, word by word and slowly.
func TestWithdrawnIsWhatTheRuleSays(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := history(t)
		facts, _, err := catalog.Import(catalog.State{}, "vendor", all, "anna", noon)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range applied(catalog.State{}, facts).Entries(nil, noon) {
			var lines []fleet.Line
			for _, line := range slices.Sorted(maps.Keys(e.Release.Versions)) {
				if takenBack(all, e.Release.Chart, line, e.Release.Versions[line]) {
					lines = append(lines, line)
				}
			}
			var got []fleet.Line
			for _, w := range e.Withdrawals {
				got = append(got, w.Line)
			}
			if !slices.Equal(lines, got) || (e.Status == catalog.Withdrawn) != (len(lines) > 0) || len(e.Reasons) != len(lines) {
				t.Fatalf("%s %s is %s for %v, but the rule says %v", e.Release.ID, e.Release.Versions, e.Status, got, lines)
			}
		}
	})
}

func takenBack(all []catalog.Release, chart string, line fleet.Line, version string) bool {
	carries := func(r catalog.Release) bool {
		order, ok := catalog.Compare(r.Versions[line], version)
		return r.Chart == chart && ok && order == 0
	}
	higher := func(a, b catalog.Release) bool {
		order, ok := catalog.Compare(a.ChartVersion, b.ChartVersion)
		return ok && order > 0
	}
	placed := slices.DeleteFunc(slices.Clone(all), func(r catalog.Release) bool {
		_, ok := catalog.Compare(r.ChartVersion, r.ChartVersion)
		return !ok
	})
	var last []catalog.Release // with the highest chart version that carries it
	for _, r := range placed {
		if carries(r) && !slices.ContainsFunc(placed, func(o catalog.Release) bool { return carries(o) && higher(o, r) }) {
			last = append(last, r)
		}
	}
	for _, r := range placed {
		order, ok := catalog.Compare(r.Versions[line], version)
		if r.Chart != chart || !ok || order >= 0 || len(last) == 0 || !higher(r, last[0]) {
			continue
		}
		before := func(o catalog.Release) bool {
			return !r.ReleasedAt.IsZero() && !o.ReleasedAt.IsZero() &&
				r.ReleasedAt.Format(time.DateOnly) < o.ReleasedAt.Format(time.DateOnly)
		}
		if !slices.ContainsFunc(last, before) {
			return true
		}
	}
	return false
}

func TestTheOrderOfImportsDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := history(t)
		want := split(t, all).Entries(nil, noon)
		got := split(t, rapid.Permutation(all).Draw(t, "shuffled")).Entries(nil, noon)
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
		if diff := cmp.Diff(catalog.GraphOf(want), catalog.GraphOf(got), cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

// split imports releases in several lists that overlap.
func split(t *rapid.T, all []catalog.Release) catalog.State {
	var s catalog.State
	take := func(some []catalog.Release) {
		facts, _, err := catalog.Import(s, "vendor", some, "anna", noon)
		if err != nil {
			t.Fatal(err)
		}
		s = applied(s, facts)
	}
	for rest := all; len(rest) > 0; {
		n := rapid.IntRange(1, len(rest)).Draw(t, "in one import")
		take(rest[:n])
		rest = rest[rapid.IntRange(1, n).Draw(t, "not again"):]
	}
	return s
}

func TestTheStatusOfARelease(t *testing.T) {
	t.Parallel()
	s := imported(t, catalog.State{}, pair(t, "1.0 2026-01-01 gateway=1"), pair(t, "1.1 2026-01-02 gateway=2"), pair(t, "1.2 2026-01-03 gateway=1"))
	took := "chart akeyless-gateway 1.2 went back from gateway 2 to 1 on 2026-01-03, and no later one carries 2 again"
	configured := []catalog.Release{
		{ID: "spare", Versions: fleet.VersionSet{fleet.LineGateway: "2.0", fleet.LineSRA: "7"}},
		{ID: "compose", Versions: fleet.VersionSet{fleet.LineGateway: "1"}},
	}
	for _, b := range []catalog.Block{
		{Release: "1.0", Owner: "anna", Reason: "recordings are empty", Expires: noon.Add(time.Hour)},
		{Release: "1.1", Owner: "anna", Reason: "sessions hang"},
		{Release: "compose", Owner: "bert", Reason: "not yet"},
	} {
		facts, err := catalog.BlockRelease(s, configured, b, "anna", noon)
		if err != nil {
			t.Fatal(err)
		}
		s = applied(s, facts)
	}
	type said struct {
		ID      fleet.ReleaseID
		Status  catalog.Status
		Blocked bool
		Reasons []string
	}
	for name, c := range map[string]struct {
		now  time.Time
		want []said
	}{
		"all blocks in force": {noon.Add(time.Minute), []said{
			{"1.0", catalog.Blocked, true, []string{"anna blocked it on 2026-06-01 until 2026-06-01T13:00:00Z: recordings are empty"}},
			{"1.1", catalog.Blocked, true, []string{"anna blocked it on 2026-06-01: sessions hang", took}},
			{"1.2", catalog.Available, false, nil},
			{"compose", catalog.Blocked, true, []string{"bert blocked it on 2026-06-01: not yet"}},
			{"spare", catalog.Withdrawn, false, []string{took}},
		}},
		"one has ended": {noon.Add(time.Hour), []said{
			{"1.0", catalog.Available, false, nil},
			{"1.1", catalog.Blocked, true, []string{"anna blocked it on 2026-06-01: sessions hang", took}},
			{"1.2", catalog.Available, false, nil},
			{"compose", catalog.Blocked, true, []string{"bert blocked it on 2026-06-01: not yet"}},
			{"spare", catalog.Withdrawn, false, []string{took}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got []said
			for _, e := range s.Entries(configured, c.now) {
				got = append(got, said{e.Release.ID, e.Status, e.Block != nil, e.Reasons})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestASetOfImagesIsWithdrawnUnlessAChartCarriesItsVersions(t *testing.T) {
	t.Parallel()
	set := []catalog.Release{{ID: "set", Versions: fleet.VersionSet{fleet.LineSRA: "2"}}}
	s := imported(t, catalog.State{}, pair(t, "1.0 - sra=2"), pair(t, "1.1 - sra=1"))
	entries := s.Entries(set, noon)
	if got := ids(entries, catalog.Withdrawn); !slices.Equal(got, []fleet.ReleaseID{"1.0", "set"}) {
		t.Errorf("withdrawn are %v", got)
	}
	if _, ok := catalog.NewIndex(entries).Withdrawn(fleet.LineSRA, "2"); !ok {
		t.Error("sra 2 is not withdrawn")
	}
	s = imported(t, s, catalog.Release{ID: "akeyless-sra-9.0", Chart: "akeyless-sra", ChartVersion: "9.0", Versions: fleet.VersionSet{fleet.LineSRA: "2"}})
	entries = s.Entries(set, noon)
	if got := ids(entries, catalog.Withdrawn); !slices.Equal(got, []fleet.ReleaseID{"1.0"}) {
		t.Errorf("with another chart, withdrawn are %v", got)
	}
	if reason, ok := catalog.NewIndex(entries).Withdrawn(fleet.LineSRA, "2"); ok {
		t.Errorf("with another chart, sra 2 is withdrawn: %s", reason)
	}
}

func TestTheOrderOfEntries(t *testing.T) {
	t.Parallel()
	var releases []catalog.Release
	for _, chart := range []string{"b", "a"} {
		for _, version := range []string{"1.10.0", "nightly", "1.9.0", "2.0.0-rc.1", "2.0.0", "edge"} {
			releases = append(releases, catalog.Release{ID: catalog.ReleaseIDOf(chart, version), Chart: chart, ChartVersion: version, Versions: fleet.VersionSet{"x": "1"}})
		}
	}
	configured := []catalog.Release{{ID: "z", Versions: fleet.VersionSet{"x": "1"}}, {ID: "0", Versions: fleet.VersionSet{"x": "1"}}}
	var got []string
	for _, e := range imported(t, catalog.State{}, releases...).Entries(configured, noon) {
		got = append(got, string(e.Release.ID))
	}
	want := "a-1.9.0 a-1.10.0 a-2.0.0-rc.1 a-2.0.0 a-edge a-nightly b-1.9.0 b-1.10.0 b-2.0.0-rc.1 b-2.0.0 b-edge b-nightly 0 z"
	if strings.Join(got, " ") != want {
		t.Errorf("in order %v", got)
	}
}

func TestPackagingRisks(t *testing.T) {
	t.Parallel()
	both := func(gateway, sra string) fleet.VersionSet {
		return fleet.VersionSet{fleet.LineGateway: gateway, fleet.LineSRA: sra}
	}
	for name, c := range map[string]struct {
		release    catalog.Release
		configured *catalog.Release
		want       []string
	}{
		"none":                    {release: catalog.Release{AppVersion: "4.1.0_3.1.0", Versions: both("4.1.0", "3.1.0"), Images: map[fleet.Line]string{"gateway": "akeyless/gateway:4.1.0@sha256:ab", "sra": "host:5000/sra:v3.1"}}},
		"none, written otherwise": {release: catalog.Release{AppVersion: "v4.1_3.1", Versions: both("4.1.0", "3.1.0")}},
		"none, split at the first": {release: catalog.Release{AppVersion: "4.1.0_3.1.0-rc_1", Versions: both("4.1.0", "3.1.0-rc_1")},
			want: []string{"sra version 3.1.0-rc_1 is malformed; it is ordered by its leading numbers"}},
		"no appVersion":          {release: catalog.Release{Versions: both("4.1.0", "3.1.0")}},
		"appVersion of one line": {release: catalog.Release{AppVersion: "9", Versions: fleet.VersionSet{fleet.LineZTWA: "7"}}},
		"another gateway": {release: catalog.Release{AppVersion: "4.2.0_3.1.0", Versions: both("4.1.0", "3.1.0")},
			want: []string{`appVersion 4.2.0_3.1.0 says gateway "4.2.0", but it carries 4.1.0`}},
		"another sra": {release: catalog.Release{AppVersion: "4.1.0_", Versions: both("4.1.0", "3.1.0")},
			want: []string{`appVersion 4.1.0_ says sra "", but it carries 3.1.0`}},
		"no pair": {release: catalog.Release{AppVersion: "4.1.0", Versions: both("4.1.0", "3.1.0")},
			want: []string{"appVersion 4.1.0 is not written <gateway>_<sra>, so it proves nothing"}},
		"floating": {release: catalog.Release{Versions: both("latest-akeyless", "3.1.0")},
			want: []string{"gateway version latest-akeyless can name something else tomorrow"}},
		"no version at all": {release: catalog.Release{Versions: both("4.1.0", "3 1")},
			want: []string{`sra version "3 1" is malformed and has no place in the order of versions`}},
		"a digest": {release: catalog.Release{Versions: both("sha256:"+strings.Repeat("0", 64), "3.1.0")}},
		"an unordered chart": {release: catalog.Release{ChartVersion: "nightly", Versions: both("4.1.0", "3.1.0")},
			want: []string{`chart version "nightly" has no place in the order of versions, so nothing tells whether it was withdrawn`}},
		"notes": {release: catalog.Release{Versions: both("4.1.0", "3.1.0"), Notes: []string{"the annotation says sra 3.0.9"}},
			want: []string{"the annotation says sra 3.0.9"}},
		"another tag": {release: catalog.Release{Versions: both("4.1.0", "3.1.0"), Images: map[fleet.Line]string{
			"gateway": "host:5000/gateway:4.1.1@sha256:ab", "sra": "host:5000/sra", "ztwa": "ztwa:9"}},
			want: []string{"gateway image host:5000/gateway:4.1.1@sha256:ab is not tagged 4.1.0, the version that the release declares"}},
		"a tag that is no version": {release: catalog.Release{Versions: both("4.1.0", "3.1.0"), Images: map[fleet.Line]string{"gateway": "gateway:latest"}}},
		"configured alike":         {release: catalog.Release{Versions: both("4.1.0", "3.1.0")}, configured: &catalog.Release{Versions: both("4.1", "v3.1.0")}},
		"configured otherwise": {release: catalog.Release{Versions: fleet.VersionSet{fleet.LineGateway: "4.1.0"}}, configured: &catalog.Release{Versions: both("4.2.0", "3.1.0")},
			want: []string{
				"the configuration says it carries gateway 4.2.0, but chart akeyless-gateway 1.0.0 carries 4.1.0",
				"the configuration says it carries sra 3.1.0, but chart akeyless-gateway 1.0.0 says nothing of that line",
			}},
		"a configured image with another tag": {release: catalog.Release{Versions: both("4.1.0", "3.1.0")},
			configured: &catalog.Release{Versions: both("4.1.0", "3.1.0"), Images: map[fleet.Line]string{"sra": "sra:3.0.0"}},
			want:       []string{"sra image sra:3.0.0 is not tagged 3.1.0, the version that the release declares"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := c.release
			r.ID, r.Chart = "1.0.0", catalog.GatewayChart
			if r.ChartVersion == "" {
				r.ChartVersion = "1.0.0"
			}
			var configured []catalog.Release
			if c.configured != nil {
				c.configured.ID = "1.0.0"
				configured = append(configured, *c.configured)
			}
			entries := imported(t, catalog.State{}, r).Entries(configured, noon)
			if len(entries) != 1 || entries[0].Status != catalog.Available {
				t.Fatalf("entries are %+v", entries)
			}
			if diff := cmp.Diff(c.want, entries[0].PackagingRisks); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTheConfigurationLendsImages(t *testing.T) {
	t.Parallel()
	r := pair(t, "1.0.0 - gateway=4.1.0 sra=3.1.0")
	r.Images = map[fleet.Line]string{"gateway": "akeyless/gateway:4.1.0", "sra": "akeyless/sra:3.1.0"}
	s := imported(t, catalog.State{}, r)
	configured := []catalog.Release{{ID: "1.0.0", Versions: fleet.VersionSet{"gateway": "4.1.0"}, Images: map[fleet.Line]string{"gateway": "mirror/gateway:4.1.0"}}}
	got := entry(t, s.Entries(configured, noon), "1.0.0").Release
	want := map[fleet.Line]string{"gateway": "mirror/gateway:4.1.0", "sra": "akeyless/sra:3.1.0"}
	if !maps.Equal(got.Images, want) || got.Chart != catalog.GatewayChart || len(got.Versions) != 2 {
		t.Errorf("the entry is %+v", got)
	}
	if again := entry(t, s.Entries(nil, noon), "1.0.0").Release.Images; !maps.Equal(again, r.Images) {
		t.Errorf("without the configuration the images are %v", again)
	}
}

func TestTheIndex(t *testing.T) {
	t.Parallel()
	s := imported(t, catalog.State{}, pair(t, "1.1 - gateway=2 sra=1"), pair(t, "1.0 - gateway=1 sra=1"), pair(t, "1.2 - gateway=2 sra=1"))
	x := catalog.NewIndex(s.Entries([]catalog.Release{
		{ID: "gateway-only", Versions: fleet.VersionSet{"gateway": "2.0"}},
		{ID: "nothing"},
	}, noon))
	for name, c := range map[string]struct {
		set  fleet.VersionSet
		want []fleet.ReleaseID
	}{
		"all lines":           {fleet.VersionSet{"gateway": "2", "sra": "v1"}, []fleet.ReleaseID{"1.1", "1.2", "gateway-only"}},
		"a line more":         {fleet.VersionSet{"gateway": "1", "sra": "1", "ztwa": "5"}, []fleet.ReleaseID{"1.0"}},
		"a line less":         {fleet.VersionSet{"gateway": "2"}, []fleet.ReleaseID{"gateway-only"}},
		"versions of two":     {fleet.VersionSet{"gateway": "1", "sra": "2"}, nil},
		"lines the wrong way": {fleet.VersionSet{"gateway": "3", "sra": "2"}, nil},
		"no line":             {nil, nil},
		"a version not known": {fleet.VersionSet{"gateway": "", "sra": ""}, nil},
	} {
		if got := x.Carrying(c.set); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if got := x.Carries("gateway", "2.0.0"); !slices.Equal(got, []fleet.ReleaseID{"1.1", "1.2", "gateway-only"}) {
		t.Errorf("gateway 2 is carried by %v", got)
	}
	if got := x.Carries("sra", "2"); got != nil {
		t.Errorf("sra 2 is carried by %v", got)
	}
	if e, ok := x.Release("1.0"); !ok || e.Release.Versions["gateway"] != "1" {
		t.Errorf("1.0 is %+v, %v", e, ok)
	}
}

func TestNoIndexKnowsNothing(t *testing.T) {
	t.Parallel()
	var x *catalog.Index
	set := fleet.VersionSet{"gateway": "1"}
	_, known := x.Release("1.0")
	_, withdrawn := x.Withdrawn("gateway", "1")
	if known || withdrawn || x.Carrying(set) != nil || x.Carries("gateway", "1") != nil {
		t.Error("it knows something")
	}
}

func TestTheGraph(t *testing.T) {
	t.Parallel()
	s := imported(t, catalog.State{}, pair(t, "1.0 - gateway=1 sra=1"), pair(t, "1.1 - gateway=2 sra=1"), pair(t, "1.2 - gateway=v2 sra=1"),
		pair(t, "1.3 - gateway=1 sra=2"), pair(t, "1.4 - gateway=latest ztwa=1"), pair(t, "nightly - gateway=9"),
		catalog.Release{ID: "o-1", Chart: "o", ChartVersion: "1", Versions: fleet.VersionSet{"gateway": "1", "sra": "1"}},
		catalog.Release{ID: "o-2", Chart: "o", ChartVersion: "2", Versions: fleet.VersionSet{"gateway": "1", "sra": "1.0"}})
	configured := []catalog.Release{{ID: "set", Versions: fleet.VersionSet{"gateway": "3"}}}
	for _, id := range []fleet.ReleaseID{"1.0", "1.2", "set"} {
		facts, err := catalog.BlockRelease(s, configured, catalog.Block{Release: id, Owner: "anna", Reason: "no"}, "anna", noon)
		if err != nil {
			t.Fatal(err)
		}
		s = applied(s, facts)
	}
	want := catalog.Graph{
		Nodes: []catalog.Node{
			{fleet.VersionSet{"gateway": "1", "sra": "1"}, []fleet.ReleaseID{"1.0", "o-1", "o-2"}, catalog.Available},
			{fleet.VersionSet{"gateway": "2", "sra": "1"}, []fleet.ReleaseID{"1.1", "1.2"}, catalog.Withdrawn},
			{fleet.VersionSet{"gateway": "1", "sra": "2"}, []fleet.ReleaseID{"1.3"}, catalog.Available},
			{fleet.VersionSet{"gateway": "latest", "ztwa": "1"}, []fleet.ReleaseID{"1.4"}, catalog.Available},
			{fleet.VersionSet{"gateway": "9"}, []fleet.ReleaseID{"nightly"}, catalog.Available},
			{fleet.VersionSet{"gateway": "3"}, []fleet.ReleaseID{"set"}, catalog.Blocked},
		},
		Edges: []catalog.Edge{
			{catalog.GatewayChart, 0, 1, "1.1", []catalog.LineMove{{"gateway", "1", "2", catalog.DirectionUp}}},
			{catalog.GatewayChart, 1, 2, "1.3", []catalog.LineMove{{"gateway", "2", "1", catalog.DirectionDown}, {"sra", "1", "2", catalog.DirectionUp}}},
			{catalog.GatewayChart, 2, 3, "1.4", []catalog.LineMove{
				{"gateway", "1", "latest", catalog.DirectionOther}, {"sra", "2", "", catalog.DirectionOther}, {"ztwa", "", "1", catalog.DirectionOther}}},
		},
	}
	if diff := cmp.Diff(want, catalog.GraphOf(s.Entries(configured, noon))); diff != "" {
		t.Error(diff)
	}
}
