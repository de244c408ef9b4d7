// Package sink is a webhook receiver on loopback that remembers everything it
// was sent, counts repeats by id, and can be told to refuse for a while.
//
// It owns receiving and remembering. It does not check signatures or know what
// a notice means: its user looks at the bodies.
package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// IDHeader carries the id that stays the same when a notice is sent again.
const IDHeader = "Webhook-Id"

// bodyLimit bounds a body in bytes; a longer one is refused with 413.
const bodyLimit = 1 << 20

// Delivery is one notice that was accepted, with what its repeats added.
type Delivery struct {
	ID       string
	Header   http.Header // of the first accepted request
	Body     []byte      // of the first accepted request
	Received time.Time   // of the first accepted request
	Accepted int         // requests answered 204; more than 1 is a repeat
	Refused  int         // requests answered with an error
	Changed  bool        // an accepted repeat had another body
}

// Sink receives until Close.
type Sink struct {
	server   *http.Server
	listener net.Listener
	done     chan struct{} // closed once served is set
	served   error

	mu       sync.Mutex
	order    []string // ids in order of first sight
	byID     map[string]*Delivery
	refusals []int         // answers still to be given before accepting
	changed  chan struct{} // closed and replaced at each request
}

// Start opens a receiver on a free loopback port.
func Start() (*Sink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start a webhook receiver: %w", err)
	}
	s := &Sink{
		listener: l,
		done:     make(chan struct{}),
		byID:     map[string]*Delivery{},
		changed:  make(chan struct{}),
	}
	s.server = &http.Server{Handler: http.HandlerFunc(s.receive), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		s.served = s.server.Serve(l)
		close(s.done)
	}()
	return s, nil
}

// URL is where to send notices.
func (s *Sink) URL() string { return "http://" + s.listener.Addr().String() + "/hook" }

// RefuseNext answers the next requests with these statuses, such as 500 or
// 429, one each, before it accepts again. A 429 asks to retry after 1 s.
func (s *Sink) RefuseNext(statuses ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = append(s.refusals, statuses...)
}

func (s *Sink) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if err != nil {
		http.Error(w, "the body cannot be read or is longer than 1 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	id := r.Header.Get(IDHeader)
	if r.Method != http.MethodPost || id == "" {
		http.Error(w, "send notices by POST with the header "+IDHeader, http.StatusBadRequest)
		return
	}
	if status := s.take(id, r.Header, body); status != http.StatusNoContent {
		if status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "1")
		}
		http.Error(w, "refused as told", status)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// take remembers a request and chooses its answer.
func (s *Sink) take(id string, header http.Header, body []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		close(s.changed)
		s.changed = make(chan struct{})
	}()
	d := s.byID[id]
	if d == nil {
		d = &Delivery{ID: id}
		s.byID[id] = d
		s.order = append(s.order, id)
	}
	if len(s.refusals) > 0 {
		status := s.refusals[0]
		s.refusals = s.refusals[1:]
		d.Refused++
		return status
	}
	if d.Accepted == 0 {
		d.Header, d.Body, d.Received = header.Clone(), body, time.Now()
	} else if !slices.Equal(d.Body, body) {
		d.Changed = true
	}
	d.Accepted++
	return http.StatusNoContent
}

// Deliveries lists the accepted notices in the order their ids were first
// seen.
func (s *Sink) Deliveries() []Delivery {
	list, _ := s.look()
	return list
}

func (s *Sink) look() ([]Delivery, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Delivery
	for _, id := range s.order {
		if d := s.byID[id]; d.Accepted > 0 {
			list = append(list, *d)
		}
	}
	return list, s.changed
}

// Wait returns what was delivered once ok says that it is what was waited
// for, or an error with the number of notices so far when ctx ends first.
func (s *Sink) Wait(ctx context.Context, ok func([]Delivery) bool) ([]Delivery, error) {
	for {
		list, changed := s.look()
		if ok(list) {
			return list, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return list, fmt.Errorf("wait for webhook notices: %d came, not those waited for: %w", len(list), ctx.Err())
		}
	}
}

// Close stops receiving.
func (s *Sink) Close() error {
	err := s.server.Close()
	<-s.done
	if !errors.Is(s.served, http.ErrServerClosed) {
		err = errors.Join(err, s.served)
	}
	if err != nil {
		return fmt.Errorf("stop the webhook receiver: %w", err)
	}
	return nil
}
