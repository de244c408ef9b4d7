package fleetfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// fleets draws what a file may say of a fleet: clusters, releases and drift that
// are acceptable together.
func fleets() *rapid.Generator[fleetfile.File] {
	return rapid.Custom(func(t *rapid.T) fleetfile.File {
		var f fleetfile.File
		for i := range rapid.IntRange(0, 3).Draw(t, "releases") {
			r := fleetfile.Release{ID: fleet.ReleaseID(fmt.Sprintf("%d.%d", i, i))}
			if rapid.Bool().Draw(t, "gateway") {
				r.Gateway = &fleetfile.Image{Version: rapid.StringMatching(`[0-9.a-z+]{1,8}`).Draw(t, "version"), Image: "h:5000/a:1.0"}
			}
			if r.Gateway == nil || rapid.Bool().Draw(t, "sra") {
				r.SRA = &fleetfile.Image{Version: "5.0", Image: "b@sha256:" + strings.Repeat("0", 64)}
			}
			f.Releases = append(f.Releases, r)
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "clusters") {
			f.Clusters = append(f.Clusters, drawCluster(t, fleet.ClusterID(fmt.Sprintf("c%d", i))))
		}
		f.Drift = drawDrift(t)
		return f
	})
}

// word is text that YAML might take for something else.
func word() *rapid.Generator[string] {
	return rapid.OneOf(rapid.StringN(1, 8, -1), rapid.SampledFrom([]string{
		"~", "null", "yes", "5.0", "0x1f", "2026-03-01", "a: b", "- a", "# no", "'", `"`, "\\", "<<", "a\nb", "\n", " a ", "\u0085", "\u2028", "{", "[", "a,b", "=", "---", "true",
	}))
}

// length is a duration that is a default of something, or none, or any.
func length() *rapid.Generator[time.Duration] {
	return rapid.OneOf(
		rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, 4 * time.Hour}),
		rapid.Map(rapid.Int64Range(int64(time.Second), int64(20*time.Hour)), func(n int64) time.Duration { return time.Duration(n) }),
	)
}

// maybe is a value of a generator or the zero value, which stands for a default.
func maybe[T any](t *rapid.T, g *rapid.Generator[T], label string) (value T) {
	if rapid.Bool().Draw(t, "with "+label) {
		value = g.Draw(t, label)
	}
	return value
}

