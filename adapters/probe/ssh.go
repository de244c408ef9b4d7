package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/lockstep-fleet/lockstep/adapters/probe/internal/reach"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// SSH says who logs in, which host key to expect, and what to run. The files are
// read anew at each Check: certificates that live for an hour are replaced under a
// probe that runs for months.
type SSH struct {
	User string
	// KeyFile holds a private key without passphrase, in any form that ssh-keygen
	// writes.
	KeyFile string
	// CertificateFile holds an OpenSSH certificate for that key. With it nothing
	// else is offered, so that a login shows that certificates work.
	CertificateFile string

	// Exactly one of these three says which host key is right.
	HostKey         string // a public key as in a .pub file
	KnownHostsFile  string // as OpenSSH keeps it, @cert-authority and @revoked included
	InsecureHostKey bool   // any

	// Command is run after the login and must end with status 0; empty means true.
	Command string
}

const (
	defaultCommand = "true"
	// maxOutput bounds what a command may write, in bytes; a command that writes
	// more is not one for a probe.
	maxOutput = 64 << 10
	// lastTime is the last second that people write down, the end of year 9999: a
	// certificate that is good for longer has no end.
	lastTime = 253402300799
	// maxHeard bounds what is kept of the server's first words.
	maxHeard = 255
)

// credentials are what the files held at one instant.
type credentials struct {
	signer     ssh.Signer
	expires    time.Time // of the certificate, zero when it has no end or there is none
	hostKey    ssh.HostKeyCallback
	algorithms []string // of the host key, to ask for
}

// load reads the files. The address is the one that the host key belongs to.
func (s *SSH) load(address string) (*credentials, error) {
	if s.User == "" {
		return nil, errs.New(errs.Invalid, "LS-PRB-007", "a probe of kind ssh needs a user to log in as")
	}
	text, err := os.ReadFile(s.KeyFile)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-PRB-002", "the private key cannot be read: %w; give a file that this user may read", err)
	}
	c := new(credentials)
	c.signer, err = ssh.ParsePrivateKey(text)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, errs.New(errs.Invalid, "LS-PRB-002", "the private key in %s has a passphrase, and a probe has nobody to ask; give a key without one", s.KeyFile)
	} else if err != nil {
		return nil, errs.New(errs.Invalid, "LS-PRB-002", "no private key is in %s (%w); ssh-keygen makes one", s.KeyFile, err)
	}
	if signer, ok := c.signer.(ssh.AlgorithmSigner); ok && signer.PublicKey().Type() == ssh.KeyAlgoRSA {
		if c.signer, err = ssh.NewSignerWithAlgorithms(signer, algorithms(ssh.KeyAlgoRSA)); err != nil {
			return nil, errs.New(errs.Invalid, "LS-PRB-002", "the private key in %s cannot sign as is asked for today: %w", s.KeyFile, err)
		}
	}
	if s.CertificateFile != "" {
		if err := c.certify(s.CertificateFile); err != nil {
			return nil, err
		}
	}
	return c, c.expect(s, address)
}

