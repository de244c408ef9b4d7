package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/integration/lab/node"
)

// serve runs a node and returns how to stop it, which returns Serve's error.
func serve(t *testing.T, c node.Config) (n *node.Node, stop func() error) {
	t.Helper()
	c.Addr, c.StatusAddr = "127.0.0.1:0", "127.0.0.1:0"
	n, err := node.Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Serve(ctx) }()
	return n, func() error {
		cancel()
		return <-done
	}
}

func TestHealthEndpoints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		role  node.Role
		paths []string
	}{
		{node.Gateway, []string{"/health", "/status"}},
		{node.SRASSH, []string{"/status"}},
		{node.SRAWeb, []string{"/status"}},
	} {
		n, stop := serve(t, node.Config{Role: c.role, Version: "1.2.3"})
		addr := n.Addr()
		if c.role == node.SRASSH {
			addr = n.StatusAddr()
		}
		for _, path := range c.paths {
			resp, err := http.Get("http://" + addr + path)
			if err != nil {
				t.Fatal(err)
			}
			var said struct{ Version string }
			if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
				t.Errorf("%s %s: %v", c.role, path, err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK || path == "/status" && said.Version != "1.2.3" {
				t.Errorf("%s %s: answered %d with version %q", c.role, path, resp.StatusCode, said.Version)
			}
		}
		if err := stop(); err != nil {
			t.Errorf("%s: %v", c.role, err)
		}
	}
}

func TestAuthorize(t *testing.T) {
	t.Parallel()
	n, stop := serve(t, node.Config{Role: node.Gateway, FailPercent: 50})
	for i := range 40 {
		session := fmt.Sprint("s", i)
		resp, err := http.Post("http://"+n.Addr()+"/authorize", "application/json",
			strings.NewReader(fmt.Sprintf(`{"session":%q,"user":"ann","target":"db:22"}`, session)))
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := http.StatusOK
		if node.Fails(session, 50) {
			want = http.StatusForbidden
		}
		if resp.StatusCode != want || want == http.StatusForbidden && !strings.Contains(string(body), "ann") {
			t.Errorf("session %s: answered %d %s, want %d", session, resp.StatusCode, body, want)
		}
	}
	resp, err := http.Post("http://"+n.Addr()+"/authorize", "application/json", strings.NewReader(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a question without a session: answered %d", resp.StatusCode)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// Shares come out about right, over ids as alike as the generator's.
func TestFailsIsFairAndRepeatable(t *testing.T) {
	t.Parallel()
	for _, percent := range []int{0, 5, 30, 100} {
		failed := 0
		for i := range 2000 {
			id := fmt.Sprintf("run-berlin-%06d", i)
			if node.Fails(id, percent) != node.Fails(id, percent) {
				t.Fatalf("%s is decided differently the second time", id)
			}
			if node.Fails(id, percent) {
				failed++
			}
		}
		if share := float64(failed) / 20; share < float64(percent)-4 || share > float64(percent)+4 {
			t.Errorf("%.1f %% fail, want %d %%", share, percent)
		}
	}
}

// A restart must not wait for long sessions: half a second, then they are cut.
func TestStopCutsOpenSessions(t *testing.T) {
	t.Parallel()
	gateway, stopGateway := serve(t, node.Config{Role: node.Gateway})
	web, stopWeb := serve(t, node.Config{Role: node.SRAWeb, GatewayURL: "http://" + gateway.Addr()})
	conn, err := net.Dial("tcp", web.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The credentials are "ann:lab".
	fmt.Fprintf(conn, "CONNECT db:22 HTTP/1.1\r\nHost: db:22\r\nProxy-Authorization: Basic YW5uOmxhYg==\r\n%s: s1\r\n\r\n", node.SessionHeader)
	first := make([]byte, 12)
	if _, err := io.ReadFull(conn, first); err != nil || string(first) != "HTTP/1.1 200" {
		t.Fatalf("the session was answered %q, %v", first, err)
	}
	begun := time.Now()
	if err := stopWeb(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("the stop took %s", took)
	}
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("the open session was not cut: %v", err)
	}
	if err := stopGateway(); err != nil {
		t.Error(err)
	}
}

func TestListenRefusesBadSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []node.Config{{Role: "worker"}, {Role: node.Gateway, FailPercent: 101}} {
		if _, err := node.Listen(c); err == nil {
			t.Errorf("accepted %+v", c)
		}
	}
	env := func(name string) string { return map[string]string{"LAB_FAIL_PERCENT": "many"}[name] }
	if _, err := node.FromEnv(node.Gateway, env, nil); err == nil || !strings.Contains(err.Error(), "LAB_FAIL_PERCENT") {
		t.Errorf("got %v, want an error that names LAB_FAIL_PERCENT", err)
	}
}
