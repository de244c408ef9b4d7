package rpc

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"unicode/utf8"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	// errorDomain is the domain of every google.rpc.ErrorInfo: catalogue ids are
	// unique within it.
	errorDomain = "lockstep"
	// maxText bounds the text of an error, in bytes. gRPC sends it in a header,
	// and some texts repeat what a caller sent.
	maxText = 4 << 10
)

// end turns the error of a call into what the caller is told, and notes it.
func (s *Server) end(ctx context.Context, procedure string, err error) error {
	if err == nil {
		return nil
	}
	told, level := verdict(ctx, err)
	s.note(ctx, level, procedure, told, err)
	return told
}

// note writes the one line of the log that a refused or failed call gets.
func (s *Server) note(ctx context.Context, level slog.Level, procedure string, told *connect.Error, err error) {
	s.log.Log(ctx, level, "a call failed", "procedure", procedure, "principal", caller(ctx),
		"code", told.Code().String(), "catalogue_id", errs.IDOf(told), "error", err)
}

// verdict is what the caller is told of an error, and how loud the server's own
// log is about it. An error that nobody worded for callers is told in general
// words only.
func verdict(ctx context.Context, err error) (*connect.Error, slog.Level) {
	var known *errs.Error
	worded := errors.As(err, &known)
	var coded *connect.Error
	// What another server said to this one is not this one's answer.
	said := errors.As(err, &coded) && !coded.IsRemote()
	if over := ctx.Err(); over != nil && (errors.Is(err, over) || !worded && !said) {
		return ended(ctx, err)
	}
	switch {
	case worded:
		told := tell(err)
		return told, level(told.Code())
	case said:
		return coded, level(coded.Code())
	}
	return masked(err), slog.LevelError
}

// ended is the verdict on a call that was cut off: by the server, whose reason
// is the cause of the context's end, or by the caller, to whom it is no news.
func ended(ctx context.Context, err error) (*connect.Error, slog.Level) {
	own := cutOff(ctx)
	switch {
	case own != nil:
		told := tell(own)
		return told.WithCause(errors.Join(own, err)), level(told.Code())
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, "the caller's time for the call ran out").WithCause(err), slog.LevelDebug
	}
	return connect.NewError(connect.CodeCanceled, "the caller gave the call up").WithCause(err), slog.LevelDebug
}

// cutOff is why the server itself ended a call, or nil when it did not.
func cutOff(ctx context.Context) error {
	var own *errs.Error
	if ctx.Err() != nil && errors.As(context.Cause(ctx), &own) {
		return own
	}
	return nil
}

// masked is all that a caller learns of an error that nobody worded for it.
func masked(err error) *connect.Error {
	general := errs.New(errs.Internal, "LS-API-012", "internal error; the server's log has the details")
	return tell(general).WithCause(errors.Join(general, err))
}

// tell words an error with a kind for the caller. The catalogue id travels as the
// reason of a google.rpc.ErrorInfo, so that programs need not read the text.
func tell(err error) *connect.Error {
	told := connect.NewError(code(errs.KindOf(err)), clip(err.Error(), maxText)).WithCause(err)
	if id := errs.IDOf(err); id != "" {
		told = withDetail(told, &errdetails.ErrorInfo{Reason: id, Domain: errorDomain})
	}
	var broken *brokenRules
	if errors.As(err, &broken) {
		told = withDetail(told, broken.details)
	}
	return told
}

// withDetail leaves a detail out that cannot be encoded: the text says it all.
func withDetail(e *connect.Error, message proto.Message) *connect.Error {
	detail, err := connectproto.NewErrorDetail(message)
	if err != nil {
		return e
	}
	return e.WithDetail(detail)
}

// code is the Connect code of a kind.
func code(kind errs.Kind) connect.Code {
	switch kind {
	case errs.Internal:
		return connect.CodeInternal
	case errs.Invalid:
		return connect.CodeInvalidArgument
	case errs.NotFound:
		return connect.CodeNotFound
	case errs.Conflict:
		return connect.CodeFailedPrecondition
	case errs.Unavailable:
		return connect.CodeUnavailable
	case errs.Unauthenticated:
		return connect.CodeUnauthenticated
	case errs.PermissionDenied:
		return connect.CodePermissionDenied
	case errs.Exhausted:
		return connect.CodeResourceExhausted
	case errs.Timeout:
		return connect.CodeDeadlineExceeded
	}
	return connect.CodeUnknown
}

// level is how loud the log is about a call that ended so. What a caller did
// wrong is the caller's business; who was turned away is worth a line.
func level(code connect.Code) slog.Level {
	switch code {
	case connect.CodeInternal, connect.CodeUnknown, connect.CodeDataLoss:
		return slog.LevelError
	case connect.CodeDeadlineExceeded, connect.CodeResourceExhausted:
		return slog.LevelWarn
	case connect.CodeUnavailable, connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return slog.LevelInfo
	case connect.CodeCanceled, connect.CodeInvalidArgument, connect.CodeNotFound, connect.CodeAlreadyExists,
		connect.CodeFailedPrecondition, connect.CodeAborted, connect.CodeOutOfRange, connect.CodeUnimplemented:
	}
	return slog.LevelDebug
}

// clip cuts a text to at most limit bytes of valid UTF-8.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return strings.ToValidUTF8(text, "?")
	}
	const more = "…"
	cut := limit - len(more)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strings.ToValidUTF8(text[:cut], "?") + more
}
