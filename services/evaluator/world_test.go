//go:build linux && amd64

package evaluator_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/bustest"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1/catalogv1connect"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1/driftv1connect"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1/observationv1connect"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/topology"
)

// patience bounds every wait; nothing here takes so long unless it is broken.
const patience = 60 * time.Second

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

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got): %s", what, diff)
	}
}

// store is the real one with a switch. The hook is called before and after every
// insert of observations; an error is what the evaluator gets.
type store struct {
	*clickhouse.Store
	mu   sync.Mutex
	hook func(when string, records []codec.Record) error
	// history is the last event of which the periods of a cluster are stored.
	history map[fleet.ClusterID]uint64
}

func (s *store) InsertPeriods(ctx context.Context, tenant fleet.TenantID, periods []codec.Period) error {
	if err := s.Store.InsertPeriods(ctx, tenant, periods); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.history == nil {
		s.history = make(map[fleet.ClusterID]uint64)
	}
	for _, p := range periods {
		s.history[p.Cluster] = max(s.history[p.Cluster], p.StreamSequence)
	}
	return nil
}

// lose forgets what was stored.
func (s *store) lose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = nil
}

// stored returns the last event of which the periods of a cluster are stored, as
// far as was seen.
func (s *store) stored(cluster fleet.ClusterID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.history[cluster]
}

func (s *store) script(hook func(when string, records []codec.Record) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

func (s *store) call(when string, records []codec.Record) error {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(when, records)
}

func (s *store) InsertRecords(ctx context.Context, records []codec.Record) error {
	if err := s.call("before", records); err != nil {
		return err
	}
	if err := s.Store.InsertRecords(ctx, records); err != nil {
		return err
	}
	return s.call("after", records)
}

// wire is the real bus with switches. Before is called before every append and the
// hook after it; its error is what the evaluator gets instead of the acknowledgement.
type wire struct {
	*natsbus.Bus
	before func(m bus.Message)
	hook   func(m bus.Message) error
}

func (b wire) Append(ctx context.Context, m bus.Message, expected uint64) (uint64, error) {
	if b.before != nil {
		b.before(m)
	}
	sequence, err := b.Bus.Append(ctx, m, expected)
	if err == nil && b.hook != nil {
		err = b.hook(m)
	}
	return sequence, err
}

// count asks for one number.
func (s *store) count(t *testing.T, query string, args ...any) int {
	t.Helper()
	var n uint64
	if err := s.Conn().QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// meter counts handled batches.
type meter struct {
	mu      sync.Mutex
	handled int
	kinds   map[string]int
	// clusters is how many the last pass judged.
	clusters int
}

func (m *meter) Observed(kind string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kinds == nil {
		m.kinds = make(map[string]int)
	}
	m.kinds[kind] += n
}

func (m *meter) Decided(string, string) {}

func (m *meter) States(clusters map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clusters = 0
	for _, n := range clusters {
		m.clusters += n
	}
}

// judged is how many clusters the last pass judged.
func (m *meter) judged() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clusters
}

func (m *meter) DecisionLatency(time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.handled++
}

func (m *meter) batches() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.handled
}

func (m *meter) observed(kind string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kinds[kind]
}

// world is a bus and a store that outlive evaluators, with a clock of its own.
type world struct {
	t      *testing.T
	server *bustest.Server
	bus    *natsbus.Bus // the test's own
	store  *store
	config evaluator.Config
	// windows is what is learned at most; an evaluator begins with nothing.
	windows time.Duration
	// appends, when set, is told of every event that an evaluator is about to append.
	appends func(m bus.Message)
	// appended, when set, is told of every event that an evaluator has appended.
	appended func(m bus.Message) error

	mu    sync.Mutex
	clock time.Time
	looks int // at the clock
	// sent are the parts of the messages in the observation stream, by sequence.
	sent map[uint64]uint32
	// step is when every step of this world begins; it ends 10 s later.
	step time.Time
}

// The release that every cluster runs at first, by line.
func running() fleet.VersionSet {
	return fleet.VersionSet{fleet.LineGateway: "1", fleet.LineSRA: "1"}
}

