package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// period is one row of the history of drift.
type period struct {
	tenant fleet.TenantID
	codec.Period
}

func driftPeriods() table[period] {
	return table[period]{"drift_periods", []column[period]{
		text("tenant", func(p period) string { return string(p.tenant) }),
		text("cluster", func(p period) string { return string(p.Cluster) }),
		millis("began_at", func(p period) time.Time { return p.Began }),
		millis("ended_at", func(p period) time.Time { return p.Ended }),
		text("state", func(p period) string { return string(p.State) }),
		texts("reasons", func(p period) []string { return p.Reasons }),
		texts("lines", func(p period) []string {
			return each(slices.Sorted(maps.Keys(p.Running)), func(l fleet.Line) string { return string(l) })
		}),
		texts("running", func(p period) []string {
			return each(slices.Sorted(maps.Keys(p.Running)), func(l fleet.Line) string { return strings.Join(p.Running[l], between) })
		}),
		text("version_set", func(p period) string { return versionSet(p.Running).String() }),
		text("assigned", func(p period) string { return string(p.Assigned) }),
		text("rollout", func(p period) string { return p.Rollout }),
		text("target", func(p period) string { return string(p.Target) }),
		text("edge_from", func(p period) string { return p.Edge.From.String() }),
		text("edge_to", func(p period) string { return p.Edge.To.String() }),
		long("stream_sequence", func(p period) uint64 { return p.StreamSequence }),
		millis("recorded_at", func(p period) time.Time { return p.RecordedAt }),
		long("version", func(p period) uint64 { return p.StreamSequence }),
	}}
}

// between stands between the versions of one line.
const between = ", "

// versionSet is what runs when each line runs one version, else nil.
func versionSet(running map[fleet.Line][]string) fleet.VersionSet {
	set := make(fleet.VersionSet, len(running))
	for line, versions := range running {
		if len(versions) != 1 {
			return nil
		}
		set[line] = versions[0]
	}
	return set
}

// parseSet reads what VersionSet.String writes; nil for nothing. A part without a
// line belongs to the version before it.
func parseSet(s string) fleet.VersionSet {
	var (
		set  fleet.VersionSet
		last fleet.Line
	)
	for part := range strings.SplitSeq(s, " ") {
		line, version, ok := strings.Cut(part, "=")
		switch {
		case ok && set == nil:
			set = fleet.VersionSet{fleet.Line(line): version}
			last = fleet.Line(line)
		case ok:
			set[fleet.Line(line)] = version
			last = fleet.Line(line)
		case set != nil:
			set[last] += " " + part
		}
	}
	return set
}

// InsertPeriods stores periods and returns once they are on disk: all of them or
// none. A repeat is as harmless as in InsertRecords, and of two rows of one
// beginning the one with the higher sequence stands, whichever comes first.
func (s *Store) InsertPeriods(ctx context.Context, tenant fleet.TenantID, periods []codec.Period) error {
	rows := make([]period, len(periods))
	for i, p := range periods {
		rows[i] = period{tenant, p}
	}
	return insert(ctx, s, driftPeriods(), rows)
}

const selectPeriods = `
SELECT cluster, began_at, ended_at, state, reasons, lines, running, assigned, rollout, target, edge_from, edge_to, stream_sequence, recorded_at
FROM drift_periods FINAL
WHERE tenant = {tenant:String}%s AND began_at < {to:DateTime64(3, 'UTC')}
  AND (ended_at = toDateTime64(0, 3, 'UTC') OR ended_at > {from:DateTime64(3, 'UTC')})
ORDER BY began_at DESC, cluster DESC
LIMIT {limit:UInt64}`

// Periods returns the periods of clusters, of all when none is named, that held at
// some instant of a span, the newest last. Of more than limit the newest are
// returned; 0 is no limit. A span without an end has none.
func (s *Store) Periods(ctx context.Context, tenant fleet.TenantID, clusters []fleet.ClusterID, span codec.Span, limit int) ([]codec.Period, error) {
	if limit == 0 {
		limit = 1 << 32
	}
	if span.To.IsZero() {
		span.To = latest
	}
	among, args := only(clusters)
	out, err := s.readPeriods(ctx, fmt.Sprintf(selectPeriods, among), append(args, ch.Named("tenant", string(tenant)),
		at("from", span.From), at("to", span.To), ch.Named("limit", fmt.Sprint(limit))))
	slices.Reverse(out)
	return out, err
}

