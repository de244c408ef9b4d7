package gatefile_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/gatefile"
)

// TestTheReferenceIsCurrent compares the tables of the reference with the code.
func TestTheReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "docs", "reference", "gatepolicy.md")
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(have)
	for name, table := range map[string]string{"keys": gatefile.KeyTable(), "presets": gatefile.PresetTable(), "figures": figureTable(t)} {
		part := regexp.MustCompile(`(?s)(<!-- ` + name + `: [^\n]* -->\n).*?\n(\n)`)
		if !part.MatchString(want) {
			t.Errorf("%s has no table of %s", path, name)
		}
		want = part.ReplaceAllLiteralString(want, "<!-- "+name+": go test ./gatefile -update -->\n"+table+"\n")
	}
	current(t, path, want)
}

// TestTheExamplesOfTheReference reads every document that the reference shows.
func TestTheExamplesOfTheReference(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "reference", "gatepolicy.md"))
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(examples) < 2 {
		t.Fatalf("%d examples", len(examples))
	}
	for _, example := range examples {
		if problems := lint(t, example[1], 200); len(problems) > 0 {
			t.Errorf("%s\n%s", worded(problems), example[1])
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]*)` \\| [^|]* \\|$").FindAllStringSubmatch(section(t, string(text), "## House rules"), -1) {
		if _, err := gatefile.Compile(gate.Rule{Name: "x", When: row[1]}); err != nil {
			t.Error(err)
		}
	}
}

// section is what stands below a heading, up to the next.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, heading+"\n")
	if !found {
		t.Fatalf("no %s", heading)
	}
	part, _, _ := strings.Cut(rest, "\n## ")
	return part
}

// figureTable takes what each figure means from the comment beside its name.
func figureTable(t *testing.T) string {
	t.Helper()
	files := token.NewFileSet()
	meant := make(map[gate.CheckName]map[string]string)
	paths, err := filepath.Glob(filepath.Join("..", "domain", "gate", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		file, err := parser.ParseFile(files, path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "Figures" {
				comments(files, file, fn, meant)
			}
		}
	}
	var b strings.Builder
	b.WriteString("| figure | what it counts |\n|---|---|\n")
	for _, check := range gate.CheckNames() {
		if len(meant[check]) != len(gate.Figures()[check]) {
			t.Errorf("%s (-figures +explained):\n%s", check, cmp.Diff(gate.Figures()[check], meant[check]))
		}
		for _, name := range gate.Figures()[check] {
			if meant[check][name] == "" {
				t.Errorf("%s.%s is not explained beside its name in gate.Figures", check, name)
			}
			fmt.Fprintf(&b, "| `%s.%s` | %s |\n", check, name, meant[check][name])
		}
	}
	return b.String()
}

// comments reads the map literal of a function whose values are lists of names, each
// with a comment on its line.
func comments(files *token.FileSet, file *ast.File, fn *ast.FuncDecl, into map[gate.CheckName]map[string]string) {
	beside := make(map[int]string)
	for _, group := range file.Comments {
		beside[files.Position(group.Pos()).Line] = strings.TrimSpace(group.Text())
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		pair, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		key, isName := pair.Key.(*ast.Ident)
		list, isList := pair.Value.(*ast.CompositeLit)
		if !isName || !isList {
			return true
		}
		check := gate.CheckName(strings.ToLower(strings.TrimPrefix(key.Name, "Check")))
		into[check] = make(map[string]string)
		for _, element := range list.Elts {
			if literal, ok := element.(*ast.BasicLit); ok {
				if name, err := strconv.Unquote(literal.Value); err == nil {
					into[check][name] = beside[files.Position(literal.Pos()).Line]
				}
			}
		}
		return false
	})
}
