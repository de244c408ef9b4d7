//go:build linux && amd64

package evaluator_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
)

// documents are of a plain language, a line for each thing:
//
//	cluster paris release=spring window=30m0s env=prod
//	release spring gateway=2 sra=2
//	limits mixed=1h0m0s dark=2m0s split=1h0m0s cap=0s
//
// A line that begins otherwise is a section that does not concern the fleet. What
// stands behind the name of a cluster, but for its release, is its definition.
type documents struct{}

// line takes one apart.
func line(text string) (kind, name string, values map[string]string) {
	words := strings.Fields(text)
	values = make(map[string]string)
	for _, word := range words[1:] {
		if key, value, ok := strings.Cut(word, "="); ok {
			values[key] = value
		} else {
			name = word
		}
	}
	return words[0], name, values
}

func (d documents) Declare(document []byte) (evaluator.Declaration, error) {
	var out evaluator.Declaration
	for text := range strings.Lines(string(document)) {
		if strings.TrimSpace(text) == "" {
			continue
		}
		switch kind, name, values := line(text); kind {
		case "cluster":
			release := values["release"]
			delete(values, "release")
			c, err := d.Cluster(defined("cluster", name, values))
			if err != nil {
				return out, err
			}
			c.Release = fleet.ReleaseID(release)
			out.Clusters = append(out.Clusters, c)
		case "release":
			r := catalog.Release{ID: fleet.ReleaseID(name), Versions: fleet.VersionSet{}}
			for l, version := range values {
				r.Versions[fleet.Line(l)] = version
			}
			out.Releases = append(out.Releases, r)
		case "limits":
			out.Limits = defined("limits", "", values)
		case "nonsense":
			return out, errors.New("the document is nonsense")
		default:
			out.PassedOver = append(out.PassedOver, kind)
		}
	}
	return out, nil
}

// defined is a line, its values in order.
func defined(kind, name string, values map[string]string) string {
	out := kind
	if name != "" {
		out += " " + name
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		out += " " + key + "=" + values[key]
	}
	return out
}

func (documents) Cluster(definition string) (evaluator.DeclaredCluster, error) {
	_, name, values := line(definition)
	c := evaluator.DeclaredCluster{Definition: definition, ClusterConfig: evaluator.ClusterConfig{ID: fleet.ClusterID(name)}}
	if window, ok := values["window"]; ok {
		var err error
		if c.Window, err = time.ParseDuration(window); err != nil {
			return c, err
		}
		delete(values, "window")
	}
	if len(values) > 0 {
		c.Labels = values
	}
	return c, nil
}

func (documents) Limits(definition string) (drift.Limits, error) {
	_, _, values := line(definition)
	var errs []error
	read := func(key string) time.Duration {
		d, err := time.ParseDuration(cmp.Or(values[key], "1h"))
		errs = append(errs, err)
		return d
	}
	limits := drift.Limits{MixedWindow: read("mixed"), DarkAfter: read("dark"), SplitAfter: read("split")}
	if values["cap"] != "" {
		limits.Learned = &drift.Windows{Cap: read("cap")}
	}
	return limits, errors.Join(errs...)
}

func (documents) Diff(before, after string) []string {
	var out []string
	for _, side := range []struct{ sign, is, other string }{{"- ", before, after}, {"+ ", after, before}} {
		others := strings.Fields(side.other)
		for _, word := range strings.Fields(side.is) {
			if !slices.Contains(others, word) {
				out = append(out, side.sign+word)
			}
		}
	}
	return out
}

func (documents) Export(clusters []evaluator.DeclaredCluster, releases []catalog.Release, limits string) (string, error) {
	var b strings.Builder
	for _, r := range releases {
		fmt.Fprintf(&b, "release %s %s\n", r.ID, r.Versions)
	}
	for _, c := range clusters {
		definition := cmp.Or(c.Definition, "cluster "+string(c.ID))
		if c.Release != "" {
			definition += " release=" + string(c.Release)
		}
		b.WriteString(definition + "\n")
	}
	if limits != "" {
		b.WriteString(limits + "\n")
	}
	return b.String(), nil
}
