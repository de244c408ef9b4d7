package collector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	"github.com/lockstep-fleet/lockstep/kit/spool"
	"github.com/lockstep-fleet/lockstep/topology"
)

// The limits of a message and of what is written to the spool at once.
const (
	// maxBatchBytes bounds the observations of one message, so that with its envelope
	// it stays below the 1 MiB that NATS servers take unless told otherwise; only one
	// that is larger by itself goes beyond.
	maxBatchBytes = 900 << 10
	// maxObservation is more than any bus takes.
	maxObservation = 4 << 20
	// maxFlush is how much does not wait for more.
	maxFlush = 4 << 20
)

// Spool is where messages wait for the bus, on disk. Sequences and the incarnation
// are kept with it, so they go on after a restart.
type Spool struct {
	*spool.Spool
	ledger *ledger
}

// OpenSpool opens the spool in a folder of its own, which one process at a time may
// have; it keeps at most maxBytes on disk. Close it after the collector has ended.
func OpenSpool(dir string, maxBytes int64) (*Spool, error) {
	l := &ledger{}
	s, err := spool.Open(spool.Options{Dir: dir, MaxBytes: maxBytes, Ledger: l})
	if err != nil {
		return nil, err
	}
	return &Spool{Spool: s, ledger: l}, nil
}

// result is what one poll brought, ready to be packed.
type result struct {
	kind   fleet.Kind
	pieces []piece
	bytes  int
	more   bool // there may be another of the same poll soon
	// done is closed when all of it is on disk.
	done chan struct{}
}

// piece is an observation as a field of a batch of its part.
type piece struct {
	part  uint32
	field []byte
}

// encode makes an observation a piece.
func encode(source fleet.SourceID, o codec.Observation, at time.Time) (piece, error) {
	m := codec.ObservationToProto(o, at)
	m.Id = codec.ObservationID(source, o, at)
	size := proto.Size(m)
	if size > maxObservation {
		return piece{}, fmt.Errorf("an observation of %s has %d bytes and may have %d", o.Cluster(), size, maxObservation)
	}
	field := make([]byte, 0, size+protowire.SizeTag(fieldObservations)+protowire.SizeVarint(uint64(size)))
	field = protowire.AppendTag(field, fieldObservations, protowire.BytesType)
	field = protowire.AppendVarint(field, uint64(size))
	field, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(field, m)
	if err != nil {
		return piece{}, fmt.Errorf("encoding an observation of %s: %w", o.Cluster(), err)
	}
	return piece{part: topology.Part(o.Cluster()), field: field}, nil
}

// result encodes observations of one kind. One that cannot be encoded is told as
// lost; the rest still counts.
func (s *Service) result(kind fleet.Kind, observations []codec.Observation, seen func(codec.Observation) time.Time) result {
	r := result{kind: kind, pieces: make([]piece, 0, len(observations)), done: make(chan struct{})}
	for _, o := range observations {
		p, err := encode(s.sourceID(kind), o, seen(o))
		if err != nil {
			s.deps.Log.Error("an observation cannot be sent and is dropped", "id", "LS-COL-008", "error", err)
			s.deps.Meter.Dropped(string(kind), invalid, 1)
			s.lost(topic{kind, o.Cluster()}, shortfall{why: invalid, observations: 1})
			continue
		}
		r.pieces = append(r.pieces, p)
		r.bytes += len(p.field)
	}
	return r
}

// pack writes what polls bring to the spool, what comes within the linger time
// together, until there are no more results.
func (s *Service) pack(ctx context.Context) {
	for open := true; open; {
		var came []result
		select {
		case r, ok := <-s.results:
			if open = ok; ok {
				came, open = s.linger(r)
			}
		case <-s.tell:
		}
		s.flush(ctx, came, !open)
	}
}

// linger waits for what else comes; false when there are no more results.
func (s *Service) linger(first result) (came []result, open bool) {
	came = []result{first}
	over := time.NewTimer(s.config.Linger)
	defer over.Stop()
	ended := 0
	if !first.more {
		ended++
	}
	// When every schedule waits for this, nothing more can come.
	for bytes := first.bytes; bytes < maxFlush && ended < len(s.schedules); {
		select {
		case r, ok := <-s.results:
			if !ok {
				return came, false
			}
			came, bytes = append(came, r), bytes+r.bytes
			if !r.more {
				ended++
			}
		case <-over.C:
			return came, true
		}
	}
	return came, true
}

