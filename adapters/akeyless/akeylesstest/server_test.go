package akeylesstest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type object = map[string]any

// lab is a server with a client of its own connections.
type lab struct {
	*akeylesstest.Server
	client *http.Client
	token  string
}

func start(t testing.TB, o akeylesstest.Options) *lab {
	t.Helper()
	server, err := akeylesstest.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{Server: server, client: &http.Client{Transport: &http.Transport{}}}
	t.Cleanup(func() {
		l.client.CloseIdleConnections()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// do sends body as JSON and returns status, header and the decoded answer.
func (l *lab) do(t testing.TB, method, path string, body any) (int, http.Header, object) {
	t.Helper()
	payload, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, l.URL()+path, bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := l.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var reply object
	if response.Header.Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(raw, &reply); err != nil {
			t.Fatalf("%s %s answered %q: %v", method, path, raw, err)
		}
	}
	return response.StatusCode, response.Header, reply
}

func (l *lab) login(t testing.TB) {
	t.Helper()
	status, _, reply := l.do(t, "POST", "/auth", object{"access-id": akeylesstest.AccessID, "access-key": akeylesstest.AccessKey, "access-type": "access_key"})
	token, _ := reply["token"].(string)
	if status != 200 || token == "" {
		t.Fatalf("auth answered %d %v", status, reply)
	}
	l.token = token
}

func (l *lab) call(t testing.TB, name string, request object) object {
	t.Helper()
	request["token"] = l.token
	status, _, reply := l.do(t, "POST", "/"+name, request)
	if status != 200 {
		t.Fatalf("%s answered %d %v", name, status, reply)
	}
	return reply
}

func ids(reply object) []string {
	all := []string{}
	for _, s := range reply["sessions"].([]any) {
		all = append(all, s.(object)["session_id"].(string))
	}
	return all
}

func session(id, status string, start time.Duration) akeylesstest.Session {
	return akeylesstest.Session{ID: id, Status: status, StartTime: noon.Add(start), ConnectionType: "ssh", Gateway: akeylesstest.GatewayInfo{ClusterName: "v/west"}}
}

func TestSessionsAreListedAsDocumented(t *testing.T) {
	t.Parallel()
	l := start(t, akeylesstest.Options{PageSize: 2})
	l.login(t)
	l.SetCluster(akeylesstest.Cluster{Name: "v/west", DisplayName: "West"})
	for _, s := range []akeylesstest.Session{
		session("b", "connecting", time.Second), session("a", "connected", time.Second),
		session("old", "completed", 0), session("new", "failed", time.Minute),
	} {
		if err := l.Report(s); err != nil {
			t.Fatal(err)
		}
	}
	reply := l.call(t, "list-sra-sessions", object{})
	if diff := cmp.Diff([]string{"b", "a"}, ids(reply)); diff != "" {
		t.Errorf("without a status: active ones only (-want +got):\n%s", diff)
	}
	if reply["next_page"] != "" {
		t.Errorf("a full last page names a next page: %v", reply["next_page"])
	}
	if diff := cmp.Diff([]any{object{"cluster_name": "v/west", "cluster_display_name": "West"}}, reply["allowed_gateways"]); diff != "" {
		t.Errorf("allowed_gateways (-want +got):\n%s", diff)
	}
	if _, present := reply["sessions"].([]any)[0].(object)["end_time"]; present {
		t.Error("an active session has an end_time")
	}

	all := object{"status-type": []string{"connecting", "connected", "failed", "completed", "terminated"}}
	first := l.call(t, "list-sra-sessions", all)
	all["pagination-token"] = first["next_page"]
	second := l.call(t, "list-sra-sessions", all)
	if diff := cmp.Diff([]string{"new", "b", "a", "old"}, append(ids(first), ids(second)...)); diff != "" {
		t.Errorf("two pages (-want +got):\n%s", diff)
	}
	if _, present := second["allowed_gateways"]; present || second["next_page"] != "" {
		t.Errorf("second page: %v", second)
	}
	l.SetOldServer(true)
	if diff := cmp.Diff(ids(first), ids(l.call(t, "list-sra-sessions", all))); diff != "" {
		t.Errorf("an old server repeats page one (-want +got):\n%s", diff)
	}
	if got := ids(l.call(t, "list-sra-sessions", object{"resource-type": []string{"rdp"}})); len(got) != 0 {
		t.Errorf("rdp sessions: %v", got)
	}
	l.HideGateway("v/west", true)
	reply = l.call(t, "list-sra-sessions", object{})
	if got, said := reply["allowed_gateways"].([]any); len(ids(reply)) != 0 || !said || len(got) != 0 {
		t.Errorf("a hidden gateway shows: %v", reply)
	}
}

func TestErrorsAreWordedAsDocumented(t *testing.T) {
	t.Parallel()
	const fine, violation = false, true
	for name, tc := range map[string]struct {
		method, path string
		body         any // the token is added to an object that has none
		status       int
		violates     bool
	}{
		"wrong key":       {"POST", "/auth", object{"access-id": akeylesstest.AccessID, "access-key": "x"}, 401, fine},
		"other type":      {"POST", "/auth", object{"access-type": "saml"}, 400, fine},
		"no such type":    {"POST", "/auth", object{"access-type": "api_key"}, 400, violation},
		"no access key":   {"POST", "/auth", object{"access-id": akeylesstest.AccessID}, 400, violation},
		"snake case":      {"POST", "/auth", object{"access_id": akeylesstest.AccessID, "access-key": akeylesstest.AccessKey}, 400, violation},
		"other case":      {"POST", "/auth", object{"Access-Id": akeylesstest.AccessID, "access-key": akeylesstest.AccessKey}, 400, violation},
		"number for text": {"POST", "/auth", object{"access-id": 7}, 400, violation},
		"no token":        {"POST", "/list-sra-bastions", object{"token": ""}, 401, violation},
		"stale token":     {"POST", "/list-sra-bastions", object{"token": "t-old"}, 401, fine},
		"text for flag":   {"POST", "/list-sra-bastions", object{"allowed-urls-only": "true"}, 400, violation},
		"text for list":   {"POST", "/list-sra-sessions", object{"status-type": "failed"}, 400, violation},
		"other call's":    {"POST", "/list-gateways", object{"status-type": []string{"failed"}}, 400, violation},
		"bad status":      {"POST", "/list-sra-sessions", object{"status-type": []string{"open"}}, 400, violation},
		"bad resource":    {"POST", "/list-sra-sessions", object{"resource-type": []string{"vnc"}}, 400, violation},
		"bad cursor":      {"POST", "/list-sra-sessions", object{"pagination-token": "?"}, 400, violation},
		"not an object":   {"POST", "/list-gateways", "x", 400, violation},
		"null":            {"POST", "/list-gateways", nil, 400, violation},
		"wrong method":    {"GET", "/auth", object{}, 405, violation},
		"unknown call":    {"POST", "/list-nothing", object{}, 404, violation},
		"unknown gateway": {"POST", "/gateway/9/list-gateways", object{}, 404, violation},
		"null for a key":  {"POST", "/list-sra-sessions", object{"resource-type": nil}, 200, fine},
		"json and uid":    {"POST", "/list-sra-sessions", object{"json": true, "uid-token": "u"}, 200, fine},
		"lab, bad key":    {"PUT", "/lab/sessions", []object{{"sesion_id": "x"}}, 400, fine},
		"lab, no start":   {"PUT", "/lab/sessions", []object{{"session_id": "x", "status": "failed"}}, 400, fine},
		"lab, no status":  {"PUT", "/lab/sessions", []object{{"session_id": "x", "start_time": noon}}, 400, fine},
		"lab, no name":    {"PUT", "/lab/clusters", []object{{}}, 400, fine},
		"lab, dialect":    {"PUT", "/lab/switches", object{"dialect": "x"}, 400, fine},
		"lab, expiration": {"PUT", "/lab/switches", object{"expiration": "x"}, 400, fine},
		"lab, page size":  {"PUT", "/lab/switches", object{"page_size": 0}, 400, fine},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(t, akeylesstest.Options{})
			l.login(t)
			if body, is := tc.body.(object); is && tc.path != "/auth" && tc.method == "POST" {
				if _, has := body["token"]; !has {
					body["token"] = l.token
				}
			}
			status, _, reply := l.do(t, tc.method, tc.path, tc.body)
			if message, _ := reply["error"].(string); status != tc.status || (message == "") != (status == 200) {
				t.Errorf("answered %d %v, want %d with an error", status, reply, tc.status)
			}
			kept := l.Violations()
			if (len(kept) == 1) != tc.violates || len(kept) > 0 && !strings.Contains(kept[0], reply["error"].(string)) {
				t.Errorf("kept the violations %q, want one: %t", kept, tc.violates)
			}
		})
	}
}

