package cli_test

import (
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

func someDrifts() []*driftv1.Drift {
	return []*driftv1.Drift{
		{Cluster: "paris", State: "overdue", OpenedAt: at(2 * time.Hour), Reasons: []string{"gateway runs 5.0.1 and 5.1.0", "for longer than 30m"}, States: []string{"overdue"}, AssignedRelease: "5.0.1"},
		{Cluster: "rome", State: "dark", OpenedAt: at(26 * time.Hour), ClosedAt: at(25 * time.Hour), Reasons: []string{"no report\x1b[2J"}, States: []string{"drifted", "dark"}},
		{Cluster: "paris", State: "drifted", OpenedAt: at(50 * time.Hour), ClosedAt: at(49 * time.Hour), States: []string{"drifted"}, AssignedRelease: "5.0.0"},
	}
}

func TestDriftList(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"drift-list.txt": nil, "drift-list-wide.txt": {"-o", "wide"}, "drift-list-name.txt": {"-o", "name"}, "drift-list.json": {"-o", "json"}, "drift-list.yaml": {"-o", "yaml"},
	} {
		f := serve(t, &fake{drifts: someDrifts()})
		got := f.run(t, append([]string{"drift", "list"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f := serve(t, &fake{})
	f.run(t, "drift", "ls", "paris", "cluster/paris", "-l", "env=prod", "--state", "dark,overdue", "--since", "7d").wants(t, 0, "There is no drift.\n")
	askedFor(t, f, &driftv1.ListDriftsRequest{PageSize: 1000, Clusters: []string{"paris"}, LabelSelector: "env=prod", States: []string{"dark", "overdue"}, Since: at(7 * 24 * time.Hour)})
	f.run(t, "drift", "list", "--state", "locked").wants(t, 2, "use some of withdrawn, dark, overdue, split, drifted")
	f.run(t, "drift", "list", "--since", "monday").wants(t, 2, `--since "monday" is neither`)
	serve(t, &fake{fail: connect.NewError(connect.CodeInvalidArgument, "no such label")}).run(t, "drift", "list").wants(t, 1, "lockstep: list drift: no such label\n")
}

func somePeriods() []*driftv1.Period {
	return []*driftv1.Period{
		{
			BeganAt: at(2 * time.Hour), State: "overdue", Reasons: []string{"gateway runs 5.0.1 and 5.1.0", "for longer than 30m"}, AssignedRelease: "5.0.1", Rollout: "r1", TargetRelease: "5.1.0",
			Lines:    []*driftv1.RunningLine{{Line: "gateway", Versions: []string{"5.0.1", "5.1.0"}}, {Line: "sra", Versions: []string{"3.1.0"}}, {Line: "ztwa"}},
			EdgeFrom: map[string]string{"sra": "3.1.0", "gateway": "5.0.1"}, EdgeTo: map[string]string{"gateway": "5.1.0", "sra": "3.1.0"},
		},
		{BeganAt: at(150 * time.Minute), EndedAt: at(2 * time.Hour), State: "stepping", AssignedRelease: "5.0.1", Rollout: "r1"},
		{BeganAt: at(99 * time.Hour), EndedAt: at(150 * time.Minute), State: "locked", AssignedRelease: "5.0.1"},
	}
}

func TestDriftHistory(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"drift-history.txt": nil, "drift-history-wide.txt": {"-o", "wide"}, "drift-history.json": {"-o", "json"},
	} {
		f := serve(t, &fake{periods: somePeriods()})
		got := f.run(t, append([]string{"drift", "history", "paris"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		if got.err != "" {
			t.Errorf("besides it says %s", got.err)
		}
	}
	f := serve(t, &fake{periods: somePeriods()})
	f.run(t, "drift", "history", "cluster/paris", "--from", "7d", "--to", "2026-02-28", "-n", "3").wants(t, 0, "There may be more than these 3; --limit shows up to 1000.\n")
	askedFor(t, f, &driftv1.ListPeriodsRequest{Cluster: "paris", From: at(7 * 24 * time.Hour), To: at(36 * time.Hour), PageSize: 3})
	f.run(t, "drift", "history", "paris", "-n", "1001").wants(t, 2, "--limit 1001: it is at least 1 and at most 1000")
	f.run(t, "drift", "history").wants(t, 2, "lockstep drift history takes CLUSTER, got 0 arguments")
	f.run(t, "drift", "history", "paris", "--last", "x").wants(t, 2, `--last "x" is not a length of time`)
	serve(t, &fake{}).run(t, "drift", "history", "paris").wants(t, 0, "There is no history in that time.\n")
}

func TestDriftExplain(t *testing.T) {
	t.Parallel()
	story := &driftv1.ExplainDriftResponse{
		Cluster: mixedCluster(),
		Lines: []*driftv1.StoryLine{
			{About: "state", Text: "overdue: gateway runs 5.0.1 and 5.1.0, and its window was over 2h ago"},
			{About: "declared", Text: "Helm release gw at revision 4 declares gateway 5.0.1\x1b[31m"},
			{About: "next", Text: "see why rollout r1 stands: lockstep rollout get r1"},
		},
	}
	for name, args := range map[string][]string{"drift-explain.txt": nil, "drift-explain.json": {"-o", "json"}} {
		f := serve(t, &fake{story: story})
		got := f.run(t, append([]string{"drift", "explain", "paris"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		askedFor(t, f, &driftv1.ExplainDriftRequest{Cluster: "paris"})
	}
	serve(t, &fake{fail: catalogued(connect.CodeNotFound, "there is no cluster oslo", "LS-API-009")}).run(t, "drift", "explain", "oslo").
		wants(t, 1, "explain the drift of oslo: there is no cluster oslo (LS-API-009)")
}
