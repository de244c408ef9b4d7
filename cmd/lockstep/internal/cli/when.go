package cli

import (
	"regexp"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// longest bounds a length of time that is typed: a longer one is a slip.
const longest = 100 * 365 * day

const day = 24 * time.Hour

// parseLength reads a length of time as people write it: 90s, 36h, 7d, 2w, 1d12h.
// A day is 24 hours.
func parseLength(text string) (time.Duration, bool) {
	parts := regexp.MustCompile(`^(?:([0-9]{1,5})w)?(?:([0-9]{1,5})d)?(|[0-9.].*)$`).FindStringSubmatch(text)
	if parts == nil {
		return 0, false
	}
	var total time.Duration
	for i, unit := range []time.Duration{7 * day, day} {
		if n, err := strconv.Atoi(parts[i+1]); err == nil {
			total += time.Duration(n) * unit
		}
	}
	if rest := parts[3]; rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d > longest {
			return 0, false
		}
		total += d
	}
	return total, total > 0 && total <= longest
}

// parseTime reads a point in time; without a zone it is where the reader is, and
// a date is its midnight.
func (s *shell) parseTime(text string) (time.Time, bool) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, true
	}
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if at, err := time.ParseInLocation(layout, text, s.Now().Location()); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// moment reads when something was, by a time or by how long ago; empty is no
// moment.
func (s *shell) moment(flag, text string) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if ago, ok := parseLength(text); ok {
		return timestamppb.New(s.Now().Add(-ago)), nil
	}
	if at, ok := s.parseTime(text); ok {
		return timestamppb.New(at), nil
	}
	return nil, usage(`--%s %q is neither a length of time nor a time; write for example 90s, 36h, 7d, "2026-03-04 12:00" or 2026-03-04T12:00:00Z`, flag, text)
}

// momentWords say in a flag's help what moment reads.
const momentWords = "a `time` such as \"2026-03-04 12:00\" or how long ago, such as 36h or 7d"

// span is the stretch of time that a question is about.
type span struct{ from, to, last string }

func (p *span) flags(c *cobra.Command, usual string) {
	c.Flags().StringVar(&p.from, "from", "", "from when, "+momentWords+" ("+usual+")")
	c.Flags().StringVar(&p.to, "to", "", "up to when, a `time` written as --from (default: now)")
	c.Flags().StringVar(&p.last, "last", "", "the `length` of time up to --to, such as 30d; instead of --from")
}

// read gives the ends; an absent one is the server's to choose.
func (p *span) read(s *shell) (from, to *timestamppb.Timestamp, err error) {
	if to, err = s.moment("to", p.to); err != nil {
		return nil, nil, err
	}
	if p.last != "" {
		long, ok := parseLength(p.last)
		switch {
		case !ok:
			return nil, nil, usage("--last %q is not a length of time; write for example 36h or 30d", p.last)
		case p.from != "":
			return nil, nil, usage("--from and --last both say where it begins; give one of them")
		case to != nil:
			return timestamppb.New(to.AsTime().Add(-long)), to, nil
		}
		return timestamppb.New(s.Now().Add(-long)), nil, nil
	}
	if from, err = s.moment("from", p.from); err != nil {
		return nil, nil, err
	}
	end := s.Now()
	if to != nil {
		end = to.AsTime()
	}
	if from != nil && !from.AsTime().Before(end) {
		return nil, nil, usage("--from %q is not before the end; nothing lies between", p.from)
	}
	return from, to, nil
}

// ending is when something that a person says ends by itself.
type ending struct{ long, until string }

func (e *ending) flags(c *cobra.Command) {
	c.Flags().StringVar(&e.long, "for", "", "how long it holds, a `length` of time such as 36h or 30d (default: until it is taken back)")
	c.Flags().StringVar(&e.until, "until", "", "the `time` at which it ends, such as 2026-04-01, which is its midnight, or \"2026-04-01 18:00\"")
}

// read gives the end, nil for none.
func (e *ending) read(s *shell) (*timestamppb.Timestamp, error) {
	switch {
	case e.long != "" && e.until != "":
		return nil, usage("--for and --until both say when it ends; give one of them")
	case e.long != "":
		long, ok := parseLength(e.long)
		if !ok {
			return nil, usage("--for %q is not a length of time; write for example 36h or 30d", e.long)
		}
		return timestamppb.New(s.Now().Add(long)), nil
	case e.until != "":
		at, ok := s.parseTime(e.until)
		if !ok {
			return nil, usage(`--until %q is not a time; write for example 2026-04-01 or "2026-04-01 18:00"`, e.until)
		}
		if !at.After(s.Now()) {
			return nil, usage("--until %q is over already; it is %s now", e.until, s.instant(timestamppb.New(s.Now())))
		}
		return timestamppb.New(at), nil
	}
	return nil, nil
}
