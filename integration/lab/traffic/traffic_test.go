package traffic_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/integration/lab/node"
	"github.com/lockstep-fleet/lockstep/integration/lab/traffic"
)

// serve runs one node on loopback until the test ends.
func serve(t testing.TB, c node.Config) *node.Node {
	t.Helper()
	c.Addr, c.StatusAddr = "127.0.0.1:0", "127.0.0.1:0"
	if c.Instance == "" {
		c.Instance = string(c.Role) + "-1"
	}
	n, err := node.Listen(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("node %s: %v", c.Role, err)
		}
	})
	return n
}

// cluster runs a gateway and two bastions that fail the given shares.
func cluster(t testing.TB, name string, gatewayFails, sraFails int) traffic.Cluster {
	t.Helper()
	gateway := serve(t, node.Config{Role: node.Gateway, FailPercent: gatewayFails})
	sra := func(role node.Role) *node.Node {
		return serve(t, node.Config{Role: role, FailPercent: sraFails, GatewayURL: "http://" + gateway.Addr()})
	}
	return traffic.Cluster{Name: name, SSH: sra(node.SRASSH).Addr(), Web: sra(node.SRAWeb).Addr()}
}

// diary records every report and closes enough when want sessions are over.
type diary struct {
	mu     sync.Mutex
	want   int
	over   int
	enough chan struct{}
	byID   map[string][]traffic.Session
}

func newDiary(want int) *diary {
	return &diary{want: want, enough: make(chan struct{}), byID: map[string][]traffic.Session{}}
}

func (d *diary) Report(s traffic.Session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.byID[s.ID] = append(d.byID[s.ID], s)
	if !s.End.IsZero() && s.Status != traffic.Terminated {
		if d.over++; d.over == d.want {
			close(d.enough)
		}
	}
}

// run makes traffic until want sessions are over and returns each session's
// reports, the terminated ones left out.
func run(t *testing.T, want int, o traffic.Options) (*traffic.Generator, map[string][]traffic.Session) {
	t.Helper()
	d := newDiary(want)
	o.Recorder = d
	g, err := traffic.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		g.Run(ctx)
		close(done)
	}()
	select {
	case <-d.enough:
	case <-time.After(30 * time.Second):
		t.Errorf("only %d of %d sessions were over after 30 s", d.over, want)
	}
	cancel()
	<-done
	if g.Open() != 0 {
		t.Errorf("%d sessions are open after the end", g.Open())
	}
	for id, reports := range d.byID {
		if reports[len(reports)-1].Status == traffic.Terminated {
			delete(d.byID, id)
		}
	}
	return g, d.byID
}

func TestSessionsThroughHealthyNodes(t *testing.T) {
	t.Parallel()
	const want = 260
	g, sessions := run(t, want, traffic.Options{
		Clusters: []traffic.Cluster{cluster(t, "berlin", 0, 0)},
		Rate:     400,
		Hold:     10 * time.Millisecond,
	})
	paths := map[traffic.Path]int{}
	pairs := map[string]bool{}
	for id, reports := range sessions {
		var steps []traffic.Status
		for _, r := range reports {
			steps = append(steps, r.Status)
		}
		if !slices.Equal(steps, []traffic.Status{traffic.Connecting, traffic.Connected, traffic.Completed}) {
			t.Errorf("session %s went through %v: %s", id, steps, reports[len(reports)-1].Error)
			continue
		}
		last := reports[len(reports)-1]
		if !last.End.After(last.Start) {
			t.Errorf("session %s ended at %v, started at %v", id, last.End, last.Start)
		}
		if role := map[traffic.Path]string{traffic.SSH: "sra-ssh-1", traffic.Web: "sra-web-1"}[last.Path]; last.Instance != role {
			t.Errorf("session %s over %s was carried by %q, want %q", id, last.Path, last.Instance, role)
		}
		paths[last.Path]++
		pairs[last.User+" "+last.Target] = true
	}
	if len(pairs) != 200 || g.Pairs() != 200 {
		t.Errorf("got %d distinct pairs (counted %d), want 200", len(pairs), g.Pairs())
	}
	if paths[traffic.Web] < want/5 || paths[traffic.Web] > want/3 {
		t.Errorf("%d of %d sessions went through the web bastion, want every fourth", paths[traffic.Web], want)
	}
	if got := g.Count("berlin", time.Time{}, time.Time{}); got.Failed != 0 || got.Completed < want {
		t.Errorf("counted %v, want at least %d and none failed", got, want)
	}
	if got := g.Count("", time.Now().Add(time.Minute), time.Time{}); got != (traffic.Tally{}) {
		t.Errorf("counted %v in the future", got)
	}
}

