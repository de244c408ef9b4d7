package health_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/probe/health"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network leads addresses such as gateway:8080 to servers of a test; what it does
// not know is refused.
type network struct {
	mu    sync.Mutex
	at    map[string]string
	asked []string
}

func (n *network) dial(ctx context.Context, kind, address string) (net.Conn, error) {
	n.mu.Lock()
	at := n.at[address]
	n.asked = append(n.asked, address)
	n.mu.Unlock()
	if at == "" {
		return nil, &net.OpError{Op: "dial", Net: kind, Err: syscall.ECONNREFUSED}
	}
	return new(net.Dialer).DialContext(ctx, kind, at)
}

// move replaces what answers at the addresses and forgets what was asked.
func (n *network) move(at map[string]string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at, n.asked = at, nil
}

func (n *network) dialled() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(slices.Values(n.asked))
}

func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// serveTLS returns an address and a file with the authority of its certificate,
// which is for example.com.
func serveTLS(t *testing.T, handler http.Handler) (address, authority string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // plain requests to it are meant
	server.StartTLS()
	t.Cleanup(server.Close)
	authority = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(authority, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.Listener.Addr().String(), authority
}

func says(status int, kind, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func newHealth(t *testing.T, o health.Options) *health.Health {
	t.Helper()
	o.Cluster, o.Name = "berlin", "health"
	h, err := health.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// outcome is a check in one line.
func outcome(c fleet.Check) string {
	said := "ok"
	if !c.OK {
		said = string(c.Failure)
	}
	return fmt.Sprintf("%s %s %s %s: %s, %s", c.Name, c.Kind, c.Component, c.Target, said, c.Detail)
}

func outcomes(checks []fleet.Check) []string {
	var out []string
	for _, c := range checks {
		out = append(out, outcome(c))
	}
	return out
}

func TestTheUsualEndpoints(t *testing.T) {
	t.Parallel()
	gateway := http.NewServeMux()
	gateway.Handle("/health", says(200, "application/json", `{"ok":true}`))
	gateway.Handle("/status", says(503, "text/plain", "no route to\n the vendor"))
	ssh := http.NewServeMux()
	ssh.Handle("/status", says(200, "text/plain", "OK"))
	n := &network{at: map[string]string{
		"gateway:8080": serve(t, gateway), "bastion:9900": serve(t, ssh), "bastion:8888": serve(t, http.NotFoundHandler()),
	}}
	got := newHealth(t, health.Options{
		Endpoints: []health.Endpoint{
			{fleet.Gateway, "gateway"}, {fleet.SRASSH, "bastion"}, {fleet.SRAWeb, "bastion"}, {fleet.Worker, "worker"},
		},
		Dial: n.dial,
	}).Check(t.Context())
	want := []string{
		"health/gateway/health endpoint gateway http://gateway:8080/health: ok, HTTP 200",
		"health/gateway/status endpoint gateway http://gateway:8080/status: http_status, HTTP 503, expected 200 to 299: no route to the vendor",
		"health/sra-ssh/status endpoint sra-ssh http://bastion:9900/status: ok, HTTP 200",
		"health/sra-web endpoint sra-web bastion:8888: ok, connected",
		"health/worker/healthy endpoint worker http://worker:9090/healthy: refused, connecting: dial tcp: connection refused",
	}
	if diff := cmp.Diff(want, outcomes(got)); diff != "" {
		t.Error(diff)
	}
	for _, c := range got {
		if c.Cluster != "berlin" || c.At.IsZero() || c.Took < 0 {
			t.Errorf("got %+v", c)
		}
	}
}

func TestWhatIsNoHealth(t *testing.T) {
	t.Parallel()
	const login = "\n<!DOCTYPE html><html><title>Sign in</title></html>"
	moved := http.NewServeMux()
	moved.Handle("/up", http.RedirectHandler("/fine", http.StatusFound))
	moved.Handle("/fine", says(200, "text/plain", "OK"))
	for name, c := range map[string]struct {
		answer  http.Handler
		failure fleet.Failure
	}{
		"empty":                  {says(204, "", ""), ""},
		"a login page":           {says(200, "text/html; charset=utf-8", login), fleet.FailureContent},
		"a page by another name": {says(200, "text/plain", login), fleet.FailureContent},
		"an html of old":         {says(200, "application/json", "<HTML>"), fleet.FailureContent},
		"text about html":        {says(200, "text/plain", "no <html> here"), ""},
		"a redirect":             {moved, fleet.FailureHTTPStatus},
		"not there":              {http.NotFoundHandler(), fleet.FailureHTTPStatus},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHealth(t, health.Options{Endpoints: []health.Endpoint{{fleet.Dispatcher, "http://" + serve(t, c.answer) + "/up"}}})
			got := h.Check(t.Context())
			if len(got) != 1 || got[0].Failure != c.failure || got[0].OK != (c.failure == "") || got[0].Name != "health/dispatcher/up" {
				t.Errorf("got %+v, want failure %q", got, c.failure)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		component fleet.Component
		address   string
		want      string // targets, or the error's id
	}{
		{fleet.Gateway, "gw", "http://gw:8080/health http://gw:8080/status"},
		{fleet.Gateway, "gw:80", "http://gw:80/health http://gw:80/status"},
		{fleet.Gateway, "https://gw", "https://gw/health https://gw/status"},
		{fleet.Gateway, "https://gw/", "https://gw/health https://gw/status"},
		{fleet.Gateway, "https://gw/live", "https://gw/live"},
		{fleet.Gateway, "tcp://gw:8080", "gw:8080"},
		{fleet.Gateway, "[2001:db8::7]", "http://[2001:db8::7]:8080/health http://[2001:db8::7]:8080/status"},
		{fleet.Gateway, "2001:db8::7", "http://[2001:db8::7]:8080/health http://[2001:db8::7]:8080/status"},
		{fleet.SRAWeb, "web", "web:8888"},
		{fleet.SRAWeb, "web:88", "web:88"},
		{fleet.SRAWeb, "http://web/up", "http://web/up"},
		{fleet.Dispatcher, "tcp://d:9000", "d:9000"},
		{fleet.Dispatcher, "http://d:9000/up", "http://d:9000/up"},
		{fleet.Dispatcher, "d", "LS-PRB-008"},
		{fleet.Dispatcher, "http://d", "LS-PRB-008"},
		{fleet.SRAWeb, "http://web", "LS-PRB-008"},
		{fleet.SRAWeb, "tcp://web", "LS-PRB-008"},
		{fleet.Gateway, "tcp://gw:0", "LS-PRB-008"},
		{fleet.Gateway, "tcp://gw:80/x", "LS-PRB-008"},
		{fleet.Gateway, "", "LS-PRB-008"},
		{fleet.Gateway, "gw/live", "LS-PRB-008"},
		{fleet.Gateway, "ftp://gw/live", "LS-PRB-008"},
		{fleet.Gateway, "http://me:hush@gw", "LS-PRB-008"},
		{fleet.Gateway, "http://gw/x?key=hush", "LS-PRB-008"},
		{"", "http://gw/x", "LS-PRB-008"},
	} {
		n := &network{}
		h, err := health.New(health.Options{
			Cluster: "berlin", Name: "health", Endpoints: []health.Endpoint{{c.component, c.address}}, Dial: n.dial,
		})
		got := errs.IDOf(err)
		if err == nil {
			var targets []string
			for _, check := range h.Check(t.Context()) {
				targets = append(targets, check.Target)
			}
			got = strings.Join(targets, " ")
		} else if strings.Contains(err.Error(), "hush") {
			t.Errorf("%s repeats a secret", err)
		}
		if got != c.want {
			t.Errorf("%s at %q: got %q (%v), want %q", c.component, c.address, got, err, c.want)
		}
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id     string
		change func(*health.Options)
	}{
		"no name":             {"LS-PRB-007", func(o *health.Options) { o.Name = "" }},
		"no cluster":          {"LS-PRB-007", func(o *health.Options) { o.Cluster = "" }},
		"time runs back":      {"LS-PRB-007", func(o *health.Options) { o.Timeout = -1 }},
		"nothing to see":      {"LS-PRB-008", func(o *health.Options) { o.Metrics = "" }},
		"one name twice":      {"LS-PRB-008", func(o *health.Options) { o.Endpoints = []health.Endpoint{{fleet.SRASSH, "a"}, {fleet.SRASSH, "b"}} }},
		"metrics nowhere":     {"LS-PRB-008", func(o *health.Options) { o.Metrics = "gateway:8889" }},
		"metrics of a user":   {"LS-PRB-008", func(o *health.Options) { o.Metrics = "http://me:hush@gateway" }},
		"metrics by a file":   {"LS-PRB-008", func(o *health.Options) { o.Metrics = "file:///metrics" }},
		"metrics with a path": {"LS-PRB-008", func(o *health.Options) { o.Metrics = "gateway/metrics" }},
		"no such authorities": {"LS-PRB-006", func(o *health.Options) { o.TLS.CAFile = filepath.Join(t.TempDir(), "none") }},
	} {
		o := health.Options{Cluster: "berlin", Name: "health", Metrics: "gateway"}
		c.change(&o)
		if _, err := health.New(o); errs.IDOf(err) != c.id || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: got %v, want %s", name, err, c.id)
		}
	}
}

const old = `# HELP akeyless.gw.quota.current_transactions_number how many
# TYPE akeyless.gw.quota.current_transactions_number gauge
akeyless.gw.quota.current_transactions_number{service.name="gw",cluster="b{e}r,l=in"} 40
akeyless.gw.quota.current_transactions_number{cluster="paris"} 2 1700000000000
akeyless.gw.system.healthcheck 1
`

const young = `# TYPE akeyless_gw_quota_current_transactions_number gauge
akeyless_gw_quota_current_transactions_number{cluster="berlin"} 40
akeyless_gw_quota_current_transactions_number{cluster="paris"} 2
akeyless_gw_system_healthcheck 1
`

func both(age float64) map[string]float64 {
	return map[string]float64{"generation": age, "gw_quota_current_transactions_number": 42, "gw_system_healthcheck": 1}
}

// metricsOf is the one check, of the metrics.
func metricsOf(t *testing.T, h *health.Health) fleet.Check {
	t.Helper()
	got := h.Check(t.Context())
	if len(got) != 1 || got[0].Kind != fleet.CheckMetrics || got[0].Component != fleet.Gateway || got[0].Name != "health/metrics" || got[0].At.IsZero() {
		t.Fatalf("got %+v", got)
	}
	return got[0]
}

func TestMetricsAreFoundWhereverAGenerationTellsThem(t *testing.T) {
	t.Parallel()
	four := serve(t, says(200, "text/plain", old))
	five := serve(t, says(200, "text/plain", young))
	secure, authority := serveTLS(t, says(200, "text/plain", young))
	n := &network{at: map[string]string{"gateway:8889": four}}
	h := newHealth(t, health.Options{Metrics: "gateway", Dial: n.dial, TLS: health.TLS{CAFile: authority, ServerName: "example.com"}})
	step := func(at map[string]string, target string, age float64, dialled ...string) {
		t.Helper()
		n.move(at)
		got := metricsOf(t, h)
		if !got.OK || got.Target != target {
			t.Fatalf("got %s", outcome(got))
		}
		if diff := cmp.Diff(both(age), got.Readings); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(dialled, n.dialled()); diff != "" {
			t.Errorf("dialled (-want +got):\n%s", diff)
		}
	}
	step(map[string]string{"gateway:8889": four}, "http://gateway:8889/metrics", 4, "gateway:8000", "gateway:8000", "gateway:8889")
	step(map[string]string{"gateway:8889": four}, "http://gateway:8889/metrics", 4, "gateway:8889")
	// The upgrade, with the old place gone, and with something else there.
	step(map[string]string{"gateway:8000": five}, "http://gateway:8000/metrics", 5, "gateway:8000", "gateway:8000", "gateway:8889")
	step(map[string]string{"gateway:8000": five}, "http://gateway:8000/metrics", 5, "gateway:8000")
	step(map[string]string{"gateway:8000": secure, "gateway:8889": serve(t, http.NotFoundHandler())}, "https://gateway:8000/metrics", 5, "gateway:8000", "gateway:8000", "gateway:8889")
	// And back.
	step(map[string]string{"gateway:8889": four}, "http://gateway:8889/metrics", 4, "gateway:8000", "gateway:8000", "gateway:8889")
	if t.Failed() {
		return
	}
	n.move(nil)
	got := metricsOf(t, h)
	if got.OK || got.Failure != fleet.FailureRefused || got.Target != "http://gateway:8889/metrics" || got.Readings != nil {
		t.Errorf("nothing answers: got %s %v", outcome(got), got.Readings)
	}
	n.move(map[string]string{"gateway:8000": serve(t, says(200, "text/html", "<html>"))})
	if got := metricsOf(t, h); got.Failure != fleet.FailureContent || got.Target != "http://gateway:8000/metrics" {
		t.Errorf("a login page answers: got %s", outcome(got))
	}
}

// pipes is a listener in memory, for connections in a bubble of synctest.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if conn, ok := <-p; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A place that is gone need not refuse: behind a firewall it never answers.
func TestAPlaceThatFellSilentLeavesTimeForTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var answers atomic.Value
		answers.Store("gateway:8889")
		listener := make(pipes)
		server := &http.Server{Handler: says(200, "text/plain", young)}
		defer server.Close()
		go func() { _ = server.Serve(listener) }()
		h := newHealth(t, health.Options{
			Metrics: "gateway", Timeout: 10 * time.Second,
			Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
				if address != answers.Load() {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				near, far := net.Pipe()
				listener <- far
				return near, nil
			},
		})
		found := func(target string, age float64, took time.Duration) {
			t.Helper()
			if got := metricsOf(t, h); !got.OK || got.Target != target || got.Readings["generation"] != age || got.Took != took {
				t.Errorf("got %s after %s, want %s after %s", outcome(got), got.Took, target, took)
			}
		}
		found("http://gateway:8889/metrics", 4, 10*time.Second) // the other place was waited for
		found("http://gateway:8889/metrics", 4, 0)
		answers.Store("gateway:8000")
		found("http://gateway:8000/metrics", 5, 5*time.Second)
		found("http://gateway:8000/metrics", 5, 0)
		answers.Store("none")
		got := metricsOf(t, h)
		if got.Failure != fleet.FailureTimeout || got.Took != 10*time.Second || got.Detail != "no answer in time, connecting" {
			t.Errorf("got %s after %s", outcome(got), got.Took)
		}
	})
}

func TestAllIsAskedSideBySideAndInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHealth(t, health.Options{
			Endpoints: []health.Endpoint{{fleet.Gateway, "gw"}, {fleet.SRASSH, "ssh"}, {fleet.SRAWeb, "web"}},
			Metrics:   "gw", Timeout: 5 * time.Second,
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		})
		begun := time.Now()
		got := h.Check(t.Context())
		if took := time.Since(begun); took != 5*time.Second || len(got) != 5 {
			t.Errorf("%d checks took %s", len(got), took)
		}
		for _, c := range got {
			if c.Failure != fleet.FailureTimeout || c.Took != 5*time.Second {
				t.Errorf("%s after %s", outcome(c), c.Took)
			}
		}
	})
}

func TestMetricsThatCannotBeTaken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer http.Handler
		detail string
	}{
		"another's":  {says(200, "text/plain", "go_goroutines 7\n"), "no metric of the gateway"},
		"none":       {says(200, "text/plain", ""), "no metric of the gateway"},
		"broken":     {says(200, "text/plain", "go_odd{ 1\nakeyless_gw_x{a=\"b} 1\n"), "line 2"},
		"no numbers": {says(200, "text/plain", "akeyless_gw_x many\n"), "line 1"},
		"too large":  {says(200, "text/plain", strings.Repeat("akeyless_gw_x 1\n", 600_000)), "larger than 8 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := metricsOf(t, newHealth(t, health.Options{Metrics: "http://" + serve(t, c.answer)}))
			if got.OK || got.Failure != fleet.FailureContent || !strings.Contains(got.Detail, c.detail) || got.Readings != nil {
				t.Errorf("got %s %v, want %q", outcome(got), got.Readings, c.detail)
			}
		})
	}
}

func TestReadingsAreFew(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	for i := range 250 {
		fmt.Fprintf(&text, "akeyless_gw_m%03d 1\n", i)
	}
	got := metricsOf(t, newHealth(t, health.Options{Metrics: "http://" + serve(t, says(200, "text/plain", text.String())) + "/"}))
	if !got.OK || got.Detail != "generation 5, the first 99 of 250 metrics" || !strings.HasSuffix(got.Target, "/metrics") {
		t.Errorf("got %s", outcome(got))
	}
	names := slices.Sorted(maps.Keys(got.Readings))
	if len(names) != 100 || names[0] != "generation" || names[99] != "gw_m098" {
		t.Errorf("got %d readings, %v", len(names), names)
	}
}
