package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the want file of each fixture")

// Each fixture is a small repository; its file "want" lists what check finds.
// Together they must break every rule, so that no rule can fall asleep.
func TestFixtures(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		t.Fatalf("find fixtures: %v, %v", names, err)
	}
	var broken []string
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
		if at < 0 {
			t.Fatalf("%s has no file named want", name)
		}
		fsys, err := txtar.FS(archive)
		if err != nil {
			t.Fatal(err)
		}
		found, err := check(fsys)
		if err != nil {
			t.Fatalf("check %s: %v", name, err)
		}
		var got strings.Builder
		for _, v := range found {
			fmt.Fprintf(&got, "%s:%d: %s (%s)\n", v.file, v.line, v.what, v.rule.ID)
			broken = append(broken, v.rule.ID)
		}
		if *update {
			archive.Files[at].Data = []byte(got.String())
			if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if want := string(archive.Files[at].Data); got.String() != want {
			t.Errorf("%s:\n got:\n%swant:\n%s", name, got.String(), want)
		}
	}
	for _, r := range rules() {
		if !slices.Contains(broken, r.ID) {
			t.Errorf("no fixture breaks rule %s: add one, or nobody knows that it can fail", r.ID)
		}
	}
}

func TestRulesAreExplained(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range rules() {
		if r.ID == "" || r.Title == "" || r.Why == "" || r.Instead == "" {
			t.Errorf("rule %q lacks an id, title, reason or advice", r.ID)
		}
		if seen[r.ID] {
			t.Errorf("two rules have the id %s", r.ID)
		}
		seen[r.ID] = true
	}
	for _, e := range exceptions() {
		if !seen[e.Rule] {
			t.Errorf("the exception %s → %s names the rule %q, which does not exist", e.From, e.To, e.Rule)
		}
		if e.Why == "" {
			t.Errorf("the exception %s → %s has no reason", e.From, e.To)
		}
	}
}

func TestViolationSaysWhatToDo(t *testing.T) {
	t.Parallel()
	v := violation{file: "a/a.go", line: 3, what: "./a imports ./b", rule: rule{ID: "id", Title: "title", Why: "because", Instead: "do this"}}
	want := "a/a.go:3: ./a imports ./b\n    rule:    id: title\n    why:     because\n    instead: do this"
	if got := v.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"./domain/...", "./domain", true},
		{"./domain/...", "./domain/gate/deep", true},
		{"./domain/...", "./domains", false},
		{"./services/*/cmd/...", "./services/notifier/cmd/notifier", true},
		{"./services/*/cmd/...", "./services/notifier/internal/cmd", false},
		{"./.../cmd/...", "./cmd/lockstep", true},
		{"./.../cmd/...", "./integration/lab/cmd/labnode", true},
		{testHelper, "./domain/domaintest", true},
		{testHelper, "./domain/domaintest/deep", false},
		{"container/*", "container/heap", true},
		{"std", "net/http", true},
		{"std", "github.com/nats-io/nats.go", false},
		{"std", "./domain", false},
		{"k8s.io/...", "sigs.k8s.io/yaml", false},
	} {
		if got := match(c.pattern, c.name); got != c.want {
			t.Errorf("match(%q, %q) = %t, want %t", c.pattern, c.name, got, c.want)
		}
	}
}

func TestUnreadableTree(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ archive, want string }{
		"no module":    {"-- a.go --\npackage a\n", "with -C"},
		"empty go.mod": {"-- go.mod --\ngo 1.26\n", "no module line"},
		"broken file":  {"-- go.mod --\nmodule x.test\n-- a.go --\npackage\n", "a.go:"},
	} {
		fsys, err := txtar.FS(txtar.Parse([]byte(c.archive)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := check(fsys); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, c.want)
		}
	}
}
