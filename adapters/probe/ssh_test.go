package probe_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/lockstep-fleet/lockstep/adapters/probe"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

// identity is one SSH key, in a file and in memory.
type identity struct {
	signer ssh.Signer
	file   string
}

func newIdentity(t *testing.T) identity {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return identify(t, key)
}

func identify(t *testing.T, key any) identity {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{signer, write(t, string(pem.EncodeToMemory(block)))}
}

// rsaIdentity is made once: RSA keys take long.
var rsaIdentity = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newRSA(t *testing.T) ssh.Signer {
	t.Helper()
	key, err := rsaIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identify(t, key).signer
}

func (i identity) line() string { return string(ssh.MarshalAuthorizedKey(i.signer.PublicKey())) }

// certify signs the key and returns the certificate as a file holds it.
func (i identity) certify(t *testing.T, key ssh.PublicKey, kind uint32, ends uint64, names ...string) *ssh.Certificate {
	t.Helper()
	c := &ssh.Certificate{
		Key: key, CertType: kind, KeyId: "probe", ValidPrincipals: names, ValidAfter: 0, ValidBefore: ends,
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-pty": ""}},
	}
	if err := c.SignCert(rand.Reader, i.signer); err != nil {
		t.Fatal(err)
	}
	return c
}

// bastion is an SSH server that behaves as told.
type bastion struct {
	config *ssh.ServerConfig
	// open answers a session; nil runs commands.
	open func(ssh.NewChannel)
	// run answers a command with its exit status.
	run func(command string, out io.Writer) uint32
}

// newBastion lets one key in, and certificates of one authority.
func newBastion(host ssh.Signer, user, users ssh.PublicKey) *bastion {
	checker := &ssh.CertChecker{
		IsUserAuthority: func(key ssh.PublicKey) bool { return users != nil && string(key.Marshal()) == string(users.Marshal()) },
		UserKeyFallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if user != nil && string(key.Marshal()) == string(user.Marshal()) {
				return nil, nil
			}
			return nil, errors.New("unknown key")
		},
	}
	b := &bastion{config: &ssh.ServerConfig{PublicKeyCallback: checker.Authenticate, ServerVersion: "SSH-2.0-bastion"}}
	b.config.AddHostKey(host)
	b.run = func(command string, out io.Writer) uint32 {
		if command != "true" {
			fmt.Fprintf(out, "no such command: %s", command)
			return 127
		}
		return 0
	}
	return b
}

// handle serves one connection until it ends.
func (b *bastion) handle(conn net.Conn) {
	server, channels, requests, err := ssh.NewServerConn(conn, b.config)
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer server.Close()
	wg.Go(func() { ssh.DiscardRequests(requests) })
	for next := range channels {
		if b.open != nil {
			b.open(next)
			continue
		}
		channel, requests, err := next.Accept()
		if err != nil {
			return
		}
		wg.Go(func() { b.session(channel, requests) })
	}
}

