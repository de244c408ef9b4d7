package akeyless_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func startServer(t testing.TB, o akeylesstest.Options) *akeylesstest.Server {
	t.Helper()
	server, err := akeylesstest.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

// newClient returns a client over a socket, or over the transport if given.
func newClient(t testing.TB, url string, change ...func(*akeyless.Options)) *akeyless.Client {
	t.Helper()
	o := akeyless.Options{
		BaseURL: url, Auth: akeyless.Auth{AccessID: akeylesstest.AccessID, KeyFile: secretFile(t, akeylesstest.AccessKey+"\n")},
		Chance: func() float64 { return 0 }, // no pauses between tries
	}
	for _, f := range change {
		f(&o)
	}
	client, err := akeyless.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func secretFile(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func through(transport http.RoundTripper) func(*akeyless.Options) {
	return func(o *akeyless.Options) { o.HTTPClient = &http.Client{Transport: transport} }
}

// catalogueID is the id under which people find a kind of failure, empty for
// one that they can do nothing about.
func catalogueID(kind akeyless.Kind) string {
	return map[akeyless.Kind]string{
		akeyless.KindRejected: "LS-VEN-001", akeyless.KindUnreachable: "LS-VEN-002", akeyless.KindNotJSON: "LS-VEN-003",
		akeyless.KindMalformed: "LS-VEN-003", akeyless.KindRateLimited: "LS-VEN-004", akeyless.KindAPI: "LS-VEN-005",
		akeyless.KindFault:   "LS-VEN-015",
		akeyless.KindCommand: "LS-VEN-010", akeyless.KindNoCommand: "LS-VEN-011",
	}[kind]
}

func wantKind(t *testing.T, err error, kind akeyless.Kind, parts ...string) {
	t.Helper()
	if akeyless.KindOf(err) != kind {
		t.Fatalf("error is of kind %q, want %q: %v", akeyless.KindOf(err), kind, err)
	}
	if id := catalogueID(kind); errs.IDOf(err) != id || !strings.Contains(err.Error(), id) {
		t.Errorf("error of kind %q has the id %q, want %q: %v", kind, errs.IDOf(err), id, err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q: %v", part, err)
		}
	}
	if i := strings.IndexFunc(err.Error(), unicode.IsControl); i >= 0 {
		t.Errorf("error holds a control character at %d: %q", i, err)
	}
}

func TestTokenIsKeptAndRenewedWhenRejected(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{})
	client := newClient(t, server.URL())
	list := func() {
		if _, err := client.ListBastions(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	list()
	list()
	if n := server.Requests()["auth"]; n != 1 {
		t.Fatalf("two calls authenticated %d times, want once", n)
	}
	server.ExpireTokens()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := client.ListBastions(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := server.Requests()["auth"]; n != 2 {
		t.Errorf("20 calls with an expired token authenticated %d times more, want once", n-1)
	}
}

func TestGatewayBasePath(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{})
	for _, path := range []string{"/", "/api/v2", "/api/v2/", "/v2"} {
		if _, err := newClient(t, server.URL()+path).ListBastions(t.Context()); err != nil {
			t.Errorf("base path %q: %v", path, err)
		}
	}
}

func TestRejectedCredentials(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{})
	client := newClient(t, server.URL(), func(o *akeyless.Options) { o.Auth.KeyFile = secretFile(t, "wrong-and-secret") })
	_, err := client.ListBastions(t.Context())
	wantKind(t, err, akeyless.KindRejected, server.URL()+"/auth", "401", "key file")
}

func TestServerNeverAcceptsItsOwnToken(t *testing.T) {
	t.Parallel()
	calls := 0
	client := newClient(t, "http://127.0.0.1", through(answering(func(r *http.Request, _ string) (int, string, string) {
		if strings.HasSuffix(r.URL.Path, "/auth") {
			calls++
			return 200, "application/json", `{"token":"t-12345678"}`
		}
		return 401, "application/json", `{"error":"token expired"}`
	})))
	_, err := client.ListBastions(t.Context())
	wantKind(t, err, akeyless.KindRejected, "token expired")
	if calls != 2 {
		t.Errorf("authenticated %d times, want one renewal and no loop", calls)
	}
}

// answering makes a transport of a function from request and body to status,
// content type and body.
type answering func(*http.Request, string) (int, string, string)

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status, contentType, body := a(r, string(sent))
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {contentType}},
		Body: io.NopCloser(strings.NewReader(body)), Request: r,
	}, nil
}

