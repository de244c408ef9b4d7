package story

import (
	"bytes"
	"context"
	"encoding/json"
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
	"time"
)

// server is the product under test, as a person would run it.
type server struct {
	binary string
	config string
	addr   string
	admin  string
	log    *os.File
	cmd    *exec.Cmd
	exited chan error
}

func newServer(binary, config, addr, admin, logPath string) (*server, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	return &server{binary: binary, config: config, addr: addr, admin: admin, log: log}, nil
}

// start runs the server and returns how long it took to be ready.
func (s *server) start(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	cmd := exec.Command(s.binary, "server", "--config", s.config)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start %s: %w", s.binary, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	s.cmd, s.exited = cmd, exited
	for {
		select {
		case err := <-exited:
			s.cmd = nil
			return 0, fmt.Errorf("the server ended before it was ready: %w; its log is %s", err, s.log.Name())
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for the server: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
		if status, _, err := s.get(ctx, s.addr, "/readyz"); err == nil && status == http.StatusOK {
			return time.Since(begun), nil
		}
	}
}

func (s *server) get(ctx context.Context, addr, path string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// kill ends the server as a power cut would and returns once its engine child
// is gone too.
func (s *server) kill(ctx context.Context) error {
	children, err := childrenOf(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if len(children) == 0 {
		return errors.New("the server has no engine child to outlive it")
	}
	if err := s.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill the server: %w", err)
	}
	if err := <-s.exited; err == nil {
		return errors.New("the server ended by itself before it was killed")
	}
	s.cmd = nil
	for _, child := range children {
		for alive(child) {
			select {
			case <-ctx.Done():
				return fmt.Errorf("engine child %d outlived the server that was killed: %w", child, ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// stop asks the server to end and expects it to end well.
func (s *server) stop() error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	err := <-s.exited
	s.cmd = nil
	if err != nil {
		return fmt.Errorf("the server did not stop cleanly: %w; its log is %s", err, s.log.Name())
	}
	return nil
}

// memory returns the resident bytes of the server and of its engine child.
func (s *server) memory() (server, engine int64, err error) {
	if server, err = resident(s.cmd.Process.Pid); err != nil {
		return 0, 0, err
	}
	children, err := childrenOf(s.cmd.Process.Pid)
	if err != nil {
		return 0, 0, err
	}
	for _, child := range children {
		bytes, err := resident(child)
		if err != nil {
			return 0, 0, err
		}
		engine += bytes
	}
	return server, engine, nil
}

// run runs a command of the binary and returns what it printed as data. The
// exit code is an error only when it is not among the wanted.
func (s *server) run(ctx context.Context, wanted []int, args ...string) ([]byte, int, error) {
	cmd := exec.CommandContext(ctx, s.binary, append(args, "--config", s.config)...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	code := cmd.ProcessState.ExitCode()
	for _, w := range wanted {
		if code == w {
			return out.Bytes(), code, nil
		}
	}
	return out.Bytes(), code, fmt.Errorf("lockstep %s: exit code %d (%w), wanted %v: %s%s", strings.Join(args, " "), code, err, wanted, talk.String(), out.String())
}

// read runs a command with -o json and decodes what it printed.
func (s *server) read(ctx context.Context, into any, args ...string) error {
	out, _, err := s.run(ctx, []int{0}, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("decode what lockstep %s printed: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func childrenOf(pid int) ([]int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	var out []int
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // The thread has ended meanwhile.
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", task, err)
			}
			out = append(out, child)
		}
	}
	return out, nil
}

// alive reports whether a process exists and is no zombie.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	return ok && !strings.HasPrefix(rest, "Z")
}

func resident(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read the memory of process %d: %q", pid, text)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// freeAddress returns a loopback address that nothing listened on just now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}
