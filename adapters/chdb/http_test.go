//go:build linux && amd64

package chdb

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestInterface(t *testing.T) {
	t.Parallel()
	engine := startEngine(t, t.TempDir())

	t.Run("statements and parameters", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		got := c.must("SELECT {n:UInt64} + 1, {s:String} FORMAT CSV", "param_n", "18446744073709551614", "param_s", `it's "1"\t\\ é`)
		if want := "18446744073709551615,\"it's \"\"1\"\"\t\\ é\"\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := c.must("SHOW DATABASES LIKE 'system' FORMAT CSV"); got != "\"system\"\n" {
			t.Errorf("SHOW gave %q", got)
		}
		if got := c.must("SELECT 1 WHERE 0"); got != "" {
			t.Errorf("no rows gave %q", got)
		}
	})

	t.Run("one request's session does not reach another", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		read := "SELECT getSetting('max_block_size'), currentDatabase() FORMAT CSV"
		before := c.must(read)
		for range 20 { // each member of the pool gets its turn
			if got := c.must(read, "max_block_size", "777", "database", "system"); got != "777,\"system\"\n" {
				t.Fatalf("settings by URL gave %q", got)
			}
			c.must("SET max_block_size = 888")
			c.must("USE system")
			c.must("CREATE TEMPORARY TABLE leftover (a UInt8)")
			if got := c.must(read); got != before {
				t.Fatalf("after another request's settings: %q, before %q", got, before)
			}
			if got := c.must("EXISTS TEMPORARY TABLE leftover FORMAT CSV"); got != "0\n" {
				t.Fatalf("another request's temporary table is visible: %q", got)
			}
		}
	})

	t.Run("inserts with data", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		c.must("CREATE TABLE default.first (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
		c.must("CREATE TABLE default.second (b String) ENGINE = MergeTree ORDER BY b")
		// The files of successive inserts share a name: neither may be read
		// with the other's columns.
		for range 3 {
			first := c.must("SELECT number AS a, toString(number) AS b FROM numbers(1000)")
			c.must(first, "query", "INSERT INTO first (a, b) FORMAT Native")
			second := c.must("SELECT 'x' AS b FROM numbers(10)")
			c.must(second, "query", "INSERT INTO default.second FORMAT Native")
		}
		c.must("7,\"seven\"\n", "query", "INSERT INTO first FORMAT CSV")
		c.must("INSERT INTO first VALUES (8, 'eight')")
		c.must("", "query", "INSERT INTO first (a) VALUES (9)")
		if got := c.must("SELECT count(), sum(a) FROM first FORMAT CSV"); got != "3003,1498524\n" {
			t.Errorf("first holds %q", got)
		}
		if got := c.must("SELECT count() FROM second FORMAT CSV"); got != "30\n" {
			t.Errorf("second holds %q", got)
		}
	})

	t.Run("an error after the first piece is framed", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		got := c.must("SELECT throwIf(number = 900000) FROM numbers(1000000)", "max_threads", "1")
		tail := got[max(0, len(got)-600):]
		if !strings.Contains(tail, "\r\n__exception__\r\n") || !strings.Contains(tail, "Code: 395.") {
			t.Errorf("the body ends in %q", tail)
		}
	})

	t.Run("refusals", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		for name, test := range map[string]struct {
			sql    string
			params url.Values
			code   string
			text   string
		}{
			"unknown table":    {"SELECT * FROM nowhere", nil, "60", "nowhere"},
			"syntax":           {"SELEC 1", nil, "62", "Syntax error"},
			"empty":            {"  ", nil, "36", "empty statement"},
			"unknown setting":  {"SELECT 1", url.Values{"no_such_setting": {"1"}}, "115", "no_such_setting"},
			"hostile setting":  {"SELECT 1", url.Values{"a = 1, b": {"1"}}, "36", "setting name"},
			"unknown database": {"SELECT 1", url.Values{"database": {"a`b"}}, "81", "does not exist"},
			"missing value":    {"SELECT {a:String}", nil, "456", "a"},
			"compression":      {"SELECT 1", url.Values{"compress": {"1"}}, "48", "compression"},
			"session":          {"SELECT 1", url.Values{"session_id": {"s"}}, "48", "sessions"},
			"other format":     {"SELECT 1", url.Values{"default_format": {"CSV"}}, "48", "Native"},
			"data, no format":  {"x", url.Values{"query": {"INSERT INTO t"}}, "36", "FORMAT"},
			"torn data":        {"\x01\x05\x01", url.Values{"query": {"INSERT INTO FUNCTION null('a UInt8') FORMAT Native"}}, "", "Code: "},
		} {
			got, err := c.post(limited(t, time.Minute), test.sql, test.params)
			if err != nil {
				t.Fatal(err)
			}
			if got.status != http.StatusInternalServerError || test.code != "" && got.code != test.code || !strings.Contains(got.body, test.text) {
				t.Errorf("%s: %+v, want code %s and %q", name, got, test.code, test.text)
			}
		}
		// A refused request leaves its connection usable.
		for range 20 {
			c.must("SELECT 1")
		}
	})

	t.Run("more than it takes", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		for name, params := range map[string]url.Values{
			"statement": {},
			"data":      {"query": {"INSERT INTO FUNCTION null('a String') FORMAT CSV"}},
		} {
			got, err := c.post(limited(t, time.Minute), strings.Repeat("x", 65<<20), params)
			// It answers and hangs up, and a client that still writes may see that
			// alone.
			if err == nil && (got.status != http.StatusInternalServerError || got.code != "229" || !strings.Contains(got.body, "MiB; send it in parts")) {
				t.Errorf("%s: %+v", name, got)
			}
			c.must("SELECT 1")
		}
	})

	t.Run("noise", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		// A thousand connections, most of them left in the middle.
		for noise, times := range map[string]int{
			"\x00\xff\x16\x03\x01garbage\r\n\r\n":                                                                                    200,
			"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 100\r\n\r\nSELECT":                                                        200,
			"POST /?query=INSERT%20INTO%20t%20FORMAT%20Native HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n": 200,
			"POST / HTTP/1.1\r\nHost: e\r\nX: " + strings.Repeat("x", 4<<20):                                                         1,
			"GET / HTTP/1.1\r\n": 200,
			"":                   200,
		} {
			for range times {
				conn, err := engine.DialContext(limited(t, time.Minute), "", "")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_, _ = io.WriteString(conn, noise)
			}
			c.must("SELECT 1")
		}
		if got, err := c.post(limited(t, time.Minute), "PUT", url.Values{"query": {"SELECT 1"}, "client_protocol_version": {"x"}}); err != nil || got.code != "36" {
			t.Errorf("a revision that is no number: %+v, %v", got, err)
		}
	})

	t.Run("what it may take is bounded", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			t.Fatal(err)
		}
		for query, most := range map[string]uint64{
			"SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage' FORMAT TSV": info.Totalram * 2 / 5,
			"SELECT value FROM system.server_settings WHERE name = 'mark_cache_size' FORMAT TSV":         64 << 20,
			"SELECT getSetting('max_threads') FORMAT TSV":                                                8,
		} {
			got, err := strconv.ParseUint(strings.TrimSpace(c.must(query)), 10, 64)
			if err != nil || got == 0 || got > most {
				t.Errorf("%s: %d, %v, want at most %d", query, got, err, most)
			}
		}
		c.must("SYSTEM JEMALLOC PURGE") // as tidy does
	})

	t.Run("ping", func(t *testing.T) {
		t.Parallel()
		c := newClient(t, engine.DialContext)
		res, err := c.http.Get("http://engine/ping")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Errorf("ping: %s", res.Status)
		}
	})
}

