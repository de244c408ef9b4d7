package akeyless

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const (
	defaultSourceLag   = 5 * time.Second
	defaultOverlap     = 30 * time.Second
	defaultLookback    = time.Hour
	defaultMaxSessions = 600_000
	defaultMaxTime     = 5 * time.Minute
	// memorySpan, in overlaps, is how far back ended sessions are remembered,
	// so that what a page shows beyond the overlap is told from news.
	memorySpan = 4
	// leastRemembered keeps small readers from sweeping at each poll.
	leastRemembered = 1024
	// longestSearch is how many polls look for a session that has left the active
	// list, when none of them can read far enough to find it.
	longestSearch = 3
)

// ReaderOptions says what a SessionReader reads and how far back.
type ReaderOptions struct {
	Client *Client
	// Clusters maps the vendor's cluster_name to the cluster's own id.
	// Sessions of other clusters are counted, not returned.
	Clusters map[string]fleet.ClusterID
	// SourceLag is the longest time from a session's start until the server
	// lists it; 0 means 5 s.
	SourceLag time.Duration
	// Overlap is how far behind the newest session seen each poll reads again,
	// to meet sessions listed late; at least SourceLag; 0 means the greater of
	// 30 s and SourceLag.
	Overlap time.Duration
	// Lookback is how far before its first poll the reader begins; 0 means 1 h.
	Lookback time.Duration
	// MaxSessions bounds what the reader remembers and what one poll reads; 0
	// means 600,000. A poll that needs more says that it is blind.
	MaxSessions int
	// MaxTime bounds how long one poll goes on reading, half of it for the active
	// sessions; 0 means 5 min. The first page of each list and a page under way are
	// read to their end. A poll that needs more says that it is blind.
	MaxTime time.Duration
	// OpenFile is where open sessions are kept over a restart, at most every 5 min
	// and by Save; empty means nowhere. Without it, a session that started before
	// the lookback and ends while there is no reader is never told.
	OpenFile string
	// Now is the clock marks are made with; nil means time.Now.
	Now func() time.Time
}

// SessionReader polls the session list and returns what changed. It is for one
// goroutine. What it knows is lost with it, the open sessions in its file apart: a
// new reader returns the sessions of its lookback again, and those still open.
//
// One poll lists the active sessions, then all sessions, newest first, down to
// the overlap or to the oldest session that has left the active list since the
// last poll, whichever is older. A session open for days thus costs one entry
// of the active list, and a deep read once, when it ends. One that is found in
// neither list has vanished.
type SessionReader struct {
	client      *Client
	clusters    map[string]fleet.ClusterID
	ids         []fleet.ClusterID
	lag         time.Duration
	overlap     time.Duration
	maxSessions int
	maxTime     time.Duration
	now         func() time.Time

	lookback time.Duration
	began    bool
	polls    uint32
	open     map[fleet.SessionID]opened // not ended when last seen; never forgotten while listed
	ended    map[fleet.SessionID]ending // ended or vanished, started at or after horizon
	horizon  time.Time                  // before it every ended session counts as returned
	floor    time.Time                  // the next poll reads at least down to it
	sweepAt  int                        // sweep when this many are remembered
	complete time.Time                  // of the last full poll

	openFile string
	savedAt  time.Time
	left     map[fleet.SessionID]opened // no longer open since the last poll
	// before is how far an earlier reader promised, zero when it is not known.
	before time.Time
}

// opened is a session that has not ended, as small as can be: there may be
// hundreds of thousands. What repeats from session to session is kept once.
type opened struct {
	start                                      instant
	cluster                                    uint32 // its place in ids
	met                                        uint32 // the poll that last listed it
	user, target, instance, protocol, toTarget unique.Handle[string]
	rank                                       uint8
	sought                                     uint8 // polls that looked for it in vain
}

type ending struct {
	start    instant
	vanished bool
}

// instant is a time.Time without a location, in half the space.
type instant struct {
	seconds int64
	nanos   int32
}

func instantOf(t time.Time) instant { return instant{t.Unix(), int32(t.Nanosecond())} }

func (i instant) time() time.Time { return time.Unix(i.seconds, int64(i.nanos)).UTC() }

func (i instant) compare(other instant) int {
	return cmp.Or(cmp.Compare(i.seconds, other.seconds), cmp.Compare(i.nanos, other.nanos))
}

