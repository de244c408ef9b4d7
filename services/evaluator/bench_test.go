//go:build linux && amd64

package evaluator_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/topology"
)

// perCluster is how many instances a cluster has.
const perCluster = 10

// plant is a bus that syncs as the product's does and the real engine, with a large
// fleet that reports over them.
type plant struct {
	b      *testing.B
	events *natsbus.Bus
	raw    jetstream.JetStream
	// settle has an evaluator archive what it decided before it ends.
	settle bool
	// parts are the clusters of each.
	parts [topology.Parts][]fleet.ClusterID
	// sequences are those of each source's part.
	sequences map[codec.Position]uint64
	sessions  int
	// rows and messages are what was published.
	rows, messages int
}

func newPlant(b *testing.B, clusters int) *plant {
	b.Helper()
	server, err := natsserver.NewServer(&natsserver.Options{
		DontListen: true, JetStream: true, StoreDir: b.TempDir(), NoSigs: true, NoLog: true, SyncAlways: true, MaxPayload: 4 << 20,
	})
	if err != nil {
		b.Fatal(err)
	}
	server.Start()
	b.Cleanup(func() { server.Shutdown(); server.WaitForShutdown() })
	if !server.ReadyForConnections(patience) {
		b.Fatal("the bus did not get ready")
	}
	p := &plant{b: b, sequences: make(map[codec.Position]uint64)}
	if p.events, err = natsbus.Open(natsbus.Options{InProcess: server, Log: slog.New(slog.DiscardHandler)}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.events.Close)
	if err := p.events.Ensure(b.Context(), topology.Streams(), topology.KeyValues(), topology.Blobs()); err != nil {
		b.Fatal(err)
	}
	conn, err := nats.Connect("", nats.InProcessServer(server))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	if p.raw, err = jetstream.New(conn); err != nil {
		b.Fatal(err)
	}
	for i := range clusters {
		id := fleet.ClusterID(fmt.Sprintf("cluster-%04d", i))
		p.parts[topology.Part(id)] = append(p.parts[topology.Part(id)], id)
	}
	return p
}

// tables opens a database of its own.
func (p *plant) tables() *clickhouse.Store {
	p.b.Helper()
	opened, err := clickhouse.Open(p.b.Context(), clickhouse.Options{Dial: engine.DialContext, Database: "b" + strings.ToLower(rand.Text()[:12])})
	if err != nil {
		p.b.Fatal(err)
	}
	p.b.Cleanup(func() {
		if err := opened.Close(); err != nil {
			p.b.Error(err)
		}
	})
	files, err := clickhouse.Migrations()
	if err != nil {
		p.b.Fatal(err)
	}
	if _, err := opened.Migrate(p.b.Context(), files); err != nil {
		p.b.Fatal(err)
	}
	return opened
}

// config is of the whole fleet, which is to run one release.
func (p *plant) config() evaluator.Config {
	config := evaluator.Config{
		Tenant: fleet.DefaultTenant, Beat: time.Second, Limits: drift.Limits{MixedWindow: time.Hour, DarkAfter: time.Hour, SplitAfter: time.Hour},
		Releases: []catalog.Release{{ID: "winter", Versions: fleet.VersionSet{fleet.LineGateway: "5.0.1", fleet.LineSRA: "3.1.0"}}},
	}
	for _, ids := range p.parts {
		for _, id := range ids {
			config.Clusters = append(config.Clusters, evaluator.DeclaredCluster{ClusterConfig: evaluator.ClusterConfig{ID: id, Release: "winter"}})
		}
	}
	return config
}

