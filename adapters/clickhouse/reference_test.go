//go:build linux && amd64

package clickhouse

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// reference is what docs/reference/history.md says.
type reference struct {
	// views are the columns with their types, by view, in order.
	views map[string][]string
	// kept are the days by table.
	kept map[string]string
	// statements are what stands in its blocks of SQL.
	statements []string
}

var (
	viewHeading = regexp.MustCompile("^### (v1_[a-z_]+)$")
	columnRow   = regexp.MustCompile("^\\| `([a-z_]+)` \\| ([A-Z][^|]*) \\|")
	keptRow     = regexp.MustCompile("^\\| `([a-z_]+)` \\| ([0-9]+) \\|")
	macro       = regexp.MustCompile(`\$__timeFilter\((\w+)\)`)
	lowTypes    = regexp.MustCompile(`LowCardinality\((\w+)\)`)
)

func readReference(t *testing.T) reference {
	t.Helper()
	text, err := os.ReadFile("../../docs/reference/history.md")
	if err != nil {
		t.Fatal(err)
	}
	r := reference{views: make(map[string][]string), kept: make(map[string]string)}
	view, block, inside := "", "", false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "```sql":
			block, inside = "", true
		case line == "```" && inside:
			r.statements, inside = append(r.statements, strings.TrimSpace(block)), false
		case inside:
			block += line + "\n"
		case strings.HasPrefix(line, "#"):
			view = ""
			if m := viewHeading.FindStringSubmatch(line); m != nil {
				view = m[1]
			}
		case columnRow.MatchString(line) && view != "":
			m := columnRow.FindStringSubmatch(line)
			r.views[view] = append(r.views[view], m[1]+" "+m[2])
		case keptRow.MatchString(line):
			m := keptRow.FindStringSubmatch(line)
			r.kept[m[1]] = m[2]
		}
	}
	return r
}

// live puts a little of everything into the history, up to now.
func live(t *testing.T, s *Store, now time.Time) {
	t.Helper()
	ctx := limited(t, time.Minute)
	from, to := fleet.VersionSet{"gateway": "4.52.0", "sra": "3.0.3"}, fleet.VersionSet{"gateway": "4.53.0", "sra": "3.0.3"}
	period := func(began, ended time.Time, state drift.State, gateways ...string) codec.Period {
		p := codec.Period{
			Period:         drift.Period{Cluster: "berlin", Began: began, Ended: ended, State: state, Reasons: []string{"so it is"}, Running: map[fleet.Line][]string{"gateway": gateways, "sra": {"3.0.3"}}},
			StreamSequence: uint64(began.Unix()), RecordedAt: began,
		}
		if p.Mixed() {
			p.Edge = drift.Edge{From: from, To: to}
		}
		return p
	}
	a, b, c := now.Add(-50*time.Hour), now.Add(-26*time.Hour), now.Add(-2*time.Hour)
	insertPeriods(t, s, fleet.DefaultTenant, period(a, b, drift.Stepping, "4.52.0", "4.53.0"), period(b, c, drift.Overdue, "4.52.0", "4.53.0"), period(c, time.Time{}, drift.Drifted, "4.53.0"))
	var records []codec.Record
	for i, start := range []time.Time{now.Add(-90 * time.Hour), a.Add(time.Minute), b.Add(time.Minute), c.Add(time.Minute)} {
		records = append(records, codec.Record{Tenant: fleet.DefaultTenant, RecordedAt: now, Observation: codec.Observation{Session: &fleet.Session{
			ID: fleet.SessionID(fmt.Sprint(i)), Cluster: "berlin", Start: start, Status: []fleet.SessionStatus{fleet.SessionCompleted, fleet.SessionFailed}[i%2],
		}}})
	}
	inventory := seen("berlin", "hub", 0, 0, "4.53.0")
	inventory.Inventory.ObservedAt, inventory.RecordedAt = now, now
	if err := s.InsertRecords(ctx, append(records, inventory)); err != nil {
		t.Fatal(err)
	}
	if err := s.RollUp(ctx, fleet.DefaultTenant); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertBaselines(ctx, fleet.DefaultTenant, []drift.Baseline{{ID: "b/berlin", Name: "b", Cluster: "berlin", At: now}}); err != nil {
		t.Fatal(err)
	}
}

