package recordings

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	// patience is how long a session waits for a storage that says nothing of it.
	patience = 24 * time.Hour
	// grace is how much longer ago than its window a session may have ended to be
	// taken: a source reads its lookback again after a restart.
	grace = 15 * time.Minute
	// judgedPerPending bounds the memory of sessions that were judged. What is
	// forgotten too early comes to a second verdict of the same identity.
	judgedPerPending = 10
)

// memory is what is known of sessions. It is pure: the time is handed in, and
// nothing is asked.
type memory struct {
	config Config

	pending map[fleet.SessionID]*waiting
	judged  map[fleet.SessionID]bool
	// order lists judged, the oldest first.
	order []judgement

	// full and unnamed count sessions that are not looked for: for want of room, and
	// because they lack what the pattern or the verdict needs.
	full, unnamed int

	// down is when the outage that lasts began, zero when none does.
	down time.Time
	// told is true after the storage was told to fail, until it is told to work.
	told bool
}

// waiting is a session without a verdict.
type waiting struct {
	session fleet.Session
	prefix  string
	heard   time.Time
	due     time.Time // when its window has passed
	looked  time.Time // zero before the first look
	faulted bool      // the last look failed
}

type judgement struct {
	session fleet.SessionID
	at      time.Time
}

// look is one thing to ask of the storage.
type look struct {
	session fleet.SessionID
	prefix  string
}

func newMemory(config Config) (memory, error) {
	if config.Within < 0 || config.MinDuration < 0 || config.Lookback < 0 || config.MaxPending < 0 || config.PerPoll < 0 {
		return memory{}, errs.New(errs.Invalid, "LS-PIP-006", "recordings of %s: times and numbers must not be negative", config.Cluster)
	}
	if err := checkPattern(config); err != nil {
		return memory{}, err
	}
	if len(config.Protocols) == 0 {
		config.Protocols = []string{"rdp"}
	}
	config.Within = cmp.Or(config.Within, DefaultWithin)
	config.Lookback = cmp.Or(config.Lookback, DefaultLookback)
	config.MaxPending = cmp.Or(config.MaxPending, DefaultMaxPending)
	config.PerPoll = cmp.Or(config.PerPoll, DefaultPerPoll)
	return memory{config: config, pending: make(map[fleet.SessionID]*waiting), judged: make(map[fleet.SessionID]bool)}, nil
}

// placeholder is a name in braces, or a brace that opens or closes none.
var placeholder = regexp.MustCompile(`\{[a-z_]*\}|[{}]`)

func checkPattern(config Config) error {
	known := values(fleet.Session{})
	for _, p := range placeholder.FindAllString(config.Pattern, -1) {
		if _, ok := known[p]; !ok {
			return errs.New(errs.Invalid, "LS-PIP-006", "recordings of %s: the pattern %q holds %s, which stands for nothing; "+
				"known are {session_id}, {cluster}, {date}, {protocol}, {target} and {user}", config.Cluster, config.Pattern, p)
		}
	}
	if !strings.Contains(config.Pattern, "{session_id}") {
		return errs.New(errs.Invalid, "LS-PIP-006", "recordings of %s: the pattern %q lacks {session_id}, so one session's recording would pass for another's",
			config.Cluster, config.Pattern)
	}
	return nil
}

// values are what each placeholder stands for, empty where the session does not say.
func values(s fleet.Session) map[string]string {
	v := map[string]string{
		"{session_id}": string(s.ID), "{cluster}": string(s.Cluster), "{protocol}": s.Protocol,
		"{target}": s.Target, "{user}": s.User, "{date}": "",
	}
	if !s.Start.IsZero() {
		v["{date}"] = s.Start.UTC().Format(time.DateOnly)
	}
	return v
}

// prefix is what the keys of a session's recording begin with; false when the
// session lacks a part of it.
func (m *memory) prefix(s fleet.Session) (string, bool) {
	known, whole := values(s), true
	text := placeholder.ReplaceAllStringFunc(m.config.Pattern, func(p string) string {
		whole = whole && known[p] != ""
		return known[p]
	})
	return text, whole
}

