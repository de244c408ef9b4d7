package evaluator

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
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
	queue []string
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
	if !g.step.Alarmed() {
		return
	}
	if g.alarmedAt.IsZero() {
		g.alarmedAt = now
	}
	if now.Sub(g.askedAt) < min(max(now.Sub(g.alarmedAt)/4, askSoonest), askLatest) {
		return
	}
	g.askedAt = now
	w.controls.queue = append(w.controls.queue, g.ID)
	select {
	case w.controls.wake <- struct{}{}:
	default: // it is awake
	}
}

// askControls answers gates that wonder, one after another.
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
			for _, id := range queue {
				if err := w.answer(ctx, id); err != nil && ctx.Err() == nil {
					w.deps.Log.Warn("judging a gate beside its controls failed; it is tried again", "gate", id, "error", err)
				}
			}
		}
	}
}

// answer asks the controls of one gate and judges it by what they say. A stop does not
// wait for a store that keeps or tells nothing at present.
func (w *watch) answer(ctx context.Context, id string) error {
	w.mu.Lock()
	g := w.gates[id]
	if g == nil || g.step == nil {
		w.mu.Unlock()
		return nil
	}
	opened := g.Gate
	var asked []gate.Control
	for _, c := range opened.Terms.Controls {
		if w.unmoved(c.Cluster, opened.Boundary.Start) && !w.deaf[topology.Partition(c.Cluster)] {
			asked = append(asked, c)
		}
	}
	w.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	heard, err := w.hearControls(limited, opened, asked)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		w.deps.Log.Warn("the controls of a gate cannot be asked, so its step is judged without them", "gate", id, "error", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if g = w.gates[id]; g == nil || g.step == nil || !w.judges(g.Cluster) {
		return nil
	}
	g.step.Beside(heard)
	return w.judgeGate(ctx, g)
}

// hearControls reads what is stored of controls. One that is not seen whole is left out.
func (w *watch) hearControls(ctx context.Context, g codec.Gate, asked []gate.Control) ([]gate.ControlEvidence, error) {
	positions, err := w.stored(ctx)
	if err != nil {
		return nil, err
	}
	var (
		mu    sync.Mutex
		heard []gate.ControlEvidence
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(askAtOnce)
	for _, c := range asked {
		group.Go(func() error {
			fold, err := w.foldControl(ctx, g, c, positions[topology.Partition(c.Cluster)])
			if err != nil {
				return err
			}
			if said, whole := fold.Control(); whole {
				mu.Lock()
				defer mu.Unlock()
				heard = append(heard, said)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	slices.SortFunc(heard, func(a, b gate.ControlEvidence) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return heard, nil
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

// foldControl folds the sessions of one control that are stored up to a sequence.
func (w *watch) foldControl(ctx context.Context, g codec.Gate, c gate.Control, upTo uint64) (*gate.Fold, error) {
	fold, err := gate.NewControlFold(g.Policy, c, g.Boundary)
	if err != nil || upTo == 0 {
		return fold, err
	}
	err = w.deps.Store.SessionEvidence(ctx, w.config.Tenant, c.Cluster, g.Boundary.BaselineFrom, upTo, func(r codec.Record) {
		r = r.AsKept()
		switch {
		case r.Session != nil:
			fold.Session(*r.Session, r.StreamSequence)
		case r.Mark != nil && r.Mark.About == fleet.KindSession:
			fold.Mark(*r.Mark, r.StreamSequence)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading the sessions of %s, which gate %s is set beside: %w", c.Cluster, g.ID, err)
	}
	return fold, nil
}

// hearAgain reads what the controls said that a recorded decision was set beside.
func (w *watch) hearAgain(ctx context.Context, g codec.Gate, m *gatev1.ControlsHeard) ([]gate.ControlEvidence, error) {
	var heard []gate.ControlEvidence
	for _, said := range m.GetClusters() {
		c := gate.Control{Cluster: fleet.ClusterID(said.GetCluster())}
		for _, known := range g.Terms.Controls {
			if known.Cluster == c.Cluster {
				c = known
			}
		}
		fold, err := w.foldControl(ctx, g, c, said.GetStreamSequence())
		if err != nil {
			return nil, err
		}
		again, _ := fold.Control()
		heard = append(heard, again)
	}
	return heard, nil
}
