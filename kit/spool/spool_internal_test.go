package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// numbered is a record that says which it is; its size depends on that.
func numbered(n uint64) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, n), make([]byte, n*37%60)...)
}

func numberOf(record []byte) uint64 { return binary.LittleEndian.Uint64(record) }

// recorder is a ledger of numbered records.
type recorder struct {
	last    uint64
	dropped []uint64
	fresh   bool
}

func (r *recorder) Added(record []byte)   { r.last = max(r.last, numberOf(record)) }
func (r *recorder) Dropped(record []byte) { r.dropped = append(r.dropped, numberOf(record)) }
func (r *recorder) Snapshot() []byte      { return binary.LittleEndian.AppendUint64(nil, r.last) }

func (r *recorder) Restore(snapshot []byte) error {
	r.last, r.fresh = 0, snapshot == nil
	if snapshot != nil {
		r.last = numberOf(snapshot)
	}
	return nil
}

// rig is a spool on a disk of the test, and what the test knows of it.
type rig struct {
	rapid.TB
	disk    disk
	options Options
	*Spool
	ledger *recorder
}

const (
	smallSpool   = 8 << 10
	smallSegment = 1 << 10
)

func newRig(t rapid.TB, d disk) *rig {
	t.Helper()
	r := &rig{TB: t, disk: d, options: Options{Dir: "ram", MaxBytes: smallSpool, SegmentBytes: smallSegment}}
	r.open()
	return r
}

// open opens the spool, as a new process does.
func (r *rig) open() {
	r.Helper()
	r.ledger = &recorder{}
	r.options.Ledger = r.ledger
	s, err := open(r.options, r.disk)
	if err != nil {
		r.Fatal(err)
	}
	r.Spool = s
}

// add appends the numbers from..to-1 together.
func (r *rig) add(from, to uint64) error {
	var records [][]byte
	for n := from; n < to; n++ {
		records = append(records, numbered(n))
	}
	return r.Append(records)
}

func (r *rig) mustAdd(from, to uint64) {
	r.Helper()
	for n := from; n < to; n++ {
		if err := r.add(n, n+1); err != nil {
			r.Fatal(err)
		}
	}
}

// peek returns the numbers that come next.
func (r *rig) peek(count int) []uint64 {
	r.Helper()
	records, err := r.Next(count, 1<<20)
	if err != nil {
		r.Fatal(err)
	}
	var out []uint64
	for _, record := range records {
		out = append(out, numberOf(record.Data))
	}
	return out
}

// take returns the numbers that come next and acknowledges them.
func (r *rig) take(count int) []uint64 {
	r.Helper()
	out := r.peek(count)
	if len(out) > 0 {
		if err := r.Ack(r.handed[len(r.handed)-1].next - 1); err != nil {
			r.Fatal(err)
		}
	}
	return out
}

func numbers(from, to uint64) []uint64 {
	var out []uint64
	for n := from; n < to; n++ {
		out = append(out, n)
	}
	return out
}

func (r *rig) expect(what string, got, want []uint64) {
	r.Helper()
	if !slices.Equal(got, want) {
		r.Errorf("%s: %d, want %d", what, got, want)
	}
}

