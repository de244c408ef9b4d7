package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// explain classifies what a check ended with and words it without secrets.
func (e *Endpoint) explain(ctx context.Context, err error) (fleet.Failure, string) {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // its text repeats the URL
	}
	text, class := err.Error(), classify(err)
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		class, text = fleet.FailureUnclassified, "the check was cut short"
	case class == fleet.FailureTimeout:
		text = fmt.Sprintf("no answer within %s", e.opts.Timeout)
	}
	if token, err := e.token(); err == nil {
		text = hide(text, token)
	}
	return class, strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
}

// hide takes the token out of a text.
func hide(text, token string) string {
	if token == "" {
		return text
	}
	return strings.ReplaceAll(text, token, "***")
}

// classify sorts out whose fault an error was.
func classify(err error) fleet.Failure {
	_, dns := errors.AsType[*net.DNSError](err)
	timeout, _ := errors.AsType[net.Error](err)
	_, distrust := errors.AsType[*tls.CertificateVerificationError](err)
	answer, _ := errors.AsType[*refusal](err)
	switch {
	case errors.Is(err, errToken):
		return fleet.FailureSetup
	case answer != nil:
		return ofStatus(answer.status)
	case dns:
		return fleet.FailureDNS
	case errors.Is(err, syscall.ECONNREFUSED):
		return fleet.FailureRefused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), timeout != nil && timeout.Timeout():
		return fleet.FailureTimeout
	case distrust:
		return fleet.FailureCertificate
	case brokenTLS(err):
		return fleet.FailureTLS
	}
	if _, network := errors.AsType[*net.OpError](err); network || strings.Contains(err.Error(), "EOF") {
		return fleet.FailureUnreachable
	}
	return fleet.FailureUnclassified
}

func ofStatus(status int) fleet.Failure {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fleet.FailureForbidden
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return fleet.FailureTooManyOpen
	}
	return fleet.FailureHTTPStatus
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

// shown is when the first certificate ends, zero without one.
func shown(state tls.ConnectionState) time.Time {
	if len(state.PeerCertificates) == 0 {
		return time.Time{}
	}
	return state.PeerCertificates[0].NotAfter
}

// shownBy is the same of a certificate that was not trusted.
func shownBy(err error) time.Time {
	if distrust, ok := errors.AsType[*tls.CertificateVerificationError](err); ok && len(distrust.UnverifiedCertificates) > 0 {
		return distrust.UnverifiedCertificates[0].NotAfter
	}
	return time.Time{}
}
