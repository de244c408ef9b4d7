package helm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/helmpath"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// What Helm calls the parts of a chart in a registry.
const (
	configType  = "application/vnd.cncf.helm.config.v1+json"
	archiveType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

const (
	// maxTags bounds the releases of one chart in a registry: each takes two requests.
	maxTags = 2000
	// maxManifest bounds a manifest and a chart's metadata. Registries take manifests
	// of 4 MiB.
	maxManifest = 4 << 20
	// atOnce bounds the requests to a registry that are on their way.
	atOnce = 8
)

// tagged is what one tag of a registry holds.
type tagged struct {
	tag       string
	published published
	ok        bool // it is a chart
}

// registry reads the chart of a registry at each of its tags: the manifest and the
// metadata, not the archive. What is no chart, such as a signature, passes by.
func (s *source) registry(ctx context.Context) ([]published, error) {
	repository, err := s.ofCharts()
	if err != nil {
		return nil, err
	}
	tags, err := s.tags(ctx, repository)
	if err != nil {
		return nil, err
	}
	all := make([]tagged, len(tags))
	group, bounded := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, tag := range tags {
		group.Go(func() error {
			p, ok, err := s.release(bounded, repository, tag)
			all[i] = tagged{tag, p, ok}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	found := untagged(all)
	if len(found) == 0 {
		return nil, errs.New(errs.Invalid, "LS-REL-015", "%s: none of its %d tags is a Helm chart; `helm push` publishes one", s.doing(), len(tags))
	}
	return found, nil
}

// ofCharts is the registry's repository of the chart.
func (s *source) ofCharts() (*remote.Repository, error) {
	repository, err := remote.NewRepository(s.url.Host + s.url.Path)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-REL-008", "%s: %w; it looks like oci://host/path/chart, in lower case", s.doing(), err)
	}
	if repository.Client, err = s.registryClient(repository.Reference.Registry); err != nil {
		return nil, err
	}
	repository.PlainHTTP = s.opts.PlainHTTP
	return repository, nil
}

// registryClient asks with the login given, else with the one that Helm or Docker
// keeps for this registry.
func (s *source) registryClient(host string) (*auth.Client, error) {
	out := &auth.Client{
		// A registry that is asked for hundreds of releases may want to be asked slower.
		Client: &http.Client{Transport: retry.NewTransport(s.client.Transport), CheckRedirect: follow},
		Cache:  auth.NewCache(),
	}
	out.SetUserAgent("lockstep")
	if s.login != (login{}) {
		out.Credential = auth.StaticCredential(host, auth.Credential{Username: s.login.username, Password: s.login.password})
		return out, nil
	}
	file := cmp.Or(s.opts.RegistryConfig, helmpath.ConfigPath("registry/config.json"))
	options := credentials.StoreOptions{DetectDefaultNativeStore: true}
	store, err := credentials.NewStore(file, options)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-REL-012", "Helm's logins to registries in %s cannot be read; write them anew with `helm registry login`", file)
	}
	var logins credentials.Store = store
	if docker, err := credentials.NewStoreFromDocker(options); err == nil { // else there is no home folder
		logins = credentials.NewStoreWithFallbacks(store, docker)
	}
	out.Credential = credentials.Credential(logins)
	return out, nil
}

// tags lists the tags, or the one that the location names.
func (s *source) tags(ctx context.Context, repository *remote.Repository) ([]string, error) {
	if one := repository.Reference.Reference; one != "" {
		return []string{one}, nil
	}
	var all []string
	var many error
	err := repository.Tags(ctx, "", func(page []string) error {
		if all = append(all, page...); len(all) > maxTags {
			many = s.tooBig(fmt.Sprintf("the list with more than %d tags", maxTags))
		}
		return many
	})
	switch {
	case many != nil:
		return nil, many
	case err != nil:
		return nil, s.ofRegistry(ctx, err)
	}
	return all, nil
}

// release reads what one tag holds; ok is false when it is no chart.
func (s *source) release(ctx context.Context, repository *remote.Repository, tag string) (p published, ok bool, err error) {
	manifest, ok, err := s.manifest(ctx, repository, tag)
	if !ok || err != nil {
		return p, false, err
	}
	if manifest.Config.Size > maxManifest {
		return p, false, s.tooBig("the metadata of tag " + tag)
	}
	raw, err := content.FetchAll(ctx, repository.Blobs(), manifest.Config)
	if err != nil {
		return p, false, s.ofRegistry(ctx, err)
	}
	var meta chart.Metadata
	if json.Unmarshal(raw, &meta) != nil || meta.Name == "" || meta.Version == "" {
		return p, false, errs.New(errs.Invalid, "LS-REL-009", "%s: tag %s holds a chart without name or version; push it anew with `helm push`", s.doing(), tag)
	}
	p = published{meta: meta}
	if at, err := time.Parse(time.RFC3339, manifest.Annotations[ocispec.AnnotationCreated]); err == nil {
		p.at = at
	}
	for _, layer := range manifest.Layers {
		if layer.MediaType == archiveType {
			p.digest = layer.Digest.String()
		}
	}
	return p, true, nil
}

// manifest reads what one tag names; ok is false when it is no chart.
func (s *source) manifest(ctx context.Context, repository *remote.Repository, tag string) (manifest ocispec.Manifest, ok bool, err error) {
	described, body, err := repository.FetchReference(ctx, tag)
	if err != nil {
		return manifest, false, s.ofRegistry(ctx, err)
	}
	defer body.Close()
	if described.Size > maxManifest {
		return manifest, false, s.tooBig("the manifest of tag " + tag)
	}
	raw, err := content.ReadAll(body, described)
	if err != nil {
		return manifest, false, s.ofRegistry(ctx, err)
	}
	ok = json.Unmarshal(raw, &manifest) == nil && manifest.Config.MediaType == configType
	return manifest, ok, nil
}

// untagged makes one release of each version that the tags hold. Helm finds a
// version by its tag, so what lies under another one is odd, unless it is one more
// name of the same.
func untagged(all []tagged) []published {
	var out []published
	byVersion := func(a, b tagged) int {
		return cmp.Or(
			cmp.Compare(a.published.meta.Version, b.published.meta.Version),
			cmp.Compare(misplaced(a), misplaced(b)),
			cmp.Compare(a.tag, b.tag),
		)
	}
	all = slices.DeleteFunc(all, func(t tagged) bool { return !t.ok })
	slices.SortFunc(all, byVersion)
	for _, t := range all {
		last := len(out) - 1
		switch {
		case last >= 0 && out[last].meta.Version == t.published.meta.Version:
			if out[last].digest != t.published.digest {
				out[last].oddities = append(out[last].oddities, fmt.Sprintf("The tag %s holds another archive of this version.", clip(t.tag)))
			}
			continue
		case misplaced(t) == 1:
			t.published.oddities = append(t.published.oddities, fmt.Sprintf("It is published under the tag %s, not under its version.", clip(t.tag)))
		}
		out = append(out, t.published)
	}
	return out
}

// misplaced is 0 for a chart under the tag of its version or by its digest, else 1.
// A tag cannot have a plus sign; Helm writes an underscore for it.
func misplaced(t tagged) int {
	if strings.ReplaceAll(t.published.meta.Version, "+", "_") == t.tag || strings.Contains(t.tag, ":") {
		return 0
	}
	return 1
}
