package gate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Codes of a stage as a whole.
const (
	AllPassed    Code = "all_passed"    // everything that is demanded is there
	CheckMissing Code = "check_missing" // a demanded check has said nothing yet
	Soaking      Code = "soaking"       // the stage lasts longer, whatever is known
	RuleHolds    Code = "rule"          // the condition of a house rule holds
	RuleError    Code = "rule_error"    // a house rule could not be asked
)

// Consequence is what follows from a stage's verdict, by the policy's mode.
type Consequence string

// Every value Consequence takes on the wire.
const (
	Wait     Consequence = "wait"     // nothing yet: the stage goes on
	GoOn     Consequence = "go_on"    // the rollout goes on
	Tell     Consequence = "tell"     // people are told, and the rollout goes on
	Stop     Consequence = "hold"     // the rollout holds until a person decides or the verdict changes
	RollBack Consequence = "rollback" // the cluster goes back
)

// Consequences lists every consequence in a fixed order.
func Consequences() []Consequence { return []Consequence{Wait, GoOn, Tell, Stop, RollBack} }

// Consequence is what follows from a verdict. An undecided stage is waited for in
// every mode, so that a policy on trial is judged on the time it would have had.
func (m Mode) Consequence(v Verdict) Consequence {
	switch {
	case v == Pending:
		return Wait
	case v == Pass, m == Shadow:
		return GoOn
	case m == Advise:
		return Tell
	case m == Act && v == Fail:
		return RollBack
	}
	return Stop
}

// StageDecision is what a stage says as a whole.
type StageDecision struct {
	Verdict     Verdict
	Reasons     []Reason // the deciding one first; each names its check
	Results     []Result // of what the stage looks at, one of each check, in the order in which they are told
	Consequence Consequence
	// Hash covers the stage, the mode, the verdict and of each result the verdict and
	// the figures; neither texts nor times.
	Hash string
}

// Combine is what a stage that began at an instant says now, from what its checks
// say. Their order means nothing; of several results of one check the newest
// counts, and of two of one instant the worse.
//
//   - Fail when a check that may not fail fails, or a rule says so. Failures must
//     come through a Streak, which keeps back those that have not lasted.
//   - Hold when one of them holds, a rule says so, or a rule cannot be asked.
//   - Pass when all that is demanded is there, telemetry has passed whatever is
//     demanded of it, no rule objects and the soak is over.
//   - Pending before the deadline and Inconclusive from it on, otherwise. A deadline
//     within the soak comes with its end.
//
// A check whose demand is no_fail may lack data; it may not be missing, be blind, or
// be failing, though not yet for long enough. A rule that cannot be asked while a
// demanded check is missing is waited for like that check: the figures it asks for
// may be those.
func Combine(s Stage, m Mode, begun, now time.Time, results []Result, holds func(Rule) (bool, error)) StageDecision {
	newest := newestResults(results)
	var found findings
	var told []Result
	missing := false
	for _, check := range s.checks() {
		result, there := newest[check]
		demand := s.demand(check)
		if there && demand != DemandOff {
			told = append(told, result)
		}
		switch {
		case demand == DemandOff || demand == DemandAdvisory:
		case !there:
			missing = true
			found.add(Pending, CheckMissing, "%s: no result yet.", check)
		default:
			found.weigh(result, demand)
		}
	}
	found.rules(s.Rules, missing, holds)
	if over := begun.Add(s.Soak); now.Before(over) {
		found.add(Pending, Soaking, "The stage lasts until %s.", instant(over))
	}
	if s.Deadline > 0 && !now.Before(begun.Add(max(s.Deadline, s.Soak))) && found.verdict() == Pending {
		found.expire(s.Deadline)
	}
	d := StageDecision{Verdict: found.verdict(), Results: told}
	if d.Verdict == Pass {
		found.add(Pass, AllPassed, "Everything that is demanded is there: %s.", s.demanded())
	}
	d.Reasons = found.reasons()
	d.Consequence = m.Consequence(d.Verdict)
	d.Hash = s.hash(m, d)
	return d
}

// weigh adds what a result means to a stage that demands something of its check.
func (f *findings) weigh(r Result, demand Demand) {
	switch {
	case r.Verdict == Pass:
	case r.Verdict == Fail, r.Verdict == Hold:
		f.told(r.Verdict, r)
	case demand != DemandNoFail || !r.lacksData():
		f.told(Pending, r)
	}
}

