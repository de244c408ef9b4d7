//go:build linux && amd64

package chdb

import (
	"bufio"
	"context"
	"errors"
	"io"
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

func TestKilledChildComesBackWithItsRows(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, t.TempDir())
	c := newClient(t, engine.DialContext)
	c.must("CREATE DATABASE facts ENGINE = Atomic")
	c.must("CREATE TABLE facts.t (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS fsync_after_insert = 1, fsync_part_directory = 1")
	for range 3 {
		c.must("INSERT INTO facts.t SELECT number FROM numbers(1000)")
	}
	old := engine.PID()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, old, 10*time.Second)
	c.http.CloseIdleConnections()
	// The dial waits for the next child by itself.
	got, err := c.post(limited(t, time.Minute), "SELECT count() FROM facts.t FORMAT CSV", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.body != "3000\n" {
		t.Errorf("after the kill the table holds %q", got.body)
	}
	if now := engine.PID(); now == old || now == 0 {
		t.Errorf("the child's process id is %d, it was %d", now, old)
	}
}

func TestCancelledRequestStopsItsStatement(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, t.TempDir())
	c := newClient(t, engine.DialContext)
	running := func() string {
		return c.must("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%system.processes%' FORMAT CSV")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := c.post(ctx, "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))", nil)
		ended <- err
	}()
	waitFor(t, func() bool { return running() == "1\n" })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the request ended with %v", err)
	}
	waitFor(t, func() bool { return running() == "0\n" })
}

// waitFor asks again and again, for at most 20 s.
func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	ctx := limited(t, 20*time.Second)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for !condition() {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal("it did not come about within 20 s")
		}
	}
}

func TestSecondEngineOnTheSameDataIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	engine := startEngine(t, dir)
	_, err := Start(limited(t, time.Minute), Options{Args: []string{childCommand}, Library: libraryPath(t), DataDir: dir, LockWait: 100 * time.Millisecond})
	if err == nil {
		t.Fatal("two engines run on one data folder")
	}
	for _, part := range []string{dir, "process " + strconv.Itoa(engine.PID()), "stop that server"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error %q does not say %q", err, part)
		}
	}
	newClient(t, engine.DialContext).must("SELECT 1")
}

func TestNewEngineWaitsForAnOldOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := startEngine(t, dir)
	begun := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		close(begun)
		engine, err := Start(limited(t, time.Minute), Options{Args: []string{childCommand}, Library: libraryPath(t), DataDir: dir})
		if err == nil {
			err = engine.Stop(limited(t, time.Minute))
		}
		started <- err
	}()
	<-begun
	if err := old.Stop(limited(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Error(err)
	}
}

func TestChildDiesWithItsParent(t *testing.T) {
	t.Parallel()
	parent := exec.Command("/proc/self/exe", parentCommand, libraryPath(t), t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := parent.Wait(); err == nil {
		t.Error("a killed parent ended well")
	}
	gone(t, pid, 10*time.Second)
}

// The lifeline works without the kernel's death signal, which other ways of
// starting a child do not set.
func TestChildEndsWithItsLifeline(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lifelineRead, lifelineWrite := pipe(t)
	statusRead, statusWrite := pipe(t)
	child := exec.Command("/proc/self/exe", childCommand, "--library="+libraryPath(t), "--data-dir="+dir, "--socket="+filepath.Join(dir, "s"))
	child.ExtraFiles = []*os.File{lifelineRead, statusWrite}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() }) // if the lifeline did not end it
	_ = lifelineRead.Close()
	_ = statusWrite.Close()
	status, err := bufio.NewReader(statusRead).ReadString('\n')
	if err != nil || strings.TrimSpace(status) != statusReady {
		t.Fatalf("status %q, %v", status, err)
	}
	info, err := os.Stat(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v", info.Mode())
	}
	_ = lifelineWrite.Close()
	gone(t, child.Process.Pid, 10*time.Second)
	if err := child.Wait(); child.ProcessState.ExitCode() != 1 {
		t.Errorf("the child ended with %v", err)
	}
}

// The library resets the process's signal handlers; Go's are back afterwards.
func TestFaultsAreStillPanics(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("/proc/self/exe", faultCommand, libraryPath(t), t.TempDir()).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "recovered: runtime error: invalid memory address") {
		t.Errorf("a nil pointer beside the engine ended the process: %v, %s", err, out)
	}
}

func TestStopEndsARunningStatement(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, t.TempDir())
	c := newClient(t, engine.DialContext)
	began := make(chan answer, 1)
	go func() {
		got, _ := c.post(limited(t, time.Minute), "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))", nil)
		began <- got
	}()
	waitFor(t, func() bool {
		return newClient(t, engine.DialContext).must("SELECT count() FROM system.processes WHERE query LIKE '%sipHash64%' AND query NOT LIKE '%system.processes%' FORMAT CSV") == "1\n"
	})
	if err := engine.Stop(limited(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	<-began
}

func TestClientsThatLeaveInTheMiddleOfAResult(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, t.TempDir())
	c := newClient(t, engine.DialContext)
	for range 20 { // more than there are connections
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/", strings.NewReader("SELECT number FROM numbers(1000000000000)"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		cancel()
		_ = res.Body.Close()
	}
	for range 20 {
		c.must("SELECT 1")
	}
	waitFor(t, func() bool {
		return c.must("SELECT count() FROM system.processes WHERE query NOT LIKE '%system.processes%' FORMAT CSV") == "0\n"
	})
}

func pipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = read.Close(); _ = write.Close() })
	return read, write
}

func TestStartErrors(t *testing.T) {
	t.Parallel()
	notALibrary := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.WriteFile(notALibrary, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		opts Options
		want string
	}{
		"not a library": {Options{Args: []string{childCommand}, Library: notALibrary, DataDir: t.TempDir()}, "make engine"},
		"long path":     {Options{Args: []string{childCommand}, Library: notALibrary, DataDir: "/" + strings.Repeat("x", 110)}, "shorter path"},
		"no program":    {Options{Executable: "/nonexistent/program", DataDir: t.TempDir()}, "/nonexistent/program"},
		"wrong program": {Options{Executable: "/bin/false", DataDir: t.TempDir()}, "exit status 1"},
	} {
		_, err := Start(limited(t, time.Minute), test.opts)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error %v does not say %q", name, err, test.want)
		}
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, t.TempDir())
	pid := engine.PID()
	for range 2 {
		if err := engine.Stop(limited(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, pid, 0)
	<-engine.Done()
	if err := engine.Ready(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("a stopped engine is ready: %v", err)
	}
	if _, err := engine.DialContext(t.Context(), "", ""); !errors.Is(err, ErrStopped) {
		t.Errorf("a stopped engine was dialled: %v", err)
	}
	if _, err := net.Dial("unix", engine.Socket()); err == nil {
		t.Error("a stopped engine's socket still answers")
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	t.Parallel()
	said := &tail{log: testLog(t)}
	for i := range 20 {
		_, _ = io.WriteString(said, "line "+strconv.Itoa(i)+"\nbegin ")
	}
	if got := said.last(); !strings.Contains(got, "begin line 19") || strings.Contains(got, "line 11") {
		t.Errorf("the last lines are %q", got)
	}
}
