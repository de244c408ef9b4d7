package helm_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/adapters/helm"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// secret stands for a password wherever there is one; nothing that people read may
// have it.
const secret = "s3cret-word"

// serve starts a server with TLS and returns it with the file of its authority.
func serve(t *testing.T, handler http.Handler) (server *httptest.Server, caFile string) {
	t.Helper()
	server = httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // handshakes that are meant to fail
	server.StartTLS()
	t.Cleanup(server.Close)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return server, file(t, "ca.pem", string(certificate))
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// says is a server that answers every request alike.
func says(status int, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	})
}

func read(t *testing.T, opts helm.Options) (releases []catalog.Release, skipped []string) {
	t.Helper()
	releases, skipped, err := helm.Read(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return releases, skipped
}

// refusal reads a location that cannot be read and returns the error.
func refusal(t *testing.T, opts helm.Options) error {
	t.Helper()
	releases, _, err := helm.Read(t.Context(), opts)
	if err == nil {
		t.Fatalf("read %d releases", len(releases))
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error tells a secret: %v", err)
	}
	return err
}

func when(text string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(err)
	}
	return at
}

// wanted is what testdata/index.yaml holds of the vendor's charts, with digests left
// out. The file was written by Helm's library.
func wanted(source string) []catalog.Release {
	gateway := func(version, app, at string, versions fleet.VersionSet, notes ...string) catalog.Release {
		return catalog.Release{
			ID: fleet.ReleaseID(version), Chart: "akeyless-gateway", ChartVersion: version, AppVersion: app, ReleasedAt: when(at),
			Versions: versions, Images: map[fleet.Line]string{}, Notes: notes, Source: source,
		}
	}
	other := func(chart, version, app, at string, versions fleet.VersionSet, notes ...string) catalog.Release {
		r := gateway(version, app, at, versions, notes...)
		r.ID, r.Chart = fleet.ReleaseID(chart+"-"+version), chart
		return r
	}
	return []catalog.Release{
		gateway("1.0.3", "4.24.0_2.3.2_1.8.0", "2024-12-17T08:11:02.123456789Z", fleet.VersionSet{"gateway": "4.24.0", "sra": "2.3.2_1.8.0"}),
		gateway("1.0.4", "4.24.0_2.3.1", "2024-12-18T12:00:00Z", fleet.VersionSet{"gateway": "4.24.0", "sra": "2.3.1"}),
		gateway("1.0.5", "4.24.0_2.3.3", "2024-12-22T07:00:00Z", fleet.VersionSet{"gateway": "4.24.0", "sra": "2.3.4"},
			"The chart is marked as deprecated.",
			"The chart contradicts itself on sra: the annotation sraVersion says 2.3.4, the application version says 2.3.3; the first counts."),
		// What follows the underscore is the chart's own version here.
		gateway("3.3.0", "5.0.1_3.3.0", "2026-03-01T10:00:00Z", fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}),
		other("akeyless-zero-trust-web-access", "0.9.1", "1.2.0", "2025-06-05T10:00:00Z", fleet.VersionSet{"ztwa": "1.2.0"}),
		other("akeyless-sra", "1.1.0", "", "2022-07-05T10:00:00Z", fleet.VersionSet{"sra": "2.9.0"}),
		other("akeyless-api-gateway", "1.40.2", "3.29.0", "2023-05-05T10:00:00Z", fleet.VersionSet{"gateway": "3.29.0"}, "The chart is marked as deprecated."),
	}
}

func TestReadAnIndexThatHelmWrote(t *testing.T) {
	t.Parallel()
	folder := os.DirFS("testdata")
	server, ca := serve(t, http.StripPrefix("/charts", http.FileServerFS(folder)))
	for name, c := range map[string]struct{ location, source string }{
		"the repository":             {server.URL + "/charts", server.URL + "/charts"},
		"with a slash":               {server.URL + "/charts/", server.URL + "/charts/"},
		"its index":                  {server.URL + "/charts/index.yaml", server.URL + "/charts/index.yaml"},
		"with what must not be told": {strings.Replace(server.URL, "://", "://me:"+secret+"@", 1) + "/charts?token=" + secret + "#x", server.URL + "/charts"},
		"the file":                   {filepath.Join("testdata", "index.yaml"), filepath.Join("testdata", "index.yaml")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, skipped := read(t, helm.Options{Location: c.location, CAFile: ca})
			for i, r := range got {
				if digest := strings.TrimPrefix(r.Digest, "sha256:"); len(digest) != 64 || digest == r.Digest {
					t.Errorf("%s has the digest %q", r.ID, r.Digest)
				}
				got[i].Digest = ""
			}
			if diff := cmp.Diff(wanted(c.source), got); diff != "" {
				t.Errorf("releases (-want +got):\n%s", diff)
			}
			if want := []string{"akeyless-sra 0.1.0 says of no line which version it carries"}; !slices.Equal(skipped, want) {
				t.Errorf("skipped %q, want %q", skipped, want)
			}
		})
	}
}

