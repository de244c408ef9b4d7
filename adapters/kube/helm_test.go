package kube_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage"
	"helm.sh/helm/v4/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// helm is Helm's own storage on a server, in Secrets or in ConfigMaps.
func helm(t *testing.T, url, kind string) *storage.Storage {
	t.Helper()
	client, err := v1.NewForConfig(&rest.Config{Host: url, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	if kind == "configmaps" {
		return storage.Init(driver.NewConfigMaps(client.ConfigMaps(namespace)))
	}
	return storage.Init(driver.NewSecrets(client.Secrets(namespace)))
}

func record(t *testing.T, into *storage.Storage, name string, number int, status common.Status, values map[string]any) {
	t.Helper()
	err := into.Create(&release.Release{
		Name: name, Namespace: namespace, Version: number,
		Info: &release.Info{Status: status, LastDeployed: at.In(time.FixedZone("", 7200))},
		Chart: &chart.Chart{Metadata: &chart.Metadata{
			Name: "akeyless-gateway", Version: "3.3.0", AppVersion: "5.0.1_3.3.0", APIVersion: "v2",
			Annotations: map[string]string{"gatewayVersion": "5.0.1", "sraVersion": "3.1.0"},
		}},
		Config: values, Manifest: strings.Repeat("kind: Deployment\n", 1000),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// noValues is the hash of an empty set of values.
const noValues = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

func TestPackageReadsWhatHelmWrites(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	secrets, configMaps := helm(t, server.URL, "secrets"), helm(t, server.URL, "configmaps")
	for n := 1; n <= 9; n++ {
		record(t, secrets, "gw", n, common.StatusSuperseded, nil)
	}
	record(t, secrets, "gw", 10, common.StatusPendingUpgrade, map[string]any{"sra": map[string]any{"image": map[string]any{"tag": "3.0.3"}}})
	record(t, configMaps, "a.v2", 1, common.StatusDeployed, nil)
	// Neither is a record of Helm's.
	other := &corev1.Secret{}
	other.Name, other.Labels = "gw-conf", map[string]string{"owner": "helm"}
	hand := &corev1.Secret{}
	hand.Name, hand.Labels = "sh.helm.release.v1.gw.vX", map[string]string{"owner": "helm"}
	server.put(other, hand)

	s := prepare(t, server.URL)
	got, err := s.Package(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := fleet.Package{Cluster: "east", ObservedAt: at, Helm: []fleet.HelmRelease{
		{Name: "a.v2", Namespace: namespace, Chart: "akeyless-gateway", ChartVersion: "3.3.0", AppVersion: "5.0.1_3.3.0", Revision: 1, Status: "deployed",
			ValuesHash: noValues, UpdatedAt: at, Versions: fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}},
		{Name: "gw", Namespace: namespace, Chart: "akeyless-gateway", ChartVersion: "3.3.0", AppVersion: "5.0.1_3.3.0", Revision: 10, Status: "pending-upgrade",
			ValuesHash: "sha256:a0f1b03aac1b035804939e990780a7f0d926f39ebe75bdc1de4468904a739ba0", UpdatedAt: at, Versions: fleet.VersionSet{"gateway": "5.0.1", "sra": "3.0.3"}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("package (-want +got):\n%s", diff)
	}
	if n := server.count("get secrets"); n != 1 {
		t.Errorf("%d records were fetched whole, want the newest", n)
	}
	if _, err := s.Package(t.Context()); err != nil || server.count("get secrets") != 1 {
		t.Errorf("%d records were fetched after nothing changed: %v", server.count("get secrets"), err)
	}
	// Helm writes how an upgrade ended into the record that is there.
	last, err := secrets.Get("gw", 10)
	if err != nil {
		t.Fatal(err)
	}
	written, ok := last.(*release.Release)
	if !ok {
		t.Fatalf("helm keeps a %T", last)
	}
	written.Info.Status = common.StatusDeployed
	if err := secrets.Update(written); err != nil {
		t.Fatal(err)
	}
	want.Helm[1].Status = "deployed"
	got, err = s.Package(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("package after the upgrade (-want +got):\n%s", diff)
	}
}

func TestPackageOfTheClustersReleases(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	record(t, helm(t, server.URL, "secrets"), "east", 1, common.StatusDeployed, nil)
	record(t, helm(t, server.URL, "secrets"), "west", 1, common.StatusDeployed, nil)
	for name, c := range map[string]struct {
		releases []string
		want     string
	}{
		"one":           {[]string{"west"}, "west"},
		"all":           {nil, "east west"},
		"not installed": {[]string{"north", "east"}, "east"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := prepare(t, server.URL, func(o *kube.Options) { o.Releases = c.releases }).Package(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, r := range got.Helm {
				names = append(names, r.Name)
			}
			if strings.Join(names, " ") != c.want {
				t.Errorf("got %q, want %q", names, c.want)
			}
		})
	}
}

func TestHelmsRecordsMayBeForbidden(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		releases  []string
		forbidden []string
		says      string // empty: it is no error
	}{
		"all":                                     {nil, []string{"list secrets", "list configmaps"}, "list secrets"},
		"secrets, where all is wanted":            {nil, []string{"list secrets"}, "list secrets"},
		"secrets, and all is in configmaps":       {[]string{"moved"}, []string{"list secrets"}, ""},
		"secrets, where one is missing":           {[]string{"moved", "gw"}, []string{"list secrets"}, "list secrets"},
		"configmaps, and all is in secrets":       {[]string{"gw"}, []string{"list configmaps"}, ""},
		"configmaps, where one is missing":        {[]string{"moved", "gw"}, []string{"list configmaps"}, "list configmaps"},
		"configmaps, where all is wanted":         {nil, []string{"list configmaps"}, ""},
		"the records themselves":                  {nil, []string{"get secrets"}, "get secrets"},
		"the records themselves, in configmaps":   {nil, []string{"get configmaps"}, "get configmaps"},
		"what holds no release that is asked for": {[]string{"gw"}, []string{"get configmaps"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newServer(t, podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage))
			record(t, helm(t, server.URL, "secrets"), "gw", 1, common.StatusDeployed, nil)
			record(t, helm(t, server.URL, "configmaps"), "moved", 1, common.StatusDeployed, nil)
			server.forbid(c.forbidden...)
			s := start(t, server.URL, func(o *kube.Options) {
				o.Releases = c.releases
				o.Workloads = map[string]fleet.Component{"deployment/unified-gw": fleet.Gateway}
			})
			_, err := s.Package(t.Context())
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if errs.IDOf(err) != "LS-KUB-008" || errs.KindOf(err) != errs.PermissionDenied {
				t.Fatalf("got %v", err)
			}
			for _, part := range []string{c.says, `"vault"`, "lockstep-collector-helm", "deploy/k8s/collector/role.yaml"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if got := inventory(t, s); len(got.Instances) != 1 {
				t.Errorf("without Helm's records the inventory is %+v", got)
			}
		})
	}
}

func TestARecordThatCannotBeReadIsNamed(t *testing.T) {
	t.Parallel()
	pack := func(text string) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write([]byte(text))
		_ = w.Close()
		return []byte(base64.StdEncoding.EncodeToString(b.Bytes()))
	}
	whole := pack(`{"chart":{"metadata":{"name":"x"}}}`)
	plain, _ := base64.StdEncoding.DecodeString(string(whole))
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"empty":       {nil, "no release in it"},
		"no base64":   {[]byte("?"), "no base64"},
		"cut off":     {[]byte(base64.StdEncoding.EncodeToString(plain[:len(plain)-12])), "no release"},
		"no gzip":     {[]byte(base64.StdEncoding.EncodeToString([]byte{0x1f, 0x8b, 0})), "decompressed"},
		"no release":  {pack(`["x"]`), "no release"},
		"a huge one":  {pack(`{"manifest":"` + strings.Repeat("a", 65<<20) + `"}`), "larger than 64 MiB"},
		"a plain one": {[]byte(base64.StdEncoding.EncodeToString([]byte(`{"chart":{"metadata":{"name":"x"}}}`))), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := &corev1.Secret{Data: map[string][]byte{"release": c.data}}
			secret.Name, secret.Labels = "sh.helm.release.v1.gw.v3", map[string]string{"owner": "helm"}
			got, err := prepare(t, newServer(t, secret).URL).Package(t.Context())
			if c.says == "" {
				if err != nil || len(got.Helm) != 1 || got.Helm[0].Chart != "x" || got.Helm[0].Revision != 3 {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			if errs.IDOf(err) != "LS-KUB-009" || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "helm get metadata gw -n vault --revision 3") {
				t.Errorf("got %v", err)
			}
		})
	}
}
