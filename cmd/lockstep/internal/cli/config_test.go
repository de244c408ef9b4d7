package cli_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/fleetfile"
)

const someConfig = `server: {listen: '127.0.0.1:1', data_dir: /data}
vendor: {url: https://api.example, access_id: p-1, access_key_file: /key}
releases:
  - {id: 5.0.1, gateway: {version: 5.0.1, image: "docker.io/akeyless/base:5.0.1"}}
clusters:
  - {id: berlin, release: 5.0.1, compose: {dir: /srv/berlin, profiles: [gateway, sra], services: {edge: gateway}}}
notify: {webhooks: [{name: ops, url: "https://chat.example/hush/hush"}]}
`

func TestServerFlagsOverrideEnvironmentAndFile(t *testing.T) {
	t.Parallel()
	dsn := file(t, "dsn", "file-dsn\n")
	path := file(t, "fleet.yaml", "server: {listen: '127.0.0.1:1', data_dir: /file}\nbus: {url: 'nats://file:1'}\nlog: {level: warn}\nstore: {dsn_file: "+dsn+"}\n")
	vars := []string{
		"LOCKSTEP_SERVER_LISTEN", "127.0.0.1:2", "LOCKSTEP_SERVER_ADMIN_LISTEN", "off", "LOCKSTEP_SERVER_DATA_DIR", "/env", "LOCKSTEP_BUS_URL", "nats://env:1",
		"LOCKSTEP_LOG_LEVEL", "error", "LOCKSTEP_LOG_FORMAT", "json", "LOCKSTEP_SERVER_CLICKHOUSE", "env-dsn",
	}
	flags := []string{
		"--listen", "127.0.0.1:3", "--admin-listen", "127.0.0.1:4", "--data-dir", "/flag", "--nats", "nats://flag:1", "--clickhouse", "flag-dsn",
		"--log-level", "debug", "--log-format", "text",
	}
	for name, tc := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"file":                 {nil, nil, "127.0.0.1:1 127.0.0.1:8471 /file nats://file:1 warn text file-dsn"},
		"env":                  {vars, nil, "127.0.0.1:2 off /env nats://env:1 error json env-dsn"},
		"the newer DSN first":  {append([]string{"LOCKSTEP_STORE_DSN", "new-dsn"}, vars...), nil, "127.0.0.1:2 off /env nats://env:1 error json new-dsn"},
		"flags":                {vars, flags, "127.0.0.1:3 127.0.0.1:4 /flag nats://flag:1 debug text flag-dsn"},
		"a DSN file by itself": {[]string{"LOCKSTEP_STORE_DSN_FILE", file(t, "other", "other-dsn")}, nil, "127.0.0.1:1 127.0.0.1:8471 /file nats://file:1 warn text other-dsn"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got cli.ServerOptions
			o := cli.Options{Env: env(tc.env...), Server: func(_ context.Context, so cli.ServerOptions) error { got = so; return nil }}
			execute(t.Context(), o, append([]string{"server", "--config", path}, tc.args...)...).wants(t, 0, "")
			c := got.Config
			said := strings.Join([]string{c.Server.Listen, c.Server.AdminListen, string(c.Server.DataDir), c.Bus.URL, c.Log.Level, c.Log.Format, got.ClickHouse}, " ")
			if said != tc.want || got.ConfigPath != path {
				t.Errorf("handed over %s\nwant %s", said, tc.want)
			}
		})
	}
}

func TestAFlagTakesNoPassword(t *testing.T) {
	t.Parallel()
	const dsn = "clickhouse://lockstep:hush@db:9000/lockstep"
	for _, args := range [][]string{{"server"}, {"migrate"}, {"config", "validate"}} {
		got := execute(t.Context(), cli.Options{Env: env("HOME", "/h")}, append(args, "--clickhouse", dsn)...)
		got.wants(t, 2, "--clickhouse carries a password")
		got.wants(t, 2, "store.dsn_file names, or set it as LOCKSTEP_STORE_DSN")
		if strings.Contains(got.err+got.out, "hush") {
			t.Errorf("%s shows it: %s", args[0], got.err)
		}
	}
	var given string
	o := cli.Options{Env: env("HOME", "/h", "LOCKSTEP_STORE_DSN", dsn), Server: func(_ context.Context, so cli.ServerOptions) error { given = so.ClickHouse; return nil }}
	execute(t.Context(), o, "server").wants(t, 0, "")
	if given != dsn {
		t.Errorf("the environment gives %s", given)
	}
	o.Env = env("HOME", "/h")
	execute(t.Context(), o, "server", "--clickhouse", "clickhouse://lockstep@db:9000/lockstep").wants(t, 0, "")
}

