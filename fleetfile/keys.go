package fleetfile

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/kit/config"
)

// Key is one key of the file as people read of it.
type Key struct {
	Name     string // such as clusters[].compose.dir
	Comment  string // what it means
	Default  string // as YAML; empty when there is none
	Example  string // as YAML; empty when there is a default
	Variable string // the environment variable that sets it; empty for lists and in them
	Section  bool   // it holds other keys
	Optional bool   // it or a section around it may be left out: it is a list, a map or in one, or a section that defaults to nothing
}

// Keys lists every key in the order of the file.
func Keys() []Key {
	env := func(string) string { return "" }
	f := Default(env)
	f.Access.Tokens = make([]Token, 1)
	f.Vendor = new(Vendor)
	f.Releases = []Release{{Gateway: new(Image), SRA: new(Image)}}
	f.Clusters = []Cluster{every()}
	f.Drift.Edges = make([]Edge, 1)
	f.Notify.Webhooks = make([]Webhook, 1)
	f.complete(env)
	return keys(reflect.ValueOf(f), Key{}, nil)
}

// every is a cluster that has every section and one item in each list.
func every() Cluster {
	return Cluster{
		Compose: new(Compose), Kubernetes: &Kubernetes{Helm: make([]Helm, 1)}, Probes: make([]Probe, 1), Health: new(Health), Recording: new(Recording), Forwarding: new(Forwarding),
	}
}

// keys lists the keys of a section that has one item in each list.
func keys(section reflect.Value, above Key, examples map[string]string) []Key {
	var list []Key
	for i := range section.NumField() {
		field, value := section.Type().Field(i), section.Field(i)
		key := Key{Name: below(above.Name, field.Tag.Get("yaml")), Comment: field.Tag.Get("comment"), Optional: above.Optional}
		item, inner := value, field.Tag.Get("example")
		switch {
		case value.Kind() == reflect.Pointer:
			item, key.Optional = value.Elem(), true
		case value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Struct:
			item, key.Optional = value.Index(0), true
			key.Name += "[]"
		case value.Kind() == reflect.Map:
			key.Optional = true
		}
		if item.Kind() == reflect.Struct {
			key.Section = true
			list = append(append(list, key), keys(item, key, parts(inner))...)
			continue
		}
		if !strings.Contains(key.Name, "[]") && value.Kind() != reflect.Slice && value.Kind() != reflect.Map {
			key.Variable = variable(key.Name)
		}
		// Where there is an example, nothing is what a key is without it: no window is
		// not one of 0s.
		if example := cmp.Or(examples[field.Tag.Get("yaml")], inner); example != "" && value.IsZero() {
			key.Example = example
		} else {
			key.Default = word(value)
		}
		list = append(list, key)
	}
	return list
}

// parts reads a section's example.
func parts(example string) map[string]string {
	var out map[string]string
	if err := yaml.Unmarshal([]byte(example), &out); err != nil {
		panic(fmt.Sprintf("fleetfile: the example %s: %v", example, err)) // it is written in this package
	}
	return out
}

// word writes a single value as YAML, and nothing where there is none.
func word(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Slice:
		words := make([]string, 0, v.Len())
		for i := range v.Len() {
			words = append(words, word(v.Index(i)))
		}
		if len(words) == 0 {
			return ""
		}
		return "[" + strings.Join(words, ", ") + "]"
	case reflect.Map:
		words := make([]string, 0, v.Len())
		for _, key := range sorted(v) {
			words = append(words, word(key)+": "+word(v.MapIndex(key)))
		}
		if len(words) == 0 {
			return ""
		}
		return "{" + strings.Join(words, ", ") + "}"
	case reflect.String:
		if v.Len() == 0 {
			return ""
		}
	}
	return strings.TrimSpace(config.Marshal(v.Interface()))
}

func sorted(m reflect.Value) []reflect.Value {
	list := m.MapKeys()
	slices.SortFunc(list, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	return list
}

// Value is a key of a configuration with what it is set to.
type Value struct {
	Key  string // such as clusters[0].compose.dir
	Text string // as YAML; empty when it is set to nothing
}

// Values lists the keys of a configuration in the order of the file; sections
// and lists that it does not have are left out.
func (f File) Values() []Value { return values(reflect.ValueOf(f), "") }

func values(section reflect.Value, above string) []Value {
	var list []Value
	for i := range section.NumField() {
		key, v := below(above, section.Type().Field(i).Tag.Get("yaml")), section.Field(i)
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				continue
			}
			v = v.Elem()
		}
		switch {
		case v.Kind() == reflect.Struct:
			list = append(list, values(v, key)...)
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
			for i := range v.Len() {
				list = append(list, values(v.Index(i), fmt.Sprintf("%s[%d]", key, i))...)
			}
		default:
			list = append(list, Value{key, word(v)})
		}
	}
	return list
}

// Defaults is a file that says the same as no file. What may be left out is
// there as an example, commented out.
func Defaults() string {
	var b strings.Builder
	b.WriteString(`# fleet.yaml with every key at its default.
#
# Lines that begin with # and anything but a single space are examples of what may
# be left out; take the # away to use them.
`)
	aside := make(map[string]string) // what comments the keys of a section out
	item := false                    // the next key begins an item of a list
	for _, key := range Keys() {
		around, name := "", key.Name
		if dot := strings.LastIndex(key.Name, "."); dot >= 0 {
			around, name = key.Name[:dot], key.Name[dot+1:]
		}
		if key.Optional {
			aside[key.Name] = "#"
		}
		if around == "" {
			b.WriteByte('\n')
		}
		margin := strings.Repeat("  ", strings.Count(key.Name, ".")+strings.Count(around, "[]"))
		dash := margin
		if item {
			margin = strings.TrimSuffix(margin, "  ")
			dash = margin + "- "
		}
		value := ""
		switch {
		case key.Section:
		case key.Optional:
			value = " " + cmp.Or(key.Default, key.Example)
		default:
			value = " " + cmp.Or(key.Default, `""`)
		}
		fmt.Fprintf(&b, "%s%s# %s\n%s%s%s:%s\n", aside[around], margin, key.Comment, aside[key.Name], dash, strings.TrimSuffix(name, "[]"), value)
		item = strings.HasSuffix(name, "[]")
	}
	return b.String()
}
