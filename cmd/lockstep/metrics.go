package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
)

// meters counts for every service; each service sees only its own interface.
type meters struct {
	observed, evaluated    metric.Int64Counter
	latency                metric.Float64Histogram
	clusters               metric.Int64Gauge
	rolloutFacts, commands metric.Int64Counter
	commandSeconds         metric.Float64Histogram
	notices                metric.Int64Counter
}

// metersFor returns meters that count with a provider, and has it say what was
// built. Names are spelt as they are served.
func metersFor(provider metric.MeterProvider, build cli.Version) (*meters, error) {
	meter := provider.Meter("github.com/lockstep-fleet/lockstep")
	var failed []error
	counter := func(name, help string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithDescription(help))
		failed = append(failed, err)
		return c
	}
	seconds := func(name, help string, buckets []float64) metric.Float64Histogram {
		h, err := meter.Float64Histogram(name, metric.WithDescription(help), metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(buckets...))
		failed = append(failed, err)
		return h
	}
	gauge := func(name, help string) metric.Int64Gauge {
		g, err := meter.Int64Gauge(name, metric.WithDescription(help))
		failed = append(failed, err)
		return g
	}
	m := &meters{
		clusters:  gauge("lockstep_evaluator_clusters", "Clusters, by lockstep state."),
		observed:  counter("lockstep_evaluator_observations_total", "Observations taken in, by kind."),
		evaluated: counter("lockstep_evaluator_decisions_total", "Facts decided, by noun and what was decided."),
		latency: seconds("lockstep_evaluator_decision_latency_seconds", "From a batch's arrival in the stream until everything that follows from it is decided.",
			growing(0.001, 2, 14)),
		rolloutFacts:   counter("lockstep_executor_facts_total", "Rollout facts decided, by name."),
		commands:       counter("lockstep_executor_commands_total", "Commands done by the driver, by action and outcome."),
		commandSeconds: seconds("lockstep_executor_command_seconds", "From the first touch of a cluster until a command was done.", growing(0.1, 2, 12)),
		notices:        counter("lockstep_notifier_notices_total", "Notices sent, by sink, kind and outcome."),
	}
	_, err := meter.Int64ObservableGauge("lockstep_build_info", metric.WithDescription("What this process was built from; the value is always 1."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(1, metric.WithAttributes(
				attribute.String("version", build.Version), attribute.String("commit", build.Commit), attribute.String("go", build.Go)))
			return nil
		}))
	if err := errors.Join(append(failed, err)...); err != nil {
		return nil, fmt.Errorf("preparing the metrics: %w", err)
	}
	return m, nil
}

// growing returns n bounds of buckets, each factor times the one before.
func growing(first, factor float64, n int) []float64 {
	bounds := make([]float64, 0, n)
	for bound := first; len(bounds) < n; bound *= factor {
		// Labels are made of them: 0.009, and not what multiplying leaves of it.
		bounds = append(bounds, math.Round(bound*1e6)/1e6)
	}
	return bounds
}

func add(c metric.Int64Counter, n int, labels ...attribute.KeyValue) {
	c.Add(context.Background(), int64(n), metric.WithAttributes(labels...))
}

func record(h metric.Float64Histogram, took time.Duration, labels ...attribute.KeyValue) {
	h.Record(context.Background(), took.Seconds(), metric.WithAttributes(labels...))
}

func outcome(failed bool) attribute.KeyValue {
	if failed {
		return attribute.String("outcome", "failed")
	}
	return attribute.String("outcome", "ok")
}

func (m *meters) Observed(kind string, n int) { add(m.observed, n, attribute.String("kind", kind)) }

func (m *meters) States(clusters map[string]int) {
	for state, n := range clusters {
		m.clusters.Record(context.Background(), int64(n), metric.WithAttributes(attribute.String("state", state)))
	}
}

func (m *meters) DecisionLatency(d time.Duration) { record(m.latency, d) }

func (m *meters) Commanded(action string, failed bool, took time.Duration) {
	add(m.commands, 1, attribute.String("action", action), outcome(failed))
	record(m.commandSeconds, took, attribute.String("action", action))
}

func (m *meters) Sent(sink, kind string, failed bool) {
	add(m.notices, 1, attribute.String("sink", sink), attribute.String("kind", kind), outcome(failed))
}

// The evaluator and the executor both say Decided, of different things.
type evaluatorMeter struct{ *meters }

func (m evaluatorMeter) Decided(noun, what string) {
	add(m.evaluated, 1, attribute.String("noun", noun), attribute.String("what", what))
}

type executorMeter struct{ *meters }

func (m executorMeter) Decided(fact string) { add(m.rolloutFacts, 1, attribute.String("fact", fact)) }
