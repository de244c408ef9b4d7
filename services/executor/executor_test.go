package executor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	commandv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/command/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
	"github.com/lockstep-fleet/lockstep/topology"
)

// good lists the facts of a rollout of one cluster in which all goes well.
func good(name string) []string {
	out := []string{"RolloutStarted"}
	for _, f := range []string{
		"ClusterStarted", "PackageCaptured", "StepStarted", "StepApplied", "StepPassed", "StepStarted", "StepApplied", "StepPassed", "ClusterDone",
	} {
		out = append(out, name+"."+f)
	}
	return append(out, "RolloutSucceeded")
}

// back lists those of one whose first gate fails.
func back() []string {
	return []string{
		"RolloutStarted", "paris.ClusterStarted", "paris.PackageCaptured", "paris.StepStarted", "paris.StepApplied",
		"paris.RollbackStarted", "paris.ClusterRestored", "RolloutHeld",
	}
}

// recorded lists what drivers record of commands that are each done once.
func recorded(id, cluster string, actions ...string) []string {
	var out []string
	for _, action := range actions {
		key := fmt.Sprintf("rollout/%s/%s/%s", id, cluster, action)
		out = append(out, "begun "+key, "finished "+key)
	}
	return out
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got): %s", what, diff)
	}
}

// refused checks that a call was refused for a reason of the catalogue.
func refused(t *testing.T, err error, id string) {
	t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.ID != id {
		t.Errorf("refused with %v, want %s", err, id)
	}
}

func TestGoodRollout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	id := l.roll("one", "spring")
	for _, c := range []string{"paris", "rome"} {
		l.judge(id, c, "gateway", gate.Pass)
		l.judge(id, c, "sra", gate.Pass)
	}
	l.awaitPhase(id, rollout.PhaseSucceeded)
	paris, rome := good("paris"), good("rome")
	want := append(append([]string{}, paris[:len(paris)-1]...), rome[1:]...)
	same(t, "facts", want, w.facts(id))
	same(t, "steps", append(recorded(id, "paris", "capture", "gateway/apply", "sra/apply"), recorded(id, "rome", "capture", "gateway/apply", "sra/apply")...), w.steps())
	for _, c := range []*cluster{w.paris, w.rome} {
		running, applied := c.now()
		same(t, "running", withSRA, running)
		same(t, "applied", map[string]int{withGateway: 1, withSRA: 1}, applied)
	}
}

func TestFailedGateRestores(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	id := l.roll("one", "spring")
	l.judge(id, "paris", "gateway", gate.Fail)
	l.awaitPhase(id, rollout.PhaseHeld)
	same(t, "facts", back(), w.facts(id))
	running, _ := w.paris.now()
	same(t, "paris", base, running)
	if _, applied := w.rome.now(); len(applied) != 0 {
		t.Errorf("rome was touched: %v", applied)
	}
}

