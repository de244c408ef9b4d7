package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// health serves what machines ask of a process. It needs no token; of the fleet it
// tells nothing.
func (s *server) health(mux *http.ServeMux) {
	alive(mux)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		states, ready := s.app.Readiness()
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		for _, state := range states {
			if r.URL.Query().Has("verbose") || !state.Ready {
				mark := "+"
				if !state.Ready {
					mark = "-"
				}
				line := fmt.Sprintf("[%s]%s", mark, state.Name)
				if state.Reason != "" {
					line += ": " + state.Reason
				}
				fmt.Fprintln(w, line)
			}
		}
		if ready {
			fmt.Fprintln(w, "ok")
		}
	})
}

func alive(mux *http.ServeMux) {
	ok := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }
	mux.HandleFunc("GET /livez", ok)
	mux.HandleFunc("GET /healthz", ok)
}

// ready says which roles are not, or nil.
func (s *server) ready() error {
	states, all := s.app.Readiness()
	if all {
		return nil
	}
	var waiting []string
	for _, state := range states {
		if !state.Ready {
			waiting = append(waiting, state.Name)
		}
	}
	return errors.New("not ready: " + strings.Join(waiting, ", "))
}
