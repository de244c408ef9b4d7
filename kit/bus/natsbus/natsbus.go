// Package natsbus is the bus on NATS JetStream. It is the one importer of
// nats.go; nothing above it sees a NATS type.
package natsbus

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Bus speaks to one JetStream account over one connection.
type Bus struct {
	conn *nats.Conn
	js   jetstream.JetStream
	log  *slog.Logger
	now  func() time.Time
	gone chan struct{} // closed when the connection is closed for good
	telemetry
}

// Options say how to reach the servers.
type Options struct {
	// URL of the servers, several parted by commas; tls:// asks for TLS. Ignored
	// when InProcess is set.
	URL string
	// CredentialsFile holds a user's JWT and key; empty is none.
	CredentialsFile string
	// InboxPrefix begins the subjects that answers come on, for a user that may not
	// listen to the answers of others; empty is everyone's.
	InboxPrefix string
	// InProcess connects to an embedded server without a socket.
	InProcess nats.InProcessConnProvider
	// Patient goes on trying when no server can be reached at first; what needs one
	// fails until then.
	Patient bool
	// Name tells this connection from others in the servers' monitoring.
	Name string
	Log  *slog.Logger
	// Now gives the time that messages are stamped with; nil is the system's.
	Now func() time.Time
	// Tracers and Meters take what is traced and counted; nil is nobody.
	Tracers trace.TracerProvider
	Meters  metric.MeterProvider
}

// Open connects. A server that cannot be reached is an error at once, unless the
// options are patient; later losses are mended in the background.
func Open(opts Options) (*Bus, error) {
	t, err := newTelemetry(opts.Tracers, opts.Meters)
	if err != nil {
		return nil, err
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	gone := make(chan struct{})
	options := []nats.Option{
		nats.Name(opts.Name),
		nats.ClosedHandler(func(*nats.Conn) { close(gone) }),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(opts.Patient),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			opts.Log.Warn("bus reported an error", "error", err)
		}),
	}
	if opts.CredentialsFile != "" {
		options = append(options, nats.UserCredentials(opts.CredentialsFile))
	}
	if opts.InboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(opts.InboxPrefix))
	}
	if opts.InProcess != nil {
		options = append(options, nats.InProcessServer(opts.InProcess))
	}
	conn, err := nats.Connect(opts.URL, options...)
	if err != nil {
		return nil, unreachable(opts.URL, err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	return &Bus{conn: conn, js: js, log: opts.Log, now: opts.Now, gone: gone, telemetry: t}, nil
}

// unreachable says why a connection was not made, and to where, without what is
// secret in the address.
func unreachable(address string, err error) error {
	shown := redacted(address)
	var parsing *url.Error
	if errors.As(err, &parsing) {
		// Its text holds the whole address.
		err = parsing.Err
	}
	var file *fs.PathError
	if errors.As(err, &file) || refused(err) {
		return errs.New(errs.Unauthenticated, "LS-BUS-002", "connecting to the bus at %s: %w; check the credentials file, or the user and password in the address", shown, err)
	}
	return errs.New(errs.Unavailable, "LS-BUS-001", "connecting to the bus at %s: %w; check the address and that a NATS server listens there", shown, err)
}

func refused(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

// redacted gives addresses without users, passwords and tokens.
func redacted(addresses string) string {
	if addresses == "" {
		return "this process"
	}
	var shown []string
	for _, address := range strings.Split(addresses, ",") {
		scheme, rest, found := strings.Cut(strings.TrimSpace(address), "://")
		if !found {
			scheme, rest = "nats", scheme
		}
		shown = append(shown, scheme+"://"+rest[strings.LastIndex(rest, "@")+1:])
	}
	return strings.Join(shown, ",")
}

// Close ends the connection. Messages in flight are flushed.
func (b *Bus) Close() {
	if err := b.conn.FlushTimeout(time.Second); err != nil {
		b.log.Debug("flushing the bus connection", "error", err)
	}
	b.conn.Close()
}

// Connected reports whether the connection is up now.
func (b *Bus) Connected() bool { return b.conn.IsConnected() }
