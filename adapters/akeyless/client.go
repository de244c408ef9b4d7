// Package akeyless owns the few calls Lockstep makes to the vendor's control
// plane: authentication, the registered bastions and gateways, the session list
// and a gateway's remote-access configuration, through the API or the vendor's
// command line. It turns their answers into fleet vocabulary and their failures
// into errors of a known kind.
//
// It does not decide when to poll and does not judge what it reads. On disk it
// keeps the open sessions alone, where it is given a file for them. Facts it relies
// on are listed in README.md.
package akeyless

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

const (
	defaultTimeout     = 15 * time.Second
	defaultMaxWait     = 30 * time.Second
	defaultMaxResponse = 32 << 20
	// streamFactor is how much longer than MaxResponse a streamed answer may be.
	streamFactor = 8
	maxAttempts  = 4
	unstatedWait = time.Second
	// The pauses between tries after a passing failure, before chance shortens them.
	firstPause, longestPause = 500 * time.Millisecond, 4 * time.Second
)

// Options says how to reach one account of the vendor.
type Options struct {
	// BaseURL is the root the call names are appended to, as in
	// https://api.akeyless.io or https://gateway.example:8000/api/v2.
	BaseURL string
	// Auth says who calls.
	Auth Auth
	// Command is the vendor's command line with leading arguments, as in
	// ["akeyless"] or ["ssh", "host", "akeyless"]. When given, every call runs it
	// instead of asking the API; BaseURL and Auth are then the command's own
	// business and stay empty.
	Command []string
	// CAFile holds certificates, in PEM, of authorities to trust beside the
	// machine's. It is read once.
	CAFile string
	// HTTPClient is used for its transport, cookies and overall timeout; its
	// redirect policy is not, see New. Nil means a transport of the client's
	// own that honours HTTPS_PROXY. It brings its own trust, so it excludes CAFile.
	HTTPClient *http.Client
	// Log hears of renewed tokens, imposed waits and repeated calls. Nil means
	// silence.
	Log *slog.Logger
	// Timeout bounds one request with its answer, or one run of the command; 0
	// means 15 s.
	Timeout time.Duration
	// MaxWait bounds the time one call waits, because the server said so or
	// between tries, over all its attempts; 0 means 30 s. A longer Retry-After is
	// returned in the error instead of waited for.
	MaxWait time.Duration
	// MaxResponse bounds an answer in bytes after decompression; 0 means 32 MiB. A
	// list of sessions is read as it comes and may have eight times as much.
	MaxResponse int64
	// Now dates Retry-After values that name an instant, the life of tokens and how
	// far the server's clock is off; nil means time.Now.
	Now func() time.Time
	// Chance gives numbers from 0 to below 1, by which pauses between tries are
	// shortened, so that clients that failed together do not come back together;
	// nil means real chance.
	Chance func() float64
}

// Client speaks to one account. It is safe for concurrent use.
type Client struct {
	base        string // of the API, else the command's name
	command     []string
	auth        Auth
	http        *http.Client
	log         *slog.Logger
	timeout     time.Duration
	maxWait     time.Duration
	maxResponse int64
	now         func() time.Time
	chance      func() float64

	mu         sync.Mutex
	grant      grant
	renewal    *renewal      // under way, else nil
	secrets    []Secret      // what the last authentication was made with, else what the command is given
	lifeUnsaid bool          // the server does not say how long a token lasts
	ahead      time.Duration // how far the server's clock is ahead of ours, as last measured
}

