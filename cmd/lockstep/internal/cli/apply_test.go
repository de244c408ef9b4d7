package cli_test

import (
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

func someChanges() *fleetv1.ApplyFleetResponse {
	return &fleetv1.ApplyFleetResponse{
		Changes: []*fleetv1.FleetChange{
			{Kind: "cluster", Id: "berlin", Action: "unchanged"},
			{Kind: "cluster", Id: "oslo", Action: "created", Lines: []string{"+ id: oslo", "+ release: 5.0.1"}},
			{Kind: "cluster", Id: "paris", Action: "updated", Lines: []string{"- release: 5.0.1", "+ release: 5.1.0\x1b[2J"}},
			{Kind: "cluster", Id: "rome", Action: "removed", Lines: []string{"- id: rome"}},
			{Kind: "drift", Action: "updated", Lines: []string{"+ dark_after: 5m"}},
		},
		PassedOver: []string{"server", "vendor"},
	}
}

func noChanges() *fleetv1.ApplyFleetResponse {
	return &fleetv1.ApplyFleetResponse{Changes: []*fleetv1.FleetChange{{Kind: "cluster", Id: "berlin", Action: "unchanged"}}}
}

const aDocument = "clusters: [{id: berlin}]\n"

func TestApplyDryRun(t *testing.T) {
	t.Parallel()
	path := file(t, "fleet.yaml", aDocument)
	for name, tc := range map[string]struct {
		res  *fleetv1.ApplyFleetResponse
		args []string
		code int
		talk string
	}{
		"apply-dry.txt":      {someChanges(), nil, 0, "Passed over, as they are the server's own: server, vendor.\n"},
		"apply-dry.json":     {someChanges(), []string{"-o", "json", "--exit-code"}, 3, "lockstep: 4 changes would be made\n"},
		"apply-dry-name.txt": {someChanges(), []string{"-o", "name"}, 0, ""},
		"apply-dry-same.txt": {noChanges(), []string{"--exit-code", "--no-input"}, 0, ""},
	} {
		f := serve(t, &fake{changes: tc.res})
		got := f.run(t, append([]string{"apply", "-f", path, "--dry-run", "--prune", "--reason", "x"}, tc.args...)...)
		got.wants(t, tc.code, tc.talk)
		golden(t, name, got.out)
		askedFor(t, f, &fleetv1.ApplyFleetRequest{Document: aDocument, DryRun: true, Prune: true, Reason: "x"})
		if len(f.asked) != 1 {
			t.Errorf("%s: %d requests", name, len(f.asked))
		}
	}
}

func TestApplyShowsAndAsks(t *testing.T) {
	t.Parallel()
	path := file(t, "fleet.yaml", aDocument)
	for name, tc := range map[string]struct {
		res  *fleetv1.ApplyFleetResponse
		in   string
		args []string
		code int
		talk string
		done bool
	}{
		"yes":               {someChanges(), "y\n", []string{"-f", path}, 0, "  + release: 5.1.0[2J\n", true},
		"the question":      {someChanges(), "y\n", []string{"-f", path}, 0, "Make these 4 changes? [y/N]", true},
		"no":                {someChanges(), "n\n", []string{"-f", path}, 1, "not confirmed, so nothing was done", false},
		"silence":           {someChanges(), "", []string{"-f", path}, 1, "there was no answer, so nothing was done; --yes", false},
		"not asked":         {someChanges(), "", []string{"-f", path, "--yes"}, 0, "cluster/paris updated", true},
		"nothing to do":     {noChanges(), "", []string{"-f", path}, 0, "1 unchanged\n", false},
		"standard input":    {someChanges(), aDocument, []string{"-f", "-", "-y"}, 0, "", true},
		"nobody to ask":     {someChanges(), aDocument, []string{"-f", "-"}, 2, "standard input holds the document, so nothing can be asked there; give --yes", false},
		"no input":          {someChanges(), "y\n", []string{"-f", path, "--no-input"}, 2, "--no-input forbids asking", false},
		"no file":           {someChanges(), "", []string{"-y"}, 2, "say which document: -f FILE", false},
		"a code of nothing": {someChanges(), "", []string{"-f", path, "-y", "--exit-code"}, 2, "--exit-code tells what --dry-run finds; give both", false},
		"an empty document": {someChanges(), " \n", []string{"-f", "-", "-y"}, 1, "read the document: - is empty; `lockstep export` writes one", false},
		"no such file":      {someChanges(), "", []string{"-f", filepath.Join(filepath.Dir(path), "x"), "-y"}, 1, "read the document: open", false},
		"a large document":  {someChanges(), strings.Repeat("#", 4<<20), []string{"-f", "-", "-y"}, 1, "larger than one request may be, about 4 MiB", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, &fake{changes: tc.res})
			got := f.answer(t, tc.in, append([]string{"apply"}, tc.args...)...)
			got.wants(t, tc.code, tc.talk)
			done := len(f.asked) == 2 && !f.asked[1].(*fleetv1.ApplyFleetRequest).GetDryRun()
			if done != tc.done || len(f.asked) > 0 && !f.asked[0].(*fleetv1.ApplyFleetRequest).GetDryRun() {
				t.Errorf("asked for %v", f.asked)
			}
			if want := "cluster/oslo created\ncluster/paris updated\ncluster/rome removed\ndrift updated\n"; done && got.out != want {
				t.Errorf("printed %q", got.out)
			}
		})
	}
	one := &fleetv1.ApplyFleetResponse{Changes: someChanges().GetChanges()[1:2]}
	serve(t, &fake{changes: one}).answer(t, "y\n", "apply", "-f", path).wants(t, 0, "Make this change? [y/N]")
	serve(t, &fake{fail: connect.NewError(connect.CodeInvalidArgument, "line 1: clusters: unknown key")}).run(t, "apply", "-f", path, "-y").wants(t, 1, "fleet.yaml: line 1: clusters: unknown key\n")
}

func TestExport(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{document: aDocument})
	if got := f.run(t, "export"); got.out != aDocument || got.code != 0 {
		t.Errorf("printed %q", got.out)
	}
	serve(t, &fake{}).run(t, "export").wants(t, 1, "the server sent an empty document")
}

func TestConfigSchema(t *testing.T) {
	t.Parallel()
	got := runWith(t, t.Context(), "", "config", "schema")
	got.wants(t, 0, "")
	if !strings.HasPrefix(got.out, "{\n") || !strings.Contains(got.out, `"clusters"`) {
		t.Errorf("printed %s", got.out)
	}
}
