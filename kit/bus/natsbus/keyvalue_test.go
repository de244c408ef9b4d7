package natsbus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

func testKeys(t *testing.T, w *world) {
	if _, err := w.GetKey(limited(t), bucket, "rollout.r1.berlin"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a key that was never stored: %v", err)
	}
	for _, value := range []string{"run", "abort"} {
		if err := w.PutKey(limited(t), bucket, "rollout.r1.berlin", []byte(value)); err != nil {
			t.Fatal(err)
		}
		got, err := w.GetKey(limited(t), bucket, "rollout.r1.berlin")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "value", string(got), value)
	}
	if err := w.PutKey(limited(t), bucket, "not a key", nil); err == nil || !strings.Contains(err.Error(), "not a key") {
		t.Errorf("a key that cannot be: %v", err)
	}
	_, err := w.GetKey(limited(t), "nowhere", "a")
	if err == nil || errors.Is(err, bus.ErrNotFound) || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a bucket that does not exist: %v", err)
	}
}

func testAKeyIsUpdatedAtItsRevisionOnly(t *testing.T, w *world) {
	ctx := limited(t)
	first, err := w.CreateKey(ctx, bucket, "a.b", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateKey(ctx, bucket, "a.b", []byte("x")); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("creating it again: %v", err)
	}
	second, err := w.UpdateKey(ctx, bucket, "a.b", []byte("2"), first)
	if err != nil {
		t.Fatal(err)
	}
	for _, stale := range []uint64{0, first, second + 1} {
		if _, err := w.UpdateKey(ctx, bucket, "a.b", []byte("x"), stale); !errors.Is(err, bus.ErrConflict) {
			t.Errorf("updating it at revision %d: %v", stale, err)
		}
	}
	e, err := w.GetEntry(ctx, bucket, "a.b")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "key", e.Key, "a.b")
	expect(t, "value", string(e.Value), "2")
	expect(t, "revision", e.Revision, second)
	expect(t, "a sensible time", time.Since(e.Time).Abs() < patience, true)

	const writers = 8
	var running sync.WaitGroup
	var won atomic.Int32
	for range writers {
		running.Go(func() {
			_, err := w.UpdateKey(ctx, bucket, "a.b", []byte("3"), second)
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, bus.ErrConflict):
				t.Error(err)
			}
		})
	}
	running.Wait()
	expect(t, "winners", won.Load(), 1)
}

func testAKeyIsDeletedAndCreatedAgain(t *testing.T, w *world) {
	ctx := limited(t)
	if err := w.DeleteKey(ctx, bucket, "a"); err != nil {
		t.Errorf("deleting what was never there: %v", err)
	}
	first, err := w.CreateKey(ctx, bucket, "a", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.DeleteKey(ctx, bucket, "a"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.GetKey(ctx, bucket, "a"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("reading what was deleted: %v", err)
	}
	if _, err := w.UpdateKey(ctx, bucket, "a", nil, first); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("updating what was deleted: %v", err)
	}
	again, err := w.CreateKey(ctx, bucket, "a", []byte("2"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "revisions grow", again > first, true)
	value, err := w.GetKey(ctx, bucket, "a")
	expect(t, "value", string(value), "2")
	expect(t, "error", err, nil)
}

// testWhatIsNoKeyIsRefused asks for a key with a wildcard above all: another key's
// value must not be the answer.
func testWhatIsNoKeyIsRefused(t *testing.T, w *world) {
	ctx := limited(t)
	if err := w.PutKey(ctx, bucket, "a.b", []byte("1")); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", "a.*", ">", "a b"} {
		if value, err := w.GetKey(ctx, bucket, key); err == nil || errors.Is(err, bus.ErrNotFound) {
			t.Errorf("reading %q: %q, %v", key, value, err)
		}
		if err := w.PutKey(ctx, bucket, key, nil); err == nil {
			t.Errorf("storing %q went well", key)
		}
	}
}

// watched is what a watch has told so far.
type watched struct {
	mu     sync.Mutex
	values map[string]string
	last   uint64
}

func (v *watched) see(e bus.Entry) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.Revision <= v.last {
		return fmt.Errorf("revision %d of %s came after %d", e.Revision, e.Key, v.last)
	}
	v.last = e.Revision
	if v.values[e.Key] = string(e.Value); e.Deleted {
		delete(v.values, e.Key)
	}
	return nil
}

