package chdb

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// attached is an executable with a library attached, byte by byte as
// payload.go describes it.
func attached(t *testing.T, program, library string, digest [32]byte) string {
	t.Helper()
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(library)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	all := append([]byte(program), packed.Bytes()...)
	all = append(all, "LOCKSTEP-ENGINE1"...)
	all = binary.LittleEndian.AppendUint64(all, uint64(packed.Len()))
	all = binary.LittleEndian.AppendUint64(all, uint64(len(library)))
	all = append(all, digest[:]...)
	return file(t, string(all))
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFindLibraryPrefersTheGivenOne(t *testing.T) {
	t.Parallel()
	given := file(t, "library")
	got, err := FindLibrary(LibraryOptions{Path: given, Executable: attached(t, "program", "other", sha256.Sum256([]byte("other"))), CacheDir: t.TempDir()})
	if err != nil || got != given {
		t.Errorf("got %q, %v, want %q", got, err, given)
	}
	for _, path := range []string{given + ".missing", t.TempDir()} {
		if _, err := FindLibrary(LibraryOptions{Path: path}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s was found, or the error does not name it: %v", path, err)
		}
	}
}

func TestFindLibraryUnpacksOnce(t *testing.T) {
	t.Parallel()
	library := strings.Repeat("library ", 100_000)
	executable := attached(t, "program", library, sha256.Sum256([]byte(library)))
	cache := t.TempDir()
	var (
		all   sync.WaitGroup
		paths [8]string
	)
	for i := range paths {
		all.Go(func() {
			path, err := FindLibrary(LibraryOptions{Executable: executable, CacheDir: cache})
			if err != nil {
				t.Error(err)
			}
			paths[i] = path
		})
	}
	all.Wait()
	for _, path := range paths {
		if path == "" || path != paths[0] {
			t.Fatalf("the paths are %q", paths)
		}
	}
	got, err := os.ReadFile(paths[0])
	if err != nil || string(got) != library {
		t.Errorf("%d bytes were unpacked, %v", len(got), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(paths[0]), "unpack-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	// A file of another size is not the library: it is unpacked again.
	if err := os.WriteFile(paths[0], []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FindLibrary(LibraryOptions{Executable: executable, CacheDir: cache}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(paths[0]); err != nil || info.Size() != int64(len(library)) {
		t.Errorf("a torn library was kept: %v, %v", info, err)
	}
}

func TestFindLibraryRefusesDamage(t *testing.T) {
	t.Parallel()
	library := strings.Repeat("library ", 1000)
	good, err := os.ReadFile(attached(t, "program", library, sha256.Sum256([]byte(library))))
	if err != nil {
		t.Fatal(err)
	}
	length := bytes.Clone(good)
	binary.LittleEndian.PutUint64(length[len(length)-48:], 1<<60)
	for name, executable := range map[string]string{
		"digest": attached(t, "program", library, sha256.Sum256([]byte("other"))),
		"length": file(t, string(length)),
		"body":   file(t, string(good[:20])+"?"+string(good[21:])),
		"cut":    file(t, string(good[30:])),
	} {
		cache := t.TempDir()
		got, err := FindLibrary(LibraryOptions{Executable: executable, CacheDir: cache})
		if err == nil || !strings.Contains(err.Error(), executable) {
			t.Errorf("%s: found %q, error %v", name, got, err)
		}
		for _, pattern := range []string{"unpack-*", "libchdb.so"} {
			left, err := filepath.Glob(filepath.Join(cache, "engine", "*", pattern))
			if err != nil || len(left) > 0 {
				t.Errorf("%s: left behind: %q, %v", name, left, err)
			}
		}
	}
}

func TestFindLibraryFallsBackToTheFetchedOne(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	for _, executable := range []string{file(t, "short"), file(t, strings.Repeat("a plain program ", 100))} {
		_, err := FindLibrary(LibraryOptions{Executable: executable, CacheDir: cache})
		if !errors.Is(err, ErrNoLibrary) {
			t.Fatalf("nothing to find, and the error is %v", err)
		}
		for _, part := range []string{"make engine", "--clickhouse", executable} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the error %q does not say %q", err, part)
			}
		}
	}
	want := filepath.Join(cache, "engine", Version, "libchdb.so")
	if err := os.MkdirAll(filepath.Dir(want), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(want, []byte("library"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := FindLibrary(LibraryOptions{Executable: file(t, "short"), CacheDir: cache})
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

// The version is written in three places, because a shell script and another
// module cannot import it.
func TestVersionIsTheFetchedOne(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"../../tools/engine/fetch.sh", "../../tools/attach/main.go"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		match := regexp.MustCompile(`(?m)^\s*version\s*=\s*['"]([^'"]+)['"]`).FindSubmatch(text)
		if match == nil || string(match[1]) != Version {
			t.Errorf("%s has the version %q, want %s", path, match, Version)
		}
	}
}
