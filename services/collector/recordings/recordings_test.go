package recordings_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/services/collector/recordings"
)

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// refusal is an error of a storage with its class.
type refusal struct{ class fleet.Failure }

func (r refusal) Error() string          { return "the storage says " + string(r.class) }
func (r refusal) Failure() fleet.Failure { return r.class }

// world is a storage and a clock in one.
type world struct {
	now     time.Time
	objects map[string]recordings.Object
	fails   func(prefix string) error
	asked   []string
	checker *recordings.Checker
}

func (w *world) Find(_ context.Context, prefix string) ([]recordings.Object, error) {
	w.asked = append(w.asked, prefix)
	if w.fails != nil {
		if err := w.fails(prefix); err != nil {
			return nil, err
		}
	}
	var found []recordings.Object
	for key, o := range w.objects {
		if strings.HasPrefix(key, prefix) {
			found = append(found, o)
		}
	}
	return found, nil
}

func (w *world) put(key string, size int64) {
	w.objects[key] = recordings.Object{Key: key, Size: size, ModifiedAt: w.now}
}

func (w *world) poll(t *testing.T) []fleet.Check {
	t.Helper()
	checks, err := w.checker.Poll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return checks
}

func config() recordings.Config {
	return recordings.Config{Cluster: "berlin", Name: "recordings", Pattern: "recordings/{session_id}"}
}

func begin(t *testing.T, c recordings.Config) *world {
	t.Helper()
	w := &world{now: noon(), objects: make(map[string]recordings.Object)}
	checker, err := recordings.New(c, w, func() time.Time { return w.now })
	if err != nil {
		t.Fatal(err)
	}
	w.checker = checker
	return w
}

// session ended a second before noon after ten minutes.
func session(id string) fleet.Session {
	return fleet.Session{
		ID: fleet.SessionID(id), Cluster: "berlin", Status: fleet.SessionCompleted, Protocol: "rdp", User: "ann", Target: "db-1",
		Start: noon().Add(-time.Second - 10*time.Minute), End: noon().Add(-time.Second),
	}
}

func TestARecordingThatArrives(t *testing.T) {
	t.Parallel()
	w := begin(t, config())
	w.checker.Take(session("s-1"))
	if got := w.poll(t); got != nil {
		t.Fatalf("before it is there: %+v", got)
	}
	w.now = noon().Add(40 * time.Second)
	w.put("recordings/s-1/0.mp4", 100)
	w.now = noon().Add(41 * time.Second)
	w.put("recordings/s-1/1.mp4", 20)
	w.now = noon().Add(time.Minute)
	want := []fleet.Check{{
		Cluster: "berlin", Name: "recordings", Kind: fleet.CheckRecording, Target: "recordings/s-1", Session: "s-1",
		At: noon().Add(-time.Second), Took: 42 * time.Second, OK: true,
		Detail:   "120 bytes (objects: 2), the last 42s after the session's end",
		Readings: map[string]float64{"size_bytes": 120, "delay_seconds": 42},
	}}
	if diff := cmp.Diff(want, w.poll(t)); diff != "" {
		t.Error(diff)
	}
	w.checker.Take(session("s-1"))
	if got := w.poll(t); got != nil || len(w.asked) != 2 {
		t.Errorf("heard of again: %+v, asked %v", got, w.asked)
	}
}

