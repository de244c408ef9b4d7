package executor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
	commandv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/command/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// How the driver keeps in touch while it works.
const (
	// restoreTries is how often a restore is tried before a person must look.
	restoreTries = 3
	// busTries is how often a command is delivered before a bus that does not
	// yield what the command needs counts as its failure; with the bus's delays
	// that is about a minute.
	busTries = 8
)

// unreadable is a failure of the bus before the cluster was touched.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

// driver does what commands say. Its ledger is the step's event log: a command
// whose answer stands there is not done again, one that was begun is.
type driver struct {
	tenant fleet.TenantID
	deps   Deps
}

// ledger is what the log says of one command.
type ledger struct {
	revision uint64
	begunAt  time.Time
	finished bool
}

func (d *driver) handle(ctx context.Context, delivery bus.Delivery) error {
	var m commandv1.Command
	if err := proto.Unmarshal(delivery.Data, &m); err != nil {
		return bus.Permanent(fmt.Errorf("decoding a command: %w", err))
	}
	command, err := codec.CommandFromProto(&m)
	if err != nil {
		return bus.Permanent(err)
	}
	entry, err := d.read(ctx, command)
	if err != nil {
		return err
	}
	if entry.finished {
		return nil
	}
	if entry.begunAt.IsZero() {
		entry.begunAt = d.deps.Now()
		event := &commandv1.Event{
			Key: command.Key, Rollout: string(command.Rollout), Cluster: string(command.Cluster),
			Kind: &commandv1.Event_Begun{Begun: &commandv1.Begun{At: timestamppb.New(entry.begunAt)}},
		}
		if entry.revision, err = d.append(ctx, command, event, entry.revision); err != nil {
			return err
		}
	} else {
		d.deps.Log.Info("taking up a command that was cut off", "command", command.Key, "begun_at", entry.begunAt)
	}
	finished := rollout.CommandFinished{Key: command.Key, BeganAt: entry.begunAt}
	finished.Package, err = d.act(ctx, command)
	if ctx.Err() != nil {
		// Stopping is no answer: whoever takes the command up next finishes it.
		return ctx.Err()
	}
	var unread unreadable
	if errors.As(err, &unread) && delivery.Deliveries < busTries {
		// The bus failed and not the cluster, which was not touched.
		return err
	}
	if err != nil {
		finished.Error = err.Error()
		d.deps.Log.Error("a command failed", "command", command.Key, "error", err)
	}
	finished.FinishedAt = d.deps.Now()
	d.deps.Meter.Commanded(actionName(command.Action), err != nil, finished.FinishedAt.Sub(finished.BeganAt))
	_, err = d.append(ctx, command, codec.CommandFinishedToProto(command, finished), entry.revision)
	return err
}

func (d *driver) subject(command rollout.Command) string {
	return topology.EventSubject(d.tenant, topology.NounStep, string(command.Rollout), string(command.Cluster))
}

func (d *driver) read(ctx context.Context, command rollout.Command) (ledger, error) {
	var entry ledger
	err := d.deps.Bus.Load(ctx, topology.StreamEvents, d.subject(command), func(m bus.Message) error {
		var event commandv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
		}
		entry.revision = m.Sequence
		if event.GetKey() != command.Key {
			return nil
		}
		switch kind := event.GetKind().(type) {
		case *commandv1.Event_Begun:
			entry.begunAt = kind.Begun.GetAt().AsTime()
		case *commandv1.Event_Finished:
			entry.finished = true
		}
		return nil
	})
	return entry, err
}

func (d *driver) append(ctx context.Context, command rollout.Command, event *commandv1.Event, expected uint64) (uint64, error) {
	data, err := proto.Marshal(event)
	if err != nil {
		return 0, bus.Permanent(fmt.Errorf("encoding the record of %s: %w", command.Key, err))
	}
	return d.deps.Bus.Append(ctx, bus.Message{Subject: d.subject(command), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data}, expected)
}

