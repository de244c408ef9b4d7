package fleetfile

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// MaxDocument is how many bytes a document may have: it travels in one request.
const MaxDocument = 4_000_000

// Declaration is what a document says of the fleet.
type Declaration struct {
	Clusters []DeclaredCluster // in the order of the document
	Releases []Release         // in the order of the document
	Drift    *DeclaredDrift    // nil when the document does not speak of it
	// PassedOver are the sections that the document has and that are the server's
	// own, in order.
	PassedOver []string
}

// DeclaredCluster is one cluster of a document.
type DeclaredCluster struct {
	ID fleet.ClusterID
	// Release is empty when the document leaves it as it is. It need not be one of
	// the document or of the file: whoever has the catalogue says whether it exists.
	Release    fleet.ReleaseID
	Labels     map[string]string
	Window     time.Duration // zero when it has none of its own
	Definition string        // as DefineCluster writes it
}

// DeclaredDrift is the section drift of a document. It stands for the whole
// section: what it does not mention is at its default.
type DeclaredDrift struct {
	Drift
	Definition string // as DefineDrift writes it
}

// Declare reads a document in the shape of fleet.yaml, of which only the sections
// releases, clusters and drift count. Base is the configuration of the server,
// and env its environment, as Load took it: an engine that the document leaves
// open is the one that Load would take, and what comes out has to be acceptable
// beside the rest of base.
//
// The error lists everything that is wrong, by the keys and lines of the document.
func Declare(document []byte, base File, env func(string) string) (Declaration, error) {
	if len(document) > MaxDocument {
		return Declaration{}, errs.New(errs.Exhausted, "LS-CFG-009", "the document has %d bytes and may have %d; apply it in parts: clusters that a document does not mention stay as they are", len(document), MaxDocument)
	}
	var r reading
	root, err := r.parse(document)
	if err != nil {
		return Declaration{}, errs.New(errs.Invalid, "LS-CFG-007", "read the document: %w", err)
	}
	said := File{Drift: Default(env).Drift}
	said.Drift.WindowCap = 0 // complete fills it, once mixed_window is known
	var counted, passedOver []string
	if root != nil {
		counted, passedOver = r.fleet(root, &said)
	}
	if len(r.problems) > 0 {
		return Declaration{}, refused(r.problems)
	}
	if len(counted) == 0 {
		return Declaration{}, nothing(passedOver)
	}
	said.complete(env)
	drift := slices.Contains(counted, "drift")
	if problems := said.beside(base, drift, r.line); len(problems) > 0 {
		return Declaration{}, refused(problems)
	}
	out := Declaration{Releases: said.Releases, PassedOver: passedOver}
	for _, c := range said.Clusters {
		out.Clusters = append(out.Clusters, DeclaredCluster{ID: c.ID, Release: c.Release, Labels: c.Labels, Window: c.Window, Definition: DefineCluster(c)})
	}
	if drift {
		out.Drift = &DeclaredDrift{Drift: said.Drift, Definition: DefineDrift(said.Drift)}
	}
	return out, nil
}

func nothing(passedOver []string) error {
	text := "the document declares nothing: it has none of the sections " + strings.Join(declarable(), ", ")
	if len(passedOver) > 0 {
		text += "; what it has is the server's own and is not applied: " + strings.Join(passedOver, ", ")
	}
	return errs.New(errs.Invalid, "LS-CFG-008", "%s", text)
}

// declarable lists the sections that count in a document.
func declarable() []string { return []string{"releases", "clusters", "drift"} }

