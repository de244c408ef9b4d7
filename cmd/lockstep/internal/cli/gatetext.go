package cli

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// below adds lines that stand below what was said, without a label.
func (a *account) below(text string) {
	for line := range strings.Lines(text) {
		a.WriteString(strings.Repeat(" ", a.width+2) + line)
	}
}

// staged says whether a gate asks checks, or was decided by some. One that was
// decided before there were any rests on the statistics of sessions alone.
func staged(g *gatev1.Gate) bool {
	d := g.GetDecision()
	return len(d.GetChecks()) > 0 || d.GetDecidedAt() == nil && len(g.GetTerms().GetStage().GetChecks()) > 0
}

// tells says whether a reason is one of a check: it begins with its name.
func tells(check string, r *gatev1.Reason) bool { return strings.HasPrefix(r.GetText(), check+": ") }

// gateText is the account of one gate: what it says and what follows, what each
// check found, and what sessions and probes show.
func (s *shell) gateText(g *gatev1.Gate) string {
	a := &account{width: len("Decided by")}
	of := fmt.Sprintf("step %s of cluster %s", clean(g.GetStep()), clean(g.GetCluster()))
	if wave := g.GetWave(); wave != nil {
		of = fmt.Sprintf("wave %d of %s", wave.GetNumber(), count(int64(len(wave.GetMembers())), "cluster"))
	}
	fmt.Fprintf(a, "Gate %s: %s, rollout %s\n\n", clean(g.GetId()), of, clean(g.GetRollout()))
	if staged(g) {
		s.tellStage(a, g)
	} else {
		s.tellVerdict(a, g)
	}
	if e := g.GetDecision().GetEvidence(); !staged(g) || asked(g, gate.CheckSessions) {
		a.WriteByte('\n')
		s.tellCompared(a, g, e)
		a.WriteByte('\n')
		tellLuck(a, g, e)
	}
	if asked(g, gate.CheckProbes) && staged(g) && g.GetWave() == nil {
		a.WriteByte('\n')
		a.say("Probes", "%s", probeWords(g.GetDecision().GetProbes()))
	}
	a.WriteByte('\n')
	s.tellGrounds(a, g)
	if staged(g) {
		s.tellTerms(a, g)
	} else {
		tellPolicy(a, g)
	}
	return a.String()
}

// tellVerdict tells the verdict of a gate without checks.
func (s *shell) tellVerdict(a *account, g *gatev1.Gate) {
	d := g.GetDecision()
	a.say("Verdict", "%s", paint(clean(cmp.Or(d.GetVerdict(), "pending")), s.colour))
	if d.GetSummary() != "" {
		a.say("", "%s", clean(d.GetSummary()))
	}
	for i, r := range d.GetReasons() {
		a.say(first(i, "Decided by"), "%s: %s", clean(r.GetCode()), clean(r.GetText()))
	}
}

// first is a label for the first of several lines.
func first(i int, label string) string {
	if i > 0 {
		return ""
	}
	return label
}

// tellStage tells the verdict of a gate with checks, what follows from it and what
// each check says.
func (s *shell) tellStage(a *account, g *gatev1.Gate) {
	d := g.GetDecision()
	a.say("Verdict", "%s", s.verdictWords(d))
	a.say("Follows", "%s", followWords(g))
	for i, r := range untold(d) {
		a.say(first(i, "Because"), "%s", clean(r.GetText()))
	}
	if ends := deadlineOf(g); d.GetDecidedAt() == nil && !ends.IsZero() {
		a.say("Deadline", "%s", s.deadlineWords(ends))
	}
	a.WriteByte('\n')
	a.below(s.checkTable(g).render(s.colour))
	if members := d.GetMembers(); len(members) > 0 {
		a.WriteByte('\n')
		a.below(memberTable(members).render(s.colour))
	}
}

