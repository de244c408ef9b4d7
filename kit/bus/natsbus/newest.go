package natsbus

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// LoadLast calls fn with the newest message of each subject that matches, in the
// order of the stream, and returns when all that was there when it began was
// given. What is published meanwhile may be among it. All of it is in memory before
// fn is called. A bus that is away is waited for.
func (b *Bus) LoadLast(ctx context.Context, stream, subject string, fn func(bus.Message) error) error {
	n := &newest{Bus: b, stream: stream, pattern: subject, of: make(map[string]bus.Message), whole: math.MaxUint64}
	for try := 1; ; try++ {
		err := n.collect(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil || final(err) || !away(err) {
			return err
		}
		delay := backoff(try)
		b.log.Warn("reading the newest messages was interrupted; it goes on", "stream", stream, "subject", subject, "again_in", delay, "error", err)
		pause(ctx, delay)
	}
	for _, m := range slices.SortedFunc(maps.Values(n.of), func(x, y bus.Message) int { return cmp.Compare(x.Sequence, y.Sequence) }) {
		if ctx.Err() != nil {
			return fmt.Errorf("handing on the newest messages of %s: %w", subject, ctx.Err())
		}
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

// newest is the newest message of each subject, as far as it is known.
type newest struct {
	*Bus
	stream, pattern string
	of              map[string]bus.Message
	// whole is up to which sequence nothing is missing: where the server stood that
	// was the least far of those that answered.
	whole uint64
}

// collect asks which subjects there are and for the newest message of each. Any
// replica may answer; what one that is behind did not have yet is read after.
func (n *newest) collect(ctx context.Context) error {
	missing, err := n.subjects(ctx)
	if err != nil {
		return err
	}
	for {
		if missing, err = n.ask(ctx, missing); err != nil {
			return err
		}
		if len(missing) == 0 {
			break
		}
		if !pause(ctx, lagging) {
			return fmt.Errorf("reading the newest messages of %s: %w", n.pattern, ctx.Err())
		}
		// Those may have been deleted meanwhile.
		there, err := n.subjects(ctx)
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(s string) bool {
			_, found := slices.BinarySearch(there, s)
			return !found
		})
	}
	return n.LoadAfter(ctx, n.stream, n.pattern, n.whole, func(m bus.Message) error {
		n.take(m)
		n.whole = m.Sequence
		return nil
	})
}

func (n *newest) take(m bus.Message) {
	if m.Sequence > n.of[m.Subject].Sequence {
		n.of[m.Subject] = m
	}
}

// subjects returns the subjects that have messages, sorted.
func (n *newest) subjects(ctx context.Context) ([]string, error) {
	all, err := joined(func(offset int) ([]string, int, error) { return n.page(ctx, offset) })
	if err != nil {
		return nil, explain(ctx, err, "listing the subjects %s of stream %s", n.pattern, n.stream)
	}
	return all, nil
}

// joined makes one list of pages, each of which is as the list was when it was asked
// for and tells how long that is. A page begins with the end of the one before: where
// it does not, the list has moved, and something might be passed over.
func joined(page func(offset int) (part []string, total int, err error)) ([]string, error) {
	var all []string
	for {
		part, total, err := page(max(len(all)-1, 0))
		switch {
		case err != nil:
			return nil, err
		case len(all) == 0:
			all = part
		case len(part) == 0 || part[0] != all[len(all)-1]:
			all = nil
			continue
		default:
			all = append(all, part[1:]...)
		}
		if len(all) >= total {
			return all, nil
		}
	}
}

// page asks for the subjects from an offset on, and for how many there are in all.
// The leader answers, or anyone while there is none.
func (n *newest) page(ctx context.Context, offset int) (subjects []string, total int, err error) {
	request, err := json.Marshal(struct {
		Subjects string `json:"subjects_filter"`
		Offset   int    `json:"offset"`
	}{n.pattern, offset})
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, n.js.Options().DefaultTimeout)
	defer cancel()
	answer, err := n.conn.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+n.stream, request)
	if err != nil {
		return nil, 0, err
	}
	var got struct {
		Error *jetstream.APIError `json:"error"`
		Total int                 `json:"total"`
		State struct {
			Last     uint64            `json:"last_seq"`
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
	}
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return nil, 0, fmt.Errorf("the server's answer: %w", err)
	}
	if got.Error != nil {
		return nil, 0, got.Error
	}
	n.whole = min(n.whole, got.State.Last)
	return slices.Sorted(maps.Keys(got.State.Subjects)), got.Total, nil
}

// ask takes the newest messages of subjects and returns the subjects that are to be
// asked for again.
func (n *newest) ask(ctx context.Context, subjects []string) (missing []string, err error) {
	// The server gives no more than 1024 at once.
	for some := range slices.Chunk(subjects, portion) {
		got, err := n.some(ctx, some)
		if err != nil {
			return nil, explain(ctx, err, "reading the newest messages of %s of stream %s", n.pattern, n.stream)
		}
		for _, m := range got.messages {
			n.take(m)
		}
		n.whole = min(n.whole, got.whole)
		missing = append(missing, got.missing(some)...)
	}
	return missing, nil
}

// answer is what a replica knows of some subjects.
type answer struct {
	messages []bus.Message
	whole    uint64 // where the replica stood
	left     uint64 // how many messages are still to come
}

// missing returns those of the subjects that the answer is not about.
func (a answer) missing(subjects []string) []string {
	if a.left == 0 {
		// It has no message of the others.
		return nil
	}
	got := make(map[string]bool, len(a.messages))
	for _, m := range a.messages {
		got[m.Subject] = true
	}
	var out []string
	for _, s := range subjects {
		if !got[s] {
			out = append(out, s)
		}
	}
	return out
}

// some asks any replica for the newest messages of a portion of subjects. Where it
// stood is told at the end only: an answer that came in part is none.
func (n *newest) some(ctx context.Context, subjects []string) (answer, error) {
	request := struct {
		Subjects []string `json:"multi_last"`
		MaxBytes int      `json:"max_bytes"`
	}{subjects, portionBytes}
	none := answer{whole: math.MaxUint64, left: uint64(len(subjects))}
	got, before := answer{}, "0"
	err := n.direct(ctx, n.stream, request, func(m *nats.Msg) (done bool, err error) {
		sequence := told(m, jetstream.SequenceHeader)
		switch {
		case sequence == "" && told(m, "Status") == "404" && told(m, "Description") == "No Results":
			// It does not say where it stands.
			got = none
			return true, nil
		case sequence == "":
			if got.left, err = remaining(m); err != nil {
				return true, err
			}
			if got.whole, err = strconv.ParseUint(told(m, "Nats-UpTo-Sequence"), 10, 64); err != nil {
				return true, fmt.Errorf("the end of the answer: %w", err)
			}
			if told(m, "Nats-Last-Sequence") != before {
				got = none
			}
			return true, nil
		case told(m, "Nats-Last-Sequence") != before:
			// The one before was lost on the way.
			got = none
			return true, nil
		}
		one, err := fetched(m)
		got.messages, before = append(got.messages, one), sequence
		return err != nil, err
	})
	return got, err
}