// lacksData says whether all that keeps a result from passing is that there is too
// little to see, as opposed to something seen, or nobody who could see.
func (r Result) lacksData() bool {
	var code Code
	if len(r.Reasons) > 0 {
		code = r.Reasons[0].Code
	}
	if r.Verdict == Pending {
		return code != NotSustained && code != NotToldApart
	}
	return slices.Contains([]Code{NotConfigured, NoData, NoBaseline, DeadlinePassed}, code)
}

// told adds a result's reasons under its check's name.
func (f *findings) told(v Verdict, r Result) {
	if len(r.Reasons) == 0 {
		f.add(v, "", "%s: %s", r.Check, r.Text)
	}
	for _, reason := range r.Reasons {
		f.add(v, reason.Code, "%s: %s", r.Check, reason.Text)
	}
}

// rules adds what house rules say.
func (f *findings) rules(rules []Rule, missing bool, holds func(Rule) (bool, error)) {
	for _, rule := range rules {
		switch met, err := holds(rule); {
		case err != nil && missing:
			f.add(Pending, RuleError, "Rule %s cannot be asked while a check is missing: %v.", rule.Name, err)
		case err != nil:
			f.add(Hold, RuleError, "Rule %s cannot be asked: %v.", rule.Name, err)
		case met && rule.Verdict == Fail:
			f.add(Fail, RuleHolds, "Rule %s: %s", rule.Name, rule.Reason)
		case met:
			f.add(Hold, RuleHolds, "Rule %s: %s", rule.Name, rule.Reason)
		}
	}
}

// expire turns what is still waited for into what was never decided.
func (f *findings) expire(deadline time.Duration) {
	for i := range f.all {
		f.all[i].verdict = Inconclusive
	}
	late := finding{Inconclusive, Reason{DeadlinePassed, fmt.Sprintf("Not decided within %s.", deadline)}}
	f.all = slices.Insert(f.all, 0, late)
}

// checks lists what a stage may look at: every check, and those that this build
// does not know, which stay missing.
func (s Stage) checks() []CheckName {
	all := CheckNames()
	for _, check := range slices.Sorted(maps.Keys(s.Checks)) {
		if !slices.Contains(all, check) {
			all = append(all, check)
		}
	}
	return all
}

// demand is what the stage asks of a check. What is left out is off, an unknown
// word asks for everything, and telemetry always has to pass: what nobody saw
// promotes nothing.
func (s Stage) demand(check CheckName) Demand {
	policy, listed := s.Checks[check]
	switch {
	case check == CheckTelemetry:
		return DemandPass
	case !listed:
		return DemandOff
	case !slices.Contains(Demands(), policy.Demand):
		return DemandPass
	}
	return policy.Demand
}

// demanded names the checks that have to be there.
func (s Stage) demanded() string {
	var names []string
	for _, check := range s.checks() {
		if d := s.demand(check); d == DemandPass || d == DemandNoFail {
			names = append(names, string(check))
		}
	}
	return strings.Join(names, ", ")
}

// newestResults keeps one result of each check, whatever their order.
func newestResults(results []Result) map[CheckName]Result {
	out := make(map[CheckName]Result, len(results))
	for _, r := range results {
		other, taken := out[r.Check]
		if !taken || cmp.Or(r.At.Compare(other.At), cmp.Compare(severity(r.Verdict), severity(other.Verdict)), cmp.Compare(r.whole(), other.whole())) > 0 {
			out[r.Check] = r
		}
	}
	return out
}

// whole is all that a result says, to tell two of one instant apart.
func (r Result) whole() string {
	return string(r.appendHashed(nil)) + fmt.Sprintf("%q %q", r.Reasons, r.Text)
}

