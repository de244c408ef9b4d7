// Package recordings owns which finished sessions should have a recording, and
// whether it arrived. Sessions are handed in as they are observed; the storage is
// asked for what each left behind until it is there or its window has passed; each
// session comes to one verdict.
//
// A verdict is a check at the session's end, so its identity is the check's name
// and the session, whoever takes it and whenever. Sessions that were judged are
// remembered for twice the lookback of the source that hands them in, so that
// hearing of one again changes nothing. A restart forgets them: the source reads
// its lookback again, and a session comes to a second verdict with the identity of
// the first, which the history keeps. Only a session that ended within its window
// and 15 minutes of now, by the given clock, is taken: what ended longer ago was
// judged before, or is not judged.
//
// The window begins when a session is first heard of, not at the end that the
// source tells: clocks that disagree by less than that shorten no window, and a
// restart begins a new one. While the storage does not answer no window passes: an outage lasts
// from the first poll in which every look-up failed to the next answer, and what a
// window would have lost in it is added. After a day without an answer about it, a
// session is judged unclassified, which tells nothing of its recording.
//
// The package does not own how sessions are read, what a storage is, or what a
// missing recording means for a rollout.
package recordings

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Defaults of Config.
const (
	DefaultWithin     = 5 * time.Minute
	DefaultLookback   = time.Hour
	DefaultMaxPending = 10_000
	DefaultPerPoll    = 200
)

// maxFaults is how many look-ups may fail one after another before a poll gives
// way to the next: a storage that is down must not be asked 200 times.
const maxFaults = 3

// Config is what an operator chooses of one cluster. Zero means the default.
type Config struct {
	Cluster fleet.ClusterID
	// Name is what the check is called.
	Name string
	// Protocols are those whose sessions are recorded; none means rdp.
	Protocols []string
	// Pattern is what the keys of a session's recording begin with, such as
	// "recordings/{session_id}". It holds {session_id} and may hold {cluster},
	// {date} (of the start, UTC, YYYY-MM-DD), {protocol}, {target} and {user}.
	Pattern string
	// Within is how long after its end a session's recording may take.
	Within time.Duration
	// MinDuration: a shorter session may have no recording and is not looked for.
	MinDuration time.Duration
	// Lookback is how far back the source of the sessions begins after a restart.
	Lookback time.Duration
	// MaxPending bounds the sessions that wait; those beyond are counted and told.
	MaxPending int
	// PerPoll bounds the look-ups of one poll.
	PerPoll int
}

// Object is one object of the storage.
type Object struct {
	Key        string
	Size       int64
	ModifiedAt time.Time
}

// Storage finds the objects whose key begins with prefix. Its errors may have a
// method Failure that tells their class.
type Storage interface {
	Find(ctx context.Context, prefix string) ([]Object, error)
}

// Checker looks for the recordings of one cluster. Take may be called at any time,
// Poll by one loop.
type Checker struct {
	storage Storage
	now     func() time.Time

	mu     sync.Mutex
	memory memory
}

// New returns a checker that has heard of no session.
func New(config Config, storage Storage, now func() time.Time) (*Checker, error) {
	m, err := newMemory(config)
	if err != nil {
		return nil, err
	}
	return &Checker{storage: storage, now: now, memory: m}, nil
}

// Take remembers a session that has completed or was terminated and should have a
// recording. Any other, and one it has heard of, changes nothing.
func (c *Checker) Take(s fleet.Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.memory.take(s, c.now())
}

// Poll looks for recordings and returns what it came to: one check of each session
// that is judged, one of the storage when look-ups failed or work again, one when
// sessions were not looked for. A check that was returned is not returned again.
// It fails only when ctx was cancelled before it began.
func (c *Checker) Poll(ctx context.Context) ([]fleet.Check, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("looking for recordings of %s: %w", c.memory.config.Cluster, err)
	}
	began := c.now()
	var checks []fleet.Check
	keep := func(check fleet.Check, judged bool) {
		if judged {
			checks = append(checks, check)
		}
	}
	var tally tally
	for _, look := range locked(c, func() []look { return c.memory.next(began) }) {
		objects, err := c.storage.Find(ctx, look.prefix)
		if err != nil && (errors.Is(ctx.Err(), context.Canceled) || ctx.Err() != nil && tally.answers > 0) {
			break // the caller's time is over, and the storage did not use all of it
		}
		now := c.now()
		c.mu.Lock()
		if err != nil {
			tally.fault(err)
			keep(c.memory.fault(look.session, now))
		} else {
			tally.answer()
			keep(c.memory.answer(look.session, objects, now))
		}
		c.mu.Unlock()
		if tally.running == maxFaults || ctx.Err() != nil {
			break
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	keep(c.memory.close(tally, began, c.now()))
	keep(c.memory.tellSkipped(began))
	return checks, nil
}

func locked[T any](c *Checker, f func() T) T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return f()
}
