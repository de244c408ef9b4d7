package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Ensure creates streams and buckets and brings those that exist to what is
// wanted; what it is not asked about stays as it was set by hand. Only their one
// owner calls it. A change that would delete messages is refused before anything
// is changed.
func (b *Bus) Ensure(ctx context.Context, streams []bus.Stream, keyValues, blobs []bus.Bucket) error {
	changes, err := b.changes(ctx, streams, keyValues, blobs)
	if err != nil {
		return err
	}
	for _, c := range changes {
		if c.Loses != "" {
			return errs.New(errs.Conflict, "LS-BUS-007", "%s would delete %s; nothing was changed", c, c.Loses)
		}
	}
	for _, c := range changes {
		if err := c.apply(ctx); err != nil {
			return explain(ctx, err, "%s", c)
		}
	}
	return nil
}

// Plan returns what Ensure would do; nothing when all is as it is wanted.
func (b *Bus) Plan(ctx context.Context, streams []bus.Stream, keyValues, blobs []bus.Bucket) ([]Change, error) {
	return b.changes(ctx, streams, keyValues, blobs)
}

// Check looks whether all is as Ensure would leave it, and changes nothing. It is
// for those who use streams and buckets that another creates.
func (b *Bus) Check(ctx context.Context, streams []bus.Stream, keyValues, blobs []bus.Bucket) error {
	changes, err := b.changes(ctx, streams, keyValues, blobs)
	if err == nil && len(changes) > 0 {
		lines := make([]string, len(changes))
		for i, c := range changes {
			lines[i] = c.String()
		}
		err = errs.New(errs.Unavailable, "LS-BUS-003", "the bus is not as it has to be (to do: %s); run `lockstep migrate`", strings.Join(lines, "; "))
	}
	return err
}

// Change is what makes one stream or bucket as it is wanted.
type Change struct {
	// Kind is stream, key-value bucket or blob bucket.
	Kind, Name string
	// Action is create or update.
	Action string
	// Detail says of what it is made, or what changes.
	Detail string
	// Loses says which messages are deleted by it; such a change is refused.
	Loses string

	apply func(context.Context) error
}

// String is the change on one line.
func (c Change) String() string {
	line := c.Action + " " + c.Kind + " " + c.Name
	if c.Detail != "" {
		line += ": " + c.Detail
	}
	return line
}

// wanted is a stream, or the stream below a bucket.
type wanted struct {
	kind, name string // for people
	stream     string
	set        func(*jetstream.StreamConfig)
	create     func(context.Context) error
}

func (b *Bus) changes(ctx context.Context, streams []bus.Stream, keyValues, blobs []bus.Bucket) ([]Change, error) {
	var all []wanted
	for _, s := range streams {
		all = append(all, b.wantedStream(s))
	}
	for _, kv := range keyValues {
		all = append(all, wanted{"key-value bucket", kv.Name, keyStream(kv.Name), onFile(kv.Replicas), func(ctx context.Context) error {
			_, err := b.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: kv.Name, Storage: jetstream.FileStorage, Replicas: kv.Replicas})
			return err
		}})
	}
	for _, o := range blobs {
		all = append(all, wanted{"blob bucket", o.Name, blobStream(o.Name), onFile(o.Replicas), func(ctx context.Context) error {
			_, err := b.js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: o.Name, Storage: jetstream.FileStorage, Replicas: o.Replicas})
			return err
		}})
	}
	var changes []Change
	for _, w := range all {
		c, err := b.change(ctx, w)
		if err != nil {
			return nil, err
		}
		if c != nil {
			changes = append(changes, *c)
		}
	}
	return changes, nil
}

