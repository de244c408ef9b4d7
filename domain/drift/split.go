package drift

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// declaration is what a package says, as far as it is judged.
type declaration struct {
	key      string
	versions []declared
	// broken are sentences about what is not as declared, whatever it runs.
	broken []string
	// changed are sentences about Compose services that run something else than
	// their file says; composed says that there are such services at all.
	changed  []string
	composed bool
}

// declared is one version that is asked for.
type declared struct {
	by      string
	line    fleet.Line
	version string
	// since is as Helm tells it, the zero time when nobody does.
	since time.Time
}

func (d *declaration) text() string { return d.key }

func (d *declaration) beside(other *declaration) *declaration {
	if other.key > d.key {
		return other
	}
	return d
}

func readPackage(p fleet.Package) *declaration {
	d := &declaration{composed: len(p.Compose) > 0}
	for _, release := range p.Helm {
		name := "Helm release " + release.Name
		switch {
		case release.Status == "deployed":
			for line, version := range release.Versions {
				d.versions = append(d.versions, declared{name, line, version, release.UpdatedAt.UTC()})
			}
		case release.Status == "failed", strings.HasPrefix(release.Status, "pending-"):
			d.broken = append(d.broken, fmt.Sprintf("%s is %s at revision %d", name, release.Status, release.Revision))
		}
	}
	for _, service := range p.Compose {
		name := fmt.Sprintf("Compose service %s of project %s", service.Service, service.Project)
		switch service.State {
		case fleet.ComposeMissing:
			d.broken = append(d.broken, fmt.Sprintf("%s should run %s but is not there", name, service.Image))
		case fleet.ComposeChanged:
			d.changed = append(d.changed, cut(name+" does not run as its file says: "+strings.Join(service.Differences, "; ")))
		}
	}
	slices.SortFunc(d.versions, func(a, b declared) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.by, b.by), cmp.Compare(a.version, b.version))
	})
	slices.Sort(d.broken)
	slices.Sort(d.changed)
	d.key = fmt.Sprintf("%v %q %q %t", d.versions, d.broken, d.changed, d.composed)
	return d
}

// cut ends a sentence whose last part is empty.
func cut(sentence string) string { return strings.TrimSuffix(sentence, ": ") }

// packageText is the whole package, to tell two of one instant apart.
func packageText(p fleet.Package) string {
	access := p.RemoteAccess
	p.RemoteAccess = nil
	text := fmt.Sprintf("%+v", p)
	if access != nil {
		legacy := access.LegacySigning
		told := *access
		told.LegacySigning = nil
		text += fmt.Sprintf(" %+v", told)
		if legacy != nil {
			text += fmt.Sprint(*legacy)
		}
	}
	return text
}

// report is what a registration says, as far as it is judged.
type report struct {
	key      string
	bastions []fleet.Bastion
	notes    []string
}

func (r *report) text() string { return r.key }

func (r *report) beside(other *report) *report {
	if other.key > r.key {
		return other
	}
	return r
}

func readRegistration(registration fleet.Registration) *report {
	r := &report{}
	for _, bastion := range registration.Bastions {
		if bastion.Version != "" {
			r.bastions = append(r.bastions, bastion)
		}
	}
	slices.SortFunc(r.bastions, func(a, b fleet.Bastion) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Version, b.Version))
	})
	if all := len(registration.Bastions); len(r.bastions) < all {
		r.notes = []string{fmt.Sprintf("%d of %d bastions do not report a version", all-len(r.bastions), all)}
	}
	r.key = fmt.Sprintf("%q %q", r.bastions, r.notes)
	return r
}

// notes are what is odd and changes no state.
func (j *judging) notes() []string {
	out := j.sight.notes
	if r := j.cluster.reports.newest(); r != nil && len(r.notes) > 0 {
		out = slices.Concat(out, r.notes)
	}
	if d := j.cluster.declarations.newest(); d != nil && j.led() && len(d.changed) > 0 {
		out = slices.Concat(out, d.changed)
	}
	return out
}

// led says that a rollout took the cluster to what it runs, which no Compose file
// knows of.
func (j *judging) led() bool {
	a := j.cluster.Assigned
	return a != nil && a.Rollout != "" && j.sight.meets(a.Versions)
}

