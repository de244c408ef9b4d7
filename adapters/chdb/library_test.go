//go:build linux && amd64

package chdb

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/lockstep-fleet/lockstep/kit/errs"
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

// emptyLibrary is the header of a shared library without anything in it, of the
// given type and machine.
func emptyLibrary(kind elf.Type, machine elf.Machine) string {
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(kind), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64,
	}
	out, err := binary.Append(nil, binary.LittleEndian, header)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func TestFindLibraryPrefersTheGivenOne(t *testing.T) {
	t.Parallel()
	given := file(t, emptyLibrary(elf.ET_DYN, elf.EM_X86_64))
	got, err := FindLibrary(LibraryOptions{Path: given, Executable: attached(t, "program", "other", sha256.Sum256([]byte("other"))), CacheDir: t.TempDir()})
	if err != nil || got != given {
		t.Errorf("got %q, %v, want %q", got, err, given)
	}
}

func TestFindLibraryRefusesWhatCannotBeLoaded(t *testing.T) {
	t.Parallel()
	whole, err := os.Open(libraryPath(t))
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	begin, err := io.ReadAll(io.LimitReader(whole, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	text := file(t, "text")
	for name, c := range map[string]struct{ path, id string }{
		"missing":         {text + ".missing", "LS-ENG-001"},
		"a folder":        {t.TempDir(), "LS-ENG-002"},
		"not to be seen":  {text + "/below", "LS-ENG-002"},
		"no library":      {text, "LS-ENG-002"},
		"empty":           {file(t, ""), "LS-ENG-002"},
		"cut":             {file(t, string(begin)), "LS-ENG-002"},
		"another machine": {file(t, emptyLibrary(elf.ET_DYN, elf.EM_AARCH64)), "LS-ENG-002"},
		"a program":       {file(t, emptyLibrary(elf.ET_EXEC, elf.EM_X86_64)), "LS-ENG-002"},
	} {
		_, err := FindLibrary(LibraryOptions{Path: c.path})
		if errs.IDOf(err) != c.id {
			t.Errorf("%s: the error is %v, want %s", name, err, c.id)
			continue
		}
		for _, part := range []string{c.path, "make engine", "LOCKSTEP_ENGINE_LIBRARY", "--clickhouse"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error %q does not say %q", name, err, part)
			}
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
	// What is not the file that was checked is unpacked again, and what a killed
	// process left goes: both may be half a gigabyte.
	orphan := filepath.Join(filepath.Dir(paths[0]), "unpack-1")
	for name, damage := range map[string]string{"torn": "torn", "of the same size": "L" + library[1:]} {
		for path, content := range map[string]string{paths[0]: damage, orphan: "half"} {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := FindLibrary(LibraryOptions{Executable: executable, CacheDir: cache}); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(paths[0]); err != nil || string(got) != library {
			t.Errorf("a library that is %s was kept, %v", name, err)
		}
		if _, err := os.Stat(orphan); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", orphan, err)
		}
	}
}

// Look tells what FindLibrary would return, by the same checks, and writes nothing.
func TestLookUnpacksNothing(t *testing.T) {
	t.Parallel()
	library := strings.Repeat("library ", 1000)
	executable := attached(t, "program", library, sha256.Sum256([]byte(library)))
	opts := LibraryOptions{Executable: executable, CacheDir: filepath.Join(t.TempDir(), "cache")}
	look := func(unpacked bool) string {
		t.Helper()
		found, err := Look(opts)
		want := Found{Path: found.Path, Attached: true, Unpacked: unpacked, Size: int64(len(library))}
		if err != nil || found != want {
			t.Errorf("found %+v, %v, want %+v", found, err, want)
		}
		return found.Path
	}
	look(false)
	if _, err := os.Stat(opts.CacheDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cache was made: %v", err)
	}
	path, err := FindLibrary(opts)
	if err != nil {
		t.Fatal(err)
	}
	if looked := look(true); looked != path {
		t.Errorf("looked at %s, unpacked to %s", looked, path)
	}
	// One of the same size that was written since is not the one that was checked.
	if err := os.WriteFile(path, []byte("L"+library[1:]), 0o600); err != nil {
		t.Fatal(err)
	}
	look(false)

	given := file(t, emptyLibrary(elf.ET_DYN, elf.EM_X86_64))
	opts.Path = given
	if found, err := Look(opts); err != nil || found != (Found{Path: given}) {
		t.Errorf("a given one: %+v, %v", found, err)
	}
	if _, err := Look(LibraryOptions{Executable: file(t, "short"), CacheDir: opts.CacheDir + "-none"}); errs.IDOf(err) != "LS-ENG-001" {
		t.Errorf("none: %v", err)
	}
}

func TestUnpackingErrorsSayWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	library := strings.Repeat("library ", 1000)
	executable := attached(t, "program", library, sha256.Sum256([]byte(library)))
	_, err := FindLibrary(LibraryOptions{Executable: executable, CacheDir: file(t, "no folder")})
	if errs.IDOf(err) != "LS-ENG-004" || !strings.Contains(err.Error(), "XDG_CACHE_HOME") {
		t.Errorf("the cache is no folder, and the error is %v", err)
	}
	// The device behaves as a file on a full disk.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	p, err := findPayload(executable)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.problem("/cache", p.write(full)); errs.IDOf(err) != "LS-ENG-005" || !strings.Contains(err.Error(), "/cache") {
		t.Errorf("the disk is full, and the error is %v", err)
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
		if errs.IDOf(err) != "LS-ENG-006" || !strings.Contains(err.Error(), executable) {
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
		if errs.IDOf(err) != "LS-ENG-001" {
			t.Fatalf("nothing to find, and the error is %v", err)
		}
		for _, part := range []string{"make engine", "LOCKSTEP_ENGINE_LIBRARY", "--clickhouse", executable, cache} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the error %q does not say %q", err, part)
			}
		}
	}
	want := filepath.Join(cache, "engine", Version, "libchdb.so")
	if err := os.MkdirAll(filepath.Dir(want), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(want, []byte(emptyLibrary(elf.ET_DYN, elf.EM_X86_64)), 0o600); err != nil {
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
