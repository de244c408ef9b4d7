// Package catalogue owns the pages of this folder: one for each permanent error
// id, with what the error means and what to do. It does not own where errors
// arise; a test holds the pages against the code.
package catalogue

import (
	"embed"
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

//go:embed LS-*.md
var files embed.FS

// Page is what the catalogue says of one id.
type Page struct {
	// ID is permanent, such as "LS-ROL-003".
	ID string
	// Title names the problem in one line.
	Title string
	Kind  errs.Kind
	// Text is the whole page in Markdown.
	Text string
}

// Lookup returns the page of an id, written exactly so.
func Lookup(id string) (Page, bool) {
	all := All()
	i := slices.IndexFunc(all, func(p Page) bool { return p.ID == id })
	if i < 0 {
		return Page{}, false
	}
	return all[i], true
}

// All returns every page, in the order of the ids.
func All() []Page {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(fmt.Sprintf("catalogue: %v", err)) // the pages are a part of the program
	}
	pages := make([]Page, 0, len(entries))
	for _, e := range entries {
		text, err := files.ReadFile(e.Name())
		if err != nil {
			panic(fmt.Sprintf("catalogue: %v", err))
		}
		pages = append(pages, parse(strings.TrimSuffix(e.Name(), ".md"), string(text)))
	}
	return pages
}

// parse reads a page whose shape the tests of this folder have checked.
func parse(id, text string) Page {
	title, rest, _ := strings.Cut(text, "\n")
	kind, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(rest), "Kind: "), "\n")
	return Page{ID: id, Title: strings.TrimPrefix(title, "# "+id+": "), Kind: errs.Kind(kind), Text: text}
}
