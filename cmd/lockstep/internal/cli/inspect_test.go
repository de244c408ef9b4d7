package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
)

func someChecks() []cli.Check {
	return []cli.Check{
		{Name: "configuration", Status: cli.CheckOK, Detail: "/etc/lockstep/fleet.yaml"},
		{Name: "free space", Status: cli.CheckWarn, Detail: "3.0 GiB on the disk of /data", Todo: "make room there"},
		{Name: "API address", Status: cli.CheckFail, Detail: "listening on 127.0.0.1:8470: address already in use", Todo: "choose another address", ID: "LS-SRV-003"},
		{Name: "admin token", Status: cli.CheckSkip, Detail: "there is none yet"},
	}
}

func TestDoctor(t *testing.T) {
	t.Parallel()
	o := cli.Options{Env: env("HOME", "/h"), Doctor: func(context.Context, cli.DoctorOptions) []cli.Check { return someChecks() }}
	for name, args := range map[string][]string{"doctor.txt": nil, "doctor-wide.txt": {"-o", "wide"}, "doctor.yaml": {"-o", "yaml"}} {
		got := execute(t.Context(), o, append([]string{"doctor"}, args...)...)
		got.wants(t, 1, "lockstep: 1 of 4 checks failed\n")
		golden(t, name, got.out)
	}
	var list []map[string]string
	got := execute(t.Context(), o, "doctor", "-o", "json")
	want := map[string]string{"check": "API address", "status": "fail", "detail": "listening on 127.0.0.1:8470: address already in use", "todo": "choose another address", "id": "LS-SRV-003"}
	if err := json.Unmarshal([]byte(got.out), &list); err != nil || len(list) != 4 || !cmp.Equal(list[2], want) {
		t.Errorf("%v in %s", err, got.out)
	}
	o.Doctor = func(context.Context, cli.DoctorOptions) []cli.Check { return someChecks()[:2] }
	execute(t.Context(), o, "doctor").wants(t, 0, "")
}

func TestDoctorIsToldWhatCouldBeRead(t *testing.T) {
	t.Parallel()
	good, odd, broken := file(t, "fleet.yaml", someConfig), file(t, "fleet.yaml", "server: {data_dir: /data, listen: x}\n"), file(t, "fleet.yaml", "server: [\n")
	for name, tc := range map[string]struct {
		path    string
		problem string
		unread  bool
		dir     string
	}{
		"all of it":        {good, "", false, "/data"},
		"not acceptable":   {odd, "server.listen", false, "/data"},
		"not readable":     {broken, "LS-CFG-002", true, ""},
		"not there at all": {good + "x", "LS-CFG-001", true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got cli.DoctorOptions
			o := cli.Options{
				Env: env("HOME", "/h", "LOCKSTEP_STORE_DSN", "dsn"), Environ: func() []string { return []string{"A=b"} },
				Doctor: func(_ context.Context, o cli.DoctorOptions) []cli.Check { got = o; return nil },
			}
			execute(t.Context(), o, "doctor", "--config", tc.path).wants(t, 0, "")
			if tc.problem == "" != (got.Problem == nil) || got.Problem != nil && !strings.Contains(got.Problem.Error(), tc.problem) {
				t.Errorf("problem %v", got.Problem)
			}
			if got.Unread != tc.unread || string(got.Config.Server.DataDir) != tc.dir || !cmp.Equal(got.Environ, []string{"A=b"}) {
				t.Errorf("told %+v", got)
			}
			if tc.problem == "" && got.ClickHouse != "dsn" {
				t.Errorf("store %q", got.ClickHouse)
			}
		})
	}
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	changes := []cli.Change{
		{Kind: "stream", Name: "OBS", Action: "none"},
		{Kind: "stream", Name: "EVT", Action: "update", Detail: "max_age 0s to 24h"},
		{Kind: "migration", Name: "0002_facts", Action: "apply"},
	}
	var gotDry bool
	var failure error
	o := cli.Options{Env: env("HOME", "/h"), Migrate: func(_ context.Context, so cli.ServerOptions, dryRun bool) ([]cli.Change, error) {
		gotDry = dryRun
		if so.Config.Bus.URL != "nats://n:1" || so.ClickHouse != "dsn" {
			t.Errorf("migrates %+v", so)
		}
		return changes, failure
	}}
	run := func(args ...string) result {
		return execute(t.Context(), o, append([]string{"migrate", "--nats", "nats://n:1", "--clickhouse", "dsn"}, args...)...)
	}
	got := run()
	got.wants(t, 0, "")
	golden(t, "migrate.txt", got.out)
	if gotDry || got.err != "" {
		t.Errorf("dry run %v, said %s", gotDry, got.err)
	}
	if got = run("--dry-run"); !gotDry {
		t.Error("it was no dry run")
	}
	got.wants(t, 0, "Nothing was changed; without --dry-run this is what happens.")
	var list []cli.Change
	if err := json.Unmarshal([]byte(run("-o", "json").out), &list); err != nil || len(list) != 3 {
		t.Errorf("%v: %v", err, list)
	}

	failure = errors.New("the store went away")
	got = run()
	got.wants(t, 1, "lockstep: the store went away\n")
	golden(t, "migrate.txt", got.out)
	changes = changes[:1]
	if got = run(); got.out != "" || strings.Contains(got.err, "nothing to do") {
		t.Errorf("after a failure it printed %s and said %s", got.out, got.err)
	}
	failure = nil
	if got = run(); got.out != "" {
		t.Errorf("printed %s", got.out)
	}
	got.wants(t, 0, "There is nothing to do; everything is up to date.")
	changes = nil
	if got := run("-o", "json").out; got != "[]\n" {
		t.Errorf("nothing at all is %q", got)
	}
}

func TestTopology(t *testing.T) {
	t.Parallel()
	o := cli.Options{Env: env(), Topology: func() []cli.TopologyEntry {
		return []cli.TopologyEntry{
			{Kind: "stream", Name: "OBS", Detail: "observations of <tenant>", Owner: "collector", Retention: "7 days or 8 GiB"},
			{Kind: "table", Name: "facts", Detail: "ClickHouse", Owner: "evaluator", Retention: "for ever"},
		}
	}}
	for name, args := range map[string][]string{
		"topology.txt": nil, "topology-wide.txt": {"-o", "wide"}, "topology-name.txt": {"-o", "name"}, "topology.json": {"-o", "json"},
	} {
		got := execute(t.Context(), o, append([]string{"topology"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
}
