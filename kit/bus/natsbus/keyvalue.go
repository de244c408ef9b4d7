package natsbus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// PutKey stores a value, whatever was there.
func (b *Bus) PutKey(ctx context.Context, bucket, key string, value []byte) error {
	kv, err := b.bucket(ctx, bucket)
	if err != nil {
		return err
	}
	if _, err := kv.Put(ctx, key, value); err != nil {
		return explain(ctx, err, "storing %s in %s", key, bucket)
	}
	return nil
}

// CreateKey stores the first value of a key and returns its revision, ErrConflict
// when the key exists.
func (b *Bus) CreateKey(ctx context.Context, bucket, key string, value []byte) (uint64, error) {
	kv, err := b.bucket(ctx, bucket)
	if err != nil {
		return 0, err
	}
	revision, err := kv.Create(ctx, key, value)
	return revision, changed(ctx, err, "creating %s in %s", key, bucket)
}

// UpdateKey stores a value if the key's revision is still the expected one, and
// returns the new one. ErrConflict otherwise.
func (b *Bus) UpdateKey(ctx context.Context, bucket, key string, value []byte, expected uint64) (uint64, error) {
	kv, err := b.bucket(ctx, bucket)
	if err != nil {
		return 0, err
	}
	revision, err := kv.Update(ctx, key, value, expected)
	return revision, changed(ctx, err, "updating %s in %s after %d", key, bucket, expected)
}

// DeleteKey takes a key away. One that does not exist is none to take away.
func (b *Bus) DeleteKey(ctx context.Context, bucket, key string) error {
	_, err := b.GetEntry(ctx, bucket, key)
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	kv, err := b.bucket(ctx, bucket)
	if err != nil {
		return err
	}
	return changed(ctx, kv.Delete(ctx, key), "deleting %s in %s", key, bucket)
}

func (b *Bus) bucket(ctx context.Context, name string) (jetstream.KeyValue, error) {
	kv, err := b.js.KeyValue(ctx, name)
	if err != nil {
		return nil, explain(ctx, err, "opening bucket %s", name)
	}
	return kv, nil
}

// changed explains the error of a write that others may have come before.
func changed(ctx context.Context, err error, format string, args ...any) error {
	switch {
	case err == nil:
		return nil
	case conflict(err):
		return fmt.Errorf(format+": %w", append(args, bus.ErrConflict)...)
	}
	return explain(ctx, err, format, args...)
}

// GetKey returns the newest value of a key, ErrNotFound when there is none.
func (b *Bus) GetKey(ctx context.Context, bucket, key string) ([]byte, error) {
	e, err := b.GetEntry(ctx, bucket, key)
	return e.Value, err
}

// GetEntry returns the newest value of a key with its revision and time,
// ErrNotFound when there is none.
func (b *Bus) GetEntry(ctx context.Context, bucket, key string) (bus.Entry, error) {
	e, err := b.entry(ctx, bucket, key)
	if err == nil && e.Deleted {
		err = bus.ErrNotFound
	}
	if errors.Is(err, bus.ErrNotFound) {
		return bus.Entry{}, fmt.Errorf("key %s in %s: %w", key, bucket, bus.ErrNotFound)
	}
	return e, err
}

// How NATS lays keys out in a stream.
func keyStream(bucket string) string       { return "KV_" + bucket }
func keySubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// entry asks the bucket's leader for a key's newest entry, which may be its
// deletion. A replica might not have heard of it yet.
func (b *Bus) entry(ctx context.Context, bucket, key string) (bus.Entry, error) {
	if key == "" || strings.ContainsAny(key, "*> \t\r\n") {
		return bus.Entry{}, fmt.Errorf("reading %q from bucket %s: this is no key", key, bucket)
	}
	m, header, err := b.askLeader(ctx, keyStream(bucket), struct {
		Subject string `json:"last_by_subj"`
	}{keySubject(bucket, key)})
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return bus.Entry{}, bus.ErrNotFound
	case err != nil:
		return bus.Entry{}, explain(ctx, err, "reading %s from bucket %s", key, bucket)
	}
	return entryOf(bucket, m, header), nil
}

// entryOf reads a key's entry out of the message that carries it.
func entryOf(bucket string, m bus.Message, header nats.Header) bus.Entry {
	operation := header.Get("KV-Operation")
	return bus.Entry{
		Key: strings.TrimPrefix(m.Subject, keySubject(bucket, "")), Value: m.Data, Revision: m.Sequence, Time: m.Time,
		Deleted: operation == "DEL" || operation == "PURGE" || header.Get(jetstream.MarkerReasonHeader) != "",
	}
}

// WatchKeys calls fn with the entry of every key that matches the pattern, which
// may have wildcards, and then with every change, deletions among them. Of changes
// that follow one another closely, or happen while the bus is away, only the last
// of a key may be told; that one always is. It ends with ctx, then it returns nil,
// with fn's error, or because the bucket is gone.
func (b *Bus) WatchKeys(ctx context.Context, bucket, pattern string, fn func(bus.Entry) error) error {
	r := &reading{stream: keyStream(bucket), filters: []string{keySubject(bucket, pattern)}}
	err := b.tail(ctx, r, func(m *nats.Msg, meta *nats.MsgMetadata) error {
		return fn(entryOf(bucket, received(m, meta), m.Header))
	}, nil)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // being asked to stop is no error
	}
	return err
}
