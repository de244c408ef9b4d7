// Package compose owns everything Lockstep does to a Docker Compose project:
// checking its files before a plan, capturing what runs as a package, applying
// a package, and verifying that what runs is the package.
//
// It does not decide what to apply or when (domain/rollout and the driver do),
// does not judge drift, and leaves no state of its own on the engine.
package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/flags"
	"github.com/docker/compose/v5/pkg/api"
	library "github.com/docker/compose/v5/pkg/compose"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Defaults of Options.
const (
	DefaultHealthTimeout = 90 * time.Second
	DefaultSettle        = time.Second
	DefaultLogLines      = 20
)

// Options configure the work on one engine host.
type Options struct {
	// Host is the engine in DOCKER_HOST syntax; empty means what the docker
	// command of this environment would use.
	Host string

	// Guard is asked before every request that changes something on the engine;
	// its error refuses the request. Nil means always allowed.
	Guard func(context.Context) error

	// Logger receives what Compose says and when the engine's events are lost. Nil
	// discards it.
	Logger *slog.Logger

	// Environment is added to what env files define, as KEY=value lines. The
	// process's own environment is never used: a package must not depend on
	// which shell started Lockstep.
	Environment []string

	// HealthTimeout bounds the wait for healthy containers after they were
	// started; 0 means DefaultHealthTimeout.
	HealthTimeout time.Duration

	// Settle is how long a new container without a health check must keep
	// running before it counts as working; 0 means DefaultSettle.
	Settle time.Duration

	// LogLines is how many last log lines of a failed container an error
	// carries; 0 means DefaultLogLines.
	LogLines int
}

// Target is one Compose project as people would name it to docker compose.
type Target struct {
	// Project is the project name (-p); required.
	Project string
	// Files are the compose files in order (-f), relative to Dir; required.
	Files []string
	// EnvFiles are project env files (--env-file), relative to Dir. Empty means
	// Dir/.env if it exists.
	EnvFiles []string
	// Profiles to enable (--profile). Empty means COMPOSE_PROFILES of the env
	// files.
	Profiles []string
	// Dir is the project directory; empty means the first file's folder.
	Dir string
	// Host is the engine this project runs on; empty means that of Options.
	Host string
	// Components names the component of a service where the vendor's names do
	// not tell it.
	Components map[string]fleet.Component
}

// Engine does Compose work on one engine host. It is safe for concurrent use
// on different projects; who may touch one project is the caller's lease.
type Engine struct {
	opts   Options
	docker *docker.Engine
	// forCompose is what cli speaks through.
	forCompose *docker.Engine
	cli        *command.DockerCli
	log        *slog.Logger
}

// New prepares work on an engine host. It does not connect yet.
func New(opts Options) (*Engine, error) {
	if opts.HealthTimeout == 0 {
		opts.HealthTimeout = DefaultHealthTimeout
	}
	if opts.Settle == 0 {
		opts.Settle = DefaultSettle
	}
	if opts.LogLines == 0 {
		opts.LogLines = DefaultLogLines
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	engine, err := docker.New(docker.Options{Host: opts.Host, Guard: opts.Guard, Logger: log})
	if err != nil {
		return nil, err
	}
	out := &logWriter{log: log}
	// Compose has a client of its own: it negotiates the API version again, without
	// regard for requests under way.
	forCompose, err := docker.New(docker.Options{Host: opts.Host, Guard: opts.Guard})
	if err != nil {
		return nil, err
	}
	cli, err := command.NewDockerCli(
		command.WithAPIClient(forCompose.API()),
		command.WithInputStream(io.NopCloser(strings.NewReader(""))),
		command.WithOutputStream(out),
		command.WithErrorStream(out),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing compose for docker engine %s: %w", engine.Host(), err)
	}
	settings := flags.NewClientOptions()
	settings.Hosts = []string{engine.Host()}
	if err := cli.Initialize(settings); err != nil {
		return nil, errs.New(errs.Invalid, "LS-CMP-010", "preparing compose for docker engine %s: %w; check the docker configuration of this user", engine.Host(), err)
	}
	return &Engine{opts: opts, docker: engine, forCompose: forCompose, cli: cli, log: log}, nil
}

// Host returns the address the engine is reached at.
func (e *Engine) Host() string { return e.docker.Host() }

// Close releases idle connections.
func (e *Engine) Close() error { return errors.Join(e.docker.Close(), e.forCompose.Close()) }

// library builds the Compose implementation for one operation: its event
// processor is fixed at construction.
func (e *Engine) library(events api.EventProcessor) (api.Compose, error) {
	out := &logWriter{log: e.log}
	service, err := library.NewComposeService(e.cli,
		library.WithStreams(out, out, strings.NewReader("")),
		library.WithEventProcessor(events),
		// Compose asks before it deletes a volume whose definition changed. No
		// change of version may cost data, so the answer is always no.
		library.WithPrompt(func(question string, _ bool) (bool, error) {
			e.log.Warn("compose asked and was answered no", "question", question)
			return false, nil
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing compose for docker engine %s: %w", e.Host(), err)
	}
	return service, nil
}

// logWriter passes what Compose prints to a logger, a line at a time.
type logWriter struct {
	log  *slog.Logger
	mu   sync.Mutex
	rest string
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest += string(p)
	for {
		line, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(p), nil
		}
		w.rest = rest
		if line = strings.TrimSpace(line); line != "" {
			w.log.Debug("compose", "says", line)
		}
	}
}
