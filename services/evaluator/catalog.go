package evaluator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// catalogWatch is what is known of releases, from the log and the configuration.
type catalogWatch struct {
	configured []catalog.Release
	state      catalog.State
	revision   uint64

	// What follows is a view of the above at an instant; stale says that it has to be
	// made anew.
	entries []catalog.Entry
	index   *catalog.Index
	viewed  time.Time
	stale   bool
}

// refresh makes the view anew if something is other, or a block may have ended.
// It reports whether it did.
func (c *catalogWatch) refresh(now time.Time) bool {
	if c.index != nil && !c.stale && !c.ended(now) {
		return false
	}
	c.entries = c.state.Entries(c.configured, now)
	c.index, c.viewed, c.stale = catalog.NewIndex(c.entries), now, false
	return true
}

// ended says whether a block has ended by itself since the view was made.
func (c *catalogWatch) ended(now time.Time) bool {
	for _, b := range c.state.Blocks {
		if b.InForce(c.viewed) != b.InForce(now) {
			return true
		}
	}
	return false
}

// refresh makes the view of the catalogue anew where it is stale, and has every
// cluster expect what it says.
func (w *watch) refresh(now time.Time) {
	if w.catalog.refresh(now) {
		w.reassign()
	}
}

// find returns a release as it is now.
func (c *catalogWatch) find(id string) (*catalogv1.Entry, error) {
	entry, known := c.index.Release(fleet.ReleaseID(id))
	if !known {
		return nil, unknownRelease(id)
	}
	return codec.EntryToProto(entry), nil
}

func unknownRelease(id string) error {
	return errs.New(errs.NotFound, catalog.ProblemUnknownRelease, "release %q is not in the catalogue; `lockstep releases list` shows those that are, `lockstep releases import` takes in more", id)
}

// recallCatalog takes over one event of the catalogue.
func (w *watch) recallCatalog(m bus.Message) error {
	if m.Sequence <= w.catalog.revision {
		return nil
	}
	var event catalogv1.Event
	if err := proto.Unmarshal(m.Data, &event); err != nil {
		return fmt.Errorf("reading %s at %d: %w", m.Subject, m.Sequence, err)
	}
	for _, p := range event.GetFacts() {
		f, err := codec.CatalogFactFromProto(p)
		if err != nil {
			w.deps.Log.Warn("skipping a fact of the catalogue", "sequence", m.Sequence, "error", err)
			continue
		}
		w.catalog.state = w.catalog.state.Apply(f)
	}
	w.catalog.revision, w.catalog.stale = m.Sequence, true
	return nil
}

// portion is how many releases at most travel in one event: what is known of one
// takes a few hundred bytes, and a message may be a megabyte.
const portion = 500

// decideCatalog records facts of the catalogue and looks at every cluster again.
func (w *watch) decideCatalog(ctx context.Context, facts []catalog.Fact) error {
	for _, f := range portions(facts) {
		event := &catalogv1.Event{Facts: []*catalogv1.Fact{codec.CatalogFactToProto(f)}}
		revision, err := w.append(ctx, topology.EventSubject(w.config.Tenant, topology.NounCatalog, topology.CatalogReleases), event, w.catalog.revision)
		if errors.Is(err, bus.ErrConflict) {
			return errs.New(errs.Conflict, "LS-CAT-020", "the catalogue was changed at the same time; look again and repeat")
		}
		if err != nil {
			return err
		}
		w.catalog.state, w.catalog.revision, w.catalog.stale = w.catalog.state.Apply(f), revision, true
	}
	w.refresh(w.deps.Now())
	return nil
}

// portions cuts imports that are too large for one event.
func portions(facts []catalog.Fact) []catalog.Fact {
	var out []catalog.Fact
	for _, f := range facts {
		imported, ok := f.Kind.(catalog.ReleasesImported)
		if !ok {
			out = append(out, f)
			continue
		}
		for some := range slices.Chunk(imported.Releases, portion) {
			out = append(out, catalog.Fact{At: f.At, By: f.By, Kind: catalog.ReleasesImported{Source: imported.Source, Releases: some}})
		}
	}
	return out
}

