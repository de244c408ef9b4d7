package probe_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lockstep-fleet/lockstep/adapters/probe"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// web starts an https server that shows this certificate, and returns its
// host:port.
func web(t *testing.T, shows tls.Certificate, handler http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{shows}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are meant
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func page(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func TestAnHTTPSRequestIsToldInParts(t *testing.T) {
	t.Parallel()
	a, ends := newAuthority(t), time.Now().Add(time.Hour).Truncate(time.Second)
	address := web(t, a.issue(t, "localhost", ends), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.RawQuery != "key=secret" || r.Header.Get("User-Agent") != "lockstep" {
			http.Error(w, "odd", http.StatusTeapot)
		}
	}))
	_, port, _ := net.SplitHostPort(address)
	got := newProbe(t, probe.Options{
		Kind: fleet.CheckHTTPS, Component: fleet.SRAWeb, Address: "https://localhost:" + port + "/login?key=secret", TLS: probe.TLS{CAFile: a.file},
	}).Check(t.Context())
	expect(t, got, "", "HTTP 200")
	if got.Target != "https://localhost:"+port+"/login" || got.Component != fleet.SRAWeb || !got.CertificateExpires.Equal(ends) {
		t.Errorf("got %+v", got)
	}
	for _, name := range []string{"dns_seconds", "connect_seconds", "tls_seconds", "first_byte_seconds"} {
		if got.Readings[name] <= 0 {
			t.Errorf("no reading %s in %v", name, got.Readings)
		}
	}
	if len(got.Readings) != 4 {
		t.Errorf("more readings than parts: %v", got.Readings)
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	hour, past := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(-time.Hour).Truncate(time.Second)
	for name, c := range map[string]struct {
		shows   tls.Certificate
		trust   probe.TLS
		ends    time.Time
		failure fleet.Failure
		detail  string
	}{
		"good":             {a.issue(t, "127.0.0.1", hour), probe.TLS{CAFile: a.file}, hour, "", ""},
		"by another name":  {a.issue(t, "web.example", hour), probe.TLS{CAFile: a.file, ServerName: "web.example"}, hour, "", ""},
		"of another name":  {a.issue(t, "web.example", hour), probe.TLS{CAFile: a.file}, hour, fleet.FailureCertificate, "127.0.0.1"},
		"expired":          {a.issue(t, "127.0.0.1", past), probe.TLS{CAFile: a.file}, past, fleet.FailureCertificate, "expired"},
		"of another":       {a.issue(t, "127.0.0.1", hour), probe.TLS{CAFile: other.file}, hour, fleet.FailureCertificate, "unknown authority"},
		"of nobody's here": {a.issue(t, "127.0.0.1", hour), probe.TLS{}, hour, fleet.FailureCertificate, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := web(t, c.shows, page("hello"))
			for _, o := range []probe.Options{
				{Kind: fleet.CheckHTTPS, Address: "https://" + address, TLS: c.trust},
				{Kind: fleet.CheckTLS, Address: address, TLS: c.trust},
			} {
				got := newProbe(t, o).Check(t.Context())
				expect(t, got, c.failure, c.detail)
				if !got.CertificateExpires.Equal(c.ends) {
					t.Errorf("%s: the certificate ends %s, want %s", o.Kind, got.CertificateExpires, c.ends)
				}
			}
		})
	}
}

func TestACertificateIsJudgedByTheClockGiven(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	address := web(t, a.issue(t, "127.0.0.1", time.Now().Add(time.Hour)), page("hello"))
	p := newProbe(t, probe.Options{
		Kind: fleet.CheckTLS, Address: address, TLS: probe.TLS{CAFile: a.file},
		Now: func() time.Time { return time.Now().Add(2 * time.Hour) },
	})
	expect(t, p.Check(t.Context()), fleet.FailureCertificate, "expired")
}

