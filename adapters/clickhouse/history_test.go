//go:build linux && amd64

package clickhouse

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func historyIsKept(t *testing.T, w way) {
	s := w.open(t)
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
			Error: "no route", Failure: fleet.FailureTarget, Protocol: "ssh", TargetType: "linux",
		}}
	}
	mark := codec.Observation{Mark: &fleet.Mark{Cluster: "berlin", About: fleet.KindSession, CompleteUntil: now.Add(-time.Second + time.Nanosecond)}}
	// It comes from another source, so it is a mark of its own.
	other := codec.Observation{Mark: &fleet.Mark{Cluster: "berlin", About: fleet.KindInventory, CompleteUntil: now.Add(time.Hour)}}
	inventory := codec.Observation{Inventory: &fleet.Inventory{Cluster: "berlin", ObservedAt: now, Instances: []fleet.Instance{
		{ID: "c1", Component: fleet.Gateway, Service: "akeyless-gateway", Version: "5.0.1", Health: fleet.HealthHealthy, StartedAt: now.Add(-time.Hour),
			Declared: "akeyless/base:5.0.1", Labelled: "5.0.0", Node: "node-1", Restarts: 3},
	}}}
	before := codec.Observation{Inventory: &fleet.Inventory{Cluster: "berlin", ObservedAt: now.Add(-time.Hour)}}
	earlier := record(3, 4, before)
	earlier.ObservedAt = before.Inventory.ObservedAt
	foreign := record(3, 5, other)
	foreign.Source = "agent"
	batch := []codec.Record{
		record(3, 0, session("s1", fleet.SessionConnecting, "ann")),
		record(3, 1, session("s2", fleet.SessionFailed, "bob")),
		record(3, 2, mark),
		record(3, 3, inventory),
		earlier,
		foreign,
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
	want := asEvidence(batch...)
	// Sessions after a mark, so that the order is seen to be the stream's and not
	// one table after the other.
	after := record(4, 0, session("s3", fleet.SessionConnected, "eve"))
	if err := s.InsertRecords(ctx, []codec.Record{after}); err != nil {
		t.Fatal(err)
	}
	want = append(want, asEvidence(after)...)
	if diff := cmp.Diff(want, read(0)); diff != "" {
		t.Errorf("the first arrival of each row, in stream order (-want +got):\n%s", diff)
	}
	if got := read(2); len(got) != 0 {
		t.Errorf("up to sequence 2 there is nothing, got %d rows", len(got))
	}
	since := func(at time.Time) (out []fleet.Inventory) {
		t.Helper()
		if err := s.RecallInventories(ctx, fleet.DefaultTenant, at, func(in fleet.Inventory) { out = append(out, in) }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if diff := cmp.Diff([]fleet.Inventory{*inventory.Inventory}, since(now.Add(time.Hour))); diff != "" {
		t.Errorf("the newest inventory (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]fleet.Inventory{*before.Inventory, *inventory.Inventory}, since(now.Add(-time.Minute))); diff != "" {
		t.Errorf("since a minute ago, with the inventory that held then (-want +got):\n%s", diff)
	}
	positions, err := s.Positions(ctx, fleet.DefaultTenant)
	if err != nil {
		t.Fatal(err)
	}
	if got := positions[codec.Position{Source: "vendor", Incarnation: "i1", Part: 7}]; got != 9 {
		t.Errorf("position is %d, want 9", got)
	}
	if err := s.InsertFacts(ctx, []codec.Fact{{Tenant: fleet.DefaultTenant, Noun: "gate", ID: "g", StreamSequence: 1, Type: "x", RecordedAt: now, JSON: "{}"}}); err != nil {
		t.Fatal(err)
	}
	registration := fleet.Registration{Cluster: "berlin", ObservedAt: now, LastReport: now.Add(-time.Second), Bastions: []fleet.Bastion{{ID: "b1", Version: "3.1.0"}},
		Gateways: []fleet.RegisteredGateway{{Name: "acc/p/berlin", Status: "Running"}}}
	if err := s.InsertRecords(ctx, []codec.Record{record(10, 0, codec.Observation{Registration: &registration})}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Registrations(ctx, fleet.DefaultTenant)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]fleet.Registration{registration}, got); diff != "" {
		t.Errorf("registration (-want +got):\n%s", diff)
	}
}

// asEvidence is what is told of records.
func asEvidence(records ...codec.Record) []codec.Record {
	var out []codec.Record
	for _, r := range records {
		r = r.AsKept()
		out = append(out, codec.Record{
			Observation: r.Observation, ObservedAt: r.ObservedAt, RecordedAt: r.RecordedAt, Source: r.Source, StreamSequence: r.StreamSequence, Index: r.Index,
		})
	}
	return out
}

// All that a gate takes in comes back as it was stored, in the order of the stream
// whatever order it was stored in, and what ran before comes with it.
func TestEvidenceOfEveryKind(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	// Marks about anything but sessions are kept for days alone.
	from := time.Now().UTC().Truncate(time.Hour)
	minute := func(n int) time.Time { return from.Add(time.Duration(n) * time.Minute) }
	var all []codec.Record
	add := func(sequence uint64, index uint32, source fleet.SourceID, at time.Time, o codec.Observation) {
		all = append(all, codec.Record{
			Observation: o, Tenant: fleet.DefaultTenant, ObservedAt: at, RecordedAt: at.Add(1234567 * time.Nanosecond), Source: source, Incarnation: "i1",
			SourceSequence: sequence, StreamSequence: sequence, Index: index,
		})
	}
	inventory := func(sequence uint64, source fleet.SourceID, at time.Time, versions ...string) {
		seen := fleet.Inventory{Cluster: "berlin", ObservedAt: at}
		for i, version := range versions {
			seen.Instances = append(seen.Instances, fleet.Instance{
				ID: fleet.InstanceID(strconv.Itoa(i)), Component: fleet.SRAWeb, Service: "web", Image: "sra:" + version, Tag: version, Digest: "sha256:ab", ImageID: "sha256:cd",
				Version: version, Health: fleet.HealthHealthy, StartedAt: at.Add(-time.Hour), Declared: "sra:2", Labelled: "2", Node: "n1", Restarts: 4,
			})
		}
		add(sequence, 0, source, at, codec.Observation{Inventory: &seen})
	}
	registration := func(sequence uint64, at time.Time, version string) {
		add(sequence, 1, "vendor", at, codec.Observation{Registration: &fleet.Registration{
			Cluster: "berlin", ObservedAt: at, LastReport: at.Add(-time.Second), Bastions: []fleet.Bastion{{ID: "b1", Version: version}, {ID: "b2"}},
			Gateways: []fleet.RegisteredGateway{{Name: "acc/p/berlin", Status: "Running"}},
		}})
	}
	session := func(sequence uint64, index uint32, start time.Time, status fleet.SessionStatus, probe bool) {
		add(sequence, index, "vendor", start.Add(time.Second), codec.Observation{Session: &fleet.Session{
			ID: "s1", Cluster: "berlin", Status: status, User: "ann", Target: "db", InstanceID: "0", Start: start, End: start.Add(time.Minute), Error: "no route",
			Failure: fleet.FailureTarget, Protocol: "ssh", TargetType: "linux", Probe: probe,
		}})
	}
	mark := func(sequence uint64, index uint32, source fleet.SourceID, at time.Time, about fleet.Kind, lost bool) {
		add(sequence, index, source, at, codec.Observation{Mark: &fleet.Mark{
			Cluster: "berlin", About: about, CompleteUntil: at.Add(-time.Second), Blind: lost, BlindReason: "why", Lost: lost, Skew: -1500 * time.Microsecond,
		}})
	}
	check := func(sequence uint64, index uint32, at time.Time, kind fleet.CheckKind, readings map[string]float64) {
		add(sequence, index, "hub", at, codec.Observation{Check: &fleet.Check{
			Cluster: "berlin", Name: string(kind), Kind: kind, Component: fleet.SRASSH, Target: "127.0.0.1:22", Session: "s1", At: at, Took: 1234567 * time.Nanosecond,
			OK: readings != nil, Failure: fleet.FailureAuth, Detail: "refused", CertificateExpires: minute(99999), Readings: readings,
		}})
	}
	const odd = 345678 * time.Nanosecond // finer than rows keep

	// Of before, the last inventory and registration alone are told, and of those what
	// had arrived.
	inventory(1, "hub", minute(-40*24*60), "1")
	registration(1, minute(-20), "1")
	session(2, 0, minute(-1), fleet.SessionConnected, false)
	check(2, 1, from.Add(-time.Millisecond), fleet.CheckSSH, nil)
	mark(2, 2, "vendor", minute(-1), fleet.KindSession, false)
	inventory(3, "hub", from.Add(-time.Millisecond+odd), "1", "1")
	registration(3, minute(-10), "2")

	mark(4, 0, "vendor", minute(1), fleet.KindSession, true) // before what has its place
	check(4, 0, from, fleet.CheckSSH, map[string]float64{"login_seconds": 0.1, "connect_seconds": 1, "it's \"one\"": 1.7976931348623157e308, "least": 5e-324, "below": -2.5})
	session(4, 1, minute(0).Add(123456789), fleet.SessionConnecting, false)
	mark(4, 2, "hub", minute(1), fleet.KindProbe, false)
	inventory(5, "hub", from)
	registration(5, minute(2), "2")
	inventory(6, "agent", minute(2).Add(odd), "1", "2", "2")
	inventory(7, "hub", minute(2).Add(odd), "2")
	mark(7, 2, "hub", minute(2).Add(odd), fleet.KindInventory, false)
	mark(7, 3, "hub", minute(2).Add(odd), fleet.KindHealth, false) // of one message and one instant
	session(8, 0, minute(0).Add(123456789), fleet.SessionCompleted, true)
	check(8, 1, minute(3).Add(odd), fleet.CheckForwarding, nil)
	mark(8, 2, "vendor", minute(4).Add(odd), fleet.KindSession, false)
	const last = 8

	// What is told again later keeps its first place, and others have their own.
	stored := slices.Clone(all)
	for _, r := range all {
		again := r
		again.StreamSequence, again.RecordedAt = r.StreamSequence+last, r.RecordedAt.Add(time.Minute)
		stored = append(stored, again)
	}
	for _, r := range all {
		elsewhere, foreign := r, r
		elsewhere.Observation, foreign.Tenant = ofCluster("oslo", r.Observation), "other"
		stored = append(stored, elsewhere, foreign)
	}
	slices.Reverse(stored)
	for some := range slices.Chunk(stored, 7) {
		if err := s.InsertRecords(ctx, some); err != nil {
			t.Fatal(err)
		}
	}

	want := func(upTo uint64) []codec.Record {
		var out []codec.Record
		for _, r := range all {
			before := r.ObservedAt.Before(from)
			switch {
			case r.StreamSequence > upTo, before && r.Inventory == nil && r.Registration == nil:
				continue
			case before && upTo >= 3 && r.StreamSequence < 3:
				continue // another stood
			}
			out = append(out, asEvidence(r)...)
		}
		return out
	}
	for upTo := range uint64(last + 2) {
		var got []codec.Record
		if err := s.Evidence(ctx, fleet.DefaultTenant, "berlin", from, upTo, func(r codec.Record) { got = append(got, r) }); err != nil {
			t.Fatal(err)
		}
		bound := upTo
		if upTo == 0 {
			bound = last
		}
		if diff := cmp.Diff(want(bound), got); diff != "" {
			t.Errorf("up to %d (-want +got):\n%s", upTo, diff)
		}
	}
	if err := s.Evidence(ctx, fleet.DefaultTenant, "rome", from, 0, func(r codec.Record) { t.Errorf("of a cluster that was never seen: %+v", r) }); err != nil {
		t.Fatal(err)
	}
}

// ofCluster is an observation as of another cluster.
func ofCluster(cluster fleet.ClusterID, o codec.Observation) codec.Observation {
	switch {
	case o.Inventory != nil:
		inventory := *o.Inventory
		inventory.Cluster, o.Inventory = cluster, &inventory
	case o.Registration != nil:
		registration := *o.Registration
		registration.Cluster, o.Registration = cluster, &registration
	case o.Session != nil:
		session := *o.Session
		session.Cluster, o.Session = cluster, &session
	case o.Mark != nil:
		mark := *o.Mark
		mark.Cluster, o.Mark = cluster, &mark
	case o.Check != nil:
		check := *o.Check
		check.Cluster, o.Check = cluster, &check
	}
	return o
}

// What stood is what had arrived, though its source's clock was ahead; it is told once.
func TestEvidenceOfAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	records := []codec.Record{
		seen("ahead", "hub", -20, -20, "1"), seen("ahead", "fast", 600, -10, "2"), seen("ahead", "hub", 5, 5, "3"), seen("ahead", "fast", 620, 10, "4"),
	}
	if err := s.InsertRecords(ctx, records); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[int][]string{
		-30: {"ahead -20 1", "ahead 600 2", "ahead 5 3", "ahead 620 4"}, 0: {"ahead 600 2", "ahead 5 3", "ahead 620 4"}, 7: {"ahead 5 3", "ahead 620 4"},
		100: {"ahead 620 4"}, 700: {"ahead 620 4"},
	} {
		var got []string
		if err := s.Evidence(ctx, fleet.DefaultTenant, "ahead", minute(at), 0, func(r codec.Record) { got = append(got, told(*r.Inventory)) }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("from minute %d (-want +got):\n%s", at, diff)
		}
	}
}

// A source that sends one kind of observation alone is known by it.
func TestPositionsOfEveryKindOfSource(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	now := time.Now().UTC()
	var records []codec.Record
	want := make(map[codec.Position]uint64)
	for source, o := range map[fleet.SourceID]codec.Observation{
		"inventories":   {Inventory: &fleet.Inventory{Cluster: "berlin", ObservedAt: now}},
		"registrations": {Registration: &fleet.Registration{Cluster: "berlin", ObservedAt: now}},
		"sessions":      {Session: &fleet.Session{ID: "s1", Cluster: "berlin", Start: now}},
		"marks":         {Mark: &fleet.Mark{Cluster: "berlin", CompleteUntil: now}},
		"packages":      {Package: &fleet.Package{Cluster: "berlin", ObservedAt: now}},
		"checks":        {Check: &fleet.Check{Cluster: "berlin", Name: "login", Kind: fleet.CheckSSH, At: now}},
	} {
		records = append(records, codec.Record{
			Observation: o, Tenant: fleet.DefaultTenant, ObservedAt: now, RecordedAt: now, Source: source, Incarnation: "i1", Part: 7, SourceSequence: 5,
		})
		want[codec.Position{Source: source, Incarnation: "i1", Part: 7}] = 5
	}
	if err := s.InsertRecords(ctx, records); err != nil {
		t.Fatal(err)
	}
	got, err := s.Positions(ctx, fleet.DefaultTenant)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("positions (-want +got):\n%s", diff)
	}
}

