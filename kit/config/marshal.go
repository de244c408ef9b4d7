package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Marshal words a struct as a file that Load reads back over a zero value to the
// same struct, provided that its Paths are absolute and its text is UTF-8. Keys
// come in the order of the fields, each below the text of its "comment" tag;
// what is nil is a key without a value.
func Marshal(v any) string {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(node(reflect.ValueOf(v), true)); err != nil {
		panic(fmt.Sprintf("config: %T cannot be written: %v", v, err)) // a buffer takes everything
	}
	return b.String()
}

// node is the document that reader.value reads into v. In lists and maps, where
// each comment would stand many times, there are none.
func node(v reflect.Value, comments bool) *yaml.Node {
	switch v.Type() {
	case reflect.TypeFor[time.Duration]():
		return text(Brief(time.Duration(v.Int())))
	case reflect.TypeFor[Path]():
		return text(v.String())
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if v.IsNil() {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		return node(v.Elem(), comments)
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fieldsOf(v.Type()) {
			key := text(f.key)
			if comments {
				key.HeadComment = f.comment
			}
			n.Content = append(n.Content, key, node(v.Field(f.index), comments))
		}
		return n
	case reflect.Map:
		n := &yaml.Node{Kind: yaml.MappingNode}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, key := range keys {
			n.Content = append(n.Content, text(key.String()), node(v.MapIndex(key), false))
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			n.Content = append(n.Content, node(v.Index(i), false))
		}
		return n
	case reflect.String:
		return text(v.String())
	}
	// Numbers and booleans, and a panic for what no file can hold.
	n := &yaml.Node{}
	if err := n.Encode(v.Interface()); err != nil || n.Kind != yaml.ScalarNode {
		panic(fmt.Sprintf("config: a value of type %s cannot be written: %v", v.Type(), err))
	}
	return n
}

// text is a string that stays one: quoted where YAML would see something else.
func text(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		n.Style = yaml.DoubleQuotedStyle // the other styles fold and normalize what is not printed
	}
	return n
}

// Brief is a duration without the units that are zero: "30m", not "30m0s".
func Brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
