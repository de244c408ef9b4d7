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

// ErrConflict says that an append expected another last sequence of its
// subject: someone else appended in between. Load again, decide again.
var ErrConflict = errors.New("the subject has moved on since it was read")

// ErrNotFound says that a key or blob does not exist.
var ErrNotFound = errors.New("not found")

// Message is one message, sent or received.
type Message struct {
	Subject string
	// Type is the full proto name of what Data holds.
	Type string
	// ID, when set, lets the bus drop a repeat of the same published message
	// within its deduplication window. An append has no need of one.
	ID   string
	Data []byte

	// Sequence, Time and Deliveries are set on received messages only.
	Sequence   uint64
	Time       time.Time
	Deliveries int
}

// Stream is a persistent log of the messages on some subjects.
type Stream struct {
	Name     string
	Subjects []string
	// MaxAge bounds how long messages are kept; zero keeps them for ever.
	MaxAge time.Duration
	// MaxBytes bounds how much is kept, oldest dropped first; zero is unbounded.
	MaxBytes int64
	// Owner is the service whose subjects these are.
	Owner string
}

// Bucket is a key-value or blob bucket.
type Bucket struct {
	Name  string
	Owner string
}

// Consumer is a durable position in a stream. Its messages come one at a time in
// the order of the stream: the next one only after the one before was
// acknowledged or given up, however often that one had to be repeated.
type Consumer struct {
	Stream  string
	Durable string
	// Filters name the subjects of interest; empty means all.
	Filters []string
	// AckWait is how long a message of a consumer that died waits until it is
	// delivered again. A handler that is at work is not hurried by it.
	AckWait time.Duration
	// Since is from when on messages matter to a consumer that is new; zero is from
	// the oldest kept. A consumer that exists goes on where it was.
	Since time.Time
	// DeadLetter is the subject that messages given up are copied to.
	DeadLetter string
	Owner      string
}

// Delivery is a message in a handler's hands.
type Delivery struct {
	Message
}

// Handler answers a delivery: nil acknowledges it, an error wrapped by Permanent
// moves it to the dead letters, any other error delivers it again later.
type Handler func(ctx context.Context, d Delivery) error

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
