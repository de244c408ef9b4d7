//go:build integration

package drift_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

// limit is how long something may take that takes seconds where nothing else runs.
const limit = 2 * time.Minute

// eventually waits until check has no complaint, or fails with the last one.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	late := time.After(limit)
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-late:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// freeAddress is one on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Addr().String()
}

// installation is the built program with one configuration, as a person has it.
type installation struct {
	dir    string
	listen string
	// of the server's life that goes on
	process *os.Process
	exited  <-chan error
}

func (in *installation) file() string { return filepath.Join(in.dir, "fleet.yaml") }
func (in *installation) log() string  { return filepath.Join(in.dir, "server.log") }

// command is one of the product that ends with the test's own process, however that
// ends.
func (in *installation) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = in.dir
	// What the surroundings say about other clusters, buses and engines is not for it.
	for _, name := range []string{"PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR"} {
		if value, set := os.LookupEnv(name); set {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// begin starts a command and returns what tells of its end.
func begin(t *testing.T, cmd *exec.Cmd) <-chan error {
	t.Helper()
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
		t.Fatal(err)
	}
	return exited
}

// run runs a command against the server and returns what it prints as data and as
// talk. Another exit code than the wanted one fails the test.
func (in *installation) run(t *testing.T, code int, args ...string) (out, talk string) {
	t.Helper()
	return in.feed(t, "", code, args...)
}

// feed runs a command that reads a text.
func (in *installation) feed(t *testing.T, text string, code int, args ...string) (out, talk string) {
	t.Helper()
	cmd := in.command(args...)
	var data, words bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), &data, &words
	exited := begin(t, cmd)
	select {
	case err := <-exited:
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
	case <-time.After(limit):
		_ = cmd.Process.Kill()
		<-exited
		t.Errorf("lockstep %s: no end within %s", strings.Join(args, " "), limit)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("lockstep %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, &data, &words)
	}
	return data.String(), words.String()
}

// read runs a command that prints one message as JSON.
func read[M proto.Message](t *testing.T, in *installation, code int, into M, args ...string) M {
	t.Helper()
	out, _ := in.run(t, code, append(args, "-o", "json")...)
	if err := protojson.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("lockstep %s: %v in\n%s", strings.Join(args, " "), err, out)
	}
	return into
}

// list runs a command that prints a list of messages as JSON.
func list[M any, P interface {
	*M
	proto.Message
}](t *testing.T, in *installation, args ...string) []P {
	t.Helper()
	out, _ := in.run(t, 0, append(args, "-o", "json")...)
	var raw []json.RawMessage
	if err := json.Unmarshal([]byte(out), &raw); err != nil {
		t.Fatalf("lockstep %s: %v in\n%s", strings.Join(args, " "), err, out)
	}
	all := make([]P, len(raw))
	for i, text := range raw {
		all[i] = new(M)
		if err := protojson.Unmarshal(text, all[i]); err != nil {
			t.Fatalf("lockstep %s: %v in\n%s", strings.Join(args, " "), err, text)
		}
	}
	return all
}

// start starts the server and returns when it is ready.
func (in *installation) start(t *testing.T) {
	t.Helper()
	out, err := os.OpenFile(in.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd := in.command("server", "--config", in.file())
	cmd.Stdout, cmd.Stderr = out, out
	in.exited = begin(t, cmd)
	in.process = cmd.Process
	eventually(t, func() error {
		select {
		case err := <-in.exited:
			in.process = nil
			t.Fatalf("the server ended before it was ready: %v\n%s", err, in.said(t))
		default:
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+in.listen+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the server is not ready: %s", resp.Status)
		}
		return nil
	})
}

// kill ends the server as a power cut would.
func (in *installation) kill(t *testing.T) {
	t.Helper()
	if in.process == nil {
		return
	}
	select {
	case err := <-in.exited:
		t.Errorf("the server ended by itself: %v", err)
	default:
		if err := in.process.Kill(); err != nil {
			t.Error(err)
		}
		<-in.exited
	}
	in.process = nil
}

// stop asks the server to end and expects it to end well.
func (in *installation) stop(t *testing.T) {
	t.Helper()
	if err := in.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-in.exited:
		in.process = nil
		if err != nil {
			t.Errorf("the server did not end well: %v", err)
		}
	case <-time.After(limit):
		t.Fatalf("the server did not end within %s", limit)
	}
}

// said is all that the server wrote.
func (in *installation) said(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(in.log())
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// watcher is somebody who leaves `status --watch` running.
type watcher struct {
	end func(*testing.T)

	mu      sync.Mutex
	newest  map[string]*fleetv1.Cluster
	changed chan struct{} // closed and replaced at each change
}

// watch begins to watch. What it prints is read until end is called.
func (in *installation) watch(t *testing.T) *watcher {
	t.Helper()
	w := &watcher{newest: make(map[string]*fleetv1.Cluster), changed: make(chan struct{})}
	cmd := in.command("status", "--watch", "-o", "json", "--config", in.file())
	// It is interrupted at the end, and its pipe is read to the end before.
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = to
	exited := begin(t, cmd)
	if err := to.Close(); err != nil {
		t.Error(err)
	}
	printed := make(chan error, 1)
	go func() { printed <- w.follow(bufio.NewScanner(from)) }()
	var once sync.Once
	w.end = func(t *testing.T) {
		once.Do(func() {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
			if err := errors.Join(<-exited, <-printed, from.Close()); err != nil {
				t.Errorf("status --watch did not end well: %v", err)
			}
		})
	}
	return w
}

func (w *watcher) follow(lines *bufio.Scanner) error {
	lines.Buffer(nil, 1<<20)
	var wrong error
	for lines.Scan() {
		var c fleetv1.Cluster
		var end struct{ Gone bool }
		// That a cluster is gone is no message of the API.
		err := errors.Join(protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(lines.Bytes(), &c), json.Unmarshal(lines.Bytes(), &end))
		if err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("it printed %q: %w", lines.Text(), err))
		}
		w.mu.Lock()
		if w.newest[c.GetId()] = &c; end.Gone {
			delete(w.newest, c.GetId())
		}
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
	}
	return errors.Join(wrong, lines.Err())
}

func (w *watcher) look(cluster string) (*fleetv1.Cluster, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.newest[cluster], w.changed
}

// becomes waits until it is recorded, at since or later, that a cluster is in a state
// for reasons with these words.
func (w *watcher) becomes(t *testing.T, cluster, state string, since time.Time, words ...string) *fleetv1.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		c, changed := w.look(cluster)
		// Before it is recorded, a state is shown with the time of the last one.
		if c.GetState() == state && !c.GetSince().AsTime().Before(since) && told(c.GetReasons(), words...) {
			return c
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s is not %s since %s for %q, but %v", cluster, state, since.UTC().Format(time.RFC3339Nano), words, c)
		}
	}
}

// told reports whether all words are somewhere in what was said.
func told(said []string, words ...string) bool {
	text := strings.Join(said, "\n")
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}
