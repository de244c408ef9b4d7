package traffic

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lockstep-fleet/lockstep/integration/lab/node"
)

const (
	// sessionLimit bounds the waits of one session besides its hold.
	sessionLimit = 10 * time.Second
	mistyped     = "mistyped"
)

// link is an open session to a target.
type link interface {
	// exchange sends a line and wants it back.
	exchange(line string) error
	// end finishes the session in good order.
	end() error
	// instance names the bastion instance that carries it.
	instance() string
	Close() error
}

// dial opens a session and makes the first exchange. An error comes with a
// link only when the bastion was reached and named itself; its text is what
// the user is told.
func dial(ctx context.Context, c Cluster, p plan) (link, error) {
	address, open := c.SSH, dialSSH
	if p.session.Path == Web {
		address, open = c.Web, dialWeb
	}
	password := node.Password
	if p.mistyped {
		password = mistyped
	}
	d := net.Dialer{Timeout: sessionLimit}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot connect: %w", plain(err))
	}
	// A session must not outlast the generator: its waits end with ctx.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(sessionLimit + p.hold*2))
	l, err := open(&stoppable{Conn: conn, stop: stop}, p.session, password)
	if err != nil {
		conn.Close()
		stop()
		return l, err
	}
	if err := l.exchange("hello"); err != nil {
		return l, err
	}
	return l, nil
}

// stoppable is a connection that unhooks itself from its context when closed.
type stoppable struct {
	net.Conn
	stop func() bool
}

func (s *stoppable) Close() error {
	s.stop()
	return s.Conn.Close()
}

var errClosed = errors.New("connection closed by the bastion")

// plain drops addresses from a network error, because they name this machine's
// ports and one cause should read the same each time, and says what an end of
// input means here.
func plain(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errClosed
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// sshConfig offers only what is cheap to compute; the handshake is most of
// what a session costs.
func sshConfig(user, password string) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		Config: ssh.Config{
			KeyExchanges: []string{ssh.KeyExchangeCurve25519},
			Ciphers:      []string{ssh.CipherAES128GCM},
		},
		User:              user,
		Auth:              []ssh.AuthMethod{ssh.Password(password)},
		HostKeyCallback:   ssh.InsecureIgnoreHostKey(), // the key is made anew at each start
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
	}
}

type sshLink struct {
	client  *ssh.Client
	session *ssh.Session
	in      io.WriteCloser
	out     *bufio.Reader
	told    strings.Builder // what the bastion wrote to stderr
}

func dialSSH(conn net.Conn, s Session, password string) (link, error) {
	c, channels, requests, err := ssh.NewClientConn(conn, conn.RemoteAddr().String(), sshConfig(s.User, password))
	if err != nil {
		return nil, fmt.Errorf("cannot log in: %w", plain(err))
	}
	l := &sshLink{client: ssh.NewClient(c, channels, requests)}
	if l.session, err = l.client.NewSession(); err != nil {
		return l, fmt.Errorf("cannot open a session: %w", plain(err))
	}
	l.session.Stderr = &l.told
	if l.in, err = l.session.StdinPipe(); err != nil {
		return l, err
	}
	out, err := l.session.StdoutPipe()
	if err != nil {
		return l, err
	}
	l.out = bufio.NewReader(out)
	if err := l.session.Setenv(node.SessionVariable, s.ID); err != nil {
		return l, fmt.Errorf("cannot open a session: %w", plain(err))
	}
	if err := l.session.Start(s.Target); err != nil {
		return l, fmt.Errorf("connection lost: %w", plain(err))
	}
	return l, nil
}

func (l *sshLink) exchange(line string) error {
	if _, err := fmt.Fprintln(l.in, line); err != nil {
		return l.reason(err)
	}
	back, err := l.out.ReadString('\n')
	if err != nil {
		return l.reason(err)
	}
	return same(back, line)
}

func (l *sshLink) end() error {
	if err := l.in.Close(); err != nil {
		return l.reason(err)
	}
	return l.session.Wait()
}

// reason finds why an exchange broke: the command ended with words on stderr,
// or the connection was lost.
func (l *sshLink) reason(broken error) error {
	err := l.session.Wait()
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s (exit status %d)", strings.TrimSpace(l.told.String()), exit.ExitStatus())
	}
	// The transport remembers what broke it; the channel only that it ended.
	if lost := l.client.Wait(); lost != nil && !errors.Is(lost, io.EOF) {
		return fmt.Errorf("connection lost: %w", plain(lost))
	}
	return fmt.Errorf("connection lost: %w", plain(broken))
}

func (l *sshLink) instance() string {
	name, ok := strings.CutPrefix(string(l.client.ServerVersion()), node.BannerPrefix)
	if !ok {
		return ""
	}
	return name
}

func (l *sshLink) Close() error { return l.client.Close() }

type webLink struct {
	conn net.Conn
	in   *bufio.Reader
	name string
}

func dialWeb(conn net.Conn, s Session, password string) (link, error) {
	credentials := base64.StdEncoding.EncodeToString([]byte(s.User + ":" + password))
	_, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nProxy-Authorization: Basic %s\r\n%s: %s\r\n\r\n",
		s.Target, s.Target, credentials, node.SessionHeader, s.ID)
	if err != nil {
		return nil, fmt.Errorf("connection lost: %w", plain(err))
	}
	l := &webLink{conn: conn, in: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(l.in, &http.Request{Method: http.MethodConnect})
	if err != nil {
		return nil, fmt.Errorf("connection lost: %w", plain(err))
	}
	l.name = resp.Header.Get(node.InstanceHeader)
	if resp.StatusCode == http.StatusOK {
		return l, nil
	}
	defer resp.Body.Close()
	var said struct{ Error string }
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.Error == "" {
		return l, fmt.Errorf("the web bastion answered %s", resp.Status)
	}
	return l, fmt.Errorf("%s (status %d)", said.Error, resp.StatusCode)
}

func (l *webLink) exchange(line string) error {
	if _, err := fmt.Fprintln(l.conn, line); err != nil {
		return fmt.Errorf("connection lost: %w", plain(err))
	}
	back, err := l.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("connection lost: %w", plain(err))
	}
	return same(back, line)
}

func (l *webLink) end() error       { return l.conn.Close() }
func (l *webLink) instance() string { return l.name }
func (l *webLink) Close() error     { return l.conn.Close() }

func same(back, line string) error {
	if got := strings.TrimSuffix(back, "\n"); got != line {
		return fmt.Errorf("sent %q and got %q back", line, got)
	}
	return nil
}
