package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// ImportReport says what an import brings, each in the order of the import.
type ImportReport struct {
	Added, Updated, Unchanged []fleet.ReleaseID
	// Changes say in one sentence each where an import contradicts what was known:
	// another version or another date for the same release.
	Changes []string
}

// maxID is how long the id of a release may be.
const maxID = 63

// idCharacters are those that the id of a release may have.
const idCharacters = "abcdefghijklmnopqrstuvwxyz0123456789._-"

// ReleaseIDOf returns what a chart's release is called: its version alone for the
// vendor's gateway chart, <chart>-<version> for any other, in lower case. Where
// that is too long or has characters that an id cannot have, a hash of the whole
// keeps it apart from others. Without a version there is no id.
func ReleaseIDOf(chart, version string) fleet.ReleaseID {
	if version == "" {
		return ""
	}
	name := version
	if chart != GatewayChart && chart != "" {
		name = chart + "-" + version
	}
	id := strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		case strings.ContainsRune(idCharacters, r):
			return r
		}
		return '-'
	}, name)
	if len(id) <= maxID && id == asciiLower(name) {
		return fleet.ReleaseID(id)
	}
	sum := sha256.Sum256([]byte(name))
	mark := "-" + hex.EncodeToString(sum[:8])
	return fleet.ReleaseID(id[:min(len(id), maxID-len(mark))] + mark)
}

// asciiLower leaves every letter that is not ASCII as it is.
func asciiLower(text string) string {
	lower := []byte(text)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c - 'A' + 'a'
		}
	}
	return string(lower)
}

// Import decides what becomes known by a source's list of releases. A list with
// one wrong release is refused as a whole, with every problem named.
//
// What a release says otherwise than before replaces what was known; what it does
// not say stays as it was. So a source that knows only versions does not take
// away the digests of another, and the same list once more yields no facts.
func Import(s State, source string, releases []Release, by string, now time.Time) ([]Fact, ImportReport, error) {
	var problems Problems
	var unique []Release
	place := make(map[fleet.ReleaseID]int, len(releases)) // in unique
	for i, r := range releases {
		r = tidy(r, source)
		if id := string(r.ID); id == "" || len(id) > maxID || strings.Trim(id, idCharacters) != "" {
			problems.at(i, ProblemName, "%q is not an id; use 1 to 63 lower-case letters, digits, dots, underscores and hyphens", clip(id))
			continue
		}
		if len(r.Versions) == 0 {
			problems.at(i, ProblemEmpty, "%s carries no version; give the version of at least one line", r.ID)
		}
		if known, ok := s.Releases[r.ID]; ok && otherChart(known, r) {
			problems.at(i, ProblemTwice, "%s is %s already and cannot be %s", r.ID, origin(known), origin(r))
		}
		first, again := place[r.ID]
		switch {
		case !again:
			place[r.ID] = len(unique)
			unique = append(unique, r)
		case !alike(unique[first], r):
			problems.at(i, ProblemTwice, "%s is told twice and not alike; keep one", r.ID)
		}
	}
	if len(problems) > 0 {
		return nil, ImportReport{}, problems
	}
	var report ImportReport
	var news []Release
	for _, r := range unique {
		known, ok := s.Releases[r.ID]
		if !ok {
			report.Added = append(report.Added, r.ID)
			news = append(news, r)
			continue
		}
		merged, changes := merge(known, r)
		report.Changes = append(report.Changes, changes...)
		if alike(merged, known) {
			report.Unchanged = append(report.Unchanged, r.ID)
			continue
		}
		report.Updated = append(report.Updated, r.ID)
		news = append(news, merged)
	}
	if len(news) == 0 {
		return nil, report, nil
	}
	return []Fact{{At: now, By: by, Kind: ReleasesImported{Source: source, Releases: news}}}, report, nil
}

