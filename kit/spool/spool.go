// Package spool owns a queue of byte records on disk: what was appended is there
// after a crash, in order, until it was acknowledged or had to make room. It is
// bounded, and says what it could not keep. It knows neither what the records mean
// nor where they go.
package spool

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"sort"
	"sync"

	"github.com/lockstep-fleet/lockstep/kit/dirlock"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Ledger is what the owner of a spool remembers of all its records, those that are
// long gone included, such as how far it has counted. Each segment begins with a
// snapshot of it. Its methods are called while the spool works, and call nothing
// of it.
type Ledger interface {
	// Added is told every record once it is durable, in order.
	Added(record []byte)
	// Dropped is told every record that had to make room.
	Dropped(record []byte)
	// Snapshot returns what Restore begins with at the next Open.
	Snapshot() []byte
	// Restore is called by Open, before Added is told the records behind the
	// snapshot; nil begins anew, because the spool is new or what it counted is lost.
	Restore(snapshot []byte) error
}

// Options say where a spool is and how large it may grow.
type Options struct {
	// Dir is a folder of its own; it is made if it is not there.
	Dir string
	// MaxBytes bounds all that it keeps on disk.
	MaxBytes int64
	// SegmentBytes is the size at which a segment is followed by the next; what has
	// to make room does so by whole segments. Zero is an eighth of MaxBytes, at most
	// 8 MiB.
	SegmentBytes int64
	// Ledger is nil for a spool whose owner remembers nothing.
	Ledger Ledger
}

// Cause is why records were lost.
type Cause string

// Every cause of a loss.
const (
	// Full: the oldest made room, because MaxBytes was reached.
	Full Cause = "full"
	// NoSpace: the oldest made room, because the disk was full.
	NoSpace Cause = "no_space"
	// Damaged: what is on disk is not what was written.
	Damaged Cause = "damaged"
)

// Loss is something that was appended and will never come out.
type Loss struct {
	Cause Cause
	// Records is zero when it cannot be told how many they were.
	Records uint64
	Bytes   int64
	// Where names the file, and for damage where in it, for people.
	Where string
}

// Record is one record in its place. Positions grow by one from record to record,
// over restarts, and are never used twice; where something was lost they jump.
type Record struct {
	Position uint64
	Data     []byte
}

// Stats say how full a spool is.
type Stats struct {
	// Records and Bytes are not acknowledged yet.
	Records uint64
	Bytes   int64
	// MaxBytes is the bound of Bytes.
	MaxBytes int64
}

// Spool is a queue that one process has open.
type Spool struct {
	options  Options
	disk     disk
	release  func()
	identity [identitySize]byte
	added    chan struct{}

	// queue holds appends that wait for the disk; whoever has writing writes for all.
	waiting sync.Mutex
	queue   []*appending
	writing sync.Mutex
	buffer  []byte // of whoever has writing

	mu       sync.Mutex
	closed   bool
	segments []*segment // oldest first, none while the spool is new
	active   file       // the newest segment, nil when the next append begins another
	bytes    int64      // of all segments
	end      uint64     // the position of the next record
	renew    bool       // the newest segment is damaged: the next append begins another
	losses   []Loss
	told     uint64 // damage before this position is told

	cursor file   // keeps acked
	acked  uint64 // the position of the oldest record that is not acknowledged
	offset int64  // where that record begins in the oldest segment
	handed []handed
	reader file // the segment named
	named  string
}

// handed is where a record ends that Next returned.
type handed struct {
	next    uint64 // the position behind it
	segment *segment
	offset  int64
}

// appending is one call of Append.
type appending struct {
	records [][]byte
	bytes   int64
	done    bool
	err     error
}

// maxGroup bounds how many bytes of several appends are written together.
const maxGroup = 4 << 20

const cursorName = "cursor"

// Open opens the spool of a folder, or makes it. A record that was not written to
// its end is forgotten; it was never told to be durable.
func Open(options Options) (*Spool, error) {
	if options.SegmentBytes == 0 {
		options.SegmentBytes = min(options.MaxBytes/8, 8<<20)
	}
	if err := os.MkdirAll(options.Dir, 0o700); err != nil {
		return nil, unusable(options.Dir, err)
	}
	release, err := dirlock.Lock(options.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the spool: %w", err)
	}
	s, err := open(options, folder(options.Dir))
	if err != nil {
		release()
		return nil, unusable(options.Dir, err)
	}
	s.release = release
	return s, nil
}

