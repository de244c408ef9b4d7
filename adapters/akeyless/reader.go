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

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const (
	defaultSourceLag   = 5 * time.Second
	defaultOverlap     = 30 * time.Second
	defaultLookback    = time.Hour
	defaultMaxSessions = 200_000
	// memorySpan, in overlaps, is how far back ended sessions are remembered,
	// so that what a page shows beyond the overlap is told from news.
	memorySpan = 4
	// leastRemembered keeps small readers from sweeping at each poll.
	leastRemembered = 1024
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
	// means 200,000. A poll that needs more says that it is blind.
	MaxSessions int
	// AssumeVisible takes a server that does not say which gateways it shows in
	// full for one that shows all. Only for servers too old to say it: credentials
	// that see only their own sessions get the same silence.
	AssumeVisible bool
	// Now is the clock marks are made with; nil means time.Now.
	Now func() time.Time
}

// SessionReader polls the session list and returns what changed. It is for one
// goroutine. What it knows is lost with it: a new reader returns the sessions
// of its lookback again.
//
// One poll lists the active sessions, then all sessions, newest first, down to
// the overlap or to the oldest session that has left the active list since the
// last poll, whichever is older. A session open for days thus costs one entry
// of the active list, and a deep read once, when it ends.
type SessionReader struct {
	client      *Client
	clusters    map[string]fleet.ClusterID
	ids         []fleet.ClusterID
	lag         time.Duration
	overlap     time.Duration
	maxSessions int
	visible     bool
	now         func() time.Time

	lookback time.Duration
	began    bool
	open     map[fleet.SessionID]fleet.Session // not ended when last seen; never forgotten while listed
	ended    map[fleet.SessionID]ending        // ended, started at or after horizon
	horizon  time.Time                         // before it every ended session counts as returned
	floor    time.Time                         // the next poll reads at least down to it
	sweepAt  int                               // sweep when this many are remembered
	complete time.Time                         // of the last full poll
}

type ending struct {
	start, end time.Time
	status     fleet.SessionStatus
}

// Page is what one poll brought.
type Page struct {
	// Sessions are new or changed since the last poll, by start, then id, each
	// once, in the latest state seen, with Cluster set.
	Sessions []fleet.Session
	// Marks holds one mark for each cluster of the map, by id. CompleteUntil is
	// the instant the poll began less the source lag, and speaks of sessions from
	// the first poll's lookback on. A poll that could not read as far as
	// it had to leaves CompleteUntil where it was and is blind.
	Marks []fleet.Mark

	// What the poll met and did not return. These describe this poll's reading,
	// which overlaps the last one's: they are levels, not to be added up.
	Foreign       int // sessions of clusters not in the map
	UnknownStatus int // sessions in a state this build does not know
	Unreadable    int // objects that are not sessions
	Lost          int // sessions that were open and are listed no more
	Pages         int // requests for pages
}

// NewSessionReader checks the options and makes no call.
func NewSessionReader(o ReaderOptions) (*SessionReader, error) {
	lag := orDefault(o.SourceLag, defaultSourceLag)
	r := &SessionReader{
		client:      o.Client,
		clusters:    maps.Clone(o.Clusters),
		lag:         lag,
		overlap:     orDefault(o.Overlap, max(defaultOverlap, lag)),
		lookback:    orDefault(o.Lookback, defaultLookback),
		maxSessions: orDefault(o.MaxSessions, defaultMaxSessions),
		visible:     o.AssumeVisible,
		now:         o.Now,
		open:        make(map[fleet.SessionID]fleet.Session),
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
	case r.lag < 0 || r.lookback < 0 || r.maxSessions < 1:
		return nil, errors.New("session reader: source lag, lookback and the number of sessions must be positive")
	case r.overlap < r.lag:
		return nil, fmt.Errorf("session reader: the overlap (%s) must be at least the source lag (%s), or sessions listed late are missed", r.overlap, r.lag)
	}
	return r, nil
}

// Poll reads what changed. After an error nothing is forgotten and nothing
// advanced: the next poll returns what this one would have.
func (r *SessionReader) Poll(ctx context.Context) (Page, error) {
	p := &poll{
		reader: r, began: r.now(), floor: r.floor, horizon: r.horizon,
		news:  make(map[fleet.SessionID]fleet.Session),
		met:   make(map[fleet.SessionID]struct{}),
		blind: make(map[fleet.ClusterID][]string),
	}
	if !r.began {
		p.floor = p.began.Add(-r.lookback)
		p.horizon = p.floor
	}
	if err := p.readActive(ctx); err != nil {
		return Page{}, fmt.Errorf("list active sessions: %w", err)
	}
	if err := p.readAll(ctx); err != nil {
		return Page{}, fmt.Errorf("list sessions back to %s: %w", p.floor.Format(time.RFC3339), err)
	}
	p.judgeSight()
	return r.commit(p), nil
}

// poll is what one poll has gathered and not yet committed.
type poll struct {
	reader  *SessionReader
	page    Page
	began   time.Time
	floor   time.Time
	horizon time.Time
	newest  time.Time // the latest start seen, of any cluster

	news map[fleet.SessionID]fleet.Session
	met  map[fleet.SessionID]struct{} // of the reader's open sessions, those listed
	// allActive says that the active list was read to its end: an open session
	// not in it has ended. reached says that the session list was read to floor.
	allActive, reached bool

	gateways     []Gateway
	gatewaysSaid bool
	blind        map[fleet.ClusterID][]string
}

