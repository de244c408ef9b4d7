package rollout_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// shape is a plan's waves as a person writes them: each with its name and clusters.
func shape(p rollout.Plan) []string {
	var out []string
	first := 0
	for _, w := range p.Waves {
		var names []string
		for _, c := range p.Clusters[first : first+w.Clusters] {
			names = append(names, string(c.Cluster))
		}
		first += w.Clusters
		out = append(out, fmt.Sprintf("%s: %s", w.Name, strings.Join(names, " ")))
	}
	return out
}

func TestWavesOfAPlan(t *testing.T) {
	t.Parallel()
	labelled := func(text string) rollout.WaveSize {
		selector, err := fleet.ParseSelector(text)
		if err != nil {
			t.Fatal(err)
		}
		return rollout.WaveSize{Labels: selector, Text: text}
	}
	var targets []rollout.Target
	for i, tier := range []string{"prod", "prod", "canary", "prod", "lab", "prod", "prod", "canary", "prod", "prod"} {
		targets = append(targets, found(fleet.ClusterID(fmt.Sprintf("c%d", i)), func(t *rollout.Target) { t.Labels = map[string]string{"tier": tier} }))
	}
	for name, test := range map[string]struct {
		waves   []rollout.WaveSize
		want    []string
		problem string
	}{
		"none":           {},
		"sizes":          {[]rollout.WaveSize{{Clusters: 1}, {Clusters: 3}}, []string{"1 cluster: c0", "3 clusters: c1 c2 c3", "rest: c4 c5 c6 c7 c8 c9"}, ""},
		"shares add up":  {[]rollout.WaveSize{{Clusters: 1}, {Percent: 25}, {Percent: 100}}, []string{"1 cluster: c0", "25%: c1 c2", "100%: c3 c4 c5 c6 c7 c8 c9"}, ""},
		"reached before": {[]rollout.WaveSize{{Clusters: 2}, {Percent: 10}, {Percent: 50}}, []string{"2 clusters: c0 c1", "50%: c2 c3 c4", "rest: c5 c6 c7 c8 c9"}, ""},
		"labels":         {[]rollout.WaveSize{labelled("tier=lab"), labelled("tier=canary"), {Percent: 50}}, []string{"tier=lab: c4", "tier=canary: c2 c7", "50%: c0 c1", "rest: c3 c5 c6 c8 c9"}, ""},
		"too many":       {[]rollout.WaveSize{{Clusters: 50}}, []string{"50 clusters: c0 c1 c2 c3 c4 c5 c6 c7 c8 c9"}, ""},
		"nobody matches": {[]rollout.WaveSize{labelled("tier=gold")}, []string{"rest: c0 c1 c2 c3 c4 c5 c6 c7 c8 c9"}, "matches tier=gold"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plan, problems := rollout.NewPlan(pair(), targets, rollout.Terms{
				Gate: gate.DefaultPolicy(), Window: 24 * time.Hour, Lookback: time.Hour,
				Strategy: rollout.Strategy{Waves: test.waves, MaxConcurrent: 3, MaxFailures: 2, Soak: time.Minute},
			})
			if diff := cmp.Diff(test.want, shape(plan)); diff != "" {
				t.Errorf("waves (-want +got):\n%s", diff)
			}
			if len(plan.Clusters) != len(targets) || plan.MaxConcurrent != 3 || plan.MaxFailures != 2 {
				t.Errorf("%d clusters, %d at once, %d may fail", len(plan.Clusters), plan.MaxConcurrent, plan.MaxFailures)
			}
			if !(rollout.Strategy{Waves: test.waves, MaxConcurrent: 3, MaxFailures: 2, Soak: time.Minute}).Makes(plan) {
				t.Error("the strategy is said not to make this plan")
			}
			for _, w := range plan.Waves {
				if w.Soak != time.Minute {
					t.Errorf("wave %s is watched for %s", w.Name, w.Soak)
				}
			}
			var told string
			for _, p := range problems {
				told += p.ID + " " + p.Text
			}
			if (test.problem == "") != (told == "") || !strings.Contains(told, test.problem) {
				t.Errorf("problems: %q, want %q", told, test.problem)
			}
		})
	}
}
