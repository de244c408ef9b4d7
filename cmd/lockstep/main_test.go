package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/adapters/chdb"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/obs"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
)

// TestMain makes the test's binary an engine child when the server under test
// starts it as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == engineCommandName {
		os.Exit(runChild(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func runChild(args []string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := chdb.Child(ctx, args, log); err != nil {
		log.Error("engine child failed", "error", err)
		return 1
	}
	return 0
}

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = time.Minute

// journal keeps what was logged and passes it on to the test's output.
type journal struct {
	pass slog.Handler

	mu      sync.Mutex
	entries []entry
	written chan struct{} // closed and replaced at every entry
}

type entry struct {
	level slog.Level
	text  string
	attrs map[string]string
}

func newJournal(t *testing.T) *journal {
	return &journal{pass: slog.NewTextHandler(t.Output(), nil), written: make(chan struct{})}
}

func (j *journal) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (j *journal) Handle(ctx context.Context, r slog.Record) error {
	e := entry{level: r.Level, text: r.Message, attrs: make(map[string]string)}
	r.Attrs(func(a slog.Attr) bool { e.attrs[a.Key] = a.Value.String(); return true })
	j.mu.Lock()
	j.entries = append(j.entries, e)
	close(j.written)
	j.written = make(chan struct{})
	j.mu.Unlock()
	return j.pass.Handle(ctx, r)
}

// WithAttrs and WithGroup keep no attributes: no test asks for them.
func (j *journal) WithAttrs([]slog.Attr) slog.Handler { return j }
func (j *journal) WithGroup(string) slog.Handler      { return j }

// with returns the entries with a message.
func (j *journal) with(text string) []entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []entry
	for _, e := range j.entries {
		if e.text == text {
			out = append(out, e)
		}
	}
	return out
}

// wait returns the nth entry with a message once it is there.
func (j *journal) wait(t *testing.T, text string, n int) entry {
	t.Helper()
	deadline := time.After(patience)
	for {
		j.mu.Lock()
		written := j.written
		j.mu.Unlock()
		if found := j.with(text); len(found) >= n {
			return found[n-1]
		}
		select {
		case <-written:
		case <-deadline:
			t.Fatalf("%q was not logged %d times", text, n)
		}
	}
}

// folder is a short one: the engine's socket is in it and its path is limited.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ls") //nolint:usetesting // t.TempDir holds the test's name and is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// options are a server of its own on a free port, without clusters.
func options(dir string) cli.ServerOptions {
	file := fleetfile.Default(func(string) string { return "" })
	file.Server.Listen, file.Server.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	file.Server.DataDir = config.Path(dir)
	return cli.ServerOptions{Config: file}
}

// with a vendor, one cluster is registered there.
func withVendor(t *testing.T, opts cli.ServerOptions, vendor *akeylesstest.Server) cli.ServerOptions {
	t.Helper()
	key := filepath.Join(string(opts.Config.Server.DataDir), "vendor.key")
	if err := os.WriteFile(key, []byte(akeylesstest.AccessKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts.Config.Vendor = &fleetfile.Vendor{
		URL: vendor.URL(), AccessID: akeylesstest.AccessID, AccessKeyFile: config.Path(key),
		PollInterval: 50 * time.Millisecond, SourceLag: time.Second,
	}
	opts.Config.Clusters = []fleetfile.Cluster{{ID: "berlin", VendorCluster: "acc-1/p-1/berlin"}}
	return opts
}

func newVendor(t *testing.T) *akeylesstest.Server {
	t.Helper()
	vendor, err := akeylesstest.NewServer(akeylesstest.Options{Dialect: akeylesstest.DialectInstances})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vendor.Close(); err != nil {
			t.Error(err)
		}
	})
	vendor.SetCluster(akeylesstest.Cluster{
		Name: "acc-1/p-1/berlin", LastReport: time.Now(),
		Instances: []akeylesstest.Instance{{ID: "bastion-1", Version: "3.1.0", LastReport: time.Now()}},
	})
	return vendor
}

// running is a server that runs in this process.
type running struct {
	t     *testing.T
	url   string
	admin string
	token string
	log   *journal
	// stop ends the server and gives the error it ended with.
	stop func() error
}

// start wires a server and runs it until it is ready.
func start(t *testing.T, opts cli.ServerOptions) *running {
	t.Helper()
	r := &running{t: t, log: newJournal(t)}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := wire(ctx, opts, journalled(t, r.log), time.Now())
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			return errors.New("the server did not stop")
		}
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	begun := r.log.wait(t, "starting", 1)
	r.url, r.admin = begun.attrs["listen"], begun.attrs["admin_listen"]
	r.log.wait(t, "ready", 1)
	token, err := os.ReadFile(opts.Config.Server.TokenFile())
	if err != nil {
		t.Fatal(err)
	}
	r.token = strings.TrimSpace(string(token))
	return r
}

// journalled is telemetry whose log is kept.
func journalled(t *testing.T, log *journal) *obs.Telemetry {
	t.Helper()
	tel := telemetry(t)
	tel.Log = slog.New(log)
	return tel
}

// get asks the API's address for a path without a token.
func (r *running) get(path string) (int, string) {
	r.t.Helper()
	return r.fetch(r.url + path)
}

func (r *running) fetch(url string) (int, string) {
	r.t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	res, err := client.Get(url)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

type bearer struct {
	token string
	next  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

// bastions asks the API for the registered bastions of all clusters.
func (r *running) bastions(token string) (string, error) {
	r.t.Helper()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := fleetv1connect.NewFleetServiceClient(connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: bearer{token, transport}}, r.url)))
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	res, err := client.ListClusters(ctx, &fleetv1.ListClustersRequest{})
	if err != nil {
		return "", err
	}
	var out []string
	for _, c := range res.GetClusters() {
		for _, b := range c.GetBastions() {
			out = append(out, fmt.Sprintf("%s/%s %s", c.GetId(), b.GetId(), b.GetVersion()))
		}
	}
	return strings.Join(out, ", "), nil
}

// waitBastions waits until the API knows of bastions.
func (r *running) waitBastions() string {
	r.t.Helper()
	return r.wait("no bastion appeared", func() (string, bool) {
		got, err := r.bastions(r.token)
		if err != nil {
			r.t.Fatal(err)
		}
		return got, got != ""
	})
}

// waitMetric waits until a metric is served, and returns all that are.
func (r *running) waitMetric(name string) string {
	r.t.Helper()
	return r.wait("no metric "+name+" appeared", func() (string, bool) {
		status, body := r.fetch(r.admin + "/metrics")
		if status != http.StatusOK {
			r.t.Fatalf("metrics: %d", status)
		}
		return body, strings.Contains(body, name)
	})
}

// wait looks until what is seen is right.
func (r *running) wait(failure string, look func() (string, bool)) string {
	r.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if seen, ok := look(); ok {
			return seen
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatal(failure)
		}
	}
}

// children lists the processes that this one started and that still run.
func children(t *testing.T) []string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("children cannot be listed: %v", err)
	}
	found := make(map[string]bool)
	for _, task := range tasks {
		// A thread may have ended since it was listed.
		if text, err := os.ReadFile(task); err == nil {
			for _, pid := range strings.Fields(string(text)) {
				found[pid] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// refused wires a server that must not come up and returns why.
func refused(t *testing.T, opts cli.ServerOptions) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := wire(ctx, opts, journalled(t, newJournal(t)), time.Now())
	if err == nil {
		t.Error(s.close())
		t.Fatal("the server came up")
	}
	return err.Error()
}

func mentions(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in: %s", word, text)
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}
