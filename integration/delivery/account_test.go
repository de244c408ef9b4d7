//go:build integration

package delivery_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// event is that a session came into a status.
type event struct {
	session fleet.SessionID
	status  fleet.SessionStatus
}

// truth is what happened at the vendor.
type truth struct {
	mu       sync.Mutex
	sessions map[fleet.SessionID]*life
}

// life is one session's.
type life struct {
	cluster string
	changes []change
}

// change is when the vendor listed a session in a status, by this machine's clock.
type change struct {
	status fleet.SessionStatus
	at     time.Time
}

func newTruth() *truth { return &truth{sessions: make(map[fleet.SessionID]*life)} }

// observe is told right after the vendor was.
func (tr *truth) observe(s akeylesstest.Session) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	id := fleet.SessionID(s.ID)
	l := tr.sessions[id]
	if l == nil {
		l = &life{cluster: s.Gateway.ClusterName[strings.LastIndex(s.Gateway.ClusterName, "/")+1:]}
		tr.sessions[id] = l
	}
	l.changes = append(l.changes, change{fleet.SessionStatus(s.Status), time.Now()})
}

// last lists the status that each session ended up in.
func (tr *truth) last() map[fleet.SessionID]fleet.SessionStatus {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	out := make(map[fleet.SessionID]fleet.SessionStatus, len(tr.sessions))
	for id, l := range tr.sessions {
		out[id] = l.changes[len(l.changes)-1].status
	}
	return out
}

// hole is messages of a position that are not in the stream.
type hole struct {
	position codec.Position
	from, to uint64
}

func (h hole) String() string { return fmt.Sprintf("%+v misses %d to %d", h.position, h.from, h.to) }

// look is a poll of sessions that left a mark.
type look struct {
	began time.Time
	blind bool
}

// account is what the observation stream holds, taken in as the evaluator takes it
// in: what comes again is not looked at, and what is left out is a hole.
type account struct {
	t *testing.T

	messages, observations, repeats int
	newest                          map[codec.Position]uint64
	content                         map[codec.Position]map[uint64][sha256.Size]byte
	holes                           []hole
	incarnations                    map[fleet.SourceID][]string // in the order in which they first spoke
	ids                             map[string]string           // what an observation's id stands for
	// events are the copies of each by id: one id, however many copies.
	events map[event]map[string]int
	looks  map[string][]look // by cluster
	lost   []*observationv1.Observation
	// overtaken lists sessions that came behind a mark that promised there were no
	// more of their time, by cluster.
	overtaken map[string][]string
	// suspects are those that came since the cluster's newest mark; where the next one
	// is blind, nobody was promised anything.
	suspects map[string][]string
	promised map[string]time.Time // by cluster
	blind    map[string]bool      // what the newest mark of a cluster says
	checks   map[string]int
}

// read takes in the stream as it stands.
func (in *installation) read() *account {
	in.t.Helper()
	a := &account{
		t: in.t, newest: make(map[codec.Position]uint64), content: make(map[codec.Position]map[uint64][sha256.Size]byte),
		incarnations: make(map[fleet.SourceID][]string), ids: make(map[string]string), events: make(map[event]map[string]int),
		looks: make(map[string][]look), overtaken: make(map[string][]string), suspects: make(map[string][]string), promised: make(map[string]time.Time), blind: make(map[string]bool),
		checks: make(map[string]int),
	}
	if err := in.events.Tail(in.t.Context(), bus.Tail{Stream: topology.StreamObservations, Since: time.Unix(0, 0)}, a.take); err != nil {
		in.t.Fatal(err)
	}
	return a
}