// The one that went on as far as was known: an end counts once it was recorded. As
// the end of a period and the beginning of the next are recorded together, the
// first that had not ended is the one.
const selectPeriodsAt = `
SELECT cluster, began_at, toDateTime64(0, 3, 'UTC'), state, reasons, lines, running, assigned, rollout, target, edge_from, edge_to, stream_sequence, recorded_at
FROM drift_periods FINAL
WHERE tenant = {tenant:String}%s AND began_at <= {at:DateTime64(3, 'UTC')}
  AND (ended_at = toDateTime64(0, 3, 'UTC') OR ended_at > {at:DateTime64(3, 'UTC')} OR recorded_at > {at:DateTime64(3, 'UTC')})
ORDER BY cluster, began_at
LIMIT 1 BY cluster`

// PeriodsAt returns the period that held for each cluster, of all when none is
// named, at an instant as it was known then: what was recorded later of an earlier
// instant is left out, and the period has no end. There is none for a cluster
// before its first, and none at all for an instant after now.
func (s *Store) PeriodsAt(ctx context.Context, tenant fleet.TenantID, instant, now time.Time, clusters []fleet.ClusterID) ([]codec.Period, error) {
	if instant.After(now) {
		return nil, nil
	}
	among, args := only(clusters)
	return s.readPeriods(ctx, fmt.Sprintf(selectPeriodsAt, among), append(args, ch.Named("tenant", string(tenant)), at("at", instant)))
}

func (s *Store) readPeriods(ctx context.Context, query string, args []any) ([]codec.Period, error) {
	var out []codec.Period
	err := s.read(ctx, "the periods of drift", query, args, func(rows driver.Rows) error {
		var (
			p                                          codec.Period
			cluster, state, assigned, target, from, to string
			lines, running                             []string
		)
		if err := rows.Scan(&cluster, &p.Began, &p.Ended, &state, &p.Reasons, &lines, &running, &assigned, &p.Rollout, &target, &from, &to,
			&p.StreamSequence, &p.RecordedAt); err != nil {
			return err
		}
		p.Cluster, p.State, p.Assigned, p.Target = fleet.ClusterID(cluster), drift.State(state), fleet.ReleaseID(assigned), fleet.ReleaseID(target)
		p.Ended, p.Edge = unstamp(p.Ended), drift.Edge{From: parseSet(from), To: parseSet(to)}
		if len(p.Reasons) == 0 {
			p.Reasons = nil
		}
		if len(lines) > 0 {
			p.Running = make(map[fleet.Line][]string, len(lines))
		}
		for i, line := range lines {
			p.Running[fleet.Line(line)] = strings.Split(running[i], between)
		}
		out = append(out, p)
		return nil
	})
	return out, err
}

// only is a condition that lets pass no other clusters, nothing when none is named.
func only(clusters []fleet.ClusterID) (string, []any) {
	if len(clusters) == 0 {
		return "", nil
	}
	return " AND cluster IN {clusters:Array(String)}", []any{ch.Named("clusters", each(clusters, func(c fleet.ClusterID) string { return string(c) }))}
}

// at is an instant as a parameter of a statement.
func at(name string, t time.Time) any { return ch.DateNamed(name, stamp(t), ch.MilliSeconds) }

// ms is an instant as a parameter in milliseconds since the epoch.
func ms(name string, t time.Time) any { return ch.Named(name, fmt.Sprint(stamp(t).UnixMilli())) }

// Mixed periods cut to the span, in milliseconds since the epoch: began and ended.
const mixedPeriods = `
        SELECT cluster, state, edge_from, edge_to,
               greatest(toUnixTimestamp64Milli(began_at), {from:Int64}) AS began,
               least(if(ended_at = toDateTime64(0, 3, 'UTC'), {now:Int64}, toUnixTimestamp64Milli(ended_at)), {to:Int64}) AS ended
        FROM drift_periods FINAL
        WHERE tenant = {tenant:String} AND state IN ('stepping', 'overdue') AND began < ended`

// Mixed periods that touch are one mix: a new one is counted where a period begins
// after the one before it ended.
const selectMixedTime = `
SELECT key, sum(inside), sum(outside), count(), max(inside + outside) AS longest
FROM
(
    SELECT key, cluster, mix, sumIf(ended - began, state = 'stepping') AS inside, sumIf(ended - began, state = 'overdue') AS outside
    FROM
    (
        SELECT key, cluster, state, began, ended, sum(breaks) OVER (PARTITION BY key, cluster ORDER BY began) AS mix
        FROM
        (
            SELECT key, cluster, state, began, ended,
                   began != lagInFrame(ended) OVER (PARTITION BY key, cluster ORDER BY began ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS breaks
            FROM (%s)
        )
    )
    GROUP BY key, cluster, mix
)
GROUP BY key
ORDER BY %s`

