package backtest

import (
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Far is how far from any move of the cluster a fake step stays: sessions of the
// day after a move may still be those that suffered from it.
const Far = 24 * time.Hour

const week = 7 * 24 * time.Hour

// stride walks the 168 hours of a week so that any few of them are spread over the
// hours of the day and over the days: it shares no divisor with 168, and its rest
// by 24, which is 7, none with 24.
const stride = 103

// Choice is what fake steps are chosen from.
type Choice struct {
	Cluster  fleet.ClusterID
	Seed     uint64
	Within   gate.Span     // the history that may be looked at
	Steps    int           // at most so many
	Lookback time.Duration // how long each one's baseline is
	Deadline time.Duration // how long each is judged
	Moves    []gate.Span   // when the cluster was unlike itself
}

// Fakes chooses instants at which nothing was changed, the same for the same
// choice. No two are judged by the same new sessions, so one's luck is not the
// other's. What moves there were within a baseline is set aside, as for a real
// step.
func Fakes(c Choice) []Step {
	first, last := c.Within.From.Add(c.Lookback), c.Within.To.Add(-c.Deadline)
	var out []Step
	free := func(at time.Time) bool {
		if at.Before(first) || at.After(last) {
			return false
		}
		for _, m := range c.Moves {
			if m.From.Before(at.Add(c.Deadline)) && at.Before(m.To.Add(Far)) || m.From.Before(at.Add(Far)) && at.Before(m.From) {
				return false
			}
		}
		return !slices.ContainsFunc(out, func(s Step) bool { return s.Boundary.End.Sub(at).Abs() < c.Deadline })
	}
	begin := first.Truncate(week)
	weeks := int(last.Sub(begin)/week) + 1
	offset := int(mix(c.Seed^hash(string(c.Cluster), 0)) % 168)
	// One of each hour of the week before any comes twice.
	for round := range max(weeks, 0) {
		for i := range 168 {
			hour := (offset + i*stride) % 168
			draw := mix(c.Seed ^ hash(string(c.Cluster), uint64(hour)+1))
			// The weeks in turn from a random one, and any minute of the hour.
			w := (int(draw%uint64(weeks)) + round) % weeks
			minute := time.Duration(mix(draw+uint64(w))%60) * time.Minute
			at := begin.Add(time.Duration(w)*week + time.Duration(hour)*time.Hour + minute)
			if len(out) >= c.Steps {
				return out
			}
			if free(at) {
				out = append(out, Step{Cluster: c.Cluster, Outcome: Fake, Boundary: gate.Boundary{
					BaselineFrom: at.Add(-c.Lookback), Start: at, End: at, Aside: overlapping(c.Moves, at.Add(-c.Lookback), at),
				}})
			}
		}
	}
	return out
}

// overlapping returns the spans that have some time in common with one.
func overlapping(spans []gate.Span, from, to time.Time) []gate.Span {
	var out []gate.Span
	for _, s := range spans {
		if s.From.Before(to) && from.Before(s.To) {
			out = append(out, s)
		}
	}
	return out
}

// hash is FNV-1a over a text and a number, with mix behind it: FNV alone leaves
// the high bits of short texts alike.
func hash(text string, seed uint64) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * 1099511628211
	}
	return mix(h ^ mix(seed))
}

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// drawn is a number in [0, 1) that follows from a session's id and the seed: what
// is below a share is also below any larger one.
func drawn(id fleet.SessionID, seed uint64) float64 {
	return float64(hash(string(id), seed)>>11) / (1 << 53)
}
