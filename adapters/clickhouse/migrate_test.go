//go:build linux && amd64

package clickhouse

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func folder(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func migrationsAreAppliedOnce(t *testing.T, w way) {
	s := w.open(t)
	ctx := limited(t, time.Minute)
	one := map[string]string{
		"0001_sessions.sql": "-- Sessions; one row each.\nCREATE TABLE IF NOT EXISTS sessions (id String) ENGINE = MergeTree ORDER BY id;\n\nINSERT INTO sessions VALUES ('a;b');\n",
		"README.md":         "not a migration",
	}
	if n, err := s.Migrate(ctx, folder(one)); err != nil || n != 1 {
		t.Fatalf("%d applied, %v", n, err)
	}
	two := map[string]string{"0001_sessions.sql": one["0001_sessions.sql"], "0002_more.sql": "ALTER TABLE sessions ADD COLUMN IF NOT EXISTS at DateTime64(3, 'UTC')"}
	// Another process, later, with one migration more.
	other := w.open(t)
	if n, err := other.Migrate(ctx, folder(two)); err != nil || n != 1 {
		t.Fatalf("%d applied, %v", n, err)
	}
	for range 2 {
		if n, err := s.Migrate(ctx, folder(two)); err != nil || n != 0 {
			t.Fatalf("%d applied again, %v", n, err)
		}
	}
	if n, err := s.Migrate(ctx, folder(one)); err != nil || n != 0 {
		t.Fatalf("older code refuses a newer schema: %d applied, %v", n, err)
	}
	if n := count(t, s, "SELECT count() FROM sessions WHERE id = 'a;b'"); n != 1 {
		t.Errorf("the first migration ran %d times", n)
	}

	changed := map[string]string{"0001_sessions.sql": one["0001_sessions.sql"] + "-- afterthought\n"}
	if _, err := s.Migrate(ctx, folder(changed)); errs.IDOf(err) != "LS-STO-009" || !strings.Contains(err.Error(), "0001_sessions was applied") {
		t.Errorf("a changed migration was taken: %v", err)
	}
	broken := map[string]string{"0003_broken.sql": "SELECT 1;\nCREATE TABLE;\n", "0004_never.sql": "CREATE TABLE never (a Int8) ENGINE = Memory"}
	if _, err := s.Migrate(ctx, folder(broken)); Code(err) != 62 || !strings.Contains(err.Error(), "0003_broken, statement 2") {
		t.Errorf("a broken migration gave %v", err)
	}
	if n := count(t, s, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'never'"); n != 0 {
		t.Error("a migration ran after a broken one")
	}
}

// A plan changes nothing, whatever is missing: the record, the table, or the
// database.
func TestPending(t *testing.T) {
	t.Parallel()
	s := openStoreOnly(t, embedded(shared))
	ctx := limited(t, time.Minute)
	one, two := "CREATE TABLE a (a Int8) ENGINE = Memory;\nSELECT 1;\n", "CREATE TABLE b (b Int8) ENGINE = Memory"
	files := folder(map[string]string{"0001_a.sql": one, "0002_b.sql": two})
	plan := func() (out []string) {
		t.Helper()
		pending, err := s.Pending(ctx, files)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range pending {
			out = append(out, fmt.Sprintf("%d %s: %d", m.Version, m.Name, len(m.Statements)))
		}
		return out
	}
	for range 2 {
		if diff := cmp.Diff([]string{"1 a: 2", "2 b: 1"}, plan()); diff != "" {
			t.Fatal(diff)
		}
	}
	// Who uses tables that are not there is told how to make them.
	if err := s.InsertFacts(ctx, []codec.Fact{{}}); errs.IDOf(err) != "LS-STO-008" || !strings.Contains(err.Error(), "lockstep migrate") {
		t.Errorf("an insert into nothing gives %v", err)
	}
	if n, err := s.Migrate(ctx, folder(map[string]string{"0001_a.sql": one})); err != nil || n != 1 {
		t.Fatalf("%d applied, %v", n, err)
	}
	if diff := cmp.Diff([]string{"2 b: 1"}, plan()); diff != "" {
		t.Error(diff)
	}
	if n, err := s.Migrate(ctx, files); err != nil || n != 1 {
		t.Fatalf("%d applied, %v", n, err)
	}
	if left := plan(); len(left) > 0 {
		t.Errorf("all is applied, and the plan is %q", left)
	}
}

// A user who may only read and insert starts on a database that another migrated.
func TestAMigratedDatabaseNeedsNoRightToCreate(t *testing.T) {
	t.Parallel()
	ctx := limited(t, time.Minute)
	files, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	gate := newGateway(t)
	gate.refuse = func(sql string) (int, string) {
		if word, _, _ := strings.Cut(strings.TrimSpace(sql), " "); word == "CREATE" || word == "ALTER" {
			return 497, "Not enough privileges: " + sql + ". (ACCESS_DENIED)"
		}
		return 0, ""
	}
	opts := embedded(shared)
	limitedUser := openStoreOnly(t, Options{DSN: gate.dsn(gatewayPassword, opts.Database, "")})
	if n, err := limitedUser.Migrate(ctx, files); n != 0 || errs.IDOf(err) != "LS-STO-004" {
		t.Fatalf("without a database: %d applied, %v", n, err)
	}
	openHistory(t, opts)
	if n, err := limitedUser.Migrate(ctx, files); n != 0 || err != nil {
		t.Errorf("all is there: %d applied, %v", n, err)
	}
	if err := insertOne(ctx, limitedUser); err != nil {
		t.Error(err)
	}
}

// Older code runs on a database of newer code until that takes something away.
func TestBreakingMigrationsKeepOlderCodeOut(t *testing.T) {
	t.Parallel()
	s := openStore(t, embedded(shared))
	ctx := limited(t, time.Minute)
	files := map[string]string{"0001_a.sql": "SELECT 1"}
	older := folder(files)
	files["0002_more.sql"] = "SELECT 2"
	files["0003_less.breaking.sql"] = "SELECT 3"
	newer := folder(files)
	if n, err := s.Migrate(ctx, newer); err != nil || n != 3 {
		t.Fatalf("%d applied, %v", n, err)
	}
	if n, err := s.Migrate(ctx, newer); err != nil || n != 0 {
		t.Errorf("the code that applied it is refused: %d applied, %v", n, err)
	}
	_, planned := s.Pending(ctx, older)
	_, migrated := s.Migrate(ctx, older)
	for what, err := range map[string]error{"a plan": planned, "migrating": migrated} {
		if errs.IDOf(err) != "LS-STO-007" || !strings.Contains(err.Error(), "0003_less.breaking") {
			t.Errorf("%s by older code gives %v", what, err)
		}
	}
}

// Migrations change tables with rows in them, and go on where a crash ended them.
func TestMigrationsKeepRows(t *testing.T) {
	t.Parallel()
	s := openStore(t, embedded(shared))
	ctx := limited(t, time.Minute)
	all, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	before, after := fstest.MapFS{}, ""
	for i, name := range []string{"0001_history.sql", "0002_collector.sql", "0003_drift.sql", "0004_marks.sql"} {
		text, err := fs.ReadFile(all, name)
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			before[name] = &fstest.MapFile{Data: text}
		} else {
			after += string(text) + "\n"
		}
	}
	if _, err := s.Migrate(ctx, before); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertRecords(ctx, sessions(0, 100)); err != nil {
		t.Fatal(err)
	}
	for _, statement := range splitStatements(after) {
		for range 2 { // after a crash it is not known whether the last one ran
			exec(t, s, statement)
		}
	}
	if err := s.InsertRecords(ctx, sessions(100, 10)); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "SELECT countIf(stored_at > now64() - INTERVAL 1 HOUR) FROM session_events"); n != 10 {
		t.Errorf("%d sessions were stored just now, want 10", n)
	}
	if _, err := s.Migrate(ctx, all); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "SELECT count() FROM session_events WHERE user_name != '' AND source = 'vendor'"); n != 110 {
		t.Errorf("%d sessions are there, want 110", n)
	}
}

