//go:build integration

// The ssh probe against the sshd that Debian ships.
package probe_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/lockstep-fleet/lockstep/adapters/probe"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func check(t *testing.T, s *server, how probe.SSH) fleet.Check {
	t.Helper()
	how.User = login
	p, err := probe.New(probe.Options{Cluster: "berlin", Name: "ssh", Kind: fleet.CheckSSH, Address: s.address, SSH: &how, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return p.Check(t.Context())
}

func expect(t *testing.T, got fleet.Check, failure fleet.Failure, detail string) {
	t.Helper()
	if got.Failure != failure || got.OK != (failure == "") || !strings.Contains(got.Detail, detail) {
		t.Errorf("got ok %t, failure %q, detail %q; want failure %q and %q", got.OK, got.Failure, got.Detail, failure, detail)
	}
}

func hour() time.Time { return time.Now().Add(time.Hour).Truncate(time.Second) }

func TestACertificateLogsInAndRunsOneCommand(t *testing.T) {
	t.Parallel()
	host, hosts, me, users := newKey(t), newKey(t), newKey(t), newKey(t)
	s := start(t, host, "TrustedUserCAKeys "+users.file+".pub", "HostCertificate "+hosts.certify(t, host, ssh.HostCert, hour(), "127.0.0.1"))
	ends := hour()
	how := probe.SSH{
		KeyFile: me.file, CertificateFile: users.certify(t, me, ssh.UserCert, ends, login),
		KnownHostsFile: write(t, "known_hosts", "@cert-authority "+knownhosts.Line([]string{s.address}, hosts.signer.PublicKey())+"\n"),
	}
	got := check(t, s, how)
	expect(t, got, "", "SSH-2.0-OpenSSH")
	if !got.CertificateExpires.Equal(ends) {
		t.Errorf("the certificate ends %s, want %s", got.CertificateExpires, ends)
	}
	for _, name := range []string{"connect_seconds", "handshake_seconds", "login_seconds", "command_seconds"} {
		if got.Readings[name] <= 0 {
			t.Errorf("no reading %s in %v", name, got.Readings)
		}
	}
	how.Command = "echo all is not well; exit 3"
	expect(t, check(t, s, how), fleet.FailureCommand, "status 3: all is not well")
	how.Command = "kill -9 $PPID"
	expect(t, check(t, s, how), fleet.FailureLost, "the connection broke")
	how.Command = "yes"
	expect(t, check(t, s, how), fleet.FailureCommand, "65536 bytes or more")
}

func TestCertificatesThatAreNotLetIn(t *testing.T) {
	t.Parallel()
	host, me, revoked, users, others := newKey(t), newKey(t), newKey(t), newKey(t), newKey(t)
	s := start(t, host, "TrustedUserCAKeys "+users.file+".pub", "RevokedKeys "+revoked.file+".pub", "MaxAuthTries 2")
	past := time.Now().Add(-time.Minute).Truncate(time.Second)
	for name, c := range map[string]struct {
		key         key
		certificate string
		detail      string
	}{
		"expired":             {me, users.certify(t, me, ssh.UserCert, past, login), "the certificate ended " + past.UTC().Format(time.RFC3339)},
		"revoked":             {revoked, users.certify(t, revoked, ssh.UserCert, hour(), login), "unable to authenticate"},
		"of another signer":   {me, others.certify(t, me, ssh.UserCert, hour(), login), "unable to authenticate"},
		"for another user":    {me, users.certify(t, me, ssh.UserCert, hour(), "session_7"), "unable to authenticate"},
		"left out, a key":     {me, "", "unable to authenticate"},
		"good, as a contrast": {me, users.certify(t, me, ssh.UserCert, hour(), login), ""},
	} {
		got := check(t, s, probe.SSH{KeyFile: c.key.file, CertificateFile: c.certificate, HostKey: host.line()})
		want := fleet.FailureAuth
		if c.detail == "" {
			want = ""
		}
		t.Log(name, got.Detail)
		expect(t, got, want, c.detail)
	}
	expect(t, check(t, s, probe.SSH{KeyFile: me.file, HostKey: others.line()}), fleet.FailureHostKey, "the server shows ssh-ed25519")
}

// A storm of reconnects fills MaxStartups; a probe must not call that a failed
// login.
func TestAFullServerIsToldAsFull(t *testing.T) {
	t.Parallel()
	host, me := newKey(t), newKey(t)
	s := start(t, host, "AuthorizedKeysFile "+me.file+".pub", "MaxStartups 1")
	how := probe.SSH{KeyFile: me.file, HostKey: host.line()}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(line, "SSH-") {
		t.Fatalf("the server says %q, %v", line, err)
	}
	expect(t, check(t, s, how), fleet.FailureTooManyOpen, "")
	conn.Close()
	// The server notices in its own time.
	limit, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for got := check(t, s, how); !got.OK; got = check(t, s, how) {
		if got.Failure != fleet.FailureTooManyOpen || limit.Err() != nil {
			t.Fatalf("after the other left: %q, %s", got.Failure, got.Detail)
		}
	}
}

func TestServersOfAnotherAge(t *testing.T) {
	t.Parallel()
	me := newKey(t)
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := keep(t, private)
	for name, c := range map[string]struct {
		host    key
		user    key
		lines   []string
		failure fleet.Failure
		detail  string
	}{
		"key exchange":  {me, me, []string{"KexAlgorithms diffie-hellman-group14-sha1"}, fleet.FailureLegacySSH, "key exchange; the server offers only [diffie-hellman-group14-sha1"},
		"host key":      {rsaKey, me, []string{"HostKeyAlgorithms ssh-rsa"}, fleet.FailureLegacySSH, "host key; the server offers only [ssh-rsa]"},
		"cipher":        {me, me, []string{"Ciphers aes128-cbc", "MACs hmac-sha1"}, fleet.FailureLegacySSH, "cipher; the server offers only [aes128-cbc]"},
		"rsa all along": {rsaKey, rsaKey, nil, "", ""},
		// Such a server lists signatures that it then does not take, so nothing tells
		// this from an unknown key.
		"signature": {me, rsaKey, []string{"PubkeyAcceptedAlgorithms ssh-rsa"}, fleet.FailureAuth, "unable to authenticate"},
	} {
		s := start(t, c.host, append(c.lines, "AuthorizedKeysFile "+c.user.file+".pub")...)
		got := check(t, s, probe.SSH{KeyFile: c.user.file, HostKey: c.host.line()})
		t.Log(name, got.Detail)
		expect(t, got, c.failure, c.detail)
	}
}

func TestAServerThatOpensNoSession(t *testing.T) {
	t.Parallel()
	host, me := newKey(t), newKey(t)
	s := start(t, host, "AuthorizedKeysFile "+me.file+".pub", "MaxSessions 0")
	expect(t, check(t, s, probe.SSH{KeyFile: me.file, HostKey: host.line()}), fleet.FailureCommand, "no session is opened")
}

func TestAServerThatStandsStill(t *testing.T) {
	t.Parallel()
	host, me := newKey(t), newKey(t)
	s := start(t, host, "AuthorizedKeysFile "+me.file+".pub")
	how := probe.SSH{KeyFile: me.file, HostKey: host.line()}
	expect(t, check(t, s, how), "", "logged in as "+login)
	if err := s.process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	got := check(t, s, how)
	expect(t, got, fleet.FailureTimeout, "no answer in time, in the SSH handshake")
	if got.Took > 6*time.Second {
		t.Errorf("it took %s", got.Took)
	}
	if err := s.process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	expect(t, check(t, s, how), "", "logged in as "+login)
	if err := s.process.Signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	// The port closes with the process, which the kernel ends in its own time.
	limit, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for got = check(t, s, how); got.Failure != fleet.FailureRefused; got = check(t, s, how) {
		if limit.Err() != nil {
			t.Fatalf("after the end: %q, %s", got.Failure, got.Detail)
		}
	}
}
