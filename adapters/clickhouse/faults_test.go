//go:build linux && amd64

package clickhouse

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// The engine is killed again and again while writers go on, each with the same
// batch until it is acknowledged. Nothing that was acknowledged is lost, nothing
// is there twice, and every error on the way says that trying again helps.
func TestAcknowledgedRecordsSurviveKills(t *testing.T) {
	t.Parallel()
	kills := 20
	if os.Getenv("LOCKSTEP_SOAK") != "" {
		kills = 500
	}
	const writers, batch = 4, 50
	engine := startEngine(t)
	s := openHistory(t, embedded(engine))
	ctx := limited(t, time.Minute+time.Duration(kills)*5*time.Second)

	enough := make(chan struct{})
	acknowledged, failed := make([]int, writers), make([]int, writers)
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for {
				select {
				case <-enough:
					return
				default:
				}
				// A number of its own for every session of every writer.
				records := sessions((acknowledged[w]*writers+w)*batch, batch)
				for {
					err := s.InsertRecords(ctx, records)
					if err == nil {
						break
					}
					if ctx.Err() != nil || errs.KindOf(err) != errs.Unavailable {
						t.Errorf("trying again does not help: %v", err)
						return
					}
					failed[w]++
				}
				acknowledged[w]++
			}
		})
	}
	for range kills {
		// It serves long enough to be started again at once.
		select {
		case <-time.After(550 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
		victim := engine.PID()
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		again := time.NewTicker(10 * time.Millisecond)
		for engine.PID() == victim || engine.Err() != nil || engine.Ready(ctx) != nil {
			select {
			case <-again.C:
			case <-ctx.Done():
				t.Fatal(ctx.Err(), engine.Err())
			}
		}
		again.Stop()
	}
	close(enough)
	writing.Wait()
	want, failures := uint64(0), 0
	for w := range writers {
		want += uint64(acknowledged[w] * batch)
		failures += failed[w]
	}
	t.Logf("%d kills, %d sessions acknowledged, %d inserts failed", kills, want, failures)
	if n := count(t, s, "SELECT count() FROM session_events FINAL"); n != want {
		t.Errorf("%d sessions are read, %d were acknowledged", n, want)
	}
	if n := count(t, s, "SELECT uniqExact(session_id) FROM session_events"); n != want {
		t.Errorf("%d different sessions are there, %d were acknowledged", n, want)
	}
	// At most what was under way when the engine died.
	if most := kills * writers * 2; failures > most {
		t.Errorf("%d inserts failed, at most %d were under way", failures, most)
	}
}

// Who waits for an engine that hangs waits until his time is up.
func TestFrozenEngineHoldsNobody(t *testing.T) {
	t.Parallel()
	engine := startEngine(t)
	s := openHistory(t, embedded(engine))
	if err := syscall.Kill(engine.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for what, do := range map[string]func(context.Context) error{
		"an insert":  func(ctx context.Context) error { return s.InsertRecords(ctx, sessions(0, 100)) },
		"a question": s.Ping,
		"a read": func(ctx context.Context) error {
			return s.Evidence(ctx, fleet.DefaultTenant, "berlin", time.Now(), 0, func(codec.Record) {})
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		err := do(ctx)
		cancel()
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || errs.KindOf(err) != errs.Timeout || took > 5*time.Second {
			t.Errorf("%s: after %s the error is %v", what, took, err)
		}
	}
	if err := syscall.Kill(engine.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertRecords(limited(t, time.Minute), sessions(0, 100)); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "SELECT count() FROM session_events FINAL"); n != 100 {
		t.Errorf("%d sessions are read, want 100", n)
	}
}
