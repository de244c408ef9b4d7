package akeylesstest_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
)

// people are one credential of each kind.
var people = []akeylesstest.Credential{
	{AccessID: "p-k8s", Type: akeylesstest.AuthK8s, Secret: "sa-token", K8sConfig: "berlin"},
	{AccessID: "p-jwt", Type: akeylesstest.AuthJWT, Secret: "a.b.c"},
	{AccessID: "p-oidc", Type: akeylesstest.AuthOIDC, Secret: "d.e.f"},
	{AccessID: "p-uid", Type: akeylesstest.AuthUniversalIdentity, Secret: "u-token"},
	{AccessID: "p-aws", Type: akeylesstest.AuthAWSIAM, Secret: "aws-secret", AWSAccessKeyID: "AKIAREAL"},
	{AccessID: "p-key", Secret: "other-key"},
}

func TestAccessTypes(t *testing.T) {
	t.Parallel()
	const gateway = "https://gw.example.test:8000"
	base64Token := base64.StdEncoding.EncodeToString([]byte("sa-token"))
	for name, tc := range map[string]struct {
		path   string // empty means the API's own
		body   object
		status int
	}{
		"second access key":      {"", object{"access-id": "p-key", "access-key": "other-key"}, 200},
		"key of another":         {"", object{"access-id": "p-key", "access-key": akeylesstest.AccessKey}, 401},
		"k8s":                    {"", object{"access-type": "k8s", "access-id": "p-k8s", "k8s-auth-config-name": "berlin", "k8s-service-account-token": "sa-token", "gateway-url": gateway}, 200},
		"k8s, in base64":         {"", object{"access-type": "k8s", "access-id": "p-k8s", "k8s-auth-config-name": "berlin", "k8s-service-account-token": base64Token, "gateway-url": gateway}, 200},
		"k8s, of its gateway":    {"/gateway/1/api/v2", object{"access-type": "k8s", "access-id": "p-k8s", "k8s-auth-config-name": "berlin", "k8s-service-account-token": "sa-token"}, 200},
		"k8s, no gateway":        {"", object{"access-type": "k8s", "access-id": "p-k8s", "k8s-auth-config-name": "berlin", "k8s-service-account-token": "sa-token"}, 400},
		"k8s, other config":      {"", object{"access-type": "k8s", "access-id": "p-k8s", "k8s-auth-config-name": "tokyo", "k8s-service-account-token": "sa-token", "gateway-url": gateway}, 401},
		"k8s, other token":       {"", object{"access-type": "k8s", "access-id": "p-k8s", "k8s-auth-config-name": "berlin", "k8s-service-account-token": "x", "gateway-url": gateway}, 401},
		"k8s, no token":          {"", object{"access-type": "k8s", "access-id": "p-k8s", "k8s-auth-config-name": "berlin", "gateway-url": gateway}, 400},
		"jwt":                    {"", object{"access-type": "jwt", "access-id": "p-jwt", "jwt": "a.b.c"}, 200},
		"jwt of oidc":            {"", object{"access-type": "jwt", "access-id": "p-jwt", "jwt": "d.e.f"}, 401},
		"jwt without id":         {"", object{"access-type": "jwt", "jwt": "a.b.c"}, 400},
		"oidc":                   {"", object{"access-type": "oidc", "access-id": "p-oidc", "jwt": "d.e.f"}, 200},
		"oidc as jwt":            {"", object{"access-type": "jwt", "access-id": "p-oidc", "jwt": "d.e.f"}, 401},
		"universal identity":     {"", object{"access-type": "universal_identity", "access-id": "p-uid", "uid-token": "u-token"}, 200},
		"universal, old SDK":     {"", object{"access-type": "universal_identity", "access-id": "p-uid", "uid_token": "u-token"}, 200},
		"universal, token alone": {"", object{"access-type": "universal_identity", "uid-token": "u-token"}, 200},
		"universal, wrong":       {"", object{"access-type": "universal_identity", "access-id": "p-uid", "uid-token": "x"}, 401},
		"universal, none":        {"", object{"access-type": "universal_identity", "access-id": "p-uid"}, 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t, akeylesstest.Options{Credentials: people})
			l.SetCluster(akeylesstest.Cluster{Name: "v/west"})
			status, _, reply := l.do(t, "POST", tc.path+"/auth", tc.body)
			if status != tc.status {
				t.Fatalf("answered %d %v, want %d", status, reply, tc.status)
			}
			if token, _ := reply["token"].(string); (token != "") != (status == 200) {
				t.Fatalf("token %q with status %d", token, status)
			}
			if violated := len(l.Violations()) > 0; violated != (status == 400) {
				t.Errorf("violations %q with status %d", l.Violations(), status)
			}
		})
	}
}

