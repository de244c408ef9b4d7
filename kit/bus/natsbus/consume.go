package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// defaultAckWait is the server's own.
const defaultAckWait = 30 * time.Second

// Consume hands messages to the handler one after another until ctx ends; then
// it returns nil. It outlasts a bus that is away for a while and makes a position
// that was deleted anew, from the oldest message kept. The error is that the
// position cannot be made at all, or that Close was called.
func (b *Bus) Consume(ctx context.Context, c bus.Consumer, handle bus.Handler) error {
	cons, err := b.consumer(ctx, c)
	for try := 1; err == nil; {
		var worked bool
		if worked, err = b.pull(ctx, c, cons, handle); worked {
			try = 1
		}
		for ; err != nil && ctx.Err() == nil && !final(err); try++ {
			delay := backoff(try)
			b.log.Warn("the bus does not answer a consumer; asking it again", "consumer", c.Durable, "again_in", delay, "error", err)
			// Not at once: a server that says that it deletes a position may not have, and
			// would give the new one the old one's place.
			pause(ctx, delay)
			cons, err = b.consumer(ctx, c)
		}
	}
	if ctx.Err() != nil {
		return nil //nolint:nilerr // being asked to stop is no error
	}
	return err
}

func (b *Bus) consumer(ctx context.Context, c bus.Consumer) (jetstream.Consumer, error) {
	config := jetstream.ConsumerConfig{
		Durable:        c.Durable,
		FilterSubjects: c.Filters,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        c.AckWait,
		// One at a time keeps the order of the stream over repeats and restarts,
		// and nothing waits in this process while its AckWait runs.
		MaxAckPending: 1,
		MaxDeliver:    -1,
	}
	if !c.Since.IsZero() {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &c.Since
		existing, err := b.js.Consumer(ctx, c.Stream, c.Durable)
		switch {
		case err == nil:
			// Where a position began cannot be changed and does not matter any more.
			config.DeliverPolicy, config.OptStartTime = existing.CachedInfo().Config.DeliverPolicy, existing.CachedInfo().Config.OptStartTime
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return nil, explain(ctx, err, "looking for consumer %s of %s", c.Durable, c.Stream)
		}
	}
	cons, err := b.js.CreateOrUpdateConsumer(ctx, c.Stream, config)
	if err != nil {
		return nil, explain(ctx, err, "creating consumer %s of %s", c.Durable, c.Stream)
	}
	return cons, nil
}

// pull hands on messages until something is in the way, and reports whether there
// were any. It asks for one, and for none while the handler works, so that what is
// handed back at the end cannot go to a pull that has gone.
func (b *Bus) pull(ctx context.Context, c bus.Consumer, cons jetstream.Consumer, handle bus.Handler) (worked bool, err error) {
	p, err := b.newPuller(c.Stream, cons, 1, 0)
	if err != nil {
		return false, explain(ctx, err, "pulling messages of consumer %s of %s", c.Durable, c.Stream)
	}
	defer p.handBack()
	at := b.attend(c)
	defer at.stop()
	for {
		m, meta, err := p.next(ctx)
		if err != nil {
			return worked, explain(ctx, err, "pulling messages of consumer %s of %s", c.Durable, c.Stream)
		}
		answer := []byte("-NAK")
		if ctx.Err() == nil {
			at.inHand.Store(&m.Reply)
			answer = b.handle(ctx, c, m, bus.Delivery{Message: received(m, meta)}, handle)
			at.inHand.Store(nil)
		}
		// An answer that gets lost is only logged: AckWait answers in its place and
		// every handler bears a repeat.
		if err := b.conn.Publish(m.Reply, answer); err != nil {
			b.log.Debug("answering a delivery", "consumer", c.Durable, "sequence", meta.Sequence.Stream, "error", err)
		}
		worked = true
	}
}

// handle runs the handler in a span that follows from the message, and returns how
// to answer the server.
func (b *Bus) handle(ctx context.Context, c bus.Consumer, m *nats.Msg, d bus.Delivery, handle bus.Handler) []byte {
	inHand := w3c.Extract(caused(ctx, c.Stream, d.Sequence), carrier(m.Header))
	inHand, span := b.processing(inHand, c, semconv.MessagingMessageID(origin(c.Stream, d.Sequence)))
	began := time.Now()
	err := handle(inHand, d)
	b.processed(inHand, span, c, began, err)
	switch {
	case err == nil:
		b.answered(ctx, c, handledOK, 1)
		return []byte("+ACK")
	case ctx.Err() != nil:
		// Stopping: the message comes again after the restart, without delay.
		return []byte("-NAK")
	case b.giveUp(inHand, c, d, err):
		return []byte("+TERM given up")
	}
	return fmt.Appendf(nil, `-NAK {"delay": %d}`, b.retry(ctx, c, d, d.Deliveries, err).Nanoseconds())
}

// attendant keeps the server from delivering a message again while a handler works
// on it.
type attendant struct {
	inHand atomic.Pointer[string] // where the server hears of it
	stop   func()
}

func (b *Bus) attend(c bus.Consumer) *attendant {
	done := make(chan struct{})
	a := &attendant{stop: func() { close(done) }}
	go func() {
		ticker := time.NewTicker(cmp.Or(c.AckWait, defaultAckWait) / 3)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			if reply := a.inHand.Load(); reply != nil {
				if err := b.conn.Publish(*reply, []byte("+WPI")); err != nil {
					b.log.Debug("reporting progress", "consumer", c.Durable, "error", err)
				}
			}
		}
	}()
	return a
}

// retry says that a message comes again, and after what time.
func (b *Bus) retry(ctx context.Context, c bus.Consumer, d bus.Delivery, try int, err error) time.Duration {
	delay := backoff(try)
	b.answered(ctx, c, handledRetried, 1)
	b.about(c, d).Warn("handling a message failed; it comes again", "retry_in", delay, "error", err)
	return delay
}

// DeleteConsumer forgets a durable position, of Consume and of ConsumeBatch; the
// next of either starts from the oldest message kept.
func (b *Bus) DeleteConsumer(ctx context.Context, stream, durable string) error {
	if err := b.js.DeleteConsumer(ctx, stream, durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return explain(ctx, err, "deleting consumer %s of %s", durable, stream)
	}
	if err := b.DeleteKey(ctx, bus.Positions, positionKey(stream, durable)); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	return nil
}
