package gate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const paris fleet.ClusterID = "paris"

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// quick is a policy whose durations suit streams of a few minutes.
func quick() Policy {
	p := DefaultPolicy()
	p.PlannedTrials = 20
	p.Alpha, p.Beta, p.AcceptableRate = 0.4, 0.5, 0.3 // so that short streams reach every verdict
	p.Maturation, p.BurstWindow, p.Bucket = 20*time.Second, 10*time.Second, time.Second
	return p
}

func around(start time.Time) Boundary {
	return Boundary{BaselineFrom: start.Add(-time.Hour), Start: start, End: start.Add(30 * time.Second)}
}

func newFold(t interface {
	Helper()
	Fatal(...any)
}, p Policy, b Boundary) *Fold {
	t.Helper()
	f, err := NewFold(p, paris, b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// row is one row of a stream: a session or, when session is nil, a mark.
type row struct {
	seq     uint64
	session *fleet.Session
	mark    fleet.Mark
}

func (r row) feed(f *Fold) {
	if r.session != nil {
		f.Session(*r.session, r.seq)
	} else {
		f.Mark(r.mark, r.seq)
	}
}

// stream is the batches of a source: each ends with a mark.
type stream [][]row

func (s stream) feed(f *Fold) {
	for _, batch := range s {
		for _, r := range batch {
			r.feed(f)
		}
	}
}

// person is one session as it really went.
type person struct {
	session fleet.Session
	status  fleet.SessionStatus // its outcome; connecting when it never had one
	after   time.Duration       // from start to outcome
}

// people draws sessions around the step at noon. Few users and targets, so
// that retries are common.
func people(from, to time.Duration) *rapid.Generator[[]person] {
	one := rapid.Custom(func(t *rapid.T) person {
		p := person{
			status: rapid.SampledFrom([]fleet.SessionStatus{
				fleet.SessionConnected, fleet.SessionCompleted, fleet.SessionTerminated, fleet.SessionFailed, fleet.SessionFailed, fleet.SessionConnecting,
			}).Draw(t, "status"),
			after: time.Duration(rapid.IntRange(0, 40_000).Draw(t, "after_ms")) * time.Millisecond,
		}
		p.session = fleet.Session{
			Cluster: paris,
			Status:  fleet.SessionConnecting,
			User:    rapid.SampledFrom([]string{"", "ann", "bob", "eve"}).Draw(t, "user"),
			Target:  rapid.SampledFrom([]string{"db", "web"}).Draw(t, "target"),
			Start:   noon.Add(from + time.Duration(rapid.Int64Range(0, int64((to-from)/time.Millisecond)).Draw(t, "start_ms"))*time.Millisecond),
			Probe:   rapid.IntRange(0, 9).Draw(t, "probe") == 0,
		}
		return p
	})
	return rapid.Custom(func(t *rapid.T) []person {
		all := rapid.SliceOfN(one, 0, 60).Draw(t, "people")
		for i := range all {
			all[i].session.ID = fleet.SessionID(fmt.Sprintf("s%03d", i))
		}
		return rapid.Permutation(all).Draw(t, "order")
	})
}

// observed is what a source that polls at the given times (from noon, rising)
// sends of them, with a mark at the end of each poll.
func observed(all []person, polls []time.Duration) stream {
	var s stream
	last := noon.Add(-24 * time.Hour)
	for i, at := range polls {
		now := noon.Add(at)
		seq := uint64(i + 1)
		var batch []row
		for _, p := range all {
			begun := !p.session.Start.Before(last) && p.session.Start.Before(now)
			ended := p.session.Start.Add(p.after)
			if begun {
				batch = append(batch, row{seq: seq, session: &p.session})
			}
			if p.status != fleet.SessionConnecting && !ended.Before(last) && ended.Before(now) {
				done := p.session
				done.Status = p.status
				batch = append(batch, row{seq: seq, session: &done})
			}
		}
		s = append(s, append(batch, row{seq: seq, mark: fleet.Mark{Cluster: paris, CompleteUntil: now}}))
		last = now
	}
	return s
}

func polls() *rapid.Generator[[]time.Duration] {
	return rapid.Custom(func(t *rapid.T) []time.Duration {
		times := rapid.SliceOfNDistinct(rapid.IntRange(-100_000, 150_000), 1, 30, rapid.ID[int]).Draw(t, "polls_ms")
		slices.Sort(times)
		out := make([]time.Duration, len(times))
		for i, ms := range times {
			out[i] = time.Duration(ms) * time.Millisecond
		}
		return append(out, 300*time.Second)
	})
}

func streams() *rapid.Generator[stream] {
	return rapid.Custom(func(t *rapid.T) stream {
		return observed(people(-90*time.Second, 120*time.Second).Draw(t, "all"), polls().Draw(t, "polls"))
	})
}

func (s stream) decide(t *rapid.T) Decision {
	f := newFold(t, quick(), around(noon))
	s.feed(f)
	return f.Verdict(true)
}

func TestOrderBetweenMarksChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := streams().Draw(t, "stream")
		shuffled := make(stream, len(s))
		for i, batch := range s {
			last := len(batch) - 1
			shuffled[i] = append(rapid.Permutation(batch[:last:last]).Draw(t, "batch"), batch[last])
		}
		if diff := cmp.Diff(s.decide(t), shuffled.decide(t)); diff != "" {
			t.Fatalf("decisions differ:\n%s", diff)
		}
	})
}

func TestRepeatsChangeNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := streams().Draw(t, "stream")
		var repeated stream
		for i, batch := range s {
			repeated = append(repeated, batch)
			for range rapid.IntRange(0, 2).Draw(t, "repeats") {
				repeated = append(repeated, s[rapid.IntRange(0, i).Draw(t, "again")])
			}
		}
		want := s.decide(t)
		if diff := cmp.Diff(want, repeated.decide(t)); diff != "" {
			t.Fatalf("decisions differ:\n%s", diff)
		}
		if diff := cmp.Diff(want, append(slices.Clone(s), s...).decide(t)); diff != "" {
			t.Fatalf("the whole stream again changes the decision:\n%s", diff)
		}
	})
}

func TestReplayIsEqualAndLookingChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := streams().Draw(t, "stream")
		f := newFold(t, quick(), around(noon))
		var final *Decision
		for _, batch := range s {
			for _, r := range batch {
				r.feed(f)
				d := f.Verdict(false)
				if final != nil && !cmp.Equal(*final, d) {
					t.Fatalf("a final decision changed:\n%s", cmp.Diff(*final, d))
				}
				if d.Verdict.Final() {
					final = &d
				}
			}
		}
		if diff := cmp.Diff(s.decide(t), f.Verdict(true)); diff != "" {
			t.Fatalf("decisions differ:\n%s", diff)
		}
	})
}

// counted is what the rules say the arms hold, told without marks, buckets or
// order: for streams in which nothing is late.
func counted(all []person, p Policy, b Boundary, polls []time.Duration) Evidence {
	all = slices.DeleteFunc(slices.Clone(all), func(x person) bool { return x.session.Probe })
	slices.SortFunc(all, func(x, y person) int {
		if c := x.session.Start.Compare(y.session.Start); c != 0 {
			return c
		}
		return strings.Compare(string(x.session.ID), string(y.session.ID))
	})
	phase := func(t time.Time) int {
		switch {
		case t.Before(b.Start):
			return 0
		case t.Before(b.End):
			return 1
		}
		return 2
	}
	var e Evidence
	taken := make([]bool, len(all))
	for i, first := range all {
		if taken[i] {
			continue
		}
		anyGood, allBad := false, true
		for j := i; j < len(all); j++ {
			x := all[j]
			together := j == i || first.session.User != "" && !taken[j] && x.session.User == first.session.User && x.session.Target == first.session.Target &&
				phase(x.session.Start) == phase(first.session.Start) && x.session.Start.Sub(first.session.Start) < p.BurstWindow
			if !together {
				continue
			}
			taken[j] = true
			switch x.status {
			case fleet.SessionFailed:
			case fleet.SessionConnecting:
				allBad = false
			default:
				anyGood, allBad = true, false
			}
		}
		t, hung := &e.Baseline, &e.Unresolved.Baseline
		switch phase(first.session.Start) {
		case 1:
			e.Cut++
			continue
		case 2:
			t, hung = &e.New, &e.Unresolved.New
		}
		switch {
		case anyGood:
			t.Succeeded++
		case allBad:
			t.Failed++
		default:
			*hung++
		}
	}
	return e
}

func TestCountsFollowTheRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := people(-90*time.Second, 120*time.Second).Draw(t, "all")
		for i := range all {
			all[i].after %= 5 * time.Second // every outcome well before the horizon
		}
		at := polls().Draw(t, "polls")
		f := newFold(t, quick(), around(noon))
		observed(all, at).feed(f)
		got := f.Evidence()
		want := counted(all, quick(), around(noon), at)
		want.Blocks, want.Partners = got.Blocks, got.Partners // their own laws below
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("evidence (-want +got):\n%s", diff)
		}
	})
}

func TestNoPartnerIsUsedTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := newFold(t, quick(), around(noon))
		streams().Draw(t, "stream").feed(f)
		e := f.Evidence()
		bad, good := 0, 0
		for _, r := range e.Blocks {
			if r.NA != e.Partners || r.NB != 1 {
				t.Fatalf("block %+v, but every trial has %d partners", r, e.Partners)
			}
			bad += r.Count * (r.Y - r.YB)
			good += r.Count * (r.NA - r.Y + r.YB)
		}
		if bad > e.Baseline.Failed || good > e.Baseline.Succeeded {
			t.Fatalf("%d failed and %d good partners from a baseline of %+v", bad, good, e.Baseline)
		}
		if want := quick().partnersFor(e.Baseline.Total()); want > 0 && e.New.Total() > 0 {
			if n := e.Blocks.Blocks(); n != min(e.New.Total(), e.Baseline.Total()/want) {
				t.Fatalf("%d blocks for %d new trials and %d partners each from %d", n, e.New.Total(), want, e.Baseline.Total())
			}
		}
	})
}

// The pool against a slow reading of rule 4.
func TestPoolOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type entry struct {
			hour   int
			recent bool
			used   bool
		}
		var entries []entry
		var p pool
		for range rapid.IntRange(0, 80).Draw(t, "size") {
			e := entry{hour: rapid.IntRange(0, 23).Draw(t, "hour"), recent: rapid.Bool().Draw(t, "recent")}
			entries = append(entries, e)
			p.add(time.Date(2026, 3, 1, e.hour, 0, 0, 0, time.UTC), false, e.recent)
		}
		m := rapid.IntRange(1, 5).Draw(t, "m")
		for left := len(entries); left >= m; left -= m {
			hour := rapid.IntRange(0, 23).Draw(t, "new hour")
			for range m {
				want := slices.IndexFunc(entries, func(e entry) bool {
					apart := (e.hour - hour + 24) % 24
					return !e.used && e.recent && (apart <= 1 || apart == 23)
				})
				if want < 0 {
					want = slices.IndexFunc(entries, func(e entry) bool { return !e.used })
				}
				entries[want].used = true
			}
			if _, ok := p.take(m, hour); !ok {
				t.Fatalf("refused with %d left of %d, %d wanted", left, len(entries), m)
			}
			for i, e := range entries {
				if p.used[i] != e.used {
					t.Fatalf("partner %d used: %v, want %v", i, p.used[i], e.used)
				}
			}
		}
		if _, ok := p.take(m, 0); ok {
			t.Fatal("gave partners it does not have")
		}
	})
}

func TestPartnersForAPlan(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	for n, want := range map[int]int{0: 0, 1: 0, 2: 2, 999: 2, 1499: 2, 1500: 3, 5000: 10, 90_000: 10} {
		if got := p.partnersFor(n); got != want {
			t.Errorf("a baseline of %d gives %d partners, want %d", n, got, want)
		}
	}
}

