package spool_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/kit/spool"
)

// childCommand makes the test's binary a process that works with a spool until it
// is killed.
const childCommand = "work-until-killed"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == childCommand {
		if err := work(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// work appends numbered records and takes some of them out again for ever. It says
// on its output what it knows to be durable and what it took, each before it goes
// on: "in N" and "out N".
func work(dir string) error {
	l := &counter{}
	s, err := spool.Open(spool.Options{Dir: dir, MaxBytes: 1 << 20, SegmentBytes: 4 << 10, Ledger: l})
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintf(out, "start %d %s\n", l.last, s.ID())
	for turn := 0; ; turn++ {
		var records [][]byte
		for range turn%7 + 1 {
			records = append(records, numbered(l.last+uint64(len(records))+1))
		}
		if err := s.Append(records); err != nil {
			return err
		}
		fmt.Fprintf(out, "in %d\n", l.last)
		if err := out.Flush(); err != nil {
			return err
		}
		took, err := s.Next(4, 1<<20)
		if err != nil {
			return err
		}
		for _, r := range took {
			fmt.Fprintf(out, "out %d\n", binary.LittleEndian.Uint64(r.Data))
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if err := s.Ack(took[len(took)-1].Position); err != nil {
			return err
		}
	}
}

// numbered is a record that says which it is; its size depends on that.
func numbered(n uint64) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, n), make([]byte, n*37%600)...)
}

// counter remembers the number of the newest record, and what was dropped.
type counter struct {
	last    uint64
	dropped []uint64
	// fresh counts how often it began anew.
	fresh int
}

func (c *counter) Added(record []byte) { c.last = binary.LittleEndian.Uint64(record) }
func (c *counter) Dropped(record []byte) {
	c.dropped = append(c.dropped, binary.LittleEndian.Uint64(record))
}
func (c *counter) Snapshot() []byte { return binary.LittleEndian.AppendUint64(nil, c.last) }

func (c *counter) Restore(snapshot []byte) error {
	c.last = 0
	if snapshot == nil {
		c.fresh++
		return nil
	}
	if len(snapshot) != 8 {
		return fmt.Errorf("a snapshot of %d bytes", len(snapshot))
	}
	c.last = binary.LittleEndian.Uint64(snapshot)
	return nil
}