func unusable(dir string, err error) error {
	return errs.New(errs.Unavailable, "LS-COL-001", "opening the spool in %s: %w; check that the folder is on a disk that works and that this user may write it", dir, err)
}

func open(options Options, d disk) (*Spool, error) {
	s := &Spool{options: options, disk: d, release: func() {}, added: make(chan struct{}, 1)}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.closeFiles())
	}
	return s, nil
}

// load finds out what is there.
func (s *Spool) load() error {
	if err := s.list(); err != nil {
		return err
	}
	if err := s.loadCursor(); err != nil {
		return err
	}
	whole, err := s.recall()
	if err != nil {
		return err
	}
	if s.acked > s.end {
		// More was handed out than is there: the newest records are gone, and with them
		// the count. How many more were behind them nobody knows.
		s.lose(Loss{Cause: Damaged, Where: "the end of the newest segment"})
		s.end, whole = s.acked, false
	}
	if !whole {
		if _, err := rand.Read(s.identity[:]); err != nil {
			return fmt.Errorf("making an identity: %w", err)
		}
		if err := s.restore(nil); err != nil {
			return err
		}
	}
	return s.settle()
}

// list finds the segments; each ends where the next begins.
func (s *Spool) list() error {
	names, err := s.disk.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == newName {
			// The process ended while it began a segment.
			if err := s.disk.Remove(name); err != nil {
				return err
			}
		}
		first, ok := firstOf(name)
		if !ok {
			continue
		}
		f, err := s.disk.Open(name, 0)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if len(s.segments) > 0 {
			s.segments[len(s.segments)-1].end = first
		}
		s.segments = append(s.segments, &segment{name: name, first: first, end: first, size: info.Size()})
		s.bytes += info.Size()
		s.end = first
	}
	return nil
}

// recall restores the ledger and the identity from the newest segment, and finds
// its end. It is false when the segment does not tell everything that was
// written.
func (s *Spool) recall() (whole bool, err error) {
	if len(s.segments) == 0 {
		return false, nil
	}
	newest := s.segments[len(s.segments)-1]
	f, err := s.disk.Open(newest.name, 0)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := &window{file: f, end: newest.size, chunk: 1 << 20}
	header, err := w.bytes(int64(headerSize))
	if err != nil {
		return false, err
	}
	s.identity, whole = readHeader(header, newest.first)
	w.offset = min(int64(headerSize), newest.size)
	snapshot, err := w.next(snapshotPosition)
	if err == nil && whole {
		err = s.restore(snapshot)
	}
	whole = whole && err == nil
	// What is readable behind a damage is still handed out.
	for ; ; newest.end++ {
		record, err := w.next(newest.end)
		switch {
		case err == nil && whole:
			s.tell(record)
			continue
		case err == nil:
			continue
		case errors.Is(err, errDamaged):
			whole = false
			continue
		case errors.Is(err, errUnmarked):
			whole = false
			s.lose(Loss{Cause: Damaged, Bytes: newest.size - w.offset, Where: at(newest, w.offset)})
		case errors.Is(err, errEnd), errors.Is(err, errTorn):
		default:
			return false, err
		}
		break
	}
	s.bytes -= newest.size - w.offset
	newest.size, s.end = w.offset, newest.end
	// What a process left behind that was killed before its disk had answered is taken
	// for durable from here on, so it must be.
	return whole, f.Sync()
}

// restore and tell are for ledgers that are there.
func (s *Spool) restore(snapshot []byte) error {
	if s.options.Ledger == nil {
		return nil
	}
	return s.options.Ledger.Restore(snapshot)
}

func (s *Spool) tell(record []byte) {
	if s.options.Ledger != nil {
		s.options.Ledger.Added(record)
	}
}

// loadCursor reads which record was the oldest. A cursor that is damaged hands
// everything out again.
func (s *Spool) loadCursor() error {
	f, err := s.disk.Open(cursorName, os.O_CREATE)
	if err != nil {
		return err
	}
	s.cursor = f
	var b [12]byte
	if _, err := f.ReadAt(b[:], 0); err == nil && binary.LittleEndian.Uint32(b[8:]) == crc32.Checksum(b[:8], castagnoli) {
		s.acked = min(binary.LittleEndian.Uint64(b[:]), maxPosition)
	}
	return s.saveCursor()
}

// saveCursor does not wait for the disk: a cursor that is behind repeats records,
// and is never ahead of what was acknowledged. It is written in its place, which
// takes room on the disk only once.
func (s *Spool) saveCursor() error {
	var b [12]byte
	binary.LittleEndian.PutUint64(b[:], s.acked)
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[:8], castagnoli))
	if _, err := s.cursor.WriteAt(b[:], 0); err != nil && !outOfSpace(err) {
		return fmt.Errorf("writing down which records are acknowledged: %w", err)
	}
	return nil
}

