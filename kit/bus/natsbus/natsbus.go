// Package natsbus is the bus on NATS JetStream. It is the one importer of
// nats.go; nothing above it sees a NATS type.
package natsbus

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// Header keys of every message.
const (
	headerType   = "Lockstep-Type"
	headerReason = "Lockstep-Reason"
	headerOrigin = "Lockstep-Origin"
)

// Bus speaks to one JetStream account over one connection.
type Bus struct {
	conn *nats.Conn
	js   jetstream.JetStream
	log  *slog.Logger
}

// Options say how to reach the servers.
type Options struct {
	// URL of the servers; ignored when InProcess is set.
	URL string
	// InProcess connects to an embedded server without a socket.
	InProcess nats.InProcessConnProvider
	Name      string
	Log       *slog.Logger
}

// Open connects. A server that cannot be reached is an error at once; later
// losses are mended in the background.
func Open(opts Options) (*Bus, error) {
	options := []nats.Option{
		nats.Name(opts.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			opts.Log.Warn("bus reported an error", "error", err)
		}),
	}
	if opts.InProcess != nil {
		options = append(options, nats.InProcessServer(opts.InProcess))
	}
	conn, err := nats.Connect(opts.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the bus at %q: %w", opts.URL, err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	return &Bus{conn: conn, js: js, log: opts.Log}, nil
}

// Close ends the connection. Messages in flight are flushed.
func (b *Bus) Close() {
	if err := b.conn.FlushTimeout(time.Second); err != nil {
		b.log.Debug("flushing the bus connection", "error", err)
	}
	b.conn.Close()
}

// Connected reports whether the connection is up now.
func (b *Bus) Connected() bool { return b.conn.IsConnected() }

// Ensure creates or updates streams and buckets. Only their one owner calls it.
func (b *Bus) Ensure(ctx context.Context, streams []bus.Stream, keyValues, blobs []bus.Bucket) error {
	for _, s := range streams {
		_, err := b.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
			Name:        s.Name,
			Subjects:    s.Subjects,
			Storage:     jetstream.FileStorage,
			Retention:   jetstream.LimitsPolicy,
			Discard:     jetstream.DiscardOld,
			MaxAge:      s.MaxAge,
			MaxBytes:    s.MaxBytes,
			Duplicates:  min(2*time.Minute, cmpAge(s.MaxAge)),
			AllowDirect: true,
		})
		if err != nil {
			return fmt.Errorf("creating stream %s: %w", s.Name, err)
		}
	}
	for _, kv := range keyValues {
		if _, err := b.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: kv.Name, Storage: jetstream.FileStorage}); err != nil {
			return fmt.Errorf("creating bucket %s: %w", kv.Name, err)
		}
	}
	for _, o := range blobs {
		if _, err := b.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: o.Name, Storage: jetstream.FileStorage}); err != nil {
			return fmt.Errorf("creating blob bucket %s: %w", o.Name, err)
		}
	}
	return nil
}

// cmpAge keeps the deduplication window within a stream's age limit.
func cmpAge(age time.Duration) time.Duration {
	if age == 0 {
		return 2 * time.Minute
	}
	return age
}

// Publish stores a message and returns its sequence. It returns only after the
// server has acknowledged it.
func (b *Bus) Publish(ctx context.Context, m bus.Message) (uint64, error) {
	var opts []jetstream.PublishOpt
	if m.ID != "" {
		opts = append(opts, jetstream.WithMsgID(m.ID))
	}
	ack, err := b.js.PublishMsg(ctx, toNATS(m), opts...)
	if err != nil {
		return 0, fmt.Errorf("publishing %s on %s: %w", m.Type, m.Subject, err)
	}
	return ack.Sequence, nil
}

// Append stores a message as the next of its subject if the subject's last
// sequence is still the expected one (0: no message yet). ErrConflict otherwise.
func (b *Bus) Append(ctx context.Context, m bus.Message, expected uint64) (uint64, error) {
	ack, err := b.js.PublishMsg(ctx, toNATS(m), jetstream.WithExpectLastSequencePerSubject(expected))
	if err != nil {
		var api *jetstream.APIError
		// 10071 is the single server's code for a lost compare-and-set, 10164 the
		// replicated stream's.
		if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == 10164) {
			return 0, fmt.Errorf("appending %s on %s after %d: %w", m.Type, m.Subject, expected, bus.ErrConflict)
		}
		return 0, fmt.Errorf("appending %s on %s: %w", m.Type, m.Subject, err)
	}
	return ack.Sequence, nil
}

