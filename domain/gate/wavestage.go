package gate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// WaveTerms are which wave is judged and what is known of its clusters. They are fixed
// when its gate is opened.
type WaveTerms struct {
	Number  int       // counted from 1
	Begun   time.Time // when every cluster of it was through
	Limits  WaveLimits
	Members []WaveMember // by cluster
}

// WaveMember is one cluster of a wave.
type WaveMember struct {
	Cluster fleet.ClusterID
	// Boundary is that of the whole move: from before its first step to the end of its
	// last.
	Boundary Boundary
	Expected Expectation
	// StepsPassed says that every step gate passed, RolledBack that the cluster went back.
	StepsPassed, RolledBack bool
	// UpTo is the last message that the gate of a cluster that went back had seen: what
	// came later is not of the release.
	UpTo uint64
}

// Boundary spans those of all members.
func (t WaveTerms) Boundary() Boundary {
	var b Boundary
	for i, m := range t.Members {
		if i == 0 {
			b = Boundary{BaselineFrom: m.Boundary.BaselineFrom, Start: m.Boundary.Start, End: m.Boundary.End}
			continue
		}
		b.BaselineFrom, b.Start = earlier(b.BaselineFrom, m.Boundary.BaselineFrom), earlier(b.Start, m.Boundary.Start)
		b.End = newer(b.End, m.Boundary.End)
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// WaveStage judges the end of a wave by all that its stage looks at: each check in each
// of its clusters, and people's sessions of all of them together, beside clusters that
// were not stepped. It is a function of what it takes in, as a Step is.
//
// Members may take in their rows at the same time.
type WaveStage struct {
	policy   Policy
	terms    Terms
	wave     WaveTerms
	members  []*Step
	controls []*Fold
	asked    bool
	holds    func(Rule, []Result) (bool, error)
}

// WaveStageDecision is what the gate of a wave says.
type WaveStageDecision struct {
	StageDecision
	// Sessions is what people's sessions say.
	Sessions WaveDecision
	Members  []MemberDecision // by cluster
	// Watermark is of the member that is known the least far, as of the last message of
	// any.
	Watermark Watermark
	// Controls is what those that were asked say, by cluster. ControlsHash covers it; it
	// is empty where none was.
	Controls     []ControlEvidence
	ControlsHash string
}

// MemberDecision is what the gate of a wave says of one cluster.
type MemberDecision struct {
	ClusterVerdict
	Evidence  Evidence
	Watermark Watermark
	// Failed are the checks that failed in it.
	Failed []CheckName
	// RolledBack says that it went back before, Back that it is to go back.
	RolledBack, Back bool
}

// Summary says in one paragraph what decides.
func (d WaveStageDecision) Summary() string {
	return StepDecision{StageDecision: d.StageDecision}.Summary()
}

// NewWaveStage returns the gate of a wave that has seen nothing yet, or an error that
// says what is wrong.
func NewWaveStage(p Policy, t Terms, w WaveTerms, holds func(Rule, []Result) (bool, error)) (*WaveStage, error) {
	if holds == nil && len(t.Stage.Rules) > 0 {
		return nil, fmt.Errorf("gate: judge wave %d: its stage has house rules; give what asks them", w.Number)
	}
	if err := w.Limits.Validate(); err != nil {
		return nil, err
	}
	s := &WaveStage{policy: p, terms: t, wave: w, holds: holds}
	for _, m := range w.Members {
		step, err := NewStep(p, Terms{Policy: cmp.Or(t.Policy, "wave"), Mode: Act, Stage: Stage{Checks: t.Stage.Checks}, Expected: m.Expected}, m.Cluster, m.Boundary, nil)
		if err != nil {
			return nil, err
		}
		step.people.keepIntervals()
		s.members = append(s.members, step)
	}
	return s, nil
}

// Take takes in one row of a member, in stream order of each. Those of other clusters
// change nothing.
func (s *WaveStage) Take(seen Seen) {
	cluster := seen.cluster()
	i, found := slices.BinarySearchFunc(s.wave.Members, cluster, func(m WaveMember, c fleet.ClusterID) int { return cmp.Compare(m.Cluster, c) })
	if found {
		s.members[i].Take(seen)
	}
}

// Beside takes in the folds of the controls.
func (s *WaveStage) Beside(controls []*Fold) { s.asked, s.controls = true, controls }

// Decide returns the decision as things stand at an instant. Whether the deadline has
// passed is for the caller to say, as for a Step.
//
// Of a check but sessions the wave says what the worst of its clusters says. People's
// sessions are judged as Wave.Judge does, but that a cluster whose own evidence rolls it
// back fails the wave, however many may: what is recorded is final, and it has to go
// back.
//
// When the wave fails those clusters are to go back that are at fault: whose own evidence
// says so, that are named, or in which a check failed. Where none is in particular, all.
func (s *WaveStage) Decide(now time.Time, deadlinePassed bool) WaveStageDecision {
	var d WaveStageDecision
	wave, seen := s.beside(&d)
	results := make(map[CheckName][]memberResult)
	var blind []Reason
	for i, m := range s.wave.Members {
		step := s.members[i]
		said := step.Decide(now, false)
		member := MemberDecision{Evidence: step.people.Evidence(), Watermark: said.Watermark, RolledBack: m.RolledBack}
		evidence := ClusterEvidence{Cluster: m.Cluster, Evidence: member.Evidence, StepsPassed: m.StepsPassed, RolledBack: m.RolledBack}
		if len(seen) > 0 {
			evidence.Control = pairUp(s.policy, []*Fold{step.people}, seen)
		}
		wave.Clusters = append(wave.Clusters, evidence)
		d.watermark(said.Watermark, i == 0)
		if !m.RolledBack {
			member.Failed = s.note(results, m.Cluster, said.Results)
			if r := said.Sessions; r.Verdict == Inconclusive {
				blind = append(blind, Reason{r.Reasons[0].Code, fmt.Sprintf("In cluster %s: %s", m.Cluster, r.Reasons[0].Text)})
			}
		}
		d.Members = append(d.Members, member)
	}
	if len(seen) > 0 {
		folds := make([]*Fold, len(s.members))
		for i, step := range s.members {
			folds[i] = step.people
		}
		wave.Control = pairUp(s.policy, folds, seen)
	}
	d.Sessions = wave.Judge(s.policy, s.wave.Limits, deadlinePassed)
	for i := range d.Members {
		d.Members[i].ClusterVerdict = d.Sessions.Clusters[i]
	}
	d.StageDecision = combineBy(s.terms, s.wave.Begun, now, deadlinePassed, s.results(d, results, blind), s.holds)
	d.back()
	return d
}

// beside returns the wave with its controls, and those of them that are seen whole.
func (s *WaveStage) beside(d *WaveStageDecision) (wave Wave, seen []*Fold) {
	if !s.asked {
		return Wave{}, nil
	}
	for _, fold := range s.controls {
		if said, whole := fold.Control(); whole {
			wave.Controls, seen = append(wave.Controls, said), append(seen, fold)
		}
	}
	d.Controls, d.ControlsHash = wave.Controls, controlsHash(wave.Controls)
	return wave, seen
}

// watermark takes in how far one more member is known.
func (d *WaveStageDecision) watermark(w Watermark, first bool) {
	if first || w.CompleteUntil.Before(d.Watermark.CompleteUntil) {
		d.Watermark.CompleteUntil = w.CompleteUntil
	}
	d.Watermark.Seq = max(d.Watermark.Seq, w.Seq)
}

type memberResult struct {
	cluster fleet.ClusterID
	Result
}

// note keeps what the checks say in one cluster, and returns those that failed.
func (s *WaveStage) note(into map[CheckName][]memberResult, cluster fleet.ClusterID, results []Result) (failed []CheckName) {
	for _, r := range results {
		if r.Check == CheckSessions {
			continue
		}
		into[r.Check] = append(into[r.Check], memberResult{cluster, r})
		if d := s.terms.Stage.demand(r.Check); r.Verdict == Fail && d != DemandAdvisory && d != DemandOff {
			failed = append(failed, r.Check)
		}
	}
	return failed
}

// results lists what each check says of the whole wave.
func (s *WaveStage) results(d WaveStageDecision, each map[CheckName][]memberResult, blind []Reason) []Result {
	var out []Result
	for _, check := range CheckNames() {
		if list := each[check]; len(list) > 0 {
			out = append(out, worst(check, list))
		}
		if check == CheckSessions && s.terms.Stage.demand(check) != DemandOff {
			out = append(out, d.sessions(blind))
		}
	}
	return out
}

// sessions is what people's sessions of the whole wave say.
func (d WaveStageDecision) sessions(blind []Reason) Result {
	r := Result{
		Check: CheckSessions, Verdict: d.Sessions.Verdict, Reasons: d.Sessions.Reasons, At: d.Watermark.CompleteUntil, Figures: d.Sessions.Evidence.Figures(CheckSessions),
	}
	own := slices.ContainsFunc(d.Members, func(m MemberDecision) bool { return !m.RolledBack && m.Verdict == Fail })
	switch {
	case own:
		r.Verdict = Fail
	case len(blind) > 0 && (r.Verdict == Pass || r.Verdict == Pending):
		r.Verdict, r.Reasons = Inconclusive, slices.Concat(blind, r.Reasons)
	}
	r.Text = r.Reasons[0].Text
	return r
}

// mostTold is how many clusters are told of at most where a check says the same of
// several.
const mostTold = 3

// worst is what a check says of a wave: what the worst of its clusters say, as of what
// was seen first. Its counts are those of all clusters, its times the longest.
func worst(check CheckName, list []memberResult) Result {
	slices.SortStableFunc(list, func(a, b memberResult) int { return cmp.Compare(a.weight(), b.weight()) })
	r := Result{Check: check, Verdict: list[0].Verdict, At: list[0].At, Figures: noFigures(check)}
	same := 0
	for _, m := range list {
		if m.At.Before(r.At) {
			r.At = m.At
		}
		for name, n := range m.Figures {
			if strings.HasSuffix(name, "_seconds") {
				r.Figures[name] = max(r.Figures[name], n)
			} else {
				r.Figures[name] += n
			}
		}
		if m.weight() == list[0].weight() {
			same++
		}
	}
	if r.Verdict == Pass {
		r.Text = fmt.Sprintf("Passed in %s.", several(int64(len(list)), "cluster"))
		r.Reasons = []Reason{{AllPassed, r.Text}}
		return r
	}
	for _, m := range list[:min(same, mostTold)] {
		text, code := m.Text, Code("")
		if len(m.Reasons) > 0 {
			text, code = m.Reasons[0].Text, m.Reasons[0].Code
		}
		r.Reasons = append(r.Reasons, Reason{code, fmt.Sprintf("In cluster %s: %s", m.cluster, text)})
	}
	if more := same - mostTold; more > 0 {
		last := &r.Reasons[mostTold-1]
		last.Text += fmt.Sprintf(" The same of %s.", several(int64(more), "other cluster"))
	}
	r.Text = r.Reasons[0].Text
	return r
}

// weight orders what one check says of several clusters, what stops most first. What
// only lacks data weighs less than what was seen and is not good enough.
func (r memberResult) weight() int {
	lacks := r.lacksData()
	switch {
	case r.Verdict == Fail:
		return 0
	case r.Verdict == Hold:
		return 1
	case r.Verdict == Pass:
		return 6
	case r.Verdict == Inconclusive && !lacks:
		return 2
	case !lacks:
		return 3
	case r.Verdict == Pending:
		return 4
	}
	return 5
}

// back marks the clusters that are to go back.
func (d *WaveStageDecision) back() {
	if d.Verdict != Fail {
		return
	}
	some := false
	for i := range d.Members {
		m := &d.Members[i]
		m.Back = !m.RolledBack && (m.Verdict == Fail || m.Named || len(m.Failed) > 0)
		some = some || m.Back
	}
	for i := range d.Members {
		d.Members[i].Back = d.Members[i].Back || !some && !d.Members[i].RolledBack
	}
}

// pairWidth is how wide the intervals are in which a wave is set beside its controls.
const pairWidth = 10 * time.Minute

// keepIntervals has the fold keep its trials by when they began, for pairUp.
func (f *Fold) keepIntervals() { f.intervals = make(map[bool]map[time.Time]Trials) }

// interval notes one trial that entered.
func (f *Fold) interval(t *trial) {
	if f.intervals == nil {
		return
	}
	side := t.phase == after
	if f.intervals[side] == nil {
		f.intervals[side] = make(map[time.Time]Trials)
	}
	start := t.start.UTC().Truncate(pairWidth)
	trials := f.intervals[side][start]
	trials.count(t.outcome)
	f.intervals[side][start] = trials
}

// pairUp forms the controlled blocks of stepped clusters beside others.
func pairUp(p Policy, stepped, controls []*Fold) ControlTable {
	side := func(after bool) []Interval {
		var out []Interval
		for _, f := range stepped {
			for start, n := range f.intervals[after] {
				out = append(out, Interval{Start: start, Treated: n})
			}
		}
		for _, f := range controls {
			for start, n := range f.intervals[after] {
				out = append(out, Interval{Start: start, Control: n})
			}
		}
		return out
	}
	return Pair(p, side(false), side(true))
}