// refused turns what the rules object to into an error of the API.
func refused(doing string, err error) error {
	var problems catalog.Problems
	if !errors.As(err, &problems) || len(problems) == 0 {
		return err
	}
	kind := errs.Invalid
	switch problems[0].ID {
	case catalog.ProblemUnknownRelease, catalog.ProblemUnknownRisk:
		kind = errs.NotFound
	case catalog.ProblemNotBlocked, catalog.ProblemNotAcknowledged:
		kind = errs.Conflict
	}
	texts := make([]string, 0, len(problems))
	for i, p := range problems {
		if i == tellAtMost {
			texts = append(texts, fmt.Sprintf("and %d more", len(problems)-i))
			break
		}
		where := ""
		if p.Place >= 0 {
			where = fmt.Sprintf("release %d: ", p.Place+1)
		}
		texts = append(texts, where+p.Text)
	}
	return errs.New(kind, problems[0].ID, "%s: %s", doing, strings.Join(texts, "; "))
}

// tellAtMost is how many problems one error tells.
const tellAtMost = 20

// who names the caller for the log.
func who(ctx context.Context) string {
	principal, _ := rpc.PrincipalFrom(ctx)
	return principal.Name
}

// catalogAPI answers what may be run.
type catalogAPI struct{ watch *watch }

func (a catalogAPI) ListReleases(_ context.Context, req *catalogv1.ListReleasesRequest) (*catalogv1.ListReleasesResponse, error) {
	a.watch.mu.Lock()
	a.watch.refresh(a.watch.deps.Now())
	entries := a.watch.catalog.entries
	a.watch.mu.Unlock()
	releases, next, err := codec.Page(req, entries, func(e catalog.Entry) string { return string(e.Release.ID) }, func(e catalog.Entry) bool {
		return (len(req.GetStatuses()) == 0 || slices.Contains(req.GetStatuses(), string(e.Status))) &&
			(req.GetChart() == "" || e.Release.Chart == req.GetChart()) && carriesOne(e.Release.Versions, req.GetVersions())
	})
	if err != nil {
		return nil, err
	}
	resp := &catalogv1.ListReleasesResponse{NextPageToken: next}
	for _, e := range releases {
		resp.Releases = append(resp.Releases, codec.EntryToProto(e))
	}
	return resp, nil
}

// carriesOne says whether a version set has one of the versions asked for, given
// as "3.0.3" or "sra=3.0.3"; asked for none it has.
func carriesOne(set fleet.VersionSet, asked []string) bool {
	for _, version := range asked {
		line, rest, named := strings.Cut(version, "=")
		for l, v := range set {
			if named && string(l) == line && v == rest || !named && v == version {
				return true
			}
		}
	}
	return len(asked) == 0
}

func (a catalogAPI) GetGraph(_ context.Context, req *catalogv1.GetGraphRequest) (*catalogv1.GetGraphResponse, error) {
	a.watch.mu.Lock()
	a.watch.refresh(a.watch.deps.Now())
	entries := a.watch.catalog.entries
	a.watch.mu.Unlock()
	chart := req.GetChart()
	if chart == "" {
		chart = catalog.GatewayChart
	}
	return codec.GraphToProto(catalog.GraphOf(slices.DeleteFunc(slices.Clone(entries), func(e catalog.Entry) bool { return e.Release.Chart != chart }))), nil
}

