package cli_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

func someMixedTime() *driftv1.SumMixedTimeResponse {
	return &driftv1.SumMixedTimeResponse{
		From: at(30 * 24 * time.Hour), To: at(0),
		Rows: []*driftv1.MixedTime{
			{Key: "paris", Outside: durationpb.New(192 * time.Minute), Inside: durationpb.New(30 * time.Minute), Mixes: 2, Longest: durationpb.New(3 * time.Hour)},
			{Key: "rome\x1b[2J", Inside: durationpb.New(90 * time.Second), Mixes: 1, Longest: durationpb.New(90 * time.Second)},
		},
	}
}

func TestHistoryMixed(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"history-mixed.txt": {"mixed"}, "history-mixed.json": {"mixed", "-o", "json"}, "history-mixed.yaml": {"mixed", "-o", "yaml"}, "history-offenders.txt": {"offenders"},
	} {
		f := serve(t, &fake{mixed: someMixedTime()})
		got := f.run(t, append([]string{"history"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f := serve(t, &fake{mixed: someMixedTime()})
	f.run(t, "history", "mixed", "--by", "week", "--from", "2026-01-01", "--to", "2026-02-01", "-n", "2").
		wants(t, 0, "From 2026-01-30 12:00:00 UTC until 2026-03-01 12:00:00 UTC.\nThere may be more than these 2")
	askedFor(t, f, &driftv1.SumMixedTimeRequest{From: at(59*24*time.Hour + 12*time.Hour), To: at(28*24*time.Hour + 12*time.Hour), Group: "week", Limit: 2})

	f = serve(t, &fake{mixed: &driftv1.SumMixedTimeResponse{From: at(time.Hour), To: at(0), Rows: []*driftv1.MixedTime{{Mixes: 3}}}})
	got := f.run(t, "history", "mixed", "--by", "all", "--last", "1h")
	golden(t, "history-mixed-all.txt", got.out)
	askedFor(t, f, &driftv1.SumMixedTimeRequest{From: at(time.Hour), Group: "all"})

	f = serve(t, &fake{mixed: &driftv1.SumMixedTimeResponse{From: at(time.Hour), To: at(0)}})
	f.run(t, "history", "offenders").wants(t, 0, "Nothing was mixed from 2026-03-01 11:00:00 UTC until 2026-03-01 12:00:00 UTC.\n")
	askedFor(t, f, &driftv1.SumMixedTimeRequest{Group: "cluster", Limit: 10})
	if got := f.run(t, "history", "mixed", "-o", "json").out; got != "[]\n" {
		t.Errorf("nothing is %q", got)
	}
	f.run(t, "history", "mixed", "--by", "month").wants(t, 2, "use one of cluster, edge, week, all")
	f.run(t, "history", "offenders", "-n", "-1").wants(t, 2, "--limit -1: it is at least 1")
	runWith(t, t.Context(), "", "history", "mixd").wants(t, 2, `unknown command "mixd" for "lockstep history"; did you mean mixed?`)
}

func TestHistoryAdoption(t *testing.T) {
	t.Parallel()
	list := []*driftv1.Adoption{
		{At: at(48 * time.Hour), Version: "3.0.3", Clusters: 12},
		{At: at(24 * time.Hour), Version: "3.0.3", Clusters: 7, Mixed: 2},
		{At: at(24 * time.Hour), Version: "3.1.0", Clusters: 3, Mixed: 2},
		{At: at(0), Version: "3.1.0", Clusters: 12},
	}
	for name, args := range map[string][]string{"history-adoption.txt": nil, "history-adoption.json": {"-o", "json"}} {
		f := serve(t, &fake{adopted: list})
		got := f.run(t, append([]string{"history", "adoption", "--line", "sra", "--last", "2d", "--step", "1d"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		askedFor(t, f, &driftv1.SumAdoptionRequest{Line: "sra", From: at(48 * time.Hour), Step: durationpb.New(24 * time.Hour)})
	}
	f := serve(t, &fake{})
	f.run(t, "history", "adoption").wants(t, 0, "Nothing ran in that time.\n")
	askedFor(t, f, &driftv1.SumAdoptionRequest{Line: "gateway"})
	f.run(t, "history", "adoption", "--step", "30s").wants(t, 2, `--step "30s" is not a length of time of a minute or more`)
}

func TestHistoryConvergence(t *testing.T) {
	t.Parallel()
	list := []*driftv1.Convergence{
		{Release: "5.1.0", BeganAt: at(26 * time.Hour), Clusters: 41, Converged: 3, P50: durationpb.New(20 * time.Minute), P90: durationpb.New(time.Hour), Longest: durationpb.New(70 * time.Minute)},
		{Release: "5.0.1", BeganAt: at(99 * time.Hour), EndedAt: at(90 * time.Hour), Clusters: 41, Converged: 41},
	}
	for name, args := range map[string][]string{"history-convergence.txt": nil, "history-convergence.json": {"-o", "json"}} {
		f := serve(t, &fake{came: list})
		got := f.run(t, append([]string{"history", "convergence"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f := serve(t, &fake{})
	f.run(t, "history", "convergence", "--last", "1d").wants(t, 0, "No release was assigned or rolled out in that time.\n")
	askedFor(t, f, &driftv1.SumConvergenceRequest{From: at(24 * time.Hour)})
}

func TestHistorySessions(t *testing.T) {
	t.Parallel()
	impact := &driftv1.SumImpactResponse{
		From: at(7 * 24 * time.Hour), To: at(0),
		Rows: []*driftv1.Impact{
			{Key: "paris", Whole: &driftv1.Fared{Sessions: 1200, Failed: 12}, Inside: &driftv1.Fared{Sessions: 40, Failed: 1}, Outside: &driftv1.Fared{Sessions: 30, Failed: 9}},
			{Whole: &driftv1.Fared{Sessions: 5}},
		},
	}
	for name, args := range map[string][]string{"history-sessions.txt": nil, "history-sessions.json": {"-o", "json"}} {
		f := serve(t, &fake{impact: impact})
		got := f.run(t, append([]string{"history", "sessions", "--by", "cluster", "--last", "7d"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		askedFor(t, f, &driftv1.SumImpactRequest{From: at(7 * 24 * time.Hour), Group: "cluster"})
	}
	f := serve(t, &fake{impact: &driftv1.SumImpactResponse{From: at(time.Hour), To: at(0)}})
	f.run(t, "history", "sessions").wants(t, 0, "There were no sessions from 2026-03-01 11:00:00 UTC until")
	askedFor(t, f, &driftv1.SumImpactRequest{Group: "all"})
}
