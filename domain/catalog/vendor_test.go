package catalog_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestWhatTheVendorTookBack(t *testing.T) {
	t.Parallel()
	history := vendor(t)
	if len(history) != 129 {
		t.Fatalf("the history has %d releases", len(history))
	}
	entries := imported(t, catalog.State{}, history...).Entries(nil, noon)
	got := make(map[fleet.ReleaseID][]string)
	var order []fleet.ReleaseID
	for _, e := range entries {
		order = append(order, e.Release.ID)
		if e.Status != catalog.Available {
			got[e.Release.ID] = append([]string{string(e.Status)}, e.Reasons...)
		}
	}
	const chart = "chart akeyless-gateway "
	mistag := chart + "1.0.4 went back from sra 2.3.2_1.8.0 to 2.3.1 on 2024-12-18, and no later one carries 2.3.2_1.8.0 again"
	want := map[fleet.ReleaseID][]string{
		"1.0.3":  {"withdrawn", mistag},
		"1.0.5":  {"withdrawn", chart + "1.0.9 went back from sra 2.3.3 to 2.3.1 on 2024-12-29, and no later one carries 2.3.3 again"},
		"1.0.6":  {"withdrawn", chart + "1.0.9 went back from sra 2.3.4 to 2.3.1 on 2024-12-29, and no later one carries 2.3.4 again"},
		"1.0.7":  {"withdrawn", chart + "1.0.9 went back from sra 2.3.4 to 2.3.1 on 2024-12-29, and no later one carries 2.3.4 again"},
		"1.0.8":  {"withdrawn", chart + "1.0.9 went back from sra 2.3.5 to 2.3.1 on 2024-12-29, and no later one carries 2.3.5 again"},
		"1.11.0": {"withdrawn", chart + "1.11.2 went back from gateway 4.38.0 to 4.37.0 on 2025-10-22, and no later one carries 4.38.0 again"},
		"1.11.1": {"withdrawn", chart + "1.11.2 went back from gateway 4.38.0 to 4.37.0 on 2025-10-22, and no later one carries 4.38.0 again"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var published []fleet.ReleaseID
	for _, r := range history {
		published = append(published, r.ID)
	}
	if diff := cmp.Diff(published, order); diff != "" {
		t.Errorf("not in the order of publication:\n%s", diff)
	}

	x := catalog.NewIndex(entries)
	if reason, ok := x.Withdrawn(fleet.LineSRA, "v2.3.2_1.8.0"); !ok || reason != mistag {
		t.Errorf("2.3.2_1.8.0: %v, %q", ok, reason)
	}
	if reason, ok := x.Withdrawn(fleet.LineGateway, "2.3.3"); ok {
		t.Errorf("gateway 2.3.3: %q", reason)
	}
	for _, e := range entries {
		for line, version := range e.Release.Versions {
			if _, ok := x.Withdrawn(line, version); ok && e.Status == catalog.Available {
				t.Errorf("%s carries %s %s, which was taken back, and is available", e.Release.ID, line, version)
			}
		}
		var risks []string
		if e.Release.ID == "1.0.3" {
			risks = []string{"sra version 2.3.2_1.8.0 is malformed; it is ordered by its leading numbers"}
		}
		if diff := cmp.Diff(risks, e.PackagingRisks); diff != "" {
			t.Errorf("%s: %s", e.Release.ID, diff)
		}
	}
}

func TestTheGraphOfTheVendorsReleases(t *testing.T) {
	t.Parallel()
	entries := imported(t, catalog.State{}, vendor(t)...).Entries(nil, noon)
	g := catalog.GraphOf(entries)
	seen := 0
	for _, n := range g.Nodes {
		seen += len(n.Releases)
		for _, id := range n.Releases {
			e := entry(t, entries, id)
			if !cmp.Equal(e.Release.Versions, n.Versions) || e.Status != n.Status {
				t.Errorf("%s is %s with %s, its node %s with %s", id, e.Status, e.Release.Versions, n.Status, n.Versions)
			}
		}
	}
	if seen != len(entries) {
		t.Errorf("%d of %d releases have a node", seen, len(entries))
	}
	downs := make(map[fleet.ReleaseID]string)
	at := g.Edges[0].From
	for _, e := range g.Edges {
		if e.From != at {
			t.Errorf("%s does not go on where the one before ended", e.Release)
		}
		at = e.To
		if !slices.Contains(g.Nodes[e.To].Releases, e.Release) || len(e.Moves) == 0 {
			t.Errorf("%s leads to %s by %v", e.Release, g.Nodes[e.To].Versions, e.Moves)
		}
		for _, m := range e.Moves {
			if m.Direction == catalog.DirectionDown {
				downs[e.Release] = string(m.Line) + " " + m.From + " to " + m.To
			}
		}
		// The vendor never moves both at once forward.
		if len(e.Moves) > 1 {
			t.Errorf("%s moves %v", e.Release, e.Moves)
		}
	}
	want := map[fleet.ReleaseID]string{
		"1.0.4": "sra 2.3.2_1.8.0 to 2.3.1", "1.0.9": "sra 2.3.5 to 2.3.1", "1.11.2": "gateway 4.38.0 to 4.37.0",
	}
	if diff := cmp.Diff(want, downs); diff != "" {
		t.Error(diff)
	}
	if last := g.Nodes[at]; !slices.Contains(last.Releases, "2.0.9") {
		t.Errorf("the chart ends at %v", last)
	}
}

func BenchmarkEntries(b *testing.B) {
	s := catalog.State{}
	history := vendor(b)
	var releases []catalog.Release
	for i := range 5000 {
		r := history[i%len(history)]
		r.Chart += string(rune('a' + i/len(history)%26))
		r.ID = catalog.ReleaseIDOf(r.Chart, r.ChartVersion+"-"+string(rune('a'+i/len(history)/26)))
		releases = append(releases, r)
	}
	s = imported(b, s, releases...)
	b.Run("many charts", func(b *testing.B) {
		for b.Loop() {
			s.Entries(nil, noon)
		}
	})
	one := imported(b, catalog.State{}, long(5000, func(i int) int { return i })...)
	b.Run("one chart", func(b *testing.B) {
		for b.Loop() {
			one.Entries(nil, noon)
		}
	})
	back := imported(b, catalog.State{}, long(5000, func(i int) int { return (i + 1) % 5000 })...)
	b.Run("one chart that went back at last", func(b *testing.B) {
		for b.Loop() {
			back.Entries(nil, noon)
		}
	})
}