// What is declared and what checks found is one row a unit and one a check,
// however often it arrives, with every value in its column.
func TestPackagesAndChecksAreKept(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	now := time.Now().UTC().Truncate(time.Millisecond)
	legacy := true
	declared := fleet.Package{
		Cluster: "berlin", ObservedAt: now,
		Helm: []fleet.HelmRelease{{
			Name: "gw", Namespace: "akeyless", Chart: "akeyless-gateway", ChartVersion: "3.3.0", AppVersion: "5.0.1_3.3.0", Revision: 7, Status: "deployed",
			ValuesHash: "sha256:a", UpdatedAt: now.Add(-time.Hour), Versions: fleet.VersionSet{fleet.LineSRA: "3.1.0", fleet.LineGateway: "5.0.1"},
		}},
		Compose: []fleet.ComposeService{{
			Project: "berlin", Service: "akeyless-web", Image: "sra:3", ConfigHash: "h", State: fleet.ComposeChanged, Differences: []string{"image"},
		}},
		RemoteAccess: &fleet.RemoteAccess{
			Hash: "sha256:b", LegacySigning: &legacy, KexAlgorithms: "curve25519-sha256", SessionTTL: time.Hour, RecordingStorage: "aws", LogForwarding: "syslog",
		},
	}
	check := fleet.Check{
		Cluster: "berlin", Name: "login", Kind: fleet.CheckSSH, Component: fleet.SRASSH, Target: "127.0.0.1:22", Session: "s1", At: now,
		Took: 1500 * time.Microsecond, Failure: fleet.FailureAuth, Detail: "refused", CertificateExpires: now.AddDate(900, 0, 0),
		Readings: map[string]float64{"login_seconds": 0.25, "connect_seconds": 1},
	}
	records := []codec.Record{
		{Observation: codec.Observation{Package: &declared}, Tenant: fleet.DefaultTenant, ObservedAt: now, RecordedAt: now, StreamSequence: 1},
		{Observation: codec.Observation{Package: &fleet.Package{Cluster: "oslo", ObservedAt: now}}, Tenant: fleet.DefaultTenant, ObservedAt: now, RecordedAt: now, StreamSequence: 1, Index: 1},
		{Observation: codec.Observation{Check: &check}, Tenant: fleet.DefaultTenant, ObservedAt: now, RecordedAt: now, StreamSequence: 1, Index: 2},
	}
	for range 2 {
		if err := s.InsertRecords(ctx, records); err != nil {
			t.Fatal(err)
		}
	}
	rows := func(query string) string {
		t.Helper()
		var out []string
		if err := s.Conn().QueryRow(ctx, "SELECT groupArray(line) FROM ("+query+")").Scan(&out); err != nil {
			t.Fatal(err)
		}
		return strings.Join(out, "\n")
	}
	want := `berlin|compose|akeyless-web|berlin||||0|changed|h|sra:3|||image|-1|0|
berlin|helm|gw|akeyless|akeyless-gateway|3.3.0|5.0.1_3.3.0|7|deployed|sha256:a||gateway,sra|5.0.1,3.1.0||-1|0|
berlin|remote_access||||||0||sha256:b|||||1|3600|curve25519-sha256,aws,syslog
oslo|||||||0|||||||-1|0|`
	got := rows(`SELECT concat(arrayStringConcat([cluster, unit, name, namespace, chart, chart_version, app_version, toString(revision), status, hash, image,
		arrayStringConcat(lines, ','), arrayStringConcat(versions, ','), arrayStringConcat(differences, ','), toString(legacy_signing), toString(session_ttl_seconds)], '|'),
		'|', if(unit = 'remote_access', concat(kex_algorithms, ',', recording_storage, ',', log_forwarding), '')) AS line FROM packages FINAL ORDER BY cluster, unit`)
	// The separators of empty columns are counted by the eye no better than by diff.
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	want = "login|ssh|sra-ssh|127.0.0.1:22|s1|1500|false|auth|refused|2299|connect_seconds,login_seconds|1,0.25"
	got = rows(`SELECT arrayStringConcat([name, kind, component, target, session_id, toString(took_us), toString(ok), failure, detail, toString(toYear(certificate_expires_at)),
		arrayStringConcat(reading_names, ','), arrayStringConcat(arrayMap(v -> toString(v), reading_values), ',')], '|') AS line FROM checks FINAL`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
}

// A loss stays told when its message comes again without it.
func lossStaysTold(t *testing.T, w way) {
	s := w.open(t)
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

// New code adds columns before old code is gone.
func olderCodeRunsOnNewerTables(t *testing.T, w way) {
	s := w.open(t)
	ctx := limited(t, time.Minute)
	files, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Migrate(ctx, files); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{inventoryInstances().name, registrations().name, sessionEvents().name, progressMarks().name, facts().name} {
		exec(t, s, "ALTER TABLE "+name+" ADD COLUMN newer String DEFAULT 'as before' FIRST")
	}
	records := sessions(0, 3)
	for _, o := range []codec.Observation{
		{Inventory: &fleet.Inventory{Cluster: "berlin"}}, {Registration: &fleet.Registration{Cluster: "berlin"}}, {Mark: &fleet.Mark{Cluster: "berlin"}},
	} {
		records = append(records, codec.Record{Observation: o, Tenant: fleet.DefaultTenant})
	}
	if err := s.InsertRecords(ctx, records); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertFacts(ctx, []codec.Fact{{Tenant: fleet.DefaultTenant, Noun: "gate", ID: "g"}}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "SELECT count() FROM session_events WHERE newer = 'as before'"); n != 3 {
		t.Errorf("%d sessions are there, want 3", n)
	}
}

// sessions are n records of sessions from number first on, as a collector sees
// them: few clusters, users and targets, and every session new.
func sessions(first, n int) []codec.Record {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	out := make([]codec.Record, n)
	for i := range out {
		k := first + i
		out[i] = codec.Record{
			Observation: codec.Observation{Session: &fleet.Session{
				ID: fleet.SessionID(fmt.Sprintf("session-%012d", k)), Cluster: fleet.ClusterID(fmt.Sprintf("cluster-%02d", k%50)), Status: fleet.SessionConnected,
				User: fmt.Sprintf("user-%d@example.org", k%1000), Target: fmt.Sprintf("db-%d.internal", k%100), InstanceID: fleet.InstanceID(fmt.Sprintf("bastion-%d", k%150)),
				Start: at.Add(time.Duration(k) * time.Millisecond), End: at.Add(time.Duration(k)*time.Millisecond + time.Minute),
			}},
			Tenant: fleet.DefaultTenant, ObservedAt: at, RecordedAt: at.Add(time.Second), Source: "vendor", Incarnation: "0123456789ab", Part: uint32(k % 64),
			SourceSequence: uint64(k / 200), StreamSequence: uint64(k / 200), Index: uint32(k % 200),
		}
	}
	return out
}

func TestInsertsNameTheirColumns(t *testing.T) {
	t.Parallel()
	origin := "source, incarnation, part, source_sequence, stream_sequence, stream_index, recorded_at, version"
	for want, got := range map[string]string{
		"INSERT INTO inventory_instances (tenant, cluster, observed_at, instance_id, component, service, image, tag, digest, image_id, running_version, health, started_at, declared, labelled, node, restarts, " + origin + ")": inventoryInstances().statement(),
		"INSERT INTO registrations (tenant, cluster, observed_at, last_report, bastion_ids, bastion_versions, gateway_names, gateway_statuses, " + origin + ")":                                                                  registrations().statement(),
		"INSERT INTO session_events (tenant, cluster, start_time, session_id, status, user_name, target, instance_id, end_time, error, failure, protocol, target_type, probe, observed_at, " + origin + ")":                      sessionEvents().statement(),
		"INSERT INTO progress_marks (tenant, cluster, observed_at, complete_until, blind, blind_reason, lost, about, clock_skew_ms, place, " + origin + ")":                                                                      progressMarks().statement(),
		"INSERT INTO facts (tenant, noun, id, stream_sequence, type, recorded_at, json, version)":                                                                                                                                facts().statement(),
		"INSERT INTO drift_periods (tenant, cluster, began_at, ended_at, state, reasons, lines, running, version_set, assigned, rollout, target, edge_from, edge_to, stream_sequence, recorded_at, version)":                     driftPeriods().statement(),
		"INSERT INTO baselines (tenant, id, cluster, name, at, by, rollout, state, assigned, json, version)":                                                                                                                     baselines().statement(),
	} {
		if got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestNative(t *testing.T) {
	t.Parallel()
	type row struct {
		text  string
		list  []string
		flag  bool
		n     uint32
		at    time.Time
		never time.Time
	}
	all := table[row]{"t", []column[row]{
		text("s", func(r row) string { return r.text }),
		texts("l", func(r row) []string { return r.list }),
		flag("f", func(r row) bool { return r.flag }),
		tiny("t", func(r row) uint8 { return uint8(r.n) }),
		short("n", func(r row) uint32 { return r.n }),
		long("u", func(r row) uint64 { return uint64(r.n) }),
		millis("m", func(r row) time.Time { return r.at }),
		nanos("z", func(r row) time.Time { return r.never }),
	}}
	long := strings.Repeat("x", 200)
	got := all.native([]row{{text: "é", list: []string{"a", ""}, flag: true, n: 258, at: time.UnixMilli(515)}, {text: long, list: []string{"b"}, at: time.UnixMilli(-1)}})
	want := "\x08\x02" +
		"\x01s\x06String" + "\x02é" + "\xc8\x01" + long +
		"\x01l\x0dArray(String)" + "\x02\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00" + "\x01a\x00\x01b" +
		"\x01f\x04Bool" + "\x01\x00" +
		"\x01t\x05UInt8" + "\x02\x00" +
		"\x01n\x06UInt32" + "\x02\x01\x00\x00\x00\x00\x00\x00" +
		"\x01u\x06UInt64" + "\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x01m\x14DateTime64(3, 'UTC')" + "\x03\x02\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff" +
		"\x01z\x14DateTime64(9, 'UTC')" + strings.Repeat("\x00", 16)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}
