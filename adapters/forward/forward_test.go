package forward_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/forward"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "a-token-that-nobody-may-read"

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// certified is a server whose certificate, key and authority others borrow.
func certified(t *testing.T, h http.Handler) (server *httptest.Server, authority string) {
	t.Helper()
	server = httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
}

func receiver(t *testing.T, config *tls.Config, serve func(net.Conn)) (address string) {
	t.Helper()
	return receiverOn(t, "127.0.0.1", config, serve)
}

// receiverOn takes one connection after another at an address of this machine and
// hands each to serve.
func receiverOn(t *testing.T, host string, config *tls.Config, serve func(net.Conn)) (address string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	if config != nil {
		listener = tls.NewListener(listener, config)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return address
}

// reader hands on all that a connection sends until the sender is done.
func reader() (serve func(net.Conn), got <-chan string) {
	lines := make(chan string, 4)
	return func(c net.Conn) {
		text, _ := io.ReadAll(c) // what broke off is shorter than what is wanted
		lines <- string(text)
	}, lines
}

func look(t *testing.T, opts forward.Options) fleet.Check {
	t.Helper()
	opts.Cluster, opts.Name = "berlin", "logs"
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Timeout == 0 {
		opts.Timeout = 20 * time.Second
	}
	e, err := forward.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return e.Check(t.Context())
}

func TestByDefaultNothingIsSent(t *testing.T) {
	t.Parallel()
	server, authority := certified(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s was sent", r.Method, r.URL)
	}))
	ends := server.Certificate().NotAfter
	for _, kind := range []forward.Kind{forward.TCP, forward.TLS, forward.Syslog, forward.HTTPS} {
		serve, got := reader()
		opts := forward.Options{Kind: kind, CAFile: authority}
		var want time.Time
		switch kind {
		case forward.HTTPS:
			opts.Address, want = server.URL+"/services/collector/event?key="+token, ends
			opts.TokenFile = file(t, token)
		case forward.TLS:
			opts.Address, want = receiver(t, server.TLS, serve), ends
		case forward.TCP, forward.Syslog:
			opts.Address = receiver(t, nil, serve)
		}
		check := look(t, opts)
		if !check.OK || check.Failure != "" || !check.CertificateExpires.Equal(want) || !strings.Contains(check.Detail, "no test line") {
			t.Errorf("%s: %+v", kind, check)
		}
		if strings.Contains(fmt.Sprint(check), token) {
			t.Errorf("%s: %+v shows the token", kind, check)
		}
		if kind != forward.HTTPS {
			if text := <-got; text != "" {
				t.Errorf("%s: %q was sent", kind, text)
			}
		}
	}
}

func TestTheCheckItself(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	serve, _ := reader()
	address := receiver(t, nil, serve)
	got := look(t, forward.Options{Kind: forward.TCP, Address: address, Now: func() time.Time { now = now.Add(time.Second); return now }})
	want := fleet.Check{
		Cluster: "berlin", Name: "logs", Kind: fleet.CheckForwarding, Target: address, At: now.Add(-time.Second), Took: time.Second,
		OK: true, Detail: "the receiver takes connections; no test line was sent",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestATestLineIsLabelled(t *testing.T) {
	t.Parallel()
	server, authority := certified(t, http.NotFoundHandler())
	const words = "Lockstep test line: whether log forwarding is accepted; no action is needed; cluster=berlin check=logs"
	for name, c := range map[string]struct {
		opts   forward.Options
		secure bool
	}{
		"tcp":               {forward.Options{Kind: forward.TCP}, false},
		"tls":               {forward.Options{Kind: forward.TLS}, true},
		"syslog":            {forward.Options{Kind: forward.Syslog}, false},
		"syslog inside tls": {forward.Options{Kind: forward.Syslog, TLS: true}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			serve, got := reader()
			var config *tls.Config
			if c.secure {
				config = server.TLS
			}
			c.opts.Address, c.opts.CAFile, c.opts.Send = receiver(t, config, serve), authority, true
			c.opts.Now = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.UTC) }
			if check := look(t, c.opts); !check.OK || !strings.Contains(check.Detail, "does not say more") {
				t.Errorf("%+v", check)
			}
			text := <-got
			if c.opts.Kind != forward.Syslog {
				if text != words+"\n" {
					t.Errorf("sent %q", text)
				}
				return
			}
			if message := syslog(t, text); message != words {
				t.Errorf("sent %q", text)
			}
			if !strings.Contains(text, " 2026-03-01T12:00:00.005Z ") {
				t.Errorf("%q does not bear the time", text)
			}
		})
	}
}

