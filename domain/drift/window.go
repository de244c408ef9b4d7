package drift

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Limits bound what counts as fine.
type Limits struct {
	// MixedWindow is how long a mix may last when nothing else says it. Windows are
	// shorter than the Horizon, or their end would not be seen.
	MixedWindow time.Duration
	// DarkAfter is how long after the last report a cluster counts as dark.
	DarkAfter time.Duration
	// SplitAfter is how long sources may disagree.
	SplitAfter time.Duration
	// Steps are the windows configured for a mix within a line.
	Steps map[fleet.Line]time.Duration
	// Edges are the windows configured for single moves of a line; they win over
	// Steps.
	Edges []EdgeWindow
	// Learned is what moves took in this fleet, nil for nothing.
	Learned *Windows
}

// EdgeWindow is the window configured for one move of one line.
type EdgeWindow struct {
	Line     fleet.Line
	From, To string
	Window   time.Duration
}

// window is how long a mix that began at an instant may last, and where that is
// from. Where several lines move at once the longest window that is configured for
// one of them counts.
func (l Limits) window(c Cluster, edge Edge, running map[fleet.Line][]string, began time.Time) (window time.Duration, basis string) {
	for _, e := range l.Edges {
		from, to := edge.From[e.Line], edge.To[e.Line]
		if from != "" && to != "" && sameVersion(from, e.From) && sameVersion(to, e.To) && e.Window > window {
			window, basis = e.Window, fmt.Sprintf("the window configured for %s %s to %s", e.Line, e.From, e.To)
		}
	}
	if basis != "" {
		return window, basis
	}
	for _, line := range edge.lines(running) {
		if step, ok := l.Steps[line]; ok && step > window {
			window, basis = step, fmt.Sprintf("the window configured for %s", line)
		}
	}
	if basis != "" {
		return window, basis
	}
	if learned, said, ok := l.Learned.Window(edge, began); ok {
		return learned, said
	}
	if c.Window > 0 {
		return c.Window, "the window configured for this cluster"
	}
	return l.MixedWindow, "the default window"
}

// lines are those that move, in order: where it is not known, those that are mixed.
func (e Edge) lines(running map[fleet.Line][]string) []fleet.Line {
	var out []fleet.Line
	for line, versions := range running {
		if moves := e.To != nil && !sameVersion(e.From[line], e.To[line]); moves || len(versions) > 1 {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

// What is learned of one move, and when it is believed.
const (
	maxLearned = 100
	minLearned = 5
	minWindow  = 2 * time.Minute
)

// Windows is how long moves took in this fleet: the mixes that ended in a version
// set, by edge. It is a function of what was learned and not of the order in which.
type Windows struct {
	// Cap is the longest window that is learned.
	Cap time.Duration

	edges map[string][]mix // in order of time
}

// mix is one that is over.
type mix struct {
	ended time.Time
	took  time.Duration
}

func (m mix) compare(n mix) int { return cmp.Or(m.ended.Compare(n.ended), cmp.Compare(m.took, n.took)) }

// Learn takes in a mix that ended at an instant and had lasted so long. One that
// leads nowhere teaches nothing.
func (w *Windows) Learn(edge Edge, ended time.Time, took time.Duration) {
	key := edge.key()
	if w == nil || key == "" || took < 0 {
		return
	}
	if w.edges == nil {
		w.edges = make(map[string][]mix)
	}
	m := mix{ended, took}
	at, _ := slices.BinarySearchFunc(w.edges[key], m, mix.compare)
	w.edges[key] = slices.Insert(w.edges[key], at, m)
}

// Window is how long a mix may last that began at an instant, and where that is
// from; false when too little was known. What others took that ended later does not
// move the window of one that goes on: of the mixes that had ended before the last
// hundred count.
func (w *Windows) Window(edge Edge, began time.Time) (window time.Duration, basis string, ok bool) {
	if w == nil {
		return 0, "", false
	}
	mixes := w.edges[edge.key()]
	before, _ := slices.BinarySearchFunc(mixes, began, func(m mix, began time.Time) int {
		if m.ended.Before(began) {
			return -1
		}
		return 1
	})
	mixes = mixes[max(0, before-maxLearned):before]
	if len(mixes) < minLearned {
		return 0, "", false
	}
	durations := make([]time.Duration, len(mixes))
	for i, m := range mixes {
		durations[i] = m.took
	}
	slices.Sort(durations)
	most := durations[(95*len(durations)+99)/100-1] // the nearest rank
	window = min(max(2*min(most, w.Cap), minWindow), w.Cap)
	return window, fmt.Sprintf("twice the %s that this move took in this fleet (95th percentile of %d)", most, len(mixes)), true
}

// key names a move by the lines that move, empty for one that leads nowhere.
func (e Edge) key() string {
	if e.From == nil || e.To == nil {
		return ""
	}
	var key string
	for _, line := range lines(e.To) {
		if from, to := e.From[line], e.To[line]; !sameVersion(from, to) {
			key += fmt.Sprintf("%s %q %q,", line, from, to)
		}
	}
	return key
}
