//go:build linux && amd64

package clickhouse

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// How large the history of the benchmark is: so many rows of inventories, twice as
// many of sessions.
const rowsOf = "LOCKSTEP_HISTORY_ROWS"

const (
	historyClusters = 500
	historyDays     = 90
)

// An instance is sent every five minutes by the gateway's figures; the fewer rows,
// the longer from one time to the next, so that any number covers the same days.
const generateInventories = `
INSERT INTO inventory_instances
    (tenant, cluster, observed_at, instance_id, component, service, image, tag, digest, image_id, running_version, health, started_at, declared, node, restarts,
     source, incarnation, part, source_sequence, stream_sequence, stream_index, recorded_at, version)
WITH intDiv(number, %[1]d * 10) AS look, intDiv(number, 10) %% %[1]d AS c, number %% 10 AS i, intDiv(look * %[2]d, %[3]d) AS ms, intDiv(look, 4000) AS release
SELECT 'default', concat('cluster-', leftPad(toString(c), 4, '0')), fromUnixTimestamp64Milli(toInt64(%[4]d + ms + c * 17)),
       concat(if(i < 4, 'gateway', 'sra-web'), '-', lower(hex(cityHash64(c, release) %% 4294967296)), '-', lower(hex(cityHash64(c, i, release) %% 1048576))),
       if(i < 4, 'gateway', 'sra-web'), if(i < 4, 'gateway', 'web-bastion'), concat('akeyless/base:4.', toString(release %% 50)), concat('4.', toString(release %% 50)),
       concat('sha256:', lower(hex(SHA256(toString(release %% 50))))), concat('sha256:', lower(hex(SHA256(toString(release %% 50 + 1000))))),
       concat('4.', toString(release %% 50)), 'healthy', fromUnixTimestamp64Milli(toInt64(%[4]d + ms)) - INTERVAL 3 DAY, concat('akeyless/base:4.', toString(release %% 50)),
       concat('node-', toString(cityHash64(c, i) %% 40)), 0, 'hub-inventory', 'abcdef012345', c %% 64, look, intDiv(number, 200), number %% 200,
       fromUnixTimestamp64Milli(toInt64(%[4]d + ms + c * 17 + 900)), 18446744073709551615 - intDiv(number, 200)
FROM numbers(%[5]d, %[6]d)`

// Of three rows one is of a session that began, one of it while it runs and one of
// its end; of a hundred sessions two fail.
const generateSessions = `
INSERT INTO session_events
    (tenant, cluster, start_time, session_id, status, user_name, target, instance_id, end_time, error, failure, protocol, target_type, probe, observed_at,
     source, incarnation, part, source_sequence, stream_sequence, stream_index, recorded_at, version)
WITH intDiv(number, 3) AS n, number %% 3 AS k, cityHash64(n) AS h, n %% %[1]d AS c, toInt64(%[4]d + intDiv(n * %[2]d, %[3]d)) AS ms, h %% 100 < 2 AS failed
SELECT 'default', concat('cluster-', leftPad(toString(c), 4, '0')), fromUnixTimestamp64Nano(ms * 1000000 + toInt64(h %% 1000000)),
       concat('sess-', lower(hex(h)), lower(hex(cityHash64(h, 1)))), ['connecting', 'connected', if(failed, 'failed', 'completed')][k + 1],
       concat('user', toString(h %% 20000), '@example.org'), concat('db-', toString(h %% 5000), '.internal'), concat('sra-web-', toString(cityHash64(c, h %% 6))),
       if(k = 2, fromUnixTimestamp64Nano((ms + toInt64(h %% 3600000)) * 1000000), toDateTime64(0, 9, 'UTC')), if(k = 2 AND failed, 'Connection refused by the target', ''),
       if(k = 2 AND failed, 'target', ''), ['ssh', 'rdp', 'mysql'][h %% 3 + 1], 'linux', h %% 50 = 0, fromUnixTimestamp64Milli(ms + 1000 + k * toInt64(h %% 3600000)),
       'hub-session', 'abcdef012345', c %% 64, intDiv(number, 200), intDiv(number, 200), number %% 200, fromUnixTimestamp64Milli(ms + 1500 + k * toInt64(h %% 3600000)),
       18446744073709551615 - intDiv(number, 200)
FROM numbers(%[5]d, %[6]d)`

