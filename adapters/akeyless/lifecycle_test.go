package akeyless_test

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestSessionIsToldOnceInEachStatus(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 2})
	for _, step := range []struct{ listed, want string }{
		{"connecting", "west/s=connecting"},
		{"connecting", ""},
		{"connected", "west/s=connected"},
		{"connecting", ""}, // a server that lags behind itself
		{"connected", ""},
		{"failed", "west/s=failed"},
		{"failed", ""},
		{"connected", ""},
		{"completed", ""}, // the first end counts
	} {
		b.now = b.now.Add(time.Second)
		b.report(t, "s", "v/west", step.listed, 0)
		for i, want := range []string{step.want, ""} {
			page := b.poll(t)
			if got := states(page); got != want {
				t.Errorf("listed as %s, poll %d: %q, want %q", step.listed, i+1, got, want)
			}
		}
	}
}

func TestSessionVanishes(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 3})
	s := akeylesstest.Session{
		ID: "s", Status: "connected", StartTime: noon.Add(-30 * time.Minute), Gateway: akeylesstest.GatewayInfo{ClusterName: "v/west"},
		UserIdentifier: "ann", TargetName: "db", TargetType: "mysql-target", InstanceID: "i-1", ConnectionType: "mysql",
	}
	if err := b.server.Report(s); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		b.report(t, fmt.Sprintf("other%d", i), "v/east", "completed", time.Duration(-i)*time.Minute)
	}
	b.poll(t)
	b.server.Forget("s")
	b.now = b.now.Add(time.Second)
	page := b.poll(t)
	want := []fleet.Session{{
		ID: "s", Cluster: "west", Status: fleet.SessionVanished, Start: s.StartTime,
		User: "ann", Target: "db", TargetType: "mysql-target", InstanceID: "i-1", Protocol: "mysql",
	}}
	if diff := cmp.Diff(want, page.Sessions); diff != "" {
		t.Errorf("the session that vanished (-want +got):\n%s", diff)
	}
	wantBlind(t, page, nil)
	wantStates(t, b.poll(t), "")

	if err := b.server.Report(s); err != nil {
		t.Fatal(err)
	}
	wantStates(t, b.poll(t), "west/s=connected") // back as what it is
	wantStates(t, b.poll(t), "")
	b.server.Forget("s")
	wantStates(t, b.poll(t), "west/s=vanished")
	s.Status, s.EndTime = "completed", noon
	if err := b.server.Report(s); err != nil {
		t.Fatal(err)
	}
	b.report(t, "recent", "v/west", "connected", 0)
	b.now = b.now.Add(time.Second)
	b.poll(t) // beyond what this reads; nothing else waits for an end there
	b.server.Forget("recent")
	if got := states(b.poll(t)); got != "west/recent=vanished" {
		t.Errorf("got %q", got)
	}
	b.report(t, "recent", "v/west", "completed", 0)
	wantStates(t, b.poll(t), "west/recent=completed")
}

