package backtest_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/backtest"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// BenchmarkReplay folds fake steps over generated histories on every core, a cluster
// on each. What counts is folded/s, the sessions taken in by all folds together, and
// folded/processor-s, the same by the processor's time, whatever else the machine
// does. sessions/s are those of the history.
func BenchmarkReplay(b *testing.B) {
	for name, c := range map[string]struct {
		perHour, days int
		lookback      time.Duration
		steps         int
		inject        []float64
	}{
		"small_cluster_day":    {20, 60, 24 * time.Hour, 20, nil},
		"small_cluster_curve":  {20, 60, 24 * time.Hour, 20, []float64{0.01, 0.02, 0.05, 0.1}},
		"small_cluster_28days": {20, 60, 28 * 24 * time.Hour, 20, nil},
		"busy_cluster_day":     {2000, 10, 24 * time.Hour, 10, nil},
		"busy_cluster_curve":   {2000, 10, 24 * time.Hour, 10, []float64{0.01, 0.02, 0.05, 0.1}},
	} {
		b.Run(name, func(b *testing.B) {
			length := time.Duration(c.days) * 24 * time.Hour
			rows := history{from: monday(), length: length, perHour: c.perHour, failing: always(0.02)}.rows()
			p := gate.DefaultPolicy()
			cases := []backtest.Case{{Policy: p}}
			for _, share := range c.inject {
				cases = append(cases, backtest.Case{Policy: p, Inject: share})
			}
			steps := backtest.Fakes(backtest.Choice{
				Cluster: paris, Seed: 1, Within: gate.Span{From: monday(), To: monday().Add(length)}, Steps: c.steps, Lookback: c.lookback, Deadline: p.Deadline,
			})
			var starts []time.Time
			for _, r := range rows {
				if r.session != nil {
					starts = append(starts, r.session.Start)
				}
			}
			folded := 0
			for _, s := range steps {
				for _, at := range starts {
					if !at.Before(s.Boundary.BaselineFrom) && at.Before(s.Boundary.End.Add(p.Deadline)) {
						folded += len(cases)
					}
				}
			}
			b.ReportAllocs()
			b.ResetTimer()
			used := processor(b)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					replay(b, cases, steps, rows, monday().Add(length))
				}
			})
			b.ReportMetric(float64(len(starts))*float64(b.N)/b.Elapsed().Seconds(), "sessions/s")
			b.ReportMetric(float64(folded)*float64(b.N)/b.Elapsed().Seconds(), "folded/s")
			b.ReportMetric(float64(folded)*float64(b.N)/(processor(b)-used).Seconds(), "folded/processor-s")
		})
	}
}

// processor is the time that this process has had of the processors.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