// New checks the options, looks into the secret files and makes no call. The
// client never follows a redirect: a POST sent on would carry the credentials to
// whatever host the answer names.
func New(o Options) (*Client, error) {
	if o.Timeout < 0 || o.MaxWait < 0 || o.MaxResponse < 0 {
		return nil, errors.New("akeyless client: timeout, longest wait and largest answer must not be negative")
	}
	c := &Client{
		command:     o.Command,
		log:         o.Log,
		timeout:     orDefault(o.Timeout, defaultTimeout),
		maxWait:     orDefault(o.MaxWait, defaultMaxWait),
		maxResponse: orDefault(o.MaxResponse, defaultMaxResponse),
		now:         o.Now,
		chance:      o.Chance,
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.chance == nil {
		c.chance = rand.Float64
	}
	if len(o.Command) > 0 {
		if o.BaseURL != "" || o.Auth != (Auth{}) {
			return nil, errors.New("akeyless client: a command finds address and credentials by itself; leave base URL and authentication out")
		}
		c.base, c.secrets = o.Command[0], secretArguments(o.Command[1:])
		return c, nil
	}
	base, err := checkBase(o.BaseURL)
	if err != nil {
		return nil, err
	}
	c.base = strings.TrimRight(base.String(), "/")
	if c.auth, err = o.Auth.checked(); err != nil {
		return nil, err
	}
	if c.http, err = httpClient(o.HTTPClient, o.CAFile); err != nil {
		return nil, err
	}
	if base.Scheme == "http" && !loopback(base.Hostname()) {
		c.log.Warn("the vendor API is addressed without TLS; credentials travel in the clear", "address", c.base)
	}
	return c, nil
}

// Close lets go of idle connections. The client stays usable.
func (c *Client) Close() {
	if c.http != nil {
		c.http.CloseIdleConnections()
	}
}

// Format says for every verb where the client calls and as whom, and nothing of
// what it holds.
func (c *Client) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "akeyless client of %s as %v", c.base, c.auth)
}

func checkBase(raw string) (*url.URL, error) {
	base, err := url.Parse(raw)
	switch {
	case err != nil:
		// The parse error repeats the text, which may hold a password.
		return nil, errors.New("akeyless client: the base URL cannot be read; give one like https://api.akeyless.io")
	case base.User != nil:
		return nil, errors.New("akeyless client: the base URL must not carry a user or password; use the access id and key settings")
	case base.Scheme != "https" && base.Scheme != "http", base.Host == "", base.RawQuery != "", base.Fragment != "":
		return nil, fmt.Errorf("akeyless client: the base URL must be http(s)://host[:port][/path] and nothing more, not %q", clip(raw, 200))
	}
	return base, nil
}

