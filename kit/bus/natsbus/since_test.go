package natsbus_test

import (
	"context"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/bustest"
)

// TestSinceSkipsWhatWasBefore also consumes a second time with another Since: a
// position that exists goes on where it was.
func TestSinceSkipsWhatWasBefore(t *testing.T) {
	t.Parallel()
	b := bustest.Start(t, []bus.Stream{{Name: "LOG", Subjects: []string{"log.>"}}}, nil, nil).Open(t)
	publish := func(text string) time.Time {
		t.Helper()
		if _, err := b.Publish(t.Context(), bus.Message{Subject: "log.a", Type: "text", Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
		return time.Now()
	}
	next := func(since time.Time) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var got string
		if err := b.Consume(ctx, bus.Consumer{Stream: "LOG", Durable: "one", Since: since, AckWait: 5 * time.Second}, func(_ context.Context, d bus.Delivery) error {
			if got == "" {
				got = string(d.Data)
				cancel()
				return nil
			}
			return context.Canceled
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	publish("old")
	since := publish("old too")
	publish("new")
	if got := next(since); got != "new" {
		t.Errorf("the first message is %q, want new", got)
	}
	publish("newer")
	if got := next(time.Now().Add(time.Hour)); got != "newer" {
		t.Errorf("the position went on at %q, want newer", got)
	}
}