func (i instant) before(t time.Time) bool { return i.time().Before(t) }

func (r *SessionReader) compact(s fleet.Session) opened {
	cluster, _ := slices.BinarySearch(r.ids, s.Cluster)
	return opened{
		start: instantOf(s.Start), cluster: uint32(cluster), met: r.polls, rank: uint8(rank(s.Status)),
		user: unique.Make(s.User), target: unique.Make(s.Target), instance: unique.Make(string(s.InstanceID)),
		protocol: unique.Make(s.Protocol), toTarget: unique.Make(s.TargetType),
	}
}

// vanish is what is told of a session that is listed no more.
func (r *SessionReader) vanish(id fleet.SessionID, o opened) fleet.Session {
	return fleet.Session{
		ID: id, Cluster: r.ids[o.cluster], Status: fleet.SessionVanished, Start: o.start.time(),
		User: o.user.Value(), Target: o.target.Value(), InstanceID: fleet.InstanceID(o.instance.Value()),
		Protocol: o.protocol.Value(), TargetType: o.toTarget.Value(),
	}
}

// Page is what one poll brought.
type Page struct {
	// Sessions are those that came into a status since the last poll, by start, then
	// id, each once, in the latest state seen, with Cluster set. No session is
	// returned twice in one status, nor in an earlier one after a later one; the
	// first end counts. A session that vanished has no End; when it is listed again
	// it comes back as what it is.
	Sessions []fleet.Session
	// Marks holds one mark for each cluster of the map, by id. CompleteUntil is
	// the instant the poll began, by our clock or the server's, whichever is
	// behind, less the source lag, and speaks of sessions from the first poll's
	// lookback on. A poll that could not read as far as it had to leaves
	// CompleteUntil where it was and is blind.
	Marks []fleet.Mark

	// What the poll met and did not return. These describe this poll's reading,
	// which overlaps the last one's: they are levels, not to be added up.
	Foreign       int // sessions of clusters not in the map
	UnknownStatus int // sessions in a state this build does not know
	Unreadable    int // objects that are not sessions
	Lost          int // sessions that have ended somewhere beyond what can be read
	Pages         int // requests for pages
}