func TestNoDataNeverPromotes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := observed(people(-90*time.Second, 29*time.Second).Draw(t, "all"), polls().Draw(t, "polls"))
		d := s.decide(t)
		if d.Verdict != Inconclusive || d.Reasons[0].Code != NoData || d.Trials != 0 {
			t.Fatalf("without one new session: %s, %v", d.Verdict, d.Reasons)
		}
	})
}

// Within one bucket the id decides, not the start: what is not settled keeps
// those with higher ids waiting, and no others.
func TestTrialsEnterInOrderOfBucketAndID(t *testing.T) {
	t.Parallel()
	f := newFold(t, quick(), around(noon))
	at := noon.Add(time.Minute)
	add := func(id fleet.SessionID, start time.Time, status fleet.SessionStatus) {
		f.Session(fleet.Session{ID: id, Cluster: paris, Status: status, Start: start}, 1)
	}
	add("a", at.Add(100*time.Millisecond), fleet.SessionConnected)
	add("b", at.Add(900*time.Millisecond), fleet.SessionConnecting)
	add("c", at.Add(500*time.Millisecond), fleet.SessionConnected)
	add("d", at.Add(time.Second), fleet.SessionConnected)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: at.Add(5 * time.Second)}, 2)
	if got := f.Evidence().New.Total(); got != 1 {
		t.Errorf("%d trials entered while the second waits, want 1", got)
	}
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: at.Add(20*time.Second + 899*time.Millisecond)}, 3)
	if got := f.Evidence().New.Total(); got != 1 {
		t.Errorf("%d trials entered just before the horizon, want 1", got)
	}
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: at.Add(20*time.Second + 900*time.Millisecond)}, 4)
	if e := f.Evidence(); e.New.Total() != 3 || e.Unresolved.New != 1 {
		t.Errorf("at the horizon: %d trials and %d unresolved, want 3 and 1", e.New.Total(), e.Unresolved.New)
	}
	add("b", at.Add(900*time.Millisecond), fleet.SessionFailed)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: at.Add(time.Hour)}, 5)
	if e := f.Evidence(); e.New.Failed != 0 || e.Late != (Arms{}) {
		t.Errorf("an outcome past the horizon changed the evidence: %+v", e)
	}
}

func TestBurstEndsWithItsWindow(t *testing.T) {
	t.Parallel()
	for apart, want := range map[time.Duration]int{10*time.Second - 1: 1, 10 * time.Second: 2} {
		f := newFold(t, quick(), around(noon))
		for i, at := range []time.Duration{0, apart} {
			f.Session(fleet.Session{ID: fleet.SessionID(fmt.Sprint(i)), Cluster: paris, Status: fleet.SessionFailed,
				User: "ann", Target: "db", Start: noon.Add(time.Minute + at)}, 1)
		}
		f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon.Add(time.Hour)}, 2)
		if got := f.Evidence().New.Failed; got != want {
			t.Errorf("two attempts %s apart are %d trials, want %d", apart, got, want)
		}
	}
}

// A step without length in the middle of a bucket: the baseline is complete
// before the first new trial enters, whatever the ids.
func TestStepDividesItsBucket(t *testing.T) {
	t.Parallel()
	edge := noon.Add(500 * time.Millisecond)
	f := newFold(t, quick(), Boundary{BaselineFrom: noon.Add(-time.Hour), Start: edge, End: edge})
	for i := range 80 {
		id, start := fmt.Sprintf("b%02d", i), noon
		if i >= 60 {
			id, start = fmt.Sprintf("a%02d", i), edge
		}
		f.Session(fleet.Session{ID: fleet.SessionID(id), Cluster: paris, Status: fleet.SessionConnected, Start: start}, 1)
	}
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon.Add(time.Hour)}, 2)
	want := Evidence{Partners: 3, Baseline: Trials{Succeeded: 60}, New: Trials{Succeeded: 20}, Blocks: TableOf(Row{Shape{NA: 3, NB: 1}, 20})}
	if diff := cmp.Diff(want, f.Evidence()); diff != "" {
		t.Errorf("evidence (-want +got):\n%s", diff)
	}
}

