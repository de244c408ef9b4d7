package rpc

import (
	"context"
	"maps"
	"sync/atomic"
	"time"

	"connectrpc.com/connect/v2"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	healthService = "grpc.health.v1.Health"
	// healthBeat is how often a watched service is looked at.
	healthBeat = time.Second
	// maxWatchers bounds the watches at one time: anyone may open one.
	maxWatchers = 100
)

// health serves the gRPC health protocol, version 1. It needs no token and no
// admission, because who spreads the load must learn that a server is starting.
func (s *Server) health() *connect.Server {
	h := &healthHandler{ready: s.readiness()}
	methods := health.File_grpc_health_v1_health_proto.Services().ByName("Health").Methods()
	server := connect.NewServer(s.outcome, s.reading)
	server.Register(
		connect.Method{Spec: healthSpec(methods.ByName("Check"), connect.StreamTypeUnary), Handler: h.check},
		connect.Method{Spec: healthSpec(methods.ByName("Watch"), connect.StreamTypeServer), Handler: h.watch},
	)
	return server
}

func healthSpec(method protoreflect.MethodDescriptor, kind connect.StreamType) connect.Spec {
	return connect.Spec{StreamType: kind, Schema: method, Procedure: "/" + healthService + "/" + string(method.Name())}
}

// readiness is what says of each service why it is not ready. A registered
// service without a word of its own is as ready as the process.
func (s *Server) readiness() map[string]func() error {
	ready := maps.Clone(s.ready)
	process, ok := ready[""]
	if !ok {
		return ready
	}
	for spec := range s.Specs() {
		if method, ok := spec.Schema.(protoreflect.MethodDescriptor); ok {
			name := string(method.Parent().FullName())
			if _, named := ready[name]; !named {
				ready[name] = process
			}
		}
	}
	return ready
}

type healthHandler struct {
	ready    map[string]func() error
	watchers atomic.Int64
}

func (h *healthHandler) status(service string) health.HealthCheckResponse_ServingStatus {
	ready, ok := h.ready[service]
	switch {
	case !ok:
		return health.HealthCheckResponse_SERVICE_UNKNOWN
	case ready() != nil:
		return health.HealthCheckResponse_NOT_SERVING
	}
	return health.HealthCheckResponse_SERVING
}

func (h *healthHandler) check(_ context.Context, _ connect.Spec, stream connect.ServerStream) error {
	var req health.HealthCheckRequest
	if err := stream.Receive(&req); err != nil {
		return err
	}
	status := h.status(req.GetService())
	if status == health.HealthCheckResponse_SERVICE_UNKNOWN {
		return errs.New(errs.NotFound, "LS-API-017", "this server has no service %q; ask for \"\" to learn of the process", req.GetService())
	}
	return stream.Send(&health.HealthCheckResponse{Status: status})
}

// watch tells the status of a service now and whenever it changes. A service that
// is unknown is told as such, and watched as any other.
func (h *healthHandler) watch(ctx context.Context, _ connect.Spec, stream connect.ServerStream) error {
	if h.watchers.Add(1) > maxWatchers {
		h.watchers.Add(-1)
		return errs.New(errs.Exhausted, "LS-API-018", "health is watched %d times already; watch once for each process, or ask with Check", maxWatchers)
	}
	defer h.watchers.Add(-1)
	var req health.HealthCheckRequest
	if err := stream.Receive(&req); err != nil {
		return err
	}
	beat := time.NewTicker(healthBeat)
	defer beat.Stop()
	told := health.HealthCheckResponse_ServingStatus(-1)
	for {
		if status := h.status(req.GetService()); status != told {
			if err := stream.Send(&health.HealthCheckResponse{Status: status}); err != nil {
				return err
			}
			told = status
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-beat.C:
		}
	}
}
