package drift_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func helm(versions fleet.VersionSet) fleet.HelmRelease {
	return fleet.HelmRelease{Name: "gw", Status: "deployed", Revision: 4, Versions: versions}
}

func service(state fleet.ComposeState, differences ...string) fleet.ComposeService {
	return fleet.ComposeService{Project: "oslo", Service: "akeyless-ssh", Image: "zero-trust-bastion:3.0.3", State: state, Differences: differences}
}

// imaged is an instance of an image.
func imaged(component fleet.Component, image, tag, version, digest string) fleet.Instance {
	i := runs(component, version)
	i.Image, i.Tag, i.Digest = "docker.io/akeyless/"+image+":"+tag, tag, digest
	return i
}

func TestSplit(t *testing.T) {
	t.Parallel()
	whole := pair("4.52.0", "3.0.3")
	bastion := func(versions ...string) *fleet.Registration {
		r := &fleet.Registration{LastReport: minute(0)}
		for i, v := range versions {
			r.Bastions = append(r.Bastions, fleet.Bastion{ID: fleet.InstanceID(rune('a' + i)), Version: v})
		}
		return r
	}
	started := func(when time.Time) []fleet.Instance {
		out := pair("4.52.0", "3.0.3")
		for i := range out {
			out[i].StartedAt = when
		}
		return out
	}
	declaring := func(image string) []fleet.Instance {
		out := []fleet.Instance{imaged(fleet.Gateway, "gateway", "4.52.0", "4.52.0", ""), whole[1], whole[2]}
		out[0].Declared = image
		return out
	}
	labelled := func(label string) []fleet.Instance {
		out := pair("4.52.0", "3.0.3")
		out[0].Labelled = label
		return out
	}
	for _, test := range []struct {
		name      string
		instances []fleet.Instance
		pkg       *fleet.Package
		reported  *fleet.Registration
		assigned  *drift.Assignment // release old when nil
		split     []string          // the sentences, empty for none
		state     drift.State       // when it is not split; locked when empty
		notes     []string
	}{
		{name: "all agree", pkg: &fleet.Package{Helm: []fleet.HelmRelease{helm(set("4.52.0", "3.0.3"))}}, reported: bastion("3.0.3", "v3.0.3")},
		{
			name: "declared and not what runs", pkg: &fleet.Package{Helm: []fleet.HelmRelease{helm(set("4.52.0", "3.1.0"))}},
			split: []string{"Helm release gw declares sra 3.1.0 but 3.0.3 runs"},
		},
		{
			name: "declared, and nothing of it runs", pkg: &fleet.Package{Helm: []fleet.HelmRelease{helm(fleet.VersionSet{fleet.LineZTWA: "1.7.0"})}},
			split: []string{"Helm release gw declares ztwa 1.7.0 but nothing of it runs"},
		},
		{name: "what is declared is no version", pkg: &fleet.Package{Helm: []fleet.HelmRelease{helm(set("latest", ""))}}},
		{name: "what is declared says more than the version", pkg: &fleet.Package{Helm: []fleet.HelmRelease{helm(set("4.52.0_3.0.3", "3.0.3-nonroot"))}}},
		{
			name: "what was deployed no more counts for nothing", pkg: &fleet.Package{Helm: []fleet.HelmRelease{{Name: "gw", Status: "uninstalled", Versions: set("1.0.0", "1.0.0")}}},
		},
		{
			name: "an upgrade that hangs", pkg: &fleet.Package{Helm: []fleet.HelmRelease{{Name: "gw", Status: "pending-upgrade", Revision: 7, Versions: set("5.0.1", "3.1.0")}}},
			split: []string{"Helm release gw is pending-upgrade at revision 7"},
		},
		{
			name: "an upgrade that failed", pkg: &fleet.Package{Helm: []fleet.HelmRelease{{Name: "gw", Status: "failed", Revision: 7}}},
			split: []string{"Helm release gw is failed at revision 7"},
		},
		{name: "a service as its file says", pkg: &fleet.Package{Compose: []fleet.ComposeService{service(fleet.ComposeSame)}}},
		{name: "a service of no file", pkg: &fleet.Package{Compose: []fleet.ComposeService{service(fleet.ComposeExtra)}}},
		{
			name: "a service that is not as its file says", pkg: &fleet.Package{Compose: []fleet.ComposeService{service(fleet.ComposeChanged, "image: 1", "image: 2")}},
			split: []string{"Compose service akeyless-ssh of project oslo does not run as its file says: image: 1; image: 2"},
		},
		{
			name: "a service that nobody can say more of", pkg: &fleet.Package{Compose: []fleet.ComposeService{service(fleet.ComposeChanged)}},
			split: []string{"Compose service akeyless-ssh of project oslo does not run as its file says"},
		},
		{
			name: "a service that is not there", pkg: &fleet.Package{Compose: []fleet.ComposeService{service(fleet.ComposeMissing)}},
			split: []string{"Compose service akeyless-ssh of project oslo should run zero-trust-bastion:3.0.3 but is not there"},
		},
		{
			name: "a service that a rollout took further than its file", pkg: &fleet.Package{Compose: []fleet.ComposeService{service(fleet.ComposeChanged, "image: 1")}},
			assigned: &drift.Assignment{Release: "old", Versions: set("4.52.0", "3.0.3"), Rollout: "r1"},
			notes:    []string{"Compose service akeyless-ssh of project oslo does not run as its file says: image: 1"},
		},
		{
			name: "a service that is not as its file says, nor as a rollout left it", pkg: &fleet.Package{Compose: []fleet.ComposeService{service(fleet.ComposeChanged, "image: 1")}},
			assigned: &drift.Assignment{Release: "new", Versions: set("5.0.1", "3.1.0"), Rollout: "r1"},
			split:    []string{"Compose service akeyless-ssh of project oslo does not run as its file says: image: 1"},
		},
		{
			name: "a workload that asks for another image", instances: declaring("akeyless/gateway:5.0.1"),
			split: []string{"gateway: gateway:5.0.1 is asked for but 4.52.0 runs"},
		},
		{name: "a workload that asks for the same by digest", instances: declaring("gateway:4.52.0@sha256:0000")},
		{name: "a workload that asks for what is no version", instances: declaring("gateway:latest")},
		{name: "a workload that asks for another repository", instances: declaring("mirror.example.org:5000/other:5.0.1")},
		{
			name: "a Compose service tells it for its instances", instances: declaring("akeyless/gateway:5.0.1"),
			pkg: &fleet.Package{Compose: []fleet.ComposeService{service(fleet.ComposeSame)}},
		},
		{
			name: "the tag and the process", instances: []fleet.Instance{imaged(fleet.Gateway, "gateway", "5.0.1", "4.52.0", ""), whole[1], whole[2]},
			split: []string{"gateway: the image is tagged 5.0.1 but the process was given version 4.52.0"},
		},
		{name: "a tag that proves nothing", instances: []fleet.Instance{imaged(fleet.Gateway, "base", "latest-akeyless", "4.52.0", ""), whole[1], whole[2]}},
		{name: "a tag that says more", instances: []fleet.Instance{imaged(fleet.Gateway, "gateway", "4.52.0-debian", "4.52.0", ""), whole[1], whole[2]}},
		{
			name: "one tag of two images",
			instances: []fleet.Instance{
				whole[0], imaged(fleet.SRAWeb, "zero-trust-bastion", "3.0.3", "", "sha256:b"), imaged(fleet.SRASSH, "zero-trust-bastion", "3.0.3", "", "sha256:a"),
			},
			split: []string{"sra: zero-trust-bastion:3.0.3 names 2 images: sha256:a and sha256:b"},
		},
		{
			name: "two images of one tag and different names",
			instances: []fleet.Instance{
				whole[0], imaged(fleet.SRAWeb, "web", "3.0.3", "", "sha256:b"), imaged(fleet.SRASSH, "ssh", "3.0.3", "", "sha256:a"), imaged(fleet.SRASSH, "ssh", "3.0.3", "", ""),
			},
		},
		{
			name: "what contradicts itself is stopped",
			instances: []fleet.Instance{
				whole[0], whole[1], imaged(fleet.SRAWeb, "zero-trust-bastion", "3.0.3", "", "sha256:b"), stopped(imaged(fleet.SRASSH, "zero-trust-bastion", "3.0.3", "3.3.3", "sha256:a")),
			},
		},
		{name: "what contradicts itself is of no known line", instances: append(pair("4.52.0", "3.0.3"), imaged("cache", "redis", "6.0", "7.0", ""))},
		{name: "a bastion that reports what no instance runs", reported: bastion("3.0.3", "3.1.0"), split: []string{"bastion b reports 3.1.0 but sra runs 3.0.3"}},
		{name: "a bastion that reports what is no version", reported: bastion("unknown")},
		{
			name: "a bastion where nothing of its line runs", instances: whole[:1], reported: bastion("3.0.3"), split: []string{"bastion a reports 3.0.3 but nothing of sra runs"},
		},
		{name: "bastions that report no version", reported: bastion("3.0.3", "", ""), notes: []string{"2 of 3 bastions do not report a version"}},
		{name: "a bastion that had no time to report", instances: started(minute(-2)), reported: bastion("3.1.0")},
		{
			name: "a bastion that had", instances: started(minute(-3)), reported: bastion("3.1.0"),
			split: []string{"bastion a reports 3.1.0 but sra runs 3.0.3"},
		},
		{name: "a label", instances: labelled("5.0.1"), notes: []string{"gateway is labelled 5.0.1 but runs 4.52.0: labels do not follow image tags"}},
		{name: "a label of the whole chart", instances: labelled("5.0.1_3.3.0")},
		{
			name: "every disagreement is told", instances: []fleet.Instance{imaged(fleet.Gateway, "gateway", "5.0.1", "4.52.0", ""), whole[1], whole[2]},
			pkg: &fleet.Package{Helm: []fleet.HelmRelease{helm(set("5.0.1", "3.0.3"))}}, reported: bastion("3.1.0"),
			split: []string{
				"gateway: the image is tagged 5.0.1 but the process was given version 4.52.0", "Helm release gw declares gateway 5.0.1 but 4.52.0 runs",
				"bastion a reports 3.1.0 but sra runs 3.0.3",
			},
		},
		{
			name: "split and not what is assigned", assigned: release("new", "5.0.1", "3.1.0"), reported: bastion("3.1.0"),
			split: []string{"bastion a reports 3.1.0 but sra runs 3.0.3"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if test.instances == nil {
				test.instances = whole
			}
			if test.assigned == nil {
				test.assigned = release("old", "4.52.0", "3.0.3")
			}
			if test.state == "" {
				test.state = drift.Locked
				if len(test.instances) < 3 {
					test.state = drift.Drifted
				}
			}
			if test.pkg != nil {
				test.pkg.ObservedAt = minute(-3)
			}
			if test.reported != nil {
				test.reported.ObservedAt = minute(-3)
			}
			c := seen(drift.Cluster{Assigned: test.assigned}, at(minute(-3), test.instances...))
			if test.pkg != nil {
				c = c.ObservePackage(*test.pkg)
			}
			if test.reported != nil {
				c = c.ObserveRegistration(*test.reported)
			}
			confirmed := func(until time.Time) drift.Cluster {
				c := c
				for _, kind := range []fleet.Kind{fleet.KindInventory, fleet.KindPackage, fleet.KindRegistration} {
					c = c.Confirm(fleet.Mark{About: kind, CompleteUntil: until})
				}
				return c
			}
			if j := drift.Judge(confirmed(noon.Add(-1)), limits(), known(), noon); len(test.split) > 0 && j.State == drift.Split {
				t.Errorf("split before it was seen for long enough: %q", j.Reasons)
			}
			j := drift.Judge(confirmed(noon), limits(), known(), noon)
			if len(test.split) > 0 {
				test.state = drift.Split
				if diff := cmp.Diff(test.split, j.Reasons); diff != "" {
					t.Errorf("reasons (-want +got):\n%s", diff)
				}
			}
			if j.State != test.state {
				t.Errorf("%s, want %s: %q", j.State, test.state, j.Reasons)
			}
			if diff := cmp.Diff(test.notes, j.Notes); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
			// What is mixed, or moves, disagrees as it must.
			moving := confirmed(noon)
			moving.Move = towards()
			if j := drift.Judge(moving, limits(), known(), noon); j.State == drift.Split {
				t.Errorf("split while a rollout moves it: %q", j.Reasons)
			}
			mixed := moving.Observe(at(minute(1), append(pair("4.52.0", "3.0.3"), runs(fleet.SRASSH, "3.1.0"))...))
			mixed.Move = nil
			if j := drift.Judge(mixed, limits(), known(), minute(1)); j.State != drift.Stepping {
				t.Errorf("%s while it is mixed: %q", j.State, j.Reasons)
			}
		})
	}
}

