package backtest_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/backtest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

const paris fleet.ClusterID = "paris"

// monday is a midnight.
func monday() time.Time { return time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC) }

// row is one row of a history: a session or, when session is nil, a mark.
type row struct {
	seq     uint64
	session *fleet.Session
	mark    fleet.Mark
}

// folder is a gate.Fold or a Replay.
type folder interface {
	Session(s fleet.Session, seq uint64)
	Mark(m fleet.Mark, seq uint64)
}

func feed(f folder, rows []row) {
	for _, r := range rows {
		if r.session != nil {
			f.Session(*r.session, r.seq)
		} else {
			f.Mark(r.mark, r.seq)
		}
	}
}

// history is what a source tells that looks every five seconds: so many sessions an
// hour, of which a share fails, from a beginning on.
type history struct {
	from    time.Time
	length  time.Duration
	perHour int
	failing func(at time.Time) float64
	seed    uint64
	every   time.Duration
}

func (h history) rows() []row {
	chance := rand.New(rand.NewPCG(h.seed, 1))
	every := h.every
	if every == 0 {
		every = 5 * time.Second
	}
	var out []row
	seq, told := uint64(0), h.from
	tell := func(until time.Time) {
		for ; !told.After(until); told = told.Add(every) {
			seq++
			out = append(out, row{seq: seq, mark: fleet.Mark{Cluster: paris, About: fleet.KindSession, CompleteUntil: told}})
		}
	}
	gap := time.Hour / time.Duration(h.perHour)
	for i := 0; ; i++ {
		at := h.from.Add(time.Duration(i)*gap + time.Duration(chance.Int64N(int64(gap))))
		if at.Sub(h.from) >= h.length {
			tell(h.from.Add(h.length))
			return out
		}
		tell(at)
		status := fleet.SessionConnected
		if chance.Float64() < h.failing(at) {
			status = fleet.SessionFailed
		}
		out = append(out, row{seq: seq + 1, session: &fleet.Session{
			ID: fleet.SessionID(fmt.Sprintf("sess-%08x", i*2654435761)), Cluster: paris, Status: status,
			User: fmt.Sprintf("user%d", chance.IntN(500)), Target: fmt.Sprintf("db-%d", chance.IntN(300)), Start: at,
		}})
	}
}

func always(rate float64) func(time.Time) float64 { return func(time.Time) float64 { return rate } }

func around(at time.Time, lookback time.Duration) gate.Boundary {
	return gate.Boundary{BaselineFrom: at.Add(-lookback), Start: at, End: at}
}

func replay(t testing.TB, cases []backtest.Case, steps []backtest.Step, rows []row, until time.Time) []backtest.Run {
	t.Helper()
	r, err := backtest.NewReplay(cases, 7, steps)
	if err != nil {
		t.Fatal(err)
	}
	feed(r, rows)
	r.End(until)
	return r.Runs()
}

