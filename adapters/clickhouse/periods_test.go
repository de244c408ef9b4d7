//go:build linux && amd64

package clickhouse

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// day0 is a Monday some months ago, before nothing is dropped for its age.
var day0 = time.Now().UTC().Truncate(7*24*time.Hour).AddDate(0, 0, -140)

// minute is an instant of the tests, in minutes from their first.
func minute(n int) time.Time { return day0.Add(time.Duration(n) * time.Minute) }

func insertPeriods(t testing.TB, s *Store, tenant fleet.TenantID, periods ...codec.Period) {
	t.Helper()
	if err := s.InsertPeriods(limited(t, time.Minute), tenant, periods); err != nil {
		t.Fatal(err)
	}
}

// lived is a period from one minute to another, open when that is 0, recorded a
// second after it last changed.
func lived(cluster string, began, ended int, state drift.State) codec.Period {
	p := codec.Period{Period: drift.Period{Cluster: fleet.ClusterID(cluster), Began: minute(began), State: state}, StreamSequence: uint64(began), RecordedAt: minute(began).Add(time.Second)}
	if ended > 0 {
		p.Ended, p.StreamSequence, p.RecordedAt = minute(ended), uint64(ended), minute(ended).Add(time.Second)
	}
	return p
}

func periodsComeBack(t *testing.T, w way) {
	s := w.open(t)
	ctx := limited(t, time.Minute)
	files, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Migrate(ctx, files); err != nil {
		t.Fatal(err)
	}
	mixed := codec.Period{
		Period: drift.Period{
			Cluster: "berlin", Began: minute(10), State: drift.Stepping, Reasons: []string{"on its way", "it's one"},
			Running:  map[fleet.Line][]string{fleet.LineGateway: {"4.52.0", "4.53.0"}, fleet.LineSRA: {"3.0.3"}, fleet.LineZTWA: {"", "2"}},
			Assigned: "1.9.0", Rollout: "r1", Target: "2.0.0",
			Edge: drift.Edge{From: fleet.VersionSet{"gateway": "4.52.0", "sra": "3.0.3 beta=1 x"}},
		},
		StreamSequence: 7, RecordedAt: minute(11),
	}
	ended := mixed
	ended.Ended, ended.StreamSequence, ended.RecordedAt = minute(20), 8, minute(21)
	ended.Edge.To = fleet.VersionSet{"gateway": "4.53.0", "sra": "3.0.3"}
	next := codec.Period{Period: drift.Period{Cluster: "berlin", Began: minute(20), State: drift.Locked, Running: map[fleet.Line][]string{fleet.LineGateway: {"4.53.0"}, fleet.LineSRA: {"3.0.3"}}}, StreamSequence: 8, RecordedAt: minute(21)}
	other := codec.Period{Period: drift.Period{Cluster: "oslo", Began: minute(15), State: drift.Dark}, StreamSequence: 6, RecordedAt: minute(15)}
	// The beginning arrives again after the end.
	for _, batch := range [][]codec.Period{{mixed, other}, {ended, next}, {mixed}, nil} {
		insertPeriods(t, s, fleet.DefaultTenant, batch...)
	}
	insertPeriods(t, s, "another", mixed)
	read := func(span codec.Span, limit int, clusters ...fleet.ClusterID) []codec.Period {
		t.Helper()
		got, err := s.Periods(ctx, fleet.DefaultTenant, clusters, span, limit)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	// What has a line's name in a version is taken for that line.
	ended.Edge.From = fleet.VersionSet{"gateway": "4.52.0", "sra": "3.0.3", "beta": "1 x"}
	for name, c := range map[string]struct{ got, want []codec.Period }{
		"all":              {read(codec.Span{}, 0), []codec.Period{ended, other, next}},
		"of one":           {read(codec.Span{}, 0, "berlin"), []codec.Period{ended, next}},
		"of two":           {read(codec.Span{}, 0, "berlin", "oslo", "it's none"), []codec.Period{ended, other, next}},
		"the newest":       {read(codec.Span{}, 2), []codec.Period{other, next}},
		"ended before":     {read(codec.Span{From: minute(20)}, 0, "berlin"), []codec.Period{next}},
		"began after":      {read(codec.Span{To: minute(20)}, 0, "berlin"), []codec.Period{ended}},
		"within a period":  {read(codec.Span{From: minute(12), To: minute(13)}, 0), []codec.Period{ended}},
		"before them all":  {read(codec.Span{To: minute(10)}, 0), nil},
		"still going on":   {read(codec.Span{From: minute(500)}, 0), []codec.Period{other, next}},
		"of nobody's name": {read(codec.Span{}, 0, "rome"), nil},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	var sets []string
	if err := s.Conn().QueryRow(ctx, "SELECT groupArray(version_set) FROM (SELECT version_set FROM drift_periods FINAL WHERE tenant = 'default' ORDER BY began_at)").Scan(&sets); err != nil {
		t.Fatal(err)
	}
	if want := []string{"", "", "gateway=4.53.0 sra=3.0.3"}; !slices.Equal(sets, want) {
		t.Errorf("the version sets are %q, want %q", sets, want)
	}
}

// What was recorded after an instant of something before it was not known then.
func TestPeriodsAsTheyWereKnown(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	locked, dark, overdue := lived("berlin", 10, 20, drift.Locked), lived("berlin", 20, 30, drift.Dark), lived("berlin", 30, 0, drift.Overdue)
	// Nobody recorded anything for an hour.
	locked.RecordedAt, dark.RecordedAt, overdue.RecordedAt = minute(80), minute(80), minute(80)
	insertPeriods(t, s, fleet.DefaultTenant, locked, dark, overdue, lived("oslo", 25, 0, drift.Locked))
	for name, c := range map[string]struct {
		at       time.Time
		clusters []fleet.ClusterID
		want     string
	}{
		"before the first":          {minute(9), nil, ""},
		"from its first instant":    {minute(10), nil, "berlin locked"},
		"while it held":             {minute(15), nil, "berlin locked"},
		"after its unrecorded end":  {minute(50), nil, "berlin locked, oslo locked"},
		"once the end is recorded":  {minute(80), nil, "berlin overdue, oslo locked"},
		"of one":                    {minute(50), []fleet.ClusterID{"oslo"}, "oslo locked"},
		"of one that was not there": {minute(15), []fleet.ClusterID{"oslo"}, ""},
		"now":                       {minute(100), nil, "berlin overdue, oslo locked"},
		"in the future":             {minute(101), nil, ""},
	} {
		periods, err := s.PeriodsAt(ctx, fleet.DefaultTenant, c.at, minute(100), c.clusters)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range periods {
			got = append(got, string(p.Cluster)+" "+string(p.State))
			if !p.Ended.IsZero() {
				t.Errorf("%s: the end %s of %s was not known", name, p.Ended, p.Cluster)
			}
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// lives draws the histories of a few clusters over three weeks: periods that touch,
// the last of them mostly open.
func lives(chance *rand.Rand) []codec.Period {
	var out []codec.Period
	releases := []fleet.ReleaseID{"", "A", "B", "C"}
	for c := range 1 + chance.IntN(3) {
		at, n := chance.IntN(3*24*60), 1+chance.IntN(14)
		for i := range n {
			next := at + 1 + chance.IntN(90)
			if chance.IntN(2) == 0 {
				next += chance.IntN(5 * 24 * 60)
			}
			if i == n-1 && chance.IntN(4) > 0 {
				next = 0
			}
			p := lived(fmt.Sprintf("c%d", c), at, next, one(chance, drift.Locked, drift.Stepping, drift.Stepping, drift.Overdue, drift.Drifted, drift.Dark))
			p.Running = map[fleet.Line][]string{fleet.LineGateway: {one(chance, "", "1", "2")}}
			p.Assigned, p.Target = one(chance, releases...), one(chance, releases...)
			if p.Mixed() {
				p.Running[fleet.LineGateway] = []string{"1", "2"}
				p.Edge.From = fleet.VersionSet{"gateway": "1"}
				if chance.IntN(2) == 0 {
					p.Edge.To = fleet.VersionSet{"gateway": "2"}
				}
			}
			out = append(out, p)
			// A gap now and then: nobody watched.
			if at = next; chance.IntN(6) == 0 {
				at += 1 + chance.IntN(3*24*60)
			}
		}
	}
	return out
}

// span draws a stretch of the weeks that lives are drawn in, and beyond.
func span(chance *rand.Rand) codec.Span {
	from := chance.IntN(25*24*60) - 600
	return codec.Span{From: minute(from), To: minute(from + 1 + chance.IntN([]int{60, 25 * 24 * 60}[chance.IntN(2)]))}
}

func one[T any](chance *rand.Rand, of ...T) T { return of[chance.IntN(len(of))] }

// mixedTime is what MixedTime is to return, from periods in order of cluster and
// beginning.
func mixedTime(periods []codec.Period, span codec.Span, group codec.Group, now time.Time) []codec.MixedTime {
	sums := make(map[string]*codec.MixedTime)
	type run struct {
		cluster fleet.ClusterID
		until   time.Time
		took    time.Duration
	}
	runs := make(map[string]run)
	piece := func(p codec.Period, key string, from, to time.Time) {
		if !from.Before(to) {
			return
		}
		sum := sums[key]
		if sum == nil {
			sum = &codec.MixedTime{Key: key}
			sums[key] = sum
		}
		took := to.Sub(from)
		if p.State == drift.Stepping {
			sum.Inside += took
		} else {
			sum.Outside += took
		}
		r := runs[key]
		if r.cluster != p.Cluster || !r.until.Equal(from) {
			r = run{cluster: p.Cluster}
			sum.Mixes++
		}
		r.until, r.took = to, r.took+took
		runs[key] = r
		sum.Longest = max(sum.Longest, r.took)
	}
	for _, p := range periods {
		if !p.Mixed() {
			continue
		}
		from, to := p.Began, p.Ended
		if to.IsZero() {
			to = now
		}
		if from.Before(span.From) {
			from = span.From
		}
		if to.After(span.To) {
			to = span.To
		}
		switch group {
		case codec.ByAll:
			piece(p, "", from, to)
		case codec.ByCluster:
			piece(p, string(p.Cluster), from, to)
		case codec.ByEdge:
			lead := p.Edge.To.String()
			if lead == "" {
				lead = "?"
			}
			piece(p, p.Edge.From.String()+" → "+lead, from, to)
		case codec.ByWeek:
			monday := from.Truncate(24 * time.Hour)
			for monday.Weekday() != time.Monday {
				monday = monday.AddDate(0, 0, -1)
			}
			for ; monday.Before(to); monday = monday.AddDate(0, 0, 7) {
				begin, end := monday, monday.AddDate(0, 0, 7)
				if begin.Before(from) {
					begin = from
				}
				if end.After(to) {
					end = to
				}
				piece(p, monday.Format(time.DateOnly), begin, end)
			}
		}
	}
	var out []codec.MixedTime
	for _, sum := range sums {
		out = append(out, *sum)
	}
	slices.SortFunc(out, func(a, b codec.MixedTime) int {
		if group != codec.ByWeek && a.Outside != b.Outside {
			return int(b.Outside - a.Outside)
		}
		if group != codec.ByWeek && a.Inside != b.Inside {
			return int(b.Inside - a.Inside)
		}
		return strings.Compare(a.Key, b.Key)
	})
	return out
}

func TestSumsThatCannotBe(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	if _, err := s.MixedTime(ctx, "t", codec.Span{}, "moon", day0); err == nil {
		t.Error("mixed time was summed by what there is not")
	}
	if _, err := s.Impact(ctx, "t", codec.Span{}, codec.ByEdge); err == nil {
		t.Error("sessions were counted by what they are not counted by")
	}
	for _, step := range []time.Duration{0, -time.Hour, time.Microsecond, time.Second} {
		if _, err := s.Adoption(ctx, "t", fleet.LineSRA, codec.Span{From: minute(0), To: minute(500)}, step); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a step of %s gives %v", step, err)
		}
	}
}

func TestMixes(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	from, to := fleet.VersionSet{"gateway": "1"}, fleet.VersionSet{"gateway": "2"}
	step, over := lived("berlin", 10, 20, drift.Stepping), lived("berlin", 20, 25, drift.Overdue)
	step.Edge, over.Edge = drift.Edge{From: from}, drift.Edge{From: from, To: to}
	insertPeriods(t, s, fleet.DefaultTenant, step, over, lived("berlin", 25, 30, drift.Locked), lived("berlin", 30, 31, drift.Stepping),
		lived("oslo", 5, 20, drift.Stepping), lived("oslo", 20, 0, drift.Overdue), lived("rome", 1, 2, drift.Overdue))
	got, err := s.Mixes(limited(t, time.Minute), fleet.DefaultTenant, minute(3))
	if err != nil {
		t.Fatal(err)
	}
	want := []codec.Mix{
		{Cluster: "berlin", Edge: drift.Edge{From: from, To: to}, Began: minute(10), Took: 15 * time.Minute},
		{Cluster: "berlin", Began: minute(30), Took: time.Minute},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the mixes that are over (-want +got):\n%s", diff)
	}
}

// adoption is what Adoption is to return.
func adoption(periods []codec.Period, span codec.Span, step time.Duration) []codec.Adoption {
	var out []codec.Adoption
	for at := span.From; at.Before(span.To); at = at.Add(step) {
		counts := make(map[string]*codec.Adoption)
		for _, p := range periods {
			if p.Began.After(at) || !p.Ended.IsZero() && !p.Ended.After(at) {
				continue
			}
			for _, v := range p.Running[fleet.LineGateway] {
				if counts[v] == nil {
					counts[v] = &codec.Adoption{At: at, Version: v}
				}
				if len(p.Running[fleet.LineGateway]) == 1 {
					counts[v].Clusters++
				} else {
					counts[v].Mixed++
				}
			}
		}
		for _, v := range slices.Sorted(maps.Keys(counts)) {
			out = append(out, *counts[v])
		}
	}
	return out
}

// convergence is what Convergence is to return.
func convergence(periods []codec.Period, span codec.Span) []codec.Convergence {
	release := func(p codec.Period) fleet.ReleaseID {
		if p.Target != "" {
			return p.Target
		}
		return p.Assigned
	}
	settled := make(map[string]bool) // cluster, release and what it ran, locked
	key := func(p codec.Period) string {
		return fmt.Sprint(p.Cluster, p.Assigned, p.Running)
	}
	for _, p := range periods {
		if p.State == drift.Locked && p.Target == "" {
			settled[key(p)] = true
		}
	}
	runs := func(p codec.Period) bool {
		return p.State == drift.Locked && (p.Target == "" || p.Target == p.Assigned || !settled[key(p)])
	}
	all := make(map[fleet.ReleaseID]*codec.Convergence)
	took := make(map[fleet.ReleaseID][]time.Duration)
	done := make(map[string]bool)
	for i, p := range periods {
		r := release(p)
		if i == 0 || periods[i-1].Cluster != p.Cluster || r == "" || r == release(periods[i-1]) || p.Began.Before(span.From) || !p.Began.Before(span.To) ||
			done[string(p.Cluster)+string(r)] {
			continue
		}
		done[string(p.Cluster)+string(r)] = true
		c := all[r]
		if c == nil {
			c = &codec.Convergence{Release: r, Began: p.Began}
			all[r] = c
		}
		if p.Began.Before(c.Began) {
			c.Began = p.Began
		}
		c.Clusters++
		for _, q := range periods[i:] {
			if q.Cluster == p.Cluster && release(q) == r && runs(q) {
				c.Converged++
				took[r] = append(took[r], q.Began.Sub(p.Began))
				if q.Began.After(c.Ended) {
					c.Ended = q.Began
				}
				break
			}
		}
	}
	var out []codec.Convergence
	for r, c := range all {
		if c.Converged < c.Clusters {
			c.Ended = time.Time{}
		}
		if all := took[r]; len(all) > 0 {
			slices.Sort(all)
			at := func(q float64) time.Duration { return all[int(math.Ceil(q*float64(len(all))))-1] }
			c.P50, c.P90, c.Longest = at(0.5), at(0.9), at(1)
		}
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b codec.Convergence) int {
		if d := b.Began.Compare(a.Began); d != 0 {
			return d
		}
		return strings.Compare(string(a.Release), string(b.Release))
	})
	return out
}

// A rollout's cluster is locked twice while it is moved: first on what it comes
// from.
func TestConvergenceOfARollout(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	at := func(began, ended int, state drift.State, version string, assigned, target fleet.ReleaseID) codec.Period {
		p := lived("berlin", began, ended, state)
		p.Running = map[fleet.Line][]string{fleet.LineGateway: strings.Split(version, " ")}
		p.Assigned, p.Target = assigned, target
		return p
	}
	insertPeriods(t, s, fleet.DefaultTenant,
		at(0, 10, drift.Locked, "1", "A", ""), at(10, 12, drift.Locked, "1", "A", "B"), at(12, 15, drift.Stepping, "1 2", "A", "B"),
		at(15, 30, drift.Locked, "2", "A", "B"), at(30, 40, drift.Locked, "2", "B", ""), at(40, 50, drift.Locked, "2", "B", "C"))
	got, err := s.Convergence(limited(t, time.Minute), fleet.DefaultTenant, codec.Span{From: minute(0), To: minute(60)})
	if err != nil {
		t.Fatal(err)
	}
	took := 5 * time.Minute
	want := []codec.Convergence{
		{Release: "C", Began: minute(40), Clusters: 1},
		{Release: "B", Began: minute(10), Ended: minute(15), Clusters: 1, Converged: 1, P50: took, P90: took, Longest: took},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
