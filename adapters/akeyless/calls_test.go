package akeyless_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestRegistrations(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{Now: func() time.Time { return noon }})
	client := newClient(t, server.URL(), func(o *akeyless.Options) { o.Now = func() time.Time { return noon } })
	for _, c := range []akeylesstest.Cluster{
		{Name: "a/west", LastReport: noon, Instances: []akeylesstest.Instance{{ID: "i"}}},
		{Name: "a/east", LastReport: noon, Status: "Stopped"},
		{Name: "a/alien", LastReport: noon},
	} {
		server.SetCluster(c)
	}
	clusters := map[string]fleet.ClusterID{"a/west": "west", "a/east": "east", "a/unknown": "unknown"}
	read := func() []fleet.Registration {
		got, err := client.Registrations(t.Context(), clusters)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := []fleet.Registration{
		{Cluster: "west", ObservedAt: noon, LastReport: noon, Bastions: []fleet.Bastion{{ID: "i"}}, Gateways: []fleet.RegisteredGateway{{Name: "a/west", Status: "Running"}}},
		{Cluster: "east", ObservedAt: noon, LastReport: noon, Gateways: []fleet.RegisteredGateway{{Name: "a/east", Status: "Stopped"}}},
		{Cluster: "unknown", ObservedAt: noon}, // that it is not there is seen too
	}
	if diff := cmp.Diff(want, read()); diff != "" {
		t.Errorf("registrations (-want +got):\n%s", diff)
	}
	server.Forbid("list-gateways", true)
	for _, r := range read() {
		if len(r.Gateways) > 0 {
			t.Errorf("gateways although they may not be listed: %+v", r)
		}
	}
	server.Forbid("list-gateways", false)
	for status, said := range map[int]string{500: "internal", 502: "bad gateway", 401: "unauthenticated"} {
		// The list of bastions passes, and that of gateways never does.
		broken := newClient(t, "http://127.0.0.1", through(script{
			"auth":              func(string) (int, string) { return 200, `{"token":"t-12345","expiration":"2099-01-01T00:00:00Z"}` },
			"list-sra-bastions": func(string) (int, string) { return 200, `{"clusters":[{"cluster_name":"a/west"}]}` },
			"list-gateways":     func(string) (int, string) { return status, `{"error":"` + said + `"}` },
		}))
		if got, err := broken.Registrations(t.Context(), clusters); err == nil {
			t.Errorf("HTTP %d for the gateways takes them away: %+v", status, got)
		}
	}
	server.Forbid("list-sra-bastions", true)
	if got, err := client.Registrations(t.Context(), clusters); err == nil {
		t.Errorf("no bastions may be listed, and got %+v", got)
	}
	server.Forbid("list-sra-bastions", false)
	calls := server.Requests()["list-sra-bastions"]
	if _, err := client.ListGateways(t.Context()); err != nil || server.Requests()["list-sra-bastions"] != calls {
		t.Errorf("list gateways: %v", err)
	}
	if broken := server.Violations(); len(broken) > 0 {
		t.Errorf("requests broke the schema: %q", broken)
	}
}

func TestPermissions(t *testing.T) {
	t.Parallel()
	clusters := []string{"a/east", "a/gone", "a/west"}
	failed := func(p akeyless.Permissions) (calls []string) {
		for _, c := range p.Calls {
			if c.Err != nil {
				calls = append(calls, c.Call)
			}
		}
		return calls
	}
	for name, tc := range map[string]struct {
		spoil                   func(*akeylesstest.Server)
		failed, unseen, unknown []string
		lacks                   string
		calls                   int
	}{
		"all is well":           {nil, nil, []string{"a/gone"}, []string{"a/gone"}, "sra-reports-access=all", 4},
		"own sessions only":     {func(s *akeylesstest.Server) { s.SetScope(akeylesstest.AccessID, akeylesstest.ScopeOwn) }, nil, clusters, []string{"a/gone"}, "sra-reports-access=all", 4},
		"one gateway's":         {func(s *akeylesstest.Server) { s.SetScope(akeylesstest.AccessID, akeylesstest.ScopeGateways, "a/west") }, nil, []string{"a/east", "a/gone"}, []string{"a/gone"}, "sra-reports-access=all", 4},
		"no gateways":           {func(s *akeylesstest.Server) { s.Forbid("list-gateways", true) }, []string{"list-gateways"}, []string{"a/gone"}, nil, "sra-reports-access=all", 4},
		"no bastions":           {func(s *akeylesstest.Server) { s.Forbid("list-sra-bastions", true) }, []string{"list-sra-bastions"}, []string{"a/gone"}, nil, "sra-reports-access=all", 4},
		"no sessions":           {func(s *akeylesstest.Server) { s.Forbid("list-sra-sessions", true) }, []string{"list-sra-sessions"}, nil, []string{"a/gone"}, "sra-reports-access=all", 4},
		"a fault":               {func(s *akeylesstest.Server) { s.RespondError(100, 500, "internal") }, []string{"auth"}, nil, nil, "", 1},
		"credentials are wrong": {func(s *akeylesstest.Server) { s.SetSecret(akeylesstest.AccessID, "another") }, []string{"auth"}, nil, nil, "", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := startServer(t, akeylesstest.Options{Now: func() time.Time { return noon }})
			server.SetCluster(akeylesstest.Cluster{Name: "a/west"})
			server.SetCluster(akeylesstest.Cluster{Name: "a/east"})
			if tc.spoil != nil {
				tc.spoil(server)
			}
			client := newClient(t, server.URL(), func(o *akeyless.Options) { o.Now = func() time.Time { return noon.Add(time.Hour) } })
			p := client.Permissions(t.Context(), clusters)
			if got := failed(p); !slices.Equal(got, tc.failed) || len(p.Calls) != tc.calls {
				t.Errorf("of %d calls failed %v, want %v of %d", len(p.Calls), got, tc.failed, tc.calls)
			}
			if !slices.Equal(p.Unseen, tc.unseen) || !slices.Equal(p.Unknown, tc.unknown) || p.Lacks() != tc.lacks {
				t.Errorf("unseen %v, unknown %v, lacks %q; want %v, %v, %q", p.Unseen, p.Unknown, p.Lacks(), tc.unseen, tc.unknown, tc.lacks)
			}
			if tc.calls > 1 && (p.Skew+time.Hour).Abs() > time.Second {
				t.Errorf("the server's clock is said to be %s ahead, want an hour behind", p.Skew)
			}
		})
	}
}