func (p *poll) readActive(ctx context.Context) error {
	query := SessionQuery{Statuses: []fleet.SessionStatus{fleet.SessionConnecting, fleet.SessionConnected}}
	rest, err := p.walk(ctx, query, func(page SessionPage) bool {
		for _, s := range page.Sessions {
			p.note(s)
		}
		return true
	})
	p.allActive = rest == ""
	if err != nil {
		return err
	}
	for id, s := range p.reader.open {
		if _, listed := p.met[id]; !listed && s.Start.Before(p.floor) {
			p.floor = s.Start
		}
	}
	return nil
}

func (p *poll) readAll(ctx context.Context) error {
	rest, err := p.walk(ctx, SessionQuery{}, func(page SessionPage) bool {
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
	} else if !p.allActive && len(p.met) < len(p.reader.open) {
		p.blindAll("the list of active sessions could not be read to its end")
	}
	return nil
}

// walk reads pages until visit wants no more. rest is empty when visit or the
// server ended it, else it says why the rest could not be read.
func (p *poll) walk(ctx context.Context, query SessionQuery, visit func(SessionPage) (more bool)) (rest string, err error) {
	read := 0
	for page, err := range p.reader.client.SessionPages(ctx, query) {
		p.page.Pages++
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
	}
	return "", nil
}

// note takes in one session as listed and reports whether it is news.
func (p *poll) note(listed Session) bool {
	if listed.Start.After(p.newest) {
		p.newest = listed.Start
	}
	cluster, ours := p.reader.clusters[listed.ClusterName]
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
	before, known := p.reader.open[s.ID]
	if known {
		p.met[s.ID] = struct{}{}
	}
	if later, again := p.news[s.ID]; again {
		before, known = later, true
	}
	if known {
		if now < rank(before.Status) || s == before {
			return false
		}
		p.news[s.ID] = s
		return true
	}
	if e, was := p.reader.ended[s.ID]; was {
		if now < rankEnded || e == endingOf(s) {
			return false
		}
	} else if now == rankEnded && s.Start.Before(p.horizon) {
		return false
	}
	p.news[s.ID] = s
	return true
}

func endingOf(s fleet.Session) ending {
	return ending{start: s.Start, end: s.End, status: s.Status}
}

func (p *poll) noteUnreadable(objects []Unreadable) {
	p.page.Unreadable += len(objects)
	for _, u := range objects {
		reason := "a listed session cannot be read: " + u.Reason
		if u.ClusterName == "" {
			p.blindAll(reason)
		} else if id, ours := p.reader.clusters[u.ClusterName]; ours {
			p.blindFor(id, reason)
		}
	}
}

// judgeSight compares the gateways the server shows in full with the clusters
// this reader speaks for.
func (p *poll) judgeSight() {
	if !p.gatewaysSaid {
		if !p.reader.visible {
			p.blindAll("LS-VEN-006: the server does not say which gateways these credentials see in full; give their role the rule sra-reports-access=all")
		}
		return
	}
	shown := make(map[string]bool, len(p.gateways))
	for _, g := range p.gateways {
		shown[g.ClusterName] = true
	}
	for _, name := range slices.Sorted(maps.Keys(p.reader.clusters)) {
		if !shown[name] {
			p.blindFor(p.reader.clusters[name], fmt.Sprintf("LS-VEN-006: allowed_gateways does not list %q; give the credentials' role the rule sra-reports-access=all", name))
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
	for id, s := range p.news {
		if rank(s.Status) == rankEnded {
			delete(r.open, id)
			r.ended[id] = endingOf(s)
		} else {
			r.open[id] = s
		}
	}
	if p.allActive {
		for id := range r.open {
			_, listed := p.met[id]
			_, changed := p.news[id]
			if !listed && !changed {
				// It has ended and its end was looked for: found nowhere, it is
				// gone for good, and seeking it again would read as deep each poll.
				delete(r.open, id)
				p.page.Lost++
			}
		}
	}
	r.began, r.horizon = true, p.horizon
	next := p.began
	if p.newest.Before(next) {
		// The vendor's clock may be behind ours: sessions to come start after
		// the newest seen, not after our own now.
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
		if until := p.began.Add(-r.lag); until.After(r.complete) {
			r.complete = until
		}
	}
	page := p.page
	page.Sessions = slices.SortedFunc(maps.Values(p.news), func(a, b fleet.Session) int {
		return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.ID, b.ID))
	})
	for _, id := range r.ids {
		reasons := p.blind[id]
		page.Marks = append(page.Marks, fleet.Mark{
			Cluster: id, CompleteUntil: r.complete,
			Blind: len(reasons) > 0, BlindReason: strings.Join(reasons, "; "),
		})
	}
	return page
}

// sweep forgets ended sessions too old to be met again, and more when the
// reader holds more than it may.
func (r *SessionReader) sweep(p *poll) {
	if h := r.floor.Add(-(memorySpan - 1) * r.overlap); h.After(r.horizon) {
		r.horizon = h
	}
	maps.DeleteFunc(r.ended, func(_ fleet.SessionID, e ending) bool { return e.start.Before(r.horizon) })
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
	starts := slices.SortedFunc(maps.Values(r.ended), func(a, b ending) int { return a.start.Compare(b.start) })
	if n := min(excess, len(starts)); n > 0 {
		r.horizon = starts[n-1].start.Add(1)
		maps.DeleteFunc(r.ended, func(_ fleet.SessionID, e ending) bool { return e.start.Before(r.horizon) })
		excess -= n
	}
	if excess <= 0 {
		return
	}
	oldest := slices.SortedFunc(maps.Values(r.open), func(a, b fleet.Session) int { return a.Start.Compare(b.Start) })
	for _, s := range oldest[:min(excess, len(oldest))] {
		delete(r.open, s.ID)
	}
}
