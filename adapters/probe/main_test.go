package probe_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/probe"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve gives each connection to behave and returns the address. The test ends
// only when every connection has been left.
func serve(t *testing.T, behave func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				behave(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// drain reads until the other side leaves, as a probe always does.
func drain(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// link is one end of a connection in memory that holds what is written until it is
// read, as a socket does; net.Pipe alone would let both ends wait for each other.
type link struct {
	net.Conn
	mu     sync.Mutex
	change *sync.Cond
	queue  []byte
	closed bool
}

// pair returns both ends; their goroutines end when the ends are closed.
func pair() (a, b net.Conn) {
	x, y := net.Pipe()
	return newLink(x), newLink(y)
}

func newLink(conn net.Conn) *link {
	l := &link{Conn: conn}
	l.change = sync.NewCond(&l.mu)
	go l.pump()
	return l
}

func (l *link) pump() {
	for {
		l.mu.Lock()
		for len(l.queue) == 0 && !l.closed {
			l.change.Wait()
		}
		next, closed := l.queue, l.closed
		l.queue = nil
		l.mu.Unlock()
		if closed {
			return
		}
		if _, err := l.Conn.Write(next); err != nil {
			return
		}
	}
}

func (l *link) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	l.queue = append(l.queue, b...)
	l.change.Signal()
	return len(b), nil
}

func (l *link) Close() error {
	l.mu.Lock()
	l.closed = true
	l.change.Signal()
	l.mu.Unlock()
	return l.Conn.Close()
}

// dialing hands the far end of each connection to behave.
func dialing(behave func(net.Conn)) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := pair()
		go func() {
			defer far.Close()
			behave(far)
		}()
		return near, nil
	}
}

// refusing fails every dial.
func refusing(err error) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
}

func newProbe(t *testing.T, o probe.Options) *probe.Probe {
	t.Helper()
	o.Cluster, o.Name = "berlin", "front"
	p, err := probe.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// write puts text in a file of its own.
func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// authority signs certificates of servers.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := ecKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key, write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))}
}

// issue makes a certificate of a server with this name.
func (a *authority) issue(t *testing.T, name string, ends time.Time) tls.Certificate {
	t.Helper()
	key := ecKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: ends,
	}
	if ip := net.ParseIP(name); ip != nil {
		template.DNSNames, template.IPAddresses = nil, []net.IP{ip}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// expect holds an outcome against what it must be.
func expect(t *testing.T, got fleet.Check, failure fleet.Failure, detail string) {
	t.Helper()
	if got.Failure != failure || got.OK != (failure == "") || !contains(got.Detail, detail) {
		t.Errorf("got ok %t, failure %q, detail %q; want failure %q and %q in the detail", got.OK, got.Failure, got.Detail, failure, detail)
	}
	if got.Cluster != "berlin" || got.Name != "front" || got.At.IsZero() || got.Took <= 0 {
		t.Errorf("the check is not told whose it is, or when: %+v", got)
	}
}
