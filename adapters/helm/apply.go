package helm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"helm.sh/helm/v4/pkg/action"
	helmkube "helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

const (
	// maxHistory is how many revisions Helm keeps, as its own command does.
	maxHistory = 10
	// look is how often it is looked whether everything runs.
	look = 250 * time.Millisecond
	// aftermath is how long putting Helm's record right may take after an operation was
	// cut off.
	aftermath = 10 * time.Second
	// mostNamed bounds how many instances an error names.
	mostNamed = 5
)

// Apply makes the cluster run the package and returns when it does. A package with
// targets is brought by an upgrade of each release; one that was captured is gone back
// to by Helm's rollback to the very revision, so that manifests are those that were.
// One hand at a time does it, by a Lease in the namespace.
// Applying what runs already changes nothing, and what was cut off is taken up: a
// revision that is pending is put right if Lockstep made it and left alone if somebody
// else did.
func (d *Deployment) Apply(ctx context.Context, data []byte) error {
	pkg, err := decode(data)
	if err != nil {
		return err
	}
	if pkg.Namespace != d.opts.Namespace {
		return errs.New(errs.Conflict, "LS-HLM-004", "the package is one of namespace %s, but the cluster is %s now; put the configuration back, or plan anew", pkg.Namespace, d.where())
	}
	steps := slices.Clone(pkg.Releases)
	back := slices.ContainsFunc(steps, func(r Release) bool { return r.Target == nil })
	if back {
		slices.Reverse(steps)
	}
	id := digest.FromBytes(data).Encoded()[:40]
	ctx, h, err := d.take(ctx)
	if err != nil {
		return err
	}
	defer h.release()
	for _, r := range steps {
		if r.Target == nil {
			err = d.restore(ctx, h, r)
		} else {
			err = d.upgrade(ctx, h, r, id)
		}
		if err != nil {
			d.putRight(ctx, h, r.Record.Name)
			return err
		}
	}
	return d.verify(ctx, pkg)
}

// upgrade brings a release to its target.
func (d *Deployment) upgrade(ctx context.Context, h *hand, r Release, id string) error {
	config, err := d.helm(ctx, h)
	if err != nil {
		return err
	}
	name := r.Record.Name
	last, err := d.settle(config, name)
	if err != nil {
		return err
	}
	if last.Info.Status == common.StatusDeployed && ours(last) && last.Labels[labelPackage] == id {
		d.log.Info("the release is there already", "release", name, "revision", last.Version)
		return nil
	}
	brings, err := r.chart()
	if err != nil {
		return unrenderable(r, err)
	}
	values, err := readValues([]byte(r.Target.Values))
	if err != nil {
		return unrenderable(r, err)
	}
	upgrade := action.NewUpgrade(config)
	upgrade.Namespace, upgrade.ResetValues, upgrade.MaxHistory = d.opts.Namespace, true, maxHistory
	upgrade.WaitStrategy, upgrade.WaitForJobs, upgrade.Timeout = helmkube.StatusWatcherStrategy, true, d.opts.Ready
	upgrade.WaitOptions = []helmkube.WaitOption{helmkube.WithWaitContext(ctx)}
	upgrade.Labels = map[string]string{labelRevision: strconv.Itoa(last.Version + 1), labelPackage: id}
	upgrade.Description = fmt.Sprintf("Lockstep brings %s %s", brings.Name(), brings.Metadata.Version)
	d.log.Info("upgrading a Helm release", "release", name, "chart", brings.Name(), "version", brings.Metadata.Version, "revision", last.Version+1)
	if _, err := upgrade.RunWithContext(ctx, name, brings, values); err != nil {
		return d.failed(ctx, "upgrading", name, err)
	}
	return nil
}

// restore brings a release back to its recorded revision.
func (d *Deployment) restore(ctx context.Context, h *hand, r Release) error {
	config, err := d.helm(ctx, h)
	if err != nil {
		return err
	}
	name, revision := r.Record.Name, r.Record.Version
	last, err := d.settle(config, name)
	if err != nil {
		return d.byHand(name, revision, err)
	}
	whole := last.Info.Status == common.StatusDeployed
	if whole && (last.Version == revision || last.Info.RollbackRevision == revision && ours(last)) && last.Manifest == r.Record.Manifest {
		d.log.Info("the release is back already", "release", name, "revision", last.Version)
		return nil
	}
	if err := d.remember(config, r.Record); err != nil {
		return d.byHand(name, revision, err)
	}
	rollback := action.NewRollback(config)
	rollback.Version, rollback.MaxHistory = revision, maxHistory
	rollback.WaitStrategy, rollback.WaitForJobs, rollback.Timeout = helmkube.StatusWatcherStrategy, true, d.opts.Ready
	rollback.WaitOptions = []helmkube.WaitOption{helmkube.WithWaitContext(ctx)}
	// Whoever set a field by hand meanwhile does not keep the cluster from coming back.
	rollback.ForceConflicts = r.Record.ApplyMethod == string(release.ApplyMethodServerSideApply)
	rollback.Description = restoring + "revision " + strconv.Itoa(revision)
	d.log.Info("rolling a Helm release back", "release", name, "to", revision, "revision", last.Version+1)
	if err := rollback.Run(name); err != nil {
		return d.byHand(name, revision, d.failed(ctx, "rolling back", name, err))
	}
	return nil
}

// byHand says which command does what could not be done.
func (d *Deployment) byHand(name string, revision int, err error) error {
	return errs.New(errs.KindOf(err), "LS-HLM-012", "Helm release %s in %s could not be brought back: %w; by hand: `helm rollback %s %d -n %s --wait`", name, d.where(), err, name, revision, d.opts.Namespace)
}