// A replay says of a step what a gate says that is given every row of the stretch up
// to its deadline, although it is given fewer marks.
func TestAReplayIsTheGate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := gate.DefaultPolicy()
		p.PlannedTrials, p.Alpha, p.Beta, p.AcceptableRate = 20, 0.4, 0.5, 0.3 // so that short histories reach every verdict
		p.Maturation, p.BurstWindow, p.Bucket, p.Deadline = 20*time.Second, 10*time.Second, time.Second, 5*time.Minute
		at := func(name string, from, to int) time.Time {
			return monday().Add(time.Duration(rapid.IntRange(from, to).Draw(t, name)) * time.Second)
		}
		start := at("start", 300, 600)
		step := backtest.Step{Cluster: paris, Outcome: backtest.Fake, Boundary: gate.Boundary{
			BaselineFrom: start.Add(-8 * time.Minute), Start: start, End: start.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "takes")) * time.Second),
		}}
		deadline := step.Boundary.End.Add(p.Deadline)
		var rows []row
		seq := uint64(0)
		for range rapid.IntRange(60, 110).Draw(t, "rows") {
			seq += uint64(rapid.IntRange(0, 1).Draw(t, "next"))
			if rapid.Bool().Draw(t, "is_mark") {
				m := fleet.Mark{Cluster: paris, CompleteUntil: at("until", 0, 1100), Blind: rapid.IntRange(0, 9).Draw(t, "blind") == 0, Lost: rapid.IntRange(0, 99).Draw(t, "lost") == 0}
				if rapid.IntRange(0, 3).Draw(t, "in_turn") > 0 {
					// As a source tells it: on from what it said last.
					m.CompleteUntil = monday().Add(time.Duration(len(rows)*10) * time.Second)
				}
				if m.CompleteUntil.After(deadline) {
					m.CompleteUntil = deadline
				}
				rows = append(rows, row{seq: seq, mark: m})
				continue
			}
			rows = append(rows, row{seq: seq, session: &fleet.Session{
				ID: fleet.SessionID(fmt.Sprint(rapid.IntRange(0, 300).Draw(t, "id"))), Cluster: paris, User: rapid.SampledFrom([]string{"", "ann", "bob"}).Draw(t, "user"),
				Target: "db", Start: monday().Add(time.Duration(len(rows)*10+rapid.IntRange(-30, 30).Draw(t, "began")) * time.Second),
				Status: rapid.SampledFrom([]fleet.SessionStatus{fleet.SessionConnecting, fleet.SessionConnected, fleet.SessionCompleted, fleet.SessionFailed, fleet.SessionFailed}).Draw(t, "status"),
				Probe:  rapid.IntRange(0, 9).Draw(t, "probe") == 0,
			}})
		}
		f, err := gate.NewFold(p, paris, step.Boundary)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			// A gate that is past its deadline is closed.
			if over := !f.Watermark().CompleteUntil.Before(deadline); !over {
				feed(f, []row{r})
			}
		}
		r, err := backtest.NewReplay([]backtest.Case{{Policy: p}}, 0, []backtest.Step{step})
		if err != nil {
			t.Fatal(err)
		}
		feed(r, rows)
		r.End(deadline)
		want := f.Verdict(true)
		got := r.Runs()[0]
		if got.Verdict != want.Verdict || got.Trials != want.Trials || want.Verdict.Final() && !got.At.Equal(want.Watermark.CompleteUntil) {
			t.Errorf("the replay says %s after %d trials at %s, the gate %s after %d at %s", got.Verdict, got.Trials, got.At, want.Verdict, want.Trials, want.Watermark.CompleteUntil)
		}
	})
}

