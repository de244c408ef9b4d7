package akeyless_test

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestPassingFailuresAreTriedAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil  func(*akeylesstest.Server)
		chance float64
		took   time.Duration
		kind   akeyless.Kind
		calls  int // of auth
	}{
		"a page of a proxy":        {func(s *akeylesstest.Server) { s.RespondHTML(2) }, 0.5, 750 * time.Millisecond, "", 3},
		"half an answer":           {func(s *akeylesstest.Server) { s.RespondTruncated(1) }, 0.5, 250 * time.Millisecond, "", 2},
		"502, documented":          {func(s *akeylesstest.Server) { s.RespondError(3, 502, "upstream") }, 1, 3500 * time.Millisecond, "", 4},
		"504 without luck":         {func(s *akeylesstest.Server) { s.RespondError(9, 504, "upstream") }, 0, 0, akeyless.KindFault, 4},
		"no answer without luck":   {func(s *akeylesstest.Server) { s.SetDown(true) }, 0.5, 1750 * time.Millisecond, akeyless.KindUnreachable, 0},
		"500, documented":          {func(s *akeylesstest.Server) { s.RespondError(1, 500, "a fault") }, 1, 500 * time.Millisecond, "", 2},
		"a refusal is for good":    {func(s *akeylesstest.Server) { s.RespondError(1, 403, "not for you") }, 1, 0, akeyless.KindRejected, 1},
		"a server that only hangs": {func(s *akeylesstest.Server) { s.SetLatency(time.Hour) }, 1, 15 * time.Second, akeyless.KindUnreachable, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startServer(t, akeylesstest.Options{})
			synctest.Test(t, func(t *testing.T) {
				client := newClient(t, server.URL(), through(server.Transport()), func(o *akeyless.Options) { o.Chance = func() float64 { return tc.chance } })
				tc.spoil(server)
				began := time.Now()
				_, err := client.ListBastions(t.Context())
				if akeyless.KindOf(err) != tc.kind || (err == nil) != (tc.kind == "") {
					t.Errorf("got %v, want kind %q", err, tc.kind)
				}
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %s, want %s", took, tc.took)
				}
				if n := server.Requests()["auth"]; n != tc.calls {
					t.Errorf("called %d times, want %d", n, tc.calls)
				}
			})
		})
	}
}

func TestTriesEndWithTheCallersTime(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{})
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, server.URL(), through(server.Transport()), func(o *akeyless.Options) { o.Chance = func() float64 { return 1 } })
		server.RespondHTML(9)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := client.ListBastions(ctx)
		if akeyless.KindOf(err) != akeyless.KindNotJSON {
			t.Errorf("got %v, want to be told what went wrong and not that time ran out", err)
		}
		if took := time.Since(began); took != 500*time.Millisecond {
			t.Errorf("took %s, want one pause: the second would outlast the caller", took)
		}

		client = newClient(t, server.URL(), through(server.Transport()), func(o *akeyless.Options) {
			o.MaxWait, o.Chance = 2*time.Second, func() float64 { return 1 }
		})
		began = time.Now()
		if _, err := client.ListBastions(t.Context()); err == nil {
			t.Error("no error")
		}
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Errorf("took %s, want the pauses that fit into 2s", took)
		}
	})
}

func TestCAFile(t *testing.T) {
	t.Parallel()
	vendor := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"token":"t-12345","clusters":[]}`))
	}))
	defer vendor.Close()
	vendor.Config.ErrorLog = nil
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vendor.Certificate().Raw})
	trusting := func(content string) func(*akeyless.Options) {
		file := secretFile(t, content)
		return func(o *akeyless.Options) { o.CAFile = file }
	}
	if _, err := newClient(t, vendor.URL, trusting("# ours\n"+string(authority))).ListBastions(t.Context()); err != nil {
		t.Errorf("with the authority: %v", err)
	}
	_, err := newClient(t, vendor.URL).ListBastions(t.Context())
	wantKind(t, err, akeyless.KindUnreachable, "certificate signed by unknown authority")

	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hush")})
	for name, file := range map[string]string{
		"empty": secretFile(t, ""), "no PEM": secretFile(t, string(vendor.Certificate().Raw)),
		"a key": secretFile(t, string(key)), "no such file": secretFile(t, "") + "-gone",
	} {
		_, err := akeyless.New(akeyless.Options{BaseURL: vendor.URL, CAFile: file, Auth: akeyless.Auth{AccessID: "p", KeyFile: secretFile(t, "k")}})
		if errs.IDOf(err) != "LS-VEN-012" || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestProxyFromTheEnvironment runs TestCallThroughAProxy in a process of its own:
// Go reads the proxy settings once for each process.
func TestProxyFromTheEnvironment(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 8)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.Host
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCallThroughAProxy$")
	command.Env = append(os.Environ(), "HTTPS_PROXY="+proxy.URL, "NO_PROXY=", "LOCKSTEP_TEST_THROUGH_PROXY=yes")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got := <-asked; got != "CONNECT vendor.invalid:443" {
		t.Errorf("the proxy was asked %q", got)
	}
}

func TestCallThroughAProxy(t *testing.T) {
	t.Parallel()
	if os.Getenv("LOCKSTEP_TEST_THROUGH_PROXY") == "" {
		return // the other half of TestProxyFromTheEnvironment
	}
	_, err := newClient(t, "https://vendor.invalid").ListBastions(t.Context())
	wantKind(t, err, akeyless.KindUnreachable, "Bad Gateway")
}
