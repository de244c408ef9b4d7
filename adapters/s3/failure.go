package s3

import (
	"context"
	"crypto/tls"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"unicode"

	"github.com/minio/minio-go/v7"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// errNoList is an answer in the place of a list.
var errNoList = errors.New("the answer is not a list of objects; something between here and the storage answers in its place")

// failure is an error with its class.
type failure struct {
	class fleet.Failure
	text  string
	cause error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.cause }

// Failure is the class.
func (f *failure) Failure() fleet.Failure { return f.class }

// failed words and classifies what a call ended with. An error that ctx caused is
// no failure of the storage and has no class.
func (s *Storage) failed(ctx context.Context, doing string, err error) error {
	if errors.Is(context.Cause(ctx), context.Canceled) {
		return fmt.Errorf("%s %s: %w", doing, s.target, context.Cause(ctx))
	}
	class := classify(err)
	f := &failure{class: class, text: s.words(err), cause: err}
	switch {
	case class == fleet.FailureForbidden:
		return errs.New(errs.PermissionDenied, "LS-PIP-003", "%s %s: %w", doing, s.target, f)
	case class == fleet.FailureMissing && codeOf(err) == minio.NoSuchBucket:
		return errs.New(errs.NotFound, "LS-PIP-004", "%s %s: %w", doing, s.target, f)
	case class == fleet.FailureSetup:
		return fmt.Errorf("%s %s: %w", doing, s.target, f) // the cause has an id
	}
	return errs.New(errs.Unavailable, "LS-PIP-002", "%s %s: %w", doing, s.target, f)
}

// words is an error's text without keys, addresses with their parameters and
// what would move a cursor.
func (s *Storage) words(err error) string {
	var text string
	if resp, ok := errors.AsType[minio.ErrorResponse](err); ok && resp.StatusCode != 0 {
		text = fmt.Sprintf("it answered %d %s: %s", resp.StatusCode, resp.Code, resp.Message)
	} else {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		text = err.Error()
		if errors.Is(err, context.DeadlineExceeded) {
			text = fmt.Sprintf("no answer within %s", s.opts.Timeout)
		}
	}
	keys := s.source.given()
	for _, secret := range []string{keys.SecretAccessKey, keys.SessionToken, keys.AccessKeyID} {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "***")
		}
	}
	if keys.AccessKeyID == "" && refused(err) {
		text += "; no keys were found in the environment, the shared credentials file or the machine's role"
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > 500 {
		text = string(runes[:500]) + "…"
	}
	return text
}

func codeOf(err error) string {
	resp, _ := errors.AsType[minio.ErrorResponse](err)
	return resp.Code
}

// refused says whether other keys might help.
func refused(err error) bool { return classify(err) == fleet.FailureForbidden }

// classify sorts out whose fault an error was.
func classify(err error) fleet.Failure {
	if resp, ok := errors.AsType[minio.ErrorResponse](err); ok {
		switch {
		case resp.StatusCode == 0: // the library's own words for an answer it cannot read
			return fleet.FailureContent
		case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden,
			resp.Code == "InvalidAccessKeyId", resp.Code == "ExpiredToken", resp.Code == "InvalidToken":
			return fleet.FailureForbidden
		case resp.StatusCode == http.StatusNotFound:
			return fleet.FailureMissing
		case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable:
			return fleet.FailureTooManyOpen
		}
		return fleet.FailureHTTPStatus
	}
	_, dns := errors.AsType[*net.DNSError](err)
	timeout, _ := errors.AsType[net.Error](err)
	_, distrust := errors.AsType[*tls.CertificateVerificationError](err)
	_, syntax := errors.AsType[*xml.SyntaxError](err)
	switch {
	case err == nil:
		return ""
	case errs.IDOf(err) != "":
		return fleet.FailureSetup // a key file's, and no other error below has an id
	case dns:
		return fleet.FailureDNS
	case errors.Is(err, syscall.ECONNREFUSED):
		return fleet.FailureRefused
	case errors.Is(err, context.DeadlineExceeded), timeout != nil && timeout.Timeout():
		return fleet.FailureTimeout
	case distrust:
		return fleet.FailureCertificate
	case brokenTLS(err):
		return fleet.FailureTLS
	case errors.Is(err, errNoList), syntax:
		return fleet.FailureContent
	}
	return transportFailure(err)
}

// transportFailure is the class of what is left: a connection that broke, or
// nothing that is known.
func transportFailure(err error) fleet.Failure {
	_, request := errors.AsType[*url.Error](err)
	_, network := errors.AsType[*net.OpError](err)
	if request || network || strings.Contains(err.Error(), "EOF") {
		return fleet.FailureUnreachable
	}
	return fleet.FailureUnclassified
}

// brokenTLS covers the three ways in which a handshake's end is told: a record
// that is none, an alert and a plain text.
func brokenTLS(err error) bool {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return true
	}
	op, _ := errors.AsType[*net.OpError](err)
	return op != nil && (op.Op == "remote error" || op.Op == "local error") || strings.Contains(err.Error(), "tls: ")
}
