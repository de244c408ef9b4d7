package gate

import (
	"slices"
	"time"
)

// farBack is how old a baseline trial may be and still be preferred as a
// partner for its hour of day.
const farBack = 28 * 24 * time.Hour

// pool hands out baseline trials as partners, each once, in an order that
// looks at start times alone: first those of the same hour of day (UTC) ± 1,
// oldest first, then any, oldest first.
type pool struct {
	failed []bool    // by entry, in the order of trials
	used   []bool    // likewise
	byHour [24][]int // entries young enough to be preferred, by hour of day
	next   int       // no entry before this one is unused
	left   int
}

// add enters one baseline trial; recent says whether its hour of day counts.
func (p *pool) add(start time.Time, failed, recent bool) {
	if recent {
		h := start.Hour()
		p.byHour[h] = append(p.byHour[h], len(p.failed))
	}
	p.failed = append(p.failed, failed)
	p.used = append(p.used, false)
	p.left++
}

// clone returns a pool of its own with the same trials. What does not change any
// more is shared.
func (p *pool) clone() pool {
	c := *p
	c.failed, c.used = slices.Clip(p.failed), slices.Clone(p.used)
	for h := range c.byHour {
		c.byHour[h] = slices.Clip(p.byHour[h])
	}
	return c
}

// take uses up m partners for a new trial that started in the given hour and
// returns how many of them failed; false, using none, when fewer are left.
func (p *pool) take(m, hour int) (failed int, ok bool) {
	if m < 1 || p.left < m {
		return 0, false
	}
	for range m {
		if p.failed[p.pick(hour)] {
			failed++
		}
	}
	p.left -= m
	return failed, true
}

// pick uses up the next partner. The caller knows that one is left.
func (p *pool) pick(hour int) int {
	best, from := -1, 0
	for _, h := range [...]int{(hour + 23) % 24, hour, (hour + 1) % 24} {
		q := p.byHour[h]
		for len(q) > 0 && p.used[q[0]] {
			q = q[1:]
		}
		p.byHour[h] = q
		if len(q) > 0 && (best < 0 || q[0] < best) {
			best, from = q[0], h
		}
	}
	if best >= 0 {
		p.byHour[from] = p.byHour[from][1:]
		p.used[best] = true
		return best
	}
	for p.used[p.next] {
		p.next++
	}
	p.used[p.next] = true
	return p.next
}
