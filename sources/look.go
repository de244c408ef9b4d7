package sources

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Missing is something that is not seen because it is not allowed or not there.
type Missing struct {
	What string // such as "list secrets in akeyless"
	Todo string
}

// Look is what one source sees when it is asked once.
type Look struct {
	Name     string
	Kind     fleet.Kind
	Clusters []fleet.ClusterID
	// Skipped says why it was not asked, empty when it was.
	Skipped      string
	Observations []codec.Observation
	Missing      []Missing
	Err          error
}

// lookLimit bounds one source of a dry run.
const lookLimit = 30 * time.Second

// Look asks every source of some clusters, or of all, once and side by side. It
// hands nothing in and leaves out what would write somewhere.
func (s *Set) Look(ctx context.Context, clusters []fleet.ClusterID) []Look {
	var chosen []source
	for _, one := range s.sources {
		if len(clusters) == 0 || slices.ContainsFunc(one.Clusters, func(id fleet.ClusterID) bool { return slices.Contains(clusters, id) }) {
			chosen = append(chosen, one)
		}
	}
	out := make([]Look, len(chosen))
	var all sync.WaitGroup
	for i, one := range chosen {
		all.Go(func() { out[i] = one.look(ctx) })
	}
	all.Wait()
	return out
}

func (o source) look(ctx context.Context) Look {
	l := Look{Name: o.Name, Kind: o.Kind, Clusters: o.Clusters}
	if o.writes {
		l.Skipped = "it would write there"
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	if o.permissions != nil {
		l.Missing, l.Err = o.permissions(ctx)
	}
	if l.Err != nil {
		return l
	}
	var running sync.WaitGroup
	defer running.Wait()
	if o.Run != nil {
		keeping, stop := context.WithCancel(ctx)
		defer stop()
		running.Go(func() {
			// What it ends with, Poll says as well.
			_ = o.Run(keeping)
		})
	}
	l.Observations, l.Err = o.patient(ctx)
	for _, seen := range l.Observations {
		// Of sessions, what is missing was asked for above.
		if m := seen.Mark; m != nil && m.Blind && o.permissions == nil {
			l.Missing = append(l.Missing, Missing{What: m.BlindReason, Todo: "correct gateway_url, or let the vendor's credentials read the gateway's settings"})
		}
	}
	return l
}

// patient polls until the source answers: one that keeps a watch has to see
// everything once before. What it says last counts.
func (o source) patient(ctx context.Context) ([]codec.Observation, error) {
	const tries = 20
	asked := o.Source
	if o.once != nil {
		asked = o.once
	}
	var observations []codec.Observation
	var err error
	for range tries {
		observations, err = asked.Poll(ctx)
		// What is refused stays refused.
		if kind := errs.KindOf(err); err == nil || o.Run == nil || kind == errs.PermissionDenied || kind == errs.Unauthenticated {
			return observations, err
		}
		timer := time.NewTimer(250 * time.Millisecond)
		select {
		case <-timer.C:
		case <-o.Wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
	return observations, err
}

// forbidden lists what the credentials of a namespace may not do.
func forbidden(ctx context.Context, namespace *kube.Source) ([]Missing, error) {
	permissions, err := namespace.Permissions(ctx)
	if err != nil {
		return nil, err
	}
	var out []Missing
	for _, p := range permissions {
		if !p.Allowed {
			out = append(out, Missing{
				What: fmt.Sprintf("may not %s %s in %s: %s", p.Verb, p.Resource, p.Namespace, p.Without),
				Todo: "apply the roles of deploy/k8s/collector there",
			})
		}
	}
	return out, nil
}

// missing lists what the vendor's credentials do not see.
func (v *vendor) missing(ctx context.Context) ([]Missing, error) {
	p := v.client.Permissions(ctx, v.names)
	var out []Missing
	give := p.Lacks()
	if give != "" {
		give = "give the credentials' role " + give
	}
	for _, call := range p.Calls {
		if call.Err != nil {
			out = append(out, Missing{What: call.Call + " fails: " + call.Err.Error(), Todo: give})
		}
	}
	for _, name := range p.Unseen {
		out = append(out, Missing{What: fmt.Sprintf("not all sessions of %s are seen", name), Todo: give})
	}
	for _, name := range p.Unknown {
		out = append(out, Missing{What: fmt.Sprintf("the vendor knows no cluster %s", name), Todo: "correct vendor_cluster; `akeyless list-gateways` lists the names"})
	}
	return out, nil
}
