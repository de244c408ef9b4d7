package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// The tests of a whole server do not run beside others: they look at the
// goroutines and children of this process.

func TestAServerLives(t *testing.T) {
	before := goleak.IgnoreCurrent()
	dir := folder(t)
	vendor, err := akeylesstest.NewServer(akeylesstest.Options{Dialect: akeylesstest.DialectInstances})
	if err != nil {
		t.Fatal(err)
	}
	vendor.SetCluster(akeylesstest.Cluster{
		Name: "acc-1/p-1/berlin", LastReport: time.Now(),
		Instances: []akeylesstest.Instance{{ID: "bastion-1", Version: "3.1.0", LastReport: time.Now()}},
	})
	opts := withVendor(t, options(dir), vendor)
	r := start(t, opts)

	t.Run("it says that it is alive and ready", func(t *testing.T) {
		for _, path := range []string{"/livez", "/healthz", "/readyz"} {
			if status, body := r.get(path); status != http.StatusOK || body != "ok\n" {
				t.Errorf("%s: %d %q", path, status, body)
			}
		}
		want := "[+]api\n[+]admin\n[+]store\n[+]bus\n[+]fleet\n[+]evaluator\n[+]executor\n[+]notifier\n[+]collector\nok\n"
		if status, body := r.get("/readyz?verbose"); status != http.StatusOK || body != want {
			t.Errorf("verbose: %d %q", status, body)
		}
	})
	t.Run("the API wants the token", func(t *testing.T) {
		if got := r.waitBastions(); got != "berlin/bastion-1 3.1.0" {
			t.Errorf("bastions: %s", got)
		}
		for _, token := range []string{"", "wrong"} {
			if _, err := r.bastions(token); connect.CodeOf(err) != connect.CodeUnauthenticated {
				t.Errorf("token %q: %v", token, err)
			}
		}
	})
	t.Run("it counts", func(t *testing.T) {
		if status, _ := r.get("/metrics"); status != http.StatusUnauthorized {
			t.Errorf("the API's address shows metrics to anyone: %d", status)
		}
		for _, path := range []string{"/livez", "/readyz", "/debug/pprof/"} {
			if status, body := r.fetch(r.admin + path); status != http.StatusOK || body == "" {
				t.Errorf("admin %s: %d %q", path, status, body)
			}
		}
		// A decision counts once its rows are stored, which may be after it was told.
		body := r.waitMetric("lockstep_evaluator_decision_latency_seconds_count")
		mentions(t, body, `lockstep_collector_polls_total{kind="session",outcome="ok"}`, `lockstep_evaluator_observations_total{kind="registration"}`,
			"go_goroutines", "process_open_fds")
		if strings.Contains(body, "berlin") {
			t.Error("the metrics name a cluster")
		}
	})
	t.Run("a second server on its folder is refused", func(t *testing.T) {
		mentions(t, refused(t, options(dir)), dir, fmt.Sprintf("process %d;", os.Getpid()), "--data-dir")
	})
	t.Run("it leaves nothing behind", func(t *testing.T) {
		if len(children(t)) == 0 {
			t.Fatal("the engine's child is not to be seen, so its end cannot be either")
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if err := vendor.Close(); err != nil {
			t.Fatal(err)
		}
		if left := children(t); len(left) > 0 {
			t.Errorf("children still run: %v", left)
		}
		if err := goleak.Find(before, goleak.IgnoreAnyFunction("testing.tRunner")); err != nil {
			t.Error(err)
		}
		if _, err := net.DialTimeout("tcp", strings.TrimPrefix(r.url, "http://"), time.Second); err == nil {
			t.Error("its port is still open")
		}
	})
	t.Run("started again it finds its data", func(t *testing.T) {
		// The vendor is gone, so what it said comes from the disk.
		again := start(t, opts)
		if again.token != r.token {
			t.Errorf("the token changed from %s to %s", r.token, again.token)
		}
		if got, err := again.bastions(again.token); err != nil || got != "berlin/bastion-1 3.1.0" {
			t.Errorf("bastions: %s, %v", got, err)
		}
	})
}

func TestAVendorInTroubleIsToldOnceAndOutlasted(t *testing.T) {
	vendor := newVendor(t)
	vendor.SetDown(true)
	r := start(t, withVendor(t, options(folder(t)), vendor))
	const lost, found = "a source cannot be read; it is asked again", "a source can be read again"
	polls := func() int { return vendor.Requests()["auth"] + vendor.Requests()["list-sra-bastions"] }
	more := func(n int) {
		t.Helper()
		deadline := time.After(patience)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for want := polls() + n; polls() < want; {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatal("the vendor is not asked any more")
			}
		}
	}

	// Sessions and bastions are read apart, and each tells its own trouble.
	const sources = 2
	down := r.log.wait(t, lost, sources)
	mentions(t, down.attrs["error"], vendor.URL(), "check the address, DNS, the proxy settings and the network")
	if down.level != slog.LevelError || down.attrs["source"] != "sessions" && down.attrs["source"] != "registrations" {
		t.Errorf("got %+v", down)
	}
	if status, _ := r.get("/readyz"); status != http.StatusOK {
		t.Errorf("the server is not ready because the vendor is not: %d", status)
	}
	// A proxy answers in the vendor's place: still the same trouble.
	vendor.RespondHTML(1 << 30)
	vendor.SetDown(false)
	more(3)
	if n := len(r.log.with(lost)); n != sources {
		t.Errorf("the trouble was told %d times", n)
	}
	vendor.RespondHTML(0)
	r.log.wait(t, found, sources)
	if got := r.waitBastions(); got != "berlin/bastion-1 3.1.0" {
		t.Errorf("bastions: %s", got)
	}
	vendor.RespondHTML(1 << 30)
	html := r.log.wait(t, lost, 2*sources)
	mentions(t, html.attrs["error"], vendor.URL(), "a proxy or load balancer may have answered", "check the base URL")
	vendor.RespondHTML(0)
	r.log.wait(t, found, 2*sources)
}