// A disagreement lasts from when the younger of its two sides was first seen, and
// only for as long as both were seen.
func TestHowLongSourcesDisagree(t *testing.T) {
	t.Parallel()
	assigned := release("old", "4.52.0", "3.0.3")
	declares := func(when time.Time, gateway, sra string) fleet.Package {
		return fleet.Package{ObservedAt: when, Helm: []fleet.HelmRelease{helm(set(gateway, sra))}}
	}
	whole := pair("4.52.0", "3.0.3")
	for _, test := range []struct {
		name string
		c    func(drift.Cluster) drift.Cluster
		want drift.State
	}{
		{"both for long enough", func(c drift.Cluster) drift.Cluster {
			return c.Observe(at(minute(-3), whole...)).ObservePackage(declares(minute(-9), "4.52.0", "3.1.0")).ObservePackage(declares(noon, "4.52.0", "3.1.0")).Observe(at(noon, whole...))
		}, drift.Split},
		{"what runs changed a moment ago", func(c drift.Cluster) drift.Cluster {
			return c.Observe(at(minute(-9), pair("4.52.0", "3.1.0")...)).Observe(at(minute(-2), whole...)).
				ObservePackage(declares(minute(-9), "4.52.0", "3.1.0")).ObservePackage(declares(noon, "4.52.0", "3.1.0")).Observe(at(noon, whole...))
		}, drift.Locked},
		{"what is declared changed a moment ago", func(c drift.Cluster) drift.Cluster {
			return c.Observe(at(minute(-9), whole...)).ObservePackage(declares(minute(-9), "4.52.0", "3.0.3")).
				ObservePackage(declares(minute(-2), "4.52.0", "3.1.0")).ObservePackage(declares(noon, "4.52.0", "3.1.0")).Observe(at(noon, whole...))
		}, drift.Locked},
		{"a late package says that it changed before", func(c drift.Cluster) drift.Cluster {
			return c.Observe(at(minute(-9), whole...)).ObservePackage(declares(noon, "4.52.0", "3.1.0")).
				ObservePackage(declares(minute(-4), "4.52.0", "3.1.0")).Observe(at(noon, whole...))
		}, drift.Split},
		{"the chart tells since when, to one who has just begun to watch", func(c drift.Cluster) drift.Cluster {
			p := declares(noon, "4.52.0", "3.1.0")
			p.Helm[0].UpdatedAt = minute(-60)
			return c.Observe(at(minute(-9), whole...)).ObservePackage(p).Observe(at(noon, whole...))
		}, drift.Split},
		{"nobody looked at the package since", func(c drift.Cluster) drift.Cluster {
			return c.ObservePackage(declares(minute(-9), "4.52.0", "3.1.0")).Observe(at(minute(-9), pair("4.52.0", "3.1.0")...)).Observe(at(minute(-4), whole...)).Observe(at(noon, whole...))
		}, drift.Locked},
		{"a mark says that the package holds", func(c drift.Cluster) drift.Cluster {
			return c.ObservePackage(declares(minute(-9), "4.52.0", "3.1.0")).Observe(at(minute(-9), pair("4.52.0", "3.1.0")...)).Observe(at(minute(-4), whole...)).Observe(at(noon, whole...)).
				Confirm(fleet.Mark{About: fleet.KindPackage, CompleteUntil: noon})
		}, drift.Split},
		{"a mark says nothing where a package may be missing", func(c drift.Cluster) drift.Cluster {
			return c.ObservePackage(declares(minute(-9), "4.52.0", "3.1.0")).Observe(at(minute(-4), whole...)).Doubt("message 7 is missing").Observe(at(noon, whole...)).
				Confirm(fleet.Mark{About: fleet.KindPackage, CompleteUntil: noon})
		}, drift.Locked},
		{"a source that cannot look confirms nothing", func(c drift.Cluster) drift.Cluster {
			return c.ObservePackage(declares(minute(-9), "4.52.0", "3.1.0")).Observe(at(minute(-4), whole...)).Observe(at(noon, whole...)).
				Confirm(fleet.Mark{About: fleet.KindPackage, CompleteUntil: noon, Blind: true})
		}, drift.Locked},
		{"nobody looked at what runs since", func(c drift.Cluster) drift.Cluster {
			return c.Observe(at(minute(-4), whole...)).ObservePackage(declares(minute(-3), "4.52.0", "3.1.0")).ObservePackage(declares(noon, "4.52.0", "3.1.0"))
		}, drift.Locked},
		{"while it was mixed does not count", func(c drift.Cluster) drift.Cluster {
			return c.ObservePackage(declares(minute(-9), "4.52.0", "3.1.0")).ObservePackage(declares(noon, "4.52.0", "3.1.0")).
				Observe(at(minute(-9), append(whole, runs(fleet.SRASSH, "3.1.0"))...)).Observe(at(minute(-2), whole...)).Observe(at(noon, whole...))
		}, drift.Locked},
		{"while it was half of two releases does not count for bastions", func(c drift.Cluster) drift.Cluster {
			r := fleet.Registration{ObservedAt: minute(-9), Bastions: []fleet.Bastion{{ID: "a", Version: "3.1.0"}}}
			c = c.ObserveRegistration(r).Confirm(fleet.Mark{About: fleet.KindRegistration, CompleteUntil: noon})
			return c.Observe(at(minute(-9), pair("5.0.1", "3.0.3")...)).Observe(at(minute(-2), whole...)).Observe(at(noon, whole...))
		}, drift.Locked},
		{"a bastion that reports it only now", func(c drift.Cluster) drift.Cluster {
			c = c.ObserveRegistration(fleet.Registration{ObservedAt: minute(-9), Bastions: []fleet.Bastion{{ID: "a", Version: "3.0.3"}}}).
				ObserveRegistration(fleet.Registration{ObservedAt: minute(-1), Bastions: []fleet.Bastion{{ID: "a", Version: "3.1.0"}}})
			return c.Observe(at(minute(-9), whole...)).Observe(at(noon, whole...)).Confirm(fleet.Mark{About: fleet.KindRegistration, CompleteUntil: noon})
		}, drift.Locked},
		{"while it was half of two releases does not count for tags", func(c drift.Cluster) drift.Cluster {
			odd := imaged(fleet.SRAWeb, "zero-trust-bastion", "3.9.9", "3.0.3", "")
			return c.Observe(at(minute(-9), runs(fleet.Gateway, "5.0.1"), odd)).Observe(at(minute(-2), whole[0], odd)).Observe(at(noon, whole[0], odd))
		}, drift.Locked},
		{"while it was half of two releases does not count for workloads", func(c drift.Cluster) drift.Cluster {
			odd := imaged(fleet.SRAWeb, "zero-trust-bastion", "3.0.3", "3.0.3", "")
			odd.Declared = "zero-trust-bastion:3.1.0"
			return c.Observe(at(minute(-9), runs(fleet.Gateway, "5.0.1"), odd)).Observe(at(minute(-2), whole[0], odd)).Observe(at(noon, whole[0], odd))
		}, drift.Locked},
		{"while it was mixed does not count for upgrades", func(c drift.Cluster) drift.Cluster {
			p := fleet.Package{ObservedAt: minute(-9), Helm: []fleet.HelmRelease{{Name: "gw", Status: "failed"}}}
			c = c.ObservePackage(p).Confirm(fleet.Mark{About: fleet.KindPackage, CompleteUntil: noon})
			return c.Observe(at(minute(-9), append(whole, runs(fleet.SRASSH, "3.1.0"))...)).Observe(at(minute(-2), whole...)).Observe(at(noon, whole...))
		}, drift.Locked},
		{"two packages of one instant", func(c drift.Cluster) drift.Cluster {
			one, other := declares(noon, "4.52.0", "3.1.0"), declares(noon, "4.52.0", "3.0.3")
			if a, b := c.ObservePackage(one).ObservePackage(other), c.ObservePackage(other).ObservePackage(one); !cmp.Equal(a.Package, b.Package) {
				t.Errorf("one of them counts: %v, and %v the other way round", a.Package, b.Package)
			}
			return c.Observe(at(minute(-4), whole...)).Observe(at(noon, whole...)).ObservePackage(other)
		}, drift.Locked},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := test.c(drift.Cluster{ID: "oslo", Assigned: assigned})
			if j := drift.Judge(c, limits(), known(), noon); j.State != test.want {
				t.Errorf("%s, want %s: %q", j.State, test.want, j.Reasons)
			}
		})
	}
}

