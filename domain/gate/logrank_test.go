package gate

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// The exact logrank e-values published with safestats (logrankSingleEExact) for
// theta 0.7: its group 1 is the new arm.
func TestLogrankPublished(t *testing.T) {
	t.Parallel()
	y0, y1 := []int{5, 4, 3, 3, 2, 1}, []int{5, 5, 4, 2, 2, 0}
	obs0, obs1 := []int{1, 1, 0, 1, 0, 1}, []int{0, 0, 1, 0, 1, 0}
	const theta = 0.7
	less, greater := 0.0, 0.0
	for i := range y0 {
		s := Shape{NA: y0[i], NB: y1[i], Y: obs0[i] + obs1[i], YB: obs1[i]}
		less += LogE(s, theta, 1)
		greater += LogE(s, 1/theta, 1)
	}
	near(t, "less", math.Exp(less), 1.116161, 5e-7)
	near(t, "greater", math.Exp(greater), 0.7665818, 5e-8)
}

// openStream numbers what it feeds.
type openStream struct {
	*OpenFold
	seq uint64
}

func (f *openStream) session(s fleet.Session) {
	f.seq++
	f.Session(s, f.seq)
}

func (f *openStream) mark(minutes float64) {
	f.seq++
	f.Mark(markAt(minutes), f.seq)
}

// openFold is a fold of open sessions with three buckets of a minute to a window.
func openFold(t interface {
	Helper()
	Fatal(...any)
}, b Boundary,
) *openStream {
	t.Helper()
	f, err := NewOpenFold(DefaultPolicy(), OpenPolicy{Bucket: time.Minute, Buckets: 3, Budget: 2}, paris, b)
	if err != nil {
		t.Fatal(err)
	}
	return &openStream{OpenFold: f}
}

// openedAt is a session that connected so many minutes from noon.
func openedAt(id string, minutes float64, instance fleet.InstanceID) fleet.Session {
	return fleet.Session{ID: fleet.SessionID(id), Cluster: paris, Status: fleet.SessionConnected, InstanceID: instance, Start: minute(minutes)}
}

func minute(minutes float64) time.Time {
	return noon.Add(time.Duration(math.Round(minutes * float64(time.Minute))))
}

// endOf is the row that tells of a session's end; at NaN without an instant.
func endOf(s fleet.Session, status fleet.SessionStatus, minutes float64) fleet.Session {
	s.Status = status
	if !math.IsNaN(minutes) {
		s.End = minute(minutes)
	}
	return s
}

func markAt(minutes float64) fleet.Mark {
	return fleet.Mark{Cluster: paris, About: fleet.KindSession, CompleteUntil: minute(minutes)}
}

// One window of three minutes before noon, and one after.
func oneWindow() Boundary {
	return Boundary{BaselineFrom: minute(-4), Start: noon, End: minute(1)}
}

func TestOpenSessionsByHand(t *testing.T) {
	t.Parallel()
	f := openFold(t, oneWindow())
	a, b, c := openedAt("a", -9, "i1"), openedAt("b", -9, "i1"), openedAt("c", -9, "i2")
	d, e, g := openedAt("d", -2.5, "i1"), openedAt("e", -1, "i2"), openedAt("g", -1, "i3")
	never := endOf(fleet.Session{ID: "never", Cluster: paris, Start: minute(-9)}, fleet.SessionFailed, -2.5)
	late := openedAt("h", -0.5, "i2")
	for _, s := range []fleet.Session{a, b, c, d, e, g, never, late, endOf(a, fleet.SessionFailed, -1.5), endOf(b, fleet.SessionCompleted, -0.5)} {
		f.session(s)
	}
	f.session(openedAt("after", 0, "i1")) // not open when the step began
	f.mark(0)
	// Before: a, b, c are followed from −3: 3, 3 (a fails), 2 (b completes).
	// After: c, d, e, g, h are. i1 is restarted at 1.5 and takes d with it.
	f.Restart("i1", minute(1.5))
	f.session(endOf(c, fleet.SessionVanished, math.NaN())) // since the mark: at 0
	f.session(endOf(d, fleet.SessionTerminated, 1.6))
	f.session(endOf(e, fleet.SessionTerminated, 2.5))
	f.mark(3)
	f.session(endOf(late, fleet.SessionFailed, 1)) // its bucket has closed
	f.mark(9)
	want := Evidence{
		Blocks: TableOf(Row{Shape{NA: 3, NB: 5, Y: 1, YB: 1}, 1}, Row{Shape{NA: 3, NB: 3, Y: 1}, 1}, Row{Shape{NA: 2, NB: 3}, 1}),
		New:    Trials{Failed: 1, Succeeded: 1}, Baseline: Trials{Failed: 1, Succeeded: 1}, Cut: 1,
	}
	if diff := cmp.Diff(want, f.Evidence()); diff != "" {
		t.Errorf("evidence (-want +got):\n%s", diff)
	}
	r := f.Judge(DefaultPolicy())
	if r.Verdict != Inconclusive || r.Reasons[0].Code != NotDecided || r.Figures["new_at_risk"] != 11 || r.Figures["cut"] != 1 || !r.At.Equal(minute(9)) {
		t.Errorf("judged %+v", r)
	}
}