// act does the command and returns the hash of the package that runs after it.
func (d *driver) act(ctx context.Context, command rollout.Command) (string, error) {
	deployment, known := d.deps.Fleet().Deployments[command.Cluster]
	if !known {
		return "", errs.New(errs.NotFound, "LS-ROL-021", "the configuration has no cluster %s any more", command.Cluster)
	}
	switch action := command.Action.(type) {
	case rollout.Capture:
		var pkg []byte
		if err := inTime(ctx, func(ctx context.Context) (err error) {
			pkg, err = deployment.Capture(ctx)
			return err
		}); err != nil {
			return "", err
		}
		hash, err := d.deps.Bus.PutBlob(ctx, topology.BucketBlobs, pkg)
		if err != nil {
			return "", unreadable{err}
		}
		return hash, nil
	case rollout.Apply:
		base, err := d.blob(ctx, action.BasePackage)
		if err != nil {
			return "", err
		}
		var pkg []byte
		if err := inTime(ctx, func(ctx context.Context) (err error) {
			pkg, err = deployment.Retarget(ctx, base, action)
			return err
		}); err != nil {
			return "", err
		}
		hash, err := d.deps.Bus.PutBlob(ctx, topology.BucketBlobs, pkg)
		if err != nil {
			return "", unreadable{err}
		}
		return hash, d.apply(ctx, deployment, command, pkg)
	case rollout.Restore:
		pkg, err := d.blob(ctx, action.Package)
		if err != nil {
			return "", err
		}
		return action.Package, d.restore(ctx, deployment, command, pkg)
	}
	return "", fmt.Errorf("command %s asks for nothing this driver knows", command.Key)
}

// blob reads a package. One that does not exist will not come to exist.
func (d *driver) blob(ctx context.Context, name string) ([]byte, error) {
	data, err := d.deps.Bus.GetBlob(ctx, topology.BucketBlobs, name)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return nil, unreadable{err}
	}
	return data, err
}

// apply brings the cluster to a package unless it is stopped before or meanwhile.
func (d *driver) apply(ctx context.Context, deployment Deployment, command rollout.Command, pkg []byte) error {
	switch stopped, err := d.stopped(ctx, command); {
	case err != nil:
		// Whoever cannot be stopped must not begin.
		return unreadable{err}
	case stopped:
		return errAborted
	}
	ctx, cancel := d.untilAborted(ctx, command)
	defer cancel(nil)
	err := inTime(ctx, func(ctx context.Context) error { return deployment.Apply(ctx, pkg) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// restore tries more than once: it is the way out of trouble.
func (d *driver) restore(ctx context.Context, deployment Deployment, command rollout.Command, pkg []byte) error {
	var failures []error
	for try := range restoreTries {
		if try > 0 {
			if err := rtime.Wait(ctx, time.Duration(try)*2*time.Second); err != nil {
				return err
			}
		}
		err := inTime(ctx, func(ctx context.Context) error { return deployment.Apply(ctx, pkg) })
		if err == nil {
			return nil
		}
		d.deps.Log.Warn("a restore failed", "command", command.Key, "try", try+1, "error", err)
		failures = append(failures, err)
	}
	return fmt.Errorf("%d tries failed, the last with: %w", len(failures), failures[len(failures)-1])
}

// inTime bounds one touch of a cluster: an engine that hangs must not hold up the
// commands behind it for ever.
func inTime(ctx context.Context, fn func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, rollout.StepAllowance)
	defer cancel()
	err := fn(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return errs.New(errs.Timeout, "LS-ROL-020", "given up after %s, the longest that one command may take at a cluster: %w", rollout.StepAllowance, err)
	}
	return err
}

var errAborted = errors.New("stopped: the cluster goes back to its recorded package")

// stopped reads the control bucket.
func (d *driver) stopped(ctx context.Context, command rollout.Command) (bool, error) {
	value, err := d.deps.Bus.GetKey(ctx, topology.BucketControl, controlKey(command.Rollout, command.Cluster))
	if errors.Is(err, bus.ErrNotFound) {
		return false, nil
	}
	return string(value) == controlAbort, err
}

// untilAborted returns a context that ends when the control bucket says abort.
func (d *driver) untilAborted(ctx context.Context, command rollout.Command) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		err := d.deps.Bus.WatchKeys(ctx, topology.BucketControl, controlKey(command.Rollout, command.Cluster), func(e bus.Entry) error {
			if string(e.Value) == controlAbort {
				cancel(errAborted)
			}
			return nil
		})
		if ctx.Err() == nil {
			// Whoever cannot be stopped must not go on.
			cancel(fmt.Errorf("watching the control bucket: %w", err))
		}
	}()
	return ctx, cancel
}

func actionName(a rollout.Action) string {
	switch a.(type) {
	case rollout.Capture:
		return "capture"
	case rollout.Apply:
		return "apply"
	default:
		return "restore"
	}
}
