//go:build integration

package kube_test

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli"
	helmkube "helm.sh/helm/v4/pkg/kube"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	lab "github.com/lockstep-fleet/lockstep/integration/lab/kube"
)

// helm is the real Helm, as a person uses it in the fixture's namespace.
type helm struct {
	f      *fixture
	config *action.Configuration
}

func (f *fixture) helm() helm { f.t.Helper(); return f.helmIn("secret") }

// helmIn is Helm that keeps its records in that kind of object.
func (f *fixture) helmIn(driver string) helm {
	f.t.Helper()
	settings := cli.New()
	settings.KubeConfig = cluster.Kubeconfig(lab.Admin)
	settings.SetNamespace(f.namespace)
	config := action.NewConfiguration()
	if err := config.Init(settings.RESTClientGetter(), f.namespace, driver); err != nil {
		f.t.Fatal(err)
	}
	return helm{f: f, config: config}
}

// release is one version of the chart.
type release struct{ chart, app, gateway, sra string }

var (
	current = release{chart: "3.3.0", app: "5.0.1_3.3.0", gateway: "5.0.1", sra: "3.1.0"}
	next    = release{chart: "3.4.0", app: "5.1.0_3.4.0", gateway: "5.1.0", sra: "3.2.0"}
)

func (h helm) load(r release) *chart.Chart {
	h.f.t.Helper()
	c, err := loader.Load("testdata/akeyless-gateway")
	if err != nil {
		h.f.t.Fatal(err)
	}
	c.Metadata.Version, c.Metadata.AppVersion = r.chart, r.app
	c.Metadata.Annotations = maps.Clone(c.Metadata.Annotations)
	c.Metadata.Annotations["gatewayVersion"], c.Metadata.Annotations["sraVersion"] = r.gateway, r.sra
	return c
}

func (h helm) install(name string, r release, values map[string]any) {
	h.f.t.Helper()
	install := action.NewInstall(h.config)
	install.ReleaseName, install.Namespace = name, h.f.namespace
	install.WaitStrategy, install.Timeout = helmkube.StatusWatcherStrategy, limit
	if _, err := install.RunWithContext(h.f.t.Context(), h.load(r), values); err != nil {
		h.f.t.Fatal(err)
	}
}

func (h helm) upgrade(ctx context.Context, name string, r release, values map[string]any) error {
	upgrade := action.NewUpgrade(h.config)
	upgrade.Namespace = h.f.namespace
	upgrade.WaitStrategy, upgrade.Timeout = helmkube.StatusWatcherStrategy, limit
	upgrade.ServerSideApply = "auto"
	upgrade.ResetValues = true // those of the last revision do not go on by themselves
	_, err := upgrade.RunWithContext(ctx, name, h.load(r), values)
	return err
}

// sra are values that choose the tag of both bastions.
func sra(tag string) map[string]any {
	return map[string]any{"sra": map[string]any{"image": map[string]any{"tag": tag}}}
}

// declared waits until what Helm has on record is as want has it, but for hashes and
// times, which it returns.
func (f *fixture) declared(s *kube.Source, want ...fleet.HelmRelease) []fleet.HelmRelease {
	f.t.Helper()
	var got fleet.Package
	eventually(f.t, func() error {
		var err error
		if got, err = s.Package(f.t.Context()); err != nil {
			return err
		}
		bare := slices.Clone(got.Helm)
		for i := range bare {
			bare[i].ValuesHash, bare[i].UpdatedAt = "", time.Time{}
		}
		if !reflect.DeepEqual(bare, want) {
			return fmt.Errorf("Helm's releases are\n%+v\nwant\n%+v", bare, want)
		}
		return nil
	})
	return got.Helm
}

func (f *fixture) record(name string, r release, revision uint32, status string, versions fleet.VersionSet) fleet.HelmRelease {
	return fleet.HelmRelease{
		Name: name, Namespace: f.namespace, Chart: "akeyless-gateway", ChartVersion: r.chart, AppVersion: r.app,
		Revision: revision, Status: status, Versions: versions,
	}
}

