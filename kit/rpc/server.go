// Package rpc owns how a process serves and calls Connect: who may call what,
// limits, recovery, health, and the one translation between error kinds and
// Connect codes. It does not own what the procedures do.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/grpcreflect/v2"
	"connectrpc.com/otelconnect"
	"go.opentelemetry.io/otel/metric"
	nometrics "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	notraces "go.opentelemetry.io/otel/trace/noop"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// DefaultTimeout bounds a unary call where Options names no other limit.
const DefaultTimeout = 30 * time.Second

// Options is what a Server needs of its process.
type Options struct {
	Log *slog.Logger
	// Auth says who calls.
	Auth Authenticator
	// Needs returns the least role that may call a procedure. A procedure for
	// which it knows none is open to nobody.
	Needs func(procedure string) (Role, bool)
	// Admit lets calls in; a call that it answers with an error goes no further.
	// Nil lets all in.
	Admit func() error
	// Health says by service name why the service is not ready, or nil. The name
	// "" is the process, and any registered service that is not named here.
	Health map[string]func() error
	// Timeout bounds unary calls; 0 means DefaultTimeout. A caller may set less.
	Timeout time.Duration
	// TracerProvider and MeterProvider are told of every call; nil means nobody is.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
}

// Server holds procedures, and what every call of one goes through. Register
// generated handlers with it, then Mount it.
type Server struct {
	*connect.Server

	log       *slog.Logger
	auth      Authenticator
	needs     func(procedure string) (Role, bool)
	admit     func() error
	ready     map[string]func() error
	timeout   time.Duration
	slow      *errs.Error
	validator protovalidate.Validator
}

// NewServer returns a server without procedures but for reflection, which takes
// the role Viewer. A call goes through, in this order:
//
//   - traces and metrics, outermost so that they see what the caller is told
//   - outcome: the time limit of a unary call, recovery from panics, translation
//     of the error, and the line in the log
//   - admission
//   - the role of the caller
//   - reading: the errors of a message that cannot be read, and validation
//   - the handler
//
// Who the caller is was found out before, by the HTTP handler of Mount.
func NewServer(opts Options) (*Server, error) {
	s := &Server{
		log: opts.Log, auth: opts.Auth, needs: opts.Needs, admit: opts.Admit, ready: opts.Health, timeout: opts.Timeout,
	}
	if s.timeout == 0 {
		s.timeout = DefaultTimeout
	}
	s.slow = errs.New(errs.Timeout, "LS-API-011", "the call took longer than the %s that a call may take, and was ended", s.timeout)
	var err error
	if s.validator, err = protovalidate.New(); err != nil {
		return nil, fmt.Errorf("preparing the validation of requests: %w", err)
	}
	observe, err := observer(opts)
	if err != nil {
		return nil, fmt.Errorf("preparing the telemetry of calls: %w", err)
	}
	s.Server = connect.NewServer(observe, s.outcome, s.admission, s.role, s.reading)
	grpcreflect.Register(s.Server)
	return s, nil
}

// Mount serves the procedures on a mux for those who show who they are, and
// health for anyone. It takes the path "/" of the mux: nothing that the mux does
// not name by itself is told to a stranger.
func (s *Server) Mount(mux *http.ServeMux) {
	guarded := http.NewServeMux()
	s.mount(guarded, s.Server)
	mux.Handle("/", s.authenticated(guarded))
	s.mount(mux, s.health())
}

func (s *Server) mount(mux *http.ServeMux, server *connect.Server) {
	bounds := bounded{mux: mux, streams: make(map[string]connect.StreamType), timeout: s.timeout}
	for spec := range server.Specs() {
		bounds.streams[spec.Procedure] = spec.StreamType
	}
	connecthttp.Mount(bounds, server, connecthttp.WithReadMaxBytes(MaxMessage), connecthttp.WithCompressMinBytes(compressFrom))
}

// observer names every dependency, because what is not named is taken from
// process-wide variables.
func observer(opts Options) (connect.ServerInterceptor, error) {
	var traces trace.TracerProvider = notraces.NewTracerProvider()
	var metrics metric.MeterProvider = nometrics.NewMeterProvider()
	if opts.TracerProvider != nil {
		traces = opts.TracerProvider
	}
	if opts.MeterProvider != nil {
		metrics = opts.MeterProvider
	}
	return otelconnect.NewServerInterceptor(
		otelconnect.WithTracerProvider(traces), otelconnect.WithMeterProvider(metrics),
		otelconnect.WithPropagator(propagation.TraceContext{}))
}

// outcome decides how a call ends. Streams have no limit: they end with the
// caller or with the process.
func (s *Server) outcome(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) (err error) {
		if spec.StreamType == connect.StreamTypeUnary {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, s.timeout, s.slow)
			defer cancel()
		}
		defer func() {
			if p := recover(); p != nil {
				s.log.ErrorContext(ctx, "a handler panicked", "procedure", spec.Procedure, "principal", caller(ctx),
					"panic", p, "stack", string(debug.Stack()))
				err = masked(errors.New("a handler panicked"))
			}
		}()
		return s.end(ctx, spec.Procedure, next(ctx, spec, stream))
	}
}

func (s *Server) admission(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		if s.admit != nil {
			if err := s.admit(); err != nil {
				return err
			}
		}
		return next(ctx, spec, stream)
	}
}

// role lets a caller through whose role covers the procedure's. It fails closed:
// no caller, no role of the procedure, no way through.
func (s *Server) role(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		who, ok := PrincipalFrom(ctx)
		if !ok {
			return unauthenticated()
		}
		needed, ok := s.needed(spec.Procedure)
		if !ok {
			return errs.New(errs.PermissionDenied, "LS-API-006", "%s is open to nobody, because it states no role that may call it; this is a fault of the server", spec.Procedure)
		}
		if !who.Role.Includes(needed) {
			return errs.New(errs.PermissionDenied, "LS-API-007", "%s needs the role %s, and %s has the role %s; ask for a token with that role",
				spec.Procedure, needed, who.Name, who.Role)
		}
		err := next(ctx, spec, stream)
		if err == nil && needed > Viewer {
			// Who changed something is asked later; a failure is noted where it is told.
			s.log.InfoContext(ctx, "a call was carried out", "procedure", spec.Procedure, "principal", who.Name)
		}
		return err
	}
}

func (s *Server) needed(procedure string) (Role, bool) {
	switch procedure {
	case "/" + grpcreflect.ReflectV1ServiceName + "/ServerReflectionInfo", "/" + grpcreflect.ReflectV1AlphaServiceName + "/ServerReflectionInfo":
		return Viewer, true
	}
	if s.needs == nil {
		return 0, false
	}
	return s.needs(procedure)
}
