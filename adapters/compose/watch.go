package compose

import (
	"context"
	"sync"
	"time"
)

// How long signs of change are gathered: until nothing more comes for quiet, and
// for longest at most, so that a project that keeps changing is read meanwhile.
const (
	quiet   = 300 * time.Millisecond
	longest = 2 * time.Second
)

// Watch follows what happens to the project's containers, across restarts of the
// engine, and tells Changed. It returns nil when ctx ends, and runs once at a time.
func (d *Deployment) Watch(ctx context.Context) error {
	signs := make(chan struct{}, 1)
	var gathering sync.WaitGroup
	gathering.Go(func() { gather(signs, d.changed) })
	defer gathering.Wait()
	defer close(signs)
	return d.engine.docker.Watch(ctx, d.target.Project, func() { tell(signs) })
}

// Changed receives when Watch saw that what runs has changed, or may have while
// nobody looked: it is time to read the inventory. One signal stands for all that
// happened before it is received. It is never closed.
func (d *Deployment) Changed() <-chan struct{} { return d.changed }

// tell leaves a signal, unless one is waiting already.
func tell(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// gather makes one signal of signs that come close together, until in is closed.
func gather(in <-chan struct{}, out chan<- struct{}) {
	for range in {
		last := time.After(longest)
		for more := true; more; {
			select {
			case _, open := <-in:
				if !open {
					return // nobody listens any more
				}
			case <-time.After(quiet):
				more = false
			case <-last:
				more = false
			}
		}
		tell(out)
	}
}
