package akeyless_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/integration/fakes/akeyless"
)

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	good = akeyless.Pair{Gateway: "4.52.0", SRA: "3.0.3"}
	bad  = akeyless.Pair{Gateway: "4.52.0", SRA: "3.1.0"}
)

// vendor is a fleet, its server and a client that asks over the wire.
type vendor struct {
	*akeyless.Fleet
	server *akeylesstest.Server
	token  string
}

func start(t testing.TB, script akeyless.Script, o akeylesstest.Options) *vendor {
	t.Helper()
	server, err := akeylesstest.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if got := server.Violations(); len(got) != 0 {
			t.Errorf("requests broke the schema: %q", got)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	if script.Begin.IsZero() {
		script.Begin = noon
	}
	f, err := akeyless.New(server, script)
	if err != nil {
		t.Fatal(err)
	}
	return &vendor{Fleet: f, server: server}
}

func (v *vendor) step(t testing.TB, after time.Duration) {
	t.Helper()
	if err := v.Step(noon.Add(after)); err != nil {
		t.Fatal(err)
	}
}

// call asks the server, logged in, and returns the status and the answer.
func (v *vendor) call(t testing.TB, name string, request map[string]any, reply any) int {
	t.Helper()
	if v.token == "" && name != "auth" {
		var in struct {
			Token string `json:"token"`
		}
		v.call(t, "auth", map[string]any{"access-id": akeylesstest.AccessID, "access-key": akeylesstest.AccessKey}, &in)
		v.token = in.Token
	}
	sent := map[string]any{}
	maps.Copy(sent, request)
	if name != "auth" {
		sent["token"] = v.token
	}
	body, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, v.server.URL()+"/"+name, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: v.server.Transport()}
	response, err := client.Do(r)
	if err != nil {
		return 0
	}
	defer func() { _ = response.Body.Close() }()
	if err := json.NewDecoder(response.Body).Decode(reply); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}

// listed is every session that the vendor lists, by id.
func (v *vendor) listed(t testing.TB, statuses ...string) map[string]akeylesstest.Session {
	t.Helper()
	all := map[string]akeylesstest.Session{}
	request := map[string]any{"status-type": statuses}
	for {
		var page struct {
			Sessions []akeylesstest.Session `json:"sessions"`
			Next     string                 `json:"next_page"`
		}
		if status := v.call(t, "list-sra-sessions", request, &page); status != 200 {
			t.Fatalf("list-sra-sessions answered %d", status)
		}
		for _, s := range page.Sessions {
			all[s.ID] = s
		}
		if page.Next == "" {
			return all
		}
		request["pagination-token"] = page.Next
	}
}

var everyStatus = []string{"connecting", "connected", "failed", "completed", "terminated"}

// busy is a script in which everything happens.
func busy(seed uint64, observe func(akeylesstest.Session)) akeyless.Script {
	return akeyless.Script{
		Seed: seed, Clusters: akeyless.Uniform(3, 2, good),
		Traffic:  akeyless.Traffic{Rate: 0.2, Duration: 2 * time.Minute, Terminated: 0.1, Vanishing: 0.05},
		Ordinary: akeyless.Failing{Rate: 0.1},
		Failures: map[akeyless.Pair]akeyless.Failing{bad: {Rate: 0.5, Causes: []fleet.Failure{fleet.FailureLegacySSH, fleet.FailureLost}}},
		Observe:  observe,
	}
}