// cloudID signs a GetCallerIdentity request as the vendor's own clients do.
func cloudID(t *testing.T, secret string, at time.Time, change func(parts map[string]string, header http.Header)) string {
	t.Helper()
	const body = "Action=GetCallerIdentity&Version=2011-06-15"
	request, err := http.NewRequestWithContext(t.Context(), "POST", "https://sts.amazonaws.com/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sum := sha256.Sum256([]byte(body))
	credentials := aws.Credentials{AccessKeyID: "AKIAREAL", SecretAccessKey: secret, SessionToken: "session"}
	if err := v4.NewSigner().SignHTTP(t.Context(), credentials, request, hex.EncodeToString(sum[:]), "sts", "us-east-1", at); err != nil {
		t.Fatal(err)
	}
	encode := base64.StdEncoding.EncodeToString
	parts := map[string]string{
		"sts_request_method": "POST",
		"sts_request_url":    encode([]byte("https://sts.amazonaws.com/")),
		"sts_request_body":   encode([]byte(body)),
	}
	if change != nil {
		change(parts, request.Header)
	}
	if _, set := parts["sts_request_headers"]; !set {
		header, err := json.Marshal(request.Header)
		if err != nil {
			t.Fatal(err)
		}
		parts["sts_request_headers"] = encode(header)
	}
	raw, err := json.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return encode(raw)
}

func TestCloudID(t *testing.T) {
	t.Parallel()
	set := func(key, value string) func(map[string]string, http.Header) {
		return func(parts map[string]string, _ http.Header) {
			parts[key] = base64.StdEncoding.EncodeToString([]byte(value))
		}
	}
	for name, tc := range map[string]struct {
		id     string
		status int
	}{
		"signed":          {cloudID(t, "aws-secret", noon, nil), 200},
		"no body":         {cloudID(t, "aws-secret", noon, func(parts map[string]string, _ http.Header) { delete(parts, "sts_request_body") }), 200},
		"other secret":    {cloudID(t, "x", noon, nil), 401},
		"old":             {cloudID(t, "aws-secret", noon.Add(-time.Hour), nil), 401},
		"header changed":  {cloudID(t, "aws-secret", noon, func(_ map[string]string, h http.Header) { h.Set("X-Amz-Security-Token", "other") }), 401},
		"no signature":    {cloudID(t, "aws-secret", noon, func(_ map[string]string, h http.Header) { h.Del("Authorization") }), 400},
		"other date":      {cloudID(t, "aws-secret", noon, func(_ map[string]string, h http.Header) { h.Set("X-Amz-Date", "20200101T000000Z") }), 400},
		"other host":      {cloudID(t, "aws-secret", noon, set("sts_request_url", "https://evil.example/")), 400},
		"other action":    {cloudID(t, "aws-secret", noon, set("sts_request_body", "Action=AssumeRole")), 400},
		"unknown part":    {cloudID(t, "aws-secret", noon, set("sts_request_verb", "POST")), 400},
		"headers as text": {cloudID(t, "aws-secret", noon, set("sts_request_headers", `"Authorization: x"`)), 400},
		"by GET":          {cloudID(t, "aws-secret", noon, func(parts map[string]string, _ http.Header) { parts["sts_request_method"] = "GET" }), 400},
		"not base64":      {"{}", 400},
		"not JSON":        {base64.StdEncoding.EncodeToString([]byte("x")), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t, akeylesstest.Options{Credentials: people, Now: func() time.Time { return noon }})
			status, _, reply := l.do(t, "POST", "/auth", object{"access-type": "aws_iam", "access-id": "p-aws", "cloud-id": tc.id})
			if status != tc.status {
				t.Errorf("answered %d %v, want %d", status, reply, tc.status)
			}
		})
	}
}

