package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "lst_secret"

// say is a procedure as generated code describes one.
func say() connect.Spec {
	return connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: "/test.v1.EchoService/Say"}
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

// serve runs a server whose one procedure answers with what fn returns.
func serve(t *testing.T, fn func(ctx context.Context, text string) (string, error)) (url string, log *record) {
	t.Helper()
	return serveAdmitted(t, func() error { return nil }, fn)
}

func serveAdmitted(t *testing.T, admit func() error, fn func(ctx context.Context, text string) (string, error)) (url string, log *record) {
	t.Helper()
	log = &record{}
	server := rpc.NewServer(slog.New(slog.NewTextHandler(log, nil)), admit)
	server.Register(connect.Method{Spec: say(), Handler: func(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
		var req wrapperspb.StringValue
		if err := stream.Receive(&req); err != nil {
			return err
		}
		text, err := fn(ctx, req.GetValue())
		if err != nil {
			return err
		}
		return stream.Send(wrapperspb.String(text))
	}})
	mux := http.NewServeMux()
	rpc.Mount(mux, server, token)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL, log
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

func call(t *testing.T, url, authorization, text string) (string, error) {
	t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: authorized{authorization, transport}}, url))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var res wrapperspb.StringValue
	err := client.CallUnary(ctx, say(), wrapperspb.String(text), &res)
	return res.GetValue(), err
}

func echo(_ context.Context, text string) (string, error) { return text, nil }

func TestOnlyTheRightTokenIsLetIn(t *testing.T) {
	t.Parallel()
	called := make(chan string, 10)
	url, _ := serve(t, func(_ context.Context, text string) (string, error) { called <- text; return text, nil })
	for _, header := range []string{
		"", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + token + "x", "Bearer " + token[:5], "Basic " + token, token,
	} {
		_, err := call(t, url, header, "hello")
		if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(fmt.Sprint(err), "LS-API-004") || !strings.Contains(fmt.Sprint(err), "admin.token") {
			t.Errorf("%q: %v", header, err)
		}
		if strings.Contains(fmt.Sprint(err), token) {
			t.Errorf("%q: the answer tells the token: %v", header, err)
		}
	}
	if len(called) != 0 {
		t.Error("the handler was called without the token")
	}
	// The scheme's case does not matter (RFC 9110, section 11.1), the token's does.
	for _, scheme := range []string{"Bearer ", "bearer "} {
		if got, err := call(t, url, scheme+token, "hello"); err != nil || got != "hello" {
			t.Errorf("%q and the right token: %q, %v", scheme, got, err)
		}
	}
}

func TestABrowserWithoutATokenIsRefusedInWords(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, echo)
	res, err := http.Get(url + "/anything")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusUnauthorized || !strings.Contains(string(body), "LS-API-004") {
		t.Errorf("%d %s", res.StatusCode, body)
	}
}

func TestKindsBecomeCodes(t *testing.T) {
	t.Parallel()
	for kind, code := range map[errs.Kind]connect.Code{
		errs.Invalid:     connect.CodeInvalidArgument,
		errs.NotFound:    connect.CodeNotFound,
		errs.Conflict:    connect.CodeFailedPrecondition,
		errs.Unavailable: connect.CodeUnavailable,
		errs.Internal:    connect.CodeInternal,
	} {
		url, log := serve(t, func(context.Context, string) (string, error) {
			return "", fmt.Errorf("looking: %w", errs.New(kind, "LS-TST-001", "it is not there"))
		})
		_, err := call(t, url, "Bearer "+token, "hello")
		if connect.CodeOf(err) != code || !strings.Contains(fmt.Sprint(err), "looking: LS-TST-001: it is not there") {
			t.Errorf("%s: %v, want code %s", kind, err, code)
		}
		// What a caller did wrong is not the server's to log.
		if logged := log.String() != ""; logged != (kind == errs.Internal) {
			t.Errorf("%s: logged %q", kind, log)
		}
	}
}

