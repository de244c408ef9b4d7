package obs

import (
	"context"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// What asks for an export, and where to.
const (
	tracesTo  = "OTEL_TRACES_EXPORTER"
	metricsTo = "OTEL_METRICS_EXPORTER"

	endpoint        = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesEndpoint  = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	metricsEndpoint = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
)

// readEnv finds what the exporters would only stumble over later, and whether
// all of OpenTelemetry is switched off.
func readEnv() (disabled bool, err error) {
	const switchOff = "OTEL_SDK_DISABLED"
	switch value := os.Getenv(switchOff); strings.ToLower(value) {
	case "true":
		return true, nil
	case "", "false":
	default:
		return false, wrong("%s is %q; write true or false", switchOff, value)
	}
	for _, name := range []string{endpoint, tracesEndpoint, metricsEndpoint} {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		u, err := url.Parse(value)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return false, wrong("%s is not a URL of http or https with a host; write one such as http://localhost:4318", name)
		}
	}
	return false, readSampler()
}

// readSampler looks at which traces are recorded: with a sampler that it does not
// know, OpenTelemetry would record all of them.
func readSampler() error {
	const (
		name, ratio = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
		known       = "always_on always_off traceidratio parentbased_always_on parentbased_always_off parentbased_traceidratio"
	)
	sampler := strings.ToLower(strings.TrimSpace(os.Getenv(name)))
	if sampler == "" {
		return nil
	}
	if !slices.Contains(strings.Fields(known), sampler) {
		return wrong("%s is %q; choose one of %s", name, sampler, known)
	}
	value := strings.TrimSpace(os.Getenv(ratio))
	if value == "" || !strings.HasSuffix(sampler, "traceidratio") {
		return nil
	}
	if share, err := strconv.ParseFloat(value, 64); err != nil || !(share >= 0 && share <= 1) {
		return wrong("%s is %q; write a share from 0 to 1", ratio, value)
	}
	return nil
}

// spanExporter returns nil when nobody asks for traces.
func spanExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	if !asked(tracesTo, endpoint, tracesEndpoint) {
		return nil, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, unfit("traces", tracesTo, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", err)
	}
	if autoexport.IsNoneSpanExporter(exporter) {
		return nil, nil
	}
	return exporter, nil
}

// metricReader returns nil when nobody asks for metrics to be sent.
func metricReader(ctx context.Context) (sdkmetric.Reader, error) {
	if !asked(metricsTo, metricsEndpoint) {
		return nil, nil
	}
	reader, err := autoexport.NewMetricReader(ctx)
	if err != nil {
		return nil, unfit("metrics", metricsTo, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", err)
	}
	if autoexport.IsNoneMetricReader(reader) {
		return nil, nil
	}
	return reader, nil
}

func asked(names ...string) bool {
	for _, name := range names {
		if os.Getenv(name) != "" {
			return true
		}
	}
	return false
}

func unfit(what, exporter, protocol string, err error) error {
	return wrong("exporting %s: %w; check %s (otlp or none, here %q), %s and OTEL_EXPORTER_OTLP_PROTOCOL (grpc or http/protobuf)",
		what, err, exporter, os.Getenv(exporter), protocol)
}