func TestADSNFileThatHoldsNone(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"is empty": file(t, "dsn", " \n"), "no such file": filepath.Join(t.TempDir(), "absent")} {
		o := cli.Options{Env: env("HOME", "/h", "LOCKSTEP_STORE_DSN_FILE", path)}
		execute(t.Context(), o, "config", "validate").wants(t, 1, "lockstep: LS-CFG-004: read store.dsn_file: ")
		execute(t.Context(), o, "config", "validate").wants(t, 1, name)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	path := file(t, "fleet.yaml", someConfig)
	for _, args := range [][]string{{"--config", path}, {path}} {
		got := runWith(t, t.Context(), "", append([]string{"config", "validate"}, args...)...)
		got.wants(t, 0, "")
		if got.out != path+": ok (1 cluster, 1 release, 1 webhook, 0 tokens)\n" {
			t.Errorf("printed %s", got.out)
		}
	}
	home := cli.Options{Env: env("HOME", t.TempDir())}
	if got := execute(t.Context(), home, "config", "check"); got.code != 0 || !strings.HasPrefix(got.out, "no file: the defaults and the environment are ok") {
		t.Errorf("without a file %+v", got)
	}
	runWith(t, t.Context(), "", "config", "validate", path, "--listen", "x").wants(t, 1, `--listen: server.listen: "x" is not host:port`)
	runWith(t, t.Context(), "", "config", "validate", path, path).wants(t, 2, "takes at most one FILE, got 2 arguments")
	runWith(t, t.Context(), "", "config", "validate", path, "--config", path).wants(t, 2, "the file is named twice")
}

// TestBadConfigurations are files as people break them, with what they read then.
func TestBadConfigurations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tc := range map[string]struct{ path, want string }{
		"absent":        {filepath.Join(dir, "none.yaml"), "LS-CFG-001: open the configuration named by --config: stat " + dir + "/none.yaml: no such file or directory"},
		"a folder":      {dir, "LS-CFG-001: open the configuration named by --config: " + dir + " is a folder; name the file in it"},
		"no YAML":       {file(t, "fleet.yaml", "server: [\n"), "LS-CFG-002: read the configuration "},
		"a list":        {file(t, "fleet.yaml", "- server\n"), "expected keys with values, found a list"},
		"unknown key":   {file(t, "fleet.yaml", "server: {lisen: x}\n"), "fleet.yaml:1: server.lisen: unknown key; did you mean listen?"},
		"wrong type":    {file(t, "fleet.yaml", "gate:\n  partners: ten\n"), `fleet.yaml:2: gate.partners: expected a whole number, found "ten"`},
		"no unit":       {file(t, "fleet.yaml", "gate: {deadline: 10}\n"), `gate.deadline: "10" is not a duration; write a number with a unit`},
		"several":       {file(t, "fleet.yaml", "server: {listen: x}\nlog: {level: loud}\n"), "the configuration has 2 problems:\n"},
		"a secret here": {file(t, "fleet.yaml", "vendor: {access_key: hush}\n"), "vendor.access_key: unknown key; did you mean access_id?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := execute(t.Context(), cli.Options{Env: env("HOME", "/h")}, "config", "validate", "--config", tc.path)
			got.wants(t, 1, tc.want)
			if got.out != "" || strings.Count(got.err, "(lockstep explain LS-CFG-00") != 1 {
				t.Errorf("printed %s and %s", got.out, got.err)
			}
		})
	}
}

func TestConfigView(t *testing.T) {
	t.Parallel()
	path := file(t, "fleet.yaml", someConfig)
	vars := env("HOME", "/h", "LOCKSTEP_LOG_LEVEL", "debug", "NATS_URL", "nats://u:hush@bus:4222")
	for name, args := range map[string][]string{
		"config-view.txt":      nil,
		"config-view-wide.txt": {"-o", "wide", "--listen", "127.0.0.1:9"},
		"config-view.yaml":     {"-o", "yaml"},
		"config-view.json":     {"-o", "json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := execute(t.Context(), cli.Options{Env: vars}, append([]string{"config", "view", "--config", path}, args...)...)
			got.wants(t, 0, "")
			if strings.Contains(got.out, "hush") {
				t.Error("a secret is shown")
			}
			golden(t, name, strings.ReplaceAll(got.out, path, "FILE"))
		})
	}
	got := execute(t.Context(), cli.Options{Env: env()}, "config", "view", "--config", path, "--listen", "nowhere")
	got.wants(t, 0, "The server would not accept this; 'lockstep config validate' says why.")
	if !strings.Contains(got.out, "nowhere") {
		t.Errorf("printed %s", got.out)
	}
}

// TestConfigViewCanBeLoaded reads back what -o yaml prints.
func TestConfigViewCanBeLoaded(t *testing.T) {
	t.Parallel()
	path := file(t, "fleet.yaml", someConfig)
	vars := env("HOME", "/h")
	got := execute(t.Context(), cli.Options{Env: vars}, "config", "view", "--config", path, "-o", "yaml")
	again := file(t, "again.yaml", got.out)
	if _, err := fleetfile.Load(again, vars); err != nil {
		t.Errorf("%v in:\n%s", err, got.out)
	}
}

func TestConfigPath(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	o := cli.Options{Env: env("HOME", home)}
	execute(t.Context(), o, "config", "path").wants(t, 1, "there is no configuration file; looked for --config, LOCKSTEP_CONFIG, ./fleet.yaml")
	path := filepath.Join(home, ".config", "lockstep", "fleet.yaml")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(someConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := execute(t.Context(), o, "config", "path"); got.out != path+"\n" {
		t.Errorf("printed %q", got.out)
	}
}

func TestPrintDefaults(t *testing.T) {
	t.Parallel()
	got := runWith(t, t.Context(), "", "config", "print-defaults")
	if got.code != 0 || got.out != fleetfile.Defaults() {
		t.Errorf("printed %s", got.out)
	}
}
