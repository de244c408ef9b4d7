package rpc

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	// maxURL bounds the URL of a call that goes as a GET, in bytes; proxies on the
	// way take little more. A longer one goes as a POST.
	maxURL = 4 << 10
	// answerLimit bounds a unary call whose caller sets no limit, so that a server
	// that hangs does not hang its callers. It leaves a server time to say itself
	// that a call takes too long.
	answerLimit = DefaultTimeout + 15*time.Second

	dialTimeout = 10 * time.Second
	keepAlive   = 15 * time.Second
)

// ClientOptions says whom a client calls, and as whom.
type ClientOptions struct {
	// URL of the server, such as "https://lockstep.example.org".
	URL string
	// Token is the bearer token.
	Token string
	// Transport carries the requests; nil means one of the client's own.
	Transport http.RoundTripper
}

// Client calls the procedures of one server: give its Client to the constructors
// of generated clients. Close it at the end.
type Client struct {
	*connect.Client
	close func()
}

// NewClient prepares a client. Nothing is sent yet.
func NewClient(opts ClientOptions) (*Client, error) {
	u, err := url.Parse(opts.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errs.New(errs.Invalid, "LS-API-016", "%q is not the address of a server; write one such as http://127.0.0.1:8470", opts.URL)
	}
	transport, done := opts.Transport, func() {}
	if transport == nil {
		own := newTransport()
		transport, done = own, own.CloseIdleConnections
	}
	options := []connecthttp.Option{
		connecthttp.WithReadMaxBytes(MaxMessage), connecthttp.WithSendMaxBytes(MaxMessage),
		connecthttp.WithHTTPGet(), connecthttp.WithHTTPGetMaxURLSize(maxURL, true),
	}
	if here(u.Hostname()) {
		// To pack and unpack costs more there than to carry.
		options = append(options, connecthttp.WithCompressors())
	}
	calls := connecthttp.NewTransport(&http.Client{
		Transport: &bearer{"Bearer " + opts.Token, transport},
		// A redirect would carry the token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, strings.TrimSuffix(opts.URL, "/"), options...)
	return &Client{connect.NewClient(calls, patience), done}, nil
}

// here says whether a host is this machine by its name alone.
func here(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Close lets go of connections that are not in use.
func (c *Client) Close() { c.close() }

func newTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: dialTimeout, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 4,
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}

// bearer shows the token with every request.
type bearer struct {
	authorization string
	next          http.RoundTripper
}

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", b.authorization)
	return b.next.RoundTrip(r)
}

// patience bounds unary calls in time.
func patience(next connect.ClientFunc) connect.ClientFunc {
	return func(ctx context.Context, spec connect.Spec) (connect.ClientStream, error) {
		if _, limited := ctx.Deadline(); limited || spec.StreamType != connect.StreamTypeUnary {
			return next(ctx, spec)
		}
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		stream, err := next(ctx, spec)
		if err != nil {
			cancel()
			return nil, err
		}
		return &boundedCall{stream, cancel}, nil
	}
}

// boundedCall lets go of its limit when it is over.
type boundedCall struct {
	connect.ClientStream
	cancel func()
}

func (c *boundedCall) Close() error {
	defer c.cancel()
	return c.ClientStream.Close()
}
