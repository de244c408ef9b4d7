package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

func (s *shell) rolloutCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "rollout",
		Aliases: []string{"rollouts"},
		Short:   "Plan, start, watch, steer and roll back rollouts",
		Long: `Plan, start, watch, steer and roll back rollouts. A rollout brings clusters to a
release, one after the other or in waves; in each, the gateway moves first and then
the SRA components, and after every step a gate judges people's new sessions before
anything else moves.`,
	}, s.planCommand(), s.startCommand(), s.rolloutListCommand(), s.rolloutGetCommand(), s.watchCommand(),
		s.pauseCommand(), s.freezeCommand(), s.unfreezeCommand(), s.resumeCommand(), s.skipCommand(), s.abortCommand(), s.rollbackCommand())
}

// wanted is what a plan or a start asks for.
type wanted struct {
	release  string
	clusters []string
	policy   string
	pace
}

func (w *wanted) flags(s *shell, c *cobra.Command) {
	c.Flags().StringVarP(&w.release, "release", "r", "", "`release` to bring the clusters to (required)")
	c.Flags().StringSliceVarP(&w.clusters, "cluster", "c", nil, "`cluster` to move; repeat for several (default: every cluster, in the fleet's order)")
	c.Flags().StringVar(&w.policy, "policy", "", "gate `policy` to judge it by (default: the numbers of the server's configuration)")
	w.pace.flags(c)
	s.completeFlag(c, "release", s.releaseIDs)
	s.completeFlag(c, "cluster", clusterIDs)
	s.completeFlag(c, "policy", policyNames)
}

func (w *wanted) check() error {
	if w.release == "" {
		return usage("say which release: --release ID")
	}
	return w.pace.check()
}

func (s *shell) plan(ctx context.Context, cl *client, w wanted) (*rolloutv1.PlanRolloutResponse, error) {
	res, err := cl.rollouts.PlanRollout(ctx, &rolloutv1.PlanRolloutRequest{Release: w.release, Clusters: w.clusters, Policy: w.policy, Strategy: w.strategy()})
	if err != nil {
		return nil, cl.failed("plan a rollout of "+w.release, err)
	}
	return res, nil
}

// obstacles is the error of a plan that does not start, or nil.
func obstacles(res *rolloutv1.PlanRolloutResponse) error {
	switch n := len(res.GetProblems()); n {
	case 0:
		return nil
	case 1:
		return errors.New("the plan has a problem and does not start")
	default:
		return fmt.Errorf("the plan has %d problems and does not start", n)
	}
}

