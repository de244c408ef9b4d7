package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

// serveHTTP serves the API and what machines ask of a process.
func (s *server) serveHTTP(ctx context.Context, listener net.Listener, api *connect.Server, token string, m *meters) error {
	mux := http.NewServeMux()
	rpc.Mount(mux, api, token)
	health(mux, s.app, m)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	// Streams end with the process: without this they would hold up its stop.
	base, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	h := &http.Server{
		Handler: mux, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		BaseContext: func(net.Listener) context.Context { return base },
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	endStreams()
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestDrain)
	defer cancel()
	if err := h.Shutdown(stopCtx); err != nil {
		s.log.Warn("requests were cut off", "after", requestDrain)
		return h.Close()
	}
	return nil
}
