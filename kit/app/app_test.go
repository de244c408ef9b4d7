package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const drain = 10 * time.Second

// diary is what happened in a bubble, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, ", ")
}

// role is ready after one time and takes another to stop; negative: never.
func (d *diary) role(name string, readyAfter, stopAfter time.Duration) app.Role {
	ready := make(chan struct{})
	return app.Role{Name: name, Ready: ready, Run: func(ctx context.Context) error {
		d.write("start %s", name)
		if readyAfter >= 0 {
			select {
			case <-time.After(readyAfter):
				d.write("%s ready", name)
				close(ready)
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
		d.write("stop %s", name)
		<-time.After(stopAfter)
		d.write("%s gone", name)
		return nil
	}}
}

// run starts an app in the bubble.
func run(t *testing.T, a *app.App) (stop context.CancelFunc, done <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return cancel, ended
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func states(a *app.App) string {
	list, all := a.Readiness()
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprintf("%s=%t", s.Name, s.Ready))
	}
	return fmt.Sprintf("%s all=%t", strings.Join(out, " "), all)
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func text(err error) string { return fmt.Sprint(err) }

func TestRolesStartInOrderAndStopInReverse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		a := app.New(quiet(), drain, d.role("store", time.Second, time.Second), d.role("worker", 2*time.Second, 0), d.role("api", 0, 3*time.Second))
		expect(t, "before", states(a), "store=false worker=false api=false all=false")
		stop, done := run(t, a)
		synctest.Wait()
		expect(t, "at once", d.String(), "start store")
		<-time.After(1500 * time.Millisecond)
		expect(t, "after 1.5 s", states(a), "store=true worker=false api=false all=false")
		<-time.After(1500 * time.Millisecond)
		synctest.Wait()
		expect(t, "after 3 s", states(a), "store=true worker=true api=true all=true")
		stop()
		synctest.Wait()
		expect(t, "while stopping", states(a), "store=false worker=false api=false all=false")
		expect(t, "error", text(<-done), "<nil>")
		expect(t, "diary", d.String(), "start store, store ready, start worker, worker ready, start api, api ready, "+
			"stop api, api gone, stop worker, worker gone, stop store, store gone")
	})
}

func TestARoleWithoutReadyIsReadyAsSoonAsItRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		a := app.New(quiet(), drain, app.Role{Name: "a", Run: wait}, app.Role{Name: "b", Run: wait})
		stop, done := run(t, a)
		synctest.Wait()
		expect(t, "state", states(a), "a=true b=true all=true")
		stop()
		// To return the end of one's context is no failure.
		expect(t, "error", text(<-done), "<nil>")
	})
}

func TestTheLogTellsHowLongTheStartTook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		var log bytes.Buffer
		a := app.New(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), drain,
			d.role("store", 1250*time.Millisecond, 0), d.role("api", 0, 0), d.role("worker", 1500*time.Microsecond, 0))
		a.Began = time.Now().Add(-time.Second)
		stop, done := run(t, a)
		<-time.After(2 * time.Second)
		stop()
		expect(t, "error", text(<-done), "<nil>")
		var got []string
		for line := range strings.Lines(log.String()) {
			if _, told, found := strings.Cut(line, " level="); found && strings.Contains(told, "ready") {
				got = append(got, strings.TrimSpace(told))
			}
		}
		expect(t, "log", strings.Join(got, "\n"), `DEBUG msg="role is ready" role=store took=1.25s
DEBUG msg="role is ready" role=api took=0s
DEBUG msg="role is ready" role=worker took=2ms
INFO msg=ready took=2.252s`)
	})
}

func TestARoleThatFailsToStartEndsTheRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		boom := app.Role{Name: "worker", Ready: make(chan struct{}), Run: func(context.Context) error {
			<-time.After(time.Second)
			return errors.New("no database")
		}}
		a := app.New(quiet(), drain, d.role("store", 0, 0), boom, d.role("api", 0, 0))
		_, done := run(t, a)
		expect(t, "error", text(<-done), "worker: no database")
		expect(t, "diary", d.String(), "start store, store ready, stop store, store gone")
		expect(t, "state", states(a), "store=false worker=false api=false all=false")
	})
}

