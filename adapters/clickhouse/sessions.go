package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// A session has a row for each status it was seen in. What ended well and failed
// has failed.
const selectSessionsOf = `
SELECT cluster, countIf(NOT probe AND well AND NOT failed), countIf(NOT probe AND failed), countIf(NOT probe AND NOT well AND NOT failed AND NOT vanished),
       countIf(probe), countIf(probe AND failed)
FROM
(
    SELECT cluster, max(probe) AS probe, max(status IN ('completed', 'terminated')) AS well, max(status = 'failed') AS failed, max(status = 'vanished') AS vanished
    FROM session_events
    WHERE tenant = {tenant:String}%s
      AND start_time >= {from:DateTime64(9, 'UTC')} AND start_time < {to:DateTime64(9, 'UTC')}
    GROUP BY cluster, start_time, session_id
)
GROUP BY cluster`

// SessionsOf counts the sessions that started within a span, of each cluster that is
// named, or of all. People's sessions that vanished without an end are in no count,
// and a cluster without any session is left out.
func (s *Store) SessionsOf(ctx context.Context, tenant fleet.TenantID, clusters []fleet.ClusterID, span codec.Span) (map[fleet.ClusterID]drift.Sessions, error) {
	out := make(map[fleet.ClusterID]drift.Sessions)
	among, args := only(clusters)
	err := s.read(ctx, "sessions", fmt.Sprintf(selectSessionsOf, among), append(args,
		ch.Named("tenant", string(tenant)), exactly("from", span.From), exactly("to", span.To),
	), func(rows driver.Rows) error {
		var cluster string
		var succeeded, failed, open, probes, probesFailed uint64
		if err := rows.Scan(&cluster, &succeeded, &failed, &open, &probes, &probesFailed); err != nil {
			return err
		}
		out[fleet.ClusterID(cluster)] = drift.Sessions{
			From: span.From, To: span.To, Succeeded: int(succeeded), Failed: int(failed), Open: int(open), Probes: int(probes), ProbesFailed: int(probesFailed),
		}
		return nil
	})
	return out, err
}

// exactly is an instant as a parameter of a statement, to the nanosecond.
func exactly(name string, t time.Time) any { return ch.DateNamed(name, stamp(t), ch.NanoSeconds) }

// People's sessions that ended, each once, counted by cluster, by the hour of their
// start, and by the state of the cluster then. Repeats of a row collapse with the
// session's other rows.
const countSessions = `
SELECT cluster, hour,
       countIf(state NOT IN ('stepping', 'overdue')) AS whole_sessions, countIf(state NOT IN ('stepping', 'overdue') AND failed) AS whole_failed,
       countIf(state = 'stepping') AS inside_sessions, countIf(state = 'stepping' AND failed) AS inside_failed,
       countIf(state = 'overdue') AS outside_sessions, countIf(state = 'overdue' AND failed) AS outside_failed
FROM
(
    SELECT s.cluster AS cluster, s.hour AS hour, s.failed AS failed,
           if(p.ended_at = toDateTime64(0, 3, 'UTC') OR s.started < p.ended_at, p.state, '') AS state
    FROM
    (
        SELECT cluster, toDateTime64(start_time, 3, 'UTC') AS started, toStartOfHour(start_time) AS hour, max(status = 'failed') AS failed
        FROM session_events
        WHERE tenant = {tenant:String} AND NOT probe AND status IN ('completed', 'terminated', 'failed') AND %s
        GROUP BY cluster, start_time, session_id
    ) AS s
    ASOF LEFT JOIN (SELECT cluster, began_at, ended_at, state FROM drift_periods FINAL WHERE tenant = {tenant:String}) AS p
        ON s.cluster = p.cluster AND s.started >= p.began_at
)
GROUP BY cluster, hour`

// Hours whose counts may have changed since all was counted: those of sessions that
// were stored since, and those that a period covers which was. A period that is
// stored with its end was known before by its beginning, unless that is new as well.
const changedHours = `
SELECT cluster, toStartOfHour(start_time) AS hour
FROM session_events
WHERE tenant = {tenant:String} AND NOT probe AND status IN ('completed', 'terminated', 'failed') AND stored_at >= {since:DateTime64(3, 'UTC')}
GROUP BY cluster, hour
UNION DISTINCT
SELECT h.cluster AS cluster, h.hour AS hour
FROM (SELECT cluster, hour FROM session_hours WHERE tenant = {tenant:String} AND cluster != '') AS h
INNER JOIN
(
    SELECT cluster, ended_at,
           toStartOfHour(if(ended_at = toDateTime64(0, 3, 'UTC') OR began_at >= {since:DateTime64(3, 'UTC')} - INTERVAL 1 DAY, began_at, ended_at)) AS first
    FROM drift_periods FINAL
    WHERE tenant = {tenant:String} AND stored_at >= {since:DateTime64(3, 'UTC')}
) AS p ON h.cluster = p.cluster
WHERE h.hour >= p.first AND (p.ended_at = toDateTime64(0, 3, 'UTC') OR h.hour <= p.ended_at)`

const insertHours = `
INSERT INTO session_hours
    (tenant, version, cluster, hour, whole_sessions, whole_failed, inside_sessions, inside_failed, outside_sessions, outside_failed)
SELECT {tenant:String}, {version:UInt64}, cluster, hour, whole_sessions, whole_failed, inside_sessions, inside_failed, outside_sessions, outside_failed
FROM (%s)`

