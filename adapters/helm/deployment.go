package helm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"helm.sh/helm/v4/pkg/action"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// DefaultReady is how long the workloads of a release may take to become ready.
const DefaultReady = 3 * time.Minute

// DeploymentOptions say which Helm releases a rollout drives and how they are reached.
type DeploymentOptions struct {
	Cluster fleet.ClusterID
	// Kubeconfig and Context as kubectl knows them; empty is what kubectl would use.
	Kubeconfig, Context string
	// Namespace is that of the releases.
	Namespace string
	// Storage is where Helm keeps its records: "secret", which empty is, or "configmap".
	Storage string
	// Releases are those that are driven, in the order in which they are upgraded; the
	// way back is the other way round.
	Releases []DrivenRelease
	// Charts say who reads charts and by which authorities; Location and Charts are not
	// used.
	Charts Options
	// RegistryConfig holds logins to registries of images, empty where Helm and Docker
	// keep theirs.
	RegistryConfig string
	// Ready is how long workloads may take to become ready; 0 means DefaultReady.
	Ready time.Duration
	// Timeout bounds one look at a registry; 0 means 2 min.
	Timeout time.Duration
	// Holder is who changes the cluster, in the words of its lease; the same over restarts
	// of one server, and never that of another.
	Holder string
	// Lease is how long a holder that is not heard of any more keeps others out; 0 means
	// DefaultLease.
	Lease time.Duration
	// Log hears what Helm says. Nil discards it.
	Log *slog.Logger
}

// DrivenRelease is one Helm release that a rollout drives.
type DrivenRelease struct {
	Name string
	// Values is a file with all values that people reviewed for it; empty means that
	// those of the release go on.
	Values string
	// Repository is where its chart is read instead of where a release came from.
	Repository string
}

// Source tells what runs in the cluster.
type Source interface {
	Inventory(ctx context.Context) (fleet.Inventory, error)
}

// Deployment is one cluster's Helm releases as a rollout changes them. Its methods may
// be called at the same time; who may change the releases is the caller's lease.
type Deployment struct {
	opts   DeploymentOptions
	source Source
	log    *slog.Logger
}

// NewDeployment ties a cluster to its Helm releases. It makes no call.
func NewDeployment(opts DeploymentOptions, source Source) *Deployment {
	asHelm()
	opts.Storage = cmp.Or(opts.Storage, "secret")
	opts.Ready = cmp.Or(opts.Ready, DefaultReady)
	opts.Lease = cmp.Or(opts.Lease, DefaultLease)
	opts.Holder = cmp.Or(opts.Holder, "lockstep")
	log := opts.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Deployment{opts: opts, source: source, log: log}
}

func (d *Deployment) where() string { return fmt.Sprintf("namespace %s", d.opts.Namespace) }

// Survey says what runs, resolves what a release brings to digests, renders it against
// the API server, and lists what stands in the way. Only a cluster that cannot be asked
// is an error.
func (d *Deployment) Survey(ctx context.Context, to rollout.Release) (rollout.Target, error) {
	target := rollout.Target{Cluster: d.opts.Cluster, Resolved: make(map[fleet.Line]string)}
	trouble := func(err error) { target.Trouble = append(target.Trouble, strings.Split(err.Error(), "\n")...) }
	inventory, err := d.source.Inventory(ctx)
	if err != nil {
		return target, err
	}
	target.Running = rollout.RunningOf(inventory)
	if len(target.Running) == 0 {
		trouble(errs.New(errs.NotFound, "LS-HLM-002", "no component runs in %s; install it once before rolling out to it", d.where()))
		return target, nil
	}
	images := d.lines(ctx, &target, inventory, to, trouble)
	pkg, err := d.capture(ctx, inventory)
	if err != nil {
		trouble(err)
		return target, nil
	}
	aim := rollout.Apply{Images: images}
	if to.Chart.Name != "" {
		if aim.Chart, err = d.published(ctx, pkg, to.Chart); err != nil {
			trouble(err)
			return target, nil
		}
	}
	if aim.Values, err = d.reviewed(); err != nil {
		trouble(err)
		return target, nil
	}
	target.Chart, target.Values = aim.Chart, aim.Values
	moved, err := d.retarget(ctx, pkg, aim)
	if err != nil {
		trouble(err)
		return target, nil
	}
	for _, r := range moved.Releases {
		lines, repackaged, err := d.rendered(ctx, r)
		if err != nil {
			trouble(err)
		}
		target.Changes = append(target.Changes, lines...)
		target.Repackaged = target.Repackaged || repackaged
	}
	target.Changes = bounded(target.Changes)
	slices.Sort(target.Trouble)
	return target, nil
}

