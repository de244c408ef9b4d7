//go:build linux && amd64

package clickhouse

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const createSample = `CREATE TABLE sample
(
    id      String,
    seq     UInt64,
    at      DateTime64(3, 'UTC'),
    kind    LowCardinality(String),
    ok      Bool,
    tags    Array(String),
    labels  Map(String, String),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (kind, id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1`

type sample struct {
	ID      string            `ch:"id"`
	Seq     uint64            `ch:"seq"`
	At      time.Time         `ch:"at"`
	Kind    string            `ch:"kind"`
	OK      bool              `ch:"ok"`
	Tags    []string          `ch:"tags"`
	Labels  map[string]string `ch:"labels"`
	Version uint64            `ch:"version"`
}

func insertSamples(ctx context.Context, s *Store, rows ...sample) error {
	batch, err := s.Conn().PrepareBatch(ctx, "INSERT INTO sample")
	if err != nil {
		return err
	}
	for i := range rows {
		if err := batch.AppendStruct(&rows[i]); err != nil {
			return err
		}
	}
	return batch.Send()
}

func exec(t testing.TB, s *Store, sql string) {
	t.Helper()
	if err := s.Conn().Exec(limited(t, time.Minute), sql); err != nil {
		t.Fatal(err)
	}
}

func count(t testing.TB, s *Store, sql string, args ...any) uint64 {
	t.Helper()
	var n uint64
	if err := s.Conn().QueryRow(limited(t, time.Minute), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// way is how a store is reached. The same must hold whichever it is.
type way struct {
	opts Options
	// batches makes inserts go the way of the native protocol.
	batches bool
}

func (w way) open(t testing.TB) *Store {
	s := openStore(t, w.opts)
	s.http = s.http && !w.batches
	return s
}

func TestConformance(t *testing.T) {
	t.Parallel()
	gate := newGateway(t)
	for name, reach := range map[string]func() way{
		"embedded":         func() way { return way{opts: embedded(shared)} },
		"embedded batches": func() way { return way{opts: embedded(shared), batches: true} },
		"HTTP":             func() way { return way{opts: Options{DSN: gate.inDatabase("")}} },
		"HTTP packed":      func() way { return way{opts: Options{DSN: gate.inDatabase("compress=gzip")}, batches: true} },
	} {
		for what, holds := range map[string]func(*testing.T, way){
			"rows":       rowsComeBack,
			"large":      oneBatchIsOnePart,
			"repeats":    repeatedBatchIsDropped,
			"migrations": migrationsAreAppliedOnce,
			"history":    historyIsKept,
			"losses":     lossStaysTold,
			"periods":    periodsComeBack,
			"newer":      olderCodeRunsOnNewerTables,
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				holds(t, reach())
			})
		}
	}
}

func rowsComeBack(t *testing.T, w way) {
	s := w.open(t)
	exec(t, s, createSample)
	at := time.Date(2026, 3, 1, 12, 0, 0, 123e6, time.UTC)
	first := sample{ID: "a", Seq: 1<<64 - 1, At: at, Kind: "session", OK: true, Tags: []string{"x", "it's"}, Labels: map[string]string{"k": "v", "": "empty"}, Version: 2}
	later := first
	later.Seq, later.Version = 7, 1
	other := sample{ID: "b", At: at.Add(-50 * 365 * 24 * time.Hour), Kind: "probe", Tags: []string{}, Labels: map[string]string{}}
	if err := insertSamples(limited(t, time.Minute), s, first, other); err != nil {
		t.Fatal(err)
	}
	if err := insertSamples(limited(t, time.Minute), s, later); err != nil {
		t.Fatal(err)
	}

	t.Run("rows come back as they were and the highest version wins", func(t *testing.T) {
		t.Parallel()
		var got []sample
		if err := s.Conn().Select(limited(t, time.Minute), &got, "SELECT * FROM sample FINAL ORDER BY id"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]sample{first, other}, got); diff != "" {
			t.Error(diff)
		}
		if n := count(t, s, "SELECT count() FROM sample"); n != 3 {
			t.Errorf("without FINAL there are %d rows, want 3", n)
		}
	})

	t.Run("query parameters", func(t *testing.T) {
		t.Parallel()
		n := count(t, s, "SELECT count() FROM sample FINAL WHERE kind = {kind:String} AND at = {at:DateTime64(3, 'UTC')} AND has(tags, {tag:String})",
			ch.Named("kind", "session"), ch.DateNamed("at", at, ch.MilliSeconds), ch.Named("tag", "it's"))
		if n != 1 {
			t.Errorf("%d rows match, want 1", n)
		}
	})

	t.Run("no rows", func(t *testing.T) {
		t.Parallel()
		rows, err := s.Conn().Query(limited(t, time.Minute), "SELECT id FROM sample WHERE id = 'nobody'")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		if rows.Next() || rows.Err() != nil {
			t.Errorf("a row came, or an error: %v", rows.Err())
		}
	})

	t.Run("errors have their codes", func(t *testing.T) {
		t.Parallel()
		for sql, want := range map[string]int32{
			"SELECT * FROM missing":     60,
			"SELECT missing FROM t":     60,
			"SELECT absent FROM sample": 47,
			"SELEC":                     62,
		} {
			err := s.Conn().Exec(limited(t, time.Minute), sql)
			if got := Code(err); got != want {
				t.Errorf("%s: code %d, want %d (%v)", sql, got, want, err)
			}
		}
		var n uint64
		err := s.Conn().QueryRow(limited(t, time.Minute), "SELECT count() FROM numbers(1000000) WHERE throwIf(number = 900000) = 1").Scan(&n)
		if got := Code(err); got != 395 {
			t.Errorf("a late error has code %d: %v", got, err)
		}
		if Code(errors.New("other")) != 0 {
			t.Error("an error of another kind has a code")
		}
	})

	t.Run("an error in the middle of a result is an error of its rows", func(t *testing.T) {
		t.Parallel()
		rows, err := s.Conn().Query(limited(t, time.Minute), "SELECT throwIf(number = 900000) FROM numbers(1000000) SETTINGS max_threads = 1")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		n := 0
		for rows.Next() {
			n++
		}
		if n == 0 || Code(rows.Err()) != 395 {
			t.Errorf("%d rows and then %v, want code 395", n, rows.Err())
		}
	})

	t.Run("a large result", func(t *testing.T) {
		t.Parallel()
		rows, err := s.Conn().Query(limited(t, time.Minute), "SELECT number, toString(number) FROM numbers(1000000)")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var sum, n uint64
		var text string
		for rows.Next() {
			if err := rows.Scan(&n, &text); err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		if rows.Err() != nil || sum != 499999500000 {
			t.Errorf("the sum is %d, %v", sum, rows.Err())
		}
	})

	t.Run("a cancelled context", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		err := s.Conn().Exec(ctx, "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(sipHash64(number))")
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", err)
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("it took %s", d)
		}
	})
}