// wanted says whether a session should have a recording.
func (m *memory) wanted(s fleet.Session) bool {
	switch {
	case s.Cluster != m.config.Cluster, s.Probe,
		s.Status != fleet.SessionCompleted && s.Status != fleet.SessionTerminated,
		!slices.ContainsFunc(m.config.Protocols, func(p string) bool { return strings.EqualFold(p, s.Protocol) }):
		return false
	}
	return s.End.IsZero() || s.End.Sub(s.Start) >= m.config.MinDuration
}

func (m *memory) take(s fleet.Session, now time.Time) {
	m.forget(now)
	if !m.wanted(s) || m.judged[s.ID] || m.pending[s.ID] != nil {
		return
	}
	if !s.End.IsZero() && now.Sub(s.End) > m.config.Within+grace {
		return
	}
	prefix, whole := m.prefix(s)
	switch {
	case !whole, s.End.IsZero():
		m.unnamed++
	case len(m.pending) >= m.config.MaxPending:
		m.full++
	default:
		m.pending[s.ID] = &waiting{session: s, prefix: prefix, heard: now, due: now.Add(m.config.Within)}
	}
}

// forget drops judgements that no source can bring up again.
func (m *memory) forget(now time.Time) {
	old := 0
	for ; old < len(m.order); old++ {
		if len(m.order)-old <= judgedPerPending*m.config.MaxPending && now.Sub(m.order[old].at) <= 2*m.config.Lookback {
			break
		}
		delete(m.judged, m.order[old].session)
	}
	m.order = slices.Delete(m.order, 0, old)
}

// next lists what to ask now: sessions whose window has passed first, because they
// wait for a verdict, then those that were not looked at for longest. A session
// whose last look failed comes last: it must not stand in the way of the others.
func (m *memory) next(now time.Time) []look {
	rank := func(w *waiting) int {
		switch {
		case w.faulted:
			return 2
		case now.Before(w.due):
			return 1
		}
		return 0
	}
	all := slices.SortedFunc(maps.Values(m.pending), func(a, b *waiting) int {
		return cmp.Or(rank(a)-rank(b), a.looked.Compare(b.looked), a.due.Compare(b.due), cmp.Compare(a.session.ID, b.session.ID))
	})
	all = all[:min(len(all), m.config.PerPoll)]
	looks := make([]look, len(all))
	for i, w := range all {
		looks[i] = look{session: w.session.ID, prefix: w.prefix}
	}
	return looks
}

// answer takes what the storage holds of a session. The second result is false
// while the session waits on.
func (m *memory) answer(id fleet.SessionID, objects []Object, now time.Time) (fleet.Check, bool) {
	m.endOutage(now)
	w := m.pending[id]
	var size int64
	var count int
	var last time.Time
	for _, o := range objects {
		if !m.belongs(o.Key, w.prefix) {
			continue
		}
		count++
		size += max(o.Size, 0)
		if o.ModifiedAt.After(last) {
			last = o.ModifiedAt
		}
	}
	w.looked, w.faulted = now, false
	switch {
	case size > 0:
		delay := last.Sub(w.session.End)
		check := m.verdict(w, now, max(delay, 0))
		check.OK = true
		check.Detail = fmt.Sprintf("%d bytes (objects: %d), the last %s after the session's end", size, count, delay.Round(time.Millisecond))
		check.Readings = map[string]float64{"size_bytes": float64(size), "delay_seconds": delay.Seconds()}
		return check, true
	case now.Before(w.due):
		return fleet.Check{}, false
	case count > 0:
		check := m.verdict(w, now, now.Sub(w.heard))
		check.Failure, check.Detail = fleet.FailureEmpty, fmt.Sprintf("no content (objects: %d) %s after the session was seen to end", count, now.Sub(w.heard).Round(time.Second))
		check.Readings = map[string]float64{"size_bytes": 0}
		return check, true
	}
	check := m.verdict(w, now, now.Sub(w.heard))
	check.Failure, check.Detail = fleet.FailureMissing, fmt.Sprintf("no object %s after the session was seen to end", now.Sub(w.heard).Round(time.Second))
	return check, true
}

