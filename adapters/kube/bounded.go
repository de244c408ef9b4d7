package kube

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"
)

// maxRequests bounds the requests that are on their way at once, those included
// that nobody waits for any more: a command that never ends would gather them.
const maxRequests = 64

// bounded lets a request end with its context. The library runs the kubeconfig's
// command without one, and a command may wait for somebody to log in.
type bounded struct {
	next    http.RoundTripper
	command string        // of the kubeconfig, empty without one
	room    chan struct{} // holds an entry for each request on its way
}

func newBounded(next http.RoundTripper, provider *api.ExecConfig) *bounded {
	b := &bounded{next: next, room: make(chan struct{}, maxRequests)}
	if provider != nil {
		b.command = provider.Command
	}
	return b
}

// atServer is the key under which a request's context holds whether the request is
// with the server; else the command has it.
type atServer struct{}

// sent notes that a request goes to the server, and the function it returns that
// it is back.
func sent(req *http.Request) (back func()) {
	there, ok := req.Context().Value(atServer{}).(*atomic.Bool)
	if !ok {
		return func() {}
	}
	there.Store(true)
	return func() {
		if req.Context().Err() == nil { // else it was the server that took too long
			there.Store(false)
		}
	}
}

func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, there := req.Context(), new(atomic.Bool)
	select {
	case b.room <- struct{}{}:
	case <-ctx.Done():
		if req.Body != nil {
			_ = req.Body.Close() // nothing of it was read
		}
		return nil, b.late(ctx, there)
	}
	type answer struct {
		resp *http.Response
		err  error
	}
	answered := make(chan answer)
	// The caller may reuse its own after an answer, when this one is still looked at.
	own := req.Clone(context.WithValue(ctx, atServer{}, there))
	go func() { // drain waits for it
		defer func() { <-b.room }()
		resp, err := b.next.RoundTrip(own)
		select {
		case answered <- answer{resp, err}:
		case <-ctx.Done():
			if err == nil {
				_ = resp.Body.Close() // nobody reads it
			}
		}
	}()
	select {
	case a := <-answered:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, b.late(ctx, there)
	}
}

// late is the error of a request whose time is over.
func (b *bounded) late(ctx context.Context, there *atomic.Bool) error {
	if b.command == "" || there.Load() {
		return ctx.Err()
	}
	// The words are those that the library has for a command that fails.
	return fmt.Errorf("getting credentials: the command %s has not ended: %w", b.command, ctx.Err())
}

// drain waits for the requests that are on their way, for so long at most.
func (b *bounded) drain(limit time.Duration) {
	over := time.NewTimer(limit)
	defer over.Stop()
	taken := 0
	defer func() {
		for range taken {
			<-b.room
		}
	}()
	for ; taken < cap(b.room); taken++ {
		select {
		case b.room <- struct{}{}:
		case <-over.C:
			return
		}
	}
}

// WrappedRoundTripper lets the library find what is below.
func (b *bounded) WrappedRoundTripper() http.RoundTripper { return b.next }