// memberTable has a row for each cluster of a wave.
func memberTable(members []*gatev1.MemberHeard) *table {
	t := &table{header: []string{"CLUSTER", "SESSIONS", "NEW", "BASELINE", "FAILED CHECKS", "NOTE"}}
	for _, m := range members {
		var notes []string
		for _, note := range []struct {
			text string
			here bool
		}{{"went back before", m.GetRolledBack()}, {"goes back", m.GetBack()}, {"named bad", m.GetNamed()}} {
			if note.here {
				notes = append(notes, note.text)
			}
		}
		t.add(m.GetCluster(), m.GetVerdict(), share(m.GetNewFailed(), m.GetNewSucceeded()), share(m.GetBaselineFailed(), m.GetBaselineSucceeded()),
			strings.Join(m.GetFailed(), ", "), strings.Join(notes, ", "))
	}
	return t
}

// verdictWords is the verdict and, when it may still change, that it may.
func (s *shell) verdictWords(d *gatev1.Decision) string {
	verdict := cmp.Or(d.GetVerdict(), "pending")
	text := paint(clean(verdict), s.colour)
	if d.GetDecidedAt() == nil && verdict != "pending" {
		text += ", not recorded yet"
	}
	return text
}

// followWords says what follows from a verdict and, where the policy's mode keeps
// back what it would come to, what that is.
func followWords(g *gatev1.Gate) string {
	d, mode := g.GetDecision(), g.GetTerms().GetMode()
	follows := gate.Consequence(d.GetConsequence())
	text := ""
	switch follows {
	case gate.Wait:
		text = "nothing yet: the rollout waits for this gate"
	case gate.GoOn:
		text = "the rollout goes on"
	case gate.Tell:
		text = "people are told, and the rollout goes on"
	case gate.Stop:
		text = "the rollout holds until a person decides"
	case gate.RollBack:
		text = "the cluster is rolled back"
		if g.GetWave() != nil {
			text = "the clusters at fault are rolled back, and the rollout holds until a person decides"
		}
	default:
		text = cmp.Or(clean(string(follows)), "not known")
	}
	would := gate.Act.Consequence(gate.Verdict(d.GetVerdict()))
	switch {
	case mode == "" || mode == string(gate.Act) || follows == gate.Wait || would == follows:
	case would == gate.Stop:
		text += fmt.Sprintf(", as the policy's mode is %s; under act the rollout would hold until a person decides", clean(mode))
	case would == gate.RollBack:
		text += fmt.Sprintf(", as the policy's mode is %s; under act %s would be rolled back", clean(mode), whom(g))
	}
	return text
}

func whom(g *gatev1.Gate) string {
	if g.GetWave() != nil {
		return "the clusters at fault"
	}
	return "the cluster"
}

// untold lists the reason that decides and those others that no check's own lines
// tell, such as a house rule or a check that has said nothing.
func untold(d *gatev1.Decision) []*gatev1.Reason {
	var list []*gatev1.Reason
	for i, r := range d.GetReasons() {
		told := slices.ContainsFunc(d.GetChecks(), func(c *gatev1.CheckResult) bool { return tells(c.GetCheck(), r) })
		if i == 0 || !told {
			list = append(list, r)
		}
	}
	return list
}

// deadlineOf is when "not decided" is a gate's answer, the zero time for never. It
// comes with the end of the soak at the earliest.
func deadlineOf(g *gatev1.Gate) time.Time {
	stage, began := g.GetTerms().GetStage(), g.GetBoundary().GetEnd()
	if wave := g.GetWave(); wave != nil {
		began = wave.GetBegun()
	}
	if stage.GetDeadline().AsDuration() == 0 || began == nil {
		return time.Time{}
	}
	return began.AsTime().Add(max(stage.GetDeadline().AsDuration(), stage.GetSoak().AsDuration()))
}

func (s *shell) deadlineWords(ends time.Time) string {
	left, where := ends.Sub(s.Now()), s.instant(timestamppb.New(ends))
	if left <= 0 {
		return where + ", over: it is inconclusive once what was sent until then has arrived"
	}
	return fmt.Sprintf("%s, in %s: not decided by then is inconclusive", where, short(left))
}

