//go:build linux && amd64

package evaluator_test

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1/observationv1connect"
)

// serve puts the API of a life on a socket. A value comes out of ended whenever
// the server is done with a call.
func (l *life) serve() (client *connect.Client, ended <-chan struct{}) {
	l.w.t.Helper()
	api := connect.NewServer()
	fleetv1connect.RegisterFleetServiceHandler(api, l.fleet)
	gatev1connect.RegisterGateServiceHandler(api, l.gates)
	observationv1connect.RegisterObservationServiceHandler(api, l.observations)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, api)
	done := make(chan struct{}, 10)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { done <- struct{}{} }()
		mux.ServeHTTP(w, r)
	}))
	l.w.t.Cleanup(web.Close)
	return connect.NewClient(connecthttp.NewTransport(web.Client(), web.URL)), done
}

func awaitEnd(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the server is still at work for a caller who has gone")
	}
}

func TestWatchGateShowsEvidenceUntilTheDecision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris")
	l := w.start()
	s := w.source("paris")
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	client, ended := l.serve()
	gates := gatev1connect.NewGateServiceClient(client)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := gates.WatchGate(ctx, &gatev1.WatchGateRequest{Id: gateID})
	if err != nil {
		t.Fatal(err)
	}
	var last *gatev1.Gate
	next := func() bool {
		t.Helper()
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if last != nil && proto.Equal(last, m.GetGate()) {
			t.Errorf("the same was sent twice: %v", last)
		}
		last = m.GetGate()
		return true
	}
	if !next() || last.GetId() != gateID || last.GetDecision().GetDecidedAt() != nil {
		t.Fatalf("the watch began with %v", last)
	}
	s.send(append(w.sessions("paris", "few", 10*time.Second, 3, 0), w.mark("paris", 30*time.Second))...)
	for last.GetDecision().GetEvidence().GetNewSucceeded() == 0 {
		if !next() {
			t.Fatalf("the watch ended with %v", last)
		}
	}
	same(t, "verdict on three sessions", "pending", last.GetDecision().GetVerdict())
	s.send(append(w.sessions("paris", "more", 30*time.Second, 20, 0), w.mark("paris", 90*time.Second))...)
	for next() {
	}
	same(t, "verdict", "pass", last.GetDecision().GetVerdict())
	if !proto.Equal(last, l.gate(gateID)) {
		t.Errorf("the watch ended with\n%v\nand the gate is\n%v", last, l.gate(gateID))
	}
	awaitEnd(t, ended)

	// What is decided is told once.
	stream, err = gates.WatchGate(ctx, &gatev1.WatchGateRequest{Id: gateID})
	if err != nil {
		t.Fatal(err)
	}
	last = nil
	if !next() || last.GetDecision().GetVerdict() != "pass" || next() {
		t.Errorf("a watch of a decided gate showed %v", last)
	}
}

func TestWatchClustersFollowsARollout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	l := w.start()
	paris, rome := w.source("paris"), w.source("rome")
	paris.send(w.inventory("paris", "1", "1"))
	rome.send(w.inventory("rome", "1", "1"))
	w.awaitStates("paris", "locked")
	w.awaitStates("rome", "locked")
	client, ended := l.serve()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := fleetv1connect.NewFleetServiceClient(client).WatchClusters(ctx, &fleetv1.WatchClustersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() []*fleetv1.Cluster {
		t.Helper()
		m, err := stream.Receive()
		if err != nil {
			t.Fatal(err)
		}
		return m.GetClusters()
	}
	all := next()
	if len(all) != 2 || all[0].GetId() != "paris" || all[0].GetState() != "locked" || len(all[0].GetInstances()) != 2 || all[1].GetId() != "rome" {
		t.Fatalf("the watch began with %v", all)
	}
	id, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	w.advance(time.Second)
	rome.send(w.inventory("rome", "1", "1"))
	paris.send(w.inventory("paris", "2", "1"))
	for seen := all[0]; seen.GetState() != "stepping" || !seen.GetSince().AsTime().Equal(w.now()); {
		some := next()
		if len(some) != 1 || some[0].GetId() != "paris" {
			t.Fatalf("the watch showed %v, and only paris is different", some)
		}
		seen = some[0]
		same(t, "the rollout", string(id), seen.GetRollout())
	}
	cancel()
	awaitEnd(t, ended)
}

