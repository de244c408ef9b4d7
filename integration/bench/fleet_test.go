//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/adapters/chdb"
	"github.com/lockstep-fleet/lockstep/adapters/clickhouse"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	"github.com/lockstep-fleet/lockstep/proto/access"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/topology"
)

const (
	// serverCommand makes the test's binary a server that knows a large fleet: the
	// bus, the evaluator, the API and, as its child, the engine. It looks at no cluster
	// itself. What reports and what asks stay in the benchmark's own process.
	serverCommand = "be-a-server"
	// engineCommand makes it the engine of that server.
	engineCommand = "be-an-engine"
)

// fleetClusters is how many clusters report to a server, each of hubInstances.
const fleetClusters = 5000

// serverAddress is where a server is to be reached.
type serverAddress struct{ API, Token, Bus string }

// beServer wires a server as the product does and runs it until its input ends.
func beServer(dir string, in io.Reader, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	library, err := chdb.FindLibrary(chdb.LibraryOptions{})
	if err != nil {
		return err
	}
	engine, err := chdb.Start(ctx, chdb.Options{Args: []string{engineCommand}, Library: library, DataDir: filepath.Join(dir, "store"), Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Stop(context.WithoutCancel(ctx))) }()
	store, err := clickhouse.Open(ctx, clickhouse.Options{Dial: engine.DialContext, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	files, err := clickhouse.Migrations()
	if err != nil {
		return err
	}
	if _, err := store.Migrate(ctx, files); err != nil {
		return err
	}
	server, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: filepath.Join(dir, "bus"), SyncAlways: true, MaxPayload: 4 << 20, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return err
	}
	server.Start()
	defer func() { server.Shutdown(); server.WaitForShutdown() }()
	if !server.ReadyForConnections(patience) {
		return errors.New("the bus did not get ready")
	}
	events, err := natsbus.Open(natsbus.Options{InProcess: server, Log: log})
	if err != nil {
		return err
	}
	defer events.Close()
	if err := events.Ensure(ctx, topology.Streams(), topology.KeyValues(), topology.Blobs()); err != nil {
		return err
	}
	config := evaluator.Config{
		Tenant: fleet.DefaultTenant, Beat: time.Second, Limits: drift.Limits{MixedWindow: time.Hour, DarkAfter: time.Hour, SplitAfter: time.Hour},
		Releases: []catalog.Release{{ID: "winter", Versions: fleet.VersionSet{fleet.LineGateway: "5.0.1", fleet.LineSRA: "3.1.0"}}},
	}
	for i := range fleetClusters {
		config.Clusters = append(config.Clusters, evaluator.DeclaredCluster{ClusterConfig: evaluator.ClusterConfig{ID: hubCluster(i), Release: "winter"}})
	}
	eval := evaluator.New(config, evaluator.Deps{Bus: events, Store: store, Log: log, Meter: uncounted{}, Now: time.Now})

	at := serverAddress{Token: rpc.NewToken(), Bus: server.ClientURL()}
	tokens, err := rpc.NewTokens(rpc.Token{Hash: rpc.HashToken(at.Token), Principal: rpc.Principal{Name: "bench", Role: rpc.Viewer, Tenant: string(fleet.DefaultTenant)}})
	if err != nil {
		return err
	}
	api, err := rpc.NewServer(rpc.Options{Log: log, Auth: tokens, Needs: func(procedure string) (rpc.Role, bool) {
		role, known := access.RoleOf(procedure)
		return rpc.Role(role), known
	}})
	if err != nil {
		return err
	}
	fleetv1connect.RegisterFleetServiceHandler(api.Server, eval.Handlers().Fleet)
	mux := http.NewServeMux()
	api.Mount(mux)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at.API = "http://" + listener.Addr().String()
	ended := make(chan error, 2)
	go func() { ended <- rpc.Serve(ctx, listener, mux, time.Second, log) }()
	go func() { ended <- eval.Run(ctx) }()
	defer func() { cancel(); err = errors.Join(err, <-ended, <-ended) }()

	<-eval.Ready()
	if err := json.NewEncoder(out).Encode(at); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// beEngine is the engine of a server.
func beEngine(args []string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	return chdb.Child(ctx, args, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

type uncounted struct{}

func (uncounted) Observed(string, int)          {}
func (uncounted) Decided(string, string)        {}
func (uncounted) DecisionLatency(time.Duration) {}
func (uncounted) States(map[string]int)         {}

// watched is a server that runs beside the benchmark, with a fleet that reports to it.
type watched struct {
	b      *testing.B
	at     serverAddress
	events *natsbus.Bus
	raw    jetstream.JetStream
	fleet  fleetv1connect.FleetServiceClient

	mu        sync.Mutex
	sequences map[codec.Position]uint64
	sessions  int
}

// watch starts a server and has every cluster of a large fleet report once, until all
// that follows is decided, and archived. It reports how long either took.
func watch(b *testing.B) *watched {
	b.Helper()
	cmd := exec.Command(os.Args[0], serverCommand, b.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close() // the server ends with its input
		if err := cmd.Wait(); err != nil {
			b.Errorf("the server: %v", err)
		}
	})
	w := &watched{b: b, sequences: make(map[codec.Position]uint64)}
	if err := json.NewDecoder(out).Decode(&w.at); err != nil {
		b.Fatalf("reading where the server is: %v", err)
	}
	if w.events, err = natsbus.Open(natsbus.Options{URL: w.at.Bus, Name: "bench", Log: slog.New(slog.DiscardHandler)}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(w.events.Close)
	conn, err := nats.Connect(w.at.Bus)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	if w.raw, err = jetstream.New(conn); err != nil {
		b.Fatal(err)
	}
	client, err := rpc.NewClient(rpc.ClientOptions{URL: w.at.API, Token: w.at.Token})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	w.fleet = fleetv1connect.NewFleetServiceClient(client.Client)

	began := time.Now()
	looks := make([]codec.Observation, fleetClusters)
	for i := range looks {
		looks[i] = look(hubCluster(i), "5.0.1")
	}
	for _, m := range w.messages("hub", fleet.KindInventory, looks) {
		if _, err := w.events.Publish(b.Context(), m); err != nil {
			b.Fatal(err)
		}
	}
	w.until("a state for every cluster", func() bool {
		return !slices.ContainsFunc(w.list(nil), func(c *fleetv1.Cluster) bool { return c.GetState() != string(drift.Locked) || c.GetSince() == nil })
	})
	b.ReportMetric(time.Since(began).Seconds(), "first-states-s")
	w.until("the archive of every state", func() bool {
		stream, err := w.raw.Stream(b.Context(), topology.StreamEvents)
		if err != nil {
			b.Fatal(err)
		}
		kv, err := w.raw.KeyValue(b.Context(), bus.Positions)
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
	})
	b.ReportMetric(time.Since(began).Seconds(), "first-archived-s")
	return w
}

// until waits until something holds.
func (w *watched) until(what string, holds func() bool) {
	w.b.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(5 * patience); !holds(); {
		select {
		case <-tick.C:
		case <-late:
			w.b.Fatalf("%s did not come within %s", what, 10*patience)
		}
	}
}

// list asks for every cluster, page by page as the command does. It notes how long
// each page took.
func (w *watched) list(pages *[]time.Duration) (all []*fleetv1.Cluster) {
	w.b.Helper()
	for token := ""; ; {
		began := time.Now()
		resp, err := w.fleet.ListClusters(w.b.Context(), &fleetv1.ListClustersRequest{PageSize: 250, PageToken: token})
		if err != nil {
			w.b.Fatal(err)
		}
		if pages != nil {
			*pages = append(*pages, time.Since(began))
		}
		all = append(all, resp.GetClusters()...)
		if token = resp.GetNextPageToken(); token == "" {
			if len(all) != fleetClusters {
				w.b.Fatalf("%d clusters are listed, and there are %d", len(all), fleetClusters)
			}
			return all
		}
	}
}

// look is a look at a cluster whose gateways run a version.
func look(cluster fleet.ClusterID, version string) codec.Observation {
	inventory := hubInventory(cluster)
	for i := range inventory.Instances {
		in := &inventory.Instances[i]
		in.ID = fleet.InstanceID(fmt.Sprintf("%s-%s", cluster, in.ID))
		if in.Component == fleet.Gateway {
			in.Image = strings.Replace(in.Image, in.Version, version, 1)
			in.Tag, in.Version, in.Declared, in.Labelled = version, version, in.Image, version+"_3.3.0"
		}
	}
	return codec.Observation{Inventory: &inventory}
}

// messages packs observations of one kind as a collector does, a message for each
// part that they are of.
func (w *watched) messages(collector string, kind fleet.Kind, observations []codec.Observation) []bus.Message {
	w.b.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	parts := make(map[uint32]*observationv1.Batch)
	source, now := fleet.SourceID(collector+"-"+string(kind)), time.Now()
	var out []bus.Message
	for _, o := range observations {
		part := topology.Part(o.Cluster())
		batch := parts[part]
		if batch == nil {
			position := codec.Position{Source: source, Incarnation: "0123456789ab", Part: part}
			w.sequences[position]++
			batch = &observationv1.Batch{Source: string(source), Incarnation: position.Incarnation, Part: part, Sequence: w.sequences[position]}
			parts[part] = batch
		}
		m := codec.ObservationToProto(o, now)
		m.Id = codec.ObservationID(source, o, now)
		batch.Observations = append(batch.Observations, m)
	}
	for part, batch := range parts {
		data, err := proto.Marshal(batch)
		if err != nil {
			w.b.Fatal(err)
		}
		out = append(out, bus.Message{
			Subject: topology.ObservationSubject(fleet.DefaultTenant, source, part, kind), Type: string(batch.ProtoReflect().Descriptor().FullName()), Data: data,
		})
	}
	return out
}

// The load beside what is measured: 5,000 rows a second, half of them of inventories
// that are as they were.
const (
	loadRate  = 5000
	loadEvery = 200 * time.Millisecond
)

// changing are the last clusters, which the load leaves alone.
const changing = 100

// load publishes until the function that it returns is called, which reports at what
// rate.
func (w *watched) load() (stop func()) {
	w.b.Helper()
	ctx, cancel := context.WithCancel(w.b.Context())
	var rows atomic.Int64
	ended, began := make(chan error, 1), time.Now()
	go func() {
		tick := time.NewTicker(loadEvery)
		defer tick.Stop()
		for next := 0; ; {
			const half = int(loadRate*loadEvery/time.Second) / 2
			batch := w.messages("hub", fleet.KindSession, w.begun(half))
			var looks []codec.Observation
			for range half / hubInstances {
				looks = append(looks, look(hubCluster(next), "5.0.1"))
				next = (next + 1) % (fleetClusters - changing)
			}
			if _, err := w.events.PublishBatch(ctx, append(batch, w.messages("hub", fleet.KindInventory, looks)...)); err != nil {
				if ctx.Err() != nil {
					err = nil
				}
				ended <- err
				return
			}
			rows.Add(2 * int64(half))
			select {
			case <-tick.C:
			case <-ctx.Done():
				ended <- nil
				return
			}
		}
	}()
	return func() {
		rate := float64(rows.Load()) / time.Since(began).Seconds()
		cancel()
		if err := <-ended; err != nil {
			w.b.Error(err)
		}
		w.b.ReportMetric(rate, "load-rows/s")
	}
}

// begun are n sessions that have just begun.
func (w *watched) begun(n int) []codec.Observation {
	out := make([]codec.Observation, n)
	for i := range out {
		k := w.sessions
		w.sessions++
		out[i] = codec.Observation{Session: &fleet.Session{
			ID: fleet.SessionID(hubSession(k)), Cluster: hubCluster(k % fleetClusters), Status: fleet.SessionConnected, User: fmt.Sprintf("person.%d@example.org", k%20_000),
			Target: fmt.Sprintf("/targets/production/host-%d", k%20_000), InstanceID: fleet.InstanceID(fmt.Sprintf("akeyless-ssh-%d", k%(2*fleetClusters))),
			Start: time.Now(), Protocol: "ssh", TargetType: "ssh-target",
		}}
	}
	return out
}

// BenchmarkStatus asks for the states of 5,000 clusters of ten instances while 5,000
// rows a second arrive: over the API, all pages one after another for 20 s, and then
// with the command, which is a process each time.
func BenchmarkStatus(b *testing.B) {
	program := binary(b)
	w := watch(b)
	token := filepath.Join(b.TempDir(), "token")
	if err := os.WriteFile(token, []byte(w.at.Token), 0o600); err != nil {
		b.Fatal(err)
	}
	stop := w.load()
	var pages, whole, command []time.Duration
	for b.Loop() {
		for began := time.Now(); time.Since(began) < 20*time.Second; {
			asked := time.Now()
			w.list(&pages)
			whole = append(whole, time.Since(asked))
		}
		for range 20 {
			asked := time.Now()
			cmd := exec.CommandContext(b.Context(), program, "status", "--server", w.at.API, "--token-file", token)
			if out, err := cmd.Output(); err != nil || strings.Count(string(out), "\n") != fleetClusters+1 {
				b.Fatalf("lockstep status: %v: %.200s", err, out)
			}
			command = append(command, time.Since(asked))
		}
	}
	stop()
	b.ReportMetric(0, "ns/op")
	report(b, "page", pages)
	report(b, "all", whole)
	report(b, "command", command)
}

// BenchmarkDriftEvent changes what runs in a cluster of 5,000, 25 times a second for
// 20 s while nothing else arrives, and for 20 s more while 5,000 rows a second do of
// the others. It reports how long it takes
// from the publishing of the inventory until the event of another state has arrived
// over the bus.
func BenchmarkDriftEvent(b *testing.B) {
	w := watch(b)
	var (
		mu     sync.Mutex
		asked  = make(map[fleet.ClusterID]time.Time)
		delays []time.Duration
	)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- w.events.Tail(ctx, bus.Tail{Stream: topology.StreamEvents, Filters: []string{topology.EventFilter(topology.NounDrift)}, New: true, Follow: true}, func(m bus.Message) error {
			_, id, _ := topology.EventNoun(m.Subject)
			mu.Lock()
			defer mu.Unlock()
			if at, ok := asked[fleet.ClusterID(id)]; ok {
				delays = append(delays, time.Since(at))
				delete(asked, fleet.ClusterID(id))
			}
			return nil
		})
	}()
	waiting := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(asked)
	}
	late := func(id fleet.ClusterID) bool {
		mu.Lock()
		defer mu.Unlock()
		_, waits := asked[id]
		return waits
	}
	versions := make(map[fleet.ClusterID]string)
	change := func(what string) {
		tick := time.NewTicker(40 * time.Millisecond)
		for i, began := 0, time.Now(); time.Since(began) < 20*time.Second; i++ {
			<-tick.C
			id := hubCluster(fleetClusters - changing + i%changing)
			// A cluster whose last change is not told of yet is passed over: that is in
			// the figures once, as long as it takes.
			if late(id) {
				continue
			}
			if versions[id] != "5.1.0" {
				versions[id] = "5.1.0"
			} else {
				versions[id] = "5.0.1"
			}
			message := w.messages("agent", fleet.KindInventory, []codec.Observation{look(id, versions[id])})[0]
			mu.Lock()
			asked[id] = time.Now()
			mu.Unlock()
			if _, err := w.events.Publish(b.Context(), message); err != nil {
				b.Fatal(err)
			}
		}
		tick.Stop()
		w.until("the last event", func() bool { return waiting() == 0 })
		mu.Lock()
		defer mu.Unlock()
		b.ReportMetric(float64(len(delays)), what+"-events")
		report(b, what, delays)
		delays = nil
	}
	for b.Loop() {
		change("quiet")
		stop := w.load()
		change("loaded")
		stop()
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		b.Error(err)
	}
	b.ReportMetric(0, "ns/op")
}

// report tells the median and the 99th of a hundred.
func report(b *testing.B, what string, all []time.Duration) {
	b.Helper()
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, what+"-p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, what+"-p99-ms")
}
