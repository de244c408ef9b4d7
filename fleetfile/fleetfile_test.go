package fleetfile_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestLoadTakesEveryKey(t *testing.T) {
	t.Parallel()
	got, err := fleetfile.Load("testdata/fleet.yaml", env("HOME", "/home/ann", "DOCKER_HOST", "unix:///run/other.sock"))
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	want := fleetfile.File{
		Server: fleetfile.Server{Listen: "0.0.0.0:9000", AdminListen: "off", DataDir: config.Path(here + "/data")},
		Access: fleetfile.Access{Tokens: []fleetfile.Token{{
			Name: "ci", Role: "operator", Tenant: fleet.DefaultTenant, SHA256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
		}}},
		Bus:   fleetfile.Bus{URL: "nats://a:4222, tls://b:4222", CredentialsFile: config.Path(here + "/nats.creds"), Replicas: 3},
		Store: fleetfile.Store{DSNFile: config.Path(here + "/clickhouse.dsn")},
		Log:   fleetfile.Log{Level: "warn", Format: "json"},
		Vendor: &fleetfile.Vendor{
			URL: "https://api.akeyless.io", AccessType: "access_key", AccessID: "p-abc", AccessKeyFile: "/etc/lockstep/akeyless.key",
			JWTFile: config.Path(here + "/jwt"), K8sAuthConfig: "prod", K8sTokenFile: "/run/token", GatewayURL: "https://gw:8000",
			UIDTokenFile: "/run/uid", CAFile: config.Path(here + "/ca.pem"),
			Timeout: 14 * time.Second, PollInterval: 10 * time.Second, SourceLag: 7 * time.Second,
		},
		Releases: []fleetfile.Release{
			{
				ID:      "5.0.1",
				Gateway: &fleetfile.Image{Version: "5.0.1", Image: "docker.io/akeyless/base:5.0.1"},
				SRA:     &fleetfile.Image{Version: "3.1.0", Image: "docker.io/akeyless/zero-trust-bastion:3.1.0"},
			},
			{
				ID:      "gateway-5.1",
				Gateway: &fleetfile.Image{Version: "5.1.0", Image: "localhost:5000/akeyless/base@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
			},
		},
		Clusters: []fleetfile.Cluster{
			{
				ID: "berlin", Release: "5.0.1", VendorCluster: "acc-1/p-1/berlin",
				Labels: map[string]string{"env": "prod", "example.org/tier": "1", "on-call": ""}, Window: 45 * time.Minute,
				Compose: &fleetfile.Compose{
					Engine: "tcp://10.0.0.1:2376", Project: "berlin-1", Dir: "/srv/berlin",
					Files: []string{"compose.yaml", "extra.yaml"}, EnvFiles: []string{".env"}, Profiles: []string{"gateway", "sra"},
					Services: map[string]fleet.Component{"edge": fleet.Gateway, "akeyless-web": fleet.SRAWeb, "akeyless-ssh": fleet.SRASSH},
				},
				ProbeBudget: fleetfile.ProbeBudget{LoginsPerHour: 720, AtOnce: 4},
			},
			{
				ID: "paris",
				Compose: &fleetfile.Compose{
					Engine: "unix:///run/other.sock", Project: "paris",
					Dir: config.Path(filepath.Join(filepath.Dir(here), "paris")), Files: []string{"compose.yaml"},
				},
				ProbeBudget: fleetfile.ProbeBudget{LoginsPerHour: 720, AtOnce: 4},
				Forwarding:  &fleetfile.Forwarding{Type: "syslog", Address: "logs:6514", TLS: true, Every: time.Minute, Timeout: 10 * time.Second},
			},
			{
				ID: "oslo", VendorCluster: "acc-1/p-1/oslo", GatewayURL: "https://gw:8000/api/v2",
				Kubernetes: &fleetfile.Kubernetes{
					Kubeconfig: config.Path(here + "/kubeconfig"), Context: "prod", Namespace: "akeyless", Releases: []string{"gateway"},
					Workloads: map[string]fleet.Component{"deployment/edge": fleet.Gateway},
					Helm:      []fleetfile.Helm{{Release: "gateway", Values: config.Path(here + "/values.yaml"), Repository: "oci://mirror/akeyless-gateway", Ready: 2 * time.Minute}},
				},
				Probes: []fleetfile.Probe{
					{
						Name: "login", Type: "ssh", Component: fleet.SRASSH, Address: "bastion:22", Every: 20 * time.Second, Timeout: 5 * time.Second, User: "probe",
						KeyFile: config.Path(here + "/probe"), CertificateFile: config.Path(here + "/probe-cert.pub"), HostKey: "ssh-ed25519 AAAA",
						Command: "id",
					},
					{
						Name: "known", Type: "ssh", Address: "bastion:22", Every: 30 * time.Second, Timeout: 10 * time.Second, User: "probe",
						KeyFile: config.Path(here + "/probe"), KnownHostsFile: config.Path(here + "/known_hosts"),
					},
					{
						Name: "any", Type: "ssh", Address: "bastion:22", Every: 30 * time.Second, Timeout: 10 * time.Second, User: "probe",
						KeyFile: config.Path(here + "/probe"), InsecureHostKey: true,
					},
					{
						Name: "page", Type: "https", Address: "https://web:443/", Every: 30 * time.Second, Timeout: 10 * time.Second,
						CAFile: config.Path(here + "/ca.pem"), ServerName: "web.example.org", Statuses: []int{200, 401}, Contains: "ok",
					},
				},
				ProbeBudget: fleetfile.ProbeBudget{LoginsPerHour: 600, AtOnce: 3},
				Health: &fleetfile.Health{
					Gateway: "http://gw:8080", SSH: "http://ssh:9900", Web: "web:8888", Worker: "http://worker:9090",
					Metrics: "http://gw:8000/metrics", CAFile: config.Path(here + "/ca.pem"), Every: 16 * time.Second, Timeout: 6 * time.Second,
				},
				Recording: &fleetfile.Recording{
					Protocols: []string{"rdp", "ssh"}, Pattern: "{date}/{session_id}", Within: 6 * time.Minute, MinDuration: time.Second,
					Endpoint: "http://s3:9000", AllowHTTP: true, Region: "eu", Bucket: "rec", Prefix: "oslo/", AccessKeyFile: config.Path(here + "/s3.id"),
					SecretKeyFile: config.Path(here + "/s3.key"), CAFile: config.Path(here + "/ca.pem"), PathStyle: true,
					CanaryEvery: 20 * time.Minute, NoCanary: true, Every: 31 * time.Second,
				},
				Forwarding: &fleetfile.Forwarding{
					Type: "https", Address: "https://logs:8088/", CAFile: config.Path(here + "/ca.pem"), TokenFile: config.Path(here + "/hec"),
					Header: "Authorization", Send: true, Every: 2 * time.Minute, Timeout: 3 * time.Second,
				},
			},
		},
		Inventory: fleetfile.Inventory{PollInterval: 4 * time.Second},
		Collector: fleetfile.Collector{ID: "agent-1", SpoolDir: config.Path(here + "/spool"), SpoolMB: 64, FullEvery: 4 * time.Minute},
		Drift: fleetfile.Drift{
			MixedWindow: 31 * time.Minute, DarkAfter: 3 * time.Minute, SplitAfter: 11 * time.Minute, WindowCap: 5 * time.Hour,
			Steps: map[fleet.Line]time.Duration{fleet.LineGateway: 40 * time.Minute, fleet.LineZTWA: time.Second},
			Edges: []fleetfile.Edge{{Line: fleet.LineSRA, From: "3.0.3", To: "3.1.0", Window: 2 * time.Hour}, {Line: fleet.LineSRA, From: "3.1.0", To: "3.0.3", Window: time.Hour}},
		},
		Rollout: fleetfile.Rollout{Window: 32 * time.Minute, Lookback: 23 * time.Hour},
		Gate: gatefile.Statistics{
			Alpha: 0.02, Beta: 0.06, Tolerance: 1.5, Margin: 3, AcceptableRate: 0.03, FloorRate: 0.01, Partners: 9, PlannedTrials: 100,
			Maturation: 110 * time.Second, BurstWindow: 50 * time.Second, Bucket: 2 * time.Second, Deadline: 11 * time.Minute, MaxLate: 0.02,
		},
		Notify: fleetfile.Notify{Webhooks: []fleetfile.Webhook{{Name: "ops", URL: "https://example.org/hook", SecretFile: config.Path(here + "/hook.secret")}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	if url := got.Server.URL(); url != "http://127.0.0.1:9000" {
		t.Errorf("URL %s", url)
	}
	if diff := cmp.Diff(map[fleet.Line]fleetfile.Image{fleet.LineGateway: *want.Releases[1].Gateway}, got.Releases[1].Lines()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestLoadWithoutAFile(t *testing.T) {
	t.Parallel()
	got, err := fleetfile.Load("", env("HOME", "/home/ann"), fleetfile.Flag{Name: "--listen", Key: "server.listen", Value: "[::]:1"})
	if err != nil {
		t.Fatal(err)
	}
	if got.Server.DataDir != "/home/ann/.local/share/lockstep" || got.Server.TokenFile() != "/home/ann/.local/share/lockstep/admin.token" {
		t.Errorf("server %+v", got.Server)
	}
	if got.Server.URL() != "http://127.0.0.1:1" {
		t.Errorf("the override is lost: %+v", got.Server)
	}
	if got.Vendor != nil || len(got.Clusters) != 0 {
		t.Errorf("something came from nowhere: %+v", got)
	}
	if xdg := fleetfile.Default(env("XDG_DATA_HOME", "/d", "HOME", "/h")); xdg.Server.DataDir != "/d/lockstep" {
		t.Errorf("XDG_DATA_HOME gives %s", xdg.Server.DataDir)
	}
}

func TestVendorDefaults(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte("vendor: {url: https://v, access_id: a, access_key_file: k}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := fleetfile.Load(path, env("HOME", "/h"))
	if err != nil {
		t.Fatal(err)
	}
	if got.Vendor.Timeout != 15*time.Second || got.Vendor.PollInterval != 10*time.Second || got.Vendor.SourceLag != 5*time.Second {
		t.Errorf("vendor %+v", got.Vendor)
	}
}

func TestValidateReportsEverythingAtOnce(t *testing.T) {
	t.Parallel()
	f := fleetfile.Default(env())
	f.Server.Listen, f.Server.AdminListen = "8470", "none"
	f.Access.Tokens = []fleetfile.Token{
		{Name: "Ann", Role: "root", SHA256: "lst_abc"},
		{Name: "b", Role: "viewer", Tenant: "default", SHA256: strings.Repeat("a", 64)},
		{Name: "b", Tenant: "default", SHA256: strings.Repeat("a", 64)},
	}
	f.Bus = fleetfile.Bus{URL: "nats://u:p@a:4222,a:4222", CredentialsFile: "rel", Replicas: 2}
	f.Store.DSNFile = "rel"
	f.Log = fleetfile.Log{Level: "loud"}
	f.Vendor = &fleetfile.Vendor{URL: "https://u:p@x", AccessKeyFile: "rel", SourceLag: -1}
	f.Releases = []fleetfile.Release{
		{ID: "Big"},
		{ID: "a", Gateway: &fleetfile.Image{Version: "1", Image: "host:5000/x"}, SRA: &fleetfile.Image{Image: "y:latest"}},
		{ID: "a", SRA: &fleetfile.Image{Version: "1", Image: "y@sha256:12"}},
	}
	f.Clusters = []fleetfile.Cluster{
		{ID: "one.two", Release: "B", VendorCluster: "v", Labels: map[string]string{"lockstep.x": "y", "e/": "z", "_/e": "-"}, Window: time.Millisecond},
		{ID: "c", VendorCluster: "v", Compose: &fleetfile.Compose{Engine: "docker.sock", Project: "p", Dir: "rel", Files: []string{"x", "x", ""}, Services: map[string]fleet.Component{"s": "S"}}},
		{ID: "c", Compose: &fleetfile.Compose{Engine: "docker.sock", Project: "p", Dir: "/d"}},
	}
	f.Clusters = append(f.Clusters, fleetfile.Cluster{
		ID: "k", GatewayURL: "gw:8000", Kubernetes: &fleetfile.Kubernetes{Kubeconfig: "rel", Namespace: "A_b", Releases: []string{"gw"}, Workloads: map[string]fleet.Component{"edge": "gateway"}, Helm: []fleetfile.Helm{
			{}, {Release: "gw", Values: "rel", Ready: time.Hour, Repository: "https://ada:pw@charts"}, {Release: "gw"}, {Release: "other"},
		}},
		Probes: []fleetfile.Probe{
			{Name: "p", Type: "ping", Address: "x"},
			{Name: "p", Type: "ssh", Address: "h:22", KeyFile: "rel", Every: time.Millisecond, Timeout: time.Second},
		},
		Health:     &fleetfile.Health{},
		Recording:  &fleetfile.Recording{Endpoint: "s3", Pattern: "all", AccessKeyFile: "rel", Every: time.Second, Within: time.Second, CanaryEvery: -1},
		Forwarding: &fleetfile.Forwarding{Type: "udp", Address: "h"},
	})
	f.Collector = fleetfile.Collector{ID: "a.b", SpoolDir: "rel", SpoolMB: 1}
	f.Inventory.PollInterval = -time.Second
	f.Drift = fleetfile.Drift{
		MixedWindow: time.Hour, DarkAfter: -1, WindowCap: time.Minute, Steps: map[fleet.Line]time.Duration{"gatway": time.Hour, "sra": time.Millisecond},
		Edges: []fleetfile.Edge{{}, {Line: "bastion", From: "1", To: "1", Window: time.Hour}, {Line: "bastion", From: "1", To: "1", Window: time.Hour}},
	}
	f.Rollout.Window = 19 * time.Minute
	f.Gate.Alpha, f.Gate.MaxLate, f.Gate.Margin, f.Gate.Partners, f.Gate.BurstWindow = 1, math.NaN(), 1.1, 1, -1
	f.Notify.Webhooks = []fleetfile.Webhook{{URL: "ftp://x", SecretFile: "rel"}}

	err := f.Validate()
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error %T: %v", err, err)
	}
	golden(t, "problems.txt", err.Error()+"\n")
	if strings.Contains(err.Error(), "u:p") || strings.Contains(err.Error(), "lst_abc") {
		t.Error("a secret is shown")
	}
}

// command has the vendor asked with a command line alone.
func command(f *fleetfile.File, words ...string) {
	f.Vendor = &fleetfile.Vendor{Command: words, Timeout: time.Second, PollInterval: time.Second, SourceLag: time.Second}
	f.Clusters[2].GatewayURL = ""
}

// A problem with a budget says what would fit, and one with a secret does not show it.
func TestWhatProblemsSay(t *testing.T) {
	t.Parallel()
	f, err := fleetfile.Load("testdata/fleet.yaml", env("HOME", "/h"))
	if err != nil {
		t.Fatal(err)
	}
	f.Clusters[2].ProbeBudget.LoginsPerHour = 100
	// Every 20s, and twice every 30s.
	if err := f.Validate(); err == nil || !strings.Contains(err.Error(), "log in 420 times an hour") || !strings.Contains(err.Error(), "every to 1m48s or more") {
		t.Errorf("the budget: %v", err)
	}
	command(&f, "akeyless", "--access-key=xyzzy")
	if err := f.Validate(); err == nil || strings.Contains(err.Error(), "xyzzy") || !strings.Contains(err.Error(), "--access-key puts") {
		t.Errorf("the command: %v", err)
	}
}

func edges(list ...fleetfile.Edge) []fleetfile.Edge { return list }

// label gives the first cluster one more label.
func label(key, value string) func(*fleetfile.File) {
	return func(f *fleetfile.File) { f.Clusters[0].Labels[key] = value }
}

// TestValidateRefusesOneByOne breaks an acceptable file in one place and
// expects exactly that key.
func TestValidateRefusesOneByOne(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*fleetfile.File)
		key    string
	}{
		"no data folder":      {func(f *fleetfile.File) { f.Server.DataDir = "" }, "server.data_dir"},
		"relative data":       {func(f *fleetfile.File) { f.Server.DataDir = "x" }, "server.data_dir"},
		"port in words":       {func(f *fleetfile.File) { f.Server.Listen = "localhost:http" }, "server.listen"},
		"one port for both":   {func(f *fleetfile.File) { f.Server.AdminListen = f.Server.Listen }, "server.admin_listen"},
		"admin nowhere":       {func(f *fleetfile.File) { f.Server.AdminListen = "" }, "server.admin_listen"},
		"a token's hash":      {func(f *fleetfile.File) { f.Access.Tokens[0].SHA256 = "9F86" }, "access.tokens[0].sha256"},
		"another tenant":      {func(f *fleetfile.File) { f.Access.Tokens[0].Tenant = "acme" }, "access.tokens[0].tenant"},
		"the admin's name":    {func(f *fleetfile.File) { f.Access.Tokens[0].Name = "admin" }, "access.tokens[0].name"},
		"no NATS scheme":      {func(f *fleetfile.File) { f.Bus.URL = "http://a" }, "bus.url"},
		"an empty server":     {func(f *fleetfile.File) { f.Bus.URL = "nats://a:1,,nats://b:1" }, "bus.url"},
		"copies but one bus":  {func(f *fleetfile.File) { f.Bus = fleetfile.Bus{Replicas: 3} }, "bus.replicas"},
		"no copy":             {func(f *fleetfile.File) { f.Bus.Replicas = 0 }, "bus.replicas"},
		"keys to no door":     {func(f *fleetfile.File) { f.Bus = fleetfile.Bus{CredentialsFile: "/c", Replicas: 1} }, "bus.credentials_file"},
		"no log format":       {func(f *fleetfile.File) { f.Log.Format = "" }, "log.format"},
		"dark between polls":  {func(f *fleetfile.File) { f.Drift.DarkAfter = 9 * time.Second }, "drift.dark_after"},
		"no mixed window":     {func(f *fleetfile.File) { f.Drift.MixedWindow = 0 }, "drift.mixed_window"},
		"short window":        {func(f *fleetfile.File) { f.Rollout.Window = 20*time.Minute - 1 }, "rollout.window"},
		"negative lookback":   {func(f *fleetfile.File) { f.Rollout.Lookback = -1 }, "rollout.lookback"},
		"beta 0":              {func(f *fleetfile.File) { f.Gate.Beta = 0 }, "gate.beta"},
		"tolerance below 1":   {func(f *fleetfile.File) { f.Gate.Tolerance = 0.9 }, "gate.tolerance"},
		"endless margin":      {func(f *fleetfile.File) { f.Gate.Margin = math.Inf(1) }, "gate.margin"},
		"acceptable 0":        {func(f *fleetfile.File) { f.Gate.AcceptableRate = 0 }, "gate.acceptable_rate"},
		"floor below 0":       {func(f *fleetfile.File) { f.Gate.FloorRate = -0.1 }, "gate.floor_rate"},
		"no trials":           {func(f *fleetfile.File) { f.Gate.PlannedTrials = 0 }, "gate.planned_trials"},
		"no bucket":           {func(f *fleetfile.File) { f.Gate.Bucket = 0 }, "gate.bucket"},
		"deadline too early":  {func(f *fleetfile.File) { f.Gate.Deadline = 2 * time.Minute }, "gate.deadline"},
		"alpha of a coin":     {func(f *fleetfile.File) { f.Gate.Alpha = 0.9 }, "gate.alpha"},
		"beta of a coin":      {func(f *fleetfile.File) { f.Gate.Beta = 0.6 }, "gate.beta"},
		"tolerates anything":  {func(f *fleetfile.File) { f.Gate.Tolerance, f.Gate.Margin = 11, 12 }, "gate.tolerance"},
		"a narrow margin":     {func(f *fleetfile.File) { f.Gate.Tolerance, f.Gate.Margin = 1, 1.2 }, "gate.margin"},
		"margin is tolerance": {func(f *fleetfile.File) { f.Gate.Tolerance, f.Gate.Margin = 1.5, 1.5 }, "gate.margin"},
		"accepts anything":    {func(f *fleetfile.File) { f.Gate.AcceptableRate = 0.6 }, "gate.acceptable_rate"},
		"a high floor":        {func(f *fleetfile.File) { f.Gate.FloorRate = 0.6 }, "gate.floor_rate"},
		"too many partners":   {func(f *fleetfile.File) { f.Gate.Partners = 5000 }, "gate.partners"},
		"too many trials":     {func(f *fleetfile.File) { f.Gate.PlannedTrials = 1_000_001 }, "gate.planned_trials"},
		"late maturation": {func(f *fleetfile.File) {
			f.Gate.Maturation, f.Gate.Deadline, f.Rollout.Window = 2*time.Hour, 3*time.Hour, 24*time.Hour
		}, "gate.maturation"},
		"a long burst":        {func(f *fleetfile.File) { f.Gate.BurstWindow = 2 * time.Hour }, "gate.burst_window"},
		"a wide bucket":       {func(f *fleetfile.File) { f.Gate.Bucket = 48 * time.Hour }, "gate.bucket"},
		"an endless deadline": {func(f *fleetfile.File) { f.Gate.Deadline, f.Rollout.Window = 721*time.Hour, 2000*time.Hour }, "gate.deadline"},
		"mostly late":         {func(f *fleetfile.File) { f.Gate.MaxLate = 0.6 }, "gate.max_late"},
		"webhook without URL": {func(f *fleetfile.File) { f.Notify.Webhooks[0].URL = "" }, "notify.webhooks[0].url"},
		"webhook twice":       {func(f *fleetfile.File) { f.Notify.Webhooks = append(f.Notify.Webhooks, f.Notify.Webhooks[0]) }, "notify.webhooks[1].name"},
		"socket not in full":  {func(f *fleetfile.File) { f.Clusters[0].Compose.Engine = "unix://docker.sock" }, "clusters[0].compose.engine"},
		"no compose":          {func(f *fleetfile.File) { f.Clusters[0].Compose = nil }, "clusters[0].compose"},
		"no release's id":     {func(f *fleetfile.File) { f.Clusters[0].Release = "Nine" }, "clusters[0].release"},
		"a second in ms":      {func(f *fleetfile.File) { f.Clusters[0].Window = time.Millisecond }, "clusters[0].window"},
		"a window backwards":  {func(f *fleetfile.File) { f.Clusters[0].Window = -time.Hour }, "clusters[0].window"},
		"a window of days":    {func(f *fleetfile.File) { f.Clusters[0].Window = 24 * time.Hour }, "clusters[0].window"},
		"a cap of days":       {func(f *fleetfile.File) { f.Drift.WindowCap = 24 * time.Hour }, "drift.window_cap"},
		"split at once":       {func(f *fleetfile.File) { f.Drift.SplitAfter = 0 }, "drift.split_after"},
		"a cap below":         {func(f *fleetfile.File) { f.Drift.WindowCap = f.Drift.MixedWindow - 1 }, "drift.window_cap"},
		"no cap":              {func(f *fleetfile.File) { f.Drift.WindowCap = 0 }, "drift.window_cap"},
		"another line":        {func(f *fleetfile.File) { f.Drift.Steps = map[fleet.Line]time.Duration{"sro": time.Hour} }, "drift.steps.sro"},
		"no time for a step":  {func(f *fleetfile.File) { f.Drift.Steps = map[fleet.Line]time.Duration{"sra": 0} }, "drift.steps.sra"},
		"an edge of no line":  {func(f *fleetfile.File) { f.Drift.Edges = edges(fleetfile.Edge{From: "1", To: "2", Window: 1e9}) }, "drift.edges[0].line"},
		"an edge of another": {func(f *fleetfile.File) {
			f.Drift.Edges = edges(fleetfile.Edge{Line: "x", From: "1", To: "2", Window: 1e9})
		}, "drift.edges[0].line"},
		"an edge from nowhere": {func(f *fleetfile.File) { f.Drift.Edges = edges(fleetfile.Edge{Line: "sra", To: "2", Window: 1e9}) }, "drift.edges[0].from"},
		"an edge to nowhere":   {func(f *fleetfile.File) { f.Drift.Edges = edges(fleetfile.Edge{Line: "sra", From: "1", Window: 1e9}) }, "drift.edges[0].to"},
		"an edge on the spot": {func(f *fleetfile.File) {
			f.Drift.Edges = edges(fleetfile.Edge{Line: "sra", From: "1", To: "1", Window: 1e9})
		}, "drift.edges[0].to"},
		"no time for an edge": {func(f *fleetfile.File) {
			f.Drift.Edges = edges(fleetfile.Edge{Line: "sra", From: "1", To: "2", Window: 1e9 - 1})
		}, "drift.edges[0].window"},
		"an edge twice": {func(f *fleetfile.File) {
			f.Drift.Edges = edges(fleetfile.Edge{Line: "sra", From: "1", To: "2", Window: 1e9}, fleetfile.Edge{Line: "gateway", From: "1", To: "2", Window: 1e9}, fleetfile.Edge{Line: "sra", From: "1", To: "2", Window: 2e9})
		}, "drift.edges[2]"},
		"a label of ours":      {label("lockstep.dev/env", "x"), "clusters[0].labels.lockstep.dev/env"},
		"a label without name": {label("example.org/", "x"), "clusters[0].labels.example.org/"},
		"a label in spaces":    {label("the env", "x"), "clusters[0].labels.the env"},
		"a long label":         {label(strings.Repeat("a", 64), "x"), "clusters[0].labels." + strings.Repeat("a", 64)},
		"a label of no domain": {label("Example/env", "x"), "clusters[0].labels.Example/env"},
		"a label in a label":   {label("a/b/c", "x"), "clusters[0].labels.a/b/c"},
		"a value's end":        {label("env", "prod-"), "clusters[0].labels.env"},
		"a long value":         {label("env", strings.Repeat("a", 64)), "clusters[0].labels.env"},
		"compose and more": {func(f *fleetfile.File) {
			f.Clusters[0].Kubernetes = f.Clusters[2].Kubernetes
			f.Clusters = f.Clusters[:2]
		}, "clusters[0].kubernetes"},
		"one namespace twice": {func(f *fleetfile.File) {
			twin := f.Clusters[2]
			twin.ID, twin.VendorCluster, twin.Recording = "twin", "", nil
			f.Clusters = append(f.Clusters, twin)
		}, "clusters[3].kubernetes.namespace"},
		"recordings unseen": {func(f *fleetfile.File) { f.Clusters[2].VendorCluster = "" }, "clusters[2].vendor_cluster"},
		"no host key": {func(f *fleetfile.File) {
			f.Clusters[2].Probes[0].HostKey = ""
		}, "clusters[2].probes[0].host_key"},
		"two host keys":      {func(f *fleetfile.File) { f.Clusters[2].Probes[0].InsecureHostKey = true }, "clusters[2].probes[0].host_key"},
		"a login over https": {func(f *fleetfile.File) { f.Clusters[2].Probes[3].User = "probe" }, "clusters[2].probes[3].user"},
		"a page over ssh":    {func(f *fleetfile.File) { f.Clusters[2].Probes[0].Contains = "ok" }, "clusters[2].probes[0].contains"},
		"trust in plain TCP": {func(f *fleetfile.File) {
			f.Clusters[2].Probes[3] = fleetfile.Probe{Name: "port", Type: "tcp", Address: "h:1", CAFile: "/ca", Every: time.Minute, Timeout: time.Second}
		}, "clusters[2].probes[3].ca_file"},
		"a page over TLS": {func(f *fleetfile.File) {
			f.Clusters[2].Probes[3] = fleetfile.Probe{Name: "port", Type: "tls", Address: "h:1", CAFile: "/ca", ServerName: "h", Statuses: []int{200}, Every: time.Minute, Timeout: time.Second}
		}, "clusters[2].probes[3].statuses"},
		"too many logins": {func(f *fleetfile.File) { f.Clusters[2].ProbeBudget.LoginsPerHour = 419 }, "clusters[2].probe_budget.logins_per_hour"},
		"no login":        {func(f *fleetfile.File) { f.Clusters[2].ProbeBudget.LoginsPerHour = -1 }, "clusters[2].probe_budget.logins_per_hour"},
		"no turn":         {func(f *fleetfile.File) { f.Clusters[2].ProbeBudget.AtOnce = -1 }, "clusters[2].probe_budget.at_once"},
		"TLS without TLS": {func(f *fleetfile.File) { f.Clusters[1].Forwarding.Type = "tcp" }, "clusters[1].forwarding.tls"},
		"TLS twice":       {func(f *fleetfile.File) { f.Clusters[1].Forwarding.Type = "tls" }, "clusters[1].forwarding.tls"},
		"https has TLS":   {func(f *fleetfile.File) { f.Clusters[2].Forwarding.TLS = true }, "clusters[2].forwarding.tls"},
		"syslog in clear": {func(f *fleetfile.File) { f.Clusters[1].Forwarding.TLS, f.Clusters[1].Forwarding.CAFile = false, "/ca" }, "clusters[1].forwarding.ca_file"},
		"a syslog token":  {func(f *fleetfile.File) { f.Clusters[1].Forwarding.TokenFile = "/t" }, "clusters[1].forwarding.token_file"},
		"a syslog header": {func(f *fleetfile.File) { f.Clusters[1].Forwarding.Header = "X" }, "clusters[1].forwarding.header"},
		"forgotten before missed": {func(f *fleetfile.File) {
			f.Clusters[2].Recording.Within = f.Rollout.Lookback
		}, "clusters[2].recording.within"},
		"a gateway without credentials": {func(f *fleetfile.File) { f.Vendor = nil }, "clusters[2].gateway_url"},
		"a gateway beside a command": {func(f *fleetfile.File) {
			f.Vendor = &fleetfile.Vendor{Command: []string{"akeyless"}, Timeout: time.Second, PollInterval: time.Second, SourceLag: time.Second}
		}, "clusters[2].gateway_url"},
		"no patience":       {func(f *fleetfile.File) { f.Vendor.Timeout = -1 }, "vendor.timeout"},
		"vendor polled":     {func(f *fleetfile.File) { f.Vendor.PollInterval = 9 * time.Millisecond }, "vendor.poll_interval"},
		"engines polled":    {func(f *fleetfile.File) { f.Inventory.PollInterval = 9 * time.Millisecond }, "inventory.poll_interval"},
		"another auth":      {func(f *fleetfile.File) { f.Vendor.AccessType = "ldap" }, "vendor.access_type"},
		"no jwt":            {func(f *fleetfile.File) { f.Vendor.AccessType, f.Vendor.JWTFile = "jwt", "" }, "vendor.jwt_file"},
		"no auth config":    {func(f *fleetfile.File) { f.Vendor.AccessType, f.Vendor.K8sAuthConfig = "k8s", "" }, "vendor.k8s_auth_config"},
		"no uid token":      {func(f *fleetfile.File) { f.Vendor.AccessType, f.Vendor.UIDTokenFile = "universal_identity", "" }, "vendor.uid_token_file"},
		"an empty command":  {func(f *fleetfile.File) { command(f, "") }, "vendor.command[0]"},
		"a key's value":     {func(f *fleetfile.File) { command(f, "akeyless", "--access-key=abc") }, "vendor.command[1]"},
		"a key as a word":   {func(f *fleetfile.File) { command(f, "akeyless", "--access-key", "abc") }, "vendor.command[1]"},
		"a token":           {func(f *fleetfile.File) { command(f, "akeyless", "--profile", "p", "--token", "abc") }, "vendor.command[3]"},
		"a uid token":       {func(f *fleetfile.File) { command(f, "akeyless", "--uid-token=abc") }, "vendor.command[1]"},
		"an address beside": {func(f *fleetfile.File) { command(f, "akeyless"); f.Vendor.URL = "https://v" }, "vendor.url"},
		"an id beside":      {func(f *fleetfile.File) { command(f, "akeyless"); f.Vendor.AccessID = "p-1" }, "vendor.access_id"},
		"a key beside":      {func(f *fleetfile.File) { command(f, "akeyless"); f.Vendor.AccessKeyFile = "/k" }, "vendor.access_key_file"},
		"trust beside":      {func(f *fleetfile.File) { command(f, "akeyless"); f.Vendor.CAFile = "/ca" }, "vendor.ca_file"},
		"a small spool":     {func(f *fleetfile.File) { f.Collector.SpoolMB = 15 }, "collector.spool_mb"},
		"keys in the clear": {func(f *fleetfile.File) { f.Clusters[2].Recording.AllowHTTP = false }, "clusters[2].recording.endpoint"},
		"no access id":      {func(f *fleetfile.File) { f.Vendor.AccessID = "" }, "vendor.access_id"},
		"no key file":       {func(f *fleetfile.File) { f.Vendor.AccessKeyFile = "" }, "vendor.access_key_file"},
		"long id":           {func(f *fleetfile.File) { f.Clusters[0].ID = fleet.ClusterID(strings.Repeat("a", 64)) }, "clusters[0].id"},
		"space in image":    {func(f *fleetfile.File) { f.Releases[0].SRA.Image = "a b:1" }, "releases[0].sra.image"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := fleetfile.Load("testdata/fleet.yaml", env("HOME", "/h"))
			if err != nil {
				t.Fatal(err)
			}
			def := fleetfile.Default(env())
			f.Inventory, f.Drift, f.Rollout, f.Gate = def.Inventory, def.Drift, def.Rollout, def.Gate
			if err := f.Validate(); err != nil {
				t.Fatalf("not acceptable before: %v", err)
			}
			tc.change(&f)
			var problems config.Problems
			if !errors.As(f.Validate(), &problems) || len(problems) != 1 || problems[0].Key != tc.key {
				t.Errorf("problems %v, want one about %s", problems, tc.key)
			}
		})
	}
}
