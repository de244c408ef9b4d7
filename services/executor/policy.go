package executor

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// policy looks up the gate policy of a name as it is now; the empty name is that of
// the configuration, for which it returns nil. A built-in policy comes before one
// that was applied under its name.
func (c *conductor) policy(ctx context.Context, name string) (*gate.Plan, error) {
	if name == "" {
		return nil, nil
	}
	if i := slices.IndexFunc(c.config.Policies, func(p gate.Plan) bool { return p.Name == name }); i >= 0 {
		return &c.config.Policies[i], nil
	}
	var found *gate.Plan
	err := c.deps.Bus.LoadLast(ctx, topology.StreamEvents, topology.EventFilter(topology.NounPolicy), func(m bus.Message) error {
		if _, id, _ := topology.EventNoun(m.Subject); id != name {
			return nil
		}
		var event gatev1.PolicyEvent
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
		}
		plan := codec.GatePlanFromProto(event.GetPlan())
		plan.Name = name
		found = &plan
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("looking up gate policy %s: %w", name, err)
	}
	if found == nil {
		return nil, errs.New(errs.NotFound, "LS-ROL-027", "there is no gate policy %q; `lockstep gate policy list` shows the policies there are", name)
	}
	return found, nil
}