func TestReadTheChartsAskedForAlone(t *testing.T) {
	t.Parallel()
	got, _ := read(t, helm.Options{Location: filepath.Join("testdata", "index.yaml"), Charts: []string{"akeyless-sra", "akeyless-zero-trust-web-access", "absent"}})
	if len(got) != 2 || got[0].ID != "akeyless-sra-1.1.0" || got[1].ID != "akeyless-zero-trust-web-access-0.9.1" {
		t.Errorf("got %+v", got)
	}
	err := refusal(t, helm.Options{Location: filepath.Join("testdata", "index.yaml"), Charts: []string{"absent", "missing"}})
	if errs.IDOf(err) != "LS-REL-010" || !strings.Contains(err.Error(), "it has none of absent, missing; it has akeyless-api-gateway, akeyless-csi-provider, akeyless-gateway, akeyless-sra, akeyless-zero-trust-web-access") {
		t.Error(err)
	}
	err = refusal(t, helm.Options{Location: filepath.Join("testdata", "index.yaml"), Charts: []string{"akeyless-csi-provider"}})
	if errs.IDOf(err) != "LS-REL-016" || !strings.Contains(err.Error(), "akeyless-csi-provider 0.1.0 says of no line which version it carries") {
		t.Error(err)
	}
}

// index is an index in JSON, which Helm reads as well, of one chart.
func index(t *testing.T, chart string, entries ...map[string]any) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "entries": map[string]any{chart: entries}})
	if err != nil {
		t.Fatal(err)
	}
	return file(t, "index.json", string(text))
}

