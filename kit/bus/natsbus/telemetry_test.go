package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// observed is a world whose spans and metrics are kept.
func observed(t *testing.T) (*world, *tracetest.SpanRecorder, *sdkmetric.ManualReader) {
	t.Helper()
	spans, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	w := newWorld(t, natsbus.Options{
		InProcess: startServer(t, t.TempDir(), 0),
		Tracers:   sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)),
		Meters:    sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
		Now:       func() time.Time { return time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.FixedZone("east", 3600)) },
	}, 0)
	return w, spans, reader
}

// ended returns the spans of a name, waiting for as many as there are to be.
func ended(t *testing.T, spans *tracetest.SpanRecorder, name string, n int) []sdktrace.ReadOnlySpan {
	t.Helper()
	var found []sdktrace.ReadOnlySpan
	eventually(t, fmt.Sprintf("%d spans %q", n, name), func() bool {
		found = found[:0]
		for _, s := range spans.Ended() {
			if s.Name() == name {
				found = append(found, s)
			}
		}
		return len(found) == n
	})
	return found
}

// about checks some of a span's attributes.
func about(t *testing.T, s sdktrace.ReadOnlySpan, want map[attribute.Key]any) {
	t.Helper()
	for key, value := range want {
		i := slices.IndexFunc(s.Attributes(), func(a attribute.KeyValue) bool { return a.Key == key })
		if i < 0 || s.Attributes()[i].Value.AsInterface() != value {
			t.Errorf("span %s: attribute %s is not %v in %v", s.Name(), key, value, s.Attributes())
		}
	}
}

func TestATraceGoesFromMessageToMessage(t *testing.T) {
	t.Parallel()
	w, spans, _ := observed(t)
	publish(t, w.Bus, "log.a", "1")
	c := worker(time.Minute)
	c.Filters = []string{"log.a"}
	failures := 1
	consume(t, w.Bus, c, func(ctx context.Context, d bus.Delivery) error {
		expect(t, "the sender's clock", d.SentAt.Equal(time.Date(2026, 11, 23, 9, 0, 0, 123456789, time.UTC)), true)
		if failures--; failures >= 0 {
			return errors.New("not now")
		}
		_, err := w.Publish(ctx, bus.Message{Subject: "log.b", Type: "test.Answer"})
		return err
	})
	sent := ended(t, spans, "publish test.Text", 1)[0]
	handled := ended(t, spans, "process LOG", 2)
	answer := ended(t, spans, "publish test.Answer", 1)[0]
	expect(t, "kind of sending", sent.SpanKind(), trace.SpanKindProducer)
	about(t, sent, map[attribute.Key]any{
		"messaging.system": "nats", "messaging.operation.type": "send", "messaging.operation.name": "publish",
		"messaging.destination.name": "log.a", "messaging.message.body.size": int64(1),
	})
	for i, s := range handled {
		expect(t, "kind of handling", s.SpanKind(), trace.SpanKindConsumer)
		expect(t, "parent of handling", s.Parent().SpanID(), sent.SpanContext().SpanID())
		expect(t, "trace of handling", s.SpanContext().TraceID(), sent.SpanContext().TraceID())
		expect(t, "error of handling", s.Status().Description, []string{"not now", ""}[i])
		about(t, s, map[attribute.Key]any{
			"messaging.system": "nats", "messaging.operation.type": "process", "messaging.operation.name": "process",
			"messaging.destination.name": "LOG", "messaging.consumer.group.name": "worker", "messaging.message.id": "LOG/1",
		})
	}
	expect(t, "parent of the answer", answer.Parent().SpanID(), handled[1].SpanContext().SpanID())
}

