package main

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lockstep-fleet/lockstep/kit/app"
)

// health serves what machines ask of a process. It needs no token and tells
// nothing about the fleet but counts.
func health(mux *http.ServeMux, a *app.App, m *meters) {
	alive := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		states, ready := a.Readiness()
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		for _, s := range states {
			if r.URL.Query().Has("verbose") || !s.Ready {
				mark := "+"
				if !s.Ready {
					mark = "-"
				}
				fmt.Fprintf(w, "[%s]%s\n", mark, s.Name)
			}
		}
		if ready {
			fmt.Fprintln(w, "ok")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
}
