package compose

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/distribution/reference"
	"github.com/docker/compose/v5/pkg/api"
	library "github.com/docker/compose/v5/pkg/compose"
	"github.com/opencontainers/go-digest"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// format is the version of Package's JSON form. A reader refuses a newer one.
const format = 1

// Package is everything needed to put a Compose project back as it was: which
// images by digest, with which configuration. It restores from its own content;
// the files it was made from may have changed or gone. What bind mounts point
// at is not in it.
//
// A package can hold secrets (environments do). It prints as its project and
// hash only.
type Package struct {
	Format   int      `json:"format"`
	Project  string   `json:"project"`
	Dir      string   `json:"dir"` // absolute; what relative paths were resolved against
	Profiles []string `json:"profiles,omitempty"`

	// Files are the compose files as read, in order; EnvFiles the env files of
	// the project and of its services. They say where the package came from and
	// let people compare; applying uses Model.
	Files    []File `json:"files"`
	EnvFiles []File `json:"env_files,omitempty"`
	// EnvFileLabel is what docker compose records as --env-file; empty when the
	// project uses none explicitly.
	EnvFileLabel string `json:"env_file_label,omitempty"`

	// Services are the selected services by name, with what takes precedence
	// over Model.
	Services []Service `json:"services"`

	// Model is the rendered configuration as canonical JSON: interpolated, env
	// files folded in, paths absolute.
	Model string `json:"model"`
}

// File is one file a package was made from.
type File struct {
	Path    string `json:"path"` // absolute
	SHA256  string `json:"sha256"`
	Content []byte `json:"content"`
}

// Service is what a package says of one service.
type Service struct {
	Name string `json:"name"`
	// Image is the reference with digest, like "repo:tag@sha256:…".
	Image string `json:"image"`
	// Declared is the reference without digest that the captured container was
	// started from; empty when that was Image. It lets Apply leave a container
	// alone that already runs Image under this name.
	Declared string `json:"declared,omitempty"`
	// Environment overrides Model's environment of this service by key.
	Environment map[string]string `json:"environment,omitempty"`
}

// Encode returns the canonical form: equal packages give equal bytes.
func (p Package) Encode() []byte {
	// Only strings, byte slices, ints and string maps: marshalling cannot fail.
	data, _ := json.Marshal(p)
	return data
}

// Decode reads what Encode wrote and refuses anything damaged or newer.
func Decode(data []byte) (Package, error) {
	var p Package
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return Package{}, unreadable("reading a compose package: %w; it is damaged or from a newer version", err)
	}
	if p.Format != format {
		return Package{}, unreadable("reading a compose package of project %q: format %d is not %d, the one this version knows", p.Project, p.Format, format)
	}
	for _, file := range slices.Concat(p.Files, p.EnvFiles) {
		if newFile(file.Path, file.Content).SHA256 != file.SHA256 {
			return Package{}, unreadable("reading a compose package of project %q: the content recorded for %s does not match its hash; the package is damaged", p.Project, file.Path)
		}
	}
	return p, nil
}

// unreadable is the error of a recorded package that cannot be used any more.
func unreadable(format string, args ...any) error {
	return errs.New(errs.Internal, "LS-CMP-014", format, args...)
}

// Hash is the SHA-256 of the canonical form in lower-case hex: the address the
// package is stored under.
func (p Package) Hash() string {
	sum := sha256.Sum256(p.Encode())
	return hex.EncodeToString(sum[:])
}

// String keeps secrets out of logs.
func (p Package) String() string {
	return fmt.Sprintf("compose package %.12s of project %q", p.Hash(), p.Project)
}

// LogValue keeps secrets out of structured logs too.
func (p Package) LogValue() slog.Value { return slog.StringValue(p.String()) }

// Image returns the pinned reference of a service, empty for an unknown one.
func (p Package) Image(service string) string {
	if i := p.index(service); i >= 0 {
		return p.Services[i].Image
	}
	return ""
}