func TestHelloRewrites(t *testing.T) {
	t.Parallel()
	// One row of four columns, as the engine writes it.
	in := "\x04\x01" +
		"\x0ddisplayName()\x06String\x02vm" +
		"\x09version()\x06String\x0426.5" +
		"\x0arevision()\x06UInt32\xee\xd4\x00\x00" +
		"\x0atimezone()\x06String\x03UTC"
	want := "\x01\x00\x02\xff\xff\xff\xff\x00\x04\x01" +
		"\x0ddisplayName()\x06String\x00\x02vm" +
		"\x09version()\x06String\x00\x0426.5" +
		"\x0arevision()\x06UInt32\x00\x00\x00\x00\x00" +
		"\x0atimezone()\x06String\x00\x03UTC"
	got, err := hello([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	for end := range in {
		if _, err := hello([]byte(in[:end])); err == nil {
			t.Errorf("%d of %d bytes were taken for a whole answer", end, len(in))
		}
	}
}

func TestFirstWord(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]string{
		"":                                  "",
		"select 1":                          "SELECT",
		"  -- note\n /* a */ (SELECT 1)":    "SELECT",
		"WITH x AS (SELECT 1) SELECT 2":     "WITH",
		"INSERT INTO t SELECT 1":            "INSERT",
		"/* unfinished SELECT":              "",
		"/*request 1*/ SET max_threads = 1": "SET",
	} {
		if got := firstWord(sql); got != want {
			t.Errorf("firstWord(%q) = %q, want %q", sql, got, want)
		}
	}
}

func TestAssignments(t *testing.T) {
	t.Parallel()
	have := map[string]string{"kept": "1", "changed": "1", "dropped": "1"}
	want := map[string]string{"kept": "1", "changed": `it's \`, "added": ""}
	if got, text := assignments(have, want), `SET added = '', changed = 'it\'s \\', dropped = DEFAULT`; got != text {
		t.Errorf("got %s, want %s", got, text)
	}
}
