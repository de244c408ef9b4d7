//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long the program may take to be ready or to stop.
const patience = time.Minute

// binary is the program that `make build` left.
func binary(b *testing.B) string {
	b.Helper()
	path, err := filepath.Abs("../../bin/lockstep")
	if err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		b.Fatalf("%v; run `make build` first", err)
	}
	return path
}

// running is a server of its own.
type running struct {
	cmd  *exec.Cmd
	log  bytes.Buffer
	took time.Duration
}

// start runs a server on a folder and returns once it is ready.
func start(b *testing.B, dir string) *running {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	r := &running{cmd: exec.Command(binary(b), "server", "--data-dir", dir, "--listen", address, "--admin-listen", "off")}
	r.cmd.Dir = dir
	r.cmd.Stderr = &r.log
	began := time.Now()
	if err := r.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(patience); ; {
		if res, err := http.Get("http://" + address + "/readyz"); err == nil {
			if err := res.Body.Close(); err != nil {
				b.Fatal(err)
			}
			if res.StatusCode == http.StatusOK {
				r.took = time.Since(began)
				return r
			}
		}
		select {
		case <-tick.C:
		case <-late:
			_ = r.cmd.Process.Kill()
			b.Fatalf("not ready after %s:\n%s", patience, &r.log)
		}
	}
}

func (r *running) stop(b *testing.B) {
	b.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := r.cmd.Wait(); err != nil {
		b.Fatalf("stopping: %v\n%s", err, &r.log)
	}
}

// BenchmarkStart starts a server on a folder that has its tables and streams
// already, until it is ready, and stops it.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	start(b, dir).stop(b) // unpacks the engine where that was not done yet
	var took time.Duration
	for b.Loop() {
		r := start(b, dir)
		took += r.took
		b.StopTimer()
		r.stop(b)
		b.StartTimer()
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ready-ms")
}

// BenchmarkFirstStart starts a server on an empty folder.
func BenchmarkFirstStart(b *testing.B) {
	start(b, b.TempDir()).stop(b)
	var took time.Duration
	for b.Loop() {
		r := start(b, b.TempDir())
		took += r.took
		b.StopTimer()
		r.stop(b)
		b.StartTimer()
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ready-ms")
}

// BenchmarkIdle reads the resident memory of a server and its engine after they
// have had nothing to do for a while.
func BenchmarkIdle(b *testing.B) {
	r := start(b, b.TempDir())
	defer r.stop(b)
	for b.Loop() {
		<-time.After(10 * time.Second)
	}
	server := resident(b, r.cmd.Process.Pid)
	engine := 0
	for _, id := range children(b, r.cmd.Process.Pid) {
		engine += resident(b, id)
	}
	b.ReportMetric(float64(server)/1024, "server-MiB")
	b.ReportMetric(float64(engine)/1024, "engine-MiB")
	b.ReportMetric(float64(server+engine)/1024, "all-MiB")
}

// children lists the children that the threads of a process have started.
func children(b *testing.B, pid int) []int {
	b.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		b.Fatal(err)
	}
	var ids []int
	for _, name := range lists {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		for _, word := range strings.Fields(string(text)) {
			id, err := strconv.Atoi(word)
			if err != nil {
				b.Fatal(err)
			}
			ids = append(ids, id)
		}
	}
	return ids
}

// resident returns the memory that a process holds, in KiB.
func resident(b *testing.B, pid int) int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				b.Fatal(err)
			}
			return kib
		}
	}
	b.Fatalf("process %d tells no VmRSS", pid)
	return 0
}

// BenchmarkSize reads how large the program is, with the engine and without.
func BenchmarkSize(b *testing.B) {
	for b.Loop() {
		for name, path := range map[string]string{"whole-MiB": binary(b), "program-MiB": filepath.Join(filepath.Dir(binary(b)), "..", ".cache", "lockstep")} {
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(info.Size())/(1<<20), name)
		}
	}
}
