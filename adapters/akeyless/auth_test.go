package akeyless_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// staticAWS gives the same AWS credentials each time.
type staticAWS struct {
	secret, session string
	err             error
}

func (s staticAWS) Retrieve(context.Context) (aws.Credentials, error) {
	return aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: s.secret, SessionToken: s.session}, s.err
}

func wantID(t *testing.T, err error, id string, parts ...string) {
	t.Helper()
	if errs.IDOf(err) != id {
		t.Fatalf("error has the id %q, want %q: %v", errs.IDOf(err), id, err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q: %v", part, err)
		}
	}
}

// TestRejectedNamesTheRightSecret has each access type rejected.
func TestRejectedNamesTheRightSecret(t *testing.T) {
	t.Parallel()
	file := secretFile(t, "not-accepted")
	for _, tc := range []struct {
		auth  akeyless.Auth
		parts string
	}{
		{akeyless.Auth{AccessID: "p", KeyFile: file}, "the access id, the key file (vendor.access_key_file) and"},
		{akeyless.Auth{Type: akeyless.JWT, AccessID: "p", JWTFile: file}, "vendor.jwt_file"},
		{akeyless.Auth{Type: akeyless.OIDC, AccessID: "p", JWTFile: file}, "vendor.jwt_file"},
		{akeyless.Auth{Type: akeyless.Kubernetes, AccessID: "p", K8sAuthConfig: "c", K8sTokenFile: file}, "vendor.k8s_token_file"},
		{akeyless.Auth{Type: akeyless.UniversalIdentity, UIDTokenFile: file}, "vendor.uid_token_file"},
		{akeyless.Auth{Type: akeyless.AWSIAM, AccessID: "p", AWS: staticAWS{secret: "not-accepted"}}, "AWS role"},
	} {
		client := newClient(t, "http://127.0.0.1", through(script{
			"auth": func(string) (int, string) { return 401, `{"error":"no"}` },
		}), func(o *akeyless.Options) { o.Auth = tc.auth })
		_, err := client.ListBastions(t.Context())
		wantKind(t, err, akeyless.KindRejected, tc.parts)
		if tc.auth.KeyFile == "" && strings.Contains(err.Error(), "key file") {
			t.Errorf("%s has no key file: %v", tc.auth.Type, err)
		}
	}
}

