package gate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Terms are what one step is judged by besides the statistics, and what it is
// compared with. They are fixed when its gate is opened.
type Terms struct {
	Policy   string // the name of the plan; empty for that of the configuration
	Mode     Mode
	Stage    Stage
	Expected Expectation
	// Controls are clusters that were not stepped; what people's sessions say is set
	// beside theirs before it counts as the step's.
	Controls []Control
}

// Expectation is what a step should be found to have done.
type Expectation struct {
	// Versions are the planned ones of the lines that have moved by now, this step's
	// and earlier ones'. Complete says that no further step follows.
	Versions fleet.VersionSet
	Complete bool
	// Digests are those that the images of a component may have; none where the plan
	// pins none.
	Digests map[fleet.Component][]string
	// Window is how long the cluster may be mixed, zero for as long as it likes.
	Window time.Duration
	// Checks are those of the configuration.
	Checks []ConfiguredCheck
	// Risks are the named ones as judged for this move, as of what was seen at RisksAt.
	Risks   []catalog.Assessment
	RisksAt time.Time
	// Silence is how long a source may say nothing; with zero none is ever up to date.
	Silence time.Duration
}

// Seen is one thing that was observed of a cluster, as it arrived. One of the
// pointers is set.
type Seen struct {
	Source  fleet.SourceID
	Seq     uint64 // of the stream
	Arrived time.Time

	Session      *fleet.Session
	Mark         *fleet.Mark
	Check        *fleet.Check
	Inventory    *fleet.Inventory
	Registration *fleet.Registration
}

// StepDecision is what a step's gate says.
type StepDecision struct {
	StageDecision
	// Sessions is what people's new sessions alone say, Probes the same of probes; its
	// zero value where the stage does not look at them.
	Sessions, Probes Decision
	// Watermark is of all that was taken in when this was said.
	Watermark Watermark
	// Controls is what those of the terms say, by cluster. ControlsHash covers it; it is
	// empty where they were not asked.
	Controls     []ControlEvidence
	ControlsHash string
}

// Summary says in one paragraph what decides. Where that is people's sessions alone
// it is their own summary.
func (d StepDecision) Summary() string {
	people := string(CheckSessions) + ": "
	var texts []string
	alone := true
	for i, r := range d.Reasons {
		if i > 0 && !d.decides(r) {
			break // they come in order of how much they weigh
		}
		texts = append(texts, r.Text)
		alone = alone && strings.HasPrefix(r.Text, people)
	}
	if alone && d.Verdict == d.Sessions.Verdict {
		return d.Sessions.Summary
	}
	return strings.Join(texts, " ")
}

// decides says whether a reason weighs as much as the verdict. One of no check does
// where it is not of something that is waited for.
func (d StepDecision) decides(r Reason) bool {
	switch {
	case d.Verdict != Fail && d.Verdict != Hold:
		return true
	case r.Code == Soaking, r.Code == CheckMissing:
		return false
	}
	check, _, _ := strings.Cut(r.Text, ":")
	i := slices.IndexFunc(d.Results, func(of Result) bool { return string(of.Check) == check })
	return i < 0 || d.Results[i].Verdict == d.Verdict
}

// DefaultTerms are those of a step for which nobody named a policy: people's sessions
// decide it alone, and every other check is told.
func DefaultTerms(p Policy) Terms {
	s := Stage{Checks: make(map[CheckName]CheckPolicy), Deadline: p.Deadline}
	for _, check := range CheckNames() {
		s.Checks[check] = CheckPolicy{Demand: DemandAdvisory}
	}
	s.Checks[CheckSessions] = CheckPolicy{Demand: DemandPass}
	return Terms{Mode: Act, Stage: s}
}

// peopleAlone says whether these are terms that nobody named, by which people's
// sessions decide alone. A fold of sessions waits for the marks of their source
// itself, so that telemetry may be advisory here and nowhere else.
func (t Terms) peopleAlone() bool {
	if t.Policy != "" || len(t.Stage.Rules) > 0 || t.Stage.Soak > 0 || t.Stage.Checks[CheckSessions] != (CheckPolicy{Demand: DemandPass}) {
		return false
	}
	if _, listed := t.Stage.Checks[CheckTelemetry]; !listed {
		return false
	}
	for check, policy := range t.Stage.Checks {
		if check != CheckSessions && policy.Demand != DemandAdvisory && policy.Demand != DemandOff {
			return false
		}
	}
	return true
}