// Nobody tells which instances the step restarts: what ends meanwhile as it should
// counts, what breaks off is the step's doing, and what breaks off later is not.
func TestOpenSessionsThatTheStepMayHaveCut(t *testing.T) {
	t.Parallel()
	f := openFold(t, oneWindow())
	f.RestartsUntil(minute(1.5))
	for _, id := range []string{"a", "b", "c", "d"} {
		f.session(openedAt(id, -1, "i1"))
	}
	f.mark(0)
	f.session(endOf(openedAt("a", -1, "i1"), fleet.SessionFailed, 0.5))
	f.session(endOf(openedAt("b", -1, "i1"), fleet.SessionCompleted, 0.6))
	f.session(endOf(openedAt("c", -1, "i1"), fleet.SessionVanished, 1.2))
	f.session(endOf(openedAt("d", -1, "i1"), fleet.SessionFailed, 1.6))
	f.mark(3)
	e := f.Evidence()
	if want := (Trials{Failed: 1, Succeeded: 1}); e.New != want || e.Cut != 2 {
		t.Errorf("new %+v and %d cut, want %+v and 2", e.New, e.Cut, want)
	}
	// Who is cut is not at risk in the bucket of the end: b, c, d, then d alone.
	if want := TableOf(Row{Shape{NB: 3}, 1}, Row{Shape{NB: 1, Y: 1, YB: 1}, 1}); cmp.Diff(want, e.Blocks) != "" {
		t.Errorf("blocks %v, want %v", e.Blocks, want)
	}
}

func TestOpenSessionsListedAgain(t *testing.T) {
	t.Parallel()
	f := openFold(t, oneWindow())
	s := openedAt("a", -9, "i1")
	f.session(s)
	f.mark(0)
	f.session(endOf(s, fleet.SessionVanished, math.NaN()))
	f.mark(0.5)
	f.session(s)
	f.mark(3)
	if e := f.Evidence(); e.New != (Trials{}) || e.Blocks.Blocks() != 3 {
		t.Errorf("a session that is listed again has ended: %+v", e)
	}
}

func TestOpenSessionsToldTooLate(t *testing.T) {
	t.Parallel()
	f := openFold(t, oneWindow())
	a, b, c := openedAt("a", -9, "i1"), openedAt("b", -9, "i1"), openedAt("c", -9, "i1")
	for _, s := range []fleet.Session{a, b, c} {
		f.session(s)
	}
	f.mark(-1)
	f.session(endOf(a, fleet.SessionFailed, -2.5))
	f.session(endOf(b, fleet.SessionFailed, -8)) // no window missed it
	f.mark(1)
	f.session(endOf(c, fleet.SessionFailed, 0.5))
	f.mark(3)
	if e := f.Evidence(); e.Late != (Arms{Baseline: 1, New: 1}) || e.New != (Trials{}) || e.Baseline != (Trials{}) {
		t.Errorf("two ends that came late, and one: %+v", e)
	}
	if r := f.Judge(DefaultPolicy()); r.Verdict != Inconclusive {
		t.Errorf("judged %s: %s", r.Verdict, r.Text)
	}
}

// The first end that is dated counts, in whatever order they are told, and goes
// before what is not dated.
func TestOpenSessionsEndOnce(t *testing.T) {
	t.Parallel()
	s := openedAt("a", -9, "i1")
	rows := []fleet.Session{endOf(s, fleet.SessionCompleted, 2.5), endOf(s, fleet.SessionFailed, 1.5), endOf(s, fleet.SessionVanished, math.NaN())}
	for range 3 {
		rows = append(rows[1:], rows[0])
		f := openFold(t, oneWindow())
		f.session(s)
		f.mark(0)
		for _, row := range rows {
			f.session(row)
		}
		f.mark(3)
		want := TableOf(Row{Shape{NA: 1, NB: 1}, 1}, Row{Shape{NA: 1, NB: 1, Y: 1, YB: 1}, 1})
		if diff := cmp.Diff(want, f.Evidence().Blocks); diff != "" {
			t.Errorf("%s first (-want +got):\n%s", rows[0].Status, diff)
		}
	}
}

