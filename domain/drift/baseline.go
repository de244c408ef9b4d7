package drift

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Baseline is what was captured of one cluster at an instant, to compare with
// later: what ran and what was registered, what was declared, and how sessions
// fared before.
type Baseline struct {
	// ID is <name>/<cluster>.
	ID      string
	Name    string
	Cluster fleet.ClusterID
	At      time.Time
	By      string
	// Rollout is the one that captured it, empty when a person did.
	Rollout      string
	State        State
	Assigned     fleet.ReleaseID
	Inventory    fleet.Inventory
	Registration fleet.Registration
	Package      fleet.Package
	Sessions     Sessions
}

// Sessions count people's sessions that started within a span.
type Sessions struct {
	From, To                time.Time
	Succeeded, Failed, Open int
	Probes, ProbesFailed    int
}

// About is what a difference between two baselines is about.
type About string

// Every value About takes, in the order in which differences are told.
const (
	AboutState        About = "state"
	AboutVersion      About = "version"
	AboutDigest       About = "digest"
	AboutInstance     About = "instance"
	AboutRegistration About = "registration"
	AboutReport       About = "report"
	AboutPackage      About = "package"
	AboutSessions     About = "sessions"
)

// Difference is one thing that is not as it was.
type Difference struct {
	About About
	// Subject is the line, component, bastion, release or service it is about.
	Subject string
	// Before and After are as it was and is, empty when it was or is not there. For
	// instances they are how many, for bastions that came and went their versions.
	Before, After string
	// Text says it in a sentence.
	Text string
}

// Comparison is what differs between two baselines of one cluster.
type Comparison struct {
	Differences []Difference
}