// required are the kinds of observation that a stage rests on, in a fixed order:
// those of the checks that it demands something of. Probes are told as checks where
// the configuration has any, else as sessions.
func (t Terms) required() []fleet.Kind {
	need := make(map[fleet.Kind]bool)
	for _, check := range t.Stage.checks() {
		if d := t.Stage.demand(check); d == DemandAdvisory || d == DemandOff {
			continue
		}
		switch check {
		case CheckSessions, CheckOpen, CheckLifecycle:
			need[fleet.KindSession] = true
		case CheckInventory:
			need[fleet.KindInventory] = true
		case CheckProbes:
			if slices.ContainsFunc(t.Expected.Checks, func(c ConfiguredCheck) bool { return c.Kind.Kind() == fleet.KindProbe }) {
				need[fleet.KindProbe] = true
			} else {
				need[fleet.KindSession] = true
			}
		case CheckTelemetry, CheckRecording, CheckForwarding, CheckRisks: // need no marks
		}
	}
	return slices.DeleteFunc(fleet.Kinds(), func(k fleet.Kind) bool { return !need[k] })
}

// Step judges one step in one cluster by all that its stage looks at. It is a
// function of what it takes in, in stream order: the same rows again give the same
// decision at the same instant, however often one looked in between, and a repeated
// row changes nothing. Checks that are off are not computed; people's sessions are
// folded in any case, since they say how far the rows go.
//
// A check that can fail is looked at with each row that tells something of it, and
// the look is dated by what was seen, not by when it arrived: what is told twice was
// seen once.
//
// A Step is not safe for concurrent use.
type Step struct {
	policy   Policy
	terms    Terms
	alone    bool // people's sessions decide alone
	cluster  fleet.ClusterID
	boundary Boundary
	holds    func(Rule, []Result) (bool, error)
	required []fleet.Kind
	seq      uint64

	watched map[CheckName]*watched // what is not off
	people  *Fold
	probes  *Fold     // nil when off
	probed  time.Time // when the newest probe was made
	open    *OpenFold // nil when off
	ledger  *ledger   // nil when both lifecycle and risks are off
	sources map[sourceKey]*heard

	running    sighting[fleet.Inventory]
	registered sighting[fleet.Registration]
	mixedSince time.Time
	looks      looks

	asked    bool // the controls were heard
	controls []ControlEvidence
}

// watched is a check that a stage looks at.
type watched struct {
	sustain Sustain
	streak  Streak
	result  Result // of the last look, where one is made with every row
}

// look takes in a result with a row that told something of the check.
func (w *watched) look(r Result) { w.result = w.streak.Take(r, w.sustain) }

// counted is a result as its streak counts it. To ask for it is no look.
func (w *watched) counted(r Result) Result {
	at := r.At
	r.At = time.Time{}
	r = w.streak.Take(r, w.sustain)
	r.At = at
	return r
}

// NewStep returns the gate of a step that has seen nothing yet, or an error that says
// what is wrong with the policy, the boundary or the terms. holds asks a house rule
// about results; without rules it may be nil.
func NewStep(p Policy, t Terms, c fleet.ClusterID, b Boundary, holds func(Rule, []Result) (bool, error)) (*Step, error) {
	if holds == nil && len(t.Stage.Rules) > 0 {
		return nil, fmt.Errorf("gate: judge a step of cluster %s: its stage has house rules; give what asks them", c)
	}
	people, err := NewFold(p, c, b)
	if err != nil {
		return nil, err
	}
	s := &Step{
		policy: p, terms: t, alone: t.peopleAlone(), cluster: c, boundary: people.boundary, holds: holds, required: t.required(),
		people: people, watched: make(map[CheckName]*watched), sources: make(map[sourceKey]*heard), looks: newLooks(t.Expected.Checks, b.End),
	}
	for _, check := range CheckNames() {
		if t.Stage.demand(check) != DemandOff {
			s.watched[check] = &watched{sustain: t.Stage.Checks[check].Sustain}
		}
	}
	if s.watched[CheckProbes] != nil {
		if s.probes, err = newProbeFold(p, c, b); err != nil {
			return nil, err
		}
	}
	if w := s.watched[CheckOpen]; w != nil {
		if s.open, err = NewOpenFold(p, DefaultOpenPolicy(), c, b); err != nil {
			return nil, err
		}
		// What restarts is known by other names to those who list sessions.
		s.open.RestartsUntil(b.End.Add(p.Maturation))
		w.look(s.open.Judge(p))
	}
	if s.watched[CheckLifecycle] != nil || s.watched[CheckRisks] != nil {
		s.ledger = newLedger(s.boundary, p.Maturation)
	}
	for _, check := range []CheckName{CheckRecording, CheckForwarding} {
		if w := s.watched[check]; w != nil {
			w.look(s.looks.judge(check))
		}
	}
	s.lookAtInventory()
	return s, nil
}

