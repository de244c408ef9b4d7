package cli

import (
	"testing"
	"time"
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