// disagreements are the sentences about sources that have disagreed for too long.
// What happened while the cluster was mixed does not count: then it is expected.
func (j *judging) disagreements() []string {
	c := j.cluster
	var out []string
	for _, said := range j.sight.quarrels {
		if r := c.sights.run(func(s *sight) bool { return slices.Contains(s.quarrels, said) && !j.mixed(s) }); j.lasted(r.since, j.seen) {
			out = append(out, said)
		}
	}
	d := c.declarations.newest()
	if d == nil || !d.composed {
		for _, said := range j.sight.asked {
			if r := c.sights.run(func(s *sight) bool { return slices.Contains(s.asked, said) && !j.mixed(s) }); j.lasted(r.since, j.seen) {
				out = append(out, said)
			}
		}
	}
	if d != nil {
		out = append(out, j.againstPackage(d)...)
	}
	if r := c.reports.newest(); r != nil {
		out = append(out, j.againstRegistration(r)...)
	}
	return out
}

// againstPackage says where what is declared and what runs disagree.
func (j *judging) againstPackage(d *declaration) []string {
	c := j.cluster
	seen := earlier(j.seen, later(c.Package.ObservedAt, c.packageConfirmed))
	var out []string
	for _, declared := range d.versions {
		against := func(s *sight) bool {
			version, runs := s.set[declared.line]
			return s.set != nil && (!runs || differ(declared.version, version))
		}
		if !against(j.sight) {
			continue
		}
		running := c.sights.run(func(s *sight) bool { return against(s) && !j.mixed(s) })
		asked := declared.since
		if asked.IsZero() {
			asked = c.declarations.run(func(d *declaration) bool { return slices.Contains(d.versions, declared) }).since
		}
		if !j.lasted(later(running.since, asked), seen) {
			continue
		}
		runs := "nothing of it runs"
		if version, ok := j.sight.set[declared.line]; ok {
			runs = version + " runs"
		}
		out = append(out, fmt.Sprintf("%s declares %s %s but %s", declared.by, declared.line, declared.version, runs))
	}
	calm := func() time.Time { return c.sights.run(func(s *sight) bool { return !j.mixed(s) }).since }
	of := func(sentences func(*declaration) []string) {
		for _, said := range sentences(d) {
			asked := c.declarations.run(func(d *declaration) bool { return slices.Contains(sentences(d), said) })
			if j.lasted(later(calm(), asked.since), seen) {
				out = append(out, said)
			}
		}
	}
	of(func(d *declaration) []string { return d.broken })
	if !j.led() {
		of(func(d *declaration) []string { return d.changed })
	}
	return out
}

// againstRegistration says where bastions report what no instance runs. Bastions
// report late, so what they said before the newest of them had time to is of no
// account.
func (j *judging) againstRegistration(r *report) []string {
	c := j.cluster
	var out []string
	for _, bastion := range r.bastions {
		against := func(s *sight) bool {
			version, runs := s.set[fleet.LineSRA]
			return s.set != nil && catalog.ParseVersion(bastion.Version).Comparable() && (!runs || differ(bastion.Version, version))
		}
		if !against(j.sight) {
			continue
		}
		told := c.Registration.LastReport
		if told.IsZero() {
			told = c.Registration.ObservedAt
		}
		if told.Before(newestStart(c.Inventory).Add(j.limits.SplitAfter)) {
			return out
		}
		running := c.sights.run(func(s *sight) bool { return against(s) && !j.mixed(s) })
		reported := c.reports.run(func(r *report) bool { return slices.Contains(r.bastions, bastion) })
		seen := earlier(j.seen, later(c.Registration.ObservedAt, c.registrationConfirmed))
		if !j.lasted(later(running.since, reported.since), seen) {
			continue
		}
		runs := "nothing of sra runs"
		if version, ok := j.sight.set[fleet.LineSRA]; ok {
			runs = "sra runs " + version
		}
		out = append(out, fmt.Sprintf("bastion %s reports %s but %s", bastion.ID, bastion.Version, runs))
	}
	return out
}

// newestStart is when the newest bastion started.
func newestStart(inventory fleet.Inventory) (newest time.Time) {
	for _, i := range inventory.Instances {
		if line, _ := fleet.LineOf(i.Component); line == fleet.LineSRA && i.Health != fleet.HealthStopped {
			newest = later(newest, i.StartedAt)
		}
	}
	return newest
}

// lasted says whether a disagreement was seen to last for too long.
func (j *judging) lasted(since, seen time.Time) bool {
	return j.reached(since.Add(j.limits.SplitAfter), seen)
}