func TestARequestThatHangsDoesNotHoldUpTheStop(t *testing.T) {
	r := start(t, options(folder(t)))
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The rest of this request never comes.
	if _, err := fmt.Fprintf(conn, "POST /lockstep.fleet.v1.FleetService/ListClusters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", r.token); err != nil {
		t.Fatal(err)
	}
	// The server has begun to read it once it asks for the body.
	if _, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 100"))); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("stopping: %v", err)
	}
	if took := time.Since(began); took > requestDrain+10*time.Second {
		t.Errorf("stopping took %s", took)
	}
	r.log.wait(t, "requests were cut off", 1)
}

func TestWhatKeepsAServerFromStarting(t *testing.T) {
	t.Parallel()
	t.Run("its port is taken", func(t *testing.T) {
		t.Parallel()
		opts := options(folder(t))
		opts.Config.Server.Listen = listen(t).Addr().String()
		mentions(t, refused(t, opts), opts.Config.Server.Listen, "address already in use", "--listen")
	})
	t.Run("its address is none", func(t *testing.T) {
		t.Parallel()
		opts := options(folder(t))
		opts.Config.Server.Listen = "no-port"
		mentions(t, refused(t, opts), "no-port", "--listen")
	})
	t.Run("its folder cannot be made", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		mentions(t, refused(t, options(filepath.Join(file, "data"))), file, "--data-dir")
	})
	t.Run("its folder cannot be written", func(t *testing.T) {
		t.Parallel()
		// Not even root makes files there.
		mentions(t, refused(t, options("/proc/self")), "/proc/self", "--data-dir")
	})
	t.Run("the vendor's key file is missing", func(t *testing.T) {
		t.Parallel()
		dir := folder(t)
		opts := options(dir)
		opts.Config.Vendor = &fleetfile.Vendor{URL: "https://127.0.0.1:1", AccessID: "p-1", AccessKeyFile: config.Path(filepath.Join(dir, "no.key"))}
		mentions(t, refused(t, opts), "vendor.access_key_file", filepath.Join(dir, "no.key"), "no such file")
		if _, err := os.Stat(filepath.Join(dir, "store")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the engine was started before the configuration was looked at: %v", err)
		}
	})
	t.Run("the vendor's key file is empty", func(t *testing.T) {
		t.Parallel()
		opts := options(folder(t))
		opts.Config.Vendor = &fleetfile.Vendor{URL: "https://127.0.0.1:1", AccessID: "p-1", AccessKeyFile: os.DevNull}
		mentions(t, refused(t, opts), os.DevNull, "is empty")
	})
	t.Run("a webhook's secret file is missing", func(t *testing.T) {
		t.Parallel()
		dir := folder(t)
		opts := options(dir)
		opts.Config.Notify.Webhooks = []fleetfile.Webhook{{Name: "ops", URL: "https://127.0.0.1:1", SecretFile: config.Path(filepath.Join(dir, "no.secret"))}}
		mentions(t, refused(t, opts), "webhook ops", "secret_file", filepath.Join(dir, "no.secret"))
	})
	t.Run("no ClickHouse listens", func(t *testing.T) {
		t.Parallel()
		l := listen(t)
		address := l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		opts := options(folder(t))
		opts.ClickHouse = "clickhouse://user:hunter2@" + address + "/lockstep"
		text := refused(t, opts)
		mentions(t, text, address, "connection refused", "--clickhouse")
		if strings.Contains(text, "hunter2") {
			t.Errorf("the password is told: %s", text)
		}
	})
	t.Run("something silent is taken for a ClickHouse", func(t *testing.T) {
		t.Parallel()
		opts := options(folder(t))
		address := listen(t).Addr().String()
		opts.ClickHouse = "http://" + address
		began := time.Now()
		mentions(t, refused(t, opts), address, "--clickhouse")
		if took := time.Since(began); took > storeLimit+5*time.Second {
			t.Errorf("it took %s", took)
		}
	})
	t.Run("the ClickHouse DSN is none", func(t *testing.T) {
		t.Parallel()
		opts := options(folder(t))
		opts.ClickHouse = "clickhouse://user:hunter2@host:no-port/x"
		text := refused(t, opts)
		mentions(t, text, "DSN", "--clickhouse")
		if strings.Contains(text, "hunter2") {
			t.Errorf("the password is told: %s", text)
		}
	})
	t.Run("its token file is empty", func(t *testing.T) {
		t.Parallel()
		dir := folder(t)
		if err := os.WriteFile(filepath.Join(dir, "admin.token"), []byte(" \n"), 0o600); err != nil {
			t.Fatal(err)
		}
		mentions(t, refused(t, options(dir)), filepath.Join(dir, "admin.token"), "is empty", "remove it")
	})
}

