package collector

import (
	"context"
	"errors"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	"github.com/lockstep-fleet/lockstep/kit/spool"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
)

// What is published at once, and how long that may take until it is tried again.
const (
	publishBytes = 4 << 20
	publishLimit = 15 * time.Second
)

// batchType is what every message holds.
var batchType = string((&observationv1.Batch{}).ProtoReflect().Descriptor().FullName())

// publish brings what is in the spool to the bus, in order, until ctx ends. Once
// ending is closed it ends when the spool is empty, or the bus does not take what is
// in it.
func (s *Service) publish(ctx context.Context, ending <-chan struct{}) {
	pauses := rtime.Backoff{First: 100 * time.Millisecond, Max: 5 * time.Second}
	var failing error
	for last := false; ; {
		n, err := s.drain(ctx)
		if ctx.Err() != nil || last && (err != nil || n == 0) {
			return
		}
		added, again := s.deps.Spool.Added(), (<-chan time.Time)(nil)
		switch {
		case err != nil:
			if failing == nil || ofDisk(failing) != ofDisk(err) {
				s.trouble(err)
			}
			failing, added, again = err, nil, time.After(pauses.Next())
		case n > 0:
			if failing != nil {
				s.deps.Log.Info("the bus takes observations again", "waiting", s.deps.Spool.Stats().Records)
			}
			failing = nil
			pauses.Reset()
			continue
		}
		select {
		case <-added:
		case <-again:
		case <-ending:
			ending, last = nil, true
		case <-ctx.Done():
			return
		}
	}
}

// diskError is a failure of the spool and not of the bus.
type diskError struct{ error }

func (e *diskError) Unwrap() error { return e.error }

func ofDisk(err error) bool {
	var disk *diskError
	return errors.As(err, &disk)
}

// trouble says what is in the way.
func (s *Service) trouble(err error) {
	if ofDisk(err) {
		s.deps.Log.Error("the spool's disk fails; what is in it is tried again", "error", err)
		return
	}
	s.deps.Log.Error("the bus does not take observations; they are kept in the spool and tried again", "error", err)
}

// drain publishes the oldest messages and returns how many records of the spool are
// done with.
func (s *Service) drain(ctx context.Context) (done int, err error) {
	records, err := s.deps.Spool.Next(bus.MaxBatch, publishBytes)
	s.account()
	if err != nil {
		return 0, &diskError{err}
	}
	if len(records) == 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	if err := s.send(ctx, records); err == nil {
		return len(records), s.done(records)
	} else if !final(err) {
		return 0, err
	}
	// One of them is refused for good, and all with it.
	for i, r := range records {
		if err := s.send(ctx, records[i:i+1]); final(err) {
			s.drop(r.Data, refused, err)
		} else if err != nil {
			return i, err
		}
		if err := s.done(records[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(records), nil
}

// final reports whether a message will be refused however often it is tried.
func final(err error) bool {
	return err != nil && (errors.Is(err, errMessage) || errs.KindOf(err) == errs.Invalid || errs.IDOf(err) == "LS-BUS-005")
}

// send publishes records as one, and counts them.
func (s *Service) send(ctx context.Context, records []spool.Record) error {
	messages := make([]bus.Message, len(records))
	published := make(map[fleet.Kind]int)
	for i, r := range records {
		m, err := decodeMessage(r.Data)
		if err != nil {
			return err
		}
		messages[i] = bus.Message{Subject: m.subject, Type: batchType, Data: m.batch}
		published[m.kind()] += int(m.observations)
	}
	var err error
	if len(messages) == 1 {
		_, err = s.deps.Bus.Publish(ctx, messages[0])
	} else {
		_, err = s.deps.Bus.PublishBatch(ctx, messages)
	}
	if err != nil {
		return err
	}
	for kind, n := range published {
		s.deps.Meter.Published(string(kind), n)
	}
	return nil
}

// done takes records off the spool.
func (s *Service) done(records []spool.Record) error {
	if err := s.deps.Spool.Ack(records[len(records)-1].Position); err != nil {
		return &diskError{err}
	}
	s.relieve()
	return nil
}
