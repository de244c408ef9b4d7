package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/kit/config"
)

// choice is a flag that takes one of a few words.
type choice struct {
	value *string
	words []string
}

func (c choice) String() string { return *c.value }
func (c choice) Type() string   { return "format" }
func (c choice) Set(v string) error {
	if !slices.Contains(c.words, v) {
		return fmt.Errorf("use one of %s", strings.Join(c.words, ", "))
	}
	*c.value = v
	return nil
}

// choices is a flag that takes some of a few words, repeated or with commas
// between.
type choices struct {
	values *[]string
	words  []string
}

func (c choices) String() string { return strings.Join(*c.values, ",") }
func (c choices) Type() string   { return "words" }
func (c choices) Set(v string) error {
	for word := range strings.SplitSeq(v, ",") {
		word = strings.TrimSpace(word)
		if !slices.Contains(c.words, word) {
			text := "use some of " + strings.Join(c.words, ", ")
			if near := config.Nearest(word, c.words); len(near) > 0 {
				text += "; did you mean " + near[0] + "?"
			}
			return errors.New(text)
		}
		*c.values = append(*c.values, word)
	}
	return nil
}

// outputFlag adds -o; the first format is the default.
func outputFlag(c *cobra.Command, into *string, formats ...string) {
	*into = formats[0]
	c.Flags().VarP(choice{into, formats}, "output", "o", "output `format`: "+strings.Join(formats, ", "))
	offer(c, "output", formats...)
}

// encode gives a message as one line of JSON, with the names of the contract.
// Numbers that are zero are written: a script that reads a count must find it.
func encode(m proto.Message) ([]byte, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	// protojson varies its spacing on purpose; scripts and goldens want one form.
	var line bytes.Buffer
	if err := json.Compact(&line, raw); err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return line.Bytes(), nil
}

// line prints a message as one line of JSON.
func (s *shell) line(m proto.Message) error {
	raw, err := encode(m)
	if err != nil {
		return err
	}
	return s.print(string(raw) + "\n")
}

// object prints one message as json or yaml.
func (s *shell) object(m proto.Message, format string) error {
	raw, err := encode(m)
	if err != nil {
		return err
	}
	return s.encoded(raw, format)
}

// objects prints messages as one json or yaml list.
func objects[M proto.Message](s *shell, list []M, format string) error {
	parts := make([][]byte, 0, len(list))
	for _, m := range list {
		raw, err := encode(m)
		if err != nil {
			return err
		}
		parts = append(parts, raw)
	}
	return s.encoded(slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]")), format)
}

// rows prints a list as json or yaml, in the names of its fields.
func rows[T any](s *shell, list []T, format string) error {
	if list == nil {
		list = []T{} // no null for a script that counts
	}
	return s.plainly(list, format)
}

// plainly prints what is no message of the API.
func (s *shell) plainly(v any, format string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // <sink> is no HTML
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode the output: %w", err)
	}
	return s.encoded(bytes.TrimSpace(b.Bytes()), format)
}

// encoded prints JSON indented or as YAML, keys in the order they came.
func (s *shell) encoded(raw []byte, format string) error {
	var b bytes.Buffer
	if format == "json" {
		if err := json.Indent(&b, raw, "", "  "); err != nil {
			return fmt.Errorf("indent the output: %w", err)
		}
		b.WriteByte('\n')
		return s.print(b.String())
	}
	var doc yaml.Node // JSON is YAML
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("turn the output into YAML: %w", err)
	}
	plain(&doc)
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return fmt.Errorf("turn the output into YAML: %w", err)
	}
	return s.print(b.String())
}

// plain removes JSON's braces and quotes where YAML needs none.
func plain(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, child := range n.Content {
		plain(child)
	}
}

// table is rows under a header.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) {
	for i, c := range cells {
		if cells[i] = clean(c); cells[i] == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// widths are the columns' widths in letters.
func (t *table) widths() []int {
	widths := make([]int, len(t.header))
	for i, h := range t.header {
		widths[i] = utf8.RuneCountInString(h)
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	return widths
}

// render lays the table out; text/tabwriter would count colours as letters.
func (t *table) render(colour bool) string {
	widths := t.widths()
	var b strings.Builder
	writeRow(&b, t.header, widths, false)
	for _, row := range t.rows {
		writeRow(&b, row, widths, colour)
	}
	return b.String()
}

func writeRow(b *strings.Builder, row []string, widths []int, colour bool) {
	for i, cell := range row {
		b.WriteString(paint(cell, colour))
		if i < len(row)-1 {
			b.WriteString(strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(cell))+3))
		}
	}
	b.WriteByte('\n')
}

// paint colours a state word: green for what is right, yellow for what needs a
// look, red for what is wrong. Any other text stays as it is.
func paint(word string, colour bool) string {
	code := ""
	switch word {
	case "locked", "succeeded", "pass", "healthy", "ok", "available":
		code = green
	case "stepping", "overdue", "drifted", "split", "held", "hold", "inconclusive", "rolling_back", "warn", "blocked", "changed", "extra":
		code = yellow
	case "withdrawn", "dark", "failed", "fail", "rolled_back", "unhealthy", "missing":
		code = red
	}
	return tint(word, code, colour)
}

// The colours of a terminal.
const green, yellow, red = "32", "33", "31"

// tint colours a text; no code leaves it as it is.
func tint(text, code string, colour bool) string {
	if !colour || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// clean keeps text from a server on its line and out of the terminal's
// controls: reasons may quote what a vendor or a user wrote.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, text)
}

// age is how long ago something was, in the largest two units that matter.
func (s *shell) age(t *timestamppb.Timestamp) string { return ago(s.Now(), t) }

func ago(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return short(max(0, now.Sub(t.AsTime())))
}

// short is a length of time for people: "42s", "3m10s", "5h20m", "3d4h".
func short(d time.Duration) string {
	two := func(a time.Duration, au string, b time.Duration, bu string) string {
		if b == 0 {
			return fmt.Sprintf("%d%s", a, au)
		}
		return fmt.Sprintf("%d%s%d%s", a, au, b, bu)
	}
	switch {
	case d < time.Second && d > 0:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return two(d/time.Minute, "m", d%time.Minute/time.Second, "s")
	case d < day:
		return two(d/time.Hour, "h", d%time.Hour/time.Minute, "m")
	}
	return two(d/day, "d", d%day/time.Hour, "h")
}

func length(d *durationpb.Duration) string { return short(d.AsDuration()) }

// instant is a point in time where the reader is.
func (s *shell) instant(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().In(s.Now().Location()).Format("2006-01-02 15:04:05 MST")
}

// whenAndAgo is a point in time and how long ago that was.
func (s *shell) whenAndAgo(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return fmt.Sprintf("%s (%s ago)", s.instant(t), ago(now, t))
}

// lasted is how long something went on, or has gone on so far.
func (s *shell) lasted(began, ended *timestamppb.Timestamp) string {
	switch {
	case began == nil:
		return "-"
	case ended == nil:
		return s.age(began) + " so far"
	}
	return short(max(0, ended.AsTime().Sub(began.AsTime())))
}
