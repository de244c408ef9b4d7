package spool

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// disk is what a spool asks of the folder it lives in. Names are without a path.
type disk interface {
	// Open opens a file to read and write it; flag adds to that.
	Open(name string, flag int) (file, error)
	Rename(from, to string) error
	Remove(name string) error
	// List returns the names of the files in order.
	List() ([]string, error)
	// Sync makes durable which files there are.
	Sync() error
}

type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	Sync() error
	Stat() (os.FileInfo, error)
}

// folder is the disk of a real spool.
type folder string

func (f folder) Open(name string, flag int) (file, error) {
	return os.OpenFile(filepath.Join(string(f), name), os.O_RDWR|flag, 0o600)
}

func (f folder) Rename(from, to string) error {
	return os.Rename(filepath.Join(string(f), from), filepath.Join(string(f), to))
}

func (f folder) Remove(name string) error { return os.Remove(filepath.Join(string(f), name)) }

func (f folder) List() ([]string, error) {
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (f folder) Sync() error {
	dir, err := os.Open(string(f))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// outOfSpace reports whether a write failed because there is no room: on the disk,
// within the user's quota, or within what a process may write.
func outOfSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}
