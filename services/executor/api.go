package executor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	rolloutv1connect "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
)

// rolloutAPI lets people plan, start, watch and turn back.
type rolloutAPI struct{ conductor *conductor }

func (a *rolloutAPI) PlanRollout(ctx context.Context, req *rolloutv1.PlanRolloutRequest) (*rolloutv1.PlanRolloutResponse, error) {
	plan, problems, targets, err := a.plan(ctx, req)
	if err != nil {
		return nil, err
	}
	hash, err := codec.PlanHash(plan)
	if err != nil {
		return nil, err
	}
	resp := &rolloutv1.PlanRolloutResponse{Plan: codec.PlanToProto(plan), PlanHash: hash}
	for _, target := range targets {
		if len(target.Changes) > 0 {
			resp.Changes = append(resp.Changes, &rolloutv1.ClusterChanges{Cluster: string(target.Cluster), Lines: target.Changes})
		}
	}
	for _, p := range problems {
		resp.Problems = append(resp.Problems, &rolloutv1.Problem{Id: p.ID, Cluster: string(p.Cluster), Text: p.Text})
	}
	return resp, nil
}

// planned is what a plan and a start ask for.
type planned interface {
	GetRelease() string
	GetClusters() []string
	GetPolicy() string
	GetStrategy() *rolloutv1.Strategy
}

// surveysAtOnce bounds how many clusters a plan looks at side by side: each asks its
// engine or API server and registries.
const surveysAtOnce = 8

// plan looks at every cluster asked for and at the release's images.
func (a *rolloutAPI) plan(ctx context.Context, req planned) (rollout.Plan, []rollout.Problem, []rollout.Target, error) {
	c := a.conductor
	name := req.GetRelease()
	there := c.deps.Fleet()
	i := slices.IndexFunc(there.Releases, func(r rollout.Release) bool { return string(r.ID) == name })
	if i < 0 {
		return rollout.Plan{}, nil, nil, errs.New(errs.NotFound, "LS-ROL-010", "there is no release %q whose images are known; there are: %s", name, releaseNames(there.Releases))
	}
	release := there.Releases[i]
	ids, err := clusterIDs(there.Clusters, req.GetClusters())
	if err != nil {
		return rollout.Plan{}, nil, nil, err
	}
	policy, err := c.policy(ctx, req.GetPolicy())
	if err != nil {
		return rollout.Plan{}, nil, nil, err
	}
	strategy, err := strategyOf(req)
	if err != nil {
		return rollout.Plan{}, nil, nil, err
	}
	targets := make([]rollout.Target, len(ids))
	var asking errgroup.Group
	asking.SetLimit(surveysAtOnce)
	for i, id := range ids {
		asking.Go(func() error {
			target, err := survey(ctx, there, id, release)
			if err != nil {
				target.Trouble = append(target.Trouble, err.Error())
			}
			target.Cluster, target.Unseen, target.Labels = id, there.Unseen[id], there.Labels[id]
			c.mu.Lock()
			target.BusyWith = c.busy(id)
			target.Aside = c.moved(id)
			c.mu.Unlock()
			targets[i] = target
			return nil
		})
	}
	if err := asking.Wait(); err != nil {
		return rollout.Plan{}, nil, nil, err
	}
	plan, problems := rollout.NewPlan(release, targets, rollout.Terms{
		Gate: c.config.Gate, Policy: policy, Window: c.config.Window, Lookback: c.config.Lookback, Strategy: strategy,
	})
	switch f, err := c.inForce(ctx); {
	case err != nil:
		return rollout.Plan{}, nil, nil, err
	case f != nil:
		problems = append([]rollout.Problem{{ID: rollout.ProblemFrozen, Text: frozen(f)}}, problems...)
	}
	if why := there.Unfit[release.ID]; why != "" {
		problems = append([]rollout.Problem{{ID: rollout.ProblemUnfit, Text: fmt.Sprintf("release %s may not be moved to: %s", release.ID, why)}}, problems...)
	}
	return plan, problems, targets, nil
}

