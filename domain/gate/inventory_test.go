package gate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// codes lists a result's codes, the deciding one first.
func codes(r Result) string {
	out := make([]string, len(r.Reasons))
	for i, reason := range r.Reasons {
		out[i] = string(reason.Code)
	}
	return strings.Join(out, " ")
}

// wantResult compares a result's verdict, codes and those of its figures that are
// not zero.
func wantResult(t *testing.T, got Result, verdict Verdict, wantCodes string, figures map[string]int64) {
	t.Helper()
	if got.Verdict != verdict || codes(got) != wantCodes {
		t.Errorf("%s is %s: %s\nwant %s: %s\n%v", got.Check, got.Verdict, codes(got), verdict, wantCodes, got.Reasons)
	}
	if names := slices.Sorted(maps.Keys(got.Figures)); !slices.Equal(names, slices.Sorted(slices.Values(Figures()[got.Check]))) {
		t.Errorf("%s has figures %v", got.Check, names)
	}
	counted := maps.Clone(got.Figures)
	maps.DeleteFunc(counted, func(_ string, n int64) bool { return n == 0 })
	if figures != nil && !maps.Equal(counted, figures) {
		t.Errorf("figures (-want +got):\n%s", cmp.Diff(figures, counted))
	}
	if got.Text == "" || got.Text != got.Reasons[0].Text {
		t.Errorf("text is %q, reasons %v", got.Text, got.Reasons)
	}
}

func ran(component fleet.Component, n int, version, digest string) []fleet.Instance {
	out := make([]fleet.Instance, n)
	for i := range out {
		out[i] = fleet.Instance{ID: fleet.InstanceID(fmt.Sprintf("%s-%s-%d", component, version, i)), Component: component, Tag: version, Digest: digest, Health: fleet.HealthHealthy}
	}
	return out
}

func registered(at time.Time, versions ...string) fleet.Registration {
	r := fleet.Registration{Cluster: paris, ObservedAt: at, LastReport: at, Gateways: []fleet.RegisteredGateway{{Name: "paris", Status: "Running"}}}
	for i, version := range versions {
		r.Bastions = append(r.Bastions, fleet.Bastion{ID: fleet.InstanceID(fmt.Sprintf("b%d-%s", i, version)), Version: version})
	}
	return r
}

// stepped is a cluster of which gateway and sra have moved from 1 to 2, and all is
// well two minutes after the step.
func stepped() InventoryFacts {
	seen := noon.Add(2 * time.Minute)
	return InventoryFacts{
		Applied:        noon,
		WasRunning:     fleet.Inventory{ObservedAt: noon.Add(-time.Hour), Instances: slices.Concat(ran(fleet.Gateway, 2, "1.0", "g1"), ran(fleet.SRASSH, 2, "1.0", "s1"))},
		WasRegistered:  registered(noon.Add(-time.Hour), "1.0", "1.0"),
		Running:        fleet.Inventory{ObservedAt: seen, Instances: slices.Concat(ran(fleet.Gateway, 2, "2.0", "g2"), ran(fleet.SRASSH, 2, "2.0", "s2"))},
		Registered:     registered(seen, "2.0", "2.0"),
		RunningSeen:    seen,
		RegisteredSeen: seen,
		Versions:       fleet.VersionSet{fleet.LineGateway: "2.0", fleet.LineSRA: "2.0"},
		Digests:        map[fleet.Component][]string{fleet.Gateway: {"g2"}, fleet.SRASSH: {"s2", "s2-platform"}},
		Window:         time.Hour,
	}
}