// Take takes in one row, in stream order. Those of other clusters change nothing.
func (s *Step) Take(seen Seen) {
	if seen.cluster() != s.cluster {
		return
	}
	s.seq = max(s.seq, seen.Seq)
	switch {
	case seen.Session != nil:
		s.session(seen.Session, seen.Seq)
	case seen.Mark != nil:
		s.mark(*seen.Mark, seen)
	case seen.Check != nil:
		s.check(*seen.Check, seen.Seq)
	case seen.Inventory != nil:
		s.inventory(*seen.Inventory, seen.Seq)
	case seen.Registration != nil:
		r := *seen.Registration
		if moved, _ := s.registered.take(r, r.ObservedAt, s.boundary.Start, seen.Seq); moved {
			s.lookAtInventory()
		}
	}
}

// cluster is the one that was seen, empty for none.
func (s Seen) cluster() fleet.ClusterID {
	switch {
	case s.Session != nil:
		return s.Session.Cluster
	case s.Mark != nil:
		return s.Mark.Cluster
	case s.Check != nil:
		return s.Check.Cluster
	case s.Inventory != nil:
		return s.Inventory.Cluster
	case s.Registration != nil:
		return s.Registration.Cluster
	}
	return ""
}

func (s *Step) session(row *fleet.Session, seq uint64) {
	if row.Probe {
		if s.probes != nil {
			s.probes.Session(*row, seq)
		}
		return
	}
	s.people.Session(*row, seq)
	if s.open != nil {
		s.open.Session(*row, seq)
	}
	if s.ledger != nil {
		s.ledger.session(row, seq, s.people.clocks)
	}
}

func (s *Step) mark(m fleet.Mark, seen Seen) {
	m.About = cmp.Or(m.About, fleet.KindSession)
	s.hear(m, seen)
	switch m.About {
	case fleet.KindSession:
		s.sessionMark(m, seen.Seq)
	case fleet.KindInventory:
		if s.running.confirm(m, seen.Seq) {
			s.lookAtInventory()
		}
	case fleet.KindRegistration:
		if s.registered.confirm(m, seen.Seq) {
			s.lookAtInventory()
		}
	case fleet.KindPackage, fleet.KindProbe, fleet.KindHealth, fleet.KindPipeline: // telemetry alone
	}
}

// sessionMark moves all that is folded of sessions.
func (s *Step) sessionMark(m fleet.Mark, seq uint64) {
	was := s.people.mark.CompleteUntil
	s.people.Mark(m, seq)
	until := s.people.mark.CompleteUntil
	if w := s.watched[CheckSessions]; w != nil {
		w.lookAtFold(s.people, until)
	}
	if s.open != nil {
		closed, sees := s.open.closed, s.open.sees()
		s.open.Mark(m, seq)
		if !s.open.closed.Equal(closed) || s.open.sees() != sees {
			s.watched[CheckOpen].look(s.open.Judge(s.policy))
		}
	}
	if s.probes != nil {
		s.probes.Mark(m, seq)
		s.watched[CheckProbes].lookAtFold(s.probes, s.probesAt())
	}
	if s.ledger != nil && until.After(was) {
		s.ledger.reach(until)
		s.lookAtRisks()
	}
}

func (s *Step) check(c fleet.Check, seq uint64) {
	if s.probes != nil && isTrial(c) {
		s.probes.Check(c, seq)
		s.probed = newer(s.probed, c.At)
		s.watched[CheckProbes].lookAtFold(s.probes, s.probesAt())
	}
	for _, check := range []CheckName{CheckRecording, CheckForwarding} {
		if w := s.watched[check]; w != nil && slices.Contains(pipelineKinds(check), c.Kind) && s.looks.take(c) {
			w.look(s.looks.judge(check))
		}
	}
}

