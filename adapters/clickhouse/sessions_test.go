//go:build linux && amd64

package clickhouse

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// visits draws sessions of three weeks, half of them around the beginnings of
// periods, each with the rows of what was seen of it, in no order and some of them
// days late.
func visits(chance *rand.Rand, tenant fleet.TenantID, periods []codec.Period) []codec.Record {
	var out []codec.Record
	for n := range chance.IntN(400) {
		session := fleet.Session{
			ID: fleet.SessionID(fmt.Sprintf("s%d", n)), Cluster: fleet.ClusterID(fmt.Sprintf("c%d", chance.IntN(4))),
			Start: minute(chance.IntN(24 * 24 * 60)).Add(time.Duration(chance.IntN(60e9))), Probe: chance.IntN(10) == 0,
		}
		if p := one(chance, periods...); chance.IntN(2) == 0 {
			session.Cluster, session.Start = p.Cluster, p.Began.Add(time.Duration(chance.IntN(8*3600e9))-time.Hour)
		}
		for i, status := range one(chance, [][]fleet.SessionStatus{
			{fleet.SessionConnecting}, {fleet.SessionConnected}, {fleet.SessionConnecting, fleet.SessionVanished}, {fleet.SessionFailed},
			{fleet.SessionConnecting, fleet.SessionFailed}, {fleet.SessionConnected, fleet.SessionCompleted}, {fleet.SessionTerminated},
			{fleet.SessionConnecting, fleet.SessionConnected, fleet.SessionCompleted, fleet.SessionFailed}, {fleet.SessionConnected, fleet.SessionCompleted, fleet.SessionCompleted},
		}...) {
			seen := session
			seen.Status = status
			at := session.Start.Add(time.Duration(i) * time.Minute)
			if chance.IntN(3) == 0 {
				at = at.Add(time.Duration(chance.IntN(4*24*60)) * time.Minute)
			}
			out = append(out, codec.Record{
				Observation: codec.Observation{Session: &seen}, Tenant: tenant, ObservedAt: at, RecordedAt: at, StreamSequence: uint64(n*10 + i),
			})
		}
	}
	chance.Shuffle(len(out), func(i, k int) { out[i], out[k] = out[k], out[i] })
	return out
}

// impact is what Impact is to return.
func impact(periods []codec.Period, records []codec.Record, span codec.Span, group codec.Group) []codec.Impact {
	ended, failed := make(map[fleet.SessionID]*fleet.Session), make(map[fleet.SessionID]bool)
	for _, r := range records {
		switch s := r.Session; s.Status {
		case fleet.SessionFailed:
			failed[s.ID] = true
			fallthrough
		case fleet.SessionCompleted, fleet.SessionTerminated:
			ended[s.ID] = s
		}
	}
	sums := make(map[string]*codec.Impact)
	for id, session := range ended {
		if session.Probe || session.Start.Before(span.From) || !session.Start.Before(span.To) {
			continue
		}
		key := ""
		switch group {
		case codec.ByCluster:
			key = string(session.Cluster)
		case codec.ByWeek:
			day := session.Start
			for day.Weekday() != time.Monday {
				day = day.AddDate(0, 0, -1)
			}
			key = day.Format(time.DateOnly)
		}
		if sums[key] == nil {
			sums[key] = &codec.Impact{Key: key}
		}
		fared := &sums[key].Whole
		for _, p := range periods {
			if p.Cluster == session.Cluster && !session.Start.Before(p.Began) && (p.Ended.IsZero() || session.Start.Before(p.Ended)) {
				switch p.State {
				case drift.Stepping:
					fared = &sums[key].Inside
				case drift.Overdue:
					fared = &sums[key].Outside
				}
			}
		}
		fared.Sessions++
		if failed[id] {
			fared.Failed++
		}
	}
	var out []codec.Impact
	for _, sum := range sums {
		out = append(out, *sum)
	}
	slices.SortFunc(out, func(a, b codec.Impact) int {
		if group == codec.ByWeek {
			return strings.Compare(a.Key, b.Key)
		}
		return cmp.Or(cmp.Compare(b.Outside.Failed, a.Outside.Failed), cmp.Compare(b.Inside.Failed, a.Inside.Failed), strings.Compare(a.Key, b.Key))
	})
	return out
}

// past is a history as it arrives, and what is asked of it.
type past struct {
	periods []codec.Period // as they are in the end
	rows    []codec.Period // as they arrive
	records []codec.Record
	// counts are the instants at which sessions are counted.
	counts []time.Time
	span   codec.Span
	now    time.Time
	step   time.Duration
}

