package compose

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/api/types/container"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Verify compares what runs with a package: every service has its containers
// running, from the package's digest, with the package's VERSION. Every
// difference is in the error, joined. It reads only.
func (e *Engine) Verify(ctx context.Context, p Package) error {
	project, err := p.render(ctx, nil)
	if err != nil {
		return err
	}
	found, err := e.containers(ctx, p.Project, true)
	if err != nil {
		return err
	}
	var problems []error
	differs := func(service, text string, args ...any) {
		problems = append(problems, fmt.Errorf("verifying %s: service %s: "+text, append([]any{p, service}, args...)...))
	}
	for _, want := range p.Services {
		service := project.Services[want.Name]
		running := 0
		for _, c := range found[want.Name] {
			if c.State.Status != container.StateRunning {
				if !oneShot(project, want.Name) {
					differs(want.Name, "container %s is %s", bare(c.Name), c.State.Status)
				}
				continue
			}
			running++
			image, err := e.docker.API().ImageInspect(ctx, c.Image)
			if err != nil {
				return e.docker.Explain("reading the image of container "+bare(c.Name), err)
			}
			if !runs(want.Image, image.RepoDigests) {
				differs(want.Name, "container %s runs %s %s, not %s", bare(c.Name), c.Config.Image, docker.RepoDigest(want.Image, image.RepoDigests), want.Image)
			}
			wanted, declared := service.Environment[versionKey]
			got, _ := docker.Env(c.Config.Env, versionKey)
			if declared && wanted != nil && got != *wanted {
				differs(want.Name, "container %s has VERSION %q, not %q", bare(c.Name), got, *wanted)
			}
		}
		if running < service.GetScale() && !oneShot(project, want.Name) {
			differs(want.Name, "%d of %d containers run", running, service.GetScale())
		}
	}
	if err := errors.Join(problems...); err != nil {
		return errs.New(errs.Conflict, "LS-CMP-013", "%w", err)
	}
	return nil
}
