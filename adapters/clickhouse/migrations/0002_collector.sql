-- What collectors see beyond instances and sessions: what is declared, and what
-- checks found; and marks that promise any kind of observation.

ALTER TABLE inventory_instances
    ADD COLUMN IF NOT EXISTS declared LowCardinality(String) AFTER started_at,
    ADD COLUMN IF NOT EXISTS labelled LowCardinality(String) AFTER declared,
    ADD COLUMN IF NOT EXISTS node LowCardinality(String) AFTER labelled,
    ADD COLUMN IF NOT EXISTS restarts UInt32 AFTER node;

ALTER TABLE session_events
    ADD COLUMN IF NOT EXISTS failure LowCardinality(String) AFTER error,
    ADD COLUMN IF NOT EXISTS protocol LowCardinality(String) AFTER failure,
    ADD COLUMN IF NOT EXISTS target_type LowCardinality(String) AFTER protocol;

-- The kind of observation that a mark promises; marks of before were of sessions.
ALTER TABLE progress_marks
    ADD COLUMN IF NOT EXISTS about LowCardinality(String) DEFAULT 'session' AFTER lost,
    ADD COLUMN IF NOT EXISTS clock_skew_ms Int64 AFTER about;

ALTER TABLE registrations
    ADD COLUMN IF NOT EXISTS gateway_names Array(String) AFTER bastion_versions,
    ADD COLUMN IF NOT EXISTS gateway_statuses Array(String) AFTER gateway_names;

-- A start asks for the positions among what arrived last.
ALTER TABLE inventory_instances ADD INDEX IF NOT EXISTS recorded recorded_at TYPE minmax;
ALTER TABLE session_events ADD INDEX IF NOT EXISTS recorded recorded_at TYPE minmax;
ALTER TABLE progress_marks ADD INDEX IF NOT EXISTS recorded recorded_at TYPE minmax;
ALTER TABLE registrations ADD INDEX IF NOT EXISTS recorded recorded_at TYPE minmax;

-- One row for each Helm release, each Compose service and the gateway's
-- configuration; an empty package has one row with an empty unit.
CREATE TABLE IF NOT EXISTS packages
(
    tenant LowCardinality(String),
    cluster LowCardinality(String),
    observed_at DateTime64(3, 'UTC'),
    -- helm, compose, remote_access or empty.
    unit LowCardinality(String),
    -- The release or the service.
    name LowCardinality(String),
    -- The namespace or the project.
    namespace LowCardinality(String),
    chart LowCardinality(String),
    chart_version LowCardinality(String),
    app_version LowCardinality(String),
    revision UInt32,
    -- Helm's status or the service's state.
    status LowCardinality(String),
    -- Of the values, the service's configuration or the gateway's.
    hash String,
    updated_at DateTime64(3, 'UTC'),
    image LowCardinality(String),
    lines Array(LowCardinality(String)),
    versions Array(LowCardinality(String)),
    differences Array(String),
    -- The gateway's configuration; -1 is not said.
    legacy_signing Int8,
    kex_algorithms String,
    session_ttl_seconds UInt32,
    recording_storage LowCardinality(String),
    log_forwarding LowCardinality(String),
    source LowCardinality(String),
    incarnation LowCardinality(String),
    part UInt8,
    source_sequence UInt64,
    stream_sequence UInt64,
    stream_index UInt32,
    recorded_at DateTime64(3, 'UTC'),
    version UInt64,
    INDEX recorded recorded_at TYPE minmax
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(observed_at)
ORDER BY (tenant, cluster, observed_at, source, unit, namespace, name)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS checks
(
    tenant LowCardinality(String),
    cluster LowCardinality(String),
    -- When the look began; for a recording, when its session ended.
    at DateTime64(3, 'UTC'),
    name LowCardinality(String),
    kind LowCardinality(String),
    component LowCardinality(String),
    target LowCardinality(String),
    session_id String,
    took_us UInt64,
    ok Bool,
    failure LowCardinality(String),
    detail String,
    certificate_expires_at DateTime64(3, 'UTC'),
    reading_names Array(LowCardinality(String)),
    reading_values Array(Float64),
    source LowCardinality(String),
    incarnation LowCardinality(String),
    part UInt8,
    source_sequence UInt64,
    stream_sequence UInt64,
    stream_index UInt32,
    recorded_at DateTime64(3, 'UTC'),
    version UInt64,
    INDEX recorded recorded_at TYPE minmax
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(at)
ORDER BY (tenant, cluster, at, name, kind, target, session_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
