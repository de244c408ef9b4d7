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
	// Unauthenticated: who the caller is was not shown, or is not believed.
	Unauthenticated Kind = "unauthenticated"
	// PermissionDenied: the caller is known and may not do this.
	PermissionDenied Kind = "permission_denied"
	// Exhausted: a limit is reached, such as a full store or too large a message.
	Exhausted Kind = "exhausted"
	// Timeout: it took longer than it may; it may still have happened.
	Timeout Kind = "timeout"
)

// Kinds returns every kind.
func Kinds() []Kind {
	return []Kind{Internal, Invalid, NotFound, Conflict, Unavailable, Unauthenticated, PermissionDenied, Exhausted, Timeout}
}

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

// IDOf returns the catalogue id an error carries, the outermost of several, and
// "" when it carries none.
func IDOf(err error) string {
	switch e := err.(type) { //nolint:errorlint // every error of the tree is looked at by itself, because one without an id hides none below it
	case *Error:
		if e.ID != "" {
			return e.ID
		}
		return IDOf(e.err)
	case interface{ Unwrap() error }:
		return IDOf(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			if id := IDOf(one); id != "" {
				return id
			}
		}
	}
	return ""
}
