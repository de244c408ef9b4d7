package cli

import (
	"io"
	"strings"
	"testing"
	"time"
)

// berlinNoon is when and where the tests of times take place.
func berlinNoon(t *testing.T) *shell {
	t.Helper()
	return &shell{Options: Options{
		Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("CET", 3600)) },
		Err: io.Discard,
	}}
}

func TestParseLength(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "36h": 36 * time.Hour, "7d": 7 * day, "2w": 14 * day, "1w2d": 9 * day, "1d12h": 36 * time.Hour, "1.5h": 90 * time.Minute, "0d1m": time.Minute,
		"": 0, "0s": 0, "0d": 0, "-1h": 0, "1d-1h": 0, "1d+1h": 0, "d": 0, "7": 0, "7 d": 0, "1d2w": 0, "1.5d": 0, "tomorrow": 0, "99999w": 0, "36501d": 0, "2000000h": 0, "999999999999d": 0,
	} {
		got, ok := parseLength(text)
		if ok != (want > 0) || ok && got != want {
			t.Errorf("%q is %s, %v, want %s", text, got, ok, want)
		}
	}
}

func TestMoment(t *testing.T) {
	t.Parallel()
	s := berlinNoon(t)
	for text, want := range map[string]string{
		"36h": "2026-02-27T23:00:00Z", "7d": "2026-02-22T11:00:00Z", "2026-03-01T12:00:00Z": "2026-03-01T12:00:00Z", "2026-03-01T12:00:00+05:00": "2026-03-01T07:00:00Z",
		"2026-02-28 12:00": "2026-02-28T11:00:00Z", "2026-02-28 12:00:30": "2026-02-28T11:00:30Z", "2026-02-28T12:00": "2026-02-28T11:00:00Z", "2026-02-28": "2026-02-27T23:00:00Z",
		"2026-02-30": "", "12:00": "", "-5m": "", "yesterday": "", "28.02.2026": "",
	} {
		got, err := s.moment("since", text)
		switch {
		case want == "" && (ExitCode(err) != codeUsage || !strings.Contains(err.Error(), "--since")):
			t.Errorf("%q: %v", text, err)
		case want != "" && (err != nil || got.AsTime().Format(time.RFC3339) != want):
			t.Errorf("%q is %v, want %s; %v", text, got.AsTime(), want, err)
		}
	}
	if got, err := s.moment("since", ""); got != nil || err != nil {
		t.Errorf("nothing is %v, %v", got, err)
	}
}

func TestSpan(t *testing.T) {
	t.Parallel()
	s := berlinNoon(t)
	for name, tc := range map[string]struct {
		span     span
		from, to string
		says     string
	}{
		"open":             {span{}, "", "", ""},
		"from":             {span{from: "7d"}, "2026-02-22T11:00:00Z", "", ""},
		"from and to":      {span{from: "2026-01-01", to: "2026-02-01"}, "2025-12-31T23:00:00Z", "2026-01-31T23:00:00Z", ""},
		"last":             {span{last: "30d"}, "2026-01-30T11:00:00Z", "", ""},
		"last before to":   {span{last: "1d", to: "2026-02-01"}, "2026-01-30T23:00:00Z", "2026-01-31T23:00:00Z", ""},
		"twice":            {span{last: "1d", from: "2d"}, "", "", "--from and --last both say where it begins"},
		"the wrong way":    {span{from: "1d", to: "2d"}, "", "", `--from "1d" is not before the end`},
		"ahead":            {span{from: "2026-03-02"}, "", "", "is not before the end"},
		"no length":        {span{last: "month"}, "", "", `--last "month" is not a length of time`},
		"no beginning":     {span{from: "x"}, "", "", `--from "x" is neither`},
		"no end":           {span{to: "x"}, "", "", `--to "x" is neither`},
		"an end, past all": {span{to: "2026-02-01"}, "", "2026-01-31T23:00:00Z", ""},
	} {
		from, to, err := tc.span.read(s)
		if tc.says != "" {
			if ExitCode(err) != codeUsage || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || stamped(from) != tc.from || stamped(to) != tc.to {
			t.Errorf("%s: from %q to %q, want %q to %q; %v", name, stamped(from), stamped(to), tc.from, tc.to, err)
		}
	}
}

func TestEnding(t *testing.T) {
	t.Parallel()
	s := berlinNoon(t)
	for name, tc := range map[string]struct {
		end        ending
		want, says string
	}{
		"never":     {ending{}, "", ""},
		"for":       {ending{long: "30d"}, "2026-03-31T11:00:00Z", ""},
		"until":     {ending{until: "2026-04-01"}, "2026-03-31T23:00:00Z", ""},
		"an hour":   {ending{until: "2026-04-01 18:00"}, "2026-04-01T17:00:00Z", ""},
		"twice":     {ending{long: "1d", until: "2026-04-01"}, "", "--for and --until both say when it ends"},
		"no length": {ending{long: "-1d"}, "", `--for "-1d" is not a length of time`},
		"no time":   {ending{until: "30d"}, "", `--until "30d" is not a time`},
		"over":      {ending{until: "2026-03-01"}, "", `--until "2026-03-01" is over already; it is 2026-03-01 12:00:00 CET now`},
	} {
		got, err := tc.end.read(s)
		if tc.says != "" {
			if ExitCode(err) != codeUsage || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || stamped(got) != tc.want {
			t.Errorf("%s: %q, want %q; %v", name, stamped(got), tc.want, err)
		}
	}
}