func TestInventory(t *testing.T) {
	t.Parallel()
	whole := map[string]int64{"expected": 4, "running": 4, "bastions": 2}
	and := func(more map[string]int64) map[string]int64 {
		out := maps.Clone(whole)
		maps.Copy(out, more)
		return out
	}
	late := func(f *InventoryFacts) {
		f.RunningSeen, f.RegisteredSeen = noon.Add(time.Hour), noon.Add(time.Hour)
	}
	for _, tt := range []struct {
		name    string
		change  func(*InventoryFacts)
		verdict Verdict
		codes   string
		figures map[string]int64
		// past is the verdict when the same is seen past the window.
		past Verdict
	}{
		{"as planned", func(*InventoryFacts) {}, Pass, "as_planned", whole, Pass},
		{"the platform's digest will do", func(f *InventoryFacts) { f.Running.Instances[2].Digest = "s2-platform" }, Pass, "as_planned", whole, Pass},
		{"another way to write the version", func(f *InventoryFacts) { f.Running.Instances[0].Version = "v2" }, Pass, "as_planned", whole, Pass},
		{"pinned by digest alone", func(f *InventoryFacts) { f.Running.Instances[0].Tag = "" }, Pass, "as_planned", whole, Pass},
		{"a tag that moves, at the planned digest", func(f *InventoryFacts) { f.Running.Instances[0].Tag = "latest" }, Pass, "as_planned", whole, Pass},
		{"more instances than before", func(f *InventoryFacts) {
			f.Running.Instances = append(f.Running.Instances, ran(fleet.SRAWeb, 1, "2.0", "w2")...)
		}, Pass, "as_planned", and(map[string]int64{"running": 5}), Pass},
		{"what is stopped does not run", func(f *InventoryFacts) {
			old := ran(fleet.Gateway, 1, "1.0", "g1")
			old[0].Health = fleet.HealthStopped
			f.Running.Instances = append(f.Running.Instances, old...)
		}, Pass, "as_planned", whole, Pass},
		{"components of no line are not looked at", func(f *InventoryFacts) {
			f.WasRunning.Instances = append(f.WasRunning.Instances, ran("cache", 1, "7", "c")...)
		}, Pass, "as_planned", whole, Pass},
		{"one is not back", func(f *InventoryFacts) { f.Running.Instances = f.Running.Instances[1:] },
			Pending, "missing_instances", and(map[string]int64{"running": 3, "missing": 1}), Fail},
		{"nothing of a planned line runs, nor did", func(f *InventoryFacts) { f.Versions[fleet.LineZTWA] = "2.0" },
			Pending, "missing_instances", and(map[string]int64{"missing": 1}), Fail},
		{"one runs the old version", func(f *InventoryFacts) { f.Running.Instances[0] = f.WasRunning.Instances[0] },
			Pending, "wrong_version", and(map[string]int64{"wrong_version": 1}), Fail},
		{"the process says another version than its image", func(f *InventoryFacts) { f.Running.Instances[0].Version = "1.0" },
			Pending, "wrong_version", and(map[string]int64{"wrong_version": 1}), Fail},
		{"the old image under a tag that moves", func(f *InventoryFacts) { f.Running.Instances[0].Tag, f.Running.Instances[0].Digest = "latest", "g1" },
			Pending, "wrong_version", and(map[string]int64{"wrong_version": 1}), Fail},
		{"the planned version from an image of nobody's", func(f *InventoryFacts) { f.Running.Instances[0].Digest = "moved" },
			Fail, "wrong_digest", and(map[string]int64{"wrong_digest": 1}), Fail},
		{"the planned version still from the old image", func(f *InventoryFacts) { f.Running.Instances[0].Digest = "g1" },
			Pending, "wrong_digest", and(map[string]int64{"wrong_digest": 1}), Fail},
		{"the image cannot be told", func(f *InventoryFacts) { f.Running.Instances[0].Digest = "" },
			Inconclusive, "unknown_image", and(map[string]int64{"unknown_image": 1}), Inconclusive},
		{"without a plan of digests the version must be known", func(f *InventoryFacts) { f.Digests = nil; f.Running.Instances[0].Tag = "latest" },
			Inconclusive, "unknown_image", and(map[string]int64{"unknown_image": 1}), Inconclusive},
		{"one is unhealthy", func(f *InventoryFacts) { f.Running.Instances[0].Health = fleet.HealthUnhealthy },
			Fail, "unhealthy", and(map[string]int64{"unhealthy": 1}), Fail},
		{"one was unhealthy before", func(f *InventoryFacts) {
			f.WasRunning.Instances[0].Health, f.Running.Instances[0].Health = fleet.HealthUnhealthy, fleet.HealthUnhealthy
		}, Pass, "as_planned", and(map[string]int64{"unhealthy": 1}), Pass},
		{"one starts", func(f *InventoryFacts) { f.Running.Instances[0].Health = fleet.HealthStarting },
			Pending, "starting", and(map[string]int64{"starting": 1}), Fail},
		{"a bastion is not registered again", func(f *InventoryFacts) { f.Registered.Bastions = f.Registered.Bastions[1:] },
			Pending, "unregistered", and(map[string]int64{"bastions": 1, "unregistered": 1}), Fail},
		{"the gateway is listed as something else", func(f *InventoryFacts) {
			f.Registered.Gateways = []fleet.RegisteredGateway{{Name: "paris", Status: "Down"}}
		}, Pending, "unregistered", and(map[string]int64{"unregistered": 1}), Fail},
		{"the gateway was listed as something else before", func(f *InventoryFacts) {
			f.WasRegistered.Gateways[0].Status, f.Registered.Gateways[0].Status = "Down", "Lost"
		}, Pass, "as_planned", whole, Pass},
		{"nothing was reported since", func(f *InventoryFacts) { f.Registered.LastReport = noon },
			Pending, "not_reported", whole, Fail},
		{"nothing was reported since a step that left the bastions alone", func(f *InventoryFacts) {
			delete(f.Versions, fleet.LineSRA)
			f.Registered.LastReport = noon
		}, Pass, "as_planned", whole, Pass},
		{"nobody asked the vendor since such a step", func(f *InventoryFacts) {
			delete(f.Versions, fleet.LineSRA)
			f.RegisteredSeen = noon
		}, Pending, "not_reported", whole, Pass},
		{"a vendor that never says when", func(f *InventoryFacts) {
			f.WasRegistered.LastReport, f.Registered.LastReport = time.Time{}, time.Time{}
		},
			Pass, "as_planned", whole, Pass},
		{"the vendor lists an old version", func(f *InventoryFacts) { f.Registered.Bastions[0].Version = "1.0" },
			Pending, "reported_otherwise", and(map[string]int64{"bastions_wrong_version": 1}), Hold},
		{"the vendor lists a version with something behind it", func(f *InventoryFacts) { f.Registered.Bastions[0].Version = "2.0-debian" },
			Pass, "as_planned", whole, Pass},
		{"the vendor lists no versions", func(f *InventoryFacts) {
			f.Registered.Bastions[0].Version, f.Registered.Bastions[1].Version = "", "latest"
		},
			Pass, "as_planned", and(map[string]int64{"bastions_unknown_version": 2}), Pass},
		{"nobody reads registrations", func(f *InventoryFacts) { f.WasRegistered, f.Registered = fleet.Registration{}, fleet.Registration{} },
			Pass, "as_planned", map[string]int64{"expected": 4, "running": 4}, Pass},
		{"registrations were read before and never since", func(f *InventoryFacts) { f.Registered = fleet.Registration{} },
			Pending, "not_reported unregistered unregistered", map[string]int64{"expected": 4, "running": 4, "unregistered": 3}, Fail},
		{"a line that has not moved may be mixed", func(f *InventoryFacts) {
			delete(f.Versions, fleet.LineSRA)
			f.Running.Instances[3] = f.WasRunning.Instances[3]
			f.Registered.Bastions[0].Version = "1.0"
		}, Pass, "as_planned", whole, Pass},
		{"at the end it may not", func(f *InventoryFacts) {
			delete(f.Versions, fleet.LineSRA)
			f.Running.Instances[3] = f.WasRunning.Instances[3]
			f.Complete = true
		}, Pending, "wrong_version", and(map[string]int64{"wrong_version": 1}), Fail},
		{"the baseline was not captured", func(f *InventoryFacts) { f.WasRunning = fleet.Inventory{} }, Inconclusive, "no_baseline", map[string]int64{}, Inconclusive},
		{"the worst comes first", func(f *InventoryFacts) {
			f.Running.Instances[0].Health = fleet.HealthStarting
			f.Running.Instances[2].Digest = "moved"
		}, Fail, "wrong_digest starting", and(map[string]int64{"starting": 1, "wrong_digest": 1}), Fail},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := stepped()
			tt.change(&f)
			wantResult(t, f.Judge(), tt.verdict, tt.codes, tt.figures)
			late(&f)
			if got := f.Judge(); got.Verdict != tt.past {
				t.Errorf("past the window it is %s, want %s: %v", got.Verdict, tt.past, got.Reasons)
			}
		})
	}
}