// belongs says whether a key is of this prefix and not of one that goes on: s-1 is
// not s-12.
func (m *memory) belongs(key, prefix string) bool {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok || rest == "" || !strings.HasSuffix(m.config.Pattern, "}") {
		return ok
	}
	next := rest[0]
	return !(next >= '0' && next <= '9' || next >= 'a' && next <= 'z' || next >= 'A' && next <= 'Z')
}

// fault takes that the storage could not be asked of a session.
func (m *memory) fault(id fleet.SessionID, now time.Time) (fleet.Check, bool) {
	w := m.pending[id]
	w.looked, w.faulted = now, true
	if now.Sub(w.heard) < patience {
		return fleet.Check{}, false
	}
	check := m.verdict(w, now, now.Sub(w.heard))
	check.Failure, check.Detail = fleet.FailureUnclassified, fmt.Sprintf("the storage could not be asked for %s, so nothing is known of this recording", patience)
	return check, true
}

// verdict ends a session's wait.
func (m *memory) verdict(w *waiting, now time.Time, took time.Duration) fleet.Check {
	id := w.session.ID
	delete(m.pending, id)
	m.judged[id] = true
	m.order = append(m.order, judgement{session: id, at: now})
	return fleet.Check{
		Cluster: m.config.Cluster, Name: m.config.Name, Kind: fleet.CheckRecording,
		Target: w.prefix, Session: id, At: w.session.End, Took: took,
	}
}

// endOutage ends an outage: what it took of a window is added to it. A window that
// had passed before has passed by then, too.
func (m *memory) endOutage(now time.Time) {
	if m.down.IsZero() {
		return
	}
	for _, w := range m.pending {
		w.due = w.due.Add(now.Sub(later(m.down, w.heard)))
	}
	m.down = time.Time{}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// tally is how the look-ups of one poll went.
type tally struct {
	answers, faults int
	running         int   // faults since the last answer
	first           error // the first fault
}

func (t *tally) answer() { t.answers, t.running = t.answers+1, 0 }

func (t *tally) fault(err error) {
	t.faults, t.running = t.faults+1, t.running+1
	if t.first == nil {
		t.first = err
	}
}

// close ends a poll with what it says of the storage: that look-ups failed, or
// that they work again.
func (m *memory) close(t tally, began, now time.Time) (fleet.Check, bool) {
	if t.answers+t.faults == 0 || t.faults == 0 && !m.told {
		return fleet.Check{}, false
	}
	check := fleet.Check{Cluster: m.config.Cluster, Name: m.config.Name, Kind: fleet.CheckStorage, At: began, Took: max(now.Sub(began), 0)}
	if m.told = t.faults > 0; !m.told {
		check.OK, check.Detail = true, "the storage can be asked for recordings again"
		return check, true
	}
	if t.answers == 0 && m.down.IsZero() {
		m.down = began
	}
	check.Failure = classOf(t.first)
	check.Detail = fmt.Sprintf("%d of %d look-ups for recordings failed; %d sessions wait and none is judged by it: %s",
		t.faults, t.answers+t.faults, len(m.pending), t.first)
	return check, true
}

// classOf is the class that an error of the storage tells.
func classOf(err error) fleet.Failure {
	if classified, ok := errors.AsType[interface {
		error
		Failure() fleet.Failure
	}](err); ok {
		return classified.Failure()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fleet.FailureTimeout
	}
	return fleet.FailureUnclassified
}

// tellSkipped says once how many sessions are not looked for.
func (m *memory) tellSkipped(at time.Time) (fleet.Check, bool) {
	if m.full+m.unnamed == 0 {
		return fleet.Check{}, false
	}
	check := fleet.Check{
		Cluster: m.config.Cluster, Name: m.config.Name, Kind: fleet.CheckRecording, At: at, Failure: fleet.FailureUnclassified,
		Detail: fmt.Sprintf("%d finished sessions are not looked for: %d because %d wait already, %d because the vendor does not tell their end or a part of the pattern %q",
			m.full+m.unnamed, m.full, m.config.MaxPending, m.unnamed, m.config.Pattern),
		Readings: map[string]float64{"not_looked_for": float64(m.full + m.unnamed)},
	}
	m.full, m.unnamed = 0, 0
	return check, true
}
