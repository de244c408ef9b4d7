// Package rtime owns how loops wait: at an interval, for a while, and longer after
// each failure. A wait ends with its context. What is done in between, and what a
// failure is, the loops know.
package rtime

import (
	"context"
	"time"
)

// Every is a series of turns for a range loop, the first at once and one each
// interval from then on, until ctx ends. A turn that takes too long loses those it
// overlaps; they do not pile up.
func Every(ctx context.Context, interval time.Duration) func(turn func() bool) {
	return func(turn func() bool) {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for ctx.Err() == nil && turn() {
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	}
}

// Wait returns nil after d, or ctx's error when that ends first.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
	return ctx.Err()
}

// Backoff is the pauses between attempts: the first, then each twice as long as
// the one before, up to the longest.
type Backoff struct {
	First, Max time.Duration

	next time.Duration
}

// Next returns how long to wait after one more failure.
func (b *Backoff) Next() time.Duration {
	pause := min(max(b.next, b.First), b.Max)
	b.next = 2 * pause
	return pause
}

// Reset begins anew, after a success.
func (b *Backoff) Reset() { b.next = 0 }
