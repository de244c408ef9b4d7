package rpc_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect/v2"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

func TestOnlyTheRightTokenIsLetIn(t *testing.T) {
	t.Parallel()
	called := make(chan string, 10)
	url, _ := serve(t, rpc.Options{}, unary(say(), func(_ context.Context, text string) (string, error) { called <- text; return text, nil }))
	for _, header := range []string{
		"", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + viewer + "x", "Bearer " + viewer[:5], "Basic " + viewer, viewer,
		"Bearer " + rpc.HashToken(viewer), "Bearer  " + viewer, "Bearer " + viewer + " " + viewer,
	} {
		for _, d := range dialects() {
			_, err := ask(t, d.client(t, url, header), say(), "hello")
			refused(t, d.name+", "+header, err, connect.CodeUnauthenticated, "LS-API-004", "admin.token")
			if strings.Contains(fmt.Sprint(err), viewer) {
				t.Errorf("%q: the answer tells the token: %v", header, err)
			}
		}
	}
	if len(called) != 0 {
		t.Error("the handler was called without the token")
	}
	// The scheme's case does not matter (RFC 9110, section 11.1), the token's does.
	for _, scheme := range []string{"Bearer ", "bearer "} {
		if got, err := call(t, url, scheme+viewer, "hello"); err != nil || got != "hello" {
			t.Errorf("%q and the right token: %q, %v", scheme, got, err)
		}
	}
}

func TestAStrangerLearnsNothing(t *testing.T) {
	t.Parallel()
	url, log := serve(t, rpc.Options{}, unary(say(), echo), unary(look(), echo))
	for _, path := range []string{"/", "/anything", say().Procedure, look().Procedure, "/test.v1.EchoService/Nothing", "/test.v1.NoService/Say"} {
		for header, challenge := range map[string]string{
			"":                 `Bearer realm="lockstep"`,
			"Bearer lst_guess": `Bearer realm="lockstep", error="invalid_token"`,
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", header)
			res, err := carrier(t, false).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") != challenge {
				t.Errorf("%s: %d, %q, %v", path, res.StatusCode, res.Header.Get("WWW-Authenticate"), err)
			}
			// A browser is refused in plain words.
			if !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") || !strings.HasPrefix(string(body), "LS-API-004: ") {
				t.Errorf("%s: %s: %s", path, res.Header.Get("Content-Type"), body)
			}
		}
	}
	if n := strings.Count(log.String(), "catalogue_id=LS-API-004"); n != 12 || strings.Contains(log.String(), "lst_guess") {
		t.Errorf("%d refusals are in the log, want 12: %s", n, log)
	}
}

func TestTheHandlerKnowsWhoCalls(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{}, unary(say(), func(ctx context.Context, _ string) (string, error) {
		who, ok := rpc.PrincipalFrom(ctx)
		return fmt.Sprint(who, ok), nil
	}))
	for token, want := range map[string]string{viewer: "{the viewer viewer acme} true", admin: "{the admin admin acme} true"} {
		if got, err := call(t, url, "Bearer "+token, ""); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", token, got, err, want)
		}
	}
	if who, ok := rpc.PrincipalFrom(t.Context()); ok || who != (rpc.Principal{}) {
		t.Errorf("outside of a call: %v", who)
	}
}

func TestARoleIsNeeded(t *testing.T) {
	t.Parallel()
	all := []string{viewer, operator, approver, admin}
	for at, needed := range []rpc.Role{rpc.Viewer, rpc.Operator, rpc.Approver, rpc.Admin} {
		called := make(chan string, len(all))
		url, log := serve(t, rpc.Options{Needs: func(procedure string) (rpc.Role, bool) { return needed, procedure == say().Procedure }},
			unary(say(), func(_ context.Context, text string) (string, error) { called <- text; return text, nil }))
		for i, token := range all {
			_, err := call(t, url, "Bearer "+token, token)
			if i >= at {
				if err != nil {
					t.Errorf("%s is needed: %s: %v", needed, token, err)
				}
				// Reading is no news; who did more than that is asked later.
				line := fmt.Sprintf(`msg="a call was carried out" procedure=%s principal="the %s"`, say().Procedure, strings.TrimPrefix(token, "lst_"))
				if told := strings.Contains(log.String(), line); told != (needed > rpc.Viewer) {
					t.Errorf("%s is needed, %s calls: the log says %s", needed, token, log)
				}
				continue
			}
			had := strings.TrimPrefix(token, "lst_")
			refused(t, token, err, connect.CodePermissionDenied, "LS-API-007",
				fmt.Sprintf("%s needs the role %s, and the %s has the role %s", say().Procedure, needed, had, had))
			if !strings.Contains(log.String(), `principal="the `+had+`"`) {
				t.Errorf("the log says %s", log)
			}
		}
		if len(called) != len(all)-at {
			t.Errorf("%s is needed: %d calls arrived", needed, len(called))
		}
	}
}