// TestNobodyVanishesUnseen takes open sessions out of the list in ways that are
// not their end.
func TestNobodyVanishesUnseen(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil, mend func(*bench)
		after       string // what the polls after mending return
	}{
		"hidden with its gateway": {
			func(b *bench) { b.server.HideGateway("v/west", true) },
			func(b *bench) { b.server.HideGateway("v/west", false) }, "",
		},
		"hidden, and ended meanwhile": {
			func(b *bench) { b.server.HideGateway("v/west", true) },
			func(b *bench) {
				b.report(b.t, "s", "v/west", "completed", -30*time.Minute)
				b.server.HideGateway("v/west", false)
			}, "west/s=completed",
		},
		"own sessions only": {
			func(b *bench) { b.server.SetScope(akeylesstest.AccessID, akeylesstest.ScopeOwn) },
			func(b *bench) { b.server.SetScope(akeylesstest.AccessID, akeylesstest.ScopeAll) }, "",
		},
		"a list cut by an old server": {
			func(b *bench) { b.server.Forget("s"); b.server.SetOldServer(true) },
			func(b *bench) { b.server.SetOldServer(false) }, "west/s=vanished",
		},
		"unreadable": {
			func(b *bench) { b.spoilt.Store(true) },
			func(b *bench) { b.spoilt.Store(false) }, "",
		},
		"of another cluster": {
			func(b *bench) { b.report(b.t, "s", "v/north", "connected", -30*time.Minute) },
			func(b *bench) { b.report(b.t, "s", "v/west", "connected", -30*time.Minute) }, "",
		},
		"a poll that fails": {
			func(b *bench) { b.server.Forget("s"); b.server.SetDown(true) },
			func(b *bench) { b.report(b.t, "s", "v/west", "connected", -30*time.Minute); b.server.SetDown(false) }, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, akeylesstest.Options{PageSize: 3})
			b.report(t, "s", "v/west", "connected", -30*time.Minute)
			for i := range 20 {
				b.report(t, fmt.Sprintf("other%d", i), "v/east", "completed", time.Duration(-i)*time.Minute)
			}
			wantStates(t, of(b.poll(t), "west"), "west/s=connected")
			tc.spoil(b)
			for range 2 {
				b.now = b.now.Add(time.Second)
				if p, err := b.reader.Poll(t.Context()); err == nil {
					wantStates(t, p, "")
				}
			}
			tc.mend(b)
			wantStates(t, b.poll(t), tc.after)
			wantStates(t, b.poll(t), "")
		})
	}
}

// of keeps the sessions of one cluster.
func of(p akeyless.Page, cluster fleet.ClusterID) akeyless.Page {
	var kept []fleet.Session
	for _, s := range p.Sessions {
		if s.Cluster == cluster {
			kept = append(kept, s)
		}
	}
	p.Sessions = kept
	return p
}

func TestMarksUnderWrongClocks(t *testing.T) {
	t.Parallel()
	const lag = 2 * time.Second
	for name, tc := range map[string]struct {
		server   time.Duration // how far the server's clock is ahead of ours
		complete time.Duration // of noon by our clock, less the lag
		skew     time.Duration
	}{
		"the same":            {0, 0, 0},
		"a little behind":     {-700 * time.Millisecond, 0, 0},
		"the server is ahead": {10 * time.Minute, 0, 10 * time.Minute},
		"ours is ahead":       {-10 * time.Minute, -10 * time.Minute, -10 * time.Minute},
		"ours is a day ahead": {-24 * time.Hour, -24 * time.Hour, -24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, akeylesstest.Options{})
			b.now = noon.Add(400 * time.Millisecond) // which a date does not say
			b.server.SetClockSkew(tc.server)
			b.report(t, "s", "v/west", "connected", tc.server) // it starts by the server's clock
			p := b.poll(t)
			if got := states(p); got != "west/s=connected" {
				t.Errorf("returned %q", got)
			}
			for _, m := range p.Marks {
				off := m.CompleteUntil.Sub(b.now.Add(tc.complete - lag))
				if off > 0 || off < -1500*time.Millisecond || tc.server == 0 && off != 0 {
					t.Errorf("complete until %s, want %s from now less the lag, and no more", m.CompleteUntil, tc.complete)
				}
				if (m.Skew - tc.skew).Abs() > time.Second {
					t.Errorf("skew %s, want %s", m.Skew, tc.skew)
				}
			}
			// Sessions to come start by the server's clock too.
			b.now = b.now.Add(time.Hour)
			b.report(t, "later", "v/west", "completed", time.Hour+tc.server)
			wantStates(t, b.poll(t), "west/later=completed")
		})
	}
}

