//go:build linux && amd64

package chdb

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// childCommand makes the test's binary an engine child, parentCommand a server
// with one, and faultCommand a process that faults beside an open engine.
const (
	childCommand  = "engine"
	parentCommand = "parent"
	faultCommand  = "fault"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case childCommand:
			os.Exit(runChild(os.Args[2:]))
		case parentCommand:
			os.Exit(runParent(os.Args[2:]))
		case faultCommand:
			os.Exit(runFault(os.Args[2:]))
		}
	}
	goleak.VerifyTestMain(m)
}

func runChild(args []string) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := Child(ctx, args, log); err != nil {
		log.Error("engine child failed", "error", err.Error())
		return 1
	}
	return 0
}

// runParent starts an engine, prints the child's process id and waits to be
// killed.
func runParent(args []string) int {
	engine, err := Start(context.Background(), Options{Args: []string{childCommand}, Library: args[0], DataDir: args[1]})
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	fmt.Println(engine.PID())
	<-engine.Done()
	return 0
}

// runFault opens an engine and then follows a nil pointer.
func runFault(args []string) (code int) {
	lib, err := loadLibrary(args[0])
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	conn, err := lib.connect(args[1])
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	defer conn.close()
	defer func() { fmt.Println("recovered:", recover()) }()
	map[string]*member{}["nobody"].spoiled = true
	return 1
}

// libraryPath is the engine library, which a test needs: without it the test
// fails.
func libraryPath(t testing.TB) string {
	t.Helper()
	path, err := FindLibrary(LibraryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func limited(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func startEngine(t testing.TB, dir string) *Engine {
	t.Helper()
	engine, err := Start(limited(t, time.Minute), Options{Args: []string{childCommand}, Library: libraryPath(t), DataDir: dir, LockWait: 200 * time.Millisecond, Log: testLog(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopEngine(t, engine) })
	return engine
}

func stopEngine(t testing.TB, engine *Engine) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := engine.Stop(ctx); err != nil && ctx.Err() != nil {
		t.Error(err)
	}
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// client speaks HTTP to an engine.
type client struct {
	t    testing.TB
	http *http.Client
}

func newClient(t testing.TB, dial func(context.Context, string, string) (net.Conn, error)) *client {
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 4}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{t: t, http: &http.Client{Transport: transport}}
}

type answer struct {
	status int
	code   string
	body   string
}

// post sends a body with URL parameters.
func (c *client) post(ctx context.Context, body string, params url.Values) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/?"+params.Encode(), strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return answer{status: res.StatusCode, code: res.Header.Get("X-ClickHouse-Exception-Code"), body: string(got)}, err
}

// must runs a statement and returns what it answers.
func (c *client) must(sql string, params ...string) string {
	c.t.Helper()
	values := url.Values{}
	for i := 0; i < len(params); i += 2 {
		values.Set(params[i], params[i+1])
	}
	got, err := c.post(limited(c.t, time.Minute), sql, values)
	if err != nil {
		c.t.Fatal(err)
	}
	if got.status != http.StatusOK {
		c.t.Fatalf("%s: %d %s", sql, got.status, got.body)
	}
	return got.body
}

// gone waits until a process has ended.
func gone(t testing.TB, pid int, limit time.Duration) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
	if err != nil || n != 1 {
		t.Fatalf("process %d still runs after %s (%v)", pid, limit, err)
	}
}
