package drift_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

var upgrade = drift.Edge{From: set("4.52.0", "3.0.3"), To: set("5.0.1", "3.1.0")}

// learned are windows that saw the upgrade take so many minutes each time.
func learned(minutes ...int) *drift.Windows {
	w := &drift.Windows{Cap: 4 * time.Hour}
	for i, m := range minutes {
		w.Learn(upgrade, minute(i-200), time.Duration(m)*time.Minute)
	}
	return w
}

func TestWindowsLearn(t *testing.T) {
	t.Parallel()
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = i + 1
	}
	for _, test := range []struct {
		name    string
		windows *drift.Windows
		edge    drift.Edge
		want    time.Duration // zero for none
		basis   string
	}{
		{"nothing to learn into", nil, upgrade, 0, ""},
		{"nothing learned", learned(), upgrade, 0, ""},
		{"too little", learned(7, 7, 7, 7), upgrade, 0, ""},
		{"five are enough", learned(3, 7, 5, 4, 6), upgrade, 14 * time.Minute, "twice the 7m0s that this move took in this fleet (95th percentile of 5)"},
		{"of twenty the longest does not count", learned(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 90), upgrade, 38 * time.Minute, "twice the 19m0s that this move took in this fleet (95th percentile of 20)"},
		{"of a hundred the fifth longest counts", learned(hundred...), upgrade, 190 * time.Minute, "twice the 1h35m0s that this move took in this fleet (95th percentile of 100)"},
		{"only the last hundred count", learned(append([]int{200, 200, 200, 200, 200, 200, 200, 200, 200, 200}, hundred...)...), upgrade, 190 * time.Minute, "twice the 1h35m0s that this move took in this fleet (95th percentile of 100)"},
		{"never under two minutes", learned(0, 0, 0, 0, 0), upgrade, 2 * time.Minute, "twice the 0s that this move took in this fleet (95th percentile of 5)"},
		{"never over the cap", learned(200, 200, 200, 200, 200), upgrade, 4 * time.Hour, "twice the 3h20m0s that this move took in this fleet (95th percentile of 5)"},
		{"a mix that lasted for ages", func() *drift.Windows {
			w := &drift.Windows{Cap: 4 * time.Hour}
			for range 5 {
				w.Learn(upgrade, noon, 1<<62)
			}
			return w
		}(), upgrade, 4 * time.Hour, "twice the 1281023h53m38.427387904s that this move took in this fleet (95th percentile of 5)"},
		{"the way back is another move", learned(7, 7, 7, 7, 7), drift.Edge{From: upgrade.To, To: upgrade.From}, 0, ""},
		{"lines that do not move make no difference", learned(7, 7, 7, 7, 7), drift.Edge{
			From: fleet.VersionSet{fleet.LineGateway: "4.52.0", fleet.LineSRA: "3.0.3", fleet.LineZTWA: "1"},
			To:   fleet.VersionSet{fleet.LineGateway: "5.0.1", fleet.LineSRA: "3.1.0", fleet.LineZTWA: "1"},
		}, 14 * time.Minute, "twice the 7m0s that this move took in this fleet (95th percentile of 5)"},
		{"half of it is another move", learned(7, 7, 7, 7, 7), drift.Edge{From: upgrade.From, To: set("5.0.1", "3.0.3")}, 0, ""},
		{"nobody knows where to", learned(7, 7, 7, 7, 7), drift.Edge{From: upgrade.From}, 0, ""},
		{"nor where from", learned(7, 7, 7, 7, 7), drift.Edge{To: upgrade.To}, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, basis, ok := test.windows.Window(test.edge, minute(1000))
			if got != test.want || basis != test.basis || ok != (test.want > 0) {
				t.Errorf("%s %q %t, want %s %q", got, basis, ok, test.want, test.basis)
			}
		})
	}
	var none *drift.Windows
	none.Learn(upgrade, noon, time.Minute)
	w := learned(7, 7, 7, 7)
	w.Learn(drift.Edge{From: upgrade.From}, noon, time.Minute)
	w.Learn(drift.Edge{From: upgrade.From, To: upgrade.From}, noon, time.Minute)
	w.Learn(upgrade, noon, -time.Minute)
	if _, _, ok := w.Window(upgrade, minute(1000)); ok {
		t.Error("it learned from a mix that leads nowhere")
	}
}

// What was learned after a mix began has no part in its window either.
func TestWindowsDoNotKnowInWhichOrderTheyLearned(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type mix struct {
			edge  drift.Edge
			ended time.Time
			took  time.Duration
		}
		back := drift.Edge{From: upgrade.To, To: upgrade.From}
		mixes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mix {
			return mix{
				rapid.SampledFrom([]drift.Edge{upgrade, back}).Draw(t, "edge"), minute(rapid.IntRange(0, 50).Draw(t, "ended")),
				time.Duration(rapid.IntRange(0, 300).Draw(t, "took")) * time.Minute,
			}
		}), 0, 300).Draw(t, "mixes")
		a, b, past := &drift.Windows{Cap: time.Hour}, &drift.Windows{Cap: time.Hour}, &drift.Windows{Cap: time.Hour}
		for _, m := range mixes {
			a.Learn(m.edge, m.ended, m.took)
		}
		for _, m := range rapid.Permutation(mixes).Draw(t, "in another order") {
			b.Learn(m.edge, m.ended, m.took)
		}
		began := minute(rapid.IntRange(0, 60).Draw(t, "began"))
		for _, m := range mixes {
			if m.ended.Before(began) {
				past.Learn(m.edge, m.ended, m.took)
			}
		}
		for _, edge := range []drift.Edge{upgrade, back} {
			one, basis, ok := a.Window(edge, began)
			if _, then, _ := past.Window(edge, began); then != basis {
				t.Fatalf("%q, and before the mixes that ended later %q", basis, then)
			}
			other, otherBasis, otherOK := b.Window(edge, began)
			if one != other || basis != otherBasis || ok != otherOK {
				t.Fatalf("%s %q, and in another order %s %q", one, basis, other, otherBasis)
			}
			if ok && (one < 2*time.Minute || one > time.Hour) {
				t.Fatalf("a window of %s", one)
			}
		}
	})
}