func TestAnswersThatAreNotTheAPIs(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{})
	client := newClient(t, server.URL())
	server.RespondHTML(4) // as often as a call is tried
	_, err := client.ListBastions(t.Context())
	wantKind(t, err, akeyless.KindNotJSON, server.URL()+"/auth", "502", "text/html; charset=utf-8", "502 Bad Gateway", "proxy", "base URL")

	for name, tc := range map[string]struct {
		status            int
		contentType, body string
		kind              akeyless.Kind
		part              string
	}{
		"empty":             {200, "", "", akeyless.KindNotJSON, `begins ""`},
		"html with 200":     {200, "text/html", "<!doctype html>\x1b[31m\x00login", akeyless.KindNotJSON, "<!doctype html> [31m login"},
		"json array":        {200, "application/json", `[1]`, akeyless.KindNotJSON, "[1]"},
		"null":              {200, "application/json", `null`, akeyless.KindNotJSON, "null"},
		"truncated":         {200, "application/json", `{"token":"t-`, akeyless.KindMalformed, "unexpected EOF"},
		"no token":          {200, "application/json", `{}`, akeyless.KindMalformed, "no token"},
		"documented":        {400, "application/json", `{"error":"bad access-type"}`, akeyless.KindAPI, "bad access-type); compare vendor.access_type"},
		"error is not text": {500, "application/json", `{"error":{"code":7}}`, akeyless.KindFault, `{"code":7}`},
		"redirect":          {307, "text/html", "moved", akeyless.KindNotJSON, "307"},
		"html 401":          {401, "text/html", "proxy says no", akeyless.KindNotJSON, "proxy says no"},
		"long":              {500, "text/plain", strings.Repeat("é", 40000), akeyless.KindNotJSON, "éé…"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, "http://127.0.0.1:1/x", through(answering(func(*http.Request, string) (int, string, string) {
				return tc.status, tc.contentType, tc.body
			})))
			_, err := client.ListBastions(t.Context())
			wantKind(t, err, tc.kind, "http://127.0.0.1:1/x/auth", tc.part)
			if len(err.Error()) > 1000 {
				t.Errorf("error is %d bytes long", len(err.Error()))
			}
		})
	}
}

// TestAFaultOfTheVendor answers as the API does when it fails inside.
func TestAFaultOfTheVendor(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{})
	client := newClient(t, server.URL())
	server.RespondError(3, 500, "internal")
	if _, err := client.ListBastions(t.Context()); err != nil {
		t.Errorf("a fault that passes: %v", err)
	}
	server.RespondError(4, 500, "internal") // as often as a call is tried
	_, err := client.ListBastions(t.Context())
	wantKind(t, err, akeyless.KindFault, "HTTP 500: internal", "asked again")
	if errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a fault is %s, want unavailable", errs.KindOf(err))
	}
	server.Forbid("list-sra-bastions", true)
	_, err = client.ListBastions(t.Context())
	wantKind(t, err, akeyless.KindAPI, "sra-reports-access=all", "upgrade")
}