func TestWhatHistoryDoesNotReachIsNotJudged(t *testing.T) {
	t.Parallel()
	p := gate.DefaultPolicy()
	p.AcceptableRate = 0.001 // so that nothing passes by it within hours
	at := monday().Add(24 * time.Hour)
	rows := history{from: monday(), length: 26 * time.Hour, perHour: 60, failing: always(0.02)}.rows()
	step := backtest.Step{Cluster: paris, Outcome: backtest.Fake, Boundary: around(at, 24*time.Hour)}
	next := step
	next.Until = at.Add(time.Hour)
	asleep := step
	asleep.Boundary = around(at.Add(100*time.Hour), 24*time.Hour)
	for name, c := range map[string]struct {
		step    backtest.Step
		until   time.Time
		verdict gate.Verdict
		held    time.Duration
	}{
		"history ends before the deadline":     {step, at.Add(2 * time.Hour), gate.Pending, 4 * time.Hour},
		"the source falls silent before it":    {step, at.Add(5 * time.Hour), gate.Inconclusive, 4 * time.Hour},
		"the cluster is touched before it":     {next, at.Add(5 * time.Hour), gate.Pending, time.Hour},
		"nothing is known of the baseline":     {asleep, at.Add(200 * time.Hour), gate.Inconclusive, 4 * time.Hour},
		"nothing is known and history is over": {asleep, at.Add(99 * time.Hour), gate.Pending, 4 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := replay(t, []backtest.Case{{Policy: p}}, []backtest.Step{c.step}, rows, c.until)
			if len(got) != 1 || got[0].Verdict != c.verdict || got[0].Held() != c.held {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A mark says that everything before was sent, even where the source is blind right
// after; and what a mark says past the deadline is not the step's.
func TestWhatMarksPromise(t *testing.T) {
	t.Parallel()
	p := gate.DefaultPolicy()
	p.AcceptableRate = 0.5 // so that a few that work pass
	at := monday().Add(24 * time.Hour)
	mark := func(seq uint64, until time.Duration, blind bool) row {
		return row{seq: seq, mark: fleet.Mark{Cluster: paris, CompleteUntil: at.Add(until), Blind: blind}}
	}
	sessions := func(seq uint64, from time.Duration) (out []row) {
		for i := range 30 {
			start := at.Add(from + time.Duration(i)*time.Second)
			out = append(out, row{seq: seq, session: &fleet.Session{ID: fleet.SessionID(fmt.Sprint(seq, "-", i)), Cluster: paris, Status: fleet.SessionConnected, Start: start}})
		}
		return out
	}
	for name, c := range map[string]struct {
		rows    []row
		verdict gate.Verdict
	}{
		"baseline in time": {slices.Concat(sessions(1, -2*time.Hour), []row{mark(2, 0, false)}, sessions(3, time.Minute), []row{mark(4, 5*time.Hour, false)}), gate.Pass},
		"baseline too late": {slices.Concat([]row{mark(1, -time.Hour, false), mark(1, -time.Hour, true)}, sessions(2, -2*time.Hour), []row{mark(3, 0, false)},
			sessions(4, time.Minute), []row{mark(5, 5*time.Hour, false)}), gate.Inconclusive},
		"new ones past the deadline":   {slices.Concat(sessions(1, -2*time.Hour), []row{mark(2, 0, false)}, sessions(3, p.Deadline+time.Minute), []row{mark(4, 5*time.Hour, false)}), gate.Inconclusive},
		"open until past the deadline": {slices.Concat(sessions(1, -2*time.Hour), []row{mark(2, 0, false)}, sessions(3, p.Deadline-3*time.Second), []row{mark(4, 5*time.Hour, false)}), gate.Inconclusive},
	} {
		got := replay(t, []backtest.Case{{Policy: p}}, []backtest.Step{{Cluster: paris, Outcome: backtest.Fake, Boundary: around(at, 24*time.Hour)}}, c.rows, at.Add(6*time.Hour))[0]
		if got.Verdict != c.verdict || got.At.After(at.Add(p.Deadline)) {
			t.Errorf("%s: %s at %s", name, got.Verdict, got.At)
		}
	}
}

func TestAFinalVerdictTellsWhenAndAfterWhat(t *testing.T) {
	t.Parallel()
	at := monday().Add(24 * time.Hour)
	failing := func(when time.Time) float64 {
		if when.Before(at) {
			return 0.02
		}
		return 0.5
	}
	rows := history{from: monday(), length: 30 * time.Hour, perHour: 60, failing: failing}.rows()
	got := replay(t, []backtest.Case{{Policy: gate.DefaultPolicy()}}, []backtest.Step{{Cluster: paris, Outcome: backtest.RolledBack, Boundary: around(at, 24*time.Hour)}}, rows, at.Add(6*time.Hour))[0]
	exposed := 0
	for _, r := range rows {
		if r.session != nil && !r.session.Start.Before(at) && r.session.Start.Before(got.At) {
			exposed++
		}
	}
	if got.Verdict != gate.Fail || got.Held() <= 0 || got.Held() > time.Hour || got.Exposed != exposed || got.Trials == 0 || got.Trials > exposed {
		t.Errorf("%s after %s, %d trials of %d sessions, want of %d", got.Verdict, got.Held(), got.Trials, got.Exposed, exposed)
	}
}

// What is injected at a share is injected at any larger one too, and only into what
// came after the step.
func TestInjectedFailuresAreNested(t *testing.T) {
	t.Parallel()
	p := gate.DefaultPolicy()
	p.Tol, p.Alpha, p.FloorRate, p.PlannedTrials = 1, 0.5, 0, 1 // so that one failure beside ten successes fails
	at := monday().Add(time.Hour)
	before := history{from: monday(), length: time.Hour, perHour: 60, failing: always(0)}.rows()
	shares := []float64{0, 0.05, 0.2, 1}
	cases := make([]backtest.Case, len(shares))
	for i, share := range shares {
		cases[i] = backtest.Case{Policy: p, Inject: share}
	}
	failed := make([]int, len(shares))
	for i := range 300 {
		rows := append(slices.Clone(before),
			row{seq: 10_000, session: &fleet.Session{ID: fleet.SessionID(fmt.Sprintf("new-%d", i)), Cluster: paris, Status: fleet.SessionConnected, Start: at.Add(time.Second)}},
			row{seq: 10_001, mark: fleet.Mark{Cluster: paris, CompleteUntil: at.Add(time.Hour)}})
		verdicts := make([]gate.Verdict, len(shares))
		for _, run := range replay(t, cases, []backtest.Step{{Cluster: paris, Outcome: backtest.Fake, Boundary: around(at, time.Hour)}}, rows, at.Add(24*time.Hour)) {
			verdicts[run.Case] = run.Verdict
		}
		for k, v := range verdicts {
			if v == gate.Fail {
				failed[k]++
			} else if k > 0 && verdicts[k-1] == gate.Fail {
				t.Errorf("session %d fails at %g and not at %g", i, shares[k-1], shares[k])
			}
		}
	}
	// Of 300: 15 ± 11 and 60 ± 21, three deviations either way.
	if failed[0] != 0 || failed[1] < 4 || failed[1] > 26 || failed[2] < 39 || failed[2] > 81 || failed[3] != 300 {
		t.Errorf("of 300 sessions failed %v at %v", failed, shares)
	}
}

func TestTheSameSeedDrawsTheSame(t *testing.T) {
	t.Parallel()
	rows := history{from: monday(), length: 40 * time.Hour, perHour: 100, failing: always(0.02)}.rows()
	cases := []backtest.Case{{Policy: gate.DefaultPolicy()}, {Policy: gate.DefaultPolicy(), Inject: 0.1}}
	steps := []backtest.Step{
		{Cluster: paris, Outcome: backtest.Fake, Boundary: around(monday().Add(24*time.Hour), 24*time.Hour)},
		{Cluster: paris, Outcome: backtest.Stayed, Gate: "g", Boundary: around(monday().Add(30*time.Hour), 24*time.Hour)},
	}
	one, two := replay(t, cases, steps, rows, monday().Add(40*time.Hour)), replay(t, cases, steps, rows, monday().Add(40*time.Hour))
	if diff := cmp.Diff(one, two); diff != "" {
		t.Error(diff)
	}
	if len(one) != 3 { // nothing is injected into a real step
		t.Errorf("%d runs", len(one))
	}
}

func TestAPolicyOutOfBoundsIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := backtest.NewReplay([]backtest.Case{{}}, 0, []backtest.Step{{Cluster: paris, Boundary: around(monday(), time.Hour)}}); err == nil {
		t.Error("the zero policy was taken")
	}
}

// Innocent steps seldom fail, and the more failures are injected the more fail.
func TestPowerCurve(t *testing.T) {
	t.Parallel()
	rows := history{from: monday(), length: 40 * 24 * time.Hour, perHour: 100, failing: always(0.02), every: time.Minute, seed: 3}.rows()
	policy := gate.DefaultPolicy()
	cases := []backtest.Case{{Policy: policy}}
	for _, share := range []float64{0.02, 0.05, 0.2} {
		cases = append(cases, backtest.Case{Policy: policy, Inject: share})
	}
	until := monday().Add(40 * 24 * time.Hour)
	steps := backtest.Fakes(backtest.Choice{Cluster: paris, Seed: 1, Within: gate.Span{From: monday(), To: until}, Steps: 60, Lookback: 24 * time.Hour, Deadline: policy.Deadline})
	runs := replay(t, cases, steps, rows, until)
	last := -1
	for i, c := range cases {
		s := backtest.SumOf(runs, i, backtest.Fake)
		t.Logf("inject %g: %+v", c.Inject, s)
		if s.Judged() != len(steps) || s.Fail < last {
			t.Errorf("%d of %d judged, %d failed, %d at a smaller share", s.Judged(), len(steps), s.Fail, last)
		}
		last = s.Fail
	}
	if innocent := backtest.SumOf(runs, 0, backtest.Fake); innocent.Fail > 2 {
		t.Errorf("%d of %d innocent steps failed", innocent.Fail, len(steps))
	}
	if last < len(steps)*9/10 {
		t.Errorf("%d of %d steps failed at 22 %%", last, len(steps))
	}
}
