package obs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	metricspb "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/obs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = 30 * time.Second

func options(out io.Writer) obs.Options {
	return obs.Options{Service: "beacon", Version: "1.2.3", Level: "info", Format: "text", Out: out}
}

// environment replaces all OTEL_* variables. A test that calls it runs by itself.
func environment(t *testing.T, vars map[string]string) {
	t.Helper()
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range vars {
		t.Setenv(name, value)
	}
}

func start(t *testing.T, opts obs.Options) *obs.Telemetry {
	t.Helper()
	telemetry, err := obs.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := telemetry.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return telemetry
}

// collector takes what is exported to it over HTTP.
type collector struct {
	url     string
	traces  chan *tracepb.ExportTraceServiceRequest
	metrics chan *metricspb.ExportMetricsServiceRequest
}

func collect(t *testing.T) *collector {
	t.Helper()
	c := &collector{traces: make(chan *tracepb.ExportTraceServiceRequest, 10), metrics: make(chan *metricspb.ExportMetricsServiceRequest, 10)}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(_ http.ResponseWriter, r *http.Request) {
		m := new(tracepb.ExportTraceServiceRequest)
		read(t, r, m)
		c.traces <- m
	})
	mux.HandleFunc("POST /v1/metrics", func(_ http.ResponseWriter, r *http.Request) {
		m := new(metricspb.ExportMetricsServiceRequest)
		read(t, r, m)
		c.metrics <- m
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func read(t *testing.T, r *http.Request, m proto.Message) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, m)
	}
	if err != nil {
		t.Error(err)
	}
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case m := <-from:
		return m
	case <-time.After(patience):
		t.Fatal("nothing was exported")
		panic("unreachable")
	}
}

func attributes(r *resourcepb.Resource) map[string]string {
	out := make(map[string]string)
	for _, a := range r.GetAttributes() {
		out[a.GetKey()] = a.GetValue().GetStringValue()
	}
	return out
}

func scrape(telemetry *obs.Telemetry) string {
	w := httptest.NewRecorder()
	telemetry.MetricsHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// lines returns those with a word in them.
func lines(text, word string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func mentions(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in: %s", word, text)
		}
	}
}

func TestTheLogFollowsItsLevelAndFormat(t *testing.T) {
	environment(t, nil)
	for _, test := range []struct {
		level, format string
		want          []string
	}{
		{"debug", "text", []string{"level=DEBUG msg=one", "level=INFO msg=two", "level=WARN msg=three", "level=ERROR msg=four"}},
		{"info", "text", []string{"level=INFO msg=two", "level=WARN msg=three", "level=ERROR msg=four"}},
		{"warn", "json", []string{`"level":"WARN","msg":"three"}`, `"level":"ERROR","msg":"four"}`}},
		{"error", "json", []string{`"level":"ERROR","msg":"four"}`}},
	} {
		var out bytes.Buffer
		opts := options(&out)
		opts.Level, opts.Format = test.level, test.format
		log := start(t, opts).Log
		log.Debug("one")
		log.Info("two")
		log.Warn("three")
		log.Error("four")
		got := lines(out.String(), "")
		if len(got) != len(test.want) {
			t.Errorf("%s %s: %q", test.level, test.format, got)
			continue
		}
		for i, want := range test.want {
			mentions(t, got[i], want)
		}
	}
}

func TestALogLineNamesTheSpanItWasWrittenIn(t *testing.T) {
	environment(t, nil)
	var out bytes.Buffer
	telemetry := start(t, options(&out))
	caller := propagation.MapCarrier{"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"}
	ctx := propagation.TraceContext{}.Extract(t.Context(), caller)
	telemetry.Log.With("part", "bus").InfoContext(ctx, "inside")
	telemetry.Log.Info("outside")
	const ids = " trace_id=0123456789abcdef0123456789abcdef span_id=0123456789abcdef"
	got := lines(out.String(), "")
	if len(got) != 2 || !strings.HasSuffix(got[0], "msg=inside part=bus"+ids) || !strings.HasSuffix(got[1], "msg=outside") {
		t.Errorf("got %q", got)
	}

	// A caller's trace goes on even where nothing is exported.
	ctx, span := telemetry.Traces.Tracer("test").Start(ctx, "work")
	span.End()
	passed := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, passed)
	if diff := cmp.Diff(caller, passed); diff != "" {
		t.Error(diff)
	}
}

