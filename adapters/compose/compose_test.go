package compose

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// offline is an engine for what reads files only; nothing listens there.
func offline(t *testing.T, environment ...string) *Engine {
	t.Helper()
	e, err := New(Options{Host: "unix://" + filepath.Join(t.TempDir(), "none.sock"), Environment: environment})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func files(t *testing.T, contents map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range contents {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const pinnedGateway = "services: {akeyless-gateway: {image: 'akeyless/base:5.0.1'}}\n"
	for name, c := range map[string]struct {
		files  map[string]string
		change func(*Target)
		says   []string // none: the check passes
	}{
		"pinned":              {files: map[string]string{"compose.yaml": pinnedGateway}},
		"digest and moving":   {files: map[string]string{"compose.yaml": "services: {akeyless-web: {image: 'akeyless/zero-trust-bastion:latest@" + digestA + "'}}"}},
		"others may float":    {files: map[string]string{"compose.yaml": "services: {akeyless-cache: {image: redis}}"}},
		"no such file":        {says: []string{"LS-CMP-003", "compose.yaml does not exist", `"vault"`, "correct the path"}},
		"no such env file":    {files: map[string]string{"compose.yaml": pinnedGateway}, change: func(t *Target) { t.EnvFiles = []string{"prod.env"} }, says: []string{"LS-CMP-003", "prod.env does not exist"}},
		"no service env file": {files: map[string]string{"compose.yaml": "services: {a: {image: 'x:1', env_file: a.env}}"}, says: []string{"LS-CMP-003", "a.env does not exist", "service a"}},
		"not YAML":            {files: map[string]string{"compose.yaml": "services:\n  a: [\n"}, says: []string{"LS-CMP-004", "compose.yaml", "parse", "line 3"}},
		"not Compose":         {files: map[string]string{"compose.yaml": "services: {a: {imag: x}}"}, says: []string{"LS-CMP-004", "compose.yaml", "imag"}},
		"no tag":              {files: map[string]string{"compose.yaml": "services: {akeyless-ssh: {image: akeyless/zero-trust-bastion}}"}, says: []string{"LS-CMP-005", "service akeyless-ssh", "has no tag", `"akeyless/zero-trust-bastion"`, "sha256"}},
		"moving tags": {files: map[string]string{"compose.yaml": "services: {akeyless-gateway: {image: 'akeyless/base:latest-akeyless'}, other: {image: 'mirror/zero-trust-bastion:latest'}}"},
			says: []string{"service akeyless-gateway", "tag latest-akeyless", "service other", "tag latest,"}},
		"the overriding file is named": {files: map[string]string{"compose.yaml": pinnedGateway, "over.yaml": "services: {akeyless-gateway: {image: 'akeyless/base:latest'}}"},
			change: func(t *Target) { t.Files = append(t.Files, "over.yaml") }, says: []string{"over.yaml: service akeyless-gateway"}},
		"a component by the fleet file": {files: map[string]string{"compose.yaml": "services: {front: {image: 'mine:latest'}}"},
			change: func(t *Target) { t.Components = map[string]fleet.Component{"front": fleet.SRAWeb} }, says: []string{"service front", "moving tag"}},
		"empty VERSION": {files: map[string]string{"compose.yaml": "services: {akeyless-gateway: {image: 'akeyless/base:5', env_file: g.env}}", "g.env": "VERSION=\n"}, says: []string{"LS-CMP-005", "VERSION is empty"}},
		"everything behind a profile": {files: map[string]string{"compose.yaml": "services: {akeyless-gateway: {image: 'akeyless/base:5', profiles: [gateway]}}"},
			says: []string{"LS-CMP-004", "selects no service", "gateway", "set the target's profiles"}},
		"unknown profile": {files: map[string]string{"compose.yaml": "services: {akeyless-gateway: {image: 'akeyless/base:5', profiles: [gateway]}}"},
			change: func(t *Target) { t.Profiles = []string{"gateway", "srs"} }, says: []string{"LS-CMP-004", `"srs"`, "know gateway"}},
		"profile of the env file": {files: map[string]string{"compose.yaml": "services: {akeyless-gateway: {image: 'akeyless/base:5', profiles: [gateway]}}", ".env": "COMPOSE_PROFILES=gateway\n"}},
		"variable of the env file": {files: map[string]string{"compose.yaml": "services: {akeyless-gateway: {image: 'akeyless/base:${V}'}}", ".env": "V=latest\n"},
			says: []string{"tag latest"}},
		"another host": {files: map[string]string{"compose.yaml": pinnedGateway}, change: func(t *Target) { t.Host = "tcp://elsewhere:2375" }, says: []string{"tcp://elsewhere:2375"}},
		"no project":   {files: map[string]string{"compose.yaml": pinnedGateway}, change: func(t *Target) { t.Project = "" }, says: []string{"names no project"}},
		"no files":     {change: func(t *Target) { t.Files = nil }, says: []string{"names no compose file"}},
		"bad project":  {files: map[string]string{"compose.yaml": pinnedGateway}, change: func(t *Target) { t.Project = "Vault!" }, says: []string{`"Vault!"`, "lower-case"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := Target{Project: "vault", Dir: files(t, c.files), Files: []string{"compose.yaml"}}
			if c.change != nil {
				c.change(&target)
			}
			err := offline(t).Check(t.Context(), target)
			if len(c.says) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatal("the check passes")
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
		})
	}
}

// rich uses much of what people write, above all what JSON could lose.
const rich = `
x-common: &common
  restart: unless-stopped
  logging: {driver: json-file, options: {max-size: 10m}}
services:
  akeyless-gateway:
    <<: *common
    image: akeyless/base:${TAG:-5.0.1}
    env_file: [{path: gateway.env, required: true}, {path: absent.env, required: false}]
    environment: {PLAIN: "a$$b", EMPTY: "", FROM_HOST: , NUMBER: 1}
    ports: ["8000:8000", "127.0.0.1:8080-8081:8080-8081/tcp", {target: 9, published: "9", protocol: udp, mode: host}]
    volumes: ["./data:/data:ro", "named:/var/lib", "/anonymous", {type: tmpfs, target: /tmp, tmpfs: {size: 1m}}]
    healthcheck: {test: ["CMD", "true"], interval: 1m30s, retries: 3, start_period: 5s}
    deploy: {resources: {limits: {cpus: "0.5", memory: 512M}, reservations: {memory: 64M}}}
    ulimits: {nofile: {soft: 1024, hard: 2048}, nproc: 65535}
    mem_limit: 512M
    shm_size: 64mb
    stop_grace_period: 1m
    sysctls: {net.core.somaxconn: 1024}
    cap_add: [NET_ADMIN]
    extra_hosts: ["somehost:10.0.0.1"]
    labels: {a.b: "c", d: "$$e"}
    secrets: [token]
    configs: [{source: settings, target: /etc/settings, mode: 0440}]
    networks: {front: {aliases: [gw], ipv4_address: 172.30.0.5}, default: }
    depends_on: {cache: {condition: service_healthy, restart: true}}
  akeyless-ssh:
    image: akeyless/zero-trust-bastion:3.1.0
    container_name: akeyless-sra-ssh
    network_mode: service:akeyless-gateway
    volumes_from: [cache:ro]
    user: "0:0"
    entrypoint: ["/bin/x", "--y=$$Z"]
    command: run "quoted words"
    init: true
    tty: true
  cache:
    image: redis:8
    healthcheck: {disable: true}
    tmpfs: [/run]
    scale: 2
networks:
  front: {driver: bridge, ipam: {config: [{subnet: 172.30.0.0/24}]}, driver_opts: {o: "1"}, labels: {l: "1"}}
volumes:
  named: {labels: {keep: "yes"}, driver_opts: {type: none}}
secrets:
  token: {file: ./token}
configs:
  settings: {content: "k=$$v"}
`

// captured builds a package as Capture would, from files alone.
func captured(t *testing.T, contents map[string]string, services ...Service) Package {
	t.Helper()
	target := Target{Project: "vault", Dir: files(t, contents), Files: []string{"compose.yaml"}}
	read, err := offline(t).load(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	model, err := encodeModel(t.Context(), read.project, read.dir)
	if err != nil {
		t.Fatal(err)
	}
	return Package{Format: format, Project: "vault", Dir: read.dir, Files: read.files, EnvFiles: read.envFiles, Services: services, Model: model}
}

func richPackage(t *testing.T) Package {
	t.Helper()
	return captured(t, map[string]string{"compose.yaml": rich, "gateway.env": "VERSION=5.0.1\nTOKEN='p$w'\n"},
		Service{Name: "akeyless-gateway", Image: "akeyless/base:5.0.1@" + digestA, Declared: "akeyless/base:5.0.1"},
		Service{Name: "akeyless-ssh", Image: "akeyless/zero-trust-bastion:3.1.0@" + digestA},
		Service{Name: "cache", Image: "redis:8@" + digestA},
	)
}

func TestARecordedConfigurationIsExact(t *testing.T) {
	t.Parallel()
	p := richPackage(t) // encodeModel compares Compose's hashes of everything
	project, err := p.render(t.Context(), map[string]bool{"akeyless-gateway": true})
	if err != nil {
		t.Fatal(err)
	}
	gateway := project.Services["akeyless-gateway"]
	got := map[string]string{}
	for _, key := range []string{"PLAIN", "EMPTY", "NUMBER", "VERSION", "TOKEN"} {
		got[key] = value(gateway.Environment[key])
	}
	want := map[string]string{"PLAIN": "a$b", "EMPTY": "", "NUMBER": "1", "VERSION": "5.0.1", "TOKEN": "p$w"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if v, present := gateway.Environment["FROM_HOST"]; !present || v != nil {
		t.Errorf("an undefined variable became %v", v)
	}
	if source := gateway.Volumes[0].Source; source != filepath.Join(p.Dir, "data") {
		t.Errorf("the relative bind mount is %s", source)
	}
	if gateway.Image != "akeyless/base:5.0.1" || project.Services["cache"].Image != "redis:8@"+digestA {
		t.Errorf("images are %s and %s", gateway.Image, project.Services["cache"].Image)
	}
	if project.Configs["settings"].Content != "k=$v" {
		t.Errorf("the config's content is %q", project.Configs["settings"].Content)
	}
	if len(p.EnvFiles) != 1 || filepath.Base(p.EnvFiles[0].Path) != "gateway.env" {
		t.Errorf("recorded env files are %v", p.EnvFiles)
	}
}

func TestEncodeIsCanonicalAndDecodeIsStrict(t *testing.T) {
	t.Parallel()
	p := richPackage(t)
	p.Services[0].Environment = map[string]string{"VERSION": "5.0.2", "A": "1", "B": "2"}
	again, err := Decode(p.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p, again); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if again.Hash() != p.Hash() || len(p.Hash()) != 64 {
		t.Errorf("hash %s became %s", p.Hash(), again.Hash())
	}
	if text := p.String(); strings.Contains(text, "p$w") || !strings.Contains(text, "vault") {
		t.Errorf("a package prints as %q", text)
	}
	text := string(p.Encode())
	for name, damaged := range map[string]string{
		"cut":           text[:len(text)/2],
		"newer":         strings.Replace(text, `"format":1`, `"format":2`, 1),
		"unknown field": strings.Replace(text, `"format":1`, `"format":1,"later":true`, 1),
		"altered file":  strings.Replace(text, `"content":"`, `"content":"AAAA`, 1),
	} {
		if _, err := Decode([]byte(damaged)); errs.IDOf(err) != "LS-CMP-014" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRetarget(t *testing.T) {
	t.Parallel()
	old := richPackage(t)
	hash := old.Hash()
	next, err := Retarget(old,
		map[string]string{"akeyless-gateway": "akeyless/base:5.1.0@" + digestB, "cache": "redis:8@" + digestA},
		map[string]map[string]string{"akeyless-gateway": {"VERSION": "5.1.0"}})
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Clone(old.Services)
	want[0] = Service{Name: "akeyless-gateway", Image: "akeyless/base:5.1.0@" + digestB, Environment: map[string]string{"VERSION": "5.1.0"}}
	if diff := cmp.Diff(want, next.Services); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	if old.Hash() != hash {
		t.Error("the package given was changed")
	}
	if next.Hash() == hash {
		t.Error("another package has the same hash")
	}
	project, err := next.render(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := value(project.Services["akeyless-gateway"].Environment["VERSION"]); got != "5.1.0" {
		t.Errorf("VERSION is rendered as %q", got)
	}
	for name, c := range map[string]struct {
		images map[string]string
		env    map[string]map[string]string
		says   string
	}{
		"no digest":          {images: map[string]string{"cache": "redis:9"}, says: "no digest"},
		"not a reference":    {images: map[string]string{"cache": "Redis 9"}, says: "Redis 9"},
		"unknown service":    {images: map[string]string{"gateway": "x@" + digestA}, says: "akeyless-gateway, akeyless-ssh, cache"},
		"unknown in the env": {env: map[string]map[string]string{"gateway": {"A": "1"}}, says: `no service "gateway"`},
	} {
		if _, err := Retarget(old, c.images, c.env); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
		}
	}
}

func TestApplyRefusesWhatDoesNotSayWhatWillRun(t *testing.T) {
	t.Parallel()
	p := richPackage(t)
	p.Services[2].Image = "redis:8"
	// Nothing listens: a refusal after the first call would be another error.
	if err := offline(t).Apply(t.Context(), p, nil); err == nil || !strings.Contains(err.Error(), "has no digest") {
		t.Errorf("an unpinned image: %v", err)
	}
	p.Services = p.Services[:2]
	if err := offline(t).Apply(t.Context(), p, nil); errs.IDOf(err) != "LS-CMP-014" || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a service without an image: %v", err)
	}
}

func TestProcessEnvironmentStaysOut(t *testing.T) {
	t.Parallel()
	// HOME is set wherever tests run; the process's value must not be seen.
	dir := files(t, map[string]string{"compose.yaml": "services: {a: {image: 'x:1', environment: {H: '${HOME:-unset}', O: '${OURS}'}}}"})
	read, err := offline(t, "OURS=given").load(t.Context(), Target{Project: "vault", Dir: dir, Files: []string{"compose.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	env := read.project.Services["a"].Environment
	if value(env["H"]) != "unset" || value(env["O"]) != "given" {
		t.Errorf("H is %q, O is %q", value(env["H"]), value(env["O"]))
	}
}

func TestWhatCannotBePutBackIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ file, says string }{
		"built from source": {"services: {a: {build: .}}", "built from source"},
		"a provider":        {"services: {a: {provider: {type: model}}}", "provider"},
		"a floating hook":   {"services: {a: {image: 'x:1', pre_start: [{image: 'y:1', command: [z]}]}}", "pre_start"},
	} {
		read, err := offline(t).load(t.Context(), Target{Project: "vault", Dir: files(t, map[string]string{"compose.yaml": c.file}), Files: []string{"compose.yaml"}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := supported(read.project); errs.IDOf(err) != "LS-CMP-011" || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "service a") {
			t.Errorf("%s: %v, want an error that says %q", name, err, c.says)
		}
	}
}

func TestARegistrysRefusalHasAnID(t *testing.T) {
	t.Parallel()
	e := offline(t)
	for text, want := range map[string]string{
		"no matching manifest for linux/arm64":                   "LS-CMP-007",
		"manifest unknown":                                       "LS-CMP-007",
		"unauthorized: authentication required":                  "LS-CMP-008",
		"pull access denied, repository does not exist":          "LS-CMP-008",
		"Get \"https://registry.example/v2/\": no route to host": "LS-CMP-009",
	} {
		if err := e.published("pulling", "x:1", errors.New(text)); errs.IDOf(err) != want || !strings.Contains(err.Error(), text) {
			t.Errorf("%q gives %v, want %s", text, err, want)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	healthy := func(s container.HealthStatus) *container.Health { return &container.Health{Status: s} }
	for name, c := range map[string]struct {
		state            container.State
		settled, oneShot bool
		want             condition
	}{
		"healthy":              {state: container.State{Status: container.StateRunning, Health: healthy(container.Healthy)}, want: working},
		"starting":             {state: container.State{Status: container.StateRunning, Health: healthy(container.Starting)}, settled: true, want: pending},
		"unhealthy":            {state: container.State{Status: container.StateRunning, Health: healthy(container.Unhealthy)}, want: failed},
		"no check, new":        {state: container.State{Status: container.StateRunning}, want: pending},
		"no check, settled":    {state: container.State{Status: container.StateRunning}, settled: true, want: working},
		"exited well":          {state: container.State{Status: container.StateExited}, want: failed},
		"one-shot exited well": {state: container.State{Status: container.StateExited}, oneShot: true, want: working},
		"one-shot failed":      {state: container.State{Status: container.StateExited, ExitCode: 3}, oneShot: true, want: failed},
		"crash loop":           {state: container.State{Status: container.StateRestarting, ExitCode: 1}, settled: true, want: pending},
		"created":              {state: container.State{Status: container.StateCreated}, settled: true, want: pending},
	} {
		if got, why := judge(container.InspectResponse{State: &c.state}, c.settled, c.oneShot); got != c.want || (got == working) != (why == "") {
			t.Errorf("%s: judged %d %q, want %d", name, got, why, c.want)
		}
	}
}

func TestInterim(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"0123456789ab_vault-web-1": true,
		"vault-web-1":              false,
		"0123456789ab_vault-web-2": false,
		"backup_vault-web-1":       false,
		"0123456789aB_vault-web-1": false,
	} {
		if got := interim(name, "vault-web-1"); got != want {
			t.Errorf("interim(%q) = %v", name, got)
		}
	}
}

func TestPinKeepsTheTag(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"redis:8":                            "redis:8@" + digestB,
		"redis":                              "redis@" + digestB,
		"docker.io/library/redis:8":          "redis:8@" + digestB,
		"host:5000/a:1@" + digestA:           "host:5000/a:1@" + digestB,
		"host:5000/akeyless/base@" + digestA: "host:5000/akeyless/base@" + digestB,
	} {
		if got, err := pin(image, digestB); got != want || err != nil {
			t.Errorf("pin(%q) = %q, %v; want %q", image, got, err, want)
		}
	}
	if _, err := pin("redis", "sha256:short"); err == nil {
		t.Error("a short digest was accepted")
	}
}