const (
	edgeKey = `concat(edge_from, ' → ', if(edge_to = '', '?', edge_to))`
	// Weeks begin on Mondays, and the epoch was a Thursday.
	mixedByWeek = `
SELECT toString(toDate(fromUnixTimestamp64Milli(monday, 'UTC'))) AS key, cluster, state,
       greatest(mixed.began, monday) AS began, least(mixed.ended, monday + 604800000) AS ended
FROM (` + mixedPeriods + `) AS mixed
ARRAY JOIN arrayMap(week -> week * 604800000 - 259200000, range(intDiv(mixed.began + 259200000, 604800000), intDiv(mixed.ended - 1 + 259200000, 604800000) + 1)) AS monday`
)

// MixedTime sums how long clusters were mixed within a span, whatever goes on until
// now. Mixed periods of a cluster that touch are one mix; by week and by edge, a
// mix is cut where the week or the edge ends. Weeks come in order, all else by time
// outside windows, then inside, the longest first.
func (s *Store) MixedTime(ctx context.Context, tenant fleet.TenantID, span codec.Span, group codec.Group, now time.Time) ([]codec.MixedTime, error) {
	source, order := "", "sum(outside) DESC, sum(inside) DESC, key"
	switch group {
	case codec.ByAll:
		source = "SELECT '' AS key, * FROM (" + mixedPeriods + ")"
	case codec.ByCluster:
		source = "SELECT cluster AS key, * FROM (" + mixedPeriods + ")"
	case codec.ByEdge:
		source = "SELECT " + edgeKey + " AS key, * FROM (" + mixedPeriods + ")"
	case codec.ByWeek:
		source, order = mixedByWeek, "key"
	default:
		return nil, fmt.Errorf("sum mixed time: there is no group %q", group)
	}
	var out []codec.MixedTime
	err := s.read(ctx, "mixed time", fmt.Sprintf(selectMixedTime, source, order), []any{
		ch.Named("tenant", string(tenant)), ms("from", span.From), ms("to", span.To), ms("now", now),
	}, func(rows driver.Rows) error {
		var (
			m                        codec.MixedTime
			inside, outside, longest int64
		)
		if err := rows.Scan(&m.Key, &inside, &outside, &m.Mixes, &longest); err != nil {
			return err
		}
		m.Inside, m.Outside, m.Longest = millisOf(inside), millisOf(outside), millisOf(longest)
		out = append(out, m)
		return nil
	})
	return out, err
}

