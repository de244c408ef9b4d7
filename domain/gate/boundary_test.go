package gate

import (
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// feedSteady gives the fold one session a second over [from, to), every nth of
// which fails (0: none), and a mark that completes them.
func feedSteady(f *Fold, seq uint64, from, to time.Time, every int) {
	i := 0
	for at := from; at.Before(to); at = at.Add(time.Second) {
		i++
		status := fleet.SessionConnected
		if every > 0 && i%every == 0 {
			status = fleet.SessionFailed
		}
		f.Session(fleet.Session{
			ID: fleet.SessionID(at.Format("150405")), Cluster: "berlin", Status: status,
			User: fmt.Sprintf("u%d", i), Target: "db", Start: at,
		}, seq)
	}
	f.Mark(fleet.Mark{Cluster: "berlin", CompleteUntil: to}, seq)
}

func boundaryFold(t *testing.T, b Boundary) *Fold {
	t.Helper()
	p := DefaultPolicy()
	p.AcceptableRate, p.FloorRate, p.PlannedTrials, p.Deadline = 0.05, 0.05, 50, 5*time.Hour
	f, err := NewFold(p, "berlin", b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestSessionsSetAsideAreNoBaseline(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	b := Boundary{BaselineFrom: start.Add(-10 * time.Minute), Start: start, End: start.Add(time.Minute)}
	bad := Span{From: start.Add(-5 * time.Minute), To: start.Add(-2 * time.Minute)}
	for _, aside := range [][]Span{nil, {bad}} {
		b.Aside = aside
		f := boundaryFold(t, b)
		for at := b.BaselineFrom; at.Before(start); at = at.Add(time.Second) {
			status := fleet.SessionConnected
			if !at.Before(bad.From) && at.Before(bad.To) {
				status = fleet.SessionFailed
			}
			f.Session(fleet.Session{ID: fleet.SessionID(at.Format("150405")), Cluster: "berlin", Status: status, User: at.Format("150405"), Target: "db", Start: at}, 1)
		}
		f.Mark(fleet.Mark{Cluster: "berlin", CompleteUntil: start.Add(time.Hour)}, 1)
		want := Trials{Succeeded: 600 - 180, Failed: 180}
		if aside != nil {
			want.Failed = 0
		}
		if got := f.Evidence().Baseline; got != want {
			t.Errorf("with %d spans set aside the baseline is %+v, want %+v", len(aside), got, want)
		}
	}
}

func TestLossAfterTheStepEndsTheEvidence(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	b := Boundary{BaselineFrom: start.Add(-10 * time.Minute), Start: start, End: start.Add(time.Minute)}
	lost := func(until time.Time) fleet.Mark {
		return fleet.Mark{Cluster: "berlin", CompleteUntil: until, Blind: true, Lost: true, BlindReason: "message 7 is missing"}
	}
	for _, tt := range []struct {
		name string
		mark fleet.Mark
		want Verdict
	}{
		{"before the step it only thins the baseline", lost(start.Add(-time.Minute)), Pass},
		{"after the step nothing makes up for it", lost(start.Add(2 * time.Minute)), Inconclusive},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := boundaryFold(t, b)
			feedSteady(f, 1, b.BaselineFrom, b.Start, 0)
			f.Mark(tt.mark, 2)
			// Enough flawless sessions for any promotion, seen by a source that sees
			// everything again.
			feedSteady(f, 3, b.End, b.End.Add(20*time.Minute), 0)
			if got := f.Verdict(false); got.Verdict != tt.want {
				t.Errorf("verdict is %s, want %s: %s", got.Verdict, tt.want, got.Summary)
			}
		})
	}
}
