package cli_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect/v2"
	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
)

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"unknown command":    {[]string{"statsu"}, `unknown command "statsu" for "lockstep"; did you mean status?`},
		"unknown below":      {[]string{"rollout", "strat"}, `unknown command "strat" for "lockstep rollout"; did you mean start?`},
		"the beginning":      {[]string{"roll"}, `unknown command "roll" for "lockstep"; did you mean rollout?`},
		"nothing like it":    {[]string{"frobnicate"}, "unknown command \"frobnicate\" for \"lockstep\"\nRun"},
		"unknown flag":       {[]string{"status", "--wtach"}, "unknown flag: --wtach; did you mean --watch?\nRun 'lockstep status --help' for usage."},
		"unknown format":     {[]string{"status", "-o", "xml"}, "use one of table, wide, json, yaml, name"},
		"watch as yaml":      {[]string{"status", "-w", "-o", "yaml"}, "--watch prints a table or one JSON object a line"},
		"flag of nothing":    {[]string{"status", "--frobnicate"}, "unknown flag: --frobnicate\nRun"},
		"short flag":         {[]string{"status", "-q"}, "unknown shorthand flag: 'q' in -q\nRun"},
		"no truth":           {[]string{"rollout", "start", "-r", "1", "--yes=maybe"}, `--yes "maybe": use true or false`},
		"no time":            {[]string{"rollout", "watch", "r", "--timeout", "soon"}, `--timeout "soon" is not a length of time; write for example 90s or 30m`},
		"log level":          {[]string{"server", "--log-level", "loud"}, "use one of debug, info, warn, error"},
		"another shell":      {[]string{"completion", "tcsh"}, `unknown command "tcsh" for "lockstep completion"`},
		"watch of the past":  {[]string{"status", "-w", "--as-of", "1h"}, "--watch shows what comes and --as-of what was"},
		"no state":           {[]string{"status", "--state", "overdeu"}, "use some of withdrawn, dark, overdue, split, drifted, unknown, stepping, locked; did you mean overdue?"},
		"no order":           {[]string{"status", "--sort", "name"}, "use one of id, state, since"},
		"not a cluster":      {[]string{"status", "Berlin"}, `"Berlin" is not the id of a cluster`},
		"no release":         {[]string{"rollout", "plan"}, "say which release: --release ID"},
		"no rollout":         {[]string{"rollout", "watch"}, "lockstep rollout watch takes ROLLOUT, got 0 arguments"},
		"too much":           {[]string{"version", "now"}, "lockstep version takes no argument, got 1 argument\n"},
		"not an address":     {[]string{"status", "--server", "localhost:1", "--token-file", "x"}, "write one such as http://127.0.0.1:8470"},
		"timeout alone":      {[]string{"rollout", "start", "-r", "1", "--timeout", "1m"}, "--timeout limits --wait; give both"},
		"negative timeout":   {[]string{"rollout", "watch", "r", "--timeout", "-1s"}, "--timeout -1s is negative"},
		"bad watch format":   {[]string{"rollout", "watch", "r", "-o", "yaml"}, "use one of table, json"},
		"two wrongs at once": {[]string{"rollout", "start", "--no-input"}, "say which release: --release ID\n--no-input forbids asking"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := runWith(t, t.Context(), "", tc.args...)
			got.wants(t, 2, tc.want)
			if got.out != "" {
				t.Errorf("data besides the error: %s", got.out)
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	if got := cli.ExitCode(nil); got != 0 {
		t.Errorf("no error gives %d", got)
	}
	if got := cli.ExitCode(errors.New("x")); got != 1 {
		t.Errorf("an error gives %d", got)
	}
}

func TestGroupsShowHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"rollout"}, {"gate"}, {"status", "--help"}} {
		got := runWith(t, t.Context(), "", args...)
		got.wants(t, 0, "")
		if !strings.Contains(got.out, "Usage:") {
			t.Errorf("%v printed %q", args, got.out)
		}
	}
}