// A bucket that the watermark has entered but not passed still takes sessions.
func TestOpenBucketIsNotLate(t *testing.T) {
	t.Parallel()
	f := newFold(t, quick(), around(noon))
	at := noon.Add(time.Minute)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: at.Add(900 * time.Millisecond)}, 1)
	f.Session(fleet.Session{ID: "x", Cluster: paris, Status: fleet.SessionConnected, Start: at}, 2)
	f.Session(fleet.Session{ID: "y", Cluster: paris, Status: fleet.SessionConnected, Start: at.Add(-1)}, 3)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: at.Add(time.Second)}, 4)
	if e := f.Evidence(); e.New.Total() != 1 || e.Late.New != 1 {
		t.Errorf("%d entered and %d late, want one each", e.New.Total(), e.Late.New)
	}
}

func TestNothingEntersWhileBlind(t *testing.T) {
	t.Parallel()
	f := newFold(t, quick(), around(noon))
	x := fleet.Session{ID: "x", Cluster: paris, Status: fleet.SessionConnecting, Start: noon.Add(40 * time.Second)}
	f.Session(x, 1)
	until := noon.Add(45 * time.Second)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: until}, 2)
	x.Status = fleet.SessionConnected
	f.Session(x, 3)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: until, Blind: true}, 4)
	if n := f.Evidence().New.Total(); n != 0 {
		t.Errorf("%d trials entered while blind", n)
	}
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: until}, 5)
	if n := f.Evidence().New.Total(); n != 1 {
		t.Errorf("%d trials entered with sight again, want 1", n)
	}
}

func TestMarksNeverGoBack(t *testing.T) {
	t.Parallel()
	f := newFold(t, quick(), around(noon))
	mark := func(until time.Duration, blind bool, seq uint64) {
		f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon.Add(until), Blind: blind}, seq)
	}
	late := func(id fleet.SessionID) int {
		f.Session(fleet.Session{ID: id, Cluster: paris, Status: fleet.SessionConnected, Start: noon.Add(40 * time.Second)}, 9)
		return f.Evidence().Late.New
	}
	mark(time.Minute, false, 5)
	mark(30*time.Second, false, 6)
	if got := f.Watermark(); !got.CompleteUntil.Equal(noon.Add(time.Minute)) || got.Seq != 6 {
		t.Errorf("after an earlier promise the watermark is %+v", got)
	}
	if late("x") != 1 || late("x") != 1 {
		t.Error("a session behind the watermark is not late once")
	}
	mark(2*time.Minute, true, 4)
	if d := f.Verdict(false); d.Verdict != Pending {
		t.Errorf("a mark older by sequence made the verdict %s", d.Verdict)
	}
	mark(2*time.Minute, true, 7)
	if d := f.Verdict(false); d.Verdict != Inconclusive || !d.Watermark.CompleteUntil.Equal(noon.Add(time.Minute)) {
		t.Errorf("blind: %s at %v", d.Verdict, d.Watermark.CompleteUntil)
	}
	f.Mark(fleet.Mark{Cluster: "oslo", CompleteUntil: noon.Add(time.Hour)}, 8)
	if got := f.Watermark(); !got.CompleteUntil.Equal(noon.Add(time.Minute)) {
		t.Errorf("another cluster's mark moved the watermark to %v", got.CompleteUntil)
	}
}

func TestBadBoundaries(t *testing.T) {
	t.Parallel()
	for name, b := range map[string]Boundary{
		"zero":                 {},
		"end before start":     {BaselineFrom: noon, Start: noon.Add(2), End: noon.Add(1)},
		"start before history": {BaselineFrom: noon.Add(1), Start: noon, End: noon.Add(2)},
	} {
		if _, err := NewFold(DefaultPolicy(), paris, b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewFold(DefaultPolicy(), "", around(noon)); err == nil {
		t.Error("no cluster: no error")
	}
	if _, err := NewFold(Policy{}, paris, around(noon)); err == nil {
		t.Error("no policy: no error")
	}
}

// What was entered is remembered by id alone.
func TestMemoryOfEnteredSessions(t *testing.T) {
	t.Parallel()
	f := newFold(t, quick(), around(noon))
	for i := range 1000 {
		at := noon.Add(time.Duration(i-600) * time.Second)
		f.Session(fleet.Session{ID: fleet.SessionID(fmt.Sprint(i)), Cluster: paris, Status: fleet.SessionConnected, Start: at}, 1)
	}
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon.Add(time.Hour)}, 2)
	if n := len(f.buckets) + len(f.bursts) + len(f.queue); n != 0 {
		t.Errorf("%d records kept of entered sessions", n)
	}
	for id, a := range f.attempts {
		if a != nil {
			t.Errorf("session %s is kept", id)
		}
	}
	if len(f.attempts) != 1000 {
		t.Errorf("%d ids remembered, want 1000", len(f.attempts))
	}
}

