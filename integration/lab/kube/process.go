package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// process is one program of the control plane. Its death is tied to this
// process's: the kernel kills it when the thread that started it ends.
type process struct {
	name    string
	log     string
	process *os.Process
	exited  chan struct{}
	exitErr error // read only after exited is closed
	told    bool  // somebody was told that it ended by itself
}

// run starts a program; what it says goes to a log of its name in dir.
func run(dir, path string, args ...string) (*process, error) {
	p := &process{name: filepath.Base(path), exited: make(chan struct{})}
	p.log = filepath.Join(dir, p.name+".log")
	// A second start, after a stop, goes on in the same log.
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	// What the surroundings say about other clusters and proxies is not for these.
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the starting thread ends, so that thread is kept
		// for as long as the program lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.exitErr = cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("run %s: %w", p.name, err)
	}
	p.process = cmd.Process
	return p, nil
}

// kill ends the program at once, as a crash would, and waits until it is gone.
// That it had ended before is an error, told once: nobody asked it to.
func (p *process) kill() error {
	select {
	case <-p.exited:
		if p.told {
			return nil
		}
		return p.gone()
	default:
	}
	if err := p.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}

func (p *process) gone() error {
	p.told = true
	return fmt.Errorf("%s exited (%w); its last words, of %s:\n%s", p.name, p.exitErr, p.log, p.words())
}

func (p *process) words() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return tail(string(b), 15)
}

// await returns once ready succeeds, or with the program's own last words when
// it exits or ctx ends.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return p.gone()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its last words, of %s:\n%s", p.name, err, p.log, p.words())
		case <-tick.C:
		}
	}
}

// acquire takes the file's lock, waiting for another run until ctx ends. The
// kernel releases it when this process ends, however it ends.
func acquire(ctx context.Context, path string, log *slog.Logger) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !told {
			told = true
			log.Info("another run holds the lab's Kubernetes; waiting for it to finish", "lock", path)
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another run to release %s: %w", path, ctx.Err()), f.Close())
		case <-tick.C:
		}
	}
}
