package akeyless_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"pgregory.net/rapid"
)

// bench is a server, a reader of it and the clock both go by.
type bench struct {
	t      testing.TB
	server *akeylesstest.Server
	client *akeyless.Client
	reader *akeyless.SessionReader
	now    time.Time
	// spoilt makes the start of every listed session unreadable.
	spoilt atomic.Bool
	// slow is how long the server takes for a page of sessions.
	slow time.Duration
}

func newBench(t testing.TB, o akeylesstest.Options, change ...func(*akeyless.ReaderOptions)) *bench {
	t.Helper()
	b := &bench{t: t, now: noon}
	if o.Now == nil {
		o.Now = func() time.Time { return b.now }
	}
	b.server = startServer(t, o)
	b.server.SetCluster(akeylesstest.Cluster{Name: "v/west"})
	b.server.SetCluster(akeylesstest.Cluster{Name: "v/east"})
	b.client = newClient(t, b.server.URL(), through(b), func(o *akeyless.Options) { o.Now = func() time.Time { return b.now } })
	options := akeyless.ReaderOptions{
		Client:    b.client,
		Clusters:  map[string]fleet.ClusterID{"v/west": "west", "v/east": "east"},
		SourceLag: 2 * time.Second, Overlap: 5 * time.Second, Lookback: time.Hour,
		Now: func() time.Time { return b.now },
	}
	for _, f := range change {
		f(&options)
	}
	var err error
	if b.reader, err = akeyless.NewSessionReader(options); err != nil {
		t.Fatal(err)
	}
	return b
}

// RoundTrip asks the server, and spoils what it says when told to.
func (b *bench) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "list-sra-sessions") {
		b.now = b.now.Add(b.slow)
	}
	response, err := b.server.Transport().RoundTrip(r)
	if err != nil || !b.spoilt.Load() {
		return response, err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(bytes.ReplaceAll(body, []byte(`"start_time":`), []byte(`"start_time":null,"was":`))))
	return response, nil
}

// report upserts a session of a cluster that started so long after noon.
func (b *bench) report(t testing.TB, id, cluster, status string, start time.Duration) {
	t.Helper()
	s := akeylesstest.Session{ID: id, Status: status, StartTime: noon.Add(start), Gateway: akeylesstest.GatewayInfo{ClusterName: cluster}, UserIdentifier: "ann", TargetName: "db"}
	if status != "connecting" && status != "connected" {
		s.EndTime = noon.Add(start + time.Second)
	}
	if err := b.server.Report(s); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) poll(t testing.TB) akeyless.Page {
	t.Helper()
	page, err := b.reader.Poll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func states(page akeyless.Page) string {
	var all []string
	for _, s := range page.Sessions {
		all = append(all, fmt.Sprintf("%s/%s=%s", s.Cluster, s.ID, s.Status))
	}
	return strings.Join(all, " ")
}

func wantStates(t testing.TB, page akeyless.Page, want string) {
	t.Helper()
	if got := states(page); got != want {
		t.Errorf("poll returned %q, want %q", got, want)
	}
}

func wantBlind(t testing.TB, page akeyless.Page, want map[fleet.ClusterID]string) {
	t.Helper()
	for _, mark := range page.Marks {
		part, blind := want[mark.Cluster]
		if mark.Blind != blind || !strings.Contains(mark.BlindReason, part) {
			t.Errorf("mark of %s is %+v, want blind %t because of %q", mark.Cluster, mark, blind, part)
		}
	}
}

// listSessions reads pages into one until it holds at least limit sessions.
func listSessions(t testing.TB, client *akeyless.Client, query akeyless.SessionQuery, limit int) (all akeyless.SessionPage, err error) {
	t.Helper()
	for page, err := range client.SessionPages(t.Context(), query) {
		if err != nil {
			return all, err
		}
		all.Sessions, all.Next = append(all.Sessions, page.Sessions...), page.Next
		if page.GatewaysSaid {
			all.Gateways, all.GatewaysSaid = page.Gateways, true
		}
		if len(all.Sessions) >= limit {
			break
		}
	}
	return all, nil
}

func TestSessionPages(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 10})
	for i := range 35 {
		b.report(t, fmt.Sprintf("s%02d", i), "v/west", "completed", time.Duration(i/3)*time.Second)
	}
	b.server.ExpireTokensAfter(2)
	page, err := listSessions(t, b.client, akeyless.SessionQuery{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Sessions) != 35 || page.Next != "" || len(page.Gateways) != 2 || page.Sessions[0].ID != "s34" || page.Sessions[34].ID != "s00" {
		t.Errorf("got %d sessions, next %q, gateways %v", len(page.Sessions), page.Next, page.Gateways)
	}
	if n := b.server.Requests()["auth"]; n != 2 {
		t.Errorf("authenticated %d times, want 2: the token expired between two pages", n)
	}
	page, err = listSessions(t, b.client, akeyless.SessionQuery{}, 15)
	if err != nil || len(page.Sessions) != 20 || page.Next == "" {
		t.Errorf("limited to 15: got %d sessions, next %q, %v; want two pages and a cursor", len(page.Sessions), page.Next, err)
	}
	b.server.SetOldServer(true)
	page, err = listSessions(t, b.client, akeyless.SessionQuery{}, 1000)
	if !errors.Is(err, akeyless.ErrRepeatedPage) || len(page.Sessions) != 10 {
		t.Errorf("old server: got %d sessions and %v, want the first page and ErrRepeatedPage", len(page.Sessions), err)
	}
}

