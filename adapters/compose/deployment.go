package compose

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/compose/v5/pkg/api"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Deployment is one cluster's Compose project as the collector reads it and a
// rollout changes it. Its methods may be called at the same time; who may change
// the project is the caller's lease.
type Deployment struct {
	engine  *Engine
	cluster fleet.ClusterID
	target  Target
	now     func() time.Time
	changed chan struct{}
}

// NewDeployment ties a cluster to its project on an engine.
func NewDeployment(engine *Engine, cluster fleet.ClusterID, target Target, now func() time.Time) *Deployment {
	return &Deployment{engine: engine, cluster: cluster, target: target, now: now, changed: make(chan struct{}, 1)}
}

// Inventory lists what runs, and beside it the image that the files ask for now.
// It needs no files: where they cannot be loaded, nothing is declared, and Package
// says why.
func (d *Deployment) Inventory(ctx context.Context) (fleet.Inventory, error) {
	inventory, err := d.engine.docker.Inventory(ctx, d.cluster, d.target.Project, d.target.Components, d.now)
	if err != nil {
		return fleet.Inventory{}, err
	}
	read, err := d.engine.load(ctx, d.target)
	if err != nil {
		return inventory, nil //nolint:nilerr // an inventory is what runs; Package reports what is wrong with the files
	}
	declared := read.project.AllServices()
	for i, instance := range inventory.Instances {
		if service, ok := declared[instance.Service]; ok {
			inventory.Instances[i].Declared = api.GetImageNameOrDefault(service, d.target.Project)
		}
	}
	return inventory, nil
}

// Survey says what runs, resolves the images to digests, and lists what stands
// in the way. Only an engine that cannot be asked is an error; everything else
// is trouble that a person reads beside the plan.
func (d *Deployment) Survey(ctx context.Context, release rollout.Release) (rollout.Target, error) {
	target := rollout.Target{Cluster: d.cluster, Resolved: make(map[fleet.Line]string, len(release.Lines))}
	if err := d.engine.Check(ctx, d.target); err != nil {
		target.Trouble = append(target.Trouble, strings.Split(err.Error(), "\n")...)
	}
	inventory, err := d.Inventory(ctx)
	if err != nil {
		return target, err
	}
	target.Running = rollout.RunningOf(inventory)
	if len(target.Running) == 0 && len(target.Trouble) == 0 {
		target.Trouble = append(target.Trouble, errs.New(errs.NotFound, "LS-CMP-006",
			"no component runs in Compose project %q on %s; bring it up once before rolling out to it", d.target.Project, d.engine.Host()).Error())
	}
	for line, image := range release.Lines {
		if image.Ref == "" {
			continue // the plan says that it is not resolved
		}
		ref, err := d.engine.Resolve(ctx, image.Ref)
		if err != nil {
			target.Trouble = append(target.Trouble, err.Error())
			continue
		}
		target.Resolved[line] = ref
	}
	slices.Sort(target.Trouble)
	return target, nil
}

// Capture records what runs as a package.
func (d *Deployment) Capture(ctx context.Context) ([]byte, error) {
	pkg, err := d.engine.Capture(ctx, d.target)
	if err != nil {
		return nil, err
	}
	return pkg.Encode(), nil
}

// Retarget returns the package with other images for the services of some
// components; a chart is not for Compose. Where a service is given a VERSION, it is given the new one: there
// the version decides what runs, not the tag.
func (d *Deployment) Retarget(ctx context.Context, data []byte, to rollout.Apply) ([]byte, error) {
	pkg, err := Decode(data)
	if err != nil {
		return nil, err
	}
	project, err := pkg.render(ctx, nil)
	if err != nil {
		return nil, err
	}
	refs, env := make(map[string]string), make(map[string]map[string]string)
	for _, service := range pkg.Services {
		component, ok := d.target.Components[service.Name]
		if !ok {
			component, ok = docker.Infer(service.Name, service.Image)
		}
		image, moves := to.Images[component]
		if !ok || !moves {
			continue
		}
		refs[service.Name] = image.Ref
		if _, versioned := project.Services[service.Name].Environment[versionKey]; versioned {
			env[service.Name] = map[string]string{versionKey: image.Version}
		}
	}
	if len(refs) == 0 {
		return nil, fmt.Errorf("retargeting compose project %q: no service of it is a component that moves", pkg.Project)
	}
	moved, err := Retarget(pkg, refs, env)
	if err != nil {
		return nil, err
	}
	return moved.Encode(), nil
}

// Apply makes the cluster run the package and checks that it does, as Engine.Apply.
func (d *Deployment) Apply(ctx context.Context, data []byte) error {
	pkg, err := Decode(data)
	if err != nil {
		return err
	}
	progress := func(e Event) { d.engine.log.Debug("compose", "cluster", d.cluster, "event", fmt.Sprintf("%+v", e)) }
	return d.engine.Apply(ctx, pkg, progress)
}