// checkTable has a row for each check that has spoken, with its further reasons
// below unless it passed, and one for each that was asked and has not.
func (s *shell) checkTable(g *gatev1.Gate) *table {
	t := &table{header: []string{"CHECK", "VERDICT", "DEMAND", "SEEN", "SAYS"}}
	// No "-" for a cell that is left empty on purpose.
	add := func(cells ...string) {
		for i := range cells {
			cells[i] = clean(cells[i])
		}
		t.rows = append(t.rows, cells)
	}
	for _, c := range g.GetDecision().GetChecks() {
		add(c.GetCheck(), c.GetVerdict(), demandWords(c.GetDemand()), s.seenWords(g, c), c.GetText())
		if c.GetVerdict() == "pass" {
			continue
		}
		for _, r := range c.GetReasons() {
			if r.GetText() != c.GetText() {
				add("", "", "", "", r.GetText())
			}
		}
	}
	for _, c := range silent(g) {
		add(c.GetCheck(), "-", demandWords(c.GetDemand()), "never", "no result")
	}
	return t
}

// demandWords leaves out the demand that most checks have.
func demandWords(demand string) string {
	if demand == string(gate.DemandPass) {
		return ""
	}
	return demand
}

// seenWords is how old what a check rests on is, or was when the gate decided.
func (s *shell) seenWords(g *gatev1.Gate, c *gatev1.CheckResult) string {
	decided := g.GetDecision().GetDecidedAt()
	switch {
	case c.GetAt() == nil:
		return "never"
	case decided != nil:
		return ago(decided.AsTime(), c.GetAt()) + " before"
	}
	return s.age(c.GetAt()) + " ago"
}

// silent lists the checks that a gate asks and that have said nothing.
func silent(g *gatev1.Gate) []*gatev1.CheckDemand {
	var list []*gatev1.CheckDemand
	for _, c := range g.GetTerms().GetStage().GetChecks() {
		if c.GetDemand() != string(gate.DemandOff) && resultOf(g.GetDecision(), c.GetCheck()) == nil {
			list = append(list, c)
		}
	}
	return list
}

// resultOf is what one check says, nil when it says nothing.
func resultOf(d *gatev1.Decision, check string) *gatev1.CheckResult {
	for _, c := range d.GetChecks() {
		if c.GetCheck() == check {
			return c
		}
	}
	return nil
}

// asked says whether a gate looks at a check.
func asked(g *gatev1.Gate, check gate.CheckName) bool {
	return resultOf(g.GetDecision(), string(check)) != nil ||
		slices.ContainsFunc(silent(g), func(c *gatev1.CheckDemand) bool { return c.GetCheck() == string(check) })
}

// tellCompared tells which sessions are compared, and their counts.
func (s *shell) tellCompared(a *account, g *gatev1.Gate, e *gatev1.Evidence) {
	at := g.GetBoundary()
	if g.GetWave() != nil {
		a.say("Compared", "of each cluster, sessions that started after its last step, the last of them at %s,", s.instant(at.GetEnd()))
		a.say("", "with those that started before its first, from %s on;", s.instant(at.GetBaselineFrom()))
	} else {
		a.say("Compared", "sessions that started from %s on", s.instant(at.GetEnd()))
		a.say("", "with those that started from %s until %s;", s.instant(at.GetBaselineFrom()), s.instant(at.GetStart()))
	}
	a.say("", "those in between are cut, as the move itself may have ended them")
	for _, span := range at.GetAside() {
		a.say("", "set aside, because an earlier rollout moved the cluster: %s until %s", s.instant(span.GetFrom()), s.instant(span.GetTo()))
	}
	a.WriteByte('\n')
	t := &table{header: []string{"", "FAILED", "SUCCEEDED", "RATE", "UNRESOLVED"}}
	arm := func(name string, failed, succeeded, unresolved int64) {
		rate := "-"
		if n := failed + succeeded; n > 0 {
			rate = percent(float64(failed) / float64(n))
		}
		t.add(name, thousands(float64(failed)), thousands(float64(succeeded)), rate, thousands(float64(unresolved)))
	}
	arm("new", e.GetNewFailed(), e.GetNewSucceeded(), e.GetNewUnresolved())
	arm("baseline", e.GetBaselineFailed(), e.GetBaselineSucceeded(), e.GetBaselineUnresolved())
	a.below(t.render(false))
	a.say("", "%s cut, %s late", thousands(float64(e.GetCut())), thousands(float64(e.GetLate())))
}

