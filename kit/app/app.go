// Package app owns how a process lives: roles start in order, each ready before
// the next begins, and stop in reverse within a limit.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Role is one long-lived part of a process.
type Role struct {
	Name string
	// Run works until its context ends, then returns nil. An earlier return ends
	// the process.
	Run func(ctx context.Context) error
	// Ready is closed once the role serves; nil means as soon as it runs.
	Ready <-chan struct{}
	// Check is asked for readiness once the role was ready; nil means it stays so.
	Check func() error
}

// App is a process's roles.
type App struct {
	// Began is since when the process starts, to tell how long that took; zero is
	// since Run was called.
	Began time.Time

	roles []Role
	log   *slog.Logger
	drain time.Duration

	mu       sync.Mutex
	ready    map[string]bool
	stopping bool
}

// New returns an app whose roles have drain to stop, all together.
func New(log *slog.Logger, drain time.Duration, roles ...Role) *App {
	return &App{roles: roles, log: log, drain: drain, ready: make(map[string]bool)}
}

// State is what readiness probes are told.
type State struct {
	Name  string
	Ready bool
	// Reason says why a role that was ready is not any more.
	Reason string
}

// Serving reports whether every role was ready and none is to stop yet.
func (a *App) Serving() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.roles {
		if !a.ready[r.Name] {
			return false
		}
	}
	return !a.stopping
}

// Readiness lists the roles in order with what their checks say now; none is
// ready once stopping began.
func (a *App) Readiness() (states []State, all bool) {
	a.mu.Lock()
	stopping, ready := a.stopping, maps.Clone(a.ready)
	a.mu.Unlock()
	all = !stopping
	for _, r := range a.roles {
		state := State{Name: r.Name, Ready: ready[r.Name] && !stopping}
		if state.Ready && r.Check != nil {
			if err := r.Check(); err != nil {
				state.Ready, state.Reason = false, err.Error()
			}
		}
		states = append(states, state)
		all = all && state.Ready
	}
	return states, all
}

type running struct {
	role   Role
	cancel context.CancelFunc
	// done gets what Run returned after it was asked to stop, nil if it returned
	// before.
	done chan error
}

// Run starts the roles and returns after all have stopped: nil when ctx ended,
// even before all were ready, otherwise everything that went wrong, first things
// first.
func (a *App) Run(ctx context.Context) error {
	began := a.Began
	if began.IsZero() {
		began = time.Now()
	}
	ended := make(chan error, len(a.roles))
	live, first := a.start(ctx, ended)
	started := first == nil && ctx.Err() == nil
	if started {
		a.log.Info("ready", "took", since(began))
		select {
		case <-ctx.Done():
		case first = <-ended:
		}
	}
	switch {
	case first != nil:
		// It is returned as well, but stopping may take its time.
		a.log.Error("a role ended", "error", first)
	case !started:
		a.log.Info("asked to stop while starting", "id", "LS-SRV-007", "not_ready", a.missing())
	}
	a.log.Info("stopping", "drain", a.drain)
	failed := []error{first, a.stop(live)}
	for {
		select {
		case err := <-ended:
			failed = append(failed, err)
		default:
			return errors.Join(failed...)
		}
	}
}

// since is a time for people to read.
func since(began time.Time) time.Duration { return time.Since(began).Round(time.Millisecond) }

// missing lists the roles that are not ready yet.
func (a *App) missing() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var names []string
	for _, r := range a.roles {
		if !a.ready[r.Name] {
			names = append(names, r.Name)
		}
	}
	return names
}

// start returns the roles that run and the first error of any of them.
func (a *App) start(ctx context.Context, ended chan error) (live []running, err error) {
	for _, role := range a.roles {
		if ctx.Err() != nil {
			return live, nil //nolint:nilerr // being asked to stop is no error
		}
		// A role's life is not ctx's: it ends when its turn to stop has come.
		roleCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r, began := running{role: role, cancel: cancel, done: make(chan error, 1)}, time.Now()
		live = append(live, r)
		go func() {
			err := role.Run(roleCtx)
			if roleCtx.Err() == nil {
				if err == nil {
					err = errors.New("it returned without being asked to stop")
				}
				ended <- fmt.Errorf("%s: %w", role.Name, err)
				err = nil
			}
			r.done <- err
		}()
		if role.Ready != nil {
			select {
			case <-role.Ready:
			case err := <-ended:
				return live, err
			case <-ctx.Done():
				return live, nil
			}
		}
		a.mu.Lock()
		a.ready[role.Name] = true
		a.mu.Unlock()
		a.log.Debug("role is ready", "role", role.Name, "took", since(began))
	}
	return live, nil
}

// stop ends the roles in reverse. When the limit has passed the rest is told at
// once and not waited for.
func (a *App) stop(live []running) error {
	a.mu.Lock()
	a.stopping = true
	a.mu.Unlock()
	limit := time.NewTimer(a.drain)
	defer limit.Stop()
	var failed []error
	for i := len(live) - 1; i >= 0; i-- {
		live[i].cancel()
		select {
		case err := <-live[i].done:
			if err != nil && !errors.Is(err, context.Canceled) {
				failed = append(failed, fmt.Errorf("stopping %s: %w", live[i].role.Name, err))
			}
		case <-limit.C:
			for _, r := range live[:i] {
				r.cancel()
			}
			return errors.Join(append(failed, errs.New(errs.Timeout, "LS-SRV-006",
				"%s did not stop within %s; what started before it was cut off", live[i].role.Name, a.drain))...)
		}
	}
	return errors.Join(failed...)
}
