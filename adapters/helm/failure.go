package helm

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

	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// errDowngrade ends a redirect that would go on in the clear.
var errDowngrade = errors.New("it redirects from https to http, which anybody on the way can change")

// doing says what is being done, to what.
func (s *source) doing() string { return cmp.Or(s.purpose, "read releases from ") + s.name }

// failed words the error of a call that got no answer.
func (s *source) failed(ctx context.Context, err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // without the address, which may be signed
	}
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return fmt.Errorf("%s: %w", s.doing(), err)
	case errors.Is(err, errDowngrade):
		return errs.New(errs.Unavailable, "LS-REL-007", "%s: %w; give the address that it leads to", s.doing(), err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return errs.New(errs.Unavailable, "LS-REL-007", "%s: the server speaks http and no TLS; use http://, or plain HTTP for a registry", s.doing())
	case ofTLS(err):
		return errs.New(errs.Unavailable, "LS-REL-007", "%s: %w; trust its authority with a CA file, or correct the address", s.doing(), err)
	}
	return errs.New(errs.Unavailable, "LS-REL-001", "%s: no answer: %w; check the address, DNS, firewall and HTTPS_PROXY", s.doing(), err)
}

func ofTLS(err error) bool {
	var verification *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var authority x509.UnknownAuthorityError
	return errors.As(err, &verification) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &authority)
}

// refused words an answer that is none of what was asked for. Detail is what the
// server says of it, for people.
func (s *source) refused(status int, detail string) error {
	said := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if detail != "" {
		said += ": " + clip(detail)
	}
	switch {
	case status == http.StatusUnauthorized && s.login == login{}:
		return errs.New(errs.Unauthenticated, "LS-REL-002", "%s: it wants to know who asks (%s); give a name and a password file, or log in with Helm", s.doing(), said)
	case status == http.StatusUnauthorized:
		return errs.New(errs.Unauthenticated, "LS-REL-002", "%s: it rejects the name or the password of %s (%s); correct them", s.doing(), s.login.from, said)
	case status == http.StatusProxyAuthRequired:
		return errs.New(errs.Unauthenticated, "LS-REL-002", "%s: the proxy wants to know who asks (%s); put name and password into HTTPS_PROXY", s.doing(), said)
	case status == http.StatusForbidden:
		return errs.New(errs.PermissionDenied, "LS-REL-003", "%s: it does not allow to read there (%s); ask for the permission, or correct the address", s.doing(), said)
	case status == http.StatusNotFound, status == http.StatusGone:
		return errs.New(errs.NotFound, "LS-REL-004", "%s: there is nothing (%s); correct the address", s.doing(), said)
	case status >= http.StatusInternalServerError, status == http.StatusRequestTimeout:
		return errs.New(errs.Unavailable, "LS-REL-001", "%s: it does not work just now (%s); try again later", s.doing(), said)
	}
	return errs.New(errs.Unavailable, "LS-REL-011", "%s: it refuses to answer (%s); see what it says", s.doing(), said)
}

// ofRegistry words an error of a registry or of the way there.
func (s *source) ofRegistry(ctx context.Context, err error) error {
	if answer, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		detail := ""
		if len(answer.Errors) > 0 {
			detail = answer.Errors.Error()
		}
		return s.refused(answer.StatusCode, detail)
	}
	switch {
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return s.refused(http.StatusUnauthorized, "")
	case errors.Is(err, errdef.ErrNotFound):
		return s.refused(http.StatusNotFound, "")
	case errors.Is(err, errdef.ErrSizeExceedsLimit):
		return s.tooBig("an answer")
	case ctx.Err() != nil, ofNetwork(err):
		return s.failed(ctx, err)
	}
	return errs.New(errs.Unavailable, "LS-REL-011", "%s: it does not answer as a registry does: %w; correct the address", s.doing(), err)
}

// ofNetwork says whether an error is of the way to a server, not of what it says.
func ofNetwork(err error) bool {
	var request *url.Error
	var network net.Error
	return errors.As(err, &request) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
}

func (s *source) tooBig(what string) error {
	return errs.New(errs.Exhausted, "LS-REL-006", "%s: %s is larger than what is taken; name one chart, or read a copy that holds fewer releases", s.doing(), what)
}
