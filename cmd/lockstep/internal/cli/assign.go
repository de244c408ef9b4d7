package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

func (s *shell) assignCommand() *cobra.Command {
	var out, release, reason, selector string
	var none, all bool
	var ask consent
	c := &cobra.Command{
		Use:   "assign CLUSTER... --release RELEASE",
		Short: "Say which release clusters are expected to run",
		Long: `Say which release clusters are expected to run from now, or with --none that there is
none. Nothing is moved: a cluster that runs something else counts as drifted until a
rollout or somebody brings it there. What changed is printed.

It asks before it assigns to more than one cluster. A cluster that a rollout moves is
refused, and with it the whole command.

Use it to adopt clusters as they are, or after an upgrade by other means.`,
		Example: `  lockstep assign berlin --release 4.52.0
  lockstep assign -l env=prod --release 4.52.0 --reason "as agreed on Monday" --yes
  lockstep assign berlin paris --none`,
		ValidArgsFunction: s.every(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			clusters, err := clusterArgs(args)
			if err != nil {
				return err
			}
			if err := errors.Join(whichClusters(len(clusters) > 0, selector != "", all), whichRelease(release, none), ask.check()); err != nil {
				return err
			}
			release = named(release, "release")
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			if len(clusters) != 1 {
				found, err := cl.clusters(c.Context(), &fleetv1.ListClustersRequest{Ids: clusters, LabelSelector: selector})
				if err != nil {
					return err
				}
				if clusters, err = s.agree(ask, found, release); err != nil {
					return err
				}
			}
			return s.assign(c.Context(), cl, &fleetv1.AssignReleaseRequest{Clusters: clusters, Release: release, Reason: reason}, out)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVarP(&release, "release", "r", "", "`release` that they shall run")
	c.Flags().BoolVar(&none, "none", false, "assign no release")
	c.Flags().BoolVar(&all, "all", false, "all clusters, instead of names")
	c.Flags().StringVarP(&selector, "selector", "l", "", "the clusters whose `labels` match, as in 'lockstep status'; instead of names")
	c.Flags().StringVar(&reason, "reason", "", "why, in a `sentence`")
	s.completeFlag(c, "release", s.releaseIDs)
	ask.flags(c)
	outputFlag(c, &out, "table", "json", "yaml", "name")
	return c
}

// whichClusters checks that clusters are chosen in one way.
func whichClusters(ways ...bool) error {
	chosen := 0
	for _, way := range ways {
		if way {
			chosen++
		}
	}
	if chosen != 1 {
		return usage("say which clusters: CLUSTER..., --selector LABELS or --all, one of the three")
	}
	return nil
}

func whichRelease(release string, none bool) error {
	if (release == "") != none {
		return usage("say which release: --release RELEASE, or --none, one of the two")
	}
	return nil
}

// agree shows what an assignment would change, asks where it is of more than one
// cluster, and returns the ids.
func (s *shell) agree(ask consent, found []*fleetv1.Cluster, release string) ([]string, error) {
	if len(found) == 0 {
		return nil, errors.New("assign a release: no cluster matches")
	}
	t := &table{header: []string{"CLUSTER", "STATE", "ASSIGNED", "THEN"}}
	for _, c := range found {
		t.add(c.GetId(), c.GetState(), c.GetAssignedRelease(), release)
	}
	s.talk("%s", strings.TrimSuffix(t.render(colourful(s.Err, s.Env)), "\n"))
	if len(found) == 1 {
		return idsOf(found), nil
	}
	question := fmt.Sprintf("Assign %s to these %d clusters?", cmp.Or(release, "no release"), len(found))
	return idsOf(found), s.confirm(ask, clean(question))
}

func (s *shell) assign(ctx context.Context, cl *client, req *fleetv1.AssignReleaseRequest, out string) error {
	res, err := cl.fleet.AssignRelease(ctx, req)
	if err != nil {
		return cl.failed("assign "+cmp.Or(req.GetRelease(), "no release"), err)
	}
	if out == "json" || out == "yaml" {
		return objects(s, res.GetClusters(), out)
	}
	t := &table{header: []string{"CLUSTER", "BEFORE", "NOW"}}
	var changed []string
	for _, c := range res.GetClusters() {
		if c.GetBefore() != c.GetRelease() {
			changed = append(changed, c.GetId())
			t.add(c.GetId(), c.GetBefore(), c.GetRelease())
		}
	}
	switch {
	case out == "name":
		return s.names("cluster", changed)
	case len(changed) == 0:
		s.talk("Nothing changed; it was assigned already.")
		return nil
	}
	if err := s.print(t.render(s.colour)); err != nil {
		return err
	}
	if same := len(res.GetClusters()) - len(changed); same > 0 {
		s.talk("%d more had it already.", same)
	}
	return nil
}
