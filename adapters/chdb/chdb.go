// Package chdb runs the ClickHouse engine inside the product: it loads libchdb
// in a child process, serves ClickHouse's HTTP interface from there on a
// private unix socket, and keeps that child alive.
//
// It owns the library's discovery and unpacking, the binding to its C
// interface, the child (Child, Serve) and its supervisor (Start, Engine). It
// does not own tables, statements or the client: adapters/clickhouse speaks to
// the socket exactly as it speaks to a real server.
//
// The engine has a process of its own because it is half a gigabyte of C++: a
// crash there costs a restart and a retry, and never the server.
package chdb

import (
	"errors"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// ErrStopped is returned by an Engine that was stopped.
var ErrStopped = errors.New("the embedded ClickHouse engine was stopped")

// supported says whether the engine's library exists for this platform.
const supported = runtime.GOOS == "linux" && runtime.GOARCH == "amd64"

func errUnsupported() error {
	return errs.New(errs.Invalid, "LS-ENG-003", "the embedded ClickHouse engine runs on linux/amd64 only, this is %s/%s; "+serverInstead, runtime.GOOS, runtime.GOARCH)
}

// ErrOrphaned is returned by Serve when the process that started the child is
// gone.
var ErrOrphaned = errors.New("the process that started this ClickHouse engine has ended")

// ServeOptions say what a child serves, and where.
type ServeOptions struct {
	// Library is the path of libchdb.so.
	Library string
	// DataDir holds the engine's lock and its data; it is created with mode
	// 0700 when missing. One process at a time may serve it.
	DataDir string
	// Socket is the unix socket to listen on, created with mode 0600.
	Socket string
	// Lifeline is read until it ends: its end means that the parent died, and
	// Serve returns ErrOrphaned. Nil means no parent to outlive.
	Lifeline *os.File
	// Reached, if set, is called at each stage on the way.
	Reached func(Stage)
	// LockWait bounds the wait for an older child that still holds DataDir;
	// zero means 10 s.
	LockWait time.Duration
	// Connections is how many statements may run at once; zero means 8.
	Connections int
	// MaxBody bounds the data of one insert in bytes; zero means 64 MiB.
	MaxBody int64
	Log     *slog.Logger
}

func (o ServeOptions) withDefaults() ServeOptions {
	if o.LockWait == 0 {
		o.LockWait = 10 * time.Second
	}
	if o.Connections == 0 {
		o.Connections = 8
	}
	if o.MaxBody == 0 {
		o.MaxBody = 64 << 20
	}
	if o.Reached == nil {
		o.Reached = func(Stage) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Stage is how far a child has come. A child that dies tells by its stage what it
// died of.
type Stage string

// Every value Stage takes.
const (
	// StageLoading: it holds the data folder and maps the library.
	StageLoading Stage = "loading"
	// StageOpening: the library is mapped and opens the data.
	StageOpening Stage = "opening"
	// StageReady: the socket accepts requests.
	StageReady Stage = "ready"
)

// Options say how to start and keep an engine.
type Options struct {
	// Executable is the program that runs the child; empty means this very
	// program, even if its file was replaced since it started.
	Executable string
	// Args come before the flags that Child parses: the name of the hidden
	// command, for example.
	Args []string
	// Library is the path of libchdb.so, as FindLibrary gives it.
	Library string
	// DataDir is the folder the engine owns. Its path must leave room for a
	// socket's name: at most 90 bytes.
	DataDir string
	// LockWait is handed to the child; see ServeOptions.
	LockWait time.Duration
	// StartLimit bounds the time from a child's start until it serves; zero means
	// two minutes, of which it may wait LockWait. A child that takes longer is
	// killed.
	StartLimit time.Duration
	Log        *slog.Logger
}
