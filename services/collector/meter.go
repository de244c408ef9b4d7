package collector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// meter counts with OpenTelemetry. Names are spelt as they are served.
type meter struct {
	polls, published, dropped metric.Int64Counter
	pollSeconds               metric.Float64Histogram
	waiting, waitingBytes     metric.Int64Gauge
	broken                    metric.Int64UpDownCounter
}

// NewMeter returns what counts a collector's work with a provider.
func NewMeter(provider metric.MeterProvider) (Meter, error) {
	of := provider.Meter("github.com/lockstep-fleet/lockstep/services/collector")
	var failed [7]error
	m := &meter{}
	m.polls, failed[0] = of.Int64Counter("lockstep_collector_polls_total", metric.WithDescription("Polls of sources, by kind and outcome."))
	m.published, failed[1] = of.Int64Counter("lockstep_collector_observations_total", metric.WithDescription("Observations handed to the bus, by kind."))
	m.dropped, failed[2] = of.Int64Counter("lockstep_collector_dropped_total",
		metric.WithDescription("Observations that will never arrive, by kind and why; of damaged ones, messages."))
	m.pollSeconds, failed[3] = of.Float64Histogram("lockstep_collector_poll_seconds", metric.WithDescription("How long a poll of a source took."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.001, 0.003, 0.009, 0.027, 0.081, 0.243, 0.729, 2.187, 6.561, 19.683))
	m.waiting, failed[4] = of.Int64Gauge("lockstep_collector_spool_messages", metric.WithDescription("Messages that wait on disk for the bus."))
	m.waitingBytes, failed[5] = of.Int64Gauge("lockstep_collector_spool_bytes", metric.WithDescription("What waits on disk for the bus."), metric.WithUnit("By"))
	m.broken, failed[6] = of.Int64UpDownCounter("lockstep_collector_failing_sources", metric.WithDescription("Sources that keep failing and are asked less often, by kind."))
	if err := errors.Join(failed[:]...); err != nil {
		return nil, fmt.Errorf("preparing the collector's metrics: %w", err)
	}
	return m, nil
}

func ofKind(kind string, more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(append(more, attribute.String("kind", kind))...)
}

func (m *meter) Polled(kind string, failed bool, took time.Duration) {
	outcome := "ok"
	if failed {
		outcome = "failed"
	}
	m.polls.Add(context.Background(), 1, ofKind(kind, attribute.String("outcome", outcome)))
	m.pollSeconds.Record(context.Background(), took.Seconds(), ofKind(kind))
}

func (m *meter) Published(kind string, observations int) {
	m.published.Add(context.Background(), int64(observations), ofKind(kind))
}

func (m *meter) Dropped(kind, why string, observations int) {
	m.dropped.Add(context.Background(), int64(observations), ofKind(kind, attribute.String("why", why)))
}

func (m *meter) Spooled(messages uint64, bytes int64) {
	m.waiting.Record(context.Background(), int64(messages))
	m.waitingBytes.Record(context.Background(), bytes)
}

func (m *meter) Broken(kind string, broken bool) {
	step := int64(-1)
	if broken {
		step = 1
	}
	m.broken.Add(context.Background(), step, ofKind(kind))
}
