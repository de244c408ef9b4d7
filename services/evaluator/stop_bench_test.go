//go:build linux && amd64

package evaluator_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// stops hears of gates.
type stops struct {
	mu     sync.Mutex
	opened int
	asked  map[string]time.Time // when the message that decides a cluster's was stored
	took   []time.Duration
}

func (s *stops) hear(m bus.Message) error {
	at := time.Now()
	var event gatev1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range event.GetFacts() {
		if f.GetGateOpened() != nil {
			s.opened++
		}
		if d := f.GetGateDecided(); d.GetDecision().GetVerdict() == string(gate.Fail) {
			s.took = append(s.took, at.Sub(s.asked[d.GetCluster()]))
		}
	}
	return nil
}

// ask notes when the message of a cluster is sent, and again when it is stored.
func (s *stops) ask(cluster fleet.ClusterID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[string(cluster)] = time.Now()
}

func (s *stops) await(b *testing.B, what string, enough func() bool) {
	b.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * patience)
	for {
		s.mu.Lock()
		there := enough()
		s.mu.Unlock()
		if there {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			b.Fatalf("%s did not come", what)
		}
	}
}

// BenchmarkStop has 150 steps fail, 20 a second, each by one message with the sessions
// that it takes, while other clusters have 5,000 sessions a second. Every cluster is
// being moved, so that a stop has no controls to ask. It tells how long one takes from
// the acknowledgement of its message to the decision's event.
func BenchmarkStop(b *testing.B) {
	const stepped, others, perTick = 150, 50, 250
	p := newPlant(b, stepped+others)
	all := slices.Concat(p.parts[:]...)
	failing, busy := all[:stepped], all[stepped:]
	applied := time.Now().Add(-10 * time.Minute).Truncate(time.Second)
	of := func(cluster fleet.ClusterID, name string, at time.Time, status fleet.SessionStatus) codec.Observation {
		return codec.Observation{Session: &fleet.Session{
			ID: fleet.SessionID(name + string(cluster)), Cluster: cluster, Status: status, User: name + "@example.org", Target: "/targets/production/host",
			Start: at, Protocol: "ssh", TargetType: "ssh-target",
		}}
	}
	known := func(cluster fleet.ClusterID, until time.Time) codec.Observation {
		return codec.Observation{Mark: &fleet.Mark{Cluster: cluster, About: fleet.KindSession, CompleteUntil: until}}
	}
	for part, clusters := range p.parts {
		var seen []codec.Observation
		for _, cluster := range clusters {
			for n := range 40 {
				seen = append(seen, of(cluster, fmt.Sprint("before-", n), applied.Add(time.Duration(n-41)*time.Second), fleet.SessionConnected))
			}
			seen = append(seen, known(cluster, applied))
		}
		p.publish(fleet.KindSession, part, seen, len(seen), applied)
	}
	heard := &stops{asked: make(map[string]time.Time)}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- p.events.Tail(ctx, bus.Tail{Stream: topology.StreamEvents, Filters: []string{topology.EventFilter(topology.NounGate)}, Follow: true}, heard.hear)
	}()
	p.stepAll(all, failing, applied)
	p.serve(p.tables())
	heard.await(b, "the last gate", func() bool { return heard.opened == stepped })
	for b.Loop() {
		tick := time.NewTicker(50 * time.Millisecond)
		for i, cluster := range failing {
			<-tick.C
			now := time.Now()
			from := i * perTick
			var load []codec.Observation
			place := busy[i%len(busy)]
			for n := range perTick {
				load = append(load, of(place, fmt.Sprint("load-", from+n), now, fleet.SessionConnected))
			}
			p.publish(fleet.KindSession, int(topology.Part(place)), append(load, known(place, now)), perTick+1, now)
			var seen []codec.Observation
			for n := range 12 {
				seen = append(seen, of(cluster, fmt.Sprint("after-", n), applied.Add(time.Duration(n+1)*time.Second), fleet.SessionFailed))
			}
			heard.ask(cluster)
			p.publish(fleet.KindSession, int(topology.Part(cluster)), append(seen, known(cluster, applied.Add(2*time.Minute))), 13, now)
			heard.ask(cluster)
		}
		tick.Stop()
		heard.await(b, "the last stop", func() bool { return len(heard.took) == stepped })
	}
	cancel()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		b.Error(err)
	}
	slices.Sort(heard.took)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(heard.took[stepped/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(heard.took[stepped*99/100].Microseconds())/1000, "p99-ms")
}

// stepAll publishes a rollout that moves every cluster and has made a step in some.
func (p *plant) stepAll(all, stepped []fleet.ClusterID, applied time.Time) {
	p.b.Helper()
	numbers := gate.DefaultPolicy()
	numbers.AcceptableRate, numbers.FloorRate, numbers.PlannedTrials = 0.05, 0.05, 4
	numbers.Bucket, numbers.BurstWindow, numbers.Maturation, numbers.Deadline = time.Second, 0, time.Second, time.Hour
	plan := rollout.Plan{Release: "winter", Gate: numbers, Window: 24 * time.Hour, Lookback: time.Hour, MaxConcurrent: len(all)}
	for _, cluster := range all {
		plan.Clusters = append(plan.Clusters, rollout.ClusterPlan{Cluster: cluster, Steps: []rollout.StepPlan{
			{Name: "gateway", Line: fleet.LineGateway, FromVersion: "5.0.1", ToVersion: "5.0.1", Components: []fleet.Component{fleet.Gateway}},
		}})
	}
	event := &rolloutv1.Event{Rollout: "r-stop"}
	fact := func(cluster fleet.ClusterID, kind rollout.Kind) {
		event.Facts = append(event.Facts, codec.RolloutFactToProto(rollout.Fact{At: applied, Cluster: cluster, Kind: kind}))
	}
	fact("", rollout.RolloutStarted{Plan: plan})
	for _, cluster := range all {
		fact(cluster, rollout.ClusterStarted{WindowEnds: applied.Add(24 * time.Hour)})
		fact(cluster, rollout.PackageCaptured{Package: "p0"})
		fact(cluster, rollout.StepStarted{Step: "gateway"})
	}
	for _, cluster := range stepped {
		fact(cluster, rollout.StepApplied{Step: "gateway", Gate: rollout.GateID("r-stop", cluster, "gateway"), Package: "p1", Policy: numbers, Boundary: gate.Boundary{
			BaselineFrom: applied.Add(-time.Hour), Start: applied, End: applied,
		}})
	}
	data, err := proto.Marshal(event)
	if err != nil {
		p.b.Fatal(err)
	}
	if _, err := p.events.Publish(p.b.Context(), bus.Message{
		Subject: topology.EventSubject(fleet.DefaultTenant, topology.NounRollout, "r-stop"), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data,
	}); err != nil {
		p.b.Fatal(err)
	}
}
