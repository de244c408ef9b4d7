package akeyless

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const redacted = "[redacted]"

// Secret is text that formats, logs and marshals as "[redacted]", whatever the
// verb, so that a struct holding one can be printed.
type Secret string

// Format writes the placeholder for every verb.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }

// MarshalText returns the placeholder.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// clean makes text that a server sent fit for an error: without the secrets it
// may echo (as they are, or escaped for JSON, HTML, a URL), on one line,
// without control characters and short.
func (c *Client) clean(said string, token Secret) string {
	c.mu.Lock()
	secrets := append([]Secret{token, c.grant.token}, c.secrets...)
	c.mu.Unlock()
	for _, s := range secrets {
		plain := string(s)
		if len(plain) < 4 {
			continue // would blank out half the message and protect nothing
		}
		spelled := []string{plain, strings.Trim(strconv.Quote(plain), `"`)}
		if j, err := json.Marshal(plain); err == nil {
			spelled = append(spelled, string(j[1:len(j)-1]))
		}
		for _, form := range spelled {
			for _, escape := range []func(string) string{func(s string) string { return s }, html.EscapeString, url.QueryEscape, url.PathEscape} {
				said = strings.ReplaceAll(said, escape(form), redacted)
			}
		}
	}
	return oneLine(said, 200)
}

// oneLine makes text of others fit for an error: on one line, without control
// characters and short.
func oneLine(said string, limit int) string {
	words := strings.FieldsFunc(said, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r) || r == utf8.RuneError
	})
	return clip(strings.Join(words, " "), limit)
}

// clip shortens s to at most limit bytes at a rune border.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const mark = "…"
	cut := limit - len(mark)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + mark
}