func pasts(chance *rand.Rand, tenant fleet.TenantID) past {
	p := past{periods: lives(chance), span: span(chance), step: time.Duration(5+chance.IntN(3000)) * time.Minute, now: minute(chance.IntN(40 * 24 * 60))}
	p.records = visits(chance, tenant, p.periods)
	for range 2 {
		p.counts = append(p.counts, one(chance, p.periods...).Began.Add(time.Duration(chance.IntN(12*3600e9))))
	}
	p.counts = append(p.counts, minute(80*24*60))
	slices.SortFunc(p.counts, time.Time.Compare)
	if chance.IntN(2) == 0 {
		p.span.From, p.span.To = p.span.From.Truncate(time.Hour), p.span.To.Truncate(time.Hour)
	}
	// A period is recorded when it begins and when it ends, each up to most of a day
	// late.
	slow := func() time.Duration { return time.Duration(chance.IntN(20*60)*chance.IntN(3)/2) * time.Minute }
	for i, whole := range p.periods {
		began, ended := whole, whole
		began.Ended, began.RecordedAt, began.StreamSequence = time.Time{}, whole.Began.Add(slow()), uint64(2*i)
		p.rows = append(p.rows, began)
		if !whole.Ended.IsZero() {
			ended.RecordedAt, ended.StreamSequence = whole.Ended.Add(slow()), uint64(2*i+1)
			p.rows = append(p.rows, ended)
		}
	}
	return p
}

// Sessions and periods arrive in the order in which they were recorded, and sessions
// are counted on the way. What the engine sums in the end is what plain code sums
// over all of them.
func TestSums(t *testing.T) {
	t.Parallel()
	rounds := 20
	if os.Getenv("LOCKSTEP_SOAK") != "" {
		rounds = 1000
	}
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute+time.Duration(rounds)*5*time.Second)
	for round := range rounds {
		me := fleet.TenantID(fmt.Sprintf("t%d", round))
		p := pasts(rand.New(rand.NewPCG(1, uint64(round))), me)
		same := func(what string, want, got any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Fatalf("round %d, from %s to %s: %s (-want +got):\n%s", round, p.span.From, p.span.To, what, diff)
			}
		}
		last := time.Time{}
		for _, until := range p.counts {
			var periods []codec.Period
			for _, row := range p.rows {
				// The last of before comes again.
				if row.RecordedAt.After(last.Add(-time.Hour)) && !row.RecordedAt.After(until) {
					periods = append(periods, row)
				}
			}
			var records []codec.Record
			for _, r := range p.records {
				if r.RecordedAt.After(last.Add(-time.Hour)) && !r.RecordedAt.After(until) {
					records = append(records, r)
				}
			}
			storeAt(t, s, until.Add(-time.Hour)) // before what the next count looks at
			if err := errors.Join(s.InsertPeriods(ctx, me, periods), s.InsertRecords(ctx, records), s.RollUp(ctx, me)); err != nil {
				t.Fatal(err)
			}
			countedAt(t, s, me, until)
			last = until
		}
		for _, group := range []codec.Group{codec.ByAll, codec.ByCluster, codec.ByEdge, codec.ByWeek} {
			mixed, err := s.MixedTime(ctx, me, p.span, group, p.now)
			same("mixed time by "+string(group), mixedTime(p.periods, p.span, group, p.now), mixed, err)
			if group != codec.ByEdge {
				fared, err := s.Impact(ctx, me, p.span, group)
				same("impact by "+string(group), impact(p.periods, p.records, p.span, group), fared, err)
			}
		}
		adopted, err := s.Adoption(ctx, me, fleet.LineGateway, p.span, p.step)
		same("adoption", adoption(p.periods, p.span, p.step), adopted, err)
		converged, err := s.Convergence(ctx, me, p.span)
		same("convergence", convergence(p.periods, p.span), converged, err)
	}
}

// storeAt has all that is stored from now on be stored at an instant.
func storeAt(t *testing.T, s *Store, at time.Time) {
	t.Helper()
	for _, table := range []string{"session_events", "drift_periods"} {
		exec(t, s, fmt.Sprintf("ALTER TABLE %s MODIFY COLUMN stored_at DateTime64(3, 'UTC') MATERIALIZED fromUnixTimestamp64Milli(%d, 'UTC')", table, at.UnixMilli()))
	}
}

// countedAt has the last count be of an instant.
func countedAt(t *testing.T, s *Store, tenant fleet.TenantID, at time.Time) {
	t.Helper()
	exec(t, s, fmt.Sprintf(`INSERT INTO session_hours (tenant, cluster, hour, counted_at, version)
		SELECT '%s', '', 0, fromUnixTimestamp64Milli(%d, 'UTC'), max(version) + 1 FROM session_hours WHERE tenant = '%[1]s'`, tenant, at.UnixMilli()))
}

