package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Entry is a release as the catalogue stands: what is known of it, whether it may
// be moved to, and why not.
type Entry struct {
	Release Release
	Status  Status
	// Reasons say in one sentence each why the release is not available, a person's
	// before the vendor's; empty while it is.
	Reasons []string
	// PackagingRisks say in one sentence each what is odd about how the release is
	// packaged. They do not change its status.
	PackagingRisks []string
	// Block is the one in force, nil when there is none.
	Block *Block
	// Withdrawals are those of the versions that the release carries, by line; a
	// blocked release has them too.
	Withdrawals []Withdrawal
}

// Entries returns every release that is known, of the state and of the
// configuration, with its status: charts in order, each by chart version, sets of
// images last, by id.
//
// A configured release with the id of a chart release lends it its images. A set
// of images that carries a version which was taken back is withdrawn too, unless
// some chart carries that version still.
func (s State) Entries(configured []Release, now time.Time) []Entry {
	r := make(reader, 2*len(s.Releases))
	entries := s.known(configured, r)
	releases := make([]Release, len(entries))
	for i := range entries {
		releases[i] = entries[i].Release
	}
	gone := make(map[lineVersion]Withdrawal) // in some chart
	stands := make(map[lineVersion]bool)     // in some chart
	for begin := 0; begin < len(entries); {
		end := begin + 1
		for end < len(entries) && releases[end].Chart == releases[begin].Chart {
			end++
		}
		withdrawn := gone
		if releases[begin].Chart == "" {
			maps.DeleteFunc(gone, func(v lineVersion, _ Withdrawal) bool { return stands[v] })
		} else {
			withdrawn = r.withdrawn(releases[begin:end])
		}
		for i := begin; i < end; i++ {
			for _, line := range slices.Sorted(maps.Keys(releases[i].Versions)) {
				v := lineVersion{line, r.parse(releases[i].Versions[line]).key}
				w, ok := withdrawn[v]
				switch {
				case !ok:
					stands[v] = true
					continue
				case releases[begin].Chart != "" && gone[v] == (Withdrawal{}):
					gone[v] = w
				}
				entries[i].Withdrawals = append(entries[i].Withdrawals, w)
			}
		}
		begin = end
	}
	for i := range entries {
		entries[i].judge(s.Blocks, now)
	}
	return entries
}

// known returns every release in order, with what is odd about it.
func (s State) known(configured []Release, r reader) []Entry {
	releases := make(map[fleet.ReleaseID]Release, len(s.Releases)+len(configured))
	maps.Copy(releases, s.Releases)
	lent := make(map[fleet.ReleaseID][]string)
	for _, set := range configured {
		set = tidy(set, "")
		release, ok := releases[set.ID]
		if !ok {
			releases[set.ID] = set
			continue
		}
		lent[set.ID] = contradictions(release, set)
		release.Images = maps.Clone(release.Images)
		if release.Images == nil {
			release.Images = make(map[fleet.Line]string, len(set.Images))
		}
		maps.Copy(release.Images, set.Images)
		releases[set.ID] = release
	}
	sorted := r.sorted(slices.Collect(maps.Values(releases)))
	entries := make([]Entry, len(sorted))
	for i, release := range sorted {
		entries[i] = Entry{Release: release, PackagingRisks: append(r.oddities(release), lent[release.ID]...)}
	}
	return entries
}

// judge sets the status and its reasons.
func (e *Entry) judge(blocks map[fleet.ReleaseID]Block, now time.Time) {
	e.Status = Available
	if block, blocked := blocks[e.Release.ID]; blocked && block.InForce(now) {
		e.Status, e.Block = Blocked, &block
		until := ""
		if !block.Expires.IsZero() {
			until = " until " + block.Expires.UTC().Format(time.RFC3339)
		}
		e.Reasons = append(e.Reasons, fmt.Sprintf("%s blocked it on %s%s: %s", block.Owner, block.At.UTC().Format(time.DateOnly), until, block.Reason))
	}
	for _, w := range e.Withdrawals {
		if e.Status == Available {
			e.Status = Withdrawn
		}
		e.Reasons = append(e.Reasons, w.Reason)
	}
}

// contradictions says where a configured release and the catalogue's of the same
// id differ in their versions.
func contradictions(release, configured Release) []string {
	var out []string
	for _, line := range slices.Sorted(maps.Keys(configured.Versions)) {
		switch version, carried := release.Versions[line]; {
		case !carried:
			out = append(out, fmt.Sprintf("the configuration says it carries %s %s, but %s says nothing of that line", line, configured.Versions[line], origin(release)))
		case !same(version, configured.Versions[line]):
			out = append(out, fmt.Sprintf("the configuration says it carries %s %s, but %s carries %s", line, configured.Versions[line], origin(release), version))
		}
	}
	return out
}

// oddities says what is odd about how a release is packaged.
func (r reader) oddities(release Release) []string {
	var out []string
	if v := r.parse(release.ChartVersion); release.Chart != "" && !v.Comparable() {
		out = append(out, fmt.Sprintf("chart version %q has no place in the order of versions, so nothing tells whether it was withdrawn", clip(v.text)))
	}
	out = append(out, r.appVersion(release)...)
	for _, line := range slices.Sorted(maps.Keys(release.Versions)) {
		switch v := r.parse(release.Versions[line]); {
		case v.Floating():
			out = append(out, fmt.Sprintf("%s version %s can name something else tomorrow", line, clip(v.text)))
		case v.Malformed() && v.Comparable():
			out = append(out, fmt.Sprintf("%s version %s is malformed; it is ordered by its leading numbers", line, clip(v.text)))
		case v.Malformed():
			out = append(out, fmt.Sprintf("%s version %q is malformed and has no place in the order of versions", line, clip(v.text)))
		}
	}
	for _, line := range slices.Sorted(maps.Keys(release.Images)) {
		tag, declared := tagOf(release.Images[line]), release.Versions[line]
		if v := r.parse(tag); declared != "" && v.Comparable() && v.key != r.parse(declared).key {
			out = append(out, fmt.Sprintf("%s image %s is not tagged %s, the version that the release declares", line, clip(release.Images[line]), clip(declared)))
		}
	}
	return append(out, release.Notes...)
}

// appVersion says where a chart's own version of what it carries, written
// <gateway>_<sra>, is not what the release carries. Charts of one line write it
// otherwise.
func (r reader) appVersion(release Release) []string {
	gateway, hasGateway := release.Versions[fleet.LineGateway]
	sra, hasSRA := release.Versions[fleet.LineSRA]
	if release.AppVersion == "" || !hasGateway || !hasSRA {
		return nil
	}
	saidGateway, saidSRA, pair := strings.Cut(release.AppVersion, "_")
	if !pair {
		return []string{fmt.Sprintf("appVersion %s is not written <gateway>_<sra>, so it proves nothing", clip(release.AppVersion))}
	}
	var out []string
	if r.parse(saidGateway).key != r.parse(gateway).key {
		out = append(out, fmt.Sprintf("appVersion %s says gateway %q, but it carries %s", clip(release.AppVersion), clip(saidGateway), clip(gateway)))
	}
	if r.parse(saidSRA).key != r.parse(sra).key {
		out = append(out, fmt.Sprintf("appVersion %s says sra %q, but it carries %s", clip(release.AppVersion), clip(saidSRA), clip(sra)))
	}
	return out
}

// tagOf returns the tag of an image, empty when it has none.
func tagOf(image string) string {
	name, _, _ := strings.Cut(image, "@")
	_, tag, _ := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
	return tag
}
