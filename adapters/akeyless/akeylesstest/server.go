// Package akeylesstest owns a fake of the vendor's control plane: the few calls
// Lockstep makes, on the documented wire, with switches for what real servers
// and networks do wrong. Unit tests, the integration suite and the demo share
// it, so that they argue with one idea of the vendor.
//
// It does not judge versions or sessions and makes up nothing: it answers with
// what was reported to it. It is no place for a real credential: keys under
// /lab/ are asked of nobody, so it listens on loopback only.
package akeylesstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The credential accepted when Options name none.
const (
	AccessID  = "p-lab00000000"
	AccessKey = "lab-access-key"
)

const (
	defaultPageSize    = 500
	defaultMaxSessions = 500_000
	tokenLife          = time.Hour
)

// Dialect is how the server words its bastions.
type Dialect string

// Both dialects a server may speak.
const (
	DialectSchema    Dialect = "schema"    // as published: instance ids as keys, no versions
	DialectInstances Dialect = "instances" // an object per instance, with version and last report
)

// Options shapes a server. The zero value is a good server.
type Options struct {
	// Listener, on loopback, is taken over and closed with the server; nil
	// means 127.0.0.1 on a free port.
	Listener    net.Listener
	AccessID    string  // empty means the package's AccessID
	AccessKey   string  // empty means the package's AccessKey
	Dialect     Dialect // empty means DialectInstances
	PageSize    int     // sessions per page; 0 means 500
	MaxSessions int     // beyond it the oldest session is dropped; 0 means 500,000
	// OldServer ignores pagination tokens, as servers did before they could page.
	OldServer bool
	Now       func() time.Time // dates tokens; nil means time.Now
}

// Session is a session as the server lists it and as /lab/sessions takes it.
type Session struct {
	ID             string      `json:"session_id"`
	Status         string      `json:"status"`
	StartTime      time.Time   `json:"start_time"`
	EndTime        time.Time   `json:"end_time"` // the zero time while active
	ConnectionType string      `json:"connection_type,omitempty"`
	ClientType     string      `json:"client_type,omitempty"`
	ClusterUniqID  int64       `json:"cluster_unique_id,omitempty"`
	InstanceID     string      `json:"instance_id,omitempty"`
	Gateway        GatewayInfo `json:"gateway_info"`
	AccessID       string      `json:"access_id,omitempty"`
	UserIdentifier string      `json:"user_identifier,omitempty"`
	TargetHost     string      `json:"target_host,omitempty"`
	TargetName     string      `json:"target_name,omitempty"`
	TargetType     string      `json:"target_type,omitempty"`
	TargetID       string      `json:"target_id,omitempty"`
	SecretName     string      `json:"secret_name,omitempty"`
	ErrorMsg       string      `json:"error_msg,omitempty"`
	TTL            string      `json:"ttl,omitempty"`
}

// GatewayInfo names the gateway a session ran through.
type GatewayInfo struct {
	ClusterName        string `json:"cluster_name"`
	ClusterDisplayName string `json:"cluster_display_name,omitempty"`
}

// Cluster is a gateway cluster with its bastions.
type Cluster struct {
	Name        string     `json:"cluster_name"`
	DisplayName string     `json:"display_name,omitempty"`
	LastReport  time.Time  `json:"last_report"`
	Instances   []Instance `json:"instances"`
}

// Instance is one registered bastion.
type Instance struct {
	ID         string    `json:"id"`
	Version    string    `json:"version,omitempty"`
	LastReport time.Time `json:"last_report"`
	URLs       []string  `json:"urls,omitempty"`
}

// Server is a running fake. Its methods are safe for concurrent use.
type Server struct {
	mux      *http.ServeMux
	http     *http.Server
	url      string
	served   chan struct{}
	now      func() time.Time
	pageSize int
	limit    int
	id, key  string

	mu       sync.RWMutex
	sessions map[string]*Session
	all      index
	active   index
	clusters []Cluster
	tokens   map[string]time.Time // by their end
	issued   int
	requests map[string]int
	switches switches
}

// switches are what a test or a lab makes the server do wrong.
type switches struct {
	dialect     Dialect
	oldServer   bool
	down        bool
	latency     time.Duration
	limited     int // calls still to be refused
	retryAfter  time.Duration
	html        int // calls still to be answered by "a proxy"
	expireAfter int // calls with a token until all tokens expire; 0 means never
	hidden      map[string]bool
	silent      bool // leaves allowed_gateways out
}

// NewServer starts a server on loopback. Close it when done.
func NewServer(o Options) (*Server, error) {
	listener := o.Listener
	if listener == nil {
		var err error
		if listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0"); err != nil {
			return nil, fmt.Errorf("fake vendor API: listen on loopback: %w", err)
		}
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		return nil, fmt.Errorf("fake vendor API: %s is not a loopback address; anyone who reaches it can change what it says", listener.Addr())
	}
	s := &Server{
		url:      "http://" + listener.Addr().String(),
		served:   make(chan struct{}),
		now:      o.Now,
		pageSize: o.PageSize,
		limit:    o.MaxSessions,
		id:       o.AccessID,
		key:      o.AccessKey,
		sessions: make(map[string]*Session),
		tokens:   make(map[string]time.Time),
		requests: make(map[string]int),
		switches: switches{dialect: o.Dialect, oldServer: o.OldServer, hidden: make(map[string]bool)},
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.pageSize <= 0 {
		s.pageSize = defaultPageSize
	}
	if s.limit <= 0 {
		s.limit = defaultMaxSessions
	}
	if s.id == "" {
		s.id = AccessID
	}
	if s.key == "" {
		s.key = AccessKey
	}
	if s.switches.dialect == "" {
		s.switches.dialect = DialectInstances
	}
	s.mux = s.routes()
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(listener) // returns when Close closes the listener
	}()
	return s, nil
}