func TestRepeatedPageIsSeenWhileSessionsArrive(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 10, OldServer: true})
	for i := range 30 {
		b.report(t, fmt.Sprintf("s%03d", i), "v/west", "completed", time.Duration(i)*time.Second)
	}
	pages := 0
	for _, err := range b.client.SessionPages(t.Context(), akeyless.SessionQuery{}) {
		if err != nil {
			if !errors.Is(err, akeyless.ErrRepeatedPage) {
				t.Fatal(err)
			}
			break
		}
		if pages++; pages > 5 {
			t.Fatal("pages without end")
		}
		b.report(t, fmt.Sprintf("n%03d", pages), "v/west", "completed", time.Minute+time.Duration(pages)*time.Second)
	}
	if pages != 1 {
		t.Errorf("took %d pages for real, want 1", pages)
	}
}

func TestPollReturnsWhatChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 3})
	b.report(t, "ancient", "v/west", "completed", -2*time.Hour)
	b.report(t, "ancient-open", "v/west", "connected", -2*time.Hour)
	b.report(t, "b", "v/east", "failed", -time.Second)
	b.report(t, "a", "v/west", "connecting", -time.Second)
	b.report(t, "alien", "v/north", "connected", 0)
	page := b.poll(t)
	wantStates(t, page, "west/ancient-open=connected west/a=connecting east/b=failed")
	if page.Foreign == 0 {
		t.Error("the foreign session was not counted")
	}
	want := []fleet.Mark{
		{Cluster: "east", About: fleet.KindSession, CompleteUntil: noon.Add(-2 * time.Second)},
		{Cluster: "west", About: fleet.KindSession, CompleteUntil: noon.Add(-2 * time.Second)},
	}
	if diff := cmp.Diff(want, page.Marks); diff != "" {
		t.Errorf("marks (-want +got):\n%s", diff)
	}

	b.now = noon.Add(time.Second)
	page = b.poll(t)
	wantStates(t, page, "")
	if !page.Marks[0].CompleteUntil.Equal(noon.Add(-time.Second)) {
		t.Errorf("a quiet poll did not advance the mark: %+v", page.Marks)
	}

	b.now = noon.Add(2 * time.Second)
	b.report(t, "a", "v/west", "connected", -time.Second)
	b.report(t, "late", "v/west", "completed", -3*time.Second) // listed late, within the overlap
	wantStates(t, b.poll(t), "west/late=completed west/a=connected")

	b.now = noon.Add(time.Minute)
	for i := range 40 {
		b.report(t, fmt.Sprintf("n%02d", i), "v/north", "completed", time.Duration(i)*time.Second)
	}
	b.report(t, "a", "v/west", "terminated", -time.Second)
	b.report(t, "ancient-open", "v/west", "completed", -2*time.Hour)
	wantStates(t, b.poll(t), "west/ancient-open=completed west/a=terminated")
	wantStates(t, b.poll(t), "")
}

