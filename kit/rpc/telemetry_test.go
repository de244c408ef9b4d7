package rpc_test

import (
	"context"
	"maps"
	"testing"

	"connectrpc.com/connect/v2"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

func TestEveryCallIsCountedAndTraced(t *testing.T) {
	t.Parallel()
	reader, spans := metric.NewManualReader(), tracetest.NewSpanRecorder()
	meters, tracers := metric.NewMeterProvider(metric.WithReader(reader)), trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	url, _ := serve(t, rpc.Options{
		MeterProvider: meters, TracerProvider: tracers,
		Needs: func(procedure string) (rpc.Role, bool) {
			return map[string]rpc.Role{say().Procedure: rpc.Operator, look().Procedure: rpc.Viewer}[procedure], true
		},
	}, unary(say(), func(_ context.Context, text string) (string, error) {
		switch text {
		case "lost":
			return "", errs.New(errs.NotFound, "LS-TST-001", "it is not there")
		case "boom":
			panic("boom")
		}
		return text, nil
	}))
	for _, text := range []string{"hello", "hello", "lost", "boom"} {
		_, _ = call(t, url, "Bearer "+operator, text)
	}
	_, _ = call(t, url, "Bearer "+viewer, "hello")

	var got metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]uint64)
	for _, scope := range got.ScopeMetrics {
		for _, m := range scope.Metrics {
			points, ok := m.Data.(metricdata.Histogram[float64])
			if m.Name != "rpc.server.call.duration" || !ok {
				t.Errorf("a metric nobody asked for: %s", m.Name)
				continue
			}
			for _, p := range points.DataPoints {
				method, _ := p.Attributes.Value("rpc.method")
				status, _ := p.Attributes.Value("rpc.response.status_code")
				counts[method.AsString()+" "+status.AsString()] += p.Count
			}
		}
	}
	const method = "test.v1.EchoService/Say "
	want := map[string]uint64{method + "OK": 2, method + "NOT_FOUND": 1, method + "INTERNAL": 1, method + "PERMISSION_DENIED": 1}
	if !maps.Equal(counts, want) {
		t.Errorf("got %v, want %v", counts, want)
	}
	if ended := spans.Ended(); len(ended) != 5 {
		t.Errorf("%d spans, want 5", len(ended))
	}
}

func TestATraceIsLinkedToItsCause(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	url, _ := serve(t, rpc.Options{TracerProvider: trace.NewTracerProvider(trace.WithSpanProcessor(spans))}, unary(say(), echo))
	ctx, info := connect.NewClientContext(t.Context())
	info.RequestHeader().Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	client := dialects()[0].client(t, url, "Bearer "+viewer)
	if err := client.CallUnary(ctx, say(), wrapperspb.String(""), &wrapperspb.StringValue{}); err != nil {
		t.Fatal(err)
	}
	ended := spans.Ended()
	if len(ended) != 1 || len(ended[0].Links()) != 1 || ended[0].Links()[0].SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("got %v", ended)
	}
}
