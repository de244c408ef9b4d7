package drift

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Catalogue is what a judgement asks of what is known of releases. Nil knows
// nothing.
type Catalogue interface {
	// Release returns the entry of a release; false when it is not known.
	Release(id fleet.ReleaseID) (catalog.Entry, bool)
	// Carrying returns the releases of which every line runs in the set.
	Carrying(set fleet.VersionSet) []fleet.ReleaseID
	// Carries returns the releases that carry a version of a line.
	Carries(line fleet.Line, version string) []fleet.ReleaseID
	// Withdrawn says why a version of a line was taken back; false when it was not.
	Withdrawn(line fleet.Line, version string) (reason string, ok bool)
}

// Judgement is the state of a cluster at an instant. What it holds is shared and
// not to be changed.
type Judgement struct {
	State   State
	Reasons []string
	// Running holds the distinct versions that run of each line, in order.
	Running map[fleet.Line][]string
	// Edge is the move that a mix is part of, MixedSince when the mix was first seen;
	// zero while not mixed. A cluster that a rollout moves is mixed while it is
	// neither where it was nor where it goes.
	Edge       Edge
	MixedSince time.Time
	// Window is how long the mix may last, and WindowBasis says where that is from.
	Window      time.Duration
	WindowBasis string
	// Notes are what is odd and changes no state.
	Notes []string
	// WakeAt is when the state changes without a new report, the zero time for
	// never.
	WakeAt time.Time
}

// judging is one judgement under way.
type judging struct {
	Judgement
	cluster   Cluster
	limits    Limits
	catalogue Catalogue
	now       time.Time
	// sight is what the newest inventory says, seen when it was last known to hold.
	sight *sight
	seen  time.Time
}

// Judge returns the state of a cluster now. Where several hold, the first of these
// counts: unknown (never reported), dark, what a rollout's move makes of it,
// overdue, stepping, split, withdrawn, drifted, locked.
//
// A mix or a disagreement lasts as long as it was seen to last: a report that is
// late may tell of its end.
func Judge(c Cluster, limits Limits, catalogue Catalogue, now time.Time) Judgement {
	j := judging{cluster: c, limits: limits, catalogue: catalogue, now: now, sight: c.sights.newest(), seen: c.Seen()}
	if j.sight == nil {
		j.State, j.Reasons = Unknown, c.because("no source has reported this cluster yet")
		return j.Judgement
	}
	j.Running = j.sight.running
	j.Notes = j.notes()
	dark := later(j.seen, c.WatchedSince).Add(limits.DarkAfter)
	switch {
	case !now.Before(dark):
		j.State, j.Reasons = Dark, c.because("no report since "+stamp(j.seen))
	case c.Move != nil:
		j.WakeAt = dark
		j.moving()
	default:
		j.WakeAt = dark
		j.resting()
	}
	if j.sight.torn {
		j.Reasons = append(j.Reasons, fmt.Sprintf("two inventories of %s differ; the other one is left out", stamp(c.Inventory.ObservedAt)))
	}
	return j.Judgement
}

