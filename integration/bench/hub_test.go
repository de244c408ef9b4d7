//go:build linux

package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/obs"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/topology"
)

// A large installation that one hub looks at.
const (
	hubClusters  = 5000
	hubInstances = 10
	hubSessions  = 200_000
	// hubSessionLife is how long a session is open on average.
	hubSessionLife = time.Hour
)

// hubCommand makes the test's binary a hub, so that what is measured of the process
// is the hub's alone. Bus and vendor stay in the benchmark's own process.
const hubCommand = "be-a-hub"

func TestMain(m *testing.M) {
	be, args := "", []string(nil)
	if len(os.Args) > 2 {
		be, args = os.Args[1], os.Args[2:]
	}
	var err error
	switch be {
	case hubCommand:
		err = beHub(args[0], os.Stdin, os.Stdout)
	case serverCommand:
		err = beServer(args[0], os.Stdin, os.Stdout)
	case engineCommand:
		err = beEngine(args)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// hubOptions are what a hub is told; it looks at hubClusters.
type hubOptions struct {
	Bus, Dir string
	// Inventories says whether what runs in the clusters is looked at.
	Inventories bool
	// Vendor lists the sessions, with KeyFile, every SessionsEvery; empty is none.
	Vendor, KeyFile string
	SessionsEvery   time.Duration
}

// hubFigures are what a hub says of itself.
type hubFigures struct {
	Processor  time.Duration
	Goroutines int
	// Heap is in use after a collection, Stacks what goroutines stand on, in bytes.
	Heap, Stacks uint64
	// Polls counts by kind, Took is how long the last one took.
	Polls  map[string]int
	Took   map[string]time.Duration
	Failed int
	// Published counts observations by kind that the bus has acknowledged.
	Published map[string]int
	Acks      []hubAck
}

// hubAck is that the bus has acknowledged the messages from First to Last.
type hubAck struct {
	First, Last uint64
	At          time.Time
}

// beHub wires a collector as the product does and runs it until its input ends. Asked
// true or false it says how it fares, with what its heap holds or without.
func beHub(text string, in io.Reader, out io.Writer) (err error) {
	var options hubOptions
	if err := json.Unmarshal([]byte(text), &options); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tel, err := obs.Start(ctx, obs.Options{Service: "lockstep-collector", Version: "bench", Level: "info", Format: "text", Out: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tel.Shutdown(context.WithoutCancel(ctx))) }()
	counts, err := collector.NewMeter(tel.Meters)
	if err != nil {
		return err
	}
	watch := &hubWatch{Meter: counts, polls: make(map[string]int), took: make(map[string]time.Duration), published: make(map[string]int)}
	schedules, err := hubSchedules(options)
	if err != nil {
		return err
	}
	spool, err := collector.OpenSpool(filepath.Join(options.Dir, "spool"), 512<<20)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	events, err := natsbus.Open(natsbus.Options{URL: options.Bus, Name: "hub", Log: tel.Log, Tracers: tel.Traces, Meters: tel.Meters})
	if err != nil {
		return err
	}
	defer events.Close()
	hub := collector.New(collector.Config{Tenant: fleet.DefaultTenant, ID: "hub"}, schedules, collector.Deps{
		Bus: hubBus{events, watch}, Spool: spool, Log: tel.Log, Meter: watch, Now: time.Now, Chance: rand.Float64,
	})
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }()
	defer func() { cancel(); err = errors.Join(err, <-ended) }()

	questions, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var weigh bool
		switch err := questions.Decode(&weigh); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		f, err := watch.figures(weigh)
		if err != nil {
			return err
		}
		if err := answers.Encode(f); err != nil {
			return err
		}
	}
}

