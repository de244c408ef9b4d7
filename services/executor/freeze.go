package executor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// freezing begins the names of the pauses that a freeze asks for, so that its end lets
// go on what it stopped and nothing else.
const freezing = "freeze/"

func (c *conductor) freezeKey() string { return "tenant." + string(c.config.Tenant) }

// freeze reads the last freeze, nil when there never was one.
func (c *conductor) freeze(ctx context.Context) (*rolloutv1.Freeze, error) {
	data, err := c.deps.Bus.GetKey(ctx, topology.BucketControl, c.freezeKey())
	if errors.Is(err, bus.ErrNotFound) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, err
	}
	f := new(rolloutv1.Freeze)
	if err := proto.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("reading the freeze: %w", err)
	}
	return f, nil
}

// inForce returns the freeze that is in force, nil when there is none.
func (c *conductor) inForce(ctx context.Context) (*rolloutv1.Freeze, error) {
	f, err := c.freeze(ctx)
	if err != nil || f.GetLiftedAt() != nil {
		return nil, err
	}
	return f, nil
}

func (c *conductor) keepFreeze(ctx context.Context, f *rolloutv1.Freeze) error {
	data, err := proto.Marshal(f)
	if err != nil {
		return fmt.Errorf("encoding the freeze: %w", err)
	}
	return c.deps.Bus.PutKey(ctx, topology.BucketControl, c.freezeKey(), data)
}

// frozen says that all rollouts are frozen, for people.
func frozen(f *rolloutv1.Freeze) string {
	return fmt.Sprintf("all rollouts are frozen since %s by %s: %s; `lockstep rollout unfreeze` lifts it", f.GetAt().AsTime().Format("2006-01-02 15:04 UTC"), f.GetBy(), f.GetReason())
}

// obey makes the rollouts be as the last freeze wants them, with c.mu held: paused while
// it is in force, going on once it is lifted. It returns those that it keeps, or lets go.
func (c *conductor) obey(ctx context.Context, f *rolloutv1.Freeze) (ids []string, err error) {
	if f == nil {
		return nil, nil
	}
	for _, id := range slices.Sorted(maps.Keys(c.rollouts)) {
		if err := c.settle(ctx, id); err != nil {
			return ids, err
		}
		s := c.rollouts[id].state
		held := strings.HasPrefix(s.PausedBy(), freezing)
		switch {
		case f.GetLiftedAt() == nil && s.Exists() && !s.Phase.Resting():
			if err := c.decide(ctx, id, rollout.Pause{Reason: frozen(f), RequestID: freezing + f.GetId() + "/" + string(id)}); err != nil {
				return ids, err
			}
			ids = append(ids, string(id))
		case f.GetLiftedAt() != nil && held && (s.Phase == rollout.PhasePaused || s.Phase == rollout.PhaseRollingBack):
			if err := c.decide(ctx, id, rollout.Resume{Reason: "the freeze was lifted: " + f.GetLiftedReason(), RequestID: "un" + s.PausedBy()}); err != nil {
				return ids, err
			}
			ids = append(ids, string(id))
		}
	}
	return ids, nil
}

func callerOf(ctx context.Context) string {
	if who, ok := rpc.PrincipalFrom(ctx); ok {
		return who.Name
	}
	return "somebody"
}

func (a *rolloutAPI) FreezeRollouts(ctx context.Context, req *rolloutv1.FreezeRolloutsRequest) (*rolloutv1.FreezeRolloutsResponse, error) {
	c := a.conductor
	c.mu.Lock()
	defer c.mu.Unlock()
	f, err := c.freeze(ctx)
	if err != nil {
		return nil, err
	}
	// A repeat of the request whose freeze was lifted meanwhile does not begin it anew.
	if f == nil || f.GetLiftedAt() != nil && f.GetId() != req.GetRequestId() {
		f = &rolloutv1.Freeze{Id: req.GetRequestId(), Reason: req.GetReason(), By: callerOf(ctx), At: timestamppb.New(c.deps.Now())}
		if err := c.keepFreeze(ctx, f); err != nil {
			return nil, err
		}
		c.deps.Log.Warn("all rollouts are frozen", "by", f.GetBy(), "reason", f.GetReason())
	}
	ids, err := c.obey(ctx, f)
	return &rolloutv1.FreezeRolloutsResponse{Freeze: f, Rollouts: ids}, err
}

func (a *rolloutAPI) UnfreezeRollouts(ctx context.Context, req *rolloutv1.UnfreezeRolloutsRequest) (*rolloutv1.UnfreezeRolloutsResponse, error) {
	c := a.conductor
	c.mu.Lock()
	defer c.mu.Unlock()
	f, err := c.freeze(ctx)
	if err != nil {
		return nil, err
	}
	if f != nil && f.GetLiftedAt() == nil {
		f.LiftedAt, f.LiftedReason, f.LiftedBy = timestamppb.New(c.deps.Now()), req.GetReason(), callerOf(ctx)
		if err := c.keepFreeze(ctx, f); err != nil {
			return nil, err
		}
		c.deps.Log.Warn("the freeze of all rollouts is lifted", "by", f.GetLiftedBy(), "reason", f.GetLiftedReason())
	}
	ids, err := c.obey(ctx, f)
	return &rolloutv1.UnfreezeRolloutsResponse{Freeze: f, Rollouts: ids}, err
}

// unfrozen refuses what a freeze does not allow.
func (c *conductor) unfrozen(ctx context.Context) error {
	f, err := c.inForce(ctx)
	if err != nil {
		return err
	}
	if f != nil {
		return errs.New(errs.Conflict, rollout.ProblemFrozen, "%s", frozen(f))
	}
	return nil
}
