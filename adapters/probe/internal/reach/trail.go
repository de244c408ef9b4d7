// Package reach owns how the things that checks look at are reached: opening a
// connection, one request, how long each part of the way took, and what class a
// failure is of.
//
// It does not know what an answer should say, and it keeps nothing between two
// looks.
package reach

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Part is a part of the way to an answer. With "_seconds" it is the name of the
// reading that says how long it took.
type Part string

// Every part of a way.
const (
	PartDNS       Part = "dns"
	PartConnect   Part = "connect"
	PartTLS       Part = "tls"
	PartFirstByte Part = "first_byte" // from the request sent to the answer's first byte
	PartAnswer    Part = "answer"     // the rest of the answer; never a reading
	PartHandshake Part = "handshake"  // of SSH, up to the host key
	PartLogin     Part = "login"
	PartCommand   Part = "command"
)

// Trail is what one look learns on its way, whatever its end. It is safe for
// concurrent use, because a connection may still be under way when its look is
// over.
type Trail struct {
	now func() time.Time

	mu       sync.Mutex
	part     Part
	since    time.Time
	readings map[string]float64
	expires  time.Time
}

// NewTrail returns an empty one.
func NewTrail(now func() time.Time) *Trail {
	return &Trail{now: now, readings: make(map[string]float64)}
}

// Enter begins a part.
func (t *Trail) Enter(p Part) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.part, t.since = p, t.now()
}

// Leave ends a part, well, when it is the one that was entered last. Its first
// time counts: a second request on the same connection is no news about the way.
func (t *Trail) Leave(p Part) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := string(p) + "_seconds"
	if _, known := t.readings[name]; !known && t.part == p {
		t.readings[name] = max(t.now().Sub(t.since), 0).Seconds()
	}
}

// Expires notes when the certificate that was shown ends.
func (t *Trail) Expires(at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expires = at
}

// Part is the part that was entered last.
func (t *Trail) Part() Part {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.part
}

// Tell writes what was learned into check. A nil error means that all is well and
// detail says so; else the error decides class and words.
func (t *Trail) Tell(ctx context.Context, check *fleet.Check, detail string, err error) {
	part := t.Part()
	t.mu.Lock()
	check.CertificateExpires = t.expires
	if len(t.readings) > 0 {
		check.Readings = maps.Clone(t.readings)
	}
	t.mu.Unlock()
	if err == nil {
		check.OK, check.Detail = true, Clean(detail)
		return
	}
	check.Failure, check.Detail = explain(ctx, part, err)
}