// Every release of the vendor's gateway chart: an index of before there were
// annotations tells the versions in the application version alone.
func TestReadTheVendorsHistory(t *testing.T) {
	t.Parallel()
	history, err := os.Open(filepath.Join("..", "..", "releasefile", "testdata", "gateway.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer history.Close()
	rows, err := csv.NewReader(history).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	rows = rows[1:]
	var entries []map[string]any
	for _, row := range slices.Backward(rows) { // Helm writes the newest first
		entries = append(entries, map[string]any{"version": row[0], "created": row[1] + "T12:00:00Z", "appVersion": row[2], "digest": strings.Repeat("0", 64)})
	}
	got, skipped := read(t, helm.Options{Location: index(t, "akeyless-gateway", entries...)})
	if len(got) != len(rows) || len(rows) != 129 || len(skipped) > 0 {
		t.Fatalf("read %d of %d releases, skipped %q", len(got), len(rows), skipped)
	}
	for i, row := range rows {
		want := fmt.Sprintf("%s %s %s gateway=%s sra=%s []", row[0], row[1], row[2], row[3], row[4])
		r := got[i]
		if have := fmt.Sprintf("%s %s %s %s %s", r.ID, r.ReleasedAt.Format(time.DateOnly), r.AppVersion, r.Versions, r.Notes); have != want {
			t.Errorf("row %d: got %s, want %s", i+1, have, want)
		}
	}
}

func TestWhatIsOddAboutAnIndex(t *testing.T) {
	t.Parallel()
	day := func(n int) string { return time.Date(2026, 1, n, 0, 0, 0, 0, time.UTC).Format(time.RFC3339) }
	for name, c := range map[string]struct {
		entries []map[string]any
		want    []string // id, day and notes
	}{
		"in order of publication, not of versions": {
			[]map[string]any{
				{"version": "1.10.0", "created": day(2), "appVersion": "1_2"},
				{"version": "1.9.1", "created": day(3), "appVersion": "1_2"},
				{"version": "1.9.0", "created": day(1), "appVersion": "1_2"},
			},
			[]string{"1.9.0 2026-01-01 []", "1.10.0 2026-01-02 []", "1.9.1 2026-01-03 []"},
		},
		"in order of versions where a date is missing": {
			[]map[string]any{
				{"version": "1.10.0", "created": day(1), "appVersion": "1_2"},
				{"version": "1.9.0", "created": "lately", "appVersion": "1_2"},
				{"version": "1.9.0-rc.1", "appVersion": "1_2"},
			},
			[]string{"1.9.0-rc.1 0001-01-01 []", "1.9.0 0001-01-01 [The index dates it lately, which is no date.]", "1.10.0 2026-01-01 []"},
		},
		"dates of an index that was made anew": {
			[]map[string]any{
				{"version": "1.10.0", "created": "2026-01-01T00:00:00.1Z", "appVersion": "1_2"},
				{"version": "1.9.0", "created": "2026-01-01T00:00:00.2Z", "appVersion": "1_2"},
			},
			[]string{"1.9.0 0001-01-01 []", "1.10.0 0001-01-01 []"},
		},
		"marks": {
			[]map[string]any{{"version": "1.0.0", "created": day(1), "appVersion": "1_2", "deprecated": true, "removed": true}},
			[]string{"1.0.0 2026-01-01 [The chart is marked as deprecated. The repository marks this release as removed.]"},
		},
		"one version twice": {
			[]map[string]any{
				{"version": "1.0.0", "created": day(1), "appVersion": "1_2", "digest": "a"},
				{"version": "1.0.0", "created": day(2), "appVersion": "1_3", "digest": "b"},
				{"version": "1.0.0", "created": day(3), "appVersion": "1_4", "digest": "c"},
				nil, {"created": day(4)},
			},
			[]string{"1.0.0 2026-01-01 [The index lists this version more than once with other content; Helm takes the first.]"},
		},
		"one version twice and alike": {
			[]map[string]any{{"version": "1.0.0", "created": day(1), "appVersion": "1_2"}, {"version": "1.0.0", "created": day(1), "appVersion": "1_2"}},
			[]string{"1.0.0 2026-01-01 []"},
		},
	} {
		var got []string
		releases, _ := read(t, helm.Options{Location: index(t, "akeyless-gateway", c.entries...)})
		for _, r := range releases {
			got = append(got, fmt.Sprintf("%s %s %s", r.ID, r.ReleasedAt.Format(time.DateOnly), r.Notes))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTheEntriesOfOtherChartsDoNotMatter(t *testing.T) {
	t.Parallel()
	got, _ := read(t, helm.Options{Location: file(t, "index.yaml", `apiVersion: v1
entries:
  akeyless-zero-trust-web-access:
  - {version: 1.2.3, appVersion: "4.10"}
  broken: [{maintainers: none}]
`)})
	if len(got) != 1 || got[0].Versions["ztwa"] != "4.10" {
		t.Errorf("got %+v", got)
	}
}

func TestALocationThatCannotBeRead(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + taken.Addr().String()
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(says(http.StatusOK, "apiVersion: v1"))
	t.Cleanup(plain.Close)
	answer := func(handler http.Handler) helm.Options {
		server, ca := serve(t, handler)
		return helm.Options{Location: strings.Replace(server.URL, "://", "://me:"+secret+"@", 1) + "/charts?sig=" + secret, CAFile: ca}
	}
	strange, _ := serve(t, says(http.StatusOK, ""))
	slow := answer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }))
	slow.Timeout = 50 * time.Millisecond
	huge := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for spaces := make([]byte, 1<<20); ; {
			if _, err := w.Write(spaces); err != nil {
				return
			}
		}
	})
	folder := t.TempDir()
	for name, c := range map[string]struct {
		opts helm.Options
		id   string
		kind errs.Kind
		text string
	}{
		"nothing listens":         {helm.Options{Location: closed}, "LS-REL-001", errs.Unavailable, "connection refused"},
		"no answer in time":       {slow, "LS-REL-001", errs.Unavailable, "deadline"},
		"out of order":            {answer(says(503, "")), "LS-REL-001", errs.Unavailable, "503 Service Unavailable"},
		"rejected":                {answer(says(401, "")), "LS-REL-002", errs.Unauthenticated, "the name or the password of the address"},
		"anonymous":               {helm.Options{Location: "http://" + hostOf(t, says(401, ""))}, "LS-REL-002", errs.Unauthenticated, "who asks"},
		"a proxy's":               {answer(says(407, "")), "LS-REL-002", errs.Unauthenticated, "the proxy"},
		"forbidden":               {answer(says(403, "")), "LS-REL-003", errs.PermissionDenied, "403 Forbidden"},
		"not there":               {answer(says(404, "")), "LS-REL-004", errs.NotFound, "404 Not Found"},
		"a missing file":          {helm.Options{Location: filepath.Join(folder, "absent")}, "LS-REL-004", errs.NotFound, "no such file or folder"},
		"a login page":            {answer(says(200, "\n<!DOCTYPE html><html>")), "LS-REL-005", errs.Invalid, "a web page"},
		"no YAML":                 {answer(says(200, "a: b: c")), "LS-REL-005", errs.Invalid, "no index"},
		"other YAML":              {answer(says(200, "a: b")), "LS-REL-005", errs.Invalid, "apiVersion"},
		"a list":                  {answer(says(200, "[1]")), "LS-REL-005", errs.Invalid, "apiVersion"},
		"entries that are none":   {answer(says(200, "{apiVersion: v1, entries: {akeyless-sra: {a: b}}}")), "LS-REL-005", errs.Invalid, "akeyless-sra"},
		"no charts":               {answer(says(200, "{apiVersion: v1, entries: {}}")), "LS-REL-010", errs.NotFound, "it has no charts"},
		"too big":                 {answer(huge), "LS-REL-006", errs.Exhausted, "the index is larger"},
		"another's certificate":   {helm.Options{Location: strange.URL}, "LS-REL-007", errs.Unavailable, "certificate"},
		"no TLS":                  {helm.Options{Location: strings.Replace(plain.URL, "http:", "https:", 1)}, "LS-REL-007", errs.Unavailable, "no TLS"},
		"a way in the clear":      {answer(http.RedirectHandler(plain.URL, http.StatusFound)), "LS-REL-007", errs.Unavailable, "from https to http"},
		"round in circles":        {answer(http.RedirectHandler("/charts/index.yaml", http.StatusFound)), "LS-REL-001", errs.Unavailable, "more than ten times"},
		"nothing":                 {helm.Options{}, "LS-REL-008", errs.Invalid, "not said"},
		"another kind":            {helm.Options{Location: "s3://me:" + secret + "@bucket/charts"}, "LS-REL-008", errs.Invalid, "s3://"},
		"no address":              {helm.Options{Location: "https://me:" + secret + "@[::1/charts"}, "LS-REL-008", errs.Invalid, "no address"},
		"a registry alone":        {helm.Options{Location: "oci://registry.example.com"}, "LS-REL-008", errs.Invalid, "oci://host/path/chart"},
		"a folder without chart":  {helm.Options{Location: folder}, "LS-REL-009", errs.Invalid, "Chart.yaml"},
		"a teapot":                {answer(says(418, "")), "LS-REL-011", errs.Unavailable, "418"},
		"no password":             {helm.Options{Location: closed, Username: "me"}, "LS-REL-012", errs.Invalid, "go together"},
		"an absent password file": {helm.Options{Location: closed, Username: "me", PasswordFile: filepath.Join(folder, "absent")}, "LS-REL-012", errs.Invalid, "absent"},
		"an empty password file":  {helm.Options{Location: closed, Username: "me", PasswordFile: file(t, "empty", "\n")}, "LS-REL-012", errs.Invalid, "is empty"},
		"an absent authority":     {helm.Options{Location: closed, CAFile: filepath.Join(folder, "absent")}, "LS-REL-012", errs.Invalid, "absent"},
		"no authority":            {helm.Options{Location: closed, CAFile: file(t, "ca.pem", secret)}, "LS-REL-012", errs.Invalid, "no certificate"},
		"an absent list":          {helm.Options{Location: closed, RepositoryConfig: filepath.Join(folder, "absent")}, "LS-REL-012", errs.Invalid, "absent"},
		"a broken list":           {helm.Options{Location: closed, RepositoryConfig: file(t, "r.yaml", "repositories: {password: "+secret+"}")}, "LS-REL-012", errs.Invalid, "helm repo list"},
		"broken logins":           {helm.Options{Location: "oci://127.0.0.1:1/charts/x", RegistryConfig: file(t, "c.json", `{"auths": "`+secret)}, "LS-REL-012", errs.Invalid, "helm registry login"},
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

// hostOf starts a server without TLS.
func hostOf(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// An end that somebody asked for is none of the location's faults.
func TestACallerThatGoesAway(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	server, ca := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		cancel()
		<-req.Context().Done()
	}))
	if _, _, err := helm.Read(ctx, helm.Options{Location: server.URL, CAFile: ca}); !errors.Is(err, context.Canceled) || errs.IDOf(err) != "" {
		t.Error(err)
	}
}

