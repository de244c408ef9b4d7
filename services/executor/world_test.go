package executor_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/bustest"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	commandv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/command/v1"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
	"github.com/lockstep-fleet/lockstep/services/executor"
	"github.com/lockstep-fleet/lockstep/topology"
)

func TestMain(m *testing.M) {
	// Storing a blob publishes asynchronously inside nats.go, which starts this
	// goroutine and, when it is done before the goroutine ran, never ends it.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
}

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = 30 * time.Second

// await polls until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("%s did not happen within %s", what, patience)
		case <-ticker.C:
		}
	}
}

// cluster is a scripted deployment. A package is a text: "v0" and what was added
// to it.
type cluster struct {
	mu       sync.Mutex
	running  string
	captures int
	applied  []string // the packages that Apply was asked for
	// published is the digest that the registry gives; empty is "new".
	published string

	// onApply and onSurvey, when set, are called first; an error is the answer.
	onApply  func(ctx context.Context, pkg string) error
	onSurvey func(ctx context.Context) error
}

func (c *cluster) Survey(ctx context.Context, release rollout.Release) (rollout.Target, error) {
	c.mu.Lock()
	hook, published := c.onSurvey, cmp.Or(c.published, "new")
	c.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return rollout.Target{}, err
		}
	}
	target := rollout.Target{
		Running: map[fleet.Component]rollout.RunningImage{
			fleet.Gateway: {Version: "1", Digest: "sha256:old"}, fleet.SRAWeb: {Version: "1", Digest: "sha256:old"}, fleet.SRASSH: {Version: "1", Digest: "sha256:old"},
		},
		Resolved: make(map[fleet.Line]string),
	}
	for line, image := range release.Lines {
		target.Resolved[line] = image.Ref + "@sha256:" + published
	}
	return target, nil
}

func (c *cluster) Capture(ctx context.Context) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	c.captures++
	return []byte(c.running), nil
}

func (c *cluster) Retarget(_ context.Context, pkg []byte, to rollout.Apply) ([]byte, error) {
	out := string(pkg)
	for _, component := range slices.Sorted(maps.Keys(to.Images)) {
		out += fmt.Sprintf(" %s=%s", component, to.Images[component].Version)
	}
	return []byte(out), nil
}

func (c *cluster) Apply(ctx context.Context, pkg []byte) error {
	c.mu.Lock()
	c.applied = append(c.applied, string(pkg))
	hook := c.onApply
	c.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, string(pkg)); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = string(pkg)
	return nil
}

func (c *cluster) script(onApply func(ctx context.Context, pkg string) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onApply = onApply
}

// publish puts another image under every tag.
func (c *cluster) publish(sum string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.published = sum
}

// now returns what runs, and how often each package was asked for.
func (c *cluster) now() (running string, applied map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	applied = make(map[string]int)
	for _, pkg := range c.applied {
		applied[pkg]++
	}
	return c.running, applied
}

// What the packages of the release look like on the way.
const (
	base        = "v0"
	withGateway = "v0 gateway=2"
	withSRA     = "v0 gateway=2 sra-ssh=2 sra-web=2"
)

// link is a bus that a test can watch and break. The hook is called before and
// after an operation, with words such as "append begun rollout/r1/paris/capture"
// and "publish rollout/r1/paris/restore"; an error is what the executor gets.
type link struct {
	*natsbus.Bus
	hook func(when, what string) error
	dead atomic.Bool
}

var errDead = errors.New("this process is dead")

