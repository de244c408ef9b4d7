package compose

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

func TestWhatIsSaidAtEachLookIsLoggedOnceAnHour(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	h := &hook{log: slog.New(slog.NewTextHandler(&b, nil)), said: make(map[string]time.Time)}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	say := func(after time.Duration, message string) int {
		t.Helper()
		b.Reset()
		if err := h.Fire(&logrus.Entry{Level: logrus.WarnLevel, Time: at.Add(after), Message: message}); err != nil {
			t.Fatal(err)
		}
		return strings.Count(b.String(), "level=WARN")
	}
	for _, c := range []struct {
		after   time.Duration
		message string
		want    int
	}{
		{0, "TAG is not set", 1}, {time.Second, "TAG is not set", 0}, {time.Second, "HOME is not set", 1},
		{again - 1, "TAG is not set", 0}, {again, "TAG is not set", 1}, {again, "TAG is not set", 0},
	} {
		if got := say(c.after, c.message); got != c.want {
			t.Errorf("%q after %s was logged %d times, want %d", c.message, c.after, got, c.want)
		}
	}
	say(10*again, "other")
	if len(h.said) != 1 {
		t.Errorf("%d messages are remembered for ever", len(h.said))
	}
}
