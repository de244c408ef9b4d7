// Command attach puts the ClickHouse engine library behind the last byte of a
// built program, so that the one file runs anywhere:
//
//	attach -binary bin/lockstep [-output bin/lockstep] [-library libchdb.so]
//
// The file it writes is
//
//	program | library, zstd | trailer
//
// where the trailer has 64 bytes: the magic LOCKSTEP-ENGINE1 (16), the
// compressed length and the plain length (8 each, little-endian), and the
// SHA-256 of the plain library (32). adapters/chdb reads it. What is attached
// to the program already is replaced.
//
// Compressing takes most of the time, so the attachment is kept beside the
// library and used again as long as it is newer.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

const (
	magic       = "LOCKSTEP-ENGINE1"
	trailerSize = 64
	version     = "26.5.3" // as in adapters/chdb/library.go and tools/engine/fetch.sh
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "attach the ClickHouse engine:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("attach", flag.ContinueOnError)
	program := flags.String("binary", "", "the built program")
	output := flags.String("output", "", "the file to write; the program itself when empty")
	library := flags.String("library", "", "the engine library; the fetched one when empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *program == "" || flags.NArg() > 0 {
		return errors.New("usage: attach -binary <program> [-output <file>] [-library <libchdb.so>]")
	}
	if *output == "" {
		*output = *program
	}
	if *library == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find the cache folder: %w", err)
		}
		*library = filepath.Join(cache, "lockstep", "engine", version, "libchdb.so")
	}
	attachment, err := prepare(*library)
	if err != nil {
		return err
	}
	return join(*output, *program, attachment)
}

// prepare returns the path of the library's attachment, making it when there
// is none or an old one.
func prepare(library string) (string, error) {
	info, err := os.Stat(library)
	if err != nil {
		return "", fmt.Errorf("find the library: %w (run `make engine` first)", err)
	}
	path := library + ".attachment"
	if made, err := os.Stat(path); err == nil && !made.ModTime().Before(info.ModTime()) {
		if plain, err := plainLength(path); err == nil && plain == info.Size() {
			return path, nil
		}
	}
	err = replace(path, 0o644, func(out *os.File) error { return compress(out, library) })
	if err != nil {
		return "", fmt.Errorf("compress %s: %w", library, err)
	}
	return path, nil
}

// compress writes the library's attachment: its zstd form and the trailer.
func compress(out *os.File, library string) error {
	in, err := os.Open(library)
	if err != nil {
		return err
	}
	defer in.Close()
	packed, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	digest := sha256.New()
	plain, err := io.Copy(io.MultiWriter(packed, digest), in)
	if err != nil {
		return err
	}
	if err := packed.Close(); err != nil {
		return err
	}
	length, err := out.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	_, err = out.Write(trailer(length, plain, digest.Sum(nil)))
	return err
}

func trailer(packed, plain int64, digest []byte) []byte {
	out := []byte(magic)
	out = binary.LittleEndian.AppendUint64(out, uint64(packed))
	out = binary.LittleEndian.AppendUint64(out, uint64(plain))
	return append(out, digest...)
}

// readTrailer returns the last bytes of a file, when they are a trailer.
func readTrailer(file *os.File) (trailer []byte, size int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	if info.Size() < trailerSize {
		return nil, info.Size(), nil
	}
	trailer = make([]byte, trailerSize)
	if _, err := file.ReadAt(trailer, info.Size()-trailerSize); err != nil {
		return nil, 0, err
	}
	if !bytes.HasPrefix(trailer, []byte(magic)) {
		return nil, info.Size(), nil
	}
	return trailer, info.Size(), nil
}

// plainLength is the length of the library in an attachment, in bytes.
func plainLength(attachment string) (int64, error) {
	file, err := os.Open(attachment)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	trailer, size, err := readTrailer(file)
	if err != nil {
		return 0, err
	}
	if trailer == nil || int64(binary.LittleEndian.Uint64(trailer[16:]))+trailerSize != size {
		return 0, errors.New("not an attachment")
	}
	return int64(binary.LittleEndian.Uint64(trailer[24:])), nil
}

// join writes the program without what is attached to it, and the attachment.
func join(output, program, attachment string) error {
	in, err := os.Open(program)
	if err != nil {
		return fmt.Errorf("read the program: %w", err)
	}
	defer in.Close()
	old, length, err := readTrailer(in)
	if err != nil {
		return fmt.Errorf("read the program %s: %w", program, err)
	}
	if old != nil {
		length -= trailerSize + int64(binary.LittleEndian.Uint64(old[16:]))
		if length < 0 {
			return fmt.Errorf("what is attached to %s is longer than the file: build it again", program)
		}
	}
	engine, err := os.Open(attachment)
	if err != nil {
		return fmt.Errorf("read the attachment: %w", err)
	}
	defer engine.Close()
	err = replace(output, 0o755, func(out *os.File) error {
		if _, err := io.CopyN(out, in, length); err != nil {
			return err
		}
		_, err := io.Copy(out, engine)
		return err
	})
	if err != nil {
		return fmt.Errorf("write %s: %w", output, err)
	}
	return nil
}

// replace writes a file under another name first, so that nobody sees half of
// it.
func replace(path string, mode os.FileMode, write func(*os.File) error) (err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		_ = temp.Close()
		if err != nil {
			_ = os.Remove(temp.Name())
		}
	}()
	if err := write(temp); err != nil {
		return err
	}
	if err := temp.Chmod(mode); err != nil {
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}