// A restart moves those of its instance out of the window it falls in, and of no
// other.
func TestOpenSessionsOfARestartedInstance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		at   float64
		want Table
	}{
		{"long before", -9, TableOf(Row{Shape{NA: 2, NB: 2}, 3})},
		{"in the window before", -1.5, TableOf(Row{Shape{NA: 2, NB: 2}, 1}, Row{Shape{NA: 1, NB: 2}, 2})},
		{"in that of the step", 1, TableOf(Row{Shape{NA: 2, NB: 2}, 1}, Row{Shape{NA: 2, NB: 1}, 2})},
		{"later", 3, TableOf(Row{Shape{NA: 2, NB: 2}, 3})},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := openFold(t, oneWindow())
			f.session(openedAt("a", -20, "i1"))
			f.session(openedAt("b", -20, "i2"))
			f.Restart("i1", minute(c.at))
			f.mark(9)
			if diff := cmp.Diff(c.want, f.Evidence().Blocks); diff != "" {
				t.Errorf("blocks (-want +got):\n%s", diff)
			}
		})
	}
}

// Marks that are repeated or come late, and those of others, move nothing.
func TestOpenMarksNeverGoBack(t *testing.T) {
	t.Parallel()
	f := openFold(t, oneWindow())
	f.session(openedAt("a", -9, "i1"))
	f.Mark(markAt(1), 7)
	f.Mark(fleet.Mark{Cluster: "rome", CompleteUntil: minute(9)}, 8)
	f.Mark(markAt(-5), 9)
	f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: minute(9), Blind: true}, 6)
	if r := f.Judge(DefaultPolicy()); r.Verdict != Pending || !r.At.Equal(minute(1)) || f.Evidence().Blocks.Blocks() != 1 {
		t.Errorf("%s as of %s after %d blocks: %s", r.Verdict, r.At, f.Evidence().Blocks.Blocks(), r.Text)
	}
}