// The server's clock says when rows are stored. One that went back must hide none.
const selectCounted = `
SELECT version, now64(3, 'UTC') AS now, least(counted_at, now) - INTERVAL 10 MINUTE
FROM (SELECT max(version) AS version, max(counted_at) AS counted_at FROM session_hours FINAL WHERE tenant = {tenant:String} AND cluster = '')`

const insertCounted = `
INSERT INTO session_hours (tenant, cluster, hour, counted_at, version)
SELECT {tenant:String}, '', 0, {counted:DateTime64(3, 'UTC')}, {version:UInt64}`

// RollUp counts the hours of sessions again that changed since it counted last; the
// first time, all. It may run at any time, and fail or be repeated at any point:
// what is counted is computed whole from the sessions and periods as they are, and
// replaces what was there.
func (s *Store) RollUp(ctx context.Context, tenant fleet.TenantID) error {
	var (
		version    uint64
		now, since time.Time
	)
	me := ch.Named("tenant", string(tenant))
	if err := s.read(ctx, "when sessions were counted", selectCounted, []any{me}, func(rows driver.Rows) error {
		return rows.Scan(&version, &now, &since)
	}); err != nil {
		return err
	}
	args := []any{me, at("since", since), at("counted", now), ch.Named("version", fmt.Sprint(version+1))}
	var months []uint32
	if err := s.read(ctx, "which sessions to count", "SELECT DISTINCT toYYYYMM(hour) AS month FROM ("+changedHours+") ORDER BY month", args, func(rows driver.Rows) error {
		var month uint32
		err := rows.Scan(&month)
		months = append(months, month)
		return err
	}); err != nil {
		return err
	}
	// A month at a time, so that the first count needs not all memory.
	for _, month := range months {
		which := fmt.Sprintf("toYYYYMM(start_time) = %[1]d AND (cluster, toStartOfHour(start_time)) IN (SELECT * FROM (%[2]s) WHERE toYYYYMM(hour) = %[1]d)", month, changedHours)
		if err := s.conn.Exec(ctx, fmt.Sprintf(insertHours, fmt.Sprintf(countSessions, which)), args...); err != nil {
			return s.fault(ctx, fmt.Sprintf("count the sessions of %d", month), err)
		}
	}
	if len(months) == 0 {
		return nil
	}
	return s.fault(ctx, "note when sessions were counted", s.conn.Exec(ctx, insertCounted, args...))
}

const selectImpact = `
SELECT %s AS key, sum(whole_sessions), sum(whole_failed), sum(inside_sessions), sum(inside_failed), sum(outside_sessions), sum(outside_failed)
FROM
(
    SELECT cluster, hour, whole_sessions, whole_failed, inside_sessions, inside_failed, outside_sessions, outside_failed
    FROM session_hours FINAL
    WHERE tenant = {tenant:String} AND cluster != '' AND hour >= {first:Int64} AND hour < {last:Int64}
    %s
)
GROUP BY key
ORDER BY %s`

// Impact counts people's sessions that started within a span and ended, by the
// state of their cluster at their start. Whole hours are as RollUp counted them last;
// the rest of the span is counted from the sessions themselves. Weeks come in order,
// all else by failed sessions past the window, most first.
func (s *Store) Impact(ctx context.Context, tenant fleet.TenantID, span codec.Span, group codec.Group) ([]codec.Impact, error) {
	key, order := "", "sum(outside_failed) DESC, sum(inside_failed) DESC, key"
	switch group {
	case codec.ByAll:
		key = "''"
	case codec.ByCluster:
		key = "cluster"
	case codec.ByWeek:
		key, order = "toString(toMonday(hour))", "key"
	default:
		return nil, fmt.Errorf("count sessions by the state of their cluster: there is no group %q", group)
	}
	first, last := stamp(span.From).Add(time.Hour-1).Truncate(time.Hour), stamp(span.To).Truncate(time.Hour)
	rest := ""
	if !first.Equal(span.From) || !last.Equal(span.To) {
		rest = "UNION ALL SELECT * FROM (" + fmt.Sprintf(countSessions, `start_time >= {from:DateTime64(9, 'UTC')} AND start_time < {to:DateTime64(9, 'UTC')}
              AND (start_time < {head:DateTime64(9, 'UTC')} OR start_time >= {tail:DateTime64(9, 'UTC')})`) + ")"
	}
	if last.Before(first) {
		last = first // within one hour
	}
	var out []codec.Impact
	err := s.read(ctx, "how sessions fared", fmt.Sprintf(selectImpact, key, rest, order), []any{
		ch.Named("tenant", string(tenant)), ch.Named("first", fmt.Sprint(first.Unix())), ch.Named("last", fmt.Sprint(last.Unix())),
		exactly("from", span.From), exactly("to", span.To), exactly("head", first), exactly("tail", last),
	}, func(rows driver.Rows) error {
		var i codec.Impact
		err := rows.Scan(&i.Key, &i.Whole.Sessions, &i.Whole.Failed, &i.Inside.Sessions, &i.Inside.Failed, &i.Outside.Sessions, &i.Outside.Failed)
		out = append(out, i)
		return err
	})
	return out, err
}
