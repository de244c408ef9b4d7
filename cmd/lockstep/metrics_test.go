package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/kit/obs"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/services/executor"
	"github.com/lockstep-fleet/lockstep/services/notifier"
)

// What dashboards and alerts are built on: a name, a label or a bucket that
// changes here breaks them.
const exposition = `
# HELP lockstep_build_info What this process was built from; the value is always 1.
# TYPE lockstep_build_info gauge
lockstep_build_info{commit="abc",go="go1.26",version="1.2.3"} 1
# HELP lockstep_collector_dropped_total Observations that will never arrive, by kind and why; of damaged ones, messages.
# TYPE lockstep_collector_dropped_total counter
lockstep_collector_dropped_total{kind="session",why="full"} 5
# HELP lockstep_collector_failing_sources Sources that keep failing and are asked less often, by kind.
# TYPE lockstep_collector_failing_sources gauge
lockstep_collector_failing_sources{kind="inventory"} 1
# HELP lockstep_collector_observations_total Observations handed to the bus, by kind.
# TYPE lockstep_collector_observations_total counter
lockstep_collector_observations_total{kind="session"} 7
# HELP lockstep_collector_poll_seconds How long a poll of a source took.
# TYPE lockstep_collector_poll_seconds histogram
lockstep_collector_poll_seconds_bucket{kind="session",le="0.001"} 0
lockstep_collector_poll_seconds_bucket{kind="session",le="0.003"} 0
lockstep_collector_poll_seconds_bucket{kind="session",le="0.009"} 0
lockstep_collector_poll_seconds_bucket{kind="session",le="0.027"} 2
lockstep_collector_poll_seconds_bucket{kind="session",le="0.081"} 2
lockstep_collector_poll_seconds_bucket{kind="session",le="0.243"} 2
lockstep_collector_poll_seconds_bucket{kind="session",le="0.729"} 2
lockstep_collector_poll_seconds_bucket{kind="session",le="2.187"} 2
lockstep_collector_poll_seconds_bucket{kind="session",le="6.561"} 2
lockstep_collector_poll_seconds_bucket{kind="session",le="19.683"} 2
lockstep_collector_poll_seconds_bucket{kind="session",le="+Inf"} 2
lockstep_collector_poll_seconds_sum{kind="session"} 0.04
lockstep_collector_poll_seconds_count{kind="session"} 2
# HELP lockstep_collector_polls_total Polls of sources, by kind and outcome.
# TYPE lockstep_collector_polls_total counter
lockstep_collector_polls_total{kind="session",outcome="failed"} 1
lockstep_collector_polls_total{kind="session",outcome="ok"} 1
# HELP lockstep_collector_spool_bytes What waits on disk for the bus.
# TYPE lockstep_collector_spool_bytes gauge
lockstep_collector_spool_bytes 4096
# HELP lockstep_collector_spool_messages Messages that wait on disk for the bus.
# TYPE lockstep_collector_spool_messages gauge
lockstep_collector_spool_messages 3
# HELP lockstep_evaluator_clusters Clusters, by lockstep state.
# TYPE lockstep_evaluator_clusters gauge
lockstep_evaluator_clusters{state="dark"} 0
lockstep_evaluator_clusters{state="locked"} 2
# HELP lockstep_evaluator_decision_latency_seconds From a batch's arrival in the stream until everything that follows from it is decided.
# TYPE lockstep_evaluator_decision_latency_seconds histogram
lockstep_evaluator_decision_latency_seconds_bucket{le="0.001"} 0
lockstep_evaluator_decision_latency_seconds_bucket{le="0.002"} 0
lockstep_evaluator_decision_latency_seconds_bucket{le="0.004"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="0.008"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="0.016"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="0.032"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="0.064"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="0.128"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="0.256"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="0.512"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="1.024"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="2.048"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="4.096"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="8.192"} 1
lockstep_evaluator_decision_latency_seconds_bucket{le="+Inf"} 2
lockstep_evaluator_decision_latency_seconds_sum 60.003
lockstep_evaluator_decision_latency_seconds_count 2
# HELP lockstep_evaluator_decisions_total Facts decided, by noun and what was decided.
# TYPE lockstep_evaluator_decisions_total counter
lockstep_evaluator_decisions_total{noun="gate",what="pass"} 1
# HELP lockstep_evaluator_observations_total Observations taken in, by kind.
# TYPE lockstep_evaluator_observations_total counter
lockstep_evaluator_observations_total{kind="inventory"} 3
lockstep_evaluator_observations_total{kind="session"} 500
# HELP lockstep_executor_command_seconds From the first touch of a cluster until a command was done.
# TYPE lockstep_executor_command_seconds histogram
lockstep_executor_command_seconds_bucket{action="apply",le="0.1"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="0.2"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="0.4"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="0.8"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="1.6"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="3.2"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="6.4"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="12.8"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="25.6"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="51.2"} 0
lockstep_executor_command_seconds_bucket{action="apply",le="102.4"} 1
lockstep_executor_command_seconds_bucket{action="apply",le="204.8"} 1
lockstep_executor_command_seconds_bucket{action="apply",le="+Inf"} 1
lockstep_executor_command_seconds_sum{action="apply"} 90
lockstep_executor_command_seconds_count{action="apply"} 1
# HELP lockstep_executor_commands_total Commands done by the driver, by action and outcome.
# TYPE lockstep_executor_commands_total counter
lockstep_executor_commands_total{action="apply",outcome="ok"} 1
# HELP lockstep_executor_facts_total Rollout facts decided, by name.
# TYPE lockstep_executor_facts_total counter
lockstep_executor_facts_total{fact="step_passed"} 1
# HELP lockstep_notifier_notices_total Notices sent, by sink, kind and outcome.
# TYPE lockstep_notifier_notices_total counter
lockstep_notifier_notices_total{kind="rollout_succeeded",outcome="failed",sink="ops"} 1
lockstep_notifier_notices_total{kind="rollout_succeeded",outcome="ok",sink="ops"} 1
`

