package gatefile

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

// Lint returns all that is wrong with a document, and what is probably not meant.
// SessionsPerHour is how many sessions people start at the place that is judged: one
// cluster after a step, all clusters of a wave at its end; 0 when nobody knows. Name
// is what problems call the document.
func Lint(text []byte, name string, sessionsPerHour float64) (Problems, error) {
	r, err := read(text, name)
	if err != nil {
		return nil, err
	}
	if sessionsPerHour > 0 {
		for _, e := range r.entries {
			r.enough(e, "step", e.policy.Step, sessionsPerHour)
			r.enough(e, "wave", e.policy.Wave, sessionsPerHour)
		}
	}
	return r.problems.sorted(), nil
}

func (r *reader) add(severity Severity, e *entry, key, format string, args ...any) {
	r.problem(severity, e.at.of(key), e.key+"."+key, format, args...)
}

// judge looks at a policy as a whole, with what it takes over.
func (r *reader) judge(e *entry) {
	r.numbers(e)
	r.stage(e, "step", e.policy.Step)
	r.stage(e, "wave", e.policy.Wave)
	if e.policy.Mode == gate.Act && len(e.policy.Step.demanded())+len(e.policy.Wave.demanded()) == 0 {
		r.add(Error, e, "mode", "act rolls back what fails, and no check is demanded that could; demand some, or use shadow")
	}
	if s := e.policy.Wave.Checks.Sessions; s.Demand != gate.DemandPass {
		r.add(Warning, e, "wave.checks.sessions.demand", "%s lets a wave pass without people's sessions; write pass, or know that probes alone decide", s.Demand)
	}
}

// numbers looks at the statistics.
func (r *reader) numbers(e *entry) {
	s := e.policy.Statistics
	if err := s.Policy().Validate(); err != nil {
		for finding := range strings.SplitSeq(strings.TrimPrefix(err.Error(), "gate policy: "), "; ") {
			name, rest, _ := strings.Cut(finding, " is ")
			value, bounds, _ := strings.Cut(rest, " but must be ")
			if name == "tol" {
				name = "tolerance"
			}
			key, at := "statistics."+name, e.at.of("statistics."+name)
			if tolerance, given := e.at["statistics.tolerance"]; given && at == e.at.of("statistics") {
				at = tolerance // which is what a margin that nobody gave is not above
			}
			r.problem(Error, at, e.key+"."+key, "%s is out of range; it must be %s", value, strings.ReplaceAll(bounds, "tol (", "tolerance ("))
		}
	}
	if s.Alpha > 0.05 && s.Alpha <= 0.5 {
		r.add(Warning, e, "statistics.alpha", "%v rolls back one of %.0f harmless releases at each gate; 0.01 is usual, 0.05 the most that is", s.Alpha, 1/s.Alpha)
	}
	if s.Deadline > 0 && s.Deadline <= s.Maturation {
		r.add(Error, e, "statistics.deadline", "%s is not longer than maturation (%s), so no session could be judged in time; raise it", config.Brief(s.Deadline), config.Brief(s.Maturation))
	}
}

// demanded lists the checks of a stage that can keep it from passing, besides
// telemetry, which always can.
func (s stage) demanded(demands ...gate.Demand) []gate.CheckName {
	if len(demands) == 0 {
		demands = []gate.Demand{gate.DemandPass, gate.DemandNoFail}
	}
	var out []gate.CheckName
	for _, c := range s.Checks.each() {
		if c.name != gate.CheckTelemetry && slices.Contains(demands, c.check.Demand) {
			out = append(out, c.name)
		}
	}
	return out
}

const (
	longestStage   = 30 * 24 * time.Hour
	longestSustain = 24 * time.Hour
	mostLooks      = 1000
)

// stage looks at one stage, step or wave.
func (r *reader) stage(e *entry, name string, s stage) {
	span := func(key string, d, most time.Duration) {
		if d < 0 || d > most {
			r.add(Error, e, key, "%s is out of range; it must be from 0s to %s", config.Brief(d), config.Brief(most))
		}
	}
	span(name+".deadline", s.Deadline, longestStage)
	span(name+".soak", s.Soak, longestStage)
	switch {
	case len(s.demanded()) == 0:
		r.add(Error, e, name+".checks", "nothing is demanded, so no evidence can let it pass; write demand: pass for one check at least, such as inventory")
	case len(s.demanded(gate.DemandPass)) == 0:
		r.add(Warning, e, name+".checks", "nothing has to pass, so it passes as long as nothing fails, whatever was seen; write demand: pass for one check at least")
	}
	if d := s.Checks.Telemetry.Demand; d != gate.DemandPass {
		r.add(Warning, e, name+".checks.telemetry.demand", "%s changes nothing: telemetry always has to pass, or the other checks would judge what nobody saw; write pass", d)
	}
	if s.Deadline > 0 && s.Soak >= s.Deadline {
		r.add(Warning, e, name+".deadline", "%s is within the soak (%s), so it comes with the soak's end; raise it or shorten the soak", config.Brief(s.Deadline), config.Brief(s.Soak))
	}
	r.inTime(e, name, s)
	for _, c := range s.Checks.each() {
		key := fmt.Sprintf("%s.checks.%s.sustain", name, c.name)
		span(key+".for", c.check.Sustain.For, longestSustain)
		looks := c.check.Sustain.Looks
		switch {
		case looks < 0 || looks > mostLooks:
			r.add(Error, e, key+".looks", "%d is out of range; it must be from 0 to %d", looks, mostLooks)
		case looks == 0 && c.check.Sustain.For > 0:
			r.add(Error, e, key+".looks", "without looks, for (%s) counts time in which nobody looked; write 1 at least, such as looks: 3", config.Brief(c.check.Sustain.For))
		}
		if over := max(s.Deadline, s.Soak); s.Deadline > 0 && slices.Contains(s.demanded(), c.name) && c.check.Sustain.For >= over {
			r.add(Warning, e, key+".for", "%s is not shorter than the %s itself (%s), so %s cannot fail in it; shorten it", config.Brief(c.check.Sustain.For), name, config.Brief(over), c.name)
		}
	}
	r.houseRules(e, name, s)
}

