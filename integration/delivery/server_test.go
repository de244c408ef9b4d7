//go:build integration

package delivery_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// server is a whole server on the bus of the installation, with an engine of its
// own.
type server struct {
	*program
	configuration
}

// serve starts one that knows some clusters and returns when it is ready. It sees no
// sessions itself.
func (in *installation) serve(clusters ...string) *server {
	in.t.Helper()
	c := in.write(configuration{ID: "server", Clusters: clusters})
	s := &server{launch(in.t, c.Dir, "lockstep", "server", "--config", filepath.Join(c.Dir, "fleet.yaml")), c}
	s.ready()
	return s
}

func (s *server) ready() {
	s.t.Helper()
	await(s.t, "the server", func() string {
		if status, body := get(s.t, "http://"+s.Listen+"/readyz"); status != http.StatusOK {
			return fmt.Sprintf("it is not ready: %d %s", status, body)
		}
		return ""
	})
}

// ask runs a command of the product and decodes what it prints.
func (s *server) ask(into any, args ...string) {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(programs, "lockstep"), append(args, "-o", "json", "--config", filepath.Join(s.Dir, "fleet.yaml"))...)
	var talk strings.Builder
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("lockstep %s: %v\n%s", strings.Join(args, " "), err, talk.String())
	}
	if err := json.Unmarshal(out, into); err != nil {
		s.t.Fatalf("lockstep %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// verdict is what a gate says as things stand.
type verdict struct {
	ID, Cluster string
	Decision    struct {
		Verdict string
		Reasons []struct{ Code, Text string }
	}
}

func (v verdict) String() string {
	return fmt.Sprintf("%s: %s %v", v.ID, v.Decision.Verdict, v.Decision.Reasons)
}

// gates returns all by cluster.
func (s *server) gates() map[string]verdict {
	s.t.Helper()
	var list []verdict
	s.ask(&list, "gate", "list")
	out := make(map[string]verdict)
	for _, v := range list {
		out[v.Cluster] = v
	}
	return out
}

// apply records a rollout of a cluster whose first step was just applied, as the
// executor would, so that its gate opens; it compares the sessions from then on.
func (in *installation) apply(cluster string, from time.Time) {
	in.t.Helper()
	policy := gate.DefaultPolicy()
	id, of := rollout.ID("r-"+cluster), fleet.ClusterID(cluster)
	step := rollout.StepPlan{Name: "gateway", Line: fleet.LineGateway, FromVersion: "1", ToVersion: "2", Components: []fleet.Component{fleet.Gateway}}
	event := &rolloutv1.Event{Rollout: string(id)}
	for _, f := range []rollout.Fact{
		{Kind: rollout.RolloutStarted{Plan: rollout.Plan{
			Release: "2", Gate: policy, Window: 24 * time.Hour, Lookback: 10 * time.Minute,
			Clusters: []rollout.ClusterPlan{{Cluster: of, Steps: []rollout.StepPlan{step}}},
		}}},
		{Cluster: of, Kind: rollout.ClusterStarted{WindowEnds: from.Add(24 * time.Hour)}},
		{Cluster: of, Kind: rollout.PackageCaptured{Package: "p0"}},
		{Cluster: of, Kind: rollout.StepStarted{Step: step.Name}},
		{Cluster: of, Kind: rollout.StepApplied{Step: step.Name, Gate: rollout.GateID(id, of, step.Name), Package: "p1", Policy: policy, Boundary: gate.Boundary{
			BaselineFrom: from.Add(-10 * time.Minute), Start: from, End: from.Add(time.Millisecond),
		}}},
	} {
		f.At = from
		event.Facts = append(event.Facts, codec.RolloutFactToProto(f))
	}
	data, err := proto.Marshal(event)
	if err != nil {
		in.t.Fatal(err)
	}
	if _, err := in.events.Publish(in.t.Context(), bus.Message{
		Subject: topology.EventSubject(fleet.DefaultTenant, topology.NounRollout, string(id)), Type: string(event.ProtoReflect().Descriptor().FullName()), Data: data,
	}); err != nil {
		in.t.Fatal(err)
	}
}

// observed is how many observations the evaluator took in, by kind.
const observed = "lockstep_evaluator_observations_total"

// inconclusive waits until a cluster's gate says that nothing can be concluded,
// because it cannot see.
func (s *server) inconclusive(cluster string) {
	s.t.Helper()
	await(s.t, "an inconclusive gate of "+cluster, func() string {
		v := s.gates()[cluster]
		if len(v.Decision.Reasons) > 0 && v.Decision.Verdict == string(gate.Inconclusive) && v.Decision.Reasons[0].Code == string(gate.Blind) {
			return ""
		}
		return v.String()
	})
}
