package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// pace is how far and how fast a rollout goes by itself.
type pace struct {
	waves                      []string
	maxConcurrent, maxFailures int
	soak                       time.Duration
	sizes                      []*rolloutv1.WaveSize // what waves say, once they are checked
}

func (p *pace) flags(c *cobra.Command) {
	c.Flags().StringArrayVar(&p.waves, "wave", nil, "`size` of the next wave: a number of clusters, a share of all such as 10% that is moved at its end, or labels such as tier=canary; repeat in order (default: one wave)")
	c.Flags().IntVar(&p.maxConcurrent, "max-concurrent", 1, "how many `clusters` move at the same time")
	c.Flags().IntVar(&p.maxFailures, "max-failures", 0, "how many `clusters` may go back before nothing starts any more")
	c.Flags().DurationVar(&p.soak, "soak", 0, "how much `time` each wave is watched before the next begins")
}

func (p *pace) check() error {
	switch {
	case p.maxConcurrent < 1:
		return usage("--max-concurrent %d: at least one cluster has to move at a time", p.maxConcurrent)
	case p.maxFailures < 0:
		return usage("--max-failures %d is negative", p.maxFailures)
	case p.soak < 0:
		return usage("--soak %s is negative; write for example 30m", p.soak)
	case p.soak > 0 && len(p.waves) == 0:
		return usage("--soak is the time between waves; give --wave, too")
	}
	p.sizes = nil
	for _, text := range p.waves {
		size, err := waveSize(text)
		if err != nil {
			return err
		}
		p.sizes = append(p.sizes, size)
	}
	return nil
}

func waveSize(text string) (*rolloutv1.WaveSize, error) {
	share, percent := strings.CutSuffix(text, "%")
	n, notNumber := strconv.ParseInt(share, 10, 32)
	number := notNumber == nil
	switch {
	case !number && (percent || text == ""):
		return nil, usage("--wave %q is neither a number of clusters nor a share such as 10%% nor labels such as tier=canary", text)
	case !number:
		return &rolloutv1.WaveSize{By: &rolloutv1.WaveSize_LabelSelector{LabelSelector: text}}, nil
	case n < 1 || percent && n > 100:
		return nil, usage("--wave %s: a wave holds one cluster at least and 100%% of them at most", text)
	case percent:
		return &rolloutv1.WaveSize{By: &rolloutv1.WaveSize_Percent{Percent: int32(n)}}, nil
	}
	return &rolloutv1.WaveSize{By: &rolloutv1.WaveSize_Clusters{Clusters: int32(n)}}, nil
}

// strategy is what the flags ask for, nil for what is so by default.
func (p *pace) strategy() *rolloutv1.Strategy {
	if len(p.sizes) == 0 && p.maxConcurrent == 1 && p.maxFailures == 0 {
		return nil
	}
	m := &rolloutv1.Strategy{Waves: p.sizes, MaxConcurrent: int32(p.maxConcurrent), MaxFailures: int32(p.maxFailures)}
	if p.soak > 0 {
		m.Soak = durationpb.New(p.soak)
	}
	return m
}

// waveLines say which clusters each wave of a plan holds.
func waveLines(p *rolloutv1.Plan) []string {
	const some = 5
	var out []string
	first := 0
	for i, w := range p.GetWaves() {
		var names []string
		for _, c := range p.GetClusters()[first:min(first+int(w.GetClusters()), len(p.GetClusters()))] {
			names = append(names, clean(c.GetCluster()))
		}
		first += int(w.GetClusters())
		if rest := len(names) - some; rest > 0 {
			names = append(names[:some], fmt.Sprintf("%d more", rest))
		}
		line := fmt.Sprintf("Wave %d (%s): %s", i+1, clean(w.GetName()), strings.Join(names, ", "))
		if w.GetSoak() != nil && i < len(p.GetWaves())-1 {
			line += ", then watched for " + length(w.GetSoak())
		}
		out = append(out, line)
	}
	return out
}

// steering is a command by which a person steers a rollout.
type steering struct {
	use, short, long, example, question string
	args                                []string
	// needs says that a reason has to be given. once says that a repeat could do
	// something else later, so that it bears the name of the first.
	needs, once bool
	do          func(ctx context.Context, cl *client, args []string, id, reason string) (*rolloutv1.Rollout, error)
}