// hubSchedules are the looks of a hub, as the product sets them up.
func hubSchedules(options hubOptions) ([]collector.Schedule, error) {
	var (
		schedules []collector.Schedule
		ids       []fleet.ClusterID
	)
	names := make(map[string]fleet.ClusterID)
	for i := range hubClusters {
		id := hubCluster(i)
		ids, names[hubClusterName(i)] = append(ids, id), id
		if options.Inventories {
			schedules = append(schedules, collector.Inventory(id, 5*time.Second, func(context.Context) (fleet.Inventory, error) { return hubInventory(id), nil }))
		}
	}
	if options.Vendor == "" {
		return schedules, nil
	}
	client, err := akeyless.New(akeyless.Options{
		BaseURL: options.Vendor, Auth: akeyless.Auth{Type: akeyless.AccessKey, AccessID: akeylesstest.AccessID, KeyFile: options.KeyFile},
	})
	if err != nil {
		return nil, err
	}
	// Ended sessions are remembered as well, beside those that are open.
	reader, err := akeyless.NewSessionReader(akeyless.ReaderOptions{
		Client: client, Clusters: names, MaxSessions: 3 * hubSessions, Lookback: 24 * time.Hour, OpenFile: filepath.Join(options.Dir, "open-sessions"),
	})
	if err != nil {
		return nil, err
	}
	sessions := collector.Sessions(ids, options.SessionsEvery, func(ctx context.Context) ([]fleet.Session, []fleet.Mark, error) {
		page, err := reader.Poll(ctx)
		return page.Sessions, page.Marks, err
	}, nil)
	sessions.Jitter, sessions.Timeout = 0, 10*time.Minute
	return append(schedules, sessions), nil
}

func hubCluster(i int) fleet.ClusterID { return fleet.ClusterID(fmt.Sprintf("cluster-%04d", i)) }

func hubClusterName(i int) string { return fmt.Sprintf("acc-1f0c9d7e/p-5a2b8c1d/cluster-%04d", i) }

// hubInventory is what a look at a namespace brings, every text of it new.
func hubInventory(cluster fleet.ClusterID) fleet.Inventory {
	sum := func(line string) string { return fmt.Sprintf("sha256:%064x", len(line)) }
	started := time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)
	out := fleet.Inventory{Cluster: cluster, ObservedAt: time.Now()}
	for i := range hubInstances {
		component, service, repository, version := fleet.Gateway, "unified", "docker.io/akeyless/base", "5.0.1"
		switch {
		case i >= 6:
			component, service, repository, version = fleet.SRAWeb, "web", "docker.io/akeyless/zero-trust-bastion", "3.1.0"
		case i >= 3:
			component, service, repository, version = fleet.SRASSH, "ssh", "docker.io/akeyless/zero-trust-bastion", "3.1.0"
		}
		image := fmt.Sprint(repository, ":", version)
		out.Instances = append(out.Instances, fleet.Instance{
			ID:        fleet.InstanceID(fmt.Sprintf("%s-akeyless-gateway-7c9d8b6f5d-%05x", service, i)),
			Component: component, Service: fmt.Sprintf("deployment/%s-akeyless-gateway", service), Image: image, Tag: version,
			Digest: sum(repository), ImageID: fmt.Sprint(repository, "@", sum(repository)), Version: version, Health: fleet.HealthHealthy,
			StartedAt: started, Declared: image, Labelled: fmt.Sprintf("%s_3.3.0", version),
			Node: fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i, len(cluster)), Restarts: uint32(i),
		})
	}
	return out
}

// hubWatch counts what a hub does, beside the product's own meter.
type hubWatch struct {
	collector.Meter

	mu        sync.Mutex
	polls     map[string]int
	took      map[string]time.Duration
	failed    int
	published map[string]int
	acks      []hubAck
}

func (w *hubWatch) Polled(kind string, failed bool, took time.Duration) {
	w.Meter.Polled(kind, failed, took)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.polls[kind]++
	w.took[kind] = took
	if failed {
		w.failed++
	}
}

func (w *hubWatch) Published(kind string, observations int) {
	w.Meter.Published(kind, observations)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published[kind] += observations
}