func TestMetricsAreServedUnderTheirOwnNames(t *testing.T) {
	environment(t, nil)
	telemetry := start(t, options(io.Discard))
	meter := telemetry.Meters.Meter("test", metric.WithInstrumentationVersion("7"))
	spelt, err1 := meter.Int64Counter("beacon_flashes_total", metric.WithDescription("Flashes."))
	dotted, err2 := meter.Int64Counter("beacon.turns")
	seconds, err3 := meter.Float64Histogram("beacon_wait_seconds", metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(0.1, 1))
	millis, err4 := meter.Float64Histogram("rpc.server.duration", metric.WithUnit("ms"), metric.WithExplicitBucketBoundaries(1))
	info, err5 := meter.Int64Gauge("beacon_build_info")
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		t.Fatal(err)
	}
	spelt.Add(t.Context(), 2, metric.WithAttributes(attribute.String("colour", "red")))
	dotted.Add(t.Context(), 3)
	seconds.Record(t.Context(), 0.5)
	millis.Record(t.Context(), 0.5)
	info.Record(t.Context(), 1, metric.WithAttributes(attribute.String("version", "1.2.3")))

	text := scrape(telemetry)
	want := []string{
		`# HELP beacon_flashes_total Flashes.`,
		`# TYPE beacon_build_info gauge`,
		`# TYPE beacon_flashes_total counter`,
		`# TYPE beacon_turns_total counter`,
		`# TYPE beacon_wait_seconds histogram`,
		`beacon_build_info{version="1.2.3"} 1`,
		`beacon_flashes_total{colour="red"} 2`,
		`beacon_turns_total 3`,
		`beacon_wait_seconds_bucket{le="0.1"} 0`,
		`beacon_wait_seconds_bucket{le="1"} 1`,
		`beacon_wait_seconds_bucket{le="+Inf"} 1`,
		`beacon_wait_seconds_sum 0.5`,
		`beacon_wait_seconds_count 1`,
		`rpc_server_duration_milliseconds_count 1`,
		`# TYPE go_goroutines gauge`,
		`# TYPE process_open_fds gauge`,
	}
	for _, line := range want {
		if got := lines(text, line); len(got) != 1 || got[0] != line {
			t.Errorf("%s: %q", line, got)
		}
	}
	for _, noise := range []string{"_total_total", "_seconds_seconds", "otel_scope", "target_info"} {
		if got := lines(text, noise); len(got) > 0 {
			t.Errorf("%s: %q", noise, got)
		}
	}
}

func TestNothingIsSentUnlessAsked(t *testing.T) {
	for name, vars := range map[string]map[string]string{
		"by default":                {},
		"not even with other names": {"OTEL_SERVICE_NAME": "other", "OTEL_TRACES_SAMPLER": "always_on"},
		"none":                      {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "COLLECTOR"},
		"disabled":                  {"OTEL_SDK_DISABLED": "TRUE", "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "COLLECTOR"},
	} {
		t.Run(name, func(t *testing.T) {
			c := collect(t)
			for k, v := range vars {
				vars[k] = strings.ReplaceAll(v, "COLLECTOR", c.url)
			}
			environment(t, vars)
			before := goleak.IgnoreCurrent()
			telemetry, err := obs.Start(t.Context(), options(io.Discard))
			if err != nil {
				t.Fatal(err)
			}
			if err := goleak.Find(before); err != nil {
				t.Errorf("something runs: %v", err)
			}
			counter, err := telemetry.Meters.Meter("test").Int64Counter("beacon_flashes_total")
			if err != nil {
				t.Fatal(err)
			}
			counter.Add(t.Context(), 1)
			_, span := telemetry.Traces.Tracer("test").Start(t.Context(), "work")
			if span.IsRecording() {
				t.Error("a span is recorded that goes nowhere")
			}
			span.End()
			// What was to be sent would be, now at the latest.
			if err := telemetry.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if len(c.traces)+len(c.metrics) > 0 {
				t.Error("something was sent")
			}
		})
	}
}

func TestPrometheusIsServedWhereOpenTelemetryIsDisabled(t *testing.T) {
	environment(t, map[string]string{"OTEL_SDK_DISABLED": "true"})
	telemetry := start(t, options(io.Discard))
	counter, err := telemetry.Meters.Meter("test").Int64Counter("beacon_flashes_total")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1)
	mentions(t, scrape(telemetry), "\nbeacon_flashes_total 1\n")
}

