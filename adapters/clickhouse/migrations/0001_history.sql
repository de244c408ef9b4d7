-- Facts of what was observed. The version counts down with the stream's
-- sequence, so that among rows of one identity the first arrival wins. The time
-- in the sorting key is a function of what makes the identity, never a receive
-- time. Every table is on disk before an insert is acknowledged.

CREATE TABLE IF NOT EXISTS inventory_instances
(
    tenant LowCardinality(String),
    cluster LowCardinality(String),
    observed_at DateTime64(3, 'UTC'),
    -- Empty for the row that stands for an inventory without instances.
    instance_id String,
    component LowCardinality(String),
    service LowCardinality(String),
    image LowCardinality(String),
    tag LowCardinality(String),
    digest LowCardinality(String),
    image_id LowCardinality(String),
    running_version LowCardinality(String),
    health LowCardinality(String),
    started_at DateTime64(3, 'UTC'),
    source LowCardinality(String),
    incarnation LowCardinality(String),
    part UInt8,
    source_sequence UInt64,
    stream_sequence UInt64,
    stream_index UInt32,
    recorded_at DateTime64(3, 'UTC'),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(observed_at)
ORDER BY (tenant, cluster, observed_at, source, instance_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS session_events
(
    tenant LowCardinality(String),
    cluster LowCardinality(String),
    start_time DateTime64(9, 'UTC'),
    session_id String,
    status LowCardinality(String),
    user_name String,
    target String,
    instance_id LowCardinality(String),
    end_time DateTime64(9, 'UTC'),
    error String,
    probe Bool,
    observed_at DateTime64(3, 'UTC'),
    source LowCardinality(String),
    incarnation LowCardinality(String),
    part UInt8,
    source_sequence UInt64,
    stream_sequence UInt64,
    stream_index UInt32,
    recorded_at DateTime64(3, 'UTC'),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(start_time)
ORDER BY (tenant, cluster, start_time, session_id, status)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS progress_marks
(
    tenant LowCardinality(String),
    cluster LowCardinality(String),
    observed_at DateTime64(3, 'UTC'),
    complete_until DateTime64(9, 'UTC'),
    blind Bool,
    blind_reason String,
    lost Bool,
    source LowCardinality(String),
    incarnation LowCardinality(String),
    part UInt8,
    source_sequence UInt64,
    stream_sequence UInt64,
    stream_index UInt32,
    recorded_at DateTime64(3, 'UTC'),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(observed_at)
-- A mark that tells of a loss is told again without it when its message is
-- delivered again; both rows stay, and the loss with them.
ORDER BY (tenant, cluster, observed_at, source, incarnation, source_sequence, lost)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS registrations
(
    tenant LowCardinality(String),
    cluster LowCardinality(String),
    observed_at DateTime64(3, 'UTC'),
    last_report DateTime64(3, 'UTC'),
    bastion_ids Array(String),
    bastion_versions Array(String),
    source LowCardinality(String),
    incarnation LowCardinality(String),
    part UInt8,
    source_sequence UInt64,
    stream_sequence UInt64,
    stream_index UInt32,
    recorded_at DateTime64(3, 'UTC'),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(observed_at)
ORDER BY (tenant, cluster, observed_at, source)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Every decision, as it stands in the event stream.
CREATE TABLE IF NOT EXISTS facts
(
    tenant LowCardinality(String),
    noun LowCardinality(String),
    id String,
    stream_sequence UInt64,
    type LowCardinality(String),
    recorded_at DateTime64(3, 'UTC'),
    json String,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (tenant, noun, id, stream_sequence)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
