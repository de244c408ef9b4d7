package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Env reads environment variables over the struct that into points to. A
// variable is the prefix and the keys that lead to a field, in upper case and
// joined by underscores: with the prefix LOCKSTEP the key server.listen is
// LOCKSTEP_SERVER_LISTEN. Text, numbers, booleans, durations and Paths have one;
// lists and maps have none. Values are read as in a file, a relative Path starts
// at the working folder, and an empty variable counts as not set. A section
// that is a nil pointer is made only when one of its variables is set.
//
// The error is Problems, each named by its variable.
func Env(into any, prefix string, lookup func(string) (string, bool)) error {
	folder, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("find the working folder: %w", err)
	}
	r := reader{folder: folder, home: home()}
	v := reflect.ValueOf(into).Elem()
	for _, one := range variables(v.Type(), prefix, nil) {
		text, ok := lookup(one.name)
		if !ok || text == "" {
			continue
		}
		r.set(&yaml.Node{Kind: yaml.ScalarNode, Value: text}, reach(v, one.path), one.name)
	}
	if len(r.problems) > 0 {
		return r.problems
	}
	return nil
}

// Variables lists the variables that Env looks up for the struct that into
// points to, in the order of its fields.
func Variables(into any, prefix string) []string {
	list := variables(reflect.TypeOf(into).Elem(), prefix, nil)
	names := make([]string, 0, len(list))
	for _, one := range list {
		names = append(names, one.name)
	}
	return names
}

// variable is a field that the environment may set.
type variable struct {
	name string
	path []int // indices of fields, from the outermost struct in
}

func variables(t reflect.Type, name string, path []int) []variable {
	switch t {
	case reflect.TypeFor[time.Duration](), reflect.TypeFor[Path]():
		return []variable{{name, path}}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return variables(t.Elem(), name, path)
	case reflect.Slice, reflect.Map:
		return nil
	case reflect.Struct:
		var list []variable
		for _, f := range fieldsOf(t) {
			below := append(slices.Clone(path), f.index)
			list = append(list, variables(f.kind, name+"_"+strings.ToUpper(f.key), below)...)
		}
		return list
	}
	return []variable{{name, path}}
}

// reach returns the field at the end of a path and makes the sections on it.
func reach(v reflect.Value, path []int) reflect.Value {
	for _, i := range path {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v
}