func (l *link) around(what string, do func() error) error {
	if l.dead.Load() {
		return errDead
	}
	if l.hook != nil {
		if err := l.hook("before", what); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if l.hook != nil {
		return l.hook("after", what)
	}
	return nil
}

// words says what a message is.
func words(m bus.Message) string {
	var step commandv1.Event
	var command commandv1.Command
	var facts rolloutv1.Event
	switch m.Type {
	case string(step.ProtoReflect().Descriptor().FullName()):
		if proto.Unmarshal(m.Data, &step) == nil && step.GetBegun() != nil {
			return "begun " + step.GetKey()
		}
		return "finished " + step.GetKey()
	case string(command.ProtoReflect().Descriptor().FullName()):
		if proto.Unmarshal(m.Data, &command) == nil {
			return command.GetKey()
		}
	case string(facts.ProtoReflect().Descriptor().FullName()):
		if proto.Unmarshal(m.Data, &facts) == nil {
			return strings.Join(names(&facts), " ")
		}
	}
	return m.Subject
}

func names(event *rolloutv1.Event) []string {
	var out []string
	for _, f := range event.GetFacts() {
		fact, err := codec.RolloutFactFromProto(f)
		if err != nil {
			out = append(out, err.Error())
			continue
		}
		name := strings.TrimPrefix(fmt.Sprintf("%T", fact.Kind), "rollout.")
		if fact.Cluster != "" {
			name = string(fact.Cluster) + "." + name
		}
		out = append(out, name)
	}
	return out
}

func (l *link) Publish(ctx context.Context, m bus.Message) (sequence uint64, err error) {
	err = l.around("publish "+words(m), func() error { sequence, err = l.Bus.Publish(ctx, m); return err })
	return sequence, err
}

func (l *link) Append(ctx context.Context, m bus.Message, expected uint64) (sequence uint64, err error) {
	err = l.around("append "+words(m), func() error { sequence, err = l.Bus.Append(ctx, m, expected); return err })
	return sequence, err
}

func (l *link) LoadLast(ctx context.Context, stream, subject string, fn func(bus.Message) error) error {
	return l.around("last "+subject, func() error { return l.Bus.LoadLast(ctx, stream, subject, fn) })
}

func (l *link) PutKey(ctx context.Context, bucket, key string, value []byte) error {
	return l.around("put "+key, func() error { return l.Bus.PutKey(ctx, bucket, key, value) })
}

func (l *link) GetKey(ctx context.Context, bucket, key string) (value []byte, err error) {
	err = l.around("get "+key, func() error { value, err = l.Bus.GetKey(ctx, bucket, key); return err })
	return value, err
}

func (l *link) GetBlob(ctx context.Context, bucket, name string) (data []byte, err error) {
	err = l.around("blob", func() error { data, err = l.Bus.GetBlob(ctx, bucket, name); return err })
	return data, err
}

// Consume calls the hook with "hear <words>" before the conductor hears of an
// event.
func (l *link) Consume(ctx context.Context, c bus.Consumer, handle bus.Handler) error {
	return l.Bus.Consume(ctx, c, func(ctx context.Context, d bus.Delivery) error {
		if c.Durable != topology.ConductorEvents().Durable {
			return handle(ctx, d)
		}
		return l.around("hear "+words(d.Message), func() error { return handle(ctx, d) })
	})
}

type meter struct{}

func (meter) Decided(string)                        {}
func (meter) Commanded(string, bool, time.Duration) {}

// world is a bus with clusters that outlives executors.
type world struct {
	t           *testing.T
	server      *bustest.Server
	bus         *natsbus.Bus // the test's own
	paris, rome *cluster
	config      executor.Config
	fleet       executor.Fleet
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server := bustest.Start(t, topology.Streams(), topology.KeyValues(), topology.Blobs())
	release := func(id fleet.ReleaseID) rollout.Release {
		return rollout.Release{ID: id, Lines: map[fleet.Line]rollout.ReleaseImage{
			fleet.LineGateway: {Version: "2", Ref: "gateway:2"}, fleet.LineSRA: {Version: "2", Ref: "sra:2"},
		}}
	}
	paris, rome := &cluster{running: base}, &cluster{running: base}
	return &world{
		t: t, server: server, bus: server.Open(t), paris: paris, rome: rome,
		fleet: executor.Fleet{
			Releases: []rollout.Release{release("spring"), release("summer")}, Clusters: []fleet.ClusterID{"paris", "rome"},
			Deployments: map[fleet.ClusterID]executor.Deployment{"paris": paris, "rome": rome},
		},
		config: executor.Config{
			Tenant: fleet.DefaultTenant,
			Gate:   gate.DefaultPolicy(), Policies: gatefile.Presets(), Window: 24 * time.Hour, Lookback: time.Hour, Beat: 20 * time.Millisecond,
		},
	}
}

// life is one executor process.
type life struct {
	w    *world
	link *link
	api  rolloutv1connect.RolloutServiceHandler
	stop func()
	kill func()
}

// start begins a life; the hook may be nil. Its clock is the real one unless now
// is given.
func (w *world) start(hook func(l *life, when, what string) error) *life {
	return w.startAt(hook, time.Now)
}

func (w *world) startAt(hook func(l *life, when, what string) error, now func() time.Time) *life {
	w.t.Helper()
	l := &life{w: w, link: &link{Bus: w.server.Open(w.t)}}
	ctx, cancel := context.WithCancel(context.Background())
	l.kill = func() {
		l.link.dead.Store(true)
		cancel()
	}
	if hook != nil {
		l.link.hook = func(when, what string) error { return hook(l, when, what) }
	}
	s := executor.New(w.config, executor.Deps{
		Bus: l.link, Fleet: func() executor.Fleet { return w.fleet },
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Meter: meter{}, Now: now,
	})
	l.api = s.Handler()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("the executor ended with %v", err)
			}
		case <-time.After(patience):
			w.t.Error("the executor did not stop")
		}
	})
	w.t.Cleanup(l.stop)
	select {
	case <-s.Ready():
	case <-time.After(patience):
		w.t.Fatal("the executor did not get ready")
	}
	return l
}

