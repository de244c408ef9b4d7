package helm_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	hub "github.com/google/go-containerregistry/pkg/registry"
	"helm.sh/helm/v4/pkg/registry"

	"github.com/lockstep-fleet/lockstep/adapters/helm"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// newHub is a registry without anything in it.
func newHub() http.Handler { return hub.New(hub.Logger(log.New(io.Discard, "", 0))) }

// push publishes a chart as `helm push` does, under the tag of its version unless
// told another.
func push(t *testing.T, server *httptest.Server, chart string, at time.Time, tag ...string) {
	t.Helper()
	client, err := registry.NewClient(registry.ClientOptHTTPClient(server.Client()))
	if err != nil {
		t.Fatal(err)
	}
	path := archive(t, folder(t, chart, ""))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	options := []registry.PushOption{registry.PushOptCreationTime(at.Format(time.RFC3339))}
	// The archive's name is <chart>-<version>.tgz.
	name, version, _ := strings.Cut(strings.TrimSuffix(path[strings.LastIndex(path, "/")+1:], ".tgz"), "-gateway-")
	if len(tag) > 0 {
		version, options = tag[0], append(options, registry.PushOptStrictMode(false))
	}
	ref := fmt.Sprintf("%s/charts/%s-gateway:%s", server.Listener.Addr(), name, version)
	if _, err := client.Push(text, ref, options...); err != nil {
		t.Fatal(err)
	}
}

// oci is where push publishes.
func oci(server *httptest.Server) string {
	return "oci://" + server.Listener.Addr().String() + "/charts/akeyless-gateway"
}

func pair(version, gateway, sra string) string {
	return fmt.Sprintf("name: akeyless-gateway\nversion: %s\nappVersion: %s_%s\nannotations: {gatewayVersion: %s, sraVersion: %s}", version, gateway, sra, gateway, sra)
}

// summary is what matters of releases, a line each.
func summary(t *testing.T, opts helm.Options) []string {
	t.Helper()
	releases, _ := read(t, opts)
	var out []string
	for _, r := range releases {
		if !strings.HasPrefix(r.Digest, "sha256:") || r.Source != opts.Location {
			t.Errorf("%s has the digest %q and the source %s", r.ID, r.Digest, r.Source)
		}
		out = append(out, fmt.Sprintf("%s %s %s %s", r.ID, r.ReleasedAt.Format(time.RFC3339), r.Versions, r.Notes))
	}
	return out
}

