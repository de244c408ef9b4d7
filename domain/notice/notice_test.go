package notice_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/notice"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it anew:\n%s", path, diff)
	}
}

// line is a notice as a person reads it in the golden files.
func line(what string, n notice.Notice, told bool) string {
	if !told {
		return fmt.Sprintf("%-18s is not told\n", what)
	}
	out := fmt.Sprintf("%-18s %s %s: %s\n", what, n.Severity, n.Kind, n.Title)
	if n.Text != "" {
		out += fmt.Sprintf("%-18s %s\n", "", n.Text)
	}
	return out
}

// facts holds at least one fact of every kind.
func facts() []rollout.Fact {
	plan := rollout.Plan{Release: "2026-11", Clusters: []rollout.ClusterPlan{{Cluster: "oslo"}, {Cluster: "paris"}}}
	of := func(cluster fleet.ClusterID, k rollout.Kind) rollout.Fact {
		return rollout.Fact{At: noon, Cluster: cluster, Kind: k}
	}
	return []rollout.Fact{
		of("", rollout.RolloutStarted{Plan: plan, RequestID: "a"}),
		of("", rollout.RolloutStarted{Plan: rollout.Plan{Release: "2026-11", Clusters: plan.Clusters[:1]}, RequestID: "a"}),
		of("oslo", rollout.ClusterStarted{WindowEnds: noon.Add(time.Hour)}),
		of("oslo", rollout.PackageCaptured{Package: "base"}),
		of("oslo", rollout.StepStarted{Step: "gateway"}),
		of("oslo", rollout.StepApplied{Step: "gateway", Gate: "r1-oslo-gateway", Package: "next"}),
		of("oslo", rollout.StepPassed{Step: "gateway"}),
		of("oslo", rollout.ClusterHeldBack{Reason: "the gate says inconclusive"}),
		of("oslo", rollout.RollbackStarted{Reason: "the gate failed"}),
		of("oslo", rollout.ClusterDone{Release: "2026-11", Package: "next"}),
		of("oslo", rollout.ClusterRestored{}),
		of("oslo", rollout.ClusterLost{Reason: "the engine does not answer"}),
		of("", rollout.RolloutHeld{Reason: "the gate failed"}),
		of("", rollout.RolloutSucceeded{}),
		of("", rollout.RollbackRequested{Reason: "wrong release", RequestID: "b"}),
		of("", rollout.RolloutRolledBack{}),
		of("", rollout.RolloutFailed{Reason: "the engine does not answer"}),
		of("oslo", rollout.ClusterSkipped{Reason: "the site moves house"}),
		of("", rollout.WaveStarted{Wave: 1}),
		of("", rollout.WaveSoaking{Wave: 1, Ends: noon.Add(time.Hour)}),
		of("", rollout.WaveGated{Wave: 1, Gate: "r1-wave-2"}),
		of("", rollout.WavePassed{Wave: 1}),
		of("", rollout.WaveFailed{Wave: 1, Reason: "people cannot log in"}),
		of("", rollout.RolloutPaused{Reason: "looking at oslo", RequestID: "c"}),
		of("", rollout.RolloutResumed{Reason: "it was a target", RequestID: "d"}),
		of("", rollout.RolloutHolding{Reason: "the gate failed"}),
		of("", rollout.RolloutContinued{}),
		of("", rollout.AbortRequested{Reason: "superseded"}),
		of("", rollout.RolloutAborted{}),
	}
}

func TestOfRollout(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	known := make(map[string]bool)
	for _, f := range facts() {
		name := strings.TrimPrefix(fmt.Sprintf("%T", f.Kind), "rollout.")
		known[name] = true
		n, told := notice.OfRollout("r1", f)
		got.WriteString(line(name, n, told))
		switch {
		case !told && n != (notice.Notice{}):
			t.Errorf("%s is not told, and yet %+v", name, n)
		case told && (n.ID != "" || !n.At.Equal(noon) || n.Rollout != "r1" || n.Cluster != f.Cluster):
			t.Errorf("%s: the notice does not say whose and when: %+v", name, n)
		}
	}
	for _, k := range rollout.Kinds() {
		if name := strings.TrimPrefix(fmt.Sprintf("%T", k), "rollout."); !known[name] {
			t.Errorf("nobody decided whether %s is told; add one to facts", name)
		}
	}
	golden(t, "rollout.txt", got.String())
}

func TestOfGate(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	for _, verdict := range []gate.Verdict{gate.Pass, gate.Fail, gate.Hold, gate.Inconclusive} {
		n := notice.OfGate("r1", "oslo", "gateway", verdict, "what the sessions say", noon)
		got.WriteString(line(string(verdict), n, true))
		if n.Cluster != "oslo" || n.Rollout != "r1" || !n.At.Equal(noon) {
			t.Errorf("%s: the notice does not say whose and when: %+v", verdict, n)
		}
	}
	got.WriteString(line("wave", notice.OfGate("r1", "", "wave", gate.Fail, "what the sessions say", noon), true))
	golden(t, "gate.txt", got.String())
}

func TestOfState(t *testing.T) {
	t.Parallel()
	states := drift.States()
	var got strings.Builder
	for _, from := range states {
		for _, to := range states {
			if from == to {
				continue
			}
			n, told := notice.OfState("oslo", from, to, []string{"one reason", "another"}, noon)
			got.WriteString(line(fmt.Sprintf("%s > %s", from, to), n, told))
			if told && (n.Cluster != "oslo" || n.Rollout != "" || !n.At.Equal(noon)) {
				t.Errorf("%s to %s: the notice does not say whose and when: %+v", from, to, n)
			}
		}
	}
	golden(t, "state.txt", got.String())
}

func TestIDIsOfOneFact(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for _, subject := range []string{"a", "a.1", "b"} {
		for sequence := range uint64(12) {
			for index := range 12 {
				id := notice.ID(subject, sequence, index)
				if seen[id] || id != notice.ID(subject, sequence, index) {
					t.Fatalf("%s names two facts", id)
				}
				seen[id] = true
			}
		}
	}
}
