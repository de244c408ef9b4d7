package akeylesstest

import (
	"bytes"
	"cmp"
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
	broken  bool // the request breaks the schema: the caller's programming mistake
}

func (r refusal) Error() string { return r.message }

func refuse(status int, message string) refusal { return refusal{status: status, message: message} }

func broken(status int, format string, args ...any) refusal {
	return refusal{status: status, message: fmt.Sprintf(format, args...), broken: true}
}

// calls are the API's, by name; schemas has the keys of each. by name; schemas has the keys of each.
func (s *Server) calls() map[string]func(request) (any, error) {
	return map[string]func(request) (any, error){
		"auth":                      s.auth,
		"validate-token":            s.validateToken,
		"list-sra-bastions":         s.listBastions,
		"list-sra-sessions":         s.listSessions,
		"list-gateways":             s.listGateways,
		"gateway-get-remote-access": s.getRemoteAccess,
	}
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for name, handle := range s.calls() {
		mux.HandleFunc("/"+name, s.call(name, -1, handle))
		mux.HandleFunc("/gateway/{gateway}/"+name, func(w http.ResponseWriter, r *http.Request) {
			s.mu.RLock()
			gateways := len(s.clusters)
			s.mu.RUnlock()
			if n, err := strconv.Atoi(r.PathValue("gateway")); err == nil && n > 0 && n <= gateways {
				s.call(name, n-1, handle)(w, r)
				return
			}
			s.unknown(w, r)
		})
	}
	mux.HandleFunc("PUT /lab/sessions", lab(s.putSessions))
	mux.HandleFunc("PUT /lab/clusters", lab(s.putClusters))
	mux.HandleFunc("PUT /lab/switches", lab(s.putSwitches))
	mux.HandleFunc("/", s.unknown)
	return mux
}

func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	err := broken(http.StatusNotFound, "404 page not found")
	s.violated(r, err)
	write(w, err.status, map[string]string{"error": err.message})
}

// ServeHTTP answers at the root and, as gateways do, under /api/v2 and /v2, and
// the same for each gateway under /gateway/N.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	now := s.now().Add(s.switches.skew)
	s.mu.RUnlock()
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
	for _, base := range []string{"/api/v2/", "/v2/"} {
		before, call, found := strings.Cut(r.URL.Path, base)
		if found && (before == "" || strings.HasPrefix(before, "/gateway/")) {
			r = r.Clone(r.Context())
			r.URL.Path = before + "/" + call
			break
		}
	}
	s.mux.ServeHTTP(w, r)
}

// call wraps one API call with what the switches make go wrong before it.
func (s *Server) call(name string, gateway int, handle func(request) (any, error)) http.HandlerFunc {
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
		}
		var reply any
		req, err := request{}, trouble.refused
		if err == nil {
			req, err = read(name, r)
		}
		if err == nil {
			req.gateway = gateway
			reply, err = handle(req)
		}
		status := http.StatusOK
		if err != nil {
			var told refusal
			if !errors.As(err, &told) {
				told.status = http.StatusInternalServerError
			}
			if told.broken {
				s.violated(r, err)
			}
			status, reply = told.status, map[string]string{"error": err.Error()}
		}
		if trouble.nulls {
			reply = emptied(reply)
		}
		if trouble.truncated {
			whole := &answer{header: w.Header()}
			write(whole, status, reply)
			w.WriteHeader(status)
			_, _ = w.Write(whole.body.Bytes()[:whole.body.Len()/2])
			return
		}
		write(w, status, reply)
	}
}

// trouble is what goes wrong with one call.
type trouble struct {
	down, html, limited, truncated, nulls bool
	latency, retryAfter                   time.Duration
	refused                               error
}

// trouble counts a call and takes what is to go wrong with it.
func (s *Server) trouble(name string) trouble {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[name]++
	w := &s.switches
	t := trouble{down: w.down, latency: w.latency, retryAfter: w.retryAfter, nulls: w.nulls}
	switch {
	case t.down:
	case w.html > 0:
		w.html--
		t.html = true
	case w.limited > 0:
		w.limited--
		t.limited = true
	case w.truncated > 0:
		w.truncated--
		t.truncated = true
	case w.failing > 0:
		w.failing--
		t.refused = w.failure
	case w.forbidden[name]:
		t.refused = refuse(http.StatusForbidden, "Forbidden: the role does not allow this")
	}
	return t
}

func write(w http.ResponseWriter, status int, reply any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply) // the caller may be gone
}

