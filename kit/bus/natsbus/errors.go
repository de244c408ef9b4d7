package natsbus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Codes of the server that nats.go has no name for.
const (
	codeAccountLimit jetstream.ErrorCode = 10002
	codeNoQuorum     jetstream.ErrorCode = 10008
	codeNoRoom       jetstream.ErrorCode = 10023
	codeNoMemory     jetstream.ErrorCode = 10028
	codeNoStorage    jetstream.ErrorCode = 10047
	codeStoreFailed  jetstream.ErrorCode = 10077
)

// explain says what was being done when the bus gave an error, and gives it its
// kind and, where people can mend it, its id.
func explain(ctx context.Context, err error, format string, args ...any) error {
	doing := fmt.Sprintf(format, args...)
	switch {
	case ctx.Err() != nil:
		// It was the caller who gave up.
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrBucketNotFound):
		return errs.New(errs.Unavailable, "LS-BUS-003", "%s: %w; `lockstep migrate` creates what is missing", doing, err)
	case full(err):
		return errs.New(errs.Exhausted, "LS-BUS-004", "%s: the bus has no room left (%w); nothing was stored, make room and try again", doing, err)
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
		return errs.New(errs.Exhausted, "LS-BUS-005", "%s: the message is larger than the bus allows (%w); raise the servers' max_payload or send less at once", doing, err)
	case away(err):
		return errs.New(errs.Unavailable, "LS-BUS-006", "%s: the bus does not answer (%w); try again", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// full reports whether the server refused for want of room.
func full(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	switch api.ErrorCode {
	case codeAccountLimit, codeNoRoom, codeNoMemory, codeNoStorage:
		return true
	case codeStoreFailed:
		// The server's word for any trouble of its store; only the text tells which.
		return strings.Contains(api.Description, "no space left") || strings.Contains(api.Description, "maximum bytes exceeded")
	}
	return false
}

// away reports whether there was nobody to do what was asked, or no word of it.
func away(err error) bool {
	for _, known := range []error{
		nats.ErrTimeout, nats.ErrNoResponders, nats.ErrConnectionClosed, nats.ErrDisconnected, nats.ErrReconnectBufExceeded,
		jetstream.ErrNoStreamResponse, jetstream.ErrJetStreamNotEnabled, context.DeadlineExceeded,
		jetstreamext.ErrBatchPublishIncomplete, jetstreamext.ErrAtomicPublishTooManyInflight,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeNoQuorum
}

// conflict reports whether a compare-and-set was lost: there is one code for single
// servers and one for replicated streams.
func conflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// final reports whether nothing is mended by asking again.
func final(err error) bool {
	for _, known := range []error{
		nats.ErrConnectionClosed, jetstream.ErrConnectionClosed, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