func drawCluster(t *rapid.T, id fleet.ClusterID) fleetfile.Cluster {
	file := rapid.Just(config.Path("/etc/a file"))
	texts := rapid.SliceOfNDistinct(word(), 0, 3, func(s string) string { return s })
	component := rapid.SampledFrom([]fleet.Component{fleet.Gateway, fleet.SRAWeb, fleet.Worker, "of_my_own"})
	c := fleetfile.Cluster{
		ID: id, Release: maybe(t, rapid.SampledFrom([]fleet.ReleaseID{"0.0", "nobody-knows", "5.0"}), "release"),
		Labels: maybe(t, rapid.MapOfN(rapid.StringMatching(`(a\.example/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,3}[A-Za-z0-9])?`), rapid.StringMatching(`([A-Za-z0-9]([A-Za-z0-9._-]{0,3}[A-Za-z0-9])?)?`), 0, 3), "labels"),
		Window: maybe(t, length(), "window"), VendorCluster: "acc/" + string(id),
		GatewayURL: maybe(t, rapid.Just("https://gw:8000"), "gateway_url"),
	}
	if rapid.Bool().Draw(t, "kubernetes") {
		c.Kubernetes = &fleetfile.Kubernetes{
			Kubeconfig: maybe(t, file, "kubeconfig"), Context: maybe(t, word(), "context"), Namespace: string(id), Releases: maybe(t, texts, "releases"),
			Workloads: maybe(t, rapid.MapOfN(rapid.StringMatching(`deployment/[a-z: #]{1,6}`), component, 0, 2), "workloads"),
		}
		if k := c.Kubernetes; len(k.Releases) == 0 {
			k.Helm = maybe(t, rapid.Just([]fleetfile.Helm{{Release: "gw", Values: "/v", Ready: time.Minute}, {Release: "web"}}), "helm")
		}
	} else {
		c.Compose = &fleetfile.Compose{
			Engine: rapid.SampledFrom([]string{"", "unix:///var/run/docker.sock", "tcp://h:1"}).Draw(t, "engine"), Project: rapid.SampledFrom([]string{"", string(id), "p-" + string(id)}).Draw(t, "project"),
			Dir: "/srv", Files: rapid.OneOf(texts, rapid.Just([]string{"compose.yaml"})).Draw(t, "files"), EnvFiles: maybe(t, texts, "env_files"), Profiles: maybe(t, texts, "profiles"),
			Services: maybe(t, rapid.MapOfN(word(), component, 0, 3), "services"),
		}
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "probes") {
		p := fleetfile.Probe{Name: fmt.Sprintf("p%d", i), Type: "https", Address: "https://h", Every: maybe(t, length(), "every"), Timeout: maybe(t, length(), "timeout"), Component: maybe(t, component, "component")}
		switch rapid.IntRange(0, 2).Draw(t, "type") {
		case 0:
			p.Type, p.Address, p.User, p.KeyFile, p.Command = "ssh", "h:22", "probe", "/k", maybe(t, word(), "command")
			p.InsecureHostKey, p.Every = true, maybe(t, rapid.Just(time.Hour), "hourly")
		case 1:
			p.Contains, p.Statuses, p.CAFile = maybe(t, word(), "contains"), maybe(t, rapid.SliceOfN(rapid.IntRange(100, 599), 0, 2), "statuses"), maybe(t, file, "ca_file")
		}
		c.Probes = append(c.Probes, p)
	}
	c.ProbeBudget = fleetfile.ProbeBudget{LoginsPerHour: rapid.SampledFrom([]int{0, 720, 1000}).Draw(t, "logins"), AtOnce: rapid.IntRange(0, 5).Draw(t, "at_once")}
	if rapid.Bool().Draw(t, "health") {
		c.Health = &fleetfile.Health{Web: "web:8888", Metrics: maybe(t, rapid.Just("gateway"), "metrics"), CAFile: maybe(t, file, "ca_file"), Every: maybe(t, length(), "every"), Timeout: maybe(t, length(), "timeout")}
	}
	if rapid.Bool().Draw(t, "recording") {
		c.Recording = &fleetfile.Recording{
			Protocols: rapid.SampledFrom([][]string{nil, {"rdp"}, {"rdp", "ssh"}}).Draw(t, "protocols"), Pattern: rapid.SampledFrom([]string{"", "{session_id}", "{date}/{session_id}"}).Draw(t, "pattern"),
			Within: maybe(t, length(), "within"), MinDuration: maybe(t, length(), "min_duration"), Endpoint: "https://s3", Bucket: "b", Prefix: maybe(t, word(), "prefix"),
			PathStyle: rapid.Bool().Draw(t, "path_style"), NoCanary: rapid.Bool().Draw(t, "no_canary"), CanaryEvery: maybe(t, length(), "canary_every"), Every: maybe(t, length(), "every"),
		}
	}
	if rapid.Bool().Draw(t, "forwarding") {
		c.Forwarding = &fleetfile.Forwarding{Type: "https", Address: "https://h", Header: maybe(t, word(), "header"), Send: rapid.Bool().Draw(t, "send"), Every: maybe(t, length(), "every"), Timeout: maybe(t, length(), "timeout")}
	}
	return c
}

func drawDrift(t *rapid.T) fleetfile.Drift {
	line := rapid.SampledFrom([]fleet.Line{fleet.LineGateway, fleet.LineSRA, fleet.LineZTWA})
	d := fleetfile.Drift{
		MixedWindow: length().Draw(t, "mixed_window"), DarkAfter: time.Minute + length().Draw(t, "dark_after"), SplitAfter: length().Draw(t, "split_after"),
		LearnWindows: rapid.Bool().Draw(t, "learn_windows"), Steps: maybe(t, rapid.MapOfN(line, length(), 0, 3), "steps"),
	}
	if d.WindowCap = maybe(t, length(), "window_cap"); d.WindowCap != 0 {
		d.WindowCap = max(d.WindowCap, d.MixedWindow)
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "edges") {
		d.Edges = append(d.Edges, fleetfile.Edge{Line: line.Draw(t, "line"), From: fmt.Sprintf("%d.0", i), To: word().Draw(t, "to") + "!", Window: length().Draw(t, "window")})
	}
	return d
}