func TestReadWhatHelmPushed(t *testing.T) {
	t.Parallel()
	server, ca := serve(t, newHub())
	day := func(n int) time.Time { return time.Date(2026, 1, n, 8, 0, 0, 0, time.UTC) }
	push(t, server, pair("1.10.0", "4.36.0", "2.6.1"), day(2))
	push(t, server, pair("1.9.0", "4.35.0", "2.6.0"), day(1))
	push(t, server, pair("1.9.1+build.7", "4.35.1", "2.6.0"), day(3))
	push(t, server, pair("2.0.0", "4.51.0", "3.0.0"), day(4))
	push(t, server, pair("2.0.0", "4.51.0", "3.0.0"), day(4), "latest")
	push(t, server, pair("2.0.1", "4.51.1", "3.0.0"), day(5), "stable")
	push(t, server, pair("2.0.0", "4.51.9", "3.0.0"), day(6), "0-wild")
	// A signature, which is no chart.
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.dev.cosign","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[]}`
	put(t, server, "/v2/charts/akeyless-gateway/manifests/sha256-0.sig", manifest)

	want := []string{
		"1.9.0 2026-01-01T08:00:00Z gateway=4.35.0 sra=2.6.0 []",
		"1.10.0 2026-01-02T08:00:00Z gateway=4.36.0 sra=2.6.1 []",
		string(catalog.ReleaseIDOf("akeyless-gateway", "1.9.1+build.7")) + " 2026-01-03T08:00:00Z gateway=4.35.1 sra=2.6.0 []",
		"2.0.0 2026-01-04T08:00:00Z gateway=4.51.0 sra=3.0.0 [The tag 0-wild holds another archive of this version.]",
		"2.0.1 2026-01-05T08:00:00Z gateway=4.51.1 sra=3.0.0 [It is published under the tag stable, not under its version.]",
	}
	if diff := cmp.Diff(want, summary(t, helm.Options{Location: oci(server), CAFile: ca})); diff != "" {
		t.Errorf("releases (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want[1:2], summary(t, helm.Options{Location: oci(server) + ":1.10.0", CAFile: ca})); diff != "" {
		t.Errorf("one tag (-want +got):\n%s", diff)
	}
}

func TestARegistryWithoutTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(newHub())
	t.Cleanup(server.Close)
	client, err := registry.NewClient(registry.ClientOptPlainHTTP())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(archive(t, folder(t, pair("1.0.0", "4.23.0", "2.3.1"), "")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Push(text, strings.TrimPrefix(oci(server), "oci://")+":1.0.0"); err != nil {
		t.Fatal(err)
	}
	if got, _ := read(t, helm.Options{Location: oci(server), PlainHTTP: true}); len(got) != 1 || got[0].ID != "1.0.0" {
		t.Errorf("got %+v", got)
	}
	if err := refusal(t, helm.Options{Location: oci(server)}); errs.IDOf(err) != "LS-REL-007" {
		t.Error(err)
	}
}

func TestWhoAsksARegistry(t *testing.T) {
	t.Parallel()
	open := newHub()
	pushed, _ := serve(t, open)
	push(t, pushed, pair("1.0.0", "4.23.0", "2.3.1"), time.Unix(1, 0))
	server, ca := serve(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if u, p, _ := req.BasicAuth(); u != "me" || p != secret {
			w.Header().Set("WWW-Authenticate", `Basic realm="charts"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, req)
	}))
	logins := func(password string) string {
		text, err := json.Marshal(map[string]any{"auths": map[string]any{
			server.Listener.Addr().String(): map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("me:" + password))},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return file(t, "config.json", string(text))
	}
	password := file(t, "password", secret+"\n")
	for name, opts := range map[string]helm.Options{
		"the options":              {Username: "me", PasswordFile: password},
		"the options over Helm's":  {Username: "me", PasswordFile: password, RegistryConfig: logins("old")},
		"Helm's logins":            {RegistryConfig: logins(secret)},
		"the address":              {Location: strings.Replace(oci(server), "://", "://me:"+secret+"@", 1)},
		"the address over Helm's":  {Location: strings.Replace(oci(server), "://", "://me:"+secret+"@", 1), RegistryConfig: logins("old")},
		"the options over address": {Location: strings.Replace(oci(server), "://", "://me:old@", 1), Username: "me", PasswordFile: password},
	} {
		if opts.Location == "" {
			opts.Location = oci(server)
		}
		opts.CAFile = ca
		got, _, err := helm.Read(t.Context(), opts)
		if err != nil || len(got) != 1 || got[0].Source != oci(server) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, opts := range map[string]helm.Options{
		"nobody":           {},
		"a stale login":    {RegistryConfig: logins("old-" + secret)},
		"a wrong password": {Username: "me", PasswordFile: file(t, "password", "old-"+secret)},
	} {
		opts.Location, opts.CAFile = oci(server), ca
		if err := refusal(t, opts); errs.IDOf(err) != "LS-REL-002" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestARegistryThatHasNoChart(t *testing.T) {
	t.Parallel()
	images := newHub()
	server, ca := serve(t, images)
	put(t, server, "/v2/charts/akeyless-gateway/manifests/1.0", `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	tags := func(n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprint("t", i)
		}
		text, err := json.Marshal(map[string]any{"name": "charts/akeyless-gateway", "tags": all})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	says := func(status int, text string) helm.Options {
		server, ca := serve(t, says(status, text))
		return helm.Options{Location: oci(server), CAFile: ca}
	}
	for name, c := range map[string]struct {
		opts helm.Options
		id   string
		kind errs.Kind
		text string
	}{
		"images":           {helm.Options{Location: oci(server), CAFile: ca}, "LS-REL-015", errs.Invalid, "none of its 1 tags is a Helm chart"},
		"no tags":          {says(200, tags(0)), "LS-REL-015", errs.Invalid, "none of its 0 tags"},
		"another name":     {helm.Options{Location: oci(server) + "s", CAFile: ca}, "LS-REL-004", errs.NotFound, "404"},
		"another tag":      {helm.Options{Location: oci(server) + ":9.9.9", CAFile: ca}, "LS-REL-004", errs.NotFound, "404"},
		"forbidden":        {says(403, `{"errors":[{"code":"DENIED","message":"requested access is denied"}]}`), "LS-REL-003", errs.PermissionDenied, "requested access is denied"},
		"no list of tags":  {says(405, `{"errors":[{"code":"UNSUPPORTED","message":"the operation is unsupported"}]}`), "LS-REL-011", errs.Unavailable, "the operation is unsupported"},
		"too many tags":    {says(200, tags(2001)), "LS-REL-006", errs.Exhausted, "2000 tags"},
		"a page":           {says(200, "<html>"), "LS-REL-011", errs.Unavailable, "as a registry does"},
		"another's signer": {helm.Options{Location: oci(server)}, "LS-REL-007", errs.Unavailable, "certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := refusal(t, c.opts)
			if errs.IDOf(err) != c.id || errs.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %s, %v, want %s, %s with %q", errs.KindOf(err), err, c.kind, c.id, c.text)
			}
		})
	}
}

func put(t *testing.T, server *httptest.Server, path, text string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+path, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var head struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal([]byte(text), &head); err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", head.MediaType)
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		said, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s: %s", resp.Status, said)
	}
}
