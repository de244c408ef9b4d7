package sink_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/integration/lab/sink"
)

func start(t *testing.T) *sink.Sink {
	t.Helper()
	s, err := sink.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func send(t *testing.T, s *sink.Sink, id, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if id != "" {
		req.Header.Set("webhook-id", id)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

func TestRemembersEachIDOnceAndCountsRepeats(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.RefuseNext(http.StatusInternalServerError, http.StatusTooManyRequests)
	for _, c := range []struct {
		id, body string
		want     int
	}{
		{"a", "one", http.StatusInternalServerError},
		{"a", "one", http.StatusTooManyRequests},
		{"a", "one", http.StatusNoContent},
		{"b", "two", http.StatusNoContent},
		{"a", "one", http.StatusNoContent},
		{"b", "other", http.StatusNoContent},
		{"", "nobody's", http.StatusBadRequest},
	} {
		resp := send(t, s, c.id, c.body)
		if resp.StatusCode != c.want {
			t.Errorf("%q %q: answered %d, want %d", c.id, c.body, resp.StatusCode, c.want)
		}
		if retry := resp.Header.Get("Retry-After"); (retry != "") != (c.want == http.StatusTooManyRequests) {
			t.Errorf("%q: answered %d with Retry-After %q", c.id, c.want, retry)
		}
	}
	list := s.Deliveries()
	if len(list) != 2 {
		t.Fatalf("got %d deliveries, want 2: %+v", len(list), list)
	}
	a, b := list[0], list[1]
	if a.ID != "a" || string(a.Body) != "one" || a.Accepted != 2 || a.Refused != 2 || a.Changed {
		t.Errorf("first delivery: %+v", a)
	}
	if b.ID != "b" || string(b.Body) != "two" || b.Accepted != 2 || b.Refused != 0 || !b.Changed {
		t.Errorf("second delivery: %+v", b)
	}
	if a.Header.Get(sink.IDHeader) != "a" || a.Received.IsZero() {
		t.Errorf("first delivery keeps no header or time: %+v", a)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	s := start(t)
	two := func(l []sink.Delivery) bool { return len(l) == 2 }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Wait(ctx, two); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing came: got %v, want the deadline's error", err)
	}
	got := make(chan error, 1)
	go func() {
		list, err := s.Wait(t.Context(), two)
		if err == nil && len(list) != 2 {
			err = errors.New("returned too early")
		}
		got <- err
	}()
	send(t, s, "a", "")
	send(t, s, "a", "")
	send(t, s, "b", "")
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("two deliveries came and Wait did not return")
	}
}
