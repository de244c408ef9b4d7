package clickhouse

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
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

// Sessions, marks and checks of one cluster in the order of the stream. FINAL collapses
// repeats, so a row's place is that of its first arrival. The union stands in a
// subquery, because an ORDER BY behind it would order its last part alone.
//
// There may be millions of rows, and every column is read of each: what marks and
// checks have stands in columns of sessions.
const selectEvidence = `
SELECT *
FROM
(
    SELECT stream_sequence, stream_index, 'session' AS what, source, observed_at, recorded_at, session_id, status, user_name, target, instance_id,
           start_time, end_time, error, failure, protocol, target_type, probe, false AS lost, toInt64(0) AS number, '' AS readings
    FROM session_events FINAL
    WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND start_time >= {from:DateTime64(9, 'UTC')} AND stream_sequence <= {up_to:UInt64}
    UNION ALL
    SELECT stream_sequence, stream_index, 'mark', source, observed_at, recorded_at, '', about, '', '', '',
           complete_until, toDateTime64(0, 9, 'UTC'), blind_reason, '', '', '', blind, lost, clock_skew_ms, ''
    FROM progress_marks FINAL
    WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND observed_at >= {from:DateTime64(9, 'UTC')} AND stream_sequence <= {up_to:UInt64}
    UNION ALL
    SELECT stream_sequence, stream_index, 'check', source, certificate_expires_at, recorded_at, session_id, kind, name, target, component,
           toDateTime64(at, 9, 'UTC'), toDateTime64(0, 9, 'UTC'), detail, failure, '', '', ok, false, toInt64(took_us),
           toJSONString(mapFromArrays(reading_names, reading_values))
    FROM checks FINAL
    WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND at >= {from:DateTime64(9, 'UTC')} AND stream_sequence <= {up_to:UInt64}
)
ORDER BY stream_sequence, stream_index, lost DESC`

// Evidence calls fn with all that a gate takes in of a cluster, in stream order, up to
// a stream sequence (0: all): the sessions that started at or after from, the marks,
// checks, inventories and registrations made since, and the inventory and the
// registration that stood before. Of a record it fills in what was observed, by
// whom, when, when it arrived and its place in the stream.
//
// Times are as the rows keep them: to the nanosecond of sessions and of what marks
// promise, to the millisecond of all else.
func (s *Store) Evidence(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, from time.Time, upTo uint64, fn func(codec.Record)) error {
	args := evidenceOf(tenant, cluster, from, upTo)
	others, err := s.otherEvidence(ctx, args)
	if err != nil {
		return err
	}
	err = s.sessionEvidence(ctx, cluster, args, func(r codec.Record) {
		// A mark of a loss stands before the record whose place it has.
		for len(others) > 0 && inStream(others[0], r) < 0 {
			fn(others[0])
			others = others[1:]
		}
		fn(r)
	})
	if err != nil {
		return err
	}
	for _, r := range others {
		fn(r)
	}
	return nil
}

// SessionEvidence is Evidence without inventories and registrations, of which a control
// has no use and which take more than half of the time.
func (s *Store) SessionEvidence(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, from time.Time, upTo uint64, fn func(codec.Record)) error {
	return s.sessionEvidence(ctx, cluster, evidenceOf(tenant, cluster, from, upTo), fn)
}

func (s *Store) sessionEvidence(ctx context.Context, cluster fleet.ClusterID, args []any, fn func(codec.Record)) error {
	return s.read(ctx, "the evidence of "+string(cluster), selectEvidence, args, func(rows driver.Rows) error {
		r, err := scanEvidence(rows, cluster)
		if err == nil {
			fn(r)
		}
		return err
	})
}

func evidenceOf(tenant fleet.TenantID, cluster fleet.ClusterID, from time.Time, upTo uint64) []any {
	if upTo == 0 {
		upTo = math.MaxInt64
	}
	return []any{
		ch.Named("tenant", string(tenant)), ch.Named("cluster", string(cluster)), exactly("from", from), at("at", justBefore(from)), ch.Named("up_to", fmt.Sprint(upTo)),
	}
}

