package evaluator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// policyWatch is what is known of gate policies besides the built-in ones, from the
// log.
type policyWatch struct {
	policies map[string]*namedPolicy
}

// namedPolicy is a policy that rollouts may name.
type namedPolicy struct {
	plan    gate.Plan
	builtIn bool
	// Who applied it last, and when; empty for one that is built in.
	by string
	at time.Time
	// revision is where its newest event stands in the stream.
	revision uint64
}

func (p *namedPolicy) name() string { return p.plan.Name }

// recallPolicy takes over one event of a policy.
func (w *watch) recallPolicy(id string, m bus.Message) error {
	if known := w.policies[id]; known != nil && m.Sequence <= known.revision {
		return nil
	}
	var event gatev1.PolicyEvent
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	if builtIn(id) != nil {
		w.deps.Log.Warn("the built-in gate policy hides one that was applied; apply that again under another name", "policy", id, "applied_by", event.GetBy())
	}
	plan := codec.GatePlanFromProto(event.GetPlan())
	plan.Name = id
	w.keepPolicy(&namedPolicy{plan: plan, by: event.GetBy(), at: event.GetAt().AsTime(), revision: m.Sequence})
	return nil
}

// keepPolicy has a policy be as it was applied.
func (w *watch) keepPolicy(p *namedPolicy) {
	if w.policies == nil {
		w.policies = make(map[string]*namedPolicy)
	}
	w.policies[p.name()] = p
}

// builtIn returns the built-in policy of a name, nil when there is none.
func builtIn(name string) *namedPolicy {
	for _, plan := range gatefile.Presets() {
		if plan.Name == name {
			return &namedPolicy{plan: plan, builtIn: true}
		}
	}
	return nil
}

// policiesByName lists the policies that rollouts may name, in order of their names.
// A built-in one comes before one of its name that an older version let in.
func (w *watch) policiesByName() []*namedPolicy {
	all := maps.Clone(w.policies)
	if all == nil {
		all = make(map[string]*namedPolicy)
	}
	for _, plan := range gatefile.Presets() {
		all[plan.Name] = &namedPolicy{plan: plan, builtIn: true}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *namedPolicy) int { return strings.Compare(a.name(), b.name()) })
}

func (p *namedPolicy) proto() *gatev1.NamedPolicy {
	m := &gatev1.NamedPolicy{Plan: codec.GatePlanToProto(p.plan), Hash: p.plan.Hash(), BuiltIn: p.builtIn, AppliedBy: p.by}
	if !p.at.IsZero() {
		m.AppliedAt = timestamppb.New(p.at)
	}
	return m
}

func (a gateAPI) ListPolicies(_ context.Context, req *gatev1.ListPoliciesRequest) (*gatev1.ListPoliciesResponse, error) {
	a.watch.mu.Lock()
	all := a.watch.policiesByName()
	a.watch.mu.Unlock()
	some, next, err := codec.Page(req, all, (*namedPolicy).name, func(p *namedPolicy) bool {
		return len(req.GetNames()) == 0 || slices.Contains(req.GetNames(), p.name())
	})
	if err != nil {
		return nil, err
	}
	resp := &gatev1.ListPoliciesResponse{NextPageToken: next}
	for _, p := range some {
		resp.Policies = append(resp.Policies, p.proto())
	}
	return resp, nil
}

// policyChanged is the change of a policy that there was before, as unchanged and
// created are.
const policyChanged = "changed"

func (a gateAPI) ApplyPolicies(ctx context.Context, req *gatev1.ApplyPoliciesRequest) (*gatev1.ApplyPoliciesResponse, error) {
	plans, err := readPolicies(req)
	if err != nil {
		return nil, err
	}
	w := a.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	resp := &gatev1.ApplyPoliciesResponse{}
	for _, plan := range plans {
		change := w.policyChange(plan)
		if change.GetChange() != unchanged && !req.GetDryRun() {
			if err := w.decidePolicy(ctx, plan); err != nil {
				return nil, err
			}
		}
		resp.Changes = append(resp.Changes, change)
	}
	return resp, nil
}

// readPolicies reads the document of a request. The error tells all that is wrong
// with it.
func readPolicies(req *gatev1.ApplyPoliciesRequest) ([]gate.Plan, error) {
	plans, err := gatefile.Read([]byte(req.GetDocument()), cmp.Or(req.GetName(), "document"))
	var problems gatefile.Problems
	if !errors.As(err, &problems) {
		return plans, err
	}
	told := make([]string, 0, len(problems))
	for i, p := range problems {
		if i == mostProblems {
			told = append(told, fmt.Sprintf("and %d more", len(problems)-i))
			break
		}
		told = append(told, p.String())
	}
	return nil, errs.New(errs.Invalid, "LS-GAT-040", "no policy is applied, as the document is not acceptable: %s", strings.Join(told, "; "))
}

// mostProblems is how many problems of a document an error tells: one mistake may
// repeat itself in each of many policies.
const mostProblems = 100

// policyChange says what applying a policy comes to.
func (w *watch) policyChange(plan gate.Plan) *gatev1.PolicyChange {
	m := &gatev1.PolicyChange{Name: plan.Name, Change: created, After: plan.Hash()}
	if before := w.policies[plan.Name]; before != nil {
		m.Change, m.Before = policyChanged, before.plan.Hash()
		if m.GetBefore() == m.GetAfter() {
			m.Change = unchanged
		}
	}
	return m
}

// decidePolicy records that a policy is from now on as a document says.
func (w *watch) decidePolicy(ctx context.Context, plan gate.Plan) error {
	p := &namedPolicy{plan: plan, by: who(ctx), at: w.deps.Now()}
	var expected uint64
	if before := w.policies[plan.Name]; before != nil {
		expected = before.revision
	}
	event := &gatev1.PolicyEvent{Plan: codec.GatePlanToProto(plan), At: timestamppb.New(p.at), By: p.by}
	var err error
	p.revision, err = w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounPolicy, plan.Name), event, expected)
	if errors.Is(err, bus.ErrConflict) {
		return errs.New(errs.Conflict, "LS-GAT-041", "the policy %s was changed at the same time; those before it in the document are applied: look at it with `lockstep gate policy show %s` and repeat", plan.Name, plan.Name)
	}
	if err != nil {
		return err
	}
	w.keepPolicy(p)
	return nil
}
