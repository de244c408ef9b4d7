//go:build integration

package delivery_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/integration/fakes/akeyless"
)

// spooled is how many messages wait in a collector's spool.
const spooled = "lockstep_collector_spool_messages"

func TestWhatIsSeenWhileTheBusIsAwayComesInOrderWhenItIsBack(t *testing.T) {
	t.Parallel()
	const clusters, rate, before, away = 20, 100, 3 * time.Second, 17 * time.Second
	in := install(t, akeylesstest.Options{})
	hub := in.collect(configuration{ID: "hub", Clusters: scripted(clusters), Vendor: true})
	_, stop := in.play(akeyless.Script{
		Seed: 1, Clusters: akeyless.Uniform(clusters, 2, akeyless.Pair{}), Traffic: people(rate, clusters), Ordinary: akeyless.Failing{Rate: 0.02},
	})
	await(t, "the first sessions", func() string {
		if n := len(in.read().events); n == 0 {
			return "none is in the stream"
		}
		return ""
	})
	<-time.After(before)
	if err := in.bus.kill(); err != nil {
		t.Fatal(err)
	}
	back := time.After(away)
	started := len(in.truth.last())
	<-back
	if waiting := hub.metric(t, spooled); waiting < 100 {
		t.Errorf("after %s without a bus %g messages wait", away, waiting)
	}
	if met := len(in.truth.last()) - started; met < rate*int(away/time.Second)/2 {
		t.Errorf("only %d sessions started while the bus was away, so little was tried", met)
	}
	if err := in.bus.start(); err != nil {
		t.Fatal(err)
	}
	returned := time.Now()
	await(t, "the end of the spool", func() string {
		if waiting := hub.metric(t, spooled); waiting > 5 {
			return fmt.Sprintf("%g messages wait", waiting)
		}
		return ""
	})
	t.Logf("what waited was taken %s after the bus was back", time.Since(returned).Round(time.Millisecond))
	stop()
	in.drained()
	hub.stop()
	hub.panics()
	a := in.read()
	a.compare(in.truth)
	a.whole()
	a.kept()
}

func TestACollectorSaysWhenTheBusIsAwayAndThatItLives(t *testing.T) {
	t.Parallel()
	in := install(t, akeylesstest.Options{})
	oslo := in.collect(configuration{ID: "agent-oslo", Clusters: []string{"oslo"}, Probed: listen(t)})
	says := func(want int, word string) {
		t.Helper()
		await(t, fmt.Sprintf("a %d of /readyz", want), func() string {
			status, body := oslo.admin(t, "/readyz")
			if status == http.StatusNotFound {
				t.Fatalf("a collector has no /readyz: %s", body)
			}
			if status == want && strings.Contains(body, word) {
				return ""
			}
			return fmt.Sprintf("it answers %d %q", status, body)
		})
		if status, body := oslo.admin(t, "/livez"); status != http.StatusOK {
			t.Errorf("/livez answers %d %q", status, body)
		}
	}
	says(http.StatusOK, "")
	if err := in.bus.kill(); err != nil {
		t.Fatal(err)
	}
	says(http.StatusServiceUnavailable, "bus")
	if err := in.bus.start(); err != nil {
		t.Fatal(err)
	}
	says(http.StatusOK, "")
}