func TestARecordingThatDoesNotArriveOrHoldsNothing(t *testing.T) {
	t.Parallel()
	w := begin(t, config())
	w.checker.Take(session("absent"))
	w.checker.Take(session("empty"))
	w.put("recordings/empty/0.mp4", 0)
	w.now = noon().Add(5*time.Minute - 1)
	if got := w.poll(t); got != nil {
		t.Fatalf("within the window: %+v", got)
	}
	w.now = noon().Add(5 * time.Minute)
	base := fleet.Check{Cluster: "berlin", Name: "recordings", Kind: fleet.CheckRecording, At: noon().Add(-time.Second), Took: 5 * time.Minute}
	absent, empty := base, base
	absent.Session, absent.Target, absent.Failure = "absent", "recordings/absent", fleet.FailureMissing
	absent.Detail = "no object 5m0s after the session was seen to end"
	empty.Session, empty.Target, empty.Failure = "empty", "recordings/empty", fleet.FailureEmpty
	empty.Detail = "no content (objects: 1) 5m0s after the session was seen to end"
	empty.Readings = map[string]float64{"size_bytes": 0}
	if diff := cmp.Diff([]fleet.Check{absent, empty}, w.poll(t)); diff != "" {
		t.Error(diff)
	}
	if got := w.poll(t); got != nil {
		t.Errorf("judged twice: %+v", got)
	}
}

func TestOnlySessionsThatAreRecordedAreLookedFor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*fleet.Session)
		want   bool
	}{
		"completed":        {func(*fleet.Session) {}, true},
		"terminated":       {func(s *fleet.Session) { s.Status = fleet.SessionTerminated }, true},
		"in capitals":      {func(s *fleet.Session) { s.Protocol = "RDP" }, true},
		"just long enough": {func(s *fleet.Session) { s.Start = s.End.Add(-5 * time.Second) }, true},
		"too short":        {func(s *fleet.Session) { s.Start = s.End.Add(-5*time.Second + 1) }, false},
		"failed":           {func(s *fleet.Session) { s.Status = fleet.SessionFailed }, false},
		"vanished":         {func(s *fleet.Session) { s.Status = fleet.SessionVanished }, false},
		"connected":        {func(s *fleet.Session) { s.Status = fleet.SessionConnected }, false},
		"a probe":          {func(s *fleet.Session) { s.Probe = true }, false},
		"another protocol": {func(s *fleet.Session) { s.Protocol = "ssh" }, false},
		"no protocol":      {func(s *fleet.Session) { s.Protocol = "" }, false},
		"another cluster":  {func(s *fleet.Session) { s.Cluster = "paris" }, false},
	} {
		conf := config()
		conf.MinDuration = 5 * time.Second
		w := begin(t, conf)
		s := session("s-1")
		c.change(&s)
		w.checker.Take(s)
		if got := w.poll(t); got != nil {
			t.Errorf("%s: %+v", name, got)
		}
		if looked := len(w.asked) == 1; looked != c.want {
			t.Errorf("%s: asked %v", name, w.asked)
		}
	}
}

func TestThePatternNamesTheSession(t *testing.T) {
	t.Parallel()
	conf := config()
	conf.Protocols = []string{"ssh", "rdp"}
	conf.Pattern = "r/{cluster}/{date}/{protocol}/{user}@{target}/{session_id}/"
	w := begin(t, conf)
	s := session("s-1")
	s.User = "{session_id}" // a name is not a pattern
	s.Start = time.Date(2026, 3, 1, 0, 30, 0, 0, time.FixedZone("CET", 3600))
	w.checker.Take(s)
	w.poll(t)
	if diff := cmp.Diff([]string{"r/berlin/2026-02-28/rdp/{session_id}@db-1/s-1/"}, w.asked); diff != "" {
		t.Error(diff)
	}
}

func TestOneSessionsRecordingDoesNotPassForAnothers(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]bool{
		"recordings/s-1": true, "recordings/s-1.mp4": true, "recordings/s-1/0": true, "recordings/s-1_part": true,
		"recordings/s-12": false, "recordings/s-1a.mp4": false, "recordings/s-1Z/0": false,
	} {
		w := begin(t, config())
		w.checker.Take(session("s-1"))
		w.put(key, 1)
		if got := w.poll(t); (len(got) == 1) != want {
			t.Errorf("%s: %+v", key, got)
		}
	}
}

