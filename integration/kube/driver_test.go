//go:build integration

package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"helm.sh/helm/v4/pkg/action"
	helmkube "helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	helmrelease "helm.sh/helm/v4/pkg/release/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	adapter "github.com/lockstep-fleet/lockstep/adapters/helm"
	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// driven is a fixture whose Helm release "gw" a rollout drives: its chart is a folder
// for each version, its images are in a registry of the test's own.
type driven struct {
	*fixture
	registry string // host:port
	charts   string
	// kubeconfig is that of deploy/k8s/driver.
	kubeconfig string
	source     *kube.Source
	digests    map[string]string // by repository:tag
}

func newDriven(t *testing.T) *driven {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	d := &driven{fixture: newFixture(t), registry: strings.TrimPrefix(server.URL, "http://"), charts: t.TempDir(), digests: make(map[string]string)}
	for _, image := range []string{"gateway:5.0.1", "gateway:5.1.0", "zero-trust-bastion:3.1.0", "zero-trust-bastion:3.2.0", "zero-trust-bastion:3.2.0-sick", "zero-trust-bastion:3.2.0-unpublished"} {
		d.publish(image)
	}
	d.fixture.apply(d.manifestsOf("lockstep-driver"))
	d.kubeconfig = d.fixture.kubeconfig("lockstep-driver", nil)
	d.source = d.fixture.source(kube.Options{Kubeconfig: d.kubeconfig})
	d.helm().install("gw", current, d.values())
	d.inventory(d.source, healthy(map[string]int{"deployment/unified-gw-akeyless-gateway": 2, "deployment/web-gw-akeyless-gateway": 1, "deployment/ssh-gw-akeyless-gateway": 1}))
	return d
}

// publish puts an image into the test's registry.
func (d *driven) publish(short string) {
	d.t.Helper()
	ref, err := name.ParseReference(d.image(short), name.Insecure)
	if err != nil {
		d.t.Fatal(err)
	}
	made, err := random.Image(64, 1)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := remote.Write(ref, made); err != nil {
		d.t.Fatal(err)
	}
	sum, err := made.Digest()
	if err != nil {
		d.t.Fatal(err)
	}
	d.digests[short] = sum.String()
}

func (d *driven) image(short string) string { return d.registry + "/akeyless/" + short }

// values are those that the release is installed with: its images come from the test's
// registry, and one value is nobody's business.
func (d *driven) values() map[string]any {
	return map[string]any{
		"gateway": map[string]any{"deployment": map[string]any{"image": map[string]any{"repository": d.registry + "/akeyless/gateway"}}},
		"sra":     map[string]any{"image": map[string]any{"repository": d.registry + "/akeyless/zero-trust-bastion"}},
		"extra":   map[string]any{"keep": "this"},
	}
}