// remember sees to it that Helm has the recorded revision: its history is bounded, and
// people prune it.
func (d *Deployment) remember(config *action.Configuration, record *release.Release) error {
	found, err := config.Releases.Get(record.Name, record.Version)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		again, info := *record, *record.Info
		info.Status = common.StatusSuperseded
		again.Info = &info
		config.Releases.MaxHistory = 0 // the oldest is the one that is wanted
		if err := config.Releases.Create(&again); err != nil {
			return errs.New(errs.Unavailable, "LS-HLM-014", "putting revision %d of Helm release %s back into Helm's history: %w", record.Version, record.Name, err)
		}
		return nil
	}
	if err != nil {
		return errs.New(errs.Unavailable, "LS-HLM-014", "reading revision %d of Helm release %s: %w", record.Version, record.Name, err)
	}
	if r, ok := found.(*release.Release); !ok || r.Manifest != record.Manifest || !sameValues(r.Config, record.Config) {
		return errs.New(errs.Conflict, "LS-HLM-004", "revision %d of Helm release %s is another one than was recorded: the release was uninstalled and installed anew meanwhile", record.Version, record.Name)
	}
	return nil
}

// settle reads the newest revision and puts it right where Lockstep was cut off making
// it. Somebody else's that is pending is an error.
func (d *Deployment) settle(config *action.Configuration, name string) (*release.Release, error) {
	last, err := d.last(config, name)
	if err != nil || !last.Info.Status.IsPending() {
		return last, err
	}
	if !ours(last) {
		return nil, d.unsettled(last)
	}
	d.log.Warn("taking up a Helm operation that was cut off", "release", name, "revision", last.Version, "status", last.Info.Status)
	last.SetStatus(common.StatusFailed, last.Info.Description+": cut off")
	if err := config.Releases.Update(last); err != nil {
		return nil, errs.New(errs.Unavailable, "LS-HLM-014", "marking revision %d of Helm release %s as cut off: %w", last.Version, name, err)
	}
	return last, nil
}

// putRight leaves no pending revision behind after an operation that ended early. If it
// cannot, whoever comes next does.
func (d *Deployment) putRight(ctx context.Context, h *hand, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), aftermath)
	defer cancel()
	config, err := d.helm(ctx, h)
	if err == nil {
		_, err = d.settle(config, name)
	}
	if err != nil {
		d.log.Warn("Helm's record could not be put right; the next operation does", "release", name, "error", err)
	}
}

// failed words what went wrong in an operation, with what is not well in the cluster.
func (d *Deployment) failed(ctx context.Context, doing, name string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s Helm release %s in %s: %w", doing, name, d.where(), context.Cause(ctx))
	}
	asking, cancel := context.WithTimeout(ctx, aftermath)
	defer cancel()
	unwell := ""
	if inventory, err := d.source.Inventory(asking); err == nil {
		unwell = ailing(inventory)
	}
	return errs.New(errs.Unavailable, "LS-HLM-011", "%s Helm release %s in %s: %w%s", doing, name, d.where(), err, unwell)
}

// ailing names the instances that are not well.
func ailing(inventory fleet.Inventory) string {
	var out []string
	for _, i := range inventory.Instances {
		if i.Health != fleet.HealthHealthy && i.Health != fleet.HealthStopped {
			out = append(out, fmt.Sprintf("%s with image %s is %s", i.ID, i.Image, i.Health))
		}
	}
	if len(out) == 0 {
		return ""
	}
	if more := len(out) - mostNamed; more > 0 {
		out = append(out[:mostNamed], fmt.Sprintf("and %d more", more))
	}
	return "; " + strings.Join(out, "; ")
}

// verify waits until what runs is the package: every instance well, from the planned
// digest, and none of what was before left.
func (d *Deployment) verify(ctx context.Context, pkg Package) error {
	bounded, cancel := context.WithTimeout(ctx, d.opts.Ready)
	defer cancel()
	for {
		inventory, err := d.source.Inventory(bounded)
		if err == nil {
			err = pkg.differs(inventory)
		}
		if err == nil {
			return nil
		}
		if rtime.Wait(bounded, look) != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("verifying %s: %w", d.where(), context.Cause(ctx))
			}
			return errs.New(errs.Conflict, "LS-HLM-009", "Helm brought everything to %s, but something else runs %s later: %w", d.where(), d.opts.Ready, err)
		}
	}
}

// differs says where what runs is not the package.
func (p Package) differs(inventory fleet.Inventory) error {
	seen := make(map[fleet.Component]bool)
	var problems []error
	for _, i := range inventory.Instances {
		want, known := p.Runs[i.Component]
		if !known || i.Health == fleet.HealthStopped {
			continue
		}
		seen[i.Component] = true
		switch {
		case i.Health != fleet.HealthHealthy:
			problems = append(problems, fmt.Errorf("%s is %s", i.ID, i.Health))
		case want.Digest != "" && i.Digest != want.Digest:
			problems = append(problems, fmt.Errorf("%s runs %s %s, not %s %s", i.ID, i.Image, i.Digest, want.Image, want.Digest))
		case want.Digest == "" && i.Image != want.Image:
			problems = append(problems, fmt.Errorf("%s runs %s, not %s", i.ID, i.Image, want.Image))
		}
	}
	for component := range p.Runs {
		if !seen[component] {
			problems = append(problems, fmt.Errorf("nothing runs of %s", component))
		}
	}
	if len(problems) > mostNamed {
		problems = append(problems[:mostNamed], fmt.Errorf("and %d more", len(problems)-mostNamed))
	}
	return errors.Join(problems...)
}