// tellLuck tells how sure the evidence of sessions is, and what it still lacks.
func tellLuck(a *account, g *gatev1.Gate, e *gatev1.Evidence) {
	p, fails := g.GetPolicy(), "rolls back"
	if staged(g) {
		fails = "fails"
	}
	a.say("Odds ratio", "%s", oddsWords(e))
	a.say("Worse", "%s; %s at 1 in %s", luck(e.GetLogERollback()), fails, thousands(1/p.GetAlpha()))
	a.say("No worse", "against the baseline: %s", luck(e.GetLogEPromoteRelative()))
	a.say("", "by its own rate:      %s; either passes at 1 in %s", luck(e.GetLogEPromoteAbsolute()), thousands(2/p.GetBeta()))
	verdict, idle := g.GetDecision().GetVerdict(), ""
	if staged(g) {
		sessions := resultOf(g.GetDecision(), string(gate.CheckSessions))
		verdict = sessions.GetVerdict()
		if d := sessions.GetDemand(); d != "" && d != string(gate.DemandPass) {
			idle = "; this gate does not ask for them"
		}
	}
	switch n := e.GetSessionsNeeded(); {
	case n > 0:
		a.say("To pass", "about %s more %s%s", thousands(float64(n)), plural(n, "session"), idle)
	case verdict != "pass" && verdict != "fail":
		a.say("To pass", "the number of sessions still needed is not known%s", idle)
	}
}

// probeWords is the evidence of probes in a line. They are compared with probes
// alone, and pass by their own rate alone.
func probeWords(e *gatev1.Evidence) string {
	text := armsWords(e)
	if e.GetNewFailed()+e.GetNewSucceeded() > 0 && e.GetBaselineFailed()+e.GetBaselineSucceeded() > 0 {
		text += "; odds ratio " + pointWords(e) + " (" + intervalWords(e) + ")"
	}
	text += "; worse: " + luck(e.GetLogERollback()) + ", good enough: " + luck(e.GetLogEPromoteAbsolute())
	if n := e.GetSessionsNeeded(); n > 0 {
		text += fmt.Sprintf("; about %s more to pass", thousands(float64(n)))
	}
	return text
}

// armsWords counts what failed of both arms.
func armsWords(e *gatev1.Evidence) string {
	of := func(failed, succeeded int64) string {
		return thousands(float64(failed)) + " of " + thousands(float64(failed+succeeded))
	}
	return of(e.GetNewFailed(), e.GetNewSucceeded()) + " failed, " + of(e.GetBaselineFailed(), e.GetBaselineSucceeded()) + " before"
}

// tellGrounds tells how much was seen, and when the gate was opened and decided.
func (s *shell) tellGrounds(a *account, g *gatev1.Gate) {
	d := g.GetDecision()
	if d.GetCompleteUntil() == nil {
		a.say("Evidence", "no source has said yet that it has sent every session")
	} else {
		a.say("Evidence", "complete for sessions that started before %s", s.instant(d.GetCompleteUntil()))
	}
	a.say("", "as of message %s of the observation stream, hash %s", strconv.FormatUint(d.GetStreamSequence(), 10), cmp.Or(clean(d.GetEvidenceHash()), "none yet"))
	if staged(g) {
		a.say("", "what the checks say, hash %s", cmp.Or(clean(d.GetStageHash()), "none yet"))
	}
	a.say("Opened", "%s", s.instant(g.GetOpenedAt()))
	if d.GetDecidedAt() != nil {
		late := ""
		if d.GetDeadlinePassed() {
			late = ", the deadline had passed"
		}
		a.say("Decided", "%s, %s after opening%s", s.instant(d.GetDecidedAt()), short(d.GetDecidedAt().AsTime().Sub(g.GetOpenedAt().AsTime())), late)
	}
}

// tellPolicy tells the numbers of a gate without checks.
func tellPolicy(a *account, g *gatev1.Gate) {
	if g.GetPolicy() == nil {
		return
	}
	for i, sentence := range policyWords(g.GetPolicy()) {
		a.say(first(i, "Policy"), "%s", sentence)
	}
	a.say("", "hash %s", cmp.Or(clean(g.GetDecision().GetPolicyHash()), "none yet"))
}

