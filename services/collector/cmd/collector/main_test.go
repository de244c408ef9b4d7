package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 30 * time.Second

func none(string) string { return "" }

// listen returns a listener on loopback that takes and drops connections.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// configure writes a configuration that probes one address.
func configure(t *testing.T, bus, probed string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "fleet.yaml")
	text := fmt.Sprintf(`server: {admin_listen: off, data_dir: data}
bus: {url: %q}
collector: {id: agent-oslo}
clusters:
  - id: oslo
    kubernetes: {kubeconfig: kubeconfig, namespace: akeyless}
    probes: [{name: port, type: tcp, address: %q, every: 1s}]
`, bus, probed)
	kubeconfig := `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}], users: [{name: u, user: {token: t}}]}`
	for name, content := range map[string]string{path: text, filepath.Join(dir, "kubeconfig"): kubeconfig} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// A collector that is started before its bus keeps what it sees and hands it in
// once the bus is there.
func TestCollectorHandsInToABusElsewhere(t *testing.T) {
	t.Parallel()
	reserved := listen(t)
	port := reserved.Addr().(*net.TCPAddr).Port
	if err := reserved.Close(); err != nil {
		t.Fatal(err)
	}
	path := configure(t, fmt.Sprintf("nats://127.0.0.1:%d", port), listen(t).Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"-config", path}, none, t.Output()) }()

	server, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	defer func() { server.Shutdown(); server.WaitForShutdown() }()
	if !server.ReadyForConnections(patience) {
		t.Fatal("the bus did not start")
	}
	events, err := natsbus.Open(natsbus.Options{InProcess: server, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if err := events.Ensure(t.Context(), topology.Streams(), nil, nil); err != nil {
		t.Fatal(err)
	}
	limited, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	enough := errors.New("enough")
	kinds := make(map[string]bool)
	err = events.Tail(limited, bus.Tail{Stream: topology.StreamObservations, Since: time.Unix(0, 0), Follow: true}, func(m bus.Message) error {
		var batch observationv1.Batch
		if err := proto.Unmarshal(m.Data, &batch); err != nil {
			return err
		}
		for _, o := range batch.GetObservations() {
			switch {
			case o.GetCheck().GetOk() && o.GetCheck().GetName() == "port" && batch.GetSource() == "agent-oslo-probe":
				kinds["probe"] = true
			case o.GetMark().GetBlind() && o.GetMark().GetAbout() == "inventory":
				// Its API server is not there, and it says so.
				kinds["blind"] = true
			}
		}
		if len(kinds) == 2 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("of the probe and the blind inventory there is %v: %v", kinds, err)
	}
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("asked to stop, it ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it did not stop")
	}
}

func TestReadinessTellsWhichRoleIsNot(t *testing.T) {
	t.Parallel()
	down := errors.New("the connection to the bus is down")
	for name, c := range map[string]struct {
		bus  error
		path string
		code int
		says string
	}{
		"ready":              {nil, "/readyz", http.StatusOK, "ok\n"},
		"ready, in detail":   {nil, "/readyz?verbose", http.StatusOK, "[+]collector\n[+]bus\nok\n"},
		"without a bus":      {down, "/readyz", http.StatusServiceUnavailable, "[-]bus: the connection to the bus is down\n"},
		"without, in detail": {down, "/readyz?verbose", http.StatusServiceUnavailable, "[+]collector\n[-]bus: the connection to the bus is down\n"},
		"alive without":      {down, "/livez", http.StatusOK, "ok\n"},
	} {
		mux := http.NewServeMux()
		health(mux, func() ([]app.State, bool) {
			state := app.State{Name: "bus", Ready: c.bus == nil}
			if c.bus != nil {
				state.Reason = c.bus.Error()
			}
			return []app.State{{Name: "collector", Ready: true}, state}, c.bus == nil
		})
		got := httptest.NewRecorder()
		mux.ServeHTTP(got, httptest.NewRequestWithContext(t.Context(), http.MethodGet, c.path, nil))
		if got.Code != c.code || got.Body.String() != c.says {
			t.Errorf("%s: %d %q, want %d %q", name, got.Code, got.Body.String(), c.code, c.says)
		}
	}
}

func TestWhatACollectorRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		is   func(error) bool
		says string
	}{
		"an argument":      {[]string{"extra"}, func(err error) bool { return errors.Is(err, errUsage) }, "takes no argument"},
		"an unknown flag":  {[]string{"-bogus"}, func(err error) bool { return errors.Is(err, errUsage) }, "-config"},
		"no bus":           {[]string{"-config", configure(t, "", "127.0.0.1:1")}, func(err error) bool { return errs.IDOf(err) == "LS-COL-020" }, ""},
		"no configuration": {[]string{"-config", "/nowhere/fleet.yaml"}, func(err error) bool { return err != nil }, ""},
		"the version":      {[]string{"-version"}, func(err error) bool { return err == nil }, "collector dev"},
	} {
		var out bytes.Buffer
		err := run(t.Context(), c.args, none, &out)
		if !c.is(err) || !strings.Contains(out.String(), c.says) {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}
