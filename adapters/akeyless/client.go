// Package akeyless owns the few calls Lockstep makes to the vendor's control
// plane: authentication, the registered bastions and the session list. It
// turns their answers into fleet vocabulary and their failures into errors of
// a known kind.
//
// It does not decide when to poll, does not keep anything on disk and does not
// judge what it reads. Facts it relies on are listed in README.md.
package akeyless

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	defaultTimeout     = 15 * time.Second
	defaultMaxWait     = 30 * time.Second
	defaultMaxResponse = 32 << 20
	maxAttempts        = 4
	unstatedWait       = time.Second
)

// Options says how to reach one account of the vendor.
type Options struct {
	// BaseURL is the root the call names are appended to, as in
	// https://api.akeyless.io or https://gateway.example:8000/api/v2.
	BaseURL string
	// AccessID and AccessKey are an access_key credential. Space around the
	// key, such as a file's last newline, is dropped.
	AccessID  string
	AccessKey Secret
	// HTTPClient is used for its transport, cookies and overall timeout; its
	// redirect policy is not, see New. Nil means a transport of the client's
	// own that honours HTTPS_PROXY.
	HTTPClient *http.Client
	// Log hears of renewed tokens and imposed waits. Nil means silence.
	Log *slog.Logger
	// Timeout bounds one request with its answer; 0 means 15 s.
	Timeout time.Duration
	// MaxWait bounds the time one call waits because the server said so, over
	// all its attempts; 0 means 30 s. A longer Retry-After is returned in the
	// error instead of waited for.
	MaxWait time.Duration
	// MaxResponse bounds an answer in bytes after decompression; 0 means 32 MiB.
	MaxResponse int64
	// Now dates Retry-After values that name an instant; nil means time.Now.
	Now func() time.Time
}

// Client speaks to one account. It is safe for concurrent use.
type Client struct {
	base        string
	accessID    string
	accessKey   Secret
	http        *http.Client
	log         *slog.Logger
	timeout     time.Duration
	maxWait     time.Duration
	maxResponse int64
	now         func() time.Time

	// turn holds the one right to read or renew token, so that many calls
	// rejected at once renew it once and each waiter can still be cancelled.
	turn  chan struct{}
	token Secret
}

// New checks the options and makes no call. The client never follows a
// redirect: a POST sent on would carry the credentials to whatever host the
// answer names.
func New(o Options) (*Client, error) {
	base, err := checkBase(o.BaseURL)
	if err != nil {
		return nil, err
	}
	key := Secret(strings.TrimSpace(string(o.AccessKey)))
	if o.AccessID == "" || key == "" {
		return nil, errors.New("akeyless client: the access id and the access key are both needed; create an access_key authentication method and point to its key with a *_file setting")
	}
	if o.Timeout < 0 || o.MaxWait < 0 || o.MaxResponse < 0 {
		return nil, errors.New("akeyless client: timeout, longest wait and largest answer must not be negative")
	}
	client := http.Client{Transport: cloneTransport()}
	if o.HTTPClient != nil {
		client = *o.HTTPClient
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c := &Client{
		base:        strings.TrimRight(base.String(), "/"),
		accessID:    o.AccessID,
		accessKey:   key,
		http:        &client,
		log:         o.Log,
		timeout:     orDefault(o.Timeout, defaultTimeout),
		maxWait:     orDefault(o.MaxWait, defaultMaxWait),
		maxResponse: orDefault(o.MaxResponse, defaultMaxResponse),
		now:         o.Now,
		turn:        make(chan struct{}, 1),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	if base.Scheme == "http" && !loopback(base.Hostname()) {
		c.log.Warn("the vendor API is addressed without TLS; credentials travel in the clear", "address", c.base)
	}
	return c, nil
}

// Close lets go of idle connections. The client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

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

func cloneTransport() http.RoundTripper {
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		return t.Clone()
	}
	return http.DefaultTransport
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

// authorized makes one call with the cached token and, when the server rejects
// that token, once more with a new one. It is per request, so a token that
// expires between two pages costs one renewal and no page.
func (c *Client) authorized(ctx context.Context, call string, request map[string]any) ([]byte, error) {
	token, err := c.tokenOtherThan(ctx, "")
	if err != nil {
		return nil, err
	}
	body, err := c.send(ctx, call, withToken(request, token))
	if KindOf(err) != KindRejected {
		return body, err
	}
	token, err = c.tokenOtherThan(ctx, token)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, call, withToken(request, token))
}

func withToken(request map[string]any, token Secret) map[string]any {
	full := maps.Clone(request)
	full["token"] = string(token)
	return full
}

// tokenOtherThan returns the cached token, renewing it when there is none or
// when it is the one the caller saw rejected.
func (c *Client) tokenOtherThan(ctx context.Context, rejected Secret) (Secret, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for a token of %s: %w", c.base, context.Cause(ctx))
	}
	if c.token != "" && c.token != rejected {
		return c.token, nil
	}
	c.token = ""
	body, err := c.send(ctx, "auth", map[string]any{
		"access-id":   c.accessID,
		"access-key":  string(c.accessKey),
		"access-type": "access_key",
	})
	if err != nil {
		return "", err
	}
	var reply struct {
		Token text `json:"token"`
	}
	if err := json.Unmarshal(body, &reply); err != nil {
		return "", c.malformed("auth", err)
	}
	if reply.Token == "" {
		return "", c.malformed("auth", errors.New("it holds no token"))
	}
	c.token = Secret(reply.Token)
	c.log.InfoContext(ctx, "vendor token renewed", "address", c.base, "access_id", c.accessID, "after_rejection", rejected != "")
	return c.token, nil
}

