package node

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// webHandler carries sessions by HTTP CONNECT: the user's name and password as
// proxy credentials, the target as the host, then an echo of lines.
func (n *Node) webHandler() http.Handler {
	status := n.statusHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			status.ServeHTTP(w, r)
			return
		}
		w.Header().Set(InstanceHeader, n.cfg.Instance)
		user, password, ok := proxyCredentials(r)
		if !ok || password != Password {
			answer(w, http.StatusProxyAuthRequired, refusal{"wrong password for " + user})
			return
		}
		a := authorization{Session: r.Header.Get(SessionHeader), User: user, Target: r.Host}
		if a.Session == "" {
			answer(w, http.StatusBadRequest, refusal{"a session needs the header " + SessionHeader})
			return
		}
		broken := Fails(a.Session, n.cfg.FailPercent)
		if !broken {
			if err := n.authorize(r.Context(), a); err != nil {
				answer(w, http.StatusForbidden, refusal{err.Error()})
				return
			}
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			answer(w, http.StatusInternalServerError, refusal{err.Error()})
			return
		}
		if broken {
			reset(conn)
			return
		}
		defer conn.Close()
		done, ok := n.track(conn)
		if !ok {
			return
		}
		defer done()
		conn.SetDeadline(time.Time{})
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 200 Connection established\r\n%s: %s\r\n\r\n", InstanceHeader, n.cfg.Instance); err != nil {
			return
		}
		if err := echoLines(conn, buffered); err != nil {
			n.log.Debug("web session broke off", "session", a.Session, "error", err)
		}
	})
}

func proxyCredentials(r *http.Request) (user, password string, ok bool) {
	// The standard library reads basic credentials from Authorization only.
	asAuthorization := &http.Request{Header: http.Header{"Authorization": {strings.TrimSpace(r.Header.Get("Proxy-Authorization"))}}}
	return asAuthorization.BasicAuth()
}
