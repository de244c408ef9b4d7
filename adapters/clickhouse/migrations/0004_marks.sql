-- A message may promise several kinds of observation of one cluster, all as of one
-- instant: each of its marks has a row. Place is the mark's stream_index; of the marks
-- that were stored before it is zero.
ALTER TABLE progress_marks
    ADD COLUMN IF NOT EXISTS place UInt32 AFTER stream_index,
    MODIFY ORDER BY (tenant, cluster, observed_at, source, incarnation, source_sequence, lost, place);
