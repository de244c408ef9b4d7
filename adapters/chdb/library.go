package chdb

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Version is the engine library's version that tools/engine/fetch.sh fetches.
const Version = "26.5.3"

const libraryName = "libchdb.so"

// LibraryOptions say where FindLibrary and Look look.
type LibraryOptions struct {
	// Path is used, and nothing else, when set.
	Path string
	// Executable is the file whose attached payload is used; empty means this
	// program's own file.
	Executable string
	// CacheDir is where payloads are unpacked to and fetched libraries lie;
	// empty means ${XDG_CACHE_HOME:-~/.cache}/lockstep.
	CacheDir string
}

// FindLibrary returns the path of the engine library: the one asked for, or
// else the one attached to the executable (unpacked into the cache when it is
// not there yet, which takes seconds once), or else the fetched one. What it
// returns has been looked at as far as that is quick: it is a whole library for
// this machine.
func FindLibrary(opts LibraryOptions) (string, error) {
	found, load, err := find(opts)
	if err == nil && found.Attached && !found.Unpacked {
		err = load.unpack(found.Path)
	}
	return found.Path, err
}

// Found is the engine library that FindLibrary returns.
type Found struct {
	// Path is where the library lies, or where the attached one will.
	Path string
	// Attached says that it comes with the executable, and Unpacked that it
	// already lies at Path then.
	Attached, Unpacked bool
	// Size is the bytes that an attached one takes when it is unpacked.
	Size int64
}

// Look finds what FindLibrary would, as far as that goes without unpacking, and
// writes nothing.
func Look(opts LibraryOptions) (Found, error) {
	found, _, err := find(opts)
	return found, err
}

// find returns the payload of an attached library beside what was found.
func find(opts LibraryOptions) (Found, *payload, error) {
	if !supported {
		return Found{}, nil, errUnsupported()
	}
	if opts.Path != "" {
		return Found{Path: opts.Path}, nil, checkLibrary(opts.Path)
	}
	executable := opts.Executable
	if executable == "" {
		own, err := os.Executable()
		if err != nil {
			return Found{}, nil, fmt.Errorf("find this program's file, which may carry the ClickHouse engine: %w", err)
		}
		executable = own
	}
	cache := opts.CacheDir
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return Found{}, nil, errs.New(errs.Invalid, "LS-ENG-004", "find the cache folder of the ClickHouse engine: %w; set XDG_CACHE_HOME to a folder that this user may write", err)
		}
		cache = filepath.Join(user, "lockstep")
	}
	engines := filepath.Join(cache, "engine")

	load, err := findPayload(executable)
	if err != nil {
		return Found{}, nil, err
	}
	if load != nil {
		path := load.path(engines)
		return Found{Path: path, Attached: true, Unpacked: load.unpacked(path), Size: load.plain}, load, nil
	}
	fetched := filepath.Join(engines, Version, libraryName)
	err = checkLibrary(fetched)
	if errors.Is(err, fs.ErrNotExist) {
		return Found{}, nil, errs.New(errs.NotFound, "LS-ENG-001", "no ClickHouse engine library: none is attached to %s and there is no %s; run `make engine` to fetch it, name one with LOCKSTEP_ENGINE_LIBRARY, or "+serverInstead, executable, fetched)
	}
	return Found{Path: fetched}, nil, err
}

const (
	// serverInstead says how to do without the engine.
	serverInstead = "use a ClickHouse server (--clickhouse, LOCKSTEP_STORE_DSN or store.dsn_file)"
	// otherLibrary says what to do about a library that is of no use.
	otherLibrary = "fetch it again with `make engine`, name another with LOCKSTEP_ENGINE_LIBRARY, or " + serverInstead
)

// checkLibrary looks at what would make the loader fail or crash: a file that is
// missing, cannot be read, is no shared library for this machine, or is cut
// short. Damage inside is not seen; the child dies of that, and the server does
// not.
func checkLibrary(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errs.New(errs.NotFound, "LS-ENG-001", "no ClickHouse engine library at %s: %w; %s", path, err, otherLibrary)
	case err != nil:
		return errs.New(errs.Invalid, "LS-ENG-002", "look at the ClickHouse engine library: %w; %s", err, otherLibrary)
	case !info.Mode().IsRegular():
		return errs.New(errs.Invalid, "LS-ENG-002", "the ClickHouse engine library %s is not a file; %s", path, otherLibrary)
	}
	// The table of sections lies at the file's end, so a file that was cut has
	// none.
	library, err := elf.Open(path)
	if err != nil {
		return errs.New(errs.Invalid, "LS-ENG-002", "the ClickHouse engine library %s cannot be read, or is no library or only a part of one: %w; %s", path, err, otherLibrary)
	}
	defer library.Close()
	if library.Machine != elf.EM_X86_64 || library.Type != elf.ET_DYN {
		return errs.New(errs.Invalid, "LS-ENG-002", "the ClickHouse engine library %s is of type %s for %s, not a shared library for x86-64; %s", path, library.Type, library.Machine, otherLibrary)
	}
	return nil
}
