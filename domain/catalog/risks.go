package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// RiskID names one compatibility risk.
type RiskID string

// Every risk this build knows by name.
const (
	RiskLegacySSH      RiskID = "legacy-ssh-algorithms"
	RiskIssuerUsers    RiskID = "issuer-session-users"
	RiskNonRoot        RiskID = "nonroot-3.1"
	RiskMetrics        RiskID = "metrics-5.0"
	RiskUnpublished    RiskID = "unpublished-image"
	RiskReconnectBurst RiskID = "reconnect-burst"
)

// Risk is one named compatibility risk: what goes wrong, and what to do about it.
type Risk struct {
	ID     RiskID
	Title  string
	Remedy string
}

// Risks lists every risk in a fixed order.
func Risks() []Risk {
	var out []Risk
	for _, j := range judges() {
		out = append(out, j.Risk)
	}
	return out
}

// judge is a risk with what tells whether a move meets it.
type judge struct {
	Risk
	condition func(Move) finding
}

func judges() []judge {
	return []judge{
		{Risk{RiskLegacySSH, "Old SSH targets refuse the signatures of new certificates",
			"allow legacy signing algorithms in the gateway's remote access settings, or bring the targets to a newer OpenSSH"}, legacySSH},
		{Risk{RiskIssuerUsers, "The SSH issuer does not allow the users that sessions log in as",
			"add session_* to the allowed users of the SSH issuer"}, issuerUsers},
		{Risk{RiskNonRoot, "SRA runs without root from 3.1.0 on",
			"on Kubernetes, go to a chart of 3.3.0 or newer first; with Compose, set user: \"0:0\" on the SSH service"}, nonRoot},
		{Risk{RiskMetrics, "The gateway's metrics change their address and names at 5.0.0",
			"move scrapes, dashboards and alerts along: akeyless.gw.* at :8889 below 5.0.0, akeyless_gw_* at :8000/metrics from it on; sessions are not touched"}, metrics},
		{Risk{RiskUnpublished, "An image of the release is not published",
			"wait until the vendor publishes the image, or name one that is there; then plan again"}, unpublished},
		{Risk{RiskReconnectBurst, "People who reconnect at once after a restart are refused",
			"move when fewer sessions are open, or raise MaxStartups of the bastion's sshd; refusals right after the restart pass by themselves"}, reconnectBurst},
	}
}

// LookupRisk returns the risk of that name; false for one this build does not know.
func LookupRisk(id RiskID) (Risk, bool) {
	i := slices.IndexFunc(Risks(), func(r Risk) bool { return r.ID == id })
	if i < 0 {
		return Risk{}, false
	}
	return Risks()[i], true
}

// Condition says whether a move meets a risk.
type Condition string

// Every value Condition takes.
const (
	ConditionMatch   Condition = "match"
	ConditionNoMatch Condition = "no_match"
	// ConditionUnknown: what would tell is not known. It closes the way like a match.
	ConditionUnknown Condition = "unknown"
)

// Conditions lists every condition in a fixed order.
func Conditions() []Condition {
	return []Condition{ConditionMatch, ConditionNoMatch, ConditionUnknown}
}

// Engine is what runs a cluster's components.
type Engine string

// The engines the vendor's components run on.
const (
	EngineKubernetes Engine = "kubernetes"
	EngineCompose    Engine = "compose"
)

// LegacySRAChart is the vendor's older chart of the SRA components.
const LegacySRAChart = "akeyless-sra"

// Move is one cluster's way from what it runs to a release, with what is known
// about it. What is not known is nil or empty, which makes risks unknown: an empty
// map of failures that is not nil says that sessions were watched and none failed.
type Move struct {
	Cluster fleet.ClusterID
	// From is what runs; a line that is mixed or not seen is left out.
	From fleet.VersionSet
	// To is what the release carries.
	To fleet.VersionSet
	// Release is the one moved to.
	Release fleet.ReleaseID
	Engine  Engine
	// Chart and ChartVersion are what runs the SRA components after the move;
	// Kubernetes only.
	Chart, ChartVersion string
	// SSHUser is the user that the Compose file gives the SSH service, empty when it
	// gives none; Compose only.
	SSHUser *string
	// RemoteAccess is the gateway's configuration.
	RemoteAccess *fleet.RemoteAccess
	// Failures count people's sessions that failed lately, by class.
	Failures map[fleet.Failure]int
	// OpenSSH is how many SSH sessions of people are open.
	OpenSSH *int
	// Restarts says whether bastions restart although their version stays.
	Restarts *bool
	// Published says for each line of To whether its image was found in its registry.
	Published map[fleet.Line]bool
}

// Assessment is what one risk means for one move.
type Assessment struct {
	Risk      RiskID
	Title     string
	Condition Condition
	// Detail says in one sentence what the condition rests on.
	Detail string
	Remedy string
	// Acknowledged is the acknowledgement that applies, the narrowest of several;
	// nil when there is none.
	Acknowledged *Acknowledgement
	// Closed says that the move must not start for this: the risk is met, or it is
	// not known whether it is, and nobody acknowledged it.
	Closed bool
}

