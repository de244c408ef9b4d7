package helm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/helmpath"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	// maxIndex bounds an index. The largest public ones have some 20 MiB.
	maxIndex = 64 << 20
	// maxNamed bounds how many charts an error lists.
	maxNamed = 20
)

// login is who asks, the zero value for nobody. From says for people where that
// stands.
type login struct{ username, password, from string }

// newLogin takes the options first, then the address.
func newLogin(opts Options, given *url.Userinfo) (login, error) {
	if (opts.Username == "") != (opts.PasswordFile == "") {
		return login{}, errs.New(errs.Invalid, "LS-REL-012", "a name and a password file go together; give both or none")
	}
	if opts.Username != "" {
		password, err := os.ReadFile(opts.PasswordFile)
		if err != nil {
			return login{}, errs.New(errs.Invalid, "LS-REL-012", "read the password: %w", err)
		}
		if len(bytes.TrimSpace(password)) == 0 {
			return login{}, errs.New(errs.Invalid, "LS-REL-012", "the password file %s is empty", opts.PasswordFile)
		}
		return login{opts.Username, strings.TrimRight(string(password), "\r\n"), opts.PasswordFile}, nil
	}
	if given != nil {
		password, _ := given.Password()
		return login{given.Username(), password, "the address"}, nil
	}
	return login{}, nil
}

// known looks a repository up in Helm's own list. A repository that Helm does not
// know has no login.
func (s *source) known() (login, error) {
	file := cmp.Or(s.opts.RepositoryConfig, helmpath.ConfigPath("repositories.yaml"))
	raw, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && s.opts.RepositoryConfig == "" {
		return login{}, nil
	}
	if err != nil {
		return login{}, errs.New(errs.Invalid, "LS-REL-012", "read Helm's list of repositories: %w", err)
	}
	var list struct {
		Repositories []struct {
			URL      string `json:"url"`
			Username string `json:"username"`
			Password string `json:"password"`
		} `json:"repositories"`
	}
	if yaml.Unmarshal(raw, &list) != nil { // the error could repeat a password
		return login{}, errs.New(errs.Invalid, "LS-REL-012", "Helm's list of repositories in %s cannot be read; look at it with `helm repo list`", file)
	}
	for _, r := range list.Repositories {
		if u, err := url.Parse(r.URL); err == nil && r.Username != "" && shown(indexOf(u)) == shown(indexOf(s.url)) {
			return login{r.Username, r.Password, file}, nil
		}
	}
	return login{}, nil
}

// newClient returns a client that goes through the proxy of the environment and
// trusts the authorities of a file beside the machine's.
func newClient(name, caFile string) (*http.Client, error) {
	base, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return nil, fmt.Errorf("read releases from %s: the program's HTTP transport is a %T", name, http.DefaultTransport)
	}
	transport := base.Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, errs.New(errs.Invalid, "LS-REL-012", "read the authorities for %s: %w", name, err)
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			roots = x509.NewCertPool() // a machine without authorities has those of the file
		}
		if !roots.AppendCertsFromPEM(pem) {
			return nil, errs.New(errs.Invalid, "LS-REL-012", "the file %s holds no certificate in PEM", caFile)
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return &http.Client{Transport: transport, CheckRedirect: follow}, nil
}

// follow goes after a redirect. The library leaves credentials behind where one
// leads to another host.
func follow(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) >= 10:
		return errors.New("it redirects more than ten times")
	case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
		return errDowngrade
	}
	return nil
}

// indexOf is the address of a repository's index, whether the address given is the
// repository's or the index's own.
func indexOf(u *url.URL) *url.URL {
	if strings.HasSuffix(u.Path, "/index.yaml") {
		return u
	}
	return u.JoinPath("index.yaml")
}

// repository fetches the index of an HTTP repository and reads it.
func (s *source) repository(ctx context.Context) ([]published, error) {
	if s.login == (login{}) {
		var err error
		if s.login, err = s.known(); err != nil {
			return nil, err
		}
	}
	raw, err := s.get(ctx, indexOf(s.url), maxIndex)
	if err != nil {
		return nil, err
	}
	return s.index(raw)
}