// Only what was stored since the last count is looked at, with what goes with it;
// after a clock that was ahead, all since then by the clock that is right.
func TestRollUpLooksAtWhatIsNew(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	now := time.Now()
	arrive := func(stored time.Time, first int) uint64 {
		t.Helper()
		storeAt(t, s, stored)
		records := sessions(first, 100)
		for i := range records {
			records[i].Session.Status = fleet.SessionCompleted
			records[i].Session.Start = day0.Add(time.Duration(first) * time.Second)
			records[i].Session.Cluster = "berlin"
		}
		if err := errors.Join(s.InsertRecords(ctx, records), s.RollUp(ctx, fleet.DefaultTenant)); err != nil {
			t.Fatal(err)
		}
		return count(t, s, "SELECT sum(whole_sessions) FROM session_hours FINAL")
	}
	for _, c := range []struct {
		what    string
		stored  time.Time
		counted time.Time // the last count before it
		first   int
		want    uint64
	}{
		{"of the first time", now.Add(-240 * time.Hour), time.Time{}, 0, 100},
		{"stored long before the last count", now.Add(-100 * time.Hour), time.Time{}, 100, 100},
		{"of the same hour, stored now", now, time.Time{}, 200, 300},
		{"of another hour, stored now by a clock that was ahead", now, now.Add(5 * time.Hour), 7200, 400},
	} {
		if !c.counted.IsZero() {
			countedAt(t, s, fleet.DefaultTenant, c.counted)
		}
		if got := arrive(c.stored, c.first); got != c.want {
			t.Errorf("%s: %d sessions are counted, want %d", c.what, got, c.want)
		}
	}
}

// Counting again what was counted writes nothing, and an emptied count is made anew.
func TestRollUpAgain(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	records := sessions(0, 1000)
	for i := range records {
		records[i].Session.Status = fleet.SessionCompleted
	}
	rollUp := func() {
		t.Helper()
		if err := s.RollUp(ctx, fleet.DefaultTenant); err != nil {
			t.Fatal(err)
		}
	}
	total := func() uint64 {
		t.Helper()
		return count(t, s, "SELECT sum(whole_sessions + inside_sessions + outside_sessions) FROM session_hours FINAL")
	}
	rollUp()
	if n := count(t, s, "SELECT count() FROM session_hours"); n != 0 {
		t.Errorf("of nothing there are %d rows", n)
	}
	for range 2 {
		if err := s.InsertRecords(ctx, records); err != nil {
			t.Fatal(err)
		}
		rollUp()
		if n := total(); n != 1000 {
			t.Errorf("%d sessions are counted, want 1000", n)
		}
	}
	exec(t, s, "TRUNCATE TABLE session_hours")
	rollUp()
	if n := total(); n != 1000 {
		t.Errorf("%d sessions are counted anew, want 1000", n)
	}
}

func TestSessionsOf(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	var records []codec.Record
	for n, c := range []struct {
		cluster  fleet.ClusterID
		start    int
		probe    bool
		statuses []fleet.SessionStatus
	}{
		{"berlin", 0, false, []fleet.SessionStatus{fleet.SessionConnecting, fleet.SessionConnected, fleet.SessionCompleted}},
		{"berlin", 1, false, []fleet.SessionStatus{fleet.SessionConnected, fleet.SessionTerminated}},
		{"berlin", 2, false, []fleet.SessionStatus{fleet.SessionConnecting, fleet.SessionFailed}},
		{"berlin", 3, false, []fleet.SessionStatus{fleet.SessionConnected}},
		{"berlin", 4, false, []fleet.SessionStatus{fleet.SessionConnected, fleet.SessionVanished}},
		{"berlin", 5, true, []fleet.SessionStatus{fleet.SessionCompleted}},
		{"berlin", 6, true, []fleet.SessionStatus{fleet.SessionFailed}},
		{"berlin", 10, false, []fleet.SessionStatus{fleet.SessionCompleted}},
		{"berlin", -1, false, []fleet.SessionStatus{fleet.SessionCompleted}},
		{"oslo", 3, false, []fleet.SessionStatus{fleet.SessionCompleted}},
	} {
		for _, status := range c.statuses {
			records = append(records, codec.Record{Tenant: fleet.DefaultTenant, Observation: codec.Observation{Session: &fleet.Session{
				ID: fleet.SessionID(fmt.Sprint(n)), Cluster: c.cluster, Start: minute(c.start), Probe: c.probe, Status: status,
			}}})
		}
	}
	for range 2 {
		if err := s.InsertRecords(ctx, records); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.SessionsOf(ctx, fleet.DefaultTenant, []fleet.ClusterID{"berlin"}, codec.Span{From: minute(0), To: minute(10)})
	got := all["berlin"]
	if err != nil {
		t.Fatal(err)
	}
	want := drift.Sessions{From: minute(0), To: minute(10), Succeeded: 2, Failed: 1, Open: 1, Probes: 2, ProbesFailed: 1}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