func (w *hubWatch) acknowledged(last uint64, messages int) {
	at := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acks = append(w.acks, hubAck{last - uint64(messages) + 1, last, at})
}

// figures says what was counted, and how much the heap holds when asked to weigh it.
// Acknowledgements are told once.
func (w *hubWatch) figures(weigh bool) (hubFigures, error) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return hubFigures{}, err
	}
	f := hubFigures{Processor: time.Duration(used.Utime.Nano() + used.Stime.Nano()), Goroutines: runtime.NumGoroutine()}
	if weigh {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		f.Stacks = m.StackInuse
		runtime.GC()
		runtime.ReadMemStats(&m)
		f.Heap = m.HeapInuse
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f.Polls, f.Took, f.Failed, f.Published, f.Acks = maps.Clone(w.polls), maps.Clone(w.took), w.failed, maps.Clone(w.published), w.acks
	w.acks = nil
	return f, nil
}

// hubBus notes when the bus has acknowledged what. A batch stands in the stream with
// nothing in between.
type hubBus struct {
	collector.Bus
	watch *hubWatch
}

func (b hubBus) Publish(ctx context.Context, m bus.Message) (uint64, error) {
	last, err := b.Bus.Publish(ctx, m)
	if err == nil {
		b.watch.acknowledged(last, 1)
	}
	return last, err
}

func (b hubBus) PublishBatch(ctx context.Context, messages []bus.Message) (uint64, error) {
	last, err := b.Bus.PublishBatch(ctx, messages)
	if err == nil {
		b.watch.acknowledged(last, len(messages))
	}
	return last, err
}

// hub is a hub that runs beside the benchmark.
type hub struct {
	b       *testing.B
	cmd     *exec.Cmd
	ask     *json.Encoder
	answers *json.Decoder
}

func startHub(b *testing.B, options hubOptions) *hub {
	b.Helper()
	text, err := json.Marshal(options)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], hubCommand, string(text))
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
		in.Close() // the hub ends with its input
		if err := cmd.Wait(); err != nil {
			b.Errorf("the hub: %v", err)
		}
	})
	return &hub{b: b, cmd: cmd, ask: json.NewEncoder(in), answers: json.NewDecoder(out)}
}

// figures asks the hub how it fares; to weigh its heap makes it collect its garbage.
func (h *hub) figures(weigh bool) (f hubFigures) {
	h.b.Helper()
	if err := errors.Join(h.ask.Encode(weigh), h.answers.Decode(&f)); err != nil {
		h.b.Fatalf("asking the hub: %v", err)
	}
	if f.Failed > 0 {
		h.b.Fatalf("%d polls failed", f.Failed)
	}
	return f
}

// until asks the hub now and then until it has come as far as that, and returns how
// long that took.
func (h *hub) until(what string, reached func(hubFigures) bool) time.Duration {
	h.b.Helper()
	began := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for f := h.figures(false); !reached(f); f = h.figures(false) {
		if time.Since(began) > 2*patience {
			h.b.Fatalf("%s did not come within %s: %+v", what, 2*patience, f)
		}
		<-tick.C
	}
	return time.Since(began)
}

// memory reads a line of a process's status, in MiB.
func (h *hub) memory(line string) float64 {
	h.b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		h.b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n"+line+":")
	rest, _, _ = strings.Cut(rest, "kB")
	kib, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
	if err != nil {
		h.b.Fatalf("the hub's process tells no %s: %v", line, err)
	}
	return kib / 1024
}

// hubStream is a server that syncs as the product's does, with its stream of
// observations. The hub comes to it over TCP.
type hubStream struct {
	b      *testing.B
	server *natsserver.Server
	events *natsbus.Bus
}