func (a catalogAPI) ImportReleases(ctx context.Context, req *catalogv1.ImportReleasesRequest) (*catalogv1.ImportReleasesResponse, error) {
	releases := make([]catalog.Release, len(req.GetReleases()))
	source := ""
	for i, m := range req.GetReleases() {
		releases[i] = codec.ReleaseFromProto(m)
		source = m.GetSource()
	}
	w := a.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.deps.Now()
	w.refresh(now)
	facts, report, err := catalog.Import(w.catalog.state, source, releases, who(ctx), now)
	if err != nil {
		return nil, refused("importing releases", err)
	}
	resp := &catalogv1.ImportReleasesResponse{Added: texts(report.Added), Updated: texts(report.Updated), Unchanged: int32(len(report.Unchanged)), Contradictions: report.Changes}
	before := withdrawn(w.catalog.entries)
	state := w.catalog.state
	for _, f := range facts {
		state = state.Apply(f)
	}
	for id := range withdrawn(state.Entries(w.catalog.configured, now)) {
		if !before[id] {
			resp.Withdrawn = append(resp.Withdrawn, string(id))
		}
	}
	slices.Sort(resp.Withdrawn)
	if req.GetDryRun() {
		return resp, nil
	}
	if err := w.decideCatalog(ctx, facts); err != nil {
		return nil, err
	}
	return resp, nil
}

func withdrawn(entries []catalog.Entry) map[fleet.ReleaseID]bool {
	out := make(map[fleet.ReleaseID]bool)
	for _, e := range entries {
		if e.Status == catalog.Withdrawn {
			out[e.Release.ID] = true
		}
	}
	return out
}