func newWorld(t *testing.T, clusters ...fleet.ClusterID) *world {
	t.Helper()
	server := bustest.Start(t, topology.Streams(), topology.KeyValues(), topology.Blobs())
	opened, err := clickhouse.Open(t.Context(), clickhouse.Options{Dial: engine.DialContext, Database: "t" + strings.ToLower(rand.Text()[:12])})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	})
	files, err := clickhouse.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := opened.Migrate(t.Context(), files); err != nil {
		t.Fatal(err)
	}
	// The step stands in whole seconds near the real clock, which stamps messages.
	step := time.Now().UTC().Truncate(time.Minute)
	w := &world{
		t: t, server: server, bus: server.Open(t), store: &store{Store: opened}, step: step, clock: step.Add(11 * time.Second), sent: make(map[uint64]uint32),
		config: evaluator.Config{
			Tenant: fleet.DefaultTenant, Beat: 10 * time.Millisecond, Limits: drift.Limits{MixedWindow: time.Hour, DarkAfter: 2 * time.Minute, SplitAfter: time.Hour},
			Releases: []catalog.Release{{ID: "winter", Versions: running()}},
		},
	}
	for _, id := range clusters {
		w.config.Clusters = append(w.config.Clusters, evaluator.DeclaredCluster{ClusterConfig: evaluator.ClusterConfig{ID: id, Release: "winter"}})
	}
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	return w.clock
}

// startBeaten starts an evaluator before whose first append of a noun something
// happens.
func (w *world) startBeaten(noun string, happens func()) *life {
	w.t.Helper()
	var once sync.Once
	w.appends = func(m bus.Message) {
		if of, _, _ := topology.EventNoun(m.Subject); of == noun {
			once.Do(happens)
		}
	}
	defer func() { w.appends = nil }()
	return w.start()
}

// awaitBeats waits until time alone has been considered a few times.
func (w *world) awaitBeats() {
	w.t.Helper()
	looks := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.looks
	}
	enough := looks() + 20*len(w.config.Clusters)
	await(w.t, "a look at the clock", func() bool { return looks() >= enough })
}

// awaitPasses waits until every cluster has been judged once at the least, by who is
// at work now and handles no message.
func (w *world) awaitPasses() {
	w.t.Helper()
	looks := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.looks
	}
	enough := looks() + 3*(len(w.config.Clusters)+3)
	await(w.t, "a look at every cluster", func() bool { return looks() >= enough })
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

// life is one evaluator process.
type life struct {
	w            *world
	fleet        fleetv1connect.FleetServiceHandler
	drift        driftv1connect.DriftServiceHandler
	catalog      catalogv1connect.CatalogServiceHandler
	gates        gatev1connect.GateServiceHandler
	observations observationv1connect.ObservationServiceHandler
	meter        *meter
	stop         func()
}

func (w *world) start() *life {
	w.t.Helper()
	l := &life{w: w, meter: &meter{}}
	ctx, cancel := context.WithCancel(context.Background())
	config := w.config
	if w.windows > 0 {
		config.Limits.Learned = &drift.Windows{Cap: w.windows}
	}
	s := evaluator.New(config, evaluator.Deps{
		Bus: wire{w.server.Open(w.t), w.appends, w.appended}, Store: w.store, Documents: documents{}, Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Meter: l.meter, Now: w.now,
	})
	served := s.Handlers()
	l.fleet, l.gates, l.observations = served.Fleet, served.Gate, served.Observations
	l.drift, l.catalog = served.Drift, served.Catalog
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("the evaluator ended with %v", err)
			}
		case <-time.After(patience):
			w.t.Error("the evaluator did not stop")
		}
	})
	w.t.Cleanup(l.stop)
	select {
	case <-s.Ready():
	case <-time.After(patience):
		w.t.Fatal("the evaluator did not get ready")
	}
	return l
}

// source is what publishes the batches of one cluster.
type source struct {
	w           *world
	cluster     fleet.ClusterID
	incarnation string
	sequence    uint64
}

func (w *world) source(cluster fleet.ClusterID) *source {
	return &source{w: w, cluster: cluster, incarnation: "first"}
}

// batch is the next message of the source.
func (s *source) batch(observations ...codec.Observation) *observationv1.Batch {
	s.sequence++
	b := &observationv1.Batch{Source: "vendor-" + string(s.cluster), Incarnation: s.incarnation, Sequence: s.sequence, Part: topology.Part(s.cluster)}
	for _, o := range observations {
		at := s.w.now()
		if o.Inventory != nil {
			at = o.Inventory.ObservedAt
		}
		b.Observations = append(b.Observations, codec.ObservationToProto(o, at))
	}
	return b
}

// publish stores a batch and returns its sequence in the stream.
func (w *world) publish(b *observationv1.Batch) uint64 {
	w.t.Helper()
	return w.put(b.GetSource(), b.GetPart(), b)
}