func TestCompletionSpeaksFourShells(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		got := runWith(t, t.Context(), "", "completion", shell)
		if got.code != 0 || !strings.Contains(got.out, "lockstep") {
			t.Errorf("%s: exit code %d, %d bytes", shell, got.code, len(got.out))
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if got := runWith(t, t.Context(), "", "version").out; got != "lockstep 1.2.3 (commit abc, go1.26)\n" {
		t.Errorf("text %q", got)
	}
	if got := runWith(t, t.Context(), "", "--version").out; got != "lockstep 1.2.3 (commit abc, go1.26)\n" {
		t.Errorf("flag %q", got)
	}
	if got, want := runWith(t, t.Context(), "", "version", "-o", "json").out, "{\n  \"version\": \"1.2.3\",\n  \"commit\": \"abc\",\n  \"go\": \"go1.26\"\n}\n"; got != want {
		t.Errorf("json %q", got)
	}
	if got, want := runWith(t, t.Context(), "", "version", "-o", "yaml").out, "version: 1.2.3\ncommit: abc\ngo: go1.26\n"; got != want {
		t.Errorf("yaml %q", got)
	}
}

func TestServerDown(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	token := file(t, "token", "right")
	for _, args := range [][]string{{"status"}, {"status", "--watch"}, {"rollout", "watch", "r1"}} {
		runWith(t, t.Context(), "", append(args, "--server", url, "--token-file", token)...).
			wants(t, 1, "nothing listens at "+url+"; is `lockstep server` running?")
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fleet: someFleet()})
	wrong, empty := file(t, "wrong", "other"), file(t, "empty", " \n")
	absent := filepath.Join(t.TempDir(), "absent")
	call := func(o cli.Options, args ...string) result {
		return execute(t.Context(), o, append([]string{"status", "-o", "name", "--server", f.url}, args...)...)
	}
	call(cli.Options{Env: env()}, "--token-file", wrong).wants(t, 1, f.url+" does not accept the token in "+wrong)
	call(cli.Options{Env: env()}, "--token-file", wrong).wants(t, 1, "once its hash is in access.tokens of the server's configuration and the server was restarted")
	call(cli.Options{Env: env()}, "--token-file", empty).wants(t, 1, empty+" is empty")
	call(cli.Options{Env: env()}, "--token-file", file(t, "fleet.yaml", "server:\n  listen: x\n")).wants(t, 1, "fleet.yaml holds something else than one token")
	call(cli.Options{Env: env()}, "--token-file", absent).wants(t, 1, "there is no file "+absent+"; `lockstep server` writes it when it first starts")
	call(cli.Options{Env: env("LOCKSTEP_TOKEN_FILE", f.token)}).wants(t, 0, "")
	call(cli.Options{Env: env("LOCKSTEP_TOKEN_FILE", f.token)}, "--token-file", wrong).wants(t, 1, "the token in "+wrong)
	call(cli.Options{Env: env("LOCKSTEP_SERVER_DATA_DIR", filepath.Dir(f.token))}).wants(t, 0, "")
	call(cli.Options{Env: env()}).wants(t, 1, "no data folder is known; name the token's file with --token-file")
}

func TestAnInterruptionIsToldAsOne(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	f := serve(t, &fake{})
	cancel()
	for _, args := range [][]string{{"status"}, {"gate", "list"}, {"rollout", "get", "r1"}} {
		got := runWith(t, ctx, "", append(args, "--server", f.url, "--token-file", f.token)...)
		if got.code != 1 || !strings.HasSuffix(got.err, ": interrupted\n") {
			t.Errorf("%v: exit code %d, said %s", args, got.code, got.err)
		}
	}
}

func TestTheTokenDoesNotFollowARedirect(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(elsewhere.Close)
	web := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(web.Close)
	runWith(t, t.Context(), "", "status", "--server", web.URL, "--token-file", file(t, "token", "right")).wants(t, 1, "list clusters at "+web.URL)
	if asked.Load() != 0 {
		t.Error("the request, and the token with it, went where the redirect pointed")
	}
}