func TestSecretsAreNeverSaid(t *testing.T) {
	t.Parallel()
	const key, issued = `k3y+/<"secret'&=`, `t-0k3n+"secret<`
	for name, echo := range map[string]func(sent, token string) (int, string, string){
		"json": func(sent, token string) (int, string, string) {
			reply, err := json.Marshal(map[string]string{"error": "token of " + sent + " " + key + " " + token})
			if err != nil {
				panic(err)
			}
			return 401, "application/json", string(reply)
		},
		"html": func(sent, token string) (int, string, string) {
			return 502, key, "<p>" + html.EscapeString(sent+key+token) + "</p>" + key + token
		},
		"raw": func(sent, token string) (int, string, string) { return 500, "text/plain", sent + key + token },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var logged bytes.Buffer
			options := akeyless.Options{
				BaseURL: "http://vendor.example", Chance: func() float64 { return 0 },
				Auth: akeyless.Auth{AccessID: "p-1", KeyFile: secretFile(t, key), AWS: staticAWS{secret: "k3y-of-aws"}},
				Log:  slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
			}
			said := fmt.Sprintf("%v %+v %#v %s %q %x", options, options, options, akeyless.Secret(key), akeyless.Secret(key), akeyless.Secret(key))
			for _, auth := range []bool{true, false} {
				options.HTTPClient = &http.Client{Transport: answering(func(r *http.Request, sent string) (int, string, string) {
					if auth && strings.HasSuffix(r.URL.Path, "/auth") {
						reply, err := json.Marshal(map[string]string{"token": issued})
						if err != nil {
							panic(err)
						}
						return 200, "application/json", string(reply)
					}
					if !auth {
						return echo(sent, "") // a token never sent to the client it cannot know
					}
					return echo(sent, issued)
				})}
				client, err := akeyless.New(options)
				if err != nil {
					t.Fatal(err)
				}
				_, err = client.ListBastions(t.Context())
				if err == nil {
					t.Fatal("no error")
				}
				said += fmt.Sprintf("%v %+v %v %+v %#v", err, err, client, client, client)
			}
			said += logged.String()
			if !strings.Contains(said, "vendor.example") || !strings.Contains(said, "[redacted]") {
				t.Fatalf("nothing was said: %s", said)
			}
			for _, part := range []string{"k3y", "0k3n", fmt.Sprintf("%x", key)} {
				if strings.Contains(said, part) {
					t.Errorf("%q is told in: %s", part, said)
				}
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the credentials were sent on")
	}))
	defer thief.Close()
	door := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer door.Close()
	_, err := newClient(t, door.URL, func(o *akeyless.Options) { o.HTTPClient = door.Client() }).ListBastions(t.Context())
	wantKind(t, err, akeyless.KindNotJSON, "307")
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{})
	client := newClient(t, server.URL())
	server.SetDown(true)
	_, err := client.ListBastions(t.Context())
	wantKind(t, err, akeyless.KindUnreachable, server.URL()+"/auth", "EOF", "check the address")
	server.SetDown(false)
	if _, err := client.ListBastions(t.Context()); err != nil {
		t.Fatalf("after the server came back: %v", err)
	}

	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = newClient(t, "http://"+address).ListBastions(t.Context())
	wantKind(t, err, akeyless.KindUnreachable, address, "connection refused")
}

func TestSlowServerTimesOut(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{}) // outside the bubble: its socket would hold the clock
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, server.URL(), through(server.Transport()), func(o *akeyless.Options) { o.Timeout = 3 * time.Second })
		server.SetLatency(time.Minute)
		began := time.Now()
		_, err := client.ListBastions(t.Context())
		wantKind(t, err, akeyless.KindUnreachable, "no answer within 3s")
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("gave up after %s, want 3s", took)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error does not say it is a deadline: %v", err)
		}

		ctx, cancel := context.WithCancelCause(t.Context())
		stopping := errors.New("stopping")
		time.AfterFunc(time.Second, func() { cancel(stopping) })
		if _, err := client.ListBastions(ctx); !errors.Is(err, stopping) || akeyless.KindOf(err) != "" {
			t.Errorf("a cancelled call returned %v, want the caller's own cause and no kind", err)
		}
	})
}

func TestRetryAfterIsHonouredWithinBounds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		refusals   int
		retryAfter time.Duration
		took       time.Duration
		kind       akeyless.Kind
	}{
		"waits and succeeds":         {2, 3 * time.Second, 6 * time.Second, ""},
		"no Retry-After":             {1, 0, time.Second, ""},
		"longer than bound":          {1, time.Hour, 0, akeyless.KindRateLimited},
		"too long together":          {9, 20 * time.Second, 20 * time.Second, akeyless.KindRateLimited},
		"too often":                  {9, time.Second, 3 * time.Second, akeyless.KindRateLimited},
		"longer than any arithmetic": {1, 4_000_000_000 * time.Second, 0, akeyless.KindRateLimited},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startServer(t, akeylesstest.Options{})
			synctest.Test(t, func(t *testing.T) {
				client := newClient(t, server.URL(), through(server.Transport()), func(o *akeyless.Options) { o.MaxWait = 30 * time.Second })
				server.RateLimit(tc.refusals, tc.retryAfter)
				began := time.Now()
				_, err := client.ListBastions(t.Context())
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %s, want %s", took, tc.took)
				}
				if akeyless.KindOf(err) != tc.kind || (err == nil) != (tc.kind == "") {
					t.Fatalf("got %v, want kind %q", err, tc.kind)
				}
				var failure *akeyless.Error
				if tc.retryAfter > 0 && errors.As(err, &failure) && failure.RetryAfter != min(tc.retryAfter, 24*time.Hour) {
					t.Errorf("error says to wait %s, want %s", failure.RetryAfter, tc.retryAfter)
				}
			})
		})
	}
}