func (w *world) put(from string, part uint32, m proto.Message) uint64 {
	w.t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	sequence, err := w.bus.Publish(w.t.Context(), bus.Message{
		Subject: topology.ObservationSubject(fleet.DefaultTenant, fleet.SourceID(from), part, "session"), Type: string(m.ProtoReflect().Descriptor().FullName()), Data: data,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent[sequence] = part
	return sequence
}

// send publishes the next batch.
func (s *source) send(observations ...codec.Observation) uint64 {
	s.w.t.Helper()
	return s.w.publish(s.batch(observations...))
}

func (w *world) mark(cluster fleet.ClusterID, after time.Duration) codec.Observation {
	return codec.Observation{Mark: &fleet.Mark{Cluster: cluster, About: fleet.KindSession, CompleteUntil: w.step.Add(after)}}
}

// session is one person's, that started so long after the step began.
func (w *world) session(cluster fleet.ClusterID, id string, after time.Duration, status fleet.SessionStatus) codec.Observation {
	return codec.Observation{Session: &fleet.Session{
		ID: fleet.SessionID(id), Cluster: cluster, Status: status, User: id, Target: "db", Start: w.step.Add(after),
	}}
}

// sessions are n, a second apart, of which every k-th failed (0: none).
func (w *world) sessions(cluster fleet.ClusterID, prefix string, from time.Duration, n, k int) []codec.Observation {
	out := make([]codec.Observation, n)
	for i := range out {
		status := fleet.SessionConnected
		if k > 0 && i%k == k-1 {
			status = fleet.SessionFailed
		}
		out[i] = w.session(cluster, fmt.Sprintf("%s%d", prefix, i), from+time.Duration(i)*time.Second, status)
	}
	return out
}

// inventory is what runs of a cluster, by line, as seen now.
func (w *world) inventory(cluster fleet.ClusterID, gateway, sra string) codec.Observation {
	instance := func(component fleet.Component, version string) fleet.Instance {
		return fleet.Instance{ID: fleet.InstanceID(component), Component: component, Service: string(component), Version: version, Health: fleet.HealthHealthy}
	}
	return codec.Observation{Inventory: &fleet.Inventory{Cluster: cluster, ObservedAt: w.now(), Instances: []fleet.Instance{
		instance(fleet.Gateway, gateway), instance(fleet.SRAWeb, sra),
	}}}
}

// policy decides after a few sessions: ten that work pass, some that fail fail.
func policy() gate.Policy {
	p := gate.DefaultPolicy()
	p.AcceptableRate, p.PlannedTrials, p.Bucket, p.BurstWindow, p.Maturation, p.Deadline = 0.5, 10, time.Second, 0, 10*time.Second, time.Hour
	return p
}

// apply records a rollout of one cluster up to its first step being applied and
// returns the rollout's and the gate's ids.
func (w *world) apply(cluster fleet.ClusterID) (id rollout.ID, gateID string) {
	w.t.Helper()
	return w.applyBy(cluster, nil)
}

// applyBy does so under a gate policy; nil is that of the configuration.
func (w *world) applyBy(cluster fleet.ClusterID, by *gate.Plan) (id rollout.ID, gateID string) {
	w.t.Helper()
	id = rollout.ID("r-" + cluster)
	gateID = rollout.GateID(id, cluster, "gateway")
	w.record(id, cluster, rollout.RolloutStarted{Plan: w.plan(cluster, by)}, rollout.ClusterStarted{WindowEnds: w.step.Add(24 * time.Hour)},
		rollout.PackageCaptured{Package: "p0"}, rollout.StepStarted{Step: "gateway"})
	numbers := policy()
	if by != nil {
		numbers = by.Statistics
	}
	w.record(id, cluster, rollout.StepApplied{Step: "gateway", Gate: gateID, Package: "p1", Policy: numbers, Boundary: gate.Boundary{
		BaselineFrom: w.step.Add(-10 * time.Minute), Start: w.step, End: w.step.Add(10 * time.Second),
	}})
	return id, gateID
}

// plan is that of a rollout of one cluster.
func (w *world) plan(cluster fleet.ClusterID, by *gate.Plan) rollout.Plan {
	return rollout.Plan{Release: "spring", Gate: policy(), Window: 24 * time.Hour, Lookback: 10 * time.Minute, Policy: by, Clusters: []rollout.ClusterPlan{{
		Cluster: cluster, Steps: []rollout.StepPlan{
			{Name: "gateway", Line: fleet.LineGateway, FromVersion: "1", ToVersion: "2", Components: []fleet.Component{fleet.Gateway}},
			{Name: "sra", Line: fleet.LineSRA, FromVersion: "1", ToVersion: "2", Components: []fleet.Component{fleet.SRAWeb}},
		},
	}}}
}

// record appends facts of a rollout as the executor would.
func (w *world) record(id rollout.ID, cluster fleet.ClusterID, kinds ...rollout.Kind) {
	w.t.Helper()
	event := &rolloutv1.Event{Rollout: string(id)}
	for _, k := range kinds {
		f := rollout.Fact{At: w.now(), Cluster: cluster, Kind: k}
		if _, whole := k.(rollout.RolloutStarted); whole {
			f.Cluster = ""
		}
		event.Facts = append(event.Facts, codec.RolloutFactToProto(f))
	}
	w.event(topology.NounRollout, string(id), event)
}

// event appends one as its owner would.
func (w *world) event(noun, id string, event proto.Message) {
	w.t.Helper()
	data, err := proto.Marshal(event)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.bus.Publish(w.t.Context(), bus.Message{
		Subject: topology.EventSubject(fleet.DefaultTenant, noun, id), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data,
	}); err != nil {
		w.t.Fatal(err)
	}
}

// gateFacts returns the decisions recorded of a gate, and whether it was opened.
func (w *world) gateFacts(gateID string) (opened int, decisions []*gatev1.Decision) {
	w.t.Helper()
	if err := w.bus.Load(w.t.Context(), topology.StreamEvents, topology.EventSubject(fleet.DefaultTenant, topology.NounGate, gateID), func(m bus.Message) error {
		var event gatev1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return err
		}
		for _, f := range event.GetFacts() {
			if f.GetGateOpened() != nil {
				opened++
			}
			if d := f.GetGateDecided(); d != nil {
				decisions = append(decisions, d.GetDecision())
			}
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return opened, decisions
}

// states lists the states recorded of a cluster, oldest first.
func (w *world) states(cluster fleet.ClusterID) []string {
	w.t.Helper()
	var out []string
	if err := w.bus.Load(w.t.Context(), topology.StreamEvents, topology.EventSubject(fleet.DefaultTenant, topology.NounDrift, string(cluster)), func(m bus.Message) error {
		var event driftv1.Event
		if err := proto.Unmarshal(m.Data, &event); err != nil {
			return err
		}
		for _, f := range event.GetFacts() {
			if c := f.GetStateChanged(); c != nil {
				out = append(out, c.GetTo())
			}
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) awaitStates(cluster fleet.ClusterID, want ...string) {
	w.t.Helper()
	var got []string
	await(w.t, fmt.Sprintf("the states %v of %s", want, cluster), func() bool {
		got = w.states(cluster)
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		w.t.Errorf("%s went through %v, want %v", cluster, got, want)
	}
}

func (w *world) awaitOpen(gateID string) {
	w.t.Helper()
	await(w.t, "the opening of "+gateID, func() bool { opened, _ := w.gateFacts(gateID); return opened > 0 })
}

// awaitDecision returns the one decision of a gate.
func (w *world) awaitDecision(gateID string) *gatev1.Decision {
	w.t.Helper()
	var decisions []*gatev1.Decision
	await(w.t, "the decision of "+gateID, func() bool { _, decisions = w.gateFacts(gateID); return len(decisions) > 0 })
	return decisions[0]
}

// awaitBatches waits until so many batches are handled, and judged, by this life.
func (l *life) awaitBatches(n int) {
	l.w.t.Helper()
	await(l.w.t, fmt.Sprintf("the handling of %d batches", n), func() bool { return l.meter.batches() >= n })
}

func (l *life) gate(id string) *gatev1.Gate {
	l.w.t.Helper()
	resp, err := l.gates.GetGate(l.w.t.Context(), &gatev1.GetGateRequest{Id: id})
	if err != nil {
		l.w.t.Fatal(err)
	}
	return resp.GetGate()
}

// replay takes a gate's decision again and checks that it is the same.
func (l *life) replay(id string) {
	l.w.t.Helper()
	var resp *gatev1.ReplayGateResponse
	await(l.w.t, "the rows of gate "+id, func() bool {
		var err error
		resp, err = l.gates.ReplayGate(l.w.t.Context(), &gatev1.ReplayGateRequest{Id: id})
		if err != nil && errs.KindOf(err) != errs.Unavailable {
			l.w.t.Fatal(err)
		}
		return err == nil
	})
	if !resp.GetSame() {
		l.w.t.Errorf("gate %s decided\n%v\nand would decide\n%v", id, resp.GetGate().GetDecision(), resp.GetReplayed())
	}
	if !resp.GetChained() {
		l.w.t.Errorf("the decision of gate %s is not chained to the one before: %v", id, resp.GetGate().GetDecision())
	}
}

func (l *life) clusters(request *fleetv1.ListClustersRequest) *fleetv1.ListClustersResponse {
	l.w.t.Helper()
	resp, err := l.fleet.ListClusters(l.w.t.Context(), request)
	if err != nil {
		l.w.t.Fatal(err)
	}
	return resp
}

// consumers are all that an evaluator reads by.
func consumers() []bus.Consumer {
	out := []bus.Consumer{topology.EvaluatorArchive(), topology.EvaluatorRollouts()}
	for partition := range topology.Partitions {
		out = append(out, topology.EvaluatorObservations(partition))
	}
	return out
}
