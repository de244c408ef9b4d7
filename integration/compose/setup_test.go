//go:build integration

package compose_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/flags"
	"github.com/docker/compose/v5/pkg/api"
	library "github.com/docker/compose/v5/pkg/compose"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/integration/lab/engine"
)

// world is what all tests share: an engine, a registry it can pull from, and
// the program that images are made of.
type world struct {
	host     string
	registry string // host:port
	program  []byte
}

var shared world

func TestMain(m *testing.M) { os.Exit(prepare(m)) }

func prepare(m *testing.M) int {
	docker, err := engine.Start(context.Background(), engine.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		log.Print(err)
		return 1
	}
	code := run(m, docker.Host())
	if err := docker.Close(context.Background()); err != nil {
		log.Print(err)
		return 1
	}
	return code
}

func run(m *testing.M, host string) int {
	shared.host = host
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	shared.registry = server.Listener.Addr().String()
	dir, err := os.MkdirTemp("", "node")
	if err != nil {
		log.Print(err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "node")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./node")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		log.Printf("building the test image's program: %v\n%s", err, out)
		return 1
	}
	if shared.program, err = os.ReadFile(path); err != nil {
		log.Print(err)
		return 1
	}
	return m.Run()
}

// fixture is one test's Compose project.
type fixture struct {
	t       *testing.T
	host    string // the engine it is on
	project string
	dir     string
	api     client.APIClient
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	return newFixtureOn(t, shared.host)
}

func newFixtureOn(t *testing.T, host string) *fixture {
	t.Helper()
	api, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, host: host, project: "adc-" + strings.ToLower(rand.Text()[:8]), dir: t.TempDir(), api: api}
	t.Cleanup(f.cleanup)
	return f
}

func (f *fixture) cleanup() {
	f.cleanupContainers()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.t.Context()), 30*time.Second)
	defer cancel()
	networks, err := f.api.NetworkList(ctx, client.NetworkListOptions{Filters: f.filter()})
	if err != nil {
		f.t.Errorf("cleaning up: %v", err)
	}
	for _, n := range networks.Items {
		if _, err := f.api.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{}); err != nil {
			f.t.Errorf("cleaning up: %v", err)
		}
	}
	_ = f.api.Close()
}

func (f *fixture) filter() client.Filters {
	return make(client.Filters).Add("label", api.ProjectLabel+"="+f.project)
}

// cleanupContainers has its own context: the test's ends before cleanups run.
func (f *fixture) cleanupContainers() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.t.Context()), 30*time.Second)
	defer cancel()
	list, err := f.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f.filter()})
	if err != nil {
		f.t.Errorf("cleaning up: %v", err)
	}
	for _, c := range list.Items {
		if _, err := f.api.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			f.t.Errorf("cleaning up: %v", err)
		}
	}
}

// image publishes a small image under repo:tag and returns its reference with
// digest. Every project has its own repositories, so that tests do not meet.
func (f *fixture) image(repo, tag, mode, arch string) string {
	f.t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "node", Mode: 0o755, Size: int64(len(shared.program))}); err != nil {
		f.t.Fatal(err)
	}
	if _, err := w.Write(shared.program); err != nil {
		f.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		f.t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		f.t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		f.t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config = v1.Config{
		Entrypoint: []string{"/node"},
		Env:        []string{"LABEL=" + f.project + "-" + repo + "-" + tag, "MODE=" + mode},
		Healthcheck: &v1.HealthConfig{
			Test: []string{"CMD", "/node", "health"}, Interval: 300 * time.Millisecond, Timeout: 3 * time.Second, Retries: 3,
		},
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		f.t.Fatal(err)
	}
	ref, err := name.NewTag(f.repo(repo)+":"+tag, name.Insecure)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		f.t.Fatal(err)
	}
	sum, err := img.Digest()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.repo(repo) + ":" + tag + "@" + sum.String()
}

func (f *fixture) repo(name string) string { return shared.registry + "/" + f.project + "/" + name }

