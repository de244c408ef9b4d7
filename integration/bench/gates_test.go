//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

const (
	// untouched are the first clusters, which nobody steps: what failures are set beside.
	untouched = 100
	// judged are the clusters behind them whose gates decide; the others' stay open.
	judged = 900
	// reached is where the clusters end that have been stepped: each gate is opened by
	// reading its cluster's history, which takes a tenth of a second.
	reached = 1200
	// perRollout is how many clusters a rollout has.
	perRollout = 100
	// before is how many sessions each cluster has had before its step.
	before = 40
)

// gateNumbers decide as soon as sessions are there: each is a trial, final at once.
func gateNumbers() gate.Policy {
	p := gate.DefaultPolicy()
	p.AcceptableRate, p.FloorRate, p.PlannedTrials, p.Bucket, p.BurstWindow, p.Maturation, p.Deadline = 0.05, 0.05, 4, time.Second, 0, time.Second, time.Hour
	return p
}

// stepped is a fleet whose clusters have each an open gate.
type stepped struct {
	*watched
	applied time.Time // when every step was

	mu      sync.Mutex
	opened  int
	asked   map[fleet.ClusterID]time.Time // when what decides was stored in the stream
	decided map[string][]time.Duration    // how long it took, by verdict
	wrong   []string
}

// step has a fleet that has had sessions stepped everywhere but in the first clusters,
// until every gate is open. Gates behind the first judged last for an hour whatever is
// seen.
func step(b *testing.B) *stepped {
	b.Helper()
	w := &stepped{watched: watch(b), applied: time.Now().Add(-10 * time.Minute).Truncate(time.Second), asked: make(map[fleet.ClusterID]time.Time), decided: make(map[string][]time.Duration)}
	for n := range before {
		var seen []codec.Observation
		for i := range fleetClusters {
			seen = append(seen, w.session(i, fmt.Sprint("before-", n), w.applied.Add(time.Duration(n-before-1)*time.Second), fleet.SessionConnected))
		}
		if n == before-1 {
			for i := range fleetClusters {
				seen = append(seen, told(i, w.applied))
			}
		}
		if _, err := w.events.PublishBatch(b.Context(), w.messages("hub", fleet.KindSession, seen)); err != nil {
			b.Fatal(err)
		}
	}
	w.until("the sessions from before", func() bool { return !w.behind() })
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- w.events.Tail(ctx, bus.Tail{Stream: topology.StreamEvents, Filters: []string{topology.EventFilter(topology.NounGate)}, Follow: true}, w.hear)
	}()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			b.Error(err)
		}
	})
	began := time.Now()
	for first := untouched; first < reached; first += perRollout {
		w.apply(first)
	}
	for w.left() > 0 { // each reads its cluster's history, one after another
		w.until("another gate", func() func() bool { left := w.left(); return func() bool { return w.left() < left } }())
	}
	b.ReportMetric(float64(reached-untouched)/time.Since(began).Seconds(), "opened/s")
	return w
}

// left is how many gates are still to be opened.
func (w *stepped) left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return reached - untouched - w.opened
}