func newHubStream(b *testing.B) *hubStream {
	b.Helper()
	server, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: b.TempDir(), SyncAlways: true, MaxPayload: 4 << 20, NoSigs: true, NoLog: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	server.Start()
	b.Cleanup(func() { server.Shutdown(); server.WaitForShutdown() })
	if !server.ReadyForConnections(patience) {
		b.Fatal("the bus did not get ready")
	}
	tel, err := obs.Start(b.Context(), obs.Options{Service: "bench", Level: "warn", Format: "text", Out: os.Stderr})
	if err != nil {
		b.Fatal(err)
	}
	events, err := natsbus.Open(natsbus.Options{InProcess: server, Log: tel.Log})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(events.Close)
	if err := events.Ensure(b.Context(), topology.Streams(), nil, nil); err != nil {
		b.Fatal(err)
	}
	return &hubStream{b, server, events}
}

// size says how much the stream holds, subjects and headers included.
func (s *hubStream) size() natsserver.StreamState {
	s.b.Helper()
	all, err := s.server.Jsz(&natsserver.JSzOptions{Accounts: true, Streams: true})
	if err != nil {
		s.b.Fatal(err)
	}
	for _, account := range all.AccountDetails {
		for _, stream := range account.Streams {
			if stream.Name == topology.StreamObservations {
				return stream.State
			}
		}
	}
	s.b.Fatal("the stream of observations is not there")
	return natsserver.StreamState{}
}

// after reads the observations behind a sequence, each with that of its message.
func (s *hubStream) after(sequence uint64, fn func(uint64, *observationv1.Observation)) {
	s.b.Helper()
	err := s.events.LoadAfter(s.b.Context(), topology.StreamObservations, "lockstep.obs.v1.>", sequence, func(m bus.Message) error {
		var batch observationv1.Batch
		if err := proto.Unmarshal(m.Data, &batch); err != nil {
			return err
		}
		for _, o := range batch.GetObservations() {
			fn(m.Sequence, o)
		}
		return nil
	})
	if err != nil {
		s.b.Fatal(err)
	}
}

// hubVendor lists the sessions of the clusters.
type hubVendor struct {
	b       *testing.B
	server  *akeylesstest.Server
	key     string
	started int
	open    []akeylesstest.Session
	chance  *rand.Rand
}

func newHubVendor(b *testing.B) *hubVendor {
	b.Helper()
	server, err := akeylesstest.NewServer(akeylesstest.Options{MaxSessions: 3 * hubSessions})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { server.Close() })
	v := &hubVendor{b: b, server: server, key: filepath.Join(b.TempDir(), "key"), chance: rand.New(rand.NewPCG(1, 2))}
	if err := os.WriteFile(v.key, []byte(akeylesstest.AccessKey), 0o600); err != nil {
		b.Fatal(err)
	}
	for i := range hubClusters {
		server.SetCluster(akeylesstest.Cluster{Name: hubClusterName(i), DisplayName: string(hubCluster(i))})
	}
	return v
}

// start lists another session as open.
func (v *hubVendor) start(at time.Time) {
	v.b.Helper()
	i := v.started
	v.started++
	s := akeylesstest.Session{
		ID: hubSession(i), Status: "connected", StartTime: at, ConnectionType: "ssh", ClientType: "cli", ClusterUniqID: int64(i % hubClusters),
		InstanceID: fmt.Sprintf("akeyless-ssh-%d", i%(2*hubClusters)), Gateway: akeylesstest.GatewayInfo{ClusterName: hubClusterName(i % hubClusters)},
		AccessID: fmt.Sprintf("p-%09d", i%20_000), UserIdentifier: fmt.Sprintf("person.%d@example.org", i%20_000),
		TargetHost: fmt.Sprintf("10.1.%d.%d", i/250%250, i%250), TargetName: fmt.Sprintf("/targets/production/host-%d", i%20_000),
		TargetType: "ssh-target", TargetID: strconv.Itoa(i % 20_000), SecretName: "/sra/issuer", TTL: "3600",
	}
	v.open = append(v.open, s)
	v.report(s)
}