func TestMarkNeverStepsBack(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{})
	latest := b.poll(t).Marks[0].CompleteUntil
	for _, step := range []struct{ ours, server time.Duration }{
		{time.Second, 0}, {-10 * time.Minute, 0}, {-9 * time.Minute, 10 * time.Minute}, {2 * time.Second, -time.Hour}, {3 * time.Second, 365 * 24 * time.Hour}, {4 * time.Second, 0},
	} {
		b.now = noon.Add(step.ours)
		b.server.SetClockSkew(step.server)
		m := b.poll(t).Marks[0]
		if m.CompleteUntil.Before(latest) {
			t.Errorf("at %s with the server %s ahead the mark went back to %s", step.ours, step.server, m.CompleteUntil)
		}
		if known := b.now.Add(min(step.server, 0)); m.CompleteUntil.After(latest) && m.CompleteUntil.After(known) {
			t.Errorf("at %s with the server %s ahead the mark promises %s", step.ours, step.server, m.CompleteUntil)
		}
		latest = m.CompleteUntil
	}
}

// TestClockIsTakenOfTheMiddle moves the clock while the server answers.
func TestClockIsTakenOfTheMiddle(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		took, date, want time.Duration
	}{
		"a slow answer, the same clock":  {4 * time.Second, 2 * time.Second, 0},
		"a slow answer that explains it": {20 * time.Second, 3 * time.Second, 0},
		"a slow answer and a minute":     {4 * time.Second, 62 * time.Second, time.Minute + 500*time.Millisecond},
	} {
		now := noon
		client := newClient(t, "http://127.0.0.1", through(roundTrip(func(r *http.Request) (*http.Response, error) {
			body := `{"token":"t-12345","expiration":"2026-03-01T13:00:00Z","sessions":[],"allowed_gateways":[{"cluster_name":"c"}]}`
			began := now
			now = now.Add(tc.took)
			return &http.Response{
				StatusCode: 200, Body: io.NopCloser(strings.NewReader(body)), Request: r,
				Header: http.Header{"Date": {began.Add(tc.date).Format(http.TimeFormat)}},
			}, nil
		})), func(o *akeyless.Options) { o.Now = func() time.Time { return now } })
		reader, err := akeyless.NewSessionReader(akeyless.ReaderOptions{Client: client, Clusters: map[string]fleet.ClusterID{"c": "c"}, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		p, err := reader.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Marks[0].Skew; got != tc.want {
			t.Errorf("%s: skew %s, want %s", name, got, tc.want)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestOddListsAreHarmless(t *testing.T) {
	t.Parallel()
	const gateways = `"allowed_gateways":[{"cluster_name":"v/west"},{"cluster_name":"v/east"}]`
	session := func(id, more string) string {
		return `{"session_id":"` + id + `","status":"connected","start_time":"2026-03-01T11:59:00Z","gateway_info":{"cluster_name":"v/west"}` + more + `}`
	}
	for name, tc := range map[string]struct {
		answer, want string
		unreadable   bool
	}{
		"the same twice":       {`{"sessions":[` + session("a", "") + `,` + session("a", "") + `],` + gateways + `}`, "west/a=connected", false},
		"twice, later first":   {`{"sessions":[` + session("a", `,"status":"completed"`) + `,` + session("a", "") + `],` + gateways + `}`, "west/a=completed", false},
		"twice, later second":  {`{"sessions":[` + session("a", "") + `,` + session("a", `,"status":"completed"`) + `],` + gateways + `}`, "west/a=completed", false},
		"no start":             {`{"sessions":[` + session("a", `,"start_time":"0001-01-01T00:00:00Z"`) + `],` + gateways + `}`, "", true},
		"null everywhere":      {`{"sessions":[` + session("a", `,"end_time":null,"error_msg":null,"user_identifier":null,"instance_id":null,"ttl":null`) + `],"next_page":null,` + gateways + `}`, "west/a=connected", false},
		"a null session":       {`{"sessions":[null,` + session("a", "") + `],` + gateways + `}`, "west/a=connected", true},
		"no sessions":          {`{"sessions":null,` + gateways + `}`, "", false},
		"unknown keys":         {`{"more":{"a":[1,{"b":[]}]},"sessions":[` + session("a", `,"x":[[]]`) + `],` + gateways + `,"last":1}`, "west/a=connected", false},
		"gateways first":       {`{` + gateways + `,"next_page":"","sessions":[` + session("a", "") + `]}`, "west/a=connected", false},
		"a text of a megabyte": {`{"sessions":[` + session("a", `,"status":"failed","error_msg":"`+strings.Repeat("x ", 1<<19)+`connection refused"`) + `],` + gateways + `}`, "west/a=failed", false},
		"the far future":       {`{"sessions":[` + session("a", `,"start_time":"9999-12-31T23:59:59Z"`) + `],` + gateways + `}`, "west/a=connected", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, akeylesstest.Options{}, func(o *akeyless.ReaderOptions) {
				o.Client = newClient(t, "http://127.0.0.1", through(script{
					"auth":              func(string) (int, string) { return 200, `{"token":"t-12345"}` },
					"validate-token":    func(string) (int, string) { return 200, `{}` },
					"list-sra-sessions": func(string) (int, string) { return 200, tc.answer },
				}))
			})
			p := b.poll(t)
			wantStates(t, p, tc.want)
			if (p.Unreadable > 0) != tc.unreadable || p.Marks[1].Blind != tc.unreadable {
				t.Errorf("unreadable %d, mark %+v", p.Unreadable, p.Marks[1])
			}
			if len(p.Sessions) > 0 && (p.Sessions[0].Failure == fleet.FailureRefused) != strings.Contains(tc.want, "failed") {
				t.Errorf("failure %q", p.Sessions[0].Failure)
			}
			wantStates(t, b.poll(t), "")
		})
	}
}

func TestDuplicatesOverPages(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 5})
	b.server.SetDuplicates(true)
	b.server.SetNulls(true)
	b.server.SetZeroTimes(true)
	for i := range 40 {
		b.report(t, fmt.Sprintf("s%02d", i), "v/west", "connected", time.Duration(-i)*time.Second)
	}
	p := b.poll(t)
	if len(p.Sessions) != 40 || p.Marks[0].Blind {
		t.Errorf("returned %d sessions of 40, mark %+v", len(p.Sessions), p.Marks[0])
	}
	wantStates(t, b.poll(t), "")
}