// TestLifeOfSessions states the laws of traffic: statuses only move forward,
// every session reaches one end or vanishes, times are in order, and the vendor
// lists exactly what is true.
func TestLifeOfSessions(t *testing.T) {
	t.Parallel()
	next := map[string][]string{
		"":           {"connecting"},
		"connecting": {"connected", "failed", akeyless.Vanished},
		"connected":  {"failed", "completed", "terminated", akeyless.Vanished},
	}
	for seed := range uint64(20) {
		truth := map[string]akeylesstest.Session{}
		v := start(t, busy(seed, func(s akeylesstest.Session) {
			before := truth[s.ID]
			if !slices.Contains(next[before.Status], s.Status) {
				t.Errorf("seed %d: session %s went from %q to %q", seed, s.ID, before.Status, s.Status)
			}
			if before.Status != "" && !before.StartTime.Equal(s.StartTime) {
				t.Errorf("seed %d: session %s began twice", seed, s.ID)
			}
			ended := slices.Contains(everyStatus[2:], s.Status)
			if ended != s.EndTime.After(s.StartTime) || ended == s.EndTime.IsZero() {
				t.Errorf("seed %d: session %s is %s from %s to %s", seed, s.ID, s.Status, s.StartTime, s.EndTime)
			}
			if (s.Status == "failed") != (s.ErrorMsg != "") {
				t.Errorf("seed %d: session %s is %s with the error %q", seed, s.ID, s.Status, s.ErrorMsg)
			}
			broke := strings.Contains(s.ErrorMsg, "broken pipe") || strings.Contains(s.ErrorMsg, "websocket: close")
			if s.Status == "failed" && broke != (before.Status == "connected") {
				t.Errorf("seed %d: session %s failed while %s of %q", seed, s.ID, before.Status, s.ErrorMsg)
			}
			truth[s.ID] = s
		}), akeylesstest.Options{PageSize: 100})
		for minute := range 30 {
			v.step(t, time.Duration(minute)*time.Minute)
			if minute == 10 {
				if err := v.SetVersions("acc-lab/p-lab/c0002", bad); err != nil {
					t.Fatal(err)
				}
			}
		}
		listed := v.listed(t, everyStatus...)
		open := 0
		for id, s := range truth {
			got, found := listed[id]
			if found != (s.Status != akeyless.Vanished) || found && (got.Status != s.Status || !got.EndTime.Equal(s.EndTime) || got.ErrorMsg != s.ErrorMsg) {
				t.Errorf("seed %d: the vendor lists %+v, true is %+v", seed, got, s)
			}
			if s.Status == "connecting" || s.Status == "connected" {
				open++
			}
		}
		c := v.Counts()
		if len(listed) != c.Started-c.Vanished || c.Open != open || c.Started != len(truth) || c.Started != c.Open+c.Failed+c.Completed+c.Terminated+c.Vanished {
			t.Errorf("seed %d: %d listed, %d true, %d open, counts %+v", seed, len(listed), len(truth), open, c)
		}
		if c.Failed == 0 || c.Completed == 0 || c.Terminated == 0 || c.Vanished == 0 || c.Open == 0 {
			t.Errorf("seed %d: something never happened: %+v", seed, c)
		}
	}
}

// TestSameSeedSameTraffic also shows that neither the cutting of time into steps
// nor versions decide which sessions there are, and that one cluster's fate is
// not another's.
func TestSameSeedSameTraffic(t *testing.T) {
	t.Parallel()
	tell := func(seed uint64, step time.Duration, upgrade bool) (all, others, starts string) {
		var told, elsewhere, begun strings.Builder
		script := busy(seed, func(s akeylesstest.Session) {
			fmt.Fprintf(&told, "%+v\n", s)
			if s.Gateway.ClusterDisplayName != "c0002" {
				fmt.Fprintf(&elsewhere, "%+v\n", s)
			}
			if s.Status == "connecting" {
				fmt.Fprintf(&begun, "%+v\n", s)
			}
		})
		v := start(t, script, akeylesstest.Options{})
		for at := time.Duration(0); at <= time.Hour; at += step {
			v.step(t, at)
			if at == 30*time.Minute && upgrade {
				if err := v.SetVersions("acc-lab/p-lab/c0002", bad); err != nil {
					t.Fatal(err)
				}
			}
		}
		return told.String(), elsewhere.String(), begun.String()
	}
	first, others, starts := tell(1, time.Second, false)
	if again, _, _ := tell(1, 30*time.Minute, false); again != first || first == "" {
		t.Error("the same seed in other steps made other sessions")
	}
	if other, _, _ := tell(2, time.Minute, false); other == first {
		t.Error("another seed made the same sessions")
	}
	upgraded, unmoved, begun := tell(1, time.Minute, true)
	if upgraded == first {
		t.Error("other versions changed nothing")
	}
	if begun != starts {
		t.Error("other versions changed which sessions there are, not only how they end")
	}
	if unmoved != others {
		t.Error("an upgrade of one cluster changed the sessions of others")
	}
}