func TestSpansReachACollector(t *testing.T) {
	for name, test := range map[string]struct {
		vars             map[string]string
		service, version string
	}{
		"an endpoint asks for traces": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "COLLECTOR"}, "beacon", "1.2.3"},
		"so does one for traces":      {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "COLLECTOR/v1/traces"}, "beacon", "1.2.3"},
		"the environment names the service": {map[string]string{
			"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "COLLECTOR",
			"OTEL_SERVICE_NAME": "lighthouse", "OTEL_RESOURCE_ATTRIBUTES": "service.version=9,service.name=loses",
		}, "lighthouse", "9"},
	} {
		t.Run(name, func(t *testing.T) {
			c := collect(t)
			for k, v := range test.vars {
				test.vars[k] = strings.ReplaceAll(v, "COLLECTOR", c.url)
			}
			environment(t, test.vars)
			telemetry, err := obs.Start(t.Context(), options(t.Output()))
			if err != nil {
				t.Fatal(err)
			}
			_, span := telemetry.Traces.Tracer("test").Start(t.Context(), "work")
			span.End()
			// The end hands over what is left.
			if err := telemetry.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			sent := receive(t, c.traces).GetResourceSpans()[0]
			spans := sent.GetScopeSpans()[0].GetSpans()
			if len(spans) != 1 || spans[0].GetName() != "work" {
				t.Errorf("spans: %v", spans)
			}
			got := attributes(sent.GetResource())
			if got["service.name"] != test.service || got["service.version"] != test.version || got["service.instance.id"] == "" {
				t.Errorf("resource: %v", got)
			}
			if len(c.metrics) > 0 {
				t.Error("metrics were sent that nobody asked for")
			}
		})
	}
}

func TestASamplerDecidesWhatIsTraced(t *testing.T) {
	c := collect(t)
	environment(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.url, "OTEL_TRACES_SAMPLER": "parentbased_always_off"})
	telemetry := start(t, options(t.Output()))
	ctx, span := telemetry.Traces.Tracer("test").Start(t.Context(), "own")
	if span.IsRecording() {
		t.Error("a trace of its own is recorded")
	}
	span.End()
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"})
	_, span = telemetry.Traces.Tracer("test").Start(ctx, "asked for")
	if !span.IsRecording() {
		t.Error("a trace that its caller records is not")
	}
	span.End()
}

func TestMetricsReachACollectorThatAsks(t *testing.T) {
	for _, variable := range []string{"OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"} {
		c := collect(t)
		vars := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": c.url, "OTEL_METRICS_EXPORTER": "otlp"}
		if variable != "OTEL_METRICS_EXPORTER" {
			vars = map[string]string{variable: c.url + "/v1/metrics"}
		}
		environment(t, vars)
		telemetry, err := obs.Start(t.Context(), options(t.Output()))
		if err != nil {
			t.Fatal(err)
		}
		counter, err := telemetry.Meters.Meter("test").Int64Counter("beacon_flashes_total")
		if err != nil {
			t.Fatal(err)
		}
		counter.Add(t.Context(), 1)
		if err := telemetry.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		sent := receive(t, c.metrics).GetResourceMetrics()[0]
		if got := sent.GetScopeMetrics()[0].GetMetrics()[0].GetName(); got != "beacon_flashes_total" {
			t.Errorf("%s: %s", variable, got)
		}
		if got := attributes(sent.GetResource()); got["service.name"] != "beacon" {
			t.Errorf("%s: %v", variable, got)
		}
	}
}

