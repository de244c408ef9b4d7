//go:build integration

// Package pipeline_test looks for the recordings of many sessions in a storage
// that speaks S3 over a socket and is not always there.
package pipeline_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/s3"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/services/collector/recordings"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	bucket   = "recordings"
	sessions = 1000
	within   = 5 * time.Minute
	every    = 15 * time.Second
	// lag is how long a list takes to show an object.
	lag = 10 * time.Second
)

// world is a storage with a clock of its own time, and a switch.
type world struct {
	now     time.Time
	away    atomic.Bool
	calls   atomic.Int64
	backend *s3mem.Backend
	storage *s3.Storage
	checker *recordings.Checker
}

// Now and Since make the world the storage's clock. An object is put when a list
// first shows it, and bears the time at which it was written.
func (w *world) Now() time.Time                  { return w.now.Add(-lag) }
func (w *world) Since(t time.Time) time.Duration { return w.Now().Sub(t) }

// Find converts between the adapter and the service, as whoever wires them does.
func (w *world) Find(ctx context.Context, prefix string) ([]recordings.Object, error) {
	found, err := w.storage.Find(ctx, prefix)
	out := make([]recordings.Object, len(found))
	for i, o := range found {
		out[i] = recordings.Object(o)
	}
	return out, err
}

// front breaks connections off while the storage is away.
func (w *world) front(server http.Handler) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		w.calls.Add(1)
		if w.away.Load() {
			panic(http.ErrAbortHandler)
		}
		server.ServeHTTP(rw, r)
	}
}

func (w *world) put(t *testing.T, key, content string) {
	t.Helper()
	if _, err := w.backend.PutObject(bucket, "sra/"+key, nil, strings.NewReader(content), int64(len(content)), nil); err != nil {
		t.Fatal(err)
	}
}

