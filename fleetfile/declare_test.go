package fleetfile_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// server is the configuration that documents are applied to.
func server(t *testing.T) fleetfile.File {
	t.Helper()
	f, err := fleetfile.Load("testdata/fleet.yaml", env("HOME", "/h"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const declared = `# the fleet
server: {listen: "everywhere", data_dir: here}
notify:
gate: [not, looked, at]
releases:
  - id: "6.0"
    gateway: {version: 6.0, image: "akeyless/base:6.0"}
clusters:
  - id: rome
    release: only-in-the-catalogue
    labels: {env: prod, tier: 1}
    window: 45m
    compose:
      dir: /srv/rome
      files: [compose.yaml]
      env_files: [.env]
  - id: paris
    vendor_cluster: acc-1/p-1/paris
    compose: {engine: "tcp://h:2376", dir: /srv/paris, files: [../a.yaml]}
    probes:
      - {name: login, type: ssh, address: "bastion:22", user: probe, key_file: /k, host_key: ssh-ed25519 AAAA, every: 30s, timeout: 9s}
drift:
  mixed_window: 5h
  learn_windows: false
  steps: {ztwa: 90m}
`

func TestDeclareTakesItsThreeSections(t *testing.T) {
	t.Parallel()
	got, err := fleetfile.Declare([]byte(declared), server(t), env("DOCKER_HOST", "unix:///run/other.sock"))
	if err != nil {
		t.Fatal(err)
	}
	want := fleetfile.Declaration{
		Releases: []fleetfile.Release{{ID: "6.0", Gateway: &fleetfile.Image{Version: "6.0", Image: "akeyless/base:6.0"}}},
		Clusters: []fleetfile.DeclaredCluster{
			{
				ID: "rome", Release: "only-in-the-catalogue", Labels: map[string]string{"env": "prod", "tier": "1"}, Window: 45 * time.Minute,
				Definition: `id: rome
labels:
  env: prod
  tier: "1"
window: 45m
compose:
  engine: unix:///run/other.sock
  dir: /srv/rome
  env_files:
    - .env
`,
			},
			{
				ID: "paris",
				Definition: `id: paris
vendor_cluster: acc-1/p-1/paris
compose:
  engine: tcp://h:2376
  dir: /srv/paris
  files:
    - ../a.yaml
probes:
  - name: login
    type: ssh
    address: bastion:22
    timeout: 9s
    user: probe
    key_file: /k
    host_key: ssh-ed25519 AAAA
`,
			},
		},
		Drift: &fleetfile.DeclaredDrift{
			Drift: fleetfile.Drift{
				MixedWindow: 5 * time.Hour, DarkAfter: 2 * time.Minute, SplitAfter: 10 * time.Minute, WindowCap: 5 * time.Hour,
				Steps: map[fleet.Line]time.Duration{fleet.LineZTWA: 90 * time.Minute},
			},
			Definition: "mixed_window: 5h\nlearn_windows: false\nsteps:\n  ztwa: 1h30m\n",
		},
		PassedOver: []string{"gate", "server"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("declared (-want +got):\n%s", diff)
	}
}

func TestDeclareRefuses(t *testing.T) {
	t.Parallel()
	cluster := func(id string) string {
		return "clusters:\n  - {id: " + id + ", compose: {dir: /srv/" + id + "}}\n"
	}
	for name, tc := range map[string]struct {
		document string
		id       string
		want     []string // each begins a line of the problems, or is all there is
	}{
		"nothing at all":      {"", "LS-CFG-008", []string{"the document declares nothing: it has none of the sections releases, clusters, drift"}},
		"a comment":           {"# clusters:\n", "LS-CFG-008", []string{"the document declares nothing"}},
		"sections of nothing": {"clusters:\nreleases: ~\n", "LS-CFG-008", []string{"the document declares nothing"}},
		"the server's own":    {"vendor: {}\nlog: {level: info}\n", "LS-CFG-008", []string{"the document declares nothing: it has none of the sections releases, clusters, drift; what it has is the server's own and is not applied: log, vendor"}},
		"no YAML":             {"clusters: [", "LS-CFG-007", []string{"read the document: yaml: line 1:"}},
		"no YAML later":       {cluster("a") + "---\na: [", "LS-CFG-007", []string{"read the document: yaml: line"}},
		"no text":             {"clusters: \xff", "LS-CFG-007", []string{"read the document: yaml:"}},
		"a list on top":       {"- a\n", "LS-CFG-006", []string{"line 1: expected keys with values, found a list"}},
		"two documents":       {cluster("a") + "---\n" + cluster("b"), "LS-CFG-006", []string{"line 3: a second document begins here; keep one document"}},
		"another's document":  {"apiVersion: v1\nkind: ConfigMap\n", "LS-CFG-006", []string{"line 1: apiVersion: unknown key; known here: access, bus,", "line 2: kind: unknown key"}},
		"a slip above":        {"cluster: []\n", "LS-CFG-006", []string{"line 1: cluster: unknown key; did you mean clusters?"}},
		"a repeated section":  {cluster("a") + cluster("b"), "LS-CFG-006", []string{"line 3: clusters: the key is already set in line 1; keep one of them"}},
		"relative paths": {
			"clusters:\n  - id: a\n    compose:\n      dir: ../a\n    health: {gateway: \"http://g\", ca_file: ~/ca}\n", "LS-CFG-006",
			[]string{
				"line 4: clusters[0].compose.dir: ../a is relative and would start at the folder of the server's own file",
				"line 5: clusters[0].health.ca_file: ~/ca would be in the home folder of the user that the server runs as",
			},
		},
		"an id twice": {"clusters:\n" + strings.Repeat("  - {id: a, compose: {dir: /a, project: p}}\n", 2), "LS-CFG-006", []string{
			"line 3: clusters[1].id: cluster a is declared twice", "line 3: clusters[1].compose.project: project p on unix:///var/run/docker.sock is cluster a already",
		}},
		"a release twice": {"releases:\n" + strings.Repeat("  - {id: a, sra: {version: 1, image: 'a:1'}}\n", 2), "LS-CFG-006", []string{"line 3: releases[1].id: release a is declared twice"}},
		"what is missing": {"clusters:\n  - id: a\n", "LS-CFG-006", []string{"line 2: clusters[0].compose: missing; say which Compose project"}},
		"against the server's own clusters": {
			"clusters:\n  - id: a\n    vendor_cluster: acc-1/p-1/oslo\n    compose: {dir: /a, engine: 'tcp://10.0.0.1:2376', project: berlin-1}\n", "LS-CFG-006", []string{
				"line 3: clusters[0].vendor_cluster: acc-1/p-1/oslo is cluster oslo already", "line 4: clusters[0].compose.project: project berlin-1 on tcp://10.0.0.1:2376 is cluster berlin already",
			},
		},
		"against the rest of the server's own": {
			"clusters: []\ndrift:\n  dark_after: 7s\n", "LS-CFG-006", []string{"line 3: drift.dark_after: 7s is shorter than two polls (inventory.poll_interval is 4s)"},
		},
		"a cluster in the place of another that another then meets": {
			"clusters:\n  - {id: berlin, vendor_cluster: acc-1/p-1/oslo, compose: {dir: /a}}\n", "LS-CFG-006", []string{"line 2: clusters[0].vendor_cluster: acc-1/p-1/oslo is cluster oslo already"},
		},
		"many clusters": {
			"clusters: [" + strings.Repeat("{}, ", 200) + "]", "LS-CFG-006", []string{"line 1: clusters[0].id: missing", "line 1: clusters[0].compose: missing", "and 300 more"},
		},
		"more than it seems": {
			"clusters:\n  - &c {id: a, probes: [" + strings.Repeat("&p {name: a}, ", 1) + strings.Repeat("*p, ", 2000) + "]}\n" + strings.Repeat("  - *c\n", 2000), "LS-CFG-006",
			[]string{"the document holds too much up to here, more than 1048576 values"},
		},
		"itself":         {"clusters: &c\n  - {id: a, compose: {dir: /a, files: *c}}\n", "LS-CFG-006", []string{"line 2: clusters[0].compose.files[0]: expected text, found keys with values"}},
		"too many bytes": {strings.Repeat("#", fleetfile.MaxDocument) + "\n", "LS-CFG-009", []string{"the document has 4000001 bytes and may have 4000000; apply it in parts"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := fleetfile.Declare([]byte(tc.document), server(t), env())
			if err == nil {
				t.Fatal("accepted")
			}
			kind := errs.Invalid
			if tc.id == "LS-CFG-009" {
				kind = errs.Exhausted
			}
			if errs.IDOf(err) != tc.id || errs.KindOf(err) != kind {
				t.Errorf("%v: a %s with id %s, want %s", err, errs.KindOf(err), errs.IDOf(err), tc.id)
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) > 1 {
				lines = lines[1:]
			}
			for _, want := range tc.want {
				if !strings.Contains(strings.Join(lines, "\n"), want) {
					t.Errorf("%q is not in:\n%v", want, err)
				}
			}
			if tc.id == "LS-CFG-006" && len(lines) != len(tc.want) && name != "many clusters" && name != "more than it seems" {
				t.Errorf("%d problems, want %d:\n%v", len(lines), len(tc.want), err)
			}
			if len(lines) > 101 {
				t.Errorf("%d lines", len(lines))
			}
		})
	}
}

// A document is read as the file is: the same problems in the same words.
func TestDeclareWordsProblemsAsLoadDoes(t *testing.T) {
	t.Parallel()
	const text = `clusters:
  - id: [a]
    windw: 3m
    wholly_different: 1
    window: 10
    labels: [a]
    labels: {b: c}
    compose:
      files: x
      services: {a: {b: c}}
    probes:
      - just text
      - {insecure_host_key: 3, statuses: [many, 1.5, 99999999999999999999], every: much, ? [a] : b}
  - nothing: ~
    health: 12
releases: &r {a: b}
drift: {learn_windows: perhaps, dark_after: *r, steps: {gateway: 10, sra: [1]}, edges: {line: sra}}
strange: 1
`
	path := write(t, text)
	_, err := fleetfile.Load(path, env("HOME", "/h"))
	var want config.Problems
	if !errors.As(err, &want) || len(want) < 20 {
		t.Fatalf("as a file: %v", err)
	}
	_, err = fleetfile.Declare([]byte(text), server(t), env("HOME", "/h"))
	lines := strings.Split(err.Error(), "\n")[1:]
	var got []string
	for _, line := range lines {
		got = append(got, strings.TrimSpace(line))
	}
	var file []string
	for _, problem := range want {
		problem.File = ""
		file = append(file, problem.String())
	}
	if diff := cmp.Diff(file, got); diff != "" {
		t.Errorf("problems (-file +document):\n%s", diff)
	}
}

// A document may hold what the server's own file holds where no path of it is
// relative, and then it says the same.
func TestTheServersOwnFileChangesNothing(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(
		"../paris", "/paris", "kubeconfig: kubeconfig", "kubeconfig: /kubeconfig", "key_file: probe", "key_file: /probe", "certificate_file: probe", "certificate_file: /probe",
		"known_hosts_file: known", "known_hosts_file: /known", "ca_file: ca", "ca_file: /ca", "access_key_file: s3", "access_key_file: /s3", "secret_key_file: s3", "secret_key_file: /s3",
		"token_file: hec", "token_file: /hec", "values: values", "values: /values",
	).Replace(string(raw))
	for _, vars := range [][]string{{"HOME", "/h"}, {"HOME", "/h", "DOCKER_HOST", "tcp://other:2376"}} {
		file, err := fleetfile.Load(write(t, text), env(vars...))
		if err != nil {
			t.Fatal(err)
		}
		got, err := fleetfile.Declare([]byte(text), file, env(vars...))
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range got.Clusters {
			if diff := fleetfile.Diff(fleetfile.DefineCluster(file.Clusters[i]), c.Definition); len(diff) != 0 || c.Release != file.Clusters[i].Release {
				t.Errorf("%s is another: %q", c.ID, diff)
			}
		}
		if diff := cmp.Diff(file.Releases, got.Releases); diff != "" || len(got.Clusters) != len(file.Clusters) {
			t.Errorf("%d clusters, releases (-want +got):\n%s", len(got.Clusters), diff)
		}
		if got.Drift.Definition != fleetfile.DefineDrift(file.Drift) {
			t.Errorf("drift is another:\n%s", got.Drift.Definition)
		}
	}
}

// What is wrong with the server's own part is not said of a document.
func TestDeclareSpeaksOfTheDocumentAlone(t *testing.T) {
	t.Parallel()
	base := server(t)
	base.Clusters[0].Compose.Dir, base.Clusters[0].ID = "", "B"
	base.Releases[0].SRA.Image, base.Drift.DarkAfter, base.Gate.Alpha = "x", -1, 9
	const clusters = "clusters: [{id: rome, compose: {dir: /r}}]\n"
	if _, err := fleetfile.Declare([]byte(clusters), base, env()); err != nil {
		t.Error(err)
	}
	_, err := fleetfile.Declare([]byte(clusters+"drift: {mixed_window: 0s}\n"), base, env())
	if err == nil || !strings.HasPrefix(err.Error(), "LS-CFG-006: the document is not acceptable: line 2: drift.mixed_window: 0s is not") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v", err)
	}
}

func TestDeclareTakesAnyBytes(t *testing.T) {
	t.Parallel()
	base := server(t)
	words := rapid.SampledFrom([]string{
		"clusters", "releases", "drift", "id", "compose", "labels", "edges", "steps", "sra", "a", "/a", "~", "null", "<<", "&a ", "*a", ": ", ", ", "- ", "\n", "\n  ", "{", "}", "[", "]", "---\n",
		"1", "3m", "!!str ", "!!binary ", "? ", "|", ">", "'", "\"", "#", "\t", "%",
	})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(words, 0, 40).Draw(t, "words"), "")
		if _, err := fleetfile.Declare([]byte(text), base, env()); err != nil && errs.IDOf(err) == "" {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

func TestEffective(t *testing.T) {
	t.Parallel()
	cluster := func(id fleet.ClusterID, release fleet.ReleaseID, window time.Duration) fleetfile.Cluster {
		return fleetfile.Cluster{ID: id, Release: release, Window: window}
	}
	release := func(id fleet.ReleaseID, version string) fleetfile.Release {
		return fleetfile.Release{ID: id, SRA: &fleetfile.Image{Version: version}}
	}
	base := fleetfile.File{
		Clusters: []fleetfile.Cluster{cluster("c", "1", 0), cluster("a", "1", 0), cluster("b", "", 0)},
		Releases: []fleetfile.Release{release("2", "file"), release("1", "file")},
		Drift:    fleetfile.Drift{MixedWindow: 1},
		Log:      fleetfile.Log{Level: "warn"},
	}
	before := fmt.Sprintf("%+v", base)
	got := fleetfile.Effective(base, map[fleet.ClusterID]fleetfile.Cluster{
		"z": cluster("z", "", 1), "a": cluster("a", "", 2), "d": cluster("d", "9", 3), "b": cluster("b", "2", 4),
	}, []fleetfile.Release{release("3", "declared"), release("1", "declared"), release("0", "declared")}, &fleetfile.Drift{MixedWindow: 2})
	want := fleetfile.File{
		Clusters: []fleetfile.Cluster{cluster("c", "1", 0), cluster("a", "1", 2), cluster("b", "2", 4), cluster("d", "9", 3), cluster("z", "", 1)},
		Releases: []fleetfile.Release{release("2", "file"), release("1", "declared"), release("0", "declared"), release("3", "declared")},
		Drift:    fleetfile.Drift{MixedWindow: 2},
		Log:      fleetfile.Log{Level: "warn"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("holds (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(base, fleetfile.Effective(base, nil, nil, nil)); diff != "" {
		t.Errorf("without anything declared (-want +got):\n%s", diff)
	}
	if fmt.Sprintf("%+v", base) != before {
		t.Errorf("the file itself was changed: %+v", base)
	}
}

func TestAWiderMixedWindowWidensTheCap(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"":                                   4 * time.Hour,
		"drift: {mixed_window: 5h}\n":        5 * time.Hour,
		"drift: {window_cap: 45m}\n":         45 * time.Minute,
		"drift: {window_cap: 0s}\n":          4 * time.Hour,
		"log: {}\ndrift: {mixed_window: 1m}": 4 * time.Hour,
	} {
		f, err := fleetfile.Load(write(t, text), env("HOME", "/h"))
		if err != nil || f.Drift.WindowCap != want {
			t.Errorf("%q gives %s, %v; want %s", text, f.Drift.WindowCap, err, want)
		}
	}
}