func TestARoleThatEndsWhileAnotherStartsIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		store := app.Role{Name: "store", Run: func(context.Context) error {
			<-time.After(time.Second)
			return errors.New("engine died")
		}}
		// The worker waits for the store and would never be ready.
		a := app.New(quiet(), drain, store, d.role("worker", -1, 0), d.role("api", 0, 0))
		_, done := run(t, a)
		expect(t, "error", text(<-done), "store: engine died")
		expect(t, "diary", d.String(), "start worker, stop worker, worker gone")
	})
}

func TestARoleThatReturnsEarlyEndsTheRest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"with an error":        {errors.New("boom"), "worker: boom"},
		"without one":          {nil, "worker: it returned without being asked to stop"},
		"with another context": {context.Canceled, "worker: context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var d diary
				early := app.Role{Name: "worker", Run: func(context.Context) error { <-time.After(time.Minute); return c.err }}
				a := app.New(quiet(), drain, d.role("store", 0, 0), early, d.role("api", 0, 0))
				_, done := run(t, a)
				<-time.After(59 * time.Second)
				expect(t, "state", states(a), "store=true worker=true api=true all=true")
				expect(t, "error", text(<-done), c.want)
				expect(t, "diary", d.String(), "start store, store ready, start api, api ready, stop api, api gone, stop store, store gone")
			})
		})
	}
}

func TestErrorsAreToldOnceAndInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		failing := func(name string, after time.Duration) app.Role {
			return app.Role{Name: name, Run: func(ctx context.Context) error {
				select {
				case <-time.After(after):
					return errors.New("boom")
				case <-ctx.Done():
					<-time.After(2 * time.Second)
					return errors.New("cannot flush")
				}
			}}
		}
		a := app.New(slog.New(slog.NewTextHandler(&log, nil)), drain, failing("a", time.Hour), failing("b", 61*time.Second), failing("c", time.Minute), failing("d", time.Hour))
		_, done := run(t, a)
		expect(t, "error", text(<-done), "c: boom\nstopping d: cannot flush\nstopping a: cannot flush\nb: boom")
		if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d errors in the log:\n%s", n, log.String())
		}
	})
}

func TestStoppingIsLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		a := app.New(quiet(), drain, d.role("store", 0, 0), d.role("worker", 0, time.Hour), d.role("api", 0, 4*time.Second))
		stop, done := run(t, a)
		synctest.Wait()
		stop()
		began := time.Now()
		err := <-done
		expect(t, "error", text(err), "LS-SRV-006: worker did not stop within 10s; what started before it was cut off")
		expect(t, "kind", string(errs.KindOf(err)), string(errs.Timeout))
		expect(t, "took", time.Since(began).String(), drain.String())
		synctest.Wait()
		// The store was told all the same: it may still save what it has.
		if !strings.HasSuffix(d.String(), "stop worker, stop store, store gone") {
			t.Errorf("diary: %s", &d)
		}
		<-time.After(time.Hour) // lets the worker go before the bubble ends
	})
}

func TestAStopDuringTheStartStartsNothingMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		var log bytes.Buffer
		a := app.New(slog.New(slog.NewTextHandler(&log, nil)), drain, d.role("store", 0, 0), d.role("worker", time.Hour, 0), d.role("api", 0, 0))
		stop, done := run(t, a)
		<-time.After(time.Second)
		stop()
		expect(t, "error", text(<-done), "<nil>")
		expect(t, "diary", d.String(), "start store, store ready, start worker, stop worker, worker gone, stop store, store gone")
		if strings.Contains(log.String(), "msg=ready") || strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("it said that it was ready or failed:\n%s", log.String())
		}
		const want = ` level=INFO msg="asked to stop while starting" id=LS-SRV-007 not_ready="[worker api]"`
		if !strings.Contains(log.String(), want) {
			t.Errorf("it did not say what it was waiting for:\n%s", log.String())
		}
	})
}

func TestAStopBeforeTheStartStartsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var d diary
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		expect(t, "error", text(app.New(quiet(), drain, d.role("store", 0, 0)).Run(ctx)), "<nil>")
		expect(t, "diary", d.String(), "")
	})
}
