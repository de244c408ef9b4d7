package sources_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/sources"
)

// place is a folder with a configuration that names a source of every kind.
type place struct {
	dir    string
	vendor *akeylesstest.Server
	port   string // something that takes connections
}

func newPlace(t *testing.T) place {
	t.Helper()
	vendor, err := akeylesstest.NewServer(akeylesstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vendor.Close() })
	vendor.SetCluster(akeylesstest.Cluster{Name: "acc/p/oslo", LastReport: time.Now(), Instances: []akeylesstest.Instance{{ID: "bastion-1"}}})
	if err := vendor.Report(akeylesstest.Session{ID: "s1", Status: "connected", StartTime: time.Now(), Gateway: akeylesstest.GatewayInfo{ClusterName: "acc/p/oslo"}}); err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := place{dir: t.TempDir(), vendor: vendor, port: l.Addr().String()}
	if err := os.Mkdir(filepath.Join(p.dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	// As the spool leaves it, which is opened before anything is kept beside it.
	if err := os.MkdirAll(filepath.Join(p.dir, "data", "spool"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.write(t, "vendor.key", akeylesstest.AccessKey)
	p.write(t, "s3.id", "id")
	p.write(t, "s3.key", "key")
	p.write(t, "kubeconfig", `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}], users: [{name: u, user: {token: t}}]}`)
	p.write(t, "compose.yaml", "services: {akeyless-web: {image: \"sra:3\"}}\n")
	return p
}

func (p place) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// load reads the configuration after one change of its text.
func (p place) load(t *testing.T, from, to string) fleetfile.File {
	t.Helper()
	text := fmt.Sprintf(`server: {data_dir: data}
vendor: {url: %q, access_id: %q, access_key_file: vendor.key, poll_interval: 1s}
clusters:
  - id: oslo
    vendor_cluster: acc/p/oslo
    gateway_url: %q
    kubernetes: {kubeconfig: kubeconfig, namespace: akeyless}
    probes: [{name: port, type: tcp, address: %q}]
    health: {web: %q}
    recording: {endpoint: "http://127.0.0.1:1", bucket: rec, region: eu, path_style: true, access_key_file: s3.id, secret_key_file: s3.key}
    forwarding: {type: tcp, address: %q, send: true}
  - id: rome
    compose: {engine: "unix:///nowhere/docker.sock", dir: .}
`, p.vendor.URL(), akeylesstest.AccessID, p.vendor.URL(), p.port, p.port, p.port)
	if from != "" && !strings.Contains(text, from) {
		t.Fatalf("the configuration does not hold %s", from)
	}
	p.write(t, "fleet.yaml", strings.Replace(text, from, to, 1))
	file, err := fleetfile.Load(filepath.Join(p.dir, "fleet.yaml"), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func open(t *testing.T, file fleetfile.File) *sources.Set {
	t.Helper()
	set, err := sources.Open(file, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	return set
}

func TestEverythingThatIsNamedHasASchedule(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	set := open(t, p.load(t, "", ""))
	var got []string
	for _, s := range set.Schedules() {
		got = append(got, fmt.Sprintf("%s %v: %s", s.Kind, s.Clusters, s.Name))
		if s.Every <= 0 || s.Timeout < 0 || s.Source == nil {
			t.Errorf("%s is asked every %s within %s", s.Name, s.Every, s.Timeout)
		}
		if watched := s.Wake != nil && s.Run != nil; watched != (s.Kind == fleet.KindInventory) {
			t.Errorf("%s is watched: %t", s.Name, watched)
		}
	}
	slices.Sort(got)
	want := []string{
		"health [oslo]: the health of oslo",
		"inventory [oslo]: the inventory of oslo",
		"inventory [rome]: the inventory of rome",
		"package [oslo]: the package of oslo",
		"package [rome]: the package of rome",
		"pipeline [oslo]: the log forwarding of oslo",
		"pipeline [oslo]: the recording storage of oslo",
		"pipeline [oslo]: the recordings of oslo",
		"probe [oslo]: probe port of oslo",
		"registration [oslo]: registrations",
		"session [oslo]: sessions",
	}
	if !slices.Equal(got, want) {
		t.Errorf("schedules\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if set.Projects["rome"] == nil || len(set.Projects) != 1 {
		t.Errorf("deployments %v", set.Projects)
	}
}

// Gates know the checks of a cluster by the names that their findings have.
func TestChecksAreNamedAsTheirFindings(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	file := p.load(t, "", "")
	names := func(c fleetfile.Cluster) string {
		var out []string
		for _, check := range sources.Checks(c) {
			out = append(out, check.Name+" "+string(check.Kind))
		}
		return strings.Join(out, ", ")
	}
	if got, want := names(file.Clusters[0]), "port tcp, recording recording, storage storage, forwarding forwarding"; got != want {
		t.Errorf("checks %s, want %s", got, want)
	}
	if got := names(file.Clusters[1]); got != "" {
		t.Errorf("where nothing is configured: %s", got)
	}
	quiet := p.load(t, "bucket: rec,", "bucket: rec, no_canary: true,")
	if got := names(quiet.Clusters[0]); strings.Contains(got, "storage") {
		t.Errorf("without a canary: %s", got)
	}
	for _, l := range open(t, file).Look(t.Context(), []fleet.ClusterID{"oslo"}) {
		for _, o := range l.Observations {
			if c := o.Check; c != nil && c.Kind.Kind() == fleet.KindProbe && !strings.Contains(names(file.Clusters[0]), c.Name+" "+string(c.Kind)) {
				t.Errorf("%s finds %s %s, which no gate would know", l.Name, c.Name, c.Kind)
			}
		}
	}
}

// A dry run asks everything once, says what is in the way, and writes nowhere.
func TestLook(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	set := open(t, p.load(t, "", ""))
	looks := make(map[string]sources.Look)
	for _, l := range set.Look(t.Context(), nil) {
		looks[l.Name] = l
	}
	check := func(name string, holds bool) {
		t.Helper()
		if !holds {
			t.Errorf("%s: %+v", name, looks[name])
		}
	}
	l := looks["probe port of oslo"]
	check("probe port of oslo", l.Err == nil && len(l.Observations) == 1 && l.Observations[0].Check.OK)
	l = looks["registrations"]
	check("registrations", l.Err == nil && len(l.Observations) == 1 && l.Observations[0].Registration.Cluster == "oslo")
	l = looks["sessions"]
	check("sessions", l.Err == nil && len(l.Missing) == 0 && len(l.Observations) == 2 && l.Observations[0].Session.ID == "s1" && !l.Observations[1].Mark.Blind)
	check("the inventory of oslo", errs.IDOf(looks["the inventory of oslo"].Err) == "LS-KUB-002")
	check("the inventory of rome", errs.IDOf(looks["the inventory of rome"].Err) == "LS-CMP-001")
	check("the recordings of oslo", looks["the recordings of oslo"].Err != nil)
	for _, name := range []string{"the log forwarding of oslo", "the recording storage of oslo"} {
		check(name, looks[name].Skipped != "" && looks[name].Observations == nil)
	}
	for _, l := range set.Look(t.Context(), []fleet.ClusterID{"rome"}) {
		if !slices.Equal(l.Clusters, []fleet.ClusterID{"rome"}) {
			t.Errorf("asked about rome alone, it looked at %s", l.Name)
		}
	}
	p.vendor.HideGateway("acc/p/oslo", true)
	for _, l := range open(t, p.load(t, "", "")).Look(t.Context(), []fleet.ClusterID{"oslo"}) {
		if l.Kind == fleet.KindSession && (len(l.Missing) == 0 || !strings.Contains(l.Missing[0].What, "acc/p/oslo") || !strings.Contains(l.Missing[0].Todo, "sra-reports-access=all")) {
			t.Errorf("out of sight: %+v", l)
		}
	}
	if violations := p.vendor.Violations(); len(violations) > 0 {
		t.Errorf("the vendor was asked wrongly: %v", violations)
	}
}

// Finished sessions are looked for in the storage of their cluster.
func TestRecordingsAreToldOfSessions(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	set := open(t, p.load(t, "", ""))
	ended := akeylesstest.Session{
		ID: "r1", Status: "completed", StartTime: time.Now().Add(-time.Minute), EndTime: time.Now(), ConnectionType: "rdp",
		Gateway: akeylesstest.GatewayInfo{ClusterName: "acc/p/oslo"},
	}
	if err := p.vendor.Report(ended); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sessions", "the recordings of oslo"} {
		i := slices.IndexFunc(set.Schedules(), func(s collector.Schedule) bool { return s.Name == name })
		found, err := set.Schedules()[i].Source.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		// The storage does not answer, which is only noticed when there is something to
		// look for.
		if name == "the recordings of oslo" && (len(found) != 1 || found[0].Check.Kind != fleet.CheckStorage || found[0].Check.OK) {
			t.Errorf("looked for the recording: %+v", found)
		}
	}
}

func TestWhatCannotBeOpened(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	for name, c := range map[string]struct{ from, to, id string }{
		"no vendor key": {"vendor.key", "other.key", "LS-VEN-008"},
		"no S3 key":     {"s3.key", "other.key", "LS-PIP-001"},
	} {
		file := p.load(t, c.from, c.to)
		if set, err := sources.Open(file, slog.New(slog.DiscardHandler), time.Now); errs.IDOf(err) != c.id {
			t.Errorf("%s: %v %v", name, set, err)
		}
	}
}

// apiServer is a namespace without Helm releases.
type apiServer struct {
	url  string
	down atomic.Bool
}

func kubernetes(t *testing.T) *apiServer {
	t.Helper()
	a := new(apiServer)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if a.down.Load() {
			http.Error(w, "down", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "1"}, "items": []}`)
	}))
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

// A cluster has one package: what its engine tells, with the settings of its gateway.
func TestThePackageHoldsRemoteAccess(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	api := kubernetes(t)
	p.write(t, "kubeconfig", `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "`+api.url+`"}}], users: [{name: u, user: {token: t}}]}`)
	file := p.load(t, "", "")
	schedule := func(set *sources.Set) collector.Schedule {
		all := set.Schedules()
		return all[slices.IndexFunc(all, func(s collector.Schedule) bool { return s.Name == "the package of oslo" })]
	}
	whole := schedule(open(t, file))
	before := time.Now()
	seen, err := whole.Source.Poll(t.Context())
	if err != nil || len(seen) != 1 || seen[0].Package.RemoteAccess == nil {
		t.Fatalf("both answer: %+v, %v", seen, err)
	}
	p.vendor.Forbid("gateway-get-remote-access", true)
	for range 2 {
		seen, err = whole.Source.Poll(t.Context())
		if err != nil || len(seen) != 2 || seen[0].Package == nil || seen[0].Package.RemoteAccess != nil {
			t.Fatalf("the engine alone answers: %+v, %v", seen, err)
		}
		m := seen[1].Mark
		if m == nil || !m.Blind || m.About != fleet.KindPackage || m.Cluster != "oslo" || !strings.Contains(m.BlindReason, "remote access settings of oslo") {
			t.Errorf("the engine alone answers, and the mark says %+v", m)
		}
		if m.CompleteUntil.Before(before) || m.CompleteUntil.After(time.Now()) {
			t.Errorf("the mark promises until %s; both answered at %s", m.CompleteUntil, before)
		}
	}
	for _, l := range open(t, file).Look(t.Context(), []fleet.ClusterID{"oslo"}) {
		if l.Name == "the package of oslo" && (l.Err != nil || len(l.Missing) != 1 || !strings.Contains(l.Missing[0].What, "remote access")) {
			t.Errorf("a look at the engine alone: %+v", l)
		}
	}
	p.vendor.Forbid("gateway-get-remote-access", false)
	if seen, err = whole.Source.Poll(t.Context()); err != nil || len(seen) != 1 || seen[0].Package.RemoteAccess == nil {
		t.Errorf("both answer again: %+v, %v", seen, err)
	}
	api.down.Store(true)
	if seen, err = whole.Source.Poll(t.Context()); err == nil || len(seen) != 0 || !strings.Contains(err.Error(), "the package of oslo") {
		t.Errorf("the gateway alone answers: %+v, %v", seen, err)
	}
}

// A dry run reads little of the past, and leaves what a run knows as it is.
func TestSessionsOfALookAndOfARun(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	hour := time.Now().Add(-time.Hour)
	if err := p.vendor.Report(akeylesstest.Session{
		ID: "s0", Status: "completed", StartTime: hour, EndTime: hour.Add(time.Minute), Gateway: akeylesstest.GatewayInfo{ClusterName: "acc/p/oslo"},
	}); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(p.dir, "data", "spool", "open-sessions")
	ids := func(seen []codec.Observation) (out []fleet.SessionID) {
		for _, o := range seen {
			if o.Session != nil {
				out = append(out, o.Session.ID)
			}
		}
		return out
	}
	file := p.load(t, "", "")
	set := open(t, file)
	for _, l := range set.Look(t.Context(), nil) {
		if got := ids(l.Observations); l.Kind == fleet.KindSession && !slices.Equal(got, []fleet.SessionID{"s1"}) {
			t.Errorf("a look sees sessions %v: %+v", got, l)
		}
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a look kept something: %v", err)
	}
	set = open(t, file)
	all := set.Schedules()
	run := all[slices.IndexFunc(all, func(s collector.Schedule) bool { return s.Kind == fleet.KindSession })]
	if run.Timeout != 6*time.Minute {
		t.Errorf("a poll of sessions has %s", run.Timeout)
	}
	seen, err := run.Source.Poll(t.Context())
	if got := ids(seen); err != nil || !slices.Equal(got, []fleet.SessionID{"s0", "s1"}) {
		t.Errorf("a run sees sessions %v, %v", got, err)
	}
	// The reader itself writes the file every few minutes; the end of a run is another time.
	if err := p.vendor.Report(akeylesstest.Session{ID: "s2", Status: "connected", StartTime: time.Now(), Gateway: akeylesstest.GatewayInfo{ClusterName: "acc/p/oslo"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := run.Source.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(kept); err != nil || !strings.Contains(string(text), `"s2"`) {
		t.Errorf("a run kept %q, %v", text, err)
	}
}

// The vendor has the time that the configuration gives it.
func TestTheVendorsTimeout(t *testing.T) {
	t.Parallel()
	for _, v := range []fleetfile.Vendor{{Timeout: 7 * time.Second}, {Timeout: 7 * time.Second, Command: []string{"akeyless"}}} {
		if got := sources.VendorOptions(v, "", slog.New(slog.DiscardHandler), time.Now).Timeout; got != v.Timeout {
			t.Errorf("asked with %v it has %s", v.Command, got)
		}
	}
}
