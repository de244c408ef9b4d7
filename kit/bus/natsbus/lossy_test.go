package natsbus_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// lossy is the wire to a real server. It loses what it is told to, as happens where
// a connection between two servers breaks.
type lossy struct {
	server *natsserver.Server
	lost   losing
}

// losing says whether a message gets lost, by the number of its subscription, its
// sequence when a consumer sends it, and its headers.
type losing func(subscription string, sequence int, headers string) bool

func (l lossy) InProcessConn() (net.Conn, error) {
	conn, err := l.server.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &lossyConn{Conn: conn, from: bufio.NewReader(conn), lost: l.lost}, nil
}

type lossyConn struct {
	net.Conn
	from *bufio.Reader
	lost losing

	mu   sync.Mutex
	rest []byte
}

func (c *lossyConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.rest) == 0 {
		var err error
		if c.rest, err = c.frame(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// frame reads one line of the protocol with what belongs to it, nothing when it
// gets lost.
func (c *lossyConn) frame() ([]byte, error) {
	line, err := c.from.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	words := strings.Fields(string(line))
	if words[0] != "MSG" && words[0] != "HMSG" {
		return line, nil
	}
	size, err := strconv.Atoi(words[len(words)-1])
	if err != nil {
		return nil, err
	}
	body := make([]byte, size+len("\r\n"))
	if _, err := io.ReadFull(c.from, body); err != nil {
		return nil, err
	}
	sequence := 0
	if ack := strings.Split(words[3], "."); len(ack) == 9 && ack[1] == "ACK" {
		sequence, _ = strconv.Atoi(ack[5])
	}
	headers, _, _ := bytes.Cut(body, []byte("\r\n\r\n"))
	if c.lost(words[2], sequence, string(headers)) {
		return nil, nil
	}
	return append(line, body...), nil
}

// waysToLose are ways to lose some of three messages that a consumer sends.
func waysToLose() map[string]func() losing {
	one := func(which int) func() losing {
		return func() losing {
			gone := false
			return func(_ string, sequence int, _ string) bool {
				lose := sequence == which && !gone
				gone = gone || lose
				return lose
			}
		}
	}
	return map[string]func() losing{
		"the first":                 one(1),
		"one in the middle":         one(2),
		"the last before a silence": one(3),
		"all after the first message": func() losing {
			deaf := ""
			return func(subscription string, sequence int, _ string) bool {
				if deaf == "" && sequence == 1 {
					deaf = subscription
					return false
				}
				return deaf == subscription
			}
		},
	}
}

func lossyWorld(t *testing.T, lost losing) *world {
	t.Helper()
	s := startServer(t, t.TempDir(), 0)
	w := newWorld(t, natsbus.Options{InProcess: s}, 0)
	w.opts.InProcess = lossy{s, lost}
	return w
}

func TestWhatIsLostOnTheWayIsReadAgain(t *testing.T) {
	t.Parallel()
	for name, lost := range waysToLose() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := lossyWorld(t, lost())
			for i := range 3 {
				if err := w.PutKey(limited(t), bucket, fmt.Sprint(i), nil); err != nil {
					t.Fatal(err)
				}
			}
			enough := errors.New("enough")
			var got []uint64
			err := w.open(t).WatchKeys(limited(t), bucket, ">", func(e bus.Entry) error {
				if got = append(got, e.Revision); len(got) == 3 {
					return enough
				}
				return nil
			})
			expect(t, "error", errors.Is(err, enough), true)
			expect(t, "revisions", fmt.Sprint(got), "[1 2 3]")
		})
	}
}

// TestAMessageThatIsLostOnTheWayComesBeforeTheNext consumes one by one: the server
// sends the message again when AckWait is over.
func TestAMessageThatIsLostOnTheWayComesBeforeTheNext(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"one in the middle", "all after the first message"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := lossyWorld(t, waysToLose()[name]())
			publish(t, w.Bus, "log.a", "1", "2", "3")
			seen := make(chan string, 10)
			stop := consume(t, w.open(t), worker(shortly), func(_ context.Context, d bus.Delivery) error { seen <- string(d.Data); return nil })
			for _, want := range []string{"1", "2", "3"} {
				expect(t, "message", next(t, want, seen), want)
			}
			expect(t, "end", stop(), nil)
		})
	}
}

func TestWhatALoadLosesIsReadAgain(t *testing.T) {
	t.Parallel()
	for sequence := 1; sequence <= 3; sequence++ {
		t.Run(fmt.Sprintf("message %d", sequence), func(t *testing.T) {
			t.Parallel()
			gone := 0
			w := lossyWorld(t, func(_ string, _ int, headers string) bool {
				lose := gone == 0 && strings.Contains(headers, fmt.Sprintf("\r\nNats-Sequence: %d\r\n", sequence))
				if lose {
					gone++
				}
				return lose
			})
			publish(t, w.Bus, "log.a", "1", "2", "3")
			expect(t, "messages", load(t, w.open(t), stream, "log.a"), "1 2 3")
			expect(t, "lost", gone, 1)
		})
	}
}
