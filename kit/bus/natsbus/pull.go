package natsbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// heartbeat is how often the server says that it still knows of a pull. Two
	// missing ones end it: the server restarted, or the position is gone.
	heartbeat = time.Second
	// pullFor is how long the server keeps a pull when there is nothing to give.
	pullFor = 30 * time.Second
	// quietFor is how long a message may be on its way.
	quietFor = 100 * time.Millisecond
)

// puller brings a consumer's messages. nats.go has one, too, which this package
// cannot do with: it may wait without having asked when it was asked for one
// message at a time, it takes an empty message whose sender wrote a Status for the
// server's word, and it does not tell what was lost before a silence.
type puller struct {
	b         *Bus
	api       string // where to ask
	most      int
	mostBytes int
	sub       *nats.Subscription
	in        chan *nats.Msg
	closed    chan struct{}
	left      int // how many messages the server may still send unasked

	// onBeat, if any, hears while nothing comes how many messages the server sent in
	// all. Its error ends the pull.
	onBeat func(sent uint64) error
}

// newPuller asks for so many messages at once, and for no more than so many bytes
// of them; zero is as much as there is. Nothing is asked for before next is called.
func (b *Bus) newPuller(stream string, cons jetstream.Consumer, most, mostBytes int) (*puller, error) {
	p := &puller{
		b: b, api: "$JS.API.CONSUMER.MSG.NEXT." + stream + "." + cons.CachedInfo().Name, most: most, mostBytes: mostBytes,
		// What the server says between the messages of the pulls it has comes beside them.
		in: make(chan *nats.Msg, most+4*int(pullFor/heartbeat)), closed: make(chan struct{}),
	}
	var err error
	if p.sub, err = b.conn.ChanSubscribe(b.conn.NewInbox(), p.in); err != nil {
		return nil, err
	}
	p.sub.SetClosedHandler(func(string) { close(p.closed) })
	return p, nil
}

// errSilent says that the server does not know of a pull any more, or is away.
var errSilent = errors.New("the server has fallen silent")

// next waits for a message. After an error the puller is of no more use.
func (p *puller) next(ctx context.Context) (*nats.Msg, *nats.MsgMetadata, error) {
	for {
		if err := p.ask(); err != nil {
			return nil, nil, err
		}
		m, err := p.receive(ctx)
		if err != nil {
			return nil, nil, err
		}
		if !strings.HasPrefix(m.Reply, "$JS.ACK.") {
			if err := p.heed(m); err != nil {
				return nil, nil, err
			}
			continue
		}
		p.left--
		meta, err := m.Metadata()
		return m, meta, err
	}
}

// ask asks for more when half of what may come has come.
func (p *puller) ask() error {
	if p.left > p.most/2 {
		return nil
	}
	request, err := json.Marshal(struct {
		Batch     int           `json:"batch"`
		MaxBytes  int           `json:"max_bytes,omitempty"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{p.most - p.left, p.mostBytes, pullFor, heartbeat})
	if err != nil {
		return err
	}
	p.left = p.most
	return p.b.conn.PublishRequest(p.api, p.sub.Subject, request)
}

func (p *puller) receive(ctx context.Context) (*nats.Msg, error) {
	select {
	case m := <-p.in:
		return m, nil
	default:
	}
	silent := time.NewTimer(2*heartbeat + heartbeat/2)
	defer silent.Stop()
	select {
	case m := <-p.in:
		return m, nil
	case <-silent.C:
		return nil, errSilent
	case <-p.b.gone:
		return nil, nats.ErrConnectionClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// heed follows what the server says about a pull.
func (p *puller) heed(m *nats.Msg) error {
	status, text := m.Header.Get("Status"), m.Header.Get("Description")
	switch {
	case status == "100":
		if p.onBeat == nil {
			return nil
		}
		sent, err := strconv.ParseUint(m.Header.Get("Nats-Last-Consumer"), 10, 64)
		if err != nil {
			return fmt.Errorf("a heartbeat: %w", err)
		}
		return p.onBeat(sent)
	case status == "408", status == "409" && (text == "Batch Completed" || text == "Message Size Exceeds MaxBytes"):
		// A pull has ended before it had all that it asked for.
		missing, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
		if err != nil {
			return fmt.Errorf("the end of a pull: %w", err)
		}
		p.left = max(p.left-missing, 0)
		return nil
	case status == "503":
		return nats.ErrNoResponders
	}
	return fmt.Errorf("the server ends a pull: %s %s", status, text)
}

// stop ends the pull. What is under way is lost.
func (p *puller) stop() {
	if err := p.sub.Unsubscribe(); err != nil {
		p.b.log.Debug("ending a pull", "error", err)
	}
}

// handBack ends the pull and refuses what is under way, or the next consumer would
// wait for it for AckWait. A pull cannot be taken back: where it was just asked for,
// its message may still be on its way from another server.
func (p *puller) handBack() {
	if p.left > 0 {
		quiet := time.NewTimer(quietFor)
		defer quiet.Stop()
		select {
		case m := <-p.in:
			p.refuse(m)
		case <-p.b.gone:
		case <-quiet.C:
		}
	}
	if err := p.sub.Drain(); err != nil {
		p.b.log.Debug("ending a pull", "error", err)
		return
	}
	limit := time.NewTimer(heartbeat)
	defer limit.Stop()
	select {
	case <-p.closed:
	case <-p.b.gone:
	case <-limit.C:
	}
	for len(p.in) > 0 {
		p.refuse(<-p.in)
	}
}

// refuse lets a message come again at once, unless it is a word of the server's.
func (p *puller) refuse(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	if err := p.b.conn.Publish(m.Reply, []byte("-NAK")); err != nil {
		p.b.log.Debug("handing a message back", "error", err)
	}
}