func (p Package) index(service string) int {
	i, ok := slices.BinarySearchFunc(p.Services, service, func(s Service, name string) int { return cmp.Compare(s.Name, name) })
	if !ok {
		return -1
	}
	return i
}

// Retarget returns the package with other images and environment variables for
// some services; the rest stays as it is. Images must carry a digest. The
// package given is not changed.
func Retarget(p Package, images map[string]string, env map[string]map[string]string) (Package, error) {
	services := make([]Service, len(p.Services))
	for i, s := range p.Services {
		s.Environment = maps.Clone(s.Environment)
		services[i] = s
	}
	p.Services = services
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(images)) {
		i := p.index(name)
		if i < 0 {
			problems = append(problems, unknownService(p, name))
			continue
		}
		image, err := pinned(images[name])
		if err != nil {
			problems = append(problems, fmt.Errorf("retargeting compose project %q: service %s: %w", p.Project, name, err))
			continue
		}
		if image != p.Services[i].Image {
			p.Services[i].Image = image
			p.Services[i].Declared = ""
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		i := p.index(name)
		if i < 0 {
			problems = append(problems, unknownService(p, name))
			continue
		}
		if p.Services[i].Environment == nil && len(env[name]) > 0 {
			p.Services[i].Environment = make(map[string]string)
		}
		maps.Copy(p.Services[i].Environment, env[name])
	}
	if err := errors.Join(problems...); err != nil {
		return Package{}, err
	}
	return p, nil
}

func unknownService(p Package, name string) error {
	known := make([]string, 0, len(p.Services))
	for _, s := range p.Services {
		known = append(known, s.Name)
	}
	return fmt.Errorf("retargeting compose project %q: it has no service %q; its services are %s", p.Project, name, strings.Join(known, ", "))
}

// pinned normalises a reference that must carry a digest.
func pinned(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", image, err)
	}
	if _, ok := named.(reference.Digested); !ok {
		return "", fmt.Errorf("image %q has no digest, so it does not say what will run; resolve the tag first", image)
	}
	return reference.FamiliarString(named), nil
}

// pin adds a digest to a reference, keeping its tag for people to read.
func pin(image, sum string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", image, err)
	}
	parsed, err := digest.Parse(sum)
	if err != nil {
		return "", fmt.Errorf("image %q: digest %q: %w", image, sum, err)
	}
	base := reference.TrimNamed(named)
	if tagged, ok := named.(reference.Tagged); ok {
		if base, err = reference.WithTag(base, tagged.Tag()); err != nil {
			return "", fmt.Errorf("image %q: %w", image, err)
		}
	}
	full, err := reference.WithDigest(base, parsed)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", image, err)
	}
	return reference.FamiliarString(full), nil
}

// encodeModel writes a rendered project in canonical form and proves that it
// reads back to the very configuration hashes Compose would compute: a
// difference would restart containers that nobody asked to touch.
func encodeModel(ctx context.Context, project *types.Project, dir string) (string, error) {
	raw, err := project.MarshalJSON(types.WithSecretContent)
	if err != nil {
		return "", fmt.Errorf("recording the configuration of compose project %q: %w", project.Name, err)
	}
	var tree any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&tree); err != nil {
		return "", fmt.Errorf("recording the configuration of compose project %q: %w", project.Name, err)
	}
	canonical, err := json.Marshal(tree)
	if err != nil {
		return "", fmt.Errorf("recording the configuration of compose project %q: %w", project.Name, err)
	}
	again, err := decodeModel(ctx, project.Name, dir, string(canonical))
	if err != nil {
		return "", err
	}
	before, err := hashes(project)
	if err != nil {
		return "", err
	}
	after, err := hashes(again)
	if err != nil {
		return "", err
	}
	for _, key := range slices.Sorted(maps.Keys(before)) {
		if before[key] != after[key] {
			return "", unrecordable("recording the configuration of compose project %q: %s uses something that cannot be recorded exactly, so it could not be restored; simplify its definition", project.Name, key)
		}
	}
	return string(canonical), nil
}

