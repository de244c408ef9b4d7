package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// violation is one broken rule at one place.
type violation struct {
	file string
	line int
	what string
	rule rule
}

func (v violation) String() string {
	return fmt.Sprintf("%s:%d: %s\n    rule:    %s: %s\n    why:     %s\n    instead: %s",
		v.file, v.line, v.what, v.rule.ID, v.rule.Title, v.rule.Why, v.rule.Instead)
}

// check reads the tree and returns what breaks a rule, by place.
func check(root fs.FS) ([]violation, error) {
	t, err := load(root)
	if err != nil {
		return nil, err
	}
	var found []violation
	for _, r := range rules() {
		for _, name := range slices.Sorted(maps.Keys(t.pkgs)) {
			if !r.governs(name) {
				continue
			}
			p := t.pkgs[name]
			for _, f := range p.files {
				if r.spares(f) {
					continue
				}
				found = append(found, t.judge(r, p, f)...)
			}
		}
		if r.ID == ownersRule {
			found = append(found, t.owners(r)...)
		}
		if habit := habits()[r.Folder]; habit != nil {
			for _, name := range slices.Sorted(maps.Keys(t.pkgs)) {
				if what := habit(t.pkgs[name]); r.governs(name) && what != "" {
					found = append(found, violation{file: t.pkgs[name].files[0].path, line: 1, what: name + " " + what, rule: r})
				}
			}
		}
	}
	slices.SortStableFunc(found, func(a, b violation) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.rule.ID, b.rule.ID))
	})
	return found, nil
}

func (r rule) governs(pkg string) bool {
	return (len(r.From) == 0 || matchAny(r.From, pkg)) && !matchAny(r.NotFrom, pkg)
}

func (r rule) spares(f *file) bool {
	switch forTests := f.test || f.helps; {
	case r.NotMain && f.main, r.Files == production && forTests, r.Files == tests && !forTests, r.Files == code && f.test:
		return true
	}
	return false
}

func (t *tree) judge(r rule, p *pkg, f *file) []violation {
	var found []violation
	report := func(line int, format string, args ...any) {
		found = append(found, violation{file: f.path, line: line, what: fmt.Sprintf(format, args...), rule: r})
	}
	for _, a := range f.imports {
		switch {
		case r.forbids(p.name, a.to):
			report(a.line, "%s imports %s", p.name, a.to)
		case r.Reach && !f.test:
			if chain := t.reach(r, p.name, a.to); chain != nil {
				report(a.line, "%s reaches %s", p.name, strings.Join(chain, ", which imports "))
			}
		}
	}
	if len(r.Uses)+len(r.Syntax)+len(r.Text) > 0 {
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if n != nil {
				if what := r.breaks(f, n); what != "" {
					report(t.fset.Position(n.Pos()).Line, "%s %s", p.name, what)
				}
			}
			return true
		})
	}
	return found
}

// forbids reports whether the rule lets no package import another.
func (r rule) forbids(from, to string) bool {
	bad := matchAny(r.Never, to) || r.Only != nil && !matchAny(r.Only, to)
	if !bad {
		return false
	}
	if h := home(r.Within, from); h != "" && h == home(r.Within, to) {
		return false
	}
	for _, e := range exceptions() {
		if e.Rule == r.ID && match(e.From, from) && match(e.To, to) {
			return false
		}
	}
	return true
}

// reach returns the shortest way from an imported package of the repository to
// one that the rule forbids to from, nil where there is none. It does not pass
// through packages that the rule governs: those are reported themselves.
func (t *tree) reach(r rule, from, start string) []string {
	before := map[string]string{start: ""}
	for queue := []string{start}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if t.pkgs[at] == nil || r.governs(at) {
			continue
		}
		for _, next := range t.production(at) {
			if _, seen := before[next]; seen {
				continue
			}
			before[next] = at
			if !r.forbids(from, next) {
				queue = append(queue, next)
				continue
			}
			var chain []string
			for p := next; p != ""; p = before[p] {
				chain = append(chain, p)
			}
			slices.Reverse(chain)
			return chain
		}
	}
	return nil
}

// production lists what a package imports when it is built, sorted.
func (t *tree) production(name string) []string {
	var out []string
	for _, f := range t.pkgs[name].files {
		if f.test {
			continue
		}
		for _, a := range f.imports {
			out = append(out, a.to)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// breaks says what in a node breaks the rule, "" for nothing.
func (r rule) breaks(f *file, n ast.Node) string {
	switch n := n.(type) {
	case *ast.GoStmt:
		if slices.Contains(r.Syntax, "go") {
			return "starts a goroutine"
		}
	case *ast.FuncDecl:
		if n.Recv == nil && n.Name.Name == "init" && slices.Contains(r.Syntax, "init") {
			return "declares func init"
		}
	case *ast.ImportSpec:
		if n.Name != nil && n.Name.Name == "." && slices.Contains(r.Syntax, "dot") {
			return "imports " + n.Path.Value + " with a dot"
		}
	case *ast.BasicLit:
		if n.Kind != token.STRING || len(r.Text) == 0 {
			return ""
		}
		text, err := strconv.Unquote(n.Value)
		if err == nil && slices.ContainsFunc(r.Text, func(begin string) bool { return strings.HasPrefix(text, begin) }) {
			return fmt.Sprintf("spells %q", text)
		}
	case *ast.SelectorExpr:
		if name := f.qualified(n); name != "" && slices.ContainsFunc(r.Uses, func(use string) bool { return matchName(use, name) }) {
			return "uses " + name
		}
	}
	return ""
}

// qualified writes a selector on an imported package as importpath.Name, "" for
// any other selector. It is told by spelling alone: a variable that has the name
// of an imported package is taken for the package.
func (f *file) qualified(s *ast.SelectorExpr) string {
	id, ok := s.X.(*ast.Ident)
	if !ok {
		return ""
	}
	for _, a := range f.imports {
		if a.as == id.Name {
			return a.to + "." + s.Sel.Name
		}
	}
	return ""
}

// matchName compares importpath.Name with a pattern that may have * in Name.
func matchName(pattern, name string) bool {
	dot, patternDot := strings.LastIndex(name, "."), strings.LastIndex(pattern, ".")
	if name[:dot] != pattern[:patternDot] {
		return false
	}
	ok, err := path.Match(pattern[patternDot+1:], name[dot+1:])
	return err == nil && ok
}
