package fleetfile

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// DefineCluster writes a cluster, with every default filled, as its entry in fleet.yaml without the release
// that it shall run, which changes without its definition. It is canonical: keys
// at their defaults are left out, so that clusters which are the same have the
// same definition, byte by byte. The engine of a Compose project is always there,
// because what it would be without depends on the environment.
func DefineCluster(c Cluster) string {
	c.Release = ""
	return write(entry(c))
}

// DefineDrift writes the section drift of fleet.yaml in the same way.
func DefineDrift(d Drift) string { return write(section(d)) }

// entry is a cluster as YAML, its release included.
func entry(c Cluster) *yaml.Node {
	plain := every()
	plain.complete("")
	if c.Compose != nil {
		plain.Compose.Project = string(c.ID)
	}
	return orNothing(said(reflect.ValueOf(c), reflect.ValueOf(plain)))
}

// section is the section drift as YAML.
func section(d Drift) *yaml.Node {
	plain := Default(func(string) string { return "" }).Drift
	plain.WindowCap = max(windowCap, d.MixedWindow) // as complete fills it
	return orNothing(said(reflect.ValueOf(d), reflect.ValueOf(plain)))
}

// said is the YAML of a value without what is as in plain; nil where nothing else
// is left.
func said(v, plain reflect.Value) *yaml.Node {
	switch list := v.Kind() == reflect.Slice; {
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return orNothing(said(v.Elem(), plain.Elem()))
	case v.Kind() == reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for i := range v.NumField() {
			if value := said(v.Field(i), plain.Field(i)); value != nil {
				n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: v.Type().Field(i).Tag.Get("yaml")}, value)
			}
		}
		if len(n.Content) == 0 {
			return nil
		}
		return n
	case (list || v.Kind() == reflect.Map) && v.Len() == 0:
		return nil
	case list && v.Type().Elem().Kind() == reflect.Struct:
		item := reflect.Zero(v.Type().Elem())
		if plain.Len() > 0 {
			item = plain.Index(0)
		}
		n := &yaml.Node{Kind: yaml.SequenceNode}
		for i := range v.Len() {
			n.Content = append(n.Content, orNothing(said(v.Index(i), item)))
		}
		return n
	case reflect.DeepEqual(v.Interface(), plain.Interface()):
		return nil
	}
	return leaf(v)
}

// leaf is a value as YAML. Plain words, which most values are, need not be written
// and read to know how.
func leaf(v reflect.Value) *yaml.Node {
	if v.Kind() == reflect.String && plainWord.MatchString(v.String()) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v.String()}
	}
	return tree(config.Marshal(v.Interface()))
}

// plainWord is text in which nothing could need an escape; whether it needs quotes
// is known to whoever writes it.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9/._:@-]+$`)

// orNothing is a section that is there and says nothing, where n is nil.
func orNothing(n *yaml.Node) *yaml.Node {
	if n == nil {
		return &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	}
	return n
}

// tree reads YAML that was written here.
func tree(text string) *yaml.Node {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		panic(fmt.Sprintf("fleetfile: %q: %v", text, err))
	}
	return doc.Content[0]
}

func write(n *yaml.Node) string {
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		panic(fmt.Sprintf("fleetfile: write YAML: %v", err)) // a buffer takes everything
	}
	return b.String()
}

// ParseCluster reads what DefineCluster wrote, with every default filled. Keys
// that it does not know are passed over: a newer version wrote them.
func ParseCluster(definition string) (Cluster, error) {
	var c Cluster
	if err := parse(definition, &c); err != nil {
		return Cluster{}, errs.New(errs.Internal, "LS-CFG-010", "read the stored definition of a cluster: %w", err)
	}
	if c.ID == "" {
		return Cluster{}, errs.New(errs.Internal, "LS-CFG-010", "read the stored definition of a cluster: it has no id")
	}
	c.complete(localEngine)
	return c, nil
}

// ParseDrift reads what DefineDrift wrote, in the same way.
func ParseDrift(definition string) (Drift, error) {
	d := Default(func(string) string { return "" }).Drift
	d.WindowCap = 0 // complete fills it, once mixed_window is known
	if err := parse(definition, &d); err != nil {
		return Drift{}, errs.New(errs.Internal, "LS-CFG-010", "read the stored limits of drift: %w", err)
	}
	d.complete()
	return d, nil
}