// looks are what a look at each of some clusters brings, an inventory and the mark
// behind it, and how many rows of it are kept.
func (p *plant) looks(clusters []fleet.ClusterID, at time.Time) (out []codec.Observation, rows int) {
	for _, id := range clusters {
		inventory := fleet.Inventory{Cluster: id, ObservedAt: at}
		for i := range perCluster {
			component, service, image, version := fleet.Gateway, "unified", "docker.io/akeyless/base", "5.0.1"
			if i >= 3 {
				component, service, image, version = fleet.SRASSH, "ssh", "docker.io/akeyless/zero-trust-bastion", "3.1.0"
			}
			sum := fmt.Sprintf("sha256:%064x", len(image))
			inventory.Instances = append(inventory.Instances, fleet.Instance{
				ID:        fleet.InstanceID(fmt.Sprintf("%s-akeyless-gateway-%s-%05x", service, id, i)),
				Component: component, Service: fmt.Sprintf("deployment/%s-akeyless-gateway", service), Image: image + ":" + version, Tag: version,
				Digest: sum, ImageID: image + "@" + sum, Version: version, Health: fleet.HealthHealthy, StartedAt: at.Truncate(24 * time.Hour),
				Declared: image + ":" + version, Node: fmt.Sprintf("ip-10-0-%d-7.eu-central-1.compute.internal", i),
			})
		}
		out = append(out, codec.Observation{Inventory: &inventory}, codec.Observation{Mark: &fleet.Mark{Cluster: id, About: fleet.KindInventory, CompleteUntil: at}})
	}
	return out, len(clusters) * perCluster
}

// begun are n sessions of some clusters, and a mark for each of those, and how many
// rows that makes.
func (p *plant) begun(clusters []fleet.ClusterID, n int, at time.Time) (out []codec.Observation, rows int) {
	for range n {
		i := p.sessions
		p.sessions++
		out = append(out, codec.Observation{Session: &fleet.Session{
			ID: fleet.SessionID(fmt.Sprintf("5f0c1d9e-7a54-4a0e-9d0b-%012d", i)), Cluster: clusters[i%len(clusters)], Status: fleet.SessionConnected,
			User: fmt.Sprintf("person.%d@example.org", i%20_000), Target: fmt.Sprintf("/targets/production/host-%d", i%20_000),
			InstanceID: fleet.InstanceID(fmt.Sprintf("akeyless-ssh-%d", i%10_000)), Start: at.Add(time.Duration(i) * time.Microsecond), Protocol: "ssh", TargetType: "ssh-target",
		}})
	}
	for _, id := range clusters {
		out = append(out, codec.Observation{Mark: &fleet.Mark{Cluster: id, About: fleet.KindSession, CompleteUntil: at}})
	}
	return out, n + len(clusters)
}

// publish stores what was seen of clusters of one part as the next message of its
// source, as a collector packs it.
func (p *plant) publish(kind fleet.Kind, part int, seen []codec.Observation, rows int, at time.Time) {
	p.b.Helper()
	position := codec.Position{Source: fleet.SourceID("hub-" + kind), Incarnation: "0123456789ab", Part: uint32(part)}
	p.sequences[position]++
	batch := &observationv1.Batch{Source: string(position.Source), Incarnation: position.Incarnation, Part: position.Part, Sequence: p.sequences[position]}
	for _, o := range seen {
		m := codec.ObservationToProto(o, at)
		m.Id = codec.ObservationID(position.Source, o, at)
		batch.Observations = append(batch.Observations, m)
	}
	data, err := proto.Marshal(batch)
	if err != nil {
		p.b.Fatal(err)
	}
	if _, err := p.events.Publish(p.b.Context(), bus.Message{
		Subject: topology.ObservationSubject(fleet.DefaultTenant, position.Source, position.Part, kind), Type: string(batch.ProtoReflect().Descriptor().FullName()), Data: data,
	}); err != nil {
		p.b.Fatal(err)
	}
	p.rows, p.messages = p.rows+rows, p.messages+1
}

// lookAround publishes what a look at every cluster brings.
func (p *plant) lookAround(at time.Time) {
	p.b.Helper()
	for part, clusters := range p.parts {
		seen, rows := p.looks(clusters, at)
		p.publish(fleet.KindInventory, part, seen, rows, at)
	}
}

