package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

type process struct {
	Server listener       `yaml:"server"`
	Vendor *account       `yaml:"vendor"`
	Gate   numbers        `yaml:"gate"`
	Items  []item         `yaml:"items"`
	Labels map[string]int `yaml:"labels"`
	Hidden string         `yaml:"-"`
	Level  *int           `yaml:"level"`
	Since  *time.Duration `yaml:"since"`
}

type listener struct {
	Listen  string      `yaml:"listen"`
	DataDir config.Path `yaml:"data_dir"`
	TLS     struct {
		Cert config.Path `yaml:"cert_file"`
	} `yaml:"tls"`
}

type account struct {
	AccessID string        `yaml:"access_id"`
	Every    time.Duration `yaml:"poll_interval"`
	Proxy    *account      `yaml:"-"`
}

type numbers struct {
	Alpha    float64 `yaml:"alpha"`
	Partners int     `yaml:"partners"`
	Small    uint8   `yaml:"small"`
	Strict   bool    `yaml:"strict"`
}

func lookup(set map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		text, ok := set[name]
		return text, ok
	}
}

func TestEnvSetsEveryScalar(t *testing.T) {
	t.Parallel()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got := process{Server: listener{Listen: "127.0.0.1:1"}, Gate: numbers{Partners: 10}}
	if err := config.Env(&got, "APP", lookup(map[string]string{
		"APP_SERVER_LISTEN":        "0.0.0.0:9000",
		"APP_SERVER_DATA_DIR":      "data",
		"APP_SERVER_TLS_CERT_FILE": "/etc/cert.pem",
		"APP_VENDOR_ACCESS_ID":     "null",
		"APP_VENDOR_POLL_INTERVAL": "1m30s",
		"APP_GATE_ALPHA":           "0.02",
		"APP_GATE_PARTNERS":        "",
		"APP_GATE_SMALL":           "7",
		"APP_GATE_STRICT":          "true",
		"APP_LEVEL":                "-3",
		"APP_ITEMS":                "[]",
		"APP_HIDDEN":               "x",
		"OTHER_GATE_SMALL":         "9",
	})); err != nil {
		t.Fatal(err)
	}
	level := -3
	want := process{
		Server: listener{Listen: "0.0.0.0:9000", DataDir: config.Path(filepath.Join(here, "data"))},
		Vendor: &account{AccessID: "null", Every: 90 * time.Second},
		Gate:   numbers{Alpha: 0.02, Partners: 10, Small: 7, Strict: true},
		Level:  &level,
	}
	want.Server.TLS.Cert = "/etc/cert.pem"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
}

func TestEnvMakesNoSectionThatNobodySet(t *testing.T) {
	t.Parallel()
	got := process{}
	if err := config.Env(&got, "APP", lookup(map[string]string{"APP_VENDOR_ACCESS_ID": "", "APP_SINCE": ""})); err != nil {
		t.Fatal(err)
	}
	if got.Vendor != nil || got.Since != nil {
		t.Errorf("it made %+v", got)
	}
}

func TestEnvNamesEveryVariableThatIsWrong(t *testing.T) {
	t.Parallel()
	err := config.Env(&process{}, "APP", lookup(map[string]string{
		"APP_SERVER_DATA_DIR":      "~other/x",
		"APP_VENDOR_POLL_INTERVAL": "10",
		"APP_GATE_ALPHA":           "much",
		"APP_GATE_PARTNERS":        "null",
		"APP_GATE_SMALL":           "300",
		"APP_GATE_STRICT":          "3",
	}))
	const want = `LS-CFG-003: the configuration has 6 problems:
  APP_SERVER_DATA_DIR: ~other/x: only your own home folder can be abbreviated; write the path in full
  APP_VENDOR_POLL_INTERVAL: "10" is not a duration; write a number with a unit, such as "500ms", "30s", "10m" or "24h"
  APP_GATE_ALPHA: expected a number, found "much"
  APP_GATE_PARTNERS: expected a whole number, found nothing
  APP_GATE_SMALL: 300 does not fit here, expected a whole number of ordinary size
  APP_GATE_STRICT: expected true or false, found the number 3`
	var problems config.Problems
	if !errors.As(err, &problems) || errs.IDOf(err) != "LS-CFG-003" {
		t.Fatalf("error is %T: %v", err, err)
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestVariablesAreThoseThatEnvAsksFor(t *testing.T) {
	t.Parallel()
	var asked []string
	if err := config.Env(&process{}, "APP", func(name string) (string, bool) { asked = append(asked, name); return "", false }); err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(`APP_SERVER_LISTEN APP_SERVER_DATA_DIR APP_SERVER_TLS_CERT_FILE APP_VENDOR_ACCESS_ID
		APP_VENDOR_POLL_INTERVAL APP_GATE_ALPHA APP_GATE_PARTNERS APP_GATE_SMALL APP_GATE_STRICT APP_LEVEL APP_SINCE`)
	if got := config.Variables(&process{}, "APP"); !slices.Equal(got, want) || !slices.Equal(asked, want) {
		t.Errorf("listed %v\nasked  %v\nwant   %v", got, asked, want)
	}
}