// probesAt is until when probes are known.
func (s *Step) probesAt() time.Time {
	if s.probes.listed {
		return newer(s.probed, s.probes.mark.CompleteUntil)
	}
	return s.probed
}

// lookAtFold takes in that a fold says fail. What else it says is not looked at: it
// says nothing else once it has failed, and there is no streak before.
func (w *watched) lookAtFold(f *Fold, at time.Time) {
	if f.failed() {
		w.look(Result{Verdict: Fail, At: at})
	}
}

// lookAtRisks takes in how the risks stand. Only sessions make them fail, so that
// their sentences are not written while none does.
func (s *Step) lookAtRisks() {
	w := s.watched[CheckRisks]
	if w == nil {
		return
	}
	for _, risk := range s.terms.Expected.Risks {
		if class, shows := signature(risk.Risk); shows && s.ledger.since.failures(class) > 0 {
			w.look(s.risks())
			return
		}
	}
	w.look(Result{Verdict: Pass, At: s.risksAt()})
}

func (s *Step) risksAt() time.Time {
	return newer(s.terms.Expected.RisksAt, s.people.mark.CompleteUntil)
}

// risks judges the named risks as things stand.
func (s *Step) risks() Result {
	facts := RiskFacts{Assessed: s.terms.Expected.Risks, Failed: make(map[fleet.Failure]Arms), At: s.risksAt()}
	for _, risk := range facts.Assessed {
		if class, shows := signature(risk.Risk); shows {
			facts.Failed[class] = Arms{Baseline: s.ledger.before.failures(class), New: s.ledger.since.failures(class)}
		}
	}
	return facts.Judge()
}

func (s *Step) inventory(i fleet.Inventory, seq uint64) {
	moved, newest := s.running.take(i, i.ObservedAt, s.boundary.Start, seq)
	switch {
	case !newest:
	case !mixed(i):
		s.mixedSince = time.Time{}
	case s.mixedSince.IsZero():
		// A mix that was there before the step is the step's from its beginning.
		s.mixedSince = newer(i.ObservedAt, s.boundary.Start)
	}
	if moved {
		s.lookAtInventory()
	}
}

func (s *Step) lookAtInventory() {
	w := s.watched[CheckInventory]
	if w == nil {
		return
	}
	w.look(InventoryFacts{
		Applied: s.boundary.End, Versions: s.terms.Expected.Versions, Complete: s.terms.Expected.Complete, Digests: s.terms.Expected.Digests,
		WasRunning: s.running.was, Running: s.running.is, RunningSeen: s.running.until,
		WasRegistered: s.registered.was, Registered: s.registered.is, RegisteredSeen: s.registered.until,
		MixedSince: s.mixedSince, Window: s.terms.Expected.Window,
	}.Judge())
}

// Watermark returns how much was taken in: until when people's sessions are known,
// and the highest stream sequence of any row of the cluster.
func (s *Step) Watermark() Watermark {
	return Watermark{CompleteUntil: s.people.mark.CompleteUntil, Seq: s.seq}
}

// Quiet reports, at little cost, that nothing is decided yet: nothing that is watched
// fails, and something that is demanded has not passed. It is asked with every message,
// of every gate. Where it says no, Decide knows.
func (s *Step) Quiet(now time.Time) bool {
	if s.alone {
		return s.people.reached == nil
	}
	if len(s.terms.Stage.Rules) > 0 {
		return false
	}
	missing := now.Before(s.soaked())
	for check, w := range s.watched {
		demand := s.terms.Stage.demand(check)
		fold := s.foldOf(check)
		switch {
		case demand == DemandAdvisory, check == CheckTelemetry: // it never fails
		case check == CheckLifecycle, fold != nil && fold.failed(), w.result.Verdict == Fail:
			return false
		case demand != DemandPass, check == CheckRisks: // whether it has passed is not known without asking
		case fold != nil:
			missing = missing || fold.reached == nil
		default:
			missing = missing || w.result.Verdict != Pass
		}
	}
	return missing
}

// soaked is when the stage has lasted for as long as it has to.
func (s *Step) soaked() time.Time { return s.boundary.End.Add(s.terms.Stage.Soak) }

