package akeylesstest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Dialect is how the server words its bastions.
type Dialect string

// Both dialects a server may speak.
const (
	DialectSchema    Dialect = "schema"    // as published: instance ids as keys, no versions
	DialectInstances Dialect = "instances" // beside it an object per instance, with version and last report
)

// Expiration is how the server says when a token ends; no document says it.
type Expiration string

// Every way seen.
const (
	ExpirationRFC3339 Expiration = "rfc3339"
	ExpirationUnix    Expiration = "unix" // seconds, as text
	ExpirationAbsent  Expiration = "absent"
)

// switches are what a test or a lab makes the server do, most of it wrong.
type switches struct {
	dialect     Dialect
	expiration  Expiration
	tokenTTL    time.Duration
	pageSize    int
	oldServer   bool
	skew        time.Duration
	down        bool
	latency     time.Duration
	limited     int // calls still to be refused
	retryAfter  time.Duration
	html        int // calls still to be answered by "a proxy"
	truncated   int // calls still to be answered by half
	failing     int // calls still to be answered with failure
	failure     refusal
	expireAfter int // calls with a token until all tokens expire; 0 means never
	hidden      map[string]bool
	forbidden   map[string]bool
	silent      bool // leaves allowed_gateways out
	nulls       bool
	zeroTimes   bool
	duplicates  bool
}

func (s *Server) set(change func(*switches)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.switches)
}

// SetDialect changes how bastions are worded.
func (s *Server) SetDialect(d Dialect) { s.set(func(w *switches) { w.dialect = d }) }

// SetExpiration changes how the end of a token is worded.
func (s *Server) SetExpiration(e Expiration) { s.set(func(w *switches) { w.expiration = e }) }

// SetPageSize changes how many sessions a page holds; a huge one is a server
// that sends all at once.
func (s *Server) SetPageSize(n int) { s.set(func(w *switches) { w.pageSize = n }) }

// SetOldServer makes the server ignore pagination tokens, or not.
func (s *Server) SetOldServer(old bool) { s.set(func(w *switches) { w.oldServer = old }) }

// SetClockSkew puts the server's clock ahead of Options.Now: the Date header and
// the end of tokens. What was reported keeps the times it was reported with.
func (s *Server) SetClockSkew(ahead time.Duration) { s.set(func(w *switches) { w.skew = ahead }) }

// SetDown makes every API call end without an answer, until it is unset. The
// lab's own calls still work.
func (s *Server) SetDown(down bool) { s.set(func(w *switches) { w.down = down }) }

// SetLatency delays each answer.
func (s *Server) SetLatency(d time.Duration) { s.set(func(w *switches) { w.latency = d }) }

// RateLimit refuses the next n calls with 429 and, when retryAfter is
// positive, that Retry-After in whole seconds.
func (s *Server) RateLimit(n int, retryAfter time.Duration) {
	s.set(func(w *switches) { w.limited, w.retryAfter = n, retryAfter })
}

// RespondHTML answers the next n calls with an HTML page and status 502, as a
// load balancer does.
func (s *Server) RespondHTML(n int) { s.set(func(w *switches) { w.html = n }) }

// RespondTruncated answers the next n calls with the first half of their answer
// and the status of the whole.
func (s *Server) RespondTruncated(n int) { s.set(func(w *switches) { w.truncated = n }) }

// RespondError answers the next n calls with a documented error.
func (s *Server) RespondError(n, status int, message string) {
	s.set(func(w *switches) { w.failing, w.failure = n, refuse(status, message) })
}

// Forbid refuses one call, named as in "list-gateways", to every credential, as
// a role without that permission does.
func (s *Server) Forbid(call string, forbid bool) {
	s.set(func(w *switches) { put(w.forbidden, call, forbid) })
}

// HideGateway takes a gateway and its sessions out of everyone's sight, or
// puts them back.
func (s *Server) HideGateway(clusterName string, hide bool) {
	s.set(func(w *switches) { put(w.hidden, clusterName, hide) })
}

// OmitGateways leaves allowed_gateways out of every answer, as servers do for
// callers that see only their own sessions.
func (s *Server) OmitGateways(omit bool) { s.set(func(w *switches) { w.silent = omit }) }

// SetNulls sends null for every text, list and object that is empty, as some
// servers' encoders do.
func (s *Server) SetNulls(nulls bool) { s.set(func(w *switches) { w.nulls = nulls }) }

// SetZeroTimes sends the year 1 as end_time of active sessions, which have none
// otherwise.
func (s *Server) SetZeroTimes(zero bool) { s.set(func(w *switches) { w.zeroTimes = zero }) }

// SetDuplicates begins each further page with the last session of the page
// before, as pages do that are cut by time.
func (s *Server) SetDuplicates(twice bool) { s.set(func(w *switches) { w.duplicates = twice }) }

// ExpireTokens makes every token issued so far invalid.
func (s *Server) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// ExpireTokensAfter makes all tokens invalid once n more calls have used one,
// so that they expire between two pages. 0 takes it back.
func (s *Server) ExpireTokensAfter(n int) { s.set(func(w *switches) { w.expireAfter = n }) }

