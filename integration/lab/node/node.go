// Package node is one small server that plays a Gateway, an SSH bastion or a
// web bastion: it answers the vendor's health endpoints, carries real sessions
// and fails a chosen share of them.
//
// It owns how such a server behaves and the protocol its sessions use. It does
// not own who opens sessions (package traffic) or how servers become
// containers (packages images and project).
package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// Role is which server a node plays.
type Role string

// Every role.
const (
	Gateway Role = "gateway"
	SRASSH  Role = "sra-ssh"
	SRAWeb  Role = "sra-web"
)

// The ports the vendor's components listen on.
const (
	GatewayPort   = 8080 // HTTP: /health, /status, /authorize
	SSHPort       = 2222 // SSH sessions
	SSHStatusPort = 9900 // HTTP: /status
	WebPort       = 8888 // HTTP CONNECT sessions
)

// The session protocol, spoken by nodes and by whoever opens sessions.
const (
	// Password opens every session. It guards nothing: the lab listens on
	// loopback, and a wrong password is how a session is made to fail.
	Password = "lab"
	// SessionVariable is the SSH environment variable that carries the
	// session's id; it is sent before the command.
	SessionVariable = "LAB_SESSION"
	// SessionHeader carries the session's id through HTTP.
	SessionHeader = "X-Lab-Session"
	// InstanceHeader names the node that answers over HTTP. Over SSH the
	// name follows BannerPrefix in the server's version line.
	InstanceHeader = "X-Lab-Instance"
	// BannerPrefix begins the version line of the SSH server.
	BannerPrefix = "SSH-2.0-lab_"
)

// drainLimit is how long sessions may go on after a stop was asked for. A
// restart drops sessions, as the real components' does, but not those about to
// end anyway.
const drainLimit = 500 * time.Millisecond

// Config says what a node plays and how well.
type Config struct {
	Role        Role
	Version     string // reported by /status
	FailPercent int    // share of sessions that fail here, 0 to 100
	GatewayURL  string // where bastions ask for authorization
	Instance    string // this node's name
	Addr        string // main listener; empty means all addresses, the role's port
	StatusAddr  string // status listener of SRASSH; empty as for Addr
	Log         *slog.Logger
}

// FromEnv reads a node's settings: LAB_ROLE (used when role is empty),
// VERSION, LAB_FAIL_PERCENT and LAB_GATEWAY.
func FromEnv(role Role, getenv func(string) string, log *slog.Logger) (Config, error) {
	if role == "" {
		role = Role(getenv("LAB_ROLE"))
	}
	c := Config{
		Role:       role,
		Version:    getenv("VERSION"),
		GatewayURL: getenv("LAB_GATEWAY"),
		Log:        log,
	}
	if c.GatewayURL == "" {
		c.GatewayURL = fmt.Sprintf("http://akeyless-gateway:%d", GatewayPort)
	}
	if share := getenv("LAB_FAIL_PERCENT"); share != "" {
		n, err := strconv.Atoi(share)
		if err != nil {
			return Config{}, fmt.Errorf("read LAB_FAIL_PERCENT %q: it must be a whole number from 0 to 100", share)
		}
		c.FailPercent = n
	}
	host, err := os.Hostname()
	if err != nil {
		return Config{}, fmt.Errorf("name this node: %w", err)
	}
	c.Instance = host
	return c, nil
}

// Fails reports whether a node that fails percent of its sessions fails this
// one. It depends on nothing else, so a run with the same session ids fails
// the same sessions.
func Fails(session string, percent int) bool {
	sum := sha256.Sum256([]byte(session))
	return int(binary.BigEndian.Uint64(sum[:8])%100) < percent
}

// Node is a server that listens and has not yet been told to serve.
type Node struct {
	cfg      Config
	log      *slog.Logger
	listener net.Listener
	status   net.Listener // SRASSH only
	gateway  *http.Client

	mu       sync.Mutex
	open     map[net.Conn]struct{} // connections that carry sessions
	draining bool
	sessions sync.WaitGroup
}