// TestPowerFailsAtAnyPoint appends, takes, fills the disk, breaks it and fails its
// power in any order. What was durable and not acknowledged comes out in order; a
// spool that keeps its identity has forgotten no number that came out; nothing is
// told as damaged that a failing power leaves behind.
func TestPowerFailsAtAnyPoint(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := newRAM()
		r := newRig(t, d)
		var (
			next     uint64 = 1 // the next that is appended
			out      uint64     // the newest that came out, or was dropped
			told     int        // how many of ledger.dropped are in out
			handed   uint64     // the newest that somebody has seen
			identity = ""
		)
		came := func(n uint64) {
			if n > out+1 {
				t.Fatalf("%d came out after %d", n, out)
			}
			out = max(out, n)
		}
		settle := func() {
			for ; told < len(r.ledger.dropped); told++ {
				came(r.ledger.dropped[told])
			}
			for _, l := range r.Losses() {
				if l.Cause == Damaged {
					t.Fatalf("told as damaged: %+v", l)
				}
			}
			sum := int64(0)
			for _, g := range r.segments {
				sum += g.size
			}
			if r.bytes != sum || sum > r.options.MaxBytes {
				t.Fatalf("%d bytes are kept of at most %d, and counted as %d", sum, r.options.MaxBytes, r.bytes)
			}
		}
		take := func(ack bool) {
			records, err := r.Next(rapid.IntRange(1, 20).Draw(t, "count"), int64(rapid.IntRange(1, 2000).Draw(t, "size")))
			if err != nil {
				t.Fatal(err)
			}
			for _, record := range records {
				n := numberOf(record.Data)
				came(n)
				handed = max(handed, n)
			}
			if ack && len(records) > 0 {
				if err := r.Ack(records[rapid.IntRange(0, len(records)-1).Draw(t, "acked")].Position); err != nil && !errors.Is(err, errIO) {
					t.Fatal(err)
				}
			}
			settle()
		}
		reopen := func() {
			r.open()
			told = 0
			if r.ledger.fresh && identity != "" && identity == r.ID() {
				t.Fatal("the count began anew under the same identity")
			}
			if !r.ledger.fresh && r.ledger.last < handed {
				t.Fatalf("%d was seen, and the count goes on from %d", handed, r.ledger.last)
			}
			if identity != "" && handed > 0 && r.ledger.fresh {
				t.Fatal("a failing power took the count")
			}
			// Those that were handed out and not written down come again.
			out = min(out, max(handed, out))
			settle()
		}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) {
				n := uint64(rapid.IntRange(1, 8).Draw(t, "records"))
				if r.add(next, next+n) == nil {
					next += n
					identity = r.ID()
				}
				settle()
			},
			"take":  func(*rapid.T) { take(true) },
			"peek":  func(*rapid.T) { take(false) },
			"break": func(*rapid.T) { d.failing = errIO },
			"die":   func(*rapid.T) { d.failing, d.dying = errIO, true },
			"fill":  func(*rapid.T) { d.limited, d.room = true, int64(rapid.IntRange(0, 600).Draw(t, "room")) },
			"clear": func(*rapid.T) { d.limited = false },
			"close": func(*rapid.T) {
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				d.revive()
				reopen()
			},
			"kill": func(*rapid.T) { d.revive(); reopen() },
			"power": func(*rapid.T) {
				d = d.crash(func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "chance") })
				r.disk = d
				reopen()
			},
		})
		d.revive()
		reopen()
		d.limited = false
		for r.Stats().Records > 0 {
			take(true)
		}
		if out < next-1 {
			t.Fatalf("%d was durable and %d the last that came out", next-1, out)
		}
	})
}

func TestOrderOverRestarts(t *testing.T) {
	t.Parallel()
	r := newRig(t, newRAM())
	id := r.ID()
	r.mustAdd(1, 40)
	r.expect("the first", r.take(10), numbers(1, 11))
	r.expect("looked at", r.peek(5), numbers(11, 16))
	for range 3 {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r.open()
	}
	if r.ID() != id || r.ledger.last != 39 || len(r.Losses()) > 0 {
		t.Errorf("identity %s was %s; the ledger ends at %d", r.ID(), id, r.ledger.last)
	}
	r.mustAdd(40, 50)
	r.expect("the rest", r.take(100), numbers(11, 50))
	if s := r.Stats(); s != (Stats{MaxBytes: smallSpool}) {
		t.Errorf("an empty spool has %+v", s)
	}
	two := func(what string) {
		t.Helper()
		if names, _ := r.disk.List(); len(names) != 2 {
			t.Errorf("%s has the files %v, want the newest segment and the cursor", what, names)
		}
	}
	two("an empty spool")
	first := r.segments[0]
	for n := uint64(50); r.segments[len(r.segments)-1] == first; n++ {
		r.take(1)
		r.mustAdd(n, n+1)
		if n > 100 {
			t.Fatal("no segment was begun")
		}
	}
	two("one that begins a segment")
}

func TestNextKeepsItsLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t, newRAM())
	r.Spool.options.Ledger = nil
	if err := r.Append([][]byte{make([]byte, 100), make([]byte, 100), make([]byte, 300), {}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		count int
		size  int64
		want  int
	}{{1, 1000, 1}, {10, 1, 1}, {10, 199, 1}, {10, 200, 2}, {10, 499, 2}, {10, 500, 4}, {3, 500, 3}} {
		if records, err := r.Next(c.count, c.size); err != nil || len(records) != c.want {
			t.Errorf("%d records, %d bytes: got %d, want %d; %v", c.count, c.size, len(records), c.want, err)
		}
	}
	if s := r.Stats(); s.Records != 4 || s.Bytes < 500 {
		t.Errorf("four records: %+v", s)
	}
}

// A record that was cut anywhere is forgotten and its place is used again; all before
// it is there, and nothing is said to be lost.
func TestAHalfWrittenRecordIsForgotten(t *testing.T) {
	t.Parallel()
	whole := newRAM()
	r := newRig(t, whole)
	r.mustAdd(1, 6)
	id, name := r.ID(), r.segments[0].name
	size := len(whole.files[name].data)
	last := frameSize + len(numbered(5))
	for cut := 1; cut <= last; cut++ {
		d := newRAM()
		for file, c := range whole.files {
			d.files[file] = &content{data: slices.Clone(c.data)}
		}
		d.files[name].data = d.files[name].data[:size-cut]
		r := newRig(t, d)
		if r.ID() != id || r.ledger.last != 4 || len(r.Losses()) > 0 {
			t.Fatalf("%d bytes missing: identity %s, ledger %d", cut, r.ID(), r.ledger.last)
		}
		r.mustAdd(5, 8)
		r.open()
		r.expect(fmt.Sprintf("%d bytes missing", cut), r.take(100), numbers(1, 8))
	}
}

// What was acknowledged was there: a spool that is shorter now has lost its count.
func TestAFileThatWasCutLosesTheCount(t *testing.T) {
	t.Parallel()
	d := newRAM()
	r := newRig(t, d)
	r.mustAdd(1, 6)
	r.take(5)
	id, c := r.ID(), d.files[r.segments[0].name]
	c.data = c.data[:len(c.data)-1]
	r.open()
	if r.ID() == id || r.ledger.last != 0 {
		t.Errorf("identity %s, was %s; ledger %d", r.ID(), id, r.ledger.last)
	}
	if lost := r.Losses(); len(lost) != 1 || lost[0].Cause != Damaged || lost[0].Records != 0 || lost[0].Where == "" {
		t.Errorf("told: %+v, want damage of an unknown size", lost)
	}
	r.mustAdd(6, 9)
	r.expect("what came later", r.take(100), numbers(6, 9))
	r.open()
	if lost := r.Losses(); len(lost) > 0 {
		t.Errorf("told again: %+v", lost)
	}
}

// Damage that comes about while the spool is open costs what is damaged and is told
// once, whatever is appended behind it and however often it is come across.
func TestDamageWhileItIsOpen(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at   int // in the third record
		took int // how many were taken before
		lost uint64
	}{
		"of the data, behind others": {frameSize, 0, 1},
		"of the data, first":         {frameSize, 2, 1},
		"of the length":              {0, 0, 3},
		"of the length, first":       {0, 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newRAM()
			r := newRig(t, d)
			r.mustAdd(1, 6)
			if c.took > 0 {
				r.take(c.took)
			}
			g := r.segments[0]
			third := g.size - 3*frameSize - int64(len(numbered(3))+len(numbered(4))+len(numbered(5)))
			d.files[g.name].data[third+int64(c.at)] ^= 1
			r.peek(100)
			r.peek(100)
			r.mustAdd(6, 10)
			r.peek(100)
			var got []uint64
			for range 5 {
				got = append(got, r.take(100)...)
			}
			want := slices.Concat(numbers(uint64(c.took)+1, 3), numbers(3+c.lost, 10))
			r.expect("what came out", got, want)
			told := uint64(0)
			for _, l := range r.Losses() {
				told += l.Records
			}
			if told != c.lost {
				t.Errorf("%d are lost and %d told", c.lost, told)
			}
		})
	}
}

