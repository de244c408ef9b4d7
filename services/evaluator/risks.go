package evaluator

import (
	"context"
	"fmt"
	"strings"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// failuresOf is how far back failed sessions speak for or against a risk.
const failuresOf = 7 * day

// moveOf is what is known of a move of a cluster to a release. What nobody told
// stays unknown, and a risk that rests on it is closed.
func (w *watch) moveOf(ctx context.Context, c drift.Cluster, to catalog.Entry) (catalog.Move, error) {
	m := catalog.Move{
		Cluster: c.ID, From: whole(drift.Running(c.Inventory)), To: to.Release.Versions, Release: to.Release.ID,
		RemoteAccess: c.Package.RemoteAccess,
	}
	switch p := c.Package; {
	case len(p.Helm) > 0:
		m.Engine = catalog.EngineKubernetes
		m.Chart, m.ChartVersion = to.Release.Chart, to.Release.ChartVersion
		for _, h := range p.Helm {
			// A set of images leaves the chart as it is.
			if m.Chart == "" && h.Versions[fleet.LineSRA] != "" {
				m.Chart, m.ChartVersion = h.Chart, h.ChartVersion
			}
		}
	case len(p.Compose) > 0:
		m.Engine = catalog.EngineCompose
	}
	now := w.deps.Now()
	failures, open, err := w.deps.Store.Failures(ctx, w.config.Tenant, c.ID, codec.Span{From: now.Add(-failuresOf), To: now})
	if err != nil {
		return m, fmt.Errorf("counting the failures of %s: %w", c.ID, err)
	}
	// Without a registration no source of sessions has been heard, and none that
	// failed would say nothing.
	if !c.Registration.ObservedAt.IsZero() {
		m.Failures, m.OpenSSH = failures, &open
	}
	if m.Engine == catalog.EngineCompose {
		// Compose leaves alone what does not change. A chart may roll every pod.
		m.Restarts = new(bool)
	}
	return m, nil
}

// whole are the lines that run one version.
func whole(running map[fleet.Line][]string) fleet.VersionSet {
	set := make(fleet.VersionSet, len(running))
	for line, versions := range running {
		if len(versions) == 1 && versions[0] != "" && !strings.HasPrefix(versions[0], "sha256:") {
			set[line] = versions[0]
		}
	}
	return set
}