func TestSessionsThatCannotBeLookedForAreTold(t *testing.T) {
	t.Parallel()
	conf := config()
	conf.Pattern = "{user}/{session_id}"
	conf.MaxPending = 2
	w := begin(t, conf)
	nameless, endless := session("nameless"), session("endless")
	nameless.User, endless.End = "", time.Time{}
	w.checker.Take(nameless)
	w.checker.Take(endless)
	for i := range 5 {
		w.checker.Take(session(fmt.Sprint("s-", i)))
	}
	want := []fleet.Check{{
		Cluster: "berlin", Name: "recordings", Kind: fleet.CheckRecording, At: noon(), Failure: fleet.FailureUnclassified,
		Detail:   `5 finished sessions are not looked for: 3 because 2 wait already, 2 because the vendor does not tell their end or a part of the pattern "{user}/{session_id}"`,
		Readings: map[string]float64{"not_looked_for": 5},
	}}
	if diff := cmp.Diff(want, w.poll(t)); diff != "" {
		t.Error(diff)
	}
	if got := w.poll(t); got != nil {
		t.Errorf("told twice: %+v", got)
	}
	if len(w.asked) != 4 {
		t.Errorf("asked %v", w.asked)
	}
}

func TestAnOutageIsToldOnceAPollAndLosesNoRecording(t *testing.T) {
	t.Parallel()
	w := begin(t, config())
	w.checker.Take(session("early"))
	w.poll(t)
	w.now = noon().Add(4 * time.Minute)
	w.fails = func(string) error { return fmt.Errorf("listing: %w", refusal{fleet.FailureRefused}) }
	outage := func() {
		t.Helper()
		got := w.poll(t)
		if len(got) != 1 || got[0].Kind != fleet.CheckStorage || got[0].OK || got[0].Failure != fleet.FailureRefused ||
			got[0].Session != "" || !got[0].At.Equal(w.now) || !strings.Contains(got[0].Detail, "the storage says refused") {
			t.Fatalf("%+v", got)
		}
	}
	outage()
	w.now = noon().Add(10 * time.Minute)
	w.checker.Take(session("late"))
	outage()
	w.now = noon().Add(64 * time.Minute)
	outage()
	// It lasted an hour: what was left of the windows begins again.
	w.fails = nil
	got := w.poll(t)
	if len(got) != 1 || got[0].Kind != fleet.CheckStorage || !got[0].OK {
		t.Fatalf("when it works again: %+v", got)
	}
	w.now = noon().Add(65*time.Minute - 1)
	if got := w.poll(t); got != nil {
		t.Fatalf("a minute was left of the window, and it has not passed: %+v", got)
	}
	w.now = noon().Add(65 * time.Minute)
	if got := w.poll(t); len(got) != 1 || got[0].Session != "early" || got[0].Failure != fleet.FailureMissing {
		t.Fatalf("%+v", got)
	}
	w.put("recordings/late", 1)
	w.now = noon().Add(69*time.Minute - 1)
	if got := w.poll(t); len(got) != 1 || got[0].Session != "late" || !got[0].OK {
		t.Fatalf("%+v", got)
	}
}

func TestAStorageThatIsDownIsAskedThreeTimesAPoll(t *testing.T) {
	t.Parallel()
	w := begin(t, config())
	for i := range 10 {
		w.checker.Take(session(fmt.Sprint("s-", i)))
	}
	w.fails = func(string) error { return errors.New("broken") }
	if got := w.poll(t); len(got) != 1 || got[0].Failure != fleet.FailureUnclassified || !strings.Contains(got[0].Detail, "3 of 3 look-ups") {
		t.Errorf("%+v", got)
	}
	if len(w.asked) != 3 {
		t.Errorf("asked %v", w.asked)
	}
}