func TestEveryAccessType(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{
		Now: func() time.Time { return noon },
		Credentials: []akeylesstest.Credential{
			{AccessID: "p-k8s", Type: akeylesstest.AuthK8s, Secret: "k8s.token", K8sConfig: "prod"},
			{AccessID: "p-jwt", Type: akeylesstest.AuthJWT, Secret: "jwt.token"},
			{AccessID: "p-oidc", Type: akeylesstest.AuthOIDC, Secret: "oidc.token"},
			{AccessID: "p-aws", Type: akeylesstest.AuthAWSIAM, Secret: "aws-secret", AWSAccessKeyID: "AKIDEXAMPLE"},
			{AccessID: "p-uid", Type: akeylesstest.AuthUniversalIdentity, Secret: "u-token"},
		},
	})
	for name, auth := range map[string]akeyless.Auth{
		"access_key, said":   {Type: akeyless.AccessKey, AccessID: akeylesstest.AccessID, KeyFile: secretFile(t, akeylesstest.AccessKey)},
		"access_key, unsaid": {AccessID: akeylesstest.AccessID, KeyFile: secretFile(t, " "+akeylesstest.AccessKey+"\r\n")},
		"k8s":                {Type: akeyless.Kubernetes, AccessID: "p-k8s", K8sAuthConfig: "prod", K8sTokenFile: secretFile(t, "k8s.token\n"), GatewayURL: "https://gateway.example:8000"},
		"jwt":                {Type: akeyless.JWT, AccessID: "p-jwt", JWTFile: secretFile(t, "jwt.token")},
		"oidc":               {Type: akeyless.OIDC, AccessID: "p-oidc", JWTFile: secretFile(t, "oidc.token")},
		"aws_iam":            {Type: akeyless.AWSIAM, AccessID: "p-aws", AWS: staticAWS{secret: "aws-secret", session: "session"}},
		"uid, with an id":    {Type: akeyless.UniversalIdentity, AccessID: "p-uid", UIDTokenFile: secretFile(t, "u-token\n")},
		"uid, without":       {Type: akeyless.UniversalIdentity, UIDTokenFile: secretFile(t, "u-token\n")},
	} {
		client := newClient(t, server.URL(), func(o *akeyless.Options) {
			o.Auth, o.Now = auth, func() time.Time { return noon }
		})
		if _, err := client.ListBastions(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	wrong := newClient(t, server.URL(), func(o *akeyless.Options) {
		o.Auth = akeyless.Auth{Type: akeyless.AWSIAM, AccessID: "p-aws", AWS: staticAWS{secret: "another"}}
		o.Now = func() time.Time { return noon }
	})
	if _, err := wrong.ListBastions(t.Context()); akeyless.KindOf(err) != akeyless.KindRejected {
		t.Errorf("a wrong AWS identity got %v", err)
	}
	if broken := server.Violations(); len(broken) > 0 {
		t.Errorf("requests broke the schema: %q", broken)
	}
}

// TestAWSCredentialsFromTheEnvironment goes AWS's own way to credentials. It sets
// the environment, so it runs alone.
func TestAWSCredentialsFromTheEnvironment(t *testing.T) {
	for key, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "aws-secret", "AWS_SESSION_TOKEN": "",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(key, value)
	}
	server := startServer(t, akeylesstest.Options{Credentials: []akeylesstest.Credential{
		{AccessID: "p-aws", Type: akeylesstest.AuthAWSIAM, Secret: "aws-secret", AWSAccessKeyID: "AKIDEXAMPLE"},
	}})
	auth := func(o *akeyless.Options) { o.Auth = akeyless.Auth{Type: akeyless.AWSIAM, AccessID: "p-aws"} }
	if _, err := newClient(t, server.URL(), auth).ListBastions(t.Context()); err != nil {
		t.Error(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	_, err := newClient(t, server.URL(), auth).ListBastions(t.Context())
	wantID(t, err, "LS-VEN-013", "vendor.access_type")
}

func TestAuthIsChecked(t *testing.T) {
	t.Parallel()
	key := secretFile(t, "k")
	for name, tc := range map[string]struct {
		auth  akeyless.Auth
		id    string
		parts []string
	}{
		"nothing":           {akeyless.Auth{}, "LS-VEN-014", []string{"vendor.access_id"}},
		"no key":            {akeyless.Auth{AccessID: "p"}, "LS-VEN-014", []string{"vendor.access_key_file"}},
		"no JWT":            {akeyless.Auth{Type: akeyless.JWT, AccessID: "p", KeyFile: key}, "LS-VEN-014", []string{"vendor.jwt_file"}},
		"no OIDC token":     {akeyless.Auth{Type: akeyless.OIDC, AccessID: "p"}, "LS-VEN-014", []string{"vendor.jwt_file"}},
		"no uid token":      {akeyless.Auth{Type: akeyless.UniversalIdentity}, "LS-VEN-014", []string{"vendor.uid_token_file"}},
		"no k8s config":     {akeyless.Auth{Type: akeyless.Kubernetes, AccessID: "p", K8sTokenFile: key}, "LS-VEN-014", []string{"vendor.k8s_auth_config"}},
		"not in a pod":      {akeyless.Auth{Type: akeyless.Kubernetes, AccessID: "p", K8sAuthConfig: "c"}, "LS-VEN-008", []string{"vendor.k8s_token_file", "/var/run/secrets/kubernetes.io/serviceaccount/token"}},
		"no such file":      {akeyless.Auth{AccessID: "p", KeyFile: key + "-gone"}, "LS-VEN-008", []string{"vendor.access_key_file", key + "-gone"}},
		"a folder":          {akeyless.Auth{AccessID: "p", KeyFile: t.TempDir()}, "LS-VEN-008", []string{"vendor.access_key_file"}},
		"empty":             {akeyless.Auth{AccessID: "p", KeyFile: secretFile(t, " \n")}, "LS-VEN-008", []string{"vendor.access_key_file", "is empty"}},
		"endless":           {akeyless.Auth{AccessID: "p", KeyFile: "/dev/zero"}, "LS-VEN-008", []string{"vendor.access_key_file", "/dev/zero"}},
		"of another kind":   {akeyless.Auth{Type: "azure_ad", AccessID: "p"}, "LS-VEN-009", []string{`"azure_ad" is not supported yet`, "access_key, k8s, jwt, oidc, aws_iam or universal_identity"}},
		"misspelt":          {akeyless.Auth{Type: "acces_key", AccessID: "p", KeyFile: key}, "LS-VEN-009", nil},
		"with AWS, no type": {akeyless.Auth{AccessID: "p", AWS: staticAWS{}}, "LS-VEN-014", nil},
	} {
		_, err := akeyless.New(akeyless.Options{BaseURL: "https://h", Auth: tc.auth})
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantID(t, err, tc.id, tc.parts...)
		})
	}
	for _, other := range []akeyless.AccessType{"gcp", "cert", "saml", "ldap", "password", "kerberos", "oci"} {
		_, err := akeyless.New(akeyless.Options{BaseURL: "https://h", Auth: akeyless.Auth{Type: other, AccessID: "p", KeyFile: key}})
		wantID(t, err, "LS-VEN-009")
	}
}

