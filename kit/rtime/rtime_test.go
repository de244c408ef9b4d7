package rtime_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

func TestEveryGivesATurnAtOnceAndEachInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		began := time.Now()
		var turns []time.Duration
		for range rtime.Every(ctx, time.Second) {
			turns = append(turns, time.Since(began))
		}
		if want := []time.Duration{0, time.Second, 2 * time.Second, 3 * time.Second}; !slices.Equal(turns, want) {
			t.Errorf("turns at %v, want %v", turns, want)
		}
		// It did not wait for the turn after.
		if took := time.Since(began); took != 3500*time.Millisecond {
			t.Errorf("it ended after %s", took)
		}
	})
}

func TestALongTurnLosesThoseItOverlaps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 7500*time.Millisecond)
		defer cancel()
		began := time.Now()
		var turns []time.Duration
		for range rtime.Every(ctx, time.Second) {
			turns = append(turns, time.Since(began))
			if len(turns) == 1 {
				<-time.After(4500 * time.Millisecond)
			}
		}
		// One turn was due meanwhile and is taken late; three are lost.
		want := []time.Duration{0, 4500 * time.Millisecond, 5 * time.Second, 6 * time.Second, 7 * time.Second}
		if !slices.Equal(turns, want) {
			t.Errorf("turns at %v, want %v", turns, want)
		}
	})
}

func TestNoTurnComesAfterTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		turns := 0
		for range rtime.Every(ctx, time.Second) {
			turns++
			cancel()
			// The next turn is due, and so is the end.
			<-time.After(2 * time.Second)
		}
		for range rtime.Every(ctx, time.Second) {
			turns++
		}
		if turns != 1 {
			t.Errorf("%d turns", turns)
		}
	})
}

func TestALoopMayBeLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		turns := 0
		for range rtime.Every(t.Context(), time.Second) {
			if turns++; turns == 2 {
				break
			}
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		began := time.Now()
		for _, want := range []struct {
			err  error
			took time.Duration
		}{{nil, time.Minute}, {context.DeadlineExceeded, 90 * time.Second}, {context.DeadlineExceeded, 90 * time.Second}} {
			if err := rtime.Wait(ctx, time.Minute); !errors.Is(err, want.err) || time.Since(began) != want.took {
				t.Errorf("after %s: %v; want %v after %s", time.Since(began), err, want.err, want.took)
			}
		}
	})
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	b := rtime.Backoff{First: 100 * time.Millisecond, Max: time.Second}
	pauses := func(n int) (out []time.Duration) {
		for range n {
			out = append(out, b.Next()/time.Millisecond)
		}
		return out
	}
	if got, want := pauses(6), []time.Duration{100, 200, 400, 800, 1000, 1000}; !slices.Equal(got, want) {
		t.Errorf("got %v ms, want %v", got, want)
	}
	b.Reset()
	if got, want := pauses(2), []time.Duration{100, 200}; !slices.Equal(got, want) {
		t.Errorf("after a success: got %v ms, want %v", got, want)
	}
}
