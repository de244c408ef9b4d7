package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

func TestEveryKindHasACode(t *testing.T) {
	t.Parallel()
	codes := map[errs.Kind]connect.Code{
		errs.Internal:         connect.CodeInternal,
		errs.Invalid:          connect.CodeInvalidArgument,
		errs.NotFound:         connect.CodeNotFound,
		errs.Conflict:         connect.CodeFailedPrecondition,
		errs.Unavailable:      connect.CodeUnavailable,
		errs.Unauthenticated:  connect.CodeUnauthenticated,
		errs.PermissionDenied: connect.CodePermissionDenied,
		errs.Exhausted:        connect.CodeResourceExhausted,
		errs.Timeout:          connect.CodeDeadlineExceeded,
	}
	for _, kind := range errs.Kinds() {
		code, ok := codes[kind]
		if !ok {
			t.Errorf("no code is known for the kind %s", kind)
			continue
		}
		url, _ := serve(t, rpc.Options{}, unary(say(), answering("", fmt.Errorf("looking: %w", errs.New(kind, "LS-TST-001", "it is not there")))))
		_, err := call(t, url, "Bearer "+viewer, "hello")
		refused(t, string(kind), err, code, "LS-TST-001", "looking: LS-TST-001: it is not there")
	}
}

func TestTheIDTravelsInEveryDialect(t *testing.T) {
	t.Parallel()
	lost := errs.New(errs.NotFound, "LS-TST-001", "it is not there")
	url, _ := serve(t, rpc.Options{}, unary(say(), answering("", lost)),
		streamed(count(), func(_ context.Context, send func(string) error) error { return errors.Join(send("one"), lost) }))
	for _, d := range dialects() {
		client := d.client(t, url, "Bearer "+viewer)
		_, err := ask(t, client, say(), "")
		refused(t, d.name, err, connect.CodeNotFound, "LS-TST-001", "it is not there")
		stream, err := client.CallServerStream(t.Context(), count(), wrapperspb.String(""))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Receive(&wrapperspb.StringValue{}); err != nil {
			t.Errorf("%s: %v", d.name, err)
		}
		refused(t, d.name+", a stream", stream.Receive(&wrapperspb.StringValue{}), connect.CodeNotFound, "LS-TST-001", "it is not there")
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestAFailedCallIsNotedOnceAndAsLoudAsItMatters(t *testing.T) {
	t.Parallel()
	for kind, level := range map[errs.Kind]slog.Level{
		errs.Internal:         slog.LevelError,
		errs.Timeout:          slog.LevelWarn,
		errs.Exhausted:        slog.LevelWarn,
		errs.Unavailable:      slog.LevelInfo,
		errs.PermissionDenied: slog.LevelInfo,
		errs.NotFound:         slog.LevelDebug,
		errs.Invalid:          slog.LevelDebug,
		errs.Conflict:         slog.LevelDebug,
	} {
		log := &record{}
		url, _ := serve(t, rpc.Options{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))},
			unary(say(), answering("", fmt.Errorf("looking: %w", errs.New(kind, "LS-TST-001", "it is not there")))))
		_, err := call(t, url, "Bearer "+operator, "hello")
		if err == nil {
			t.Errorf("%s: no error", kind)
		}
		text := log.String()
		if strings.Count(text, "\n") != 1 {
			t.Errorf("%s: the log says %q, want one line", kind, text)
		}
		for _, want := range []string{
			"level=" + level.String(), "procedure=" + say().Procedure, `principal="the operator"`, "code=" + connect.CodeOf(err).String(),
			"catalogue_id=LS-TST-001", "it is not there",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the log says %s, want %s", kind, text, want)
			}
		}
	}
}

func TestAGoodCallIsNotNoted(t *testing.T) {
	t.Parallel()
	log := &record{}
	url, _ := serve(t, rpc.Options{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}, unary(say(), echo))
	if _, err := call(t, url, "Bearer "+viewer, "hello"); err != nil || log.String() != "" {
		t.Errorf("%v; the log says %s", err, log)
	}
}