// Assess judges every risk for a move, in the order of Risks.
func Assess(m Move, acknowledgements []Acknowledgement, now time.Time) []Assessment {
	var out []Assessment
	for _, j := range judges() {
		found := j.condition(m)
		a := Assessment{Risk: j.ID, Title: j.Title, Remedy: j.Remedy, Condition: found.condition, Detail: found.detail}
		a.Acknowledged = applying(j.ID, m, acknowledgements, now)
		a.Closed = a.Condition != ConditionNoMatch && a.Acknowledged == nil
		out = append(out, a)
	}
	return out
}

// applying returns the narrowest acknowledgement in force that is about a risk of
// a move: one for its cluster before one for its release.
func applying(risk RiskID, m Move, acknowledgements []Acknowledgement, now time.Time) *Acknowledgement {
	var best *Acknowledgement
	for _, a := range acknowledgements {
		if a.Risk != risk || !a.InForce(now) || a.Release != "" && a.Release != m.Release || a.Cluster != "" && a.Cluster != m.Cluster {
			continue
		}
		if best == nil || cmp.Or(cmp.Compare(a.Cluster, best.Cluster), cmp.Compare(a.Release, best.Release)) > 0 {
			best = &a
		}
	}
	return best
}

// finding is a condition and what it rests on.
type finding struct {
	condition Condition
	detail    string
}

func match(format string, args ...any) finding {
	return finding{ConditionMatch, fmt.Sprintf(format, args...)}
}

func noMatch(format string, args ...any) finding {
	return finding{ConditionNoMatch, fmt.Sprintf(format, args...)}
}

func unknown(format string, args ...any) finding {
	return finding{ConditionUnknown, fmt.Sprintf(format, args...)}
}

// both says whether two things come together: not where one of them is not there,
// though the other be unknown.
func both(a, b finding) finding {
	switch {
	case a.condition == ConditionNoMatch:
		return a
	case b.condition == ConditionNoMatch:
		return b
	case a.condition == ConditionUnknown:
		return a
	}
	return b
}

// touches says whether the move takes one of some lines to another version.
func (m Move) touches(lines ...fleet.Line) finding {
	var unsure, still []string
	for _, line := range lines {
		from, to := m.From[line], m.To[line]
		switch {
		case to != "" && (from == "" || ParseVersion(from).Floating() || ParseVersion(to).Floating()):
			unsure = append(unsure, fmt.Sprintf("whether %s moves is not known: it runs %s and goes to %s", line, orUnknown(from), to))
		case to != "" && !same(from, to):
			return match("%s goes from %s to %s", line, from, to)
		default:
			still = append(still, fmt.Sprintf("%s does not move", line))
		}
	}
	if len(unsure) > 0 {
		return unknown("%s", strings.Join(unsure, ", and "))
	}
	return noMatch("%s", strings.Join(still, ", and "))
}

// legacySSH: a session lately failed for want of a common algorithm; or the setting
// that old targets need is off or not known, and sessions do not show that they do
// without. The gateway signs certificates and the bastion uses them, so a move of
// either counts.
func legacySSH(m Move) finding {
	allowed := m.RemoteAccess != nil && m.RemoteAccess.LegacySigning != nil && *m.RemoteAccess.LegacySigning
	said := m.RemoteAccess != nil && m.RemoteAccess.LegacySigning != nil
	var needed finding
	switch failed := m.Failures[fleet.FailureLegacySSH]; {
	case failed > 0:
		needed = match("of the sessions that failed lately, %d did because an old target knows no new signature algorithm", failed)
	case allowed:
		needed = noMatch("legacy signing algorithms are allowed")
	case !said:
		needed = unknown("whether legacy signing algorithms are allowed was not read from the gateway")
	case m.Failures == nil:
		needed = unknown("legacy signing algorithms are not allowed, and no sessions are seen that would show whether a target needs them")
	default:
		needed = noMatch("legacy signing algorithms are not allowed, and no session failed lately for want of one")
	}
	return both(m.touches(fleet.LineGateway, fleet.LineSRA), needed)
}

// issuerUsers: a session lately failed because the issuer does not allow its user.
// The issuer itself cannot be read, so sessions are all there is.
func issuerUsers(m Move) finding {
	var refused finding
	switch failed := m.Failures[fleet.FailureIssuerUsers]; {
	case failed > 0:
		refused = match("of the sessions that failed lately, %d did because the SSH issuer does not allow session_* users", failed)
	case m.Failures == nil:
		refused = unknown("no sessions are seen that would show whether the SSH issuer allows session_* users")
	default:
		refused = noMatch("no session failed lately because of its user")
	}
	return both(m.touches(fleet.LineGateway, fleet.LineSRA), refused)
}

