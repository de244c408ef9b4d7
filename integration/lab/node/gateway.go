package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// authorization is what a bastion asks the gateway before it opens a session.
type authorization struct {
	Session string `json:"session"`
	User    string `json:"user"`
	Target  string `json:"target"`
}

type refusal struct {
	Error string `json:"error"`
}

func (n *Node) gatewayHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", n.statusHandler())
	mux.HandleFunc("POST /authorize", func(w http.ResponseWriter, r *http.Request) {
		var a authorization
		if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&a); err != nil || a.Session == "" {
			answer(w, http.StatusBadRequest, refusal{"authorize: the request needs a session"})
			return
		}
		if Fails(a.Session, n.cfg.FailPercent) {
			answer(w, http.StatusForbidden, refusal{fmt.Sprintf("authorization refused: no access role of %s allows %s", a.User, a.Target)})
			return
		}
		answer(w, http.StatusOK, struct{}{})
	})
	return mux
}

// statusHandler answers what the vendor's health endpoints answer: that the
// process is up, which says nothing about whether sessions work.
func (n *Node) statusHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "OK"})
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "Running", "version": n.cfg.Version, "instance": n.cfg.Instance})
	})
	return mux
}

// authorize asks the gateway; the error's text is what the user is told.
func (n *Node) authorize(ctx context.Context, a authorization) error {
	body, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.cfg.GatewayURL+"/authorize", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the gateway: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	// The question may be asked twice; saying so lets the client ask again
	// when a kept connection turns out to have died with an old gateway.
	req.Header.Set("Idempotency-Key", a.Session)
	resp, err := n.gateway.Do(req)
	if err != nil {
		return fmt.Errorf("gateway unreachable: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	var said refusal
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.Error == "" {
		return fmt.Errorf("gateway answered %s", resp.Status)
	}
	return fmt.Errorf("%s", said.Error)
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body) //nolint:errcheck // the asker may have left; there is nobody to tell
}
