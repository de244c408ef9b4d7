//go:build integration

package delivery_test

import (
	"context"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/integration/fakes/akeyless"
)

// soak is whether the suite runs at full size.
var soak = os.Getenv("LOCKSTEP_SOAK") != ""

// killing is how long everybody is killed, how many sessions start in a second
// meanwhile, and how much longer than in a short run everybody lives in between.
func killing() (lasts time.Duration, rate float64, lives int) {
	if soak {
		// Of 400,000 sessions most are seen in three statuses.
		return 11 * time.Minute, 600, 5
	}
	return 30 * time.Second, 200, 1
}

// people come and go fast, so that short runs see whole sessions.
func people(rate float64, clusters int) akeyless.Traffic {
	return akeyless.Traffic{Rate: rate / float64(clusters), Connect: 2 * time.Second, Duration: 4 * time.Second, Terminated: 0.05}
}

// listen takes connections and hangs up.
func listen(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var taking sync.WaitGroup
	taking.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); taking.Wait() })
	return l.Addr().String()
}

// between is a time of chance.
func between(chance *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(chance.Int64N(int64(most-least)))
}

// harass kills a program at moments of chance and starts it again, until ctx ends;
// then it runs.
func harass(ctx context.Context, p *program, chance *rand.Rand, life, death time.Duration) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(between(chance, life/2, life*3/2)):
		}
		if err := p.kill(); err != nil {
			return err
		}
		<-time.After(between(chance, 0, death))
		if err := p.start(); err != nil {
			return err
		}
	}
}

func TestNothingIsLostWhenCollectorsAndTheBusAreKilledAgainAndAgain(t *testing.T) {
	const clusters = 50
	in := install(t, akeylesstest.Options{MaxSessions: 5_000_000})
	lasts, rate, lives := killing()
	hub := in.collect(configuration{ID: "hub", Clusters: scripted(clusters), Vendor: true})
	oslo := in.collect(configuration{ID: "agent-oslo", Clusters: []string{"oslo"}, Probed: listen(t)})
	rome := in.collect(configuration{ID: "agent-rome", Clusters: []string{"rome"}, Probed: listen(t)})

	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed is %d", seed)
	_, stop := in.play(akeyless.Script{
		Seed: seed, Clusters: akeyless.Uniform(clusters, 2, akeyless.Pair{}), Traffic: people(rate, clusters), Ordinary: akeyless.Failing{Rate: 0.02},
	})
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var killers sync.WaitGroup
	for i, victim := range []struct {
		*program
		life, death time.Duration
	}{{hub.program, 4 * time.Second, time.Second}, {oslo.program, 6 * time.Second, time.Second}, {rome.program, 8 * time.Second, time.Second}, {in.bus, 7 * time.Second, time.Second}} {
		chance := rand.New(rand.NewPCG(seed, uint64(i)))
		killers.Go(func() {
			if err := harass(ctx, victim.program, chance, time.Duration(lives)*victim.life, victim.death); err != nil {
				t.Error(err)
			}
		})
	}
	killers.Wait()
	stop()
	over := time.Now()
	in.drained()
	t.Logf("drained %s after the last session; killed: hub %d times, agents %d, the bus %d", time.Since(over).Round(time.Millisecond),
		hub.kills, oslo.kills+rome.kills, in.bus.kills)
	// Nobody writes any more: what is judged is the whole.
	for _, c := range []*collector{hub, oslo, rome} {
		c.stop()
		c.panics()
	}
	a := in.read()
	a.compare(in.truth)
	a.whole()
	a.kept()
	for _, c := range []*collector{oslo, rome} {
		// Each life of an agent looks at once and every second.
		if least := int(lasts/time.Second)/2 - 2*c.kills; a.checks[c.Clusters[0]] < least {
			t.Errorf("%s has %d probes in the stream, want at least %d", c.Clusters[0], a.checks[c.Clusters[0]], least)
		}
	}
	if kills := hub.kills + oslo.kills + rome.kills; kills < 6 || in.bus.kills < 2 {
		t.Errorf("only %d collectors and %d buses were killed, so little was tried", kills, in.bus.kills)
	}
}
