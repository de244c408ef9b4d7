package fleetfile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

// schema compiles the schema of fleet.yaml, as an editor does.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := fleetfile.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("fleet.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("fleet.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// judged is what the schema says of YAML.
func judged(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

func TestTheSchemaIsCurrent(t *testing.T) {
	t.Parallel()
	text, err := fleetfile.Schema()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "docs", "reference", "fleet.schema.json")
	if *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(text), string(have)); diff != "" {
		t.Errorf("%s is not what the keys say, -update writes it anew (-wanted +written):\n%s", path, diff)
	}
}

func TestTheSchemaAcceptsFiles(t *testing.T) {
	t.Parallel()
	s := schema(t)
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	full, err := fleetfile.Read("testdata/fleet.yaml", env("HOME", "/h"))
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{
		"defaults":      fleetfile.Defaults(),
		"every example": regexp.MustCompile(`(?m)^#( {2,}|[^ \n])`).ReplaceAllString(fleetfile.Defaults(), "$1"),
		"every key":     config.Marshal(full),
		"declared":      strings.Replace(declared, "gate: [not, looked, at]", "gate:", 1),
		"nothing":       "",
		"0 is a time":   "clusters: [{id: a, window: 0}]\ngate: {burst_window: 0}\n",
		"unquoted":      "clusters: [{id: 5, release: 5.0, labels: {tier: 1, new: true}}]\n",
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[file] = string(text)
	}
	for name, text := range texts {
		if err := judged(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSchemaRefuses(t *testing.T) {
	t.Parallel()
	s := schema(t)
	for name, text := range map[string]string{
		"an unknown section":     "cluster: []\n",
		"an unknown key":         "clusters: [{id: a, windw: 3m}]\n",
		"an unknown key deep in": "clusters: [{id: a, probes: [{nmae: p}]}]\n",
		"a list for a section":   "server: []\n",
		"a section for a list":   "clusters: {id: a}\n",
		"no unit":                "drift: {mixed_window: 30}\n",
		"a unit of its own":      "drift: {mixed_window: 1d}\n",
		"a time backwards":       "drift: {mixed_window: -1h}\n",
		"another level":          "log: {level: loud}\n",
		"another role":           "access: {tokens: [{role: root}]}\n",
		"another probe":          "clusters: [{probes: [{type: ping}]}]\n",
		"two copies":             "bus: {replicas: 2}\n",
		"another line":           "drift: {steps: {bastion: 3m}}\n",
		"an edge of another":     "drift: {edges: [{line: bastion}]}\n",
		"an id in capitals":      "clusters: [{id: Berlin}]\n",
		"a release in capitals":  "clusters: [{release: V1}]\n",
		"a label of ours":        "clusters: [{labels: {lockstep.dev/env: a}}]\n",
		"a label's bad end":      "clusters: [{labels: {env: a-}}]\n",
		"no workload":            "clusters: [{kubernetes: {workloads: {edge: gateway}}}]\n",
		"text for a number":      "gate: {alpha: much}\n",
		"text for yes":           "vendor: {command: [a]}\ndrift: {learn_windows: perhaps}\n",
		"a half number":          "collector: {spool_mb: 64.5}\n",
		"a token":                "access: {tokens: [{sha256: lst_abc}]}\n",
	} {
		if err := judged(t, s, text); err == nil {
			t.Errorf("%s is accepted: %s", name, text)
		}
	}
}

// The schema knows of labels what the file itself demands of them.
func TestTheSchemaKnowsLabels(t *testing.T) {
	t.Parallel()
	s := schema(t)
	text := rapid.StringMatching(`[a-zA-Z0-9._/ -]{0,6}|[a-z0-9.]{0,3}/[a-zA-Z0-9._-]{0,4}|a{60,66}`)
	rapid.Check(t, func(t *rapid.T) {
		key, value := text.Draw(t, "key"), text.Draw(t, "value")
		err := s.Validate(map[string]any{"clusters": []any{map[string]any{"labels": map[string]any{key: value}}}})
		if want := fleet.CheckLabel(key, value); (err == nil) != (want == nil) {
			t.Fatalf("%q: %q: the schema says %v, the file %v", key, value, err, want)
		}
	})
}