// Any one bit of any file may flip: nothing comes out that did not go in, in order;
// what is missing is told; the count is not taken up where it is not sure; and what
// is appended afterwards is safe.
func TestAnyBitMayFlip(t *testing.T) {
	t.Parallel()
	whole := newRAM()
	r := newRig(t, whole)
	r.mustAdd(1, 61)
	r.take(3)
	id, names := r.ID(), slices.Sorted(func(yield func(string) bool) {
		for name := range whole.files {
			if !yield(name) {
				return
			}
		}
	})
	if len(names) < 4 {
		t.Fatalf("only %d files", len(names))
	}
	perSegment := 0
	for _, g := range r.segments {
		perSegment = max(perSegment, int(g.end-g.first))
	}
	for _, name := range names {
		for at := range whole.files[name].data {
			d := newRAM()
			for file, c := range whole.files {
				d.files[file] = &content{data: slices.Clone(c.data)}
			}
			d.files[name].data[at] ^= 1 << (at % 8)
			r := newRig(t, d)
			where := fmt.Sprintf("%s byte %d", name, at)
			if r.ledger.last != 60 && r.ID() == id {
				t.Fatalf("%s: the count goes on from %d under the old identity", where, r.ledger.last)
			}
			r.mustAdd(61, 66)
			got := r.take(1000)
			if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Fatalf("%s: %d", where, got)
			}
			missing := 0
			for n := uint64(4); n < 66; n++ {
				if !slices.Contains(got, n) {
					missing++
				}
				if n > 60 && !slices.Contains(got, n) {
					t.Fatalf("%s: %d was appended after it and did not come out", where, n)
				}
			}
			lost := r.Losses()
			if missing > perSegment || missing > 0 && len(lost) == 0 {
				t.Fatalf("%s: %d records are missing, and told is %+v", where, missing, lost)
			}
			told := uint64(0)
			for _, l := range lost {
				if l.Cause != Damaged || l.Where == "" {
					t.Fatalf("%s: told %+v", where, l)
				}
				told += l.Records
			}
			if told > 0 && told != uint64(missing) {
				t.Fatalf("%s: %d records are missing and %d told", where, missing, told)
			}
			r.open()
			if len(r.peek(1)) > 0 || len(r.Losses()) > 0 {
				t.Fatalf("%s: it comes again after a restart", where)
			}
		}
	}
}

func TestAMissingSegmentIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		remove func(segments []*segment) *segment
		fresh  bool
	}{
		"the oldest":   {func(s []*segment) *segment { return s[0] }, false},
		"in between":   {func(s []*segment) *segment { return s[1] }, false},
		"the newest":   {func(s []*segment) *segment { return s[len(s)-1] }, true},
		"all of them":  {nil, true},
		"and a cursor": {func([]*segment) *segment { return &segment{name: cursorName} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newRAM()
			r := newRig(t, d)
			r.mustAdd(1, 81)
			id, gone, all := r.ID(), uint64(0), r.segments
			if c.fresh {
				// What was acknowledged shows that it was there.
				r.take(79)
				r.mustAdd(81, 82)
			} else {
				r.take(3)
			}
			for _, g := range all {
				if c.remove == nil || c.remove(all).name == g.name {
					gone += g.end - max(g.first, r.acked)
					_ = d.Remove(g.name)
				}
			}
			if c.remove != nil && c.remove(all).name == cursorName {
				_ = d.Remove(cursorName)
			}
			r.open()
			if (r.ID() != id) != c.fresh {
				t.Errorf("the identity was %s and is %s", id, r.ID())
			}
			r.mustAdd(82, 85)
			got := r.take(100)
			if n := len(got); n < 3 || !slices.Equal(got[n-3:], numbers(82, 85)) {
				t.Errorf("what was appended later does not come out: %d", got)
			}
			told := uint64(0)
			for _, l := range r.Losses() {
				told += l.Records
			}
			if !c.fresh && told != gone {
				t.Errorf("%d records are gone and %d told", gone, told)
			}
		})
	}
}

