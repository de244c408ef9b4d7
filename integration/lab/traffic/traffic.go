// Package traffic opens real sessions through the lab's bastions at a steady
// rate, as people would, and reports what became of each.
//
// It owns who connects to what and when, the client side of a session, and the
// counts. It does not own how bastions behave (package node) nor who is told
// of sessions: it reports to a Recorder.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// webEvery: every so-manieth session of a cluster goes through the web bastion.
const webEvery = 4

// Status is where a session stands.
type Status string

// The statuses a session passes through, in order; it ends as one of the last
// three. Terminated means cut short by the generator's end, which says nothing
// about the bastions.
const (
	Connecting Status = "connecting"
	Connected  Status = "connected"
	Failed     Status = "failed"
	Completed  Status = "completed"
	Terminated Status = "terminated"
)

// Path is which bastion carries a session.
type Path string

// Every path.
const (
	SSH Path = "ssh"
	Web Path = "web"
)

// Session is one session in its latest state.
type Session struct {
	ID       string // unique among all runs whose Options.Run differ
	Cluster  string
	Path     Path
	User     string // such as "user07@lab.test"
	Target   string // such as "db03.berlin.lab.test:22"
	Instance string // the bastion's own name; empty when it was never reached
	Status   Status
	Start    time.Time
	End      time.Time // zero until the session is over
	Error    string    // what the user was told; empty unless Failed
}

// Recorder is told of every change of every session, in order per session and
// from several goroutines at once. It should return quickly.
type Recorder interface {
	Report(Session)
}

// Cluster is where one cluster's bastions listen, as host:port.
type Cluster struct {
	Name string
	SSH  string
	Web  string
}

// Options says what traffic to make.
type Options struct {
	Clusters []Cluster
	Recorder Recorder
	// Run begins every session id, so that ids of several runs differ.
	// Which sessions a failing node fails follows from the ids: the same
	// Run and Seed fail the same ones. Empty means "run".
	Run string
	// Seed decides the order of pairs and who mistypes the password.
	Seed uint64
	// Rate is sessions started per second in each cluster; 0 means 5.
	Rate float64
	// Pairs is how many distinct (user, target) pairs take turns in each
	// cluster; 0 means 200.
	Pairs int
	// FailPercent is the share of sessions, 0 to 100, that fail whatever the
	// nodes run, because their user gives a wrong password.
	FailPercent float64
	// Hold is how long a session stays open between its first exchange and
	// its last, give or take half; 0 closes it at once.
	Hold time.Duration
	// Concurrency bounds the open sessions of a cluster; a session that
	// finds no room is skipped and counted. 0 means 64.
	Concurrency int
	Log         *slog.Logger
}

// Generator makes traffic while Run runs.
type Generator struct {
	opts    Options
	log     *slog.Logger
	results *results
}

// New checks the options and returns a generator that has not started.
func New(o Options) (*Generator, error) {
	if len(o.Clusters) == 0 {
		return nil, errors.New("make traffic: no cluster is named")
	}
	if o.Recorder == nil {
		return nil, errors.New("make traffic: there is no recorder to report sessions to")
	}
	if o.Run == "" {
		o.Run = "run"
	}
	if o.Rate == 0 {
		o.Rate = 5
	}
	if o.Pairs == 0 {
		o.Pairs = 200
	}
	if o.Concurrency == 0 {
		o.Concurrency = 64
	}
	if o.Rate < 0 || o.Pairs < 0 || o.Concurrency < 0 || o.Hold < 0 || o.FailPercent < 0 || o.FailPercent > 100 {
		return nil, errors.New("make traffic: rate, pairs, concurrency and hold must not be negative, and the fail percent must be from 0 to 100")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	names := make([]string, len(o.Clusters))
	for i, c := range o.Clusters {
		names[i] = c.Name
	}
	return &Generator{opts: o, log: o.Log, results: newResults(names)}, nil
}

// Run opens sessions until ctx ends, cuts those open short, and returns.
// Sessions cut short are reported as Terminated and are in no count.
func (g *Generator) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, c := range g.opts.Clusters {
		wg.Go(func() { g.runCluster(ctx, c, uint64(i)) })
	}
	wg.Wait()
}

