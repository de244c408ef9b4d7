package gate

import (
	"cmp"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Codes of the risks check, besides NoData.
const (
	NoRisk           Code = "no_risk"           // every risk is known not to be met, or acknowledged
	RiskMet          Code = "risk_met"          // a risk is met
	RiskUnknown      Code = "risk_unknown"      // whether a risk is met is not known, which closes the way
	RiskSeen         Code = "risk_seen"         // sessions fail in the way that a risk foretells
	RiskAcknowledged Code = "risk_acknowledged" // a person took the risk by its name
)

// RiskFacts are what the risks check looks at.
type RiskFacts struct {
	// Assessed are the named risks as judged for this move; empty when nobody judged
	// them.
	Assessed []catalog.Assessment
	// Failed counts people's sessions that failed, by class, before and after the step.
	Failed map[fleet.Failure]Arms
	// At is when what the assessments rest on was seen last.
	At time.Time
}

// Judge passes when no risk is met. One that is met or not known holds, unless it
// was acknowledged by name. It fails when new sessions fail in the very way that it
// foretells and none did before; where some did before, whether they are more is
// what the sessions themselves are judged by.
func (f RiskFacts) Judge() Result {
	var found findings
	figures := noFigures(CheckRisks)
	figures["assessed"] = int64(len(f.Assessed))
	if len(f.Assessed) == 0 {
		found.add(Inconclusive, NoData, "Nobody has judged the named risks of this move.")
	}
	risks := slices.Clone(f.Assessed)
	slices.SortStableFunc(risks, func(a, b catalog.Assessment) int { return cmp.Compare(a.Risk, b.Risk) })
	for _, risk := range risks {
		class, shows := signature(risk.Risk)
		failed := f.Failed[class]
		seen := shows && failed.New > 0 && failed.Baseline == 0
		met, unknown := risk.Condition == catalog.ConditionMatch, risk.Condition != catalog.ConditionMatch && risk.Condition != catalog.ConditionNoMatch
		switch {
		case met:
			figures["met"]++
		case unknown:
			figures["unknown"]++
		}
		if seen {
			figures["seen"]++
		}
		switch closed := met || unknown; {
		case risk.Acknowledged != nil && (closed || seen):
			figures["acknowledged"]++
			found.add(Pass, RiskAcknowledged, "%s is acknowledged by %s: %s.", risk.Risk, risk.Acknowledged.Owner, risk.Detail)
		case seen && closed:
			found.add(Fail, RiskSeen, "%s: %s since the step failed in its way and none before it; %s.", risk.Risk, several(int64(failed.New), "session"), risk.Detail)
		case seen:
			found.add(Hold, RiskSeen, "%s: %s since the step failed in its way and none before it, though %s.", risk.Risk, several(int64(failed.New), "session"), risk.Detail)
		case met:
			found.add(Hold, RiskMet, "%s: %s. To go on, %s, or acknowledge it.", risk.Risk, risk.Detail, risk.Remedy)
		case unknown:
			found.add(Hold, RiskUnknown, "%s: %s. To go on, make it known or acknowledge it.", risk.Risk, risk.Detail)
		}
	}
	return found.result(CheckRisks, f.At, figures, Reason{NoRisk, "No named risk keeps this move from going on, of " + several(figures["assessed"], "risk") + " that were judged."})
}

// signature is how sessions fail that meet a risk; false for one that no session
// shows for certain, such as too many connections at once, which pass by themselves.
func signature(risk catalog.RiskID) (class fleet.Failure, shows bool) {
	switch risk {
	case catalog.RiskLegacySSH:
		return fleet.FailureLegacySSH, true
	case catalog.RiskIssuerUsers:
		return fleet.FailureIssuerUsers, true
	}
	return "", false
}
