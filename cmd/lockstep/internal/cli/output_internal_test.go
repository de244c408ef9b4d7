package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

func TestShort(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0:                                     "0s",
		250 * time.Millisecond:                "250ms",
		59*time.Second + 900*time.Millisecond: "59s",
		10 * time.Minute:                      "10m",
		3*time.Minute + 10*time.Second:        "3m10s",
		5*time.Hour + 20*time.Minute:          "5h20m",
		24 * time.Hour:                        "1d",
		76 * time.Hour:                        "3d4h",
	} {
		if got := short(d); got != want {
			t.Errorf("%d is %s, want %s", d, got, want)
		}
	}
}

func TestThousands(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 1.34: "1.3", 9: "9", 12.6: "13", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1000: "-1,000"} {
		if got := thousands(v); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
}

func TestColoursDoNotMoveColumns(t *testing.T) {
	t.Parallel()
	tab := &table{header: []string{"A", "STATE", "C"}}
	tab.add("x", "locked", "ü")
	tab.add("long", "dark", "")
	const want = "A      STATE    C\nx      \x1b[32mlocked\x1b[0m   ü\nlong   \x1b[31mdark\x1b[0m     -\n"
	if got := tab.render(true); got != want {
		t.Errorf("rendered %q, want %q", got, want)
	}
}

func TestColourNeedsATerminal(t *testing.T) {
	t.Parallel()
	none := func(string) string { return "" }
	if colourful(nil, none) {
		t.Error("colours without a terminal")
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		text  string
		width int
		want  []string
	}{
		"fits":        {"a few words that fit", 20, []string{"a few words that fit"}},
		"one more":    {"a few words that fits", 20, []string{"a few words that", "fits"}},
		"a long word": {"see https://example.org/a/long/address for more", 20, []string{"see", "https://example.org/a/long/address", "for more"}},
		"letters":     {"äöü äöü äöü äöü äöü äöü", 23, []string{"äöü äöü äöü äöü äöü äöü"}},
		"no terminal": {"a few words that do not have to fit", 0, []string{"a few words that do not have to fit"}},
		"no room":     {"a few words that cannot fit", 19, []string{"a few words that cannot fit"}},
		"nothing":     {"", 40, []string{""}},
	} {
		if got := wrap(tc.text, tc.width); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestStoryText(t *testing.T) {
	t.Parallel()
	lines := []*driftv1.StoryLine{
		{About: "state", Text: "overdue: gateway runs 5.0.1 and 5.1.0"},
		{About: "since", Text: "2h\x1b[2J"},
		{About: "next", Text: "start the rollout anew, or roll it back"},
	}
	const plain = "state   overdue: gateway runs 5.0.1 and 5.1.0\nsince   2h[2J\nnext    start the rollout anew, or roll it back\n"
	if got := storyText(lines, 0, false); got != plain {
		t.Errorf("told\n%s", got)
	}
	const narrow = "state   \x1b[33moverdue\x1b[0m: gateway runs\n        5.0.1 and 5.1.0\nsince   2h[2J\nnext    start the rollout anew,\n        or roll it back\n"
	if got := storyText(lines, 32, true); got != narrow {
		t.Errorf("told narrowly\n%q", got)
	}
}

func TestPaintKnowsEveryState(t *testing.T) {
	t.Parallel()
	for _, state := range lockstepStates() {
		if painted := paint(state, true) != state; painted == (state == "unknown") {
			t.Errorf("%s is painted: %v", state, painted)
		}
	}
	if paint("split", true) != "\x1b[33msplit\x1b[0m" || paint("withdrawn", true) != "\x1b[31mwithdrawn\x1b[0m" {
		t.Error("split is yellow and withdrawn red")
	}
}

func TestChangesAreColoured(t *testing.T) {
	t.Parallel()
	res := &fleetv1.ApplyFleetResponse{Changes: []*fleetv1.FleetChange{{Kind: "cluster", Id: "paris", Action: "updated", Lines: []string{"- release: 1", "+ release: 2\x1b[2J"}}}}
	const want = "cluster/paris \x1b[33mupdated\x1b[0m\n  \x1b[31m- release: 1\x1b[0m\n  \x1b[32m+ release: 2[2J\x1b[0m\n"
	if got := changesText(res, true); got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

func TestPortions(t *testing.T) {
	t.Parallel()
	releases := func(n, size int) []*catalogv1.Release {
		return slices.Repeat([]*catalogv1.Release{{Id: "x", Source: strings.Repeat("s", size)}}, n)
	}
	for name, tc := range map[string]struct {
		list []*catalogv1.Release
		want []int
	}{
		"one":          {releases(1, 1), []int{1}},
		"just as many": {releases(5000, 1), []int{5000}},
		"one more":     {releases(5001, 1), []int{5000, 1}},
		"large ones":   {releases(10, 1<<20), []int{3, 3, 3, 1}},
		"too large":    {releases(2, mostSent+1), []int{1, 1}}, // the server says so
	} {
		var got []int
		for _, part := range portions(tc.list) {
			got = append(got, len(part))
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestWithoutSecret(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]string{
		"releases.csv": "releases.csv", "https://ann:secret@example.org/charts": "https://example.org/charts", "oci://example.org/a@b": "oci://example.org/a@b", "https://example.org": "https://example.org",
	} {
		if got := withoutSecret(location); got != want {
			t.Errorf("%s becomes %s, want %s", location, got, want)
		}
	}
}
