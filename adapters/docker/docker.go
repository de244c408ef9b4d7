// Package docker owns the connection to a Docker Engine and reads from it which
// containers of one Compose project run what.
//
// It does not change anything on an engine (adapters/compose does) and does not
// judge what it sees (domain/drift does).
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/flags"
	"github.com/docker/go-connections/tlsconfig"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Options say which engine is meant and who may stop a change.
type Options struct {
	// Host is the engine's address in DOCKER_HOST syntax (unix://, tcp://,
	// ssh://). Empty means what the docker command would use: DOCKER_HOST, then
	// DOCKER_CONTEXT, then the current context, then the local socket.
	Host string

	// Guard is asked right before every request that changes something on the
	// engine; its error refuses the request. Nil means always allowed.
	Guard func(context.Context) error

	// Logger receives when the engine's events are lost and followed again. Nil
	// discards it.
	Logger *slog.Logger
}

// meetLimit bounds one try to learn which API version an engine speaks, for
// callers without a deadline.
const meetLimit = 10 * time.Second

// Engine is a connection to one Docker Engine. It is safe for concurrent use
// and connects on first use, so an unreachable engine is an error of a call.
type Engine struct {
	host string
	api  client.APIClient
	log  *slog.Logger
	// meeting is held by whoever asks for the API version; met says it is known.
	meeting chan struct{}
	met     atomic.Bool
}

// New prepares a connection. It fails only when Host or the docker
// configuration of the environment cannot be understood.
func New(opts Options) (*Engine, error) {
	// The docker command asks the engine something when it is prepared, and waits two
	// seconds for one that hangs. Here that is left to the first use.
	ended, end := context.WithCancel(context.Background())
	end()
	cli, err := command.NewDockerCli(
		command.WithBaseContext(ended),
		command.WithInputStream(io.NopCloser(strings.NewReader(""))),
		command.WithOutputStream(io.Discard),
		command.WithErrorStream(io.Discard),
		command.WithAPIClientOptions(client.WithHTTPRequestHook(guard(opts.Guard))),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing the connection to docker engine %s: %w", named(opts.Host), err)
	}
	settings := flags.NewClientOptions()
	settings.TLSOptions = tlsFromEnvironment()
	settings.TLS = settings.TLSOptions != nil
	settings.TLSVerify = settings.TLS && !settings.TLSOptions.InsecureSkipVerify
	if opts.Host != "" {
		settings.Hosts = []string{opts.Host}
	}
	if err := cli.Initialize(settings); err != nil {
		return nil, errs.New(errs.Invalid, "LS-CMP-010", "preparing the connection to docker engine %s: %w; check the host and the docker configuration of this user", named(opts.Host), err)
	}
	host := cli.DockerEndpoint().Host
	if host == "" {
		host = opts.Host
	}
	if _, err := url.Parse(host); err != nil {
		return nil, errs.New(errs.Invalid, "LS-CMP-010", "docker engine address %q: %w; write it like unix:///var/run/docker.sock or tcp://host:2376", host, err)
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Engine{host: host, api: cli.Client(), log: log, meeting: make(chan struct{}, 1)}, nil
}

// Connect learns which API version the engine speaks, once. The client would do
// so at its first request, but under a lock that heeds no context: a caller with
// a deadline would wait for one without. Whoever must not wait for a hanging
// engine connects first.
func (e *Engine) Connect(ctx context.Context) error {
	if e.met.Load() {
		return nil
	}
	select {
	case e.meeting <- struct{}{}:
		defer func() { <-e.meeting }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if e.met.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, meetLimit)
	defer cancel()
	_, err := e.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true})
	e.met.Store(err == nil)
	return err
}

// Host returns the address the engine is reached at.
func (e *Engine) Host() string { return e.host }

// API returns the engine's client for adapters that change things. Requests
// made through it pass the guard.
func (e *Engine) API() client.APIClient { return e.api }

// Close releases idle connections.
func (e *Engine) Close() error { return e.api.Close() }

// Explain adds to an error of an engine call which engine it was and, when the
// engine could not be reached at all, what to do. Doing says what was tried,
// like "listing containers of project x". A nil error stays nil.
func (e *Engine) Explain(doing string, err error) error {
	var refused *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return fmt.Errorf("%s on docker engine %s: %w", doing, e.host, refused)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s on docker engine %s: %w", doing, e.host, err)
	case errors.Is(err, context.DeadlineExceeded):
		return errs.New(errs.Timeout, "LS-CMP-015", "%s: docker engine %s did not answer in time: %w; look at its load and log, and restart it if it hangs", doing, e.host, err)
	case errdefs.IsPermissionDenied(err) || strings.Contains(err.Error(), "permission denied"):
		return errs.New(errs.PermissionDenied, "LS-CMP-002", "%s: docker engine %s refuses this user: %w; add the user to the docker group or run as root", doing, e.host, err)
	case client.IsErrConnectionFailed(err):
		return errs.New(errs.Unavailable, "LS-CMP-001", "%s: docker engine %s cannot be reached: %w; start the engine, or point the cluster's engine host (or DOCKER_HOST) to where it listens", doing, e.host, err)
	}
	return fmt.Errorf("%s on docker engine %s: %w", doing, e.host, err)
}

// tlsFromEnvironment reads DOCKER_TLS, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH as
// the docker command does, nil when TLS is not asked for. The library's own way
// of doing so goes through flags that write process-wide variables, so two
// connections could not be prepared at the same time.
func tlsFromEnvironment() *tlsconfig.Options {
	verify := os.Getenv("DOCKER_TLS_VERIFY") != ""
	if !verify && os.Getenv("DOCKER_TLS") == "" {
		return nil
	}
	dir := os.Getenv("DOCKER_CERT_PATH")
	if dir == "" {
		dir = config.Dir()
	}
	out := &tlsconfig.Options{CAFile: filepath.Join(dir, flags.DefaultCaFile), InsecureSkipVerify: !verify}
	// A client certificate is optional: without one the engine must not ask.
	cert, key := filepath.Join(dir, flags.DefaultCertFile), filepath.Join(dir, flags.DefaultKeyFile)
	if _, err := os.Stat(cert); err == nil {
		out.CertFile = cert
	}
	if _, err := os.Stat(key); err == nil {
		out.KeyFile = key
	}
	return out
}

// guard turns an engine-level permission into a hook that leaves reading alone.
func guard(allow func(context.Context) error) client.RequestHook {
	return func(req *http.Request) error {
		if req.Method == http.MethodGet || req.Method == http.MethodHead {
			return nil
		}
		ctx := req.Context()
		if err := ctx.Err(); err != nil {
			return err
		}
		if allow == nil {
			return nil
		}
		if err := allow(ctx); err != nil {
			return &refusal{request: req.Method + " " + req.URL.Path, cause: err}
		}
		return nil
	}
}

// refusal is a request the guard did not let through. It keeps the client from
// reporting a decision of ours as an unreachable engine.
type refusal struct {
	request string
	cause   error
}

func (r *refusal) Error() string { return r.request + " was not sent: " + r.cause.Error() }
func (r *refusal) Unwrap() error { return r.cause }

func named(host string) string {
	if host == "" {
		return "of the environment"
	}
	return host
}
