//go:build linux && amd64

package evaluator_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
)

// backtestDaysOf is how many days of history a backtest is made over.
const backtestDaysOf = "LOCKSTEP_BACKTEST_DAYS"

// Sessions are listed every ten seconds. What began since is told then, what ended in a
// second row within the hour; two of a hundred fail and have one row.
const generatePast = `
INSERT INTO session_events
    (tenant, cluster, start_time, session_id, status, user_name, target, instance_id, end_time, failure, protocol, target_type, probe, observed_at,
     source, incarnation, part, source_sequence, stream_sequence, stream_index, recorded_at, version)
WITH intDiv(number, 2) AS n, number %% 2 AS k, cityHash64(n, '%[1]s') AS h, toInt64(intDiv(n * 3600000, %[2]d)) + toInt64(h %% 9000) AS began, h %% 100 < 2 AS failed,
     began + if(k = 1, toInt64(h %% 3600000), 0) AS known, intDiv(known, 10000) + 1 AS poll
SELECT 'default', '%[1]s', fromUnixTimestamp64Milli(toInt64(%[3]d + began)), lower(hex(h)), if(failed, 'failed', ['connected', 'completed'][k + 1]),
       concat('person.', toString(h %% 2000), '@example.org'), concat('/targets/production/host-', toString(intDiv(h, 7) %% 500)), 'akeyless-ssh-0',
       if(k = 1, fromUnixTimestamp64Milli(toInt64(%[3]d + known)), toDateTime64(0, 9, 'UTC')), if(failed, 'target', ''), 'ssh', 'ssh-target', false,
       fromUnixTimestamp64Milli(toInt64(%[3]d + poll * 10000)), 'hub-session', '0123456789ab', 0, poll, poll, n %% 4000, fromUnixTimestamp64Milli(toInt64(%[3]d + poll * 10000)), 1
FROM numbers(%[4]d)
WHERE known < toInt64(%[5]d) AND NOT (failed AND k = 1)`

// Behind what a poll brought comes its mark.
const generateMarks = `
INSERT INTO progress_marks
    (tenant, cluster, observed_at, complete_until, source, incarnation, part, source_sequence, stream_sequence, stream_index, recorded_at, version, about)
WITH number + 1 AS poll
SELECT 'default', '%[1]s', fromUnixTimestamp64Milli(toInt64(%[3]d + poll * 10000)), fromUnixTimestamp64Milli(toInt64(%[3]d + poll * 10000)),
       'hub-session', '0123456789ab', 0, poll, poll, 4000, fromUnixTimestamp64Milli(toInt64(%[3]d + poll * 10000)), 1, 'session'
FROM numbers(%[5]d / 10000)`

// readStretch is what a backtest has read of a cluster at once.
type readStretch struct {
	cluster fleet.ClusterID
	span    codec.Span
	near    []codec.Span
}

// reader is a store that notes what backtests read.
type reader struct {
	*clickhouse.Store
	sessions, rows atomic.Int64

	mu        sync.Mutex
	stretches []readStretch
}

// Stretch counts a session where its first row is told.
func (r *reader) Stretch(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, span codec.Span, near []codec.Span, fn func(codec.Record)) error {
	r.mu.Lock()
	r.stretches = append(r.stretches, readStretch{cluster, span, near})
	r.mu.Unlock()
	sessions, rows := int64(0), int64(0)
	defer func() { r.sessions.Add(sessions); r.rows.Add(rows) }()
	return r.Store.Stretch(ctx, tenant, cluster, span, near, func(record codec.Record) {
		rows++
		if s := record.Session; s != nil && s.Status != fleet.SessionCompleted {
			sessions++
		}
		fn(record)
	})
}

// again reads what was read, two clusters at a time, and does nothing with it.
func (r *reader) again(ctx context.Context) error {
	read := make(map[fleet.ClusterID][]readStretch)
	for _, s := range r.stretches {
		read[s.cluster] = append(read[s.cluster], s)
	}
	clusters := make(chan []readStretch, len(read))
	for _, of := range read {
		clusters <- of
	}
	close(clusters)
	var (
		running sync.WaitGroup
		failed  [2]error
	)
	for i := range failed {
		running.Go(func() {
			for of := range clusters {
				for _, s := range of {
					failed[i] = cmp.Or(failed[i], r.Store.Stretch(ctx, fleet.DefaultTenant, s.cluster, s.span, s.near, func(codec.Record) {}))
				}
			}
		})
	}
	running.Wait()
	return errors.Join(failed[:]...)
}

