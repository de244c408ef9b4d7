// Package helm owns the reading of releases from where charts are published: an
// HTTP repository, an OCI registry, a chart's folder or archive, an index on disk.
// It tells the version set that each chart carries, and what is odd about how it
// is packaged. And it owns everything Lockstep does to Helm releases: saying what
// would change, capturing what is deployed as a package, applying a package, and
// verifying that what runs is the package.
//
// It does not own what runs of a chart (adapters/kube), what releases mean
// (domain/catalog), nor what to apply and when (domain/rollout and the driver).
package helm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// defaultTimeout bounds one Read: an index of some megabytes, or a registry's few
// hundred small answers, over a slow line.
const defaultTimeout = 2 * time.Minute

// Options say where charts are published and how to get in.
type Options struct {
	// Location is the address of an HTTP repository or of its index.yaml, a chart in
	// a registry as oci://host/path/chart, a chart's folder or archive, or an index
	// on disk.
	Location string
	// Charts are those that are looked for in an index; none means the vendor's.
	// A location that is one chart is read whatever it is called.
	Charts []string
	// CAFile holds authorities in PEM that are trusted beside the machine's.
	CAFile string
	// Username and PasswordFile are who asks. Without a name it is the one in the
	// location, else whom Helm's own files name for it, and Docker's for a registry.
	Username, PasswordFile string
	// RepositoryConfig and RegistryConfig are Helm's own files, empty where Helm
	// keeps them.
	RepositoryConfig, RegistryConfig string
	// PlainHTTP asks a registry without TLS.
	PlainHTTP bool
	// Timeout bounds the whole; 0 means 2 min.
	Timeout time.Duration
}

// Read returns the releases that a location has: the charts in the order asked for,
// each from the oldest release to the newest. Skipped says in a sentence each what
// was left out and why. Neither these nor the error hold secrets.
func Read(ctx context.Context, opts Options) (releases []catalog.Release, skipped []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(opts.Timeout, defaultTimeout))
	defer cancel()
	if len(opts.Charts) == 0 {
		opts.Charts = []string{chartGateway, chartWebAccess, chartSRA, chartAPIGateway}
	}
	src, err := newSource(opts)
	if err != nil {
		return nil, nil, err
	}
	defer src.client.CloseIdleConnections()
	found, err := src.read(ctx)
	if err != nil {
		return nil, nil, err
	}
	releases, skipped = src.releases(found)
	if len(releases) == 0 {
		return nil, nil, errs.New(errs.Invalid, "LS-REL-016", "read releases from %s: %s; give the versions in the annotations gatewayVersion and sraVersion of the chart", src.name, strings.Join(skipped, ", "))
	}
	return releases, skipped, nil
}

// published is one chart release as its source tells it.
type published struct {
	meta     chart.Metadata
	values   map[string]any // the chart's own, nil where only its metadata is told
	digest   string         // of the archive
	at       time.Time
	removed  bool
	urls     []string // of the archive, as an index has them
	oddities []string
}

// source is one location while it is read.
type source struct {
	opts Options
	name string // the location for people, without secrets
	// purpose is what is being done, for people; empty is reading releases.
	purpose string
	url     *url.URL // of what is not on this machine, without secrets
	login   login
	client  *http.Client
}

// newSource finds out what a location is. It makes no call.
func newSource(opts Options) (*source, error) {
	if opts.Location == "" {
		return nil, errs.New(errs.Invalid, "LS-REL-008", "it is not said where releases are; give https://host/path, oci://host/path/chart or a path")
	}
	s := &source{opts: opts, name: opts.Location}
	if strings.Contains(opts.Location, "://") {
		parsed, err := url.Parse(opts.Location)
		if err != nil || parsed.Host == "" {
			// Neither the text nor the error is repeated: both may hold a password.
			return nil, errs.New(errs.Invalid, "LS-REL-008", "the location of releases is no address; it looks like https://host/path or oci://host/path/chart")
		}
		given := parsed.User
		parsed.User, parsed.Fragment = nil, ""
		s.url, s.name = parsed, shown(parsed)
		switch parsed.Scheme {
		case "http", "https", "oci":
		default:
			return nil, errs.New(errs.Invalid, "LS-REL-008", "releases cannot be read over %s://; use https:// or http:// for a repository, oci:// for a registry, or a path", parsed.Scheme)
		}
		if s.login, err = newLogin(opts, given); err != nil {
			return nil, err
		}
	}
	client, err := newClient(s.name, opts.CAFile)
	if err != nil {
		return nil, err
	}
	s.client = client
	return s, nil
}

