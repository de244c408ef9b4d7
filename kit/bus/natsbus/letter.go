package natsbus

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// giveUp keeps a message as a dead letter when its error says that no repeat mends
// it, and reports whether it is there. A letter that cannot be written is none: the
// message comes again.
func (b *Bus) giveUp(ctx context.Context, c bus.Consumer, d bus.Delivery, cause error) bool {
	if !bus.IsPermanent(cause) {
		return false
	}
	log := b.about(c, d)
	log.Error("giving up a message", "dead_letter", c.DeadLetter, "error", cause)
	from := origin(c.Stream, d.Sequence)
	letter := b.outgoing(ctx, bus.Message{Subject: c.DeadLetter, Type: d.Type, ID: c.Durable + "/" + from, Cause: from, Data: d.Data})
	letter.Header.Set(headerReason, cause.Error())
	letter.Header.Set(headerOrigin, from)
	if _, err := b.js.PublishMsg(ctx, letter); err != nil {
		log.Error("writing a dead letter failed; the message comes again", "dead_letter", c.DeadLetter, "error", err)
		return false
	}
	b.answered(ctx, c, handledGivenUp, 1)
	b.letters.Add(ctx, 1, metric.WithAttributes(attribute.String("consumer", c.Durable)))
	return true
}

// about is a log that names a message.
func (b *Bus) about(c bus.Consumer, d bus.Delivery) *slog.Logger {
	return b.log.With("consumer", c.Durable, "subject", d.Subject, "sequence", d.Sequence, "deliveries", d.Deliveries)
}
