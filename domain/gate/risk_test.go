package gate

import (
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestRisks(t *testing.T) {
	t.Parallel()
	risk := func(id catalog.RiskID, c catalog.Condition) catalog.Assessment {
		return catalog.Assessment{Risk: id, Condition: c, Detail: "it is so", Remedy: "mend it"}
	}
	taken := func(a catalog.Assessment) catalog.Assessment {
		a.Acknowledged = &catalog.Acknowledgement{Risk: a.Risk, Owner: "ann"}
		return a
	}
	const ssh, metrics = catalog.RiskLegacySSH, catalog.RiskMetrics
	const match, noMatch, unknown = catalog.ConditionMatch, catalog.ConditionNoMatch, catalog.ConditionUnknown
	fresh := map[fleet.Failure]Arms{fleet.FailureLegacySSH: {New: 2}}
	known := map[fleet.Failure]Arms{fleet.FailureLegacySSH: {Baseline: 1, New: 9}}
	for _, tt := range []struct {
		name     string
		assessed []catalog.Assessment
		failed   map[fleet.Failure]Arms
		verdict  Verdict
		codes    string
		figures  map[string]int64
	}{
		{"nobody judged", nil, fresh, Inconclusive, "no_data", map[string]int64{}},
		{"none is met", []catalog.Assessment{risk(ssh, noMatch), risk(metrics, noMatch)}, nil, Pass, "no_risk", map[string]int64{"assessed": 2}},
		{"one is met", []catalog.Assessment{risk(ssh, noMatch), risk(metrics, match)}, nil, Hold, "risk_met", map[string]int64{"assessed": 2, "met": 1}},
		{"one is not known", []catalog.Assessment{risk(metrics, unknown)}, nil, Hold, "risk_unknown", map[string]int64{"assessed": 1, "unknown": 1}},
		{"a condition of a later version is not known", []catalog.Assessment{risk(metrics, "perhaps")}, nil, Hold, "risk_unknown", map[string]int64{"assessed": 1, "unknown": 1}},
		{"acknowledged", []catalog.Assessment{taken(risk(metrics, unknown)), taken(risk(ssh, match))}, fresh,
			Pass, "no_risk risk_acknowledged risk_acknowledged", map[string]int64{"assessed": 2, "met": 1, "unknown": 1, "acknowledged": 2, "seen": 1}},
		{"met, and sessions show it", []catalog.Assessment{risk(ssh, match)}, fresh, Fail, "risk_seen", map[string]int64{"assessed": 1, "met": 1, "seen": 1}},
		{"not known until sessions show it", []catalog.Assessment{risk(ssh, unknown)}, fresh, Fail, "risk_seen", map[string]int64{"assessed": 1, "unknown": 1, "seen": 1}},
		{"not met, but sessions say otherwise", []catalog.Assessment{risk(ssh, noMatch)}, fresh, Hold, "risk_seen", map[string]int64{"assessed": 1, "seen": 1}},
		{"sessions failed so before", []catalog.Assessment{risk(ssh, match)}, known, Hold, "risk_met", map[string]int64{"assessed": 1, "met": 1}},
		{"failures of no class show nothing", []catalog.Assessment{risk(metrics, match)}, map[fleet.Failure]Arms{"": {New: 3}, fleet.FailureTooManyOpen: {New: 3}},
			Hold, "risk_met", map[string]int64{"assessed": 1, "met": 1}},
		{"the issuer's users", []catalog.Assessment{risk(catalog.RiskIssuerUsers, match)}, map[fleet.Failure]Arms{fleet.FailureIssuerUsers: {New: 1}},
			Fail, "risk_seen", map[string]int64{"assessed": 1, "met": 1, "seen": 1}},
		{"the worst comes first", []catalog.Assessment{risk(catalog.RiskIssuerUsers, unknown), risk(ssh, match)}, fresh,
			Fail, "risk_seen risk_unknown", map[string]int64{"assessed": 2, "met": 1, "unknown": 1, "seen": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := RiskFacts{Assessed: tt.assessed, Failed: tt.failed, At: noon}.Judge()
			wantResult(t, got, tt.verdict, tt.codes, tt.figures)
			if !got.At.Equal(noon) {
				t.Errorf("seen at %s", got.At)
			}
		})
	}
}

// A hold tells its reader what to do.
func TestRiskSaysItsRemedy(t *testing.T) {
	t.Parallel()
	got := RiskFacts{Assessed: []catalog.Assessment{{Risk: "r", Condition: catalog.ConditionMatch, Detail: "it is so", Remedy: "mend it"}}}.Judge()
	if want := "r: it is so. To go on, mend it, or acknowledge it."; !strings.Contains(got.Text, want) {
		t.Errorf("it says %q, want %q", got.Text, want)
	}
}
