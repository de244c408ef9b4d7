// Package images makes the lab's container images and serves them from a
// registry in this process: one static program (cmd/labnode) from scratch, and
// per version its environment. No Docker is needed to make them.
//
// It owns building, tagging and serving. It does not own what the program does
// (package node) or where it runs (package project).
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The vendor's repositories, as this registry serves them.
const (
	GatewayRepository = "akeyless/base"
	SRARepository     = "akeyless/zero-trust-bastion"
)

const (
	nodePackage = "github.com/lockstep-fleet/lockstep/integration/lab/cmd/labnode"
	nodePath    = "/lab"
	// healthInterval is how often a container checks itself. Each check
	// starts a process in the container, so nine containers on a small
	// machine should not do it much more often; the first one comes an
	// interval after the start and is what dependants wait for.
	healthInterval = 2 * time.Second
)

// Ref names one image in the registry.
type Ref struct {
	Repository string // with the registry, such as "127.0.0.1:5000/akeyless/base"
	Version    string // the tag
	Digest     string // of the manifest, "sha256:…"
}

// Tagged is "repository:tag", which a later push can move.
func (r Ref) Tagged() string { return r.Repository + ":" + r.Version }

// Pinned is "repository:tag@digest", which always means this image.
func (r Ref) Pinned() string { return r.Tagged() + "@" + r.Digest }

// Registry serves images on loopback until Close.
type Registry struct {
	listener net.Listener
	server   *http.Server
	done     chan struct{} // closed once served is set
	served   error
	layer    v1.Layer
}

// Options says how to start a registry.
type Options struct {
	// Cache is the folder for the built program; empty means lockstep/lab
	// in the user's cache folder.
	Cache string
	Log   *slog.Logger
}

// Start builds the program (its build cache makes a second build quick) and
// serves an empty registry on a free port of 127.0.0.1, from where Docker
// pulls without TLS. It needs the go command and a working directory inside
// the workspace.
func Start(ctx context.Context, o Options) (*Registry, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Cache == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("choose a folder for the lab's program: %w (set XDG_CACHE_HOME)", err)
		}
		o.Cache = filepath.Join(cache, "lockstep", "lab")
	}
	begun := time.Now()
	program, err := build(ctx, o.Cache)
	if err != nil {
		return nil, err
	}
	o.Log.Info("lab program built", "bytes", len(program), "took", time.Since(begun).Round(time.Millisecond))
	layer, err := layerOf(program)
	if err != nil {
		return nil, fmt.Errorf("make the lab's image layer: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the lab's registry: %w", err)
	}
	r := &Registry{
		listener: l,
		server: &http.Server{
			Handler:           registry.New(registry.Logger(log.New(io.Discard, "", 0))),
			ReadHeaderTimeout: 5 * time.Second,
		},
		done:  make(chan struct{}),
		layer: layer,
	}
	go func() {
		r.served = r.server.Serve(l)
		close(r.done)
	}()
	return r, nil
}

// Host is the registry's address as images name it, "127.0.0.1:port".
func (r *Registry) Host() string { return r.listener.Addr().String() }

// Gateway publishes a gateway image of this version that refuses failPercent
// of the sessions it is asked to authorize.
func (r *Registry) Gateway(ctx context.Context, version string, failPercent int) (Ref, error) {
	return r.publish(ctx, GatewayRepository, version, failPercent, "LAB_ROLE=gateway")
}

// SRA publishes a bastion image of this version that breaks failPercent of the
// sessions it carries. One image plays both bastions; the container's LAB_ROLE
// says which.
func (r *Registry) SRA(ctx context.Context, version string, failPercent int) (Ref, error) {
	return r.publish(ctx, SRARepository, version, failPercent)
}

func (r *Registry) publish(ctx context.Context, repository, version string, failPercent int, env ...string) (Ref, error) {
	ref := Ref{Repository: r.Host() + "/" + repository, Version: version}
	fail := func(err error) (Ref, error) {
		return Ref{}, fmt.Errorf("publish %s: %w", ref.Tagged(), err)
	}
	if failPercent < 0 || failPercent > 100 {
		return fail(fmt.Errorf("fail percent %d is not between 0 and 100", failPercent))
	}
	tag, err := name.NewTag(ref.Tagged())
	if err != nil {
		return fail(err)
	}
	image, err := mutate.AppendLayers(empty.Image, r.layer)
	if err != nil {
		return fail(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return fail(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{
		User:       "65532:65532",
		Entrypoint: []string{nodePath},
		Env: append([]string{
			"VERSION=" + version,
			fmt.Sprintf("LAB_FAIL_PERCENT=%d", failPercent),
		}, env...),
		Labels: map[string]string{"org.opencontainers.image.version": version},
		Healthcheck: &v1.HealthConfig{
			Test:     []string{"CMD", nodePath, "health"},
			Interval: healthInterval,
			Timeout:  5 * time.Second,
			Retries:  3,
		},
		StopSignal: "SIGTERM",
	}
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return fail(err)
	}
	if err := remote.Write(tag, image, remote.WithContext(ctx)); err != nil {
		return fail(err)
	}
	digest, err := image.Digest()
	if err != nil {
		return fail(err)
	}
	ref.Digest = digest.String()
	return ref, nil
}

// Close stops serving; images that were pulled go on working.
func (r *Registry) Close() error {
	err := r.server.Close()
	<-r.done
	if !errors.Is(r.served, http.ErrServerClosed) {
		err = errors.Join(err, r.served)
	}
	if err != nil {
		return fmt.Errorf("stop the lab's registry: %w", err)
	}
	return nil
}

// build compiles the program for Linux, static and reproducible: the same
// source gives the same bytes and so the same digests. Builds may run side by
// side, so each writes its own file.
func build(ctx context.Context, cache string) ([]byte, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("build the lab's program: %w", err)
	}
	dir, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return nil, fmt.Errorf("build the lab's program: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "labnode")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", path, nodePackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the lab's program: go build: %w\n%s(run from inside the workspace, with go on the PATH)", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("build the lab's program: %w", err)
	}
	return program, nil
}

// layerOf is a layer with the program as its only file, dated 1970 so that its
// digest depends on the program alone.
func layerOf(program []byte) (v1.Layer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	header := &tar.Header{
		Name:    strings.TrimPrefix(nodePath, "/"),
		Mode:    0o755,
		Size:    int64(len(program)),
		ModTime: time.Unix(0, 0),
		Format:  tar.FormatUSTAR,
	}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())), nil
	}, tarball.WithCompressedCaching)
}