func (b *bastion) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for r := range requests {
		var command struct{ Line string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil || command.Line == "refuse" {
			_ = r.Reply(false, nil)
			continue
		}
		_ = r.Reply(true, nil)
		status := b.run(command.Line, channel)
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

func TestALoginWithAKeyIsToldInParts(t *testing.T) {
	t.Parallel()
	host, user := newIdentity(t), newIdentity(t)
	address := serve(t, newBastion(host.signer, user.signer.PublicKey(), nil).handle)
	got := newProbe(t, probe.Options{
		Kind: fleet.CheckSSH, Component: fleet.SRASSH, Address: address,
		SSH: &probe.SSH{User: "probe", KeyFile: user.file, HostKey: host.line()},
	}).Check(t.Context())
	expect(t, got, "", "SSH-2.0-bastion, logged in as probe")
	if got.Kind != fleet.CheckSSH || got.Component != fleet.SRASSH || got.Target != address || !got.CertificateExpires.IsZero() {
		t.Errorf("got %+v", got)
	}
	sum := 0.0
	for _, name := range []string{"connect_seconds", "handshake_seconds", "login_seconds", "command_seconds"} {
		if got.Readings[name] <= 0 {
			t.Errorf("no reading %s in %v", name, got.Readings)
		}
		sum += got.Readings[name]
	}
	if len(got.Readings) != 4 || sum > got.Took.Seconds() {
		t.Errorf("the readings %v are not the parts of %s", got.Readings, got.Took)
	}
}

func TestALoginWithACertificate(t *testing.T) {
	t.Parallel()
	host, user, users := newIdentity(t), newIdentity(t), newIdentity(t)
	// The plain key would be let in: only the certificate may be offered.
	address := serve(t, newBastion(host.signer, user.signer.PublicKey(), users.signer.PublicKey()).handle)
	file := write(t, "")
	renew := func(c *ssh.Certificate) {
		t.Helper()
		if err := os.WriteFile(file, ssh.MarshalAuthorizedKey(c), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hour := time.Now().Add(time.Hour).Truncate(time.Second)
	key := user.signer.PublicKey()
	renew(users.certify(t, key, ssh.UserCert, uint64(hour.Unix()), "probe"))
	p := newProbe(t, probe.Options{Kind: fleet.CheckSSH, Address: address, SSH: &probe.SSH{
		User: "probe", KeyFile: user.file, CertificateFile: file, HostKey: host.line(),
	}})
	got := p.Check(t.Context())
	expect(t, got, "", "logged in as probe")
	if !got.CertificateExpires.Equal(hour) {
		t.Errorf("the certificate ends %s, want %s", got.CertificateExpires, hour)
	}

	past := time.Now().Add(-time.Minute).Truncate(time.Second)
	renew(users.certify(t, key, ssh.UserCert, uint64(past.Unix()), "probe"))
	got = p.Check(t.Context())
	expect(t, got, fleet.FailureAuth, "the certificate ended "+past.UTC().Format(time.RFC3339))
	if !got.CertificateExpires.Equal(past) {
		t.Errorf("the expired certificate ends %s, want %s", got.CertificateExpires, past)
	}

	for _, ends := range []uint64{ssh.CertTimeInfinity, 1 << 63, 1 << 40} {
		renew(newIdentity(t).certify(t, key, ssh.UserCert, ends, "probe"))
		got = p.Check(t.Context())
		expect(t, got, fleet.FailureAuth, "unable to authenticate")
		if !got.CertificateExpires.IsZero() {
			t.Errorf("a certificate without end ends %s", got.CertificateExpires)
		}
	}

	renew(users.certify(t, key, ssh.UserCert, ssh.CertTimeInfinity, "probe"))
	expect(t, p.Check(t.Context()), "", "logged in as probe")

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expect(t, p.Check(t.Context()), "setup", "LS-PRB-003")
}

func TestEachFailureOfALoginHasItsClass(t *testing.T) {
	t.Parallel()
	host, user := newIdentity(t), newIdentity(t)
	with := func(change func(*bastion)) func(net.Conn) {
		b := newBastion(host.signer, user.signer.PublicKey(), nil)
		change(b)
		return b.handle
	}
	says := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			_, _ = io.WriteString(conn, text)
			// Both ways are shut one after the other, or a reset might eat the text.
			_ = conn.(*net.TCPConn).CloseWrite()
			drain(conn)
		}
	}
	oldHost, err := ssh.NewSignerWithAlgorithms(newRSA(t).(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		server  func(net.Conn)
		ssh     func(*probe.SSH)
		failure fleet.Failure
		detail  string
	}{
		"closes at once": {func(net.Conn) {}, nil, fleet.FailureUnreachable, "closed before it said its version: nothing behind it, or sshd at MaxStartups"},
		"full":           {says("Exceeded MaxStartups\r\n"), nil, fleet.FailureTooManyOpen, "Exceeded MaxStartups"},
		"punished":       {says("Not allowed at this time\r\n"), nil, fleet.FailureTooManyOpen, "Not allowed"},
		"reset after it": {func(conn net.Conn) {
			_, _ = io.WriteString(conn, "SSH-2.0-full\r\n")
			_, _ = io.ReadFull(conn, make([]byte, 8)) // the client has heard it and answers
			_ = conn.(*net.TCPConn).SetLinger(0)
		}, nil, fleet.FailureTooManyOpen, "reset after the server said its version"},
		"another protocol":    {says("HTTP/1.1 400 Bad Request\r\n\r\n"), nil, fleet.FailureHandshake, `not an SSH server: it says "HTTP/1.1 400 Bad Request"`},
		"binary":              {says("\x00\x01\xff\n"), nil, fleet.FailureHandshake, "not an SSH server"},
		"no line end":         {says(strings.Repeat("x", 4096)), nil, fleet.FailureHandshake, "not an SSH server"},
		"ends after greeting": {says("SSH-2.0-short\r\n"), nil, fleet.FailureHandshake, "EOF"},
		"garbage after it":    {says("SSH-2.0-odd\r\n" + strings.Repeat("garbage", 99)), nil, fleet.FailureHandshake, "ssh:"},
		"an old protocol":     {says("SSH-1.5-old\r\n"), nil, fleet.FailureHandshake, ""},
		"another host key":    {with(func(*bastion) {}), func(s *probe.SSH) { s.HostKey = newIdentity(t).line() }, fleet.FailureHostKey, "the server shows ssh-ed25519 SHA256:"},
		"another type of key": {with(func(*bastion) {}), func(s *probe.SSH) { s.HostKey = string(ssh.MarshalAuthorizedKey(newRSA(t).PublicKey())) }, fleet.FailureHostKey, "no host key of an expected type"},
		"an unknown user":     {with(func(*bastion) {}), func(s *probe.SSH) { s.KeyFile = newIdentity(t).file }, fleet.FailureAuth, "unable to authenticate"},
		"too many tries":      {with(func(b *bastion) { b.config.MaxAuthTries = 1 }), func(s *probe.SSH) { s.KeyFile = newIdentity(t).file }, fleet.FailureAuth, ""},
		"breaks off in login": {func(conn net.Conn) {
			b := newBastion(host.signer, nil, nil)
			b.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
				conn.Close()
				return nil, errors.New("gone")
			}
			b.handle(conn)
		}, nil, fleet.FailureUnreachable, "logging in"},
		"breaks off in a session": {func(conn net.Conn) {
			b := newBastion(host.signer, user.signer.PublicKey(), nil)
			b.run = func(string, io.Writer) uint32 { conn.Close(); return 0 }
			b.handle(conn)
		}, nil, fleet.FailureLost, "the connection broke"},
		"breaks off before it": {func(conn net.Conn) {
			b := newBastion(host.signer, user.signer.PublicKey(), nil)
			b.open = func(ssh.NewChannel) { conn.Close() }
			b.handle(conn)
		}, nil, fleet.FailureLost, "the connection broke"},
		"an old key exchange":  {with(func(b *bastion) { b.config.KeyExchanges = ssh.InsecureAlgorithms().KeyExchanges }), nil, fleet.FailureLegacySSH, "key exchange"},
		"an old host key":      {newBastion(oldHost, user.signer.PublicKey(), nil).handle, func(s *probe.SSH) { s.HostKey, s.InsecureHostKey = "", true }, fleet.FailureLegacySSH, "host key"},
		"the old key expected": {newBastion(oldHost, user.signer.PublicKey(), nil).handle, func(s *probe.SSH) { s.HostKey = string(ssh.MarshalAuthorizedKey(oldHost.PublicKey())) }, fleet.FailureLegacySSH, "host key"},
		"an old signature": {with(func(b *bastion) { b.config.PublicKeyAuthAlgorithms = []string{ssh.KeyAlgoRSA} }), func(s *probe.SSH) {
			key, err := rsaIdentity()
			if err != nil {
				t.Fatal(err)
			}
			s.KeyFile = identify(t, key).file
		}, fleet.FailureLegacySSH, "signature algorithm"},
		"no session":        {with(func(b *bastion) { b.open = func(c ssh.NewChannel) { _ = c.Reject(ssh.Prohibited, "not you") } }), nil, fleet.FailureCommand, "not you"},
		"too many sessions": {with(func(b *bastion) { b.open = func(c ssh.NewChannel) { _ = c.Reject(ssh.ResourceShortage, "full") } }), nil, fleet.FailureTooManyOpen, "full"},
		"no command":        {with(func(*bastion) {}), func(s *probe.SSH) { s.Command = "refuse" }, fleet.FailureCommand, "does not run the command"},
		"the command fails": {with(func(*bastion) {}), func(s *probe.SSH) { s.Command = "false" }, fleet.FailureCommand, "status 127: no such command: false"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &probe.SSH{User: "probe", KeyFile: user.file, HostKey: host.line()}
			if c.ssh != nil {
				c.ssh(s)
			}
			got := newProbe(t, probe.Options{Kind: fleet.CheckSSH, Address: serve(t, c.server), SSH: s}).Check(t.Context())
			expect(t, got, c.failure, c.detail)
		})
	}
}

func TestFailuresOfTheNetwork(t *testing.T) {
	t.Parallel()
	user := newIdentity(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	got := newProbe(t, probe.Options{Kind: fleet.CheckTCP, Address: closed}).Check(t.Context())
	expect(t, got, fleet.FailureRefused, "connecting: dial tcp "+closed)
	if got.Readings != nil {
		t.Errorf("nothing was reached, and %v was measured", got.Readings)
	}
	for _, c := range []struct {
		err     error
		failure fleet.Failure
	}{
		{syscall.ECONNREFUSED, fleet.FailureRefused},
		{&net.DNSError{Err: "no such host", Name: "bastion", IsNotFound: true}, fleet.FailureDNS},
		{&net.DNSError{Err: "server misbehaving", Name: "bastion", IsTemporary: true}, fleet.FailureDNS},
		{&net.DNSError{Err: "i/o timeout", Name: "bastion", IsTimeout: true}, fleet.FailureTimeout},
		{syscall.ETIMEDOUT, fleet.FailureTimeout},
		{os.ErrDeadlineExceeded, fleet.FailureTimeout},
		{syscall.ENETUNREACH, fleet.FailureUnreachable},
		{syscall.EHOSTUNREACH, fleet.FailureUnreachable},
		{syscall.ECONNRESET, fleet.FailureUnreachable},
		{syscall.EMFILE, fleet.FailureUnclassified},
	} {
		for _, o := range []probe.Options{
			{Kind: fleet.CheckTCP, Address: "bastion:22"},
			{Kind: fleet.CheckTLS, Address: "bastion:443"},
			{Kind: fleet.CheckHTTPS, Address: "https://bastion"},
			{Kind: fleet.CheckSSH, Address: "bastion:22", SSH: &probe.SSH{User: "probe", KeyFile: user.file, InsecureHostKey: true}},
		} {
			o.Dial = refusing(c.err)
			if got := newProbe(t, o).Check(t.Context()); got.OK || got.Failure != c.failure {
				t.Errorf("%s, %v: the class is %q, want %q", o.Kind, c.err, got.Failure, c.failure)
			}
		}
	}
}

func TestTheNameIsLookedUpInItsOwnTime(t *testing.T) {
	t.Parallel()
	address := serve(t, drain)
	_, port, _ := net.SplitHostPort(address)
	got := newProbe(t, probe.Options{Kind: fleet.CheckTCP, Address: "localhost:" + port}).Check(t.Context())
	expect(t, got, "", "connected")
	if got.Readings["dns_seconds"] <= 0 || got.Readings["connect_seconds"] <= 0 || len(got.Readings) != 2 {
		t.Errorf("got %v", got.Readings)
	}
}

func TestACheckEndsInTime(t *testing.T) {
	t.Parallel()
	host, user := newIdentity(t), newIdentity(t)
	login := &probe.SSH{User: "probe", KeyFile: user.file, HostKey: host.line()}
	bastionWith := func(change func(*bastion, chan struct{})) func(net.Conn) {
		return func(conn net.Conn) {
			b, left := newBastion(host.signer, user.signer.PublicKey(), nil), make(chan struct{})
			change(b, left)
			defer close(left)
			b.handle(conn)
		}
	}
	for name, c := range map[string]struct {
		kind   fleet.CheckKind
		server func(net.Conn)
		detail string
	}{
		"before the greeting": {fleet.CheckSSH, drain, "no answer in time, in the SSH handshake"},
		"in the handshake": {fleet.CheckSSH, func(conn net.Conn) {
			_, _ = io.WriteString(conn, "SSH-2.0-quiet\r\n")
			drain(conn)
		}, "no answer in time, in the SSH handshake"},
		"in the login": {fleet.CheckSSH, func(conn net.Conn) {
			b := newBastion(host.signer, nil, nil)
			b.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
				drain(conn) // which ends when the probe leaves
				return nil, errors.New("gone")
			}
			b.handle(conn)
		}, "no answer in time, logging in"},
		"before the session": {fleet.CheckSSH, bastionWith(func(b *bastion, _ chan struct{}) {
			b.open = func(ssh.NewChannel) {}
		}), "no answer in time, running the command"},
		"in TLS":   {fleet.CheckTLS, drain, "no answer in time, in the TLS handshake"},
		"in https": {fleet.CheckHTTPS, drain, "no answer in time, in the TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := probe.Options{Kind: c.kind, Address: "bastion:22", Timeout: 7 * time.Second, Dial: dialing(c.server)}
				switch c.kind {
				case fleet.CheckSSH:
					o.SSH = login
				case fleet.CheckHTTPS:
					o.Address = "https://web"
				}
				got := newProbe(t, o).Check(t.Context())
				expect(t, got, fleet.FailureTimeout, c.detail)
				if got.Took != 7*time.Second {
					t.Errorf("it took %s, want the timeout", got.Took)
				}
				synctest.Wait() // all that was started must end by itself
			})
		})
	}
}

func TestACommandThatWritesWithoutEndIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	host, user := newIdentity(t), newIdentity(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBastion(host.signer, user.signer.PublicKey(), nil)
		b.run = func(_ string, out io.Writer) uint32 {
			for {
				if _, err := out.Write(make([]byte, 4096)); err != nil {
					return 0
				}
			}
		}
		got := newProbe(t, probe.Options{
			Kind: fleet.CheckSSH, Address: "bastion:22", Dial: dialing(b.handle),
			SSH: &probe.SSH{User: "probe", KeyFile: user.file, HostKey: host.line()},
		}).Check(t.Context())
		if got.Failure != fleet.FailureCommand || !contains(got.Detail, "65536 bytes or more") || got.Took != 0 {
			t.Errorf("got %q, %q after %s", got.Failure, got.Detail, got.Took)
		}
	})
}

func TestACheckThatIsCutShortSaysSo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	user := newIdentity(t)
	p := newProbe(t, probe.Options{
		Kind: fleet.CheckSSH, SSH: &probe.SSH{User: "probe", KeyFile: user.file, InsecureHostKey: true},
		Address: serve(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1)) // the probe has begun to speak
			cancel()
			drain(conn)
		}),
	})
	expect(t, p.Check(ctx), fleet.FailureUnclassified, "cut short, in the SSH handshake")
}

