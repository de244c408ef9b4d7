package clickhouse

import (
	"context"
	"fmt"
	"math"
	"slices"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// sliceRows is how many rows of a stretch are asked for at once, about: the
// embedded engine holds an answer whole.
const sliceRows = 250_000

// Where a stretch is cut, so that each part has as many rows. Repeats count here,
// which only makes parts smaller.
const selectCuts = `
SELECT stream_sequence
FROM
(
    SELECT stream_sequence, row_number() OVER (ORDER BY stream_sequence) AS n
    FROM
    (
        SELECT stream_sequence FROM session_events
        WHERE tenant = {tenant:String} AND cluster = {cluster:String}
          AND start_time >= {from:DateTime64(9, 'UTC')} AND start_time < {to:DateTime64(9, 'UTC')}
        UNION ALL
        SELECT stream_sequence FROM progress_marks
        WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND about = 'session'
          AND observed_at >= {from:DateTime64(9, 'UTC')} AND observed_at < {to:DateTime64(9, 'UTC')}
    )
)
WHERE n % {rows:UInt64} = 0
ORDER BY stream_sequence
SETTINGS max_threads = 1`

// As selectEvidence, with what a replay looks at alone. A mark is left out that
// another follows with nothing between and with no less to say: a source sends one
// every few seconds. One thread, for decisions come before looking back.
const selectStretch = `
SELECT stream_sequence, is_mark, session_id, status, user_name, target, start_time, probe, complete_until, blind, blind_reason, lost
FROM
(
    SELECT *,
           is_mark AND NOT lost AND NOT blind AND leadInFrame(sighted) OVER following AND leadInFrame(complete_until) OVER following >= complete_until
               AND NOT arrayExists((f, t) -> toUnixTimestamp64Nano(complete_until) > f AND toUnixTimestamp64Nano(complete_until) <= t,
                                   {near_from:Array(Int64)}, {near_to:Array(Int64)}) AS idle
    FROM
    (
        SELECT stream_sequence, stream_index, false AS is_mark, false AS sighted, session_id, status, user_name, target, start_time, probe,
               toDateTime64(0, 9, 'UTC') AS complete_until, false AS blind, '' AS blind_reason, false AS lost
        FROM session_events FINAL
        WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND start_time >= {from:DateTime64(9, 'UTC')} AND start_time < {to:DateTime64(9, 'UTC')}
          AND stream_sequence > {after:UInt64} AND stream_sequence <= {up_to:UInt64}
        UNION ALL
        SELECT stream_sequence, stream_index, true, NOT blind AND NOT lost, '', '', '', '', toDateTime64(0, 9, 'UTC'), false, complete_until, blind, blind_reason, lost
        FROM progress_marks FINAL
        WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND about = 'session'
          AND observed_at >= {from:DateTime64(9, 'UTC')} AND observed_at < {to:DateTime64(9, 'UTC')}
          AND stream_sequence > {after:UInt64} AND stream_sequence <= {up_to:UInt64}
    )
    WINDOW following AS (ORDER BY stream_sequence, stream_index, lost DESC ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING)
)
WHERE NOT idle
ORDER BY stream_sequence, stream_index, lost DESC
SETTINGS max_threads = 1`

// Stretch calls fn with the sessions of a cluster that started within a span and
// the marks made then, in stream order, as far as a gate looks at them. Of marks
// that follow each other with nothing between, the last alone is told, except where
// they promise something of what is near. The record is used again: fn keeps no
// pointer of it.
func (s *Store) Stretch(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, span codec.Span, near []codec.Span, fn func(codec.Record)) error {
	return s.stretch(ctx, tenant, cluster, span, near, sliceRows, fn)
}

func (s *Store) stretch(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, span codec.Span, near []codec.Span, most int, fn func(codec.Record)) error {
	from, to := make([]int64, len(near)), make([]int64, len(near))
	for i, n := range near {
		from[i], to[i] = n.From.UnixNano(), n.To.UnixNano()
	}
	what := fmt.Sprintf("the history of %s", cluster)
	args := []any{
		ch.Named("tenant", string(tenant)), ch.Named("cluster", string(cluster)), exactly("from", span.From), exactly("to", span.To),
	}
	var cuts []uint64
	if err := s.read(ctx, what, selectCuts, append(args[:len(args):len(args)], ch.Named("rows", fmt.Sprint(most))), func(rows driver.Rows) error {
		var cut uint64
		err := rows.Scan(&cut)
		cuts = append(cuts, cut)
		return err
	}); err != nil {
		return err
	}
	var (
		session fleet.Session
		mark    fleet.Mark
		// What scans fill.
		sequence           uint64
		isMark             bool
		id, status, reason string
	)
	after := uint64(0)
	for _, cut := range append(cuts, math.MaxInt64) {
		if cut == after {
			continue // one message with more rows than that
		}
		some := slices.Concat(args, []any{
			ch.Named("near_from", from), ch.Named("near_to", to), ch.Named("after", fmt.Sprint(after)), ch.Named("up_to", fmt.Sprint(cut)),
		})
		after = cut
		if err := s.read(ctx, what, selectStretch, some, func(rows driver.Rows) error {
			if err := rows.Scan(&sequence, &isMark, &id, &status, &session.User, &session.Target, &session.Start, &session.Probe,
				&mark.CompleteUntil, &mark.Blind, &reason, &mark.Lost); err != nil {
				return err
			}
			r := codec.Record{StreamSequence: sequence}
			if isMark {
				mark.Cluster, mark.About, mark.CompleteUntil, mark.BlindReason = cluster, fleet.KindSession, unstamp(mark.CompleteUntil), reason
				r.Mark = &mark
			} else {
				session.Cluster, session.ID, session.Status, session.Start = cluster, fleet.SessionID(id), fleet.SessionStatus(status), unstamp(session.Start)
				r.Session = &session
			}
			fn(r)
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}