// send makes one call, waiting out rate limits within maxWait.
func (c *Client) send(ctx context.Context, call string, request map[string]any) ([]byte, error) {
	payload, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode the %s request: %w", call, err)
	}
	token, _ := request["token"].(string)
	left := c.maxWait
	for attempt := 1; ; attempt++ {
		body, err := c.post(ctx, call, payload, Secret(token))
		var failure *Error
		if !errors.As(err, &failure) || failure.Kind != KindRateLimited ||
			attempt == maxAttempts || failure.RetryAfter > left {
			return body, err
		}
		left -= failure.RetryAfter
		c.log.WarnContext(ctx, "vendor API asks to wait", "address", failure.Address, "wait", failure.RetryAfter, "attempt", attempt)
		timer := time.NewTimer(failure.RetryAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("wait for %s to accept calls again: %w", failure.Address, context.Cause(ctx))
		}
	}
}

func (c *Client) post(caller context.Context, call string, payload []byte, token Secret) ([]byte, error) {
	address := c.base + "/" + call
	fail := func(kind Kind, detail string, cause error) *Error {
		return &Error{Kind: kind, Call: call, Address: address, Detail: c.clean(detail, token), cause: cause}
	}
	ctx, cancel := context.WithTimeout(caller, c.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(payload))
	if err != nil {
		return nil, fmt.Errorf("build the request to %s: %w", address, err)
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
	response, err := c.http.Do(request)
	if err != nil {
		return nil, broken("call", err)
	}
	defer func() { _ = response.Body.Close() }() // nothing is left to lose once the body is read
	body, err := io.ReadAll(io.LimitReader(response.Body, c.maxResponse+1))
	if err != nil {
		return nil, broken("read the answer of", err)
	}
	if int64(len(body)) > c.maxResponse {
		failure := fail(KindTooLarge, fmt.Sprintf("more than %d bytes", c.maxResponse), nil)
		failure.Status = response.StatusCode
		return nil, failure
	}
	if response.StatusCode == http.StatusOK && startsObject(body) {
		return body, nil
	}
	failure := c.refusal(response, body, token, fail)
	failure.Status = response.StatusCode
	return nil, failure
}

// refusal turns an answer that is not a 200 with a JSON object into an error.
func (c *Client) refusal(response *http.Response, body []byte, token Secret, fail func(Kind, string, error) *Error) *Error {
	var said struct {
		Error json.RawMessage `json:"error"`
	}
	documented := startsObject(body) && json.Unmarshal(body, &said) == nil && len(said.Error) > 0
	message := string(said.Error)
	_ = json.Unmarshal(said.Error, &message) // not a string: its JSON text says as much
	wait, stated := c.retryAfter(response.Header.Get("Retry-After"))
	status := response.StatusCode
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable && stated:
		failure := fail(KindRateLimited, message, nil)
		failure.RetryAfter = wait
		return failure
	case !documented:
		failure := fail(KindNotJSON, "", nil)
		failure.ContentType = c.clean(response.Header.Get("Content-Type"), token)
		failure.Start = c.clean(string(body[:min(len(body), 4096)]), token)
		return failure
	case status == http.StatusUnauthorized,
		status == http.StatusForbidden && (token == "" || strings.Contains(strings.ToLower(message), "token")):
		return fail(KindRejected, message, nil)
	}
	return fail(KindAPI, message, nil)
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

func (c *Client) malformed(call string, cause error) *Error {
	// Decoder errors name offsets, types and keys; a key could only be a
	// secret if the server made it one, so they are cleaned all the same.
	return &Error{Kind: KindMalformed, Call: call, Address: c.base + "/" + call, Status: http.StatusOK, Detail: c.clean(cause.Error(), ""), cause: cause}
}

func startsObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
}