// tellTerms tells what a gate with checks is judged by.
func (s *shell) tellTerms(a *account, g *gatev1.Gate) {
	terms, p := g.GetTerms(), g.GetPolicy()
	stage, expected := terms.GetStage(), terms.GetExpected()
	if words := expectedWords(expected); words != "" {
		a.say("Expected", "%s", words)
	}
	a.say("Policy", "%s", modeWords(&gatev1.Plan{Name: cmp.Or(terms.GetPolicy(), "of the configuration"), Mode: terms.GetMode()}))
	if lasts := stage.GetSoak().AsDuration(); lasts > 0 {
		began := "after the step"
		if g.GetWave() != nil {
			began = "after every cluster was through"
		}
		a.say("", "It passes no earlier than %s %s.", short(lasts), began)
	}
	if d := stage.GetDeadline().AsDuration(); d > 0 {
		a.say("", "Not decided within %s is inconclusive.", short(d))
	}
	if p != nil {
		a.say("", "Sessions and probes fail when the odds of failing are more than %s times the baseline's and at least %s fail; wrong in at most 1 of %s gates.",
			figure(p.GetTolerance()), percent(p.GetFloorRate()), thousands(1/p.GetAlpha()))
		a.say("", "Sessions pass when those odds are shown to be below %s times, and both when the failure rate is below %s; wrong in at most 1 of %s.",
			figure(p.GetMargin()), percent(p.GetAcceptableRate()), thousands(1/p.GetBeta()))
	}
	for _, r := range stage.GetRules() {
		a.say("", "House rule %s: %s when %s", clean(r.GetName()), clean(r.GetVerdict()), clean(r.GetWhen()))
	}
	a.say("", "hash %s", cmp.Or(clean(g.GetDecision().GetPolicyHash()), "none yet"))
}

// expectedWords is what the step should have come to.
func expectedWords(e *gatev1.Expectation) string {
	var lines []string
	for line, version := range e.GetVersions() {
		lines = append(lines, clean(line)+" "+clean(version))
	}
	slices.Sort(lines)
	if e.GetComplete() {
		lines = append(lines, "nothing moves after it")
	}
	if e.GetWindow().AsDuration() > 0 {
		lines = append(lines, "mixed for at most "+length(e.GetWindow()))
	}
	return strings.Join(lines, ", ")
}

func oddsWords(e *gatev1.Evidence) string {
	if e.GetNewFailed()+e.GetNewSucceeded() == 0 || e.GetBaselineFailed()+e.GetBaselineSucceeded() == 0 {
		return "not known yet: one of the two has no sessions"
	}
	return fmt.Sprintf("%s, new against baseline; anytime interval %s (1 is no difference)", pointWords(e), intervalWords(e))
}

func pointWords(e *gatev1.Evidence) string {
	if v := e.GetOddsRatio(); math.IsInf(v, 0) || math.IsNaN(v) {
		return "beyond measure (no failure in the baseline)"
	}
	return figure(e.GetOddsRatio())
}

func intervalWords(e *gatev1.Evidence) string {
	high := figure(e.GetOddsRatioHigh())
	if bound := e.GetOddsRatioHigh(); math.IsInf(bound, 1) || math.IsNaN(bound) {
		high = "no upper limit"
	}
	return figure(e.GetOddsRatioLow()) + " to " + high
}

// luck words an e-value given as its logarithm: evidence of E or more arises at
// most once in E times by luck (Ville's inequality).
func luck(logE float64) string {
	switch e := math.Exp(logE); {
	case math.IsNaN(e):
		return "not known"
	case e < 1.05:
		return "no evidence"
	case e > 1e9:
		return "less than 1 in 1,000,000,000 by luck"
	default:
		return "1 in " + thousands(e) + " by luck"
	}
}

// thousands is a number of things: whole and in groups of three, with one
// decimal below ten where it matters.
func thousands(v float64) string {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return "unknown"
	}
	if v < 10 && v != math.Trunc(v) {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	digits := strconv.FormatFloat(math.Round(v), 'f', 0, 64)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
