package gatefile_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/gatefile"
)

// tree is a part of the schema.
type tree map[string]any

func schemaOf(t *testing.T) tree {
	t.Helper()
	text, err := gatefile.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var out tree
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func (s tree) property(name string) tree {
	return s["properties"].(map[string]any)[name].(map[string]any)
}

func (s tree) items() tree { return s["items"].(map[string]any) }

// compiled is the schema as an editor uses it.
func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := gatefile.Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("gatepolicy.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("gatepolicy.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

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
	text, err := gatefile.Schema()
	if err != nil {
		t.Fatal(err)
	}
	current(t, filepath.Join("..", "docs", "reference", "gatepolicy.schema.json"), string(text))
}

func TestTheSchemaAccepts(t *testing.T) {
	t.Parallel()
	s := compiled(t)
	for name, text := range map[string]string{
		"the presets":       gatefile.Marshal(gatefile.Presets()...),
		"a house's":         string(house(t)),
		"its resolved ones": gatefile.Marshal(read(t, string(house(t)))...),
		"nothing said":      "policies: [{name: a, extends: , mode: , statistics: , step: {checks: , rules: }}]",
		"0 is a time":       "policies: [{name: a, wave: {soak: 0}}]",
		"unquoted":          "policies: [{name: 5, step: {rules: [{name: 7, when: true, reason: 3}]}}]",
	} {
		if err := judged(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSchemaRefuses(t *testing.T) {
	t.Parallel()
	s := compiled(t)
	for name, text := range map[string]string{
		"no name":           "policies: [{mode: act}]",
		"a rule of no name": "policies: [{name: a, step: {rules: [{verdict: fail}]}}]",
		"an unknown key":    "policies: [{name: a, mod: act}]",
		"an unknown check":  "policies: [{name: a, step: {checks: {session: {demand: pass}}}}]",
		"another mode":      "policies: [{name: a, mode: enforce}]",
		"another demand":    "policies: [{name: a, step: {checks: {open: {demand: must}}}}]",
		"another verdict":   "policies: [{name: a, step: {rules: [{name: x, verdict: pass}]}}]",
		"a name in letters": "policies: [{name: House}]",
		"no unit":           "policies: [{name: a, wave: {soak: 30}}]",
		"a time backwards":  "policies: [{name: a, wave: {soak: -30s}}]",
		"text for a number": "policies: [{name: a, statistics: {alpha: small}}]",
		"a half look":       "policies: [{name: a, step: {checks: {open: {sustain: {looks: 1.5}}}}}]",
		"a list of stages":  "policies: [{name: a, step: []}]",
	} {
		if err := judged(t, s, text); err == nil {
			t.Errorf("%s is accepted: %s", name, text)
		}
		if _, err := gatefile.Read([]byte(text), "p.yaml"); err == nil {
			t.Errorf("%s is read: %s", name, text)
		}
	}
}
