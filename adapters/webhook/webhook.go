// Package webhook delivers notices to an HTTP endpoint in the form that
// standardwebhooks.com specifies: headers webhook-id, webhook-timestamp and,
// where a secret is set, webhook-signature. Delivery is at least once; the id
// is the same at every try.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/notice"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Options say where notices go.
type Options struct {
	URL string
	// Secret signs what is sent: "whsec_" followed by base64, or base64 alone.
	// Empty sends unsigned.
	Secret string
	// Timeout bounds one try; 0 means 10 s.
	Timeout time.Duration
	// Client sends; nil means one of the sink's own. Redirects are never followed,
	// whatever it says.
	Client *http.Client
	Now    func() time.Time
}

// Sink is one endpoint.
type Sink struct {
	opts   Options
	client http.Client
	key    []byte
}

// New returns a sink; a URL that is not http or https and a secret that is not
// base64 are errors, which repeat neither: both may be secret.
func New(opts Options) (*Sink, error) {
	s := &Sink{opts: opts}
	if u, err := url.Parse(opts.URL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errs.New(errs.Invalid, "LS-NOT-001", "the webhook URL is not one; it looks like https://host/path")
	}
	if opts.Timeout == 0 {
		s.opts.Timeout = 10 * time.Second
	}
	if opts.Client != nil {
		s.client = *opts.Client
	}
	// A redirect would take people's data, signed, to a place nobody configured, or
	// become a GET that is answered well and delivers nothing.
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if opts.Secret != "" {
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(opts.Secret), "whsec_"))
		if err != nil || len(key) == 0 {
			return nil, errs.New(errs.Invalid, "LS-NOT-001", "the webhook secret is not base64, with or without the prefix whsec_")
		}
		s.key = key
	}
	return s, nil
}

// payload is what is posted.
type payload struct {
	// Type is "lockstep.<kind>".
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      data      `json:"data"`
}

type data struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Severity string `json:"severity"`
	Cluster  string `json:"cluster,omitempty"`
	Rollout  string `json:"rollout,omitempty"`
	Title    string `json:"title"`
	Text     string `json:"text,omitempty"`
}

// Send posts one notice. 2xx is success and 410 Gone is given up; everything
// else, redirects included, is tried again by the caller. Errors do not show the
// URL.
func (s *Sink) Send(ctx context.Context, n notice.Notice) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	body, err := json.Marshal(payload{
		Type: "lockstep." + string(n.Kind), Timestamp: n.At,
		Data: data{
			ID: n.ID, Kind: string(n.Kind), Severity: string(n.Severity), Cluster: string(n.Cluster), Rollout: string(n.Rollout),
			Title: n.Title, Text: n.Text,
		},
	})
	if err != nil {
		return bus.Permanent(fmt.Errorf("encoding notice %s: %w", n.ID, err))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.opts.URL, bytes.NewReader(body))
	if err != nil {
		return bus.Permanent(fmt.Errorf("making a request to the webhook: %w", err))
	}
	id, stamp := messageID(n.ID), strconv.FormatInt(s.opts.Now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "lockstep")
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", stamp)
	if s.key != nil {
		req.Header.Set("webhook-signature", "v1,"+Sign(s.key, id, stamp, body))
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return errs.New(errs.Unavailable, "LS-NOT-002", "posting to the webhook: %w", err)
	}
	defer resp.Body.Close()
	// The connection is used again only when the answer was read; whether it could
	// be says nothing about the notice.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return nil
	case resp.StatusCode == http.StatusGone:
		return bus.Permanent(errs.New(errs.Unavailable, "LS-NOT-002", "the webhook answered %s: it wants no more messages", resp.Status))
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return errs.New(errs.Unavailable, "LS-NOT-002", "the webhook answered %s: redirects are not followed; configure the address it has moved to", resp.Status)
	}
	return errs.New(errs.Unavailable, "LS-NOT-002", "the webhook answered %s", resp.Status)
}

// messageID keeps the full stop out of the id: it parts the signed content.
func messageID(id string) string { return strings.ReplaceAll(id, ".", "_") }

// Sign returns the base64 signature over "id.timestamp.body", HMAC-SHA256.
func Sign(key []byte, id, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