func TestSecretsRotate(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{Credentials: []akeylesstest.Credential{
		{AccessID: "p-uid", Type: akeylesstest.AuthUniversalIdentity, Secret: "u-old"},
	}})
	file := secretFile(t, "u-old")
	client := newClient(t, server.URL(), func(o *akeyless.Options) {
		o.Auth = akeyless.Auth{Type: akeyless.UniversalIdentity, AccessID: "p-uid", UIDTokenFile: file}
	})
	list := func() error {
		server.ExpireTokens()
		_, err := client.ListBastions(t.Context())
		return err
	}
	if err := list(); err != nil {
		t.Fatal(err)
	}
	server.SetSecret("p-uid", "u-new")
	if err := list(); akeyless.KindOf(err) != akeyless.KindRejected {
		t.Errorf("with the old secret: %v", err)
	}
	if err := os.WriteFile(file, []byte("u-new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := list(); err != nil {
		t.Errorf("with the new secret: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wantID(t, list(), "LS-VEN-008", "vendor.uid_token_file")
}

// script is a vendor of a few lines: what each call answers, by name.
type script map[string]func(body string) (status int, answer string)

func (s script) RoundTrip(r *http.Request) (*http.Response, error) {
	return answering(func(r *http.Request, body string) (int, string, string) {
		_, call, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if call == "" {
			call = strings.TrimPrefix(r.URL.Path, "/")
		}
		answer, known := s[call]
		if !known {
			return 404, "application/json", `{"error":"no such call"}`
		}
		status, text := answer(body)
		return status, "application/json", text
	}).RoundTrip(r)
}

func TestTokenIsRenewedAheadOfItsEnd(t *testing.T) {
	t.Parallel()
	const life = time.Hour
	for name, tc := range map[string]struct {
		said, valid string // by /auth and by /validate-token
		asked       int    // times that /validate-token is asked
		renewed     bool
	}{
		"RFC 3339":            {`"2026-03-01T13:00:00Z"`, `{}`, 0, true},
		"another zone":        {`"2026-03-01T15:00:00.5+02:00"`, `{}`, 0, true},
		"as Go prints it":     {`"2026-03-01 13:00:00.123 +0000 UTC m=+3600.5"`, `{}`, 0, true},
		"Unix seconds":        {`1772370000`, `{}`, 0, true},
		"Unix seconds, text":  {`"1772370000"`, `{}`, 0, true},
		"Unix milliseconds":   {`"1772370000000"`, `{}`, 0, true},
		"absent, ttl":         {`null`, `{"is_valid":true,"ttl":3600}`, 2, true},
		"unreadable, ttl":     {`"in an hour"`, `{"is_valid":true,"ttl":"3600"}`, 2, true},
		"absent, expiration":  {`""`, `{"is_valid":true,"expiration":"2026-03-01T13:00:00Z"}`, 2, true},
		"past, ttl":           {`"2020-03-01T13:00:00Z"`, `{"ttl":3600}`, 2, true},
		"a number of seconds": {`3600`, `{}`, 1, false},
		"nobody says":         {`null`, `{"is_valid":true,"ttl":-1,"expiration":"soon"}`, 1, false},
		"huge":                {`1e300`, `{"ttl":99999999999999}`, 1, false},
		"not even valid":      {`{}`, `{"error":"?"}`, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now, issued, asked, rejects := noon, 0, 0, false
			client := newClient(t, "http://127.0.0.1", through(script{
				"auth": func(string) (int, string) {
					issued++
					return 200, fmt.Sprintf(`{"token":"t-%05d","expiration":%s}`, issued, tc.said)
				},
				"validate-token": func(string) (int, string) { asked++; return 200, tc.valid },
				"list-sra-bastions": func(string) (int, string) {
					if rejects {
						rejects = false
						return 401, `{"error":"token"}`
					}
					return 200, `{}`
				},
			}), func(o *akeyless.Options) { o.Now = func() time.Time { return now } })
			for _, at := range []time.Duration{0, life / 2, life - 2*time.Minute} {
				now = noon.Add(at)
				if _, err := client.ListBastions(t.Context()); err != nil || issued != 1 {
					t.Fatalf("after %s of an hour: %v, authenticated %d times", at, err, issued)
				}
			}
			now = noon.Add(life - time.Second)
			if _, err := client.ListBastions(t.Context()); err != nil || (issued == 2) != tc.renewed {
				t.Errorf("a second before its end: %v, authenticated %d times, want renewed %t", err, issued, tc.renewed)
			}
			if !tc.renewed { // what a server did not say once, it is not asked again
				rejects = true
				if _, err := client.ListBastions(t.Context()); err != nil || issued != 2 {
					t.Errorf("after a rejection: %v, authenticated %d times", err, issued)
				}
			}
			if asked != tc.asked {
				t.Errorf("/validate-token was asked %d times, want %d", asked, tc.asked)
			}
		})
	}
}

func TestTokenLifeIsByTheServersClock(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-26 * time.Hour, -10 * time.Minute, 10 * time.Minute, 26 * time.Hour} {
		now := noon
		server := startServer(t, akeylesstest.Options{Now: func() time.Time { return now }})
		server.SetClockSkew(ahead)
		client := newClient(t, server.URL(), through(server.Transport()), func(o *akeyless.Options) { o.Now = func() time.Time { return now } })
		for _, step := range []struct {
			after time.Duration
			times int
		}{{0, 1}, {10 * time.Second, 1}, {50 * time.Minute, 1}, {59*time.Minute + 30*time.Second, 2}} {
			now = noon.Add(step.after)
			if _, err := client.ListBastions(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := server.Requests()["auth"]; n != step.times {
				t.Errorf("server %s ahead, after %s: authenticated %d times, want %d", ahead, step.after, n, step.times)
			}
		}
	}
}

func TestTokenThatWorksIsKeptWhenItsRenewalFails(t *testing.T) {
	t.Parallel()
	now, issued := noon, 0
	client := newClient(t, "http://127.0.0.1", through(script{
		"auth": func(string) (int, string) {
			if issued++; issued == 2 {
				return 500, `{"error":"auth is down"}`
			}
			return 200, `{"token":"t-12345","expiration":"` + now.Add(time.Hour).Format(time.RFC3339) + `"}`
		},
		"list-sra-bastions": func(string) (int, string) { return 200, `{}` },
	}), func(o *akeyless.Options) { o.Now = func() time.Time { return now } })
	for _, step := range []struct {
		after time.Duration
		times int
	}{{0, 1}, {3550 * time.Second, 2}, {3551 * time.Second, 2}, {3590 * time.Second, 3}, {3599 * time.Second, 3}} {
		now = noon.Add(step.after)
		if _, err := client.ListBastions(t.Context()); err != nil || issued != step.times {
			t.Errorf("after %s: %v, authenticated %d times, want %d", step.after, err, issued, step.times)
		}
	}
}

// TestOneRenewalIsShared has many callers meet a server that lets the first of
// them in only when all are there.
func TestOneRenewalIsShared(t *testing.T) {
	t.Parallel()
	for name, failing := range map[string]bool{"works": false, "fails": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				issued := 0
				client := newClient(t, "http://127.0.0.1", through(script{
					"auth": func(string) (int, string) {
						issued++
						<-time.After(time.Second) // in the bubble: until every caller waits
						if failing {
							return 401, `{"error":"no"}`
						}
						return 200, `{"token":"t-12345"}`
					},
					"validate-token":    func(string) (int, string) { return 200, `{"ttl":60}` },
					"list-sra-bastions": func(string) (int, string) { return 200, `{}` },
				}))
				var all sync.WaitGroup
				for range 50 {
					all.Go(func() {
						if _, err := client.ListBastions(t.Context()); (err != nil) != failing {
							t.Errorf("got %v", err)
						}
					})
				}
				all.Wait()
				if issued != 1 {
					t.Errorf("50 callers authenticated %d times", issued)
				}
			})
		})
	}
}

