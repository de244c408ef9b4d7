package reach

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// doing is how people are told in which part something ended.
var doing = map[Part]string{
	PartDNS:       "looking up the name",
	PartConnect:   "connecting",
	PartTLS:       "in the TLS handshake",
	PartFirstByte: "waiting for an answer",
	PartAnswer:    "reading the answer",
	PartHandshake: "in the SSH handshake",
	PartLogin:     "logging in",
	PartCommand:   "running the command",
}

// Finding is an error that knows its class.
type Finding struct {
	Class fleet.Failure
	Text  string
}

func (f *Finding) Error() string { return f.Text }

// Found returns a finding; format and args are as for fmt.Errorf.
func Found(class fleet.Failure, format string, args ...any) error {
	return &Finding{Class: class, Text: fmt.Errorf(format, args...).Error()}
}

// explain gives the class of an error that ended a look in this part, and words
// for people.
func explain(ctx context.Context, part Part, err error) (fleet.Failure, string) {
	if finding, ok := errors.AsType[*Finding](err); ok {
		return finding.Class, Clean(finding.Text)
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // its text repeats the address
	}
	class := classify(ctx, err)
	switch {
	case part == PartTLS && (class == fleet.FailureUnclassified || class == fleet.FailureUnreachable):
		class = fleet.FailureTLS
	case (part == PartFirstByte || part == PartAnswer) && class == fleet.FailureUnclassified:
		class = fleet.FailureContent // it came through and cannot be read
	}
	where := cmp.Or(doing[part], "before connecting")
	switch {
	case class == fleet.FailureTimeout:
		return class, "no answer in time, " + where
	case ctx.Err() != nil:
		return class, "cut short, " + where
	}
	return class, Clean(where + ": " + err.Error())
}

// classify tells the classes of a failed connection apart.
func classify(ctx context.Context, err error) fleet.Failure {
	var (
		dns     *net.DNSError
		invalid *tls.CertificateVerificationError
		spoken  *net.OpError
		record  tls.RecordHeaderError
		timed   net.Error
	)
	// When time is over connections are closed, and what that breaks is of many
	// kinds; so the clock is asked first.
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return fleet.FailureTimeout
	case ctx.Err() != nil:
		return fleet.FailureUnclassified
	case errors.As(err, &dns):
		if dns.IsTimeout {
			return fleet.FailureTimeout
		}
		return fleet.FailureDNS
	case errors.As(err, &timed) && timed.Timeout():
		return fleet.FailureTimeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return fleet.FailureRefused
	case errors.As(err, &invalid), isCertificate(err):
		return fleet.FailureCertificate
	case errors.As(err, &spoken) && spoken.Op == "remote error", errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return fleet.FailureTLS
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED),
		errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN), errors.Is(err, syscall.ENETDOWN),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return fleet.FailureUnreachable
	}
	return fleet.FailureUnclassified
}

// isCertificate knows the refusals of a certificate that come bare.
func isCertificate(err error) bool {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	return errors.As(err, &authority) || errors.As(err, &name) || errors.As(err, &invalid)
}

// maxDetail bounds what is told, in bytes.
const maxDetail = 300

// Clean makes text that came from elsewhere fit to be told: on one line, without
// control characters, short.
func Clean(said string) string {
	const mark = "…"
	// Only the beginning can be told, however long it is.
	said = said[:min(len(said), 16*maxDetail)]
	words := strings.FieldsFunc(said, func(r rune) bool { return !isShown(r) })
	said = strings.Join(words, " ")
	if len(said) <= maxDetail {
		return said
	}
	return strings.ToValidUTF8(said[:maxDetail-len(mark)], "") + mark
}

func isShown(r rune) bool { return r != utf8.RuneError && unicode.IsPrint(r) && !unicode.IsSpace(r) }
