package fleetfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// reading is YAML on its way into sections of the file. It reads and words
// problems as kit/config does for files. But what it reads has neither a folder
// nor a home that a path could start at, it may be somebody else's, so that there
// is a limit to what it may hold, and its lines are kept for what turns out wrong
// later.
type reading struct {
	lenient  bool // pass over keys that are not known: a newer version wrote them
	problems config.Problems
	lines    map[string]int // where each key stands
	values   int
}

// most is how many values a document may hold, each counted as often as aliases
// repeat it: with them a few lines can stand for more than fits into memory.
const most = 1 << 20

// parse returns what the only document of some YAML holds, nil when it is empty.
func (r *reading) parse(text []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil // an empty document is no error here and holds nothing
	case err != nil:
		return nil, err
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		r.problem(&more, "", "a second document begins here; keep one document")
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	if len(doc.Content) == 0 || empty(doc.Content[0]) {
		return nil, nil
	}
	return doc.Content[0], nil
}

func (r *reading) problem(n *yaml.Node, key, format string, args ...any) {
	r.problems = append(r.problems, config.Problem{Line: n.Line, Key: key, Text: fmt.Sprintf(format, args...)})
}

// at remembers the line of a key.
func (r *reading) at(key string, n *yaml.Node) {
	if r.lines == nil {
		r.lines = make(map[string]int)
	}
	r.lines[key] = n.Line
}

// line is where a key stands, or what it would stand in; 0 when nothing of it does.
func (r *reading) line(key string) int {
	for key != "" {
		if line := r.lines[key]; line > 0 {
			return line
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

func empty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func (r *reading) value(n *yaml.Node, v reflect.Value, key string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if empty(n) || !r.fits(n, key) {
		return
	}
	switch v.Type() {
	case reflect.TypeFor[time.Duration]():
		r.duration(n, v, key)
		return
	case reflect.TypeFor[config.Path]():
		r.path(n, v, key)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(n, v.Elem(), key)
	case reflect.Struct:
		r.section(n, v, key)
	case reflect.Map:
		r.mapping(n, v, key)
	case reflect.Slice:
		if r.kind(n, yaml.SequenceNode, key, "a list") {
			list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
			for i, item := range n.Content {
				at := fmt.Sprintf("%s[%d]", key, i)
				r.at(at, item)
				r.value(item, list.Index(i), at)
			}
			v.Set(list)
		}
	case reflect.String:
		if r.kind(n, yaml.ScalarNode, key, "text") {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		r.scalar(n, v, key, "true or false", "!!bool")
	case reflect.Int:
		r.scalar(n, v, key, "a whole number", "!!int")
	default:
		panic(fmt.Sprintf("fleetfile: key %s is of type %s, which no document can hold", key, v.Type()))
	}
}

// fits counts the values of a node and says whether there is room for them.
func (r *reading) fits(n *yaml.Node, key string) bool {
	before := r.values
	r.values += 1 + len(n.Content)
	if r.values > most && before <= most {
		r.problem(n, key, "the document holds too much up to here, more than %d values, those behind aliases counted each time; apply it in parts", most)
	}
	return r.values <= most
}

func (r *reading) kind(n *yaml.Node, want yaml.Kind, key, noun string) bool {
	if n.Kind != want {
		r.problem(n, key, "expected %s, found %s", noun, config.Describe(n))
		return false
	}
	return true
}

func (r *reading) scalar(n *yaml.Node, v reflect.Value, key, noun, tag string) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != tag {
		r.problem(n, key, "expected %s, found %s", noun, config.Describe(n))
	} else if err := n.Decode(v.Addr().Interface()); err != nil {
		r.problem(n, key, "%s does not fit here, expected %s of ordinary size", n.Value, noun)
	}
}

func (r *reading) duration(n *yaml.Node, v reflect.Value, key string) {
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

// path takes what means the same file from wherever it is read.
func (r *reading) path(n *yaml.Node, v reflect.Value, key string) {
	if !r.kind(n, yaml.ScalarNode, key, "a path") {
		return
	}
	switch p := n.Value; {
	case p == "" || filepath.IsAbs(p):
		v.SetString(p)
	case strings.HasPrefix(p, "~"):
		r.problem(n, key, "%s would be in the home folder of the user that the server runs as, not in yours; write the path in full, as it is on the server", p)
	default:
		r.problem(n, key, "%s is relative and would start at the folder of the server's own file, not of this one; write the path in full, as it is on the server", p)
	}
}

func (r *reading) section(n *yaml.Node, v reflect.Value, key string) {
	var known []string
	fields := make(map[string]reflect.Value)
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		known = append(known, name)
		fields[name] = v.Field(i)
	}
	r.pairs(n, key, func(name, value *yaml.Node) {
		at := below(key, name.Value)
		if field, ok := fields[name.Value]; ok {
			r.value(value, field, at)
		} else if !r.lenient {
			r.problem(name, at, "unknown key%s", suggestion(name.Value, known))
		}
	})
}

func (r *reading) mapping(n *yaml.Node, v reflect.Value, key string) {
	v.Set(reflect.MakeMap(v.Type()))
	r.pairs(n, key, func(name, value *yaml.Node) {
		element := reflect.New(v.Type().Elem()).Elem()
		r.value(value, element, below(key, name.Value))
		v.SetMapIndex(reflect.ValueOf(name.Value).Convert(v.Type().Key()), element)
	})
}

// pairs visits the entries of a mapping and reports keys that are repeated or
// are not plain words.
func (r *reading) pairs(n *yaml.Node, key string, visit func(name, value *yaml.Node)) {
	if !r.kind(n, yaml.MappingNode, key, "keys with values") {
		return
	}
	first := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode {
			r.problem(name, key, "expected a key, found %s", config.Describe(name))
			continue
		}
		at := below(key, name.Value)
		if line, repeated := first[name.Value]; repeated {
			r.problem(name, at, "the key is already set in line %d; keep one of them", line)
			continue
		}
		first[name.Value] = name.Line
		r.at(at, name)
		visit(name, value)
	}
}

// refused words problems of a document as one error.
func refused(problems config.Problems) error {
	const shown = 100 // a document of many clusters can be wrong in each
	if len(problems) == 1 {
		return errs.New(errs.Invalid, "LS-CFG-006", "the document is not acceptable: %s", problems[0])
	}
	lines := []string{fmt.Sprintf("the document has %d problems:", len(problems))}
	for i, one := range problems {
		if i == shown {
			lines = append(lines, fmt.Sprintf("  and %d more", len(problems)-shown))
			break
		}
		lines = append(lines, "  "+one.String())
	}
	return errs.New(errs.Invalid, "LS-CFG-006", "%s", strings.Join(lines, "\n"))
}