// inTime looks at deadlines that sessions could not keep at any rate.
func (r *reader) inTime(e *entry, name string, s stage) {
	if s.Deadline <= 0 {
		return
	}
	numbers := e.policy.Statistics
	if s.Checks.Sessions.Demand == gate.DemandPass && max(s.Deadline, s.Soak) <= numbers.Maturation {
		r.add(Error, e, name+".deadline", "%s is not longer than statistics.maturation (%s), so no session could be judged in time; raise it", config.Brief(s.Deadline), config.Brief(numbers.Maturation))
	}
	if slices.Contains(s.demanded(), gate.CheckSessions) && s.Deadline > numbers.Deadline && numbers.Deadline > 0 {
		r.add(Warning, e, name+".deadline", "%s is longer than statistics.deadline (%s), from which on sessions are inconclusive; raise that or lower this", config.Brief(s.Deadline), config.Brief(numbers.Deadline))
	}
}

// usualRate is the share of people's sessions that fail on a good day, for want of a
// better one.
const usualRate = 0.02

// sessionsToPass is how many sessions people have to start until they let an unchanged
// release pass, when the usual share of them fails. Within the bounds of a policy there
// is always such a number, as every margin is above the odds ratio of no change.
func (s Statistics) sessionsToPass() int {
	const many = 100_000_000 // baseline sessions do not run out in a plan
	failed := int(many * usualRate)
	e := gate.Evidence{Partners: s.Partners, Baseline: gate.Trials{Failed: failed, Succeeded: many - failed}}
	n, _ := e.SessionsNeeded(s.Policy())
	return n
}

// enough looks at whether a stage sees as many sessions as it takes.
func (r *reader) enough(e *entry, name string, s stage, perHour float64) {
	numbers := e.policy.Statistics
	if s.Checks.Sessions.Demand != gate.DemandPass || s.Deadline <= 0 || numbers.Policy().Validate() != nil {
		return
	}
	n := numbers.sessionsToPass()
	hours := float64(n)/perHour + numbers.Maturation.Hours()
	if have := max(s.Deadline, s.Soak); hours > have.Hours() {
		wider := "judge it at the end of the wave"
		if name == "wave" {
			wider = "put more clusters into a wave"
		}
		r.add(Warning, e, name+".deadline", "it takes about %d sessions with %g %% of them failing, and %g an hour make %.0fh of that, longer than %s; %s, raise statistics.margin or acceptable_rate, or the deadline",
			n, 100*usualRate, perHour, math.Ceil(hours), config.Brief(have), wider)
	}
}

// ruling is what reading a condition came to.
type ruling struct {
	compiled compiled
	slips    []slip
}

// houseRules looks at the rules of a stage, and writes each condition as it was
// understood.
func (r *reader) houseRules(e *entry, name string, s stage) {
	if len(s.Rules) > maxRules {
		r.add(Error, e, name+".rules", "there are %d and may be %d; a few that people understand are better", len(s.Rules), maxRules)
		return
	}
	for i := range s.Rules {
		one := &s.Rules[i]
		key := name + ".rules[" + one.Name + "]"
		if !nameShape().MatchString(one.Name) && one.Name != "" {
			r.add(Error, e, key+".name", "%q is no name; use 1 to 63 of a to z, 0 to 9, - and _", one.Name)
		}
		if one.Verdict == "" && !r.refused[e.key+"."+key+".verdict"] {
			r.add(Error, e, key+".verdict", "what follows is not said; write fail or hold")
		}
		if strings.TrimSpace(one.Reason) == "" && !r.refused[e.key+"."+key+".reason"] {
			r.add(Error, e, key+".reason", "the reason is missing; say what people are to know where it holds")
		}
		if strings.TrimSpace(one.When) == "" {
			if !r.refused[e.key+"."+key+".when"] {
				r.add(Error, e, key+".when", "the condition is missing; write one, such as sessions.new_failed > 3")
			}
			continue
		}
		r.condition(e, key+".when", s, one)
	}
}

func (r *reader) condition(e *entry, key string, s stage, one *rule) {
	asked, known := r.rulings[one.When]
	if !known {
		asked.compiled, _, asked.slips = r.language.compile(gate.Rule{Name: one.Name, When: one.When})
		r.rulings[one.When] = asked
	}
	where := func(line, column int) place { return r.within(e.at.of(key), one.When, line, column) }
	for _, slip := range asked.slips {
		r.problem(Error, where(slip.line, slip.column), e.key+"."+key, "%s", slip.text)
	}
	for _, m := range asked.compiled.about {
		for _, c := range s.Checks.each() {
			if c.name == m.name && c.check.Demand == gate.DemandOff {
				r.problem(Error, where(m.line, m.column), e.key+"."+key, "%s is off here, so the rule could not be asked; write demand: advisory to look at it without demanding anything", m.name)
			}
		}
	}
	if len(asked.slips) == 0 {
		one.When = asked.compiled.text
	}
}
