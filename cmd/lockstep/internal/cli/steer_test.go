package cli_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// prints checks that a command went well and said something on standard output.
func prints(t *testing.T, got result, part string) {
	t.Helper()
	got.wants(t, 0, "")
	if !strings.Contains(got.out, part) {
		t.Errorf("%q is not in:\n%s", part, got.out)
	}
}

// Each command by which a person steers asks for just what was typed.
func TestSteering(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{})
	prints(t, f.run(t, "rollout", "pause", "rollout/r1", "--reason", "lunch"), "Phase    paused")
	prints(t, f.run(t, "rollout", "resume", "r1", "-o", "name"), "rollout/r1\n")
	prints(t, f.run(t, "rollout", "skip", "r1", "cluster/paris", "--reason", "moves house"), "Phase    running")
	f.answer(t, "y\n", "rollout", "abort", "r1", "--reason", "superseded").wants(t, 0, "End rollout r1 and take back the clusters that are on their way? [y/N]")
	want := []proto.Message{
		&rolloutv1.PauseRolloutRequest{RequestId: "fresh", Id: "r1", Reason: "lunch"},
		&rolloutv1.ResumeRolloutRequest{RequestId: "fresh", Id: "r1"},
		&rolloutv1.SkipClusterRequest{Id: "r1", Cluster: "paris", Reason: "moves house"},
		&rolloutv1.AbortRolloutRequest{Id: "r1", Reason: "superseded"},
	}
	if len(f.steered) != len(want) {
		t.Fatalf("asked for %v", f.steered)
	}
	for i := range want {
		if !proto.Equal(want[i], f.steered[i]) {
			t.Errorf("asked for %v, want %v", f.steered[i], want[i])
		}
	}
	f.answer(t, "n\n", "rollout", "abort", "r1", "--reason", "x").wants(t, 1, "not confirmed, so nothing was done")
	f.run(t, "rollout", "abort", "r1", "--yes").wants(t, 2, "say why, for the record: --reason TEXT")
	f.run(t, "rollout", "skip", "r1", "--reason", "x").wants(t, 2, "CLUSTER")
	if len(f.steered) != len(want) {
		t.Errorf("asked for %v besides", f.steered[len(want):])
	}
}

func TestWaveFlags(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{})
	f.run(t, "rollout", "start", "-r", "5.1.0", "--yes", "--wave", "tier in (lab,canary)", "--wave", "1", "--wave", "10%", "--soak", "30m", "--max-concurrent", "5", "--max-failures", "1").wants(t, 0, "")
	got := f.started[0].GetStrategy()
	waves := got.GetWaves()
	if len(waves) != 3 || waves[0].GetLabelSelector() != "tier in (lab,canary)" || waves[1].GetClusters() != 1 || waves[2].GetPercent() != 10 {
		t.Errorf("the waves are %v", waves)
	}
	if got.GetSoak().AsDuration().String() != "30m0s" || got.GetMaxConcurrent() != 5 || got.GetMaxFailures() != 1 {
		t.Errorf("the strategy is %v", got)
	}
	f.run(t, "rollout", "start", "-r", "5.1.0", "--yes").wants(t, 0, "")
	if s := f.started[1].GetStrategy(); s != nil {
		t.Errorf("nothing was said, and the strategy is %v", s)
	}
	for flags, says := range map[string]string{
		"--wave 0":            "a wave holds one cluster at least",
		"--wave 101%":         "100% of them at most",
		"--wave x%":           "neither a number of clusters nor a share",
		"--max-concurrent 0":  "at least one cluster has to move at a time",
		"--max-failures -1":   "is negative",
		"--soak 1m":           "give --wave, too",
		"--soak -1m --wave 1": "is negative",
	} {
		f.run(t, append([]string{"rollout", "plan", "-r", "5.1.0"}, strings.Fields(flags)...)...).wants(t, 2, says)
	}
}

// A plan in waves says which clusters each holds, and a rollout in which it is.
func TestWavesAreTold(t *testing.T) {
	t.Parallel()
	r := rollout("running", "", "gating", "waiting")
	r.Plan.Waves = []*rolloutv1.Wave{{Name: "tier=lab", Clusters: 1}, {Name: "rest", Clusters: 1}}
	f := serve(t, &fake{rollouts: []*rolloutv1.Rollout{r}})
	prints(t, f.run(t, "rollout", "get", "r1"), "Wave     1 of 2 (tier=lab)\n")
}
