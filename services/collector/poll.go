package collector

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

// poller works one schedule.
type poller struct {
	*Service
	Schedule
	// failures counts those in a row.
	failures int
	// until is how far the newest mark with sight of each cluster promised.
	until map[fleet.ClusterID]time.Time
	blind time.Time // when it was last said that nothing can be seen
	sent  map[fleet.ClusterID]sending
	// newest is the newest time that anything handed on of a cluster speaks of.
	newest map[fleet.ClusterID]time.Time
	// losses is what the service's was when sent was true.
	losses uint64
}

// sending is what was sent last of a cluster.
type sending struct {
	content [sha256.Size]byte
	at      time.Time
}

func newPoller(s *Service, schedule Schedule) *poller {
	if schedule.Timeout == 0 {
		schedule.Timeout = max(schedule.Every, 10*time.Second)
	}
	return &poller{
		Service: s, Schedule: schedule,
		until: make(map[fleet.ClusterID]time.Time), sent: make(map[fleet.ClusterID]sending),
		newest: make(map[fleet.ClusterID]time.Time),
	}
}

// breaker is after how many failures in a row a source is asked less often.
const breaker = 3

// pauseAfter returns how long to wait for the next poll: the interval, until so many
// in a row have failed that the source is left alone for longer each time, up to a
// minute or the interval where that is longer. Chance, from 0 to 1, takes up to a
// quarter off, so that those that failed together do not come back together.
func pauseAfter(failures int, every time.Duration, chance float64) time.Duration {
	if failures < breaker {
		return every
	}
	most := max(every, time.Minute)
	pause := every
	for range failures - breaker + 1 {
		if pause *= 2; pause >= most {
			pause = most
			break
		}
	}
	return max(every, pause-time.Duration(chance*float64(pause)/4))
}

// pace is an interval, by chance up to a twentieth shorter or longer, so that sources
// do not stay in step.
func pace(every time.Duration, chance float64) time.Duration {
	return every + time.Duration((chance-0.5)*float64(every)/10)
}

// run polls until ctx ends. The next poll begins when the last one's result is on
// disk, and not before its time.
func (p *poller) run(ctx context.Context) {
	if rtime.Wait(ctx, time.Duration(p.deps.Chance()*float64(p.Jitter))) != nil {
		return
	}
	for ctx.Err() == nil {
		next := time.NewTimer(pace(p.Every, p.deps.Chance()))
		if !p.paused() {
			p.poll(ctx)
		}
		if p.failures >= breaker {
			next.Reset(pauseAfter(p.failures, p.Every, p.deps.Chance()))
			// What wakes it may be that it can be read again, but not more often than else.
			if rtime.Wait(ctx, p.Every) != nil {
				next.Stop()
				return
			}
		}
		select {
		case <-ctx.Done():
		case <-next.C:
		case _, open := <-p.Wake:
			if !open {
				p.Wake = nil
			}
		}
		next.Stop()
	}
}

// paused reports whether the spool is too full for what can be seen later as well.
func (p *poller) paused() bool {
	switch p.Kind {
	case fleet.KindInventory, fleet.KindRegistration, fleet.KindPackage, fleet.KindHealth:
		return p.pressed.Load()
	case fleet.KindSession, fleet.KindProbe, fleet.KindPipeline:
	}
	return false
}

// How long a source may take beyond its time, and beyond the collector's, until it is
// taken for one that does not listen; and from when on a look is slow.
const (
	grace = 2 * time.Second
	slow  = 30 * time.Second
)

var (
	errDeaf = errors.New("the look goes on although its time is over; no other begins before it ends")
	errSlow = errors.New("the look has taken more than 30 s and is not done")
)

// look is what a source answered.
type look struct {
	observations []codec.Observation
	err          error
}