// strategyOf reads how far and how fast a rollout is to go by itself.
func strategyOf(req planned) (rollout.Strategy, error) {
	strategy, err := codec.StrategyFromProto(req.GetStrategy())
	if err != nil {
		return rollout.Strategy{}, errs.New(errs.Invalid, "LS-ROL-029", "a wave's labels cannot be read: %v", err)
	}
	return strategy, nil
}

// survey asks a cluster's deployment. A cluster that is only watched has none.
func survey(ctx context.Context, there Fleet, id fleet.ClusterID, release rollout.Release) (rollout.Target, error) {
	deployment, driven := there.Deployments[id]
	if !driven {
		return rollout.Target{Watched: true}, nil
	}
	return deployment.Survey(ctx, release)
}

func releaseNames(releases []rollout.Release) string {
	names := make([]string, len(releases))
	for i, r := range releases {
		names[i] = string(r.ID)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func clusterIDs(all []fleet.ClusterID, names []string) ([]fleet.ClusterID, error) {
	if len(names) == 0 {
		return all, nil
	}
	var out []fleet.ClusterID
	for _, name := range names {
		id := fleet.ClusterID(name)
		if !slices.Contains(all, id) {
			return nil, errs.New(errs.NotFound, "LS-ROL-011", "there is no cluster %q; `lockstep status` shows the clusters there are", name)
		}
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out, nil
}

func (a *rolloutAPI) StartRollout(ctx context.Context, req *rolloutv1.StartRolloutRequest) (*rolloutv1.StartRolloutResponse, error) {
	c := a.conductor
	id := rolloutID(c.config.Tenant, req.GetRequestId())
	if started, err := a.started(id, req); started != nil || err != nil {
		return started, err
	}
	plan, problems, _, err := a.plan(ctx, req)
	if err != nil {
		return nil, err
	}
	// The same request may have started meanwhile and be what stands in the way.
	if started, err := a.started(id, req); started != nil || err != nil {
		return started, err
	}
	if len(problems) > 0 {
		lines := make([]string, len(problems))
		for i, p := range problems {
			where := ""
			if p.Cluster != "" {
				where = string(p.Cluster) + ": "
			}
			lines[i] = fmt.Sprintf("%s %s%s", p.ID, where, p.Text)
		}
		return nil, errs.New(errs.Conflict, "LS-ROL-012", "the rollout cannot start: %s", strings.Join(lines, "; "))
	}
	if err := asPlanned(plan, req.GetPlanHash()); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.unfrozen(ctx); err != nil {
		return nil, err
	}
	// Planning looked at clusters without the lock; two starts may have planned
	// the same cluster meanwhile.
	for _, cluster := range plan.Clusters {
		if other := c.busy(cluster.Cluster); other != "" && other != id {
			return nil, errs.New(errs.Conflict, rollout.ProblemBusy, "rollout %s has just started on %s; wait for it or roll it back", other, cluster.Cluster)
		}
	}
	if err := c.settle(ctx, id); err != nil {
		return nil, err
	}
	if err := c.decide(ctx, id, rollout.Start{Plan: plan, RequestID: req.GetRequestId()}); err != nil {
		return nil, err
	}
	return &rolloutv1.StartRolloutResponse{Rollout: codec.RolloutToProto(c.get(id).state)}, nil
}

// asPlanned refuses a plan that is not the one somebody looked at.
func asPlanned(plan rollout.Plan, looked string) error {
	hash, err := codec.PlanHash(plan)
	if err != nil || looked == "" || looked == hash {
		return err
	}
	return errs.New(errs.Conflict, "LS-ROL-031", "what would be done now is another plan (%.19s) than the one that was looked at (%.19s): a cluster runs something else, an image, a chart or values were changed, or the policy was; look at the plan again", hash, looked)
}

// started answers a start that was made already, nil when there is none. A request
// that asks for something else than what its id started is refused, so that nobody
// takes the old rollout for the new one. Clusters that ran the release already are
// in the request and not in the plan.
func (a *rolloutAPI) started(id rollout.ID, req *rolloutv1.StartRolloutRequest) (*rolloutv1.StartRolloutResponse, error) {
	a.conductor.mu.Lock()
	defer a.conductor.mu.Unlock()
	r := a.conductor.rollouts[id]
	if r == nil || !r.state.Exists() {
		return nil, nil
	}
	plan := r.state.Plan
	strategy, err := strategyOf(req)
	if err != nil {
		return nil, err
	}
	other := string(plan.Release) != req.GetRelease() || named(plan) != req.GetPolicy() || !strategy.Makes(plan) || len(req.GetClusters()) > 0 && slices.ContainsFunc(plan.Clusters, func(c rollout.ClusterPlan) bool {
		return !slices.Contains(req.GetClusters(), string(c.Cluster))
	})
	if other {
		names := make([]string, len(plan.Clusters))
		for i, c := range plan.Clusters {
			names[i] = string(c.Cluster)
		}
		judged := ""
		if plan.Policy != nil {
			judged = " by gate policy " + plan.Policy.Name
		}
		if n := len(plan.Waves); n > 0 {
			judged += fmt.Sprintf(" in %d waves", n)
		}
		return nil, errs.New(errs.Conflict, "LS-ROL-022", "request_id %q has started rollout %s of %s on %s%s already, which is not what it asks for now; give this start a request_id of its own",
			req.GetRequestId(), id, plan.Release, strings.Join(names, ", "), judged)
	}
	return &rolloutv1.StartRolloutResponse{Rollout: codec.RolloutToProto(r.state)}, nil
}

// named is what a request calls a plan's policy, empty for that of the configuration.
func named(p rollout.Plan) string {
	if p.Policy == nil {
		return ""
	}
	return p.Policy.Name
}

// rolloutID makes the id a function of the request, so that the stream itself
// refuses to start one request twice.
func rolloutID(tenant fleet.TenantID, request string) rollout.ID {
	sum := sha256.Sum256([]byte(string(tenant) + "\x00" + request))
	return rollout.ID("r" + hex.EncodeToString(sum[:5]))
}

func (a *rolloutAPI) find(id string) (*conducted, error) {
	r := a.conductor.rollouts[rollout.ID(id)]
	if r == nil || !r.state.Exists() {
		return nil, errs.New(errs.NotFound, "LS-ROL-013", "there is no rollout %q; `lockstep rollout list` shows the rollouts there are", id)
	}
	return r, nil
}

func (a *rolloutAPI) GetRollout(_ context.Context, req *rolloutv1.GetRolloutRequest) (*rolloutv1.GetRolloutResponse, error) {
	a.conductor.mu.Lock()
	defer a.conductor.mu.Unlock()
	r, err := a.find(req.GetId())
	if err != nil {
		return nil, err
	}
	return &rolloutv1.GetRolloutResponse{Rollout: codec.RolloutToProto(r.state)}, nil
}

func (a *rolloutAPI) ListRollouts(ctx context.Context, req *rolloutv1.ListRolloutsRequest) (*rolloutv1.ListRolloutsResponse, error) {
	a.conductor.mu.Lock()
	defer a.conductor.mu.Unlock()
	rollouts, next, err := codec.Page(req, a.conductor.newest(), func(r *conducted) string { return string(r.state.ID) },
		func(r *conducted) bool { return matches(r.state, req) })
	if err != nil {
		return nil, err
	}
	f, err := a.conductor.inForce(ctx)
	if err != nil {
		return nil, err
	}
	resp := &rolloutv1.ListRolloutsResponse{NextPageToken: next, Freeze: f}
	for _, r := range rollouts {
		resp.Rollouts = append(resp.Rollouts, codec.RolloutToProto(r.state))
	}
	return resp, nil
}

func matches(s rollout.State, req *rolloutv1.ListRolloutsRequest) bool {
	if phases := req.GetPhases(); len(phases) > 0 && !slices.Contains(phases, string(s.Phase)) {
		return false
	}
	if _, part := s.Find(fleet.ClusterID(req.GetCluster())); req.GetCluster() != "" && !part {
		return false
	}
	return req.GetRelease() == "" || string(s.Plan.Release) == req.GetRelease()
}

func (a *rolloutAPI) WatchRollout(ctx context.Context, req *rolloutv1.WatchRolloutRequest, stream rolloutv1connect.RolloutServiceWatchRolloutServerStream) error {
	for {
		a.conductor.mu.Lock()
		r, err := a.find(req.GetId())
		if err != nil {
			a.conductor.mu.Unlock()
			return err
		}
		m, resting, changed := codec.RolloutToProto(r.state), r.state.Phase.Resting(), r.changed
		a.conductor.mu.Unlock()
		if err := stream.Send(&rolloutv1.WatchRolloutResponse{Rollout: m}); err != nil {
			return err
		}
		if resting {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (a *rolloutAPI) RollbackRollout(ctx context.Context, req *rolloutv1.RollbackRolloutRequest) (*rolloutv1.RollbackRolloutResponse, error) {
	if req.GetReason() == "" {
		return nil, errs.New(errs.Invalid, "LS-ROL-014", "a rollback needs a reason; it is recorded and told to people")
	}
	c := a.conductor
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.settle(ctx, rollout.ID(req.GetId())); err != nil {
		return nil, err
	}
	r, err := a.find(req.GetId())
	if err != nil {
		return nil, err
	}
	for _, run := range r.state.Clusters {
		if !moved(run) {
			continue
		}
		if other := c.busy(run.Plan.Cluster); other != "" && other != r.state.ID {
			return nil, errs.New(errs.Conflict, rollout.ProblemBusy, "rollout %s is moving %s; roll that back first", other, run.Plan.Cluster)
		}
		// Its recorded package is older than what the newer one found.
		if other := c.heldBy(run.Plan.Cluster, r); other != "" {
			return nil, errs.New(errs.Conflict, "LS-ROL-015", "rollout %s moved %s later; roll the newer back first", other, run.Plan.Cluster)
		}
	}
	if err := c.decide(ctx, r.state.ID, rollout.Rollback{Reason: req.GetReason(), RequestID: req.GetRequestId()}); err != nil {
		return nil, err
	}
	return &rolloutv1.RollbackRolloutResponse{Rollout: codec.RolloutToProto(r.state)}, nil
}

func (a *rolloutAPI) PauseRollout(ctx context.Context, req *rolloutv1.PauseRolloutRequest) (*rolloutv1.PauseRolloutResponse, error) {
	m, err := a.want(ctx, req.GetId(), "pause", func(s rollout.State) error {
		if strings.HasPrefix(s.PausedBy(), freezing) {
			// It would be forgotten when the freeze is lifted.
			return a.conductor.unfrozen(ctx)
		}
		switch s.Phase {
		case rollout.PhaseRunning, rollout.PhasePaused, rollout.PhaseHolding, rollout.PhaseRollingBack:
			return nil
		}
		return unwanted(s, "paused", "only one that moves can be")
	}, rollout.Pause{Reason: cmp.Or(req.GetReason(), "a person paused it"), RequestID: req.GetRequestId()})
	return &rolloutv1.PauseRolloutResponse{Rollout: m}, err
}

func (a *rolloutAPI) ResumeRollout(ctx context.Context, req *rolloutv1.ResumeRolloutRequest) (*rolloutv1.ResumeRolloutResponse, error) {
	m, err := a.want(ctx, req.GetId(), "resume", func(s rollout.State) error {
		held := s.Phase == rollout.PhaseHeld || s.Phase == rollout.PhaseHolding
		if err := a.conductor.unfrozen(ctx); err != nil {
			return err
		}
		switch {
		case held && req.GetReason() == "":
			return errs.New(errs.Invalid, "LS-ROL-014", "rollout %s is held, and to go on past that needs a reason; it is recorded and told to people", s.ID)
		case held:
			return a.conductor.unclaimed(s)
		case s.Phase.Resting():
			return unwanted(s, "resumed", "only one that is paused or held can be")
		}
		return nil
	}, rollout.Resume{Reason: cmp.Or(req.GetReason(), "a person resumed it"), RequestID: req.GetRequestId()})
	return &rolloutv1.ResumeRolloutResponse{Rollout: m}, err
}

func (a *rolloutAPI) AbortRollout(ctx context.Context, req *rolloutv1.AbortRolloutRequest) (*rolloutv1.AbortRolloutResponse, error) {
	m, err := a.want(ctx, req.GetId(), "abort", func(s rollout.State) error {
		switch {
		case req.GetReason() == "":
			return errs.New(errs.Invalid, "LS-ROL-014", "to abort a rollout needs a reason; it is recorded and told to people")
		case s.Phase.Resting() && s.Phase != rollout.PhaseHeld && s.Phase != rollout.PhaseAborted:
			return unwanted(s, "aborted", "it is over")
		}
		return nil
	}, rollout.Abort{Reason: req.GetReason()})
	return &rolloutv1.AbortRolloutResponse{Rollout: m}, err
}

func (a *rolloutAPI) SkipCluster(ctx context.Context, req *rolloutv1.SkipClusterRequest) (*rolloutv1.SkipClusterResponse, error) {
	cluster := fleet.ClusterID(req.GetCluster())
	m, err := a.want(ctx, req.GetId(), "skip", func(s rollout.State) error {
		run, part := s.Find(cluster)
		switch {
		case req.GetReason() == "":
			return errs.New(errs.Invalid, "LS-ROL-014", "to skip a cluster needs a reason; it is recorded and told to people")
		case !part:
			return errs.New(errs.NotFound, "LS-ROL-011", "there is no cluster %q in rollout %s; `lockstep rollout get %s` shows those there are", cluster, s.ID, s.ID)
		case run.Phase != rollout.ClusterWaiting && run.Phase != rollout.ClusterLeftOut:
			return errs.New(errs.Conflict, "LS-ROL-030", "%s is %s, and only a cluster that waits can be skipped", cluster, run.Phase)
		case s.Phase.Resting() && s.Phase != rollout.PhaseHeld:
			return unwanted(s, "changed", "it is over")
		}
		return nil
	}, rollout.LeaveOut{Cluster: cluster, Reason: req.GetReason()})
	return &rolloutv1.SkipClusterResponse{Rollout: m}, err
}

// unwanted says why a rollout cannot be what a person wants it to be.
func unwanted(s rollout.State, what, why string) error {
	return errs.New(errs.Conflict, "LS-ROL-030", "rollout %s is %s and cannot be %s: %s", s.ID, s.Phase, what, why)
}

// want decides what follows from a person's wish, where the rollout allows it.
func (a *rolloutAPI) want(ctx context.Context, id, doing string, allowed func(rollout.State) error, in rollout.Input) (*rolloutv1.Rollout, error) {
	c := a.conductor
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.settle(ctx, rollout.ID(id)); err != nil {
		return nil, err
	}
	r, err := a.find(id)
	if err != nil {
		return nil, err
	}
	if err := allowed(r.state); err != nil {
		return nil, err
	}
	if err := c.decide(ctx, r.state.ID, in); err != nil {
		return nil, fmt.Errorf("%s rollout %s: %w", doing, id, err)
	}
	return codec.RolloutToProto(r.state), nil
}