// NewSessionReader checks the options, takes in the open sessions of OpenFile and
// makes no call.
func NewSessionReader(o ReaderOptions) (*SessionReader, error) {
	lag := orDefault(o.SourceLag, defaultSourceLag)
	r := &SessionReader{
		client:      o.Client,
		clusters:    maps.Clone(o.Clusters),
		lag:         lag,
		overlap:     orDefault(o.Overlap, max(defaultOverlap, lag)),
		lookback:    orDefault(o.Lookback, defaultLookback),
		maxSessions: orDefault(o.MaxSessions, defaultMaxSessions),
		maxTime:     orDefault(o.MaxTime, defaultMaxTime),
		openFile:    o.OpenFile,
		now:         o.Now,
		open:        make(map[fleet.SessionID]opened),
		ended:       make(map[fleet.SessionID]ending),
		sweepAt:     leastRemembered,
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.ids = slices.Compact(slices.Sorted(maps.Values(r.clusters)))
	switch {
	case r.client == nil:
		return nil, errors.New("session reader: a client is needed")
	case len(r.clusters) == 0:
		return nil, errors.New("session reader: no clusters to read for; map at least one vendor cluster_name to a cluster")
	case r.lag < 0 || r.lookback < 0 || r.maxSessions < 1 || r.maxTime < 0:
		return nil, errors.New("session reader: source lag, lookback, the number of sessions and the time to read must be positive")
	case r.overlap < r.lag:
		return nil, fmt.Errorf("session reader: the overlap (%s) must be at least the source lag (%s), or sessions listed late are missed", r.overlap, r.lag)
	}
	r.recall()
	return r, nil
}

// Poll reads what changed. After an error nothing is forgotten and nothing
// advanced: the next poll returns what this one would have.
func (r *SessionReader) Poll(ctx context.Context) (Page, error) {
	r.polls++
	p := &poll{
		reader: r, began: r.now(), floor: r.floor, horizon: r.horizon,
		at:     make(map[fleet.SessionID]int),
		blind:  make(map[fleet.ClusterID][]string),
		unsure: make(map[fleet.ClusterID]bool), hidden: make(map[fleet.ClusterID]bool),
	}
	if err := p.readActive(ctx); err != nil {
		return Page{}, fmt.Errorf("list active sessions: %w", err)
	}
	if err := p.readAll(ctx); err != nil {
		return Page{}, fmt.Errorf("list sessions back to %s: %w", p.floor.Format(time.RFC3339), err)
	}
	return r.commit(p), nil
}

// poll is what one poll has gathered and not yet committed.
type poll struct {
	reader  *SessionReader
	page    Page
	began   time.Time
	asOf    time.Time // the server's clock at the first page, zero when it does not say
	floor   time.Time
	horizon time.Time
	newest  time.Time // the latest start seen, of any cluster

	news []fleet.Session
	at   map[fleet.SessionID]int // where in news
	// allActive says that the active list was read to its end: an open session
	// not in it has ended. reached says that the session list was read to floor.
	allActive, reached bool
	missing            int // open sessions that were not in the active list

	gateways     []Gateway
	gatewaysSaid bool
	doubtful     bool                     // an object could not be read that may be of any cluster
	unsure       map[fleet.ClusterID]bool // clusters of which an object could not be read
	hidden       map[fleet.ClusterID]bool // clusters that the server does not show in full
	blind        map[fleet.ClusterID][]string
}

func (p *poll) readActive(ctx context.Context) error {
	query := SessionQuery{Statuses: []fleet.SessionStatus{fleet.SessionConnecting, fleet.SessionConnected}}
	rest, err := p.walk(ctx, query, p.reader.maxTime/2, func(page SessionPage) bool {
		for _, s := range page.Sessions {
			p.note(s)
		}
		return true
	})
	p.allActive = rest == ""
	if err != nil {
		return err
	}
	p.judgeSight()
	if !p.reader.began {
		p.floor = p.now().Add(-p.reader.lookback)
		p.horizon = p.floor
	}
	if now := p.now(); now.Before(p.floor) {
		// The server's clock went back: what begins from now on begins before the floor.
		p.floor = now.Add(-p.reader.overlap)
		if p.floor.Before(p.horizon) {
			p.horizon = p.floor
		}
	}
	for _, o := range p.reader.open {
		if o.met == p.reader.polls {
			continue
		}
		p.missing++
		// What is hidden cannot be found, however deep the reading goes.
		if !p.hidden[p.reader.ids[o.cluster]] && o.start.before(p.floor) {
			p.floor = o.start.time()
		}
	}
	return nil
}

func (p *poll) readAll(ctx context.Context) error {
	rest, err := p.walk(ctx, SessionQuery{}, p.reader.maxTime, func(page SessionPage) bool {
		news := false
		for _, s := range page.Sessions {
			news = p.note(s) || news
			p.reached = p.reached || s.Start.Before(p.floor)
		}
		return news || !p.reached
	})
	if err != nil {
		return err
	}
	p.reached = p.reached || rest == ""
	if !p.reached {
		p.blindAll(rest)
	} else if !p.allActive && p.missing > 0 {
		p.blindAll("the list of active sessions could not be read to its end")
	}
	return nil
}

// walk reads pages until visit wants no more, or the poll has taken so long. rest
// is empty when visit or the server ended it, else it says why the rest could not
// be read.
func (p *poll) walk(ctx context.Context, query SessionQuery, longest time.Duration, visit func(SessionPage) (more bool)) (rest string, err error) {
	read := 0
	for page, err := range p.reader.client.SessionPages(ctx, query) {
		p.page.Pages++
		if p.page.Pages == 1 {
			p.asOf = page.AsOf
		}
		if errors.Is(err, ErrRepeatedPage) {
			return ErrRepeatedPage.Error(), nil
		}
		if err != nil {
			return "", err
		}
		if page.GatewaysSaid && !p.gatewaysSaid {
			p.gateways, p.gatewaysSaid = page.Gateways, true
		}
		p.noteUnreadable(page.Unreadable)
		if !visit(page) {
			return "", nil
		}
		read += max(1, len(page.Sessions))
		if read >= p.reader.maxSessions && page.Next != "" {
			return fmt.Sprintf("more than %d sessions to read in one poll; poll more often, shorten the lookback or raise the limit", p.reader.maxSessions), nil
		}
		// Between pages, so that a wait that the server asks for is no failure.
		if page.Next != "" && p.reader.now().Sub(p.began) >= longest {
			return fmt.Sprintf("not all sessions could be read in %s; shorten the lookback", longest), nil
		}
	}
	return "", nil
}

// note takes in one session as listed and reports whether it is news.
func (p *poll) note(listed Session) bool {
	r := p.reader
	if listed.Start.After(p.newest) {
		p.newest = listed.Start
	}
	before, known := r.open[listed.ID]
	if known && before.met != r.polls {
		before.met = r.polls // whatever is said of it: it is listed
		r.open[listed.ID] = before
	}
	cluster, ours := r.clusters[listed.ClusterName]
	if !ours {
		p.page.Foreign++
		return false
	}
	s := listed.Session
	s.Cluster = cluster
	now := rank(s.Status)
	if now == rankUnknown {
		p.page.UnknownStatus++
		return false
	}
	if i, again := p.at[s.ID]; again {
		if now <= rank(p.news[i].Status) {
			return false
		}
		p.news[i] = s
		return true
	}
	if known {
		if now <= int(before.rank) {
			return false
		}
	} else if e, was := r.ended[s.ID]; was {
		if !e.vanished {
			return false
		}
	} else if now == rankEnded && s.Start.Before(p.horizon) {
		return false
	}
	p.at[s.ID] = len(p.news)
	p.news = append(p.news, s)
	return true
}

func (p *poll) noteUnreadable(objects []Unreadable) {
	p.page.Unreadable += len(objects)
	for _, u := range objects {
		reason := "a listed session cannot be read: " + u.Reason
		if u.ClusterName == "" {
			p.doubtful = true
			p.blindAll(reason)
		} else if id, ours := p.reader.clusters[u.ClusterName]; ours {
			p.unsure[id] = true
			p.blindFor(id, reason)
		}
	}
}

// judgeSight compares the gateways the server shows in full with the clusters
// this reader speaks for.
func (p *poll) judgeSight() {
	if !p.gatewaysSaid {
		p.blindAll("LS-VEN-006: the server does not say which gateways these credentials see in full; give their role the rule " + reportsAccess)
		for _, id := range p.reader.ids {
			p.hidden[id] = true
		}
		return
	}
	shown := make(map[string]bool, len(p.gateways))
	for _, g := range p.gateways {
		shown[g.ClusterName] = true
	}
	for _, name := range slices.Sorted(maps.Keys(p.reader.clusters)) {
		if !shown[name] {
			id := p.reader.clusters[name]
			p.hidden[id] = true
			p.blindFor(id, fmt.Sprintf("LS-VEN-006: allowed_gateways does not list %q; give the credentials' role the rule %s", name, reportsAccess))
		}
	}
}

func (p *poll) blindAll(reason string) {
	for _, id := range p.reader.ids {
		p.blindFor(id, reason)
	}
}

func (p *poll) blindFor(id fleet.ClusterID, reason string) {
	if reasons := p.blind[id]; len(reasons) < 4 && !slices.Contains(reasons, reason) {
		p.blind[id] = append(reasons, reason)
	}
}

// commit makes what p gathered the reader's knowledge and returns it.
func (r *SessionReader) commit(p *poll) Page {
	r.left = make(map[fleet.SessionID]opened)
	for _, s := range p.news {
		if rank(s.Status) == rankEnded {
			r.leave(s.ID)
			r.ended[s.ID] = ending{start: instantOf(s.Start)}
		} else {
			delete(r.ended, s.ID)
			r.open[s.ID] = r.compact(s)
		}
	}
	if p.allActive {
		p.missed()
	}
	// Between what an earlier reader promised and where this one begins nobody has
	// read, and no later poll makes up for it.
	gap := !r.began && !r.before.IsZero() && r.before.Before(p.horizon)
	if gap {
		p.blindAll(fmt.Sprintf("what began from %s to %s was never read: there was no reader for longer than the lookback", r.before.Format(time.RFC3339), p.horizon.Format(time.RFC3339)))
	}
	r.began, r.horizon = true, p.horizon
	now := p.now()
	if now.Before(r.complete) {
		p.blindAll(fmt.Sprintf("the server's clock went back; what begins until %s has been promised already", r.complete.Format(time.RFC3339)))
	}
	if p.floor.Before(r.floor) {
		r.floor = p.floor
	}
	next := now
	if p.newest.Before(next) {
		// Sessions to come start after the newest seen, not after our own now.
		next = p.newest
	}
	if p.newest.IsZero() {
		next = p.floor.Add(r.overlap) // nothing seen yet: stay
	}
	if next = next.Add(-r.overlap); next.After(r.floor) {
		r.floor = next
	}
	if len(r.open)+len(r.ended) >= min(r.sweepAt, r.maxSessions) {
		r.sweep(p)
	}
	if p.reached {
		if until := now.Add(-r.lag); until.After(r.complete) {
			r.complete = until
		}
	}
	r.saveNowAndThen()
	page := p.page
	page.Sessions = p.news
	slices.SortFunc(page.Sessions, func(a, b fleet.Session) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID))
	})
	skew := r.client.skew()
	for _, id := range r.ids {
		reasons := p.blind[id]
		mark := fleet.Mark{
			Cluster: id, About: fleet.KindSession, CompleteUntil: r.complete, Skew: skew,
			Blind: len(reasons) > 0, BlindReason: strings.Join(reasons, "; "), Lost: gap,
		}
		if gap {
			mark.CompleteUntil = p.horizon // what begins after it is not lost
		}
		page.Marks = append(page.Marks, mark)
	}
	return page
}