// syslog reads one counted message as RFC 5424 and RFC 6587 define it and returns
// what it says.
func syslog(t *testing.T, stream string) string {
	t.Helper()
	count, message, _ := strings.Cut(stream, " ")
	if n, err := strconv.Atoi(count); err != nil || n != len(message) {
		t.Fatalf("%q announces %s octets and has %d", stream, count, len(message))
	}
	parts := regexp.MustCompile(`^<(\d{1,3})>1 (\S+) (\S{1,255}) (\S{1,48}) (\S{1,128}) (\S{1,32}) - (.*)$`).FindStringSubmatch(message)
	if parts == nil {
		t.Fatalf("%q is no message of RFC 5424", message)
	}
	if _, err := time.Parse(time.RFC3339Nano, parts[2]); err != nil {
		t.Error(err)
	}
	return parts[7]
}

func TestANameCannotEndTheLine(t *testing.T) {
	t.Parallel()
	serve, got := reader()
	e, err := forward.New(forward.Options{
		Cluster: "ber\nlin", Name: "lögs\r\n<14>1 forged", Kind: forward.Syslog, Address: receiver(t, nil, serve), Send: true, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	if check := e.Check(t.Context()); !check.OK {
		t.Error(check)
	}
	if message := syslog(t, <-got); !strings.HasSuffix(message, "cluster=ber_lin check=l_gs__<14>1_forged") {
		t.Errorf("%q", message)
	}
}

func TestAReceiverThatBreaksOffAfterTheLineFails(t *testing.T) {
	t.Parallel()
	address := receiver(t, nil, func(c net.Conn) {
		_, _ = io.Copy(io.Discard, c)
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	check := look(t, forward.Options{Kind: forward.TCP, Address: address, Send: true})
	if check.OK || check.Failure != fleet.FailureUnreachable || !strings.Contains(check.Detail, "sending a test line") {
		t.Errorf("%+v", check)
	}
}

func TestAReceiverThatKeepsTheConnectionOpenHasTakenTheLine(t *testing.T) {
	t.Parallel()
	checked := make(chan struct{})
	address := receiver(t, nil, func(net.Conn) { <-checked })
	check := look(t, forward.Options{Kind: forward.TCP, Address: address, Send: true})
	close(checked)
	if !check.OK {
		t.Errorf("%+v", check)
	}
}

func TestATestLineOverHTTPS(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{"": "Splunk " + token, "DD-API-KEY": token} {
		requests := make(chan *http.Request, 1)
		bodies := make(chan []byte, 1)
		server, authority := certified(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			requests <- r
			bodies <- body
			_, _ = io.WriteString(w, `{"text":"Success","code":0}`)
		}))
		check := look(t, forward.Options{
			Kind: forward.HTTPS, Address: server.URL + "/services/collector/event", CAFile: authority, Send: true,
			TokenFile: file(t, token+"\n"), Header: header, Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) },
		})
		if !check.OK || check.Detail != "the receiver took a test line" || !check.CertificateExpires.Equal(server.Certificate().NotAfter) || check.Target != server.URL {
			t.Errorf("%+v", check)
		}
		r := <-requests
		name := header
		if name == "" {
			name = "Authorization"
		}
		if got := r.Header.Get(name); got != want || r.Method != http.MethodPost || r.URL.Path != "/services/collector/event" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s with %v", r.Method, r.URL, r.Header)
		}
		var body any
		if err := json.Unmarshal(<-bodies, &body); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]any{
			"time": 1772366400.0, "source": "lockstep", "event": map[string]any{
				"message": "Lockstep test line: whether log forwarding is accepted; no action is needed; cluster=berlin check=logs",
				"cluster": "berlin", "check": "logs", "sent_at": "2026-03-01T12:00:00Z",
			},
		}, body); diff != "" {
			t.Error(diff)
		}
	}
}

