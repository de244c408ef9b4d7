package compose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
	"github.com/docker/compose/v5/pkg/api"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// versionKey is the variable the vendor's images take their version from.
const versionKey = "VERSION"

// Capture makes a package of a target: configuration from its files, images and
// VERSION from what runs. A service that does not run takes the digest of its
// declared tag, from the engine's copy if there is one, else from the registry.
// Capture changes nothing on the engine.
func (e *Engine) Capture(ctx context.Context, t Target) (Package, error) {
	read, err := e.load(ctx, t)
	if err != nil {
		return Package{}, err
	}
	if err := supported(read.project); err != nil {
		return Package{}, err
	}
	running, err := e.containers(ctx, t.Project, false)
	if err != nil {
		return Package{}, err
	}
	out := Package{
		Format:       format,
		Project:      t.Project,
		Dir:          read.dir,
		Profiles:     slices.Sorted(slices.Values(read.profiles)),
		Files:        read.files,
		EnvFiles:     read.envFiles,
		EnvFileLabel: read.envLabel,
	}
	if out.Model, err = encodeModel(ctx, read.project, read.dir); err != nil {
		return Package{}, err
	}
	var problems []error
	for _, name := range read.project.ServiceNames() {
		service, err := e.captureService(ctx, read.project.Services[name], running[name])
		if err != nil {
			problems = append(problems, fmt.Errorf("capturing compose project %q: service %s: %w", t.Project, name, err))
			continue
		}
		out.Services = append(out.Services, service)
	}
	if err := errors.Join(problems...); err != nil {
		return Package{}, err
	}
	return out, nil
}

// unrecordable is the error of a project that could not be put back later.
func unrecordable(format string, args ...any) error {
	return errs.New(errs.Conflict, "LS-CMP-011", format, args...)
}

// supported refuses what a package cannot put back.
func supported(project *types.Project) error {
	var problems []error
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		for _, hook := range service.PreStart {
			if hook.Image != "" && docker.Digest(hook.Image) == "" {
				problems = append(problems, unrecordable("compose project %q: service %s starts a pre_start hook from image %q without digest, which could change between an upgrade and its rollback; pin it by digest", project.Name, name, hook.Image))
			}
		}
		switch {
		case service.Provider != nil:
			problems = append(problems, unrecordable("compose project %q: service %s is run by a provider plug-in, which cannot be captured or restored; move it to a project of its own", project.Name, name))
		case service.Image == "":
			problems = append(problems, unrecordable("compose project %q: service %s is built from source and names no image, so there is no digest to go back to; push it to a registry and name it as image", project.Name, name))
		}
	}
	return errors.Join(problems...)
}

func (e *Engine) captureService(ctx context.Context, declared types.ServiceConfig, running []container.InspectResponse) (Service, error) {
	if len(running) == 0 {
		image, err := e.declaredDigest(ctx, declared.Image)
		if err != nil {
			return Service{}, err
		}
		out := Service{Name: declared.Name, Image: image}
		if image != declared.Image {
			out.Declared = declared.Image
		}
		return out, nil
	}
	var out Service
	for i, c := range running {
		one, err := e.captureContainer(ctx, declared, c)
		if err != nil {
			return Service{}, err
		}
		if i > 0 && (one.Image != out.Image || one.Environment[versionKey] != out.Environment[versionKey]) {
			return Service{}, unrecordable("its containers run different things (%s and %s); finish or undo the change in progress, then capture again", out.Image, one.Image)
		}
		out = one
	}
	return out, nil
}

