package rpc

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// What one connection may take.
const (
	// headerTimeout bounds how long the headers of a request take to arrive,
	// requestTimeout the whole of it.
	headerTimeout  = 10 * time.Second
	requestTimeout = 20 * time.Second
	// answerTimeout bounds how long an answer takes to be made and to leave. Calls
	// have their own.
	answerTimeout = 90 * time.Second
	// idleTimeout is how long a connection is kept for the next request.
	idleTimeout = 2 * time.Minute
	// maxHeader bounds the headers of a request, in bytes.
	maxHeader = 64 << 10
	// maxStreams bounds the requests at one time on an HTTP/2 connection.
	maxStreams = 100
	// pingAfter is how long an HTTP/2 connection may be silent before it is asked
	// for a sign of life, pingTimeout how long that may take.
	pingAfter, pingTimeout = 30 * time.Second, 15 * time.Second
)

// Serve answers HTTP/1.1 and, without TLS, HTTP/2 on a listener until ctx ends.
// Then streams end at once, so that callers turn to another server, and requests
// under way have drain to end. It closes the listener.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, drain time.Duration, log *slog.Logger) error {
	lasting := context.WithoutCancel(ctx)
	stopping, endStreams := context.WithCancelCause(lasting)
	defer endStreams(nil)
	h := httpServer(handler, log)
	h.BaseContext = func(net.Listener) context.Context { return context.WithValue(lasting, stoppingKey{}, stopping) }
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	endStreams(errs.New(errs.Unavailable, "LS-API-013", "the server is stopping and ended the stream; connect again in a moment"))
	limit, cancel := context.WithTimeout(lasting, drain)
	defer cancel()
	if err := h.Shutdown(limit); err != nil {
		log.WarnContext(ctx, "requests were cut off", "after", drain)
		return h.Close()
	}
	return nil
}

func httpServer(handler http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: handler, Protocols: protocols,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		HTTP2:          &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		// What strangers send is no news.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// stoppingKey is where the context of a request keeps the one that ends when the
// server is to stop.
type stoppingKey struct{}

// whenStopping returns a context that ends, for the reason that Serve gives, when
// the server is to stop; then is called after that. After end, nothing is called
// any more.
func whenStopping(parent context.Context, then func()) (ctx context.Context, end func()) {
	stopping, ok := parent.Value(stoppingKey{}).(context.Context)
	if !ok {
		return parent, func() {}
	}
	ctx, cancel := context.WithCancelCause(parent)
	done := make(chan struct{})
	unhook := context.AfterFunc(stopping, func() {
		defer close(done)
		cancel(context.Cause(stopping))
		then()
	})
	return ctx, func() {
		if !unhook() {
			<-done
		}
		cancel(nil)
	}
}