// decodeModel reads a rendered configuration. Nothing is interpolated, resolved
// or read from disk: the model is already final.
func decodeModel(ctx context.Context, name, dir, model string) (*types.Project, error) {
	project, err := loader.LoadWithContext(ctx, types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: "package.json", Content: []byte(model)}},
		Environment: types.Mapping{},
	}, func(o *loader.Options) {
		o.SetProjectName(name, true)
		o.SkipValidation = true
		o.SkipInterpolation = true
		o.SkipNormalization = true
		o.SkipConsistencyCheck = true
		o.SkipExtends = true
		o.SkipInclude = true
		o.SkipResolveEnvironment = true
		o.SkipResolveLabels = true
		o.ResolvePaths = false
		o.Profiles = []string{"*"}
		// Defaults do run: JSON leaves out what equals them (create_host_path).
	})
	if err != nil {
		return nil, unreadable("reading the recorded configuration of compose project %q: %s", name, place(err))
	}
	return project, nil
}

// hashes lists Compose's configuration hashes of everything in a project.
func hashes(project *types.Project) (map[string]string, error) {
	out := make(map[string]string)
	for name, service := range project.Services {
		sum, err := library.ServiceHash(service)
		if err != nil {
			return nil, fmt.Errorf("compose project %q: hashing service %s: %w", project.Name, name, err)
		}
		out["service "+name] = sum
	}
	for name, network := range project.Networks {
		sum, err := library.NetworkHash(&network)
		if err != nil {
			return nil, fmt.Errorf("compose project %q: hashing network %s: %w", project.Name, name, err)
		}
		out["network "+name] = sum
	}
	for name, volume := range project.Volumes {
		sum, err := library.VolumeHash(volume)
		if err != nil {
			return nil, fmt.Errorf("compose project %q: hashing volume %s: %w", project.Name, name, err)
		}
		out["volume "+name] = sum
	}
	return out, nil
}

// render turns a package into the project Compose is asked for. Services in
// declared keep the reference they were started from instead of the pinned one.
func (p Package) render(ctx context.Context, declared map[string]bool) (*types.Project, error) {
	project, err := decodeModel(ctx, p.Project, p.Dir, p.Model)
	if err != nil {
		return nil, err
	}
	if len(project.Services) != len(p.Services) {
		return nil, unreadable("%s: it pins %d services, its configuration has %d; the package is damaged", p, len(p.Services), len(project.Services))
	}
	for _, file := range p.Files {
		project.ComposeFiles = append(project.ComposeFiles, file.Path)
	}
	for _, want := range p.Services {
		service, ok := project.Services[want.Name]
		if !ok {
			return nil, unreadable("%s: its configuration has no service %s; the package is damaged", p, want.Name)
		}
		if docker.Digest(want.Image) == "" {
			return nil, fmt.Errorf("%s: image %q of service %s has no digest, so it does not say what will run; capture or retarget the package again", p, want.Image, want.Name)
		}
		service.Image = want.Image
		if declared[want.Name] {
			service.Image = want.Declared
		}
		service.Build = nil
		// Images are pulled beforehand; Compose must not move one on its own.
		service.PullPolicy = types.PullPolicyNever
		for key, value := range want.Environment {
			if service.Environment == nil {
				service.Environment = types.MappingWithEquals{}
			}
			service.Environment[key] = &value
		}
		// The labels docker compose finds its own containers by.
		service.CustomLabels = types.Labels{
			api.ProjectLabel:     p.Project,
			api.ServiceLabel:     want.Name,
			api.VersionLabel:     api.ComposeVersion,
			api.WorkingDirLabel:  p.Dir,
			api.ConfigFilesLabel: strings.Join(project.ComposeFiles, ","),
			api.OneoffLabel:      "False",
		}
		if p.EnvFileLabel != "" {
			service.CustomLabels[api.EnvironmentFileLabel] = p.EnvFileLabel
		}
		project.Services[want.Name] = service
	}
	return project, nil
}
