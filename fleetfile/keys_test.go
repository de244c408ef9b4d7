package fleetfile_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

func TestThePrintedDefaultsAreTheDefaults(t *testing.T) {
	t.Parallel()
	golden(t, "defaults.yaml", fleetfile.Defaults())
	home := env("HOME", "/home/ann")
	want, err := fleetfile.Load("", home)
	if err != nil {
		t.Fatal(err)
	}
	got, err := fleetfile.Load("testdata/defaults.yaml", home)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

// TestTheExamplesAmongTheDefaultsCount takes the # away, as their heading says,
// and expects every key to be set to something acceptable.
func TestTheExamplesAmongTheDefaultsCount(t *testing.T) {
	t.Parallel()
	text := regexp.MustCompile(`(?m)^#( {2,}|[^ \n])`).ReplaceAllString(fleetfile.Defaults(), "$1")
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := fleetfile.Read(path, env("HOME", "/home/ann"))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	// Some exclude each other, and each has to be there: a cluster is one or the other,
	// the vendor is asked in one of two ways, and a type has keys of its own.
	var problems config.Problems
	errors.As(got.Validate(), &problems)
	var contradictions []string
	for _, problem := range problems {
		contradictions = append(contradictions, problem.Key)
	}
	slices.Sort(contradictions)
	if diff := cmp.Diff([]string{
		"clusters[0].forwarding.ca_file", "clusters[0].forwarding.header", "clusters[0].forwarding.token_file",
		"clusters[0].gateway_url", "clusters[0].kubernetes",
		"clusters[0].probes[0].ca_file", "clusters[0].probes[0].contains", "clusters[0].probes[0].host_key",
		"clusters[0].probes[0].server_name", "clusters[0].probes[0].statuses",
		"vendor.access_id", "vendor.access_key_file", "vendor.ca_file", "vendor.gateway_url", "vendor.jwt_file", "vendor.k8s_auth_config",
		"vendor.k8s_token_file", "vendor.uid_token_file", "vendor.url",
	}, contradictions); diff != "" {
		t.Fatalf("problems (-want +got):\n%s\n%v in:\n%s", diff, problems, text)
	}
	origin := fleetfile.Origins(path, env())
	set := make(map[string]bool)
	for _, v := range got.Values() {
		set[regexp.MustCompile(`\[\d+\]`).ReplaceAllString(v.Key, "[]")] = origin(v.Key).Kind == "file"
	}
	for _, key := range fleetfile.Keys() {
		if !key.Section && !set[key.Name] {
			t.Errorf("%s is not set", key.Name)
		}
	}
}

func TestEveryKeyIsExplained(t *testing.T) {
	t.Parallel()
	var variables []string
	for _, key := range fleetfile.Keys() {
		if key.Comment == "" || strings.Contains(key.Comment, "\n") {
			t.Errorf("%s has no line that says what it means: give its field a comment tag", key.Name)
		}
		if key.Optional && !key.Section && key.Default == "" && key.Example == "" {
			t.Errorf("%s has neither a default nor an example: give its field an example tag", key.Name)
		}
		if key.Variable != "" {
			variables = append(variables, key.Variable)
		}
	}
	if want := config.Variables(&fleetfile.File{}, "LOCKSTEP"); !slices.Equal(variables, want) {
		t.Errorf("variables of keys (-want +got):\n%s", cmp.Diff(want, variables))
	}
	for _, v := range fleetfile.Special() {
		if slices.Contains(variables, v.Name) {
			t.Errorf("%s sets a key and is something special", v.Name)
		}
	}
}

// TestTheReferenceIsCurrent compares the tables in the reference with the tags.
func TestTheReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| key | default | what it means |\n|---|---|---|\n")
	for _, key := range fleetfile.Keys() {
		if key.Section && !key.Optional {
			continue
		}
		def := "–"
		if key.Default != "" {
			def = "`" + key.Default + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", key.Name, def, strings.ReplaceAll(key.Comment, "|", "\\|"))
	}
	variables := "| variable | what it means |\n|---|---|\n"
	for _, v := range fleetfile.Special() {
		variables += fmt.Sprintf("| `%s` | %s |\n", v.Name, v.Meaning)
	}
	path := filepath.Join("..", "docs", "reference", "configuration.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := string(raw)
	for name, table := range map[string]string{"keys": table.String(), "variables": variables} {
		begin, end := "<!-- "+name+": go test ./fleetfile -update -->\n", "<!-- end of "+name+" -->\n"
		before, rest, found := strings.Cut(want, begin)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has no place for the %s, between %q and %q", path, name, begin, end)
		}
		want = before + begin + table + end + after
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(raw)); diff != "" {
		t.Errorf("%s is not what the keys say, -update writes it anew (-wanted +written):\n%s", path, diff)
	}
}
