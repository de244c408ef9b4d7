package akeylesstest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	largestRequest = 1 << 20
	largestReport  = 64 << 20
)

var (
	statuses       = []string{"connecting", "connected", "failed", "completed", "terminated"}
	activeStatuses = statuses[:2]
	resourceTypes  = []string{"mysql", "k8s", "ssh", "mongodb", "mssql", "postgres", "aws", "eks", "gke", "rdp"}
)

func isActive(status string) bool { return slices.Contains(activeStatuses, status) }

// refusal is an error with the status it is answered with.
type refusal struct {
	status  int
	message string
}

func (r refusal) Error() string { return r.message }

func badRequest(format string, args ...any) error {
	return refusal{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

var errUnauthorized = refusal{http.StatusUnauthorized, "Unauthorized: token is invalid or has expired"}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for name, handle := range map[string]func(request) (any, error){
		"auth":              s.auth,
		"validate-token":    s.validateToken,
		"list-sra-bastions": s.listBastions,
		"list-sra-sessions": s.listSessions,
		"list-gateways":     s.listGateways,
	} {
		mux.HandleFunc("/"+name, s.call(name, handle))
	}
	mux.HandleFunc("PUT /lab/sessions", lab(s.putSessions))
	mux.HandleFunc("PUT /lab/clusters", lab(s.putClusters))
	mux.HandleFunc("PUT /lab/switches", lab(s.putSwitches))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusNotFound, map[string]string{"error": "404 page not found"})
	})
	return mux
}

// ServeHTTP answers at the root and, as gateways do, under /api/v2 and /v2.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, prefix := range []string{"/api/v2", "/v2"} {
		if strings.HasPrefix(r.URL.Path, prefix+"/") {
			http.StripPrefix(prefix, s.mux).ServeHTTP(w, r)
			return
		}
	}
	s.mux.ServeHTTP(w, r)
}

// request holds every key the calls read, in the wire's kebab-case.
type request struct {
	AccessID        string   `json:"access-id"`
	AccessKey       string   `json:"access-key"`
	AccessType      string   `json:"access-type"`
	Token           string   `json:"token"`
	AllowedURLsOnly bool     `json:"allowed-urls-only"`
	StatusType      []string `json:"status-type"`
	ResourceType    []string `json:"resource-type"`
	PaginationToken string   `json:"pagination-token"`
}

// call wraps one API call with what the switches make go wrong before it.
func (s *Server) call(name string, handle func(request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		trouble := s.trouble(name)
		if trouble.latency > 0 {
			timer := time.NewTimer(trouble.latency)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
				return
			}
		}
		switch {
		case trouble.down:
			panic(http.ErrAbortHandler) // the documented way to break off a connection
		case trouble.html:
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n")
			return
		case trouble.limited:
			if trouble.retryAfter > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(int(trouble.retryAfter.Round(time.Second)/time.Second)))
			}
			write(w, http.StatusTooManyRequests, map[string]string{"error": "too many requests"})
			return
		case r.Method != http.MethodPost:
			write(w, http.StatusMethodNotAllowed, map[string]string{"error": "405 method not allowed"})
			return
		}
		var req request
		if err := json.NewDecoder(io.LimitReader(r.Body, largestRequest)).Decode(&req); err != nil {
			write(w, http.StatusBadRequest, map[string]string{"error": "invalid request body: " + err.Error()})
			return
		}
		reply, err := handle(req)
		if err != nil {
			status := http.StatusInternalServerError
			var r refusal
			if errors.As(err, &r) {
				status = r.status
			}
			write(w, status, map[string]string{"error": err.Error()})
			return
		}
		write(w, http.StatusOK, reply)
	}
}

type trouble struct {
	down, html, limited bool
	latency, retryAfter time.Duration
}

// trouble counts a call and takes what is to go wrong with it.
func (s *Server) trouble(name string) trouble {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[name]++
	t := trouble{down: s.switches.down, latency: s.switches.latency, retryAfter: s.switches.retryAfter}
	switch {
	case t.down:
	case s.switches.html > 0:
		s.switches.html--
		t.html = true
	case s.switches.limited > 0:
		s.switches.limited--
		t.limited = true
	}
	return t
}

func write(w http.ResponseWriter, status int, reply any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply) // the caller may be gone
}

