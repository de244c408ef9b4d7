package gate

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// newProbeFold returns an empty fold over probes. Nobody tries a probe again because
// it failed, so that each is a trial by itself.
func newProbeFold(p Policy, c fleet.ClusterID, b Boundary) (*Fold, error) {
	p.BurstWindow = 0
	f, err := NewFold(p, c, b)
	if err != nil {
		return nil, err
	}
	f.probes = true
	return f, nil
}

// Check takes in one outcome of a check that acts as a person would. Its name and
// when it began tell it from others; a repeat changes nothing.
//
// Marks do not move checks: a mark about probes is of one check of several, each of
// which has its own pace, and promises nothing of the others. But a check arrives
// with its outcome, so it is final as it arrives and enters at once. The order in
// which checks enter is the stream's, and none is ever late. What marks about probes
// tell, that something cannot be looked at or was lost, is for telemetry.
func (f *Fold) Check(c fleet.Check, seq uint64) {
	if !f.probes || c.Cluster != f.cluster || !isTrial(c) || c.At.Before(f.boundary.BaselineFrom) || f.boundary.setsAside(c.At) {
		return
	}
	f.seq = max(f.seq, seq)
	id := fleet.SessionID("check " + strconv.Quote(c.Name) + " " + strconv.FormatInt(c.At.UnixNano(), 10))
	if _, known := f.attempts[id]; known {
		return
	}
	f.attempts[id] = nil
	t := trial{id: id, start: wall(c.At), phase: f.phaseOf(c.At), outcome: failed}
	if c.OK {
		t.outcome = succeeded
	}
	f.count(&t)
	if t.phase == after {
		f.judge()
	}
}

// isTrial says whether a check tried what people try. One that could not begin says
// nothing of what it was to look at.
func isTrial(c fleet.Check) bool {
	return c.Kind.Kind() == fleet.KindProbe && (c.OK || c.Failure != fleet.FailureSetup)
}

// describeProbes writes what describe does, of probes.
func (d *Decision) describeProbes(p Policy, code Code, blindReason string) {
	// With this margin no probe is needed for the relative route, which is not theirs.
	p.Margin = 1
	d.describe(p, code, blindReason)
	if code == Blind { // which is about those that are told as sessions
		return
	}
	words := strings.NewReplacer("sessions", "probes", "session", "probe")
	for i := range d.Reasons {
		d.Reasons[i].Text = words.Replace(d.Reasons[i].Text)
	}
	d.Summary = words.Replace(d.Summary)
}

// ledger counts how people's sessions of each arm went and in which classes they
// failed. Each counts once, in the state in which it was told last: between two marks
// the order of rows means nothing, and a repeated row changes nothing.
//
// What the baseline did is counted as of the first mark that reaches the step, so
// that what the step does to sessions which were open is no part of it.
type ledger struct {
	boundary   Boundary
	maturation time.Duration
	before     column
	since      column
	fixed      bool // the baseline changes no more
}

// column is one arm of a ledger.
type column struct {
	states     map[fleet.SessionID]state
	connecting map[fleet.SessionID]time.Time // since when
	others     Lifecycle                     // all that are not connecting
	failed     []classCount
}

// classCount counts the sessions that failed in one class.
type classCount struct {
	class fleet.Failure
	n     int
}

// state is how a session was seen last. There is one for each session, so that it is
// small.
type state struct {
	seq    uint64
	class  uint32 // where its class of failure is counted
	status status
	brief  bool
}

// status orders what one message may tell of a session, the last that happens last.
type status uint8

const (
	isUnknown status = iota
	isConnecting
	isConnected
	isVanished
	isCompleted
	isTerminated
	isFailed
)

func newLedger(b Boundary, maturation time.Duration) *ledger {
	arm := func() column {
		return column{states: map[fleet.SessionID]state{}, connecting: map[fleet.SessionID]time.Time{}}
	}
	return &ledger{boundary: b, maturation: maturation, before: arm(), since: arm()}
}

// session takes in one row of a person's session. What may have begun on the other
// side of a boundary is left out, unless it was taken in when the clocks agreed.
func (t *ledger) session(s *fleet.Session, seq uint64, c clocks) {
	near := c.near(s.Start, t.boundary.Start) || c.near(s.Start, t.boundary.End)
	switch {
	case near && !t.before.knows(s.ID) && !t.since.knows(s.ID):
	case s.ID == "" || s.Start.Before(t.boundary.BaselineFrom) || t.boundary.setsAside(s.Start):
	case !s.Start.Before(t.boundary.End):
		t.since.take(s, seq)
	case s.Start.Before(t.boundary.Start) && !t.fixed:
		t.before.take(s, seq)
	}
}