// chart leaves the folder of a chart release with what edit makes of its files.
func (d *driven) chart(r release, edit func(file, text string) string) string {
	d.t.Helper()
	to := filepath.Join(d.charts, r.chart)
	if err := os.CopyFS(to, os.DirFS("testdata/akeyless-gateway")); err != nil {
		d.t.Fatal(err)
	}
	err := filepath.WalkDir(to, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text := string(raw)
		if filepath.Base(path) == "Chart.yaml" {
			text = strings.NewReplacer("version: 3.3.0", "version: "+r.chart, "5.0.1_3.3.0", r.app, "gatewayVersion: 5.0.1", "gatewayVersion: "+r.gateway, "sraVersion: 3.1.0", "sraVersion: "+r.sra).Replace(text)
		}
		if edit != nil {
			text = edit(filepath.Base(path), text)
		}
		return os.WriteFile(path, []byte(text), 0o600)
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return to
}

// release is what a rollout brings: a chart from a folder.
func (d *driven) release(r release, edit func(file, text string) string) rollout.Release {
	return rollout.Release{
		ID:    fleet.ReleaseID(r.chart),
		Chart: rollout.Chart{Name: "akeyless-gateway", Version: r.chart, Source: d.chart(r, edit)},
		Lines: map[fleet.Line]rollout.ReleaseImage{fleet.LineGateway: {Version: r.gateway}, fleet.LineSRA: {Version: r.sra}},
	}
}

func (d *driven) deployment(change ...func(*adapter.DeploymentOptions)) *adapter.Deployment {
	opts := adapter.DeploymentOptions{
		Cluster: "east", Kubeconfig: d.kubeconfig, Namespace: d.namespace,
		Releases: []adapter.DrivenRelease{{Name: "gw"}}, Ready: 20 * time.Second,
	}
	for _, edit := range change {
		edit(&opts)
	}
	return adapter.NewDeployment(opts, d.source)
}

// plan surveys and plans, and expects no trouble.
func (d *driven) plan(on *adapter.Deployment, to rollout.Release) (rollout.ClusterPlan, rollout.Target) {
	d.t.Helper()
	target, err := on.Survey(d.t.Context(), to)
	if err != nil || len(target.Trouble) > 0 {
		d.t.Fatalf("surveying: %v, trouble %q", err, target.Trouble)
	}
	return rollout.ClusterPlan{Chart: target.Chart, Values: target.Values}, target
}

// step is a package of the plan's first steps.
func (d *driven) step(on *adapter.Deployment, base []byte, plan rollout.ClusterPlan, target rollout.Target, lines ...fleet.Line) ([]byte, error) {
	images := make(map[fleet.Component]rollout.Image)
	for component := range target.Running {
		if line, _ := fleet.LineOf(component); slices.Contains(lines, line) {
			images[component] = rollout.Image{Ref: target.Resolved[line]}
		}
	}
	return on.Retarget(d.t.Context(), base, rollout.Apply{Images: images, Chart: plan.Chart, Values: plan.Values})
}

func (d *driven) must(data []byte, err error) []byte {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

func (d *driven) apply(on *adapter.Deployment, data []byte) {
	d.t.Helper()
	if err := on.Apply(d.t.Context(), data); err != nil {
		d.t.Fatal(err)
	}
}

// last is Helm's newest record of the release.
func (d *driven) last() *helmrelease.Release {
	d.t.Helper()
	found, err := d.helm().config.Releases.Last("gw")
	if err != nil {
		d.t.Fatal(err)
	}
	out, ok := found.(*helmrelease.Release)
	if !ok {
		d.t.Fatalf("Helm's record is a %T", found)
	}
	return out
}

// runs expects every instance of the gateway and of the bastions to be well and from
// these images, by digest where they are pinned.
func (d *driven) runs(gateway, bastions string) {
	d.t.Helper()
	d.inventory(d.source, func(inventory fleet.Inventory) error {
		n := 0
		for _, i := range inventory.Instances {
			if i.Health == fleet.HealthStopped {
				continue
			}
			n++
			want := gateway
			if i.Component != fleet.Gateway {
				want = bastions
			}
			if i.Image != want || i.Health != fleet.HealthHealthy {
				return fmt.Errorf("%s runs %s and is %s, want %s", i.ID, i.Image, i.Health, want)
			}
		}
		if n != 4 {
			return fmt.Errorf("%d instances run", n)
		}
		return nil
	})
}

func (d *driven) pinned(short string) string { return d.image(short) + "@" + d.digests[short] }

// pods are the names of those that run, so that a test sees who was left alone.
func (d *driven) pods(component fleet.Component) []string {
	d.t.Helper()
	inventory, err := d.source.Inventory(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, i := range inventory.Instances {
		if i.Component == component && i.Health != fleet.HealthStopped {
			out = append(out, string(i.ID))
		}
	}
	return out
}

func refused(t *testing.T, err error, id string, words ...string) {
	t.Helper()
	var found *errs.Error
	if !errors.As(err, &found) || found.ID != id || slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(err.Error(), w) }) {
		t.Errorf("want %s with %q, got %v", id, words, err)
	}
}

// A release of the unified chart in two steps, and back: the manifest that comes back
// is the very one that was, with what the chart made up for it.
func TestHelmDriverMovesInTwoStepsAndBack(t *testing.T) {
	t.Parallel()
	d := newDriven(t)
	on := d.deployment()
	before := d.last()
	to := d.release(next, nil)
	plan, target := d.plan(on, to)
	if plan.Chart.Version != next.chart || !strings.HasPrefix(plan.Chart.Digest, "sha256:") || plan.Values != "" {
		t.Errorf("the plan is of %+v", plan)
	}
	if target.Resolved[fleet.LineGateway] != d.pinned("gateway:5.1.0") || target.Resolved[fleet.LineSRA] != d.pinned("zero-trust-bastion:3.2.0") {
		t.Errorf("resolved to %v", target.Resolved)
	}
	told := strings.Join(target.Changes, "\n")
	for _, line := range []string{
		"chart of gw: akeyless-gateway 3.3.0 → 3.4.0",
		`values of gw: gateway.deployment.image.tag = "5.1.0@` + d.digests["gateway:5.1.0"] + `"`,
		"Deployment ssh-gw-akeyless-gateway: spec.template.spec.containers[0].image: ",
	} {
		if !strings.Contains(told, line) {
			t.Errorf("the plan does not tell %q:\n%s", line, told)
		}
	}
	if strings.Contains(told, "password") || strings.Contains(told, "Secret") || strings.Contains(told, "keep") {
		t.Errorf("the plan tells what does not change, or a secret:\n%s", told)
	}
	if after := d.last(); after.Version != 1 {
		t.Fatalf("planning made revision %d", after.Version)
	}

	base := d.must(on.Capture(t.Context()))
	first := d.must(d.step(on, base, plan, target, fleet.LineGateway))
	d.apply(on, first)
	d.runs(d.pinned("gateway:5.1.0"), d.image("zero-trust-bastion:3.1.0"))
	d.apply(on, first) // what runs already is left alone
	if r := d.last(); r.Version != 2 || r.Chart.Metadata.Version != next.chart || r.Info.Status != common.StatusDeployed {
		t.Errorf("after the first step it is revision %d of chart %s, %s", r.Version, r.Chart.Metadata.Version, r.Info.Status)
	}
	gateways := d.pods(fleet.Gateway)
	d.apply(on, d.must(d.step(on, base, plan, target, fleet.LineGateway, fleet.LineSRA)))
	d.runs(d.pinned("gateway:5.1.0"), d.pinned("zero-trust-bastion:3.2.0"))
	if now := d.pods(fleet.Gateway); !slices.Equal(now, gateways) {
		t.Errorf("the second step replaced the gateways %v with %v", gateways, now)
	}
	if r := d.last(); r.Version != 3 || fmt.Sprint(r.Config["extra"]) != "map[keep:this]" {
		t.Errorf("after both steps it is revision %d with %v", r.Version, r.Config)
	}
	if _, again := d.plan(on, to); again.Repackaged || len(again.Changes) > 0 {
		t.Errorf("the release is there, but it is planned again: %v", again.Changes)
	}

	// Somebody tries to help by hand, and the way back goes over it.
	d.setImage("ssh-gw-akeyless-gateway", d.image("zero-trust-bastion:3.2.0-sick"))
	d.apply(on, base)
	d.runs(d.image("gateway:5.0.1"), d.image("zero-trust-bastion:3.1.0"))
	back := d.last()
	if back.Version != 4 || back.Manifest != before.Manifest || fmt.Sprint(back.Config) != fmt.Sprint(before.Config) || back.Chart.Metadata.Version != current.chart {
		t.Errorf("it came back as revision %d of chart %s with %v", back.Version, back.Chart.Metadata.Version, back.Config)
	}
	d.apply(on, base)
	if again := d.last(); again.Version != 4 {
		t.Errorf("going back twice made revision %d", again.Version)
	}
}

// The way back does not need Helm's history.
func TestHelmDriverGoesBackWithoutHistory(t *testing.T) {
	t.Parallel()
	d := newDriven(t)
	on := d.deployment()
	before := d.last()
	base := d.must(on.Capture(t.Context()))
	plan, target := d.plan(on, d.release(next, nil))
	d.apply(on, d.must(d.step(on, base, plan, target, fleet.LineGateway, fleet.LineSRA)))
	if _, err := d.helm().config.Releases.Delete("gw", 1); err != nil {
		t.Fatal(err)
	}
	d.apply(on, base)
	d.runs(d.image("gateway:5.0.1"), d.image("zero-trust-bastion:3.1.0"))
	if back := d.last(); back.Manifest != before.Manifest || back.Info.Status != common.StatusDeployed {
		t.Errorf("it came back as %s", back.Info.Status)
	}

	// Installed anew, the same number is another revision.
	uninstall := action.NewUninstall(d.helm().config)
	uninstall.WaitStrategy = helmkube.StatusWatcherStrategy
	if _, err := uninstall.Run("gw"); err != nil {
		t.Fatal(err)
	}
	d.helm().install("gw", next, d.values())
	refused(t, on.Apply(t.Context(), base), "LS-HLM-012", "another one than was recorded", "helm rollback gw 1 -n "+d.namespace+" --wait")
}

// An upgrade whose pods do not get well fails with their names, leaves no pending
// revision, and is gone back from.
func TestHelmDriverFails(t *testing.T) {
	t.Parallel()
	for _, tag := range []string{"3.2.0-sick", "3.2.0-unpublished"} {
		t.Run(tag, func(t *testing.T) {
			t.Parallel()
			d := newDriven(t)
			on := d.deployment(func(o *adapter.DeploymentOptions) { o.Ready = 3 * time.Second })
			base := d.must(on.Capture(t.Context()))
			bad := next
			bad.sra = tag
			plan, target := d.plan(on, d.release(bad, nil))
			// The fate of a pod in the lab is in its image's tag, which a pin would hide.
			target.Resolved[fleet.LineSRA] = d.image("zero-trust-bastion:" + tag)
			err := on.Apply(t.Context(), d.must(d.step(on, base, plan, target, fleet.LineGateway, fleet.LineSRA)))
			refused(t, err, "LS-HLM-011", tag)
			if r := d.last(); r.Info.Status != common.StatusFailed {
				t.Errorf("it left revision %d %s", r.Version, r.Info.Status)
			}
			d.apply(on, base)
			d.runs(d.image("gateway:5.0.1"), d.image("zero-trust-bastion:3.1.0"))
		})
	}
}

// A stop in the middle of an upgrade: nothing more is changed after it, no revision
// stays pending, and the way back is open.
func TestHelmDriverStops(t *testing.T) {
	t.Parallel()
	d := newDriven(t)
	on := d.deployment()
	base := d.must(on.Capture(t.Context()))
	bad := next
	bad.sra = "3.2.0-sick"
	plan, target := d.plan(on, d.release(bad, nil))
	target.Resolved[fleet.LineSRA] = d.image("zero-trust-bastion:3.2.0-sick")
	package2 := d.must(d.step(on, base, plan, target, fleet.LineGateway, fleet.LineSRA))
	ctx, stop := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- on.Apply(ctx, package2) }()
	d.inventory(d.source, func(i fleet.Inventory) error {
		if !slices.ContainsFunc(i.Instances, func(one fleet.Instance) bool { return one.Tag == "3.2.0-sick" }) {
			return errors.New("the step has not begun")
		}
		return nil
	})
	stopped := errors.New("a person stopped it")
	stop(stopped)
	if err := <-ended; !errors.Is(err, stopped) {
		t.Errorf("it ended with %v", err)
	}
	if r := d.last(); r.Info.Status.IsPending() {
		t.Errorf("it left revision %d %s", r.Version, r.Info.Status)
	}
	d.apply(on, base)
	d.runs(d.image("gateway:5.0.1"), d.image("zero-trust-bastion:3.1.0"))
}