func TestWhatCannotBeFollowedIsToldAtTheStart(t *testing.T) {
	for name, test := range map[string]struct {
		vars    map[string]string
		change  func(*obs.Options)
		mention []string
	}{
		"level":  {nil, func(o *obs.Options) { o.Level = "loud" }, []string{`"loud"`, "debug, info, warn or error"}},
		"format": {nil, func(o *obs.Options) { o.Format = "xml" }, []string{`"xml"`, "text or json"}},
		"an exporter nobody knows": {
			map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, nil, []string{"OTEL_TRACES_EXPORTER", `"zipkin"`, "otlp or none"},
		},
		"an exporter of metrics nobody knows": {
			map[string]string{"OTEL_METRICS_EXPORTER": "statsd"}, nil, []string{"OTEL_METRICS_EXPORTER", `"statsd"`},
		},
		"a protocol nobody speaks": {
			map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier-pigeon"}, nil,
			[]string{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"},
		},
		"an address without a scheme": {
			map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, nil, []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"},
		},
		"an address that is none": {
			map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://user:hunter2@[::1"}, nil, []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"},
		},
		"neither on nor off":     {map[string]string{"OTEL_SDK_DISABLED": "yes"}, nil, []string{"OTEL_SDK_DISABLED", `"yes"`, "true or false"}},
		"a sampler nobody knows": {map[string]string{"OTEL_TRACES_SAMPLER": "some"}, nil, []string{"OTEL_TRACES_SAMPLER", `"some"`, "parentbased_always_on"}},
		"a share above all": {
			map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10"}, nil, []string{"OTEL_TRACES_SAMPLER_ARG", `"10"`, "0 to 1"},
		},
		"a share that is no number": {
			map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "NaN"}, nil, []string{"OTEL_TRACES_SAMPLER_ARG", `"NaN"`},
		},
		"attributes without values": {
			map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "team"}, nil, []string{"OTEL_RESOURCE_ATTRIBUTES", "team", "name=value"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, test.vars)
			opts := options(io.Discard)
			if test.change != nil {
				test.change(&opts)
			}
			_, err := obs.Start(t.Context(), opts)
			if err == nil {
				t.Fatal("it started")
			}
			mentions(t, err.Error(), append(test.mention, "LS-CFG-020")...)
			if errs.KindOf(err) != errs.Invalid || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestACollectorThatIsAwayDoesNotHoldUpTheStart(t *testing.T) {
	away := httptest.NewServer(nil)
	away.Close()
	for _, protocol := range []string{"http/protobuf", "grpc"} {
		environment(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": away.URL, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
		began := time.Now()
		start(t, options(t.Output()))
		// Far below the ten seconds that an export may take.
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s: it took %s", protocol, took)
		}
	}
}

func TestACollectorThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	released := make(chan struct{})
	hanging := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-released }))
	defer hanging.Close()
	defer close(released)
	environment(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": hanging.URL, "OTEL_METRICS_EXPORTER": "otlp"})
	telemetry, err := obs.Start(t.Context(), options(t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	_, span := telemetry.Traces.Tracer("test").Start(t.Context(), "work")
	span.End()
	counter, err := telemetry.Meters.Meter("test").Int64Counter("beacon_flashes_total")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1)
	const limit = 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	if err := telemetry.Shutdown(ctx); err == nil {
		t.Error("what was lost is not told")
	}
	if took := time.Since(began); took > limit+3*time.Second {
		t.Errorf("it took %s", took)
	}
}

// globals starts telemetry and returns what it wants to be global.
func globals(t *testing.T, out io.Writer) (handler otel.ErrorHandler, log logr.Logger) {
	t.Helper()
	opts := options(out)
	opts.Globals = func(h otel.ErrorHandler, l logr.Logger) { handler, log = h, l }
	if _, err := obs.Start(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	return handler, log
}

func TestComplaintsAreToldOnceInAWhile(t *testing.T) {
	environment(t, nil)
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		handler, _ := globals(t, &out)
		// A collector that is away for two and a half minutes.
		for range 30 {
			handler.Handle(errors.New("connection refused"))
			<-time.After(5 * time.Second)
		}
		var got []string
		for _, line := range lines(out.String(), "level=WARN") {
			_, attrs, _ := strings.Cut(line, " error=")
			got = append(got, attrs)
		}
		want := []string{`"connection refused" untold=0`, `"connection refused" untold=11`, `"connection refused" untold=11`}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", diff, out.String())
		}
	})
}

func TestWarningsGoToTheLogAndKeepSecrets(t *testing.T) {
	environment(t, nil)
	var out bytes.Buffer
	_, log := globals(t, &out)
	log.Error(errors.New("missing '='"), "parse headers", "input", "hunter2")
	log.V(1).Info("duplicate metric", "name", "beacon")
	log.V(4).Info("provider created")
	got := out.String()
	mentions(t, got, `level=ERROR`, `error="parse headers: missing '='"`, `level=WARN`, `says="duplicate metric" about=namebeacon`)
	if len(lines(got, "")) != 2 || strings.Contains(got, "hunter2") {
		t.Errorf("got:\n%s", got)
	}
}

func BenchmarkSpanThatIsNotExported(b *testing.B) {
	telemetry, err := obs.Start(b.Context(), options(io.Discard))
	if err != nil {
		b.Fatal(err)
	}
	tracer := telemetry.Traces.Tracer("bench")
	b.ReportAllocs()
	for b.Loop() {
		_, span := tracer.Start(b.Context(), "work")
		span.End()
	}
}
