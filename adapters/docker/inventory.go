package docker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Labels that Compose puts on the containers it creates.
const (
	labelProject = "com.docker.compose.project"
	labelService = "com.docker.compose.service"
	labelOneOff  = "com.docker.compose.oneoff"
	labelHook    = "com.docker.compose.hook"
)

// labelVersion is what an image, or a Compose file in its place, claims as its
// version. Containers inherit the labels of their image.
const labelVersion = "org.opencontainers.image.version"

// versionKey is the environment variable that decides the application version
// of the vendor's images; the tag proves nothing while it is set.
const versionKey = "VERSION"

// Inventory lists the containers of one Compose project, stopped ones included,
// ordered by service and id. Services name the component of a service;
// a service they do not name is inferred (see Infer), and a container whose
// component stays unknown is left out. One-off containers ("compose run") and
// lifecycle hooks are not instances. An empty project gives no instances and no
// error: nothing there is an observation too. What the Compose file declares is
// not known here: Declared stays empty.
func (e *Engine) Inventory(ctx context.Context, cluster fleet.ClusterID, project string, services map[string]fleet.Component, now func() time.Time) (fleet.Inventory, error) {
	doing := fmt.Sprintf("reading the containers of compose project %q", project)
	if err := e.Connect(ctx); err != nil {
		return fleet.Inventory{}, e.Explain(doing, err)
	}
	list, err := e.api.ContainerList(ctx, client.ContainerListOptions{
		All:     true,
		Filters: make(client.Filters).Add("label", labelProject+"="+project),
	})
	if err != nil {
		return fleet.Inventory{}, e.Explain(doing, err)
	}
	out := fleet.Inventory{Cluster: cluster, ObservedAt: now()}
	repoDigests := make(map[string][]string) // by image id: replicas share one look-up
	for _, found := range list.Items {
		service := found.Labels[labelService]
		if service == "" || strings.EqualFold(found.Labels[labelOneOff], "true") || found.Labels[labelHook] != "" {
			continue
		}
		answer, err := e.api.ContainerInspect(ctx, found.ID, client.ContainerInspectOptions{})
		if errdefs.IsNotFound(err) {
			continue // replaced since it was listed
		}
		if err != nil {
			return fleet.Inventory{}, e.Explain(doing, err)
		}
		component, known := services[service]
		if !known && answer.Container.Config != nil {
			component, known = Infer(service, answer.Container.Config.Image)
		}
		if !known {
			continue
		}
		digests, seen := repoDigests[answer.Container.Image]
		if !seen {
			image, err := e.api.ImageInspect(ctx, answer.Container.Image)
			// A container outlives its image when someone removed the image by
			// force; its digest is then unknown, which is worth reporting.
			if err != nil && !errdefs.IsNotFound(err) {
				return fleet.Inventory{}, e.Explain(doing, err)
			}
			digests = image.RepoDigests
			repoDigests[answer.Container.Image] = digests
		}
		out.Instances = append(out.Instances, instance(answer.Container, component, service, digests))
	}
	slices.SortFunc(out.Instances, func(a, b fleet.Instance) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

func instance(c container.InspectResponse, component fleet.Component, service string, repoDigests []string) fleet.Instance {
	out := fleet.Instance{
		ID:        fleet.InstanceID(c.ID),
		Component: component,
		Service:   service,
		ImageID:   c.Image,
		Health:    health(c.State),
		Restarts:  uint32(max(0, c.RestartCount)),
	}
	if c.Config != nil {
		out.Image = c.Config.Image
		out.Tag = Tag(c.Config.Image)
		out.Digest = RepoDigest(c.Config.Image, repoDigests)
		out.Version, _ = Env(c.Config.Env, versionKey)
		out.Labelled = c.Config.Labels[labelVersion]
	}
	if c.State != nil {
		// The engine writes year 1 for "never started", which is the zero time.
		if at, err := time.Parse(time.RFC3339Nano, c.State.StartedAt); err == nil {
			out.StartedAt = at.UTC()
		}
	}
	return out
}

// health maps the engine's state to the product's words. A container in a
// restart loop is unhealthy whether or not it has a health check.
func health(s *container.State) fleet.Health {
	switch {
	case s == nil:
		return fleet.HealthStopped
	case s.Restarting:
		return fleet.HealthUnhealthy
	case !s.Running || s.Paused:
		return fleet.HealthStopped
	case s.Health == nil:
		return fleet.HealthNone
	}
	switch s.Health.Status {
	case container.Healthy:
		return fleet.HealthHealthy
	case container.Starting:
		return fleet.HealthStarting
	case container.Unhealthy:
		return fleet.HealthUnhealthy
	}
	return fleet.HealthNone
}
