package compose

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// loaded is a target as read from disk at one moment: the model and the very
// bytes it was made from.
type loaded struct {
	dir      string
	profiles []string
	project  *types.Project
	files    []File // compose files, in order
	envFiles []File // project env files, then env files of services
	envLabel string // what docker compose records as --env-file
}

// load reads a target. The model has every variable interpolated, env files
// folded into environments, paths made absolute and hidden profiles removed.
func (e *Engine) load(ctx context.Context, t Target) (loaded, error) {
	if err := e.belongs(t); err != nil {
		return loaded{}, err
	}
	if t.Project == "" {
		return loaded{}, errors.New("a compose target names no project; set its project to the name shown by docker compose ls")
	}
	if len(t.Files) == 0 {
		return loaded{}, fmt.Errorf("compose project %q names no compose file; list its files in the order docker compose -f gets them", t.Project)
	}
	dir := t.Dir
	if dir == "" {
		dir = filepath.Dir(t.Files[0])
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return loaded{}, fmt.Errorf("compose project %q: directory %s: %w", t.Project, t.Dir, err)
	}
	out := loaded{dir: dir}
	base := dir
	if t.Dir == "" {
		base = "" // the files named the directory, so they are relative to where we are
	}
	for _, path := range t.Files {
		file, err := readFile(t.Project, "compose file", within(base, path))
		if err != nil {
			return loaded{}, err
		}
		out.files = append(out.files, file)
	}
	explicit := make([]string, 0, len(t.EnvFiles))
	for _, path := range t.EnvFiles {
		explicit = append(explicit, within(dir, path))
	}
	out.envLabel = strings.Join(explicit, ",")
	for _, path := range explicit {
		if _, err := os.Stat(path); err != nil {
			return loaded{}, missing(t.Project, "env file", path, err)
		}
	}
	environment, err := cli.NewProjectOptions(nil,
		cli.WithWorkingDirectory(dir), cli.WithEnv(e.opts.Environment), cli.WithEnvFiles(explicit...), cli.WithDotEnv)
	if err != nil {
		return loaded{}, refused(t.Project, "reading its env files", err)
	}
	for _, path := range environment.EnvFiles {
		file, err := readFile(t.Project, "env file", path)
		if err != nil {
			return loaded{}, err
		}
		out.envFiles = append(out.envFiles, file)
	}
	out.profiles = slices.Clone(t.Profiles)
	if len(out.profiles) == 0 {
		for name := range strings.SplitSeq(environment.Environment["COMPOSE_PROFILES"], ",") {
			if name = strings.TrimSpace(name); name != "" {
				out.profiles = append(out.profiles, name)
			}
		}
	}
	if loader.NormalizeProjectName(t.Project) != t.Project {
		return loaded{}, fmt.Errorf("compose project name %q is not one Compose accepts: lower-case letters, digits, - and _, starting with a letter or digit", t.Project)
	}
	details := types.ConfigDetails{WorkingDir: dir, Environment: environment.Environment}
	for _, file := range out.files {
		details.ConfigFiles = append(details.ConfigFiles, types.ConfigFile{Filename: file.Path, Content: file.Content})
	}
	project, err := loader.LoadWithContext(ctx, details, func(o *loader.Options) {
		o.SetProjectName(t.Project, true)
		o.Profiles = out.profiles
		o.SkipResolveEnvironment = true // below, after hidden services are gone
	})
	if err != nil {
		return loaded{}, refused(t.Project, "reading "+paths(out.files), err)
	}
	if err := selected(t, out.profiles, project); err != nil {
		return loaded{}, err
	}
	for _, name := range project.ServiceNames() {
		for _, env := range project.Services[name].EnvFiles {
			file, err := readFile(t.Project, "env file of service "+name, env.Path)
			if errors.Is(err, fs.ErrNotExist) && !bool(env.Required) {
				continue
			}
			if err != nil {
				return loaded{}, err
			}
			if !slices.ContainsFunc(out.envFiles, func(f File) bool { return f.Path == file.Path }) {
				out.envFiles = append(out.envFiles, file)
			}
		}
	}
	project, err = project.WithServicesEnvironmentResolved(true)
	if err != nil {
		return loaded{}, refused(t.Project, "reading the env files of its services", err)
	}
	out.project = project.WithoutUnnecessaryResources()
	return out, nil
}

// belongs refuses a target of another engine: capturing one host's project and
// applying it to another would be found out too late.
func (e *Engine) belongs(t Target) error {
	if t.Host == "" || t.Host == e.opts.Host || t.Host == e.Host() {
		return nil
	}
	return fmt.Errorf("compose project %q is on docker engine %s, but this connection is to %s; use the connection of its host", t.Project, t.Host, e.Host())
}

// selected reports profiles nobody declares and selections that leave nothing.
func selected(t Target, profiles []string, project *types.Project) error {
	hidden := make(map[string][]string) // profile → services it would show
	for name, service := range project.AllServices() {
		for _, profile := range service.Profiles {
			hidden[profile] = append(hidden[profile], name)
		}
	}
	known := slices.Sorted(maps.Keys(hidden))
	var problems []error
	for _, profile := range profiles {
		if _, ok := hidden[profile]; !ok && profile != "*" {
			problems = append(problems, errs.New(errs.Invalid, "LS-CMP-004", "compose project %q: no service has profile %q; the files know %s", t.Project, profile, listed(known, "no profiles")))
		}
	}
	if len(project.Services) == 0 {
		if len(known) == 0 {
			problems = append(problems, errs.New(errs.Invalid, "LS-CMP-004", "compose project %q has no services", t.Project))
		} else {
			problems = append(problems, errs.New(errs.Invalid, "LS-CMP-004", "compose project %q selects no service: every service is behind a profile (%s) and %s enabled; set the target's profiles",
				t.Project, strings.Join(known, ", "), listed(profiles, "none is")))
		}
	}
	return errors.Join(problems...)
}

func listed(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}

func within(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	if dir == "" {
		if abs, err := filepath.Abs(path); err == nil {
			return abs
		}
	}
	return filepath.Join(dir, path)
}

func readFile(project, kind, path string) (File, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return File{}, missing(project, kind, path, err)
	}
	return newFile(path, content), nil
}

func newFile(path string, content []byte) File {
	sum := sha256.Sum256(content)
	return File{Path: path, SHA256: hex.EncodeToString(sum[:]), Content: content}
}

func missing(project, kind, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.Invalid, "LS-CMP-003", "compose project %q: %s %s does not exist; correct the path in the fleet file or restore the file: %w", project, kind, path, err)
	}
	return errs.New(errs.Invalid, "LS-CMP-003", "compose project %q: reading %s %s: %w", project, kind, path, err)
}

func paths(files []File) string {
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, f.Path)
	}
	return strings.Join(names, ", ")
}
