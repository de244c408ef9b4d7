package catalog

import (
	"maps"
	"slices"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Index answers what is known of releases and of versions that run. It is made
// once from entries and never changes. A nil Index knows nothing.
type Index struct {
	entries map[fleet.ReleaseID]Entry
	place   map[fleet.ReleaseID]int // in the order of the entries
	carry   map[lineVersion][]fleet.ReleaseID
	gone    map[lineVersion]Withdrawal
}

// NewIndex indexes entries as State.Entries returns them.
func NewIndex(entries []Entry) *Index {
	x := &Index{
		entries: make(map[fleet.ReleaseID]Entry, len(entries)), place: make(map[fleet.ReleaseID]int, len(entries)),
		carry: make(map[lineVersion][]fleet.ReleaseID), gone: make(map[lineVersion]Withdrawal),
	}
	r := make(reader)
	stands := make(map[lineVersion]bool)
	for i, e := range entries {
		x.entries[e.Release.ID], x.place[e.Release.ID] = e, i
		for line, version := range e.Release.Versions {
			v := lineVersion{line, r.parse(version).key}
			x.carry[v] = append(x.carry[v], e.Release.ID)
			w := slices.IndexFunc(e.Withdrawals, func(w Withdrawal) bool { return w.Line == line })
			switch _, known := x.gone[v]; {
			case w < 0:
				stands[v] = true
			case !known:
				x.gone[v] = e.Withdrawals[w]
			}
		}
	}
	maps.DeleteFunc(x.gone, func(v lineVersion, _ Withdrawal) bool { return stands[v] })
	return x
}

// Release returns the entry of a release; false when it is not known.
func (x *Index) Release(id fleet.ReleaseID) (Entry, bool) {
	if x == nil {
		return Entry{}, false
	}
	e, ok := x.entries[id]
	return e, ok
}

// Carrying returns the releases of which a cluster runs every line at the
// release's version, in the order of the entries. The cluster may run more lines.
func (x *Index) Carrying(set fleet.VersionSet) []fleet.ReleaseID {
	if x == nil {
		return nil
	}
	found := make(map[fleet.ReleaseID]int) // how many lines agree
	for line, version := range set {
		for _, id := range x.carry[lineVersion{line, ParseVersion(version).key()}] {
			found[id]++
		}
	}
	maps.DeleteFunc(found, func(id fleet.ReleaseID, lines int) bool { return lines < len(x.entries[id].Release.Versions) })
	return slices.SortedFunc(maps.Keys(found), func(a, b fleet.ReleaseID) int { return x.place[a] - x.place[b] })
}

// Carries returns the releases that carry a version of a line, in the order of the
// entries.
func (x *Index) Carries(line fleet.Line, version string) []fleet.ReleaseID {
	if x == nil {
		return nil
	}
	return slices.Clone(x.carry[lineVersion{line, ParseVersion(version).key()}])
}

// Withdrawn says why a version of a line was taken back; false when it was not, or
// when some chart carries it still.
func (x *Index) Withdrawn(line fleet.Line, version string) (reason string, ok bool) {
	if x == nil {
		return "", false
	}
	w, ok := x.gone[lineVersion{line, ParseVersion(version).key()}]
	return w.Reason, ok
}
