package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Release is what a rollout brings: one image per line.
type Release struct {
	ID    fleet.ReleaseID
	Lines map[fleet.Line]ReleaseImage
	// Chart is what brings them to a cluster that Helm drives; a set of images has none.
	Chart Chart
}

// Chart is one release of a Helm chart.
type Chart struct {
	Name, Version string
	// Digest is that of its archive, "sha256:…", empty where it is not known.
	Digest string
	// Source is where it is published.
	Source string
}

// Versions returns the version set the release carries.
func (r Release) Versions() fleet.VersionSet {
	set := make(fleet.VersionSet, len(r.Lines))
	for line, image := range r.Lines {
		set[line] = image.Version
	}
	return set
}

// ReleaseImage is one line's image of a release.
type ReleaseImage struct {
	Version string
	// Ref is the image as the release names it, by tag or digest; empty where it only
	// tells the version.
	Ref string
}

// Target is one cluster as it was found when planning.
type Target struct {
	Cluster fleet.ClusterID
	// Running maps each component to what runs of it.
	Running map[fleet.Component]RunningImage
	// Resolved maps each line of the release to its image with digest.
	Resolved map[fleet.Line]string
	// BusyWith is the rollout that moves the cluster already, empty when none.
	BusyWith ID
	// Aside holds the times at which earlier rollouts moved the cluster.
	Aside []gate.Span
	// Unseen says why no sessions of the cluster are seen, empty when they are.
	Unseen string
	// Watched says that nothing here can change the cluster.
	Watched bool
	// Trouble lists what the deployment's own checks found.
	Trouble []string
	// Labels are those of the cluster.
	Labels map[string]string
	// Chart is the release's chart as it is published now, where the cluster takes it.
	Chart Chart
	// Values is the hash of the values that people reviewed for the cluster, empty where
	// those that it has go on.
	Values string
	// Repackaged says that the chart or the values are others than the cluster's, so that
	// there is something to bring even where every image runs already.
	Repackaged bool
	// Changes tells people what differs afterwards, a line each.
	Changes []string
}

// RunningImage is what runs of a component; several versions are joined by ", ".
type RunningImage struct {
	Version string
	// Digest of the running image, "sha256:…".
	Digest string
}

// RunningOf says what runs of each component by an inventory.
func RunningOf(inventory fleet.Inventory) map[fleet.Component]RunningImage {
	out := make(map[fleet.Component]RunningImage)
	for _, instance := range inventory.Instances {
		if instance.Health == fleet.HealthStopped {
			continue
		}
		running := RunningImage{Version: instance.RunningVersion(), Digest: instance.Digest}
		if other, more := out[instance.Component]; more && other != running {
			// Two instances of one component that differ: no single digest runs.
			running = RunningImage{Version: other.Version + ", " + running.Version}
		}
		out[instance.Component] = running
	}
	return out
}

// Problem is something that stands in a plan's way.
type Problem struct {
	// ID is a catalogue id that never changes its meaning.
	ID string
	// Cluster is empty when the whole plan is concerned.
	Cluster fleet.ClusterID
	Text    string
}

// Catalogue ids of plan problems.
const (
	ProblemBusy         = "LS-ROL-001"
	ProblemTarget       = "LS-ROL-002"
	ProblemWindow       = "LS-ROL-003"
	ProblemNothing      = "LS-ROL-004"
	ProblemPolicy       = "LS-ROL-005"
	ProblemMissing      = "LS-ROL-006"
	ProblemLookback     = "LS-ROL-007"
	ProblemUnseen       = "LS-ROL-008"
	ProblemWatched      = "LS-ROL-023"
	ProblemUnfit        = "LS-ROL-024"
	ProblemPolicyWindow = "LS-ROL-025"
	ProblemEndless      = "LS-ROL-026"
	ProblemWave         = "LS-ROL-028"
	ProblemFrozen       = "LS-ROL-032"
)

// StepAllowance is how long one command may take at a cluster: images are pulled
// and every container becomes healthy within it, or the step fails.
const StepAllowance = 5 * time.Minute

// WindowNeeded returns the shortest window for a number of steps: each may take
// its allowance and its gate the whole deadline, and a cluster must not be rolled
// back for that alone.
func WindowNeeded(steps int, deadline time.Duration) time.Duration {
	return time.Duration(steps) * (StepAllowance + deadline)
}

// stepOrder is the runbook's: gateway before the SRA components, workers last.
func stepOrder() []fleet.Line { return []fleet.Line{fleet.LineGateway, fleet.LineSRA, fleet.LineZTWA} }

// Terms are what a plan is judged by and how long it may take, whatever it brings.
type Terms struct {
	// Gate is the policy of the configuration.
	Gate gate.Policy
	// Policy is the one that was named instead, nil when none was.
	Policy           *gate.Plan
	Window, Lookback time.Duration
	Strategy         Strategy
}