// stretch is how long something took, and what it took of the processors.
type stretch struct{ took, cpu time.Duration }

// evaluate runs an evaluator until it has handled so many messages. It returns what
// its start took, and from then on the messages.
func (p *plant) evaluate(s evaluator.Store, messages int) (start, work stretch) {
	p.b.Helper()
	count := &handled{left: messages, reached: make(chan struct{})}
	service := evaluator.New(p.config(), evaluator.Deps{
		Bus: p.events, Store: s, Documents: documents{}, Log: slog.New(slog.DiscardHandler), Meter: count, Now: time.Now,
	})
	ctx, cancel := context.WithCancel(p.b.Context())
	done := make(chan error, 1)
	began, used := time.Now(), processor(p.b)
	go func() { done <- service.Run(ctx) }()
	late := time.After(10 * patience)
	for _, reached := range []<-chan struct{}{service.Ready(), count.reached} {
		select {
		case <-reached:
		case err := <-done:
			p.b.Fatalf("the evaluator ended: %v", err)
		case <-late:
			p.b.Fatal("the evaluator did not get there")
		}
		start, work = work, stretch{time.Since(began), processor(p.b) - used}
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for p.settle && !p.archived() {
		select {
		case <-tick.C:
		case <-late:
			p.b.Fatal("the evaluator did not archive what it decided")
		}
	}
	cancel()
	if err := <-done; err != nil {
		p.b.Fatal(err)
	}
	return start, stretch{work.took - start.took, work.cpu - start.cpu}
}

// archived says whether every event is in the history.
func (p *plant) archived() bool {
	p.b.Helper()
	return archived(p.b, p.raw)
}

// archived says whether the archive has come to the end of the events.
func archived(b *testing.B, js jetstream.JetStream) bool {
	b.Helper()
	stream, err := js.Stream(b.Context(), topology.StreamEvents)
	if err != nil {
		b.Fatal(err)
	}
	kv, err := js.KeyValue(b.Context(), bus.Positions)
	if err != nil {
		b.Fatal(err)
	}
	c := topology.EvaluatorArchive()
	entry, err := kv.Get(b.Context(), c.Stream+"."+c.Durable)
	if err != nil {
		b.Fatal(err)
	}
	var position struct {
		Sequence uint64 `json:"sequence"`
	}
	if err := json.Unmarshal(entry.Value(), &position); err != nil {
		b.Fatal(err)
	}
	return position.Sequence >= stream.CachedInfo().State.LastSeq
}

// handled is a meter that says when enough messages were.
type handled struct {
	mu      sync.Mutex
	left    int
	reached chan struct{}
}

func (h *handled) DecisionLatency(time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.left--; h.left == 0 {
		close(h.reached)
	}
}

func (h *handled) Observed(string, int)   {}
func (h *handled) Decided(string, string) {}
func (h *handled) States(map[string]int)  {}

// copyAfter reads the messages behind a sequence, decodes them and inserts what they
// hold, and does nothing else: each partition by itself, in batches as large as the
// evaluator's.
func (p *plant) copyAfter(s *clickhouse.Store, sequence uint64) stretch {
	p.b.Helper()
	began, used := time.Now(), processor(p.b)
	failed := make([]error, topology.Partitions)
	var running sync.WaitGroup
	for partition := range topology.Partitions {
		running.Go(func() { failed[partition] = p.copyPartition(s, partition, sequence) })
	}
	running.Wait()
	for _, err := range failed {
		if err != nil {
			p.b.Fatal(err)
		}
	}
	return stretch{time.Since(began), processor(p.b) - used}
}

func (p *plant) copyPartition(s *clickhouse.Store, partition int, sequence uint64) error {
	const most, mostBytes = 500, 4 << 20
	ctx := p.b.Context()
	consumer, err := p.raw.CreateConsumer(ctx, topology.StreamObservations, jetstream.ConsumerConfig{
		FilterSubjects: topology.EvaluatorObservations(partition).Filters, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: sequence + 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true,
	})
	if err != nil {
		return err
	}
	// More bytes than the client holds would be lost without a word.
	incoming, err := consumer.Messages(jetstream.PullMaxBytes(16 << 20))
	if err != nil {
		return err
	}
	defer incoming.Stop()
	var records []codec.Record
	messages, size := 0, 0
	for read := uint64(1); ; read++ {
		m, err := incoming.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != read {
			return fmt.Errorf("message %d came where %d was next", meta.Sequence.Consumer, read)
		}
		if records, err = decoded(records, m.Data(), meta); err != nil {
			return err
		}
		messages, size = messages+1, size+len(m.Data())
		if messages < most && size < mostBytes && meta.NumPending > 0 {
			continue
		}
		if err := s.InsertRecords(ctx, records); err != nil {
			return err
		}
		if meta.NumPending == 0 {
			return nil
		}
		records, messages, size = nil, 0, 0
	}
}

// decoded appends the records of a message, without the marks that history has no
// use for.
func decoded(records []codec.Record, data []byte, meta *jetstream.MsgMetadata) ([]codec.Record, error) {
	var batch observationv1.Batch
	if err := proto.Unmarshal(data, &batch); err != nil {
		return nil, err
	}
	for i, m := range batch.GetObservations() {
		o, err := codec.ObservationFromProto(m)
		if err != nil {
			return nil, err
		}
		if o.Mark != nil && o.Mark.About != fleet.KindSession {
			continue
		}
		records = append(records, codec.Record{
			Observation: o, Tenant: fleet.DefaultTenant, ObservedAt: m.GetObservedAt().AsTime(), RecordedAt: meta.Timestamp,
			Source: fleet.SourceID(batch.GetSource()), Incarnation: batch.GetIncarnation(), Part: batch.GetPart(), SourceSequence: batch.GetSequence(),
			StreamSequence: meta.Sequence.Stream, Index: uint32(i),
		})
	}
	return records, nil
}

// stored counts rows of the tables that observations go to.
func stored(b *testing.B, s *clickhouse.Store) (rows int) {
	b.Helper()
	for _, table := range []string{"inventory_instances", "session_events", "progress_marks"} {
		var n uint64
		if err := s.Conn().QueryRow(b.Context(), "SELECT count() FROM "+table+" FINAL").Scan(&n); err != nil {
			b.Fatal(err)
		}
		rows += int(n)
	}
	return rows
}

// BenchmarkIngest takes observations of 1,000 clusters from the stream into the
// tables, through the evaluator and, beside it, with a loop that does nothing but
// copy. What waits is read from the stream in two rounds, in which they take turns
// to be the first; the states of the clusters stay as they are. CPU is of this
// process, the bus's server included and the engine's not.
func BenchmarkIngest(b *testing.B) {
	for _, mix := range []struct {
		name string
		// How many messages of each part hold sessions, 500 observations each, and how
		// many a look at each of its clusters; a part that is left out has none of them.
		sessions, looks           int
		sessionsEvery, looksEvery int
	}{
		{"sessions", 20, 5, 1, 8},
		{"inventories", 5, 30, 8, 1},
	} {
		b.Run(mix.name, func(b *testing.B) {
			p := newPlant(b, 1000)
			p.settle = true
			ours, bare := p.tables(), p.tables()
			at := time.Now().UTC()
			p.lookAround(at)
			p.copyAfter(bare, 0)
			p.evaluate(ours, p.messages)
			var spent [2]stretch // by the evaluator, by the copy
			rows := 0
			for b.Loop() {
				for round := range 2 {
					messages, before, from := p.messages, p.rows, p.last()
					at = at.Add(10 * time.Second)
					for n := range max(mix.sessions, mix.looks) {
						for part, clusters := range p.parts {
							if n < mix.sessions && part%mix.sessionsEvery == 0 {
								seen, rows := p.begun(clusters, 500-len(clusters), at)
								p.publish(fleet.KindSession, part, seen, rows, at)
							}
							if n < mix.looks && part%mix.looksEvery == 0 {
								at := at.Add(time.Duration(n) * 100 * time.Millisecond)
								seen, rows := p.looks(clusters, at)
								p.publish(fleet.KindInventory, part, seen, rows, at)
							}
						}
					}
					rows += p.rows - before
					for turn := range 2 {
						which := (turn + round) % 2
						work := stretch{}
						if which == 0 {
							_, work = p.evaluate(ours, p.messages-messages)
						} else {
							work = p.copyAfter(bare, from)
						}
						spent[which].took += work.took
						spent[which].cpu += work.cpu
					}
				}
			}
			if got, want := stored(b, ours), stored(b, bare); got != want || got == 0 {
				b.Errorf("the evaluator stored %d rows, the copy %d", got, want)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(rows)/spent[0].took.Seconds(), "rows/s")
			b.ReportMetric(100*spent[1].took.Seconds()/spent[0].took.Seconds(), "%-of-copy")
			b.ReportMetric(float64(spent[0].cpu.Microseconds())*1000/float64(rows), "cpu-µs/1000")
			b.ReportMetric(float64(spent[1].cpu.Microseconds())*1000/float64(rows), "copy-cpu-µs/1000")
		})
	}
}

// last is the sequence of the newest message of observations.
func (p *plant) last() uint64 {
	p.b.Helper()
	stream, err := p.raw.Stream(p.b.Context(), topology.StreamObservations)
	if err != nil {
		p.b.Fatal(err)
	}
	return stream.CachedInfo().State.LastSeq
}

// processor is the time that this process has had of the processors.
func processor(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// hoursOf is how many hours of inventories a restart finds, a look at each cluster
// every five minutes; a day is all that a start reads.
const hoursOf = "LOCKSTEP_RESTART_HOURS"

// BenchmarkRestart starts an evaluator on what another one has left of 5,000 clusters
// of ten instances, until it is ready.
func BenchmarkRestart(b *testing.B) {
	hours := 24
	if text := os.Getenv(hoursOf); text != "" {
		var err error
		if hours, err = strconv.Atoi(text); err != nil {
			b.Fatalf("%s: %v", hoursOf, err)
		}
	}
	p := newPlant(b, 5000)
	tables := p.tables()
	p.lookAround(time.Now().UTC())
	first, all := p.evaluate(tables, p.messages)
	// The looks of hours before differ from the last one in their times alone.
	if err := tables.Conn().Exec(b.Context(), fmt.Sprintf(`
INSERT INTO inventory_instances
SELECT * EXCEPT (look) REPLACE (observed_at - INTERVAL 300 * look SECOND AS observed_at, recorded_at - INTERVAL 300 * look SECOND AS recorded_at)
FROM inventory_instances CROSS JOIN (SELECT number + 1 AS look FROM numbers(%d)) AS looks`, 12*hours)); err != nil && hours > 0 {
		b.Fatal(err)
	}
	var starts []stretch
	for b.Loop() {
		p.lookAround(time.Now().UTC())
		start, _ := p.evaluate(tables, topology.Parts)
		starts = append(starts, start)
	}
	slices.SortFunc(starts, func(a, b stretch) int { return cmp.Compare(a.took, b.took) })
	median := starts[len(starts)/2]
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(first.took.Milliseconds()), "first-ready-ms")
	b.ReportMetric(float64(all.took.Milliseconds()), "first-judged-ms")
	b.ReportMetric(float64(median.took.Milliseconds()), "ready-p50-ms")
	b.ReportMetric(float64(median.cpu.Milliseconds()), "cpu-ms")
	b.ReportMetric(float64(12*hours+1), "looks/cluster")
}