func (a *account) take(m bus.Message) error {
	var batch observationv1.Batch
	if err := proto.Unmarshal(m.Data, &batch); err != nil {
		a.t.Errorf("message %d of the stream is no batch: %v", m.Sequence, err)
		return nil
	}
	p := codec.Position{Source: fleet.SourceID(batch.GetSource()), Incarnation: batch.GetIncarnation(), Part: batch.GetPart()}
	if !slices.Contains(a.incarnations[p.Source], p.Incarnation) {
		a.incarnations[p.Source] = append(a.incarnations[p.Source], p.Incarnation)
	}
	a.messages++
	sum, sequence := sha256.Sum256(m.Data), batch.GetSequence()
	if a.content[p] == nil {
		a.content[p] = make(map[uint64][sha256.Size]byte)
	}
	if before, again := a.content[p][sequence]; again && before != sum {
		a.t.Errorf("message %d of %+v says one thing, and another when it comes again", sequence, p)
	}
	a.content[p][sequence] = sum
	last := a.newest[p]
	if sequence <= last {
		a.repeats++
		return nil
	}
	if sequence > last+1 {
		a.holes = append(a.holes, hole{p, last + 1, sequence - 1})
	}
	a.newest[p] = sequence
	for _, o := range batch.GetObservations() {
		a.observe(p.Source, o)
	}
	return nil
}

func (a *account) observe(source fleet.SourceID, m *observationv1.Observation) {
	a.observations++
	if topology.Part(fleet.ClusterID(m.GetCluster())) >= topology.Parts || m.GetId() == "" {
		a.t.Errorf("an observation of %s without a part or an id", m.GetCluster())
	}
	switch k := m.GetKind().(type) {
	case *observationv1.Observation_Session:
		a.session(m, k.Session)
	case *observationv1.Observation_Mark:
		if k.Mark.GetLost() {
			a.lost = append(a.lost, m)
		}
		if k.Mark.GetAbout() == string(fleet.KindSession) {
			a.mark(m, k.Mark)
		}
	case *observationv1.Observation_Check:
		a.checks[m.GetCluster()]++
		a.identify(m.GetId(), fmt.Sprint(source, k.Check.GetName(), k.Check.GetAt().AsTime()))
	}
}

func (a *account) session(m *observationv1.Observation, s *observationv1.Session) {
	id, cluster := fleet.SessionID(s.GetId()), m.GetCluster()
	known := false
	for _, status := range statuses {
		known = known || a.events[event{id, status}] != nil
	}
	if start := s.GetStart().AsTime(); !known && start.Before(a.promised[cluster]) {
		a.suspects[cluster] = append(a.suspects[cluster], fmt.Sprintf("%s is %s and started at %s, when all up to %s was promised to be there",
			id, s.GetStatus(), start.Format(time.TimeOnly), a.promised[cluster].Format(time.TimeOnly)))
	}
	e := event{id, fleet.SessionStatus(s.GetStatus())}
	if a.events[e] == nil {
		a.events[e] = make(map[string]int)
	}
	a.events[e][m.GetId()]++
	a.identify(m.GetId(), fmt.Sprint(e))
}

var statuses = []fleet.SessionStatus{
	fleet.SessionConnecting, fleet.SessionConnected, fleet.SessionFailed, fleet.SessionCompleted, fleet.SessionTerminated, fleet.SessionVanished,
}

func (a *account) mark(m *observationv1.Observation, mark *observationv1.Mark) {
	cluster := m.GetCluster()
	if !mark.GetBlind() && len(a.suspects[cluster]) > 0 {
		a.overtaken[cluster] = append(a.overtaken[cluster], a.suspects[cluster]...)
	}
	delete(a.suspects, cluster)
	a.blind[cluster] = mark.GetBlind()
	if until := mark.GetCompleteUntil().AsTime(); !mark.GetBlind() && until.After(a.promised[cluster]) {
		a.promised[cluster] = until
	}
	if !mark.GetLost() {
		a.looks[cluster] = append(a.looks[cluster], look{m.GetObservedAt().AsTime(), mark.GetBlind()})
	}
}

// identify holds an id to what it stood for before.
func (a *account) identify(id, what string) {
	if before, known := a.ids[id]; known && before != what {
		a.t.Errorf("the id %s is of %s and of %s", id, before, what)
	}
	a.ids[id] = what
}

// seen reports whether a status was listed by the vendor during the whole of a poll
// that was handed in: from before it began until the next one began. What came and
// went between two polls needs not be in the stream.
func (a *account) seen(cluster string, from, to time.Time) bool {
	looks := a.looks[cluster]
	for i := range looks[:max(0, len(looks)-1)] {
		if !looks[i].blind && !looks[i].began.Before(from) && !looks[i+1].began.After(to) {
			return true
		}
	}
	return false
}