func TestAProcedureWithoutARoleIsOpenToNobody(t *testing.T) {
	t.Parallel()
	for name, needs := range map[string]func(string) (rpc.Role, bool){
		"it is not known":      func(string) (rpc.Role, bool) { return rpc.Viewer, false },
		"the role is no role":  func(string) (rpc.Role, bool) { return 0, true },
		"the role is too high": func(string) (rpc.Role, bool) { return rpc.Admin + 1, true },
	} {
		url, _ := serve(t, rpc.Options{Needs: needs}, unary(say(), func(context.Context, string) (string, error) {
			t.Error("the handler was called")
			return "", nil
		}))
		if _, err := call(t, url, "Bearer "+admin, ""); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	url, _ := serve(t, rpc.Options{Needs: func(string) (rpc.Role, bool) { return 0, false }}, unary(say(), echo))
	_, err := call(t, url, "Bearer "+admin, "")
	refused(t, "an admin", err, connect.CodePermissionDenied, "LS-API-006", say().Procedure+" is open to nobody")
}

func TestARoleIncludesThoseBeforeIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		has, needed := rpc.Role(rapid.IntRange(-2, 7).Draw(t, "has")), rpc.Role(rapid.IntRange(-2, 7).Draw(t, "needed"))
		known := func(r rpc.Role) bool { return r >= rpc.Viewer && r <= rpc.Admin }
		if got, want := has.Includes(needed), known(has) && known(needed) && has >= needed; got != want {
			t.Errorf("%d includes %d: %t", has, needed, got)
		}
		parsed, err := rpc.ParseRole(has.String())
		if (err == nil) != known(has) || err == nil && parsed != has {
			t.Errorf("%d is %q, which is %d, %v", has, has, parsed, err)
		}
	})
	if _, err := rpc.ParseRole("Viewer"); err == nil || !strings.Contains(err.Error(), `"Viewer" is not a role; the roles are viewer, operator, approver, admin`) {
		t.Errorf("got %v", err)
	}
}

func TestATokenIsNewEveryTime(t *testing.T) {
	t.Parallel()
	seen := make(map[string]bool)
	for range 1000 {
		token := rpc.NewToken()
		if seen[token] || !strings.HasPrefix(token, "lst_") || len(token) < 26 {
			t.Fatalf("%q", token)
		}
		seen[token] = true
	}
	// As `printf lst_viewer | sha256sum` says.
	if got, want := rpc.HashToken(viewer), "sha256:4fa4257b71f8b61cd15d48cdf389e833b823af0d29077b080c4de2fab5e0a407"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAWrongListOfTokensIsRefused(t *testing.T) {
	t.Parallel()
	good := rpc.Token{Hash: rpc.HashToken("lst_a"), Principal: rpc.Principal{Name: "a", Role: rpc.Viewer}}
	const noHash = `the hash of token "b" is not one; it is 64 hexadecimal digits`
	for _, c := range []struct {
		change func(*rpc.Token)
		want   string
	}{
		{func(b *rpc.Token) { b.Name = "" }, "token 2 has no name"},
		{func(b *rpc.Token) { b.Name = "a" }, `two tokens are named "a"`},
		{func(b *rpc.Token) { b.Role = 0 }, `token "b" has no role`},
		{func(b *rpc.Token) { b.Hash = "sha256:" + strings.ToUpper(good.Hash[7:]) }, `"a" and "b" are the same token`},
		{func(b *rpc.Token) { b.Hash = good.Hash[7:] }, `"a" and "b" are the same token`},
		{func(b *rpc.Token) { b.Hash = rpc.HashToken("") }, `the hash of token "b" is that of nothing`},
		{func(b *rpc.Token) { b.Hash = "md5:" + b.Hash[7:] }, noHash},
		{func(b *rpc.Token) { b.Hash = b.Hash[:len(b.Hash)-2] }, noHash},
		{func(b *rpc.Token) { b.Hash += "00" }, noHash},
		{func(b *rpc.Token) { b.Hash = "sha256:" + strings.Repeat("xy", 32) }, noHash},
		{func(b *rpc.Token) { b.Hash = "lst_b" }, noHash},
		{func(b *rpc.Token) { b.Hash = "" }, noHash},
	} {
		b := rpc.Token{Hash: rpc.HashToken("lst_b"), Principal: rpc.Principal{Name: "b", Role: rpc.Admin}}
		if _, err := rpc.NewTokens(good, b); err != nil {
			t.Fatal(err)
		}
		c.change(&b)
		_, err := rpc.NewTokens(good, b)
		if errs.KindOf(err) != errs.Invalid || errs.IDOf(err) != "LS-API-015" || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
		if strings.Contains(fmt.Sprint(err), "lst_") {
			t.Errorf("the error tells what stood there, which may be a token: %v", err)
		}
	}
}

func TestWithoutTokensNobodyIsLetIn(t *testing.T) {
	t.Parallel()
	none, err := rpc.NewTokens()
	if err != nil {
		t.Fatal(err)
	}
	url, _ := serve(t, rpc.Options{Auth: none}, unary(say(), echo))
	for _, header := range []string{"", "Bearer ", "Bearer " + viewer} {
		if _, err := call(t, url, header, ""); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%q: %v", header, err)
		}
	}
}