// plan is a session before it starts.
type plan struct {
	session  Session
	mistyped bool
	hold     time.Duration
}

func (g *Generator) runCluster(ctx context.Context, c Cluster, index uint64) {
	var (
		open  = make(chan struct{}, g.opts.Concurrency)
		next  = g.planner(c, index)
		tick  = time.NewTicker(time.Duration(float64(time.Second) / g.opts.Rate))
		wg    sync.WaitGroup
		stuck = false
	)
	defer wg.Wait()
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		select {
		case open <- struct{}{}:
			stuck = false
		default:
			g.results.skip(c.Name)
			if !stuck {
				stuck = true
				g.log.Warn("sessions are skipped: too many are open", "cluster", c.Name, "open", g.opts.Concurrency)
			}
			continue
		}
		p := next()
		wg.Go(func() {
			defer func() { <-open }()
			g.runSession(ctx, c, p)
		})
	}
}

// planner returns what makes the cluster's sessions one after the other: pairs
// take turns in a shuffled order.
func (g *Generator) planner(c Cluster, index uint64) func() plan {
	rng := rand.New(rand.NewPCG(g.opts.Seed, index))
	order := rng.Perm(g.opts.Pairs)
	n := 0
	return func() plan {
		user, target := pair(order[n%len(order)], c.Name)
		p := plan{
			session: Session{
				ID:      fmt.Sprintf("%s-%s-%06d", g.opts.Run, c.Name, n),
				Cluster: c.Name,
				Path:    SSH,
				User:    user,
				Target:  target,
			},
			// Both draws are made every time, so one option does not
			// shift what another decides.
			mistyped: rng.Float64()*100 < g.opts.FailPercent,
			hold:     time.Duration(float64(g.opts.Hold) * (0.5 + rng.Float64())),
		}
		if n%webEvery == webEvery-1 {
			p.session.Path = Web
		}
		n++
		return p
	}
}

// pair is the i-th of a cluster's distinct pairs: ten targets for each user.
func pair(i int, cluster string) (user, target string) {
	return fmt.Sprintf("user%02d@lab.test", i/10), fmt.Sprintf("db%02d.%s.lab.test:22", i%10, cluster)
}

func (g *Generator) runSession(ctx context.Context, c Cluster, p plan) {
	s := p.session
	s.Status, s.Start = Connecting, time.Now()
	began := g.results.begin(s)
	g.opts.Recorder.Report(s)

	link, err := dial(ctx, c, p)
	if link != nil {
		s.Instance = link.instance()
	}
	if err == nil {
		s.Status = Connected
		g.opts.Recorder.Report(s)
		err = use(ctx, link, p.hold)
	}
	if link != nil {
		link.Close()
	}
	s.Status, s.End = Completed, time.Now()
	switch {
	case err != nil && ctx.Err() != nil:
		s.Status = Terminated
	case err != nil:
		s.Status, s.Error = Failed, err.Error()
	}
	g.opts.Recorder.Report(s)
	if s.Status == Terminated {
		g.results.drop(s)
		return
	}
	g.results.finish(s, began)
}

// use keeps a connected session for a while, makes sure that it still works,
// and ends it.
func use(ctx context.Context, l link, hold time.Duration) error {
	if hold > 0 {
		timer := time.NewTimer(hold)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if err := l.exchange("still here"); err != nil {
			return fmt.Errorf("session broke off: %w", err)
		}
	}
	if err := l.end(); err != nil {
		return fmt.Errorf("session did not end well: %w", err)
	}
	return nil
}

// Once opens one session through a cluster's bastion, uses it and ends it: a
// quick look whether sessions work, reported to nobody.
func Once(ctx context.Context, c Cluster, path Path, id string) error {
	user, target := pair(0, c.Name)
	l, err := dial(ctx, c, plan{session: Session{ID: id, Cluster: c.Name, Path: path, User: user, Target: target}})
	if l != nil {
		defer l.Close()
	}
	if err == nil {
		err = use(ctx, l, 0)
	}
	if err != nil {
		return fmt.Errorf("open a session to %s through the %s bastion of %s: %w", target, path, c.Name, err)
	}
	return nil
}