func oneBatchIsOnePart(t *testing.T, w way) {
	s := w.open(t)
	files, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Migrate(limited(t, time.Minute), files); err != nil {
		t.Fatal(err)
	}
	const rows = 50_000
	if err := s.InsertRecords(limited(t, time.Minute), sessions(0, rows)); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "SELECT uniqExact(session_id) FROM session_events"); n != rows {
		t.Errorf("%d rows are there, want %d", n, rows)
	}
	if n := count(t, s, "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'session_events' AND active"); n != 1 {
		t.Errorf("one batch made %d parts", n)
	}
}

func repeatedBatchIsDropped(t *testing.T, w way) {
	s := w.open(t)
	exec(t, s, "CREATE TABLE once (a UInt64) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100")
	for range 3 {
		ctx := ch.Context(limited(t, time.Minute), ch.WithSettings(ch.Settings{"insert_deduplication_token": "it's one"}))
		batch, err := s.Conn().PrepareBatch(ctx, "INSERT INTO once")
		if err != nil {
			t.Fatal(err)
		}
		if err := batch.Append(uint64(1)); err != nil {
			t.Fatal(err)
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, s, "SELECT count() FROM once"); n != 1 {
		t.Errorf("%d copies, want 1", n)
	}
}

func TestDSN(t *testing.T) {
	t.Parallel()
	gate := newGateway(t)
	s := openStore(t, Options{DSN: gate.inDatabase("max_block_size=777&max_execution_time=60")})
	if n := count(t, s, "SELECT toUInt64(getSetting('max_block_size'))"); n != 777 {
		t.Errorf("a setting of the DSN is %d", n)
	}
	if n := count(t, s, "SELECT count() FROM system.databases WHERE name = currentDatabase() AND name = {name:String}", ch.Named("name", s.database)); n != 1 {
		t.Errorf("%d databases are the DSN's", n)
	}
	if n := count(t, s, "SELECT toUInt64(getSetting('async_insert') + 2 * getSetting('optimize_on_insert'))"); n != 2 {
		t.Errorf("the settings that an acknowledgement depends on are %d", n)
	}
	// The database of the options is taken rather than the DSN's.
	other := openStore(t, Options{DSN: gate.inDatabase(""), Database: s.database})
	if other.database != s.database {
		t.Errorf("the database is %s", other.database)
	}
	if client, err := (Options{DSN: "http://host:8123"}).client(); err != nil || client.Auth.Database != DefaultDatabase {
		t.Errorf("without a name the database is %+v, %v", client, err)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	old := newGateway(t)
	old.rewrite = func(body string) string { return strings.ReplaceAll(body, "26.5.", "23.8.") }
	page := httptest.NewServer(http.NotFoundHandler())
	defer page.Close()
	for name, test := range map[string]struct {
		opts Options
		id   string
		want string
	}{
		"nothing given":    {Options{}, "", "neither a DSN nor the embedded engine"},
		"bad time":         {Options{DSN: "clickhouse://user:s3cret@host:9000/db?dial_timeout=soon"}, "LS-STO-001", "dial timeout"},
		"bad port":         {Options{DSN: "clickhouse://user:s3cret@host:no-port/x"}, "LS-STO-001", "port"},
		"bad escape":       {Options{DSN: "http://user:s3cret%zz@host:8123/x"}, "LS-STO-001", "URL-encode"},
		"no scheme":        {Options{DSN: "user:s3cret@host:8123/x"}, "LS-STO-001", "clickhouse://user@host:9000/database"},
		"no host":          {Options{DSN: "http:///s3cret"}, "LS-STO-001", "address"},
		"a password alone": {Options{DSN: "s3cret"}, "LS-STO-001", "address"},
		"other database":   {Options{DSN: "postgres://user:s3cret@host/x"}, "LS-STO-001", "clickhouse://"},
		"half secure":      {Options{DSN: "https://user:s3cret@host:8443/x"}, "LS-STO-001", "?secure=true"},
		"nobody answers":   {Options{DSN: "http://user:s3cret@" + nobody + "/db"}, "LS-STO-002", nobody},
		"silence":          {Options{DSN: "http://user:s3cret@" + silent.Addr().String() + "/db"}, "LS-STO-002", silent.Addr().String()},
		"no ClickHouse":    {Options{DSN: "http://user:s3cret@" + page.Listener.Addr().String() + "/db"}, "LS-STO-002", "404"},
		"wrong password":   {Options{DSN: old.dsn("s3cret", "db", "")}, "LS-STO-003", gatewayUser},
		"an old server":    {Options{DSN: old.inDatabase("")}, "LS-STO-005", "24.8"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(limited(t, time.Second), test.opts)
			if err == nil || errs.IDOf(err) != test.id || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error %v is not %q and does not say %q", err, test.id, test.want)
			} else if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error holds the password: %v", err)
			}
		})
	}
}

