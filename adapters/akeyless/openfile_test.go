package akeyless_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// again is a new reader of the same server, as after a restart.
func (b *bench) again(t *testing.T, path string, clusters map[string]fleet.ClusterID) {
	t.Helper()
	var err error
	b.reader, err = akeyless.NewSessionReader(akeyless.ReaderOptions{
		Client: b.client, Clusters: clusters, OpenFile: path,
		SourceLag: 2 * time.Second, Overlap: 5 * time.Second, Lookback: time.Hour, Now: func() time.Time { return b.now },
	})
	if err != nil {
		t.Fatal(err)
	}
}

func bothClusters() map[string]fleet.ClusterID {
	return map[string]fleet.ClusterID{"v/west": "west", "v/east": "east"}
}

func TestOpenSessionsOutliveARestart(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*testing.T, *bench){
		"stopped": func(t *testing.T, b *bench) {
			if err := b.reader.Save(); err != nil {
				t.Error(err)
			}
		},
		"killed": func(*testing.T, *bench) {}, // what the first poll wrote is there
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "open")
			b := newBench(t, akeylesstest.Options{PageSize: 3})
			b.again(t, path, bothClusters()) // no file is no mistake
			const old = -26 * time.Hour
			lost := akeylesstest.Session{
				ID: "lost", Status: "connected", StartTime: noon.Add(old), Gateway: akeylesstest.GatewayInfo{ClusterName: "v/west"},
				UserIdentifier: "ann", TargetName: "db", TargetType: "mysql-target", InstanceID: "i-1", ConnectionType: "mysql",
			}
			if err := b.server.Report(lost); err != nil {
				t.Fatal(err)
			}
			b.report(t, "fails", "v/west", "connected", old)
			b.report(t, "elsewhere", "v/east", "connected", old)
			b.poll(t)
			stop(t, b)
			if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
				t.Fatalf("the file is %v, %v; want it for its owner alone", info, err)
			}

			b.now = b.now.Add(30 * time.Minute)
			b.report(t, "fails", "v/west", "failed", old)
			b.report(t, "elsewhere", "v/east", "failed", old)
			b.server.Forget("lost")
			b.again(t, path, map[string]fleet.ClusterID{"v/west": "west"}) // the other is mapped no more
			page := b.poll(t)
			wantStates(t, page, "west/fails=failed west/lost=vanished")
			wantBlind(t, page, nil)
			want := fleet.Session{
				ID: "lost", Cluster: "west", Status: fleet.SessionVanished, Start: lost.StartTime,
				User: "ann", Target: "db", TargetType: "mysql-target", InstanceID: "i-1", Protocol: "mysql",
			}
			if i := slices.IndexFunc(page.Sessions, func(s fleet.Session) bool { return s.ID == "lost" }); i >= 0 {
				if diff := cmp.Diff(want, page.Sessions[i]); diff != "" {
					t.Errorf("the session that vanished (-want +got):\n%s", diff)
				}
			}
			wantStates(t, b.poll(t), "")
		})
	}
}

// TestWhatNobodyReadIsTold starts a reader after a longer time than it looks back.
func TestWhatNobodyReadIsTold(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "open")
	b := newBench(t, akeylesstest.Options{})
	b.again(t, path, bothClusters())
	b.report(t, "s", "v/west", "connected", 0)
	b.poll(t)
	if err := b.reader.Save(); err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(3 * time.Hour)
	b.again(t, path, bothClusters())
	for _, mark := range b.poll(t).Marks {
		if horizon := b.now.Add(-time.Hour); !mark.Lost || !mark.Blind || !mark.CompleteUntil.Equal(horizon) || !strings.Contains(mark.BlindReason, "was never read") {
			t.Errorf("mark of %s is %+v, want what began before %s told as lost", mark.Cluster, mark, horizon)
		}
	}
	b.now = b.now.Add(time.Minute)
	for _, mark := range b.poll(t).Marks {
		if mark.Lost || mark.Blind || !mark.CompleteUntil.Equal(b.now.Add(-2*time.Second)) {
			t.Errorf("the next mark of %s is %+v", mark.Cluster, mark)
		}
	}
}