// Load calls fn with every message of a stream whose subject matches, oldest
// first, and returns when the end is reached.
func (b *Bus) Load(ctx context.Context, stream, subject string, fn func(bus.Message) error) error {
	s, err := b.js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("opening stream %s: %w", stream, err)
	}
	for next := uint64(1); ; {
		raw, err := s.GetMsg(ctx, next, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s from %d: %w", subject, next, err)
		}
		if err := fn(bus.Message{
			Subject: raw.Subject, Type: raw.Header.Get(headerType), Data: raw.Data,
			Sequence: raw.Sequence, Time: raw.Time,
		}); err != nil {
			return err
		}
		next = raw.Sequence + 1
	}
}

// heartbeat is how often the server says that it still knows of a pull. Two
// missing ones begin a new pull: the server restarted, or the position is gone.
const heartbeat = 2 * time.Second

// Consume hands messages to the handler one after another until ctx ends; then
// it returns nil. It outlasts a bus that is away for a while and makes a position
// that was deleted anew, from the oldest message kept. The error is that the
// position cannot be made at all, or that Close was called.
func (b *Bus) Consume(ctx context.Context, c bus.Consumer, handle bus.Handler) error {
	cons, err := b.consumer(ctx, c)
	for err == nil {
		err = b.pull(ctx, c, cons, handle)
		for try := 1; ctx.Err() == nil && !errors.Is(err, jetstream.ErrConnectionClosed); try++ {
			b.log.Warn("the bus does not answer a consumer; asking it again", "consumer", c.Durable, "error", err)
			if cons, err = b.consumer(ctx, c); err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(backoff(try)):
			}
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
			return nil, fmt.Errorf("looking for consumer %s of %s: %w", c.Durable, c.Stream, err)
		}
	}
	cons, err := b.js.CreateOrUpdateConsumer(ctx, c.Stream, config)
	if err != nil {
		return nil, fmt.Errorf("creating consumer %s of %s: %w", c.Durable, c.Stream, err)
	}
	return cons, nil
}

// pull hands on messages until something is in the way.
func (b *Bus) pull(ctx context.Context, c bus.Consumer, cons jetstream.Consumer, handle bus.Handler) error {
	// A pull asks for one message and there is none while the handler works, so
	// that what is handed back at the end cannot go to a pull that has gone.
	messages, err := cons.Messages(jetstream.PullMaxMessages(1), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return fmt.Errorf("pulling messages of consumer %s of %s: %w", c.Durable, c.Stream, err)
	}
	defer b.handBack(c, messages)
	for {
		raw, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("pulling messages of consumer %s of %s: %w", c.Durable, c.Stream, err)
		}
		b.deliver(ctx, c, raw, handle)
	}
}

// handBack ends a pull. A message that is under way meanwhile is refused, or the
// next consumer would wait for it for AckWait.
func (b *Bus) handBack(c bus.Consumer, messages jetstream.MessagesContext) {
	defer messages.Stop()
	messages.Drain()
	for {
		raw, err := messages.Next(jetstream.NextMaxWait(heartbeat))
		if err != nil {
			return
		}
		if err := raw.Nak(); err != nil {
			b.log.Debug("handing a message back", "consumer", c.Durable, "error", err)
		}
	}
}

// deliver runs the handler and answers the server. An answer that gets lost is
// only logged: AckWait answers in its place and every handler bears a repeat.
func (b *Bus) deliver(ctx context.Context, c bus.Consumer, raw jetstream.Msg, handle bus.Handler) {
	d := bus.Delivery{Message: bus.Message{
		Subject: raw.Subject(), Type: raw.Headers().Get(headerType), Data: raw.Data(), Deliveries: 1,
	}}
	if meta, err := raw.Metadata(); err == nil {
		d.Sequence, d.Time, d.Deliveries = meta.Sequence.Stream, meta.Timestamp, int(meta.NumDelivered)
	}
	answer := raw.Ack
	if ctx.Err() != nil {
		answer = raw.Nak
	} else if err := b.attended(c, raw, func() error { return handle(ctx, d) }); err != nil {
		answer = b.refusal(ctx, c, raw, d, err)
	}
	if err := answer(); err != nil {
		b.log.Debug("answering a delivery", "consumer", c.Durable, "sequence", d.Sequence, "error", err)
	}
}

// attended runs fn and keeps the server from delivering the message again
// meanwhile.
func (b *Bus) attended(c bus.Consumer, raw jetstream.Msg, fn func() error) error {
	done := make(chan struct{})
	defer close(done)
	go func() {
		ticker := time.NewTicker(cmp.Or(c.AckWait, 30*time.Second) / 3)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				if err := raw.InProgress(); err != nil {
					b.log.Debug("reporting progress", "consumer", c.Durable, "error", err)
				}
			}
		}
	}()
	return fn()
}