// A server that takes a connection and then says nothing is told in words that
// help, by whoever would wait longer.
func TestASilentServer(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, err = Open(limited(t, time.Minute), Options{DSN: "http://" + silent.Addr().String()})
	if errs.IDOf(err) != "LS-STO-002" {
		t.Fatalf("the error is %v", err)
	}
	for _, part := range []string{silent.Addr().String(), "said nothing within 5s", "--clickhouse", "LOCKSTEP_STORE_DSN", "store.dsn_file"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error %q does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "max open conn") {
		t.Errorf("the error advises what nobody can set: %v", err)
	}
}

// What a server says no to comes with what to do about it, whatever the store was
// doing.
func TestServerErrors(t *testing.T) {
	t.Parallel()
	gate := newGateway(t)
	s := openHistory(t, Options{DSN: gate.inDatabase("")})
	files, err := Migrations()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		refused string // the beginning of statements
		code    int
		text    string
		do      func(ctx context.Context, s *Store) error
		id      string
	}{
		"full":            {"INSERT", 243, "Cannot reserve 1.00 MiB, not enough space. (NOT_ENOUGH_SPACE)", insertOne, "LS-STO-006"},
		"full, as a file": {"INSERT", 75, "Cannot write to file: errno: 28, strerror: No space left on device. (CANNOT_WRITE_TO_FILE_DESCRIPTOR)", insertOne, "LS-STO-006"},
		"memory":          {"SELECT", 241, "Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)", readOne, "LS-STO-010"},
		"readonly":        {"INSERT", 164, "Cannot execute query in readonly mode. (READONLY)", insertOne, "LS-STO-004"},
		"no right": {"CREATE DATABASE", 497, "Not enough privileges: CREATE DATABASE ON other.*. (ACCESS_DENIED)", func(ctx context.Context, s *Store) error {
			s.database = "other"
			_, err := s.Migrate(ctx, files)
			return err
		}, "LS-STO-004"},
		"no table":  {"INSERT", 60, "Table x does not exist. (UNKNOWN_TABLE)", insertOne, "LS-STO-008"},
		"no column": {"SELECT", 47, "Unknown identifier newer. (UNKNOWN_IDENTIFIER)", readOne, "LS-STO-008"},
		"a setting": {"INSERT", 115, "Unknown setting. (UNKNOWN_SETTING)", insertOne, ""},
	} {
		refusing := newGateway(t)
		refusing.refuse = func(sql string) (int, string) {
			if strings.HasPrefix(strings.TrimSpace(sql), test.refused) && !strings.Contains(sql, "version()") {
				return test.code, test.text
			}
			return 0, ""
		}
		refused := openStoreOnly(t, Options{DSN: refusing.dsn(gatewayPassword, s.database, "")})
		err := test.do(limited(t, time.Minute), refused)
		if err == nil || errs.IDOf(err) != test.id || Code(err) != int32(test.code) {
			t.Errorf("%s: the error %v is not %q", name, err, test.id)
		}
	}
}

func insertOne(ctx context.Context, s *Store) error {
	return s.InsertRecords(ctx, sessions(0, 1))
}

func readOne(ctx context.Context, s *Store) error {
	return s.Evidence(ctx, fleet.DefaultTenant, "berlin", time.Now(), 0, func(codec.Record) {})
}