func (s *shell) planCommand() *cobra.Command {
	var w wanted
	var out string
	c := &cobra.Command{
		Use:   "plan --release RELEASE [--cluster CLUSTER]... [--policy POLICY]",
		Short: "Say what a rollout would do and what stands in its way",
		Long: `Say what a rollout would do, cluster by cluster, and what stands in its way.
Nothing is changed. A plan with problems exits with 1.

With --policy a gate policy judges each step, by more than people's sessions: one that
is built in or that was applied, see 'lockstep gate policy list'. It must be able to
decide every step of a cluster within rollout.window.

Use it before every rollout, and to see what a declared release would move.`,
		Example: `  lockstep rollout plan --release 5.1.0
  lockstep rollout plan --release 5.1.0 --policy fast
  lockstep rollout plan --release 5.1.0 --cluster berlin --cluster paris -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := w.check(); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := s.plan(c.Context(), cl, w)
			if err != nil {
				return err
			}
			if out == "table" {
				err = s.print(s.planText(res))
			} else {
				err = s.object(res, out)
			}
			if err != nil {
				return err
			}
			return obstacles(res)
		},
	}
	w.flags(s, c)
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) startCommand() *cobra.Command {
	var w wanted
	var out, id, looked string
	var ask consent
	var wait waiting
	c := &cobra.Command{
		Use:   "start --release RELEASE [--cluster CLUSTER]... [--policy POLICY]",
		Short: "Plan a rollout, ask, and start it",
		Long: `Plan a rollout, show the plan, ask, and start it. The id of the rollout is all
that is printed on standard output, so a script can keep it. With --wait the
changes are told on standard error, and the exit codes are those of
'lockstep rollout watch'.

A script gives --yes, so that nothing asks, and --request-id with a key of its own:
the same key never starts a second rollout, so the command can be repeated. What is
started is the plan that was shown; with --plan it is the one of an earlier
'lockstep rollout plan', by the hash at its end, or nothing if the world has changed.

With --wave the clusters are moved in waves, each when the one before is through and
was watched for --soak. A cluster that fails goes back, and nothing starts meanwhile;
the rollout goes on by itself while no more than --max-failures have failed.

With --policy a gate policy judges each step, and each wave at its end. The rollout
keeps it as it is now, and its mode says what follows: with shadow or advise the
rollout goes on whatever it says.`,
		Example: `  lockstep rollout start --release 5.1.0
  lockstep rollout start --release 5.1.0 --policy fast
  lockstep rollout start --release 5.1.0 --cluster berlin --wait --timeout 1h
  lockstep rollout start --release 5.1.0 --wave tier=canary --wave 10% --soak 30m --max-concurrent 5 --max-failures 1
  lockstep rollout start --release 5.1.0 --yes --request-id "$CI_PIPELINE_ID" -o name`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := errors.Join(w.check(), ask.check(), wait.check()); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := s.plan(c.Context(), cl, w)
			if err != nil {
				return err
			}
			s.talk("%s", strings.TrimSuffix(s.planText(res), "\n"))
			if err := obstacles(res); err != nil {
				return err
			}
			if looked == "" {
				looked = res.GetPlanHash()
			}
			if err := s.confirm(ask, "Start this rollout?"); err != nil {
				return err
			}
			if id == "" {
				id = s.ID()
			}
			started, err := cl.rollouts.StartRollout(c.Context(), &rolloutv1.StartRolloutRequest{RequestId: id, Release: w.release, Clusters: w.clusters, Policy: w.policy, Strategy: w.strategy(), PlanHash: looked})
			if err != nil {
				return cl.failed("start a rollout of "+w.release, err)
			}
			return s.begun(c.Context(), cl, started.GetRollout(), out, wait, forward)
		},
	}
	w.flags(s, c)
	s.connectionFlags(c)
	ask.flags(c)
	wait.flags(c)
	requestFlag(c, &id)
	c.Flags().StringVar(&looked, "plan", "", "`hash` of the plan that was looked at; another one by now does not start (default: the one that is shown)")
	outputFlag(c, &out, "table", "json", "yaml", "name")
	return c
}

func requestFlag(c *cobra.Command, id *string) {
	c.Flags().StringVar(id, "request-id", "", "`key` that makes repeating the command safe (default: a new one each time)")
}

// waiting is whether and how long a command stays until the rollout rests.
type waiting struct {
	wait    bool
	timeout time.Duration
}

func (w *waiting) flags(c *cobra.Command) {
	c.Flags().BoolVar(&w.wait, "wait", false, "stay until the rollout rests")
	c.Flags().DurationVar(&w.timeout, "timeout", 0, "leave with exit code 5 after this `time`; the rollout goes on (default: no limit)")
}

func (w *waiting) check() error {
	if w.timeout < 0 {
		return usage("--timeout %s is negative; write for example 30m", w.timeout)
	}
	if w.timeout > 0 && !w.wait {
		return usage("--timeout limits --wait; give both")
	}
	return nil
}

// begun prints a rollout that was just set going, and waits when asked to.
func (s *shell) begun(ctx context.Context, cl *client, r *rolloutv1.Rollout, out string, w waiting, aim direction) error {
	if aim == back && rests(r.GetPhase()) && r.GetPhase() != "rolled_back" {
		// The request was known already and changed nothing, so there is nothing to
		// wait for.
		w.wait = false
		defer s.talk("Rollout %s stays %s; this request was known already. Leave --request-id out to ask anew.", clean(r.GetId()), clean(r.GetPhase()))
	}
	if w.wait && out == "json" {
		return s.watch(ctx, cl, watching{id: r.GetId(), timeout: w.timeout, aim: aim, show: s.whole})
	}
	var err error
	switch out {
	case "table":
		err = s.print(clean(r.GetId()) + "\n")
	case "name":
		err = s.print("rollout/" + clean(r.GetId()) + "\n")
	default:
		err = s.object(r, out)
	}
	if err != nil || !w.wait {
		return err
	}
	return s.watch(ctx, cl, watching{id: r.GetId(), timeout: w.timeout, aim: aim, show: s.changes(s.Err)})
}

// consent is how a command that changes clusters is allowed to go on.
type consent struct{ yes, noInput bool }

func (a *consent) flags(c *cobra.Command) {
	c.Flags().BoolVarP(&a.yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&a.noInput, "no-input", false, "never ask; without --yes this is an error")
}

func (a consent) check() error {
	if a.noInput && !a.yes {
		return usage("--no-input forbids asking and --yes is missing; give --yes to go on")
	}
	return nil
}

func (s *shell) confirm(a consent, question string) error {
	if a.yes {
		return nil
	}
	if _, err := fmt.Fprintf(s.Err, "%s [y/N] ", question); err != nil {
		return fmt.Errorf("ask for confirmation: %w", err)
	}
	answer, err := bufio.NewReader(s.In).ReadString('\n')
	if err != nil && !(errors.Is(err, io.EOF) && answer != "") {
		s.talk("")
		return errors.New("there was no answer, so nothing was done; --yes goes on without asking")
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New("not confirmed, so nothing was done")
}

func (s *shell) rolloutListCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List rollouts, newest first",
		Long: `List rollouts, newest first: the phase of each, how many of its clusters are done,
and why it rests.

Use it to find the rollout that moved a cluster, and to see what happened lately.`,
		Example: `  lockstep rollout list
  lockstep rollout list -o json | jq '.[] | select(.phase == "held")'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			var all []*rolloutv1.Rollout
			var freeze *rolloutv1.Freeze
			for token := ""; ; {
				res, err := cl.rollouts.ListRollouts(c.Context(), &rolloutv1.ListRolloutsRequest{PageSize: 1000, PageToken: token})
				if err != nil {
					return cl.failed("list rollouts", err)
				}
				all = append(all, res.GetRollouts()...)
				freeze = res.GetFreeze()
				if token = res.GetNextPageToken(); token == "" {
					break
				}
			}
			if freeze != nil {
				s.talk("%s.", s.freezeWords(freeze))
			}
			return s.printRollouts(all, out)
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func (s *shell) printRollouts(list []*rolloutv1.Rollout, out string) error {
	switch out {
	case "json", "yaml":
		return objects(s, list, out)
	case "name":
		for _, r := range list {
			if err := s.print("rollout/" + clean(r.GetId()) + "\n"); err != nil {
				return err
			}
		}
		return nil
	}
	if len(list) == 0 {
		s.talk("There are no rollouts yet; `lockstep rollout start --release RELEASE` begins one.")
		return nil
	}
	t := &table{header: []string{"ROLLOUT", "RELEASE", "PHASE", "DONE", "AGE", "REASON"}}
	if out == "wide" {
		t.header = []string{"ROLLOUT", "RELEASE", "PHASE", "DONE", "STARTED", "ENDED", "REASON"}
	}
	for _, r := range list {
		done := 0
		for _, run := range r.GetClusters() {
			if run.GetPhase() == "succeeded" {
				done++
			}
		}
		share := fmt.Sprintf("%d/%d", done, len(r.GetClusters()))
		if out == "wide" {
			t.add(r.GetId(), r.GetRelease(), r.GetPhase(), share, s.instant(r.GetStartedAt()), s.instant(r.GetEndedAt()), r.GetReason())
		} else {
			t.add(r.GetId(), r.GetRelease(), r.GetPhase(), share, s.age(r.GetStartedAt()), r.GetReason())
		}
	}
	return s.print(t.render(s.colour))
}

func (s *shell) rolloutGetCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "get ROLLOUT",
		Short: "Show one rollout as it stands",
		Long: `Show one rollout as it stands: its phase and reason, and for every cluster the step,
the gate and when its window ends; with -o wide the versions it moves between and
the recorded package as well.

Use it to see where a rollout is and what holds it; 'lockstep rollout watch' follows it.`,
		Example: `  lockstep rollout get r33b518cc90
  lockstep rollout get r33b518cc90 -o yaml`,
		Args:              exactly("ROLLOUT"),
		ValidArgsFunction: s.first(rolloutIDs),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			r, err := cl.rollout(c.Context(), args[0])
			if err != nil {
				return err
			}
			switch out {
			case "json", "yaml":
				return s.object(r, out)
			case "name":
				return s.print("rollout/" + clean(r.GetId()) + "\n")
			}
			return s.print(s.rolloutText(r, out == "wide"))
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func (c *client) rollout(ctx context.Context, id string) (*rolloutv1.Rollout, error) {
	res, err := c.rollouts.GetRollout(ctx, &rolloutv1.GetRolloutRequest{Id: named(id, "rollout")})
	if err != nil {
		return nil, c.failed("get rollout "+id, err)
	}
	return res.GetRollout(), nil
}

// named takes an id with or without its kind, as -o name prints it.
func named(id, kind string) string { return strings.TrimPrefix(id, kind+"/") }

func (s *shell) rolloutText(r *rolloutv1.Rollout, wide bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Rollout %s of release %s\n", clean(r.GetId()), clean(r.GetRelease()))
	fmt.Fprintf(&b, "Phase    %s\n", paint(clean(r.GetPhase()), s.colour))
	if r.GetReason() != "" {
		fmt.Fprintf(&b, "Reason   %s\n", clean(r.GetReason()))
	}
	if waves := r.GetPlan().GetWaves(); len(waves) > 0 {
		wave := waves[min(int(r.GetWave()), len(waves)-1)]
		fmt.Fprintf(&b, "Wave     %d of %d (%s)", r.GetWave()+1, len(waves), clean(wave.GetName()))
		if r.GetSoakEnds() != nil && !rests(r.GetPhase()) {
			fmt.Fprintf(&b, ", watched until %s", s.instant(r.GetSoakEnds()))
		}
		b.WriteByte('\n')
	}
	if gate := r.GetWaveGate(); gate != "" {
		fmt.Fprintf(&b, "Gate     %s, of the whole wave\n", clean(gate))
	}
	if p := r.GetPlan().GetPolicy(); p != nil {
		fmt.Fprintf(&b, "Policy   %s\n", modeWords(p))
	}
	fmt.Fprintf(&b, "Started  %s (%s ago)\n", s.instant(r.GetStartedAt()), s.age(r.GetStartedAt()))
	if r.GetEndedAt() != nil {
		fmt.Fprintf(&b, "Ended    %s (%s after the start)\n", s.instant(r.GetEndedAt()), short(r.GetEndedAt().AsTime().Sub(r.GetStartedAt().AsTime())))
	}
	t := &table{header: []string{"CLUSTER", "PHASE", "STEP", "GATE", "WINDOW ENDS", "REASON"}}
	if wide {
		t.header = []string{"CLUSTER", "PHASE", "STEP", "GATE", "WINDOW ENDS", "MOVES", "PACKAGE BEFORE", "REASON"}
	}
	for _, run := range r.GetClusters() {
		if wide {
			t.add(run.GetCluster(), run.GetPhase(), run.GetStep(), run.GetGate(), s.instant(run.GetWindowEnds()), moves(r.GetPlan(), run.GetCluster()), run.GetBasePackage(), run.GetReason())
		} else {
			t.add(run.GetCluster(), run.GetPhase(), run.GetStep(), run.GetGate(), s.instant(run.GetWindowEnds()), run.GetReason())
		}
	}
	b.WriteString("\n" + t.render(s.colour))
	return b.String()
}

// moves lists the versions that a cluster is moved between.
func moves(p *rolloutv1.Plan, cluster string) string {
	var list []string
	for _, c := range p.GetClusters() {
		if c.GetCluster() != cluster {
			continue
		}
		for _, step := range c.GetSteps() {
			list = append(list, fmt.Sprintf("%s %s to %s", step.GetName(), step.GetFromVersion(), step.GetToVersion()))
		}
	}
	return strings.Join(list, ", ")
}

func (s *shell) watchCommand() *cobra.Command {
	var out string
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "watch ROLLOUT",
		Short: "Tell a rollout's changes until it rests",
		Long: `Tell a rollout's changes, one a line, until it rests; with -o json the whole
rollout after every change, one object a line. When the connection is lost, the
command tries again for a minute.

Exit codes: 0 succeeded, 3 held or inconclusive, 4 a gate failed, a cluster was rolled
back or the rollout was aborted, 5 --timeout passed, 1 interrupted; the rollout itself
goes on.`,
		Example: `  lockstep rollout watch r33b518cc90
  lockstep rollout watch r33b518cc90 --timeout 30m || lockstep rollout get r33b518cc90
  lockstep rollout watch r33b518cc90 -o json | jq -c .phase`,
		Args:              exactly("ROLLOUT"),
		ValidArgsFunction: s.first(rolloutIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if timeout < 0 {
				return usage("--timeout %s is negative; write for example 30m", timeout)
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			w := watching{id: named(args[0], "rollout"), timeout: timeout, aim: forward, show: s.changes(s.Out)}
			if out == "json" {
				w.show = s.whole
			}
			return s.watch(c.Context(), cl, w)
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "json")
	c.Flags().DurationVar(&timeout, "timeout", 0, "leave with exit code 5 after this `time` (default: no limit)")
	return c
}

func (s *shell) rollbackCommand() *cobra.Command {
	var out, reason, id string
	var ask consent
	var wait waiting
	c := &cobra.Command{
		Use:   "rollback ROLLOUT --reason TEXT",
		Short: "Put every cluster a rollout touched back to what ran before",
		Long: `Put every cluster that a rollout touched back to the package recorded before
it. The reason is recorded. With --wait, a rollout that is rolled back exits
with 0, as that is what was asked for; 3 when it holds on the way, 4 when a
cluster could not be restored.

Use it when people cannot work and no gate has stopped the rollout, or to take back
one that is done. A rollout under way stops first.`,
		Example: `  lockstep rollout rollback r33b518cc90 --reason "people cannot log in"
  lockstep rollout rollback r33b518cc90 --reason "asked for by support" --yes --wait --timeout 15m`,
		Args:              exactly("ROLLOUT"),
		ValidArgsFunction: s.first(rolloutIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if strings.TrimSpace(reason) == "" {
				return usage("say why, for the record: --reason TEXT")
			}
			if err := errors.Join(ask.check(), wait.check()); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			if !ask.yes {
				r, err := cl.rollout(c.Context(), args[0])
				if err != nil {
					return err
				}
				s.talk("%s", strings.TrimSuffix(s.rolloutText(r, false), "\n"))
			}
			if err := s.confirm(ask, "Roll these clusters back to what ran before?"); err != nil {
				return err
			}
			if id == "" {
				id = s.ID()
			}
			res, err := cl.rollouts.RollbackRollout(c.Context(), &rolloutv1.RollbackRolloutRequest{RequestId: id, Id: named(args[0], "rollout"), Reason: reason})
			if err != nil {
				return cl.failed("roll back "+args[0], err)
			}
			return s.begun(c.Context(), cl, res.GetRollout(), out, wait, back)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVar(&reason, "reason", "", "why, in a `sentence` (required)")
	ask.flags(c)
	wait.flags(c)
	requestFlag(c, &id)
	outputFlag(c, &out, "table", "json", "yaml", "name")
	return c
}
