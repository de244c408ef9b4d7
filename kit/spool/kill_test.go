package spool_test

import (
	"bufio"
	"encoding/binary"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/kit/spool"
)

// A process that is killed at any point loses nothing that it knew to be durable,
// and repeats at most what it had not acknowledged.
func TestKillAtAnyPoint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const kills = 60
	var in, out uint64 // the newest known to be durable and to be taken
	identity := ""
	for kill := range kills {
		child := exec.CommandContext(t.Context(), os.Args[0], childCommand, dir)
		child.Stderr = os.Stderr
		pipe, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := 0
		for scan := bufio.NewScanner(pipe); scan.Scan(); {
			word, rest, _ := strings.Cut(scan.Text(), " ")
			number, id, _ := strings.Cut(rest, " ")
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			switch word {
			case "start":
				if n < in {
					t.Fatalf("kill %d: %d was durable, and the ledger ends at %d", kill, in, n)
				}
				if identity != "" && id != identity {
					t.Fatalf("kill %d: the identity changed although nothing was lost", kill)
				}
				in, identity = n, id
			case "in":
				in = n
			case "out":
				if n > out+1 {
					t.Fatalf("kill %d: %d came out after %d", kill, n, out)
				}
				out = max(out, n)
			}
			// The child goes on while this is read, so the kill meets it anywhere.
			if lines++; lines == 1+kill*7%97 {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if child.Wait() == nil {
			t.Fatal("the child ended by itself")
		}
	}
	s, err := spool.Open(spool.Options{Dir: dir, MaxBytes: 1 << 20, SegmentBytes: 4 << 10, Ledger: &counter{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for {
		records, err := s.Next(100, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			break
		}
		for _, r := range records {
			n := binary.LittleEndian.Uint64(r.Data)
			if n > out+1 {
				t.Fatalf("%d came out after %d", n, out)
			}
			out = max(out, n)
		}
		if err := s.Ack(records[len(records)-1].Position); err != nil {
			t.Fatal(err)
		}
	}
	if out < in {
		t.Errorf("%d was durable, and %d was the last that came out", in, out)
	}
	if lost := s.Losses(); len(lost) > 0 {
		t.Errorf("losses are told that never were: %+v", lost)
	}
	if out < kills {
		t.Errorf("only %d records were written, so nothing was tried", out)
	}
}