// apply publishes what an executor says of a rollout whose clusters have all made
// their first step.
func (w *stepped) apply(first int) {
	w.b.Helper()
	id := rollout.ID(fmt.Sprint("r", first))
	plan := rollout.Plan{Release: "winter", Gate: gateNumbers(), Window: 24 * time.Hour, Lookback: time.Hour}
	if first >= untouched+judged {
		stage := gate.DefaultTerms(gateNumbers()).Stage
		stage.Soak = time.Hour
		plan.Policy = &gate.Plan{Name: "lasting", Mode: gate.Act, Statistics: gateNumbers(), Step: stage, Wave: stage}
	}
	for i := range perRollout {
		plan.Clusters = append(plan.Clusters, rollout.ClusterPlan{Cluster: hubCluster(first + i), Steps: []rollout.StepPlan{
			{Name: "gateway", Line: fleet.LineGateway, FromVersion: "5.0.1", ToVersion: "5.0.1", Components: []fleet.Component{fleet.Gateway}},
		}})
	}
	event := &rolloutv1.Event{Rollout: string(id)}
	fact := func(cluster fleet.ClusterID, kind rollout.Kind) {
		event.Facts = append(event.Facts, codec.RolloutFactToProto(rollout.Fact{At: w.applied, Cluster: cluster, Kind: kind}))
	}
	fact("", rollout.RolloutStarted{Plan: plan})
	for _, c := range plan.Clusters {
		fact(c.Cluster, rollout.ClusterStarted{WindowEnds: w.applied.Add(24 * time.Hour)})
		fact(c.Cluster, rollout.PackageCaptured{Package: "p0"})
		fact(c.Cluster, rollout.StepStarted{Step: "gateway"})
		fact(c.Cluster, rollout.StepApplied{Step: "gateway", Gate: rollout.GateID(id, c.Cluster, "gateway"), Package: "p1", Policy: gateNumbers(), Boundary: gate.Boundary{
			BaselineFrom: w.applied.Add(-time.Hour), Start: w.applied, End: w.applied,
		}})
	}
	data, err := proto.Marshal(event)
	if err != nil {
		w.b.Fatal(err)
	}
	if _, err := w.events.Publish(w.b.Context(), bus.Message{
		Subject: topology.EventSubject(fleet.DefaultTenant, topology.NounRollout, string(id)), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data,
	}); err != nil {
		w.b.Fatal(err)
	}
}

// session is one person's in a cluster.
func (w *stepped) session(cluster int, id string, start time.Time, status fleet.SessionStatus) codec.Observation {
	return codec.Observation{Session: &fleet.Session{
		ID: fleet.SessionID(fmt.Sprintf("%s-%d", id, cluster)), Cluster: hubCluster(cluster), Status: status, User: id + "@example.org", Target: "/targets/production/host",
		Start: start, Protocol: "ssh", TargetType: "ssh-target",
	}}
}

// told is the mark that a cluster's sessions are known until an instant.
func told(cluster int, until time.Time) codec.Observation {
	return codec.Observation{Mark: &fleet.Mark{Cluster: hubCluster(cluster), About: fleet.KindSession, CompleteUntil: until}}
}

// behind says whether any message of observations is not handled yet.
func (w *stepped) behind() bool {
	w.b.Helper()
	kv, err := w.raw.KeyValue(w.b.Context(), bus.Positions)
	if err != nil {
		w.b.Fatal(err)
	}
	stream, err := w.raw.Stream(w.b.Context(), topology.StreamObservations)
	if err != nil {
		w.b.Fatal(err)
	}
	for partition := range topology.Partitions {
		c := topology.EvaluatorObservations(partition)
		entry, err := kv.Get(w.b.Context(), c.Stream+"."+c.Durable)
		if err != nil {
			return true
		}
		var position struct {
			Sequence uint64 `json:"sequence"`
		}
		if err := json.Unmarshal(entry.Value(), &position); err != nil {
			w.b.Fatal(err)
		}
		for _, subject := range c.Filters {
			last, err := stream.GetLastMsgForSubject(w.b.Context(), subject)
			if err == nil && last.Sequence > position.Sequence {
				return true
			}
		}
	}
	return false
}

// hear notes gates as they are opened and decided.
func (w *stepped) hear(m bus.Message) error {
	at := time.Now()
	var event gatev1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range event.GetFacts() {
		if f.GetGateOpened() != nil {
			w.opened++
		}
		if d := f.GetGateDecided(); d != nil {
			cluster := fleet.ClusterID(d.GetCluster())
			asked, waits := w.asked[cluster]
			if !waits {
				w.wrong = append(w.wrong, fmt.Sprintf("%s: %s", cluster, d.GetDecision().GetSummary()))
				continue
			}
			delete(w.asked, cluster)
			w.decided[d.GetDecision().GetVerdict()] = append(w.decided[d.GetDecision().GetVerdict()], at.Sub(asked))
		}
	}
	return nil
}

// see tells that the clusters that nobody stepped have had no more sessions.
func (w *stepped) see(until time.Time) {
	w.b.Helper()
	var seen []codec.Observation
	for i := range untouched {
		seen = append(seen, told(i, until))
	}
	if _, err := w.events.PublishBatch(w.b.Context(), w.messages("hub", fleet.KindSession, seen)); err != nil {
		w.b.Fatal(err)
	}
}

