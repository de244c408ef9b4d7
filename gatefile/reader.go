package gatefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

const (
	// maxDocument bounds a document, in bytes. A policy that says everything takes some
	// two thousand.
	maxDocument = 1 << 20
	// maxValues bounds how many values a document may hold, each counted as often as
	// aliases repeat it: with them a few lines can stand for more than fits into memory.
	maxValues = 1 << 16
	// maxPolicies and maxRules bound what one document and one stage hold: nobody has
	// more who did not generate them by mistake.
	maxPolicies = 1000
	maxRules    = 100
)

// Read returns the policies of a document in its order, with all that they take
// over from others filled in. Name is what errors call the document. The error is
// Problems, without warnings, where the document is not acceptable.
func Read(text []byte, name string) ([]gate.Plan, error) {
	r, err := read(text, name)
	if err != nil {
		return nil, err
	}
	if wrong := r.problems.sorted().Errors(); len(wrong) > 0 {
		return nil, wrong
	}
	var plans []gate.Plan
	for _, e := range r.entries {
		plans = append(plans, e.policy.plan())
	}
	return plans, nil
}

// place is where something stands in the document, counted from 1.
type place struct{ line, column int }

// places is where the keys of a policy stand, those included that it takes over from
// another policy of the document.
type places map[string]place

// of is where a key stands, or what it would stand in.
func (p places) of(key string) place {
	for ; key != ""; key = key[:max(strings.LastIndexAny(key, ".["), 0)] {
		if at, there := p[key]; there {
			return at
		}
	}
	return p[""]
}

// entry is one policy of the document.
type entry struct {
	key     string // such as policies[0]
	node    *yaml.Node
	name    string
	extends string
	at      places
	policy  policy // complete once it is read
	state   state
}

// state is how far an entry is.
type state int

const (
	untouched state = iota
	underWay        // those that it extends are being read
	complete
)

// reader turns a document into policies and says all that is wrong with it. A
// policy is read over a copy of the one that it extends, so that what it does not
// say is what the other says.
type reader struct {
	name     string
	text     []byte
	lines    []string
	language *language
	rulings  map[string]ruling // by what was read: those that extend a policy ask what it asks
	refused  map[string]bool   // keys whose value was told to be wrong and not taken
	values   int
	entries  []*entry
	problems Problems
}

// read reads and judges a document. The error is that of the program, not of the
// document.
func read(text []byte, name string) (*reader, error) {
	l, err := newLanguage()
	if err != nil {
		return nil, err
	}
	r := &reader{name: name, text: text, lines: lineEnd().Split(string(text), -1), language: l, rulings: make(map[string]ruling), refused: make(map[string]bool)}
	if root := r.parse(); root != nil {
		r.document(root)
	}
	for _, e := range r.entries {
		r.resolve(e, nil)
	}
	for _, e := range r.entries {
		r.judge(e)
	}
	return r, nil
}

// lineEnd is what ends a line of YAML.
func lineEnd() *regexp.Regexp { return regexp.MustCompile(`\r\n|[\n\r\x{85}\x{2028}\x{2029}]`) }

func (r *reader) problem(severity Severity, at place, key, format string, args ...any) {
	r.problems = append(r.problems, Problem{
		File: r.name, Line: at.line, Column: at.column, Severity: severity, Key: key, Text: fmt.Sprintf(format, args...),
	})
}

func (r *reader) wrong(n *yaml.Node, key, format string, args ...any) {
	r.refused[key] = true
	r.problem(Error, placeOf(n), key, format, args...)
}

func placeOf(n *yaml.Node) place { return place{n.Line, n.Column} }

