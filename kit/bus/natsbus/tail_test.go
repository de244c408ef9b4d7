package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// tailed joins what a tail gives that ends with what is there.
func tailed(t *testing.T, w *world, tail bus.Tail) string {
	t.Helper()
	var texts []string
	if err := w.Tail(limited(t), tail, func(m bus.Message) error { texts = append(texts, string(m.Data)); return nil }); err != nil {
		t.Fatal(err)
	}
	return strings.Join(texts, " ")
}

func testTailEndsWithWhatIsThere(t *testing.T, w *world) {
	expect(t, "of nothing", tailed(t, w, bus.Tail{Stream: stream}), "")
	publish(t, w.Bus, "log.a", "1", "2")
	publish(t, w.Bus, "log.b", "3")
	expect(t, "all", tailed(t, w, bus.Tail{Stream: stream}), "1 2 3")
	expect(t, "one subject", tailed(t, w, bus.Tail{Stream: stream, Filters: []string{"log.a"}}), "1 2")
	expect(t, "two subjects", tailed(t, w, bus.Tail{Stream: stream, Filters: []string{"log.b", "log.a"}}), "1 2 3")
	expect(t, "a subject without messages", tailed(t, w, bus.Tail{Stream: stream, Filters: []string{"log.c"}}), "")
	expect(t, "since later", tailed(t, w, bus.Tail{Stream: stream, Since: time.Now().Add(time.Hour)}), "")
	expect(t, "from now on", tailed(t, w, bus.Tail{Stream: stream, New: true}), "")
	expect(t, "behind one", tailed(t, w, bus.Tail{Stream: stream, After: 2}), "3")
	end, err := w.End(limited(t), stream)
	expect(t, "end", fmt.Sprint(end, err), "3 <nil>")
	expect(t, "behind the last", tailed(t, w, bus.Tail{Stream: stream, After: end}), "")
	enough := errors.New("enough")
	err = w.Tail(limited(t), bus.Tail{Stream: stream}, func(bus.Message) error { return enough })
	expect(t, "its function's error", errors.Is(err, enough), true)
	err = w.Tail(limited(t), bus.Tail{Stream: "NOWHERE"}, func(bus.Message) error { return nil })
	expect(t, "an unknown stream is named", err != nil && strings.Contains(err.Error(), "NOWHERE"), true)
}

func testTailFollows(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "before")
	follow := func(since time.Time) (<-chan string, func() error) {
		texts := make(chan string, 100)
		return texts, background(t, func(ctx context.Context) error {
			return w.Tail(ctx, bus.Tail{Stream: stream, Since: since, New: since.IsZero(), Follow: true}, func(m bus.Message) error { texts <- string(m.Data); return nil })
		})
	}
	all, stop := follow(time.Unix(0, 0))
	expect(t, "what was there", next(t, "the first", all), "before")
	publish(t, w.Bus, "log.b", "after")
	expect(t, "what came", next(t, "the second", all), "after")
	expect(t, "asked to stop, it ends without an error", stop(), nil)

	// When the reader of what is new stands is not told, so it is spoken to until it
	// answers.
	fresh, stop := follow(time.Time{})
	var got string
	eventually(t, "something new", func() bool {
		publish(t, w.Bus, "log.a", "new")
		select {
		case got = <-fresh:
			return true
		default:
			return false
		}
	})
	expect(t, "the first that is new", got, "new")
	expect(t, "the end", stop(), nil)
}
