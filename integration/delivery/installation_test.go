//go:build integration

// Package delivery_test shows end to end that collectors lose nothing, and tell
// what they lose: the programs as they are shipped, killed, cut off and misled,
// against what is true at the vendor.
package delivery_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/integration/fakes/akeyless"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/topology"
)

// installation is a bus and a vendor with whoever uses them.
type installation struct {
	t      *testing.T
	bus    *program
	url    string // of the bus
	events *natsbus.Bus
	vendor *akeylesstest.Server
	truth  *truth
}

// install starts a bus with its streams, and a vendor that nothing has happened at.
func install(t *testing.T, o akeylesstest.Options) *installation {
	t.Helper()
	in := &installation{t: t, truth: newTruth()}
	var err error
	if in.vendor, err = akeylesstest.NewServer(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, violation := range in.vendor.Violations() {
			t.Errorf("the vendor was asked wrongly: %s", violation)
		}
		if err := in.vendor.Close(); err != nil {
			t.Error(err)
		}
	})
	dir, address := t.TempDir(), freeAddress(t)
	in.url = "nats://" + address
	in.bus = launch(t, dir, "labbus", "-dir", filepath.Join(dir, "bus"), "-listen", address)
	in.events, err = natsbus.Open(natsbus.Options{URL: in.url, Name: "test", Patient: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.events.Close)
	await(t, "the bus", func() string {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := in.events.Ensure(ctx, topology.Streams(), topology.KeyValues(), topology.Blobs()); err != nil {
			return err.Error()
		}
		return ""
	})
	return in
}

// freeAddress is one on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// configuration is what differs between the programs of an installation.
type configuration struct {
	ID       string
	Clusters []string
	// Vendor says that it reads sessions.
	Vendor bool
	// Lookback is how far back sessions are read at a start.
	Lookback time.Duration
	// Probed is where a tcp probe of the first cluster connects to; empty for none.
	Probed string
	// of the installation
	Dir, Listen, Admin, Bus, URL string
}

// fleetFile asks no cluster often: their API servers are not there, and what they
// run is not looked at here. The fake vendor lists a session at once; a machine at
// its limit does not.
var fleetFile = template.Must(template.New("fleet").Parse(`server: {listen: "{{.Listen}}", admin_listen: "{{.Admin}}", data_dir: "{{.Dir}}/data"}
bus: {url: "{{.Bus}}"}
collector: {id: {{.ID}}, spool_dir: "{{.Dir}}/spool", spool_mb: 16}
inventory: {poll_interval: 10m}
drift: {dark_after: 1h}
rollout: {lookback: {{.Lookback}}}
{{- if .Vendor}}
vendor: {url: "{{.URL}}", access_id: {{.AccessID}}, access_key_file: "{{.Dir}}/vendor.key", poll_interval: 500ms, source_lag: 3s}
{{- end}}
clusters:
{{- range $i, $id := .Clusters}}
  - id: {{$id}}
    {{- if $.Vendor}}
    vendor_cluster: {{$.AtVendor $id}}
    {{- end}}
    kubernetes: {kubeconfig: "{{$.Dir}}/kubeconfig", namespace: {{$id}}}
    {{- if and $.Probed (eq $i 0)}}
    probes: [{name: port, type: tcp, address: "{{$.Probed}}", every: 1s}]
    {{- end}}
{{- end}}
`))

const kubeconfig = `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}], users: [{name: u, user: {token: t}}]}`

// AccessID is the fake vendor's.
func (configuration) AccessID() string { return akeylesstest.AccessID }

// AtVendor is a cluster's name there.
func (configuration) AtVendor(id string) string { return "acc-lab/p-lab/" + id }

// scripted are clusters as akeyless.Uniform names them.
func scripted(n int) []string {
	var ids []string
	for _, c := range akeyless.Uniform(n, 1, akeyless.Pair{}) {
		ids = append(ids, c.Name[strings.LastIndex(c.Name, "/")+1:])
	}
	return ids
}

// write leaves the configuration in a folder of its own.
func (in *installation) write(c configuration) configuration {
	in.t.Helper()
	c.Dir, c.Listen, c.Admin, c.Bus, c.URL = in.t.TempDir(), freeAddress(in.t), freeAddress(in.t), in.url, in.vendor.URL()
	if c.Lookback == 0 {
		c.Lookback = time.Minute
	}
	var text strings.Builder
	if err := fleetFile.Execute(&text, c); err != nil {
		in.t.Fatal(err)
	}
	for name, content := range map[string]string{"fleet.yaml": text.String(), "kubeconfig": kubeconfig, "vendor.key": akeylesstest.AccessKey} {
		if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(content), 0o600); err != nil {
			in.t.Fatal(err)
		}
	}
	return c
}

// collector is a running one.
type collector struct {
	*program
	configuration
}

func (in *installation) collect(c configuration) *collector {
	in.t.Helper()
	c = in.write(c)
	return &collector{launch(in.t, c.Dir, "collector", "-config", filepath.Join(c.Dir, "fleet.yaml")), c}
}

// polls is how often sessions were read, and are on disk or on their way there.
func (c *collector) polls(t *testing.T) float64 {
	t.Helper()
	return c.metric(t, "lockstep_collector_polls_total", `kind="session"`, `outcome="ok"`)
}

// get asks for a page; 0 when nobody answers.
func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

// admin asks a program for a page of its own.
func (c configuration) admin(t *testing.T, path string) (status int, body string) {
	t.Helper()
	return get(t, "http://"+c.Admin+path)
}

func (c configuration) metrics(t *testing.T) string {
	t.Helper()
	_, body := c.admin(t, "/metrics")
	return body
}

// metric is the sum of a metric's series whose labels hold every word.
func (c configuration) metric(t *testing.T, name string, words ...string) float64 {
	t.Helper()
	sum := 0.0
	for line := range strings.Lines(c.metrics(t)) {
		if rest, ok := strings.CutPrefix(line, name); !ok || !strings.HasPrefix(rest, "{") && !strings.HasPrefix(rest, " ") {
			continue
		}
		holds := true
		for _, word := range words {
			holds = holds && strings.Contains(line, word)
		}
		var value float64
		if _, err := fmt.Sscan(line[strings.LastIndex(strings.TrimSpace(line), " ")+1:], &value); err == nil && holds {
			sum += value
		}
	}
	return sum
}

// play runs a script of the vendor along the clock until the returned function is
// called; what is open then stays as it is.
func (in *installation) play(script akeyless.Script) (f *akeyless.Fleet, stop func()) {
	in.t.Helper()
	script.Begin, script.Observe = time.Now(), in.truth.observe
	f, err := akeyless.New(in.vendor, script)
	if err != nil {
		in.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(in.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx, 50*time.Millisecond, time.Now) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			in.t.Error(err)
		}
	}
	in.t.Cleanup(stop)
	return f, stop
}
