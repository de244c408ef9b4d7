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

// window is how long a mix may last, and where that is from. Where several lines
// move at once the longest window that is configured for one of them counts.
func (l Limits) window(c Cluster, edge Edge, running map[fleet.Line][]string) (window time.Duration, basis string) {
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
	if learned, said, ok := l.Learned.Window(edge); ok {
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
// set, the last hundred of each edge. It is a function of what was learned and not
// of the order in which.
type Windows struct {
	// Cap is the longest window that is learned.
	Cap time.Duration

	edges map[string]history
}

// history is what one move took.
type history struct {
	mixes []mix         // in order of time
	most  time.Duration // the 95th percentile of what they took
}

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
		w.edges = make(map[string]history)
	}
	h, m := w.edges[key], mix{ended, took}
	at, _ := slices.BinarySearchFunc(h.mixes, m, mix.compare)
	h.mixes = slices.Insert(h.mixes, at, m)
	if over := len(h.mixes) - maxLearned; over > 0 {
		h.mixes = slices.Delete(h.mixes, 0, over)
	}
	durations := make([]time.Duration, len(h.mixes))
	for i, m := range h.mixes {
		durations[i] = m.took
	}
	slices.Sort(durations)
	h.most = durations[(95*len(durations)+99)/100-1] // the nearest rank
	w.edges[key] = h
}

// Window is how long the move may take by what was learned, and where that is from;
// false when too little was.
func (w *Windows) Window(edge Edge) (window time.Duration, basis string, ok bool) {
	if w == nil {
		return 0, "", false
	}
	h := w.edges[edge.key()]
	if len(h.mixes) < minLearned {
		return 0, "", false
	}
	window = min(max(2*min(h.most, w.Cap), minWindow), w.Cap)
	return window, fmt.Sprintf("twice the %s that this move took in this fleet (95th percentile of %d)", h.most, len(h.mixes)), true
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
