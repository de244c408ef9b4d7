package gatefile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Schema is the JSON Schema (draft 2020-12) of a document of policies, for editors.
// It says the form of each key. What it accepts may still be refused: bounds, what a
// policy takes over and what rules ask are not in it.
func Schema() ([]byte, error) {
	doc := form(reflect.TypeFor[document](), "")
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	doc["title"] = "gate policies"
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the schema of gate policies: %w", err)
	}
	return append(text, '\n'), nil
}

// form is the schema of what the key of a type may hold. A key may also be there
// without a value; then it counts as absent.
func form(t reflect.Type, key string) map[string]any {
	switch t {
	case reflect.TypeFor[time.Duration]():
		// What time.ParseDuration takes, without a sign. The number 0 needs no unit, no
		// other number is a duration.
		return map[string]any{
			"type": []string{"string", "integer", "null"}, "pattern": `^(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`,
			"minimum": 0, "maximum": 0,
		}
	case reflect.TypeFor[gate.Mode]():
		return choice(words(gate.Modes()))
	case reflect.TypeFor[gate.Demand]():
		return choice(words(gate.Demands()))
	case reflect.TypeFor[gate.Verdict]():
		return choice(words(ruleVerdicts()))
	}
	switch t.Kind() {
	case reflect.Struct:
		properties, required := make(map[string]any), []string{}
		for i := range t.NumField() {
			field := t.Field(i)
			name := field.Tag.Get("yaml")
			property := form(field.Type, below(key, name))
			property["description"] = field.Tag.Get("comment")
			properties[name] = property
			if name == "name" {
				required = append(required, name)
			}
		}
		section := map[string]any{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
		if len(required) > 0 {
			section["type"], section["required"] = "object", required
		}
		return section
	case reflect.Slice:
		return map[string]any{"type": []string{"array", "null"}, "items": form(t.Elem(), key)}
	case reflect.Bool:
		return map[string]any{"type": []string{"boolean", "null"}}
	case reflect.Int:
		return map[string]any{"type": []string{"integer", "null"}}
	case reflect.Float64:
		return map[string]any{"type": []string{"number", "null"}}
	}
	// Text need not be quoted: 5 and true are taken as they are written.
	text := map[string]any{"type": []string{"string", "number", "boolean", "null"}}
	switch key {
	case "policies.name", "policies.step.rules.name", "policies.wave.rules.name":
		text["type"], text["pattern"] = []string{"string", "number", "boolean"}, nameShape().String()
	case "policies.extends":
		text["examples"] = presetNames()
	}
	return text
}

func choice(list []string) map[string]any {
	out := make([]any, 0, len(list)+1)
	for _, word := range list {
		out = append(out, word)
	}
	return map[string]any{"enum": append(out, nil)}
}
