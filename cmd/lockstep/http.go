package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"sync/atomic"

	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	"github.com/lockstep-fleet/lockstep/proto/access"
)

// versionHeader is what a server answers every request with.
const versionHeader = "Lockstep-Version"

// front is an address that answers from the moment it is taken: at first only that
// the process lives and is starting, later what the server has.
type front struct {
	listener net.Listener
	handler  atomic.Pointer[http.Handler]
	stop     context.CancelFunc
	ended    chan error
}

// open takes an address for as long as the server lives.
func (s *server) open(address, flag string) (*front, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, errs.New(errs.Conflict, "LS-SRV-003", "listening on %s: %w; choose another address with %s", address, err, flag)
	}
	ctx, stop := context.WithCancel(context.Background())
	f := &front{listener: listener, stop: stop, ended: make(chan error, 1)}
	f.show(s.starting())
	go func() {
		defer close(f.ended)
		f.ended <- rpc.Serve(ctx, listener, http.HandlerFunc(f.serve), requestDrain, s.log)
	}()
	s.onClose(func() error { stop(); return <-f.ended })
	return f, nil
}

func (f *front) show(handler http.Handler) { f.handler.Store(&handler) }

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(versionHeader, version)
	(*f.handler.Load()).ServeHTTP(w, r)
}

func (f *front) url() string { return "http://" + f.listener.Addr().String() }

// role is the front's part in the order in which things stop.
func (f *front) role(name string) app.Role {
	return app.Role{Name: name, Run: func(ctx context.Context) error {
		select {
		case err := <-f.ended:
			return err
		case <-ctx.Done():
		}
		f.stop()
		return <-f.ended
	}}
}

// starting is what a front shows before there is more.
func (s *server) starting() http.Handler {
	mux := http.NewServeMux()
	alive(mux)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, "[-]%s: being opened\n", *s.opening.Load())
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, errStarting().Error(), http.StatusServiceUnavailable)
	})
	return mux
}

// served is the API, and to anyone whether the process lives and is ready.
func (s *server) served(api *rpc.Server) http.Handler {
	mux := http.NewServeMux()
	api.Mount(mux)
	s.health(mux)
	return mux
}

// administered is what operators' machines read, and profiles.
func (s *server) administered(metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	s.health(mux)
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// needs returns the least role that a procedure's contract names.
func needs(procedure string) (rpc.Role, bool) {
	role, known := access.RoleOf(procedure)
	return rpc.Role(role), known
}
