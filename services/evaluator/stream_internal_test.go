package evaluator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectinprocess"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
)

// watched is the state of an evaluator that no bus or store changes, behind its
// API. Its clock is the bubble's.
func watched(n int) (*watch, *connect.Client) {
	config := Config{Tenant: fleet.DefaultTenant, Limits: drift.Limits{MixedWindow: time.Hour, DarkAfter: 2 * time.Minute}, Beat: time.Second}
	config.Releases = []catalog.Release{
		{ID: "winter", Versions: fleet.VersionSet{fleet.LineGateway: "1"}}, {ID: "spring", Versions: fleet.VersionSet{fleet.LineGateway: "2"}},
	}
	for i := range n {
		config.Clusters = append(config.Clusters, DeclaredCluster{ClusterConfig: ClusterConfig{ID: fleet.ClusterID(fmt.Sprintf("c%03d", i)), Release: "winter"}})
	}
	w := newWatch(config, Deps{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	server := connect.NewServer()
	fleetv1connect.RegisterFleetServiceHandler(server, fleetAPI{watch: w})
	gatev1connect.RegisterGateServiceHandler(server, gateAPI{watch: w})
	return w, connect.NewClient(connectinprocess.New(server))
}

// see makes a cluster run a version of the gateway, as seen now.
func (w *watch) see(id fleet.ClusterID, version string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.clusters[id]
	c.drift = c.drift.Observe(fleet.Inventory{Cluster: id, ObservedAt: w.deps.Now(), Instances: []fleet.Instance{
		{ID: "i1", Component: fleet.Gateway, Version: version, Health: fleet.HealthHealthy},
	}})
}

type told struct {
	after    time.Duration
	clusters []string
	gone     []string
	complete bool
}

func (t told) String() string {
	return fmt.Sprintf("after %s: %v, gone %v, complete %t", t.after, t.clusters, t.gone, t.complete)
}

// follow receives everything a watch of clusters tells until ctx ends.
func follow(ctx context.Context, t *testing.T, client *connect.Client, req *fleetv1.WatchClustersRequest) (heard func() []told) {
	t.Helper()
	began := time.Now()
	stream, err := fleetv1connect.NewFleetServiceClient(client).WatchClusters(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	var all []told
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := stream.Receive()
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the watch ended with %v", err)
				}
				return
			}
			one := told{after: time.Since(began), gone: m.GetGone(), complete: m.GetComplete()}
			for _, c := range m.GetClusters() {
				one.clusters = append(one.clusters, c.GetId()+" "+c.GetState())
			}
			all = append(all, one)
		}
	}()
	return func() []told {
		<-done
		return all
	}
}

func check(t *testing.T, got []told, want ...told) {
	t.Helper()
	if !slices.EqualFunc(got, want, func(a, b told) bool { return a.String() == b.String() }) {
		t.Errorf("the watch told\n%v\nwant\n%v", got, want)
	}
}

func TestAWatchOfClustersTellsAllAndThenWhatChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, client := watched(3)
		ctx, cancel := context.WithCancel(t.Context())
		heard := follow(ctx, t, client, &fleetv1.WatchClustersRequest{})
		synctest.Wait()
		<-time.After(500 * time.Millisecond)
		w.see("c001", "2") // Gone again before the next look.
		<-time.After(time.Millisecond)
		w.see("c001", "1")
		<-time.After(time.Second)
		w.see("c001", "1") // Seen again, and not different.
		w.see("c002", "1")
		w.see("c000", "3")
		<-time.After(time.Second)
		w.see("c002", "2")
		<-time.After(time.Millisecond)
		w.see("c002", "1") // As it was told before.
		<-time.After(10 * time.Second)
		// Time alone changes states.
		<-time.After(2 * time.Minute)
		cancel()
		check(t, heard(),
			told{0, []string{"c000 unknown", "c001 unknown", "c002 unknown"}, nil, true},
			told{1 * time.Second, []string{"c001 locked"}, nil, true},
			told{2 * time.Second, []string{"c000 drifted", "c002 locked"}, nil, true},
			told{122 * time.Second, []string{"c000 dark", "c001 dark"}, nil, true},
			told{123 * time.Second, []string{"c002 dark"}, nil, true},
		)
	})
}