func TestVersionsDecideWhatFails(t *testing.T) {
	t.Parallel()
	script := akeyless.Script{
		Clusters: akeyless.Uniform(2, 2, good),
		Traffic:  akeyless.Traffic{Rate: 1, Duration: time.Second, Protocols: []string{"ssh"}},
		Ordinary: akeyless.Failing{Rate: 0.02},
		Failures: map[akeyless.Pair]akeyless.Failing{bad: {Rate: 0.3, Causes: []fleet.Failure{fleet.FailureIssuerUsers}}},
	}
	v := start(t, script, akeylesstest.Options{})
	const one, two = "acc-lab/p-lab/c0001", "acc-lab/p-lab/c0002"
	rate := func(cluster string, from akeyless.Counts) float64 {
		c := v.Counts(cluster)
		return float64(c.Failed-from.Failed) / float64(c.Started-from.Started)
	}
	near := func(what string, got, want float64) {
		t.Helper()
		if sd := math.Sqrt(want * (1 - want) / 7200); math.Abs(got-want) > 5*sd {
			t.Errorf("%s: %.3f fail, want about %.3f", what, got, want)
		}
	}
	v.step(t, 2*time.Hour)
	near("the good pair", rate(one, akeyless.Counts{}), 0.02)
	if err := v.SetVersions(one, bad); err != nil {
		t.Fatal(err)
	}
	if err := v.SetBastion(two, 1, bad.SRA); err != nil {
		t.Fatal(err)
	}
	beforeOne, beforeTwo := v.Counts(one), v.Counts(two)
	v.step(t, 4*time.Hour)
	near("the bad pair", rate(one, beforeOne), 0.3)
	near("one bad bastion of two", rate(two, beforeTwo), 0.16)
	issuer := 0
	for _, s := range v.listed(t, "failed") {
		if strings.Contains(s.ErrorMsg, "not part of allowed user list") {
			issuer++
			if s.Gateway.ClusterName == two && s.InstanceID != "ssh-c0002-1" {
				t.Errorf("a session of a good bastion failed of the bad version: %+v", s)
			}
			if !strings.Contains(s.ErrorMsg, "username session_"+s.ID[:8]) {
				t.Errorf("the words of %s are %q", s.ID, s.ErrorMsg)
			}
		}
	}
	if issuer == 0 {
		t.Error("no session failed of the cause that was asked for")
	}
	if err := v.SetVersions(one, good); err != nil {
		t.Fatal(err)
	}
	before := v.Counts(one)
	v.step(t, 6*time.Hour)
	near("turned back", rate(one, before), 0.02)
	if v.SetVersions("nowhere", good) == nil || v.SetBastion(one, 2, "x") == nil || v.SetBastion(one, -1, "x") == nil {
		t.Error("versions of what does not exist were changed")
	}
}

func TestRegistrations(t *testing.T) {
	t.Parallel()
	v := start(t, akeyless.Script{Clusters: akeyless.Uniform(2, 2, good), ClockSkew: time.Hour}, akeylesstest.Options{Dialect: akeylesstest.DialectInstances})
	type cluster struct {
		Name       string                  `json:"cluster_name"`
		LastReport time.Time               `json:"last_report"`
		Instances  []akeylesstest.Instance `json:"instances"`
	}
	get := func() []cluster {
		t.Helper()
		var reply struct {
			Clusters []cluster `json:"clusters"`
		}
		if status := v.call(t, "list-sra-bastions", nil, &reply); status != 200 || len(reply.Clusters) != 2 {
			t.Fatalf("answered %d %+v", status, reply)
		}
		return reply.Clusters
	}
	for after := range 10 {
		now := time.Duration(after) * 45 * time.Second
		v.step(t, now)
		for _, c := range get() {
			if age := noon.Add(now).Sub(c.LastReport.Add(-time.Hour)); age < 0 || age >= time.Minute {
				t.Errorf("after %s %s reported %s ago", now, c.Name, age)
			}
		}
	}
	if err := v.SetBastion("acc-lab/p-lab/c0002", 0, "3.1.0"); err != nil {
		t.Fatal(err)
	}
	c := get()[1]
	if len(c.Instances) != 2 || c.Instances[0].Version != "3.1.0" || c.Instances[1].Version != "3.0.3" || !c.LastReport.Equal(v.Now().Add(time.Hour)) {
		t.Errorf("after one bastion moved: %+v", c)
	}
}