// poll asks once and hands on what came. A source that goes on after its time is
// waited for, since what it brings may not come again; that nothing is seen meanwhile
// is told.
func (p *poller) poll(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	began := p.deps.Now()
	answer := make(chan look, 1)
	go func() {
		observations, err := p.Source.Poll(asking)
		answer <- look{observations, err}
	}()
	over, tell := time.NewTimer(p.Timeout+grace), time.NewTimer(slow)
	defer over.Stop()
	defer tell.Stop()
	late := false
	for {
		select {
		case seen := <-answer:
			p.take(ctx, seen, began, late)
			return
		case <-over.C:
			late = true
			p.deps.Meter.Polled(string(p.Kind), true, p.deps.Now().Sub(began))
			p.count(errDeaf)
		case <-tell.C:
		case <-ctx.Done():
			select {
			case seen := <-answer:
				p.take(ctx, seen, began, late)
			case <-time.After(grace):
				p.deps.Log.Warn("a source does not end with the collector and is left behind", "source", p.Name)
			}
			return
		}
		reason := errSlow
		if late {
			reason = errDeaf
		}
		now := p.deps.Now()
		p.hand(ctx, p.blindness(reason, now), now)
		tell.Reset(p.config.MarkEvery)
	}
}

// take hands on what a source answered; counted says that its poll has been counted
// as a failed one.
func (p *poller) take(ctx context.Context, seen look, began time.Time, counted bool) {
	if seen.err != nil && ctx.Err() != nil {
		return
	}
	ended := p.deps.Now()
	if !counted {
		p.deps.Meter.Polled(string(p.Kind), seen.err != nil, ended.Sub(began))
	}
	if seen.err == nil || !counted {
		p.count(seen.err)
	}
	observations := seen.observations
	if seen.err != nil {
		observations = p.blindness(seen.err, ended)
	} else {
		// A clock that was put back under way promises no more than it says now.
		observations = append(p.changed(observations, began), p.promises(observations, earlier(began, ended))...)
	}
	p.hand(ctx, observations, began)
}

// maxResult is how many observations are encoded before the next: while they are
// written to disk the others are encoded.
const maxResult = 4096

