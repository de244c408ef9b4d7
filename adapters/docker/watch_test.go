package docker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const limit = 10 * time.Second

// stream is what an engine does with one request for its events.
type stream func(w http.ResponseWriter, r *http.Request)

// streaming is an engine that answers each request for events by the next of its
// streams, and by an open and silent one after the last.
func streaming(t *testing.T, streams ...stream) string {
	t.Helper()
	var asked atomic.Int64
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
		case !strings.HasSuffix(r.URL.Path, "/events"):
			t.Errorf("unexpected request %s", r.URL)
		default:
			do := silent
			if n := int(asked.Add(1)); n <= len(streams) {
				do = streams[n-1]
			}
			do(w, r)
		}
	})
}

func serve(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		handle(w, r)
	}))
	t.Cleanup(server.Close)
	return "tcp://" + server.Listener.Addr().String()
}

func silent(w http.ResponseWriter, r *http.Request) {
	says()(w, r)
	<-r.Context().Done()
}

// says opens a stream, writes and ends well.
func says(parts ...string) stream {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		for _, part := range parts {
			_, _ = w.Write([]byte(part))
		}
		_ = http.NewResponseController(w).Flush()
	}
}

// breaks does the same, and the connection is cut.
func breaks(parts ...string) stream {
	return func(w http.ResponseWriter, r *http.Request) {
		says(parts...)(w, r)
		panic(http.ErrAbortHandler)
	}
}

func refuses(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, `{"message":"not now"}`, http.StatusServiceUnavailable)
}

func cuts(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

const died = `{"Type":"container","Action":"die","Actor":{"ID":"c1"},"time":1}` + "\n"

// watcher is one Watch under way.
type watcher struct {
	t       *testing.T
	changed chan struct{}
	ended   chan error
	stop    context.CancelFunc
	said    *journal
}

func watch(t *testing.T, host string) *watcher {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	w := &watcher{t: t, changed: make(chan struct{}, 1<<17), ended: make(chan error, 1), stop: stop, said: &journal{}}
	e := open(t, docker.Options{Host: host, Logger: slog.New(slog.NewTextHandler(w.said, nil))})
	go func() { w.ended <- e.Watch(ctx, "vault", func() { w.changed <- struct{}{} }) }()
	t.Cleanup(w.end)
	return w
}

// sees waits for n changes.
func (w *watcher) sees(n int) {
	w.t.Helper()
	timeout := time.After(limit)
	for i := range n {
		select {
		case <-w.changed:
		case <-timeout:
			w.t.Fatalf("%d changes were seen, want %d; the log says:\n%s", i, n, w.said)
		}
	}
}

// end stops it and waits until it has ended, without an error.
func (w *watcher) end() {
	w.t.Helper()
	w.stop()
	select {
	case err := <-w.ended:
		if err != nil {
			w.t.Errorf("Watch returned %v", err)
		}
		w.ended <- nil // for the next
	case <-time.After(limit):
		w.t.Error("Watch does not end")
	}
}

// tells checks how often a loss and its end were logged.
func (w *watcher) tells(lost, again int) {
	w.t.Helper()
	text := w.said.String()
	if got := strings.Count(text, "events are lost"); got != lost {
		w.t.Errorf("%d losses were logged, want %d:\n%s", got, lost, text)
	}
	if got := strings.Count(text, "followed again"); got != again {
		w.t.Errorf("%d recoveries were logged, want %d:\n%s", got, again, text)
	}
}

func TestWatchAsksForWhatChangesAnInventory(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	w := watch(t, streaming(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.FormValue("filters")
		silent(w, r)
	}))
	w.sees(1)
	var filters map[string]map[string]bool
	if err := json.Unmarshal([]byte(<-asked), &filters); err != nil {
		t.Fatal(err)
	}
	if !filters["type"]["container"] || len(filters["type"]) != 1 || !filters["label"]["com.docker.compose.project=vault"] || len(filters["label"]) != 1 {
		t.Errorf("it asks for %v", filters)
	}
	for _, action := range []string{"start", "die", "oom", "health_status", "destroy", "rename", "update"} {
		if !filters["event"][action] {
			t.Errorf("it does not ask for %s", action)
		}
	}
	for action := range maps.Keys(filters["event"]) {
		if strings.HasPrefix(action, "exec") {
			t.Errorf("it asks for %s, which every health check causes", action)
		}
	}
	w.end()
	w.tells(0, 0)
}

