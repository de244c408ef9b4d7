package natsbus_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func testEnsureMayBeRepeated(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1")
	wider := []bus.Stream{{Name: stream, Subjects: []string{"log.>", "more.>"}, MaxAge: time.Hour, MaxBytes: 1 << 20}}
	for range 2 {
		if err := w.Ensure(limited(t), wider, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	publish(t, w.Bus, "more.a", "2")
	expect(t, "stream", load(t, w.Bus, stream, ">"), "1 2")
}

func testEnsureDoesNotDeleteMessages(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", strings.Repeat("x", 5000))
	first := time.Now()
	publish(t, w.Bus, "log.a", "2")
	eventually(t, "a message older than a millisecond", func() bool { return time.Since(first) > time.Millisecond })
	for name, tight := range map[string]bus.Stream{
		"by size": {Name: stream, Subjects: []string{"log.>"}, MaxBytes: 4000},
		"by age":  {Name: stream, Subjects: []string{"log.>"}, MaxAge: time.Millisecond},
	} {
		other := bus.Bucket{Name: "other"}
		err := w.Ensure(limited(t), []bus.Stream{tight}, []bus.Bucket{other}, nil)
		if errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), "LS-BUS-007") || !strings.Contains(err.Error(), "stream LOG") {
			t.Errorf("%s: %v", name, err)
		}
		changes, err := w.Plan(limited(t), []bus.Stream{tight}, nil, nil)
		if err != nil || len(changes) != 1 || changes[0].Loses == "" {
			t.Errorf("%s: plan %v, %v", name, changes, err)
		}
		if err := w.PutKey(limited(t), "other", "a", nil); err == nil {
			t.Errorf("%s: the bucket beside it was created all the same", name)
		}
	}
	expect(t, "messages", len(strings.Fields(load(t, w.Bus, stream, ">"))), 2)
}

func testPlanTellsWhatEnsureWouldDo(t *testing.T, w *world) {
	streams, keyValues := w.wanted()
	var blobBuckets []bus.Bucket
	plan := func() string {
		t.Helper()
		changes, err := w.Plan(limited(t), streams, keyValues, blobBuckets)
		if err != nil {
			t.Fatal(err)
		}
		lines := make([]string, len(changes))
		for i, c := range changes {
			lines[i] = c.String()
		}
		return strings.Join(lines, "\n")
	}
	expect(t, "plan of what is there", plan(), "")
	streams[0].MaxBytes = 1 << 20
	streams[1].MaxAge = 2 * time.Hour
	streams = append(streams, bus.Stream{Name: "MORE", Subjects: []string{"more.>", "most"}, Replicas: w.replicas})
	keyValues = append(keyValues, bus.Bucket{Name: "more", Replicas: w.replicas})
	blobBuckets = append(blobBuckets, bus.Bucket{Name: "more", Replicas: w.replicas})
	want := `update stream LOG: most bytes from unlimited to 1048576
update stream LETTERS: longest age from 1h0m0s to 2h0m0s
create stream MORE: more.> most
create key-value bucket more
create blob bucket more`
	expect(t, "plan", plan(), want)
	expect(t, "plan again", plan(), want)
	if err := w.Ensure(limited(t), streams, keyValues, blobBuckets); err != nil {
		t.Fatal(err)
	}
	expect(t, "plan of what was made", plan(), "")
}

func testCheckTellsWhatIsMissing(t *testing.T, w *world) {
	streams, keyValues := w.wanted()
	if err := w.Check(limited(t), streams, keyValues, nil); err != nil {
		t.Errorf("of what is there: %v", err)
	}
	streams[0].Subjects = []string{"log.>", "more.>"}
	keyValues = append(keyValues, bus.Bucket{Name: "more"})
	for range 2 {
		err := w.Check(limited(t), streams, keyValues, nil)
		if errs.KindOf(err) != errs.Unavailable || errors.Is(err, bus.ErrNotFound) {
			t.Errorf("kind of %v", err)
		}
		for _, want := range []string{"LS-BUS-003", "stream LOG", "more.>", "key-value bucket more", "lockstep migrate"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
	}
}

func testEnsureKeepsWhatWasSetByHand(t *testing.T, w *world) {
	s, err := w.js.Stream(limited(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Description = "by hand"
	if _, err := w.js.UpdateStream(limited(t), config); err != nil {
		t.Fatal(err)
	}
	streams, keyValues := w.wanted()
	streams[0].MaxBytes, streams[0].Replicas = 1<<20, 0
	if err := w.Ensure(limited(t), streams, keyValues, nil); err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "description", info.Config.Description, "by hand")
	expect(t, "replicas", info.Config.Replicas, max(w.replicas, 1))
	expect(t, "most bytes", info.Config.MaxBytes, 1<<20)
}