// A release of the unified chart is rolled out in two upgrades: the new chart with
// the bastions held back, then the bastions.
func TestReleaseInTwoUpgrades(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	h, s := f.helm(), f.source(kube.Options{})
	f.declared(s)
	services := map[string]int{"deployment/unified-gw-akeyless-gateway": 2, "deployment/web-gw-akeyless-gateway": 1, "deployment/ssh-gw-akeyless-gateway": 1}
	runs := func(gateway, bastions string) {
		t.Helper()
		f.inventory(s, func(i fleet.Inventory) error {
			for _, one := range i.Instances {
				want := gateway
				if one.Component != fleet.Gateway {
					want = bastions
				}
				if one.Tag != want {
					return fmt.Errorf("%s runs %s, want %s", one.ID, one.Image, want)
				}
			}
			return healthy(services)(i)
		})
	}
	step := func(r release, values map[string]any) {
		t.Helper()
		if err := h.upgrade(t.Context(), "gw", r, values); err != nil {
			t.Fatal(err)
		}
	}

	begun := time.Now()
	h.install("gw", current, nil)
	runs("5.0.1", "3.1.0")
	first := f.declared(s, f.record("gw", current, 1, "deployed", fleet.VersionSet{fleet.LineGateway: "5.0.1", fleet.LineSRA: "3.1.0"}))[0]
	if first.UpdatedAt.Before(begun) || time.Now().Before(first.UpdatedAt) {
		t.Errorf("installed between %s and now, told to be of %s", begun, first.UpdatedAt)
	}

	step(next, sra("3.1.0"))
	runs("5.1.0", "3.1.0")
	second := f.declared(s, f.record("gw", next, 2, "deployed", fleet.VersionSet{fleet.LineGateway: "5.1.0", fleet.LineSRA: "3.1.0"}))[0]

	step(next, nil)
	runs("5.1.0", "3.2.0")
	third := f.declared(s, f.record("gw", next, 3, "deployed", fleet.VersionSet{fleet.LineGateway: "5.1.0", fleet.LineSRA: "3.2.0"}))[0]
	if first.ValuesHash == second.ValuesHash || first.ValuesHash != third.ValuesHash {
		t.Errorf("values none, pinned, none have hashes %s, %s, %s", first.ValuesHash, second.ValuesHash, third.ValuesHash)
	}
	if !second.UpdatedAt.After(first.UpdatedAt) || !third.UpdatedAt.After(second.UpdatedAt) {
		t.Errorf("the revisions are of %s, %s, %s", first.UpdatedAt, second.UpdatedAt, third.UpdatedAt)
	}

	// What labels and chart say is overridden by a tag; what runs is told.
	step(next, map[string]any{"version": "5.0.9"})
	f.declared(s, f.record("gw", next, 4, "deployed", fleet.VersionSet{fleet.LineGateway: "5.0.9", fleet.LineSRA: "3.2.0"}))
	f.inventory(s, func(i fleet.Inventory) error {
		for _, one := range i.Instances {
			if one.Component == fleet.Gateway && (one.Tag != "5.0.9" || one.Labelled != "5.1.0") {
				return fmt.Errorf("%s runs %s and is labelled %s", one.ID, one.Image, one.Labelled)
			}
		}
		return healthy(services)(i)
	})
	uninstall := action.NewUninstall(h.config)
	uninstall.WaitStrategy, uninstall.Timeout = helmkube.StatusWatcherStrategy, limit
	if _, err := uninstall.Run("gw"); err != nil {
		t.Fatal(err)
	}
	f.declared(s)
	f.inventory(s, healthy(map[string]int{}))
}

// An upgrade that gets stuck is pending until it is given up, and then failed.
func TestUpgradeThatFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	h, s := f.helm(), f.source(kube.Options{})
	h.install("gw", current, nil)
	ctx, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	ended := make(chan error, 1)
	go func() { ended <- h.upgrade(ctx, "gw", next, sra("3.2.0-crash")) }()
	versions := fleet.VersionSet{fleet.LineGateway: "5.1.0", fleet.LineSRA: "3.2.0-crash"}
	f.declared(s, f.record("gw", next, 2, "pending-upgrade", versions))
	f.inventory(s, func(i fleet.Inventory) error {
		for _, one := range i.Instances {
			if one.Tag == "3.2.0-crash" && one.Health == fleet.HealthUnhealthy {
				return nil
			}
		}
		return fmt.Errorf("no instance is told to crash: %v", count(i))
	})
	giveUp()
	if err := <-ended; err == nil {
		t.Error("the upgrade succeeded")
	}
	f.declared(s, f.record("gw", next, 2, "failed", versions))

	rollback := action.NewRollback(h.config)
	rollback.Version, rollback.WaitStrategy, rollback.Timeout, rollback.ServerSideApply = 1, helmkube.StatusWatcherStrategy, limit, "auto"
	if err := rollback.Run("gw"); err != nil {
		t.Fatal(err)
	}
	f.declared(s, f.record("gw", current, 3, "deployed", fleet.VersionSet{fleet.LineGateway: "5.0.1", fleet.LineSRA: "3.1.0"}))
}

// Several releases in a namespace are several clusters' where the configuration says
// so.
func TestReleasesOfOneCluster(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	h := f.helm()
	daemonSet := map[string]any{"gateway": map[string]any{"kind": "DaemonSet"}, "sra": map[string]any{"enabled": false}}
	h.install("east", current, nil)
	h.install("west", next, daemonSet)
	east := f.record("east", current, 1, "deployed", fleet.VersionSet{fleet.LineGateway: "5.0.1", fleet.LineSRA: "3.1.0"})
	west := f.record("west", next, 1, "deployed", fleet.VersionSet{fleet.LineGateway: "5.1.0"})
	ofEast := map[string]int{"deployment/unified-east-akeyless-gateway": 2, "deployment/web-east-akeyless-gateway": 1, "deployment/ssh-east-akeyless-gateway": 1}
	ofWest := map[string]int{"daemonset/unified-west-akeyless-gateway": len(lab.Nodes)}
	both := maps.Clone(ofEast)
	maps.Copy(both, ofWest)
	for _, c := range []struct {
		releases []string
		records  []fleet.HelmRelease
		services map[string]int
	}{
		{nil, []fleet.HelmRelease{east, west}, both},
		{[]string{"east"}, []fleet.HelmRelease{east}, ofEast},
		{[]string{"west"}, []fleet.HelmRelease{west}, ofWest},
	} {
		s := f.source(kube.Options{Releases: c.releases})
		f.declared(s, c.records...)
		f.inventory(s, healthy(c.services))
	}
}
