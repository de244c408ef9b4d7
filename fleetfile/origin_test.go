package fleetfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/fleetfile"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fleet.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsGoBeforeTheEnvironmentBeforeTheFile(t *testing.T) {
	t.Parallel()
	path := write(t, "server: {listen: '127.0.0.1:1', data_dir: data}\nlog: {level: info, format: }\nbus: {url: 'nats://file:1'}\nclusters: [{id: a, compose: {dir: /a}}]\n")
	dir := filepath.Dir(path)
	for name, tc := range map[string]struct {
		env   []string
		flags []fleetfile.Flag
		want  map[string]string // key: value origin
	}{
		"file": {nil, nil, map[string]string{
			"server.listen": "127.0.0.1:1 file " + path, "server.data_dir": dir + "/data file " + path, "log.level": "info file " + path,
			"log.format": "text default", "bus.url": "nats://file:1 file " + path, "gate.alpha": "0.01 default",
		}},
		"environment": {
			[]string{"LOCKSTEP_SERVER_LISTEN", "127.0.0.1:2", "LOCKSTEP_GATE_ALPHA", "0.02", "NATS_URL", "nats://env:1"}, nil,
			map[string]string{
				"server.listen": "127.0.0.1:2 env LOCKSTEP_SERVER_LISTEN", "gate.alpha": "0.02 env LOCKSTEP_GATE_ALPHA", "bus.url": "nats://env:1 env NATS_URL",
			},
		},
		"our own variable before NATS_URL": {
			[]string{"LOCKSTEP_BUS_URL", "nats://ours:1", "NATS_URL", "nats://env:1"}, nil,
			map[string]string{"bus.url": "nats://ours:1 env LOCKSTEP_BUS_URL"},
		},
		"an engine that Docker's own variable names": {
			[]string{"DOCKER_HOST", "tcp://other:2376"}, nil, map[string]string{"clusters[0].compose.engine": "tcp://other:2376 env DOCKER_HOST"},
		},
		"flags": {
			[]string{"LOCKSTEP_SERVER_LISTEN", "127.0.0.1:2", "LOCKSTEP_LOG_LEVEL", "warn"},
			[]fleetfile.Flag{{Name: "--listen", Key: "server.listen", Value: "127.0.0.1:3"}, {Name: "--log-level", Key: "log.level"}},
			map[string]string{"server.listen": "127.0.0.1:3 flag --listen", "log.level": "warn env LOCKSTEP_LOG_LEVEL"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := fleetfile.Load(path, env(tc.env...), tc.flags...)
			if err != nil {
				t.Fatal(err)
			}
			origins, got := fleetfile.Origins(path, env(tc.env...), tc.flags...), make(map[string]string)
			for _, v := range f.Values() {
				if _, wanted := tc.want[v.Key]; wanted {
					o := origins(v.Key)
					got[v.Key] = strings.TrimSpace(v.Text + " " + o.Kind + " " + o.Name)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAProblemNamesWhereItsValueComesFrom(t *testing.T) {
	t.Parallel()
	path := write(t, "server: {listen: nowhere}\nclusters: [{id: a}]\n")
	vars := env("HOME", "/h", "LOCKSTEP_LOG_LEVEL", "loud", "NATS_URL", "http://x", "LOCKSTEP_SERVER_LISTEN", "")
	_, err := fleetfile.Load(path, vars, fleetfile.Flag{Name: "--admin-listen", Key: "server.admin_listen", Value: "there"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{path + ": server.listen:", "--admin-listen: server.admin_listen:", "LOCKSTEP_LOG_LEVEL: log.level:", "NATS_URL: bus.url:", path + ": clusters[0].compose:"} {
		if !strings.Contains(err.Error(), "  "+want) {
			t.Errorf("no line begins with %s in:\n%v", want, err)
		}
	}
	for name, tc := range map[string]struct {
		env  []string
		flag fleetfile.Flag
		want string
	}{
		"form of a variable": {[]string{"LOCKSTEP_GATE_ALPHA", "much"}, fleetfile.Flag{}, `LOCKSTEP_GATE_ALPHA: expected a number, found "much"`},
		"form of a flag":     {nil, fleetfile.Flag{Name: "--data-dir", Key: "server.data_dir", Value: "~bob/x"}, "--data-dir: ~bob/x: only your own home folder"},
	} {
		if _, err := fleetfile.Load("", env(tc.env...), tc.flag); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPasswordInTheAddressOfTheBusIsTheEnvironments(t *testing.T) {
	t.Parallel()
	const address = "nats://u:hush@a:4222"
	for name, tc := range map[string]struct {
		path string
		env  []string
		flag fleetfile.Flag
		ok   bool
	}{
		"NATS_URL":         {"", []string{"NATS_URL", address}, fleetfile.Flag{}, true},
		"LOCKSTEP_BUS_URL": {"", []string{"LOCKSTEP_BUS_URL", address}, fleetfile.Flag{}, true},
		"file":             {write(t, "bus: {url: '"+address+"'}\n"), nil, fleetfile.Flag{}, false},
		"flag":             {"", nil, fleetfile.Flag{Name: "--nats", Key: "bus.url", Value: address}, false},
	} {
		_, err := fleetfile.Load(tc.path, env(append(tc.env, "HOME", "/h")...), tc.flag)
		if tc.ok != (err == nil) || err != nil && (!strings.Contains(err.Error(), "credentials_file") || strings.Contains(err.Error(), "hush")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnAliasOfItselfHasAnEnd(t *testing.T) {
	t.Parallel()
	if origin := fleetfile.Origins(write(t, "gate: &g {alpha: 1, beta: *g}\n"), env())("gate.alpha"); origin.Kind != "file" {
		t.Errorf("origin %+v", origin)
	}
}

func TestEmptyMeansTheDefaultWhereItSaysSo(t *testing.T) {
	t.Parallel()
	f, err := fleetfile.Load(write(t, "server: {data_dir: ''}\naccess: {tokens: [{name: a, role: viewer, sha256: "+strings.Repeat("0", 64)+"}]}\n"), env("HOME", "/h"))
	if err != nil {
		t.Fatal(err)
	}
	if f.Server.DataDir != "/h/.local/share/lockstep" || f.Access.Tokens[0].Tenant != "default" {
		t.Errorf("read %+v", f)
	}
}

func TestStraysAreWhatLooksLikeAVariable(t *testing.T) {
	t.Parallel()
	got := fleetfile.Strays([]string{
		"HOME=/h", "LOCKSTEP_SERVER_LISTN=x", "LOCKSTEP_CONFG=x", "LOCKSTEP_LOG_LEVEL=info", "LOCKSTEP_STORE_DSN=x", "LOCKSTEP_WHOLLY_DIFFERENT_THINGS=1",
		"LOCKSTEP_SERVER_PORT=tcp://10.0.0.1:8470", "LOCKSTEP_STORE_SERVICE_HOST=10.0.0.1", "LOCKSTEP_VENDOR_PORT=9000", "LOCKSTEP_LOG_SERVICE_PORT=1",
		"LOCKSTEP_SERVICE_HOST=10.0.0.1", "LOCKSTEP_SERVICE_PORT=8470", "LOCKSTEP_SERVICE_PORT_API=8470", "LOCKSTEP_PORT=tcp://10.0.0.1:8470",
		"LOCKSTEP_PORT_8470_TCP_ADDR=10.0.0.1", "LOCKSTEP_SERVER_PORT_8470_TCP=tcp://10.0.0.1:8470",
	})
	want := []fleetfile.Variable{{Name: "LOCKSTEP_SERVER_LISTN", Meaning: "LOCKSTEP_SERVER_LISTEN"}, {Name: "LOCKSTEP_CONFG", Meaning: "LOCKSTEP_CONFIG"}, {Name: "LOCKSTEP_VENDOR_PORT", Meaning: "LOCKSTEP_VENDOR_URL"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("strays (-want +got):\n%s", diff)
	}
}

func TestRedactedHoldsNoSecret(t *testing.T) {
	t.Parallel()
	f := fleetfile.Default(env())
	f.Bus.URL = "nats://u:hush@a:4222,nats://b:4222,%zz"
	f.Vendor = &fleetfile.Vendor{URL: "https://u:hush@vendor/api"}
	f.Notify.Webhooks = []fleetfile.Webhook{{URL: "https://chat.example/hush?key=hush"}, {URL: "https://plain.example"}}
	r := f.Redacted()
	got := []string{r.Bus.URL, r.Vendor.URL, r.Notify.Webhooks[0].URL, r.Notify.Webhooks[1].URL}
	want := []string{"nats://redacted@a:4222,nats://b:4222,redacted", "https://redacted@vendor/api", "https://chat.example/redacted", "https://plain.example"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
	if !strings.Contains(f.Vendor.URL+f.Notify.Webhooks[0].URL, "hush") {
		t.Error("the file itself was changed")
	}
}
