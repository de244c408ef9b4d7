package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Tokens that every server of these tests knows, by the role of their owners.
const (
	viewer   = "lst_viewer"
	operator = "lst_operator"
	approver = "lst_approver"
	admin    = "lst_admin"
)

// The procedures of these tests, as generated code describes them.
func say() connect.Spec {
	return connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: "/test.v1.EchoService/Say"}
}

func look() connect.Spec {
	return connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: "/test.v1.EchoService/Look", IdempotencyLevel: connect.IdempotencyNoSideEffects}
}

func count() connect.Spec {
	return connect.Spec{StreamType: connect.StreamTypeServer, Procedure: "/test.v1.EchoService/Count"}
}

// record is a log that may be read while it is written.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// unary is a method that answers with what fn returns.
func unary(spec connect.Spec, fn func(ctx context.Context, text string) (string, error)) connect.Method {
	return connect.Method{Spec: spec, Handler: func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
		var req wrapperspb.StringValue
		if err := stream.Receive(&req); err != nil {
			return err
		}
		text, err := fn(ctx, req.GetValue())
		if err != nil {
			return err
		}
		return stream.Send(wrapperspb.String(text))
	}}
}

// streamed is a method that sends what fn sends.
func streamed(spec connect.Spec, fn func(ctx context.Context, send func(string) error) error) connect.Method {
	return connect.Method{Spec: spec, Handler: func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
		if err := stream.Receive(&wrapperspb.StringValue{}); err != nil {
			return err
		}
		return fn(ctx, func(text string) error { return stream.Send(wrapperspb.String(text)) })
	}}
}

func echo(_ context.Context, text string) (string, error) { return text, nil }

func answering(text string, err error) func(context.Context, string) (string, error) {
	return func(context.Context, string) (string, error) { return text, err }
}

func tokens(t *testing.T) *rpc.Tokens {
	t.Helper()
	var list []rpc.Token
	for token, role := range map[string]rpc.Role{viewer: rpc.Viewer, operator: rpc.Operator, approver: rpc.Approver, admin: rpc.Admin} {
		list = append(list, rpc.Token{Hash: rpc.HashToken(token), Principal: rpc.Principal{Name: "the " + role.String(), Role: role, Tenant: "acme"}})
	}
	known, err := rpc.NewTokens(list...)
	if err != nil {
		t.Fatal(err)
	}
	return known
}

func open(string) (rpc.Role, bool) { return rpc.Viewer, true }

// newServer fills in what a test does not care for.
func newServer(t *testing.T, opts rpc.Options, methods ...connect.Method) (handler http.Handler, log *record) {
	t.Helper()
	log = &record{}
	if opts.Log == nil {
		opts.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	if opts.Auth == nil {
		opts.Auth = tokens(t)
	}
	if opts.Needs == nil {
		opts.Needs = open
	}
	server, err := rpc.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	server.Register(methods...)
	mux := http.NewServeMux()
	server.Mount(mux)
	return mux, log
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// start serves until the test is over or stop is called, which waits for the end.
func start(t *testing.T, listener net.Listener, handler http.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ctx, listener, handler, 10*time.Second, slog.New(slog.DiscardHandler)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// serve runs a server of the given procedures.
func serve(t *testing.T, opts rpc.Options, methods ...connect.Method) (url string, log *record) {
	t.Helper()
	handler, log := newServer(t, opts, methods...)
	listener := listen(t)
	start(t, listener, handler)
	return "http://" + listener.Addr().String(), log
}

type authorized struct {
	header string
	next   http.RoundTripper
}

func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if a.header != "" {
		r.Header.Set("Authorization", a.header)
	}
	return a.next.RoundTrip(r)
}

// dialect is a way to speak to a server.
type dialect struct {
	name    string
	http2   bool
	options []connecthttp.Option
}

func dialects() []dialect {
	return []dialect{
		{"Connect over HTTP/1.1", false, nil},
		{"Connect over HTTP/2", true, nil},
		{"Connect with JSON", false, []connecthttp.Option{connecthttp.WithProtoJSON()}},
		{"gRPC", true, []connecthttp.Option{connecthttp.WithGRPC()}},
		{"gRPC-Web", false, []connecthttp.Option{connecthttp.WithGRPCWeb()}},
	}
}

// carrier is a transport of HTTP/1.1 or of HTTP/2 without TLS.
func carrier(t *testing.T, http2 bool) *http.Transport {
	t.Helper()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func (d dialect) client(t *testing.T, url, authorization string) *connect.Client {
	t.Helper()
	return connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: authorized{authorization, carrier(t, d.http2)}}, url, d.options...))
}

// call asks with the plainest client there is.
func call(t *testing.T, url, authorization, text string) (string, error) {
	t.Helper()
	return ask(t, dialects()[0].client(t, url, authorization), say(), text)
}

func ask(t *testing.T, client *connect.Client, spec connect.Spec, text string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var res wrapperspb.StringValue
	err := client.CallUnary(ctx, spec, wrapperspb.String(text), &res)
	return res.GetValue(), err
}

// reason is the catalogue id that an error brought along.
func reason(t *testing.T, err error) string {
	t.Helper()
	info, _ := detail[*errdetails.ErrorInfo](t, err)
	if info.GetReason() != "" && info.GetDomain() != "lockstep" {
		t.Errorf("the domain is %q", info.GetDomain())
	}
	return info.GetReason()
}

func detail[T proto.Message](t *testing.T, err error) (T, bool) {
	t.Helper()
	var none T
	var e *connect.Error
	if !errors.As(err, &e) {
		return none, false
	}
	for _, d := range e.Details() {
		message, err := connectproto.UnmarshalErrorDetail(d)
		if err != nil {
			t.Fatal(err)
		}
		if found, ok := message.(T); ok {
			return found, true
		}
	}
	return none, false
}

// refused checks how a call was refused.
func refused(t *testing.T, what string, err error, code connect.Code, id, words string) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != code || reason(t, err) != id || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: got %v (%s), want code %s, id %s and the words %q", what, err, reason(t, err), code, id, words)
	}
}
