package natsbus

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// defaultBatchBytes bounds a consumer's batches when it does not say.
const defaultBatchBytes = 4 << 20

// ConsumeBatch hands a stream's messages to the handler in batches, as many as
// there are, until ctx ends; then it returns nil. Of several that consume with one
// durable name one works and the others wait for it to go or to fall silent for
// AckWait. A handler whose process can no longer be sure to be that one finds its
// context ended; what it did is handled again elsewhere. It outlasts a bus that is
// away for a while. The error is that the stream or the bucket of positions does
// not exist, or that Close was called.
//
// How far it has come is kept in the bucket bus.Positions, apart from the
// positions of Consume.
func (b *Bus) ConsumeBatch(ctx context.Context, c bus.Consumer, handle bus.BatchHandler) error {
	holder := rand.Text()
	for try := 1; ; try++ {
		worked, err := b.turn(ctx, c, holder, handle)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // being asked to stop is no error
		case final(err):
			return fmt.Errorf("consuming batches as %s of %s: %w", c.Durable, c.Stream, err)
		}
		if worked {
			try = 1
		}
		delay := backoff(try)
		b.log.Warn("consuming batches was interrupted; it goes on", "consumer", c.Durable, "again_in", delay, "error", err)
		pause(ctx, delay)
	}
}

// turn works for as long as this process holds the consumer's position, and
// reports whether it ever did.
func (b *Bus) turn(ctx context.Context, c bus.Consumer, holder string, handle bus.BatchHandler) (worked bool, err error) {
	kv, err := b.js.KeyValue(ctx, bus.Positions)
	if err != nil {
		return false, explain(ctx, err, "opening bucket %s", bus.Positions)
	}
	held, h, err := b.claim(ctx, c, kv, holder)
	if err != nil {
		return false, err
	}
	var running sync.WaitGroup
	defer func() {
		h.end(errLost)
		running.Wait()
		h.release(held)
	}()
	running.Go(func() { h.keep(held) })
	if c.Taken != nil {
		if err := c.Taken(held, bus.Place{After: h.at.Sequence, Waited: h.waited}); err != nil {
			return false, fmt.Errorf("taking over from message %d: %w", h.at.Sequence, err)
		}
	}
	q := &queue{waiting: make(chan []item, 1), most: cmp.Or(c.Batch, bus.DefaultBatch), mostBytes: cmp.Or(c.BatchBytes, defaultBatchBytes)}
	r := &reading{stream: c.Stream, filters: c.Filters, after: h.at.Sequence, created: h.at.Created}
	running.Go(func() {
		h.end(b.tail(held, r, func(m *nats.Msg, meta *nats.MsgMetadata) error {
			d := bus.Delivery{Message: received(m, meta)}
			if c.Seen != nil {
				c.Seen(held, d.Message)
			}
			return q.add(held, item{
				Delivery: d,
				created:  r.created,
				sent:     trace.SpanContextFromContext(w3c.Extract(context.Background(), carrier(m.Header))),
			})
		}, nil))
	})
	for held.Err() == nil {
		select {
		case batch := <-q.waiting:
			b.workOff(held, h, batch, handle)
		case <-held.Done():
		}
	}
	return true, context.Cause(held)
}

// item is a message on its way into a handler.
type item struct {
	bus.Delivery
	created time.Time         // its stream
	sent    trace.SpanContext // where it comes from
}

// queue gathers messages into a batch while the one before is worked off.
type queue struct {
	waiting   chan []item // at most one batch
	most      int
	mostBytes int

	size int  // of the batch that was put there last
	full bool // it takes no more
}

// add puts a message at the end. It waits while two batches are full.
func (q *queue) add(ctx context.Context, m item) error {
	var batch []item
	if !q.full {
		select {
		case batch = <-q.waiting:
		default:
		}
	}
	if batch == nil {
		q.size = 0
	}
	batch = append(batch, m)
	q.size += len(m.Data)
	q.full = len(batch) >= q.most || q.size >= q.mostBytes
	select {
	case q.waiting <- batch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// workOff hands a batch to the handler until nothing is left of it or the hold has
// ended.
func (b *Bus) workOff(ctx context.Context, h *hold, batch []item, handle bus.BatchHandler) {
	try := 1
	for len(batch) > 0 && ctx.Err() == nil {
		done, delay := b.offer(ctx, h.c, batch, try, handle)
		if done > 0 {
			if err := h.move(ctx, batch[done-1]); err != nil {
				return
			}
			batch, try = batch[done:], 1
		}
		if delay > 0 {
			pause(ctx, delay)
			try++
		}
		for i := range batch {
			batch[i].Deliveries++
		}
	}
}

// offer hands over a batch once, whose first message was refused try-1 times. It
// returns how many messages are done with, and how long the next has to wait.
func (b *Bus) offer(ctx context.Context, c bus.Consumer, batch []item, try int, handle bus.BatchHandler) (done int, delay time.Duration) {
	done, err := b.handleBatch(ctx, c, batch, handle)
	b.answered(ctx, c, handledOK, done)
	switch {
	case err == nil || ctx.Err() != nil:
		return done, 0
	case b.giveUp(trace.ContextWithRemoteSpanContext(ctx, batch[done].sent), c, batch[done].Delivery, err):
		return done + 1, 0
	case done > 0:
		try = 1
	}
	return done, b.retry(ctx, c, batch[done].Delivery, try, err)
}

// errTookNone keeps a handler that does nothing from being asked without a pause.
var errTookNone = errors.New("the handler took none of the messages and gave no error")

// handleBatch calls the handler in a span that is linked to all that the messages
// follow from. Where there is an error, there is a message that it is about.
func (b *Bus) handleBatch(ctx context.Context, c bus.Consumer, batch []item, handle bus.BatchHandler) (handled int, err error) {
	deliveries := make([]bus.Delivery, len(batch))
	var links []trace.Link
	for i, m := range batch {
		deliveries[i] = m.Delivery
		if m.sent.IsValid() {
			links = append(links, trace.Link{SpanContext: m.sent})
		}
	}
	ctx, span := b.processing(ctx, c, semconv.MessagingBatchMessageCount(len(batch)), trace.WithLinks(links...))
	began := time.Now()
	handled, err = handle(ctx, deliveries)
	handled = min(max(handled, 0), len(batch))
	if err == nil && handled == 0 {
		err = errTookNone
	}
	if err != nil {
		handled = min(handled, len(batch)-1)
	}
	b.processed(ctx, span, c, began, err)
	return handled, err
}
