package drift

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// sight is what one inventory says, as far as it is judged.
type sight struct {
	key     string
	running map[fleet.Line][]string
	// set is what runs where every line runs one version, nil where one runs several.
	set fleet.VersionSet
	// quarrels are the sentences in which the instances contradict themselves;
	// asked are those about what is asked for now.
	quarrels, asked []string
	// notes are what is odd about the labels.
	notes []string
	// torn says that another inventory of the same instant said something else.
	torn bool
}

func (s *sight) text() string {
	if s.torn {
		return s.key + " torn"
	}
	return s.key
}

func (s *sight) beside(other *sight) *sight {
	if s.key == other.key {
		if other.torn {
			return other
		}
		return s
	}
	if s.torn && s.key > other.key {
		return s
	}
	torn := *s
	if other.key > s.key {
		torn = *other
	}
	torn.torn = true
	return &torn
}

// look reads an inventory.
func look(inventory fleet.Inventory) *sight {
	s := &sight{running: Running(inventory)}
	s.set, _ = Whole(s.running)
	digests := make(map[[2]string][]string) // of one image of one line
	for _, i := range inventory.Instances {
		line, known := fleet.LineOf(i.Component)
		if !known || i.Health == fleet.HealthStopped {
			continue
		}
		if i.Version != "" && differ(i.Tag, i.Version) {
			s.quarrels = append(s.quarrels, fmt.Sprintf("%s: the image is tagged %s but the process was given version %s", line, i.Tag, i.Version))
		}
		name, tag := nameOf(i.Image)
		if tag != "" && i.Digest != "" {
			image := [2]string{string(line), name + ":" + tag}
			if !slices.Contains(digests[image], i.Digest) {
				digests[image] = append(digests[image], i.Digest)
			}
		}
		if asked, askedTag := nameOf(i.Declared); asked == name && differ(askedTag, tag) {
			s.asked = append(s.asked, fmt.Sprintf("%s: %s:%s is asked for but %s runs", line, name, askedTag, tag))
		}
		if label := catalog.ParseVersion(i.Labelled); !label.Malformed() && differ(i.Labelled, i.RunningVersion()) {
			s.notes = append(s.notes, fmt.Sprintf("%s is labelled %s but runs %s: labels do not follow image tags", line, i.Labelled, i.RunningVersion()))
		}
	}
	for image, found := range digests {
		if len(found) > 1 {
			slices.Sort(found)
			s.quarrels = append(s.quarrels, fmt.Sprintf("%s: %s names %d images: %s", image[0], image[1], len(found), strings.Join(found, " and ")))
		}
	}
	for _, said := range []*[]string{&s.quarrels, &s.asked, &s.notes} {
		slices.Sort(*said)
		*said = slices.Compact(*said)
	}
	s.key = s.written()
	return s
}

// written is the text of all that a sight says.
func (s *sight) written() string {
	var key []byte
	add := func(texts []string) {
		for _, text := range texts {
			key = append(strconv.AppendQuote(key, text), ' ')
		}
		key = append(key, '|')
	}
	for _, line := range slices.Sorted(maps.Keys(s.running)) {
		key = append(append(key, line...), ' ')
		add(s.running[line])
	}
	for _, said := range [][]string{s.quarrels, s.asked, s.notes} {
		add(said)
	}
	return string(key)
}

// nameOf takes an image reference apart: the last part of its name, and its tag. A
// digest is left out.
func nameOf(image string) (name, tag string) {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndexByte(image, '/')+1:]
	name, tag, _ = strings.Cut(image, ":")
	return name, tag
}

// differ says whether two texts are versions, and not of the same thing. What is
// no version proves nothing, and neither does a version with something behind it:
// 5.0.1-debian and 5.0.1_3.3.0 say nothing against 5.0.1.
func differ(a, b string) bool {
	if a == b {
		return false
	}
	if order, ok := catalog.Compare(a, b); !ok || order == 0 {
		return false
	}
	return !extends(a, b) && !extends(b, a)
}

func extends(long, short string) bool {
	rest, ok := strings.CutPrefix(long, short)
	return ok && strings.ContainsAny(rest[:1], "-_+")
}

// sameVersion says whether two texts name one version, such as v1.2 and 1.2.0.
func sameVersion(a, b string) bool {
	if a == b {
		return true
	}
	if a == "" || b == "" {
		return false
	}
	order, ok := catalog.Compare(a, b)
	return ok && order == 0
}

// Running lists the distinct versions of each line among instances that are not
// stopped. A version is what the process was given, else the image's tag, else
// its digest. Two ways to write one version count once.
func Running(inventory fleet.Inventory) map[fleet.Line][]string {
	running := make(map[fleet.Line][]string)
	for _, instance := range inventory.Instances {
		line, known := fleet.LineOf(instance.Component)
		if !known || instance.Health == fleet.HealthStopped {
			continue
		}
		if version := instance.RunningVersion(); !slices.Contains(running[line], version) {
			running[line] = append(running[line], version)
		}
	}
	for line, versions := range running {
		if len(versions) == 1 {
			continue
		}
		slices.Sort(versions)
		distinct := versions[:1]
		for _, version := range versions[1:] {
			if !slices.ContainsFunc(distinct, func(other string) bool { return sameVersion(other, version) }) {
				distinct = append(distinct, version)
			}
		}
		running[line] = distinct
	}
	return running
}

// Whole is the version set that runs; false when a line runs several versions.
func Whole(running map[fleet.Line][]string) (fleet.VersionSet, bool) {
	set := make(fleet.VersionSet, len(running))
	for line, versions := range running {
		if len(versions) != 1 {
			return nil, false
		}
		set[line] = versions[0]
	}
	return set, true
}

// meets says whether what runs is the given version set. A line that the set
// leaves open may run any version, but only one.
func (s *sight) meets(want fleet.VersionSet) bool {
	if s.set == nil {
		return false
	}
	for line, version := range want {
		if runs, ok := s.set[line]; !ok || !sameVersion(runs, version) {
			return false
		}
	}
	return true
}

// lacks says whether the lines of a version set that run are as the set has them,
// and some do not run.
func (s *sight) lacks(want fleet.VersionSet) bool {
	if s.set == nil {
		return false
	}
	missing := false
	for line, version := range want {
		runs, ok := s.set[line]
		if ok && !sameVersion(runs, version) {
			return false
		}
		missing = missing || !ok
	}
	return missing
}

// difference says in sentences where what runs is not the given version set.
func (s *sight) difference(want fleet.VersionSet) []string {
	var out []string
	for _, line := range slices.Sorted(maps.Keys(want)) {
		switch versions := s.running[line]; {
		case len(versions) == 0:
			out = append(out, fmt.Sprintf("%s should run %s but nothing of it runs", line, want[line]))
		case len(versions) > 1 || !sameVersion(versions[0], want[line]):
			out = append(out, fmt.Sprintf("%s should run %s but runs %s", line, want[line], list(versions)))
		}
	}
	return out
}

func (s *sight) String() string { return Describe(s.running) }

// Describe says what runs: "gateway 5.0.1, sra 3.0.3 and 3.1.0".
func Describe(running map[fleet.Line][]string) string {
	if len(running) == 0 {
		return "nothing"
	}
	var parts []string
	for _, line := range slices.Sorted(maps.Keys(running)) {
		parts = append(parts, fmt.Sprintf("%s %s", line, list(running[line])))
	}
	return strings.Join(parts, ", ")
}

func list(versions []string) string {
	said := slices.Clone(versions)
	for i, version := range said {
		if version == "" {
			said[i] = "an unknown version"
		}
	}
	return strings.Join(said, " and ")
}
