// Package forward owns the look at the endpoint that a gateway forwards its logs
// to: whether it takes a connection, and, where an operator allows it, a test line.
// It turns failures into the classes of fleet.
//
// It reads no log and does not know whether a line reached those who search for
// it: that is seen in their system alone.
package forward

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Kind is how the endpoint is spoken to.
type Kind string

// Every kind.
const (
	TCP    Kind = "tcp"    // a connection; a test line is plain text
	TLS    Kind = "tls"    // the same within TLS
	Syslog Kind = "syslog" // RFC 5424 messages, counted in octets, over TCP or TLS
	HTTPS  Kind = "https"  // JSON by POST, as Splunk's HTTP event collector takes it
)

const defaultTimeout = 10 * time.Second

// Options say what to look at.
type Options struct {
	Cluster fleet.ClusterID
	// Name is what the check is called.
	Name string
	Kind Kind
	// Address is host:port, for the kind https a URL. An http URL is taken on this
	// machine alone.
	Address string
	// TLS speaks syslog within TLS.
	TLS bool
	// CAFile holds authorities in PEM that are trusted beside the machine's.
	CAFile string
	// Send also sends a test line, which whoever reads that log then has.
	Send bool
	// TokenFile goes with a test line of the kind https, read at every check: in the
	// header Authorization after "Splunk ", or alone in the header named.
	TokenFile, Header string
	// Timeout bounds one check; 0 means 10 s.
	Timeout time.Duration
	Now     func() time.Time
}

// Endpoint is one receiver of logs.
type Endpoint struct {
	opts   Options
	target string // Address without what may be secret in a URL
	url    *url.URL
	secure bool
	host   string // host:port
	name   string // the host that a certificate must be of
	roots  *x509.CertPool
}

// New checks the options, reads the files they name and makes no connection.
func New(opts Options) (*Endpoint, error) {
	opts.Timeout = cmp.Or(opts.Timeout, defaultTimeout)
	e := &Endpoint{opts: opts, host: opts.Address, target: opts.Address}
	if opts.TLS && opts.Kind != Syslog {
		return nil, e.invalid(fmt.Sprintf("the setting tls belongs to the kind syslog, and the kind is %q; plain text within TLS is the kind tls", opts.Kind))
	}
	switch opts.Kind {
	case TCP, TLS, Syslog:
		host, port, err := net.SplitHostPort(opts.Address)
		if err != nil || host == "" || port == "" {
			return nil, e.invalid("its address is not host:port")
		}
		if opts.TokenFile != "" || opts.Header != "" {
			return nil, e.invalid("a token and its header belong to the kind https")
		}
		e.name, e.secure = host, opts.Kind == TLS || opts.Kind == Syslog && opts.TLS
	case HTTPS:
		if err := e.readURL(); err != nil {
			return nil, err
		}
	default:
		return nil, e.invalid(fmt.Sprintf("%q is no kind; known are %s, %s, %s and %s", opts.Kind, TCP, TLS, Syslog, HTTPS))
	}
	if opts.CAFile != "" {
		pem, err := os.ReadFile(opts.CAFile)
		if err != nil {
			return nil, errs.New(errs.Invalid, "LS-PIP-007", "reading the authorities of the log receiver %s: %w", opts.Name, err)
		}
		if e.roots, err = x509.SystemCertPool(); err != nil {
			e.roots = x509.NewCertPool() // a machine without authorities has those of the file
		}
		if !e.roots.AppendCertsFromPEM(pem) {
			return nil, e.invalid("the file " + opts.CAFile + " holds no certificate in PEM")
		}
	}
	if _, err := e.token(); err != nil {
		return nil, errs.New(errs.Invalid, "LS-PIP-007", "the log receiver %s: %w", opts.Name, err)
	}
	return e, nil
}

func (e *Endpoint) invalid(why string) error {
	return errs.New(errs.Invalid, "LS-PIP-007", "the log receiver %s: %s", e.opts.Name, why)
}

// readURL repeats nothing of a URL but its host: paths and parameters of such
// addresses hold keys.
func (e *Endpoint) readURL() error {
	u, err := url.Parse(e.opts.Address)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
		return e.invalid("its address is not https://host[:port]/path; a token has a setting of its own")
	}
	e.url, e.name, e.secure = u, u.Hostname(), u.Scheme == "https"
	if ip := net.ParseIP(e.name); !e.secure && e.name != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return e.invalid("http to another machine would show the token and the line to everyone between; use https")
	}
	port := "443"
	if !e.secure {
		port = "80"
	}
	e.host = net.JoinHostPort(e.name, cmp.Or(u.Port(), port))
	e.target = u.Scheme + "://" + u.Host
	return nil
}

var errToken = errors.New("its token cannot be read")

// token reads the token, empty when there is none.
func (e *Endpoint) token() (string, error) {
	if e.opts.TokenFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(e.opts.TokenFile)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errToken, err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return "", fmt.Errorf("%w: the file %s does not hold one line", errToken, e.opts.TokenFile)
	}
	return token, nil
}

// Check looks once. Without Options.Send it connects, within TLS where that is
// asked for, and says nothing; the kind https then goes past any proxy.
func (e *Endpoint) Check(ctx context.Context) fleet.Check {
	began := e.opts.Now()
	check := fleet.Check{Cluster: e.opts.Cluster, Name: e.opts.Name, Kind: fleet.CheckForwarding, Target: e.target, At: began}
	bounded, cancel := context.WithTimeout(ctx, e.opts.Timeout)
	defer cancel()
	var err error
	switch {
	case e.opts.Kind == HTTPS && e.opts.Send:
		check.Detail = "the receiver took a test line"
		check.CertificateExpires, err = e.post(bounded, began)
	case e.opts.Send:
		check.Detail = "a test line was sent and the connection stayed whole; this receiver does not say more"
		check.CertificateExpires, err = e.connect(bounded, e.line(began))
	default:
		check.Detail = "the receiver takes connections; no test line was sent"
		check.CertificateExpires, err = e.connect(bounded, nil)
	}
	check.Took = max(e.opts.Now().Sub(began), 0)
	if check.OK = err == nil; !check.OK {
		check.Failure, check.Detail = e.explain(ctx, err)
	}
	return check
}

func (e *Endpoint) tlsConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: e.roots, ServerName: e.name}
}

// client makes one request on a connection of its own and follows no redirect,
// which would carry the token to a place nobody configured.
func (e *Endpoint) client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: e.tlsConfig(), DisableKeepAlives: true, ForceAttemptHTTP2: true,
			// A connection that is being made outlives its request.
			DialContext: (&net.Dialer{Timeout: e.opts.Timeout}).DialContext, TLSHandshakeTimeout: e.opts.Timeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