func TestNoConnectionIsLeftOpen(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	server := httptest.NewUnstartedServer(http.FileServerFS(os.DirFS("testdata")))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(closed)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	read(t, helm.Options{Location: server.URL})
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
	}
}

func TestWhoAsksARepository(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "index.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	guarded := func(user, password string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if u, p, _ := req.BasicAuth(); u != user || p != password {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = w.Write(text)
		})
	}
	password := file(t, "password", secret+"\n")
	inAddress := func(url string) string { return strings.Replace(url, "://", "://other:"+secret+"@", 1) }
	list := func(url string) string {
		return file(t, "repositories.yaml", "repositories:\n- {name: x, url: 'https://elsewhere.example.com', username: x, password: x}\n- {name: v, url: '"+url+"/', username: me, password: "+secret+"}\n")
	}
	for name, c := range map[string]struct {
		user string
		opts func(url string) helm.Options
	}{
		"the options": {"me", func(url string) helm.Options {
			return helm.Options{Location: url, Username: "me", PasswordFile: password}
		}},
		"the options over address": {"me", func(url string) helm.Options {
			return helm.Options{Location: inAddress(url), Username: "me", PasswordFile: password}
		}},
		"the address": {"other", func(url string) helm.Options { return helm.Options{Location: inAddress(url)} }},
		"the address over Helm's": {"other", func(url string) helm.Options {
			return helm.Options{Location: inAddress(url), RepositoryConfig: list(url)}
		}},
		"Helm's list": {"me", func(url string) helm.Options { return helm.Options{Location: url, RepositoryConfig: list(url)} }},
		"Helm's list, the index": {"me", func(url string) helm.Options {
			return helm.Options{Location: url + "/index.yaml", RepositoryConfig: list(url)}
		}},
	} {
		server, ca := serve(t, guarded(c.user, secret))
		opts := c.opts(server.URL)
		opts.CAFile = ca
		releases, _, err := helm.Read(t.Context(), opts)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(fmt.Sprint(releases), secret) {
			t.Errorf("%s: a release tells the password", name)
		}
	}

	// Another host learns no password.
	bare := hostOf(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("the password went on to another host")
		}
		_, _ = w.Write(text)
	}))
	_, port, err := net.SplitHostPort(bare)
	if err != nil {
		t.Fatal(err)
	}
	from := "http://me:" + secret + "@" + hostOf(t, http.RedirectHandler("http://localhost:"+port+"/index.yaml", http.StatusFound))
	if got, _ := read(t, helm.Options{Location: from}); len(got) == 0 {
		t.Error("nothing was read after a redirect")
	}
}

func TestAProxyOfTheEnvironmentIsUsed(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	proxy := hostOf(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked <- req.Method + " " + req.Host
		w.WriteHeader(http.StatusForbidden)
	}))
	alone := exec.CommandContext(t.Context(), os.Args[0])
	alone.Env = append(os.Environ(), readAlone+"=https://charts.example.com/x", "HTTPS_PROXY=http://"+proxy, "NO_PROXY=")
	said, err := alone.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if len(asked) == 0 || !strings.Contains(string(said), "LS-REL-001") {
		t.Fatalf("the proxy was not asked: %s", said)
	}
	if got := <-asked; got != "CONNECT charts.example.com:443" {
		t.Errorf("the proxy was asked for %q", got)
	}
}
