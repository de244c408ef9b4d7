package evaluator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// Documents is what the evaluator needs of the language in which people declare a
// fleet. It reads and words; it changes nothing.
type Documents interface {
	// Declare reads a document. Its error tells every problem at once.
	Declare(document []byte) (Declaration, error)
	// Cluster and Limits read definitions as Declare gave them. Limits have learned
	// nothing yet.
	Cluster(definition string) (DeclaredCluster, error)
	Limits(definition string) (drift.Limits, error)
	// Diff words what is different between two definitions, empty ones among them.
	Diff(before, after string) []string
	// Export writes the document that declares what is given.
	Export(clusters []DeclaredCluster, releases []catalog.Release, limits string) (string, error)
}

// Declaration is what a document declares.
type Declaration struct {
	Clusters []DeclaredCluster
	// Releases are sets of images.
	Releases []catalog.Release
	// Limits is the definition of what counts as fine, empty when it declares none.
	Limits string
	// PassedOver names the sections that do not concern the fleet.
	PassedOver []string
}

// DeclaredCluster is one cluster of a document.
type DeclaredCluster struct {
	ClusterConfig
	// Definition is all of it but the release it is to run. Equal clusters have equal
	// definitions.
	Definition string
}

// declaredWatch is what documents have declared, from the log.
type declaredWatch struct {
	clusters map[fleet.ClusterID]DeclaredCluster
	// limits is the definition that holds, empty while none was declared.
	limits   string
	revision uint64
}

// recallDeclared takes over one event of the declared fleet.
func (w *watch) recallDeclared(m bus.Message) error {
	if m.Sequence <= w.declared.revision {
		return nil
	}
	var event fleetv1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	for _, f := range event.GetFacts() {
		if err := w.followDeclared(f); err != nil {
			return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
		}
	}
	w.declared.revision = m.Sequence
	return nil
}

// followDeclared has the watch be as a fact of the declared fleet says.
func (w *watch) followDeclared(f *fleetv1.Fact) error {
	w.ids = nil
	switch k := f.GetKind().(type) {
	case *fleetv1.Fact_ClusterDeclared:
		d, err := w.deps.Documents.Cluster(k.ClusterDeclared.GetDefinition())
		if err != nil {
			return err
		}
		w.declared.clusters[d.ID] = d
		c := w.clusters[d.ID]
		if c == nil {
			c = newCluster(d.ClusterConfig)
			c.drift.WatchedSince = w.deps.Now()
			w.clusters[d.ID] = c
		}
		c.labels, c.checks, c.drift.Window = d.Labels, d.Checks, d.Window
	case *fleetv1.Fact_ClusterRemoved:
		id := fleet.ClusterID(k.ClusterRemoved.GetId())
		delete(w.declared.clusters, id)
		// The configuration's own cluster of that name is declared as it was, and what
		// was seen of it stays true.
		if own, ok := w.configured(id); !ok {
			delete(w.clusters, id)
		} else if c := w.clusters[id]; c != nil {
			c.labels, c.checks, c.drift.Window = own.Labels, own.Checks, own.Window
		}
	case *fleetv1.Fact_LimitsDeclared:
		limits, err := w.deps.Documents.Limits(k.LimitsDeclared.GetDefinition())
		if err != nil {
			return err
		}
		// What moves took is known already, or read at the next beat.
		if known := w.limits.Learned; known != nil && limits.Learned != nil {
			known.Cap = limits.Learned.Cap
			limits.Learned = known
		}
		w.unlearned = w.unlearned || limits.Learned != w.limits.Learned
		w.declared.limits, w.limits = k.LimitsDeclared.GetDefinition(), limits
	}
	return nil
}

// configured returns a cluster of the configuration.
func (w *watch) configured(id fleet.ClusterID) (DeclaredCluster, bool) {
	for _, c := range w.config.Clusters {
		if c.ID == id {
			return c, true
		}
	}
	return DeclaredCluster{}, false
}

// definition returns how a cluster is defined now, empty for one that there is
// not.
func (w *watch) definition(id fleet.ClusterID) string {
	if d, ok := w.declared.clusters[id]; ok {
		return d.Definition
	}
	own, _ := w.configured(id)
	return own.Definition
}

// expects is the release that a cluster is to run.
func (c *clusterWatch) expects() fleet.ReleaseID {
	if c.assigned != nil {
		return c.assigned.Release
	}
	return c.configured
}