// Marks of other kinds than sessions go within days, whatever their month.
func TestOldMarksGo(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	now := time.Now().UTC()
	var records []codec.Record
	for i, at := range []time.Time{now, now.AddDate(0, 0, -11), now.AddDate(0, 0, -399), now.AddDate(0, 0, -401)} {
		for _, about := range []fleet.Kind{fleet.KindSession, fleet.KindInventory} {
			records = append(records, codec.Record{
				Observation: codec.Observation{Mark: &fleet.Mark{Cluster: "berlin", About: about}}, Tenant: fleet.DefaultTenant, ObservedAt: at, RecordedAt: at,
				Source: fleet.SourceID(about), SourceSequence: uint64(i),
			})
		}
	}
	if err := s.InsertRecords(ctx, records); err != nil {
		t.Fatal(err)
	}
	exec(t, s, "OPTIMIZE TABLE progress_marks FINAL")
	got := names(t, s, "SELECT concat(about, ' ', toString(source_sequence)) AS line FROM progress_marks ORDER BY line")
	if diff := cmp.Diff([]string{"inventory 0", "session 0", "session 1", "session 2"}, got); diff != "" {
		t.Errorf("the marks that stay (-want +got):\n%s", diff)
	}
}

func TestReadMigrationsRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"name":   {map[string]string{"1_a.sql": "SELECT 1"}, "NNNN_name.sql"},
		"suffix": {map[string]string{"0001_a.broken.sql": "SELECT 1"}, "NNNN_name.sql"},
		"case":   {map[string]string{"0001_A.sql": "SELECT 1"}, "NNNN_name.sql"},
		"double": {map[string]string{"0001_a.sql": "SELECT 1", "0001_b.sql": "SELECT 1"}, "one number"},
		"empty":  {map[string]string{"0001_a.sql": "-- nothing\n"}, "no statement"},
	} {
		if _, err := readMigrations(folder(test.files)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error %v does not say %q", name, err, test.want)
		}
	}
}

func TestSplitStatements(t *testing.T) {
	t.Parallel()
	got := splitStatements("-- a; comment;\nSELECT 'a;b',\n  1;\r\n\n  -- more\nSELECT 2; \n;\nSELECT 3")
	if diff := cmp.Diff([]string{"SELECT 'a;b',\n  1", "SELECT 2", "SELECT 3"}, got); diff != "" {
		t.Error(diff)
	}
}