// One disagreement after another makes no other state.
func TestASplitClusterStaysSplit(t *testing.T) {
	t.Parallel()
	c := seen(drift.Cluster{Assigned: release("old", "4.52.0", "3.0.3")}, at(minute(-9), pair("4.52.0", "3.0.3")...), at(minute(5), pair("4.52.0", "3.0.3")...))
	c = c.ObserveRegistration(fleet.Registration{ObservedAt: minute(-9), Bastions: []fleet.Bastion{{ID: "a", Version: "3.1.0"}}}).
		Confirm(fleet.Mark{About: fleet.KindRegistration, CompleteUntil: minute(5)})
	c = c.ObservePackage(fleet.Package{ObservedAt: minute(5), Helm: []fleet.HelmRelease{{Name: "gw", Status: "deployed", Versions: set("5.0.1", "3.0.3"), UpdatedAt: minute(-1)}}})
	for at, reasons := range map[time.Time]int{noon: 1, minute(2): 2} {
		if j := drift.Judge(c, limits(), known(), at); j.State != drift.Split || len(j.Reasons) != reasons || !j.WakeAt.Equal(minute(10)) {
			t.Errorf("at %s %s until %s for %q", at, j.State, j.WakeAt, j.Reasons)
		}
	}
}

// What is read of a gateway's remote access tells two packages of one instant
// apart, and its pointers do not.
func TestPackagesOfOneInstant(t *testing.T) {
	t.Parallel()
	yes, no := true, false
	packages := []fleet.Package{
		{ObservedAt: noon},
		{ObservedAt: noon, RemoteAccess: &fleet.RemoteAccess{Hash: "a"}},
		{ObservedAt: noon, RemoteAccess: &fleet.RemoteAccess{Hash: "a", LegacySigning: &no}},
		{ObservedAt: noon, RemoteAccess: &fleet.RemoteAccess{Hash: "a", LegacySigning: &yes}},
	}
	for i, a := range packages {
		for _, b := range packages[i+1:] {
			one, other := drift.Cluster{}.ObservePackage(a).ObservePackage(b), drift.Cluster{}.ObservePackage(b).ObservePackage(a)
			if !cmp.Equal(one.Package, other.Package) {
				t.Errorf("%+v or %+v counts, by which came last", one.Package.RemoteAccess, other.Package.RemoteAccess)
			}
		}
	}
	one, other := fleet.Registration{ObservedAt: noon, LastReport: noon}, fleet.Registration{ObservedAt: noon, LastReport: minute(-1)}
	a, b := drift.Cluster{}.ObserveRegistration(one).ObserveRegistration(other), drift.Cluster{}.ObserveRegistration(other).ObserveRegistration(one)
	if !cmp.Equal(a.Registration, b.Registration) || a.Registration.LastReport.IsZero() {
		t.Errorf("%+v or %+v counts, by which came last", a.Registration, b.Registration)
	}
	if c := (drift.Cluster{}).ObservePackage(fleet.Package{Helm: []fleet.HelmRelease{{}}}).ObserveRegistration(fleet.Registration{LastReport: noon}); c.Package.Helm != nil || !c.Registration.LastReport.IsZero() {
		t.Errorf("what nobody dated counts: %+v", c)
	}
}