// foldOf is what a check of trials is folded in, nil for another.
func (s *Step) foldOf(check CheckName) *Fold {
	switch check {
	case CheckSessions:
		return s.people
	case CheckProbes:
		return s.probes
	case CheckTelemetry, CheckInventory, CheckOpen, CheckLifecycle, CheckRecording, CheckForwarding, CheckRisks:
	}
	return nil
}

// failed says whether evidence has reached ROLLBACK, at first or after a pass.
func (f *Fold) failed() bool {
	return f.revocation != nil || f.reached != nil && f.reached.verdict == Fail
}

// Decide returns the decision as things stand at an instant. Whether the deadline has
// passed is for the caller to say: without its word nothing expires, however late it
// is, and with it what is still waited for has expired, however early, but for a soak.
func (s *Step) Decide(now time.Time, deadlinePassed bool) StepDecision {
	d := StepDecision{Sessions: s.beside(s.said(s.people, deadlinePassed), deadlinePassed), Watermark: s.Watermark(), Controls: s.controls}
	if s.asked {
		d.ControlsHash = controlsHash(s.controls)
	}
	if s.probes != nil {
		d.Probes = s.said(s.probes, deadlinePassed)
	}
	results := s.results(now, d)
	if s.alone {
		d.StageDecision = s.byPeople(d.Sessions, results, deadlinePassed)
		return d
	}
	d.StageDecision = combineBy(s.terms, s.boundary.End, now, deadlinePassed, results, s.holds)
	return d
}

// combineBy combines results by the terms of a stage that began at an instant, where the
// caller says whether the deadline has passed.
func combineBy(t Terms, begun, now time.Time, deadlinePassed bool, results []Result, holds func(Rule, []Result) (bool, error)) StageDecision {
	stage := t.Stage
	if deadlinePassed {
		now = newer(now, begun.Add(stage.Deadline))
	} else {
		stage.Deadline = 0
	}
	d := Combine(stage, t.Mode, begun, now, results, func(r Rule) (bool, error) { return holds(r, results) })
	d.Hash = t.Stage.hash(t.Mode, d)
	return d
}

// said is what a fold says. A pass of people's sessions ends a gate that asks for
// nothing else; any other may go on, and a pass is taken back.
func (s *Step) said(f *Fold, deadlinePassed bool) Decision {
	if d, revoked := f.Revocation(); revoked && !s.alone {
		return d
	}
	return f.Verdict(deadlinePassed)
}

// byPeople is the decision of people's sessions alone. What is not final is waited for
// until the deadline.
func (s *Step) byPeople(sessions Decision, results []Result, deadlinePassed bool) StageDecision {
	var found findings
	for _, r := range sessions.Reasons {
		found.add(sessions.Verdict, r.Code, "%s: %s", CheckSessions, r.Text)
	}
	d := StageDecision{Verdict: sessions.Verdict, Reasons: found.reasons(), Results: results, Consequence: Wait}
	if d.Verdict.Final() || deadlinePassed {
		d.Consequence = s.terms.Mode.Consequence(d.Verdict)
	}
	d.Hash = s.terms.Stage.hash(s.terms.Mode, d)
	return d
}

// results lists what each check says that is not off.
func (s *Step) results(now time.Time, d StepDecision) []Result {
	var out []Result
	for _, check := range CheckNames() {
		if w := s.watched[check]; w != nil {
			out = append(out, s.result(check, w, now, d))
		}
	}
	return out
}

func (s *Step) result(check CheckName, w *watched, now time.Time, d StepDecision) Result {
	until := s.people.mark.CompleteUntil
	switch check {
	case CheckTelemetry:
		return s.telemetry(now)
	case CheckProbes:
		return w.counted(d.Probes.result(check, s.probesAt()))
	case CheckSessions:
		return w.counted(d.Sessions.result(check, until))
	case CheckLifecycle:
		return LifecycleFacts{
			Baseline: s.ledger.before.lifecycle(s.policy.Maturation, until), New: s.ledger.since.lifecycle(s.policy.Maturation, until), At: until,
		}.Judge()
	case CheckRisks:
		return w.counted(s.risks())
	case CheckInventory, CheckOpen, CheckRecording, CheckForwarding: // as they were looked at
	}
	return w.result
}

// result is a decision on trials as the result of a check.
func (d Decision) result(check CheckName, at time.Time) Result {
	return Result{Check: check, Verdict: d.Verdict, Reasons: d.Reasons, Text: d.Reasons[0].Text, At: at, Figures: d.Evidence.Figures(check)}
}
