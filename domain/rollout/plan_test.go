package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// digest returns a digest that differs where the letter does.
func digest(letter string) string { return "sha256:" + strings.Repeat(letter, 64) }

// pair is a release of one gateway and one SRA version.
func pair() rollout.Release {
	return rollout.Release{ID: "2026-11", Lines: map[fleet.Line]rollout.ReleaseImage{
		fleet.LineGateway: {Version: "4.53.0", Ref: "vendor/gateway:4.53.0"},
		fleet.LineSRA:     {Version: "3.1.0", Ref: "vendor/sra:3.1.0"},
	}}
}

// found is a cluster that runs the versions before the release.
func found(cluster fleet.ClusterID, change ...func(*rollout.Target)) rollout.Target {
	t := rollout.Target{
		Cluster: cluster,
		Running: map[fleet.Component]rollout.RunningImage{
			fleet.Gateway: {Version: "4.52.0", Digest: digest("a")},
			fleet.SRAWeb:  {Version: "3.0.3", Digest: digest("b")},
			fleet.SRASSH:  {Version: "3.0.3", Digest: digest("b")},
		},
		Resolved: map[fleet.Line]string{
			fleet.LineGateway: "vendor/gateway:4.53.0@" + digest("c"),
			fleet.LineSRA:     "vendor/sra:3.1.0@" + digest("d"),
		},
	}
	for _, c := range change {
		c(&t)
	}
	return t
}

func runs(component fleet.Component, version, digest string) func(*rollout.Target) {
	return func(t *rollout.Target) {
		t.Running[component] = rollout.RunningImage{Version: version, Digest: digest}
	}
}

func without(component fleet.Component) func(*rollout.Target) {
	return func(t *rollout.Target) { delete(t.Running, component) }
}

func gatewayStep() rollout.StepPlan {
	return rollout.StepPlan{
		Name: "gateway", Line: fleet.LineGateway, FromVersion: "4.52.0", ToVersion: "4.53.0",
		Image: "vendor/gateway:4.53.0@" + digest("c"), Components: []fleet.Component{fleet.Gateway},
	}
}

func sraStep() rollout.StepPlan {
	return rollout.StepPlan{
		Name: "sra", Line: fleet.LineSRA, FromVersion: "3.0.3", ToVersion: "3.1.0",
		Image: "vendor/sra:3.1.0@" + digest("d"), Components: []fleet.Component{fleet.SRASSH, fleet.SRAWeb},
	}
}

// changed returns a step with something about it altered.
func changed(s rollout.StepPlan, change func(*rollout.StepPlan)) rollout.StepPlan {
	change(&s)
	return s
}

// house is a policy by name, whose statistics differ from those of the configuration.
func house(deadline, soak time.Duration) *gate.Plan {
	p := &gate.Plan{Name: "house", Mode: gate.Act, Statistics: gate.DefaultPolicy(), Step: gate.Stage{Deadline: deadline, Soak: soak}}
	p.Statistics.Margin, p.Statistics.Deadline = 4, 24*time.Hour
	return p
}

