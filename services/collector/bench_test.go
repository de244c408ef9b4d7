package collector_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/topology"
)

// newNATS runs a server that syncs as the product's does.
func newNATS(tb testing.TB, dir string) *natsserver.Server {
	tb.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true, SyncAlways: true, MaxPayload: 4 << 20,
	})
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		tb.Fatal("the server did not get ready")
	}
	return s
}

func stopNATS(s *natsserver.Server) {
	s.Shutdown()
	s.WaitForShutdown()
}

// arrivals is a meter that says when enough was published.
type arrivals struct {
	left    atomic.Int64
	reached chan struct{}
}

func (a *arrivals) expect(n int) { a.left.Store(int64(n)) }

func (a *arrivals) Published(_ string, n int) {
	if a.left.Add(-int64(n)) == 0 {
		a.reached <- struct{}{}
	}
}

func (a *arrivals) Polled(string, bool, time.Duration) {}
func (a *arrivals) Dropped(string, string, int)        {}
func (a *arrivals) Spooled(uint64, int64)              {}
func (a *arrivals) Broken(string, bool)                {}

// seen are sessions of a hundred clusters, as a vendor lists them.
func seen(n int, at time.Time) []codec.Observation {
	out := make([]codec.Observation, n)
	for i := range out {
		out[i] = codec.Observation{Session: &fleet.Session{
			ID: fleet.SessionID(fmt.Sprintf("ses-%012d", i)), Cluster: fleet.ClusterID(fmt.Sprintf("cluster-%02d", i%100)), Status: fleet.SessionConnected,
			User: fmt.Sprintf("user%d@example.com", i%500), Target: fmt.Sprintf("/targets/production/db-%d", i%50), InstanceID: "bastion-1",
			Start: at, Protocol: "ssh", TargetType: "ssh-target",
		}}
	}
	return out
}

// BenchmarkPublish takes observations from a source to the bus's acknowledgement,
// over the spool. Beside it a bare client marshals the same batches, which are put
// together before, and publishes them as atomic batches. CPU is of the whole
// process, the server included.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{500, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkPublish(b, n) })
	}
}

func benchmarkPublish(b *testing.B, n int) {
	events, raw := newBuses(b)
	observations := seen(n, time.Now())
	wake, came := make(chan struct{}), &arrivals{reached: make(chan struct{}, 1)}
	schedule := collector.Schedule{
		Kind: fleet.KindSession, Name: "sessions", Every: time.Hour, Wake: wake,
		Source: collector.SourceFunc(func(context.Context) ([]codec.Observation, error) { return observations, nil }),
	}
	came.expect(n)
	runBench(b, events, came, schedule)
	<-came.reached

	batches := packed(observations)
	var took, cpu [2]time.Duration
	for b.Loop() {
		for i, run := range []func(){
			func() { came.expect(n); wake <- struct{}{}; <-came.reached },
			func() { publishRaw(b, raw, batches) },
		} {
			began, used := time.Now(), processorTime(b)
			run()
			took[i], cpu[i] = took[i]+time.Since(began), cpu[i]+processorTime(b)-used
		}
	}
	all := float64(n) * float64(b.N)
	b.ReportMetric(all/took[0].Seconds(), "observations/s")
	b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "of_raw")
	b.ReportMetric(float64(cpu[0].Microseconds())*1000/all, "cpu-µs/1000")
	b.ReportMetric(float64(cpu[1].Microseconds())*1000/all, "raw-cpu-µs/1000")
}

// newBuses returns the product's bus and a bare client of the same server.
func newBuses(b *testing.B) (*natsbus.Bus, jetstream.JetStream) {
	b.Helper()
	s := newNATS(b, b.TempDir())
	b.Cleanup(func() { stopNATS(s) })
	events, err := natsbus.Open(natsbus.Options{InProcess: s, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(events.Close)
	if err := events.Ensure(b.Context(), []bus.Stream{{Name: topology.StreamObservations, Subjects: []string{"lockstep.obs.v1.>"}}}, nil, nil); err != nil {
		b.Fatal(err)
	}
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	raw, err := jetstream.New(conn)
	if err != nil {
		b.Fatal(err)
	}
	return events, raw
}

// runBench runs a collector until the benchmark ends.
func runBench(b *testing.B, events collector.Bus, came *arrivals, schedules ...collector.Schedule) {
	b.Helper()
	spool, err := collector.OpenSpool(b.TempDir(), 1<<30)
	if err != nil {
		b.Fatal(err)
	}
	c := collector.New(collector.Config{Tenant: fleet.DefaultTenant, ID: "hub"}, schedules, collector.Deps{
		Bus: events, Spool: spool, Log: slog.New(slog.DiscardHandler), Meter: came, Now: time.Now, Chance: func() float64 { return 0 },
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, spool.Close()); err != nil {
			b.Error(err)
		}
	})
}

// BenchmarkUnchangedCycle looks at all of a cluster when nothing has changed: what
// runs, what is declared, what is registered, and its sessions. It reports how much
// the stream grows by for each cluster, headers and subjects included, in all and
// for each of the four looks.
func BenchmarkUnchangedCycle(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("%dclusters", n), func(b *testing.B) { benchmarkUnchangedCycle(b, n) })
	}
}