// A law: a document says what a file of the same text says, and what is exported
// is declared again as it was, whether defaults are written or not.
func TestWhatIsExportedIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	base := fleetfile.Default(env("HOME", "/h"))
	base.Vendor = &fleetfile.Vendor{URL: "https://v", AccessType: "aws_iam", AccessID: "a", Timeout: 1, PollInterval: time.Second, SourceLag: 1}
	base.Clusters = []fleetfile.Cluster{{ID: "c0", Compose: &fleetfile.Compose{Engine: "unix:///s", Project: "q", Dir: "/d"}}}
	vars := env("DOCKER_HOST", "unix:///run/other.sock")
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	rapid.Check(t, func(t *rapid.T) {
		drawn := fleets().Draw(t, "fleet")
		spelled := config.Marshal(struct {
			Releases []fleetfile.Release `yaml:"releases"`
			Clusters []fleetfile.Cluster `yaml:"clusters"`
			Drift    fleetfile.Drift     `yaml:"drift"`
		}{drawn.Releases, drawn.Clusters, drawn.Drift})
		first, err := fleetfile.Declare([]byte(spelled), base, vars)
		if err != nil {
			t.Fatalf("%v\nin\n%s", err, spelled)
		}
		if err := os.WriteFile(path, []byte(spelled), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := fleetfile.Read(path, vars)
		if err != nil {
			t.Fatal(err)
		}
		var clusters []fleetfile.Cluster
		for i, d := range first.Clusters {
			c, err := fleetfile.ParseCluster(d.Definition)
			if err != nil || c.ID != d.ID || c.Window != d.Window || !cmp.Equal(c.Labels, d.Labels, cmpopts.EquateEmpty()) || c.Release != "" {
				t.Fatalf("%v: %+v is read back as %+v", err, d, c)
			}
			if again := fleetfile.DefineCluster(c); again != d.Definition {
				t.Fatalf("defined again (-want +got):\n%s", cmp.Diff(d.Definition, again))
			}
			c.Release = d.Release
			if diff := cmp.Diff(file.Clusters[i], c, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("cluster %s (-file +document):\n%s\nfrom\n%s", c.ID, diff, spelled)
			}
			clusters = append(clusters, c)
		}
		drift, err := fleetfile.ParseDrift(first.Drift.Definition)
		if diff := cmp.Diff(file.Drift, drift, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Fatalf("%v: drift is read back (-want +got):\n%s", err, diff)
		}
		text, err := fleetfile.Export(clusters, first.Releases, drift)
		if err != nil {
			t.Fatal(err)
		}
		second, err := fleetfile.Declare([]byte(text), base, env("DOCKER_HOST", "unix:///elsewhere"))
		if err != nil {
			t.Fatalf("%v\nin\n%s", err, text)
		}
		if diff := cmp.Diff(first, second, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("declared again (-want +got):\n%s\nfrom\n%s", diff, text)
		}
	})
}

// What a definition is read back to is what was in the file, default or not.
func TestADefinitionLosesNothing(t *testing.T) {
	t.Parallel()
	f := server(t)
	for _, want := range f.Clusters {
		got, err := fleetfile.ParseCluster(fleetfile.DefineCluster(want))
		if err != nil {
			t.Fatal(err)
		}
		want.Release = ""
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("cluster %s (-want +got):\n%s", want.ID, diff)
		}
	}
	got, err := fleetfile.ParseDrift(fleetfile.DefineDrift(f.Drift))
	if diff := cmp.Diff(f.Drift, got); err != nil || diff != "" {
		t.Errorf("%v: drift (-want +got):\n%s", err, diff)
	}
	if text := fleetfile.DefineDrift(fleetfile.Default(env()).Drift); text != "{}\n" {
		t.Errorf("the default drift is %q", text)
	}
}