func TestWatchObservations(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	l := w.start()
	paris, rome := w.source("paris"), w.source("rome")
	blind := codec.Observation{Mark: &fleet.Mark{Cluster: "paris", About: fleet.KindSession, Blind: true, BlindReason: "no sight"}}
	paris.send(w.session("paris", "a", time.Second, fleet.SessionConnected), w.session("paris", "b", time.Second, fleet.SessionFailed), w.mark("paris", time.Minute), blind)
	rome.send(w.session("rome", "c", time.Second, fleet.SessionVanished))
	w.put("junk", 1, &fleetv1.ListClustersRequest{PageSize: 7}) // no batch: passed over
	client, ended := l.serve()
	api := observationv1connect.NewObservationServiceClient(client)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ever := timestamppb.New(time.Unix(0, 0))
	name := func(r *observationv1.Record) string {
		o := r.GetObservation()
		return o.GetCluster() + "/" + cmp.Or(o.GetSession().GetId(), o.GetMark().GetBlindReason(), "mark")
	}
	for what, c := range map[string]struct {
		req  *observationv1.WatchObservationsRequest
		want []string
	}{
		"everything":       {&observationv1.WatchObservationsRequest{Since: ever}, []string{"paris/a", "paris/b", "paris/no sight", "rome/c"}},
		"with marks":       {&observationv1.WatchObservationsRequest{Since: ever, Marks: true}, []string{"paris/a", "paris/b", "paris/mark", "paris/no sight", "rome/c"}},
		"failures":         {&observationv1.WatchObservationsRequest{Since: ever, Failures: true}, []string{"paris/b", "paris/no sight", "rome/c"}},
		"one cluster":      {&observationv1.WatchObservationsRequest{Since: ever, Clusters: []string{"rome"}}, []string{"rome/c"}},
		"one source":       {&observationv1.WatchObservationsRequest{Since: ever, Sources: []string{rome.batch().GetSource()}}, []string{"rome/c"}},
		"another kind":     {&observationv1.WatchObservationsRequest{Since: ever, Kinds: []string{"inventory"}}, nil},
		"since it is over": {&observationv1.WatchObservationsRequest{Since: timestamppb.New(time.Now().Add(time.Hour))}, nil},
		"nothing is new":   {&observationv1.WatchObservationsRequest{}, nil},
	} {
		stream, err := api.WatchObservations(ctx, c.req)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var got []string
		for {
			m, err := stream.Receive()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for _, r := range m.GetRecords() {
				got = append(got, name(r))
				if r.GetReceivedAt() == nil || r.GetSentAt() == nil || r.GetSource() == "" || r.GetStreamSequence() == 0 {
					t.Errorf("%s: a record without its place: %v", what, r)
				}
			}
		}
		same(t, what, c.want, got)
		awaitEnd(t, ended)
	}

	// Who follows sees what comes, and nothing of before.
	following, stop := context.WithCancel(ctx)
	stream, err := api.WatchObservations(following, &observationv1.WatchObservationsRequest{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 100)
	go func() {
		defer close(seen)
		for {
			m, err := stream.Receive()
			if err != nil {
				return
			}
			for _, r := range m.GetRecords() {
				seen <- name(r)
			}
		}
	}()
	// The first may be sent before the reader stands; one of them is seen.
	var first string
	await(t, "a new session", func() bool {
		rome.send(w.session("rome", "new", time.Second, fleet.SessionConnected))
		select {
		case first = <-seen:
			return true
		default:
			return false
		}
	})
	same(t, "what came", "rome/new", first)
	stop()
	awaitEnd(t, ended)
	for range seen { //nolint:revive // until the reader has gone
	}
}