func TestLongOpenSessionCostsNoDeepRead(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 10})
	b.report(t, "open", "v/west", "connected", 0)
	for i := range 1000 {
		b.report(t, fmt.Sprintf("s%04d", i), "v/west", "completed", time.Duration(i)*time.Second)
	}
	b.now = noon.Add(1000 * time.Second)
	if first := b.poll(t); len(first.Sessions) != 1001 {
		t.Fatalf("first poll returned %d sessions", len(first.Sessions))
	}
	if page := b.poll(t); page.Pages > 3 || len(page.Sessions) != 0 {
		t.Errorf("a quiet poll read %d pages and returned %q", page.Pages, states(page))
	}
	b.report(t, "open", "v/west", "completed", 0)
	page := b.poll(t)
	wantStates(t, page, "west/open=completed")
	if page.Pages < 100 {
		t.Errorf("found the end in %d pages, which cannot be", page.Pages)
	}
	if page = b.poll(t); page.Pages > 3 {
		t.Errorf("still reads %d pages", page.Pages)
	}
}

func TestPollFailsWhole(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 2})
	for i := range 6 {
		b.report(t, fmt.Sprintf("s%d", i), "v/west", "completed", -time.Duration(i)*time.Second)
	}
	b.server.RespondHTML(4) // as often as a call is tried
	if page, err := b.reader.Poll(t.Context()); akeyless.KindOf(err) != akeyless.KindNotJSON || len(page.Marks) != 0 {
		t.Fatalf("got %+v, %v", page, err)
	}
	if page := b.poll(t); len(page.Sessions) != 6 {
		t.Errorf("after the failure the poll returned %q", states(page))
	}
	b.server.SetDown(true)
	if _, err := b.reader.Poll(t.Context()); akeyless.KindOf(err) != akeyless.KindUnreachable {
		t.Fatalf("got %v", err)
	}
}

func TestBlindness(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 2})
	wantBlind(t, b.poll(t), nil)
	b.server.HideGateway("v/west", true)
	wantBlind(t, b.poll(t), map[fleet.ClusterID]string{"west": `"v/west"`})
	b.server.HideGateway("v/east", true)
	wantBlind(t, b.poll(t), map[fleet.ClusterID]string{"west": `LS-VEN-006: allowed_gateways does not list "v/west"`, "east": "sra-reports-access=all"})
	b.server.HideGateway("v/west", false)
	b.server.HideGateway("v/east", false)
	wantBlind(t, b.poll(t), nil)
	b.server.OmitGateways(true)
	wantBlind(t, b.poll(t), map[fleet.ClusterID]string{"west": "does not say", "east": "does not say"})
}

func TestOldServerIsBlindOnlyWhereItMustBe(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 10, OldServer: true})
	for i := range 30 {
		b.report(t, fmt.Sprintf("s%03d", i), "v/west", "completed", time.Duration(i-30)*time.Second)
	}
	b.report(t, "open", "v/west", "connected", -10*time.Minute)
	page := b.poll(t)
	both := map[fleet.ClusterID]string{"west": "repeats its first page", "east": "repeats its first page"}
	wantBlind(t, page, both)
	if !page.Marks[0].CompleteUntil.IsZero() {
		t.Errorf("an incomplete poll made a mark: %+v", page.Marks[0])
	}
	b.now = noon.Add(time.Second)
	page = b.poll(t) // the first page reaches over the overlap
	wantBlind(t, page, nil)
	if !page.Marks[0].CompleteUntil.Equal(noon.Add(-time.Second)) {
		t.Errorf("a complete poll made no mark: %+v", page.Marks[0])
	}
	b.report(t, "open", "v/west", "completed", -10*time.Minute) // its end is beyond page one
	for try := range 3 {
		page = b.poll(t)
		wantBlind(t, page, both)
		wantStates(t, page, "") // nobody knows how it ended, or that it did
		if (page.Lost == 1) != (try == 2) {
			t.Errorf("try %d counted %d lost sessions, want it to be given up with the third", try+1, page.Lost)
		}
	}
	wantBlind(t, b.poll(t), nil)
}

