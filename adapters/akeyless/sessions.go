package akeyless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// AllStatuses asks for sessions in every state. The API's own default, an
// empty list, means active sessions only.
func AllStatuses() []fleet.SessionStatus {
	return []fleet.SessionStatus{
		fleet.SessionConnecting, fleet.SessionConnected,
		fleet.SessionFailed, fleet.SessionCompleted, fleet.SessionTerminated,
	}
}

// SessionQuery narrows a session list.
type SessionQuery struct {
	Statuses []fleet.SessionStatus // empty means all five
}

// SessionPage is one answer of list-sra-sessions, newest session first.
type SessionPage struct {
	Sessions []Session
	// Unreadable lists the objects that could not be read as sessions.
	Unreadable []Unreadable
	// Next is the cursor of the following page, empty when this is the last.
	Next string
	// Gateways are the gateways whose sessions these credentials see in full.
	// It means something only when GatewaysSaid: servers leave it out of
	// further pages and for credentials that see only their own sessions.
	Gateways     []Gateway
	GatewaysSaid bool
	// AsOf is the server's clock when it was asked, at the earliest; the zero time
	// when it does not say.
	AsOf time.Time
}

// Session is one session with the vendor's name of its cluster. The Cluster of
// the embedded fleet.Session is empty and its Status may be one that
// this build does not know.
type Session struct {
	fleet.Session
	ClusterName string
}

// Unreadable is an object that could not be read as a session.
type Unreadable struct {
	ClusterName string // empty when not even that could be read
	Reason      string
}

// Gateway is one entry of allowed_gateways.
type Gateway struct {
	ClusterName string
	DisplayName string
}

// ErrRepeatedPage means that the server answered a pagination token with a
// page already sent: it is too old to page, and sessions beyond its first page
// cannot be read.
var ErrRepeatedPage error = errs.New(errs.Unavailable, "LS-VEN-007", "the server ignores pagination tokens and repeats its first page; sessions beyond it cannot be read: update the server")

// SessionPages walks the pages of a query, newest sessions first, one request
// for each page the caller asks for. It ends with the last page or after the
// first error; ErrRepeatedPage comes wrapped.
func (c *Client) SessionPages(ctx context.Context, query SessionQuery) iter.Seq2[SessionPage, error] {
	return func(yield func(SessionPage, error) bool) {
		var history pageHistory
		for cursor := ""; ; {
			repeated := history.asked(cursor)
			var page SessionPage
			var err error
			if !repeated {
				page, err = c.sessionPage(ctx, query, cursor)
				repeated = err == nil && history.repeats(page)
			}
			if repeated {
				err = fmt.Errorf("read page %d of %s/list-sra-sessions: %w", len(history.cursors), c.base, ErrRepeatedPage)
			}
			if err != nil {
				yield(SessionPage{}, err)
				return
			}
			if !yield(page, nil) || page.Next == "" {
				return
			}
			cursor = page.Next
		}
	}
}

func (c *Client) sessionPage(ctx context.Context, asked SessionQuery, cursor string) (SessionPage, error) {
	statuses := asked.Statuses
	if len(statuses) == 0 {
		statuses = AllStatuses()
	}
	q := query{call: "list-sra-sessions", body: map[string]any{"status-type": statuses}, streamed: true}
	for _, status := range statuses {
		q.flags = append(q.flags, "--status-type", string(status))
	}
	if cursor != "" {
		q.body[paginationToken] = cursor
		q.flags = append(q.flags, "--"+paginationToken, cursor)
	}
	var page SessionPage
	asOf, err := c.ask(ctx, q, func(r io.Reader) (err error) {
		page, err = decodeSessions(r)
		return err
	})
	if err != nil {
		var failure *Error
		if cursor != "" && errors.As(err, &failure) && failure.Kind == KindCommand && strings.Contains(failure.Detail, paginationToken) {
			err = ErrRepeatedPage // a command line that does not know the flag shows one page
		}
		return SessionPage{}, err
	}
	page.AsOf = asOf
	return page, nil
}

const paginationToken = "pagination-token"

// decodeSessions reads one session after the other: a page may hold all there
// are.
func decodeSessions(r io.Reader) (SessionPage, error) {
	var page SessionPage
	s := newStream(r)
	err := s.object(func(key string) (err error) {
		switch key {
		case "sessions":
			_, err = s.elements(func(raw json.RawMessage) {
				session, reason := decodeSession(raw)
				if reason == "" {
					page.Sessions = append(page.Sessions, session)
				} else {
					page.Unreadable = append(page.Unreadable, Unreadable{ClusterName: session.ClusterName, Reason: reason})
				}
			})
		case "next_page":
			var next text
			err = s.dec.Decode(&next)
			page.Next = string(next)
		case "allowed_gateways":
			page.GatewaysSaid, err = s.elements(func(raw json.RawMessage) {
				var wire wireGateway
				// An entry that cannot be read grants no sight of anything.
				if json.Unmarshal(raw, &wire) == nil && wire.Name.id() != "" {
					page.Gateways = append(page.Gateways, Gateway{ClusterName: wire.Name.id(), DisplayName: clip(string(wire.DisplayName), longestID)})
				}
			})
		default:
			var unknown json.RawMessage
			err = s.dec.Decode(&unknown)
		}
		return err
	})
	if err != nil {
		return SessionPage{}, err
	}
	return page, nil
}