func put(in map[string]bool, name string, is bool) {
	if is {
		in[name] = true
	} else {
		delete(in, name)
	}
}

// Switches is what PUT /lab/switches takes: the server's switches for a lab in
// another process. An absent field leaves its switch alone.
type Switches struct {
	Dialect           *Dialect    `json:"dialect,omitempty"`
	Expiration        *Expiration `json:"expiration,omitempty"`
	TokenTTLSeconds   *int64      `json:"token_ttl_seconds,omitempty"`
	PageSize          *int        `json:"page_size,omitempty"`
	OldServer         *bool       `json:"old_server,omitempty"`
	ClockSkewMillis   *int64      `json:"clock_skew_ms,omitempty"`
	Down              *bool       `json:"down,omitempty"`
	LatencyMillis     *int64      `json:"latency_ms,omitempty"`
	RateLimitCalls    *int        `json:"rate_limit_calls,omitempty"`
	RetryAfterSeconds *int64      `json:"retry_after_seconds,omitempty"` // goes with rate_limit_calls
	HTMLCalls         *int        `json:"html_calls,omitempty"`
	TruncatedCalls    *int        `json:"truncated_calls,omitempty"`
	ErrorCalls        *int        `json:"error_calls,omitempty"`
	ErrorStatus       *int        `json:"error_status,omitempty"`  // goes with error_calls; 0 means 500
	ErrorMessage      *string     `json:"error_message,omitempty"` // goes with error_calls
	ForbiddenCalls    *[]string   `json:"forbidden_calls,omitempty"`
	HiddenGateways    *[]string   `json:"hidden_gateways,omitempty"` // all that are hidden
	OmitGateways      *bool       `json:"omit_gateways,omitempty"`
	Nulls             *bool       `json:"nulls,omitempty"`
	ZeroTimes         *bool       `json:"zero_times,omitempty"`
	Duplicates        *bool       `json:"duplicates,omitempty"`
	ExpireTokens      bool        `json:"expire_tokens,omitempty"`
	ExpireTokensAfter *int        `json:"expire_tokens_after,omitempty"`
}

func (s *Server) putSwitches(body *json.Decoder) error {
	var w Switches
	if err := body.Decode(&w); err != nil {
		return fmt.Errorf("read the switches: %w", err)
	}
	if w.Dialect != nil && *w.Dialect != DialectSchema && *w.Dialect != DialectInstances {
		return fmt.Errorf("set switches: dialect %q is neither %q nor %q", *w.Dialect, DialectSchema, DialectInstances)
	}
	if e := w.Expiration; e != nil && *e != ExpirationRFC3339 && *e != ExpirationUnix && *e != ExpirationAbsent {
		return fmt.Errorf("set switches: expiration %q is none of %q, %q and %q", *e, ExpirationRFC3339, ExpirationUnix, ExpirationAbsent)
	}
	if w.PageSize != nil && *w.PageSize <= 0 || w.TokenTTLSeconds != nil && *w.TokenTTLSeconds <= 0 {
		return errors.New("set switches: page_size and token_ttl_seconds must be positive")
	}
	s.set(func(is *switches) {
		assign(&is.dialect, w.Dialect)
		assign(&is.expiration, w.Expiration)
		span(&is.tokenTTL, w.TokenTTLSeconds, time.Second)
		assign(&is.pageSize, w.PageSize)
		assign(&is.oldServer, w.OldServer)
		span(&is.skew, w.ClockSkewMillis, time.Millisecond)
		assign(&is.down, w.Down)
		span(&is.latency, w.LatencyMillis, time.Millisecond)
		assign(&is.limited, w.RateLimitCalls)
		span(&is.retryAfter, w.RetryAfterSeconds, time.Second)
		assign(&is.html, w.HTMLCalls)
		assign(&is.truncated, w.TruncatedCalls)
		assign(&is.failing, w.ErrorCalls)
		assign(&is.failure.status, w.ErrorStatus)
		is.failure.status = cmp.Or(is.failure.status, http.StatusInternalServerError)
		assign(&is.failure.message, w.ErrorMessage)
		names(is.forbidden, w.ForbiddenCalls)
		names(is.hidden, w.HiddenGateways)
		assign(&is.silent, w.OmitGateways)
		assign(&is.nulls, w.Nulls)
		assign(&is.zeroTimes, w.ZeroTimes)
		assign(&is.duplicates, w.Duplicates)
		assign(&is.expireAfter, w.ExpireTokensAfter)
	})
	if w.ExpireTokens {
		s.ExpireTokens()
	}
	return nil
}

func assign[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func span(to *time.Duration, from *int64, unit time.Duration) {
	if from != nil {
		*to = time.Duration(*from) * unit
	}
}

func names(to map[string]bool, from *[]string) {
	if from == nil {
		return
	}
	clear(to)
	for _, name := range *from {
		to[name] = true
	}
}