// lines resolves the image of each line that runs here: the version of the release from
// the repository that the cluster has it from.
func (d *Deployment) lines(ctx context.Context, target *rollout.Target, inventory fleet.Inventory, to rollout.Release, trouble func(error)) map[fleet.Component]rollout.Image {
	out := make(map[fleet.Component]rollout.Image)
	for _, line := range slices.Sorted(maps.Keys(to.Lines)) {
		image := to.Lines[line]
		for _, instance := range inventory.Instances {
			if of, ok := fleet.LineOf(instance.Component); !ok || of != line || instance.Health == fleet.HealthStopped {
				continue
			}
			if target.Resolved[line] == "" {
				repository, _ := parted(instance.Image)
				_, tag := parted(image.Ref)
				ref, err := d.resolve(ctx, repository+":"+cmp.Or(tag, image.Version))
				if err != nil {
					trouble(err)
					break
				}
				target.Resolved[line] = ref
			}
			out[instance.Component] = rollout.Image{Ref: target.Resolved[line], Version: image.Version}
		}
	}
	return out
}

// published fetches the chart of a release and says which it is.
func (d *Deployment) published(ctx context.Context, pkg Package, of rollout.Chart) (rollout.Chart, error) {
	var have []string
	for _, r := range pkg.Releases {
		have = append(have, fmt.Sprintf("%s (%s)", r.Record.Name, r.Record.Chart.Name()))
	}
	if !slices.ContainsFunc(pkg.Releases, func(r Release) bool { return r.Record.Chart.Name() == of.Name }) {
		return of, errs.New(errs.Invalid, "LS-HLM-007", "the release is one of chart %s, but what is driven in %s is %s; name a release of that chart", of.Name, d.where(), strings.Join(have, ", "))
	}
	for _, driven := range d.opts.Releases {
		if r, is := pkg.release(driven.Name); is && r.Record.Chart.Name() == of.Name {
			of.Source = cmp.Or(driven.Repository, of.Source)
		}
	}
	found, err := fetch(ctx, d.opts.Charts, of)
	of.Digest = found.digest
	return of, err
}

// reviewed is the hash of the values files, empty when there are none.
func (d *Deployment) reviewed() (string, error) {
	var all []string
	for _, r := range d.opts.Releases {
		if r.Values == "" {
			continue
		}
		text, err := d.valuesOf(r)
		if err != nil {
			return "", err
		}
		all = append(all, r.Name+" "+digest.FromBytes(text).String())
	}
	if len(all) == 0 {
		return "", nil
	}
	return digest.FromString(strings.Join(all, "\n")).String(), nil
}

func (d *Deployment) valuesOf(r DrivenRelease) ([]byte, error) {
	text, err := os.ReadFile(r.Values)
	if err == nil {
		_, err = readValues(text)
	}
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-HLM-013", "the values of Helm release %s: %w; correct the file or its path in the fleet file", r.Name, err)
	}
	return text, nil
}

// rendered is what would change with a release's target, by a dry run of the upgrade.
func (d *Deployment) rendered(ctx context.Context, r Release) (lines []string, repackaged bool, err error) {
	if r.Target == nil {
		return nil, false, nil
	}
	config, err := d.helm(ctx, nil)
	if err != nil {
		return nil, false, err
	}
	brings, err := r.chart()
	if err != nil {
		return nil, false, unrenderable(r, err)
	}
	values, err := readValues([]byte(r.Target.Values))
	if err != nil {
		return nil, false, unrenderable(r, err)
	}
	if crds := crdChanges(r.Record.Chart, brings); len(crds) > 0 {
		return nil, false, errs.New(errs.Conflict, "LS-HLM-006", "chart %s %s changes custom resource definitions (%s), which Helm neither upgrades nor rolls back; apply them by hand and look at what uses them, then roll out",
			brings.Name(), brings.Metadata.Version, strings.Join(crds, ", "))
	}
	upgrade := action.NewUpgrade(config)
	upgrade.Namespace, upgrade.ResetValues, upgrade.DryRunStrategy = d.opts.Namespace, true, action.DryRunServer
	out, err := upgrade.RunWithContext(ctx, r.Record.Name, brings, values)
	if err != nil {
		return nil, false, unrenderable(r, err)
	}
	would, ok := out.(*release.Release)
	if !ok {
		return nil, false, unrenderable(r, fmt.Errorf("it gives a %T", out))
	}
	if before, after := r.Record.Chart.Metadata.Version, brings.Metadata.Version; before != after {
		lines, repackaged = append(lines, fmt.Sprintf("chart of %s: %s %s → %s", r.Record.Name, brings.Name(), before, after)), true
	}
	lines = append(lines, valueChanges(r.Record.Name, r.Record.Config, values)...)
	objects, err := objectChanges(r.Record.Manifest, would.Manifest)
	if err != nil {
		return nil, false, unrenderable(r, err)
	}
	same, err := sameButKnobs(brings, r.Record.Config, values)
	return append(lines, objects...), repackaged || !same, err
}