func TestAnUnknownErrorIsLoggedAndNotTold(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]error{
		"an error":                 errors.New("dial tcp 10.0.0.7: password=hunter2"),
		"its own time out":         fmt.Errorf("asking 10.0.0.7: %w", context.DeadlineExceeded),
		"its own ended run":        fmt.Errorf("asking 10.0.0.7: %w", context.Canceled),
		"the word of another host": connect.NewError(connect.CodeNotFound, "10.0.0.7 has none").WithRemote(),
	} {
		url, log := serve(t, rpc.Options{}, unary(say(), answering("", cause)))
		_, err := call(t, url, "Bearer "+viewer, "hello")
		refused(t, name, err, connect.CodeInternal, "LS-API-012", "the server's log has the details")
		if strings.Contains(fmt.Sprint(err), "10.0.0.7") {
			t.Errorf("%s: told %v", name, err)
		}
		if !strings.Contains(log.String(), "10.0.0.7") || !strings.Contains(log.String(), say().Procedure) {
			t.Errorf("%s: the log says %s", name, log)
		}
	}
}

func TestACallersOwnEndIsNoFailure(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(error) error{
		"in the handler's words":  func(err error) error { return fmt.Errorf("asking: %w", err) },
		"in words for the caller": func(err error) error { return errs.New(errs.Unavailable, "LS-TST-001", "asking: %w", err) },
		"in other words":          func(error) error { return errors.New("the query was ended") },
	} {
		began, ended := make(chan struct{}), make(chan struct{})
		url, log := serve(t, rpc.Options{}, unary(say(), func(ctx context.Context, _ string) (string, error) {
			defer close(ended)
			close(began)
			<-ctx.Done()
			return "", wrap(ctx.Err())
		}))
		ctx, cancel := context.WithCancel(t.Context())
		client := dialects()[0].client(t, url, "Bearer "+viewer)
		done := make(chan error, 1)
		go func() { done <- client.CallUnary(ctx, say(), wrapperspb.String(""), &wrapperspb.StringValue{}) }()
		<-began
		cancel()
		if err := <-done; connect.CodeOf(err) != connect.CodeCanceled {
			t.Errorf("%s: the caller got %v", name, err)
		}
		<-ended
		if log.String() != "" {
			t.Errorf("%s: the log says %s", name, log)
		}
	}
}

func TestAnErrorThatIsConnectsAlreadyStays(t *testing.T) {
	t.Parallel()
	url, log := serve(t, rpc.Options{}, unary(say(), answering("", fmt.Errorf("looking: %w", connect.NewError(connect.CodeAborted, "again")))))
	if _, err := call(t, url, "Bearer "+viewer, "hello"); connect.CodeOf(err) != connect.CodeAborted {
		t.Errorf("got %v", err)
	}
	if log.String() != "" {
		t.Errorf("the log says %s", log)
	}
}

func TestAPanicEndsOneCallOnly(t *testing.T) {
	t.Parallel()
	url, log := serve(t, rpc.Options{}, unary(say(), func(_ context.Context, text string) (string, error) {
		if text == "boom" {
			panic("index 7 of secret")
		}
		return text, nil
	}))
	_, err := call(t, url, "Bearer "+viewer, "boom")
	refused(t, "the call", err, connect.CodeInternal, "LS-API-012", "the server's log has the details")
	if strings.Contains(fmt.Sprint(err), "secret") {
		t.Errorf("told %v", err)
	}
	if text := log.String(); !strings.Contains(text, "index 7 of secret") || !strings.Contains(text, "errors_test.go") || !strings.Contains(text, say().Procedure) || strings.Count(text, "\n") != 1 {
		t.Errorf("the log says %s", text)
	}
	if got, err := call(t, url, "Bearer "+viewer, "still here"); err != nil || got != "still here" {
		t.Errorf("after it: %q, %v", got, err)
	}
}

func TestALongErrorIsCutShort(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{}, unary(say(), func(_ context.Context, text string) (string, error) {
		return "", errs.New(errs.NotFound, "LS-TST-001", "there is no %s", text)
	}))
	for _, d := range dialects() {
		_, err := ask(t, d.client(t, url, "Bearer "+viewer), say(), strings.Repeat("ü", 1<<20))
		refused(t, d.name, err, connect.CodeNotFound, "LS-TST-001", "there is no üü")
		if n := len(fmt.Sprint(err)); n > 5000 {
			t.Errorf("%s: the error has %d bytes", d.name, n)
		}
	}
}
