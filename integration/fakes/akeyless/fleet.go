// Package akeyless scripts fleets on top of the fake vendor API: clusters with
// versions, people's sessions with failures that depend on the versions, hours
// in which the API is away. The demo, suites and a person at the keyboard use
// it where real bastions would be too slow or too many.
//
// It owns what happens at the vendor and when. It does not own the wire
// (adapters/akeyless/akeylesstest) and opens no real session (package
// lab/traffic). Its clock is what it is told in Step: a suite runs weeks in
// seconds, and the same seed gives the same sessions.
package akeyless

import (
	"container/heap"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
)

// Vanished is the status of a session that the vendor lost, as Observe is told;
// the vendor itself has no word for it.
const Vanished = "vanished"

// Fleet is a running script. Its methods are safe for concurrent use.
type Fleet struct {
	server *akeylesstest.Server
	script Script

	mu       sync.Mutex
	now      time.Time
	clusters []*cluster
	named    map[string]*cluster
	events   schedule
	order    uint64
	down     bool
	delay    time.Duration
}

// cluster is a cluster at work.
type cluster struct {
	Cluster
	id       int64
	sra      []string // of each bastion
	bastions []string // their ids
	users    []string
	targets  []target
	chance   *rand.Rand
	phase    time.Duration // of its reports
	reported time.Time
	counts   Counts
}

type target struct{ host, address, item string }

// Counts is what became of sessions. Started is the sum of the others.
type Counts struct {
	Started, Open, Failed, Completed, Terminated, Vanished int
}

// New puts a script's clusters into a server at the script's begin. Nothing
// happens until the first step.
func New(server *akeylesstest.Server, script Script) (*Fleet, error) {
	script, err := script.completed()
	if err != nil {
		return nil, err
	}
	f := &Fleet{server: server, script: script, now: script.Begin, named: make(map[string]*cluster, len(script.Clusters))}
	for i, c := range script.Clusters {
		if c.Name == "" || f.named[c.Name] != nil || c.Bastions < 0 || c.Rate < 0 {
			return nil, fmt.Errorf("script a fleet: cluster %q needs a name of its own, and no number of it may be negative", c.Name)
		}
		made := f.cluster(int64(i+1), c)
		f.clusters, f.named[c.Name] = append(f.clusters, made), made
		f.at(made.next(script.Begin), &event{cluster: made})
	}
	server.SetClockSkew(script.ClockSkew)
	f.settle()
	return f, nil
}

func (f *Fleet) cluster(id int64, c Cluster) *cluster {
	name := c.Name[strings.LastIndex(c.Name, "/")+1:]
	orDefault(&c.DisplayName, name)
	orDefault(&c.Bastions, 1)
	orDefault(&c.Rate, f.script.Traffic.Rate)
	hash := fnv.New64a()
	hash.Write([]byte(c.Name))
	made := &cluster{Cluster: c, id: id, chance: rand.New(rand.NewPCG(f.script.Seed, hash.Sum64()))}
	made.phase = time.Duration(made.chance.Int64N(int64(f.script.ReportEvery)))
	for i := range c.Bastions {
		made.bastions = append(made.bastions, fmt.Sprintf("ssh-%s-%d", name, i))
		made.sra = append(made.sra, c.Versions.SRA)
	}
	for i := range f.script.Traffic.Users {
		made.users = append(made.users, fmt.Sprintf("user%03d@example.test", i))
	}
	for i := range f.script.Traffic.Targets {
		made.targets = append(made.targets, target{
			host:    fmt.Sprintf("db%02d.%s.example.test", i, name),
			address: fmt.Sprintf("10.8.%d.%d:22", i/250, i%250+1),
			item:    fmt.Sprintf("/%s/db%02d", name, i),
		})
	}
	return made
}

// next is when the next session starts: gaps of a Poisson process.
func (c *cluster) next(after time.Time) time.Time {
	return after.Add(spread(time.Duration(float64(time.Second)/c.Rate), c.chance.ExpFloat64()))
}