func TestADefinitionOfANewerVersionIsRead(t *testing.T) {
	t.Parallel()
	c, err := fleetfile.ParseCluster("id: a\nwindow: 3m\nseason: [winter]\nhealth:\n  web: h:1\n  colour: {red: 1}\n")
	if err != nil || c.ID != "a" || c.Window != 3*time.Minute || c.Health.Web != "h:1" || c.Health.Every != 15*time.Second {
		t.Errorf("cluster %+v, %v", c, err)
	}
	d, err := fleetfile.ParseDrift("mixed_window: 3m\nforgiveness: much\n")
	if err != nil || d.MixedWindow != 3*time.Minute || d.DarkAfter != 2*time.Minute || d.WindowCap != 4*time.Hour || !d.LearnWindows {
		t.Errorf("drift %+v, %v", d, err)
	}
}

func TestADefinitionThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                            "read the stored definition of a cluster: it has no id",
		"compose: {dir: /a}":          "it has no id",
		"id: [":                       "yaml:",
		"id: a\nwindow: x\n":          `line 2: window: "x" is not a duration`,
		"- id: a\n":                   "line 1: expected keys with values, found a list",
		"id: a\n---\nid: b\n":         "line 2: a second document begins here",
		"id: a\ncompose: {dir: here}": "line 2: compose.dir: here is relative",
	} {
		if _, err := fleetfile.ParseCluster(text); err == nil || !strings.Contains(err.Error(), want) || errs.IDOf(err) != "LS-CFG-010" || errs.KindOf(err) != errs.Internal {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := fleetfile.ParseDrift("dark_after: [1]\n"); err == nil || !strings.Contains(err.Error(), "read the stored limits of drift: line 1: dark_after: expected a duration") || errs.IDOf(err) != "LS-CFG-010" {
		t.Errorf("drift: %v", err)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	const before = `id: berlin
labels:
  env: stage
  tier: "1"
window: 45m
compose:
  engine: unix:///s
  files:
    - a.yaml
probes:
  - name: gone
    type: tcp
  - name: login
    type: ssh
    user: probe
edges:
  - line: sra
    from: "3.0"
  - line: sra
    from: "3.1"
`
	after := strings.NewReplacer("stage", "prod", "window: 45m\n", "", "- a.yaml", "- a.yaml\n    - b.yaml", "  - name: gone\n    type: tcp\n", "", "user: probe", "user: \"two\\nlines\"",
		"from: \"3.0\"", "from: \"2.9\"").Replace(before)
	want := []string{
		"- compose.files: [a.yaml]",
		"+ compose.files: [a.yaml, b.yaml]",
		`- edges[]: {line: sra, from: "3.0"}`,
		`+ edges[]: {line: sra, from: "2.9"}`,
		"- labels.env: stage",
		"+ labels.env: prod",
		"- probes[gone].name: gone",
		"- probes[gone].type: tcp",
		"- probes[login].user: probe",
		`+ probes[login].user: "two\nlines"`,
		"- window: 45m",
	}
	if diff := cmp.Diff(want, fleetfile.Diff(before, after)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if lines := fleetfile.Diff(before, before); len(lines) != 0 {
		t.Errorf("against itself: %q", lines)
	}
	if diff := cmp.Diff([]string{"+ id: a", "+ window: 3m"}, fleetfile.Diff("", "id: a\nwindow: 3m\n")); diff != "" {
		t.Errorf("of something new (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"- learn_windows: false"}, fleetfile.Diff("learn_windows: false\n", "{}\n")); diff != "" {
		t.Errorf("back to the defaults (-want +got):\n%s", diff)
	}
}

func TestAFleetThatIsTooLargeIsNotExported(t *testing.T) {
	t.Parallel()
	c := fleetfile.Cluster{ID: "a", Compose: &fleetfile.Compose{Dir: config.Path("/" + strings.Repeat("a", fleetfile.MaxDocument))}}
	if _, err := fleetfile.Export([]fleetfile.Cluster{c}, nil, fleetfile.Default(env()).Drift); errs.IDOf(err) != "LS-CFG-009" || errs.KindOf(err) != errs.Exhausted {
		t.Errorf("error %v", err)
	}
}