// because is why a cluster is not seen, with what its source says of it.
func (c Cluster) because(reason string) []string {
	if c.Blind == "" {
		return []string{reason}
	}
	return []string{reason, c.Blind}
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// moving judges a cluster that a rollout moves: it is locked on the old or the
// new version set, or on its way between them.
func (j *judging) moving() {
	c, move := j.cluster, j.cluster.Move
	switch {
	case j.sight.meets(move.Target.Versions):
		j.State = Locked
		j.Reasons = []string{fmt.Sprintf("runs %s, where rollout %s takes it", move.Target.Release, move.Rollout)}
		return
	case c.Assigned != nil && j.sight.meets(c.Assigned.Versions):
		j.State = Locked
		j.Reasons = []string{fmt.Sprintf("still runs %s; rollout %s moves it to %s", c.Assigned.Release, move.Rollout, move.Target.Release)}
		return
	}
	mix := c.sights.run(func(s *sight) bool {
		return !s.meets(move.Target.Versions) && (c.Assigned == nil || !s.meets(c.Assigned.Versions))
	})
	j.MixedSince = mix.since
	j.Edge = Edge{From: j.from(mix), To: move.Target.Versions}
	j.Window, j.WindowBasis = max(0, move.Ends.Sub(mix.since)), "the window of rollout "+move.Rollout
	if j.now.Before(move.Ends) {
		j.State = Stepping
		j.Reasons = []string{fmt.Sprintf("rollout %s moves it to %s: %s", move.Rollout, move.Target.Release, j.sight)}
		j.wake(move.Ends)
		return
	}
	j.State = Overdue
	j.Reasons = []string{fmt.Sprintf("mixed past the window of rollout %s, which ended at %s: %s", move.Rollout, stamp(move.Ends), j.sight)}
}

// resting judges a cluster that no rollout moves.
func (j *judging) resting() {
	if j.mixed(j.sight) {
		j.mix()
		return
	}
	c, wake := j.cluster, j.WakeAt
	if said := j.disagreements(); len(said) > 0 {
		j.State, j.Reasons, j.WakeAt = Split, said, wake
		return
	}
	if said := j.withdrawn(); len(said) > 0 {
		j.State, j.Reasons = Withdrawn, said
		return
	}
	switch {
	case c.Assigned == nil:
		text := "no release is assigned to this cluster; it runs " + j.sight.String()
		if runs := j.carrying(); runs != "" {
			text += ", which is " + runs
		}
		j.State, j.Reasons = Unknown, []string{text, "say what it should run with `lockstep assign`"}
	case j.sight.meets(c.Assigned.Versions):
		j.State, j.Reasons = Locked, []string{"runs release " + string(c.Assigned.Release)}
	case j.restarting():
		j.State, j.Reasons = Locked, append([]string{fmt.Sprintf("runs release %s but for what may be restarting", c.Assigned.Release)}, j.sight.difference(c.Assigned.Versions)...)
	default:
		j.State, j.Reasons = Drifted, j.sight.difference(c.Assigned.Versions)
		if runs := j.carrying(); runs != "" {
			j.Reasons = append(j.Reasons, "it runs "+runs)
		}
	}
}

// restart is how long nothing of a line may run before it is missed: what is
// replaced one by one has nothing running in between.
const restart = 2 * time.Minute

// restarting says whether all that differs from the assigned release is that
// nothing of a line runs, and not for long: before, it ran, or was on its way.
func (j *judging) restarting() bool {
	sights, want := j.cluster.sights, j.cluster.Assigned.Versions
	if !j.sight.lacks(want) {
		return false
	}
	gap := sights.run(func(s *sight) bool { return s.lacks(want) })
	if gap.first == 0 {
		return false
	}
	before := sights.at(gap.first - 1).says
	return (before.meets(want) || j.mixed(before)) && !j.reached(gap.since.Add(restart), j.seen)
}

// carrying names the releases that run, empty for none that is known.
func (j *judging) carrying() string {
	if j.catalogue == nil || len(j.sight.set) == 0 {
		return ""
	}
	ids := j.catalogue.Carrying(j.sight.set)
	if len(ids) == 0 {
		return ""
	}
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = string(id)
	}
	if len(names) == 1 {
		return "release " + names[0]
	}
	const some = 3
	if len(names) > some {
		names = append(names[:some], fmt.Sprintf("%d more", len(ids)-some))
	}
	return "what releases " + strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + " carry"
}

func (j *judging) withdrawn() []string {
	if j.catalogue == nil {
		return nil
	}
	var out []string
	for _, line := range lines(j.sight.set) {
		if reason, ok := j.catalogue.Withdrawn(line, j.sight.set[line]); ok {
			out = append(out, fmt.Sprintf("runs %s %s, which is withdrawn: %s", line, j.sight.set[line], reason))
		}
	}
	return out
}

// lines are those of a set, in order.
func lines(set fleet.VersionSet) []fleet.Line { return slices.Sorted(maps.Keys(set)) }

// mixed says whether what ran belongs together by what is assigned and known now.
func (j *judging) mixed(s *sight) bool {
	switch {
	case s.set == nil:
		return true
	case j.catalogue == nil || len(s.set) < 2 || j.cluster.Assigned != nil && s.meets(j.cluster.Assigned.Versions):
		return false
	}
	// A line that belongs to a release which runs as a whole is where it should be.
	// Any other is half of a release if a line beside it runs what another release
	// carries. What no release carries is no half of one.
	whole := make(map[fleet.Line]bool)
	for _, id := range j.catalogue.Carrying(s.set) {
		entry, _ := j.catalogue.Release(id)
		for line := range entry.Release.Versions {
			whole[line] = true
		}
	}
	for line, version := range s.set {
		if whole[line] {
			continue
		}
		for _, id := range j.catalogue.Carries(line, version) {
			entry, _ := j.catalogue.Release(id)
			for other, wanted := range entry.Release.Versions {
				if runs, ok := s.set[other]; ok && !sameVersion(runs, wanted) && len(j.catalogue.Carries(other, runs)) > 0 {
					return true
				}
			}
		}
	}
	return false
}