// TestALongHistoryGetsThrough has more to read at first than there is time for.
func TestALongHistoryGetsThrough(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 10}, func(o *akeyless.ReaderOptions) { o.MaxTime = 10 * time.Second })
	for i := range 1000 {
		b.report(t, fmt.Sprintf("s%04d", i), "v/west", "completed", time.Duration(-i)*time.Second)
	}
	b.slow = time.Second
	page := b.poll(t)
	if len(page.Sessions) < 50 || page.Pages > 11 || page.Sessions[len(page.Sessions)-1].ID != "s0000" {
		t.Errorf("read %d sessions in %d pages, want the newest of ten seconds", len(page.Sessions), page.Pages)
	}
	both := map[fleet.ClusterID]string{"west": "could be read in 10s", "east": "could be read in 10s"}
	wantBlind(t, page, both)
	if !page.Marks[0].CompleteUntil.IsZero() {
		t.Errorf("an incomplete poll made a mark: %+v", page.Marks[0])
	}
	b.report(t, "next", "v/west", "completed", 5*time.Second)
	page = b.poll(t)
	wantStates(t, page, "west/next=completed")
	wantBlind(t, page, nil)
	if page.Marks[0].CompleteUntil.IsZero() {
		t.Error("the reader does not get on")
	}

	// A list of active sessions that takes for ever leaves time for the other.
	for i := range 500 {
		b.report(t, fmt.Sprintf("o%03d", i), "v/east", "connected", 20*time.Second)
	}
	for i := range 25 {
		b.report(t, fmt.Sprintf("ended%d", i), "v/west", "completed", 21*time.Second)
	}
	if page := of(b.poll(t), "west"); len(page.Sessions) != 25 {
		t.Errorf("beside many active sessions: %d have ended, want 25", len(page.Sessions))
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{PageSize: 50}, func(o *akeyless.ReaderOptions) { o.MaxSessions = 100 })
	b.poll(t)
	for i := range 300 {
		b.report(t, fmt.Sprintf("s%03d", i), "v/west", "connected", time.Duration(i)*time.Millisecond)
	}
	b.now = noon.Add(time.Second)
	page := b.poll(t)
	if len(page.Sessions) > 200 {
		t.Errorf("one poll returned %d sessions with a limit of 100", len(page.Sessions))
	}
	wantBlind(t, page, map[fleet.ClusterID]string{"west": "more than 100", "east": "more than 100"})
}

func TestUnknownAndUnreadableSessions(t *testing.T) {
	t.Parallel()
	body := `{"sessions":[
		{"session_id":"odd","status":"paused","start_time":"2026-03-01T11:59:59Z","gateway_info":{"cluster_name":"v/west"}},
		{"session_id":"bad","status":"failed","gateway_info":{"cluster_name":"v/west"}}],
		"next_page":"","allowed_gateways":[{"cluster_name":"v/west"},{"cluster_name":"v/east"}],"token":"t-1234"}`
	b := newBench(t, akeylesstest.Options{}, func(o *akeyless.ReaderOptions) {
		o.Client = newClient(t, "http://127.0.0.1", through(answering(func(*http.Request, string) (int, string, string) { return 200, "application/json", body })))
	})
	page := b.poll(t)
	if page.UnknownStatus == 0 || page.Unreadable == 0 || len(page.Sessions) != 0 {
		t.Errorf("got %+v", page)
	}
	wantBlind(t, page, map[fleet.ClusterID]string{"west": "start_time"})
}