func TestAFailedStartGivesEverythingBack(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	l := listen(t)
	opts := options(dir)
	opts.Config.Server.Listen = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	opts.ClickHouse = "clickhouse://127.0.0.1:1"
	// The second try would name the first one's lock or port.
	for range 2 {
		mentions(t, refused(t, opts), "127.0.0.1:1", "connection refused")
	}
}

func TestTheTokenIsMadeOnceForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "admin.token")
	first, err := adminToken(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(first, "lst_") || len(first) < 24 {
		t.Errorf("a weak token: %s", first)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %s", mode)
	}
	if again, err := adminToken(path); err != nil || again != first {
		t.Errorf("again: %s, %v", again, err)
	}
	if other, err := adminToken(filepath.Join(t.TempDir(), "admin.token")); err != nil || other == first {
		t.Errorf("another server's: %s, %v", other, err)
	}
	if err := os.WriteFile(path, []byte("  chosen by hand \n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if chosen, err := adminToken(path); err != nil || chosen != "chosen by hand" {
		t.Errorf("chosen: %q, %v", chosen, err)
	}
	if _, err := adminToken(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), filepath.Dir(path)) {
		t.Errorf("a folder in its place: %v", err)
	}
}

func TestReadinessNamesWhatIsNotReady(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	never := make(chan struct{})
	(&server{app: app.New(slog.New(slog.DiscardHandler), time.Second, app.Role{Name: "evaluator", Ready: never})}).health(mux)
	l := listen(t)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-served })
	r := &running{t: t, url: "http://" + l.Addr().String()}
	if status, body := r.get("/readyz"); status != http.StatusServiceUnavailable || body != "[-]evaluator\n" {
		t.Errorf("readyz: %d %q", status, body)
	}
	if status, body := r.get("/livez"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("livez: %d %q", status, body)
	}
}

func TestCallsWaitUntilEveryRoleIsReady(t *testing.T) {
	t.Parallel()
	ready := make(chan struct{})
	s := &server{app: app.New(slog.New(slog.DiscardHandler), time.Second, app.Role{
		Name: "evaluator", Ready: ready, Run: func(ctx context.Context) error { <-ctx.Done(); return nil },
	})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	err := s.admit()
	if errs.KindOf(err) != errs.Unavailable {
		t.Fatalf("while starting: %v", err)
	}
	mentions(t, err.Error(), "LS-API-005", "try again", "/readyz")
	close(ready)
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.admit() != nil {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("calls are not let in though all is ready")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if errs.KindOf(s.admit()) != errs.Unavailable {
		t.Error("calls are let in after the stop")
	}
}

func TestABusThatLostItsStoreEndsTheServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nats, err := startNATS(dir, slog.New(newJournal(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nats.Shutdown(); nats.WaitForShutdown() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- watchNATS(ctx, nats, dir) }()
	if err := nats.DisableJetStream(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("nobody noticed")
	} else {
		mentions(t, err.Error(), dir, "disk")
	}

	ended, end := context.WithCancel(t.Context())
	end()
	if err := watchNATS(ended, nats, dir); err != nil {
		t.Errorf("asked to stop: %v", err)
	}
}