// A process may die at any point of any command. The next one finishes the
// rollout; nothing is done twice that is known to be done, nothing is recorded
// twice.
func TestCrashes(t *testing.T) {
	t.Parallel()
	points := []struct {
		name       string
		when, what string
		// How often the command's act is done in all, at least and at most: a driver may
		// be at it when the process that sent the command dies.
		least, most int
	}{
		{"before the command is sent", "before", "publish ", 1, 1},
		{"after the command is sent", "after", "publish ", 1, 2},
		{"before it is begun", "before", "append begun ", 1, 1},
		{"after it is begun", "after", "append begun ", 1, 1},
		{"after it is done", "before", "append finished ", 2, 2},
		{"after it is finished", "before", "hear finished ", 1, 1},
		{"after the conductor heard", "after", "hear finished ", 1, 1},
	}
	for _, action := range []string{"capture", "gateway/apply", "restore"} {
		for _, point := range points {
			t.Run(action+" "+point.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				var died atomic.Bool
				hook := func(l *life, when, what string) error {
					key := strings.TrimPrefix(what, point.what)
					if when != point.when || key == what || !strings.HasSuffix(key, "/paris/"+action) {
						return nil
					}
					died.Store(true)
					l.kill()
					return errDead
				}
				l := w.start(hook)
				resp, err := l.api.StartRollout(t.Context(), &rolloutv1.StartRolloutRequest{Release: "spring", Clusters: []string{"paris"}, RequestId: "one"})
				if err != nil {
					t.Fatal(err)
				}
				id := resp.GetRollout().GetId()
				verdict := gate.Pass
				if action == "restore" {
					verdict = gate.Fail
					l.judge(id, "paris", "gateway", verdict)
				}
				await(t, "the crash", died.Load)
				l.stop()
				l = w.start(nil)
				if action == "restore" {
					l.awaitPhase(id, rollout.PhaseHeld)
					same(t, "facts", back(), w.facts(id))
					same(t, "steps", recorded(id, "paris", "capture", "gateway/apply", "restore"), w.steps())
				} else {
					l.judge(id, "paris", "gateway", verdict)
					l.judge(id, "paris", "sra", verdict)
					l.awaitPhase(id, rollout.PhaseSucceeded)
					same(t, "facts", good("paris"), w.facts(id))
					same(t, "steps", recorded(id, "paris", "capture", "gateway/apply", "sra/apply"), w.steps())
				}
				running, applied := w.paris.now()
				captures := w.paris.captures
				wantRunning, wantApplied := withSRA, map[string]int{withGateway: 1, withSRA: 1}
				done := &captures
				switch action {
				case "gateway/apply":
					n := applied[withGateway]
					done, applied[withGateway] = &n, 1
				case "restore":
					n := applied[base]
					done, applied[base] = &n, 1
					wantRunning, wantApplied = base, map[string]int{withGateway: 1, base: 1}
				}
				if *done < point.least || *done > point.most {
					t.Errorf("it was done %d times, want %d to %d", *done, point.least, point.most)
				}
				*done = 1
				same(t, "running", wantRunning, running)
				same(t, "applied", wantApplied, applied)
				same(t, "captures", 1, captures)
			})
		}
	}
}

func TestAbortStopsAnApplyInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	began := make(chan struct{}, 1)
	w.paris.script(func(ctx context.Context, pkg string) error {
		if pkg == base {
			return nil
		}
		began <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	l := w.start(nil)
	id := l.roll("one", "spring", "paris")
	<-began
	asked := time.Now()
	if _, err := l.api.RollbackRollout(t.Context(), &rolloutv1.RollbackRolloutRequest{Id: id, Reason: "wrong release"}); err != nil {
		t.Fatal(err)
	}
	l.awaitPhase(id, rollout.PhaseRolledBack)
	if took := time.Since(asked); took > 5*time.Second {
		t.Errorf("the way back took %s", took)
	}
	running, applied := w.paris.now()
	same(t, "running", base, running)
	same(t, "applied", map[string]int{withGateway: 1, base: 1}, applied)
	same(t, "steps", recorded(id, "paris", "capture", "gateway/apply", "restore"), w.steps())
}

// The process dies after it recorded the way back and before it told the driver.
// The step that was cut off is taken up by the next process, and must not
// outlive the restore.
func TestACutOffStepDoesNotOutliveTheRestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	began := make(chan struct{}, 1)
	w.paris.script(func(ctx context.Context, pkg string) error {
		if pkg != base {
			began <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	var died atomic.Bool
	l := w.start(func(l *life, when, what string) error {
		if when == "before" && strings.HasPrefix(what, "put ") {
			died.Store(true)
			l.kill()
			return errDead
		}
		return nil
	})
	id := l.roll("one", "spring", "paris")
	<-began
	if _, err := l.api.RollbackRollout(t.Context(), &rolloutv1.RollbackRolloutRequest{Id: id, Reason: "wrong release"}); err != nil {
		t.Fatal(err)
	}
	await(t, "the crash", died.Load)
	l.stop()
	l = w.start(nil)
	l.awaitPhase(id, rollout.PhaseRolledBack)
	// Every command is answered, so nothing is left to be taken up.
	await(t, "the answer to the cut-off step", func() bool { return len(w.steps()) == 6 })
	running, _ := w.paris.now()
	same(t, "running", base, running)
}

// A step that is stopped before it began touches nothing.
func TestAStoppedStepDoesNotBegin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	pkg, err := w.bus.PutBlob(t.Context(), topology.BucketBlobs, []byte(base))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.bus.PutKey(t.Context(), topology.BucketControl, "rollout.r1.paris", []byte("abort")); err != nil {
		t.Fatal(err)
	}
	w.start(nil)
	w.command(rollout.Command{Key: "rollout/r1/paris/gateway/apply", Rollout: "r1", Cluster: "paris", Action: rollout.Apply{
		BasePackage: pkg, Images: map[fleet.Component]rollout.Image{fleet.Gateway: {Ref: "gateway:2", Version: "2"}},
	}})
	await(t, "the answer", func() bool { return len(w.steps()) == 2 })
	if _, applied := w.paris.now(); len(applied) != 0 {
		t.Errorf("the stopped step was applied: %v", applied)
	}
}

// Whoever cannot learn whether to stop does not begin.
func TestAnUnreadableControlBucketDelaysAStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var reads, blobs atomic.Int32
	l := w.start(func(_ *life, when, what string) error {
		switch {
		case when == "before" && strings.HasPrefix(what, "get rollout.") && reads.Add(1) == 1:
			if _, applied := w.paris.now(); len(applied) != 0 {
				t.Error("the cluster was touched before the control bucket was read")
			}
			return errors.New("timeout")
		case when == "before" && what == "blob" && blobs.Add(1) == 1:
			return errors.New("timeout")
		}
		return nil
	})
	id := l.roll("one", "spring", "paris")
	l.judge(id, "paris", "gateway", gate.Pass)
	same(t, "steps", recorded(id, "paris", "capture", "gateway/apply"), w.steps()[:4])
	_, applied := w.paris.now()
	same(t, "applied", 1, applied[withGateway])
	if reads.Load() < 2 || blobs.Load() < 2 {
		t.Errorf("%d reads of the control bucket and %d of blobs; the failures were not met", reads.Load(), blobs.Load())
	}
}

// A restore is the way out of trouble: a bus that fails for a moment must not
// end it.
func TestAnUnreadablePackageDelaysARestore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var failing atomic.Bool
	var failed atomic.Int32
	l := w.start(func(_ *life, when, what string) error {
		if when == "before" && what == "blob" && failing.Load() && failed.Add(1) == 1 {
			return errors.New("timeout")
		}
		return nil
	})
	id := l.roll("one", "spring", "paris")
	failing.Store(true)
	l.judge(id, "paris", "gateway", gate.Fail)
	await(t, "rest", func() bool { return rollout.Phase(l.get(id).GetPhase()).Resting() })
	same(t, "phase", string(rollout.PhaseHeld), l.get(id).GetPhase())
	running, _ := w.paris.now()
	same(t, "running", base, running)
}

func TestStoppingIsNoAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	began := make(chan struct{}, 1)
	w.paris.script(func(ctx context.Context, _ string) error {
		began <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	l := w.start(nil)
	id := l.roll("one", "spring", "paris")
	<-began
	l.stop()
	same(t, "steps", append(recorded(id, "paris", "capture"), fmt.Sprintf("begun rollout/%s/paris/gateway/apply", id)), w.steps())
	w.paris.script(nil)
	l = w.start(nil)
	l.judge(id, "paris", "gateway", gate.Pass)
	l.judge(id, "paris", "sra", gate.Pass)
	l.awaitPhase(id, rollout.PhaseSucceeded)
	same(t, "facts", good("paris"), w.facts(id))
}

func TestACommandThatCannotBeSentIsSentLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var tries atomic.Int32
	l := w.start(func(_ *life, when, what string) error {
		if when == "before" && strings.HasPrefix(what, "publish ") && tries.Add(1) == 1 {
			return errors.New("no responders")
		}
		return nil
	})
	id := l.roll("one", "spring", "paris")
	l.awaitGate(id, "paris", "gateway")
	same(t, "sends of the first two commands", int32(3), tries.Load())
}

