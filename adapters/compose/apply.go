package compose

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
	"github.com/docker/compose/v5/pkg/api"
	library "github.com/docker/compose/v5/pkg/compose"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// Phase is how far an Apply is.
type Phase string

// Every value Phase takes, in the order they happen.
const (
	PhasePull Phase = "pull" // an image is being made present
	PhaseUp   Phase = "up"   // containers are created, replaced, started
	PhaseWait Phase = "wait" // started containers become healthy
	PhaseDone Phase = "done" // everything runs and is healthy
)

// Event is one sign of progress for people to read.
type Event struct {
	Phase   Phase
	Subject string // an image, a container or a service; empty for the whole project
	Text    string
}

// Apply makes a project run a package and returns when it does.
//
// All images are present and fit the engine before anything is stopped. Then
// only services whose configuration differs are recreated, containers that are
// not the package's are left alone, and every container must become healthy
// within Options.HealthTimeout: a *ServiceError tells which did not and what it
// last logged. A second Apply of the same package changes nothing, and an Apply
// that was killed at any point is repaired by the next, of this or any other
// package of the project. When ctx ends, no further change is begun.
// Progress may be nil; its calls do not overlap.
func (e *Engine) Apply(ctx context.Context, p Package, progress func(Event)) error {
	tell := serialise(progress)
	project, err := p.render(ctx, nil)
	if err != nil {
		return err
	}
	if err := e.present(ctx, project, tell); err != nil {
		return fmt.Errorf("applying %s: nothing was stopped: %w", p, err)
	}
	keep, err := e.kept(ctx, p)
	if err != nil {
		return fmt.Errorf("applying %s: nothing was stopped: %w", p, err)
	}
	if len(keep) > 0 {
		if project, err = p.render(ctx, keep); err != nil {
			return err
		}
	}
	if err := e.settleNames(ctx, project); err != nil {
		return fmt.Errorf("applying %s: %w", p, err)
	}
	before, err := e.containers(ctx, p.Project, true)
	if err != nil {
		return fmt.Errorf("applying %s: %w", p, err)
	}
	if err := e.up(ctx, project, tell); err != nil {
		err = errors.Join(err, e.failures(ctx, project))
		return fmt.Errorf("applying %s: %w", p, err)
	}
	if err := e.settleNames(ctx, project); err != nil {
		return fmt.Errorf("applying %s: %w", p, err)
	}
	if err := e.waitHealthy(ctx, project, before, tell); err != nil {
		return fmt.Errorf("applying %s: %w", p, err)
	}
	// A tag moved under a kept container would show only here.
	if err := e.Verify(ctx, p); err != nil {
		return fmt.Errorf("applying %s: it was brought up, but something else runs: %w", p, err)
	}
	tell(Event{Phase: PhaseDone, Text: "everything runs"})
	return nil
}

func serialise(progress func(Event)) func(Event) {
	var mu sync.Mutex
	return func(event Event) {
		if progress == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		progress(event)
	}
}

// present pulls every image of a project that the engine does not have.
func (e *Engine) present(ctx context.Context, project *types.Project, tell func(Event)) error {
	engine, err := e.platform(ctx)
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range project.ServiceNames() {
		if err := ctx.Err(); err != nil {
			return err
		}
		service := project.Services[name]
		tell(Event{Phase: PhasePull, Subject: service.Image, Text: "for service " + name})
		if err := e.ensure(ctx, service.Image, parsePlatform(service.Platform, engine)); err != nil {
			problems = append(problems, fmt.Errorf("service %s: %w", name, err))
		}
	}
	return errors.Join(problems...)
}

// kept lists the services whose containers already are what the package says,
// started by people from a reference without digest. Asking Compose for the
// pinned reference would recreate them and drop sessions for a change of
// spelling.
func (e *Engine) kept(ctx context.Context, p Package) (map[string]bool, error) {
	open := make(map[string]bool)
	for _, s := range p.Services {
		if s.Declared != "" {
			open[s.Name] = true
		}
	}
	if len(open) == 0 {
		return nil, nil
	}
	asDeclared, err := p.render(ctx, open)
	if err != nil {
		return nil, err
	}
	found, err := e.containers(ctx, p.Project, true)
	if err != nil {
		return nil, err
	}
	keep := make(map[string]bool)
	for _, s := range p.Services {
		if !open[s.Name] || len(found[s.Name]) == 0 {
			continue
		}
		want, err := e.docker.API().ImageInspect(ctx, s.Image)
		if err != nil {
			return nil, e.docker.Explain("reading image "+s.Image, err)
		}
		// Compose compares with what the tag points to on the engine now; where
		// it was moved by a pull, only the digest still means the same image.
		now, err := e.docker.API().ImageInspect(ctx, s.Declared)
		if errdefs.IsNotFound(err) || err == nil && now.ID != want.ID {
			continue
		}
		if err != nil {
			return nil, e.docker.Explain("reading image "+s.Declared, err)
		}
		hash, err := library.ServiceHash(asDeclared.Services[s.Name])
		if err != nil {
			return nil, fmt.Errorf("hashing service %s: %w", s.Name, err)
		}
		keep[s.Name] = slices.ContainsFunc(found[s.Name], func(c container.InspectResponse) bool {
			return c.Image == want.ID && c.Config.Labels[api.ConfigHashLabel] == hash
		})
	}
	maps.DeleteFunc(keep, func(_ string, kept bool) bool { return !kept })
	return keep, nil
}

