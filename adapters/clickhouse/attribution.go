package clickhouse

import (
	"context"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// People's sessions become trials in three steps: rows of one session are put
// together, attempts of one user at one target that follow each other closely are
// one run, and a run is cut into windows. What a trial was to is said by its first
// attempt, how it failed by its last.
const selectCells = `
SELECT cluster, lines, running, protocol, target_type, family, instance, class,
       countIf(arm = 0 AND NOT worked), countIf(arm = 0 AND worked), countIf(arm = 1 AND NOT worked), countIf(arm = 1 AND worked),
       countIf(arm = 2 AND NOT worked), countIf(arm = 2 AND worked), max(started)
FROM
(
    SELECT t.cluster AS cluster, t.arm AS arm, t.worked AS worked, t.protocol AS protocol, t.target_type AS target_type, t.instance AS instance,
           t.started AS started, extract(t.aim, '^(.+)/[^/]*$') AS family, if(t.worked, '', if(t.class = '', 'unclassified', t.class)) AS class,
           p.ended_at = toDateTime64(0, 3, 'UTC') OR t.started < p.ended_at AS covered, if(covered, p.lines, []) AS lines, if(covered, p.running, []) AS running
    FROM
    (
        SELECT cluster, arm, aim, toDateTime64(min(start_time), 3, 'UTC') AS started, max(well) AS worked, min(failed) AS hopeless,
               argMin(proto, (start_time, session_id)) AS protocol, argMin(kind, (start_time, session_id)) AS target_type,
               argMin(host, (start_time, session_id)) AS instance, argMax(how, (start_time, session_id)) AS class
        FROM
        (
            SELECT *, intDiv(at - min(at) OVER (PARTITION BY cluster, arm, who, aim, run), greatest({burst:Int64}, 1)) AS part
            FROM
            (
                SELECT *, sum(apart) OVER (PARTITION BY cluster, arm, who, aim ORDER BY at, session_id) AS run
                FROM
                (
                    SELECT *, toUnixTimestamp64Nano(start_time) AS at, multiIf(start_time < {start:DateTime64(9, 'UTC')}, 0, start_time < {end:DateTime64(9, 'UTC')}, 1, 2) AS arm,
                           who = '' OR aim = '' OR at - lagInFrame(at) OVER (PARTITION BY cluster, arm, who, aim ORDER BY at, session_id
                               ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) >= {burst:Int64} AS apart
                    FROM
                    (
                        SELECT cluster, start_time, session_id, max(user_name) AS who, max(target) AS aim, max(protocol) AS proto, max(target_type) AS kind,
                               max(instance_id) AS host, max(failure) AS how, max(status IN ('connected', 'completed', 'terminated')) AS well,
                               max(status = 'failed') AS failed
                        FROM session_events
                        WHERE tenant = {tenant:String} AND NOT probe%s
                          AND start_time >= {from:DateTime64(9, 'UTC')} AND start_time < {until:DateTime64(9, 'UTC')}
                          AND NOT arrayExists((f, t) -> toUnixTimestamp64Nano(start_time) >= f AND toUnixTimestamp64Nano(start_time) < t,
                                              {aside_from:Array(Int64)}, {aside_to:Array(Int64)})
                        GROUP BY cluster, start_time, session_id
                    )
                )
            )
        )
        GROUP BY cluster, arm, who, aim, run, part
        HAVING worked OR hopeless
    ) AS t
    ASOF LEFT JOIN (SELECT cluster, began_at, ended_at, lines, running FROM drift_periods FINAL WHERE tenant = {tenant:String}%s) AS p
        ON t.cluster = p.cluster AND t.started >= p.began_at
)
GROUP BY cluster, lines, running, protocol, target_type, family, instance, class
ORDER BY cluster, lines, running, protocol, target_type, family, instance, class`

// Cells counts the trials of people in clusters, of all when none is named, that
// started within a boundary and before until, by what ran then and by what they
// were. As at a gate, attempts of one user at one target within burst are one
// trial within one arm, it worked if one of them did, it failed only if all did,
// and else it is not counted.
//
// A gate counts as rows arrive, and this as they are. So it also counts rows that
// came late, or that no mark vouched for. And where attempts go on for longer than
// burst without a pause as long, a gate begins the second trial with the first
// attempt past the window, and this begins windows at multiples of burst: there may
// be a trial more or less of such a run.
func (s *Store) Cells(
	ctx context.Context, tenant fleet.TenantID, clusters []fleet.ClusterID, b gate.Boundary, until time.Time, burst time.Duration,
) ([]gate.Cell, error) {
	among, args := only(clusters)
	asideFrom, asideTo := make([]int64, len(b.Aside)), make([]int64, len(b.Aside))
	for i, span := range b.Aside {
		asideFrom[i], asideTo[i] = span.From.UnixNano(), span.To.UnixNano()
	}
	var out []gate.Cell
	sets := make(map[string]fleet.VersionSet) // one for all cells that ran the same
	err := s.read(ctx, "where sessions failed", fmt.Sprintf(selectCells, among, among), append(args,
		ch.Named("tenant", string(tenant)), exactly("from", b.BaselineFrom), exactly("start", b.Start), exactly("end", b.End), exactly("until", until),
		ch.Named("burst", fmt.Sprint(burst.Nanoseconds())), ch.Named("aside_from", asideFrom), ch.Named("aside_to", asideTo),
	), func(rows driver.Rows) error {
		var (
			c                                gate.Cell
			cluster, instance, class         string
			lines, running                   []string
			was, worked, mid, well, is, good uint64
		)
		if err := rows.Scan(&cluster, &lines, &running, &c.Protocol, &c.TargetType, &c.TargetFamily, &instance, &class,
			&was, &worked, &mid, &well, &is, &good, &c.Last); err != nil {
			return err
		}
		c.Cluster, c.Instance, c.Failure = fleet.ClusterID(cluster), fleet.InstanceID(instance), fleet.Failure(class)
		c.Baseline, c.Between, c.New = trials(was, worked), trials(mid, well), trials(is, good)
		key := strings.Join(lines, "\n") + "\n\n" + strings.Join(running, "\n")
		if _, known := sets[key]; !known {
			sets[key] = clearly(lines, running)
		}
		c.Versions = sets[key]
		out = append(out, c)
		return nil
	})
	return out, err
}

func trials(failed, succeeded uint64) gate.Trials {
	return gate.Trials{Failed: int(failed), Succeeded: int(succeeded)}
}

// clearly is what ran of the lines that ran one version; nil for none.
func clearly(lines, running []string) fleet.VersionSet {
	var set fleet.VersionSet
	for i, line := range lines {
		if version := running[i]; version != "" && !strings.Contains(version, between) {
			if set == nil {
				set = make(fleet.VersionSet)
			}
			set[fleet.Line(line)] = version
		}
	}
	return set
}
