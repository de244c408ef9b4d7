package akeyless

import (
	"context"
	"errors"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Kind says what went wrong with a call, decided once where it is seen.
type Kind string

// Every kind of failed call.
const (
	KindRejected    Kind = "rejected"     // the credentials or the token made from them
	KindAPI         Kind = "api"          // the documented {"error": …}: the call is refused
	KindFault       Kind = "fault"        // the documented {"error": …} with a 5xx: the server failed
	KindNotJSON     Kind = "not_json"     // something else than the API answered
	KindMalformed   Kind = "malformed"    // JSON, but cut short or of another shape
	KindUnreachable Kind = "unreachable"  // no answer: refused, broken off or too slow
	KindRateLimited Kind = "rate_limited" // asked to wait longer or more often than allowed
	KindTooLarge    Kind = "too_large"    // more bytes than accepted
	KindCommand     Kind = "command"      // the vendor's command line ran and failed
	KindNoCommand   Kind = "no_command"   // the vendor's command line cannot be run
)

// Error is a failed call. Its text holds no secret and no control character.
type Error struct {
	Kind        Kind
	Call        string        // the call's name, as in "list-sra-sessions"
	Address     string        // the full URL asked, else the command with the call
	Status      int           // the HTTP status, 0 when there was no answer; for KindCommand the exit code
	RetryAfter  time.Duration // for KindRateLimited: how long the server wants to be left alone
	ContentType string        // for KindNotJSON
	Start       string        // for KindNotJSON: the first words of the body
	Detail      string        // what the server or the network said
	cause       error
	cut         bool   // for KindMalformed: the answer ends too early
	check       string // for KindRejected: what the credentials are made of
}

func (e *Error) Error() string { return e.catalogued().Error() }

// Unwrap gives the failure as the product's catalogue has it, and the network's
// or the decoder's own error, if there was one.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.catalogued()}
	}
	return []error{e.catalogued(), e.cause}
}

// catalogued words the failure for people.
func (e *Error) catalogued() *errs.Error {
	switch e.Kind {
	case KindRejected:
		return errs.New(errs.Unauthenticated, "LS-VEN-001", "call %s: the credentials were rejected (HTTP %d: %s); check %s and that the authentication method is not expired", e.Address, e.Status, orDefault(e.Detail, "no reason given"), e.check)
	case KindAPI:
		return errs.New(errs.PermissionDenied, "LS-VEN-005", "call %s: the API refused (HTTP %d: %s); %s", e.Address, e.Status, orDefault(e.Detail, "no reason given"), e.remedy())
	case KindFault:
		return errs.New(errs.Unavailable, "LS-VEN-015", "call %s: the vendor has a fault (HTTP %d: %s); it is asked again by itself, tell the vendor when it lasts", e.Address, e.Status, orDefault(e.Detail, "no reason given"))
	case KindNotJSON:
		return errs.New(errs.Unavailable, "LS-VEN-003", "call %s: the answer is not the API's (HTTP %d, content type %q, it begins %q); a proxy or load balancer may have answered: check the base URL with its path, the proxy settings and that the API is up", e.Address, e.Status, e.ContentType, e.Start)
	case KindMalformed:
		return errs.New(errs.Unavailable, "LS-VEN-003", "call %s: the answer cannot be read (%s); check that nothing on the way cuts answers short and that the base URL is the API's", e.Address, e.Detail)
	case KindUnreachable:
		return errs.New(errs.Unavailable, "LS-VEN-002", "call %s: no complete answer (%s); check the address, DNS, the proxy settings and the network", e.Address, e.Detail)
	case KindRateLimited:
		return errs.New(errs.Exhausted, "LS-VEN-004", "call %s: the server limits calls (HTTP %d) and wants to be left alone for %s; poll less often", e.Address, e.Status, e.RetryAfter)
	case KindCommand:
		return errs.New(errs.Unavailable, "LS-VEN-010", "run %s: the vendor's command failed (exit code %d: %s); run it by hand as the user of this process", e.Address, e.Status, orDefault(e.Detail, "it said nothing"))
	case KindNoCommand:
		return errs.New(errs.Invalid, "LS-VEN-011", "run %s: the vendor's command cannot be run (%s); install it, or correct vendor.command", e.Address, e.Detail)
	case KindTooLarge:
		return errs.New(errs.Exhausted, "", "call %s: the answer is too large (%s)", e.Address, e.Detail)
	}
	return errs.New(errs.Internal, "", "call %s: failed (%s)", e.Address, e.Detail)
}

// remedy says what to do about a refused call.
func (e *Error) remedy() string {
	if e.Call == authCall {
		return "compare vendor.access_type and what belongs to it with the authentication method in the vendor's console"
	}
	return "give the credentials' role the right to this call (" + reportsAccess + " for sessions), or upgrade a gateway that is too old to know it"
}

// passing says whether the same call may succeed a moment later. One that took
// all of its time has had its moment.
func (e *Error) passing() bool {
	switch e.Kind {
	case KindUnreachable:
		return !errors.Is(e.cause, context.DeadlineExceeded)
	case KindNotJSON, KindFault:
		return true
	case KindMalformed:
		return e.cut
	case KindAPI, KindRejected, KindRateLimited, KindTooLarge, KindCommand, KindNoCommand:
	}
	return false
}

// KindOf returns the kind of a failed call, empty when err is nil or not one.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}
