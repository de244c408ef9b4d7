package natsbus

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// scope is under which name the bus traces and counts.
const scope = "github.com/lockstep-fleet/lockstep/kit/bus/natsbus"

// What became of a message in a handler's hands.
const (
	handledOK      = "ok"
	handledRetried = "retried"
	handledGivenUp = "given_up"
)

// telemetry traces and counts what goes over the bus.
type telemetry struct {
	tracer    trace.Tracer
	handled   metric.Int64Counter
	handling  metric.Float64Histogram
	published metric.Int64Counter
	letters   metric.Int64Counter
}

func newTelemetry(tracers trace.TracerProvider, meters metric.MeterProvider) (telemetry, error) {
	if tracers == nil {
		tracers = tracenoop.NewTracerProvider()
	}
	if meters == nil {
		meters = metricnoop.NewMeterProvider()
	}
	t := telemetry{tracer: tracers.Tracer(scope)}
	meter := meters.Meter(scope)
	for _, c := range []struct {
		to         *metric.Int64Counter
		name, text string
	}{
		{&t.handled, "lockstep_bus_handled_messages_total", "Messages that handlers answered, by consumer and outcome: ok, retried or given_up."},
		{&t.published, "lockstep_bus_published_messages_total", "Messages that a stream acknowledged, by stream."},
		{&t.letters, "lockstep_bus_dead_letters_total", "Messages given up and kept as dead letters, by consumer."},
	} {
		counter, err := meter.Int64Counter(c.name, metric.WithUnit("{message}"), metric.WithDescription(c.text))
		if err != nil {
			return telemetry{}, fmt.Errorf("making the counter %s: %w", c.name, err)
		}
		*c.to = counter
	}
	const seconds = "lockstep_bus_handling_seconds"
	handling, err := meter.Float64Histogram(seconds, metric.WithUnit("s"),
		metric.WithDescription("How long handlers took for a message, or for a batch, by consumer."),
		metric.WithExplicitBucketBoundaries(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60))
	if err != nil {
		return telemetry{}, fmt.Errorf("making the histogram %s: %w", seconds, err)
	}
	t.handling = handling
	return t, nil
}

// publishing begins the span of messages that are sent together.
func (t telemetry) publishing(ctx context.Context, messages ...bus.Message) (context.Context, trace.Span) {
	about := []attribute.KeyValue{
		semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationTypeSend, semconv.MessagingOperationName("publish"),
		semconv.MessagingDestinationName(messages[0].Subject),
	}
	if len(messages) > 1 {
		about = append(about, semconv.MessagingBatchMessageCount(len(messages)))
	} else {
		about = append(about, semconv.MessagingMessageBodySize(len(messages[0].Data)))
	}
	return t.tracer.Start(ctx, "publish "+messages[0].Type, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(about...))
}

// stored counts messages that a stream acknowledged.
func (t telemetry) stored(ctx context.Context, stream string, n int) {
	t.published.Add(ctx, int64(n), metric.WithAttributes(attribute.String("stream", stream)))
}

// processing begins the span of a handler's call. Options place it in a trace.
func (t telemetry) processing(ctx context.Context, c bus.Consumer, about attribute.KeyValue, placed ...trace.SpanStartOption) (context.Context, trace.Span) {
	return t.tracer.Start(ctx, "process "+c.Stream, append(placed, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
		semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationTypeProcess, semconv.MessagingOperationName("process"),
		semconv.MessagingDestinationName(c.Stream), semconv.MessagingConsumerGroupName(c.Durable), about,
	))...)
}

// processed ends a handler's call that began at a time.
func (t telemetry) processed(ctx context.Context, span trace.Span, c bus.Consumer, began time.Time, err error) {
	t.handling.Record(ctx, time.Since(began).Seconds(), metric.WithAttributes(attribute.String("consumer", c.Durable)))
	failed(span, err)
	span.End()
}

// answered counts messages by what became of them.
func (t telemetry) answered(ctx context.Context, c bus.Consumer, outcome string, n int) {
	if n > 0 {
		t.handled.Add(ctx, int64(n), metric.WithAttributes(attribute.String("consumer", c.Durable), attribute.String("outcome", outcome)))
	}
}

// failed marks a span whose work ended with an error.
func failed(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
}
