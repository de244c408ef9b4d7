//go:build integration

package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const root = "github.com/lockstep-fleet/lockstep"

// programs is where the programs under test are, built from this tree.
var programs string

func TestMain(m *testing.M) {
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "delivery-")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", dir,
		root+"/integration/lab/cmd/labbus", root+"/services/collector/cmd/collector", root+"/cmd/lockstep")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build the programs: %w\n%s", err, out), os.RemoveAll(dir))
	}
	return dir, nil
}

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = 90 * time.Second

// await looks until a condition holds. What it returns says what is still wrong.
func await(t *testing.T, what string, wrong func() string) {
	t.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		still := wrong()
		if still == "" {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s did not come about within %s: %s", what, patience, still)
		case <-ticker.C:
		}
	}
}

// program is one that is started, killed and started again. Its death is tied to
// this process's.
type program struct {
	t    *testing.T
	name string
	args []string
	log  string
	// of the life that runs
	process *os.Process
	exited  chan error
	kills   int
}

// launch starts a program of the tree that ends with the test, and shows the end of
// its log when that fails.
func launch(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	p := &program{t: t, name: name, args: args, log: filepath.Join(dir, name+".log")}
	t.Cleanup(func() {
		if p.process != nil {
			if err := p.kill(); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Logf("the last words of %s in %s:\n%s", name, filepath.Base(dir), tail(p.said(), 6000))
		}
	})
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *program) start() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(programs, p.name), p.args...)
	cmd.Dir = filepath.Dir(p.log)
	// What the surroundings say about other buses and engines is not for these.
	for _, name := range []string{"PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR"} {
		if value, set := os.LookupEnv(name); set {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error), make(chan error, 1)
	go func() {
		// The kernel takes the end of the thread that started it for this process's.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.process, p.exited = cmd.Process, exited
	return nil
}

// kill ends the program as a power cut would. That it had ended by itself is an
// error.
func (p *program) kill() error {
	select {
	case err := <-p.exited:
		p.process = nil
		return fmt.Errorf("%s ended by itself: %w; its last words:\n%s", p.name, err, tail(p.said(), 3000))
	default:
	}
	if err := p.process.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	p.process = nil
	p.kills++
	return nil
}

// stop asks the program to end and expects it to end well.
func (p *program) stop() {
	p.t.Helper()
	if err := p.process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.exited:
		p.process = nil
		if err != nil {
			p.t.Errorf("%s did not end well: %v", p.name, err)
		}
	case <-time.After(patience):
		p.t.Fatalf("%s did not stop within %s", p.name, patience)
	}
}

// lives reports whether the program runs.
func (p *program) lives() bool {
	select {
	case err := <-p.exited:
		p.exited <- err
		return false
	default:
		return p.process != nil
	}
}

// memory is the most that the program held, in bytes; its children are not in it.
func (p *program) memory() int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil && n == 1 {
			return kib << 10
		}
	}
	p.t.Fatalf("%s tells no VmHWM", p.name)
	return 0
}

// said is all that the program wrote.
func (p *program) said() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Error(err)
	}
	return string(text)
}

// lines are those that hold every word.
func (p *program) lines(words ...string) []string {
	var out []string
	for line := range strings.Lines(p.said()) {
		holds := true
		for _, word := range words {
			holds = holds && strings.Contains(line, word)
		}
		if holds {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// panics fails the test when a life of the program ended in one.
func (p *program) panics() {
	p.t.Helper()
	for _, word := range []string{"panic:", "fatal error:", "DATA RACE"} {
		if got := p.lines(word); len(got) > 0 {
			p.t.Errorf("%s: %s", p.name, got[0])
		}
	}
}

func tail(text string, n int) string { return text[max(0, len(text)-n):] }
