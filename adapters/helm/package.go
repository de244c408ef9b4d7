package helm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	release "helm.sh/helm/v4/pkg/release/v1"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// format is the version of Package's JSON form. A reader refuses a newer one.
const format = 1

// Package is everything needed to put a cluster's Helm releases back as they were, or
// to bring them somewhere else: Helm's own record of each, and where one has a
// Target, the chart and the values that come instead.
//
// A package can hold secrets (values and manifests do).
type Package struct {
	Format    int       `json:"format"`
	Namespace string    `json:"namespace"`
	Releases  []Release `json:"releases"`
	// Runs is what runs of each component once the package is applied.
	Runs map[fleet.Component]Run `json:"runs"`
}

// Release is one Helm release of a package.
type Release struct {
	// Record is Helm's of what was deployed when the package was captured. It holds the
	// manifest, so that what a chart makes up at each rendering comes back as it was.
	Record *release.Release `json:"record"`
	// Target is what an upgrade brings instead; nil is the record itself.
	Target *Target `json:"target,omitempty"`
}

// Target is a chart and its values.
type Target struct {
	// Files are the chart's; none means the record's chart.
	Files []File `json:"files,omitempty"`
	// Values are all that people and the plan give, as YAML.
	Values string `json:"values"`
}

// Run is what runs of a component.
type Run struct {
	// Image is what the pods ask for.
	Image string `json:"image"`
	// Digest is that of the image, "sha256:…", empty when the engine does not tell it.
	Digest string `json:"digest,omitempty"`
}

// encode returns the canonical form: equal packages give equal bytes.
func (p Package) encode() ([]byte, error) { return json.Marshal(p) }

// decode reads what encode wrote and refuses anything damaged or newer.
func decode(data []byte) (Package, error) {
	var p Package
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return p, errs.New(errs.Internal, "LS-HLM-010", "reading a recorded package of Helm releases: %w; it is damaged or from a newer version", err)
	}
	if p.Format != format {
		return p, errs.New(errs.Internal, "LS-HLM-010", "reading a recorded package of Helm releases: format %d is not %d, the one this version knows", p.Format, format)
	}
	for _, r := range p.Releases {
		if r.Record == nil || r.Record.Info == nil || r.Record.Chart == nil || r.Record.Chart.Metadata == nil {
			return p, errs.New(errs.Internal, "LS-HLM-010", "reading a recorded package of Helm releases of namespace %s: a record has no chart; it is damaged", p.Namespace)
		}
	}
	return p, nil
}

// chart is what an upgrade to the target brings.
func (r Release) chart() (*chart.Chart, error) {
	if len(r.Target.Files) > 0 {
		return fetched{files: r.Target.Files}.load()
	}
	return r.Record.Chart, nil
}

// values reads values as Helm does.
func readValues(text []byte) (map[string]any, error) {
	out := make(map[string]any)
	err := yaml.Unmarshal(text, &out)
	if out == nil { // a document that is empty
		out = make(map[string]any)
	}
	return out, err
}

// copied is a copy of values, through the form in which Helm keeps them.
func copied(values map[string]any) (map[string]any, error) {
	text, err := yaml.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("copying values: %w", err)
	}
	return readValues(text)
}

// knob is the values' path that says which image a component runs.
type knob struct {
	component fleet.Component
	path      []string
}

// knobs are those of a chart of the vendor's with the values that it is given, none for
// a chart that cannot be told which image to run.
func knobs(of *chart.Chart, given map[string]any) []knob {
	switch of.Name() {
	case chartGateway:
		gateway := []string{"gateway", "deployment", "image", "tag"}
		if said(given, of.Values, "version") {
			gateway = []string{"version"} // which the templates ask first
		}
		bastions := []string{"sra", "image", "tag"}
		return []knob{{fleet.Gateway, gateway}, {fleet.SRAWeb, bastions}, {fleet.SRASSH, bastions}}
	case chartSRA:
		return []knob{{fleet.SRAWeb, []string{"ztbConfig", "image", "tag"}}, {fleet.SRASSH, []string{"sshConfig", "image", "tag"}}}
	case chartWebAccess:
		return []knob{{fleet.Dispatcher, []string{"dispatcher", "image", "tag"}}, {fleet.Worker, []string{"webWorker", "image", "tag"}}}
	}
	return nil
}

// said says whether a value at the top is given and not empty; what people give counts
// before the chart's own.
func said(given, own map[string]any, key string) bool {
	value, is := given[key]
	if !is {
		value = own[key]
	}
	return value != nil && value != ""
}

// put sets a value, and makes the maps on the way.
func put(values map[string]any, path []string, value string) {
	for _, key := range path[:len(path)-1] {
		below, _ := values[key].(map[string]any)
		if below == nil {
			below = make(map[string]any)
			values[key] = below
		}
		values = below
	}
	values[path[len(path)-1]] = value
}

// release finds a Helm release by name.
func (p Package) release(name string) (Release, bool) {
	for _, r := range p.Releases {
		if r.Record.Name == name {
			return r, true
		}
	}
	return Release{}, false
}

// Labels that an upgrade leaves on Helm's record. Helm hands labels on to the next
// revision, whoever makes it, so that the number tells whose they are.
const (
	labelRevision = "lockstep-revision"
	labelPackage  = "lockstep-package"
)

// restoring begins the description of a rollback of ours: Helm gives it no labels but
// those of the revision it goes back to.
const restoring = "Lockstep restores "

// ours says whether a record was made by Lockstep.
func ours(r *release.Release) bool {
	return r.Labels[labelRevision] == strconv.Itoa(r.Version) || strings.HasPrefix(r.Info.Description, restoring)
}