func TestAnUnknownErrorIsLoggedAndNotTold(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]error{
		"an error":          errors.New("dial tcp 10.0.0.7: password=hunter2"),
		"its own time out":  fmt.Errorf("asking 10.0.0.7: %w", context.DeadlineExceeded),
		"its own ended run": fmt.Errorf("asking 10.0.0.7: %w", context.Canceled),
	} {
		url, log := serve(t, func(context.Context, string) (string, error) { return "", cause })
		_, err := call(t, url, "Bearer "+token, "hello")
		if connect.CodeOf(err) != connect.CodeInternal || !strings.Contains(fmt.Sprint(err), "the server's log has the details") || strings.Contains(fmt.Sprint(err), "10.0.0.7") {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(log.String(), "10.0.0.7") || !strings.Contains(log.String(), say().Procedure) {
			t.Errorf("%s: the log says %s", name, log)
		}
	}
}

func TestACallersOwnEndIsNoFailure(t *testing.T) {
	t.Parallel()
	began, ended := make(chan struct{}), make(chan struct{})
	url, log := serve(t, func(ctx context.Context, _ string) (string, error) {
		defer close(ended)
		close(began)
		<-ctx.Done()
		return "", fmt.Errorf("asking: %w", ctx.Err())
	})
	ctx, cancel := context.WithCancel(t.Context())
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: authorized{"Bearer " + token, transport}}, url))
	done := make(chan error, 1)
	go func() { done <- client.CallUnary(ctx, say(), wrapperspb.String(""), &wrapperspb.StringValue{}) }()
	<-began
	cancel()
	if err := <-done; connect.CodeOf(err) != connect.CodeCanceled {
		t.Errorf("the caller got %v", err)
	}
	<-ended
	if log.String() != "" {
		t.Errorf("the log says %s", log)
	}
}

func TestAnErrorThatIsConnectsAlreadyStays(t *testing.T) {
	t.Parallel()
	url, log := serve(t, func(context.Context, string) (string, error) {
		return "", fmt.Errorf("looking: %w", connect.NewError(connect.CodeAborted, "again"))
	})
	if _, err := call(t, url, "Bearer "+token, "hello"); connect.CodeOf(err) != connect.CodeAborted {
		t.Errorf("got %v", err)
	}
	if log.String() != "" {
		t.Errorf("the log says %s", log)
	}
}

func TestAPanicEndsOneCallOnly(t *testing.T) {
	t.Parallel()
	url, log := serve(t, func(_ context.Context, text string) (string, error) {
		if text == "boom" {
			panic("index 7 of secret")
		}
		return text, nil
	})
	_, err := call(t, url, "Bearer "+token, "boom")
	if connect.CodeOf(err) != connect.CodeInternal || strings.Contains(fmt.Sprint(err), "secret") {
		t.Errorf("got %v", err)
	}
	if text := log.String(); !strings.Contains(text, "index 7 of secret") || !strings.Contains(text, "rpc_test.go") || !strings.Contains(text, say().Procedure) {
		t.Errorf("the log says %s", text)
	}
	if got, err := call(t, url, "Bearer "+token, "still here"); err != nil || got != "still here" {
		t.Errorf("after it: %q, %v", got, err)
	}
}

func TestAMessageOverTheLimitIsRefused(t *testing.T) {
	t.Parallel()
	called := make(chan int, 10)
	url, _ := serve(t, func(_ context.Context, text string) (string, error) { called <- len(text); return "", nil })
	const room = 16 // for the field's tag and length
	if _, err := call(t, url, "Bearer "+token, strings.Repeat("x", rpc.MaxMessage-room)); err != nil {
		t.Errorf("just below the limit: %v", err)
	}
	if _, err := call(t, url, "Bearer "+token, strings.Repeat("x", rpc.MaxMessage)); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("above the limit: %v", err)
	}
	if len(called) != 1 {
		t.Errorf("%d calls arrived, want 1", len(called))
	}
}

func TestACallThatIsNotAdmittedGoesNoFurther(t *testing.T) {
	t.Parallel()
	var starting atomic.Bool
	starting.Store(true)
	called := make(chan string, 10)
	url, _ := serveAdmitted(t, func() error {
		if starting.Load() {
			return errs.New(errs.Unavailable, "LS-TST-002", "not yet")
		}
		return nil
	}, func(_ context.Context, text string) (string, error) { called <- text; return text, nil })
	if _, err := call(t, url, "Bearer "+token, "hello"); connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(fmt.Sprint(err), "LS-TST-002: not yet") {
		t.Errorf("got %v", err)
	}
	if len(called) != 0 {
		t.Error("the handler was called")
	}
	starting.Store(false)
	if _, err := call(t, url, "Bearer "+token, "hello"); err != nil {
		t.Errorf("later: %v", err)
	}
}