func TestOutagesAndSlowness(t *testing.T) {
	t.Parallel()
	script := akeyless.Script{
		Clusters: akeyless.Uniform(1, 1, good), Traffic: akeyless.Traffic{Rate: 1},
		Outages: []akeyless.Window{{After: time.Minute, For: time.Minute}},
		Slow:    []akeyless.Slow{{Window: akeyless.Window{After: 3 * time.Minute, For: time.Minute}, Delay: 20 * time.Second}},
	}
	v := start(t, script, akeylesstest.Options{}) // outside of the bubble: its socket would hold the clock
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			after  time.Duration
			status int
			took   time.Duration
		}{
			{0, 200, 0}, {time.Minute, 0, 0}, {2*time.Minute - time.Second, 0, 0}, {2 * time.Minute, 200, 0},
			{3 * time.Minute, 200, 20 * time.Second}, {4 * time.Minute, 200, 0},
		} {
			v.step(t, tc.after)
			v.token = "t-any"
			begun := time.Now()
			var reply any
			status := v.call(t, "validate-token", nil, &reply)
			if took := time.Since(begun); status != tc.status || took != tc.took {
				t.Errorf("after %s: answered %d in %s, want %d in %s", tc.after, status, took, tc.status, tc.took)
			}
		}
	})
	if v.Counts().Started < 100 {
		t.Errorf("only %d sessions started: an outage of the API is none of the bastions", v.Counts().Started)
	}
}

func TestRunFollowsAClock(t *testing.T) {
	t.Parallel()
	script := akeyless.Script{Clusters: akeyless.Uniform(1, 1, good), Traffic: akeyless.Traffic{Rate: 10}}
	server, err := akeylesstest.NewServer(akeylesstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	synctest.Test(t, func(t *testing.T) {
		script.Begin = time.Now()
		f, err := akeyless.New(server, script)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := f.Run(ctx, time.Second, time.Now); err != nil {
			t.Fatal(err)
		}
		if n := f.Counts().Started; n < 400 || n > 800 {
			t.Errorf("%d sessions started in a minute, want about 600", n)
		}
		if err := f.Step(script.Begin); err != nil || f.Now().Before(script.Begin.Add(58*time.Second)) {
			t.Errorf("a step back: %v, now %s", err, f.Now())
		}
	})
}

func TestScriptsAreChecked(t *testing.T) {
	t.Parallel()
	server, err := akeylesstest.NewServer(akeylesstest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	for name, spoil := range map[string]func(*akeyless.Script){
		"no begin":       func(s *akeyless.Script) { s.Begin = time.Time{} },
		"no clusters":    func(s *akeyless.Script) { s.Clusters = nil },
		"no name":        func(s *akeyless.Script) { s.Clusters[0].Name = "" },
		"one name twice": func(s *akeyless.Script) { s.Clusters[1].Name = s.Clusters[0].Name },
		"negative rate":  func(s *akeyless.Script) { s.Traffic.Rate = -1 },
		"share above 1":  func(s *akeyless.Script) { s.Ordinary.Rate = 1.5 },
		"share unknown":  func(s *akeyless.Script) { s.Traffic.Vanishing = math.NaN() },
		"no such cause":  func(s *akeyless.Script) { s.Ordinary.Causes = []fleet.Failure{"gremlins"} },
		"nor in a pair": func(s *akeyless.Script) {
			s.Failures = map[akeyless.Pair]akeyless.Failing{bad: {Causes: []fleet.Failure{"gremlins"}}}
		},
	} {
		script := akeyless.Script{Begin: noon, Clusters: akeyless.Uniform(2, 1, good)}
		spoil(&script)
		if _, err := akeyless.New(server, script); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// BenchmarkLargeFleet is 5,000 clusters with 200,000 open sessions: a minute of
// their life, a list of all that is open, a list of all bastions.
func BenchmarkLargeFleet(b *testing.B) {
	const clusters, open = 5000, 200_000
	script := akeyless.Script{
		Clusters: akeyless.Uniform(clusters, 2, good),
		Traffic:  akeyless.Traffic{Rate: open / 3600.0 / clusters, Duration: time.Hour},
	}
	v := start(b, script, akeylesstest.Options{PageSize: 5000, MaxSessions: 1_000_000})
	after := 4 * time.Hour
	v.step(b, after)
	b.Run("minute", func(b *testing.B) {
		before := v.Counts().Started
		for b.Loop() {
			after += time.Minute
			v.step(b, after)
		}
		b.ReportMetric(float64(v.Counts().Started-before)/float64(b.N), "sessions/op")
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			if n := len(v.listed(b)); n < open*9/10 {
				b.Fatalf("%d sessions are open", n)
			}
		}
	})
	b.Run("bastions", func(b *testing.B) {
		for b.Loop() {
			var reply struct {
				Clusters []json.RawMessage `json:"clusters"`
			}
			if v.call(b, "list-sra-bastions", nil, &reply); len(reply.Clusters) != clusters {
				b.Fatalf("%d clusters are listed", len(reply.Clusters))
			}
		}
	})
}