func telemetry(tb testing.TB) *obs.Telemetry {
	tb.Helper()
	out, err := obs.Start(tb.Context(), obs.Options{Service: "lockstep", Version: "1.2.3", Level: "info", Format: "text", Out: io.Discard})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestWhatIsCountedKeepsItsNames(t *testing.T) {
	t.Parallel()
	tel := telemetry(t)
	m, err := metersFor(tel.Meters, cli.Version{Version: "1.2.3", Commit: "abc", Go: "go1.26"})
	if err != nil {
		t.Fatal(err)
	}
	collecting, err := collector.NewMeter(tel.Meters)
	if err != nil {
		t.Fatal(err)
	}
	var (
		judging    evaluator.Meter = evaluatorMeter{m}
		conducting executor.Meter  = executorMeter{m}
		telling    notifier.Meter  = m
	)
	judging.Observed("inventory", 3)
	judging.Observed("session", 500)
	judging.Decided("gate", "pass")
	judging.States(map[string]int{"locked": 2, "dark": 0})
	judging.DecisionLatency(3 * time.Millisecond)
	judging.DecisionLatency(time.Minute)
	collecting.Polled("session", true, 20*time.Millisecond)
	collecting.Polled("session", false, 20*time.Millisecond)
	collecting.Published("session", 7)
	collecting.Dropped("session", "full", 5)
	collecting.Spooled(3, 4096)
	collecting.Broken("inventory", true)
	conducting.Decided("step_passed")
	conducting.Commanded("apply", false, 90*time.Second)
	telling.Sent("ops", "rollout_succeeded", false)
	telling.Sent("ops", "rollout_succeeded", true)

	w := httptest.NewRecorder()
	tel.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var got strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.Contains(line, "lockstep_") {
			got.WriteString(line)
		}
	}
	if diff := cmp.Diff(strings.TrimSpace(exposition), strings.TrimSpace(got.String())); diff != "" {
		t.Error(diff)
	}
}

// A message costs one of each.
func BenchmarkMeters(b *testing.B) {
	m, err := metersFor(telemetry(b).Meters, cli.Version{})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("count", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Observed("session", 500)
		}
	})
	b.Run("time", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.DecisionLatency(time.Millisecond)
			m.States(map[string]int{"locked": 2})
		}
	})
}