// What Lockstep left pending when it died is taken up; what somebody else is at is not.
func TestHelmDriverAndPendingRevisions(t *testing.T) {
	t.Parallel()
	d := newDriven(t)
	on := d.deployment()
	base := d.must(on.Capture(t.Context()))
	plan, target := d.plan(on, d.release(next, nil))
	whole := d.must(d.step(on, base, plan, target, fleet.LineGateway, fleet.LineSRA))
	d.apply(on, whole)

	config := d.helm().config
	pending := func(status common.Status) *helmrelease.Release {
		t.Helper()
		r := d.last()
		r.Info.Status = status
		if err := config.Releases.Update(r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	pending(common.StatusPendingUpgrade)
	d.apply(on, whole)
	if r := d.last(); r.Version != 3 || r.Info.Status != common.StatusDeployed {
		t.Errorf("taken up, it is revision %d %s", r.Version, r.Info.Status)
	}
	d.apply(on, base)
	pending(common.StatusPendingRollback)
	d.apply(on, base)
	if r := d.last(); r.Version != 5 || r.Info.Status != common.StatusDeployed {
		t.Errorf("taken up, the way back is revision %d %s", r.Version, r.Info.Status)
	}

	// A person's upgrade inherits our labels, and is hers all the same.
	if err := d.helm().upgrade(t.Context(), "gw", next, d.values()); err != nil {
		t.Fatal(err)
	}
	pending(common.StatusPendingUpgrade)
	refused(t, on.Apply(t.Context(), whole), "LS-HLM-003", "somebody else changes it")
	refused(t, on.Apply(t.Context(), base), "LS-HLM-012", "somebody else changes it", "helm rollback gw 1")
	if _, err := on.Capture(t.Context()); err == nil {
		t.Error("a release that is pending was captured")
	}
	if r := d.last(); r.Version != 6 || r.Info.Status != common.StatusPendingUpgrade {
		t.Errorf("somebody else's revision is %d %s now", r.Version, r.Info.Status)
	}
}

// What stands in the way of a plan, and what is refused because it is not as planned.
func TestHelmDriverRefuses(t *testing.T) {
	t.Parallel()
	d := newDriven(t)
	on := d.deployment()
	trouble := func(on *adapter.Deployment, to rollout.Release, words ...string) {
		t.Helper()
		target, err := on.Survey(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(target.Trouble, "\n"); len(target.Trouble) == 0 || slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(got, w) }) {
			t.Errorf("want trouble with %q, got %q", words, got)
		}
	}
	good := d.release(next, nil)
	nowhere := good
	nowhere.Lines = map[fleet.Line]rollout.ReleaseImage{fleet.LineGateway: {Version: "9.9.9"}}
	trouble(on, nowhere, "gateway:9.9.9 is not published")
	other := good
	other.Chart.Digest = "sha256:" + strings.Repeat("0", 64)
	trouble(on, other, "it was changed")
	foreign := good
	foreign.Chart.Name = "akeyless-sra"
	trouble(on, foreign, "gw (akeyless-gateway)")
	trouble(d.deployment(func(o *adapter.DeploymentOptions) { o.Releases[0].Name = "gone" }), good, "no Helm release gone")
	broken := release{chart: "3.5.0", app: "5.1.0_3.5.0", gateway: "5.1.0", sra: "3.2.0"}
	trouble(on, d.release(broken, func(file, text string) string {
		if file == "gateway.yaml" {
			return text + "\n{{ fail \"not on this cluster\" }}\n"
		}
		return text
	}), "cannot be upgraded so", "not on this cluster")
	defined := release{chart: "3.6.0", app: "5.1.0_3.6.0", gateway: "5.1.0", sra: "3.2.0"}
	withCRD := d.release(defined, nil)
	if err := os.MkdirAll(filepath.Join(withCRD.Chart.Source, "crds"), 0o700); err != nil {
		t.Fatal(err)
	}
	crd := "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.example.org}\n"
	if err := os.WriteFile(filepath.Join(withCRD.Chart.Source, "crds", "things.yaml"), []byte(crd), 0o600); err != nil {
		t.Fatal(err)
	}
	trouble(on, withCRD, "custom resource definitions", "things.yaml")

	// Between plan and step the chart is changed, or the reviewed values are.
	plan, target := d.plan(on, good)
	base := d.must(on.Capture(t.Context()))
	values := filepath.Join(good.Chart.Source, "values.yaml")
	text, err := os.ReadFile(values)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(values, append(text, "\nmore: 1\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = d.step(on, base, plan, target, fleet.LineGateway)
	refused(t, err, "LS-HLM-004", "it was changed")
	if err := os.WriteFile(values, text, 0o600); err != nil {
		t.Fatal(err)
	}

	reviewed := filepath.Join(t.TempDir(), "values.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(reviewed, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf("gateway: {deployment: {replicaCount: 3, image: {repository: %s}}}\nsra: {image: {repository: %s}}\n", d.image("gateway"), d.image("zero-trust-bastion")))
	with := d.deployment(func(o *adapter.DeploymentOptions) { o.Releases[0].Values = reviewed })
	plan, target = d.plan(with, good)
	if !strings.HasPrefix(plan.Values, "sha256:") || !slices.Contains(target.Changes, `values of gw: gateway.deployment.replicaCount = 3`) {
		t.Errorf("the plan with reviewed values is %+v with %q", plan, target.Changes)
	}
	step := d.must(d.step(with, base, plan, target, fleet.LineGateway))
	write("gateway: {deployment: {replicaCount: 4}}\n")
	_, err = d.step(with, base, plan, target, fleet.LineGateway)
	refused(t, err, "LS-HLM-004", "have them reviewed")
	d.apply(with, step) // which carries what was reviewed
	if got := len(d.pods(fleet.Gateway)); got != 3 {
		t.Errorf("%d gateways run with the reviewed values", got)
	}
	if r := d.last(); r.Config["extra"] != nil {
		t.Errorf("a value that the reviewed file does not have went on: %v", r.Config)
	}
	write("not: [yaml\n")
	trouble(with, good, "LS-HLM-013")

	if list, err := d.admin.CoreV1().Secrets(d.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"}); err != nil || len(list.Items) != 2 {
		t.Errorf("Helm has %d records, %v; want the installation and one step", len(list.Items), err)
	}
}

// Two hands at one cluster: the second waits for the first. One that is stopped for
// longer than its lease, and goes on, changes nothing any more.
func TestHelmDriverHasOneHand(t *testing.T) {
	t.Parallel()
	d := newDriven(t)
	const lease = 3 * time.Second
	as := func(holder string) *adapter.Deployment {
		return d.deployment(func(o *adapter.DeploymentOptions) { o.Holder, o.Lease = holder, lease })
	}
	one, two := as("one"), as("two")
	base := d.must(one.Capture(t.Context()))
	bad := next
	bad.sra = "3.2.0-sick"
	plan, target := d.plan(one, d.release(bad, nil))
	target.Resolved[fleet.LineSRA] = d.image("zero-trust-bastion:3.2.0-sick")
	step := filepath.Join(t.TempDir(), "step")
	if err := os.WriteFile(step, d.must(d.step(one, base, plan, target, fleet.LineGateway, fleet.LineSRA)), 0o600); err != nil {
		t.Fatal(err)
	}

	// The first is a process of its own, which waits for pods that never get well.
	first := exec.Command(os.Args[0])
	first.Env = append(os.Environ(), handEnv+"="+strings.Join([]string{"one", lease.String(), d.kubeconfig, d.namespace, step}, "|"))
	var said bytes.Buffer
	first.Stdout, first.Stderr = &said, &said
	ended := start(t, first)
	d.inventory(d.source, func(i fleet.Inventory) error {
		if !slices.ContainsFunc(i.Instances, func(one fleet.Instance) bool { return one.Tag == "3.2.0-sick" }) {
			return errors.New("the step has not begun")
		}
		return nil
	})
	refused(t, two.Apply(t.Context(), base), "LS-HLM-017", "one changes namespace "+d.namespace)
	if r := d.last(); r.Version != 2 {
		t.Errorf("while another had its hand in it, it became revision %d", r.Version)
	}
	if err := first.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d.apply(two, base) // whose lease is over can do no more harm, so what it left is taken up
	d.runs(d.image("gateway:5.0.1"), d.image("zero-trust-bastion:3.1.0"))
	restored := d.last().Version
	if err := first.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	<-ended
	if first.ProcessState.Success() || !strings.Contains(said.String(), "lease") {
		t.Errorf("the first hand ended with %v and said %q", first.ProcessState, said.String())
	}
	if r := d.last(); r.Version != restored || r.Info.Status != common.StatusDeployed {
		t.Errorf("the hand that came back made it revision %d, %s", r.Version, r.Info.Status)
	}
	d.runs(d.image("gateway:5.0.1"), d.image("zero-trust-bastion:3.1.0"))
}

// handEnv makes a process of this test one that applies a package.
const handEnv = "LOCKSTEP_TEST_HAND"

// hand applies a package and ends: 0 when it could.
func hand(order string) int {
	parts := strings.Split(order, "|")
	lease, err := time.ParseDuration(parts[1])
	if err != nil {
		log.Print(err)
		return 2
	}
	source, err := kube.New(kube.Options{Cluster: "east", Kubeconfig: parts[2], Namespace: parts[3]})
	if err != nil {
		log.Print(err)
		return 2
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { _ = source.Run(ctx) }()
	data, err := os.ReadFile(parts[4])
	if err != nil {
		log.Print(err)
		return 2
	}
	on := adapter.NewDeployment(adapter.DeploymentOptions{
		Cluster: "east", Holder: parts[0], Lease: lease, Kubeconfig: parts[2], Namespace: parts[3], Releases: []adapter.DrivenRelease{{Name: "gw"}}, Ready: time.Minute,
	}, source)
	if err := on.Apply(ctx, data); err != nil {
		log.Print(err)
		return 1
	}
	return 0
}

// killer stands between a process and the API server and kills the process at one of
// its requests that change something: before the server has it, or after.
type killer struct {
	proxy   *httputil.ReverseProxy
	token   string
	mu      sync.Mutex
	process *os.Process
	n, at   int
	after   bool
}

func (k *killer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Header.Set("Authorization", "Bearer "+k.token) // the library sends none without TLS
	k.mu.Lock()
	kill := false
	if r.Method != http.MethodGet {
		k.n++
		kill = k.n == k.at
	}
	process, after := k.process, k.after
	k.mu.Unlock()
	if kill && !after {
		_ = process.Kill()
		return
	}
	k.proxy.ServeHTTP(w, r)
	if kill {
		_ = process.Kill()
	}
}

// next says where the process that is started next is to be killed.
func (k *killer) next(at int, after bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.n, k.at, k.after = 0, at, after
}

func (k *killer) watch(p *os.Process) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.process = p
}

// A process that is killed at any of its calls, on the way there and on the way back:
// whoever comes next brings the cluster where it is to be. No revision stays pending,
// and each attempt makes one at most.
func TestHelmDriverIsKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	d := newDriven(t)
	on := d.deployment(func(o *adapter.DeploymentOptions) { o.Holder = "one" })
	base := d.must(on.Capture(t.Context()))
	plan, target := d.plan(on, d.release(next, nil))
	there := d.must(d.step(on, base, plan, target, fleet.LineGateway, fleet.LineSRA))

	config, err := clientcmd.BuildConfigFromFlags("", d.kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	k := &killer{proxy: httputil.NewSingleHostReverseProxy(upstream), token: config.BearerToken}
	if k.proxy.Transport, err = rest.TransportFor(rest.AnonymousClientConfig(config)); err != nil {
		t.Fatal(err)
	}
	k.proxy.FlushInterval, k.proxy.ErrorLog = -1, log.New(io.Discard, "", 0)
	server := httptest.NewServer(k)
	t.Cleanup(server.Close)
	through := filepath.Join(t.TempDir(), "kubeconfig")
	plain := api.NewConfig()
	plain.Clusters["lab"] = &api.Cluster{Server: server.URL}
	plain.Contexts["lab"] = &api.Context{Cluster: "lab", Namespace: d.namespace}
	plain.CurrentContext = "lab"
	if err := clientcmd.WriteToFile(*plain, through); err != nil {
		t.Fatal(err)
	}

	// attempt runs one process and reports whether it came to its end.
	attempt := func(data []byte, at int, after bool) bool {
		t.Helper()
		file := filepath.Join(t.TempDir(), "package")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		k.next(at, after)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), handEnv+"="+strings.Join([]string{"one", adapter.DefaultLease.String(), through, d.namespace, file}, "|"))
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		ended := start(t, cmd)
		k.watch(cmd.Process)
		<-ended
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			t.Fatalf("killed at call %d (after it: %t), it ended by itself with %d: %s", at, after, code, said.String())
		}
		return cmd.ProcessState.Success()
	}
	killed := 0
	for _, way := range []struct {
		name              string
		to, from          []byte
		gateway, bastions string
	}{
		{"there", there, base, d.pinned("gateway:5.1.0"), d.pinned("zero-trust-bastion:3.2.0")},
		{"back", base, there, d.image("gateway:5.0.1"), d.image("zero-trust-bastion:3.1.0")},
	} {
		d.apply(on, way.from)
		for at := 1; ; at++ {
			before := d.last().Version
			if attempt(way.to, at, at%2 == 0) {
				t.Logf("on the way %s there are %d calls that change something", way.name, at-1)
				break
			}
			killed++
			d.apply(on, way.to)
			d.runs(way.gateway, way.bastions)
			r := d.last()
			if r.Info.Status != common.StatusDeployed || r.Version > before+2 {
				t.Errorf("killed at call %d on the way %s: revision %d after %d, %s", at, way.name, r.Version, before, r.Info.Status)
			}
			history, err := d.helm().config.Releases.History("gw")
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range history {
				if h, ok := found.(*helmrelease.Release); ok && h.Info.Status.IsPending() {
					t.Errorf("killed at call %d on the way %s: revision %d stays %s", at, way.name, h.Version, h.Info.Status)
				}
			}
			d.apply(on, way.from)
		}
	}
	if killed < 10 {
		t.Errorf("only %d processes were killed", killed)
	}
}
