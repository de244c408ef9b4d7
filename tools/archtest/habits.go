package main

import (
	"go/ast"
	"slices"
)

// habits are the checks that look at all files of a package together; each says
// what is missing, "" for nothing.
func habits() map[string]func(*pkg) string {
	return map[string]func(*pkg) string{"leaks": unwatched}
}

// unwatched finds goroutines in a package whose tests would not notice a leak.
func unwatched(p *pkg) string {
	starts, watched := false, false
	for _, f := range p.files {
		if f.test {
			watched = watched || slices.ContainsFunc(f.imports, func(a arrow) bool { return a.to == "go.uber.org/goleak" || a.to == "testing/synctest" })
			continue
		}
		if f.helps {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				starts = true
			case *ast.CallExpr:
				// The Go methods of sync.WaitGroup and errgroup.Group.
				fun, ok := n.Fun.(*ast.SelectorExpr)
				starts = starts || ok && fun.Sel.Name == "Go"
			}
			return true
		})
	}
	if starts && !watched {
		return "starts goroutines, and its tests do not look for leaked ones"
	}
	return ""
}