func TestRetryAfterAsDate(t *testing.T) {
	t.Parallel()
	client := newClient(t, "http://127.0.0.1", func(o *akeyless.Options) {
		o.Now = func() time.Time { return noon }
		o.HTTPClient = &http.Client{Transport: limiting(noon.Add(time.Hour).Format(http.TimeFormat))}
	})
	_, err := client.ListBastions(t.Context())
	var failure *akeyless.Error
	if !errors.As(err, &failure) || failure.RetryAfter != time.Hour {
		t.Errorf("got %v, want to be told to wait 1h", err)
	}
}

type limiting string

func (l limiting) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {string(l)}},
		Body: http.NoBody, Request: r,
	}, nil
}

func TestAnswerSizeIsLimited(t *testing.T) {
	t.Parallel()
	client := newClient(t, "http://127.0.0.1", func(o *akeyless.Options) { o.MaxResponse = 1000 },
		through(answering(func(*http.Request, string) (int, string, string) {
			return 200, "application/json", `{"token":"` + strings.Repeat("x", 2000) + `"}`
		})))
	_, err := client.ListBastions(t.Context())
	wantKind(t, err, akeyless.KindTooLarge, "1000 bytes")
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	key := secretFile(t, "k")
	good := akeyless.Auth{AccessID: "a", KeyFile: key}
	for name, o := range map[string]akeyless.Options{
		"no scheme":              {BaseURL: "api.akeyless.io", Auth: good},
		"other scheme":           {BaseURL: "ftp://api.akeyless.io", Auth: good},
		"no host":                {BaseURL: "https://", Auth: good},
		"query":                  {BaseURL: "https://h/?a=b", Auth: good},
		"user":                   {BaseURL: "https://u:sesame@h", Auth: good},
		"unreadable":             {BaseURL: "https://u:sesame@h:port", Auth: good},
		"negative time":          {BaseURL: "https://h", Auth: good, Timeout: -1},
		"a command and a URL":    {BaseURL: "https://h", Command: []string{"akeyless"}},
		"a command and an id":    {Auth: good, Command: []string{"akeyless"}},
		"own client and CA file": {BaseURL: "https://h", Auth: good, HTTPClient: http.DefaultClient, CAFile: key},
	} {
		if _, err := akeyless.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: the error tells the password: %v", name, err)
		}
	}
	if _, err := akeyless.New(akeyless.Options{BaseURL: "https://h", Auth: good}); err != nil {
		t.Error(err)
	}
}

func TestBastionsInBothDialects(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{Dialect: akeylesstest.DialectInstances})
	client := newClient(t, server.URL())
	server.SetCluster(akeylesstest.Cluster{
		Name: "acc-1/p-1/west", DisplayName: "West", LastReport: noon,
		Instances: []akeylesstest.Instance{
			{ID: "ssh-1", Version: "3.0.3", LastReport: noon, URLs: []string{"https://ssh-1"}},
			{ID: "ssh-0", LastReport: noon},
		},
	})
	check := func(version string) {
		t.Helper()
		clusters, err := client.ListBastions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(clusters) != 1 || clusters[0].Name != "acc-1/p-1/west" || clusters[0].DisplayName != "West" {
			t.Fatalf("got %+v", clusters)
		}
		want := fleet.Registration{
			Cluster: "west", ObservedAt: noon.Add(time.Second), LastReport: noon,
			Bastions: []fleet.Bastion{{ID: "ssh-0"}, {ID: "ssh-1", Version: version}},
		}
		if diff := cmp.Diff(want, clusters[0].Registration("west", noon.Add(time.Second))); diff != "" {
			t.Errorf("registration (-want +got):\n%s", diff)
		}
	}
	check("3.0.3")
	server.SetDialect(akeylesstest.DialectSchema)
	check("")
}