// names lists what a statement yields as lines.
func names(t *testing.T, s *Store, sql string) []string {
	t.Helper()
	var out []string
	if err := s.Conn().QueryRow(limited(t, time.Minute), "SELECT groupArray(line) FROM ("+sql+")").Scan(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// The reference names every view with every column and its type, and what it tells
// people to type runs and yields something.
func TestTheReferenceIsTrue(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	r := readReference(t)
	now := time.Now().UTC()
	live(t, s, now)
	there := names(t, s, "SELECT name AS line FROM system.tables WHERE database = currentDatabase() AND engine = 'View' ORDER BY name")
	if diff := cmp.Diff(there, slices.Sorted(maps.Keys(r.views))); diff != "" {
		t.Fatalf("the views (-there +documented):\n%s", diff)
	}
	for view, documented := range r.views {
		columns := names(t, s, fmt.Sprintf("SELECT concat(name, ' ', type) AS line FROM system.columns WHERE database = currentDatabase() AND table = '%s' ORDER BY position", view))
		for i := range columns {
			columns[i] = lowTypes.ReplaceAllString(columns[i], "$1")
		}
		if diff := cmp.Diff(columns, documented); diff != "" {
			t.Errorf("%s (-there +documented):\n%s", view, diff)
		}
		if n := count(t, s, "SELECT count() FROM "+view); n == 0 {
			t.Errorf("%s is empty", view)
		}
	}
	queries, changes := 0, 0
	for _, statement := range r.statements {
		switch verb, _, _ := strings.Cut(statement, " "); verb {
		case "SELECT":
			queries++
			sql := macro.ReplaceAllString(statement, "$1 >= $$__fromTime AND $1 <= $$__toTime")
			sql = strings.NewReplacer("$__fromTime", fmt.Sprintf("toDateTime(%d)", now.AddDate(0, 0, -30).Unix()), "$__toTime", fmt.Sprintf("toDateTime(%d)", now.Unix())).Replace(sql)
			if n := count(t, s, "SELECT count() FROM ("+sql+")"); n == 0 {
				t.Errorf("this yields nothing:\n%s", statement)
			}
		case "ALTER":
			changes++
			exec(t, s, statement)
		case "CREATE": // a user; the embedded engine has none
		default:
			t.Errorf("nothing is known of this kind of statement:\n%s", statement)
		}
	}
	if queries < 3 || changes == 0 {
		t.Errorf("%d queries and %d changes are documented", queries, changes)
	}
}

func TestTheReferenceSaysHowLongRowsAreKept(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	kept := make(map[string]string)
	limit := regexp.MustCompile(` TTL \w+\((\w+)\) \+ toIntervalDay\((\d+)\)`)
	for _, line := range names(t, s, "SELECT concat(name, ' ', engine_full) AS line FROM system.tables WHERE database = currentDatabase() AND engine_full LIKE '% TTL %'") {
		m := limit.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("the limit of %s cannot be read", line)
		}
		name, _, _ := strings.Cut(line, " ")
		kept[name] = m[2]
	}
	if diff := cmp.Diff(kept, readReference(t).kept); diff != "" {
		t.Errorf("(-there +documented):\n%s", diff)
	}
}

// What the views say is what the store's own questions say.
func TestViewsAgree(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	now := time.Now().UTC()
	live(t, s, now)
	for sql, want := range map[string]string{
		"SELECT concat(cluster, ' ', state, ' ', version_set, ' ', running['gateway']) AS line FROM v1_states":                                                                                                                        "berlin drifted gateway=4.53.0 sra=3.0.3 4.53.0",
		"SELECT concat(state, ' ', toString(isNull(ended_at)), ' ', toString(round(seconds / 3600))) AS line FROM v1_periods ORDER BY began_at":                                                                                       "stepping 0 24, overdue 0 24, drifted 1 2",
		"SELECT concat(edge_from, ' ', toString(round(sum(inside_seconds))), ' ', toString(round(sum(outside_seconds)))) AS line FROM v1_mixed_time_daily GROUP BY edge_from":                                                         "gateway=4.52.0 sra=3.0.3 86400 86400",
		"SELECT concat(line, ' ', version, ' ', toString(clusters), ' ', toString(mixed)) AS line FROM v1_version_adoption_daily AS a WHERE day = toDate(now('UTC')) ORDER BY a.line":                                                 "gateway 4.53.0 1 0, sra 3.0.3 1 0",
		"SELECT concat(toString(sum(whole_sessions)), ' ', toString(sum(whole_failed)), ' ', toString(sum(inside_failed)), ' ', toString(sum(outside_sessions)), ' ', toString(sum(outside_failed))) AS line FROM v1_sessions_hourly": "2 1 1 1 0",
		"SELECT concat(instance_id, ' ', running_version) AS line FROM v1_instances ORDER BY instance_id":                                                                                                                             "i1 4.53.0, i2 4.53.0",
	} {
		if got := strings.Join(names(t, s, sql), ", "); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", sql, got, want)
		}
	}
	// A day's sum of the view is a day's of MixedTime.
	day := now.Truncate(24*time.Hour).AddDate(0, 0, -1)
	mixed, err := s.MixedTime(limited(t, time.Minute), fleet.DefaultTenant, codec.Span{From: day, To: day.AddDate(0, 0, 1)}, codec.ByAll, now)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, s, fmt.Sprintf("SELECT toString(round(sum(inside_seconds + outside_seconds), 3)) AS line FROM v1_mixed_time_daily WHERE day = '%s'", day.Format(time.DateOnly))),
		fmt.Sprint((mixed[0].Inside + mixed[0].Outside).Seconds()); got[0] != want {
		t.Errorf("the view has %s seconds of the day, the store %s", got[0], want)
	}
}
