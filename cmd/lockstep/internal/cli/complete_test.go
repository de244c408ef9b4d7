package cli_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// offered are the completions that the shell's script asks for, without the
// directive at the end.
func offered(r result) string {
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	return strings.Join(lines[:len(lines)-1], "|")
}

func TestCompletionAsksTheServer(t *testing.T) {
	t.Parallel()
	config := file(t, "fleet.yaml", "releases: [{id: 5.2.0}, {id: 5.0.1}]\n")
	f := serve(t, &fake{
		fleet: someFleet(), gates: []*gatev1.Gate{failedGate(), pendingGate()},
		rollouts: []*rolloutv1.Rollout{rollout("running", "", "gating"), stopped()},
		releases: someReleases()[1:], baseline: someBaselines(), acked: someAcks(),
	})
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"clusters":             {[]string{"status", ""}, "berlin\tlocked, 5.0.1|paris\tstepping, 5.0.1|rome\tdark"},
		"clusters not given":   {[]string{"status", "paris", ""}, "berlin\tlocked, 5.0.1|rome\tdark"},
		"clusters of a flag":   {[]string{"rollout", "plan", "--cluster", ""}, "berlin\tlocked, 5.0.1|paris\tstepping, 5.0.1|rome\tdark"},
		"rollouts":             {[]string{"rollout", "watch", ""}, "r1\trunning, 5.1.0|r1\theld, 5.1.0"},
		"one rollout only":     {[]string{"rollout", "get", "r1", ""}, ""},
		"rollouts of a flag":   {[]string{"gate", "list", "--rollout", ""}, "r1\trunning, 5.1.0|r1\theld, 5.1.0"},
		"gates":                {[]string{"gate", "explain", ""}, "g1\tfail|g2\tpending"},
		"releases":             {[]string{"rollout", "start", "--release", ""}, "5.2.0\tdeclared|5.0.1\tdeclared|stage\twithdrawn, gateway 4.54.0|1.3.0\tavailable, gateway 4.53.0, sra 3.0.3"},
		"releases, first":      {[]string{"releases", "block", ""}, "5.2.0\tdeclared|5.0.1\tdeclared|stage\twithdrawn, gateway 4.54.0|1.3.0\tavailable, gateway 4.53.0, sra 3.0.3"},
		"clusters to assign":   {[]string{"assign", "berlin", "rome", ""}, "paris\tstepping, 5.0.1"},
		"one cluster only":     {[]string{"drift", "explain", "berlin", ""}, ""},
		"risks":                {[]string{"releases", "ack", ""}, "legacy-issuer-users\tolder gateways need session_* users|legacy-ssh-algorithms\told OpenSSH targets need old algorithms"},
		"baselines":            {[]string{"baseline", "diff", ""}, "before-openssl/paris\toverdue|r1/rome\tdark"},
		"baselines not given":  {[]string{"baseline", "diff", "r1/rome", ""}, "before-openssl/paris\toverdue"},
		"statuses":             {[]string{"releases", "list", "--status", ""}, "available|withdrawn|blocked"},
		"orders":               {[]string{"status", "--sort", ""}, "id|state|since"},
		"rows":                 {[]string{"history", "mixed", "--by", ""}, "cluster|edge|week|all"},
		"lines":                {[]string{"history", "adoption", "--line", ""}, "gateway|sra|ztwa"},
		"formats":              {[]string{"status", "-o", ""}, "table|wide|json|yaml|name"},
		"roles":                {[]string{"token", "create", "--role", ""}, "viewer|operator|approver|admin"},
		"nothing for a server": {[]string{"server", "--log-level", ""}, "debug|info|warn|error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := cli.Options{Env: env("LOCKSTEP_SERVER_URL", f.url, "LOCKSTEP_TOKEN_FILE", f.token, "LOCKSTEP_CONFIG", config)}
			got := execute(t.Context(), o, append([]string{"__complete"}, tc.args...)...)
			if got.code != 0 || offered(got) != tc.want {
				t.Errorf("offered %q, want %q\n%s", offered(got), tc.want, got.err)
			}
		})
	}
}

func TestCompletionWithoutAServer(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() })
	token, config := file(t, "token", "right"), file(t, "fleet.yaml", "releases: [{id: 5.2.0}]\n")
	for name, tc := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"no token": {nil, []string{"status", ""}, ""},
		"mute":     {[]string{"LOCKSTEP_SERVER_URL", "http://" + mute.Addr().String(), "LOCKSTEP_TOKEN_FILE", token}, []string{"status", ""}, ""},
		"mute, with releases of the file": {
			[]string{"LOCKSTEP_SERVER_URL", "http://" + mute.Addr().String(), "LOCKSTEP_TOKEN_FILE", token, "LOCKSTEP_CONFIG", config},
			[]string{"rollout", "plan", "-r", ""}, "5.2.0\tdeclared",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			got := execute(ctx, cli.Options{Env: env(tc.env...)}, append([]string{"__complete"}, tc.args...)...)
			if got.code != 0 || offered(got) != tc.want || ctx.Err() != nil {
				t.Errorf("offered %q, want %q; %v", offered(got), tc.want, ctx.Err())
			}
		})
	}
}
