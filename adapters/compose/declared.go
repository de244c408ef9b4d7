package compose

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/compose/v5/pkg/api"
	library "github.com/docker/compose/v5/pkg/compose"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Package says what the files on disk ask for now, service by service, and how
// what runs stands to it: an edit that was never applied shows as changed. Services
// behind profiles that are not enabled are neither missing nor extra. Whether a
// container works is the inventory's to say. Files that cannot be loaded are an
// error.
func (d *Deployment) Package(ctx context.Context) (fleet.Package, error) {
	read, err := d.engine.load(ctx, d.target)
	if err != nil {
		return fleet.Package{}, err
	}
	listed, err := d.engine.list(ctx, d.target.Project, true)
	if err != nil {
		return fleet.Package{}, err
	}
	out := fleet.Package{Cluster: d.cluster, ObservedAt: d.now()}
	c := comparison{engine: d.engine, project: read.project, running: byService(listed), images: make(map[string]string)}
	for _, name := range slices.Sorted(maps.Keys(c.running)) {
		if _, known := read.project.AllServices()[name]; !known {
			out.Compose = append(out.Compose, c.extra(name))
		}
	}
	for _, name := range read.project.ServiceNames() {
		if read.project.Services[name].Provider != nil {
			continue // it has no containers of its own
		}
		service, err := c.service(ctx, read.project.Services[name])
		if err != nil {
			return fleet.Package{}, fmt.Errorf("comparing compose project %q with its files: service %s: %w", d.target.Project, name, err)
		}
		out.Compose = append(out.Compose, service)
	}
	slices.SortFunc(out.Compose, func(a, b fleet.ComposeService) int { return strings.Compare(a.Service, b.Service) })
	return out, nil
}

// byService sorts containers as Compose does where it picks the first of a service.
func byService(listed []container.Summary) map[string][]container.Summary {
	out := make(map[string][]container.Summary)
	for _, c := range listed {
		out[c.Labels[api.ServiceLabel]] = append(out[c.Labels[api.ServiceLabel]], c)
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b container.Summary) int { return strings.Compare(name(a), name(b)) })
	}
	return out
}

func name(c container.Summary) string {
	if len(c.Names) == 0 {
		return c.ID
	}
	return bare(c.Names[0])
}

// comparison is one look at a project, declared and running.
type comparison struct {
	engine  *Engine
	project *types.Project
	running map[string][]container.Summary
	images  map[string]string // the engine's id by reference, empty when it has none
}

func (c comparison) extra(service string) fleet.ComposeService {
	out := fleet.ComposeService{Project: c.project.Name, Service: service, State: fleet.ComposeExtra}
	for _, found := range c.running[service] {
		out.Differences = append(out.Differences, fmt.Sprintf("container %s (%s) is of a service that the files do not have", name(found), found.Image))
	}
	return out
}

// service compares one service with its containers. The configuration hash that
// Compose left on a container tells whether anything differs; what differs is
// looked for only then.
func (c comparison) service(ctx context.Context, declared types.ServiceConfig) (fleet.ComposeService, error) {
	hash, err := c.hash(declared)
	if err != nil {
		return fleet.ComposeService{}, err
	}
	found := c.running[declared.Name]
	out := fleet.ComposeService{
		Project: c.project.Name, Service: declared.Name, Image: api.GetImageNameOrDefault(declared, c.project.Name), ConfigHash: hash, State: fleet.ComposeSame,
	}
	if want := declared.GetScale(); len(found) != want {
		out.State = fleet.ComposeChanged
		if len(found) == 0 {
			out.State = fleet.ComposeMissing
		}
		out.Differences = append(out.Differences, fmt.Sprintf("containers: the files ask for %d, %d are there", want, len(found)))
	}
	for _, one := range found {
		differences, err := c.differences(ctx, declared, hash, one)
		if err != nil {
			return fleet.ComposeService{}, err
		}
		for _, text := range differences {
			out.State = fleet.ComposeChanged
			if !slices.Contains(out.Differences, text) {
				out.Differences = append(out.Differences, text)
			}
		}
	}
	return out, nil
}

// differences says what a container is not as declared. Environments hold secrets,
// so they are told by key; only VERSION's value is told.
func (c comparison) differences(ctx context.Context, declared types.ServiceConfig, hash string, found container.Summary) ([]string, error) {
	image := api.GetImageNameOrDefault(declared, c.project.Name)
	if found.Labels[api.ConfigHashLabel] == hash {
		return c.moved(ctx, image, found.ImageID)
	}
	answer, err := c.engine.docker.API().ContainerInspect(ctx, found.ID, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return nil, nil // replaced since it was listed; the engine tells of that, too
	}
	if err != nil {
		return nil, c.engine.docker.Explain("reading container "+name(found), err)
	}
	ran := answer.Container
	if ran.Config == nil {
		return nil, fmt.Errorf("the answer of docker engine %s for container %s has no configuration", c.engine.Host(), found.ID)
	}
	var out []string
	if sameImage(image, ran.Config.Image) {
		out, err = c.moved(ctx, image, ran.Image)
		if err != nil {
			return nil, err
		}
	} else {
		out = append(out, fmt.Sprintf("image: the files ask for %s, %s runs", image, ran.Config.Image))
	}
	built, err := c.builtEnvironment(ctx, ran.Image)
	if err != nil {
		return nil, err
	}
	// What the files would say had they asked for what runs: where that gives the
	// container's hash, the differences that were found are all there are.
	asRan := declared
	if declared.Image != "" {
		asRan.Image = ran.Config.Image
	}
	var environment []string
	asRan.Environment, environment = compareEnvironment(declared.Environment, ran.Config.Env, built)
	out = append(out, environment...)
	explained, err := c.hash(asRan)
	if err != nil {
		return nil, err
	}
	if explained != found.Labels[api.ConfigHashLabel] {
		text := "other configuration differs"
		// Another version of Compose can give the same configuration another hash.
		if version := found.Labels[api.VersionLabel]; version != "" {
			text += ", as Compose " + version + " brought it up"
		}
		out = append(out, text)
	}
	return out, nil
}