// decide has gates decide one after another, 40 a second: each by one message, with
// all the sessions that it takes and the mark that makes them known. Every other step
// is bad. It reports how long they took from the acknowledgement of that message.
func (w *stepped) decide(what string, first, n int) {
	w.b.Helper()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for i := first; i < first+n; i++ {
		<-tick.C
		status, trials := fleet.SessionConnected, 90
		if i%2 == 0 {
			status, trials = fleet.SessionFailed, 12
		}
		var seen []codec.Observation
		for k := range trials {
			seen = append(seen, w.session(i, fmt.Sprint("after-", k), w.applied.Add(time.Duration(k)*time.Second), status))
		}
		message := w.messages("agent", fleet.KindSession, append(seen, told(i, w.applied.Add(2*time.Minute))))[0]
		if _, err := w.events.Publish(w.b.Context(), message); err != nil {
			w.b.Fatal(err)
		}
		w.mu.Lock()
		w.asked[hubCluster(i)] = time.Now()
		w.mu.Unlock()
	}
	w.until("the last decision", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.asked) == 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	report(w.b, what+"-stop", w.decided["fail"])
	report(w.b, what+"-pass", w.decided["pass"])
	w.decided = make(map[string][]time.Duration)
}

// stream has sessions arrive at a rate in all clusters whose gates stay open and in
// those that nobody stepped, each second's with a fifth of the marks, until it is
// stopped. The function that stops it reports the rate, and how long the evaluator was
// behind at the end.
func (w *stepped) stream(what string, rate int) (stop func()) {
	w.b.Helper()
	ctx, cancel := context.WithCancel(w.b.Context())
	ended, began, sent := make(chan error, 1), time.Now(), 0
	others := make([]int, 0, fleetClusters)
	for i := range fleetClusters {
		if i < untouched || i >= untouched+judged {
			others = append(others, i)
		}
	}
	go func() {
		const every = 200 * time.Millisecond
		tick := time.NewTicker(every)
		defer tick.Stop()
		for k, turn := 0, 0; ; turn++ {
			var seen []codec.Observation
			now := time.Now()
			for range rate * int(every/time.Millisecond) / 1000 {
				seen = append(seen, w.session(others[k%len(others)], fmt.Sprint(what, k), now, fleet.SessionConnected))
				k++
			}
			for i := turn % 25; i < len(others); i += 25 {
				seen = append(seen, told(others[i], now))
			}
			if _, err := w.events.PublishBatch(ctx, w.messages("hub", fleet.KindSession, seen)); err != nil {
				if ctx.Err() != nil {
					err = nil
				}
				ended <- err
				return
			}
			sent = k
			select {
			case <-tick.C:
			case <-ctx.Done():
				ended <- nil
				return
			}
		}
	}()
	return func() {
		took := time.Since(began)
		cancel()
		if err := <-ended; err != nil {
			w.b.Error(err)
		}
		w.b.ReportMetric(float64(sent)/took.Seconds(), what+"-sessions/s")
		stopped := time.Now()
		w.until("what is left", func() bool { return !w.behind() })
		w.b.ReportMetric(time.Since(stopped).Seconds(), what+"-behind-s")
	}
}

// BenchmarkGates has a gate open in 1,100 clusters of a fleet of 5,000, of which 900
// decide: a third while nothing else arrives, a third beside 5,000 sessions a
// second of the others, and a third beside 20,000.
func BenchmarkGates(b *testing.B) {
	for b.Loop() {
		w := step(b)
		const third = judged / 3
		w.see(w.applied.Add(3 * time.Minute))
		w.decide("quiet", untouched, third)
		for i, rate := range []int{5000, 20_000} {
			what := fmt.Sprintf("at-%d", rate)
			stop := w.stream(what, rate)
			<-time.After(5 * time.Second)
			w.decide(what, untouched+(i+1)*third, third)
			<-time.After(5 * time.Second)
			stop()
		}
		if len(w.wrong) > 0 {
			b.Errorf("%d gates decided that should be open: %s", len(w.wrong), w.wrong[0])
		}
	}
	b.ReportMetric(0, "ns/op")
}