// Now is the time of the last step.
func (f *Fleet) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// Step lets happen all that happens until now, in order of time. A time that
// has passed already changes nothing. The server's clock is its own: give both
// the same.
func (f *Fleet) Step(now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Before(f.now) {
		return nil
	}
	for len(f.events) > 0 && !f.events[0].at.After(now) {
		e := heap.Pop(&f.events).(*event) //nolint:forcetypeassert // the heap holds nothing else
		f.now = e.at
		var err error
		if e.open == nil {
			err = f.start(e)
		} else {
			err = f.move(e)
		}
		if err != nil {
			return fmt.Errorf("step the fake fleet to %s: %w", e.at.Format(time.RFC3339), err)
		}
	}
	f.now = now
	f.settle()
	return nil
}

// Run steps along a clock until ctx ends.
func (f *Fleet) Run(ctx context.Context, every time.Duration, clock func() time.Time) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := f.Step(clock()); err != nil {
				return err
			}
		}
	}
}

// SetVersions upgrades or turns back a whole cluster as of the last step:
// sessions that start from now on fail as its new pair does. Those that are open
// stay as they are.
func (f *Fleet) SetVersions(clusterName string, pair Pair) error {
	return f.change(clusterName, func(c *cluster) error {
		c.Versions = pair
		for i := range c.sra {
			c.sra[i] = pair.SRA
		}
		return nil
	})
}

// SetBastion moves one bastion of a cluster, counted from 0, and leaves the
// cluster mixed. Its own sessions fail as the pair that it makes.
func (f *Fleet) SetBastion(clusterName string, bastion int, sra string) error {
	return f.change(clusterName, func(c *cluster) error {
		if bastion < 0 || bastion >= len(c.sra) {
			return fmt.Errorf("it has %d bastions, and none is number %d", len(c.sra), bastion)
		}
		c.sra[bastion] = sra
		return nil
	})
}

func (f *Fleet) change(clusterName string, change func(*cluster) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.named[clusterName]
	if c == nil {
		return fmt.Errorf("change versions of fake cluster %q: there is no such cluster", clusterName)
	}
	if err := change(c); err != nil {
		return fmt.Errorf("change versions of fake cluster %q: %w", clusterName, err)
	}
	c.reported = f.now // a bastion that starts reports at once
	f.register(c)
	return nil
}

// Counts adds up the sessions of the named clusters, or of all.
func (f *Fleet) Counts(clusterNames ...string) Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	var sum Counts
	add := func(c Counts) {
		sum.Started += c.Started
		sum.Open += c.Open
		sum.Failed += c.Failed
		sum.Completed += c.Completed
		sum.Terminated += c.Terminated
		sum.Vanished += c.Vanished
	}
	for _, name := range clusterNames {
		if c := f.named[name]; c != nil {
			add(c.counts)
		}
	}
	if len(clusterNames) == 0 {
		for _, c := range f.clusters {
			add(c.counts)
		}
	}
	return sum
}

// settle brings what does not come as an event up to the time: reports and the
// state of the API.
func (f *Fleet) settle() {
	since := f.now.Sub(f.script.Begin)
	for _, c := range f.clusters {
		last := f.script.Begin
		if since >= c.phase {
			last = last.Add(c.phase + (since - c.phase).Truncate(f.script.ReportEvery))
		}
		if last.After(c.reported) {
			c.reported = last
			f.register(c)
		}
	}
	var down bool
	var delay time.Duration
	for _, w := range f.script.Outages {
		down = down || w.holds(since)
	}
	for _, w := range f.script.Slow {
		if w.holds(since) {
			delay = max(delay, w.Delay)
		}
	}
	if down != f.down {
		f.down = down
		f.server.SetDown(down)
	}
	if delay != f.delay {
		f.delay = delay
		f.server.SetLatency(delay)
	}
}

func (f *Fleet) register(c *cluster) {
	at := f.stamp(c.reported)
	instances := make([]akeylesstest.Instance, len(c.bastions))
	for i, id := range c.bastions {
		instances[i] = akeylesstest.Instance{ID: id, Version: c.sra[i], LastReport: at, URLs: []string{"https://" + id + ".example.test"}}
	}
	f.server.SetCluster(akeylesstest.Cluster{Name: c.Name, DisplayName: c.DisplayName, LastReport: at, Instances: instances})
}

// stamp is a time as the vendor's clock has it.
func (f *Fleet) stamp(t time.Time) time.Time { return t.Add(f.script.ClockSkew) }