type wireGateway struct {
	Name        text `json:"cluster_name"`
	DisplayName text `json:"cluster_display_name"`
}

// decodeSession returns a reason when the object is not a usable session, with
// the cluster's name as far as it could be read. It keeps nothing of raw.
func decodeSession(raw json.RawMessage) (Session, string) {
	var wire struct {
		ID             text        `json:"session_id"`
		Status         text        `json:"status"`
		Start          text        `json:"start_time"`
		End            text        `json:"end_time"`
		InstanceID     text        `json:"instance_id"`
		Gateway        wireGateway `json:"gateway_info"`
		AccessID       text        `json:"access_id"`
		User           text        `json:"user_identifier"`
		TargetHost     text        `json:"target_host"`
		TargetName     text        `json:"target_name"`
		TargetType     text        `json:"target_type"`
		ConnectionType text        `json:"connection_type"`
		ResourceType   text        `json:"resource_type"`
		Error          text        `json:"error_msg"`
	}
	err := json.Unmarshal(raw, &wire)
	s := Session{ClusterName: text(wire.Gateway.Name.id()).name()}
	switch {
	case err != nil:
		return s, "it is not an object of the expected shape"
	case wire.ID.id() == "":
		return s, "it has no usable session_id"
	case wire.Start.instant().IsZero():
		return s, "it has no usable start_time"
	}
	s.Session = fleet.Session{
		ID:         fleet.SessionID(wire.ID),
		Status:     fleet.SessionStatus(wire.Status.name()),
		User:       orDefault(wire.User, wire.AccessID).name(),
		Target:     orDefault(wire.TargetName, wire.TargetHost).name(),
		InstanceID: fleet.InstanceID(text(wire.InstanceID.id()).name()),
		Start:      wire.Start.instant(),
		Protocol:   orDefault(wire.ConnectionType, wire.ResourceType).name(),
		TargetType: wire.TargetType.name(),
	}
	if rank(s.Status) == rankEnded {
		s.End = wire.End.instant()
	}
	if s.Status == fleet.SessionFailed {
		s.Error = clip(string(wire.Error), longestText)
		s.Failure = classify(string(wire.Error))
	}
	return s, ""
}

// rank orders statuses by a session's life; rankUnknown is none of the five.
func rank(status fleet.SessionStatus) int {
	switch status {
	case fleet.SessionConnecting:
		return rankConnecting
	case fleet.SessionConnected:
		return rankConnected
	case fleet.SessionFailed, fleet.SessionCompleted, fleet.SessionTerminated:
		return rankEnded
	case fleet.SessionVanished: // our word: a server that uses it means something else
	}
	return rankUnknown
}

const (
	rankUnknown = iota
	rankConnecting
	rankConnected
	rankEnded
)

// pageHistory notices a server that repeats pages. Comparing whole pages is
// not enough: while sessions arrive, a repeated first page differs at its top.
// But a real next page never begins with a newer session than the page before.
type pageHistory struct {
	cursors map[string]struct{}
	// ids are hashes: of a long list they are much smaller, and two ids that share
	// one only make a page look less new.
	seed   maphash.Seed
	ids    map[uint64]struct{}
	newest time.Time // of the page before
}

// asked records a cursor and reports whether it was recorded before.
func (h *pageHistory) asked(cursor string) bool {
	if h.cursors == nil {
		h.cursors, h.ids, h.seed = make(map[string]struct{}), make(map[uint64]struct{}), maphash.MakeSeed()
	}
	_, before := h.cursors[cursor]
	h.cursors[cursor] = struct{}{}
	return before
}

func (h *pageHistory) repeats(page SessionPage) bool {
	if len(page.Sessions) == 0 {
		return false
	}
	only := len(h.cursors) == 1 && page.Next == "" // there is no page to compare with
	fresh, newest := false, time.Time{}
	for _, s := range page.Sessions {
		if only {
			break
		}
		id := maphash.String(h.seed, string(s.ID))
		if _, known := h.ids[id]; !known {
			fresh = true
			h.ids[id] = struct{}{}
		}
		if s.Start.After(newest) {
			newest = s.Start
		}
	}
	again := len(h.cursors) > 1 && (!fresh || !h.newest.IsZero() && newest.After(h.newest))
	h.newest = newest
	return again
}