// roll starts a rollout of a release on clusters and returns its id.
func (l *life) roll(request, release string, clusters ...string) string {
	l.w.t.Helper()
	resp, err := l.api.StartRollout(l.w.t.Context(), &rolloutv1.StartRolloutRequest{Release: release, Clusters: clusters, RequestId: request})
	if err != nil {
		l.w.t.Fatal(err)
	}
	return resp.GetRollout().GetId()
}

func (l *life) get(id string) *rolloutv1.Rollout {
	l.w.t.Helper()
	resp, err := l.api.GetRollout(l.w.t.Context(), &rolloutv1.GetRolloutRequest{Id: id})
	if err != nil {
		l.w.t.Fatal(err)
	}
	return resp.GetRollout()
}

// awaitPhase waits until the whole rollout is in a phase.
func (l *life) awaitPhase(id string, phase rollout.Phase) {
	l.w.t.Helper()
	await(l.w.t, fmt.Sprintf("phase %s", phase), func() bool { return l.get(id).GetPhase() == string(phase) })
}

// awaitGate waits until a gate is asked for and returns its id.
func (l *life) awaitGate(id, cluster, step string) string {
	l.w.t.Helper()
	var gateID string
	await(l.w.t, fmt.Sprintf("the gate of step %s of %s", step, cluster), func() bool {
		for _, c := range l.get(id).GetClusters() {
			if c.GetCluster() == cluster && c.GetStep() == step && c.GetPhase() == string(rollout.ClusterGating) {
				gateID = c.GetGate()
				return true
			}
		}
		return false
	})
	return gateID
}

// judge waits for a gate and lets it decide.
func (l *life) judge(id, cluster, step string, verdict gate.Verdict) {
	l.w.t.Helper()
	l.w.decide(id, cluster, step, l.awaitGate(id, cluster, step), verdict)
}

// decide appends a verdict as an evaluator of before modes would.
func (w *world) decide(id, cluster, step, gateID string, verdict gate.Verdict) {
	w.t.Helper()
	w.conclude(id, cluster, step, gateID, verdict, "")
}

// conclude appends a verdict with what follows from it, as the evaluator would.
func (w *world) conclude(id, cluster, step, gateID string, verdict gate.Verdict, consequence gate.Consequence, back ...string) {
	w.t.Helper()
	var members []*gatev1.MemberHeard
	for _, cluster := range back {
		members = append(members, &gatev1.MemberHeard{Cluster: cluster, Back: true})
	}
	event := &gatev1.Event{Gate: gateID, Facts: []*gatev1.Fact{{Kind: &gatev1.Fact_GateDecided{GateDecided: &gatev1.GateDecided{
		Rollout: id, Cluster: cluster, Step: step, Decision: &gatev1.Decision{
			Verdict: string(verdict), Consequence: string(consequence), Summary: "as the test says", Members: members,
		},
	}}}}}
	data, err := proto.Marshal(event)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.bus.Append(w.t.Context(), bus.Message{
		Subject: topology.EventSubject(fleet.DefaultTenant, topology.NounGate, gateID), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data,
	}, 0); err != nil {
		w.t.Fatal(err)
	}
}

// apply has a policy be as it is given, as the evaluator would. Revision is that of
// the one before.
func (w *world) apply(p gate.Plan, revision uint64) uint64 {
	w.t.Helper()
	event := &gatev1.PolicyEvent{Plan: codec.GatePlanToProto(p), By: "the test"}
	data, err := proto.Marshal(event)
	if err != nil {
		w.t.Fatal(err)
	}
	sequence, err := w.bus.Append(w.t.Context(), bus.Message{
		Subject: topology.EventSubject(fleet.DefaultTenant, topology.NounPolicy, p.Name), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data,
	}, revision)
	if err != nil {
		w.t.Fatal(err)
	}
	return sequence
}

// command sends a command that no conductor knows of.
func (w *world) command(c rollout.Command) {
	w.t.Helper()
	m := codec.CommandToProto(c)
	data, err := proto.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.bus.Publish(w.t.Context(), bus.Message{
		Subject: topology.CommandSubject(fleet.DefaultTenant, c.Cluster), Type: string(m.ProtoReflect().Descriptor().FullName()), Data: data,
	}); err != nil {
		w.t.Fatal(err)
	}
}

// facts lists a rollout's facts in the order of the stream.
func (w *world) facts(id string) []string {
	w.t.Helper()
	var out []string
	if err := w.bus.Load(w.t.Context(), topology.StreamEvents, topology.EventSubject(fleet.DefaultTenant, topology.NounRollout, id), func(m bus.Message) error {
		var event rolloutv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return err
		}
		out = append(out, names(&event)...)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// steps lists what drivers recorded, in the order of the stream.
func (w *world) steps() []string {
	w.t.Helper()
	var out []string
	if err := w.bus.Load(w.t.Context(), topology.StreamEvents, topology.EventFilter(topology.NounStep), func(m bus.Message) error {
		out = append(out, words(m))
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}
