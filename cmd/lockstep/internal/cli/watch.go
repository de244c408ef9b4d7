package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// direction is what a person who waits is waiting for.
type direction int

const (
	forward direction = iota // to the release
	back                     // to what ran before
)

// watching is one wait for a rollout to rest.
type watching struct {
	id      string
	timeout time.Duration // 0 means no limit
	aim     direction
	show    func(*rolloutv1.Rollout) error
}

// patience is how long a lost connection may stay lost: a server that was
// killed and has to recover its data comes back well within it.
const patience = time.Minute

// errTimedOut is the cause of a watch whose --timeout has passed.
var errTimedOut = errors.New("the time to wait is over")

// watch shows the rollout until it rests, and returns nil or the error that
// carries the exit code of how it rests.
func (s *shell) watch(ctx context.Context, cl *client, w watching) error {
	outer := ctx
	if w.timeout > 0 {
		// Not a deadline: that would travel to the server, whose own answer to
		// it may arrive before the time is over here.
		limited, cancel := context.WithCancelCause(ctx)
		timer := time.AfterFunc(w.timeout, func() { cancel(errTimedOut) })
		defer timer.Stop()
		defer cancel(nil)
		ctx = limited
	}
	var last *rolloutv1.Rollout
	err := s.follow(ctx, cl, w, func(r *rolloutv1.Rollout) error {
		last = r
		return w.show(r)
	})
	switch {
	case err == nil:
		return outcome(last, w.aim)
	case outer.Err() != nil:
		return fmt.Errorf("watch rollout %s: interrupted; the rollout goes on", w.id)
	case errors.Is(context.Cause(ctx), errTimedOut):
		phase := "not seen"
		if last != nil {
			phase = last.GetPhase()
		}
		return &exit{codeTimedOut, fmt.Sprintf("rollout %s is still %s after %s; it goes on, `lockstep rollout watch %s` watches again", w.id, clean(phase), short(w.timeout), w.id)}
	}
	return err
}

// follow calls seen with the rollout at once and after every change, until it
// rests. A lost connection is taken up again.
func (s *shell) follow(ctx context.Context, cl *client, w watching, seen func(*rolloutv1.Rollout) error) error {
	var lostAt time.Time // zero while connected
	ever, moving := false, w.aim == forward
	for {
		rested, err := cl.stream(ctx, w.id, func(r *rolloutv1.Rollout) (bool, error) {
			if !lostAt.IsZero() {
				s.talk("The server answers again.")
				lostAt = time.Time{}
			}
			ever = true
			// A rollout that rests may be asked to roll back: until it moves,
			// its old rest is not the one waited for.
			moving = moving || r.GetPhase() == "rolling_back" || r.GetPhase() == "rolled_back"
			return moving && rests(r.GetPhase()), seen(r)
		})
		switch {
		case rested && err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		// A server that comes back may refuse for a while what it has not yet
		// read again, so once the connection was lost only patience ends.
		case err != nil && (!ever || lostAt.IsZero() && !passing(err)):
			return err
		case lostAt.IsZero() && err != nil:
			lostAt = s.Now()
			s.talk("The connection to %s is lost; trying again.", cl.server)
		case err != nil && s.Now().Sub(lostAt) > patience:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// pause lies between two attempts to take up a watch.
const pause = 500 * time.Millisecond

// stream receives until each says that the rollout rests, or the server ends.
func (c *client) stream(ctx context.Context, id string, each func(*rolloutv1.Rollout) (bool, error)) (rested bool, err error) {
	doing := "watch rollout " + id
	stream, err := c.rollouts.WatchRollout(ctx, &rolloutv1.WatchRolloutRequest{Id: id})
	if err != nil {
		return false, c.failed(doing, err)
	}
	defer func() {
		// What matters was received; a stream that is given up may fail to close.
		_ = stream.Close()
	}()
	for {
		res, err := stream.Receive()
		switch {
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, c.failed(doing, err)
		}
		if rested, err := each(res.GetRollout()); rested || err != nil {
			return rested, err
		}
	}
}

func rests(phase string) bool {
	switch phase {
	case "held", "succeeded", "rolled_back", "aborted", "failed":
		return true
	}
	return false
}

// outcome is nil when a resting rollout is where it was meant to be.
func outcome(r *rolloutv1.Rollout, aim direction) error {
	why := ""
	if r.GetReason() != "" {
		why = ": " + clean(r.GetReason())
	}
	said := fmt.Sprintf("rollout %s %s%s", clean(r.GetId()), restWords(r.GetPhase()), why)
	if aim == back {
		switch r.GetPhase() {
		case "rolled_back":
			return nil
		case "held":
			return &exit{codeHeld, said}
		}
		return &exit{codeFailed, said}
	}
	switch r.GetPhase() {
	case "succeeded":
		return nil
	case "rolled_back", "aborted", "failed":
		return &exit{codeFailed, said}
	}
	for _, run := range r.GetClusters() {
		if run.GetPhase() == "rolled_back" || run.GetPhase() == "failed" {
			return &exit{codeFailed, said}
		}
	}
	return &exit{codeHeld, said}
}

func restWords(phase string) string {
	switch phase {
	case "held":
		return "is held"
	case "rolled_back":
		return "was rolled back"
	case "aborted":
		return "was aborted"
	case "failed":
		return "failed"
	}
	return phase
}

// whole shows the rollout as one line of JSON.
func (s *shell) whole(r *rolloutv1.Rollout) error { return s.line(r) }

// changes returns a function that writes what differs from the rollout it was
// last called with, one line a change.
func (s *shell) changes(w io.Writer) func(*rolloutv1.Rollout) error {
	said, colour := map[string]string{}, colourful(w, s.Env)
	return func(r *rolloutv1.Rollout) error {
		tell := func(who, phase, text string) error {
			if said[who] == phase+text {
				return nil
			}
			said[who] = phase + text
			_, err := fmt.Fprintf(w, "%s  %-20s  %s%s\n", s.Now().Format(time.TimeOnly), who, paint(phase, colour), text)
			if err != nil {
				return fmt.Errorf("write the changes of rollout %s: %w", r.GetId(), err)
			}
			return nil
		}
		name := "rollout " + clean(r.GetId())
		// At first the whole comes before its parts; afterwards parts change it.
		if len(said) == 0 {
			if err := tell(name, clean(r.GetPhase()), because(r.GetReason())); err != nil {
				return err
			}
		}
		for _, run := range r.GetClusters() {
			if err := tell(clean(run.GetCluster()), clean(run.GetPhase()), runWords(run)); err != nil {
				return err
			}
		}
		text := because(r.GetReason())
		if gate := r.GetWaveGate(); gate != "" && text == "" {
			text = ", gate " + clean(gate)
		}
		return tell(name, clean(r.GetPhase()), text)
	}
}

func runWords(run *rolloutv1.ClusterRun) string {
	text := ""
	if run.GetStep() != "" {
		text += " " + clean(run.GetStep())
	}
	if run.GetGate() != "" {
		text += ", gate " + clean(run.GetGate())
	}
	return text + because(run.GetReason())
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + clean(reason)
}
