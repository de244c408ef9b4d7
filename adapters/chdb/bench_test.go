//go:build linux && amd64

package chdb

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// BenchmarkStart is how long a child takes until it serves.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	var all []time.Duration
	for b.Loop() {
		began := time.Now()
		engine, err := Start(limited(b, time.Minute), Options{Args: []string{childCommand}, Library: libraryPath(b), DataDir: dir})
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(began))
		stopEngine(b, engine)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(median(all).Milliseconds()), "ready-p50-ms")
}

// BenchmarkInsert stores sessions through the store and, as the block that the
// store sends, with the engine called directly.
func BenchmarkInsert(b *testing.B) {
	direct, store, engine := both(b)
	for _, rows := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			data := blockOf(b, engine, records(0, rows))
			statement := fmt.Sprintf("INSERT INTO session_events SELECT * FROM file('/proc/%d/fd/%d', Native)", os.Getpid(), data.Fd())
			var one, all []time.Duration
			for b.Loop() {
				batch := records(rows*len(all), rows)
				one = append(one, took(func() { direct(statement) }))
				all = append(all, took(func() {
					if err := store.InsertRecords(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
				}))
			}
			compare(b, one, all)
			b.ReportMetric(float64(rows)/median(one).Seconds(), "direct-rows/s")
			b.ReportMetric(float64(rows)/median(all).Seconds(), "store-rows/s")
		})
	}
}

// BenchmarkSelect asks for two numbers of ten million sessions.
func BenchmarkSelect(b *testing.B) {
	direct, store, _ := both(b)
	const many = `INSERT INTO session_events (tenant, cluster, start_time, session_id, status, user_name)
		SELECT 'default', 'cluster-' || toString(intDiv(number, 200000) + 10), toDateTime64('2026-01-01 00:00:00', 9, 'UTC') + intDiv(number, 10), toString(number),
		       if(number % 50 = 7, 'failed', 'connected'), 'user-' || toString(number % 1000)
		FROM numbers(10000000)`
	direct(many)
	if err := store.Conn().Exec(b.Context(), many); err != nil {
		b.Fatal(err)
	}
	for name, sql := range map[string]string{
		"count":    "SELECT count() FROM session_events",
		"filtered": "SELECT count() FROM session_events WHERE user_name = 'user-7' AND status = 'failed'",
	} {
		b.Run(name, func(b *testing.B) {
			var one, all []time.Duration
			for b.Loop() {
				one = append(one, took(func() { direct(sql) }))
				all = append(all, took(func() {
					var n uint64
					if err := store.Conn().QueryRow(b.Context(), sql).Scan(&n); err != nil || n == 0 {
						b.Fatal(n, err)
					}
				}))
			}
			compare(b, one, all)
			b.ReportMetric(float64(median(one).Microseconds())/1000, "direct-p50-ms")
			b.ReportMetric(float64(median(all).Microseconds())/1000, "store-p50-ms")
		})
	}
}

// both opens the same tables twice: through the whole way of a statement, which
// is store, client, socket and child, and with the engine called directly in this
// process, with the same settings.
func both(b *testing.B) (direct func(sql string), store *clickhouse.Store, engine *Engine) {
	b.Helper()
	lib, err := loadLibrary(libraryPath(b))
	if err != nil {
		b.Fatal(err)
	}
	p, err := newPool(lib, b.TempDir(), 1, func(string, ...any) {})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.close)
	direct = func(sql string) {
		m, err := p.acquire(b.Context(), session{database: defaultDatabase, settings: map[string]string{
			// As the store sets them, where an insert's speed depends on it.
			"max_insert_block_size": "1048576", "min_insert_block_size_rows": "1048576", "min_insert_block_size_bytes": "268435456", "max_insert_threads": "1",
		}})
		if err != nil {
			b.Fatal(err)
		}
		defer p.release(m)
		if _, err := m.conn.query(sql, nil); err != nil {
			b.Fatal(err)
		}
	}
	files, err := clickhouse.Migrations()
	if err != nil {
		b.Fatal(err)
	}
	engine = startEngine(b, b.TempDir())
	store = openStore(b, engine.DialContext)
	pending, err := store.Pending(b.Context(), files)
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range pending {
		for _, statement := range m.Statements {
			direct(statement)
		}
	}
	if _, err := store.Migrate(b.Context(), files); err != nil {
		b.Fatal(err)
	}
	return direct, store, engine
}

// compare reports how much of the engine's own speed is left through the store.
func compare(b *testing.B, direct, store []time.Duration) {
	b.ReportMetric(100*median(direct).Seconds()/median(store).Seconds(), "%-of-direct")
	b.ReportMetric(0, "ns/op") // of both together, which says nothing
}

func took(fn func()) time.Duration {
	began := time.Now()
	fn()
	return time.Since(began)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}

func openStore(b *testing.B, dial func(context.Context, string, string) (net.Conn, error)) *clickhouse.Store {
	b.Helper()
	s, err := clickhouse.Open(limited(b, time.Minute), clickhouse.Options{Dial: dial})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// blockOf is a file in memory with the block that the store sends of records.
func blockOf(b *testing.B, engine *Engine, records []codec.Record) *os.File {
	b.Helper()
	fd, err := unix.MemfdCreate("block", unix.MFD_CLOEXEC)
	if err != nil {
		b.Fatal(err)
	}
	out := os.NewFile(uintptr(fd), "block")
	b.Cleanup(func() { _ = out.Close() })
	transport := &http.Transport{DialContext: engine.DialContext}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "engine"}) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Query().Get("query"), "INSERT") {
			r.Body = io.NopCloser(io.TeeReader(r.Body, out))
		}
		proxy.ServeHTTP(w, r)
	}))
	b.Cleanup(transport.CloseIdleConnections)
	b.Cleanup(server.Close)
	store := openStore(b, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
	})
	if err := store.InsertRecords(b.Context(), records); err != nil {
		b.Fatal(err)
	}
	return out
}

// records are n sessions from number first on, as a collector sees them: few
// clusters, users and targets, and every session new.
func records(first, n int) []codec.Record {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	out := make([]codec.Record, n)
	for i := range out {
		k := first + i
		out[i] = codec.Record{
			Observation: codec.Observation{Session: &fleet.Session{
				ID: fleet.SessionID(fmt.Sprintf("session-%012d", k)), Cluster: fleet.ClusterID(fmt.Sprintf("cluster-%02d", k%50)), Status: fleet.SessionConnected,
				User: fmt.Sprintf("user-%d@example.org", k%1000), Target: fmt.Sprintf("db-%d.internal", k%100), InstanceID: fleet.InstanceID(fmt.Sprintf("bastion-%d", k%150)),
				Start: at.Add(time.Duration(k) * time.Millisecond), End: at.Add(time.Duration(k)*time.Millisecond + time.Minute),
			}},
			Tenant: fleet.DefaultTenant, ObservedAt: at, RecordedAt: at.Add(time.Second), Source: "vendor", Incarnation: "0123456789ab", Part: uint32(k % 64),
			SourceSequence: uint64(k / 200), StreamSequence: uint64(k / 200), Index: uint32(k % 200),
		}
	}
	return out
}
