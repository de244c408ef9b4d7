package cli_test

import (
	"testing"
	"time"

	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

func someBaselines() []*driftv1.Baseline {
	return []*driftv1.Baseline{
		{
			Id: "before-openssl/paris", Name: "before-openssl", ClusterId: "paris", At: at(time.Hour), By: "ann", Cluster: mixedCluster(),
			Sessions: &driftv1.SessionCounts{From: at(25 * time.Hour), To: at(time.Hour), Succeeded: 1192, Failed: 12, Open: 3, Probes: 24, ProbesFailed: 1},
		},
		{Id: "r1/rome", Name: "r1", ClusterId: "rome", At: at(50 * time.Hour), Rollout: "r1", Cluster: someFleet()[2]},
	}
}

func TestBaselineListAndShow(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"baseline-list.txt":      {"list"},
		"baseline-list-wide.txt": {"list", "-o", "wide"},
		"baseline-list-name.txt": {"ls", "-o", "name"},
		"baseline-list.json":     {"list", "-o", "json"},
		"baseline-show.txt":      {"show", "before-openssl/paris"},
		"baseline-show-bare.txt": {"show", "baseline/r1/rome", "-o", "wide"},
		"baseline-show.yaml":     {"show", "r1/rome", "-o", "yaml"},
	} {
		f := serve(t, &fake{baseline: someBaselines()})
		got := f.run(t, append([]string{"baseline"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f := serve(t, &fake{})
	f.run(t, "baseline", "list", "--cluster", "cluster/paris", "--name", "x", "--rollout", "rollout/r1", "-n", "5").wants(t, 0, "There are no baselines; `lockstep baseline capture` makes one.\n")
	askedFor(t, f, &driftv1.ListBaselinesRequest{Cluster: "paris", Name: "x", Rollout: "r1", PageSize: 5})
	f.run(t, "baseline", "show", "x/paris").wants(t, 1, "get baseline x/paris: there is no baseline x/paris")
	for _, id := range []string{"paris", "X/paris", "x/", "/paris", "x/y/z", "x/P"} {
		f.run(t, "baseline", "show", id).wants(t, 2, "is not the id of a baseline; write NAME/CLUSTER")
	}
}

func TestBaselineCapture(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{baseline: someBaselines()})
	got := f.run(t, "baseline", "capture", "paris", "cluster/rome", "--name", "before-openssl", "-o", "name")
	got.wants(t, 0, "")
	if got.out != "baseline/before-openssl/paris\nbaseline/r1/rome\n" {
		t.Errorf("printed %s", got.out)
	}
	askedFor(t, f, &driftv1.CaptureBaselineRequest{Clusters: []string{"paris", "rome"}, Name: "before-openssl"})
	f.run(t, "baseline", "capture", "--name", "Before").wants(t, 2, `--name "Before": begin with one of a-z and 0-9`)
}

func TestBaselineDiff(t *testing.T) {
	t.Parallel()
	was := someBaselines()[0]
	now := &driftv1.Baseline{ClusterId: "paris", At: at(0)}
	differs := &driftv1.CompareBaselineResponse{Before: was, After: now, Differences: []*driftv1.Difference{
		{About: "version", Subject: "gateway", Before: "5.0.1", After: "5.1.0", Text: "gateway moved from 5.0.1 to 5.1.0."},
		{About: "instance", Subject: "sra-web", Before: "2", Text: "sra-web lost \x1b[31man instance."},
	}}
	same := &driftv1.CompareBaselineResponse{Same: true, Before: was, After: &driftv1.Baseline{Id: "after/paris", ClusterId: "paris", At: at(0)}, Differences: []*driftv1.Difference{
		{About: "report", Subject: "bastion-1", Before: "12:00", After: "12:40", Text: "bastion-1 has reported since."},
	}}
	for name, tc := range map[string]struct {
		res  *driftv1.CompareBaselineResponse
		args []string
		code int
	}{
		"baseline-diff.txt":      {differs, nil, 0},
		"baseline-diff-same.txt": {same, []string{"after/paris"}, 0},
		"baseline-diff.json":     {differs, []string{"--exit-code", "-o", "json"}, 3},
		"baseline-diff-none.txt": {&driftv1.CompareBaselineResponse{Same: true, Before: was, After: now}, []string{"--exit-code"}, 0},
	} {
		f := serve(t, &fake{compared: tc.res})
		got := f.run(t, append([]string{"baseline", "diff", "before-openssl/paris"}, tc.args...)...)
		got.wants(t, tc.code, "")
		golden(t, name, got.out)
	}
	f := serve(t, &fake{compared: differs})
	f.run(t, "baseline", "diff", "monday/paris", "baseline/tuesday/paris", "--exit-code").wants(t, 3, "lockstep: paris is not as it was\n")
	askedFor(t, f, &driftv1.CompareBaselineRequest{Id: "monday/paris", With: "tuesday/paris"})
	f.run(t, "baseline", "diff", "monday/paris", "monday/rome").wants(t, 2, "monday/paris and monday/rome are of two clusters")
	f.run(t, "baseline", "diff").wants(t, 2, "takes NAME/CLUSTER once or twice, got 0 arguments")
}
