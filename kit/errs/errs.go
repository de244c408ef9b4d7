// Package errs owns what kinds of errors there are and how one carries its
// permanent catalogue id. The kind is decided once, where the error arises, and
// translated once, at the edge.
package errs

import (
	"errors"
	"fmt"
)

// Kind says what a caller can do about an error.
type Kind string

// Every value Kind takes.
const (
	// Internal: nothing the caller did; try again or report it.
	Internal Kind = "internal"
	// Invalid: the request itself is wrong.
	Invalid Kind = "invalid"
	// NotFound: what was named does not exist.
	NotFound Kind = "not_found"
	// Conflict: the state of things forbids it now.
	Conflict Kind = "conflict"
	// Unavailable: something that is needed cannot be reached; try again later.
	Unavailable Kind = "unavailable"
)

// Error is an error with a kind and, when people may meet it, a catalogue id.
type Error struct {
	Kind Kind
	// ID is permanent, such as "LS-ROL-001"; empty when the error has none.
	ID  string
	err error
}

// New returns an error; format and args are as for fmt.Errorf, %w included.
func New(kind Kind, id, format string, args ...any) *Error {
	return &Error{Kind: kind, ID: id, err: fmt.Errorf(format, args...)}
}

func (e *Error) Error() string {
	if e.ID != "" {
		return e.ID + ": " + e.err.Error()
	}
	return e.err.Error()
}

// Unwrap gives the text and all that it wraps.
func (e *Error) Unwrap() error { return e.err }

// KindOf returns the kind an error carries, the outermost of several, and
// Internal when it carries none.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}