// certify puts the certificate in the key's place.
func (c *credentials) certify(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return errs.New(errs.Invalid, "LS-PRB-003", "the certificate cannot be read: %w; give a file that this user may read", err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	certificate, ok := public.(*ssh.Certificate)
	if err != nil || !ok {
		return errs.New(errs.Invalid, "LS-PRB-003", "no OpenSSH certificate is in %s; it holds one line that begins like ssh-ed25519-cert-v01@openssh.com", file)
	}
	if certificate.CertType != ssh.UserCert {
		return errs.New(errs.Invalid, "LS-PRB-003", "the certificate in %s is for a host; a probe logs in as a user", file)
	}
	if c.signer, err = ssh.NewCertSigner(certificate, c.signer); err != nil {
		return errs.New(errs.Invalid, "LS-PRB-003", "the certificate in %s is for another key than the private key", file)
	}
	if certificate.ValidBefore <= lastTime {
		c.expires = time.Unix(int64(certificate.ValidBefore), 0)
	}
	return nil
}

// expect prepares the judgement of the host key.
func (c *credentials) expect(s *SSH, address string) error {
	said := 0
	for _, one := range []bool{s.HostKey != "", s.KnownHostsFile != "", s.InsecureHostKey} {
		if one {
			said++
		}
	}
	switch {
	case said != 1:
		return errs.New(errs.Invalid, "LS-PRB-004", "%d of host_key, known_hosts_file and insecure_host_key are given; exactly one must say which host key is right", said)
	case s.InsecureHostKey:
		// People asked for it by name.
		c.hostKey, c.algorithms = ssh.InsecureIgnoreHostKey(), ssh.SupportedAlgorithms().HostKeys
	case s.HostKey != "":
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
		if err != nil {
			return errs.New(errs.Invalid, "LS-PRB-005", "the host key is not one; it is a line of type and base64, as ssh-keyscan prints it after the name")
		}
		c.hostKey, c.algorithms = ssh.FixedHostKey(key), algorithms(key.Type())
	default:
		return c.know(s.KnownHostsFile, address)
	}
	return nil
}

// know expects what a known_hosts file says of the address.
func (c *credentials) know(file, address string) error {
	known, err := knownhosts.New(file)
	if err != nil {
		return errs.New(errs.Invalid, "LS-PRB-005", "the file of known hosts cannot be used: %w; mend the line, or make the file anew with ssh-keyscan", err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return errs.New(errs.Invalid, "LS-PRB-005", "the file of known hosts cannot be used: %w", err)
	}
	address = strings.ToLower(address) // as OpenSSH does; names in the file are written so
	lines := bytes.Split(text, []byte("\n"))
	// The library compares names with the address as it was dialled; the peer's own
	// address says nothing then, and need not be one of TCP.
	unnamed := &net.TCPAddr{}
	c.hostKey = func(_ string, _ net.Addr, key ssh.PublicKey) error {
		err := known(address, unnamed, key)
		if certificate, ok := key.(*ssh.Certificate); ok && err != nil {
			// As OpenSSH does: a certificate that nobody vouches for is still a key.
			return known(address, unnamed, certificate.Key)
		}
		return err
	}
	// A server shows one key, of the type that is asked for first: it must be one
	// of those that are known, or a known server would look like a stranger.
	var want *knownhosts.KeyError
	if !errors.As(known(address, unnamed, stranger{}), &want) || len(want.Want) == 0 {
		return errs.New(errs.Invalid, "LS-PRB-005", "%s says nothing of %s; add its line with ssh-keyscan, or one of @cert-authority", file, knownhosts.Normalize(address))
	}
	vouched := false
	for _, line := range want.Want {
		if line.Line <= len(lines) && bytes.HasPrefix(bytes.TrimSpace(lines[line.Line-1]), []byte("@cert-authority")) {
			vouched = true
		} else {
			c.algorithms = append(c.algorithms, algorithms(line.Key.Type())...)
		}
	}
	if vouched {
		c.algorithms = append(certificates(), c.algorithms...)
	}
	return nil
}

// stranger is a key that no file knows.
type stranger struct{}

func (stranger) Type() string                        { return "stranger" }
func (stranger) Marshal() []byte                     { return nil }
func (stranger) Verify([]byte, *ssh.Signature) error { return errors.New("nobody's key") }

// algorithms are those that a host with a key of this type can sign with.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512}
	}
	return []string{keyType}
}

// certificates are the algorithms of host certificates.
func certificates() []string {
	return slices.DeleteFunc(ssh.SupportedAlgorithms().HostKeys, func(name string) bool { return !strings.Contains(name, "-cert-") })
}

// missing is the finding that a file which was there at the start is not usable
// any more.
func missing(err error) error { return reach.Found(fleet.FailureSetup, "%w", err) }

// login goes all the way and says what answered.
func (p *Probe) login(ctx context.Context, trail *reach.Trail) (string, error) {
	with, err := p.options.SSH.load(p.options.Address)
	if err != nil {
		return "", missing(err)
	}
	if !with.expires.IsZero() {
		trail.Expires(with.expires)
	}
	conn, err := reach.Open(ctx, p.options.Dial, p.options.Address, trail)
	if err != nil {
		return "", err
	}
	trail.Enter(reach.PartHandshake)
	server := &listener{Conn: conn}
	var strange error // what was wrong with the host key
	// As today's clients do, nothing is offered that is known to be weak: a server
	// that needs it is one that people cannot use either.
	today := ssh.SupportedAlgorithms()
	config := &ssh.ClientConfig{
		Config: ssh.Config{KeyExchanges: today.KeyExchanges, Ciphers: today.Ciphers, MACs: today.MACs},
		User:   p.options.SSH.User,
		Auth:   []ssh.AuthMethod{ssh.PublicKeys(with.signer)},
		HostKeyCallback: func(hostname string, remote net.Addr, key ssh.PublicKey) error {
			if strange = with.hostKey(hostname, remote, key); strange != nil {
				strange = fmt.Errorf("the server shows %s %s: %w", key.Type(), ssh.FingerprintSHA256(key), strange)
				return strange
			}
			trail.Leave(reach.PartHandshake)
			trail.Enter(reach.PartLogin)
			return nil
		},
		HostKeyAlgorithms: with.algorithms,
	}
	link, channels, requests, err := ssh.NewClientConn(server, p.options.Address, config)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return "", err
	case strange != nil:
		return "", reach.Found(fleet.FailureHostKey, "%w", strange)
	default:
		return "", p.refusal(err, trail.Part(), server, with)
	}
	trail.Leave(reach.PartLogin)
	client := ssh.NewClient(link, channels, requests)
	trail.Enter(reach.PartCommand)
	if err := p.run(ctx, client); err != nil {
		return "", err
	}
	trail.Leave(reach.PartCommand)
	return fmt.Sprintf("%s, logged in as %s", link.ServerVersion(), p.options.SSH.User), nil
}

