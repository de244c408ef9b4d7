package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/grpcreflect/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

// grpcClient is a client that load balancers use.
func grpcClient(t *testing.T, dial func(context.Context, string) (net.Conn, error)) health.HealthClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///server", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return health.NewHealthClient(conn)
}

func dialing(url string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
	}
}

// echoed is a method of a service with a schema; its messages do not matter here.
func echoed() connect.Method {
	return connect.Method{Spec: connect.Spec{
		StreamType: connect.StreamTypeUnary, Procedure: "/grpc.health.v1.Health/List",
		Schema: health.File_grpc_health_v1_health_proto.Services().ByName("Health").Methods().ByName("List"),
	}}
}

func TestHealthIsToldToAnyone(t *testing.T) {
	t.Parallel()
	starting := errors.New("the server is starting")
	var process, other atomic.Pointer[error]
	ask := func(p *atomic.Pointer[error]) func() error {
		return func() error {
			if err := p.Load(); err != nil {
				return *err
			}
			return nil
		}
	}
	process.Store(&starting)
	url, _ := serve(t, rpc.Options{Admit: ask(&process), Health: map[string]func() error{"": ask(&process), "test.v1.Other": ask(&other)}}, echoed())
	client := grpcClient(t, dialing(url))
	check := func(when, service string, want health.HealthCheckResponse_ServingStatus) {
		t.Helper()
		res, err := client.Check(t.Context(), &health.HealthCheckRequest{Service: service})
		if err != nil || res.GetStatus() != want {
			t.Errorf("%s, %q: %s, %v, want %s", when, service, res.GetStatus(), err, want)
		}
	}
	registered := "grpc.health.v1.Health"
	check("at the start", "", health.HealthCheckResponse_NOT_SERVING)
	check("at the start", registered, health.HealthCheckResponse_NOT_SERVING)
	check("at the start", "test.v1.Other", health.HealthCheckResponse_SERVING)
	process.Store(nil)
	other.Store(&starting)
	check("later", "", health.HealthCheckResponse_SERVING)
	check("later", registered, health.HealthCheckResponse_SERVING)
	check("later", "test.v1.Other", health.HealthCheckResponse_NOT_SERVING)
	if _, err := client.Check(t.Context(), &health.HealthCheckRequest{Service: "test.v1.None"}); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "LS-API-017") {
		t.Errorf("an unknown service: %v", err)
	}
}

func TestHealthSpeaksPlainHTTP(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{Health: map[string]func() error{"": func() error { return nil }}})
	res, err := http.Post(url+"/grpc.health.v1.Health/Check", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || strings.ReplaceAll(string(body), " ", "") != `{"status":"SERVING"}` {
		t.Errorf("%s %s %v", res.Status, body, err)
	}
}

func TestAWatchTellsEveryChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		p, _, _ := bubble(t, true, rpc.Options{Health: map[string]func() error{"": func() error {
			if down.Load() {
				return errors.New("down")
			}
			return nil
		}}})
		client := grpcClient(t, func(ctx context.Context, _ string) (net.Conn, error) { return p.dial(ctx, "", "") })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch := func(service string) func() health.HealthCheckResponse_ServingStatus {
			stream, err := client.Watch(ctx, &health.HealthCheckRequest{Service: service})
			if err != nil {
				t.Fatal(err)
			}
			return func() health.HealthCheckResponse_ServingStatus {
				res, err := stream.Recv()
				if err != nil {
					t.Fatal(err)
				}
				return res.GetStatus()
			}
		}
		next := watch("")
		for range 3 {
			for _, want := range []health.HealthCheckResponse_ServingStatus{health.HealthCheckResponse_SERVING, health.HealthCheckResponse_NOT_SERVING} {
				changed := time.Now()
				if got := next(); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				if took := time.Since(changed); took > 2*time.Second {
					t.Errorf("it took %s", took)
				}
				down.Store(!down.Load())
			}
		}
		if got := watch("test.v1.None")(); got != health.HealthCheckResponse_SERVICE_UNKNOWN {
			t.Errorf("an unknown service: %s", got)
		}
	})
}

func TestWatchesAreBounded(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{Health: map[string]func() error{"": func() error { return nil }}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(ctx context.Context, client health.HealthClient) error {
		stream, err := client.Watch(ctx, &health.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	one, other := grpcClient(t, dialing(url)), grpcClient(t, dialing(url))
	for i := range 100 {
		if err := open(ctx, one); err != nil {
			t.Fatalf("watch %d: %v", i, err)
		}
	}
	if err := open(t.Context(), other); status.Code(err) != codes.ResourceExhausted || !strings.Contains(fmt.Sprint(err), "LS-API-018") {
		t.Errorf("one too many: %v", err)
	}
	// Whoever leaves makes room.
	cancel()
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := open(t.Context(), other)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the others left: %v", err)
		}
	}
}

func TestReflectionIsForThoseWhoMayLook(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{Needs: func(string) (rpc.Role, bool) { return 0, false }}, echoed())
	stream := grpcreflect.NewClient(dialects()[1].client(t, url, "Bearer "+viewer)).NewStream(t.Context())
	names, err := stream.ListServices()
	if err != nil || !strings.Contains(fmt.Sprint(names), "grpc.health.v1.Health") {
		t.Errorf("%v, %v", names, err)
	}
	if files, err := stream.FileContainingSymbol("grpc.health.v1.HealthCheckRequest"); err != nil || len(files) == 0 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	stranger := grpcreflect.NewClient(dialects()[1].client(t, url, "")).NewStream(t.Context())
	_, err = stranger.ListServices()
	refused(t, "a stranger", err, connect.CodeUnauthenticated, "LS-API-004", "")
	_ = stranger.Close()
}