func (e *Engine) captureContainer(ctx context.Context, declared types.ServiceConfig, c container.InspectResponse) (Service, error) {
	image, err := e.docker.API().ImageInspect(ctx, c.Image)
	if errdefs.IsNotFound(err) {
		return Service{}, unrecordable("container %s runs an image the engine no longer has, so its digest is unknown; start the service again from a published tag", bare(c.Name))
	}
	if err != nil {
		return Service{}, e.docker.Explain("reading an image", err)
	}
	sum := docker.RepoDigest(c.Config.Image, image.RepoDigests)
	if sum == "" {
		return Service{}, unrecordable("container %s runs image %s, which has no digest from that repository because it was built or loaded here; push it to the registry and pull it, so that it can be fetched again", bare(c.Name), c.Config.Image)
	}
	full, err := pin(c.Config.Image, sum)
	if err != nil {
		return Service{}, err
	}
	out := Service{Name: declared.Name, Image: full}
	if full != c.Config.Image {
		out.Declared = c.Config.Image
	}
	// Someone may have edited the files after the start: the version that runs
	// is what a rollback must bring back. A version the image itself brings is
	// left to the image, or it would stick to every image that follows.
	ran, _ := docker.Env(c.Config.Env, versionKey)
	written := value(declared.Environment[versionKey])
	var built string
	if image.Config != nil {
		built, _ = docker.Env(image.Config.Env, versionKey)
	}
	if _, isDeclared := declared.Environment[versionKey]; ran != written && (isDeclared || ran != built) {
		out.Environment = map[string]string{versionKey: ran}
	}
	return out, nil
}

// declaredDigest finds what an image reference of the files would start now.
func (e *Engine) declaredDigest(ctx context.Context, image string) (string, error) {
	if docker.Digest(image) != "" {
		return pinned(image)
	}
	local, err := e.docker.API().ImageInspect(ctx, image)
	if err != nil && !errdefs.IsNotFound(err) {
		return "", e.docker.Explain("reading image "+image, err)
	}
	if sum := docker.RepoDigest(image, local.RepoDigests); err == nil && sum != "" {
		return pin(image, sum)
	}
	full, err := e.Resolve(ctx, image)
	if err != nil {
		return "", fmt.Errorf("it does not run and its digest cannot be determined: %w; start it, or pin its image by digest", err)
	}
	return full, nil
}

// containers reads a project's service containers by service, ordered by name:
// running ones, or all.
func (e *Engine) containers(ctx context.Context, project string, all bool) (map[string][]container.InspectResponse, error) {
	listed, err := e.list(ctx, project, all)
	if err != nil {
		return nil, err
	}
	doing := reading(project)
	out := make(map[string][]container.InspectResponse)
	for _, found := range listed {
		service := found.Labels[api.ServiceLabel]
		answer, err := e.docker.API().ContainerInspect(ctx, found.ID, client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue // replaced since it was listed
		}
		if err != nil {
			return nil, e.docker.Explain(doing, err)
		}
		if answer.Container.Config == nil || answer.Container.State == nil {
			return nil, fmt.Errorf("%s on docker engine %s: the engine's answer for container %s has no configuration or state", doing, e.Host(), found.ID)
		}
		out[service] = append(out[service], answer.Container)
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b container.InspectResponse) int { return strings.Compare(a.Name, b.Name) })
	}
	return out, nil
}

// list lists a project's service containers without looking at each. One-off
// containers and lifecycle hooks are not among them.
func (e *Engine) list(ctx context.Context, project string, all bool) ([]container.Summary, error) {
	if err := e.docker.Connect(ctx); err != nil {
		return nil, e.docker.Explain(reading(project), err)
	}
	found, err := e.docker.API().ContainerList(ctx, client.ContainerListOptions{
		All:     all,
		Filters: make(client.Filters).Add("label", api.ProjectLabel+"="+project),
	})
	if err != nil {
		return nil, e.docker.Explain(reading(project), err)
	}
	return slices.DeleteFunc(found.Items, func(c container.Summary) bool {
		return c.Labels[api.ServiceLabel] == "" || strings.EqualFold(c.Labels[api.OneoffLabel], "true") || c.Labels[api.HookLabel] != ""
	}), nil
}

func reading(project string) string {
	return fmt.Sprintf("reading the containers of compose project %q", project)
}

func bare(name string) string { return strings.TrimPrefix(name, "/") }

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
