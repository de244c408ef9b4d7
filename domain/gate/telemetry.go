package gate

import (
	"cmp"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Codes of the telemetry check, besides Blind.
const (
	UpToDate Code = "up_to_date" // every source sees and has told so lately
	Unheard  Code = "unheard"    // no source of a kind has ever said what it sees
	Stale    Code = "stale"      // a source has said nothing for too long
	Hole     Code = "hole"       // something that was sent since the step never arrived
)

// Source is how well one source sees one kind of thing in one cluster, as its
// marks tell.
type Source struct {
	ID    fleet.SourceID
	About fleet.Kind
	// SeenUntil is until when it is known to have seen all, the zero time for never.
	SeenUntil time.Time
	// Blind says that it cannot see at present, BlindReason why.
	Blind       bool
	BlindReason string
	// Lost is of the newest mark that told of a loss, the zero time for none: what was
	// sent before it may be missing. LostReason says what.
	Lost       time.Time
	LostReason string
}

// Take takes in the source's next mark. Marks about something else change nothing.
func (s *Source) Take(m fleet.Mark) {
	if m.About != s.About {
		return
	}
	if m.Lost && m.CompleteUntil.After(s.Lost) {
		s.Lost, s.LostReason = m.CompleteUntil, m.BlindReason
	}
	s.Blind, s.BlindReason = m.Blind, m.BlindReason
	if !m.Blind {
		s.SeenUntil = newer(s.SeenUntil, m.CompleteUntil)
	}
}

// TelemetryFacts are what the telemetry check looks at.
type TelemetryFacts struct {
	// Required are the kinds that the stage's checks rest on.
	Required []fleet.Kind
	// Sources are those of the cluster. Each one about a required kind has to see.
	Sources []Source
	// Start is when the cluster was first touched: what was lost before it only thins
	// the baseline.
	Start time.Time
	// Limit is how long ago a source may have seen all last.
	Limit time.Duration
}

// Judge passes when every source of every required kind sees, was complete within
// the limit and has lost nothing since the step. Otherwise it is inconclusive: what
// cannot be seen is neither good nor bad.
func (f TelemetryFacts) Judge(now time.Time) Result {
	var found findings
	if len(f.Required) == 0 {
		found.add(Inconclusive, NotConfigured, "No source is required, so that nothing would be seen.")
	}
	var seeing, unheard, blind, stale, holes, lag int64
	var seen []time.Time
	for _, kind := range f.Required {
		sources := f.about(kind)
		if len(sources) == 0 {
			unheard++
			seen = append(seen, time.Time{})
			found.add(Inconclusive, Unheard, "No source has said what it sees of %s.", kind)
		}
		for _, s := range sources {
			seen = append(seen, s.SeenUntil)
			age := now.Sub(s.SeenUntil)
			if !s.SeenUntil.IsZero() {
				lag = max(lag, int64(age/time.Second))
			}
			lost := s.Lost.After(f.Start)
			switch {
			case s.Blind:
				blind++
				found.add(Inconclusive, Blind, "Source %s cannot see every %s since %s: %s.", s.ID, kind, since(s.SeenUntil), said(s.BlindReason))
			case s.SeenUntil.IsZero():
				unheard++
				found.add(Inconclusive, Unheard, "Source %s has not said yet until when it saw every %s.", s.ID, kind)
			case age > f.Limit:
				stale++
				found.add(Inconclusive, Stale, "Source %s has told nothing complete of %s since %s, longer than %s.", s.ID, kind, instant(s.SeenUntil), f.Limit)
			case !lost:
				seeing++
			}
			if lost {
				holes++
				found.add(Inconclusive, Hole, "Something that source %s sent of %s before %s never arrived: %s.", s.ID, kind, instant(s.Lost), said(s.LostReason))
			}
		}
	}
	var at time.Time
	if len(seen) > 0 {
		at = slices.MinFunc(seen, time.Time.Compare)
	}
	return found.result(CheckTelemetry, at, map[string]int64{
		"required": int64(len(f.Required)), "seeing": seeing, "unheard": unheard, "blind": blind, "stale": stale, "holes": holes, "lag_seconds": lag,
	}, Reason{UpToDate, several(seeing, "source") + " saw everything within the last " + f.Limit.String() + "."})
}

// about lists the sources of a kind in order of their names.
func (f TelemetryFacts) about(kind fleet.Kind) []Source {
	var out []Source
	for _, s := range f.Sources {
		if s.About == kind {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b Source) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func since(at time.Time) string {
	if at.IsZero() {
		return "it began"
	}
	return instant(at)
}

func said(reason string) string {
	if reason == "" {
		return "no reason given"
	}
	return reason
}
