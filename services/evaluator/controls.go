package evaluator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/topology"
)

const (
	// askSoonest and askLatest bound how often the controls of an alarmed gate are
	// asked: at first often, since their rows are on their way, then ever less.
	askSoonest, askLatest = 250 * time.Millisecond, 10 * time.Second
	// askPatience is how long one answer may take.
	askPatience = 10 * time.Second
	// askAtOnce is how many controls are read at the same time.
	askAtOnce = 4
)

// controls are the gates whose controls are to be asked. They are read from the store,
// whoever judges them, and without the lock.
type controls struct {
	queue []*gateWatch
	wake  chan struct{}
}

// controlsOf are the clusters that a step is set beside: those of its rollout that
// wait for their turn, then others that nobody moves and whose sessions since the
// beginning of the baseline are of one release.
func (w *watch) controlsOf(id rollout.ID, b gate.Boundary) []gate.Control {
	var out []gate.Control
	state := w.rollouts[id].state
	for _, run := range state.Clusters {
		if run.Phase == rollout.ClusterWaiting && w.unmoved(run.Plan.Cluster, b.Start) {
			out = append(out, gate.Control{Cluster: run.Plan.Cluster, Aside: run.Plan.Aside})
		}
	}
	for _, cluster := range slices.Sorted(maps.Keys(w.clusters)) {
		if len(out) >= gate.MaxControls {
			break
		}
		if _, part := state.Find(cluster); !part && w.unmoved(cluster, b.BaselineFrom) {
			out = append(out, gate.Control{Cluster: cluster})
		}
	}
	return out[:min(len(out), gate.MaxControls)]
}

// unmoved says whether no rollout has moved a cluster since an instant.
func (w *watch) unmoved(cluster fleet.ClusterID, since time.Time) bool {
	c := w.clusters[cluster]
	return c != nil && c.drift.Move == nil && (c.moved == nil || c.moved.at.Before(since))
}

// wonder has the controls of an alarmed gate asked, if that was not just done.
func (w *watch) wonder(g *gateWatch, now time.Time) {
	if g.asking || !g.step.Alarmed() {
		return
	}
	if g.alarmedAt.IsZero() {
		g.alarmedAt = now
	}
	if now.Sub(g.askedAt) < min(max(now.Sub(g.alarmedAt)/4, askSoonest), askLatest) {
		return
	}
	g.asking = true
	w.controls.queue = append(w.controls.queue, g)
	select {
	case w.controls.wake <- struct{}{}:
	default: // it is awake
	}
}

// askControls answers gates that wonder, all that do at once: in an outage many do, and
// mostly of the same controls.
func (w *watch) askControls(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.controls.wake:
		}
		for {
			w.mu.Lock()
			queue := w.controls.queue
			w.controls.queue = nil
			w.mu.Unlock()
			if len(queue) == 0 {
				break
			}
			w.answer(ctx, queue)
		}
	}
}

// answer asks the controls of gates and judges each by what they say. A stop does not
// wait for a store that keeps or tells nothing at present.
func (w *watch) answer(ctx context.Context, gates []*gateWatch) {
	questions := make([]question, len(gates))
	w.mu.Lock()
	for i, g := range gates {
		questions[i] = question{gate: g.Gate, asked: w.asked(g.Gate)}
	}
	w.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	err := w.hearControls(limited, questions)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.deps.Log.Warn("the controls of gates cannot be asked, so their steps are judged without them", "gates", len(gates), "error", err)
	}
	for i, g := range gates {
		var heard []gate.ControlEvidence
		if err == nil {
			heard = said(questions[i].folds)
		}
		if err := w.answered(ctx, g, heard); err != nil && ctx.Err() == nil {
			w.deps.Log.Warn("judging a gate beside its controls failed; it is tried again", "gate", g.ID, "error", err)
		}
	}
}

// answered judges a gate by what its controls say.
func (w *watch) answered(ctx context.Context, g *gateWatch, heard []gate.ControlEvidence) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	g.asking, g.askedAt = false, w.deps.Now()
	if g.step == nil || !w.judges(g.Cluster) {
		return nil
	}
	g.step.Beside(heard)
	return w.judgeGate(ctx, g)
}

// question is what one gate asks its controls, with a fold of each.
type question struct {
	gate  codec.Gate
	asked []gate.Control
	folds []*gate.Fold
}

// asked are the controls of a gate that nobody has moved since and of which reports can
// be stored.
func (w *watch) asked(g codec.Gate) (out []gate.Control) {
	for _, c := range g.Terms.Controls {
		if w.unmoved(c.Cluster, g.Boundary.Start) && !w.deaf[topology.Partition(c.Cluster)] {
			out = append(out, c)
		}
	}
	return out
}

// hearControls reads what is stored of controls.
func (w *watch) hearControls(ctx context.Context, questions []question) error {
	positions, err := w.stored(ctx)
	if err != nil {
		return err
	}
	return w.foldControls(ctx, questions, func(c fleet.ClusterID) uint64 { return positions[topology.Partition(c)] })
}

// said is what controls say that are seen whole, by cluster.
func said(folds []*gate.Fold) (out []gate.ControlEvidence) {
	for _, fold := range folds {
		if c, whole := fold.Control(); whole {
			out = append(out, c)
		}
	}
	slices.SortFunc(out, func(a, b gate.ControlEvidence) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return out
}

// stored is up to where the observations of each partition are stored.
func (w *watch) stored(ctx context.Context) (out [topology.Partitions]uint64, err error) {
	for partition := range out {
		if out[partition], err = w.deps.Bus.Position(ctx, topology.EvaluatorObservations(partition)); err != nil {
			return out, err
		}
	}
	return out, nil
}

// foldControls folds the sessions of controls that are stored, each up to a sequence.
// Those of a cluster are read once for all who ask it.
func (w *watch) foldControls(ctx context.Context, questions []question, upTo func(fleet.ClusterID) uint64) error {
	asked := make(map[fleet.ClusterID][]listener)
	for i := range questions {
		q := &questions[i]
		for _, c := range q.asked {
			fold, err := gate.NewControlFold(q.gate.Policy, c, q.gate.Boundary)
			if err != nil {
				return err
			}
			q.folds = append(q.folds, fold)
			asked[c.Cluster] = append(asked[c.Cluster], listener{fold, q.gate.Boundary.BaselineFrom})
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(askAtOnce)
	for cluster, listeners := range asked {
		last, from := upTo(cluster), listeners[0].from
		for _, l := range listeners {
			if l.from.Before(from) {
				from = l.from
			}
		}
		if last == 0 {
			continue // nothing was seen of it
		}
		group.Go(func() error {
			err := w.deps.Store.SessionEvidence(ctx, w.config.Tenant, cluster, from, last, func(r codec.Record) {
				r = r.AsKept()
				for _, l := range listeners {
					l.hear(r)
				}
			})
			if err != nil {
				return fmt.Errorf("reading the sessions of %s, which gates are set beside: %w", cluster, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// listener is the fold of one who asks a control, from the beginning of its baseline on.
type listener struct {
	fold *gate.Fold
	from time.Time
}

func (l listener) hear(r codec.Record) {
	switch {
	case r.Session != nil && !r.Session.Start.Before(l.from):
		l.fold.Session(*r.Session, r.StreamSequence)
	case r.Mark != nil && r.Mark.About == fleet.KindSession && !r.ObservedAt.Before(l.from):
		l.fold.Mark(*r.Mark, r.StreamSequence)
	}
}
