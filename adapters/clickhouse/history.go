package clickhouse

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// Migrations returns the product's migrations for Migrate.
func Migrations() (fs.FS, error) {
	sub, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return nil, fmt.Errorf("open the embedded migrations: %w", err)
	}
	return sub, nil
}

// firstWins makes the earliest stream sequence of one identity the one that a
// ReplacingMergeTree keeps.
func firstWins(sequence uint64) uint64 { return math.MaxUint64 - sequence }

// stamp and unstamp carry the zero time through a column that has none.
func stamp(t time.Time) time.Time {
	if t.IsZero() {
		return time.Unix(0, 0).UTC()
	}
	return t.UTC()
}

func unstamp(t time.Time) time.Time {
	if t.UnixNano() == 0 {
		return time.Time{}
	}
	return t.UTC()
}

// Sessions and marks about sessions of one cluster in the order of the stream. FINAL collapses
// repeats, so a row's place is that of its first arrival. The union stands in a
// subquery, because an ORDER BY behind it would order its last part alone.
const selectEvidence = `
SELECT *
FROM
(
    SELECT stream_sequence, stream_index, 0 AS is_mark, session_id, status, user_name, target, instance_id, start_time, end_time, error, failure,
           protocol, target_type, probe, toDateTime64(0, 9, 'UTC') AS complete_until, false AS blind, '' AS blind_reason, false AS lost
    FROM session_events FINAL
    WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND start_time >= {from:DateTime64(9, 'UTC')} AND stream_sequence <= {up_to:UInt64}
    UNION ALL
    SELECT stream_sequence, stream_index, 1, '', '', '', '', '', toDateTime64(0, 9, 'UTC'), toDateTime64(0, 9, 'UTC'), '', '', '', '', false,
           complete_until, blind, blind_reason, lost
    FROM progress_marks FINAL
    WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND about = 'session' AND observed_at >= {from:DateTime64(9, 'UTC')}
      AND stream_sequence <= {up_to:UInt64}
)
ORDER BY stream_sequence, stream_index, lost DESC`

// Evidence calls fn with the sessions of a cluster that started at or after from
// and the marks made since, in stream order, up to a stream sequence (0: all).
func (s *Store) Evidence(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, from time.Time, upTo uint64, fn func(codec.Record)) error {
	if upTo == 0 {
		upTo = math.MaxInt64
	}
	return s.read(ctx, "the evidence of "+string(cluster), selectEvidence, []any{
		ch.Named("tenant", string(tenant)), ch.Named("cluster", string(cluster)), ch.DateNamed("from", stamp(from), ch.NanoSeconds), ch.Named("up_to", fmt.Sprint(upTo)),
	}, func(rows driver.Rows) error {
		var (
			r                                                codec.Record
			isMark                                           uint8
			id, status, user, target, instance, text, reason string
			failure, protocol, targetType                    string
			start, end, until                                time.Time
			probe, blind, lost                               bool
		)
		if err := rows.Scan(&r.StreamSequence, &r.Index, &isMark, &id, &status, &user, &target, &instance, &start, &end, &text, &failure, &protocol, &targetType, &probe, &until, &blind, &reason, &lost); err != nil {
			return err
		}
		if isMark == 1 {
			r.Mark = &fleet.Mark{Cluster: cluster, About: fleet.KindSession, CompleteUntil: unstamp(until), Blind: blind, BlindReason: reason, Lost: lost}
		} else {
			r.Session = &fleet.Session{
				ID: fleet.SessionID(id), Cluster: cluster, Status: fleet.SessionStatus(status), User: user, Target: target, InstanceID: fleet.InstanceID(instance),
				Start: unstamp(start), End: unstamp(end), Error: text, Failure: fleet.Failure(failure), Protocol: protocol, TargetType: targetType,
				Probe: probe,
			}
		}
		fn(r)
		return nil
	})
}

const selectPositions = `
SELECT source, incarnation, part, max(source_sequence)
FROM
(
    SELECT source, incarnation, part, source_sequence FROM session_events WHERE tenant = {tenant:String} AND recorded_at > now() - INTERVAL 8 DAY
    UNION ALL
    SELECT source, incarnation, part, source_sequence FROM progress_marks WHERE tenant = {tenant:String} AND recorded_at > now() - INTERVAL 8 DAY
    UNION ALL
    SELECT source, incarnation, part, source_sequence FROM inventory_instances WHERE tenant = {tenant:String} AND recorded_at > now() - INTERVAL 8 DAY
    UNION ALL
    SELECT source, incarnation, part, source_sequence FROM registrations WHERE tenant = {tenant:String} AND recorded_at > now() - INTERVAL 8 DAY
    UNION ALL
    SELECT source, incarnation, part, source_sequence FROM packages WHERE tenant = {tenant:String} AND recorded_at > now() - INTERVAL 8 DAY
    UNION ALL
    SELECT source, incarnation, part, source_sequence FROM checks WHERE tenant = {tenant:String} AND recorded_at > now() - INTERVAL 8 DAY
)
GROUP BY source, incarnation, part`

// Positions returns the highest sequence stored of each source's part, among
// what arrived within the observation stream's age.
func (s *Store) Positions(ctx context.Context, tenant fleet.TenantID) (map[codec.Position]uint64, error) {
	out := make(map[codec.Position]uint64)
	err := s.read(ctx, "the sources' positions", selectPositions, []any{ch.Named("tenant", string(tenant))}, func(rows driver.Rows) error {
		var (
			source   string
			position codec.Position
			part     uint8
			last     uint64
		)
		if err := rows.Scan(&source, &position.Incarnation, &part, &last); err != nil {
			return err
		}
		position.Source, position.Part = fleet.SourceID(source), uint32(part)
		out[position] = last
		return nil
	})
	return out, err
}

// read runs a query and calls scan for every row.
func (s *Store) read(ctx context.Context, what, query string, args []any, scan func(driver.Rows) error) (err error) {
	rows, err := s.conn.Query(ctx, query, args...)
	if err != nil {
		return s.fault(ctx, "read "+what, err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("read %s: %w", what, err)
		}
	}
	return s.fault(ctx, "read "+what, rows.Err())
}
