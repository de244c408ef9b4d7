package cli_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	catalogue "github.com/lockstep-fleet/lockstep/docs/errors"
)

func TestExplainTakesAnIDAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	page, ok := catalogue.Lookup("LS-ROL-001")
	if !ok {
		t.Fatal("the catalogue has no LS-ROL-001")
	}
	for _, id := range []string{"LS-ROL-001", "ls-rol-1", "ROL-001", "rol1", "LS_ROL_001", " LS-ROL-001:", "ls-rol-0001"} {
		got := runWith(t, t.Context(), "", "explain", id)
		got.wants(t, 0, "")
		if got.out != page.Text || !strings.HasPrefix(got.out, "# LS-ROL-001: ") {
			t.Errorf("%q printed %q", id, got.out)
		}
	}
}

func TestExplainForScripts(t *testing.T) {
	t.Parallel()
	page, _ := catalogue.Lookup("LS-ROL-001")
	want := map[string]string{"id": page.ID, "title": page.Title, "kind": string(page.Kind), "text": page.Text}
	same := func(got map[string]string) bool {
		return len(got) == len(want) && !slices.ContainsFunc([]string{"id", "title", "kind", "text"}, func(k string) bool { return got[k] != want[k] })
	}
	var one map[string]string
	if out := runWith(t, t.Context(), "", "explain", "rol-1", "-o", "json").out; json.Unmarshal([]byte(out), &one) != nil || !same(one) {
		t.Errorf("json %s", out)
	}
	one = nil
	if out := runWith(t, t.Context(), "", "explain", "rol-1", "-o", "yaml").out; yaml.Unmarshal([]byte(out), &one) != nil || !same(one) {
		t.Errorf("yaml %s", out)
	}
	if out := runWith(t, t.Context(), "", "explain", "rol-1", "-o", "name").out; out != "LS-ROL-001\n" {
		t.Errorf("name %s", out)
	}
	var all []map[string]string
	out := runWith(t, t.Context(), "", "explain", "-o", "json").out
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != len(catalogue.All()) || !slices.ContainsFunc(all, same) {
		t.Errorf("json lists %d of %d, %v", len(all), len(catalogue.All()), err)
	}
}

func TestExplainListsAll(t *testing.T) {
	t.Parallel()
	table := strings.Split(runWith(t, t.Context(), "", "explain").out, "\n")
	names := strings.Split(runWith(t, t.Context(), "", "explain", "-o", "name").out, "\n")
	pages := catalogue.All()
	if len(table) != len(pages)+2 || len(names) != len(pages)+1 || !strings.HasPrefix(table[0], "ID ") {
		t.Fatalf("%d lines in the table, %d names, %d pages", len(table), len(names), len(pages))
	}
	for i, p := range pages {
		if fields := strings.Fields(table[i+1]); fields[0] != p.ID || fields[1] != string(p.Kind) || !strings.HasSuffix(table[i+1], "   "+p.Title) {
			t.Errorf("line %d is %q, want %s", i, table[i+1], p.ID)
		}
		if names[i] != p.ID {
			t.Errorf("name %d is %q, want %s", i, names[i], p.ID)
		}
	}
}

func TestExplainNamesTheNearest(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"LS-ROX-001": "there is no error LS-ROX-001; the nearest are LS-ROL-001",
		"ls-rol-101": "there is no error LS-ROL-101; the nearest are LS-ROL-001",
		"help me":    `"help me" is not the id of an error`,
		"":           `"" is not the id of an error`,
	} {
		got := runWith(t, t.Context(), "", "explain", id)
		got.wants(t, 2, want)
		if got.out != "" {
			t.Errorf("%q printed %q", id, got.out)
		}
	}
	runWith(t, t.Context(), "", "explain", "LS-ROL-001", "LS-ROL-002").wants(t, 2, "takes one ID or none, got 2 arguments")
}

func TestExplainCompletesIDs(t *testing.T) {
	t.Parallel()
	page, _ := catalogue.Lookup("LS-ROL-001")
	got := runWith(t, t.Context(), "", "__complete", "explain", "ls-rol")
	if !strings.Contains(got.out, page.ID+"\t"+page.Title+"\n") || strings.Contains(got.out, "LS-GAT-") || !strings.Contains(got.out, ":4\n") {
		t.Errorf("completions:\n%s", got.out)
	}
	if got := runWith(t, t.Context(), "", "__complete", "explain", "LS-ROL-001", ""); got.out != ":4\n" {
		t.Errorf("a second id is offered: %s", got.out)
	}
}
