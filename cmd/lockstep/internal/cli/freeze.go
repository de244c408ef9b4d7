package cli

import (
	"strings"

	"github.com/spf13/cobra"

	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// freezeWords say that all rollouts are frozen.
func (s *shell) freezeWords(f *rolloutv1.Freeze) string {
	return "All rollouts are frozen since " + s.instant(f.GetAt()) + " by " + clean(f.GetBy()) + ": " + clean(f.GetReason())
}

func (s *shell) freezeCommand() *cobra.Command {
	var reason, id string
	c := &cobra.Command{
		Use:   "freeze --reason TEXT",
		Short: "Stop all rollouts at once, and let none start",
		Long: `Stop all rollouts at once: none starts, none goes on, no step begins. What is being done
is finished, gates go on judging, what fails goes back, and abort and rollback work as
ever. It does not ask. The ids of the rollouts that it keeps are printed.

Use it when something is wrong and you do not know yet with what, or while nothing may
change. 'lockstep rollout unfreeze' lifts it.`,
		Example: `  lockstep rollout freeze --reason "the identity provider is down"`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage("say why, for the record: --reason TEXT")
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			if id == "" {
				id = s.ID()
			}
			res, err := cl.rollouts.FreezeRollouts(c.Context(), &rolloutv1.FreezeRolloutsRequest{RequestId: id, Reason: reason})
			if err != nil {
				return cl.failed("freeze all rollouts", err)
			}
			if f := res.GetFreeze(); f.GetLiftedAt() != nil {
				s.talk("This request was known already, and its freeze is lifted. Leave --request-id out to freeze anew.")
			} else {
				s.talk("%s.", s.freezeWords(f))
			}
			return s.lines(res.GetRollouts())
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVar(&reason, "reason", "", "why, in a `sentence` (required)")
	requestFlag(c, &id)
	return c
}

func (s *shell) unfreezeCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "unfreeze --reason TEXT",
		Short: "Lift a freeze: what it paused goes on",
		Long: `Lift a freeze. The rollouts that it paused go on, and their ids are printed; what was
paused or held for another reason stays so.

Use it when the reason of the freeze is gone.`,
		Example: `  lockstep rollout unfreeze --reason "the identity provider is back"`,
		Args:    exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage("say why, for the record: --reason TEXT")
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.rollouts.UnfreezeRollouts(c.Context(), &rolloutv1.UnfreezeRolloutsRequest{Reason: reason})
			if err != nil {
				return cl.failed("lift the freeze", err)
			}
			if res.GetFreeze() == nil {
				s.talk("Nothing was frozen.")
			} else {
				s.talk("Rollouts may start and go on.")
			}
			return s.lines(res.GetRollouts())
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVar(&reason, "reason", "", "why, in a `sentence` (required)")
	return c
}

// lines prints ids, one a line.
func (s *shell) lines(ids []string) error {
	for _, id := range ids {
		if err := s.print(clean(id) + "\n"); err != nil {
			return err
		}
	}
	return nil
}
