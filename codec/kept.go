package codec

import (
	"slices"
	"time"
)

// AsKept returns the record with its times as the history keeps them, so that what is
// decided as a record arrives is decided again from its row: to the nanosecond of
// sessions and of what marks promise, to the millisecond of all else that a gate
// takes in.
func (r Record) AsKept() Record {
	r.ObservedAt, r.RecordedAt = millisecond(r.ObservedAt), millisecond(r.RecordedAt)
	switch {
	case r.Mark != nil:
		mark := *r.Mark
		mark.Skew = mark.Skew.Truncate(time.Millisecond)
		r.Mark = &mark
	case r.Inventory != nil:
		inventory := *r.Inventory
		inventory.ObservedAt, inventory.Instances = millisecond(inventory.ObservedAt), slices.Clone(inventory.Instances)
		for i := range inventory.Instances {
			inventory.Instances[i].StartedAt = millisecond(inventory.Instances[i].StartedAt)
		}
		r.Inventory = &inventory
	case r.Registration != nil:
		registration := *r.Registration
		registration.ObservedAt, registration.LastReport = millisecond(registration.ObservedAt), millisecond(registration.LastReport)
		r.Registration = &registration
	case r.Check != nil:
		check := *r.Check
		check.At, check.CertificateExpires = millisecond(check.At), millisecond(check.CertificateExpires)
		check.Took = check.Took.Truncate(time.Microsecond)
		r.Check = &check
	}
	return r
}

// millisecond cuts a time; the zero time stays what it is.
func millisecond(t time.Time) time.Time { return t.Truncate(time.Millisecond) }