// mix judges a cluster that is mixed while no rollout moves it.
func (j *judging) mix() {
	mix := j.cluster.sights.run(j.mixed)
	j.MixedSince = mix.since
	from := j.from(mix)
	j.Edge = Edge{From: from, To: j.to(from)}
	j.Window, j.WindowBasis = j.limits.window(j.cluster, j.Edge, j.Running, mix.since)
	since := stamp(mix.since)
	if mix.atLeast() {
		since = "at least " + since
	}
	if j.reached(mix.since.Add(j.Window), j.seen) {
		j.State = Overdue
		j.Reasons = []string{fmt.Sprintf("mixed since %s, longer than %s, %s", since, j.Window, j.WindowBasis), "runs " + j.sight.String()}
	} else {
		j.State = Stepping
		j.Reasons = []string{fmt.Sprintf("mixed since %s, which may last %s, %s; no rollout drives it", since, j.Window, j.WindowBasis), "runs " + j.sight.String()}
	}
	if j.cluster.Assigned != nil {
		j.Reasons = append(j.Reasons, j.sight.difference(j.cluster.Assigned.Versions)...)
	}
}

// reached says whether something that was seen to last until an instant has lasted
// until another.
func (j *judging) reached(end, seen time.Time) bool {
	if seen.Before(end) {
		return false
	}
	if j.now.Before(end) {
		j.wake(end)
		return false
	}
	return true
}

func (j *judging) wake(at time.Time) { j.WakeAt = earlier(j.WakeAt, at) }

// from is where a mix began: the last version set before it that had all the lines
// of the mix, else what is assigned.
func (j *judging) from(mix run) fleet.VersionSet {
	var last *sight
	for i := mix.first - 1; i >= 0; i-- {
		s := j.cluster.sights.at(i).says
		if s != last && complete(s.set, j.Running) && !j.mixed(s) {
			return s.set
		}
		last = s
	}
	if j.cluster.Assigned != nil {
		return j.cluster.Assigned.Versions
	}
	return nil
}

func complete(set fleet.VersionSet, running map[fleet.Line][]string) bool {
	for line := range running {
		if _, ok := set[line]; !ok {
			return false
		}
	}
	return true
}

// to is where a mix leads: the one set that what runs beside the old versions
// points to, nil when it points to none or to several.
func (j *judging) to(from fleet.VersionSet) fleet.VersionSet {
	if from == nil {
		return nil
	}
	next, moved := maps.Clone(from), make(fleet.VersionSet)
	for line, versions := range j.Running {
		for _, version := range versions {
			if sameVersion(version, from[line]) {
				continue
			}
			if _, several := moved[line]; several {
				return nil
			}
			moved[line], next[line] = version, version
		}
	}
	if len(moved) == 0 {
		return nil
	}
	if a := j.cluster.Assigned; a != nil && within(moved, a.Versions) {
		maps.Copy(next, a.Versions)
		return next
	}
	if j.catalogue == nil {
		return next
	}
	if s := (&sight{set: next}); !j.mixed(s) {
		return next
	}
	// The next set is a half itself: the release that it is half of is meant.
	var found fleet.VersionSet
	for line, version := range moved {
		for _, id := range j.catalogue.Carries(line, version) {
			entry, _ := j.catalogue.Release(id)
			if !within(moved, entry.Release.Versions) {
				continue
			}
			whole := maps.Clone(next)
			maps.Copy(whole, entry.Release.Versions)
			if found != nil && !maps.Equal(found, whole) {
				return nil
			}
			found = whole
		}
	}
	return found
}

// within says whether a set has all of a part.
func within(part, set fleet.VersionSet) bool {
	for line, version := range part {
		if want, ok := set[line]; !ok || !sameVersion(want, version) {
			return false
		}
	}
	return true
}
