package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// reader walks a YAML document beside the Go type it is meant for. The yaml
// library's own decoder stops at the first unknown key and does not know the
// nearest one, so the walk is ours and only the scalars are its.
type reader struct {
	file     string
	folder   string
	home     string
	problems Problems
}

func (r *reader) problem(n *yaml.Node, key, format string, args ...any) {
	r.problems = append(r.problems, Problem{File: r.file, Line: n.Line, Key: key, Text: fmt.Sprintf(format, args...)})
}

func (r *reader) document(doc *yaml.Node, into any) {
	if len(doc.Content) == 0 {
		return
	}
	r.value(doc.Content[0], reflect.ValueOf(into).Elem(), "")
}

func (r *reader) value(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	r.set(n, v, key)
}

// set reads a node that is not empty.
func (r *reader) set(n *yaml.Node, v reflect.Value, key string) {
	switch v.Type() {
	case reflect.TypeFor[time.Duration]():
		r.duration(n, v, key)
		return
	case reflect.TypeFor[Path]():
		r.path(n, v, key)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		r.set(n, v.Elem(), key)
	case reflect.Struct:
		if r.kind(n, yaml.MappingNode, key, "keys with values") {
			r.structure(n, v, key)
		}
	case reflect.Map:
		if r.kind(n, yaml.MappingNode, key, "keys with values") {
			r.mapping(n, v, key)
		}
	case reflect.Slice:
		if r.kind(n, yaml.SequenceNode, key, "a list") {
			r.list(n, v, key)
		}
	case reflect.String:
		// The text as written: a version such as 5.0 stays "5.0", quoted or not.
		if r.kind(n, yaml.ScalarNode, key, "text") {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		r.scalar(n, v, key, "true or false", "!!bool")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		r.scalar(n, v, key, "a whole number", "!!int")
	case reflect.Float32, reflect.Float64:
		r.scalar(n, v, key, "a number", "!!float", "!!int")
	default:
		panic(fmt.Sprintf("config: key %s is of type %s, which no file can hold", key, v.Type()))
	}
}

func (r *reader) kind(n *yaml.Node, want yaml.Kind, key, noun string) bool {
	if n.Kind != want {
		r.problem(n, key, "expected %s, found %s", noun, Describe(n))
		return false
	}
	return true
}

func (r *reader) scalar(n *yaml.Node, v reflect.Value, key, noun string, tags ...string) {
	for _, tag := range tags {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != tag {
			continue
		}
		if err := n.Decode(v.Addr().Interface()); err != nil {
			r.problem(n, key, "%s does not fit here, expected %s of ordinary size", n.Value, noun)
		}
		return
	}
	r.problem(n, key, "expected %s, found %s", noun, Describe(n))
}

func (r *reader) duration(n *yaml.Node, v reflect.Value, key string) {
	if !r.kind(n, yaml.ScalarNode, key, `a duration such as "30s"`) {
		return
	}
	d, err := time.ParseDuration(n.Value)
	if err != nil {
		r.problem(n, key, `%q is not a duration; write a number with a unit, such as "500ms", "30s", "10m" or "24h"`, n.Value)
		return
	}
	v.SetInt(int64(d))
}

func (r *reader) path(n *yaml.Node, v reflect.Value, key string) {
	if !r.kind(n, yaml.ScalarNode, key, "a path") {
		return
	}
	p := n.Value
	switch {
	case p == "":
	case p == "~" || strings.HasPrefix(p, "~/"):
		if r.home == "" {
			r.problem(n, key, `"~" has no meaning because HOME is not set; write the path in full`)
			return
		}
		p = filepath.Join(r.home, strings.TrimPrefix(p, "~"))
	case strings.HasPrefix(p, "~"):
		r.problem(n, key, "%s: only your own home folder can be abbreviated; write the path in full", p)
		return
	case !filepath.IsAbs(p):
		p = filepath.Join(r.folder, p)
	}
	v.SetString(p)
}

func (r *reader) structure(n *yaml.Node, v reflect.Value, key string) {
	fields := fieldsOf(v.Type())
	r.pairs(n, key, func(name, value *yaml.Node) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == name.Value })
		if i < 0 {
			known := make([]string, 0, len(fields))
			for _, f := range fields {
				known = append(known, f.key)
			}
			r.problem(name, join(key, name.Value), "unknown key%s", suggestion(name.Value, known))
			return
		}
		r.value(value, v.Field(fields[i].index), join(key, name.Value))
	})
}

// field is a part of a struct that a file may set.
type field struct {
	index   int
	key     string
	kind    reflect.Type
	comment string
}

func fieldsOf(t reflect.Type) []field {
	var list []field
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key != "" && key != "-" {
			list = append(list, field{index: i, key: key, kind: f.Type, comment: f.Tag.Get("comment")})
		}
	}
	return list
}

func (r *reader) mapping(n *yaml.Node, v reflect.Value, key string) {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	r.pairs(n, key, func(name, value *yaml.Node) {
		element := reflect.New(v.Type().Elem()).Elem()
		r.value(value, element, join(key, name.Value))
		v.SetMapIndex(reflect.ValueOf(name.Value).Convert(v.Type().Key()), element)
	})
}

// pairs visits the entries of a mapping and reports keys that are repeated or
// are not plain words.
func (r *reader) pairs(n *yaml.Node, key string, visit func(name, value *yaml.Node)) {
	lines := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode {
			r.problem(name, key, "expected a key, found %s", Describe(name))
			continue
		}
		if first, repeated := lines[name.Value]; repeated {
			r.problem(name, join(key, name.Value), "the key is already set in line %d; keep one of them", first)
			continue
		}
		lines[name.Value] = name.Line
		visit(name, value)
	}
}

// list replaces what was there: a list in the file is the whole list.
func (r *reader) list(n *yaml.Node, v reflect.Value, key string) {
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		r.value(item, list.Index(i), fmt.Sprintf("%s[%d]", key, i))
	}
	v.Set(list)
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// Describe words what stands where something else was expected.
func Describe(n *yaml.Node) string {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "the number " + n.Value
	case "!!bool":
		return n.Value
	case "!!null":
		return "nothing"
	}
	return fmt.Sprintf("%q", n.Value)
}
