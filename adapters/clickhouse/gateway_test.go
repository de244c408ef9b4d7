//go:build linux && amd64

package clickhouse

import (
	"compress/gzip"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
)

// gateway makes the embedded engine a server on TCP, with a user, a password and
// compression.
type gateway struct {
	server *httptest.Server
	proxy  *httputil.ReverseProxy
	// refuse, if set, is asked about each statement; a code that is not 0 is
	// answered with that error of ClickHouse.
	refuse func(sql string) (code int, text string)
	// rewrite, if set, changes an answer's body.
	rewrite func(body string) string
}

const (
	gatewayUser     = "lockstep"
	gatewayPassword = "it's 100 % s3cret/@:"
)

func newGateway(t testing.TB) *gateway {
	transport := &http.Transport{DialContext: shared.DialContext}
	g := &gateway{proxy: &httputil.ReverseProxy{
		Transport: transport, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // of clients that leave
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "engine"}) },
	}}
	g.server = httptest.NewServer(g)
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(g.server.Close)
	return g
}

// dsn names a database behind the gateway.
func (g *gateway) dsn(password, database, query string) string {
	u := url.URL{Scheme: "http", User: url.UserPassword(gatewayUser, password), Host: g.server.Listener.Addr().String(), Path: "/" + database, RawQuery: query}
	return u.String()
}

// inDatabase is a DSN with a database of the test's own.
func (g *gateway) inDatabase(query string) string {
	return g.dsn(gatewayPassword, "t"+strings.ToLower(rand.Text()[:12]), query)
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	user, password, _ := r.BasicAuth()
	if user != gatewayUser || subtle.ConstantTimeCompare([]byte(password), []byte(gatewayPassword)) != 1 {
		answer(w, http.StatusForbidden, 516, user+": Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)")
		return
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		plain, err := gzip.NewReader(r.Body)
		if err != nil {
			answer(w, http.StatusInternalServerError, 354, "inflate failed. (ZLIB_INFLATE_FAILED)")
			return
		}
		r.Body, r.ContentLength = plain, -1
		r.Header.Del("Content-Encoding")
	}
	if g.refuse != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client went away
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if code, text := g.refuse(r.URL.Query().Get("query") + string(body)); code != 0 {
			answer(w, http.StatusInternalServerError, code, text)
			return
		}
	}
	switch {
	case g.rewrite != nil:
		recorded := httptest.NewRecorder()
		g.proxy.ServeHTTP(recorded, r)
		_, _ = io.WriteString(w, g.rewrite(recorded.Body.String()))
	case r.Header.Get("Accept-Encoding") == "gzip":
		packed := gzip.NewWriter(w)
		defer packed.Close()
		g.proxy.ServeHTTP(&packing{w, packed}, r)
	default:
		g.proxy.ServeHTTP(w, r)
	}
}

func answer(w http.ResponseWriter, status, code int, text string) {
	w.Header().Set("X-ClickHouse-Exception-Code", fmt.Sprint(code))
	http.Error(w, fmt.Sprintf("Code: %d. DB::Exception: %s", code, text), status)
}

// packing answers with a packed body.
type packing struct {
	http.ResponseWriter
	body *gzip.Writer
}

func (p *packing) WriteHeader(status int) {
	p.Header().Del("Content-Length")
	p.Header().Set("Content-Encoding", "gzip")
	p.ResponseWriter.WriteHeader(status)
}

func (p *packing) Write(b []byte) (int, error) { return p.body.Write(b) }
