//go:build integration

package kube_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
)

// product is the built program with one configuration, as a person has it.
type product struct {
	t           *testing.T
	binary, dir string
	listen      string
}

// lockstep leaves a configuration, of which the caller writes what is about the
// fleet, in a folder of its own.
func lockstep(t *testing.T, fleet string) *product {
	t.Helper()
	binary, err := filepath.Abs(filepath.Join("..", "..", "bin", "lockstep"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("the binary under test is missing; `make build` makes it: %v", err)
	}
	p := &product{t: t, binary: binary, dir: t.TempDir(), listen: freeAddress(t)}
	text := fmt.Sprintf("server: {listen: %q, admin_listen: %q, data_dir: data}\n%s", p.listen, freeAddress(t), fleet)
	if err := os.WriteFile(p.file(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *product) file() string { return filepath.Join(p.dir, "fleet.yaml") }

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

// command is one of the product that ends with the test's own process, however that
// ends.
func (p *product) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.binary, args...)
	cmd.Dir = p.dir
	// What the surroundings say about other clusters, buses and engines is not for it.
	for _, name := range []string{"PATH", "HOME", "XDG_CACHE_HOME", "TMPDIR"} {
		if value, set := os.LookupEnv(name); set {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start starts a command and returns what tells of its end.
func start(t *testing.T, cmd *exec.Cmd) <-chan error {
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

// run runs a command and returns what it prints as data and as talk. Another exit
// code than the wanted one fails the test.
func (p *product) run(code int, args ...string) (out, talk string) {
	p.t.Helper()
	cmd := p.command(args...)
	var data, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &data, &words
	exited := start(p.t, cmd)
	select {
	case err := <-exited:
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			p.t.Fatal(err)
		}
	case <-time.After(limit):
		_ = cmd.Process.Kill()
		<-exited
		p.t.Errorf("lockstep %s: no end within %s", strings.Join(args, " "), limit)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("lockstep %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, &data, &words)
	}
	return data.String(), words.String()
}

// read runs a command that prints JSON and decodes it.
func (p *product) read(code int, into any, args ...string) {
	p.t.Helper()
	out, _ := p.run(code, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		p.t.Fatalf("lockstep %s: %v in\n%s", strings.Join(args, " "), err, out)
	}
}

// server is the product at work.
type server struct {
	*product
	process *os.Process
	exited  <-chan error
}

// serve starts the server and returns when it is ready.
func (p *product) serve() *server {
	p.t.Helper()
	s := &server{product: p}
	p.t.Cleanup(func() {
		if s.process != nil {
			s.kill()
		}
		if p.t.Failed() {
			p.t.Logf("the server's log:\n%s", s.said())
		}
	})
	s.start()
	return s
}

func (s *server) log() string { return filepath.Join(s.dir, "server.log") }

func (s *server) start() {
	s.t.Helper()
	out, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	cmd := s.command("server", "--config", s.file())
	cmd.Stdout, cmd.Stderr = out, out
	s.exited = start(s.t, cmd)
	s.process = cmd.Process
	eventually(s.t, func() error {
		req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.listen+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the server is not ready: %s", resp.Status)
		}
		return nil
	})
}

// kill ends the server as a power cut would.
func (s *server) kill() {
	s.t.Helper()
	select {
	case err := <-s.exited:
		s.t.Errorf("the server ended by itself: %v", err)
	default:
		if err := s.process.Kill(); err != nil {
			s.t.Error(err)
		}
		<-s.exited
	}
	s.process = nil
}

// stop asks the server to end and expects it to end well.
func (s *server) stop() {
	s.t.Helper()
	if err := s.process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.exited:
		s.process = nil
		if err != nil {
			s.t.Errorf("the server did not end well: %v", err)
		}
	case <-time.After(limit):
		s.t.Fatalf("the server did not end within %s", limit)
	}
}

// said is all that the server wrote.
func (s *server) said() string {
	s.t.Helper()
	text, err := os.ReadFile(s.log())
	if err != nil {
		s.t.Error(err)
	}
	return string(text)
}

// lines are those of the log that hold every word.
func (s *server) lines(words ...string) []string {
	s.t.Helper()
	var out []string
	for line := range strings.Lines(s.said()) {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// statuses are what somebody sees who leaves `status --watch` running.
type statuses struct {
	t       *testing.T
	changes <-chan *fleetv1.Cluster
	newest  map[string]*fleetv1.Cluster
	all     map[string][]string // the states of a cluster, one after the other
	talk    bytes.Buffer        // read only after the end of the command
	end     func()
}

// watch begins to watch.
func (s *server) watch() *statuses {
	s.t.Helper()
	w := &statuses{t: s.t, newest: make(map[string]*fleetv1.Cluster), all: make(map[string][]string)}
	cmd := s.command("status", "--watch", "-o", "json", "--config", s.file())
	// It is interrupted at the end, and its pipe is read to the end before.
	read, write, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, &w.talk
	exited := start(s.t, cmd)
	if err := write.Close(); err != nil {
		s.t.Error(err)
	}
	changes, done := make(chan *fleetv1.Cluster), make(chan struct{})
	w.changes = changes
	go func() {
		defer close(changes)
		for lines := bufio.NewScanner(read); lines.Scan(); {
			var c fleetv1.Cluster
			if err := protojson.Unmarshal(lines.Bytes(), &c); err != nil {
				s.t.Errorf("status --watch printed %q: %v", lines.Text(), err)
			}
			select {
			case changes <- &c:
			case <-done:
			}
		}
	}()
	ended := false
	w.end = func() {
		if ended {
			return
		}
		ended = true
		close(done)
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			s.t.Error(err)
		}
		if err := <-exited; err != nil {
			s.t.Errorf("status --watch did not end well: %v", err)
		}
		for range changes { // until the pipe has ended
		}
		if err := read.Close(); err != nil {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(w.end)
	return w
}

// becomes waits until it is recorded, at since or later, that a cluster is in a state
// for reasons with these words.
func (w *statuses) becomes(cluster, state string, since time.Time, words ...string) *fleetv1.Cluster {
	w.t.Helper()
	late := time.After(limit)
	for {
		c := w.newest[cluster]
		// Before it is recorded, a state is shown with the time of the last one.
		if c.GetState() == state && !c.GetSince().AsTime().Before(since) && reasons(c, words...) {
			return c
		}
		select {
		case c, open := <-w.changes:
			if !open {
				w.t.Fatalf("status --watch ended, and %s was %v", cluster, w.newest[cluster])
			}
			w.newest[c.GetId()] = c
			if told := w.all[c.GetId()]; len(told) == 0 || told[len(told)-1] != c.GetState() {
				w.all[c.GetId()] = append(told, c.GetState())
			}
		case <-late:
			w.t.Fatalf("%s did not become %s for %q within %s; it is %v", cluster, state, words, limit, w.newest[cluster])
		}
	}
}

// reasons reports whether a cluster's reasons hold all words.
func reasons(c *fleetv1.Cluster, words ...string) bool {
	why := strings.Join(c.GetReasons(), "; ")
	return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(why, word) })
}

// status is what `status` prints, by cluster.
func (s *server) status() map[string]*fleetv1.Cluster {
	s.t.Helper()
	var list []json.RawMessage
	s.read(0, &list, "status", "--config", s.file())
	out := make(map[string]*fleetv1.Cluster)
	for _, raw := range list {
		var c fleetv1.Cluster
		s.decode(raw, &c)
		out[c.GetId()] = &c
	}
	return out
}

// observed is what `observe` prints of all that was handed in.
func (s *server) observed(args ...string) []*observationv1.Record {
	s.t.Helper()
	out, _ := s.run(0, append([]string{"observe", "--since", "1h", "--follow=false", "-o", "json", "--config", s.file()}, args...)...)
	var records []*observationv1.Record
	for line := range strings.Lines(out) {
		var r observationv1.Record
		s.decode([]byte(line), &r)
		records = append(records, &r)
	}
	return records
}

func (p *product) decode(raw []byte, into proto.Message) {
	p.t.Helper()
	if err := protojson.Unmarshal(raw, into); err != nil {
		p.t.Fatalf("%v in\n%s", err, raw)
	}
}
