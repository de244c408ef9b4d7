package main

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// The layout is read here by its documented offsets, as adapters/chdb reads it.
func TestAttach(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, library, output := filepath.Join(dir, "program"), filepath.Join(dir, "libchdb.so"), filepath.Join(dir, "output")
	plain := strings.Repeat("library ", 10_000)
	write(t, program, "program")
	write(t, library, plain)
	args := []string{"-binary", program, "-library", library, "-output", output}
	if err := run(args); err != nil {
		t.Fatal(err)
	}
	got := read(t, output)
	end := got[len(got)-64:]
	if string(end[:16]) != "LOCKSTEP-ENGINE1" {
		t.Fatalf("the trailer is %q", end)
	}
	packed := int(end[16]) | int(end[17])<<8
	if want := len(got) - len("program") - 64; packed != want || !bytes.Equal(end[18:24], make([]byte, 6)) {
		t.Errorf("the compressed length is %d, want %d", packed, want)
	}
	if length := int(end[24]) | int(end[25])<<8 | int(end[26])<<16; length != len(plain) {
		t.Errorf("the plain length is %d, want %d", length, len(plain))
	}
	if digest := sha256.Sum256([]byte(plain)); !bytes.Equal(end[32:], digest[:]) {
		t.Errorf("the digest is %x", end[32:])
	}
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	body, err := decoder.DecodeAll(got[len("program"):len(got)-64], nil)
	if err != nil || string(body) != plain {
		t.Errorf("%d bytes come out, %v", len(body), err)
	}
	if info, err := os.Stat(output); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	// Attaching to the result again changes nothing.
	if err := run([]string{"-binary", output, "-library", library}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, output), got) {
		t.Error("attaching twice is not attaching once")
	}

	// A newer library is compressed again, an unchanged one is not.
	attachment := library + ".attachment"
	before, err := os.Stat(attachment)
	if err != nil {
		t.Fatal(err)
	}
	write(t, library, plain+"more")
	later := before.ModTime().Add(time.Minute)
	if err := os.Chtimes(library, later, later); err != nil {
		t.Fatal(err)
	}
	if err := run(args); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(read(t, output), got) {
		t.Error("the old library is still attached")
	}
}

func TestAttachErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	write(t, program, "program")
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no program":      {nil, "usage"},
		"missing program": {[]string{"-binary", program + "x", "-library", program}, "program"},
		"missing library": {[]string{"-binary", program, "-library", program + ".so"}, "make engine"},
	} {
		if err := run(test.args); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error %v does not say %q", name, err, test.want)
		}
	}
	if string(read(t, program)) != "program" {
		t.Error("a failed run changed the program")
	}
}