func TestNewPlan(t *testing.T) {
	t.Parallel()
	policy := gate.DefaultPolicy()
	type problem struct {
		id      string
		cluster fleet.ClusterID
		says    string // a part of the text
	}
	aside := []gate.Span{{From: noon.Add(-2 * time.Hour), To: noon.Add(-time.Hour)}}
	for _, test := range []struct {
		name     string
		release  func(*rollout.Release)
		policy   func(*gate.Policy)
		named    *gate.Plan
		targets  []rollout.Target
		window   time.Duration // 0: enough for two gates
		lookback time.Duration // 0: one hour
		clusters []rollout.ClusterPlan
		problems []problem
	}{
		{
			name:    "gateway before sra, clusters in the order given",
			targets: []rollout.Target{found("rome"), found("oslo")},
			clusters: []rollout.ClusterPlan{
				{Cluster: "rome", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}},
				{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}},
			},
		},
		{
			name: "workers come last",
			release: func(r *rollout.Release) {
				r.Lines[fleet.LineZTWA] = rollout.ReleaseImage{Version: "1.8.0", Ref: "vendor/ztwa:1.8.0"}
			},
			window: rollout.WindowNeeded(3, policy.Deadline),
			targets: []rollout.Target{found("oslo", runs(fleet.Worker, "1.7.0", digest("e")), runs(fleet.Dispatcher, "1.7.0", digest("e")),
				func(t *rollout.Target) { t.Resolved[fleet.LineZTWA] = "vendor/ztwa:1.8.0@" + digest("f") })},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep(), {
				Name: "ztwa", Line: fleet.LineZTWA, FromVersion: "1.7.0", ToVersion: "1.8.0",
				Image: "vendor/ztwa:1.8.0@" + digest("f"), Components: []fleet.Component{fleet.Dispatcher, fleet.Worker},
			}}}},
		},
		{
			name:   "Helm brings a chart and values, and bastions that are switched off have no step",
			window: rollout.WindowNeeded(1, policy.Deadline),
			targets: []rollout.Target{found("oslo", func(t *rollout.Target) {
				delete(t.Running, fleet.SRAWeb)
				delete(t.Running, fleet.SRASSH)
				t.Chart, t.Values = rollout.Chart{Name: "akeyless-gateway", Version: "3.4.0"}, "sha256:v"
			})},
			clusters: []rollout.ClusterPlan{{
				Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep()}, Chart: rollout.Chart{Name: "akeyless-gateway", Version: "3.4.0"}, Values: "sha256:v",
			}},
		},
		{
			name: "another chart or other values are brought with the first step, also where every image runs",
			targets: []rollout.Target{
				found("oslo", runs(fleet.Gateway, "4.53.0", digest("c")), runs(fleet.SRAWeb, "3.1.0", digest("d")), runs(fleet.SRASSH, "3.1.0", digest("d")), func(t *rollout.Target) { t.Repackaged = true }),
			},
			window:   rollout.WindowNeeded(1, policy.Deadline),
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{changed(gatewayStep(), func(s *rollout.StepPlan) { s.FromVersion = "4.53.0" })}}},
		},
		{
			name:     "a line that runs the release's digest has no step",
			targets:  []rollout.Target{found("oslo", runs(fleet.Gateway, "4.53.0", digest("c")))},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{sraStep()}}},
		},
		{
			name:    "a line of which one component lags has a step for all of it",
			targets: []rollout.Target{found("oslo", runs(fleet.Gateway, "4.53.0", digest("c")), runs(fleet.SRAWeb, "3.1.0", digest("d")))},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{
				changed(sraStep(), func(s *rollout.StepPlan) { s.FromVersion = "3.0.3, 3.1.0" }),
			}}},
		},
		{
			name:    "the release's version under another digest is not the release",
			targets: []rollout.Target{found("oslo", runs(fleet.Gateway, "4.53.0", digest("9")))},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{
				changed(gatewayStep(), func(s *rollout.StepPlan) { s.FromVersion = "4.53.0" }), sraStep(),
			}}},
		},
		{
			name:    "what runs under no known digest is moved",
			targets: []rollout.Target{found("oslo", runs(fleet.Gateway, "4.53.0", ""))},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{
				changed(gatewayStep(), func(s *rollout.StepPlan) { s.FromVersion = "4.53.0" }), sraStep(),
			}}},
		},
		{
			name:     "a component of no known line stays as it is",
			targets:  []rollout.Target{found("oslo", runs("cache", "7", digest("7")))},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}}},
		},
		{
			name:     "a release of one line moves that line",
			release:  func(r *rollout.Release) { delete(r.Lines, fleet.LineGateway) },
			window:   rollout.WindowNeeded(1, policy.Deadline),
			targets:  []rollout.Target{found("oslo")},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{sraStep()}}},
		},
		{
			name: "a cluster that runs the release is left out",
			targets: []rollout.Target{
				found("oslo", runs(fleet.Gateway, "4.53.0", digest("c")), runs(fleet.SRAWeb, "3.1.0", digest("d")), runs(fleet.SRASSH, "3.1.0", digest("d"))),
				found("rome"),
			},
			clusters: []rollout.ClusterPlan{{Cluster: "rome", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}}},
		},
		{
			name: "nothing to do",
			targets: []rollout.Target{
				found("oslo", runs(fleet.Gateway, "4.53.0", digest("c")), runs(fleet.SRAWeb, "3.1.0", digest("d")), runs(fleet.SRASSH, "3.1.0", digest("d"))),
			},
			problems: []problem{{rollout.ProblemNothing, "", "every cluster asked for runs release 2026-11 already"}},
		},
		{
			name:     "times to set aside are the cluster's",
			targets:  []rollout.Target{found("oslo", func(t *rollout.Target) { t.Aside = aside })},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}, Aside: aside}},
		},
		{
			name:     "busy",
			targets:  []rollout.Target{found("oslo", func(t *rollout.Target) { t.BusyWith = "r7" }), found("rome")},
			clusters: []rollout.ClusterPlan{{Cluster: "rome", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}}},
			problems: []problem{{rollout.ProblemBusy, "oslo", "rollout r7 is moving it"}},
		},
		{
			name: "every trouble of every cluster is told",
			targets: []rollout.Target{
				found("oslo", func(t *rollout.Target) { t.Trouble = []string{"disk is full", "swarm mode"}; t.BusyWith = "r7" }),
				found("rome", func(t *rollout.Target) { t.Trouble = []string{"no answer"} }),
			},
			problems: []problem{
				{rollout.ProblemBusy, "oslo", "r7"}, {rollout.ProblemTarget, "oslo", "disk is full"},
				{rollout.ProblemTarget, "oslo", "swarm mode"}, {rollout.ProblemTarget, "rome", "no answer"},
			},
		},
		{
			name:     "a line of which nothing runs",
			targets:  []rollout.Target{found("oslo", without(fleet.SRAWeb), without(fleet.SRASSH))},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep()}}},
			problems: []problem{{rollout.ProblemMissing, "oslo", "carries line sra but the cluster runs no component of it"}},
		},
		{
			name:     "nothing runs at all",
			targets:  []rollout.Target{found("oslo", without(fleet.Gateway), without(fleet.SRAWeb), without(fleet.SRASSH))},
			problems: []problem{{rollout.ProblemMissing, "oslo", "line gateway"}, {rollout.ProblemMissing, "oslo", "line sra"}},
		},
		{
			name: "an image without a digest",
			targets: []rollout.Target{found("oslo", func(t *rollout.Target) {
				delete(t.Resolved, fleet.LineGateway)
				t.Resolved[fleet.LineSRA] = "vendor/sra:3.1.0"
			})},
			problems: []problem{
				{rollout.ProblemMissing, "oslo", "vendor/gateway:4.53.0 is not resolved to a digest"},
				{rollout.ProblemMissing, "oslo", "vendor/sra:3.1.0 is not resolved to a digest"},
			},
		},
		{
			name: "no sessions of it are seen",
			targets: []rollout.Target{func() rollout.Target {
				target := found("oslo")
				target.Unseen = "no vendor_cluster"
				return target
			}()},
			problems: []problem{{rollout.ProblemUnseen, "oslo", "no vendor_cluster"}},
		},
		{
			name:    "the window is too small for two gates",
			window:  rollout.WindowNeeded(2, policy.Deadline) - 1,
			targets: []rollout.Target{found("oslo"), found("rome", runs(fleet.Gateway, "4.53.0", digest("c")))},
			clusters: []rollout.ClusterPlan{
				{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}},
				{Cluster: "rome", Steps: []rollout.StepPlan{sraStep()}},
			},
			problems: []problem{{rollout.ProblemWindow, "oslo", "gates of at most 4h0m0s each need a window of 8h10m0s"}},
		},
		{
			name:    "a named policy brings its own deadline, and gates that soak end no earlier",
			named:   house(10*time.Minute, 15*time.Minute),
			window:  2 * (rollout.StepAllowance + 15*time.Minute),
			targets: []rollout.Target{found("oslo")},
			clusters: []rollout.ClusterPlan{
				{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}},
			},
		},
		{
			name:    "a named policy that cannot finish inside the window",
			named:   house(30*time.Minute, 0),
			window:  2*(rollout.StepAllowance+30*time.Minute) - 1,
			targets: []rollout.Target{found("oslo"), found("rome", runs(fleet.Gateway, "4.53.0", digest("c")))},
			clusters: []rollout.ClusterPlan{
				{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}},
				{Cluster: "rome", Steps: []rollout.StepPlan{sraStep()}},
			},
			problems: []problem{{rollout.ProblemPolicyWindow, "oslo", "need a window of 1h10m0s"}},
		},
		{
			name:    "a named policy that soaks for longer than the window",
			named:   house(time.Minute, time.Hour),
			window:  2*(rollout.StepAllowance+time.Hour) - 1,
			targets: []rollout.Target{found("oslo")},
			clusters: []rollout.ClusterPlan{
				{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}},
			},
			problems: []problem{{rollout.ProblemPolicyWindow, "oslo", "gates of at most 1h0m0s each"}},
		},
		{
			name:     "a named policy that may wait for ever",
			named:    house(0, time.Minute),
			targets:  []rollout.Target{found("oslo")},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}}},
			problems: []problem{{rollout.ProblemEndless, "", "the gate policy house sets no step.deadline"}},
		},
		{
			name: "a named policy whose numbers cannot be used",
			named: func() *gate.Plan {
				p := house(time.Minute, 0)
				p.Statistics.Beta = 1
				return p
			}(),
			targets:  []rollout.Target{found("oslo")},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}}},
			problems: []problem{{rollout.ProblemPolicy, "", "the gate policy house cannot be used: gate policy: beta is 1"}},
		},
		{
			name:     "policy that cannot be used",
			policy:   func(p *gate.Policy) { p.Alpha = 0 },
			targets:  []rollout.Target{found("oslo")},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}}},
			problems: []problem{{rollout.ProblemPolicy, "", "alpha is 0"}},
		},
		{
			name:     "no baseline",
			lookback: -1,
			targets:  []rollout.Target{found("oslo")},
			clusters: []rollout.ClusterPlan{{Cluster: "oslo", Steps: []rollout.StepPlan{gatewayStep(), sraStep()}}},
			problems: []problem{{rollout.ProblemLookback, "", "longer than zero"}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			release, policy, window, lookback := pair(), policy, rollout.WindowNeeded(2, policy.Deadline), time.Hour
			if test.release != nil {
				test.release(&release)
			}
			if test.policy != nil {
				test.policy(&policy)
			}
			if test.window != 0 {
				window = test.window
			}
			if test.lookback != 0 {
				lookback = test.lookback
			}
			plan, problems := rollout.NewPlan(release, test.targets, rollout.Terms{Gate: policy, Policy: test.named, Window: window, Lookback: lookback})
			want := rollout.Plan{Release: "2026-11", Gate: policy, Policy: test.named, Window: window, Lookback: lookback, Clusters: test.clusters}
			if test.named != nil {
				want.Gate = test.named.Statistics
			}
			if diff := cmp.Diff(want, plan); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
			for i, p := range problems {
				if i >= len(test.problems) {
					t.Errorf("unexpected problem %+v", p)
					continue
				}
				if want := test.problems[i]; p.ID != want.id || p.Cluster != want.cluster || !strings.Contains(p.Text, want.says) {
					t.Errorf("problem %d is %+v, want %+v", i, p, want)
				}
			}
			if len(problems) < len(test.problems) {
				t.Errorf("%d problems, want %d; got %+v", len(problems), len(test.problems), problems)
			}
		})
	}
}

func TestReleaseVersions(t *testing.T) {
	t.Parallel()
	if got := pair().Versions().String(); got != "gateway=4.53.0 sra=3.1.0" {
		t.Errorf("versions of the release: %q", got)
	}
}