func TestKnownHosts(t *testing.T) {
	t.Parallel()
	user, plain, hosts, other := newIdentity(t), newIdentity(t), newIdentity(t), newIdentity(t)
	certified, err := ssh.NewCertSigner(hosts.certify(t, plain.signer.PublicKey(), ssh.HostCert, ssh.CertTimeInfinity, "127.0.0.1"), plain.signer)
	if err != nil {
		t.Fatal(err)
	}
	expired, err := ssh.NewCertSigner(hosts.certify(t, plain.signer.PublicKey(), ssh.HostCert, 1, "127.0.0.1"), plain.signer)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := newRSA(t)
	for name, c := range map[string]struct {
		shows   []ssh.Signer
		known   func(name string) string
		failure fleet.Failure
		detail  string
	}{
		"the key":           {[]ssh.Signer{plain.signer}, func(n string) string { return knownhosts.Line([]string{n}, plain.signer.PublicKey()) }, "", ""},
		"the key, hashed":   {[]ssh.Signer{plain.signer}, func(n string) string { return knownhosts.HashHostname(knownhosts.Normalize(n)) + " " + plain.line() }, "", ""},
		"another key":       {[]ssh.Signer{plain.signer}, func(n string) string { return knownhosts.Line([]string{n}, other.signer.PublicKey()) }, fleet.FailureHostKey, "key mismatch"},
		"one of two types":  {[]ssh.Signer{plain.signer, rsaKey}, func(n string) string { return knownhosts.Line([]string{n}, rsaKey.PublicKey()) }, "", ""},
		"a type it has not": {[]ssh.Signer{plain.signer}, func(n string) string { return knownhosts.Line([]string{n}, rsaKey.PublicKey()) }, fleet.FailureHostKey, "expected type"},
		"the authority": {[]ssh.Signer{certified}, func(n string) string {
			return "@cert-authority " + knownhosts.Line([]string{n}, hosts.signer.PublicKey())
		}, "", ""},
		"another authority": {[]ssh.Signer{certified}, func(n string) string {
			return "@cert-authority " + knownhosts.Line([]string{n}, other.signer.PublicKey())
		}, fleet.FailureHostKey, ""},
		"an expired certificate": {[]ssh.Signer{expired}, func(n string) string {
			return "@cert-authority " + knownhosts.Line([]string{n}, hosts.signer.PublicKey())
		}, fleet.FailureHostKey, ""},
		"another authority, the key": {[]ssh.Signer{certified}, func(n string) string {
			return "@cert-authority " + knownhosts.Line([]string{n}, other.signer.PublicKey()) + "\n" + knownhosts.Line([]string{n}, plain.signer.PublicKey())
		}, "", ""},
		"revoked": {[]ssh.Signer{certified}, func(n string) string {
			return "@cert-authority " + knownhosts.Line([]string{n}, hosts.signer.PublicKey()) + "\n@revoked * " + plain.line()
		}, fleet.FailureHostKey, "revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBastion(c.shows[0], user.signer.PublicKey(), nil)
			for _, more := range c.shows[1:] {
				b.config.AddHostKey(more)
			}
			address := serve(t, b.handle)
			got := newProbe(t, probe.Options{Kind: fleet.CheckSSH, Address: address, SSH: &probe.SSH{
				User: "probe", KeyFile: user.file, KnownHostsFile: write(t, "# hosts\n\n"+c.known(address)+"\n"),
			}}).Check(t.Context())
			expect(t, got, c.failure, c.detail)
		})
	}
}

func TestProbesSideBySide(t *testing.T) {
	t.Parallel()
	host, user := newIdentity(t), newIdentity(t)
	b := newBastion(host.signer, user.signer.PublicKey(), nil)
	address := serve(t, b.handle)
	p := newProbe(t, probe.Options{Kind: fleet.CheckSSH, Address: address, SSH: &probe.SSH{User: "probe", KeyFile: user.file, HostKey: host.line()}})
	var wg sync.WaitGroup
	checks := make([]fleet.Check, 20)
	for i := range checks {
		wg.Go(func() { checks[i] = p.Check(t.Context()) })
	}
	wg.Wait()
	if i := slices.IndexFunc(checks, func(c fleet.Check) bool { return !c.OK }); i >= 0 {
		t.Errorf("check %d of %d failed: %+v", i, len(checks), checks[i])
	}
}
