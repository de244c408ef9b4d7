package compose

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Check looks for what would make a plan for the target worthless: files that
// are missing or not Compose, profiles that hide everything, and components
// whose version is left open. It reads files only; every problem found is in
// the error, joined.
func (e *Engine) Check(ctx context.Context, t Target) error {
	read, err := e.load(ctx, t)
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range read.project.ServiceNames() {
		service := read.project.Services[name]
		component, ok := t.Components[name]
		if !ok {
			component, ok = docker.Infer(name, service.Image)
		}
		if !ok && docker.Family(service.Image) == "" {
			continue
		}
		where := fmt.Sprintf("compose project %q: %s: service %s", t.Project, declaredIn(read.files, name), name)
		if open := unpinned(service.Image); open != "" {
			problems = append(problems, errs.New(errs.Invalid, "LS-CMP-005", "%s: image %q %s, so it can change at any restart; write the exact version as tag or pin it as %s@sha256:…", where, service.Image, open, service.Image))
		}
		version, declared := service.Environment["VERSION"]
		if component == fleet.Gateway && declared && (version == nil || *version == "") {
			problems = append(problems, errs.New(errs.Invalid, "LS-CMP-005", "%s: VERSION is empty, which means the newest version at every start; set VERSION to the exact version", where))
		}
	}
	return errors.Join(problems...)
}

// unpinned says why an image reference does not name one version, empty when it
// does. A digest always does, whatever the tag says.
func unpinned(image string) string {
	if docker.Digest(image) != "" {
		return ""
	}
	switch tag := docker.Tag(image); {
	case tag == "":
		return "has no tag"
	case tag == "latest" || strings.HasPrefix(tag, "latest-"):
		return "has the moving tag " + tag
	}
	return ""
}

// declaredIn names the file that decides a service's image: the last that
// gives one. A service that comes from an include or extends is attributed to
// all files named.
func declaredIn(files []File, service string) string {
	for _, file := range slices.Backward(files) {
		var content struct {
			Services map[string]struct {
				Image string `yaml:"image"`
			} `yaml:"services"`
		}
		if err := yaml.Unmarshal(file.Content, &content); err != nil {
			continue // Compose's own tags can be more than this small reader knows
		}
		if content.Services[service].Image != "" {
			return file.Path
		}
	}
	return paths(files)
}