// reach takes in that sessions are complete until an instant.
func (t *ledger) reach(until time.Time) {
	if t.fixed || until.Before(t.boundary.Start) {
		return
	}
	t.fixed = true
	t.before = column{others: t.before.lifecycle(t.maturation, until), failed: t.before.failed}
}

func (t *column) knows(id fleet.SessionID) bool {
	_, known := t.states[id]
	return known
}

func (t *column) take(s *fleet.Session, seq uint64) {
	next := t.stateOf(s, seq)
	if next.status == isUnknown {
		return
	}
	last, known := t.states[s.ID]
	switch {
	case known && !t.follows(next, last):
		return
	case known && last.same(next):
	default:
		if known {
			t.count(s.ID, last, -1)
		}
		t.count(s.ID, next, 1)
		if next.status == isConnecting {
			t.connecting[s.ID] = s.Start
		}
	}
	t.states[s.ID] = next
}

// count adds a session in a state, or takes it away again.
func (t *column) count(id fleet.SessionID, s state, n int) {
	if s.status == isConnecting {
		delete(t.connecting, id)
		return
	}
	t.others.Sessions += n
	switch {
	case s.status == isFailed:
		t.failed[s.class].n += n
	case s.status == isVanished:
		t.others.Vanished += n
	case s.brief:
		t.others.Brief += n
	}
}

// lifecycle counts the arm's sessions when they are complete until an instant.
func (t *column) lifecycle(maturation time.Duration, until time.Time) Lifecycle {
	l := t.others
	for _, start := range t.connecting {
		l.Count(fleet.Session{Status: fleet.SessionConnecting, Start: start}, maturation, 0, until)
	}
	return l
}

// failures is how many failed in a class.
func (t *column) failures(class fleet.Failure) int {
	for _, c := range t.failed {
		if c.class == class {
			return c.n
		}
	}
	return 0
}

// classOf is where a class of failure is counted.
func (t *column) classOf(class fleet.Failure) uint32 {
	i := slices.IndexFunc(t.failed, func(c classCount) bool { return c.class == class })
	if i < 0 {
		i = len(t.failed)
		t.failed = append(t.failed, classCount{class: class})
	}
	return uint32(i) //nolint:gosec // there are few classes
}

func (t *column) stateOf(s *fleet.Session, seq uint64) state {
	out := state{seq: seq}
	switch s.Status {
	case fleet.SessionConnecting:
		out.status = isConnecting
	case fleet.SessionConnected:
		out.status = isConnected
	case fleet.SessionVanished:
		out.status = isVanished
	case fleet.SessionCompleted:
		out.status, out.brief = isCompleted, brief(s)
	case fleet.SessionTerminated:
		out.status, out.brief = isTerminated, brief(s)
	case fleet.SessionFailed:
		out.status, out.class = isFailed, t.classOf(s.Failure)
	}
	return out
}

// follows says whether a state is newer than another: by the stream, and of one
// message by how far it is.
func (t *column) follows(s, last state) bool {
	switch {
	case s.seq != last.seq:
		return s.seq > last.seq
	case s.status != last.status:
		return s.status > last.status
	case s.brief != last.brief:
		return s.brief
	}
	return s.status == isFailed && t.failed[s.class].class > t.failed[last.class].class
}

// same says whether two states count alike.
func (s state) same(other state) bool {
	s.seq = other.seq
	return s == other
}

// brief says whether a session ended as soon as it began.
func brief(s *fleet.Session) bool {
	var l Lifecycle
	l.Count(*s, 0, 0, s.Start)
	return l.Brief > 0
}

// sees says whether the newest mark could see, and nothing is lost.
func (f *OpenFold) sees() bool { return !f.mark.Blind && !f.lost }

// sourceKey is a source in what it tells of one kind.
type sourceKey struct {
	id    fleet.SourceID
	about fleet.Kind
}

// heard is a source and when it was heard of last.
type heard struct {
	Source
	seq uint64
	at  time.Time
}

// hear takes in a mark for telemetry.
func (s *Step) hear(m fleet.Mark, seen Seen) {
	if !slices.Contains(s.required, m.About) {
		return
	}
	key := sourceKey{seen.Source, m.About}
	h := s.sources[key]
	if h == nil {
		h = &heard{Source: Source{ID: key.id, About: key.about}}
		s.sources[key] = h
	}
	if seen.Seq < h.seq {
		return
	}
	h.seq = seen.Seq
	h.Take(m)
	h.at = newer(newer(h.at, seen.Arrived), h.SeenUntil)
}

// telemetry says how well the sources see that the stage rests on. One that had
// fallen silent before the step, such as that of a collector which was replaced, is
// none of them.
func (s *Step) telemetry(now time.Time) Result {
	facts := TelemetryFacts{Required: s.required, Start: s.boundary.Start, Limit: s.terms.Expected.Silence}
	for h := range maps.Values(s.sources) {
		if !h.at.Before(s.boundary.Start.Add(-facts.Limit)) {
			facts.Sources = append(facts.Sources, h.Source)
		}
	}
	return facts.Judge(now)
}

