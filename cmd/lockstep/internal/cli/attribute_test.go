package cli_test

import (
	"context"
	"encoding/json"
	"math"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

func attribution() *gatev1.Attribution {
	return &gatev1.Attribution{
		Gate: "g1", Clusters: []string{"berlin"}, BaselineFrom: at(28 * 24 * time.Hour), Start: at(40 * time.Minute), End: at(20 * time.Minute), Until: at(17 * time.Minute),
		Baseline: &gatev1.Tally{Failed: 30, Succeeded: 1470}, New: &gatev1.Tally{Failed: 54, Succeeded: 246},
		Odds: &gatev1.Odds{Ratio: 10.8, Low: 5, High: 23}, Excess: 48, Shown: true, Compared: 9, Tolerance: 1.25,
		Summary: "New sessions fail more than before: 54 of 300 failed after the step (18 %), 30 of 1500 failed before (2 %); about 48 more than expected. Nearly all of it sits in protocol rdp.",
		Findings: []*gatev1.AttributionFinding{
			{
				Factor: "protocol", Value: "rdp", New: &gatev1.Tally{Failed: 50, Succeeded: 50}, Baseline: &gatev1.Tally{Failed: 10, Succeeded: 490}, Odds: &gatev1.Odds{Ratio: 48.5, Low: 15.2, High: 170},
				LogE: 40, Named: true, Share: 1, Text: "100 % of the excess sits in protocol rdp: 50 of 100 failed after the step, 10 of 500 before.",
			},
			{
				Factor: "failure", Value: "timeout\x1b[2J", New: &gatev1.Tally{Failed: 30, Succeeded: 270}, Baseline: &gatev1.Tally{Succeeded: 1500},
				Odds: &gatev1.Odds{Ratio: math.Inf(1), High: math.Inf(1)}, LogE: 2, Share: 0.6, Text: "Most of the excess, 60 %, is in failures of class timeout.",
			},
		},
	}
}

// GetAttribution has an excess for every gate but g2 and for no cluster.
func (f *fake) GetAttribution(_ context.Context, r *gatev1.GetAttributionRequest) (*gatev1.GetAttributionResponse, error) {
	a := attribution()
	switch r.GetGate() {
	case "g9":
		return nil, catalogued(connect.CodeNotFound, "there is no gate g9", "LS-GAT-001")
	case "", "g2":
		a.Gate, a.Clusters, a.Findings, a.Shown, a.Summary = r.GetGate(), []string{"berlin", "rome"}, nil, false, "No excess is shown."
	}
	return &gatev1.GetAttributionResponse{Attribution: a}, f.ask(r)
}

func TestGateAttribute(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{})
	got := f.run(t, "gate", "attribute", "gate/g1")
	got.wants(t, 0, "")
	golden(t, "gate-attribute.txt", got.out)
	askedFor(t, f, &gatev1.GetAttributionRequest{Gate: "g1"})
	for name, args := range map[string][]string{"gate-attribute.yaml": {"g1", "-o", "yaml"}, "gate-attribute-none.txt": {"--cluster", "berlin,rome", "--step-at", "1h"}} {
		got := f.run(t, append([]string{"gate", "attribute"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	var doc struct {
		Findings []struct {
			Odds struct{ Ratio any }
			New  struct{ Failed string }
		}
	}
	if got := f.run(t, "gate", "attribute", "g1", "-o", "json"); json.Unmarshal([]byte(got.out), &doc) != nil || len(doc.Findings) != 2 ||
		doc.Findings[0].New.Failed != "50" || doc.Findings[1].Odds.Ratio != "Infinity" {
		t.Errorf("%+v in %s", doc, got.out)
	}
	f.run(t, "gate", "attribute", "g9").wants(t, 1, "lockstep: attribute failures: there is no gate g9 (LS-GAT-001)")
}

func TestGateAttributeByTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want *gatev1.GetAttributionRequest
	}{
		{[]string{"--cluster", "cluster/berlin", "--step-at", "6h"}, &gatev1.GetAttributionRequest{Clusters: []string{"berlin"}, Start: at(6 * time.Hour)}},
		{
			[]string{"--cluster", "rome", "--cluster", "berlin", "--step-at", "2026-03-01 10:00", "--since", "2026-03-01 10:30", "--until", "30m", "--baseline", "7d"},
			&gatev1.GetAttributionRequest{
				Clusters: []string{"rome", "berlin"}, BaselineFrom: at(7*24*time.Hour + 2*time.Hour), Start: at(2 * time.Hour), End: at(90 * time.Minute), Until: at(30 * time.Minute),
			},
		},
	} {
		f := serve(t, &fake{})
		f.run(t, append([]string{"gate", "attribute"}, c.args...)...).wants(t, 0, "")
		askedFor(t, f, c.want)
	}
	for want, args := range map[string][]string{
		"give a GATE, or --cluster with --step-at":           {},
		"`lockstep gate list` shows the gates":               {"--cluster", "berlin"},
		"give GATE alone, or --cluster":                      {"g1", "--since", "1h"},
		"a gate knows its cluster and times":                 {"g1", "--cluster", "berlin"},
		"takes one GATE or none, got 2 arguments":            {"g1", "g2"},
		`"Berlin" is not the id of a cluster`:                {"--cluster", "Berlin", "--step-at", "1h"},
		`--step-at "noon" is neither a length`:               {"--cluster", "berlin", "--step-at", "noon"},
		`--since "later" is neither a length`:                {"--cluster", "berlin", "--step-at", "1h", "--since", "later"},
		`--until "later" is neither a length`:                {"--cluster", "berlin", "--step-at", "1h", "--until", "later"},
		`--baseline "2026-01-01" is not a length of time; w`: {"--cluster", "berlin", "--step-at", "1h", "--baseline", "2026-01-01"},
	} {
		runWith(t, t.Context(), "", append([]string{"gate", "attribute"}, args...)...).wants(t, 2, want)
	}
}
