package engine_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lockstep-fleet/lockstep/integration/lab/engine"
)

func environment(pairs map[string]string) func(string) string {
	return func(name string) string { return pairs[name] }
}

func TestStartUsesTheNamedEngine(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/_ping") {
			t.Errorf("unexpected call %s", r.URL)
		}
	}))
	defer srv.Close()
	host := "tcp://" + srv.Listener.Addr().String()

	e, err := engine.Start(t.Context(), engine.Options{Getenv: environment(map[string]string{
		"LOCKSTEP_TEST_DOCKER_HOST": host,
		"DOCKER_HOST":               "unix:///nowhere",
	})})
	if err != nil {
		t.Fatal(err)
	}
	if e.Host() != host || e.Private() {
		t.Errorf("got host %s, private %v; want %s, false", e.Host(), e.Private(), host)
	}
	if err := e.Close(context.Background()); err != nil {
		t.Errorf("closing somebody else's engine: %v", err)
	}
}

// A named engine that is down is an error and never replaced by another one.
func TestStartRefusesADeadNamedEngine(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"unix://" + filepath.Join(t.TempDir(), "none.sock"),
		"ssh://somewhere",
	} {
		_, err := engine.Start(t.Context(), engine.Options{Getenv: environment(map[string]string{"DOCKER_HOST": host})})
		if err == nil || !strings.Contains(err.Error(), "DOCKER_HOST") {
			t.Errorf("%s: got %v, want an error that names DOCKER_HOST", host, err)
		}
	}
}

func TestRemoveProjectRemovesOnlyThatProject(t *testing.T) {
	t.Parallel()
	var (
		mu    sync.Mutex
		calls []string
	)
	note := func(call string) {
		mu.Lock()
		defer mu.Unlock()
		calls = append(calls, call)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1.40/containers/json", func(w http.ResponseWriter, r *http.Request) {
		note("list " + r.FormValue("filters"))
		w.Write([]byte(`[{"Id":"aa"},{"Id":"bb"}]`))
	})
	mux.HandleFunc("DELETE /v1.40/containers/{id}", func(w http.ResponseWriter, r *http.Request) {
		note("delete " + r.PathValue("id"))
		if r.PathValue("id") == "bb" {
			http.Error(w, `{"message":"already going"}`, http.StatusConflict)
		}
	})
	mux.HandleFunc("POST /v1.40/networks/prune", func(w http.ResponseWriter, r *http.Request) {
		note("networks " + r.URL.Query().Get("filters"))
		w.Write([]byte(`{}`))
	})
	mux.HandleFunc("GET /v1.40/_ping", func(http.ResponseWriter, *http.Request) {})
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: listener, Config: &http.Server{Handler: mux}}
	srv.Start()
	defer srv.Close()

	host := (&url.URL{Scheme: "unix", Path: path}).String()
	e, err := engine.Start(t.Context(), engine.Options{Getenv: environment(map[string]string{"DOCKER_HOST": host})})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveProject(t.Context(), "berlin"); err != nil {
		t.Fatal(err)
	}
	filter := `{"label":["com.docker.compose.project=berlin"]}`
	want := []string{"list " + filter, "delete aa", "delete bb", "networks " + filter}
	slices.Sort(calls[1:min(3, len(calls))]) // containers go side by side
	if strings.Join(calls, "\n") != strings.Join(want, "\n") {
		t.Errorf("got calls\n%s\nwant\n%s", strings.Join(calls, "\n"), strings.Join(want, "\n"))
	}
}
