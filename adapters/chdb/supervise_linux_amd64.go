package chdb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

// Pauses between restarts of a crashing child. One that served for steady times
// the pause before it is worth starting again at once; one that did not is waited
// for twice as long.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
	steady     = 5
)

// longestSocket is what fits into a unix socket's address, in bytes.
const longestSocket = 107

// Engine is a supervised child. All its methods may be called at any time and
// from any goroutine.
type Engine struct {
	opts   Options
	socket string
	log    *slog.Logger

	stop chan struct{} // closed by Stop
	kill chan struct{} // closed when Stop's patience ends
	done chan struct{} // closed when the supervisor has ended

	mu       sync.Mutex
	pid      int           // 0 when no child runs
	ready    chan struct{} // closed while the child serves; replaced at its end
	err      error         // why the child does not serve, as far as is known
	stopping sync.Once
	killing  sync.Once
}

// Start starts a child and returns once it serves, or with the reason why it
// does not: no such library, a data folder held by another server, or ctx.
// After that a child that ends is started again until Stop.
func Start(ctx context.Context, opts Options) (*Engine, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Executable == "" {
		opts.Executable = "/proc/self/exe"
	}
	dir, err := filepath.Abs(opts.DataDir)
	if err != nil {
		return nil, fmt.Errorf("start the ClickHouse engine: find its data folder: %w", err)
	}
	opts.DataDir = dir
	if opts.StartLimit == 0 {
		opts.StartLimit = 2 * time.Minute
	}
	socket := filepath.Join(dir, "engine.sock")
	if len(socket) > longestSocket {
		return nil, errs.New(errs.Invalid, "LS-ENG-007", "start the ClickHouse engine: the path of its socket %s has %d bytes and a socket's can have %d: choose a data folder with a shorter path", socket, len(socket), longestSocket)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unusable(dir, err)
	}
	e := &Engine{
		opts: opts, socket: socket, log: opts.Log,
		stop: make(chan struct{}), kill: make(chan struct{}), done: make(chan struct{}), ready: make(chan struct{}),
	}
	first := make(chan error, 1)
	go e.supervise(first)
	select {
	case err := <-first:
		if err != nil {
			<-e.done
			return nil, fmt.Errorf("start the ClickHouse engine: %w", err)
		}
		return e, nil
	case <-ctx.Done():
		e.killing.Do(func() { close(e.kill) })
		e.stopping.Do(func() { close(e.stop) })
		<-e.done
		return nil, fmt.Errorf("start the ClickHouse engine: %w", ctx.Err())
	}
}

// Socket is the path of the unix socket the child serves on.
func (e *Engine) Socket() string { return e.socket }

// PID is the child's process id, or 0 while none runs.
func (e *Engine) PID() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pid
}

// Done is closed when the engine has stopped for good.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Err says why no child serves right now, with the last words of the one before,
// or nil when one does.
func (e *Engine) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Ready waits until a child serves. Its error tells what the last child died
// of, when ctx ends first.
func (e *Engine) Ready(ctx context.Context) error {
	e.mu.Lock()
	ready := e.ready
	e.mu.Unlock()
	select {
	case <-ready:
		return nil
	default:
	}
	select {
	case <-ready:
		return nil
	case <-e.done:
		return ErrStopped
	case <-ctx.Done():
		err := e.Err()
		if err == nil {
			err = errors.New("it is coming up")
		}
		return fmt.Errorf("wait for the ClickHouse engine: %w: %w", ctx.Err(), err)
	}
}

// DialContext connects to the child, waiting while one is being restarted. Its
// shape is that of a net.Dialer's; network and address are ignored.
func (e *Engine) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var dialer net.Dialer
	for {
		if err := e.Ready(ctx); err != nil {
			return nil, err
		}
		conn, err := dialer.DialContext(ctx, "unix", e.socket)
		if err == nil {
			return conn, nil
		}
		// The child ended and the supervisor has not noticed yet.
		select {
		case <-time.After(20 * time.Millisecond):
		case <-e.done:
			return nil, ErrStopped
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to the ClickHouse engine: %w", err)
		}
	}
}