func texts[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

// decide takes one decision about the catalogue.
func (a catalogAPI) decide(ctx context.Context, doing string, decide func(s catalog.State, now time.Time) ([]catalog.Fact, error)) error {
	facts, err := decide(a.watch.catalog.state, a.watch.deps.Now())
	if err != nil {
		return refused(doing, err)
	}
	return a.watch.decideCatalog(ctx, facts)
}

func (a catalogAPI) BlockRelease(ctx context.Context, req *catalogv1.BlockReleaseRequest) (*catalogv1.BlockReleaseResponse, error) {
	w := a.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	err := a.decide(ctx, "blocking "+req.GetRelease(), func(s catalog.State, now time.Time) ([]catalog.Fact, error) {
		return catalog.BlockRelease(s, w.catalog.configured, catalog.Block{
			Release: fleet.ReleaseID(req.GetRelease()), Owner: ownerOr(ctx, req.GetOwner()), Reason: req.GetReason(), At: now, Expires: codec.Instant(req.GetExpiresAt()),
		}, who(ctx), now)
	})
	if err != nil {
		return nil, err
	}
	entry, err := w.catalog.find(req.GetRelease())
	if err != nil {
		return nil, err
	}
	return &catalogv1.BlockReleaseResponse{Release: entry}, nil
}

// ownerOr is the owner that a request names, else the caller.
func ownerOr(ctx context.Context, owner string) string {
	if owner == "" {
		return who(ctx)
	}
	return owner
}

func (a catalogAPI) UnblockRelease(ctx context.Context, req *catalogv1.UnblockReleaseRequest) (*catalogv1.UnblockReleaseResponse, error) {
	w := a.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	err := a.decide(ctx, "unblocking "+req.GetRelease(), func(s catalog.State, now time.Time) ([]catalog.Fact, error) {
		return catalog.UnblockRelease(s, fleet.ReleaseID(req.GetRelease()), req.GetReason(), who(ctx), now)
	})
	if err != nil {
		return nil, err
	}
	entry, err := w.catalog.find(req.GetRelease())
	if err != nil {
		return nil, err
	}
	return &catalogv1.UnblockReleaseResponse{Release: entry}, nil
}

func (a catalogAPI) AcknowledgeRisk(ctx context.Context, req *catalogv1.AcknowledgeRiskRequest) (*catalogv1.AcknowledgeRiskResponse, error) {
	w := a.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	acknowledgement := catalog.Acknowledgement{
		Risk: catalog.RiskID(req.GetRisk()), Release: fleet.ReleaseID(req.GetRelease()), Cluster: fleet.ClusterID(req.GetCluster()),
		Owner: ownerOr(ctx, req.GetOwner()), Reason: req.GetReason(), At: w.deps.Now(), Expires: codec.Instant(req.GetExpiresAt()),
	}
	if acknowledgement.Cluster != "" && w.clusters[acknowledgement.Cluster] == nil {
		return nil, unknownClusters([]string{req.GetCluster()})
	}
	err := a.decide(ctx, "acknowledging "+req.GetRisk(), func(s catalog.State, now time.Time) ([]catalog.Fact, error) {
		return catalog.AcknowledgeRisk(s, w.catalog.configured, acknowledgement, who(ctx), now)
	})
	if err != nil {
		return nil, err
	}
	return &catalogv1.AcknowledgeRiskResponse{Acknowledgement: codec.AcknowledgementToProto(acknowledgement)}, nil
}

func (a catalogAPI) RevokeAcknowledgement(ctx context.Context, req *catalogv1.RevokeAcknowledgementRequest) (*catalogv1.RevokeAcknowledgementResponse, error) {
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	err := a.decide(ctx, "revoking the acknowledgement of "+req.GetRisk(), func(s catalog.State, now time.Time) ([]catalog.Fact, error) {
		return catalog.RevokeAcknowledgement(s, catalog.RiskID(req.GetRisk()), fleet.ReleaseID(req.GetRelease()), fleet.ClusterID(req.GetCluster()), req.GetReason(), who(ctx), now)
	})
	if err != nil {
		return nil, err
	}
	return &catalogv1.RevokeAcknowledgementResponse{}, nil
}

func (a catalogAPI) GetAcknowledgements(context.Context, *catalogv1.GetAcknowledgementsRequest) (*catalogv1.GetAcknowledgementsResponse, error) {
	a.watch.mu.Lock()
	defer a.watch.mu.Unlock()
	resp, now := &catalogv1.GetAcknowledgementsResponse{}, a.watch.deps.Now()
	for _, acknowledgement := range a.watch.catalog.state.Acknowledgements {
		if acknowledgement.InForce(now) {
			resp.Acknowledgements = append(resp.Acknowledgements, codec.AcknowledgementToProto(acknowledgement))
		}
	}
	for _, risk := range catalog.Risks() {
		resp.Risks = append(resp.Risks, &catalogv1.NamedRisk{Id: string(risk.ID), Title: risk.Title, Remedy: risk.Remedy})
	}
	return resp, nil
}

func (a catalogAPI) AssessMove(ctx context.Context, req *catalogv1.AssessMoveRequest) (*catalogv1.AssessMoveResponse, error) {
	w := a.watch
	w.mu.Lock()
	c, acknowledgements := w.clusters[fleet.ClusterID(req.GetCluster())], w.catalog.state.Acknowledgements
	entry, known := w.catalog.index.Release(fleet.ReleaseID(req.GetRelease()))
	var cluster drift.Cluster
	if c != nil {
		cluster = c.drift
	}
	w.mu.Unlock()
	if c == nil {
		return nil, unknownClusters([]string{req.GetCluster()})
	}
	if !known {
		return nil, unknownRelease(req.GetRelease())
	}
	move, err := w.moveOf(ctx, cluster, entry)
	if err != nil {
		return nil, err
	}
	resp := &catalogv1.AssessMoveResponse{}
	for _, assessment := range catalog.Assess(move, acknowledgements, w.deps.Now()) {
		resp.Assessments = append(resp.Assessments, codec.AssessmentToProto(assessment))
	}
	return resp, nil
}

// unknownClusters is the error about clusters that nobody declared.
func unknownClusters(ids []string) error {
	return errs.New(errs.NotFound, "LS-FLT-001", "there is no cluster %s; `lockstep clusters -o name` lists all", strings.Join(ids, " or "))
}

// known returns the clusters of some ids in order, or an error that names those
// that are not.
func (w *watch) known(ids []string) ([]*clusterWatch, error) {
	var out []*clusterWatch
	var missing []string
	for _, id := range slices.Sorted(slices.Values(ids)) {
		if c := w.clusters[fleet.ClusterID(id)]; c != nil {
			out = append(out, c)
		} else {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		return nil, unknownClusters(missing)
	}
	if len(ids) == 0 {
		for _, id := range slices.Sorted(maps.Keys(w.clusters)) {
			out = append(out, w.clusters[id])
		}
	}
	return out, nil
}