// tidy returns a release in the one shape in which releases are kept and
// compared, with nothing shared with the one given.
func tidy(r Release, source string) Release {
	r.Versions = said(r.Versions)
	r.Images = said(r.Images)
	r.Notes = union(r.Notes, nil)
	if r.Source == "" {
		r.Source = source
	}
	if !r.ReleasedAt.IsZero() {
		// Without the monotonic clock and the place, which say nothing of a release.
		r.ReleasedAt = r.ReleasedAt.Round(0).UTC()
	}
	return r
}

// said drops lines that say nothing; nil when none is left.
func said[M ~map[fleet.Line]string](lines M) M {
	out := make(M, len(lines))
	for line, text := range lines {
		if text != "" {
			out[line] = text
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// union holds each text once, in order.
func union(a, b []string) []string {
	all := slices.DeleteFunc(slices.Concat(a, b), func(text string) bool { return text == "" })
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// merge returns what is known of a release after it was told once more, and where
// the two disagree. Both are tidy.
func merge(known, told Release) (Release, []string) {
	merged := known
	var changes []string
	merged.Chart = or(told.Chart, known.Chart)
	merged.ChartVersion = or(told.ChartVersion, known.ChartVersion)
	merged.AppVersion = or(told.AppVersion, known.AppVersion)
	merged.Digest = or(told.Digest, known.Digest)
	merged.Notes = union(known.Notes, told.Notes)
	merged.Versions = maps.Clone(known.Versions)
	for _, line := range slices.Sorted(maps.Keys(told.Versions)) {
		version := told.Versions[line]
		if old := known.Versions[line]; old != "" && old != version {
			changes = append(changes, fmt.Sprintf("%s carried %s %s and now carries %s", known.ID, line, old, version))
		}
		if merged.Versions == nil {
			merged.Versions = make(fleet.VersionSet)
		}
		merged.Versions[line] = version
	}
	merged.Images = maps.Clone(known.Images)
	for line, image := range told.Images {
		if strings.HasPrefix(known.Images[line], image+"@") {
			continue // the same one, without the digest
		}
		if merged.Images == nil {
			merged.Images = make(map[fleet.Line]string)
		}
		merged.Images[line] = image
	}
	switch {
	case told.ReleasedAt.IsZero(), told.ReleasedAt.Equal(day(known.ReleasedAt)):
		// Nothing, or the same to the day only.
	default:
		if !known.ReleasedAt.IsZero() && !day(told.ReleasedAt).Equal(day(known.ReleasedAt)) {
			changes = append(changes, fmt.Sprintf("%s was released on %s and now on %s",
				known.ID, known.ReleasedAt.Format(time.DateOnly), told.ReleasedAt.Format(time.DateOnly)))
		}
		merged.ReleasedAt = told.ReleasedAt
	}
	return merged, changes
}

// alike says whether two releases say the same, wherever they came from.
func alike(a, b Release) bool {
	return a.ID == b.ID && a.Chart == b.Chart && a.ChartVersion == b.ChartVersion && a.AppVersion == b.AppVersion && a.Digest == b.Digest &&
		a.ReleasedAt.Equal(b.ReleasedAt) && maps.Equal(a.Versions, b.Versions) && maps.Equal(a.Images, b.Images) && slices.Equal(a.Notes, b.Notes)
}

// otherChart says whether two releases of one id cannot be the same one.
func otherChart(a, b Release) bool {
	return a.Chart != "" && b.Chart != "" && (a.Chart != b.Chart || a.ChartVersion != b.ChartVersion)
}

func origin(r Release) string {
	if r.Chart == "" {
		return "a set of images"
	}
	return fmt.Sprintf("chart %s %s", clip(r.Chart), clip(r.ChartVersion))
}

// day is the day of an instant, in UTC.
func day(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// clip keeps what a message quotes short.
func clip(text string) string {
	if len(text) > 80 {
		return strings.ToValidUTF8(text[:80], "") + "…"
	}
	return text
}
