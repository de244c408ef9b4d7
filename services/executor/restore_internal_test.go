package executor

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// stubborn refuses a number of times.
type stubborn struct {
	Deployment
	refusals, tries int
}

func (s *stubborn) Apply(context.Context, []byte) error {
	s.tries++
	if s.tries <= s.refusals {
		return errors.New("the engine is restarting")
	}
	return nil
}

func TestRestoreIsRetried(t *testing.T) {
	t.Parallel()
	for refusals, want := range map[int]struct {
		tries int
		took  time.Duration
		fails bool
	}{
		0: {tries: 1},
		1: {tries: 2, took: 2 * time.Second},
		2: {tries: 3, took: 6 * time.Second},
		9: {tries: 3, took: 6 * time.Second, fails: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &driver{deps: Deps{Log: slog.New(slog.DiscardHandler)}}
			deployment, began := &stubborn{refusals: refusals}, time.Now()
			err := d.restore(t.Context(), deployment, rollout.Command{Key: "k"}, nil)
			if (err != nil) != want.fails || deployment.tries != want.tries || time.Since(began) != want.took {
				t.Errorf("%d refusals: %d tries in %s, %v", refusals, deployment.tries, time.Since(began), err)
			}
			if err != nil && !strings.Contains(err.Error(), "the engine is restarting") {
				t.Errorf("the error does not say why: %v", err)
			}
		})
	}
}

func TestStoppingEndsARestore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d := &driver{deps: Deps{Log: slog.New(slog.DiscardHandler)}}
		if err := d.restore(ctx, &stubborn{refusals: 9}, rollout.Command{}, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stopped with %v", err)
		}
	})
}