// absent lists the sessions whose last status is not in the stream.
func (a *account) absent(tr *truth) []event {
	var out []event
	for id, status := range tr.last() {
		if a.events[event{id, status}] == nil {
			out = append(out, event{id, status})
		}
	}
	slices.SortFunc(out, func(a, b event) int { return strings.Compare(string(a.session), string(b.session)) })
	return out
}

// compare holds the stream against the truth: all that was listed long enough to be
// seen is there, and nothing that never was.
func (a *account) compare(tr *truth) {
	a.t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, looks := range a.looks {
		slices.SortFunc(looks, func(a, b look) int { return a.began.Compare(b.began) })
	}
	must, brief := 0, 0
	var missing []string
	for _, id := range slices.Sorted(maps.Keys(tr.sessions)) {
		l := tr.sessions[id]
		for i, c := range l.changes {
			until := time.Time{}
			if i+1 < len(l.changes) {
				until = l.changes[i+1].at
			}
			if !until.IsZero() && !a.seen(l.cluster, c.at, until) {
				brief++
				continue
			}
			must++
			if a.events[event{id, c.status}] == nil {
				missing = append(missing, fmt.Sprintf("%s of %s, %s at %s", id, l.cluster, c.status, c.at.Format("15:04:05.000")))
			}
		}
	}
	a.t.Logf("the vendor had %d sessions; %d changes were listed long enough to be seen, %d were not; %d of them are missing", len(tr.sessions), must, brief, len(missing))
	if must == 0 {
		a.t.Error("nothing was listed long enough to be seen, so nothing was tried")
	}
	if len(missing) > 0 {
		a.t.Errorf("%d changes are missing, such as\n%s", len(missing), sample(missing))
	}
	var doubled, unknown []string
	for e, ids := range a.events {
		if len(ids) != 1 {
			doubled = append(doubled, fmt.Sprintf("%v has %d ids", e, len(ids)))
		}
		l := tr.sessions[e.session]
		if l == nil || !slices.ContainsFunc(l.changes, func(c change) bool { return c.status == e.status }) {
			unknown = append(unknown, fmt.Sprint(e))
		}
	}
	if len(doubled) > 0 {
		a.t.Errorf("%d changes do not collapse to one, such as\n%s", len(doubled), sample(doubled))
	}
	if len(unknown) > 0 {
		a.t.Errorf("%d changes never happened, such as\n%s", len(unknown), sample(unknown))
	}
}

// whole fails the test when something is missing of a source's messages, or told to
// be lost, or when a source does not speak as the one it was.
func (a *account) whole() {
	a.t.Helper()
	for _, h := range a.holes {
		a.t.Errorf("a hole: %s", h)
	}
	for _, o := range a.lost {
		a.t.Errorf("told to be lost in %s: %s", o.GetCluster(), o.GetMark().GetBlindReason())
	}
	for source, incarnations := range a.incarnations {
		if len(incarnations) != 1 {
			a.t.Errorf("%s speaks as %v, and nothing of it was lost", source, incarnations)
		}
	}
}

// kept fails the test when a mark promised what had not been read.
func (a *account) kept() {
	a.t.Helper()
	for cluster, behind := range a.overtaken {
		a.t.Errorf("%d sessions of %s came behind a mark that promised there were no more, such as\n\t%s", len(behind), cluster, behind[0])
	}
}

// told is the account in a line.
func (a *account) told() string {
	events := 0
	for _, ids := range a.events {
		for _, copies := range ids {
			events += copies
		}
	}
	return fmt.Sprintf("the stream has %d messages, %d of them again, with %d observations, %d of them sessions' that collapse to %d changes; %d holes, %d marks of loss",
		a.messages, a.repeats, a.observations, events, len(a.events), len(a.holes), len(a.lost))
}

func sample(list []string) string {
	slices.Sort(list)
	return "\t" + strings.Join(list[:min(len(list), 10)], "\n\t")
}

// drained waits until the stream holds what every session ended up as, and returns
// it.
func (in *installation) drained() *account {
	in.t.Helper()
	var a *account
	await(in.t, "the stream", func() string {
		a = in.read()
		if absent := a.absent(in.truth); len(absent) > 0 {
			return fmt.Sprintf("%d sessions' last status is not in it, such as %v; %s", len(absent), absent[0], a.told())
		}
		return ""
	})
	in.t.Log(a.told())
	return a
}
