package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programArgs names the variable that makes TestTheProgram the program.
const programArgs = "LOCKSTEP_TEST_PROGRAM_ARGS"

// TestTheProgram is main, in the process that launch starts; in any other it has
// nothing to do.
func TestTheProgram(t *testing.T) {
	if args, asked := os.LookupEnv(programArgs); asked {
		os.Args = append(os.Args[:1], strings.Split(args, "\n")...)
		main()
	}
}

// program is the program in a process of its own.
type program struct {
	t   *testing.T
	cmd *exec.Cmd
	// lines is what it writes to stderr, closed when it has ended.
	lines <-chan string
}

// launch starts the program and ends it, if need be, when patience does.
func launch(t *testing.T, args ...string) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestTheProgram$")
	cmd.Env = append(os.Environ(), programArgs+"="+strings.Join(args, "\n"), "LOCKSTEP_SERVER_ADMIN_LISTEN=off")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(stderr); scanner.Scan(); {
			fmt.Fprintln(t.Output(), scanner.Text())
			lines <- scanner.Text()
		}
	}()
	p := &program{t: t, cmd: cmd, lines: lines}
	t.Cleanup(func() { cancel(); p.end() })
	return p
}

// says waits for a line with a text in it.
func (p *program) says(text string) string {
	p.t.Helper()
	for line := range p.lines {
		if strings.Contains(line, text) {
			return line
		}
	}
	p.t.Fatalf("it ended without saying %q", text)
	return ""
}

func (p *program) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Error(err)
	}
}

// end waits for the end and returns how it came and what was said until then.
func (p *program) end() (*os.ProcessState, string) {
	p.t.Helper()
	var said strings.Builder
	for line := range p.lines {
		fmt.Fprintln(&said, line)
	}
	if p.cmd.ProcessState == nil {
		// How it ended is in its state.
		_ = p.cmd.Wait()
	}
	return p.cmd.ProcessState, said.String()
}

func TestASignalWhileTheServerStartsEndsItInPeace(t *testing.T) {
	t.Parallel()
	// A ClickHouse that accepts and says nothing keeps the server starting.
	silent := listen(t)
	if err := silent.(*net.TCPListener).SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "server", "--data-dir", folder(t), "--listen", "127.0.0.1:0", "--clickhouse", "http://"+silent.Addr().String())
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	p.signal(syscall.SIGTERM)
	state, said := p.end()
	if !state.Success() {
		t.Errorf("it ended with %s", state)
	}
	if took := time.Since(began); took > drain {
		t.Errorf("it took %s", took)
	}
	mentions(t, said, "LS-SRV-007")
}

func TestASecondSignalKills(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := launch(t, "server", "--data-dir", dir, "--listen", "127.0.0.1:0")
	_, rest, found := strings.Cut(p.says("listen=http://"), "listen=http://")
	address, _, _ := strings.Cut(rest, " ")
	if !found || address == "" {
		t.Fatalf("it does not say where it listens: %s", rest)
	}
	p.says("msg=ready")
	// A request that hangs holds up the stop.
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST /lockstep.fleet.v1.FleetService/ListClusters HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n", strings.TrimSpace(string(token))); err != nil {
		t.Fatal(err)
	}
	// The server has begun to read it once it asks for the body.
	if _, err := io.ReadFull(conn, make([]byte, len("HTTP/1.1 100"))); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.says("msg=stopping")
	// The first signal has done its work a moment after it was told.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for open := true; open; {
		select {
		case _, open = <-p.lines:
		case <-tick.C:
			p.signal(syscall.SIGTERM)
		}
	}
	state, _ := p.end()
	if status, ok := state.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %s and was not killed", state)
	}
	// The engine's child lets go of its folder when it notices.
	lock, err := os.Open(filepath.Join(dir, "store", "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Error(err)
	}
}