func TestWatchTellsEachEventAndEachBeginning(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		streams []stream
		changes int // the silent stream at the end included
		lost    int
	}{
		"ended by the engine":        {[]stream{hold(says(died, died))}, 1 + 2 + 1, 1},
		"broken in the middle":       {[]stream{hold(breaks(died, died[:20]))}, 1 + 1 + 1, 1},
		"garbage":                    {[]stream{hold(says(died, "<html>try later</html>\n", died))}, 1 + 1 + 1, 1},
		"not an event":               {[]stream{hold(says(`[1,2]`))}, 1 + 1, 1},
		"refused a few times":        {[]stream{refuses, refuses, refuses}, 1, 1},
		"cut before an answer":       {[]stream{cuts, cuts}, 1, 1}, // the first is on a kept connection: the client tries again unasked
		"ends as soon as it is open": {[]stream{says()}, 1, 1},
		"lost twice":                 {[]stream{hold(says(died)), hold(says(died))}, 2 + 2 + 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := watch(t, streaming(t, c.streams...))
			w.sees(c.changes)
			w.end()
			if more := len(w.changed); more > 0 {
				t.Errorf("%d changes more than happened", more)
			}
			w.tells(c.lost, c.lost)
		})
	}
}

// hold keeps a stream open for long enough to count as begun before it writes.
func hold(then stream) stream {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-time.After(300 * time.Millisecond)
		then(unwritten{w}, r)
	}
}

// unwritten lets a stream write the header that hold has written.
type unwritten struct{ http.ResponseWriter }

func (unwritten) WriteHeader(int)               {}
func (u unwritten) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func TestWatchKeepsUpWithAFlood(t *testing.T) {
	t.Parallel()
	const events = 50_000
	w := watch(t, streaming(t, func(w http.ResponseWriter, r *http.Request) {
		says(slices.Repeat([]string{died}, events)...)(w, r)
		<-r.Context().Done()
	}))
	w.sees(1 + events)
	w.end()
	w.tells(0, 0)
}

func TestWatchWaitsForAnEngineThatIsNotThere(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	w := watch(t, "tcp://"+server.Listener.Addr().String())
	timeout := time.After(limit)
	for !strings.Contains(w.said.String(), "LS-CMP-001") {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-timeout:
			t.Fatalf("the log says %q", w.said)
		}
	}
	w.end()
	if len(w.changed) > 0 {
		t.Error("a change was seen on an engine that is not there")
	}
	w.tells(1, 0)
}

// hangs is an engine that never answers requests for one path, and tells of each.
func hangs(t *testing.T, path string) (host string, asked <-chan struct{}) {
	t.Helper()
	requests := make(chan struct{}, 100)
	host = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, path) {
			requests <- struct{}{}
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`[{"Id":"c1","Labels":{"com.docker.compose.service":"akeyless-gateway"}}]`))
	})
	return host, requests
}

func TestAnEngineThatHangsHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{"from the start": "/_ping", "at the list": "/containers/json", "at a container": "/containers/c1/json"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, asked := hangs(t, path)
			began := time.Now()
			e := open(t, docker.Options{Host: host})
			if path == "/_ping" {
				// A watcher has all the time there is, and asks first.
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- e.Watch(ctx, "vault", func() {}) }()
				<-asked
				defer func() {
					stop()
					if err := <-ended; err != nil {
						t.Errorf("Watch returned %v", err)
					}
				}()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := e.Inventory(ctx, "east", "vault", nil, now)
			if errs.IDOf(err) != "LS-CMP-015" || errs.KindOf(err) != errs.Timeout {
				t.Errorf("an inventory of an engine that hangs: %v", err)
			}
			if took := time.Since(began); took > 1500*time.Millisecond {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestWatchEndsWhileItWaitsForItsStream(t *testing.T) {
	t.Parallel()
	host, asked := hangs(t, "/events")
	w := watch(t, host)
	<-asked
	w.end()
	w.tells(0, 0)
}

func TestManyMayReadAtTheSameTime(t *testing.T) {
	t.Parallel()
	replies := map[string]string{"/images/sha256:01/json": `{"Id":"sha256:01"}`}
	var list []string
	for i := range 20 {
		id := fmt.Sprintf("c%d", i)
		list = append(list, fmt.Sprintf(`{"Id":%q,"Labels":{"com.docker.compose.service":"akeyless-gateway"}}`, id))
		replies["/containers/"+id+"/json"] = fmt.Sprintf(`{"Id":%q,"Image":"sha256:01","Config":{"Image":"akeyless/base:5"}}`, id)
	}
	replies["/containers/json"] = "[" + strings.Join(list, ",") + "]"
	e := open(t, docker.Options{Host: engine(t, replies)})
	var reading sync.WaitGroup
	for range 8 {
		reading.Go(func() {
			got, err := e.Inventory(t.Context(), "east", "vault", nil, now)
			if err != nil || len(got.Instances) != 20 {
				t.Errorf("%d instances, %v", len(got.Instances), err)
			}
		})
	}
	reading.Wait()
}

// journal is a log that is read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