// parse returns what the only document of the text holds, nil when that is nothing
// or cannot be read.
func (r *reader) parse() *yaml.Node {
	if len(r.text) > maxDocument {
		r.problem(Error, place{}, "", "it has %d bytes and may have %d; part it into several documents", len(r.text), maxDocument)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(r.text))
	var doc, more yaml.Node
	err := dec.Decode(&doc)
	if err == nil {
		if err = dec.Decode(&more); err == nil {
			r.wrong(&more, "", "a second document begins here; keep one document in the file")
			return nil
		}
	}
	if !errors.Is(err, io.EOF) {
		r.notYAML(err)
		return nil
	}
	if len(doc.Content) == 0 || empty(doc.Content[0]) {
		r.problem(Error, place{1, 1}, "", "it holds no policy; write policies: and below it a list, each item with a name")
		return nil
	}
	return doc.Content[0]
}

// notYAML places an error of the YAML library, which tells lines in words.
func (r *reader) notYAML(err error) {
	text, at := strings.TrimPrefix(err.Error(), "yaml: "), place{}
	if m := regexp.MustCompile(`^line (\d+): (.*)`).FindStringSubmatch(text); m != nil {
		if line, bad := strconv.Atoi(m[1]); bad == nil {
			text, at = m[2], place{line: line}
		}
	}
	r.problem(Error, at, "", "it is not YAML: %s; look at this line and the one before it", text)
}