// up hands the rendered project to Compose.
func (e *Engine) up(ctx context.Context, project *types.Project, tell func(Event)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	service, err := e.library(&events{engine: e, tell: tell})
	if err != nil {
		return err
	}
	err = service.Up(ctx, project, api.UpOptions{
		Create: api.CreateOptions{
			Services:             project.ServiceNames(),
			Recreate:             api.RecreateDiverged,
			RecreateDependencies: api.RecreateDiverged,
			IgnoreOrphans:        true,
			Inherit:              true, // anonymous volumes move to the new container
			QuietPull:            true,
		},
		Start: api.StartOptions{
			Project: project,
			// Bounds the wait for depends_on conditions. Waiting for the rest is
			// ours: Compose's own wait does not say what a container logged.
			WaitTimeout: e.opts.HealthTimeout,
		},
	})
	// Compose can end a cancelled wait without an error.
	if ended := ctx.Err(); ended != nil {
		return errors.Join(ended, err)
	}
	if err != nil {
		return e.docker.Explain("bringing compose project "+project.Name+" up", err)
	}
	return nil
}

// settleNames repairs what a killed recreation leaves behind. Compose creates
// the replacement under "<old id>_<name>", removes the old container and only
// then renames; killed in between, the replacement would keep that name for
// ever. If the name is free, it is given; if the old container still has it,
// a replacement that was never started is removed and Compose makes a new one.
func (e *Engine) settleNames(ctx context.Context, project *types.Project) error {
	found, err := e.containers(ctx, project.Name, true)
	if err != nil {
		return err
	}
	taken := make(map[string]bool)
	for _, list := range found {
		for _, c := range list {
			taken[bare(c.Name)] = true
		}
	}
	for _, service := range slices.Sorted(maps.Keys(found)) {
		config, ours := project.Services[service]
		if !ours {
			continue
		}
		for _, c := range found[service] {
			name := canonicalName(project.Name, config, c.Config.Labels)
			if !interim(bare(c.Name), name) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			switch {
			case !taken[name]:
				e.log.Info("finishing an interrupted recreation", "project", project.Name, "service", service, "container", name)
				if _, err := e.docker.API().ContainerRename(ctx, c.ID, client.ContainerRenameOptions{NewName: name}); err != nil {
					return e.docker.Explain("renaming container "+bare(c.Name)+" to "+name, err)
				}
				taken[name] = true
			case c.State.Status == container.StateCreated:
				e.log.Info("removing the rest of an interrupted recreation", "project", project.Name, "service", service, "container", bare(c.Name))
				_, err := e.docker.API().ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{})
				if err != nil && !errdefs.IsNotFound(err) {
					return e.docker.Explain("removing container "+bare(c.Name), err)
				}
			}
		}
	}
	return nil
}

// canonicalName is the name Compose gives a service's container in the end.
func canonicalName(project string, service types.ServiceConfig, labels map[string]string) string {
	if service.ContainerName != "" {
		return service.ContainerName
	}
	number := labels[api.ContainerNumberLabel]
	if number == "" {
		number = "1"
	}
	return strings.Join([]string{project, service.Name, number}, api.Separator)
}

// interim tells whether a name is the one Compose uses during a recreation:
// twelve hex digits of the old container's id before the final name.
func interim(name, final string) bool {
	prefix, ok := strings.CutSuffix(name, "_"+final)
	return ok && len(prefix) == 12 && strings.Trim(prefix, "0123456789abcdef") == ""
}

// events passes Compose's progress on.
type events struct {
	engine *Engine
	tell   func(Event)
}

func (*events) Start(context.Context, string) {}

func (*events) Done(string, bool) {}

func (v *events) On(resources ...api.Resource) {
	for _, r := range resources {
		text := strings.TrimSpace(r.Text + " " + r.Details)
		v.engine.log.Debug("compose", "resource", r.ID, "says", text)
		v.tell(Event{Phase: PhaseUp, Subject: r.ID, Text: text})
	}
}