// Same says whether the later one runs, registers and declares what the earlier one
// did. Instances that were replaced by as many of the same versions, reports that
// came since and the counts of sessions are no difference.
func (c Comparison) Same() bool {
	for _, d := range c.Differences {
		switch d.About {
		case AboutReport, AboutSessions:
		case AboutInstance, AboutRegistration:
			if d.Before != d.After {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// Compare says what differs between an earlier and a later baseline of one cluster.
func Compare(before, after Baseline) Comparison {
	var c Comparison
	c.told(AboutState, string(after.Cluster), string(before.State), string(after.State), "it was %s and is %s")
	c.versions(before.Inventory, after.Inventory)
	c.digests(before.Inventory, after.Inventory)
	c.instances(before.Inventory, after.Inventory)
	c.registrations(before.Registration, after.Registration)
	c.packages(before.Package, after.Package)
	c.told(AboutSessions, "people's sessions", before.Sessions.rate(), after.Sessions.rate(), "failed before: %s; failed after: %s")
	c.told(AboutSessions, "probes", before.Sessions.probeRate(), after.Sessions.probeRate(), "probes failed before: %s; failed after: %s")
	return c
}

// told notes a difference; the sentence takes what was and what is.
func (c *Comparison) told(about About, subject, before, after, sentence string) {
	if before == after {
		return
	}
	c.Differences = append(c.Differences, Difference{about, subject, before, after, fmt.Sprintf(sentence, orNothing(before), orNothing(after))})
}

func orNothing(text string) string {
	if text == "" {
		return "nothing"
	}
	return text
}

func (c *Comparison) versions(before, after fleet.Inventory) {
	was, is := Running(before), Running(after)
	for line := range both(was, is) {
		c.told(AboutVersion, string(line), said(was[line]), said(is[line]), string(line)+" ran %s and runs %s")
	}
}

func said(versions []string) string {
	if len(versions) == 0 {
		return ""
	}
	return list(versions)
}

func (c *Comparison) digests(before, after fleet.Inventory) {
	of := func(inventory fleet.Inventory) map[fleet.Component][]string {
		out := make(map[fleet.Component][]string)
		for _, i := range inventory.Instances {
			if i.Digest != "" && i.Health != fleet.HealthStopped && !slices.Contains(out[i.Component], i.Digest) {
				out[i.Component] = append(out[i.Component], i.Digest)
			}
		}
		for _, digests := range out {
			slices.Sort(digests)
		}
		return out
	}
	was, is := of(before), of(after)
	for component := range both(was, is) {
		c.told(AboutDigest, string(component), strings.Join(was[component], ", "), strings.Join(is[component], ", "), string(component)+" ran image %s and runs %s")
	}
}

// instances compares those that are not stopped: one that was started again is
// another one.
func (c *Comparison) instances(before, after fleet.Inventory) {
	type one struct {
		id      fleet.InstanceID
		started int64
	}
	of := func(inventory fleet.Inventory) map[fleet.Component]map[one]bool {
		out := make(map[fleet.Component]map[one]bool)
		for _, i := range inventory.Instances {
			if i.Health == fleet.HealthStopped {
				continue
			}
			if out[i.Component] == nil {
				out[i.Component] = make(map[one]bool)
			}
			out[i.Component][one{i.ID, i.StartedAt.UnixMilli()}] = true
		}
		return out
	}
	was, is := of(before), of(after)
	less := func(from, without map[one]bool) []string {
		var out []string
		for i := range from {
			if !without[i] {
				out = append(out, string(i.id))
			}
		}
		slices.Sort(out)
		return out
	}
	for component := range both(was, is) {
		gone, fresh := less(was[component], is[component]), less(is[component], was[component])
		if len(gone)+len(fresh) == 0 {
			continue
		}
		kept := len(is[component]) - len(fresh)
		d := Difference{
			About: AboutInstance, Subject: string(component), Before: counted(len(was[component])), After: counted(len(is[component])),
			Text: fmt.Sprintf("%s: %d as before", component, kept),
		}
		if len(gone) > 0 {
			d.Text += fmt.Sprintf(", %d gone (%s)", len(gone), strings.Join(gone, ", "))
		}
		if len(fresh) > 0 {
			d.Text += fmt.Sprintf(", %d new (%s)", len(fresh), strings.Join(fresh, ", "))
		}
		c.Differences = append(c.Differences, d)
	}
}

func counted(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "1 instance"
	}
	return fmt.Sprintf("%d instances", n)
}

func (c *Comparison) registrations(before, after fleet.Registration) {
	of := func(r fleet.Registration) map[fleet.InstanceID]string {
		out := make(map[fleet.InstanceID]string, len(r.Bastions))
		for _, b := range r.Bastions {
			out[b.ID] = orUnknown(b.Version)
		}
		return out
	}
	was, is := of(before), of(after)
	var gone, fresh, wasVersions, isVersions []string
	for id := range both(was, is) {
		old, there := was[id]
		now, stays := is[id]
		switch {
		case there && stays:
			c.told(AboutRegistration, string(id), old, now, "bastion "+string(id)+" reported %s and reports %s")
		case there:
			gone, wasVersions = append(gone, string(id)), append(wasVersions, old)
		default:
			fresh, isVersions = append(fresh, string(id)), append(isVersions, now)
		}
	}
	if len(gone)+len(fresh) > 0 {
		slices.Sort(wasVersions)
		slices.Sort(isVersions)
		var text []string
		if len(gone) > 0 {
			text = append(text, "no longer registered: "+strings.Join(gone, ", "))
		}
		if len(fresh) > 0 {
			text = append(text, "newly registered: "+strings.Join(fresh, ", "))
		}
		c.Differences = append(c.Differences, Difference{
			AboutRegistration, "bastions", strings.Join(wasVersions, ", "), strings.Join(isVersions, ", "), strings.Join(text, "; "),
		})
	}
	statuses := func(r fleet.Registration) map[string]string {
		out := make(map[string]string, len(r.Gateways))
		for _, g := range r.Gateways {
			out[g.Name] = orUnknown(g.Status)
		}
		return out
	}
	wasGateway, isGateway := statuses(before), statuses(after)
	for name := range both(wasGateway, isGateway) {
		c.told(AboutRegistration, name, wasGateway[name], isGateway[name], "gateway "+name+" was registered as %s and is as %s")
	}
	c.told(AboutReport, "bastions", reported(before), reported(after), "the last report was of %s and is of %s")
}

func reported(r fleet.Registration) string {
	if r.LastReport.IsZero() {
		return ""
	}
	return stamp(r.LastReport)
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

func (c *Comparison) packages(before, after fleet.Package) {
	helm := func(p fleet.Package) map[string]fleet.HelmRelease {
		out := make(map[string]fleet.HelmRelease, len(p.Helm))
		for _, r := range p.Helm {
			out[r.Namespace+"/"+r.Name] = r
		}
		return out
	}
	wasHelm, isHelm := helm(before), helm(after)
	for name := range both(wasHelm, isHelm) {
		was, is := wasHelm[name], isHelm[name]
		of := "Helm release " + name
		c.told(AboutPackage, name, charted(was), charted(is), of+" was %s and is %s")
		c.told(AboutPackage, name, was.Status, is.Status, of+" was in status %s and is in %s")
		c.told(AboutPackage, name, was.ValuesHash, is.ValuesHash, of+" had values %s and has %s")
	}
	compose := func(p fleet.Package) map[string]fleet.ComposeService {
		out := make(map[string]fleet.ComposeService, len(p.Compose))
		for _, s := range p.Compose {
			out[s.Project+"/"+s.Service] = s
		}
		return out
	}
	wasCompose, isCompose := compose(before), compose(after)
	for name := range both(wasCompose, isCompose) {
		was, is := wasCompose[name], isCompose[name]
		of := "Compose service " + name
		c.told(AboutPackage, name, was.Image, is.Image, of+" asked for image %s and asks for %s")
		c.told(AboutPackage, name, was.ConfigHash, is.ConfigHash, of+" had configuration %s and has %s")
		c.told(AboutPackage, name, string(was.State), string(is.State), of+" was %s and is %s, against its file")
	}
	access := func(p fleet.Package) string {
		if p.RemoteAccess == nil {
			return ""
		}
		return p.RemoteAccess.Hash
	}
	c.told(AboutPackage, "remote access", access(before), access(after), "the gateway's remote access had configuration %s and has %s")
}

func charted(r fleet.HelmRelease) string {
	if r.Chart == "" {
		return ""
	}
	return r.Chart + " " + r.ChartVersion
}

// rate is the share of people's sessions that failed, empty when none ended.
func (s Sessions) rate() string { return share(s.Failed, s.Succeeded+s.Failed) }

func (s Sessions) probeRate() string { return share(s.ProbesFailed, s.Probes) }

func share(failed, all int) string {
	if all == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f %% of %d", 100*float64(failed)/float64(all), all)
}

// both yields the keys of two maps in order.
func both[K cmp.Ordered, V any](a, b map[K]V) iter.Seq[K] {
	keys := slices.Collect(maps.Keys(a))
	for k := range b {
		if _, there := a[k]; !there {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return slices.Values(keys)
}
