package errs_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"testing"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestTheTextBeginsWithTheCatalogueID(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"LS-ROL-001: rollout r1 is unknown": errs.New(errs.NotFound, "LS-ROL-001", "rollout %s is unknown", "r1"),
		"no answer: EOF":                    errs.New(errs.Unavailable, "", "no answer: %w", io.EOF),
	} {
		if got := err.Error(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAnErrorUnwrapsToEveryCause(t *testing.T) {
	t.Parallel()
	one := errs.New(errs.Unavailable, "", "reading: %w", io.EOF)
	two := errs.New(errs.Unavailable, "", "reading: %w, then %w", io.EOF, fs.ErrClosed)
	for _, c := range []struct {
		err, cause error
		want       bool
	}{
		{one, io.EOF, true},
		{one, fs.ErrClosed, false},
		{two, io.EOF, true},
		{two, fs.ErrClosed, true},
		{fmt.Errorf("loading: %w", two), fs.ErrClosed, true},
		{errs.New(errs.Invalid, "", "plain"), io.EOF, false},
	} {
		if got := errors.Is(c.err, c.cause); got != c.want {
			t.Errorf("errors.Is(%q, %q) = %t", c.err, c.cause, got)
		}
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	conflict := errs.New(errs.Conflict, "LS-ROL-002", "busy")
	for name, c := range map[string]struct {
		err  error
		want errs.Kind
	}{
		"its own":           {conflict, errs.Conflict},
		"wrapped":           {fmt.Errorf("starting: %w", conflict), errs.Conflict},
		"among joined ones": {errors.Join(io.EOF, conflict), errs.Conflict},
		"the outermost":     {errs.New(errs.Invalid, "", "bad: %w", conflict), errs.Invalid},
		"of a stranger":     {io.EOF, errs.Internal},
	} {
		if got := errs.KindOf(c.err); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestIDOf(t *testing.T) {
	t.Parallel()
	conflict := errs.New(errs.Conflict, "LS-ROL-002", "busy")
	plain := errs.New(errs.Unavailable, "", "no answer: %w", io.EOF)
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"its own":                      {conflict, "LS-ROL-002"},
		"wrapped":                      {fmt.Errorf("starting: %w", conflict), "LS-ROL-002"},
		"the outermost":                {errs.New(errs.Invalid, "LS-API-009", "bad: %w", conflict), "LS-API-009"},
		"below one without":            {errs.New(errs.Invalid, "", "bad: %w", conflict), "LS-ROL-002"},
		"beside one without":           {errors.Join(io.EOF, plain, conflict), "LS-ROL-002"},
		"the first of several":         {errors.Join(conflict, errs.New(errs.Invalid, "LS-API-009", "bad")), "LS-ROL-002"},
		"beside one without in one %w": {fmt.Errorf("%w, then %w", plain, conflict), "LS-ROL-002"},
		"of one without":               {plain, ""},
		"of a stranger":                {io.EOF, ""},
		"of nothing":                   {nil, ""},
	} {
		if got := errs.IDOf(c.err); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestEveryKindIsListedOnce(t *testing.T) {
	t.Parallel()
	src, err := parser.ParseFile(token.NewFileSet(), "errs.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var declared []errs.Kind
	ast.Inspect(src, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if name, ok := spec.Type.(*ast.Ident); ok && name.Name == "Kind" {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Error(err)
			}
			declared = append(declared, errs.Kind(text))
		}
		return false
	})
	if got := errs.Kinds(); !slices.Equal(got, declared) {
		t.Errorf("listed %v, declared %v", got, declared)
	}
}