// await waits until the watch knows exactly these values.
func (v *watched) await(t *testing.T, what string, want map[string]string) {
	t.Helper()
	eventually(t, what, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return maps.Equal(v.values, want)
	})
}

func watch(t *testing.T, w *world, pattern string) (*watched, func() error) {
	t.Helper()
	v := &watched{values: map[string]string{}}
	return v, background(t, func(ctx context.Context) error { return w.WatchKeys(ctx, bucket, pattern, v.see) })
}

func testWatchGivesWhatIsThereAndChanges(t *testing.T, w *world) {
	put := func(key, value string) {
		t.Helper()
		if err := w.PutKey(limited(t), bucket, key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	put("rollout.r1", "old")
	put("rollout.r2", "run")
	put("global", "run")
	put("rollout.r1", "abort")
	v, stop := watch(t, w, "rollout.*")
	v.await(t, "what is there", map[string]string{"rollout.r1": "abort", "rollout.r2": "run"})
	put("global", "hold")
	put("rollout.r3", "run")
	v.await(t, "a new key", map[string]string{"rollout.r1": "abort", "rollout.r2": "run", "rollout.r3": "run"})
	if err := w.DeleteKey(limited(t), bucket, "rollout.r2"); err != nil {
		t.Fatal(err)
	}
	v.await(t, "a deletion", map[string]string{"rollout.r1": "abort", "rollout.r3": "run"})
	expect(t, "end", stop(), nil)
}

func testWatchEndsWithItsFunctionsError(t *testing.T, w *world) {
	if err := w.PutKey(limited(t), bucket, "a", nil); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	err := w.WatchKeys(limited(t), bucket, ">", func(bus.Entry) error { return enough })
	expect(t, "error", errors.Is(err, enough), true)
	err = w.WatchKeys(limited(t), "nowhere", ">", func(bus.Entry) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "LS-BUS-003") || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a bucket that does not exist: %v", err)
	}
}

// testASnapshotNeverGoesBack stores revisions in any order from several writers.
func testASnapshotNeverGoesBack(t *testing.T, w *world) {
	ctx := limited(t)
	if _, err := w.GetSnapshot(ctx, bucket, "log.a"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("a snapshot that was never stored: %v", err)
	}
	snapshot := func(revision int) bus.Snapshot {
		return bus.Snapshot{Subject: "log.a", Revision: uint64(revision), Type: "test.State", Data: fmt.Append(nil, "state of ", revision)}
	}
	const writers, each = 4, 8
	var running sync.WaitGroup
	for writer := range writers {
		running.Go(func() {
			var highest uint64
			for i := range each {
				mine := snapshot(1 + i*writers + writer)
				if err := w.PutSnapshot(ctx, bucket, mine); err != nil {
					t.Error(err)
				}
				highest = max(highest, mine.Revision)
				got, err := w.GetSnapshot(ctx, bucket, "log.a")
				if err != nil {
					t.Error(err)
				}
				if got.Revision < highest {
					t.Errorf("revision %d after %d was stored", got.Revision, highest)
				}
				highest = got.Revision
			}
		})
	}
	running.Wait()
	for _, late := range []int{1, each * writers} {
		if err := w.PutSnapshot(ctx, bucket, snapshot(late)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := w.GetSnapshot(ctx, bucket, "log.a")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "subject", got.Subject, "log.a")
	expect(t, "revision", got.Revision, each*writers)
	expect(t, "type", got.Type, "test.State")
	expect(t, "data", string(got.Data), fmt.Sprintf("state of %d", each*writers))
}

func testASnapshotAndItsTailMakeTheWhole(t *testing.T, w *world) {
	publish(t, w.Bus, "log.a", "1", "2")
	publish(t, w.Bus, "log.b", "other")
	revision := publish(t, w.Bus, "log.a", "3")
	state := load(t, w.Bus, stream, "log.a")
	if err := w.PutSnapshot(limited(t), bucket, bus.Snapshot{Subject: "log.a", Revision: revision, Data: []byte(state)}); err != nil {
		t.Fatal(err)
	}
	publish(t, w.Bus, "log.b", "other")
	publish(t, w.Bus, "log.a", "4", "5")
	s, err := w.GetSnapshot(limited(t), bucket, "log.a")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "state", string(s.Data)+" "+loadAfter(t, w.Bus, stream, "log.a", s.Revision), load(t, w.Bus, stream, "log.a"))
}