func empty(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// document finds the policies of a document.
func (r *reader) document(root *yaml.Node) {
	r.pairs(root, "", func(name, value *yaml.Node) {
		if name.Value != "policies" {
			r.wrong(name, name.Value, "unknown key%s", suggestion(name.Value, []string{"policies"}))
			return
		}
		value = target(value)
		if !r.kind(value, yaml.SequenceNode, "policies", "a list") {
			return
		}
		if len(value.Content) == 0 {
			r.wrong(value, "policies", "there is none; add an item with a name")
		}
		if len(value.Content) > maxPolicies {
			r.wrong(value, "policies", "there are %d and may be %d; part them into several documents", len(value.Content), maxPolicies)
			return
		}
		for i, item := range value.Content {
			r.entry(fmt.Sprintf("policies[%d]", i), target(item))
		}
	})
}

// entry takes in a policy by its name; what it says is read once that which it
// extends is known.
func (r *reader) entry(key string, n *yaml.Node) {
	if !r.kind(n, yaml.MappingNode, key, "a policy with a name") {
		return
	}
	e := &entry{key: key, node: n, at: places{"": placeOf(n)}}
	for i := 0; i+1 < len(n.Content); i += 2 {
		value := target(n.Content[i+1])
		if value.Kind != yaml.ScalarNode || empty(value) {
			continue
		}
		switch n.Content[i].Value {
		case "name":
			e.name, e.at["name"] = value.Value, placeOf(value)
		case "extends":
			e.extends, e.at["extends"] = value.Value, placeOf(value)
		}
	}
	r.named(e)
	r.entries = append(r.entries, e)
}

// named looks at a policy's name.
func (r *reader) named(e *entry) {
	at, key := e.at.of("name"), e.key+".name"
	if e.name == "" {
		r.problem(Error, at, key, "the policy has no name; add one, by which rollouts can call it")
		return
	}
	if !nameShape().MatchString(e.name) {
		r.problem(Error, at, key, "%q is no name; use 1 to 63 of a to z, 0 to 9, - and _", e.name)
	}
	if slices.Contains(presetNames(), e.name) {
		r.problem(Error, at, key, "%s is built in; choose another name and write extends: %s", e.name, e.name)
	}
	for _, other := range r.entries {
		if other.name == e.name {
			r.problem(Error, at, key, "policy %s is already in line %d; keep one of them or rename it", e.name, other.at.of("name").line)
			return
		}
	}
}

func nameShape() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9_-]{1,63}$`) }

func presetNames() []string {
	var out []string
	for _, p := range presets() {
		out = append(out, p.Name)
	}
	return out
}

// resolve reads a policy over the one that it extends. Those before it are the
// policies that extend it, the first of them first.
func (r *reader) resolve(e *entry, before []*entry) {
	if e.state == complete {
		return
	}
	e.state = underWay
	base, at := r.parent(e, append(before, e))
	base.Name = e.name
	e.policy = base
	for key, where := range at {
		if _, own := e.at[key]; !own {
			e.at[key] = where
		}
	}
	r.section(e.node, reflect.ValueOf(&e.policy).Elem(), "", e)
	e.state = complete
}

// parent is a copy of the policy that an entry extends, with where its keys stand.
// Where that cannot be known it is standard, so that the rest can be looked at.
func (r *reader) parent(e *entry, chain []*entry) (policy, places) {
	key, at := e.key+".extends", e.at.of("extends")
	if e.extends == "" {
		return standard(), nil
	}
	for _, p := range presets() {
		if p.Name == e.extends {
			return p, nil
		}
	}
	i := slices.IndexFunc(r.entries, func(other *entry) bool { return other.name == e.extends })
	if i < 0 {
		known := presetNames()
		for _, other := range r.entries {
			if other != e && other.name != "" {
				known = append(known, other.name)
			}
		}
		r.problem(Error, at, key, "there is no policy %q%s", e.extends, suggestion(e.extends, known))
		return standard(), nil
	}
	if from := slices.Index(chain, r.entries[i]); from >= 0 {
		var names []string
		for _, one := range chain[from:] {
			names = append(names, one.name)
		}
		r.problem(Error, at, key, "a policy cannot extend itself, and here %s extends %s; end the circle with careful, standard or fast",
			strings.Join(names, " extends "), names[0])
		return standard(), nil
	}
	r.resolve(r.entries[i], chain)
	base := r.entries[i].policy
	base.Step.Rules, base.Wave.Rules = slices.Clone(base.Step.Rules), slices.Clone(base.Wave.Rules)
	above := maps.Clone(r.entries[i].at)
	for _, own := range []string{"", "name", "extends"} {
		delete(above, own)
	}
	return base, above
}

// target follows an alias.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// value reads a node over what v has, which it keeps where the node is empty or
// wrong. Key is that within the policy.
func (r *reader) value(n *yaml.Node, v reflect.Value, key string, e *entry) {
	n = target(n)
	if empty(n) || !r.fits(n, e.key+"."+key) {
		return
	}
	if v.Kind() != reflect.Struct && v.Kind() != reflect.Slice {
		e.at[key] = placeOf(n)
	}
	full := e.key + "." + key
	switch v.Type() {
	case reflect.TypeFor[time.Duration]():
		r.duration(n, v, full)
		return
	case reflect.TypeFor[gate.Mode]():
		r.word(n, v, full, words(gate.Modes()))
		return
	case reflect.TypeFor[gate.Demand]():
		r.word(n, v, full, words(gate.Demands()))
		return
	case reflect.TypeFor[gate.Verdict]():
		r.word(n, v, full, words(ruleVerdicts()))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		r.section(n, v, key, e)
	case reflect.Slice:
		r.rules(n, v, key, e)
	case reflect.String:
		if r.kind(n, yaml.ScalarNode, full, "text") {
			v.SetString(n.Value)
		}
	case reflect.Bool:
		r.scalar(n, v, full, "true or false", "!!bool")
	case reflect.Int:
		r.scalar(n, v, full, "a whole number", "!!int")
	case reflect.Float64:
		r.scalar(n, v, full, "a number", "!!float", "!!int")
	default:
		panic(fmt.Sprintf("gatefile: key %s is of type %s, which no document can hold", key, v.Type()))
	}
}

// fits counts the values of a node and says whether there is room for them.
func (r *reader) fits(n *yaml.Node, key string) bool {
	before := r.values
	r.values += 1 + len(n.Content)
	if r.values > maxValues && before <= maxValues {
		r.wrong(n, key, "the document holds too much up to here, more than %d values, those behind aliases counted each time; part it", maxValues)
	}
	return r.values <= maxValues
}

func (r *reader) section(n *yaml.Node, v reflect.Value, key string, e *entry) {
	var names []string
	fields := make(map[string]reflect.Value)
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		names = append(names, name)
		fields[name] = v.Field(i)
	}
	r.pairs(n, below(e.key, key), func(name, value *yaml.Node) {
		at := below(key, name.Value)
		field, known := fields[name.Value]
		if !known {
			r.wrong(name, e.key+"."+at, "unknown key%s", suggestion(name.Value, names))
			return
		}
		e.at[at] = placeOf(name)
		r.value(value, field, at, e)
	})
}

// rules reads rules over those that are there, each over the one of its name.
func (r *reader) rules(n *yaml.Node, v reflect.Value, key string, e *entry) {
	if !r.kind(n, yaml.SequenceNode, e.key+"."+key, "a list") {
		return
	}
	list, ok := v.Addr().Interface().(*[]rule)
	if !ok {
		panic(fmt.Sprintf("gatefile: key %s is a list of %s, which no document can hold", key, v.Type().Elem()))
	}
	first := make(map[string]int)
	var above []string
	for _, one := range *list {
		above = append(above, one.Name)
	}
	for i, item := range n.Content {
		item = target(item)
		at := fmt.Sprintf("%s[%d]", key, i)
		if !r.kind(item, yaml.MappingNode, e.key+"."+at, "a rule with a name") {
			continue
		}
		name := nameOf(item)
		if name == "" {
			r.wrong(item, e.key+"."+at, "the rule has no name; add one, by which decisions can call it")
		} else {
			at = key + "[" + name + "]"
		}
		if line, repeated := first[name]; repeated && name != "" {
			r.wrong(item, e.key+"."+at, "the rule is already in line %d; keep one of them or rename it", line)
			continue
		}
		first[name] = item.Line
		r.rule(item, list, above, at, e)
	}
}

// rule reads one rule. Above are the names of those that the policy takes over.
func (r *reader) rule(item *yaml.Node, list *[]rule, above []string, at string, e *entry) {
	name := nameOf(item)
	there := slices.IndexFunc(*list, func(one rule) bool { return one.Name == name && name != "" })
	one := rule{}
	if there >= 0 {
		one = (*list)[there]
	} else {
		e.at[at] = placeOf(item)
	}
	r.section(item, reflect.ValueOf(&one).Elem(), at, e)
	switch {
	case one.Off && there >= 0:
		*list = slices.Delete(*list, there, there+1)
	case one.Off:
		hint := "; the policy takes over none"
		if len(above) > 0 {
			hint = suggestion(name, above)
		}
		r.wrong(item, e.key+"."+at, "there is no rule %s to remove%s", name, hint)
	case there >= 0:
		(*list)[there] = one
	default:
		*list = append(*list, one)
	}
}

func nameOf(item *yaml.Node) string {
	for i := 0; i+1 < len(item.Content); i += 2 {
		if value := target(item.Content[i+1]); item.Content[i].Value == "name" && value.Kind == yaml.ScalarNode && !empty(value) {
			return value.Value
		}
	}
	return ""
}

func (r *reader) kind(n *yaml.Node, want yaml.Kind, key, noun string) bool {
	if n.Kind != want {
		r.wrong(n, key, "expected %s, found %s", noun, config.Describe(n))
		return false
	}
	return true
}

func (r *reader) scalar(n *yaml.Node, v reflect.Value, key, noun string, tags ...string) {
	if n.Kind != yaml.ScalarNode || !slices.Contains(tags, n.ShortTag()) {
		r.wrong(n, key, "expected %s, found %s", noun, config.Describe(n))
		return
	}
	read := reflect.New(v.Type())
	if err := n.Decode(read.Interface()); err != nil {
		r.wrong(n, key, "%s does not fit here, expected %s of ordinary size", n.Value, noun)
		return
	}
	v.Set(read.Elem())
}

func (r *reader) duration(n *yaml.Node, v reflect.Value, key string) {
	if !r.kind(n, yaml.ScalarNode, key, `a duration such as "30s"`) {
		return
	}
	d, err := time.ParseDuration(n.Value)
	if err != nil {
		r.wrong(n, key, `%q is not a duration; write a number with a unit, such as "30s", "10m" or "24h"`, n.Value)
		return
	}
	v.SetInt(int64(d))
}

func (r *reader) word(n *yaml.Node, v reflect.Value, key string, known []string) {
	if !r.kind(n, yaml.ScalarNode, key, "one of "+strings.Join(known, ", ")) {
		return
	}
	if !slices.Contains(known, n.Value) {
		r.wrong(n, key, "%q is none of %s%s", n.Value, strings.Join(known, ", "), meant(n.Value, known))
		return
	}
	v.SetString(n.Value)
}

// meant names the word that was probably meant; all that there are were told.
func meant(got string, known []string) string {
	for _, k := range known {
		if len(got) > 2 && strings.HasPrefix(k, strings.ToLower(got)) {
			return "; did you mean " + k + "?"
		}
	}
	if near := config.Nearest(got, known); len(near) > 0 {
		return "; did you mean " + near[0] + "?"
	}
	return ""
}

func words[T ~string](list []T) []string {
	out := make([]string, 0, len(list))
	for _, one := range list {
		out = append(out, string(one))
	}
	return out
}

func ruleVerdicts() []gate.Verdict { return []gate.Verdict{gate.Fail, gate.Hold} }

// pairs visits the entries of a mapping and reports keys that are repeated or are
// not plain words. Key is that within the document.
func (r *reader) pairs(n *yaml.Node, key string, visit func(name, value *yaml.Node)) {
	if !r.kind(n, yaml.MappingNode, key, "keys with values") {
		return
	}
	first := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode {
			r.wrong(name, key, "expected a key, found %s", config.Describe(name))
			continue
		}
		if line, repeated := first[name.Value]; repeated {
			r.wrong(name, below(key, name.Value), "the key is already set in line %d; keep one of them", line)
			continue
		}
		first[name.Value] = name.Line
		visit(name, value)
	}
}

func below(key, name string) string {
	if key == "" || name == "" {
		return key + name
	}
	return key + "." + name
}

// within is where a letter of a text that YAML gave stands in the document, for texts
// in quotation marks, in blocks and over lines: they differ from what was written in
// space and escapes only, so what is not space is looked for letter by letter. Line
// and column are those in the text, counted from 1.
func (r *reader) within(begin place, text string, line, column int) place {
	lines := strings.Split(text, "\n")
	if line > len(lines) {
		return begin
	}
	before := []rune(lines[line-1])
	before = before[:min(max(column-1, 0), len(before))]
	todo := []rune(strings.Join(lines[:line-1], "\n") + "\n" + string(before))
	rest := []rune(lines[line-1])[len(before):]
	if len(rest) > 0 {
		todo = append(todo, rest[0])
	}
	at, last := begin, begin
	if at.line < 1 || at.line > len(r.lines) {
		return begin
	}
	row := []rune(r.lines[at.line-1])
	if i := at.column - 1; i >= 0 && i < len(row) && (row[i] == '|' || row[i] == '>') {
		at = place{at.line + 1, 1} // what a block holds begins below its sign
	}
	for _, letter := range todo {
		if unicode.IsSpace(letter) {
			continue
		}
		for {
			if at.line > len(r.lines) {
				return last
			}
			row := []rune(r.lines[at.line-1])
			i := slices.Index(row[min(at.column-1, len(row)):], letter)
			if i < 0 {
				at = place{at.line + 1, 1}
				continue
			}
			last = place{at.line, at.column + i}
			at = place{last.line, last.column + 1}
			break
		}
	}
	return last
}