// fleet reads the sections that count and lists which they are, and those that
// are passed over.
func (r *reading) fleet(root *yaml.Node, into *File) (counted, passedOver []string) {
	v := reflect.ValueOf(into).Elem()
	var known []string
	sections := make(map[string]reflect.Value)
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		known = append(known, name)
		sections[name] = v.Field(i)
	}
	r.pairs(root, "", func(name, value *yaml.Node) {
		section, ok := sections[name.Value]
		switch {
		case !ok:
			r.problem(name, name.Value, "unknown key%s", suggestion(name.Value, known))
		case empty(value): // as if it were not there
		case slices.Contains(declarable(), name.Value):
			counted = append(counted, name.Value)
			r.value(value, section, name.Value)
		default:
			passedOver = append(passedOver, name.Value)
		}
	})
	slices.Sort(passedOver)
	return counted, passedOver
}

// beside judges what a document says together with the rest of the server's
// configuration and returns what is wrong with the document. What it says comes
// last, so that it is at fault where it and the configuration exclude each other.
func (f File) beside(base File, drift bool, line func(key string) int) config.Problems {
	said := make(map[fleet.ClusterID]bool, len(f.Clusters))
	for _, c := range f.Clusters {
		said[c.ID] = true
	}
	carried := make(map[fleet.ReleaseID]bool, len(f.Releases))
	for _, r := range f.Releases {
		carried[r.ID] = true
	}
	both := base
	both.Clusters = slices.DeleteFunc(slices.Clone(base.Clusters), func(c Cluster) bool { return said[c.ID] })
	both.Releases = slices.DeleteFunc(slices.Clone(base.Releases), func(r Release) bool { return carried[r.ID] })
	clusters, releases := len(both.Clusters), len(both.Releases)
	both.Clusters = append(both.Clusters, f.Clusters...)
	both.Releases = append(both.Releases, f.Releases...)
	if drift {
		both.Drift = f.Drift
	}
	p := findings{origins: func(string) Origin { return Origin{Kind: inFile} }}
	p.file(&both)
	var out config.Problems
	for _, one := range p.problems {
		key, own := ahead(one.Key, "clusters", clusters)
		if !own {
			key, own = ahead(one.Key, "releases", releases)
		}
		if own || drift && strings.HasPrefix(one.Key, "drift.") {
			out = append(out, config.Problem{Line: line(key), Key: key, Text: one.Text})
		}
	}
	slices.SortStableFunc(out, func(a, b config.Problem) int { return cmp.Compare(a.Line, b.Line) })
	return out
}

// ahead moves the key of an item of a list to the front by so many; false when it
// is not one of them or not that far behind.
func ahead(key, list string, by int) (string, bool) {
	index, ok := strings.CutPrefix(key, list+"[")
	index, rest, closed := strings.Cut(index, "]")
	i, err := strconv.Atoi(index)
	if !ok || !closed || err != nil || i < by {
		return key, false
	}
	return fmt.Sprintf("%s[%d]%s", list, i-by, rest), true
}

// Effective is the configuration that holds: base with what was declared in the
// place of what it says, or beside it. Clusters and releases come in the order of
// base, those that it does not have after them by id. A cluster that is declared
// without a release keeps that of base. Drift is nil when none was declared.
func Effective(base File, clusters map[fleet.ClusterID]Cluster, releases []Release, drift *Drift) File {
	f := base
	f.Clusters = slices.Clone(base.Clusters)
	added := maps.Clone(clusters)
	for i, c := range f.Clusters {
		if declared, ok := clusters[c.ID]; ok {
			declared.Release = cmp.Or(declared.Release, c.Release)
			f.Clusters[i] = declared
			delete(added, c.ID)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(added)) {
		f.Clusters = append(f.Clusters, added[id])
	}
	f.Releases = slices.Clone(base.Releases)
	for _, r := range slices.SortedFunc(slices.Values(releases), func(a, b Release) int { return cmp.Compare(a.ID, b.ID) }) {
		if i := slices.IndexFunc(f.Releases, func(known Release) bool { return known.ID == r.ID }); i >= 0 {
			f.Releases[i] = r
		} else {
			f.Releases = append(f.Releases, r)
		}
	}
	if drift != nil {
		f.Drift = *drift
	}
	return f
}