// justBefore is the last millisecond before an instant.
func justBefore(t time.Time) time.Time {
	return stamp(t).Add(time.Millisecond - 1).Truncate(time.Millisecond).Add(-time.Millisecond)
}

// inStream orders records by their places in the stream.
func inStream(a, b codec.Record) int {
	return cmp.Or(cmp.Compare(a.StreamSequence, b.StreamSequence), cmp.Compare(a.Index, b.Index))
}

// scanEvidence reads a row of selectEvidence.
func scanEvidence(rows driver.Rows, cluster fleet.ClusterID) (codec.Record, error) {
	var (
		r                                             codec.Record
		what, source, id, word, name, target, place   string
		text, failure, protocol, targetType, readings string
		start, end                                    time.Time
		flag, lost                                    bool
		number                                        int64
	)
	if err := rows.Scan(&r.StreamSequence, &r.Index, &what, &source, &r.ObservedAt, &r.RecordedAt, &id, &word, &name, &target, &place,
		&start, &end, &text, &failure, &protocol, &targetType, &flag, &lost, &number, &readings); err != nil {
		return codec.Record{}, err
	}
	r.Source, r.ObservedAt, r.RecordedAt = fleet.SourceID(source), r.ObservedAt.UTC(), r.RecordedAt.UTC()
	switch what {
	case "session":
		r.Session = &fleet.Session{
			ID: fleet.SessionID(id), Cluster: cluster, Status: fleet.SessionStatus(word), User: name, Target: target, InstanceID: fleet.InstanceID(place),
			Start: unstamp(start), End: unstamp(end), Error: text, Failure: fleet.Failure(failure), Protocol: protocol, TargetType: targetType,
			Probe: flag,
		}
	case "mark":
		r.Mark = &fleet.Mark{
			Cluster: cluster, About: fleet.Kind(word), CompleteUntil: unstamp(start), Blind: flag, BlindReason: text, Lost: lost,
			Skew: time.Duration(number) * time.Millisecond,
		}
	case "check":
		r.Check = &fleet.Check{
			Cluster: cluster, Name: name, Kind: fleet.CheckKind(word), Component: fleet.Component(place), Target: target, Session: fleet.SessionID(id),
			At: unstamp(start), Took: time.Duration(number) * time.Microsecond, OK: flag, Failure: fleet.Failure(failure), Detail: text,
			CertificateExpires: unstamp(r.ObservedAt),
		}
		r.ObservedAt = r.Check.At // a check is observed when it begins
		if readings != "{}" {
			if err := json.Unmarshal([]byte(readings), &r.Check.Readings); err != nil {
				return codec.Record{}, fmt.Errorf("the readings of check %s: %w", name, err)
			}
		}
	}
	return r, nil
}

// otherEvidence returns inventories and registrations, in stream order.
func (s *Store) otherEvidence(ctx context.Context, args []any) ([]codec.Record, error) {
	var out []codec.Record
	add := func(r codec.Record) { out = append(out, r) }
	const of = "cluster = {cluster:String} AND stream_sequence <= {up_to:UInt64}"
	stoodAndSince := func(query, table string) string {
		stood := fmt.Sprintf(query, of+" AND (cluster, observed_at, source) IN ("+newestAt(table, " AND "+of)+")")
		since := fmt.Sprintf(query, of+" AND observed_at > {at:DateTime64(3, 'UTC')} AND recorded_at > {at:DateTime64(3, 'UTC')}")
		return fmt.Sprintf(selectRecalled, stood, since)
	}
	if err := s.readInventories(ctx, stoodAndSince(selectInstances, "inventory_instances")+byInstance, args, add); err != nil {
		return nil, err
	}
	if err := s.readRegistrations(ctx, stoodAndSince(selectRegistrations, "registrations"), args, add); err != nil {
		return nil, err
	}
	slices.SortStableFunc(out, inStream)
	return out, nil
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
