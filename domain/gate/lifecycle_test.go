package gate

import (
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestLifecycleCounts(t *testing.T) {
	t.Parallel()
	const maturation, ttl = 2 * time.Minute, time.Hour
	until := noon.Add(3 * time.Hour)
	one := func(status fleet.SessionStatus, age, took time.Duration) fleet.Session {
		s := fleet.Session{ID: "s", Cluster: paris, Status: status, Start: until.Add(-age)}
		if took >= 0 {
			s.End = s.Start.Add(took)
		}
		return s
	}
	probe := one(fleet.SessionConnecting, time.Hour, -1)
	probe.Probe = true
	for _, tt := range []struct {
		name    string
		session fleet.Session
		ttl     time.Duration
		want    Lifecycle
	}{
		{"may still connect", one(fleet.SessionConnecting, maturation, -1), ttl, Lifecycle{}},
		{"stuck", one(fleet.SessionConnecting, maturation+1, -1), ttl, Lifecycle{Sessions: 1, Stuck: 1}},
		{"open", one(fleet.SessionConnected, ttl+maturation, -1), ttl, Lifecycle{Sessions: 1}},
		{"overlong", one(fleet.SessionConnected, ttl+maturation+1, -1), ttl, Lifecycle{Sessions: 1, Overlong: 1}},
		{"nobody says how long it may be", one(fleet.SessionConnected, 3*ttl, -1), 0, Lifecycle{Sessions: 1}},
		{"ended", one(fleet.SessionCompleted, ttl, time.Second), ttl, Lifecycle{Sessions: 1}},
		{"brief", one(fleet.SessionCompleted, ttl, time.Second-1), ttl, Lifecycle{Sessions: 1, Brief: 1}},
		{"terminated at once", one(fleet.SessionTerminated, ttl, 0), ttl, Lifecycle{Sessions: 1, Brief: 1}},
		{"ended, nobody knows when", one(fleet.SessionCompleted, ttl, -1), ttl, Lifecycle{Sessions: 1}},
		{"failed", one(fleet.SessionFailed, ttl, 0), ttl, Lifecycle{Sessions: 1}},
		{"vanished", one(fleet.SessionVanished, ttl, -1), ttl, Lifecycle{Sessions: 1, Vanished: 1}},
		{"a probe", probe, ttl, Lifecycle{}},
	} {
		var got Lifecycle
		if got.Count(tt.session, maturation, tt.ttl, until); got != tt.want {
			t.Errorf("%s counts as %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		baseline, now Lifecycle
		verdict       Verdict
		codes         string
	}{
		{"nobody came", Lifecycle{Sessions: 100}, Lifecycle{}, Inconclusive, "no_data"},
		{"nobody was there before", Lifecycle{}, Lifecycle{Sessions: 100, Stuck: 100}, Inconclusive, "no_baseline"},
		{"too few", Lifecycle{Sessions: 100}, Lifecycle{Sessions: 19, Stuck: 4}, Pending, "collecting"},
		{"few, and most are odd", Lifecycle{Sessions: 100}, Lifecycle{Sessions: 6, Stuck: 5}, Hold, "stuck collecting"},
		{"as before", Lifecycle{Sessions: 100, Stuck: 3, Brief: 40}, Lifecycle{Sessions: 50, Stuck: 2, Brief: 21}, Pass, "like_before"},
		{"too few are odd", Lifecycle{Sessions: 100}, Lifecycle{Sessions: 20, Stuck: 4}, Pass, "like_before"},
		{"not above the limit", Lifecycle{Sessions: 100, Stuck: 5}, Lifecycle{Sessions: 100, Stuck: 15}, Pass, "like_before"},
		{"above it", Lifecycle{Sessions: 100, Stuck: 5}, Lifecycle{Sessions: 100, Stuck: 16}, Hold, "stuck"},
		{"every way", Lifecycle{Sessions: 100}, Lifecycle{Sessions: 40, Stuck: 10, Overlong: 10, Brief: 10, Vanished: 10}, Hold, "stuck overlong brief vanished"},
		{"large counts", Lifecycle{Sessions: 10_000_000}, Lifecycle{Sessions: 10_000_000, Vanished: 10_000_000}, Hold, "vanished"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := LifecycleFacts{Baseline: tt.baseline, New: tt.now, At: noon}.Judge()
			wantResult(t, got, tt.verdict, tt.codes, nil)
			if got.Figures["new"] != int64(tt.now.Sessions) || got.Figures["baseline_stuck"] != int64(tt.baseline.Stuck) {
				t.Errorf("figures are %v", got.Figures)
			}
		})
	}
}
