package catalog

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Problem is something that stands in the way of what was asked.
type Problem struct {
	// ID is a catalogue id that never changes its meaning.
	ID string
	// Place is the index of the release in the import, -1 where nothing is imported.
	// Texts count from one.
	Place int
	Text  string
}

// Catalogue ids of problems.
const (
	ProblemName            = "LS-CAT-001" // a release without an id, or with one that is none
	ProblemEmpty           = "LS-CAT-002" // a release that carries no version
	ProblemTwice           = "LS-CAT-003" // one id for two releases
	ProblemUnknownRelease  = "LS-CAT-004"
	ProblemUnknownRisk     = "LS-CAT-005"
	ProblemReason          = "LS-CAT-006" // no reason is given
	ProblemOwner           = "LS-CAT-007" // nobody owns it
	ProblemExpiry          = "LS-CAT-008" // it would end before it begins
	ProblemNotBlocked      = "LS-CAT-009"
	ProblemNotAcknowledged = "LS-CAT-010"
)

// Problems are all that stand in the way, as one error. Nothing was decided.
type Problems []Problem

func (p Problems) Error() string {
	texts := make([]string, 0, len(p))
	for _, problem := range p {
		text := problem.ID + ": " + problem.Text
		if problem.Place >= 0 {
			text = fmt.Sprintf("%s: release %d: %s", problem.ID, problem.Place+1, problem.Text)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

func (p *Problems) add(id, format string, args ...any) { p.at(-1, id, format, args...) }

func (p *Problems) at(place int, id, format string, args ...any) {
	*p = append(*p, Problem{ID: id, Place: place, Text: fmt.Sprintf(format, args...)})
}

// words checks what every decision of a person has, and gives it without space
// around.
func (p *Problems) words(owner, reason string, expires, now time.Time) (o, r string) {
	o = strings.TrimSpace(owner)
	if o == "" {
		p.add(ProblemOwner, "it has no owner; name who answers for it")
	}
	r = p.reason(reason)
	if !expires.IsZero() && !expires.After(now) {
		p.add(ProblemExpiry, "it would have ended at %s; give a later end, or none", expires.UTC().Format(time.RFC3339))
	}
	return o, r
}

func (p *Problems) reason(reason string) string {
	reason = strings.TrimSpace(reason)
	if reason == "" {
		p.add(ProblemReason, "it has no reason; say in a sentence why")
	}
	return reason
}

// release checks that a release is known.
func (p *Problems) release(s State, configured []Release, id fleet.ReleaseID) {
	_, known := s.Releases[id]
	if !known && !slices.ContainsFunc(configured, func(r Release) bool { return r.ID == id }) {
		p.add(ProblemUnknownRelease, "release %q is not in the catalogue; import it, or correct the name", id)
	}
}

// risk checks that a risk is known.
func (p *Problems) risk(id RiskID) {
	if _, known := LookupRisk(id); known {
		return
	}
	names := make([]string, 0, len(Risks()))
	for _, risk := range Risks() {
		names = append(names, string(risk.ID))
	}
	p.add(ProblemUnknownRisk, "there is no risk %q; there are %s", id, strings.Join(names, ", "))
}
