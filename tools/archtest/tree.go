package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// tree is the parsed source of the repository. Packages are named as "./" and
// their folder below the root, whichever module they are in: the modules of this
// repository are named after their folders.
type tree struct {
	fset *token.FileSet
	pkgs map[string]*pkg
}

// pkg is one folder of Go files.
type pkg struct {
	name  string // "./domain/gate"
	files []*file
}

// file is one Go file.
type file struct {
	path    string // "domain/gate/gate.go"
	main    bool   // package main
	test    bool   // named _test.go
	helps   bool   // part of a package for tests ("domaintest") or of integration/
	imports []arrow
	syntax  *ast.File
}

// arrow is one import.
type arrow struct {
	to   string // "./kit/bus", or an import path from elsewhere
	as   string // the name it has in this file; "." and "_" as written
	line int
}

var moduleLine = regexp.MustCompile(`(?m)^module[ \t]+(\S+)`)

// load parses every Go file of the tree except tools/ (programs of the workshop,
// not of the product), testdata, and folders that Go itself ignores.
func load(root fs.FS) (*tree, error) {
	gomod, err := fs.ReadFile(root, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("find the root module: %w; give the repository's folder with -C", err)
	}
	m := moduleLine.FindSubmatch(gomod)
	if m == nil {
		return nil, fmt.Errorf("find the root module: go.mod has no module line")
	}
	t := &tree{fset: token.NewFileSet(), pkgs: map[string]*pkg{}}
	err = fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			hidden := p != "." && strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")
			if hidden || base == "testdata" || base == "node_modules" || p == "tools" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		return t.add(root, p, string(m[1]))
	})
	if err != nil {
		return nil, fmt.Errorf("read the source tree: %w", err)
	}
	return t, nil
}

func (t *tree) add(root fs.FS, name, module string) error {
	src, err := fs.ReadFile(root, name)
	if err != nil {
		return err
	}
	syntax, err := parser.ParseFile(t.fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	folder := local(path.Dir(name))
	f := &file{
		path:   name,
		main:   syntax.Name.Name == "main",
		test:   strings.HasSuffix(name, "_test.go"),
		helps:  match(testHelper, folder) || match("./integration/...", folder),
		syntax: syntax,
	}
	for _, spec := range syntax.Imports {
		to, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		as := localName(to)
		if spec.Name != nil {
			as = spec.Name.Name
		}
		if to == module || strings.HasPrefix(to, module+"/") {
			to = local(strings.TrimPrefix(strings.TrimPrefix(to, module), "/"))
		}
		f.imports = append(f.imports, arrow{to: to, as: as, line: t.fset.Position(spec.Pos()).Line})
	}
	p := t.pkgs[folder]
	if p == nil {
		p = &pkg{name: folder}
		t.pkgs[folder] = p
	}
	p.files = append(p.files, f)
	return nil
}

// local names a package of this repository after its folder.
func local(folder string) string {
	if folder == "" || folder == "." {
		return "."
	}
	return "./" + folder
}

var major = regexp.MustCompile(`^v[0-9]+$`)

// localName guesses the name under which a file uses an import that it does not
// rename: the last element of the path that is not a major version.
func localName(importPath string) string {
	base := path.Base(importPath)
	if major.MatchString(base) {
		base = path.Base(path.Dir(importPath))
	}
	return base
}

// standard reports whether an import path belongs to the standard library: its
// first element is no host name.
func standard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

// match reports whether a pattern covers a package. Patterns are paths in which
// "..." stands for any number of elements, none among them, and * for a part of
// one element; the pattern "std" covers the standard library.
func match(pattern, name string) bool {
	if pattern == "std" {
		return standard(name)
	}
	return matchElements(strings.Split(pattern, "/"), strings.Split(name, "/"))
}

func matchElements(pattern, name []string) bool {
	if len(pattern) == 0 {
		return len(name) == 0
	}
	if pattern[0] == "..." {
		return matchElements(pattern[1:], name) || len(name) > 0 && matchElements(pattern, name[1:])
	}
	if len(name) == 0 {
		return false
	}
	ok, err := path.Match(pattern[0], name[0])
	return err == nil && ok && matchElements(pattern[1:], name[1:])
}

func matchAny(patterns []string, name string) bool {
	for _, p := range patterns {
		if match(p, name) {
			return true
		}
	}
	return false
}

// home returns the shortest parent of a package (or the package itself) that a
// pattern covers, "" where none is.
func home(pattern, name string) string {
	elements := strings.Split(name, "/")
	for i := 1; pattern != "" && i <= len(elements); i++ {
		if parent := strings.Join(elements[:i], "/"); match(pattern, parent) {
			return parent
		}
	}
	return ""
}
