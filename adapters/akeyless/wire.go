package akeyless

import (
	"bytes"
	"encoding/json"
	"time"
)

const (
	longestID   = 512  // of ids and names that are compared: longer ones are not the vendor's
	longestText = 4096 // of free text, which is cut
)

// text reads a JSON string or, since servers differ, a number in its own
// spelling. Everything else, null included, reads as empty.
type text string

func (t *text) UnmarshalJSON(raw []byte) error {
	*t = ""
	switch {
	case len(raw) == 0:
	case raw[0] == '"':
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		*t = text(s)
	case raw[0] == '-' || raw[0] >= '0' && raw[0] <= '9':
		*t = text(raw)
	}
	return nil
}

// id returns t if it can be an id or a name, else empty.
func (t text) id() string {
	if len(t) > longestID {
		return ""
	}
	return string(t)
}

// instant reads an RFC 3339 time. Empty, the zero time and anything else read
// as the zero time: the caller decides whether it can do without.
func (t text) instant() time.Time {
	if len(t) > 64 {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, string(t))
	if err != nil || at.Year() <= 1 {
		return time.Time{}
	}
	return at.UTC()
}

// list reads a JSON array, taking null or absence for empty, and keeps its
// elements unread so that a bad one spoils only itself.
type list []json.RawMessage

func (l *list) UnmarshalJSON(raw []byte) error {
	*l = nil
	if bytes.Equal(raw, []byte("null")) {
		return nil
	}
	return json.Unmarshal(raw, (*[]json.RawMessage)(l))
}
