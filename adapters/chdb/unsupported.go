//go:build !(linux && amd64)

package chdb

import (
	"context"
	"log/slog"
	"net"
)

// Child always fails on this platform.
func Child(context.Context, []string, *slog.Logger) error { return errUnsupported() }

// Serve always fails on this platform.
func Serve(context.Context, ServeOptions) error { return errUnsupported() }

// Engine does not exist on this platform: Start never returns one.
type Engine struct{}

// Start always fails on this platform.
func Start(context.Context, Options) (*Engine, error) { return nil, errUnsupported() }

// Socket is empty.
func (*Engine) Socket() string { return "" }

// PID is 0.
func (*Engine) PID() int { return 0 }

// Done never ends.
func (*Engine) Done() <-chan struct{} { return nil }

// Err says that this platform is not supported.
func (*Engine) Err() error { return errUnsupported() }

// Ready says that this platform is not supported.
func (*Engine) Ready(context.Context) error { return errUnsupported() }

// DialContext says that this platform is not supported.
func (*Engine) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errUnsupported()
}

// Stop has nothing to stop.
func (*Engine) Stop(context.Context) error { return nil }
