package kube

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// client speaks the few calls that looking after a control plane takes. The
// product's own Kubernetes adapter is what is under test, so the lab does not lean
// on it.
type client struct {
	base, token string
	http        *http.Client
}

func (a access) client(user string) client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.root)
	return client{base: a.url, token: a.byUser[user], http: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		// A kept connection would die with the server that is killed.
		DisableKeepAlives: true,
	}}}
}

func overSocket(path string) client {
	return client{base: "http://etcd", http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}}
}

func (c client) call(ctx context.Context, method, path string, send, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var content bytes.Buffer
	if send != nil {
		if err := json.NewEncoder(&content).Encode(send); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, &content)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s was answered with %s: %s", method, path, resp.Status, tail(string(answer), 5))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}