func (b *Bus) wantedStream(s bus.Stream) wanted {
	set := func(c *jetstream.StreamConfig) {
		onFile(s.Replicas)(c)
		c.Subjects = s.Subjects
		c.Retention, c.Discard = jetstream.LimitsPolicy, jetstream.DiscardOld
		c.MaxAge, c.MaxBytes = s.MaxAge, cmp.Or(s.MaxBytes, -1)
		// Repeats are told within the age of what is kept.
		c.Duplicates = min(2*time.Minute, cmp.Or(s.MaxAge, 2*time.Minute))
		c.AllowDirect, c.AllowAtomicPublish = true, true
	}
	return wanted{"stream", s.Name, s.Name, set, func(ctx context.Context) error {
		config := jetstream.StreamConfig{Name: s.Name}
		set(&config)
		_, err := b.js.CreateStream(ctx, config)
		return err
	}}
}

func onFile(replicas int) func(*jetstream.StreamConfig) {
	return func(c *jetstream.StreamConfig) {
		c.Storage = jetstream.FileStorage
		if replicas > 0 {
			c.Replicas = replicas
		}
	}
}

// change returns what is to do about one stream, nil for nothing.
func (b *Bus) change(ctx context.Context, w wanted) (*Change, error) {
	stream, err := b.js.Stream(ctx, w.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		var config jetstream.StreamConfig
		w.set(&config)
		return &Change{Kind: w.kind, Name: w.name, Action: "create", Detail: strings.Join(config.Subjects, " "), apply: w.create}, nil
	}
	if err != nil {
		return nil, explain(ctx, err, "looking at %s %s", w.kind, w.name)
	}
	info := stream.CachedInfo()
	config := info.Config
	w.set(&config)
	differs := differences(info.Config, config)
	if len(differs) == 0 {
		return nil, nil
	}
	return &Change{
		Kind: w.kind, Name: w.name, Action: "update", Detail: strings.Join(differs, ", "), Loses: b.loses(info, config),
		apply: func(ctx context.Context) error {
			_, err := b.js.UpdateStream(ctx, config)
			return err
		},
	}, nil
}

// differences lists what set may change, as people read it.
func differences(is, wanted jetstream.StreamConfig) []string {
	var out []string
	differ := func(what string, is, wanted any) {
		if is, wanted := fmt.Sprint(is), fmt.Sprint(wanted); is != wanted {
			out = append(out, fmt.Sprintf("%s from %s to %s", what, is, wanted))
		}
	}
	differ("subjects", strings.Join(is.Subjects, " "), strings.Join(wanted.Subjects, " "))
	differ("storage", is.Storage, wanted.Storage)
	differ("retention", is.Retention, wanted.Retention)
	differ("discard policy", is.Discard, wanted.Discard)
	differ("longest age", unlimited(is.MaxAge), unlimited(wanted.MaxAge))
	differ("most bytes", unlimited(is.MaxBytes), unlimited(wanted.MaxBytes))
	differ("deduplication window", is.Duplicates, wanted.Duplicates)
	differ("direct reads", is.AllowDirect, wanted.AllowDirect)
	differ("batches", is.AllowAtomicPublish, wanted.AllowAtomicPublish)
	differ("replicas", is.Replicas, wanted.Replicas)
	return out
}

func unlimited[T int64 | time.Duration](limit T) any {
	if limit <= 0 {
		return "unlimited"
	}
	return limit
}

// loses says what tighter limits would delete at once.
func (b *Bus) loses(info *jetstream.StreamInfo, wanted jetstream.StreamConfig) string {
	is, state := info.Config, info.State
	if wanted.MaxBytes > 0 && wanted.MaxBytes != is.MaxBytes && state.Bytes > uint64(wanted.MaxBytes) {
		return fmt.Sprintf("messages: it holds %d bytes", state.Bytes)
	}
	if wanted.MaxAge > 0 && wanted.MaxAge != is.MaxAge && state.Msgs > 0 && b.now().Sub(state.FirstTime) > wanted.MaxAge {
		return "messages: the oldest is of " + state.FirstTime.UTC().Format(time.RFC3339)
	}
	return ""
}
