package evaluator

import (
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

type uncounted struct{}

func (uncounted) Observed(string, int)          {}
func (uncounted) Decided(string, string)        {}
func (uncounted) DecisionLatency(time.Duration) {}
func (uncounted) States(map[string]int)         {}

// BenchmarkPass judges 5,000 clusters of ten instances of which nothing has changed,
// as is done every second, and with the look for twins, as every half a minute.
func BenchmarkPass(b *testing.B) {
	w, _ := watched(5000)
	w.deps.Meter = uncounted{}
	for partition := range w.held {
		w.held[partition] = b.Context()
	}
	now := w.deps.Now()
	// A state that has changed would need a bus, and there is none.
	w.limits.DarkAfter = 24 * time.Hour
	for id, c := range w.clusters {
		inventory := fleet.Inventory{Cluster: id, ObservedAt: now}
		for i := range 10 {
			inventory.Instances = append(inventory.Instances, fleet.Instance{
				ID: fleet.InstanceID(fmt.Sprintf("%s-%d", id, i)), Component: fleet.Gateway, Version: "1", Health: fleet.HealthHealthy, StartedAt: now,
			})
		}
		c.drift = c.drift.Observe(inventory)
		c.period = drift.PeriodOf(c.drift, w.judged(c, now), now)
	}
	for name, paired := range map[string]bool{"judged": false, "paired": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				w.paired = now
				if paired {
					w.paired = time.Time{}
				}
				if err := w.pass(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