// settle brings the cursor and the segments together.
func (s *Spool) settle() error {
	if len(s.segments) == 0 {
		return nil
	}
	if oldest := s.segments[0]; s.acked < oldest.first {
		if s.acked > 0 {
			s.lose(Loss{Cause: Damaged, Records: oldest.first - s.acked, Where: "what was before " + oldest.name})
		}
		s.acked = oldest.first
	}
	s.told = s.acked
	return s.trim()
}

// trim deletes the segments that hold nothing any more. The newest stays, because
// it holds the ledger. The cursor goes first: a segment before it is missed by
// nobody.
func (s *Spool) trim() error {
	for len(s.segments) > 1 && s.segments[0].end <= s.acked {
		if err := errors.Join(s.saveCursor(), s.cursor.Sync()); err != nil {
			return err
		}
		if err := s.disk.Remove(s.segments[0].name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.bytes -= s.segments[0].size
		s.segments, s.offset = s.segments[1:], 0
	}
	return nil
}

func (s *Spool) lose(l Loss) { s.losses = append(s.losses, l) }

// at says for people where something is.
func at(g *segment, offset int64) string { return fmt.Sprintf("%s from byte %d on", g.name, offset) }

// ID is the spool's identity: it stays over restarts, and is another one when the
// ledger was lost with damaged or missing segments.
func (s *Spool) ID() string { return hex.EncodeToString(s.identity[:]) }

// Added receives after records were appended; several appends may be one.
func (s *Spool) Added() <-chan struct{} { return s.added }

// Append adds records behind all others and returns when they are durable. Appends
// that come while the disk is at work are written together. Where there is no room
// the oldest records are dropped. After an error the records are not handed out
// before the next Open, and may be after it.
func (s *Spool) Append(records [][]byte) error {
	if len(records) == 0 {
		return nil
	}
	a := &appending{records: records}
	for _, r := range records {
		a.bytes += int64(frameSize + len(r))
	}
	if a.bytes > s.options.MaxBytes {
		return errs.New(errs.Exhausted, "LS-COL-004", "appending %d bytes to the spool in %s: it may hold %d; allow it more or hand it less at once", a.bytes, s.options.Dir, s.options.MaxBytes)
	}
	s.waiting.Lock()
	s.queue = append(s.queue, a)
	s.waiting.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed && !a.done {
		return s.gone()
	}
	for !a.done {
		s.commit(s.group())
	}
	return a.err
}

func (s *Spool) gone() error {
	return errs.New(errs.Unavailable, "", "the spool in %s is closed", s.options.Dir)
}

// group takes what waits, as far as it is written at once.
func (s *Spool) group() []*appending {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	n, size := 0, int64(0)
	for n < len(s.queue) && (n == 0 || size+s.queue[n].bytes <= maxGroup) {
		size += s.queue[n].bytes
		n++
	}
	group := slices.Clone(s.queue[:n])
	s.queue = slices.Delete(s.queue, 0, n)
	return group
}

// commit writes a group and answers it.
func (s *Spool) commit(group []*appending) {
	position := s.end
	s.buffer = s.buffer[:0]
	for _, a := range group {
		for _, r := range a.records {
			s.buffer = appendRecord(s.buffer, r, position)
			position++
		}
	}
	err := s.store(position)
	for _, a := range group {
		a.done, a.err = true, err
		for _, r := range a.records {
			if err == nil {
				s.tell(r)
			}
		}
	}
	if cap(s.buffer) > 2*maxGroup {
		s.buffer = nil
	}
	select {
	case s.added <- struct{}{}:
	default:
	}
}

// store writes the buffer, whose last record ends before a position, and drops the
// oldest records as long as there is no room.
func (s *Spool) store(end uint64) error {
	for {
		err := s.write(end)
		if err == nil {
			return nil
		}
		if !outOfSpace(err) {
			if errs.IDOf(err) != "" {
				return err
			}
			return errs.New(errs.Unavailable, "LS-COL-003", "writing to the spool in %s: %w; check the disk", s.options.Dir, err)
		}
		if !s.giveWay() {
			return errs.New(errs.Exhausted, "LS-COL-002", "writing to the spool in %s: %w; make room on its disk", s.options.Dir, err)
		}
	}
}

// giveWay drops the oldest segment for the sake of the newest; false when there is
// none but that.
func (s *Spool) giveWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) < 2 {
		return false
	}
	return s.drop(NoSpace) == nil
}