// TestAnEndThatWasNotDelivered stops between a poll and the delivery of its page.
func TestAnEndThatWasNotDelivered(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "open")
	b := newBench(t, akeylesstest.Options{})
	b.again(t, path, bothClusters())
	b.report(t, "s", "v/west", "connected", -26*time.Hour)
	b.poll(t)
	b.report(t, "s", "v/west", "completed", -26*time.Hour)
	wantStates(t, b.poll(t), "west/s=completed")
	if err := b.reader.Save(); err != nil {
		t.Fatal(err)
	}
	b.again(t, path, bothClusters())
	wantStates(t, b.poll(t), "west/s=completed")
	wantStates(t, b.poll(t), "")
	if err := b.reader.Save(); err != nil {
		t.Fatal(err)
	}
	b.again(t, path, bothClusters())
	wantStates(t, b.poll(t), "")
}

func TestOpenSessionsAreSavedNowAndThen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "open")
	b := newBench(t, akeylesstest.Options{})
	b.again(t, path, bothClusters())
	if err := b.reader.Save(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("saved before anything was read")
	}
	b.poll(t)
	b.report(t, "s", "v/west", "connected", 0)
	saved := func() bool {
		b.poll(t)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(content), `"id":"s"`)
	}
	b.now = noon.Add(4 * time.Minute)
	if saved() {
		t.Error("saved after 4 minutes, want after 5")
	}
	b.now = noon.Add(5 * time.Minute)
	if !saved() {
		t.Error("not saved after 5 minutes")
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v; want the file alone", left, err)
	}
	b.again(t, filepath.Join(path, "under", "a", "file"), bothClusters())
	b.poll(t) // a file that cannot be written fails no poll
	if err := b.reader.Save(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("saved where nothing can be: %v", err)
	}
}

func TestOpenFileOfOthers(t *testing.T) {
	t.Parallel()
	const begin = `"lockstep open sessions 1"` + "\n"
	for name, content := range map[string]string{
		"empty":        "",
		"foreign":      "#!/bin/sh\nexit\n",
		"another JSON": `{"id":"s"}`,
		"a later one":  `"lockstep open sessions 2"`,
		"cut short":    begin + `{"id":"s","cluster":"west","start":"2026-02-28T10:00:00Z"}` + "\n" + `{"id":"t","clu`,
		"no start":     begin + `{"id":"s","cluster":"west"}`,
		"no id":        begin + `{"cluster":"west","start":"2026-02-28T10:00:00Z"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := secretFile(t, content)
			var logged bytes.Buffer
			b := newBench(t, akeylesstest.Options{})
			b.client = newClient(t, b.server.URL(), through(b), func(o *akeyless.Options) {
				o.Now, o.Log = func() time.Time { return b.now }, slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
			})
			logged.Reset()
			b.again(t, path, bothClusters())
			page := b.poll(t)
			wantStates(t, page, "")
			wantBlind(t, page, nil)
			if strings.Count(logged.String(), path) != 1 {
				t.Errorf("want to be told once of %s, and got %q", path, logged.String())
			}
		})
	}
}

func TestOpenFileIsBounded(t *testing.T) {
	t.Parallel()
	path := secretFile(t, `"lockstep open sessions 1"`+"\n"+
		`{"id":"a","cluster":"west","start":"2026-03-01T10:00:00Z"}`+"\n"+
		`{"id":"b","cluster":"west","start":"2026-03-01T10:00:00Z"}`+"\n"+
		`{"id":"c","cluster":"west","start":"2026-03-01T10:00:00Z"}`+"\n")
	b := newBench(t, akeylesstest.Options{}, func(o *akeyless.ReaderOptions) { o.OpenFile, o.MaxSessions = path, 2 })
	wantStates(t, b.poll(t), "west/a=vanished west/b=vanished")
}
