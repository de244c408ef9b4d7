package project_test

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/integration/lab/project"
)

var spec = project.Spec{
	Name:    "lab-berlin",
	Gateway: "127.0.0.1:5000/akeyless/base:4.52.0",
	SRA:     "127.0.0.1:5000/akeyless/zero-trust-bastion:3.0.3@sha256:" + strings.Repeat("ab", 32),
	Ports:   project.Ports{Gateway: 21001, SSH: 21002, SSHStatus: 21003, Web: 21004},
}

func TestRender(t *testing.T) {
	t.Parallel()
	p, err := project.Render(t.TempDir(), spec)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(p.File)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Image         string
			Profiles      []string
			Ports         []string
			ContainerName string                                `yaml:"container_name"`
			DependsOn     map[string]struct{ Condition string } `yaml:"depends_on"`
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, want := range []struct {
		service, image, profile string
		ports                   []string
	}{
		{"akeyless-gateway", spec.Gateway, "gateway", []string{"127.0.0.1:21001:8080"}},
		{"akeyless-web", spec.SRA, "sra", []string{"127.0.0.1:21004:8888"}},
		{"akeyless-ssh", spec.SRA, "sra", []string{"127.0.0.1:21002:2222", "127.0.0.1:21003:9900"}},
	} {
		got, ok := file.Services[want.service]
		if !ok {
			t.Errorf("no service %s in\n%s", want.service, text)
			continue
		}
		if got.Image != want.image || !slices.Equal(got.Profiles, []string{want.profile}) || !slices.Equal(got.Ports, want.ports) {
			t.Errorf("service %s: got %+v, want %+v", want.service, got, want)
		}
		if got.ContainerName != "" {
			t.Errorf("service %s has the fixed container name %s", want.service, got.ContainerName)
		}
		if want.profile == "sra" && got.DependsOn["akeyless-gateway"].Condition != "service_healthy" {
			t.Errorf("service %s does not wait for a healthy gateway: %+v", want.service, got.DependsOn)
		}
	}
}

func TestRenderRefusesAnIncompleteSpec(t *testing.T) {
	t.Parallel()
	noPort, noImage := spec, spec
	noPort.Ports.Web = 0
	noImage.SRA = ""
	for _, s := range []project.Spec{noPort, noImage, {}} {
		if _, err := project.Render(t.TempDir(), s); err == nil {
			t.Errorf("rendered %+v", s)
		}
	}
}

func TestFreePorts(t *testing.T) {
	t.Parallel()
	first, err := project.FreePorts(3, 7000)
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: first[0]})
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	second, err := project.FreePorts(3, 7000)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(second, first[0]) {
		t.Errorf("port %d is in use and was found free: %v", first[0], second)
	}
	for _, port := range append(first, second...) {
		if port < 21000 || port > 31999 {
			t.Errorf("port %d is outside the range", port)
		}
	}
	if _, err := project.FreePorts(20000, 0); err == nil {
		t.Error("found more free ports than there are")
	}
}

// applier records what it is asked for and fails where told.
type applier struct {
	captured            compose.Target
	applied             bool
	failCapture, failUp error
}

func (a *applier) Capture(_ context.Context, t compose.Target) (compose.Package, error) {
	a.captured = t
	return compose.Package{Project: t.Project}, a.failCapture
}

func (a *applier) Apply(_ context.Context, p compose.Package, _ func(compose.Event)) error {
	a.applied = p.Project == a.captured.Project
	return a.failUp
}

func TestBringUp(t *testing.T) {
	t.Parallel()
	p := project.Project{Spec: spec, Dir: "/lab/berlin", File: "/lab/berlin/compose.yaml"}
	ok := &applier{}
	if err := project.BringUp(t.Context(), ok, p); err != nil || !ok.applied {
		t.Errorf("applied: %v, error: %v", ok.applied, err)
	}
	if !slices.Equal(ok.captured.Profiles, []string{"gateway", "sra"}) {
		t.Errorf("captured with profiles %v", ok.captured.Profiles)
	}
	broken := errors.New("broken")
	for _, a := range []*applier{{failCapture: broken}, {failUp: broken}} {
		if err := project.BringUp(t.Context(), a, p); !errors.Is(err, broken) || !strings.Contains(err.Error(), spec.Name) {
			t.Errorf("got %v, want the cause and the project's name", err)
		}
	}
}
