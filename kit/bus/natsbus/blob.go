package natsbus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// PutBlob stores data under its SHA-256 and returns that name. Storing the same
// data again changes nothing, or mends what was damaged.
func (b *Bus) PutBlob(ctx context.Context, bucket string, data []byte) (string, error) {
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	store, err := b.js.ObjectStore(ctx, bucket)
	if err != nil {
		return "", explain(ctx, err, "opening blob bucket %s", bucket)
	}
	if _, err := b.GetBlob(ctx, bucket, name); err == nil {
		return name, nil
	} else if !errors.Is(err, bus.ErrNotFound) {
		b.log.Warn("storing a blob anew that cannot be read", "bucket", bucket, "error", err)
	}
	if _, err := store.Put(ctx, jetstream.ObjectMeta{Name: name}, bytes.NewReader(data)); err != nil {
		return "", explain(ctx, err, "storing blob %s", name)
	}
	return name, nil
}

// GetBlob returns the data stored under a name, checked against it. ErrNotFound
// when there is none; any other error when it cannot be read or is damaged.
func (b *Bus) GetBlob(ctx context.Context, bucket, name string) ([]byte, error) {
	// As NATS lays blobs out: what is known of one, and its chunks in order. Its own
	// reader waits without end for a chunk that is gone.
	object, err := b.last(ctx, blobStream(bucket), "$O."+bucket+".M."+base64.URLEncoding.EncodeToString([]byte(name)))
	if errors.Is(err, bus.ErrNotFound) {
		return nil, fmt.Errorf("blob %s: %w", name, bus.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", name, err)
	}
	var known jetstream.ObjectInfo
	if err := json.Unmarshal(object.Data, &known); err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", name, err)
	}
	if known.Deleted {
		return nil, fmt.Errorf("blob %s: %w", name, bus.ErrNotFound)
	}
	var data []byte
	if err := b.Load(ctx, blobStream(bucket), "$O."+bucket+".C."+known.NUID, func(chunk bus.Message) error {
		data = append(data, chunk.Data...)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", name, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != name {
		return nil, fmt.Errorf("blob %s does not match its name", name)
	}
	return data, nil
}

func blobStream(bucket string) string { return "OBJ_" + bucket }
