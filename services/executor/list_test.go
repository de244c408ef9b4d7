package executor_test

import (
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

func TestListRolloutsChooses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	back := l.roll("one", "spring", "paris")
	l.judge(back, "paris", "gateway", gate.Fail)
	l.awaitPhase(back, rollout.PhaseHeld)
	there := l.roll("two", "summer", "paris")
	l.judge(there, "paris", "gateway", gate.Pass)
	l.judge(there, "paris", "sra", gate.Pass)
	l.awaitPhase(there, rollout.PhaseSucceeded)
	under := l.roll("three", "summer", "rome")

	list := func(req *rolloutv1.ListRolloutsRequest) (ids, next string) {
		t.Helper()
		resp, err := l.api.ListRollouts(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range resp.GetRollouts() {
			out = append(out, r.GetId())
		}
		return strings.Join(out, " "), resp.GetNextPageToken()
	}
	newest := strings.Join([]string{under, there, back}, " ")
	for name, test := range map[string]struct {
		request *rolloutv1.ListRolloutsRequest
		want    string
	}{
		"no filter":    {&rolloutv1.ListRolloutsRequest{}, newest},
		"a phase":      {&rolloutv1.ListRolloutsRequest{Phases: []string{"running"}}, under},
		"phases":       {&rolloutv1.ListRolloutsRequest{Phases: []string{"held", "succeeded"}}, there + " " + back},
		"cluster":      {&rolloutv1.ListRolloutsRequest{Cluster: "paris"}, there + " " + back},
		"release":      {&rolloutv1.ListRolloutsRequest{Release: "summer"}, under + " " + there},
		"all together": {&rolloutv1.ListRolloutsRequest{Phases: []string{"succeeded", "held"}, Cluster: "paris", Release: "summer"}, there},
		"none match":   {&rolloutv1.ListRolloutsRequest{Release: "winter"}, ""},
	} {
		got, _ := list(test.request)
		same(t, name, test.want, got)
	}

	// The rollout that ends the first page matches no longer when the second one
	// is asked for.
	running := &rolloutv1.ListRolloutsRequest{Phases: []string{"running", "held"}, PageSize: 1}
	first, token := list(running)
	same(t, "the first page", under, first)
	l.judge(under, "rome", "gateway", gate.Pass)
	l.judge(under, "rome", "sra", gate.Pass)
	l.awaitPhase(under, rollout.PhaseSucceeded)
	running.PageToken = token
	second, token := list(running)
	same(t, "the second page", back, second)
	same(t, "the token after it", "", token)

	_, err := l.api.ListRollouts(t.Context(), &rolloutv1.ListRolloutsRequest{Phases: []string{"held"}, PageToken: running.GetPageToken()})
	refused(t, err, "LS-API-002")
}
