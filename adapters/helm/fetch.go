package helm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"oras.land/oras-go/v2/content"

	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// fetched is one release of a chart with all of its files.
type fetched struct {
	files  []File
	digest string
}

// File is one file of a chart, by its path in it.
type File struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// fetch reads one release of a chart from where it is published. A digest that is
// known must be that of what is there.
func fetch(ctx context.Context, opts Options, want rollout.Chart) (fetched, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(opts.Timeout, defaultTimeout))
	defer cancel()
	opts.Location, opts.Charts = want.Source, []string{want.Name}
	src, err := newSource(opts)
	if err != nil {
		return fetched{}, err
	}
	defer src.client.CloseIdleConnections()
	src.purpose = "read chart " + want.Name + " " + want.Version + " from "
	out, err := src.fetch(ctx, want)
	if err != nil {
		return fetched{}, err
	}
	loaded, err := out.load()
	if err != nil {
		return fetched{}, errs.New(errs.Invalid, "LS-REL-009", "%s: it is no chart that Helm can read: %w; check it with `helm lint`", src.doing(), err)
	}
	switch {
	case loaded.Name() != want.Name || loaded.Metadata.Version != want.Version:
		return fetched{}, errs.New(errs.Conflict, "LS-HLM-004", "%s: there is %s %s now; import the releases again and plan anew", src.doing(), loaded.Name(), loaded.Metadata.Version)
	case want.Digest != "" && want.Digest != out.digest:
		return fetched{}, errs.New(errs.Conflict, "LS-HLM-004", "%s: what is published there has digest %s and not %s: it was changed; find out by whom, import the releases again and plan anew", src.doing(), out.digest, want.Digest)
	}
	for _, needed := range loaded.Metadata.Dependencies {
		if !slices.ContainsFunc(loaded.Dependencies(), func(c *chart.Chart) bool { return c.Name() == needed.Name }) {
			return fetched{}, errs.New(errs.Invalid, "LS-HLM-005", "%s: it depends on %s %s, which is not in it; run `helm dependency build` on it and publish it again", src.doing(), needed.Name, needed.Version)
		}
	}
	return out, nil
}

func (f fetched) load() (*chart.Chart, error) {
	files := make([]*archive.BufferedFile, len(f.files))
	for i, one := range f.files {
		files[i] = &archive.BufferedFile{Name: one.Name, Data: one.Data}
	}
	return loader.LoadFiles(files)
}

func (s *source) fetch(ctx context.Context, want rollout.Chart) (fetched, error) {
	if s.url != nil && s.url.Scheme == "oci" {
		return s.pull(ctx, want)
	}
	if s.url == nil {
		info, err := os.Stat(s.opts.Location)
		switch {
		case err != nil:
			return fetched{}, errs.New(errs.NotFound, "LS-REL-004", "%s: %w; import the release again from where its chart is published", s.doing(), err)
		case info.IsDir():
			return s.folder()
		case slices.Contains([]string{".tgz", ".gz"}, filepath.Ext(s.opts.Location)):
			return s.file(s.opts.Location)
		}
	}
	found, err := s.read(ctx)
	if err != nil {
		return fetched{}, err
	}
	i := slices.IndexFunc(found, func(p published) bool { return p.meta.Name == want.Name && p.meta.Version == want.Version })
	if i < 0 || len(found[i].urls) == 0 {
		return fetched{}, errs.New(errs.NotFound, "LS-REL-010", "%s: its index does not have it any more; import the releases again", s.doing())
	}
	return s.download(ctx, found[i].urls[0])
}

// download gets an archive that an index names, beside the index where the name is no
// address.
func (s *source) download(ctx context.Context, place string) (fetched, error) {
	at, err := url.Parse(place)
	if err != nil {
		return fetched{}, errs.New(errs.Invalid, "LS-REL-005", "%s: its index names an archive at no address; `helm repo index` writes it anew", s.doing())
	}
	switch {
	case at.Host == "" && s.url == nil:
		return s.file(filepath.Join(filepath.Dir(s.opts.Location), filepath.FromSlash(at.Path)))
	case at.Host == "":
		at = indexOf(s.url).ResolveReference(at)
	}
	if s.url != nil && s.url.Scheme == "https" && at.Scheme != "https" {
		return fetched{}, s.failed(ctx, errDowngrade)
	}
	raw, err := s.get(ctx, at, maxArchive)
	if err != nil {
		return fetched{}, err
	}
	return s.archive(raw)
}

// pull gets the archive under the tag of a version; a tag cannot have a plus sign.
func (s *source) pull(ctx context.Context, want rollout.Chart) (fetched, error) {
	repository, err := s.ofCharts()
	if err != nil {
		return fetched{}, err
	}
	tag := cmp.Or(repository.Reference.Reference, strings.ReplaceAll(want.Version, "+", "_"))
	manifest, ok, err := s.manifest(ctx, repository, tag)
	if err != nil {
		return fetched{}, err
	}
	for _, layer := range manifest.Layers {
		if layer.MediaType != archiveType {
			continue
		}
		if layer.Size > maxArchive {
			return fetched{}, s.tooBig("the archive")
		}
		raw, err := content.FetchAll(ctx, repository.Blobs(), layer)
		if err != nil {
			return fetched{}, s.ofRegistry(ctx, err)
		}
		return s.archive(raw)
	}
	return fetched{}, errs.New(errs.Invalid, "LS-REL-015", "%s: tag %s is no Helm chart (%t); `helm push` publishes one", s.doing(), tag, ok)
}

func (s *source) file(path string) (fetched, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxArchive {
		return fetched{}, s.tooBig("the archive")
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return fetched{}, errs.New(errs.Invalid, "LS-REL-012", "%s: %w", s.doing(), err)
	}
	return s.archive(raw)
}

func (s *source) archive(raw []byte) (fetched, error) {
	if len(raw) > maxArchive {
		return fetched{}, s.tooBig("the archive")
	}
	files, err := archive.LoadArchiveFiles(bytes.NewReader(raw))
	if err != nil {
		return fetched{}, errs.New(errs.Invalid, "LS-REL-009", "%s: it is no chart that Helm can read: %w; check it with `helm lint`", s.doing(), err)
	}
	out := fetched{digest: digest.FromBytes(raw).String()}
	for _, f := range files {
		out.files = append(out.files, File{f.Name, f.Data})
	}
	out.sort()
	return out, nil
}

// folder reads a chart that is not packed. Its digest is over the names and contents
// of what Helm takes in.
func (s *source) folder() (fetched, error) {
	var out fetched
	loaded, err := loader.LoadDir(s.opts.Location)
	if err != nil {
		return out, errs.New(errs.Invalid, "LS-REL-009", "%s: it is no chart that Helm can read: %w; check it with `helm lint`", s.doing(), err)
	}
	for _, f := range loaded.Raw { // without what .helmignore names
		out.files = append(out.files, File{f.Name, f.Data})
	}
	out.sort()
	hash := sha256.New()
	for _, f := range out.files {
		sum := sha256.Sum256(f.Data)
		hash.Write([]byte(hex.EncodeToString(sum[:]) + "  " + f.Name + "\n"))
	}
	out.digest = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	return out, nil
}

func (f *fetched) sort() {
	slices.SortFunc(f.files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
}
