//go:build linux && amd64

package clickhouse

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func folder(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func TestMigrate(t *testing.T) {
	t.Parallel()
	engine := startEngine(t)
	s := openStore(t, engine)
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
	other := openStore(t, engine)
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
	if _, err := s.Migrate(ctx, folder(changed)); err == nil || !strings.Contains(err.Error(), "0001_sessions was applied from another text") {
		t.Errorf("a changed migration was taken: %v", err)
	}
	broken := map[string]string{"0003_broken.sql": "SELECT 1;\nCREATE TABLE;\n", "0004_never.sql": "CREATE TABLE never (a Int8) ENGINE = Memory"}
	if _, err := s.Migrate(ctx, folder(broken)); Code(err) != 62 || !strings.Contains(err.Error(), "0003_broken, statement 2") {
		t.Errorf("a broken migration gave %v", err)
	}
	if n := count(t, s, "SELECT count() FROM system.tables WHERE name = 'never'"); n != 0 {
		t.Error("a migration ran after a broken one")
	}
}

func TestReadMigrationsRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		files map[string]string
		want  string
	}{
		"name":   {map[string]string{"1_a.sql": "SELECT 1"}, "NNNN_name.sql"},
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
