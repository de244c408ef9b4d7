package gate

import (
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestTelemetry(t *testing.T) {
	t.Parallel()
	const limit = 30 * time.Second
	now := noon.Add(time.Minute)
	seen := func(id fleet.SourceID, about fleet.Kind, ago time.Duration) Source {
		return Source{ID: id, About: about, SeenUntil: now.Add(-ago)}
	}
	sessions, inventory := seen("a", fleet.KindSession, 5*time.Second), seen("a", fleet.KindInventory, limit)
	with := func(s Source, change func(*Source)) Source {
		change(&s)
		return s
	}
	for _, tt := range []struct {
		name    string
		sources []Source
		verdict Verdict
		codes   string
		figures map[string]int64
		at      time.Time
	}{
		{"all see", []Source{sessions, inventory, with(seen("b", fleet.KindProbe, time.Hour), func(s *Source) { s.Blind = true })},
			Pass, "up_to_date", map[string]int64{"required": 2, "seeing": 2, "lag_seconds": 30}, now.Add(-limit)},
		{"one kind is not heard of", []Source{sessions},
			Inconclusive, "unheard", map[string]int64{"required": 2, "seeing": 1, "unheard": 1, "lag_seconds": 5}, time.Time{}},
		{"one never said until when", []Source{sessions, {ID: "a", About: fleet.KindInventory}},
			Inconclusive, "unheard", map[string]int64{"required": 2, "seeing": 1, "unheard": 1, "lag_seconds": 5}, time.Time{}},
		{"stale", []Source{sessions, seen("a", fleet.KindInventory, limit+1)},
			Inconclusive, "stale", map[string]int64{"required": 2, "seeing": 1, "stale": 1, "lag_seconds": 30}, now.Add(-limit - 1)},
		{"blind", []Source{with(sessions, func(s *Source) { s.Blind = true }), inventory},
			Inconclusive, "blind", map[string]int64{"required": 2, "seeing": 1, "blind": 1, "lag_seconds": 30}, now.Add(-limit)},
		{"a second source is blind", []Source{sessions, inventory, with(seen("b", fleet.KindInventory, 0), func(s *Source) { s.Blind, s.BlindReason = true, "refused" })},
			Inconclusive, "blind", map[string]int64{"required": 2, "seeing": 2, "blind": 1, "lag_seconds": 30}, now.Add(-limit)},
		{"lost since the step", []Source{with(sessions, func(s *Source) { s.Lost = noon.Add(1) }), inventory},
			Inconclusive, "hole", map[string]int64{"required": 2, "seeing": 1, "holes": 1, "lag_seconds": 30}, now.Add(-limit)},
		{"lost before the step", []Source{with(sessions, func(s *Source) { s.Lost = noon }), inventory},
			Pass, "up_to_date", map[string]int64{"required": 2, "seeing": 2, "lag_seconds": 30}, now.Add(-limit)},
		{"blind since it began, and with a hole", []Source{{ID: "a", About: fleet.KindSession, Blind: true, Lost: now}, inventory},
			Inconclusive, "blind hole", map[string]int64{"required": 2, "seeing": 1, "blind": 1, "holes": 1, "lag_seconds": 30}, time.Time{}},
		{"a clock ahead", []Source{seen("a", fleet.KindSession, -time.Hour), inventory},
			Pass, "up_to_date", map[string]int64{"required": 2, "seeing": 2, "lag_seconds": 30}, now.Add(-limit)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := TelemetryFacts{Required: []fleet.Kind{fleet.KindSession, fleet.KindInventory}, Sources: tt.sources, Start: noon, Limit: limit}.Judge(now)
			wantResult(t, got, tt.verdict, tt.codes, tt.figures)
			if !got.At.Equal(tt.at) {
				t.Errorf("seen at %s, want %s", got.At, tt.at)
			}
		})
	}
	t.Run("nothing is required", func(t *testing.T) {
		t.Parallel()
		wantResult(t, TelemetryFacts{Sources: []Source{sessions}, Limit: limit}.Judge(now), Inconclusive, "not_configured", map[string]int64{})
	})
}

func TestSourceTakesMarks(t *testing.T) {
	t.Parallel()
	s := Source{ID: "a", About: fleet.KindSession}
	take := func(after time.Duration, change func(*fleet.Mark)) {
		m := fleet.Mark{Cluster: paris, About: fleet.KindSession, CompleteUntil: noon.Add(after)}
		if change != nil {
			change(&m)
		}
		s.Take(m)
	}
	want := func(what string, seen time.Duration, blind bool, lost time.Duration) {
		t.Helper()
		if !s.SeenUntil.Equal(noon.Add(seen)) || s.Blind != blind || lost >= 0 && !s.Lost.Equal(noon.Add(lost)) || lost < 0 && !s.Lost.IsZero() {
			t.Errorf("%s: %+v", what, s)
		}
	}
	take(2, nil)
	want("a mark", 2, false, -1)
	take(1, nil)
	want("an older one", 2, false, -1)
	take(9, func(m *fleet.Mark) { m.About = fleet.KindProbe })
	want("one about something else", 2, false, -1)
	take(3, func(m *fleet.Mark) { m.Blind, m.BlindReason = true, "refused" })
	want("a blind one", 2, true, -1)
	take(4, func(m *fleet.Mark) { m.Blind, m.Lost, m.BlindReason = true, true, "message 7 is missing" })
	want("a loss", 2, true, 4)
	take(3, func(m *fleet.Mark) { m.Blind, m.Lost, m.BlindReason = true, true, "message 3 is missing" })
	want("an older loss", 2, true, 4)
	take(5, nil)
	want("sight again", 5, false, 4)
	if s.LostReason != "message 7 is missing" || s.BlindReason != "" {
		t.Errorf("reasons are %q and %q", s.LostReason, s.BlindReason)
	}
}
