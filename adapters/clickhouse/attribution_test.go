//go:build linux && amd64

package clickhouse

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
)

const burst = time.Minute

// attempts draws sessions of two hours, many of them retries of one user at one
// target, each with the rows of what was seen of it. No attempts follow each other
// without a pause for longer than a burst.
func attempts(chance *rand.Rand, tenant fleet.TenantID) []codec.Record {
	var out []codec.Record
	n := 0
	for range 30 + chance.IntN(80) {
		first := fleet.Session{
			Cluster: fleet.ClusterID(fmt.Sprintf("c%d", chance.IntN(3))), User: one(chance, "ann", "bob", "eve", ""), Target: one(chance, "/prod/db/a", "/prod/db/b", "/test/c", "d", ""),
			Protocol: one(chance, "ssh", "rdp", ""), TargetType: one(chance, "linux", "windows"), Probe: chance.IntN(12) == 0,
			Start: minute(0).Add(time.Duration(chance.IntN(120)) * 2 * time.Minute).Add(time.Duration(chance.IntN(20e9))),
		}
		for k := range 1 + chance.IntN(3) {
			s := first
			s.ID, s.InstanceID = fleet.SessionID(fmt.Sprintf("s%d", n)), fleet.InstanceID(fmt.Sprintf("i%d", chance.IntN(3)))
			s.Start = s.Start.Add(time.Duration(k) * time.Duration(1+chance.IntN(18e9)))
			n++
			for i, status := range one(chance, [][]fleet.SessionStatus{
				{fleet.SessionConnecting}, {fleet.SessionConnected}, {fleet.SessionConnecting, fleet.SessionFailed}, {fleet.SessionFailed}, {fleet.SessionFailed},
				{fleet.SessionConnecting, fleet.SessionConnected, fleet.SessionFailed}, {fleet.SessionCompleted}, {fleet.SessionTerminated}, {fleet.SessionConnecting, fleet.SessionVanished},
			}...) {
				seen := s
				if seen.Status = status; status == fleet.SessionFailed {
					seen.Failure = one(chance, "", fleet.FailureTimeout, fleet.FailureTarget)
				}
				out = append(out, codec.Record{
					Observation: codec.Observation{Session: &seen}, Tenant: tenant, ObservedAt: seen.Start, RecordedAt: seen.Start.Add(time.Duration(i) * time.Second),
					StreamSequence: uint64(n*10 + i),
				})
			}
		}
	}
	return out
}

// cells is what Cells is to return.
func cells(records []codec.Record, periods []codec.Period, clusters []fleet.ClusterID, b gate.Boundary, until time.Time) []gate.Cell {
	type session struct {
		fleet.Session
		worked, failed bool
		arm            int
	}
	seen := make(map[fleet.SessionID]*session)
	for _, r := range records {
		s := r.Session
		outside := s.Start.Before(b.BaselineFrom) || !s.Start.Before(until) ||
			slices.ContainsFunc(b.Aside, func(a gate.Span) bool { return !s.Start.Before(a.From) && s.Start.Before(a.To) })
		if s.Probe || outside || len(clusters) > 0 && !slices.Contains(clusters, s.Cluster) {
			continue
		}
		one := seen[s.ID]
		if one == nil {
			one = &session{Session: *s, arm: 2}
			if s.Start.Before(b.Start) {
				one.arm = 0
			} else if s.Start.Before(b.End) {
				one.arm = 1
			}
			seen[s.ID] = one
		}
		switch s.Status {
		case fleet.SessionConnected, fleet.SessionCompleted, fleet.SessionTerminated:
			one.worked = true
		case fleet.SessionFailed:
			one.failed, one.Failure = true, max(one.Failure, s.Failure)
		}
	}
	all := make([]*session, 0, len(seen))
	for _, s := range seen {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *session) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID)) })
	type who struct {
		cluster      fleet.ClusterID
		user, target string
		arm          int
	}
	type run struct {
		first, last time.Time
		windows     map[time.Duration][]*session
	}
	var runs []*run
	newest := make(map[who]*run)
	for _, s := range all {
		w := who{s.Cluster, s.User, s.Target, s.arm}
		r := newest[w]
		if r == nil || s.User == "" || s.Target == "" || s.Start.Sub(r.last) >= burst {
			r = &run{first: s.Start, windows: make(map[time.Duration][]*session)}
			newest[w], runs = r, append(runs, r)
		}
		r.last = s.Start
		window := s.Start.Sub(r.first) / burst
		r.windows[window] = append(r.windows[window], s)
	}
	var out []gate.Cell
	for _, r := range runs {
		for _, trial := range r.windows {
			first, last := trial[0], trial[len(trial)-1]
			worked := slices.ContainsFunc(trial, func(s *session) bool { return s.worked })
			if !worked && slices.ContainsFunc(trial, func(s *session) bool { return !s.failed }) {
				continue
			}
			started := first.Start.Truncate(time.Millisecond)
			c := gate.Cell{Cluster: first.Cluster, Protocol: first.Protocol, TargetType: first.TargetType, Instance: first.InstanceID, Last: started}
			if slash := strings.LastIndex(first.Target, "/"); slash > 0 {
				c.TargetFamily = first.Target[:slash]
			}
			for _, p := range periods {
				if p.Cluster == first.Cluster && !started.Before(p.Began) && (p.Ended.IsZero() || started.Before(p.Ended)) {
					for line, versions := range p.Running {
						if len(versions) == 1 && versions[0] != "" {
							if c.Versions == nil {
								c.Versions = make(fleet.VersionSet)
							}
							c.Versions[line] = versions[0]
						}
					}
				}
			}
			count := gate.Trials{Succeeded: 1}
			if !worked {
				count, c.Failure = gate.Trials{Failed: 1}, cmp.Or(last.Failure, fleet.FailureUnclassified)
			}
			*[]*gate.Trials{&c.Baseline, &c.Between, &c.New}[first.arm] = count
			out = append(out, c)
		}
	}
	return out
}