func TestTheOldestMakeRoom(t *testing.T) {
	t.Parallel()
	r := newRig(t, newRAM())
	r.mustAdd(1, 500)
	got := r.take(1000)
	first := got[0]
	r.expect("the newest without a gap", got, numbers(first, 500))
	r.expect("dropped", r.ledger.dropped, numbers(1, first))
	told := uint64(0)
	for _, l := range r.Losses() {
		if l.Cause != Full || l.Bytes == 0 || l.Where == "" {
			t.Errorf("told: %+v", l)
		}
		told += l.Records
	}
	if told != first-1 || first < 300 {
		t.Errorf("%d are dropped and %d told", first-1, told)
	}
	if err := r.Append([][]byte{make([]byte, smallSpool)}); errs.IDOf(err) != "LS-COL-004" {
		t.Errorf("a record larger than the spool: %v", err)
	}
	if err := r.Append([][]byte{make([]byte, smallSpool-frameSize)}); errs.IDOf(err) != "LS-COL-004" {
		t.Errorf("a record that leaves no room for a segment's head: %v", err)
	}
	r.mustAdd(500, 510)
	r.expect("afterwards", r.take(100), numbers(500, 510))
}

func TestWhatIsDroppedWhileInHandIsNotMissed(t *testing.T) {
	t.Parallel()
	r := newRig(t, newRAM())
	r.mustAdd(1, 10)
	held, err := r.Next(5, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	r.mustAdd(10, 500)
	if err := r.Ack(held[4].Position); err != nil {
		t.Fatal(err)
	}
	got := r.take(1000)
	r.expect("the rest", got, numbers(r.ledger.dropped[len(r.ledger.dropped)-1]+1, 500))
}

func TestAFullDiskIsAFullSpool(t *testing.T) {
	t.Parallel()
	d := newRAM()
	r := newRig(t, d)
	d.limited, d.room = true, 3000
	r.mustAdd(1, 200)
	got := r.take(1000)
	r.expect("the newest without a gap", got, numbers(got[0], 200))
	for _, l := range r.Losses() {
		if l.Cause != NoSpace {
			t.Errorf("told: %+v", l)
		}
	}
	// Another fills the disk to the last byte, and there is nothing to drop.
	d.room = 0
	if err := r.add(200, 230); errs.IDOf(err) != "LS-COL-002" || errs.KindOf(err) != errs.Exhausted {
		t.Errorf("no room at all: %v", err)
	}
	r.open()
	r.expect("nothing of it", r.peek(100), nil)
	d.room = 3000
	r.mustAdd(200, 210)
	r.expect("afterwards", r.take(100), numbers(200, 210))
	if r.ledger.last != 209 {
		t.Errorf("the ledger ends at %d", r.ledger.last)
	}
}

func TestADiskThatBreaksIsToldAndTriedAgain(t *testing.T) {
	t.Parallel()
	d := newRAM()
	r := newRig(t, d)
	r.mustAdd(1, 5)
	d.failing = errIO
	if err := r.add(5, 8); errs.IDOf(err) != "LS-COL-003" || !errors.Is(err, errIO) {
		t.Errorf("the disk broke: %v", err)
	}
	r.expect("nothing of it", r.peek(100), numbers(1, 5))
	r.mustAdd(5, 8)
	r.expect("once", r.take(100), numbers(1, 8))
}

// Appends that come while the disk is at work share its next sync.
func TestAppendsAreWrittenTogether(t *testing.T) {
	t.Parallel()
	d := newRAM()
	r := newRig(t, d)
	r.mustAdd(1, 2)
	d.slow, d.begun = make(chan struct{}), make(chan struct{})
	before := d.syncs
	var adding sync.WaitGroup
	add := func(n uint64) {
		adding.Go(func() {
			if err := r.add(n, n+1); err != nil {
				t.Error(err)
			}
		})
	}
	add(2)
	<-d.begun
	for n := range uint64(49) {
		add(n + 3)
	}
	for waiting := 0; waiting < 49; runtime.Gosched() {
		r.waiting.Lock()
		waiting = len(r.queue)
		r.waiting.Unlock()
	}
	close(d.slow)
	adding.Wait()
	// One for the first and one for all others; and a new segment's own, and the
	// cursor's.
	if syncs := d.syncs - before; syncs > 5 {
		t.Errorf("%d syncs for fifty appends", syncs)
	}
	got := r.take(100)
	slices.Sort(got)
	r.expect("all of them", got, numbers(1, 52))
}

func TestWritersAndAReaderAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, newRAM())
	r.options.MaxBytes = 1 << 20
	r.open()
	const writers, each = 4, 200
	var adding sync.WaitGroup
	for w := range uint64(writers) {
		adding.Go(func() {
			for n := range uint64(each) {
				if err := r.add(w<<32|n, w<<32|n+1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var next [writers]uint64
	for took := 0; took < writers*each; {
		got := r.take(7)
		if len(got) == 0 {
			<-r.Added()
		}
		for _, n := range got {
			if w := n >> 32; n&math.MaxUint32 != next[w] {
				t.Fatalf("writer %d: %d came, want %d", w, n&math.MaxUint32, next[w])
			}
			next[n>>32]++
		}
		took += len(got)
	}
	adding.Wait()
}

func TestOneProcessAtATime(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	s, err := Open(Options{Dir: dir, MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: dir, MaxBytes: 1 << 20}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("a second time: %v", err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Append([][]byte{{1}}); err == nil {
		t.Error("a closed spool takes records")
	}
	if _, err := s.Next(1, 1); err == nil {
		t.Error("a closed spool gives records")
	}
	if s, err = Open(Options{Dir: dir, MaxBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: filepath.Join(dir, "lock"), MaxBytes: 1 << 20}); errs.IDOf(err) != "LS-COL-001" {
		t.Errorf("a folder that cannot be made: %v", err)
	}
}

// FuzzOpen opens a spool whose files hold anything.
func FuzzOpen(f *testing.F) {
	d := newRAM()
	r := newRig(f, d)
	r.mustAdd(1, 30)
	r.take(2)
	for _, g := range r.segments {
		f.Add(d.files[g.name].data, d.files[cursorName].data, g.first, true)
	}
	f.Add([]byte{}, []byte{}, uint64(0), false)
	f.Add(appendRecord(nil, []byte("x"), 0), []byte("cursor"), uint64(1)<<62, true)
	f.Fuzz(func(t *testing.T, segment, cursor []byte, first uint64, second bool) {
		d := newRAM()
		d.files[segmentName(first)] = &content{data: segment}
		if second {
			d.files[segmentName(first+5)] = &content{data: segment}
		}
		d.files[cursorName] = &content{data: cursor}
		d.files[newName] = &content{data: segment}
		r := newRig(t, d)
		r.options.Ledger = nil
		for range 3 {
			for i := 0; r.Stats().Records > 0 && i < 1000; i++ {
				records, err := r.Next(10, 100)
				if err != nil {
					t.Fatal(err)
				}
				if len(records) > 0 {
					if err := r.Ack(records[len(records)-1].Position); err != nil {
						t.Fatal(err)
					}
				}
			}
			if n := r.Stats().Records; n > 0 {
				t.Fatalf("%d records never come out", n)
			}
			if err := r.Append([][]byte{[]byte("appended")}); err != nil {
				t.Fatal(err)
			}
			records, err := r.Next(1, 1)
			if err != nil || len(records) != 1 || string(records[0].Data) != "appended" {
				t.Fatalf("what was appended does not come out: %v", err)
			}
			s, err := open(r.options, d)
			if err != nil {
				t.Fatal(err)
			}
			r.Spool = s
		}
	})
}
