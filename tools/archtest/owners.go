package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
)

// ownersRule is the rule that needs to read topology and not only its imports.
const ownersRule = "one-owner"

const topologyPackage = "./topology"

// owners checks what topology declares, as text: the streams and buckets that it
// lists have an owner and are listed once, and a service builds event subjects
// only for nouns that NounOwners gives to it. Which service writes which table
// cannot be told from imports; topology's own tests compare its listing.
func (t *tree) owners(r rule) []violation {
	p := t.pkgs[topologyPackage]
	if p == nil {
		return nil
	}
	var found []violation
	constants := p.constants()
	first := map[string]token.Position{}
	for _, f := range p.files {
		if f.test {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			at := t.fset.Position(lit.Pos())
			report := func(format string, args ...any) {
				found = append(found, violation{file: f.path, line: at.Line, what: fmt.Sprintf(format, args...), rule: r})
			}
			kind, entries := declared(lit)
			for _, entry := range entries {
				fields := fieldsOf(entry)
				name, isNamed := constants.text(fields["Name"])
				if !isNamed {
					continue
				}
				at = t.fset.Position(entry.Pos())
				if owner, ok := fields["Owner"]; !ok || isEmpty(constants, owner) {
					report("./topology lists %s %q without an owner", kind, name)
				}
				key := kind + " " + name
				if before, twice := first[key]; twice {
					report("./topology lists %s %q again, first in line %d of %s", kind, name, before.Line, before.Filename)
					continue
				}
				first[key] = at
			}
			return true
		})
	}
	return append(found, t.foreignNouns(r, p.nounOwners(constants))...)
}

// foreignNouns finds calls in a service that build the subject of another
// service's noun.
func (t *tree) foreignNouns(r rule, owner map[string]string) []violation {
	var found []violation
	for name, p := range t.pkgs {
		service := strings.TrimPrefix(home("./services/*", name), "./services/")
		if service == "" {
			continue
		}
		for _, f := range p.files {
			if f.test {
				continue
			}
			ast.Inspect(f.syntax, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) < 2 {
					return true
				}
				fun, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || f.qualified(fun) != topologyPackage+".EventSubject" {
					return true
				}
				noun, ok := call.Args[1].(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if by := owner[noun.Sel.Name]; by != "" && by != service {
					found = append(found, violation{
						file: f.path, line: t.fset.Position(call.Pos()).Line, rule: r,
						what: fmt.Sprintf("%s builds a subject of %s, which %s owns", name, noun.Sel.Name, by),
					})
				}
				return true
			})
		}
	}
	return found
}

// nounOwners reads the map literal in func NounOwners: constant name → service.
func (p *pkg) nounOwners(constants constants) map[string]string {
	owner := map[string]string{}
	for _, f := range p.files {
		for _, d := range f.syntax.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Name.Name != "NounOwners" || f.test {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				kv, ok := n.(*ast.KeyValueExpr)
				if !ok {
					return true
				}
				noun, isIdent := kv.Key.(*ast.Ident)
				service, isText := constants.text(kv.Value)
				if isIdent && isText {
					owner[noun.Name] = service
				}
				return true
			})
		}
	}
	return owner
}

// constants are the string constants of a package by name.
type constants map[string]string

func (p *pkg) constants() constants {
	out := constants{}
	for _, f := range p.files {
		for _, d := range f.syntax.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.CONST {
				continue
			}
			for _, s := range decl.Specs {
				spec, ok := s.(*ast.ValueSpec)
				if !ok {
					continue
				}
				for i, id := range spec.Names {
					if i < len(spec.Values) {
						if text, ok := out.text(spec.Values[i]); ok {
							out[id.Name] = text
						}
					}
				}
			}
		}
	}
	return out
}

// text returns the value of a string literal or of a constant.
func (c constants) text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		return text, err == nil && e.Kind == token.STRING
	case *ast.Ident:
		text, ok := c[e.Name]
		return text, ok
	}
	return "", false
}

func isEmpty(c constants, e ast.Expr) bool {
	text, known := c.text(e)
	return known && text == ""
}

// declared returns the streams or buckets that a literal lists: the elements of
// []bus.Stream{…}, or bus.Stream{…} itself; none for any other literal.
func declared(lit *ast.CompositeLit) (kind string, entries []*ast.CompositeLit) {
	switch typ := lit.Type.(type) {
	case *ast.ArrayType:
		kind = typeName(typ.Elt)
		for _, e := range lit.Elts {
			if entry, ok := e.(*ast.CompositeLit); ok && entry.Type == nil {
				entries = append(entries, entry)
			}
		}
	case nil: // an element of a list, counted there
	default:
		kind, entries = typeName(typ), []*ast.CompositeLit{lit}
	}
	if kind != "Stream" && kind != "Bucket" {
		return "", nil
	}
	return kind, entries
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func fieldsOf(lit *ast.CompositeLit) map[string]ast.Expr {
	out := map[string]ast.Expr{}
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok {
				out[key.Name] = kv.Value
			}
		}
	}
	return out
}
