//go:build linux && amd64

package chdb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

	"github.com/lockstep-fleet/lockstep/kit/errs"
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

// What the start alone needed is given back before anybody asks.
func TestIdleChildIsSmall(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, t.TempDir())
	newClient(t, engine.DialContext).must("SELECT 1")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", engine.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if most, ok := map[string]int{"RssFile": 80 << 10, "RssAnon": 80 << 10}[name]; ok {
			if kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB")); err != nil || kib > most {
				t.Errorf("%s is %s, %v, want at most %d kB", name, strings.TrimSpace(value), err, most)
			}
		}
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
	if errs.IDOf(err) != "LS-ENG-009" {
		t.Errorf("the error is %v", err)
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

// A server that is killed takes its child along, and the next one opens the same
// data, waiting for the child where it still holds them.
func TestKilledParentLeavesItsDataToTheNext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent := exec.Command("/proc/self/exe", parentCommand, libraryPath(t), dir)
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
	c := newClient(t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "engine.sock"))
	})
	c.must("CREATE TABLE default.kept (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS fsync_after_insert = 1, fsync_part_directory = 1")
	c.must("INSERT INTO kept SELECT number FROM numbers(1000)")
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	next, err := Start(limited(t, time.Minute), Options{Args: []string{childCommand}, Library: libraryPath(t), DataDir: dir, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopEngine(t, next) })
	gone(t, pid, 10*time.Second)
	if err := parent.Wait(); err == nil {
		t.Error("a killed parent ended well")
	}
	if got := newClient(t, next.DialContext).must("SELECT count() FROM kept FORMAT CSV"); got != "1000\n" {
		t.Errorf("the next server sees %q", got)
	}
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
	lines := bufio.NewScanner(statusRead)
	for _, stage := range []Stage{StageLoading, StageOpening, StageReady} {
		if !lines.Scan() || Stage(lines.Text()) != stage {
			t.Fatalf("status %q (%v), want %q", lines.Text(), lines.Err(), stage)
		}
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
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "data"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	child, library := []string{childCommand}, libraryPath(t)
	for name, test := range map[string]struct {
		opts Options
		id   string
		want string
	}{
		"not a library":  {Options{Args: child, Library: notALibrary, DataDir: t.TempDir()}, "LS-ENG-002", "make engine"},
		"full of holes":  {Options{Args: child, Library: holes(t, library), DataDir: t.TempDir()}, "LS-ENG-002", "make engine"},
		"long path":      {Options{Args: child, Library: library, DataDir: "/" + strings.Repeat("x", 110)}, "LS-ENG-007", "shorter path"},
		"no folder":      {Options{Args: child, Library: library, DataDir: notALibrary}, "LS-ENG-008", notALibrary},
		"no answer":      {Options{Executable: "/bin/sh", Args: []string{"-c", "read forever <&3"}, DataDir: t.TempDir(), StartLimit: 50 * time.Millisecond}, "LS-ENG-010", "50ms"},
		"damaged data":   {Options{Args: child, Library: library, DataDir: damaged}, "LS-ENG-012", damaged},
		"no program":     {Options{Executable: "/nonexistent/program", DataDir: t.TempDir()}, "", "/nonexistent/program"},
		"wrong program":  {Options{Executable: "/bin/false", DataDir: t.TempDir()}, "LS-ENG-011", "exit status 1"},
		"dying program":  {Options{Executable: "/bin/sh", Args: []string{"-c", "echo no air >&2; kill -9 $$"}, DataDir: t.TempDir()}, "LS-ENG-011", "signal: killed; its last words: no air"},
		"dying at data":  {Options{Executable: "/bin/sh", Args: []string{"-c", "echo opening >&4; kill -BUS $$"}, DataDir: t.TempDir()}, "LS-ENG-012", "signal: bus error"},
		"dying at first": {Options{Executable: "/bin/sh", Args: []string{"-c", "echo loading >&4; kill -SEGV $$"}, DataDir: t.TempDir()}, "LS-ENG-002", "signal: segmentation fault"},
	} {
		_, err := Start(limited(t, time.Minute), test.opts)
		if err == nil || errs.IDOf(err) != test.id || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error %v is not %q and does not say %q", name, err, test.id, test.want)
		}
	}
}

// holes is a library with its beginning and its end, and nothing in between: it
// looks whole from outside.
func holes(t *testing.T, library string) string {
	t.Helper()
	whole, err := os.Open(library)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	info, err := whole.Stat()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "libchdb.so"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	const kept = 64 << 10
	for _, offset := range []int64{0, info.Size() - kept} {
		if _, err := io.Copy(io.NewOffsetWriter(out, offset), io.NewSectionReader(whole, offset, kept)); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkLibrary(out.Name()); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}

// A child that dies at every start is started again and again, tells why, and
// serves when the reason is gone.
func TestCrashLoopEndsWithItsReason(t *testing.T) {
	t.Parallel()
	library := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.Symlink(libraryPath(t), library); err != nil {
		t.Fatal(err)
	}
	engine, err := Start(limited(t, time.Minute), Options{Args: []string{childCommand}, Library: library, DataDir: t.TempDir(), Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopEngine(t, engine) })
	if err := os.Rename(library, library+".away"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(engine.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		err := engine.Err()
		return err != nil && strings.Contains(err.Error(), "deaths in a row: 3")
	})
	err = engine.Err()
	if errs.IDOf(err) != "LS-ENG-002" || !strings.Contains(err.Error(), "next start in ") {
		t.Errorf("the engine's error is %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := engine.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) || errs.IDOf(err) != "LS-ENG-002" {
		t.Errorf("who waits is told %v", err)
	}
	if err := os.Rename(library+".away", library); err != nil {
		t.Fatal(err)
	}
	newClient(t, engine.DialContext).must("SELECT 1")
	if err := engine.Err(); err != nil {
		t.Errorf("a serving engine has the error %v", err)
	}
}

// A child that is stopped in the middle of everything holds nobody beyond the
// time he has.
func TestFrozenChildHoldsNobody(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, t.TempDir())
	c := newClient(t, engine.DialContext)
	c.must("SELECT 1")
	if err := syscall.Kill(engine.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		_, err := c.post(ctx, "SELECT 1", nil)
		cancel()
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 5*time.Second {
			t.Errorf("after %s the error is %v", took, err)
		}
	}
	if err := syscall.Kill(engine.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.must("SELECT 1")
	// One that does not hear of its end is killed.
	if err := syscall.Kill(engine.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	pid := engine.PID()
	if err := engine.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a frozen child was stopped with %v", err)
	}
	gone(t, pid, 0)
}

func TestChildKilledWhileItStops(t *testing.T) {
	t.Parallel()
	for range 3 {
		engine, err := Start(limited(t, time.Minute), Options{Args: []string{childCommand}, Library: libraryPath(t), DataDir: t.TempDir(), Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		pid := engine.PID()
		stopped := make(chan error, 1)
		go func() { stopped <- engine.Stop(limited(t, time.Minute)) }()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		gone(t, pid, 0)
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
