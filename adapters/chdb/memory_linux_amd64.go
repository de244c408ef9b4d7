package chdb

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

// giveBack takes the library's pages that nobody has written to out of the
// process. Its start walks over 140 MB of them once, for relocations and tables;
// what runs later is a third of that, and comes back from the page cache as it is
// used.
func giveBack(library string) error {
	path, err := filepath.EvalSymlinks(library)
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	var begin, end uintptr
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 6 && fields[5] == path:
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &begin, &end); err != nil {
				return fmt.Errorf("read the mapping %q: %w", fields[0], err)
			}
			// A mapping that may be written is about to be.
			if strings.Contains(fields[1], "w") {
				begin, end = 0, 0
			}
		case len(fields) == 3 && fields[0] == "Anonymous:":
			// What was written to has no other copy.
			if end > begin && fields[1] == "0" {
				if _, _, errno := unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_DONTNEED); errno != 0 {
					return errno
				}
			}
			begin, end = 0, 0
		}
	}
	return nil
}

// tidyPause is how often the engine is asked for memory that it has freed: by
// itself it gives that back only while it works, not after.
const tidyPause = time.Minute

// tidy asks for freed memory after work, until ctx ends.
func (p *pool) tidy(ctx context.Context) {
	seen := uint64(0)
	for range rtime.Every(ctx, tidyPause) {
		if used := p.used.Load(); used != seen {
			seen = used
			if err := p.ask("SYSTEM JEMALLOC PURGE"); err != nil {
				p.log("the engine refused to give back freed memory", "error", err.Error())
			}
		}
	}
}
