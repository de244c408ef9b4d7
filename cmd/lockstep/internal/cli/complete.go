package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// completionLimit is how long a server has to offer ids: a person waits at the
// prompt.
const completionLimit = time.Second

// ids asks a server for the ids that may stand somewhere, each with a word about
// it.
type ids func(ctx context.Context, cl *client) ([]cobra.Completion, error)

// first completes the first argument of a command.
func (s *shell) first(list ids) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return s.every(list)(c, args, typed)
	}
}

// every completes each argument of a command, and values of a flag. Without a
// server that answers in time there is nothing to offer.
func (s *shell) every(list ids) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		cl, err := s.dial()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer cl.close()
		ctx, cancel := context.WithTimeout(c.Context(), completionLimit)
		defer cancel()
		all, err := list(ctx, cl)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		given := func(one cobra.Completion) bool {
			id, _, _ := strings.Cut(one, "\t")
			return slices.Contains(args, id)
		}
		return slices.DeleteFunc(all, given), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

// completeFlag completes the values of a flag.
func (s *shell) completeFlag(c *cobra.Command, flag string, list ids) {
	complete := s.every(list)
	err := c.RegisterFlagCompletionFunc(flag, func(c *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return complete(c, nil, typed)
	})
	if err != nil {
		panic("cli: " + err.Error()) // only when the command has no such flag
	}
}

func described(id string, words ...string) cobra.Completion {
	words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
	return cobra.CompletionWithDesc(clean(id), clean(strings.Join(words, ", ")))
}

func clusterIDs(ctx context.Context, cl *client) ([]cobra.Completion, error) {
	clusters, err := cl.clusters(ctx, nil)
	if err != nil {
		return nil, err
	}
	var list []cobra.Completion
	for _, c := range clusters {
		list = append(list, described(c.GetId(), c.GetState(), c.GetAssignedRelease()))
	}
	return list, nil
}

// completionPage is how many ids are offered; more are of no help at a prompt.
const completionPage = 50

func rolloutIDs(ctx context.Context, cl *client) ([]cobra.Completion, error) {
	res, err := cl.rollouts.ListRollouts(ctx, &rolloutv1.ListRolloutsRequest{PageSize: completionPage})
	if err != nil {
		return nil, cl.failed("list rollouts", err)
	}
	var list []cobra.Completion
	for _, r := range res.GetRollouts() {
		list = append(list, described(r.GetId(), r.GetPhase(), r.GetRelease()))
	}
	return list, nil
}

func gateIDs(ctx context.Context, cl *client) ([]cobra.Completion, error) {
	res, err := cl.gates.ListGates(ctx, &gatev1.ListGatesRequest{PageSize: completionPage})
	if err != nil {
		return nil, cl.failed("list gates", err)
	}
	var list []cobra.Completion
	for _, g := range res.GetGates() {
		list = append(list, described(g.GetId(), cmp.Or(g.GetDecision().GetVerdict(), "pending")))
	}
	return list, nil
}

// releaseIDs offers what clusters run and rollouts brought, and what the
// configuration declares where it is on this machine: no call lists releases.
func (s *shell) releaseIDs(ctx context.Context, cl *client) ([]cobra.Completion, error) {
	var list []cobra.Completion
	add := func(id, word string) {
		known := slices.ContainsFunc(list, func(one cobra.Completion) bool { return strings.HasPrefix(one, clean(id)+"\t") })
		if id != "" && !known {
			list = append(list, described(id, word))
		}
	}
	if path, err := fleetfile.Find(s.conn.config, s.Env); err == nil {
		if file, err := fleetfile.Read(path, s.Env); err == nil {
			for _, r := range file.Releases {
				add(string(r.ID), "declared")
			}
		}
	}
	clusters, err := cl.clusters(ctx, nil)
	if err != nil {
		return list, nil //nolint:nilerr // what the configuration declares is an answer, too
	}
	for _, c := range clusters {
		add(c.GetAssignedRelease(), "assigned to "+c.GetId())
	}
	return list, nil
}
