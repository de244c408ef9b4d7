package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What strangers send to a port ends their connection and nothing else.
func TestGarbageOnEveryPortHarmsNobody(t *testing.T) {
	r := start(t, options(folder(t)))
	noise := make([]byte, 64<<10)
	random := rand.NewChaCha8([32]byte{1})
	if _, err := random.Read(noise); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{r.url, r.admin} {
		address := strings.TrimPrefix(url, "http://")
		for name, sent := range map[string][]byte{
			"noise":             noise,
			"zeros":             make([]byte, 64<<10),
			"half a request":    []byte("POST /lockstep.fleet.v1.FleetService/ListClusters HTTP/1.1\r\nHost"),
			"HTTP/2, then junk": append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), noise[:1000]...),
			"endless header":    []byte("GET / HTTP/1.1\r\nX: " + strings.Repeat("x", 2<<20)),
		} {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			// The server may hang up while it is still being talked to.
			_, _ = conn.Write(sent)
			if half, ok := conn.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(conn); err != nil && strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s: the connection is still open after %s; it said %.100q", name, patience, answer)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
		// TLS is not spoken here.
		if conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}); err == nil { //nolint:gosec // there is nothing to verify
			t.Error("a TLS connection came about")
			_ = conn.Close()
		}
	}
	for _, url := range []string{r.url, r.admin} {
		if status, body := r.fetch(url + "/readyz"); status != http.StatusOK {
			t.Errorf("%s after it: %d %s", url, status, body)
		}
	}
	if _, err := r.bastions(r.token); err != nil {
		t.Errorf("the API after it: %v", err)
	}
}

func TestARequestOf64MiBIsRefused(t *testing.T) {
	r := start(t, options(folder(t)))
	body := bytes.Repeat([]byte(" "), 64<<20)
	for token, want := range map[string]string{r.token: "LS-API-008", "": "LS-API-004"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/lockstep.fleet.v1.FleetService/ListClusters", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+token)
		transport := &http.Transport{}
		res, err := (&http.Client{Transport: transport, Timeout: patience}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == http.StatusOK || !strings.Contains(string(text), want) {
			t.Errorf("%d %.300s, want %s", res.StatusCode, text, want)
		}
		if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
		transport.CloseIdleConnections()
	}
	if _, err := r.bastions(r.token); err != nil {
		t.Errorf("the API after it: %v", err)
	}
}

// The engine's end costs a restart: the server says so and goes on.
func TestAKilledEngineComesBack(t *testing.T) {
	vendor := newVendor(t)
	r := start(t, withVendor(t, options(folder(t)), vendor))
	before := r.waitBastions()
	for range 3 {
		ids := children(t)
		if len(ids) != 1 {
			t.Fatalf("children: %v", ids)
		}
		pid, err := strconv.Atoi(ids[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(10 * time.Millisecond)
		deadline := time.After(patience)
		for again := false; !again; {
			select {
			case <-tick.C:
			case <-deadline:
				_, body := r.get("/readyz?verbose")
				t.Fatalf("the engine did not come back: %s", body)
			}
			now := children(t)
			status, _ := r.get("/readyz")
			again = status == http.StatusOK && len(now) == 1 && now[0] != ids[0]
		}
		tick.Stop()
	}
	if got := r.waitBastions(); got != before {
		t.Errorf("bastions before %s, after %s", before, got)
	}
}

// Whoever asks while the start waits for something hears for what.
func TestAServerThatStartsSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	opts := options(folder(t))
	opts.ClickHouse = "http://" + listen(t).Addr().String() // takes connections and says nothing
	log := newJournal(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tel := journalled(t, log)
	wired := make(chan error, 1)
	go func() {
		s, err := wire(ctx, opts, tel, time.Now())
		if err == nil {
			err = errors.Join(errors.New("the server came up"), s.close())
		}
		wired <- err
	}()
	begun := log.wait(t, "starting", 1)
	r := &running{t: t, url: begun.attrs["listen"], admin: begun.attrs["admin_listen"]}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for _, body := r.get("/readyz"); !strings.Contains(body, "store"); _, body = r.get("/readyz") {
		<-tick.C
	}
	for _, url := range []string{r.url, r.admin} {
		if status, body := r.fetch(url + "/livez"); status != http.StatusOK || body != "ok\n" {
			t.Errorf("livez: %d %q", status, body)
		}
		if status, body := r.fetch(url + "/readyz"); status != http.StatusServiceUnavailable || body != "[-]store: being opened\n" {
			t.Errorf("readyz: %d %q", status, body)
		}
		if status, body := r.fetch(url + "/anything"); status != http.StatusServiceUnavailable || !strings.Contains(body, "LS-API-005") {
			t.Errorf("anything: %d %q", status, body)
		}
	}
	cancel()
	if err := <-wired; err == nil || strings.Contains(err.Error(), "came up") {
		t.Errorf("a start that was ended: %v", err)
	}
}
