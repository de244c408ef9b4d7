package traffic

import (
	"testing"
	"time"
)

func TestWaiterCountsOnlyLaterSessionsInARow(t *testing.T) {
	t.Parallel()
	w := &waiter{since: 2, want: 2, row: map[string]int{"berlin": 0, "tokyo": 0}, done: make(chan struct{})}
	for _, step := range []struct {
		cluster string
		status  Status
		number  int
		done    bool
	}{
		{"berlin", Completed, 1, false},
		{"berlin", Completed, 2, false}, // began before the wait
		{"tokyo", Completed, 4, false},
		{"tokyo", Completed, 5, false},
		{"berlin", Completed, 3, false},
		{"berlin", Failed, 6, false}, // the row starts anew
		{"berlin", Completed, 7, false},
		{"berlin", Completed, 8, true},
		{"berlin", Failed, 9, true}, // decided
	} {
		w.see(Session{Cluster: step.cluster, Status: step.status}, step.number)
		select {
		case <-w.done:
			if !step.done {
				t.Fatalf("done after session %d: %v", step.number, w.row)
			}
		default:
			if step.done {
				t.Fatalf("not done after session %d: %v", step.number, w.row)
			}
		}
	}
}

func TestCountByClusterAndTime(t *testing.T) {
	t.Parallel()
	g := &Generator{results: newResults([]string{"berlin", "tokyo"})}
	start := time.Unix(1000, 0)
	for i := range 6 {
		s := Session{Cluster: "berlin", Start: start.Add(time.Duration(i) * time.Second), Status: Completed}
		if i == 4 {
			s.Status, s.Error = Failed, "lost"
		}
		if i == 5 {
			s.Cluster = "tokyo"
		}
		g.results.finish(s, g.results.begin(s))
	}
	for _, c := range []struct {
		cluster  string
		from, to time.Time
		want     Tally
	}{
		{"", time.Time{}, time.Time{}, Tally{Completed: 5, Failed: 1}},
		{"berlin", time.Time{}, time.Time{}, Tally{Completed: 4, Failed: 1}},
		{"berlin", start.Add(3 * time.Second), time.Time{}, Tally{Completed: 1, Failed: 1}},
		{"berlin", start, start.Add(4 * time.Second), Tally{Completed: 4}},
		{"austin", time.Time{}, time.Time{}, Tally{}},
	} {
		if got := g.Count(c.cluster, c.from, c.to); got != c.want {
			t.Errorf("%q from %v to %v: got %v, want %v", c.cluster, c.from, c.to, got, c.want)
		}
	}
	if got := (Tally{Completed: 3, Failed: 1}).String(); got != "4 sessions, 1 failed (25.0 %)" {
		t.Errorf("a tally reads %q", got)
	}
}