// Each cluster is moved once in twelve days and is mixed for half an hour of it,
// once in ten times for longer than its window.
const generatePeriods = `
INSERT INTO drift_periods
    (tenant, cluster, began_at, ended_at, state, lines, running, version_set, assigned, target, edge_from, edge_to, stream_sequence, recorded_at, version)
WITH intDiv(number, 4) AS n, number %% 4 AS k, intDiv(n, %[1]d) AS move, n %% %[1]d AS c, toInt64(%[4]d) + move * 1036800000 + c * 400000 AS ms,
     concat('4.', toString(move)) AS old, concat('4.', toString(move + 1)) AS new, [0, 3600000, 5400000, if(c %% 10 = 0, 9000000, 5400000), 1036800000] AS at
SELECT 'default', concat('cluster-', leftPad(toString(c), 4, '0')), fromUnixTimestamp64Milli(ms + at[k + 1]),
       if(ms + at[k + 2] > %[4]d + %[2]d, toDateTime64(0, 3, 'UTC'), fromUnixTimestamp64Milli(ms + at[k + 2])), ['locked', 'stepping', 'overdue', 'locked'][k + 1],
       ['gateway', 'sra'], [if(k = 0, old, if(k = 3, new, concat(old, ', ', new))), '3.0.3'], if(k IN (0, 3), concat('gateway=', if(k = 0, old, new), ' sra=3.0.3'), ''),
       if(k = 3, new, old), if(k = 3, '', new), if(k IN (1, 2), concat('gateway=', old, ' sra=3.0.3'), ''), if(k IN (1, 2), concat('gateway=', new, ' sra=3.0.3'), ''),
       number, fromUnixTimestamp64Milli(ms + if(ms + at[k + 2] > %[4]d + %[2]d, at[k + 1], at[k + 2])), number
FROM numbers(%[3]d)
WHERE at[k + 2] > at[k + 1] AND ms + at[k + 1] < %[4]d + %[2]d`