// An append that was stored may look failed. The stream is the truth.
func TestALostAcknowledgementOfAStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var lost atomic.Bool
	l := w.start(func(_ *life, when, what string) error {
		if when == "after" && strings.HasPrefix(what, "append RolloutStarted") && lost.CompareAndSwap(false, true) {
			return errors.New("timeout")
		}
		return nil
	})
	request := &rolloutv1.StartRolloutRequest{Release: "spring", Clusters: []string{"paris"}, RequestId: "one"}
	if _, err := l.api.StartRollout(t.Context(), request); err == nil {
		t.Fatal("the start was to fail")
	}
	// Nobody asks again, and it goes on all the same.
	await(t, "the capture", func() bool { return len(w.steps()) >= 2 })
	resp, err := l.api.StartRollout(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	l.judge(resp.GetRollout().GetId(), "paris", "gateway", gate.Pass)
	l.judge(resp.GetRollout().GetId(), "paris", "sra", gate.Pass)
	l.awaitPhase(resp.GetRollout().GetId(), rollout.PhaseSucceeded)
	same(t, "facts", good("paris"), w.facts(resp.GetRollout().GetId()))
}

func TestACommandForAClusterThatIsNotHere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(nil)
	w.command(rollout.Command{Key: "rollout/r1/nowhere/capture", Rollout: "r1", Cluster: "nowhere", Action: rollout.Capture{}})
	var answer *commandv1.Finished
	await(t, "the answer", func() bool {
		if err := w.bus.Load(t.Context(), topology.StreamEvents, topology.EventFilter(topology.NounStep), func(m bus.Message) error {
			var event commandv1.Event
			err := proto.Unmarshal(m.Data, &event)
			answer = event.GetFinished()
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return answer != nil
	})
	if !strings.Contains(answer.GetError(), "nowhere") {
		t.Errorf("the answer is %q", answer.GetError())
	}
}

func TestOneRequestStartsOneRollout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	// The first call is still looking at the cluster while the second one starts.
	looking, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.paris.onSurvey = func(context.Context) error {
		first := false
		once.Do(func() { first = true })
		if first {
			close(looking)
			<-release
		}
		return nil
	}
	request := &rolloutv1.StartRolloutRequest{Release: "spring", Clusters: []string{"paris"}, RequestId: "one"}
	type answer struct {
		resp *rolloutv1.StartRolloutResponse
		err  error
	}
	slow := make(chan answer, 1)
	go func() {
		resp, err := l.api.StartRollout(t.Context(), request)
		slow <- answer{resp, err}
	}()
	<-looking
	id := l.roll("one", "spring", "paris")
	close(release)
	got := <-slow
	if got.err != nil {
		t.Fatalf("the same request twice at once: %v", got.err)
	}
	same(t, "the id of the slower call", id, got.resp.GetRollout().GetId())
	same(t, "the id of a third call", id, l.roll("one", "spring", "paris"))
	l.judge(id, "paris", "gateway", gate.Pass)
	l.judge(id, "paris", "sra", gate.Pass)
	l.awaitPhase(id, rollout.PhaseSucceeded)
	same(t, "facts", good("paris"), w.facts(id))
	// And after a restart.
	l.stop()
	same(t, "the id after a restart", id, w.start(nil).roll("one", "spring", "paris"))
}

