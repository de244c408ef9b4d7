// Package rpc owns how Lockstep serves and calls Connect: limits, bearer tokens,
// recovery, and the one translation between error kinds and Connect codes.
package rpc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// MaxMessage bounds what is read of one message, in bytes.
const MaxMessage = 4 << 20

// NewServer returns a Connect server that recovers from panics and translates
// errors. A call that admit answers with an error goes no further.
func NewServer(log *slog.Logger, admit func() error) *connect.Server {
	return connect.NewServer(func(next connect.ServerFunc) connect.ServerFunc {
		return func(ctx context.Context, spec connect.Spec, stream connect.ServerStream) (err error) {
			defer func() {
				if p := recover(); p != nil {
					log.Error("a handler panicked", "procedure", spec.Procedure, "panic", p, "stack", string(debug.Stack()))
					err = connect.NewError(connect.CodeInternal, masked)
				}
			}()
			if err := admit(); err != nil {
				return translate(ctx, log, spec.Procedure, err)
			}
			return translate(ctx, log, spec.Procedure, next(ctx, spec, stream))
		}
	})
}

// translate turns an error kind into a code. What carries no kind is logged and
// told in general words only.
func translate(ctx context.Context, log *slog.Logger, procedure string, err error) error {
	if err == nil {
		return nil
	}
	var known *errs.Error
	var already *connect.Error
	switch {
	case errors.As(err, &known):
		if known.Kind == errs.Internal {
			log.Error("a call failed", "procedure", procedure, "error", err)
		}
		return connect.NewError(code(known.Kind), err.Error()).WithCause(err)
	case errors.As(err, &already):
		return err
	case ctx.Err() != nil:
		// The caller went away or ran out of time; that the work was cut off is no
		// news. A time limit of the server's own is: it comes below.
		return ctx.Err()
	}
	log.Error("a call failed", "procedure", procedure, "error", err)
	return connect.NewError(connect.CodeInternal, masked).WithCause(err)
}

// masked is all that a caller learns of an error that nobody worded for it.
const masked = "internal error; the server's log has the details"

func code(kind errs.Kind) connect.Code {
	switch kind {
	case errs.Invalid:
		return connect.CodeInvalidArgument
	case errs.NotFound:
		return connect.CodeNotFound
	case errs.Conflict:
		return connect.CodeFailedPrecondition
	case errs.Unavailable:
		return connect.CodeUnavailable
	}
	return connect.CodeInternal
}

// Mount serves the procedures on a mux behind a bearer token.
func Mount(mux *http.ServeMux, server *connect.Server, token string) {
	guarded := http.NewServeMux()
	connecthttp.Mount(guarded, server, connecthttp.WithReadMaxBytes(MaxMessage))
	mux.Handle("/", requireToken(token, guarded))
}

// requireToken compares hashes, so that the time taken tells nothing of the
// token.
func requireToken(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(token))
	refuse := connecthttp.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(given))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			err := connect.NewError(connect.CodeUnauthenticated, "LS-API-004: the bearer token is missing or wrong; it is in admin.token in the server's data directory")
			if refuse.IsSupported(r) {
				if err := refuse.Write(w, r, err); err == nil {
					return
				}
			}
			http.Error(w, fmt.Sprint(err), http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