func parse(definition string, into any) error {
	r := reading{lenient: true}
	root, err := r.parse([]byte(definition))
	if err != nil {
		return err
	}
	if root != nil {
		r.value(root, reflect.ValueOf(into).Elem(), "")
	}
	if len(r.problems) > 0 {
		return fmt.Errorf("%s", r.problems[0])
	}
	return nil
}

// Export writes a document which Declare reads back to the same definitions.
func Export(clusters []Cluster, releases []Release, drift Drift) (string, error) {
	doc := &yaml.Node{Kind: yaml.MappingNode}
	add := func(name string, value *yaml.Node) {
		doc.Content = append(doc.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: name}, value)
	}
	list := &yaml.Node{Kind: yaml.SequenceNode}
	for _, r := range releases {
		plain := Release{Gateway: new(Image), SRA: new(Image)}
		list.Content = append(list.Content, orNothing(said(reflect.ValueOf(r), reflect.ValueOf(plain))))
	}
	add("releases", list)
	list = &yaml.Node{Kind: yaml.SequenceNode}
	for _, c := range clusters {
		list.Content = append(list.Content, entry(c))
	}
	add("clusters", list)
	add("drift", section(drift))
	text := write(doc)
	if len(text) > MaxDocument {
		return "", errs.New(errs.Exhausted, "LS-CFG-009", "as one document the fleet has %d bytes, and a document may have %d", len(text), MaxDocument)
	}
	return text, nil
}

// Diff says in lines what is different between two definitions: "- labels.env:
// stage" and "+ labels.env: prod", keys in order. A definition that is empty has
// nothing.
func Diff(before, after string) []string {
	old, recent := facts(before), facts(after)
	var lines []fact
	for _, f := range old {
		if !slices.Contains(recent, f) {
			lines = append(lines, fact{f.key, "- " + f.key + ": " + f.text})
		}
	}
	for _, f := range recent {
		if !slices.Contains(old, f) {
			lines = append(lines, fact{f.key, "+ " + f.key + ": " + f.text})
		}
	}
	// What goes stands before what comes: the order in which they were added.
	slices.SortStableFunc(lines, func(a, b fact) int { return cmp.Compare(a.key, b.key) })
	out := make([]string, 0, len(lines))
	for _, f := range lines {
		out = append(out, f.text)
	}
	return out
}

// fact is a key with its value, in one line.
type fact struct{ key, text string }

// facts lists what a definition says.
func facts(definition string) []fact {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(definition), &doc); err != nil || len(doc.Content) == 0 || len(doc.Content[0].Content) == 0 {
		return nil
	}
	return flat(doc.Content[0], "")
}

func flat(n *yaml.Node, key string) []fact {
	var out []fact
	switch {
	case n.Kind == yaml.MappingNode && len(n.Content) > 0:
		for i := 0; i+1 < len(n.Content); i += 2 {
			out = append(out, flat(n.Content[i+1], below(key, n.Content[i].Value))...)
		}
		return out
	case n.Kind == yaml.SequenceNode && len(n.Content) > 0 && n.Content[0].Kind == yaml.MappingNode:
		for _, item := range n.Content {
			// An item is known by its name, wherever in the list it stands; one without a
			// name is what it says.
			if name := named(item); name != "" {
				out = append(out, flat(item, key+"["+name+"]")...)
			} else {
				out = append(out, fact{key + "[]", oneLine(item)})
			}
		}
		return out
	}
	return []fact{{key, oneLine(n)}}
}

func named(item *yaml.Node) string {
	for i := 0; i+1 < len(item.Content); i += 2 {
		if item.Content[i].Value == "name" {
			return item.Content[i+1].Value
		}
	}
	return ""
}

// oneLine is a value as YAML without line ends.
func oneLine(n *yaml.Node) string {
	flow := *n
	if flow.Kind != yaml.ScalarNode {
		flow.Style = yaml.FlowStyle
	}
	return strings.TrimSpace(write(&flow))
}