func TestWhichWindowApplies(t *testing.T) {
	t.Parallel()
	halves := []fleet.Inventory{at(minute(-5), pair("4.52.0", "3.0.3")...), at(noon, pair("5.0.1", "3.0.3")...)}
	within := []fleet.Inventory{
		at(minute(-5), pair("4.52.0", "3.0.3")...), at(noon, runs(fleet.Gateway, "4.52.0"), runs(fleet.SRAWeb, "3.0.9"), runs(fleet.SRASSH, "3.0.3")),
	}
	unclear := []fleet.Inventory{
		at(minute(-5), pair("4.52.0", "3.0.3")...),
		at(noon, runs(fleet.Gateway, "4.52.0"), runs(fleet.SRAWeb, "3.0.9"), runs(fleet.SRASSH, "3.1.0")),
	}
	edge := func(line fleet.Line, from, to string, minutes int) drift.EdgeWindow {
		return drift.EdgeWindow{Line: line, From: from, To: to, Window: time.Duration(minutes) * time.Minute}
	}
	steps := func(gateway, sra int) map[fleet.Line]time.Duration {
		return map[fleet.Line]time.Duration{fleet.LineGateway: time.Duration(gateway) * time.Minute, fleet.LineSRA: time.Duration(sra) * time.Minute}
	}
	for _, test := range []struct {
		name    string
		cluster drift.Cluster
		seen    []fleet.Inventory
		limits  drift.Limits
		want    int // minutes
		basis   string
	}{
		{"the default", drift.Cluster{}, halves, drift.Limits{}, 10, "the default window"},
		{"the cluster's own", drift.Cluster{Window: 20 * time.Minute}, halves, drift.Limits{}, 20, "the window configured for this cluster"},
		{"what was learned wins", drift.Cluster{Window: 20 * time.Minute}, halves, drift.Limits{Learned: learned(7, 7, 7, 7, 7)}, 14, "twice the 7m0s that this move took in this fleet (95th percentile of 5)"},
		{"what was learned of other moves does not", drift.Cluster{}, within, drift.Limits{Learned: learned(7, 7, 7, 7, 7)}, 10, "the default window"},
		{"a line's wins over it", drift.Cluster{}, within, drift.Limits{Steps: steps(5, 3), Learned: learned(7, 7, 7, 7, 7)}, 3, "the window configured for sra"},
		{"of two lines that move the longest", drift.Cluster{}, halves, drift.Limits{Steps: steps(5, 3)}, 5, "the window configured for gateway"},
		{"a line's where nobody knows where to", drift.Cluster{}, unclear, drift.Limits{Steps: steps(5, 3)}, 3, "the window configured for sra"},
		{
			"a move's wins over all", drift.Cluster{Window: time.Hour}, halves,
			drift.Limits{Steps: steps(5, 3), Edges: []drift.EdgeWindow{edge(fleet.LineSRA, "3.0.3", "v3.1", 4)}, Learned: learned(7, 7, 7, 7, 7)},
			4, "the window configured for sra 3.0.3 to v3.1",
		},
		{
			"of two moves the longest", drift.Cluster{}, halves,
			drift.Limits{Edges: []drift.EdgeWindow{edge(fleet.LineSRA, "3.0.3", "3.1.0", 4), edge(fleet.LineGateway, "4.52.0", "5.0.1", 6)}},
			6, "the window configured for gateway 4.52.0 to 5.0.1",
		},
		{
			"other moves do not count", drift.Cluster{}, halves,
			drift.Limits{Edges: []drift.EdgeWindow{edge(fleet.LineSRA, "3.1.0", "3.0.3", 4), edge(fleet.LineGateway, "4.52.0", "5.0.2", 6), edge(fleet.LineZTWA, "", "", 8)}},
			10, "the default window",
		},
		{
			"a rollout's wins while it moves", drift.Cluster{Assigned: release("old", "4.52.0", "3.0.3"), Move: towards()}, halves,
			drift.Limits{Steps: steps(5, 3), Learned: learned(7, 7, 7, 7, 7)}, 60, "the window of rollout r1",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.limits.MixedWindow, test.limits.DarkAfter = 10*time.Minute, 2*time.Hour
			c := seen(test.cluster, test.seen...)
			j := drift.Judge(c, test.limits, known(), noon)
			want := time.Duration(test.want) * time.Minute
			if j.State != drift.Stepping || j.Window != want || j.WindowBasis != test.basis {
				t.Errorf("%s for %s, %q; want %s, %q", j.State, j.Window, j.WindowBasis, want, test.basis)
			}
			end := j.MixedSince.Add(want)
			last := test.seen[len(test.seen)-1]
			last.ObservedAt = end
			c = c.Observe(last)
			if j := drift.Judge(c, test.limits, known(), end.Add(-1)); j.State != drift.Stepping || !j.WakeAt.Equal(end) {
				t.Errorf("%s until %s before it ends", j.State, j.WakeAt)
			}
			j = drift.Judge(c, test.limits, known(), end)
			if j.State != drift.Overdue {
				t.Errorf("%s when it ends", j.State)
			}
			if said := fmt.Sprintf("longer than %s, %s", want, test.basis); test.cluster.Move == nil && !strings.HasSuffix(j.Reasons[0], said) {
				t.Errorf("it says %q, and not %q", j.Reasons[0], said)
			}
		})
	}
}