// summed puts cells of one kind together, in order.
func summed(list []gate.Cell) []gate.Cell {
	kinds := make(map[string]gate.Cell)
	for _, c := range list {
		kind := fmt.Sprint(c.Cluster, c.Versions, "|", c.Protocol, "|", c.TargetType, "|", c.TargetFamily, "|", c.Instance, "|", c.Failure)
		sum, known := kinds[kind]
		if !known {
			sum = c
			sum.Baseline, sum.Between, sum.New = gate.Trials{}, gate.Trials{}, gate.Trials{}
		}
		for _, pair := range [][2]*gate.Trials{{&sum.Baseline, &c.Baseline}, {&sum.Between, &c.Between}, {&sum.New, &c.New}} {
			pair[0].Failed += pair[1].Failed
			pair[0].Succeeded += pair[1].Succeeded
		}
		if c.Last.After(sum.Last) {
			sum.Last = c.Last
		}
		kinds[kind] = sum
	}
	var out []gate.Cell
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		out = append(out, kinds[kind])
	}
	return out
}

// What the engine counts is what plain code counts.
func TestCells(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, 2*time.Minute)
	for round := range 30 {
		me, chance := fleet.TenantID(fmt.Sprintf("t%d", round)), rand.New(rand.NewPCG(3, uint64(round)))
		records := attempts(chance, me)
		var periods []codec.Period
		for c := range 2 + chance.IntN(2) {
			at := chance.IntN(90)
			for _, running := range []map[fleet.Line][]string{
				{fleet.LineGateway: {"1"}, fleet.LineSRA: {"1"}}, {fleet.LineGateway: {"1", "2"}, fleet.LineSRA: {"1"}}, {fleet.LineGateway: {"2"}, fleet.LineSRA: {""}}, nil,
			} {
				next := at + 1 + chance.IntN(60)
				p := lived(fmt.Sprintf("c%d", c), at, next, drift.Locked)
				p.Running = running
				periods = append(periods, p)
				if at = next; chance.IntN(3) == 0 {
					at += chance.IntN(20)
				}
			}
		}
		// Repeats change nothing.
		if err := errors.Join(s.InsertPeriods(ctx, me, periods), s.InsertRecords(ctx, records), s.InsertRecords(ctx, records[:len(records)/2]), s.InsertPeriods(ctx, me, periods[:1])); err != nil {
			t.Fatal(err)
		}
		from, start := chance.IntN(60), 60+chance.IntN(90)
		b := gate.Boundary{BaselineFrom: minute(from), Start: minute(start).Add(10 * time.Second), End: minute(start + chance.IntN(60)).Add(11 * time.Second)}
		if chance.IntN(2) == 0 {
			b.Aside = []gate.Span{{From: minute(from + 5), To: minute(from + 30)}, {From: minute(start - 3), To: minute(start - 1)}}
		}
		clusters := one(chance, nil, []fleet.ClusterID{"c0"}, []fleet.ClusterID{"c0", "c2"})
		until := minute(start + 60 + chance.IntN(60))
		got, err := s.Cells(ctx, me, clusters, b, until, burst)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(summed(cells(records, periods, clusters, b, until)), summed(got), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("round %d (-want +got):\n%s", round, diff)
		}
		if len(got) == 0 {
			t.Fatalf("round %d has no trials", round)
		}
		for _, cluster := range []fleet.ClusterID{"c0", "c1", "c2"} {
			asAGate(t, records, cluster, b, until, got, clusters)
		}
	}
}

