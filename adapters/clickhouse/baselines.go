package clickhouse

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// baseline is one row, with the whole of it as JSON.
type baseline struct {
	tenant fleet.TenantID
	drift.Baseline
	json string
}

func baselines() table[baseline] {
	return table[baseline]{"baselines", []column[baseline]{
		text("tenant", func(b baseline) string { return string(b.tenant) }),
		text("id", func(b baseline) string { return b.ID }),
		text("cluster", func(b baseline) string { return string(b.Cluster) }),
		text("name", func(b baseline) string { return b.Name }),
		millis("at", func(b baseline) time.Time { return b.At }),
		text("by", func(b baseline) string { return b.By }),
		text("rollout", func(b baseline) string { return b.Rollout }),
		text("state", func(b baseline) string { return string(b.State) }),
		text("assigned", func(b baseline) string { return string(b.Assigned) }),
		text("json", func(b baseline) string { return b.json }),
		// It is in no stream; the one captured first stands.
		long("version", func(b baseline) uint64 { return firstWins(uint64(b.At.UnixMilli())) }),
	}}
}

// InsertBaselines stores baselines and returns once they are on disk. Of several
// with one id the one captured first stands.
func (s *Store) InsertBaselines(ctx context.Context, tenant fleet.TenantID, list []drift.Baseline) error {
	rows := make([]baseline, len(list))
	for i, b := range list {
		whole, err := json.Marshal(b)
		if err != nil {
			return fmt.Errorf("encode the baseline %s: %w", b.ID, err)
		}
		rows[i] = baseline{tenant, b, string(whole)}
	}
	return insert(ctx, s, baselines(), rows)
}

// The whole of a baseline is read only of those that are asked for.
const selectBaselines = `
SELECT json
FROM baselines FINAL
WHERE tenant = {tenant:String}
  AND id IN (SELECT id FROM baselines FINAL WHERE tenant = {tenant:String} AND %s ORDER BY at DESC, id LIMIT {limit:UInt64})
ORDER BY at DESC, id`

// Baselines returns the baselines that match a filter, the newest first and at most
// limit of them.
func (s *Store) Baselines(ctx context.Context, tenant fleet.TenantID, filter codec.BaselineFilter, limit int) ([]drift.Baseline, error) {
	return s.readBaselines(ctx, "{cluster:String} IN ('', cluster) AND {name:String} IN ('', name) AND {rollout:String} IN ('', rollout)",
		ch.Named("tenant", string(tenant)), ch.Named("cluster", string(filter.Cluster)), ch.Named("name", filter.Name), ch.Named("rollout", filter.Rollout),
		ch.Named("limit", fmt.Sprint(limit)))
}

// Baseline returns one; the error is of the kind not found when there is none.
func (s *Store) Baseline(ctx context.Context, tenant fleet.TenantID, id string) (drift.Baseline, error) {
	found, err := s.readBaselines(ctx, "id = {id:String}", ch.Named("tenant", string(tenant)), ch.Named("id", id), ch.Named("limit", "1"))
	if err != nil {
		return drift.Baseline{}, err
	}
	if len(found) == 0 {
		return drift.Baseline{}, errs.New(errs.NotFound, "", "there is no baseline %q", id)
	}
	return found[0], nil
}

func (s *Store) readBaselines(ctx context.Context, which string, args ...any) ([]drift.Baseline, error) {
	var out []drift.Baseline
	err := s.read(ctx, "baselines", fmt.Sprintf(selectBaselines, which), args, func(rows driver.Rows) error {
		var (
			whole string
			b     drift.Baseline
		)
		if err := rows.Scan(&whole); err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(whole), &b); err != nil {
			return fmt.Errorf("decode a baseline: %w", err)
		}
		out = append(out, b)
		return nil
	})
	return out, err
}