// leave takes a session out of the open ones.
func (r *SessionReader) leave(id fleet.SessionID) {
	if o, known := r.open[id]; known {
		r.left[id] = o
		delete(r.open, id)
	}
}

// now is when the poll began, by the clock that is behind: sessions start by the
// server's clock, so a clock of ours that is ahead would promise what cannot be
// known. A date that its cut to the second explains is no other clock.
func (p *poll) now() time.Time {
	if !p.asOf.IsZero() && p.asOf.Add(time.Second).Before(p.began) {
		return p.asOf
	}
	return p.began
}

// missed sees to the open sessions that neither list holds. They have vanished
// when their cluster is seen in full and both lists were read as far as they
// could be in: a truncated, hidden or unreadable list makes nobody vanish.
func (p *poll) missed() {
	r := p.reader
	for id, o := range r.open {
		if o.met == r.polls {
			continue
		}
		cluster := r.ids[o.cluster]
		switch {
		case p.hidden[cluster]:
			// It may be there: it is looked for when the cluster is seen again.
		case p.reached && !p.doubtful && !p.unsure[cluster]:
			r.leave(id)
			r.ended[id] = ending{start: o.start, vanished: true}
			p.news = append(p.news, r.vanish(id, o))
		case o.sought+1 >= longestSearch:
			// It has ended beyond or in what cannot be read, and seeking it for ever
			// would read as deep each time.
			delete(r.open, id)
			p.page.Lost++
		default:
			o.sought++
			r.open[id] = o
		}
	}
}