func hubSession(i int) string { return fmt.Sprintf("5f0c1d9e-7a54-4a0e-9d0b-%012d", i) }

// end lists one of the open sessions as completed.
func (v *hubVendor) end(at time.Time) {
	v.b.Helper()
	i, last := v.chance.IntN(len(v.open)), len(v.open)-1
	s := v.open[i]
	v.open[i], v.open = v.open[last], v.open[:last]
	s.Status, s.EndTime = "completed", at
	v.report(s)
}

func (v *hubVendor) report(s akeylesstest.Session) {
	v.b.Helper()
	if err := v.server.Report(s); err != nil {
		v.b.Fatal(err)
	}
}

// BenchmarkHub reads what a hub of a large fleet takes to read everything for the
// first time, and then for 20 s or until all sessions were read once more. Sessions
// end and others begin meanwhile. Bus and vendor are in another process.
func BenchmarkHub(b *testing.B) {
	stream, vendor := newHubStream(b), newHubVendor(b)
	began := time.Now()
	for i := range hubSessions {
		vendor.start(began.Add(-hubSessionLife + hubSessionLife*time.Duration(i)/hubSessions))
	}
	h := startHub(b, hubOptions{
		Bus: stream.server.ClientURL(), Dir: b.TempDir(), Inventories: true, Vendor: vendor.server.URL(), KeyFile: vendor.key, SessionsEvery: 10 * time.Second,
	})
	first := h.until("the first reading of everything", func(f hubFigures) bool {
		// Each cluster's inventory and its mark; each session, and a mark for each cluster.
		return f.Published["inventory"] >= 2*hubClusters && f.Published["session"] >= hubSessions+hubClusters
	})
	before, held := h.figures(false), stream.size()
	began, turned := time.Now(), 0
	for b.Loop() {
		tick := time.NewTicker(100 * time.Millisecond)
		for now := began; now.Sub(began) < 20*time.Second || h.figures(false).Polls["session"] == before.Polls["session"]; now = <-tick.C {
			for ; turned < int(now.Sub(began)*hubSessions/hubSessionLife); turned++ {
				vendor.end(now)
				vendor.start(now)
			}
		}
		tick.Stop()
	}
	resident, after, holds := h.memory("VmRSS"), h.figures(true), stream.size()
	took := time.Since(began).Seconds()
	marks, blind := 0, 0
	stream.after(held.LastSeq, func(_ uint64, o *observationv1.Observation) {
		if o.GetMark() != nil {
			marks++
		}
		if o.GetMark().GetBlind() {
			blind++
		}
	})
	b.ReportMetric(first.Seconds(), "first-read-s")
	b.ReportMetric(h.memory("VmHWM"), "peak-MiB")
	b.ReportMetric(resident, "resident-MiB")
	b.ReportMetric(float64(after.Heap)/(1<<20), "heap-MiB")
	b.ReportMetric(float64(after.Stacks)/(1<<20), "stacks-MiB")
	b.ReportMetric(float64(after.Goroutines), "goroutines")
	b.ReportMetric((after.Processor-before.Processor).Seconds()/took, "cpu-s/s")
	b.ReportMetric(after.Took["session"].Seconds(), "sessions-poll-s")
	b.ReportMetric(float64(after.Polls["inventory"]-before.Polls["inventory"])/took, "inventories/s")
	b.ReportMetric(float64(holds.Bytes-held.Bytes)/took/1024, "stream-KiB/s")
	b.ReportMetric(100*float64(blind)/float64(marks), "blind-%")
}