// Stop asks the child to finish what it runs and end, and kills it when ctx
// ends first. It returns when the child is gone.
func (e *Engine) Stop(ctx context.Context) error {
	e.stopping.Do(func() { close(e.stop) })
	select {
	case <-e.done:
		return nil
	case <-ctx.Done():
	}
	e.killing.Do(func() { close(e.kill) })
	<-e.done
	return fmt.Errorf("stop the ClickHouse engine: it was killed: %w", ctx.Err())
}

// supervise runs children one after the other. The outcome of the first start
// goes to first; a failure there is final.
func (e *Engine) supervise(first chan<- error) {
	// The kernel ties a child's death signal to the thread that started it, so
	// that thread has to live as long as the supervisor.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(e.done)
	started := false
	pauses := rtime.Backoff{First: firstPause, Max: lastPause}
	pause, deaths := firstPause, 0
	for {
		served, err := e.run(func() {
			if !started {
				started = true
				first <- nil
			}
		})
		if !started {
			e.setDown(err)
			first <- err
			return
		}
		select {
		case <-e.stop:
			e.setDown(ErrStopped)
			if err != nil {
				e.log.Warn("engine stopped with an error", "error", err.Error())
			}
			return
		default:
		}
		if served > steady*pause {
			pauses.Reset()
			deaths = 0
		}
		pause = pauses.Next()
		deaths++
		e.setDown(fmt.Errorf("%w; deaths in a row: %d, next start in %s", err, deaths, pause))
		e.log.Error("engine ended, starting it again", "error", err.Error(), "deaths_in_a_row", deaths, "pause", pause)
		select {
		case <-time.After(pause):
		case <-e.stop:
			e.setDown(ErrStopped)
			return
		}
	}
}

// run starts one child and returns when it has ended: how long it served, and why
// it ended.
func (e *Engine) run(up func()) (served time.Duration, err error) {
	lifelineRead, lifelineWrite, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make the child's lifeline: %w", err)
	}
	defer lifelineWrite.Close() // the end of the lifeline
	statusRead, statusWrite, err := os.Pipe()
	if err != nil {
		_ = lifelineRead.Close()
		return 0, fmt.Errorf("make the child's status pipe: %w", err)
	}
	defer statusRead.Close()

	args := append([]string{}, e.opts.Args...)
	args = append(args, "--library="+e.opts.Library, "--data-dir="+e.opts.DataDir, "--socket="+e.socket)
	if e.opts.LockWait > 0 {
		args = append(args, "--lock-wait="+e.opts.LockWait.String())
	}
	cmd := exec.Command(e.opts.Executable, args...)
	cmd.Args[0] = os.Args[0] // a name people know, in lists of processes
	cmd.Dir = e.opts.DataDir
	cmd.Env = childEnv()
	cmd.ExtraFiles = []*os.File{lifelineRead, statusWrite} // lifelineFD, statusFD
	// Its own process group, so that an interrupt typed at the terminal ends
	// the server first and the engine after it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	said := &tail{log: e.log}
	cmd.Stderr, cmd.Stdout = said, said
	err = cmd.Start()
	_ = lifelineRead.Close()
	_ = statusWrite.Close()
	if err != nil {
		return 0, fmt.Errorf("run %s: %w", e.opts.Executable, err)
	}
	e.mu.Lock()
	e.pid = cmd.Process.Pid
	e.mu.Unlock()

	var (
		ended, ready = make(chan struct{}), make(chan struct{})
		reading      sync.WaitGroup
		stage        Stage
		failed       string
		since        time.Time
		late         bool
	)
	reading.Go(func() {
		for lines := bufio.NewScanner(statusRead); lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), statusFailed); ok {
				failed = text
				continue
			}
			if stage = Stage(lines.Text()); stage == StageReady {
				since = time.Now()
				close(ready)
				e.setReady()
				up()
			}
		}
	})
	reading.Go(func() { late = e.end(cmd.Process, ready, ended) })
	err = cmd.Wait()
	close(ended)
	reading.Wait()
	if !since.IsZero() {
		served = time.Since(since)
	}

	select {
	case <-e.stop:
		if cmd.ProcessState.Success() {
			return served, nil
		}
	default:
	}
	if err == nil {
		err = errors.New("it gave no reason")
	}
	words := said.last()
	switch {
	case failed != "":
		return served, told(failed)
	case late:
		return served, errs.New(errs.Timeout, "LS-ENG-010", "the ClickHouse engine did not come up within %s and was killed%s", e.opts.StartLimit, words)
	case stage == StageLoading:
		return served, errs.New(errs.Invalid, "LS-ENG-002", "the ClickHouse engine's process ended while it loaded the library %s: %w%s; %s", e.opts.Library, err, words, otherLibrary)
	case stage == StageOpening:
		return served, errs.New(errs.Internal, "LS-ENG-012", "the ClickHouse engine's process ended while it opened the data in %s: %w%s; look for damaged files, a full disk or missing rights there", e.opts.DataDir, err, words)
	default:
		return served, errs.New(errs.Unavailable, "LS-ENG-011", "the ClickHouse engine's process ended: %w%s", err, words)
	}
}

