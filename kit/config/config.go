// Package config owns how a process finds, reads and writes its configuration
// file and what the environment sets over it: where it looks, how strictly it
// reads, and how it words what is wrong. It does not own what the settings mean;
// whoever declares the struct checks that.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Path is a file or folder named in a configuration file. Load makes it
// absolute: "~" is the home folder, anything relative starts at the folder of
// the file that names it.
type Path string

// Problem is one thing wrong with a configuration.
type Problem struct {
	File string // empty when no file was read
	Line int    // counted from 1, 0 when unknown
	Key  string // such as "clusters[0].compose.dir", empty for the whole file
	Text string // what is wrong and what to do
}

// String words the problem as "file:line: key: text", leaving out what is unknown.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	} else if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Text
}

// Problems is everything wrong with a configuration, so that a person mends it
// in one go.
type Problems []Problem

// Error lists the problems, one a line, behind their catalogue id.
func (p Problems) Error() string { return p.Unwrap().Error() }

// Unwrap gives the problems as an error with a kind and a catalogue id.
func (p Problems) Unwrap() error {
	if len(p) == 1 {
		return errs.New(errs.Invalid, "LS-CFG-003", "%s", p[0])
	}
	lines := make([]string, 0, len(p)+1)
	lines = append(lines, fmt.Sprintf("the configuration has %d problems:", len(p)))
	for _, one := range p {
		lines = append(lines, "  "+one.String())
	}
	return errs.New(errs.Invalid, "LS-CFG-003", "%s", strings.Join(lines, "\n"))
}

// Load reads the YAML file at path over the struct that into points to. What
// the file does not mention, or leaves empty, keeps the value it had, so
// defaults are set before. Fields take their key from the "yaml" tag; the kinds
// supported are structs, pointers, slices, maps with text keys, text, numbers,
// booleans, time.Duration ("2s") and Path.
//
// The error is Problems when the file could be read but not accepted: unknown
// and repeated keys and values of the wrong type, all of them at once.
func Load(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return errs.New(errs.Invalid, "LS-CFG-001", "read the configuration: %w", err)
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find the folder of the configuration %s: %w", path, err)
	}
	r := reader{file: path, folder: filepath.Dir(full), home: home()}
	return r.read(string(raw), into)
}

// home is empty when it is not known; only a path that begins with "~" needs
// it, and says so.
func home() string {
	folder, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return folder
}

func (r *reader) read(text string, into any) error {
	dec := yaml.NewDecoder(strings.NewReader(text))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil // an empty file changes nothing
	case err != nil:
		return r.notYAML(err)
	}
	var more yaml.Node
	switch err := dec.Decode(&more); {
	case err == nil:
		r.problem(&more, "", "a second document begins here; keep one document in the file")
	case !errors.Is(err, io.EOF):
		return r.notYAML(err)
	}
	r.document(&doc, into)
	if len(r.problems) > 0 {
		return r.problems
	}
	return nil
}

func (r *reader) notYAML(err error) error {
	return errs.New(errs.Invalid, "LS-CFG-002", "read the configuration %s: %w", r.file, err)
}

// Place says where a program keeps its configuration file.
type Place struct {
	Env    string // the environment variable that names the file
	Name   string // the file's name
	Folder string // the folder below the usual configuration folders
}

// Find returns the first file of: flag, the variable Env, ./Name,
// $XDG_CONFIG_HOME/Folder/Name ($HOME/.config when unset) and /etc/Folder/Name.
// A file named by flag or variable must exist; the others are looked for, and
// the path is empty when there is none.
func (p Place) Find(flag string, env func(string) string) (string, error) {
	named, by := flag, "--config"
	if named == "" {
		named, by = env(p.Env), p.Env
	}
	if named != "" {
		info, err := os.Stat(named)
		if err != nil {
			return "", errs.New(errs.Invalid, "LS-CFG-001", "open the configuration named by %s: %w", by, err)
		}
		if info.IsDir() {
			return "", errs.New(errs.Invalid, "LS-CFG-001", "open the configuration named by %s: %s is a folder; name the file in it", by, named)
		}
		return named, nil
	}
	for _, candidate := range p.candidates(env) {
		info, err := os.Stat(candidate)
		switch {
		case err == nil && !info.IsDir():
			return candidate, nil
		case err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR):
			// ENOTDIR: services often run with HOME=/dev/null.
			return "", errs.New(errs.Invalid, "LS-CFG-001", "look for the configuration: %w", err)
		}
	}
	return "", nil
}

func (p Place) candidates(env func(string) string) []string {
	list := []string{p.Name}
	if base := env("XDG_CONFIG_HOME"); filepath.IsAbs(base) {
		list = append(list, filepath.Join(base, p.Folder, p.Name))
	} else if home := env("HOME"); home != "" {
		list = append(list, filepath.Join(home, ".config", p.Folder, p.Name))
	}
	return append(list, filepath.Join("/etc", p.Folder, p.Name))
}
