package natsbus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// Header keys of every message. W3C's traceparent comes beside them.
const (
	headerType  = "Lockstep-Type"
	headerTime  = "Lockstep-Time"
	headerCause = "Lockstep-Cause"
)

// Header keys of dead letters.
const (
	headerReason = "Lockstep-Reason"
	headerOrigin = "Lockstep-Origin"
)

// w3c carries traces from message to message.
var w3c = propagation.TraceContext{}

// carrier is a message's header as the propagator sees it. NATS does not change
// the case of keys.
type carrier nats.Header

func (c carrier) Get(key string) string { return nats.Header(c).Get(key) }
func (c carrier) Set(key, value string) { nats.Header(c).Set(key, value) }
func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}

type causeKey struct{}

// caused makes what is published with the returned context follow from a message.
func caused(ctx context.Context, stream string, sequence uint64) context.Context {
	return context.WithValue(ctx, causeKey{}, origin(stream, sequence))
}

// origin names a message in Lockstep-Cause and Lockstep-Origin.
func origin(stream string, sequence uint64) string { return fmt.Sprintf("%s/%d", stream, sequence) }

// outgoing makes a message ready to be sent.
func (b *Bus) outgoing(ctx context.Context, m bus.Message) *nats.Msg {
	msg := nats.NewMsg(m.Subject)
	msg.Data = m.Data
	msg.Header.Set(headerType, m.Type)
	msg.Header.Set(headerTime, b.now().UTC().Format(time.RFC3339Nano))
	cause := m.Cause
	if inHand, ok := ctx.Value(causeKey{}).(string); ok && cause == "" {
		cause = inHand
	}
	if cause != "" {
		msg.Header.Set(headerCause, cause)
	}
	if m.ID != "" {
		msg.Header.Set(jetstream.MsgIDHeader, m.ID)
	}
	w3c.Inject(ctx, carrier(msg.Header))
	return msg
}

// incoming reads what was sent. Other programs may publish, too: what they left out
// stays empty.
func incoming(subject string, header nats.Header, data []byte, sequence uint64, stored time.Time) bus.Message {
	m := bus.Message{
		Subject: subject, Type: header.Get(headerType), ID: header.Get(jetstream.MsgIDHeader), Cause: header.Get(headerCause),
		Data: data, Sequence: sequence, Time: stored,
	}
	if sent, err := time.Parse(time.RFC3339Nano, header.Get(headerTime)); err == nil {
		m.SentAt = sent
	}
	return m
}
