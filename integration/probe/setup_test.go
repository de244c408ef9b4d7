//go:build integration

package probe_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshd is where Debian's openssh-server has it; it insists on being called by its
// whole path.
const sshd = "/usr/sbin/sshd"

// login is the user that runs the tests, the only one that every sshd can log in.
var login string

func TestMain(m *testing.M) { os.Exit(prepare(m)) }

func prepare(m *testing.M) int {
	me, err := user.Current()
	if err == nil {
		login = me.Username
		err = install(context.Background())
	}
	if err == nil {
		// For the part of sshd that has no rights; Debian makes it at each boot.
		err = os.MkdirAll("/run/sshd", 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// install makes sshd available, from Debian's packages where it is missing.
func install(ctx context.Context) error {
	if _, err := os.Stat(sshd); err == nil {
		return nil
	}
	for _, args := range [][]string{
		{"update", "-q"},
		{"install", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "--no-install-recommends", "openssh-server"},
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		// The program is wanted, and no server on port 22 of this machine: the last
		// two keep both kinds of init from starting one.
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_OFFLINE=1", "RUNLEVEL=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("install openssh-server: apt-get %s: %w\n%s", args[0], err, out)
		}
	}
	if _, err := os.Stat(sshd); err != nil {
		return fmt.Errorf("install openssh-server: apt-get succeeded, and: %w", err)
	}
	return nil
}

// key is one SSH key, in a file and in memory.
type key struct {
	signer ssh.Signer
	file   string
}

func newKey(t *testing.T) key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keep(t, private)
}

// keep puts a private key in a file, as ssh-keygen does.
func keep(t *testing.T, private any) key {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	k := key{signer, write(t, "key", string(pem.EncodeToMemory(block)))}
	if err := os.WriteFile(k.file+".pub", []byte(k.line()), 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k key) line() string { return string(ssh.MarshalAuthorizedKey(k.signer.PublicKey())) }

// certify returns a file with a certificate of this authority.
func (k key) certify(t *testing.T, of key, kind uint32, ends time.Time, name string) string {
	t.Helper()
	c := &ssh.Certificate{
		Key: of.signer.PublicKey(), CertType: kind, KeyId: "probe", ValidPrincipals: []string{name},
		ValidAfter: uint64(ends.Add(-24 * time.Hour).Unix()), ValidBefore: uint64(ends.Unix()),
	}
	if err := c.SignCert(rand.Reader, k.signer); err != nil {
		t.Fatal(err)
	}
	return write(t, "key-cert.pub", string(ssh.MarshalAuthorizedKey(c)))
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// server is a running sshd.
type server struct {
	address string
	process *os.Process
}

// start runs an sshd on loopback with these lines of configuration, until the test
// ends.
func start(t *testing.T, host key, lines ...string) *server {
	t.Helper()
	common := []string{
		"HostKey " + host.file, "PidFile none", "UsePAM no", "StrictModes no", "PermitRootLogin yes", "PasswordAuthentication no",
		"KbdInteractiveAuthentication no", "AuthorizedKeysFile none", "LogLevel VERBOSE",
	}
	for range 5 {
		s, err := try(t, free(t), append(lines, common...))
		if err == nil {
			return s
		}
		if !strings.Contains(err.Error(), "Address already in use") {
			t.Fatal(err)
		}
	}
	t.Fatal("no port stayed free for an sshd")
	return nil
}

// free returns an address that was free a moment ago: sshd takes no port 0.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func try(t *testing.T, address string, lines []string) (*server, error) {
	t.Helper()
	config := write(t, "sshd_config", strings.Join(append(lines, "ListenAddress "+address, ""), "\n"))
	cmd := exec.Command(sshd, "-D", "-e", "-f", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	read, written, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = written
	started, exited := make(chan error, 1), make(chan error, 1)
	go func() {
		// Pdeathsig fires when the starting thread ends, so that thread is kept for as
		// long as the server lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		written.Close()
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, read.Close())
	}
	stop := func() {
		_ = cmd.Process.Kill()
		<-exited
		read.Close()
	}
	var said strings.Builder
	words := bufio.NewScanner(read)
	for words.Scan() {
		said.WriteString(words.Text() + "\n")
		if strings.HasPrefix(words.Text(), "Server listening on") {
			go func() { _, _ = io.Copy(io.Discard, read) }()
			t.Cleanup(stop)
			return &server{address, cmd.Process}, nil
		}
	}
	stop()
	return nil, fmt.Errorf("sshd did not start; it said:\n%s", said.String())
}
