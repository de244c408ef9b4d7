package kube

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestImageID(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("ab", 32)
	for image, want := range map[string]string{
		"docker.io/akeyless/gateway:5.0.1":           "docker.io/akeyless/gateway@sha256:3c45cbe5cc4042077b981e5998d5baee8e4cd03dcc60744c612b5c99d199f8d6",
		"docker.io/akeyless/gateway:5.0.1@" + digest: "docker.io/akeyless/gateway@" + digest,
		"127.0.0.1:5000/gateway@" + digest:           "127.0.0.1:5000/gateway@" + digest,
	} {
		if got := ImageID(image); got != want {
			t.Errorf("ImageID(%s) = %s, want %s", image, got, want)
		}
	}
}

func TestFingerprintFollowsTheModule(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := fingerprint(dir); err == nil {
		t.Error("a folder without a module has a fingerprint")
	}
	seen := make(map[string]string)
	for _, files := range [][2]string{{"a", "b"}, {"a", "c"}, {"ab", ""}, {"", "ab"}} {
		write(t, filepath.Join(dir, "go.mod"), files[0])
		write(t, filepath.Join(dir, "go.sum"), files[1])
		got, err := fingerprint(dir)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("modules %q and %s have one fingerprint", files, other)
		}
		seen[got] = strings.Join(files[:], "|")
	}
}

func TestModuleHasItsPrograms(t *testing.T) {
	t.Parallel()
	dir, err := module(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tools, err := os.ReadFile(filepath.Join(dir, "tools.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range programs {
		if !strings.Contains(string(tools), `"`+program+`"`) {
			t.Errorf("%s is built, but tools.go of the pinned module does not import it", program)
		}
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "k8s.io/kubernetes "+version+"\n") {
		t.Errorf("the programs will say that they are %s, which the pinned module is not", version)
	}
}

func TestCompile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), "module example.org/thing\n\ngo 1.26\n")
	write(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() { println(\"well\") }\n")
	output := filepath.Join(dir, "thing")
	var log bytes.Buffer
	if err := compile(t.Context(), dir, "example.org/thing", output, &log); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), output).CombinedOutput(); err != nil || string(out) != "well\n" {
		t.Errorf("the built program says %q, %v", out, err)
	}
	write(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() { missing() }\n")
	err := compile(t.Context(), dir, "example.org/thing", output, &log)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Success() {
		t.Fatalf("compiling nonsense: %v", err)
	}
	for what, text := range map[string]string{"error": err.Error(), "log": log.String()} {
		if !strings.Contains(text, "undefined: missing") {
			t.Errorf("the %s does not show what the compiler said:\n%s", what, text)
		}
	}
}