func TestInventoryMix(t *testing.T) {
	t.Parallel()
	f := stepped()
	f.MixedSince, f.Window = noon.Add(-10*time.Minute), 20*time.Minute
	for _, tt := range []struct {
		seen    time.Duration
		verdict Verdict
		codes   string
		mixed   int64
	}{
		{9 * time.Minute, Pass, "as_planned", 19 * 60},
		{10 * time.Minute, Fail, "mixed_too_long", 20 * 60},
	} {
		f.RunningSeen = noon.Add(tt.seen)
		wantResult(t, f.Judge(), tt.verdict, tt.codes, map[string]int64{"expected": 4, "running": 4, "bastions": 2, "mixed_seconds": tt.mixed})
	}
	f.Window = 0
	if got := f.Judge(); got.Verdict != Pass {
		t.Errorf("without a window a mix is %s: %v", got.Verdict, got.Reasons)
	}
}

// Each list is late as far as it was seen itself.
func TestInventoryListsAreLateByThemselves(t *testing.T) {
	t.Parallel()
	f := stepped()
	f.Registered.Bastions = f.Registered.Bastions[1:]
	f.Running.Instances[0].Health = fleet.HealthStarting
	f.RunningSeen = noon.Add(f.Window)
	wantResult(t, f.Judge(), Fail, "starting unregistered", nil)
	f = stepped()
	f.Registered.Bastions = f.Registered.Bastions[1:]
	f.RunningSeen = noon.Add(f.Window)
	wantResult(t, f.Judge(), Pending, "unregistered", nil)
	f.RegisteredSeen = f.RunningSeen
	wantResult(t, f.Judge(), Fail, "unregistered", nil)
}

