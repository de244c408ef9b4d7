package cli_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

// TestTokenCreate puts the lines it says to add into a configuration.
func TestTokenCreate(t *testing.T) {
	t.Parallel()
	got := runWith(t, t.Context(), "", "token", "create", "--name", "null", "--role", "operator")
	got.wants(t, 0, "This token is shown once.")
	token := strings.TrimSpace(got.out)
	if token == "" || strings.Contains(got.err, token) || strings.Count(got.out, "\n") != 1 {
		t.Fatalf("printed %q and said %s", got.out, got.err)
	}
	_, lines, _ := strings.Cut(got.err, "\n\n")
	file, err := fleetfile.Load(file(t, "fleet.yaml", lines), env("HOME", "/h"))
	if err != nil {
		t.Fatalf("%v in %s", err, lines)
	}
	want := fleetfile.Token{Name: "null", Role: "operator", Tenant: "default", SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(token)))}
	if len(file.Access.Tokens) != 1 || file.Access.Tokens[0] != want {
		t.Errorf("the lines declare %+v, want %+v", file.Access.Tokens, want)
	}
	who := rpc.Token{Hash: file.Access.Tokens[0].Hash(), Principal: rpc.Principal{Name: "ci", Role: rpc.Operator}}
	known, err := rpc.NewTokens(who)
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
	request.Header.Set("Authorization", "Bearer "+token)
	if got, err := known.Authenticate(request); err != nil || got != who.Principal {
		t.Errorf("a server takes it for %+v, %v", got, err)
	}
	if again := runWith(t, t.Context(), "", "token", "create", "--name", "null", "--role", "viewer"); again.out == got.out {
		t.Error("the same token again")
	}
}

func TestTokenCreateRefuses(t *testing.T) {
	t.Parallel()
	got := runWith(t, t.Context(), "", "token", "create", "--name", "C I", "--role", "root", "--tenant", "")
	got.wants(t, 2, `--name: "C I" is not a name`)
	got.wants(t, 2, `--role: "root" is none of viewer, operator, approver, admin`)
	got.wants(t, 2, `--tenant: there is no tenant ""; only one exists so far, default`)
	if got.out != "" {
		t.Errorf("it made %s", got.out)
	}
	runWith(t, t.Context(), "", "token", "create").wants(t, 2, "--role: missing; use one of")
	runWith(t, t.Context(), "", "token", "create", "--name", "ci", "--role", "viewer", "--tenant", "acme").wants(t, 2, `--tenant: there is no tenant "acme"`)
	runWith(t, t.Context(), "", "token", "create", "--name", "admin", "--role", "viewer").wants(t, 2, "--name: admin is whoever holds admin.token")
}