func TestAnswersOverHTTPSHaveTheirClass(t *testing.T) {
	t.Parallel()
	for status, class := range map[int]fleet.Failure{
		301: fleet.FailureHTTPStatus, 400: fleet.FailureHTTPStatus, 401: fleet.FailureForbidden, 403: fleet.FailureForbidden,
		404: fleet.FailureHTTPStatus, 429: fleet.FailureTooManyOpen, 500: fleet.FailureHTTPStatus, 503: fleet.FailureTooManyOpen,
	} {
		var asked atomic.Int32
		server, authority := certified(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			fmt.Fprintf(w, "no\r\n%s", r.Header.Get("Authorization"))
		}))
		check := look(t, forward.Options{Kind: forward.HTTPS, Address: server.URL, CAFile: authority, Send: true, TokenFile: file(t, token)})
		if check.OK || check.Failure != class || !strings.Contains(check.Detail, strconv.Itoa(status)) {
			t.Errorf("%d: %+v", status, check)
		}
		if strings.Contains(check.Detail, token) || strings.ContainsAny(check.Detail, "\r\n") {
			t.Errorf("%d: %q shows what it must not", status, check.Detail)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("%d: asked %d times", status, n)
		}
	}
}

// Wherever the answer is cut, no part of the token is shown, also when the file has
// another one by the time the answer comes.
func TestATokenThatAnAnswerRepeatsIsNotShown(t *testing.T) {
	t.Parallel()
	long := "tok-" + strings.Repeat("0123456789abcdef", 40)
	var fill atomic.Int32
	path := file(t, long)
	server, authority := certified(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(path, []byte("the next one"), 0o600); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, strings.Repeat("x", int(fill.Load())), r.Header.Get("Authorization"), strings.Repeat("y", 8<<10))
	}))
	for n := 0; n < 310; n += 9 {
		fill.Store(int32(n))
		if err := os.WriteFile(path, []byte(long), 0o600); err != nil {
			t.Fatal(err)
		}
		check := look(t, forward.Options{Kind: forward.HTTPS, Address: server.URL, CAFile: authority, Send: true, TokenFile: path})
		if check.OK || strings.Contains(check.Detail, "tok-") || strings.Contains(check.Detail, "0123") {
			t.Fatalf("after %d bytes: %q", n, check.Detail)
		}
		if len(check.Detail) != 300 || !strings.Contains(check.Detail, "400 Bad Request: ") {
			t.Fatalf("after %d bytes: %d are shown: %q", n, len(check.Detail), check.Detail)
		}
	}
}