func httpClient(given *http.Client, caFile string) (*http.Client, error) {
	client := http.Client{}
	switch {
	case given != nil && caFile != "":
		return nil, errors.New("akeyless client: an HTTP client brings its own trust; leave the CA file out")
	case given != nil:
		client = *given
	default:
		transport, err := newTransport(caFile)
		if err != nil {
			return nil, err
		}
		client.Transport = transport
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client, nil
}

// newTransport is the standard one, proxies from the environment included, which
// trusts the authorities of a file as well.
func newTransport(caFile string) (http.RoundTripper, error) {
	standard, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("akeyless client: the standard transport is a %T, which cannot be copied", http.DefaultTransport)
	}
	transport := standard.Clone()
	if caFile == "" {
		return transport, nil
	}
	content, err := os.ReadFile(caFile)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-VEN-012", "reading vendor.ca_file: %w", err)
	}
	trusted, err := x509.SystemCertPool()
	if err != nil {
		trusted = x509.NewCertPool() // a machine without any of its own
	}
	if !trusted.AppendCertsFromPEM(content) {
		return nil, errs.New(errs.Invalid, "LS-VEN-012", "reading vendor.ca_file: %s holds no certificate; it must hold those of the authorities to trust, in PEM (-----BEGIN CERTIFICATE-----)", caFile)
	}
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	transport.TLSClientConfig.RootCAs = trusted
	return transport, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func orDefault[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// query is one call, as the API and as the command line take it.
type query struct {
	call  string
	body  map[string]any // for the API, without the token
	flags []string       // for the command line, without --json
	// once: a failure that may pass is not worth a second try.
	once bool
	// confidential: the answer holds credentials, so no error repeats a word of it.
	confidential bool
	// streamed: the answer is read as it comes and may be long.
	streamed bool
}

// ask makes a call and has its answer read by decode, which may be called again
// after a failure and then begins anew. asOf is the server's clock when it was
// asked, at the earliest; the zero time when it does not say.
func (c *Client) ask(ctx context.Context, q query, decode func(io.Reader) error) (asOf time.Time, err error) {
	if len(c.command) > 0 {
		return time.Time{}, c.run(ctx, q, decode)
	}
	token, err := c.tokenOtherThan(ctx, "")
	if err != nil {
		return time.Time{}, err
	}
	asOf, err = c.send(ctx, q, token, decode)
	if KindOf(err) != KindRejected {
		return asOf, err
	}
	// Per request, so that a token that expires between two pages costs one
	// renewal and no page.
	if token, err = c.tokenOtherThan(ctx, token); err != nil {
		return time.Time{}, err
	}
	return c.send(ctx, q, token, decode)
}

// send makes one call with the given token, waiting out rate limits and trying
// again after failures that may pass, within maxWait: every call only reads.
func (c *Client) send(ctx context.Context, q query, token Secret, decode func(io.Reader) error) (asOf time.Time, err error) {
	body := maps.Clone(q.body)
	if token != "" {
		if body == nil {
			body = make(map[string]any, 1)
		}
		body["token"] = string(token)
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return time.Time{}, fmt.Errorf("encode the %s request: %w", q.call, err)
	}
	left := c.maxWait
	backoff := rtime.Backoff{First: firstPause, Max: longestPause}
	for attempt := 1; ; attempt++ {
		asOf, err = c.post(ctx, q, payload, token, decode)
		var failure *Error
		if !errors.As(err, &failure) || attempt == maxAttempts || q.once {
			return asOf, err
		}
		wait := failure.RetryAfter
		if failure.Kind != KindRateLimited {
			if !failure.passing() {
				return asOf, err
			}
			wait = time.Duration(c.chance() * float64(backoff.Next()))
		}
		if deadline, ends := ctx.Deadline(); wait > left || ends && time.Until(deadline) <= wait {
			return asOf, err // what went wrong says more than that time ran out
		}
		left -= wait
		c.log.DebugContext(ctx, "vendor API call is made again", "address", failure.Address, "kind", failure.Kind, "wait", wait, "attempt", attempt)
		if rtime.Wait(ctx, wait) != nil {
			return time.Time{}, fmt.Errorf("wait for %s to accept calls again: %w", failure.Address, context.Cause(ctx))
		}
	}
}

func (c *Client) post(caller context.Context, q query, payload []byte, token Secret, decode func(io.Reader) error) (asOf time.Time, err error) {
	address := c.base + "/" + q.call
	fail := func(kind Kind, detail string, cause error) *Error {
		return c.failure(q, kind, token, detail, cause)
	}
	ctx, cancel := context.WithTimeout(caller, c.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(payload))
	if err != nil {
		return time.Time{}, fmt.Errorf("build the request to %s: %w", address, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")

	// broken sorts out whose end a transport failure was.
	broken := func(doing string, err error) error {
		if caller.Err() != nil {
			return fmt.Errorf("%s %s: %w", doing, address, context.Cause(caller))
		}
		if ctx.Err() != nil {
			return fail(KindUnreachable, fmt.Sprintf("no answer within %s", c.timeout), context.DeadlineExceeded)
		}
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // its text repeats the address
		}
		return fail(KindUnreachable, err.Error(), err)
	}
	sent := c.now()
	response, err := c.http.Do(request)
	if err != nil {
		return time.Time{}, broken("call", err)
	}
	received := c.now()
	defer func() { _ = response.Body.Close() }() // nothing is left to lose once the body is read
	limit := c.maxResponse
	if q.streamed {
		limit *= streamFactor
	}
	body := &bounded{from: response.Body, left: limit}
	answer := bufio.NewReader(body)
	status := func(failure *Error) error {
		failure.Status = response.StatusCode
		return failure
	}
	// unread sorts out why an answer could not be read to its end.
	unread := func(err error) error {
		switch {
		case errors.Is(err, errTooLarge):
			return status(fail(KindTooLarge, fmt.Sprintf("more than %d bytes, or one piece of it more than %d", limit, largestPiece), nil))
		case body.err != nil:
			return broken("read the answer of", body.err)
		}
		return c.malformedAnswer(q, token, err)
	}
	if response.StatusCode == http.StatusOK && startsObject(answer) {
		asOf = c.clock(sent, received, response.Header)
		if err := decode(answer); err != nil {
			return time.Time{}, unread(err)
		}
		return asOf, nil
	}
	said, err := io.ReadAll(answer)
	if err != nil {
		return time.Time{}, unread(err)
	}
	failure := c.refusal(q, response, said, token)
	if failure.Kind == KindAPI || failure.Kind == KindFault || failure.Kind == KindRejected {
		c.clock(sent, received, response.Header)
	}
	return time.Time{}, status(failure)
}

// clock measures how far the server's clock is ahead of ours by the Date of its
// answer, taken as of the middle of the round trip, and returns the server's
// clock when it was asked, at the earliest. A date is cut to its second: what that
// and the round trip explain is no difference.
func (c *Client) clock(sent, received time.Time, header http.Header) (asOf time.Time) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	const cut = time.Second
	took := max(received.Sub(sent), 0)
	ahead := date.Add(cut / 2).Sub(sent.Add(took / 2))
	if ahead.Abs() <= cut/2+took/2 {
		ahead = 0
	}
	c.mu.Lock()
	c.ahead = ahead
	c.mu.Unlock()
	return date.Add(-took)
}

// skew is how far the server's clock is ahead of ours, as last measured; zero
// when they agree or it is unknown.
func (c *Client) skew() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead
}

