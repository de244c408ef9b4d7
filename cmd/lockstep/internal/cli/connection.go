package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"syscall"

	"connectrpc.com/connect/v2"
	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1/catalogv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1/driftv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1/observationv1connect"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
)

// connection is where a client command goes and what it shows there.
type connection struct {
	config    string
	server    string
	tokenFile string
}

// client holds the services of one server, and how it was reached so that
// errors can name it.
type client struct {
	fleet       fleetv1connect.FleetServiceClient
	drift       driftv1connect.DriftServiceClient
	catalog     catalogv1connect.CatalogServiceClient
	rollouts    rolloutv1connect.RolloutServiceClient
	gates       gatev1connect.GateServiceClient
	observation observationv1connect.ObservationServiceClient

	server    string
	tokenFile string
	close     func()
}

func (s *shell) configFlag(c *cobra.Command) {
	c.Flags().StringVar(&s.conn.config, "config", "", "configuration `file` (default LOCKSTEP_CONFIG, ./fleet.yaml, $XDG_CONFIG_HOME/lockstep/fleet.yaml, /etc/lockstep/fleet.yaml)")
}

func (s *shell) connectionFlags(c *cobra.Command) {
	s.configFlag(c)
	c.Flags().StringVar(&s.conn.server, "server", "", "`URL` of the server (default LOCKSTEP_SERVER_URL, then server.listen of the configuration)")
	c.Flags().StringVar(&s.conn.tokenFile, "token-file", "", "`file` that holds the access token (default LOCKSTEP_TOKEN_FILE, then admin.token in server.data_dir)")
}

// dial prepares a client, to be closed at the end. Nothing is sent yet.
func (s *shell) dial() (*client, error) {
	server, tokenFile := s.conn.server, s.conn.tokenFile
	if server == "" {
		server = s.Env("LOCKSTEP_SERVER_URL")
	}
	if tokenFile == "" {
		tokenFile = s.Env("LOCKSTEP_TOKEN_FILE")
	}
	// The file is not opened when it has nothing to say: a client on another
	// machine has none, and a broken one must not stop a rollback.
	if server == "" || tokenFile == "" {
		path, err := fleetfile.Find(s.conn.config, s.Env)
		if err != nil {
			return nil, err
		}
		file, err := fleetfile.Read(path, s.Env)
		if err != nil {
			return nil, fmt.Errorf("%w\n--server and --token-file together need no configuration", err)
		}
		if server == "" {
			server = file.Server.URL()
		}
		if tokenFile == "" {
			if file.Server.DataDir == "" {
				return nil, noToken("find the access token: no data folder is known; name the token's file with --token-file")
			}
			tokenFile = file.Server.TokenFile()
		}
	}
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usage("--server %q is not an address; write one such as http://127.0.0.1:8470", server)
	}
	raw, err := os.ReadFile(tokenFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil, noToken("read the access token: there is no file %s; `lockstep server` writes it when it first starts, or name another with --token-file", tokenFile)
	}
	if err != nil {
		return nil, noToken("read the access token: %w; name another file with --token-file", err)
	}
	token := strings.TrimSpace(string(raw))
	if token == "" {
		return nil, noToken("read the access token: %s is empty; name another file with --token-file", tokenFile)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, noToken("read the access token: %s holds something else than one token; name another file with --token-file", tokenFile)
	}
	c, err := rpc.NewClient(rpc.ClientOptions{URL: server, Token: token})
	if err != nil {
		return nil, err
	}
	return &client{
		fleet:       fleetv1connect.NewFleetServiceClient(c.Client),
		drift:       driftv1connect.NewDriftServiceClient(c.Client),
		catalog:     catalogv1connect.NewCatalogServiceClient(c.Client),
		rollouts:    rolloutv1connect.NewRolloutServiceClient(c.Client),
		gates:       gatev1connect.NewGateServiceClient(c.Client),
		observation: observationv1connect.NewObservationServiceClient(c.Client),
		server:      server,
		tokenFile:   tokenFile,
		close:       c.Close,
	}, nil
}

func noToken(format string, args ...any) error {
	return errs.New(errs.Unauthenticated, "LS-CFG-005", format, args...)
}

// callError is the error of a call in words for people, with its cause kept for
// decisions.
type callError struct {
	text  string
	cause error
}

func (e *callError) Error() string { return e.text }
func (e *callError) Unwrap() error { return e.cause }

// failed words an error of a call for people: what was being done, what the
// server said, and what to do where that is known. What was being done may hold
// what a person typed.
func (c *client) failed(doing string, err error) error {
	text := &callError{clean(doing) + c.problem(err), err}
	if e, ok := errors.AsType[*connect.Error](err); (!ok || !e.IsRemote()) && connect.CodeOf(err) != connect.CodeCanceled {
		return errs.New(errs.Unavailable, "LS-API-020", "%w", text)
	}
	return text
}

func (c *client) problem(err error) string {
	var e *connect.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf(": nothing listens at %s; is `lockstep server` running? --server names another address", c.server)
	case !errors.As(err, &e):
		return fmt.Sprintf(" at %s: %v", c.server, err)
	case e.Code() == connect.CodeUnauthenticated:
		return fmt.Sprintf(": %s does not accept the token in %s; name the token of this server with --token-file. A new one of `lockstep token create` counts once its hash is in access.tokens of the server's configuration and the server was restarted", c.server, c.tokenFile)
	case e.Code() == connect.CodePermissionDenied:
		return fmt.Sprintf(": the token in %s does not allow it: %s", c.tokenFile, words(e))
	case e.Code() == connect.CodeUnimplemented:
		return fmt.Sprintf(": %s does not offer this; is it a Lockstep server, and as new as this command? (%s)", c.server, words(e))
	case e.Code() == connect.CodeCanceled && !e.IsRemote():
		return ": interrupted"
	case e.IsRemote():
		return ": " + words(e)
	}
	return fmt.Sprintf(" at %s: %s", c.server, words(e))
}

// passing says whether an error may go away by itself: the connection failed,
// or the server is stopping or starting.
func passing(err error) bool {
	var e *connect.Error
	if !errors.As(err, &e) {
		return false
	}
	return !e.IsRemote() || e.Code() == connect.CodeUnavailable || e.Code() == connect.CodeCanceled
}

// words is a server's message with its catalogue id, which travels as the
// reason of a google.rpc.ErrorInfo.
func words(e *connect.Error) string {
	text := clean(e.Message())
	if text == "" {
		text = "the server gave no reason (" + e.Code().String() + "); its log has it"
	}
	if id := reason(e); id != "" && !strings.Contains(text, id) {
		text += " (" + id + ")"
	}
	return text
}
