package chdb

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// The child's inherited files, after the three standard ones.
const (
	lifelineFD = 3
	statusFD   = 4
)

// statusFailed begins the line in which the child says on the status pipe why it
// ends; behind it come the error's kind and text. The other lines are stages.
const statusFailed = "failed: "

// Child is the body of the hidden command that Start runs: it parses the flags
// Start appended and serves until ctx ends or the parent is gone. The caller
// ends ctx on SIGTERM, and exits with 1 on an error.
func Child(ctx context.Context, args []string, log *slog.Logger) (err error) {
	status := os.NewFile(statusFD, "status")
	defer func() {
		if err != nil {
			// On one line, as the parent reads it. If the parent is gone, there
			// is nobody else to tell.
			text := strings.ReplaceAll(err.Error(), "\n", "; ")
			_, _ = fmt.Fprintf(status, "%s%s %s\n", statusFailed, errs.KindOf(err), text)
		}
		_ = status.Close()
	}()
	opts := ServeOptions{Lifeline: os.NewFile(lifelineFD, "lifeline"), Log: log}
	flags := flag.NewFlagSet("engine", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&opts.Library, "library", "", "path of libchdb.so")
	flags.StringVar(&opts.DataDir, "data-dir", "", "folder of the engine's data")
	flags.StringVar(&opts.Socket, "socket", "", "unix socket to listen on")
	flags.DurationVar(&opts.LockWait, "lock-wait", 0, "how long to wait for an older engine")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("read the engine's flags: %w (this command is started by the server, not by hand)", err)
	}
	opts.Reached = func(stage Stage) { _, _ = io.WriteString(status, string(stage)+"\n") }
	return Serve(ctx, opts)
}

// Serve opens the engine on opts.DataDir and answers on opts.Socket until ctx
// ends (then it finishes what is running, for at most 5 s, closes the engine
// and returns nil) or the lifeline does (then it returns ErrOrphaned at once).
// A process can call it once: the library cannot be unloaded.
func Serve(ctx context.Context, opts ServeOptions) error {
	opts = opts.withDefaults()
	if opts.Library == "" || opts.DataDir == "" || opts.Socket == "" {
		return errors.New("serve the ClickHouse engine: library, data folder and socket must all be given")
	}
	orphaned := watch(opts.Lifeline)

	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return unusable(opts.DataDir, err)
	}
	lock, err := lockData(ctx, orphaned, opts.DataDir, opts.LockWait)
	if err != nil {
		return err
	}
	defer lock.Close()

	opts.Reached(StageLoading)
	began := time.Now()
	lib, err := loadLibrary(opts.Library)
	if err != nil {
		return err
	}
	opts.Reached(StageOpening)
	loaded := time.Now()
	connections, err := newPool(lib, filepath.Join(opts.DataDir, "data"), opts.Connections, opts.Log.Error)
	if err != nil {
		return err
	}

	// The lock is held, so whoever left this socket file is gone.
	if err := os.Remove(opts.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the old socket of the ClickHouse engine: %w", err)
	}
	listener, err := net.Listen("unix", opts.Socket)
	if err != nil {
		return fmt.Errorf("listen for the ClickHouse engine's clients: %w", err)
	}
	if err := os.Chmod(opts.Socket, 0o600); err != nil {
		_ = listener.Close()
		return fmt.Errorf("make the ClickHouse engine's socket private: %w", err)
	}

	if err := giveBack(opts.Library); err != nil {
		opts.Log.Warn("the memory that the engine's start took is kept", "error", err.Error())
	}
	go connections.tidy(ctx)

	server := &http.Server{
		Handler: newHandler(connections, opts), ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelWarn),
		// Who connects and asks nothing does not hold a connection for ever.
		ReadHeaderTimeout: 10 * time.Second,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	opts.Log.Info("engine open", "load", loaded.Sub(began), "open", time.Since(loaded), "data_dir", opts.DataDir)
	opts.Reached(StageReady)

	select {
	case <-orphaned:
		_ = server.Close()
		return ErrOrphaned
	case err := <-served:
		return fmt.Errorf("serve the ClickHouse engine: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(drain); err != nil {
		_ = server.Close() // which ends the requests' contexts, and so their statements
	}
	closed := make(chan struct{})
	go func() { connections.close(); close(closed) }()
	select {
	case <-closed:
		return nil
	case <-orphaned:
		return ErrOrphaned
	case <-time.After(5 * time.Second):
		return errors.New("close the ClickHouse engine: a statement did not stop within 5 s; what was acknowledged is on disk")
	}
}

// unusable is the error of a data folder that cannot be created, written or
// locked.
func unusable(dir string, err error) error {
	return errs.New(errs.Invalid, "LS-ENG-008", "use the ClickHouse engine's data folder %s: %w; choose a folder on a disk of this machine that this user may write", dir, err)
}

// watch closes the returned channel when the lifeline ends.
func watch(lifeline *os.File) <-chan struct{} {
	ended := make(chan struct{})
	if lifeline == nil {
		return ended
	}
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, lifeline)
	}()
	return ended
}

// lockData takes the data folder's lock, which the kernel drops with the
// process. The file holds its owner's process id, for the error's text.
func lockData(ctx context.Context, orphaned <-chan struct{}, dir string, wait time.Duration) (*os.File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable(dir, err)
	}
	limit := time.NewTimer(wait)
	defer limit.Stop()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = file.Close()
			return nil, unusable(dir, err)
		}
		select {
		case <-again.C:
		case <-limit.C:
			holder, _ := io.ReadAll(io.LimitReader(file, 32))
			_ = file.Close()
			who := "another process"
			if pid := strings.TrimSpace(string(holder)); pid != "" {
				who = "process " + pid
			}
			return nil, errs.New(errs.Conflict, "LS-ENG-009", "lock the ClickHouse engine's data folder %s: %s holds it and did not let go within %s: stop that server, or give this one another data folder", dir, who, wait)
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("lock the ClickHouse engine's data folder %s: %w", dir, ctx.Err())
		case <-orphaned:
			_ = file.Close()
			return nil, ErrOrphaned
		}
	}
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return file, nil
}
