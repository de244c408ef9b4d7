//go:build linux && amd64

package evaluator_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

func TestAttribution(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "paris", "rome")
	// What this evaluator sees itself comes after all that the test tells of.
	w.advance(20 * time.Minute)
	l := w.start()
	ran := func(gateway string, from, to time.Duration) codec.Period {
		return codec.Period{Period: drift.Period{
			Cluster: "paris", State: drift.Locked, Began: w.step.Add(from), Ended: w.step.Add(to), Running: map[fleet.Line][]string{fleet.LineGateway: {gateway}, fleet.LineSRA: {"1"}},
		}}
	}
	if err := w.store.InsertPeriods(t.Context(), fleet.DefaultTenant, []codec.Period{ran("1", -time.Hour, 0), ran("2", 0, 15*time.Minute)}); err != nil {
		t.Fatal(err)
	}
	sessions := append(w.sessions("paris", "old", -9*time.Minute, 400, 40), w.sessions("paris", "new", 10*time.Second, 100, 2)...)
	for i, o := range sessions {
		o.Session.InstanceID = []fleet.InstanceID{"web", "ssh"}[i/2%2]
	}
	_, gateID := w.apply("paris")
	w.awaitOpen(gateID)
	open := l.attribution(&gatev1.GetAttributionRequest{Gate: gateID})
	same(t, "the end of an open gate's sessions", w.now(), open.GetUntil().AsTime())
	same(t, "an open gate without sessions", "No session that started after the step has an outcome, so there is nothing to attribute.", open.GetSummary())

	paris := w.source("paris")
	paris.sees(append(sessions, w.mark("paris", 15*time.Minute))...)
	decided := w.awaitDecision(gateID)
	await(t, "the storing of every session", func() bool { return w.store.count(t, "SELECT count() FROM session_events") == len(sessions) })
	w.advance(time.Minute)
	// Sessions after the decision are of what followed it.
	paris.sees(w.sessions("paris", "later", 20*time.Minute+30*time.Second, 10, 1)...)
	await(t, "the storing of what came later", func() bool { return w.store.count(t, "SELECT count() FROM session_events") == len(sessions)+10 })

	m := l.attribution(&gatev1.GetAttributionRequest{Gate: gateID})
	same(t, "the gate's verdict", "fail", decided.GetVerdict())
	same(t, "the end of a decided gate's sessions", decided.GetDecidedAt().AsTime(), m.GetUntil().AsTime())
	same(t, "the counts", "10/390, 50/50, true", counted(m))
	same(t, "the tolerance", policy().Tol, m.GetTolerance())
	if len(m.GetFindings()) != 1 || m.GetFindings()[0].GetFactor() != "move" || m.GetFindings()[0].GetValue() != "gateway" || !m.GetFindings()[0].GetNamed() {
		t.Fatalf("found %v", m.GetFindings())
	}
	f := m.GetFindings()[0]
	if !strings.Contains(f.GetText(), "move of gateway (1 to 2): 50 of 100 failed since, 10 of 400 before") || f.GetOdds().GetRatio() < 30 || f.GetOdds().GetLow() < 5 || f.GetShare() != 1 {
		t.Errorf("the finding is %v", f)
	}

	at := func(after time.Duration) *timestamppb.Timestamp { return timestamppb.New(w.step.Add(after)) }
	ask := &gatev1.GetAttributionRequest{Clusters: []string{"rome", "paris"}, Start: at(0), End: at(10 * time.Second), Until: at(20 * time.Minute)}
	m = l.attribution(ask)
	same(t, "clusters", []string{"paris", "rome"}, m.GetClusters())
	same(t, "the counts by time", "10/390, 50/50, true", counted(m))
	same(t, "the usual baseline", w.step.AddDate(0, 0, -28), m.GetBaselineFrom().AsTime())
	ask.BaselineFrom, ask.End, ask.Until = at(-5*time.Minute), nil, nil
	m = l.attribution(ask)
	same(t, "the counts by other times", "4/156, 60/50, true", counted(m))

	for name, c := range map[string]struct {
		req *gatev1.GetAttributionRequest
		id  string
	}{
		"nothing":           {&gatev1.GetAttributionRequest{}, "LS-GAT-020"},
		"both":              {&gatev1.GetAttributionRequest{Gate: gateID, Clusters: []string{"paris"}, Start: at(0)}, "LS-GAT-020"},
		"a gate and a time": {&gatev1.GetAttributionRequest{Gate: gateID, Until: at(0)}, "LS-GAT-020"},
		"no time":           {&gatev1.GetAttributionRequest{Clusters: []string{"paris"}}, "LS-GAT-020"},
		"no gate":           {&gatev1.GetAttributionRequest{Gate: "r0"}, "LS-GAT-001"},
		"no cluster":        {&gatev1.GetAttributionRequest{Clusters: []string{"paris", "oslo"}, Start: at(0)}, "LS-FLT-001"},
		"the future":        {&gatev1.GetAttributionRequest{Clusters: []string{"paris"}, Start: at(time.Hour)}, "LS-GAT-021"},
		"no baseline":       {&gatev1.GetAttributionRequest{Clusters: []string{"paris"}, Start: at(0), BaselineFrom: at(0)}, "LS-GAT-021"},
		"an early end":      {&gatev1.GetAttributionRequest{Clusters: []string{"paris"}, Start: at(0), End: at(-time.Second)}, "LS-GAT-021"},
		"nothing after it":  {&gatev1.GetAttributionRequest{Clusters: []string{"paris"}, Start: at(0), End: at(time.Second), Until: at(time.Second)}, "LS-GAT-021"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.gates.GetAttribution(t.Context(), c.req)
			refused(t, err, c.id)
		})
	}
}

func (l *life) attribution(req *gatev1.GetAttributionRequest) *gatev1.Attribution {
	l.w.t.Helper()
	resp, err := l.gates.GetAttribution(l.w.t.Context(), req)
	if err != nil {
		l.w.t.Fatal(err)
	}
	return resp.GetAttribution()
}

// counted is what failed and worked, before and after, and whether an excess is
// shown.
func counted(m *gatev1.Attribution) string {
	before, after := m.GetBaseline(), m.GetNew()
	return fmt.Sprintf("%d/%d, %d/%d, %t", before.GetFailed(), before.GetSucceeded(), after.GetFailed(), after.GetSucceeded(), m.GetShown())
}
