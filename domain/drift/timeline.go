package drift

import (
	"slices"
	"sort"
	"time"
)

// Horizon is how far back a cluster's timelines reach, behind their newest point.
const Horizon = 24 * time.Hour

// How many points a timeline keeps, and how many of them it copies to take in one
// more.
const (
	maxPoints = 4096
	maxRecent = 64
)

// saying is what one report says, as far as it is judged. Reports with one text say
// the same.
type saying[S any] interface {
	comparable
	text() string
	// beside is what stands for two reports of one instant that say different
	// things: the same one, whichever came first.
	beside(other S) S
}

// timeline is what reports said, in order of the instants they are of and not of
// their arrival: whatever the order in which reports of one horizon come, with
// repeats, it is the same. Points that say the same stay apart, for a late report
// may fall between them. Taking one in leaves the timeline it was taken into as it
// was.
type timeline[S saying[S]] struct {
	// old and recent are parts of one row of points and are never written to.
	old, recent []point[S]
	// began is since when the first point held, which is before its own time where
	// it stands for earlier ones that said the same.
	began time.Time
}

type point[S any] struct {
	at   time.Time
	says S
}

func (t timeline[S]) len() int { return len(t.old) + len(t.recent) }

func (t timeline[S]) at(i int) point[S] {
	if i < len(t.old) {
		return t.old[i]
	}
	return t.recent[i-len(t.old)]
}

// newest is what was said last, the zero value before anything was.
func (t timeline[S]) newest() (says S) {
	if n := t.len(); n > 0 {
		says = t.at(n - 1).says
	}
	return says
}

// add takes in what a report of an instant says.
func (t timeline[S]) add(at time.Time, says S) timeline[S] {
	n := t.len()
	if n == 0 {
		return timeline[S]{recent: []point[S]{{at, says}}, began: at}
	}
	last := t.at(n - 1)
	switch {
	case at.After(last.at):
		if says != last.says && says.text() == last.says.text() {
			says = last.says // one of them is enough to keep
		}
		if len(t.recent) == maxRecent {
			t.old, t.recent = slices.Concat(t.old, t.recent), nil
		}
		t.recent = slices.Concat(t.recent, []point[S]{{at, says}})
	case at.Before(last.at.Add(-Horizon)) && t.began.Before(last.at.Add(-Horizon)):
		return t // what held then is known
	default:
		i := sort.Search(n, func(i int) bool { return !t.at(i).at.Before(at) })
		if i < n && t.at(i).at.Equal(at) {
			was := t.at(i).says
			if says = was.beside(says); says == was {
				return t
			}
			all := slices.Concat(t.old, t.recent)
			all[i].says = says
			t.old, t.recent = all, nil
			return t
		}
		all := slices.Insert(slices.Concat(t.old, t.recent), i, point[S]{at, says})
		t.old, t.recent = all, nil
		if i == 0 {
			t.began = at
		}
	}
	return t.trim()
}

// trim forgets what lies behind the horizon, but for what held there and since
// when.
func (t timeline[S]) trim() timeline[S] {
	n := t.len()
	cutoff := t.at(n - 1).at.Add(-Horizon)
	held := -1
	for held+1 < n && t.at(held+1).at.Before(cutoff) {
		held++
	}
	if held > 0 {
		first := held
		for first > 0 && t.at(first-1).says.text() == t.at(held).says.text() {
			first--
		}
		if first > 0 {
			t.began = t.at(first).at
		}
		t = t.drop(held)
	}
	if over := t.len() - maxPoints; over > 0 {
		t = t.drop(over)
		t.began = t.at(0).at
	}
	return t
}

func (t timeline[S]) drop(n int) timeline[S] {
	fromOld := min(n, len(t.old))
	t.old, t.recent = t.old[fromOld:], t.recent[n-fromOld:]
	return t
}

// run is the unbroken stretch of points up to the newest of which something holds.
type run struct {
	since time.Time
	// first is the index of its first point, the number of points where it holds of
	// none.
	first int
}

// atLeast says whether the run may have begun before it was first seen.
func (r run) atLeast() bool { return r.first == 0 }

// run finds the stretch up to the newest point of which something holds.
func (t timeline[S]) run(holds func(S) bool) run {
	first := t.len()
	var last S
	for first > 0 {
		says := t.at(first - 1).says
		if says != last && !holds(says) {
			break
		}
		last = says
		first--
	}
	r := run{first: first}
	switch {
	case first == 0 && t.len() > 0:
		r.since = t.began
	case first < t.len():
		r.since = t.at(first).at
	}
	return r
}
