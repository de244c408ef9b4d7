package main

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lockstep-fleet/lockstep/kit/dirlock"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// dataFormat counts how the data directory has been laid out since the first
// release. It grows only when an older server would read the folder wrongly.
const dataFormat = 1

// formatFile holds the format of the data directory that it is in.
const formatFile = "format"

// dataDir is a data directory that this process holds.
type dataDir struct {
	path    string
	release func()
}

// openDataDir makes the folder where it is missing and takes it for this process.
func openDataDir(path string) (*dataDir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, errs.New(errs.Invalid, "LS-SRV-002", "making the data directory: %w; choose another folder with --data-dir", err)
	}
	release, err := dirlock.Lock(path)
	if err != nil {
		return nil, err
	}
	d := &dataDir{path: path, release: release}
	if err := d.checkFormat(); err != nil {
		release()
		return nil, err
	}
	return d, nil
}

func (d *dataDir) bus() string   { return filepath.Join(d.path, "bus") }
func (d *dataDir) store() string { return filepath.Join(d.path, "store") }

// checkFormat refuses a folder whose layout this version does not know, before
// anything in it is touched, and marks a folder that has no mark.
func (d *dataDir) checkFormat() error {
	name := filepath.Join(d.path, formatFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		// Written aside and renamed: a mark cut short would lock its owner out.
		if err := os.WriteFile(name+".new", []byte(strconv.Itoa(dataFormat)+"\n"), 0o600); err != nil {
			return errs.New(errs.Invalid, "LS-SRV-002", "marking the data directory: %w", err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			return errs.New(errs.Invalid, "LS-SRV-002", "marking the data directory: %w", err)
		}
		return nil
	}
	if err != nil {
		return errs.New(errs.Invalid, "LS-SRV-002", "reading the data directory's mark: %w", err)
	}
	format, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || format < 1 || format > dataFormat {
		return errs.New(errs.Conflict, "LS-SRV-004", "the data directory %s has format %q and this version knows formats up to %d; "+
			"start the version that wrote it, or a newer one", d.path, strings.TrimSpace(string(text)), dataFormat)
	}
	return nil
}

// adminToken returns the token in a file, making both at the first start.
func adminToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if token := strings.TrimSpace(string(text)); token != "" {
			return token, nil
		}
		return "", errs.New(errs.Invalid, "LS-SRV-005", "the admin token file %s is empty; remove it and start again for a new token", path)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", errs.New(errs.Invalid, "LS-SRV-005", "reading the admin token: %w", err)
	}
	token := "lst_" + rand.Text()
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		return "", errs.New(errs.Invalid, "LS-SRV-005", "writing the admin token: %w", err)
	}
	return token, nil
}
