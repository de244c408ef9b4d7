//go:build linux && amd64

package clickhouse

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/go-cmp/cmp"
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

func insert(ctx context.Context, s *Store, rows ...sample) error {
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

func TestStore(t *testing.T) {
	t.Parallel()
	s := openStore(t, startEngine(t))
	exec(t, s, createSample)
	at := time.Date(2026, 3, 1, 12, 0, 0, 123e6, time.UTC)
	first := sample{ID: "a", Seq: 1<<64 - 1, At: at, Kind: "session", OK: true, Tags: []string{"x", "it's"}, Labels: map[string]string{"k": "v", "": "empty"}, Version: 2}
	later := first
	later.Seq, later.Version = 7, 1
	other := sample{ID: "b", At: at.Add(-50 * 365 * 24 * time.Hour), Kind: "probe", Tags: []string{}, Labels: map[string]string{}}
	if err := insert(limited(t, time.Minute), s, first, other); err != nil {
		t.Fatal(err)
	}
	if err := insert(limited(t, time.Minute), s, later); err != nil {
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

func TestManyRowsInOneBatch(t *testing.T) {
	t.Parallel()
	s := openStore(t, startEngine(t))
	exec(t, s, createSample)
	const rows = 200_000
	insertMany(t, s, 0, rows)
	if n := count(t, s, "SELECT uniqExact(id) FROM sample"); n != rows {
		t.Errorf("%d rows are there, want %d", n, rows)
	}
	if n := count(t, s, "SELECT count() FROM system.parts WHERE table = 'sample' AND active"); n != 1 {
		t.Errorf("one batch made %d parts", n)
	}
}

// insertMany inserts n rows with ids from first on, as one batch of columns.
func insertMany(t testing.TB, s *Store, first, n int) {
	t.Helper()
	batch, err := s.Conn().PrepareBatch(limited(t, time.Minute), "INSERT INTO sample")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := first; i < first+n; i++ {
		id := "session-" + strings.Repeat("0", 8) + string(rune('a'+i%26)) + time.Duration(i).String()
		if err := batch.Append(id, uint64(i), at.Add(time.Duration(i)*time.Millisecond), "session", i%50 != 0, []string{"web"}, map[string]string{"line": "gateway"}, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
}

func TestInsertTokenDropsARepeatedBatch(t *testing.T) {
	t.Parallel()
	s := openStore(t, startEngine(t))
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

// Every acknowledged row is there after the engine was killed, and the store
// needs nothing but a retry.
func TestKilledEngineKeepsAcknowledgedRows(t *testing.T) {
	t.Parallel()
	engine := startEngine(t)
	s := openStore(t, engine)
	exec(t, s, createSample)
	ctx := limited(t, 2*time.Minute)
	next := uint64(0)
	for range 3 {
		victim := engine.PID()
		killed := make(chan error, 1)
		failures := 0
		for acked := 0; acked < 60; {
			if acked == 20 && failures == 0 {
				go func() { killed <- syscall.Kill(victim, syscall.SIGKILL) }()
			}
			// The same row again after a failure: it may be there already.
			err := insert(ctx, s, sample{ID: strconv.FormatUint(next, 10), Seq: next, Kind: "session"})
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			if err != nil {
				failures++
				continue
			}
			next++
			acked++
		}
		if err := <-killed; err != nil {
			t.Fatal(err)
		}
		t.Logf("%d inserts failed around the kill", failures)
		if failures > 8 {
			t.Errorf("%d inserts failed around one kill: more than the open connections", failures)
		}
	}
	if n := count(t, s, "SELECT uniqExact(seq) FROM sample"); n != next {
		t.Errorf("%d rows are there, %d were acknowledged", n, next)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		opts Options
		want string
	}{
		"nothing given":  {Options{}, "neither a DSN nor the embedded engine"},
		"bad DSN":        {Options{DSN: "clickhouse://user:secret@host:9000/db?dial_timeout=soon"}, "read the ClickHouse DSN"},
		"nobody answers": {Options{DSN: "http://user:secret@127.0.0.1:1/db"}, "127.0.0.1:1"},
	} {
		_, err := Open(limited(t, 20*time.Second), test.opts)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error %v does not say %q", name, err, test.want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error holds the password: %v", name, err)
		}
	}
}

func BenchmarkInsert(b *testing.B) {
	for name, rows := range map[string]int{"100": 100, "10000": 10_000, "100000": 100_000} {
		b.Run(name, func(b *testing.B) {
			s := openStore(b, startEngine(b))
			exec(b, s, createSample)
			first := 0
			for b.Loop() {
				insertMany(b, s, first, rows)
				first += rows
			}
			b.ReportMetric(float64(first)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