// told is the error that a child told of: its kind and its text, which begins
// with its id when it has one.
func told(status string) error {
	kind, text, _ := strings.Cut(status, " ")
	if id, rest, ok := strings.Cut(text, ": "); ok && strings.HasPrefix(id, "LS-") {
		return errs.New(errs.Kind(kind), id, "%s", rest)
	}
	return errs.New(errs.Kind(kind), "", "%s", text)
}

// end carries Stop's wishes to the child until it has ended, and kills one that
// is not ready in time: then it is late.
func (e *Engine) end(process *os.Process, ready, ended <-chan struct{}) (late bool) {
	limit := time.NewTimer(e.opts.StartLimit)
	defer limit.Stop()
	select {
	case <-ended:
		return false
	case <-limit.C:
		_ = process.Kill() // an ended process needs no signal
		return true
	case <-ready:
		select {
		case <-ended:
			return false
		case <-e.stop:
		}
	case <-e.stop:
	}
	_ = process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-e.kill:
		_ = process.Kill()
	}
	return false
}

func (e *Engine) setReady() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = nil
	close(e.ready)
}

// setDown records why no child serves and makes later callers of Ready wait.
func (e *Engine) setDown(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pid = 0
	e.err = err
	select {
	case <-e.ready:
		e.ready = make(chan struct{})
	default:
	}
}

// childEnv is what the child needs of the environment: the rest may hold
// secrets that are none of its business.
func childEnv() []string {
	env := []string{}
	for _, name := range []string{"TZ", "TMPDIR", "LANG", "GOTRACEBACK"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// tail logs what a child prints, line by line, and keeps the last lines for
// the error that tells why it died.
type tail struct {
	log   *slog.Logger
	mu    sync.Mutex
	part  string
	lines []string
}

const tailLines = 8

var _ io.Writer = (*tail)(nil)

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part += string(p)
	for {
		line, rest, found := strings.Cut(t.part, "\n")
		if !found {
			if len(t.part) > 64<<10 {
				t.part = "" // no line ends here; do not collect without limit
			}
			return len(p), nil
		}
		t.part = rest
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		t.log.Info("engine says", "line", line)
		t.lines = append(t.lines, line)
		if len(t.lines) > tailLines {
			t.lines = t.lines[1:]
		}
	}
}

func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return ""
	}
	return "; its last words: " + strings.Join(t.lines, " | ")
}