// sweep forgets ended sessions too old to be met again, and more when the
// reader holds more than it may.
func (r *SessionReader) sweep(p *poll) {
	if h := r.floor.Add(-(memorySpan - 1) * r.overlap); h.After(r.horizon) {
		r.horizon = h
	}
	maps.DeleteFunc(r.ended, func(_ fleet.SessionID, e ending) bool { return e.start.before(r.horizon) })
	if len(r.open)+len(r.ended) > r.maxSessions {
		r.evict()
		p.blindAll(fmt.Sprintf("more than %d sessions to remember; shorten the overlap or raise the limit", r.maxSessions))
	}
	r.sweepAt = max(leastRemembered, 2*(len(r.open)+len(r.ended)))
}

// evict forgets the oldest sessions, ended ones first, until a quarter of the
// room is free, so that it need not be done again at the next session.
func (r *SessionReader) evict() {
	excess := len(r.open) + len(r.ended) - r.maxSessions*3/4
	starts := slices.SortedFunc(maps.Values(r.ended), func(a, b ending) int { return a.start.compare(b.start) })
	if n := min(excess, len(starts)); n > 0 {
		r.horizon = starts[n-1].start.time().Add(1)
		maps.DeleteFunc(r.ended, func(_ fleet.SessionID, e ending) bool { return e.start.before(r.horizon) })
		excess -= n
	}
	if excess <= 0 {
		return
	}
	oldest := slices.SortedFunc(maps.Keys(r.open), func(a, b fleet.SessionID) int {
		return r.open[a].start.compare(r.open[b].start)
	})
	for _, id := range oldest[:min(excess, len(oldest))] {
		delete(r.open, id)
	}
}