// shown is an address for people: a query may be a signature that lets anybody in.
func shown(u *url.URL) string {
	plain := *u
	plain.User, plain.RawQuery, plain.Fragment = nil, "", ""
	return plain.String()
}

func (s *source) read(ctx context.Context) ([]published, error) {
	switch {
	case s.url != nil && s.url.Scheme == "oci":
		return s.registry(ctx)
	case s.url != nil:
		return s.repository(ctx)
	}
	info, err := os.Stat(s.opts.Location)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errs.New(errs.NotFound, "LS-REL-004", "read releases from %s: there is no such file or folder; an address begins with https:// or oci://", s.name)
	case err != nil:
		return nil, errs.New(errs.Invalid, "LS-REL-012", "read releases from %s: %w", s.name, err)
	case info.IsDir(), slices.Contains([]string{".tgz", ".gz"}, filepath.Ext(s.opts.Location)):
		return s.chart(info)
	}
	return s.indexFile(info)
}

// releases words what was found in the catalogue's terms.
func (s *source) releases(found []published) (out []catalog.Release, skipped []string) {
	for _, name := range s.order(found) {
		var of []published
		for _, p := range found {
			if p.meta.Name == name {
				of = append(of, p)
			}
		}
		for _, p := range arranged(of) {
			r := p.release(s.name)
			if len(r.Versions) == 0 {
				skipped = append(skipped, strings.Join(append([]string{fmt.Sprintf("%s %s says of no line which version it carries", r.Chart, r.ChartVersion)}, r.Notes...), ": "))
				continue
			}
			out = append(out, r)
		}
	}
	return out, skipped
}

// order lists the charts found: those asked for first, then any others by name.
func (s *source) order(found []published) []string {
	var names []string
	for _, p := range found {
		names = append(names, p.meta.Name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	place := func(name string) int {
		if i := slices.Index(s.opts.Charts, name); i >= 0 {
			return i
		}
		return len(s.opts.Charts)
	}
	slices.SortStableFunc(names, func(a, b string) int { return place(a) - place(b) })
	return names
}

// arranged puts the releases of one chart into the order of publication: by date
// where all have one, else by version.
func arranged(of []published) []published {
	undated := slices.ContainsFunc(of, func(p published) bool { return p.at.IsZero() })
	if madeAnew(of) {
		undated = true
		for i := range of {
			of[i].at = time.Time{}
		}
	}
	slices.SortStableFunc(of, func(a, b published) int {
		byDate := 0
		if !undated {
			byDate = a.at.Compare(b.at)
		}
		byVersion, _ := catalog.Compare(a.meta.Version, b.meta.Version)
		return cmp.Or(byDate, byVersion, cmp.Compare(a.meta.Version, b.meta.Version))
	})
	return of
}

// madeAnew says whether all releases of a chart bear one date, to the minute. An
// index that is made anew from its archives dates all of them with the moment it
// was made, which says nothing of when they were published.
func madeAnew(of []published) bool {
	if len(of) < 2 {
		return false
	}
	byDate := func(a, b published) int { return a.at.Compare(b.at) }
	return slices.MaxFunc(of, byDate).at.Sub(slices.MinFunc(of, byDate).at) < time.Minute
}

// release words one chart release in the catalogue's terms.
func (p *published) release(from string) catalog.Release {
	r := catalog.Release{
		ID:    catalog.ReleaseIDOf(p.meta.Name, p.meta.Version),
		Chart: p.meta.Name, ChartVersion: p.meta.Version, AppVersion: p.meta.AppVersion,
		ReleasedAt: p.at.UTC(), Digest: digestOf(p.digest), Source: from,
		Versions: make(fleet.VersionSet), Images: make(map[fleet.Line]string),
		Notes: slices.Clone(p.oddities),
	}
	if p.meta.Deprecated {
		r.Notes = append(r.Notes, "The chart is marked as deprecated.")
	}
	if p.removed {
		r.Notes = append(r.Notes, "The repository marks this release as removed.")
	}
	p.carry(&r)
	return r
}

// digestOf gives a digest its algorithm, which an index leaves out.
func digestOf(sum string) string {
	if sum == "" || strings.Contains(sum, ":") {
		return sum
	}
	return "sha256:" + sum
}
