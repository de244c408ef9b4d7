package drift_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// captured is a baseline of oslo; each call has its own parts.
func captured() drift.Baseline {
	instance := func(id fleet.InstanceID, component fleet.Component, version, digest string) fleet.Instance {
		return fleet.Instance{ID: id, Component: component, Version: version, Digest: digest, Health: fleet.HealthHealthy, StartedAt: noon}
	}
	return drift.Baseline{
		Cluster: "oslo", State: drift.Locked,
		Inventory: at(noon, instance("g1", fleet.Gateway, "4.52.0", "sha256:g"), instance("s1", fleet.SRASSH, "3.0.3", "sha256:s"), instance("s2", fleet.SRASSH, "3.0.3", "sha256:s")),
		Registration: fleet.Registration{
			LastReport: noon, Bastions: []fleet.Bastion{{ID: "b1", Version: "3.0.3"}, {ID: "b2"}}, Gateways: []fleet.RegisteredGateway{{Name: "gw", Status: "Running"}},
		},
		Package: fleet.Package{
			Helm:         []fleet.HelmRelease{{Name: "gw", Namespace: "akeyless", Chart: "akeyless-gateway", ChartVersion: "3.2.0", Status: "deployed", ValuesHash: "sha256:v"}},
			Compose:      []fleet.ComposeService{{Project: "oslo", Service: "ssh", Image: "bastion:3.0.3", ConfigHash: "c", State: fleet.ComposeSame}},
			RemoteAccess: &fleet.RemoteAccess{Hash: "r"},
		},
		Sessions: drift.Sessions{Succeeded: 99, Failed: 1, Probes: 10},
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*drift.Baseline)
		same   bool
		want   []drift.Difference
	}{
		{"nothing", func(*drift.Baseline) {}, true, nil},
		{"other times", func(b *drift.Baseline) { b.At, b.Inventory.ObservedAt = minute(5), minute(5) }, true, nil},
		{"instances in another order", func(b *drift.Baseline) {
			i := b.Inventory.Instances
			i[0], i[2] = i[2], i[0]
		}, true, nil},
		{"the state", func(b *drift.Baseline) { b.State = drift.Dark }, false, []drift.Difference{
			{drift.AboutState, "oslo", "locked", "dark", "it was locked and is dark"},
		}},
		{"a version, and with it the instance", func(b *drift.Baseline) {
			b.Inventory.Instances[0].Version, b.Inventory.Instances[0].ID, b.Inventory.Instances[0].Digest = "5.0.1", "g2", "sha256:h"
		}, false, []drift.Difference{
			{drift.AboutVersion, "gateway", "4.52.0", "5.0.1", "gateway ran 4.52.0 and runs 5.0.1"},
			{drift.AboutDigest, "gateway", "sha256:g", "sha256:h", "gateway ran image sha256:g and runs sha256:h"},
			{drift.AboutInstance, "gateway", "1 instance", "1 instance", "gateway: 0 as before, 1 gone (g1), 1 new (g2)"},
		}},
		{"an image behind one version", func(b *drift.Baseline) { b.Inventory.Instances[2].Digest = "sha256:t" }, false, []drift.Difference{
			{drift.AboutDigest, "sra-ssh", "sha256:s", "sha256:s, sha256:t", "sra-ssh ran image sha256:s and runs sha256:s, sha256:t"},
		}},
		{"an instance replaced", func(b *drift.Baseline) { b.Inventory.Instances[2].ID = "s3" }, true, []drift.Difference{
			{drift.AboutInstance, "sra-ssh", "2 instances", "2 instances", "sra-ssh: 1 as before, 1 gone (s2), 1 new (s3)"},
		}},
		{"an instance started again", func(b *drift.Baseline) { b.Inventory.Instances[2].StartedAt = minute(1) }, true, []drift.Difference{
			{drift.AboutInstance, "sra-ssh", "2 instances", "2 instances", "sra-ssh: 1 as before, 1 gone (s2), 1 new (s2)"},
		}},
		{"an instance less", func(b *drift.Baseline) { b.Inventory.Instances[2].Health = fleet.HealthStopped }, false, []drift.Difference{
			{drift.AboutInstance, "sra-ssh", "2 instances", "1 instance", "sra-ssh: 1 as before, 1 gone (s2)"},
		}},
		{"a line that was not there", func(b *drift.Baseline) {
			b.Inventory.Instances = append(b.Inventory.Instances, fleet.Instance{ID: "d1", Component: fleet.Dispatcher})
		}, false, []drift.Difference{
			{drift.AboutVersion, "ztwa", "", "an unknown version", "ztwa ran nothing and runs an unknown version"},
			{drift.AboutInstance, "dispatcher", "", "1 instance", "dispatcher: 0 as before, 1 new (d1)"},
		}},
		{"a bastion replaced", func(b *drift.Baseline) { b.Registration.Bastions[0].ID = "b3" }, true, []drift.Difference{
			{drift.AboutRegistration, "bastions", "3.0.3", "3.0.3", "no longer registered: b1; newly registered: b3"},
		}},
		{"a bastion missing", func(b *drift.Baseline) { b.Registration.Bastions = b.Registration.Bastions[:1] }, false, []drift.Difference{
			{drift.AboutRegistration, "bastions", "unknown", "", "no longer registered: b2"},
		}},
		{"a bastion reports another version", func(b *drift.Baseline) { b.Registration.Bastions[1].Version = "3.1.0" }, false, []drift.Difference{
			{drift.AboutRegistration, "b2", "unknown", "3.1.0", "bastion b2 reported unknown and reports 3.1.0"},
		}},
		{"gateways", func(b *drift.Baseline) {
			b.Registration.Gateways = []fleet.RegisteredGateway{{Name: "gw", Status: "Stopped"}, {Name: "second"}}
		}, false, []drift.Difference{
			{drift.AboutRegistration, "gw", "Running", "Stopped", "gateway gw was registered as Running and is as Stopped"},
			{drift.AboutRegistration, "second", "", "unknown", "gateway second was registered as nothing and is as unknown"},
		}},
		{"a later report", func(b *drift.Baseline) { b.Registration.LastReport = minute(3) }, true, []drift.Difference{
			{drift.AboutReport, "bastions", "2026-03-04T12:00:00Z", "2026-03-04T12:03:00Z", "the last report was of 2026-03-04T12:00:00Z and is of 2026-03-04T12:03:00Z"},
		}},
		{"no report", func(b *drift.Baseline) { b.Registration.LastReport = time.Time{} }, true, []drift.Difference{
			{drift.AboutReport, "bastions", "2026-03-04T12:00:00Z", "", "the last report was of 2026-03-04T12:00:00Z and is of nothing"},
		}},
		{"a chart and its values", func(b *drift.Baseline) {
			b.Package.Helm[0].ChartVersion, b.Package.Helm[0].ValuesHash, b.Package.Helm[0].Status = "3.3.0", "sha256:w", "failed"
		}, false, []drift.Difference{
			{drift.AboutPackage, "akeyless/gw", "akeyless-gateway 3.2.0", "akeyless-gateway 3.3.0", "Helm release akeyless/gw was akeyless-gateway 3.2.0 and is akeyless-gateway 3.3.0"},
			{drift.AboutPackage, "akeyless/gw", "deployed", "failed", "Helm release akeyless/gw was in status deployed and is in failed"},
			{drift.AboutPackage, "akeyless/gw", "sha256:v", "sha256:w", "Helm release akeyless/gw had values sha256:v and has sha256:w"},
		}},
		{"a release that is gone", func(b *drift.Baseline) { b.Package.Helm = []fleet.HelmRelease{} }, false, []drift.Difference{
			{drift.AboutPackage, "akeyless/gw", "akeyless-gateway 3.2.0", "", "Helm release akeyless/gw was akeyless-gateway 3.2.0 and is nothing"},
			{drift.AboutPackage, "akeyless/gw", "deployed", "", "Helm release akeyless/gw was in status deployed and is in nothing"},
			{drift.AboutPackage, "akeyless/gw", "sha256:v", "", "Helm release akeyless/gw had values sha256:v and has nothing"},
		}},
		{"a service's file and what runs of it", func(b *drift.Baseline) {
			s := &b.Package.Compose[0]
			s.Image, s.ConfigHash, s.State = "bastion:3.1.0", "d", fleet.ComposeChanged
		}, false, []drift.Difference{
			{drift.AboutPackage, "oslo/ssh", "bastion:3.0.3", "bastion:3.1.0", "Compose service oslo/ssh asked for image bastion:3.0.3 and asks for bastion:3.1.0"},
			{drift.AboutPackage, "oslo/ssh", "c", "d", "Compose service oslo/ssh had configuration c and has d"},
			{drift.AboutPackage, "oslo/ssh", "same", "changed", "Compose service oslo/ssh was same and is changed, against its file"},
		}},
		{"remote access that was not read", func(b *drift.Baseline) { b.Package.RemoteAccess = nil }, false, []drift.Difference{
			{drift.AboutPackage, "remote access", "r", "", "the gateway's remote access had configuration r and has nothing"},
		}},
		{"how sessions fared", func(b *drift.Baseline) {
			b.Sessions = drift.Sessions{Succeeded: 45, Failed: 5, Probes: 4, ProbesFailed: 1}
		}, true, []drift.Difference{
			{drift.AboutSessions, "people's sessions", "1.0 % of 100", "10.0 % of 50", "failed before: 1.0 % of 100; failed after: 10.0 % of 50"},
			{drift.AboutSessions, "probes", "0.0 % of 10", "25.0 % of 4", "probes failed before: 0.0 % of 10; failed after: 25.0 % of 4"},
		}},
		{"no sessions", func(b *drift.Baseline) { b.Sessions = drift.Sessions{Probes: 10} }, true, []drift.Difference{
			{drift.AboutSessions, "people's sessions", "1.0 % of 100", "", "failed before: 1.0 % of 100; failed after: nothing"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			after := captured()
			test.change(&after)
			got := drift.Compare(captured(), after)
			if diff := cmp.Diff(test.want, got.Differences); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.Same() != test.same || drift.Compare(after, captured()).Same() != test.same {
				t.Errorf("same: %t, want %t", got.Same(), test.same)
			}
		})
	}
}