// flush makes messages of results, and of what has to be told, and says so when
// they are on disk. What is told goes first: a promise of the same poll must not be
// believed before it. The last flush tells everything.
func (s *Service) flush(ctx context.Context, came []result, last bool) {
	records := s.messages(append(s.confess(last), came...))
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size+len(records[n]) <= maxFlush) {
			size += len(records[n])
			n++
		}
		if !s.store(ctx, records[:n]) {
			return
		}
		records = records[n:]
	}
	for _, r := range came {
		close(r.done)
	}
}

// messages packs results in their order, each message with what is of one kind and
// part, and numbers them.
func (s *Service) messages(came []result) [][]byte {
	type lane struct {
		kind fleet.Kind
		part uint32
	}
	var groups []*group
	open := make(map[lane]*group)
	for _, r := range came {
		for _, p := range r.pieces {
			l := lane{r.kind, p.part}
			g := open[l]
			if g == nil || len(g.pieces) >= s.config.MaxBatch || g.bytes+len(p.field) > maxBatchBytes {
				g = &group{kind: l.kind, part: l.part}
				open[l], groups = g, append(groups, g)
			}
			g.pieces, g.bytes = append(g.pieces, p), g.bytes+len(p.field)
		}
	}
	records := make([][]byte, 0, len(groups))
	for _, g := range groups {
		source := s.sourceID(g.kind)
		subject := topology.ObservationSubject(s.config.Tenant, source, g.part, g.kind)
		sequence := max(s.numbered[subject], s.deps.Spool.ledger.sequences[subject]) + 1
		s.numbered[subject] = sequence
		records = append(records, g.record(subject, source, s.deps.Spool.ID(), sequence))
	}
	return records
}

// store appends records to the spool and does not give up before ctx ends: what a
// poll returned is not returned again.
func (s *Service) store(ctx context.Context, records [][]byte) bool {
	pauses := rtime.Backoff{First: 100 * time.Millisecond, Max: 5 * time.Second}
	for failing := false; ; failing = true {
		err := s.deps.Spool.Append(records)
		s.account()
		if err == nil {
			s.pressure()
			if failing {
				s.deps.Log.Info("observations can be written to the spool again")
			}
			return true
		}
		if errs.IDOf(err) == "LS-COL-004" {
			return s.storeEach(ctx, records, err)
		}
		if !failing {
			s.deps.Log.Error("observations cannot be written to the spool; they are kept and tried again", "error", err)
		}
		if rtime.Wait(ctx, pauses.Next()) != nil {
			s.deps.Log.Error("the collector stops with observations that cannot be written to the spool; what can be seen again is read after the next start",
				"messages", len(records), "error", err)
			return false
		}
	}
}

// storeEach is store for what is more than the spool may hold.
func (s *Service) storeEach(ctx context.Context, records [][]byte, tooLarge error) bool {
	if len(records) == 1 {
		s.drop(records[0], invalid, tooLarge)
		return true
	}
	for i := range records {
		if !s.store(ctx, records[i:i+1]) {
			return false
		}
	}
	return true
}

// drop gives up a message that will never be taken.
func (s *Service) drop(record []byte, word string, err error) {
	m, unread := decodeMessage(record)
	s.deps.Log.Error("a message of observations is dropped; its absence is seen as a hole", "id", "LS-COL-007",
		"subject", m.subject, "sequence", m.sequence, "observations", m.observations, "error", errors.Join(err, unread))
	s.deps.Meter.Dropped(string(m.kind()), word, int(m.observations))
	var of shortfalls
	of.message(m)
	for t, f := range of.take() {
		f.why = word
		s.lost(t, f)
	}
}

// How full the spool may be until only what happens once goes in, and from when on
// everything does again, in percent.
const (
	pressedFrom  = 80
	pressedUntil = 70
)

// pressure looks how full the spool is.
func (s *Service) pressure() (percent int64) {
	stats := s.deps.Spool.Stats()
	s.deps.Meter.Spooled(stats.Records, stats.Bytes)
	percent = stats.Bytes * 100 / stats.MaxBytes
	if percent >= pressedFrom {
		s.press(stats)
	}
	return percent
}

// press leaves the spool to what happens only once.
func (s *Service) press(stats spool.Stats) {
	if s.pressed.CompareAndSwap(false, true) {
		s.deps.Log.Warn("the spool is nearly full; until the bus takes messages again only sessions, probes and recordings are read",
			"id", "LS-COL-009", "bytes", stats.Bytes, "max_bytes", stats.MaxBytes)
	}
}

// relieve is pressure after the bus took messages. Room that was made by dropping
// what waits is none.
func (s *Service) relieve() {
	if s.pressure() < pressedUntil && s.pressed.CompareAndSwap(true, false) {
		stats := s.deps.Spool.Stats()
		s.deps.Log.Info("the spool has room again; everything is read", "bytes", stats.Bytes, "max_bytes", stats.MaxBytes)
		s.wake()
	}
}