// refusal returns how to answer a message that the handler did not take.
func (b *Bus) refusal(ctx context.Context, c bus.Consumer, raw jetstream.Msg, d bus.Delivery, err error) func() error {
	if ctx.Err() != nil {
		// Stopping: the message comes again after the restart, without delay.
		return raw.Nak
	}
	delay := backoff(d.Deliveries)
	log := b.log.With("consumer", c.Durable, "subject", d.Subject, "sequence", d.Sequence, "deliveries", d.Deliveries)
	if !bus.IsPermanent(err) {
		log.Warn("handling a message failed; it comes again", "retry_in", delay, "error", err)
		return func() error { return raw.NakWithDelay(delay) }
	}
	log.Error("giving up a message", "dead_letter", c.DeadLetter, "error", err)
	letter := toNATS(bus.Message{Subject: c.DeadLetter, Type: d.Type, Data: d.Data})
	origin := fmt.Sprintf("%s/%d", c.Stream, d.Sequence)
	letter.Header.Set(headerReason, err.Error())
	letter.Header.Set(headerOrigin, origin)
	if _, err := b.js.PublishMsg(ctx, letter, jetstream.WithMsgID(c.Durable+"/"+origin)); err != nil {
		log.Error("writing a dead letter failed; the message comes again", "dead_letter", c.DeadLetter, "retry_in", delay, "error", err)
		return func() error { return raw.NakWithDelay(delay) }
	}
	return func() error { return raw.TermWithReason("given up") }
}

// backoff grows from a quarter second to half a minute.
func backoff(deliveries int) time.Duration {
	d := 250 * time.Millisecond
	for range min(max(deliveries-1, 0), 7) {
		d *= 2
	}
	return min(d, 30*time.Second)
}

// DeleteConsumer forgets a durable position; the next Consume starts from the
// oldest message kept.
func (b *Bus) DeleteConsumer(ctx context.Context, stream, durable string) error {
	if err := b.js.DeleteConsumer(ctx, stream, durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("deleting consumer %s of %s: %w", durable, stream, err)
	}
	return nil
}

// blobLimit bounds how long reading a blob may take: a damaged one never ends.
const blobLimit = 5 * time.Second

// PutBlob stores data under its SHA-256 and returns that name. Storing the same
// data again changes nothing, or mends what was damaged.
func (b *Bus) PutBlob(ctx context.Context, bucket string, data []byte) (string, error) {
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	store, err := b.js.ObjectStore(ctx, bucket)
	if err != nil {
		return "", fmt.Errorf("opening blob bucket %s: %w", bucket, err)
	}
	if _, err := b.readBlob(ctx, store, name); err == nil {
		return name, nil
	} else if !errors.Is(err, bus.ErrNotFound) {
		b.log.Warn("storing a blob anew that cannot be read", "bucket", bucket, "error", err)
	}
	if _, err := store.Put(ctx, jetstream.ObjectMeta{Name: name}, bytes.NewReader(data)); err != nil {
		return "", fmt.Errorf("storing blob %s: %w", name, err)
	}
	return name, nil
}

// GetBlob returns the data stored under a name, checked against it. ErrNotFound
// when there is none; any other error when it cannot be read or is damaged.
func (b *Bus) GetBlob(ctx context.Context, bucket, name string) ([]byte, error) {
	store, err := b.js.ObjectStore(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("opening blob bucket %s: %w", bucket, err)
	}
	return b.readBlob(ctx, store, name)
}

func (b *Bus) readBlob(ctx context.Context, store jetstream.ObjectStore, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, blobLimit)
	defer cancel()
	object, err := store.Get(ctx, name)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, fmt.Errorf("blob %s: %w", name, bus.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", name, err)
	}
	data, err := io.ReadAll(object)
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", name, errors.Join(err, object.Close()))
	}
	if err := object.Close(); err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", name, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != name {
		return nil, fmt.Errorf("blob %s does not match its name", name)
	}
	return data, nil
}

// PutKey stores a value.
func (b *Bus) PutKey(ctx context.Context, bucket, key string, value []byte) error {
	kv, err := b.js.KeyValue(ctx, bucket)
	if err != nil {
		return fmt.Errorf("opening bucket %s: %w", bucket, err)
	}
	if _, err := kv.Put(ctx, key, value); err != nil {
		return fmt.Errorf("storing %s in %s: %w", key, bucket, err)
	}
	return nil
}

// GetKey returns the newest value of a key, ErrNotFound when there is none.
func (b *Bus) GetKey(ctx context.Context, bucket, key string) ([]byte, error) {
	kv, err := b.js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", bucket, err)
	}
	entry, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("key %s in %s: %w", key, bucket, bus.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s from %s: %w", key, bucket, err)
	}
	return entry.Value(), nil
}

func toNATS(m bus.Message) *nats.Msg {
	msg := nats.NewMsg(m.Subject)
	msg.Header.Set(headerType, m.Type)
	msg.Data = m.Data
	return msg
}
