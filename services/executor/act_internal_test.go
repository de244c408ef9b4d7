package executor

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestACommandForAClusterThatIsConfiguredNoMoreSaysSo(t *testing.T) {
	t.Parallel()
	d := &driver{deps: Deps{Fleet: func() Fleet { return Fleet{} }}}
	_, err := d.act(t.Context(), rollout.Command{Key: "k", Cluster: "atlantis", Action: rollout.Capture{}})
	if errs.IDOf(err) != "LS-ROL-021" || errs.KindOf(err) != errs.NotFound {
		t.Errorf("got %v", err)
	}
}

func TestAnEngineThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		err := inTime(t.Context(), func(ctx context.Context) error {
			<-ctx.Done()
			return errs.New(errs.Unavailable, "LS-CMP-001", "pull akeyless/gateway:2: %w", ctx.Err())
		})
		if took := time.Since(began); took != rollout.StepAllowance || errs.IDOf(err) != "LS-ROL-020" || errs.KindOf(err) != errs.Timeout {
			t.Errorf("after %s: %v", took, err)
		}
		// The limit says how long, and what stands behind it which thing was slow.
		if text := err.Error(); !strings.HasPrefix(text, "LS-ROL-020: given up after 5m0s") || !strings.Contains(text, "pull akeyless/gateway:2") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %q", text)
		}
		broken := errors.New("broken")
		if err := inTime(t.Context(), func(context.Context) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("an error of its own became %v", err)
		}
	})
}
