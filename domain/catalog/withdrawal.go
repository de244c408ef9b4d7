package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Withdrawal is the evidence that the vendor took a version back: a release with
// a higher chart version than every release that carries the version carries a
// lower one of the same line.
type Withdrawal struct {
	Line    fleet.Line
	Version string
	// By is the first release that went back, in the order of chart versions, and
	// Lower what it carries instead.
	By    fleet.ReleaseID
	Lower string
	// Reason says it in one sentence.
	Reason string
}

// lineVersion names one version of one line, however it is written.
type lineVersion struct {
	line fleet.Line
	key  string
}

// reader takes versions apart, each text once.
type reader map[string]*read

// read is a version that was taken apart, with its key.
type read struct {
	Version
	key string
}

func (r reader) parse(text string) *read {
	v, ok := r[text]
	if !ok {
		v = &read{Version: ParseVersion(text)}
		v.key = v.Version.key()
		r[text] = v
	}
	return v
}

// sorted orders releases: by chart, within one by chart version, those that cannot
// be compared last; what has no chart comes last of all. The id decides among the
// rest.
func (r reader) sorted(releases []Release) []Release {
	type placed struct {
		release *Release
		version *read
	}
	order := make([]placed, len(releases))
	for i := range releases {
		order[i] = placed{&releases[i], r.parse(releases[i].ChartVersion)}
	}
	slices.SortFunc(order, func(a, b placed) int {
		switch {
		case a.release.Chart == b.release.Chart:
		case a.release.Chart == "":
			return 1
		case b.release.Chart == "":
			return -1
		default:
			return cmp.Compare(a.release.Chart, b.release.Chart)
		}
		between := 0
		switch x, y := a.version.Comparable(), b.version.Comparable(); {
		case x && y:
			between = a.version.order(&b.version.Version)
		case x:
			between = -1
		case y:
			between = 1
		}
		return cmp.Or(between, cmp.Compare(a.release.ID, b.release.ID))
	})
	out := make([]Release, len(order))
	for i, p := range order {
		out[i] = *p.release
	}
	return out
}

// withdrawn returns every version that the vendor took back in one chart, whose
// releases are given in order. A version without a place in the order of its line
// is never taken back, and a release without one in the order of its chart is no
// evidence.
//
// A release that was published before the day of a version's last release does not
// speak against that version: the last one may be a backport to an older chart.
func (r reader) withdrawn(chart []Release) map[lineVersion]Withdrawal {
	chart = slices.DeleteFunc(slices.Clone(chart), func(release Release) bool { return !r.parse(release.ChartVersion).Comparable() })
	out := make(map[lineVersion]Withdrawal)
	for _, line := range linesOf(chart) {
		r.withdrawnOf(chart, line, out)
	}
	return out
}

// carrier is a release as the carrier of a version of one line.
type carrier struct {
	release *Release
	chart   *read
	version *read
	// place counts distinct versions of the line from the lowest.
	place int
	// higher is the index of the first carrier with a higher chart version.
	higher int
}

// last is where a version was carried last: by the releases of one chart version,
// for the same can be told by two ids.
type last struct {
	carrier
	// day is when it was published, zero when unknown.
	day time.Time
}

func (r reader) withdrawnOf(chart []Release, line fleet.Line, out map[lineVersion]Withdrawal) {
	carriers := r.carriers(chart, line)
	lasts := make(map[string]last)
	var keys []string // for nothing may depend on the order of a map
	for _, c := range slices.Backward(carriers) {
		known, ok := lasts[c.version.key]
		if !ok {
			known.carrier = c
			keys = append(keys, c.version.key)
		}
		if published := day(c.release.ReleasedAt); c.higher == known.higher && published.After(known.day) {
			known.day = published
		}
		lasts[c.version.key] = known
	}
	// below holds for each carrier the first one after it that carries something
	// lower, so that long stretches without are passed at once.
	below := make([]int, len(carriers))
	for i := len(carriers) - 1; i >= 0; i-- {
		below[i] = i + 1
		for below[i] < len(carriers) && carriers[below[i]].place >= carriers[i].place {
			below[i] = below[below[i]]
		}
	}
	for _, key := range keys {
		known := lasts[key]
		for i := known.higher; i < len(carriers); {
			c := carriers[i]
			if c.place >= known.place {
				i = below[i]
				continue
			}
			if !before(c.release, known.day) {
				version := known.version.text
				out[lineVersion{line, key}] = Withdrawal{Line: line, Version: version, By: c.release.ID, Lower: c.version.text, Reason: wentBack(line, version, c)}
				break
			}
			i++
		}
	}
}

// carriers returns the releases that carry a comparable version of a line, in the
// order given.
func (r reader) carriers(chart []Release, line fleet.Line) []carrier {
	carriers := make([]carrier, 0, len(chart))
	places := make(map[string]int)
	var distinct []*read
	for i := range chart {
		v := r.parse(chart[i].Versions[line])
		if !v.Comparable() {
			continue
		}
		carriers = append(carriers, carrier{release: &chart[i], chart: r.parse(chart[i].ChartVersion), version: v})
		if _, ok := places[v.key]; !ok {
			places[v.key] = 0
			distinct = append(distinct, v)
		}
	}
	slices.SortFunc(distinct, func(a, b *read) int { return a.order(&b.Version) })
	for i, v := range distinct {
		places[v.key] = i
	}
	for i := len(carriers) - 1; i >= 0; i-- {
		c := &carriers[i]
		c.place, c.higher = places[c.version.key], i+1
		if i+1 < len(carriers) && c.chart.key == carriers[i+1].chart.key {
			c.higher = carriers[i+1].higher
		}
	}
	return carriers
}

// before says whether a release was published before a day, as far as both are
// known.
func before(r *Release, than time.Time) bool {
	return !r.ReleasedAt.IsZero() && !than.IsZero() && day(r.ReleasedAt).Before(than)
}

func wentBack(line fleet.Line, version string, by carrier) string {
	when := ""
	if !by.release.ReleasedAt.IsZero() {
		when = " on " + by.release.ReleasedAt.UTC().Format(time.DateOnly)
	}
	return fmt.Sprintf("chart %s %s went back from %s %s to %s%s, and no later one carries %s again",
		by.release.Chart, by.release.ChartVersion, line, version, by.version.text, when, version)
}

// linesOf returns every line of some releases, in order.
func linesOf(releases []Release) []fleet.Line {
	lines := make(map[fleet.Line]bool)
	for _, r := range releases {
		for line := range r.Versions {
			lines[line] = true
		}
	}
	return slices.Sorted(maps.Keys(lines))
}