// BenchmarkUnchanged looks at the inventories of a large fleet for 20 s, between two
// times that all is sent, and reports how much the stream grows by for each look at a
// cluster, and what it holds of it.
func BenchmarkUnchanged(b *testing.B) {
	stream := newHubStream(b)
	h := startHub(b, hubOptions{Bus: stream.server.ClientURL(), Dir: b.TempDir(), Inventories: true})
	h.until("the first reading of everything", func(f hubFigures) bool { return f.Published["inventory"] >= 2*hubClusters })
	before, held := h.figures(false), stream.size()
	for b.Loop() {
		<-time.After(20 * time.Second)
	}
	after, holds := h.figures(false), stream.size()
	observations := 0
	stream.after(held.LastSeq, func(sequence uint64, o *observationv1.Observation) {
		if sequence > holds.LastSeq {
			return
		}
		observations++
		if o.GetMark() == nil {
			b.Errorf("%v was sent although nothing has changed", o)
		}
	})
	looks := float64(after.Polls["inventory"] - before.Polls["inventory"])
	b.ReportMetric(float64(holds.Bytes-held.Bytes)/looks, "bytes/look")
	b.ReportMetric(float64(observations)/looks, "rows/look")
	b.ReportMetric(float64(holds.LastSeq-held.LastSeq)/looks, "messages/look")
	b.ReportMetric(looks/b.Elapsed().Seconds(), "looks/s")
}

// BenchmarkSessionDelay lists 2,000 new sessions a second for 10 s, which a hub reads
// every second, and reports how long after that the bus has acknowledged each.
func BenchmarkSessionDelay(b *testing.B) {
	for name, inventories := range map[string]bool{"sessions": false, "sessions+inventories": true} {
		b.Run(name, func(b *testing.B) { benchmarkSessionDelay(b, inventories) })
	}
}

func benchmarkSessionDelay(b *testing.B, inventories bool) {
	const rate, span = 2000, 10 * time.Second
	stream, vendor := newHubStream(b), newHubVendor(b)
	h := startHub(b, hubOptions{
		Bus: stream.server.ClientURL(), Dir: b.TempDir(), Inventories: inventories, Vendor: vendor.server.URL(), KeyFile: vendor.key, SessionsEvery: time.Second,
	})
	h.until("the first reading of everything", func(f hubFigures) bool {
		return f.Published["session"] >= hubClusters && (!inventories || f.Published["inventory"] >= 2*hubClusters)
	})
	began, held := h.figures(false), stream.size().LastSeq
	acks, listed, came := began.Acks, make(map[string]time.Time), make(map[string]uint64)
	for b.Loop() {
		begin, first := time.Now(), vendor.started
		tick := time.NewTicker(10 * time.Millisecond)
		for now := begin; vendor.started-first < int(rate*span/time.Second); now = <-tick.C {
			for vendor.started-first < int(min(now.Sub(begin), span)*rate/time.Second) {
				id := hubSession(vendor.started)
				vendor.start(time.Now())
				listed[id] = time.Now()
			}
		}
		tick.Stop()
		h.until("the last session", func(f hubFigures) bool {
			acks = append(acks, f.Acks...)
			stream.after(held, func(sequence uint64, o *observationv1.Observation) {
				held = sequence
				if s := o.GetSession(); s != nil {
					came[s.GetId()] = sequence
				}
			})
			return len(came) == len(listed)
		})
	}
	ended := h.figures(false)
	acks = append(acks, ended.Acks...)
	var delays []time.Duration
	for id, sequence := range came {
		i, _ := slices.BinarySearchFunc(acks, sequence, func(a hubAck, sequence uint64) int { return cmp.Compare(a.Last, sequence) })
		if i == len(acks) || acks[i].First > sequence {
			b.Fatalf("nobody knows when message %d was acknowledged", sequence)
		}
		delays = append(delays, acks[i].At.Sub(listed[id]))
	}
	slices.Sort(delays)
	b.ReportMetric(float64(delays[len(delays)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(delays[len(delays)*99/100].Milliseconds()), "p99-ms")
	b.ReportMetric(float64(delays[len(delays)-1].Milliseconds()), "max-ms")
	b.ReportMetric(b.Elapsed().Seconds()/float64(ended.Polls["session"]-began.Polls["session"]), "s/poll")
}