// The actions of a change.
const (
	created   = "created"
	updated   = "updated"
	removed   = "removed"
	unchanged = "unchanged"
)

// application is what applying a document would do.
type application struct {
	changes []*fleetv1.FleetChange
	facts   []*fleetv1.Fact
	imports []catalog.Fact
	assigns map[fleet.ClusterID]fleet.ReleaseID
}

// plan finds out what applying a document would do.
func (w *watch) plan(ctx context.Context, d Declaration, req *fleetv1.ApplyFleetRequest, now time.Time) (application, error) {
	var p application
	told := slices.DeleteFunc(slices.Clone(d.Releases), w.knows)
	imports, report, err := catalog.Import(w.catalog.state, "fleet document", told, who(ctx), now)
	if err != nil {
		return p, refused("reading the releases of the document", err)
	}
	p.imports = imports
	for _, r := range d.Releases {
		action, lines := unchanged, []string(nil)
		switch {
		case slices.Contains(report.Added, r.ID):
			action, lines = created, worded("+ ", r)
		case slices.Contains(report.Updated, r.ID):
			action, lines = updated, append(worded("- ", w.catalog.state.Releases[r.ID]), worded("+ ", r)...)
		}
		p.changes = append(p.changes, &fleetv1.FleetChange{Kind: "release", Id: string(r.ID), Action: action, Lines: lines})
	}
	state := w.catalog.state
	for _, f := range imports {
		state = state.Apply(f)
	}
	index := catalog.NewIndex(state.Entries(w.catalog.configured, now))
	fact := func(f *fleetv1.Fact) {
		f.At, f.By, f.Reason = timestamppb.New(now), who(ctx), req.GetReason()
		p.facts = append(p.facts, f)
	}
	p.assigns = make(map[fleet.ClusterID]fleet.ReleaseID)
	named := make(map[fleet.ClusterID]bool)
	var unknown, busy []string
	for _, c := range d.Clusters {
		named[c.ID] = true
		change := &fleetv1.FleetChange{Kind: "cluster", Id: string(c.ID), Action: unchanged}
		p.changes = append(p.changes, change)
		now, there := w.clusters[c.ID]
		var expects fleet.ReleaseID
		if there {
			expects = now.expects()
		}
		if before := w.definition(c.ID); before != c.Definition {
			change.Lines = w.deps.Documents.Diff(before, c.Definition)
			fact(&fleetv1.Fact{Kind: &fleetv1.Fact_ClusterDeclared{ClusterDeclared: &fleetv1.ClusterDeclared{Id: string(c.ID), Definition: c.Definition}}})
		}
		if c.Release != "" && c.Release != expects {
			if _, known := index.Release(c.Release); !known {
				unknown = append(unknown, fmt.Sprintf("%s of cluster %s", c.Release, c.ID))
			}
			if expects != "" {
				change.Lines = append(change.Lines, "- release: "+string(expects))
			}
			change.Lines = append(change.Lines, "+ release: "+string(c.Release))
			p.assigns[c.ID] = c.Release
		}
		switch {
		case !there:
			change.Action = created
		case len(change.Lines) > 0:
			change.Action = updated
			if now.drift.Move != nil {
				busy = append(busy, fmt.Sprintf("%s (rollout %s)", c.ID, now.drift.Move.Rollout))
			}
		}
	}
	if req.GetPrune() {
		for _, id := range slices.Sorted(maps.Keys(w.declared.clusters)) {
			if named[id] {
				continue
			}
			if r := w.planned(id); r != "" {
				busy = append(busy, fmt.Sprintf("%s (rollout %s)", id, r))
			}
			own, _ := w.configured(id)
			p.changes = append(p.changes, &fleetv1.FleetChange{Kind: "cluster", Id: string(id), Action: removed, Lines: w.deps.Documents.Diff(w.definition(id), own.Definition)})
			fact(&fleetv1.Fact{Kind: &fleetv1.Fact_ClusterRemoved{ClusterRemoved: &fleetv1.ClusterRemoved{Id: string(id)}}})
		}
	}
	if d.Limits != "" {
		change := &fleetv1.FleetChange{Kind: "drift", Action: unchanged}
		before := w.declared.limits
		if before == "" {
			before = w.config.LimitsDefinition
		}
		if before != d.Limits {
			change.Action, change.Lines = updated, w.deps.Documents.Diff(before, d.Limits)
			fact(&fleetv1.Fact{Kind: &fleetv1.Fact_LimitsDeclared{LimitsDeclared: &fleetv1.LimitsDeclared{Definition: d.Limits}}})
		}
		p.changes = append(p.changes, change)
	}
	switch {
	case len(unknown) > 0:
		return p, errs.New(errs.NotFound, "LS-FLT-002", "the document assigns releases that are not in the catalogue: %s; put them under releases, import them with `lockstep releases import`, or correct the names", strings.Join(unknown, ", "))
	case len(busy) > 0:
		return p, errs.New(errs.Conflict, "LS-FLT-003", "rollouts move %s; what they work on stays as it is until they are done: wait, or leave these clusters out of the document", strings.Join(busy, ", "))
	}
	return p, nil
}

