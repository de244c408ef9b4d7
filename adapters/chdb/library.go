package chdb

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Version is the engine library's version that tools/engine/fetch.sh fetches.
const Version = "26.5.3"

const libraryName = "libchdb.so"

// ErrNoLibrary is the error when no engine library is found.
var ErrNoLibrary = errors.New("no ClickHouse engine library")

// LibraryOptions say where FindLibrary looks.
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
// not there yet, which takes seconds once), or else the fetched one.
func FindLibrary(opts LibraryOptions) (string, error) {
	if opts.Path != "" {
		if err := regular(opts.Path); err != nil {
			return "", fmt.Errorf("use the ClickHouse engine library: %w", err)
		}
		return opts.Path, nil
	}
	executable := opts.Executable
	if executable == "" {
		own, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find this program's file, which may carry the ClickHouse engine: %w", err)
		}
		executable = own
	}
	cache := opts.CacheDir
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the cache folder of the ClickHouse engine: %w (set XDG_CACHE_HOME)", err)
		}
		cache = filepath.Join(user, "lockstep")
	}
	engines := filepath.Join(cache, "engine")

	load, err := findPayload(executable)
	if err != nil {
		return "", err
	}
	if load != nil {
		return load.unpack(engines)
	}
	fetched := filepath.Join(engines, Version, libraryName)
	switch err := regular(fetched); {
	case err == nil:
		return fetched, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("%w: none is attached to %s and there is no %s: run `make engine` to fetch it, or use a ClickHouse server with --clickhouse <dsn>", ErrNoLibrary, executable, fetched)
	default:
		return "", fmt.Errorf("use the fetched ClickHouse engine library: %w", err)
	}
}

func regular(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a file", path)
	}
	return nil
}
