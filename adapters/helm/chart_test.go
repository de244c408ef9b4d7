package helm_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"

	"github.com/lockstep-fleet/lockstep/adapters/helm"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// folder writes a chart's folder, without values when there are none.
func folder(t *testing.T, chart, values string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"Chart.yaml": "apiVersion: v2\n" + chart + "\n", "values.yaml": values} {
		if text == "" {
			continue
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// Equal charts make equal archives.
		if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// archive packages a chart as `helm package` does.
func archive(t *testing.T, dir string) string {
	t.Helper()
	loaded, err := loader.LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	path, err := chartutil.Save(loaded, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWhatChartsCarry(t *testing.T) {
	t.Parallel()
	gateway := "name: akeyless-gateway\nversion: 3.3.0\nappVersion: 5.0.1_3.1.0\nannotations: {gatewayVersion: 5.0.1, sraVersion: 3.1.0}"
	access := "name: akeyless-zero-trust-web-access\nversion: 1.0.0\nappVersion: 1.2.0"
	sra := "name: akeyless-sra\nversion: 1.0.0\nannotations: {ztbVersion: 2.9.0}"
	contradicts := func(on, first, second string) string {
		return "The chart contradicts itself on " + on + ": " + first + ", " + second + "; the first counts."
	}
	for name, c := range map[string]struct {
		chart, values string
		versions      fleet.VersionSet
		images        map[fleet.Line]string
		notes         []string
	}{
		"by annotations":      {gateway, "", fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}, nil, nil},
		"bastions left off":   {gateway, "sra: {enabled: false, image: {pullPolicy: Always}}", fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}, nil, nil},
		"a null for no value": {gateway, "version: null\nsra: {image: {tag:}}", fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}, nil, nil},
		"images": {
			gateway, "gateway: {deployment: {image: {repository: akeyless/gateway}}}\nsra: {image: {repository: mirror.example.com/zero-trust-bastion, tag: 3.1.0}}",
			fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"},
			map[fleet.Line]string{"gateway": "akeyless/gateway:5.0.1", "sra": "mirror.example.com/zero-trust-bastion:3.1.0"}, nil,
		},
		"the version over the tag over the annotation": {
			gateway, "version: 5.0.3\ngateway: {deployment: {image: {tag: 5.0.2}}}",
			fleet.VersionSet{"gateway": "5.0.3", "sra": "3.1.0"}, nil,
			[]string{
				contradicts("gateway", "the value version says 5.0.3", "the value gateway.deployment.image.tag says 5.0.2"),
				contradicts("gateway", "the value version says 5.0.3", "the annotation gatewayVersion says 5.0.1"),
				contradicts("gateway", "the value version says 5.0.3", "the application version says 5.0.1"),
			},
		},
		"an image that moves": {
			gateway, "sra: {image: {tag: latest}}",
			fleet.VersionSet{"gateway": "5.0.1", "sra": "latest"}, nil,
			[]string{
				contradicts("sra", "the value sra.image.tag says latest", "the annotation sraVersion says 3.1.0"),
				contradicts("sra", "the value sra.image.tag says latest", "the application version says 3.1.0"),
			},
		},
		"a number as Helm reads it": {
			gateway, "sra: {image: {tag: 3.10}}", fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1"}, nil,
			[]string{
				contradicts("sra", "the value sra.image.tag says 3.1", "the annotation sraVersion says 3.1.0"),
				contradicts("sra", "the value sra.image.tag says 3.1", "the application version says 3.1.0"),
			},
		},
		"a digest for a tag": {
			"name: akeyless-gateway\nversion: 1.0.0", "sra: {image: {repository: a/b, tag: 'sha256:abc'}}",
			fleet.VersionSet{"sra": "sha256:abc"}, map[fleet.Line]string{"sra": "a/b@sha256:abc"}, nil,
		},
		"by the application version":               {"name: akeyless-gateway\nversion: 1.0.3\nappVersion: 4.24.0_2.3.2_1.8.0", "", fleet.VersionSet{"gateway": "4.24.0", "sra": "2.3.2_1.8.0"}, nil, nil},
		"by an application version of one":         {"name: akeyless-gateway\nversion: 1.0.3\nappVersion: 4.24.0", "", fleet.VersionSet{"gateway": "4.24.0"}, nil, nil},
		"one annotation and no more":               {"name: akeyless-gateway\nversion: 1.0.3\nappVersion: 4.24.0_2.3.1\nannotations: {gatewayVersion: 4.24.0}", "", fleet.VersionSet{"gateway": "4.24.0", "sra": "2.3.1"}, nil, nil},
		"the chart's version behind the gateway's": {"name: akeyless-gateway\nversion: 3.3.0\nappVersion: 5.0.1_3.3.0\nannotations: {sraVersion: 3.1.0}", "", fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}, nil, nil},
		"the same where nothing else says it":      {"name: akeyless-gateway\nversion: 3.3.0\nappVersion: 5.0.1_3.3.0", "", fleet.VersionSet{"gateway": "5.0.1", "sra": "3.3.0"}, nil, nil},
		"web access":                               {access, "dispatcher: {image: {repository: akeyless/zero-trust-web-dispatcher}}\nwebWorker: {image: {repository: akeyless/zero-trust-web-worker}}", fleet.VersionSet{"ztwa": "1.2.0"}, nil, nil},
		"legacy bastions": {
			sra, "ztbConfig: {image: {repository: akeyless/zero-trust-bastion}}\nsshConfig: {image: {repository: akeyless/zero-trust-bastion}}",
			fleet.VersionSet{"sra": "2.9.0"}, map[fleet.Line]string{"sra": "akeyless/zero-trust-bastion:2.9.0"}, nil,
		},
		"legacy gateway": {
			"name: akeyless-api-gateway\nversion: 1.0.0\nappVersion: 3.29.0", "image: {repository: akeyless/base, tag: latest}",
			fleet.VersionSet{"gateway": "3.29.0"}, map[fleet.Line]string{"gateway": "akeyless/base:latest"}, nil,
		},
		"another's chart": {"name: my-access\nversion: 1.0.0\nappVersion: '7'\nannotations: {gatewayVersion: 5.0.1, sraVersion: 3.1.0}", "version: 1.0.0", fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}, nil, nil},
	} {
		dir := folder(t, c.chart, c.values)
		for _, location := range []string{dir, archive(t, dir)} {
			got, _ := read(t, helm.Options{Location: location})
			if len(got) != 1 {
				t.Fatalf("%s: read %d releases", name, len(got))
			}
			want := catalog.Release{
				ID: catalog.ReleaseIDOf(got[0].Chart, got[0].ChartVersion), Chart: got[0].Chart, ChartVersion: got[0].ChartVersion, AppVersion: got[0].AppVersion,
				Versions: c.versions, Images: c.images, Notes: c.notes, Source: location,
			}
			if want.Images == nil {
				want.Images = map[fleet.Line]string{}
			}
			if location != dir {
				text, err := os.ReadFile(location)
				if err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(text)
				want.Digest = "sha256:" + hex.EncodeToString(sum[:])
			}
			if diff := cmp.Diff(want, got[0]); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

func TestAChartThatCarriesNoOneVersion(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ chart, values, text string }{
		"nothing said": {"name: redis\nversion: 1.0.0\nappVersion: 8", "", "redis 1.0.0 says of no line which version it carries; give"},
		"told apart": {
			"name: akeyless-sra\nversion: 1.0.0\nannotations: {ztbVersion: 2.9.0, sshVersion: 2.8.0}", "",
			"The chart runs sra-web 2.9.0 beside sra-ssh 2.8.0: it has no one version of line sra.",
		},
	} {
		err := refusal(t, helm.Options{Location: folder(t, c.chart, c.values)})
		if errs.IDOf(err) != "LS-REL-016" || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAChartThatHelmCannotRead(t *testing.T) {
	t.Parallel()
	for name, location := range map[string]string{
		"no chart's version":       folder(t, "name: akeyless-gateway", ""),
		"values that are none":     folder(t, "name: akeyless-gateway\nversion: 1.0.0", "a: b: c"),
		"an archive that is none":  file(t, "akeyless-gateway-1.0.0.tgz", "<html>"),
		"an archive that is short": file(t, "akeyless-gateway-1.0.0.tgz", "\x1f\x8b\x08"),
	} {
		if err := refusal(t, helm.Options{Location: location}); errs.IDOf(err) != "LS-REL-009" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
