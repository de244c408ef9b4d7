package catalogue_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	catalogue "github.com/lockstep-fleet/lockstep/docs/errors"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

var update = flag.Bool("update", false, "write README.md anew")

func TestEveryPageHasTheShape(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".md") || e.Name() == "README.md" {
			continue
		}
		text, err := os.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if problem := misshapen(e.Name(), string(text)); problem != "" {
			t.Errorf("%s: %s", e.Name(), problem)
		}
	}
}

func TestAPageOfAnotherShapeIsNoticed(t *testing.T) {
	t.Parallel()
	const good = "# LS-TST-001: It is broken\n\nKind: invalid\n\nIt broke.\n\nTwice.\n\n## What to do\n\nType `mend`.\n"
	if problem := misshapen("LS-TST-001.md", good); problem != "" {
		t.Fatal(problem)
	}
	for name, c := range map[string]struct{ file, old, new string }{
		"another name":         {"LS-TST-002.md", "", ""},
		"no id for a name":     {"LS-TS-001.md", "", ""},
		"a full stop":          {"", "broken\n", "broken.\n"},
		"no title":             {"", "It is broken", ""},
		"a title of two lines": {"", "It is broken", "It is\nbroken"},
		"no kind":              {"", "Kind: invalid\n\n", ""},
		"a kind of its own":    {"", "invalid", "odd"},
		"no meaning":           {"", "It broke.\n\nTwice.\n\n", ""},
		"a long meaning":       {"", "Twice.", "Twice.\n\nAnd again."},
		"nothing to do":        {"", "Type `mend`.\n", ""},
		"nothing to type":      {"", "`mend`", "it"},
		"one more heading":     {"", "Type", "## Else\n\nType"},
		"no last line end":     {"", "`mend`.\n", "`mend`."},
		"space at an end":      {"", "broke.", "broke. "},
	} {
		file := c.file
		if file == "" {
			file = "LS-TST-001.md"
		}
		if misshapen(file, strings.Replace(good, c.old, c.new, 1)) == "" {
			t.Errorf("%s passed", name)
		}
	}
}

// misshapen says in what a page departs from the shape that all have, "" when it
// does not.
func misshapen(file, text string) string {
	id := strings.TrimSuffix(file, ".md")
	if !regexp.MustCompile(`^LS-[A-Z]{3}-[0-9]{3}$`).MatchString(id) {
		return "the name is not an id"
	}
	title, rest, _ := strings.Cut(text, "\n\n")
	kind, rest, _ := strings.Cut(rest, "\n\n")
	meaning, remedy, _ := strings.Cut(rest, "\n\n## What to do\n\n")
	name, given := strings.CutPrefix(title, "# "+id+": ")
	switch {
	case !given || name == "" || strings.HasSuffix(name, ".") || strings.Contains(name, "\n"):
		return fmt.Sprintf("the first line is not %q with a title in one line and without a full stop", "# "+id+": ")
	case !slices.Contains(errs.Kinds(), errs.Kind(strings.TrimPrefix(kind, "Kind: "))) || !strings.HasPrefix(kind, "Kind: "):
		return fmt.Sprintf("the third line is not \"Kind: \" with one of %v", errs.Kinds())
	case strings.TrimSpace(meaning) == "" || strings.HasPrefix(meaning, "#") || strings.Count(meaning, "\n\n") > 1:
		return "one or two paragraphs must say what it means"
	case strings.TrimSpace(remedy) == "" || !strings.Contains(remedy, "`"):
		return "below \"## What to do\" nothing says what to type"
	case strings.Count("\n"+text, "\n#") != 2:
		return "there is a heading too many"
	case !strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\n\n"):
		return "it does not end with one line end"
	case regexp.MustCompile(`(?m)[ \t]$`).MatchString(text):
		return "a line ends with space"
	}
	return ""
}

func TestPagesCanBeLookedUp(t *testing.T) {
	t.Parallel()
	all := catalogue.All()
	if len(all) == 0 || !slices.IsSortedFunc(all, func(a, b catalogue.Page) int { return strings.Compare(a.ID, b.ID) }) {
		t.Fatalf("%d pages, in order or not", len(all))
	}
	titles := make(map[string]string)
	for _, want := range all {
		if got, ok := catalogue.Lookup(want.ID); !ok || got != want {
			t.Errorf("%s is looked up as %+v", want.ID, got)
		}
		if head := "# " + want.ID + ": " + want.Title + "\n\nKind: " + string(want.Kind) + "\n\n"; !strings.HasPrefix(want.Text, head) {
			t.Errorf("%s: the page does not begin with %q", want.ID, head)
		}
		if other := titles[want.Title]; other != "" {
			t.Errorf("%s and %s have the same title, so they are one problem", other, want.ID)
		}
		titles[want.Title] = want.ID
	}
	if got, ok := catalogue.Lookup("LS-TST-999"); ok {
		t.Errorf("an unknown id gives %+v", got)
	}
}

// families says what each part of the catalogue is about, in the order in which
// the index lists them.
func families() [][2]string {
	return [][2]string{
		{"CFG", "the configuration"},
		{"SRV", "the server process and its data directory"},
		{"ENG", "the embedded engine"},
		{"STO", "the store"},
		{"BUS", "the message bus"},
		{"API", "calls"},
		{"FLT", "the declared fleet"},
		{"CAT", "the catalogue of releases"},
		{"REL", "reading releases"},
		{"DRF", "drift, its history and baselines"},
		{"ROL", "rollouts"},
		{"GAT", "gates"},
		{"CMP", "Docker and Compose"},
		{"KUB", "Kubernetes, and what Helm has on record"},
		{"HLM", "Helm, as rollouts use it"},
		{"COL", "the collector and its spool"},
		{"PRB", "probes and health checks"},
		{"PIP", "recordings and log forwarding"},
		{"VEN", "the vendor's API"},
		{"NOT", "notices"},
	}
}

func TestTheIndexListsEveryPage(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(`# Errors

Each error that people may meet carries an id that never changes and is never used again for anything else. The text beside an id may
change, so scripts look at the id, or at the kind. ` + "`lockstep explain ID`" + ` prints an error's page; ` + "`lockstep explain`" + ` lists them all.

This list is made from the pages: ` + "`go test ./docs/errors -update`" + ` writes it anew.
`)
	listed := 0
	for _, f := range families() {
		heading := fmt.Sprintf("\n## %s: %s\n\n| id | what is wrong | kind |\n|---|---|---|\n", f[0], f[1])
		for _, p := range catalogue.All() {
			if strings.HasPrefix(p.ID, "LS-"+f[0]+"-") {
				b.WriteString(heading + fmt.Sprintf("| [%s](%s.md) | %s | %s |\n", p.ID, p.ID, p.Title, p.Kind))
				heading = ""
				listed++
			}
		}
	}
	if all := len(catalogue.All()); listed != all {
		t.Errorf("%d of %d pages are of a family that families() knows", listed, all)
	}
	if *update {
		if err := os.WriteFile("README.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), b.String()); diff != "" {
		t.Errorf("README.md (-have +want), -update writes it anew:\n%s", diff)
	}
}