// TestAFaultLacksNothing has the vendor fail where a right could be missing.
func TestAFaultLacksNothing(t *testing.T) {
	t.Parallel()
	for status, lacks := range map[int]string{500: "", 403: "sra-reports-access=all"} {
		client := newClient(t, "http://127.0.0.1", through(script{
			"auth":              func(string) (int, string) { return 200, `{"token":"t-12345","expiration":"2099-01-01T00:00:00Z"}` },
			"list-sra-bastions": func(string) (int, string) { return 200, `{"clusters":[]}` },
			"list-gateways":     func(string) (int, string) { return 200, `{"clusters":[]}` },
			"list-sra-sessions": func(string) (int, string) { return status, `{"error":"no"}` },
		}))
		p := client.Permissions(t.Context(), nil)
		if got := p.Lacks(); got != lacks || len(p.Calls) != 4 || p.Calls[3].Err == nil {
			t.Errorf("HTTP %d for the sessions: lacks %q, want %q; calls %+v", status, got, lacks, p.Calls)
		}
	}
}

func TestRemoteAccess(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{})
	legacy := true
	set := func(change func(*akeylesstest.RemoteAccess)) fleet.RemoteAccess {
		t.Helper()
		r := &akeylesstest.RemoteAccess{LegacySigning: &legacy, KexAlgorithms: "curve25519-sha256@libssh.org, ecdh-sha2-nistp256", TTLMinutes: 90, Storage: "aws", Forwarding: "splunk"}
		change(r)
		server.SetCluster(akeylesstest.Cluster{Name: "a/west", RemoteAccess: r})
		got, err := newClient(t, server.GatewayURL("a/west")).RemoteAccess(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		said := fmt.Sprintf("%+v", got)
		for _, secret := range append(akeylesstest.PlantedSecrets(), r.StorageSecret) {
			if secret != "" && strings.Contains(said, secret) {
				t.Errorf("%q is told in %s", secret, said)
			}
		}
		return got
	}
	first := set(func(*akeylesstest.RemoteAccess) {})
	want := fleet.RemoteAccess{
		Hash: first.Hash, LegacySigning: &legacy, KexAlgorithms: "curve25519-sha256@libssh.org,ecdh-sha2-nistp256",
		SessionTTL: 90 * time.Minute, RecordingStorage: "aws", LogForwarding: "splunk",
	}
	if diff := cmp.Diff(want, first); diff != "" || !strings.HasPrefix(first.Hash, "sha256:") || len(first.Hash) != len("sha256:")+64 {
		t.Errorf("remote access %q (-want +got):\n%s", first.Hash, diff)
	}
	if again := set(func(*akeylesstest.RemoteAccess) {}); again.Hash != first.Hash {
		t.Error("the hash changes with nothing")
	}
	if other := set(func(r *akeylesstest.RemoteAccess) { r.StorageSecret = "another-secret" }); other.Hash == first.Hash {
		t.Error("the hash does not change with a credential")
	}
	bare := set(func(r *akeylesstest.RemoteAccess) { *r = akeylesstest.RemoteAccess{} })
	if diff := cmp.Diff(fleet.RemoteAccess{Hash: bare.Hash}, bare); diff != "" {
		t.Errorf("of a gateway that says nothing (-want +got):\n%s", diff)
	}
	if broken := server.Violations(); len(broken) > 0 {
		t.Errorf("requests broke the schema: %q", broken)
	}
}