// TestOneHugePage lists 100,000 sessions at once, more than 32 MiB of them.
func TestOneHugePage(t *testing.T) {
	t.Parallel()
	const sessions = 100_000
	var size int64
	client := newClient(t, "http://127.0.0.1", through(roundTrip(func(r *http.Request) (*http.Response, error) {
		body := io.Reader(strings.NewReader(`{"token":"t-12345","expiration":"2099-01-01T00:00:00Z"}`))
		if strings.HasSuffix(r.URL.Path, "list-sra-sessions") {
			body = io.TeeReader(huge(sessions), counter{&size})
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(body), Request: r}, nil
	})), func(o *akeyless.Options) { o.Timeout = 5 * time.Minute }) // the time is the machine's, not the subject
	page, err := listSessions(t, client, akeyless.SessionQuery{}, sessions)
	if err != nil || len(page.Sessions) != sessions || page.Next != "" || !page.GatewaysSaid {
		t.Fatalf("read %d sessions of %d: %v", len(page.Sessions), sessions, err)
	}
	if size < 32<<20 {
		t.Fatalf("the page had only %d bytes", size)
	}
}

type counter struct{ n *int64 }

func (c counter) Write(p []byte) (int, error) {
	*c.n += int64(len(p))
	return len(p), nil
}

