package catalog

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Fact is one thing that became known or was decided, at an instant.
type Fact struct {
	At time.Time
	// By is who brought it: a person or a source of releases.
	By   string
	Kind FactKind
}

// FactKind is what a fact says; the types below are all there are.
type FactKind interface{ fact() }

type (
	// ReleasesImported: these releases are known now, each with all that is known
	// of it.
	ReleasesImported struct {
		Source   string
		Releases []Release
	}
	// ReleaseBlocked: a person said no to a release.
	ReleaseBlocked struct{ Block Block }
	// ReleaseUnblocked: a person took the no back.
	ReleaseUnblocked struct {
		Release fleet.ReleaseID
		Reason  string
	}
	// RiskAcknowledged: a person said yes to a named risk.
	RiskAcknowledged struct{ Acknowledgement Acknowledgement }
	// AcknowledgementRevoked: a person took the yes back.
	AcknowledgementRevoked struct {
		Risk    RiskID
		Release fleet.ReleaseID
		Cluster fleet.ClusterID
		Reason  string
	}
)

func (ReleasesImported) fact()       {}
func (ReleaseBlocked) fact()         {}
func (ReleaseUnblocked) fact()       {}
func (RiskAcknowledged) fact()       {}
func (AcknowledgementRevoked) fact() {}

// FactKinds lists the zero value of every kind of fact, in the order of their
// declaration, for whoever must know them all.
func FactKinds() []FactKind {
	return []FactKind{ReleasesImported{}, ReleaseBlocked{}, ReleaseUnblocked{}, RiskAcknowledged{}, AcknowledgementRevoked{}}
}

// State is the catalogue as its facts so far say. The zero State knows nothing.
// Whoever holds one must not change it.
type State struct {
	Releases map[fleet.ReleaseID]Release
	// Blocks holds those too that ended by themselves; see Block.InForce.
	Blocks map[fleet.ReleaseID]Block
	// Acknowledgements are ordered by risk, release and cluster, one for each; those
	// that ended by themselves are among them.
	Acknowledgements []Acknowledgement
}

// Apply returns the state after one more fact. It is the only place where a state
// changes; the same fact once more changes nothing, nor does one of an unknown
// kind.
func (s State) Apply(f Fact) State {
	switch k := f.Kind.(type) {
	case ReleasesImported:
		releases := make(map[fleet.ReleaseID]Release, len(s.Releases)+len(k.Releases))
		maps.Copy(releases, s.Releases)
		for _, r := range k.Releases {
			releases[r.ID] = r
		}
		s.Releases = releases
	case ReleaseBlocked:
		blocks := make(map[fleet.ReleaseID]Block, len(s.Blocks)+1)
		maps.Copy(blocks, s.Blocks)
		blocks[k.Block.Release] = k.Block
		s.Blocks = blocks
	case ReleaseUnblocked:
		s.Blocks = maps.Clone(s.Blocks)
		delete(s.Blocks, k.Release)
	case RiskAcknowledged:
		s.Acknowledgements = slices.Clone(s.Acknowledgements)
		i, found := slices.BinarySearchFunc(s.Acknowledgements, k.Acknowledgement, compareScopes)
		if found {
			s.Acknowledgements[i] = k.Acknowledgement
		} else {
			s.Acknowledgements = slices.Insert(s.Acknowledgements, i, k.Acknowledgement)
		}
	case AcknowledgementRevoked:
		revoked := Acknowledgement{Risk: k.Risk, Release: k.Release, Cluster: k.Cluster}
		if i, found := slices.BinarySearchFunc(s.Acknowledgements, revoked, compareScopes); found {
			s.Acknowledgements = slices.Delete(slices.Clone(s.Acknowledgements), i, i+1)
		}
	}
	return s
}

// compareScopes orders acknowledgements by what they are about.
func compareScopes(a, b Acknowledgement) int {
	return cmp.Or(cmp.Compare(a.Risk, b.Risk), cmp.Compare(a.Release, b.Release), cmp.Compare(a.Cluster, b.Cluster))
}

// InForce says whether the block counts: whether it has not ended by itself.
func (b Block) InForce(now time.Time) bool { return b.Expires.IsZero() || now.Before(b.Expires) }

// InForce says whether the acknowledgement counts: whether it has not ended by
// itself.
func (a Acknowledgement) InForce(now time.Time) bool {
	return a.Expires.IsZero() || now.Before(a.Expires)
}
