package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

// watchGate shows a gate and afterwards what changes, until it is decided. A
// connection that is lost is taken up again.
func (s *shell) watchGate(ctx context.Context, cl *client, id, out string) error {
	seen := s.gateChanges()
	if out == "json" {
		seen = func(g *gatev1.Gate) error { return s.line(g) }
	}
	var last *gatev1.Gate
	var lostAt time.Time // zero while connected
	for {
		err := cl.gateLooks(ctx, id, func(g *gatev1.Gate) error {
			if !lostAt.IsZero() {
				s.talk("The server answers again.")
				lostAt = time.Time{}
			}
			if proto.Equal(last, g) {
				return nil
			}
			last = g
			return seen(g)
		})
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // interrupted, which is how a watch ends
		case err == nil && last.GetDecision().GetDecidedAt() != nil:
			return nil
		// A server that comes back may refuse for a while what it has not yet
		// read again, so once the connection was lost only patience ends.
		case err != nil && (last == nil || lostAt.IsZero() && !passing(err)):
			return err
		case err != nil && lostAt.IsZero():
			lostAt = s.Now()
			s.talk("The connection to %s is lost; trying again.", cl.server)
		case err != nil && s.Now().Sub(lostAt) > patience:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// gateLooks calls each with every message of a watch until the server ends it.
func (c *client) gateLooks(ctx context.Context, id string, each func(*gatev1.Gate) error) error {
	doing := "watch gate " + id
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.gates.WatchGate(ctx, &gatev1.WatchGateRequest{Id: id})
	if err != nil {
		return c.failed(doing, err)
	}
	for {
		res, err := stream.Receive()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return c.failed(doing, err)
		}
		if err := each(res.GetGate()); err != nil {
			return err
		}
	}
}

// gateLine is one thing that a gate says: of which part, its verdict and a text.
type gateLine struct{ part, verdict, text string }

// gateChanges returns a function that prints the account of a gate and from then on
// the lines that differ from those of the gate it was last called with.
func (s *shell) gateChanges() func(*gatev1.Gate) error {
	var said map[string]gateLine
	return func(g *gatev1.Gate) error {
		var b strings.Builder
		if said == nil {
			b.WriteString(s.gateText(g) + "\n")
		}
		lines := gateLines(g)
		now := make(map[string]gateLine, len(lines))
		for _, line := range lines {
			now[line.part] = line
			if before, known := said[line.part]; said != nil && before != line {
				b.WriteString(s.changed(before, line, known))
			}
		}
		said = now
		return s.print(b.String())
	}
}

// changed words one line that differs from the one before.
func (s *shell) changed(before, now gateLine, known bool) string {
	verdict := paint(now.verdict, s.colour) + strings.Repeat(" ", max(0, len("inconclusive")-len(now.verdict)))
	was := ""
	if known && before.verdict != now.verdict && before.verdict != "-" {
		was = " (was " + before.verdict + ")"
	}
	return fmt.Sprintf("%s  %-10s  %s  %s%s\n", s.Now().Format(time.TimeOnly), now.part, verdict, now.text, was)
}

// gateLines is what a gate says in lines that change only when it says something
// else: each check, and last the gate as a whole.
func gateLines(g *gatev1.Gate) []gateLine {
	d := g.GetDecision()
	var list []gateLine
	add := func(part, verdict, text string) {
		list = append(list, gateLine{clean(part), clean(verdict), clean(text)})
	}
	for _, c := range d.GetChecks() {
		text := c.GetText()
		switch gate.CheckName(c.GetCheck()) {
		case gate.CheckSessions:
			text += evidenceWords(d.GetEvidence())
		case gate.CheckProbes:
			text += evidenceWords(d.GetProbes())
		}
		add(c.GetCheck(), c.GetVerdict(), text)
	}
	for _, c := range silent(g) {
		add(c.GetCheck(), "-", "no result")
	}
	whole := d.GetSummary() + evidenceWords(d.GetEvidence())
	if staged(g) {
		whole = followWords(g) + "."
		for i, r := range untold(d) {
			// While it is open, what a check says is told by its own line.
			if i > 0 || d.GetDecidedAt() != nil || !slices.ContainsFunc(checksOf(d), func(check string) bool { return tells(check, r) }) {
				whole += " " + r.GetText()
			}
		}
	}
	if d.GetDecidedAt() != nil {
		whole += " Recorded."
	}
	add("gate", cmp.Or(d.GetVerdict(), "pending"), whole)
	return list
}

// evidenceWords says how sure evidence is, to follow a sentence that counts it.
func evidenceWords(e *gatev1.Evidence) string {
	if e == nil {
		return ""
	}
	return " Worse: " + luck(e.GetLogERollback()) + "."
}