func TestTokensEnd(t *testing.T) {
	t.Parallel()
	now := noon
	l := start(t, akeylesstest.Options{TokenTTL: 10 * time.Minute, Now: func() time.Time { return now }})
	auth := func() object {
		_, _, reply := l.do(t, "POST", "/auth", object{"access-id": akeylesstest.AccessID, "access-key": akeylesstest.AccessKey})
		return reply
	}
	want := map[akeylesstest.Expiration]any{
		akeylesstest.ExpirationRFC3339: "2026-03-01T12:10:00Z", akeylesstest.ExpirationUnix: "1772367000", akeylesstest.ExpirationAbsent: nil,
	}
	for format, said := range want {
		l.SetExpiration(format)
		reply := auth()
		if reply["expiration"] != said {
			t.Errorf("%s: expiration is %v, want %v", format, reply["expiration"], said)
		}
		if got := l.do2(t, "/validate-token", object{"token": reply["token"]}); got["expiration"] != said || got["is_valid"] != true || got["ttl"] != 600.0 {
			t.Errorf("%s: validate-token says %v", format, got)
		}
	}
	l.SetExpiration(akeylesstest.ExpirationRFC3339)
	l.SetClockSkew(time.Hour)
	if got := auth()["expiration"]; got != "2026-03-01T13:10:00Z" {
		t.Errorf("with a clock an hour ahead the token ends at %v", got)
	}
	l.login(t)
	if _, header, _ := l.do(t, "POST", "/list-gateways", object{"token": l.token}); header.Get("Date") != "Sun, 01 Mar 2026 13:00:00 GMT" {
		t.Errorf("with a clock an hour ahead the Date is %q", header.Get("Date"))
	}
	now = noon.Add(10*time.Minute - 1)
	l.call(t, "list-gateways", object{})
	now = noon.Add(10 * time.Minute)
	if status, _, reply := l.do(t, "POST", "/list-gateways", object{"token": l.token}); status != 401 || !strings.Contains(reply["error"].(string), "token") {
		t.Errorf("a token past its end: %d %v", status, reply)
	}
	if got := l.do2(t, "/validate-token", object{"token": l.token}); got["is_valid"] != false || got["reason"] == "" {
		t.Errorf("validate-token says %v", got)
	}
	l.login(t)
	l.ExpireTokensAfter(1)
	l.call(t, "list-gateways", object{})
	if status, _, _ := l.do(t, "POST", "/list-gateways", object{"token": l.token}); status != 401 {
		t.Errorf("a token expired between two calls: %d", status)
	}
	l.SetSecret(akeylesstest.AccessID, "rotated")
	if reply := auth(); reply["token"] != nil {
		t.Error("the secret before the rotation still works")
	}
}

// do2 is do for calls that must work without the lab's own token.
func (l *lab) do2(t testing.TB, path string, body object) object {
	t.Helper()
	status, _, reply := l.do(t, "POST", path, body)
	if status != 200 {
		t.Fatalf("%s answered %d %v", path, status, reply)
	}
	return reply
}

