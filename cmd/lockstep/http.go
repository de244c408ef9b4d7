package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"

	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	"github.com/lockstep-fleet/lockstep/proto/access"
)

// versionHeader is what a server answers every request with.
const versionHeader = "Lockstep-Version"

func versioned(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(versionHeader, version)
		next.ServeHTTP(w, r)
	})
}

// apiRole serves the API, and to anyone whether the process lives and is ready.
func (s *server) apiRole(listener net.Listener, api *rpc.Server) app.Role {
	mux := http.NewServeMux()
	api.Mount(mux)
	s.health(mux)
	return s.serveRole("api", listener, mux)
}

// adminRole serves what operators' machines read, and profiles.
func (s *server) adminRole(listener net.Listener, metrics http.Handler) app.Role {
	mux := http.NewServeMux()
	s.health(mux)
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return s.serveRole("admin", listener, mux)
}

func (s *server) serveRole(name string, listener net.Listener, handler http.Handler) app.Role {
	return app.Role{Name: name, Run: func(ctx context.Context) error {
		return rpc.Serve(ctx, listener, versioned(handler), requestDrain, s.log)
	}}
}

// listen takes an address for as long as the server lives.
func (s *server) listen(address, flag string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, errs.New(errs.Conflict, "LS-SRV-003", "listening on %s: %w; choose another address with %s", address, err, flag)
	}
	s.onClose(func() error {
		// A role that served has closed it already.
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return listener, nil
}

// needs returns the least role that a procedure's contract names.
func needs(procedure string) (rpc.Role, bool) {
	role, known := access.RoleOf(procedure)
	return rpc.Role(role), known
}
