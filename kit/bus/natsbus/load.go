package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

const (
	// portion is how many messages are asked for at once, portionBytes how much of
	// them. What comes waits in memory.
	portion      = 1000
	portionBytes = 8 << 20
	// many is from how many messages on a consumer of their own pays: it takes
	// several times as long to begin with and a fraction for each message.
	many = 4 * portion
	// lagging is how long a replica that has not all yet is left alone.
	lagging = 10 * time.Millisecond
)

// Load calls fn with every message of a stream whose subject matches, oldest
// first, and returns when all that was there when it began was given.
func (b *Bus) Load(ctx context.Context, stream, subject string, fn func(bus.Message) error) error {
	return b.LoadAfter(ctx, stream, subject, 0, fn)
}

// LoadAfter is Load for the messages after a sequence, such as a snapshot's
// revision.
func (b *Bus) LoadAfter(ctx context.Context, stream, subject string, after uint64, fn func(bus.Message) error) error {
	l := &loading{Bus: b, stream: stream, subject: subject, after: after, fn: fn}
	for {
		// The leader alone is sure to have what was acknowledged. Any replica may give
		// the messages; one that is behind is asked again.
		last, err := b.last(ctx, stream, subject)
		if errors.Is(err, bus.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for given := true; given && l.after < last.Sequence; {
			if given, err = l.some(ctx, last.Sequence); err != nil {
				return err
			}
		}
		if l.after >= last.Sequence {
			return nil
		}
		// The last message was deleted meanwhile, or has not come to the replica yet.
		if !pause(ctx, lagging) {
			return fmt.Errorf("reading %s from %d: %w", subject, l.after+1, ctx.Err())
		}
	}
}

// loading is one run through the messages of a subject.
type loading struct {
	*Bus
	stream, subject string
	after           uint64 // the last sequence given to fn
	fn              func(bus.Message) error
}

func (l *loading) give(m bus.Message) error {
	if err := l.fn(m); err != nil {
		return err
	}
	l.after = m.Sequence
	return nil
}

// some gives a portion of what is there, or the rest when that is much, and
// reports whether there was anything.
func (l *loading) some(ctx context.Context, end uint64) (bool, error) {
	before := l.after
	left, err := l.portion(ctx)
	if err == nil && left > many {
		err = l.rest(ctx, end)
	}
	return l.after > before, err
}

// portion asks any replica for the next messages and returns how many are left.
func (l *loading) portion(ctx context.Context) (left uint64, err error) {
	left, err = l.ask(ctx)
	var stopped callerError
	if errors.As(err, &stopped) {
		return 0, stopped.error
	}
	if err != nil {
		return 0, explain(ctx, err, "reading %s of stream %s from %d", l.subject, l.stream, l.after+1)
	}
	return left, nil
}

// callerError is an error of the caller's own function.
type callerError struct{ error }

func (l *loading) ask(ctx context.Context) (left uint64, err error) {
	request := struct {
		Sequence uint64 `json:"seq"`
		Subject  string `json:"next_by_subj"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}{l.after + 1, l.subject, portion, portionBytes}
	before := "0"
	err = l.direct(ctx, l.stream, request, func(answer *nats.Msg) (done bool, err error) {
		sequence := told(answer, jetstream.SequenceHeader)
		if sequence == "" {
			left, err = remaining(answer)
			return true, err
		}
		if told(answer, "Nats-Last-Sequence") != before {
			// The one before was lost on the way: it is asked for again.
			return true, nil
		}
		m, err := fetched(answer)
		if err != nil {
			return true, err
		}
		if err := l.give(m); err != nil {
			return true, callerError{err}
		}
		before = sequence
		return false, nil
	})
	return left, err
}

// direct asks any replica of a stream for no more than a portion of messages, and
// calls fn with one answer after another until it is done.
func (b *Bus) direct(ctx context.Context, stream string, request any, fn func(*nats.Msg) (done bool, err error)) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	answers := make(chan *nats.Msg, portion+1)
	inbox := b.conn.NewInbox()
	sub, err := b.conn.ChanSubscribe(inbox, answers)
	if err != nil {
		return err
	}
	defer func() {
		if err := sub.Unsubscribe(); err != nil {
			b.log.Debug("ending a read", "stream", stream, "error", err)
		}
	}()
	if err := b.conn.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, data); err != nil {
		return err
	}
	patience := b.js.Options().DefaultTimeout
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case answer := <-answers:
			if done, err := fn(answer); done || err != nil {
				return err
			}
			// The time that fn took is not the server's.
			late.Reset(patience)
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return nats.ErrTimeout
		}
	}
}

// told returns what the server says in a header. It speaks last: a sender may
// have used the same word.
func told(answer *nats.Msg, key string) string {
	values := answer.Header[key]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// remaining reads the answer that is no message but ends them.
func remaining(answer *nats.Msg) (left uint64, err error) {
	switch status := told(answer, "Status"); status {
	case "204":
		if left, err = strconv.ParseUint(told(answer, "Nats-Num-Pending"), 10, 64); err != nil {
			return 0, fmt.Errorf("the end of the answer: %w", err)
		}
		return left, nil
	case "404":
		return 0, nil
	case "503":
		return 0, nats.ErrNoResponders
	default:
		return 0, fmt.Errorf("the server answers %q %s", status, told(answer, "Description"))
	}
}

// fetched reads a message out of an answer.
func fetched(answer *nats.Msg) (bus.Message, error) {
	sequence, err := strconv.ParseUint(told(answer, jetstream.SequenceHeader), 10, 64)
	if err != nil {
		return bus.Message{}, fmt.Errorf("the sequence of an answer: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, told(answer, jetstream.TimeStampHeaer))
	if err != nil {
		return bus.Message{}, fmt.Errorf("the time of message %d: %w", sequence, err)
	}
	return incoming(told(answer, jetstream.SubjectHeader), answer.Header, answer.Data, sequence, at), nil
}

// errEnough ends a tail that has given what it was there for.
var errEnough = errors.New("enough was read")

// rest gives what comes up to an end over a consumer. It may stop before.
func (l *loading) rest(ctx context.Context, end uint64) error {
	err := l.tail(ctx, &reading{stream: l.stream, filters: []string{l.subject}, after: l.after}, func(m *nats.Msg, meta *nats.MsgMetadata) error {
		if err := l.give(received(m, meta)); err != nil {
			return err
		}
		if l.after >= end || meta.NumPending == 0 {
			return errEnough
		}
		return nil
	}, func() error { return errEnough })
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// last returns the newest message of a subject, which may have wildcards, as the
// stream's leader knows it. ErrNotFound when there is none.
func (b *Bus) last(ctx context.Context, stream, subject string) (bus.Message, error) {
	return b.get(ctx, stream, subject, struct {
		Subject string `json:"last_by_subj"`
	}{subject})
}

// get asks a stream's leader for one message.
func (b *Bus) get(ctx context.Context, stream, what string, request any) (bus.Message, error) {
	m, _, err := b.askLeader(ctx, stream, request)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return bus.Message{}, fmt.Errorf("%s in stream %s: %w", what, stream, bus.ErrNotFound)
	}
	if err != nil {
		return bus.Message{}, explain(ctx, err, "reading %s of stream %s", what, stream)
	}
	return m, nil
}

func (b *Bus) askLeader(ctx context.Context, stream string, request any) (bus.Message, nats.Header, error) {
	data, err := json.Marshal(request)
	if err != nil {
		return bus.Message{}, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.js.Options().DefaultTimeout)
	defer cancel()
	answer, err := b.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, data)
	if err != nil {
		return bus.Message{}, nil, err
	}
	var got struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     []byte    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return bus.Message{}, nil, fmt.Errorf("the server's answer: %w", err)
	}
	if got.Error != nil {
		return bus.Message{}, nil, got.Error
	}
	var header nats.Header
	if len(got.Message.Header) > 0 {
		if header, err = nats.DecodeHeadersMsg(got.Message.Header); err != nil {
			return bus.Message{}, nil, fmt.Errorf("the header of message %d: %w", got.Message.Sequence, err)
		}
	}
	return incoming(got.Message.Subject, header, got.Message.Data, got.Message.Sequence, got.Message.Time), header, nil
}