// nonRoot: SRA comes to 3.1.0 from below, in a chart or Compose file made for root.
func nonRoot(m Move) finding {
	from, to := m.From[fleet.LineSRA], m.To[fleet.LineSRA]
	fromBelow, fromKnown := below(from, "3.1.0")
	toBelow, toKnown := below(to, "3.1.0")
	var passes finding
	switch {
	case to == "":
		passes = noMatch("the release carries no sra")
	case toKnown && toBelow:
		passes = noMatch("sra %s still runs as root", to)
	case fromKnown && !fromBelow:
		passes = noMatch("sra %s runs without root already", from)
	case fromKnown && toKnown:
		passes = match("sra goes from %s to %s", from, to)
	default:
		passes = unknown("whether sra passes 3.1.0 is not known: it runs %s and goes to %s", orUnknown(from), to)
	}
	return both(passes, m.madeForRoot())
}

// madeForRoot says whether the chart or the Compose file needs root in the SRA
// images.
func (m Move) madeForRoot() finding {
	switch m.Engine {
	case EngineKubernetes:
		older, known := below(m.ChartVersion, "3.3.0")
		switch {
		case m.Chart == GatewayChart:
			return noMatch("chart %s is not one of the older ones that need root in sra", GatewayChart)
		case m.Chart != LegacySRAChart:
			return unknown("whether chart %s needs root in sra is not known", orUnknown(m.Chart))
		case !known:
			return unknown("whether chart %s %s is older than 3.3.0 is not known", m.Chart, orUnknown(m.ChartVersion))
		case older:
			return match("chart %s %s is older than 3.3.0 and needs root in sra", m.Chart, m.ChartVersion)
		}
		return noMatch("chart %s %s is 3.3.0 or newer", m.Chart, m.ChartVersion)
	case EngineCompose:
		switch {
		case m.SSHUser == nil:
			return unknown("the user of the SSH service was not read from the Compose file")
		case *m.SSHUser == "0:0" || *m.SSHUser == "root:root":
			return noMatch("the Compose file runs the SSH service as root")
		case *m.SSHUser == "":
			return match("the Compose file sets no user on the SSH service")
		}
		return match("the Compose file sets user %s on the SSH service", *m.SSHUser)
	}
	return unknown("whether the cluster runs on Kubernetes or with Compose is not known")
}

// metrics: the gateway comes to the other side of 5.0.0, up or down.
func metrics(m Move) finding {
	from, to := m.From[fleet.LineGateway], m.To[fleet.LineGateway]
	fromBelow, fromKnown := below(from, "5.0.0")
	toBelow, toKnown := below(to, "5.0.0")
	var passes finding
	switch {
	case !fromKnown || !toKnown:
		passes = unknown("whether gateway passes 5.0.0 is not known: it runs %s and goes to %s", orUnknown(from), orUnknown(to))
	case fromBelow != toBelow:
		passes = match("gateway goes from %s to %s", from, to)
	default:
		passes = noMatch("gateway goes from %s to %s, on one side of 5.0.0", from, to)
	}
	return both(m.touches(fleet.LineGateway), passes)
}

// unpublished: an image of the release was looked for and not found.
func unpublished(m Move) finding {
	var missing, unasked []string
	for _, line := range slices.Sorted(maps.Keys(m.To)) {
		switch published, asked := m.Published[line]; {
		case !asked:
			unasked = append(unasked, string(line))
		case !published:
			missing = append(missing, fmt.Sprintf("%s %s", line, m.To[line]))
		}
	}
	switch {
	case len(m.To) == 0:
		return unknown("what the release carries is not known")
	case len(missing) > 0:
		return match("there is no image of %s", strings.Join(missing, " and "))
	case len(unasked) > 0:
		return unknown("whether there is an image of %s was not asked", strings.Join(unasked, " and "))
	}
	return noMatch("every image is published")
}

// startupsRefused is how many connections may begin at once before sshd refuses
// some: the first number of MaxStartups as OpenSSH comes.
const startupsRefused = 10

// reconnectBurst: bastions restart, and so many SSH sessions are open that people
// are refused when they all come back; or that was seen lately.
func reconnectBurst(m Move) finding {
	restart := m.touches(fleet.LineSRA)
	if restart.condition == ConditionNoMatch {
		switch {
		case m.Restarts == nil:
			restart = unknown("sra does not move, but whether its bastions restart all the same is not known")
		case *m.Restarts:
			restart = match("bastions restart")
		default:
			restart = noMatch("no bastion restarts")
		}
	}
	var burst finding
	switch refused := m.Failures[fleet.FailureTooManyOpen]; {
	case refused > 0:
		burst = match("bastions restart, and %d sessions were refused lately because too many began at once", refused)
	case m.OpenSSH == nil:
		burst = unknown("how many SSH sessions are open is not known")
	case *m.OpenSSH >= startupsRefused:
		burst = match("bastions restart with %d SSH sessions open, and sshd may refuse some when %d begin at once", *m.OpenSSH, startupsRefused)
	default:
		burst = noMatch("%d SSH sessions are open, fewer than the %d at which sshd may refuse some", *m.OpenSSH, startupsRefused)
	}
	return both(restart, burst)
}

// below says whether a version stands before a release, whose pre-releases count
// as the release itself; known is false when it has no place.
func below(version, release string) (is, known bool) {
	order, known := Compare(version, release+"-0")
	return order < 0, known
}

func orUnknown(text string) string {
	if text == "" {
		return "(unknown)"
	}
	return text
}
