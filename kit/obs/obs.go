// Package obs owns how a process is seen from outside: its log, its metrics and
// its traces. It makes the providers that are handed to everything else and ends
// them; what is logged, counted and traced is not its business.
//
// Metrics are always counted and served to Prometheus. Nothing leaves the process
// otherwise unless the standard OTEL_* environment variables ask for it: traces
// with OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_ENDPOINT or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, metrics with OTEL_METRICS_EXPORTER or
// OTEL_EXPORTER_OTLP_METRICS_ENDPOINT. The variables are those of the process:
// the exporters read them themselves.
package obs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Options say what a process is called and how it logs.
type Options struct {
	// Service and Version name the process where traces and metrics are collected;
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
	Service, Version string
	// Level is debug, info, warn or error; Format is text or json.
	Level, Format string
	// Out takes the log.
	Out io.Writer
	// Globals is told, before anything else is made, where OpenTelemetry is to
	// leave its own errors and warnings. Only main may set such globals; where it
	// is nil they go to stderr as OpenTelemetry pleases.
	Globals func(otel.ErrorHandler, logr.Logger)
}

// Telemetry is what a process logs, counts and traces with.
type Telemetry struct {
	// Log adds trace_id and span_id when a record's context has a span.
	Log *slog.Logger
	// Traces makes spans that cost nothing unless traces are exported.
	Traces trace.TracerProvider
	Meters metric.MeterProvider

	registry *prometheus.Registry
	stop     []func(context.Context) error
}

// Start makes a process's telemetry. It connects to nobody: a collector that is
// not there is logged when something was to be sent to it.
func Start(ctx context.Context, opts Options) (*Telemetry, error) {
	log, err := newLogger(opts)
	if err != nil {
		return nil, err
	}
	if opts.Globals != nil {
		opts.Globals(&complaints{log: log}, logr.New(warnings{log}))
	}
	disabled, err := readEnv()
	if err != nil {
		return nil, err
	}
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		semconv.ServiceName(opts.Service), semconv.ServiceVersion(opts.Version), semconv.ServiceInstanceID(rand.Text()),
	), resource.WithFromEnv())
	if err != nil {
		return nil, wrong("OTEL_RESOURCE_ATTRIBUTES cannot be read: %w; write name=value, several parted by commas", err)
	}
	t := &Telemetry{Log: log, Traces: noop.NewTracerProvider(), registry: prometheus.NewRegistry()}
	if err := t.count(ctx, res, disabled); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	if err := t.trace(ctx, res, disabled); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	return t, nil
}

// count sets up metrics. Prometheus is served even where OpenTelemetry is
// disabled: nobody is sent anything that way.
func (t *Telemetry) count(ctx context.Context, res *resource.Resource, disabled bool) error {
	err := errors.Join(
		t.registry.Register(collectors.NewGoCollector()),
		t.registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
	)
	if err != nil {
		return fmt.Errorf("setting up the metrics of the process: %w", err)
	}
	// Names are completed with what Prometheus expects, never doubled; which library
	// counts and what the process is called would be labels on everything.
	exporter, err := otelprometheus.New(otelprometheus.WithRegisterer(t.registry), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo(),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes))
	if err != nil {
		return fmt.Errorf("setting up the metrics for Prometheus: %w", err)
	}
	opts := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(exporter)}
	if !disabled {
		reader, err := metricReader(ctx)
		if err != nil {
			return err
		}
		if reader != nil {
			opts = append(opts, sdkmetric.WithReader(reader))
		}
	}
	provider := sdkmetric.NewMeterProvider(opts...)
	t.Meters = provider
	t.stop = append(t.stop, provider.Shutdown)
	return nil
}

// trace sets up traces, when they are wanted.
func (t *Telemetry) trace(ctx context.Context, res *resource.Resource, disabled bool) error {
	if disabled {
		return nil
	}
	exporter, err := spanExporter(ctx)
	if exporter == nil || err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithBatcher(exporter))
	t.Traces = provider
	t.stop = append(t.stop, provider.Shutdown)
	return nil
}

// MetricsHandler serves everything that is counted in Prometheus' text format.
func (t *Telemetry) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{})
}

// Shutdown hands over what was traced and counted until now and ends both; the
// log stays. It returns when ctx ends, whatever the collectors do; the error says
// what is lost by that.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	lost := make([]error, len(t.stop))
	var stopping sync.WaitGroup
	for i, stop := range t.stop {
		// Side by side, or a collector that hangs takes the time of the other.
		stopping.Go(func() { lost[i] = stop(ctx) })
	}
	stopping.Wait()
	return errors.Join(lost...)
}

// wrong says that a setting cannot be followed.
func wrong(format string, args ...any) error {
	return errs.New(errs.Invalid, "LS-CFG-020", format, args...)
}
