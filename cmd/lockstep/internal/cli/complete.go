package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
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
	clusters, err := cl.clusters(ctx, &fleetv1.ListClustersRequest{})
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

// releaseIDs offers what the configuration declares where it is on this machine,
// and the catalogue's releases, the newest first.
func (s *shell) releaseIDs(ctx context.Context, cl *client) ([]cobra.Completion, error) {
	var list []cobra.Completion
	add := func(id string, words ...string) {
		known := slices.ContainsFunc(list, func(one cobra.Completion) bool { return strings.HasPrefix(one, clean(id)+"\t") })
		if id != "" && !known {
			list = append(list, described(id, words...))
		}
	}
	if path, err := fleetfile.Find(s.conn.config, s.Env); err == nil {
		if file, err := fleetfile.Read(path, s.Env); err == nil {
			for _, r := range file.Releases {
				add(string(r.ID), "declared")
			}
		}
	}
	res, err := cl.catalog.ListReleases(ctx, &catalogv1.ListReleasesRequest{PageSize: releasePage})
	if err != nil {
		return list, nil //nolint:nilerr // what the configuration declares is an answer, too
	}
	for _, e := range slices.Backward(res.GetReleases()) {
		add(e.GetRelease().GetId(), e.GetStatus(), versionWords(e.GetRelease().GetVersions()))
	}
	return list, nil
}

func riskIDs(ctx context.Context, cl *client) ([]cobra.Completion, error) {
	res, err := cl.catalog.GetAcknowledgements(ctx, &catalogv1.GetAcknowledgementsRequest{})
	if err != nil {
		return nil, cl.failed("list risks", err)
	}
	var list []cobra.Completion
	for _, r := range res.GetRisks() {
		list = append(list, described(r.GetId(), r.GetTitle()))
	}
	return list, nil
}

func baselineIDs(ctx context.Context, cl *client) ([]cobra.Completion, error) {
	res, err := cl.drift.ListBaselines(ctx, &driftv1.ListBaselinesRequest{PageSize: completionPage})
	if err != nil {
		return nil, cl.failed("list baselines", err)
	}
	var list []cobra.Completion
	for _, b := range res.GetBaselines() {
		list = append(list, described(b.GetId(), b.GetCluster().GetState()))
	}
	return list, nil
}