// hand gives observations to whoever packs and waits until they are on disk.
func (p *poller) hand(ctx context.Context, observations []codec.Observation, polled time.Time) {
	// Not the results themselves: what they hold is let go of once it is packed.
	var stored []<-chan struct{}
	for part := range slices.Chunk(observations, maxResult) {
		r := p.result(p.Kind, part, func(o codec.Observation) time.Time { return observedAt(o, polled) })
		r.more = len(part) == maxResult
		p.results <- r
		stored = append(stored, r.done)
	}
	for _, done := range stored {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

// count says when a source begins and ceases to fail, not at every turn.
func (p *poller) count(err error) {
	was := p.failures
	if err == nil {
		p.failures = 0
	} else {
		p.failures++
	}
	switch {
	case p.failures == 1:
		p.deps.Log.Error("a source cannot be read; it is asked again", "id", "LS-COL-010", "source", p.Name, "every", p.Every, "error", err)
	case was < breaker && p.failures == breaker:
		p.deps.Log.Warn("a source keeps failing; it is asked less often", "id", "LS-COL-010", "source", p.Name, "error", err)
		p.deps.Meter.Broken(string(p.Kind), true)
	case was > 0 && p.failures == 0:
		p.deps.Log.Info("a source can be read again", "source", p.Name, "failures", was)
		if was >= breaker {
			p.deps.Meter.Broken(string(p.Kind), false)
		}
	}
}

// blindness tells that a poll failed, so that it is not taken for a quiet source.
func (p *poller) blindness(err error, now time.Time) []codec.Observation {
	if since := now.Sub(p.blind); !p.blind.IsZero() && since >= 0 && since < p.config.MarkEvery {
		return nil
	}
	p.blind = now
	out := make([]codec.Observation, 0, len(p.Clusters))
	for _, cluster := range p.Clusters {
		out = append(out, codec.Observation{Mark: &fleet.Mark{
			Cluster: cluster, About: p.Kind, CompleteUntil: p.until[cluster], Blind: true, BlindReason: words(err.Error()),
		}})
	}
	return out
}

// promises are the marks that go behind what was seen. Sources of sessions know
// themselves how far they have seen, and so may others.
func (p *poller) promises(seen []codec.Observation, until time.Time) []codec.Observation {
	own := make(map[fleet.ClusterID]bool)
	for _, o := range seen {
		if o.Mark != nil {
			own[o.Mark.Cluster] = true
			if !o.Mark.Blind {
				p.promised(o.Mark.Cluster, o.Mark.CompleteUntil)
			}
		}
	}
	if p.Kind == fleet.KindSession {
		return nil
	}
	var out []codec.Observation
	for _, cluster := range p.Clusters {
		if own[cluster] {
			continue
		}
		p.promised(cluster, until)
		out = append(out, codec.Observation{Mark: &fleet.Mark{Cluster: cluster, About: p.Kind, CompleteUntil: until}})
	}
	return out
}

// promised remembers a mark with sight.
func (p *poller) promised(cluster fleet.ClusterID, until time.Time) {
	p.until[cluster], p.newest[cluster] = until, later(p.newest[cluster], until)
}

// changed leaves out what says the same as what was sent last of its cluster. All
// is sent again from time to time, when anything was lost, and as long as a clock that
// was put back has not caught up: what speaks of a time before that of a mark is taken
// for old by those who read it, and the next marks would confirm what came before.
func (p *poller) changed(seen []codec.Observation, now time.Time) []codec.Observation {
	if losses := p.Service.losses.Load(); losses != p.losses {
		p.losses = losses
		clear(p.sent)
	}
	if p.Kind != fleet.KindInventory && p.Kind != fleet.KindRegistration && p.Kind != fleet.KindPackage {
		return seen
	}
	out := make([]codec.Observation, 0, len(seen)+len(p.Clusters))
	for _, o := range seen {
		if o.Inventory == nil && o.Registration == nil && o.Package == nil {
			out = append(out, o)
			continue
		}
		cluster, at := o.Cluster(), observedAt(o, now)
		if at.Before(p.newest[cluster]) {
			delete(p.sent, cluster)
			out = append(out, o)
			continue
		}
		p.newest[cluster] = at
		content, ok := digest(o)
		last, known := p.sent[cluster]
		since := now.Sub(last.at)
		if ok && known && last.content == content && since >= 0 && since < p.config.FullEvery {
			continue
		}
		p.sent[cluster] = sending{content, now}
		out = append(out, o)
	}
	return out
}

// digest is the same for observations that say the same, whenever they were made;
// false when it cannot be told.
func digest(o codec.Observation) ([sha256.Size]byte, bool) {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(codec.ObservationToProto(o, time.Time{}))
	return sha256.Sum256(data), err == nil
}

// observedAt is when something was seen, as far as it says so itself.
func observedAt(o codec.Observation, polled time.Time) time.Time {
	var at time.Time
	switch {
	case o.Inventory != nil:
		at = o.Inventory.ObservedAt
	case o.Registration != nil:
		at = o.Registration.ObservedAt
	case o.Package != nil:
		at = o.Package.ObservedAt
	case o.Check != nil:
		at = o.Check.At
	}
	if at.IsZero() {
		return polled
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// keep runs what a source reads from, and again when that ends before its time.
func (p *poller) keep(ctx context.Context) {
	pauses := rtime.Backoff{First: time.Second, Max: time.Minute}
	for {
		began := p.deps.Now()
		err := p.Schedule.Run(ctx)
		if ctx.Err() != nil {
			return
		}
		if p.deps.Now().Sub(began) > pauses.Max {
			pauses.Reset() // it worked for a while
		}
		p.deps.Log.Warn("what a source reads from ended; it is begun again", "source", p.Name, "error", err)
		if rtime.Wait(ctx, pauses.Next()) != nil {
			return
		}
	}
}