func TestClientReadsTheConfiguration(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fleet: someFleet()})
	path := file(t, "fleet.yaml", "server: {listen: '"+strings.TrimPrefix(f.url, "http://")+"', data_dir: "+filepath.Dir(f.token)+"}\nclusters: [{id: NOT-JUDGED-HERE}]\n")
	execute(t.Context(), cli.Options{Env: env()}, "status", "-o", "name", "--config", path).wants(t, 0, "")
	execute(t.Context(), cli.Options{Env: env("LOCKSTEP_CONFIG", path)}, "status", "-o", "name").wants(t, 0, "")

	broken := file(t, "fleet.yaml", "servre: {}\n")
	execute(t.Context(), cli.Options{Env: env()}, "status", "--config", broken).wants(t, 1, broken+":1: servre: unknown key; did you mean server?\n--server and --token-file together need no configuration")
	execute(t.Context(), cli.Options{Env: env()}, "status", "--config", broken, "--server", f.url, "--token-file", f.token).wants(t, 0, "")
}

func TestServerNeedsNoFileAndReportsItsError(t *testing.T) {
	t.Parallel()
	var got cli.ServerOptions
	o := cli.Options{Env: env("HOME", t.TempDir()), Server: func(_ context.Context, so cli.ServerOptions) error { got = so; return errors.New("the port is taken") }}
	execute(t.Context(), o, "server", "--data-dir", "here").wants(t, 1, "lockstep: the port is taken\n")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if string(got.Config.Server.DataDir) != filepath.Join(here, "here") || got.ConfigPath != "" || len(got.Config.Clusters) != 0 {
		t.Errorf("handed over %+v", got)
	}
	execute(t.Context(), o, "server", "--listen", "nonsense").wants(t, 1, `server.listen: "nonsense" is not host:port`)
}

// TestErrorsSayWhereToReadOn counts the hints, too.
func TestErrorsSayWhereToReadOn(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fail: catalogued(connect.CodeNotFound, "there is no such release", "LS-ROL-010")})
	absent := filepath.Join(t.TempDir(), "absent")
	for name, tc := range map[string]struct {
		got  result
		want string
	}{
		"the server's": {f.run(t, "rollout", "plan", "-r", "9"), "LS-ROL-010"},
		"a file's":     {runWith(t, t.Context(), "", "config", "validate", absent), "LS-CFG-001"},
		"the token's":  {runWith(t, t.Context(), "", "status", "--server", f.url, "--token-file", absent), "LS-CFG-005"},
		"nobody there": {runWith(t, t.Context(), "", "status", "--server", "http://127.0.0.1:1", "--token-file", f.token), "LS-API-020"},
		"of no page":   {serve(t, &fake{fail: catalogued(connect.CodeInternal, "x", "LS-XXX-999")}).run(t, "status"), ""},
		"usage":        {runWith(t, t.Context(), "", "status", "-o", "xml"), ""},
		"no id at all": {serve(t, &fake{}).run(t, "status", "oslo"), ""},
		"all is well":  {serve(t, &fake{}).run(t, "status"), ""},
	} {
		wanted := 0
		if tc.want != "" {
			wanted = 1
		}
		if strings.Count(tc.got.err, "(lockstep explain ") != wanted || wanted == 1 && !strings.HasSuffix(tc.got.err, "\n(lockstep explain "+tc.want+")\n") {
			t.Errorf("%s: said %s", name, tc.got.err)
		}
	}
}

func TestExtraCommands(t *testing.T) {
	t.Parallel()
	ran := false
	extra := &cobra.Command{Use: "engine", Hidden: true, RunE: func(*cobra.Command, []string) error { ran = true; return nil }}
	execute(t.Context(), cli.Options{Env: env(), Extra: []*cobra.Command{extra}}, "engine").wants(t, 0, "")
	if !ran {
		t.Error("the extra command did not run")
	}
}
