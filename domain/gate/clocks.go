package gate

import (
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// clocks is how far the clock that dates sessions is from the one that dates steps, as
// the newest two marks measured it. What began or ended within that of a step's
// boundary may have done so on its other side, and is on neither: a session that is
// dated past the boundary by more than the clocks are apart did begin past it.
//
// Two marks, because what is judged at one was dated since the one before it.
type clocks struct {
	last, before time.Duration
	seq          uint64
}

// take takes in what a mark measured. The marks of one message count as one.
func (c *clocks) take(m fleet.Mark, seq uint64) {
	switch {
	case m.Lost: // nobody measured
	case seq == c.seq:
		c.last = max(c.last, m.Skew.Abs())
	default:
		c.before, c.last, c.seq = c.last, m.Skew.Abs(), seq
	}
}

func (c clocks) apart() time.Duration { return max(c.last, c.before) }

// near says whether something may have happened on the other side of an instant.
func (c clocks) near(at, boundary time.Time) bool {
	apart := c.apart()
	return apart > 0 && at.Sub(boundary).Abs() <= apart
}