func TestASessionThatCannotBeAskedAboutStandsInNobodysWay(t *testing.T) {
	t.Parallel()
	conf := config()
	conf.PerPoll = 6
	w := begin(t, conf)
	take := func(what string, n int) {
		for i := range n {
			w.checker.Take(session(fmt.Sprint(what, "-", i)))
		}
	}
	take("sick", 4)
	take("absent", 2)
	w.fails = func(prefix string) error {
		if strings.Contains(prefix, "sick") {
			return refusal{fleet.FailureForbidden}
		}
		return nil
	}
	judged := make(map[string]int) // by kind of session, class and minute
	for minute := range 25 * 60 {
		w.now = noon().Add(time.Duration(minute) * time.Minute)
		if minute == 10 {
			take("late", 2)
			w.put("recordings/late-0", 1)
			w.put("recordings/late-1", 1)
		}
		for _, c := range w.poll(t) {
			if what, _, ok := strings.Cut(string(c.Session), "-"); ok {
				judged[fmt.Sprintf("%s %q after %d", what, c.Failure, minute)]++
			}
		}
	}
	want := map[string]int{`absent "missing" after 5`: 2, `late "" after 10`: 2, `sick "unclassified" after 1440`: 3, `sick "unclassified" after 1441`: 1}
	if diff := cmp.Diff(want, judged); diff != "" {
		t.Error(diff)
	}
}

func TestAnOutageLengthensNoWindowThatHadPassed(t *testing.T) {
	t.Parallel()
	conf := config()
	conf.PerPoll = 1
	w := begin(t, conf)
	w.checker.Take(session("s-1"))
	w.checker.Take(session("s-2"))
	w.now = noon().Add(5 * time.Minute)
	if got := w.poll(t); len(got) != 1 || got[0].Session != "s-1" {
		t.Fatalf("%+v", got)
	}
	w.fails = func(string) error { return refusal{fleet.FailureTimeout} }
	w.poll(t)
	w.now = noon().Add(time.Hour)
	w.fails = nil
	if got := w.poll(t); len(got) != 2 || got[0].Session != "s-2" || got[0].Failure != fleet.FailureMissing {
		t.Errorf("%+v", got)
	}
}

func TestAPollLooksAtSoManyAndComesRound(t *testing.T) {
	t.Parallel()
	conf := config()
	conf.PerPoll = 3
	w := begin(t, conf)
	for i := range 7 {
		w.checker.Take(session(fmt.Sprint("s-", i)))
	}
	seen := make(map[string]int)
	for range 7 {
		w.asked = nil
		w.poll(t)
		if len(w.asked) != 3 {
			t.Fatalf("asked %v", w.asked)
		}
		for _, prefix := range w.asked {
			seen[prefix]++
		}
		w.now = w.now.Add(time.Second)
	}
	for prefix, n := range seen {
		if n < 2 {
			t.Errorf("%s was looked at %d times in 21", prefix, n)
		}
	}
	if len(seen) != 7 {
		t.Errorf("%d of 7 were looked at", len(seen))
	}
}

func TestJudgedSessionsAreRememberedForTwiceTheLookback(t *testing.T) {
	t.Parallel()
	conf := config()
	conf.Lookback = 5 * time.Minute
	w := begin(t, conf)
	w.put("recordings/s-1", 1)
	w.checker.Take(session("s-1"))
	first := w.poll(t)
	w.now = noon().Add(10 * time.Minute)
	w.checker.Take(session("s-1"))
	if got := w.poll(t); got != nil {
		t.Fatalf("%+v", got)
	}
	w.now = noon().Add(10*time.Minute + 1)
	w.checker.Take(session("s-1"))
	// Forgotten, and harmless: the second verdict is the first.
	if diff := cmp.Diff(first, w.poll(t)); diff != "" {
		t.Error(diff)
	}
}

func TestASessionThatEndedLongAgoIsNotTaken(t *testing.T) {
	t.Parallel()
	conf := config()
	conf.MaxPending = 1
	w := begin(t, conf)
	for i := range 10 {
		s := session(fmt.Sprint("old-", i))
		s.Start, s.End = noon().Add(-time.Hour), noon().Add(-20*time.Minute-1)
		w.checker.Take(s)
	}
	last := session("last")
	last.Start, last.End = noon().Add(-time.Hour), noon().Add(-20*time.Minute)
	w.checker.Take(last)
	if got := w.poll(t); got != nil || fmt.Sprint(w.asked) != "[recordings/last]" {
		t.Errorf("%+v, asked %v", got, w.asked)
	}
}