// write writes the buffer once. Records whose write failed are taken off the file
// again; if that fails, too, or it is not known what is on disk, the next begins
// another file.
func (s *Spool) write(end uint64) error {
	newest, err := s.makeRoom(int64(len(s.buffer)))
	if err != nil {
		return err
	}
	_, err = s.active.WriteAt(s.buffer, newest.size)
	written := err == nil
	if written {
		err = s.active.Sync()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if s.active.Truncate(newest.size) != nil || written {
			s.closeActive()
		}
		return err
	}
	newest.size += int64(len(s.buffer))
	newest.end, s.end = end, end
	s.bytes += int64(len(s.buffer))
	return nil
}

// makeRoom begins a segment where one is due and drops what is too much. It returns
// the segment to write to.
func (s *Spool) makeRoom(need int64) (*segment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil || s.renew || s.segments[len(s.segments)-1].size >= s.options.SegmentBytes {
		if err := s.begin(); err != nil {
			return nil, err
		}
	}
	for s.bytes+need > s.options.MaxBytes {
		var err error
		switch only := s.segments[0]; {
		case len(s.segments) > 1:
			err = s.drop(Full)
		case only.first == only.end:
			err = errs.New(errs.Exhausted, "LS-COL-004", "appending %d bytes to the spool in %s: it may hold %d; allow it more or hand it less at once", need, s.options.Dir, s.options.MaxBytes)
		default:
			err = s.begin()
		}
		if err != nil {
			return nil, err
		}
	}
	return s.segments[len(s.segments)-1], nil
}

// newName is a segment while it is begun; it is there whole or not at all.
const newName = "new"

// begin makes a new segment the newest.
func (s *Spool) begin() error {
	s.closeActive()
	var snapshot []byte
	if s.options.Ledger != nil {
		snapshot = s.options.Ledger.Snapshot()
	}
	g := newSegment(s.end)
	head := appendRecord(appendHeader(nil, s.identity, g.first), snapshot, snapshotPosition)
	g.size = int64(len(head))
	f, err := s.disk.Open(newName, os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(head, 0)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = s.disk.Rename(newName, g.name)
	}
	if err == nil {
		err = s.disk.Sync()
	}
	if err != nil {
		f.Close()
		// What became of a file whose sync failed nobody knows.
		_ = s.disk.Remove(newName)
		return err
	}
	if n := len(s.segments); n > 0 && s.segments[n-1].name == g.name {
		// Nothing was ever written to the one before, and it is replaced.
		s.bytes -= s.segments[n-1].size
		s.segments = s.segments[:n-1]
		if n == 1 {
			s.offset = 0
		}
		s.forget()
	}
	if n := len(s.segments); n > 0 {
		s.segments[n-1].end = g.first
	}
	if len(s.segments) == 0 {
		s.acked, s.told = g.first, g.first
	}
	s.active, s.renew, s.segments, s.bytes = f, false, append(s.segments, g), s.bytes+g.size
	return s.trim()
}

// drop gives up the oldest segment.
func (s *Spool) drop(cause Cause) error {
	if g := s.segments[0]; s.acked < g.end {
		// A segment that cannot be read makes room as well.
		w, err := s.read(g, s.acked, s.offset, maxGroup)
		for position := s.acked; position < g.end && err == nil && s.options.Ledger != nil; position++ {
			record, failed := w.next(position)
			if failed == nil {
				s.options.Ledger.Dropped(record)
			} else if !readable(failed) {
				break
			}
		}
		s.lose(Loss{Cause: cause, Records: g.end - s.acked, Bytes: g.size - s.offset, Where: g.name})
		s.acked, s.told = g.end, max(s.told, g.end)
	}
	return s.trim()
}

// read returns a window on a segment that stands at a position, whose offset is
// zero where it is not known. Where that cannot be reached there is no record.
func (s *Spool) read(g *segment, position uint64, offset, chunk int64) (*window, error) {
	if s.named != g.name {
		s.forget()
		f, err := s.disk.Open(g.name, 0)
		if err != nil {
			return nil, err
		}
		s.reader, s.named = f, g.name
	}
	w := &window{file: s.reader, offset: offset, end: g.size, chunk: chunk}
	if offset > 0 {
		return w, nil
	}
	w.offset = min(int64(headerSize), g.size)
	_, err := w.next(snapshotPosition)
	for p := g.first; p < position && readable(err); p++ {
		_, err = w.next(p)
	}
	if broken(err) {
		return nil, err
	}
	return w, nil
}

