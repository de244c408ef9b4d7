package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// snapshot is a bus.Snapshot as its key holds it; the key is the subject.
type snapshot struct {
	Revision uint64 `json:"revision"`
	Type     string `json:"type"`
	Data     []byte `json:"data"`
}

// PutSnapshot stores the snapshot of a subject in a key-value bucket unless one of
// the same or a later revision is there.
func (b *Bus) PutSnapshot(ctx context.Context, bucket string, s bus.Snapshot) error {
	value, err := json.Marshal(snapshot{s.Revision, s.Type, s.Data})
	if err != nil {
		return fmt.Errorf("writing the snapshot of %s: %w", s.Subject, err)
	}
	for {
		e, err := b.entry(ctx, bucket, s.Subject)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return err
		}
		if err == nil && !e.Deleted {
			there, err := readSnapshot(e)
			if err != nil {
				// It is of no use to anybody.
				b.log.Warn("replacing a snapshot that cannot be read", "subject", s.Subject, "error", err)
			} else if there.Revision >= s.Revision {
				return nil
			}
		}
		if _, err := b.UpdateKey(ctx, bucket, s.Subject, value, e.Revision); !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
}

// GetSnapshot returns the snapshot of a subject, ErrNotFound when there is none.
func (b *Bus) GetSnapshot(ctx context.Context, bucket, subject string) (bus.Snapshot, error) {
	e, err := b.GetEntry(ctx, bucket, subject)
	if err != nil {
		return bus.Snapshot{}, err
	}
	return readSnapshot(e)
}

func readSnapshot(e bus.Entry) (bus.Snapshot, error) {
	var s snapshot
	if err := json.Unmarshal(e.Value, &s); err != nil {
		return bus.Snapshot{}, fmt.Errorf("reading the snapshot of %s: %w", e.Key, err)
	}
	return bus.Snapshot{Subject: e.Key, Revision: s.Revision, Type: s.Type, Data: s.Data}, nil
}
