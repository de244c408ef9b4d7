package natsbus

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// TestExplain is about what a test cannot bring about on a real server: a disk
// without room, a cluster without a leader.
func TestExplain(t *testing.T) {
	t.Parallel()
	api := func(code jetstream.ErrorCode, text string) error {
		return fmt.Errorf("nats: %w", &jetstream.APIError{Code: 503, ErrorCode: code, Description: text})
	}
	for name, c := range map[string]struct {
		err  error
		id   string
		kind errs.Kind
	}{
		"the disk is full":              {api(10077, "write /data/1.blk: no space left on device"), "LS-BUS-004", errs.Exhausted},
		"the stream is full":            {api(10077, "maximum bytes exceeded"), "LS-BUS-004", errs.Exhausted},
		"the store fails otherwise":     {api(10077, "bad checksum"), "", errs.Internal},
		"the account's limit":           {api(10002, "resource limits exceeded for account"), "LS-BUS-004", errs.Exhausted},
		"the reservation of a stream":   {api(10047, "insufficient storage resources available"), "LS-BUS-004", errs.Exhausted},
		"the stream's largest message":  {api(10054, "message size exceeds maximum allowed"), "LS-BUS-005", errs.Exhausted},
		"no leader":                     {api(10008, "JetStream system temporarily unavailable"), "LS-BUS-006", errs.Unavailable},
		"a batch lost a message":        {api(10176, "batch publish is incomplete"), "LS-BUS-006", errs.Unavailable},
		"JetStream is off":              {jetstream.ErrJetStreamNotEnabled, "LS-BUS-006", errs.Unavailable},
		"no answer":                     {nats.ErrTimeout, "LS-BUS-006", errs.Unavailable},
		"no answer within our own time": {context.DeadlineExceeded, "LS-BUS-006", errs.Unavailable},
		"anything else":                 {errors.New("strange"), "", errs.Internal},
	} {
		err := explain(t.Context(), c.err, "doing %s", "it")
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v does not hold its cause", name, err)
		}
		if kind := errs.KindOf(err); kind != c.kind {
			t.Errorf("%s: kind %s, want %s", name, kind, c.kind)
		}
		var known *errs.Error
		id := ""
		if errors.As(err, &known) {
			id = known.ID
		}
		if id != c.id {
			t.Errorf("%s: id %q, want %q", name, id, c.id)
		}
	}
}
