package collector

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/spool"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
)

// Why observations are lost, beside the causes of the spool.
const (
	refused = "refused" // the bus will not take the message
	invalid = "invalid" // the observation cannot be sent
)

// why tells people what the words of the meter mean.
func why(word string) string {
	switch word {
	case string(spool.Full):
		return "the spool was full"
	case string(spool.NoSpace):
		return "the spool's disk was full"
	case string(spool.Damaged):
		return "the spool's files were damaged"
	case refused:
		return "the bus refused a message"
	}
	return "an observation could not be sent"
}

// topic is what one mark speaks of.
type topic struct {
	kind    fleet.Kind
	cluster fleet.ClusterID
}

// shortfall is what is lost of one topic.
type shortfall struct {
	why string
	// messages and observations are zero when they are not known.
	messages, observations int
	from, to               time.Time // when they were observed
	newest                 time.Time // the newest time that one of them speaks of
}

// reason says for people what is lost.
func (f shortfall) reason() string {
	switch {
	case f.observations == 0:
		return why(f.why) + "; what of this cluster was in them is not known"
	case f.from.IsZero():
		return fmt.Sprintf("%s: %s", why(f.why), some(f.observations, "observation"))
	}
	to := "15:04:05"
	if f.from.UTC().Truncate(24*time.Hour) != f.to.UTC().Truncate(24*time.Hour) {
		to = time.DateTime
	}
	return fmt.Sprintf("%s: %s with %s of %s to %s UTC were dropped", why(f.why), some(f.messages, "message"), some(f.observations, "observation"),
		f.from.UTC().Format(time.DateTime), f.to.UTC().Format(to))
}

func some(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// shortfalls gathers what is lost until it is told. The zero value has nothing.
type shortfalls struct {
	mu sync.Mutex
	of map[topic]shortfall
}

// add joins a shortfall to what is known of its topic.
func (s *shortfalls) add(t topic, f shortfall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = make(map[topic]shortfall)
	}
	all, known := s.of[t]
	if !known {
		s.of[t] = f
		return
	}
	all.why = cmp.Or(f.why, all.why)
	all.messages += f.messages
	all.observations += f.observations
	if all.from.IsZero() || !f.from.IsZero() && f.from.Before(all.from) {
		all.from = f.from
	}
	all.to, all.newest = later(all.to, f.to), later(all.newest, f.newest)
	s.of[t] = all
}

// take returns what was gathered and forgets it.
func (s *shortfalls) take() map[topic]shortfall {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.of
	s.of = nil
	return of
}

// message adds all that a message holds.
func (s *shortfalls) message(m message) {
	var batch observationv1.Batch
	if proto.Unmarshal(m.batch, &batch) != nil {
		return // it was encoded here, and its checksum is right
	}
	of := make(map[fleet.ClusterID]shortfall)
	for _, o := range batch.GetObservations() {
		at := o.GetObservedAt().AsTime()
		f, known := of[fleet.ClusterID(o.GetCluster())]
		if !known {
			f = shortfall{messages: 1, from: at}
		}
		f.observations++
		if at.Before(f.from) {
			f.from = at
		}
		f.to, f.newest = later(f.to, at), later(f.newest, at)
		if start := o.GetSession().GetStart(); start != nil {
			f.newest = later(f.newest, start.AsTime())
		}
		of[fleet.ClusterID(o.GetCluster())] = f
	}
	for cluster, f := range of {
		s.add(topic{m.kind(), cluster}, f)
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// account finds out what the spool lost, says so, and has it told to those who
// judge.
func (s *Service) account() {
	cause := ""
	for _, l := range s.deps.Spool.Losses() {
		switch l.Cause {
		case spool.Damaged:
			s.deps.Log.Error("the spool's files were damaged; what could not be read is lost", "id", "LS-COL-006",
				"where", l.Where, "messages", l.Records, "bytes", l.Bytes)
			s.deps.Meter.Dropped("unknown", string(l.Cause), int(l.Records))
			for _, schedule := range s.schedules {
				for _, cluster := range schedule.Clusters {
					s.lost(topic{schedule.Kind, cluster}, shortfall{why: string(l.Cause)})
				}
			}
		case spool.Full, spool.NoSpace:
			cause = string(l.Cause)
			s.press(s.deps.Spool.Stats())
			s.deps.Log.Error("there is no room in the spool; its oldest messages were dropped", "id", "LS-COL-005",
				"why", why(cause), "messages", l.Records, "bytes", l.Bytes)
		}
	}
	for t, f := range s.deps.Spool.ledger.dropped.take() {
		f.why = cmp.Or(cause, string(spool.Full))
		s.deps.Meter.Dropped(string(t.kind), f.why, f.observations)
		s.lost(t, f)
	}
}

// lost has a shortfall told. What had to make room is told when there is some again:
// marks that tell of it push out others, those the next, and so on; meanwhile the
// hole in the numbers shows it.
func (s *Service) lost(t topic, f shortfall) {
	if f.why == string(spool.Full) || f.why == string(spool.NoSpace) {
		s.crowded.add(t, f)
	} else {
		s.untold.add(t, f)
	}
	s.losses.Add(1)
	s.wake()
}

// wake has what is untold told without waiting for a poll.
func (s *Service) wake() {
	select {
	case s.tell <- struct{}{}:
	default:
	}
}

// confess makes the marks that tell what is lost, or all of it, room or not. They
// speak of the time up to now, because what is lost was seen before.
func (s *Service) confess(all bool) []result {
	out := s.marks(s.untold.take())
	if all || !s.pressed.Load() {
		out = append(out, s.marks(s.crowded.take())...)
	}
	return out
}

func (s *Service) marks(untold map[topic]shortfall) []result {
	now := s.deps.Now()
	topics := slices.SortedFunc(maps.Keys(untold), func(a, b topic) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.cluster, b.cluster))
	})
	out := make([]result, 0, len(topics))
	for _, t := range topics {
		mark := fleet.Mark{
			Cluster: t.cluster, About: t.kind, CompleteUntil: later(now, untold[t].newest), Blind: true, Lost: true, BlindReason: untold[t].reason(),
		}
		out = append(out, s.result(t.kind, []codec.Observation{{Mark: &mark}}, func(codec.Observation) time.Time { return now }))
	}
	return out
}

// words is a text that any message may hold: short, and UTF-8.
func words(text string) string {
	const most = 500
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