// sighting is what was seen of one kind that is seen whole: last before the step, and
// last of all. Only the newest counts, so that what is told late or again changes
// nothing.
type sighting[T any] struct {
	was, is     T
	wasAt, isAt time.Time
	wasSeq, seq uint64
	until       time.Time // when is was known to hold last
}

// take takes in what was seen at an instant. It says whether anything moved, and
// whether this is the newest there is.
func (s *sighting[T]) take(v T, at, start time.Time, seq uint64) (moved, newest bool) {
	if !at.IsZero() && at.Before(start) && later(at, seq, s.wasAt, s.wasSeq) {
		s.was, s.wasAt, s.wasSeq, moved = v, at, seq, true
	}
	if later(at, seq, s.isAt, s.seq) {
		s.is, s.isAt, s.seq, moved, newest = v, at, seq, true, true
		s.until = newer(s.until, at)
	}
	return moved, newest
}

// confirm takes in a mark, which promises that what was sent last still held, and
// says whether anything moved.
func (s *sighting[T]) confirm(m fleet.Mark, seq uint64) bool {
	if m.Blind || m.Lost || s.isAt.IsZero() || seq < s.seq || !m.CompleteUntil.After(s.until) {
		return false
	}
	s.until = m.CompleteUntil
	return true
}

// later says whether one instant comes after another, or is the same and was told
// later.
func later(at time.Time, seq uint64, than time.Time, thanSeq uint64) bool {
	return cmp.Or(at.Compare(than), cmp.Compare(seq, thanSeq)) > 0
}

// mixed says whether one line runs more than one version.
func mixed(inventory fleet.Inventory) bool {
	first := make(map[fleet.Line]string)
	for component, instances := range running(inventory) {
		line, _ := fleet.LineOf(component)
		for _, i := range instances {
			version := i.RunningVersion()
			if other, known := first[line]; known && !sameVersion(other, version) {
				return true
			}
			first[line] = version
		}
	}
	return false
}

// looks keeps of the checks of the pipeline what their judgement needs: of each that
// is configured the last look before the step and the last since, and how many there
// were.
type looks struct {
	configured []ConfiguredCheck
	applied    time.Time
	known      map[lookKey]struct{} // since the step
	before     map[ConfiguredCheck]*fleet.Check
	last       map[ConfiguredCheck]*fleet.Check
	count      map[ConfiguredCheck]int64
}

// lookKey tells looks apart.
type lookKey struct {
	of      ConfiguredCheck
	at      time.Time
	session fleet.SessionID
	target  string
	ok      bool
}

func newLooks(configured []ConfiguredCheck, applied time.Time) looks {
	return looks{
		configured: configured, applied: wall(applied), known: make(map[lookKey]struct{}),
		before: make(map[ConfiguredCheck]*fleet.Check), last: make(map[ConfiguredCheck]*fleet.Check), count: make(map[ConfiguredCheck]int64),
	}
}

// take takes in one look and says whether it tells something.
func (l *looks) take(c fleet.Check) bool {
	of := ConfiguredCheck{Name: c.Name, Kind: c.Kind}
	if !slices.Contains(l.configured, of) {
		return false
	}
	if c.At.Before(l.applied) {
		l.before[of] = newerLook(l.before[of], &c)
		return true
	}
	key := lookKey{of, wall(c.At), c.Session, c.Target, c.OK}
	if _, known := l.known[key]; known {
		return false
	}
	l.known[key] = struct{}{}
	l.count[of]++
	l.last[of] = newerLook(l.last[of], &c)
	return true
}

// pipelineKinds are the kinds of look that a check rests on.
func pipelineKinds(check CheckName) []fleet.CheckKind {
	if check == CheckRecording {
		return []fleet.CheckKind{fleet.CheckRecording, fleet.CheckStorage}
	}
	return []fleet.CheckKind{fleet.CheckForwarding}
}

func (l *looks) judge(check CheckName) Result {
	kinds := pipelineKinds(check)
	facts := PipelineFacts{Applied: l.applied, Configured: l.configured}
	var all, recordings int64
	for _, of := range facts.configured(kinds) {
		for _, look := range []*fleet.Check{l.before[of], l.last[of]} {
			if look != nil {
				facts.Looks = append(facts.Looks, *look)
			}
		}
		all += l.count[of]
		if of.Kind == fleet.CheckRecording {
			recordings += l.count[of]
		}
	}
	r := facts.judge(check, kinds...)
	r.Figures["looks"] = all
	if check == CheckRecording {
		r.Figures["recordings"] = recordings
	}
	return r
}
