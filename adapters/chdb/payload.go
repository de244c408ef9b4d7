package chdb

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// A payload is the engine library behind the last byte of an executable:
//
//	executable | library, zstd | trailer
//
// The trailer has 64 bytes: the magic (16), the compressed length and the
// plain length (8 each, little-endian), and the SHA-256 of the plain library
// (32). tools/attach writes it; linkers and loaders ignore trailing bytes.
const (
	payloadMagic  = "LOCKSTEP-ENGINE1"
	payloadDigest = 32 // offset of the digest in the trailer
	trailerSize   = 64
)

type payload struct {
	executable string
	offset     int64 // of the compressed library
	packed     int64 // bytes
	plain      int64 // bytes
	digest     [sha256.Size]byte
}

// findPayload reads an executable's trailer; without one it returns nil.
func findPayload(executable string) (*payload, error) {
	file, err := os.Open(executable)
	if err != nil {
		return nil, fmt.Errorf("look for the ClickHouse engine attached to %s: %w", executable, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("look for the ClickHouse engine attached to %s: %w", executable, err)
	}
	if info.Size() < trailerSize {
		return nil, nil
	}
	var trailer [trailerSize]byte
	if _, err := file.ReadAt(trailer[:], info.Size()-trailerSize); err != nil {
		return nil, fmt.Errorf("look for the ClickHouse engine attached to %s: %w", executable, err)
	}
	if string(trailer[:len(payloadMagic)]) != payloadMagic {
		return nil, nil
	}
	packed := binary.LittleEndian.Uint64(trailer[16:])
	plain := binary.LittleEndian.Uint64(trailer[24:])
	if packed > uint64(info.Size()-trailerSize) || plain > 1<<40 {
		return nil, errs.New(errs.Invalid, "LS-ENG-006", "the ClickHouse engine attached to %s is damaged (%d bytes packed, %d plain, in a file of %d); install the program again", executable, packed, plain, info.Size())
	}
	p := &payload{executable: executable, packed: int64(packed), plain: int64(plain)}
	p.offset = info.Size() - trailerSize - p.packed
	copy(p.digest[:], trailer[payloadDigest:])
	return p, nil
}

// path is where the library is unpacked to.
func (p *payload) path(engines string) string {
	return filepath.Join(engines, hex.EncodeToString(p.digest[:8]), libraryName)
}

// unpack puts the library at path. Processes wait for each other.
func (p *payload) unpack(path string) error {
	dir := filepath.Dir(path)
	return p.problem(dir, p.unpackInto(dir, path))
}

// problem says what is in the way of unpacking into dir.
func (p *payload) problem(dir string, err error) error {
	var known *errs.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return errs.New(errs.Exhausted, "LS-ENG-005", "unpack the ClickHouse engine from %s: the disk of %s is full: %w; free %d MB there, or set XDG_CACHE_HOME to a folder on another disk", p.executable, dir, err, p.plain>>20)
	default:
		return errs.New(errs.Invalid, "LS-ENG-004", "unpack the ClickHouse engine from %s to %s: %w; let this user write there, or set XDG_CACHE_HOME to a folder that it may write", p.executable, dir, err)
	}
}

func (p *payload) unpackInto(dir, path string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	unlock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if p.unpacked(path) {
		return nil
	}
	// The lock is held, so whoever left these was killed.
	left, err := filepath.Glob(filepath.Join(dir, "unpack-*"))
	if err != nil {
		return err
	}
	for _, name := range left {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	temp, err := os.CreateTemp(dir, "unpack-*")
	if err != nil {
		return err
	}
	defer func() {
		_ = temp.Close()
		if err != nil {
			_ = os.Remove(temp.Name())
		}
	}()
	if err := p.write(temp); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return err
	}
	if err := os.Chtimes(temp.Name(), checked(), checked()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// checked is the modification time of a library whose digest was checked. Any
// write to the file changes it, so a library that has this time and its size is
// the one that was checked, and need not be read whole again at every start.
func checked() time.Time { return time.Unix(1_000_000_000, 0) }

func (p *payload) unpacked(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == p.plain && info.ModTime().Equal(checked())
}

// write unpacks the library into out and checks its digest.
func (p *payload) write(out io.Writer) error {
	file, err := os.Open(p.executable)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := zstd.NewReader(io.NewSectionReader(file, p.offset, p.packed))
	if err != nil {
		return err
	}
	defer plain.Close()
	digest := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, digest), io.LimitReader(plain, p.plain+1))
	if err == nil && (n != p.plain || [sha256.Size]byte(digest.Sum(nil)) != p.digest) {
		err = errors.New("its digest is wrong")
	}
	var writing *fs.PathError
	if err == nil || errors.As(err, &writing) && writing.Op == "write" {
		return err
	}
	return errs.New(errs.Invalid, "LS-ENG-006", "the ClickHouse engine attached to %s is damaged: %w; install the program again", p.executable, err)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
