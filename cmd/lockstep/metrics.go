package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// meters counts for every service; each service sees only its own interface.
type meters struct {
	registry *prometheus.Registry

	observed, evaluated    *prometheus.CounterVec
	latency                prometheus.Histogram
	polls, published       *prometheus.CounterVec
	pollSeconds            *prometheus.HistogramVec
	rolloutFacts, commands *prometheus.CounterVec
	commandSeconds         *prometheus.HistogramVec
	notices                *prometheus.CounterVec
}

func newMeters() *meters {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	f := promauto.With(r)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	return &meters{
		registry:  r,
		observed:  counter("lockstep_evaluator_observations_total", "Observations taken in, by kind.", "kind"),
		evaluated: counter("lockstep_evaluator_decisions_total", "Facts decided, by noun and what was decided.", "noun", "what"),
		latency: f.NewHistogram(prometheus.HistogramOpts{
			Name: "lockstep_evaluator_decision_latency_seconds", Help: "From a batch's arrival in the stream until everything that follows from it is decided.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		polls:     counter("lockstep_collector_polls_total", "Polls of sources, by source and outcome.", "source", "outcome"),
		published: counter("lockstep_collector_observations_total", "Observations handed to the bus, by source.", "source"),
		pollSeconds: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lockstep_collector_poll_seconds", Help: "How long a poll of a source took.", Buckets: prometheus.ExponentialBuckets(0.001, 3, 10),
		}, []string{"source"}),
		rolloutFacts: counter("lockstep_executor_facts_total", "Rollout facts decided, by name.", "fact"),
		commands:     counter("lockstep_executor_commands_total", "Commands done by the driver, by action and outcome.", "action", "outcome"),
		commandSeconds: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "lockstep_executor_command_seconds", Help: "From the first touch of a cluster until a command was done.",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 12),
		}, []string{"action"}),
		notices: counter("lockstep_notifier_notices_total", "Notices sent, by sink, kind and outcome.", "sink", "kind", "outcome"),
	}
}

func outcome(failed bool) string {
	if failed {
		return "failed"
	}
	return "ok"
}

func (m *meters) Observed(kind string, n int) { m.observed.WithLabelValues(kind).Add(float64(n)) }

func (m *meters) DecisionLatency(d time.Duration) { m.latency.Observe(d.Seconds()) }

func (m *meters) Polled(source string, failed bool, took time.Duration) {
	m.polls.WithLabelValues(source, outcome(failed)).Inc()
	m.pollSeconds.WithLabelValues(source).Observe(took.Seconds())
}

func (m *meters) Published(source string, n int) {
	m.published.WithLabelValues(source).Add(float64(n))
}

func (m *meters) Commanded(action string, failed bool, took time.Duration) {
	m.commands.WithLabelValues(action, outcome(failed)).Inc()
	m.commandSeconds.WithLabelValues(action).Observe(took.Seconds())
}

func (m *meters) Sent(sink, kind string, failed bool) {
	m.notices.WithLabelValues(sink, kind, outcome(failed)).Inc()
}

// The evaluator and the executor both say Decided, of different things.
type evaluatorMeter struct{ *meters }

func (m evaluatorMeter) Decided(noun, what string) { m.evaluated.WithLabelValues(noun, what).Inc() }

type executorMeter struct{ *meters }

func (m executorMeter) Decided(fact string) { m.rolloutFacts.WithLabelValues(fact).Inc() }
