package akeyless

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
	"unique"
)

const (
	longestID   = 512  // of ids and names that are compared: longer ones are not the vendor's
	longestText = 4096 // of free text, which is cut
	// largestPiece bounds one member of a streamed answer, such as a session.
	largestPiece = 4 << 20
)

// errTooLarge ends the reading of an answer that is longer than accepted.
var errTooLarge = errors.New("the answer is too large")

// text reads a JSON string or, since servers differ, a number in its own
// spelling. Everything else, null included, reads as empty.
type text string

func (t *text) UnmarshalJSON(raw []byte) error {
	*t = ""
	switch {
	case len(raw) == 0:
	case raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw):
		*t = text(raw[1 : len(raw)-1]) // most are plain, and this is a third of the work
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

// name returns t cut to a name's length. Names repeat from session to session:
// equal ones share their memory.
func (t text) name() string {
	if t == "" {
		return ""
	}
	return unique.Make(clip(string(t), longestID)).Value()
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

// instantOfAnyForm reads a time whose form nobody promised: RFC 3339, as Go
// prints times, or a Unix time in seconds or milliseconds. Anything else reads as
// the zero time.
func (t text) instantOfAnyForm() time.Time {
	s := strings.TrimSpace(string(t))
	if len(s) > 96 {
		return time.Time{}
	}
	// A number of less than nine digits would be long ago: rather a duration.
	const leastUnix, leastMillis = 1e9, 1e11
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		switch {
		case n >= leastMillis && n < leastMillis*1000:
			return time.UnixMilli(int64(n)).UTC()
		case n >= leastUnix && n < leastMillis:
			return time.Unix(int64(n), 0).UTC()
		}
		return time.Time{}
	}
	s, _, _ = strings.Cut(s, " m=") // Go's monotonic reading
	for _, form := range []string{
		time.RFC3339, "2006-01-02 15:04:05 -0700 MST", "2006-01-02 15:04:05 -0700", "2006-01-02 15:04:05Z07:00",
		"2006-01-02T15:04:05", time.DateTime, time.RFC1123, time.RFC1123Z, time.UnixDate, time.ANSIC,
	} {
		if at, err := time.Parse(form, s); err == nil && at.Year() > 1 {
			return at.UTC()
		}
	}
	return time.Time{}
}

// seconds reads a duration in whole seconds, 0 when it is none.
func (t text) seconds() time.Duration {
	n, err := strconv.ParseUint(string(t), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// truth reads a boolean, which some servers send as a string; nil when it is
// neither.
func truth(raw json.RawMessage) *bool {
	value, err := strconv.ParseBool(strings.Trim(string(raw), `"`))
	if err != nil {
		return nil
	}
	return &value
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

// whole reads an answer at once into a value.
func whole(into any) func(io.Reader) error {
	return func(r io.Reader) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		return parse(body, into)
	}
}

// parse is json.Unmarshal that tells an answer cut short from any other mistake.
func parse(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && syntax.Offset >= int64(len(body)) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// stream reads a JSON object of any length member by member, and its lists
// element by element, so that no more than one of these is held at a time.
type stream struct {
	dec   *json.Decoder
	pulse *pulse
}

func newStream(r io.Reader) *stream {
	p := &pulse{from: r, left: largestPiece}
	return &stream{dec: json.NewDecoder(p), pulse: p}
}

// object calls member for each key; member must read the value.
func (s *stream) object(member func(key string) error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	for s.dec.More() {
		token, err := s.dec.Token()
		if err != nil {
			return err
		}
		key, _ := token.(string)
		if err := member(key); err != nil {
			return err
		}
		s.pulse.left = largestPiece
	}
	if err := s.expect('}'); err != nil {
		return err
	}
	if _, err := s.dec.Token(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("more follows its end")
		}
		return err
	}
	return nil
}

// elements calls element for each element of a list. What it is given is good
// until it returns. It reports whether there was a list at all: null is none.
func (s *stream) elements(element func(json.RawMessage)) (bool, error) {
	token, err := s.dec.Token()
	switch {
	case err != nil:
		return false, err
	case token == nil:
		return false, nil
	case token != json.Delim('['):
		return false, fmt.Errorf("a list is expected where %T is", token)
	}
	var raw json.RawMessage
	for s.dec.More() {
		if err := s.dec.Decode(&raw); err != nil {
			return true, err
		}
		element(raw)
		s.pulse.left = largestPiece
	}
	return true, s.expect(']')
}

func (s *stream) expect(delim json.Delim) error {
	token, err := s.dec.Token()
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case err != nil:
		return err
	case token != delim:
		return fmt.Errorf("%q is expected", delim)
	}
	return nil
}

// pulse refuses to be read on when left bytes were read without a piece coming
// to its end.
type pulse struct {
	from io.Reader
	left int
}

func (p *pulse) Read(b []byte) (int, error) {
	if p.left <= 0 {
		return 0, errTooLarge
	}
	n, err := p.from.Read(b)
	p.left -= n
	return n, err
}

// bounded passes on at most left bytes and keeps the error that ended the
// reading, which a decoder may hide.
type bounded struct {
	from io.Reader
	left int64
	err  error
}

func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.from.Read(p)
	if int64(n) > b.left {
		b.err = errTooLarge
		return 0, errTooLarge
	}
	b.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}
