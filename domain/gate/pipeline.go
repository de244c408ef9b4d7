package gate

import (
	"cmp"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Codes of the recording and forwarding checks.
const (
	Arrives       Code = "arrives"        // what was looked at last is there
	NotConfigured Code = "not_configured" // there is nothing to look at
	NotLooked     Code = "not_looked"     // nobody has looked since the step
	LookFailed    Code = "look_failed"    // the newest look found something amiss
	FailedBefore  Code = "failed_before"  // … and so did the last one before the step
	SetupFailed   Code = "setup_failed"   // the newest look could not begin
)

// ConfiguredCheck names one check of the configuration.
type ConfiguredCheck struct {
	Name string
	Kind fleet.CheckKind
}

// PipelineFacts are what the recording and forwarding checks look at.
type PipelineFacts struct {
	// Applied is when the step had been applied. A look that began before says what
	// was before.
	Applied time.Time
	// Configured are the checks of the configuration; others are not looked at.
	Configured []ConfiguredCheck
	// Looks are those since the step in any order, and at least the last one of each
	// check before it.
	Looks []fleet.Check
}

// Recording says whether recordings arrive and the storage takes them.
func (f PipelineFacts) Recording() Result {
	return f.judge(CheckRecording, fleet.CheckRecording, fleet.CheckStorage)
}

// Forwarding says whether forwarded logs are taken.
func (f PipelineFacts) Forwarding() Result {
	return f.judge(CheckForwarding, fleet.CheckForwarding)
}

// judge passes when the newest look of each configured check since the step is fine.
// A look at a recording needs a session that was recorded, so such a check may have
// none as long as another one has. One that failed before the step holds instead
// of failing: to go back would not mend it.
func (f PipelineFacts) judge(check CheckName, kinds ...fleet.CheckKind) Result {
	var found findings
	figures := noFigures(check)
	var at time.Time
	for _, c := range f.configured(kinds) {
		figures["configured"]++
		last, before := f.newest(c)
		for _, look := range f.Looks {
			if !c.is(look) || look.At.Before(f.Applied) {
				continue
			}
			figures["looks"]++
			if look.Kind == fleet.CheckRecording {
				figures["recordings"]++
			}
		}
		switch {
		case last == nil && c.Kind == fleet.CheckRecording:
			found.add(Pass, NotLooked, "No session that %s would look for has ended since the step.", c.Name)
		case last == nil:
			figures["not_looked"]++
			found.add(Pending, NotLooked, "%s has not looked since the step.", c.Name)
		case last.OK:
		case last.Failure == fleet.FailureSetup:
			figures["setup_failed"]++
			found.add(Inconclusive, SetupFailed, "%s could not look: %s.", c.Name, said(last.Detail))
		case before != nil && !before.OK && before.Failure != fleet.FailureSetup:
			figures["failing"]++
			figures["failing_before"]++
			found.add(Hold, FailedBefore, "%s fails (%s: %s), as it did before the step.", c.Name, last.Failure, said(last.Detail))
		default:
			figures["failing"]++
			found.add(Fail, LookFailed, "%s fails: %s: %s.", c.Name, last.Failure, said(last.Detail))
		}
		if last != nil {
			at = newer(at, last.At)
		}
	}
	switch {
	case figures["configured"] == 0:
		found.add(Inconclusive, NotConfigured, "Nothing is configured to look at %s.", check)
	case figures["looks"] == 0 && found.verdict() == Pass:
		found.add(Pending, NotLooked, "Nobody has looked at %s since the step.", check)
	}
	return found.result(check, at, figures, Reason{Arrives, several(figures["configured"], "check") + " of " + string(check) + " found all in order when they looked last."})
}

// configured lists the checks of some kinds, each once and in order.
func (f PipelineFacts) configured(kinds []fleet.CheckKind) []ConfiguredCheck {
	var out []ConfiguredCheck
	for _, c := range f.Configured {
		if slices.Contains(kinds, c.Kind) {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b ConfiguredCheck) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(out)
}

// newest returns the newest look of a check since the step and the newest before it,
// nil where there is none. Of two of one instant one that failed counts.
func (f PipelineFacts) newest(c ConfiguredCheck) (last, before *fleet.Check) {
	for i := range f.Looks {
		look := &f.Looks[i]
		switch {
		case !c.is(*look):
		case look.At.Before(f.Applied):
			before = newerLook(before, look)
		default:
			last = newerLook(last, look)
		}
	}
	return last, before
}

func (c ConfiguredCheck) is(look fleet.Check) bool {
	return look.Name == c.Name && look.Kind == c.Kind
}

func newerLook(a, b *fleet.Check) *fleet.Check {
	if a == nil {
		return b
	}
	order := cmp.Or(b.At.Compare(a.At), cmp.Compare(unfit(b), unfit(a)), cmp.Compare(b.Failure, a.Failure), cmp.Compare(b.Detail, a.Detail))
	if order > 0 {
		return b
	}
	return a
}

// unfit orders looks of one instant: fine, could not begin, failed.
func unfit(c *fleet.Check) int {
	switch {
	case c.OK:
		return 0
	case c.Failure == fleet.FailureSetup:
		return 1
	}
	return 2
}