// Listen opens the role's listeners.
func Listen(c Config) (*Node, error) {
	if c.FailPercent < 0 || c.FailPercent > 100 {
		return nil, fmt.Errorf("start a node: fail percent %d is not between 0 and 100", c.FailPercent)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	port, ok := map[Role]int{Gateway: GatewayPort, SRASSH: SSHPort, SRAWeb: WebPort}[c.Role]
	if !ok {
		return nil, fmt.Errorf("start a node: unknown role %q; use %s, %s or %s", c.Role, Gateway, SRASSH, SRAWeb)
	}
	if c.Addr == "" {
		c.Addr = fmt.Sprintf(":%d", port)
	}
	if c.StatusAddr == "" {
		c.StatusAddr = fmt.Sprintf(":%d", SSHStatusPort)
	}
	n := &Node{
		cfg:     c,
		log:     c.Log.With("role", string(c.Role), "version", c.Version),
		gateway: &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
		open:    map[net.Conn]struct{}{},
	}
	var err error
	if n.listener, err = net.Listen("tcp", c.Addr); err != nil {
		return nil, fmt.Errorf("start a node as %s: %w", c.Role, err)
	}
	if c.Role == SRASSH {
		if n.status, err = net.Listen("tcp", c.StatusAddr); err != nil {
			return nil, errors.Join(fmt.Errorf("start a node as %s: %w", c.Role, err), n.listener.Close())
		}
	}
	return n, nil
}

// Addr is where the node takes sessions or, as a gateway, questions.
func (n *Node) Addr() string { return n.listener.Addr().String() }

// StatusAddr is where an SSH bastion answers /status; empty for other roles.
func (n *Node) StatusAddr() string {
	if n.status == nil {
		return ""
	}
	return n.status.Addr().String()
}

// Serve works until ctx ends, then stops taking sessions, gives open ones half
// a second, and returns nil. Any other return is a listener's failure.
func (n *Node) Serve(ctx context.Context) error {
	n.log.Info("node serves", "addr", n.Addr(), "fail_percent", n.cfg.FailPercent)
	stopped := make(chan error, 2)
	var stop []func()
	serveHTTP := func(l net.Listener, h http.Handler) {
		srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
		stop = append(stop, func() { shutdown(srv) })
		go func() { stopped <- srv.Serve(l) }()
	}
	switch n.cfg.Role {
	case Gateway:
		serveHTTP(n.listener, n.gatewayHandler())
	case SRAWeb:
		serveHTTP(n.listener, n.webHandler())
	case SRASSH:
		config, err := n.sshConfig()
		if err != nil {
			return err
		}
		serveHTTP(n.status, n.statusHandler())
		stop = append(stop, func() { n.listener.Close() })
		go func() { stopped <- n.serveSSH(ctx, config) }()
	}
	var err error
	select {
	case err = <-stopped:
	case <-ctx.Done():
	}
	for _, f := range stop {
		f()
	}
	n.drain()
	if err != nil {
		return fmt.Errorf("serve as %s: %w", n.cfg.Role, err)
	}
	return nil
}

func shutdown(srv *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	if srv.Shutdown(ctx) != nil {
		srv.Close()
	}
}

// track counts a session's connection in and returns how to count it out. It
// returns false once the node drains: the session comes too late.
func (n *Node) track(c net.Conn) (done func(), ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.draining {
		return nil, false
	}
	n.open[c] = struct{}{}
	n.sessions.Add(1)
	return func() {
		n.mu.Lock()
		delete(n.open, c)
		n.mu.Unlock()
		n.sessions.Done()
	}, true
}

// drain lets open sessions end by themselves for a moment, then closes them.
func (n *Node) drain() {
	n.mu.Lock()
	n.draining = true
	n.mu.Unlock()
	quiet := make(chan struct{})
	go func() {
		n.sessions.Wait()
		close(quiet)
	}()
	select {
	case <-quiet:
		return
	case <-time.After(drainLimit):
	}
	n.mu.Lock()
	for c := range n.open {
		c.Close()
	}
	n.mu.Unlock()
	<-quiet
}

// reset drops a connection as a crashed peer does: the other side reads
// "connection reset by peer" rather than a polite end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // Without it the end is polite, which the test would show.
	}
	c.Close()
}