// get fetches what a repository has at an address, up to one byte more than most. The
// login goes to the repository's own host only.
func (s *source) get(ctx context.Context, at *url.URL, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-REL-008", "%s: no request can be made to it; correct the address", s.doing())
	}
	req.Header.Set("User-Agent", "lockstep")
	if s.login != (login{}) && s.url != nil && at.Scheme == s.url.Scheme && at.Host == s.url.Host {
		req.SetBasicAuth(s.login.username, s.login.password)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, s.refused(resp.StatusCode, "")
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	return raw, nil
}

// indexFile reads an index that lies on this machine.
func (s *source) indexFile(info fs.FileInfo) ([]published, error) {
	if info.Size() > maxIndex {
		return nil, s.tooBig("the index")
	}
	raw, err := os.ReadFile(s.opts.Location)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-REL-012", "%s: %w", s.doing(), err)
	}
	return s.index(raw)
}

// entry is one chart release in an index.
type entry struct {
	chart.Metadata

	// Created is text because one date that is none must not spoil the rest.
	Created string   `json:"created"`
	Digest  string   `json:"digest"`
	Removed bool     `json:"removed"`
	URLs    []string `json:"urls"`
}

// index reads the releases of the charts asked for. Other charts are not looked at,
// so what is wrong with them does not matter.
func (s *source) index(raw []byte) ([]published, error) {
	if len(raw) > maxIndex {
		return nil, s.tooBig("the index")
	}
	if begin := bytes.TrimSpace(bytes.TrimPrefix(raw, []byte("\ufeff"))); bytes.HasPrefix(begin, []byte("<")) {
		return nil, errs.New(errs.Invalid, "LS-REL-005", "%s: it is a web page and no index, perhaps a login page; correct the address", s.doing())
	}
	text := raw
	if !json.Valid(raw) {
		var err error
		if text, err = yaml.YAMLToJSON(raw); err != nil {
			return nil, errs.New(errs.Invalid, "LS-REL-005", "%s: it is no index: %w; `helm repo index` makes one", s.doing(), err)
		}
	}
	var list struct {
		APIVersion string                     `json:"apiVersion"`
		Entries    map[string]json.RawMessage `json:"entries"`
	}
	if err := json.Unmarshal(text, &list); err != nil || list.APIVersion == "" {
		return nil, errs.New(errs.Invalid, "LS-REL-005", "%s: it is no index, which has apiVersion and entries; `helm repo index` makes one", s.doing())
	}
	var found []published
	for _, name := range s.opts.Charts {
		if list.Entries[name] == nil {
			continue
		}
		var entries []*entry
		if err := json.Unmarshal(list.Entries[name], &entries); err != nil {
			return nil, errs.New(errs.Invalid, "LS-REL-005", "%s: the entries of %s cannot be read: %w; `helm repo index` writes them anew", s.doing(), name, err)
		}
		found = append(found, listed(name, entries)...)
	}
	if len(found) == 0 {
		return nil, errs.New(errs.NotFound, "LS-REL-010", "%s: it has none of %s; it has %s", s.doing(), strings.Join(s.opts.Charts, ", "), inventory(slices.Sorted(maps.Keys(list.Entries))))
	}
	return found, nil
}

// inventory lists names for people, not too many.
func inventory(names []string) string {
	switch {
	case len(names) == 0:
		return "no charts"
	case len(names) > maxNamed:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), len(names)-maxNamed)
	}
	return strings.Join(names, ", ")
}

// listed reads one chart's entries. Like Helm it passes by what has no version and
// takes the first of several of one version.
func listed(name string, entries []*entry) []published {
	var out []published
	place := make(map[string]int)
	for _, e := range entries {
		if e == nil || e.Version == "" {
			continue
		}
		p := published{meta: e.Metadata, digest: e.Digest, removed: e.Removed, urls: e.URLs}
		p.meta.Name = name
		if at, err := time.Parse(time.RFC3339Nano, e.Created); err == nil {
			p.at = at
		} else if e.Created != "" {
			p.oddities = append(p.oddities, fmt.Sprintf("The index dates it %s, which is no date.", clip(e.Created)))
		}
		i, again := place[e.Version]
		if !again {
			place[e.Version] = len(out)
			out = append(out, p)
			continue
		}
		if first := &out[i]; first.digest != p.digest || first.meta.AppVersion != p.meta.AppVersion || !maps.Equal(first.meta.Annotations, p.meta.Annotations) {
			if twice := "The index lists this version more than once with other content; Helm takes the first."; !slices.Contains(first.oddities, twice) {
				first.oddities = append(first.oddities, twice)
			}
		}
	}
	return out
}
