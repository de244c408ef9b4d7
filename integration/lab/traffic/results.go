package traffic

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Tally counts sessions.
type Tally struct {
	Completed int
	Failed    int
	Skipped   int // never opened for want of room
}

// Plus adds two tallies.
func (t Tally) Plus(o Tally) Tally {
	return Tally{Completed: t.Completed + o.Completed, Failed: t.Failed + o.Failed, Skipped: t.Skipped + o.Skipped}
}

// FailRate is failed over finished sessions, from 0 to 1; 0 when none finished.
func (t Tally) FailRate() float64 {
	finished := t.Completed + t.Failed
	if finished == 0 {
		return 0
	}
	return float64(t.Failed) / float64(finished)
}

// String reads "120 sessions, 3 failed (2.5 %)", skipped ones only if any.
func (t Tally) String() string {
	s := fmt.Sprintf("%d sessions, %d failed (%.1f %%)", t.Completed+t.Failed, t.Failed, 100*t.FailRate())
	if t.Skipped > 0 {
		s += fmt.Sprintf(", %d skipped", t.Skipped)
	}
	return s
}

// results keeps what became of sessions: counts per cluster and second (of the
// sessions' start), the pairs seen, and who waits for sessions to work.
type results struct {
	mu       sync.Mutex
	clusters map[string]*outcome
	pairs    map[[3]string]struct{}
	reasons  map[string]int
	started  int // numbers sessions in the order they began
	waiters  map[*waiter]struct{}
}

type outcome struct {
	seconds map[int64]*Tally
	open    int
}

// waiter waits until every cluster has completed want sessions in a row, of
// those that began after the session numbered since.
type waiter struct {
	since, want int
	row         map[string]int
	failure     string // the latest, for people to read
	done        chan struct{}
	closed      bool
}

func (w *waiter) see(s Session, number int) {
	if number <= w.since || w.closed {
		return
	}
	w.row[s.Cluster]++
	if s.Status == Failed {
		w.row[s.Cluster] = 0
		w.failure = s.Error
	}
	if _, row := w.lagging(); row >= w.want {
		w.closed = true
		close(w.done)
	}
}

// lagging names the cluster with the shortest row.
func (w *waiter) lagging() (cluster string, row int) {
	for name, n := range w.row {
		if cluster == "" || n < row || n == row && name < cluster {
			cluster, row = name, n
		}
	}
	return cluster, row
}

func newResults(clusters []string) *results {
	r := &results{
		clusters: map[string]*outcome{},
		pairs:    map[[3]string]struct{}{},
		reasons:  map[string]int{},
		waiters:  map[*waiter]struct{}{},
	}
	for _, c := range clusters {
		r.clusters[c] = &outcome{seconds: map[int64]*Tally{}}
	}
	return r
}

func (o *outcome) second(t time.Time) *Tally {
	s := o.seconds[t.Unix()]
	if s == nil {
		s = &Tally{}
		o.seconds[t.Unix()] = s
	}
	return s
}

func (r *results) begin(s Session) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pairs[[3]string{s.Cluster, s.User, s.Target}] = struct{}{}
	r.clusters[s.Cluster].open++
	r.started++
	return r.started
}

func (r *results) drop(s Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clusters[s.Cluster].open--
}

func (r *results) skip(cluster string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clusters[cluster].second(time.Now()).Skipped++
}

func (r *results) finish(s Session, number int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.clusters[s.Cluster]
	o.open--
	if s.Status == Failed {
		o.second(s.Start).Failed++
		r.reasons[s.Error]++
	} else {
		o.second(s.Start).Completed++
	}
	for w := range r.waiters {
		w.see(s, number)
	}
}

// Count returns the finished and skipped sessions of a cluster that started in
// [from, to), to the second; an empty cluster means all, a zero time no bound.
func (g *Generator) Count(cluster string, from, to time.Time) Tally {
	r := g.results
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum Tally
	for name, o := range r.clusters {
		if cluster != "" && name != cluster {
			continue
		}
		for second, t := range o.seconds {
			if (from.IsZero() || second >= from.Unix()) && (to.IsZero() || second < to.Unix()) {
				sum = sum.Plus(*t)
			}
		}
	}
	return sum
}

// Pairs returns how many distinct (cluster, user, target) have been used.
func (g *Generator) Pairs() int {
	g.results.mu.Lock()
	defer g.results.mu.Unlock()
	return len(g.results.pairs)
}

// Open returns how many sessions are open now.
func (g *Generator) Open() int {
	g.results.mu.Lock()
	defer g.results.mu.Unlock()
	n := 0
	for _, o := range g.results.clusters {
		n += o.open
	}
	return n
}

// Reasons returns how often each error text was the end of a session.
func (g *Generator) Reasons() map[string]int {
	g.results.mu.Lock()
	defer g.results.mu.Unlock()
	out := make(map[string]int, len(g.results.reasons))
	for text, n := range g.results.reasons {
		out[text] = n
	}
	return out
}

// WaitHealthy returns once every cluster has completed n sessions in a row
// that began after the call, or with an error when ctx ends first. One mistyped
// password starts the row anew, so n should be small beside 100/FailPercent.
func (g *Generator) WaitHealthy(ctx context.Context, n int) error {
	r := g.results
	w := &waiter{want: n, row: map[string]int{}, done: make(chan struct{})}
	r.mu.Lock()
	w.since = r.started
	for name := range r.clusters {
		w.row[name] = 0
	}
	r.waiters[w] = struct{}{}
	r.mu.Unlock()

	var err error
	select {
	case <-w.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiters, w)
	if err != nil {
		cluster, row := w.lagging()
		return fmt.Errorf("wait for %d sessions in a row to work: %s has %d; the latest failure anywhere was %q: %w", n, cluster, row, w.failure, err)
	}
	return nil
}
