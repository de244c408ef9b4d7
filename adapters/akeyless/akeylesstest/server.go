// Package akeylesstest owns a fake of the vendor's control plane: the few calls
// Lockstep makes, on the documented wire, with switches for what real servers
// and networks do wrong. It refuses what the published schema does not know and
// remembers that it had to, so that a misspelt key fails a test. Unit tests, the
// integration suite and the demo share it, so that they argue with one idea of
// the vendor.
//
// It does not judge versions or sessions and makes up nothing: it answers with
// what was reported to it. Scripted fleets are in integration/fakes/akeyless. It
// is no place for a real credential: keys under /lab/ are asked of nobody, so it
// listens on loopback only.
package akeylesstest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
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
	defaultTokenTTL    = time.Hour
)

// Options shapes a server. The zero value is a good server.
type Options struct {
	// Listener, on loopback, is taken over and closed with the server; nil
	// means 127.0.0.1 on a free port.
	Listener net.Listener
	// AccessID and AccessKey are an access key whose role sees all; empty means
	// the package's.
	AccessID  string
	AccessKey string
	// Credentials are accepted beside it.
	Credentials []Credential
	TokenTTL    time.Duration // how long a token is good; 0 means an hour
	Expiration  Expiration    // empty means ExpirationRFC3339
	Dialect     Dialect       // empty means DialectSchema
	PageSize    int           // sessions per page; 0 means 500
	MaxSessions int           // beyond it the oldest session is dropped; 0 means 500,000
	// OldServer ignores pagination tokens, as servers did before they could page.
	OldServer bool
	Now       func() time.Time // dates answers and tokens; nil means time.Now
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
	// Status is the gateway's, empty means "Running".
	Status string `json:"status,omitempty"`
	// RemoteAccess is the gateway's configuration; nil means one with everything
	// switched on.
	RemoteAccess *RemoteAccess `json:"remote_access,omitempty"`
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
	mux    *http.ServeMux
	http   *http.Server
	url    string
	served chan struct{}
	now    func() time.Time
	limit  int

	mu          sync.RWMutex
	sessions    map[string]*Session
	all         index
	active      index
	clusters    []Cluster
	known       map[string]int // places in clusters, by name
	credentials []Credential   // the first is the one of the options
	tokens      map[string]grant
	issued      int
	requests    map[string]int
	violations  []string
	switches    switches
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
		limit:    cmp.Or(max(o.MaxSessions, 0), defaultMaxSessions),
		sessions: make(map[string]*Session),
		known:    make(map[string]int),
		credentials: append([]Credential{{
			AccessID: cmp.Or(o.AccessID, AccessID), Type: AuthAccessKey, Secret: cmp.Or(o.AccessKey, AccessKey),
		}}, o.Credentials...),
		tokens:   make(map[string]grant),
		requests: make(map[string]int),
		switches: switches{
			dialect:    cmp.Or(o.Dialect, DialectSchema),
			oldServer:  o.OldServer,
			pageSize:   cmp.Or(max(o.PageSize, 0), defaultPageSize),
			tokenTTL:   cmp.Or(max(o.TokenTTL, 0), defaultTokenTTL),
			expiration: cmp.Or(o.Expiration, ExpirationRFC3339),
			hidden:     make(map[string]bool),
			forbidden:  make(map[string]bool),
		},
	}
	if s.now == nil {
		s.now = time.Now
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
	if i, again := s.known[c.Name]; again {
		s.clusters[i] = c
		return
	}
	s.known[c.Name] = len(s.clusters)
	s.clusters = append(s.clusters, c)
}

// GatewayURL is the base URL of a cluster's own gateway, which answers every
// call and is asked for its own configuration; empty for an unknown cluster.
func (s *Server) GatewayURL(clusterName string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	i, found := s.known[clusterName]
	if !found {
		return ""
	}
	return s.gatewayAddress(i) + "/api/v2"
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
	if old != nil && keyOf(old) != keyOf(&reported) {
		s.drop(old)
	}
	s.sessions[reported.ID] = &reported
	s.all.put(&reported)
	if isActive(reported.Status) {
		s.active.put(&reported)
	} else if old != nil {
		s.active.remove(keyOf(&reported))
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

// Forget takes a session out of the list, as servers lose one now and then. An
// id that is not held is no mistake: the oldest sessions are dropped too.
func (s *Server) Forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.sessions[id]; old != nil {
		s.drop(old)
	}
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
	return maps.Clone(s.requests)
}

// Violations are the requests that broke the published schema, oldest first, as
// in `POST /auth: key "acces-id" is not in the schema`. They never hold a value
// that may be secret. Beyond a hundred they are refused and not kept.
func (s *Server) Violations() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.violations)
}