// NewPlan plans a release for clusters in the given order, which waves by label may
// change. Clusters that run it
// already are left out. A plan with problems must not start.
func NewPlan(release Release, targets []Target, terms Terms) (Plan, []Problem) {
	plan := Plan{Release: release.ID, Gate: terms.Gate, Policy: terms.Policy, Window: terms.Window, Lookback: terms.Lookback}
	if plan.Policy != nil {
		plan.Gate = plan.Policy.Statistics
	}
	problems := plan.policyProblems()
	if plan.Lookback <= 0 {
		problems = append(problems, Problem{ID: ProblemLookback, Text: "the baseline lookback must be longer than zero"})
	}
	for _, target := range targets {
		if target.Watched {
			problems = append(problems, Problem{ID: ProblemWatched, Cluster: target.Cluster,
				Text: "rollouts only watch it: it runs on Kubernetes and names no Helm release to drive; name it under kubernetes.helm of the cluster, or leave it out and upgrade it with Helm"})
			continue
		}
		found := len(problems)
		if target.BusyWith != "" {
			problems = append(problems, Problem{ID: ProblemBusy, Cluster: target.Cluster,
				Text: fmt.Sprintf("rollout %s is moving it; wait for it or roll it back", target.BusyWith)})
		}
		if target.Unseen != "" {
			problems = append(problems, Problem{ID: ProblemUnseen, Cluster: target.Cluster,
				Text: fmt.Sprintf("no sessions of it are seen, so no gate could pass: %s", target.Unseen)})
		}
		for _, trouble := range target.Trouble {
			problems = append(problems, Problem{ID: ProblemTarget, Cluster: target.Cluster, Text: trouble})
		}
		if len(problems) > found {
			continue
		}
		steps, missing := planSteps(release, target)
		for _, text := range missing {
			problems = append(problems, Problem{ID: ProblemMissing, Cluster: target.Cluster, Text: text})
		}
		if len(steps) == 0 {
			continue
		}
		problems = append(problems, plan.windowProblems(target.Cluster, len(steps))...)
		plan.Clusters = append(plan.Clusters, ClusterPlan{
			Cluster: target.Cluster, Steps: steps, Aside: target.Aside, Chart: target.Chart, Values: target.Values,
		})
	}
	labels := make(map[fleet.ClusterID]map[string]string, len(targets))
	for _, target := range targets {
		labels[target.Cluster] = target.Labels
	}
	if len(plan.Clusters) > 0 {
		problems = append(problems, plan.arrange(terms.Strategy, labels)...)
	}
	if len(plan.Clusters) == 0 && len(problems) == 0 {
		problems = append(problems, Problem{ID: ProblemNothing, Text: fmt.Sprintf("every cluster asked for runs release %s already", release.ID)})
	}
	return plan, problems
}

// policyProblems says what keeps the plan's policy from judging anything.
func (p Plan) policyProblems() []Problem {
	var out []Problem
	which := "the gate policy"
	if p.Policy != nil {
		which += " " + p.Policy.Name
	}
	if err := p.Gate.Validate(); err != nil {
		out = append(out, Problem{ID: ProblemPolicy, Text: fmt.Sprintf("%s cannot be used: %v", which, err)})
	}
	if p.Policy != nil && p.Policy.Step.Deadline <= 0 {
		out = append(out, Problem{ID: ProblemEndless, Text: fmt.Sprintf(
			"%s sets no step.deadline, so a step that it cannot decide would wait for ever; set one and apply the policy again, or name another policy", which)})
	}
	return out
}

// windowProblems says where a cluster's steps cannot all be judged before its window
// ends.
func (p Plan) windowProblems(cluster fleet.ClusterID, steps int) []Problem {
	id, deadline, remedy := ProblemWindow, p.Gate.Deadline, "shorten gate.deadline"
	if p.Policy != nil {
		step := p.Policy.Step
		if step.Deadline <= 0 {
			return nil // no window is long enough, which is a problem of the policy
		}
		// A stage that soaks for longer than its deadline is decided when it has soaked.
		id, deadline = ProblemPolicyWindow, max(step.Deadline, step.Soak)
		remedy = fmt.Sprintf("name a policy whose steps are decided sooner than those of %s", p.Policy.Name)
	}
	need := WindowNeeded(steps, deadline)
	if p.Window >= need {
		return nil
	}
	return []Problem{{ID: id, Cluster: cluster, Text: fmt.Sprintf(
		"its %d steps with gates of at most %s each need a window of %s, but it is %s; widen rollout.window or %s", steps, deadline, need, p.Window, remedy)}}
}

func planSteps(release Release, target Target) (steps []StepPlan, missing []string) {
	for _, line := range stepOrder() {
		image, carried := release.Lines[line]
		if !carried {
			continue
		}
		ref := target.Resolved[line]
		step := StepPlan{Name: string(line), Line: line, ToVersion: image.Version, Image: ref}
		var from []string
		moved := false
		for _, component := range slices.Sorted(componentsOf(target, line)) {
			running := target.Running[component]
			step.Components = append(step.Components, component)
			if !slices.Contains(from, running.Version) {
				from = append(from, running.Version)
			}
			if running.Digest == "" || !strings.HasSuffix(ref, "@"+running.Digest) {
				moved = true
			}
		}
		if len(step.Components) == 0 && target.Chart != (Chart{}) {
			continue // the vendor's chart carries bastions also where they are switched off
		}
		if len(step.Components) == 0 {
			missing = append(missing, fmt.Sprintf("release %s carries line %s but the cluster runs no component of it", release.ID, line))
			continue
		}
		if !strings.Contains(ref, "@sha256:") {
			missing = append(missing, fmt.Sprintf("%s is not resolved to a digest, so what a step would bring could change", cmp.Or(image.Ref, "the image of line "+string(line))))
			continue
		}
		step.FromVersion = strings.Join(from, ", ")
		if moved || target.Repackaged && len(steps) == 0 {
			steps = append(steps, step)
		}
	}
	return steps, missing
}

// componentsOf yields the target's components that follow a line.
func componentsOf(target Target, line fleet.Line) func(yield func(fleet.Component) bool) {
	return func(yield func(fleet.Component) bool) {
		for component := range target.Running {
			if l, ok := fleet.LineOf(component); ok && l == line && !yield(component) {
				return
			}
		}
	}
}
