package catalog

import (
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// BlockRelease decides to block a release: a chart release of the state or a set
// of images of the configuration. The same once more changes nothing; any other
// block of the release is replaced.
func BlockRelease(s State, configured []Release, b Block, by string, now time.Time) ([]Fact, error) {
	var problems Problems
	problems.release(s, configured, b.Release)
	b.Owner, b.Reason = problems.words(b.Owner, b.Reason, b.Expires, now)
	if len(problems) > 0 {
		return nil, problems
	}
	if old, blocked := s.Blocks[b.Release]; blocked && old.Owner == b.Owner && old.Reason == b.Reason && old.Expires.Equal(b.Expires) {
		return nil, nil
	}
	b.At = now
	return []Fact{{At: now, By: by, Kind: ReleaseBlocked{Block: b}}}, nil
}

// UnblockRelease decides to take a block back. One that ended by itself is none.
func UnblockRelease(s State, release fleet.ReleaseID, reason, by string, now time.Time) ([]Fact, error) {
	var problems Problems
	if block, blocked := s.Blocks[release]; !blocked || !block.InForce(now) {
		problems.add(ProblemNotBlocked, "release %q is not blocked", release)
	}
	reason = problems.reason(reason)
	if len(problems) > 0 {
		return nil, problems
	}
	return []Fact{{At: now, By: by, Kind: ReleaseUnblocked{Release: release, Reason: reason}}}, nil
}

// AcknowledgeRisk decides to acknowledge a risk, for one release or any, in one
// cluster or any. The same once more changes nothing; any other about the same
// release and cluster is replaced.
func AcknowledgeRisk(s State, configured []Release, a Acknowledgement, by string, now time.Time) ([]Fact, error) {
	var problems Problems
	problems.risk(a.Risk)
	if a.Release != "" {
		problems.release(s, configured, a.Release)
	}
	a.Owner, a.Reason = problems.words(a.Owner, a.Reason, a.Expires, now)
	if len(problems) > 0 {
		return nil, problems
	}
	if old, found := s.acknowledged(a); found && old.Owner == a.Owner && old.Reason == a.Reason && old.Expires.Equal(a.Expires) {
		return nil, nil
	}
	a.At = now
	return []Fact{{At: now, By: by, Kind: RiskAcknowledged{Acknowledgement: a}}}, nil
}

// RevokeAcknowledgement decides to take the acknowledgement back that is about
// exactly this risk, release and cluster. One that ended by itself is none.
func RevokeAcknowledgement(s State, risk RiskID, release fleet.ReleaseID, cluster fleet.ClusterID, reason, by string, now time.Time) ([]Fact, error) {
	var problems Problems
	problems.risk(risk)
	if old, found := s.acknowledged(Acknowledgement{Risk: risk, Release: release, Cluster: cluster}); len(problems) == 0 && (!found || !old.InForce(now)) {
		problems.add(ProblemNotAcknowledged, "risk %s is not acknowledged for %s", risk, scope(release, cluster))
	}
	reason = problems.reason(reason)
	if len(problems) > 0 {
		return nil, problems
	}
	return []Fact{{At: now, By: by, Kind: AcknowledgementRevoked{Risk: risk, Release: release, Cluster: cluster, Reason: reason}}}, nil
}

// acknowledged returns the acknowledgement about the same as another.
func (s State) acknowledged(a Acknowledgement) (Acknowledgement, bool) {
	i, found := slices.BinarySearchFunc(s.Acknowledgements, a, compareScopes)
	if !found {
		return Acknowledgement{}, false
	}
	return s.Acknowledgements[i], true
}

// scope says what an acknowledgement is about.
func scope(release fleet.ReleaseID, cluster fleet.ClusterID) string {
	text := "any release"
	if release != "" {
		text = "release " + string(release)
	}
	if cluster != "" {
		return text + " in cluster " + string(cluster)
	}
	return text + " in any cluster"
}
