//go:build linux && amd64

package clickhouse

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestHistory(t *testing.T) {
	t.Parallel()
	s := openStore(t, startEngine(t))
	ctx := limited(t, time.Minute)
	files, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // Applying again changes nothing.
		if _, err := s.Migrate(ctx, files); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	record := func(sequence uint64, index uint32, o codec.Observation) codec.Record {
		return codec.Record{
			Observation: o, Tenant: fleet.DefaultTenant, ObservedAt: now, RecordedAt: now, Source: "vendor", Incarnation: "i1", Part: 7,
			SourceSequence: sequence, StreamSequence: sequence, Index: index,
		}
	}
	session := func(id string, status fleet.SessionStatus, user string) codec.Observation {
		return codec.Observation{Session: &fleet.Session{
			ID: fleet.SessionID(id), Cluster: "berlin", Status: status, User: user, Target: "db", Start: now.Add(-time.Minute + 123456789*time.Nanosecond),
		}}
	}
	mark := codec.Observation{Mark: &fleet.Mark{Cluster: "berlin", CompleteUntil: now.Add(-time.Second + time.Nanosecond)}}
	inventory := codec.Observation{Inventory: &fleet.Inventory{Cluster: "berlin", ObservedAt: now, Instances: []fleet.Instance{
		{ID: "c1", Component: fleet.Gateway, Service: "akeyless-gateway", Version: "5.0.1", Health: fleet.HealthHealthy, StartedAt: now.Add(-time.Hour)},
	}}}
	batch := []codec.Record{
		record(3, 0, session("s1", fleet.SessionConnecting, "ann")),
		record(3, 1, session("s2", fleet.SessionFailed, "bob")),
		record(3, 2, mark),
		record(3, 3, inventory),
	}
	late := []codec.Record{record(9, 0, session("s1", fleet.SessionConnecting, "changed later"))}
	for _, records := range [][]codec.Record{batch, batch, late, nil} {
		if err := s.InsertRecords(ctx, records); err != nil {
			t.Fatal(err)
		}
	}
	read := func(upTo uint64) (out []codec.Record) {
		t.Helper()
		if err := s.Evidence(ctx, fleet.DefaultTenant, "berlin", now.Add(-time.Hour), upTo, func(r codec.Record) { out = append(out, r) }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	want := []codec.Record{
		{Observation: batch[0].Observation, StreamSequence: 3, Index: 0},
		{Observation: batch[1].Observation, StreamSequence: 3, Index: 1},
		{Observation: batch[2].Observation, StreamSequence: 3, Index: 2},
	}
	// Sessions after a mark, so that the order is seen to be the stream's and not
	// one table after the other.
	after := record(4, 0, session("s3", fleet.SessionConnected, "eve"))
	if err := s.InsertRecords(ctx, []codec.Record{after}); err != nil {
		t.Fatal(err)
	}
	want = append(want, codec.Record{Observation: after.Observation, StreamSequence: 4, Index: 0})
	if diff := cmp.Diff(want, read(0)); diff != "" {
		t.Errorf("the first arrival of each row, in stream order (-want +got):\n%s", diff)
	}
	if got := read(2); len(got) != 0 {
		t.Errorf("up to sequence 2 there is nothing, got %d rows", len(got))
	}
	inventories, err := s.Inventories(ctx, fleet.DefaultTenant, "berlin", now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]fleet.Inventory{*inventory.Inventory}, inventories); diff != "" {
		t.Errorf("the newest inventory (-want +got):\n%s", diff)
	}
	positions, err := s.Positions(ctx, fleet.DefaultTenant)
	if err != nil {
		t.Fatal(err)
	}
	if got := positions[codec.Position{Source: "vendor", Incarnation: "i1", Part: 7}]; got != 9 {
		t.Errorf("position is %d, want 9", got)
	}
	if err := s.InsertFact(ctx, codec.Fact{Tenant: fleet.DefaultTenant, Noun: "gate", ID: "g", StreamSequence: 1, Type: "x", RecordedAt: now, JSON: "{}"}); err != nil {
		t.Fatal(err)
	}
	registration := fleet.Registration{Cluster: "berlin", ObservedAt: now, LastReport: now.Add(-time.Second), Bastions: []fleet.Bastion{{ID: "b1", Version: "3.1.0"}}}
	if err := s.InsertRecords(ctx, []codec.Record{record(10, 0, codec.Observation{Registration: &registration})}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Registration(ctx, fleet.DefaultTenant, "berlin")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(registration, got); diff != "" {
		t.Errorf("registration (-want +got):\n%s", diff)
	}
}

func TestALossStaysToldWhenItsMessageComesAgain(t *testing.T) {
	t.Parallel()
	s := openStore(t, startEngine(t))
	ctx := limited(t, time.Minute)
	files, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Migrate(ctx, files); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	// The first delivery is marked by what was missing before it, a repeat is not.
	for _, lost := range []bool{true, false, false} {
		mark := fleet.Mark{Cluster: "berlin", CompleteUntil: now, Blind: lost, Lost: lost}
		if err := s.InsertRecords(ctx, []codec.Record{{
			Observation: codec.Observation{Mark: &mark}, Tenant: fleet.DefaultTenant, ObservedAt: now, RecordedAt: now,
			Source: "vendor", Incarnation: "i1", SourceSequence: 5, StreamSequence: 9,
		}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Conn().Exec(ctx, "OPTIMIZE TABLE progress_marks FINAL"); err != nil {
		t.Fatal(err)
	}
	var first *fleet.Mark
	if err := s.Evidence(ctx, fleet.DefaultTenant, "berlin", now.Add(-time.Hour), 0, func(r codec.Record) {
		if first == nil {
			first = r.Mark
		}
	}); err != nil {
		t.Fatal(err)
	}
	if first == nil || !first.Lost {
		t.Errorf("the first mark is %+v; the loss is forgotten", first)
	}
}
