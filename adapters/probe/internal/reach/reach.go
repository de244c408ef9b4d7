package reach

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Dial opens a connection and returns when ctx ends.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Open connects over TCP. The connection closes when ctx ends, so that whoever
// cancels ctx when a look is over leaves nothing open.
func Open(ctx context.Context, dial Dial, address string, trail *Trail) (net.Conn, error) {
	trail.Enter(PartConnect)
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSStart: func(httptrace.DNSStartInfo) { trail.Enter(PartDNS) },
		DNSDone: func(info httptrace.DNSDoneInfo) {
			if info.Err == nil {
				trail.Leave(PartDNS)
				trail.Enter(PartConnect)
			}
		},
	})
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(traced, "tcp", address)
	if err != nil {
		return nil, err
	}
	trail.Leave(PartConnect)
	// No deadline is set on the connection: it would break things a moment before
	// ctx can tell why.
	context.AfterFunc(ctx, func() { conn.Close() })
	return conn, nil
}

// TLS says whom to trust and under which name.
type TLS struct {
	// CAFile holds the PEM certificates of the authorities to trust instead of the
	// machine's; empty means the machine's. It is read anew at each look.
	CAFile string
	// ServerName is the name that the certificate must bear; empty means the
	// address's.
	ServerName string
}

// Config reads the authorities.
func (t TLS) Config() (*tls.Config, error) {
	config := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CAFile == "" {
		return config, nil
	}
	text, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-PRB-006", "the file of authorities cannot be read: %w; give one this user may read", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, errs.New(errs.Invalid, "LS-PRB-006", "no certificate is in %s; it must hold PEM blocks that begin with BEGIN CERTIFICATE", t.CAFile)
	}
	return config, nil
}

// Handshake does the TLS handshake on conn and notes the certificate that was
// shown, also when it is refused.
func Handshake(ctx context.Context, conn net.Conn, config *tls.Config, trail *Trail) (tls.ConnectionState, error) {
	trail.Enter(PartTLS)
	client := tls.Client(conn, config)
	err := client.HandshakeContext(ctx)
	state := client.ConnectionState()
	trail.shook(state, err)
	return state, err
}

// shook notes how a TLS handshake ended.
func (t *Trail) shook(state tls.ConnectionState, err error) {
	shown := state.PeerCertificates
	if refused, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		shown = refused.UnverifiedCertificates
	}
	if len(shown) > 0 {
		t.Expires(shown[0].NotAfter)
	}
	if err == nil {
		t.Leave(PartTLS)
	}
}

// Request is one GET.
type Request struct {
	URL    string
	Accept string
	TLS    *tls.Config
	Dial   Dial
	// Final says whether an answer with this status is the end although it points
	// elsewhere. Other redirects are followed as long as scheme and host stay.
	Final func(status int) bool
	// Limit bounds the body in bytes, after decompression.
	Limit int64
}

// Answer is what came back.
type Answer struct {
	Status      int
	ContentType string
	Body        []byte
	Cut         bool // there is more than Body
}

// maxRedirects is how often one request is sent on.
const maxRedirects = 10

// Get makes one request, on connections of its own.
func Get(ctx context.Context, r Request, trail *Trail) (Answer, error) {
	transport := &http.Transport{
		// No proxy of the environment: a look is from here.
		// The transport dials apart from the request, to keep the connection for
		// another one; here there is no other, so the look's own context counts.
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			return Open(ctx, r.Dial, address, trail)
		},
		TLSClientConfig:        r.TLS,
		MaxResponseHeaderBytes: 64 << 10,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		first := via[0].URL
		if next.URL.Scheme != first.Scheme || next.URL.Host != first.Host || next.Response != nil && r.Final(next.Response.StatusCode) {
			return http.ErrUseLastResponse
		}
		if len(via) > maxRedirects {
			return Found(fleet.FailureHTTPStatus, "redirected more than %d times", maxRedirects)
		}
		return nil
	}}
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeStart: func() { trail.Enter(PartTLS) },
		TLSHandshakeDone:  trail.shook,
		// Before the request leaves, so that no answer can be faster.
		WroteHeaders:         func() { trail.Enter(PartFirstByte) },
		GotFirstResponseByte: func() { trail.Leave(PartFirstByte); trail.Enter(PartAnswer) },
	})
	request, err := http.NewRequestWithContext(traced, http.MethodGet, r.URL, http.NoBody)
	if err != nil {
		return Answer{}, err
	}
	request.Header.Set("User-Agent", "lockstep")
	if r.Accept != "" {
		request.Header.Set("Accept", r.Accept)
	}
	response, err := client.Do(request)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	answer := Answer{Status: response.StatusCode, ContentType: response.Header.Get("Content-Type")}
	answer.Body, err = io.ReadAll(io.LimitReader(response.Body, r.Limit+1))
	if err != nil {
		return Answer{}, err
	}
	if int64(len(answer.Body)) > r.Limit {
		answer.Body, answer.Cut = answer.Body[:r.Limit], true
	}
	return answer, nil
}