func (s *shell) steerCommand(st steering) *cobra.Command {
	var out, reason, id string
	var ask consent
	c := &cobra.Command{
		Use: st.use, Short: st.short, Long: st.long, Example: st.example,
		Args: exactly(st.args...), ValidArgsFunction: s.first(rolloutIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if st.needs && strings.TrimSpace(reason) == "" {
				return usage("say why, for the record: --reason TEXT")
			}
			if err := ask.check(); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			if st.question != "" {
				if err := s.confirm(ask, fmt.Sprintf(st.question, clean(strings.Join(args, " ")))); err != nil {
					return err
				}
			}
			if id == "" {
				id = s.ID()
			}
			args[0] = named(args[0], "rollout")
			r, err := st.do(c.Context(), cl, args, id, reason)
			if err != nil {
				return cl.failed(strings.Fields(st.use)[0]+" rollout "+args[0], err)
			}
			switch out {
			case "json", "yaml":
				return s.object(r, out)
			case "name":
				return s.print("rollout/" + clean(r.GetId()) + "\n")
			}
			return s.print(s.rolloutText(r, false))
		},
	}
	s.connectionFlags(c)
	why := "why, in a `sentence`"
	if st.needs {
		why += " (required)"
	}
	c.Flags().StringVar(&reason, "reason", "", why)
	if st.question != "" {
		ask.flags(c)
	}
	if st.once {
		requestFlag(c, &id)
	}
	outputFlag(c, &out, "table", "json", "yaml", "name")
	return c
}

func (s *shell) pauseCommand() *cobra.Command {
	return s.steerCommand(steering{
		use: "pause ROLLOUT", short: "Let no further cluster and no further step begin", args: []string{"ROLLOUT"}, once: true,
		long: `Let no further cluster and no further step of a rollout begin. What is being done is
finished, gates go on judging, and what fails goes back. A cluster that stands between
two steps is mixed for as long, and is taken back when its window ends.

Use it to look at something before the rollout goes on; 'lockstep rollout resume' lets
it. To stop for good, use 'lockstep rollout abort'.`,
		example: `  lockstep rollout pause r33b518cc90 --reason "looking at berlin"`,
		do: func(ctx context.Context, cl *client, args []string, id, reason string) (*rolloutv1.Rollout, error) {
			res, err := cl.rollouts.PauseRollout(ctx, &rolloutv1.PauseRolloutRequest{RequestId: id, Id: args[0], Reason: reason})
			return res.GetRollout(), err
		},
	})
}

func (s *shell) resumeCommand() *cobra.Command {
	return s.steerCommand(steering{
		use: "resume ROLLOUT", short: "Let a paused or held rollout go on", args: []string{"ROLLOUT"}, once: true,
		long: `Let a rollout go on that is paused or held. Of one that is held this accepts what has
failed so far, and lets clusters and waves go on whose gates did not pass; it needs
a reason, which is recorded. Clusters that went back stay back.

Use it when you have looked at why a rollout holds, and want it to go on all the same.`,
		example: `  lockstep rollout resume r33b518cc90
  lockstep rollout resume r33b518cc90 --reason "berlin's target host was down, not the release"`,
		do: func(ctx context.Context, cl *client, args []string, id, reason string) (*rolloutv1.Rollout, error) {
			res, err := cl.rollouts.ResumeRollout(ctx, &rolloutv1.ResumeRolloutRequest{RequestId: id, Id: args[0], Reason: reason})
			return res.GetRollout(), err
		},
	})
}

func (s *shell) abortCommand() *cobra.Command {
	return s.steerCommand(steering{
		use: "abort ROLLOUT --reason TEXT", short: "End a rollout: what is on its way goes back", args: []string{"ROLLOUT"}, needs: true,
		question: "End rollout %s and take back the clusters that are on their way?",
		long: `End a rollout. Clusters that are on their way go back to what they ran before, so that
none is left mixed; those that are through stay, and those that wait are left alone.
The reason is recorded.

Use it to stop for good and keep what works. To take back everything that the rollout
touched, use 'lockstep rollout rollback'.`,
		example: `  lockstep rollout abort r33b518cc90 --reason "superseded by 5.1.1" --yes`,
		do: func(ctx context.Context, cl *client, args []string, _, reason string) (*rolloutv1.Rollout, error) {
			res, err := cl.rollouts.AbortRollout(ctx, &rolloutv1.AbortRolloutRequest{Id: args[0], Reason: reason})
			return res.GetRollout(), err
		},
	})
}

func (s *shell) skipCommand() *cobra.Command {
	return s.steerCommand(steering{
		use: "skip ROLLOUT CLUSTER --reason TEXT", short: "Leave out a cluster that waits for its turn", args: []string{"ROLLOUT", "CLUSTER"}, needs: true,
		long: `Leave a cluster out of a rollout while it waits for its turn. It keeps what it runs, and
the reason is recorded.

Use it for a cluster that cannot be moved today, so that the others need not wait.`,
		example: `  lockstep rollout skip r33b518cc90 paris --reason "the site moves house this week"`,
		do: func(ctx context.Context, cl *client, args []string, _, reason string) (*rolloutv1.Rollout, error) {
			res, err := cl.rollouts.SkipCluster(ctx, &rolloutv1.SkipClusterRequest{Id: args[0], Cluster: named(args[1], "cluster"), Reason: reason})
			return res.GetRollout(), err
		},
	})
}
