package executor_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// A freeze stops what moves and lets nothing start or go on, over a restart; its end
// lets go on what it stopped and nothing else.
func TestAFreezeStopsEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	first := l.roll("first", "spring", "paris")
	l.awaitGate(first, "paris", "gateway")
	freeze := &rolloutv1.FreezeRolloutsRequest{RequestId: "f", Reason: "the identity provider is down"}
	frozen, err := l.api.FreezeRollouts(t.Context(), freeze)
	if err != nil || !slices.Equal(frozen.GetRollouts(), []string{first}) || frozen.GetFreeze().GetReason() != freeze.GetReason() {
		t.Fatalf("frozen: %v, %v", frozen, err)
	}
	_, err = l.api.StartRollout(t.Context(), &rolloutv1.StartRolloutRequest{Release: "spring", RequestId: "second", Clusters: []string{"rome"}})
	refusedFor(t, err, "LS-ROL-012", "LS-ROL-032", "the identity provider is down")
	_, err = l.api.ResumeRollout(t.Context(), &rolloutv1.ResumeRolloutRequest{Id: first, RequestId: "r"})
	refusedFor(t, err, "LS-ROL-032", "the identity provider is down")
	_, err = l.api.PauseRollout(t.Context(), &rolloutv1.PauseRolloutRequest{Id: first, RequestId: "p"})
	refusedFor(t, err, "LS-ROL-032", "unfreeze")

	// What is judged is judged, and the next step does not begin, whoever conducts.
	l.judge(first, "paris", "gateway", gate.Pass)
	await(t, "the step's pass", func() bool { return strings.Contains(phases(l.get(first)), "paris ready") })
	l.stop()
	l = w.start(nil)
	if list, err := l.api.ListRollouts(t.Context(), &rolloutv1.ListRolloutsRequest{}); err != nil || list.GetFreeze().GetId() != "f" {
		t.Errorf("after a restart the freeze is %v, %v", list.GetFreeze(), err)
	}
	again, err := l.api.FreezeRollouts(t.Context(), &rolloutv1.FreezeRolloutsRequest{RequestId: "g", Reason: "me too"})
	if err != nil || again.GetFreeze().GetId() != "f" {
		t.Errorf("frozen once more: %v, %v", again, err)
	}
	if got := phases(l.get(first)); got != "paused, paris ready" {
		t.Errorf("frozen, it is %s", got)
	}
	lifted, err := l.api.UnfreezeRollouts(t.Context(), &rolloutv1.UnfreezeRolloutsRequest{Reason: "it is back"})
	if err != nil || !slices.Equal(lifted.GetRollouts(), []string{first}) || lifted.GetFreeze().GetLiftedReason() != "it is back" {
		t.Fatalf("lifted: %v, %v", lifted, err)
	}
	l.awaitGate(first, "paris", "sra")

	// A late repeat of the request does not freeze anew.
	if late, err := l.api.FreezeRollouts(t.Context(), freeze); err != nil || late.GetFreeze().GetLiftedAt() == nil || len(late.GetRollouts()) != 0 {
		t.Errorf("the repeat is answered with %v, %v", late, err)
	}
	// What a person paused stays paused when a freeze comes and goes.
	if _, err := l.api.PauseRollout(t.Context(), &rolloutv1.PauseRolloutRequest{Id: first, RequestId: "lunch"}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.api.FreezeRollouts(t.Context(), &rolloutv1.FreezeRolloutsRequest{RequestId: "h", Reason: "again"}); err != nil {
		t.Fatal(err)
	}
	if lifted, err := l.api.UnfreezeRollouts(t.Context(), &rolloutv1.UnfreezeRolloutsRequest{Reason: "over"}); err != nil || len(lifted.GetRollouts()) != 0 {
		t.Errorf("lifted: %v, %v", lifted, err)
	}
	if got := phases(l.get(first)); !strings.HasPrefix(got, "paused") {
		t.Errorf("what a person paused is %s", got)
	}
	l.stop()
}
