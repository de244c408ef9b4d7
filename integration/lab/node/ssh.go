package node

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

// handshakeLimit bounds a client that connects and then says nothing.
const handshakeLimit = 10 * time.Second

func (n *Node) sshConfig() (*ssh.ServerConfig, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a host key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a host key: %w", err)
	}
	config := &ssh.ServerConfig{
		ServerVersion: BannerPrefix + n.cfg.Instance,
		PasswordCallback: func(meta ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if string(password) != Password {
				return nil, fmt.Errorf("wrong password for %s", meta.User())
			}
			return nil, nil
		},
	}
	config.AddHostKey(signer)
	return config, nil
}

func (n *Node) serveSSH(ctx context.Context, config *ssh.ServerConfig) error {
	// A session that is open when the node stops may still ask the gateway.
	ctx = context.WithoutCancel(ctx)
	for {
		conn, err := n.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		done, ok := n.track(conn)
		if !ok {
			conn.Close()
			return nil
		}
		go func() {
			defer done()
			n.serveSSHConn(ctx, conn, config)
		}()
	}
}

func (n *Node) serveSSHConn(ctx context.Context, conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(handshakeLimit))
	sc, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		// A port probe or a wrong password: the other side knows.
		n.log.Debug("no SSH session", "error", err)
		return
	}
	defer sc.Close()
	conn.SetDeadline(time.Time{})
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "only sessions are served here")
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		n.serveSSHSession(ctx, conn, sc.User(), channel, requests)
	}
}

// serveSSHSession answers one channel's requests: the session's id as an
// environment variable, then a command that names the target. The command
// echoes lines until its input ends.
func (n *Node) serveSSHSession(ctx context.Context, conn net.Conn, user string, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	a := authorization{User: user}
	for r := range requests {
		switch r.Type {
		case "env":
			var pair struct{ Name, Value string }
			ok := ssh.Unmarshal(r.Payload, &pair) == nil && pair.Name == SessionVariable
			if ok {
				a.Session = pair.Value
			}
			reply(r, ok)
		case "exec":
			var command struct{ Target string }
			if ssh.Unmarshal(r.Payload, &command) != nil || a.Session == "" {
				reply(r, false)
				return
			}
			a.Target = command.Target
			if Fails(a.Session, n.cfg.FailPercent) {
				reset(conn)
				return
			}
			reply(r, true)
			go ssh.DiscardRequests(requests)
			status := uint32(0)
			if err := n.authorize(ctx, a); err != nil {
				fmt.Fprintln(channel.Stderr(), err)
				status = 1
			} else if err := echoLines(channel, channel); err != nil {
				return
			}
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
			return
		default:
			reply(r, false)
		}
	}
}

func reply(r *ssh.Request, ok bool) {
	if r.WantReply {
		_ = r.Reply(ok, nil) // A peer that has gone needs no answer.
	}
}

// echoLines writes every line back as it arrives and returns nil at the end of
// the input.
func echoLines(w io.Writer, r io.Reader) error {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
