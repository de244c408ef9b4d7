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
)

// Lock claims a directory until the returned function is called or the process
// ends, however it ends. A directory that is claimed already is an error that
// names the holder.
func Lock(dir string) (release func(), err error) {
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of %s: %w; choose a folder that this user may write with --data-dir", dir, err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := "another process"
		if text, readErr := io.ReadAll(io.LimitReader(file, 32)); readErr == nil {
			if pid, convErr := strconv.Atoi(strings.TrimSpace(string(text))); convErr == nil {
				holder = fmt.Sprintf("process %d", pid)
			}
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("%s is in use by %s; stop that server or choose another folder with --data-dir", dir, holder)
		} else {
			err = fmt.Errorf("locking %s: %w", path, err)
		}
		return nil, errors.Join(err, file.Close())
	}
	// The holder's id is for people only; the lock itself is the kernel's.
	if err := errors.Join(file.Truncate(0), writeAt(file, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return nil, errors.Join(fmt.Errorf("writing %s: %w", path, err), file.Close())
	}
	return func() {
		// A child between fork and exec shares the open file, so closing it here
		// alone would not free the lock at once.
		_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
		_ = file.Close()
	}, nil
}

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}