func TestScopes(t *testing.T) {
	t.Parallel()
	l := start(t, akeylesstest.Options{PageSize: 2, Credentials: []akeylesstest.Credential{{AccessID: "p-key", Secret: "k"}}})
	for _, name := range []string{"v/west", "v/east"} {
		l.SetCluster(akeylesstest.Cluster{Name: name})
	}
	for i, s := range []akeylesstest.Session{
		{ID: "w", Gateway: akeylesstest.GatewayInfo{ClusterName: "v/west"}, AccessID: "p-other"},
		{ID: "e", Gateway: akeylesstest.GatewayInfo{ClusterName: "v/east"}, AccessID: "p-other"},
		{ID: "mine", Gateway: akeylesstest.GatewayInfo{ClusterName: "v/east"}, AccessID: "p-key"},
	} {
		s.Status, s.StartTime = "connected", noon.Add(-time.Duration(i)*time.Second)
		if err := l.Report(s); err != nil {
			t.Fatal(err)
		}
	}
	l.token, _ = l.do2(t, "/auth", object{"access-id": "p-key", "access-key": "k"})["token"].(string)
	for name, tc := range map[string]struct {
		scope    akeylesstest.Scope
		gateways []string
		sessions []string
		allowed  any
	}{
		"all":   {akeylesstest.ScopeAll, nil, []string{"w", "e", "mine"}, []any{named("v/west"), named("v/east")}},
		"some":  {akeylesstest.ScopeGateways, []string{"v/west"}, []string{"w", "mine"}, []any{named("v/west")}},
		"none":  {akeylesstest.ScopeGateways, nil, []string{"mine"}, []any{}},
		"own":   {akeylesstest.ScopeOwn, nil, []string{"mine"}, nil},
		"empty": {"", nil, []string{"w", "e", "mine"}, []any{named("v/west"), named("v/east")}},
	} {
		l.SetScope("p-key", tc.scope, tc.gateways...)
		first := l.call(t, "list-sra-sessions", object{})
		got := ids(first)
		if next, _ := first["next_page"].(string); next != "" {
			second := l.call(t, "list-sra-sessions", object{"pagination-token": next})
			got = append(got, ids(second)...)
			if _, said := second["allowed_gateways"]; said {
				t.Errorf("%s: a further page says allowed_gateways", name)
			}
		}
		if diff := cmp.Diff(tc.sessions, got); diff != "" {
			t.Errorf("%s: sessions (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(tc.allowed, first["allowed_gateways"]); diff != "" {
			t.Errorf("%s: allowed_gateways (-want +got):\n%s", name, diff)
		}
	}
}

func named(cluster string) object { return object{"cluster_name": cluster} }

func TestRemoteAccess(t *testing.T) {
	t.Parallel()
	l := start(t, akeylesstest.Options{})
	l.login(t)
	if status, _, _ := l.do(t, "POST", "/gateway-get-remote-access", object{"token": l.token}); status != 404 {
		t.Errorf("a server without a gateway answered %d", status)
	}
	legacy := true
	l.SetCluster(akeylesstest.Cluster{Name: "acc-1/p-1/west"})
	l.SetCluster(akeylesstest.Cluster{Name: "acc-1/p-1/east", RemoteAccess: &akeylesstest.RemoteAccess{
		LegacySigning: &legacy, Storage: "azure", Forwarding: "syslog", StorageSecret: "own-secret",
	}})
	if at := l.GatewayURL("nowhere"); at != "" {
		t.Errorf("an unknown cluster has a gateway at %q", at)
	}
	ask := func(cluster string) object {
		t.Helper()
		return l.do2(t, strings.TrimPrefix(l.GatewayURL(cluster), l.URL())+"/gateway-get-remote-access", object{"token": l.token})
	}
	west, east := ask("acc-1/p-1/west"), ask("acc-1/p-1/east")
	if diff := cmp.Diff(west, l.call(t, "gateway-get-remote-access", object{})); diff != "" {
		t.Errorf("at the root it is not the first gateway's (-want +got):\n%s", diff)
	}
	get := func(from object, path ...string) any {
		for _, key := range path[:len(path)-1] {
			from, _ = from[key].(object)
		}
		return from[path[len(path)-1]]
	}
	for _, tc := range []struct {
		want any
		from object
		path string
	}{
		{false, west, "global legacy_signing_alg"},
		{true, east, "global legacy_signing_alg"},
		{480.0, west, "global default_session_ttl_minutes"},
		{"aws", west, "web_bastion rdp_record storage_type"},
		{"planted-storage-secret-91b3", west, "web_bastion rdp_record aws access_key_secret"},
		{"own-secret", east, "web_bastion rdp_record azure client_secret"},
		{nil, east, "web_bastion rdp_record aws"},
		{"splunk", west, "ssh_bastion log_forwarding target_log_type"},
		{"syslog", east, "ssh_bastion log_forwarding target_log_type"},
		{"acc-1/p-1/east", east, "cluster_id"},
	} {
		if got := get(tc.from, strings.Fields(tc.path)...); got != tc.want {
			t.Errorf("%s is %v, want %v", tc.path, got, tc.want)
		}
	}
	said, err := json.Marshal([]any{west, l.do2(t, "/auth", object{"access-id": akeylesstest.AccessID, "access-key": akeylesstest.AccessKey})})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range akeylesstest.PlantedSecrets() {
		if !strings.Contains(string(said), secret) {
			t.Errorf("%q is planted nowhere", secret)
		}
	}
}

func TestWhatServersDoWrong(t *testing.T) {
	t.Parallel()
	l := start(t, akeylesstest.Options{PageSize: 2})
	l.login(t)
	l.SetCluster(akeylesstest.Cluster{Name: "v/west"})
	for i, id := range []string{"e", "d", "c", "b", "a"} {
		if err := l.Report(session(id, "connected", -time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	pages := func() (all []string) {
		request := object{}
		for {
			reply := l.call(t, "list-sra-sessions", maps.Clone(request))
			all = append(all, ids(reply)...)
			next, _ := reply["next_page"].(string)
			if next == "" {
				return all
			}
			request["pagination-token"] = next
		}
	}
	l.SetDuplicates(true)
	if diff := cmp.Diff([]string{"e", "d", "d", "c", "b", "b", "a"}, pages()); diff != "" {
		t.Errorf("duplicates (-want +got):\n%s", diff)
	}
	l.SetDuplicates(false)
	l.SetPageSize(1000)
	reply := l.call(t, "list-sra-sessions", object{})
	if len(ids(reply)) != 5 || reply["next_page"] != "" {
		t.Errorf("a huge page: %v", reply)
	}
	first := func(reply object) object { return reply["sessions"].([]any)[0].(object) }
	l.SetZeroTimes(true)
	if got := first(l.call(t, "list-sra-sessions", object{}))["end_time"]; got != "0001-01-01T00:00:00Z" {
		t.Errorf("end of an active session: %v", got)
	}
	l.SetNulls(true)
	reply = l.call(t, "list-sra-sessions", object{"status-type": []string{"failed"}})
	if diff := cmp.Diff(object{"sessions": nil, "next_page": nil, "allowed_gateways": []any{object{"cluster_name": "v/west"}}}, reply); diff != "" {
		t.Errorf("with nulls (-want +got):\n%s", diff)
	}
	if cluster := l.call(t, "list-sra-bastions", object{})["clusters"].([]any)[0].(object); cluster["allowed_urls_per_instance"] != nil || cluster["bastion_ssh_port"] != 22.0 {
		t.Errorf("with nulls: %v", cluster)
	}
	l.SetNulls(false)
	l.RespondTruncated(1)
	request, err := http.NewRequestWithContext(t.Context(), "POST", l.URL()+"/list-gateways", strings.NewReader(`{"token":"`+l.token+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := l.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	var half any
	if err := json.NewDecoder(response.Body).Decode(&half); response.StatusCode != 200 || err == nil {
		t.Errorf("half an answer: %d %v, decodes as %v", response.StatusCode, err, half)
	}
	l.RespondError(1, 503, "maintenance")
	if status, _, reply := l.do(t, "POST", "/list-gateways", object{"token": l.token}); status != 503 || reply["error"] != "maintenance" {
		t.Errorf("answered %d %v", status, reply)
	}
	l.Forbid("list-gateways", true)
	if status, _, _ := l.do(t, "POST", "/list-gateways", object{"token": l.token}); status != 403 {
		t.Errorf("a forbidden call answered %d", status)
	}
	l.call(t, "list-sra-bastions", object{})
	l.Forbid("list-gateways", false)
	l.call(t, "list-gateways", object{})
	l.Forget("c")
	l.Forget("never-was")
	if diff := cmp.Diff([]string{"e", "d", "b", "a"}, pages()); diff != "" {
		t.Errorf("after one was lost (-want +got):\n%s", diff)
	}
	if got := l.Violations(); len(got) != 0 {
		t.Errorf("good requests are kept as violations: %q", got)
	}
}