// emptied is reply with null for all that is empty.
func emptied(reply any) any {
	raw, err := json.Marshal(reply)
	if err != nil {
		panic(err) // replies are made of what can be encoded
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var plain any
	if err := decoder.Decode(&plain); err != nil {
		panic(err)
	}
	if nulled := withNulls(plain); nulled != nil {
		return nulled
	}
	return map[string]any{}
}

func withNulls(value any) any {
	switch v := value.(type) {
	case string:
		if v == "" {
			return nil
		}
	case []any:
		for i := range v {
			v[i] = withNulls(v[i])
		}
		if len(v) == 0 {
			return nil
		}
	case map[string]any:
		for key := range v {
			v[key] = withNulls(v[key])
		}
		if len(v) == 0 {
			return nil
		}
	}
	return value
}

func (s *Server) listBastions(req request) (any, error) {
	if _, err := s.admit(req); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	clusters := make([]map[string]any, 0, len(s.clusters))
	for _, c := range s.clusters {
		if s.switches.hidden[c.Name] {
			continue
		}
		urls, perInstance := []string{}, make(map[string][]string, len(c.Instances))
		for _, i := range c.Instances {
			perInstance[i.ID] = append([]string{}, i.URLs...)
			urls = append(urls, i.URLs...)
		}
		reply := map[string]any{"cluster_name": c.Name, "allowed_urls": urls}
		if !req.flags["allowed-urls-only"] {
			reply["display_name"] = c.DisplayName
			reply["access_id"] = s.credentials[0].AccessID
			reply["allowed_access_ids"] = []string{}
			reply["allowed_urls_per_instance"] = perInstance
			reply["bastion_ssh_port"] = 22
			reply["bastion_urls_per_type"] = map[string]string{}
			reply["has_gateway_identity"] = true
			reply["last_report"] = c.LastReport
			if s.switches.dialect == DialectInstances {
				reply["instances"] = c.Instances // replaced as a whole, never changed
			}
		}
		clusters = append(clusters, reply)
	}
	return map[string]any{"clusters": clusters}, nil
}

func (s *Server) listGateways(req request) (any, error) {
	if _, err := s.admit(req); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	clusters := make([]map[string]any, 0, len(s.clusters))
	for i, c := range s.clusters {
		if s.switches.hidden[c.Name] {
			continue
		}
		clusters = append(clusters, map[string]any{
			"id": i + 1, "cluster_name": c.Name, "cluster_url": s.gatewayAddress(i), "display_name": c.DisplayName,
			"status": cmp.Or(c.Status, "Running"), "status_description": "", "allowed": true, "action_allowed": true,
			"allowed_access_ids": []string{}, "current_gw": i == req.gateway, "customer_fragment_ids": []string{},
			"default_protection_key_id": 0, "default_secret_location": "", "serverless_type": "",
			"is_kerberos_auth_enabled": false, "is_ldap_auth_enabled": false,
		})
	}
	return map[string]any{"clusters": clusters}, nil
}

// listedSession differs from Session where the wire leaves keys out.
type listedSession struct {
	*Session
	EndTime *time.Time `json:"end_time,omitempty"` // absent while active
}

// sessionsReply leaves AllowedGateways out when nil: said, and none, is not the
// same as unsaid.
type sessionsReply struct {
	Sessions        []listedSession `json:"sessions"`
	NextPage        string          `json:"next_page"`
	AllowedGateways *[]GatewayInfo  `json:"allowed_gateways,omitempty"`
}

func (s *Server) listSessions(req request) (any, error) {
	caller, err := s.admit(req)
	if err != nil {
		return nil, err
	}
	wanted, kinds := req.lists["status-type"], req.lists["resource-type"]
	if len(wanted) == 0 {
		wanted = activeStatuses
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	var before *key
	if token := req.texts["pagination-token"]; token != "" && !s.switches.oldServer {
		cursor, err := decodeCursor(token)
		if err != nil {
			return nil, err
		}
		before = &cursor
	}
	from := &s.all
	if !slices.ContainsFunc(wanted, func(status string) bool { return !isActive(status) }) {
		from = &s.active // else a few open sessions would cost a walk over all
	}
	pageSize := s.switches.pageSize
	reply := sessionsReply{Sessions: make([]listedSession, 0, min(pageSize, from.len))}
	if before != nil && s.switches.duplicates {
		if last := s.sessions[before.id]; last != nil {
			reply.Sessions = append(reply.Sessions, s.listed(last))
			pageSize++
		}
	}
	for session := range from.newestFirst(before) {
		gateway := session.Gateway.ClusterName
		switch {
		case session.AccessID != caller.AccessID && (s.switches.hidden[gateway] || !caller.sees(gateway)),
			!slices.Contains(wanted, session.Status),
			len(kinds) > 0 && !slices.Contains(kinds, session.ConnectionType) && !slices.Contains(kinds, session.TargetType):
			continue
		}
		if len(reply.Sessions) == pageSize { // one more there is: the page is not the last
			reply.NextPage = encodeCursor(keyOf(reply.Sessions[len(reply.Sessions)-1].Session))
			break
		}
		reply.Sessions = append(reply.Sessions, s.listed(session))
	}
	if before == nil && !s.switches.silent && caller.Scope != ScopeOwn {
		gateways := make([]GatewayInfo, 0, len(s.clusters))
		for _, c := range s.clusters {
			if !s.switches.hidden[c.Name] && caller.sees(c.Name) {
				gateways = append(gateways, GatewayInfo{ClusterName: c.Name, ClusterDisplayName: c.DisplayName})
			}
		}
		reply.AllowedGateways = &gateways
	}
	return reply, nil
}

func (s *Server) listed(session *Session) listedSession {
	out := listedSession{Session: session}
	if s.switches.zeroTimes || !session.EndTime.IsZero() {
		out.EndTime = &session.EndTime
	}
	return out
}

func encodeCursor(k key) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(k.start, 10) + "|" + k.id))
}

func decodeCursor(token string) (key, error) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	start, id, found := strings.Cut(string(raw), "|")
	nanos, numErr := strconv.ParseInt(start, 10, 64)
	if err != nil || numErr != nil || !found {
		return key{}, broken(http.StatusBadRequest, "pagination-token is invalid")
	}
	return key{start: nanos, id: id}, nil
}