// TestRemoteAccessTellsNoCredential plants one in every value of the answer, its
// own numbers and keys included, and in every way the answer can be wrong.
func TestRemoteAccessTellsNoCredential(t *testing.T) {
	t.Parallel()
	const hush, number = "S3cr3t/HUSH+value", "31415926535"
	everywhere := map[string]any{}
	for part, keys := range map[string][]string{
		"global": {"legacy_signing_alg", "default_session_ttl_minutes"}, "ssh_bastion": {"kexalgs", "hide_session_recording"},
		"web_bastion": {"guacamole"}, "desktop_app": {"secure_web_access_url"}, hush: {hush},
	} {
		values := map[string]any{hush: hush}
		for _, key := range keys {
			values[key] = hush
		}
		everywhere[part] = values
	}
	ssh, web := maps.Clone(everywhere["ssh_bastion"].(map[string]any)), maps.Clone(everywhere["web_bastion"].(map[string]any))
	ssh["log_forwarding"] = map[string]any{"target_log_type": hush, "splunk_config": map[string]any{"splunk_token": hush}}
	web["rdp_record"] = map[string]any{"storage_type": hush, "encryption_key": hush, "aws": map[string]any{"access_key_secret": hush}}
	everywhere["ssh_bastion"], everywhere["web_bastion"] = ssh, web
	planted, err := json.Marshal(everywhere)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		status int
		answer string
		fails  bool
	}{
		"as it should be":       {200, string(planted), false},
		"cut short":             {200, string(planted[:len(planted)-5]), true},
		"another type":          {200, `{"global":` + number + `}`, true},
		"a type within":         {200, `{"ssh_bastion":{"kexalgs":["` + hush + `"],"log_forwarding":` + number + `}}`, true},
		"not JSON":              {200, hush, true},
		"not an object":         {200, `["` + hush + `"]`, true},
		"refused with words":    {403, `{"error":"` + hush + ` ` + number + `"}`, true},
		"refused with more":     {400, string(planted), true},
		"a fault with words":    {500, hush, true},
		"limited":               {429, `{"error":"` + hush + `"}`, true},
		"rejected, unfamiliar":  {401, `{"error":{"a":"` + hush + `"}}`, true},
		"control and the rest":  {200, "{\"global\":\x00" + hush, true},
		"unknown and the known": {200, `{"` + hush + `":1,"global":{"` + hush + `":2}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var logged bytes.Buffer
			client := newClient(t, "http://127.0.0.1", through(script{
				"auth":                      func(string) (int, string) { return 200, `{"token":"t-12345"}` },
				"validate-token":            func(string) (int, string) { return 200, `{"ttl":60}` },
				"gateway-get-remote-access": func(string) (int, string) { return tc.status, tc.answer },
			}), func(o *akeyless.Options) {
				o.MaxWait, o.Log = time.Millisecond, slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			got, err := client.RemoteAccess(t.Context())
			if (err != nil) != tc.fails {
				t.Fatalf("got %+v, %v", got, err)
			}
			said := fmt.Sprintf("%+v %v %+v %#v %s %s", got, err, err, err, everyText(err), logged.String())
			for _, part := range []string{"S3cr3t", "HUSH", number} {
				if strings.Contains(said, part) {
					t.Errorf("%q is told in: %s", part, said)
				}
			}
			if !tc.fails && name == "as it should be" && (got.RecordingStorage != "unfamiliar" || got.LogForwarding != "unfamiliar" || got.KexAlgorithms != "unfamiliar") {
				t.Errorf("got %+v", got)
			}
		})
	}
	t.Run("by the command line", func(t *testing.T) {
		t.Parallel()
		_, err := command(t, `echo "`+hush+`" >&2; exit 3`).RemoteAccess(t.Context())
		wantKind(t, err, akeyless.KindCommand, "exit code 3")
		_, other := command(t, `echo '{"global":`+number+`}'`).RemoteAccess(t.Context())
		wantKind(t, other, akeyless.KindMalformed)
		if said := fmt.Sprintf("%#v %s %#v %s", err, everyText(err), other, everyText(other)); strings.Contains(said, hush) || strings.Contains(said, number) {
			t.Errorf("told in: %s", said)
		}
	})
}

// everyText is the text of an error and of all that it wraps.
func everyText(err error) string {
	switch e := err.(type) { //nolint:errorlint // each error of the tree is looked at by itself
	case nil:
		return ""
	case interface{ Unwrap() error }:
		return err.Error() + "\n" + everyText(e.Unwrap())
	case interface{ Unwrap() []error }:
		said := err.Error()
		for _, one := range e.Unwrap() {
			said += "\n" + everyText(one)
		}
		return said
	}
	return err.Error()
}
