package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// access is how the API server is reached and whom it lets in. All of it is in
// files, because the programs want it there.
type access struct {
	dir, url    string
	certificate string // the server's own, which its clients trust as it is
	key         string // of the certificate; service accounts' tokens are signed with it, too
	tokens      string
	byUser      map[string]string
	root        []byte
}

func prepare(dir string, port int, users []string) (access, error) {
	a := access{
		dir: dir, url: fmt.Sprintf("https://127.0.0.1:%d", port),
		certificate: filepath.Join(dir, "server.crt"), key: filepath.Join(dir, "server.key"), tokens: filepath.Join(dir, "tokens.csv"),
		byUser: make(map[string]string),
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return a, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the lab's API server"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return a, err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return a, err
	}
	a.root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	var tokens strings.Builder
	for _, user := range users {
		a.byUser[user] = rand.Text()
		group := ""
		if user == Admin {
			group = "system:masters"
		}
		fmt.Fprintf(&tokens, "%s,%s,%s,%s\n", a.byUser[user], user, user, group)
	}
	for path, content := range map[string][]byte{
		a.certificate: a.root,
		a.key:         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}),
		a.tokens:      []byte(tokens.String()),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return a, err
		}
	}
	for user, token := range a.byUser {
		if err := a.write(a.kubeconfig(user), token); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (a access) kubeconfig(user string) string { return filepath.Join(a.dir, user+".kubeconfig") }

func (a access) write(path, token string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: lab}}]
clusters: [{name: lab, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: lab, user: {token: %q}}]
`, a.url, base64.StdEncoding.EncodeToString(a.root), token)
	return os.WriteFile(path, []byte(text), 0o600)
}

// port is a port of 127.0.0.1 that is ours though nobody listens on it: the
// kernel gives it to no other program, and lets the API server share it.
type port struct {
	socket, number int
}

func reserve() (*port, error) {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	p := &port{socket: socket}
	err = errors.Join(
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
	)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", errors.Join(err, p.release()))
	}
	name, err := unix.Getsockname(socket)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", errors.Join(err, p.release()))
	}
	if address, ok := name.(*unix.SockaddrInet4); ok {
		p.number = address.Port
	}
	return p, nil
}

func (p *port) release() error { return unix.Close(p.socket) }
