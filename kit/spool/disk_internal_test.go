package spool

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// ram is a disk that can lose power, fill up and break. It forgets what was not
// synced, as a real one may.
type ram struct {
	mu      sync.Mutex
	files   map[string]*content // as the process sees the folder
	durable map[string]*content // as the folder is after the power failed
	room    int64               // how many bytes more it takes, when limited
	limited bool
	failing error // what the next sync of a file returns
	dying   bool  // the process does not live beyond that
	dead    bool
	syncs   int
	slow    chan struct{} // syncs wait for it, unless nil
	begun   chan struct{} // and say first that they do
}

type content struct {
	data, synced []byte
	// What stands between these two was given up by a sync that failed; those that
	// follow succeed without it, until it is written anew. So kernels do it.
	from, to int
}

// rewritten takes that the bytes between two places are others now.
func (c *content) rewritten(from, to int) {
	if from <= c.from && to >= c.to {
		c.from, c.to = 0, 0
	}
}

func newRAM() *ram {
	return &ram{files: make(map[string]*content), durable: make(map[string]*content)}
}

// handle is an open file.
type handle struct {
	disk *ram
	*content
}

func (r *ram) Open(name string, flag int) (file, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.files[name]
	switch {
	case c == nil && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case c == nil:
		c = &content{}
		r.files[name] = c
	case flag&os.O_TRUNC != 0:
		c.data = nil
	}
	return handle{r, c}, nil
}

func (r *ram) Rename(from, to string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free(to)
	r.files[to] = r.files[from]
	delete(r.files, from)
	return nil
}

func (r *ram) Remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free(name)
	delete(r.files, name)
	return nil
}

func (r *ram) free(name string) {
	if c := r.files[name]; c != nil {
		r.room += int64(len(c.data))
	}
}

func (r *ram) List() ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.files)), nil
}

func (r *ram) Sync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.durable = maps.Clone(r.files)
	return nil
}

func (h handle) ReadAt(to []byte, at int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if at >= int64(len(h.data)) {
		return 0, io.EOF
	}
	n := copy(to, h.data[at:])
	if n < len(to) {
		return n, io.EOF
	}
	return n, nil
}

func (h handle) WriteAt(from []byte, at int64) (int, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.disk.dead {
		return 0, errIO
	}
	var failed error
	if grows := at + int64(len(from)) - int64(len(h.data)); grows > 0 && h.disk.limited {
		if grows > h.disk.room {
			// A disk takes what it can.
			from, failed = from[:max(0, int64(len(from))-(grows-h.disk.room))], syscall.ENOSPC
			grows = h.disk.room
		}
		h.disk.room -= grows
	}
	data := make([]byte, max(int64(len(h.data)), at+int64(len(from))))
	copy(data, h.data)
	copy(data[at:], from)
	h.data = data
	h.rewritten(int(at), int(at)+len(from))
	return len(from), failed
}

func (h handle) Truncate(size int64) error {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.disk.dead {
		return errIO
	}
	h.disk.room += int64(len(h.data)) - size
	h.data = slices.Clone(h.data[:size])
	h.rewritten(int(size), math.MaxInt)
	return nil
}

func (h handle) Sync() error {
	if h.disk.slow != nil {
		select {
		case h.disk.begun <- struct{}{}:
		case <-h.disk.slow:
		}
		<-h.disk.slow
	}
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	h.disk.syncs++
	if err := h.disk.failing; err != nil {
		h.disk.failing, h.disk.dead = nil, h.disk.dying
		for h.from < min(len(h.synced), len(h.data)) && h.synced[h.from] == h.data[h.from] {
			h.from++
		}
		h.to = len(h.data)
		return err
	}
	synced := slices.Clone(h.data)
	for i := h.from; i < h.to; i++ {
		if synced[i] = 0; i < len(h.synced) {
			synced[i] = h.synced[i]
		}
	}
	h.synced = synced
	return nil
}

func (h handle) Close() error               { return nil }
func (h handle) Stat() (os.FileInfo, error) { return info(len(h.data)), nil }

type info int64

func (i info) Size() int64      { return int64(i) }
func (info) Name() string       { return "" }
func (info) Mode() fs.FileMode  { return 0 }
func (info) ModTime() time.Time { return time.Time{} }
func (info) IsDir() bool        { return false }
func (info) Sys() any           { return nil }

var errIO = errors.New("input/output error")

// chance decides what is left when the power fails: a number from 0 to below n.
type chance func(n int) int

// revive is the disk in the hands of another process, which has what the one before
// wrote, synced or not, and can sync it.
func (r *ram) revive() {
	r.failing, r.dying, r.dead = nil, false, false
	for _, c := range r.files {
		c.from, c.to = 0, 0
	}
}

// crash returns the disk as it is found after the power failed: what was synced,
// and of the rest any part.
func (r *ram) crash(pick chance) *ram {
	after := newRAM()
	after.limited, after.room = r.limited, r.room
	names := maps.Clone(r.durable)
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		if pick(2) == 0 {
			names[name] = r.files[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.durable)) {
		if r.files[name] == nil && pick(2) == 0 {
			delete(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		c := names[name]
		data := slices.Clone(c.synced)
		if n := len(c.data) - len(c.synced); n > 0 {
			data = slices.Clone(c.data[:len(c.synced)+pick(n+1)])
		} else if pick(2) == 0 {
			data = slices.Clone(c.data)
		}
		after.files[name] = &content{data: data, synced: slices.Clone(data)}
	}
	after.durable = maps.Clone(after.files)
	return after
}