// What was seen up to the step, however bad or good, is no answer.
func TestInventoryNotSeenSinceTheStep(t *testing.T) {
	t.Parallel()
	for _, seen := range []time.Duration{-time.Minute, 0} {
		f := stepped()
		f.RunningSeen = noon.Add(seen)
		f.Running.Instances = nil
		got := f.Judge()
		wantResult(t, got, Pending, "not_seen", map[string]int64{})
		if !got.At.Equal(f.RunningSeen) {
			t.Errorf("seen at %s", got.At)
		}
	}
}

func TestInventoryOrderChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := stepped()
		for i := range f.Running.Instances {
			one := &f.Running.Instances[i]
			one.Tag = rapid.SampledFrom([]string{"1.0", "2.0", "latest", ""}).Draw(t, "tag")
			one.Digest = rapid.SampledFrom([]string{"g1", "g2", "s2", ""}).Draw(t, "digest")
			one.Health = rapid.SampledFrom([]fleet.Health{fleet.HealthHealthy, fleet.HealthUnhealthy, fleet.HealthStarting, fleet.HealthStopped}).Draw(t, "health")
		}
		f.Complete = rapid.Bool().Draw(t, "complete")
		want := f.Judge()
		f.Running.Instances = rapid.Permutation(f.Running.Instances).Draw(t, "instances")
		f.WasRunning.Instances = rapid.Permutation(f.WasRunning.Instances).Draw(t, "before")
		f.Registered.Bastions = rapid.Permutation(f.Registered.Bastions).Draw(t, "bastions")
		if diff := cmp.Diff(want, f.Judge()); diff != "" {
			t.Fatalf("another order says something else:\n%s", diff)
		}
	})
}