// huge is a page of n open sessions, as long as the vendor's, made while it is
// read.
func huge(n int) io.Reader {
	made := 0
	var left []byte
	return readerFunc(func(p []byte) (int, error) {
		for len(left) == 0 {
			switch {
			case made == 0:
				left = []byte(`{"sessions":[` + hugeSession(0))
			case made < n:
				left = []byte("," + hugeSession(made))
			case made == n:
				left = []byte(`],"next_page":"","allowed_gateways":[{"cluster_name":"acc-1/p-1/west"}]}`)
			default:
				return 0, io.EOF
			}
			made++
		}
		read := copy(p, left)
		left = left[read:]
		return read, nil
	})
}

func hugeSession(i int) string {
	return fmt.Sprintf(`{"session_id":"5f0c1d9e-7a54-4a0e-9d0b-%012d","status":"connected","start_time":"2026-03-01T11:00:00.%09dZ","end_time":null,`+
		`"connection_type":"ssh","client_type":"cli","cluster_unique_id":12345678,"instance_id":"akeyless-ssh-%d","gateway_info":{"cluster_name":"acc-1/p-1/west","cluster_display_name":"West"},`+
		`"access_id":"p-%09d","user_identifier":"person.%d@example.org","target_host":"10.1.%d.%d","target_name":"/targets/host-%d","target_type":"ssh-target","target_id":"%d","secret_name":"/sra/issuer","error_msg":"","ttl":"3600"}`,
		i, 999_999_999-i, i%7, i%5000, i%5000, i/250%250, i%250, i%20_000, i%20_000)
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// BenchmarkOpenSessions reports what a reader holds for each open session, after
// a poll that met 200,000 of them in one page, and the most that poll had in use.
func BenchmarkOpenSessions(b *testing.B) {
	const sessions = 200_000
	client := newClient(b, "http://127.0.0.1", through(roundTrip(func(r *http.Request) (*http.Response, error) {
		body := io.Reader(strings.NewReader(`{"token":"t-12345","expiration":"2099-01-01T00:00:00Z"}`))
		if strings.HasSuffix(r.URL.Path, "list-sra-sessions") {
			body = huge(sessions)
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(body), Request: r}, nil
	})), func(o *akeyless.Options) { o.Timeout = 5 * time.Minute })
	for b.Loop() {
		reader, err := akeyless.NewSessionReader(akeyless.ReaderOptions{
			Client: client, Clusters: map[string]fleet.ClusterID{"acc-1/p-1/west": "west"}, MaxSessions: 2 * sessions,
			Now: func() time.Time { return noon },
		})
		if err != nil {
			b.Fatal(err)
		}
		before := inUse()
		page, err := reader.Poll(b.Context())
		if err != nil || len(page.Sessions) != sessions {
			b.Fatalf("returned %d sessions: %v", len(page.Sessions), err)
		}
		during := inUse()
		runtime.KeepAlive(page)
		held := inUse() // without the page
		b.ReportMetric(float64(held-before)/sessions, "held-B/session")
		b.ReportMetric(float64(during-held)/sessions, "page-B/session")
		runtime.KeepAlive(reader)
	}
}

// inUse is what the heap holds once nothing more can be let go.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // shared strings are let go one turn later
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkReadHugePage reads 100,000 sessions of one page.
func BenchmarkReadHugePage(b *testing.B) {
	client := newClient(b, "http://127.0.0.1", through(roundTrip(func(r *http.Request) (*http.Response, error) {
		body := io.Reader(strings.NewReader(`{"token":"t-12345","expiration":"2099-01-01T00:00:00Z"}`))
		if strings.HasSuffix(r.URL.Path, "list-sra-sessions") {
			body = huge(100_000)
		}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(body), Request: r}, nil
	})), func(o *akeyless.Options) { o.Timeout = 5 * time.Minute })
	for b.Loop() {
		for p, err := range client.SessionPages(b.Context(), akeyless.SessionQuery{}) {
			if err != nil || len(p.Sessions) != 100_000 {
				b.Fatalf("read %d sessions: %v", len(p.Sessions), err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100_000, "ns/session")
}
