// Package engine provides a Docker Engine to tests and to the demo: one that
// is already running when the environment names it, else a private dockerd
// that this package installs where it is missing, starts, and stops again.
//
// It owns the life of that private daemon, its folders and the one firewall
// rule its networks need. It does not own what runs on the engine: whoever
// starts containers names them by Compose project and may have a project
// removed by RemoveProject.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Variables that name an engine to use instead of a private one, in order.
var hostVariables = []string{"LOCKSTEP_TEST_DOCKER_HOST", "DOCKER_HOST"}

// Options says which engine Start provides. The zero value is usable: it reads
// the environment and keeps the private engine's data in the user's cache.
type Options struct {
	// Getenv looks a variable up; nil means os.Getenv.
	Getenv func(string) string
	// DataRoot is where a private engine keeps its data; empty means
	// lockstep/docker in the user's cache folder.
	DataRoot string
	// Log receives what takes time or surprises; nil discards it.
	Log *slog.Logger
}

// Engine is a Docker Engine that answered when Start returned.
type Engine struct {
	client  client
	private *daemon // nil when somebody else's
	log     *slog.Logger
}

// Start returns an engine that answers: the one the environment names, or a
// private one. It fails when the environment names an engine that does not
// answer (a named engine is never silently replaced), when a private one is
// needed without root, or when ctx ends first. A private engine is held by one
// process at a time; Start waits its turn until ctx ends.
func Start(ctx context.Context, o Options) (*Engine, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, name := range hostVariables {
		host := o.Getenv(name)
		if host == "" {
			continue
		}
		c, err := newClient(host)
		if err != nil {
			return nil, fmt.Errorf("use the Docker Engine that %s names: %w", name, err)
		}
		if err := c.ping(ctx); err != nil {
			return nil, fmt.Errorf("use the Docker Engine that %s names, %s: %w (start it, or unset %s to have a private one started)", name, host, err, name)
		}
		return &Engine{client: c, log: o.Log}, nil
	}
	return startPrivate(ctx, o)
}

func startPrivate(ctx context.Context, o Options) (*Engine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start a private Docker Engine: this needs root; run as root, or set DOCKER_HOST to an engine you may use")
	}
	if o.DataRoot == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("choose a data folder for the private Docker Engine: %w (set XDG_CACHE_HOME)", err)
		}
		o.DataRoot = filepath.Join(cache, "lockstep", "docker")
	}
	begun := time.Now()
	d, err := startDaemon(ctx, o.DataRoot, o.Log)
	if err != nil {
		return nil, fmt.Errorf("start a private Docker Engine: %w", err)
	}
	c, err := newClient(d.host())
	if err != nil {
		return nil, errors.Join(err, d.stop())
	}
	e := &Engine{client: c, private: d, log: o.Log}
	if err := d.wait(ctx, c.ping); err != nil {
		return nil, errors.Join(fmt.Errorf("start a private Docker Engine: %w", err), d.stop())
	}
	// A run that was killed leaves its containers in the data folder.
	if err := e.removeContainers(ctx, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("clear what an earlier run left on the private Docker Engine: %w", err), d.stop())
	}
	o.Log.Info("private Docker Engine started", "host", d.host(), "took", time.Since(begun).Round(time.Millisecond))
	return e, nil
}

// Host is the engine's address as DOCKER_HOST takes it, such as
// "unix:///run/lockstep/docker-1a2b3c4d/docker.sock".
func (e *Engine) Host() string { return e.client.host }

// Private reports whether this package started the engine and will stop it.
func (e *Engine) Private() bool { return e.private != nil }

// RemoveProject removes every container and network of one Compose project,
// running or not. A project that is not there is no error.
func (e *Engine) RemoveProject(ctx context.Context, project string) error {
	label := "com.docker.compose.project=" + project
	if err := e.removeContainers(ctx, label); err != nil {
		return fmt.Errorf("remove Compose project %s: %w", project, err)
	}
	if err := e.client.pruneNetworks(ctx, label); err != nil {
		return fmt.Errorf("remove Compose project %s: %w", project, err)
	}
	return nil
}

// Restart stops a private engine as an administrator would, calls meanwhile while
// it is down, and returns when it answers again. What is on it stays; containers
// run again where their restart policy says so. Nobody else may be using it.
func (e *Engine) Restart(ctx context.Context, meanwhile func()) error {
	if e.private == nil {
		return errors.New("restart the Docker Engine: it is not a private one; unset DOCKER_HOST and LOCKSTEP_TEST_DOCKER_HOST to have one started")
	}
	if err := e.private.halt(); err != nil {
		return fmt.Errorf("restart the private Docker Engine: %w", err)
	}
	meanwhile()
	if err := e.private.launch(); err != nil {
		return fmt.Errorf("restart the private Docker Engine: %w", err)
	}
	if err := e.private.wait(ctx, e.client.ping); err != nil {
		return fmt.Errorf("restart the private Docker Engine: %w", err)
	}
	return nil
}

// Close stops a private engine with everything on it and waits for it to
// leave; on somebody else's engine it does nothing. The engine's data folder
// stays as a cache, emptied of images and networks.
func (e *Engine) Close(ctx context.Context) error {
	if e.private == nil {
		return nil
	}
	left := errors.Join(
		e.removeContainers(ctx, ""),
		e.client.pruneNetworks(ctx, ""),
		e.client.pruneImages(ctx),
	)
	if left != nil {
		// The next start clears the rest, so stopping is what matters now.
		e.log.Warn("private Docker Engine not fully emptied", "error", left)
	}
	if err := e.private.stop(); err != nil {
		return fmt.Errorf("stop the private Docker Engine: %w", err)
	}
	return nil
}

func (e *Engine) removeContainers(ctx context.Context, label string) error {
	ids, err := e.client.containers(ctx, label)
	if err != nil {
		return err
	}
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(ids))
	)
	for i, id := range ids {
		wg.Go(func() { errs[i] = e.client.removeContainer(ctx, id) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
