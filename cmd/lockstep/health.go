package main

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lockstep-fleet/lockstep/kit/app"
)

// health serves what machines ask of a process. It needs no token; of the fleet it
// tells counts and the names of clusters and sinks.
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
				line := fmt.Sprintf("[%s]%s", mark, s.Name)
				if s.Reason != "" {
					line += ": " + s.Reason
				}
				fmt.Fprintln(w, line)
			}
		}
		if ready {
			fmt.Fprintln(w, "ok")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
}
