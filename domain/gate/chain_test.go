package gate_test

import (
	"testing"

	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Nothing of a decision can be changed, and none left out or moved, without the last
// hash of the chain telling so.
func TestAChainTellsOfEveryChange(t *testing.T) {
	t.Parallel()
	one := gate.Link{Gate: "r1-paris-gateway", Verdict: gate.Pass, PolicyHash: "p", EvidenceHash: "e1", Seq: 7}
	two := gate.Link{Gate: "r1-paris-sra", Verdict: gate.Fail, PolicyHash: "p", EvidenceHash: "e2", Seq: 9, DeadlinePassed: true, StageHash: "s2"}
	last := func(links ...gate.Link) (hash string) {
		for _, l := range links {
			hash = l.Hash(hash)
		}
		return hash
	}
	change := func(change func(l *gate.Link)) gate.Link {
		changed := one
		change(&changed)
		return changed
	}
	seen := map[string]string{last(one, two): "as it was"}
	for name, links := range map[string][]gate.Link{
		"left out":     {two},
		"the last one": {one},
		"moved":        {two, one},
		"twice":        {one, one, two},
		"gate":         {change(func(l *gate.Link) { l.Gate = "r1-paris-ztwa" }), two},
		"verdict":      {change(func(l *gate.Link) { l.Verdict = gate.Inconclusive }), two},
		"policy":       {change(func(l *gate.Link) { l.PolicyHash = "q" }), two},
		"evidence":     {change(func(l *gate.Link) { l.EvidenceHash = "e3" }), two},
		"sequence":     {change(func(l *gate.Link) { l.Seq++ }), two},
		"deadline":     {change(func(l *gate.Link) { l.DeadlinePassed = true }), two},
		"stage":        {change(func(l *gate.Link) { l.StageHash = "s1" }), two},
	} {
		hash := last(links...)
		if other, same := seen[hash]; same {
			t.Errorf("%q and %q have one hash", name, other)
		}
		seen[hash] = name
	}
}

// A decision of before there were stages has no stage's hash and keeps its place.
func TestAChainOfBeforeStillHolds(t *testing.T) {
	t.Parallel()
	const recorded = "0105009a2da5133b18a110dca6f4f12d3ff7c3278f9857dc0b2d1743553b4827"
	if got := (gate.Link{Gate: "r1-paris-gateway", Verdict: gate.Pass, PolicyHash: "p", EvidenceHash: "e1", Seq: 7}).Hash(""); got != recorded {
		t.Errorf("the hash is %s, recorded as %s", got, recorded)
	}
}