// knows says whether the configuration has a set of images already, and nobody has
// told of it otherwise.
func (w *watch) knows(r catalog.Release) bool {
	_, imported := w.catalog.state.Releases[r.ID]
	return !imported && slices.ContainsFunc(w.config.Releases, func(own catalog.Release) bool {
		return own.ID == r.ID && maps.Equal(own.Versions, r.Versions) && maps.Equal(own.Images, r.Images)
	})
}

// planned is the unfinished rollout that has a cluster in hand or still before it,
// empty for none.
func (w *watch) planned(id fleet.ClusterID) rollout.ID {
	for _, r := range w.rollouts {
		run, part := r.state.Find(id)
		over := r.state.Phase.Resting() && r.state.Phase != rollout.PhaseHeld
		if part && (run.Phase.Busy() || run.Phase == rollout.ClusterWaiting && !over) {
			return r.state.ID
		}
	}
	return ""
}

// worded is a set of images for people, line by line.
func worded(sign string, r catalog.Release) []string {
	var out []string
	for _, line := range slices.Sorted(maps.Keys(r.Versions)) {
		text := fmt.Sprintf("%s%s: %s", sign, line, r.Versions[line])
		if image := r.Images[line]; image != "" {
			text += " (" + image + ")"
		}
		out = append(out, text)
	}
	return out
}

// perEvent is how many facts of the declared fleet travel in one event.
const perEvent = 200

func (a fleetAPI) ApplyFleet(ctx context.Context, req *fleetv1.ApplyFleetRequest) (*fleetv1.ApplyFleetResponse, error) {
	w := a.watch
	declaration, err := w.deps.Documents.Declare([]byte(req.GetDocument()))
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if req.GetPrune() && len(declaration.Clusters) == 0 {
		return nil, errs.New(errs.Invalid, "LS-FLT-009", "the document names no cluster, and with prune every applied one would go; name those that stay")
	}
	now := w.deps.Now()
	p, err := w.plan(ctx, declaration, req, now)
	if err != nil {
		return nil, err
	}
	resp := &fleetv1.ApplyFleetResponse{Changes: p.changes, PassedOver: declaration.PassedOver}
	if req.GetDryRun() {
		return resp, nil
	}
	if err := w.decideCatalog(ctx, p.imports); err != nil {
		return nil, err
	}
	for some := range slices.Chunk(p.facts, perEvent) {
		revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounFleet, topology.FleetDeclared), &fleetv1.Event{Facts: some}, w.declared.revision)
		if errors.Is(err, bus.ErrConflict) {
			return nil, errs.New(errs.Conflict, "LS-FLT-004", "the fleet was changed at the same time; apply the document again")
		}
		if err != nil {
			return nil, err
		}
		w.declared.revision = revision
		for _, f := range some {
			if err := w.leave(ctx, f, now); err != nil {
				return nil, err
			}
			if err := w.followDeclared(f); err != nil {
				return nil, err
			}
		}
	}
	if err := w.learnDeclared(ctx, p.facts); err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(p.assigns)) {
		if err := w.assignNow(ctx, w.clusters[id], p.assigns[id], req.GetReason(), now); err != nil {
			return nil, err
		}
	}
	w.log(ctx, "a document was applied", "changes", len(p.facts)+len(p.imports)+len(p.assigns))
	return resp, nil
}

// leave ends the history of a cluster that a fact removes.
func (w *watch) leave(ctx context.Context, f *fleetv1.Fact, now time.Time) error {
	id := fleet.ClusterID(f.GetClusterRemoved().GetId())
	c := w.clusters[id]
	if _, own := w.configured(id); c == nil || own {
		return nil
	}
	return w.forget(ctx, c, now)
}

