package cli

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

// lockstepStates are the lockstep states, the worst first.
func lockstepStates() []string {
	return []string{"withdrawn", "dark", "overdue", "split", "drifted", "unknown", "stepping", "locked"}
}

// driftStates are those that call for attention.
func driftStates() []string { return lockstepStates()[:5] }

// severity is where a state stands among the worst; one that this build does not
// know comes before all.
func severity(state string) int { return slices.Index(lockstepStates(), state) }

// selection is which clusters a command is about, besides those it names.
type selection struct {
	selector string
	states   []string
	versions []string
	release  string
	asOf     string
}

func (f *selection) flags(s *shell, c *cobra.Command) {
	selectorFlag(c, &f.selector)
	c.Flags().Var(choices{&f.states, lockstepStates()}, "state", "only clusters in this `state`; repeat for several: "+strings.Join(lockstepStates(), ", "))
	c.Flags().StringSliceVar(&f.versions, "version", nil, "only clusters that run this `version`, such as 3.0.3 or sra=3.0.3; repeat for several")
	c.Flags().StringVarP(&f.release, "release", "r", "", "only clusters to which this `release` is assigned")
	c.Flags().StringVar(&f.asOf, "as-of", "", "the fleet as it was known then: "+momentWords)
	offer(c, "state", lockstepStates()...)
	s.completeFlag(c, "release", s.releaseIDs)
}

func selectorFlag(c *cobra.Command, into *string) {
	c.Flags().StringVarP(into, "selector", "l", "", "only clusters whose `labels` match, as kubectl writes it: env=prod,tier!=test,region in (eu,us),!legacy")
}

// narrowed says whether something besides the names leaves clusters out.
func (f *selection) narrowed() bool {
	return f.selector != "" || len(f.states) > 0 || len(f.versions) > 0 || f.release != ""
}

// request asks for the clusters named that match.
func (f *selection) request(s *shell, names []string) (*fleetv1.ListClustersRequest, error) {
	wanted, err := clusterArgs(names)
	if err != nil {
		return nil, err
	}
	asOf, err := s.moment("as-of", f.asOf)
	if err != nil {
		return nil, err
	}
	if asOf != nil && asOf.AsTime().After(s.Now()) {
		return nil, usage("--as-of %q lies ahead; it is %s now", f.asOf, s.instant(timestamppb.New(s.Now())))
	}
	return &fleetv1.ListClustersRequest{
		Ids: wanted, LabelSelector: f.selector, States: unique(f.states), Versions: unique(f.versions), Release: named(f.release, "release"), AsOf: asOf,
	}, nil
}

// clusterArgs takes clusters as people name them, each once.
func clusterArgs(names []string) ([]string, error) {
	var list []string
	for _, name := range names {
		id := named(name, "cluster")
		if !regexp.MustCompile(`^[a-z0-9_-]{1,63}$`).MatchString(id) {
			return nil, usage("%q is not the id of a cluster; those are of a-z, 0-9, - and _; `lockstep status -o name` lists all", name)
		}
		list = append(list, id)
	}
	return unique(list), nil
}

// How many clusters are asked for at once: with all that is told of each, a full
// page stays well below the size of one message.
const (
	clusterPage = 250
	basicPage   = 1000
)

// clusters fetches every page, in order of id. Where nothing but names leaves
// clusters out, one that is not there is an error.
func (c *client) clusters(ctx context.Context, ask *fleetv1.ListClustersRequest) ([]*fleetv1.Cluster, error) {
	ask.PageSize = clusterPage
	if ask.GetView() == fleetv1.ClusterView_CLUSTER_VIEW_BASIC {
		ask.PageSize = basicPage
	}
	var all []*fleetv1.Cluster
	for {
		res, err := c.fleet.ListClusters(ctx, ask)
		if err != nil {
			return nil, c.failed("list clusters", err)
		}
		all = append(all, res.GetClusters()...)
		if ask.PageToken = res.GetNextPageToken(); ask.PageToken == "" {
			break
		}
	}
	if ask.GetLabelSelector() != "" || len(ask.GetStates()) > 0 || len(ask.GetVersions()) > 0 || ask.GetRelease() != "" {
		return all, nil
	}
	missing := make(map[string]bool, len(ask.GetIds()))
	for _, id := range ask.GetIds() {
		missing[id] = true
	}
	for _, cluster := range all {
		delete(missing, cluster.GetId())
	}
	if len(missing) == 0 {
		return all, nil
	}
	absent := strings.Join(slices.Sorted(maps.Keys(missing)), " or ")
	if ask.GetAsOf() != nil {
		return nil, fmt.Errorf("find clusters: nothing was known of %s at that time; a later --as-of may tell more", absent)
	}
	return nil, fmt.Errorf("find clusters: there is none named %s; `lockstep status -o name` lists all", absent)
}

// names prints one id a line with its kind, as arguments take it.
func (s *shell) names(kind string, list []string) error {
	var b strings.Builder
	for _, id := range list {
		b.WriteString(kind + "/" + clean(id) + "\n")
	}
	return s.print(b.String())
}

// noClusters says why there is nothing to print.
func (s *shell) noClusters(narrowed, past bool) {
	if narrowed {
		s.talk("No cluster matches.")
		return
	}
	if past {
		s.talk("Nothing was known of any cluster at that time.")
		return
	}
	s.talk("There are no clusters; declare them under clusters: in fleet.yaml, or `lockstep apply -f FILE`.")
}

// arrange sorts clusters that come in order of id.
func arrange(clusters []*fleetv1.Cluster, by string) {
	switch by {
	case "state":
		slices.SortStableFunc(clusters, func(a, b *fleetv1.Cluster) int { return severity(a.GetState()) - severity(b.GetState()) })
	case "since":
		slices.SortStableFunc(clusters, func(a, b *fleetv1.Cluster) int {
			// One without a time comes last: it counts as of 1970.
			return b.GetSince().AsTime().Compare(a.GetSince().AsTime())
		})
	}
}

// totals counts clusters by state, the worst first: "41 clusters: 2 dark, 1
// overdue, 38 locked".
func totals(clusters []*fleetv1.Cluster) string {
	counts := make(map[string]int)
	for _, c := range clusters {
		counts[c.GetState()]++
	}
	states := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if d := severity(a) - severity(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for i, state := range states {
		states[i] = fmt.Sprintf("%d %s", counts[state], clean(state))
	}
	return count(int64(len(clusters)), "cluster") + ": " + strings.Join(states, ", ")
}