func millisOf(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// Of one mix the first period is the beginning and the last knows best where it led.
const selectMixes = `
SELECT cluster, argMin(edge_from, began), argMax(edge_to, began), min(began) AS mix_began, max(ended) - mix_began
FROM
(
    SELECT *, sum(breaks) OVER (PARTITION BY cluster ORDER BY began) AS mix
    FROM
    (
        SELECT cluster, edge_from, edge_to, ended_at, toUnixTimestamp64Milli(began_at) AS began, toUnixTimestamp64Milli(ended_at) AS ended,
               began != lagInFrame(ended) OVER (PARTITION BY cluster ORDER BY began ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS breaks
        FROM drift_periods FINAL
        WHERE tenant = {tenant:String} AND state IN ('stepping', 'overdue')
    )
)
GROUP BY cluster, mix
HAVING min(ended) > 0 AND max(ended) >= {since:Int64}
ORDER BY mix_began, cluster`

// Mixes returns the unbroken mixes that ended at or after an instant, in the order
// of their beginning.
func (s *Store) Mixes(ctx context.Context, tenant fleet.TenantID, since time.Time) ([]codec.Mix, error) {
	var out []codec.Mix
	err := s.read(ctx, "mixes", selectMixes, []any{ch.Named("tenant", string(tenant)), ms("since", since)}, func(rows driver.Rows) error {
		var (
			cluster, from, to string
			began, took       int64
		)
		if err := rows.Scan(&cluster, &from, &to, &began, &took); err != nil {
			return err
		}
		out = append(out, codec.Mix{
			Cluster: fleet.ClusterID(cluster), Edge: drift.Edge{From: parseSet(from), To: parseSet(to)}, Began: time.UnixMilli(began).UTC(), Took: millisOf(took),
		})
		return nil
	})
	return out, err
}

// points bounds how many instants one question may ask for.
const points = 10_000

// Which instants of the span a period covers is counted in steps.
const selectAdoption = `
SELECT {from:Int64} + step * {step:Int64} AS at, version, countIf(alone), countIf(NOT alone)
FROM
(
    SELECT arrayJoin(range(intDiv(greatest(toUnixTimestamp64Milli(began_at) - {from:Int64}, 0) + {step:Int64} - 1, {step:Int64}),
                           intDiv(greatest(least(if(ended_at = toDateTime64(0, 3, 'UTC'), {to:Int64}, toUnixTimestamp64Milli(ended_at)), {to:Int64})
                                           - {from:Int64}, 0) + {step:Int64} - 1, {step:Int64}))) AS step,
           arrayJoin(splitByString(', ', running[indexOf(lines, {line:String})]) AS versions) AS version, length(versions) = 1 AS alone
    FROM drift_periods FINAL
    WHERE tenant = {tenant:String} AND has(lines, {line:String})
)
GROUP BY step, version
ORDER BY step, version`

// Adoption counts at every step of a span, its beginning first, the clusters that
// ran each version of a line. A period that goes on is taken to hold to the end of
// the span, and a dark cluster runs what it was last seen to run.
func (s *Store) Adoption(ctx context.Context, tenant fleet.TenantID, line fleet.Line, span codec.Span, step time.Duration) ([]codec.Adoption, error) {
	if step < time.Millisecond || span.To.Sub(span.From)/step >= points {
		return nil, errs.New(errs.Invalid, "", "count versions from %s to %s every %s: that is no step, or makes more than %d instants",
			span.From.UTC().Format(time.RFC3339), span.To.UTC().Format(time.RFC3339), step, points)
	}
	var out []codec.Adoption
	err := s.read(ctx, "the adoption of versions", selectAdoption, []any{
		ch.Named("tenant", string(tenant)), ch.Named("line", string(line)), ms("from", span.From), ms("to", span.To), ch.Named("step", fmt.Sprint(step.Milliseconds())),
	}, func(rows driver.Rows) error {
		var (
			a  codec.Adoption
			at int64
		)
		if err := rows.Scan(&at, &a.Version, &a.Clusters, &a.Mixed); err != nil {
			return err
		}
		a.At = time.UnixMilli(at).UTC()
		out = append(out, a)
		return nil
	})
	return out, err
}

// A cluster is meant to run what a rollout takes it to, else what is assigned. While
// a rollout moves it, locked may mean that it still runs what is assigned; it does
// when it was locked on just that with the same assignment and no rollout.
const selectConvergence = `
WITH
    periods AS
    (
        SELECT cluster, toUnixTimestamp64Milli(began_at) AS began, state, version_set, assigned, target, if(target = '', assigned, target) AS release
        FROM drift_periods FINAL
        WHERE tenant = {tenant:String}
    ),
    meant AS
    (
        SELECT cluster, release, min(began) AS meant_at
        FROM
        (
            SELECT cluster, release, began, lagInFrame(release) OVER before AS release_before, row_number() OVER before AS nth
            FROM periods
            WINDOW before AS (PARTITION BY cluster ORDER BY began ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
        )
        WHERE nth > 1 AND release != '' AND release != release_before AND began >= {from:Int64} AND began < {to:Int64}
        GROUP BY cluster, release
    ),
    ran AS
    (
        SELECT cluster, release, began AS ran_at
        FROM periods
        WHERE state = 'locked'
          AND (target IN ('', assigned)
               OR (cluster, assigned, version_set) NOT IN (SELECT cluster, assigned, version_set FROM periods WHERE state = 'locked' AND target = ''))
    )
SELECT release, began, if(length(took) = clusters, ended, 0), clusters, length(took),
       took[toUInt64(ceil(0.5 * length(took)))], took[toUInt64(ceil(0.9 * length(took)))], took[-1]
FROM
(
    SELECT release, min(meant_at) AS began, max(done) AS ended, count() AS clusters, arraySort(groupArrayIf(done - meant_at, came)) AS took
    FROM
    (
        SELECT cluster, release, meant_at, countIf(ran_at >= meant_at) > 0 AS came, minIf(ran_at, ran_at >= meant_at) AS done
        FROM meant LEFT JOIN ran USING (cluster, release)
        GROUP BY cluster, release, meant_at
    )
    GROUP BY release
)
ORDER BY began DESC, release`

// Convergence tells of every release that clusters were to run from within the span
// on, after something else, how many came to and how fast, the one that began last
// first. What came of it is told even when it came after the span. A cluster that
// was to run a release more than once counts from the first time in the span.
func (s *Store) Convergence(ctx context.Context, tenant fleet.TenantID, span codec.Span) ([]codec.Convergence, error) {
	var out []codec.Convergence
	err := s.read(ctx, "the convergence on releases", selectConvergence, []any{
		ch.Named("tenant", string(tenant)), ms("from", span.From), ms("to", span.To),
	}, func(rows driver.Rows) error {
		var (
			c                               codec.Convergence
			release                         string
			began, ended, p50, p90, longest int64
		)
		if err := rows.Scan(&release, &began, &ended, &c.Clusters, &c.Converged, &p50, &p90, &longest); err != nil {
			return err
		}
		c.Release, c.Began = fleet.ReleaseID(release), time.UnixMilli(began).UTC()
		if ended > 0 {
			c.Ended = time.UnixMilli(ended).UTC()
		}
		c.P50, c.P90, c.Longest = millisOf(p50), millisOf(p90), millisOf(longest)
		out = append(out, c)
		return nil
	})
	return out, err
}