// hash covers all that was decided from, without what only people read.
func (s Stage) hash(m Mode, d StageDecision) string {
	b := fmt.Appendf(nil, "lockstep gate stage 1\nmode %s\nverdict %s\ndeadline %d\nsoak %d\n", m, d.Verdict, s.Deadline.Nanoseconds(), s.Soak.Nanoseconds())
	for _, check := range s.checks() {
		if demand := s.demand(check); demand != DemandOff {
			sustain := s.Checks[check].Sustain
			b = fmt.Appendf(b, "check %q %s %d %d\n", check, demand, sustain.For.Nanoseconds(), sustain.Looks)
		}
	}
	for _, rule := range s.Rules {
		b = fmt.Appendf(b, "rule %q %q %s %q\n", rule.Name, rule.When, rule.Verdict, rule.Reason)
	}
	for _, r := range d.Results {
		b = r.appendHashed(b)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// appendHashed appends a result's canonical text: its verdict and its figures in
// order of their names.
func (r Result) appendHashed(b []byte) []byte {
	b = fmt.Appendf(b, "result %q %s\n", r.Check, r.Verdict)
	for _, name := range slices.Sorted(maps.Keys(r.Figures)) {
		b = fmt.Appendf(b, "%q %d\n", name, r.Figures[name])
	}
	return b
}

// Figures lists the names of every figure of each check. A result has all of its
// check's figures and no others, so that a house rule never asks for one that is
// not there.
func Figures() map[CheckName][]string {
	return map[CheckName][]string{
		CheckTelemetry: {
			"required",    // kinds of observation that the stage rests on
			"seeing",      // sources of them that are up to date
			"unheard",     // kinds without a source, and sources that never said until when they saw all
			"blind",       // sources that say that they cannot see
			"stale",       // sources that said nothing for longer than the limit
			"holes",       // sources of which something was lost since the step
			"lag_seconds", // how long ago the source that is furthest behind saw all
		},
		CheckInventory: {
			"expected",                 // instances that ran before the step
			"running",                  // instances that run now
			"missing",                  // instances that ran and do not, and planned lines of which nothing runs
			"wrong_version",            // instances of another version than planned
			"wrong_digest",             // instances of the planned version from another image
			"unknown_image",            // instances of which the image cannot be told
			"unhealthy",                // instances that say that they do not work
			"starting",                 // instances that have not said yet whether they work
			"bastions",                 // bastions that the vendor lists
			"bastions_wrong_version",   // of these, those of another version than planned
			"bastions_unknown_version", // of these, those without a version
			"unregistered",             // bastions and gateways that the vendor listed before and does not now
			"mixed_seconds",            // how long the cluster has been mixed, zero when it is not
		},
		CheckProbes: {
			"failed",             // probes since the step that failed
			"succeeded",          // probes since the step that worked
			"unresolved",         // probes since the step without an outcome in time
			"late",               // probes since the step that came after their turn
			"baseline_failed",    // probes before the step that failed
			"baseline_succeeded", // probes before the step that worked
		},
		CheckSessions: {
			"new_failed",          // people's tries since the step that failed
			"new_succeeded",       // people's tries since the step that worked
			"new_unresolved",      // people's tries since the step without an outcome in time
			"new_late",            // people's sessions since the step that came after their turn
			"baseline_failed",     // as new_failed, before the step
			"baseline_succeeded",  // as new_succeeded
			"baseline_unresolved", // as new_unresolved
			"baseline_late",       // as new_late
			"cut",                 // people's tries while the step ran, which count for nothing
			"blocks",              // tries since the step that were set beside earlier ones
		},
		CheckOpen: {
			"new_ended",        // abnormal ends of sessions that were open across the step
			"new_at_risk",      // how often such a session could have ended, counted in time buckets
			"baseline_ended",   // as new_ended, before the step
			"baseline_at_risk", // as new_at_risk
			"cut",              // sessions that the step itself ended
		},
		CheckLifecycle: {
			"new",               // people's sessions that started since the step
			"new_stuck",         // of these, those neither connected nor failed in time
			"new_overlong",      // of these, those open past their time to live; 0, as no source tells that yet
			"new_brief",         // of these, those that ended within a second
			"new_vanished",      // of these, those listed no more without an end
			"baseline",          // people's sessions that started before the step
			"baseline_stuck",    // as new_stuck
			"baseline_overlong", // as new_overlong
			"baseline_brief",    // as new_brief
			"baseline_vanished", // as new_vanished
		},
		CheckRecording: {
			"configured",     // configured checks of recordings and their storage
			"looks",          // looks of these since the step
			"recordings",     // of these, those at a session's recording
			"not_looked",     // checks of the storage without a look since the step
			"failing",        // checks of which the newest look failed
			"failing_before", // of these, those of which the last look before the step failed, too
			"setup_failed",   // checks of which the newest look could not begin
		},
		CheckForwarding: {
			"configured",     // configured checks of log forwarding
			"looks",          // looks of these since the step
			"not_looked",     // checks without a look since the step
			"failing",        // checks of which the newest look failed
			"failing_before", // of these, those of which the last look before the step failed, too
			"setup_failed",   // checks of which the newest look could not begin
		},
		CheckRisks: {
			"assessed",     // named risks that were judged
			"met",          // of these, those that are met
			"unknown",      // of these, those of which it is not known
			"acknowledged", // risks that count for nothing because a person took them by name
			"seen",         // risks in whose way sessions failed since the step and none before
		},
	}
}

// Figures are the figures of a check that rests on this evidence: probes, sessions or
// open sessions.
func (e Evidence) Figures(check CheckName) map[string]int64 {
	out := noFigures(check)
	set := func(name string, n int) {
		if _, has := out[name]; has {
			out[name] = int64(n)
		}
	}
	for prefix, arm := range map[string]struct {
		Trials
		unresolved, late int
	}{
		"":          {e.New, e.Unresolved.New, e.Late.New},
		"new_":      {e.New, e.Unresolved.New, e.Late.New},
		"baseline_": {e.Baseline, e.Unresolved.Baseline, e.Late.Baseline},
	} {
		set(prefix+"failed", arm.Failed)
		set(prefix+"succeeded", arm.Succeeded)
		set(prefix+"unresolved", arm.unresolved)
		set(prefix+"late", arm.late)
	}
	set("cut", e.Cut)
	set("blocks", e.Blocks.Blocks())
	var newEnded, newAtRisk, baselineEnded, baselineAtRisk int
	for _, r := range e.Blocks {
		newEnded += r.Count * r.YB
		newAtRisk += r.Count * r.NB
		baselineEnded += r.Count * (r.Y - r.YB)
		baselineAtRisk += r.Count * r.NA
	}
	set("new_ended", newEnded)
	set("new_at_risk", newAtRisk)
	set("baseline_ended", baselineEnded)
	set("baseline_at_risk", baselineAtRisk)
	return out
}

// noFigures are a check's figures before anything was counted.
func noFigures(check CheckName) map[string]int64 {
	out := make(map[string]int64)
	for _, name := range Figures()[check] {
		out[name] = 0
	}
	return out
}

// severity orders verdicts by how much they keep a rollout from going on. What is
// no verdict is as good as none.
func severity(v Verdict) int {
	switch v {
	case Pass:
		return 0
	case Pending:
		return 1
	case Hold:
		return 3
	case Fail:
		return 4
	}
	return 2
}

// finding is one thing that a check or a stage found, and what it would be alone.
type finding struct {
	verdict Verdict
	Reason
}

// findings gather what was found; the worst decides.
type findings struct{ all []finding }

func (f *findings) add(v Verdict, c Code, format string, args ...any) {
	f.all = append(f.all, finding{v, Reason{c, fmt.Sprintf(format, args...)}})
}

func (f *findings) verdict() Verdict {
	worst := Pass
	for _, found := range f.all {
		if severity(found.verdict) > severity(worst) {
			worst = found.verdict
		}
	}
	return worst
}

// reasons lists what was found, the worst first and else as it was found.
func (f *findings) reasons() []Reason {
	sorted := slices.Clone(f.all)
	slices.SortStableFunc(sorted, func(a, b finding) int { return cmp.Compare(severity(b.verdict), severity(a.verdict)) })
	out := make([]Reason, len(sorted))
	for i, found := range sorted {
		out[i] = found.Reason
	}
	return out
}

// result is what a check says that found this, as seen at an instant. Where it found
// nothing amiss, what it says otherwise comes first.
func (f *findings) result(check CheckName, at time.Time, figures map[string]int64, fine Reason) Result {
	r := Result{Check: check, Verdict: f.verdict(), Reasons: f.reasons(), At: at, Figures: figures}
	if r.Verdict == Pass {
		r.Reasons = slices.Insert(r.Reasons, 0, fine)
	}
	r.Text = r.Reasons[0].Text
	return r
}

func instant(at time.Time) string { return at.UTC().Format(time.RFC3339) }

func newer(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// several says a number of things: "1 bastion", "3 bastions".
func several(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return strconv.FormatInt(n, 10) + " " + thing + "s"
}
