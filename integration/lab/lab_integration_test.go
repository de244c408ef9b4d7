//go:build integration

package lab_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/integration/lab"
	"github.com/lockstep-fleet/lockstep/integration/lab/project"
	"github.com/lockstep-fleet/lockstep/integration/lab/traffic"
)

type deaf struct{}

func (deaf) Report(traffic.Session) {}

// Three clusters carry sessions; a bad release in one of them fails people
// there and nowhere else; going back heals it.
func TestLab(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	l, err := lab.Start(ctx, lab.Options{
		Name: fmt.Sprintf("labtest%d", os.Getpid()),
		Dir:  t.TempDir(),
		Log:  slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}()
	g, err := l.Traffic(traffic.Options{Recorder: deaf{}, Rate: 20, Run: "labtest"})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { g.Run(running) })
	defer wg.Wait()
	defer stop()

	if err := g.WaitHealthy(ctx, 40); err != nil {
		t.Fatal(err)
	}
	bad, err := l.Publish(ctx, lab.Release{Gateway: "5.0.1", SRA: "3.1.0", SRAFailPercent: 30})
	if err != nil {
		t.Fatal(err)
	}
	berlin := l.Clusters[0]
	good, err := l.Compose.Capture(ctx, berlin.Project.Target(""))
	if err != nil {
		t.Fatal(err)
	}
	worse, err := compose.Retarget(good, map[string]string{
		project.WebService: bad.SRA.Pinned(),
		project.SSHService: bad.SRA.Pinned(),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := l.Compose.Apply(ctx, worse, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("applying took %s", time.Since(begun))

	since := time.Now().Add(time.Second) // Count works by whole seconds
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var inBerlin traffic.Tally
	for inBerlin.Completed+inBerlin.Failed < 100 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
		inBerlin = g.Count("berlin", since, time.Time{})
	}
	if rate := inBerlin.FailRate(); rate < 0.15 || rate > 0.45 {
		t.Errorf("with the bad release: %v in berlin, want about 30 %%; reasons: %v", inBerlin, g.Reasons())
	}
	for _, c := range l.Clusters[1:] {
		if other := g.Count(c.Name, time.Time{}, time.Time{}); other.Failed > 0 || other.Completed < 100 {
			t.Errorf("%s runs the good release: %v; reasons: %v", c.Name, other, g.Reasons())
		}
	}

	begun = time.Now()
	if err := l.Compose.Apply(ctx, good, nil); err != nil {
		t.Fatal(err)
	}
	t.Logf("going back took %s", time.Since(begun))
	if err := g.WaitHealthy(ctx, 40); err != nil {
		t.Fatal(err)
	}
	stop()
	wg.Wait()
	t.Logf("all: %v over %d pairs; reasons: %v", g.Count("", time.Time{}, time.Time{}), g.Pairs(), g.Reasons())
}
