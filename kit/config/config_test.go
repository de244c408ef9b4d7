package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

type settings struct {
	Name    string            `yaml:"name"`
	Port    int               `yaml:"port"`
	Ratio   float64           `yaml:"ratio"`
	Quiet   bool              `yaml:"quiet"`
	Every   time.Duration     `yaml:"poll_interval"`
	Dir     config.Path       `yaml:"dir"`
	Labels  map[string]string `yaml:"labels"`
	Items   []item            `yaml:"items"`
	Maybe   *item             `yaml:"maybe"`
	private int
}

type item struct {
	ID   string      `yaml:"id"`
	File config.Path `yaml:"file"`
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "conf.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadReadsEveryKindAndKeepsDefaults(t *testing.T) {
	t.Parallel()
	path := write(t, `
name: 5.0
port: 8470
ratio: 1
poll_interval: 2m30s
dir: sub/data
labels: {a: b, n: 1}
items:
  - id: one
    file: ~/key
  - {id: two, file: /abs/key}
maybe: {id: three}
`)
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	got := settings{Quiet: true, Labels: map[string]string{"kept": "yes"}, private: 1}
	if err := config.Load(path, &got); err != nil {
		t.Fatal(err)
	}
	want := settings{
		Name: "5.0", Port: 8470, Ratio: 1, Quiet: true, Every: 150 * time.Second, private: 1,
		Dir:    config.Path(filepath.Join(filepath.Dir(path), "sub/data")),
		Labels: map[string]string{"kept": "yes", "a": "b", "n": "1"},
		Items:  []item{{"one", config.Path(filepath.Join(home, "key"))}, {"two", "/abs/key"}},
		Maybe:  &item{ID: "three"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(settings{})); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

func TestLoadReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	path := write(t, `nmae: x
port: many
quiet: 3
poll_intervall: 2s
poll_interval: 10
dir: ~else/x
labels: [a]
items:
  - id: [1]
    filed: x
  - just text
wholly_different: 1
port: 3
ratio: much
maybe:
  id: {a: b}
`)
	err := config.Load(path, &settings{})
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error is %T: %v", err, err)
	}
	want := strings.ReplaceAll(`LS-CFG-003: the configuration has 14 problems:
  F:1: nmae: unknown key; did you mean name?
  F:2: port: expected a whole number, found "many"
  F:3: quiet: expected true or false, found the number 3
  F:4: poll_intervall: unknown key; did you mean poll_interval?
  F:5: poll_interval: "10" is not a duration; write a number with a unit, such as "500ms", "30s", "10m" or "24h"
  F:6: dir: ~else/x: only your own home folder can be abbreviated; write the path in full
  F:7: labels: expected keys with values, found a list
  F:9: items[0].id: expected text, found a list
  F:10: items[0].filed: unknown key; did you mean file?
  F:11: items[1]: expected keys with values, found "just text"
  F:12: wholly_different: unknown key; known here: dir, items, labels, maybe, name, poll_interval, port, quiet, ratio
  F:13: port: the key is already set in line 2; keep one of them
  F:14: ratio: expected a number, found "much"
  F:16: maybe.id: expected text, found keys with values`, "F:", path+":")
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want, id string }{
		"broken YAML":      {"a: [", "yaml:", "LS-CFG-002"},
		"a broken second":  {"name: a\n---\na: [", "yaml:", "LS-CFG-002"},
		"a second one":     {"name: a\n---\nname: b\n", "a second document begins here", "LS-CFG-003"},
		"a list on top":    {"- a\n", "expected keys with values, found a list", "LS-CFG-003"},
		"a huge number":    {"port: 99999999999999999999\n", "port: expected a whole number", "LS-CFG-003"},
		"a list as a key":  {"[a, b]: c\n", "expected a key, found a list", "LS-CFG-003"},
		"an alias as text": {"labels: &x {a: b}\nname: *x\n", "name: expected text, found keys with values", "LS-CFG-003"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, tc.text)
			err := config.Load(path, &settings{})
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q lacks %q or the file", err, tc.want)
			}
			if errs.IDOf(err) != tc.id || errs.KindOf(err) != errs.Invalid {
				t.Errorf("error %q is a %s with id %q, want %s", err, errs.KindOf(err), errs.IDOf(err), tc.id)
			}
		})
	}
}

func TestLoadTakesEmptyAndNull(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "# only a comment\n", "name:\nitems: null\nmaybe: ~\n"} {
		got := settings{Name: "default"}
		if err := config.Load(write(t, text), &got); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if got.Name != "default" || got.Items != nil || got.Maybe != nil {
			t.Errorf("%q changed the defaults: %+v", text, got)
		}
	}
}

func TestLoadNamesTheMissingFile(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none.yaml")
	err := config.Load(missing, &settings{})
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), missing) || errs.IDOf(err) != "LS-CFG-001" {
		t.Errorf("error %v", err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	place := config.Place{Env: "APP_CONFIG", Name: "app-settings-for-test.yaml", Folder: "app-for-test"}
	dir := t.TempDir()
	touch := func(parts ...string) string {
		path := filepath.Join(append([]string{dir}, parts...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	byFlag, byEnv := touch("flag.yaml"), touch("env.yaml")
	byXDG := touch("xdg", place.Folder, place.Name)
	byHome := touch("home", ".config", place.Folder, place.Name)
	for name, tc := range map[string]struct {
		flag string
		env  map[string]string
		want string
		err  string
	}{
		"flag first":       {byFlag, map[string]string{"APP_CONFIG": byEnv}, byFlag, ""},
		"then variable":    {"", map[string]string{"APP_CONFIG": byEnv, "XDG_CONFIG_HOME": dir + "/xdg"}, byEnv, ""},
		"then XDG":         {"", map[string]string{"XDG_CONFIG_HOME": dir + "/xdg", "HOME": dir + "/home"}, byXDG, ""},
		"XDG defaults":     {"", map[string]string{"HOME": dir + "/home"}, byHome, ""},
		"none is fine":     {"", nil, "", ""},
		"no home":          {"", map[string]string{"HOME": "/dev/null"}, "", ""},
		"flag must exist":  {dir + "/absent", nil, "", "named by --config"},
		"variable as well": {"", map[string]string{"APP_CONFIG": dir + "/absent"}, "", "named by APP_CONFIG"},
		"a folder is not":  {dir, nil, "", "is a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := place.Find(tc.flag, func(k string) string { return tc.env[k] })
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || errs.IDOf(err) != "LS-CFG-001" {
					t.Errorf("error %v, want %q", err, tc.err)
				}
			} else if err != nil || got != tc.want {
				t.Errorf("found %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}