func unrenderable(r Release, err error) error {
	return errs.New(errs.Invalid, "LS-HLM-005", "Helm release %s cannot be upgraded so: %w; try it with `helm upgrade --dry-run=server`", r.Record.Name, err)
}

// sameButKnobs says whether two sets of values differ only in which images run.
func sameButKnobs(of *chart.Chart, before, after map[string]any) (bool, error) {
	var bare [2]map[string]string
	for i, values := range []map[string]any{before, after} {
		bare[i] = flat(values)
		for _, k := range knobs(of, values) {
			delete(bare[i], strings.Join(k.path, "."))
		}
		// What was made on the way to a knob says nothing.
		maps.DeleteFunc(bare[i], func(_, text string) bool { return text == "{}" || text == "null" || text == `""` })
	}
	return maps.Equal(bare[0], bare[1]), nil
}

// crdChanges names the files of definitions that differ between two charts.
func crdChanges(before, after *chart.Chart) []string {
	was, is := make(map[string]string), make(map[string]string)
	for _, c := range before.CRDObjects() {
		was[c.Filename] = string(c.File.Data)
	}
	for _, c := range after.CRDObjects() {
		is[c.Filename] = string(c.File.Data)
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if was[name] != is[name] {
			out = append(out, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, stays := is[name]; !stays {
			out = append(out, name)
		}
	}
	return out
}

// Capture records what runs as a package.
func (d *Deployment) Capture(ctx context.Context) ([]byte, error) {
	inventory, err := d.source.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	pkg, err := d.capture(ctx, inventory)
	if err != nil {
		return nil, err
	}
	return pkg.encode()
}

func (d *Deployment) capture(ctx context.Context, inventory fleet.Inventory) (Package, error) {
	pkg := Package{Format: format, Namespace: d.opts.Namespace, Runs: make(map[fleet.Component]Run)}
	config, err := d.helm(ctx, nil)
	if err != nil {
		return pkg, err
	}
	var problems []error
	for _, driven := range d.opts.Releases {
		last, err := d.last(config, driven.Name)
		switch {
		case err != nil:
			problems = append(problems, err)
		case last.Info.Status != common.StatusDeployed:
			problems = append(problems, d.unsettled(last))
		default:
			last.Labels = nil // they are kept beside a record, not in it
			pkg.Releases = append(pkg.Releases, Release{Record: last})
		}
	}
	for _, i := range inventory.Instances {
		if i.Health == fleet.HealthStopped {
			continue
		}
		run := Run{Image: i.Image, Digest: i.Digest}
		if other, more := pkg.Runs[i.Component]; more && other != run {
			problems = append(problems, errs.New(errs.Conflict, "LS-HLM-003", "%s runs %s beside %s in %s, so there is no one package to record; wait until it is whole, or make it so", i.Component, other.Image, run.Image, d.where()))
		}
		pkg.Runs[i.Component] = run
	}
	return pkg, errors.Join(problems...)
}

// last reads the newest revision of a Helm release.
func (d *Deployment) last(config *action.Configuration, name string) (*release.Release, error) {
	found, err := config.Releases.Last(name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, errs.New(errs.NotFound, "LS-HLM-002", "there is no Helm release %s in %s; correct its name under kubernetes.helm, or install it once before rolling out to it", name, d.where())
	}
	if err != nil {
		return nil, errs.New(errs.Unavailable, "LS-HLM-014", "reading Helm release %s in %s: %w", name, d.where(), err)
	}
	out, ok := found.(*release.Release)
	if !ok || out.Info == nil || out.Chart == nil || out.Chart.Metadata == nil {
		return nil, errs.New(errs.Internal, "LS-HLM-010", "reading Helm release %s in %s: its record cannot be read (%T); look at it with `helm get all %s -n %s`", name, d.where(), found, name, d.opts.Namespace)
	}
	return out, nil
}

// unsettled is the error of a release whose newest revision is not deployed.
func (d *Deployment) unsettled(r *release.Release) error {
	todo := fmt.Sprintf("see `helm history %s -n %s` and bring it to a revision that works with `helm rollback %s REVISION -n %s --wait`", r.Name, d.opts.Namespace, r.Name, d.opts.Namespace)
	if r.Info.Status.IsPending() {
		todo = "somebody else changes it, or was cut off doing so: wait for it; if nobody is at it, " + todo
	}
	return errs.New(errs.Conflict, "LS-HLM-003", "revision %d of Helm release %s in %s is %s since %s: %s", r.Version, r.Name, d.where(), r.Info.Status, r.Info.LastDeployed.UTC().Format(time.RFC3339), todo)
}

// Retarget returns the package with the chart, the values and the images that a plan
// brings. What does not move yet keeps the image it has: the unified chart would move
// everything at once.
func (d *Deployment) Retarget(ctx context.Context, data []byte, to rollout.Apply) ([]byte, error) {
	pkg, err := decode(data)
	if err != nil {
		return nil, err
	}
	if pkg, err = d.retarget(ctx, pkg, to); err != nil {
		return nil, err
	}
	return pkg.encode()
}

func (d *Deployment) retarget(ctx context.Context, pkg Package, to rollout.Apply) (Package, error) {
	var brought fetched
	if to.Chart.Name != "" {
		var err error
		if brought, err = fetch(ctx, d.opts.Charts, to.Chart); err != nil {
			return pkg, err
		}
	}
	switch now, err := d.reviewed(); {
	case err != nil:
		return pkg, err
	case now != to.Values:
		return pkg, errs.New(errs.Conflict, "LS-HLM-004", "the values files of %s are others than when the rollout was planned (%.19s, not %.19s); have them reviewed and plan anew", d.opts.Cluster, cmp.Or(now, "none"), cmp.Or(to.Values, "none"))
	}
	runs := maps.Clone(pkg.Runs)
	for component, image := range to.Images {
		_, sum, _ := strings.Cut(image.Ref, "@")
		runs[component] = Run{Image: image.Ref, Digest: sum}
	}
	releases := slices.Clone(pkg.Releases)
	turned := make(map[fleet.Component]bool)
	for i, r := range releases {
		target, moves, err := d.target(r.Record, brought, to, runs)
		if err != nil {
			return pkg, err
		}
		for _, component := range moves {
			turned[component] = true
		}
		releases[i].Target = target
	}
	for _, component := range slices.Sorted(maps.Keys(to.Images)) {
		if !turned[component] {
			return pkg, errs.New(errs.Invalid, "LS-HLM-007", "no value of the Helm releases driven in %s says which image %s runs, so a rollout cannot move it; it knows the charts %s, %s and %s",
				d.where(), component, chartGateway, chartSRA, chartWebAccess)
		}
	}
	pkg.Releases, pkg.Runs = releases, runs
	return pkg, nil
}

// target is what one Helm release is upgraded to, and which components it runs.
func (d *Deployment) target(record *release.Release, brought fetched, to rollout.Apply, runs map[fleet.Component]Run) (*Target, []fleet.Component, error) {
	out := &Target{}
	brings := record.Chart
	if len(brought.files) > 0 && to.Chart.Name == record.Chart.Name() {
		var err error
		if brings, err = brought.load(); err != nil {
			return nil, nil, err
		}
		out.Files = brought.files
	} else if len(record.Chart.Metadata.Dependencies) > 0 {
		return nil, nil, errs.New(errs.Invalid, "LS-HLM-007", "chart %s of Helm release %s has charts below it, which Helm does not keep in its records; roll out a release of the chart instead of a set of images", record.Chart.Name(), record.Name)
	}
	values, err := copied(record.Config)
	if err != nil {
		return nil, nil, err
	}
	for _, driven := range d.opts.Releases {
		if driven.Name != record.Name || driven.Values == "" {
			continue
		}
		text, err := d.valuesOf(driven)
		if err != nil {
			return nil, nil, err
		}
		if values, err = readValues(text); err != nil {
			return nil, nil, err
		}
	}
	set := make(map[string]string)
	var moves []fleet.Component
	for _, k := range knobs(brings, values) {
		run, is := runs[k.component]
		if !is {
			continue
		}
		path := strings.Join(k.path, ".")
		_, tag := parted(run.Image)
		if other, twice := set[path]; twice && other != tag {
			return nil, nil, errs.New(errs.Invalid, "LS-HLM-007", "the value %s of Helm release %s moves %s together with another component that is to run %s, not %s", path, record.Name, k.component, other, tag)
		}
		set[path] = tag
		put(values, k.path, tag)
		moves = append(moves, k.component)
	}
	text, err := yaml.Marshal(values)
	if err != nil {
		return nil, nil, fmt.Errorf("writing the values of Helm release %s: %w", record.Name, err)
	}
	out.Values = string(text)
	return out, moves, nil
}

// sameValues compares values as Helm records them.
func sameValues(a, b map[string]any) bool {
	var plain [2]any
	for i, values := range []map[string]any{a, b} {
		text, err := json.Marshal(values)
		if err != nil || json.Unmarshal(text, &plain[i]) != nil {
			return false
		}
	}
	return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(plain[0], plain[1])
}