// What a node fails depends on the session's id alone, and the user is told
// something that a person would recognise.
func TestSessionsThroughFailingNodes(t *testing.T) {
	t.Parallel()
	const percent = 30
	for _, c := range []struct {
		name         string
		gateway, sra int
		ssh, web     string
	}{
		{"gateway", percent, 0, "authorization refused", "authorization refused"},
		{"sra", 0, percent, "connection lost", "connection lost"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, sessions := run(t, 120, traffic.Options{
				Clusters: []traffic.Cluster{cluster(t, "tokyo", c.gateway, c.sra)},
				Rate:     400,
			})
			failed := 0
			for id, reports := range sessions {
				last := reports[len(reports)-1]
				if node.Fails(id, percent) != (last.Status == traffic.Failed) {
					t.Errorf("session %s ended %s (%s); its id says it fails: %v", id, last.Status, last.Error, node.Fails(id, percent))
				}
				if last.Status != traffic.Failed {
					continue
				}
				failed++
				want := c.ssh
				if last.Path == traffic.Web {
					want = c.web
				}
				if !strings.Contains(last.Error, want) {
					t.Errorf("session %s over %s failed with %q, want it to say %q", id, last.Path, last.Error, want)
				}
			}
			if failed < 20 || failed > 60 {
				t.Errorf("%d of %d sessions failed, want about %d %%", failed, len(sessions), percent)
			}
		})
	}
}

func TestMistypedPasswords(t *testing.T) {
	t.Parallel()
	g, sessions := run(t, 200, traffic.Options{
		Clusters:    []traffic.Cluster{cluster(t, "austin", 0, 0)},
		Rate:        400,
		FailPercent: 25,
		Seed:        7,
	})
	failed := 0
	for _, reports := range sessions {
		last := reports[len(reports)-1]
		if last.Status != traffic.Failed {
			continue
		}
		failed++
		want := "unable to authenticate"
		if last.Path == traffic.Web {
			want = "wrong password"
		}
		if !strings.Contains(last.Error, want) {
			t.Errorf("session over %s failed with %q, want it to say %q", last.Path, last.Error, want)
		}
	}
	if failed < 25 || failed > 80 {
		t.Errorf("%d of %d sessions failed, want about a quarter", failed, len(sessions))
	}
	sum := 0
	for _, n := range g.Reasons() {
		sum += n
	}
	if sum != failed {
		t.Errorf("reasons count %d failures, sessions %d", sum, failed)
	}
}

// Sessions lost with their bastion are failures; after it is back, WaitHealthy
// sees sessions work again, and not before.
func TestWaitHealthyAcrossARestart(t *testing.T) {
	t.Parallel()
	gateway := serve(t, node.Config{Role: node.Gateway})
	web := serve(t, node.Config{Role: node.SRAWeb, GatewayURL: "http://" + gateway.Addr()})
	start := func(addr string) (stop func(), at string) {
		n, err := node.Listen(node.Config{Role: node.SRASSH, Addr: addr, StatusAddr: "127.0.0.1:0", GatewayURL: "http://" + gateway.Addr(), Instance: "one"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.Serve(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}, n.Addr()
	}
	stop, addr := start("127.0.0.1:0")

	g, err := traffic.New(traffic.Options{
		Clusters: []traffic.Cluster{{Name: "berlin", SSH: addr, Web: web.Addr()}},
		Recorder: newDiary(-1),
		Rate:     200,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { g.Run(ctx) })

	if err := g.WaitHealthy(ctx, 20); err != nil {
		t.Fatal(err)
	}
	stop()
	short, giveUp := context.WithTimeout(ctx, 200*time.Millisecond)
	defer giveUp()
	if err := g.WaitHealthy(short, 20); err == nil {
		t.Error("sessions are said to work while the SSH bastion is down")
	}
	stop, _ = start(addr)
	defer stop()
	if err := g.WaitHealthy(ctx, 20); err != nil {
		t.Fatal(err)
	}
	cancel()
	running.Wait()
	if g.Count("", time.Time{}, time.Time{}).Failed == 0 {
		t.Error("no session failed while the bastion was down")
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	t.Parallel()
	one := []traffic.Cluster{{Name: "berlin"}}
	for name, o := range map[string]traffic.Options{
		"no cluster":   {Recorder: newDiary(1)},
		"no recorder":  {Clusters: one},
		"bad rate":     {Clusters: one, Recorder: newDiary(1), Rate: -1},
		"over percent": {Clusters: one, Recorder: newDiary(1), FailPercent: 101},
	} {
		if _, err := traffic.New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// BenchmarkSession measures one session's cost on both sides, from dialling to
// its end, with client, bastion and gateway in one process.
func BenchmarkSession(b *testing.B) {
	c := cluster(b, "berlin", 0, 0)
	for _, path := range []traffic.Path{traffic.SSH, traffic.Web} {
		b.Run(string(path), func(b *testing.B) {
			n := 0
			for b.Loop() {
				n++
				if err := traffic.Once(b.Context(), c, path, fmt.Sprint("s", n)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
		})
	}
}

// A port that nobody serves is an ordinary failed session.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, sessions := run(t, 4, traffic.Options{Clusters: []traffic.Cluster{{Name: "berlin", SSH: addr, Web: addr}}, Rate: 100})
	for id, reports := range sessions {
		last := reports[len(reports)-1]
		if last.Status != traffic.Failed || !strings.Contains(last.Error, "connection refused") || last.Instance != "" {
			t.Errorf("session %s: %+v", id, last)
		}
	}
}