func TestOpenWindows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		from float64
		side []Span
		want []float64
	}{
		{"none fits", -2.9, nil, []float64{0}},
		{"two fit", -7, nil, []float64{-6, -3, 0}},
		{"as many as there are partners", -100, nil, []float64{-30, -27, -24, -21, -18, -15, -12, -9, -6, -3, 0}},
		{"what is set aside is not looked at", -10, []Span{{minute(-4), minute(-3.5)}}, []float64{-9, -3, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := openFold(t, Boundary{BaselineFrom: minute(c.from), Start: noon, End: noon, Aside: c.side})
			var want []time.Time
			for _, m := range c.want {
				want = append(want, minute(m))
			}
			if diff := cmp.Diff(want, f.windows); diff != "" {
				t.Errorf("windows (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOpenJudge(t *testing.T) {
	t.Parallel()
	long := Boundary{BaselineFrom: minute(-31), Start: noon, End: noon}
	// people opens n sessions an hour before and ends every nth of those since the
	// step, at its instant.
	people := func(f *openStream, n int, ends func(i int) (fleet.SessionStatus, bool)) {
		for i := range n {
			f.session(openedAt(fmt.Sprint(i), -60, "i1"))
		}
		f.mark(0)
		for i := range n {
			if status, over := ends(i); over {
				f.session(endOf(openedAt(fmt.Sprint(i), -60, "i1"), status, 0.1+2.8*float64(i)/float64(n)))
			}
		}
		f.mark(3)
	}
	all := func(status fleet.SessionStatus) func(int) (fleet.SessionStatus, bool) {
		return func(int) (fleet.SessionStatus, bool) { return status, true }
	}
	none := func(int) (fleet.SessionStatus, bool) { return "", false }
	for _, c := range []struct {
		name    string
		b       Boundary
		play    func(f *openStream)
		verdict Verdict
		code    Code
	}{
		{"nobody was there", long, func(f *openStream) { f.mark(9) }, Pass, NoneOpen},
		{"not over yet", long, func(f *openStream) { people(f, 5, none); f.window, f.bucket = 10, 2 }, Pending, Collecting},
		{"all fail", long, func(f *openStream) { people(f, 20, all(fleet.SessionFailed)) }, Fail, Regression},
		{"all complete", long, func(f *openStream) { people(f, 20, all(fleet.SessionCompleted)) }, Inconclusive, NotDecided},
		{"no time before", Boundary{BaselineFrom: noon, Start: noon, End: noon}, func(f *openStream) { people(f, 20, all(fleet.SessionFailed)) }, Inconclusive, NoBaseline},
		{"blind", long, func(f *openStream) {
			people(f, 20, none)
			f.Mark(fleet.Mark{Cluster: paris, Blind: true, BlindReason: "no token"}, 1e6)
		}, Inconclusive, Blind},
		{"lost", long, func(f *openStream) {
			f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: minute(1), Blind: true, Lost: true, BlindReason: "message 7 is missing"}, 1)
			people(f, 20, none)
		}, Inconclusive, Blind},
		{"cut within budget", long, func(f *openStream) { f.Restart("i1", minute(0)); people(f, 2, all(fleet.SessionFailed)) }, Inconclusive, NotDecided},
		{"cut over budget", long, func(f *openStream) { f.Restart("i1", minute(0)); people(f, 3, all(fleet.SessionFailed)) }, Hold, OverBudget},
		{"fewer end than before", long, func(f *openStream) {
			for i := range 300 {
				s := openedAt(fmt.Sprint("old", i), -60, "i1")
				f.session(s)
				f.session(endOf(s, fleet.SessionFailed, -29.9+float64(i)/10.1))
			}
			people(f, 60, none)
		}, Pass, NoWorse},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := openFold(t, c.b)
			// What is not this check's changes nothing.
			f.session(fleet.Session{ID: "x", Cluster: "rome", Status: fleet.SessionConnected, Start: minute(-60)})
			f.session(fleet.Session{ID: "x", Cluster: paris, Probe: true, Status: fleet.SessionConnected, Start: minute(-60)})
			c.play(f)
			r := f.Judge(DefaultPolicy())
			if r.Check != CheckOpen || r.Verdict != c.verdict || r.Reasons[0].Code != c.code || r.Text == "" {
				t.Errorf("%s by %v, want %s by %s: %s (%+v)", r.Verdict, r.Reasons[0].Code, c.verdict, c.code, r.Text, f.Evidence())
			}
		})
	}
}

// life is a session and how it goes.
type life struct {
	session fleet.Session
	end     float64
	status  fleet.SessionStatus
	// flickers says that it vanishes in every minute and is listed again.
	flickers bool
}

func lives() *rapid.Generator[[]life] {
	return rapid.Custom(func(t *rapid.T) (out []life) {
		for i := range rapid.IntRange(0, 30).Draw(t, "sessions") {
			start := rapid.IntRange(-200, 20).Draw(t, "start")
			end := start + rapid.IntRange(0, 300).Draw(t, "tenths of a minute")
			l := life{openedAt(fmt.Sprint(i), float64(start)/10, fleet.InstanceID(fmt.Sprint("i", i%3))), float64(end) / 10,
				rapid.SampledFrom([]fleet.SessionStatus{fleet.SessionFailed, fleet.SessionCompleted, fleet.SessionTerminated, fleet.SessionVanished}).Draw(t, "end"), rapid.Bool().Draw(t, "flickers")}
			out = append(out, l)
		}
		return out
	})
}

// numbered is a row with its stream sequence.
type numbered struct {
	fleet.Session
	seq uint64
}

// told plays lives minute by minute: in every minute the rows of what happened in
// it, each session as it is at its end, in an order of somebody's choice, and then
// a mark.
func told(f *openStream, all []life, restart float64, order func([]numbered) []numbered) {
	f.Restart("i1", minute(restart))
	for now := -21.0; now <= 5; now++ {
		within := func(m float64) bool { return m >= now-1 && m < now }
		var rows []numbered
		for _, l := range all {
			f.seq++
			switch start := l.session.Start.Sub(noon).Minutes(); {
			case within(l.end):
				end := endOf(l.session, l.status, l.end)
				if l.status == fleet.SessionVanished {
					end.End = time.Time{}
				}
				rows = append(rows, numbered{end, f.seq})
			case within(start):
				rows = append(rows, numbered{l.session, f.seq})
			case start < now && l.end >= now && l.flickers: // vanished and there again
				rows = append(rows, numbered{endOf(l.session, fleet.SessionVanished, math.NaN()), f.seq}, numbered{l.session, f.seq + 1})
				f.seq++
			}
		}
		for _, s := range order(rows) {
			f.Session(s.Session, s.seq)
		}
		f.mark(now)
	}
}

