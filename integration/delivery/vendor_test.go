//go:build integration

package delivery_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/integration/fakes/akeyless"
)

// asked waits until the vendor's sessions were listed so many times more.
func (in *installation) asked(n int) {
	in.t.Helper()
	const call = "list-sra-sessions"
	before := in.vendor.Requests()[call]
	await(in.t, "calls of "+call, func() string {
		if made := in.vendor.Requests()[call] - before; made < n {
			return fmt.Sprintf("%d of %d were made", made, n)
		}
		return ""
	})
}

func TestAVendorThatMisbehavesCostsNoSessionAndNoFalsePromise(t *testing.T) {
	t.Parallel()
	const clusters, rate = 10, 60
	in := install(t, akeylesstest.Options{PageSize: 40})
	ids := scripted(clusters)
	hub := in.collect(configuration{ID: "hub", Clusters: ids, Vendor: true})
	script := akeyless.Script{Seed: 1, Clusters: akeyless.Uniform(clusters, 2, akeyless.Pair{}), Traffic: people(rate, clusters), Ordinary: akeyless.Failing{Rate: 0.1}}
	_, stop := in.play(script)
	in.asked(10)

	for _, c := range []struct {
		name      string
		misbehave func()
	}{
		{"tokens end between two pages", func() {
			for n := range 5 {
				in.vendor.ExpireTokensAfter(n + 1)
				in.asked(6)
			}
			in.vendor.ExpireTokensAfter(0)
		}},
		{"a proxy answers in HTML", func() { in.vendor.RespondHTML(7); in.asked(12) }},
		{"answers are cut", func() { in.vendor.RespondTruncated(7); in.asked(12) }},
		{"errors", func() { in.vendor.RespondError(7, 500, "internal error"); in.asked(12) }},
		{"what is empty is null", func() { in.vendor.SetNulls(true); in.asked(12); in.vendor.SetNulls(false) }},
		{"the year 1", func() { in.vendor.SetZeroTimes(true); in.asked(12); in.vendor.SetZeroTimes(false) }},
		{"sessions come twice", func() { in.vendor.SetDuplicates(true); in.asked(12); in.vendor.SetDuplicates(false) }},
		{"come back later", func() { in.vendor.RateLimit(4, time.Second); in.asked(8) }},
	} {
		c.misbehave()
		if !hub.lives() {
			t.Fatalf("%s: the collector ended", c.name)
		}
	}

	in.vendor.SetDown(true)
	var a *account
	await(t, "word that nothing is seen", func() string {
		a = in.read()
		for _, id := range ids {
			if !a.blind[id] {
				return "the newest mark of " + id + " is not blind"
			}
		}
		return ""
	})
	in.vendor.SetDown(false)
	await(t, "sight", func() string {
		a = in.read()
		for _, id := range ids {
			if a.blind[id] {
				return "the newest mark of " + id + " is blind"
			}
		}
		return ""
	})
	stop()
	in.drained()
	hub.stop()
	hub.panics()
	a = in.read()
	a.compare(in.truth)
	a.whole()
	a.kept()
}

func TestAVendorsClockThatIsWrongOrStepsCostsNoSessionAndNoFalsePromise(t *testing.T) {
	t.Parallel()
	const clusters, rate = 5, 20
	for name, skews := range map[string][]time.Duration{
		"ten minutes ahead":            {10 * time.Minute},
		"ten minutes behind":           {-10 * time.Minute},
		"it jumps ahead":               {0, 10 * time.Minute},
		"it steps back":                {0, -10 * time.Minute},
		"it is ahead, and steps back":  {10 * time.Minute, -10 * time.Minute},
		"it is behind, and jumps back": {-10 * time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := install(t, akeylesstest.Options{PageSize: 40})
			// The clock is wrong before anyone looks.
			in.vendor.SetClockSkew(skews[0])
			hub := in.collect(configuration{ID: "hub", Clusters: scripted(clusters), Vendor: true})
			for i, skew := range skews {
				_, stop := in.play(akeyless.Script{
					Seed: uint64(i + 1), Clusters: akeyless.Uniform(clusters, 2, akeyless.Pair{}), Traffic: people(rate, clusters), Ordinary: akeyless.Failing{Rate: 0.1}, ClockSkew: skew,
				})
				in.asked(16)
				stop()
			}
			// Nobody else is there when some sessions fail at once.
			for turn := range 2 {
				in.brief(turn, skews[len(skews)-1], scripted(clusters))
			}
			hub.stop()
			hub.panics()
			a := in.read()
			a.compare(in.truth)
			a.whole()
			a.kept()
		})
	}
}

// brief reports sessions that are over before anyone can see them open, and waits
// until someone must have.
func (in *installation) brief(turn int, skew time.Duration, clusters []string) {
	in.t.Helper()
	for _, cluster := range clusters {
		start := time.Now().Add(skew).Truncate(time.Millisecond)
		s := akeylesstest.Session{
			ID: fmt.Sprintf("brief-%s-%d", cluster, turn), Status: string(fleet.SessionFailed), StartTime: start, EndTime: start.Add(time.Millisecond),
			Gateway: akeylesstest.GatewayInfo{ClusterName: configuration{}.AtVendor(cluster)}, InstanceID: "ssh-0", UserIdentifier: "user",
			TargetHost: "db", TargetName: "db", TargetType: "ssh", ConnectionType: "ssh", ErrorMsg: "no",
		}
		if err := in.vendor.Report(s); err != nil {
			in.t.Fatal(err)
		}
		in.truth.observe(s)
	}
	// A poll that was under way may have missed them, and one takes a call for each of
	// up to four pages and one for what is active.
	in.asked(3 * 5)
}