func TestABatchIsLinkedToAllItFollowsFrom(t *testing.T) {
	t.Parallel()
	w, spans, _ := observed(t)
	publish(t, w.Bus, "log.a", "1", "2")
	if _, err := w.PublishBatch(limited(t), numbered("log.a", 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.js.Publish(limited(t), "log.a", nil); err != nil {
		t.Fatal(err)
	}
	total, done := 0, make(chan bool, 1)
	stop := consumeBatch(t, w.Bus, worker(time.Minute), func(_ context.Context, batch []bus.Delivery) (int, error) {
		if total += len(batch); total == 6 {
			done <- true
		}
		return len(batch), nil
	})
	next(t, "all", done)
	expect(t, "end", stop(), nil)
	want := map[trace.SpanID]int{}
	for _, s := range ended(t, spans, "publish test.Text", 3) {
		if len(want) < 2 {
			want[s.SpanContext().SpanID()] = 1
			continue
		}
		want[s.SpanContext().SpanID()] = 3
		about(t, s, map[attribute.Key]any{"messaging.batch.message_count": int64(3)})
	}
	messages := int64(0)
	for _, s := range spans.Ended() {
		if s.Name() != "process LOG" {
			continue
		}
		expect(t, "kind", s.SpanKind(), trace.SpanKindConsumer)
		expect(t, "has a parent", s.Parent().IsValid(), false)
		for _, l := range s.Links() {
			want[l.SpanContext.SpanID()]--
		}
		for _, a := range s.Attributes() {
			if a.Key == "messaging.batch.message_count" {
				messages += a.Value.AsInt64()
			}
		}
	}
	for id, left := range want {
		expect(t, fmt.Sprintf("links missing to %s", id), left, 0)
	}
	expect(t, "messages", messages, 6)
}

func TestMessagesAreCounted(t *testing.T) {
	t.Parallel()
	w, _, reader := observed(t)
	handled := make(chan bool, 10)
	consume(t, w.Bus, worker(time.Minute), func(_ context.Context, d bus.Delivery) error {
		defer func() { handled <- true }()
		switch {
		case string(d.Data) == "bad":
			return bus.Permanent(errors.New("bad"))
		case d.Deliveries == 1:
			return errors.New("not now")
		}
		return nil
	})
	batches := worker(time.Minute)
	batches.Durable = "batches"
	batches.DeadLetter = "letters.batches"
	consumeBatch(t, w.Bus, batches, func(_ context.Context, batch []bus.Delivery) (int, error) {
		if i := slices.IndexFunc(batch, func(d bus.Delivery) bool { return string(d.Data) == "bad" }); i >= 0 {
			return i, bus.Permanent(errors.New("bad"))
		}
		return len(batch), nil
	})
	publish(t, w.Bus, "log.a", "good", "bad")
	if _, err := w.PublishBatch(limited(t), []bus.Message{text("log.b", "bad"), text("log.b", "bad")}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		next(t, "a handled message", handled)
	}
	want := strings.Join([]string{
		"lockstep_bus_dead_letters_total consumer=batches 3",
		"lockstep_bus_dead_letters_total consumer=worker 3",
		"lockstep_bus_handled_messages_total consumer=batches,outcome=given_up 3",
		"lockstep_bus_handled_messages_total consumer=batches,outcome=ok 1",
		"lockstep_bus_handled_messages_total consumer=worker,outcome=given_up 3",
		"lockstep_bus_handled_messages_total consumer=worker,outcome=ok 1",
		"lockstep_bus_handled_messages_total consumer=worker,outcome=retried 1",
		"lockstep_bus_handling_seconds consumer=batches s",
		"lockstep_bus_handling_seconds consumer=worker 5 s",
		"lockstep_bus_published_messages_total stream=LOG 4",
	}, "\n")
	var got string
	eventually(t, "the counts", func() bool { got = counts(t, reader); return got == want || t.Context().Err() != nil })
	expect(t, "counts", got, want)
}

// counts writes metrics down, one a line. How many batches there were is chance.
func counts(t *testing.T, reader *sdkmetric.ManualReader) string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					lines = append(lines, fmt.Sprintf("%s %s %d", m.Name, labels(p.Attributes), p.Value))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					line := fmt.Sprintf("%s %s %d %s", m.Name, labels(p.Attributes), p.Count, m.Unit)
					if labels(p.Attributes) == "consumer=batches" && p.Count > 0 {
						line = fmt.Sprintf("%s consumer=batches %s", m.Name, m.Unit)
					}
					lines = append(lines, line)
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func labels(set attribute.Set) string {
	var out []string
	for _, a := range set.ToSlice() {
		out = append(out, string(a.Key)+"="+a.Value.AsString())
	}
	return strings.Join(out, ",")
}