func TestHandshakesThatFail(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for name, server := range map[string]func(net.Conn){
		"closes": func(net.Conn) {},
		"closes after the greeting": func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1))
		},
		"speaks no TLS": func(conn net.Conn) {
			_, _ = http.ReadRequest(bufio.NewReader(conn))
			_, _ = io.WriteString(conn, "HTTP/1.0 400 Bad Request\r\n\r\n")
		},
		"asks for a certificate": func(conn net.Conn) {
			server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{a.issue(t, "127.0.0.1", time.Now().Add(time.Hour))}, ClientAuth: tls.RequireAnyClientCert})
			_ = server.Handshake()
			drain(conn)
		},
		"is too old": func(conn net.Conn) {
			server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{a.issue(t, "127.0.0.1", time.Now().Add(time.Hour))}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
			_ = server.Handshake()
			drain(conn)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProbe(t, probe.Options{Kind: fleet.CheckHTTPS, Address: "https://" + serve(t, server), TLS: probe.TLS{CAFile: a.file}})
			expect(t, p.Check(t.Context()), fleet.FailureTLS, "")
		})
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	elsewhere := web(t, a.issue(t, "127.0.0.1", time.Now().Add(time.Hour)), http.NotFoundHandler())
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", page("hello, world"))
	mux.HandleFunc("/login", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	mux.Handle("/here", http.RedirectHandler("/hello", http.StatusFound))
	mux.Handle("/to-broken", http.RedirectHandler("/broken", http.StatusFound))
	mux.Handle("/there", http.RedirectHandler("https://"+elsewhere, http.StatusFound))
	mux.HandleFunc("/plain", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/hello", http.StatusFound)
	})
	mux.Handle("/circle", http.RedirectHandler("/circle", http.StatusFound))
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/torn", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "hello")
	})
	raw := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, text)
				conn.Close()
			}
		}
	}
	mux.HandleFunc("/odd", raw("what?\r\n\r\n"))
	mux.HandleFunc("/nothing", raw(""))
	mux.HandleFunc("/headers", raw("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n"))
	base := "https://" + web(t, a.issue(t, "127.0.0.1", time.Now().Add(time.Hour)), mux)

	for _, c := range []struct {
		path    string
		http    probe.HTTP
		failure fleet.Failure
		detail  string
	}{
		{"/hello", probe.HTTP{}, "", "HTTP 200"},
		{"/hello", probe.HTTP{Contains: "world"}, "", "HTTP 200"},
		{"/hello", probe.HTTP{Contains: "Anmelden"}, fleet.FailureContent, "not in the answer"},
		{"/hello", probe.HTTP{Statuses: []int{204, 401}}, fleet.FailureHTTPStatus, "HTTP 200, expected one of [204 401]"},
		{"/login", probe.HTTP{}, fleet.FailureHTTPStatus, "HTTP 401, expected 200 to 399"},
		{"/login", probe.HTTP{Statuses: []int{401}}, "", "HTTP 401"},
		{"/broken", probe.HTTP{}, fleet.FailureHTTPStatus, "HTTP 502"},
		{"/here", probe.HTTP{Contains: "world"}, "", "HTTP 200"},
		{"/here", probe.HTTP{Statuses: []int{302}}, "", "HTTP 302"},
		{"/to-broken", probe.HTTP{}, fleet.FailureHTTPStatus, "HTTP 502"},
		{"/there", probe.HTTP{}, "", "HTTP 302"},
		{"/plain", probe.HTTP{}, "", "HTTP 302"},
		{"/plain", probe.HTTP{Statuses: []int{200}}, fleet.FailureHTTPStatus, "HTTP 302"},
		{"/circle", probe.HTTP{}, fleet.FailureHTTPStatus, "more than 10 times"},
		{"/endless", probe.HTTP{}, "", "HTTP 200"},
		{"/endless", probe.HTTP{Contains: "hello"}, fleet.FailureContent, "first MiB"},
		{"/torn", probe.HTTP{}, fleet.FailureUnreachable, "reading the answer"},
		{"/odd", probe.HTTP{}, fleet.FailureContent, "malformed HTTP"},
		{"/nothing", probe.HTTP{}, fleet.FailureUnreachable, "waiting for an answer"},
		{"/headers", probe.HTTP{}, fleet.FailureContent, ""},
	} {
		t.Run(fmt.Sprint(c.path, c.http.Statuses, c.http.Contains), func(t *testing.T) {
			t.Parallel()
			p := newProbe(t, probe.Options{Kind: fleet.CheckHTTPS, Address: base + c.path, TLS: probe.TLS{CAFile: a.file}, HTTP: c.http})
			expect(t, p.Check(t.Context()), c.failure, c.detail)
		})
	}
}

