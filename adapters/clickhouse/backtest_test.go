//go:build linux && amd64

package clickhouse

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// A stretch of history comes in the order of the stream, whichever way it is cut,
// with what a gate looks at.
func TestAStretchOfHistory(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	began := time.Now().UTC().Truncate(time.Hour).Add(-48 * time.Hour)
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	var records []codec.Record
	add := func(sequence uint64, index uint32, when time.Time, o codec.Observation) {
		records = append(records, codec.Record{
			Observation: o, Tenant: fleet.DefaultTenant, ObservedAt: when, RecordedAt: when, Source: "vendor", Incarnation: "i1", Part: 7,
			SourceSequence: sequence, StreamSequence: sequence, Index: index,
		})
	}
	session := func(sequence uint64, index uint32, id string, start int, status fleet.SessionStatus) {
		add(sequence, index, at(start), codec.Observation{Session: &fleet.Session{
			ID: fleet.SessionID(id), Cluster: "berlin", Status: status, User: "ann", Target: "db", Start: at(start), Error: "is not looked at", Protocol: "ssh", Probe: id == "probe",
		}})
	}
	mark := func(sequence uint64, index uint32, until int, m fleet.Mark) {
		m.Cluster, m.About, m.CompleteUntil = "berlin", fleet.KindSession, at(until)
		add(sequence, index, at(until+1), codec.Observation{Mark: &m})
	}
	session(1, 0, "before", -5, fleet.SessionConnected)
	session(2, 0, "s1", 10, fleet.SessionConnecting)
	mark(2, 1, 15, fleet.Mark{})
	mark(3, 0, 20, fleet.Mark{})
	mark(4, 0, 25, fleet.Mark{})
	session(5, 0, "s1", 10, fleet.SessionConnected)
	session(5, 1, "probe", 26, fleet.SessionFailed)
	mark(5, 2, 30, fleet.Mark{})
	mark(6, 0, 35, fleet.Mark{Blind: true, BlindReason: "no right to see all"})
	mark(7, 0, 40, fleet.Mark{})
	mark(8, 0, 38, fleet.Mark{}) // a step back
	mark(9, 0, 45, fleet.Mark{Lost: true, Blind: true, BlindReason: "a hole"})
	mark(10, 0, 50, fleet.Mark{})
	mark(11, 0, 55, fleet.Mark{})
	mark(12, 0, 60, fleet.Mark{})
	mark(13, 0, 65, fleet.Mark{})
	session(14, 0, "after", 100, fleet.SessionConnected)
	mark(15, 0, 120, fleet.Mark{})
	add(16, 0, at(30), codec.Observation{Mark: &fleet.Mark{Cluster: "berlin", About: fleet.KindInventory, CompleteUntil: at(30)}})
	add(17, 0, at(30), codec.Observation{Session: &fleet.Session{ID: "x", Cluster: "paris", Status: fleet.SessionConnected, Start: at(30)}})
	session(18, 0, "s1", 10, fleet.SessionConnected) // told again
	if err := s.InsertRecords(ctx, records); err != nil {
		t.Fatal(err)
	}
	span := codec.Span{From: at(0), To: at(100)}
	read := func(near []codec.Span, most int) (out []string) {
		t.Helper()
		if err := s.stretch(ctx, fleet.DefaultTenant, "berlin", span, near, most, func(r codec.Record) {
			switch {
			case r.Session != nil:
				v := r.Session
				out = append(out, fmt.Sprintf("%d %s %s %s %s %s %t %d", r.StreamSequence, v.Cluster, v.ID, v.Status, v.User, v.Target, v.Probe, int(v.Start.Sub(began).Seconds())))
			default:
				v := r.Mark
				out = append(out, fmt.Sprintf("%d mark %d %t %q %t", r.StreamSequence, int(v.CompleteUntil.Sub(began).Seconds()), v.Blind, v.BlindReason, v.Lost))
			}
		}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := []string{
		"2 berlin s1 connecting ann db false 10",
		"4 mark 25 false \"\" false",
		"5 berlin s1 connected ann db false 10",
		"5 berlin probe failed ann db true 26",
		"5 mark 30 false \"\" false",
		"6 mark 35 true \"no right to see all\" false",
		"7 mark 40 false \"\" false",
		"8 mark 38 false \"\" false",
		"9 mark 45 true \"a hole\" true",
		"13 mark 65 false \"\" false",
	}
	if diff := cmp.Diff(want, read(nil, sliceRows)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Near a step nothing is left out.
	near := slices.Insert(slices.Clone(want), 9, "11 mark 55 false \"\" false")
	if diff := cmp.Diff(near, read([]codec.Span{{From: at(50), To: at(55)}, {From: at(200), To: at(300)}}, sliceRows)); diff != "" {
		t.Errorf("near a step (-want +got):\n%s", diff)
	}
	// Cut anywhere, the same comes, and perhaps a mark more where it was cut.
	everything := read([]codec.Span{{From: at(0), To: at(100)}}, sliceRows)
	for most := 1; most <= 8; most++ {
		got := read(nil, most)
		if rest := slices.DeleteFunc(slices.Clone(got), func(row string) bool { return !slices.Contains(want, row) }); !slices.Equal(rest, want) {
			t.Errorf("cut at every %d rows: %q", most, got)
		}
		if got := read([]codec.Span{{From: at(0), To: at(100)}}, most); !slices.Equal(got, everything) {
			t.Errorf("cut at every %d rows: %q, want %q", most, got, everything)
		}
	}
	if err := s.Stretch(ctx, fleet.DefaultTenant, "oslo", span, nil, func(codec.Record) { t.Error("oslo has no history") }); err != nil {
		t.Error(err)
	}
}