// Whoever uses a request id again for something else must not be shown the old
// rollout as if it were the new one.
func TestARequestIDIsForOneRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	id := l.roll("one", "spring", "paris", "rome")
	for _, again := range []*rolloutv1.StartRolloutRequest{
		{Release: "summer", Clusters: []string{"paris", "rome"}, RequestId: "one"},
		{Release: "spring", Clusters: []string{"paris"}, RequestId: "one"},
		{Release: "winter", RequestId: "one"},
	} {
		_, err := l.api.StartRollout(t.Context(), again)
		refused(t, err, "LS-ROL-022")
		if errs.KindOf(err) != errs.Conflict || !strings.Contains(err.Error(), "rollout "+id+" of spring on paris, rome") {
			t.Errorf("refused with %v", err)
		}
	}
	same(t, "the id of the same request", id, l.roll("one", "spring", "paris", "rome"))
	same(t, "the id with the clusters in another order", id, l.roll("one", "spring", "rome", "paris"))
	same(t, "the id for every cluster", id, l.roll("one", "spring"))
}

func TestOneClusterHasOneRollout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	start := func(request string, clusters ...string) error {
		_, err := l.api.StartRollout(t.Context(), &rolloutv1.StartRolloutRequest{Release: "summer", Clusters: clusters, RequestId: request})
		return err
	}
	// Planned while the cluster was free, started when it no longer is.
	looking, release := make(chan struct{}), make(chan struct{})
	w.rome.onSurvey = func(context.Context) error {
		close(looking)
		<-release
		return nil
	}
	late := make(chan error, 1)
	go func() { late <- start("late", "paris", "rome") }()
	<-looking
	l.roll("one", "spring", "paris")
	close(release)
	refused(t, <-late, rollout.ProblemBusy)

	err := start("two", "paris")
	refused(t, err, "LS-ROL-012")
	if err == nil || !strings.Contains(err.Error(), rollout.ProblemBusy) {
		t.Errorf("refused with %v, want %s", err, rollout.ProblemBusy)
	}
}

func TestWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	id := l.roll("one", "spring", "paris")
	_, err := l.api.StartRollout(t.Context(), &rolloutv1.StartRolloutRequest{Release: "winter", RequestId: "two"})
	refused(t, err, "LS-ROL-010")
	_, err = l.api.PlanRollout(t.Context(), &rolloutv1.PlanRolloutRequest{Release: "spring", Clusters: []string{"nowhere"}})
	refused(t, err, "LS-ROL-011")
	_, err = l.api.GetRollout(t.Context(), &rolloutv1.GetRolloutRequest{Id: "r0"})
	refused(t, err, "LS-ROL-013")
	_, err = l.api.RollbackRollout(t.Context(), &rolloutv1.RollbackRolloutRequest{Id: "r0", Reason: "why"})
	refused(t, err, "LS-ROL-013")
	_, err = l.api.RollbackRollout(t.Context(), &rolloutv1.RollbackRolloutRequest{Id: id})
	refused(t, err, "LS-ROL-014")
	list, err := l.api.ListRollouts(t.Context(), &rolloutv1.ListRolloutsRequest{})
	if err != nil || len(list.GetRollouts()) != 1 {
		t.Errorf("%d rollouts are listed (%v), want the one there is", len(list.GetRollouts()), err)
	}
}

func TestRollBackTheNewerFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	through := func(request, release string) string {
		t.Helper()
		id := l.roll(request, release, "paris")
		l.judge(id, "paris", "gateway", gate.Pass)
		l.judge(id, "paris", "sra", gate.Pass)
		l.awaitPhase(id, rollout.PhaseSucceeded)
		return id
	}
	rollback := func(id string) error {
		_, err := l.api.RollbackRollout(t.Context(), &rolloutv1.RollbackRolloutRequest{Id: id, Reason: "people cannot work"})
		return err
	}
	older := through("one", "spring")
	newer := l.roll("two", "summer", "paris")
	refused(t, rollback(older), rollout.ProblemBusy)
	l.judge(newer, "paris", "gateway", gate.Pass)
	l.judge(newer, "paris", "sra", gate.Pass)
	l.awaitPhase(newer, rollout.PhaseSucceeded)

	refused(t, rollback(older), "LS-ROL-015")
	// Also for a process that knows both from their facts alone.
	l.stop()
	l = w.start(nil)
	err := rollback(older)
	refused(t, err, "LS-ROL-015")
	if err == nil || !strings.Contains(err.Error(), newer) {
		t.Errorf("%v does not say which is newer", err)
	}
	list, err := l.api.ListRollouts(t.Context(), &rolloutv1.ListRolloutsRequest{PageSize: 1})
	if err != nil || len(list.GetRollouts()) != 1 || list.GetRollouts()[0].GetId() != newer || list.GetNextPageToken() == "" {
		t.Errorf("the first page is %v (%v), want the newer rollout", list, err)
	}

	if err := rollback(newer); err != nil {
		t.Fatal(err)
	}
	l.awaitPhase(newer, rollout.PhaseRolledBack)
	running, _ := w.paris.now()
	same(t, "after the newer is back", withSRA, running)
	if err := rollback(older); err != nil {
		t.Fatal(err)
	}
	l.awaitPhase(older, rollout.PhaseRolledBack)
	running, _ = w.paris.now()
	same(t, "after the older is back", base, running)
	// Asking again changes nothing.
	facts := w.facts(older)
	if err := rollback(older); err != nil {
		t.Fatal(err)
	}
	same(t, "facts", facts, w.facts(older))
}

func TestWindowEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var ahead atomic.Int64
	l := w.startAt(nil, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	id := l.roll("one", "spring", "paris")
	l.judge(id, "paris", "gateway", gate.Inconclusive)
	l.awaitPhase(id, rollout.PhaseHeld)
	ahead.Store(int64(25 * time.Hour))
	await(t, "the restore", func() bool { running, _ := w.paris.now(); return running == base })
	await(t, "rest", func() bool { return l.get(id).GetClusters()[0].GetPhase() == string(rollout.ClusterRolledBack) })
}

func TestWatchEndsAtRest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start(nil)
	const token = "lst_test"
	tokens, err := rpc.NewTokens(rpc.Token{Hash: rpc.HashToken(token), Principal: rpc.Principal{Name: "test", Role: rpc.Viewer}})
	if err != nil {
		t.Fatal(err)
	}
	api, err := rpc.NewServer(rpc.Options{
		Log: slog.New(slog.DiscardHandler), Auth: tokens, Needs: func(string) (rpc.Role, bool) { return rpc.Viewer, true },
	})
	if err != nil {
		t.Fatal(err)
	}
	rolloutv1connect.RegisterRolloutServiceHandler(api.Server, l.api)
	mux := http.NewServeMux()
	api.Mount(mux)
	server := httptest.NewServer(mux)
	defer server.Close()
	called, err := rpc.NewClient(rpc.ClientOptions{URL: server.URL, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	defer called.Close()
	client := rolloutv1connect.NewRolloutServiceClient(called.Client)

	id := l.roll("one", "spring", "paris")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := client.WatchRollout(ctx, &rolloutv1.WatchRolloutRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	var phases []string
	for {
		resp, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		m := resp.GetRollout()
		run := m.GetClusters()[0]
		at := strings.TrimSpace(m.GetPhase() + " " + run.GetPhase() + " " + run.GetStep())
		if len(phases) > 0 && phases[len(phases)-1] == at {
			continue
		}
		phases = append(phases, at)
		if run.GetPhase() == string(rollout.ClusterGating) {
			w.decide(id, "paris", run.GetStep(), run.GetGate(), map[string]gate.Verdict{"gateway": gate.Pass, "sra": gate.Hold}[run.GetStep()])
		}
	}
	want := []string{"running gating gateway", "running gating sra", "held held sra"}
	for _, p := range want {
		if !strings.Contains(strings.Join(phases, "\n"), p) {
			t.Errorf("the watch showed %q, want %q in it", phases, p)
		}
	}
	same(t, "the last sight", want[2], phases[len(phases)-1])

	unknown, err := client.WatchRollout(ctx, &rolloutv1.WatchRolloutRequest{Id: "r0"})
	if err == nil {
		_, err = unknown.Receive()
	}
	if connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("watching what is not there gave %v", err)
	}
}