func begin(t *testing.T) *world {
	t.Helper()
	w := &world{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.backend = s3mem.New(s3mem.WithTimeSource(w))
	if err := w.backend.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(w.front(gofakes3.New(w.backend).Server()))
	t.Cleanup(server.Close)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a-key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	w.storage, err = s3.New(s3.Options{
		Endpoint: server.URL, Region: "us-east-1", Bucket: bucket, Prefix: "sra", PathStyle: true,
		AccessKeyFile: key, SecretKeyFile: key, Now: func() time.Time { return w.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.storage.Close)
	w.checker, err = recordings.New(recordings.Config{
		Cluster: "berlin", Name: "recordings", Pattern: "{date}/{session_id}", Within: within,
	}, w, func() time.Time { return w.now })
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// fate is what becomes of a session's recording.
type fate struct {
	after   time.Duration // how long after the end a list shows it, negative for never
	content string
	want    fleet.Failure
}

// fateOf gives 3 % no recording, 2 % an empty one and 10 % a late one, spread over
// all sessions.
func fateOf(i int) fate {
	switch n := i * 37 % 100; {
	case n < 3:
		return fate{after: -1, want: fleet.FailureMissing}
	case n < 5:
		return fate{after: 10 * time.Second, want: fleet.FailureEmpty}
	case n < 15:
		return fate{after: within - 20*time.Second, content: "moving pictures"}
	}
	return fate{after: 20 * time.Second, content: "moving pictures"}
}

// run ends a session every three seconds and polls until all are judged. The
// storage is away in the given time.
func run(t *testing.T, w *world, awayFrom, awayFor time.Duration) (
	verdicts map[fleet.SessionID]fleet.Failure, took map[fleet.SessionID]time.Duration, storage []bool,
) {
	t.Helper()
	began, arrivals := w.now, make(map[time.Time][]int)
	verdicts, took = make(map[fleet.SessionID]fleet.Failure), make(map[fleet.SessionID]time.Duration)
	for taken := 0; len(verdicts) < sessions; w.now = w.now.Add(time.Second) {
		if w.now.Sub(began) > 3*time.Hour {
			t.Fatalf("after three hours %d of %d sessions are judged", len(verdicts), sessions)
		}
		passed := w.now.Sub(began)
		w.away.Store(passed >= awayFrom && passed < awayFrom+awayFor)
		if taken < sessions && int(passed/time.Second)%3 == 0 {
			if f := fateOf(taken); f.after >= 0 {
				at := w.now.Add(f.after)
				arrivals[at] = append(arrivals[at], taken)
			}
			w.checker.Take(fleet.Session{
				ID: id(taken), Cluster: "berlin", Status: fleet.SessionCompleted, Protocol: "rdp", Start: w.now.Add(-time.Minute), End: w.now,
			})
			taken++
		}
		for _, i := range arrivals[w.now] {
			// Who records waits for the storage, too.
			if w.away.Load() {
				back := began.Add(awayFrom + awayFor)
				arrivals[back] = append(arrivals[back], i)
				continue
			}
			w.put(t, fmt.Sprintf("%s/%s/video.mp4", w.now.Format(time.DateOnly), id(i)), fateOf(i).content)
		}
		if passed%every != 0 {
			continue
		}
		checks, err := w.checker.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range checks {
			if c.Kind == fleet.CheckStorage {
				storage = append(storage, c.OK)
				continue
			}
			if before, judged := verdicts[c.Session]; judged {
				t.Fatalf("%s is judged %q and %q", c.Session, before, c.Failure)
			}
			verdicts[c.Session] = c.Failure
			took[c.Session] = c.Took
		}
	}
	return verdicts, took, storage
}

func id(i int) fleet.SessionID { return fleet.SessionID(fmt.Sprint("s-", i)) }

func expected() map[fleet.SessionID]fleet.Failure {
	want := make(map[fleet.SessionID]fleet.Failure)
	for i := range sessions {
		want[id(i)] = fateOf(i).want
	}
	return want
}

func TestAThousandSessionsComeToTheirVerdicts(t *testing.T) {
	t.Parallel()
	w := begin(t)
	began := time.Now()
	verdicts, took, storage := run(t, w, 0, 0)
	if diff := cmp.Diff(expected(), verdicts); diff != "" {
		t.Error(diff)
	}
	counts := make(map[fleet.Failure]int)
	for failure := range maps.Values(verdicts) {
		counts[failure]++
	}
	if diff := cmp.Diff(map[fleet.Failure]int{"": 950, fleet.FailureMissing: 30, fleet.FailureEmpty: 20}, counts); diff != "" {
		t.Error(diff)
	}
	if storage != nil {
		t.Errorf("%d checks of a storage that was there", len(storage))
	}
	for i := range sessions {
		if f := fateOf(i); f.want == "" && took[id(i)] != f.after-lag {
			t.Errorf("the recording of %s took %s, want %s", id(i), took[id(i)], f.after-lag)
		}
	}
	t.Logf("%d lists in %s", w.calls.Load(), time.Since(began).Round(time.Millisecond))
}

func TestAnOutageChangesNoVerdict(t *testing.T) {
	t.Parallel()
	w := begin(t)
	verdicts, _, storage := run(t, w, 20*time.Minute, 3*time.Minute)
	if diff := cmp.Diff(expected(), verdicts); diff != "" {
		t.Error(diff)
	}
	// Three minutes are twelve polls, and the one after them says that it works again.
	if want := append(make([]bool, 12), true); !slices.Equal(storage, want) {
		t.Errorf("the storage was told %v, want %v", storage, want)
	}
}

func TestTheStorageItselfIsTriedOut(t *testing.T) {
	t.Parallel()
	w := begin(t)
	if check := w.storage.Canary(t.Context(), "berlin", "storage"); !check.OK {
		t.Errorf("%+v", check)
	}
	w.away.Store(true)
	if check := w.storage.Canary(t.Context(), "berlin", "storage"); check.Failure != fleet.FailureUnreachable {
		t.Errorf("%+v", check)
	}
	w.away.Store(false)
	list, err := w.backend.ListBucket(bucket, nil, gofakes3.ListBucketPage{})
	if err != nil || len(list.Contents) != 0 {
		t.Errorf("%v stayed behind, %v", list, err)
	}
}