func TestARestartComesToTheSameVerdict(t *testing.T) {
	t.Parallel()
	w := begin(t, config())
	w.checker.Take(session("s-1"))
	w.now = noon().Add(15 * time.Minute)
	again, err := recordings.New(config(), w, func() time.Time { return w.now })
	if err != nil {
		t.Fatal(err)
	}
	w.checker = again
	w.checker.Take(session("s-1"))
	if got := w.poll(t); got != nil {
		t.Fatalf("a recording may have been on its way: %+v", got)
	}
	w.now = noon().Add(20 * time.Minute)
	got := w.poll(t)
	if len(got) != 1 || got[0].Session != "s-1" || !got[0].At.Equal(session("s-1").End) || got[0].Failure != fleet.FailureMissing {
		t.Errorf("%+v", got)
	}
}

func TestClocksThatDisagreeShortenNoWindow(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{-15 * time.Minute, -10 * time.Minute, 10 * time.Minute, 24 * time.Hour} {
		w := begin(t, config())
		s := session("s-1")
		s.Start, s.End = s.Start.Add(skew), s.End.Add(skew)
		w.checker.Take(s)
		w.now = noon().Add(5*time.Minute - 1)
		if got := w.poll(t); got != nil {
			t.Errorf("skew %s: %+v", skew, got)
		}
		w.put("recordings/s-1", 1)
		if got := w.poll(t); len(got) != 1 || !got[0].OK || got[0].Took < 0 {
			t.Errorf("skew %s: %+v", skew, got)
		}
	}
}

func TestTheEndOfTheCallerIsNoOutage(t *testing.T) {
	t.Parallel()
	w := begin(t, config())
	w.checker.Take(session("s-1"))
	w.checker.Take(session("s-2"))
	ctx, cancel := context.WithCancel(t.Context())
	w.fails = func(string) error { cancel(); return ctx.Err() }
	if got, err := w.checker.Poll(ctx); got != nil || err != nil || len(w.asked) != 1 {
		t.Errorf("cancelled while asking: %+v, %v, asked %v", got, err, w.asked)
	}
	if got, err := w.checker.Poll(ctx); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before: %+v, %v", got, err)
	}
	late, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	w.fails = func(string) error { <-late.Done(); return late.Err() }
	if got, err := w.checker.Poll(late); err != nil || len(got) != 1 || got[0].Failure != fleet.FailureTimeout {
		t.Errorf("a storage that takes all the time there is: %+v, %v", got, err)
	}
	late, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	w.asked, w.fails = nil, func(string) error {
		if len(w.asked) == 1 {
			return nil
		}
		<-late.Done()
		return late.Err()
	}
	// It is told to work again, though there was no time for all.
	if got, err := w.checker.Poll(late); err != nil || len(got) != 1 || !got[0].OK || len(w.asked) != 2 {
		t.Errorf("a storage that answers as long as there is time: %+v, %v, asked %v", got, err, w.asked)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*recordings.Config){
		"no pattern":          func(c *recordings.Config) { c.Pattern = "" },
		"no session":          func(c *recordings.Config) { c.Pattern = "recordings/{user}" },
		"an unknown name":     func(c *recordings.Config) { c.Pattern = "{session_id}/{host}" },
		"an open brace":       func(c *recordings.Config) { c.Pattern = "{session_id}/{user" },
		"a brace that closes": func(c *recordings.Config) { c.Pattern = "{session_id}/}" },
		"no name":             func(c *recordings.Config) { c.Pattern = "{session_id}/{}" },
		"a negative window":   func(c *recordings.Config) { c.Within = -1 },
		"a negative number":   func(c *recordings.Config) { c.PerPoll = -1 },
	} {
		conf := config()
		change(&conf)
		if _, err := recordings.New(conf, &world{}, noon); errs.IDOf(err) != "LS-PIP-006" || errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