// learnDeclared takes in what is known of clusters that were declared before: how
// they stood.
func (w *watch) learnDeclared(ctx context.Context, facts []*fleetv1.Fact) error {
	for _, f := range facts {
		if id := f.GetClusterDeclared().GetId(); id != "" && w.clusters[fleet.ClusterID(id)].revision == 0 {
			if err := w.recall(ctx, topology.EventSubject(w.config.Tenant, topology.NounDrift, id)); err != nil {
				return err
			}
		}
	}
	return nil
}

// log says what a caller did.
func (w *watch) log(ctx context.Context, what string, args ...any) {
	w.deps.Log.InfoContext(ctx, what, append([]any{"by", who(ctx)}, args...)...) //nolint:sloglint // every caller's text is a constant
}

// assignNow has a cluster expect a release, none for an empty one, and records it.
func (w *watch) assignNow(ctx context.Context, c *clusterWatch, release fleet.ReleaseID, reason string, now time.Time) error {
	entry, _ := w.catalog.index.Release(release)
	before := c.assigned
	if before != nil && !now.After(before.At) {
		now = before.At.Add(time.Nanosecond) // a clock that was put back
	}
	w.assign(c, &assignment{Release: release, Versions: entry.Release.Versions, At: now, By: who(ctx), Reason: reason})
	err := w.judgeState(ctx, c)
	if err == nil {
		return nil
	}
	// What was refused must not be recorded later.
	c.assigned = before
	if c.recorded != nil && (before == nil || c.recorded.At.After(before.At)) {
		c.assigned = c.recorded
	}
	c.drift.Assigned = w.expected(c)
	if errors.Is(err, bus.ErrConflict) {
		return errs.New(errs.Conflict, "LS-FLT-010", "cluster %s was changed at the same time; repeat what is left", c.drift.ID)
	}
	return err
}

func (a fleetAPI) AssignRelease(ctx context.Context, req *fleetv1.AssignReleaseRequest) (*fleetv1.AssignReleaseResponse, error) {
	w := a.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	clusters, err := w.known(req.GetClusters())
	if err != nil {
		return nil, err
	}
	if _, known := w.catalog.index.Release(fleet.ReleaseID(req.GetRelease())); req.GetRelease() != "" && !known {
		return nil, unknownRelease(req.GetRelease())
	}
	var busy []string
	for _, c := range clusters {
		if c.drift.Move != nil {
			busy = append(busy, fmt.Sprintf("%s (rollout %s)", c.drift.ID, c.drift.Move.Rollout))
		}
	}
	if len(busy) > 0 {
		return nil, errs.New(errs.Conflict, "LS-FLT-005", "rollouts move %s; what a cluster is to run follows from them until they are done", strings.Join(busy, ", "))
	}
	resp, now := &fleetv1.AssignReleaseResponse{}, w.deps.Now()
	for _, c := range clusters {
		before := c.expects()
		resp.Clusters = append(resp.Clusters, &fleetv1.AssignedCluster{Id: string(c.drift.ID), Before: string(before), Release: req.GetRelease()})
		if string(before) == req.GetRelease() {
			continue
		}
		if err := w.assignNow(ctx, c, fleet.ReleaseID(req.GetRelease()), req.GetReason(), now); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

func (a fleetAPI) ExportFleet(context.Context, *fleetv1.ExportFleetRequest) (*fleetv1.ExportFleetResponse, error) {
	clusters, releases, limits := a.watch.declaration()
	document, err := a.watch.deps.Documents.Export(clusters, releases, limits)
	if err != nil {
		return nil, fmt.Errorf("writing the document: %w", err)
	}
	return &fleetv1.ExportFleetResponse{Document: document}, nil
}

// declaration is the fleet as a document would declare it.
func (w *watch) declaration() (clusters []DeclaredCluster, releases []catalog.Release, limits string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(w.clusters)) {
		d := DeclaredCluster{Definition: w.definition(id)}
		d.ID, d.Release = id, w.clusters[id].expects()
		clusters = append(clusters, d)
	}
	for _, e := range w.catalog.entries {
		if e.Release.Chart == "" {
			releases = append(releases, e.Release)
		}
	}
	return clusters, releases, cmp.Or(w.declared.limits, w.config.LimitsDefinition)
}