// URL is the base URL, without a final slash.
func (s *Server) URL() string { return s.url }

// Close stops the server and breaks off what is under way.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.served
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("fake vendor API: close: %w", err)
	}
	return nil
}

// Transport answers requests in the caller's goroutine, without a socket, so
// that a client can be tried in a synctest bubble. Start the server outside of
// the bubble: a goroutine that waits on a socket stops the bubble's clock.
func (s *Server) Transport() http.RoundTripper { return direct{s} }

type direct struct{ server *Server }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	d.server.mu.RLock()
	down := d.server.switches.down
	d.server.mu.RUnlock()
	if down {
		return nil, errors.New("connection refused")
	}
	answer := &answer{header: make(http.Header), status: http.StatusOK}
	d.server.ServeHTTP(answer, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(answer.status), StatusCode: answer.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.header, ContentLength: int64(answer.body.Len()),
		Body: io.NopCloser(&answer.body), Request: r,
	}, nil
}

// answer collects what a handler writes.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// SetCluster adds a cluster or replaces the one of the same name.
func (s *Server) SetCluster(c Cluster) {
	c.Instances = slices.Clone(c.Instances)
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.clusters, func(other Cluster) bool { return other.Name == c.Name }); i >= 0 {
		s.clusters[i] = c
		return
	}
	s.clusters = append(s.clusters, c)
}

// Report adds a session or replaces the one of the same id, keeping its start
// where the new report has none. A session needs an id and a start.
func (s *Server) Report(reported Session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report(reported)
}

func (s *Server) report(reported Session) error {
	old := s.sessions[reported.ID]
	if reported.StartTime.IsZero() && old != nil {
		reported.StartTime = old.StartTime
	}
	switch {
	case reported.ID == "":
		return errors.New("report a session: it has no session_id")
	case !slices.Contains(statuses, reported.Status):
		return fmt.Errorf("report session %q: status %q is none of %v", reported.ID, reported.Status, statuses)
	case reported.StartTime.IsZero():
		return fmt.Errorf("report session %q: it has no start_time", reported.ID)
	}
	if old != nil {
		s.drop(old)
	}
	s.sessions[reported.ID] = &reported
	s.all.insert(&reported)
	if isActive(reported.Status) {
		s.active.insert(&reported)
	}
	if s.all.len > s.limit {
		s.drop(s.all.oldest())
	}
	return nil
}

func (s *Server) drop(old *Session) {
	delete(s.sessions, old.ID)
	s.all.remove(keyOf(old))
	s.active.remove(keyOf(old))
}

// Len is the number of sessions held.
func (s *Server) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.all.len
}

// Requests is how often each call was made, by name, as in "auth".
func (s *Server) Requests() map[string]int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	counts := make(map[string]int, len(s.requests))
	for name, n := range s.requests {
		counts[name] = n
	}
	return counts
}

func (s *Server) set(change func(*switches)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.switches)
}

// SetDialect changes how bastions are worded.
func (s *Server) SetDialect(d Dialect) { s.set(func(w *switches) { w.dialect = d }) }

// SetOldServer makes the server ignore pagination tokens, or not.
func (s *Server) SetOldServer(old bool) { s.set(func(w *switches) { w.oldServer = old }) }

// SetDown makes every API call end without an answer, until it is unset. The
// lab's own calls still work.
func (s *Server) SetDown(down bool) { s.set(func(w *switches) { w.down = down }) }

// SetLatency delays each answer.
func (s *Server) SetLatency(d time.Duration) { s.set(func(w *switches) { w.latency = d }) }

// RateLimit refuses the next n calls with 429 and, when retryAfter is
// positive, that Retry-After in whole seconds.
func (s *Server) RateLimit(n int, retryAfter time.Duration) {
	s.set(func(w *switches) { w.limited, w.retryAfter = n, retryAfter })
}

// RespondHTML answers the next n calls with an HTML page and status 502, as a
// load balancer does.
func (s *Server) RespondHTML(n int) { s.set(func(w *switches) { w.html = n }) }

// HideGateway takes a gateway and its sessions out of the caller's sight, or
// puts them back.
func (s *Server) HideGateway(clusterName string, hide bool) {
	s.set(func(w *switches) {
		if hide {
			w.hidden[clusterName] = true
		} else {
			delete(w.hidden, clusterName)
		}
	})
}

// OmitGateways leaves allowed_gateways out of every answer, as servers do for
// callers that see only their own sessions.
func (s *Server) OmitGateways(omit bool) { s.set(func(w *switches) { w.silent = omit }) }

// ExpireTokens makes every token issued so far invalid.
func (s *Server) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// ExpireTokensAfter makes all tokens invalid once n more calls have used one,
// so that they expire between two pages. 0 takes it back.
func (s *Server) ExpireTokensAfter(n int) { s.set(func(w *switches) { w.expireAfter = n }) }