func TestOnlyJSONIsTaken(t *testing.T) {
	t.Parallel()
	l := start(t, akeylesstest.Options{})
	for contentType, want := range map[string]int{
		"": 415, "text/plain": 415, "application/x-www-form-urlencoded": 415,
		"application/json; charset=utf-8": 400, "application/json": 400,
	} {
		request, err := http.NewRequestWithContext(t.Context(), "POST", l.URL()+"/auth", strings.NewReader(`{} {"access-key":"hush"`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", contentType)
		response, err := l.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != want || !bytes.HasPrefix(raw, []byte(`{"error":`)) {
			t.Errorf("content type %q: answered %d %s, want %d", contentType, response.StatusCode, raw, want)
		}
	}
	for _, v := range l.Violations() {
		if strings.Contains(v, "hush") {
			t.Errorf("a violation tells a secret: %s", v)
		}
	}
}

func TestLabOverHTTP(t *testing.T) {
	t.Parallel()
	l := start(t, akeylesstest.Options{})
	l.login(t)
	put := func(path string, body any) {
		t.Helper()
		if status, _, reply := l.do(t, "PUT", path, body); status != 204 {
			t.Fatalf("PUT %s answered %d %v", path, status, reply)
		}
	}
	put("/lab/clusters", []akeylesstest.Cluster{{Name: "v/west", Instances: []akeylesstest.Instance{{ID: "i", Version: "3.0.3", LastReport: noon}}}})
	put("/lab/sessions", []akeylesstest.Session{session("a", "connected", 0)})
	put("/lab/sessions", []object{{"session_id": "a", "status": "completed", "end_time": noon}}) // keeps its start
	if got := ids(l.call(t, "list-sra-sessions", object{"status-type": []string{"completed"}})); !slices.Equal(got, []string{"a"}) || l.Len() != 1 {
		t.Errorf("got sessions %v of %d", got, l.Len())
	}
	if got := ids(l.call(t, "list-sra-sessions", object{})); len(got) != 0 {
		t.Errorf("ended sessions are listed as active: %v", got)
	}
	put("/lab/switches", object{"dialect": "instances"})
	cluster := func() object { return l.call(t, "list-sra-bastions", object{})["clusters"].([]any)[0].(object) }
	if got := cluster()["instances"].([]any)[0].(object)["version"]; got != "3.0.3" {
		t.Errorf("version %v", got)
	}
	put("/lab/switches", object{"dialect": "schema"})
	if _, present := cluster()["instances"]; present {
		t.Error("the published dialect has no instances")
	}
	if got := l.call(t, "list-gateways", object{})["clusters"].([]any)[0].(object)["status"]; got != "Running" {
		t.Errorf("gateway status %v", got)
	}
	if got := l.call(t, "validate-token", object{})["is_valid"]; got != true {
		t.Errorf("token valid: %v", got)
	}
	put("/lab/switches", object{"rate_limit_calls": 1, "retry_after_seconds": 7})
	if status, header, _ := l.do(t, "POST", "/list-gateways", object{"token": l.token}); status != 429 || header.Get("Retry-After") != "7" {
		t.Errorf("limited call answered %d, Retry-After %q", status, header.Get("Retry-After"))
	}
	put("/lab/switches", object{"error_calls": 1, "error_message": "broken", "forbidden_calls": []string{"list-sra-bastions"}, "page_size": 1, "clock_skew_ms": 3_600_000})
	status, header, reply := l.do(t, "POST", "/list-sra-sessions", object{"token": l.token})
	ahead, err := http.ParseTime(header.Get("Date"))
	if err != nil || status != 500 || reply["error"] != "broken" || time.Until(ahead) < 59*time.Minute {
		t.Errorf("answered %d %v at %s, %v", status, reply, ahead, err)
	}
	if status, _, _ := l.do(t, "POST", "/list-sra-bastions", object{"token": l.token}); status != 403 {
		t.Errorf("a forbidden call answered %d", status)
	}
	put("/lab/switches", object{"html_calls": 1})
	if status, header, _ := l.do(t, "POST", "/list-gateways", object{"token": l.token}); status != 502 || !strings.HasPrefix(header.Get("Content-Type"), "text/html") {
		t.Errorf("answered %d %q", status, header.Get("Content-Type"))
	}
	put("/lab/switches", object{"down": true})
	if response, err := l.client.Post(l.URL()+"/list-gateways", "application/json", strings.NewReader("{}")); err == nil {
		_ = response.Body.Close()
		t.Error("a server that is down answered")
	}
	put("/lab/switches", object{"down": false, "expire_tokens": true})
	if got := l.call(t, "validate-token", object{})["is_valid"]; got != false {
		t.Errorf("expired token valid: %v", got)
	}
}

func TestOnlyLoopback(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if server, err := akeylesstest.NewServer(akeylesstest.Options{Listener: listener}); err == nil {
		_ = server.Close()
		t.Error("listens beyond loopback")
	}
}

// TestIndexOrder reports sessions in random order with moves and a cap, and
// compares every page with a sorted slice.
func TestIndexOrder(t *testing.T) {
	t.Parallel()
	const limit = 4000
	chance := rand.New(rand.NewPCG(1, 2))
	l := start(t, akeylesstest.Options{PageSize: 700, MaxSessions: limit})
	l.login(t)
	var held []akeylesstest.Session
	for i := range 5000 {
		s := session(fmt.Sprintf("s%04d", chance.IntN(4500)), []string{"connected", "completed"}[i%2], time.Duration(chance.IntN(3000))*time.Second)
		if err := l.Report(s); err != nil {
			t.Fatal(err)
		}
		held = slices.DeleteFunc(held, func(other akeylesstest.Session) bool { return other.ID == s.ID })
		held = append(held, s)
	}
	slices.SortFunc(held, func(a, b akeylesstest.Session) int {
		if c := b.StartTime.Compare(a.StartTime); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	})
	for _, statuses := range [][]string{{"connected"}, {"connected", "completed"}} {
		var want []string
		for _, s := range held {
			if slices.Contains(statuses, s.Status) {
				want = append(want, s.ID)
			}
		}
		request, got := object{"status-type": statuses}, []string{}
		for {
			reply := l.call(t, "list-sra-sessions", request)
			got = append(got, ids(reply)...)
			if request["pagination-token"] = reply["next_page"]; reply["next_page"] == "" {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", statuses, diff)
		}
	}
	over := start(t, akeylesstest.Options{MaxSessions: 10})
	for i := range 25 {
		if err := over.Report(session(fmt.Sprintf("s%02d", i), "completed", time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	over.login(t)
	if got := ids(over.call(t, "list-sra-sessions", object{"status-type": []string{"completed"}})); len(got) != 10 || got[9] != "s15" {
		t.Errorf("over the cap it holds %v", got)
	}
}

func BenchmarkReportRandomOrder(b *testing.B) {
	chance := rand.New(rand.NewPCG(1, 2))
	l := start(b, akeylesstest.Options{})
	for i := range 300_000 {
		if err := l.Report(session(fmt.Sprintf("s%06d", i), "completed", time.Duration(chance.IntN(1<<30)))); err != nil {
			b.Fatal(err)
		}
	}
	i := 300_000
	for b.Loop() {
		if err := l.Report(session(fmt.Sprintf("s%06d", i), "completed", time.Duration(chance.IntN(1<<30)))); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
