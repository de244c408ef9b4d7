package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// apiVersion is the oldest Engine API with every call used here; every engine
// the product supports still speaks it.
const apiVersion = "/v1.40"

// client speaks the six Engine API calls that looking after an engine takes.
// The product's own Docker adapter is what is under test, so the lab does not
// lean on it.
type client struct {
	host string
	base string
	http *http.Client
}

func newClient(host string) (client, error) {
	u, err := url.Parse(host)
	if err != nil {
		return client{}, fmt.Errorf("read the engine address %q: %w", host, err)
	}
	transport := &http.Transport{}
	base := ""
	switch u.Scheme {
	case "unix":
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", u.Path)
		}
		base = "http://docker"
	case "tcp", "http":
		base = "http://" + u.Host
	default:
		return client{}, fmt.Errorf("read the engine address %q: scheme %q is not supported here; use unix:// or tcp://", host, u.Scheme)
	}
	return client{host: host, base: base, http: &http.Client{Transport: transport}}, nil
}

func (c client) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.call(ctx, http.MethodGet, "/_ping", nil, nil)
}

// containers lists the ids of all containers, stopped ones too, that carry the
// label; an empty label means every container.
func (c client) containers(ctx context.Context, label string) ([]string, error) {
	query := filters(label)
	query.Set("all", "1")
	var list []struct{ ID string }
	if err := c.call(ctx, http.MethodGet, "/containers/json", query, &list); err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	ids := make([]string, len(list))
	for i, l := range list {
		ids[i] = l.ID
	}
	return ids, nil
}

func (c client) removeContainer(ctx context.Context, id string) error {
	err := c.call(ctx, http.MethodDelete, "/containers/"+id, url.Values{"force": {"1"}, "v": {"1"}}, nil)
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove container %.12s: %w", id, err)
	}
	return nil
}

func (c client) pruneNetworks(ctx context.Context, label string) error {
	if err := c.call(ctx, http.MethodPost, "/networks/prune", filters(label), nil); err != nil {
		return fmt.Errorf("remove unused networks: %w", err)
	}
	return nil
}

func (c client) pruneImages(ctx context.Context) error {
	query := url.Values{"filters": {`{"dangling":["false"]}`}}
	if err := c.call(ctx, http.MethodPost, "/images/prune", query, nil); err != nil {
		return fmt.Errorf("remove unused images: %w", err)
	}
	return nil
}

func filters(label string) url.Values {
	query := url.Values{}
	if label != "" {
		f, _ := json.Marshal(map[string][]string{"label": {label}}) // strings always marshal
		query.Set("filters", string(f))
	}
	return query
}

// statusError is an answer of the engine other than success.
type statusError struct {
	code    int
	message string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the engine answered %d: %s", e.code, e.message)
}

// isGone reports whether the engine said that the thing is not there or is
// already on its way out.
func isGone(err error) bool {
	s, ok := errors.AsType[*statusError](err)
	return ok && (s.code == http.StatusNotFound || s.code == http.StatusConflict)
}

func (c client) call(ctx context.Context, method, path string, query url.Values, into any) error {
	target := c.base + apiVersion + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return &statusError{code: resp.StatusCode, message: strings.TrimSpace(string(body))}
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}
