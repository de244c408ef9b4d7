package evaluator

import (
	"context"
	"sync"

	"github.com/lockstep-fleet/lockstep/codec"
)

// commits stores the records of all partitions together: what is handed in while
// an insert is under way goes in with the next one. An insert costs the store the
// same for one row as for a hundred.
type commits struct {
	insert func(ctx context.Context, records []codec.Record) error

	mu      sync.Mutex
	busy    bool
	waiting *commit
}

// commit is one insert to come, of everybody who waits for it. Who came first makes
// it when it is its turn.
type commit struct {
	records []codec.Record
	shared  bool
	turn    chan struct{}
	done    chan struct{}
	err     error
}

// InsertRecords returns once the records are durable. What fails for several
// together is tried for each alone, so that one does not fail for another's sake.
func (c *commits) InsertRecords(ctx context.Context, records []codec.Record) error {
	if len(records) == 0 {
		return nil
	}
	own, first := c.join(records)
	if first {
		<-own.turn
		own.err = c.insert(ctx, own.records)
		close(own.done)
		c.pass()
	}
	<-own.done
	if own.err != nil && own.shared {
		return c.insert(ctx, records)
	}
	return own.err
}

// join takes records into the next insert, and says whether it is the first there.
func (c *commits) join(records []codec.Record) (own *commit, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if own = c.waiting; own != nil {
		own.records, own.shared = append(own.records, records...), true
		return own, false
	}
	own = &commit{records: records[:len(records):len(records)], turn: make(chan struct{}), done: make(chan struct{})}
	if c.busy {
		c.waiting = own
	} else {
		c.busy = true
		close(own.turn)
	}
	return own, true
}

// pass gives the turn to who waits, if anybody does.
func (c *commits) pass() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.busy = false
		return
	}
	close(c.waiting.turn)
	c.waiting = nil
}