func BenchmarkFold(b *testing.B) {
	const history = 5000
	p := DefaultPolicy()
	bound := Boundary{BaselineFrom: noon.Add(-history * time.Second), Start: noon, End: noon.Add(time.Minute)}
	rowAt := func(i int) fleet.Session {
		s := fleet.Session{ID: fleet.SessionID(fmt.Sprintf("session-%07d", i)), Cluster: paris, Status: fleet.SessionConnected,
			User: fmt.Sprintf("user-%d", i%997), Target: "db", Start: bound.BaselineFrom.Add(time.Duration(i) * time.Second)}
		if i%50 == 0 {
			s.Status = fleet.SessionFailed
		}
		return s
	}
	sessions := make([]fleet.Session, history+1000)
	for i := range sessions {
		sessions[i] = rowAt(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		f := newFold(b, p, bound)
		for i, s := range sessions {
			f.Session(s, uint64(i))
			if i%5 == 4 {
				f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: s.Start}, uint64(i))
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(sessions)), "ns/session")
}

func BenchmarkScore(b *testing.B) {
	s := scorer{policy: DefaultPolicy()}
	var table Table
	for i := range 500 {
		yA, yB := 0, 0
		if i%5 == 0 {
			yA = 1 + i%3
		}
		if i%50 == 0 {
			yB = 1
		}
		table.Add(Shape{NA: 10, NB: 1, Y: yA + yB, YB: yB}, 1)
	}
	for b.Loop() {
		table.Add(Shape{NA: 10, NB: 1}, 1)
		s.score(table)
	}
}

func BenchmarkVerdict(b *testing.B) {
	f := newFold(b, DefaultPolicy(), around(noon))
	for i := range 4000 {
		s := fleet.Session{ID: fleet.SessionID(fmt.Sprint(i)), Cluster: paris, Status: fleet.SessionConnected, Start: noon.Add(time.Duration(i-3500) * time.Second)}
		if i%30 == 0 {
			s.Status = fleet.SessionFailed
		}
		f.Session(s, 1)
	}
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: noon.Add(time.Hour)}, 2)
	for b.Loop() {
		f.Verdict(false)
	}
}

// A fork at any point before the step says what a fold says that was there from the
// beginning, and so does another fork.
func TestForkIsTheFold(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := people(-90*time.Second, 90*time.Second).Draw(t, "people")
		s := observed(all, polls().Draw(t, "polls"))
		p := quick()
		p.Tol, p.Alpha = 1, 0.3
		whole, stem := newFold(t, p, around(noon)), newFold(t, quick(), around(noon))
		var forks []*Fold
		for _, batch := range s {
			for _, r := range batch {
				later := r.session != nil && !r.session.Start.Before(noon) || r.session == nil && r.mark.CompleteUntil.After(noon)
				if later && forks == nil {
					for range 2 {
						c, err := stem.Fork(p)
						if err != nil {
							t.Fatal(err)
						}
						forks = append(forks, c)
					}
				}
				r.feed(whole)
				if forks == nil {
					r.feed(stem)
				}
				for _, c := range forks {
					r.feed(c)
				}
			}
		}
		for _, c := range forks {
			if diff := cmp.Diff(whole.Verdict(true), c.Verdict(true)); diff != "" {
				t.Errorf("(-whole +fork):\n%s", diff)
			}
		}
	})
}
