package main

import (
	"log/slog"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/sources"
)

// documents reads and writes the documents in which people declare a fleet, in
// the language of the configuration file.
type documents struct {
	// fleet is the configuration with what documents have declared so far.
	fleet func() fleetfile.File
	env   func(string) string
}

func (d documents) Declare(document []byte) (evaluator.Declaration, error) {
	base := d.fleet()
	read, err := fleetfile.Declare(document, base, d.env)
	if err != nil {
		return evaluator.Declaration{}, err
	}
	out := evaluator.Declaration{Releases: imageSets(read.Releases), PassedOver: read.PassedOver}
	clusters := make(map[fleet.ClusterID]fleetfile.Cluster, len(read.Clusters))
	for _, c := range read.Clusters {
		out.Clusters = append(out.Clusters, evaluator.DeclaredCluster{
			ClusterConfig: evaluator.ClusterConfig{ID: c.ID, Release: c.Release, Labels: c.Labels, Window: c.Window}, Definition: c.Definition,
		})
		if clusters[c.ID], err = fleetfile.ParseCluster(c.Definition); err != nil {
			return evaluator.Declaration{}, err
		}
	}
	if read.Drift != nil {
		out.Limits = read.Drift.Definition
	}
	// What it names, such as a file with a key, has to be there before anybody relies
	// on it.
	looks, err := sources.Open(fleetfile.Effective(base, clusters, read.Releases, nil), slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		return evaluator.Declaration{}, errs.New(errs.Invalid, "LS-FLT-008", "the document cannot be put to work on the server: %w", err)
	}
	return out, looks.Close()
}

func (documents) Cluster(definition string) (evaluator.DeclaredCluster, error) {
	c, err := fleetfile.ParseCluster(definition)
	return declaredCluster(c, definition), err
}

func declaredCluster(c fleetfile.Cluster, definition string) evaluator.DeclaredCluster {
	return evaluator.DeclaredCluster{
		ClusterConfig: evaluator.ClusterConfig{ID: c.ID, Release: c.Release, Labels: c.Labels, Window: c.Window, Checks: sources.Checks(c)},
		Definition:    definition,
	}
}

func (documents) Limits(definition string) (drift.Limits, error) {
	d, err := fleetfile.ParseDrift(definition)
	return limits(d), err
}

func (documents) Diff(before, after string) []string { return fleetfile.Diff(before, after) }

func (documents) Export(clusters []evaluator.DeclaredCluster, releases []catalog.Release, definition string) (string, error) {
	out := make([]fleetfile.Cluster, 0, len(clusters))
	for _, declared := range clusters {
		c, err := fleetfile.ParseCluster(declared.Definition)
		if err != nil {
			return "", err
		}
		c.Release = declared.Release
		out = append(out, c)
	}
	d, err := fleetfile.ParseDrift(definition)
	if err != nil {
		return "", err
	}
	return fleetfile.Export(out, asImages(releases), d)
}

// limits are what counts as fine, with nothing learned yet.
func limits(d fleetfile.Drift) drift.Limits {
	out := drift.Limits{MixedWindow: d.MixedWindow, DarkAfter: d.DarkAfter, SplitAfter: d.SplitAfter, Steps: d.Steps}
	for _, e := range d.Edges {
		out.Edges = append(out.Edges, drift.EdgeWindow{Line: e.Line, From: e.From, To: e.To, Window: e.Window})
	}
	if d.LearnWindows {
		out.Learned = &drift.Windows{Cap: d.WindowCap}
	}
	return out
}

// imageSets are the releases of a configuration or document as the catalogue has
// them.
func imageSets(releases []fleetfile.Release) []catalog.Release {
	out := make([]catalog.Release, 0, len(releases))
	for _, r := range releases {
		release := catalog.Release{ID: r.ID, Versions: make(fleet.VersionSet), Images: make(map[fleet.Line]string)}
		for line, image := range r.Lines() {
			release.Versions[line], release.Images[line] = image.Version, image.Image
		}
		out = append(out, release)
	}
	return out
}

// asImages are sets of images as a document has them.
func asImages(releases []catalog.Release) []fleetfile.Release {
	var out []fleetfile.Release
	for _, r := range releases {
		release := fleetfile.Release{ID: r.ID}
		image := func(line fleet.Line) *fleetfile.Image {
			// What may move is no release that a document can name.
			if r.Versions[line] == "" || !pinned(r.Images[line]) {
				return nil
			}
			return &fleetfile.Image{Version: r.Versions[line], Image: r.Images[line]}
		}
		if release.Gateway, release.SRA = image(fleet.LineGateway), image(fleet.LineSRA); release.Gateway != nil || release.SRA != nil {
			out = append(out, release)
		}
	}
	return out
}

// pinned says whether an image names a digest or a tag other than latest.
func pinned(image string) bool {
	name, tag, tagged := strings.Cut(image[strings.LastIndex(image, "/")+1:], ":")
	return strings.Contains(name, "@") || tagged && tag != "latest"
}
