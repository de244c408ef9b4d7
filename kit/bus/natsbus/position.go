package natsbus

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// position is how far a consumer of batches has come, as its key holds it.
type position struct {
	// Sequence is of the last message that is done with.
	Sequence uint64 `json:"sequence"`
	// Created tells the stream from another of the same name.
	Created time.Time `json:"created"`
	// Holder is who works from here; nobody when empty.
	Holder string `json:"holder,omitempty"`
}

// errLost says that another process holds the position, or may hold it by now.
var errLost = errors.New("the position was lost, or may be by now")

// hold is a position in one process's hands. It ends when it was not written for
// three quarters of AckWait, by the clock of this process. Whoever waits for it
// takes it when it saw no write for all of AckWait, by its own clock: it began to
// watch after the write, so there are never two. A process that did not notice,
// because it was stopped meanwhile, finds its next write refused: every write
// expects the revision of the one before.
type hold struct {
	b       *Bus
	kv      jetstream.KeyValue
	c       bus.Consumer
	holder  string
	ackWait time.Duration
	waited  bool // for another who had it
	end     context.CancelCauseFunc
	expiry  *time.Timer

	mu       sync.Mutex
	at       position
	revision uint64
	written  time.Time
}

// Position returns the sequence of the last message that a consumer of batches is
// done with.
func (b *Bus) Position(ctx context.Context, c bus.Consumer) (uint64, error) {
	at, _, err := b.position(ctx, c)
	return at.Sequence, err
}

func positionKey(stream, durable string) string { return stream + "." + durable }

// claim waits until nobody holds the consumer's position and takes it. Holder must
// be one's own alone. The returned context ends when the position is lost.
func (b *Bus) claim(ctx context.Context, c bus.Consumer, kv jetstream.KeyValue, holder string) (context.Context, *hold, error) {
	ackWait := cmp.Or(c.AckWait, defaultAckWait)
	var seen uint64
	var since time.Time
	var waited bool
	for {
		began := time.Now()
		at, revision, err := b.position(ctx, c)
		if err != nil {
			return nil, nil, err
		}
		if revision != seen || since.IsZero() {
			seen, since = revision, time.Now()
		}
		waited = waited || at.Holder != "" && at.Holder != holder
		if at.Holder == "" || at.Holder == holder || time.Since(since) >= ackWait {
			at.Holder = holder
			written, err := put(ctx, kv, c, at, revision)
			if err == nil {
				held, end := context.WithCancelCause(ctx)
				h := &hold{b: b, kv: kv, c: c, holder: holder, ackWait: ackWait, waited: waited, end: end, at: at, revision: written, written: began}
				h.expiry = time.AfterFunc(h.left(), func() { end(errLost) })
				return held, h, nil
			}
			if !conflict(err) {
				return nil, nil, explain(ctx, err, "taking the position of consumer %s of %s", c.Durable, c.Stream)
			}
			continue
		}
		if !pause(ctx, ackWait/10) {
			return nil, nil, ctx.Err()
		}
	}
}

// position reads where a consumer is, or where it begins when it is new: revision
// 0 then, or the deletion's.
func (b *Bus) position(ctx context.Context, c bus.Consumer) (at position, revision uint64, err error) {
	e, err := b.entry(ctx, bus.Positions, positionKey(c.Stream, c.Durable))
	switch {
	case errors.Is(err, bus.ErrNotFound):
	case err != nil:
		return position{}, 0, err
	case !e.Deleted:
		if err := json.Unmarshal(e.Value, &at); err != nil {
			return position{}, 0, fmt.Errorf("reading the position of consumer %s of %s: %w", c.Durable, c.Stream, err)
		}
		return at, e.Revision, nil
	}
	at, err = b.beginning(ctx, c)
	return at, e.Revision, err
}

// beginning is where a new consumer starts: at the first message not older than
// Since.
func (b *Bus) beginning(ctx context.Context, c bus.Consumer) (position, error) {
	stream, err := b.js.Stream(ctx, c.Stream)
	if err != nil {
		return position{}, explain(ctx, err, "placing consumer %s of %s", c.Durable, c.Stream)
	}
	info := stream.CachedInfo()
	at := position{Created: info.Created}
	if c.Since.IsZero() {
		return at, nil
	}
	first, err := b.get(ctx, c.Stream, "what is not older than "+c.Since.Format(time.RFC3339), struct {
		Since time.Time `json:"start_time"`
	}{c.Since})
	switch {
	case err == nil:
		at.Sequence = first.Sequence - 1
	case errors.Is(err, bus.ErrNotFound):
		// What came after the stream was looked at is new enough.
		at.Sequence = info.State.LastSeq
	default:
		return position{}, err
	}
	return at, nil
}

func put(ctx context.Context, kv jetstream.KeyValue, c bus.Consumer, at position, expected uint64) (uint64, error) {
	value, err := json.Marshal(at)
	if err != nil {
		return 0, err
	}
	return kv.Update(ctx, positionKey(c.Stream, c.Durable), value, expected)
}

// left is how long the hold lasts without another write. Lock must be held, or
// nobody know of the hold yet.
func (h *hold) left() time.Duration { return time.Until(h.written.Add(h.ackWait * 3 / 4)) }

// move writes down that all up to a message is done with. It tries again while the
// bus is away; the error is that the hold has ended.
func (h *hold) move(ctx context.Context, to item) error {
	ctx, cancel := h.lastWords(ctx)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at.Sequence, h.at.Created = to.Sequence, to.created
	for try := 1; ; try++ {
		err := h.write(ctx)
		if err == nil || errors.Is(err, errLost) || ctx.Err() != nil {
			return err
		}
		h.b.log.Warn("writing a position down failed; trying again", "consumer", h.c.Durable, "sequence", to.Sequence, "error", err)
		if !pause(ctx, min(backoff(try), h.ackWait/10)) {
			return ctx.Err()
		}
	}
}

// lastWords gives a context that has ended a moment more, to write down what was
// done before.
func (h *hold) lastWords(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(context.WithoutCancel(ctx), h.ackWait/4)
}

// keep writes the place down again and again until ctx ends, so that others see
// that it is held.
func (h *hold) keep(ctx context.Context) {
	ticker := time.NewTicker(h.ackWait / 10)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		h.mu.Lock()
		if time.Since(h.written) > h.ackWait/5 {
			if err := h.write(ctx); err != nil && ctx.Err() == nil {
				h.b.log.Warn("holding a position failed; trying again", "consumer", h.c.Durable, "error", err)
			}
		}
		h.mu.Unlock()
	}
}

// release lets the next one have the place at once.
func (h *hold) release(ctx context.Context) {
	defer h.expiry.Stop()
	ctx, cancel := h.lastWords(ctx)
	defer cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at.Holder = ""
	if err := h.write(ctx); err != nil {
		h.b.log.Debug("giving a position back", "consumer", h.c.Durable, "error", err)
	}
}

// write stores the place as it is. Lock must be held.
func (h *hold) write(ctx context.Context) error {
	for {
		began := time.Now()
		revision, err := put(ctx, h.kv, h.c, h.at, h.revision)
		if err == nil {
			h.revision, h.written = revision, began
			h.expiry.Reset(h.left())
			return nil
		}
		if !conflict(err) {
			return err
		}
		// An earlier write of this process may have been stored though its
		// acknowledgement was lost. Any other's ends the hold.
		now, revision, err := h.b.position(ctx, h.c)
		if err != nil {
			return err
		}
		if now.Holder != h.holder {
			h.end(errLost)
			return errLost
		}
		h.revision = revision
	}
}