// refusal sorts out why a server that could be reached let nobody in.
func (p *Probe) refusal(err error, part reach.Part, server *listener, with *credentials) error {
	if none, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); ok {
		usable := func(name string) bool { return slices.Contains(ssh.SupportedAlgorithms().HostKeys, name) }
		if none.What == "host key" && slices.ContainsFunc(none.RequestedAlgorithms, usable) {
			return reach.Found(fleet.FailureHostKey, "the server has no host key of an expected type: expected %v, it has %v", none.SupportedAlgorithms, none.RequestedAlgorithms)
		}
		return reach.Found(fleet.FailureLegacySSH, "no common algorithm for %s; the server offers only %v", none.What, none.RequestedAlgorithms)
	}
	if part == reach.PartLogin {
		return p.denial(err, with)
	}
	heard, reset := server.said()
	switch {
	case strings.HasPrefix(heard, "SSH-") && reset:
		return reach.Found(fleet.FailureTooManyOpen, "reset after the server said its version: %w", err)
	case strings.HasPrefix(heard, "SSH-") || strings.Contains(heard, "\nSSH-"):
		return reach.Found(fleet.FailureHandshake, "%w", err)
	case strings.Contains(heard, "MaxStartups"), strings.Contains(heard, "Not allowed at this time"):
		return reach.Found(fleet.FailureTooManyOpen, "the server said %q instead of its version", reach.Clean(heard))
	case heard == "":
		return reach.Found(fleet.FailureUnreachable, "closed before it said its version: nothing behind it, or sshd at MaxStartups: %w", err)
	}
	return reach.Found(fleet.FailureHandshake, "not an SSH server: it says %q", reach.Clean(heard))
}

// denial is a refusal after the handshake.
func (p *Probe) denial(err error, with *credentials) error {
	// The library has no types for these; its tests hold their words.
	switch said := err.Error(); {
	case strings.Contains(said, "no common public key signature algorithm"):
		return reach.Found(fleet.FailureLegacySSH, "%w", err)
	case strings.Contains(said, "unable to authenticate"), strings.Contains(said, "ssh: disconnect"):
		if now := p.options.Now(); !with.expires.IsZero() && !now.Before(with.expires) {
			return reach.Found(fleet.FailureAuth, "the certificate ended %s: %w", with.expires.UTC().Format(time.RFC3339), err)
		}
		return reach.Found(fleet.FailureAuth, "%w", err)
	}
	return err
}

// run runs the command.
func (p *Probe) run(ctx context.Context, client *ssh.Client) error {
	session, err := client.NewSession()
	if refused, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
		if refused.Reason == ssh.ResourceShortage {
			return reach.Found(fleet.FailureTooManyOpen, "logged in, and no session is opened: %w", err)
		}
		return reach.Found(fleet.FailureCommand, "logged in, and no session is opened: %w", err)
	} else if err != nil {
		return lost(ctx, err)
	}
	output := &output{full: func() { client.Close() }}
	session.Stdout, session.Stderr = output, output
	command := p.options.SSH.Command
	if command == "" {
		command = defaultCommand
	}
	err = session.Run(command)
	if said := output.said(); len(said) >= maxOutput {
		return reach.Found(fleet.FailureCommand, "the command writes %d bytes or more", maxOutput)
	} else if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		return reach.Found(fleet.FailureCommand, "the command ended with status %d: %s", exit.ExitStatus(), said)
	}
	if err != nil && strings.HasSuffix(err.Error(), " failed") {
		return reach.Found(fleet.FailureCommand, "the server does not run the command")
	} else if err != nil {
		return lost(ctx, err)
	}
	return nil
}

// lost is the end of a connection on which somebody was logged in.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return reach.Found(fleet.FailureLost, "logged in, and the connection broke: %w", err)
}

// listener keeps the first words of a server, and whether it reset the connection:
// the kernel says so once, to whoever reads or writes next, and the library may
// then tell of the other side, which finds the connection closed.
type listener struct {
	net.Conn
	mu    sync.Mutex
	heard []byte
	reset bool
}

func (l *listener) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	l.keep(b[:n], err)
	return n, err
}

func (l *listener) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	l.keep(nil, err)
	return n, err
}

func (l *listener) keep(heard []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, heard[:min(len(heard), maxHeard-len(l.heard))]...)
	l.reset = l.reset || errors.Is(err, syscall.ECONNRESET)
}

func (l *listener) said() (heard string, reset bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.heard), l.reset
}

// output keeps what a command writes, up to a limit; then it calls full.
type output struct {
	full func()
	mu   sync.Mutex
	kept []byte
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := maxOutput - len(o.kept); len(b) >= room {
		o.kept = append(o.kept, b[:room]...)
		o.full()
		return room, errors.New("the command writes too much")
	}
	o.kept = append(o.kept, b...)
	return len(b), nil
}

func (o *output) said() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.kept)
}