func TestAWatchOfClustersFollowsItsFilters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, client := watched(3)
		w.clusters["c002"].configured = "spring"
		w.reassign()
		ctx, cancel := context.WithCancel(t.Context())
		heard := map[string]func() []told{
			"nothing": follow(ctx, t, client, &fleetv1.WatchClustersRequest{Ids: []string{"c9"}}),
			"ids":     follow(ctx, t, client, &fleetv1.WatchClustersRequest{Ids: []string{"c001", "c9", "c000"}}),
			"state":   follow(ctx, t, client, &fleetv1.WatchClustersRequest{States: []string{"drifted"}}),
			"release": follow(ctx, t, client, &fleetv1.WatchClustersRequest{Release: "spring"}),
		}
		<-time.After(500 * time.Millisecond)
		for _, c := range []fleet.ClusterID{"c000", "c001", "c002"} {
			w.see(c, "2")
		}
		<-time.After(time.Second)
		w.see("c000", "1")
		<-time.After(time.Second)
		w.see("c000", "2")
		<-time.After(time.Second)
		cancel()
		check(t, heard["nothing"](), told{complete: true})
		check(t, heard["ids"](),
			told{0, []string{"c000 unknown", "c001 unknown"}, nil, true},
			told{1 * time.Second, []string{"c000 drifted", "c001 drifted"}, nil, true},
			told{2 * time.Second, []string{"c000 locked"}, nil, true},
			told{3 * time.Second, []string{"c000 drifted"}, nil, true})
		check(t, heard["state"](),
			told{complete: true},
			told{1 * time.Second, []string{"c000 drifted", "c001 drifted"}, nil, true},
			told{2 * time.Second, nil, []string{"c000"}, true},
			told{3 * time.Second, []string{"c000 drifted"}, nil, true})
		check(t, heard["release"](),
			told{0, []string{"c002 unknown"}, nil, true},
			told{1 * time.Second, []string{"c002 locked"}, nil, true})
	})
}

func TestManyClustersComeInSeveralMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, client := watched(250)
		ctx, cancel := context.WithCancel(t.Context())
		heard := follow(ctx, t, client, &fleetv1.WatchClustersRequest{})
		<-time.After(500 * time.Millisecond)
		for id := range w.clusters {
			w.see(id, "1")
		}
		<-time.After(time.Second)
		cancel()
		type message struct {
			clusters int
			complete bool
		}
		var got []message
		for _, m := range heard() {
			got = append(got, message{len(m.clusters), m.complete})
		}
		if want := []message{{100, false}, {100, false}, {50, true}, {100, true}, {100, true}, {50, true}}; !slices.Equal(got, want) {
			t.Errorf("the messages are %v, want %v", got, want)
		}
	})
}

func TestAWatchOfAGateTellsWhatIsNew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, client := watched(1)
		began := time.Now()
		g := &gateWatch{Gate: codec.Gate{ID: "g", Cluster: "c000", Policy: gate.DefaultPolicy(), Terms: gate.DefaultTerms(gate.DefaultPolicy()), Boundary: gate.Boundary{
			BaselineFrom: began.Add(-time.Hour), Start: began.Add(-time.Minute), End: began,
		}}}
		var err error
		if g.step, err = gate.NewStep(g.Policy, g.Terms, g.Cluster, g.Boundary, nil); err != nil {
			t.Fatal(err)
		}
		w.gates[g.ID] = g
		change := func(sequence uint64, decide bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if decide {
				g.decision, g.step = &gatev1.Decision{Verdict: "inconclusive"}, nil
				return
			}
			g.step.Take(gate.Seen{Seq: sequence, Arrived: time.Now(), Mark: &fleet.Mark{Cluster: g.Cluster, About: fleet.KindSession, CompleteUntil: time.Now()}})
		}
		var got []string
		done := make(chan struct{})
		stream, err := gatev1connect.NewGateServiceClient(client).WatchGate(t.Context(), &gatev1.WatchGateRequest{Id: "g"})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(done)
			for {
				m, err := stream.Receive()
				if err != nil {
					got = append(got, err.Error())
					return
				}
				d := m.GetGate().GetDecision()
				got = append(got, fmt.Sprintf("%s %s at %d", time.Since(began), d.GetVerdict(), d.GetStreamSequence()))
			}
		}()
		<-time.After(10*time.Second + 500*time.Millisecond)
		change(1, false)
		change(2, false)
		<-time.After(10 * time.Second)
		change(0, true)
		<-done
		if want := []string{"0s pending at 0", "11s pending at 2", "21s inconclusive at 0", "EOF"}; !slices.Equal(got, want) {
			t.Errorf("the watch told %q, want %q", got, want)
		}
	})
}

func TestAWatchOfAGateThatDoesNotExist(t *testing.T) {
	t.Parallel()
	_, client := watched(1)
	stream, err := gatev1connect.NewGateServiceClient(client).WatchGate(t.Context(), &gatev1.WatchGateRequest{Id: "r0"})
	if err == nil {
		_, err = stream.Receive()
	}
	var e *errs.Error
	if errors.Is(err, io.EOF) || !errors.As(err, &e) || e.ID != "LS-GAT-001" {
		t.Errorf("it ended with %v, want LS-GAT-001", err)
	}
}
