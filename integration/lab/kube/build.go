package kube

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// pinned is the folder of the module that names the programs' versions, from the
// folder of this package.
const (
	thisPackage = "github.com/lockstep-fleet/lockstep/integration/lab/kube"
	pinned      = "module"
)

// programs are what a small cluster is made of, in the order in which they are
// built: each shares most of its packages with one before it.
var programs = []string{
	"go.etcd.io/etcd/server/v3",
	"sigs.k8s.io/kwok/cmd/kwok",
	"k8s.io/kubernetes/cmd/kube-apiserver",
	"k8s.io/kubernetes/cmd/kube-controller-manager",
	"k8s.io/kubernetes/cmd/kube-scheduler",
}

// A Kubernetes that does not know its version is refused by its own parts.
const version = "v1.37.2"

func buildFlags() []string {
	const set = "-X k8s.io/component-base/version.git"
	return []string{
		"-trimpath", "-mod=readonly", "-buildvcs=false",
		"-ldflags=-s -w " + set + "Version=" + version + " " + set + "Major=1 " + set + "Minor=37",
	}
}

// binary is the path of a built program.
func binary(dir, program string) string {
	base := path.Base(program)
	if strings.HasPrefix(program, "go.etcd.io/") {
		base = "etcd" // its folder is named after a version
	}
	return filepath.Join(dir, base)
}

// module is the folder of the pinned module. It is no part of the workspace, so
// the go command cannot be asked for it.
func module(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", thisPackage)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find the folder of %s with the go command: %w%s", thisPackage, err, stderr(err))
	}
	return filepath.Join(strings.TrimSpace(string(out)), pinned), nil
}

// fingerprint names what would be built: it changes with every version, checksum,
// program or flag.
func fingerprint(module string) (string, error) {
	sum := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("read what the lab's Kubernetes is built from: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(b), b)
	}
	fmt.Fprintf(sum, "%q %q", programs, buildFlags())
	return fmt.Sprintf("%x", sum.Sum(nil))[:16], nil
}

// build returns the folder of the built programs, building them when this version
// has not been. The caller holds the lock of the cache folder.
func build(ctx context.Context, cache, module string, log *slog.Logger) (string, error) {
	name, err := fingerprint(module)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	// The folder gets its name when all is in it; what a killed run left has
	// another one.
	temp := dir + ".building"
	if err := errors.Join(os.RemoveAll(temp), os.MkdirAll(temp, 0o755)); err != nil {
		return "", err
	}
	out, err := os.Create(filepath.Join(temp, "build.log"))
	if err != nil {
		return "", err
	}
	defer out.Close()
	log.Info("building a Kubernetes control plane; this happens once for a version and takes 5 to 15 minutes", "version", version, "log", out.Name())
	begun := time.Now()
	for i, program := range programs {
		log.Info("building a program", "name", path.Base(binary("", program)), "part", i+1, "of", len(programs))
		if err := compile(ctx, module, program, binary(temp, program), out); err != nil {
			return "", fmt.Errorf("build %s: %w; all of it is in %s", program, err, out.Name())
		}
	}
	if err := os.Rename(temp, dir); err != nil {
		return "", err
	}
	log.Info("Kubernetes control plane built", "took", time.Since(begun).Round(time.Second))
	return dir, nil
}

// compile builds one program after another: two at once would want more memory
// than a small machine has.
func compile(ctx context.Context, module, program, output string, log io.Writer) error {
	begun := time.Now()
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build"}, buildFlags()...), "-o", output, program)...)
	cmd.Dir = module
	// The workspace must not decide a version here, nor this module one there.
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	var words bytes.Buffer
	cmd.Stdout = io.MultiWriter(&words, log)
	cmd.Stderr = cmd.Stdout
	err := cmd.Run()
	fmt.Fprintf(log, "%s: %s, took %s\n", program, outcome(err), time.Since(begun).Round(time.Second))
	if err != nil {
		return fmt.Errorf("%w; the last words of the go command:\n%s", err, tail(words.String(), 15))
	}
	return nil
}

func outcome(err error) string {
	if err != nil {
		return err.Error()
	}
	return "built"
}

func stderr(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return "\n" + tail(string(exit.Stderr), 15)
	}
	return ""
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