// readable reports whether a record follows the one that was asked for.
func readable(err error) bool { return err == nil || errors.Is(err, errDamaged) }

// broken reports whether it is the disk that failed, and not what stands on it.
func broken(err error) bool {
	return !readable(err) && !errors.Is(err, errEnd) && !errors.Is(err, errTorn) && !errors.Is(err, errUnmarked)
}

// Next returns the oldest records that are not acknowledged, without removing
// them: as many as there are, at most count, and not more bytes than given unless
// the first alone has more. What is damaged is left out and counted. Only one
// caller at a time has use of it.
func (s *Spool) Next(count int, size int64) ([]Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, s.gone()
	}
	s.handed = s.handed[:0]
	var out []Record
	position, offset := s.acked, s.offset
	for _, g := range slices.Clone(s.segments) {
		if position >= g.end {
			offset = 0
			continue
		}
		w, err := s.read(g, position, offset, max(size, 1<<10))
		for err == nil && position < g.end && len(out) < count {
			length := w.peek(position)
			if len(out) > 0 && length > size {
				return out, nil
			}
			from := w.offset
			data, failed := w.next(position)
			switch {
			case failed == nil:
				out = append(out, Record{position, data})
				size -= length
				position++
				s.handed = append(s.handed, handed{position, g, w.offset})
				continue
			case errors.Is(failed, errDamaged):
				s.damaged(g, position, position+1, from, w.offset)
				position++
			case broken(failed):
				err = failed
				continue
			default:
				// Where the next record would begin is not known.
				s.damaged(g, position, g.end, from, g.size)
				position = g.end
				s.renew = s.renew || g == s.segments[len(s.segments)-1]
			}
			if len(out) == 0 {
				// Nobody will acknowledge what nobody gets.
				err = s.advance(handed{position, g, w.offset})
			}
		}
		if err != nil {
			if len(out) > 0 {
				return out, nil
			}
			return nil, errs.New(errs.Unavailable, "LS-COL-003", "reading the spool in %s: %w; check the disk", s.options.Dir, err)
		}
		if len(out) == count {
			break
		}
		offset = 0
	}
	return out, nil
}

// damaged tells once of records that cannot be read, however often they are come
// across.
func (s *Spool) damaged(g *segment, position, end uint64, from, to int64) {
	if position = max(position, s.told); position < end {
		s.lose(Loss{Cause: Damaged, Records: end - position, Bytes: to - from, Where: at(g, from)})
		s.told = end
	}
}

// Ack says that the record at a position and all before it are done with. If that
// cannot be written down they come again after the next Open.
func (s *Spool) Ack(position uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := sort.Search(len(s.handed), func(i int) bool { return s.handed[i].next > position+1 })
	if n == 0 || s.closed {
		return nil
	}
	done := s.handed[n-1]
	s.handed = s.handed[n:]
	return s.advance(done)
}

// advance makes what follows the oldest.
func (s *Spool) advance(to handed) error {
	if to.next <= s.acked {
		return nil // it was dropped meanwhile
	}
	s.acked = to.next
	if s.segments[0] == to.segment {
		s.offset = to.offset
	}
	if err := errors.Join(s.saveCursor(), s.trim()); err != nil {
		return err
	}
	if s.segments[0] == to.segment {
		s.offset = to.offset
	}
	return nil
}

// Losses returns what was lost since it was last asked.
func (s *Spool) Losses() []Loss {
	s.mu.Lock()
	defer s.mu.Unlock()
	lost := s.losses
	s.losses = nil
	return lost
}

// Stats says how full the spool is.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{Records: s.end - s.acked, MaxBytes: s.options.MaxBytes}
	if stats.Records > 0 {
		stats.Bytes = s.bytes - s.offset
	}
	return stats
}

// Close ends the use of the spool by this process. What was appended stays.
func (s *Spool) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := s.closeFiles()
	s.release()
	return err
}

func (s *Spool) closeFiles() error {
	s.closeActive()
	s.forget()
	if s.cursor == nil {
		return nil
	}
	return s.cursor.Close()
}

// closeActive makes the next append begin another segment.
func (s *Spool) closeActive() {
	if s.active != nil {
		s.active.Close() // what it holds is on disk already
		s.active = nil
	}
}

// forget makes the next read open its segment anew.
func (s *Spool) forget() {
	if s.reader != nil {
		s.reader.Close()
		s.reader, s.named = nil, ""
	}
}
