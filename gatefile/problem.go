package gatefile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Severity says what a problem keeps a document from.
type Severity string

const (
	// Error: no rollout can be judged by the document.
	Error Severity = "error"
	// Warning: it can be used, and probably says something else than was meant.
	Warning Severity = "warning"
)

// Problem is one thing wrong with a document.
type Problem struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`   // counted from 1, 0 when unknown
	Column   int      `json:"column"` // in letters, counted from 1, 0 when unknown
	Severity Severity `json:"severity"`
	Key      string   `json:"key"`  // such as policies[0].step.deadline, empty for the whole document
	Text     string   `json:"text"` // what is wrong and what to do
}

// String words the problem as compilers do: "file:line:column: error: key: text".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	for _, n := range []int{p.Line, p.Column} {
		if n > 0 {
			fmt.Fprintf(&b, ":%d", n)
		}
	}
	fmt.Fprintf(&b, ": %s: ", p.Severity)
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	return b.String() + p.Text
}

// Problems is everything wrong with a document, in the order of its lines.
type Problems []Problem

// Errors returns those that keep the document from being used.
func (p Problems) Errors() Problems {
	return slices.DeleteFunc(slices.Clone(p), func(one Problem) bool { return one.Severity != Error })
}

// Error lists the problems, one a line, behind their catalogue id.
func (p Problems) Error() string { return p.Unwrap().Error() }

// Unwrap gives the problems as an error with a kind and a catalogue id.
func (p Problems) Unwrap() error {
	const shown = 100 // a mistake may repeat itself in each of many policies
	if len(p) == 1 {
		return errs.New(errs.Invalid, "LS-GAT-010", "the policies are not acceptable: %s", p[0])
	}
	lines := []string{fmt.Sprintf("the policies have %d problems:", len(p))}
	for i, one := range p {
		if i == shown {
			lines = append(lines, fmt.Sprintf("  and %d more", len(p)-shown))
			break
		}
		lines = append(lines, "  "+one.String())
	}
	return errs.New(errs.Invalid, "LS-GAT-010", "%s", strings.Join(lines, "\n"))
}

// sorted returns the problems in the order of the document, each once: policies
// that take a mistake over from another do not make it again.
func (p Problems) sorted() Problems {
	out := make(Problems, 0, len(p))
	known := make(map[Problem]bool, len(p))
	for _, one := range p {
		same := one
		same.Key = ""
		if one.Line == 0 {
			same.Key = one.Key
		}
		if !known[same] {
			known[same] = true
			out = append(out, one)
		}
	}
	slices.SortStableFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return out
}
