package docker_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func now() time.Time { return at }

// engine answers the few reads an inventory makes, from canned replies by path.
func engine(t *testing.T, replies map[string]string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		path := r.URL.Path
		if path == "/_ping" {
			return
		}
		path = strings.TrimPrefix(path, "/v1.41")
		reply, ok := replies[path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			reply = `{"message":"no such thing"}`
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(reply))
	}))
	t.Cleanup(server.Close)
	return "tcp://" + server.Listener.Addr().String()
}

func open(t *testing.T, opts docker.Options) *docker.Engine {
	t.Helper()
	e, err := docker.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func TestInventoryReadsWhatRuns(t *testing.T) {
	t.Parallel()
	host := engine(t, map[string]string{
		"/containers/json": `[
			{"Id":"c3","Labels":{"com.docker.compose.service":"front"}},
			{"Id":"c1","Labels":{"com.docker.compose.service":"akeyless-gateway"}},
			{"Id":"c2","Labels":{"com.docker.compose.service":"akeyless-ssh"}},
			{"Id":"c4","Labels":{"com.docker.compose.service":"akeyless-cache"}},
			{"Id":"c5","Labels":{"com.docker.compose.service":"akeyless-web","com.docker.compose.oneoff":"True"}},
			{"Id":"gone","Labels":{"com.docker.compose.service":"akeyless-web"}}]`,
		"/containers/c1/json": `{"Id":"c1","Image":"sha256:01","Config":{"Image":"akeyless/base:latest-akeyless","Env":["VERSION=5.0.1"],
			"Labels":{"org.opencontainers.image.version":"5.0.0","other":"1"}},"RestartCount":3,
			"State":{"Running":true,"StartedAt":"2026-03-01T11:00:00.5Z","Health":{"Status":"healthy"}}}`,
		"/containers/c2/json": `{"Id":"c2","Image":"sha256:02","Config":{"Image":"akeyless/zero-trust-bastion:3.1.0"},
			"State":{"Running":false,"StartedAt":"0001-01-01T00:00:00Z"}}`,
		"/containers/c3/json": `{"Id":"c3","Image":"sha256:02","Config":{"Image":"mirror:5000/bastion:3.1.0"},
			"State":{"Running":true,"StartedAt":"2026-03-01T10:00:00Z"}}`,
		"/containers/c4/json":    `{"Id":"c4","Image":"sha256:03","Config":{"Image":"redis:8"},"State":{"Running":true}}`,
		"/images/sha256:01/json": `{"Id":"sha256:01","RepoDigests":["akeyless/base@` + digestA + `"]}`,
		"/images/sha256:02/json": `{"Id":"sha256:02","RepoDigests":["akeyless/zero-trust-bastion@` + digestB + `","mirror:5000/bastion@` + digestA + `"]}`,
	})
	got, err := open(t, docker.Options{Host: host}).Inventory(t.Context(), "east", "vault", map[string]fleet.Component{"front": fleet.SRAWeb}, now)
	if err != nil {
		t.Fatal(err)
	}
	want := fleet.Inventory{Cluster: "east", ObservedAt: at, Instances: []fleet.Instance{
		{ID: "c1", Component: fleet.Gateway, Service: "akeyless-gateway", Image: "akeyless/base:latest-akeyless", Tag: "latest-akeyless", Digest: digestA,
			ImageID: "sha256:01", Version: "5.0.1", Labelled: "5.0.0", Restarts: 3, Health: fleet.HealthHealthy, StartedAt: time.Date(2026, 3, 1, 11, 0, 0, 500_000_000, time.UTC)},
		{ID: "c2", Component: fleet.SRASSH, Service: "akeyless-ssh", Image: "akeyless/zero-trust-bastion:3.1.0", Tag: "3.1.0", Digest: digestB,
			ImageID: "sha256:02", Health: fleet.HealthStopped},
		{ID: "c3", Component: fleet.SRAWeb, Service: "front", Image: "mirror:5000/bastion:3.1.0", Tag: "3.1.0", Digest: digestA,
			ImageID: "sha256:02", Health: fleet.HealthNone, StartedAt: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
}

func TestUnreachableEngineSaysWhichAndWhatToDo(t *testing.T) {
	t.Parallel()
	host := "unix://" + filepath.Join(t.TempDir(), "absent.sock")
	_, err := open(t, docker.Options{Host: host}).Inventory(t.Context(), "east", "vault", nil, now)
	if err == nil {
		t.Fatal("no error from an engine that is not there")
	}
	for _, part := range []string{"LS-CMP-001: ", host, `"vault"`, "start the engine"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestAnEngineThatRefusesTheUserSaysWhatToDo(t *testing.T) {
	t.Parallel()
	e := open(t, docker.Options{Host: "unix:///var/run/docker.sock"})
	err := e.Explain("listing", errors.New("dial unix /var/run/docker.sock: connect: permission denied"))
	if errs.IDOf(err) != "LS-CMP-002" || !strings.Contains(err.Error(), "docker group") {
		t.Errorf("got %v", err)
	}
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := docker.New(docker.Options{Host: "nowhere://x y"}); errs.IDOf(err) != "LS-CMP-010" || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("got %v", err)
	}
}

func TestGuardRefusesChangesOnly(t *testing.T) {
	t.Parallel()
	stop := errors.New("lease lost")
	host := engine(t, map[string]string{"/containers/json": `[]`, "/containers/c1/stop": ``})
	e := open(t, docker.Options{Host: host, Guard: func(context.Context) error { return stop }})
	if _, err := e.Inventory(t.Context(), "east", "vault", nil, now); err != nil {
		t.Errorf("reading was refused: %v", err)
	}
	_, err := e.API().ContainerStop(t.Context(), "c1", client.ContainerStopOptions{})
	if !errors.Is(err, stop) {
		t.Fatalf("stopping a container: %v, want the guard's refusal", err)
	}
	if text := e.Explain("stopping", err).Error(); strings.Contains(text, "cannot be reached") || !strings.Contains(text, "lease lost") {
		t.Errorf("a refusal reads %q", text)
	}
}