// TestNobodyWaitsWhileATokenWorks renews ahead of the end, slowly.
func TestNobodyWaitsWhileATokenWorks(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{}) // outside the bubble: its socket would hold the clock
	synctest.Test(t, func(t *testing.T) {
		issued := 0
		client := newClient(t, server.URL(), through(script{
			"auth": func(string) (int, string) {
				if issued++; issued == 2 {
					<-time.After(10 * time.Second)
				}
				return 200, fmt.Sprintf(`{"token":"t-%05d","expiration":%q}`, issued, time.Now().Add(time.Hour).Format(time.RFC3339))
			},
			"list-sra-bastions": func(string) (int, string) { return 200, `{}` },
		}))
		list := func() {
			if _, err := client.ListBastions(t.Context()); err != nil {
				t.Error(err)
			}
		}
		list()
		<-time.After(time.Hour - 30*time.Second)
		var renewing sync.WaitGroup
		renewing.Go(list)
		synctest.Wait()
		began := time.Now()
		list()
		if waited := time.Since(began); waited != 0 || issued != 2 {
			t.Errorf("waited %s for the renewal, authenticated %d times", waited, issued)
		}
		renewing.Wait()
	})
}

// TestARenewalOutlivesItsCaller cancels the caller that authenticates: the one
// that waits for it must not be told of it.
func TestARenewalOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	server := startServer(t, akeylesstest.Options{}) // outside the bubble: its socket would hold the clock
	synctest.Test(t, func(t *testing.T) {
		client := newClient(t, server.URL(), through(server.Transport()))
		server.SetLatency(3 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := client.ListBastions(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("the cancelled caller got %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if _, err := client.ListBastions(t.Context()); err != nil {
				t.Errorf("the other got %v", err)
			}
		})
		synctest.Wait()
		cancel()
		all.Wait()
	})
}

// TestAuthHoldsNoSecretWhenPrinted prints what holds credentials every way that
// logs and errors use.
func TestAuthHoldsNoSecretWhenPrinted(t *testing.T) {
	t.Parallel()
	o := akeyless.Options{BaseURL: "https://h", Auth: akeyless.Auth{Type: akeyless.AWSIAM, AccessID: "p-1", AWS: staticAWS{secret: "aws-hush"}}}
	asJSON, err := json.Marshal(o.Auth)
	if err != nil {
		t.Fatal(err)
	}
	if said := fmt.Sprintf("%v %+v %#v %s %s", o, o, o, o.Auth, asJSON); strings.Contains(said, "hush") {
		t.Errorf("the secret is told in: %s", said)
	}
}