// BenchmarkHistory asks what people ask of a history of ninety days.
func BenchmarkHistory(b *testing.B) {
	rows := 1_000_000
	if set := os.Getenv(rowsOf); set != "" {
		n, err := strconv.Atoi(set)
		if err != nil {
			b.Fatalf("%s is no number: %v", rowsOf, err)
		}
		rows = n
	}
	engine := startEngine(b)
	s := openHistory(b, embedded(engine))
	ctx := b.Context()
	exec := func(sql string) {
		b.Helper()
		if err := s.Conn().Exec(ctx, sql); err != nil {
			b.Fatal(err)
		}
	}
	end := time.Now().UTC().Truncate(time.Hour)
	begin := end.AddDate(0, 0, -historyDays)
	length := end.Sub(begin).Milliseconds()
	// As if it were stored when it was recorded.
	storedBy := func(expression string) {
		for _, table := range []string{"session_events", "drift_periods"} {
			exec(fmt.Sprintf("ALTER TABLE %s MODIFY COLUMN stored_at DateTime64(3, 'UTC') MATERIALIZED %s", table, expression))
		}
	}
	storedBy("recorded_at")
	// In the order of time and in portions, as they come.
	const portion = 1_000_000
	for _, g := range []struct {
		statement string
		rows, of  int
	}{{generateInventories, rows, rows / historyClusters / 10}, {generateSessions, 2 * rows, 2 * rows / 3}} {
		for from := 0; from < g.rows; from += portion {
			exec(fmt.Sprintf(g.statement, historyClusters, length, max(1, g.of), begin.UnixMilli(), from, min(portion, g.rows-from)))
		}
	}
	exec(fmt.Sprintf(generatePeriods, historyClusters, length, 4*historyClusters*(historyDays/12+1), begin.UnixMilli()))

	storedBy("now64(3, 'UTC')")

	b.Run("disk", func(b *testing.B) {
		for b.Loop() {
			for _, table := range []string{"inventory_instances", "session_events", "drift_periods"} {
				var mib float64
				if err := s.Conn().QueryRow(ctx, "SELECT sum(bytes_on_disk) / sum(rows) * 1e6 / 1048576 FROM system.parts WHERE active AND database = currentDatabase() AND table = '"+table+"'").Scan(&mib); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(mib, table+"-MiB/Mrows")
			}
		}
		b.ReportMetric(0, "ns/op")
	})
	timed := func(name string, ask func(context.Context) (int, error)) {
		b.Run(name, func(b *testing.B) {
			var all []time.Duration
			used := processor(b, engine.PID())
			for b.Loop() {
				began := time.Now()
				n, err := ask(b.Context())
				if err != nil || n == 0 {
					b.Fatalf("%d rows, %v", n, err)
				}
				all = append(all, time.Since(began))
			}
			slices.Sort(all)
			b.ReportMetric(0, "ns/op")
			// What it takes whatever else the machine does.
			b.ReportMetric(float64((processor(b, engine.PID())-used).Milliseconds())/float64(len(all)), "processor-ms")
			b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
	me := fleet.DefaultTenant
	began := time.Now()
	if err := s.RollUp(ctx, me); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d and %d rows; all sessions counted for the first time in %s", rows, 2*rows, time.Since(began).Round(time.Millisecond))
	whole := codec.Span{From: begin, To: end}
	month := codec.Span{From: end.AddDate(0, 0, -30).Add(17 * time.Minute), To: end.Add(-13 * time.Minute)}
	past := begin.AddDate(0, 0, historyDays/2).Add(11 * time.Minute)
	one := []fleet.ClusterID{"cluster-0007"}
	timed("mixed_time_by_cluster", func(ctx context.Context) (int, error) {
		rows, err := s.MixedTime(ctx, me, whole, codec.ByCluster, end)
		return len(rows), err
	})
	timed("mixed_time_by_week", func(ctx context.Context) (int, error) {
		rows, err := s.MixedTime(ctx, me, whole, codec.ByWeek, end)
		return len(rows), err
	})
	timed("adoption_by_day", func(ctx context.Context) (int, error) {
		rows, err := s.Adoption(ctx, me, fleet.LineGateway, whole, 24*time.Hour)
		return len(rows), err
	})
	timed("convergence", func(ctx context.Context) (int, error) {
		rows, err := s.Convergence(ctx, me, whole)
		return len(rows), err
	})
	timed("impact_whole_hours", func(ctx context.Context) (int, error) {
		rows, err := s.Impact(ctx, me, whole, codec.ByAll)
		return len(rows), err
	})
	timed("impact_of_a_month", func(ctx context.Context) (int, error) {
		rows, err := s.Impact(ctx, me, month, codec.ByCluster)
		return len(rows), err
	})
	timed("periods_at", func(ctx context.Context) (int, error) {
		rows, err := s.PeriodsAt(ctx, me, past, end, nil)
		return len(rows), err
	})
	timed("inventory_of_one_at", func(ctx context.Context) (int, error) {
		rows, err := s.InventoriesAt(ctx, me, past, one)
		return len(rows), err
	})
	timed("inventories_of_all_at", func(ctx context.Context) (int, error) {
		rows, err := s.InventoriesAt(ctx, me, past, nil)
		return len(rows), err
	})
	timed("recall_inventories", func(ctx context.Context) (n int, err error) {
		err = s.RecallInventories(ctx, me, end.Add(-6*time.Hour), func(fleet.Inventory) { n++ })
		return n, err
	})
	timed("sessions_of_a_day", func(ctx context.Context) (int, error) {
		sessions, err := s.SessionsOf(ctx, me, one[:1], codec.Span{From: past, To: past.AddDate(0, 0, 1)})
		return sessions[one[0]].Succeeded, err
	})
	timed("evidence_of_four_weeks", func(ctx context.Context) (n int, err error) {
		err = s.Evidence(ctx, me, one[0], end.AddDate(0, 0, -28), 0, func(codec.Record) { n++ })
		return n, err
	})
	stored := 2 * rows
	timed("store_and_count_3000", func(ctx context.Context) (int, error) {
		exec(fmt.Sprintf(generateSessions, historyClusters, length, max(1, 2*rows/3), begin.UnixMilli(), stored, 3000))
		stored += 3000
		return 1, s.RollUp(ctx, me)
	})
}

// processor is the time that a process has had of the processors.
func processor(b testing.TB, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// Behind the name, which may hold anything, fields 14 and 15 of them all: in
	// hundredths of a second, in user and in system mode.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
