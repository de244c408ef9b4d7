package sources_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/sources"
)

// serve gives each connection to take, and ends with the test.
func serve(t *testing.T, take func(net.Conn)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { take(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

// probed is a cluster with nothing but probes.
func probed(t *testing.T, atOnce int, now func() time.Time, probes ...fleetfile.Probe) []collector.Schedule {
	t.Helper()
	set, err := sources.Open(fleetfile.File{Clusters: []fleetfile.Cluster{{
		ID: "oslo", Probes: probes, ProbeBudget: fleetfile.ProbeBudget{LoginsPerHour: 720, AtOnce: atOnce},
	}}}, slog.New(slog.DiscardHandler), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	return set.Schedules()
}

// A probe waits for its turn, and says so when it does not come.
func TestProbesWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	arrived, hangUp := make(chan struct{}), make(chan struct{})
	address := serve(t, func(conn net.Conn) {
		arrived <- struct{}{}
		<-hangUp
		_ = conn.Close()
	})
	slow := fleetfile.Probe{Name: "slow", Type: "tls", Address: address, Every: 20 * time.Second, Timeout: 10 * time.Second}
	quick := slow
	quick.Name = "quick"
	schedules := probed(t, 1, time.Now, slow, quick)
	for _, s := range schedules {
		if s.Timeout < slow.Every+slow.Timeout {
			t.Errorf("%s has %s, which is over before its turn and its look are", s.Name, s.Timeout)
		}
	}
	var first sync.WaitGroup
	first.Go(func() {
		if seen, err := schedules[0].Source.Poll(t.Context()); err != nil || len(seen) != 1 || seen[0].Check.OK {
			t.Errorf("the first: %+v, %v", seen, err)
		}
	})
	<-arrived
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if seen, err := schedules[1].Source.Poll(short); err == nil || !strings.Contains(err.Error(), "the probe budget of oslo is used up: 1 at once") {
		t.Errorf("while the first looks: %+v, %v", seen, err)
	}
	close(hangUp)
	first.Wait()
	var second sync.WaitGroup
	second.Go(func() { <-arrived })
	if seen, err := schedules[1].Source.Poll(t.Context()); err != nil || len(seen) != 1 || seen[0].Check.Name != "quick" {
		t.Errorf("after the first: %+v, %v", seen, err)
	}
	second.Wait()
}

func newKey(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

// A login that is refused again and again is tried seldom, so that nothing locks
// the account, and at once when it has another key.
func TestRefusedLoginsLeaveTheServerAlone(t *testing.T) {
	t.Parallel()
	host, _ := newKey(t)
	_, text := newKey(t)
	refusing := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, errors.New("no") }}
	refusing.AddHostKey(host)
	var logins atomic.Int32
	address := serve(t, func(conn net.Conn) {
		logins.Add(1)
		_, _, _, _ = ssh.NewServerConn(conn, refusing)
		_ = conn.Close()
	})
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	clock := time.Now()
	schedule := probed(t, 1, func() time.Time { return clock }, fleetfile.Probe{
		Name: "login", Type: "ssh", Component: fleet.SRASSH, Address: address, Every: 30 * time.Second, Timeout: 10 * time.Second, User: "probe",
		KeyFile: config.Path(file), HostKey: string(ssh.MarshalAuthorizedKey(host.PublicKey())),
	})[0]
	look := func(logged int32) fleet.Check {
		t.Helper()
		seen, err := schedule.Source.Poll(t.Context())
		if err != nil || len(seen) != 1 || seen[0].Check.OK || seen[0].Check.Failure != fleet.FailureAuth {
			t.Fatalf("looked and saw %+v, %v", seen, err)
		}
		if got := logins.Load(); got != logged {
			t.Fatalf("%d logins were tried, want %d", got, logged)
		}
		return *seen[0].Check
	}
	for i := range int32(3) {
		look(i + 1)
		clock = clock.Add(30 * time.Second)
	}
	held := look(3)
	again := clock.Add(-30 * time.Second).Add(5 * time.Minute)
	if held.Name != "login" || held.Kind != fleet.CheckSSH || held.Component != fleet.SRASSH || held.Target != address || !held.At.Equal(clock) ||
		!strings.Contains(held.Detail, "refused 3 times") || !strings.Contains(held.Detail, again.UTC().Format(time.RFC3339)) {
		t.Errorf("in between it says %+v", held)
	}
	clock = again
	look(4)
	look(4)
	renewed := time.Now().Add(time.Hour)
	if err := os.Chtimes(file, renewed, renewed); err != nil {
		t.Fatal(err)
	}
	look(5)
	look(6)
	look(7)
	look(7)
}
