-- What became of each cluster, and what it cost.

-- One row for each period of a cluster. Of two rows of one beginning the later one
-- stands: it knows the end. Not partitioned, so that the end of one period and the
-- beginning of the next are stored together or not at all.
CREATE TABLE IF NOT EXISTS drift_periods
(
    tenant LowCardinality(String),
    cluster LowCardinality(String),
    began_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    -- The epoch while it goes on.
    ended_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    state LowCardinality(String),
    reasons Array(String) CODEC(ZSTD(1)),
    -- Lines in order; for each, the versions that ran, joined by ", ".
    lines Array(LowCardinality(String)),
    running Array(String) CODEC(ZSTD(1)),
    -- As "gateway=4.52.0 sra=3.0.3" when every line ran one version, else empty.
    version_set LowCardinality(String),
    assigned LowCardinality(String),
    rollout LowCardinality(String),
    target LowCardinality(String),
    -- Version sets, empty while not mixed.
    edge_from LowCardinality(String),
    edge_to LowCardinality(String),
    stream_sequence UInt64 CODEC(Delta, ZSTD(1)),
    recorded_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    -- The stream's sequence: the last arrival wins.
    version UInt64 CODEC(Delta, ZSTD(1)),
    -- When the row was stored, by the server's clock.
    stored_at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, cluster, began_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- What was captured of a cluster; the earliest of one id stands.
CREATE TABLE IF NOT EXISTS baselines
(
    tenant LowCardinality(String),
    id String,
    cluster LowCardinality(String),
    name LowCardinality(String),
    at DateTime64(3, 'UTC'),
    by LowCardinality(String),
    rollout LowCardinality(String),
    state LowCardinality(String),
    assigned LowCardinality(String),
    -- The whole baseline.
    json String CODEC(ZSTD(3)),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- People's sessions that ended, well or failed, by the hour of their start and by
-- the state of their cluster then. A row is computed from session_events and
-- drift_periods as a whole and replaced as a whole, so that computing it again is
-- harmless. The row without a cluster says up to what was counted, so emptying the
-- table has all counted again.
CREATE TABLE IF NOT EXISTS session_hours
(
    tenant LowCardinality(String),
    cluster LowCardinality(String),
    hour DateTime('UTC') CODEC(Delta, ZSTD(1)),
    -- While not mixed, mixed inside a window, and mixed past it.
    whole_sessions UInt64 CODEC(ZSTD(1)),
    whole_failed UInt64 CODEC(ZSTD(1)),
    inside_sessions UInt64 CODEC(ZSTD(1)),
    inside_failed UInt64 CODEC(ZSTD(1)),
    outside_sessions UInt64 CODEC(ZSTD(1)),
    outside_failed UInt64 CODEC(ZSTD(1)),
    -- When all was counted that was stored before, in the row without a cluster.
    counted_at DateTime64(3, 'UTC') CODEC(ZSTD(1)),
    -- Counts up with every time of counting.
    version UInt64 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, cluster, hour)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- When a row was stored, by the server's clock, so that what is new is found however
-- late it comes. What is there already takes the time of its arrival.
ALTER TABLE session_events ADD COLUMN IF NOT EXISTS stored_at DateTime64(3, 'UTC') MATERIALIZED recorded_at CODEC(Delta, ZSTD(1));
ALTER TABLE session_events MATERIALIZE COLUMN stored_at SETTINGS mutations_sync = 1;
ALTER TABLE session_events MODIFY COLUMN stored_at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC') CODEC(Delta, ZSTD(1));
ALTER TABLE session_events ADD INDEX IF NOT EXISTS stored stored_at TYPE minmax;
ALTER TABLE session_events MATERIALIZE INDEX stored;

-- Smaller on disk: a seventh of inventories, two fifths of sessions. What is there
-- already is written anew when parts are merged.
ALTER TABLE inventory_instances
    MODIFY COLUMN observed_at CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN started_at CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN recorded_at CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN source_sequence CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN stream_sequence CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN version CODEC(Delta, ZSTD(1));

ALTER TABLE session_events
    MODIFY COLUMN start_time CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN end_time CODEC(ZSTD(1)),
    MODIFY COLUMN session_id CODEC(ZSTD(1)),
    MODIFY COLUMN user_name CODEC(ZSTD(1)),
    MODIFY COLUMN target CODEC(ZSTD(1)),
    MODIFY COLUMN instance_id CODEC(ZSTD(1)),
    MODIFY COLUMN protocol CODEC(ZSTD(1)),
    MODIFY COLUMN error CODEC(ZSTD(1)),
    MODIFY COLUMN observed_at CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN recorded_at CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN source_sequence CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN stream_sequence CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN version CODEC(Delta, ZSTD(1));

ALTER TABLE progress_marks
    MODIFY COLUMN observed_at CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN complete_until CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN recorded_at CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN source_sequence CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN stream_sequence CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN version CODEC(Delta, ZSTD(1));

-- Nothing is kept for ever but decisions, periods, baselines and counts. Months are
-- dropped whole, and a new limit reads the times of old parts, not their rows.
ALTER TABLE inventory_instances MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;
ALTER TABLE packages MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;
ALTER TABLE registrations MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;
ALTER TABLE checks MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;
ALTER TABLE session_events MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;
-- Most marks go long before their month.
ALTER TABLE progress_marks MODIFY SETTING materialize_ttl_recalculate_only = 1;

ALTER TABLE inventory_instances MODIFY TTL toDateTime(observed_at) + INTERVAL 400 DAY;
ALTER TABLE packages MODIFY TTL toDateTime(observed_at) + INTERVAL 400 DAY;
ALTER TABLE registrations MODIFY TTL toDateTime(observed_at) + INTERVAL 400 DAY;
ALTER TABLE checks MODIFY TTL toDateTime(at) + INTERVAL 100 DAY;
ALTER TABLE session_events MODIFY TTL toDateTime(start_time) + INTERVAL 1100 DAY;
ALTER TABLE progress_marks MODIFY TTL
    toDateTime(observed_at) + INTERVAL 400 DAY,
    toDateTime(observed_at) + INTERVAL 10 DAY DELETE WHERE about != 'session';

-- What people's own dashboards read; docs/reference/history.md promises it.

CREATE OR REPLACE VIEW v1_periods AS
SELECT p.tenant AS tenant, p.cluster AS cluster, p.began_at AS began_at, if(p.ended_at = toDateTime64(0, 3, 'UTC'), NULL, p.ended_at) AS ended_at,
       dateDiff('millisecond', p.began_at, if(p.ended_at = toDateTime64(0, 3, 'UTC'), now64(3, 'UTC'), p.ended_at)) / 1000 AS seconds,
       p.state AS state, p.reasons AS reasons, mapFromArrays(p.lines, p.running) AS running, p.version_set AS version_set,
       p.assigned AS assigned, p.rollout AS rollout, p.target AS target, p.edge_from AS edge_from, p.edge_to AS edge_to
FROM drift_periods AS p FINAL;

CREATE OR REPLACE VIEW v1_states AS
SELECT p.tenant AS tenant, p.cluster AS cluster, p.state AS state, p.began_at AS since, p.reasons AS reasons, mapFromArrays(p.lines, p.running) AS running,
       p.version_set AS version_set, p.assigned AS assigned, p.rollout AS rollout, p.target AS target, p.edge_from AS edge_from, p.edge_to AS edge_to
FROM drift_periods AS p FINAL
WHERE p.ended_at = toDateTime64(0, 3, 'UTC');

CREATE OR REPLACE VIEW v1_mixed_time_daily AS
SELECT tenant, day, cluster, edge_from, edge_to, sumIf(seconds, state = 'stepping') AS inside_seconds, sumIf(seconds, state = 'overdue') AS outside_seconds
FROM
(
    SELECT tenant, cluster, state, edge_from, edge_to, day,
           dateDiff('millisecond', greatest(began_at, toDateTime64(day, 3, 'UTC')), least(until, toDateTime64(day + 1, 3, 'UTC'))) / 1000 AS seconds
    FROM
    (
        SELECT tenant, cluster, state, edge_from, edge_to, began_at, if(ended_at = toDateTime64(0, 3, 'UTC'), now64(3, 'UTC'), ended_at) AS until
        FROM drift_periods FINAL
        WHERE state IN ('stepping', 'overdue')
    )
    ARRAY JOIN arrayMap(n -> toDate(began_at) + n, range(toUInt64(greatest(0, dateDiff('day', began_at, until) + 1)))) AS day
)
WHERE seconds > 0
GROUP BY tenant, day, cluster, edge_from, edge_to;

CREATE OR REPLACE VIEW v1_version_adoption_daily AS
SELECT tenant, day, line, version, countIf(alone) AS clusters, countIf(NOT alone) AS mixed
FROM
(
    SELECT tenant, day, line, arrayJoin(splitByString(', ', versions) AS each) AS version, length(each) = 1 AS alone
    FROM
    (
        SELECT tenant, began_at, ended_at, lines, running, day, least(toDateTime64(day + 1, 3, 'UTC') - INTERVAL 1 MILLISECOND, now64(3, 'UTC')) AS at
        FROM (SELECT *, if(ended_at = toDateTime64(0, 3, 'UTC'), now64(3, 'UTC'), ended_at) AS until FROM drift_periods FINAL)
        ARRAY JOIN arrayMap(n -> toDate(began_at) + n, range(toUInt64(greatest(0, dateDiff('day', began_at, until) + 1)))) AS day
    )
    ARRAY JOIN lines AS line, running AS versions
    WHERE began_at <= at AND (ended_at = toDateTime64(0, 3, 'UTC') OR at < ended_at)
)
GROUP BY tenant, day, line, version;

CREATE OR REPLACE VIEW v1_sessions_hourly AS
SELECT tenant, cluster, hour, whole_sessions, whole_failed, inside_sessions, inside_failed, outside_sessions, outside_failed
FROM session_hours FINAL
WHERE cluster != '';

CREATE OR REPLACE VIEW v1_instances AS
SELECT tenant, cluster, observed_at, instance_id, component, service, image, digest, running_version, health, started_at, declared, node, restarts
FROM inventory_instances FINAL
WHERE instance_id != ''
  AND (tenant, cluster, observed_at, source) IN
      (
          SELECT tenant, cluster, newest.2, newest.3
          FROM
          (
              SELECT tenant, cluster, max((least(observed_at, recorded_at), observed_at, source)) AS newest
              FROM inventory_instances
              WHERE observed_at > now64(3, 'UTC') - INTERVAL 1 DAY AND recorded_at > now64(3, 'UTC') - INTERVAL 1 DAY
              GROUP BY tenant, cluster
          )
      );

CREATE OR REPLACE VIEW v1_baselines AS
SELECT tenant, id, cluster, name, at, by, rollout, state, assigned, json
FROM baselines FINAL;
