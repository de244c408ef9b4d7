package natsbus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

const (
	// ahead is how many messages are asked for before they are wanted, aheadBytes
	// how much of them. Twice that may wait in memory.
	ahead      = 1000
	aheadBytes = 16 << 20
)

// reading is how far a tail has come in a stream.
type reading struct {
	stream  string
	filters []string
	// after is the sequence of the last message that was handed on; it moves.
	after uint64
	// created tells the stream from another of the same name.
	created time.Time
	// since is where to begin as long as after is zero; zero is at the beginning.
	since time.Time
	// new begins behind what the stream holds when it is first looked at.
	new bool
	// ends stops with the last message there is.
	ends bool
}

// errEnd says that a reader which was to end has read all.
var errEnd = errors.New("all is read")

// End returns the sequence of the last message that a stream holds.
func (b *Bus) End(ctx context.Context, stream string) (uint64, error) {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return 0, explain(ctx, err, "looking at stream %s", stream)
	}
	return s.CachedInfo().State.LastSeq, nil
}

// Tail calls fn with the messages of a stream in their order, each once. It ends
// with ctx or with what is there, then it returns nil, with fn's error, or because
// the stream is gone. A bus that is away is waited for.
func (b *Bus) Tail(ctx context.Context, t bus.Tail, fn func(bus.Message) error) error {
	r := &reading{stream: t.Stream, filters: t.Filters, after: t.After, since: t.Since, new: t.New, ends: !t.Follow}
	err := b.tail(ctx, r, func(m *nats.Msg, meta *nats.MsgMetadata) error { return fn(received(m, meta)) }, nil)
	if ctx.Err() != nil || errors.Is(err, errEnd) {
		return nil //nolint:nilerr // being asked to stop is no error
	}
	return err
}

// tail hands on the messages of a stream after a sequence in their order and each
// once, and goes on with what is added until ctx ends or a function returns an
// error, which is its own. It outlasts a bus that is away. onIdle, if any, is
// called while nothing comes.
func (b *Bus) tail(ctx context.Context, r *reading, fn func(*nats.Msg, *nats.MsgMetadata) error, onIdle func() error) error {
	for try := 1; ; try++ {
		before := r.after
		err := b.follow(ctx, r, fn, onIdle)
		var stopped callerError
		switch {
		case errors.As(err, &stopped):
			return stopped.error
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errEnd):
			return errEnd
		case final(err):
			return explain(ctx, err, "following stream %s", r.stream)
		}
		if r.after > before {
			try = 1
		}
		b.log.Warn("reading a stream was interrupted; it goes on", "stream", r.stream, "after", r.after, "error", err)
		if try > 1 {
			pause(ctx, backoff(try-1))
		}
	}
}

// errGap says that a message was lost between the server and here.
var errGap = errors.New("a message was lost on the way")

// follow reads over one consumer that only this reader knows. It is not
// acknowledged and sends nothing twice: where something is missing, the reader
// begins anew behind the last message it has.
func (b *Bus) follow(ctx context.Context, r *reading, fn func(*nats.Msg, *nats.MsgMetadata) error, onIdle func() error) error {
	stream, err := b.js.Stream(ctx, r.stream)
	if err != nil {
		return err
	}
	if moved := r.settle(stream.CachedInfo()); moved {
		b.log.Warn("a stream is shorter than what was read of it; reading goes on from where it is whole", "stream", r.stream, "after", r.after)
	}
	config := jetstream.ConsumerConfig{
		FilterSubjects: r.filters,
		DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:    r.after + 1,
		AckPolicy:      jetstream.AckNonePolicy,
		MemoryStorage:  true,
		Replicas:       1,
		// Longer than a pull, shorter than anybody minds.
		InactiveThreshold: 2 * pullFor,
	}
	if r.after == 0 && !r.since.IsZero() {
		config.DeliverPolicy, config.OptStartSeq, config.OptStartTime = jetstream.DeliverByStartTimePolicy, 0, &r.since
	}
	cons, err := stream.CreateConsumer(ctx, config)
	if err != nil {
		return err
	}
	defer b.forget(ctx, r.stream, cons)
	if r.ends && cons.CachedInfo().NumPending == 0 {
		return errEnd
	}
	// A pull whose limit is below one message's size would never get it.
	p, err := b.newPuller(r.stream, cons, ahead, max(aheadBytes, 2*int(b.conn.MaxPayload())))
	if err != nil {
		return err
	}
	defer p.stop()
	seen := uint64(0)
	p.onBeat = func(sent uint64) error {
		if sent != seen {
			// The last message before a silence leaves no gap behind when it is lost.
			return errGap
		}
		if r.ends {
			// The server counts as to come what it cannot read, a message that has rotted.
			return errEnd
		}
		if onIdle != nil {
			if err := onIdle(); err != nil {
				return callerError{err}
			}
		}
		return nil
	}
	for {
		m, meta, err := p.next(ctx)
		if err != nil {
			return err
		}
		if seen++; meta.Sequence.Consumer != seen {
			return errGap
		}
		if err := fn(m, meta); err != nil {
			return callerError{err}
		}
		r.after = meta.Sequence.Stream
		if r.ends && meta.NumPending == 0 {
			return errEnd
		}
	}
}

// settle places the reader in the stream as it is now. A stream that was made anew
// is read from its beginning; one that lost its end, from there.
func (r *reading) settle(info *jetstream.StreamInfo) (moved bool) {
	if r.new {
		r.new, r.after, r.created = false, info.State.LastSeq, info.Created
		return false
	}
	before := r.after
	switch {
	case !r.created.IsZero() && !r.created.Equal(info.Created):
		r.after = 0
	case r.after > info.State.LastSeq:
		r.after = info.State.LastSeq
	}
	r.created = info.Created
	return r.after != before
}

// forget deletes a reader's consumer. Where that fails, it goes by itself.
func (b *Bus) forget(ctx context.Context, stream string, cons jetstream.Consumer) {
	if !b.conn.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := b.js.DeleteConsumer(ctx, stream, cons.CachedInfo().Name); err != nil {
		b.log.Debug("deleting a reader's consumer", "stream", stream, "error", err)
	}
}

// received reads a message that a consumer brought.
func received(m *nats.Msg, meta *nats.MsgMetadata) bus.Message {
	out := incoming(m.Subject, m.Header, m.Data, meta.Sequence.Stream, meta.Timestamp)
	out.Deliveries = int(meta.NumDelivered)
	return out
}

// pause waits, and reports whether it could until the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// backoff grows from a quarter second to half a minute.
func backoff(tries int) time.Duration {
	d := 250 * time.Millisecond
	for range min(max(tries-1, 0), 7) {
		d *= 2
	}
	return min(d, 30*time.Second)
}
