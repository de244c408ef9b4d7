package akeyless

import (
	"container/heap"
	"fmt"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
)

// open is a session that has not ended, with what will become of it.
type open struct {
	session akeylesstest.Session
	cluster *cluster
	lasts   time.Duration // once connected
	end     string        // failed, completed, terminated or Vanished
	why     string        // its error, when it fails
}

// event is the start of a cluster's next session or, with one, the next change
// of an open session.
type event struct {
	at      time.Time
	order   uint64 // of events at the same time
	cluster *cluster
	open    *open
}

func (f *Fleet) at(when time.Time, e *event) {
	f.order++
	e.at, e.order = when, f.order
	heap.Push(&f.events, e)
}

// start begins a session and plans all of its life. Every number is drawn every
// time and in the same order, so that versions decide what the draws mean and
// never which come next.
func (f *Fleet) start(e *event) error {
	c, traffic := e.cluster, f.script.Traffic
	bastion, user, place := c.chance.IntN(len(c.bastions)), c.chance.IntN(len(c.users)), c.chance.IntN(len(c.targets))
	protocol := traffic.Protocols[c.chance.IntN(len(traffic.Protocols))]
	id := fmt.Sprintf("%016x%08x", c.chance.Uint64(), c.chance.Uint32())
	connect, lasts := spread(traffic.Connect, c.chance.ExpFloat64()), spread(traffic.Duration, c.chance.ExpFloat64())
	fails, which, wording := c.chance.Float64(), c.chance.Float64(), c.chance.Float64()
	cut, lost := c.chance.Float64(), c.chance.Float64()

	t := c.targets[place]
	o := &open{cluster: c, lasts: lasts, end: "completed", session: akeylesstest.Session{
		ID: id, Status: "connecting", StartTime: f.stamp(e.at), ConnectionType: protocol, ClientType: "cli",
		ClusterUniqID: c.id, InstanceID: c.bastions[bastion], AccessID: "p-people0000",
		Gateway:        akeylesstest.GatewayInfo{ClusterName: c.Name, ClusterDisplayName: c.DisplayName},
		UserIdentifier: c.users[user], TargetHost: t.host, TargetName: t.item, TargetType: protocol,
		SecretName: t.item, TTL: "480m",
	}}
	if cut < traffic.Terminated {
		o.end = "terminated"
	}
	failing, special := f.script.Failures[Pair{Gateway: c.Versions.Gateway, SRA: c.sra[bastion]}]
	if !special {
		failing = f.script.Ordinary
	}
	if fails < failing.Rate {
		late, text := pick(failing.Causes, protocol, which, wording)
		o.end, o.why = "failed", worded(text, t.host, t.address, c.users[user], t.item, id[:8])
		if !late {
			o.lasts = 0
		}
	}
	if lost < traffic.Vanishing {
		o.end = Vanished
	}
	c.counts.Started++
	c.counts.Open++
	if err := f.tell(o); err != nil {
		return err
	}
	f.at(e.at.Add(connect), &event{open: o})
	f.at(c.next(e.at), e)
	return nil
}

// move brings a session to its next status.
func (f *Fleet) move(e *event) error {
	o := e.open
	failsToConnect := o.why != "" && o.lasts == 0
	if o.session.Status == "connecting" && !failsToConnect {
		o.session.Status = "connected"
		f.at(e.at.Add(o.lasts), e)
		return f.tell(o)
	}
	o.session.Status = o.end
	counts := &o.cluster.counts
	counts.Open--
	switch o.end {
	case Vanished:
		counts.Vanished++
		f.server.Forget(o.session.ID)
		if f.script.Observe != nil {
			f.script.Observe(o.session)
		}
		return nil
	case "failed":
		counts.Failed++
		o.session.ErrorMsg = o.why
	case "completed":
		counts.Completed++
	case "terminated":
		counts.Terminated++
	}
	o.session.EndTime = f.stamp(e.at)
	return f.tell(o)
}

func (f *Fleet) tell(o *open) error {
	if err := f.server.Report(o.session); err != nil {
		return err
	}
	if f.script.Observe != nil {
		f.script.Observe(o.session)
	}
	return nil
}

// spread is an exponential time of the given mean in whole milliseconds, and at
// least one: times are kept no finer everywhere, and what is true should compare
// with what was stored.
func spread(mean time.Duration, draw float64) time.Duration {
	return max(time.Millisecond, time.Duration(float64(mean)*draw).Round(time.Millisecond))
}

// schedule is a heap of events by time.
type schedule []*event

func (s schedule) Len() int { return len(s) }

func (s schedule) Less(i, j int) bool {
	if c := s[i].at.Compare(s[j].at); c != 0 {
		return c < 0
	}
	return s[i].order < s[j].order
}

func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

// Push and Pop serve package heap.
func (s *schedule) Push(e any) { *s = append(*s, e.(*event)) } //nolint:forcetypeassert // see at

// Pop takes the last, for package heap.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	e := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return e
}