func (s *Server) auth(req request) (any, error) {
	switch {
	case req.AccessType != "" && req.AccessType != "access_key":
		return nil, badRequest("access-type %q is not supported", req.AccessType)
	case req.AccessID != s.id || req.AccessKey != s.key:
		return nil, refusal{http.StatusUnauthorized, "Unauthorized: access id or access key is wrong"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
	token := fmt.Sprintf("t-lab-%08d", s.issued)
	until := s.now().Add(tokenLife)
	s.tokens[token] = until
	return map[string]any{"token": token, "expiration": until.UTC().Format(time.RFC3339), "creds": map[string]any{}}, nil
}

func (s *Server) validateToken(req request) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	until, known := s.tokens[req.Token]
	left := until.Sub(s.now())
	if !known || left <= 0 {
		return map[string]any{"is_valid": false, "ttl": 0, "reason": errUnauthorized.message}, nil
	}
	return map[string]any{"is_valid": true, "expiration": until.UTC().Format(time.RFC3339), "ttl": int(left / time.Second)}, nil
}

// admit checks a token and counts its use.
func (s *Server) admit(token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, known := s.tokens[token]
	if !known || !s.now().Before(until) {
		delete(s.tokens, token)
		return errUnauthorized
	}
	if s.switches.expireAfter > 0 {
		if s.switches.expireAfter--; s.switches.expireAfter == 0 {
			clear(s.tokens)
		}
	}
	return nil
}

func (s *Server) listBastions(req request) (any, error) {
	if err := s.admit(req.Token); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	clusters := make([]map[string]any, 0, len(s.clusters))
	for _, c := range s.clusters {
		if s.switches.hidden[c.Name] {
			continue
		}
		urls, perInstance := []string{}, map[string][]string{}
		for _, i := range c.Instances {
			perInstance[i.ID] = append([]string{}, i.URLs...)
			urls = append(urls, i.URLs...)
		}
		reply := map[string]any{"cluster_name": c.Name, "allowed_urls": urls}
		if !req.AllowedURLsOnly {
			reply["display_name"] = c.DisplayName
			reply["access_id"] = s.id
			reply["allowed_access_ids"] = []string{}
			reply["allowed_urls_per_instance"] = perInstance
			reply["bastion_ssh_port"] = "22"
			reply["bastion_urls_per_type"] = map[string]any{}
			reply["has_gateway_identity"] = true
			reply["last_report"] = c.LastReport
			if s.switches.dialect == DialectInstances {
				instances := make([]Instance, len(c.Instances))
				copy(instances, c.Instances)
				reply["instances"] = instances
			}
		}
		clusters = append(clusters, reply)
	}
	return map[string]any{"clusters": clusters}, nil
}

func (s *Server) listGateways(req request) (any, error) {
	if err := s.admit(req.Token); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	clusters := make([]map[string]any, 0, len(s.clusters))
	for i, c := range s.clusters {
		if !s.switches.hidden[c.Name] {
			clusters = append(clusters, map[string]any{
				"id": i + 1, "cluster_name": c.Name, "cluster_url": "", "display_name": c.DisplayName,
				"status": "Running", "status_description": "", "allowed": true,
			})
		}
	}
	return map[string]any{"clusters": clusters}, nil
}

// listedSession differs from Session where the wire leaves keys out.
type listedSession struct {
	*Session
	EndTime *time.Time `json:"end_time,omitempty"` // absent while active
}

type sessionsReply struct {
	Sessions        []listedSession `json:"sessions"`
	NextPage        string          `json:"next_page"`
	AllowedGateways []GatewayInfo   `json:"allowed_gateways,omitempty"`
}

func (s *Server) listSessions(req request) (any, error) {
	if err := s.admit(req.Token); err != nil {
		return nil, err
	}
	for _, status := range req.StatusType {
		if !slices.Contains(statuses, status) {
			return nil, badRequest("status-type %q is none of %v", status, statuses)
		}
	}
	for _, kind := range req.ResourceType {
		if !slices.Contains(resourceTypes, kind) {
			return nil, badRequest("resource-type %q is none of %v", kind, resourceTypes)
		}
	}
	wanted := req.StatusType
	if len(wanted) == 0 {
		wanted = activeStatuses
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var before *key
	if req.PaginationToken != "" && !s.switches.oldServer {
		cursor, err := decodeCursor(req.PaginationToken)
		if err != nil {
			return nil, err
		}
		before = &cursor
	}
	from := &s.all
	if !slices.ContainsFunc(wanted, func(status string) bool { return !isActive(status) }) {
		from = &s.active // else a few open sessions would cost a walk over all
	}
	reply := sessionsReply{Sessions: make([]listedSession, 0, min(s.pageSize, from.len))}
	for session := range from.newestFirst(before) {
		switch {
		case s.switches.hidden[session.Gateway.ClusterName] && session.AccessID != s.id,
			!slices.Contains(wanted, session.Status),
			len(req.ResourceType) > 0 && !slices.Contains(req.ResourceType, session.ConnectionType) && !slices.Contains(req.ResourceType, session.TargetType):
			continue
		}
		if len(reply.Sessions) == s.pageSize { // one more there is: the page is not the last
			last := reply.Sessions[len(reply.Sessions)-1]
			reply.NextPage = encodeCursor(keyOf(last.Session))
			break
		}
		listed := listedSession{Session: session}
		if !session.EndTime.IsZero() {
			listed.EndTime = &session.EndTime
		}
		reply.Sessions = append(reply.Sessions, listed)
	}
	if before == nil && !s.switches.silent {
		for _, c := range s.clusters {
			if !s.switches.hidden[c.Name] {
				reply.AllowedGateways = append(reply.AllowedGateways, GatewayInfo{ClusterName: c.Name, ClusterDisplayName: c.DisplayName})
			}
		}
		if reply.AllowedGateways == nil {
			return struct {
				sessionsReply
				AllowedGateways []GatewayInfo `json:"allowed_gateways"`
			}{reply, []GatewayInfo{}}, nil // said, and none: not the same as unsaid
		}
	}
	return reply, nil
}

func encodeCursor(k key) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(k.start, 10) + "|" + k.id))
}

func decodeCursor(token string) (key, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	start, id, found := strings.Cut(string(raw), "|")
	nanos, numErr := strconv.ParseInt(start, 10, 64)
	if err != nil || numErr != nil || !found {
		return key{}, badRequest("pagination-token is invalid")
	}
	return key{start: nanos, id: id}, nil
}