func (f *fixture) write(file, content string) string {
	f.t.Helper()
	path := filepath.Join(f.dir, file)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// edit replaces parts of a file, old and new in turns.
func (f *fixture) edit(file string, oldnew ...string) {
	f.t.Helper()
	content, err := os.ReadFile(filepath.Join(f.dir, file))
	if err != nil {
		f.t.Fatal(err)
	}
	edited := strings.NewReplacer(oldnew...).Replace(string(content))
	if edited == string(content) {
		f.t.Fatalf("nothing of %q is in %s", oldnew, file)
	}
	f.write(file, edited)
}

// standard writes a project like the vendor's: a gateway with its version in an
// env file, two bastions behind its health, one with a fixed name, and a cache.
func (f *fixture) standard() compose.Target {
	f.t.Helper()
	for _, repo := range []string{"akeyless/base", "zero-trust-bastion", "cache"} {
		f.image(repo, "1.0", "good", "amd64")
	}
	f.write("gateway.env", "VERSION=1.0\nSECRET='a$b c'\n")
	f.write("compose.yaml", fmt.Sprintf(`
services:
  akeyless-gateway:
    image: %[1]s/akeyless/base:1.0
    env_file: gateway.env
    profiles: [gateway]
    volumes: [./:/config:ro]
    depends_on: [akeyless-cache]
  akeyless-web:
    image: %[1]s/zero-trust-bastion:1.0
    container_name: %[2]s-sra-web
    profiles: [sra]
    depends_on:
      akeyless-gateway: {condition: service_healthy}
  akeyless-ssh:
    image: %[1]s/zero-trust-bastion:1.0
    profiles: [sra]
    stop_grace_period: 2s
    depends_on:
      akeyless-gateway: {condition: service_healthy}
  akeyless-cache:
    image: %[1]s/cache:1.0
    profiles: [gateway]
`, shared.registry+"/"+f.project, f.project))
	return compose.Target{Project: f.project, Dir: f.dir, Files: []string{"compose.yaml"}, Profiles: []string{"gateway", "sra"}}
}

// userUp starts the project the way docker compose up -d --wait does.
func (f *fixture) userUp(t compose.Target) {
	f.t.Helper()
	if err := f.up(t, true); err != nil {
		f.t.Fatal(err)
	}
}

// up starts the project the way docker compose up -d does, and may wait for health.
func (f *fixture) up(t compose.Target, wait bool) error {
	f.t.Helper()
	cli, err := command.NewDockerCli(command.WithCombinedStreams(io.Discard))
	if err != nil {
		return err
	}
	settings := flags.NewClientOptions()
	settings.Hosts = []string{f.host}
	if err := cli.Initialize(settings); err != nil {
		return err
	}
	service, err := library.NewComposeService(cli)
	if err != nil {
		return err
	}
	project, err := service.LoadProject(f.t.Context(), api.ProjectLoadOptions{
		ProjectName: t.Project, WorkingDir: t.Dir, ConfigPaths: []string{filepath.Join(t.Dir, t.Files[0])}, Profiles: t.Profiles,
	})
	if err != nil {
		return err
	}
	if project, err = project.WithServicesEnvironmentResolved(true); err != nil {
		return err
	}
	return service.Up(f.t.Context(), project, api.UpOptions{
		Create: api.CreateOptions{Services: project.ServiceNames(), Recreate: api.RecreateDiverged, RecreateDependencies: api.RecreateDiverged, Inherit: true, QuietPull: true},
		Start:  api.StartOptions{Project: project, Wait: wait, WaitTimeout: time.Minute},
	})
}

func (f *fixture) engine(guard func(context.Context) error) *compose.Engine {
	f.t.Helper()
	e, err := compose.New(compose.Options{Host: f.host, Guard: guard, HealthTimeout: 20 * time.Second, Settle: 300 * time.Millisecond})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = e.Close() })
	return e
}

// seen is what must not change while nothing is asked to change.
type seen struct{ ID, Started, Name string }

func (f *fixture) state() map[string]seen {
	f.t.Helper()
	out := make(map[string]seen)
	for service, c := range f.containers() {
		out[service] = seen{c.ID, c.State.StartedAt, strings.TrimPrefix(c.Name, "/")}
	}
	return out
}

func (f *fixture) containers() map[string]container.InspectResponse {
	f.t.Helper()
	ctx := f.t.Context()
	list, err := f.api.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: f.filter()})
	if err != nil {
		f.t.Fatal(err)
	}
	out := make(map[string]container.InspectResponse)
	for _, c := range list.Items {
		answer, err := f.api.ContainerInspect(ctx, c.ID, client.ContainerInspectOptions{})
		if err != nil {
			f.t.Fatal(err)
		}
		service := c.Labels[api.ServiceLabel]
		if other, ok := out[service]; ok {
			f.t.Fatalf("service %s has two containers: %s and %s", service, other.Name, answer.Container.Name)
		}
		out[service] = answer.Container
	}
	return out
}
