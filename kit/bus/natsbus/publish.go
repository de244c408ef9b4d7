package natsbus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Publish stores a message and returns its sequence. It returns only after the
// server has acknowledged it.
func (b *Bus) Publish(ctx context.Context, m bus.Message) (uint64, error) {
	ack, err := b.publish(ctx, m)
	if err != nil {
		return 0, explain(ctx, err, "publishing %s on %s", m.Type, m.Subject)
	}
	return ack.Sequence, nil
}

// Append stores a message as the next of its subject if the subject's last
// sequence is still the expected one (0: no message yet). ErrConflict otherwise.
func (b *Bus) Append(ctx context.Context, m bus.Message, expected uint64) (uint64, error) {
	ack, err := b.publish(ctx, m, jetstream.WithExpectLastSequencePerSubject(expected))
	if conflict(err) {
		return 0, fmt.Errorf("appending %s on %s after %d: %w", m.Type, m.Subject, expected, bus.ErrConflict)
	}
	if err != nil {
		return 0, explain(ctx, err, "appending %s on %s", m.Type, m.Subject)
	}
	return ack.Sequence, nil
}

func (b *Bus) publish(ctx context.Context, m bus.Message, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	ctx, span := b.publishing(ctx, m)
	defer span.End()
	ack, err := b.js.PublishMsg(ctx, b.outgoing(ctx, m), opts...)
	if err != nil {
		failed(span, err)
		return nil, err
	}
	b.stored(ctx, ack.Stream, 1)
	return ack, nil
}

// batchHeader is more than what a message grows by in a batch.
const batchHeader = 256

// PublishBatch stores messages of one stream all or none, one after another in
// their order with nothing in between, and returns the sequence of the last. It
// returns only after the server has acknowledged them. More than bus.MaxBatch are
// refused. A batch with an ID that is stored already is refused, too: ErrDuplicate.
func (b *Bus) PublishBatch(ctx context.Context, messages []bus.Message) (uint64, error) {
	switch {
	case len(messages) == 0:
		return 0, nil
	case len(messages) > bus.MaxBatch:
		return 0, errs.New(errs.Invalid, "", "publishing a batch: it has %d messages and may have %d; publish it in parts", len(messages), bus.MaxBatch)
	}
	ctx, span := b.publishing(ctx, messages...)
	defer span.End()
	sequence, err := b.publishBatch(ctx, messages)
	failed(span, err)
	return sequence, err
}

func (b *Bus) publishBatch(ctx context.Context, messages []bus.Message) (uint64, error) {
	doing := fmt.Sprintf("publishing a batch of %d from %s on %s", len(messages), messages[0].Type, messages[0].Subject)
	batch := make([]*nats.Msg, len(messages))
	for i, m := range messages {
		batch[i] = b.outgoing(ctx, m)
		// One that is too large is found before any is sent: the server would wait for
		// the rest of the batch.
		if int64(batch[i].Size()+batchHeader) > b.conn.MaxPayload() {
			return 0, explain(ctx, fmt.Errorf("message %d: %w", i+1, nats.ErrMaxPayload), "%s", doing)
		}
	}
	ack, err := jetstreamext.PublishMsgBatch(ctx, b.js, batch)
	if errors.Is(err, jetstreamext.ErrBatchPublishDuplicateMsgID) {
		return 0, fmt.Errorf("%s: %w", doing, bus.ErrDuplicate)
	}
	if err != nil {
		return 0, explain(ctx, err, "%s", doing)
	}
	b.stored(ctx, ack.Stream, len(messages))
	return ack.Sequence, nil
}
