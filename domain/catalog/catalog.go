// Package catalog owns what is known of releases: which version set each carries,
// in which order versions of a line stand, what the vendor took back, what people
// have blocked or acknowledged, and which named risks a move meets. It does not
// know where releases are published, nor what runs anywhere.
//
// # State
//
// A State is what its facts say: Import, BlockRelease, UnblockRelease,
// AcknowledgeRisk and RevokeAcknowledgement decide facts, Apply takes them over.
// What an import does not say stays known, and what it says otherwise replaces what
// was known. The status of a release is in no fact: Entries derives it from all
// releases, the configuration and the time, so that no order of imports matters.
//
// # Withdrawn
//
// Versions only go up within a chart, except where the vendor takes one back. A
// version of a line is withdrawn when a release with a higher chart version than
// every release that carries it carries a lower version of the same line; then every
// release of the chart that carries it is withdrawn. It is so no longer once a higher
// chart version carries it again. A release that was published on an earlier day
// than the version's last release does not count, for that one is then a backport to
// an older chart. What cannot be compared proves nothing. See Withdrawal.
//
// # Risks
//
// Assess judges the risks that have a name, each as a match, no match or unknown.
// Unknown closes the way as a match does, until somebody acknowledges the risk. The
// conditions are the functions of risks.go, one for each risk.
package catalog

import (
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Status says whether a release may be moved to.
type Status string

// Every value Status takes.
const (
	// Available: nothing speaks against it.
	Available Status = "available"
	// Withdrawn: it carries a version that the vendor went back from.
	Withdrawn Status = "withdrawn"
	// Blocked: a person said no, for a reason and for a time.
	Blocked Status = "blocked"
)

// Statuses lists every status in a fixed order.
func Statuses() []Status { return []Status{Available, Withdrawn, Blocked} }

// Release is one entry as a source tells it: a chart release or a set of images,
// and the version set that it carries.
type Release struct {
	// ID is what people call it: the chart's version for the vendor's gateway chart,
	// <chart>-<version> for any other, the configured name for a set of images.
	ID fleet.ReleaseID
	// Chart and ChartVersion are empty for a set of images.
	Chart        string
	ChartVersion string
	// AppVersion is the chart's own, as written; empty when it has none.
	AppVersion string
	// ReleasedAt is when it was published, to the day where a source knows no more;
	// the zero time when unknown.
	ReleasedAt time.Time
	Versions   fleet.VersionSet
	// Images are what the release runs by line, with tag or digest; empty where only
	// versions are known.
	Images map[fleet.Line]string
	// Digest is that of the chart's archive, "sha256:…", empty when unknown.
	Digest string
	// Notes are what its source found odd, such as an annotation that says another
	// version than the image; they are packaging risks.
	Notes []string
	// Source is where it came from, for people, such as the address of a repository.
	Source string
}

// GatewayChart is the vendor's chart that carries gateway and SRA together; its
// releases are called by their version alone.
const GatewayChart = "akeyless-gateway"

// Block is a person's no to a release.
type Block struct {
	Release fleet.ReleaseID
	Owner   string
	Reason  string
	At      time.Time
	// Expires is when it ends by itself, the zero time for never.
	Expires time.Time
}

// Acknowledgement is a person's yes to a named risk.
type Acknowledgement struct {
	Risk RiskID
	// Release and Cluster narrow it; empty means any.
	Release fleet.ReleaseID
	Cluster fleet.ClusterID
	Owner   string
	Reason  string
	At      time.Time
	// Expires is when it ends by itself, the zero time for never.
	Expires time.Time
}
