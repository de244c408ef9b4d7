package executor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestACommandForAClusterThatIsConfiguredNoMoreSaysSo(t *testing.T) {
	t.Parallel()
	d := &driver{}
	_, err := d.act(t.Context(), rollout.Command{Key: "k", Cluster: "atlantis", Action: rollout.Capture{}})
	if errs.IDOf(err) != "LS-ROL-021" || errs.KindOf(err) != errs.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestAnEngineThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := inTime(t.Context(), func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		if took := time.Since(began); took != rollout.StepAllowance || errs.IDOf(err) != "LS-ROL-020" || errs.KindOf(err) != errs.Timeout {
			t.Errorf("after %s: %v", took, err)
		}
		broken := errors.New("broken")
		if err := inTime(t.Context(), func(context.Context) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("an error of its own became %v", err)
		}
	})
}
