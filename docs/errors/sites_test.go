package catalogue_test

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	catalogue "github.com/lockstep-fleet/lockstep/docs/errors"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// root is the repository.
const root = "../.."

// site is a place in the product's code that speaks of an id.
type site struct {
	at string // file and line
	id string
	// raises is true where an error or a problem gets the id; else it is only
	// mentioned, as in a text that points to a page.
	raises bool
	// kind is empty where the code does not show it.
	kind errs.Kind
}

// source is the product's code with what must be known of all of it to read one
// file.
type source struct {
	files *token.FileSet
	trees []*ast.File
	// ids maps constants to the ids that they name.
	ids map[string]string
	// kinds maps the constants of kit/errs to their values.
	kinds map[string]errs.Kind
}

func TestEveryIDInTheCodeHasAPageAndEveryPageAnID(t *testing.T) {
	t.Parallel()
	code := &source{files: token.NewFileSet(), ids: make(map[string]string), kinds: make(map[string]errs.Kind)}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && foreign(path):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		return code.add(path, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range judge(code.sites(), catalogue.All()) {
		t.Error(problem)
	}
}

// foreign says whether a folder holds no code of the product: what tests, tools
// and people use, and what is generated.
func foreign(path string) bool {
	rel, name := strings.TrimPrefix(path, root+"/"), filepath.Base(path)
	return slices.Contains([]string{"docs", "integration", "tools", "bin", "proto/gen"}, rel) ||
		name == "testdata" || name == "node_modules" || strings.HasSuffix(name, "test") ||
		strings.HasPrefix(name, ".") && path != root
}

// judge lists what is wrong between the code and the pages.
func judge(sites []site, pages []catalogue.Page) []string {
	var problems []string
	known := make(map[string]catalogue.Page)
	for _, p := range pages {
		known[p.ID] = p
	}
	raised := make(map[string]bool)
	for _, s := range sites {
		p, ok := known[s.id]
		switch {
		case !ok:
			problems = append(problems, fmt.Sprintf("%s: %s has no page; write docs/errors/%s.md", s.at, s.id, s.id))
		case s.kind != "" && s.kind != p.Kind:
			problems = append(problems, fmt.Sprintf("%s: %s is of kind %s here and %s on its page; an id names one problem", s.at, s.id, s.kind, p.Kind))
		}
		raised[s.id] = raised[s.id] || s.raises
	}
	for _, p := range pages {
		if !raised[p.ID] {
			problems = append(problems, fmt.Sprintf("docs/errors/%s.md: nothing raises %s; remove the page and do not use the number again", p.ID, p.ID))
		}
	}
	slices.Sort(problems)
	return slices.Compact(problems) // a call and its literal are one place
}

func (s *source) add(path string, text any) error {
	tree, err := parser.ParseFile(s.files, path, text, parser.SkipObjectResolution|parser.ParseComments)
	if err != nil {
		return err
	}
	if ast.IsGenerated(tree) {
		return nil
	}
	s.trees = append(s.trees, tree)
	for _, decl := range tree.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			v := spec.(*ast.ValueSpec)
			for i, name := range v.Names {
				if i >= len(v.Values) {
					continue
				}
				text, ok := literal(v.Values[i])
				if ok && idAlone(text) {
					s.ids[name.Name] = text
				}
				if ok && tree.Name.Name == "errs" {
					s.kinds[name.Name] = errs.Kind(text)
				}
			}
		}
	}
	return nil
}

// sites returns every place, in the order of the files.
func (s *source) sites() []site {
	var out []site
	for _, tree := range s.trees {
		ast.Inspect(tree, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if id, kind, ok := s.raise(n); ok {
					out = append(out, site{s.at(n), id, true, kind})
				}
			case *ast.BasicLit:
				text, ok := literal(n)
				if !ok {
					break
				}
				for _, id := range regexp.MustCompile(`\bLS-[A-Z]{3}-[0-9]{3}\b`).FindAllString(text, -1) {
					out = append(out, site{s.at(n), id, text == id || strings.HasPrefix(text, id+": "), ""})
				}
			}
			return true
		})
	}
	slices.SortStableFunc(out, func(a, b site) int { return cmp.Compare(a.at, b.at) })
	return out
}

// raise reads a call of errs.New that gives an id.
func (s *source) raise(call *ast.CallExpr) (id string, kind errs.Kind, ok bool) {
	if fun, ok := call.Fun.(*ast.SelectorExpr); !ok || fun.Sel.Name != "New" || len(call.Args) < 3 || nameOf(fun.X) != "errs" {
		return "", "", false
	}
	kind = s.kinds[nameOf(call.Args[0])]
	if id, ok = literal(call.Args[1]); !ok {
		id = s.ids[nameOf(call.Args[1])]
	}
	return id, kind, id != ""
}

func (s *source) at(n ast.Node) string {
	at := s.files.Position(n.Pos())
	return fmt.Sprintf("%s:%d", strings.TrimPrefix(at.Filename, root+"/"), at.Line)
}

// nameOf is the last part of a name, as in errs.Invalid.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

func idAlone(text string) bool { return regexp.MustCompile(`^LS-[A-Z]{3}-[0-9]{3}$`).MatchString(text) }

func TestWhatIsWrongBetweenCodeAndPagesIsNoticed(t *testing.T) {
	t.Parallel()
	code := &source{files: token.NewFileSet(), ids: make(map[string]string), kinds: make(map[string]errs.Kind)}
	for name, text := range map[string]string{
		"kit/errs/errs.go": `package errs; const ( Invalid Kind = "invalid"; Conflict Kind = "conflict" )`,
		"a/names.go":       `package a; const Busy = "LS-TST-001"`,
		"a/use.go": `package a
func f(k errs.Kind) {
	errs.New(errs.Conflict, Busy, "busy")
	errs.New(errs.Invalid, names.Busy, "busy")
	errs.New(k, "LS-TST-002", "any kind")
	errs.New(errs.Invalid, "LS-TST-3", "not an id")
	errs.New(errs.Invalid, "", "no id")
	refuse("LS-TST-004: by hand")
	print("lockstep explain LS-TST-005 and LS-TST-006")
}`,
	} {
		if err := code.add(name, text); err != nil {
			t.Fatal(err)
		}
	}
	page := func(id string, kind errs.Kind) catalogue.Page { return catalogue.Page{ID: id, Kind: kind} }
	got := judge(code.sites(), []catalogue.Page{
		page("LS-TST-001", errs.Conflict), page("LS-TST-002", errs.Invalid), page("LS-TST-004", errs.Invalid), page("LS-TST-005", errs.Invalid),
	})
	want := []string{
		"a/use.go:4: LS-TST-001 is of kind invalid here and conflict on its page; an id names one problem",
		"a/use.go:6: LS-TST-3 has no page; write docs/errors/LS-TST-3.md",
		"a/use.go:9: LS-TST-006 has no page; write docs/errors/LS-TST-006.md",
		"docs/errors/LS-TST-005.md: nothing raises LS-TST-005",
	}
	if len(got) != len(want) {
		t.Fatalf("found %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("found %q, want %q", got[i], want[i])
		}
	}
}

func TestTheDocumentsSpeakOfKnownIDs(t *testing.T) {
	t.Parallel()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && path != root):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".md"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, id := range regexp.MustCompile(`\bLS-[A-Z]{3}-[0-9]{3}\b`).FindAllString(string(text), -1) {
			if _, ok := catalogue.Lookup(id); !ok {
				t.Errorf("%s: there is no page of %s", strings.TrimPrefix(path, root+"/"), id)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
