package fleetfile

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Schema is the JSON Schema (draft 2020-12) of fleet.yaml, for editors. It says
// the form of each key and what Validate knows of it by itself. What it accepts
// may still be refused: that keys belong together or exclude each other is not
// in it.
func Schema() ([]byte, error) {
	known := make(map[string]Key)
	for _, key := range Keys() {
		known[key.Name] = key
	}
	doc, err := form(reflect.TypeFor[File](), "", known)
	if err != nil {
		return nil, err
	}
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	doc["title"] = "fleet.yaml"
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the schema of fleet.yaml: %w", err)
	}
	return append(text, '\n'), nil
}

// form is the schema of what the key of a type may hold. A key may also be there
// without a value; then it counts as absent.
func form(t reflect.Type, name string, known map[string]Key) (map[string]any, error) {
	if words := choices(name); words != nil {
		return map[string]any{"enum": append(words, nil)}, nil
	}
	if t == reflect.TypeFor[time.Duration]() {
		// The number 0 needs no unit, no other number is a duration.
		return map[string]any{"type": []string{"string", "integer", "null"}, "pattern": durationShape, "minimum": 0, "maximum": 0}, nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return form(t.Elem(), name, known)
	case reflect.Struct:
		properties := make(map[string]any)
		for i := range t.NumField() {
			field := t.Field(i)
			at := below(name, field.Tag.Get("yaml"))
			if field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() == reflect.Struct {
				at += "[]"
			}
			property, err := form(field.Type, at, known)
			if err != nil {
				return nil, err
			}
			if err := describe(property, field.Type, known[at]); err != nil {
				return nil, err
			}
			properties[field.Tag.Get("yaml")] = property
		}
		return map[string]any{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}, nil
	case reflect.Map:
		values, err := form(t.Elem(), name+".*", known)
		if err != nil {
			return nil, err
		}
		section := map[string]any{"type": []string{"object", "null"}, "additionalProperties": values}
		if names := nameForm(name); names != nil {
			section["propertyNames"] = names
		}
		return section, nil
	case reflect.Slice:
		items, err := form(t.Elem(), name, known)
		if err != nil {
			return nil, err
		}
		return map[string]any{"type": []string{"array", "null"}, "items": items}, nil
	case reflect.Bool:
		return map[string]any{"type": []string{"boolean", "null"}}, nil
	case reflect.Int:
		return map[string]any{"type": []string{"integer", "null"}}, nil
	case reflect.Float64:
		return map[string]any{"type": []string{"number", "null"}}, nil
	}
	// Text need not be quoted: 5.0 and true are taken as they are written.
	text := map[string]any{"type": []string{"string", "number", "boolean", "null"}}
	if shape := shape(t, name); shape != "" {
		text["pattern"] = `^$|` + shape // empty is as absent
	}
	return text, nil
}

// describe adds what people read of a key of a type.
func describe(property map[string]any, t reflect.Type, key Key) error {
	property["description"] = key.Comment
	for word, text := range map[string]string{"default": key.Default, "examples": key.Example} {
		if text == "" {
			continue
		}
		var value any
		into := reflect.ValueOf(&value)
		if t.Kind() == reflect.String {
			into = reflect.New(t) // as written, even if it looks like a number
		}
		if err := yaml.Unmarshal([]byte(text), into.Interface()); err != nil {
			return fmt.Errorf("write the schema of %s: %s: %w", key.Name, text, err)
		}
		value = into.Elem().Interface()
		if word == "examples" {
			value = []any{value}
		}
		property[word] = value
	}
	return nil
}

// durationShape is what time.ParseDuration takes, without a sign.
const durationShape = `^(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`

// labelShape is the name or the value of a label as fleet.CheckLabel takes it.
const labelShape = `[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?`

// choices lists what a key with a fixed set of values may be, nil for any other.
func choices(key string) []any {
	switch key {
	case "access.tokens[].role":
		return each(Roles())
	case "access.tokens[].tenant":
		return []any{fleet.DefaultTenant}
	case "bus.replicas":
		return each(replicas())
	case "log.level":
		return each(LogLevels())
	case "log.format":
		return each(LogFormats())
	case "vendor.access_type":
		return each(AccessTypes())
	case "clusters[].probes[].type":
		return each(probeTypes())
	case "clusters[].forwarding.type":
		return each(forwardingTypes())
	case "drift.edges[].line":
		return each(lines())
	}
	return nil
}

func each[T any](list []T) []any {
	out := make([]any, 0, len(list)+1)
	for _, one := range list {
		out = append(out, one)
	}
	return out
}

// nameForm is the schema of the names in a map, nil where there may be any.
func nameForm(key string) map[string]any {
	switch key {
	case "clusters[].labels":
		return map[string]any{
			"pattern": `^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?` + labelShape + `$`,
			"not":     map[string]any{"pattern": "^" + regexp.QuoteMeta(reserved)},
		}
	case "clusters[].kubernetes.workloads":
		return map[string]any{"pattern": workloadShape.String()}
	case "drift.steps":
		return map[string]any{"enum": each(lines())}
	}
	return nil
}

// shape is the pattern of a name, "" where any text will do.
func shape(t reflect.Type, key string) string {
	switch t {
	case reflect.TypeFor[fleet.ClusterID](), reflect.TypeFor[fleet.Component]():
		return tokenShape.String()
	case reflect.TypeFor[fleet.ReleaseID]():
		return releaseShape.String()
	}
	switch key {
	case "access.tokens[].name", "clusters[].probes[].name", "clusters[].compose.project", "notify.webhooks[].name":
		return tokenShape.String()
	case "access.tokens[].sha256":
		return hashShape.String()
	case "collector.id":
		return collectorShape.String()
	case "clusters[].kubernetes.namespace":
		return namespaceShape.String()
	case "clusters[].labels.*":
		return "^" + labelShape + "$"
	}
	return ""
}
