// Package bus owns the words in which Lockstep's processes talk over a
// persistent message bus: messages, streams, durable consumers, key-value
// buckets and blobs, and how a handler says what became of a message. It knows
// no product and no technology; natsbus is the one implementation.
package bus

import (
	"context"
	"errors"
	"time"
)

// ErrConflict says that an append expected another last sequence of its subject,
// or an update another revision of its key: someone else wrote in between. Load
// again, decide again.
var ErrConflict = errors.New("someone else has written since it was read")

// ErrDuplicate says that a batch holds an ID that is stored already and was
// refused whole. To whoever repeats a batch because its acknowledgement was lost,
// it is that acknowledgement.
var ErrDuplicate = errors.New("a message of the batch is stored already")

// ErrNotFound says that a key or blob does not exist.
var ErrNotFound = errors.New("not found")

// Message is one message, sent or received.
type Message struct {
	Subject string
	// Type is the full proto name of what Data holds.
	Type string
	// ID, when set, lets the bus drop a repeat of the same published message
	// within its deduplication window. An append has no need of one.
	ID string
	// Cause is the message that this one follows from, such as "EVT/123". What a
	// handler of single messages publishes follows from the message in its hands
	// unless it says otherwise.
	Cause string
	Data  []byte

	// SentAt, Sequence, Time and Deliveries are set on received messages only.
	// SentAt is the sender's clock, zero when it did not say; Time is the bus's.
	SentAt   time.Time
	Sequence uint64
	Time     time.Time
	// Deliveries counts from 1. A batch's message begins again at 1 in the hands of
	// another process.
	Deliveries int
}

// MaxBatch is how many messages can be published as one.
const MaxBatch = 1000

// DefaultBatch is how many messages a batch holds at most when its consumer does not
// say.
const DefaultBatch = 500

// Stream is a persistent log of the messages on some subjects.
type Stream struct {
	Name     string
	Subjects []string
	// MaxAge bounds how long messages are kept; zero keeps them for ever.
	MaxAge time.Duration
	// MaxBytes bounds how much is kept, oldest dropped first; zero is unbounded.
	MaxBytes int64
	// Replicas is on how many servers of a cluster it is kept; zero is one where it
	// is new and as many as there are where it exists.
	Replicas int
	// Owner is the service whose subjects these are.
	Owner string
}

// Bucket is a key-value or blob bucket.
type Bucket struct {
	Name string
	// Replicas is as a stream's.
	Replicas int
	Owner    string
}

// Positions is the key-value bucket that keeps how far consumers of batches have
// come. Whoever has one needs this bucket.
const Positions = "positions"

// Entry is a key's value at one revision.
type Entry struct {
	Key   string
	Value []byte
	// Revision grows with every change of any key of the bucket.
	Revision uint64
	Time     time.Time
	// Deleted says that the key is gone since this revision.
	Deleted bool
}

// Snapshot is the state of one subject's aggregate up to a message, so that only
// what came later has to be loaded.
type Snapshot struct {
	Subject string
	// Revision is the sequence of the last message that went into Data.
	Revision uint64
	// Type is the full proto name of what Data holds.
	Type string
	Data []byte
}

// Consumer is a durable position in a stream. Its messages come in the order of
// the stream, one at a time or in batches: the next only after the one before was
// acknowledged or given up, however often that one had to be repeated.
type Consumer struct {
	Stream  string
	Durable string
	// Filters name the subjects of interest; empty means all.
	Filters []string
	// AckWait is how long a message of a consumer that died waits until it is
	// delivered again. A handler that is at work is not hurried by it, as long as
	// the bus can be reached. Zero is half a minute.
	AckWait time.Duration
	// Batch bounds the messages of a batch, zero is 500; BatchBytes their data, the
	// last message not counted, zero is 4 MiB. Only batches look at them.
	Batch      int
	BatchBytes int
	// Taken, when set, is called each time this process takes the consumer's place,
	// before the first batch. Its context ends when the place is lost. An error gives
	// the place back. Only batches look at it.
	Taken func(held context.Context, at Place) error
	// Seen, when set, is told of each message as soon as it has arrived, in order and
	// before the batch that it will be part of: at most two batches and one message
	// ahead of what is done with. Only batches look at it.
	Seen func(held context.Context, m Message)
	// Since is from when on messages matter to a consumer that is new; zero is from
	// the oldest kept. A consumer that exists goes on where it was.
	Since time.Time
	// DeadLetter is the subject that messages given up are copied to.
	DeadLetter string
	Owner      string
}

// Place is what a process takes over as a consumer of batches.
type Place struct {
	// After is the sequence of the last message that is done with.
	After uint64
	// Waited says that another process had it first, or was taken to.
	Waited bool
}

// Tail says what to read of a stream without a durable position.
type Tail struct {
	Stream string
	// Filters name the subjects of interest, none of which may match what another
	// does; empty means all.
	Filters []string
	// After is the sequence of the message to begin behind, Since from when on, by
	// the bus's clock; where both are zero it is from the beginning. New is from now
	// on.
	After uint64
	Since time.Time
	New   bool
	// Follow stays for what is added; else the tail ends with what is there.
	Follow bool
}

// Delivery is a message in a handler's hands.
type Delivery struct {
	Message
}

// Handler answers a delivery: nil acknowledges it, an error wrapped by Permanent
// moves it to the dead letters, any other error delivers it again later.
type Handler func(ctx context.Context, d Delivery) error

// BatchHandler answers messages that follow one another: the first handled of them
// are acknowledged, and the error is about the next one, as a Handler's is. What
// was not handled comes again first; without an error, at once.
type BatchHandler func(ctx context.Context, batch []Delivery) (handled int, err error)

// permanent marks an error that no repeat can mend.
type permanent struct{ err error }

func (p permanent) Error() string { return p.err.Error() }
func (p permanent) Unwrap() error { return p.err }

// Permanent wraps an error so that the message which caused it goes to the dead
// letters instead of being delivered again.
func Permanent(err error) error { return permanent{err} }

// IsPermanent reports whether err was wrapped by Permanent.
func IsPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}