// failure is a failed call; detail is cleaned of secrets here.
func (c *Client) failure(q query, kind Kind, token Secret, detail string, cause error) *Error {
	return &Error{Kind: kind, Call: q.call, Address: c.base + "/" + q.call, Detail: c.clean(detail, token), cause: cause}
}

// refusal turns an answer that is not a 200 with a JSON object into an error.
func (c *Client) refusal(q query, response *http.Response, body []byte, token Secret) *Error {
	var said struct {
		Error json.RawMessage `json:"error"`
	}
	documented := startsObject(bufio.NewReader(bytes.NewReader(body))) && json.Unmarshal(body, &said) == nil && len(said.Error) > 0
	message := string(said.Error)
	_ = json.Unmarshal(said.Error, &message) // not a string: its JSON text says as much
	speaksOfToken := strings.Contains(strings.ToLower(message), "token")
	contentType, start := response.Header.Get("Content-Type"), string(body[:min(len(body), 4096)])
	if q.confidential {
		message, contentType, start = withheld, "", withheld
	}
	wait, stated := c.retryAfter(response.Header.Get("Retry-After"))
	status := response.StatusCode
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable && stated:
		failure := c.failure(q, KindRateLimited, token, message, nil)
		failure.RetryAfter = wait
		return failure
	case !documented:
		failure := c.failure(q, KindNotJSON, token, "", nil)
		failure.ContentType = c.clean(contentType, token)
		failure.Start = c.clean(start, token)
		return failure
	case status == http.StatusUnauthorized,
		status == http.StatusForbidden && (token == "" || speaksOfToken):
		failure := c.failure(q, KindRejected, token, message, nil)
		failure.check = c.auth.parts()
		return failure
	case status >= http.StatusInternalServerError:
		return c.failure(q, KindFault, token, message, nil)
	}
	return c.failure(q, KindAPI, token, message, nil)
}

// retryAfter reads both forms of RFC 9110 section 10.2.3. A value it cannot
// read counts as unstated.
func (c *Client) retryAfter(header string) (wait time.Duration, stated bool) {
	const longest = 24 * time.Hour // keeps the arithmetic far from overflow
	if seconds, err := strconv.ParseUint(strings.TrimSpace(header), 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, longest), true
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(at.Sub(c.now()), 0), longest), true
	}
	return unstatedWait, false
}

// withheld stands for words of an answer that holds credentials.
const withheld = "[left out, as this answer may hold credentials]"

// malformed is an answer that is JSON and not what the call promises.
func (c *Client) malformed(call string, cause error) *Error {
	return c.malformedAnswer(query{call: call}, "", cause)
}

func (c *Client) malformedAnswer(q query, token Secret, cause error) *Error {
	// Decoder errors name offsets, types and keys, and repeat numbers; what is in
	// them could only be a secret if the server made it one, so they are cleaned.
	detail, cut := cause.Error(), errors.Is(cause, io.ErrUnexpectedEOF)
	if q.confidential {
		detail, cause = withheld, nil
	}
	failure := c.failure(q, KindMalformed, token, detail, cause)
	failure.Status, failure.cut = http.StatusOK, cut
	return failure
}

// startsObject looks at the first byte that is not space and leaves it unread.
func startsObject(r *bufio.Reader) bool {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return false
		}
		if b == ' ' || b == '\t' || b == '\r' || b == '\n' {
			continue
		}
		return r.UnreadByte() == nil && b == '{'
	}
}
