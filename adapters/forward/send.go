package forward

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	// settle is how long a receiver may take to break off after a line it does not
	// want. One that wants it says nothing.
	settle = time.Second
	// notice begins every test line: who finds one should know what it is.
	notice = "Lockstep test line: whether log forwarding is accepted; no action is needed"
	// maxAnswer bounds what is read of an answer that is no success, and maxShown
	// what is shown of it, both in bytes.
	maxAnswer = 4 << 10
	maxShown  = 300
)

// words is the test line's text.
func (e *Endpoint) words() string {
	return fmt.Sprintf("%s; cluster=%s check=%s", notice, printable(string(e.opts.Cluster)), printable(e.opts.Name))
}

// line is what a receiver without HTTP is sent.
func (e *Endpoint) line(at time.Time) []byte {
	if e.opts.Kind != Syslog {
		return []byte(e.words() + "\n")
	}
	// RFC 5424 section 6: facility user, severity informational; no host, process
	// or structured data. RFC 6587 section 3.4.1 and RFC 5425 section 4.3 count it.
	message := fmt.Sprintf("<14>1 %s - lockstep - FORWARDING-CHECK - %s", at.UTC().Format("2006-01-02T15:04:05.000Z"), e.words())
	return fmt.Appendf(nil, "%d %s", len(message), message)
}

// printable keeps a name from ending the line or the message.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
}

// connect opens a connection, sends line when there is one, and closes it. It
// returns when the certificate ends that was shown.
func (e *Endpoint) connect(ctx context.Context, line []byte) (expires time.Time, err error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", e.host)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = conn.Close() }() // all that could be lost is told by what came before
	// A connection knows deadlines and no contexts.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo()) })()
	stream, ok := conn.(halfCloser)
	if !ok {
		return time.Time{}, fmt.Errorf("a connection of type %T cannot be closed on one side", conn)
	}
	if e.secure {
		secure := tls.Client(conn, e.tlsConfig())
		if err := secure.HandshakeContext(ctx); err != nil {
			return shownBy(err), err
		}
		expires, stream = shown(secure.ConnectionState()), secure
	}
	if line == nil {
		return expires, nil
	}
	if _, err := stream.Write(line); err != nil {
		return expires, fmt.Errorf("sending a test line: %w", err)
	}
	if err := stream.CloseWrite(); err != nil {
		return expires, fmt.Errorf("sending a test line: %w", err)
	}
	return expires, e.stays(ctx, conn, stream)
}

// halfCloser is a connection whose sending side can be closed alone.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// stays waits whether the receiver breaks off. That it closes in order, answers or
// says nothing is all the same: the line went through.
func (e *Endpoint) stays(ctx context.Context, conn net.Conn, stream io.Reader) error {
	wait, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	defer context.AfterFunc(wait, func() { _ = conn.SetReadDeadline(longAgo()) })()
	_, err := io.Copy(io.Discard, io.LimitReader(stream, 64<<10))
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("sending a test line: %w", err)
}

// longAgo is a deadline that has passed by every clock.
func longAgo() time.Time { return time.Unix(1, 0) }

// refusal is an answer over HTTP that is not a success.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

// post sends the test line as JSON.
func (e *Endpoint) post(ctx context.Context, at time.Time) (expires time.Time, err error) {
	token, err := e.token()
	if err != nil {
		return time.Time{}, err
	}
	// These are the keys of Splunk's collector; others take any JSON.
	body, err := json.Marshal(map[string]any{
		"time": at.Unix(), "source": "lockstep", "event": map[string]string{
			"message": e.words(), "cluster": string(e.opts.Cluster), "check": e.opts.Name, "sent_at": at.UTC().Format(time.RFC3339Nano),
		},
	})
	if err != nil {
		return time.Time{}, fmt.Errorf("encoding a test line: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url.String(), bytes.NewReader(body))
	if err != nil {
		return time.Time{}, fmt.Errorf("making a request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "lockstep")
	switch {
	case token != "" && e.opts.Header == "":
		req.Header.Set("Authorization", "Splunk "+token)
	case token != "":
		req.Header.Set(e.opts.Header, token)
	}
	resp, err := e.client().Do(req)
	if err != nil {
		return shownBy(err), err
	}
	defer func() { _ = resp.Body.Close() }() // the answer counts, not how it ends
	if resp.TLS != nil {
		expires = shown(*resp.TLS)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return expires, nil
	}
	// A token that begins in what is shown must be whole in what is read, or a part
	// of it would be shown.
	said, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+int64(len(token))))
	if err != nil {
		said = nil // the status says enough
	}
	// The token that was sent: another may be in the file by now.
	text := hide(fmt.Sprintf("it answered %s: %s", resp.Status, said), token)
	return expires, &refusal{status: resp.StatusCode, text: strings.ToValidUTF8(text[:min(len(text), maxShown)], "")}
}