func benchmarkUnchangedCycle(b *testing.B, n int) {
	events, raw := newBuses(b)
	wake := make([]chan struct{}, 0, 2*n+2)
	woken := func(s collector.Schedule) collector.Schedule {
		wake = append(wake, make(chan struct{}))
		s.Every, s.Jitter, s.Wake = time.Hour, 0, wake[len(wake)-1]
		return s
	}
	var (
		schedules     []collector.Schedule
		clusters      []fleet.ClusterID
		registrations []fleet.Registration
		marks         []fleet.Mark
	)
	for i := range n {
		cluster := fleet.ClusterID(fmt.Sprintf("cluster-%02d", i))
		clusters = append(clusters, cluster)
		registrations = append(registrations, fleet.Registration{Cluster: cluster, Bastions: []fleet.Bastion{{ID: "bastion-1", Version: "3.1.0"}}})
		marks = append(marks, fleet.Mark{Cluster: cluster, CompleteUntil: time.Now()})
		schedules = append(schedules,
			woken(collector.Inventory(cluster, time.Hour, func(context.Context) (fleet.Inventory, error) {
				return fleet.Inventory{Cluster: cluster, ObservedAt: time.Now(), Instances: make([]fleet.Instance, 20)}, nil
			})),
			woken(collector.Package(cluster, time.Hour, func(context.Context) (fleet.Package, error) {
				return fleet.Package{Cluster: cluster, ObservedAt: time.Now(), Helm: make([]fleet.HelmRelease, 3)}, nil
			})))
	}
	schedules = append(schedules,
		woken(collector.Registrations(clusters, time.Hour, func(context.Context) ([]fleet.Registration, error) { return registrations, nil })),
		woken(collector.Sessions(clusters, time.Hour, func(context.Context) ([]fleet.Session, []fleet.Mark, error) { return nil, marks, nil }, nil)))
	came := &arrivals{reached: make(chan struct{}, 1)}
	came.expect(7 * n) // three of what is, four marks
	runBench(b, events, came, schedules...)
	<-came.reached

	stored := func() uint64 {
		info, err := raw.Stream(b.Context(), topology.StreamObservations)
		if err != nil {
			b.Fatal(err)
		}
		return info.CachedInfo().State.Bytes
	}
	before := stored()
	for b.Loop() {
		came.expect(4 * n)
		for _, w := range wake {
			w <- struct{}{}
		}
		<-came.reached
	}
	grown := float64(stored()-before) / float64(b.N*n)
	b.ReportMetric(grown, "bytes/cluster")
	b.ReportMetric(grown/4, "bytes/look")
}

// packed are the batches that the collector makes of observations.
func packed(observations []codec.Observation) []*observationv1.Batch {
	var out []*observationv1.Batch
	open := make(map[uint32]*observationv1.Batch)
	for _, o := range observations {
		part := topology.Part(o.Cluster())
		batch := open[part]
		if batch == nil || len(batch.GetObservations()) == 500 {
			batch = &observationv1.Batch{Source: "raw-session", Incarnation: "0123456789abcdef", Sequence: 1, Part: part}
			open[part], out = batch, append(out, batch)
		}
		m := codec.ObservationToProto(o, o.Session.Start)
		m.Id = codec.ObservationID("raw-session", o, o.Session.Start)
		batch.Observations = append(batch.Observations, m)
	}
	return out
}

func publishRaw(b *testing.B, raw jetstream.JetStream, batches []*observationv1.Batch) {
	messages := make([]*nats.Msg, len(batches))
	for i, batch := range batches {
		data, err := proto.Marshal(batch)
		if err != nil {
			b.Fatal(err)
		}
		m := nats.NewMsg(topology.ObservationSubject(fleet.DefaultTenant, "raw-session", batch.GetPart(), fleet.KindSession))
		m.Data = data
		m.Header.Set("Lockstep-Type", "lockstep.observation.v1.Batch")
		m.Header.Set("Lockstep-Time", time.Now().Format(time.RFC3339Nano))
		messages[i] = m
	}
	if _, err := jetstreamext.PublishMsgBatch(b.Context(), raw, messages); err != nil {
		b.Fatal(err)
	}
}

// processorTime is what the process has used so far.
func processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
