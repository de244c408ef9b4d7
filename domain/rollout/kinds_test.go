package rollout_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// A kind that Kinds forgets would be forgotten by every test that goes through
// them, so the source itself is asked which types say that they are one.
func TestKindsAreAllThatAreDeclared(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "facts.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var declared []string
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv != nil && f.Name.Name == "kind" {
			declared = append(declared, f.Recv.List[0].Type.(*ast.Ident).Name)
		}
	}
	var listed []string
	for _, k := range rollout.Kinds() {
		listed = append(listed, kindName(k))
	}
	if diff := cmp.Diff(declared, listed); diff != "" {
		t.Errorf("facts.go declares kinds that Kinds does not list (-declared +listed):\n%s", diff)
	}
}

func kindName(k rollout.Kind) string { return strings.TrimPrefix(fmt.Sprintf("%T", k), "rollout.") }
