package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// ControlsWork says that sessions fail more than before, and those of the controls do
// not.
const ControlsWork Code = "controls_work"

// MaxControls is how many clusters a step is set beside at most. With eight as busy as
// the stepped one a shock of three times the odds, which all of them have, is blamed on
// the step in about 1 % of runs, with four in 5 %, with one in 30 %.
const MaxControls = 8

// longestDoubt is how long controls may leave open whether they fail more, too.
const longestDoubt = 10 * time.Minute

// Control is a cluster that was not stepped when a step's gate was opened. What
// started within one of the spans is not looked at.
type Control struct {
	Cluster fleet.ClusterID
	Aside   []Span
}

// NewControlFold returns a fold of a control's sessions on either side of a step that
// was made elsewhere.
func NewControlFold(p Policy, c Control, b Boundary) (*Fold, error) {
	b.Aside = c.Aside
	f, err := NewFold(p, c.Cluster, b)
	if err == nil {
		f.keepIntervals()
	}
	return f, err
}

// Control is what the fold says of a control. It is false where nobody has looked since
// the step began, or a source does not see every session: what works there may be what
// is not seen to fail.
func (f *Fold) Control() (ControlEvidence, bool) {
	seen := !f.mark.Blind && !f.lost && !f.mark.CompleteUntil.Before(f.boundary.Start)
	return ControlEvidence{Cluster: f.cluster, Evidence: f.Evidence(), Watermark: f.Watermark()}, seen
}

// Alarmed reports whether what its controls say decides: people's new sessions fail
// more than before.
func (s *Step) Alarmed() bool { return len(s.terms.Controls) > 0 && s.people.failed() }

// Beside takes in what the controls say; it replaces what they said before.
func (s *Step) Beside(heard []ControlEvidence) { s.asked, s.controls = true, heard }

// beside sets a failure of people's sessions beside the controls. An outage of what
// all clusters rest on, such as an identity provider, makes sessions fail more in the
// controls, too, and is not the step's:
//
//   - Where the e-value against the controls, as if they had been stepped, is 1 at
//     most, they do not fail more than before, and the failure stands. So it does where
//     none of them has sessions.
//   - Where it reaches the threshold of an alarm, the cause may be common to all: a
//     person decides.
//   - In between, and until half of them are seen up to the alarm, the two are not told
//     apart. They have as long again as the alarm took, but no longer than ten minutes
//     and not past the deadline; then the failure stands, as it does when the controls
//     could not be asked: to go back is safe.
//
// The e-value is that of a wave's controls, from the same sources.
func (s *Step) beside(d Decision, deadlinePassed bool) Decision {
	if d.Verdict != Fail || len(s.terms.Controls) == 0 {
		return d
	}
	alarm := d.Watermark.CompleteUntil
	over := deadlinePassed || !s.people.mark.CompleteUntil.Before(alarm.Add(min(alarm.Sub(s.boundary.End), longestDoubt)))
	seen := slices.DeleteFunc(slices.Clone(s.controls), func(c ControlEvidence) bool { return c.Watermark.CompleteUntil.Before(alarm) })
	known := s.asked && 2*len(seen) >= len(s.controls)
	arms := Wave{Controls: seen}.controlArms(s.policy)
	var all Evidence
	for _, c := range seen {
		all = all.with(c.Evidence)
	}
	others := several(int64(len(seen)), "other cluster")
	switch {
	case !known && over:
		d.also(NotToldApart, "Other clusters were not seen in time, so what is common to all is not told from the release.")
	case !known:
		d.turn(Pending, NotToldApart, "Sessions fail more than before; whether those of other clusters do so, too, is being looked at.")
	case all.New.Total() == 0:
		d.also(NoControls, "No other cluster is seen to have had sessions since, so what is common to all cannot be told from the release.")
	case arms.logE <= 0:
		d.also(ControlsWork, "Those of %s do not fail more: %s.", others, all.counts())
	case arms.alarm:
		d.turn(Hold, CommonCause, "Sessions fail more than before, and so do those of %s, so the cause may be common to all: %s.", others, all.counts())
	case over:
		d.also(NotToldApart, "Whether those of %s fail more, too, is not sure: %s.", others, all.counts())
	default:
		d.turn(Pending, NotToldApart, "Sessions fail more than before; whether those of %s do so, too, is not sure yet: %s.", others, all.counts())
	}
	return d
}

// turn changes what a decision says, with the reason first.
func (d *Decision) turn(v Verdict, c Code, format string, args ...any) {
	d.Verdict, d.Hash = v, d.Evidence.Hash(d.PolicyHash, v)
	d.Reasons = slices.Insert(d.Reasons, 0, Reason{c, fmt.Sprintf(format, args...)})
	d.summarise()
}

// also adds a reason that changes nothing.
func (d *Decision) also(c Code, format string, args ...any) {
	d.Reasons = append(d.Reasons, Reason{c, fmt.Sprintf(format, args...)})
	d.summarise()
}

// controlsHash is the SHA-256, in hex, over the evidence of controls.
func controlsHash(controls []ControlEvidence) string {
	b := []byte("lockstep gate controls 1\n")
	for _, c := range controls {
		b = fmt.Appendf(b, "control %q until %d evidence %s\n", c.Cluster, c.Watermark.CompleteUntil.UnixNano(), c.Evidence.Hash("", ""))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