func TestReaderOptionsAreChecked(t *testing.T) {
	t.Parallel()
	b := newBench(t, akeylesstest.Options{})
	good := akeyless.ReaderOptions{Client: b.client, Clusters: map[string]fleet.ClusterID{"a": "a"}}
	for name, spoil := range map[string]func(*akeyless.ReaderOptions){
		"no client":       func(o *akeyless.ReaderOptions) { o.Client = nil },
		"no clusters":     func(o *akeyless.ReaderOptions) { o.Clusters = nil },
		"negative lag":    func(o *akeyless.ReaderOptions) { o.SourceLag = -1 },
		"negative time":   func(o *akeyless.ReaderOptions) { o.MaxTime = -1 },
		"overlap too low": func(o *akeyless.ReaderOptions) { o.SourceLag, o.Overlap = 2, 1 },
	} {
		o := good
		spoil(&o)
		if _, err := akeyless.NewSessionReader(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := akeyless.NewSessionReader(good); err != nil {
		t.Error(err)
	}
}

// TestReaderKeepsUp states the reader's law: after every successful poll, what
// was returned so far, folded by id, is what the server holds; nothing is
// returned twice in one state; and each page is in start order. Starts come up
// to the source lag late.
func TestReaderKeepsUp(t *testing.T) {
	t.Parallel()
	key := secretFile(t, akeylesstest.AccessKey)
	rapid.Check(t, func(t *rapid.T) {
		now := noon
		server, err := akeylesstest.NewServer(akeylesstest.Options{PageSize: rapid.IntRange(1, 7).Draw(t, "page size"), Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.Close() }()
		server.SetCluster(akeylesstest.Cluster{Name: "v/west"})
		client, err := akeyless.New(akeyless.Options{
			BaseURL: server.URL(), Auth: akeyless.Auth{AccessID: akeylesstest.AccessID, KeyFile: key},
			HTTPClient: &http.Client{Transport: server.Transport()}, Chance: func() float64 { return 0 },
			Now: func() time.Time { return now },
		})
		if err != nil {
			t.Fatal(err)
		}
		skew := time.Duration(rapid.IntRange(-60, 0).Draw(t, "vendor clock ahead by s")) * time.Second
		reader, err := akeyless.NewSessionReader(akeyless.ReaderOptions{
			Client: client, Clusters: map[string]fleet.ClusterID{"v/west": "west"},
			SourceLag: 2 * time.Second, Overlap: 2 * time.Second, Now: func() time.Time { return now },
		})
		if err != nil {
			t.Fatal(err)
		}
		held := map[string]akeylesstest.Session{}
		told := map[string]string{}
		next := map[string][]string{"connecting": {"connected", "failed"}, "connected": {"completed", "terminated"}}
		for range rapid.IntRange(1, 40).Draw(t, "actions") {
			now = now.Add(time.Duration(rapid.IntRange(0, 900).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 4).Draw(t, "action") {
			case 0, 1:
				id := fmt.Sprintf("s%d", len(held))
				late := time.Duration(rapid.IntRange(0, 1999).Draw(t, "late ms")) * time.Millisecond
				s := akeylesstest.Session{ID: id, StartTime: now.Add(skew - late), Gateway: akeylesstest.GatewayInfo{ClusterName: "v/west"},
					Status: rapid.SampledFrom([]string{"connecting", "connected", "failed", "completed"}).Draw(t, "status")}
				held[id] = s
				if err := server.Report(s); err != nil {
					t.Fatal(err)
				}
			case 2:
				for _, id := range slices.Sorted(maps.Keys(held)) {
					s := held[id]
					if after := next[s.Status]; len(after) > 0 && rapid.Bool().Draw(t, "moves") {
						s.Status = rapid.SampledFrom(after).Draw(t, "to")
						held[id] = s
						if err := server.Report(s); err != nil {
							t.Fatal(err)
						}
					}
				}
			default:
				if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
					server.RespondHTML(4) // as often as a call is tried
					if _, err := reader.Poll(t.Context()); err == nil {
						t.Fatal("the poll did not fail")
					}
					continue
				}
				server.ExpireTokensAfter(rapid.IntRange(0, 3).Draw(t, "token lasts"))
				page, err := reader.Poll(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if !slices.IsSortedFunc(page.Sessions, func(a, b fleet.Session) int { return a.Start.Compare(b.Start) }) {
					t.Fatalf("not in start order: %v", page.Sessions)
				}
				for _, s := range page.Sessions {
					if told[string(s.ID)] == string(s.Status) {
						t.Fatalf("%s told twice as %s", s.ID, s.Status)
					}
					told[string(s.ID)] = string(s.Status)
				}
				for id, s := range held {
					if told[id] != s.Status {
						t.Fatalf("%s is %s, told %q", id, s.Status, told[id])
					}
				}
				if m := page.Marks[0]; m.Blind || !m.CompleteUntil.Equal(now.Add(-2*time.Second)) {
					t.Fatalf("mark %+v at %s", m, now)
				}
			}
		}
	})
}

func BenchmarkPollBusy(b *testing.B) {
	bench := newBench(b, akeylesstest.Options{PageSize: 1000})
	for i := range 300_000 {
		bench.report(b, fmt.Sprintf("s%06d", i), "v/west", "completed", time.Duration(i)*time.Second/300)
	}
	bench.now = noon.Add(1000 * time.Second)
	bench.poll(b)
	next := 300_000
	for b.Loop() {
		for range 300 { // one second of sessions
			bench.report(b, fmt.Sprintf("s%06d", next), "v/west", "completed", time.Duration(next)*time.Second/300)
			next++
		}
		bench.now = bench.now.Add(time.Second)
		if page := bench.poll(b); len(page.Sessions) != 300 {
			b.Fatalf("returned %d sessions", len(page.Sessions))
		}
	}
}
