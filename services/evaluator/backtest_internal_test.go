package evaluator

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/backtest"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// slow is a store whose history comes when it is let through, or never.
type slow struct {
	Store
	let   chan error
	reads atomic.Int64
}

func (*slow) Periods(context.Context, fleet.TenantID, []fleet.ClusterID, codec.Span, int) ([]codec.Period, error) {
	return nil, nil
}

func (*slow) SessionsOf(context.Context, fleet.TenantID, []fleet.ClusterID, codec.Span) (map[fleet.ClusterID]drift.Sessions, error) {
	return map[fleet.ClusterID]drift.Sessions{"a": {Open: 1}, "b": {Open: 1}, "c": {Open: 1}, "d": {Open: 1}}, nil
}

func (s *slow) Stretch(ctx context.Context, _ fleet.TenantID, _ fleet.ClusterID, _ codec.Span, _ []codec.Span, _ func(codec.Record)) error {
	s.reads.Add(1)
	select {
	case err := <-s.let:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func slowBacktest(s *slow, clusters ...fleet.ClusterID) *backtestRun {
	to := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	return &backtestRun{
		watch: &watch{deps: Deps{Store: s}}, span: codec.Span{From: to.AddDate(0, 0, -3), To: to}, steps: 1, lookback: day,
		cases: []backtest.Case{{Policy: gate.DefaultPolicy()}}, names: []string{caseOf}, clusters: clusters,
	}
}

func TestABacktestEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{let: make(chan error)}
		ctx, leave := context.WithCancel(t.Context())
		told := 0
		done := make(chan error, 1)
		go func() {
			done <- slowBacktest(s, "a", "b", "c", "d").run(ctx, func(*gatev1.BacktestPolicyResponse) error { told++; return nil })
		}()
		<-time.After(10 * time.Second)
		synctest.Wait()
		if n := s.reads.Load(); n != replayed {
			t.Errorf("%d histories are read at a time", n)
		}
		leave()
		synctest.Wait()
		if err := <-done; !errors.Is(err, context.Canceled) || told < 10 {
			t.Errorf("%v after %d messages", err, told)
		}
		if n := s.reads.Load(); n != replayed {
			t.Errorf("%d histories were read for a caller who has gone", n)
		}
	})
}

func TestABacktestTellsWhyItEnded(t *testing.T) {
	t.Parallel()
	broken, gone := errors.New("the store is broken"), errors.New("the caller has gone")
	for want, tell := range map[error]error{broken: nil, gone: gone} {
		synctest.Test(t, func(t *testing.T) {
			s := &slow{let: make(chan error, 1)}
			s.let <- broken
			err := slowBacktest(s, "a", "b", "c").run(t.Context(), func(*gatev1.BacktestPolicyResponse) error { return tell })
			if !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
}

// What is known so far is told before the end, and not with every message.
func TestABacktestTellsWhatItKnows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &slow{let: make(chan error)}
		var reports []bool
		done := make(chan error, 1)
		go func() {
			done <- slowBacktest(s, "a", "b", "c").run(t.Context(), func(m *gatev1.BacktestPolicyResponse) error {
				if r := m.GetReport(); r != nil {
					reports = append(reports, r.GetComplete())
					if !r.GetComplete() && (r.GetClusters() != 1 || r.GetCases()[0].GetFake().GetEmpty() != 1) {
						t.Errorf("%v", r)
					}
				}
				return nil
			})
		}()
		s.let <- nil
		<-time.After(5 * time.Second)
		s.let <- nil
		s.let <- nil
		if err := <-done; err != nil || len(reports) != 2 || reports[0] || !reports[1] {
			t.Errorf("%v, complete: %v", err, reports)
		}
	})
}
