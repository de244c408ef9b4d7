package bustest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// Cluster is a bus of three servers that lives as long as its test.
type Cluster struct {
	servers []*natsserver.Server
	configs []string // their files
	hosts   []string // where clients reach them
}

// StartCluster runs three servers on loopback and creates streams and buckets that
// all three keep.
func StartCluster(t testing.TB, streams []bus.Stream, keyValues, blobs []bus.Bucket) *Cluster {
	t.Helper()
	c := NewCluster(t)
	streams, keyValues, blobs = slices.Clone(streams), slices.Clone(keyValues), slices.Clone(blobs)
	for i := range streams {
		streams[i].Replicas = len(c.servers)
	}
	for i := range keyValues {
		keyValues[i].Replicas = len(c.servers)
	}
	for i := range blobs {
		blobs[i].Replicas = len(c.servers)
	}
	ensure(t, c.Open(t), streams, keyValues, blobs)
	return c
}

// NewCluster runs three servers with nothing in them. Where accounts are named,
// each is a bus of its own.
func NewCluster(t testing.TB, accounts ...string) *Cluster {
	t.Helper()
	const size = 3
	ports := freePorts(t, 2*size)
	var routes, users []string
	for _, port := range ports[:size] {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", port))
	}
	for _, account := range accounts {
		users = append(users, fmt.Sprintf("%s: {jetstream: enabled, users: [{user: %s, password: %s}]}", account, account, account))
	}
	if len(accounts) > 0 {
		users = []string{"accounts: {" + strings.Join(users, ", ") + "}"}
	}
	c := &Cluster{}
	for i := range size {
		dir := t.TempDir()
		file := filepath.Join(dir, "server.conf")
		config := fmt.Sprintf("server_name: n%d\nhost: 127.0.0.1\nport: %d\nmax_payload: %d\njetstream: {store_dir: %q}\n"+
			"cluster: {name: test, host: 127.0.0.1, port: %d, routes: [%s]}\n%s\n",
			i, ports[size+i], maxPayload, dir, ports[i], strings.Join(routes, ", "), strings.Join(users, ""))
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		c.configs = append(c.configs, file)
		c.hosts = append(c.hosts, fmt.Sprintf("127.0.0.1:%d", ports[size+i]))
		c.servers = append(c.servers, c.prepare(t, i))
		c.servers[i].Start()
	}
	t.Cleanup(func() {
		for _, s := range c.servers {
			s.Shutdown()
		}
		for _, s := range c.servers {
			s.WaitForShutdown()
		}
	})
	c.await(t)
	return c
}

// freePorts returns ports that nobody listens on. A cluster's members have to know
// one another's before they start.
func freePorts(t testing.TB, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, n)
	}
	return ports
}

func (c *Cluster) prepare(t testing.TB, i int) *natsserver.Server {
	t.Helper()
	opts, err := natsserver.ProcessConfigFile(c.configs[i])
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	s, err := natsserver.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// await returns when the cluster has a leader and all are members.
func (c *Cluster) await(t testing.TB) {
	t.Helper()
	ready := func() bool {
		led := false
		for _, s := range c.servers {
			if !s.JetStreamIsCurrent() {
				return false
			}
			led = led || s.JetStreamIsLeader()
		}
		return led
	}
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("the cluster was not whole within %s", patience)
		}
	}
}

// URL is where an account of the cluster is reached; the empty one is for a cluster
// without accounts.
func (c *Cluster) URL(account string) string {
	var urls []string
	for _, host := range c.hosts {
		if account != "" {
			host = account + ":" + account + "@" + host
		}
		urls = append(urls, "nats://"+host)
	}
	return strings.Join(urls, ",")
}

// Open returns a connection that is closed when the test ends.
func (c *Cluster) Open(t testing.TB) *natsbus.Bus {
	t.Helper()
	return open(t, natsbus.Options{URL: c.URL("")})
}

// StopLeader stops the server that leads a stream; the returned function starts it
// again.
func (c *Cluster) StopLeader(t testing.TB, stream string) (restart func()) {
	t.Helper()
	i := slices.IndexFunc(c.servers, func(s *natsserver.Server) bool {
		return s.JetStreamIsStreamLeader(natsserver.DEFAULT_GLOBAL_ACCOUNT, stream)
	})
	if i < 0 {
		t.Fatalf("stream %s has no leader", stream)
	}
	stop(c.servers[i])
	return func() {
		t.Helper()
		c.servers[i] = c.prepare(t, i)
		c.servers[i].Start()
		c.await(t)
	}
}
