//go:build unix

package dirlock_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/kit/dirlock"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// holdCommand makes the test's binary a process that holds a lock until it is
// killed or its standard input ends.
const holdCommand = "hold"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == holdCommand {
		os.Exit(hold(os.Args[2]))
	}
	os.Exit(m.Run())
}

func hold(dir string) int {
	if _, err := dirlock.Lock(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// holder starts a process that holds the lock of dir.
func holder(t *testing.T, dir string) *os.Process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, holdCommand, dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_, _ = cmd.Process.Wait() // a killed one was waited for already
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "held\n" {
		t.Fatalf("the holder said %q, %v", line, err)
	}
	return cmd.Process
}

func TestALockedFolderNamesItsHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	process := holder(t, dir)
	_, err := dirlock.Lock(dir)
	want := fmt.Sprintf("LS-SRV-001: %s is in use by process %d; stop that server or choose another folder with --data-dir or the setting that names it", dir, process.Pid)
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}

func TestALockIsFreeOnceItsHolderIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	process := holder(t, dir)
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := process.Wait(); err != nil {
		t.Fatal(err)
	}
	release, err := dirlock.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	release()
}

func TestALockIsFreeOnceItIsReleased(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 3 {
		release, err := dirlock.Lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		// The same process is no exception.
		if _, err := dirlock.Lock(dir); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d;", os.Getpid())) {
			t.Errorf("a second lock: %v", err)
		}
		release()
	}
}

func TestFoldersDoNotShareALock(t *testing.T) {
	t.Parallel()
	for range 2 {
		release, err := dirlock.Lock(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
}

func TestAHolderThatLeftNoNumberIsStillAHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	release, err := dirlock.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dirlock.Lock(dir); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v", err)
	}
}

func TestAFolderThatCannotBeLockedIsNamed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "missing")
	_, err := dirlock.Lock(dir)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) || errs.IDOf(err) != "LS-SRV-002" {
		t.Errorf("got %v", err)
	}
}

func TestAFolderThatIsAFileIsNotWritten(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := dirlock.Lock(dir)
	if errs.IDOf(err) != "LS-SRV-002" || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("got %v", err)
	}
	if text, err := os.ReadFile(dir); err != nil || string(text) != "kept" {
		t.Errorf("the file holds %q now, %v", text, err)
	}
}
