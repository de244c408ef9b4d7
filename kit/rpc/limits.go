package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"connectrpc.com/connect/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// MaxMessage bounds one message, in bytes, before and after decompression.
const MaxMessage = 4 << 20

const (
	// framing is what the body of a call may hold besides one message.
	framing = 1 << 10
	// compressFrom is the size from which an answer is compressed, in bytes: less
	// fits a packet as it is.
	compressFrom = 1 << 10
	// sendTimeout bounds how long a reader of a stream may leave one message
	// lying.
	sendTimeout = time.Minute
)

// reading gives the errors of messages that cannot be read their ids, and checks
// what was read against the rules of its schema.
func (s *Server) reading(next connect.ServerFunc) connect.ServerFunc {
	return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) error {
		return next(ctx, spec, &reader{stream, func() error { return cutOff(ctx) }, s.validator})
	}
}

type reader struct {
	connect.ServerStream
	// cut says that the server itself ended the call, which is then why nothing
	// can be read.
	cut       func() error
	validator protovalidate.Validator
}

func (r *reader) Receive(message any) error {
	if err := r.ServerStream.Receive(message); err != nil {
		if cut := r.cut(); cut != nil {
			return cut
		}
		return unreadable(err)
	}
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("a request is a %T, which has no schema", message)
	}
	return valid(r.validator, m)
}

func unreadable(err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	switch connect.CodeOf(err) {
	case connect.CodeCanceled, connect.CodeUnimplemented:
		return err
	case connect.CodeDeadlineExceeded:
		return errs.New(errs.Timeout, "LS-API-014", "the request did not arrive within %s", requestTimeout)
	case connect.CodeResourceExhausted:
		return errs.New(errs.Exhausted, "LS-API-008", "the request is larger than %d MiB; ask for less at once", MaxMessage>>20)
	}
	var e *connect.Error
	if !errors.As(err, &e) {
		return err
	}
	return errs.New(errs.Invalid, "LS-API-010", "the request cannot be read: %s", e.Message())
}

// brokenRules is a message that its schema's rules refuse.
type brokenRules struct {
	err     *errs.Error
	details *errdetails.BadRequest
}

func (b *brokenRules) Error() string { return b.err.Error() }
func (b *brokenRules) Unwrap() error { return b.err }

const (
	// toldRules bounds how many broken rules a caller is told: whoever mends these
	// learns of the rest.
	toldRules = 10
	// maxField bounds the path of a field, in bytes: the keys of maps are part of
	// it.
	maxField = 200
)

func valid(validator protovalidate.Validator, message proto.Message) error {
	err := validator.Validate(message)
	if err == nil {
		return nil
	}
	var broken *protovalidate.ValidationError
	if !errors.As(err, &broken) {
		return fmt.Errorf("checking a %s against the rules of its schema: %w", message.ProtoReflect().Descriptor().FullName(), err)
	}
	details := &errdetails.BadRequest{}
	var words []string
	for i, v := range broken.Violations {
		if i == toldRules {
			words = append(words, fmt.Sprintf("and %d more", len(broken.Violations)-i))
			break
		}
		rule, text := v.Proto.GetRuleId(), v.Proto.GetMessage()
		if text == "" {
			text = "breaks the rule " + rule
		}
		field := clip(protovalidate.FieldPathString(v.Proto.GetField()), maxField)
		details.FieldViolations = append(details.FieldViolations, &errdetails.BadRequest_FieldViolation{
			Field: field, Description: text, Reason: strings.ToUpper(strings.ReplaceAll(rule, ".", "_")),
		})
		if field != "" {
			text = field + ": " + text
		}
		words = append(words, text)
	}
	return &brokenRules{errs.New(errs.Invalid, "LS-API-009", "the request is not valid: %s", strings.Join(words, "; ")), details}
}

// bounded mounts procedures so that a request brings no more than it may, and
// nobody waits for ever for a caller who sends or reads slowly.
type bounded struct {
	mux     *http.ServeMux
	streams map[string]connect.StreamType
	timeout time.Duration
}

// Handle serves a procedure. What Connect mounts for the rest of a service is
// left to the mux, whose 404 every client reads as "not implemented".
func (b bounded) Handle(pattern string, next http.Handler) {
	kind, ok := b.streams[pattern]
	if !ok {
		return
	}
	b.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		if kind&connect.StreamTypeClient == 0 {
			r.Body = oneMessage(w, r)
		}
		if kind == connect.StreamTypeUnary {
			_ = conn.SetWriteDeadline(time.Now().Add(b.timeout + sendTimeout))
			next.ServeHTTP(w, r)
			return
		}
		// A stream outlasts what a server allows a request, and ends with it.
		_ = conn.SetWriteDeadline(time.Time{})
		if kind&connect.StreamTypeClient != 0 {
			_ = conn.SetReadDeadline(time.Time{})
		}
		ctx, end := whenStopping(r.Context(), func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
		defer end()
		next.ServeHTTP(&streamWriter{w, conn}, r.WithContext(ctx))
	}))
}

// oneMessage is the body of a request that holds one message.
func oneMessage(w http.ResponseWriter, r *http.Request) io.ReadCloser {
	const limit = MaxMessage + framing
	if r.ContentLength > limit {
		return tooLarge{limit} // not one byte of it is read
	}
	return http.MaxBytesReader(w, r.Body, limit)
}

type tooLarge struct{ limit int64 }

func (t tooLarge) Read([]byte) (int, error) { return 0, &http.MaxBytesError{Limit: t.limit} }
func (t tooLarge) Close() error             { return nil }

// streamWriter gives every message of a stream a time to be taken, however long
// the stream lasts.
type streamWriter struct {
	http.ResponseWriter
	conn *http.ResponseController
}

func (s *streamWriter) Write(p []byte) (int, error) {
	_ = s.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	return s.ResponseWriter.Write(p)
}

// Flush is what Connect calls after every message.
func (s *streamWriter) Flush() {
	_ = s.conn.Flush() // the next write tells
	_ = s.conn.SetWriteDeadline(time.Time{})
}