// engineTime is what the engine has had of the processors.
func engineTime(b *testing.B) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", engine.PID()))
	if err != nil {
		b.Fatal(err)
	}
	// Behind the name, which may hold anything, fields 14 and 15 of them all: in
	// hundredths of a second, in user and in system mode.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(string(field))
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BenchmarkBacktest tries a policy on what is stored of some clusters, as the command
// asks for it: 20 fake steps of each with a day's baseline, alone and with a curve of
// four shares. A cluster's history is of 180 days, and its sessions are listed every ten
// seconds. It tells the sessions that were replayed, each once however many steps and
// shares take it in, by the time it took; what reading alone takes; and what 1,000
// clusters would take, since each is read by itself.
func BenchmarkBacktest(b *testing.B) {
	days := 180
	if text := os.Getenv(backtestDaysOf); text != "" {
		var err error
		if days, err = strconv.Atoi(text); err != nil {
			b.Fatalf("%s: %v", backtestDaysOf, err)
		}
	}
	for _, of := range []struct {
		name              string
		clusters, perHour int
	}{
		{"quiet", 6, 20},
		{"busy", 2, 500},
	} {
		b.Run(of.name, func(b *testing.B) {
			p := newPlant(b, of.clusters)
			r := &reader{Store: p.tables()}
			to := time.Now().UTC().Truncate(time.Hour)
			from := to.AddDate(0, 0, -days)
			p.past(r.Store, from, to, of.perHour)
			gates := p.serve(r)
			for _, c := range []struct {
				name   string
				inject []float64
			}{{"policy", nil}, {"curve", []float64{0.01, 0.02, 0.05, 0.1}}} {
				b.Run(c.name, func(b *testing.B) {
					tried(b, r, gates, &gatev1.BacktestPolicyRequest{
						Policy: codec.PolicyToProto(gate.DefaultPolicy()), From: timestamppb.New(from), To: timestamppb.New(to), Seed: 1, Inject: c.inject,
					})
				})
			}
			b.Run("reading", func(b *testing.B) {
				ours, engines := processor(b), engineTime(b)
				for b.Loop() {
					if err := r.again(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
				r.report(b, of.clusters, ours, engines)
			})
		})
	}
}

// tried makes a backtest over and over.
func tried(b *testing.B, r *reader, gates gatev1connect.GateServiceClient, req *gatev1.BacktestPolicyRequest) {
	b.Helper()
	var clusters int64
	ours, engines := processor(b), engineTime(b)
	for b.Loop() {
		r.sessions.Store(0)
		r.rows.Store(0)
		r.stretches = nil
		report, err := backtested(b.Context(), gates, req)
		if err != nil {
			b.Fatal(err)
		}
		if clusters = report.GetClusters(); len(report.GetSkipped()) > 0 || !report.GetComplete() {
			b.Fatalf("the backtest left out %v", report.GetSkipped())
		}
	}
	r.report(b, int(clusters), ours, engines)
}

// report tells what one round took, of which the reader knows what it read.
func (r *reader) report(b *testing.B, clusters int, ours, engines time.Duration) {
	b.Helper()
	round := b.Elapsed().Seconds() / float64(b.N)
	perMillion := func(used time.Duration) float64 {
		return used.Seconds() / float64(b.N) / float64(r.sessions.Load()) * 1e6
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(r.sessions.Load())/round, "sessions/s")
	b.ReportMetric(float64(r.rows.Load())/round, "rows/s")
	b.ReportMetric(float64(r.sessions.Load())/float64(clusters), "sessions/cluster")
	b.ReportMetric(round/float64(clusters)*1000/60, "1000-clusters-min")
	b.ReportMetric(perMillion(processor(b)-ours), "cpu-s/M")
	b.ReportMetric(perMillion(engineTime(b)-engines), "engine-cpu-s/M")
}

// backtested returns the last report.
func backtested(ctx context.Context, gates gatev1connect.GateServiceClient, req *gatev1.BacktestPolicyRequest) (last *gatev1.BacktestReport, err error) {
	stream, err := gates.BacktestPolicy(ctx, req)
	if err != nil {
		return nil, err
	}
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return nil, err
		}
		if m.GetReport() != nil {
			last = m.GetReport()
		}
	}
}

// past stores a history of every cluster, merged as one is that has stood for long, and
// counts it.
func (p *plant) past(s *clickhouse.Store, from, to time.Time, perHour int) {
	p.b.Helper()
	exec := func(statement string) {
		if err := s.Conn().Exec(p.b.Context(), statement); err != nil {
			p.b.Fatal(err)
		}
	}
	length := to.Sub(from)
	rows := 2 * perHour * int(length/time.Hour)
	for _, id := range slices.Concat(p.parts[:]...) {
		exec(fmt.Sprintf(generatePast, id, perHour, from.UnixMilli(), rows, length.Milliseconds()))
		exec(fmt.Sprintf(generateMarks, id, perHour, from.UnixMilli(), rows, length.Milliseconds()))
	}
	exec("OPTIMIZE TABLE session_events FINAL")
	exec("OPTIMIZE TABLE progress_marks FINAL")
	if err := s.RollUp(p.b.Context(), fleet.DefaultTenant); err != nil {
		p.b.Fatal(err)
	}
}

// serve runs an evaluator and returns what asks it about gates.
func (p *plant) serve(s evaluator.Store) gatev1connect.GateServiceClient {
	p.b.Helper()
	service := evaluator.New(p.config(), evaluator.Deps{
		Bus: p.events, Store: s, Documents: documents{}, Log: slog.New(slog.DiscardHandler), Meter: &meter{}, Now: time.Now,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	p.b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.b.Error(err)
		}
	})
	select {
	case <-service.Ready():
	case err := <-done:
		done <- err
		p.b.Fatalf("the evaluator ended: %v", err)
	}
	api := connect.NewServer()
	gatev1connect.RegisterGateServiceHandler(api, service.Handlers().Gate)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, api)
	web := httptest.NewServer(mux)
	p.b.Cleanup(web.Close)
	return gatev1connect.NewGateServiceClient(connect.NewClient(connecthttp.NewTransport(web.Client(), web.URL)))
}