func TestOpenFoldLaws(t *testing.T) {
	t.Parallel()
	b := Boundary{BaselineFrom: minute(-19), Start: noon, End: minute(1)}
	rapid.Check(t, func(t *rapid.T) {
		all := lives().Draw(t, "lives")
		restart := float64(rapid.IntRange(0, 29).Draw(t, "restart")) / 10
		play := func(order func([]numbered) []numbered) Evidence {
			f := openFold(t, b)
			told(f, all, restart, order)
			return f.Evidence()
		}
		first := play(func(in []numbered) []numbered { return in })
		if diff := cmp.Diff(first, play(func(in []numbered) []numbered {
			slices.Reverse(in)
			return in
		})); diff != "" {
			t.Fatalf("the order of rows between marks changes evidence:\n%s", diff)
		}
		var before []numbered
		if diff := cmp.Diff(first, play(func(in []numbered) []numbered {
			before = append(before, in...)
			return slices.Clone(before)
		})); diff != "" {
			t.Fatalf("repeats change evidence:\n%s", diff)
		}
		if first.Late != (Arms{}) {
			t.Fatalf("late: %+v", first.Late)
		}
		newEnded, baselineEnded := 0, 0
		for _, r := range first.Blocks {
			if !r.Valid() {
				t.Fatalf("a block that cannot be: %+v", r)
			}
			newEnded, baselineEnded = newEnded+r.Count*r.YB, baselineEnded+r.Count*(r.Y-r.YB)
		}
		// Counted by the words of the rules, session by session.
		var want Trials
		cut := 0
		for _, l := range all {
			start := l.session.Start.Sub(noon).Minutes()
			end := l.end
			if l.status == fleet.SessionVanished { // at the mark before its minute's
				end = math.Floor(end)
			}
			if start >= 0 || end < 0 || end >= 3 {
				continue
			}
			abnormal := l.status == fleet.SessionFailed || l.status == fleet.SessionVanished
			left := l.session.InstanceID == "i1" && end >= math.Floor(restart)
			switch {
			case left && (abnormal || end >= restart-1e-9 && end < math.Floor(restart)+1):
				cut++
			case left:
			case abnormal:
				want.Failed++
			default:
				want.Succeeded++
			}
		}
		if first.New != want || newEnded != want.Failed || first.Cut != cut {
			t.Fatalf("ends after the step %+v (%d in blocks), cut %d; want %+v, %d", first.New, newEnded, first.Cut, want, cut)
		}
		if baselineEnded > first.Baseline.Failed {
			t.Fatalf("%d of %d baseline ends in blocks", baselineEnded, first.Baseline.Failed)
		}
	})
}

func TestBadOpenFolds(t *testing.T) {
	t.Parallel()
	good := oneWindow()
	for _, c := range []struct {
		name    string
		p       Policy
		o       OpenPolicy
		cluster fleet.ClusterID
		b       Boundary
		want    string
	}{
		{"policy", Policy{}, DefaultOpenPolicy(), paris, good, "alpha"},
		{"bucket", DefaultPolicy(), OpenPolicy{Bucket: time.Millisecond, Buckets: 1}, paris, good, "bucket is 1ms"},
		{"buckets", DefaultPolicy(), OpenPolicy{Bucket: time.Minute}, paris, good, "buckets is 0"},
		{"budget", DefaultPolicy(), OpenPolicy{Bucket: time.Minute, Buckets: 1, Budget: -1}, paris, good, "budget is -1"},
		{"cluster", DefaultPolicy(), DefaultOpenPolicy(), "", good, "the cluster is empty"},
		{"times", DefaultPolicy(), DefaultOpenPolicy(), paris, Boundary{BaselineFrom: minute(1), Start: noon}, "in this order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if _, err := NewOpenFold(c.p, c.o, c.cluster, c.b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func BenchmarkOpenFold(b *testing.B) {
	const sessions = 1000
	for b.Loop() {
		f := openFold(b, Boundary{BaselineFrom: minute(-31), Start: noon, End: noon})
		for i := range sessions {
			f.session(openedAt(fmt.Sprint(i), -60, "i1"))
		}
		for m := range 34 {
			f.mark(float64(m - 30))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*sessions*33), "ns/look")
}