// asAGate compares what is counted of a cluster with what its gate would count.
func asAGate(t *testing.T, records []codec.Record, cluster fleet.ClusterID, b gate.Boundary, until time.Time, got []gate.Cell, clusters []fleet.ClusterID) {
	t.Helper()
	if len(clusters) > 0 && !slices.Contains(clusters, cluster) {
		return
	}
	fold, err := gate.NewFold(gate.DefaultPolicy(), cluster, b)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if r.Session.Start.Before(until) {
			fold.Session(*r.Session, r.StreamSequence)
		}
	}
	fold.Mark(fleet.Mark{Cluster: cluster, About: fleet.KindSession, CompleteUntil: until.Add(time.Hour)}, 1<<40)
	var baseline, fresh gate.Trials
	for _, c := range got {
		if c.Cluster == cluster {
			baseline.Failed, baseline.Succeeded = baseline.Failed+c.Baseline.Failed, baseline.Succeeded+c.Baseline.Succeeded
			fresh.Failed, fresh.Succeeded = fresh.Failed+c.New.Failed, fresh.Succeeded+c.New.Succeeded
		}
	}
	e := fold.Evidence()
	if e.Baseline != baseline || e.New != fresh {
		t.Fatalf("%s: %v before and %v after the step, and a gate counts %v and %v", cluster, baseline, fresh, e.Baseline, e.New)
	}
}

// Where attempts go on and on, windows follow the first one; a gate's follow
// attempts.
func TestCellsOfARunWithoutAPause(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	var records []codec.Record
	for i, after := range []int{0, 40, 80, 110, 130} {
		records = append(records, codec.Record{Tenant: fleet.DefaultTenant, StreamSequence: uint64(i), Observation: codec.Observation{Session: &fleet.Session{
			ID: fleet.SessionID(fmt.Sprint(i)), Cluster: "berlin", User: "ann", Target: "db", Start: minute(1).Add(time.Duration(after) * time.Second), Status: fleet.SessionFailed,
		}}})
	}
	if err := s.InsertRecords(ctx, records); err != nil {
		t.Fatal(err)
	}
	b := gate.Boundary{BaselineFrom: minute(-60), Start: minute(0), End: minute(0)}
	for window, want := range map[time.Duration]int{time.Minute: 3, 0: 5, 30 * time.Second: 4, time.Hour: 1} {
		got, err := s.Cells(ctx, fleet.DefaultTenant, []fleet.ClusterID{"berlin"}, b, minute(60), window)
		if err != nil {
			t.Fatal(err)
		}
		sum := summed(got)
		if len(sum) != 1 || sum[0].New != (gate.Trials{Failed: want}) {
			t.Errorf("windows of %s: %+v, want %d trials", window, sum, want)
		}
	}
}

// BenchmarkCells counts one of five clusters that have 40,000 sessions each in four
// weeks, and all of them.
func BenchmarkCells(b *testing.B) {
	const clusters, rows = 5, 600_000
	s := openHistory(b, embedded(startEngine(b)))
	end := time.Now().UTC().Truncate(time.Hour)
	begin := end.AddDate(0, 0, -29)
	length := end.Sub(begin).Milliseconds()
	exec(b, s, fmt.Sprintf(generateSessions, clusters, length, rows/3, begin.UnixMilli(), 0, rows))
	exec(b, s, fmt.Sprintf(generatePeriods, clusters, length, 4*clusters*4, begin.UnixMilli()))
	step := gate.Boundary{BaselineFrom: begin, Start: end.AddDate(0, 0, -1), End: end.AddDate(0, 0, -1).Add(time.Hour)}
	for _, among := range [][]fleet.ClusterID{{"cluster-0003"}, nil} {
		b.Run(fmt.Sprintf("clusters_%d", (len(among)+clusters-1)%clusters+1), func(b *testing.B) {
			var counted []gate.Cell
			for b.Loop() {
				var err error
				if counted, err = s.Cells(b.Context(), fleet.DefaultTenant, among, step, end, burst); err != nil || len(counted) == 0 {
					b.Fatalf("%d cells, %v", len(counted), err)
				}
			}
			trials := 0
			for _, c := range counted {
				trials += c.Baseline.Total() + c.Between.Total() + c.New.Total()
			}
			b.ReportMetric(float64(trials), "trials")
			b.ReportMetric(float64(len(counted)), "cells")
		})
	}
}