func TestConnectionsThatFailHaveTheirClass(t *testing.T) {
	t.Parallel()
	server, authority := certified(t, http.NotFoundHandler())
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	silent := receiver(t, nil, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	garbage := receiver(t, nil, func(c net.Conn) { _, _ = io.WriteString(c, "220 this is no TLS\r\n") })
	reset := receiver(t, nil, func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) })
	other := receiverOn(t, "127.0.0.2", server.TLS, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	for name, c := range map[string]struct {
		opts  forward.Options
		class fleet.Failure
	}{
		"nobody listens":      {forward.Options{Kind: forward.TCP, Address: closed.Listener.Addr().String()}, fleet.FailureRefused},
		"no such name":        {forward.Options{Kind: forward.TLS, Address: "logs.invalid:6514"}, fleet.FailureDNS},
		"no such name, https": {forward.Options{Kind: forward.HTTPS, Address: "https://logs.invalid/", Send: true}, fleet.FailureDNS},
		"not trusted":         {forward.Options{Kind: forward.TLS, Address: server.Listener.Addr().String()}, fleet.FailureCertificate},
		"not trusted, https":  {forward.Options{Kind: forward.HTTPS, Address: server.URL, Send: true}, fleet.FailureCertificate},
		"another name":        {forward.Options{Kind: forward.TLS, Address: other, CAFile: authority}, fleet.FailureCertificate},
		"no answer":           {forward.Options{Kind: forward.TLS, Address: silent, Timeout: 50 * time.Millisecond}, fleet.FailureTimeout},
		"no answer, https":    {forward.Options{Kind: forward.HTTPS, Address: "https://" + silent, Send: true, Timeout: 50 * time.Millisecond}, fleet.FailureTimeout},
		"no TLS":              {forward.Options{Kind: forward.Syslog, TLS: true, Address: garbage}, fleet.FailureTLS},
		"a reset":             {forward.Options{Kind: forward.TLS, Address: reset}, fleet.FailureUnreachable},
	} {
		check := look(t, c.opts)
		if check.OK || check.Failure != c.class {
			t.Errorf("%s: %+v", name, check)
		}
		if known := c.class == fleet.FailureCertificate; known == check.CertificateExpires.IsZero() {
			t.Errorf("%s: certificate ends %s", name, check.CertificateExpires)
		}
	}
}

func TestATokenThatVanishedIsTold(t *testing.T) {
	t.Parallel()
	opts := forward.Options{Kind: forward.HTTPS, Address: "https://logs.invalid", Send: true, TokenFile: file(t, token), Now: time.Now}
	e, err := forward.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(opts.TokenFile); err != nil {
		t.Fatal(err)
	}
	if check := e.Check(t.Context()); check.OK || check.Failure != "setup" || !strings.Contains(check.Detail, "its token cannot be read") {
		t.Errorf("%+v", check)
	}
}

func TestACancelledCheckBlamesNobody(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	address := receiver(t, nil, func(c net.Conn) {
		cancel()
		_, _ = io.Copy(io.Discard, c)
	})
	e, err := forward.New(forward.Options{Kind: forward.TLS, Address: address, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if check := e.Check(ctx); check.OK || check.Failure != fleet.FailureUnclassified || check.Detail != "the check was cut short" {
		t.Errorf("%+v", check)
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]forward.Options{
		"no kind":                  {Address: "logs:514"},
		"another kind":             {Kind: "udp", Address: "logs:514"},
		"no port":                  {Kind: forward.Syslog, Address: "logs"},
		"no host":                  {Kind: forward.TCP, Address: ":514"},
		"a URL for tcp":            {Kind: forward.TCP, Address: "tcp://logs:514/x"},
		"tcp within TLS":           {Kind: forward.TCP, Address: "logs:514", TLS: true},
		"tls within TLS":           {Kind: forward.TLS, Address: "logs:6514", TLS: true},
		"https within TLS":         {Kind: forward.HTTPS, Address: "https://logs/", TLS: true},
		"a token without http":     {Kind: forward.TCP, Address: "logs:514", TokenFile: "token"},
		"no URL":                   {Kind: forward.HTTPS, Address: "logs:8088"},
		"a password":               {Kind: forward.HTTPS, Address: "https://me:" + token + "@logs/"},
		"http elsewhere":           {Kind: forward.HTTPS, Address: "http://logs.example/" + token},
		"a token that is absent":   {Kind: forward.HTTPS, Address: "https://logs/", TokenFile: "/nowhere/token"},
		"a token of two lines":     {Kind: forward.HTTPS, Address: "https://logs/", TokenFile: file(t, token+"\n"+token)},
		"an authority that is not": {Kind: forward.TLS, Address: "logs:6514", CAFile: file(t, "none")},
	} {
		opts.Name = "logs"
		_, err := forward.New(opts)
		if errs.IDOf(err) != "LS-PIP-007" || errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "logs") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v shows the token", name, err)
		}
	}
	if _, err := forward.New(forward.Options{Kind: forward.HTTPS, Address: "http://localhost:8088/services/collector"}); err != nil {
		t.Errorf("http on this machine: %v", err)
	}
}