func TestAProxyOfTheEnvironmentIsIgnored(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://proxy.example:3128")
	a := newAuthority(t)
	origin := web(t, a.issue(t, "web.example", time.Now().Add(time.Hour)), page("hello"))
	var dialled []string
	o := probe.Options{
		Kind: fleet.CheckHTTPS, Address: "https://web.example", TLS: probe.TLS{CAFile: a.file},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled = append(dialled, address)
			return new(net.Dialer).DialContext(ctx, network, origin)
		},
	}
	expect(t, newProbe(t, o).Check(t.Context()), "", "HTTP 200")
	if fmt.Sprint(dialled) != "[web.example:443]" {
		t.Errorf("dialled %v", dialled)
	}
}

func TestOptionsThatCannotBe(t *testing.T) {
	t.Parallel()
	host, user, users := newIdentity(t), newIdentity(t), newIdentity(t)
	key := user.signer.PublicKey()
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(ecKey(t), "", []byte("hush"))
	if err != nil {
		t.Fatal(err)
	}
	authorized := func(k ssh.PublicKey) string { return write(t, string(ssh.MarshalAuthorizedKey(k))) }
	missing := filepath.Join(t.TempDir(), "none")
	login := func(change func(*probe.SSH)) func(*probe.Options) {
		return func(o *probe.Options) {
			s := *o.SSH
			change(&s)
			o.SSH = &s
		}
	}
	for name, c := range map[string]struct {
		id     string
		change func(*probe.Options)
	}{
		"no name":          {"LS-PRB-007", func(o *probe.Options) { o.Name = "" }},
		"no cluster":       {"LS-PRB-007", func(o *probe.Options) { o.Cluster = "" }},
		"no kind":          {"LS-PRB-007", func(o *probe.Options) { o.Kind, o.SSH = "", nil }},
		"a kind of health": {"LS-PRB-007", func(o *probe.Options) { o.Kind, o.SSH = fleet.CheckMetrics, nil }},
		"time runs back":   {"LS-PRB-007", func(o *probe.Options) { o.Timeout = -1 }},
		"ssh for tcp":      {"LS-PRB-007", func(o *probe.Options) { o.Kind = fleet.CheckTCP }},
		"no ssh for ssh":   {"LS-PRB-007", func(o *probe.Options) { o.SSH = nil }},
		"tls for ssh":      {"LS-PRB-007", func(o *probe.Options) { o.TLS.ServerName = "x" }},
		"http for ssh":     {"LS-PRB-007", func(o *probe.Options) { o.HTTP.Contains = "x" }},
		"no user":          {"LS-PRB-007", login(func(s *probe.SSH) { s.User = "" })},
		"no port":          {"LS-PRB-001", func(o *probe.Options) { o.Address = "bastion" }},
		"no host":          {"LS-PRB-001", func(o *probe.Options) { o.Address = ":22" }},
		"port 0":           {"LS-PRB-001", func(o *probe.Options) { o.Address = "bastion:0" }},
		"a port too far":   {"LS-PRB-001", func(o *probe.Options) { o.Address = "bastion:70000" }},
		"a port by name":   {"LS-PRB-001", func(o *probe.Options) { o.Address = "bastion:ssh" }},
		"a URL for ssh":    {"LS-PRB-001", func(o *probe.Options) { o.Address = "ssh://bastion:22" }},
		"a host for https": {"LS-PRB-001", func(o *probe.Options) { o.Kind, o.SSH = fleet.CheckHTTPS, nil }},
		"http for https":   {"LS-PRB-001", func(o *probe.Options) { o.Kind, o.SSH, o.Address = fleet.CheckHTTPS, nil, "http://web" }},
		"a password":       {"LS-PRB-001", func(o *probe.Options) { o.Kind, o.SSH, o.Address = fleet.CheckHTTPS, nil, "https://me:hush@web" }},
		"no URL":           {"LS-PRB-001", func(o *probe.Options) { o.Kind, o.SSH, o.Address = fleet.CheckHTTPS, nil, "https://hush:port" }},
		"an odd status": {"LS-PRB-007", func(o *probe.Options) {
			o.Kind, o.SSH, o.Address, o.HTTP.Statuses = fleet.CheckHTTPS, nil, "https://web", []int{99}
		}},
		"no authorities":          {"LS-PRB-006", func(o *probe.Options) { o.Kind, o.SSH, o.TLS.CAFile = fleet.CheckTLS, nil, missing }},
		"authorities that are no": {"LS-PRB-006", func(o *probe.Options) { o.Kind, o.SSH, o.TLS.CAFile = fleet.CheckTLS, nil, user.file }},
		"no key":                  {"LS-PRB-002", login(func(s *probe.SSH) { s.KeyFile = missing })},
		"a key that is none":      {"LS-PRB-002", login(func(s *probe.SSH) { s.KeyFile = authorized(key) })},
		"a locked key":            {"LS-PRB-002", login(func(s *probe.SSH) { s.KeyFile = write(t, string(pem.EncodeToMemory(locked))) })},
		"no certificate":          {"LS-PRB-003", login(func(s *probe.SSH) { s.CertificateFile = missing })},
		"a key for a certificate": {"LS-PRB-003", login(func(s *probe.SSH) { s.CertificateFile = authorized(key) })},
		"nothing for one":         {"LS-PRB-003", login(func(s *probe.SSH) { s.CertificateFile = write(t, "") })},
		"a host's certificate":    {"LS-PRB-003", login(func(s *probe.SSH) { s.CertificateFile = authorized(users.certify(t, key, ssh.HostCert, 0)) })},
		"another's certificate": {"LS-PRB-003", login(func(s *probe.SSH) {
			s.CertificateFile = authorized(users.certify(t, host.signer.PublicKey(), ssh.UserCert, 0))
		})},
		"no host key":           {"LS-PRB-004", login(func(s *probe.SSH) { s.HostKey = "" })},
		"two host keys":         {"LS-PRB-004", login(func(s *probe.SSH) { s.InsecureHostKey = true })},
		"an odd host key":       {"LS-PRB-005", login(func(s *probe.SSH) { s.HostKey = "ssh-ed25519 hush" })},
		"no known hosts":        {"LS-PRB-005", login(func(s *probe.SSH) { s.HostKey, s.KnownHostsFile = "", missing })},
		"odd known hosts":       {"LS-PRB-005", login(func(s *probe.SSH) { s.HostKey, s.KnownHostsFile = "", write(t, "bastion") })},
		"known hosts of others": {"LS-PRB-005", login(func(s *probe.SSH) { s.HostKey, s.KnownHostsFile = "", write(t, "other "+host.line()) })},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := probe.Options{
				Cluster: "berlin", Name: "front", Kind: fleet.CheckSSH, Address: "bastion:22",
				SSH: &probe.SSH{User: "probe", KeyFile: user.file, HostKey: host.line()},
			}
			c.change(&o)
			_, err := probe.New(o)
			if errs.IDOf(err) != c.id || errs.KindOf(err) != errs.Invalid || strings.Contains(err.Error(), "hush") {
				t.Errorf("got %v, want %s", err, c.id)
			}
		})
	}
}

// A line of known hosts for a port other than 22 has brackets.
func TestANameIsKnownWithItsPort(t *testing.T) {
	t.Parallel()
	host, user := newIdentity(t), newIdentity(t)
	for line, want := range map[string]string{
		"bastion ":                      "LS-PRB-005",
		"[bastion]:2222 ":               "",
		"@cert-authority *.example ":    "LS-PRB-005",
		"@cert-authority [bast*]:2222 ": "",
	} {
		_, err := probe.New(probe.Options{Cluster: "berlin", Name: "front", Kind: fleet.CheckSSH, Address: "Bastion:2222", SSH: &probe.SSH{
			User: "probe", KeyFile: user.file, KnownHostsFile: write(t, line+host.line()),
		}})
		if errs.IDOf(err) != want {
			t.Errorf("%q: got %v, want %q", line, err, want)
		}
	}
}
