package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	ch "github.com/ClickHouse/clickhouse-go/v2"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Code is the ClickHouse error code in err's chain (60 is an unknown table,
// 394 a cancelled query), or 0 when there is none.
func Code(err error) int32 {
	if exception, ok := errors.AsType[*ch.Exception](err); ok {
		return exception.Code
	}
	return 0
}

// Codes of ClickHouse's src/Common/ErrorCodes.cpp that mean something to people.
const (
	codeNoSuchColumn         = 16
	codeUnknownIdentifier    = 47
	codeUnknownTable         = 60
	codeUnknownDatabase      = 81
	codeReadonly             = 164
	codeUnknownUser          = 192
	codeWrongPassword        = 193
	codeRequiredPassword     = 194
	codeMemoryLimit          = 241
	codeNotEnoughSpace       = 243
	codeDatabaseAccessDenied = 291
	codeAccessDenied         = 497
	codeAuthenticationFailed = 516
)

// fault gives an error of the client its kind, its id and what to do about it.
func (s *Store) fault(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if ended := ctx.Err(); ended != nil {
		if err = s.cause(err); !errors.Is(err, ended) {
			err = fmt.Errorf("%w: %w", ended, err)
		}
		if errors.Is(ended, context.DeadlineExceeded) {
			return errs.New(errs.Timeout, "", "%s: %w", doing, err)
		}
		return fmt.Errorf("%s: %w", doing, err)
	}
	status, _ := errors.AsType[*ch.HTTPError](err)
	switch code := Code(err); {
	case code == codeNotEnoughSpace || code != 0 && strings.Contains(err.Error(), "No space left on device"):
		return errs.New(errs.Exhausted, "LS-STO-006", "%s: the disk of %s is full: %w; free space there, the store goes on by itself", doing, s.where, err)
	case code == codeMemoryLimit:
		return errs.New(errs.Exhausted, "LS-STO-010", "%s: it needs more memory than %s may take: %w", doing, s.where, err)
	case code == codeAuthenticationFailed, code == codeUnknownUser, code == codeWrongPassword, code == codeRequiredPassword,
		code == 0 && status != nil && (status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden):
		return errs.New(errs.Unauthenticated, "LS-STO-003", "%s: %s does not accept the user %q with this password: %w; correct both in the DSN (%s)", doing, s.where, s.options.Auth.Username, err, named)
	case code == codeAccessDenied, code == codeDatabaseAccessDenied, code == codeReadonly:
		return errs.New(errs.PermissionDenied, "LS-STO-004", "%s: the user %q lacks a right at %s: %w", doing, s.options.Auth.Username, s.where, err)
	case code == codeUnknownDatabase, code == codeUnknownTable, code == codeNoSuchColumn, code == codeUnknownIdentifier:
		return errs.New(errs.Conflict, "LS-STO-008", "%s: the database %s at %s has not what this version needs: %w; run `lockstep migrate`", doing, s.database, s.where, err)
	case code != 0:
		return fmt.Errorf("%s: %w", doing, err)
	case status != nil || unreachable(err):
		return errs.New(errs.Unavailable, "LS-STO-002", "%s: %s cannot be reached: %w; %s", doing, s.where, s.cause(err), s.remedy)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// unreachable says whether an error is one of the way to the server.
func unreachable(err error) bool {
	var (
		request *url.Error
		network net.Error
	)
	return errors.As(err, &request) || errors.As(err, &network) || errors.Is(err, ch.ErrAcquireConnTimeout) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// cause leaves out a request's address, which has every setting in it, and the
// client's advice about its own options.
func (s *Store) cause(err error) error {
	if errors.Is(err, ch.ErrAcquireConnTimeout) {
		return fmt.Errorf("it said nothing within %s: it takes connections and is silent, something on the way drops them, or all %d are busy", s.options.DialTimeout, s.options.MaxOpenConns)
	}
	if request, ok := errors.AsType[*url.Error](err); ok {
		return request.Err
	}
	return err
}
