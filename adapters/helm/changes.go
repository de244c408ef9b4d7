package helm

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

var environment = regexp.MustCompile(`\benv\[\d+\]\.value$`)

const (
	// mostChanges bounds what a plan tells of one cluster, and mostText of one value.
	mostChanges = 100
	mostText    = 120
)

// valueChanges tells what differs between two sets of values, by path.
func valueChanges(release string, before, after map[string]any) []string {
	return differences("values of "+release, flat(before), flat(after))
}

// objectChanges tells what differs between two manifests, by object and path. What
// Secrets hold is neither told nor looked at: charts make some of it up at each
// rendering.
func objectChanges(before, after string) ([]string, error) {
	was, err := objects(before)
	if err != nil {
		return nil, err
	}
	is, err := objects(after)
	if err != nil {
		return nil, err
	}
	var out []string
	names := slices.Sorted(maps.Keys(was))
	for name := range is {
		if was[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case was[name] == nil:
			out = append(out, name+" is new")
		case is[name] == nil:
			out = append(out, name+" goes away")
		case !strings.HasPrefix(name, "Secret "):
			out = append(out, differences(name, flat(was[name]), flat(is[name]))...)
		}
	}
	return out, nil
}

// objects reads a manifest by "Kind name".
func objects(manifest string) (map[string]map[string]any, error) {
	out := make(map[string]map[string]any)
	for _, text := range documents(manifest) {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			return nil, fmt.Errorf("reading a rendered object: %w", err)
		}
		if object == nil {
			continue
		}
		meta, _ := object["metadata"].(map[string]any)
		name := fmt.Sprintf("%v %v", object["kind"], meta["name"])
		if space, said := meta["namespace"].(string); said {
			name = fmt.Sprintf("%v %s/%v", object["kind"], space, meta["name"])
		}
		out[name] = object
	}
	return out, nil
}

// documents parts a manifest where a line says so.
func documents(manifest string) []string {
	var out []string
	var one strings.Builder
	for line := range strings.Lines(manifest) {
		if strings.HasPrefix(line, "---") {
			out = append(out, one.String())
			one.Reset()
			continue
		}
		one.WriteString(line)
	}
	return append(out, one.String())
}

// flat lists the leaves of a tree by path.
func flat(tree map[string]any) map[string]string {
	out := make(map[string]string)
	var walk func(path string, at any)
	walk = func(path string, at any) {
		switch v := at.(type) {
		case map[string]any:
			for key, below := range v {
				if strings.Contains(key, ".") {
					key = "[" + key + "]"
				}
				walk(strings.TrimPrefix(path+"."+key, "."), below)
			}
			if len(v) > 0 {
				return
			}
		case []any:
			for i, below := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), below)
			}
			if len(v) > 0 {
				return
			}
		}
		text, _ := json.Marshal(at) // it came out of YAML
		out[path] = string(text)
	}
	walk("", tree)
	delete(out, "")
	return out
}

func differences(of string, before, after map[string]string) []string {
	var out []string
	paths := slices.Collect(maps.Keys(before))
	for path := range after {
		if _, had := before[path]; !had {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, path := range paths {
		was, had := before[path]
		is, has := after[path]
		if had == has && was == is {
			continue
		}
		if secret(path) {
			was, is = "(not shown)", "(not shown)"
		}
		line := of + ": " + path
		switch {
		case !had:
			line += " = " + short(is)
		case !has:
			line += " is gone, was " + short(was)
		default:
			line += ": " + short(was) + " → " + short(is)
		}
		out = append(out, line)
	}
	return out
}

// secret says whether a value's name speaks of something that is not for everybody.
func secret(path string) bool {
	if environment.MatchString(path) {
		return true // who knows what a variable holds
	}
	lower := strings.ToLower(path)
	return slices.ContainsFunc([]string{"password", "secret", "token", "accesskey", "access_key", "privatekey", "private_key", "credential"}, func(word string) bool {
		return strings.Contains(lower, word)
	})
}

func short(text string) string {
	if runes := []rune(text); len(runes) > mostText {
		return string(runes[:mostText]) + "…"
	}
	return text
}

// bounded keeps a list of changes readable.
func bounded(lines []string) []string {
	if len(lines) <= mostChanges {
		return lines
	}
	return append(slices.Clip(lines[:mostChanges]), fmt.Sprintf("and %d more changes", len(lines)-mostChanges))
}
