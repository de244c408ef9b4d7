package clickhouse

import (
	"context"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// A session's rows tell its class of failure once at most. An empty class counts
// open SSH sessions.
const selectFailures = `
SELECT if(failed, failure, '') AS class, count()
FROM
(
    SELECT max(status = 'failed') AS failed, max(status IN ('completed', 'terminated', 'vanished')) AS over, max(failure) AS failure, any(protocol) AS protocol
    FROM session_events
    WHERE tenant = {tenant:String} AND cluster = {cluster:String} AND NOT probe
      AND start_time >= {from:DateTime64(9, 'UTC')} AND start_time < {to:DateTime64(9, 'UTC')}
    GROUP BY start_time, session_id
)
WHERE failed OR NOT over AND protocol = 'ssh'
GROUP BY class`

// Failures counts people's failed sessions that started within a span by their
// class, and those of them all that are open over SSH.
func (s *Store) Failures(ctx context.Context, tenant fleet.TenantID, cluster fleet.ClusterID, span codec.Span) (byClass map[fleet.Failure]int, openSSH int, err error) {
	byClass = make(map[fleet.Failure]int)
	err = s.read(ctx, "the failures of "+string(cluster), selectFailures, []any{
		ch.Named("tenant", string(tenant)), ch.Named("cluster", string(cluster)), exactly("from", span.From), exactly("to", span.To),
	}, func(rows driver.Rows) error {
		var class string
		var n uint64
		if err := rows.Scan(&class, &n); err != nil {
			return err
		}
		if class == "" {
			openSSH = int(n)
		} else {
			byClass[fleet.Failure(class)] = int(n)
		}
		return nil
	})
	return byClass, openSSH, err
}
