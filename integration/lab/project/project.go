// Package project renders a cluster of the lab as the vendor would have it on
// a Docker host: a Compose project with a gateway and two bastions behind the
// profiles gateway and sra.
//
// It owns the project's files and its ports on this machine. It does not own
// the images (package images) or how a project is changed later: that is the
// product's own Compose adapter, which also brings it up the first time.
package project

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/integration/lab/node"
)

// The services of a project, named as the vendor names them.
const (
	GatewayService = "akeyless-gateway"
	WebService     = "akeyless-web"
	SSHService     = "akeyless-ssh"
)

// Ports are where a project's services are published on 127.0.0.1.
type Ports struct {
	Gateway   int // HTTP: /health, /status
	SSH       int // SSH sessions
	SSHStatus int // HTTP: /status
	Web       int // HTTP CONNECT sessions
}

// Spec says what to render.
type Spec struct {
	Name    string // the Compose project's name
	Gateway string // image of the gateway, by tag or pinned by digest
	SRA     string // image of both bastions
	Ports   Ports
}

// Project is a rendered project.
type Project struct {
	Spec
	Dir  string // its own folder
	File string // the compose file's full path
}

// composeFile has no fixed container names, so that several projects live on
// one engine. Health checks and versions are in the images.
var composeFile = template.Must(template.New("compose").Parse(`# Rendered by the lab; it is rendered anew at each start.
services:
  ` + GatewayService + `:
    image: {{.Gateway}}
    profiles: [gateway]
    restart: unless-stopped
    stop_grace_period: 2s
    read_only: true
    cap_drop: [ALL]
    ports:
      - 127.0.0.1:{{.Ports.Gateway}}:{{.GatewayPort}}
  ` + WebService + `:
    image: {{.SRA}}
    profiles: [sra]
    restart: unless-stopped
    stop_grace_period: 2s
    read_only: true
    cap_drop: [ALL]
    environment:
      LAB_ROLE: {{.WebRole}}
    ports:
      - 127.0.0.1:{{.Ports.Web}}:{{.WebPort}}
    depends_on:
      ` + GatewayService + `:
        condition: service_healthy
  ` + SSHService + `:
    image: {{.SRA}}
    profiles: [sra]
    restart: unless-stopped
    stop_grace_period: 2s
    read_only: true
    cap_drop: [ALL]
    environment:
      LAB_ROLE: {{.SSHRole}}
    ports:
      - 127.0.0.1:{{.Ports.SSH}}:{{.SSHPort}}
      - 127.0.0.1:{{.Ports.SSHStatus}}:{{.SSHStatusPort}}
    depends_on:
      ` + GatewayService + `:
        condition: service_healthy
`))

// Render writes the project's compose file into a folder of its own below
// parent, replacing what is there.
func Render(parent string, s Spec) (Project, error) {
	fail := func(err error) (Project, error) {
		return Project{}, fmt.Errorf("render Compose project %q: %w", s.Name, err)
	}
	if s.Name == "" || s.Gateway == "" || s.SRA == "" {
		return fail(errors.New("it needs a name and both images"))
	}
	if s.Ports.Gateway == 0 || s.Ports.SSH == 0 || s.Ports.SSHStatus == 0 || s.Ports.Web == 0 {
		return fail(errors.New("it needs four ports; FreePorts finds some"))
	}
	dir, err := filepath.Abs(filepath.Join(parent, s.Name))
	if err != nil {
		return fail(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	p := Project{Spec: s, Dir: dir, File: filepath.Join(dir, "compose.yaml")}
	var text strings.Builder
	err = composeFile.Execute(&text, struct {
		Spec
		WebRole, SSHRole                             node.Role
		GatewayPort, WebPort, SSHPort, SSHStatusPort int
	}{s, node.SRAWeb, node.SRASSH, node.GatewayPort, node.WebPort, node.SSHPort, node.SSHStatusPort})
	if err != nil {
		return fail(err)
	}
	if err := os.WriteFile(p.File, []byte(text.String()), 0o644); err != nil {
		return fail(err)
	}
	return p, nil
}

// Target names the project to the product's Compose adapter; host is the
// engine's address, empty for the adapter's own.
func (p Project) Target(host string) compose.Target {
	return compose.Target{
		Project:  p.Name,
		Files:    []string{p.File},
		Profiles: []string{"gateway", "sra"},
		Dir:      p.Dir,
		Host:     host,
	}
}

// Applier is what bringing a project up takes; the product's *compose.Engine
// is one.
type Applier interface {
	Capture(ctx context.Context, t compose.Target) (compose.Package, error)
	Apply(ctx context.Context, p compose.Package, progress func(compose.Event)) error
}

// BringUp makes the project run as its file says and returns once every
// container is healthy.
func BringUp(ctx context.Context, a Applier, p Project) error {
	pkg, err := a.Capture(ctx, p.Target(""))
	if err != nil {
		return fmt.Errorf("bring up Compose project %s: %w", p.Name, err)
	}
	if err := a.Apply(ctx, pkg, nil); err != nil {
		return fmt.Errorf("bring up Compose project %s: %w", p.Name, err)
	}
	return nil
}

// Published ports come from below the range that outgoing connections take
// theirs from: a session could otherwise take the port of a bastion that is
// just being replaced.
const firstPort, lastPort = 21000, 31999

// FreePorts finds n distinct ports of 127.0.0.1 that nobody listens on,
// looking from a place in the range that from chooses, so that labs started
// side by side with different values rarely meet.
func FreePorts(n int, from int) ([]int, error) {
	const size = lastPort - firstPort + 1
	from = (from%size + size) % size
	var ports []int
	for i := 0; i < size && len(ports) < n; i++ {
		port := firstPort + (from+i)%size
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue // somebody's
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("find free ports: %w", err)
		}
		ports = append(ports, port)
	}
	if len(ports) < n {
		return nil, fmt.Errorf("find free ports: %d are needed, %d of 127.0.0.1:%d-%d are free", n, len(ports), firstPort, lastPort)
	}
	return ports, nil
}