// moved tells whether an image reference that did not change names another image
// on the engine by now, which Compose would recreate the container for.
func (c comparison) moved(ctx context.Context, ref, running string) ([]string, error) {
	declared, err := c.imageID(ctx, ref)
	if err != nil {
		return nil, err
	}
	current, err := c.imageID(ctx, running)
	if err != nil {
		return nil, err
	}
	if declared == "" || current == "" || declared == current {
		return nil, nil
	}
	return []string{fmt.Sprintf("image: %s was pulled or built anew, an older one runs", ref)}, nil
}

// imageID asks the engine which image a reference names, empty for none.
func (c comparison) imageID(ctx context.Context, ref string) (string, error) {
	id, known := c.images[ref]
	if known {
		return id, nil
	}
	answer, err := c.engine.docker.API().ImageInspect(ctx, ref)
	if err != nil && !errdefs.IsNotFound(err) {
		return "", c.engine.docker.Explain("reading image "+ref, err)
	}
	c.images[ref] = answer.ID
	return answer.ID, nil
}

// builtEnvironment is the environment that an image brings along.
func (c comparison) builtEnvironment(ctx context.Context, image string) ([]string, error) {
	answer, err := c.engine.docker.API().ImageInspect(ctx, image)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, c.engine.docker.Explain("reading image "+image, err)
	}
	if answer.Config == nil {
		return nil, nil
	}
	return answer.Config.Env, nil
}

// hash is Compose's hash of a service, as it leaves it on containers: namespaces
// and volumes of other services are named by their containers. The library keeps
// that step to itself. A reference to a service without containers stays as it
// is, which no container's hash matches.
func (c comparison) hash(service types.ServiceConfig) (string, error) {
	first := func(service string) (string, bool) {
		if len(c.running[service]) == 0 {
			return "", false
		}
		return c.running[service][0].ID, true
	}
	service.VolumesFrom = slices.Clone(service.VolumesFrom)
	for i, from := range service.VolumesFrom {
		source, rest, _ := strings.Cut(from, ":")
		if source+":" == types.ContainerPrefix {
			service.VolumesFrom[i], _, _ = strings.Cut(rest, ":")
		} else if id, ok := first(source); ok {
			service.VolumesFrom[i] = id
		}
	}
	for _, mode := range []*string{&service.NetworkMode, &service.Ipc, &service.Pid} {
		if source, shared := strings.CutPrefix(*mode, types.NetworkModeServicePrefix); shared {
			if id, ok := first(source); ok {
				*mode = types.ContainerPrefix + id
			}
		}
	}
	return library.ServiceHash(service)
}

// sameImage tells whether a container that was made from ran is what declared asks
// for: Lockstep brings services up by digest and keeps the tag beside it.
func sameImage(declared, ran string) bool {
	if declared == ran {
		return true
	}
	want, err := reference.ParseNormalizedNamed(declared)
	if err != nil {
		return false
	}
	got, err := reference.ParseNormalizedNamed(ran)
	if err != nil {
		return false
	}
	return want.Name() == got.Name() && docker.Tag(declared) == docker.Tag(ran) && docker.Digest(declared) == "" && docker.Digest(ran) != ""
}

// compareEnvironment returns what the files would have to declare to give what
// runs, and what differs, by key. Built is what the image brings along.
func compareEnvironment(declared types.MappingWithEquals, ran, built []string) (types.MappingWithEquals, []string) {
	asRan := make(types.MappingWithEquals, len(declared))
	var out []string
	keys := slices.Collect(maps.Keys(declared))
	for _, line := range ran {
		key, value, _ := strings.Cut(line, "=")
		_, known := declared[key]
		brought, isBuilt := docker.Env(built, key)
		if !known && !(isBuilt && brought == value) && !proxy(key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		want, asked := declared[key]
		got, there := docker.Env(ran, key)
		switch {
		case there && want != nil && *want == got, !there && asked && want == nil:
			asRan[key] = want
			continue
		case there:
			asRan[key] = &got
		}
		out = append(out, "environment "+key+": "+told(key, want, got, there))
	}
	return asRan, out
}

// told words a difference of one variable without its value, unless it is VERSION.
func told(key string, want *string, got string, there bool) string {
	files, runs := "the files do not set it", "what runs does not have it"
	if key == versionKey {
		if want != nil {
			files = fmt.Sprintf("the files say %q", *want)
		}
		if there {
			runs = fmt.Sprintf("%q runs", got)
		}
		return files + ", " + runs
	}
	switch {
	case want == nil:
		return files
	case !there:
		return runs
	}
	return "another value runs"
}

// proxy tells whether a variable is one that Compose adds from the docker
// configuration of whoever brings a project up.
func proxy(key string) bool { return strings.HasSuffix(strings.ToLower(key), "_proxy") }
