//go:build unix

// Package dirlock owns how one process claims a directory for itself.
package dirlock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Lock claims a directory until the returned function is called or the process
// ends, however it ends. A directory that is claimed already is an error that
// names the holder.
func Lock(dir string) (release func(), err error) {
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unwritable(dir, err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = errs.New(errs.Conflict, "LS-SRV-001", "%s is in use by %s; stop that server or choose another folder with --data-dir or the setting that names it", dir, holder(file))
		} else {
			err = errs.New(errs.Invalid, "LS-SRV-008", "locking %s: %w; choose a folder on a disk of this machine with --data-dir or the setting that names it", path, err)
		}
		return nil, errors.Join(err, file.Close())
	}
	// The holder's id is for people only; the lock itself is the kernel's.
	if err := errors.Join(file.Truncate(0), writeAt(file, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return nil, errors.Join(unwritable(dir, err), file.Close())
	}
	return func() {
		// A child between fork and exec shares the open file, so closing it here
		// alone would not free the lock at once.
		_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
		_ = file.Close()
	}, nil
}

// holder is the process that the lock's file names.
func holder(file io.Reader) string {
	text, err := io.ReadAll(io.LimitReader(file, 32))
	if err == nil {
		if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			return fmt.Sprintf("process %d", pid)
		}
	}
	return "another process"
}

func unwritable(dir string, err error) error {
	return errs.New(errs.Invalid, "LS-SRV-002", "the data directory %s cannot be written: %w; choose a folder that this user may write with --data-dir or the setting that names it", dir, err)
}

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}
