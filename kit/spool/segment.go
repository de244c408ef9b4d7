package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"strconv"
	"strings"
)

// A segment is a file named by the position of its first record:
//
//	magic (8)  identity (8)  first position (8)  checksum of these (4)
//	snapshot of the ledger, as a record of its own
//	records
//
// A record is its length (4), the checksum of its data (4), the checksum of both
// and of its position (4), and the data. With a position in its checksum a record
// is believed in its own place only, and one whose data is damaged can be stepped
// over. Numbers are little-endian, checksums are CRC-32C.
const (
	magic      = "LSSPOOL1"
	headerSize = len(magic) + identitySize + 8 + 4
	frameSize  = 12

	identitySize = 8

	// maxPosition keeps sums of positions from overflowing, whatever a damaged file
	// claims.
	maxPosition = math.MaxUint64 >> 2
	// snapshotPosition is a position that no record has.
	snapshotPosition = math.MaxUint64

	suffix = ".seg"
)

// castagnoli makes the checksums; processors have an instruction for it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segment is one file of the spool.
type segment struct {
	name  string
	first uint64
	// end is the position behind its last record.
	end uint64
	// size is how much of the file holds durable records.
	size int64
}

func newSegment(first uint64) *segment {
	return &segment{name: segmentName(first), first: first, end: first}
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, suffix) }

// firstOf reads a segment's name.
func firstOf(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, err == nil && first <= maxPosition
}

// appendHeader begins a segment.
func appendHeader(to []byte, identity [identitySize]byte, first uint64) []byte {
	start := len(to)
	to = append(to, magic...)
	to = append(to, identity[:]...)
	to = binary.LittleEndian.AppendUint64(to, first)
	return binary.LittleEndian.AppendUint32(to, crc32.Checksum(to[start:], castagnoli))
}

// readHeader returns a segment's identity; false when the header is damaged.
func readHeader(from []byte, first uint64) (identity [identitySize]byte, ok bool) {
	sum := headerSize - 4
	if len(from) < headerSize || string(from[:len(magic)]) != magic ||
		binary.LittleEndian.Uint32(from[sum:]) != crc32.Checksum(from[:sum], castagnoli) ||
		binary.LittleEndian.Uint64(from[sum-8:]) != first {
		return identity, false
	}
	copy(identity[:], from[len(magic):])
	return identity, true
}

// appendRecord adds one record.
func appendRecord(to, data []byte, position uint64) []byte {
	f := frame{length: uint32(len(data)), sum: crc32.Checksum(data, castagnoli)}
	to = binary.LittleEndian.AppendUint32(to, f.length)
	to = binary.LittleEndian.AppendUint32(to, f.sum)
	to = binary.LittleEndian.AppendUint32(to, f.check(position))
	return append(to, data...)
}

// frame is what stands before a record's data.
type frame struct{ length, sum uint32 }

func (f frame) check(position uint64) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], position)
	binary.LittleEndian.PutUint32(b[8:], f.length)
	binary.LittleEndian.PutUint32(b[12:], f.sum)
	return crc32.Checksum(b[:], castagnoli)
}

// readFrame reads what stands before the data of the record at a position; false
// when it is not that.
func readFrame(from []byte, position uint64) (frame, bool) {
	f := frame{length: binary.LittleEndian.Uint32(from), sum: binary.LittleEndian.Uint32(from[4:])}
	return f, binary.LittleEndian.Uint32(from[8:]) == f.check(position)
}

func (f frame) fits(data []byte) bool { return crc32.Checksum(data, castagnoli) == f.sum }

// The ways in which there is no next record.
var (
	errEnd      = errors.New("the file ends here")
	errTorn     = errors.New("the record was not written to its end")
	errDamaged  = errors.New("the record's checksum is wrong")
	errUnmarked = errors.New("no record begins here")
)

// window reads records of a file between two offsets, a chunk at a time, so that
// most records cost no read of their own.
type window struct {
	file   io.ReaderAt
	offset int64 // of the next record
	end    int64
	chunk  int64

	buffer []byte // what was read of the file
	start  int64  // where buffer begins
}

// bytes returns n bytes at the next offset, fewer at the end.
func (w *window) bytes(n int64) ([]byte, error) {
	n = min(n, w.end-w.offset)
	if w.offset < w.start || w.offset+n > w.start+int64(len(w.buffer)) {
		// What was handed out before is kept by whoever has it.
		w.buffer = make([]byte, min(max(n, w.chunk), w.end-w.offset))
		w.start = w.offset
		read, err := w.file.ReadAt(w.buffer, w.start)
		w.buffer = w.buffer[:read]
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	from := w.offset - w.start
	return w.buffer[from:min(from+n, int64(len(w.buffer)))], nil
}

// next returns the data of the record at a position and steps behind it. It steps
// behind a record that is errDamaged, too; after the other errors there is nothing
// more to be read.
func (w *window) next(position uint64) ([]byte, error) {
	head, err := w.bytes(frameSize)
	switch {
	case err != nil:
		return nil, err
	case len(head) == 0:
		return nil, errEnd
	case len(head) < frameSize:
		return nil, errTorn
	}
	f, ok := readFrame(head, position)
	if !ok {
		return nil, errUnmarked
	}
	whole, err := w.bytes(frameSize + int64(f.length))
	if err != nil {
		return nil, err
	}
	if int64(len(whole)) < frameSize+int64(f.length) {
		return nil, errTorn
	}
	w.offset += int64(len(whole))
	if data := whole[frameSize:len(whole):len(whole)]; f.fits(data) {
		return data, nil
	}
	return nil, errDamaged
}

// peek returns how long the record at a position is, without stepping behind it;
// zero where there is none.
func (w *window) peek(position uint64) int64 {
	head, err := w.bytes(frameSize)
	if err != nil || len(head) < frameSize {
		return 0
	}
	f, ok := readFrame(head, position)
	if !ok {
		return 0
	}
	return int64(f.length)
}
